//! Fetch, versions 4 to 18 (`FetchRequest.json`, `FetchResponse.json`).
//!
//! A request is checked once, whole, and then walked in place without
//! allocation. A response is written without its records: the encoder notes
//! where in its bytes the records of each partition belong, so that they go
//! from page to socket without a copy.

use super::apis::ApiKey;
use super::reader::Reader;
use super::writer::Writer;
use super::{TopicKey, WireError};
use crate::base::limits::REQUEST_PARTITIONS_MAX;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{LeaderEpoch, NodeId, PartitionIndex};

pub use super::writer::NodeEndpoint;

/// First version with fetch sessions (KIP-227).
const SESSIONS: i16 = 7;
/// First version that names topics by id.
const BY_ID: i16 = 13;
/// First version that names the replica in a tagged field.
const REPLICA_STATE: i16 = 15;

/// Kafka refuses tags that it knows in versions that do not have them.
const EARLY_TAG: WireError = WireError::Malformed("a tagged field of a later version");

/// How far a consumer may read (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum IsolationLevel {
    /// Up to the high watermark.
    ReadUncommitted = 0,
    /// Up to the last stable offset.
    ReadCommitted = 1,
}

/// A checked request over its body's bytes.
#[derive(Clone, Copy, Debug)]
pub struct FetchRequest<'a> {
    /// The fetching broker, or -1 for a consumer.
    pub replica_id: NodeId,
    /// Epoch of the fetching broker, or -1.
    pub replica_epoch: i64,
    /// How long to wait for `min_bytes`, milliseconds.
    pub max_wait_ms: i32,
    /// Bytes to wait for.
    pub min_bytes: i32,
    /// Most bytes of records in all, but for a first batch that is larger.
    pub max_bytes: i32,
    /// How far to read.
    pub isolation_level: IsolationLevel,
    /// Fetch session, 0 for none.
    pub session_id: i32,
    /// Epoch within the session; -1 for none or the session's end, 0 for a new one.
    pub session_epoch: i32,
    /// The consumer's rack, empty if it has none.
    pub rack_id: &'a str,
    walk: Walk<'a>,
    forgotten: Forgotten<'a>,
    topics: usize,
    partitions: usize,
}

/// What is wanted of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPartition<'a> {
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
    /// Epoch of the leader that the client knows, -1 if it does not care.
    pub current_leader_epoch: LeaderEpoch,
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Epoch of the last record that a follower has, or -1.
    pub last_fetched_epoch: LeaderEpoch,
    /// A follower's log start offset, or -1.
    pub log_start_offset: i64,
    /// Most bytes of this partition, but for a first batch that is larger.
    pub partition_max_bytes: i32,
    /// A follower's high watermark, `i64::MAX` if it does not say (KIP-1166).
    pub high_watermark: i64,
}

impl<'a> FetchRequest<'a> {
    /// Checks the whole of `body`, everything after the request header. Bytes after
    /// the request are passed over, as Kafka does.
    ///
    /// # Errors
    /// A version that is not served, or bytes that do not begin with a request.
    pub fn decode(body: &'a [u8], version: i16) -> Result<Self, WireError> {
        let api = ApiKey::Fetch.api();
        api.check_version(version)?;
        let mut reader = Reader::new(body, api.is_flexible(version));
        let mut replica_id = if version < REPLICA_STATE { reader.i32()? } else { -1 };
        let mut replica_epoch = -1;
        let max_wait_ms = reader.i32()?;
        let min_bytes = reader.i32()?;
        let max_bytes = reader.i32()?;
        let isolation_level = match reader.i8()? {
            0 => IsolationLevel::ReadUncommitted,
            1 => IsolationLevel::ReadCommitted,
            _ => return Err(WireError::Malformed("unknown isolation level")),
        };
        let (session_id, session_epoch) =
            if version >= SESSIONS { (reader.i32()?, reader.i32()?) } else { (0, -1) };

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
        let mut reader = check.reader;

        let topics_left =
            if version >= SESSIONS { reader.array_len(topic_min(version))? } else { 0 };
        let forgotten = Forgotten {
            reader,
            version,
            topics_left,
            topic: TopicKey::Name(""),
            partitions_left: 0,
        };
        let mut check = forgotten;
        while check.next()?.is_some() {}
        let mut reader = check.reader;

        let rack_id = if version >= 11 { reader.string()? } else { "" };
        reader.tags(|tag, value| {
            match tag {
                0 => {
                    value.nullable_string()?; // The cluster id: for the controllers' quorum only.
                }
                1 if version >= REPLICA_STATE => {
                    replica_id = value.i32()?;
                    replica_epoch = value.i64()?;
                    value.skip_tags()?;
                }
                1 => return Err(EARLY_TAG),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Self {
            replica_id: NodeId(replica_id),
            replica_epoch,
            max_wait_ms,
            min_bytes,
            max_bytes,
            isolation_level,
            session_id,
            session_epoch,
            rack_id,
            walk,
            forgotten,
            topics,
            partitions,
        })
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
    pub fn partitions(&self) -> impl Iterator<Item = FetchPartition<'a>> + use<'a> {
        let mut walk = self.walk;
        std::iter::from_fn(move || walk.next().expect("decode has walked the same bytes"))
    }

    /// The partitions that a fetch session is to forget.
    pub fn forgotten(&self) -> impl Iterator<Item = (TopicKey<'a>, PartitionIndex)> + use<'a> {
        let mut walk = self.forgotten;
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
    fn next(&mut self) -> Result<Option<FetchPartition<'a>>, WireError> {
        let version = self.version;
        let mut first_in_topic = false;
        while self.partitions_left == 0 {
            if self.topics_left == 0 {
                return Ok(None);
            }
            self.topics_left -= 1;
            self.topic = self.reader.topic(version >= BY_ID)?;
            self.partitions_in_topic = self.reader.array_len(partition_min(version))?;
            self.partitions_left = self.partitions_in_topic;
            if self.partitions_left == 0 {
                self.reader.skip_tags()?;
            } else {
                self.topic_index = Some(self.topic_index.map_or(0, |index| index + 1));
                first_in_topic = true;
            }
        }
        let reader = &mut self.reader;
        let partition = PartitionIndex(reader.i32()?);
        let current_leader_epoch = LeaderEpoch(if version >= 9 { reader.i32()? } else { -1 });
        let fetch_offset = reader.i64()?;
        let last_fetched_epoch = LeaderEpoch(if version >= 12 { reader.i32()? } else { -1 });
        let log_start_offset = if version >= 5 { reader.i64()? } else { -1 };
        let partition_max_bytes = reader.i32()?;
        let mut high_watermark = i64::MAX;
        reader.tags(|tag, value| {
            match tag {
                0 if version >= 17 => {
                    value.topic_id()?; // The follower's log directory: for the controller only.
                }
                1 if version >= 18 => high_watermark = value.i64()?,
                0 | 1 => return Err(EARLY_TAG),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        self.partitions_left -= 1;
        if self.partitions_left == 0 {
            reader.skip_tags()?;
        }
        Ok(Some(FetchPartition {
            topic: self.topic,
            topic_index: self.topic_index.unwrap_or_default(),
            first_in_topic,
            partitions_in_topic: self.partitions_in_topic,
            partition,
            current_leader_epoch,
            fetch_offset,
            last_fetched_epoch,
            log_start_offset,
            partition_max_bytes,
            high_watermark,
        }))
    }
}

#[derive(Clone, Copy, Debug)]
struct Forgotten<'a> {
    reader: Reader<'a>,
    version: i16,
    topics_left: usize,
    topic: TopicKey<'a>,
    partitions_left: usize,
}

impl<'a> Forgotten<'a> {
    fn next(&mut self) -> Result<Option<(TopicKey<'a>, PartitionIndex)>, WireError> {
        while self.partitions_left == 0 {
            if self.topics_left == 0 {
                return Ok(None);
            }
            self.topics_left -= 1;
            self.topic = self.reader.topic(self.version >= BY_ID)?;
            self.partitions_left = self.reader.array_len(4)?;
            if self.partitions_left == 0 {
                self.reader.skip_tags()?;
            }
        }
        let partition = PartitionIndex(self.reader.i32()?);
        self.partitions_left -= 1;
        if self.partitions_left == 0 {
            self.reader.skip_tags()?;
        }
        Ok(Some((self.topic, partition)))
    }
}

/// Fewest bytes of a topic.
fn topic_min(version: i16) -> usize {
    match version {
        BY_ID.. => 16 + 1 + 1,
        12 => 1 + 1 + 1,
        _ => 2 + 4,
    }
}

/// Fewest bytes of a partition.
fn partition_min(version: i16) -> usize {
    match version {
        12.. => 4 + 4 + 8 + 4 + 8 + 4 + 1,
        9.. => 4 + 4 + 8 + 8 + 4,
        5.. => 4 + 8 + 8 + 4,
        _ => 4 + 8 + 4,
    }
}

/// What one partition gives, but for the records themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionHead<'a> {
    /// The partition.
    pub partition: PartitionIndex,
    /// The outcome.
    pub error: ErrorCode,
    /// Offset up to which records are replicated; -1 with an error.
    pub high_watermark: i64,
    /// Offset up to which transactions are decided; -1 with an error.
    pub last_stable_offset: i64,
    /// First offset of the log; -1 with an error.
    pub log_start_offset: i64,
    /// Aborted transactions among the records: `None` for read_uncommitted, a
    /// list for read_committed, as Kafka has it.
    pub aborted: Option<&'a [AbortedTransaction]>,
    /// Where a follower's log parts from the leader's: epoch and its end
    /// offset. Versions before 12 leave it out.
    pub diverging_epoch: Option<(LeaderEpoch, i64)>,
    /// The leader to turn to, with NOT_LEADER_OR_FOLLOWER (KIP-951). Versions
    /// before 12 leave it out.
    pub current_leader: Option<(NodeId, LeaderEpoch)>,
}

/// A transaction whose records a consumer has to leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Its first offset.
    pub first_offset: i64,
}

impl PartitionHead<'_> {
    /// A refusal, as Kafka's `FetchResponse.partitionResponse` fills it.
    pub fn refused(partition: PartitionIndex, error: ErrorCode) -> Self {
        Self {
            partition,
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted: Some(&[]),
            diverging_epoch: None,
            current_leader: None,
        }
    }
}

/// A place in an encoded response where records belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The records go in front of the byte at this position of the buffer.
    pub at: usize,
    /// How many bytes of records; not zero.
    pub len: usize,
}

/// What stands in front of a response's topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The request's version.
    pub version: i16,
    /// Repeated from the request.
    pub correlation_id: i32,
    /// How long the client was held back, milliseconds.
    pub throttle_time_ms: i32,
    /// The outcome of the whole request. Versions before 7 leave it out.
    pub error: ErrorCode,
    /// The fetch session, 0 for none. Versions before 7 leave it out.
    pub session_id: i32,
    /// How many topics follow.
    pub topics: usize,
}

/// Writes a response around its records: [`begin`](Self::begin), then for each
/// topic [`topic`](Self::topic) and its [`partition`](Self::partition)s, then
/// [`finish`](Self::finish).
///
/// Announced counts that are not met are programmer errors and panic.
#[derive(Debug)]
pub struct FetchResponseEncoder<'o> {
    writer: Writer<'o>,
    cuts: &'o mut Vec<Cut>,
    version: i16,
    topics_left: usize,
    partitions_left: usize,
    records_len: usize,
}

impl<'o> FetchResponseEncoder<'o> {
    /// Starts a frame at the end of `out`; places for records are added to
    /// `cuts`, in order.
    pub fn begin(out: &'o mut Vec<u8>, cuts: &'o mut Vec<Cut>, head: &ResponseHead) -> Self {
        let api = ApiKey::Fetch.api();
        let (version, topics_left) = (head.version, head.topics);
        let flexible = api.is_flexible(version);
        let tagged = api.has_tagged_response_header(version);
        let mut writer = Writer::begin(out, head.correlation_id, flexible, tagged);
        writer.i32(head.throttle_time_ms);
        if version >= SESSIONS {
            writer.i16(head.error.code());
            writer.i32(head.session_id);
        }
        writer.len(Some(topics_left));
        Self { writer, cuts, version, topics_left, partitions_left: 0, records_len: 0 }
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

    /// Adds the next partition of the topic, with a cut for `records_len` bytes
    /// of records unless that is zero.
    pub fn partition(&mut self, head: &PartitionHead<'_>, records_len: usize) {
        self.partitions_left =
            self.partitions_left.checked_sub(1).expect("no more partitions were announced");
        let writer = &mut self.writer;
        writer.i32(head.partition.0);
        writer.i16(head.error.code());
        writer.i64(head.high_watermark);
        writer.i64(head.last_stable_offset);
        if self.version >= 5 {
            writer.i64(head.log_start_offset);
        }
        writer.len(head.aborted.map(<[_]>::len));
        for aborted in head.aborted.unwrap_or_default() {
            writer.i64(aborted.producer_id);
            writer.i64(aborted.first_offset);
            writer.no_tags();
        }
        if self.version >= 11 {
            writer.i32(-1); // No other replica is preferred.
        }
        writer.len(Some(records_len));
        if records_len > 0 {
            self.cuts.push(Cut { at: writer.position(), len: records_len });
            self.records_len += records_len;
        }
        if self.version >= 12 {
            writer.tag_count(
                u32::from(head.diverging_epoch.is_some())
                    + u32::from(head.current_leader.is_some()),
            );
            if let Some((epoch, end_offset)) = head.diverging_epoch {
                writer.uvarint(0);
                writer.uvarint(13);
                writer.i32(epoch.0);
                writer.i64(end_offset);
                writer.no_tags();
            }
            if let Some((leader, epoch)) = head.current_leader {
                writer.uvarint(1);
                writer.uvarint(9);
                writer.i32(leader.0);
                writer.i32(epoch.0);
                writer.no_tags();
            }
            if self.partitions_left == 0 {
                writer.no_tags();
            }
        }
    }

    /// Ends the frame and sets its length, records included. `nodes` are the
    /// leaders that partitions named; versions before 16 leave them out.
    pub fn finish(mut self, nodes: &[NodeEndpoint<'_>]) {
        assert_eq!((self.topics_left, self.partitions_left), (0, 0), "the response is complete");
        self.writer.node_endpoints(if self.version >= 16 { nodes } else { &[] });
        self.writer.end(self.records_len);
    }
}
