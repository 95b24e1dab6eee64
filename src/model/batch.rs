//! The header of a v2 record batch, and what can be told from it alone.
//!
//! Layout and rules: Kafka's `DefaultRecordBatch.java`. Base offset and leader
//! epoch lie outside the checksum, so the broker stamps them into bytes it
//! otherwise leaves as they came. Nothing here opens the records.

use crc_fast::{CrcAlgorithm, Digest, checksum};

use super::error_code::ErrorCode;
use super::ids::LeaderEpoch;

/// Bytes of a batch's header.
pub const HEADER_LEN: usize = 61;

/// Bytes in front of what `batchLength` counts.
pub const LOG_OVERHEAD: usize = 12;

/// The only format that is written: `magic` 2.
pub const MAGIC: i8 = 2;

/// Where the checksum begins to cover a batch: its attributes.
pub const CRC_START: usize = 21;
const CODEC_MASK: i16 = 0x07;
const TIMESTAMP_TYPE_MASK: i16 = 0x08;
const TRANSACTIONAL_MASK: i16 = 0x10;
const CONTROL_MASK: i16 = 0x20;

/// A decoded batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Bytes after the first twelve.
    pub batch_length: i32,
    /// Epoch of the leader that appended it.
    pub leader_epoch: LeaderEpoch,
    /// Format; 2 is the only one written.
    pub magic: i8,
    /// CRC-32C from the attributes to the end.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control.
    pub attributes: i16,
    /// Offset of the last record minus the base offset.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp, milliseconds.
    pub max_timestamp: i64,
    /// -1 for none.
    pub producer_id: i64,
    /// -1 for none.
    pub producer_epoch: i16,
    /// -1 for none.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, or `None` if they are fewer
    /// than [`HEADER_LEN`]. Any bytes decode; see [`validate`] for sense.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk()?;
        let i16_at = |at: usize| i16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let i32_at = |at: usize| {
            i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let i64_at = |at: usize| (i64::from(i32_at(at)) << 32) | i64::from(i32_at(at + 4) as u32);
        Some(Self {
            base_offset: i64_at(0),
            batch_length: i32_at(8),
            leader_epoch: LeaderEpoch(i32_at(12)),
            magic: bytes[16] as i8,
            crc: i32_at(17) as u32,
            attributes: i16_at(21),
            last_offset_delta: i32_at(23),
            base_timestamp: i64_at(27),
            max_timestamp: i64_at(35),
            producer_id: i64_at(43),
            producer_epoch: i16_at(51),
            base_sequence: i32_at(53),
            record_count: i32_at(57),
        })
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0..8].copy_from_slice(&self.base_offset.to_be_bytes());
        out[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        out[12..16].copy_from_slice(&self.leader_epoch.0.to_be_bytes());
        out[16] = self.magic as u8;
        out[17..21].copy_from_slice(&self.crc.to_be_bytes());
        out[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        out[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        out[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        out[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        out[43..51].copy_from_slice(&self.producer_id.to_be_bytes());
        out[51..53].copy_from_slice(&self.producer_epoch.to_be_bytes());
        out[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        out[57..61].copy_from_slice(&self.record_count.to_be_bytes());
        out
    }

    /// Bytes of the whole batch, or `None` if the length field makes no sense.
    pub fn total_len(&self) -> Option<usize> {
        let len = usize::try_from(self.batch_length).ok()? + LOG_OVERHEAD;
        (len >= HEADER_LEN).then_some(len)
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta)).saturating_add(1)
    }

    /// Codec number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd; others are unknown.
    pub fn codec(&self) -> i16 {
        self.attributes & CODEC_MASK
    }

    /// Whether timestamps are the broker's (`LogAppendTime`).
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & TIMESTAMP_TYPE_MASK != 0
    }

    /// Makes `now_ms`, the broker's clock, the timestamp of all records.
    /// `records` is what follows the header; the checksum covers it.
    pub fn stamp_append_time(&mut self, now_ms: i64, records: &[u8]) {
        self.attributes |= TIMESTAMP_TYPE_MASK;
        self.max_timestamp = now_ms;
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&self.encode()[CRC_START..]);
        digest.update(records);
        self.crc = digest.finalize() as u32;
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_MASK != 0
    }

    /// Whether the batch is a control batch, which no client may send.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_MASK != 0
    }
}

/// CRC-32C of a batch as its header should carry it; `batch` is the whole batch.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn batch_crc(batch: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, &batch[CRC_START..]) as u32
}

/// Why a producer's records were refused: the code for the wire and a sentence
/// for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchError {
    /// What the producer is told.
    pub code: ErrorCode,
    /// What was wrong.
    pub reason: &'static str,
}

/// A record that its batch is refused for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRefusal {
    /// Which of the batch's records.
    pub index: i32,
    /// For people.
    pub message: String,
}

/// Checks the records of one partition of a produce request: exactly one v2
/// batch, whole, intact, with sensible counts (`LogValidator.java`,
/// `ProduceRequest.validateRecords`).
pub fn validate(records: &[u8], max_bytes: usize) -> Result<BatchHeader, BatchError> {
    let fail = |code, reason| Err(BatchError { code, reason });
    // The magic byte sits at the same place in every format; older formats are refused by name.
    if records.len() > 16 && (0..MAGIC).contains(&(records[16] as i8)) {
        return fail(
            ErrorCode::UnsupportedForMessageFormat,
            "record batches must have magic 2 (Kafka 0.11 and later)",
        );
    }
    let Some(header) = BatchHeader::decode(records) else {
        return fail(ErrorCode::InvalidRecord, "the records are shorter than a batch header");
    };
    if header.magic != MAGIC {
        return fail(ErrorCode::InvalidRecord, "the batch has an unknown magic");
    }
    let Some(len) = header.total_len() else {
        return fail(ErrorCode::InvalidRecord, "the batch length is impossible");
    };
    if len > records.len() {
        return fail(ErrorCode::CorruptMessage, "the batch is longer than the request's records");
    }
    if len < records.len() {
        return fail(
            ErrorCode::InvalidRecord,
            "a produce request holds exactly one batch per partition",
        );
    }
    if len > max_bytes {
        return fail(ErrorCode::MessageTooLarge, "the batch is larger than max.message.bytes");
    }
    if batch_crc(records) != header.crc {
        return fail(ErrorCode::CorruptMessage, "the batch's CRC does not match its bytes");
    }
    if header.record_count <= 0 || header.last_offset_delta != header.record_count - 1 {
        return fail(ErrorCode::InvalidRecord, "the batch's record count and offsets disagree");
    }
    if header.is_control() {
        return fail(ErrorCode::InvalidRecord, "clients may not write control batches");
    }
    if header.codec() > 4 {
        return fail(ErrorCode::UnsupportedCompressionType, "the batch has an unknown codec");
    }
    if header.producer_id >= 0 && (header.base_sequence < 0 || header.producer_epoch < 0) {
        return fail(ErrorCode::InvalidRecord, "an idempotent batch has no sequence");
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::{BatchBuilder, Codec};

    fn batch() -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::None);
        for n in 0..3 {
            builder.push(100 + n, Some(b"key"), Some(b"value"), &[]);
        }
        builder.finish()
    }

    /// The batch with `change` made and the checksum set right again.
    fn changed(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut batch = batch();
        change(&mut batch);
        if batch.len() >= HEADER_LEN {
            let crc = batch_crc(&batch);
            batch[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        batch
    }

    #[test]
    fn a_header_survives_encode_and_decode() {
        let header = BatchHeader {
            base_offset: -2,
            batch_length: 0x0102_0304,
            leader_epoch: LeaderEpoch(5),
            magic: 2,
            crc: 0xfedc_ba98,
            attributes: 0x3c,
            last_offset_delta: 9,
            base_timestamp: i64::MIN,
            max_timestamp: i64::MAX,
            producer_id: 0x1122_3344_5566_7788,
            producer_epoch: -3,
            base_sequence: 77,
            record_count: 10,
        };
        let bytes = header.encode();
        assert_eq!(BatchHeader::decode(&bytes), Some(header));
        assert_eq!(BatchHeader::decode(&bytes[..HEADER_LEN - 1]), None);
        assert_eq!(header.codec(), 4);
        assert!(header.is_log_append_time() && header.is_transactional() && header.is_control());
    }

    #[test]
    fn a_good_batch_is_accepted_and_may_be_stamped() {
        let mut batch = batch();
        let header = validate(&batch, batch.len()).expect("good");
        assert_eq!((header.record_count, header.next_offset()), (3, 3));
        // Base offset and leader epoch lie outside the checksum.
        batch[..8].copy_from_slice(&40_i64.to_be_bytes());
        batch[12..16].copy_from_slice(&6_i32.to_be_bytes());
        let header = validate(&batch, batch.len()).expect("still good");
        assert_eq!((header.next_offset(), header.leader_epoch), (43, LeaderEpoch(6)));
    }

    #[test]
    fn the_brokers_timestamp_goes_into_the_checksum() {
        let mut batch = batch();
        let mut header = BatchHeader::decode(&batch).expect("whole");
        header.stamp_append_time(5_000, &batch[HEADER_LEN..]);
        batch[..HEADER_LEN].copy_from_slice(&header.encode());
        let stamped = validate(&batch, batch.len()).expect("good");
        assert!(stamped.is_log_append_time() && stamped.max_timestamp == 5_000);
        assert_eq!(stamped.base_timestamp, 100, "the producer's stays below it");
    }

    #[test]
    fn every_flipped_bit_under_the_checksum_shows() {
        let good = batch();
        // The checksum itself and everything from the attributes on.
        for bit in 17 * 8..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = validate(&bad, bad.len()).expect_err("flipped");
            assert_eq!(error.code, ErrorCode::CorruptMessage, "bit {bit}");
        }
    }

    #[test]
    fn what_is_wrong_has_kafkas_code() {
        use ErrorCode as E;
        let put = |at: usize, bytes: &'static [u8]| {
            changed(move |batch| batch[at..at + bytes.len()].copy_from_slice(bytes))
        };
        let twice = [batch(), batch()].concat();
        let idempotent = |epoch, sequence| {
            let mut builder = BatchBuilder::new(Codec::None).producer(7, epoch, sequence);
            builder.push(1, None, None, &[]);
            builder.finish()
        };
        let cases: [(&str, Vec<u8>, ErrorCode); 17] = [
            ("empty", Vec::new(), E::InvalidRecord),
            ("less than a header", changed(|batch| batch.truncate(60)), E::InvalidRecord),
            ("magic 0", put(16, &[0]), E::UnsupportedForMessageFormat),
            ("magic 1", put(16, &[1]), E::UnsupportedForMessageFormat),
            (
                "magic 1, short",
                changed(|batch| {
                    batch.truncate(20);
                    batch[16] = 1;
                }),
                E::UnsupportedForMessageFormat,
            ),
            ("magic 3", put(16, &[3]), E::InvalidRecord),
            ("negative length", put(8, &[0xff; 4]), E::InvalidRecord),
            ("length within the header", put(8, &[0, 0, 0, 48]), E::InvalidRecord),
            ("two batches", twice, E::InvalidRecord),
            ("cut short", changed(|batch| batch.truncate(batch.len() - 1)), E::CorruptMessage),
            ("no records", put(57, &[0; 4]), E::InvalidRecord),
            ("four records announced", put(57, &[0, 0, 0, 4]), E::InvalidRecord),
            ("control", put(21, &[0, 0x20]), E::InvalidRecord),
            ("codec 5", put(21, &[0, 5]), E::UnsupportedCompressionType),
            ("idempotent without sequence", idempotent(0, -1), E::InvalidRecord),
            ("idempotent without epoch", idempotent(-1, 0), E::InvalidRecord),
            ("largest count", put(57, &[0x7f, 0xff, 0xff, 0xff]), E::InvalidRecord),
        ];
        for (name, records, code) in cases {
            let error = validate(&records, 1 << 20).expect_err(name);
            assert_eq!(error.code, code, "{name}: {}", error.reason);
        }
        let good = batch();
        let error = validate(&good, good.len() - 1).expect_err("too large");
        assert_eq!(error.code, E::MessageTooLarge);
        assert!(validate(&idempotent(0, 0), 1 << 20).is_ok());
    }
}
