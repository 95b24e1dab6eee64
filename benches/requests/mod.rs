//! What the benches say to a broker and read of its answers, by hand and in the
//! fewest bytes: frames are made once and only patched between requests.
//!
//! Produce is version 9, Fetch version 12: the newest that name topics.

#![allow(dead_code)] // Each bench uses its part.

use std::time::{SystemTime, UNIX_EPOCH};

use corelane::model::record::{BatchBuilder, Codec};

/// A batch as a producer sends it, and how many records it holds.
#[derive(Clone)]
pub struct Batch {
    pub bytes: Vec<u8>,
    pub records: usize,
}

/// The largest uncompressed batch of records with `value` bytes each that is not
/// longer than `len`. Values are noise, so that no byte of it is special; the time is
/// that of the call, so that retention lets the records be.
pub fn batch(value: usize, len: usize) -> Batch {
    let mut builder = BatchBuilder::new(Codec::None);
    let time = unix_millis();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // Twenty bytes are more than the lengths and deltas of one record take.
    while builder.is_empty() || builder.uncompressed_len() + value + 20 <= len {
        let noise = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let bytes: Vec<u8> = (0..value).map(noise).collect();
        builder.push(time, None, Some(&bytes), &[]);
    }
    let records = builder.len();
    Batch { bytes: builder.finish(), records }
}

/// Milliseconds since 1970.
pub fn unix_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis() as i64
}

/// Where a frame has its correlation id.
const CORRELATION_ID: usize = 8;

/// Writes the correlation id into a frame.
pub fn set_correlation_id(frame: &mut [u8], id: i32) {
    frame[CORRELATION_ID..CORRELATION_ID + 4].copy_from_slice(&id.to_be_bytes());
}

/// Starts a frame in the flexible encoding.
fn begin(api_key: i16, version: i16) -> Vec<u8> {
    let mut frame = vec![0; 4];
    frame.extend(api_key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(0_i32.to_be_bytes());
    frame.extend((-1_i16).to_be_bytes());
    frame.push(0);
    frame
}

fn end(mut frame: Vec<u8>) -> Vec<u8> {
    let len = (frame.len() - 4) as i32;
    frame[..4].copy_from_slice(&len.to_be_bytes());
    frame
}

fn put_uvarint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_uvarint(out, text.len() + 1);
    out.extend(text.as_bytes());
}

/// A Produce request with acks=all and one batch.
pub fn produce(topic: &str, partition: i32, batch: &[u8]) -> Vec<u8> {
    let mut frame = begin(0, 9);
    frame.push(0); // No transactional id.
    frame.extend((-1_i16).to_be_bytes());
    frame.extend(30_000_i32.to_be_bytes());
    frame.push(2);
    put_string(&mut frame, topic);
    frame.push(2);
    frame.extend(partition.to_be_bytes());
    put_uvarint(&mut frame, batch.len() + 1);
    frame.extend(batch);
    frame.extend([0, 0, 0]);
    end(frame)
}

/// A Produce request with acks=all and the same batch for each of `partitions`.
pub fn produce_to_many(topic: &str, partitions: std::ops::Range<i32>, batch: &[u8]) -> Vec<u8> {
    let mut frame = begin(0, 9);
    frame.push(0); // No transactional id.
    frame.extend((-1_i16).to_be_bytes());
    frame.extend(120_000_i32.to_be_bytes());
    frame.push(2);
    put_string(&mut frame, topic);
    put_uvarint(&mut frame, partitions.len() + 1);
    for partition in partitions {
        frame.extend(partition.to_be_bytes());
        put_uvarint(&mut frame, batch.len() + 1);
        frame.extend(batch);
        frame.push(0);
    }
    frame.extend([0, 0]);
    end(frame)
}

/// The errors in an answer to [`produce_to_many`], without its length, of the
/// partitions that it was `asked` for; `None` if it cannot be understood.
pub fn produced_to_many(answer: &[u8], topic: &str, asked: usize) -> Option<Vec<i16>> {
    let mut prefix = vec![];
    put_uvarint(&mut prefix, asked + 1);
    let first = 5 + 1 + 1 + topic.len() + prefix.len();
    // Partition, error, three offsets, no record errors, no message, no tags.
    const ROW: usize = 4 + 2 + 8 + 8 + 8 + 1 + 1 + 1;
    // With a message, rows are longer.
    let understood = answer.len() == first + asked * ROW + 1 + 4 + 1;
    let rows = answer.get(first..)?.chunks_exact(ROW).take(asked);
    understood.then(|| rows.map(|row| i16_at(row, 4)).filter(|error| *error != 0).collect())
}

/// What the answer to [`produce`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    pub error: i16,
    pub base_offset: i64,
}

/// Bytes of the answer to [`produce`] without its length, if there is no error.
pub fn produced_len(topic: &str) -> usize {
    // Header, topics, name, partitions, partition, throttle time, tags.
    5 + 1 + 1 + topic.len() + 1 + (4 + 2 + 8 + 8 + 8 + 1 + 1 + 1) + 1 + 4 + 1
}

/// Reads an answer to [`produce`], without its length.
pub fn produced(answer: &[u8], topic: &str) -> Produced {
    let at = 5 + 1 + 1 + topic.len() + 1 + 4;
    Produced { error: i16_at(answer, at), base_offset: i64_at(answer, at + 2) }
}

/// A Fetch request of one partition for at most `max_bytes`, waiting up to
/// half a second for the first.
pub fn fetch(topic: &str, partition: i32, max_bytes: i32) -> Vec<u8> {
    let mut frame = begin(1, 12);
    frame.extend((-1_i32).to_be_bytes());
    frame.extend(500_i32.to_be_bytes());
    frame.extend(1_i32.to_be_bytes());
    frame.extend(max_bytes.to_be_bytes());
    frame.push(0);
    frame.extend(0_i32.to_be_bytes()); // No session.
    frame.extend((-1_i32).to_be_bytes());
    frame.push(2);
    put_string(&mut frame, topic);
    frame.push(2);
    frame.extend(partition.to_be_bytes());
    frame.extend((-1_i32).to_be_bytes());
    frame.extend([0; 8]); // The offset: see `set_fetch_offset`.
    frame.extend((-1_i32).to_be_bytes());
    frame.extend((-1_i64).to_be_bytes());
    frame.extend(max_bytes.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend([1, 1, 0]); // Nothing forgotten, no rack.
    end(frame)
}

/// Writes the first offset wanted into a [`fetch`] frame.
pub fn set_fetch_offset(frame: &mut [u8], offset: i64) {
    let at = frame.len() - 3 - 2 - 4 - 8 - 4 - 8;
    frame[at..at + 8].copy_from_slice(&offset.to_be_bytes());
}

/// What the answer to [`fetch`] says ahead of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub error: i16,
    pub high_watermark: i64,
}

/// Bytes of the answer ahead of the length of its records.
pub fn fetched_head(topic: &str) -> usize {
    5 + (4 + 2 + 4) + 1 + 1 + topic.len() + 1 + (4 + 2 + 8 + 8 + 8 + 1 + 4)
}

/// Bytes that the length of `records` bytes takes.
pub fn records_prefix(records: usize) -> usize {
    let mut bytes = vec![];
    put_uvarint(&mut bytes, records + 1);
    bytes.len()
}

/// Reads the head of an answer to [`fetch`], without its length.
pub fn fetched(answer: &[u8], topic: &str) -> Fetched {
    let at = 5 + 4 + 2 + 4 + 1 + 1 + topic.len() + 1 + 4;
    Fetched { error: i16_at(answer, at), high_watermark: i64_at(answer, at + 2) }
}

/// Reads the length of the records at the end of a head, and how long it is.
pub fn records_len(bytes: &[u8]) -> (usize, usize) {
    let (mut value, mut at) = (0_usize, 0);
    loop {
        value |= usize::from(bytes[at] & 0x7f) << (7 * at);
        at += 1;
        if bytes[at - 1] & 0x80 == 0 {
            return (value.saturating_sub(1), at);
        }
    }
}

pub fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
