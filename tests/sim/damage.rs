//! What lies on the disk and should not: stale batches behind the end of a log,
//! flipped bits in what was synced. And, for planted bugs, batches made to look
//! good that are not.

use corelane::base::rng::Rng;
use corelane::model::batch::{BatchHeader, HEADER_LEN, MAGIC, batch_crc};

use crate::file::{File, pick};

/// Where a batch's base offset and its checksum are.
const BASE_OFFSET: std::ops::Range<usize> = 0..8;
const CRC: std::ops::Range<usize> = 17..21;
/// The lower byte of a batch's attributes, and the bit of control batches in it.
const ATTRIBUTES_LOW: usize = 22;
const CONTROL: u8 = 0x20;

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

/// Flips a bit of a file, if it has one.
pub fn flip(file: &mut File, rng: &mut Rng) -> bool {
    let mut bytes = file.now().to_vec();
    if bytes.is_empty() {
        return false;
    }
    let at = rng.below(bytes.len() as u64) as usize;
    bytes[at] ^= 1 << rng.below(8);
    *file = File::durable(&bytes);
    true
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
