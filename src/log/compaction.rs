//! Compaction: of the records with one key the last one stays (`LogCleaner.java`,
//! `Cleaner.java`).
//!
//! A run over a log goes through these phases:
//!
//! - *mapping*: the batches that were not compacted before are read, and the last
//!   offset of each key noted in a table of fixed size. When that is full, the run
//!   goes so far and no further.
//! - *opening*, *copying*, *syncing*: neighbouring segments that fit into one
//!   are copied into a new file, from the start of the log on, without the records
//!   whose key comes again later and without tombstones whose time is over.
//! - *draining*, *swapping*: the new file takes the place of the old ones
//!   (`swap.rs`). Then the next segments.
//! - *saving*: the checkpoint moves up.
//!
//! Offsets stay. Never touched are the segment that is appended to, control
//! batches, and batches that cannot be opened. Of a batch without records the
//! header stays if it is the last one of its producer, so that its sequence
//! numbers survive, or the last one of its segment, so that segments go on to
//! meet. What was read is checked against its checksum first; damage ends
//! compaction of the log until a restart.
//!
//! Whoever runs it calls [`Log::compact`] again and again, each time for a slice
//! of work; a batch is the smallest slice. A tombstone's time is over
//! `delete.retention.ms` after the run that found it to be the last of its key
//! (KIP-534).

use super::io::{LogIo, LogOp};
use super::offset_map::OffsetMap;
use super::segment::{Segment, SegmentFile};
use super::{Chore, Log, Offline, State, Then};
use crate::base::limits::{COMPACTION_SLICE_BYTES, COMPACTION_UNFOLD_MAX, MESSAGE_BYTES_MAX};
use crate::base::pages::{PageSlice, align_down, align_up};
use crate::base::rope::Rope;
use crate::base::time::UnixMillis;
use crate::effect::disk::{DiskError, DiskOpKind, DiskOutput, FileId};
use crate::model::batch::{BatchHeader, HEADER_LEN, batch_crc};
use crate::model::rebatch::{delete_horizon, rebuild};
use crate::model::record::{Record, decode_records};

/// What a log is compacted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionConfig {
    /// `min.cleanable.dirty.ratio`, in millionths: a log is compacted when more of
    /// it than this was not compacted before.
    pub dirty_ratio_ppm: u32,
    /// `min.compaction.lag.ms`: younger segments are left alone.
    pub min_lag_ms: u64,
    /// `max.compaction.lag.ms`: with older records a log is compacted whatever
    /// its ratio.
    pub max_lag_ms: u64,
    /// `delete.retention.ms`: how long tombstones stay.
    pub delete_retention_ms: u64,
}

/// What was done to a log's old records, as [`Log::take_counts`] tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleaningCounts {
    /// Bytes of batches whose keys were noted.
    pub mapped_bytes: u64,
    /// Bytes of batches that were looked through to be copied.
    pub read_bytes: u64,
    /// Records in them.
    pub read_records: u64,
    /// Bytes of what was kept of them.
    pub kept_bytes: u64,
    /// Records that were kept.
    pub kept_records: u64,
    /// Segments that retention has deleted.
    pub deleted_segments: u64,
}

impl std::ops::AddAssign for CleaningCounts {
    fn add_assign(&mut self, other: Self) {
        self.mapped_bytes += other.mapped_bytes;
        self.read_bytes += other.read_bytes;
        self.read_records += other.read_records;
        self.kept_bytes += other.kept_bytes;
        self.kept_records += other.kept_records;
        self.deleted_segments += other.deleted_segments;
    }
}

/// How much of a log could be compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirt {
    /// The part of it that was not compacted before, in millionths.
    pub ratio_ppm: u32,
    /// A run is due.
    pub due: bool,
}

/// What a slice of compaction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compacted {
    /// There is more to do in the next turn.
    More,
    /// The disk was asked: again after the log's next completion.
    Wait,
    /// There is no page: again when there is.
    NoPages,
    /// The run is over.
    Done,
}

/// How a log stands with compaction.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    /// Everything before it was compacted, as of the checkpoint.
    pub cleaned: i64,
    /// Before it offsets may be missing.
    pub gaps: i64,
    pub run: Option<Box<Run>>,
    /// The file that is written to.
    pub file: Option<FileId>,
    reading: bool,
    writing: bool,
    /// Something was damaged.
    given_up: bool,
}

/// A run over the log.
#[derive(Debug)]
pub(super) struct Run {
    now: i64,
    delete_retention_ms: u64,
    /// Bytes of a read and of a write, if a batch is no longer.
    chunk: usize,
    first_dirty: i64,
    /// Nothing from this offset on is looked at.
    until: i64,
    /// Keys of records before it are in the table.
    map_end: i64,
    pub phase: Phase,
    /// The next batch: base offset of its segment, and its position there.
    at: (i64, u64),
    source: Option<Source>,
    /// What was read ahead: it begins where `source` has no more whole batches.
    ahead: Option<Source>,
    /// What is being read: segment, position, bytes that are batches.
    asked: (i64, u64, usize),
    /// Base offset of the first segment of those that become one.
    pub first: i64,
    /// Base offset of the first segment behind them.
    pub end: i64,
    /// Bytes that they have, which is about what they become at most.
    size: u64,
    /// Space for so much was asked for.
    reserved: bool,
    /// What they become.
    pub segment: Segment,
    /// Bytes of it that are not written.
    pending: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Mapping,
    /// The next segments are to be chosen.
    Choosing,
    Opening,
    Copying,
    Syncing,
    /// Reads of the old segments are to end; none begins any more.
    Draining,
    Swapping,
    Saving,
}

#[derive(Debug)]
struct Source {
    segment: i64,
    position: u64,
    bytes: PageSlice,
}

impl Source {
    /// What there is of it from a place on, if the place lies in it.
    fn at(&self, (segment, position): (i64, u64)) -> Option<PageSlice> {
        let at = usize::try_from(position.checked_sub(self.position)?).ok()?;
        let here = self.segment == segment && at < self.bytes.len();
        here.then(|| self.bytes.slice(at..self.bytes.len()))
    }
}

/// What there is at a place.
enum Found {
    Batch(BatchHeader, PageSlice),
    End,
    Not(Compacted),
    Damaged,
}

/// How a slice ends.
enum Slice {
    Pause(Compacted),
    /// The run ends without having come to its end.
    GiveUp,
}

impl Cleaner {
    pub fn is_quiet(&self) -> bool {
        !self.reading && !self.writing
    }

    /// Whether the segment with this base offset is being replaced.
    pub fn replaces(&self, base: i64) -> bool {
        self.run.as_ref().is_some_and(|run| {
            matches!(run.phase, Phase::Draining | Phase::Swapping)
                && (run.first..run.end).contains(&base)
        })
    }

    /// Ends the run, unless files are being swapped: that goes on.
    pub fn leave(&mut self) {
        if self.run.as_ref().is_some_and(|run| run.phase != Phase::Swapping) {
            self.run = None;
        }
    }
}

impl Log {
    /// How much of the log could be compacted when the broker's clock says `now`, if
    /// anything can.
    pub fn dirt(&self, now: UnixMillis, config: &CompactionConfig) -> Option<Dirt> {
        let (first_dirty, until) = self.cleanable(now, config)?;
        let (mut clean, mut dirty) = (0_u128, 0_u128);
        let mut earliest = None;
        for (segment, end) in self.segments_with_ends() {
            if segment.base_offset < first_dirty {
                clean += u128::from(segment.size);
            }
            if end > first_dirty && segment.base_offset < until {
                dirty += u128::from(segment.size);
                let oldest = segment.time_index.earliest();
                earliest = [earliest, oldest].into_iter().flatten().min();
            }
        }
        if dirty == 0 {
            return None;
        }
        let overdue = earliest.is_some_and(|earliest| {
            i128::from(now.0) - i128::from(earliest) > i128::from(config.max_lag_ms)
        });
        let ratio = dirty * 1_000_000 / (clean + dirty);
        let over = dirty * 1_000_000 > (clean + dirty) * u128::from(config.dirty_ratio_ppm);
        let ratio_ppm = u32::try_from(ratio).expect("a part of the whole");
        Some(Dirt { ratio_ppm, due: overdue || over })
    }

    /// Whether a run over the log is due when the broker's clock says `now`.
    pub fn wants_compaction(&self, now: UnixMillis, config: &CompactionConfig) -> bool {
        self.dirt(now, config).is_some_and(|dirt| dirt.due)
    }

    /// Whether something damaged keeps the log from being compacted until a restart.
    pub fn is_uncleanable(&self) -> bool {
        self.cleaner.given_up
    }

    /// What compaction and retention did since this was asked last.
    pub fn take_counts(&mut self) -> CleaningCounts {
        std::mem::take(&mut self.counts)
    }

    /// Begins a run that reads and writes `chunk` bytes at a time, whole blocks. Call
    /// [`Log::compact`] with an empty table until it is done.
    pub fn begin_compaction(&mut self, now: UnixMillis, config: &CompactionConfig, chunk: usize) {
        let Some((first_dirty, until)) = self.cleanable(now, config) else { return };
        let at = self.segments.partition_point(|segment| segment.base_offset <= first_dirty);
        let first = &self.segments[at.saturating_sub(1)];
        let at = (first.base_offset, first.lookup(first_dirty));
        self.cleaner.run = Some(Box::new(Run {
            now: now.0,
            delete_retention_ms: config.delete_retention_ms,
            chunk,
            first_dirty,
            until,
            map_end: until,
            phase: Phase::Mapping,
            at,
            source: None,
            ahead: None,
            asked: (0, 0, 0),
            first: i64::MIN,
            end: i64::MIN,
            size: 0,
            reserved: false,
            segment: Segment::new(0),
            pending: vec![],
        }));
    }

    /// Whether a run is under way.
    pub fn compacts(&self) -> bool {
        self.cleaner.run.is_some()
    }

    /// Base offset of the segment that is read next.
    pub(super) fn compaction_source(&self) -> Option<i64> {
        self.cleaner.run.as_ref().map(|run| run.at.0)
    }

    fn segments_with_ends(&self) -> impl Iterator<Item = (&Segment, i64)> {
        let ends = self.segments.iter().skip(1).map(|segment| segment.base_offset);
        self.segments.iter().zip(ends.chain([self.end.offset]))
    }

    /// What may be compacted now: from where, and up to where.
    fn cleanable(&self, now: UnixMillis, config: &CompactionConfig) -> Option<(i64, i64)> {
        let cleaner = &self.cleaner;
        let busy = cleaner.run.is_some() || cleaner.file.is_some() || !cleaner.is_quiet();
        if !self.is_ready() || cleaner.given_up || busy {
            return None;
        }
        let first_dirty = cleaner.cleaned.max(self.log_start_offset);
        let young = |segment: &Segment| {
            let newest = segment.time_index.max().map_or(i64::MIN, |max| max.timestamp);
            i128::from(newest) > i128::from(now.0) - i128::from(config.min_lag_ms)
        };
        let active = self.segments.back()?.base_offset;
        let until = self
            .segments_with_ends()
            .filter(|(_, end)| *end > first_dirty)
            .find(|(one, _)| !one.sealed || (config.min_lag_ms > 0 && young(one)))
            .map_or(active, |(segment, _)| segment.base_offset.min(active));
        (until > first_dirty).then_some((first_dirty, until))
    }

    /// Goes on with the run by one slice.
    pub fn compact(&mut self, map: &mut OffsetMap, io: &mut LogIo<'_>) -> Compacted {
        if !matches!(self.state, State::Ready) {
            self.cleaner.leave();
            return if self.cleaner.run.is_some() { Compacted::Wait } else { Compacted::Done };
        }
        let Some(mut run) = self.cleaner.run.take() else { return Compacted::Done };
        match self.slice(&mut run, map, io) {
            Slice::Pause(Compacted::Done) => Compacted::Done,
            Slice::Pause(result) => {
                self.cleaner.run = Some(run);
                self.next_chore(io);
                result
            }
            Slice::GiveUp => {
                self.drop_cleaned(&run, io);
                self.next_chore(io);
                Compacted::Done
            }
        }
    }

    fn slice(&mut self, run: &mut Run, map: &mut OffsetMap, io: &mut LogIo<'_>) -> Slice {
        let mut budget = COMPACTION_SLICE_BYTES;
        if matches!(run.phase, Phase::Mapping | Phase::Copying) {
            self.read_ahead(run, io);
        }
        loop {
            let used = match run.phase {
                Phase::Mapping => self.map_batch(run, map, io),
                Phase::Choosing => self.choose(run, io),
                Phase::Copying => self.copy_batch(run, map, io),
                Phase::Draining => self.drain(run, io),
                Phase::Opening | Phase::Syncing | Phase::Swapping | Phase::Saving => {
                    Err(Slice::Pause(Compacted::Wait))
                }
            };
            match used {
                Ok(bytes) if bytes < budget => budget -= bytes,
                Ok(_) => return Slice::Pause(Compacted::More),
                Err(slice) => return slice,
            }
        }
    }

    /// Notes the keys of the next batch.
    fn map_batch(
        &mut self,
        run: &mut Run,
        map: &mut OffsetMap,
        io: &mut LogIo<'_>,
    ) -> Result<usize, Slice> {
        let (header, batch) = match self.batch_at(run, io) {
            Found::Batch(header, batch) => (header, batch),
            Found::End => {
                let next = self.segment_behind(run.at.0);
                run.at = (next, 0);
                if next >= run.until {
                    run.phase = Phase::Choosing;
                }
                return Ok(0);
            }
            Found::Not(result) => return Err(Slice::Pause(result)),
            Found::Damaged => return Err(self.give_up(run)),
        };
        run.at.1 += batch.len() as u64;
        self.counts.mapped_bytes += batch.len() as u64;
        if header.next_offset() <= run.first_dirty || header.is_control() {
            return Ok(HEADER_LEN);
        }
        let records = match decode_records(&batch, COMPACTION_UNFOLD_MAX) {
            Ok(records) => records,
            Err(error) => {
                // It stays as it is, and hides no other record.
                tracing::warn!(
                    "log {}: the batch at offset {} is not compacted: {error}",
                    self.dir.display(),
                    header.base_offset
                );
                return Ok(batch.len());
            }
        };
        let unfolded = records.iter().map(size_of_record).sum();
        for record in records.iter().filter(|record| record.offset >= run.first_dirty) {
            let Some(key) = &record.key else { continue };
            if map.put(key, record.offset).is_err() {
                // Offsets beyond the end of what is mapped do no harm: their
                // records are there, and stay.
                run.map_end = match header.base_offset {
                    base if base > run.first_dirty => base,
                    _ => header.next_offset(),
                };
                run.phase = Phase::Choosing;
                break;
            }
        }
        Ok(batch.len().max(unfolded))
    }

    /// Chooses the next segments that become one, or ends.
    fn choose(&mut self, run: &mut Run, io: &mut LogIo<'_>) -> Result<usize, Slice> {
        let start = self.log_start_offset;
        let live = self.segments.partition_point(|segment| segment.base_offset <= start);
        let next = self.segments.partition_point(|segment| segment.base_offset < run.end);
        let from = live.saturating_sub(1).max(next);
        let first = self.segments[from].base_offset;
        if first >= run.map_end {
            run.phase = Phase::Saving;
            self.push_checkpoint(run.map_end, self.cleaner.gaps, Then::Compacted(run.map_end));
            return Err(Slice::Pause(Compacted::Wait));
        }
        let (mut size, mut end, mut newest) = (0, first, None);
        for (segment, next) in self.segments_with_ends().skip(from) {
            let fits = size + segment.size <= self.config.segment_bytes
                && i32::try_from(next - first).is_ok();
            if segment.base_offset >= run.map_end || !segment.sealed || (end > first && !fits) {
                break;
            }
            (size, end) = (size + segment.size, next);
            newest = newest.max(segment.last_append);
        }
        if io.room < 2 * size {
            tracing::warn!("log {}: no space to compact it", self.dir.display());
            return Err(Slice::GiveUp);
        }
        (run.first, run.end) = (first, end);
        (run.size, run.reserved) = (size, false);
        run.segment = Segment::new(first);
        run.segment.last_append = newest;
        run.at = (first, 0);
        run.pending.clear();
        run.phase = Phase::Opening;
        let file = io.files.take();
        let path = self.cleaned_path(run);
        self.chores.extend([
            Chore {
                kind: DiskOpKind::Remove { path: path.clone() },
                then: Then::Next("removing an old copy"),
            },
            Chore {
                kind: DiskOpKind::Open { file, path, create: true },
                then: Then::CleanedOpened(file),
            },
        ]);
        Ok(0)
    }

    pub(super) fn cleaned_opened(&mut self, file: FileId) {
        self.cleaner.file = Some(file);
        if let Some(run) = &mut self.cleaner.run {
            run.phase = Phase::Copying;
        }
    }

    /// Copies what stays of the next batch.
    fn copy_batch(
        &mut self,
        run: &mut Run,
        map: &OffsetMap,
        io: &mut LogIo<'_>,
    ) -> Result<usize, Slice> {
        if !run.reserved {
            // So no write makes the file longer, which would change the file system's
            // journal each time. What is too much is cut in the end.
            run.reserved = true;
            self.cleaner.writing = true;
            let file = self.cleaner.file.expect("it was opened");
            let kind = DiskOpKind::Allocate { file, position: 0, len: align_up(run.size.max(1)) };
            io.push(self.slot, LogOp::CleanWrite, kind);
        }
        // The next chunk is gathered while one is written: one at a time.
        let wait = Err(Slice::Pause(Compacted::Wait));
        if run.pending.len() >= run.chunk {
            if self.cleaner.writing {
                return wait;
            }
            self.write_cleaned(run, align_down(run.pending.len() as u64) as usize, io)?;
        }
        let (header, batch) = match self.batch_at(run, io) {
            Found::Batch(header, batch) => (header, batch),
            Found::End => {
                let next = self.segment_behind(run.at.0);
                if next < run.end {
                    run.at = (next, 0);
                    return Ok(0);
                }
                if self.cleaner.writing {
                    return wait;
                }
                if !run.pending.is_empty() {
                    self.write_cleaned(run, run.pending.len(), io)?;
                    return wait;
                }
                return Err(self.sync_cleaned(run));
            }
            Found::Not(result) => return Err(Slice::Pause(result)),
            // The file is closed, with nothing in flight.
            Found::Damaged if self.cleaner.writing => return wait,
            Found::Damaged => return Err(self.give_up(run)),
        };
        run.at.1 += batch.len() as u64;
        self.counts.read_bytes += batch.len() as u64;
        self.counts.read_records += u64::from(header.record_count.unsigned_abs());
        let last_of_producer = header.producer_id >= 0
            && self.producers.last_offset(header.producer_id) == Some(header.next_offset() - 1);
        let keep_header = last_of_producer || header.next_offset() >= run.end;
        let start = run.pending.len();
        let (kept, unfolded) = filter(run, map, &header, &batch, keep_header);
        if let Some(header) = kept {
            let len = (run.pending.len() - start) as u64;
            self.counts.kept_bytes += len;
            self.counts.kept_records += u64::from(header.record_count.unsigned_abs());
            run.segment.note_batch(&header, len, self.config.index_interval_bytes);
        }
        Ok(batch.len().max(unfolded))
    }

    /// Writes the first `len` bytes that are pending, padded to whole blocks.
    fn write_cleaned(
        &mut self,
        run: &mut Run,
        len: usize,
        io: &mut LogIo<'_>,
    ) -> Result<(), Slice> {
        let whole = align_up(len as u64) as usize;
        let Some(mut page) = io.pages.allocate(whole) else {
            return Err(Slice::Pause(Compacted::NoPages));
        };
        page.put(&run.pending[..len]);
        page.pad_to_block();
        let position = run.segment.size - run.pending.len() as u64;
        run.pending.drain(..len);
        let mut bytes = Rope::default();
        bytes.push(page.slice(0..whole));
        let file = self.cleaner.file.expect("it was opened");
        self.cleaner.writing = true;
        io.push(self.slot, LogOp::CleanWrite, DiskOpKind::Write { file, position, bytes });
        Ok(())
    }

    pub(super) fn on_clean_write(
        &mut self,
        result: Result<DiskOutput, DiskError>,
        io: &mut LogIo<'_>,
    ) {
        self.cleaner.writing = false;
        match result {
            Ok(_) => {}
            Err(DiskError::NoSpace) => {
                tracing::warn!("log {}: no space to compact it", self.dir.display());
                if let Some(run) = self.cleaner.run.take() {
                    self.drop_cleaned(&run, io);
                }
            }
            Err(error) => self.fail(Offline::Disk { what: "writing a compacted segment", error }),
        }
    }

    /// All is written: cuts and syncs the file.
    fn sync_cleaned(&mut self, run: &mut Run) -> Slice {
        let file = self.cleaner.file.expect("it was opened");
        let len = run.segment.size;
        run.phase = Phase::Syncing;
        (run.source, run.ahead) = (None, None);
        self.chores.extend([
            Chore {
                kind: DiskOpKind::Truncate { file, len },
                then: Then::Next("cutting a compacted segment"),
            },
            Chore { kind: DiskOpKind::Sync { file }, then: Then::CleanedSynced },
        ]);
        Slice::Pause(Compacted::Wait)
    }

    pub(super) fn cleaned_synced(&mut self) {
        if let Some(run) = &mut self.cleaner.run {
            run.phase = Phase::Draining;
        }
    }

    /// Waits until nobody reads the old segments, then has the files swapped.
    fn drain(&mut self, run: &mut Run, io: &mut LogIo<'_>) -> Result<usize, Slice> {
        let wait = Err(Slice::Pause(Compacted::Wait));
        let old = |segment: &&Segment| (run.first..run.end).contains(&segment.base_offset);
        let busy = |segment: &Segment| {
            matches!(segment.file, SegmentFile::Opening(_)) || self.cold.reads(segment.base_offset)
        };
        if self.cleaner.reading || self.segments.iter().filter(old).any(busy) {
            return wait;
        }
        let slot = self.slot;
        for segment in &mut self.segments {
            if (run.first..run.end).contains(&segment.base_offset)
                && let SegmentFile::Open(file) = segment.file
            {
                segment.file = SegmentFile::Closed;
                io.close(slot, file);
            }
        }
        let file = self.cleaner.file.take().expect("it was opened");
        io.close(slot, file);
        run.phase = Phase::Swapping;
        self.push_swap(run);
        wait
    }

    /// Where the segment behind this one begins.
    pub(super) fn segment_behind(&self, base: i64) -> i64 {
        let at = self.segments.partition_point(|segment| segment.base_offset <= base);
        self.segments.get(at).map_or(i64::MAX, |segment| segment.base_offset)
    }

    /// The batch that the run has come to.
    fn batch_at(&mut self, run: &mut Run, io: &mut LogIo<'_>) -> Found {
        let (base, position) = run.at;
        let size = self.segment(base).expect("nothing is dropped during a run").size;
        if position >= size {
            return Found::End;
        }
        let mut bytes = run.source.as_ref().and_then(|source| source.at(run.at));
        if let Some(ahead) = run.ahead.as_ref().and_then(|ahead| ahead.at(run.at)) {
            // What was read first has no whole batch any more.
            (run.source, bytes) = (run.ahead.take(), Some(ahead));
        }
        let Some(bytes) = bytes.filter(|bytes| bytes.len() >= HEADER_LEN) else {
            return self.read_source(run, HEADER_LEN, size, io);
        };
        let header = BatchHeader::decode(&bytes).expect("there are enough bytes");
        let sane = self.lies_in(base, &header);
        let len = header.total_len().filter(|len| sane && *len <= MESSAGE_BYTES_MAX);
        let Some(len) = len.filter(|len| position + *len as u64 <= size) else {
            return Found::Damaged;
        };
        if bytes.len() < len {
            return self.read_source(run, len, size, io);
        }
        if batch_crc(&bytes[..len]) != header.crc {
            return Found::Damaged;
        }
        Found::Batch(header, bytes.slice(0..len))
    }

    /// Asks the disk for at least `len` bytes where the run has come to.
    fn read_source(&mut self, run: &mut Run, len: usize, size: u64, io: &mut LogIo<'_>) -> Found {
        if self.cleaner.reading {
            return Found::Not(Compacted::Wait);
        }
        let (base, position) = run.at;
        if position + len as u64 > size {
            return Found::Damaged;
        }
        let file = match self.segment(base).expect("the caller saw it").file {
            SegmentFile::Open(file) => file,
            SegmentFile::Opening(_) => return Found::Not(Compacted::Wait),
            SegmentFile::Closed => {
                self.open_segment(base, io);
                return Found::Not(Compacted::Wait);
            }
            SegmentFile::Absent => unreachable!("a sealed segment has a file"),
        };
        (run.source, run.ahead) = (None, None);
        if self.ask_source(run, file, position, len, size, io) {
            Found::Not(Compacted::Wait)
        } else {
            Found::Not(Compacted::NoPages)
        }
    }

    /// Reads on behind what the run has, while it goes over that. Only in the same
    /// segment, and only if there is a page: it is asked for again when it is needed.
    fn read_ahead(&mut self, run: &mut Run, io: &mut LogIo<'_>) {
        if self.cleaner.reading || run.ahead.is_some() {
            return;
        }
        let Some(source) = &run.source else { return };
        let Some(segment) = self.segment(source.segment) else { return };
        let (size, SegmentFile::Open(file)) = (segment.size, segment.file) else { return };
        if source.segment != run.at.0 || source.at(run.at).is_none() {
            return;
        }
        let mut end = usize::try_from(run.at.1 - source.position).expect("it lies in the source");
        while let Some(header) = BatchHeader::decode(&source.bytes[end..]) {
            match header.total_len() {
                Some(len) if len <= source.bytes.len() - end => end += len,
                _ => break,
            }
        }
        let position = source.position + end as u64;
        if position < size {
            self.ask_source(run, file, position, HEADER_LEN, size, io);
        }
    }

    /// Asks the disk for at least `len` bytes at `position` of the segment that the run
    /// has come to; false if there is no page.
    fn ask_source(
        &mut self,
        run: &mut Run,
        file: FileId,
        position: u64,
        len: usize,
        size: u64,
        io: &mut LogIo<'_>,
    ) -> bool {
        let start = align_down(position);
        let end = align_up(position + len as u64).max(start + run.chunk as u64);
        let len = (end.min(align_up(size)) - start) as usize;
        let page = if io.may_read { io.pages.allocate(len) } else { None };
        let Some(into) = page else { return false };
        run.asked = (run.at.0, start, (size - start).min(len as u64) as usize);
        self.cleaner.reading = true;
        let kind = DiskOpKind::Read { file, position: start, len, into };
        io.push(self.slot, LogOp::CleanRead, kind);
        true
    }

    pub(super) fn on_clean_read(&mut self, result: Result<DiskOutput, DiskError>) {
        self.cleaner.reading = false;
        match result {
            Ok(DiskOutput::Read { page }) => {
                let Some(run) = &mut self.cleaner.run else { return };
                let (segment, position, len) = run.asked;
                if page.len() < len {
                    let what = format!("segment {segment} ends before position {position} + {len}");
                    return self.fail(Offline::Corrupt(what));
                }
                let source = Source { segment, position, bytes: page.slice(0..len) };
                if run.source.is_none() {
                    run.source = Some(source);
                } else {
                    run.ahead = Some(source);
                }
            }
            Ok(output) => unreachable!("a read answered with {output:?}"),
            Err(error) => self.fail(Offline::Disk { what: "reading a segment", error }),
        }
    }

    /// There is no whole batch where the run has come to. Readers will be told when
    /// they come there; nothing is changed.
    fn give_up(&mut self, run: &Run) -> Slice {
        tracing::error!(
            "log {}: it is not compacted any more: no whole batch at position {} of segment {}",
            self.dir.display(),
            run.at.1,
            run.at.0
        );
        self.cleaner.given_up = true;
        Slice::GiveUp
    }

    /// Closes and removes what was written of a new segment, if there is one.
    fn drop_cleaned(&mut self, run: &Run, io: &mut LogIo<'_>) {
        if let Some(file) = self.cleaner.file.take() {
            io.close(self.slot, file);
            let path = self.cleaned_path(run);
            let then = Then::Next("removing a compacted segment");
            self.chores.push_back(Chore { kind: DiskOpKind::Remove { path }, then });
        }
    }
}

/// Adds to what is pending what stays of `batch`; returns the header of that, and
/// the bytes of all its records.
fn filter(
    run: &mut Run,
    map: &OffsetMap,
    header: &BatchHeader,
    batch: &PageSlice,
    keep_header: bool,
) -> (Option<BatchHeader>, usize) {
    let out = &mut run.pending;
    let opened = if header.base_offset >= run.map_end || header.is_control() {
        None
    } else {
        decode_records(batch, COMPACTION_UNFOLD_MAX).ok()
    };
    let Some(records) = opened else {
        out.extend_from_slice(batch);
        return (Some(*header), 0);
    };
    let unfolded = records.iter().map(size_of_record).sum();
    let horizon = delete_horizon(header);
    let over = horizon.is_some_and(|horizon| run.now >= horizon);
    let stays = |record: &&Record| {
        let last = |key: &[u8]| map.get(key).is_none_or(|last| record.offset >= last);
        record.key.as_deref().is_some_and(last) && (record.value.is_some() || !over)
    };
    let kept: Vec<&Record> = records.iter().filter(stays).collect();
    if kept.is_empty() {
        let header = keep_header.then(|| rebuild(header, &[], None, out));
        return (header, unfolded);
    }
    let tombstones = kept.iter().any(|record| record.value.is_none());
    if kept.len() == records.len() && (horizon.is_some() || !tombstones) {
        out.extend_from_slice(batch);
        return (Some(*header), unfolded);
    }
    let later = i64::try_from(run.delete_retention_ms).unwrap_or(i64::MAX);
    let new = tombstones.then(|| run.now.saturating_add(later));
    (Some(rebuild(header, &kept, horizon.or(new), out)), unfolded)
}

fn size_of_record(record: &Record) -> usize {
    let len = |field: &Option<bytes::Bytes>| field.as_ref().map_or(0, bytes::Bytes::len);
    // What a record costs whatever its length.
    64 + len(&record.key) + len(&record.value)
}
