//! One run of the broker: its cores and its controller, driven as the runtime
//! drives them. Events in the order they happened, then the turn, then all
//! effects; a core sleeps as its `Wake` says.

use std::collections::VecDeque;
use std::sync::Arc;

use corelane::base::limits::{CONTROL_QUEUE_LEN, MAILBOX_LEN, SYNCS_ALONE_MAX};
use corelane::base::rng::Rng;
use corelane::base::time::{Instant, Now, UnixMillis};
use corelane::config::{Settings, validate_topic_config};
use corelane::controller::decide::Policy;
use corelane::controller::files::LogLimits;
use corelane::controller::{
    Controller, ControllerEffects, ControllerEvent, ControllerOptions, Notice, TICK,
};
use corelane::effect::disk::DiskCompletion;
use corelane::effect::net::{NetEvent, Received};
use corelane::mesh::Mail;
use corelane::metadata::command::Answer;
use corelane::metadata::image::{Image, Node};
use corelane::metadata::link::{ToController, ToShard};
use corelane::model::ids::CoreId;
use corelane::replica::work::Work;
use corelane::shard::Shard;
use corelane::shard::event::{Effects, Event, Wake};

use crate::coverage::Coverage;
use crate::disk::{CONTROLLER, Disk, Owner};
use crate::file::pick;
use crate::model::TIMESTAMP;
use crate::network::{Heard, Network};
use crate::planted::Planted;
use crate::queue::{MS, Queue, US, What};
use crate::trace;

/// The wall clock shows times from here on, milliseconds, when it is set; within
/// the hours that a log remembers its producers for.
const WALL: i64 = TIMESTAMP;
const WALL_SPREAD: u64 = 60_000_000;

/// What a broker works on and through.
pub struct Surroundings<'a> {
    pub queue: &'a mut Queue,
    pub network: &'a mut Network,
    pub disk: &'a mut Disk,
    pub coverage: &'a mut Coverage,
}

struct Core {
    shard: Shard,
    heard: VecDeque<Heard>,
    mail: VecDeque<(usize, Mail)>,
    control: VecDeque<ToShard>,
    /// The turn that counts, and when it is.
    plan: u64,
    planned: u64,
    /// Messages in each other core's mailbox to this one.
    mailboxes: Vec<usize>,
    /// When the last message of each other core, and of the controller, arrives.
    mail_last: Vec<u64>,
    control_last: u64,
    to_controller: usize,
    to_controller_last: u64,
    image: Option<Arc<Image>>,
    stopped: bool,
    /// Turns in a row that had nothing to go on, led to nothing, and want another.
    idle: u32,
}

/// Most such turns: long work goes on in slices that nobody sees.
const IDLE_MAX: u32 = 1_000;

/// One run of the broker.
pub struct Broker {
    pub life: u64,
    cores: Vec<Core>,
    controller: Controller,
    control_events: VecDeque<ControllerEvent>,
    control_plan: u64,
    control_planned: u64,
    /// The controller's notices so far.
    pub notices: Vec<Notice>,
    effects: Effects,
    rng: Rng,
    /// What the wall clock is ahead of the virtual time by, milliseconds.
    wall: i64,
    /// The budget of a core, bytes.
    memory: u64,
    planted: Option<Planted>,
}

impl Broker {
    /// Boots.
    pub fn start(
        life: u64,
        seed: u64,
        settings: &Arc<Settings>,
        clean: bool,
        planted: Option<Planted>,
        around: &mut Surroundings<'_>,
    ) -> Self {
        let cores = usize::from(settings.cores);
        let mut rng = Rng::stream(seed ^ life, "broker");
        let wall = WALL + rng.between(0, WALL_SPREAD) as i64;
        let options = ControllerOptions {
            node: Node {
                id: settings.node_id,
                host: "localhost".into(),
                port: 9092,
                cores: settings.cores,
            },
            cluster_id: "simulated".into(),
            directory_id: [7; 16],
            policy: Policy {
                num_partitions: settings.num_partitions,
                default_replication_factor: 1,
                validate_config: validate_topic_config,
                topics: corelane::config::TopicConfig::default(),
                consumer: settings.groups.consumer.clone(),
            },
            log: LogLimits { snapshot_at: 16 << 10, reserve: 64 << 10 },
            seed: rng.next_u64(),
        };
        let alone = *pick(&mut rng, &[0, 1, 2, SYNCS_ALONE_MAX]);
        let rests = Rng::stream(seed ^ life, "journals").chance(2, 3);
        let shard = |at: usize| {
            let mut shard = Shard::new(CoreId(at as u16), settings.clone(), clean);
            // So few that files are closed and opened again all the time, unless logs are
            // to rest in journals.
            shard.limit_open_files(if rests { 32 } else { 1 + at });
            shard.limit_syncs_alone(alone);
            shard
        };
        let core = |at: usize| Core {
            shard: shard(at),
            heard: VecDeque::new(),
            mail: VecDeque::new(),
            control: VecDeque::new(),
            plan: 0,
            planned: u64::MAX,
            mailboxes: vec![0; cores],
            mail_last: vec![0; cores],
            control_last: 0,
            to_controller: 0,
            to_controller_last: 0,
            image: None,
            stopped: false,
            idle: 0,
        };
        let mut broker = Self {
            life,
            cores: (0..cores).map(core).collect(),
            controller: Controller::new(options),
            control_events: VecDeque::from([ControllerEvent::Boot]),
            control_plan: 0,
            control_planned: u64::MAX,
            notices: vec![],
            effects: Effects::default(),
            rng,
            wall,
            memory: settings.memory / u64::from(settings.cores),
            planted,
        };
        around.network.start(cores);
        broker.plan_control(around.queue, 0);
        for core in 0..cores {
            broker.plan_turn(around.queue, core, 0);
        }
        broker
    }

    fn now(&self, queue: &Queue) -> Now {
        let unix = UnixMillis(self.wall + (queue.now() / MS) as i64);
        Now { instant: Instant::from_nanos(queue.now() + 1), unix }
    }

    /// How it ended, once all cores and the controller have stopped.
    pub fn stopped(&self) -> Option<bool> {
        self.notices.iter().find_map(|notice| match notice {
            Notice::Stopped { clean } => Some(*clean),
            _ => None,
        })
    }

    /// Asks it to stop.
    pub fn stop(&mut self, queue: &mut Queue) {
        self.control_events.push_back(ControllerEvent::Stop);
        self.plan_control(queue, 10 * US);
    }

    /// After a clean stop nothing is left in memory.
    pub fn check_empty(&mut self) {
        for core in &mut self.cores {
            let counters = core.shard.counters();
            let (open, waiting) = (counters.connections, counters.requests_in_flight);
            assert_eq!((open, waiting), (0, 0), "connections and requests after a stop");
            assert_eq!(counters.receive_bytes, 0, "memory for frames after a stop");
            assert_eq!(counters.log_bytes, 0, "memory for logs after a stop");
            assert!(counters.answer_bytes <= 256 << 10, "memory for answers: {counters:?}");
        }
    }

    /// A disk operation ended.
    pub fn disk_done(&mut self, queue: &mut Queue, owner: Owner, completion: DiskCompletion) {
        if owner == CONTROLLER {
            self.control_events.push_back(ControllerEvent::Disk(completion));
            self.plan_control(queue, 20 * US);
        } else {
            self.hear(queue, usize::from(owner), Heard::Disk(completion));
        }
    }

    /// Something happened to a core's sockets or files.
    pub fn hear(&mut self, queue: &mut Queue, core: usize, heard: Heard) {
        self.cores[core].heard.push_back(heard);
        self.plan_turn(queue, core, 20 * US);
    }

    /// A message between cores arrived.
    pub fn mail(&mut self, queue: &mut Queue, from: usize, to: usize, mail: Mail) {
        self.cores[to].mail.push_back((from, mail));
        self.plan_turn(queue, to, 20 * US);
    }

    /// A message of the controller arrived.
    pub fn tell_shard(&mut self, queue: &mut Queue, core: usize, message: ToShard) {
        self.cores[core].control.push_back(message);
        self.plan_turn(queue, core, 20 * US);
    }

    /// A message to the controller arrived.
    pub fn tell_controller(&mut self, queue: &mut Queue, message: ToController) {
        let (ToController::Command { core, .. }
        | ToController::Applied { core, .. }
        | ToController::Stopped { core, .. }) = &message;
        self.cores[usize::from(core.0)].to_controller -= 1;
        self.control_events.push_back(ControllerEvent::Message(message));
        self.plan_control(queue, 20 * US);
    }

    /// Plans a turn within `most`, if none is planned before.
    fn plan_turn(&mut self, queue: &mut Queue, core: usize, most: u64) {
        // Now and then a core is held up: others get far ahead.
        let held_up = if self.rng.chance(1, 400) { self.rng.between(0, 30 * MS) } else { 0 };
        let at = queue.now() + self.rng.between(0, most) + held_up;
        self.plan_turn_at(queue, core, at);
    }

    fn plan_turn_at(&mut self, queue: &mut Queue, core: usize, at: u64) {
        let life = self.life;
        let row = &mut self.cores[core];
        if at < row.planned && !row.stopped {
            row.plan += 1;
            row.planned = at;
            queue.at(at, What::Turn { life, core, plan: row.plan });
        }
    }

    fn plan_control(&mut self, queue: &mut Queue, most: u64) {
        let at = queue.now() + self.rng.between(0, most);
        if at < self.control_planned {
            self.control_plan += 1;
            self.control_planned = at;
            queue.at(at, What::Control { life: self.life, plan: self.control_plan });
        }
    }

    /// A core's turn.
    pub fn turn(&mut self, around: &mut Surroundings<'_>, core: usize, plan: u64) {
        if self.cores[core].plan != plan {
            return;
        }
        let now = self.now(around.queue);
        let mut effects = std::mem::take(&mut self.effects);
        // People and time servers set clocks, forwards and backwards.
        if self.rng.chance(1, 2_000) {
            around.coverage.one("clock jumps");
            self.wall = WALL + self.rng.between(0, WALL_SPREAD) as i64;
        }
        let row = &mut self.cores[core];
        row.planned = u64::MAX;
        let events = row.heard.len() + row.mail.len() + row.control.len() + 1;
        around.coverage.shard_events += events as u64;
        let counts = [core as u64, row.heard.len() as u64, row.mail.len() as u64];
        trace::event("turn", &counts, || format!("{:?}", summary(&row.heard)));
        for heard in row.heard.drain(..) {
            match heard {
                Heard::Lent(connection, bytes) => {
                    let received = Received::Lent(&bytes);
                    let event = Event::Net(NetEvent::Received { connection, received });
                    row.shard.step(now, event, &mut effects);
                }
                heard => row.shard.step(now, event_of(heard), &mut effects),
            }
        }
        for (from, mail) in row.mail.drain(..) {
            row.mailboxes[from] -= 1;
            let from = CoreId(from as u16);
            row.shard.step(now, Event::Mail { from, mail }, &mut effects);
        }
        let mut accepts = false;
        for message in row.control.drain(..) {
            if let ToShard::Publish { image, .. } = &message {
                accepts = row.image.is_none();
                row.image = Some(image.clone());
            }
            row.shard.step(now, Event::Control(message), &mut effects);
        }
        row.shard.step(now, Event::Turn, &mut effects);
        let counters = row.shard.counters();
        let effects_empty = effects.disk.is_empty()
            && effects.net.is_empty()
            && effects.mail.is_empty()
            && effects.control.is_empty();
        let spins = row.shard.wake() == Wake::Now && events == 1 && effects_empty;
        row.idle = if spins { row.idle + 1 } else { 0 };
        assert!(row.idle < IDLE_MAX, "core {core} turns in circles");
        let held = counters.receive_bytes + counters.log_bytes + counters.answer_bytes;
        assert!(held as u64 <= self.memory, "{held} of {} bytes are held", self.memory);
        if accepts {
            around.network.accept(core);
        }
        self.perform(around, core, &mut effects);
        self.effects = effects;
        let wake = self.cores[core].shard.wake();
        match wake {
            Wake::Now => self.plan_turn(around.queue, core, 5 * US),
            Wake::At(at) => {
                let late = self.rng.between(0, 60 * US);
                let at = at.as_nanos().max(around.queue.now()).saturating_add(late);
                self.plan_turn_at(around.queue, core, at);
            }
            Wake::OnEvent => {}
            Wake::Stopped => {
                self.cores[core].stopped = true;
                let busy = around.disk.busy(core as Owner);
                assert!(busy.is_none(), "a stopped core has in flight: {busy:?}");
            }
        }
    }

    fn perform(&mut self, around: &mut Surroundings<'_>, core: usize, effects: &mut Effects) {
        for op in effects.disk.drain(..) {
            submit(around, core as Owner, op);
        }
        for op in effects.net.drain(..) {
            trace::event("net", &[core as u64], || format!("{op:?}"));
            around.network.perform(around.queue, core, op);
        }
        for (to, mail) in effects.mail.drain(..) {
            let to = usize::from(to.0);
            if self.planted == Some(Planted::LostMail) && self.rng.chance(1, 100) {
                continue;
            }
            if self.planted == Some(Planted::ForgottenFetch)
                && let Mail::Answer { work: Work::Fetch(_), .. } = &mail
                && self.rng.chance(1, 2_000)
            {
                continue;
            }
            let most = if self.rng.chance(1, 50) { 5 * MS } else { 50 * US };
            let delay = self.rng.between(0, most);
            let row = &mut self.cores[to];
            row.mailboxes[core] += 1;
            assert!(row.mailboxes[core] <= MAILBOX_LEN, "a mailbox overflows");
            let at = row.mail_last[core].max(around.queue.now() + delay);
            row.mail_last[core] = at;
            around.coverage.one("mail between cores");
            around.queue.at(at, What::Mail { life: self.life, from: core, to, mail });
        }
        for message in effects.control.drain(..) {
            trace::event("to ctl", &[core as u64], || format!("{message:?}"));
            let delay = self.rng.between(0, 200 * US);
            let row = &mut self.cores[core];
            row.to_controller += 1;
            assert!(
                row.to_controller <= CONTROL_QUEUE_LEN,
                "the queue to the controller overflows"
            );
            let at = row.to_controller_last.max(around.queue.now() + delay);
            row.to_controller_last = at;
            around.queue.at(at, What::ToController { life: self.life, message });
        }
    }

    /// The controller's events, one step each.
    pub fn control(&mut self, around: &mut Surroundings<'_>, plan: u64) {
        if self.control_plan != plan {
            return;
        }
        self.control_planned = u64::MAX;
        let now = self.now(around.queue);
        let mut effects = ControllerEffects::default();
        let mut events = std::mem::take(&mut self.control_events);
        if events.is_empty() && self.controller.wants_ticks() {
            events.push_back(ControllerEvent::Tick);
        }
        for event in events {
            trace::event("control", &[], || format!("{event:?}"));
            self.controller.step(now, event, &mut effects);
            for op in effects.disk.drain(..) {
                submit(around, CONTROLLER, op);
            }
            for (core, message) in std::mem::take(&mut effects.shards) {
                self.send_to_shard(around, usize::from(core.0), message);
            }
            self.notices.append(&mut effects.notices);
        }
        if self.controller.wants_ticks() {
            let tick = TICK.as_nanos() as u64;
            self.control_planned = around.queue.now() + tick;
            self.control_plan += 1;
            let what = What::Control { life: self.life, plan: self.control_plan };
            around.queue.after(tick, what);
        }
    }

    fn send_to_shard(&mut self, around: &mut Surroundings<'_>, core: usize, message: ToShard) {
        if let ToShard::Answer { answer, .. } = &message {
            self.check_answer(answer);
        }
        let lost = self.planted == Some(Planted::LostPublication)
            && matches!(message, ToShard::Publish { .. })
            && self.cores[core].image.is_some()
            && self.rng.chance(1, 10);
        if lost {
            // It is told, and hears nothing of what is new.
            let ToShard::Publish { image, .. } = message else { return };
            let message = ToShard::Publish { image, delta: Arc::default() };
            return self.deliver_to_shard(around, core, message);
        }
        self.deliver_to_shard(around, core, message);
    }

    fn deliver_to_shard(&mut self, around: &mut Surroundings<'_>, core: usize, message: ToShard) {
        let most = if self.rng.chance(1, 20) { 5 * MS } else { 100 * US };
        let delay = self.rng.between(0, most);
        let row = &mut self.cores[core];
        let at = row.control_last.max(around.queue.now() + delay);
        row.control_last = at;
        around.queue.at(at, What::ToShard { life: self.life, core, message });
    }

    /// A client is told of a new topic when every core has it.
    fn check_answer(&self, answer: &Answer) {
        let Answer::CreateTopics(outcomes) = answer else { return };
        for created in outcomes.iter().flat_map(|outcome| &outcome.result) {
            let knows = |core: &Core| {
                core.stopped
                    || core
                        .image
                        .as_ref()
                        .is_some_and(|image| image.topic_by_id(created.id).is_some())
            };
            // Deleted since, perhaps: then no core has it.
            let known = self.cores.iter().filter(|core| knows(core)).count();
            let gone = self.controller.image().topic_by_id(created.id).is_none();
            assert!(gone || known == self.cores.len(), "a created topic is not known everywhere");
        }
    }
}

fn submit(around: &mut Surroundings<'_>, owner: Owner, op: corelane::effect::disk::DiskOp) {
    let text = trace_text(&op);
    let (id, effect, done) = around.disk.submit(owner, op);
    trace::event("disk", &[u64::from(owner), id, done], || text);
    around.queue.after(effect, What::DiskEffect(id));
    around.queue.after(done, What::DiskDone(id));
}

fn trace_text(op: &corelane::effect::disk::DiskOp) -> String {
    if trace::is_readable() { format!("{op:?}") } else { String::new() }
}

fn summary(heard: &VecDeque<Heard>) -> Vec<String> {
    let short = |heard: &Heard| match heard {
        Heard::Disk(completion) => match &completion.result {
            Ok(_) => format!("disk {:x} ok", completion.tag.0),
            Err(error) => format!("disk {:x} {error:?}", completion.tag.0),
        },
        Heard::Lent(id, bytes) => format!("{} lent {}", id.0, bytes.len()),
        other => format!("{other:?}"),
    };
    heard.iter().map(short).collect()
}

/// What a core is told, but for bytes that are only lent.
fn event_of(heard: Heard) -> Event<'static> {
    let received = |connection, received| NetEvent::Received { connection, received };
    Event::Net(match heard {
        Heard::Lent(..) => unreachable!("lent bytes live for one event"),
        Heard::Disk(completion) => return Event::Disk(completion),
        Heard::Accepted(connection) => {
            NetEvent::Accepted { connection, peer: ([127, 0, 0, 1], 40_000).into() }
        }
        Heard::Page(connection, page) => received(connection, Received::Page(page)),
        Heard::End(connection) => received(connection, Received::End),
        Heard::Failed(connection, errno) => received(connection, Received::Failed(errno)),
        Heard::Sent(connection, bytes, result) => NetEvent::Sent { connection, bytes, result },
        Heard::Closed(connection) => NetEvent::Closed { connection },
    })
}
