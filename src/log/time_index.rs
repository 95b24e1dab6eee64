//! The sparse time index of one segment, in memory and as Kafka's `.timeindex`.
//!
//! An entry says that nothing up to the batch that ends with an offset is later
//! than a timestamp, and that this batch has it (`TimeIndex.java`: timestamp,
//! eight bytes, and relative offset, four bytes, both increasing). An entry is
//! made where the offset index makes one, if the largest timestamp has grown
//! since the last one; a sealed segment's file ends with its largest timestamp.
//!
//! Batches without a timestamp (-1) leave no trace.

/// Entries in order, and the largest timestamp so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeIndex {
    entries: Vec<TimeEntry>,
    max: Option<TimeEntry>,
    /// What `max` was at the last [`TimeIndex::keep`].
    kept: Option<TimeEntry>,
}

/// A timestamp and the batch that has it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    /// Milliseconds since the epoch, not negative.
    pub timestamp: i64,
    /// Last offset of the batch, relative to the segment's base.
    pub offset: u32,
}

const ENTRY_LEN: usize = 12;

impl TimeIndex {
    /// Considers the batch that ends with `offset`. Batches come in order.
    pub fn note(&mut self, timestamp: i64, offset: u32) {
        if timestamp >= 0 && self.max.is_none_or(|max| max.timestamp < timestamp) {
            self.max = Some(TimeEntry { timestamp, offset });
        }
    }

    /// Makes an entry behind the last batch that was considered.
    pub fn mark(&mut self) {
        if let Some(max) = self.max.filter(|max| self.entries.last() != Some(max)) {
            self.entries.push(max);
        }
    }

    /// The largest timestamp so far.
    pub fn max(&self) -> Option<TimeEntry> {
        self.max
    }

    /// About the timestamp of the first batch: the largest one up to the first
    /// entry.
    pub fn earliest(&self) -> Option<i64> {
        self.entries.first().or(self.max.as_ref()).map(|entry| entry.timestamp)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first entry that is not before `timestamp`.
    pub fn first_from(&self, timestamp: i64) -> Option<TimeEntry> {
        let at = self.entries.partition_point(|entry| entry.timestamp < timestamp);
        self.entries.get(at).copied()
    }

    /// Takes note that what was considered so far will not be rolled back.
    pub fn keep(&mut self) {
        self.kept = self.max;
    }

    /// Forgets what was considered since [`TimeIndex::keep`].
    pub fn roll_back(&mut self) {
        self.max = self.kept;
        let keep = self.max.map_or(-1, |max| i64::from(max.offset));
        self.entries.retain(|entry| i64::from(entry.offset) <= keep);
    }

    /// Forgets batches behind the one that ends with `offset`, where the offset
    /// index has its last entry; `None` for all.
    pub fn truncate(&mut self, offset: Option<u32>) {
        let keep = self.entries.partition_point(|entry| Some(entry.offset) <= offset);
        self.entries.truncate(keep);
        self.max = self.entries.last().copied();
        self.kept = self.max;
    }

    /// Keeps the first entry, and those that would have been made if only the
    /// batches that end with the offsets `marks`, in order, had marked.
    pub fn thin(&mut self, marks: impl Iterator<Item = u32>) {
        let mut marks = marks.peekable();
        let mut at = 0;
        let nexts: Vec<u32> = self.entries.iter().skip(1).map(|entry| entry.offset).collect();
        self.entries.retain(|entry| {
            let next = nexts.get(at).copied().unwrap_or(u32::MAX);
            at += 1;
            while marks.next_if(|mark| *mark < entry.offset).is_some() {}
            at == 1 || marks.peek().is_some_and(|mark| *mark < next)
        });
        self.entries.shrink_to_fit();
    }

    /// The bytes of the `.timeindex` file of a segment that grows, for batches
    /// that end before the relative offset `end`.
    pub fn encode(&self, end: u64) -> Vec<u8> {
        let keep = self.entries.partition_point(|entry| u64::from(entry.offset) < end);
        encode(&self.entries[..keep])
    }

    /// The bytes of the `.timeindex` file of a segment that grows no more.
    pub fn encode_sealed(&self) -> Vec<u8> {
        let mut whole = self.clone();
        whole.mark();
        encode(&whole.entries)
    }

    /// Reads a `.timeindex` file, or `None` if it cannot be true.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(ENTRY_LEN) {
            return None;
        }
        let mut entries: Vec<TimeEntry> = Vec::with_capacity(bytes.len() / ENTRY_LEN);
        for chunk in bytes.chunks_exact(ENTRY_LEN) {
            let timestamp = i64::from_be_bytes(chunk[..8].try_into().ok()?);
            let offset = u32::from_be_bytes(chunk[8..].try_into().ok()?);
            let increases = entries
                .last()
                .is_none_or(|last| last.timestamp < timestamp && last.offset < offset);
            if !increases || timestamp < 0 {
                return None;
            }
            entries.push(TimeEntry { timestamp, offset });
        }
        let max = entries.last().copied();
        Some(Self { entries, max, kept: max })
    }
}

fn encode(entries: &[TimeEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * ENTRY_LEN);
    for entry in entries {
        out.extend_from_slice(&entry.timestamp.to_be_bytes());
        out.extend_from_slice(&entry.offset.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(timestamp: i64, offset: u32) -> TimeEntry {
        TimeEntry { timestamp, offset }
    }

    /// Batches of ten records; every third one marks.
    fn index(timestamps: &[i64]) -> TimeIndex {
        let mut index = TimeIndex::default();
        for (at, timestamp) in (0_u32..).zip(timestamps) {
            index.note(*timestamp, at * 10 + 9);
            if at % 3 == 2 {
                index.mark();
            }
        }
        index
    }

    #[test]
    fn entries_are_made_where_the_largest_timestamp_has_grown() {
        let index = index(&[5, 7, 6, 1, 2, 7, 3, 9, 9, -1, 11]);
        assert_eq!(index.entries, [entry(7, 19), entry(9, 79)]);
        assert_eq!(index.max(), Some(entry(11, 109)));
        let found = [(0, Some(7)), (7, Some(7)), (8, Some(9)), (9, Some(9)), (10, None)];
        for (timestamp, expected) in found {
            let found = index.first_from(timestamp).map(|entry| entry.timestamp);
            assert_eq!(found, expected, "{timestamp}");
        }
    }

    #[test]
    fn the_file_has_kafkas_layout_and_ends_with_the_largest() {
        let index = index(&[5, 7, 6, 1, 2, 7, 3, 9, 9, -1, 11]);
        let sealed = index.encode_sealed();
        let mut expected = vec![];
        for (timestamp, offset) in [(7_i64, 19_u32), (9, 79), (11, 109)] {
            expected.extend_from_slice(&timestamp.to_be_bytes());
            expected.extend_from_slice(&offset.to_be_bytes());
        }
        assert_eq!(sealed, expected);
        assert_eq!(index.encode(u64::MAX), expected[..24]);
        assert_eq!(index.encode(79), expected[..12], "the entry's batch is not all there");
        assert_eq!(TimeIndex::decode(&sealed).expect("our own").max(), Some(entry(11, 109)));
        // Sealed twice, the file is the same.
        assert_eq!(TimeIndex::decode(&sealed).expect("our own").encode_sealed(), sealed);
        let mut swapped = sealed.clone();
        swapped.rotate_left(12);
        for bad in [&sealed[1..], &swapped[..], &[&sealed[..], &[0; 12]].concat(), &[0xff; 12]] {
            assert_eq!(TimeIndex::decode(bad), None);
        }
        assert!(TimeIndex::decode(&[]).expect("no timestamps").is_empty());
    }

    #[test]
    fn what_is_forgotten() {
        let whole = index(&[5, 7, 6, 1, 2, 7, 3, 9, 9, 11]);
        let mut cut = whole.clone();
        cut.truncate(Some(59));
        assert_eq!((cut.len(), cut.max()), (1, Some(entry(7, 19))));
        cut.truncate(None);
        assert_eq!(cut, TimeIndex::default());

        let mut rolled = whole.clone();
        rolled.keep();
        rolled.note(20, 109);
        rolled.mark();
        rolled.note(30, 119);
        rolled.roll_back();
        assert_eq!(rolled.max(), whole.max());
        assert_eq!(rolled.encode_sealed(), whole.encode_sealed());
    }
}
