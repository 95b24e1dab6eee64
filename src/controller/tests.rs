//! Stories of a controller with two cores on a disk that can crash.

use std::collections::{BTreeMap, VecDeque};

use super::test_disk::{TestDisk, name};
use super::*;
use crate::effect::disk::{DiskError, DiskOpKind};
use crate::metadata::command::{
    AlterResource, ConfigChange, CreatedTopic, MorePartitions, NewTopic, Refusal, ResourceType,
    TopicRef,
};
use crate::metadata::image::Change;
use crate::model::ids::{NodeId, TopicId};

const CORES: u16 = 2;

/// What a core knows, built from deltas alone.
#[derive(Default)]
struct Shard {
    topics: BTreeMap<TopicId, String>,
    image: Option<Arc<Image>>,
    /// Positions it has not reported.
    unreported: VecDeque<MetadataOffset>,
    answers: BTreeMap<u64, Answer>,
    publications: usize,
    stopping: bool,
}

struct Story {
    controller: Controller,
    disk: TestDisk,
    in_flight: VecDeque<DiskOp>,
    shards: Vec<Shard>,
    notices: Vec<Notice>,
    now: Now,
    next_id: u64,
}

fn options() -> ControllerOptions {
    ControllerOptions {
        node: Node { id: NodeId(1), host: "localhost".into(), port: 9092, cores: CORES },
        cluster_id: "cluster".into(),
        directory_id: [5; 16],
        policy: Policy {
            num_partitions: 3,
            default_replication_factor: 1,
            validate_config: |name, _| Err(format!("Unknown topic config name: {name}")),
            topics: crate::config::TopicConfig::default(),
            consumer: crate::config::ConsumerSettings::default(),
        },
        log: LogLimits { snapshot_at: 64 << 10, reserve: 16 << 10 },
        seed: 1,
    }
}

fn create(names: &[&str]) -> Command {
    let topic = |name: &&str| NewTopic {
        name: (*name).to_owned(),
        partitions: -1,
        replication_factor: -1,
        assignments: vec![],
        configs: vec![],
    };
    Command::CreateTopics { topics: names.iter().map(topic).collect(), validate_only: false }
}

fn delete(names: &[&str]) -> Command {
    let topics = names.iter().map(|name| TopicRef::Name((*name).to_owned())).collect();
    Command::DeleteTopics { topics }
}

fn more_partitions(name: &str, count: i32) -> Command {
    let topic = MorePartitions { name: name.to_owned(), count, assignments: None };
    Command::CreatePartitions { topics: vec![topic], validate_only: false }
}

/// For all brokers.
fn set_retention(ms: i32) -> Command {
    let setting = ("log.retention.ms".to_owned(), Some(ms.to_string()));
    let resource = AlterResource {
        kind: ResourceType::BROKER,
        name: String::new(),
        change: ConfigChange::Replace(vec![setting]),
    };
    Command::AlterConfigs { resources: vec![resource], validate_only: false }
}

impl Story {
    fn on(disk: TestDisk, options: ControllerOptions) -> Self {
        let shards = (0..options.node.cores).map(|_| Shard::default()).collect();
        let mut story = Self {
            controller: Controller::new(options),
            disk,
            in_flight: VecDeque::new(),
            shards,
            notices: Vec::new(),
            now: Now::default(),
            next_id: 0,
        };
        story.step(ControllerEvent::Boot);
        story
    }

    fn started() -> Self {
        let mut story = Self::on(TestDisk::new(1), options());
        story.settle();
        assert_eq!(story.notices, [Notice::Started]);
        story
    }

    /// The same disk after a stop of the process.
    fn restarted(self) -> Self {
        let mut disk = self.disk;
        disk.crash(None);
        Self::on(disk, options())
    }

    fn step(&mut self, event: ControllerEvent) {
        let mut effects = ControllerEffects::default();
        self.controller.step(self.now, event, &mut effects);
        self.in_flight.extend(effects.disk);
        assert!(self.in_flight.len() <= 1, "one operation at a time");
        self.notices.extend(effects.notices);
        for (core, message) in effects.shards {
            let shard = &mut self.shards[usize::from(core.0)];
            match message {
                ToShard::Publish { image, delta } => shard.hear(image, &delta),
                ToShard::Answer { id, answer } => {
                    assert!(shard.answers.insert(id, answer).is_none(), "answered twice");
                }
                ToShard::Stop => shard.stopping = true,
            }
        }
    }

    fn ask(&mut self, core: u16, command: Command) -> u64 {
        self.next_id += 1;
        let (core, id) = (CoreId(core), self.next_id);
        self.step(ControllerEvent::Message(ToController::Command { core, id, command }));
        id
    }

    /// Ends the disk operation in flight, and says whether there was one.
    fn disk_turn(&mut self) -> bool {
        let Some(op) = self.in_flight.pop_front() else { return false };
        let completion = self.disk.perform(op);
        self.step(ControllerEvent::Disk(completion));
        true
    }

    /// Core `core` reports what it applied.
    fn report(&mut self, core: u16) -> bool {
        let Some(offset) = self.shards[usize::from(core)].unreported.pop_front() else {
            return false;
        };
        let core = CoreId(core);
        self.step(ControllerEvent::Message(ToController::Applied { core, offset }));
        true
    }

    fn settle(&mut self) {
        while self.disk_turn() || (0..CORES).any(|core| self.report(core)) {}
    }

    fn answer(&self, core: u16, id: u64) -> Option<&Answer> {
        self.shards[usize::from(core)].answers.get(&id)
    }

    fn created(&self, core: u16, id: u64) -> Option<Vec<Result<CreatedTopic, Refusal>>> {
        match self.answer(core, id)? {
            Answer::CreateTopics(rows) => Some(rows.iter().map(|row| row.result.clone()).collect()),
            other => panic!("another answer: {other:?}"),
        }
    }

    fn code(&self, core: u16, id: u64) -> ErrorCode {
        match self.answer(core, id).expect("an answer") {
            Answer::AllocateProducerIds(ids) => panic!("not asked for: {ids:?}"),
            Answer::CreateTopics(rows) => rows[0].result.as_ref().map_or_else(|r| r.code, none),
            Answer::DeleteTopics(rows) => rows[0].result.as_ref().map_or_else(|r| r.code, none),
            Answer::CreatePartitions(rows) => rows[0].result.as_ref().map_or_else(|r| r.code, none),
            Answer::AlterConfigs(rows) => rows[0].result.as_ref().map_or_else(|r| r.code, none),
        }
    }

    fn do_it(&mut self, command: Command) -> ErrorCode {
        let id = self.ask(0, command);
        self.settle();
        self.code(0, id)
    }
}

fn none<T>(_: T) -> ErrorCode {
    ErrorCode::None
}

impl Shard {
    fn hear(&mut self, image: Arc<Image>, delta: &Delta) {
        for change in &delta.changes {
            match change {
                Change::TopicCreated(topic) => {
                    let name = topic.name.to_string();
                    assert!(self.topics.insert(topic.id, name).is_none(), "created twice");
                }
                Change::TopicDeleted(topic) => {
                    assert!(self.topics.remove(&topic.id).is_some(), "deleted twice");
                }
                Change::NodeChanged(_) | Change::TopicChanged(_) | Change::BrokerConfigChanged => {}
            }
        }
        let mut topics: Vec<TopicId> = image.topics().map(|topic| topic.id).collect();
        topics.sort_unstable();
        assert!(self.topics.keys().eq(&topics), "deltas build the image");
        assert!(self.image.as_ref().is_none_or(|old| old.offset < image.offset));
        self.unreported.push_back(image.offset);
        self.image = Some(image);
        self.publications += 1;
    }
}

#[test]
fn a_new_cluster_starts_registered_and_known_to_every_core() {
    let story = Story::started();
    for shard in &story.shards {
        let image = shard.image.as_ref().expect("published");
        assert_eq!(*image.nodes[&NodeId(1)], options().node);
        assert_eq!(image.controller, NodeId(1));
    }
    assert!(!story.controller.wants_ticks() && story.in_flight.is_empty());
}

#[test]
fn a_topic_is_answered_when_it_is_durable_and_every_core_knows_it() {
    let mut story = Story::started();
    let id = story.ask(0, create(&["orders"]));
    assert_eq!(name(&story.in_flight[0].kind), "write");
    story.disk_turn();
    assert_eq!(name(&story.in_flight[0].kind), "sync");
    assert!(story.shards[0].unreported.is_empty(), "nothing is told before it is durable");
    story.disk_turn();
    assert!(story.report(1));
    assert_eq!(story.answer(0, id), None, "core 0 has not applied it");
    assert!(story.report(0));
    let created = story.created(0, id).unwrap()[0].clone().unwrap();
    let topic = story.controller.image().topic("orders").unwrap().clone();
    assert_eq!((created.id, created.partitions), (topic.id, 3));
    let cores = topic.partitions.iter().map(|partition| partition.core.0);
    assert!(cores.eq([0, 1, 0]));
}

#[test]
fn decisions_see_what_is_on_its_way_and_answers_wait_for_it() {
    let mut story = Story::started();
    let first = story.ask(0, create(&["orders"]));
    let again = story.ask(1, create(&["orders"]));
    let gone = story.ask(1, delete(&["orders"]));
    let anew = story.ask(1, create(&["orders"]));
    assert!(story.answer(1, again).is_none(), "it exists only once it is committed");
    story.settle();
    assert_eq!(story.code(1, again), ErrorCode::TopicAlreadyExists);
    assert_eq!((story.code(0, first), story.code(1, gone)), (ErrorCode::None, ErrorCode::None));
    let id = |story: &Story, core, id| story.created(core, id).unwrap()[0].clone().unwrap().id;
    assert_ne!(id(&story, 0, first), id(&story, 1, anew), "a topic made anew is another");
    assert_eq!(story.do_it(delete(&["nothing"])), ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn a_topic_made_anew_is_on_the_cores_that_may_still_remove_the_old_one() {
    let mut story = Story::started();
    let cores = |story: &Story| -> Vec<u16> {
        let topic = story.controller.image().topic("orders").expect("it was made");
        topic.partitions.iter().map(|partition| partition.core.0).collect()
    };
    assert_eq!(story.do_it(create(&["orders"])), ErrorCode::None);
    assert_eq!(cores(&story), [0, 1, 0]);
    // With this one there, the emptiest cores would be others: 0, 0, 1.
    assert_eq!(story.do_it(create(&["other"])), ErrorCode::None);
    assert_eq!(story.do_it(delete(&["orders"])), ErrorCode::None);
    assert_eq!(story.do_it(create(&["orders"])), ErrorCode::None);
    assert_eq!(cores(&story), [0, 1, 0]);
    // Nor does it matter whether the deletion is committed when that is decided.
    let gone = story.ask(0, delete(&["orders"]));
    let anew = story.ask(1, create(&["orders"]));
    story.settle();
    assert_eq!([story.code(0, gone), story.code(1, anew)], [ErrorCode::None; 2]);
    assert_eq!(cores(&story), [0, 1, 0]);
}

#[test]
fn many_commands_share_a_write() {
    let mut story = Story::started();
    let ids: Vec<u64> = (0..50).map(|n| story.ask(0, create(&[&format!("t{n}")]))).collect();
    let mut syncs = 0;
    while let Some(op) = story.in_flight.front() {
        syncs += u32::from(name(&op.kind) == "sync");
        story.disk_turn();
    }
    assert_eq!(syncs, 2, "the first alone, then all that came meanwhile");
    story.settle();
    assert!(ids.iter().all(|id| story.code(0, *id) == ErrorCode::None));
}

#[test]
fn a_restart_finds_everything_with_and_without_a_snapshot() {
    let mut story = Story::started();
    for n in 0..300 {
        assert_eq!(story.do_it(create(&[&format!("topic-{n}")])), ErrorCode::None);
        if n % 3 == 0 {
            assert_eq!(story.do_it(delete(&[&format!("topic-{n}")])), ErrorCode::None);
        }
        if n % 15 == 1 {
            assert_eq!(story.do_it(more_partitions(&format!("topic-{n}"), 5)), ErrorCode::None);
            assert_eq!(story.do_it(set_retention(n)), ErrorCode::None);
        }
        // Several restarts in a row: a snapshot may follow entries without records.
        for _ in 0..u32::from(n % 50 == 7) * 40 {
            let before = story.controller.image().clone();
            story = story.restarted();
            story.settle();
            assert_eq!(story.notices, [Notice::Started]);
            assert_eq!(*story.controller.image(), before, "nothing changed by the restart");
        }
        story.now.instant = story.now.instant + SNAPSHOT_RETRY;
    }
    let segments = story.disk.files.keys().map(|path| path.display().to_string());
    let segments: Vec<String> = segments.filter(|path| path.contains("log-")).collect();
    assert!(segments.len() == 1 && !segments[0].ends_with("log-00000000000000000002"));
    let image = story.controller.image();
    assert_eq!(image.topic_count(), 200);
    assert_eq!(image.topic("topic-1").expect("it stays").partitions.len(), 5);
    assert_eq!(image.broker_config(None)["log.retention.ms"], "286");
}

#[test]
fn a_changed_registration_is_recorded() {
    let story = Story::started();
    let mut changed = options();
    changed.node.port = 9999;
    let mut disk = story.disk;
    disk.crash(None);
    let mut story = Story::on(disk, changed);
    story.settle();
    assert_eq!(story.controller.image().nodes[&NodeId(1)].port, 9999);
}

#[test]
fn an_unfinished_write_is_cut_and_damage_before_it_refused() {
    let mut story = Story::started();
    let end_before = story.controller.files.log_len() as usize;
    assert_eq!(story.do_it(create(&["a"])), ErrorCode::None);
    let end_of_a = story.controller.files.log_len() as usize;
    assert_eq!(story.do_it(create(&["b"])), ErrorCode::None);
    assert_eq!(story.do_it(create(&["c"])), ErrorCode::None);
    let log = story.disk.segment().clone();
    let restart = |damage: &dyn Fn(&mut Vec<u8>)| {
        let mut disk = TestDisk::new(1);
        disk.files = story.disk.files.clone();
        damage(disk.segment());
        let mut story = Story::on(disk, options());
        story.settle();
        story
    };

    // Zeros where the last write was, then garbage behind it.
    let end = story.controller.files.log_len() as usize;
    let cut = restart(&|log| log[end - 20..].fill(0));
    assert_eq!(cut.notices, [Notice::Started]);
    assert!(cut.controller.image().topic("b").is_some());
    assert!(cut.controller.image().topic("c").is_none());
    let mut garbage = restart(&|log| log[end..end + 9000].fill(0xee));
    assert!(garbage.controller.image().topic("c").is_some());
    assert_eq!(garbage.do_it(create(&["d"])), ErrorCode::None);
    let clean = garbage.controller.files.log_len() as usize;
    assert!(garbage.disk.segment()[clean..].iter().all(|byte| *byte == 0), "garbage was cut");

    // A damaged write with later ones behind it.
    for at in [end_before + 50, end_of_a - 9, 60] {
        let mut refused = restart(&|log| log[at] ^= 1);
        let Some(Notice::Failed(error)) = refused.notices.first() else {
            panic!("byte {at}: {:?}", refused.notices)
        };
        assert!(error.to_string().contains("the metadata log is corrupt"), "{error}");
        assert_eq!(refused.code_of_any_command(), ErrorCode::KafkaStorageError);
        assert_eq!(*refused.disk.segment(), {
            let mut same = log.clone();
            same[at] ^= 1;
            same
        });
    }
}

impl Story {
    fn code_of_any_command(&mut self) -> ErrorCode {
        let id = self.ask(0, create(&["any"]));
        self.code(0, id)
    }
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let story = Story::started();
    let files = story.disk.files;
    let start = |files: &BTreeMap<_, _>, options| {
        let mut disk = TestDisk::new(1);
        disk.files = BTreeMap::clone(files);
        let mut story = Story::on(disk, options);
        story.settle();
        match story.notices.first() {
            Some(Notice::Failed(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let other_cluster = ControllerOptions { cluster_id: "other".into(), ..options() };
    let expected = "the metadata belongs to cluster cluster, not to other";
    assert_eq!(start(&files, other_cluster), expected);
    let other_directory = ControllerOptions { directory_id: [6; 16], ..options() };
    assert!(start(&files, other_directory).contains("belongs to voters"));
    let mut without = files.clone();
    without.retain(|path, _| !path.ends_with("snapshot"));
    assert!(start(&without, options()).contains("snapshot is missing"));
}

#[test]
fn a_failed_sync_is_final_but_the_broker_stays_up() {
    let mut story = Story::started();
    assert_eq!(story.do_it(create(&["before"])), ErrorCode::None);
    let image = story.controller.image().clone();
    story.disk.failing = Some(("sync", DiskError::Io(5)));
    let lost = story.ask(0, create(&["lost"]));
    let queued = story.ask(1, create(&["queued"]));
    let refused = story.ask(1, create(&["before"]));
    story.settle();
    assert!(matches!(&story.notices[1..], [Notice::Failed(ControllerError::Files(_))]));
    for (core, id) in [(0, lost), (1, queued)] {
        assert_eq!(story.code(core, id), ErrorCode::KafkaStorageError);
    }
    assert_eq!(story.code(1, refused), ErrorCode::TopicAlreadyExists);
    story.disk.failing = None;
    assert_eq!(story.do_it(create(&["after"])), ErrorCode::KafkaStorageError);
    assert!(story.in_flight.is_empty(), "it asks nothing of the disk any more");
    assert_eq!(*story.controller.image(), image);
    story.stop([true, true]);
    assert_eq!(story.notices.last(), Some(&Notice::Stopped { clean: true }));
}

impl Story {
    fn stop(&mut self, clean: [bool; 2]) {
        self.step(ControllerEvent::Stop);
        assert!(self.shards.iter().all(|shard| shard.stopping));
        for (core, clean) in (0..).map(CoreId).zip(clean) {
            assert!(!self.notices.iter().any(|notice| matches!(notice, Notice::Stopped { .. })));
            self.step(ControllerEvent::Message(ToController::Stopped { core, clean }));
        }
        // Their threads end, which changes nothing.
        let core = CoreId(0);
        self.step(ControllerEvent::Message(ToController::Stopped { core, clean: false }));
        self.settle();
    }
}

#[test]
fn a_stop_waits_for_the_shards_and_the_disk() {
    let mut story = Story::started();
    story.ask(0, create(&["a"]));
    story.step(ControllerEvent::Stop);
    for core in [CoreId(0), CoreId(1)] {
        let clean = core.0 == 0;
        story.step(ControllerEvent::Message(ToController::Stopped { core, clean }));
    }
    assert_eq!(story.notices, [Notice::Started], "a write is in flight");
    story.settle();
    assert_eq!(story.notices[1..], [Notice::Stopped { clean: false }]);
}

#[test]
fn a_core_that_is_far_behind_gets_all_it_missed_as_one() {
    let mut story = Story::started();
    // Core 1 reports nothing, so what it may have unapplied runs out.
    let commands = crate::base::limits::PUBLICATIONS_OPEN_MAX as u64 + 40;
    for n in 0..commands {
        story.ask(0, create(&[&format!("t{n}")]));
        while story.disk_turn() || story.report(0) {}
    }
    assert_eq!(story.shards[0].publications as u64, commands + 1);
    let held = story.shards[1].publications;
    assert_eq!(held, crate::base::limits::PUBLICATIONS_OPEN_MAX + 1, "and the first image");
    story.report(1);
    assert_eq!(story.shards[1].publications, held + 1);
    story.settle();
    assert_eq!(story.shards[1].image.as_ref(), Some(story.controller.image()));
    assert_eq!(story.shards[0].answers.len() as u64, commands);
}

#[test]
fn commands_in_flight_are_bounded() {
    let mut story = Story::started();
    let ids: Vec<u64> =
        (0..=COMMANDS_OPEN_MAX).map(|n| story.ask(0, create(&[&format!("t{n}")]))).collect();
    let (last, accepted) = ids.split_last().unwrap();
    assert_eq!(story.code(0, *last), ErrorCode::RequestTimedOut);
    story.settle();
    assert!(accepted.iter().all(|id| story.code(0, *id) == ErrorCode::None));
}

#[test]
fn commands_before_the_start_are_refused() {
    let mut story = Story::on(TestDisk::new(1), options());
    assert_eq!(story.code_of_any_command(), ErrorCode::NotController);
    story.settle();
    assert_eq!(story.notices, [Notice::Started]);
}

#[test]
fn without_space_for_a_snapshot_the_log_goes_on_until_its_reserve_is_used() {
    let mut story = Story::started();
    story.disk.failing = Some(("replace", DiskError::NoSpace));
    let mut created = 0;
    while story.do_it(create(&[&format!("t{created}")])) == ErrorCode::None {
        created += 1;
    }
    assert!(story.notices.contains(&Notice::NoSpaceForSnapshot));
    assert_eq!(story.do_it(delete(&["t0"])), ErrorCode::KafkaStorageError);
    story.disk.failing = None;
    story.now.instant = story.now.instant + SNAPSHOT_RETRY;
    assert_eq!(story.do_it(delete(&["t0"])), ErrorCode::KafkaStorageError, "but it tries again");
    assert_eq!(story.do_it(delete(&["t0"])), ErrorCode::None);
    story = story.restarted();
    story.settle();
    assert_eq!(story.controller.image().topic_count(), created - 1);
}

#[test]
fn a_full_disk_does_not_stop_a_start() {
    let story = Story::started();
    let mut disk = story.disk;
    disk.crash(None);
    disk.segment().truncate(4096);
    disk.failing = Some(("allocate", DiskError::NoSpace));
    let mut story = Story::on(disk, options());
    story.settle();
    assert_eq!(story.notices, [Notice::Started]);
}

/// Whatever is acknowledged is there after any crash; what is not may be.
#[test]
fn acknowledged_commands_survive_crashes_at_any_moment() {
    let log = LogLimits { snapshot_at: 8 << 10, reserve: 16 << 10 };
    let mut snapshots = 0;
    for seed in 0..60 {
        let mut rng = Rng::stream(seed, "crashes");
        let mut disk = TestDisk::new(seed);
        // Names that must be there, and that may be either way.
        let mut known: BTreeMap<String, bool> = BTreeMap::new();
        for life in 0..12 {
            let mut story = Story::on(disk, ControllerOptions { log, ..options() });
            let mut open: BTreeMap<u64, (String, bool)> = BTreeMap::new();
            let mut checked = false;
            for _ in 0..rng.between(1, 400) {
                story.now.instant = story.now.instant + SNAPSHOT_RETRY;
                let op = story.in_flight.front();
                snapshots += u32::from(op.is_some_and(|op| name(&op.kind) == "remove"));
                match rng.below(5) {
                    0 if checked => {
                        let name = format!("topic-{}", rng.below(60));
                        if open.values().any(|(busy, _)| *busy == name) {
                            continue;
                        }
                        let make = rng.chance(2, 3);
                        let command = if make { create(&[&name]) } else { delete(&[&name]) };
                        let id = story.ask(0, command);
                        known.remove(&name);
                        open.insert(id, (name, make));
                    }
                    1 => drop(story.report(0)),
                    2 => drop(story.report(1)),
                    _ => drop(story.disk_turn()),
                }
                if !checked && story.notices == [Notice::Started] {
                    checked = true;
                    for (name, there) in &known {
                        let found = story.controller.image().topic(name).is_some();
                        assert_eq!(found, *there, "seed {seed}, life {life}: {name}");
                    }
                }
                for (id, _) in std::mem::take(&mut story.shards[0].answers) {
                    // Done or refused because it is so already: either way it is so now.
                    let (name, make) = open.remove(&id).expect("asked");
                    known.insert(name, make);
                }
            }
            let failed = story.notices.iter().find(|notice| matches!(notice, Notice::Failed(_)));
            assert_eq!(failed, None, "seed {seed}, life {life}");
            disk = story.disk;
            disk.crash(story.in_flight.pop_front());
        }
    }
    assert!(snapshots > 100, "snapshots are among the moments");
}

#[test]
fn equal_seeds_and_events_give_equal_effects() {
    let run = || {
        let mut story = Story::started();
        let mut trace = Vec::new();
        for n in 0..40 {
            story.ask(n % 2, create(&[&format!("t{n}")]));
            while let Some(op) = story.in_flight.front() {
                if let DiskOpKind::Write { position, bytes, .. } = &op.kind {
                    trace.push((*position, bytes.to_vec()));
                }
                story.disk_turn();
            }
        }
        trace
    };
    assert!(run() == run());
}
