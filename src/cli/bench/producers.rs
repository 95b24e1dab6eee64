//! The sending side: producers that write at a rate or as fast as they may.
//!
//! At a rate the loop is open: every record has a moment at which it is due,
//! whatever the broker does, and its latency counts from there; a broker that
//! stalls pays for all that became due meanwhile (no coordinated omission). At
//! full speed the loop is closed: each connection keeps its requests in flight,
//! and latency counts from the moment a batch was sent.
//!
//! One thread serves all producers. Batches are made once for each number of
//! records and only stamped between sends; the stamp, the batch's base timestamp,
//! is the batch's number, by which readers find when its records were due.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::frames::{self, Produced};
use super::socket::{Socket, wait};
use super::tally::Tally;
use super::{BenchError, Partition};
use crate::base::rng::Rng;
use crate::model::batch::{BatchHeader, HEADER_LEN, batch_crc};
use crate::model::record::{BatchBuilder, Codec};

/// More than the lengths and deltas of one record take.
const RECORD_OVERHEAD: usize = 20;
const KEY_LEN: usize = 8;
/// The longest that the loop sleeps.
const TURN: Duration = Duration::from_millis(50);
/// How long the last answers are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is to be written.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The topic, and where its partitions are led.
    pub topic: String,
    /// See `topic`.
    pub partitions: Vec<Partition>,
    /// Bytes of a record's value.
    pub record_size: usize,
    /// Bytes that a batch has at most before compression.
    pub batch_size: usize,
    /// Records that a batch has at most.
    pub batch_records: usize,
    /// How long a batch that is not full waits for more, at a rate.
    pub linger: Duration,
    /// Producers; each has its own connections and writes to all partitions.
    pub producers: usize,
    /// Kafka's acks: 0, 1 or -1.
    pub acks: i16,
    /// How batches are compressed.
    pub codec: Codec,
    /// Whether records have keys.
    pub keys: bool,
    /// Requests that a connection keeps open.
    pub in_flight: usize,
    /// Records per second of all producers together; full speed without.
    pub rate: Option<f64>,
    /// What is measured, after the warm-up.
    pub duration: Duration,
    /// What is not measured.
    pub warmup: Duration,
}

/// When the records of a batch were due.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// The first one, nanoseconds from the start.
    pub first: u64,
    /// Nanoseconds between two.
    pub interval: f64,
}

impl Due {
    /// The latencies of `records` records that are there at `now`.
    pub fn latencies(&self, records: u64, now: u64) -> impl Iterator<Item = u64> + use<> {
        let Due { first, interval } = *self;
        (0..records).map(move |n| now.saturating_sub(first + (n as f64 * interval) as u64))
    }
}

/// When the batches of a run were due, by their stamps.
#[derive(Debug, Default)]
pub struct Stamps {
    /// The stamp of the first.
    pub base: i64,
    due: Mutex<Vec<Due>>,
}

impl Stamps {
    /// Stamps that begin at `base`.
    pub fn new(base: i64) -> Self {
        Self { base, due: Mutex::default() }
    }

    fn put(&self, due: Due) -> i64 {
        let mut all = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(due);
        self.base + all.len() as i64 - 1
    }

    /// When the records of the batch with this stamp were due, if it is of this run.
    pub fn get(&self, stamp: i64) -> Option<Due> {
        let at = usize::try_from(stamp.checked_sub(self.base)?).ok()?;
        self.due.lock().unwrap_or_else(PoisonError::into_inner).get(at).copied()
    }
}

/// Batches of each number of records.
struct Templates<'a> {
    plan: &'a Plan,
    rng: Rng,
    by_count: Vec<Vec<u8>>,
}

impl<'a> Templates<'a> {
    fn new(plan: &'a Plan, seed: u64) -> Self {
        let key = if plan.keys { KEY_LEN } else { 0 };
        let fitting = (plan.batch_size.saturating_sub(HEADER_LEN))
            / (plan.record_size + key + RECORD_OVERHEAD);
        let most = fitting.clamp(1, plan.batch_records);
        Self { plan, rng: Rng::new(seed), by_count: vec![vec![]; most + 1] }
    }

    fn most(&self) -> usize {
        self.by_count.len() - 1
    }

    fn batch(&mut self, records: usize) -> &mut [u8] {
        if self.by_count[records].is_empty() {
            let mut builder = BatchBuilder::new(self.plan.codec);
            let mut value = vec![0; self.plan.record_size];
            for _ in 0..records {
                // Text-like noise: half of its bits are not there, so codecs find something.
                value.fill_with(|| b'a' + (self.rng.next_u64() & 15) as u8);
                let key = self.rng.next_u64().to_be_bytes();
                builder.push(0, self.plan.keys.then_some(&key[..]), Some(&value), &[]);
            }
            self.by_count[records] = builder.finish();
        }
        &mut self.by_count[records]
    }
}

/// Writes `stamp` as a batch's timestamps.
fn stamp(batch: &mut [u8], stamp: i64) {
    let mut header = BatchHeader::decode(batch).expect("a whole batch");
    (header.base_timestamp, header.max_timestamp) = (stamp, stamp);
    batch[..HEADER_LEN].copy_from_slice(&header.encode());
    header.crc = batch_crc(batch);
    batch[..HEADER_LEN].copy_from_slice(&header.encode());
}

struct Flight {
    correlation_id: i32,
    due: Due,
    records: u64,
    bytes: u64,
}

/// One producer's place in the schedule.
struct Producer {
    /// Its connections, by broker.
    sockets: Range<usize>,
    /// Where the next batch goes.
    route: usize,
    /// When its next record is due, nanoseconds from the start.
    next: f64,
}

struct Connection {
    flights: VecDeque<Flight>,
    next_correlation_id: i32,
}

struct Producers<'a> {
    plan: &'a Plan,
    templates: Templates<'a>,
    stamps: &'a Stamps,
    sockets: Vec<Socket>,
    connections: Vec<Connection>,
    producers: Vec<Producer>,
    /// For each partition, which of a producer's sockets leads to its leader.
    routes: Vec<usize>,
    /// Nanoseconds between two records of one producer.
    interval: f64,
    start: Instant,
    scratch: Vec<u8>,
    tally: &'a mut Tally,
}

/// Runs the plan to its end and counts into `tally`; `each_second` is called
/// about once a second.
pub fn run(
    plan: &Plan,
    stamps: &Arc<Stamps>,
    start: Instant,
    tally: &mut Tally,
    each_second: &mut dyn FnMut(&Tally),
) -> Result<(), BenchError> {
    let mut addresses: BTreeMap<&str, usize> = BTreeMap::new();
    let routes = plan.partitions.iter().map(|partition| {
        let next = addresses.len();
        *addresses.entry(&partition.leader).or_insert(next)
    });
    let routes: Vec<usize> = routes.collect();
    let mut order: Vec<(&str, usize)> = addresses.into_iter().collect();
    order.sort_by_key(|(_, at)| *at);
    let mut sockets = vec![];
    let mut producers = vec![];
    let interval = plan.rate.map_or(0.0, |rate| 1e9 * plan.producers as f64 / rate);
    for n in 0..plan.producers {
        let first = sockets.len();
        for (address, _) in &order {
            let socket = Socket::connect(address)
                .map_err(|error| BenchError::Connection((*address).to_owned(), error))?;
            sockets.push(socket);
        }
        producers.push(Producer {
            sockets: first..sockets.len(),
            route: n % plan.partitions.len(),
            // Spread, so that producers are not due together.
            next: interval * n as f64 / plan.producers as f64,
        });
    }
    let connections =
        sockets.iter().map(|_| Connection { flights: VecDeque::new(), next_correlation_id: 0 });
    let mut run = Producers {
        plan,
        templates: Templates::new(plan, 1),
        stamps,
        connections: connections.collect(),
        sockets,
        producers,
        routes,
        interval,
        start,
        scratch: vec![],
        tally,
    };
    run.run(each_second)
}

impl Producers<'_> {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn run(&mut self, each_second: &mut dyn FnMut(&Tally)) -> Result<(), BenchError> {
        let end = (self.plan.warmup + self.plan.duration).as_nanos() as u64;
        let mut ready = VecDeque::new();
        let mut told = 0;
        loop {
            let now = self.now();
            let sending = now < end;
            if sending {
                for producer in 0..self.producers.len() {
                    self.fill(producer, now).map_err(|error| self.broken(error))?;
                }
            } else if self.connections.iter().all(|connection| connection.flights.is_empty())
                && !self.sockets.iter().any(Socket::is_sending)
            {
                return Ok(());
            } else if now > end + PATIENCE.as_nanos() as u64 {
                return Err(BenchError::Unanswered(
                    self.connections.iter().map(|connection| connection.flights.len()).sum(),
                ));
            }
            let sleep = if sending { self.until_next(now) } else { TURN };
            wait(&self.sockets, sleep, &mut ready).map_err(|error| self.broken(error))?;
            while let Some(at) = ready.pop_front() {
                self.sockets[at].send().map_err(|error| self.broken(error))?;
                self.take_answers(at)?;
            }
            if self.now() / 1_000_000_000 > told {
                told = self.now() / 1_000_000_000;
                each_second(self.tally);
            }
        }
    }

    fn broken(&self, error: io::Error) -> BenchError {
        BenchError::Connection(self.plan.partitions[0].leader.clone(), error)
    }

    /// How long nothing is due.
    fn until_next(&self, now: u64) -> Duration {
        if self.plan.rate.is_none() {
            return TURN;
        }
        let linger = self.plan.linger.as_nanos() as f64;
        let next = self.producers.iter().filter_map(|producer| {
            // Who may not send waits for an answer, not for the time.
            let socket = producer.sockets.start + self.routes[producer.route];
            self.has_room(socket).then(|| {
                let full = producer.next + self.interval * (self.templates.most() - 1) as f64;
                (producer.next + linger).min(full)
            })
        });
        let next = next.fold(f64::INFINITY, f64::min);
        let wait = (next - now as f64).clamp(0.0, TURN.as_nanos() as f64);
        Duration::from_nanos(wait as u64)
    }

    fn has_room(&self, socket: usize) -> bool {
        self.connections[socket].flights.len() < self.plan.in_flight
            && !self.sockets[socket].is_sending()
    }

    /// Sends the batches of a producer that are due and have room.
    fn fill(&mut self, producer: usize, now: u64) -> io::Result<()> {
        let most = self.templates.most();
        // A producer that never waits (acks=0) lets the others have a turn, too.
        for _ in 0..self.plan.in_flight {
            let at = &self.producers[producer];
            let socket = at.sockets.start + self.routes[at.route];
            if !self.has_room(socket) {
                return Ok(());
            }
            let (due, records) = if self.plan.rate.is_some() {
                let waiting = ((now as f64 - at.next) / self.interval).floor() + 1.0;
                let lingered = now as f64 >= at.next + self.plan.linger.as_nanos() as f64;
                if waiting < 1.0 || (waiting < most as f64 && !lingered) {
                    return Ok(());
                }
                let due = Due { first: at.next as u64, interval: self.interval };
                (due, (waiting as usize).min(most))
            } else {
                (Due { first: now, interval: 0.0 }, most)
            };
            self.send(socket, self.producers[producer].route, due, records)?;
            let at = &mut self.producers[producer];
            at.next += self.interval * records as f64;
            at.route = (at.route + 1) % self.routes.len();
        }
        Ok(())
    }

    fn send(&mut self, socket: usize, route: usize, due: Due, records: usize) -> io::Result<()> {
        let batch = self.templates.batch(records);
        stamp(batch, self.stamps.put(due));
        let connection = &mut self.connections[socket];
        let correlation_id = connection.next_correlation_id;
        connection.next_correlation_id = correlation_id.wrapping_add(1);
        let (topic, partition) = (&self.plan.topic, self.plan.partitions[route].index);
        self.scratch.clear();
        frames::put_produce(
            &mut self.scratch,
            correlation_id,
            self.plan.acks,
            topic,
            partition,
            batch,
        );
        let bytes = (records * self.plan.record_size) as u64;
        self.sockets[socket].out.extend_from_slice(&self.scratch);
        self.sockets[socket].send()?;
        if self.plan.acks == 0 {
            let now = self.now();
            self.tally.count(now, records as u64, bytes);
        } else {
            let flight = Flight { correlation_id, due, records: records as u64, bytes };
            self.connections[socket].flights.push_back(flight);
        }
        Ok(())
    }

    fn take_answers(&mut self, at: usize) -> Result<(), BenchError> {
        let address = &self.plan.partitions[0].leader;
        let lost = |error| BenchError::Connection(address.clone(), error);
        while self.sockets[at].receive().map_err(lost)? {
            let now = self.start.elapsed().as_nanos() as u64;
            while let Some(answer) = self.sockets[at].answer() {
                let answer = frames::produced(answer).map_err(|_| BenchError::Protocol)?;
                let flight = self.connections[at].flights.pop_front();
                let Some(flight) = flight.filter(|flight| answers(&answer, flight)) else {
                    return Err(BenchError::Protocol);
                };
                if answer.error != 0 {
                    return Err(BenchError::Refused(answer.error));
                }
                self.tally.count(now, flight.records, flight.bytes);
                self.tally.latencies(now, flight.due, flight.records);
            }
        }
        Ok(())
    }
}

fn answers(answer: &Produced, flight: &Flight) -> bool {
    answer.correlation_id == flight.correlation_id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::validate;

    fn plan() -> Plan {
        Plan {
            topic: "t".to_owned(),
            partitions: vec![],
            record_size: 100,
            batch_size: 64 << 10,
            batch_records: usize::MAX,
            linger: Duration::ZERO,
            producers: 1,
            acks: -1,
            codec: Codec::None,
            keys: true,
            in_flight: 5,
            rate: None,
            duration: Duration::from_secs(1),
            warmup: Duration::ZERO,
        }
    }

    #[test]
    fn batches_fit_and_stay_whole_when_stamped() {
        for codec in [Codec::None, Codec::Lz4] {
            let plan = Plan { codec, ..plan() };
            let mut templates = Templates::new(&plan, 1);
            let most = templates.most();
            assert!((400..600).contains(&most), "{most}");
            for records in [1, most] {
                let batch = templates.batch(records);
                stamp(batch, 77);
                let header = validate(batch, 64 << 10).expect("a sound batch");
                assert_eq!((header.base_timestamp, header.record_count), (77, records as i32));
            }
        }
        let one = Plan { batch_records: 1, ..plan() };
        assert_eq!(Templates::new(&one, 1).most(), 1);
        let large = Plan { record_size: 1 << 20, ..plan() };
        assert_eq!(Templates::new(&large, 1).most(), 1);
    }

    #[test]
    fn latency_counts_from_the_moment_a_record_was_due() {
        let due = Due { first: 1_000, interval: 100.0 };
        assert_eq!(due.latencies(3, 1_500).collect::<Vec<_>>(), [500, 400, 300]);
        let stamps = Stamps::new(50);
        assert_eq!(stamps.put(due), 50);
        assert_eq!(stamps.get(50).map(|due| due.first), Some(1_000));
        assert!(stamps.get(51).is_none() && stamps.get(49).is_none());
    }
}
