//! Produce, versions 3 to 13 (`ProduceRequest.json`, `ProduceResponse.json`).
//!
//! A request is checked once, whole, and then walked in place: neither step
//! allocates or copies. The records are byte ranges of the body, not looked
//! into here. A response is written in one pass in the order of the request.

use std::ops::Range;

use super::apis::ApiKey;
use super::reader::Reader;
use super::writer::Writer;
use super::{TopicKey, WireError};
use crate::base::limits::REQUEST_PARTITIONS_MAX;
use crate::model::batch::RecordRefusal;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{LeaderEpoch, NodeId, PartitionIndex};

pub use super::writer::NodeEndpoint;

/// First version that names topics by id.
const BY_ID: i16 = 13;

/// A checked request over its body's bytes.
#[derive(Clone, Copy, Debug)]
pub struct ProduceRequest<'a> {
    /// The transactional id, if the producer is transactional.
    pub transactional_id: Option<&'a str>,
    /// -1 all in-sync replicas, 0 none, 1 the leader; other values come
    /// through and are the caller's to refuse.
    pub acks: i16,
    /// How long to wait for replicas, milliseconds; may be negative.
    pub timeout_ms: i32,
    walk: Walk<'a>,
    topics: usize,
    partitions: usize,
}

/// The records for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducePartition<'a> {
    /// The topic.
    pub topic: TopicKey<'a>,
    /// Position of the topic among those that have partitions.
    pub topic_index: usize,
    /// Whether it is the first partition of its topic.
    pub first_in_topic: bool,
    /// Partitions of this topic in the request.
    pub partitions_in_topic: usize,
    /// The partition.
    pub partition: PartitionIndex,
    /// Where its records lie in the body, possibly empty; `None` if null.
    pub records: Option<Range<usize>>,
}

impl<'a> ProduceRequest<'a> {
    /// Checks the whole of `body`, everything after the request header. Bytes after
    /// the request are passed over, as Kafka does.
    ///
    /// # Errors
    /// A version that is not served, or bytes that do not begin with a request.
    pub fn decode(body: &'a [u8], version: i16) -> Result<Self, WireError> {
        let api = ApiKey::Produce.api();
        api.check_version(version)?;
        let mut reader = Reader::new(body, api.is_flexible(version));
        let transactional_id = reader.nullable_string()?;
        let acks = reader.i16()?;
        let timeout_ms = reader.i32()?;
        let topics = reader.array_len(topic_min(version))?;
        let walk = Walk {
            reader,
            version,
            topics_left: topics,
            topic: TopicKey::Name(""),
            topic_index: None,
            partitions_in_topic: 0,
            partitions_left: 0,
        };
        let (mut check, mut topics, mut partitions) = (walk, 0, 0);
        while let Some(partition) = check.next()? {
            topics += usize::from(partition.first_in_topic);
            partitions += 1;
            if partitions > REQUEST_PARTITIONS_MAX {
                return Err(WireError::TooManyPartitions);
            }
        }
        check.reader.skip_tags()?;
        Ok(Self { transactional_id, acks, timeout_ms, walk, topics, partitions })
    }

    /// Topics that have partitions: what the response announces.
    pub fn topic_count(&self) -> usize {
        self.topics
    }

    /// Partitions in all; one that is named twice counts twice.
    pub fn partition_count(&self) -> usize {
        self.partitions
    }

    /// The partitions in order. A topic without partitions does not show.
    pub fn partitions(&self) -> impl Iterator<Item = ProducePartition<'a>> + use<'a> {
        let mut walk = self.walk;
        std::iter::from_fn(move || walk.next().expect("decode has walked the same bytes"))
    }
}

#[derive(Clone, Copy, Debug)]
struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    topics_left: usize,
    topic: TopicKey<'a>,
    topic_index: Option<usize>,
    partitions_in_topic: usize,
    partitions_left: usize,
}

impl<'a> Walk<'a> {
    fn next(&mut self) -> Result<Option<ProducePartition<'a>>, WireError> {
        let mut first_in_topic = false;
        while self.partitions_left == 0 {
            if self.topics_left == 0 {
                return Ok(None);
            }
            self.topics_left -= 1;
            self.topic = self.reader.topic(self.version >= BY_ID)?;
            self.partitions_in_topic = self.reader.array_len(partition_min(self.version))?;
            self.partitions_left = self.partitions_in_topic;
            if self.partitions_left == 0 {
                self.reader.skip_tags()?;
            } else {
                self.topic_index = Some(self.topic_index.map_or(0, |index| index + 1));
                first_in_topic = true;
            }
        }
        let partition = PartitionIndex(self.reader.i32()?);
        let records = self.reader.nullable_bytes()?;
        self.reader.skip_tags()?;
        self.partitions_left -= 1;
        if self.partitions_left == 0 {
            self.reader.skip_tags()?;
        }
        Ok(Some(ProducePartition {
            topic: self.topic,
            topic_index: self.topic_index.unwrap_or_default(),
            first_in_topic,
            partitions_in_topic: self.partitions_in_topic,
            partition,
            records,
        }))
    }
}

/// Fewest bytes of a topic.
fn topic_min(version: i16) -> usize {
    match version {
        BY_ID.. => 16 + 1 + 1,
        9.. => 1 + 1 + 1,
        _ => 2 + 4,
    }
}

/// Fewest bytes of a partition.
fn partition_min(version: i16) -> usize {
    if version >= 9 { 4 + 1 + 1 } else { 4 + 4 }
}

/// What became of the records of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOutcome<'a> {
    /// The partition.
    pub partition: PartitionIndex,
    /// The outcome.
    pub error: ErrorCode,
    /// Offset of the first record; -1 with an error.
    pub base_offset: i64,
    /// The broker's timestamp if the topic has `LogAppendTime`, else -1.
    pub log_append_time_ms: i64,
    /// First offset of the log, -1 if not known. Versions before 5 leave it out.
    pub log_start_offset: i64,
    /// Records that the batch was refused for. Versions before 8 leave them out.
    pub record_errors: &'a [RecordRefusal],
    /// For people. Versions before 8 leave it out.
    pub error_message: Option<&'a str>,
    /// The leader to turn to, with NOT_LEADER_OR_FOLLOWER (KIP-951). Versions
    /// before 10 leave it out.
    pub current_leader: Option<(NodeId, LeaderEpoch)>,
}

impl<'a> PartitionOutcome<'a> {
    /// A refusal without anything but its reason.
    pub fn refused(partition: PartitionIndex, error: ErrorCode, message: Option<&'a str>) -> Self {
        Self {
            partition,
            error,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: &[],
            error_message: message,
            current_leader: None,
        }
    }
}

/// Writes a response: [`begin`](Self::begin), then for each topic of the request
/// that has partitions [`topic`](Self::topic) and its
/// [`partition`](Self::partition)s, then [`end`](Self::end).
///
/// Announced counts that are not met are programmer errors and panic.
#[derive(Debug)]
pub struct ProduceResponseEncoder<'o> {
    writer: Writer<'o>,
    version: i16,
    topics_left: usize,
    partitions_left: usize,
}

impl<'o> ProduceResponseEncoder<'o> {
    /// Starts a frame at the end of `out`.
    pub fn begin(out: &'o mut Vec<u8>, version: i16, correlation_id: i32, topics: usize) -> Self {
        let api = ApiKey::Produce.api();
        let flexible = api.is_flexible(version);
        let header = api.has_tagged_response_header(version);
        let mut writer = Writer::begin(out, correlation_id, flexible, header);
        writer.len(Some(topics));
        Self { writer, version, topics_left: topics, partitions_left: 0 }
    }

    /// Starts a topic with `partitions` partitions.
    pub fn topic(&mut self, topic: TopicKey<'_>, partitions: usize) {
        assert_eq!(self.partitions_left, 0, "the topic before is complete");
        assert!(partitions > 0, "a topic has partitions");
        self.topics_left = self.topics_left.checked_sub(1).expect("no more topics were announced");
        self.partitions_left = partitions;
        self.writer.topic(topic);
        self.writer.len(Some(partitions));
    }

    /// Adds the next partition of the topic.
    pub fn partition(&mut self, outcome: &PartitionOutcome<'_>) {
        self.partitions_left =
            self.partitions_left.checked_sub(1).expect("no more partitions were announced");
        let writer = &mut self.writer;
        writer.i32(outcome.partition.0);
        writer.i16(outcome.error.code());
        writer.i64(outcome.base_offset);
        writer.i64(outcome.log_append_time_ms);
        if self.version >= 5 {
            writer.i64(outcome.log_start_offset);
        }
        if self.version >= 8 {
            writer.len(Some(outcome.record_errors.len()));
            for record in outcome.record_errors {
                writer.i32(record.index);
                writer.nullable_string(Some(&record.message));
                writer.no_tags();
            }
            writer.nullable_string(outcome.error_message);
        }
        match outcome.current_leader {
            Some((leader, epoch)) if self.version >= 10 => {
                writer.tag_count(1);
                writer.uvarint(0);
                writer.uvarint(9);
                writer.i32(leader.0);
                writer.i32(epoch.0);
                writer.no_tags();
            }
            _ => writer.no_tags(),
        }
        if self.partitions_left == 0 {
            writer.no_tags();
        }
    }

    /// Ends the frame. `nodes` are the leaders that partitions named; versions
    /// before 10 leave them out.
    pub fn end(mut self, throttle_time_ms: i32, nodes: &[NodeEndpoint<'_>]) {
        assert_eq!((self.topics_left, self.partitions_left), (0, 0), "the response is complete");
        self.writer.i32(throttle_time_ms);
        self.writer.node_endpoints(if self.version >= 10 { nodes } else { &[] });
        self.writer.end(0);
    }
}
