//! The reading side: consumers that share the partitions of a topic and fetch one
//! answer after another.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::frames::{self, FetchLimits};
use super::producers::Stamps;
use super::socket::{Socket, wait};
use super::tally::Tally;
use super::{BenchError, Partition};
use crate::model::batch::{BatchHeader, batch_crc};

const TURN: Duration = Duration::from_millis(50);

/// What is to be read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The topic, and where its partitions are led.
    pub topic: String,
    /// See `topic`.
    pub partitions: Vec<Partition>,
    /// Where reading starts, by partition.
    pub from: BTreeMap<i32, i64>,
    /// Consumers; partition N is read by consumer N modulo their number, unless
    /// every one reads all.
    pub consumers: usize,
    /// Every consumer reads all partitions.
    pub all: bool,
    /// How each fetch is bounded.
    pub limits: FetchLimits,
    /// Records after which the run is over.
    pub records: u64,
    /// Whether it is over once everything that is there has been read.
    pub until_end: bool,
    /// How long it takes at most.
    pub duration: Duration,
}

/// A connection's partitions: where each goes on, and whether its end was seen.
struct Consumer {
    address: String,
    positions: BTreeMap<i32, (i64, bool)>,
    next_correlation_id: i32,
}

/// Reads until the plan's end or until `stop`. With `stamps`, the latency of each
/// record is counted, too.
pub fn run(
    plan: &Plan,
    stamps: Option<&Stamps>,
    start: Instant,
    stop: &AtomicBool,
    tally: &mut Tally,
    each_second: &mut dyn FnMut(&Tally),
) -> Result<(), BenchError> {
    let (mut consumers, mut sockets) = (vec![], vec![]);
    for n in 0..plan.consumers {
        let mut by_leader: BTreeMap<&str, BTreeMap<i32, (i64, bool)>> = BTreeMap::new();
        for (at, partition) in plan.partitions.iter().enumerate() {
            if plan.all || at % plan.consumers == n {
                let from = plan.from.get(&partition.index).copied().unwrap_or(0);
                by_leader
                    .entry(&partition.leader)
                    .or_default()
                    .insert(partition.index, (from, false));
            }
        }
        for (address, positions) in by_leader {
            let socket = Socket::connect(address)
                .map_err(|error| BenchError::Connection(address.to_owned(), error))?;
            sockets.push(socket);
            let address = address.to_owned();
            consumers.push(Consumer { address, positions, next_correlation_id: 0 });
        }
    }
    for (consumer, socket) in consumers.iter_mut().zip(&mut sockets) {
        consumer.ask(plan, socket)?;
    }
    let mut ready = VecDeque::new();
    let mut told = 0;
    loop {
        let read_all =
            plan.until_end && consumers.iter().all(|c| c.positions.values().all(|(_, end)| *end));
        let over = start.elapsed() >= plan.duration || tally.records >= plan.records;
        if read_all || over || stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let lost = |error| BenchError::Connection(consumers[0].address.clone(), error);
        wait(&sockets, TURN, &mut ready).map_err(lost)?;
        while let Some(at) = ready.pop_front() {
            let (consumer, socket) = (&mut consumers[at], &mut sockets[at]);
            let address = consumer.address.clone();
            let lost = |error| BenchError::Connection(address.clone(), error);
            socket.send().map_err(lost)?;
            while socket.receive().map_err(lost)? {
                let now = start.elapsed().as_nanos() as u64;
                let mut asks = false;
                while let Some(answer) = socket.answer() {
                    read(answer, &mut consumer.positions, stamps, now, tally)?;
                    asks = true;
                }
                if asks {
                    consumer.ask(plan, socket)?;
                }
            }
        }
        if start.elapsed().as_secs() > told {
            told = start.elapsed().as_secs();
            each_second(tally);
        }
    }
}

impl Consumer {
    fn ask(&mut self, plan: &Plan, socket: &mut Socket) -> Result<(), BenchError> {
        let id = self.next_correlation_id;
        self.next_correlation_id = id.wrapping_add(1);
        let positions = self.positions.iter().map(|(index, (offset, _))| (*index, *offset));
        frames::put_fetch(&mut socket.out, id, &plan.topic, &plan.limits, positions);
        socket.send().map_err(|error| BenchError::Connection(self.address.clone(), error))
    }
}

/// Counts the records of an answer and moves the positions on.
fn read(
    answer: &[u8],
    positions: &mut BTreeMap<i32, (i64, bool)>,
    stamps: Option<&Stamps>,
    now: u64,
    tally: &mut Tally,
) -> Result<(), BenchError> {
    let mut failed = None;
    let error = frames::fetched(answer, |row| {
        let Some((position, at_end)) = positions.get_mut(&row.partition) else {
            return;
        };
        if row.error != 0 {
            failed = Some(BenchError::Refused(row.error));
            return;
        }
        let mut rest = row.records;
        while let Some(header) = BatchHeader::decode(rest) {
            let Some(len) = header.total_len().filter(|len| *len <= rest.len()) else {
                break;
            };
            let (batch, after) = rest.split_at(len);
            rest = after;
            if header.crc != batch_crc(batch) {
                failed = Some(BenchError::Damaged(row.partition, header.base_offset));
                return;
            }
            // The first batch may begin before what was asked for.
            let skipped = (*position - header.base_offset).max(0);
            let count = u64::try_from(i64::from(header.record_count) - skipped).unwrap_or(0);
            *position = header.next_offset();
            tally.count(now, count, len as u64);
            if let Some(due) = stamps.and_then(|stamps| stamps.get(header.base_timestamp)) {
                tally.latencies(now, due, count);
            }
        }
        *at_end = *position >= row.high_watermark;
    })
    .map_err(|_| BenchError::Protocol)?;
    match failed {
        Some(error) => Err(error),
        None if error != 0 => Err(BenchError::Refused(error)),
        None => Ok(()),
    }
}
