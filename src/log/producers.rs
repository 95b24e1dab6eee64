//! What a log knows of its idempotent producers (KIP-98): the last batches of
//! each, so that a batch sent again is answered and not appended again.
//!
//! Rules: `ProducerStateManager.java`, `ProducerAppendInfo.java`. A batch whose
//! sequence numbers equal those of one of the producer's last five is a
//! duplicate; otherwise it must follow the last one. A new epoch starts at
//! sequence 0; a producer that is not known may start anywhere.
//!
//! Appends may be taken back as long as they are not committed: when the disk is
//! full, or when the power goes. So what is committed counts for itself: the five
//! last batches before the committed end are kept besides all behind it.
//!
//! The snapshot file `<offset>.snapshot` has Kafka's format, with a row for
//! each remembered batch instead of the last one only: Kafka reads the rows of a
//! producer one over the other and is left with the last.

use std::collections::{BTreeMap, VecDeque};

use crc_fast::{CrcAlgorithm, checksum};

use crate::model::batch::BatchHeader;
use crate::model::error_code::ErrorCode;

/// Batches remembered of each producer (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
const BATCHES: usize = 5;

/// The producers of one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    /// Batches by producer, oldest first, never none. Epochs do not go back.
    by_id: BTreeMap<i64, VecDeque<Batch>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    epoch: i16,
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    last_offset: i64,
    timestamp: i64,
}

/// What a batch is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// To be appended.
    Fresh,
    /// There already.
    Duplicate {
        /// Where its first record is.
        base_offset: i64,
        /// The offset after its last record.
        next_offset: i64,
        /// Its largest timestamp.
        timestamp: i64,
    },
}

impl Producers {
    /// Judges a batch that is about to be appended.
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH or OUT_OF_ORDER_SEQUENCE_NUMBER.
    pub fn check(&self, header: &BatchHeader) -> Result<Sequence, ErrorCode> {
        let Some(known) = self.by_id.get(&header.producer_id) else { return Ok(Sequence::Fresh) };
        let last = known.back().expect("a known producer has a batch");
        if header.producer_epoch < last.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        let first = header.base_sequence;
        if header.producer_epoch > last.epoch {
            return if first == 0 {
                Ok(Sequence::Fresh)
            } else {
                Err(ErrorCode::OutOfOrderSequenceNumber)
            };
        }
        let batch = Batch::of(header);
        let same = |known: &&Batch| {
            (known.epoch, known.first_sequence, known.last_sequence)
                == (batch.epoch, batch.first_sequence, batch.last_sequence)
        };
        if let Some(known) = known.iter().rev().take(BATCHES).find(same) {
            let (base_offset, next_offset) = (known.base_offset, known.last_offset + 1);
            let timestamp = known.timestamp;
            return Ok(Sequence::Duplicate { base_offset, next_offset, timestamp });
        }
        if first == add(last.last_sequence, 1) {
            Ok(Sequence::Fresh)
        } else {
            Err(ErrorCode::OutOfOrderSequenceNumber)
        }
    }

    /// Takes note of an appended batch, its base offset stamped. What lies before
    /// `committed` will not be truncated, and what lies behind it may be.
    pub fn note(&mut self, header: &BatchHeader, committed: i64) {
        if header.producer_id < 0 || header.is_control() {
            return;
        }
        let batches = self.by_id.entry(header.producer_id).or_default();
        batches.push_back(Batch::of(header));
        while batches.get(BATCHES).is_some_and(|batch| batch.last_offset < committed) {
            batches.pop_front();
        }
    }

    /// Forgets batches at and beyond `end_offset`.
    pub fn truncate(&mut self, end_offset: i64) {
        self.by_id.retain(|_, batches| {
            batches.retain(|batch| batch.last_offset < end_offset);
            !batches.is_empty()
        });
    }

    /// Forgets producers whose last batch is older than `oldest`, milliseconds
    /// since the epoch (`producer.id.expiration.ms`).
    pub fn expire(&mut self, oldest: i64) {
        self.by_id
            .retain(|_, batches| batches.back().is_some_and(|batch| batch.timestamp >= oldest));
    }

    /// The last offset that a producer has written, if it is known.
    pub fn last_offset(&self, producer_id: i64) -> Option<i64> {
        self.by_id.get(&producer_id)?.back().map(|batch| batch.last_offset)
    }

    /// How many producers are known.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The snapshot file of what lies before `end_offset`.
    pub fn encode(&self, end_offset: i64) -> Vec<u8> {
        let rows = self.by_id.iter().flat_map(|(id, batches)| {
            let before = batches.partition_point(|batch| batch.last_offset < end_offset);
            let first = before.saturating_sub(BATCHES);
            batches.range(first..before).map(move |batch| (*id, batch))
        });
        let mut body = vec![0; 4];
        let mut count = 0_i32;
        for (id, batch) in rows {
            count += 1;
            body.extend_from_slice(&id.to_be_bytes());
            body.extend_from_slice(&batch.epoch.to_be_bytes());
            body.extend_from_slice(&batch.last_sequence.to_be_bytes());
            body.extend_from_slice(&batch.last_offset.to_be_bytes());
            let delta = (batch.last_offset - batch.base_offset) as i32;
            body.extend_from_slice(&delta.to_be_bytes());
            body.extend_from_slice(&batch.timestamp.to_be_bytes());
            body.extend_from_slice(&(-1_i32).to_be_bytes()); // No coordinator epoch ...
            body.extend_from_slice(&(-1_i64).to_be_bytes()); // ... and no open transaction.
        }
        body[..4].copy_from_slice(&count.to_be_bytes());
        let crc = checksum(CrcAlgorithm::Crc32Iscsi, &body) as u32;
        let mut out = Vec::with_capacity(6 + body.len());
        out.extend_from_slice(&1_i16.to_be_bytes());
        out.extend_from_slice(&crc.to_be_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// Reads a snapshot file, or `None` if it is damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<2>()?;
        let (crc, body) = rest.split_first_chunk::<4>()?;
        let sum = checksum(CrcAlgorithm::Crc32Iscsi, body) as u32;
        if i16::from_be_bytes(*version) != 1 || u32::from_be_bytes(*crc) != sum {
            return None;
        }
        let (count, rows) = body.split_first_chunk::<4>()?;
        let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
        if rows.len() != count.checked_mul(ROW_LEN)? {
            return None;
        }
        let mut producers = Self::default();
        for row in rows.chunks_exact(ROW_LEN) {
            let i64_at = |at: usize| Some(i64::from_be_bytes(*row[at..].first_chunk()?));
            let i32_at = |at: usize| Some(i32::from_be_bytes(*row[at..].first_chunk()?));
            let epoch = i16::from_be_bytes(*row[8..].first_chunk()?);
            let (last_sequence, last_offset, delta) = (i32_at(10)?, i64_at(14)?, i32_at(22)?);
            producers.by_id.entry(i64_at(0)?).or_default().push_back(Batch {
                epoch,
                first_sequence: subtract(last_sequence, delta),
                last_sequence,
                base_offset: last_offset - i64::from(delta),
                last_offset,
                timestamp: i64_at(26)?,
            });
        }
        Some(producers)
    }
}

/// Bytes of a snapshot's row.
const ROW_LEN: usize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8;

impl Batch {
    fn of(header: &BatchHeader) -> Self {
        Self {
            epoch: header.producer_epoch,
            first_sequence: header.base_sequence,
            last_sequence: add(header.base_sequence, header.last_offset_delta),
            base_offset: header.base_offset,
            last_offset: header.next_offset() - 1,
            timestamp: header.max_timestamp,
        }
    }
}

/// Sequence numbers go from `i32::MAX` to 0 (`DefaultRecordBatch.incrementSequence`).
fn add(sequence: i32, count: i32) -> i32 {
    ((i64::from(sequence) + i64::from(count)) & i64::from(i32::MAX)) as i32
}

fn subtract(sequence: i32, count: i32) -> i32 {
    ((i64::from(sequence) - i64::from(count)) & i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::{BatchBuilder, Codec};

    fn header(epoch: i16, sequence: i32, records: i32, base_offset: i64) -> BatchHeader {
        let mut builder = BatchBuilder::new(Codec::None).producer(7, epoch, sequence);
        for _ in 0..records {
            builder.push(1_000, None, Some(b"v"), &[]);
        }
        let batch = builder.finish();
        BatchHeader { base_offset, ..BatchHeader::decode(&batch).expect("a whole batch") }
    }

    fn known(batches: &[BatchHeader]) -> Producers {
        let mut producers = Producers::default();
        batches.iter().for_each(|batch| producers.note(batch, i64::MAX));
        producers
    }

    #[test]
    fn duplicates_gaps_and_epochs() {
        let out_of_order = Err(ErrorCode::OutOfOrderSequenceNumber);
        let fresh = Ok(Sequence::Fresh);
        let six: Vec<BatchHeader> =
            (0..6).map(|at| header(3, at * 10, 10, i64::from(at) * 10)).collect();
        let producers = known(&six);
        let duplicate = |base_offset, next_offset| {
            let timestamp = 1_000;
            Ok(Sequence::Duplicate { base_offset, next_offset, timestamp })
        };
        let table = [
            ("the next", header(3, 60, 5, 0), fresh),
            ("the last again", header(3, 50, 10, 0), duplicate(50, 60)),
            ("the fifth last again", header(3, 10, 10, 0), duplicate(10, 20)),
            ("the sixth last again", header(3, 0, 10, 0), out_of_order),
            ("part of the last", header(3, 50, 9, 0), out_of_order),
            ("a gap", header(3, 61, 1, 0), out_of_order),
            ("an old epoch", header(2, 60, 1, 0), Err(ErrorCode::InvalidProducerEpoch)),
            ("a new epoch", header(4, 0, 1, 0), fresh),
            ("a new epoch in the middle", header(4, 60, 1, 0), out_of_order),
        ];
        for (what, batch, expected) in table {
            assert_eq!(producers.check(&batch), expected, "{what}");
        }
        assert_eq!(Producers::default().check(&header(0, 99, 1, 0)), fresh, "an unknown producer");
    }

    #[test]
    fn sequences_wrap() {
        let producers = known(&[header(0, i32::MAX - 1, 3, 0)]);
        assert_eq!(producers.check(&header(0, 1, 1, 0)), Ok(Sequence::Fresh));
        assert!(producers.check(&header(0, 2, 1, 0)).is_err());
        let again = Producers::decode(&producers.encode(100)).expect("our own snapshot");
        assert_eq!(again, producers);
    }

    #[test]
    fn snapshots_keep_what_lies_before_and_damage_is_seen() {
        let batches: Vec<BatchHeader> =
            (0..4).map(|at| header(1, at * 2, 2, i64::from(at) * 2)).collect();
        let producers = known(&batches);
        let snapshot = producers.encode(6);
        assert_eq!(Producers::decode(&snapshot), Some(known(&batches[..3])));
        for bit in 0..snapshot.len() * 8 {
            let mut bad = snapshot.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Producers::decode(&bad), None, "bit {bit}");
        }
        let mut cut = producers.clone();
        cut.truncate(6);
        assert_eq!(cut, known(&batches[..3]));
        cut.expire(1_001);
        assert!(cut.is_empty());
    }
}
