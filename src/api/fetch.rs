//! Fetch (KIP-74, KIP-227, KIP-516): records from partitions.
//!
//! A full request is answered in its own order and may open a session
//! ([`session`](super::session)); an incremental one is answered in the session's
//! order, without what has not changed.

use std::time::Duration;

use super::session::Wanted;
use super::{Answer, Call, Outcome, Pending, Pools};
use crate::base::limits::FETCH_BYTES_MAX;
use crate::base::pages::PageSlice;
use crate::base::time::Now;
use crate::metadata::image::Topic;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{CoreId, PartitionIndex};
use crate::replica::work::{FetchItem, FetchOutcome, FetchWork, Work};
use crate::wire::fetch::{
    FetchRequest, FetchResponseEncoder, IsolationLevel, PartitionHead, ResponseHead,
};
use crate::wire::{TopicKey, WireError};

/// A request with this epoch opens a session (`FetchMetadata.INITIAL_EPOCH`).
const OPEN: i32 = 0;

/// A request with this epoch is not of a session, or ends one
/// (`FetchMetadata.FINAL_EPOCH`).
const NO_SESSION: i32 = -1;

/// A Fetch answer that waits for its pieces.
#[derive(Debug)]
pub struct PendingFetch {
    version: i16,
    correlation_id: i32,
    asked: Now,
    committed_only: bool,
    min_bytes: usize,
    max_bytes: usize,
    bytes: usize,
    failed: bool,
    order: Order,
    /// One per partition, in that order.
    outcomes: Vec<FetchOutcome>,
}

/// What an answer follows.
#[derive(Debug)]
enum Order {
    /// The request's body.
    Request { body: PageSlice, opens_session: bool },
    /// What a session wanted when its request came.
    Session { id: i32, epoch: i32, wanted: Vec<Wanted> },
}

pub(super) fn request(
    call: &Call<'_>,
    body: PageSlice,
    pools: &mut Pools,
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request = FetchRequest::decode(&body, call.version)?;
    let size = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = call.now.instant + wait;
    let max_bytes = size(request.max_bytes).min(call.context.fetch_max_bytes);
    // More than is ever answered is not waited for.
    let min_bytes = size(request.min_bytes).min(max_bytes).min(FETCH_BYTES_MAX);
    let committed_only = request.isolation_level == IsolationLevel::ReadCommitted;

    let mut wanted = pools.wanted.pop().unwrap_or_default();
    let session = match request.session_epoch {
        OPEN | NO_SESSION => {
            pools.sessions.remove(request.session_id);
            None
        }
        _ => match pools.sessions.resume(&request, call.version, call.now, &mut wanted) {
            Ok(epoch) => epoch,
            Err(error) => {
                pools.wanted.push(wanted);
                refuse(call.version, call.correlation_id, error, answer);
                return Ok(Outcome::Done);
            }
        },
    };

    let mut spread = Spread {
        call,
        outcomes: pools.fetch_outcomes.pop().unwrap_or_default(),
        parts: pools.parts.pop().unwrap_or_default(),
        empty: FetchWork { min_bytes, deadline, max_bytes, items: vec![] },
        pools,
    };
    let order = if let Some(epoch) = session {
        let mut known: Option<(TopicKey<'_>, Result<&Topic, ErrorCode>)> = None;
        for row in &wanted {
            let key = row.topic.key();
            let topic = match known {
                Some((last, topic)) if last == key => topic,
                _ => call.context.topic(key).map(|topic| &**topic),
            };
            known = Some((key, topic));
            spread.add(topic, row.partition, |item| {
                item.fetch_offset = row.fetch_offset;
                item.max_bytes = size(row.max_bytes);
                item.current_leader_epoch = row.current_leader_epoch;
            });
        }
        Order::Session { id: request.session_id, epoch, wanted }
    } else {
        spread.pools.wanted.push(wanted);
        let mut known = None;
        for partition in request.partitions() {
            if partition.first_in_topic {
                known = Some(call.context.topic(partition.topic).map(|topic| &**topic));
            }
            let topic = known.expect("a partition follows its topic");
            spread.add(topic, partition.partition, |item| {
                item.fetch_offset = partition.fetch_offset;
                item.max_bytes = size(partition.partition_max_bytes);
                item.current_leader_epoch = partition.current_leader_epoch.0;
            });
        }
        let opens_session = request.session_epoch == OPEN;
        Order::Request { body, opens_session }
    };

    let Spread { outcomes, mut parts, .. } = spread;
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
    let pending = PendingFetch {
        version: call.version,
        correlation_id: call.correlation_id,
        asked: call.now,
        committed_only,
        min_bytes,
        max_bytes,
        bytes: 0,
        failed,
        order,
        outcomes,
    };
    if parts.is_empty() {
        pools.parts.push(parts);
        pending.respond(pools, answer);
        return Ok(Outcome::Done);
    }
    Ok(Outcome::Work(Pending::Fetch(pending), parts))
}

/// The partitions of a request on their way to their cores.
struct Spread<'a> {
    call: &'a Call<'a>,
    pools: &'a mut Pools,
    outcomes: Vec<FetchOutcome>,
    parts: Vec<(CoreId, Work)>,
    /// What a core's piece begins as.
    empty: FetchWork,
}

impl Spread<'_> {
    /// Adds the next partition; `fill` says how it is to be read.
    fn add(
        &mut self,
        topic: Result<&Topic, ErrorCode>,
        partition: PartitionIndex,
        fill: impl FnOnce(&mut FetchItem),
    ) {
        let place = self.outcomes.len() as u32;
        let mut outcome = FetchOutcome::default();
        match topic.and_then(|topic| self.call.context.route(topic, partition)) {
            Err(error) => outcome.error = error,
            Ok((topic_partition, core)) => {
                let records = self.pools.ropes.pop().unwrap_or_default();
                let mut item = FetchItem {
                    topic_partition,
                    place,
                    fetch_offset: 0,
                    max_bytes: 0,
                    current_leader_epoch: -1,
                    outcome: FetchOutcome { records, ..FetchOutcome::default() },
                };
                fill(&mut item);
                match self.parts.iter_mut().find(|(known, _)| *known == core) {
                    Some((_, Work::Fetch(work))) => work.items.push(item),
                    Some((_, other)) => unreachable!("{other:?} among fetch pieces"),
                    None => {
                        let mut items = self.pools.fetch.pop().unwrap_or_default();
                        items.push(item);
                        let work = Work::Fetch(FetchWork { items, ..self.empty });
                        self.parts.push((core, work));
                    }
                }
            }
        }
        self.outcomes.push(outcome);
    }
}

/// Answers the whole request with an error.
fn refuse(version: i16, correlation_id: i32, error: ErrorCode, answer: &mut Answer) {
    let (throttle_time_ms, session_id, topics) = (0, 0, 0);
    let head =
        ResponseHead { version, correlation_id, throttle_time_ms, error, session_id, topics };
    FetchResponseEncoder::begin(&mut answer.bytes, &mut answer.cuts, &head).finish(&[]);
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
        self.keep_within_bounds();
        match std::mem::replace(&mut self.order, Order::Session { id: 0, epoch: 0, wanted: vec![] })
        {
            Order::Request { body, opens_session } => {
                let request = FetchRequest::decode(&body, self.version)
                    .expect("the same bytes were decoded before");
                let session_id = if opens_session {
                    pools.sessions.grant(&request, self.version, self.asked, &self.outcomes)
                } else {
                    0
                };
                let mut encoder = self.begin(session_id, request.topic_count(), answer);
                for (partition, outcome) in request.partitions().zip(&self.outcomes) {
                    if partition.first_in_topic {
                        encoder.topic(partition.topic, partition.partitions_in_topic);
                    }
                    let head = self.head(partition.partition, outcome);
                    encoder.partition(&head, outcome.records.len());
                }
                encoder.finish(&[]);
            }
            Order::Session { id, epoch, mut wanted } => {
                match pools.sessions.settle(id, epoch, &mut wanted, &mut self.outcomes) {
                    Ok(()) => self.encode_session(id, &wanted, answer),
                    Err(error) => {
                        self.outcomes.clear();
                        refuse(self.version, self.correlation_id, error, answer);
                    }
                }
                wanted.clear();
                pools.wanted.push(wanted);
            }
        }
        for outcome in self.outcomes.drain(..) {
            if outcome.records.is_empty() {
                pools.ropes.push(outcome.records);
            } else {
                answer.records.push(outcome.records);
            }
        }
        pools.fetch_outcomes.push(self.outcomes);
    }

    /// Drops records beyond the request's `max_bytes`, but for the first ones:
    /// every core's piece may have begun with a batch that is larger.
    fn keep_within_bounds(&mut self) {
        let mut bytes = 0;
        for outcome in &mut self.outcomes {
            if bytes > 0 && bytes + outcome.records.len() > self.max_bytes {
                outcome.records.clear();
            }
            bytes += outcome.records.len();
        }
    }

    /// What is to be said of a session, neighbours of one topic together.
    fn encode_session(&self, id: i32, wanted: &[Wanted], answer: &mut Answer) {
        let topics = || wanted.chunk_by(|one, next| one.topic == next.topic);
        let mut outcomes = self.outcomes.iter();
        let mut encoder = self.begin(id, topics().count(), answer);
        for rows in topics() {
            encoder.topic(rows[0].topic.key(), rows.len());
            for (row, outcome) in rows.iter().zip(&mut outcomes) {
                encoder.partition(&self.head(row.partition, outcome), outcome.records.len());
            }
        }
        encoder.finish(&[]);
    }

    fn begin<'o>(
        &self,
        session_id: i32,
        topics: usize,
        answer: &'o mut Answer,
    ) -> FetchResponseEncoder<'o> {
        let head = ResponseHead {
            version: self.version,
            correlation_id: self.correlation_id,
            throttle_time_ms: 0,
            error: ErrorCode::None,
            session_id,
            topics,
        };
        FetchResponseEncoder::begin(&mut answer.bytes, &mut answer.cuts, &head)
    }

    fn head(&self, partition: PartitionIndex, outcome: &FetchOutcome) -> PartitionHead<'static> {
        PartitionHead {
            partition,
            error: outcome.error,
            high_watermark: outcome.high_watermark,
            // Without transactions everything committed is stable.
            last_stable_offset: outcome.high_watermark,
            log_start_offset: outcome.log_start_offset,
            aborted: self.committed_only.then_some(&[]),
            diverging_epoch: None,
            current_leader: None,
        }
    }
}
