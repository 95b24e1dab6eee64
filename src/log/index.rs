//! The sparse offset index of one segment, in memory and as Kafka's `.index`.
//!
//! An entry says where the batch that ends with an offset begins
//! (`OffsetIndex.java`: relative offset and position, four bytes each, both
//! increasing). Entries are more than `index.interval.bytes` of log apart, so a
//! lookup leaves a short walk over batch headers.

/// Entries in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetIndex {
    entries: Vec<Entry>,
    /// Position up to which batches were considered.
    indexed_to: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Last offset of the batch, relative to the segment's base.
    offset: u32,
    /// Where the batch starts.
    position: u32,
}

const ENTRY_LEN: usize = 8;

impl OffsetIndex {
    /// Considers the batch at `position` that ends with `relative_offset`: it
    /// gets an entry if it starts more than `interval` bytes behind the last one
    /// that has. Batches come in order. True if there is a new entry.
    pub fn note(&mut self, relative_offset: u32, position: u64, interval: u64) -> bool {
        if position - self.indexed_to <= interval {
            return false;
        }
        let Ok(at) = u32::try_from(position) else { return false };
        self.entries.push(Entry { offset: relative_offset, position: at });
        self.indexed_to = position;
        true
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Relative offset of the last entry.
    pub fn last_offset(&self) -> Option<u32> {
        self.entries.last().map(|entry| entry.offset)
    }

    /// Start of a batch at or before the one that holds `relative_offset`.
    pub fn lookup(&self, relative_offset: u32) -> u64 {
        let after = self.entries.partition_point(|entry| entry.offset <= relative_offset);
        after.checked_sub(1).map_or(0, |at| u64::from(self.entries[at].position))
    }

    /// Last offset, relative, of the batch at `position`, if it has an entry.
    pub fn offset_at(&self, position: u64) -> Option<u32> {
        let found = self.entries.binary_search_by_key(&position, |entry| entry.position.into());
        found.ok().map(|at| self.entries[at].offset)
    }

    /// Forgets batches that start at or beyond `position`.
    pub fn truncate(&mut self, position: u64) {
        let keep = self.entries.partition_point(|entry| u64::from(entry.position) < position);
        self.entries.truncate(keep);
        self.indexed_to = self.entries.last().map_or(0, |entry| u64::from(entry.position));
    }

    /// Keeps entries that are more than `interval` bytes of log apart.
    pub fn thin(&mut self, interval: u64) {
        let mut kept_to = 0;
        self.entries.retain(|entry| {
            let keep = u64::from(entry.position) - kept_to > interval;
            if keep {
                kept_to = u64::from(entry.position);
            }
            keep
        });
        self.entries.shrink_to_fit();
    }

    /// Last offsets of the batches that have entries, relative, in order.
    pub fn offsets(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().map(|entry| entry.offset)
    }

    /// The bytes of the `.index` file for batches that start before `position`.
    pub fn encode(&self, position: u64) -> Vec<u8> {
        let keep = self.entries.partition_point(|entry| u64::from(entry.position) < position);
        let mut out = Vec::with_capacity(keep * ENTRY_LEN);
        for entry in &self.entries[..keep] {
            out.extend_from_slice(&entry.offset.to_be_bytes());
            out.extend_from_slice(&entry.position.to_be_bytes());
        }
        out
    }

    /// Reads an `.index` file of a segment of `segment_len` bytes, or `None`
    /// if it cannot be true.
    pub fn decode(bytes: &[u8], segment_len: u64) -> Option<Self> {
        if !bytes.len().is_multiple_of(ENTRY_LEN) {
            return None;
        }
        let u32_of = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
        let mut entries: Vec<Entry> = Vec::with_capacity(bytes.len() / ENTRY_LEN);
        for chunk in bytes.chunks_exact(ENTRY_LEN) {
            let entry = Entry { offset: u32_of(&chunk[..4])?, position: u32_of(&chunk[4..])? };
            let increases = entries
                .last()
                .is_none_or(|last| last.offset < entry.offset && last.position < entry.position);
            if !increases || u64::from(entry.position) >= segment_len {
                return None;
            }
            entries.push(entry);
        }
        let indexed_to = entries.last().map_or(0, |entry| u64::from(entry.position));
        Some(Self { entries, indexed_to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> OffsetIndex {
        let mut index = OffsetIndex::default();
        // Batches of ten records and 20 KiB.
        for batch in 0..10_u32 {
            index.note(batch * 10 + 9, u64::from(batch) * 20_480, 32 << 10);
        }
        index
    }

    #[test]
    fn lookups_land_at_or_before_the_batch() {
        let index = index();
        for offset in 0..100_u32 {
            let position = index.lookup(offset);
            assert!(position <= u64::from(offset / 10) * 20_480, "offset {offset}");
            assert!(u64::from(offset / 10) * 20_480 - position <= 2 * 20_480, "offset {offset}");
        }
    }

    #[test]
    fn the_file_gives_the_index_back_and_nonsense_is_refused() {
        let index = index();
        let bytes = index.encode(u64::MAX);
        assert_eq!(OffsetIndex::decode(&bytes, 204_800), Some(index.clone()));
        assert_eq!(OffsetIndex::decode(&bytes[1..], 204_800), None);
        assert_eq!(OffsetIndex::decode(&bytes, 100_000), None, "beyond the segment");
        let mut swapped = bytes.clone();
        swapped.rotate_left(8);
        assert_eq!(OffsetIndex::decode(&swapped, 204_800), None, "not increasing");
    }

    #[test]
    fn truncation_forgets_what_starts_behind() {
        let mut cut = index();
        cut.truncate(81_920);
        assert!(cut.lookup(u32::MAX) < 81_920);
        assert!(cut.note(1_000, 163_840, 32 << 10));
        assert_eq!(cut.lookup(1_000), 163_840);
    }
}
