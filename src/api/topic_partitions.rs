//! DescribeTopicPartitions (KIP-966): topics by name, so many partitions at a
//! time, with a cursor to go on from
//! (`DescribeTopicPartitionsRequestHandler.java`, `KRaftMetadataCache`).

use std::collections::BTreeSet;

use super::cluster::TOPIC_OPERATIONS;
use super::{Answer, Call, Context};
use crate::metadata::image::{Partition, Topic};
use crate::model::error_code::ErrorCode;
use crate::model::ids::topic_name_error;
use crate::wire::WireError;
use crate::wire::small::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use crate::wire::small::{
    self, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, StrBytes,
};

/// Most partitions of one answer (Kafka's default of
/// `max.request.partition.size.limit`).
const PARTITIONS_MAX: i32 = 2_000;

pub(super) fn request(call: &Call<'_>, body: &[u8], answer: &mut Answer) -> Result<(), WireError> {
    let request: DescribeTopicPartitionsRequest = small::decode(body, call.version)?;
    let response = respond(call.context, &request);
    super::encode_small(answer, call.correlation_id, call.version, &response)
}

fn respond(
    context: &Context,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let mut response = DescribeTopicPartitionsResponse::default();
    let cursor = request.cursor.as_ref();
    let (from, first) =
        cursor.map_or(("", 0), |cursor| (cursor.topic_name.as_str(), cursor.partition_index));
    let names: BTreeSet<&str> = request.topics.iter().map(|topic| topic.name.as_str()).collect();
    let all = names.is_empty();
    // The topic to go on from must be among those that are asked for.
    if first < 0 || (!all && cursor.is_some() && !names.contains(from)) {
        let refuse = |name: &&str| failed(name, ErrorCode::InvalidRequest);
        response.topics = names.iter().map(refuse).collect();
        return response;
    }
    let names: Box<dyn Iterator<Item = &str>> = if all {
        Box::new(context.image.topics().map(|topic| &*topic.name))
    } else {
        Box::new(names.into_iter())
    };
    let mut room = request.response_partition_limit.clamp(1, PARTITIONS_MAX) as usize;
    for name in names.skip_while(|name| *name < from) {
        if room == 0 {
            response.next_cursor = Some(cursor_at(name, 0));
            break;
        }
        let Some(topic) = context.image.topic(name) else {
            let code = match topic_name_error(name) {
                Some(_) => ErrorCode::InvalidTopicException,
                None => ErrorCode::UnknownTopicOrPartition,
            };
            response.topics.push(failed(name, code));
            continue;
        };
        let start = if name == from { first as usize } else { 0 };
        let row = describe(topic, start, room);
        room -= row.partitions.len();
        let next = start + row.partitions.len();
        response.topics.push(row);
        if next < topic.partitions.len() {
            response.next_cursor = Some(cursor_at(name, next as i32));
            break;
        }
    }
    response
}

fn cursor_at(name: &str, partition: i32) -> Cursor {
    let mut cursor = Cursor::default();
    cursor.topic_name = StrBytes::from(name);
    cursor.partition_index = partition;
    cursor
}

fn failed(name: &str, code: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    let mut row = DescribeTopicPartitionsResponseTopic::default();
    row.name = Some(StrBytes::from(name));
    row.error_code = code.code();
    row.topic_authorized_operations = TOPIC_OPERATIONS;
    row
}

/// A topic with at most `room` partitions from `start` on.
fn describe(topic: &Topic, start: usize, room: usize) -> DescribeTopicPartitionsResponseTopic {
    let mut row = DescribeTopicPartitionsResponseTopic::default();
    row.name = Some(StrBytes::from(&*topic.name));
    row.topic_id = small::uuid(topic.id);
    row.is_internal = topic.is_internal();
    row.topic_authorized_operations = TOPIC_OPERATIONS;
    let partitions = (0..).zip(&topic.partitions).skip(start).take(room);
    row.partitions = partitions.map(|(index, partition)| cell(index, partition)).collect();
    row
}

fn cell(index: i32, partition: &Partition) -> DescribeTopicPartitionsResponsePartition {
    let mut cell = DescribeTopicPartitionsResponsePartition::default();
    cell.partition_index = index;
    cell.leader_id = partition.leader.map_or(-1, |leader| leader.0);
    cell.leader_epoch = partition.leader_epoch.0;
    cell.replica_nodes = partition.replicas.iter().map(|node| node.0).collect();
    cell.isr_nodes = partition.isr.iter().map(|node| node.0).collect();
    cell.eligible_leader_replicas = Some(vec![]);
    cell.last_known_elr = Some(vec![]);
    if partition.leader.is_none() {
        cell.error_code = ErrorCode::LeaderNotAvailable.code();
    }
    cell
}
