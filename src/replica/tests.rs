//! Stories of one core's partitions on a disk in memory.

mod closed;
mod compaction;
mod journal;
mod retention;
mod syncs;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::work::{
    DeleteRecordsItem, DeleteRecordsOutcome, DeleteRecordsWork, FetchItem, FetchOutcome, FetchWork,
    ListOffsetsItem, ListOffsetsOutcome, ListOffsetsWork, LogDirsItem, LogDirsWork, Origin,
    ProduceItem, ProduceOutcome, ProduceWork, Work,
};
use super::{PartitionConfig, Replicas, TimestampBounds};
use crate::base::pages::PagePool;
use crate::base::rope::Rope;
use crate::base::time::{Instant, Now};
use crate::effect::disk::{DiskError, DiskOp, DiskOpKind, FileId};
use crate::effect::memory_disk::MemoryDisk;
use crate::log::LogConfig;
use crate::log::retention::Retention;
use crate::model::error_code::ErrorCode as E;
use crate::model::ids::{CoreId, LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use crate::model::record::{BatchBuilder, Codec};

const MEMORY: usize = 16 << 20;
/// The deadline of a core at rest: its first look for logs to compact.
const REST: Option<Instant> = Some(Instant::from_nanos(15_000_000_000));
const SEGMENT: &str = "00000000000000000000.log";

struct Core {
    replicas: Replicas,
    disk: MemoryDisk,
    ops: Vec<DiskOp>,
    now: Now,
    /// Where requests come from.
    pages: PagePool,
    next: u64,
    finished: Vec<(Origin, Work)>,
}

fn id(topic: u8) -> TopicPartition {
    TopicPartition { topic: TopicId([topic; 16]), partition: PartitionIndex(0) }
}

fn config() -> PartitionConfig {
    PartitionConfig {
        log: LogConfig::default(),
        retention: Retention::default(),
        compaction: None,
        max_message_bytes: 8 << 20,
        timestamps: TimestampBounds::default(),
        flush_after: None,
    }
}

fn batch(records: usize, bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..records {
        builder.push(1, None, Some(&vec![b'x'; bytes / records]), &[]);
    }
    builder.finish()
}

fn is_sync(kind: &DiskOpKind) -> bool {
    matches!(kind, DiskOpKind::Sync { .. })
}

fn is_open(kind: &DiskOpKind) -> bool {
    matches!(kind, DiskOpKind::Open { .. })
}

fn is_read(kind: &DiskOpKind) -> bool {
    matches!(kind, DiskOpKind::Read { .. })
}

fn is_removal(kind: &DiskOpKind) -> bool {
    matches!(kind, DiskOpKind::Rename { .. } | DiskOpKind::Remove { .. })
}

impl Core {
    fn on(disk: MemoryDisk, memory: usize, clean: bool) -> Self {
        let mut core = Self {
            replicas: Replicas::new(CoreId(0), memory, clean),
            disk,
            ops: vec![],
            now: Now::default(),
            pages: PagePool::new(256 << 20),
            next: 0,
            finished: vec![],
        };
        core.replicas.start(&mut core.ops);
        core
    }

    fn new() -> Self {
        Self::on(MemoryDisk::default(), MEMORY, true)
    }

    fn add(&mut self, topic: u8) {
        self.add_named(topic, &format!("t{topic}"));
    }

    fn add_named(&mut self, topic: u8, name: &str) {
        self.add_with(topic, name, LogConfig::default());
    }

    fn add_with(&mut self, topic: u8, name: &str, log: LogConfig) {
        let config = PartitionConfig { log, ..config() };
        self.replicas.add(id(topic), &name.into(), LeaderEpoch(0), config);
    }

    fn remove(&mut self, topic: u8) {
        self.replicas.remove(self.now, id(topic), &mut self.ops);
    }

    fn submit(&mut self, work: Work) -> Origin {
        self.next += 1;
        let origin = Origin { core: CoreId(3), id: self.next };
        self.replicas.submit(self.now, origin, work, &mut self.ops);
        origin
    }

    /// A batch to topic `topic`, waited for one second.
    fn produce(&mut self, topic: u8, batch: &[u8]) -> Origin {
        let mut page = self.pages.allocate(batch.len()).expect("within budget");
        page.put(batch);
        let item = ProduceItem {
            topic_partition: id(topic),
            place: 0,
            records: Some(page.slice(0..batch.len())),
            outcome: ProduceOutcome::error(E::None, None),
        };
        let deadline = self.now.instant + Duration::from_secs(1);
        self.submit(Work::Produce(ProduceWork { acks: -1, deadline, items: vec![item] }))
    }

    /// Reads these partitions from these offsets on, for a second at most.
    fn fetch(&mut self, max_bytes: usize, from: &[(u8, i64)]) -> Origin {
        let items = (0..).zip(from).map(|(place, (topic, fetch_offset))| FetchItem {
            topic_partition: id(*topic),
            place,
            fetch_offset: *fetch_offset,
            max_bytes,
            current_leader_epoch: -1,
            outcome: FetchOutcome::default(),
        });
        let deadline = self.now.instant + Duration::from_secs(1);
        let items = items.collect();
        self.submit(Work::Fetch(FetchWork { min_bytes: 1, deadline, max_bytes, items }))
    }

    fn wait(&mut self, ms: u64) {
        self.now.instant = self.now.instant + Duration::from_millis(ms);
        self.run();
    }

    fn run(&mut self) {
        loop {
            self.replicas.turn(self.now, &mut self.ops);
            if self.ops.is_empty() {
                break;
            }
            for op in std::mem::take(&mut self.ops) {
                if let Some(done) = self.disk.perform(op) {
                    self.replicas.on_disk(self.now, done, &mut self.ops);
                }
            }
        }
        self.finished.extend(self.replicas.finished());
    }

    fn release(&mut self) {
        for done in self.disk.release() {
            self.replicas.on_disk(self.now, done, &mut self.ops);
        }
        self.run();
    }

    fn result(&mut self, origin: Origin) -> Option<Work> {
        let at = self.finished.iter().position(|(of, _)| *of == origin)?;
        Some(self.finished.remove(at).1)
    }

    /// Error and base offset of a finished produce.
    fn produced(&mut self, origin: Origin) -> Option<(E, i64)> {
        let Work::Produce(work) = self.result(origin)? else { panic!("asked for a produce") };
        Some((work.items[0].outcome.error, work.items[0].outcome.base_offset))
    }

    /// Error and bytes by partition of a finished fetch.
    fn fetched(&mut self, origin: Origin) -> Option<Vec<(E, Vec<u8>)>> {
        let Work::Fetch(work) = self.result(origin)? else { panic!("asked for a fetch") };
        let outcome = |item: &FetchItem| (item.outcome.error, item.outcome.records.to_vec());
        Some(work.items.iter().map(outcome).collect())
    }

    /// The end of a log as its consumers may see it.
    fn end(&mut self, topic: u8) -> i64 {
        let origin = self.list(topic, -1);
        self.run();
        let Some(Work::ListOffsets(work)) = self.result(origin) else { panic!("not finished") };
        assert_eq!(work.items[0].outcome.error, E::None);
        work.items[0].outcome.offset
    }

    fn list(&mut self, topic: u8, timestamp: i64) -> Origin {
        self.submit(Work::ListOffsets(ListOffsetsWork {
            items: vec![ListOffsetsItem {
                topic_partition: id(topic),
                place: 0,
                timestamp,
                current_leader_epoch: -1,
                outcome: ListOffsetsOutcome::error(E::None),
            }],
        }))
    }

    /// Stops; returns whether every log was closed.
    fn close(&mut self) -> Option<bool> {
        self.replicas.close(&mut self.ops);
        self.run();
        self.replicas.stopped()
    }

    /// The same disk under a process that knows nothing.
    fn restart(&self, clean: bool) -> Self {
        Self::on(self.disk.reopened(), MEMORY, clean)
    }
}

#[test]
fn a_produce_that_times_out_may_still_commit() {
    let mut core = Core::new();
    core.add(1);
    core.disk.hold = Some(is_sync);
    let early = core.produce(1, &batch(2, 10));
    core.run();
    core.wait(500);
    let late = core.produce(1, &batch(1, 10));
    core.wait(499);
    assert_eq!(core.produced(early), None);
    core.wait(1);
    assert_eq!(core.produced(early).map(|(error, _)| error), Some(E::RequestTimedOut));
    core.release();
    assert_eq!(core.produced(late), Some((E::None, 2)), "the offsets of the first are taken");
    assert_eq!((core.end(1), core.replicas.waiting_count()), (3, 0));
}

#[test]
fn requests_wait_in_order_until_the_log_is_there() {
    let mut core = Core::new();
    core.disk.hold = Some(|_| true);
    core.add(1);
    let first = core.produce(1, &batch(1, 10));
    let second = core.produce(1, &batch(1, 10));
    let end = core.list(1, -1);
    let read = core.fetch(1 << 20, &[(1, 0)]);
    core.run();
    assert!(core.finished.is_empty());
    core.release();
    assert_eq!(
        (core.produced(first), core.produced(second)),
        (Some((E::None, 0)), Some((E::None, 1)))
    );
    assert!(core.fetched(read).is_some_and(|rows| !rows[0].1.is_empty()));
    // It waited for the log, not for the batches before it.
    let Some(Work::ListOffsets(work)) = core.result(end) else { panic!("not finished") };
    assert_eq!((work.items[0].outcome.error, work.items[0].outcome.offset), (E::None, 0));
}

#[test]
fn offsets_that_cannot_be_looked_up() {
    let mut core = Core::new();
    core.add(1);
    for (topic, timestamp, error) in [
        (1, -2, E::None),
        (1, -4, E::None),
        (1, -3, E::None),
        (1, 1_700_000_000_000, E::None),
        (2, -1, E::UnknownTopicOrPartition),
    ] {
        let origin = core.list(topic, timestamp);
        core.run();
        let Some(Work::ListOffsets(work)) = core.result(origin) else { panic!("not finished") };
        assert_eq!(work.items[0].outcome.error, error, "{topic} {timestamp}");
    }
}

#[test]
fn a_fetch_keeps_to_its_limits_but_for_its_first_batch() {
    let mut core = Core::new();
    core.add(1);
    core.add(2);
    let (small, large) = (batch(1, 100), batch(1, 50_000));
    for (topic, batch) in [(1, &large), (1, &small), (2, &small), (2, &large)] {
        core.produce(topic, batch);
    }
    core.run();
    let lens = |core: &mut Core, max: usize, from: &[(u8, i64)]| {
        let origin = core.fetch(max, from);
        core.run();
        let rows = core.fetched(origin).expect("there is something");
        rows.into_iter().map(|(error, bytes)| (error, bytes.len())).collect::<Vec<_>>()
    };
    let (s, l) = (small.len(), large.len());
    let everything = lens(&mut core, 1 << 20, &[(1, 0), (2, 0)]);
    assert_eq!(everything, [(E::None, l + s), (E::None, l + s)]);
    // The first batch found comes whole, and uses up the limit.
    assert_eq!(lens(&mut core, 1_000, &[(1, 0), (2, 0)]), [(E::None, l), (E::None, 0)]);
    assert_eq!(lens(&mut core, 1_000, &[(1, 2), (2, 1)]), [(E::None, 0), (E::None, l)]);
    // A later one may be cut short.
    assert_eq!(lens(&mut core, 1_000, &[(2, 0), (1, 1)]), [(E::None, 1_000), (E::None, 0)]);
    assert_eq!(lens(&mut core, 1_000, &[(1, 3)]), [(E::OffsetOutOfRange, 0)]);
}

#[test]
fn a_cancelled_fetch_comes_back_with_what_there_is() {
    let mut core = Core::new();
    core.add(1);
    core.end(1);
    let parked = core.fetch(1 << 20, &[(1, 0)]);
    let other = core.fetch(1 << 20, &[(1, 0)]);
    core.run();
    core.replicas.cancel_fetch(parked);
    core.replicas.cancel_fetch(parked);
    core.run();
    assert_eq!(core.fetched(parked), Some(vec![(E::None, vec![])]));
    assert_eq!((core.fetched(other), core.replicas.waiting_count()), (None, 1));
    core.wait(1_000);
    assert!(core.fetched(other).is_some() && core.replicas.next_deadline() == REST);
}

#[test]
fn what_a_full_memory_refuses_comes_in_when_the_disk_has_caught_up() {
    let mut core = Core::on(MemoryDisk::default(), 2 << 20, true);
    core.add(1);
    core.end(1);
    core.disk.hold = Some(is_sync);
    let batch = batch(1, 200_000);
    let origins: Vec<Origin> = (0..40).map(|_| core.produce(1, &batch)).collect();
    core.run();
    assert!(core.finished.is_empty());
    core.release();
    let done: Vec<_> = origins.into_iter().map(|origin| core.produced(origin)).collect();
    let expected: Vec<_> = (0..40).map(|offset| Some((E::None, offset))).collect();
    assert_eq!(done, expected);
    assert!(core.replicas.memory_in_use() <= 2 << 20);
    // What memory let go of is read from the disk.
    let read = core.fetch(1 << 20, &[(1, 0)]);
    core.run();
    let rows = core.fetched(read).expect("the disk answers");
    assert!(rows[0].1.len() >= batch.len() && rows[0].1[61..1000] == batch[61..1000]);
}

#[test]
fn who_found_no_memory_is_not_forgotten() {
    let mut core = Core::new();
    core.add(3);
    core.produce(3, &batch(1, 300_000));
    core.run();
    assert_eq!(core.close(), Some(true));

    let mut core = Core::on(core.disk.reopened(), 2 << 20, true);
    (1..=3).for_each(|topic| core.add(topic));
    assert_eq!((core.end(1), core.end(2)), (0, 0));
    core.disk.hold = Some(is_sync);
    let large = batch(1, 200_000);
    let filling: Vec<Origin> = (0..10).map(|_| core.produce(1, &large)).collect();
    core.run();
    // One appends to a log that does nothing else, one has its log to load.
    let (idle, loads) = (core.produce(2, &large), core.produce(3, &large));
    core.run();
    assert!(core.finished.is_empty());
    core.release();
    assert!(filling.into_iter().all(|origin| core.produced(origin).is_some()));
    core.wait(50);
    assert_eq!(core.produced(idle), Some((E::None, 0)));
    assert_eq!(core.produced(loads), Some((E::None, 1)));
    assert_eq!(core.replicas.next_deadline(), REST, "nobody waits any more");
}

#[test]
fn idle_partitions_give_way_to_busy_ones() {
    let mut core = Core::on(MemoryDisk::default(), 8 << 20, true);
    let batch = batch(1, 700_000);
    for topic in 0..30 {
        core.add(topic);
        let origin = core.produce(topic, &batch);
        core.run();
        assert_eq!(core.produced(origin), Some((E::None, 0)), "topic {topic}");
    }
    // All of them go on where they stopped.
    for topic in 0..30 {
        let origin = core.produce(topic, &batch);
        core.run();
        assert_eq!(core.produced(origin), Some((E::None, 1)), "topic {topic}");
    }
    let mut core = core.restart(false);
    (0..30).for_each(|topic| core.add(topic));
    core.run();
    assert_eq!(core.replicas.recovering(), 0);
    assert!((0..30).all(|topic| core.end(topic) == 2), "and what is on disk is whole");
}

#[test]
fn a_clean_restart_goes_on_and_a_killed_one_checks_every_log_first() {
    let mut core = Core::new();
    for topic in [1, 2] {
        core.add(topic);
        core.produce(topic, &batch(3, 500));
    }
    core.run();
    assert_eq!(core.close(), Some(true));

    let mut core = core.restart(true);
    core.add(1);
    core.add(2);
    core.run();
    assert_eq!(core.disk.open_files(), 0, "logs open when they are used");
    assert_eq!(core.end(1), 3);
    core.produce(1, &batch(2, 500));
    core.run();

    // Killed: what was synced is there, and no log waits to be asked for.
    let mut early = core.restart(false);
    early.run();
    assert_eq!(early.close(), Some(false), "nobody knows yet what there is to check");
    let mut core = core.restart(false);
    core.add(1);
    core.add(2);
    core.replicas.all_added();
    core.disk.hold = Some(is_read);
    core.run();
    assert_eq!(core.replicas.recovering(), 2);
    assert_eq!(core.disk.held(), 2);
    core.release();
    assert_eq!(core.replicas.recovering(), 0);
    assert_eq!((core.end(1), core.end(2)), (5, 3));
    assert_eq!(core.close(), Some(true));
    let exact = batch(3, 500).len() + batch(2, 500).len();
    assert_eq!(core.disk.files[&Path::new("t1-0").join(SEGMENT)].len(), exact);
}

#[test]
fn damage_is_told_from_a_torn_end() {
    let run = |damage: fn(&mut Vec<u8>), clean: bool| {
        let mut core = Core::new();
        core.add(1);
        for _ in 0..3 {
            core.produce(1, &batch(1, 500));
            core.run();
        }
        if clean {
            assert_eq!(core.close(), Some(true));
        }
        let mut core = core.restart(clean);
        let file = core.disk.files.get_mut(&Path::new("t1-0").join(SEGMENT)).expect("it is there");
        damage(file);
        core.add(1);
        let end = core.list(1, -1);
        core.run();
        let Some(Work::ListOffsets(work)) = core.result(end) else { panic!("not finished") };
        (work.items[0].outcome.error, work.items[0].outcome.offset)
    };
    let len = batch(1, 500).len();
    assert_eq!(len, 570);
    assert_eq!(run(|_| (), false), (E::None, 3));
    // The last batch, as a power loss may leave it.
    assert_eq!(run(|file| file[2 * 570 + 100] ^= 1, false), (E::None, 2));
    // The same in a log that was closed, and behind nothing at all.
    assert_eq!(run(|file| file[2 * 570 + 100] ^= 1, true), (E::KafkaStorageError, -1));
    assert_eq!(run(|file| file.truncate(2 * 570), true), (E::KafkaStorageError, -1));
}

#[test]
fn the_name_of_a_deleted_topic_is_free_again() {
    let mut core = Core::new();
    core.add_named(1, "name");
    core.produce(1, &batch(1, 10));
    core.run();
    core.disk.hold = Some(is_removal);
    core.remove(1);
    core.run();
    // The new topic waits for the directory; a third one never gets as far.
    core.add_named(2, "name");
    let waiting = core.produce(2, &batch(1, 10));
    core.run();
    core.remove(2);
    core.run();
    assert_eq!(core.produced(waiting), Some((E::UnknownTopicOrPartition, -1)));
    core.add_named(3, "name");
    let waiting = core.produce(3, &batch(1, 10));
    core.run();
    assert!(core.produced(waiting).is_none());
    core.release();
    assert_eq!(core.produced(waiting), Some((E::None, 0)));
    assert_eq!(core.replicas.partitions.len(), 1, "nothing is left of the others");
    assert_eq!(core.disk.dirs.len(), 1);
}

#[test]
fn a_topic_that_is_deleted_while_its_log_loads_leaves_nothing_open() {
    let mut core = Core::new();
    core.add(1);
    core.produce(1, &batch(1, 10));
    core.run();
    assert_eq!(core.close(), Some(true));
    for hold in [is_open as fn(&DiskOpKind) -> bool, is_read, |kind| {
        matches!(kind, DiskOpKind::ReadDir { .. })
    }] {
        let mut core = core.restart(true);
        core.run();
        core.add(1);
        core.disk.hold = Some(hold);
        let waiting = core.produce(1, &batch(1, 10));
        core.run();
        assert_eq!(core.disk.held(), 1);
        core.remove(1);
        core.run();
        assert_eq!(core.produced(waiting), Some((E::UnknownTopicOrPartition, -1)));
        core.release();
        assert_eq!((core.disk.open_files(), core.disk.dirs.len()), (0, 0));
        assert_eq!((core.replicas.partitions.len(), core.replicas.memory_in_use()), (0, 0));
    }
}

#[test]
fn a_topic_that_is_deleted_before_the_directory_is_read_goes_too() {
    let mut core = Core::new();
    core.add(1);
    core.produce(1, &batch(1, 10));
    core.run();
    for clean in [true, false] {
        let mut core = core.restart(clean);
        core.add(1);
        core.remove(1);
        core.run();
        assert!(core.disk.dirs.is_empty() && core.disk.open_files() == 0);
        assert_eq!((core.replicas.partitions.len(), core.replicas.recovering()), (0, 0));
    }
}

#[test]
fn a_stop_before_anything_was_read_leaves_logs_as_clean_as_they_were() {
    let mut core = Core::new();
    core.add(1);
    core.produce(1, &batch(1, 10));
    core.run();
    assert_eq!(core.close(), Some(true));
    for clean in [true, false] {
        let mut core = core.restart(clean);
        core.add(1);
        assert_eq!(core.close(), Some(clean));
    }
}

#[test]
fn who_asks_for_a_log_of_an_unreadable_directory_is_told_at_once() {
    let mut core = Core::new();
    core.add(1);
    core.disk.fail = Some((|kind| matches!(kind, DiskOpKind::ListDir { .. }), DiskError::NoSpace));
    let storage = E::KafkaStorageError;
    for read in [false, true] {
        assert_eq!(core.replicas.is_unreadable(), read);
        let produced = core.produce(1, &batch(1, 10));
        let fetched = core.fetch(1 << 20, &[(1, 0)]);
        let asked = [
            core.list(1, -1),
            core.submit(Work::DeleteRecords(DeleteRecordsWork {
                deadline: core.now.instant + Duration::from_secs(1),
                items: vec![DeleteRecordsItem {
                    topic_partition: id(1),
                    place: 0,
                    offset: -1,
                    outcome: DeleteRecordsOutcome::error(E::None),
                }],
            })),
            core.submit(Work::LogDirs(LogDirsWork {
                items: vec![LogDirsItem { topic_partition: id(1), place: 0, size: None }],
                ..LogDirsWork::default()
            })),
        ];
        core.run();
        assert_eq!(core.produced(produced).map(|(error, _)| error), Some(storage));
        assert_eq!(core.fetched(fetched), Some(vec![(storage, vec![])]));
        for origin in asked {
            let error = match core.result(origin) {
                Some(Work::ListOffsets(work)) => work.items[0].outcome.error,
                Some(Work::DeleteRecords(work)) => work.items[0].outcome.error,
                Some(Work::LogDirs(work)) => work.error,
                other => panic!("not finished: {other:?}"),
            };
            assert_eq!(error, storage);
        }
        assert_eq!(core.replicas.waiting_count(), 0);
    }
    assert_eq!(core.close(), Some(false));
}

#[test]
fn a_stop_waits_for_deletions_that_are_under_way() {
    let mut core = Core::new();
    core.add(1);
    core.produce(1, &batch(1, 10));
    core.run();
    core.disk.hold = Some(is_removal);
    core.remove(1);
    core.run();
    assert_eq!(core.close(), None);
    core.release();
    core.release();
    assert_eq!(core.replicas.stopped(), Some(true));
    assert!(core.disk.dirs.is_empty());
}

#[test]
fn a_log_that_failed_is_deleted_whatever_it_was_doing() {
    let kinds: [fn(&DiskOpKind) -> bool; 5] = [
        |kind| matches!(kind, DiskOpKind::CreateDir { .. }),
        is_open,
        |kind| matches!(kind, DiskOpKind::SyncNew { .. }),
        |kind| matches!(kind, DiskOpKind::Write { .. }),
        is_sync,
    ];
    for hold in kinds {
        let mut core = Core::new();
        core.run();
        core.add_named(1, "name");
        core.disk.hold = Some(hold);
        core.produce(1, &batch(1, 10));
        core.run();
        assert_eq!(core.disk.held(), 1);
        core.replicas.fail_directory(core.now, DiskError::Io(5), &mut core.ops);
        core.remove(1);
        core.release();
        assert_eq!((core.disk.open_files(), core.disk.dirs.len()), (0, 0));
        assert_eq!((core.replicas.partitions.len(), core.replicas.memory_in_use()), (0, 0));
    }
}

#[test]
fn what_fails_in_a_log_that_is_to_be_deleted_does_not_keep_it() {
    let kinds: [fn(&DiskOpKind) -> bool; 4] = [
        is_open,
        |kind| matches!(kind, DiskOpKind::Allocate { .. }),
        |kind| matches!(kind, DiskOpKind::Write { .. }),
        is_sync,
    ];
    for which in kinds {
        let mut core = Core::new();
        core.run();
        core.add_named(1, "name");
        core.disk.hold = Some(which);
        core.produce(1, &batch(1, 10));
        core.run();
        core.remove(1);
        core.disk.fail = Some((which, DiskError::Io(5)));
        core.release();
        assert_eq!((core.disk.open_files(), core.disk.dirs.len()), (0, 0));
        assert_eq!((core.replicas.partitions.len(), core.replicas.memory_in_use()), (0, 0));
        // A failed write or sync is one of the whole directory, whose log ever it was.
        let failed = core.replicas.directory_failure().is_some();
        assert_eq!(failed, which(&DiskOpKind::Sync { file: FileId(0) }) || is_write(which));
    }
}

/// Whether `which` means writes.
fn is_write(which: fn(&DiskOpKind) -> bool) -> bool {
    which(&DiskOpKind::Write { file: FileId(0), position: 0, bytes: Rope::default() })
}

#[test]
fn what_deletions_have_left_is_removed_at_the_next_start() {
    let mut core = Core::new();
    core.add(1);
    core.produce(1, &batch(1, 100));
    core.run();
    core.close();
    let mut disk = core.disk.reopened();
    for left in ["gone-0.00ff-delete", "t1-0.AAAA-stray", "odd-stray-0"] {
        disk.dirs.insert(left.into());
        disk.files.insert(Path::new(left).join(SEGMENT), vec![1]);
    }
    let mut core = Core::on(disk, MEMORY, true);
    core.run();
    let names: Vec<&Path> = core.disk.dirs.iter().map(|dir| dir.as_path()).collect();
    assert_eq!(names, [Path::new("odd-stray-0"), Path::new("t1-0")]);
    assert_eq!(core.disk.files.keys().filter(|path| path.ends_with(SEGMENT)).count(), 2);
}

#[test]
fn readers_of_old_records_leave_the_tails_alone() {
    let mut core = Core::new();
    core.add(1);
    for _ in 0..30 {
        core.produce(1, &batch(1, 1 << 20));
        core.run();
    }
    core.close();
    let mut core = core.restart(true);
    core.add(1);
    core.add(2);
    for _ in 0..4 {
        core.produce(2, &batch(1, 1 << 20));
        core.run();
    }
    for offset in 0..30 {
        let origin = core.fetch(2 << 20, &[(1, offset)]);
        core.run();
        assert_eq!(core.fetched(origin).expect("it is read")[0].0, E::None);
    }
    core.disk.hold = Some(is_read);
    let origin = core.fetch(8 << 20, &[(2, 0)]);
    core.run();
    let fetched = core.fetched(origin).expect("it is resident");
    assert_eq!((core.disk.held(), fetched[0].1.len()), (0, 4 * batch(1, 1 << 20).len()));
}

#[test]
fn what_is_written_and_never_synced_does_not_hold_the_memory() {
    let mut core = Core::new();
    core.add_with(1, "t1", LogConfig { flush_messages: u64::MAX, ..LogConfig::default() });
    for offset in 0..40 {
        let origin = core.produce(1, &batch(1, 1 << 20));
        core.run();
        assert_eq!(core.produced(origin), Some((E::None, offset)));
    }
    for offset in 0..40 {
        let origin = core.fetch(2 << 20, &[(1, offset)]);
        core.run();
        assert_eq!(core.fetched(origin).expect("it is read")[0].0, E::None);
    }
}

#[test]
fn a_reader_for_whose_batch_there_is_no_memory_waits_and_does_not_spin() {
    let mut core = Core::new();
    core.add(1);
    for _ in 0..30 {
        core.produce(1, &batch(1, 1 << 20));
        core.run();
    }
    core.close();
    let mut core = core.restart(true);
    core.add(1);
    // Answers that nobody takes keep their pages.
    let origins: Vec<Origin> = (0..30)
        .map(|offset| {
            let origin = core.fetch(2 << 20, &[(1, offset)]);
            core.run();
            origin
        })
        .collect();
    assert!(core.finished.len() < 30, "all of it fits");
    let mut left = origins;
    for _ in 0..30 {
        left.retain(|origin| match core.fetched(*origin) {
            Some(rows) => {
                assert_eq!(rows[0].0, E::None);
                false
            }
            None => true,
        });
        core.wait(100);
    }
    assert_eq!(left, [], "room was made for all");
}

#[test]
fn few_files_stay_open_however_many_logs_are_used() {
    let mut core = Core::new();
    core.replicas.limit_open_files(4);
    (1..=30).for_each(|topic| core.add(topic));
    for round in 0..3 {
        for topic in 1..=30 {
            let sent = core.produce(topic, &batch(1, 100));
            core.run();
            assert_eq!(core.produced(sent), Some((E::None, round)), "{topic}");
        }
        (0..10).for_each(|_| core.wait(1));
        assert!(core.disk.open_files() <= 4, "{} files are open", core.disk.open_files());
    }
    assert_eq!((1..=30).map(|topic| core.end(topic)).sum::<i64>(), 90);
    assert_eq!(core.close(), Some(true));
    assert_eq!(core.disk.open_files(), 0);
}
