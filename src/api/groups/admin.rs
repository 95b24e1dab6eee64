//! ListGroups, DescribeGroups, DeleteGroups.

use super::{Head, Question, ask, owned};
use crate::api::{Answer, Call, Outcome, encode_small};
use crate::group::request::{Ask, Request, Response};
use crate::model::error_code::ErrorCode;
use crate::wire::WireError;
use crate::wire::groups::delete_groups_response::DeletableGroupResult;
use crate::wire::groups::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    ListGroupsRequest, ListGroupsResponse,
};
use crate::wire::small::{self, StrBytes};

/// First version of DescribeGroups that has an error for a group that is not
/// there; before, it is described as dead.
const NOT_FOUND: i16 = 6;

/// What anybody may do with a group, as bits (`AclEntry.supportedOperations`):
/// read, delete, describe, describe and alter its settings.
pub(super) const OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

/// What ListGroups wants to see.
#[derive(Debug)]
pub(super) struct ListQuestion {
    states: Vec<StrBytes>,
    types: Vec<StrBytes>,
}

/// What DescribeGroups wants to see.
#[derive(Debug)]
pub(super) struct DescribeQuestion {
    operations: bool,
}

pub(in crate::api) fn list(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: ListGroupsRequest = small::decode(body, call.version)?;
    let question = ListQuestion { states: request.states_filter, types: request.types_filter };
    ask(call, Question::List(question), [(0, Request::List)].into_iter(), answer)
}

impl ListQuestion {
    pub fn respond(
        self,
        (correlation_id, version): Head,
        responses: impl Iterator<Item = Response>,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        let allows = |filter: &[StrBytes], value: &str| {
            filter.is_empty() || filter.iter().any(|name| name.as_str().eq_ignore_ascii_case(value))
        };
        let mut out = ListGroupsResponse::default();
        for response in responses {
            match response {
                Response::Listed(Ok(rows)) => out.groups.extend(rows.into_iter().filter(|row| {
                    allows(&self.states, row.group_state.as_str())
                        && allows(&self.types, row.group_type.as_str())
                })),
                Response::Listed(Err(error)) => out.error_code = error.code(),
                other => unreachable!("{other:?} answers another request"),
            }
        }
        encode_small(answer, correlation_id, version, &out)
    }
}

pub(in crate::api) fn describe(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: DescribeGroupsRequest = small::decode(body, call.version)?;
    let question = DescribeQuestion { operations: request.include_authorized_operations };
    let parts = request.groups.iter().map(|group| Request::Group(owned(group), Ask::Describe));
    ask(call, Question::Describe(question), (0..).zip(parts), answer)
}

impl DescribeQuestion {
    pub fn respond(
        self,
        (correlation_id, version): Head,
        responses: impl Iterator<Item = Response>,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        let mut out = DescribeGroupsResponse::default();
        for response in responses {
            let Response::Described(mut row) = response else {
                unreachable!("{response:?} answers another request")
            };
            if version < NOT_FOUND {
                row.error_message = None;
                if row.error_code == ErrorCode::GroupIdNotFound.code() {
                    row.error_code = 0;
                }
            }
            if self.operations && row.error_code == 0 {
                row.authorized_operations = OPERATIONS;
            }
            out.groups.push(*row);
        }
        encode_small(answer, correlation_id, version, &out)
    }
}

pub(in crate::api) fn delete(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: DeleteGroupsRequest = small::decode(body, call.version)?;
    let groups = request.groups_names;
    let parts: Vec<Request> =
        groups.iter().map(|group| Request::Group(owned(group), Ask::Delete)).collect();
    ask(call, Question::Delete(groups), (0..).zip(parts), answer)
}

pub(super) fn respond_delete(
    (correlation_id, version): Head,
    groups: Vec<StrBytes>,
    responses: impl Iterator<Item = Response>,
    answer: &mut Answer,
) -> Result<(), WireError> {
    let mut out = DeleteGroupsResponse::default();
    for (group, response) in groups.into_iter().zip(responses) {
        let Response::Deleted(error) = response else {
            unreachable!("{response:?} answers another request")
        };
        let mut row = DeletableGroupResult::default();
        row.group_id = group;
        row.error_code = error.code();
        out.results.push(row);
    }
    encode_small(answer, correlation_id, version, &out)
}
