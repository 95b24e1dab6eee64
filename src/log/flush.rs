//! The way to the disk: write, sync, preallocate, roll, close.
//!
//! At most one write, one sync and one preallocation are in flight per log.
//! A write takes all that was appended since the last one; the sync that
//! follows its completion covers it, and everything that arrives meanwhile
//! shares the next one (group commit). The next write may go out while a sync
//! is in flight.
//!
//! A segment is written to only when everything before it is durable: its file
//! is made after the sealed one's last sync. So the file of a later segment
//! proves that the earlier ones are whole, and recovery relies on it.
//!
//! While a journal is used (`groups.rs`), a small group waits in the tail instead of
//! being written: it is durable in the journal.
//!
//! A time index is written before the offset index beside it: what the offset
//! index covers, the time index on disk covers too.

use super::groups::Journaled;
use super::io::{LogIo, LogOp};
use super::segment::SegmentFile;
use super::{Chore, EPOCHS_FILE, Log, METADATA_FILE, Mark, Offline, State, Then};
use crate::base::limits::{CHECKPOINT_BYTES, PREALLOCATE_MAX, PREALLOCATE_MIN};
use crate::base::pages::{align_down, align_up};
use crate::base::rope::Rope;
use crate::effect::disk::{DiskError, DiskOpKind, DiskOutput, FileId};

/// How far each stage has come, and what is in flight.
#[derive(Debug)]
pub(super) struct Flush {
    /// Handed to the disk.
    pub submitted: Mark,
    /// Written: survives the process.
    pub written: Mark,
    /// Synced: survives the power.
    pub durable: Mark,
    /// What may have been acknowledged by settings that are no longer gone by.
    pub promised: Mark,
    /// Bytes appended and not submitted.
    pub pending_bytes: usize,
    pub spare_rope: Option<Rope>,
    /// What is durable elsewhere, and what of the log has to leave there.
    pub journal: Journaled,
    /// The epochs' file is older than the epochs.
    pub epochs_changed: bool,
    /// Bytes written since the last checkpoint began.
    pub unchecked_bytes: u64,
    /// `flush.ms` asks for a sync.
    pub(super) sync_wanted: bool,
    writing: Option<Mark>,
    syncing: Option<Mark>,
    /// What the preallocation in flight will make the file's length.
    allocating: Option<(i64, u64)>,
    preallocate: u64,
}

impl Flush {
    pub fn new(at: Mark) -> Self {
        Self {
            submitted: at,
            written: at,
            durable: at,
            promised: at,
            pending_bytes: 0,
            spare_rope: None,
            journal: Journaled::new(at),
            epochs_changed: false,
            unchecked_bytes: 0,
            sync_wanted: false,
            writing: None,
            syncing: None,
            allocating: None,
            preallocate: PREALLOCATE_MIN,
        }
    }

    /// Everything up to `at` is durable, as loading found it.
    pub fn restart(&mut self, at: Mark) {
        (self.submitted, self.written, self.durable) = (at, at, at);
        self.promised = at;
        self.journal.restart(at);
    }

    pub fn is_quiet(&self) -> bool {
        self.writing.is_none()
            && self.syncing.is_none()
            && self.allocating.is_none()
            && !self.journal.is_busy()
    }
}

impl Log {
    /// Hands to the disk what can be handed now.
    pub fn flush(&mut self, io: &mut LogIo<'_>) {
        if !matches!(self.state, State::Ready | State::Closing) {
            return;
        }
        if self.flush.writing.is_none() {
            self.write(io);
        }
        self.sync(io);
        self.move_start(io);
        let ends = matches!(self.state, State::Closing) && self.is_all_durable();
        if ends && self.flush.epochs_changed && self.dir_made {
            self.push_epochs();
        }
        self.roll_empty(io);
        if matches!(self.state, State::Closing) && self.is_all_durable() && self.is_quiet() {
            self.push_close(io);
        }
        self.next_chore(io);
    }

    fn is_all_durable(&self) -> bool {
        self.flush.durable.offset == self.end.offset && self.chores.is_empty()
    }

    /// Submits the next write, or whatever has to come before it.
    fn write(&mut self, io: &mut LogIo<'_>) {
        if !self.has_pending() || self.rests_in_journal(io) {
            return;
        }
        if self.flush.epochs_changed && self.dir_made {
            self.push_epochs();
        }
        let submitted = self.flush.submitted;
        let segment = self.segment(submitted.segment).expect("what is submitted has a segment");
        if submitted.position == segment.size {
            // The next segment waits for this one's sync, and the cut of this
            // one must not be undone by a preallocation.
            let busy = self.flush.allocating.is_some() || self.flush.journal.is_busy();
            if self.flush.durable == submitted && !busy {
                match segment.file {
                    // It was given back, and has to be cut.
                    SegmentFile::Closed => self.open_segment(submitted.segment, io),
                    SegmentFile::Opening(_) => {}
                    SegmentFile::Open(_) | SegmentFile::Absent => {
                        self.next_segment(submitted, io);
                    }
                }
            }
            return;
        }
        let (size, allocated) = (segment.size, segment.allocated);
        let file = match segment.file {
            SegmentFile::Open(file) => file,
            SegmentFile::Opening(_) => return,
            SegmentFile::Absent => return self.make_segment(submitted.segment, io),
            SegmentFile::Closed => return self.open_segment(submitted.segment, io),
        };
        let needed = align_up(size);
        let held = align_up(allocated);
        // Nobody takes much of what little is left.
        let ahead = self.flush.preallocate.min(align_down(io.room / 4));
        // After a start many logs may be written to at once, and most records fit the
        // block in which a file was cut.
        let grows = held < needed || self.flush.preallocate > PREALLOCATE_MIN;
        if self.flush.allocating.is_none() && grows && held < needed + ahead / 2 {
            // Not beyond what the segment may become.
            let step = ahead.max(needed.saturating_sub(held));
            let limit = align_up(self.config.segment_bytes).max(needed);
            let target = (held + step).min(limit);
            if target > held {
                self.flush.preallocate = (self.flush.preallocate * 2).min(PREALLOCATE_MAX);
                self.flush.allocating = Some((submitted.segment, target));
                let (position, len) = (held, target - held);
                io.push(self.slot, LogOp::Allocate, DiskOpKind::Allocate { file, position, len });
            }
        }
        if held < needed || self.offers_group(io) {
            return;
        }
        let mut bytes = self.take_rope();
        self.tail.submit(submitted.segment, submitted.position..size, &mut bytes);
        let end = self.segment_end(submitted.segment);
        self.flush.pending_bytes -= (end.position - submitted.position) as usize;
        self.flush.unchecked_bytes += end.position - submitted.position;
        self.flush.submitted = end;
        self.flush.writing = Some(end);
        let segment = self.segment_mut(submitted.segment).expect("seen above");
        segment.allocated = segment.allocated.max(needed);
        segment.time_index.keep();
        let position = align_down(submitted.position);
        io.push(self.slot, LogOp::Write, DiskOpKind::Write { file, position, bytes });
    }

    /// The end of what was appended to the segment with this base offset.
    pub(super) fn segment_end(&self, base: i64) -> Mark {
        let after = self.segments.partition_point(|segment| segment.base_offset <= base);
        let offset = self.segments.get(after).map_or(self.end.offset, |next| next.base_offset);
        Mark { offset, segment: base, position: self.segments[after - 1].size }
    }

    /// Seals the segment that ends at `end` and moves on to the one after it.
    pub(super) fn next_segment(&mut self, end: Mark, io: &mut LogIo<'_>) {
        let next = Mark { offset: end.offset, segment: end.offset, position: 0 };
        self.flush.restart(next);
        self.make_segment(next.segment, io);
        self.push_seal(end.segment, Then::SegmentSealed(end.segment));
    }

    /// Cuts the segment to its exact length, makes that durable and writes its index.
    fn push_seal(&mut self, base: i64, then: Then) {
        let segment = self.segment(base).expect("a segment is sealed while it is there");
        let (size, index) = (segment.size, segment.index.encode(segment.size));
        let time_index = segment.time_index.encode_sealed();
        if let SegmentFile::Open(file) = segment.file {
            self.push_cut(file, size, Then::Next("syncing a segment"));
        }
        let end = self.segment_end(base);
        self.push_snapshot(end.offset);
        self.push_time_index(base, time_index);
        let path = self.path(base, "index");
        self.chores.push_back(Chore { kind: DiskOpKind::Replace { path, bytes: index }, then });
    }

    fn push_cut(&mut self, file: FileId, len: u64, then: Then) {
        let kind = DiskOpKind::Truncate { file, len };
        self.chores.push_back(Chore { kind, then: Then::Next("cutting a segment") });
        self.chores.push_back(Chore { kind: DiskOpKind::Sync { file }, then });
    }

    fn push_time_index(&mut self, base: i64, bytes: Vec<u8>) {
        let kind = DiskOpKind::Replace { path: self.path(base, "timeindex"), bytes };
        self.chores.push_back(Chore { kind, then: Then::Next("writing a time index") });
    }

    /// Writes what is known of the producers before `end_offset`, which is
    /// durable, and removes the snapshot before.
    fn push_snapshot(&mut self, end_offset: i64) {
        let path = self.path(end_offset, "snapshot");
        let kind = DiskOpKind::Replace { path, bytes: self.producers.encode(end_offset) };
        let then = Then::Next("writing a producer snapshot");
        self.chores.push_back(Chore { kind, then });
        if let Some(old) = self.snapshot.replace(end_offset).filter(|old| *old != end_offset) {
            let kind = DiskOpKind::Remove { path: self.path(old, "snapshot") };
            let then = Then::Next("removing an old producer snapshot");
            self.chores.push_back(Chore { kind, then });
        }
    }

    fn push_epochs(&mut self) {
        self.flush.epochs_changed = false;
        let path = self.dir.join(EPOCHS_FILE);
        let kind = DiskOpKind::Replace { path, bytes: self.epochs.encode() };
        self.chores.push_back(Chore { kind, then: Then::Next("writing the leader epochs") });
    }

    /// Makes the file of a segment, and the directory around it before the first
    /// one. All that is new is durable before anything is written to the file: so a
    /// file with a byte in it proves that the rest is whole (`load.rs`). Whoever is
    /// made at the same time shares that sync.
    fn make_segment(&mut self, base: i64, io: &mut LogIo<'_>) {
        let file = io.files.take();
        let path = self.path(base, "log");
        let dir = self.dir.clone();
        let chore = |kind, what| Chore { kind, then: Then::Next(what) };
        let mut sync = DiskOpKind::SyncDir { path: dir.clone() };
        if !self.dir_made {
            self.dir_made = true;
            self.flush.epochs_changed = false;
            let id = self.topic_partition.topic;
            let metadata = format!("version: 0\ntopic_id: {id}\ntopic_id: {id}\n").into_bytes();
            let small = [(METADATA_FILE, metadata), (EPOCHS_FILE, self.epochs.encode())];
            self.chores.push_back(chore(
                DiskOpKind::CreateDir { path: dir.clone() },
                "making the directory",
            ));
            self.chores.extend(small.map(|(name, bytes)| {
                chore(DiskOpKind::Create { path: dir.join(name), bytes }, "making a small file")
            }));
            sync = DiskOpKind::SyncNew { path: dir.clone() };
        }
        self.chores.extend([
            chore(DiskOpKind::Open { file, path, create: true }, "making a segment"),
            Chore { kind: sync, then: Then::SegmentOpened(base) },
        ]);
        let segment = self.segment_mut(base).expect("the caller saw it");
        segment.file = SegmentFile::Opening(file);
    }

    /// Opens the file of a segment that exists.
    pub(super) fn open_segment(&mut self, base: i64, io: &mut LogIo<'_>) {
        let file = io.files.take();
        let path = self.path(base, "log");
        self.chores.push_back(Chore {
            kind: DiskOpKind::Open { file, path, create: false },
            then: Then::SegmentOpened(base),
        });
        let segment = self.segment_mut(base).expect("the caller saw it");
        segment.file = SegmentFile::Opening(file);
    }

    pub(super) fn segment_opened(&mut self, base: i64) {
        if let Some(segment) = self.segment_mut(base)
            && let SegmentFile::Opening(file) = segment.file
        {
            segment.file = SegmentFile::Open(file);
        }
    }

    pub(super) fn segment_sealed(&mut self, base: i64) {
        let end = self.segment_end(base);
        let interval = self.config.index_interval_bytes;
        if let Some(segment) = self.segment_mut(base) {
            segment.allocated = segment.size;
            segment.sealed = true;
            segment.thin_indexes(interval);
        }
        self.recovery_point = self.recovery_point.max(end.offset);
    }

    fn push_close(&mut self, io: &mut LogIo<'_>) {
        self.closed_record = self.make_closed_record();
        let recorded = self.closed_record.is_some();
        let active = self.segments.back().expect("a ready log has a segment");
        let (base, size) = (active.base_offset, active.size);
        match active.file {
            // Nothing was ever appended.
            SegmentFile::Absent => self.finish(io),
            // All of it was there when the log was loaded.
            SegmentFile::Open(_) | SegmentFile::Closed if recorded && active.allocated == size => {
                self.finish(io);
            }
            SegmentFile::Open(file) if recorded => self.push_cut(file, size, Then::Finished),
            SegmentFile::Open(_) => self.push_seal(base, Then::Finished),
            // Its file was given back; it has to be cut.
            SegmentFile::Closed => self.open_segment(base, io),
            SegmentFile::Opening(_) => unreachable!("a log that closes has nothing in flight"),
        }
    }

    /// Whether something is written and not synced.
    pub fn is_unsynced(&self) -> bool {
        self.flush.written.offset > self.flush.durable.offset
    }

    /// Syncs what is written, whatever `flush.messages` says.
    pub fn sync_now(&mut self, io: &mut LogIo<'_>) {
        self.flush.sync_wanted = true;
        self.flush(io);
    }

    /// Syncs what is written, if the flush settings ask for it now.
    fn sync(&mut self, io: &mut LogIo<'_>) {
        let (written, durable) = (self.flush.written, self.flush.durable);
        let unsynced = (written.offset - durable.offset) as u64;
        // A segment is left only when it is durable.
        let leaving = written.segment != self.end.segment || matches!(self.state, State::Closing);
        let wanted = leaving || self.flush.sync_wanted || self.start_wants_sync();
        let due = unsynced > 0 && (unsynced >= self.config.flush_messages || wanted);
        if !due || self.flush.syncing.is_some() {
            return;
        }
        self.flush.sync_wanted = false;
        let segment = self.segment(written.segment).expect("what is written has a segment");
        let SegmentFile::Open(file) = segment.file else {
            unreachable!("a segment that was written to is open")
        };
        self.flush.syncing = Some(written);
        io.sync(self.slot, LogOp::Sync, DiskOpKind::Sync { file });
    }

    pub(super) fn on_written(&mut self, result: Result<DiskOutput, DiskError>) {
        let mark = self.flush.writing.take().expect("a write ends once");
        match result {
            Ok(output) => {
                self.flush.written = mark;
                if let DiskOutput::Written { mut bytes } = output {
                    bytes.clear();
                    self.flush.spare_rope = Some(bytes);
                }
            }
            Err(error) => self.fail(Offline::Directory(error)),
        }
    }

    pub(super) fn on_synced(&mut self, result: Result<DiskOutput, DiskError>) {
        let mark = self.flush.syncing.take().expect("a sync ends once");
        match result {
            Ok(_) if !matches!(self.state, State::Offline(_)) => self.flush.durable = mark,
            Ok(_) => {}
            // Another sync may succeed without having written anything (fsyncgate).
            Err(error) => self.fail(Offline::Directory(error)),
        }
    }

    pub(super) fn on_allocated(
        &mut self,
        result: Result<DiskOutput, DiskError>,
        io: &mut LogIo<'_>,
    ) {
        let (base, target) = self.flush.allocating.take().expect("a preallocation ends once");
        match result {
            Ok(_) => {
                self.full = false;
                if let Some(segment) = self.segment_mut(base) {
                    segment.allocated = segment.allocated.max(target);
                }
            }
            Err(DiskError::NoSpace) => {
                self.flush.preallocate = PREALLOCATE_MIN;
                let segment = self.segment(base).expect("it is being written to");
                if align_up(segment.allocated) < align_up(segment.size) {
                    self.roll_back(io);
                }
            }
            Err(error) => self.fail(Offline::Disk { what: "preallocating a segment", error }),
        }
    }

    /// The disk is full: forgets appends that were neither submitted nor journaled.
    /// They were not acknowledged, and the others lie within the preallocated space.
    fn roll_back(&mut self, io: &mut LogIo<'_>) {
        let end = self.flush.submitted.max(self.flush.journal.end());
        tracing::warn!("log {}: no space left, appends fail", self.dir.display());
        self.full = true;
        self.segments.retain(|segment| segment.base_offset <= end.segment);
        let segment = self.segments.back_mut().expect("the submitted segment stays");
        segment.size = end.position;
        segment.index.truncate(end.position);
        segment.time_index.roll_back();
        let submitted = self.flush.submitted;
        let waits = end > submitted;
        self.tail.truncate(end.segment, end.position);
        // What is left in the last block goes to the disk later, and with it what
        // was forgotten, unless it is copied.
        if waits && !self.tail.clean_end(io.pages) {
            let error = DiskError::NoSpace;
            return self.fail(Offline::Disk { what: "preallocating a segment", error });
        }
        self.epochs.truncate(end.offset);
        self.producers.truncate(end.offset);
        self.flush.pending_bytes =
            if waits { (end.position - submitted.position) as usize } else { 0 };
        self.end = end;
    }

    /// Asks again for the space that was missing. True if that was worth asking.
    pub fn retry_space(&mut self) -> bool {
        std::mem::take(&mut self.full)
    }

    /// Whether the disk had no space for this log's last append.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Whether enough was written since the last checkpoint.
    pub fn wants_checkpoint(&self) -> bool {
        self.flush.unchecked_bytes >= CHECKPOINT_BYTES
    }

    /// Writes the indexes of the last segment, after which the recovery point may
    /// move to what is durable now. Returns whether there was anything to do.
    pub fn checkpoint(&mut self, io: &mut LogIo<'_>) -> bool {
        let durable = self.flush.durable;
        let sealed_before = self
            .segments
            .iter()
            .all(|segment| segment.sealed || segment.base_offset >= durable.segment);
        if !self.is_ready() || durable.offset <= self.recovery_point || !sealed_before {
            return false;
        }
        let Some(segment) = self.segment(durable.segment) else { return false };
        let bytes = segment.index.encode(durable.position);
        let relative_end = u64::try_from(durable.offset - durable.segment).unwrap_or(0);
        let time_index = segment.time_index.encode(relative_end);
        self.flush.unchecked_bytes = 0;
        let path = self.path(durable.segment, "index");
        let kind = DiskOpKind::Replace { path, bytes };
        self.push_snapshot(durable.offset);
        self.push_time_index(durable.segment, time_index);
        self.chores.push_back(Chore { kind, then: Then::Checkpointed(durable.offset) });
        self.go_on(io);
        true
    }
}
