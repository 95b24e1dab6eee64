//! Appending batches, and the purgatory where their pieces wait for the high
//! watermark (Kafka's `DelayedProduce.scala`).

use super::work::{Origin, ProduceOutcome, ProduceWork, Work};
use super::{Deadline, Replicas, keys};
use crate::base::deadlines::DeadlineId;
use crate::base::time::{Now, UnixMillis};
use crate::effect::disk::DiskOp;
use crate::log::{AppendError, Appended};
use crate::model::batch::{self, BatchHeader};
use crate::model::error_code::ErrorCode;

use super::partition::Waiting;

/// A produce piece that is not finished.
#[derive(Debug)]
pub(super) struct PendingProduce {
    origin: Origin,
    work: ProduceWork,
    deadline: DeadlineId,
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
        now: Now,
        origin: Origin,
        mut work: ProduceWork,
        disk: &mut Vec<DiskOp>,
    ) {
        let items = work.items.len() as u32;
        let bytes = work.items.iter().filter_map(|item| item.records.as_ref());
        let bytes = bytes.map(|records| records.len() as u64).sum();
        self.note_taken(now, bytes, disk);
        for item in &mut work.items {
            item.outcome = UNDECIDED;
        }
        let deadline = work.deadline;
        let pending =
            PendingProduce { origin, work, deadline: DeadlineId::default(), remaining: items };
        let key = self.pending.insert(pending);
        let id = self.deadlines.insert(deadline, Deadline::Produce(key));
        self.pending.get_mut(key).expect("just inserted").deadline = id;
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
            if self.is_unreadable() {
                self.fail_produce(waiter, ErrorCode::KafkaStorageError);
                continue;
            }
            self.want(slot, disk);
            let partition = self.partitions.get(slot).expect("it was in the table");
            let queued = partition.is_loading() || !partition.waiting.is_empty();
            if queued || !self.append(now, slot, waiter, disk) {
                let partition = self.partitions.get_mut(slot).expect("it was in the table");
                partition.waiting.push_back(Waiting::Produce(waiter));
            }
        }
    }

    /// Appends an item's batch to the partition's loaded log, or decides that it
    /// cannot be. False if it has to wait for room.
    pub(super) fn append(
        &mut self,
        now: Now,
        slot: u32,
        waiter: Waiter,
        disk: &mut Vec<DiskOp>,
    ) -> bool {
        let now = now.unix;
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
        if let Some(outcome) = partition.config.timestamps.refusal(&header, &records, now) {
            self.decide(waiter, outcome);
            return true;
        }
        if partition.config.compaction.is_some()
            && let Some(outcome) =
                keys::refusal(&partition.dir.to_string_lossy(), &header, &records)
        {
            self.decide(waiter, outcome);
            return true;
        }
        let mut appended = self.append_to_log(now, slot, &header, &records, disk);
        // A page goes when all that is in it is let go.
        while appended == Err(AppendError::NoMemory) && self.evict(2 * records.len()) > 0 {
            appended = self.append_to_log(now, slot, &header, &records, disk);
        }
        if appended == Err(AppendError::Unavailable)
            && self.log(slot, disk).is_some_and(|(log, _)| log.retry_space())
        {
            appended = self.append_to_log(now, slot, &header, &records, disk);
        }
        match appended {
            Ok(Appended { base_offset, next_offset, append_time_ms, duplicate }) => {
                let partition = self.partitions.get_mut(slot).expect("a partition that is there");
                if !duplicate {
                    self.counters.appended_batches += 1;
                    self.counters.appended_bytes += records.len() as u64;
                    if !std::mem::replace(&mut partition.dirty, true) {
                        self.dirty.push(slot);
                    }
                }
                let log = partition.log.as_ref().expect("just appended to");
                let log_start_offset = log.log_start_offset();
                let outcome = ProduceOutcome {
                    error: ErrorCode::None,
                    message: None,
                    base_offset,
                    log_start_offset,
                    append_time_ms,
                    record_errors: Vec::new(),
                };
                if acks == 0 || next_offset <= log.committed().offset {
                    self.decide(waiter, outcome);
                } else {
                    partition.produced.push_back((next_offset, waiter));
                    let pending = self.pending.get_mut(waiter.key).expect("seen above");
                    // Until the high watermark passes, only the offset is known.
                    pending.work.items[waiter.item as usize].outcome =
                        ProduceOutcome { error: ErrorCode::RequestTimedOut, ..outcome };
                }
                true
            }
            Err(AppendError::Refused(error)) => {
                self.fail_produce(waiter, error);
                true
            }
            Err(busy @ (AppendError::Busy | AppendError::NoMemory)) => {
                if busy == AppendError::NoMemory {
                    self.starved.insert(slot);
                }
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

    fn append_to_log(
        &mut self,
        now: UnixMillis,
        slot: u32,
        header: &BatchHeader,
        records: &[u8],
        disk: &mut Vec<DiskOp>,
    ) -> Result<Appended, AppendError> {
        let epoch = self.partitions.get(slot).expect("a partition that is there").leader_epoch;
        let (log, mut io) = self.log(slot, disk).expect("the caller saw it loaded");
        log.append(now, header, records, epoch, &mut io)
    }

    /// Answers the batches that the high watermark has passed; if the disk was
    /// full, refuses those that were rolled back.
    pub(super) fn complete_produced(&mut self, slot: u32) {
        loop {
            let partition = self.partitions.get_mut(slot).expect("a partition that is there");
            let Some(log) = partition.ready_log() else { return };
            let (committed, end) = (log.committed().offset, log.log_end_offset());
            if log.is_full()
                && let Some(at) = partition.produced.iter().position(|(needed, _)| *needed > end)
            {
                let (_, waiter) = partition.produced.remove(at).expect("just found");
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
                let known = pending.work.items[waiter.item as usize].outcome.clone();
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
        self.deadlines.remove(pending.deadline);
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
