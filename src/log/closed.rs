//! What is left of a small log when many are closed together: a segment of its exact
//! length, and a record of all else that its side files would say. The record is
//! kept in one file with those of the other logs (`closed_logs.rs`), so that a stop
//! costs a log no file, and a start reads none.
//!
//! A log is small if its only segment is no longer than `CLOSED_SEGMENT_MAX` and the
//! record no longer than `CLOSED_RECORD_MAX`. The others are closed with all their
//! files, as everything is when few are closed.
//!
//! Order of durability: the segment is whole and cut, and that is synced; then the
//! file of records is replaced, then that of the recovery points, and then the
//! broker notes that the stop was clean. Without that note nobody reads a record.
//! What the directory has then is what a running log has between two checkpoints,
//! which recovery knows: the indexes and the snapshot are missing or of an earlier
//! time, so the segment is scanned from its start or from where they end.
//!
//! Loading with a record checks the end of the segment as any clean start does, from
//! the last entry of the index on: its length, checksums and last offset must fit.

use super::epochs::LeaderEpochs;
use super::index::OffsetIndex;
use super::io::LogIo;
use super::producers::Producers;
use super::segment::{Segment, SegmentFile};
use super::time_index::TimeIndex;
use super::{Log, State};
use crate::base::limits::{CLOSED_RECORD_MAX, CLOSED_SEGMENT_MAX};

/// No timestamp of a first batch is known.
const UNKNOWN: i64 = i64::MIN;

/// No snapshot of the producers is there.
const NONE: i64 = -1;

/// A record's content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ClosedLog {
    start: i64,
    base: i64,
    end: i64,
    size: u64,
    snapshot: Option<i64>,
    first_timestamp: Option<i64>,
    epochs: LeaderEpochs,
    producers: Producers,
    index: OffsetIndex,
    time_index: TimeIndex,
}

impl ClosedLog {
    fn encode(&self) -> Vec<u8> {
        let numbers = [
            self.start,
            self.base,
            self.end,
            self.size as i64,
            self.snapshot.unwrap_or(NONE),
            self.first_timestamp.unwrap_or(UNKNOWN),
        ];
        let mut out: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        let producers =
            if self.producers.is_empty() { vec![] } else { self.producers.encode(self.end) };
        let parts = [
            self.epochs.encode(),
            producers,
            self.index.encode(self.size),
            self.time_index.encode_sealed(),
        ];
        for part in parts {
            out.extend_from_slice(&(part.len() as u32).to_be_bytes());
            out.extend_from_slice(&part);
        }
        out
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut number = || {
            let (number, rest) = bytes.split_first_chunk()?;
            bytes = rest;
            Some(i64::from_be_bytes(*number))
        };
        let (start, base, end) = (number()?, number()?, number()?);
        let size = u64::try_from(number()?).ok()?;
        let (snapshot, first_timestamp) = (number()?, number()?);
        let mut part = || {
            let (len, rest) = bytes.split_first_chunk()?;
            let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
            bytes = rest;
            Some(part)
        };
        let epochs = LeaderEpochs::decode(part()?)?;
        let producers = match part()? {
            [] => Producers::default(),
            bytes => Producers::decode(bytes)?,
        };
        let index = OffsetIndex::decode(part()?, size)?;
        let time_index = TimeIndex::decode(part()?)?;
        let sane = bytes.is_empty()
            && (0..=CLOSED_SEGMENT_MAX).contains(&size)
            && 0 <= base
            && (base..=end).contains(&start);
        let snapshot = (snapshot != NONE).then_some(snapshot);
        let first_timestamp = (first_timestamp != UNKNOWN).then_some(first_timestamp);
        sane.then_some(Self {
            start,
            base,
            end,
            size,
            snapshot,
            first_timestamp,
            epochs,
            producers,
            index,
            time_index,
        })
    }
}

impl Log {
    /// What has to be kept of this closed log for its next start, if it was closed
    /// with many others and is small. Means something only if the stop was clean.
    pub fn closed_record(&self) -> Option<&[u8]> {
        let closed = matches!(self.state, State::Closed);
        self.closed_record.as_deref().filter(|_| closed)
    }

    /// The record of this log, if it is closed with many others and small.
    pub(super) fn make_closed_record(&self) -> Option<Vec<u8>> {
        let segment = self.segments.back().filter(|_| self.segments.len() == 1)?;
        let small = segment.size <= CLOSED_SEGMENT_MAX
            && segment.exists()
            && self.cleaner.cleaned == 0
            && self.cleaner.gaps == 0
            && self.start.is_settled(self.log_start_offset);
        if !self.closes_with_many || !small {
            return None;
        }
        let record = ClosedLog {
            start: self.log_start_offset,
            base: segment.base_offset,
            end: self.end.offset,
            size: segment.size,
            snapshot: self.snapshot,
            first_timestamp: segment.first_timestamp,
            epochs: self.epochs.clone(),
            producers: self.producers.clone(),
            index: segment.index.clone(),
            time_index: segment.time_index.clone(),
        };
        Some(record.encode()).filter(|record| record.len() <= CLOSED_RECORD_MAX)
    }

    /// Loads what the record of this log says, if there is one that fits: then only
    /// the end of the segment is left to be scanned.
    pub(super) fn load_closed(&mut self, io: &mut LogIo<'_>) -> bool {
        let Some(closed) = self.closed_record.as_deref().and_then(ClosedLog::decode) else {
            return false;
        };
        if closed.end != self.recovery_point {
            return false;
        }
        let mut segment = Segment::new(closed.base);
        segment.file = SegmentFile::Closed;
        segment.allocated = closed.size;
        segment.index = closed.index;
        segment.time_index = closed.time_index;
        segment.first_timestamp = closed.first_timestamp;
        self.dir_made = true;
        self.segments.push_back(segment);
        self.start.found(closed.start);
        self.snapshot = closed.snapshot;
        self.epochs = closed.epochs;
        self.producers = closed.producers;
        self.loading().only_scan(closed.base);
        self.next_scan(io);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::BatchHeader;
    use crate::model::ids::LeaderEpoch;
    use crate::model::record::{BatchBuilder, Codec};

    fn closed() -> ClosedLog {
        let mut segment = Segment::new(10);
        let (mut producers, mut epochs) = (Producers::default(), LeaderEpochs::default());
        for n in 0..4 {
            let mut builder = BatchBuilder::new(Codec::None).producer(7, 0, n);
            builder.push(1_000 + i64::from(n), None, Some(b"v"), &[]);
            let mut header = BatchHeader::decode(&builder.finish()).expect("our own");
            header.base_offset = 10 + i64::from(n);
            segment.note_batch(&header, 100, 150);
            producers.note(&header, header.next_offset());
            epochs.note(LeaderEpoch(n), header.base_offset);
        }
        // As a file gives it back.
        let time_index = TimeIndex::decode(&segment.time_index.encode_sealed());
        ClosedLog {
            start: 12,
            base: 10,
            end: 14,
            size: segment.size,
            snapshot: Some(11),
            first_timestamp: segment.first_timestamp,
            epochs,
            producers,
            index: segment.index,
            time_index: time_index.expect("our own"),
        }
    }

    #[test]
    fn a_record_gives_the_log_back_and_nonsense_is_refused() {
        let closed = closed();
        let bytes = closed.encode();
        assert_eq!(ClosedLog::decode(&bytes), Some(closed.clone()));
        let bare = ClosedLog {
            snapshot: None,
            first_timestamp: None,
            producers: Producers::default(),
            ..closed
        };
        assert_eq!(ClosedLog::decode(&bare.encode()), Some(bare));
        for len in 0..bytes.len() {
            assert_eq!(ClosedLog::decode(&bytes[..len]), None, "{len} bytes");
        }
        // It has no checksum of its own, but whatever it says is bounded.
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let sane = ClosedLog::decode(&bad).is_none_or(|read| read.size <= CLOSED_SEGMENT_MAX);
            assert!(sane, "bit {bit}");
        }
    }
}
