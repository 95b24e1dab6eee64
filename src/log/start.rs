//! The start of the log: what lies below it is deleted, whole segments at a time.
//!
//! Moving the start is in three steps. From [`Log::advance_start`] on nothing
//! below it is served. When everything up to it is durable, it is written to
//! `log-start-offset-checkpoint`; from then on it survives the power
//! ([`Log::kept_start`]). Then the segments that lie wholly below it are closed
//! and their files removed, oldest first, one operation at a time and only when
//! the log has nothing more urgent: a roll waits for one removal at most.
//!
//! The file has the format and the name of Kafka's checkpoint of the log directory
//! (`OffsetCheckpointFile.java`) but lies in the partition's own, so that it goes
//! with the topic. It has no checksum; its one row is there twice instead, which
//! Kafka's reader does not mind, and rows that differ are damage.
//!
//! Who moves the start and why is decided elsewhere.

use std::collections::VecDeque;
use std::path::PathBuf;

use super::io::LogIo;
use super::segment::SegmentFile;
use super::{Chore, Log, State, Then};
use crate::effect::disk::{DirEntry, DiskOpKind};

/// The checkpoint's name.
pub(super) const FILE_NAME: &str = "log-start-offset-checkpoint";

/// Files beside a segment's `.log`, removed with it.
const SIDE_FILES: [&str; 3] = ["index", "timeindex", "txnindex"];

/// The offset is behind what is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

/// How far the start has come on disk.
#[derive(Debug, Default)]
pub(super) struct Start {
    /// The checkpointed start.
    kept: i64,
    /// The checkpoint being written.
    keeping: Option<i64>,
    /// Files of segments that are gone, oldest first.
    removals: VecDeque<PathBuf>,
}

impl Start {
    /// Loading found the checkpoint, or that there is none.
    pub fn found(&mut self, offset: i64) {
        self.kept = offset;
    }

    /// Whether nothing is left to do.
    pub fn is_settled(&self, offset: i64) -> bool {
        self.kept == offset && self.keeping.is_none() && self.removals.is_empty()
    }

    /// Nothing is removed any more.
    pub fn abandon(&mut self) {
        self.removals.clear();
    }
}

impl Log {
    /// Deletes what lies before `offset`, at most the committed end. A start that
    /// is there already stays. Done when [`Log::kept_start`] has reached it.
    ///
    /// # Errors
    /// If `offset` is behind [`Log::committed`]; nothing was changed.
    pub fn advance_start(&mut self, offset: i64, io: &mut LogIo<'_>) -> Result<(), OutOfRange> {
        assert!(self.is_ready(), "only a ready log has a start to move");
        if offset > self.committed().offset {
            return Err(OutOfRange);
        }
        if offset > self.log_start_offset {
            self.log_start_offset = offset;
            if self.epochs.truncate_start(offset) {
                self.flush.epochs_changed = true;
            }
            self.flush(io);
        }
        Ok(())
    }

    /// The start that survives the power: at most [`Log::log_start_offset`].
    pub fn kept_start(&self) -> i64 {
        self.start.kept
    }

    /// Whether the start waits for a sync.
    pub(super) fn start_wants_sync(&self) -> bool {
        self.log_start_offset > self.flush.durable.offset
    }

    /// Does the next step of moving the start, if there is one.
    pub(super) fn move_start(&mut self, io: &mut LogIo<'_>) {
        let offset = self.log_start_offset;
        let durable = offset <= self.flush.durable.offset;
        if durable && offset > self.start.kept.max(self.start.keeping.unwrap_or(0)) {
            self.start.keeping = Some(offset);
            let path = self.dir.join(FILE_NAME);
            let kind = DiskOpKind::Replace { path, bytes: self.encode_start(offset) };
            self.chores.push_back(Chore { kind, then: Then::StartKept(offset) });
        }
        self.drop_segments(io);
        if matches!(self.state, State::Ready)
            && self.chores.is_empty()
            && self.chore_in_flight.is_none()
            && let Some(path) = self.start.removals.pop_front()
        {
            let then = Then::Next("removing an old segment");
            self.chores.push_back(Chore { kind: DiskOpKind::Remove { path }, then });
        }
    }

    pub(super) fn start_kept(&mut self, offset: i64) {
        self.start.kept = offset;
        self.start.keeping = self.start.keeping.filter(|later| *later > offset);
    }

    /// Gives up the segments that lie wholly below the checkpointed start and
    /// that nothing uses.
    fn drop_segments(&mut self, io: &mut LogIo<'_>) {
        while let (Some(first), Some(next)) = (self.segments.front(), self.segments.get(1)) {
            let base = first.base_offset;
            let busy = !first.sealed
                || matches!(first.file, SegmentFile::Opening(_))
                || self.cold.reads(base);
            // A scan sealed it: until the next checkpoint it alone has its producers.
            let alone = next.base_offset > self.snapshot.unwrap_or(0);
            // Compaction goes over all of them.
            let compacts = self.compacts() || !self.cleaner.is_quiet();
            if next.base_offset > self.start.kept || busy || alone || compacts {
                return;
            }
            if let SegmentFile::Open(file) = first.file {
                io.close(self.slot, file);
            }
            self.cold.forget(base);
            self.tail.evict(base, u64::MAX, usize::MAX);
            self.segments.pop_front();
            self.remove_files(base);
        }
    }

    fn remove_files(&mut self, base: i64) {
        // The log itself first: what is left of a deletion that was cut short
        // is never a segment without its index.
        let paths = ["log"].into_iter().chain(SIDE_FILES).map(|kind| self.path(base, kind));
        let paths: Vec<PathBuf> = paths.collect();
        self.start.removals.extend(paths);
    }

    /// Loading: forgets segments below the start whose removal was cut short.
    ///
    /// One that holds batches of no snapshot stays until it was scanned: it says what
    /// its producers sent last. (A recovery point does not tell: many logs may have
    /// been closed together, without a snapshot of their own.)
    pub(super) fn forget_below_start(&mut self) {
        let gone = self.start.kept.min(self.snapshot.unwrap_or(0));
        while self.segments.get(1).is_some_and(|next| next.base_offset <= gone) {
            let first = self.segments.pop_front().expect("there are two");
            self.remove_files(first.base_offset);
        }
    }

    /// Loading: has the files removed that belong to no segment.
    pub(super) fn remove_orphans(&mut self, entries: &[DirEntry]) {
        let has_log = |name: &str| {
            let log = format!("{name}.log");
            entries.iter().any(|entry| entry.name == log)
        };
        // What belongs to segments that are being swapped is not for here.
        let swaps = entries.iter().any(|entry| entry.name.ends_with(".swap"));
        for entry in entries {
            let Some((stem, extension)) = entry.name.rsplit_once('.') else { continue };
            let orphan = match extension {
                "tmp" => true,
                "snapshot" => stem.parse::<i64>().is_ok_and(|at| Some(at) < self.snapshot),
                side => !swaps && SIDE_FILES.contains(&side) && !has_log(stem),
            };
            if orphan {
                self.start.removals.push_back(self.dir.join(&entry.name));
            }
        }
    }

    /// `<topic> <partition> <offset>`, as far as it does not depend on the offset.
    fn start_row(&self) -> String {
        let name = self.dir.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.expect("a log's directory has a name");
        let (topic, _) = name.rsplit_once('-').expect("it ends with the partition");
        format!("{topic} {}", self.topic_partition.partition)
    }

    fn encode_start(&self, offset: i64) -> Vec<u8> {
        let row = format!("{} {offset}\n", self.start_row());
        format!("0\n2\n{row}{row}").into_bytes()
    }

    /// Reads the checkpoint, or `None` if it is damaged.
    pub(super) fn decode_start(&self, bytes: &[u8]) -> Option<i64> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (row, again) = text.strip_prefix("0\n2\n")?.split_once('\n')?;
        if again.strip_suffix('\n')? != row {
            return None;
        }
        let offset = row.strip_prefix(&self.start_row())?.strip_prefix(' ')?;
        offset.parse().ok().filter(|offset| *offset >= 0)
    }
}
