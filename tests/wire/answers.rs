//! What the broker answers.

use corelane::model::error_code::ErrorCode;
use corelane::model::ids::{LeaderEpoch, NodeId, PartitionIndex, TopicId};
use corelane::wire::TopicKey;
use corelane::wire::api_versions::{encode_error, encode_unsupported_version};
use corelane::wire::fetch::{
    AbortedTransaction, FetchResponseEncoder, NodeEndpoint, PartitionHead, ResponseHead,
};
use corelane::wire::produce::{PartitionOutcome, ProduceResponseEncoder};

use crate::hex;

#[test]
fn api_versions() {
    let mut out = vec![];
    encode_unsupported_version(&mut out, 7);
    // Length, correlation id; UNSUPPORTED_VERSION; one row: 18, 0 to 5. Version 0.
    assert_eq!(out, hex("00000010 00000007 0023 00000001 0012 0000 0005"));
    out.clear();
    // No tags in the header, whatever the version; no rows; throttle time; tags.
    encode_error(&mut out, 5, 7, ErrorCode::RebootstrapRequired);
    assert_eq!(out, hex("0000000c 00000007 0081 01 00000000 00"));
    out.clear();
    encode_error(&mut out, 2, 7, ErrorCode::InvalidRequest);
    assert_eq!(out, hex("0000000e 00000007 002a 00000000 00000000"));
}

fn produced(version: i16, topic: TopicKey<'_>, rows: &[PartitionOutcome<'_>]) -> Vec<u8> {
    let mut out = vec![];
    let mut encoder = ProduceResponseEncoder::begin(&mut out, version, 7, 1);
    encoder.topic(topic, rows.len());
    rows.iter().for_each(|row| encoder.partition(row));
    let node = NodeEndpoint { id: NodeId(2), host: "h", port: 9092 };
    let nodes = if rows.iter().any(|row| row.current_leader.is_some()) { &[node][..] } else { &[] };
    encoder.end(0, nodes);
    out
}

#[test]
fn produce() {
    let good = PartitionOutcome {
        partition: PartitionIndex(1),
        error: ErrorCode::None,
        base_offset: 5,
        log_append_time_ms: -1,
        log_start_offset: 2,
        error_message: None,
        record_errors: &[],
        current_leader: None,
    };
    let name = TopicKey::Name("t");
    // The length; correlation id; a topic "t"; a partition: index, error, offset,
    // time; throttle time.
    assert_eq!(
        produced(3, name, &[good]),
        hex("00000029 00000007 00000001 0001 74 00000001 \
             00000001 0000 0000000000000005 ffffffffffffffff 00000000")
    );
    // Version 5: and the log's start.
    assert_eq!(
        produced(5, name, &[good])[4..],
        hex("00000007 00000001 0001 74 00000001 \
             00000001 0000 0000000000000005 ffffffffffffffff 0000000000000002 00000000")
    );
    // Version 8: and no errors of records, and no message.
    assert_eq!(
        produced(8, name, &[good])[4..],
        hex("00000007 00000001 0001 74 00000001 \
             00000001 0000 0000000000000005 ffffffffffffffff 0000000000000002 \
             00000000 ffff 00000000")
    );
    // Version 9: flexible.
    assert_eq!(
        produced(9, name, &[good])[4..],
        hex("00000007 00 02 02 74 02 \
             00000001 0000 0000000000000005 ffffffffffffffff 0000000000000002 01 00 00 \
             00 00000000 00")
    );
    // Version 13: by id; whom to turn to, and where that is.
    let error = ErrorCode::NotLeaderOrFollower;
    let mut moved = PartitionOutcome::refused(PartitionIndex(1), error, None);
    moved.current_leader = Some((NodeId(2), LeaderEpoch(3)));
    assert_eq!(
        produced(13, TopicKey::Id(TopicId([0xab; 16])), &[moved])[4..],
        hex("00000007 00 02 abababababababababababababababab 02 \
             00000001 0006 ffffffffffffffff ffffffffffffffff ffffffffffffffff 01 00 \
             01 00 09 00000002 00000003 00 \
             00 00000000 01 00 0d 02 00000002 02 68 00002384 00 00")
    );
}

fn fetched(version: i16, session_id: i32, topic: TopicKey<'_>, row: &PartitionHead<'_>) -> Vec<u8> {
    let (mut out, mut cuts) = (vec![], vec![]);
    let head = ResponseHead {
        version,
        correlation_id: 7,
        throttle_time_ms: 0,
        error: ErrorCode::None,
        session_id,
        topics: 1,
    };
    let mut encoder = FetchResponseEncoder::begin(&mut out, &mut cuts, &head);
    encoder.topic(topic, 1);
    encoder.partition(row, 300);
    encoder.finish(&[]);
    // The length counts the records, which go where the cut is.
    let len = i32::from_be_bytes(*out.first_chunk().expect("a length"));
    assert_eq!(len as usize, out.len() - 4 + 300);
    assert_eq!((cuts.len(), cuts[0].len), (1, 300));
    let marks: Vec<u8> = [&out[4..cuts[0].at], b"....", &out[cuts[0].at..]].concat();
    marks
}

#[test]
fn fetch() {
    let aborted = [AbortedTransaction { producer_id: 8, first_offset: 4 }];
    let mut row = PartitionHead {
        partition: PartitionIndex(1),
        error: ErrorCode::None,
        high_watermark: 5,
        last_stable_offset: 4,
        log_start_offset: 2,
        aborted: Some(&aborted),
        diverging_epoch: None,
        current_leader: None,
    };
    let name = TopicKey::Name("t");
    let records = "2e2e2e2e";
    // Version 4: throttle time; topic; partition: error, ends, aborted, records.
    assert_eq!(
        fetched(4, 9, name, &row),
        hex(&format!(
            "00000007 00000000 00000001 0001 74 00000001 00000001 0000 0000000000000005 \
             0000000000000004 00000001 0000000000000008 0000000000000004 0000012c {records}"
        ))
    );
    // Version 11: error and session of the whole; log start; preferred replica.
    row.aborted = None;
    assert_eq!(
        fetched(11, 9, name, &row),
        hex(&format!(
            "00000007 00000000 0000 00000009 00000001 0001 74 00000001 00000001 0000 \
             0000000000000005 0000000000000004 0000000000000002 ffffffff ffffffff \
             0000012c {records}"
        ))
    );
    // Version 12: flexible; 300 bytes of records are 301 as a varint.
    assert_eq!(
        fetched(12, 9, name, &row),
        hex(&format!(
            "00000007 00 00000000 0000 00000009 02 02 74 02 00000001 0000 \
             0000000000000005 0000000000000004 0000000000000002 00 ffffffff \
             ad02 {records} 00 00 00"
        ))
    );
    // Version 16: by id, and where the client's log parts from the leader's.
    row.diverging_epoch = Some((LeaderEpoch(3), 6));
    assert_eq!(
        fetched(16, 0, TopicKey::Id(TopicId([0xab; 16])), &row),
        hex(&format!(
            "00000007 00 00000000 0000 00000000 02 abababababababababababababababab 02 \
             00000001 0000 0000000000000005 0000000000000004 0000000000000002 00 ffffffff \
             ad02 {records} 01 00 0d 00000003 0000000000000006 00 00 00"
        ))
    );
}
