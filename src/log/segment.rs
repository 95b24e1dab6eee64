//! One file of a log.

use super::index::OffsetIndex;
use crate::effect::disk::FileId;
use crate::model::batch::BatchHeader;

/// Whether a segment's file is there and open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentFile {
    /// Not made yet.
    Absent,
    /// There, not open.
    Closed,
    /// Being opened or made.
    Opening(FileId),
    /// Open, its name durable.
    Open(FileId),
}

/// A run of batches from `base_offset` on.
#[derive(Debug)]
pub(super) struct Segment {
    pub base_offset: i64,
    pub file: SegmentFile,
    /// Bytes of batches.
    pub size: u64,
    /// Bytes of the file, including what is preallocated.
    pub allocated: u64,
    pub index: OffsetIndex,
    /// Cut to its length, durable, indexed.
    pub sealed: bool,
    /// What its index file said was wrong once.
    pub index_doubted: bool,
}

impl Segment {
    /// A segment without a file.
    pub fn new(base_offset: i64) -> Self {
        Self {
            base_offset,
            file: SegmentFile::Absent,
            size: 0,
            allocated: 0,
            index: OffsetIndex::default(),
            sealed: false,
            index_doubted: false,
        }
    }

    /// Whether there is a file.
    pub fn exists(&self) -> bool {
        self.file != SegmentFile::Absent
    }

    /// Adds a batch of `len` bytes at the end.
    pub fn note_batch(&mut self, header: &BatchHeader, len: u64) {
        if let Ok(relative) = u32::try_from(header.next_offset() - 1 - self.base_offset) {
            self.index.note(relative, self.size);
        }
        self.size += len;
    }

    /// Makes the index know of the batch at `position`, if it lies behind the
    /// last one it knows.
    pub fn index_batch(&mut self, header: &BatchHeader, position: u64) {
        if position > self.index.lookup(u32::MAX)
            && let Ok(relative) = u32::try_from(header.next_offset() - 1 - self.base_offset)
        {
            self.index.note(relative, position);
        }
    }

    /// Start of a batch at or before the one that holds `offset`.
    pub fn lookup(&self, offset: i64) -> u64 {
        let relative = u32::try_from(offset - self.base_offset).unwrap_or(u32::MAX);
        self.index.lookup(relative)
    }
}
