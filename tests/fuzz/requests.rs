//! Requests as clients send them, in every API and version.

use corelane::base::rng::Rng;
use corelane::model::record::{BatchBuilder, Codec};
use corelane::wire::apis::{Api, ApiKey};
use corelane::wire::client::{
    ApiVersionsRequest, FetchRequest, ProduceRequest, encode_request, fetch_request,
    produce_request,
};
use corelane::wire::small::{
    Bytes, CreateTopicsRequest, DeleteTopicsRequest, KafkaRequest, ListOffsetsRequest,
    MetadataRequest, StrBytes, Uuid, create_topics_request, list_offsets_request, metadata_request,
};

/// The topic that there is.
pub const TOPIC: &str = "t";
/// Its id.
pub const TOPIC_ID: [u8; 16] = [7; 16];

/// A batch of a few records, with any codec.
pub fn batch(rng: &mut Rng) -> Vec<u8> {
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let mut builder = BatchBuilder::new(codecs[rng.below(5) as usize]);
    if rng.chance(1, 3) {
        builder = builder.producer(rng.below(3) as i64, 0, rng.below(4) as i32);
    }
    for at in 0..rng.between(1, 5) {
        let value = vec![b'v'; rng.below(200) as usize];
        builder.push(1_000 + at as i64, Some(b"key"), Some(&value), &[("h", None)]);
    }
    builder.finish()
}

fn encode<R: KafkaRequest>(request: &R, version: i16) -> Vec<u8> {
    encode_request(request, version, 7, "fuzz").expect("representable").to_vec()
}

/// A good frame of `api`, with its length. `session` is what Fetch carries.
pub fn valid(api: &Api, version: i16, session: (i32, i32), rng: &mut Rng) -> Vec<u8> {
    match api.key {
        ApiKey::Produce => produce(version, rng),
        ApiKey::Fetch => fetch(version, session, rng),
        ApiKey::ListOffsets => {
            let mut row = list_offsets_request::ListOffsetsPartition::default();
            row.timestamp = rng.below(4) as i64 - 2;
            let mut topic = list_offsets_request::ListOffsetsTopic::default();
            topic.name = StrBytes::from(TOPIC);
            topic.partitions = vec![row];
            let mut request = ListOffsetsRequest::default();
            request.replica_id = -1;
            request.topics = vec![topic];
            encode(&request, version)
        }
        ApiKey::Metadata => {
            let mut topic = metadata_request::MetadataRequestTopic::default();
            topic.name = Some(StrBytes::from(TOPIC));
            let mut request = MetadataRequest::default();
            request.topics = Some(vec![topic]);
            encode(&request, version)
        }
        ApiKey::ApiVersions => {
            let mut request = ApiVersionsRequest::default();
            if version >= 3 {
                request.client_software_name = StrBytes::from("fuzz");
                request.client_software_version = StrBytes::from("1");
            }
            encode(&request, version)
        }
        ApiKey::CreateTopics => {
            let mut config = create_topics_request::CreatableTopicConfig::default();
            config.name = StrBytes::from("flush.messages");
            config.value = Some(StrBytes::from("1"));
            let mut topic = create_topics_request::CreatableTopic::default();
            topic.name = StrBytes::from(format!("made-{}", rng.below(20)).as_str());
            (topic.num_partitions, topic.replication_factor) = (1, 1);
            topic.configs = vec![config];
            let mut request = CreateTopicsRequest::default();
            request.topics = vec![topic];
            encode(&request, version)
        }
        ApiKey::DeleteTopics => {
            let mut request = DeleteTopicsRequest::default();
            if version < 6 {
                request.topic_names =
                    vec![StrBytes::from(format!("made-{}", rng.below(20)).as_str())];
            }
            encode(&request, version)
        }
        // Zeros are empty strings, arrays and tags: many requests begin like this.
        _ => {
            let mut frame = vec![0; 4];
            frame.extend(api.key.code().to_be_bytes());
            frame.extend(version.to_be_bytes());
            frame.extend(7_i32.to_be_bytes());
            frame.extend(b"\0\x04fuzz");
            frame.resize(frame.len() + rng.between(0, 60) as usize, 0);
            if let Some(at) = frame.len().checked_sub(10).filter(|at| *at > 20) {
                frame[at] = rng.below(3) as u8;
            }
            set_len(&mut frame);
            frame
        }
    }
}

/// Sets a frame's length right.
pub fn set_len(frame: &mut [u8]) {
    if let Some(len) = frame.len().checked_sub(4) {
        frame[..4].copy_from_slice(&(len as i32).to_be_bytes());
    }
}

fn produce(version: i16, rng: &mut Rng) -> Vec<u8> {
    let mut partition = produce_request::PartitionProduceData::default();
    partition.index = rng.below(2) as i32;
    partition.records = Some(Bytes::from(batch(rng)));
    let mut topic = produce_request::TopicProduceData::default();
    if version >= 13 {
        topic.topic_id = Uuid::from_bytes(TOPIC_ID);
    } else {
        topic.name = StrBytes::from(TOPIC);
    }
    topic.partition_data = vec![partition];
    let mut request = ProduceRequest::default();
    request.acks = rng.below(3) as i16 - 1;
    request.timeout_ms = 1_000;
    request.topic_data = vec![topic];
    encode(&request, version)
}

fn fetch(version: i16, session: (i32, i32), rng: &mut Rng) -> Vec<u8> {
    let mut request = FetchRequest::default();
    (request.max_wait_ms, request.min_bytes) = (rng.below(20) as i32, 1);
    request.max_bytes = 1 << rng.below(20);
    if version >= 7 {
        (request.session_id, request.session_epoch) = session;
    }
    for index in 0..rng.below(3) as i32 {
        let mut partition = fetch_request::FetchPartition::default();
        (partition.partition, partition.partition_max_bytes) = (index, 1 << 20);
        partition.fetch_offset = rng.below(4) as i64;
        let mut topic = fetch_request::FetchTopic::default();
        let mut forgotten = fetch_request::ForgottenTopic::default();
        if version >= 13 {
            topic.topic_id = Uuid::from_bytes(TOPIC_ID);
            forgotten.topic_id = topic.topic_id;
        } else {
            topic.topic = StrBytes::from(TOPIC);
            forgotten.topic = topic.topic.clone();
        }
        topic.partitions = vec![partition];
        request.topics.push(topic);
        if version >= 7 && rng.chance(1, 4) {
            forgotten.partitions = vec![rng.below(2) as i32];
            request.forgotten_topics_data.push(forgotten);
        }
    }
    encode(&request, version)
}
