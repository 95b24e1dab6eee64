//! DeleteRecords (KIP-107): the start of a log moves up.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Answer, ByCore, Call, Outcome, Pending};
use crate::model::error_code::ErrorCode;
use crate::model::ids::PartitionIndex;
use crate::replica::work::{DeleteRecordsItem, DeleteRecordsOutcome, DeleteRecordsWork, Work};
use crate::wire::small::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use crate::wire::small::{self, DeleteRecordsRequest, DeleteRecordsResponse};
use crate::wire::{TopicKey, WireError};

/// A DeleteRecords answer that waits for its pieces.
#[derive(Debug)]
pub struct PendingDeleteRecords {
    version: i16,
    correlation_id: i32,
    request: DeleteRecordsRequest,
    /// One per partition of the request.
    outcomes: Vec<DeleteRecordsOutcome>,
}

pub(super) fn request(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: DeleteRecordsRequest = small::decode(body, call.version)?;
    let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0);
    let deadline = call.now.instant + Duration::from_millis(timeout_ms);
    let mut outcomes = vec![];
    let mut items = ByCore(vec![]);
    let mut seen = BTreeSet::new();
    for topic in &request.topics {
        let known = call.context.topic(TopicKey::Name(topic.name.as_str()));
        for partition in &topic.partitions {
            let place = outcomes.len() as u32;
            let index = PartitionIndex(partition.partition_index);
            let twice = !seen.insert((topic.name.as_str(), index));
            let routed = match known {
                // What the broker itself keeps there is not for others to delete.
                Ok(topic) if topic.is_internal() => Err(ErrorCode::InvalidTopicException),
                Ok(_) if twice => Err(ErrorCode::InvalidRequest),
                known => known.and_then(|topic| call.context.route(topic, index)),
            };
            let error = match routed {
                Ok((topic_partition, core)) => {
                    let item = DeleteRecordsItem {
                        topic_partition,
                        place,
                        offset: partition.offset,
                        outcome: DeleteRecordsOutcome::error(ErrorCode::None),
                    };
                    items.add(core, item);
                    ErrorCode::UnknownServerError
                }
                Err(error) => error,
            };
            outcomes.push(DeleteRecordsOutcome::error(error));
        }
    }
    let (version, correlation_id) = (call.version, call.correlation_id);
    let pending = PendingDeleteRecords { version, correlation_id, request, outcomes };
    let parts = items.work(|items| Work::DeleteRecords(DeleteRecordsWork { deadline, items }));
    if parts.is_empty() {
        pending.respond(answer)?;
        return Ok(Outcome::Done);
    }
    Ok(Outcome::Work(Pending::DeleteRecords(pending), parts))
}

impl PendingDeleteRecords {
    pub(super) fn fill(&mut self, work: DeleteRecordsWork) {
        for item in work.items {
            self.outcomes[item.place as usize] = item.outcome;
        }
    }

    pub(super) fn respond(self, answer: &mut Answer) -> Result<(), WireError> {
        let mut outcomes = self.outcomes.into_iter();
        let mut response = DeleteRecordsResponse::default();
        for topic in self.request.topics {
            let mut row = DeleteRecordsTopicResult::default();
            row.name = topic.name;
            for (partition, outcome) in topic.partitions.iter().zip(&mut outcomes) {
                let mut cell = DeleteRecordsPartitionResult::default();
                cell.partition_index = partition.partition_index;
                cell.low_watermark = outcome.low_watermark;
                cell.error_code = outcome.error.code();
                row.partitions.push(cell);
            }
            response.topics.push(row);
        }
        super::encode_small(answer, self.correlation_id, self.version, &response)
    }
}
