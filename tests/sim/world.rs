//! One seed: a broker, its disk, its clients, and what happens to them.
//!
//! A run has phases. First *trouble*: several lives of the broker, each ended
//! by a loss of power, the death of the process or a stop, while disk, network
//! and clients misbehave as far as the seed says. Then all faults end, and the
//! run demands *progress*: every producer is acknowledged everywhere, every
//! consumer gets to the end. Then *order*: an audit, a clean stop that leaves
//! nothing in memory, a start that does not scan, another audit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use corelane::base::rng::Rng;
use corelane::config::{Machine, Settings};
use corelane::controller::Notice;

use crate::admin::Admin;
use crate::auditor::Auditor;
use crate::broker::{Broker, Surroundings};
use crate::client::{Client, Role, Shared};
use crate::consumer::Consumer;
use crate::coverage::Coverage;
use crate::disk::flips::{Damaged, Flip};
use crate::disk::{Disk, Faults};
use crate::file::pick;
use crate::groups::GroupNumber;
use crate::idempotent::Idempotent;
use crate::keyed::Keyed;
use crate::member::Member;
use crate::model::{Model, Tp};
use crate::network::{Network, Out};
use crate::planted::Planted;
use crate::producer::Producer;
use crate::queue::{MS, Queue, SEC, US, What};
use crate::trace;

mod flip;

/// Far more events than any seed needs.
const EVENTS_MAX: u64 = 1_000_000;

/// One seed's world.
pub struct World {
    seed: u64,
    rng: Rng,
    settings: Settings,
    disk: Disk,
    shared: Shared,
    clients: Vec<Client>,
    broker: Option<Broker>,
    /// The last run of the broker closed everything.
    clean: bool,
    /// Faults of the disk before this run of the broker.
    faults_before: u64,
    planted: Option<Planted>,
    scale: Scale,
    /// Bits are flipped on the disk between runs of the broker, drawn from here.
    flips: Option<Rng>,
    /// Directories where one was.
    flipped: Vec<String>,
    /// Those in batches that may still be there.
    flips_left: Vec<Flip>,
    /// Damage that the broker has told of.
    told: Vec<String>,
    /// The metadata that the broker starts on now are damaged here.
    damaged: Option<Damaged>,
}

/// How much of a world there is: most are short, so that many fit into an hour, and
/// a few are as long as it takes until what happens seldom happens.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Most runs of the broker before the faults end.
    lives: u64,
    /// Most virtual time that one of them lasts, one of these.
    times: &'static [u64],
    /// Most topics of a kind, and most clients of a kind.
    topics: u64,
    clients: u64,
}

impl Scale {
    fn draw(rng: &mut Rng) -> Self {
        match rng.below(20) {
            0..14 => Self { lives: 3, times: &[15 * MS, 30 * MS, 80 * MS], topics: 1, clients: 2 },
            14..19 => {
                Self { lives: 5, times: &[20 * MS, 60 * MS, 250 * MS], topics: 2, clients: 3 }
            }
            _ => Self {
                lives: 7,
                times: &[40 * MS, 300 * MS, 1_000 * MS, 2_000 * MS],
                topics: 3,
                clients: 4,
            },
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Power,
    Kill,
    Stop,
    /// A stop that the loss of power ends after so long.
    CrashInStop(u64),
}

/// The smallest segments of a run, far below what a user may set.
pub const SEGMENT_MIN: usize = 16 << 10;

/// Most partitions of `__consumer_offsets`.
const OFFSETS_PARTITIONS: i32 = 5;

/// Draws how old records are deleted and compacted: the latter is for
/// `__consumer_offsets`. True if records are deleted for their size.
fn draw_cleaning(seed: u64, settings: &mut Settings) -> bool {
    let mut rng = Rng::stream(seed, "cleaning");
    settings.retention_check = Duration::from_millis(rng.between(20, 1_000));
    settings.cleaner_backoff = Duration::from_millis(*pick(&mut rng, &[2, 15, 100, 500]));
    let topics = &mut settings.topics;
    topics.max_compaction_lag_ms = *pick(&mut rng, &[20, 200, i64::MAX as u64]);
    topics.min_cleanable_dirty_ppm = *pick(&mut rng, &[0, 100_000, 500_000]);
    topics.delete_retention_ms = *pick(&mut rng, &[0, 100, 86_400_000]);
    if rng.chance(1, 4) {
        topics.retention_bytes = Some(*pick(&mut rng, &[0, 40_000, 400_000]));
    }
    let small = topics.retention_bytes.is_some();
    // A block at a time, so that segments take several reads, or all at once.
    settings.cleaner_buffer = *pick(&mut rng, &[4 << 10, 512 << 10]);
    settings.cleaner_rate = *pick(&mut rng, &[None, None, Some(1 << 20)]);
    small
}

/// Rows that count the shard events of the phases.
const PHASES: [&str; 3] =
    ["shard events: trouble", "shard events: progress", "shard events: order"];

/// Runs one seed; panics when a check fails.
pub fn run(seed: u64, planted: Option<Planted>) -> Coverage {
    let mut world = World::new(seed, planted);
    world.trouble();
    world.count_events(PHASES[0]);
    world.progress();
    world.count_events(PHASES[1]);
    world.order();
    world.count_events(PHASES[2]);
    world.into_coverage()
}

impl World {
    fn new(seed: u64, planted: Option<Planted>) -> Self {
        let mut rng = Rng::stream(seed, "world");
        let scale = Scale::draw(&mut rng);
        let machine = Machine { cores: 4, memory_bytes: 1 << 30, hostname: "localhost".into() };
        let mut settings = Settings::resolve(&[], &machine).expect("the defaults are good").0;
        settings.cores = rng.between(1, 4) as u16;
        settings.num_partitions = rng.between(1, 3) as i32;
        settings.topics.segment_bytes =
            *pick(&mut rng, &[SEGMENT_MIN as u64, 64 << 10, 200 << 10, 1 << 20, 2 << 20]);
        settings.topics.flush_messages = *pick(&mut rng, &[1, 1, 1, 1, 20]);
        settings.topics.flush_ms = (settings.topics.flush_messages > 1).then_some(300);
        if rng.chance(1, 6) {
            settings.connections_max_idle = Some(Duration::from_millis(rng.between(100, 2_000)));
        }
        settings.memory =
            u64::from(settings.cores) * *pick(&mut rng, &[8 << 20, 16 << 20, 64 << 20]);
        settings.fetch_session_slots = *pick(&mut rng, &[0, 2, 1_000]);
        let mut journals = Rng::stream(seed, "journals");
        settings.journal_bytes = *pick(&mut journals, &[0, 16 << 10, 64 << 10, 1 << 20]);
        settings.groups.min_session_timeout_ms = 1;
        settings.groups.initial_rebalance_delay_ms = *pick(&mut rng, &[0, 10, 300]);
        // Nothing of what is committed is so old that it goes.
        settings.groups.expiry_check = Duration::from_secs(86_400);
        settings.groups.topic_partitions = *pick(&mut rng, &[1, 3, OFFSETS_PARTITIONS]);
        settings.groups.topic_segment_bytes = 1 << 20;
        let mut mixed = BTreeSet::new();
        // A stream of its own.
        let mut protocols = Rng::stream(seed, "protocols");
        settings.groups.consumer.heartbeat_interval_ms = 5;
        settings.groups.consumer.session_timeout_ms = *pick(&mut protocols, &[40, 300, 3_000]);
        // Other planted bugs show sooner where nothing else goes on.
        let cleans = matches!(
            planted,
            None | Some(Planted::ChangedByCompaction | Planted::LostByCompaction)
        );
        let retention = cleans && draw_cleaning(seed, &mut settings);
        let mut disk = Disk::new(seed, planted);
        if rng.chance(2, 3) {
            disk.faults.slow = *pick(&mut rng, &[0, 1_000, 100]);
        }
        if rng.chance(1, 2) {
            disk.faults = Faults {
                failed_sync: *pick(&mut rng, &[0, 0, 50]),
                failed_write: *pick(&mut rng, &[0, 0, 100]),
                failed_read: *pick(&mut rng, &[0, 0, 100]),
                no_space: *pick(&mut rng, &[0, 2, 4]),
                failed_name: *pick(&mut rng, &[0, 0, 0, 100]),
                ..disk.faults
            };
        }
        disk.faults.stale = match planted {
            Some(Planted::StaleBatch) => 1,
            None => *pick(&mut rng, &[0, 0, 2]),
            Some(_) => 0,
        };
        let default_flush = settings.topics.flush_messages;
        let mut admin = Admin::draw(&mut rng, scale.topics, settings.num_partitions, default_flush);
        admin.syncs_late = planted == Some(Planted::LateSync);
        let keyed = cleans && rng.chance(1, 3);
        if keyed {
            admin.with_keyed(&mut rng);
        }
        let mut roles = vec![Role::Auditor(Auditor::default()), Role::Admin(admin)];
        if keyed {
            roles.push(Role::Keyed(Keyed::draw(&mut rng)));
        }
        let flips = match planted {
            Some(Planted::ServedDamage) => true,
            None => rng.chance(1, 3),
            Some(_) => false,
        };
        // What hides behind an end is where a batch is expected only if sizes agree.
        let exact = planted == Some(Planted::TruncateLies) || rng.chance(1, 3);
        for _ in 0..rng.between(1, scale.clients) {
            roles.push(Role::Producer(Producer::draw(&mut rng, exact)));
        }
        for _ in 0..rng.between(0, scale.clients / 2) {
            roles.push(Role::Idempotent(Idempotent::draw(&mut rng)));
        }
        for _ in 0..rng.between(1, scale.clients.min(3)) {
            roles.push(Role::Consumer(Consumer::draw(&mut rng)));
        }
        if planted != Some(Planted::TruncateLies) && rng.chance(2, 3) {
            for at in 0..rng.between(1, scale.clients) {
                let mut member = Member::draw(&mut rng, at as usize);
                member.draw_protocol(&mut protocols, planted);
                mixed.extend(member.shares().filter(|_| member.is_consumer()).map(|row| row.0));
                roles.push(Role::Member(member));
            }
        }
        let client = |(id, role)| Client::new(id, seed, role);
        let clients = (0..).zip(roles).map(client).collect();
        let mut model = Model::default();
        model.groups.weak = settings.topics.flush_messages > 1;
        model.groups.mixed = mixed;
        model.groups.partitions = settings.groups.topic_partitions;
        model.groups.session_ms = settings.groups.consumer.session_timeout_ms as u64;
        model.retention = retention;
        let shared = Shared {
            queue: Queue::default(),
            network: Network::new(seed, planted),
            model,
            coverage: Coverage::default(),
            quiet: false,
            calm: false,
        };
        let mut world = Self {
            seed,
            rng,
            settings,
            disk,
            shared,
            clients,
            broker: None,
            clean: false,
            faults_before: 0,
            planted,
            scale,
            flips: flips.then(|| Rng::stream(seed, "flips")),
            flipped: vec![],
            flips_left: vec![],
            told: vec![],
            damaged: None,
        };
        for client in 0..world.clients.len() {
            world.shared.queue.after(MS, What::Client { client, plan: 0 });
        }
        world
    }

    fn trouble(&mut self) {
        for _ in 0..self.rng.between(1, self.scale.lives) {
            if self.rng.chance(1, 5) {
                // The same logs on another number of cores.
                let memory = self.settings.memory / u64::from(self.settings.cores);
                self.settings.cores = self.rng.between(1, 4) as u16;
                self.settings.memory = memory * u64::from(self.settings.cores);
            }
            self.start();
            if self.rng.chance(1, 2) {
                self.audit_begin();
            }
            let most = *pick(&mut self.rng, self.scale.times);
            // A run that ends at once is worth more when there is something to find.
            let least = if self.shared.model.life == 0 { most / 2 } else { 50 * US };
            let time = self.rng.between(least, most);
            self.run_for(time);
            let ending = match self.rng.below(10) {
                0..5 => Ending::Power,
                5..7 => Ending::Kill,
                7..9 => Ending::Stop,
                _ => Ending::CrashInStop(self.rng.between(0, 20 * MS)),
            };
            self.end(ending);
            self.flip();
            self.foresee_cuts();
            let pause = self.rng.between(0, 20 * MS);
            self.run_for(pause);
        }
    }

    /// Adds the events since the last call to a row of their own.
    fn count_events(&mut self, row: &'static str) {
        let coverage = &mut self.shared.coverage;
        let before: u64 = PHASES.iter().map(|row| coverage.get(row)).sum();
        coverage.add(row, coverage.shard_events - before);
    }

    fn progress(&mut self) {
        self.disk.faults = Faults::default();
        self.shared.calm = true;
        // Whoever has to get on must not lose its place for a slow moment.
        self.settings.groups.consumer.session_timeout_ms = 6_000;
        self.shared.model.groups.session_ms = 6_000;
        self.start();
        self.must("the administrator's topics are there", 60 * SEC, |world| {
            let mut admins = world.clients.iter().filter_map(|client| match &client.role {
                Role::Admin(admin) => Some(admin),
                _ => None,
            });
            admins.all(Admin::is_settled)
        });
        for client in &mut self.clients {
            match &mut client.role {
                Role::Producer(producer) => producer.acked.clear(),
                Role::Idempotent(producer) => producer.acked.clear(),
                Role::Keyed(keyed) => keyed.acked = false,
                _ => {}
            }
        }
        self.must("every producer is acknowledged everywhere", 120 * SEC, |world| {
            world.clients.iter().all(|client| match &client.role {
                Role::Producer(producer) if producer.is_answered() => producer
                    .targets(&world.shared)
                    .iter()
                    .all(|tp| producer.acked.get(tp).is_some_and(|acked| *acked > 0)),
                Role::Idempotent(producer) => producer
                    .targets(&world.shared)
                    .iter()
                    .all(|tp| producer.acked.get(tp).is_some_and(|acked| *acked > 0)),
                Role::Keyed(keyed) => keyed.acked,
                _ => true,
            })
        });
        for client in &mut self.clients {
            if let Role::Member(member) = &mut client.role {
                member.settled = false;
            }
        }
        self.must("every member of a group has its share", 120 * SEC, |world| {
            world.clients.iter().all(|client| match &client.role {
                Role::Member(member) => member.settled || world.is_group_lost(member.group()),
                _ => true,
            })
        });
        self.must("every partition has one owner in each group", 120 * SEC, |world| {
            // Leaders of the classic protocol do not look for new partitions here.
            let mut groups: BTreeMap<GroupNumber, (bool, Vec<Tp>)> = BTreeMap::new();
            for client in &world.clients {
                if let Role::Member(member) = &client.role
                    && let Some((group, owned)) = member.shares()
                    && !world.is_group_lost(group)
                {
                    let row = groups.entry(group).or_default();
                    row.0 |= member.is_consumer();
                    row.1.extend(owned);
                }
            }
            let mut all = Member::partitions(&world.shared);
            all.sort_unstable();
            groups.into_values().filter(|(is_whole, _)| *is_whole).all(|(_, mut owned)| {
                owned.sort_unstable();
                owned == all
            })
        });
        self.shared.quiet = true;
        self.must("every request is answered", 60 * SEC, |world| {
            let producers = world
                .clients
                .iter()
                .filter(|client| matches!(client.role, Role::Producer(_) | Role::Idempotent(_)));
            producers.map(Client::waiting).sum::<usize>() == 0
        });
        self.must("every consumer gets to the end", 600 * SEC, |world| {
            world.clients.iter().all(|client| match &client.role {
                Role::Consumer(consumer) => consumer.behind(&world.shared).is_empty(),
                _ => true,
            })
        });
    }

    fn order(&mut self) {
        self.audit();
        let whole = self.flipped.is_empty();
        assert!(self.stop() || !whole, "a stop without faults is clean");
        self.broker.as_mut().expect("it stopped").check_empty();
        self.broker = None;
        self.foresee_cuts();
        self.disk.counters.scanned = 0;
        self.start();
        self.audit();
        let partitions = self.shared.model.living().len() as u64 + OFFSETS_PARTITIONS as u64;
        let scanned = self.disk.counters.scanned;
        let little = scanned <= partitions * (400 << 10);
        assert!(little || !whole, "a clean start scanned {scanned} bytes");
        assert!(self.stop() || !whole, "a stop without faults is clean");
        self.broker.as_mut().expect("it stopped").check_empty();
        for tp in &self.shared.model.offline {
            self.shared.coverage.one("flipped bits: logs offline and named");
            let dir = self.shared.model.dir_of(*tp);
            let named = self.told.iter().any(|error| error.contains(&dir));
            assert!(named, "{dir} is offline, and nobody was told");
        }
        let mut lost = self.clients.iter().filter_map(|client| match &client.role {
            Role::Member(member) => Some(member.group()),
            _ => None,
        });
        if lost.any(|group| self.is_group_lost(group)) {
            self.shared.coverage.one("flipped bits: groups offline and named");
        }
    }

    fn start(&mut self) {
        let clean = std::mem::take(&mut self.clean);
        self.faults_before = self.disk.counters.faults;
        let (life, cores) = (self.shared.model.life, self.settings.cores);
        trace::event("start", &[life, cores.into(), clean.into()], String::new);
        if clean {
            self.shared.coverage.one("clean starts");
        }
        if cores > 1 {
            self.shared.coverage.one("runs with several cores");
        }
        let settings = Arc::new(self.settings.clone());
        let Shared { queue, network, coverage, .. } = &mut self.shared;
        let mut around = Surroundings { queue, network, coverage, disk: &mut self.disk };
        let (seed, planted) = (self.seed, self.planted);
        self.broker = Some(Broker::start(life, seed, &settings, clean, planted, &mut around));
    }

    fn end(&mut self, ending: Ending) {
        trace::event("end", &[], || format!("{ending:?}"));
        match ending {
            Ending::Power | Ending::Kill => self.crash(matches!(ending, Ending::Power)),
            Ending::Stop => {
                self.stop();
                self.broker = None;
            }
            Ending::CrashInStop(after) => {
                self.shared.coverage.one("crashes: during a stop");
                self.ask_to_stop();
                self.run_for(after);
                self.crash(true);
            }
        }
    }

    fn crash(&mut self, power: bool) {
        self.shared.model.end_life();
        self.shared.coverage.one(if power {
            "crashes: loss of power"
        } else {
            "crashes: death of the process"
        });
        self.broker = None;
        self.disk.crash(power);
        self.shared.network.crash(&mut self.shared.queue);
        if power {
            self.shared.model.lose_power();
        }
    }

    fn ask_to_stop(&mut self) {
        let broker = self.broker.as_mut().expect("it runs");
        broker.stop(&mut self.shared.queue);
    }

    /// Stops the broker and says whether it reports a clean stop.
    fn stop(&mut self) -> bool {
        self.ask_to_stop();
        self.must("the broker stops", 40 * SEC, |world| {
            world.broker.as_ref().is_some_and(|broker| broker.stopped().is_some())
        });
        let clean = self.broker.as_ref().and_then(Broker::stopped) == Some(true);
        self.shared.coverage.one("stops");
        if clean {
            self.shared.coverage.one("clean stops");
        }
        // Node marks the directory.
        self.shared.model.end_life();
        self.clean = clean;
        self.disk.crash(false);
        self.shared.network.crash(&mut self.shared.queue);
        clean
    }

    fn audit_begin(&mut self) {
        let Self { clients, shared, .. } = self;
        for client in clients {
            match &mut client.role {
                Role::Auditor(auditor) => auditor.begin(shared),
                Role::Keyed(keyed) => keyed.begin_audit(shared),
                Role::Member(member) => member.verified = false,
                _ => {}
            }
        }
    }

    fn audit(&mut self) {
        self.audit_begin();
        self.must("the audit ends", 120 * SEC, |world| {
            world.clients.iter().all(|client| match &client.role {
                Role::Auditor(auditor) => auditor.is_done(),
                Role::Keyed(keyed) => keyed.verified,
                Role::Member(member) => member.verified || world.is_group_lost(member.group()),
                _ => true,
            })
        });
    }

    fn run_for(&mut self, time: u64) {
        let end = self.shared.queue.now() + time;
        self.shared.queue.at(end, What::Mark);
        while self.shared.queue.now() < end {
            self.step();
        }
    }

    fn must(&mut self, what: &str, within: u64, mut is: impl FnMut(&Self) -> bool) {
        let end = self.shared.queue.now() + within;
        let mut events = 0_u64;
        loop {
            // Looking is dearer than most events.
            if events.is_multiple_of(32) && is(self) {
                return;
            }
            events += 1;
            if self.shared.queue.now() >= end {
                self.tell_errors();
                panic!("not within {} s: {what}", within / SEC);
            }
            self.step();
        }
    }

    /// Notes what producers were told last, and how far consumers got.
    fn tell_errors(&self) {
        for client in &self.clients {
            if let Role::Consumer(consumer) = &client.role {
                for (tp, at, end) in consumer.behind(&self.shared) {
                    trace::event("behind", &[client.id as u64], || {
                        format!("at {at} of {end} in {}", crate::model::name(tp))
                    });
                }
            }
            if let Role::Member(member) = &client.role
                && let Some((group, owned)) = member.shares()
            {
                trace::event("member", &[client.id as u64, group.into()], || {
                    let owned: Vec<String> =
                        owned.iter().map(|tp| crate::model::name(*tp)).collect();
                    format!("has {owned:?} of {}", Member::partitions(&self.shared).len())
                });
            }
            if let Role::Producer(producer) = &client.role
                && producer.is_answered()
            {
                let targets = producer.targets(&self.shared);
                for tp in targets.iter().filter(|tp| !producer.acked.contains_key(tp)) {
                    trace::event("unacked", &[client.id as u64], || {
                        let error = producer.errors.get(tp);
                        format!("{}, last error {error:?}", crate::model::name(*tp))
                    });
                }
            }
        }
    }

    fn step(&mut self) {
        assert!(trace::events() < EVENTS_MAX, "too many events: something turns in circles");
        let what = self.shared.queue.pop().expect("clients always plan something");
        trace::at(self.shared.queue.now());
        let life = self.shared.model.life;
        let Shared { queue, network, coverage, .. } = &mut self.shared;
        let mut broker = self.broker.as_mut();
        let mut around = Surroundings { queue, network, coverage, disk: &mut self.disk };
        match what {
            What::Mark => {}
            What::Turn { life: of, core, plan } if of == life => {
                if let Some(broker) = &mut broker {
                    broker.turn(&mut around, core, plan);
                    self.check_errors();
                }
            }
            What::Control { life: of, plan } if of == life => {
                if let Some(broker) = &mut broker {
                    broker.control(&mut around, plan);
                    self.check_notices();
                }
            }
            What::Mail { life: of, from, to, mail } if of == life => {
                if let Some(broker) = &mut broker {
                    broker.mail(around.queue, from, to, mail);
                }
            }
            What::ToShard { life: of, core, message } if of == life => {
                if let Some(broker) = &mut broker {
                    broker.tell_shard(around.queue, core, message);
                }
            }
            What::ToController { life: of, message } if of == life => {
                if let Some(broker) = &mut broker {
                    broker.tell_controller(around.queue, message);
                }
            }
            What::Turn { .. }
            | What::Control { .. }
            | What::Mail { .. }
            | What::ToShard { .. }
            | What::ToController { .. } => {}
            What::DiskEffect(id) => {
                let failed = self.disk.counters.failed_syncs;
                self.disk.take_effect(id);
                if self.disk.counters.failed_syncs > failed {
                    self.shared.model.fail_sync();
                }
            }
            What::DiskDone(id) => {
                if let Some((owner, completion)) = self.disk.complete(id)
                    && let Some(broker) = &mut broker
                {
                    broker.disk_done(queue, owner, completion);
                }
            }
            What::Net(step) => {
                for out in network.step(queue, step) {
                    self.net_out(out);
                }
            }
            What::Client { client, plan } => {
                self.clients[client].wake(&mut self.shared, Some(plan));
            }
        }
    }

    fn net_out(&mut self, out: Out) {
        match out {
            Out::ToCore(core, heard) => {
                if let Some(broker) = &mut self.broker {
                    broker.hear(&mut self.shared.queue, core, heard);
                }
            }
            Out::Bytes(client, conn, bytes) => {
                self.clients[client].bytes(&mut self.shared, conn, bytes);
            }
            Out::End(client, conn) => self.clients[client].ended(&mut self.shared, conn),
        }
    }

    /// Logs are whole: nothing damages what was synced, but for flipped bits.
    fn check_errors(&mut self) {
        for error in trace::take_errors() {
            if !["corrupt", "damaged", "not compacted"].iter().any(|word| error.contains(word)) {
                continue;
            }
            let flipped = self.flipped.iter().any(|dir| error.contains(dir));
            assert!(flipped, "undamaged bytes, and the broker logs: {error}");
            self.told.push(error);
        }
    }

    /// A controller fails only when its disk did.
    fn check_notices(&mut self) {
        let Some(broker) = &self.broker else { return };
        let faults = self.disk.counters.faults > self.faults_before;
        for notice in &broker.notices {
            if let Notice::Failed(error) = notice
                && !self.is_about_damage(error)
            {
                assert!(faults, "the controller failed without a fault: {error}");
            }
        }
    }

    fn into_coverage(self) -> Coverage {
        let mut coverage = self.shared.coverage;
        let (disk, network) = (self.disk.counters, self.shared.network.counters);
        for (name, count) in [
            ("disk: writes", disk.writes),
            ("disk: records of journals", disk.records),
            ("disk: writes from journals", disk.replayed),
            ("disk: reads", disk.reads),
            ("disk: syncs", disk.syncs),
            ("disk: syncs of all files", disk.syncs_of_all),
            ("disk: replaces", disk.replaces),
            ("disk: truncates", disk.truncates),
            ("disk: renames", disk.renames),
            ("disk: segments compacted", disk.swaps),
            ("disk: faults", disk.faults),
            ("disk: failed names and small files", disk.failed_names),
            ("disk: operations in flight at a crash", disk.caught),
            ("disk: unsynced changes at a loss of power", disk.unsynced),
            ("disk: stale batches behind the end of a log", disk.stale),
            ("flipped bits: in segments", disk.flipped_segments),
            ("flipped bits: in indexes", disk.flipped_indexes),
            ("flipped bits: in other files of logs", disk.flipped_small),
            ("flipped bits: in last segments", disk.flipped_last),
            ("flipped bits: in logs of groups", disk.flipped_groups),
            ("flipped bits: in recovery points", disk.flipped_points),
            ("flipped bits: in what is kept of closed logs", disk.flipped_closed),
            ("flipped bits: in the metadata", disk.flipped_metadata),
            ("flipped bits: in journals", disk.flipped_journals),
            ("network: connections", network.accepted),
            ("network: resets by clients", network.resets),
            ("network: stuck readers", network.stuck),
            ("network: bytes up", network.up_bytes),
            ("network: bytes down", network.down_bytes),
            ("virtual milliseconds", self.shared.queue.now() / MS),
        ] {
            coverage.add(name, count);
        }
        coverage
    }
}
