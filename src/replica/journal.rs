//! The journal of a core: one write and one sync for small groups of many logs.
//!
//! States: *off* (of no use now, or not allowed); *making* its two files; *used*; *stuck*
//! for want of space, until the next start. While it is used, logs offer small groups; at
//! the end of the turn they go out as one record, whose sync tells each log. One record
//! is in flight at a time, and who comes meanwhile goes with the next one.
//!
//! It is made when more logs wait for a sync than are synced alone, and is off again when
//! its records have served fewer than two logs on average for a while: then all logs are
//! written out, so that none keeps memory for it.
//!
//! A file that is full rests until every log with something in it has that in its
//! segment, durable; then it can be begun again, with the next epoch. Until then, groups
//! go straight to their segments, and so they do without a page for the record. A log that
//! is offline keeps its file resting: only the journal has what it acknowledged.
//!
//! A failed write or sync is final for the log directory, as that of a log.
//!
//! When all logs are closed the files are removed, for good. What they mean at a start:
//! `controller/replay.rs`; why: `docs/adr/0011-a-journal-for-small-groups.md`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use super::{Deadline, Replicas};
use crate::base::limits::{
    JOURNAL_GROUP_MAX, JOURNAL_OUT_MAX, JOURNAL_WINDOW_MS, JOURNAL_WRITE_MAX,
};
use crate::base::pages::{BLOCK, PageWriter, align_down, align_up};
use crate::base::rope::Rope;
use crate::base::time::Now;
use crate::effect::disk::{DiskError, DiskOp, DiskOpKind, DiskOutput, FileId};
use crate::log::io::{LogOp, LogSlot, tag};
use crate::log::journal::{FRAME_HEAD, Record, beginning, file_name};
use crate::model::ids::{CoreId, TopicPartition};

/// The owner of the journal's operations.
pub(super) const SLOT: LogSlot = LogSlot(u32::MAX - 4);

/// A free disk that has not so many times what the journal takes is too small for one.
const ROOM: u64 = 4;

#[derive(Debug)]
pub(super) struct Journal {
    /// Bytes of one file, whole blocks; 0 for none.
    limit: u64,
    state: State,
    files: [JournalFile; 2],
    /// The one that is written to.
    current: usize,
    /// Of the current file, from 1 on; 0 before the first.
    epoch: u64,
    /// Records in it, the one that begins it included.
    number: u64,
    /// Where the next one goes.
    end: u64,
    record: Record,
    rope: Rope,
    /// Logs that have a group.
    offered: Vec<LogSlot>,
    /// A record is being written or synced.
    busy: bool,
    /// Those whose groups it has; none if it begins a file.
    in_flight: Vec<LogSlot>,
    /// To be written out, for the file that is resting.
    to_write_out: VecDeque<TopicPartition>,
    /// Those that are being written out.
    writing_out: BTreeSet<TopicPartition>,
    /// Records and their frames since the last look.
    records: u64,
    frames: u64,
}

#[derive(Debug, Default)]
struct JournalFile {
    file: Option<FileId>,
    /// Logs that have something in it, and where that ends, once that is known.
    logs: BTreeMap<TopicPartition, Option<i64>>,
}

/// What has become of groups that logs gave for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// They are on their way.
    Yes,
    /// A file is being begun: they have to be given again then.
    Later,
    /// There is no room for them.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Off,
    /// The next step of making it.
    Making(Making),
    Used,
    Stuck,
    /// The next step of removing it.
    Removing(Removing),
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Making {
    Open(usize),
    Allocate(usize),
    Sync(usize),
    SyncDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removing {
    Remove(usize),
    SyncDir,
}

impl Journal {
    pub fn new() -> Self {
        Self {
            limit: 0,
            state: State::Off,
            files: Default::default(),
            current: 0,
            epoch: 0,
            number: 0,
            end: 0,
            record: Record::default(),
            rope: Rope::default(),
            offered: vec![],
            busy: false,
            in_flight: vec![],
            to_write_out: VecDeque::new(),
            writing_out: BTreeSet::new(),
            records: 0,
            frames: 0,
        }
    }

    /// Where logs offer groups, if it is used.
    pub fn groups(&mut self) -> Option<&mut Vec<LogSlot>> {
        (self.state == State::Used).then_some(&mut self.offered)
    }

    /// Whether a turn has something to do at once.
    pub fn has_work(&self) -> bool {
        (!self.offered.is_empty() && !self.busy)
            || (!self.to_write_out.is_empty() && self.writing_out.len() < JOURNAL_OUT_MAX)
    }

    fn exists(&self) -> bool {
        self.files.iter().any(|file| file.file.is_some())
    }

    /// Whether nothing of it is in flight.
    fn is_quiet(&self) -> bool {
        !self.busy && !matches!(self.state, State::Making(_) | State::Removing(_))
    }

    fn other(&self) -> usize {
        1 - self.current
    }

    fn path(core: CoreId, which: usize) -> PathBuf {
        PathBuf::from(file_name(core.0, which))
    }
}

impl Replicas {
    /// Allows a journal of two files of `bytes` each, 0 for none. A small part of the
    /// memory bounds them, since what they have waits there.
    pub fn allow_journal(&mut self, bytes: u64) {
        self.journal.limit = align_down(bytes.min(self.pages.budget() as u64 / 16));
    }

    /// So many logs wait for a sync that they should share more than that.
    pub(super) fn use_journal(&mut self, now: Now, disk: &mut Vec<DiskOp>) {
        let journal = &mut self.journal;
        let running = self.lifecycle.is_running() && self.failed.is_none();
        if journal.limit == 0 || journal.state != State::Off || !running {
            return;
        }
        if journal.exists() {
            journal.state = State::Used;
            return self.watch_journal(now);
        }
        if self.space.room() / ROOM < 2 * journal.limit {
            return;
        }
        tracing::debug!("core {}: many small groups, a journal is made", self.core);
        self.make_journal(Making::Open(0), disk);
    }

    /// Looks after a while whether it is of use.
    fn watch_journal(&mut self, now: Now) {
        (self.journal.records, self.journal.frames) = (0, 0);
        let window = std::time::Duration::from_millis(JOURNAL_WINDOW_MS);
        self.deadlines.insert(now.instant + window, Deadline::Journal);
    }

    /// The while is over.
    pub(super) fn look_at_journal(&mut self, now: Now) {
        if self.journal.state != State::Used {
            return;
        }
        if self.journal.frames >= 2 * self.journal.records.max(1) {
            return self.watch_journal(now);
        }
        tracing::debug!("core {}: few groups, the journal rests", self.core);
        self.journal.state = State::Off;
        self.relieve_journal();
    }

    fn make_journal(&mut self, step: Making, disk: &mut Vec<DiskOp>) {
        self.journal.state = State::Making(step);
        let file = |which: usize| self.journal.files[which].file.expect("it is open");
        let kind = match step {
            Making::Open(which) => {
                let file = self.files.take();
                self.journal.files[which].file = Some(file);
                let path = Journal::path(self.core, which);
                DiskOpKind::Open { file, path, create: true }
            }
            Making::Allocate(which) => {
                let (file, len) = (file(which), self.journal.limit);
                DiskOpKind::Allocate { file, position: 0, len }
            }
            Making::Sync(which) => DiskOpKind::Sync { file: file(which) },
            Making::SyncDir => DiskOpKind::SyncDir { path: PathBuf::new() },
        };
        disk.push(DiskOp { tag: tag(SLOT, LogOp::Chore), kind });
    }

    /// The end of an operation of the journal.
    pub(super) fn on_journal_disk(
        &mut self,
        now: Now,
        op: LogOp,
        result: Result<DiskOutput, DiskError>,
        disk: &mut Vec<DiskOp>,
    ) {
        match (op, self.journal.state) {
            (LogOp::Write, _) => self.on_record_written(now, result, disk),
            (LogOp::Sync, _) => self.on_record_synced(now, result, disk),
            (_, State::Making(step)) => self.on_made(now, step, result, disk),
            (_, State::Removing(step)) => self.on_removed(step, result, disk),
            (op, state) => unreachable!("{op:?} of a journal in state {state:?}"),
        }
    }

    fn on_made(
        &mut self,
        now: Now,
        step: Making,
        result: Result<DiskOutput, DiskError>,
        disk: &mut Vec<DiskOp>,
    ) {
        if let Err(error) = result {
            if let Making::Open(which) = step {
                let file = self.journal.files[which].file.take().expect("it was to be opened");
                self.files.give(file);
            }
            // A sync that has failed had nothing of a log.
            tracing::warn!("core {}: no journal can be made ({error})", self.core);
            self.journal.state = State::Stuck;
            return;
        }
        let next = match step {
            Making::Open(which) => Making::Allocate(which),
            Making::Allocate(which) => Making::Sync(which),
            Making::Sync(0) => Making::Open(1),
            Making::Sync(_) => Making::SyncDir,
            Making::SyncDir => {
                self.journal.state = State::Used;
                return self.watch_journal(now);
            }
        };
        self.make_journal(next, disk);
    }

    /// Sends what logs have offered, in the journal or straight.
    pub(super) fn send_groups(&mut self, disk: &mut Vec<DiskOp>) {
        if self.journal.offered.is_empty() || self.journal.busy {
            return;
        }
        let mut offered = std::mem::take(&mut self.journal.offered);
        let mut record = std::mem::take(&mut self.journal.record);
        record.clear();
        let mut taken = std::mem::take(&mut self.journal.in_flight);
        let usable = self.journal.state == State::Used && self.failed.is_none();
        let most = JOURNAL_WRITE_MAX - FRAME_HEAD - JOURNAL_GROUP_MAX as usize;
        let mut next = 0;
        while next < offered.len() && usable && record.len() <= most {
            let slot = offered[next];
            next += 1;
            let Some((log, mut io)) = self.log(slot.0, disk) else { continue };
            if log.journal_group(&mut record) {
                taken.push(slot);
            } else {
                log.write_straight(&mut io);
            }
        }
        let sent = match record.is_empty() {
            true => Sent::Yes,
            false => self.send_record(&mut record, &taken, disk),
        };
        match sent {
            Sent::Yes if usable => drop(offered.drain(..next)),
            Sent::Later => {
                for slot in &taken {
                    let (log, _) = self.log(slot.0, disk).expect("it gave its group");
                    log.keep_group();
                }
                offered.splice(..next, taken.drain(..));
            }
            Sent::Yes | Sent::Never => {
                for slot in taken.drain(..) {
                    let (log, mut io) = self.log(slot.0, disk).expect("it gave its group");
                    log.take_back_group(&mut io);
                }
                for slot in offered.drain(..).skip(next) {
                    if let Some((log, mut io)) = self.log(slot.0, disk) {
                        log.write_straight(&mut io);
                    }
                }
            }
        }
        self.journal.record = record;
        self.journal.in_flight = taken;
        // What was offered meanwhile comes behind the rest.
        offered.append(&mut self.journal.offered);
        self.journal.offered = offered;
    }

    /// Sends a record, if there is room for it in the journal and in memory.
    fn send_record(
        &mut self,
        record: &mut Record,
        taken: &[LogSlot],
        disk: &mut Vec<DiskOp>,
    ) -> Sent {
        let len = align_up(record.len() as u64);
        let journal = &mut self.journal;
        if len > journal.limit - BLOCK as u64 {
            return Sent::Never;
        }
        if journal.epoch == 0 || journal.end + len > journal.limit {
            return self.begin_file(disk);
        }
        let Some(page) = self.pages.allocate(len as usize) else { return Sent::Never };
        let journal = &mut self.journal;
        let current = &mut journal.files[journal.current];
        for slot in taken {
            let partition = self.partitions.get(slot.0).expect("it gave its group");
            current.logs.insert(partition.id, None);
        }
        journal.records += 1;
        journal.frames += taken.len() as u64;
        self.counters.journal_writes += 1;
        self.counters.journal_groups += taken.len() as u64;
        self.counters.journal_bytes += len;
        let bytes = record.finish(journal.epoch, journal.number);
        self.write_record(page, bytes, disk);
        Sent::Yes
    }

    /// Begins the other file, if nothing in it is needed any more, and has logs leave the
    /// one that is full.
    fn begin_file(&mut self, disk: &mut Vec<DiskOp>) -> Sent {
        let journal = &mut self.journal;
        let full = journal.current;
        let next = if journal.epoch == 0 { full } else { journal.other() };
        if !journal.files[next].logs.is_empty() {
            return Sent::Never;
        }
        let Some(page) = self.pages.allocate(BLOCK) else { return Sent::Never };
        let bytes = beginning(journal.epoch + 1, journal.number);
        journal.current = next;
        journal.epoch += 1;
        (journal.number, journal.end) = (0, 0);
        self.write_record(page, &bytes, disk);
        if next != full {
            self.write_journal_out(full);
        }
        Sent::Later
    }

    /// Writes the next record, `bytes`, on `page`.
    fn write_record(&mut self, mut page: PageWriter, bytes: &[u8], disk: &mut Vec<DiskOp>) {
        page.put(bytes);
        page.pad_to_block();
        let journal = &mut self.journal;
        let mut bytes = std::mem::take(&mut journal.rope);
        bytes.push(page.slice(0..page.len()));
        let file = journal.files[journal.current].file;
        let file = file.expect("a journal that is used has its files");
        let position = journal.end;
        journal.end += page.len() as u64;
        journal.number += 1;
        journal.busy = true;
        let kind = DiskOpKind::Write { file, position, bytes };
        disk.push(DiskOp { tag: tag(SLOT, LogOp::Write), kind });
    }

    fn on_record_written(
        &mut self,
        now: Now,
        result: Result<DiskOutput, DiskError>,
        disk: &mut Vec<DiskOp>,
    ) {
        match result {
            Ok(output) => {
                if let DiskOutput::Written { mut bytes } = output {
                    bytes.clear();
                    self.journal.rope = bytes;
                }
                let current = &self.journal.files[self.journal.current];
                let file = current.file.expect("it was written to");
                let kind = DiskOpKind::Sync { file };
                disk.push(DiskOp { tag: tag(SLOT, LogOp::Sync), kind });
            }
            Err(error) => self.on_record_synced(now, Err(error), disk),
        }
    }

    fn on_record_synced(
        &mut self,
        now: Now,
        result: Result<DiskOutput, DiskError>,
        disk: &mut Vec<DiskOp>,
    ) {
        if let Err(error) = result {
            // Another one may succeed without having written anything.
            self.failed.get_or_insert(error);
        }
        self.journal.busy = false;
        // A failed sync of everything may have been about this write.
        let result = self.failed.map_or(Ok(()), Err);
        let mut in_flight = std::mem::take(&mut self.journal.in_flight);
        for slot in in_flight.drain(..) {
            let result = result.map(|()| DiskOutput::Done);
            self.on_log_disk(now, slot, LogOp::Journal, result, disk);
        }
        // Keeps its memory.
        self.journal.in_flight = in_flight;
    }

    /// The file `which` is to be used again: has all logs written out that need it.
    fn write_journal_out(&mut self, which: usize) {
        let journal = &mut self.journal;
        let logs = journal.files[which].logs.iter().filter(|(_, end)| end.is_none());
        journal.to_write_out.extend(logs.map(|(log, _)| *log));
    }

    /// Goes on with writing out.
    pub(super) fn write_logs_out(&mut self, disk: &mut Vec<DiskOp>) {
        while self.journal.writing_out.len() < JOURNAL_OUT_MAX
            && let Some(id) = self.journal.to_write_out.pop_front()
        {
            // It was deleted, and its records with it.
            let Some(slot) = self.by_id.get(&id).copied() else { continue };
            let (log, mut io) = self.log(slot, disk).expect("what was used stays open");
            let end = log.write_out(&mut io);
            for known in self.journal.files.iter_mut().filter_map(|file| file.logs.get_mut(&id)) {
                *known = Some(end);
                self.journal.writing_out.insert(id);
            }
            self.note_written_out(slot);
        }
    }

    /// Takes note of what is durable in the segments of a log.
    pub(super) fn note_written_out(&mut self, slot: u32) {
        if !self.journal.exists() {
            return;
        }
        let Some(partition) = self.partitions.get(slot) else { return };
        let Some(log) = &partition.log else { return };
        let (id, durable) = (partition.id, log.durable_end());
        if !self.journal.writing_out.contains(&id) || log.offline().is_some() {
            return;
        }
        let mut waits = false;
        for file in &mut self.journal.files {
            match file.logs.get(&id) {
                Some(Some(end)) if durable >= *end => {
                    file.logs.remove(&id);
                }
                Some(Some(_)) => waits = true,
                _ => {}
            }
        }
        if !waits {
            self.journal.writing_out.remove(&id);
        }
    }

    /// A partition is gone, and nothing of it is needed.
    pub(super) fn forget_in_journal(&mut self, id: &TopicPartition) {
        for file in &mut self.journal.files {
            file.logs.remove(id);
        }
        self.journal.writing_out.remove(id);
    }

    /// What logs have in the journal takes what others need: memory, or files.
    pub(super) fn relieve_journal(&mut self) {
        if self.journal.to_write_out.is_empty() {
            self.write_journal_out(self.journal.other());
            self.write_journal_out(self.journal.current);
        }
    }

    /// All logs are closed: removes the journal. True when nothing is left to do.
    pub(super) fn clear_journal(&mut self, keep: bool, disk: &mut Vec<DiskOp>) -> bool {
        if !self.journal.is_quiet() {
            return false;
        }
        if !self.journal.exists() || self.journal.state == State::Removed {
            return true;
        }
        for which in 0..2 {
            if let Some(file) = self.journal.files[which].file {
                disk.push(DiskOp {
                    tag: tag(SLOT, LogOp::Ignore),
                    kind: DiskOpKind::Close { file },
                });
                self.files.give(file);
            }
        }
        if keep {
            self.journal.state = State::Removed;
            return true;
        }
        self.remove_journal(Removing::Remove(0), disk);
        false
    }

    fn remove_journal(&mut self, step: Removing, disk: &mut Vec<DiskOp>) {
        self.journal.state = State::Removing(step);
        let kind = match step {
            Removing::Remove(which) => DiskOpKind::Remove { path: Journal::path(self.core, which) },
            Removing::SyncDir => DiskOpKind::SyncDir { path: PathBuf::new() },
        };
        disk.push(DiskOp { tag: tag(SLOT, LogOp::Chore), kind });
    }

    fn on_removed(
        &mut self,
        step: Removing,
        result: Result<DiskOutput, DiskError>,
        disk: &mut Vec<DiskOp>,
    ) {
        if let Err(error) = result {
            tracing::error!("core {}: cannot remove the journal: {error}", self.core);
            self.lifecycle.note_failed();
            self.journal.state = State::Removed;
            return;
        }
        match step {
            Removing::Remove(0) => self.remove_journal(Removing::Remove(1), disk),
            Removing::Remove(_) => self.remove_journal(Removing::SyncDir, disk),
            Removing::SyncDir => self.journal.state = State::Removed,
        }
    }
}
