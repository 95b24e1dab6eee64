//! What the bench says to a broker and reads of its answers, by hand: a client
//! under measurement must not be what is slow.
//!
//! Produce is version 7 and Fetch version 11: the newest that every broker of the
//! last years speaks, with topics by name and plain arrays. No I/O.

use std::ops::Range;

/// What names this client to the broker.
const CLIENT_ID: &str = "corelane-bench";
/// How long a broker may wait for its replicas.
const TIMEOUT_MS: i32 = 30_000;

/// Versions of the two requests.
pub const PRODUCE_VERSION: i16 = 7;
/// See [`PRODUCE_VERSION`].
pub const FETCH_VERSION: i16 = 11;

/// The answer is not what the request asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct BadAnswer;

/// Writes a frame's head and returns where it starts.
fn begin(out: &mut Vec<u8>, api_key: i16, version: i16, correlation_id: i32) -> usize {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(api_key.to_be_bytes());
    out.extend(version.to_be_bytes());
    out.extend(correlation_id.to_be_bytes());
    put_string(out, CLIENT_ID);
    start
}

fn end(out: &mut [u8], start: usize) {
    let len = i32::try_from(out.len() - start - 4).expect("frames are shorter than 2 GiB");
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    let len = i16::try_from(text.len()).expect("names are shorter than 32 KiB");
    out.extend(len.to_be_bytes());
    out.extend(text.as_bytes());
}

/// Appends a Produce request with one batch; returns where in `out` the batch is.
pub fn put_produce(
    out: &mut Vec<u8>,
    correlation_id: i32,
    acks: i16,
    topic: &str,
    partition: i32,
    batch: &[u8],
) -> Range<usize> {
    let start = begin(out, 0, PRODUCE_VERSION, correlation_id);
    out.extend((-1_i16).to_be_bytes()); // No transactional id.
    out.extend(acks.to_be_bytes());
    out.extend(TIMEOUT_MS.to_be_bytes());
    out.extend(1_i32.to_be_bytes());
    put_string(out, topic);
    out.extend(1_i32.to_be_bytes());
    out.extend(partition.to_be_bytes());
    out.extend((batch.len() as i32).to_be_bytes());
    let at = out.len();
    out.extend(batch);
    end(out, start);
    at..out.len()
}

/// What the answer to a Produce of one batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Of the request that is answered.
    pub correlation_id: i32,
    /// Kafka's error code.
    pub error: i16,
}

/// Reads an answer to [`put_produce`], without its length.
pub fn produced(answer: &[u8]) -> Result<Produced, BadAnswer> {
    let mut bytes = Cursor(answer);
    let correlation_id = bytes.i32()?;
    expect(bytes.i32()? == 1)?;
    bytes.string()?;
    expect(bytes.i32()? == 1)?;
    bytes.i32()?;
    Ok(Produced { correlation_id, error: bytes.i16()? })
}

/// What a fetch asks for.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Bytes of one answer.
    pub max_bytes: i32,
    /// Bytes of one partition in it.
    pub partition_max_bytes: i32,
    /// Bytes that an answer waits for.
    pub min_bytes: i32,
    /// How long it waits.
    pub max_wait_ms: i32,
}

/// Appends a Fetch request of `partitions` from their offsets.
pub fn put_fetch(
    out: &mut Vec<u8>,
    correlation_id: i32,
    topic: &str,
    limits: &FetchLimits,
    partitions: impl ExactSizeIterator<Item = (i32, i64)>,
) {
    let start = begin(out, 1, FETCH_VERSION, correlation_id);
    out.extend((-1_i32).to_be_bytes());
    out.extend(limits.max_wait_ms.to_be_bytes());
    out.extend(limits.min_bytes.to_be_bytes());
    out.extend(limits.max_bytes.to_be_bytes());
    out.push(0);
    out.extend(0_i32.to_be_bytes()); // No session.
    out.extend((-1_i32).to_be_bytes());
    out.extend(1_i32.to_be_bytes());
    put_string(out, topic);
    out.extend((partitions.len() as i32).to_be_bytes());
    for (partition, offset) in partitions {
        out.extend(partition.to_be_bytes());
        out.extend((-1_i32).to_be_bytes());
        out.extend(offset.to_be_bytes());
        out.extend((-1_i64).to_be_bytes());
        out.extend(limits.partition_max_bytes.to_be_bytes());
    }
    out.extend(0_i32.to_be_bytes()); // Nothing forgotten.
    put_string(out, ""); // No rack.
    end(out, start);
}

/// One partition of an answer to a Fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched<'a> {
    /// The partition.
    pub partition: i32,
    /// Kafka's error code.
    pub error: i16,
    /// The end of what may be read.
    pub high_watermark: i64,
    /// Batches, the last one perhaps cut.
    pub records: &'a [u8],
}

/// Reads an answer to [`put_fetch`], without its length, and gives each
/// partition to `each`. Returns the answer's own error code.
pub fn fetched<'a>(answer: &'a [u8], mut each: impl FnMut(Fetched<'a>)) -> Result<i16, BadAnswer> {
    let mut bytes = Cursor(answer);
    bytes.i32()?;
    bytes.i32()?;
    let error = bytes.i16()?;
    bytes.i32()?;
    for _ in 0..bytes.i32()? {
        bytes.string()?;
        for _ in 0..bytes.i32()? {
            let (partition, error, high_watermark) = (bytes.i32()?, bytes.i16()?, bytes.i64()?);
            bytes.i64()?;
            bytes.i64()?;
            let aborted = usize::try_from(bytes.i32()?).unwrap_or(0);
            bytes.take(aborted.checked_mul(16).ok_or(BadAnswer)?)?;
            bytes.i32()?;
            let len = usize::try_from(bytes.i32()?).unwrap_or(0);
            each(Fetched { partition, error, high_watermark, records: bytes.take(len)? });
        }
    }
    Ok(error)
}

fn expect(is: bool) -> Result<(), BadAnswer> {
    if is { Ok(()) } else { Err(BadAnswer) }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], BadAnswer> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(BadAnswer)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadAnswer> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(BadAnswer)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn i16(&mut self) -> Result<i16, BadAnswer> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, BadAnswer> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, BadAnswer> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<(), BadAnswer> {
        let len = usize::try_from(self.i16()?).map_err(|_| BadAnswer)?;
        self.take(len).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::{ProduceRequest, ProduceResponse, produce_response};
    use crate::wire::frame::RequestHeader;
    use crate::wire::small::{Bytes, StrBytes, encode_response};

    #[test]
    fn a_produce_is_what_the_schema_says() {
        let mut out = vec![1, 2, 3];
        let at = put_produce(&mut out, 7, -1, "topic", 3, b"batch");
        assert_eq!(&out[at], b"batch");
        let (header, body) = RequestHeader::decode(&out[7..]).expect("a header");
        assert_eq!((header.api_key, header.api_version, header.correlation_id), (0, 7, 7));
        let request: ProduceRequest =
            crate::wire::small::decode(&out[7 + body..], 7).expect("a request");
        assert_eq!((request.acks, request.timeout_ms), (-1, TIMEOUT_MS));
        let topic = &request.topic_data[0];
        assert_eq!(topic.name, StrBytes::from("topic"));
        let partition = &topic.partition_data[0];
        assert_eq!((partition.index, partition.records.as_deref()), (3, Some(&b"batch"[..])));
    }

    #[test]
    fn an_answer_is_read_and_a_cut_one_refused() {
        let mut partition = produce_response::PartitionProduceResponse::default();
        (partition.index, partition.error_code) = (3, 6);
        let mut topic = produce_response::TopicProduceResponse::default();
        topic.name = StrBytes::from("topic");
        topic.partition_responses = vec![partition];
        let mut response = ProduceResponse::default();
        response.responses = vec![topic];
        let mut out = vec![];
        encode_response(&mut out, 9, 7, &response).expect("representable");
        assert_eq!(produced(&out[4..]), Ok(Produced { correlation_id: 9, error: 6 }));
        for cut in 4..20 {
            assert_eq!(produced(&out[4..cut]), Err(BadAnswer));
        }
    }

    #[test]
    fn a_fetch_and_its_answer() {
        use crate::wire::client::{FetchRequest, FetchResponse, fetch_response};
        let limits =
            FetchLimits { max_bytes: 9, partition_max_bytes: 8, min_bytes: 7, max_wait_ms: 6 };
        let mut out = vec![];
        put_fetch(&mut out, 5, "topic", &limits, [(1, 10), (2, 20)].into_iter());
        let (_, body) = RequestHeader::decode(&out[4..]).expect("a header");
        let request: FetchRequest =
            crate::wire::small::decode(&out[4 + body..], 11).expect("a request");
        assert_eq!((request.max_bytes, request.min_bytes, request.max_wait_ms), (9, 7, 6));
        let asked = request.topics[0].partitions.iter().map(|p| (p.partition, p.fetch_offset));
        assert_eq!(asked.collect::<Vec<_>>(), [(1, 10), (2, 20)]);

        let mut data = fetch_response::PartitionData::default();
        (data.partition_index, data.high_watermark) = (2, 30);
        data.records = Some(Bytes::from_static(b"records"));
        let mut topic = fetch_response::FetchableTopicResponse::default();
        topic.topic = StrBytes::from("topic");
        topic.partitions = vec![data];
        let mut response = FetchResponse::default();
        response.responses = vec![topic];
        let mut out = vec![];
        encode_response(&mut out, 5, 11, &response).expect("representable");
        let mut seen = vec![];
        assert_eq!(fetched(&out[4..], |row| seen.push(row)), Ok(0));
        let row = Fetched { partition: 2, error: 0, high_watermark: 30, records: b"records" };
        assert_eq!(seen, [row]);
        assert_eq!(fetched(&out[4..out.len() - 1], |_| ()), Err(BadAnswer));
    }
}
