//! Idempotent producers: whatever is not acknowledged is sent again, the same
//! bytes under the same sequence numbers, over connections and runs of the
//! broker, until it is. Each batch must be in the log once.
//!
//! After an error everything that is not acknowledged goes again, in order, when
//! the answers to what is under way are in. A producer that a log does not know
//! any more begins anew under another id; only a log that may lose what it
//! acknowledged may forget a producer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use corelane::base::rng::Rng;
use corelane::model::record::{BatchBuilder, Codec};
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse};
use kafka_wire_core::{Bytes, StrBytes};

use crate::client::{Asked, Link, Request, Shared};
use crate::file::pick;
use crate::model::{Model, TIMESTAMP, Tp, name};
use crate::network::End;
use crate::producer::ATTEMPTS_MAX;
use crate::queue::MS;
use crate::wire;

const UNKNOWN_TOPIC: i16 = 3;
const NOT_LEADER: i16 = 6;
const REQUEST_TIMED_OUT: i16 = 7;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_CONTROLLER: i16 = 41;
const OUT_OF_ORDER_SEQUENCE: i16 = 45;
const STORAGE_ERROR: i16 = 56;

/// A batch that is not acknowledged.
struct Unacked {
    tp: Tp,
    attempt: u64,
    /// Counts the producer's batches of the partition.
    ordinal: u64,
    batch: Vec<u8>,
}

/// Batches of a producer that a log remembers.
const REMEMBERED: u64 = 5;

/// An idempotent producer.
pub struct Idempotent {
    most_open: usize,
    version: i16,
    bytes: u64,
    pause: u64,
    next_at: u64,
    generation: u64,
    id: Option<(i64, i16)>,
    sequences: BTreeMap<Tp, i32>,
    /// Batches so far.
    made: BTreeMap<Tp, u64>,
    /// Logs that have acknowledged a batch of this id.
    known: BTreeSet<Tp>,
    /// Oldest first; the first `sent` of them are under way.
    unacked: VecDeque<Unacked>,
    sent: usize,
    /// Something under way has failed: what is left goes again.
    failed: bool,
    /// Acknowledgements since they were last counted.
    pub acked: BTreeMap<Tp, u64>,
}

impl Idempotent {
    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            most_open: rng.between(1, 5) as usize,
            version: rng.between(3, 12) as i16,
            // Three such records fit the smallest segment.
            bytes: *pick(rng, &[10, 500, 4096 - 78, 5_000]),
            pause: *pick(rng, &[MS / 2, 3 * MS, 20 * MS]),
            next_at: 0,
            generation: 0,
            id: None,
            sequences: BTreeMap::new(),
            made: BTreeMap::new(),
            known: BTreeSet::new(),
            unacked: VecDeque::new(),
            sent: 0,
            failed: false,
            acked: BTreeMap::new(),
        }
    }

    /// Partitions it writes to: those that stay, since it goes on for ever.
    pub fn targets(&self, shared: &Shared) -> Vec<Tp> {
        let topics = shared.model.topics.iter().filter(|(_, topic)| topic.stable && !topic.keyed);
        let all = topics.flat_map(|(id, topic)| (0..topic.partitions).map(|at| (*id, at)));
        all.filter(|tp| !shared.model.is_damaged(*tp)).collect()
    }

    pub fn act(&mut self, link: &mut Link, shared: &mut Shared) -> u64 {
        let now = shared.queue.now();
        if self.generation != link.generation {
            self.generation = link.generation;
            self.go_back(shared);
        }
        if self.failed && link.open() == 0 {
            self.go_back(shared);
        }
        if shared.quiet || self.failed || link.open() >= self.most_open {
            return u64::MAX;
        }
        if now < self.next_at {
            return self.next_at;
        }
        self.next_at = now + link.rng.between(0, self.pause);
        if self.id.is_none() {
            if link.open() == 0 {
                let mut request = InitProducerIdRequest::default();
                request.transactional_id = None;
                request.producer_id = -1;
                request.producer_epoch = -1;
                let version = link.rng.between(0, 5) as i16;
                link.send(shared, &request, version, 0, Asked::ProducerId);
            }
            return u64::MAX;
        }
        if let Some(again) = self.unacked.get(self.sent) {
            shared.model.sent_again(again.attempt);
        } else {
            let mut targets = self.targets(shared);
            // A log that does not know the producer takes any of its batches as the
            // first: until one is acknowledged there is one under way.
            // And it remembers so many batches of a producer, and no older one.
            targets.retain(|tp| {
                let oldest = self.unacked.iter().find(|row| row.tp == *tp);
                let made = self.made.get(tp).copied().unwrap_or(0);
                oldest.is_none_or(|oldest| {
                    self.known.contains(tp) && made - oldest.ordinal < REMEMBERED
                })
            });
            if shared.calm || shared.model.next_attempt() > ATTEMPTS_MAX {
                targets.retain(|tp| shared.calm && !self.acked.contains_key(tp));
            }
            if targets.is_empty() {
                return now + 20 * MS;
            }
            let tp = *pick(&mut link.rng, &targets);
            self.make(link, shared, tp);
        }
        self.send(link, shared);
        self.next_at
    }

    /// Everything that is not acknowledged is to be sent again, but for what goes to
    /// logs that may be offline for good.
    fn go_back(&mut self, shared: &Shared) {
        self.unacked.retain(|row| !shared.model.is_damaged(row.tp));
        self.sent = 0;
        self.failed = false;
    }

    fn make(&mut self, link: &mut Link, shared: &mut Shared, tp: Tp) {
        let attempt = shared.model.next_attempt();
        let (id, epoch) = self.id.expect("it has an id by now");
        let sequence = self.sequences.entry(tp).or_insert(0);
        let records = link.rng.between(1, 3);
        let mut builder = BatchBuilder::new(Codec::None).producer(id, epoch, *sequence);
        *sequence += records as i32;
        for record in 0..records {
            let word = (attempt << 8 | record).to_le_bytes();
            let value = word.repeat(self.bytes as usize / 8 + 1);
            let value = &value[..self.bytes as usize];
            builder.push(TIMESTAMP + attempt as i64, Some(&word), Some(value), &[]);
        }
        let batch = builder.finish();
        shared.model.sent(tp, attempt, &batch);
        let made = self.made.entry(tp).or_insert(0);
        self.unacked.push_back(Unacked { tp, attempt, ordinal: *made, batch });
        *made += 1;
    }

    /// Sends the next batch that is not under way.
    fn send(&mut self, link: &mut Link, shared: &mut Shared) {
        let next = &self.unacked[self.sent];
        let mut partition = PartitionProduceData::default();
        partition.index = next.tp.1;
        partition.records = Some(Bytes::from(next.batch.clone()));
        let mut topic = TopicProduceData::default();
        topic.name = StrBytes::from(shared.model.topics[&next.tp.0].name.as_str());
        topic.partition_data = vec![partition];
        let mut request = ProduceRequest::default();
        request.acks = -1;
        request.timeout_ms = *pick(&mut link.rng, &[5, 300, 5_000]);
        request.topic_data = vec![topic];
        let asked = Asked::Produce(vec![(next.tp, next.attempt)]);
        let allowed = request.timeout_ms as u64 * MS;
        self.sent += 1;
        link.send(shared, &request, self.version, allowed, asked);
    }

    pub fn answered(
        &mut self,
        link: &mut Link,
        shared: &mut Shared,
        request: Request,
        frame: Vec<u8>,
    ) {
        let (api, version) = (request.api.api(), request.version);
        match request.asked {
            Asked::ProducerId => {
                let answer: InitProducerIdResponse = wire::answer(frame, api, version);
                match answer.error_code {
                    0 => {
                        shared.coverage.one("producer ids");
                        self.id = Some((answer.producer_id, answer.producer_epoch));
                        shared.model.producer_id(answer.producer_id);
                    }
                    COORDINATOR_NOT_AVAILABLE | NOT_CONTROLLER | STORAGE_ERROR => {
                        self.next_at = shared.queue.now() + 20 * MS;
                    }
                    code => panic!("InitProducerId was answered with error {code}"),
                }
            }
            Asked::Produce(attempts) => {
                let answer: ProduceResponse = wire::answer(frame, api, version);
                let [(tp, attempt)] = attempts[..] else { panic!("one batch a request") };
                let rows = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
                let [row] = rows.collect::<Vec<_>>()[..] else { panic!("one outcome") };
                self.outcome(link, shared, tp, attempt, row.error_code, row.base_offset);
            }
            other => panic!("an idempotent producer asked {other:?}"),
        }
    }

    fn outcome(
        &mut self,
        link: &mut Link,
        shared: &mut Shared,
        tp: Tp,
        attempt: u64,
        error: i16,
        base: i64,
    ) {
        let at = self.unacked.iter().position(|unacked| unacked.attempt == attempt);
        let at = at.expect("what is under way is not acknowledged");
        match error {
            0 => {
                shared.model.acked(attempt, base);
                self.known.insert(tp);
                *self.acked.entry(tp).or_default() += 1;
                shared.coverage.one("idempotent batches acknowledged");
                self.unacked.remove(at);
                self.sent -= 1;
            }
            OUT_OF_ORDER_SEQUENCE if !self.unacked.iter().take(at).any(|row| row.tp == tp) => {
                assert!(
                    is_weak(&shared.model, tp),
                    "attempt {attempt} follows what {} acknowledged, and is refused",
                    name(tp)
                );
                shared.coverage.one("forgotten producers");
                *self = Self { acked: std::mem::take(&mut self.acked), ..self.anew() };
                link.leave(shared, End::Reset);
            }
            OUT_OF_ORDER_SEQUENCE
            | UNKNOWN_TOPIC
            | NOT_LEADER
            | REQUEST_TIMED_OUT
            | STORAGE_ERROR => {
                self.failed = true;
                self.next_at = shared.queue.now() + 20 * MS;
            }
            code => panic!("a produce to {} was answered with error {code}", name(tp)),
        }
    }

    /// The same producer without an id and without anything to send.
    fn anew(&self) -> Self {
        Self {
            id: None,
            sequences: BTreeMap::new(),
            made: BTreeMap::new(),
            known: BTreeSet::new(),
            unacked: VecDeque::new(),
            sent: 0,
            failed: false,
            acked: BTreeMap::new(),
            ..*self
        }
    }
}

fn is_weak(model: &Model, tp: Tp) -> bool {
    model.topics.get(&tp.0).is_some_and(|topic| !topic.strong)
}
