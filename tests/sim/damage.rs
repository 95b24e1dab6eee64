//! What lies on the disk and should not: stale batches behind the end of a log,
//! flipped bits in what was synced. And, for planted bugs, batches made to look
//! good that are not.

use std::ops::Range;

use corelane::base::pages::BLOCK;
use corelane::base::rng::Rng;
use corelane::log::journal::RECORD_HEAD;
use corelane::model::batch::{BatchHeader, HEADER_LEN, MAGIC, batch_crc};
use corelane::model::record::decode_records;

use crate::file::{File, pick};

/// Where a batch's base offset and its checksum are.
const BASE_OFFSET: Range<usize> = 0..8;
const CRC: Range<usize> = 17..21;
/// The lower byte of a batch's attributes, and the bit of control batches in it.
const ATTRIBUTES_LOW: usize = 22;
const CONTROL: u8 = 0x20;
/// Of a frame of the metadata log: its header's length, and where the length of its data
/// and the number of its write are.
const FRAME_HEADER: usize = 40;
const FRAME_LEN: usize = 8;
const FRAME_WRITE: usize = 16;

/// A batch of a segment: where it is, and its header.
pub struct Batch {
    pub position: usize,
    pub len: usize,
    pub header: BatchHeader,
}

/// The batches that a segment begins with, whatever their checksums and offsets.
pub fn batches(segment: &[u8]) -> Vec<Batch> {
    let mut found = vec![];
    let mut position = 0;
    while let Some(header) = BatchHeader::decode(&segment[position..])
        && header.magic == MAGIC
        && let Some(len) = header.total_len()
        && (HEADER_LEN..=segment.len() - position).contains(&len)
    {
        found.push(Batch { position, len, header });
        position += len;
    }
    found
}

/// The batches up to the first one with a wrong checksum.
fn whole(segment: &[u8]) -> Vec<Batch> {
    let mut found = batches(segment);
    let bad =
        |batch: &Batch| batch_crc(&segment[batch.position..][..batch.len]) != batch.header.crc;
    if let Some(end) = found.iter().position(bad) {
        found.truncate(end);
    }
    found
}

/// Copies one of a segment's batches to where the next one is expected, if there is
/// room in the file. Its offset is an old one, so nobody may take it for the next.
pub fn plant_stale(file: &mut File, rng: &mut Rng) -> bool {
    let mut segment = file.now().to_vec();
    let known = whole(&segment);
    let Some(last) = known.last() else { return false };
    let end = last.position + last.len;
    let old = pick(rng, &known);
    if end + old.len > segment.len() {
        return false;
    }
    segment.copy_within(old.position..old.position + old.len, end);
    *file = File::durable(&segment);
    true
}

/// Flips a bit of the first `end` bytes of a file, if it has one there. Returns the
/// byte's position.
pub fn flip(file: &mut File, end: usize, rng: &mut Rng) -> Option<usize> {
    let end = end.min(file.now().to_vec().len());
    (end > 0).then(|| flip_within(file, 0..end, rng))
}

/// Flips a bit of these bytes of a file. Returns the byte's position.
pub fn flip_within(file: &mut File, within: Range<usize>, rng: &mut Rng) -> usize {
    let mut bytes = file.now().to_vec();
    let at = within.start + rng.below(within.len() as u64) as usize;
    bytes[at] ^= 1 << rng.below(8);
    *file = File::durable(&bytes);
    at
}

/// A record of a journal: where it is, without what pads it.
pub struct JournalRecord {
    pub range: Range<usize>,
    pub epoch: u64,
}

/// The whole records that the file of a journal begins with.
pub fn records(file: &[u8]) -> Vec<JournalRecord> {
    let mut found: Vec<JournalRecord> = vec![];
    let mut at = 0;
    while let Some(head) = file.get(at..at + RECORD_HEAD)
        && head.starts_with(b"CLJW")
    {
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight"));
        let len = (word(8) & u64::from(u32::MAX)) as usize;
        let (epoch, number) = (word(16), word(24));
        let goes_on = found.first().is_none_or(|first| first.epoch == epoch);
        let Some(rest) = file.get(at + 8..at + len) else { break };
        let crc = u32::from_le_bytes(head[4..8].try_into().expect("four"));
        if !goes_on || number != found.len() as u64 || crc32fast::hash(rest) != crc {
            break;
        }
        found.push(JournalRecord { range: at..at + len, epoch });
        at += len.next_multiple_of(BLOCK);
    }
    found
}

/// Where the whole batches of a segment end.
pub fn end_of_batches(segment: &[u8]) -> usize {
    whole(segment).last().map_or(0, |last| last.position + last.len)
}

/// Base offset of the whole batch that has the byte at `position`.
pub fn batch_at(segment: &[u8], position: usize) -> Option<i64> {
    let holds = |batch: &&Batch| (batch.position..batch.position + batch.len).contains(&position);
    whole(segment).iter().find(holds).map(|batch| batch.header.base_offset)
}

/// Whether the batch with this base offset can be read in its segment.
pub fn is_whole(segment: &[u8], base_offset: i64) -> bool {
    whole(segment).iter().any(|batch| batch.header.base_offset == base_offset)
}

/// The offsets that groups have committed by the whole batches of a segment of
/// `__consumer_offsets` below offset `end`.
pub fn commits(segment: &[u8], end: i64) -> Vec<u64> {
    let mut found = vec![];
    for batch in whole(segment).iter().filter(|batch| batch.header.base_offset < end) {
        let bytes = &segment[batch.position..][..batch.len];
        for record in decode_records(bytes, 1 << 20).expect("whole batches") {
            let (Some(key), Some(value)) = (record.key, record.value) else { continue };
            // Version 0 or 1 of a key is that of a committed offset.
            if let (0 | 1, Some(offset)) = (key[1], value.get(2..10)) {
                found.push(u64::from_be_bytes(offset.try_into().expect("eight bytes")));
            }
        }
    }
    found
}

/// Where write `number` of a segment of the metadata log begins, its last one: what is
/// damaged from there on cannot be told from a write that the power has torn.
pub fn begin_of_write(segment: &[u8], number: u64) -> usize {
    let word = |at: usize| {
        let bytes = segment.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    };
    let mut at = 0;
    while let (Some(len), Some(write)) = (word(at + FRAME_LEN), word(at + FRAME_WRITE))
        && write != number
        && write != 0
    {
        let data = (len & u64::from(u32::MAX)) as usize;
        at += (FRAME_HEADER + data).next_multiple_of(8);
    }
    at
}

/// A segment as somebody sees it who does not look at checksums.
pub fn with_good_checksums(segment: &mut [u8]) {
    for batch in batches(segment) {
        let bytes = &mut segment[batch.position..][..batch.len];
        let crc = batch_crc(bytes);
        bytes[CRC].copy_from_slice(&crc.to_be_bytes());
    }
}

/// A segment as somebody sees it who does not look at offsets.
pub fn with_expected_offsets(segment: &mut [u8]) {
    let mut expected = None;
    for batch in batches(segment) {
        let base = batch.header.base_offset;
        let stale = expected.filter(|expected| base < *expected);
        let at = stale.unwrap_or(base);
        segment[batch.position..][BASE_OFFSET].copy_from_slice(&at.to_be_bytes());
        expected = Some(at + batch.header.next_offset() - base);
    }
}

/// A segment as somebody sees it who misses its last batch.
pub fn without_last_batch(segment: &mut [u8]) {
    if let Some(last) = whole(segment).pop() {
        segment[last.position..].fill(0);
    }
}

/// A compacted segment of which clients do not see a batch between its first and its
/// last one: it is marked as a control batch.
pub fn hide_a_batch(segment: &mut [u8], rng: &mut Rng) {
    let known = batches(segment);
    let inner = known.get(1..known.len().saturating_sub(1)).unwrap_or_default();
    if !inner.is_empty() {
        let hidden = pick(rng, inner);
        let batch = &mut segment[hidden.position..][..hidden.len];
        batch[ATTRIBUTES_LOW] |= CONTROL;
        let crc = batch_crc(batch);
        batch[CRC].copy_from_slice(&crc.to_be_bytes());
    }
}
