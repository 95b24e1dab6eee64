//! Producers: batches of all sizes to several partitions, some of them bad.

use std::collections::BTreeMap;

use corelane::base::rng::Rng;
use corelane::model::record::{BatchBuilder, Codec};
use corelane::wire::small::uuid;
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{ProduceRequest, ProduceResponse};
use kafka_wire_core::{Bytes, StrBytes};

use crate::client::{Asked, Link, Request, Shared};
use crate::file::pick;
use crate::model::{TIMESTAMP, Tp, name};
use crate::queue::{MS, SEC};
use crate::wire;
use crate::world::SEGMENT_MIN;

/// Kafka's error codes that mean that the batch is not in the log.
pub const REFUSALS: &[i16] = &[2, 3, 6, 10, 76, 87, 100];
/// The broker does not open batches, so few producers pay for compression.
const CODECS: &[Codec] = &[Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// Requests of a producer that hears no answer and so feels no back-pressure:
/// it would fill the broker's memory with more than small segments can take in
/// minutes.
const SILENT_MAX: u64 = 400;

/// Attempts of a run beyond which only what progress needs is sent.
pub const ATTEMPTS_MAX: u64 = 3_000;

pub const CORRUPT_MESSAGE: i16 = 2;
const REQUEST_TIMED_OUT: i16 = 7;
const STORAGE_ERROR: i16 = 56;
const RECORD_LIST_TOO_LARGE: i16 = 18;

/// A producer.
pub struct Producer {
    acks: i16,
    most_open: usize,
    /// Names topics by id, and so writes to those that come and go.
    by_id: bool,
    version: i16,
    sizes: u64,
    codec: Codec,
    pause: u64,
    next_at: u64,
    /// On this connection: the last acknowledged offset by partition.
    last: BTreeMap<Tp, i64>,
    generation: u64,
    /// Acknowledgements since they were last counted.
    pub acked: BTreeMap<Tp, u64>,
    /// The last error by partition, to say why there are none.
    pub errors: BTreeMap<Tp, i16>,
    bad: Vec<u64>,
    /// Requests without an answer so far.
    silent: u64,
}

impl Producer {
    /// `exact`: every batch fills a block, so what a crash leaves of one is where
    /// another is expected.
    pub fn draw(rng: &mut Rng, exact: bool) -> Self {
        let by_id = rng.chance(1, 2);
        Self {
            acks: *pick(rng, &[-1, -1, -1, 1, 1, 0]),
            most_open: rng.between(1, 5) as usize,
            by_id,
            version: if by_id { 13 } else { rng.between(3, 12) as i16 },
            sizes: if exact { 2 } else { rng.below(5) },
            codec: if exact || rng.chance(3, 4) { Codec::None } else { *pick(rng, CODECS) },
            pause: *pick(rng, &[MS / 2, 3 * MS, 20 * MS]),
            next_at: 0,
            last: BTreeMap::new(),
            generation: 0,
            acked: BTreeMap::new(),
            errors: BTreeMap::new(),
            bad: vec![],
            silent: 0,
        }
    }

    /// Whether it is told what becomes of its batches.
    pub fn is_answered(&self) -> bool {
        self.acks != 0
    }

    /// Partitions it may write to.
    pub fn targets(&self, shared: &Shared) -> Vec<Tp> {
        let topics = shared.model.topics.iter();
        let mine = topics
            .filter(|(_, topic)| !topic.dying && !topic.keyed && (self.by_id || topic.stable));
        let all = mine.flat_map(|(id, topic)| (0..topic.partitions).map(|at| (*id, at)));
        all.filter(|tp| !(shared.calm && shared.model.is_damaged(*tp))).collect()
    }

    pub fn act(&mut self, link: &mut Link, shared: &mut Shared) -> u64 {
        let now = shared.queue.now();
        if shared.quiet || link.open() >= self.most_open {
            return u64::MAX;
        }
        if now < self.next_at {
            return self.next_at;
        }
        self.next_at = now + link.rng.between(0, self.pause);
        if self.generation != link.generation {
            self.generation = link.generation;
            self.last.clear();
        }
        let mut targets = self.targets(shared);
        let much = shared.model.next_attempt() > ATTEMPTS_MAX;
        if shared.calm {
            targets.retain(|tp| !self.acked.contains_key(tp));
        }
        let silent = self.acks == 0 && (much || shared.calm || self.silent > SILENT_MAX);
        let enough = silent || (much && !shared.calm);
        if targets.is_empty() || enough {
            return now + 20 * MS;
        }
        let mut chosen: Vec<Tp> = vec![];
        for _ in 0..link.rng.between(1, 3).min(targets.len() as u64) {
            chosen.push(targets.swap_remove(link.rng.below(targets.len() as u64) as usize));
        }
        chosen.sort_unstable();
        let mut attempts = vec![];
        let mut request = ProduceRequest::default();
        request.acks = self.acks;
        request.timeout_ms = *pick(&mut link.rng, &[300, 5_000, 30_000]);
        for tp in chosen {
            let (attempt, batch) = self.batch(link, shared, tp);
            attempts.push((tp, attempt));
            let mut partition = PartitionProduceData::default();
            partition.index = tp.1;
            partition.records = Some(Bytes::from(batch));
            let topic = &shared.model.topics[&tp.0];
            let known = request.topic_data.iter_mut().find(|row| {
                if self.by_id {
                    row.topic_id == uuid(tp.0)
                } else {
                    row.name.as_str() == topic.name
                }
            });
            match known {
                Some(row) => row.partition_data.push(partition),
                None => {
                    let mut row = TopicProduceData::default();
                    if self.by_id {
                        row.topic_id = uuid(tp.0);
                    } else {
                        row.name = StrBytes::from(topic.name.as_str());
                    }
                    row.partition_data.push(partition);
                    request.topic_data.push(row);
                }
            }
        }
        if self.acks == 0 {
            shared.coverage.one("acks=0 requests");
            self.silent += 1;
            link.send_silent(shared, &request, self.version);
        } else {
            let allowed = request.timeout_ms as u64 * MS;
            link.send(shared, &request, self.version, allowed, Asked::Produce(attempts));
        }
        self.next_at
    }

    /// A batch for one partition, and the number of this attempt.
    fn batch(&mut self, link: &mut Link, shared: &mut Shared, tp: Tp) -> (u64, Vec<u8>) {
        let attempt = shared.model.next_attempt();
        let rng = &mut link.rng;
        let (records, bytes) = match self.sizes {
            0 => (1, 500),
            1 => (rng.between(1, 20), rng.between(1, 500)),
            2 => (1, 4096 - 78),
            3 => (rng.between(1, 3), *pick(rng, &[10, 3_000, 20_000, 60_000])),
            _ if rng.chance(1, 10) => (1, 200_000),
            // Now and then what fits the smallest segment.
            _ if rng.chance(1, 4) => (1, 500),
            _ => (2, 9_000),
        };
        let mut builder = BatchBuilder::new(self.codec);
        for record in 0..records {
            let word = (attempt << 8 | record).to_le_bytes();
            let value = word.repeat(bytes as usize / 8 + 1);
            builder.push(
                TIMESTAMP + attempt as i64,
                Some(&word),
                Some(&value[..bytes as usize]),
                &[],
            );
        }
        let mut batch = builder.finish();
        shared.model.sent(tp, attempt, &batch);
        if self.acks != 0 && link.rng.chance(1, 60) {
            let at = link.rng.between(61, batch.len() as u64 - 1) as usize;
            batch[at] ^= 0x40;
            self.bad.push(attempt);
        }
        (attempt, batch)
    }

    pub fn answered(
        &mut self,
        _: &mut Link,
        shared: &mut Shared,
        request: Request,
        frame: Vec<u8>,
    ) {
        let Asked::Produce(attempts) = request.asked else {
            panic!("a producer asked {:?}", request.asked)
        };
        let answer: ProduceResponse = wire::answer(frame, request.api.api(), request.version);
        let outcomes = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
        assert_eq!(outcomes.clone().count(), attempts.len(), "an outcome for each partition");
        for ((tp, attempt), outcome) in attempts.into_iter().zip(outcomes) {
            assert_eq!(outcome.index, tp.1, "outcomes in the request's order");
            let bad = self.bad.contains(&attempt);
            self.errors.insert(tp, outcome.error_code);
            match outcome.error_code {
                0 => {
                    assert!(!bad, "a damaged batch was acknowledged");
                    let base = outcome.base_offset;
                    shared.model.acked(attempt, base);
                    let last = self.last.insert(tp, base);
                    assert!(
                        last.is_none_or(|last| last < base),
                        "a later batch of one connection got {base} in {} after {last:?}",
                        name(tp)
                    );
                    *self.acked.entry(tp).or_default() += 1;
                    shared.coverage.one(if self.acks == 1 {
                        "acks=1 acknowledged"
                    } else {
                        "acks=all acknowledged"
                    });
                }
                code if REFUSALS.contains(&code) => {
                    assert!(
                        (code == CORRUPT_MESSAGE) <= bad,
                        "an undamaged batch was refused as damaged"
                    );
                    if bad {
                        shared.coverage.one("refused: bad batches");
                    }
                    shared.model.refused(attempt);
                }
                RECORD_LIST_TOO_LARGE => {
                    let len = shared.model.len_of(attempt);
                    assert!(len > SEGMENT_MIN, "{len} bytes do not fit a segment");
                    shared.coverage.one("refused: larger than a segment");
                    shared.model.refused(attempt);
                }
                STORAGE_ERROR => shared.coverage.one("refused: storage errors"),
                REQUEST_TIMED_OUT => shared.coverage.one("refused: timed out"),
                other => panic!("a produce to {} was answered with error {other}", name(tp)),
            }
        }
        self.next_at = self.next_at.min(shared.queue.now() + SEC);
    }
}
