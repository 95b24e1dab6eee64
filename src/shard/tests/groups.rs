//! Groups through whole shards: every API at every version, members on several
//! cores, stops.

use std::collections::BTreeSet;

use kafka_wire::{FindCoordinatorRequest, JoinGroupResponse, RequestResponsePair};

use super::broker::{Broker, ClientId};
use super::every_version::{Named, UNKNOWN, batch, produce, versions};
use crate::model::error_code::ErrorCode as E;
use crate::model::ids::TopicId;
use crate::wire::apis::ApiKey;
use crate::wire::groups::{
    DeleteGroupsRequest, DescribeGroupsRequest, HeartbeatRequest, JoinGroupRequest,
    LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest,
    OffsetFetchRequest, SyncGroupRequest, join_group_request, leave_group_request,
    offset_commit_request, offset_delete_request, offset_fetch_request, sync_group_request,
};
use crate::wire::small::{self, Bytes, StrBytes};

/// Two cores, a topic of a partition each, `__consumer_offsets` and a client.
fn broker() -> (Broker, ClientId, TopicId) {
    let set = [("group.initial.rebalance.delay.ms", "100"), ("offsets.topic.num.partitions", "4")];
    let mut broker = Broker::new(2, &set);
    let id = broker.create_topic("t", &[]);
    let client = broker.connect(0);
    let mut request = FindCoordinatorRequest::default();
    request.key = StrBytes::from("g");
    let found = broker.call(client, &request, 3);
    assert_eq!((found.error_code, found.node_id, found.port), (0, 1, 9092));
    (broker, client, id)
}

fn join(version: i16, group: &str, member: &str) -> JoinGroupRequest {
    let mut protocol = join_group_request::JoinGroupRequestProtocol::default();
    protocol.name = StrBytes::from("range");
    protocol.metadata = Bytes::from_static(b"\0\0\0\0\0\0\0\0\0\0");
    let mut request = JoinGroupRequest::default();
    request.group_id = StrBytes::from(group);
    request.session_timeout_ms = 10_000;
    if version >= 1 {
        request.rebalance_timeout_ms = 10_000;
    }
    request.member_id = StrBytes::from(member);
    request.protocol_type = StrBytes::from("consumer");
    request.protocols.push(protocol);
    request
}

/// Joins `group` as its only member.
fn join_alone(
    broker: &mut Broker,
    client: ClientId,
    version: i16,
    group: &str,
) -> JoinGroupResponse {
    let mut member = String::new();
    if version >= 4 {
        let first = broker.call(client, &join(version, group, ""), version);
        assert_eq!(first.error_code, E::MemberIdRequired.code(), "version {version}");
        member = first.member_id.as_str().to_owned();
    }
    let id = broker.ask(client, &join(version, group, &member), version);
    broker.run();
    assert!(broker.received(client).is_empty(), "it waits for others");
    broker.wait(101);
    broker.answer::<JoinGroupRequest>(client, version, id).expect("an answer")
}

fn syncs(joined: &JoinGroupResponse, group: &str) -> SyncGroupRequest {
    let mut row = sync_group_request::SyncGroupRequestAssignment::default();
    row.member_id = joined.member_id.clone();
    row.assignment = Bytes::from_static(b"all");
    let mut request = SyncGroupRequest::default();
    request.group_id = StrBytes::from(group);
    request.generation_id = joined.generation_id;
    request.member_id = joined.member_id.clone();
    request.assignments.push(row);
    request
}

fn commits(version: i16, group: &str, rows: &[(Named<'_>, i32, i64)]) -> OffsetCommitRequest {
    let mut request = OffsetCommitRequest::default();
    request.group_id = StrBytes::from(group);
    request.generation_id_or_member_epoch = -1;
    for (Named(name, id), partition, offset) in rows {
        let mut row = offset_commit_request::OffsetCommitRequestPartition::default();
        row.partition_index = *partition;
        row.committed_offset = *offset;
        row.committed_metadata = Some(StrBytes::from("note"));
        let mut topic = offset_commit_request::OffsetCommitRequestTopic::default();
        if version >= 10 {
            topic.topic_id = small::uuid(*id);
        } else {
            topic.name = StrBytes::from(*name);
        }
        topic.partitions.push(row);
        request.topics.push(topic);
    }
    request
}

#[test]
fn find_coordinator() {
    let mut broker = Broker::new(2, &[("offsets.topic.num.partitions", "7")]);
    let client = broker.connect(0);
    for version in versions(ApiKey::FindCoordinator) {
        let mut request = FindCoordinatorRequest::default();
        if version >= 4 {
            request.coordinator_keys = vec![StrBytes::from("a"), StrBytes::from("b")];
        } else {
            request.key = StrBytes::from("a");
        }
        let found = broker.call(client, &request, version);
        let rows: Vec<_> = match version {
            4.. => found.coordinators.iter().map(|row| (row.error_code, row.node_id)).collect(),
            _ => vec![(found.error_code, found.node_id)],
        };
        assert_eq!(rows, vec![(0, 1); if version >= 4 { 2 } else { 1 }], "version {version}");
        if version >= 1 {
            request.key_type = 1;
            let found = broker.call(client, &request, version);
            let code = match version {
                4.. => found.coordinators[0].error_code,
                _ => found.error_code,
            };
            assert_eq!(code, E::TransactionalIdAuthorizationFailed.code(), "version {version}");
        }
    }
    let topic = broker.image.topic("__consumer_offsets").expect("created");
    assert_eq!(topic.partitions.len(), 7);
    assert_eq!(topic.configs["cleanup.policy"], "compact");
}

#[test]
fn a_members_life() {
    let (mut broker, client, _) = broker();
    for version in versions(ApiKey::JoinGroup) {
        // Groups of different names live on different cores.
        let group = format!("join-{version}");
        let joined = join_alone(&mut broker, client, version, &group);
        assert_eq!((joined.error_code, joined.generation_id), (0, 1), "version {version}");
        assert_eq!((&joined.leader, joined.members.len()), (&joined.member_id, 1));
        let refused = broker.call(client, &join(version, &group, "who"), version);
        assert_eq!(refused.error_code, E::UnknownMemberId.code(), "version {version}");
    }
    for version in versions(ApiKey::SyncGroup) {
        let group = format!("sync-{version}");
        let joined = join_alone(&mut broker, client, 5, &group);
        let synced = broker.call(client, &syncs(&joined, &group), version);
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]), "{version}");
        let refused = broker.call(client, &syncs(&joined, "other"), version);
        assert_eq!(refused.error_code, E::UnknownMemberId.code(), "version {version}");
    }
    for version in versions(ApiKey::Heartbeat) {
        let joined = join_alone(&mut broker, client, 5, &format!("beat-{version}"));
        for (generation, error) in [(1, E::None), (2, E::IllegalGeneration)] {
            let mut request = HeartbeatRequest::default();
            request.group_id = StrBytes::from(format!("beat-{version}").as_str());
            request.member_id = joined.member_id.clone();
            request.generation_id = generation;
            let answer = broker.call(client, &request, version);
            assert_eq!(answer.error_code, error.code(), "version {version}");
        }
    }
    for version in versions(ApiKey::LeaveGroup) {
        let group = format!("leave-{version}");
        let joined = join_alone(&mut broker, client, 5, &group);
        let mut request = LeaveGroupRequest::default();
        request.group_id = StrBytes::from(group.as_str());
        if version >= 3 {
            for id in [joined.member_id.clone(), StrBytes::from("who")] {
                let mut row = leave_group_request::MemberIdentity::default();
                row.member_id = id;
                request.members.push(row);
            }
        } else {
            request.member_id = joined.member_id;
        }
        let left = broker.call(client, &request, version);
        assert_eq!(left.error_code, 0, "version {version}");
        if version >= 3 {
            let codes: Vec<i16> = left.members.iter().map(|row| row.error_code).collect();
            assert_eq!(codes, [0, E::UnknownMemberId.code()], "version {version}");
        }
        let again = broker.call(client, &request, version);
        if version < 3 {
            assert_eq!(again.error_code, E::UnknownMemberId.code(), "version {version}");
        }
    }
}

#[test]
fn offsets() {
    let (mut broker, client, id) = broker();
    let (t, nowhere) = (Named("t", id), Named("nowhere", UNKNOWN));
    for version in versions(ApiKey::OffsetCommit) {
        let rows = [(nowhere, 0, 1), (t, 1, version.into()), (t, 0, 100)];
        let answer = broker.call(client, &commits(version, "g", &rows), version);
        let codes: Vec<i16> =
            answer.topics.iter().map(|topic| topic.partitions[0].error_code).collect();
        let unknown = if version >= 10 { E::UnknownTopicId } else { E::UnknownTopicOrPartition };
        assert_eq!(codes, [unknown.code(), 0, 0], "version {version}");
        assert_eq!(answer.topics[1].partitions[0].partition_index, 1);
    }
    for version in versions(ApiKey::OffsetFetch) {
        let mut request = OffsetFetchRequest::default();
        if version >= 8 {
            let topic = |Named(name, id): Named<'_>| {
                let mut row = offset_fetch_request::OffsetFetchRequestTopics::default();
                if version >= 10 {
                    row.topic_id = small::uuid(id);
                } else {
                    row.name = StrBytes::from(name);
                }
                row.partition_indexes = vec![0, 1, 2];
                row
            };
            for (group, topics) in
                [("g", Some(vec![topic(nowhere), topic(t)])), ("other", None), ("g", None)]
            {
                let mut row = offset_fetch_request::OffsetFetchRequestGroup::default();
                row.group_id = StrBytes::from(group);
                row.topics = topics;
                request.groups.push(row);
            }
            let answer = broker.call(client, &request, version);
            let [named, none, all] = &answer.groups[..] else { panic!("{answer:?}") };
            assert!(answer.groups.iter().all(|group| group.error_code == 0));
            let cells = |at: usize| {
                let cells = named.topics[at].partitions.iter();
                cells.map(|cell| (cell.error_code, cell.committed_offset)).collect::<Vec<_>>()
            };
            let unknown = if version >= 10 { E::UnknownTopicId } else { E::None };
            assert_eq!(cells(0), [(unknown.code(), -1); 3], "version {version}");
            assert_eq!(cells(1), [(0, 100), (0, 10), (0, -1)], "version {version}");
            assert_eq!((none.topics.len(), all.topics.len()), (0, 1), "version {version}");
            assert_eq!(all.topics[0].partitions[1].metadata.as_deref(), Some("note"));
            continue;
        }
        request.group_id = StrBytes::from("g");
        let mut row = offset_fetch_request::OffsetFetchRequestTopic::default();
        row.name = StrBytes::from("t");
        row.partition_indexes = vec![1, 2];
        request.topics = Some(vec![row]);
        let answer = broker.call(client, &request, version);
        let cells = answer.topics[0].partitions.iter();
        let cells: Vec<_> = cells.map(|cell| (cell.error_code, cell.committed_offset)).collect();
        assert_eq!(cells, [(0, 10), (0, -1)], "version {version}");
        if version >= 2 {
            request.topics = None;
            let answer = broker.call(client, &request, version);
            assert_eq!(answer.topics[0].partitions.len(), 2, "version {version}");
        }
    }
    let mut row = offset_delete_request::OffsetDeleteRequestPartition::default();
    row.partition_index = 1;
    let mut request = OffsetDeleteRequest::default();
    request.group_id = StrBytes::from("g");
    for name in ["nowhere", "t"] {
        let mut topic = offset_delete_request::OffsetDeleteRequestTopic::default();
        topic.name = StrBytes::from(name);
        topic.partitions.push(row.clone());
        request.topics.push(topic);
    }
    let answer = broker.call(client, &request, 0);
    let codes: Vec<i16> = answer.topics.iter().map(|row| row.partitions[0].error_code).collect();
    assert_eq!((answer.error_code, codes), (0, vec![E::UnknownTopicOrPartition.code(), 0]));
}

#[test]
fn groups_are_listed_described_and_deleted() {
    let (mut broker, client, id) = broker();
    for group in ["a", "b", "c", "d"] {
        let answer = broker.call(client, &commits(5, group, &[(Named("t", id), 0, 1)]), 5);
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    }
    let joined = join_alone(&mut broker, client, 5, "e");
    broker.call(client, &syncs(&joined, "e"), 3);
    for version in versions(ApiKey::ListGroups) {
        let mut request = ListGroupsRequest::default();
        let names = |broker: &mut Broker, request: &ListGroupsRequest| {
            let answer = broker.call(client, request, version);
            assert_eq!(answer.error_code, 0, "version {version}");
            let names = answer.groups.iter().map(|row| row.group_id.as_str().to_owned());
            names.collect::<BTreeSet<String>>().into_iter().collect::<String>()
        };
        assert_eq!(names(&mut broker, &request), "abcde", "version {version}");
        if version >= 4 {
            request.states_filter = vec![StrBytes::from("stable")];
            assert_eq!(names(&mut broker, &request), "e", "version {version}");
        }
        if version >= 5 {
            request.types_filter = vec![StrBytes::from("consumer")];
            assert_eq!(names(&mut broker, &request), "", "version {version}");
        }
    }
    for version in versions(ApiKey::DescribeGroups) {
        let mut request = DescribeGroupsRequest::default();
        request.groups = ["a", "e", "gone"].map(StrBytes::from).into();
        request.include_authorized_operations = version >= 3;
        let answer = broker.call(client, &request, version);
        let rows: Vec<_> = answer
            .groups
            .iter()
            .map(|row| (row.group_id.as_str(), row.group_state.as_str(), row.error_code))
            .collect();
        let gone = if version >= 6 { E::GroupIdNotFound.code() } else { 0 };
        let expected = [("a", "Empty", 0), ("e", "Stable", 0), ("gone", "Dead", gone)];
        assert_eq!(rows, expected, "version {version}");
        let member = &answer.groups[1].members[0];
        assert_eq!(
            (member.client_id.as_str(), member.client_host.as_str()),
            ("test", "/127.0.0.1")
        );
        assert_eq!(&member.member_assignment[..], b"all");
    }
    for (version, name) in versions(ApiKey::DeleteGroups).zip(["a", "b", "c", "d"]) {
        let mut request = DeleteGroupsRequest::default();
        request.groups_names = [name, "gone", "e"].map(StrBytes::from).into();
        let answer = broker.call(client, &request, version);
        let codes: Vec<i16> = answer.results.iter().map(|row| row.error_code).collect();
        let expected = [E::None, E::GroupIdNotFound, E::NonEmptyGroup];
        assert_eq!(codes, expected.map(E::code), "version {version}");
    }
}

/// Asks without waiting, and returns what takes the answer.
fn ask<R: RequestResponsePair>(
    broker: &mut Broker,
    core: usize,
    request: &R,
    version: i16,
) -> (ClientId, i32) {
    let client = broker.connect(core);
    let id = broker.ask(client, request, version);
    broker.run();
    (client, id)
}

#[test]
fn members_on_all_cores_wait_without_holding_up_others() {
    let (mut broker, client, _) = broker();
    // More than one core may ask another at a time.
    let waiting: Vec<_> =
        (0..1_500).map(|at| ask(&mut broker, at % 2, &join(3, "many", ""), 3)).collect();
    let alone = join_alone(&mut broker, client, 3, "few");
    assert_eq!(alone.error_code, 0);
    broker.wait(20_000);
    let mut leaders = 0;
    for (client, id) in waiting {
        let joined = broker.answer::<JoinGroupRequest>(client, 3, id).expect("an answer");
        assert_eq!((joined.error_code, joined.generation_id), (0, 1));
        leaders += usize::from(joined.leader == joined.member_id);
    }
    assert_eq!(leaders, 1);
}

#[test]
fn a_stop_does_not_wait_for_members() {
    let (mut broker, _, _) = broker();
    let (client, id) = ask(&mut broker, 1, &join(3, "g", ""), 3);
    broker.stop();
    let joined = broker.answer::<JoinGroupRequest>(client, 3, id).expect("an answer");
    assert_eq!(joined.error_code, E::NotCoordinator.code());
    assert_eq!(broker.stopped.len(), 2);
    assert!(broker.stopped.iter().all(|(_, clean)| *clean));
}

#[test]
fn clients_do_not_write_what_coordinators_say() {
    let (mut broker, client, _) = broker();
    let id = broker.image.topic("__consumer_offsets").expect("there").id;
    let rows = [(Named("__consumer_offsets", id), 0, batch(&["x"]))];
    let answer = broker.call(client, &produce(9, -1, &rows), 9);
    let code = answer.responses[0].partition_responses[0].error_code;
    assert_eq!(code, E::InvalidTopicException.code());
}

#[test]
fn offsets_of_a_deleted_topic_are_forgotten() {
    let (mut broker, client, id) = broker();
    broker.call(client, &commits(5, "g", &[(Named("t", id), 0, 7)]), 5);
    let mut request = kafka_wire::DeleteTopicsRequest::default();
    request.topic_names = vec![StrBytes::from("t")];
    broker.call(client, &request, 3);
    broker.create_topic("t", &[]);
    let mut request = OffsetFetchRequest::default();
    request.group_id = StrBytes::from("g");
    request.topics = None;
    assert!(broker.call(client, &request, 5).topics.is_empty());
}
