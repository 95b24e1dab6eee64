//! The hand-written messages against `kafka-wire`'s, which are generated from
//! Kafka's own schemas: every version, both directions; then against hostile
//! bytes.

use kafka_wire::{
    ApiVersionsResponse, FetchResponse, KafkaMessage, ProduceResponse, api_versions_response,
    fetch_request, fetch_response, produce_request, produce_response,
};
use kafka_wire_core::{ApiVersion, BytesMut, KafkaEncode};

use super::api_versions::ApiVersionsRequest;
use super::fetch::{
    self, AbortedTransaction, FetchRequest, FetchResponseEncoder, IsolationLevel, PartitionHead,
    ResponseHead,
};
use super::produce::{NodeEndpoint, PartitionOutcome, ProduceRequest, ProduceResponseEncoder};
use super::small::{
    self, Bytes, CreateTopicsRequest, DecodeLimits, DeleteTopicsRequest, ListOffsetsRequest,
    MetadataRequest, MetadataResponse, OffsetForLeaderEpochRequest, StrBytes, decode_within,
};
use super::{TopicKey, WireError};
use crate::base::limits::{REQUEST_PARTITIONS_MAX, SMALL_FRAME_MAX};
use crate::base::rng::Rng;
use crate::model::batch::RecordRefusal;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicId};

/// The head of a Fetch response without a session.
fn start(version: i16, correlation_id: i32, throttle_time_ms: i32, topics: usize) -> ResponseHead {
    let error = ErrorCode::None;
    ResponseHead { version, correlation_id, throttle_time_ms, error, session_id: 0, topics }
}

fn encode<M: KafkaEncode>(message: &M, version: i16) -> Vec<u8> {
    let mut out = BytesMut::new();
    message.encode_into(&mut out, ApiVersion::new(version)).expect("representable");
    out.to_vec()
}

/// Takes frame length and header off a response and decodes the rest.
fn open<M: KafkaMessage>(frame: &[u8], correlation_id: i32, version: i16, tagged: bool) -> M {
    let len = i32::from_be_bytes(frame[..4].try_into().expect("four bytes"));
    assert_eq!(len as usize, frame.len() - 4);
    assert_eq!(frame[4..8], correlation_id.to_be_bytes());
    if tagged {
        assert_eq!(frame[8], 0);
    }
    let body = Bytes::copy_from_slice(&frame[8 + usize::from(tagged)..]);
    decode_within(body, version, DecodeLimits::default()).expect("decodes")
}

const IDS: [TopicId; 2] = [TopicId([0x11; 16]), TopicId([0x22; 16])];
const NAMES: [&str; 2] = ["first", "second-topic"];

fn key(topic: usize, version: i16) -> TopicKey<'static> {
    if version >= 13 { TopicKey::Id(IDS[topic]) } else { TopicKey::Name(NAMES[topic]) }
}

/// Two topics with partitions and between them one without.
fn produce_request(version: i16) -> Vec<u8> {
    let topic = |index: usize, records: &[Option<&'static [u8]>]| {
        let mut topic = produce_request::TopicProduceData::default();
        if version >= 13 {
            topic.topic_id = small::uuid(IDS[index]);
        } else {
            topic.name = StrBytes::from(NAMES[index]);
        }
        for (index, records) in records.iter().enumerate() {
            let mut partition = produce_request::PartitionProduceData::default();
            partition.index = 10 + index as i32;
            partition.records = records.map(Bytes::from_static);
            topic.partition_data.push(partition);
        }
        topic
    };
    let mut request = kafka_wire::ProduceRequest::default();
    request.transactional_id = Some(StrBytes::from("txn"));
    request.acks = -1;
    request.timeout_ms = 1500;
    request.topic_data = vec![
        topic(0, &[Some(b"one"), None]),
        topic(0, &[]),
        topic(1, &[Some(b""), Some(&[7; 300])]),
    ];
    encode(&request, version)
}

#[test]
fn produce_requests_of_every_version() {
    for version in 3..=13 {
        let body = produce_request(version);
        let request = ProduceRequest::decode(&body, version).expect("decodes");
        assert_eq!(request.transactional_id, Some("txn"));
        assert_eq!((request.acks, request.timeout_ms), (-1, 1500));
        assert_eq!((request.topic_count(), request.partition_count()), (2, 4));
        let seen: Vec<_> = request
            .partitions()
            .map(|partition| {
                assert_eq!(partition.partitions_in_topic, 2);
                (
                    partition.topic,
                    partition.topic_index,
                    partition.first_in_topic,
                    partition.partition.0,
                    partition.records.map(|range| &body[range]),
                )
            })
            .collect();
        let (first, second) = (key(0, version), key(1, version));
        let expected: [(_, _, _, _, Option<&[u8]>); 4] = [
            (first, 0, true, 10, Some(b"one")),
            (first, 0, false, 11, None),
            (second, 1, true, 10, Some(b"")),
            (second, 1, false, 11, Some(&[7; 300])),
        ];
        assert_eq!(seen, expected, "version {version}");
    }
    let unserved = ProduceRequest::decode(&[], 2).expect_err("not served");
    assert_eq!(unserved, WireError::UnsupportedVersion { api: "Produce", version: 2 });
}

#[test]
fn produce_responses_of_every_version() {
    let good = PartitionOutcome {
        partition: PartitionIndex(3),
        error: ErrorCode::None,
        base_offset: 77,
        log_append_time_ms: 1234,
        log_start_offset: 5,
        record_errors: &[],
        error_message: None,
        current_leader: None,
    };
    let refusals = [RecordRefusal { index: 2, message: "too late".to_owned() }];
    let bad = PartitionOutcome {
        record_errors: &refusals,
        current_leader: Some((NodeId(4), LeaderEpoch(9))),
        ..PartitionOutcome::refused(
            PartitionIndex(4),
            ErrorCode::NotLeaderOrFollower,
            Some("elsewhere"),
        )
    };
    let long_host = "h".repeat(200);
    let nodes = [
        NodeEndpoint { id: NodeId(4), host: "node-4", port: 9094 },
        NodeEndpoint { id: NodeId(5), host: &long_host, port: 1 },
    ];
    for version in 3..=13 {
        let mut out = b"before".to_vec();
        let mut encoder = ProduceResponseEncoder::begin(&mut out, version, 42, 2);
        encoder.topic(key(0, version), 2);
        encoder.partition(&good);
        encoder.partition(&bad);
        encoder.topic(key(1, version), 1);
        encoder.partition(&good);
        encoder.end(6, &nodes);

        let partition = |outcome: &PartitionOutcome<'_>| {
            let mut partition = produce_response::PartitionProduceResponse::default();
            partition.index = outcome.partition.0;
            partition.error_code = outcome.error.code();
            partition.base_offset = outcome.base_offset;
            partition.log_append_time_ms = outcome.log_append_time_ms;
            if version >= 5 {
                partition.log_start_offset = outcome.log_start_offset;
            }
            if version >= 8 {
                partition.error_message = outcome.error_message.map(StrBytes::from);
                for record in outcome.record_errors {
                    let mut row = produce_response::BatchIndexAndErrorMessage::default();
                    row.batch_index = record.index;
                    row.batch_index_error_message = Some(StrBytes::from(record.message.as_str()));
                    partition.record_errors.push(row);
                }
            }
            if let Some((leader, epoch)) = outcome.current_leader
                && version >= 10
            {
                partition.current_leader.leader_id = leader.0;
                partition.current_leader.leader_epoch = epoch.0;
            }
            partition
        };
        let topic = |index: usize, outcomes: &[&PartitionOutcome<'_>]| {
            let mut topic = produce_response::TopicProduceResponse::default();
            if version >= 13 {
                topic.topic_id = small::uuid(IDS[index]);
            } else {
                topic.name = StrBytes::from(NAMES[index]);
            }
            topic.partition_responses =
                outcomes.iter().map(|&outcome| partition(outcome)).collect();
            topic
        };
        let mut expected = ProduceResponse::default();
        expected.responses = vec![topic(0, &[&good, &bad]), topic(1, &[&good])];
        expected.throttle_time_ms = 6;
        if version >= 10 {
            expected.node_endpoints = nodes
                .iter()
                .map(|node| {
                    let mut endpoint = produce_response::NodeEndpoint::default();
                    endpoint.node_id = node.id.0;
                    endpoint.host = StrBytes::from(node.host);
                    endpoint.port = node.port.into();
                    endpoint
                })
                .collect();
        }
        let frame = out.strip_prefix(b"before").expect("what was there stays");
        assert_eq!(open::<ProduceResponse>(frame, 42, version, version >= 9), expected);
        let header = 8 + usize::from(version >= 9);
        assert_eq!(frame[header..], encode(&expected, version), "version {version}");
    }
}

fn fetch_request(version: i16) -> Vec<u8> {
    let topic = |index: usize, partitions: i32| {
        let mut topic = fetch_request::FetchTopic::default();
        if version >= 13 {
            topic.topic_id = small::uuid(IDS[index]);
        } else {
            topic.topic = StrBytes::from(NAMES[index]);
        }
        for index in 0..partitions {
            let mut partition = fetch_request::FetchPartition::default();
            partition.partition = index;
            partition.fetch_offset = 1000 + i64::from(index);
            partition.partition_max_bytes = 1 << 20;
            if version >= 5 {
                partition.log_start_offset = 3;
            }
            if version >= 9 {
                partition.current_leader_epoch = 8;
            }
            if version >= 12 {
                partition.last_fetched_epoch = 7;
            }
            if version >= 17 {
                partition.replica_directory_id = small::uuid(IDS[0]);
            }
            if version >= 18 {
                partition.high_watermark = 999;
            }
            topic.partitions.push(partition);
        }
        topic
    };
    let mut request = kafka_wire::FetchRequest::default();
    if version >= 15 {
        request.replica_state.replica_id = 6;
        request.replica_state.replica_epoch = 66;
    } else {
        request.replica_id = 6;
    }
    if version >= 12 {
        request.cluster_id = Some(StrBytes::from("cluster"));
    }
    request.max_wait_ms = 500;
    request.min_bytes = 1;
    request.max_bytes = 50 << 20;
    request.isolation_level = 1;
    request.topics = vec![topic(0, 2), topic(1, 0), topic(1, 1)];
    if version >= 7 {
        request.session_id = 12;
        request.session_epoch = 13;
        let mut forgotten = fetch_request::ForgottenTopic::default();
        if version >= 13 {
            forgotten.topic_id = small::uuid(IDS[1]);
        } else {
            forgotten.topic = StrBytes::from(NAMES[1]);
        }
        forgotten.partitions = vec![5, 6];
        request.forgotten_topics_data = vec![forgotten];
    }
    if version >= 11 {
        request.rack_id = StrBytes::from("rack");
    }
    encode(&request, version)
}

#[test]
fn fetch_requests_of_every_version() {
    for version in 4..=18 {
        let since = |first: i16, value: i32, otherwise: i32| {
            if version >= first { value } else { otherwise }
        };
        let body = fetch_request(version);
        let request = FetchRequest::decode(&body, version).expect("decodes");
        assert_eq!(request.replica_id, NodeId(6));
        assert_eq!(request.replica_epoch, i64::from(since(15, 66, -1)));
        assert_eq!((request.max_wait_ms, request.min_bytes, request.max_bytes), (500, 1, 50 << 20));
        assert_eq!(request.isolation_level, IsolationLevel::ReadCommitted);
        assert_eq!(request.session_id, since(7, 12, 0));
        assert_eq!(request.session_epoch, since(7, 13, -1));
        assert_eq!(request.rack_id, if version >= 11 { "rack" } else { "" });
        assert_eq!((request.topic_count(), request.partition_count()), (2, 3));
        let partitions: Vec<_> = request.partitions().collect();
        for (at, partition) in partitions.iter().enumerate() {
            let topic = at / 2;
            assert_eq!(partition.topic, key(topic, version));
            assert_eq!(partition.topic_index, topic);
            assert_eq!(partition.first_in_topic, at != 1);
            assert_eq!(partition.partitions_in_topic, 2 - topic);
            assert_eq!(partition.partition.0, (at % 2) as i32);
            assert_eq!(partition.fetch_offset, 1000 + (at % 2) as i64);
            assert_eq!(partition.partition_max_bytes, 1 << 20);
            assert_eq!(partition.log_start_offset, i64::from(since(5, 3, -1)));
            assert_eq!(partition.current_leader_epoch.0, since(9, 8, -1));
            assert_eq!(partition.last_fetched_epoch.0, since(12, 7, -1));
            assert_eq!(partition.high_watermark, if version >= 18 { 999 } else { i64::MAX });
        }
        assert_eq!(partitions.len(), 3);
        let forgotten: Vec<_> =
            request.forgotten().map(|(topic, partition)| (topic, partition.0)).collect();
        let expected = [(key(1, version), 5), (key(1, version), 6)];
        assert_eq!(forgotten, expected[..if version >= 7 { 2 } else { 0 }]);
    }
}

#[test]
fn fetch_responses_of_every_version() {
    let aborted = [AbortedTransaction { producer_id: 1, first_offset: 2 }];
    let full = PartitionHead {
        partition: PartitionIndex(0),
        error: ErrorCode::None,
        high_watermark: 100,
        last_stable_offset: 90,
        log_start_offset: 3,
        aborted: None,
        diverging_epoch: None,
        current_leader: None,
    };
    let refused = PartitionHead {
        current_leader: Some((NodeId(4), LeaderEpoch(9))),
        ..PartitionHead::refused(PartitionIndex(1), ErrorCode::NotLeaderOrFollower)
    };
    let committed = PartitionHead {
        partition: PartitionIndex(2),
        aborted: Some(&aborted),
        diverging_epoch: Some((LeaderEpoch(3), 44)),
        ..full
    };
    let (first, last) = (vec![0xaa; 1000], vec![0xbb; 5]);
    let nodes = [NodeEndpoint { id: NodeId(4), host: "node-4", port: 9094 }];
    for version in 4..=18 {
        let mut head = b"before".to_vec();
        let mut cuts = Vec::new();
        let mut encoder =
            FetchResponseEncoder::begin(&mut head, &mut cuts, &start(version, 42, 6, 2));
        encoder.topic(key(0, version), 2);
        encoder.partition(&full, first.len());
        encoder.partition(&refused, 0);
        encoder.topic(key(1, version), 1);
        encoder.partition(&committed, last.len());
        encoder.finish(&nodes);

        // What the socket sends: the head with the records put in at the cuts.
        assert_eq!(cuts.iter().map(|cut| cut.len).collect::<Vec<_>>(), [1000, 5]);
        let frame = [
            &head[6..cuts[0].at],
            &first,
            &head[cuts[0].at..cuts[1].at],
            &last,
            &head[cuts[1].at..],
        ]
        .concat();

        let partition = |head: &PartitionHead<'_>, records: &[u8]| {
            let mut partition = fetch_response::PartitionData::default();
            partition.partition_index = head.partition.0;
            partition.error_code = head.error.code();
            partition.high_watermark = head.high_watermark;
            partition.last_stable_offset = head.last_stable_offset;
            if version >= 5 {
                partition.log_start_offset = head.log_start_offset;
            }
            partition.aborted_transactions = head.aborted.map(|aborted| {
                aborted
                    .iter()
                    .map(|transaction| {
                        let mut aborted = fetch_response::AbortedTransaction::default();
                        aborted.producer_id = transaction.producer_id;
                        aborted.first_offset = transaction.first_offset;
                        aborted
                    })
                    .collect()
            });
            if let Some((epoch, end_offset)) = head.diverging_epoch
                && version >= 12
            {
                partition.diverging_epoch.epoch = epoch.0;
                partition.diverging_epoch.end_offset = end_offset;
            }
            if let Some((leader, epoch)) = head.current_leader
                && version >= 12
            {
                partition.current_leader.leader_id = leader.0;
                partition.current_leader.leader_epoch = epoch.0;
            }
            partition.records = Some(Bytes::copy_from_slice(records));
            partition
        };
        let topic = |index: usize, partitions| {
            let mut topic = fetch_response::FetchableTopicResponse::default();
            if version >= 13 {
                topic.topic_id = small::uuid(IDS[index]);
            } else {
                topic.topic = StrBytes::from(NAMES[index]);
            }
            topic.partitions = partitions;
            topic
        };
        let mut expected = FetchResponse::default();
        expected.throttle_time_ms = 6;
        expected.responses = vec![
            topic(0, vec![partition(&full, &first), partition(&refused, &[])]),
            topic(1, vec![partition(&committed, &last)]),
        ];
        if version >= 16 {
            let mut endpoint = fetch_response::NodeEndpoint::default();
            endpoint.node_id = 4;
            endpoint.host = StrBytes::from("node-4");
            endpoint.port = 9094;
            expected.node_endpoints = vec![endpoint];
        }
        assert_eq!(open::<FetchResponse>(&frame, 42, version, version >= 12), expected);
        let header = 8 + usize::from(version >= 12);
        assert_eq!(frame[header..], encode(&expected, version), "version {version}");
    }
}

#[test]
fn api_versions_of_every_version() {
    for version in 0..=5 {
        let mut request = kafka_wire::ApiVersionsRequest::default();
        if version >= 3 {
            request.client_software_name = StrBytes::from("apache-kafka-java");
            request.client_software_version = StrBytes::from("4.4.0");
        }
        if version >= 5 {
            request.cluster_id = Some(StrBytes::from("cluster"));
            request.node_id = 3;
        }
        let body = encode(&request, version);
        let decoded = ApiVersionsRequest::decode(&body, version).expect("decodes");
        assert!(decoded.is_valid());
        let meant = if version >= 5 { (Some("cluster"), NodeId(3)) } else { (None, NodeId(-1)) };
        assert_eq!((decoded.cluster_id, decoded.node_id), meant);
        if version >= 3 {
            assert_eq!(decoded.client_software_name, "apache-kafka-java");
            assert_eq!(decoded.client_software_version, "4.4.0");
        }

        let mut out = Vec::new();
        super::api_versions::encode_response(&mut out, version, 42);
        let mut expected = ApiVersionsResponse::default();
        for api in super::APIS {
            let mut row = api_versions_response::ApiVersion::default();
            (row.api_key, row.min_version, row.max_version) = (api.key.code(), api.min, api.max);
            expected.api_keys.push(row);
        }
        assert_eq!(open::<ApiVersionsResponse>(&out, 42, version, false), expected);
        assert_eq!(out[8..], encode(&expected, version), "version {version}");
    }
}

#[test]
fn golden_bytes_of_produce() {
    // Version 3, acks 1, topic "t", partition 2, three bytes of records.
    let three = [
        &[0xff, 0xff, 0, 1, 0, 0, 0x75, 0x30][..], // no transaction, acks, 30 s
        &[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1],     // one topic, one partition
        &[0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3],        // partition 2, its records
    ]
    .concat();
    // Version 9: the same, flexible.
    let nine =
        [&[0, 0, 1, 0, 0, 0x75, 0x30][..], &[2, 2, b't', 2], &[0, 0, 0, 2, 4, 1, 2, 3, 0, 0, 0]]
            .concat();
    for (version, body) in [(3, &three), (9, &nine)] {
        let request = ProduceRequest::decode(body, version).expect("decodes");
        assert_eq!((request.transactional_id, request.acks), (None, 1));
        assert_eq!(request.timeout_ms, 30_000);
        let partitions: Vec<_> = request.partitions().collect();
        assert_eq!(partitions.len(), 1);
        assert_eq!(partitions[0].topic, TopicKey::Name("t"));
        assert_eq!(partitions[0].partition, PartitionIndex(2));
        assert_eq!(partitions[0].records.clone().map(|range| &body[range]), Some(&[1, 2, 3][..]));
    }

    let outcome = PartitionOutcome {
        base_offset: 7,
        ..PartitionOutcome::refused(PartitionIndex(2), ErrorCode::None, None)
    };
    let response = |version| {
        let mut out = Vec::new();
        let mut encoder = ProduceResponseEncoder::begin(&mut out, version, 5, 1);
        encoder.topic(TopicKey::Name("t"), 1);
        encoder.partition(&outcome);
        encoder.end(0, &[]);
        out
    };
    let minus_one = [0xff; 8];
    let three = [
        &[0, 0, 0, 41, 0, 0, 0, 5][..],              // length, correlation id
        &[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1],       // one topic, one partition
        &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], // partition 2, no error, offset 7
        &minus_one,                                  // no append time
        &[0, 0, 0, 0],                               // not throttled
    ]
    .concat();
    let nine = [
        &[0, 0, 0, 48, 0, 0, 0, 5, 0][..],
        &[2, 2, b't', 2],
        &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
        &minus_one,
        &minus_one,       // no log start offset
        &[1, 0, 0, 0],    // no record errors, no message, tags
        &[0, 0, 0, 0, 0], // not throttled, tags
    ]
    .concat();
    assert_eq!(response(3), three);
    assert_eq!(response(9), nine);
}

#[test]
fn golden_bytes_of_fetch() {
    // Version 4: a consumer wants partition 2 of "t" from offset 7.
    let four = [
        &[0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0xf4][..], // replica -1, wait 500 ms
        &[0, 0, 0, 1, 0, 0x10, 0, 0, 0],              // min 1, max 1 MiB, uncommitted
        &[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1],        // one topic, one partition
        &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7],        // partition 2, offset 7
        &[0, 0, 0x10, 0],                             // at most 4 KiB
    ]
    .concat();
    // Version 13: by id, flexible, without a session.
    let thirteen = [
        &[0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0xf4][..],
        &[0, 0, 0, 1, 0, 0x10, 0, 0, 0],
        &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], // session 0, epoch -1
        &[2],
        &IDS[0].0,
        &[2, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff], // partition 2, no leader epoch
        &[0, 0, 0, 0, 0, 0, 0, 7],
        &[0xff; 12], // no fetched epoch, no log start offset
        &[0, 0, 0x10, 0, 0, 0],
        &[1, 1, 0], // nothing to forget, no rack, tags
    ]
    .concat();
    for (version, body) in [(4, &four), (13, &thirteen)] {
        let request = FetchRequest::decode(body, version).expect("decodes");
        assert_eq!((request.replica_id, request.max_wait_ms), (NodeId(-1), 500));
        assert_eq!((request.session_id, request.session_epoch), (0, -1));
        let partitions: Vec<_> = request.partitions().collect();
        assert_eq!(partitions.len(), 1);
        assert_eq!(partitions[0].partition, PartitionIndex(2));
        assert_eq!((partitions[0].fetch_offset, partitions[0].partition_max_bytes), (7, 4096));
        assert_eq!(partitions[0].current_leader_epoch, LeaderEpoch(-1));
    }

    let head = PartitionHead {
        partition: PartitionIndex(2),
        error: ErrorCode::None,
        high_watermark: 9,
        last_stable_offset: 9,
        log_start_offset: 0,
        aborted: None,
        diverging_epoch: None,
        current_leader: None,
    };
    let (mut out, mut cuts) = (Vec::new(), Vec::new());
    let mut encoder = FetchResponseEncoder::begin(&mut out, &mut cuts, &start(12, 5, 0, 1));
    encoder.topic(TopicKey::Name("t"), 1);
    encoder.partition(&head, 200);
    encoder.finish(&[]);
    let expected = [
        &[0, 0, 1, 3, 0, 0, 0, 5, 0][..], // 259 bytes, 200 of them elsewhere
        &[0; 10],                         // throttle, error, session
        &[2, 2, b't', 2, 0, 0, 0, 2, 0, 0], // one topic, partition 2, no error
        &[0, 0, 0, 0, 0, 0, 0, 9],        // high watermark
        &[0, 0, 0, 0, 0, 0, 0, 9],        // last stable offset
        &[0, 0, 0, 0, 0, 0, 0, 0],        // log start offset
        &[0, 0xff, 0xff, 0xff, 0xff],     // no list of aborted, no preferred replica
        &[0xc9, 0x01],                    // 200 bytes of records
        &[0, 0, 0],                       // tags: partition, topic, response
    ]
    .concat();
    assert_eq!(out, expected);
    assert_eq!(cuts, [fetch::Cut { at: out.len() - 3, len: 200 }]);
}

/// Every hand-written decoder with a good body and a function that decodes and
/// walks it.
type Walker = fn(&[u8], i16) -> Result<(), WireError>;

fn walkers() -> Vec<(i16, Vec<u8>, Walker)> {
    let produce: Walker = |body, version| {
        let request = ProduceRequest::decode(body, version)?;
        let counted = request.partitions().count();
        assert_eq!(counted, request.partition_count());
        for partition in request.partitions() {
            assert!(partition.records.is_none_or(|range| body.get(range).is_some()));
        }
        Ok(())
    };
    let fetch: Walker = |body, version| {
        let request = FetchRequest::decode(body, version)?;
        assert_eq!(request.partitions().count(), request.partition_count());
        assert!(request.forgotten().count() <= body.len());
        Ok(())
    };
    let api_versions: Walker = |body, version| {
        let request = ApiVersionsRequest::decode(body, version)?;
        assert!(!request.is_valid() || !request.client_software_name.is_empty());
        Ok(())
    };
    let mut all = Vec::new();
    all.extend((3..=13).map(|version| (version, produce_request(version), produce)));
    all.extend((4..=18).map(|version| (version, fetch_request(version), fetch)));
    all.extend((3..=4).map(|version| (version, b"\x05name\x041.0\0".to_vec(), api_versions)));
    all.push((5, b"\x05name\x041.0\x02c\0\0\0\x01\0".to_vec(), api_versions));
    all
}

#[test]
fn every_prefix_is_an_error_and_what_follows_is_passed_over() {
    for (version, body, walk) in walkers() {
        assert_eq!(walk(&body, version), Ok(()));
        for cut in 0..body.len() {
            assert!(walk(&body[..cut], version).is_err(), "version {version} cut at {cut}");
        }
        let longer = [&body[..], &[0]].concat();
        assert_eq!(walk(&longer, version), Ok(()), "version {version}");
    }
}

#[test]
fn mutated_requests_never_panic() {
    let mut rng = Rng::stream(2, "request mutations");
    for (version, body, walk) in walkers() {
        for _ in 0..3000 {
            let mut body = body.clone();
            for _ in 0..rng.between(1, 5) {
                let at = rng.below(body.len() as u64) as usize;
                body[at] = match rng.below(3) {
                    0 => rng.next_u64() as u8,
                    1 => 0xff,
                    _ => body[at] ^ (1 << rng.below(8)),
                };
            }
            let _ = walk(&body, version);
        }
    }
}

#[test]
fn a_request_names_a_bounded_number_of_partitions() {
    let mut body = vec![0xff, 0xff, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b't'];
    let count = REQUEST_PARTITIONS_MAX + 1;
    body.extend_from_slice(&(count as i32).to_be_bytes());
    body.resize(body.len() + count * 8, 0);
    let error = ProduceRequest::decode(&body, 3).expect_err("too many");
    assert_eq!(error, WireError::TooManyPartitions);
}

#[test]
fn tags_of_later_versions_are_refused_and_unknown_ones_are_not() {
    let body = fetch_request(18);
    let replace_tag = |version: i16, tags: &[u8]| {
        let mut body = fetch_request(version);
        // The request's own tags come last; versions 12 to 14 have the cluster id.
        let cluster = b"\x01\x00\x08\x08cluster";
        assert!(body.ends_with(cluster));
        body.truncate(body.len() - cluster.len());
        body.extend_from_slice(tags);
        FetchRequest::decode(&body, version).map(|_| ())
    };
    assert!(FetchRequest::decode(&body, 18).is_ok());
    assert_eq!(replace_tag(14, &[1, 40, 2, 1, 2]), Ok(()));
    assert!(matches!(replace_tag(14, &[1, 1, 2, 1, 2]), Err(WireError::Malformed(_))));
    assert_eq!(replace_tag(14, &[1, 40, 9, 1, 2]), Err(WireError::Truncated));
}

#[test]
fn small_messages_have_frames_and_headers() {
    let mut response = MetadataResponse::default();
    response.controller_id = 1;
    response.cluster_id = Some(StrBytes::from("cluster"));
    for version in 0..=13 {
        let mut response = response.clone();
        let mut out = Vec::new();
        small::encode_response(&mut out, 9, version, &response).expect("representable");
        let read = open::<MetadataResponse>(&out, 9, version, version >= 9);
        if version < 1 {
            response.controller_id = -1;
        }
        if version < 2 {
            response.cluster_id = None;
        }
        assert_eq!(read, response, "version {version}");
    }
}

#[test]
fn what_a_version_cannot_say_is_an_error_and_leaves_no_bytes() {
    let mut response = MetadataResponse::default();
    let mut topic = small::metadata_response::MetadataResponseTopic::default();
    topic.name = None;
    response.topics = vec![topic];
    let mut out = b"before".to_vec();
    assert!(small::encode_response(&mut out, 1, 8, &response).is_err());
    assert_eq!(out, b"before");
}

/// Bytes that a body grows to when it is decoded, 0 if it is refused.
fn growth<M: KafkaMessage>(body: &[u8], version: i16) -> usize {
    small::decode::<M>(body, version).map_or(0, |message| message.retained_size().heap_bytes())
}

#[test]
fn small_messages_grow_within_bounds() {
    let bound = small::GROWTH_MAX * SMALL_FRAME_MAX;
    // The smallest elements of each array, as many as fit a frame or the limit.
    let fill = |head: &[u8], count: usize, element: &[u8], tail: &[u8]| {
        let mut body = head.to_vec();
        body.extend_from_slice(&(count as i32).to_be_bytes());
        for _ in 0..count {
            body.extend_from_slice(element);
        }
        body.extend_from_slice(tail);
        assert!(body.len() <= SMALL_FRAME_MAX);
        body
    };
    let most = small::ARRAY_MAX;
    let names = fill(&[], most, &[0, 0], &[]);
    assert!((1..=bound).contains(&growth::<MetadataRequest>(&names, 0)));
    assert_eq!(growth::<MetadataRequest>(&fill(&[], most + 1, &[0, 0], &[]), 0), 0);
    let deletes = fill(&[], most, &[0, 0], &[0, 0, 0, 0]);
    assert!((1..=bound).contains(&growth::<DeleteTopicsRequest>(&deletes, 1)));
    let offsets = fill(&[0xff; 4], most, &[0, 0, 0, 0, 0, 0], &[]);
    assert!((1..=bound).contains(&growth::<ListOffsetsRequest>(&offsets, 1)));
    let epochs = fill(&[], most, &[0, 0, 0, 0, 0, 0], &[]);
    assert!((1..=bound).contains(&growth::<OffsetForLeaderEpochRequest>(&epochs, 2)));
    // Nested arrays: many topics with as many assignments as the frame holds.
    let mut topic = vec![0, 0, 0, 0, 0, 1, 0, 1];
    topic.extend_from_slice(&1200_i32.to_be_bytes());
    for _ in 0..1200 {
        topic.extend_from_slice(&[0; 8]);
    }
    topic.extend_from_slice(&[0; 4]);
    let creates = fill(&[], 108, &topic, &[0, 0, 0, 0, 0]);
    assert!((1..=bound).contains(&growth::<CreateTopicsRequest>(&creates, 2)));
    // Tagged fields: sixteen of two bytes in every element.
    let mut element = vec![1, 16]; // an empty name, sixteen tags
    (0..16).for_each(|tag| element.extend_from_slice(&[tag, 0]));
    let mut body = vec![0xa0, 0x9c, 0x01]; // 19,999 elements
    for _ in 0..19_999 {
        body.extend_from_slice(&element);
    }
    body.extend_from_slice(&[0, 0, 0, 0]);
    assert!((1..=bound).contains(&growth::<MetadataRequest>(&body, 9)));
}

#[test]
fn mutated_small_messages_never_panic() {
    let mut rng = Rng::stream(3, "small mutations");
    type Decode = fn(&[u8], i16) -> usize;
    let decoders: [(Decode, i16, i16); 5] = [
        (growth::<MetadataRequest>, 0, 13),
        (growth::<ListOffsetsRequest>, 1, 11),
        (growth::<CreateTopicsRequest>, 2, 7),
        (growth::<DeleteTopicsRequest>, 1, 6),
        (growth::<OffsetForLeaderEpochRequest>, 2, 4),
    ];
    for _ in 0..4000 {
        for (decode, low, high) in decoders {
            let len = rng.below(64) as usize;
            let body: Vec<u8> = (0..len)
                .map(|_| if rng.chance(1, 2) { rng.below(4) as u8 } else { rng.next_u64() as u8 })
                .collect();
            let version = rng.between(low as u64, high as u64) as i16;
            assert!(decode(&body, version) <= small::GROWTH_MAX * SMALL_FRAME_MAX);
        }
    }
}
