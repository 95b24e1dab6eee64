//! Bytes that are no requests: their connection closes or gets Kafka's error,
//! and nothing else notices.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use corelane::base::rng::Rng;
use corelane::model::record::{BatchBuilder, Codec};
use corelane::wire::APIS;
use corelane::wire::apis::{Api, ApiKey};
use corelane::wire::client::{ApiVersionsRequest, FetchRequest, ProduceRequest, encode_request};
use corelane::wire::groups;
use corelane::wire::small::{
    AlterConfigsRequest, Bytes, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeClientQuotasRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeLogDirsRequest, DescribeTopicPartitionsRequest,
    DescribeUserScramCredentialsRequest, FindCoordinatorRequest, IncrementalAlterConfigsRequest,
    InitProducerIdRequest, KafkaRequest, ListConfigResourcesRequest, ListOffsetsRequest,
    ListPartitionReassignmentsRequest, MetadataRequest, OffsetForLeaderEpochRequest,
};

use crate::harness::wire::{Batch, Wire, produce_request};
use crate::harness::{Broker, PATIENCE, Start, temp_dir};
use crate::number;

/// What the broker of these tests may use, and what its code, stacks and queues
/// may take beside it.
const MEMORY: (&str, u64) = ("corelane.memory=128m", (128 + 96) << 20);

/// A broker with little memory and one topic, and a client that is to notice
/// nothing.
fn broker_and_bystander(dir: &std::path::Path) -> (Broker, Wire) {
    let broker = Start::on(dir).set(MEMORY.0).broker();
    let mut bystander = Wire::connect(broker.address()).expect("it listens");
    assert_eq!(bystander.create_topic("t", 2, &[]).expect("answered"), 0);
    (broker, bystander)
}

/// The other client goes on, the broker is within its memory and stops in order.
fn expect_unhurt(broker: Broker, mut bystander: Wire) {
    let mut batch = BatchBuilder::new(Codec::None);
    batch.push(1, None, Some(b"all is well"), &[]);
    let bytes = Bytes::from(batch.finish());
    for partition in 0..2 {
        let batch = Batch { topic: "t", partition, bytes: bytes.clone() };
        let (code, offset) = bystander.produce(-1, batch).expect("answered");
        assert_eq!(code, 0);
        let records = bystander.fetch("t", partition, offset, 0).expect("served");
        assert_eq!(records[0].value.as_deref(), Some(&b"all is well"[..]));
    }
    let peak = broker.peak_memory();
    assert!(peak < MEMORY.1, "{} MiB at the most", peak >> 20);
    let ended = broker.stop();
    assert!(!ended.stderr.contains("panic"), "{ended:?}");
}

/// Everything the broker says until it closes the connection; `None` if it does
/// not for so long.
fn until_closed(stream: &mut TcpStream, patience: Duration) -> Option<Vec<u8>> {
    stream.set_read_timeout(Some(patience)).expect("a sound time");
    let mut said = vec![];
    match stream.read_to_end(&mut said) {
        // A close with bytes unread arrives as a reset.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(said),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(error) => panic!("{error}"),
        Ok(_) => Some(said),
    }
}

/// A request header with a body, as a frame.
fn frame(key: i16, version: i16, flexible: bool, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(key.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend(7_i32.to_be_bytes());
    bytes.extend(b"\0\x01h");
    if flexible {
        bytes.push(0);
    }
    bytes.extend(body);
    let len = bytes.len() as i32 - 4;
    bytes[..4].copy_from_slice(&len.to_be_bytes());
    bytes
}

#[test]
fn what_is_no_frame_closes_its_connection() {
    let dir = temp_dir();
    let (broker, mut bystander) = broker_and_bystander(dir.path());
    let announced = |len: i32, rest: &[u8]| [&len.to_be_bytes()[..], rest].concat();
    let metadata = ApiKey::Metadata.code();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a negative length", announced(-1, &[0; 100])),
        ("the most negative length", announced(i32::MIN, &[0; 100])),
        ("no length", announced(0, &[0; 100])),
        ("shorter than a header", announced(9, &[0; 100])),
        ("longer than socket.request.max.bytes", announced(104_857_601, &[0; 100])),
        ("the longest length", announced(i32::MAX, &[0; 100])),
        ("longer than its API may be", announced(2 << 20, &frame(metadata, 9, true, &[])[4..])),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: kafka\r\n\r\n".to_vec()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("an API that Kafka does not have", frame(12_345, 0, false, &[])),
        ("a negative API", frame(-1, 0, false, &[])),
        ("an API that only brokers of old use", frame(4, 0, false, &[0; 30])),
        ("a version that is not there", frame(metadata, 99, true, &[1, 0])),
        ("a negative version", frame(metadata, -1, false, &[0; 4])),
        ("Produce 0, advertised for old librdkafka", frame(0, 0, false, &[0; 20])),
        ("Produce 2", frame(0, 2, false, &[0; 20])),
        ("a client id beyond the frame", announced(12, b"\0\x03\0\x01\0\0\0\x07\x7f\xffab")),
        ("a client id of negative length", announced(12, b"\0\x03\0\x01\0\0\0\x07\xff\xf0ab")),
        ("more tags than bytes", announced(14, b"\0\x03\0\x09\0\0\0\x07\xff\xff\xff\xff\xff\x0f")),
        ("more topics than bytes", frame(metadata, 1, false, &[0x7f, 0xff, 0xff, 0xff])),
        ("fewer topics than none", frame(metadata, 1, false, &[0x80, 0, 0, 0])),
        ("a length without end", frame(metadata, 9, true, &[0xff; 40])),
    ];
    for (what, bytes) in cases {
        let mut stream = TcpStream::connect(broker.address()).expect("it listens");
        stream.write_all(&bytes).expect("there is room for so little");
        let said = until_closed(&mut stream, PATIENCE);
        assert_eq!(said, Some(vec![]), "{what}");
        assert_eq!(bystander.topic_error("t").expect("undisturbed"), 0, "{what}");
    }
    expect_unhurt(broker, bystander);
}

#[test]
fn api_versions_is_answered_in_any_version() {
    let dir = temp_dir();
    let (broker, bystander) = broker_and_bystander(dir.path());
    for version in [6, 99, i16::MAX, -1] {
        let mut wire = Wire::connect(broker.address()).expect("it listens");
        let bytes = frame(ApiKey::ApiVersions.code(), version, version > 2, &[]);
        wire.stream.write_all(&bytes).expect("sent");
        // Version 0: the correlation id, UNSUPPORTED_VERSION, and what is there.
        let answer = wire.receive().expect("answered");
        assert_eq!(answer[..6], [0, 0, 0, 7, 0, 35], "version {version}");
        assert_eq!(answer[6..], [0, 0, 0, 1, 0, 18, 0, 0, 0, 5], "version {version}");
        assert_eq!(wire.topic_error("t").expect("the connection goes on"), 0);
    }
    expect_unhurt(broker, bystander);
}

#[test]
fn announced_sizes_cost_nothing() {
    let dir = temp_dir();
    let (broker, mut bystander) = broker_and_bystander(dir.path());
    // The largest Produce there may be, and the beginning of it.
    let mut start = frame(ApiKey::Produce.code(), 9, true, &vec![0; 64 << 10]);
    start[..4].copy_from_slice(&104_857_600_i32.to_be_bytes());
    let streams: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(broker.address()).expect("it listens");
            stream.write_all(&start).expect("sent");
            stream
        })
        .collect();
    for _ in 0..100 {
        assert_eq!(bystander.topic_error("t").expect("undisturbed"), 0);
    }
    drop(streams);
    expect_unhurt(broker, bystander);
}

#[test]
fn frames_that_end_too_soon() {
    let dir = temp_dir();
    let (broker, bystander) = broker_and_bystander(dir.path());
    let whole = valid(ApiKey::Metadata.api(), 9);
    for len in 0..whole.len() {
        let mut stream = TcpStream::connect(broker.address()).expect("it listens");
        stream.write_all(&whole[..len]).expect("sent");
        stream.shutdown(Shutdown::Write).expect("connected");
        assert_eq!(until_closed(&mut stream, PATIENCE), Some(vec![]), "{len} bytes");
    }
    // In as many pieces as there are bytes it is a request as any other.
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    for byte in &whole {
        wire.stream.write_all(&[*byte]).expect("sent");
    }
    wire.receive().expect("answered");
    expect_unhurt(broker, bystander);
}

#[test]
fn random_bytes() {
    let seed = number("CORELANE_TEST_SEED", 1);
    let mut rng = Rng::stream(seed, "random bytes");
    let dir = temp_dir();
    let (broker, mut bystander) = broker_and_bystander(dir.path());
    for round in 0..500 {
        let len = 1 << rng.below(17);
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
        if rng.chance(1, 2) && len > 8 {
            // A length and an API that make sense, so that more is looked at.
            bytes[..4].copy_from_slice(&(len - 4_i32).to_be_bytes());
            let api = APIS[rng.below(APIS.len() as u64) as usize];
            bytes[4..6].copy_from_slice(&api.key.code().to_be_bytes());
            let version = rng.below(api.max as u64 + 1) as i16;
            bytes[6..8].copy_from_slice(&version.to_be_bytes());
        }
        let mut stream = TcpStream::connect(broker.address()).expect("it listens");
        // It may be closed before it has all.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let said = until_closed(&mut stream, PATIENCE);
        assert!(said.is_some(), "seed {seed}, round {round}");
        if round % 50 == 0 {
            assert_eq!(bystander.topic_error("t").expect("undisturbed"), 0);
        }
    }
    expect_unhurt(broker, bystander);
}

#[test]
fn garbage_in_every_body() {
    let seed = number("CORELANE_TEST_SEED", 1);
    let mut rng = Rng::stream(seed, "garbage");
    let dir = temp_dir();
    // Broken requests may still ask for topics.
    let (broker, mut bystander) = broker_and_bystander(dir.path());
    for api in APIS {
        for version in api.served_min..=api.max {
            for round in 0..12 {
                let mut bytes = valid(api, version);
                damage(&mut bytes, round, &mut rng);
                let what = format!("seed {seed}: {} {version}, round {round}", api.name);
                let mut stream = TcpStream::connect(broker.address()).expect("it listens");
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(Shutdown::Write);
                // A fetch may have come to ask for patience.
                let patience = match api.key {
                    ApiKey::Fetch => Duration::from_millis(20),
                    _ => PATIENCE,
                };
                match until_closed(&mut stream, patience) {
                    None => {
                        assert_eq!(api.key, ApiKey::Fetch, "{what}: neither closed nor answered")
                    }
                    Some(said) => expect_answers(&said, &what),
                }
            }
            assert_eq!(bystander.topic_error("t").expect("undisturbed"), 0);
        }
    }
    expect_unhurt(broker, bystander);
}

/// Whole frames only; that of an answer is at least its correlation id.
fn expect_answers(mut said: &[u8], what: &str) {
    while let Some((prefix, rest)) = said.split_first_chunk::<4>() {
        let len = i32::from_be_bytes(*prefix) as usize;
        assert!(len >= 4 && rest.len() >= len, "{what}: {} of {len} bytes", rest.len());
        said = &rest[len..];
    }
    assert!(said.is_empty(), "{what}: a cut frame");
}

/// Changes a frame, but not its API and version; its length stays right.
fn damage(bytes: &mut Vec<u8>, round: u64, rng: &mut Rng) {
    const BODY: usize = 15;
    match round % 4 {
        // A few bytes changed.
        0 | 1 => {
            for _ in 0..rng.between(1, 4) {
                let at = rng.between(BODY as u64 - 3, bytes.len() as u64 - 1) as usize;
                let extremes = [0, 1, 0x7f, 0x80, 0xff, rng.next_u64() as u8];
                bytes[at] = extremes[rng.below(6) as usize];
            }
        }
        // The end missing.
        2 => bytes.truncate(rng.between(BODY as u64, bytes.len() as u64) as usize),
        // Nothing but garbage, and more of it.
        _ => {
            bytes.truncate(BODY);
            let len = rng.below(2_000);
            bytes.extend((0..len).map(|_| rng.next_u64() as u8));
        }
    }
    let len = bytes.len() as i32 - 4;
    bytes[..4].copy_from_slice(&len.to_be_bytes());
}

/// A request of an API as a client sends it.
fn valid(api: &Api, version: i16) -> Vec<u8> {
    fn encode<R: KafkaRequest>(request: &R, version: i16) -> Vec<u8> {
        encode_request(request, version, 7, "h").expect("representable").to_vec()
    }
    match api.key {
        ApiKey::Produce => {
            let mut batch = BatchBuilder::new(Codec::None);
            batch.push(1, Some(b"key"), Some(b"value"), &[("h", None)]);
            let bytes = Bytes::from(batch.finish());
            let mut request: ProduceRequest =
                produce_request(1, &[Batch { topic: "t", partition: 0, bytes }]);
            if version >= 13 {
                request.topic_data[0].name = Default::default();
            }
            encode(&request, version)
        }
        ApiKey::Fetch => encode(&FetchRequest::default(), version),
        ApiKey::ListOffsets => encode(&ListOffsetsRequest::default(), version),
        ApiKey::Metadata => encode(&MetadataRequest::default(), version),
        ApiKey::FindCoordinator => encode(&FindCoordinatorRequest::default(), version),
        ApiKey::ApiVersions => encode(&ApiVersionsRequest::default(), version),
        ApiKey::CreateTopics => encode(&CreateTopicsRequest::default(), version),
        ApiKey::DeleteTopics => encode(&DeleteTopicsRequest::default(), version),
        ApiKey::DeleteRecords => encode(&DeleteRecordsRequest::default(), version),
        ApiKey::DescribeLogDirs => encode(&DescribeLogDirsRequest::default(), version),
        ApiKey::InitProducerId => encode(&InitProducerIdRequest::default(), version),
        ApiKey::OffsetCommit => encode(&groups::OffsetCommitRequest::default(), version),
        ApiKey::OffsetFetch => encode(&groups::OffsetFetchRequest::default(), version),
        ApiKey::JoinGroup => encode(&groups::JoinGroupRequest::default(), version),
        ApiKey::Heartbeat => encode(&groups::HeartbeatRequest::default(), version),
        ApiKey::LeaveGroup => encode(&groups::LeaveGroupRequest::default(), version),
        ApiKey::SyncGroup => encode(&groups::SyncGroupRequest::default(), version),
        ApiKey::DescribeGroups => encode(&groups::DescribeGroupsRequest::default(), version),
        ApiKey::ListGroups => encode(&groups::ListGroupsRequest::default(), version),
        ApiKey::DeleteGroups => encode(&groups::DeleteGroupsRequest::default(), version),
        ApiKey::OffsetDelete => encode(&groups::OffsetDeleteRequest::default(), version),
        ApiKey::OffsetForLeaderEpoch => encode(&OffsetForLeaderEpochRequest::default(), version),
        ApiKey::DescribeConfigs => encode(&DescribeConfigsRequest::default(), version),
        ApiKey::AlterConfigs => encode(&AlterConfigsRequest::default(), version),
        ApiKey::CreatePartitions => encode(&CreatePartitionsRequest::default(), version),
        ApiKey::IncrementalAlterConfigs => {
            encode(&IncrementalAlterConfigsRequest::default(), version)
        }
        ApiKey::ListPartitionReassignments => {
            encode(&ListPartitionReassignmentsRequest::default(), version)
        }
        ApiKey::DescribeClientQuotas => encode(&DescribeClientQuotasRequest::default(), version),
        ApiKey::DescribeUserScramCredentials => {
            encode(&DescribeUserScramCredentialsRequest::default(), version)
        }
        ApiKey::DescribeCluster => encode(&DescribeClusterRequest::default(), version),
        ApiKey::ConsumerGroupHeartbeat => {
            encode(&groups::ConsumerGroupHeartbeatRequest::default(), version)
        }
        ApiKey::ConsumerGroupDescribe => {
            encode(&groups::ConsumerGroupDescribeRequest::default(), version)
        }
        ApiKey::ListConfigResources => encode(&ListConfigResourcesRequest::default(), version),
        ApiKey::DescribeTopicPartitions => {
            encode(&DescribeTopicPartitionsRequest::default(), version)
        }
    }
}
