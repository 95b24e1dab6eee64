//! Groups of the consumer protocol through whole shards: ConsumerGroupHeartbeat
//! and ConsumerGroupDescribe at every version.

use kafka_wire::FindCoordinatorRequest;

use super::broker::{Broker, ClientId};
use super::every_version::versions;
use crate::model::error_code::ErrorCode as E;
use crate::model::ids::TopicId;
use crate::wire::apis::ApiKey;
use crate::wire::groups::{
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
    DescribeGroupsRequest, ListGroupsRequest,
};
use crate::wire::small::{self, StrBytes};

fn broker() -> (Broker, ClientId, TopicId) {
    let mut broker = Broker::new(2, &[("offsets.topic.num.partitions", "4")]);
    let id = broker.create_topic("t", &[]);
    let client = broker.connect(0);
    let mut request = FindCoordinatorRequest::default();
    request.key = StrBytes::from("g");
    assert_eq!(broker.call(client, &request, 3).error_code, 0);
    (broker, client, id)
}

fn join(group: &str, member: &str) -> ConsumerGroupHeartbeatRequest {
    let mut request = ConsumerGroupHeartbeatRequest::default();
    request.group_id = StrBytes::from(group);
    request.member_id = StrBytes::from(member);
    request.rebalance_timeout_ms = 10_000;
    request.subscribed_topic_names = Some(vec![StrBytes::from("t")]);
    request.topic_partitions = Some(vec![]);
    request
}

/// A heartbeat with nothing new.
fn beat(group: &str, answer: &ConsumerGroupHeartbeatResponse) -> ConsumerGroupHeartbeatRequest {
    let mut request = ConsumerGroupHeartbeatRequest::default();
    request.group_id = StrBytes::from(group);
    request.member_id = answer.member_id.clone().expect("an id");
    request.member_epoch = answer.member_epoch;
    request.rebalance_timeout_ms = -1;
    request
}

#[test]
fn a_members_life() {
    let (mut broker, client, topic) = broker();
    for version in versions(ApiKey::ConsumerGroupHeartbeat) {
        // Groups of different names live on different cores.
        for group in ["one", "two", "three"].map(|name| format!("{name}-{version}")) {
            // From version 1 on members choose their ids.
            let joined = broker.call(client, &join(&group, ""), version);
            let own_id = version >= 1;
            let code = if own_id { E::InvalidRequest.code() } else { 0 };
            assert_eq!(joined.error_code, code, "version {version}");
            let joined = match own_id {
                true => broker.call(client, &join(&group, "me"), version),
                false => joined,
            };
            assert_eq!((joined.error_code, joined.member_epoch), (0, 1), "version {version}");
            assert_eq!(joined.heartbeat_interval_ms, 5_000);
            let rows = &joined.assignment.as_ref().expect("an assignment").topic_partitions;
            let row = (rows[0].topic_id, rows[0].partitions.len());
            let count = broker.image.topic("t").expect("there").partitions.len();
            assert_eq!(row, (small::uuid(topic), count), "version {version}");

            let answer = broker.call(client, &beat(&group, &joined), version);
            assert_eq!((answer.error_code, answer.assignment), (0, None), "version {version}");
            let mut wrong = beat(&group, &joined);
            wrong.member_epoch = 5;
            let answer = broker.call(client, &wrong, version);
            assert_eq!(answer.error_code, E::FencedMemberEpoch.code(), "version {version}");
            let mut bye = beat(&group, &joined);
            bye.member_epoch = -1;
            let answer = broker.call(client, &bye, version);
            assert_eq!((answer.error_code, answer.member_epoch), (0, -1), "version {version}");
        }
    }
    let mut regex = join("regex", "me");
    regex.subscribed_topic_names = None;
    regex.subscribed_topic_regex = Some(StrBytes::from("t|u"));
    let joined = broker.call(client, &regex, 1);
    assert_eq!(joined.assignment.expect("an assignment").topic_partitions.len(), 1);
    // A topic that comes is taken up with a heartbeat, at most one a second.
    broker.create_topic("u", &[]);
    broker.wait(1_000);
    let answer = broker.call(client, &beat("regex", &broker_answer(1)), 1);
    assert_eq!(answer.error_code, 0);
    assert_eq!(answer.assignment.expect("more").topic_partitions.len(), 2);
}

fn broker_answer(epoch: i32) -> ConsumerGroupHeartbeatResponse {
    let mut answer = ConsumerGroupHeartbeatResponse::default();
    answer.member_id = Some(StrBytes::from("me"));
    answer.member_epoch = epoch;
    answer
}

#[test]
fn groups_are_described_and_listed_by_their_type() {
    let (mut broker, client, topic) = broker();
    assert_eq!(broker.call(client, &join("g", "me"), 1).error_code, 0);
    for version in versions(ApiKey::ConsumerGroupDescribe) {
        let mut request = ConsumerGroupDescribeRequest::default();
        request.group_ids = vec![StrBytes::from("g"), StrBytes::from("gone")];
        request.include_authorized_operations = true;
        let answer = broker.call(client, &request, version);
        let [group, gone] = &answer.groups[..] else { panic!("{answer:?}") };
        assert_eq!(gone.error_code, E::GroupIdNotFound.code(), "version {version}");
        assert_eq!((group.error_code, group.group_state.as_str()), (0, "Stable"));
        assert_eq!((group.group_epoch, group.assignment_epoch), (1, 1));
        assert_eq!(group.assignor_name.as_str(), "uniform");
        assert!(group.authorized_operations > 0);
        let member = &group.members[0];
        assert_eq!((member.member_id.as_str(), member.member_epoch), ("me", 1));
        assert_eq!(
            (member.client_id.as_str(), member.client_host.as_str()),
            ("test", "/127.0.0.1")
        );
        for assignment in [&member.assignment, &member.target_assignment] {
            let row = &assignment.topic_partitions[0];
            assert_eq!((row.topic_id, row.topic_name.as_str()), (small::uuid(topic), "t"));
        }
        let kind = if version >= 1 { 1 } else { -1 };
        assert_eq!(member.member_type, kind, "version {version}");
    }
    for (wanted, count) in [("consumer", 1), ("classic", 0)] {
        let mut request = ListGroupsRequest::default();
        request.types_filter = vec![StrBytes::from(wanted)];
        let answer = broker.call(client, &request, 5);
        assert_eq!(answer.groups.len(), count, "{wanted}");
    }
    let mut request = DescribeGroupsRequest::default();
    request.groups = vec![StrBytes::from("g")];
    let answer = broker.call(client, &request, 6);
    assert_eq!(answer.groups[0].error_code, E::GroupIdNotFound.code());
}

#[test]
fn a_stop_leaves_nobody_waiting() {
    let (mut broker, client, _) = broker();
    let id = broker.ask(client, &join("g", "me"), 1);
    broker.stop();
    let answer = broker.answer::<ConsumerGroupHeartbeatRequest>(client, 1, id);
    let code = answer.expect("an answer").error_code;
    assert!([0, E::NotCoordinator.code()].contains(&code), "{code}");
    assert!(broker.stopped.iter().all(|(_, clean)| *clean));
}
