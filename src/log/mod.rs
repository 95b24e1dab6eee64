//! One partition's log: batches in segments on a direct-I/O disk.
//!
//! States of a [`Log`]:
//!
//! - *loading*: the directory is read and, after an unclean stop, the end of the
//!   log is verified, cut and synced (`load.rs`).
//! - *ready*: appends go to the resident tail, are written and synced in groups
//!   (`flush.rs`), and are read from the tail or from disk (`read.rs`).
//! - *closing*, then *closed*: all is synced, the last segment cut to its exact
//!   length, the index written.
//! - *deleting*, then *closed*: the directory is renamed and removed.
//! - *offline*: something failed or is corrupt; the reason is kept, nothing is
//!   served, nothing on disk is touched, unless the log is deleted.
//!
//! A completion means: a write's bytes survive the process, a sync's bytes
//! survive the power. [`Log::committed`] is the end of what may be acknowledged.
//!
//! A log does not know who leads it, who waits for it, or what time it is.

mod closed;
pub mod closed_logs;
pub mod compaction;
mod descriptors;
pub mod epochs;
mod flush;
mod groups;
pub mod index;
pub mod io;
pub mod journal;
mod load;
pub mod lookup;
pub mod offset_map;
pub mod producers;
mod read;
pub mod recovery_points;
pub mod retention;
mod segment;
mod space;
mod start;
mod swap;
pub mod tail;
#[cfg(test)]
mod tests;
pub mod time_index;

use std::collections::VecDeque;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use self::compaction::{Cleaner, CleaningCounts};
use self::epochs::LeaderEpochs;
use self::flush::Flush;
use self::io::{LogIo, LogOp, LogSlot};
use self::load::Loading;
use self::producers::{Producers, Sequence};
use self::read::ColdReads;
pub use self::read::Read;
use self::segment::{Segment, SegmentFile};
pub use self::start::OutOfRange;
use self::start::Start;
use self::tail::Tail;
use crate::base::limits::{INDEX_INTERVAL_BYTES, LOG_PENDING_MAX, PRODUCER_CHECK_MS};
use crate::base::pages::PageWriter;
use crate::base::rope::Rope;
use crate::base::time::UnixMillis;
use crate::effect::disk::{DiskError, DiskOpKind, DiskOutput, FileId};
use crate::model::batch::{BatchHeader, HEADER_LEN};
use crate::model::error_code::ErrorCode;
use crate::model::ids::{LeaderEpoch, TopicPartition};

/// Says whose the directory is.
const METADATA_FILE: &str = "partition.metadata";

/// Where each leader epoch begins.
const EPOCHS_FILE: &str = "leader-epoch-checkpoint";

/// The settings of a log that shape its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment that would grow beyond it is sealed.
    pub segment_bytes: u64,
    /// `flush.messages`: with 1 an acknowledgement waits for the sync; above,
    /// for the completed write, and a sync follows at least every so many records.
    pub flush_messages: u64,
    /// `producer.id.expiration.ms`: an idempotent producer that has written nothing
    /// for so long is forgotten.
    pub producer_expiration_ms: i64,
    /// `index.interval.bytes`: entries of an index are more than so much log apart.
    pub index_interval_bytes: u64,
    /// `segment.index.bytes`: a segment with a larger index is sealed.
    pub segment_index_bytes: u32,
    /// `segment.ms`: a segment that is older is sealed, at the next append.
    pub segment_ms: u64,
    /// `segment.jitter.ms`: up to so much is taken off from the age.
    pub segment_jitter_ms: u64,
    /// `message.timestamp.type` is `LogAppendTime`: batches are stamped.
    pub append_time: bool,
}

impl Default for LogConfig {
    /// What a topic has that says nothing.
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            flush_messages: 1,
            index_interval_bytes: INDEX_INTERVAL_BYTES,
            segment_index_bytes: 10 << 20,
            segment_ms: 7 * 24 * 3_600_000,
            segment_jitter_ms: 0,
            append_time: false,
            producer_expiration_ms: 86_400_000,
        }
    }
}

/// A place in the log: `offset` is the first one not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The next offset.
    pub offset: i64,
    /// Base offset of the segment the place is in.
    segment: i64,
    /// Byte position in that segment.
    position: u64,
}

/// Why a log is offline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Offline {
    /// A disk operation of this log failed.
    #[error("{what} failed: {error}")]
    Disk {
        /// What was being done.
        what: &'static str,
        /// How it failed.
        error: DiskError,
    },
    /// A write or sync failed: what the disk holds is unknown from here on,
    /// for every log of the directory.
    #[error("the log directory has failed: {0}")]
    Directory(DiskError),
    /// What is on disk contradicts what was promised.
    #[error("corrupt: {0}")]
    Corrupt(String),
}

/// Why an append was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// Too much waits for the disk: again after the log's next completion.
    Busy,
    /// The core has no page left: again when memory came back.
    NoMemory,
    /// The log cannot take appends (not ready, offline, disk full).
    Unavailable,
    /// The batch does not follow the last one of its idempotent producer.
    Refused(ErrorCode),
}

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: i64,
    /// It is acknowledged when [`Log::committed`] has reached this offset.
    pub next_offset: i64,
    /// The broker's timestamp, milliseconds, if it stamps batches, else -1.
    pub append_time_ms: i64,
    /// It was there already, sent before by the same idempotent producer.
    pub duplicate: bool,
}

#[derive(Debug)]
enum State {
    Loading(Box<Loading>),
    Ready,
    Closing,
    Deleting,
    Closed,
    Offline(Offline),
}

/// A rare operation, carried out one at a time.
#[derive(Debug)]
struct Chore {
    kind: DiskOpKind,
    then: Then,
}

/// What the end of a chore means.
#[derive(Debug)]
enum Then {
    /// Go on with the next chore.
    Next(&'static str),
    /// The file of the segment with this base offset is open and its name durable.
    SegmentOpened(i64),
    /// The segment with this base offset is cut to its length and durable.
    SegmentSealed(i64),
    /// Everything below this offset is durable and indexed.
    Checkpointed(i64),
    /// The start of the log is durable.
    StartKept(i64),
    /// The file of a compacted segment is open.
    CleanedOpened(FileId),
    /// It is written and durable.
    CleanedSynced,
    /// It has taken the place of the old segments.
    Swapped,
    /// Everything below this offset is compacted.
    Compacted(i64),
    /// The directory of a deleted log is out of the way.
    RenamedAway,
    /// The last step of closing or deleting.
    Finished,
    /// A step of loading.
    Load(load::Step),
}

/// What is known of a log before it is loaded.
#[derive(Debug, Default)]
pub struct Found {
    /// The checkpointed recovery point.
    pub recovery_point: i64,
    /// The broker closed all logs before it stopped. If it did not, everything in the
    /// log directory has been synced since.
    pub clean: bool,
    /// What the stop has kept of the log ([`Log::closed_record`]), if that was clean.
    pub closed: Option<Vec<u8>>,
}

/// One partition's log.
#[derive(Debug)]
pub struct Log {
    slot: LogSlot,
    topic_partition: TopicPartition,
    dir: PathBuf,
    config: LogConfig,
    state: State,
    /// Whether the directory and its `partition.metadata` are made, or about to be.
    dir_made: bool,
    /// The removal of a deleted log has begun.
    removing: bool,
    /// The directory of a deleted log no longer has the topic's name.
    renamed_away: bool,
    /// Never empty once ready; the last one is appended to.
    segments: VecDeque<Segment>,
    tail: Tail,
    epochs: LeaderEpochs,
    producers: Producers,
    /// The newest snapshot file of the producers: of what lies before this offset.
    snapshot: Option<i64>,
    /// The broker's clock when producers to forget were looked for.
    producers_checked: UnixMillis,
    log_start_offset: i64,
    start: Start,
    /// Nothing is kept of the log, which ends here: an empty segment is due.
    roll_at: Option<i64>,
    cleaner: Cleaner,
    /// Of compaction and retention, since they were asked for.
    counts: CleaningCounts,
    /// How often segments were replaced: places in them mean nothing any more.
    swaps: u64,
    /// The end: the next offset to append.
    end: Mark,
    flush: Flush,
    cold: ColdReads,
    scan_in_flight: bool,
    chores: VecDeque<Chore>,
    /// What the end of the chore in flight means, and the file that it opens.
    chore_in_flight: Option<(Then, Option<FileId>)>,
    /// What is in flight, to be asked for again if there is no space for it.
    chore_again: Option<DiskOpKind>,
    /// The first chore found no space and waits for [`Log::resume`].
    starved: bool,
    /// Numbers of files that were to be opened and never were.
    unopened: Vec<FileId>,
    /// Files were needed since [`Log::release_files`].
    used: bool,
    /// The last preallocation found no space; appends are refused until one succeeds.
    full: bool,
    /// Offset up to which recovery need not look, as of the last sealed segment or checkpoint.
    recovery_point: i64,
    /// It is closed together with many others.
    closes_with_many: bool,
    /// What is kept elsewhere of this log while it is closed (`closed.rs`).
    closed_record: Option<Vec<u8>>,
}

impl Log {
    /// Starts to load the log in `dir`.
    pub fn open(
        slot: LogSlot,
        topic_partition: TopicPartition,
        dir: PathBuf,
        config: LogConfig,
        found: Found,
        io: &mut LogIo<'_>,
    ) -> Self {
        let Found { recovery_point, clean, closed } = found;
        let start = Mark { offset: 0, segment: 0, position: 0 };
        let mut log = Self {
            slot,
            topic_partition,
            dir,
            config,
            state: State::Loading(Box::new(Loading::new(recovery_point, clean))),
            dir_made: false,
            removing: false,
            renamed_away: false,
            segments: VecDeque::new(),
            tail: Tail::default(),
            epochs: LeaderEpochs::default(),
            producers: Producers::default(),
            snapshot: None,
            producers_checked: UnixMillis(0),
            log_start_offset: 0,
            start: Start::default(),
            roll_at: None,
            cleaner: Cleaner::default(),
            counts: CleaningCounts::default(),
            swaps: 0,
            end: start,
            flush: Flush::new(start),
            cold: ColdReads::default(),
            scan_in_flight: false,
            chores: VecDeque::new(),
            chore_in_flight: None,
            chore_again: None,
            starved: false,
            unopened: vec![],
            used: true,
            full: false,
            recovery_point,
            closes_with_many: false,
            closed_record: closed,
        };
        log.start_loading(io);
        log
    }

    /// The log's partition.
    pub fn topic_partition(&self) -> TopicPartition {
        self.topic_partition
    }

    /// The log's directory, relative to the log directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the log can be read and appended to.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// Whether the log is still being loaded.
    pub fn is_loading(&self) -> bool {
        matches!(self.state, State::Loading(_))
    }

    /// Whether nothing is left to do, after a close or a delete.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed) && self.is_quiet()
    }

    /// Why the log is offline, if it is.
    pub fn offline(&self) -> Option<&Offline> {
        match &self.state {
            State::Offline(reason) => Some(reason),
            _ => None,
        }
    }

    /// First offset that can be read.
    pub fn log_start_offset(&self) -> i64 {
        self.log_start_offset
    }

    /// The next offset to append.
    pub fn log_end_offset(&self) -> i64 {
        self.end.offset
    }

    /// The end of what may be acknowledged and served: synced, here or in a journal, or with
    /// `flush.messages` above 1, written.
    pub fn committed(&self) -> Mark {
        match self.config.flush_messages {
            ..=1 => self.safe().max(self.flush.promised),
            _ => self.flush.written.max(self.safe()),
        }
    }

    /// What the log goes by.
    pub fn config(&self) -> LogConfig {
        self.config
    }

    /// Goes by other settings from now on. What may have been acknowledged stays
    /// so: if acknowledgements waited for the write alone and now wait for the
    /// sync, what is written is synced at once.
    pub fn configure(&mut self, config: LogConfig, io: &mut LogIo<'_>) {
        self.flush.promised = self.committed();
        self.config = config;
        if config.flush_messages <= 1 && self.is_unsynced() {
            self.sync_now(io);
        }
    }

    /// Offset up to which all is durable and an index of it is.
    pub fn recovery_point(&self) -> i64 {
        self.recovery_point
    }

    /// The newest leader epoch of the log's batches.
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.latest()
    }

    /// Bytes of batches on disk and on their way there.
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// Bytes of log in memory.
    pub fn resident(&self) -> usize {
        self.tail.resident()
    }

    /// Lets go of up to `bytes` resident bytes that the disk has, synced or not;
    /// returns how many.
    pub fn evict(&mut self, bytes: usize) -> usize {
        let written = self.flush.written;
        self.tail.evict(written.segment, written.position, bytes)
    }

    /// Lets go of what was read from disk, but for the `keep` newest pages; returns
    /// how many bytes.
    pub fn evict_cold(&mut self, keep: usize) -> usize {
        self.cold.evict(keep)
    }

    /// Whether a read from disk is in flight.
    pub fn reads_cold(&self) -> bool {
        !self.cold.is_quiet()
    }

    /// If all is on disk, keeps no more than one block in memory, in `spare`, an
    /// empty page. True if there was more.
    pub fn shrink(&mut self, spare: &mut Option<PageWriter>) -> bool {
        self.is_ready() && self.flush.written.offset == self.end.offset && self.tail.shrink(spare)
    }

    /// Whether loading waits for a page; see [`Log::resume`].
    pub fn waits_for_page(&self) -> bool {
        match &self.state {
            State::Loading(loading) => !self.scan_in_flight && loading.scans(&self.segments),
            _ => false,
        }
    }

    /// Whether there are appended bytes that no write has taken yet.
    pub fn has_pending(&self) -> bool {
        self.flush.submitted.offset < self.end.offset
    }

    /// Appends the batch `batch`, whose header has been checked, with its base
    /// offset and leader epoch stamped. A duplicate of an idempotent producer is
    /// not appended again. Call [`Log::flush`] before the turn ends.
    pub fn append(
        &mut self,
        now: UnixMillis,
        header: &BatchHeader,
        batch: &[u8],
        epoch: LeaderEpoch,
        io: &mut LogIo<'_>,
    ) -> Result<Appended, AppendError> {
        if !self.is_ready() || self.full {
            return Err(AppendError::Unavailable);
        }
        if batch.len() as u64 > self.config.segment_bytes {
            return Err(AppendError::Refused(ErrorCode::RecordListTooLarge));
        }
        if header.producer_id >= 0 {
            self.expire_producers(now);
            match self.producers.check(header).map_err(AppendError::Refused)? {
                Sequence::Fresh => {}
                Sequence::Duplicate { base_offset, next_offset, timestamp } => {
                    let append_time_ms = if self.config.append_time { timestamp } else { -1 };
                    let duplicate = true;
                    return Ok(Appended { base_offset, next_offset, append_time_ms, duplicate });
                }
            }
        }
        if self.flush.pending_bytes > 0 && self.flush.pending_bytes + batch.len() > LOG_PENDING_MAX
        {
            return Err(AppendError::Busy);
        }
        let mut stamped =
            BatchHeader { base_offset: self.end.offset, leader_epoch: epoch, ..*header };
        let mut append_time_ms = -1;
        if self.config.append_time {
            append_time_ms = now.0;
            stamped.stamp_append_time(now.0, &batch[HEADER_LEN..]);
        }
        let active = self.segments.back().expect("a ready log has a segment");
        let last = stamped.next_offset() - 1;
        let rolls = active.size > 0
            && (active.size + batch.len() as u64 > self.config.segment_bytes
                || i32::try_from(last - active.base_offset).is_err()
                || active.is_index_full(self.config.segment_index_bytes)
                || self.is_aged(active, stamped.max_timestamp, now));
        if self.lacks_room(rolls, batch.len(), io.room) {
            return Err(AppendError::Unavailable);
        }
        let (segment, position) =
            if rolls { (self.end.offset, 0) } else { (active.base_offset, active.size) };
        let parts = [&stamped.encode()[..], &batch[HEADER_LEN..]];
        self.tail.append(segment, position, parts, io.pages).map_err(|_| AppendError::NoMemory)?;
        if rolls {
            self.segments.push_back(Segment::new(segment));
        }
        let interval = self.config.index_interval_bytes;
        let active = self.segments.back_mut().expect("just seen or pushed");
        active.first_append.get_or_insert(now);
        active.last_append = Some(now);
        active.note_batch(&stamped, batch.len() as u64, interval);
        self.flush.pending_bytes += batch.len();
        self.end = Mark { offset: stamped.next_offset(), segment, position: active.size };
        if self.epochs.note(epoch, stamped.base_offset) {
            self.flush.epochs_changed = true;
        }
        self.producers.note(&stamped, self.committed().offset);
        self.touch();
        let (base_offset, next_offset) = (stamped.base_offset, self.end.offset);
        Ok(Appended { base_offset, next_offset, append_time_ms, duplicate: false })
    }

    /// Whether a segment that is not empty is too old for a batch with this
    /// largest timestamp (`LogSegment.shouldRoll`): time goes by the timestamps,
    /// and by the broker's clock where there are none.
    fn is_aged(&self, segment: &Segment, timestamp: i64, now: UnixMillis) -> bool {
        let age = match (segment.first_timestamp, segment.first_append) {
            (Some(first @ 0..), _) => timestamp.saturating_sub(first),
            (_, Some(first)) => now.0.saturating_sub(first.0),
            (_, None) => 0,
        };
        let LogConfig { segment_ms, segment_jitter_ms, .. } = self.config;
        let jitter_max = segment_jitter_ms.min(segment_ms);
        let jitter = if jitter_max == 0 {
            0
        } else {
            // A segment has the same one whenever it is asked for.
            let TopicPartition { topic, partition } = self.topic_partition;
            let mut seed = crc32fast::Hasher::new();
            seed.update(&topic.0);
            seed.update(&partition.0.to_be_bytes());
            seed.update(&segment.base_offset.to_be_bytes());
            u64::from(seed.finalize()) % jitter_max
        };
        u64::try_from(age).is_ok_and(|age| age > segment_ms - jitter)
    }

    /// Forgets idempotent producers that have not written for long. The clock may
    /// jump either way.
    fn expire_producers(&mut self, now: UnixMillis) {
        let expiration = self.config.producer_expiration_ms;
        let since = now.0.saturating_sub(self.producers_checked.0);
        if since.saturating_abs() >= expiration.min(PRODUCER_CHECK_MS) {
            self.producers_checked = now;
            self.producers.expire(now.0.saturating_sub(expiration));
        }
    }

    /// Starts to close: no appends any more; everything is synced and cut.
    pub fn close(&mut self, io: &mut LogIo<'_>) {
        self.starved = false;
        match self.state {
            State::Ready => {
                self.state = State::Closing;
                self.cleaner.leave();
            }
            // What was not loaded is not touched, so it needs recovery again.
            State::Loading(_) => {
                self.forget_chores();
                self.state = State::Closed;
            }
            _ => return,
        }
        self.flush(io);
    }

    /// As [`Log::close`], together with many others: a small log leaves nothing of
    /// its own but its segment, and a record that is kept elsewhere
    /// ([`Log::closed_record`]).
    pub fn close_with_many(&mut self, io: &mut LogIo<'_>) {
        self.closes_with_many = true;
        self.close(io);
    }

    /// Starts to delete: the directory is renamed, then removed.
    pub fn delete(&mut self, io: &mut LogIo<'_>) {
        if !matches!(self.state, State::Closed | State::Deleting) {
            self.state = State::Deleting;
            self.forget_chores();
            self.start.abandon();
            self.cleaner.run = None;
            self.tail = Tail::default();
            self.go_on(io);
        }
    }

    /// Drops the chores that have not begun.
    fn forget_chores(&mut self) {
        self.starved = false;
        for chore in std::mem::take(&mut self.chores) {
            if let DiskOpKind::Open { file, .. } = chore.kind {
                self.not_opened(file);
            }
        }
    }

    /// A segment was about to be opened as `file`, and is not.
    fn not_opened(&mut self, file: FileId) {
        self.unopened.push(file);
        let opening = SegmentFile::Opening(file);
        for segment in self.segments.iter_mut().filter(|segment| segment.file == opening) {
            segment.file = SegmentFile::Closed;
        }
    }

    /// Whether the directory of this deleted log is being removed.
    pub fn is_removing(&self) -> bool {
        self.removing
    }

    /// Whether another log may be opened in the directory of this deleted one.
    pub fn is_renamed_away(&self) -> bool {
        self.renamed_away
    }

    /// Goes on with what had to wait for a page or for space.
    pub fn resume(&mut self, io: &mut LogIo<'_>) {
        self.starved = false;
        self.go_on(io);
    }

    /// Whether nothing of it is in flight.
    pub fn is_quiet(&self) -> bool {
        self.chore_in_flight.is_none()
            && self.flush.is_quiet()
            && self.cold.is_quiet()
            && self.cleaner.is_quiet()
            && !self.scan_in_flight
    }

    /// The end of a disk operation of this log.
    pub fn on_disk(
        &mut self,
        op: LogOp,
        result: Result<DiskOutput, DiskError>,
        io: &mut LogIo<'_>,
    ) {
        match op {
            LogOp::Write => self.on_written(result),
            LogOp::Sync => self.on_synced(result),
            LogOp::Allocate => self.on_allocated(result, io),
            LogOp::Journal => self.on_journaled(result),
            LogOp::Chore | LogOp::ChoreSync => self.on_chore(result, io),
            LogOp::Scan => self.on_scanned(result, io),
            LogOp::Cold(place) => self.on_cold_read(place, result),
            LogOp::CleanRead => self.on_clean_read(result),
            LogOp::CleanWrite => self.on_clean_write(result, io),
            LogOp::Ignore => {}
        }
        self.go_on(io);
    }

    /// Does whatever the state allows to do next.
    fn go_on(&mut self, io: &mut LogIo<'_>) {
        for file in self.unopened.drain(..) {
            io.files.give(file);
        }
        match self.state {
            State::Loading(_) => self.scan(io),
            State::Deleting if !self.removing && self.is_quiet() => self.push_removal(io),
            _ => self.flush(io),
        }
        self.next_chore(io);
    }

    fn next_chore(&mut self, io: &mut LogIo<'_>) {
        while self.chore_in_flight.is_none()
            && !self.starved
            && let Some(chore) = self.chores.pop_front()
        {
            if let Some((step, read)) = self.read_before(&chore) {
                self.on_load_step(step, Ok(read), io);
                continue;
            }
            let opens = match chore.kind {
                DiskOpKind::Open { file, .. } => Some(file),
                _ => None,
            };
            self.chore_in_flight = Some((chore.then, opens));
            self.chore_again = space::again(&chore.kind);
            match chore.kind {
                kind @ (DiskOpKind::Sync { .. } | DiskOpKind::SyncNew { .. }) => {
                    io.sync(self.slot, LogOp::ChoreSync, kind);
                }
                kind => io.push(self.slot, LogOp::Chore, kind),
            }
        }
    }

    fn on_chore(&mut self, result: Result<DiskOutput, DiskError>, io: &mut LogIo<'_>) {
        let (then, opens) = self.chore_in_flight.take().expect("a chore ends once");
        let again = self.chore_again.take();
        let Some((then, result)) = self.put_back(then, result, again) else { return };
        if let (Some(file), Err(_)) = (opens, &result) {
            self.not_opened(file);
        }
        if let (Then::CleanedOpened(file), Ok(_)) = (&then, &result) {
            self.cleaned_opened(*file);
        }
        if matches!(self.state, State::Offline(_)) {
            return;
        }
        let what = match (then, result) {
            (Then::Load(step), result) => return self.on_load_step(step, result, io),
            (Then::Next(_) | Then::CleanedOpened(_), Ok(_)) => return,
            (Then::CleanedSynced, Ok(_)) => return self.cleaned_synced(),
            (Then::Swapped, Ok(_)) => return self.swapped(),
            (Then::Compacted(offset), Ok(_)) => return self.compacted(offset),
            (Then::SegmentOpened(base), Ok(_)) => return self.segment_opened(base),
            (Then::SegmentSealed(base), Ok(_)) => return self.segment_sealed(base),
            (Then::StartKept(offset), Ok(_)) => return self.start_kept(offset),
            (Then::Checkpointed(offset), Ok(_)) => {
                self.recovery_point = self.recovery_point.max(offset);
                return;
            }
            // A log that was never written to has no directory.
            (Then::RenamedAway, Ok(_) | Err(DiskError::NotFound)) => {
                self.renamed_away = true;
                return;
            }
            (Then::Finished, Ok(_)) => return self.finish(io),
            (Then::Next(what), Err(error)) => (what, error),
            (Then::SegmentOpened(_), Err(error)) => ("opening a segment", error),
            (Then::SegmentSealed(_), Err(error)) => ("sealing a segment", error),
            (Then::Checkpointed(_), Err(error)) => ("writing an index", error),
            (Then::CleanedOpened(_), Err(error)) => ("making a compacted segment", error),
            (Then::CleanedSynced, Err(error)) => ("syncing a compacted segment", error),
            (Then::Swapped, Err(error)) => ("writing an index", error),
            (Then::Compacted(_), Err(error)) => ("writing the cleaner's checkpoint", error),
            (Then::StartKept(_), Err(error)) => ("writing the start of the log", error),
            (Then::RenamedAway, Err(error)) => ("renaming a deleted log", error),
            (Then::Finished, Err(error)) => ("closing the log", error),
        };
        self.fail(Offline::Disk { what: what.0, error: what.1 });
    }

    fn finish(&mut self, io: &mut LogIo<'_>) {
        self.recovery_point = self.end.offset;
        if let Some(file) = self.cleaner.file.take() {
            io.close(self.slot, file);
        }
        for segment in &mut self.segments {
            if let SegmentFile::Open(file) = segment.file {
                segment.file = SegmentFile::Closed;
                io.close(self.slot, file);
            }
        }
        self.tail = Tail::default();
        self.cold.evict(0);
        self.state = State::Closed;
    }

    /// The way of a log that is deleted, once nothing is in flight.
    fn push_removal(&mut self, io: &mut LogIo<'_>) {
        self.removing = true;
        if let Some(file) = self.cleaner.file.take() {
            io.close(self.slot, file);
        }
        for segment in &mut self.segments {
            // Nothing is in flight: what was being opened is open.
            if let SegmentFile::Open(file) | SegmentFile::Opening(file) = segment.file {
                segment.file = SegmentFile::Closed;
                io.close(self.slot, file);
            }
        }
        let id = u128::from_be_bytes(self.topic_partition.topic.0);
        let name = self.dir.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.expect("a log's directory has a name");
        let gone = self.dir.with_file_name(format!("{name}.{id:032x}-delete"));
        self.chores.extend([
            Chore {
                kind: DiskOpKind::Rename { from: self.dir.clone(), to: gone.clone() },
                then: Then::RenamedAway,
            },
            Chore { kind: DiskOpKind::Remove { path: gone }, then: Then::Finished },
        ]);
    }

    /// Takes the log offline for good.
    pub(crate) fn fail(&mut self, reason: Offline) {
        if !matches!(self.state, State::Offline(_) | State::Closed) {
            tracing::error!("log {} is offline: {reason}", self.dir.display());
            self.state = State::Offline(reason);
            self.forget_chores();
            self.start.abandon();
            self.cleaner.run = None;
            // Nothing of it is read or written any more.
            self.tail = Tail::default();
            self.cold.evict(0);
        }
    }

    fn segment(&self, base: i64) -> Option<&Segment> {
        let at = self.segments.binary_search_by_key(&base, |segment| segment.base_offset).ok()?;
        self.segments.get(at)
    }

    fn segment_mut(&mut self, base: i64) -> Option<&mut Segment> {
        let at = self.segments.binary_search_by_key(&base, |segment| segment.base_offset).ok()?;
        self.segments.get_mut(at)
    }

    fn path(&self, base: i64, extension: &str) -> PathBuf {
        let mut name = String::with_capacity(32);
        write!(name, "{base:020}.{extension}").expect("strings take all writes");
        let mut path = PathBuf::with_capacity(self.dir.as_os_str().len() + 1 + name.len());
        path.push(&self.dir);
        path.push(name);
        path
    }

    /// An empty rope with a table from an earlier write, if there is one.
    fn take_rope(&mut self) -> Rope {
        self.flush.spare_rope.take().unwrap_or_default()
    }
}
