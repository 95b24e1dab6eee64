//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup: what members of classic groups
//! say.

use std::collections::BTreeSet;

use super::{Head, Question, ask, owned, owned_option};
use crate::api::{Answer, Call, Outcome, encode_small};
use crate::group::request::{Ask, Identity, Join, Leaving, Request, Response, Sync};
use crate::model::error_code::ErrorCode;
use crate::wire::WireError;
use crate::wire::groups::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, LeaveGroupRequest, LeaveGroupResponse,
    SyncGroupRequest, leave_group_response,
};
use crate::wire::small::{self, Bytes, StrBytes};

/// First version of JoinGroup with a rebalance timeout of its own.
const REBALANCE_TIMEOUT: i16 = 1;
/// First version of JoinGroup whose clients come again with the id they are
/// given (KIP-394).
const KNOWN_ID: i16 = 4;
/// First version of JoinGroup that may leave protocol names null.
const NULL_PROTOCOL: i16 = 7;
/// First version of JoinGroup whose leaders can be told to keep the assignment
/// (KIP-814).
const SKIP_ASSIGNMENT: i16 = 9;
/// First version of LeaveGroup for several members (KIP-345).
const LEAVE_SEVERAL: i16 = 3;

pub(in crate::api) fn join(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: JoinGroupRequest = small::decode(body, call.version)?;
    let mut names = BTreeSet::new();
    let protocols =
        request.protocols.iter().filter(|protocol| names.insert(protocol.name.as_str()));
    let join = Join {
        member_id: owned(&request.member_id),
        instance_id: owned_option(&request.group_instance_id),
        client_id: call.client_id.into(),
        client_host: format!("/{}", call.peer).into(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: match call.version {
            REBALANCE_TIMEOUT.. => request.rebalance_timeout_ms,
            _ => request.session_timeout_ms,
        },
        protocol_type: owned(&request.protocol_type),
        protocols: protocols
            .map(|protocol| (owned(&protocol.name), Bytes::copy_from_slice(&protocol.metadata)))
            .collect(),
        needs_known_id: call.version >= KNOWN_ID && request.group_instance_id.is_none(),
        may_skip_assignment: call.version >= SKIP_ASSIGNMENT,
    };
    let request = Request::Group(owned(&request.group_id), Ask::Join(Box::new(join)));
    ask(call, Question::One, [(0, request)].into_iter(), answer)
}

fn identity(member_id: &StrBytes, instance_id: &Option<StrBytes>, generation: i32) -> Identity {
    Identity { member_id: owned(member_id), instance_id: owned_option(instance_id), generation }
}

pub(in crate::api) fn sync(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: SyncGroupRequest = small::decode(body, call.version)?;
    let assignments = request.assignments.iter();
    let sync = Sync {
        member: identity(&request.member_id, &request.group_instance_id, request.generation_id),
        protocol_type: owned_option(&request.protocol_type),
        protocol: owned_option(&request.protocol_name),
        assignments: assignments
            .map(|row| (owned(&row.member_id), Bytes::copy_from_slice(&row.assignment)))
            .collect(),
    };
    let request = Request::Group(owned(&request.group_id), Ask::Sync(sync));
    ask(call, Question::One, [(0, request)].into_iter(), answer)
}

pub(in crate::api) fn heartbeat(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: HeartbeatRequest = small::decode(body, call.version)?;
    let who = identity(&request.member_id, &request.group_instance_id, request.generation_id);
    let request = Request::Group(owned(&request.group_id), Ask::Heartbeat(who));
    ask(call, Question::One, [(0, request)].into_iter(), answer)
}

pub(in crate::api) fn leave(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: LeaveGroupRequest = small::decode(body, call.version)?;
    let rows = if call.version < LEAVE_SEVERAL {
        vec![Leaving { member_id: owned(&request.member_id), instance_id: None }]
    } else {
        let rows = request.members.iter().map(|row| Leaving {
            member_id: owned(&row.member_id),
            instance_id: owned_option(&row.group_instance_id),
        });
        rows.collect()
    };
    let part = Request::Group(owned(&request.group_id), Ask::Leave(rows));
    ask(call, Question::Leave(request), [(0, part)].into_iter(), answer)
}

pub(super) fn respond(
    (correlation_id, version): Head,
    response: Response,
    answer: &mut Answer,
) -> Result<(), WireError> {
    match response {
        Response::Joined(mut response) => {
            if version >= NULL_PROTOCOL && response.protocol_type.is_none() {
                response.protocol_name = None;
            }
            encode_small(answer, correlation_id, version, &*response)
        }
        Response::Synced(response) => encode_small(answer, correlation_id, version, &*response),
        Response::Heartbeat(error) => {
            let mut response = HeartbeatResponse::default();
            response.error_code = error.code();
            encode_small(answer, correlation_id, version, &response)
        }
        Response::Beat(response) => encode_small(answer, correlation_id, version, &*response),
        other => unreachable!("{other:?} answers another request"),
    }
}

pub(super) fn respond_leave(
    (correlation_id, version): Head,
    request: &LeaveGroupRequest,
    response: Response,
    answer: &mut Answer,
) -> Result<(), WireError> {
    let Response::Left(error, codes) = response else {
        unreachable!("{response:?} answers another request")
    };
    let mut response = LeaveGroupResponse::default();
    response.error_code = error.code();
    if version < LEAVE_SEVERAL {
        if error == ErrorCode::None {
            response.error_code = codes.first().map_or(0, |code| code.code());
        }
    } else {
        for (row, code) in request.members.iter().zip(codes) {
            let mut member = leave_group_response::MemberResponse::default();
            member.member_id = row.member_id.clone();
            member.group_instance_id = row.group_instance_id.clone();
            member.error_code = code.code();
            response.members.push(member);
        }
    }
    encode_small(answer, correlation_id, version, &response)
}
