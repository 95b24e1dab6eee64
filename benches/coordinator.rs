//! How long a coordinator of groups holds its core: the longest of its steps, with
//! large groups, without a kernel, a disk or a client.
//!
//! A step is one request taken, one batch told to be committed, or one turn; a batch
//! is committed as soon as it is out. What a step leaves to others (encoding answers,
//! appending the batch) is not in it. It is the thread's CPU time that is counted, so
//! that others on the machine do not show. Cases:
//!
//! - *uniform*, *range*: members of the consumer protocol (KIP-848) join one by one a
//!   group that shares `--partitions` partitions of ten topics; then they send
//!   heartbeats until all have what they shall have.
//! - *at once*: all join before the first batch is committed.
//! - *regex*: as *uniform*, with a regular expression that matches `--topics` topics;
//!   in the end a topic is added.
//! - *classic*: all join an empty group, its wait is over, all ask for their
//!   assignment, which the leader brings.
//!
//! `cargo bench --bench coordinator -- [--members N] [--partitions N] [--topics N]
//! [--only CASE]`

#![allow(unsafe_code)] // Asks the kernel for the CPU time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corelane::base::time::{Instant, Now, UnixMillis};
use corelane::config::{Machine, Settings};
use corelane::group::records::consumer::Assignment;
use corelane::group::request::{
    Ask, Asker, ConsumerHeartbeat, Identity, Join, Request, Response, Sync,
};
use corelane::group::{Coordinator, Effect};
use corelane::metadata::image::{Image, Partition, Topic};
use corelane::model::error_code::ErrorCode;
use corelane::model::ids::{CoreId, LeaderEpoch, NodeId, PartitionIndex, TopicId};
use corelane::replica::work::Origin;
use corelane::rsm::ReadResult;
use corelane::wire::small;

const GROUP: &str = "g";
const TOPICS: usize = 10;

struct Options {
    members: usize,
    partitions: usize,
    topics: usize,
    only: Option<String>,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { members: 1_000, partitions: 10_000, topics: 10_000, only: None };
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_else(|| usage(&word));
            let number = || value.parse().unwrap_or_else(|_| usage(&word));
            match word.as_str() {
                "--members" => options.members = number(),
                "--partitions" => options.partitions = number(),
                "--topics" => options.topics = number(),
                "--only" => options.only = Some(value),
                _ => usage(&word),
            }
        }
        options
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time` alone.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "the clock is there");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn usage(word: &str) -> ! {
    eprintln!("{word}: see the head of benches/coordinator.rs");
    std::process::exit(2)
}

/// A coordinator, and what stands in for the rest of the broker.
struct World {
    coordinator: Coordinator,
    now: Now,
    next: u64,
    answers: BTreeMap<u64, Response>,
    steps: Vec<(Duration, &'static str)>,
    /// Batches that are out.
    held: VecDeque<u64>,
    hold: bool,
}

impl World {
    fn new(image: Arc<Image>) -> Self {
        let machine = Machine { cores: 1, memory_bytes: 1 << 30, hostname: "bench".to_owned() };
        let (settings, _) = Settings::resolve(&[], &machine).expect("the defaults");
        let mut coordinator = Coordinator::new(settings.groups);
        coordinator.seed(1);
        coordinator.set_topics(image);
        coordinator.add(PartitionIndex(0), 1);
        let now = Now { instant: Instant::from_nanos(5), unix: UnixMillis(1_000_000) };
        let mut world = Self {
            coordinator,
            now,
            next: 0,
            answers: BTreeMap::new(),
            steps: vec![],
            held: VecDeque::new(),
            hold: false,
        };
        world.run();
        world.steps.clear();
        world
    }

    fn step(&mut self, name: &'static str, act: impl FnOnce(&mut Coordinator, Now)) {
        let start = cpu_time();
        act(&mut self.coordinator, self.now);
        self.steps.push((cpu_time() - start, name));
    }

    fn ask(&mut self, ask: Ask) -> u64 {
        self.next += 1;
        let asker = Asker { origin: Origin { core: CoreId(0), id: self.next }, place: 0 };
        self.step("request", |coordinator, now| {
            coordinator.submit(now, asker, Request::Group(GROUP.into(), ask));
        });
        self.run();
        self.next
    }

    fn run(&mut self) {
        loop {
            let todo: Vec<Effect> = self.coordinator.todo().collect();
            for effect in todo {
                match effect {
                    Effect::Answer(asker, response) | Effect::Late(asker, response) => {
                        self.answers.insert(asker.origin.id, response);
                    }
                    Effect::Parked(_) => {}
                    Effect::Append(_, number, _) => self.held.push_back(number),
                    Effect::Read(partition, _) => self.coordinator.read(
                        self.now,
                        partition,
                        ReadResult {
                            error: ErrorCode::None,
                            log_start_offset: 0,
                            high_watermark: 0,
                            bytes: Bytes::new(),
                        },
                    ),
                }
            }
            if !self.hold
                && let Some(number) = self.held.pop_front()
            {
                self.step("commit", |coordinator, now| {
                    coordinator.written(now, number, ErrorCode::None);
                });
            } else if self.coordinator.has_work() {
                self.step("turn", |coordinator, now| coordinator.turn(now));
            } else {
                return;
            }
        }
    }

    /// Lets so much time pass.
    fn wait(&mut self, ms: u64) {
        self.now.instant = self.now.instant + Duration::from_millis(ms);
        self.now.unix.0 += ms as i64;
        self.step("turn", |coordinator, now| coordinator.turn(now));
        self.run();
    }

    fn report(&mut self, case: &str) {
        let total: Duration = self.steps.iter().map(|(took, _)| *took).sum();
        let over = self.steps.iter().filter(|(took, _)| *took > Duration::from_micros(500));
        let over = over.count();
        self.steps.sort_unstable();
        let (longest, name) = *self.steps.last().expect("there were steps");
        let p99 = self.steps[(self.steps.len() - 1) * 99 / 100].0;
        println!(
            "| {case} | {} | {:.1} | {} | {} | {name} | {over} |",
            self.steps.len(),
            total.as_secs_f64() * 1e3,
            p99.as_micros(),
            longest.as_micros(),
        );
        self.steps.clear();
    }
}

fn topic(index: usize, partitions: usize) -> Arc<Topic> {
    let partition = Partition {
        core: CoreId(0),
        replicas: vec![NodeId(1)],
        isr: vec![NodeId(1)],
        leader: Some(NodeId(1)),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
    };
    let mut id = [1; 16];
    id[8..].copy_from_slice(&(index as u64).to_be_bytes());
    Arc::new(Topic {
        id: TopicId(id),
        name: name(index).as_str().into(),
        partitions: vec![partition; partitions],
        configs: BTreeMap::new(),
    })
}

fn name(index: usize) -> String {
    format!("events-of-service-{index:05}")
}

fn image(topics: usize, partitions: usize) -> Image {
    let mut image = Image::empty("".into(), NodeId(1));
    for index in 0..topics {
        image.insert_topic(topic(index, partitions));
    }
    image
}

/// A member of the consumer protocol.
struct Member {
    id: String,
    epoch: i32,
    owned: Assignment,
    /// It has something to say.
    changed: bool,
}

impl Member {
    fn beat(&self, assignor: &str, regex: Option<&str>) -> Ask {
        let full = self.epoch == 0;
        Ask::ConsumerHeartbeat(Box::new(ConsumerHeartbeat {
            member_id: self.id.as_str().into(),
            needs_id: true,
            epoch: self.epoch,
            instance_id: None,
            rack_id: None,
            rebalance_timeout_ms: if full { 60_000 } else { -1 },
            topics: match regex {
                None => {
                    full.then(|| (0..TOPICS).map(|index| name(index).as_str().into()).collect())
                }
                Some(_) => full.then(Vec::new),
            },
            regex: regex.filter(|_| full).map(Arc::from),
            assignor: full.then(|| assignor.into()),
            owned: self.changed.then(|| self.owned.clone()),
            client_id: "bench".into(),
            client_host: "/127.0.0.1".into(),
        }))
    }

    fn take(&mut self, response: Option<Response>) {
        let Some(Response::Beat(answer)) = response else { panic!("{response:?}") };
        assert_eq!(answer.error_code, 0, "{answer:?}");
        self.epoch = answer.member_epoch;
        self.changed = false;
        if let Some(assignment) = answer.assignment {
            let rows = assignment.topic_partitions.iter();
            let rows = rows.map(|row| {
                (small::topic_id(row.topic_id), row.partitions.iter().copied().collect())
            });
            self.owned = rows.collect();
            self.changed = true;
        }
    }
}

fn members(count: usize) -> Vec<Member> {
    let member = |at: usize| Member {
        id: format!("member-{at:05}"),
        epoch: 0,
        owned: Assignment::new(),
        changed: true,
    };
    (0..count).map(member).collect()
}

/// Heartbeats until everybody has what it shall have.
fn settle(world: &mut World, members: &mut [Member], assignor: &str, regex: Option<&str>) -> usize {
    for round in 1.. {
        let mut moved = false;
        let before: Vec<i32> = members.iter().map(|member| member.epoch).collect();
        for member in members.iter_mut() {
            moved |= member.changed;
            let id = world.ask(member.beat(assignor, regex));
            let answer = world.answers.remove(&id);
            member.take(answer);
        }
        moved |= members.iter().zip(before).any(|(member, before)| member.epoch != before);
        if !moved {
            return round;
        }
    }
    unreachable!("it settles")
}

fn consumers(case: &str, options: &Options, assignor: &str, regex: Option<&str>) {
    let image = match regex {
        None => image(TOPICS, options.partitions / TOPICS),
        Some(_) => image(options.topics, 1),
    };
    let mut world = World::new(Arc::new(image.clone()));
    let mut members = members(options.members);
    for member in &mut members {
        let id = world.ask(member.beat(assignor, regex));
        let answer = world.answers.remove(&id);
        member.take(answer);
    }
    world.report(&format!("{case}: {} join one by one", options.members));
    let rounds = settle(&mut world, &mut members, assignor, regex);
    world.report(&format!("{case}: {rounds} rounds of heartbeats"));
    let count: usize = members.iter().flat_map(|one| one.owned.values()).map(|set| set.len()).sum();
    let expected = if regex.is_some() { options.topics } else { options.partitions };
    assert_eq!(count, expected / TOPICS * TOPICS, "all is assigned");
    if regex.is_some() {
        let mut image = image;
        image.insert_topic(topic(options.topics, 1));
        world.coordinator.set_topics(Arc::new(image));
        world.wait(2_000);
        settle(&mut world, &mut members, assignor, regex);
        world.report(&format!("{case}: one more topic, heartbeats"));
    }
}

fn at_once(options: &Options, assignor: &str) {
    let mut world = World::new(Arc::new(image(TOPICS, options.partitions / TOPICS)));
    let mut members = members(options.members);
    world.hold = true;
    let asked: Vec<u64> =
        members.iter().map(|member| world.ask(member.beat(assignor, None))).collect();
    world.hold = false;
    world.run();
    for (member, id) in members.iter_mut().zip(asked) {
        let answer = world.answers.remove(&id);
        member.take(answer);
    }
    world.report(&format!("{assignor}: {} join at once", options.members));
    let rounds = settle(&mut world, &mut members, assignor, None);
    world.report(&format!("{assignor}, at once: {rounds} rounds of heartbeats"));
}

fn classic(options: &Options) {
    let mut world = World::new(Arc::new(image(TOPICS, options.partitions / TOPICS)));
    let join = |id: &str| {
        Ask::Join(Box::new(Join {
            member_id: id.into(),
            instance_id: None,
            client_id: "bench".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".into(),
            protocols: vec![
                ("range".into(), vec![0; 300].into()),
                ("cooperative-sticky".into(), vec![0; 300].into()),
            ],
            needs_known_id: true,
            may_skip_assignment: true,
        }))
    };
    let mut waiting = vec![];
    for _ in 0..options.members {
        let id = world.ask(join(""));
        let Some(Response::Joined(answer)) = world.answers.remove(&id) else { panic!("an answer") };
        waiting.push(world.ask(join(&answer.member_id)));
    }
    world.report(&format!("classic: {} join", options.members));
    while !world.answers.contains_key(&waiting[0]) {
        world.wait(1_000);
    }
    world.report("classic: the wait for members is over");
    let mut leader = None;
    let mut ids = vec![];
    for id in waiting {
        let Some(Response::Joined(answer)) = world.answers.remove(&id) else { panic!("an answer") };
        assert_eq!(answer.error_code, 0);
        let who = Identity {
            member_id: answer.member_id.as_str().into(),
            instance_id: None,
            generation: answer.generation_id,
        };
        if answer.leader == answer.member_id {
            leader = Some(who.clone());
        }
        ids.push(who);
    }
    let leader = leader.expect("one leads");
    let each: Bytes = vec![0; 8 + options.partitions / options.members * 4].into();
    let sync = |who: &Identity, assignments| {
        Ask::Sync(Sync { member: who.clone(), protocol_type: None, protocol: None, assignments })
    };
    for who in ids.iter().filter(|who| who.member_id != leader.member_id) {
        world.ask(sync(who, vec![]));
    }
    world.report("classic: all but the leader ask for their assignment");
    let all = ids.iter().map(|who| (who.member_id.clone(), each.clone())).collect();
    world.ask(sync(&leader, all));
    world.report("classic: the leader brings the assignments");
}

fn main() {
    let options = Options::read();
    println!(
        "{} members, {} partitions; the regular expression matches {} topics\n",
        options.members, options.partitions, options.topics
    );
    println!("| case | steps | ms in all | 99 % us | longest us | a | over 500 us |");
    println!("|---|---:|---:|---:|---:|---|---:|");
    let wanted = |case: &str| options.only.as_deref().is_none_or(|only| only == case);
    for assignor in ["uniform", "range"] {
        if wanted(assignor) {
            consumers(assignor, &options, assignor, None);
            at_once(&options, assignor);
        }
    }
    if wanted("regex") {
        consumers("regex", &options, "uniform", Some("events-.*"));
    }
    if wanted("classic") {
        classic(&options);
    }
}
