//! The partitions of one core: their logs, who leads them, who waits for them.
//!
//! [`Replicas`] takes pieces of requests ([`work`]) and gives each back exactly
//! once, through [`Replicas::finished`]. Produce pieces wait in purgatory until
//! the high watermark passes them, fetch pieces until there are bytes or their
//! deadline passes. With one replica the high watermark is the end of what the
//! log has committed.
//!
//! Logs are opened on first use; after an unclean stop all of them are loaded
//! in the background, a few at a time (`lifecycle.rs`).

mod cleanup;
mod compaction;
mod delete_records;
mod fetch;
mod journal;
mod keys;
mod lifecycle;
mod lookups;
mod partition;
mod produce;
mod retention;
mod space;
mod syncs;
#[cfg(test)]
mod tests;
mod timestamps;

pub mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use self::cleanup::Cleanup;
pub use self::compaction::Cleaning;
use self::compaction::Compactor;
use self::delete_records::PendingDelete;
use self::fetch::ParkedFetch;
use self::journal::Journal;
use self::lifecycle::Lifecycle;
use self::lookups::Lookup;
use self::partition::{Partition, Waiting};
use self::produce::PendingProduce;
use self::retention::Sweeps;
use self::space::Space;
use self::syncs::Syncs;
pub use self::timestamps::TimestampBounds;
use self::work::{DeleteRecordsOutcome, Origin, Work};
use crate::base::deadlines::Deadlines;
use crate::base::limits::OPEN_FILES_MAX;
use crate::base::pages::{BLOCK, PagePool, PageWriter};
use crate::base::slab::Slab;
use crate::base::time::{Instant, Now};
use crate::effect::disk::{DiskCompletion, DiskError, DiskOp, DiskOutput};
use crate::log::closed_logs::ClosedLogs;
use crate::log::compaction::CompactionConfig;
use crate::log::io::{FileIds, LogIo, LogOp, LogSlot, untag};
use crate::log::recovery_points::RecoveryPoints;
use crate::log::retention::Retention;
use crate::log::{Found, Log, LogConfig, Offline};
use crate::model::error_code::ErrorCode;
use crate::model::ids::{CoreId, LeaderEpoch, TopicName, TopicPartition};

/// Logs that are asked in one turn to close their files.
const RELEASE_LOOKS: u32 = 64;

/// How long who waits for memory may wait for an event.
const MEMORY_POLL: Duration = Duration::from_millis(10);

/// Plain counters of one core's partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaCounters {
    /// Batches appended to logs of this core.
    pub appended_batches: u64,
    /// Bytes of those batches.
    pub appended_bytes: u64,
    /// Fetch pieces answered.
    pub fetches: u64,
    /// Bytes given to fetches.
    pub fetched_bytes: u64,
    /// Writes of the journal.
    pub journal_writes: u64,
    /// Groups of logs in them.
    pub journal_groups: u64,
    /// Bytes of those writes.
    pub journal_bytes: u64,
}

/// How many logs of one core are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Partitions.
    pub partitions: usize,
    /// Logs that are open or loading, the offline ones included.
    pub open: usize,
    /// Logs that serve nothing until a restart.
    pub offline: usize,
}

/// What a partition needs to know of its topic's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionConfig {
    /// Settings of its log.
    pub log: LogConfig,
    /// What it keeps.
    pub retention: Retention,
    /// What it is compacted by, if it is: all records must have keys then.
    pub compaction: Option<CompactionConfig>,
    /// `max.message.bytes`.
    pub max_message_bytes: usize,
    /// The timestamps it takes.
    pub timestamps: TimestampBounds,
    /// `flush.ms`: a written record is synced so long after it at the latest.
    pub flush_after: Option<Duration>,
}

/// All partitions of one core.
#[derive(Debug)]
pub struct Replicas {
    core: CoreId,
    partitions: Slab<Partition>,
    by_id: BTreeMap<TopicPartition, u32>,
    /// Which partition's log uses a directory. Names compare faster than paths.
    dirs: BTreeMap<OsString, u32>,
    pages: PagePool,
    files: FileIds,
    /// Files of logs that may stay open.
    open_files_max: usize,
    /// Where the search for files to close goes on.
    release_from: u32,
    pending: Slab<PendingProduce>,
    parked: Slab<ParkedFetch>,
    /// Searches that go on in the next turns.
    lookups: VecDeque<Lookup>,
    deleting: Slab<PendingDelete>,
    deadlines: Deadlines<Deadline>,
    /// Partitions to flush before the turn ends.
    dirty: Vec<u32>,
    /// Partitions whose logs want a checkpoint.
    checkpoint_due: Vec<u32>,
    finished: Vec<(Origin, Work)>,
    lifecycle: Lifecycle,
    space: Space,
    syncs: Syncs,
    journal: Journal,
    cleanup: Cleanup,
    sweeps: Sweeps,
    compactor: Compactor,
    /// The log directory has failed.
    failed: Option<DiskError>,
    recovery_points: RecoveryPoints,
    /// What the last stop has kept of logs that were not opened since.
    closed_logs: ClosedLogs,
    /// Partitions whose next append found no memory.
    starved: BTreeSet<u32>,
    /// A block for the log that is to rest, there even if no memory is left.
    spare: Option<PageWriter>,
    /// A look at what waits for memory is due.
    look_armed: bool,
    /// There was no memory for a read: none begins until the next look.
    reads_pause: bool,
    /// Where the search for pages to evict goes on.
    evict_from: u32,
    counters: ReplicaCounters,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deadline {
    /// Of a pending produce.
    Produce(u32),
    /// Of a parked fetch.
    Fetch(u32),
    /// The disk was full.
    Space,
    /// Of a piece of DeleteRecords.
    DeleteRecords(u32),
    /// Old records are to be looked for.
    Sweep,
    /// Logs to compact are to be looked for.
    Compaction,
    /// Compaction waits for memory.
    CompactionMemory,
    /// Compaction has read and written as much as it may for a while.
    CompactionRest,
    /// Of a partition's `flush.ms`.
    Flush(u32),
    /// Whether the journal is of use.
    Journal,
    /// Somebody waits for memory. Pages come back without an event when another
    /// core gives them back.
    Memory,
}

impl Replicas {
    /// No partitions yet. `memory` is the budget of the logs' pages, bytes;
    /// `clean` says that the broker closed all logs before it stopped.
    pub fn new(core: CoreId, memory: usize, clean: bool) -> Self {
        let mut pages = PagePool::new(memory);
        let spare = pages.allocate(BLOCK);
        Self {
            core,
            partitions: Slab::default(),
            by_id: BTreeMap::new(),
            dirs: BTreeMap::new(),
            pages,
            spare,
            files: FileIds::default(),
            open_files_max: OPEN_FILES_MAX,
            release_from: 0,
            pending: Slab::default(),
            parked: Slab::default(),
            lookups: VecDeque::new(),
            deleting: Slab::default(),
            deadlines: Deadlines::default(),
            dirty: vec![],
            checkpoint_due: vec![],
            finished: vec![],
            lifecycle: Lifecycle::new(clean),
            space: Space::new(),
            syncs: Syncs::new(),
            journal: Journal::new(),
            cleanup: Cleanup::default(),
            sweeps: Sweeps::new(),
            compactor: Compactor::new(),
            failed: None,
            recovery_points: RecoveryPoints::new(),
            closed_logs: ClosedLogs::default(),
            starved: BTreeSet::new(),
            look_armed: false,
            reads_pause: false,
            evict_from: 0,
            counters: ReplicaCounters::default(),
        }
    }

    /// Counters since the start.
    pub fn counters(&self) -> ReplicaCounters {
        self.counters
    }

    /// Bytes of pages in use by logs and the answers read from them.
    pub fn memory_in_use(&mut self) -> usize {
        let spare = self.spare.as_ref().map_or(0, PageWriter::capacity);
        self.pages.in_use() - spare
    }

    /// Partitions that are there.
    pub fn partition_count(&self) -> usize {
        self.by_id.len()
    }

    /// How many logs are in which state.
    pub fn census(&self) -> Census {
        let mut census = Census { partitions: self.by_id.len(), ..Census::default() };
        for log in self.partitions.iter().filter_map(|(_, partition)| partition.log.as_ref()) {
            census.open += 1;
            census.offline += usize::from(log.offline().is_some());
        }
        census
    }

    /// The budget of the logs' pages, bytes.
    pub fn memory_budget(&self) -> usize {
        self.pages.budget()
    }

    /// Pieces waiting for anything.
    pub fn waiting_count(&self) -> usize {
        let parked = self.partitions.iter().map(|(_, partition)| partition.lookups.len());
        let lookups = self.lookups.len() + parked.sum::<usize>();
        self.pending.len() + self.parked.len() + self.deleting.len() + lookups
    }

    /// Finished pieces, to be given back to their origins.
    pub fn finished(&mut self) -> std::vec::Drain<'_, (Origin, Work)> {
        self.finished.drain(..)
    }

    /// When the next deadline passes.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    /// Whether a turn has something to do at once.
    pub fn has_work(&self) -> bool {
        // Old records are nobody's business any more when the stop has begun.
        let cleans = self.sweeps.has_work() || self.compactor.has_work();
        !self.dirty.is_empty()
            || !self.lookups.is_empty()
            || (cleans && self.lifecycle.is_running())
            || self.syncs.has_work()
            || self.journal.has_work()
    }

    /// Takes on a partition of topic `name`, led by this broker.
    pub fn add(
        &mut self,
        id: TopicPartition,
        name: &TopicName,
        leader_epoch: LeaderEpoch,
        config: PartitionConfig,
    ) {
        let dir = PathBuf::from(format!("{name}-{}", id.partition));
        let slot = self.partitions.insert(Partition::new(id, dir, leader_epoch, config));
        self.by_id.insert(id, slot);
        self.found(slot);
    }

    /// Lets a partition go by other settings from now on. False if it is not here.
    pub fn configure(
        &mut self,
        now: Now,
        id: TopicPartition,
        config: PartitionConfig,
        disk: &mut Vec<DiskOp>,
    ) -> bool {
        let Some(slot) = self.by_id.get(&id).copied() else { return false };
        let partition = self.partitions.get_mut(slot).expect("it was in the table");
        if partition.config != config {
            partition.config = config;
            if partition.log.is_some() {
                self.advance(now, slot, disk);
            }
        }
        true
    }

    /// Tells the log of a partition what it goes by, once it can be used: how it
    /// is loaded follows from what it went by before.
    fn configure_log(&mut self, slot: u32, disk: &mut Vec<DiskOp>) {
        let config = self.partitions.get(slot).expect("a partition that is there").config.log;
        if let Some((log, mut io)) = self.log(slot, disk)
            && log.is_ready()
            && log.config() != config
        {
            log.configure(config, &mut io);
        }
    }

    /// Lets a partition go and deletes its log. Whoever waits for it is told
    /// that it is unknown.
    pub fn remove(&mut self, now: Now, id: TopicPartition, disk: &mut Vec<DiskOp>) {
        let Some(slot) = self.by_id.remove(&id) else { return };
        self.recovery_points.remove(&id);
        self.forget_in_journal(&id);
        self.closed_logs.records.remove(&id);
        let partition = self.partitions.get_mut(slot).expect("it was in the table");
        partition.removed = true;
        self.fail_waiting(slot, ErrorCode::UnknownTopicOrPartition, disk);
        self.look_at_deletions();
        self.wake_fetches(now, slot, disk);
        if self.lifecycle.logs_clean().is_some() {
            self.delete_log(slot, disk);
        } // Otherwise it is deleted as soon as logs may be opened.
    }

    /// Deletes what is on disk of a partition that is let go.
    fn delete_log(&mut self, slot: u32, disk: &mut Vec<DiskOp>) {
        self.open_log(slot, disk);
        match self.log(slot, disk) {
            Some((log, mut io)) => log.delete(&mut io),
            // Its directory is still the one of its predecessor.
            None => {
                self.lifecycle.note_gone(slot);
                self.partitions.remove(slot);
            }
        }
    }

    /// Takes a piece of a request. It is finished at once or later.
    pub fn submit(&mut self, now: Now, origin: Origin, work: Work, disk: &mut Vec<DiskOp>) {
        match work {
            Work::Produce(work) => self.produce(now, origin, work, disk),
            Work::Fetch(work) => self.fetch(now, origin, work, disk),
            Work::ListOffsets(_) | Work::EpochEnds(_) => self.look_up(origin, work, disk),
            Work::DeleteRecords(work) => self.delete_records(now, origin, work, disk),
            Work::LogDirs(work) => self.describe_log_dirs(origin, work, disk),
        }
    }

    /// The end of a disk operation that these partitions asked for.
    pub fn on_disk(&mut self, now: Now, completion: DiskCompletion, disk: &mut Vec<DiskOp>) {
        let (slot, op) = untag(completion.tag);
        if slot == lifecycle::SLOT {
            self.on_lifecycle_disk(completion.result, disk);
            if self.is_unreadable() {
                self.refuse_waiting(now, disk);
            }
            return;
        }
        if op == LogOp::Ignore {
            return;
        }
        if slot == cleanup::SLOT {
            return self.on_cleaned_up(completion.result, disk);
        }
        if slot == space::SLOT {
            return self.on_space_disk(op, completion.result, disk);
        }
        if slot == syncs::SLOT {
            return self.on_synced_all(now, completion.result, disk);
        }
        if slot == journal::SLOT {
            return self.on_journal_disk(now, op, completion.result, disk);
        }
        self.syncs.note_end(op);
        self.on_log_disk(now, slot, op, completion.result, disk);
    }

    /// The end of a disk operation of a log.
    fn on_log_disk(
        &mut self,
        now: Now,
        slot: LogSlot,
        op: LogOp,
        result: Result<DiskOutput, DiskError>,
        disk: &mut Vec<DiskOp>,
    ) {
        let (log, mut io) = self.log(slot.0, disk).expect("a log stays until it is quiet");
        log.on_disk(op, result, &mut io);
        self.compactor.wake(slot.0);
        if op == LogOp::Sync {
            self.note_written_out(slot.0);
        }
        self.advance(now, slot.0, disk);
    }

    /// Does what a turn leaves to do: flushes, deadlines, memory, checkpoints.
    pub fn turn(&mut self, now: Now, disk: &mut Vec<DiskOp>) {
        self.tell_synced(now, disk);
        while let Some(deadline) = self.deadlines.pop_due(now.instant) {
            match deadline {
                Deadline::Produce(key) => self.produce_timed_out(key),
                Deadline::Fetch(key) => self.fetch_timed_out(now, key, disk),
                Deadline::Space => self.look_for_space(disk),
                Deadline::DeleteRecords(key) => self.deletion_timed_out(key),
                Deadline::Sweep => self.sweeps.begin(),
                Deadline::Compaction => self.compactor.begin(),
                Deadline::CompactionMemory => self.compactor.wake_any(),
                Deadline::CompactionRest => self.compactor.rested(),
                Deadline::Flush(slot) => self.flush_due(slot, disk),
                Deadline::Journal => self.look_at_journal(now),
                Deadline::Memory => {
                    self.look_armed = false;
                    self.reads_pause = false;
                    self.relieve_journal();
                }
            }
        }
        self.trim_memory();
        for slot in std::mem::take(&mut self.starved) {
            if self.partitions.get(slot).is_some() {
                self.retry_waiting(now, slot, disk);
                self.wake_lookups(slot, disk);
            }
        }
        self.search_on(disk);
        self.release_files(disk);
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            if let Some(partition) = self.partitions.get_mut(slot) {
                partition.dirty = false;
            }
            if let Some((log, mut io)) = self.log(slot, disk) {
                log.flush(&mut io);
            }
        }
        self.dirty = dirty;
        self.sweep(now, disk);
        self.compaction_turn(now, disk);
        self.lifecycle_turn(disk);
        self.write_logs_out(disk);
        self.send_groups(disk);
        self.send_syncs(now, disk);
        self.space_turn(now);
        let starves = !self.starved.is_empty() || self.reads_pause || self.loads_wait_for_memory();
        if starves && !self.look_armed {
            self.look_armed = true;
            self.deadlines.insert(now.instant + MEMORY_POLL, Deadline::Memory);
        }
    }

    /// The open log of a partition, with what it may use.
    fn log<'a>(
        &'a mut self,
        slot: u32,
        disk: &'a mut Vec<DiskOp>,
    ) -> Option<(&'a mut Log, LogIo<'a>)> {
        let log = self.partitions.get_mut(slot)?.log.as_mut()?;
        let room = self.space.room();
        let (pages, files, may_read) = (&mut self.pages, &mut self.files, !self.reads_pause);
        let syncs = self.syncs.wanted();
        let groups = self.journal.groups();
        Some((log, LogIo { disk, syncs, pages, files, room, may_read, groups }))
    }

    /// Opens the log of a partition unless it is open, or its directory is not
    /// free yet, or the checkpoints are not read yet.
    fn open_log(&mut self, slot: u32, disk: &mut Vec<DiskOp>) {
        let Some(clean) = self.lifecycle.logs_clean() else { return };
        let partition = self.partitions.get_mut(slot).expect("a partition that is there");
        if partition.log.is_some() || self.dirs.contains_key(partition.dir.as_os_str()) {
            return;
        }
        self.dirs.insert(partition.dir.clone().into(), slot);
        let failed = self.failed;
        let recovery_point = self.recovery_points.get(&partition.id).copied().unwrap_or(0);
        let room = self.space.room();
        let (pages, files, may_read) = (&mut self.pages, &mut self.files, !self.reads_pause);
        let syncs = self.syncs.wanted();
        let mut io = LogIo { disk, syncs, pages, files, room, may_read, groups: None };
        let (id, dir) = (partition.id, partition.dir.clone());
        let config = partition.config.log;
        let closed = self.closed_logs.records.remove(&id);
        let found = Found { recovery_point, clean, closed };
        let mut log = Log::open(LogSlot(slot), id, dir, config, found, &mut io);
        if let Some(error) = failed {
            log.fail(Offline::Directory(error));
        }
        if log.is_loading() {
            self.lifecycle.note_loading(slot);
        }
        partition.log = Some(log);
    }

    /// Acts on what changed in a partition's log: answers what the high
    /// watermark passed, tries again what had to wait.
    fn advance(&mut self, now: Now, slot: u32, disk: &mut Vec<DiskOp>) {
        let partition = self.partitions.get(slot).expect("a log belongs to a partition");
        let log = partition.log.as_ref().expect("the caller has a log");
        let starved = log.waits_for_space();
        if starved {
            self.note_starved(slot, disk);
        }
        let partition = self.partitions.get(slot).expect("a log belongs to a partition");
        let log = partition.log.as_ref().expect("the caller has a log");
        if log.is_renamed_away() || log.is_closed() {
            return self.log_left(slot, disk);
        }
        if let Some(reason) = log.offline() {
            if let Offline::Directory(error) = reason {
                self.failed.get_or_insert(*error);
            }
            self.fail_waiting(slot, ErrorCode::KafkaStorageError, disk);
            self.go_on_deleting(slot, disk);
        } else {
            self.configure_log(slot, disk);
            self.complete_produced(slot);
            self.retry_waiting(now, slot, disk);
            self.wake_lookups(slot, disk);
            self.arm_flush(now, slot);
        }
        self.look_at_deletions();
        self.wake_fetches(now, slot, disk);
        self.note_progress(slot);
    }

    /// What fails while a log is about to be deleted does not keep it from that.
    fn go_on_deleting(&mut self, slot: u32, disk: &mut Vec<DiskOp>) {
        if self.partitions.get(slot).is_some_and(|partition| partition.removed)
            && let Some((log, mut io)) = self.log(slot, disk)
            && !log.is_removing()
        {
            log.delete(&mut io);
        }
    }

    /// Written records of a partition with `flush.ms` are synced in time.
    fn arm_flush(&mut self, now: Now, slot: u32) {
        let partition = self.partitions.get_mut(slot).expect("a partition that is there");
        if let Some(after) = partition.config.flush_after
            && !partition.flush_armed
            && partition.ready_log().is_some_and(Log::is_unsynced)
        {
            partition.flush_armed = true;
            self.deadlines.insert(now.instant + after, Deadline::Flush(slot));
        }
    }

    fn flush_due(&mut self, slot: u32, disk: &mut Vec<DiskOp>) {
        // The number may have passed to another partition, which loses nothing
        // by an early sync.
        if let Some(partition) = self.partitions.get_mut(slot) {
            partition.flush_armed = false;
        }
        if let Some((log, mut io)) = self.log(slot, disk) {
            log.sync_now(&mut io);
        }
    }

    /// Answers all parked fetches with what there is.
    pub fn cancel_fetches(&mut self) {
        let origins: Vec<Origin> = self.parked.iter().map(|(_, parked)| parked.origin()).collect();
        for origin in origins {
            self.cancel_fetch(origin);
        }
    }

    /// Why the log directory has failed, if it has.
    pub fn directory_failure(&self) -> Option<DiskError> {
        self.failed
    }

    /// Takes every log offline: the log directory has failed, here or on another
    /// core. Nothing is acknowledged or served from it until a restart.
    pub fn fail_directory(&mut self, now: Now, error: DiskError, disk: &mut Vec<DiskOp>) {
        self.failed = Some(error);
        let slots: Vec<u32> = self.partitions.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            let removed = self.partitions.get(slot).is_some_and(|partition| partition.removed);
            if let Some((log, _)) = self.log(slot, disk)
                && log.offline().is_none()
                && !removed
            {
                log.fail(Offline::Directory(error));
                self.advance(now, slot, disk);
            } else {
                self.fail_waiting(slot, ErrorCode::KafkaStorageError, disk);
            }
        }
    }

    /// The directory of a log is free, or the log is done.
    fn log_left(&mut self, slot: u32, disk: &mut Vec<DiskOp>) {
        let partition = self.partitions.get(slot).expect("a log belongs to a partition");
        let log = partition.log.as_ref().expect("the caller has a log");
        let (closed, removed) = (log.is_closed(), partition.removed);
        let (dir, recovery_point) = (partition.dir.clone(), log.recovery_point());
        if removed {
            if self.dirs.get(dir.as_os_str()) == Some(&slot) {
                self.dirs.remove(dir.as_os_str());
                self.open_successor(&dir, disk);
            }
            if closed {
                self.lifecycle.note_gone(slot);
                self.partitions.remove(slot);
            }
        } else if closed {
            let id = partition.id;
            self.recovery_points.insert(id, recovery_point);
            self.lifecycle.note_gone(slot);
        }
    }

    /// Opens the log that waited for a directory of this name.
    fn open_successor(&mut self, dir: &PathBuf, disk: &mut Vec<DiskOp>) {
        let next = self
            .partitions
            .iter()
            .find(|(_, partition)| !partition.removed && partition.dir == *dir && partition.wanted);
        if let Some((slot, _)) = next {
            self.open_log(slot, disk);
        }
    }

    /// Makes sure that a partition's log is open or will be.
    fn want(&mut self, slot: u32, disk: &mut Vec<DiskOp>) {
        let partition = self.partitions.get_mut(slot).expect("a partition that is there");
        partition.wanted = true;
        if partition.log.is_none() {
            self.open_log(slot, disk);
        }
    }

    /// Answers what waits in a partition for its log with `error`.
    fn fail_waiting(&mut self, slot: u32, error: ErrorCode, disk: &mut Vec<DiskOp>) {
        let partition = self.partitions.get_mut(slot).expect("a partition that is there");
        let waiting = std::mem::take(&mut partition.waiting);
        let produced = std::mem::take(&mut partition.produced);
        for waiting in waiting {
            match waiting {
                Waiting::Produce(waiter) => self.fail_produce(waiter, error),
                // A log that is gone or offline has a size, too.
                Waiting::LogDirs(origin, work) => self.describe_log_dirs(origin, work, disk),
                Waiting::DeleteRecords(origin, mut work) => {
                    for item in &mut work.items {
                        item.outcome = DeleteRecordsOutcome::error(error);
                    }
                    self.finished.push((origin, Work::DeleteRecords(work)));
                }
            }
        }
        for (_, waiter) in produced {
            self.fail_produce(waiter, error);
        }
        self.fail_lookups(slot, error);
    }

    /// Tries again what had to wait for the log to load or to have room.
    fn retry_waiting(&mut self, now: Now, slot: u32, disk: &mut Vec<DiskOp>) {
        let partition = self.partitions.get_mut(slot).expect("a partition that is there");
        if partition.is_loading() || partition.waiting.is_empty() {
            return;
        }
        let mut waiting: VecDeque<Waiting> = std::mem::take(&mut partition.waiting);
        while let Some(next) = waiting.pop_front() {
            match next {
                Waiting::Produce(waiter) => {
                    if !self.append(now, slot, waiter, disk) {
                        waiting.push_front(Waiting::Produce(waiter));
                        break;
                    }
                }
                Waiting::DeleteRecords(origin, work) => {
                    self.delete_records(now, origin, work, disk);
                }
                Waiting::LogDirs(origin, work) => self.describe_log_dirs(origin, work, disk),
            }
        }
        let partition = self.partitions.get_mut(slot).expect("a partition that is there");
        // Whatever was queued behind meanwhile stays behind.
        waiting.append(&mut partition.waiting);
        partition.waiting = waiting;
    }

    /// Lets no more than `max` files of logs that rest stay open, at least one.
    pub fn limit_open_files(&mut self, max: usize) {
        self.open_files_max = max.clamp(1, OPEN_FILES_MAX);
    }

    /// Lets no more than `max` syncs of single files be in flight: beyond that,
    /// logs share one of all files.
    pub fn limit_syncs_alone(&mut self, max: usize) {
        self.syncs.limit_alone(max);
    }

    /// Closes files of logs that rest while too many are open.
    fn release_files(&mut self, disk: &mut Vec<DiskOp>) {
        if self.files.open() <= self.open_files_max {
            return;
        }
        let slots = self.partitions.end();
        for _ in 0..slots.min(RELEASE_LOOKS) {
            if self.files.open() <= self.open_files_max {
                return;
            }
            self.release_from = (self.release_from + 1) % slots;
            if let Some((log, mut io)) = self.log(self.release_from, disk) {
                log.release_files(&mut io);
            }
        }
        if self.files.open() > self.open_files_max.saturating_mul(2) {
            self.relieve_journal();
        }
    }

    /// Keeps resident pages within the budget, oldest first, a log at a time.
    fn trim_memory(&mut self) {
        let budget = self.pages.budget();
        let high = budget / 4 * 3;
        if self.pages.in_use() > high {
            // Some more than is needed now, for it takes a walk over all logs.
            let excess = self.pages.in_use() - (high - budget / 32);
            let rest = excess.saturating_sub(self.evict_cold(excess, None));
            let tails: usize = self
                .partitions
                .iter()
                .filter_map(|(_, one)| one.log.as_ref())
                .map(Log::resident)
                .sum();
            // Memory that readers of old records take is not taken from the tails.
            let beyond = tails.saturating_sub(budget / 2);
            if rest.min(beyond) > 0 {
                self.evict_tails(rest.min(beyond));
            }
        }
    }

    /// Makes room for a read of the log at `slot`; returns how much. What others
    /// have read goes, but no tail, unless nothing at all is being read.
    fn evict_for_read(&mut self, slot: u32, bytes: usize) -> usize {
        if self.reads_pause {
            return 0;
        }
        let freed = self.evict_cold(bytes, Some(slot));
        if freed > 0 {
            return freed;
        }
        let reads_cold = |(_, one): (_, &Partition)| one.log.as_ref().is_some_and(Log::reads_cold);
        let reads_cold = self.partitions.iter().any(reads_cold);
        let freed = if reads_cold { 0 } else { self.evict_tails(bytes) };
        self.reads_pause |= freed == 0;
        freed
    }

    /// Lets go of about `bytes` that were read from disk. The reader at `reader`
    /// keeps its newest page: it needs what that says of where to read on.
    fn evict_cold(&mut self, bytes: usize, reader: Option<u32>) -> usize {
        let mut freed = 0;
        for (slot, partition) in self.partitions.iter_mut() {
            if freed >= bytes {
                break;
            }
            let keep = usize::from(reader == Some(slot));
            freed += partition.log.as_mut().map_or(0, |log| log.evict_cold(keep));
        }
        freed
    }

    /// Makes room for batches that come in; returns how much.
    fn evict(&mut self, bytes: usize) -> usize {
        let freed = self.evict_cold(bytes, None);
        if freed < bytes { freed + self.evict_tails(bytes - freed) } else { freed }
    }

    /// Lets go of about `bytes` resident bytes, if the disk has so many.
    fn evict_tails(&mut self, bytes: usize) -> usize {
        let slots = self.partitions.end();
        let mut freed = 0;
        for _ in 0..slots {
            if freed >= bytes {
                break;
            }
            self.evict_from = (self.evict_from + 1) % slots;
            if let Some(partition) = self.partitions.get_mut(self.evict_from)
                && let Some(log) = &mut partition.log
            {
                freed += log.evict(bytes - freed);
            }
        }
        // Logs that rest give up their last pages only if nothing else is left.
        self.spare = self.spare.take().or_else(|| self.pages.allocate(BLOCK));
        for _ in 0..slots {
            if freed >= bytes {
                break;
            }
            self.evict_from = (self.evict_from + 1) % slots;
            let before = self.pages.in_use();
            if let Some(partition) = self.partitions.get_mut(self.evict_from)
                && let Some(log) = &mut partition.log
                && log.shrink(&mut self.spare)
            {
                self.spare = self.spare.take().or_else(|| self.pages.allocate(BLOCK));
                freed += before.saturating_sub(self.pages.in_use()).max(1);
            }
        }
        freed
    }
}
