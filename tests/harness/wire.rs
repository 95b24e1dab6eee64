//! Kafka's protocol by hand: one connection, no retries, nothing hidden.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use corelane::model::batch::BatchHeader;
use corelane::model::record::{Record, decode_records};
use corelane::wire::client::{
    FetchRequest, ProduceRequest, decode_response, encode_request, fetch_request, produce_request,
};
use corelane::wire::small::{
    Bytes, CreateTopicsRequest, DeleteTopicsRequest, KafkaRequest, ListOffsetsRequest,
    MetadataRequest, StrBytes, create_topics_request, list_offsets_request, metadata_request,
};
use kafka_wire::RequestResponsePair;

use super::PATIENCE;

/// Versions that name topics by name.
pub const PRODUCE: i16 = 11;
const FETCH: i16 = 12;
const METADATA: i16 = 9;
const CREATE_TOPICS: i16 = 7;
const DELETE_TOPICS: i16 = 5;
const LIST_OFFSETS: i16 = 7;

/// Bytes that one fetch asks for.
const FETCH_BYTES: i32 = 16 << 20;

/// A connection. An error means that it is of no more use.
#[derive(Debug)]
pub struct Wire {
    pub stream: TcpStream,
    next_id: i32,
}

/// One batch on its way to one partition.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub bytes: Bytes,
}

impl Wire {
    pub fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, next_id: 1 })
    }

    /// Sends a request and returns its correlation id.
    pub fn send<R: KafkaRequest>(&mut self, version: i16, request: &R) -> io::Result<i32> {
        let id = self.next_id;
        self.next_id += 1;
        let frame = encode_request(request, version, id, "test").map_err(io::Error::other)?;
        self.stream.write_all(&frame)?;
        Ok(id)
    }

    /// The next response without its length.
    pub fn receive(&mut self) -> io::Result<Bytes> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let len = usize::try_from(i32::from_be_bytes(prefix)).map_err(io::Error::other)?;
        assert!(len <= 64 << 20, "a response of {len} bytes");
        let mut frame = vec![0; len];
        self.stream.read_exact(&mut frame)?;
        Ok(Bytes::from(frame))
    }

    /// The response to the request `id`, which has to be the next one.
    pub fn answer<R: RequestResponsePair>(
        &mut self,
        version: i16,
        id: i32,
    ) -> io::Result<R::Response> {
        let frame = self.receive()?;
        decode_response::<R>(frame, version, id).map_err(io::Error::other)
    }

    pub fn call<R: RequestResponsePair>(
        &mut self,
        version: i16,
        request: &R,
    ) -> io::Result<R::Response> {
        let id = self.send(version, request)?;
        self.answer::<R>(version, id)
    }

    /// The error code of each topic that was to be created.
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> io::Result<i16> {
        let mut topic = create_topics_request::CreatableTopic::default();
        topic.name = StrBytes::from(name);
        topic.num_partitions = partitions;
        topic.replication_factor = -1;
        for (key, value) in configs {
            let mut config = create_topics_request::CreatableTopicConfig::default();
            config.name = StrBytes::from(*key);
            config.value = Some(StrBytes::from(*value));
            topic.configs.push(config);
        }
        let mut request = CreateTopicsRequest::default();
        request.topics = vec![topic];
        request.timeout_ms = PATIENCE.as_millis() as i32;
        Ok(self.call(CREATE_TOPICS, &request)?.topics[0].error_code)
    }

    pub fn delete_topic(&mut self, name: &str) -> io::Result<i16> {
        let mut request = DeleteTopicsRequest::default();
        request.topic_names = vec![StrBytes::from(name)];
        request.timeout_ms = PATIENCE.as_millis() as i32;
        Ok(self.call(DELETE_TOPICS, &request)?.responses[0].error_code)
    }

    /// Every topic and its number of partitions.
    pub fn topics(&mut self) -> io::Result<BTreeMap<String, usize>> {
        let mut request = MetadataRequest::default();
        request.topics = None;
        let response = self.call(METADATA, &request)?;
        let rows = response.topics.iter().map(|topic| {
            assert_eq!(topic.error_code, 0, "{topic:?}");
            (topic.name.as_ref().expect("a name").to_string(), topic.partitions.len())
        });
        Ok(rows.collect())
    }

    /// The error code of a topic's metadata, without creating it.
    pub fn topic_error(&mut self, name: &str) -> io::Result<i16> {
        let mut topic = metadata_request::MetadataRequestTopic::default();
        topic.name = Some(StrBytes::from(name));
        let mut request = MetadataRequest::default();
        request.topics = Some(vec![topic]);
        request.allow_auto_topic_creation = false;
        Ok(self.call(METADATA, &request)?.topics[0].error_code)
    }

    /// Sends one batch; its error code and base offset.
    pub fn produce(&mut self, acks: i16, batch: Batch<'_>) -> io::Result<(i16, i64)> {
        let response = self.call(PRODUCE, &produce_request(acks, &[batch]))?;
        let answer = &response.responses[0].partition_responses[0];
        Ok((answer.error_code, answer.base_offset))
    }

    /// The first and the next offset of a partition.
    pub fn offsets(&mut self, topic: &str, partition: i32) -> io::Result<(i64, i64)> {
        let mut ends = [0; 2];
        for (end, timestamp) in ends.iter_mut().zip([-2, -1]) {
            let mut row = list_offsets_request::ListOffsetsPartition::default();
            row.partition_index = partition;
            row.timestamp = timestamp;
            let mut wanted = list_offsets_request::ListOffsetsTopic::default();
            wanted.name = StrBytes::from(topic);
            wanted.partitions = vec![row];
            let mut request = ListOffsetsRequest::default();
            request.replica_id = -1;
            request.topics = vec![wanted];
            let response = self.call(LIST_OFFSETS, &request)?;
            let answer = &response.topics[0].partitions[0];
            if answer.error_code != 0 {
                return Err(io::Error::other(format!("{topic}-{partition}: {answer:?}")));
            }
            *end = answer.offset;
        }
        Ok((ends[0], ends[1]))
    }

    /// The records from `offset` on that one fetch gives; none if there is
    /// nothing within `wait_ms`.
    pub fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        wait_ms: i32,
    ) -> io::Result<Vec<Record>> {
        Ok(self.fetch_on(topic, partition, offset, wait_ms)?.0)
    }

    /// The same, and the offset to go on with: batches may have no records.
    fn fetch_on(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        wait_ms: i32,
    ) -> io::Result<(Vec<Record>, i64)> {
        let mut row = fetch_request::FetchPartition::default();
        row.partition = partition;
        row.fetch_offset = offset;
        row.partition_max_bytes = FETCH_BYTES;
        let mut wanted = fetch_request::FetchTopic::default();
        wanted.topic = StrBytes::from(topic);
        wanted.partitions = vec![row];
        let mut request = FetchRequest::default();
        request.max_wait_ms = wait_ms;
        request.min_bytes = 1;
        request.max_bytes = FETCH_BYTES;
        request.topics = vec![wanted];
        let response = self.call(FETCH, &request)?;
        let answer = &response.responses[0].partitions[0];
        if answer.error_code != 0 {
            let what = format!("{topic}-{partition} at {offset}: error {}", answer.error_code);
            return Err(io::Error::other(what));
        }
        let records = answer.records.clone().unwrap_or_default();
        let mut opened = vec![];
        let (mut rest, mut next) = (&records[..], offset);
        while let Some(header) = BatchHeader::decode(rest) {
            let Some(batch) = header.total_len().and_then(|len| rest.get(..len)) else { break };
            opened.extend(decode_records(batch, 64 << 20).map_err(io::Error::other)?);
            rest = &rest[batch.len()..];
            next = header.next_offset();
        }
        opened.retain(|record| record.offset >= offset);
        Ok((opened, next))
    }

    /// The whole of a partition, from its first offset to its end.
    pub fn read_all(&mut self, topic: &str, partition: i32) -> io::Result<Vec<Record>> {
        let (start, end) = self.offsets(topic, partition)?;
        let (mut records, mut next) = (vec![], start);
        while next < end {
            let (fetched, behind) = self.fetch_on(topic, partition, next, 0)?;
            if behind <= next {
                let what = format!("{topic}-{partition}: nothing at {next}, the end is {end}");
                return Err(io::Error::other(what));
            }
            next = behind;
            records.extend(fetched);
        }
        Ok(records)
    }
}

/// A Produce request; batches of one topic have to be neighbours.
pub fn produce_request(acks: i16, batches: &[Batch<'_>]) -> ProduceRequest {
    let mut request = ProduceRequest::default();
    request.acks = acks;
    request.timeout_ms = PATIENCE.as_millis() as i32;
    for group in batches.chunk_by(|one, next| one.topic == next.topic) {
        let mut topic = produce_request::TopicProduceData::default();
        topic.name = StrBytes::from(group[0].topic);
        for batch in group {
            let mut partition = produce_request::PartitionProduceData::default();
            partition.index = batch.partition;
            partition.records = Some(batch.bytes.clone());
            topic.partition_data.push(partition);
        }
        request.topic_data.push(topic);
    }
    request
}
