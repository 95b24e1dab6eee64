//! ConsumerGroupHeartbeat and ConsumerGroupDescribe: groups of the consumer
//! protocol (KIP-848).

use super::admin::OPERATIONS;
use super::{Head, Question, ask, owned, owned_option};
use crate::api::{Answer, Call, Outcome, encode_small};
use crate::group::request::{Ask, ConsumerHeartbeat, Request, Response};
use crate::wire::WireError;
use crate::wire::groups::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
};
use crate::wire::small;

/// First version of ConsumerGroupHeartbeat whose members choose their own ids
/// (KIP-1082).
const OWN_ID: i16 = 1;

pub(in crate::api) fn heartbeat(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: ConsumerGroupHeartbeatRequest = small::decode(body, call.version)?;
    let names = request.subscribed_topic_names.as_ref();
    let owned_partitions = request.topic_partitions.as_ref().map(|topics| {
        let row =
            |topic: &crate::wire::groups::consumer_group_heartbeat_request::TopicPartitions| {
                (small::topic_id(topic.topic_id), topic.partitions.iter().copied().collect())
            };
        topics.iter().map(row).collect()
    });
    let beat = ConsumerHeartbeat {
        member_id: owned(&request.member_id),
        needs_id: call.version >= OWN_ID,
        epoch: request.member_epoch,
        instance_id: owned_option(&request.instance_id),
        rack_id: owned_option(&request.rack_id),
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        topics: names.map(|names| names.iter().map(owned).collect()),
        regex: owned_option(&request.subscribed_topic_regex),
        assignor: owned_option(&request.server_assignor),
        owned: owned_partitions,
        client_id: call.client_id.into(),
        client_host: format!("/{}", call.peer).into(),
    };
    let part = Request::Group(owned(&request.group_id), Ask::ConsumerHeartbeat(Box::new(beat)));
    ask(call, Question::One, [(0, part)].into_iter(), answer)
}

pub(in crate::api) fn describe(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: ConsumerGroupDescribeRequest = small::decode(body, call.version)?;
    let question =
        Question::DescribeConsumers { operations: request.include_authorized_operations };
    let parts = request.group_ids.iter();
    let parts = parts.map(|group| Request::Group(owned(group), Ask::DescribeConsumers));
    ask(call, question, (0..).zip(parts), answer)
}

pub(super) fn respond_describe(
    (correlation_id, version): Head,
    operations: bool,
    responses: impl Iterator<Item = Response>,
    answer: &mut Answer,
) -> Result<(), WireError> {
    let mut out = ConsumerGroupDescribeResponse::default();
    for response in responses {
        let Response::ConsumersDescribed(mut row) = response else {
            unreachable!("{response:?} answers another request")
        };
        if operations && row.error_code == 0 {
            row.authorized_operations = OPERATIONS;
        }
        out.groups.push(*row);
    }
    encode_small(answer, correlation_id, version, &out)
}
