//! OffsetForLeaderEpoch (KIP-101, KIP-320): where leader epochs end, by which a
//! client finds out that what it has read was cut off.

use super::{Answer, ByCore, Call, Outcome, Pending};
use crate::model::error_code::ErrorCode;
use crate::model::ids::PartitionIndex;
use crate::replica::work::{EpochEnd, EpochEndsItem, EpochEndsWork, Work};
use crate::wire::small::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use crate::wire::small::{self, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use crate::wire::{TopicKey, WireError};

/// An OffsetForLeaderEpoch answer that waits for its pieces.
#[derive(Debug)]
pub struct PendingEpochEnds {
    version: i16,
    correlation_id: i32,
    request: OffsetForLeaderEpochRequest,
    /// One per partition of the request.
    outcomes: Vec<EpochEnd>,
}

pub(super) fn request(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: OffsetForLeaderEpochRequest = small::decode(body, call.version)?;
    let mut outcomes = vec![];
    let mut items = ByCore(vec![]);
    for topic in &request.topics {
        let known = call.context.topic(TopicKey::Name(topic.topic.as_str()));
        for partition in &topic.partitions {
            let place = outcomes.len() as u32;
            let index = PartitionIndex(partition.partition);
            let routed = known.and_then(|topic| call.context.route(topic, index));
            let error = match routed {
                Ok((topic_partition, core)) => {
                    let item = EpochEndsItem {
                        topic_partition,
                        place,
                        current_leader_epoch: partition.current_leader_epoch,
                        leader_epoch: partition.leader_epoch,
                        outcome: EpochEnd::error(ErrorCode::None),
                    };
                    items.add(core, item);
                    ErrorCode::UnknownServerError
                }
                Err(error) => error,
            };
            outcomes.push(EpochEnd::error(error));
        }
    }
    let (version, correlation_id) = (call.version, call.correlation_id);
    let pending = PendingEpochEnds { version, correlation_id, request, outcomes };
    let parts = items.work(|items| Work::EpochEnds(EpochEndsWork { items }));
    if parts.is_empty() {
        pending.respond(answer)?;
        return Ok(Outcome::Done);
    }
    Ok(Outcome::Work(Pending::EpochEnds(pending), parts))
}

impl PendingEpochEnds {
    pub(super) fn fill(&mut self, work: EpochEndsWork) {
        for item in work.items {
            self.outcomes[item.place as usize] = item.outcome;
        }
    }

    pub(super) fn respond(self, answer: &mut Answer) -> Result<(), WireError> {
        let mut outcomes = self.outcomes.into_iter();
        let mut response = OffsetForLeaderEpochResponse::default();
        for topic in self.request.topics {
            let mut row = OffsetForLeaderTopicResult::default();
            row.topic = topic.topic;
            for (partition, outcome) in topic.partitions.iter().zip(&mut outcomes) {
                let mut cell = EpochEndOffset::default();
                cell.partition = partition.partition;
                cell.error_code = outcome.error.code();
                cell.leader_epoch = outcome.leader_epoch;
                cell.end_offset = outcome.end_offset;
                row.partitions.push(cell);
            }
            response.topics.push(row);
        }
        super::encode_small(answer, self.correlation_id, self.version, &response)
    }
}
