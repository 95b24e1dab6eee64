//! Produce (KIP-98, KIP-516): batches to their partitions, offsets back.

use std::time::Duration;

use super::{Answer, Call, Outcome, Pending, Pools};
use crate::base::pages::PageSlice;
use crate::model::error_code::ErrorCode;
use crate::replica::work::{ProduceItem, ProduceOutcome, ProduceWork, Work};
use crate::wire::WireError;
use crate::wire::produce::{PartitionOutcome, ProduceRequest, ProduceResponseEncoder};

/// A Produce answer that waits for its pieces.
#[derive(Debug)]
pub struct PendingProduce {
    /// The request's body; the answer follows its order.
    body: PageSlice,
    version: i16,
    correlation_id: i32,
    acks: i16,
    /// One per partition of the request.
    outcomes: Vec<ProduceOutcome>,
}

pub(super) fn request(
    call: &Call<'_>,
    body: PageSlice,
    pools: &mut Pools,
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request = ProduceRequest::decode(&body, call.version)?;
    let mut outcomes = pools.produce_outcomes.pop().unwrap_or_default();
    let mut parts = pools.parts.pop().unwrap_or_default();
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let deadline = call.now.instant + timeout;
    let refuse_all = refusal(&request);
    let mut known = None;
    for (place, partition) in (0_u32..).zip(request.partitions()) {
        if partition.first_in_topic {
            known = Some(call.context.topic(partition.topic));
        }
        let topic = known.expect("a partition follows its topic");
        // Clients do not write what only coordinators may say.
        let routed = topic.and_then(|topic| match topic.is_internal() {
            true => Err(ErrorCode::InvalidTopicException),
            false => call.context.route(topic, partition.partition),
        });
        let records = partition.records.unwrap_or_default();
        let refused = match (refuse_all.clone(), routed) {
            (Some(refused), _) => Some(refused),
            (None, Err(error)) => Some(ProduceOutcome::error(error, None)),
            (None, Ok((topic_partition, core))) => {
                let item = ProduceItem {
                    topic_partition,
                    place,
                    records: Some(body.slice(records.clone())),
                    outcome: ProduceOutcome::error(ErrorCode::None, None),
                };
                let known = parts.iter_mut().find(|(known, _)| *known == core);
                match known {
                    Some((_, Work::Produce(work))) => work.items.push(item),
                    Some((_, other)) => unreachable!("{other:?} among produce pieces"),
                    None => {
                        let mut items = pools.produce.pop().unwrap_or_default();
                        items.push(item);
                        let acks = request.acks;
                        parts.push((core, Work::Produce(ProduceWork { acks, deadline, items })));
                    }
                }
                None
            }
        };
        outcomes
            .push(refused.unwrap_or(ProduceOutcome::error(ErrorCode::UnknownServerError, None)));
    }
    let (version, correlation_id, acks) = (call.version, call.correlation_id, request.acks);
    let pending = PendingProduce { body, version, correlation_id, acks, outcomes };
    if parts.is_empty() {
        pools.parts.push(parts);
        pending.respond(pools, answer)?;
        return Ok(Outcome::Done);
    }
    Ok(Outcome::Work(Pending::Produce(pending), parts))
}

/// What every partition of the request is told, if it cannot be served at all.
fn refusal(request: &ProduceRequest<'_>) -> Option<ProduceOutcome> {
    if !matches!(request.acks, -1..=1) {
        let message = "acks must be 0, 1 or -1 (all)";
        return Some(ProduceOutcome::error(ErrorCode::InvalidRequiredAcks, Some(message)));
    }
    if request.transactional_id.is_some() {
        let message = "transactions are not supported yet";
        return Some(ProduceOutcome::error(ErrorCode::InvalidRequest, Some(message)));
    }
    None
}

impl PendingProduce {
    pub(super) fn fill(&mut self, work: ProduceWork, pools: &mut Pools) {
        let mut items = work.items;
        for item in items.drain(..) {
            self.outcomes[item.place as usize] = item.outcome;
        }
        pools.produce.push(items);
    }

    pub(super) fn respond(
        mut self,
        pools: &mut Pools,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        let failed = self.outcomes.iter().any(|outcome| outcome.error != ErrorCode::None);
        if self.acks != 0 {
            self.encode(answer)?;
        }
        self.outcomes.clear();
        pools.produce_outcomes.push(self.outcomes);
        if self.acks == 0 && failed {
            return Err(WireError::Malformed("a produce with acks=0 failed"));
        }
        Ok(())
    }

    fn encode(&self, answer: &mut Answer) -> Result<(), WireError> {
        let request = ProduceRequest::decode(&self.body, self.version)?;
        let (out, topics) = (&mut answer.bytes, request.topic_count());
        let mut encoder =
            ProduceResponseEncoder::begin(out, self.version, self.correlation_id, topics);
        for (partition, outcome) in request.partitions().zip(&self.outcomes) {
            if partition.first_in_topic {
                encoder.topic(partition.topic, partition.partitions_in_topic);
            }
            encoder.partition(&PartitionOutcome {
                partition: partition.partition,
                error: outcome.error,
                base_offset: outcome.base_offset,
                log_append_time_ms: outcome.append_time_ms,
                log_start_offset: outcome.log_start_offset,
                record_errors: &outcome.record_errors,
                error_message: outcome.message,
                current_leader: None,
            });
        }
        encoder.end(0, &[]);
        Ok(())
    }
}
