//! What must be true of the records, whatever happens.
//!
//! Every attempt to send a batch has a number of its own, carried in the batch's
//! base timestamp behind [`TIMESTAMP`], so that whoever reads a batch knows which attempt it was:
//!
//! - what is read was sent, to that partition, with those bytes, not refused;
//! - an attempt is at one offset for ever, the acknowledged one;
//! - at an offset there is one batch for ever, and there are no gaps;
//! - the high watermark never goes back;
//! - what a run of the broker did not have when it began serving never appears
//!   later;
//! - an audit finds everything acknowledged and everything ever seen, but for
//!   what lies below a start of the log that was asked for;
//! - a start of the log that was acknowledged never goes back. Where old records
//!   are deleted, it may move unasked.
//!
//! A flipped bit in the last segment of a log may end it there after an unclean stop; what
//! stands before it stays.
//!
//! Topics with `flush.messages` above 1 are *weak*: a loss of power or a failed
//! sync may take what was acknowledged and not synced, and give its offsets again.

use std::collections::{BTreeMap, BTreeSet};

use corelane::model::batch::{BatchHeader, batch_crc};
use corelane::model::ids::TopicId;

use crate::groups::Groups;

/// A partition of a topic.
pub type Tp = (TopicId, i32);

/// Bytes of a batch that the broker stamps: base offset, length, leader epoch.
const STAMPED: usize = 16;

/// Base timestamp of attempt 0: about now, or the broker forgets a producer whose
/// records are so old.
pub const TIMESTAMP: i64 = 1_700_000_000_000;

/// One attempt to send a batch. An idempotent producer may make it more than
/// once.
#[derive(Debug)]
pub struct Attempt {
    pub tp: Tp,
    len: usize,
    crc: u32,
    count: i64,
    /// The runs of the broker it was first and last sent to.
    born: u64,
    life: u64,
    refused: bool,
    /// Where it was acknowledged or seen.
    place: Option<i64>,
}

#[derive(Debug)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    /// Acknowledged means synced.
    pub strong: bool,
    /// Never deleted, so its name is as good as its id.
    pub stable: bool,
    /// Its deletion was asked for.
    pub dying: bool,
    /// Compacted, and the business of one client alone (`keyed.rs`).
    pub keyed: bool,
}

#[derive(Debug, Default)]
struct Partition {
    /// Acknowledged attempts by base offset.
    acked: BTreeMap<i64, u64>,
    /// Attempts that consumers have seen, by base offset.
    seen: BTreeMap<i64, u64>,
    /// The largest high watermark that anybody may count on.
    high_watermark: i64,
    /// The start of the log that was acknowledged, and the largest that was
    /// asked for: the real one lies between.
    start: i64,
    start_asked: i64,
    /// By run of the broker: an offset that was not taken when it began. The
    /// first high watermark that was seen, or the first of its own records.
    beginnings: BTreeMap<u64, i64>,
    /// The last run that may have found a flipped bit where a torn write is possible, and
    /// have cut the log there.
    cut: Option<u64>,
}

impl Partition {
    fn began(&mut self, life: u64, at: i64) {
        let known = self.beginnings.entry(life).or_insert(at);
        *known = at.min(*known);
    }
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Model {
    pub topics: BTreeMap<TopicId, Topic>,
    partitions: BTreeMap<Tp, Partition>,
    attempts: BTreeMap<u64, Attempt>,
    producer_ids: BTreeSet<i64>,
    /// Groups and what they have committed.
    pub groups: Groups,
    /// Logs of which a bit on the disk was flipped: they may go offline, and be
    /// found so, but serve nothing wrong.
    damaged: BTreeSet<Tp>,
    pub offline: BTreeSet<Tp>,
    /// The broker deletes old records.
    pub retention: bool,
    /// Counts the runs of the broker.
    pub life: u64,
    /// The last run in which a sync failed.
    failed: Option<u64>,
}

impl Model {
    /// A batch is about to be sent.
    pub fn sent(&mut self, tp: Tp, attempt: u64, batch: &[u8]) {
        let header = BatchHeader::decode(batch).expect("a built batch");
        let known = Attempt {
            tp,
            len: batch.len(),
            crc: crc32fast::hash(&batch[STAMPED..]),
            count: i64::from(header.record_count),
            born: self.life,
            life: self.life,
            refused: false,
            place: None,
        };
        assert!(self.attempts.insert(attempt, known).is_none(), "attempts have their own numbers");
    }

    /// Bytes of an attempt's batch.
    pub fn len_of(&self, attempt: u64) -> usize {
        self.attempts[&attempt].len
    }

    /// A batch is about to be sent again.
    pub fn sent_again(&mut self, attempt: u64) {
        let known = self.attempts.get_mut(&attempt).expect("it was sent");
        known.life = self.life;
        // A weak topic may have lost it, and give it another offset.
        if self.topics.get(&known.tp.0).is_some_and(|topic| !topic.strong) {
            known.place = None;
        }
    }

    /// A producer got an id.
    pub fn producer_id(&mut self, id: i64) {
        assert!(self.producer_ids.insert(id), "the producer id {id} is given out twice");
    }

    /// The number for the next attempt.
    pub fn next_attempt(&self) -> u64 {
        self.attempts.len() as u64 + 1
    }

    /// The broker refused a batch with an error that means that it is not there.
    pub fn refused(&mut self, attempt: u64) {
        let known = self.attempts.get_mut(&attempt).expect("it was sent");
        assert!(
            known.place.is_none(),
            "attempt {attempt} is refused and was seen at {:?}",
            known.place
        );
        known.refused = true;
    }

    /// The broker acknowledged a batch.
    pub fn acked(&mut self, attempt: u64, base: i64) {
        let known = &self.attempts[&attempt];
        let (tp, end) = (known.tp, base + known.count);
        if self.is_stale(tp, known.life) {
            return;
        }
        self.place(attempt, base, "acknowledged");
        let known = &self.attempts[&attempt];
        let (born, life) = (known.born, known.life);
        let partition = self.partitions.entry(tp).or_default();
        if born == life {
            partition.began(life, base);
        }
        partition.acked.insert(base, attempt);
        partition.high_watermark = partition.high_watermark.max(end);
    }

    /// Whether news from `life` of a partition may have been overtaken by a loss
    /// of power, or of what a sync should have kept.
    fn is_stale(&self, tp: Tp, life: u64) -> bool {
        let cut = self.partitions.get(&tp).and_then(|partition| partition.cut);
        let lost = life < self.life || self.failed == Some(life);
        let weak = self.topics.get(&tp.0).is_some_and(|topic| !topic.strong);
        lost && weak || cut.is_some_and(|cut| life < cut)
    }

    fn place(&mut self, attempt: u64, base: i64, how: &str) {
        let known = self.attempts.get_mut(&attempt).expect("it was sent");
        assert!(!known.refused, "attempt {attempt} was refused and is {how} at offset {base}");
        if let Some(place) = known.place {
            assert_eq!(
                place,
                base,
                "attempt {attempt} of {} was at offset {place}, and is {how} at {base}",
                name(known.tp)
            );
        }
        known.place = Some(base);
    }

    /// A consumer was given a whole batch by the run `from` of the broker.
    pub fn seen(&mut self, tp: Tp, batch: &[u8], from: u64) -> (u64, BatchHeader) {
        let header = BatchHeader::decode(batch).expect("whole batches only");
        let (base, next) = (header.base_offset, header.next_offset());
        assert_eq!(
            batch_crc(batch),
            header.crc,
            "a damaged batch at offset {base} of {}",
            name(tp)
        );
        let attempt = (header.base_timestamp - TIMESTAMP) as u64;
        let Some(known) = self.attempts.get(&attempt) else {
            panic!("a batch at offset {base} of {} that nobody sent", name(tp));
        };
        assert_eq!(known.tp, tp, "attempt {attempt} was sent to {}", name(known.tp));
        let same = known.len == batch.len() && known.crc == crc32fast::hash(&batch[STAMPED..]);
        assert!(same && next - base == known.count, "attempt {attempt} has other bytes");
        let (born, life) = (known.born, known.life);
        if self.is_stale(tp, from) {
            return (attempt, header);
        }
        self.place(attempt, base, "seen");
        let strong = self.topics.get(&tp.0).is_none_or(|topic| topic.strong);
        let Self { partitions, attempts, .. } = self;
        let partition = partitions.entry(tp).or_default();
        for (begun, at) in &partition.beginnings {
            assert!(
                *begun <= life || base < *at || *begun > from,
                "attempt {attempt} of run {life} shows at offset {base}, where run {begun} began at {at}"
            );
        }
        let before = partition.seen.range(..base).next_back().map(|(at, other)| (*at, *other));
        let overlaps = before.filter(|(at, other)| at + attempts[other].count > base);
        let after = partition.seen.range(base..next).map(|(at, other)| (*at, *other));
        let conflicts: Vec<(i64, u64)> =
            overlaps.into_iter().chain(after).filter(|(_, other)| *other != attempt).collect();
        for (at, other) in conflicts {
            // Only a weak topic gives an offset again, to a later run's records.
            let again = !strong && attempts[&other].born < life;
            assert!(
                again,
                "offset {base} of {} was attempt {other} at {at}, and is attempt {attempt} now",
                name(tp)
            );
            partition.seen.remove(&at);
        }
        if born == life {
            partition.began(life, base);
        }
        partition.seen.insert(base, attempt);
        (attempt, header)
    }

    /// The high watermark that a request sent now must be answered with, or a
    /// larger one.
    pub fn floor(&self, tp: Tp) -> i64 {
        self.partitions.get(&tp).map_or(0, |partition| partition.high_watermark)
    }

    /// The start of the log is asked to move to `offset`.
    pub fn start_asked(&mut self, tp: Tp, offset: i64) {
        let partition = self.partitions.entry(tp).or_default();
        partition.start_asked = partition.start_asked.max(offset);
    }

    /// The start of the log was acknowledged, as `start`.
    pub fn start_acked(&mut self, tp: Tp, start: i64) {
        let partition = self.partitions.entry(tp).or_default();
        // A flipped bit of a time index may make a segment look old, as in Kafka.
        let damaged = self.damaged.contains(&tp);
        let unasked = start > partition.start_asked && !self.retention && !damaged;
        assert!(!unasked, "{} starts at {start} unasked", name(tp));
        partition.start = partition.start.max(start);
    }

    /// The start of the log that a request sent now must find, or a larger one.
    pub fn start(&self, tp: Tp) -> i64 {
        self.partitions.get(&tp).map_or(0, |partition| partition.start)
    }

    /// Whether a start of the log behind `offset` was asked for.
    pub fn may_be_deleted(&self, tp: Tp, offset: i64) -> bool {
        let asked = self.partitions.get(&tp).map_or(0, |partition| partition.start_asked);
        self.retention || offset < asked
    }

    /// Somebody was told that the log starts at `start`; `floor` is what it had
    /// to be.
    pub fn start_told(&self, tp: Tp, start: i64, floor: i64) {
        assert!(start >= floor, "the start of {} went back from {floor} to {start}", name(tp));
        let asked = self.partitions.get(&tp).map_or(0, |partition| partition.start_asked);
        // A flipped bit of a time index may make a segment look old, as in Kafka.
        let unasked = start > asked && !self.retention && !self.is_damaged(tp);
        assert!(!unasked, "{} starts at {start}, at most {asked} was asked", name(tp));
    }

    /// The run `life` of the broker told a high watermark; `floor` is what it
    /// had to be.
    pub fn high_watermark(&mut self, tp: Tp, seen: i64, floor: i64, life: u64) {
        if self.is_stale(tp, life) {
            return;
        }
        // Answers may arrive after the broker that sent them is dead.
        let living = life == self.life;
        let partition = self.partitions.entry(tp).or_default();
        let begins = living && !partition.beginnings.contains_key(&life);
        assert!(
            seen >= floor,
            "the high watermark of {} went back from {floor} to {seen}{}",
            name(tp),
            if begins { ", with a restart between" } else { "" }
        );
        if begins {
            partition.began(life, seen);
        }
        partition.high_watermark = partition.high_watermark.max(seen);
    }

    /// A sync failed, and what it covered may be gone at the next start.
    pub fn fail_sync(&mut self) {
        self.failed = Some(self.life);
        self.lose(self.life);
    }

    /// The broker ended; what is sent from here on reaches the next run.
    pub fn end_life(&mut self) {
        self.groups.end_life();
        self.life += 1;
    }

    /// The power was lost, and the run before this one with it.
    pub fn lose_power(&mut self) {
        self.lose(self.life - 1);
    }

    /// Weak topics promise nothing any more of what the run `life` told.
    fn lose(&mut self, life: u64) {
        self.groups.lose(life);
        for ((topic, _), partition) in &mut self.partitions {
            if self.topics.get(topic).is_some_and(|topic| !topic.strong) {
                partition.acked.clear();
                partition.high_watermark = 0;
            }
        }
        // What was lost may be sent again, and is elsewhere then.
        for attempt in self.attempts.values_mut() {
            if self.topics.get(&attempt.tp.0).is_some_and(|topic| !topic.strong) {
                attempt.place = None;
            }
        }
    }

    /// A partition was read from its start `from` to `end`, as these attempts.
    pub fn audited(&mut self, tp: Tp, found: &BTreeMap<i64, u64>, from: i64, end: i64) {
        let strong = self.topics.get(&tp.0).is_none_or(|topic| topic.strong);
        let Some(partition) = self.partitions.get(&tp) else { return };
        let seen = partition.seen.iter().filter(|_| strong);
        for (what, (base, attempt)) in partition
            .acked
            .iter()
            .map(|row| ("acknowledged", row))
            .chain(seen.map(|row| ("seen", row)))
        {
            let deleted = base + self.attempts[attempt].count <= from;
            assert!(
                deleted || *base >= end || found.get(base) == Some(attempt),
                "attempt {attempt} was {what} at offset {base} of {} and is gone",
                name(tp)
            );
        }
    }

    /// A bit of the log was flipped on the disk.
    pub fn damage(&mut self, tp: Tp) {
        self.damaged.insert(tp);
    }

    /// A bit of the batch at offset `from` is flipped, where the run that comes has to take
    /// it for the end of what was written: nothing is promised of it and what follows.
    pub fn cut(&mut self, tp: Tp, from: i64) {
        let life = self.life;
        let partition = self.partitions.entry(tp).or_default();
        partition.cut = Some(life);
        partition.acked.split_off(&from);
        partition.seen.split_off(&from);
        partition.high_watermark = partition.high_watermark.min(from);
        for attempt in self.attempts.values_mut().filter(|attempt| attempt.tp == tp) {
            attempt.place = attempt.place.filter(|place| *place < from);
        }
    }

    /// Whether a log may have lost its end to a flipped bit.
    pub fn was_cut(&self, tp: Tp) -> bool {
        self.partitions.get(&tp).is_some_and(|partition| partition.cut.is_some())
    }

    /// Whether a bit of the log was flipped on the disk.
    pub fn is_damaged(&self, tp: Tp) -> bool {
        self.damaged.contains(&tp)
    }

    /// A partition by the name of its log's directory, if it is there to stay.
    pub fn partition_of(&self, dir: &str) -> Option<Tp> {
        let (topic, partition) = dir.rsplit_once('-')?;
        let found = self.topics.iter().find(|(_, known)| known.stable && known.name == topic);
        Some((*found?.0, partition.parse().ok()?))
    }

    /// The name of a partition's directory.
    pub fn dir_of(&self, (topic, partition): Tp) -> String {
        format!("{}-{partition}", self.topics[&topic].name)
    }

    /// Who asked for the first record from `wanted` on, a number behind
    /// [`TIMESTAMP`], was told of this offset and timestamp. `floor` was the high
    /// watermark when it asked.
    pub fn found_by_time(
        &mut self,
        tp: Tp,
        wanted: i64,
        found: Option<(i64, i64)>,
        floor: i64,
        life: u64,
    ) {
        let strong = self.topics.get(&tp.0).is_some_and(|topic| topic.strong && !topic.dying);
        if !strong || self.is_damaged(tp) || self.is_stale(tp, life) {
            return;
        }
        if let Some((offset, timestamp)) = found {
            let attempt = timestamp - TIMESTAMP;
            assert!(attempt >= wanted, "{wanted} was looked for and {attempt} found");
            let known = self.attempts.get(&(attempt as u64)).filter(|known| known.tp == tp);
            let known = known.unwrap_or_else(|| panic!("nobody sent {attempt} to {}", name(tp)));
            let there = known.place.is_none_or(|at| (at..at + known.count).contains(&offset));
            assert!(there, "attempt {attempt} is not at offset {offset}");
        }
        if self.retention {
            return;
        }
        let Some(partition) = self.partitions.get(&tp) else { return };
        let end = found.map_or(floor, |(offset, _)| offset.min(floor));
        let from = partition.start_asked.min(end);
        for (base, attempt) in partition.acked.range(from..end) {
            let whole = base + self.attempts[attempt].count <= end;
            assert!(
                !whole || (*attempt as i64) < wanted,
                "{wanted} was looked for in {} and attempt {attempt} at {base} not found",
                name(tp)
            );
        }
    }

    /// All partitions of topics that are there to stay for now, and not keyed.
    pub fn living(&self) -> Vec<Tp> {
        let living = self.topics.iter().filter(|(_, topic)| !topic.dying && !topic.keyed);
        living.flat_map(|(id, topic)| (0..topic.partitions).map(|at| (*id, at))).collect()
    }

    /// Whether the topic's deletion was asked for.
    pub fn is_dying(&self, id: TopicId) -> bool {
        self.topics.get(&id).is_none_or(|topic| topic.dying)
    }
}

/// A partition for people.
pub fn name((topic, partition): Tp) -> String {
    format!("{topic}-{partition}")
}
