//! Requests about groups: each part goes to the core whose coordinator has the
//! group, and the answer waits for all parts.
//!
//! A group lives with its partition of `__consumer_offsets`. While that topic
//! does not exist nobody coordinates anything: FindCoordinator makes it.

mod admin;
mod consumer;
mod members;
mod offsets;

pub(super) use self::admin::{delete, describe, list};
pub(super) use self::consumer::{describe as describe_consumers, heartbeat as consumer_heartbeat};
pub(super) use self::members::{heartbeat, join, leave, sync};
pub(super) use self::offsets::{commit, delete_offsets, fetch};

use std::sync::Arc;

use self::admin::{DescribeQuestion, ListQuestion};
use self::offsets::{CommitQuestion, FetchQuestion};
use super::{Answer, Call, Context, Outcome, Pending};
use crate::group::request::{Request, Response};
use crate::group::{OFFSETS_TOPIC, partition_of};
use crate::model::error_code::ErrorCode;
use crate::model::ids::CoreId;
use crate::wire::WireError;
use crate::wire::groups::{LeaveGroupRequest, OffsetDeleteRequest};
use crate::wire::small::StrBytes;

/// An answer that waits for coordinators.
#[derive(Debug)]
pub struct PendingGroup {
    version: i16,
    correlation_id: i32,
    question: Question,
    /// What came, with the place of the part it answers.
    answers: Vec<(u32, Response)>,
}

/// What has to be kept of a request to answer it.
#[derive(Debug)]
enum Question {
    /// Nothing: JoinGroup, SyncGroup, Heartbeat, ConsumerGroupHeartbeat.
    One,
    Leave(LeaveGroupRequest),
    Commit(CommitQuestion),
    Fetch(FetchQuestion),
    /// With the topics that are known.
    DeleteOffsets(OffsetDeleteRequest, Vec<bool>),
    Describe(DescribeQuestion),
    DescribeConsumers {
        operations: bool,
    },
    Delete(Vec<StrBytes>),
    List(ListQuestion),
}

/// A part of a request that goes to a core, with its place.
pub type Part = (CoreId, u32, Request);

/// Sends requests about groups on their way, or answers those that cannot be.
fn ask(
    call: &Call<'_>,
    question: Question,
    requests: impl Iterator<Item = (u32, Request)>,
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let (version, correlation_id) = (call.version, call.correlation_id);
    let mut pending = PendingGroup { version, correlation_id, question, answers: vec![] };
    let mut parts: Vec<Part> = vec![];
    for (place, request) in requests {
        let Request::Group(group, _) = &request else {
            // All cores have groups to list.
            let cores = (0..call.context.cores).map(CoreId);
            parts.extend((place..).zip(cores).map(|(place, core)| (core, place, Request::List)));
            continue;
        };
        match coordinator_core(call.context, group) {
            Ok(core) => parts.push((core, place, request)),
            Err(error) => pending.answers.push((place, request.refuse(error))),
        }
    }
    if parts.is_empty() {
        pending.respond(call.context, answer)?;
        return Ok(Outcome::Done);
    }
    Ok(Outcome::Group(Pending::Group(pending), parts))
}

/// The core of this broker that coordinates a group.
fn coordinator_core(context: &Context, group: &str) -> Result<CoreId, ErrorCode> {
    let topic = context.image.topic(OFFSETS_TOPIC).ok_or(ErrorCode::NotCoordinator)?;
    let partition = partition_of(group, topic.partitions.len() as i32);
    let (_, core) = context.route(topic, partition).map_err(|_| ErrorCode::NotCoordinator)?;
    Ok(core)
}

/// A string that is kept: not a slice of the request.
fn owned(text: &StrBytes) -> Arc<str> {
    text.as_str().into()
}

fn owned_option(text: &Option<StrBytes>) -> Option<Arc<str>> {
    text.as_ref().map(owned)
}

impl PendingGroup {
    pub(super) fn fill(&mut self, place: u32, response: Response) {
        self.answers.push((place, response));
    }

    pub(super) fn respond(
        mut self,
        context: &Context,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        self.answers.sort_by_key(|(place, _)| *place);
        let Self { version, correlation_id, question, answers } = self;
        let head = (correlation_id, version);
        let mut answers = answers.into_iter().map(|(_, response)| response);
        match question {
            Question::One => {
                let response = answers.next().expect("one part has one answer");
                members::respond(head, response, answer)
            }
            Question::Leave(request) => {
                let response = answers.next().expect("one part has one answer");
                members::respond_leave(head, &request, response, answer)
            }
            Question::Commit(question) => question.respond(head, answers.next(), answer),
            Question::Fetch(question) => question.respond(context, head, answers, answer),
            Question::DeleteOffsets(request, known) => {
                let response = answers.next().expect("one part has one answer");
                offsets::respond_delete(head, &request, &known, response, answer)
            }
            Question::Describe(question) => question.respond(head, answers, answer),
            Question::DescribeConsumers { operations } => {
                consumer::respond_describe(head, operations, answers, answer)
            }
            Question::Delete(groups) => admin::respond_delete(head, groups, answers, answer),
            Question::List(question) => question.respond(head, answers, answer),
        }
    }
}

/// Correlation id and version of the request.
type Head = (i32, i16);
