//! Messages of consumer groups and committed offsets: `kafka-wire`'s types, and
//! what consumers tell each other through the coordinator.

use std::collections::BTreeMap;

use super::WireError;
use super::reader::Reader;

pub use kafka_wire::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, DeleteGroupsRequest, DeleteGroupsResponse,
    DescribeGroupsRequest, DescribeGroupsResponse, HeartbeatRequest, HeartbeatResponse,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest,
    ListGroupsResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest,
    OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest,
    SyncGroupResponse, consumer_group_describe_response, consumer_group_heartbeat_request,
    consumer_group_heartbeat_response, delete_groups_response, describe_groups_response,
    join_group_request, join_group_response, leave_group_request, leave_group_response,
    list_groups_response, offset_commit_request, offset_commit_response, offset_delete_request,
    offset_delete_response, offset_fetch_request, offset_fetch_response, sync_group_request,
};

/// The topics that a consumer subscribes to, from the metadata it joined with
/// (`ConsumerProtocolSubscription.json`, whose versions all begin alike).
///
/// # Errors
/// Bytes that are no subscription.
pub fn subscribed_topics(metadata: &[u8]) -> Result<Vec<&str>, WireError> {
    let mut reader = Reader::new(metadata, false);
    reader.i16()?;
    let count = reader.array_len(2)?;
    (0..count).map(|_| reader.string()).collect()
}

/// What a consumer joins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// Names of the topics that it subscribes to.
    pub topics: Vec<&'a str>,
    /// The partitions that it has, from version 1 on.
    pub owned: Vec<(&'a str, Vec<i32>)>,
    /// `client.rack`, from version 3 on.
    pub rack: Option<&'a str>,
}

/// Reads what a consumer joins with (`ConsumerProtocolSubscription.json`).
///
/// # Errors
/// Bytes that are no subscription.
pub fn decode_subscription(metadata: &[u8]) -> Result<Subscription<'_>, WireError> {
    let mut reader = Reader::new(metadata, false);
    let version = reader.i16()?;
    let count = reader.array_len(2)?;
    let topics = (0..count).map(|_| reader.string()).collect::<Result<Vec<&str>, WireError>>()?;
    let mut subscription = Subscription { topics, ..Subscription::default() };
    reader.nullable_bytes()?;
    if version >= 1 {
        for _ in 0..reader.array_len(6)? {
            let topic = reader.string()?;
            let count = reader.array_len(4)?;
            let partitions = (0..count).map(|_| reader.i32()).collect::<Result<Vec<i32>, _>>()?;
            subscription.owned.push((topic, partitions));
        }
    }
    if version >= 3 {
        reader.i32()?; // The generation that it has them of.
        subscription.rack = reader.nullable_string()?;
    }
    Ok(subscription)
}

/// What a consumer of `topics` joins with, in version 0, which every consumer
/// reads.
///
/// # Panics
/// If a topic's name is longer than 32 KiB.
pub fn encode_subscription(topics: &[&str]) -> Vec<u8> {
    let mut out = vec![0, 0];
    out.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        put_name(&mut out, topic);
    }
    out.extend(NO_USER_DATA);
    out
}

/// Partitions by topic, as a member is assigned them.
pub type Assignment = BTreeMap<String, Vec<i32>>;

/// What a leader assigns to a consumer (`ConsumerProtocolAssignment.json`), in
/// version 0.
///
/// # Panics
/// If a topic's name is longer than 32 KiB.
pub fn encode_assignment(assignment: &Assignment) -> Vec<u8> {
    let mut out = vec![0, 0];
    out.extend((assignment.len() as i32).to_be_bytes());
    for (topic, partitions) in assignment {
        put_name(&mut out, topic);
        out.extend((partitions.len() as i32).to_be_bytes());
        out.extend(partitions.iter().flat_map(|partition| partition.to_be_bytes()));
    }
    out.extend(NO_USER_DATA);
    out
}

/// What a consumer is assigned; all versions begin alike. Nothing at all is an
/// assignment of nothing.
///
/// # Errors
/// Bytes that are no assignment.
pub fn decode_assignment(bytes: &[u8]) -> Result<Assignment, WireError> {
    let mut assignment = Assignment::new();
    if bytes.is_empty() {
        return Ok(assignment);
    }
    let mut reader = Reader::new(bytes, false);
    reader.i16()?;
    for _ in 0..reader.array_len(6)? {
        let topic = reader.string()?.to_owned();
        let count = reader.array_len(4)?;
        let partitions = (0..count).map(|_| reader.i32()).collect::<Result<Vec<i32>, _>>()?;
        assignment.entry(topic).or_default().extend(partitions);
    }
    Ok(assignment)
}

/// Null bytes, which end both.
const NO_USER_DATA: [u8; 4] = (-1_i32).to_be_bytes();

fn put_name(out: &mut Vec<u8>, name: &str) {
    let len = i16::try_from(name.len()).expect("names of topics are short");
    out.extend(len.to_be_bytes());
    out.extend(name.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_consumers_write_they_read() {
        assert_eq!(subscribed_topics(&encode_subscription(&["a", "bc"])), Ok(vec!["a", "bc"]));
        let assignment: Assignment =
            [("t".to_owned(), vec![0, 7]), ("u".to_owned(), vec![])].into();
        let bytes = encode_assignment(&assignment);
        assert_eq!(decode_assignment(&bytes), Ok(assignment));
        for len in 1..bytes.len() - NO_USER_DATA.len() {
            assert!(decode_assignment(&bytes[..len]).is_err(), "{len}");
        }
        assert_eq!(decode_assignment(b""), Ok(Assignment::new()));
        assert!(decode_assignment(b"\0\0\x7f\xff\xff\xff").is_err(), "more than can follow");
        assert!(decode_assignment(b"\0\0\0\0\0\x01\0\x01t\x7f\0\0\0").is_err());
    }

    #[test]
    fn topics_of_a_subscription() {
        let bytes = b"\0\x01\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(subscribed_topics(bytes), Ok(vec!["a", "bc"]));
        let all = decode_subscription(bytes).expect("a subscription");
        assert_eq!((all.topics, all.owned.len(), all.rack), (vec!["a", "bc"], 0, None));
        let bytes3 = b"\0\x03\0\0\0\x01\0\x01a\xff\xff\xff\xff\0\0\0\x01\0\x01a\0\0\0\x01\0\0\0\x07\0\0\0\x02\0\x01r";
        let all = decode_subscription(bytes3).expect("a subscription");
        assert_eq!((all.owned, all.rack), (vec![("a", vec![7])], Some("r")));
        for len in 0..bytes3.len() {
            assert!(decode_subscription(&bytes3[..len]).is_err(), "{len}");
        }
        for len in 0..11 {
            assert!(subscribed_topics(&bytes[..len]).is_err(), "{len}");
        }
        assert!(subscribed_topics(b"\0\0\x7f\xff\xff\xff").is_err(), "more than can follow");
    }
}
