//! Messages of consumer groups and committed offsets: `kafka-wire`'s types, and
//! the one thing that is read of what consumers tell each other.

use super::WireError;
use super::reader::Reader;

pub use kafka_wire::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse, delete_groups_response,
    describe_groups_response, join_group_request, join_group_response, leave_group_request,
    leave_group_response, list_groups_response, offset_commit_request, offset_commit_response,
    offset_delete_request, offset_delete_response, offset_fetch_request, offset_fetch_response,
    sync_group_request,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_a_subscription() {
        let bytes = b"\0\x01\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(subscribed_topics(bytes), Ok(vec!["a", "bc"]));
        for len in 0..11 {
            assert!(subscribed_topics(&bytes[..len]).is_err(), "{len}");
        }
        assert!(subscribed_topics(b"\0\0\x7f\xff\xff\xff").is_err(), "more than can follow");
    }
}
