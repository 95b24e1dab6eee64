//! What a log may use of the world: a disk queue, its core's pages, file numbers.
//!
//! There is no word for a socket here, and none for another log's files: every
//! operation is tagged with the log that asked.

use crate::base::pages::PagePool;
use crate::effect::disk::{DiskOp, DiskOpKind, DiskTag, FileId};

/// A log's number on its core, stable while the log is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogSlot(pub u32);

/// What a log asked for, told back with the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOp {
    /// The one write in flight.
    Write,
    /// The one sync in flight.
    Sync,
    /// The one preallocation in flight.
    Allocate,
    /// The chore at the head of the queue.
    Chore,
    /// The recovery scan's read.
    Scan,
    /// A cold read, by its place in the table of cold reads.
    Cold(u8),
    /// The one read of compaction in flight.
    CleanRead,
    /// The one write of compaction in flight.
    CleanWrite,
    /// The chore at the head of the queue, which is a sync.
    ChoreSync,
    /// The one group in the journal in flight.
    Journal,
    /// Something whose end does not matter to the log (closing a handle).
    Ignore,
}

impl LogOp {
    const fn code(self) -> u64 {
        match self {
            LogOp::Write => 0,
            LogOp::Sync => 1,
            LogOp::Allocate => 2,
            LogOp::Chore => 3,
            LogOp::Scan => 4,
            LogOp::Ignore => 5,
            LogOp::CleanRead => 6,
            LogOp::CleanWrite => 7,
            LogOp::ChoreSync => 8,
            LogOp::Journal => 9,
            LogOp::Cold(place) => 0x100 | place as u64,
        }
    }
}

/// The tag of a log's operation.
pub fn tag(slot: LogSlot, op: LogOp) -> DiskTag {
    DiskTag((u64::from(slot.0) << 16) | op.code())
}

/// Which log asked for what.
///
/// # Panics
/// If the tag was not made by [`tag`].
pub fn untag(tag: DiskTag) -> (LogSlot, LogOp) {
    let op = match tag.0 & 0xffff {
        0 => LogOp::Write,
        1 => LogOp::Sync,
        2 => LogOp::Allocate,
        3 => LogOp::Chore,
        4 => LogOp::Scan,
        5 => LogOp::Ignore,
        6 => LogOp::CleanRead,
        7 => LogOp::CleanWrite,
        8 => LogOp::ChoreSync,
        9 => LogOp::Journal,
        cold if cold & 0x100 != 0 => LogOp::Cold(cold as u8),
        other => panic!("no log operation has the code {other}"),
    };
    (LogSlot((tag.0 >> 16) as u32), op)
}

/// Numbers for file handles, reused after their close.
#[derive(Debug, Default)]
pub struct FileIds {
    next: u32,
    free: Vec<FileId>,
}

impl FileIds {
    /// A number that no open file has.
    pub fn take(&mut self) -> FileId {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            FileId(self.next - 1)
        })
    }

    /// Gives back the number of a file whose close was asked for. Closes and
    /// opens are carried out in order, so it may be used at once.
    pub fn give(&mut self, file: FileId) {
        self.free.push(file);
    }

    /// Files open at the moment.
    pub fn open(&self) -> usize {
        self.next as usize - self.free.len()
    }
}

/// A sync that a log waits for, told by [`LogOp::Sync`] or [`LogOp::ChoreSync`].
/// Whoever has the logs decides whether many of them share one.
#[derive(Debug)]
pub struct WantedSync {
    /// The log.
    pub slot: LogSlot,
    /// What it is told.
    pub op: LogOp,
    /// The sync for this log alone.
    pub alone: DiskOpKind,
}

impl WantedSync {
    /// The operation for this log alone.
    pub fn alone(self) -> DiskOp {
        DiskOp { tag: tag(self.slot, self.op), kind: self.alone }
    }
}

/// A log's means, lent for one call.
pub struct LogIo<'a> {
    /// Where operations are queued.
    pub disk: &'a mut Vec<DiskOp>,
    /// Where syncs are.
    pub syncs: &'a mut Vec<WantedSync>,
    /// The core's pages for logs.
    pub pages: &'a mut PagePool,
    /// The core's file numbers.
    pub files: &'a mut FileIds,
    /// Bytes that may be taken of the disk beyond what is reserved. With none
    /// left, appends get what is preallocated and nothing else.
    pub room: u64,
    /// Whether readers may ask the disk now. One for which there was no memory
    /// stops all for a moment: they would take it from each other in turns.
    pub may_read: bool,
    /// Where logs say that they have a small group for the journal, while one is used.
    /// Whoever has the logs then calls [`super::Log::journal_group`], once for each.
    pub groups: Option<&'a mut Vec<LogSlot>>,
}

impl LogIo<'_> {
    /// Queues an operation for the log at `slot`.
    pub fn push(&mut self, slot: LogSlot, op: LogOp, kind: DiskOpKind) {
        self.disk.push(DiskOp { tag: tag(slot, op), kind });
    }

    /// Queues a sync for the log at `slot`: `alone`, or another that makes the same
    /// durable.
    pub fn sync(&mut self, slot: LogSlot, op: LogOp, alone: DiskOpKind) {
        self.syncs.push(WantedSync { slot, op, alone });
    }

    /// Closes `file` and frees its number.
    pub fn close(&mut self, slot: LogSlot, file: FileId) {
        self.push(slot, LogOp::Ignore, DiskOpKind::Close { file });
        self.files.give(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_name_their_log_and_operation() {
        use LogOp::{
            Allocate, Chore, ChoreSync, CleanRead, CleanWrite, Cold, Ignore, Journal, Scan, Sync,
            Write,
        };
        let clean = [CleanRead, CleanWrite];
        for op in clean.into_iter().chain([
            Write,
            Sync,
            Allocate,
            Chore,
            ChoreSync,
            Scan,
            Journal,
            Ignore,
            Cold(0),
            Cold(255),
        ]) {
            assert_eq!(untag(tag(LogSlot(u32::MAX), op)), (LogSlot(u32::MAX), op));
        }
    }
}
