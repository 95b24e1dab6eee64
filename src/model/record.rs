//! The records inside a v2 batch: building batches and opening them.
//!
//! Layout: Kafka's `DefaultRecord.java`; codecs: `CompressionType.java`. The
//! broker leaves batches closed on the produce, fetch and replication paths; who
//! opens them (compaction, client commands, tests) passes a bound for what they
//! may unfold to. Any bytes give records or an error, never a panic.

use std::io::{self, Read, Write};
use std::ops::Range;

use bytes::Bytes;
use thiserror::Error;

use super::batch::{BatchHeader, HEADER_LEN, LOG_OVERHEAD, MAGIC, batch_crc};
use super::ids::LeaderEpoch;
use crate::base::limits::SNAPPY_BLOCK_MAX;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Kafka's own")]
pub enum Codec {
    #[default]
    None,
    Gzip,
    /// In the framing of snappy-java ("xerial"), as Kafka's clients write it;
    /// read with or without it.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    Zstd,
}

impl Codec {
    /// The codec numbered `id` in a batch's attributes.
    pub fn from_id(id: i16) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its number in a batch's attributes.
    pub fn id(self) -> i16 {
        self as i16
    }

    /// Kafka's name, as in `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// One record of an opened batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds; the batch's largest if the broker stamped it (`LogAppendTime`).
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order; keys may repeat.
    pub headers: Vec<RecordHeader>,
}

/// A header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// UTF-8 by convention, not checked.
    pub key: Bytes,
    /// The value.
    pub value: Option<Bytes>,
}

/// Why a batch cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Not one whole v2 batch.
    #[error("not a record batch: {0}")]
    NotABatch(&'static str),
    /// The checksum is wrong.
    #[error("the batch's CRC does not match its bytes")]
    Crc,
    /// A codec number that Kafka does not have.
    #[error("unknown codec {0}")]
    UnknownCodec(i16),
    /// The codec refused the bytes.
    #[error("cannot decompress {codec}: {reason}")]
    Decompress {
        /// The codec's name.
        codec: &'static str,
        /// What it said.
        reason: String,
    },
    /// The records unfold to more bytes than the caller allows.
    #[error("the records are longer than {max} bytes")]
    TooLarge {
        /// The caller's bound.
        max: usize,
    },
    /// A record's fields do not fit its bytes.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
}

/// Gathers records into one batch.
///
/// The batch has base offset 0, no leader epoch and, unless set, no producer.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    codec: Codec,
    records: Vec<u8>,
    scratch: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    flags: i16,
}

impl BatchBuilder {
    /// An empty batch to be compressed with `codec`.
    pub fn new(codec: Codec) -> Self {
        Self {
            codec,
            records: Vec::new(),
            scratch: Vec::new(),
            count: 0,
            base_timestamp: -1,
            max_timestamp: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            flags: 0,
        }
    }

    /// Makes it the batch of an idempotent producer.
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = base_sequence;
        self
    }

    /// Sets attribute bits beside the codec (0x08 LogAppendTime, 0x10
    /// transactional, 0x20 control).
    pub fn attributes(mut self, flags: i16) -> Self {
        self.flags = flags & !0x07;
        self
    }

    /// Adds a record; the first one's timestamp becomes the batch's base.
    pub fn push(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        if self.count == 0 {
            self.base_timestamp = timestamp_ms;
            self.max_timestamp = timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        let body = &mut self.scratch;
        body.clear();
        body.push(0);
        put_varlong(body, timestamp_ms.wrapping_sub(self.base_timestamp));
        put_varlong(body, i64::from(self.count));
        put_nullable(body, key);
        put_nullable(body, value);
        put_varlong(body, headers.len() as i64);
        for (key, value) in headers {
            put_nullable(body, Some(key.as_bytes()));
            put_nullable(body, *value);
        }
        put_varlong(&mut self.records, body.len() as i64);
        self.records.extend_from_slice(body);
        self.count += 1;
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch if it were not compressed.
    pub fn uncompressed_len(&self) -> usize {
        HEADER_LEN + self.records.len()
    }

    /// The batch's bytes, complete with its checksum.
    ///
    /// # Panics
    /// If there are no records, or more than 2 GiB of them.
    pub fn finish(self) -> Vec<u8> {
        assert!(self.count > 0, "a batch holds at least one record");
        let mut batch = vec![0; HEADER_LEN];
        compress(self.codec, &self.records, &mut batch);
        let batch_length =
            i32::try_from(batch.len() - LOG_OVERHEAD).expect("a batch is shorter than 2 GiB");
        let mut header = BatchHeader {
            base_offset: 0,
            batch_length,
            leader_epoch: LeaderEpoch(-1),
            magic: MAGIC,
            crc: 0,
            attributes: self.codec.id() | self.flags,
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: self.count,
        };
        batch[..HEADER_LEN].copy_from_slice(&header.encode());
        header.crc = batch_crc(&batch);
        batch[..HEADER_LEN].copy_from_slice(&header.encode());
        batch
    }
}

/// Opens one whole batch: checks its checksum, decompresses at most
/// `max_uncompressed` bytes and returns the records.
///
/// The memory it takes is within a small multiple of the larger of
/// `max_uncompressed` and the batch, and a window of at most 128 MiB for zstd.
pub fn decode_records(batch: &[u8], max_uncompressed: usize) -> Result<Vec<Record>, RecordError> {
    let header = BatchHeader::decode(batch)
        .ok_or(RecordError::NotABatch("shorter than a batch's header"))?;
    if header.magic != MAGIC {
        return Err(RecordError::NotABatch("the magic is not 2"));
    }
    if header.total_len() != Some(batch.len()) {
        return Err(RecordError::NotABatch("the length field disagrees with the bytes"));
    }
    if batch_crc(batch) != header.crc {
        return Err(RecordError::Crc);
    }
    let codec = Codec::from_id(header.codec()).ok_or(RecordError::UnknownCodec(header.codec()))?;
    let records = Bytes::from(decompress(codec, &batch[HEADER_LEN..], max_uncompressed)?);
    let count = usize::try_from(header.record_count)
        .map_err(|_| RecordError::Malformed("negative record count"))?;
    // The shortest record has seven bytes: its length and six fields.
    if count > records.len() / 7 {
        return Err(RecordError::Malformed("more records are announced than can fit"));
    }
    let mut cursor = Cursor { bytes: &records, at: 0 };
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(cursor.record(&header)?);
    }
    if cursor.at != records.len() {
        return Err(RecordError::Malformed("bytes follow the last record"));
    }
    Ok(out)
}

struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn record(&mut self, header: &BatchHeader) -> Result<Record, RecordError> {
        let len = self.len()?;
        let end = self.at + len;
        self.byte()?; // Attributes: none are defined.
        let timestamp_delta = self.varlong()?;
        let offset_delta = i32::try_from(self.varlong()?)
            .map_err(|_| RecordError::Malformed("offset delta out of range"))?;
        let key = self.nullable()?;
        let value = self.nullable()?;
        let headers = self.headers()?;
        if self.at != end {
            return Err(RecordError::Malformed("the fields do not fill the record's length"));
        }
        let timestamp_ms = if header.is_log_append_time() {
            header.max_timestamp
        } else {
            header.base_timestamp.wrapping_add(timestamp_delta)
        };
        let offset = header.base_offset.wrapping_add(i64::from(offset_delta));
        Ok(Record { offset, timestamp_ms, key, value, headers })
    }

    fn headers(&mut self) -> Result<Vec<RecordHeader>, RecordError> {
        let count = usize::try_from(self.varlong()?)
            .map_err(|_| RecordError::Malformed("negative header count"))?;
        // The shortest header has two bytes: the lengths of its key and value.
        if count > (self.bytes.len() - self.at) / 2 {
            return Err(RecordError::Malformed("more headers are announced than can fit"));
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let key = self.nullable()?.ok_or(RecordError::Malformed("a header has no key"))?;
            headers.push(RecordHeader { key, value: self.nullable()? });
        }
        Ok(headers)
    }

    fn nullable(&mut self) -> Result<Option<Bytes>, RecordError> {
        let before = self.at;
        if self.varlong()? == -1 {
            return Ok(None);
        }
        self.at = before;
        let len = self.len()?;
        let field = self.bytes.slice(self.at..self.at + len);
        self.at += len;
        Ok(Some(field))
    }

    /// A length that the remaining bytes can hold.
    fn len(&mut self) -> Result<usize, RecordError> {
        let len = usize::try_from(self.varlong()?)
            .map_err(|_| RecordError::Malformed("negative length"))?;
        if len > self.bytes.len() - self.at {
            return Err(RecordError::Malformed("a length passes the end of the records"));
        }
        Ok(len)
    }

    fn varlong(&mut self) -> Result<i64, RecordError> {
        let mut raw = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            raw |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((raw >> 1) as i64 ^ -((raw & 1) as i64));
            }
        }
        Err(RecordError::Malformed("a varint is longer than ten bytes"))
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        let byte = *self
            .bytes
            .get(self.at)
            .ok_or(RecordError::Malformed("the records end inside a field"))?;
        self.at += 1;
        Ok(byte)
    }
}

/// A zig-zag varint; one of 32 bits has the same bytes as one of 64.
pub(super) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

pub(super) fn put_nullable(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => put_varlong(out, -1),
        Some(bytes) => {
            put_varlong(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

/// snappy-java's stream header: magic, version 1, compatible since version 1.
const XERIAL_HEADER: &[u8; 16] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_MAGIC_LEN: usize = 8;
const XERIAL_BLOCK: usize = 32 << 10;

pub(super) fn compress(codec: Codec, records: &[u8], out: &mut Vec<u8>) {
    const MEMORY: &str = "compressing from memory to memory does not fail";
    match codec {
        Codec::None => out.extend_from_slice(records),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            encoder.write_all(records).expect(MEMORY);
            encoder.finish().expect(MEMORY);
        }
        Codec::Snappy => {
            out.extend_from_slice(XERIAL_HEADER);
            let mut encoder = snap::raw::Encoder::new();
            for block in records.chunks(XERIAL_BLOCK) {
                let packed = encoder.compress_vec(block).expect(MEMORY);
                out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
                out.extend_from_slice(&packed);
            }
        }
        Codec::Lz4 => {
            // Kafka's own settings: independent blocks of 64 KiB without checksums.
            let frame = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(lz4_flex::frame::BlockMode::Independent);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, out);
            encoder.write_all(records).expect(MEMORY);
            encoder.finish().expect(MEMORY);
        }
        Codec::Zstd => zstd::stream::copy_encode(records, out, 0).expect(MEMORY),
    }
}

fn decompress(codec: Codec, packed: &[u8], max: usize) -> Result<Vec<u8>, RecordError> {
    match codec {
        Codec::None if packed.len() > max => Err(RecordError::TooLarge { max }),
        Codec::None => Ok(packed.to_vec()),
        Codec::Gzip => read_bounded(codec, flate2::read::MultiGzDecoder::new(packed), max),
        Codec::Snappy => unsnap(packed, max),
        Codec::Lz4 => read_bounded(codec, lz4_flex::frame::FrameDecoder::new(packed), max),
        Codec::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(packed)
                .map_err(|error| refused(codec, &error))?;
            read_bounded(codec, decoder, max)
        }
    }
}

fn read_bounded(codec: Codec, from: impl Read, max: usize) -> Result<Vec<u8>, RecordError> {
    let mut out = Vec::new();
    let bound = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    from.take(bound).read_to_end(&mut out).map_err(|error: io::Error| refused(codec, &error))?;
    if out.len() > max { Err(RecordError::TooLarge { max }) } else { Ok(out) }
}

fn unsnap(packed: &[u8], max: usize) -> Result<Vec<u8>, RecordError> {
    let mut blocks = SnappyBlocks::new(packed)?;
    let mut out = Vec::new();
    while let Some(block) = blocks.next(packed)? {
        unsnap_block(&packed[block], &mut out, max)?;
    }
    Ok(out)
}

/// Where the blocks of a snappy stream are, with or without framing.
#[derive(Clone, Copy, Debug)]
struct SnappyBlocks {
    at: usize,
    framed: bool,
}

impl SnappyBlocks {
    fn new(packed: &[u8]) -> Result<Self, RecordError> {
        let framed = packed.starts_with(&XERIAL_HEADER[..XERIAL_MAGIC_LEN]);
        let at = if framed { XERIAL_HEADER.len() } else { 0 };
        if packed.len() < at {
            return Err(refused(Codec::Snappy, &"the stream header is cut short"));
        }
        Ok(Self { at, framed })
    }

    fn next(&mut self, packed: &[u8]) -> Result<Option<Range<usize>>, RecordError> {
        let cut_short = || refused(Codec::Snappy, &"a block is cut short");
        let rest = &packed[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let (start, len) = if self.framed {
            let (len, _) = rest.split_first_chunk::<4>().ok_or_else(cut_short)?;
            (self.at + 4, u32::from_be_bytes(*len) as usize)
        } else {
            (0, packed.len())
        };
        if len > packed.len() - start {
            return Err(cut_short());
        }
        self.at = start + len;
        Ok(Some(start..start + len))
    }
}

/// Adds an unfolded block to `out`, which may become `max` bytes long.
fn unsnap_block(packed: &[u8], out: &mut Vec<u8>, max: usize) -> Result<(), RecordError> {
    let codec = Codec::Snappy;
    let len = snap::raw::decompress_len(packed).map_err(|error| refused(codec, &error))?;
    // Snappy unfolds by at most 64 times, so a longer claim is a lie that is not allocated.
    if len > packed.len().saturating_mul(64) {
        return Err(refused(codec, &"the announced length is impossible"));
    }
    let start = out.len();
    if len > max - start {
        return Err(RecordError::TooLarge { max });
    }
    out.resize(start + len, 0);
    let written = snap::raw::Decoder::new()
        .decompress(packed, &mut out[start..])
        .map_err(|error| refused(codec, &error))?;
    out.truncate(start + written);
    Ok(())
}

/// Reads a snappy stream, a block at a time.
pub(super) struct Unsnap {
    packed: Vec<u8>,
    /// `None` before the first read.
    blocks: Option<SnappyBlocks>,
    block: Vec<u8>,
    read: usize,
}

impl Unsnap {
    pub fn new(packed: Vec<u8>) -> Self {
        Self { packed, blocks: None, block: vec![], read: 0 }
    }

    fn next_block(&mut self) -> Result<bool, RecordError> {
        let mut blocks = match self.blocks {
            Some(blocks) => blocks,
            None => SnappyBlocks::new(&self.packed)?,
        };
        let next = blocks.next(&self.packed)?;
        self.blocks = Some(blocks);
        self.block.clear();
        self.read = 0;
        let Some(next) = next else { return Ok(false) };
        unsnap_block(&self.packed[next], &mut self.block, SNAPPY_BLOCK_MAX)?;
        Ok(true)
    }
}

impl Read for Unsnap {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.read == self.block.len() {
            if !self.next_block().map_err(io::Error::other)? {
                return Ok(0);
            }
        }
        let len = (self.block.len() - self.read).min(into.len());
        into[..len].copy_from_slice(&self.block[self.read..self.read + len]);
        self.read += len;
        Ok(len)
    }
}

fn refused(codec: Codec, reason: &dyn std::fmt::Display) -> RecordError {
    RecordError::Decompress { codec: codec.name(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    fn sample(codec: Codec, records: usize) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec);
        for n in 0..records {
            let value = format!("value {n} {}", "x".repeat(n % 300));
            builder.push(
                1000 + n as i64 * 3 - 7,
                (n % 3 != 0).then_some(b"key"),
                (n % 5 != 4).then_some(value.as_bytes()),
                if n % 2 == 0 { &[] } else { &[("a", Some(b"1")), ("a", None)] },
            );
        }
        builder.finish()
    }

    fn restamp(batch: &mut [u8]) {
        let length = (batch.len() - LOG_OVERHEAD) as i32;
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = batch_crc(batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }

    #[test]
    fn records_survive_every_codec() {
        for codec in CODECS {
            let mut batch = sample(codec, 1000);
            batch[..8].copy_from_slice(&70_i64.to_be_bytes()); // As a broker stamps it.
            let records = decode_records(&batch, 1 << 20).expect("decodes");
            assert_eq!(records.len(), 1000, "{codec:?}");
            for (n, record) in records.iter().enumerate() {
                assert_eq!(record.offset, 70 + n as i64);
                assert_eq!(record.timestamp_ms, 1000 + n as i64 * 3 - 7);
                assert_eq!(record.key.as_deref(), (n % 3 != 0).then_some(&b"key"[..]));
                assert_eq!(record.value.is_none(), n % 5 == 4);
                assert_eq!(record.headers.len(), if n % 2 == 0 { 0 } else { 2 });
            }
        }
    }

    #[test]
    fn a_batch_has_the_bytes_kafka_writes() {
        // One record, by hand from DefaultRecord.java: attributes 0, timestamp
        // delta 0, offset delta 0, key "k", value null, header "h" = "v".
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(5, Some(b"k"), None, &[("h", Some(b"v"))]);
        let batch = builder.producer(9, 1, 3).finish();
        assert_eq!(
            &batch[HEADER_LEN..],
            [0x16, 0, 0, 0, 2, b'k', 1, 2, 2, b'h', 2, b'v'],
            "length 11 is 0x16 in zig-zag"
        );
        let header = BatchHeader::decode(&batch).expect("whole");
        assert_eq!((header.base_offset, header.leader_epoch), (0, LeaderEpoch(-1)));
        assert_eq!((header.base_timestamp, header.max_timestamp), (5, 5));
        assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (9, 1, 3));
    }

    #[test]
    fn snappy_is_read_with_and_without_xerial_framing() {
        let framed = sample(Codec::Snappy, 500);
        let plain = sample(Codec::None, 500);
        let mut raw = plain[..HEADER_LEN].to_vec();
        raw[22] = 2;
        let packed = snap::raw::Encoder::new().compress_vec(&plain[HEADER_LEN..]);
        raw.extend_from_slice(&packed.expect("fits"));
        restamp(&mut raw);
        assert!(framed[HEADER_LEN..].starts_with(XERIAL_HEADER));
        let expected = decode_records(&plain, 1 << 20);
        assert_eq!(decode_records(&framed, 1 << 20), expected);
        assert_eq!(decode_records(&raw, 1 << 20), expected);
    }

    #[test]
    fn the_broker_timestamp_goes_for_all_records() {
        let mut builder = BatchBuilder::new(Codec::None).attributes(0x08);
        builder.push(10, None, Some(b"a"), &[]);
        builder.push(30, None, Some(b"b"), &[]);
        let records = decode_records(&builder.finish(), 100).expect("decodes");
        assert!(records.iter().all(|record| record.timestamp_ms == 30));
    }

    #[test]
    fn extreme_numbers_survive() {
        let mut builder = BatchBuilder::new(Codec::None);
        let times = [i64::MIN, i64::MAX, 0, -1];
        for time in times {
            builder.push(time, None, None, &[]);
        }
        let records = decode_records(&builder.finish(), 1000).expect("decodes");
        assert_eq!(records.iter().map(|record| record.timestamp_ms).collect::<Vec<_>>(), times);
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        for codec in CODECS {
            let mut builder = BatchBuilder::new(codec);
            builder.push(0, None, Some(&vec![0; 4 << 20]), &[]);
            let batch = builder.finish();
            let error = decode_records(&batch, 1 << 20).expect_err("over the bound");
            assert_eq!(error, RecordError::TooLarge { max: 1 << 20 }, "{codec:?}");
        }
    }

    #[test]
    fn announced_counts_and_lengths_are_not_believed() {
        let good = sample(Codec::None, 3);
        let broken = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut batch = good.clone();
            change(&mut batch);
            restamp(&mut batch);
            decode_records(&batch, 1 << 20).expect_err("broken")
        };
        let cases: [(&str, RecordError); 6] = [
            ("count", broken(&|batch| batch[57..61].copy_from_slice(&i32::MAX.to_be_bytes()))),
            ("negative count", broken(&|batch| batch[57] = 0x80)),
            ("one record fewer", broken(&|batch| batch[60] = 2)),
            ("record length", broken(&|batch| batch[HEADER_LEN] = 0x7e)),
            ("cut", broken(&|batch| batch.truncate(batch.len() - 1))),
            ("endless varint", broken(&|batch| batch[HEADER_LEN..].fill(0xff))),
        ];
        for (name, error) in cases {
            assert!(matches!(error, RecordError::Malformed(_)), "{name}: {error}");
        }
        let error = broken(&|batch| batch[22] = 5);
        assert_eq!(error, RecordError::UnknownCodec(5));
    }

    #[test]
    fn mutated_batches_never_panic() {
        let mut rng = Rng::stream(1, "record mutations");
        for codec in CODECS {
            let good = sample(codec, 20);
            for _ in 0..2000 {
                let mut batch = good.clone();
                for _ in 0..rng.between(1, 4) {
                    let at = rng.between(HEADER_LEN as u64, batch.len() as u64 - 1) as usize;
                    batch[at] = rng.next_u64() as u8;
                }
                batch.truncate(rng.between(HEADER_LEN as u64, batch.len() as u64) as usize);
                restamp(&mut batch);
                let _ = decode_records(&batch, 1 << 16);
            }
        }
    }
}
