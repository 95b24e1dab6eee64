//! Offsets looked up by timestamp, and ends of leader epochs
//! (`Partition.fetchOffsetForTimestamp`, `Partition.lastOffsetForLeaderEpoch`).
//!
//! A piece is worked on item by item. It is parked with the partition whose log
//! has to load, read or commit something first, and woken when that log moves;
//! long searches go on in slices, one piece a turn.

use super::Replicas;
use super::work::{EpochEnd, ListOffsetsOutcome, Origin, Work};
use crate::effect::disk::DiskOp;
use crate::log::lookup::{Search, TimeSearch, TimeTarget};
use crate::model::error_code::ErrorCode;
use crate::model::ids::{LeaderEpoch, TopicPartition};

/// `ListOffsetsRequest.java`: the largest timestamp, the earliest offset, the
/// latest.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
/// The earliest offset that is not only in remote storage, which there is not.
const EARLIEST_LOCAL: i64 = -4;

/// A piece that is not finished.
#[derive(Debug)]
pub(super) struct Lookup {
    origin: Origin,
    work: Work,
    /// The item it has come to.
    at: usize,
    search: Option<TimeSearch>,
}

/// What a look at one item came to.
enum Look {
    /// It has its outcome.
    Decided,
    /// The log in this place has to do something first.
    Park(u32),
    /// There is no memory for it: parked with the log in this place.
    Starve(u32),
    /// There is more to do.
    Pause,
    /// There is no further item.
    End,
}

impl Replicas {
    pub(super) fn look_up(&mut self, origin: Origin, work: Work, disk: &mut Vec<DiskOp>) {
        self.go_on_looking(Lookup { origin, work, at: 0, search: None }, disk);
    }

    /// Works on a piece until it is finished or has to wait.
    fn go_on_looking(&mut self, mut lookup: Lookup, disk: &mut Vec<DiskOp>) {
        loop {
            match self.look(&mut lookup, disk) {
                Look::Decided => {
                    lookup.at += 1;
                    lookup.search = None;
                }
                Look::End => return self.finished.push((lookup.origin, lookup.work)),
                Look::Pause => return self.lookups.push_back(lookup),
                Look::Park(slot) => return self.park_lookup(slot, lookup),
                Look::Starve(slot) => {
                    self.starved.insert(slot);
                    return self.park_lookup(slot, lookup);
                }
            }
        }
    }

    fn park_lookup(&mut self, slot: u32, lookup: Lookup) {
        let partition = self.partitions.get_mut(slot).expect("a partition that is there");
        partition.lookups.push(lookup);
    }

    /// One slice of the first search that is under way.
    pub(super) fn search_on(&mut self, disk: &mut Vec<DiskOp>) {
        if let Some(lookup) = self.lookups.pop_front() {
            self.go_on_looking(lookup, disk);
        }
    }

    /// Goes on with what waits for a partition.
    pub(super) fn wake_lookups(&mut self, slot: u32, disk: &mut Vec<DiskOp>) {
        let Some(partition) = self.partitions.get_mut(slot) else { return };
        if partition.lookups.is_empty() || (partition.is_loading() && !partition.removed) {
            return;
        }
        for lookup in std::mem::take(&mut partition.lookups) {
            self.go_on_looking(lookup, disk);
        }
    }

    /// Ends what waits for a partition with `error`.
    pub(super) fn fail_lookups(&mut self, slot: u32, error: ErrorCode) {
        let partition = self.partitions.get_mut(slot).expect("a partition that is there");
        for mut lookup in std::mem::take(&mut partition.lookups) {
            match &mut lookup.work {
                Work::ListOffsets(work) => {
                    for item in &mut work.items[lookup.at..] {
                        item.outcome = ListOffsetsOutcome::error(error);
                    }
                }
                Work::EpochEnds(work) => {
                    for item in &mut work.items[lookup.at..] {
                        item.outcome = EpochEnd::error(error);
                    }
                }
                other => unreachable!("{other:?} is no lookup"),
            }
            self.finished.push((lookup.origin, lookup.work));
        }
    }

    fn look(&mut self, lookup: &mut Lookup, disk: &mut Vec<DiskOp>) -> Look {
        let Lookup { work, at, search, .. } = lookup;
        match work {
            Work::ListOffsets(work) => {
                let Some(item) = work.items.get_mut(*at) else { return Look::End };
                let (id, epoch) = (item.topic_partition, item.current_leader_epoch);
                let slot = match self.ready_for_lookup(id, epoch, disk) {
                    Ok(slot) => slot,
                    Err(Ok(look)) => return look,
                    Err(Err(error)) => {
                        item.outcome = ListOffsetsOutcome::error(error);
                        return Look::Decided;
                    }
                };
                match self.list_offset(slot, item.timestamp, search, disk) {
                    Ok(outcome) => {
                        item.outcome = outcome;
                        Look::Decided
                    }
                    Err(look) => look,
                }
            }
            Work::EpochEnds(work) => {
                let Some(item) = work.items.get_mut(*at) else { return Look::End };
                let (id, epoch) = (item.topic_partition, item.current_leader_epoch);
                item.outcome = match self.ready_for_lookup(id, epoch, disk) {
                    Ok(slot) => self.end_of_epoch(slot, item.leader_epoch),
                    Err(Ok(look)) => return look,
                    Err(Err(error)) => EpochEnd::error(error),
                };
                Look::Decided
            }
            other => unreachable!("{other:?} is no lookup"),
        }
    }

    /// The place of a partition whose log is ready; otherwise what to do, or
    /// what to answer.
    fn ready_for_lookup(
        &mut self,
        id: TopicPartition,
        current_leader_epoch: i32,
        disk: &mut Vec<DiskOp>,
    ) -> Result<u32, Result<Look, ErrorCode>> {
        let slot = self.by_id.get(&id).copied();
        let slot = slot.ok_or(Err(ErrorCode::UnknownTopicOrPartition))?;
        self.want(slot, disk);
        let partition = self.partitions.get(slot).expect("it was in the table");
        if let Some(error) = partition.epoch_error(current_leader_epoch) {
            return Err(Err(error));
        }
        if partition.is_loading() && !self.is_unreadable() {
            return Err(Ok(Look::Park(slot)));
        }
        partition.ready_log().map(|_| slot).ok_or(Err(ErrorCode::KafkaStorageError))
    }

    fn end_of_epoch(&self, slot: u32, requested: i32) -> EpochEnd {
        let partition = self.partitions.get(slot).expect("the caller looked");
        let log = partition.ready_log().expect("the caller looked");
        let end = log.end_of_epoch(LeaderEpoch(requested), partition.leader_epoch);
        let (epoch, end_offset) = end.unwrap_or((LeaderEpoch(-1), -1));
        EpochEnd { error: ErrorCode::None, leader_epoch: epoch.0, end_offset }
    }

    fn list_offset(
        &mut self,
        slot: u32,
        timestamp: i64,
        search: &mut Option<TimeSearch>,
        disk: &mut Vec<DiskOp>,
    ) -> Result<ListOffsetsOutcome, Look> {
        let partition = self.partitions.get(slot).expect("the caller looked");
        let log = partition.ready_log().expect("the caller looked");
        let found = |timestamp, offset, leader_epoch| {
            Ok(ListOffsetsOutcome { error: ErrorCode::None, timestamp, offset, leader_epoch })
        };
        let target = match timestamp {
            LATEST => return found(-1, log.committed().offset, partition.leader_epoch.0),
            EARLIEST | EARLIEST_LOCAL => {
                let epoch = log.earliest_epoch().map_or(-1, |epoch| epoch.0);
                return found(-1, log.log_start_offset(), epoch);
            }
            MAX_TIMESTAMP => TimeTarget::Latest,
            0.. => TimeTarget::From(timestamp),
            // Of remote storage: nothing is there.
            _ => return found(-1, -1, -1),
        };
        let mut going = search.take().unwrap_or_else(|| TimeSearch::new(target));
        let result = loop {
            let (log, mut io) = self.log(slot, disk).expect("the caller looked");
            match log.search(&mut going, &mut io) {
                Search::NoPages(len) if self.evict_for_read(slot, len) > 0 => {}
                result => break result,
            }
        };
        *search = Some(going);
        match result {
            Search::Found(found) => Ok(ListOffsetsOutcome {
                error: ErrorCode::None,
                timestamp: found.timestamp,
                offset: found.offset,
                leader_epoch: found.epoch.0,
            }),
            Search::Nothing => found(-1, -1, -1),
            Search::Wait => Err(Look::Park(slot)),
            Search::NoPages(_) => Err(Look::Starve(slot)),
            Search::Pause => Err(Look::Pause),
            Search::Unavailable => Ok(ListOffsetsOutcome::error(ErrorCode::KafkaStorageError)),
            Search::Damaged => Ok(ListOffsetsOutcome::error(ErrorCode::CorruptMessage)),
        }
    }
}
