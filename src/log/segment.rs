//! One file of a log.

use super::index::OffsetIndex;
use super::time_index::TimeIndex;
use crate::base::limits::INDEX_THINNING;
use crate::base::time::UnixMillis;
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
    /// Bytes of the file, including what is preallocated. If they end inside of a block,
    /// the file has the rest of that all the same.
    pub allocated: u64,
    pub index: OffsetIndex,
    pub time_index: TimeIndex,
    /// Largest timestamp of the first batch, -1 if it has none; `None` as long
    /// as it is not known. Time goes by it (`segment.ms`).
    pub first_timestamp: Option<i64>,
    /// The broker's clock when this process first appended to it.
    pub first_append: Option<UnixMillis>,
    /// The broker's clock when this process last appended to it, or first looked
    /// how old it is.
    pub last_append: Option<UnixMillis>,
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
            time_index: TimeIndex::default(),
            first_timestamp: None,
            first_append: None,
            last_append: None,
            sealed: false,
            index_doubted: false,
        }
    }

    /// Whether there is a file.
    pub fn exists(&self) -> bool {
        self.file != SegmentFile::Absent
    }

    /// Adds a batch of `len` bytes at the end; index entries are more than
    /// `interval` bytes apart.
    pub fn note_batch(&mut self, header: &BatchHeader, len: u64, interval: u64) {
        if self.size == 0 {
            self.first_timestamp = Some(header.max_timestamp);
        }
        if let Ok(relative) = u32::try_from(header.next_offset() - 1 - self.base_offset) {
            // Nobody finds a record in an empty batch.
            if header.record_count > 0 {
                self.time_index.note(header.max_timestamp, relative);
            }
            if self.index.note(relative, self.size, interval) {
                self.time_index.mark();
            }
        }
        self.size += len;
    }

    /// Makes the index know of the batch at `position`, if it lies behind the
    /// last one it knows.
    pub fn index_batch(&mut self, header: &BatchHeader, position: u64, interval: u64) {
        if position > self.index.lookup(u32::MAX)
            && let Ok(relative) = u32::try_from(header.next_offset() - 1 - self.base_offset)
        {
            self.index.note(relative, position, interval);
        }
    }

    /// Whether one of the indexes has no room in `max` bytes, one place being
    /// kept for the time index's last entry (`AbstractIndex.isFull`).
    pub fn is_index_full(&self, max: u32) -> bool {
        let max = max as usize;
        (self.index.len() + 1) * 8 > max || (self.time_index.len() + 2) * 12 > max
    }

    /// Forgets what the indexes say of batches that start behind `position`,
    /// where a batch with an entry starts, or the first one.
    pub fn truncate_indexes(&mut self, position: u64) {
        self.index.truncate(position + 1);
        self.time_index.truncate(self.index.last_offset());
    }

    /// Keeps in memory of the indexes what a segment needs that is sealed: one
    /// entry for about [`INDEX_THINNING`] of those in its files, which are
    /// written. A lookup walks over so many more headers.
    pub fn thin_indexes(&mut self, interval: u64) {
        self.index.thin(interval.saturating_mul(INDEX_THINNING));
        self.time_index.thin(self.index.offsets());
    }

    /// Start of a batch before which nothing is as late as `timestamp`.
    pub fn lookup_time(&self, timestamp: i64) -> u64 {
        match self.time_index.first_from(timestamp) {
            // Earlier batches since the offset index's entry before may be as late.
            Some(entry) => {
                entry.offset.checked_sub(1).map_or(0, |offset| self.index.lookup(offset))
            }
            None => self.index.lookup(u32::MAX),
        }
    }

    /// Start of a batch at or before the one that holds `offset`.
    pub fn lookup(&self, offset: i64) -> u64 {
        let relative = u32::try_from(offset - self.base_offset).unwrap_or(u32::MAX);
        self.index.lookup(relative)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use crate::model::record::{BatchBuilder, Codec};

    #[test]
    fn thinned_indexes_lead_to_a_batch_at_or_before_the_one_that_is_looked_for() {
        for seed in 0..100 {
            let mut rng = Rng::new(seed);
            let mut segment = Segment::new(1_000);
            // Position, base offset and timestamp of every batch.
            let mut batches = vec![];
            for n in 0..400_i64 {
                let mut builder = BatchBuilder::new(Codec::None);
                let time = n * 5 + rng.below(300) as i64;
                builder.push(time, None, None, &[]);
                let batch = builder.finish();
                let mut header = BatchHeader::decode(&batch).expect("our own");
                header.base_offset = 1_000 + n;
                batches.push((segment.size, header.base_offset, time));
                segment.note_batch(&header, rng.between(70, 400), 300);
            }
            let before = (segment.index.len(), segment.time_index.len());
            let max = segment.time_index.max();
            segment.thin_indexes([120, 300, 2_400][rng.below(3) as usize]);
            assert!(segment.index.len() < before.0 / 2 && segment.time_index.len() < before.1);
            assert_eq!(segment.time_index.max(), max);
            for (position, offset, time) in &batches {
                let found = segment.lookup(*offset);
                assert!(found <= *position, "seed {seed}");
                assert!(batches.iter().any(|(start, ..)| *start == found), "seed {seed}");
                // Nothing before that is as late.
                let found = segment.lookup_time(*time);
                let first = batches.iter().find(|(.., other)| other >= time).expect("itself");
                assert!(found <= first.0, "seed {seed}: {time}");
                assert!(batches.iter().any(|(start, ..)| *start == found), "seed {seed}");
            }
        }
    }
}
