//! A client of a compacted topic: it writes records with few keys, tombstones among
//! them, reads the log from its start, and knows what compaction must leave.
//!
//! Every record has a number of its own, carried in its timestamp. What must hold:
//!
//! - what is read was sent, with that key and value, not refused, at one offset for
//!   ever; offsets increase;
//! - the last record of a key stays, at its offset, unless it is a tombstone;
//! - where a tombstone is gone, nothing older of its key is left.
//!
//! Compaction goes on while the log is read. So what is still open is judged when
//! nothing is written any more, and what a read in the middle of a run may have
//! missed is read again.

use std::collections::BTreeMap;

use corelane::base::rng::Rng;
use corelane::model::batch::BatchHeader;
use corelane::model::record::{BatchBuilder, Codec, Record, decode_records};
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{FetchResponse, ProduceRequest, ProduceResponse};
use kafka_wire_core::{Bytes, StrBytes};

use crate::client::{Asked, Link, Request, Shared};
use crate::consumer::{Ask, PASSING, Shape, fetch};
use crate::file::pick;
use crate::model::{TIMESTAMP, Tp, name};
use crate::producer::REFUSALS;
use crate::queue::MS;
use crate::wire;

const REQUEST_TIMED_OUT: i16 = 7;
const STORAGE_ERROR: i16 = 56;
/// Six large records do not fit the smallest segment.
const TOO_LARGE: i16 = 18;

/// Records of a run beyond which nothing is written.
const NUMBERS_MAX: usize = 4_000;

/// Reads that may find what a run of compaction has half removed.
const READS_MAX: u32 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It may be there or not.
    Unknown,
    Refused,
    At(i64),
}

#[derive(Debug)]
struct Sent {
    tp: Tp,
    key: u64,
    /// Bytes of the value; a tombstone has none.
    value: Option<usize>,
    fate: Fate,
}

/// A read of a partition from its start.
#[derive(Debug)]
struct Read {
    tp: Tp,
    position: i64,
    /// Where to stop: the high watermark of the first answer.
    end: Option<i64>,
    last: i64,
    /// By key, the last record that was found: offset and number.
    found: BTreeMap<u64, (i64, usize)>,
    generation: u64,
}

/// The client.
pub struct Keyed {
    keys: u64,
    sizes: &'static [usize],
    pause: u64,
    next_at: u64,
    sent: Vec<Sent>,
    read: Option<Read>,
    /// Partitions to be read for the audit.
    todo: Vec<Tp>,
    again: u32,
    /// It was acknowledged since that was last asked for.
    pub acked: bool,
    /// It has read all since that was last asked for.
    pub verified: bool,
}

impl Keyed {
    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            keys: *pick(rng, &[1, 5, 40]),
            sizes: pick::<&[usize]>(rng, &[&[10], &[10, 300], &[300, 3_000]]),
            pause: *pick(rng, &[MS / 2, 3 * MS]),
            next_at: 0,
            sent: vec![],
            read: None,
            todo: vec![],
            again: 0,
            acked: false,
            verified: false,
        }
    }

    /// The log may have lost what it had from offset `from` on.
    pub fn cut(&mut self, tp: Tp, from: i64) {
        for sent in self.sent.iter_mut().filter(|sent| sent.tp == tp) {
            if matches!(sent.fate, Fate::At(offset) if offset >= from) {
                sent.fate = Fate::Unknown;
            }
        }
        self.read = None;
    }

    fn partitions(shared: &Shared) -> Vec<Tp> {
        let keyed = shared.model.topics.iter().filter(|(_, topic)| topic.keyed);
        let all = keyed.flat_map(|(id, topic)| (0..topic.partitions).map(|at| (*id, at)));
        all.filter(|tp| !(shared.calm && shared.model.is_damaged(*tp))).collect()
    }

    /// Begins to read everything.
    pub fn begin_audit(&mut self, shared: &Shared) {
        self.verified = false;
        self.todo = Self::partitions(shared);
        self.read = None;
        self.again = 0;
    }

    pub fn act(&mut self, link: &mut Link, shared: &mut Shared) -> u64 {
        let now = shared.queue.now();
        if link.open() > 0 {
            return u64::MAX;
        }
        if now < self.next_at {
            return self.next_at;
        }
        let partitions = Self::partitions(shared);
        if partitions.is_empty() {
            let topic = shared.model.topics.values().any(|topic| topic.keyed);
            (self.acked, self.verified) = (topic, topic);
            return now + 20 * MS;
        }
        self.next_at = now + link.rng.between(0, self.pause);
        if self.read.as_ref().is_some_and(|read| read.generation != link.generation) {
            self.read = None;
        }
        let audits = self.todo.last().copied();
        self.verified |= shared.quiet && audits.is_none();
        let writes = !shared.quiet && self.sent.len() < NUMBERS_MAX && !(shared.calm && self.acked);
        if self.read.is_none() && (audits.is_some() || (!shared.calm && link.rng.chance(1, 15))) {
            let tp = audits.unwrap_or_else(|| *pick(&mut link.rng, &partitions));
            let generation = link.generation;
            let found = BTreeMap::new();
            self.read = Some(Read { tp, position: 0, end: None, last: -1, found, generation });
        }
        match &self.read {
            Some(read) if !writes || link.rng.chance(1, 2) => {
                let most = *pick(&mut link.rng, &[2_000, 300_000]);
                let shape =
                    Shape { max_wait_ms: 10, min_bytes: 1, max_bytes: most, partition_bytes: most };
                let version = link.rng.between(13, 18) as i16;
                fetch(link, shared, &Ask::whole(version, &[(read.tp, read.position)], shape));
            }
            _ if writes => self.produce(link, shared, &partitions),
            _ => return now + 20 * MS,
        }
        u64::MAX
    }

    fn produce(&mut self, link: &mut Link, shared: &mut Shared, partitions: &[Tp]) {
        let rng = &mut link.rng;
        let tp = *pick(rng, partitions);
        let mut builder = BatchBuilder::new(*pick(rng, &[Codec::None, Codec::None, Codec::Lz4]));
        let first = self.sent.len();
        for _ in 0..rng.between(1, 6) {
            let (number, key) = (self.sent.len(), rng.below(self.keys));
            let value = (!rng.chance(1, 6)).then(|| *pick(rng, self.sizes));
            let bytes = value.map(|len| value_of(number, len));
            let time = TIMESTAMP + number as i64;
            builder.push(time, Some(&key.to_le_bytes()), bytes.as_deref(), &[]);
            self.sent.push(Sent { tp, key, value, fate: Fate::Unknown });
        }
        let mut partition = PartitionProduceData::default();
        partition.index = tp.1;
        partition.records = Some(Bytes::from(builder.finish()));
        let mut topic = TopicProduceData::default();
        topic.name = StrBytes::from(shared.model.topics[&tp.0].name.as_str());
        topic.partition_data = vec![partition];
        let mut request = ProduceRequest::default();
        request.acks = -1;
        request.timeout_ms = *pick(rng, &[5, 5_000]);
        request.topic_data = vec![topic];
        let version = link.rng.between(3, 12) as i16;
        let allowed = request.timeout_ms as u64 * MS;
        // The attempt is the number of the first record here.
        let asked = Asked::Produce(vec![(tp, first as u64)]);
        link.send(shared, &request, version, allowed, asked);
    }

    pub fn answered(
        &mut self,
        _: &mut Link,
        shared: &mut Shared,
        request: Request,
        frame: Vec<u8>,
    ) {
        match request.asked {
            Asked::Produce(attempts) => {
                let api = request.api.api();
                let answer: ProduceResponse = wire::answer(frame, api, request.version);
                let rows = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
                let [row] = rows.collect::<Vec<_>>()[..] else { panic!("one outcome") };
                let (tp, first) = attempts[0];
                // What a dead broker said last may come late, and be lost by now.
                let stale = request.life < shared.model.life && shared.model.was_cut(tp);
                // One request at a time: all that was sent since belongs to it.
                for (at, number) in (first as usize..self.sent.len()).enumerate() {
                    match row.error_code {
                        0 if stale => {}
                        0 => self.place(number, row.base_offset + at as i64),
                        REQUEST_TIMED_OUT | STORAGE_ERROR => {}
                        code => {
                            let refused = code == TOO_LARGE || REFUSALS.contains(&code);
                            assert!(refused, "{}: error {code}", name(tp));
                            self.sent[number].fate = Fate::Refused;
                        }
                    }
                }
                if row.error_code == 0 {
                    self.acked = true;
                    shared.coverage.one("keyed batches acknowledged");
                } else {
                    self.next_at = shared.queue.now() + 20 * MS;
                }
            }
            Asked::Fetch(..) => {
                let answer: FetchResponse = wire::answer(frame, request.api.api(), request.version);
                self.fetched(shared, &answer);
            }
            other => panic!("a keyed client asked {other:?}"),
        }
    }

    fn place(&mut self, number: usize, offset: i64) {
        let sent = &mut self.sent[number];
        match sent.fate {
            Fate::Unknown => sent.fate = Fate::At(offset),
            Fate::At(before) => {
                assert_eq!(before, offset, "record {number} of {} moves", name(sent.tp));
            }
            Fate::Refused => panic!("record {number} was refused and is at offset {offset}"),
        }
    }

    fn fetched(&mut self, shared: &mut Shared, answer: &FetchResponse) {
        assert_eq!(answer.error_code, 0, "a fetch was answered with an error");
        let Some(mut read) = self.read.take() else { return };
        let rows = answer.responses.iter().flat_map(|topic| &topic.partitions);
        let [row] = rows.collect::<Vec<_>>()[..] else { panic!("a row for each partition") };
        if row.error_code != 0 {
            assert!(PASSING.contains(&row.error_code), "error {}", row.error_code);
            self.next_at = shared.queue.now() + 20 * MS;
            self.read = Some(read);
            return;
        }
        let end = *read.end.get_or_insert(row.high_watermark);
        let mut rest = row.records.as_deref().unwrap_or_default();
        while let Some(header) = BatchHeader::decode(rest) {
            let len = header.total_len().expect("a batch has a length");
            if len > rest.len() {
                break;
            }
            let records = decode_records(&rest[..len], 1 << 20).expect("whole, undamaged batches");
            // Clients pass over control batches.
            for record in records.iter().filter(|_| !header.is_control()) {
                self.see(&mut read, record);
            }
            assert!(header.next_offset() > read.position, "a batch behind what was asked for");
            read.position = header.next_offset();
            rest = &rest[len..];
        }
        if read.position < end {
            self.read = Some(read);
            return;
        }
        match self.judge(shared, &read, end) {
            Ok(()) => {
                shared.coverage.one("keyed partitions judged");
                self.again = 0;
                self.todo.retain(|tp| *tp != read.tp);
            }
            Err(what) => {
                self.again += 1;
                assert!(self.again < READS_MAX, "{}: {what}", name(read.tp));
                self.next_at = shared.queue.now() + 50 * MS;
            }
        }
    }

    fn see(&mut self, read: &mut Read, record: &Record) {
        let place = name(read.tp);
        assert!(record.offset > read.last, "offsets of {place} do not increase");
        read.last = record.offset;
        let number = usize::try_from(record.timestamp_ms - TIMESTAMP).expect("a number");
        let sent = self.sent.get(number);
        let sent = sent.unwrap_or_else(|| panic!("nobody sent record {number} to {place}"));
        let key =
            record.key.as_deref().and_then(|key| Some(u64::from_le_bytes(key.try_into().ok()?)));
        assert_eq!((sent.tp, Some(sent.key)), (read.tp, key), "record {number} has another key");
        let value = sent.value.map(|len| value_of(number, len));
        assert_eq!(value.as_deref(), record.value.as_deref(), "record {number} has another value");
        let key = sent.key;
        self.place(number, record.offset);
        read.found.insert(key, (record.offset, number));
    }

    /// What compaction has left must be enough. `Err` is what may pass.
    fn judge(&self, shared: &mut Shared, read: &Read, end: i64) -> Result<(), String> {
        for key in 0..self.keys {
            let mine = |sent: &&Sent| sent.tp == read.tp && sent.key == key;
            let all = || self.sent.iter().filter(mine).filter(|sent| sent.fate != Fate::Refused);
            let place = |sent: &Sent| match sent.fate {
                Fate::At(offset) => Some(offset),
                _ => None,
            };
            let open = |sent: &Sent| place(sent).is_none_or(|offset| offset >= end);
            if !shared.quiet && all().any(open) {
                continue;
            }
            let before = |sent: &Sent| place(sent).filter(|offset| *offset < end);
            let last = all().filter_map(|sent| Some((before(sent)?, sent))).max_by_key(|row| row.0);
            let Some((offset, last)) = last else { continue };
            let found = read.found.get(&key);
            if found.is_some_and(|(at, _)| *at >= offset) {
                if found.is_some_and(|(_, number)| self.sent[*number].value.is_none()) {
                    shared.coverage.one("keyed tombstones seen last");
                }
                continue;
            }
            let tombstone = |sent: &Sent| sent.value.is_none();
            let erased =
                tombstone(last) || all().any(|sent| sent.fate == Fate::Unknown && tombstone(sent));
            let place = name(read.tp);
            assert!(erased, "the last value of key {key} of {place}, offset {offset}, is gone");
            shared.coverage.one("keyed tombstones gone");
            if let Some((at, _)) = found
                && shared.quiet
            {
                return Err(format!("key {key} was erased at {offset}, and has a value at {at}"));
            }
        }
        Ok(())
    }
}

fn value_of(number: usize, len: usize) -> Vec<u8> {
    let mut value = (number as u64).to_le_bytes().repeat(len / 8 + 1);
    value.truncate(len);
    value
}
