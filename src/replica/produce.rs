//! Appending batches, and the purgatory where their pieces wait for the high
//! watermark (Kafka's `DelayedProduce.scala`).

use super::work::{Origin, ProduceOutcome, ProduceWork, Work};
use super::{Deadline, Replicas};
use crate::effect::disk::DiskOp;
use crate::log::AppendError;
use crate::model::batch;
use crate::model::error_code::ErrorCode;

use super::partition::Waiting;

/// A produce piece that is not finished.
#[derive(Debug)]
pub(super) struct PendingProduce {
    origin: Origin,
    work: ProduceWork,
    /// Items without an outcome.
    remaining: u32,
}

/// One item of a pending piece. The origin tells an old holder of the key from
/// a new one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    key: u32,
    origin: Origin,
    item: u32,
}

/// The outcome of an item that is not decided yet.
const UNDECIDED: ProduceOutcome = ProduceOutcome::error(ErrorCode::RequestTimedOut, None);

impl Replicas {
    pub(super) fn produce(
        &mut self,
        origin: Origin,
        mut work: ProduceWork,
        disk: &mut Vec<DiskOp>,
    ) {
        let items = work.items.len() as u32;
        for item in &mut work.items {
            item.outcome = UNDECIDED;
        }
        let deadline = work.deadline;
        let key = self.pending.insert(PendingProduce { origin, work, remaining: items });
        self.deadlines.insert((deadline, Deadline::Produce(key)));
        if items == 0 {
            return self.finish_produce(key);
        }
        for item in 0..items {
            let waiter = Waiter { key, origin, item };
            let pending = self.pending.get(key).expect("not finished before its last item");
            let id = pending.work.items[item as usize].topic_partition;
            let Some(slot) = self.by_id.get(&id).copied() else {
                self.fail_produce(waiter, ErrorCode::UnknownTopicOrPartition);
                continue;
            };
            self.want(slot, disk);
            let partition = self.partitions.get(slot).expect("it was in the table");
            let queued = partition.is_loading() || !partition.waiting.is_empty();
            if queued || !self.append(slot, waiter, disk) {
                if !queued {
                    self.starved.push(slot);
                }
                let partition = self.partitions.get_mut(slot).expect("it was in the table");
                partition.waiting.push_back(Waiting::Produce(waiter));
            }
        }
    }

    /// Appends an item's batch to the partition's loaded log, or decides that it
    /// cannot be. False if it has to wait for room.
    pub(super) fn append(&mut self, slot: u32, waiter: Waiter, disk: &mut Vec<DiskOp>) -> bool {
        let Some(pending) = self.pending.get_mut(waiter.key).filter(|p| p.origin == waiter.origin)
        else {
            return true; // Timed out before its turn came.
        };
        let acks = pending.work.acks;
        let item = &mut pending.work.items[waiter.item as usize];
        let Some(records) = item.records.take() else {
            return true;
        };
        let partition = self.partitions.get_mut(slot).expect("a partition that is there");
        let header = match batch::validate(&records, partition.config.max_message_bytes) {
            Ok(header) => header,
            Err(error) => {
                let outcome = ProduceOutcome::error(error.code, Some(error.reason));
                self.decide(waiter, outcome);
                return true;
            }
        };
        let epoch = partition.leader_epoch;
        let mut appended = {
            let (log, mut io) = self.log(slot, disk).expect("the caller saw it loaded");
            log.append(&header, &records, epoch, &mut io)
        };
        // A page goes when all that is in it is let go.
        while appended == Err(AppendError::Busy) && self.evict(2 * records.len()) > 0 {
            let (log, mut io) = self.log(slot, disk).expect("the caller saw it loaded");
            appended = log.append(&header, &records, epoch, &mut io);
        }
        if appended == Err(AppendError::Unavailable) {
            let (log, mut io) = self.log(slot, disk).expect("the caller saw it loaded");
            if log.retry_space() {
                appended = log.append(&header, &records, epoch, &mut io);
            }
        }
        match appended {
            Ok(base_offset) => {
                self.counters.appended_batches += 1;
                self.counters.appended_bytes += records.len() as u64;
                let partition = self.partitions.get_mut(slot).expect("a partition that is there");
                if !std::mem::replace(&mut partition.dirty, true) {
                    self.dirty.push(slot);
                }
                let log = partition.log.as_ref().expect("just appended to");
                let outcome = ProduceOutcome {
                    error: ErrorCode::None,
                    message: None,
                    base_offset,
                    log_start_offset: log.log_start_offset(),
                };
                if acks == 0 {
                    self.decide(waiter, outcome);
                } else {
                    partition.produced.push_back((log.log_end_offset(), waiter));
                    let pending = self.pending.get_mut(waiter.key).expect("seen above");
                    // Until the high watermark passes, only the offset is known.
                    let outcome = &mut pending.work.items[waiter.item as usize].outcome;
                    outcome.base_offset = base_offset;
                    outcome.log_start_offset = log_start(partition);
                }
                true
            }
            Err(AppendError::Busy) => {
                let pending = self.pending.get_mut(waiter.key).expect("seen above");
                pending.work.items[waiter.item as usize].records = Some(records);
                false
            }
            Err(AppendError::Unavailable) => {
                self.fail_produce(waiter, ErrorCode::KafkaStorageError);
                true
            }
        }
    }

    /// Answers the batches that the high watermark has passed; if the disk was
    /// full, refuses those that were rolled back.
    pub(super) fn complete_produced(&mut self, slot: u32) {
        loop {
            let partition = self.partitions.get_mut(slot).expect("a partition that is there");
            let Some(log) = partition.ready_log() else { return };
            let (committed, end) = (log.committed().offset, log.log_end_offset());
            let rolled_back = log.is_full() && partition.produced.back().is_some_and(|p| p.0 > end);
            if rolled_back {
                let (_, waiter) = partition.produced.pop_back().expect("seen above");
                self.fail_produce(waiter, ErrorCode::KafkaStorageError);
                continue;
            }
            let Some((needed, waiter)) = partition.produced.front().copied() else { return };
            if needed > committed {
                return;
            }
            partition.produced.pop_front();
            if let Some(pending) =
                self.pending.get(waiter.key).filter(|p| p.origin == waiter.origin)
            {
                let known = pending.work.items[waiter.item as usize].outcome;
                self.decide(waiter, ProduceOutcome { error: ErrorCode::None, ..known });
            }
        }
    }

    pub(super) fn fail_produce(&mut self, waiter: Waiter, error: ErrorCode) {
        self.decide(waiter, ProduceOutcome::error(error, None));
    }

    /// Gives an item its outcome; the last one finishes the piece.
    fn decide(&mut self, waiter: Waiter, outcome: ProduceOutcome) {
        let Some(pending) = self.pending.get_mut(waiter.key).filter(|p| p.origin == waiter.origin)
        else {
            return; // The piece timed out.
        };
        let item = &mut pending.work.items[waiter.item as usize];
        item.records = None;
        item.outcome = outcome;
        pending.remaining -= 1;
        if pending.remaining == 0 {
            self.finish_produce(waiter.key);
        }
    }

    fn finish_produce(&mut self, key: u32) {
        let pending = self.pending.remove(key).expect("a piece finishes once");
        self.deadlines.remove(&(pending.work.deadline, Deadline::Produce(key)));
        self.finished.push((pending.origin, Work::Produce(pending.work)));
    }

    /// Undecided items keep RequestTimedOut. Their batches may still commit.
    pub(super) fn produce_timed_out(&mut self, key: u32) {
        let pending = self.pending.get_mut(key).expect("a finished piece has no deadline");
        for item in &mut pending.work.items {
            item.records = None;
            if item.outcome.error == ErrorCode::RequestTimedOut {
                item.outcome = UNDECIDED;
            }
        }
        self.finish_produce(key);
    }
}

fn log_start(partition: &super::partition::Partition) -> i64 {
    partition.log.as_ref().map_or(-1, crate::log::Log::log_start_offset)
}
