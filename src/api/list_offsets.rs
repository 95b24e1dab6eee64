//! ListOffsets: the ends of logs, and offsets by timestamp
//! (`KafkaApis.handleListOffsetRequest`, `ListOffsetsRequest.java`).
//!
//! Special timestamps are refused below the version that brought them. Nothing
//! is transactional yet: both isolation levels see the same.

use std::collections::BTreeSet;

use super::{Answer, ByCore, Call, Outcome, Pending};
use crate::model::error_code::ErrorCode;
use crate::model::ids::PartitionIndex;
use crate::replica::work::{ListOffsetsItem, ListOffsetsOutcome, ListOffsetsWork, Work};
use crate::wire::small::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use crate::wire::small::{self, ListOffsetsRequest, ListOffsetsResponse};
use crate::wire::{TopicKey, WireError};

/// A ListOffsets answer that waits for its pieces.
#[derive(Debug)]
pub struct PendingListOffsets {
    version: i16,
    correlation_id: i32,
    request: ListOffsetsRequest,
    /// One per partition of the request.
    outcomes: Vec<ListOffsetsOutcome>,
}

pub(super) fn request(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: ListOffsetsRequest = small::decode(body, call.version)?;
    let mut outcomes = vec![];
    let mut items = ByCore(vec![]);
    let mut seen = BTreeSet::new();
    for topic in &request.topics {
        let known = call.context.topic(TopicKey::Name(topic.name.as_str()));
        for partition in &topic.partitions {
            let place = outcomes.len() as u32;
            let index = PartitionIndex(partition.partition_index);
            let routed = known.and_then(|topic| call.context.route(topic, index));
            // Kafka refuses partitions that are asked for twice.
            let twice = !seen.insert((topic.name.as_str(), index));
            let error = match routed {
                _ if call.version < first_version(partition.timestamp) => {
                    ErrorCode::UnsupportedVersion
                }
                Ok((topic_partition, core)) if !twice => {
                    let item = ListOffsetsItem {
                        topic_partition,
                        place,
                        timestamp: partition.timestamp,
                        current_leader_epoch: partition.current_leader_epoch,
                        outcome: ListOffsetsOutcome::error(ErrorCode::None),
                    };
                    items.add(core, item);
                    ErrorCode::UnknownServerError
                }
                Ok(_) => ErrorCode::InvalidRequest,
                Err(error) => error,
            };
            outcomes.push(ListOffsetsOutcome::error(error));
        }
    }
    let (version, correlation_id) = (call.version, call.correlation_id);
    let pending = PendingListOffsets { version, correlation_id, request, outcomes };
    let parts = items.work(|items| Work::ListOffsets(ListOffsetsWork { items }));
    if parts.is_empty() {
        pending.respond(answer)?;
        return Ok(Outcome::Done);
    }
    Ok(Outcome::Work(Pending::ListOffsets(pending), parts))
}

/// The first version that has a timestamp's meaning.
fn first_version(timestamp: i64) -> i16 {
    match timestamp {
        -2.. => 1,
        -3 => 7,
        -4 => 8,
        -5 => 9,
        -6 => 11,
        _ => i16::MAX,
    }
}

impl PendingListOffsets {
    pub(super) fn fill(&mut self, work: ListOffsetsWork) {
        for item in work.items {
            self.outcomes[item.place as usize] = item.outcome;
        }
    }

    pub(super) fn respond(self, answer: &mut Answer) -> Result<(), WireError> {
        let mut outcomes = self.outcomes.into_iter();
        let mut response = ListOffsetsResponse::default();
        for topic in self.request.topics {
            let mut row = ListOffsetsTopicResponse::default();
            row.name = topic.name;
            for (partition, outcome) in topic.partitions.iter().zip(&mut outcomes) {
                let mut cell = ListOffsetsPartitionResponse::default();
                cell.partition_index = partition.partition_index;
                cell.error_code = outcome.error.code();
                cell.timestamp = outcome.timestamp;
                cell.offset = outcome.offset;
                if self.version >= 4 {
                    cell.leader_epoch = outcome.leader_epoch;
                }
                row.partitions.push(cell);
            }
            response.topics.push(row);
        }
        super::encode_small(answer, self.correlation_id, self.version, &response)
    }
}
