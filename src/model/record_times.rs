//! The timestamps of a batch's records, one after the other, without the rest.
//!
//! Compressed records are unfolded piece by piece, so that the memory it takes
//! does not grow with what they unfold to, and the work can be cut into slices:
//! the caller says how many bytes may be unfolded before it gets the word back.
//! Any bytes give timestamps or an error, never a panic.

use std::fmt;
use std::io::{self, Read};

use super::batch::{BatchHeader, HEADER_LEN};
use super::record::{Codec, RecordError, Unsnap};
use crate::base::limits::UNFOLDED_BATCH_MAX;
use crate::base::rope::Rope;

/// Bytes unfolded at a time.
const BUFFER: usize = 8 << 10;

/// Bytes that the head of a record takes at most: length, attributes, timestamp,
/// offset and length of the key.
const HEAD_MAX: usize = 10 + 1 + 10 + 10 + 10;

/// A batch being walked over.
pub struct RecordTimes {
    from: Box<dyn Read + Send>,
    header: BatchHeader,
    codec: Codec,
    buffer: Box<[u8; BUFFER]>,
    /// Unread bytes of the buffer.
    start: usize,
    end: usize,
    ended: bool,
    /// Bytes up to the next record.
    skip: u64,
    /// Records to come.
    left: i32,
    unfolded: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A record.
    Record {
        /// Its offset in the partition.
        offset: i64,
        /// Milliseconds; the batch's largest if the broker stamped it.
        timestamp: i64,
        /// Whether it has a key.
        has_key: bool,
    },
    /// As many bytes as the caller allows were unfolded: more on the next call.
    Pause,
    /// There are no more records.
    End,
}

impl RecordTimes {
    /// Begins with `batch`, one whole batch with this header, whose checksum is
    /// the caller's to check.
    ///
    /// # Errors
    /// An unknown codec, or bytes that it refuses at once.
    pub fn open(header: BatchHeader, mut batch: Rope) -> Result<Self, RecordError> {
        batch.advance(HEADER_LEN.min(batch.len()));
        let number = header.codec();
        let codec = Codec::from_id(number).ok_or(RecordError::UnknownCodec(number))?;
        let packed = RopeReader { rope: batch };
        let from: Box<dyn Read + Send> = match codec {
            Codec::None => Box::new(packed),
            Codec::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Codec::Snappy => Box::new(Unsnap::new(packed.rope.to_vec())),
            Codec::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(packed)),
            Codec::Zstd => Box::new(
                zstd::stream::read::Decoder::new(packed).map_err(|error| refused(codec, &error))?,
            ),
        };
        Ok(Self {
            from,
            header,
            codec,
            buffer: Box::new([0; BUFFER]),
            start: 0,
            end: 0,
            ended: false,
            skip: 0,
            left: header.record_count,
            unfolded: 0,
        })
    }

    /// The next record. `budget` is how many bytes may still be unfolded; it goes
    /// down by what was.
    ///
    /// # Errors
    /// The records cannot be unfolded, make no sense, or unfold to more than
    /// [`UNFOLDED_BATCH_MAX`].
    pub fn next(&mut self, budget: &mut usize) -> Result<Next, RecordError> {
        while self.skip > 0 {
            let now = self.skip.min((self.end - self.start) as u64);
            self.start += now as usize;
            self.skip -= now;
            if self.skip > 0 && !self.fill(budget)? {
                return self.pause_or("the records end inside a field");
            }
        }
        if self.left <= 0 {
            return Ok(Next::End);
        }
        while self.end - self.start < HEAD_MAX && !self.ended {
            if !self.fill(budget)? && !self.ended {
                return Ok(Next::Pause);
            }
        }
        let mut head = Head { bytes: &self.buffer[self.start..self.end], at: 0 };
        let len = head.varlong()?;
        let body = head.at;
        head.byte()?; // Attributes: none are defined.
        let timestamp_delta = head.varlong()?;
        let offset_delta = head.varlong()?;
        let read = head.at - body;
        let has_key = Head { bytes: &head.bytes[head.at..], at: 0 }.varlong()? >= 0;
        let rest = u64::try_from(len).ok().and_then(|len| len.checked_sub(read as u64));
        self.skip = rest.ok_or(RecordError::Malformed("a record's length is impossible"))?;
        self.start += head.at;
        self.left -= 1;
        let timestamp = if self.header.is_log_append_time() {
            self.header.max_timestamp
        } else {
            self.header.base_timestamp.wrapping_add(timestamp_delta)
        };
        let offset = self.header.base_offset.wrapping_add(offset_delta);
        Ok(Next::Record { offset, timestamp, has_key })
    }

    fn pause_or(&self, reason: &'static str) -> Result<Next, RecordError> {
        if self.ended { Err(RecordError::Malformed(reason)) } else { Ok(Next::Pause) }
    }

    /// Unfolds more. False if the budget is used up or nothing is left.
    fn fill(&mut self, budget: &mut usize) -> Result<bool, RecordError> {
        if self.ended || *budget == 0 {
            return Ok(false);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let read = self
            .from
            .read(&mut self.buffer[self.end..])
            .map_err(|error| refused(self.codec, &error))?;
        self.end += read;
        self.ended = read == 0;
        self.unfolded += read;
        *budget = budget.saturating_sub(read);
        if self.unfolded > UNFOLDED_BATCH_MAX {
            return Err(RecordError::TooLarge { max: UNFOLDED_BATCH_MAX });
        }
        Ok(read > 0)
    }
}

impl fmt::Debug for RecordTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordTimes")
            .field("base_offset", &self.header.base_offset)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

fn refused(codec: Codec, error: &io::Error) -> RecordError {
    RecordError::Decompress { codec: codec.name(), reason: error.to_string() }
}

/// The first bytes of a record.
struct Head<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Head<'_> {
    fn byte(&mut self) -> Result<u8, RecordError> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte.ok_or(RecordError::Malformed("the records end inside a field"))
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
}

/// Reads a rope from its start.
struct RopeReader {
    rope: Rope,
}

impl Read for RopeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(first) = self.rope.parts().first() else { return Ok(0) };
        let len = first.len().min(into.len());
        into[..len].copy_from_slice(&first[..len]);
        self.rope.advance(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::pages::PagePool;
    use crate::base::rng::Rng;
    use crate::model::record::{BatchBuilder, decode_records};

    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    fn sample(codec: Codec, records: usize) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec);
        for n in 0..records {
            let value = format!("value {n} {}", "x".repeat(n * 37 % 3000));
            let time = 1_000 + (n as i64 * 7919) % 997;
            builder.push(time, Some(b"key"), Some(value.as_bytes()), &[("h", None)]);
        }
        builder.finish()
    }

    /// The batch in pieces of a block each.
    fn rope(batch: &[u8]) -> Rope {
        let mut pool = PagePool::new(64 << 20);
        let mut rope = Rope::default();
        for piece in batch.chunks(4_096) {
            let mut page = pool.allocate(piece.len()).expect("within budget");
            page.put(piece);
            rope.push(page.slice(0..piece.len()));
        }
        rope
    }

    fn walk(batch: &[u8], slice: usize) -> Result<(Vec<(i64, i64)>, usize), RecordError> {
        let header = BatchHeader::decode(batch).expect("a header");
        let mut times = RecordTimes::open(header, rope(batch))?;
        let (mut found, mut pauses) = (vec![], 0);
        let mut budget = slice;
        loop {
            match times.next(&mut budget)? {
                Next::Record { offset, timestamp, .. } => found.push((offset, timestamp)),
                Next::Pause => {
                    pauses += 1;
                    budget = slice;
                }
                Next::End => return Ok((found, pauses)),
            }
        }
    }

    #[test]
    fn the_timestamps_are_those_of_the_records_in_slices_of_any_size() {
        for codec in CODECS {
            let batch = sample(codec, 300);
            let records = decode_records(&batch, 8 << 20).expect("a good batch");
            let expected: Vec<_> =
                records.iter().map(|record| (record.offset, record.timestamp_ms)).collect();
            for slice in [1, 5_000, 1 << 30] {
                let (found, pauses) = walk(&batch, slice).expect("a good batch");
                assert!(found == expected, "{codec:?}, slices of {slice}");
                assert_eq!(pauses == 0, slice == 1 << 30, "{codec:?}, slices of {slice}");
            }
        }
    }

    #[test]
    fn mutated_batches_never_panic() {
        let mut rng = Rng::stream(7, "timestamp mutations");
        for codec in CODECS {
            let good = sample(codec, 20);
            for _ in 0..500 {
                let mut batch = good.clone();
                for _ in 0..rng.between(1, 4) {
                    let at = rng.between(HEADER_LEN as u64, batch.len() as u64 - 1) as usize;
                    batch[at] = rng.next_u64() as u8;
                }
                batch.truncate(rng.between(HEADER_LEN as u64, batch.len() as u64) as usize);
                let _ = walk(&batch, 1 << 20);
            }
        }
    }
}
