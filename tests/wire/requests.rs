//! What clients ask.

use corelane::model::batch::validate;
use corelane::model::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicId};
use corelane::model::record::decode_records;
use corelane::wire::TopicKey;
use corelane::wire::api_versions::ApiVersionsRequest;
use corelane::wire::apis::ApiKey;
use corelane::wire::fetch::{FetchRequest, IsolationLevel};
use corelane::wire::frame::{RequestHeader, frame_len};
use corelane::wire::produce::ProduceRequest;
use corelane::wire::small::{self, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest};

use crate::hex;

const KCAT_API_VERSIONS_3: &str =
    "000000240012000300000001000772646b61666b61000b6c696272646b61666b6106322e302e3200";
const LIBRDKAFKA_API_VERSIONS_3: &str = "0000003f00120003000000010006676f6c64656e0017636f6e666c75656e742d6b61666b612d7079 \
     74686f6e16322e31362e312d72646b61666b612d322e31362e3000";
const PYTHON_API_VERSIONS_4: &str = "0000002600120004000000010006676f6c64656e000d6b61666b612d707974686f6e07332e302e31 \
     3200";
const KCAT_METADATA_4: &str =
    "0000001e0003000400000002000772646b61666b61000000010006676f6c64656e01";
const LIBRDKAFKA_METADATA_13: &str = "0000002d0003000d000000020006676f6c64656e0002000000000000000000000000000000000767 \
     6f6c64656e00010000";
const PYTHON_METADATA_13: &str = "000000150003000d000000020006676f6c64656e0001010000";
const KCAT_PRODUCE_7: &str = "0000007a0000000700000003000772646b61666b61ffffffff00007530000000010006676f6c6465 \
     6e00000001000000000000004900000000000000000000003d0000000002aaaecde4000000000000 \
     000001a1fec4dbb6000001a1fec4dbb6ffffffffffffffffffffffffffff0000000116000000046b \
     31066f6e6500";
const LIBRDKAFKA_PRODUCE_10: &str = "000000760000000a000000030006676f6c64656e0000ffff000075300207676f6c64656e02000000 \
     004e0000000000000000000000410000000002fa2ce8be0000000000000000018bcfe56800000001 \
     8bcfe568000000000000000000000000000000000000011e000000046b320674776f020268027600 \
     0000";
const PYTHON_PRODUCE_9: &str = "0000007400000009000000040006676f6c64656e0000ffff000075300207676f6c64656e02000000 \
     004c00000000000000000000003f0000000002f2922dd20000000000000000018bcfe56800000001 \
     8bcfe568000000000000000001000000000000000000011a000000046b330a746872656500000000";
const KCAT_FETCH_11: &str = "0000005c0001000b00000005000772646b61666b61ffffffff000001f40000000103200000010000 \
     0000ffffffff000000010006676f6c64656e0000000100000000ffffffff0000000000000000ffff \
     ffffffffffff00100000000000000000";
const LIBRDKAFKA_FETCH_16: &str = "0000005d00010010000000030006676f6c64656e00000001f400000001032000000100000000ffff \
     ffff02d52134b18151419a8181698beffb2f8f0200000000000000000000000000000000ffffffff \
     ffffffffffffffff001000000000010100";
const PYTHON_FETCH_12: &str = "000000580001000c000000040006676f6c64656e00ffffffff000001f40000000103200000000000 \
     0000000000000207676f6c64656e0200000000000000000000000000000000ffffffffffffffffff \
     ffffff001000000000010100";
const KCAT_LIST_OFFSETS_2: &str = "000000320002000200000004000772646b61666b61ffffffff01000000010006676f6c64656e0000 \
     000100000000fffffffffffffffe";
const LIBRDKAFKA_LIST_OFFSETS_7: &str = "0000003200020007000000040006676f6c64656e00ffffffff010207676f6c64656e0200000000ff \
     fffffffffffffffffffffe000000";
const PYTHON_LIST_OFFSETS_11: &str = "000000360002000b000000030006676f6c64656e00ffffffff000207676f6c64656e0200000000ff \
     fffffffffffffffffffffe00000000000000";
const LIBRDKAFKA_INIT_PRODUCER_ID_4: &str =
    "0000002100160004000000020006676f6c64656e0000ffffffffffffffffffffffffffff00";
const PYTHON_INIT_PRODUCER_ID_4: &str =
    "0000002100160004000000020006676f6c64656e000000000000ffffffffffffffffffff00";

/// A frame's body, once its length and its header are what they should be.
fn body(frame: &str, api: ApiKey, version: i16, client: &str) -> Vec<u8> {
    let bytes = hex(frame);
    assert_eq!(frame_len(&bytes, 100 << 20), Ok(Some(bytes.len() - 4)), "{frame}");
    let (header, at) = RequestHeader::decode(&bytes[4..]).expect("a header");
    assert_eq!((header.api_key, header.api_version), (api.code(), version));
    assert_eq!(header.client_id, Some(client));
    bytes[4 + at..].to_vec()
}

#[test]
fn api_versions() {
    let table = [
        (KCAT_API_VERSIONS_3, 3, "rdkafka", "librdkafka", "2.0.2"),
        (LIBRDKAFKA_API_VERSIONS_3, 3, "golden", "confluent-kafka-python", "2.16.1-rdkafka-2.16.0"),
        (PYTHON_API_VERSIONS_4, 4, "golden", "kafka-python", "3.0.12"),
    ];
    for (frame, version, client, name, software) in table {
        let body = body(frame, ApiKey::ApiVersions, version, client);
        let request = ApiVersionsRequest::decode(&body, version).expect("a request");
        assert_eq!(
            (request.client_software_name, request.client_software_version),
            (name, software)
        );
        assert!(request.is_valid() && request.means("any", NodeId(1)));
    }
}

#[test]
fn metadata() {
    let table = [
        (KCAT_METADATA_4, 4, "rdkafka", Some("golden")),
        (LIBRDKAFKA_METADATA_13, 13, "golden", Some("golden")),
        (PYTHON_METADATA_13, 13, "golden", None),
    ];
    for (frame, version, client, topic) in table {
        let body = body(frame, ApiKey::Metadata, version, client);
        let request: MetadataRequest = small::decode(&body, version).expect("a request");
        let topics = request.topics.unwrap_or_default();
        let names: Vec<_> = topics.iter().filter_map(|topic| topic.name.as_deref()).collect();
        assert_eq!(names, Vec::from_iter(topic), "{frame}");
    }
}

#[test]
fn produce() {
    let table = [
        (KCAT_PRODUCE_7, 7, "rdkafka", -1, ("k1", "one"), (-1, -1)),
        (LIBRDKAFKA_PRODUCE_10, 10, "golden", -1, ("k2", "two"), (0, 0)),
        (PYTHON_PRODUCE_9, 9, "golden", -1, ("k3", "three"), (1, 0)),
    ];
    for (frame, version, client, acks, (key, value), (producer, sequence)) in table {
        let body = body(frame, ApiKey::Produce, version, client);
        let request = ProduceRequest::decode(&body, version).expect("a request");
        assert_eq!(
            (request.transactional_id, request.acks, request.timeout_ms),
            (None, acks, 30_000)
        );
        assert_eq!((request.topic_count(), request.partition_count()), (1, 1));
        let partition = request.partitions().next().expect("one");
        assert_eq!(partition.topic, TopicKey::Name("golden"));
        assert_eq!(partition.partition, PartitionIndex(0));
        let batch = &body[partition.records.expect("records")];
        let header = validate(batch, 1 << 20).expect("a batch that is accepted");
        assert_eq!((header.record_count, header.last_offset_delta, header.codec()), (1, 0, 0));
        assert_eq!((header.producer_id, header.base_sequence), (producer, sequence));
        let records = decode_records(batch, 1 << 20).expect("records");
        assert_eq!(records[0].key.as_deref(), Some(key.as_bytes()));
        assert_eq!(records[0].value.as_deref(), Some(value.as_bytes()));
    }
}

#[test]
fn fetch() {
    let id: [u8; 16] = hex("d52134b18151419a8181698beffb2f8f").try_into().expect("16 bytes");
    let by_name = TopicKey::Name("golden");
    let table = [
        (KCAT_FETCH_11, 11, "rdkafka", (0, -1), by_name, 1 << 20),
        (LIBRDKAFKA_FETCH_16, 16, "golden", (0, -1), TopicKey::Id(TopicId(id)), 1 << 20),
        // kafka-python opens a session.
        (PYTHON_FETCH_12, 12, "golden", (0, 0), by_name, 1 << 20),
    ];
    for (frame, version, client, session, topic, max) in table {
        let body = body(frame, ApiKey::Fetch, version, client);
        let request = FetchRequest::decode(&body, version).expect("a request");
        assert_eq!((request.replica_id, request.replica_epoch), (NodeId(-1), -1));
        assert_eq!((request.max_wait_ms, request.min_bytes, request.max_bytes), (500, 1, 50 << 20));
        assert_eq!((request.session_id, request.session_epoch), session, "{client} {version}");
        let committed = if client == "rdkafka" || version == 16 {
            IsolationLevel::ReadCommitted
        } else {
            IsolationLevel::ReadUncommitted
        };
        assert_eq!((request.isolation_level, request.rack_id), (committed, ""));
        assert_eq!((request.topic_count(), request.forgotten().count()), (1, 0));
        let partition = request.partitions().next().expect("one");
        assert_eq!((partition.topic, partition.partition), (topic, PartitionIndex(0)));
        assert_eq!((partition.fetch_offset, partition.log_start_offset), (0, -1));
        assert_eq!(partition.partition_max_bytes, max);
        assert!([LeaderEpoch(-1), LeaderEpoch(0)].contains(&partition.current_leader_epoch));
    }
}

#[test]
fn list_offsets() {
    let table = [
        (KCAT_LIST_OFFSETS_2, 2, "rdkafka"),
        (LIBRDKAFKA_LIST_OFFSETS_7, 7, "golden"),
        (PYTHON_LIST_OFFSETS_11, 11, "golden"),
    ];
    for (frame, version, client) in table {
        let body = body(frame, ApiKey::ListOffsets, version, client);
        let request: ListOffsetsRequest = small::decode(&body, version).expect("a request");
        assert_eq!((request.replica_id, request.topics.len()), (-1, 1), "{client} {version}");
        assert_eq!(&*request.topics[0].name, "golden");
        let partition = &request.topics[0].partitions[0];
        assert_eq!((partition.partition_index, partition.timestamp), (0, -2));
    }
}

#[test]
fn init_producer_id() {
    // Both ask for an id without a transaction.
    for frame in [LIBRDKAFKA_INIT_PRODUCER_ID_4, PYTHON_INIT_PRODUCER_ID_4] {
        let body = body(frame, ApiKey::InitProducerId, 4, "golden");
        let request: InitProducerIdRequest = small::decode(&body, 4).expect("a request");
        assert_eq!((request.transactional_id, request.producer_id), (None, -1));
    }
}
