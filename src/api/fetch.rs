//! Fetch (KIP-74, KIP-227 without sessions, KIP-516): records from partitions.
//!
//! Sessions are never granted: the session id is 0, which every client takes as
//! leave to send full requests.

use std::time::Duration;

use super::{Answer, Call, Outcome, Pending, Pools};
use crate::base::pages::PageSlice;
use crate::model::error_code::ErrorCode;
use crate::replica::work::{FetchItem, FetchOutcome, FetchWork, Work};
use crate::wire::WireError;
use crate::wire::fetch::{FetchRequest, FetchResponseEncoder, IsolationLevel, PartitionHead};

/// A Fetch answer that waits for its pieces.
#[derive(Debug)]
pub struct PendingFetch {
    /// The request's body; the answer follows its order.
    body: PageSlice,
    version: i16,
    correlation_id: i32,
    min_bytes: usize,
    bytes: usize,
    failed: bool,
    /// One per partition of the request.
    outcomes: Vec<FetchOutcome>,
}

pub(super) fn request(
    call: &Call<'_>,
    body: PageSlice,
    pools: &mut Pools,
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request = FetchRequest::decode(&body, call.version)?;
    let (version, correlation_id) = (call.version, call.correlation_id);
    if request.session_id != 0 && request.session_epoch > 0 {
        // No session was ever granted (FetchManager.java).
        let error = ErrorCode::FetchSessionIdNotFound;
        let (out, cuts) = (&mut answer.bytes, &mut answer.cuts);
        FetchResponseEncoder::begin(out, cuts, version, correlation_id, 0, error, 0).finish(&[]);
        return Ok(Outcome::Done);
    }
    let size = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = call.now.instant + wait;
    let min_bytes = size(request.min_bytes);
    let max_bytes = size(request.max_bytes).min(call.context.fetch_max_bytes);
    let mut outcomes = pools.fetch_outcomes.pop().unwrap_or_default();
    let mut parts = pools.parts.pop().unwrap_or_default();
    let mut known = None;
    for (place, partition) in (0_u32..).zip(request.partitions()) {
        if partition.first_in_topic {
            known = Some(call.context.topic(partition.topic));
        }
        let topic = known.expect("a partition follows its topic");
        let routed = topic.and_then(|topic| call.context.route(topic, partition.partition));
        let mut outcome = FetchOutcome::default();
        match routed {
            Err(error) => outcome.error = error,
            Ok((topic_partition, core)) => {
                let item = FetchItem {
                    topic_partition,
                    place,
                    fetch_offset: partition.fetch_offset,
                    max_bytes: size(partition.partition_max_bytes),
                    current_leader_epoch: partition.current_leader_epoch.0,
                    outcome: FetchOutcome {
                        records: pools.ropes.pop().unwrap_or_default(),
                        ..FetchOutcome::default()
                    },
                };
                match parts.iter_mut().find(|(known, _)| *known == core) {
                    Some((_, Work::Fetch(work))) => work.items.push(item),
                    Some((_, other)) => unreachable!("{other:?} among fetch pieces"),
                    None => {
                        let mut items = pools.fetch.pop().unwrap_or_default();
                        items.push(item);
                        let work = FetchWork { min_bytes, deadline, max_bytes, items };
                        parts.push((core, Work::Fetch(work)));
                    }
                }
            }
        }
        outcomes.push(outcome);
    }
    let failed = outcomes.iter().any(|outcome| outcome.error != ErrorCode::None);
    if failed || parts.len() > 1 {
        let cores = parts.len();
        for (_, work) in &mut parts {
            let Work::Fetch(work) = work else { unreachable!("only fetch pieces are made here") };
            // Each core answers as soon as it has anything; an error does not wait.
            work.max_bytes = (max_bytes / cores).max(1);
            work.min_bytes = if failed { 0 } else { min_bytes.min(1) };
        }
    }
    let pending =
        PendingFetch { body, version, correlation_id, min_bytes, bytes: 0, failed, outcomes };
    if parts.is_empty() {
        pools.parts.push(parts);
        pending.respond(pools, answer);
        return Ok(Outcome::Done);
    }
    Ok(Outcome::Work(Pending::Fetch(pending), parts))
}

impl PendingFetch {
    pub(super) fn fill(&mut self, work: FetchWork, pools: &mut Pools) {
        let mut items = work.items;
        for item in items.drain(..) {
            self.bytes += item.outcome.records.len();
            self.failed |= item.outcome.error != ErrorCode::None;
            self.outcomes[item.place as usize] = item.outcome;
        }
        pools.fetch.push(items);
    }

    pub(super) fn is_enough(&self) -> bool {
        self.failed || (self.bytes > 0 && self.bytes >= self.min_bytes)
    }

    pub(super) fn respond(mut self, pools: &mut Pools, answer: &mut Answer) {
        let request = FetchRequest::decode(&self.body, self.version)
            .expect("the same bytes were decoded before");
        let Answer { bytes, cuts, records, .. } = answer;
        let committed_only = request.isolation_level == IsolationLevel::ReadCommitted;
        let mut encoder = FetchResponseEncoder::begin(
            bytes,
            cuts,
            self.version,
            self.correlation_id,
            0,
            ErrorCode::None,
            request.topic_count(),
        );
        for (partition, outcome) in request.partitions().zip(self.outcomes.drain(..)) {
            if partition.first_in_topic {
                encoder.topic(partition.topic, partition.partitions_in_topic);
            }
            let head = PartitionHead {
                partition: partition.partition,
                error: outcome.error,
                high_watermark: outcome.high_watermark,
                // Without transactions everything committed is stable.
                last_stable_offset: outcome.high_watermark,
                log_start_offset: outcome.log_start_offset,
                aborted: committed_only.then_some(&[]),
                diverging_epoch: None,
                current_leader: None,
            };
            encoder.partition(&head, outcome.records.len());
            if outcome.records.is_empty() {
                pools.ropes.push(outcome.records);
            } else {
                records.push(outcome.records);
            }
        }
        encoder.finish(&[]);
        pools.fetch_outcomes.push(self.outcomes);
    }
}
