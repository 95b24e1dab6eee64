//! Loading: what is on disk becomes a log again.
//!
//! Steps: list the directory; read the leader epochs and the indexes, the small ones
//! of which came with the list; scan
//! batches (checksum, offsets, epochs) from the recovery point on, and
//! wherever an index is missing; then, after an unclean stop, cut what lies
//! behind the last whole batch and sync that, before anything is served.
//! What is found after an unclean stop was synced before logs were opened.
//!
//! Recovery never guesses. The first batch that does not check out ends the log
//! only where unsynced bytes are possible: in the last segment, above the
//! recovery point, with no valid batch of a later offset further behind than
//! writes could be in flight. Everything else is corruption: the log goes
//! offline and says so, and nothing is cut.
//!
//! Cutting is truncating to the last whole batch, or to the end of its block if
//! the rest of that is zeros, and syncing, so that nothing behind the log's end
//! can parse as a batch: space allocated later reads as zeros.

use std::collections::{BTreeMap, VecDeque};

use super::epochs::LeaderEpochs;
use super::index::OffsetIndex;
use super::io::{LogIo, LogOp};
use super::producers::Producers;
use super::segment::{Segment, SegmentFile};
use super::start;
use super::time_index::TimeIndex;
use super::{Chore, EPOCHS_FILE, Log, METADATA_FILE, Mark, Offline, State, Then, swap};
use crate::base::limits::{
    LOG_UNSYNCED_MAX, MESSAGE_BYTES_MAX, RECOVERY_SLICE_BYTES, RECOVERY_SLICE_FIRST,
};
use crate::base::pages::{BLOCK, PageSlice, align_down, align_up};
use crate::effect::disk::{DirEntry, DiskError, DiskOpKind, DiskOutput};
use crate::model::batch::{BatchHeader, HEADER_LEN, MAGIC, batch_crc};

/// How far loading has come.
#[derive(Debug)]
pub(super) struct Loading {
    recovery_point: i64,
    clean: bool,
    /// The epochs' or the producers' file was missing or damaged: all batches
    /// are scanned.
    rescan: bool,
    /// A record says what the producers have sent last.
    producers_known: bool,
    /// Small files that were read with the list of the directory.
    read: BTreeMap<String, Vec<u8>>,
    /// Base offsets of segments without two usable indexes.
    unindexed: Vec<i64>,
    /// Base offsets of segments still to scan, in order.
    todo: VecDeque<i64>,
    scan: Option<Scan>,
}

/// A scan of one segment.
#[derive(Debug)]
struct Scan {
    base: i64,
    /// Where the next batch should start.
    position: u64,
    /// Its base offset; unknown before the first batch of a scan that an index
    /// entry started.
    expected: Option<i64>,
    /// Bytes the next read must return to get any further ...
    needed: usize,
    /// ... and those that it asks for: few at first, for most logs are short.
    slice: usize,
    /// The first batch's timestamp has to be read first: the scan starts behind it.
    head: bool,
    /// The batches ended; from here on, look for one that should not be there.
    orphan_search: Option<u64>,
    /// The last block up to `position`, if it is partial.
    partial: Option<PageSlice>,
    /// What follows in that block is zeros.
    padded: bool,
}

/// A chore of loading.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Listed,
    MetadataRead,
    StrayRenamed,
    StartRead,
    CleanerRead,
    /// A step of a swap that was begun.
    Swapped,
    EpochsRead,
    SnapshotRead,
    IndexRead(i64),
    TimeIndexRead(i64),
    ScanOpened(i64),
    Cut,
}

impl Loading {
    pub fn new(recovery_point: i64, clean: bool) -> Self {
        Self {
            recovery_point,
            clean,
            rescan: false,
            producers_known: false,
            read: BTreeMap::new(),
            unindexed: vec![],
            todo: VecDeque::new(),
            scan: None,
        }
    }

    /// Everything but the end of the only segment, at `base`, is known.
    pub fn only_scan(&mut self, base: i64) {
        self.producers_known = true;
        self.todo = VecDeque::from([base]);
    }

    /// Whether a segment is open to be scanned.
    pub fn scans(&self, segments: &VecDeque<Segment>) -> bool {
        let open = |base: i64| {
            let segment = segments.iter().find(|segment| segment.base_offset == base);
            segment.is_some_and(|segment| matches!(segment.file, SegmentFile::Open(_)))
        };
        self.scan.as_ref().is_some_and(|scan| open(scan.base))
    }
}

impl Log {
    pub(super) fn start_loading(&mut self, io: &mut LogIo<'_>) {
        if self.load_closed(io) {
            return self.next_chore(io);
        }
        let kind = DiskOpKind::ReadDir { path: self.dir.clone() };
        self.chores.push_back(Chore { kind, then: Then::Load(Step::Listed) });
        self.next_chore(io);
    }

    /// What a chore of loading would read, if that was read with the directory.
    pub(super) fn read_before(&mut self, chore: &Chore) -> Option<(Step, DiskOutput)> {
        let (DiskOpKind::ReadFile { path }, Then::Load(step)) = (&chore.kind, &chore.then) else {
            return None;
        };
        let State::Loading(loading) = &mut self.state else { return None };
        let name = path.file_name().and_then(|name| name.to_str())?;
        Some((*step, DiskOutput::Content(loading.read.remove(name)?)))
    }

    pub(super) fn loading(&mut self) -> &mut Loading {
        match &mut self.state {
            State::Loading(loading) => loading,
            other => unreachable!("a step of loading in state {other:?}"),
        }
    }

    pub(super) fn on_load_step(
        &mut self,
        step: Step,
        result: Result<DiskOutput, DiskError>,
        io: &mut LogIo<'_>,
    ) {
        if !self.is_loading() {
            // Closed or deleted meanwhile: what was opened has to be closed.
            if let (Step::ScanOpened(base), Ok(_)) = (step, result) {
                self.segment_opened(base);
            }
            return;
        }
        match (step, result) {
            (Step::Listed, Ok(DiskOutput::Dir { entries, contents })) => {
                self.loading().read.extend(contents);
                self.on_listed(&entries);
            }
            (Step::Listed, Err(DiskError::NotFound)) => self.on_listed(&[]),
            (Step::MetadataRead, Ok(DiskOutput::Content(bytes))) => self.on_metadata(&bytes, io),
            (Step::MetadataRead, Err(DiskError::NotFound)) => {
                self.fail(Offline::Corrupt("there are segments but no partition.metadata".into()));
            }
            (Step::StrayRenamed, Ok(_)) => self.on_listed(&[]),
            (Step::StartRead, Ok(DiskOutput::Content(bytes))) => match self.decode_start(&bytes) {
                Some(offset) => self.start.found(offset),
                None => self.fail(Offline::Corrupt(format!("{} is damaged", start::FILE_NAME))),
            },
            (Step::CleanerRead, Ok(DiskOutput::Content(bytes))) => match swap::decode(&bytes) {
                Some((cleaned, gaps)) => {
                    (self.cleaner.cleaned, self.cleaner.gaps) = (cleaned, gaps);
                }
                None => self.fail(Offline::Corrupt(format!("{} is damaged", swap::FILE_NAME))),
            },
            (Step::EpochsRead, Ok(DiskOutput::Content(bytes))) => {
                match LeaderEpochs::decode(&bytes) {
                    Some(epochs) => self.epochs = epochs,
                    None => self.loading().rescan = true,
                }
            }
            (Step::EpochsRead, Err(DiskError::NotFound)) => self.loading().rescan = true,
            (Step::SnapshotRead, Ok(DiskOutput::Content(bytes))) => {
                match Producers::decode(&bytes) {
                    Some(producers) => self.producers = producers,
                    None => self.snapshot = None,
                }
            }
            (Step::IndexRead(base), Ok(DiskOutput::Content(bytes))) => {
                self.on_index(base, Some(&bytes));
            }
            (Step::IndexRead(base), Err(DiskError::NotFound)) => self.on_index(base, None),
            (Step::TimeIndexRead(base), Ok(DiskOutput::Content(bytes))) => {
                self.on_time_index(base, Some(&bytes));
            }
            (Step::TimeIndexRead(base), Err(DiskError::NotFound)) => self.on_time_index(base, None),
            (Step::ScanOpened(base), Ok(DiskOutput::Opened { len })) => {
                let segment = self.segment_mut(base).expect("it is being scanned");
                if let SegmentFile::Opening(file) = segment.file {
                    segment.file = SegmentFile::Open(file);
                }
                segment.allocated = len;
            }
            (Step::Swapped | Step::Cut, Ok(_)) => {}
            (_, Ok(output)) => unreachable!("{step:?} answered with {output:?}"),
            (_, Err(error)) => self.fail(Offline::Disk { what: "loading the log", error }),
        }
        let files_read = !matches!(step, Step::ScanOpened(_) | Step::Cut);
        // Without a segment, the directory is being moved away.
        if self.is_loading() && self.chores.is_empty() && !self.segments.is_empty() {
            if files_read {
                self.forget_below_start();
                if let Err(reason) = self.check_start() {
                    return self.fail(reason);
                }
                self.plan_scans();
                self.next_scan(io);
            } else if matches!(step, Step::Cut) {
                self.become_ready();
            }
        }
    }

    fn on_listed(&mut self, entries: &[DirEntry]) {
        self.dir_made = entries.iter().any(|entry| entry.name == METADATA_FILE);
        if self.is_making_cut_short(entries) {
            // It is made again before the first write.
            self.dir_made = false;
            self.segments.push_back(Segment::new(0));
            return;
        }
        let mut bases: Vec<(i64, u64)> = entries
            .iter()
            .filter_map(|entry| {
                let digits = entry.name.strip_suffix(".log")?;
                (digits.len() == 20).then_some((digits.parse().ok()?, entry.len))
            })
            .collect();
        bases.sort_unstable();
        if bases.is_empty() && !entries.iter().any(|entry| entry.name.ends_with(".swap")) {
            let recovery_point = self.loading().recovery_point;
            if recovery_point > 0 {
                return self.fail(Offline::Corrupt(format!(
                    "no segment is left of a log that had {recovery_point} offsets"
                )));
            }
            self.segments.push_back(Segment::new(0));
            if self.dir_made {
                // A log that has nothing yet, or what a deleted topic left.
                let kind = DiskOpKind::ReadFile { path: self.dir.join(METADATA_FILE) };
                self.chores.push_back(Chore { kind, then: Then::Load(Step::MetadataRead) });
            }
            self.read_start(entries);
            return;
        }
        let files = [(METADATA_FILE, Step::MetadataRead), (EPOCHS_FILE, Step::EpochsRead)];
        for (name, step) in files {
            let kind = DiskOpKind::ReadFile { path: self.dir.join(name) };
            self.chores.push_back(Chore { kind, then: Then::Load(step) });
        }
        self.read_start(entries);
        self.finish_swap(entries, &mut bases);
        // A newer one may be there without its index; both are of durable offsets.
        let offset = |entry: &DirEntry| entry.name.strip_suffix(".snapshot")?.parse().ok();
        self.snapshot = entries.iter().filter_map(offset).max();
        self.remove_orphans(entries);
        if let Some(offset) = self.snapshot {
            let kind = DiskOpKind::ReadFile { path: self.path(offset, "snapshot") };
            self.chores.push_back(Chore { kind, then: Then::Load(Step::SnapshotRead) });
        }
        for (base, len) in bases {
            let mut segment = Segment::new(base);
            segment.file = SegmentFile::Closed;
            segment.allocated = len;
            self.segments.push_back(segment);
            let kind = DiskOpKind::ReadFile { path: self.path(base, "index") };
            self.chores.push_back(Chore { kind, then: Then::Load(Step::IndexRead(base)) });
            let kind = DiskOpKind::ReadFile { path: self.path(base, "timeindex") };
            self.chores.push_back(Chore { kind, then: Then::Load(Step::TimeIndexRead(base)) });
        }
    }

    /// Whether the directory is as a stop may leave it that came before all of it
    /// was durable, whatever its files hold: there was no write yet, for the first
    /// one comes after that sync. A clean stop may have followed.
    fn is_making_cut_short(&mut self, entries: &[DirEntry]) -> bool {
        let recovery_point = self.loading().recovery_point;
        let first = self.path(0, "log");
        let is_made_first = |entry: &DirEntry| {
            let empty_log = first.ends_with(&entry.name) && entry.len == 0;
            empty_log || [METADATA_FILE, EPOCHS_FILE].contains(&entry.name.as_str())
        };
        recovery_point == 0 && !entries.is_empty() && entries.iter().all(is_made_first)
    }

    fn read_start(&mut self, entries: &[DirEntry]) {
        if entries.iter().any(|entry| entry.name == start::FILE_NAME) {
            let kind = DiskOpKind::ReadFile { path: self.dir.join(start::FILE_NAME) };
            self.chores.push_back(Chore { kind, then: Then::Load(Step::StartRead) });
        }
    }

    /// Makes sure that the directory belongs to this topic, and not to a deleted
    /// one of the same name, which is moved out of the way.
    fn on_metadata(&mut self, bytes: &[u8], io: &mut LogIo<'_>) {
        let text = String::from_utf8_lossy(bytes);
        let ids = text.lines().filter_map(|line| line.strip_prefix("topic_id: "));
        let ids: Vec<&str> = ids.take(3).collect();
        let Some(id) = ids.first() else {
            return self.fail(Offline::Corrupt("partition.metadata has no topic_id".into()));
        };
        let ours = self.topic_partition.topic.to_string();
        // There twice, so that damage does not make a log another topic's.
        let sure = if ids.len() == 1 { *id == ours } else { ids[1..] == [*id] };
        if !sure || !text.starts_with("version: 0\n") {
            return self.fail(Offline::Corrupt("partition.metadata is damaged".into()));
        }
        if *id == ours {
            return;
        }
        let stray = format!("{}.{id}-stray", self.dir.display());
        tracing::warn!("{} belongs to a deleted topic; moving it to {stray}", self.dir.display());
        self.chores.clear();
        self.segments.clear();
        self.start.abandon();
        self.snapshot = None;
        self.dir_made = false;
        self.loading().unindexed.clear();
        let kind = DiskOpKind::Rename { from: self.dir.clone(), to: stray.into() };
        self.chores.push_back(Chore { kind, then: Then::Load(Step::StrayRenamed) });
        self.next_chore(io);
    }

    fn on_index(&mut self, base: i64, bytes: Option<&[u8]>) {
        let segment = self.segment_mut(base).expect("its index was asked for");
        match bytes.and_then(|bytes| OffsetIndex::decode(bytes, segment.allocated)) {
            Some(index) => segment.index = index,
            None => self.loading().unindexed.push(base),
        }
    }

    /// Comes behind the segment's offset index. One without the other is no use.
    fn on_time_index(&mut self, base: i64, bytes: Option<&[u8]>) {
        let unindexed = self.loading().unindexed.last() == Some(&base);
        let interval = self.config.index_interval_bytes;
        let recovery_point = self.loading().recovery_point;
        let after = self.segments.partition_point(|segment| segment.base_offset <= base);
        // At once, not when all are read: there may be thousands.
        let sealed = self.segments.get(after).is_some_and(|next| next.base_offset < recovery_point);
        let segment = self.segment_mut(base).expect("its index was asked for");
        match bytes.and_then(TimeIndex::decode) {
            Some(index) if !unindexed => {
                segment.time_index = index;
                if sealed {
                    segment.thin_indexes(interval);
                }
            }
            _ => {
                segment.truncate_indexes(0);
                self.loading().unindexed.push(base);
            }
        }
    }

    /// The log must hold everything from its start on.
    fn check_start(&self) -> Result<(), Offline> {
        let first = self.segments.front().expect("one was found or made");
        let start = self.kept_start();
        if first.base_offset > start || (start > 0 && !first.exists()) {
            let what = format!("no segment holds the start of the log, offset {start}");
            return Err(Offline::Corrupt(what));
        }
        Ok(())
    }

    /// Decides which segments are scanned. The others are sealed and exact.
    fn plan_scans(&mut self) {
        // The scans must find every batch that is in no snapshot. What one knows of
        // batches that are deleted by now is nowhere else.
        let has_segments = self.dir_made && self.segments.front().is_some_and(Segment::exists);
        if has_segments && self.snapshot.unwrap_or(0) < self.loading().recovery_point {
            self.loading().rescan = true;
        }
        let (recovery_point, clean) = {
            let loading = self.loading();
            (loading.recovery_point, loading.clean)
        };
        // A segment that begins at the recovery point says nothing of the one before:
        // its file is made before that one is cut.
        let from = self.segments.partition_point(|segment| segment.base_offset < recovery_point);
        let first_unproven = if clean { self.segments.len() } else { from.max(1) } - 1;
        let mut todo = VecDeque::new();
        for at in 0..self.segments.len() {
            let last = at + 1 == self.segments.len();
            let base = self.segments[at].base_offset;
            let loading = self.loading();
            let lost = loading.rescan || loading.unindexed.contains(&base);
            let segment = &mut self.segments[at];
            if segment.file == SegmentFile::Absent {
                continue;
            }
            if at >= first_unproven || lost || last {
                todo.push_back(base);
            } else {
                segment.size = segment.allocated;
                segment.sealed = true;
                segment.thin_indexes(self.config.index_interval_bytes);
            }
        }
        self.loading().todo = todo;
    }

    /// Begins the next scan, or ends the loading when all are done.
    pub(super) fn next_scan(&mut self, io: &mut LogIo<'_>) {
        let Some(base) = self.loading().todo.pop_front() else {
            if self.segments.back().is_some_and(|last| last.file == SegmentFile::Absent) {
                self.become_ready();
            }
            return;
        };
        let loading = self.loading();
        let (whole, recovery_point) = (loading.rescan, loading.recovery_point);
        let clean = loading.clean;
        let last = self.segments.back().is_some_and(|last| last.base_offset == base);
        let segment = self.segment_mut(base).expect("it was planned");
        // What an index vouches for, up to the recovery point, was checked before.
        let position = if whole {
            0
        } else if clean && last {
            segment.lookup(i64::MAX)
        } else if !clean && base <= recovery_point {
            segment.lookup(recovery_point)
        } else {
            0
        };
        segment.truncate_indexes(position);
        segment.size = position;
        let head = last && position > 0 && segment.first_timestamp.is_none();
        let expected = (position == 0).then_some(base);
        self.loading().scan = Some(Scan {
            base,
            position,
            expected,
            needed: HEADER_LEN,
            slice: RECOVERY_SLICE_FIRST,
            head,
            orphan_search: None,
            partial: None,
            padded: false,
        });
        let file = io.files.take();
        let path = self.path(base, "log");
        self.segment_mut(base).expect("it was planned").file = SegmentFile::Opening(file);
        let kind = DiskOpKind::Open { file, path, create: false };
        self.chores.push_back(Chore { kind, then: Then::Load(Step::ScanOpened(base)) });
    }

    /// Reads the next slice of the segment being scanned, if none is in flight.
    pub(super) fn scan(&mut self, io: &mut LogIo<'_>) {
        let slot = self.slot;
        let State::Loading(loading) = &mut self.state else { return };
        let Some(scan) = &loading.scan else { return };
        let (base, needed, head) = (scan.base, scan.needed as u64, scan.head);
        let slice_len = match scan.orphan_search {
            _ if head => BLOCK,
            Some(_) => RECOVERY_SLICE_BYTES,
            None => scan.slice,
        } as u64;
        let from = if head { 0 } else { scan.orphan_search.unwrap_or(scan.position) };
        let segment = self.segment(base).expect("it is being scanned");
        let SegmentFile::Open(file) = segment.file else { return };
        if self.scan_in_flight {
            return;
        }
        let start = align_down(from);
        let slice = (start + slice_len).max(align_up(from + needed));
        let len = slice.min(align_up(segment.allocated)).saturating_sub(start) as usize;
        if len == 0 {
            return self.batches_ended(io);
        }
        // Without a page the scan waits; the shard resumes it.
        let Some(into) = io.pages.allocate(len) else { return };
        self.scan_in_flight = true;
        io.push(slot, LogOp::Scan, DiskOpKind::Read { file, position: start, len, into });
    }

    pub(super) fn on_scanned(&mut self, result: Result<DiskOutput, DiskError>, io: &mut LogIo<'_>) {
        self.scan_in_flight = false;
        if !self.is_loading() {
            return;
        }
        let page = match result {
            Ok(DiskOutput::Read { page }) => page,
            Ok(output) => unreachable!("a read answered with {output:?}"),
            Err(error) => return self.fail(Offline::Disk { what: "reading a segment", error }),
        };
        let bytes = page.slice(0..page.len());
        let mut scan = self.loading().scan.take().expect("a scan is under way");
        if std::mem::take(&mut scan.head) {
            // A damaged header makes a segment look young, and nothing worse.
            let first = BatchHeader::decode(&bytes).map(|header| header.max_timestamp);
            self.segment_mut(scan.base).expect("it is being scanned").first_timestamp = first;
            self.loading().scan = Some(scan);
            return;
        }
        if let Some(from) = scan.orphan_search {
            return self.on_orphan_slice(scan, from, &bytes, io);
        }
        let start = align_down(scan.position);
        let segment = self.segment(scan.base).expect("it is being scanned");
        let at_end = start + bytes.len() as u64 >= segment.allocated;
        loop {
            let local = (scan.position - start) as usize;
            let rest = bytes.get(local..).unwrap_or_default();
            match self.check_batch(&scan, rest) {
                Check::Whole(header, len) => {
                    let interval = self.config.index_interval_bytes;
                    let segment = self.segment_mut(scan.base).expect("it is being scanned");
                    segment.note_batch(&header, len as u64, interval);
                    // Their file is written again, or every start would scan it all.
                    if self.epochs.note(header.leader_epoch, header.base_offset) {
                        self.flush.epochs_changed = true;
                    }
                    let known = self.loading().producers_known
                        || self.snapshot.is_some_and(|snapshot| header.base_offset < snapshot);
                    if !known {
                        self.producers.note(&header, header.next_offset());
                    }
                    scan.position += len as u64;
                    scan.expected = Some(header.next_offset());
                    scan.needed = HEADER_LEN;
                }
                Check::Needs(needed) if !at_end => {
                    scan.needed = needed;
                    scan.slice = (2 * scan.slice).min(RECOVERY_SLICE_BYTES);
                    self.loading().scan = Some(scan);
                    return;
                }
                Check::Needs(_) | Check::Not => {
                    let block = (align_down(scan.position) - start) as usize;
                    let to_block_end = (align_up(scan.position) - scan.position) as usize;
                    scan.padded = rest.iter().take(to_block_end).all(|byte| *byte == 0);
                    scan.partial = (block < local).then(|| bytes.slice(block..local));
                    self.loading().scan = Some(scan);
                    return self.batches_ended(io);
                }
            }
        }
    }

    /// Whether `bytes` begin with the batch the scan expects.
    fn check_batch(&self, scan: &Scan, bytes: &[u8]) -> Check {
        let Some(header) = BatchHeader::decode(bytes) else { return Check::Needs(HEADER_LEN) };
        let in_order = match scan.expected {
            // Only what was compacted has no batch for every offset.
            Some(expected) => {
                header.base_offset == expected
                    || (header.base_offset > expected && header.next_offset() <= self.cleaner.gaps)
            }
            // The scan starts where the index says that this batch is: another one
            // there would hide those before it.
            None => {
                let segment = self.segment(scan.base).expect("it is being scanned");
                let last = u32::try_from(header.next_offset() - 1 - scan.base).ok();
                last.is_some() && last == segment.index.last_offset()
            }
        };
        let sane = header.magic == MAGIC && header.last_offset_delta >= 0 && in_order;
        let Some(len) = header.total_len().filter(|len| sane && *len <= MESSAGE_BYTES_MAX) else {
            return Check::Not;
        };
        if bytes.len() < len {
            return Check::Needs(len);
        }
        if batch_crc(&bytes[..len]) == header.crc { Check::Whole(header, len) } else { Check::Not }
    }

    /// The batches of the segment being scanned have ended.
    fn batches_ended(&mut self, io: &mut LogIo<'_>) {
        let mut scan = self.loading().scan.take().expect("a scan is under way");
        let (recovery_point, clean) = (self.loading().recovery_point, self.loading().clean);
        let Some(end) = scan.expected else {
            // The index led nowhere: it may be wrong, or the batch it names is.
            tracing::warn!(
                "log {}: there is no batch at position {} of segment {}, as its index says; it \
                 is checked from its start",
                self.dir.display(),
                scan.position,
                scan.base
            );
            let segment = self.segment_mut(scan.base).expect("it is being scanned");
            segment.truncate_indexes(0);
            segment.size = 0;
            scan.position = 0;
            scan.expected = Some(scan.base);
            scan.needed = HEADER_LEN;
            self.loading().scan = Some(scan);
            return self.scan(io);
        };
        let after = self.segments.partition_point(|segment| segment.base_offset <= scan.base);
        let next = self.segments.get(after).map(|segment| segment.base_offset);
        if next.is_some_and(|next| next != end) {
            return self.fail(Offline::Corrupt(format!(
                "segment {} has whole batches up to offset {end} only, and another follows",
                scan.base
            )));
        }
        let recovery_point = recovery_point.max(self.kept_start());
        if next.is_none() && end < recovery_point {
            return self.fail(Offline::Corrupt(format!(
                "whole batches up to offset {end} only, where {recovery_point} were durable"
            )));
        }
        let allocated = self.segment(scan.base).expect("it is being scanned").allocated;
        if clean && next.is_none() && allocated != scan.position {
            return self.fail(Offline::Corrupt(format!(
                "a damaged batch at position {} of segment {}, which was cleanly closed",
                scan.position, scan.base
            )));
        }
        let search = scan.position + LOG_UNSYNCED_MAX as u64;
        let synced_always = self.config.flush_messages <= 1;
        if !clean && synced_always && search < allocated && scan.orphan_search.is_none() {
            scan.orphan_search = Some(search);
            scan.needed = 2 * RECOVERY_SLICE_BYTES;
            self.loading().scan = Some(scan);
            return self.scan(io);
        }
        self.scan_finished(scan, end, next.is_none(), io);
    }

    /// Looks for a batch where none can be, slice by slice with an overlap.
    fn on_orphan_slice(&mut self, mut scan: Scan, from: u64, bytes: &[u8], io: &mut LogIo<'_>) {
        let end = scan.expected.unwrap_or(scan.base);
        let bytes = &bytes[((from - align_down(from)) as usize).min(bytes.len())..];
        if let Some(at) = find_batch(bytes, end) {
            return self.fail(Offline::Corrupt(format!(
                "a damaged batch at position {} of segment {}, with whole ones at {}",
                scan.position,
                scan.base,
                from + at as u64
            )));
        }
        let allocated = self.segment(scan.base).expect("it is being scanned").allocated;
        let next = from + RECOVERY_SLICE_BYTES as u64;
        if next < allocated {
            scan.orphan_search = Some(next);
            self.loading().scan = Some(scan);
            return;
        }
        let last = self.segments.back().is_some_and(|last| last.base_offset == scan.base);
        self.scan_finished(scan, end, last, io);
    }

    /// Cuts and syncs the scanned segment after an unclean stop, and goes on.
    fn scan_finished(&mut self, scan: Scan, end: i64, last: bool, io: &mut LogIo<'_>) {
        let segment = self.segment_mut(scan.base).expect("it is being scanned");
        let SegmentFile::Open(file) = segment.file else {
            unreachable!("a scanned segment is open")
        };
        let size = segment.size;
        // A cut at the end of a block touches no byte, inside of one it is read,
        // changed and written.
        let len = if scan.padded && last { align_up(size).min(segment.allocated) } else { size };
        let cut = segment.allocated != len;
        segment.allocated = len;
        segment.sealed = !last;
        if last {
            self.end = Mark { offset: end, segment: scan.base, position: size };
            if let Some(partial) = scan.partial {
                // A page of its own, so that a few bytes do not hold a whole slice.
                let own = io.pages.allocate(partial.len()).map(|mut page| {
                    page.put(&partial);
                    page.slice(0..partial.len())
                });
                self.tail.restore(scan.base, align_down(size), own.unwrap_or(partial));
            }
        }
        let step = |kind| Chore { kind, then: Then::Load(Step::Cut) };
        if cut {
            self.chores.push_back(step(DiskOpKind::Truncate { file, len }));
            self.chores.push_back(step(DiskOpKind::Sync { file }));
        }
        if !last {
            let segment = self.segment(scan.base).expect("seen above");
            let files = [
                ("timeindex", segment.time_index.encode_sealed()),
                ("index", segment.index.encode(u64::MAX)),
            ];
            for (extension, bytes) in files {
                let path = self.path(scan.base, extension);
                self.chores.push_back(step(DiskOpKind::Replace { path, bytes }));
            }
            let interval = self.config.index_interval_bytes;
            self.segment_mut(scan.base).expect("seen above").thin_indexes(interval);
            return self.next_scan(io);
        }
        if self.chores.is_empty() && self.chore_in_flight.is_none() {
            self.become_ready();
        }
    }

    fn become_ready(&mut self) {
        self.log_start_offset = self.kept_start();
        self.epochs.truncate_start(self.log_start_offset);
        self.epochs.truncate(self.end.offset.max(self.log_start_offset + 1));
        self.flush.restart(self.end);
        self.segments.back_mut().expect("seen above").time_index.keep();
        self.closed_record = None;
        self.state = State::Ready;
    }
}

enum Check {
    Whole(BatchHeader, usize),
    /// So many bytes from the batch's start would tell.
    Needs(usize),
    Not,
}

/// Start of a whole, valid batch with a base offset above `offset`.
fn find_batch(bytes: &[u8], offset: i64) -> Option<usize> {
    let mut at = 0;
    while at + HEADER_LEN <= bytes.len() {
        // Preallocated space is zeros: step over them a word at a time.
        if bytes[at + 16] == 0 {
            let zeros = bytes[at + 16..].iter().take_while(|byte| **byte == 0).count();
            at += zeros;
            continue;
        }
        if bytes[at + 16] as i8 == MAGIC
            && let Some(header) = BatchHeader::decode(&bytes[at..])
            && header.base_offset > offset
            && header.base_offset - offset < i64::from(i32::MAX)
            && let Some(len) = header.total_len()
            && at + len <= bytes.len()
            && batch_crc(&bytes[at..at + len]) == header.crc
        {
            return Some(at);
        }
        at += 1;
    }
    None
}
