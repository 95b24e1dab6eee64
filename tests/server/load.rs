//! Load on a broker, and an account of what has to be there afterwards.
//!
//! Every record has an identity, from which its bytes follow. What was
//! acknowledged or served has to be at its offset from then on, once, with the
//! same bytes; what was only sent is there once or not at all. Records of one
//! producer lie in each partition in the order they were sent. Nothing else is
//! in a partition, and its offsets have no gaps.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Write;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use corelane::base::rng::Rng;
use corelane::model::record::{BatchBuilder, Codec, Record};
use corelane::wire::client::ProduceRequest;
use corelane::wire::small::Bytes;

use crate::harness::wire::{self, Batch, Wire};
use crate::harness::{Broker, PATIENCE};

/// A topic under load.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    pub name: &'static str,
    pub partitions: i32,
    pub configs: &'static [(&'static str, &'static str)],
}

/// Synced before it is acknowledged; rolls often; flushed by nobody.
pub const SYNCED: Topic =
    Topic { name: "synced", partitions: 4, configs: &[("flush.messages", "1")] };
/// See [`SYNCED`].
pub const ROLLING: Topic =
    Topic { name: "rolling", partitions: 3, configs: &[("segment.bytes", "1048576")] };
/// See [`SYNCED`].
pub const RELAXED: Topic =
    Topic { name: "relaxed", partitions: 2, configs: &[("flush.messages", "1000000")] };

/// See [`SYNCED`]; so many partitions that their batches go to the journals.
pub const SPREAD: Topic =
    Topic { name: "spread", partitions: 60, configs: &[("flush.messages", "1")] };

/// A topic's place in the account, and a partition of it.
type Place = (usize, i32);

/// Who sent a record, and as which of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Id {
    producer: u32,
    sequence: u64,
}

impl Id {
    fn key(self) -> [u8; 12] {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&self.producer.to_be_bytes());
        key[4..].copy_from_slice(&self.sequence.to_be_bytes());
        key
    }

    fn of(record: &Record) -> Option<Self> {
        let key: [u8; 12] = record.key.as_deref()?.try_into().ok()?;
        let (producer, sequence) = key.split_first_chunk::<4>()?;
        let producer = u32::from_be_bytes(*producer);
        Some(Self { producer, sequence: u64::from_be_bytes(sequence.try_into().ok()?) })
    }

    /// Small ones mostly, a few of many blocks.
    fn value(self) -> Vec<u8> {
        let mut rng = Rng::new(u64::from(self.producer) << 32 ^ self.sequence);
        let len = match rng.below(100) {
            0..70 => rng.below(300),
            70..97 => rng.between(1_000, 5_000),
            _ => rng.between(20_000, 60_000),
        } as usize;
        let mut value = Vec::with_capacity(len + 8);
        while value.len() < len {
            value.extend_from_slice(&rng.next_u64().to_le_bytes());
        }
        value.truncate(len);
        value
    }

    fn timestamp_ms(self) -> i64 {
        1_700_000_000_000 + self.sequence as i64
    }

    /// Whether this is the record that was sent, byte for byte.
    fn is(self, record: &Record) -> bool {
        record.value.as_deref() == Some(&self.value()[..])
            && record.timestamp_ms == self.timestamp_ms()
            && record.headers.is_empty()
    }
}

/// What has to be there, may be there and must not be there.
#[derive(Debug)]
pub struct Account {
    topics: Vec<Topic>,
    sent: HashMap<Id, Place>,
    known: BTreeMap<Place, BTreeMap<i64, Id>>,
    /// Topics whose creation was acknowledged and whose deletion was not asked for.
    created: BTreeSet<String>,
    /// Topics whose deletion was acknowledged.
    deleted: BTreeSet<String>,
    producers: u32,
    /// Records that were acknowledged, over all loads.
    pub acknowledged: u64,
    /// Produce answers with an error code.
    pub refused: Vec<i16>,
}

/// What became of the records.
#[derive(Debug, Default)]
pub struct Findings {
    /// Records in all partitions.
    pub present: usize,
    /// Records that have to be there and are not.
    pub lost: usize,
    /// The first of everything that is not as it has to be.
    pub wrong: Vec<String>,
}

/// What one producer sent and heard.
#[derive(Debug, Default)]
struct Told {
    sent: Vec<(Id, Place)>,
    known: Vec<(Place, i64, Id)>,
    refused: Vec<i16>,
}

/// What the creator and deleter of topics heard.
#[derive(Debug, Default)]
struct Churned {
    created: BTreeSet<String>,
    deleted: BTreeSet<String>,
}

/// Clients at work. They end when the broker does.
#[derive(Debug)]
pub struct Load {
    clients: Vec<JoinHandle<Told>>,
    churn: Option<JoinHandle<Churned>>,
    acknowledged: Receiver<usize>,
}

impl Account {
    /// Creates the topics.
    pub fn open(broker: &Broker, topics: &[Topic]) -> Self {
        let mut wire = Wire::connect(broker.address()).expect("it listens");
        let mut account = Self {
            topics: topics.to_vec(),
            sent: HashMap::new(),
            known: BTreeMap::new(),
            created: BTreeSet::new(),
            deleted: BTreeSet::new(),
            producers: 0,
            acknowledged: 0,
            refused: vec![],
        };
        for (at, topic) in topics.iter().enumerate() {
            let code = wire.create_topic(topic.name, topic.partitions, topic.configs);
            assert_eq!(code.expect("answered"), 0);
            account.created.insert(topic.name.to_owned());
            account.known.extend((0..topic.partitions).map(|n| ((at, n), BTreeMap::new())));
        }
        account
    }

    /// Starts four producers, a consumer, and with `churn` somebody who creates
    /// and deletes topics.
    pub fn load(&mut self, broker: &Broker, rng: &mut Rng, churn: bool) -> Load {
        let (sender, acknowledged) = mpsc::channel();
        let mut clients = vec![];
        for n in 0..4 {
            let producer = Producer {
                id: self.producers,
                // One of four does not ask.
                acks: [-1, 1, -1, 0][n],
                depth: rng.between(1, 6) as usize,
                topics: self.topics.clone(),
                acknowledged: sender.clone(),
                rng: Rng::new(rng.next_u64()),
            };
            self.producers += 1;
            let address = broker.address().to_owned();
            clients.push(std::thread::spawn(move || producer.run(&address)));
        }
        let place = {
            let places: Vec<Place> = self.known.keys().copied().collect();
            places[rng.below(places.len() as u64) as usize]
        };
        let from = self.known[&place].last_key_value().map_or(0, |(offset, _)| offset + 1);
        let (address, topic) = (broker.address().to_owned(), self.topics[place.0].name);
        clients.push(std::thread::spawn(move || follow(&address, topic, place, from)));
        let churn = churn.then(|| {
            let (address, prefix) =
                (broker.address().to_owned(), format!("churn-{}", self.producers));
            std::thread::spawn(move || create_and_delete(&address, &prefix))
        });
        Load { clients, churn, acknowledged }
    }

    /// Takes in what the clients heard, after the broker has ended.
    pub fn settle(&mut self, load: Load) {
        for client in load.clients {
            let told = client.join().expect("a client does not panic");
            self.sent.extend(told.sent);
            self.refused.extend(told.refused);
            for (place, offset, id) in told.known {
                let places = self.known.get_mut(&place).expect("a partition under load");
                let before = places.insert(offset, id);
                assert!(
                    before.is_none_or(|before| before == id),
                    "{place:?} {offset}: two records"
                );
            }
        }
        self.acknowledged += load.acknowledged.iter().sum::<usize>() as u64;
        if let Some(churn) = load.churn {
            let churned = churn.join().expect("a client does not panic");
            self.created.extend(churned.created);
            self.deleted.extend(churned.deleted);
        }
    }

    /// Records that were acknowledged or served.
    pub fn promised(&self) -> usize {
        self.known.values().map(BTreeMap::len).sum()
    }

    /// Reads everything and compares. What was found has to stay from now on.
    pub fn verify(&mut self, broker: &Broker) -> Findings {
        let mut findings = Findings::default();
        let mut wire = Wire::connect(broker.address()).expect("it listens");
        let topics = wire.topics().expect("answered");
        let missing = self.created.iter().filter(|name| !topics.contains_key(*name));
        findings.wrong.extend(missing.map(|name| format!("topic {name} is gone")));
        let back = self.deleted.iter().filter(|name| topics.contains_key(*name));
        findings.wrong.extend(back.map(|name| format!("topic {name} is back")));
        let mut seen = HashSet::new();
        for (place, known) in &mut self.known {
            let (topic, partition) = (self.topics[place.0].name, place.1);
            let mut wrong = |what: std::fmt::Arguments<'_>| {
                let mut line = format!("{topic}-{partition}: ");
                line.write_fmt(what).expect("strings take everything");
                findings.wrong.push(line);
            };
            if !topics.contains_key(topic) {
                findings.lost += known.len();
                continue;
            }
            let records = match wire.read_all(topic, partition) {
                Ok(records) => records,
                Err(error) => {
                    wrong(format_args!("cannot be read: {error}"));
                    findings.lost += known.len();
                    wire = Wire::connect(broker.address()).expect("it listens");
                    continue;
                }
            };
            let mut last: HashMap<u32, u64> = HashMap::new();
            let mut found = BTreeMap::new();
            for (wanted, record) in (0..).zip(&records) {
                let offset = record.offset;
                if offset != wanted {
                    wrong(format_args!("offset {offset} where {wanted} belongs"));
                }
                let Some(id) = Id::of(record).filter(|id| self.sent.get(id) == Some(place)) else {
                    wrong(format_args!("offset {offset} was never sent here: {:?}", record.key));
                    continue;
                };
                if !id.is(record) {
                    wrong(format_args!("offset {offset} has other bytes than {id:?}"));
                }
                if !seen.insert(id) {
                    wrong(format_args!("offset {offset} repeats {id:?}"));
                }
                let before = last.insert(id.producer, id.sequence);
                if before.is_some_and(|before| before >= id.sequence) {
                    wrong(format_args!("offset {offset}: {id:?} after {before:?}"));
                }
                found.insert(offset, id);
            }
            for (offset, id) in known.iter() {
                if found.get(offset) != Some(id) {
                    findings.lost += 1;
                    let there = found.get(offset);
                    wrong(format_args!("offset {offset} has {there:?} instead of {id:?}"));
                }
            }
            findings.present += records.len();
            *known = found;
        }
        findings.wrong.truncate(20);
        findings
    }
}

impl Findings {
    /// Panics unless everything is as it has to be.
    pub fn expect_sound(&self, when: &str) {
        assert!(self.wrong.is_empty() && self.lost == 0, "{when}: {self:#?}");
    }
}

impl Load {
    /// Waits until so many records were acknowledged, and then some moments
    /// drawn from `rng`, so that what follows falls anywhere.
    pub fn wait(&mut self, records: usize, rng: &mut Rng) -> usize {
        let mut count = 0;
        let deadline = Instant::now() + PATIENCE;
        while count < records {
            let left = deadline.saturating_duration_since(Instant::now());
            count += self.acknowledged.recv_timeout(left).unwrap_or_else(|error| {
                panic!("{count} of {records} records were acknowledged: {error}")
            });
        }
        let moment = Instant::now() + Duration::from_micros(rng.below(40_000));
        loop {
            let left = moment.saturating_duration_since(Instant::now());
            match self.acknowledged.recv_timeout(left) {
                Ok(more) => count += more,
                Err(_) => return count,
            }
        }
    }
}

/// A client that sends without waiting for each answer.
#[derive(Debug)]
struct Producer {
    id: u32,
    acks: i16,
    /// Requests it leaves unanswered before it waits.
    depth: usize,
    topics: Vec<Topic>,
    acknowledged: Sender<usize>,
    rng: Rng,
}

/// Requests that a producer with acks=0 sends: nothing else holds it back, and
/// the disk has an end.
const UNASKED_MAX: u64 = 1_000;

/// A request whose answer is to come.
#[derive(Debug)]
struct Open {
    id: i32,
    batches: Vec<(Place, Vec<Id>)>,
}

impl Producer {
    fn run(mut self, address: &str) -> Told {
        let mut told = Told::default();
        // The broker ends before its clients do: every error is the end.
        let _ = self.produce(address, &mut told);
        told
    }

    fn produce(&mut self, address: &str, told: &mut Told) -> io::Result<()> {
        let mut wire = Wire::connect(address)?;
        let mut open = VecDeque::new();
        let mut sequence = 0;
        for turn in 0_u64.. {
            let batches = self.batches(&mut sequence);
            let request = self.request(&batches);
            for (place, ids) in &batches {
                told.sent.extend(ids.iter().map(|id| (*id, *place)));
            }
            let id = wire.send(wire::PRODUCE, &request)?;
            if self.acks == 0 {
                // Answers come in order: this one says that the others are done with.
                if turn % 8 == 0 {
                    wire.topic_error(self.topics[0].name)?;
                }
                if turn == UNASKED_MAX {
                    break;
                }
                continue;
            }
            open.push_back(Open { id, batches });
            if open.len() >= self.depth {
                let next = open.pop_front().expect("just pushed");
                self.answer(&mut wire, next, told)?;
            }
        }
        Ok(())
    }

    /// Records for a few partitions of one topic.
    fn batches(&mut self, sequence: &mut u64) -> Vec<(Place, Vec<Id>)> {
        let topic = self.rng.below(self.topics.len() as u64) as usize;
        let partitions = self.topics[topic].partitions;
        let first = self.rng.below(partitions as u64) as i32;
        let count = self.rng.between(1, partitions as u64) as i32;
        (0..count)
            .map(|n| {
                let place = (topic, (first + n) % partitions);
                let records = self.rng.between(1, 12);
                let ids = (0..records).map(|_| {
                    *sequence += 1;
                    Id { producer: self.id, sequence: *sequence }
                });
                (place, ids.collect())
            })
            .collect()
    }

    fn request(&mut self, batches: &[(Place, Vec<Id>)]) -> ProduceRequest {
        let batches: Vec<Batch<'_>> = batches
            .iter()
            .map(|((topic, partition), ids)| {
                let codecs = [Codec::None, Codec::None, Codec::Lz4, Codec::Zstd];
                let mut batch = BatchBuilder::new(codecs[self.rng.below(4) as usize]);
                for id in ids {
                    batch.push(id.timestamp_ms(), Some(&id.key()), Some(&id.value()), &[]);
                }
                Batch {
                    topic: self.topics[*topic].name,
                    partition: *partition,
                    bytes: Bytes::from(batch.finish()),
                }
            })
            .collect();
        wire::produce_request(self.acks, &batches)
    }

    fn answer(&self, wire: &mut Wire, open: Open, told: &mut Told) -> io::Result<()> {
        let response = wire.answer::<ProduceRequest>(wire::PRODUCE, open.id)?;
        let answers = response.responses.iter().flat_map(|topic| &topic.partition_responses);
        for ((place, ids), answer) in open.batches.into_iter().zip(answers) {
            assert_eq!(answer.index, place.1, "answers follow the request's order");
            if answer.error_code != 0 {
                told.refused.push(answer.error_code);
                continue;
            }
            let count = ids.len();
            told.known.extend((answer.base_offset..).zip(ids).map(|(at, id)| (place, at, id)));
            // Nobody counts any more once the test has failed.
            let _ = self.acknowledged.send(count);
        }
        Ok(())
    }
}

/// Reads a partition as it grows: what is served has to stay.
fn follow(address: &str, topic: &str, place: Place, from: i64) -> Told {
    let mut told = Told::default();
    let mut next = from;
    let Ok(mut wire) = Wire::connect(address) else { return told };
    while let Ok(records) = wire.fetch(topic, place.1, next, 100) {
        for record in records {
            let id = Id::of(&record).expect("records of the load");
            told.known.push((place, record.offset, id));
            next = record.offset + 1;
        }
    }
    told
}

/// Creates topics and deletes two of three.
fn create_and_delete(address: &str, prefix: &str) -> Churned {
    let mut churned = Churned::default();
    let Ok(mut wire) = Wire::connect(address) else { return churned };
    for n in 0.. {
        let name = format!("{prefix}-{n}");
        match wire.create_topic(&name, 1 + n % 3, &[]) {
            Ok(0) => churned.created.insert(name.clone()),
            Ok(code) => panic!("topic {name} was refused: {code}"),
            Err(_) => break,
        };
        if n % 3 == 0 {
            continue;
        }
        // From now on it may be gone.
        churned.created.remove(&name);
        match wire.delete_topic(&name) {
            Ok(0) => churned.deleted.insert(name),
            Ok(code) => panic!("the deletion of {name} was refused: {code}"),
            Err(_) => break,
        };
    }
    churned
}
