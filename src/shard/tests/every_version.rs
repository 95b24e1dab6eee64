//! Every API at every version that is served: asked and answered in
//! `kafka-wire`'s words, which are generated from Kafka's own schemas. Those of
//! groups are in `groups.rs`.

use kafka_wire::{
    ApiVersionsRequest, CreateTopicsRequest, DeleteTopicsRequest, FetchRequest, FetchResponse,
    InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest,
    ProduceRequest, create_topics_request, delete_topics_request, fetch_request,
    list_offsets_request, metadata_request, offset_for_leader_epoch_request, produce_request,
};

use super::broker::{Broker, ClientId};
use crate::model::error_code::ErrorCode as E;
use crate::model::ids::TopicId;
use crate::model::record::{BatchBuilder, Codec, decode_records};
use crate::wire::apis::{APIS, ApiKey};
use crate::wire::small::{self, Bytes, StrBytes, Uuid};

pub const UNKNOWN: TopicId = TopicId([9; 16]);

/// The versions of an API that are served.
pub fn versions(key: ApiKey) -> std::ops::RangeInclusive<i16> {
    key.api().served_min..=key.api().max
}

/// A batch of one record for each of `values`.
pub fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for value in values {
        builder.push(1_700_000_000_000, None, Some(value.as_bytes()), &[]);
    }
    Bytes::from(builder.finish())
}

/// A topic by name and by id: requests take the one that their version has.
#[derive(Clone, Copy)]
pub struct Named<'a>(pub &'a str, pub TopicId);

/// A Produce request with a batch for each of these partitions.
pub fn produce(version: i16, acks: i16, rows: &[(Named<'_>, i32, Bytes)]) -> ProduceRequest {
    let mut request = ProduceRequest::default();
    request.acks = acks;
    request.timeout_ms = 1_000;
    for (Named(name, id), index, records) in rows {
        let mut partition = produce_request::PartitionProduceData::default();
        partition.index = *index;
        partition.records = Some(records.clone());
        let mut topic = produce_request::TopicProduceData::default();
        if version >= 13 {
            topic.topic_id = small::uuid(*id);
        } else {
            topic.name = StrBytes::from(*name);
        }
        topic.partition_data.push(partition);
        request.topic_data.push(topic);
    }
    request
}

/// A Fetch request for these partitions from these offsets on.
pub fn fetch(version: i16, rows: &[(Named<'_>, i32, i64)]) -> FetchRequest {
    let mut request = FetchRequest::default();
    request.max_wait_ms = 500;
    request.min_bytes = 1;
    request.max_bytes = 1 << 20;
    if version >= 7 {
        request.session_epoch = -1;
    }
    for (Named(name, id), index, offset) in rows {
        let mut partition = fetch_request::FetchPartition::default();
        partition.partition = *index;
        partition.fetch_offset = *offset;
        partition.partition_max_bytes = 1 << 20;
        let mut topic = fetch_request::FetchTopic::default();
        if version >= 13 {
            topic.topic_id = small::uuid(*id);
        } else {
            topic.topic = StrBytes::from(*name);
        }
        topic.partitions.push(partition);
        request.topics.push(topic);
    }
    request
}

/// Values of the records that a partition was answered with.
pub fn values(response: &FetchResponse, topic: usize) -> Vec<String> {
    let partition = &response.responses[topic].partitions[0];
    let mut left = partition.records.clone().unwrap_or_default();
    let mut values = vec![];
    while !left.is_empty() {
        let header = crate::model::batch::BatchHeader::decode(&left).expect("a whole header");
        let batch = left.split_to(header.total_len().expect("a length"));
        let records = decode_records(&batch, 1 << 20).expect("a good batch");
        let texts = records.iter().map(|record| record.value.as_ref().expect("a value"));
        values.extend(texts.map(|text| String::from_utf8_lossy(text).into_owned()));
    }
    values
}

/// Two cores with a topic of a partition each, and a client of core 0.
fn broker() -> (Broker, ClientId, TopicId) {
    let mut broker = Broker::new(2, &[]);
    let id = broker.create_topic("t", &[]);
    let client = broker.connect(0);
    (broker, client, id)
}

#[test]
fn api_versions() {
    let (mut broker, client, _) = broker();
    for version in versions(ApiKey::ApiVersions) {
        let mut request = ApiVersionsRequest::default();
        if version >= 3 {
            request.client_software_name = StrBytes::from("test");
            request.client_software_version = StrBytes::from("1");
        }
        let response = broker.call(client, &request, version);
        let rows: Vec<_> = response
            .api_keys
            .iter()
            .map(|row| (row.api_key, row.min_version, row.max_version))
            .collect();
        let expected: Vec<_> = APIS.iter().map(|api| (api.key.code(), api.min, api.max)).collect();
        assert_eq!((response.error_code, rows), (0, expected), "version {version}");
        if version >= 5 {
            for (cluster, node, code) in [
                ("cluster", 1, E::None),
                ("cluster", 2, E::RebootstrapRequired),
                ("another", 1, E::RebootstrapRequired),
            ] {
                request.cluster_id = Some(StrBytes::from(cluster));
                request.node_id = node;
                let response = broker.call(client, &request, version);
                assert_eq!(response.error_code, code.code(), "{cluster}, node {node}");
            }
        }
    }
    // A client of the future is told what to come back with.
    broker.send(client, b"\0\0\0\x0e\0\x12\0\x63\0\0\0\x07\xff\xff\0\x01\x01\0");
    broker.run();
    let response = broker.answer::<ApiVersionsRequest>(client, 0, 7).expect("an answer");
    assert_eq!(response.error_code, E::UnsupportedVersion.code());
    assert_eq!(response.api_keys[0].api_key, ApiKey::ApiVersions.code());
}

#[test]
fn metadata() {
    let mut broker = Broker::new(2, &[("auto.create.topics.enable", "false")]);
    let id = broker.create_topic("t", &[]);
    let client = broker.connect(0);
    for version in versions(ApiKey::Metadata) {
        let mut request = MetadataRequest::default();
        request.topics = if version > 0 { None } else { Some(vec![]) };
        let all = broker.call(client, &request, version);
        assert_eq!((all.brokers.len(), all.brokers[0].port, all.topics.len()), (1, 9092, 1));
        let partitions = &all.topics[0].partitions;
        assert_eq!(partitions.len(), 2);
        assert_eq!((partitions[1].leader_id, &partitions[1].isr_nodes[..]), (1, &[1][..]));
        if version >= 10 {
            assert_eq!(all.topics[0].topic_id, small::uuid(id), "version {version}");
        }

        let by_name = |name: &str| {
            let mut topic = metadata_request::MetadataRequestTopic::default();
            topic.name = Some(StrBytes::from(name));
            topic
        };
        request.topics = Some(vec![by_name("t"), by_name("gone"), by_name("b/d")]);
        let some = broker.call(client, &request, version);
        let codes: Vec<i16> = some.topics.iter().map(|topic| topic.error_code).collect();
        let expected = [E::None, E::UnknownTopicOrPartition, E::InvalidTopicException];
        assert_eq!(codes, expected.map(E::code), "version {version}");
        let names = some.topics.iter().map(|topic| topic.name.as_deref());
        assert!(names.eq([Some("t"), Some("gone"), Some("b/d")]), "in the request's order");

        if version >= 10 {
            let by_id = |id: Uuid| {
                let mut topic = metadata_request::MetadataRequestTopic::default();
                topic.name = None;
                topic.topic_id = id;
                topic
            };
            let ids = [small::uuid(id), small::uuid(UNKNOWN), Uuid::default()];
            request.topics = Some(ids.map(by_id).into());
            let some = broker.call(client, &request, version);
            let codes: Vec<i16> = some.topics.iter().map(|topic| topic.error_code).collect();
            // Until version 12 Kafka takes no ids.
            let expected = match version {
                12.. => [E::None, E::UnknownTopicId, E::InvalidRequest],
                _ => [E::InvalidRequest; 3],
            };
            assert_eq!(codes, expected.map(E::code), "version {version}");
        }
    }
}

#[test]
fn metadata_creates_topics_unless_told_not_to() {
    let (mut broker, client, _) = broker();
    for version in versions(ApiKey::Metadata) {
        let name = format!("auto-{version}");
        let mut topic = metadata_request::MetadataRequestTopic::default();
        topic.name = Some(StrBytes::from(name.as_str()));
        let mut request = MetadataRequest::default();
        request.topics = Some(vec![topic]);
        if version >= 4 {
            request.allow_auto_topic_creation = false;
            let response = broker.call(client, &request, version);
            assert_eq!(response.topics[0].error_code, E::UnknownTopicOrPartition.code());
            request.allow_auto_topic_creation = true;
        }
        let response = broker.call(client, &request, version);
        assert_eq!(response.topics[0].error_code, 0, "version {version}");
        assert_eq!(response.topics[0].partitions.len(), 1);
        assert!(broker.image.topic(&name).is_some());
    }
}

#[test]
fn topics_come_and_go() {
    let (mut broker, client, _) = broker();
    for version in versions(ApiKey::CreateTopics) {
        let name = format!("made-{version}");
        let topic = |name: &str, partitions, config: &[(&str, &str)]| {
            let mut topic = create_topics_request::CreatableTopic::default();
            topic.name = StrBytes::from(name);
            topic.num_partitions = partitions;
            topic.replication_factor = 1;
            for (key, value) in config {
                let mut row = create_topics_request::CreatableTopicConfig::default();
                row.name = StrBytes::from(*key);
                row.value = Some(StrBytes::from(*value));
                topic.configs.push(row);
            }
            topic
        };
        let mut request = CreateTopicsRequest::default();
        request.topics = vec![
            topic(&name, 3, &[("flush.messages", "10")]),
            topic("t", 1, &[]),
            topic("none", 0, &[]),
            topic("odd", 1, &[("cleanup.policy", "squeeze")]),
        ];
        request.validate_only = true;
        let response = broker.call(client, &request, version);
        let codes = |response: &kafka_wire::CreateTopicsResponse| {
            response.topics.iter().map(|topic| topic.error_code).collect::<Vec<i16>>()
        };
        let expected = [E::None, E::TopicAlreadyExists, E::InvalidPartitions, E::InvalidConfig];
        assert_eq!(codes(&response), expected.map(E::code), "version {version}");
        assert!(broker.image.topic(&name).is_none());

        request.validate_only = false;
        let response = broker.call(client, &request, version);
        assert_eq!(codes(&response), expected.map(E::code), "version {version}");
        assert_eq!(&*response.topics[0].name, name);
        if version >= 5 {
            assert_eq!(response.topics[0].num_partitions, 3);
        }
        let made = broker.image.topic(&name).expect("it was made").clone();
        assert_eq!(made.configs.get("flush.messages").map(String::as_str), Some("10"));
        if version >= 7 {
            assert_eq!(response.topics[0].topic_id, small::uuid(made.id));
        }
    }
    for version in versions(ApiKey::DeleteTopics) {
        let name = format!("gone-{version}");
        let id = broker.create_topic(&name, &[]);
        let mut request = DeleteTopicsRequest::default();
        let expected = if version >= 6 {
            let by = |name: Option<&str>, id: TopicId| {
                let mut topic = delete_topics_request::DeleteTopicState::default();
                topic.name = name.map(StrBytes::from);
                topic.topic_id = small::uuid(id);
                topic
            };
            request.topics =
                vec![by(None, id), by(Some("nowhere"), TopicId::default()), by(None, UNKNOWN)];
            vec![E::None, E::UnknownTopicOrPartition, E::UnknownTopicId]
        } else {
            request.topic_names = vec![StrBytes::from(name.as_str()), StrBytes::from("nowhere")];
            vec![E::None, E::UnknownTopicOrPartition]
        };
        let response = broker.call(client, &request, version);
        let codes: Vec<i16> = response.responses.iter().map(|row| row.error_code).collect();
        let expected: Vec<i16> = expected.into_iter().map(E::code).collect();
        assert_eq!(codes, expected, "version {version}");
        assert_eq!(response.responses[0].name.as_deref(), Some(name.as_str()));
        assert!(broker.image.topic(&name).is_none());
    }
}

#[test]
fn produce_fetch_and_offsets() {
    let (mut broker, client, id) = broker();
    let t = Named("t", id);
    let nowhere = Named("nowhere", UNKNOWN);
    let mut written = 0;
    for version in versions(ApiKey::Produce) {
        // Partition 0 is this core's, partition 1 the other's.
        let text = format!("v{version}");
        let rows = [
            (t, 1, batch(&[&text, "more"])),
            (nowhere, 0, batch(&["lost"])),
            (t, 7, batch(&["lost"])),
            (t, 0, batch(&[&text])),
            (t, 0, Bytes::from_static(b"no batch")),
        ];
        let request = produce(version, -1, &rows);
        let response = broker.call(client, &request, version);
        let unknown = if version >= 13 { E::UnknownTopicId } else { E::UnknownTopicOrPartition };
        let seen: Vec<_> = response
            .responses
            .iter()
            .map(|topic| &topic.partition_responses[0])
            .map(|row| (row.index, row.error_code, row.base_offset))
            .collect();
        let expected = [
            (1, 0, 2 * written),
            (0, unknown.code(), -1),
            (7, E::UnknownTopicOrPartition.code(), -1),
            (0, 0, written),
            (0, E::InvalidRecord.code(), -1),
        ];
        assert_eq!(seen, expected, "version {version}");
        let names = response.responses.iter().map(|topic| (&*topic.name, topic.topic_id));
        let asked = [t, nowhere, t, t, t].map(|Named(name, id)| match version {
            13.. => ("", small::uuid(id)),
            _ => (name, Uuid::default()),
        });
        assert!(names.eq(asked), "version {version}");
        if version >= 5 {
            assert_eq!(response.responses[0].partition_responses[0].log_start_offset, 0);
        }
        written += 1;
    }

    for version in versions(ApiKey::Fetch) {
        // The last record of partition 0, and a batch of partition 1 by its
        // second record.
        let rows = [(t, 0, written - 1), (t, 1, 2 * written - 1)];
        let response = broker.call(client, &fetch(version, &rows), version);
        assert_eq!((response.error_code, response.session_id), (0, 0));
        assert_eq!(values(&response, 0), ["v13"], "version {version}");
        assert_eq!(values(&response, 1), ["v13", "more"], "version {version}");
        let partition = &response.responses[1].partitions[0];
        assert_eq!((partition.high_watermark, partition.last_stable_offset), (22, 22));
        assert!(partition.aborted_transactions.as_ref().is_none_or(Vec::is_empty));

        // Whatever is wrong is said at once, with what is right beside it.
        let rows = [(t, 0, written - 1), (nowhere, 0, 0), (t, 9, 0), (t, 1, 1_000)];
        let response = broker.call(client, &fetch(version, &rows), version);
        let codes: Vec<i16> =
            response.responses.iter().map(|topic| topic.partitions[0].error_code).collect();
        let unknown = if version >= 13 { E::UnknownTopicId } else { E::UnknownTopicOrPartition };
        let expected = [E::None, unknown, E::UnknownTopicOrPartition, E::OffsetOutOfRange];
        assert_eq!(codes, expected.map(E::code), "version {version}");
        assert_eq!(values(&response, 0), ["v13"], "version {version}");
    }

    for version in versions(ApiKey::ListOffsets) {
        let mut request = ListOffsetsRequest::default();
        request.replica_id = -1;
        for (name, partition, timestamp) in
            [("t", 0, -1), ("t", 1, -2), ("nowhere", 0, -1), ("t", 9, -1), ("t", 1, -1)]
        {
            let mut row = list_offsets_request::ListOffsetsPartition::default();
            row.partition_index = partition;
            row.timestamp = timestamp;
            let mut topic = list_offsets_request::ListOffsetsTopic::default();
            topic.name = StrBytes::from(name);
            topic.partitions.push(row);
            request.topics.push(topic);
        }
        let response = broker.call(client, &request, version);
        let seen: Vec<_> = response
            .topics
            .iter()
            .map(|topic| &topic.partitions[0])
            .map(|row| (row.partition_index, row.error_code, row.offset))
            .collect();
        let gone = E::UnknownTopicOrPartition.code();
        let expected = [
            (0, 0, written),
            (1, 0, 0),
            (0, gone, -1),
            (9, gone, -1),
            // Asked twice.
            (1, E::InvalidRequest.code(), -1),
        ];
        assert_eq!(seen, expected, "version {version}");
    }
}

#[test]
fn offsets_by_timestamp() {
    let (mut broker, client, id) = broker();
    let mut builder = BatchBuilder::new(Codec::Gzip);
    for timestamp in [100, 300, 200] {
        builder.push(timestamp, None, Some(b"v"), &[]);
    }
    let records = Bytes::from(builder.finish());
    broker.call(client, &produce(13, -1, &[(Named("t", id), 0, records)]), 13);
    for version in versions(ApiKey::ListOffsets) {
        let unsupported = (E::UnsupportedVersion.code(), -1, -1, -1);
        // Timestamp, the version that brought it, and what it is answered with.
        let table = [
            (0, 1, (0, 100, 0, 0)),
            (100, 1, (0, 100, 0, 0)),
            (101, 1, (0, 300, 1, 0)),
            (301, 1, (0, -1, -1, -1)),
            (-1, 1, (0, -1, 3, 0)),
            (-2, 1, (0, -1, 0, 0)),
            (-3, 7, (0, 300, 1, 0)),
            (-4, 8, (0, -1, 0, 0)),
            (-5, 9, (0, -1, -1, -1)),
            (-6, 11, (0, -1, -1, -1)),
            (-7, 99, unsupported),
        ];
        for (timestamp, since, expected) in table {
            let mut request = ListOffsetsRequest::default();
            request.replica_id = -1;
            let mut row = list_offsets_request::ListOffsetsPartition::default();
            row.timestamp = timestamp;
            let mut topic = list_offsets_request::ListOffsetsTopic::default();
            topic.name = StrBytes::from("t");
            topic.partitions.push(row);
            request.topics.push(topic);
            let response = broker.call(client, &request, version);
            let row = &response.topics[0].partitions[0];
            let mut expected = if version >= since { expected } else { unsupported };
            if version < 4 {
                expected.3 = -1; // The epoch is not said.
            }
            let seen = (row.error_code, row.timestamp, row.offset, row.leader_epoch);
            assert_eq!(seen, expected, "version {version}, timestamp {timestamp}");
        }
    }
}

#[test]
fn ends_of_leader_epochs() {
    let (mut broker, client, id) = broker();
    broker.call(client, &produce(13, -1, &[(Named("t", id), 0, batch(&["a", "b"]))]), 13);
    for version in versions(ApiKey::OffsetForLeaderEpoch) {
        // Topic, partition, the epoch the client knows, the one it asks for.
        let fenced = E::UnknownLeaderEpoch.code();
        let unknown = E::UnknownTopicOrPartition.code();
        let table = [
            ("t", 0, 0, 0, (0, 0, 2)),
            ("t", 0, -1, 0, (0, 0, 2)),
            ("t", 1, -1, 0, (0, 0, 0)),
            ("t", 0, -1, 7, (0, -1, -1)),
            ("t", 0, 1, 0, (fenced, -1, -1)),
            ("t", 9, -1, 0, (unknown, -1, -1)),
            ("no", 0, -1, 0, (unknown, -1, -1)),
        ];
        let mut request = OffsetForLeaderEpochRequest::default();
        for (name, partition, current, epoch, _) in table {
            let mut row = offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
            row.partition = partition;
            row.current_leader_epoch = current;
            row.leader_epoch = epoch;
            let mut topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default();
            topic.topic = StrBytes::from(name);
            topic.partitions.push(row);
            request.topics.push(topic);
        }
        let response = broker.call(client, &request, version);
        for (topic, (name, partition, current, epoch, expected)) in
            response.topics.iter().zip(table)
        {
            let row = &topic.partitions[0];
            let seen = (row.error_code, row.leader_epoch, row.end_offset);
            assert_eq!((topic.topic.as_str(), row.partition), (name, partition));
            assert_eq!(seen, expected, "version {version}: {name} {current} {epoch}");
        }
    }
}

#[test]
fn producer_ids() {
    let (mut broker, client, _) = broker();
    let other = broker.connect(1);
    let mut given = std::collections::BTreeSet::new();
    for version in versions(ApiKey::InitProducerId) {
        let mut request = InitProducerIdRequest::default();
        request.transactional_id = None;
        request.transaction_timeout_ms = 1_000;
        for client in [client, other] {
            let response = broker.call(client, &request, version);
            assert_eq!((response.error_code, response.producer_epoch), (0, 0));
            assert!(given.insert(response.producer_id), "an id belongs to one producer");
        }
        request.transactional_id = Some(StrBytes::from("payments"));
        let response = broker.call(client, &request, version);
        let refused = E::TransactionalIdAuthorizationFailed.code();
        assert_eq!((response.error_code, response.producer_id), (refused, -1), "{version}");
    }
}

#[test]
fn a_batch_that_is_sent_again_is_not_written_again() {
    let (mut broker, client, id) = broker();
    let batch = |sequence| {
        let mut builder = BatchBuilder::new(Codec::None).producer(5, 0, sequence);
        builder.push(1, None, Some(b"x"), &[]);
        Bytes::from(builder.finish())
    };
    for (sequence, code, offset) in [
        (0, E::None, 0),
        (1, E::None, 1),
        (0, E::None, 0),
        (3, E::OutOfOrderSequenceNumber, -1),
        (2, E::None, 2),
    ] {
        for partition in [0, 1] {
            let rows = [(Named("t", id), partition, batch(sequence))];
            let response = broker.call(client, &produce(9, -1, &rows), 9);
            let row = &response.responses[0].partition_responses[0];
            assert_eq!((row.error_code, row.base_offset), (code.code(), offset), "{sequence}");
        }
    }
}

#[test]
fn epochs_of_other_leaders_are_refused() {
    let (mut broker, client, id) = broker();
    for (epoch, code) in [(0, E::None), (-1, E::None), (1, E::UnknownLeaderEpoch)] {
        // With nothing to wait for, the log has to be open already.
        broker.call(client, &produce(3, 1, &[(Named("t", id), 0, batch(&["x"]))]), 3);
        let mut request = fetch(12, &[(Named("t", id), 0, 0)]);
        request.max_wait_ms = 0;
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        let response = broker.call(client, &request, 12);
        assert_eq!(response.responses[0].partitions[0].error_code, code.code(), "{epoch}");
    }
}
