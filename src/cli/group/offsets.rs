//! Offsets of groups and of partitions, as the group commands ask for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::client::{Client, ClientError, Retry, Target, is_retriable};
use super::coordinator::Coordinator;
use crate::model::error_code::ErrorCode;
use crate::model::ids::NodeId;
use crate::wire::groups::{
    OffsetCommitRequest, OffsetFetchRequest, offset_commit_request, offset_fetch_response,
};
use crate::wire::small::{ListOffsetsRequest, StrBytes, list_offsets_request};

/// A partition by the name of its topic.
pub type Place = (String, i32);

/// Version 8 asks for several groups.
const FETCH_VERSION_MAX: i16 = 7;
/// Version 10 names topics by id.
const COMMIT_VERSION_MAX: i16 = 9;
const LIST_VERSION_MAX: i16 = 7;

/// Timestamps with a meaning in ListOffsets.
pub const LATEST: i64 = -1;
/// The first offset that is there.
pub const EARLIEST: i64 = -2;

/// Who commits: nobody in particular, or a member in a generation.
#[derive(Clone, Copy, Debug)]
pub struct Committer<'a> {
    /// The member's id, or nothing.
    pub member_id: &'a str,
    /// Its generation, or -1.
    pub generation: i32,
}

/// Whoever is not in the group.
pub const NOBODY: Committer<'_> = Committer { member_id: "", generation: -1 };

/// What a group has committed.
///
/// # Errors
/// The coordinator is not reached, or refuses.
pub fn committed(
    client: &mut Client,
    coordinator: &mut Coordinator,
) -> Result<BTreeMap<Place, offset_fetch_response::OffsetFetchResponsePartition>, ClientError> {
    let group = StrBytes::from(coordinator.group());
    let build = |_| {
        let mut request = OffsetFetchRequest::default();
        request.group_id = group.clone();
        request.topics = None;
        request
    };
    let fetched =
        coordinator.ask(client, FETCH_VERSION_MAX, Duration::ZERO, None, build, |answer| {
            answer.error_code
        })?;
    let what = format!("cannot read the offsets of group {}", coordinator.group());
    if fetched.error_code != 0 {
        return Err(ClientError::refused(what, fetched.error_code, None));
    }
    let mut rows = BTreeMap::new();
    for topic in fetched.topics {
        for row in topic.partitions {
            if row.error_code != 0 {
                return Err(ClientError::refused(what, row.error_code, None));
            }
            if row.committed_offset >= 0 {
                rows.insert((topic.name.to_string(), row.partition_index), row);
            }
        }
    }
    Ok(rows)
}

/// Commits, and returns the first error code there is, 0 for none.
///
/// # Errors
/// The coordinator is not reached.
pub fn commit(
    client: &mut Client,
    coordinator: &mut Coordinator,
    who: Committer<'_>,
    offsets: &BTreeMap<Place, i64>,
) -> Result<i16, ClientError> {
    let group = StrBytes::from(coordinator.group());
    let build = |_| {
        let mut topics: BTreeMap<&str, offset_commit_request::OffsetCommitRequestTopic> =
            BTreeMap::new();
        for ((topic, partition), offset) in offsets {
            let mut row = offset_commit_request::OffsetCommitRequestPartition::default();
            row.partition_index = *partition;
            row.committed_offset = *offset;
            row.committed_leader_epoch = -1;
            row.committed_metadata = Some(StrBytes::from(""));
            let of_topic = topics.entry(topic).or_default();
            of_topic.name = StrBytes::from(topic.as_str());
            of_topic.partitions.push(row);
        }
        let mut request = OffsetCommitRequest::default();
        request.group_id = group.clone();
        request.member_id = StrBytes::from(who.member_id);
        request.generation_id_or_member_epoch = who.generation;
        request.topics = topics.into_values().collect();
        request
    };
    let first = |answer: &<OffsetCommitRequest as kafka_wire::RequestResponsePair>::Response| {
        let mut rows = answer.topics.iter().flat_map(|topic| &topic.partitions);
        rows.find(|row| row.error_code != 0).map_or(0, |row| row.error_code)
    };
    let answer = coordinator.ask(client, COMMIT_VERSION_MAX, Duration::ZERO, None, build, first)?;
    Ok(first(&answer))
}

/// The offsets of partitions at a time, Unix milliseconds, or at [`LATEST`] or
/// [`EARLIEST`]; -1 where nothing is as late. Partitions that do not exist are
/// left out.
///
/// # Errors
/// A leader is not reached, or refuses.
pub fn at_time(
    client: &mut Client,
    places: &BTreeSet<Place>,
    timestamp: i64,
) -> Result<BTreeMap<Place, i64>, ClientError> {
    let mut retry = Retry::start();
    loop {
        match at_time_once(client, places, timestamp) {
            Err(error) if error.is_retriable() && retry.wait() => {}
            result => return result,
        }
    }
}

fn at_time_once(
    client: &mut Client,
    places: &BTreeSet<Place>,
    timestamp: i64,
) -> Result<BTreeMap<Place, i64>, ClientError> {
    let mut offsets = BTreeMap::new();
    for (leader, topics) in by_leader(client, places)? {
        let response =
            client.call(Target::Node(leader), LIST_VERSION_MAX, Duration::ZERO, |_| {
                let mut request = ListOffsetsRequest::default();
                request.replica_id = -1;
                for (name, partitions) in topics {
                    let mut topic = list_offsets_request::ListOffsetsTopic::default();
                    topic.name = StrBytes::from(name);
                    for partition in partitions {
                        let mut row = list_offsets_request::ListOffsetsPartition::default();
                        row.partition_index = partition;
                        row.timestamp = timestamp;
                        topic.partitions.push(row);
                    }
                    request.topics.push(topic);
                }
                request
            })?;
        for topic in &response.topics {
            for row in &topic.partitions {
                if row.error_code != 0 {
                    let what = format!("offsets of {}-{}", &*topic.name, row.partition_index);
                    return Err(ClientError::refused(what, row.error_code, None));
                }
                offsets.insert((topic.name.to_string(), row.partition_index), row.offset);
            }
        }
    }
    Ok(offsets)
}

/// Which leader has which of `places`, by topic.
type ByLeader<'a> = BTreeMap<NodeId, BTreeMap<&'a str, Vec<i32>>>;

fn by_leader<'a>(
    client: &mut Client,
    places: &'a BTreeSet<Place>,
) -> Result<ByLeader<'a>, ClientError> {
    let names: BTreeSet<&str> = places.iter().map(|(topic, _)| topic.as_str()).collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names: Vec<&str> = names.into_iter().collect();
    let mut leaders = BTreeMap::new();
    for topic in client.metadata(Some(&names), false)?.topics {
        let name = topic.name.as_deref().unwrap_or_default();
        match topic.error_code {
            0 => {}
            code if code == ErrorCode::UnknownTopicOrPartition.code() => continue,
            code => return Err(ClientError::refused(format!("topic {name}"), code, None)),
        }
        for row in &topic.partitions {
            let place = (name.to_owned(), row.partition_index);
            if is_retriable(row.error_code) && places.contains(&place) {
                let what = format!("{name}-{}", row.partition_index);
                return Err(ClientError::refused(what, row.error_code, None));
            }
            leaders.insert(place, NodeId(row.leader_id));
        }
    }
    let mut rows = ByLeader::new();
    for place in places {
        if let Some(leader) = leaders.get(place) {
            rows.entry(*leader).or_default().entry(&place.0).or_default().push(place.1);
        }
    }
    Ok(rows)
}

/// The partitions of a topic.
///
/// # Errors
/// It does not exist, or nobody can be asked.
pub fn partitions(client: &mut Client, topic: &str) -> Result<Vec<Place>, ClientError> {
    let found = client.topic(topic, false)?;
    let mut partitions: Vec<i32> = found.partitions.iter().map(|row| row.partition_index).collect();
    partitions.sort_unstable();
    Ok(partitions.into_iter().map(|partition| (topic.to_owned(), partition)).collect())
}
