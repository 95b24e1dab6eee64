//! A batch with some of its records left out, as compaction makes it.
//!
//! Rules: `MemoryRecords.buildRetainedRecordsInto` and
//! `DefaultRecordBatch.writeEmptyHeader`. Offsets stay: the base offset and the
//! last offset are those of the whole batch, so that a producer's last sequence
//! number can still be told from its header. Producer, epochs and codec stay.
//!
//! A batch with tombstones says from when on they may go, its delete horizon
//! (KIP-534): a flag in the attributes, and the moment in the place of the base
//! timestamp, to which the records' timestamps are relative as ever.

use super::batch::{BatchHeader, HEADER_LEN, LOG_OVERHEAD, batch_crc};
use super::record::{Codec, Record, compress, put_nullable, put_varlong};

/// `DefaultRecordBatch.DELETE_HORIZON_FLAG_MASK`.
const DELETE_HORIZON: i16 = 0x40;
const CODEC: i16 = 0x07;

/// When the tombstones of a batch may go, milliseconds since the epoch, if it
/// says.
pub fn delete_horizon(header: &BatchHeader) -> Option<i64> {
    (header.attributes & DELETE_HORIZON != 0).then_some(header.base_timestamp)
}

/// The batch `header` with nothing but `records`, which are some of its own, in
/// order, and with `horizon` as its delete horizon. Adds its bytes to `out`;
/// returns its header. Without records it is an empty batch, not compressed.
pub fn rebuild(
    header: &BatchHeader,
    records: &[&Record],
    horizon: Option<i64>,
    out: &mut Vec<u8>,
) -> BatchHeader {
    let start = out.len();
    out.resize(start + HEADER_LEN, 0);
    let mut new = BatchHeader {
        attributes: header.attributes & !DELETE_HORIZON,
        record_count: i32::try_from(records.len()).expect("no more than there were"),
        ..*header
    };
    match records.first() {
        None => {
            new.attributes &= !CODEC;
            new.base_timestamp = header.max_timestamp;
        }
        Some(first) => {
            new.base_timestamp = horizon.unwrap_or(first.timestamp_ms);
            new.attributes |= if horizon.is_some() { DELETE_HORIZON } else { 0 };
            if !header.is_log_append_time() {
                let newest = records.iter().map(|record| record.timestamp_ms).max();
                new.max_timestamp = newest.expect("there is one");
            }
            let codec = Codec::from_id(header.codec()).expect("the records came out of it");
            let mut unpacked = vec![];
            let mut body = vec![];
            for record in records {
                put_record(record, &new, &mut body);
                put_varlong(&mut unpacked, body.len() as i64);
                unpacked.append(&mut body);
            }
            compress(codec, &unpacked, out);
        }
    }
    let len = out.len() - start - LOG_OVERHEAD;
    new.batch_length = i32::try_from(len).expect("a batch is shorter than 2 GiB");
    out[start..start + HEADER_LEN].copy_from_slice(&new.encode());
    new.crc = batch_crc(&out[start..]);
    out[start..start + HEADER_LEN].copy_from_slice(&new.encode());
    new
}

/// The record without its length.
fn put_record(record: &Record, header: &BatchHeader, body: &mut Vec<u8>) {
    body.push(0);
    put_varlong(body, record.timestamp_ms.wrapping_sub(header.base_timestamp));
    put_varlong(body, record.offset.wrapping_sub(header.base_offset));
    put_nullable(body, record.key.as_deref());
    put_nullable(body, record.value.as_deref());
    put_varlong(body, record.headers.len() as i64);
    for one in &record.headers {
        put_nullable(body, Some(&one.key));
        put_nullable(body, one.value.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::{BatchBuilder, decode_records};

    fn batch(codec: Codec, flags: i16) -> (BatchHeader, Vec<Record>) {
        let mut builder = BatchBuilder::new(codec).producer(7, 3, 40).attributes(flags);
        for n in 0..5 {
            let value: &[u8] = &[n; 50];
            builder.push(
                1_000 + i64::from(n),
                Some(&[n]),
                (n != 3).then_some(value),
                &[("h", None)],
            );
        }
        let mut bytes = builder.finish();
        bytes[..8].copy_from_slice(&100_i64.to_be_bytes());
        let records = decode_records(&bytes, 1 << 20).expect("our own");
        (BatchHeader::decode(&bytes).expect("whole"), records)
    }

    #[test]
    fn what_is_kept_stays_as_it_was() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            for (flags, horizon) in [(0, None), (0, Some(9_000)), (0x08, None), (0x08, Some(9))] {
                let (header, records) = batch(codec, flags);
                let kept: Vec<&Record> = records.iter().filter(|one| one.offset % 2 == 1).collect();
                let mut out = vec![1, 2, 3];
                let new = rebuild(&header, &kept, horizon, &mut out);
                let batch = &out[3..];
                assert_eq!(BatchHeader::decode(batch), Some(new));
                assert_eq!(new.total_len(), Some(batch.len()));
                let again = decode_records(batch, 1 << 20).expect("our own");
                assert!(again.iter().eq(kept.iter().copied()), "{codec:?} {flags} {horizon:?}");
                assert_eq!((new.codec(), delete_horizon(&new)), (codec.id(), horizon));
                assert_eq!((new.base_offset, new.next_offset()), (100, 105));
                assert_eq!((new.producer_id, new.base_sequence, new.record_count), (7, 40, 2));
                let newest = if flags == 0 { 1_003 } else { header.max_timestamp };
                assert_eq!(new.max_timestamp, newest);
                // Once more, nothing is left.
                let mut empty = vec![];
                let none = rebuild(&new, &[], None, &mut empty);
                assert_eq!((empty.len(), none.codec(), none.next_offset()), (HEADER_LEN, 0, 105));
                assert_eq!((none.producer_epoch, delete_horizon(&none)), (3, None));
                assert_eq!(decode_records(&empty, 0), Ok(vec![]));
            }
        }
    }
}
