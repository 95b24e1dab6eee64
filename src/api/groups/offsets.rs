//! OffsetCommit, OffsetFetch, OffsetDelete: offsets that groups keep.
//!
//! Topics are known to coordinators by name; ids are looked up on the way down
//! and given back on the way up (KIP-848). Rows are answered in the order of the
//! request.

use std::sync::Arc;

use super::{Head, Question, ask, owned, owned_option};
use crate::api::{Answer, Call, Context, Outcome, encode_small};
use crate::group::request::{
    Ask, Commit, CommitRow, Fetch, FetchedOffset, FetchedTopic, Identity, Request, Response,
    TopicPartitions,
};
use crate::model::error_code::ErrorCode;
use crate::wire::WireError;
use crate::wire::groups::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use crate::wire::groups::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use crate::wire::groups::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use crate::wire::groups::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use crate::wire::groups::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchRequest, OffsetFetchResponse,
};
use crate::wire::small;

/// First version of OffsetCommit and OffsetFetch with topic ids.
const BY_ID: i16 = 10;
/// First version of OffsetCommit and OffsetFetch that knows of members of the
/// consumer protocol (KIP-848).
const MEMBER_EPOCHS: i16 = 9;
/// First version of OffsetFetch with an error for the whole group.
const GROUP_ERROR: i16 = 2;
/// First version of OffsetFetch for several groups (KIP-709).
const SEVERAL: i16 = 8;

/// An OffsetCommit, and why some of its topics are refused already.
#[derive(Debug)]
pub(super) struct CommitQuestion {
    request: OffsetCommitRequest,
    /// By topic, in the order of the request.
    refused: Vec<Option<ErrorCode>>,
}

pub(in crate::api) fn commit(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: OffsetCommitRequest = small::decode(body, call.version)?;
    let (mut rows, mut refused) = (vec![], vec![]);
    for topic in &request.topics {
        let known = if call.version >= BY_ID {
            let id = small::topic_id(topic.topic_id);
            call.context.image.topic_by_id(id).ok_or(ErrorCode::UnknownTopicId)
        } else {
            let known = call.context.image.topic(topic.name.as_str());
            known.ok_or(ErrorCode::UnknownTopicOrPartition)
        };
        refused.push(known.err());
        let Ok(known) = known else { continue };
        rows.extend(topic.partitions.iter().map(|row| CommitRow {
            topic: known.name.clone(),
            partition: row.partition_index,
            offset: row.committed_offset,
            leader_epoch: row.committed_leader_epoch,
            metadata: row.committed_metadata.as_ref().map_or_else(|| "".into(), owned),
        }));
    }
    let commit = Commit {
        member: Identity {
            member_id: owned(&request.member_id),
            instance_id: owned_option(&request.group_instance_id),
            generation: request.generation_id_or_member_epoch,
        },
        retention_ms: (request.retention_time_ms >= 0).then_some(request.retention_time_ms),
        knows_epochs: call.version >= MEMBER_EPOCHS,
        rows,
    };
    let part = (!commit.rows.is_empty())
        .then(|| (0, Request::Group(owned(&request.group_id), Ask::Commit(commit))));
    let question = Question::Commit(CommitQuestion { request, refused });
    ask(call, question, part.into_iter(), answer)
}

impl CommitQuestion {
    pub fn respond(
        self,
        (correlation_id, version): Head,
        response: Option<Response>,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        let mut codes = match response {
            Some(Response::Committed(codes)) => codes,
            None => vec![],
            Some(other) => unreachable!("{other:?} answers another request"),
        }
        .into_iter();
        let mut out = OffsetCommitResponse::default();
        for (topic, refused) in self.request.topics.into_iter().zip(self.refused) {
            let mut row = OffsetCommitResponseTopic::default();
            row.name = topic.name;
            row.topic_id = topic.topic_id;
            for partition in topic.partitions {
                let mut cell = OffsetCommitResponsePartition::default();
                cell.partition_index = partition.partition_index;
                let code = refused.or_else(|| codes.next());
                cell.error_code = code.expect("every row is answered").code();
                row.partitions.push(cell);
            }
            out.topics.push(row);
        }
        encode_small(answer, correlation_id, version, &out)
    }
}

/// An OffsetFetch, its older form brought into that of several groups.
#[derive(Debug)]
pub(super) struct FetchQuestion {
    groups: Vec<OffsetFetchRequestGroup>,
    /// Names of the topics that each group asks for; none for an unknown id.
    names: Vec<Vec<Option<Arc<str>>>>,
}

pub(in crate::api) fn fetch(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: OffsetFetchRequest = small::decode(body, call.version)?;
    let groups = if call.version >= SEVERAL {
        request.groups
    } else {
        let mut group = OffsetFetchRequestGroup::default();
        group.group_id = request.group_id;
        group.topics = request.topics.map(|topics| {
            let topics = topics.into_iter().map(|topic| {
                let mut row = OffsetFetchRequestTopics::default();
                row.name = topic.name;
                row.partition_indexes = topic.partition_indexes;
                row
            });
            topics.collect()
        });
        vec![group]
    };
    let name = |topic: &OffsetFetchRequestTopics| match call.version {
        BY_ID.. => {
            let known = call.context.image.topic_by_id(small::topic_id(topic.topic_id))?;
            Some(known.name.clone())
        }
        _ => Some(owned(&topic.name)),
    };
    let names: Vec<Vec<Option<Arc<str>>>> =
        groups.iter().map(|group| group.topics.iter().flatten().map(name).collect()).collect();
    let parts: Vec<(u32, Request)> = (0..)
        .zip(groups.iter().zip(&names))
        .map(|(place, (group, names))| {
            let topics = group.topics.as_ref().map(|topics| {
                let rows = topics.iter().zip(names).filter_map(|(topic, name)| {
                    let partitions = topic.partition_indexes.clone();
                    Some(TopicPartitions { topic: name.clone()?, partitions })
                });
                rows.collect()
            });
            // Whoever is no member, an administrator for one, names neither.
            let named = group.member_id.is_some() || group.member_epoch >= 0;
            let member = named.then(|| {
                let id = group.member_id.as_ref().map_or_else(|| "".into(), owned);
                (id, group.member_epoch)
            });
            let fetch = Fetch { member, topics };
            (place, Request::Group(owned(&group.group_id), Ask::Fetch(fetch)))
        })
        .collect();
    ask(call, Question::Fetch(FetchQuestion { groups, names }), parts.into_iter(), answer)
}

impl FetchQuestion {
    pub fn respond(
        self,
        context: &Context,
        (correlation_id, version): Head,
        responses: impl Iterator<Item = Response>,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        let mut out = OffsetFetchResponse::default();
        let groups = self.groups.into_iter().zip(self.names);
        for ((group, names), response) in groups.zip(responses) {
            let Response::Fetched(fetched) = response else {
                unreachable!("{response:?} answers another request")
            };
            let mut row = OffsetFetchResponseGroup::default();
            row.group_id = group.group_id;
            match (fetched, group.topics) {
                (Ok(fetched), None) => {
                    let rows = fetched.into_iter().filter_map(|row| named(context, version, row));
                    row.topics = rows.collect();
                }
                (Ok(fetched), Some(topics)) => {
                    row.topics = answered(topics, names, fetched);
                }
                // Before there was an error of the group, its rows had it.
                (Err(error), Some(topics)) if version < GROUP_ERROR => {
                    row.topics = topics.iter().map(|topic| refused(topic, error)).collect();
                }
                (Err(error), _) => row.error_code = error.code(),
            }
            out.groups.push(row);
        }
        if version < SEVERAL {
            let group = out.groups.pop().unwrap_or_default();
            if version >= GROUP_ERROR {
                out.error_code = group.error_code;
            }
            out.topics = group.topics.into_iter().map(older).collect();
        }
        encode_small(answer, correlation_id, version, &out)
    }
}

/// A topic of a group that was asked for all of them; none if its id is wanted
/// and it has none any more.
fn named(
    context: &Context,
    version: i16,
    fetched: FetchedTopic,
) -> Option<OffsetFetchResponseTopics> {
    let mut row = OffsetFetchResponseTopics::default();
    if version >= BY_ID {
        row.topic_id = small::uuid(context.image.topic(&fetched.topic)?.id);
    } else {
        row.name = (&*fetched.topic).into();
    }
    row.partitions = fetched.partitions.into_iter().map(cell).collect();
    Some(row)
}

/// The rows of a group whose topics were named, those that no topic has the id
/// of among them.
fn answered(
    topics: Vec<OffsetFetchRequestTopics>,
    names: Vec<Option<Arc<str>>>,
    fetched: Vec<FetchedTopic>,
) -> Vec<OffsetFetchResponseTopics> {
    let mut fetched = fetched.into_iter();
    let mut rows = vec![];
    for (topic, name) in topics.into_iter().zip(names) {
        rows.push(match name.and_then(|_| fetched.next()) {
            None => refused(&topic, ErrorCode::UnknownTopicId),
            Some(found) => {
                let mut row = OffsetFetchResponseTopics::default();
                row.name = topic.name;
                row.topic_id = topic.topic_id;
                row.partitions = found.partitions.into_iter().map(cell).collect();
                row
            }
        });
    }
    rows
}

fn cell(offset: FetchedOffset) -> OffsetFetchResponsePartitions {
    let mut cell = OffsetFetchResponsePartitions::default();
    cell.partition_index = offset.partition;
    cell.committed_offset = offset.offset;
    cell.committed_leader_epoch = offset.leader_epoch;
    cell.metadata = Some((&*offset.metadata).into());
    cell
}

fn refused(topic: &OffsetFetchRequestTopics, error: ErrorCode) -> OffsetFetchResponseTopics {
    let mut row = OffsetFetchResponseTopics::default();
    row.name = topic.name.clone();
    row.topic_id = topic.topic_id;
    let cell = |partition: &i32| {
        let mut cell = OffsetFetchResponsePartitions::default();
        cell.partition_index = *partition;
        cell.committed_offset = -1;
        cell.committed_leader_epoch = -1;
        cell.metadata = Some("".into());
        cell.error_code = error.code();
        cell
    };
    row.partitions = topic.partition_indexes.iter().map(cell).collect();
    row
}

fn older(topic: OffsetFetchResponseTopics) -> OffsetFetchResponseTopic {
    let mut row = OffsetFetchResponseTopic::default();
    row.name = topic.name;
    let cell = |from: OffsetFetchResponsePartitions| {
        let mut cell = OffsetFetchResponsePartition::default();
        cell.partition_index = from.partition_index;
        cell.committed_offset = from.committed_offset;
        cell.committed_leader_epoch = from.committed_leader_epoch;
        cell.metadata = from.metadata;
        cell.error_code = from.error_code;
        cell
    };
    row.partitions = topic.partitions.into_iter().map(cell).collect();
    row
}

pub(in crate::api) fn delete_offsets(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: OffsetDeleteRequest = small::decode(body, call.version)?;
    let is_known = |name: &str| call.context.image.topic(name).is_some();
    let known: Vec<bool> = request.topics.iter().map(|row| is_known(row.name.as_str())).collect();
    let topics = request.topics.iter().zip(&known).filter(|(_, known)| **known);
    let topics = topics.map(|(topic, _)| TopicPartitions {
        topic: owned(&topic.name),
        partitions: topic.partitions.iter().map(|row| row.partition_index).collect(),
    });
    let part = Ask::DeleteOffsets(topics.collect());
    let part = Request::Group(owned(&request.group_id), part);
    ask(call, Question::DeleteOffsets(request, known), [(0, part)].into_iter(), answer)
}

pub(super) fn respond_delete(
    (correlation_id, version): Head,
    request: &OffsetDeleteRequest,
    known: &[bool],
    response: Response,
    answer: &mut Answer,
) -> Result<(), WireError> {
    let Response::OffsetsDeleted(error, codes) = response else {
        unreachable!("{response:?} answers another request")
    };
    let mut out = OffsetDeleteResponse::default();
    out.error_code = error.code();
    let mut codes = codes.into_iter();
    let topics = request.topics.iter().zip(known).filter(|_| error == ErrorCode::None);
    for (topic, known) in topics {
        let code = known.then(|| codes.next()).flatten();
        let mut row = OffsetDeleteResponseTopic::default();
        row.name = topic.name.clone();
        for partition in &topic.partitions {
            let mut cell = OffsetDeleteResponsePartition::default();
            cell.partition_index = partition.partition_index;
            cell.error_code = code.unwrap_or(ErrorCode::UnknownTopicOrPartition).code();
            row.partitions.push(cell);
        }
        out.topics.push(row);
    }
    encode_small(answer, correlation_id, version, &out)
}
