//! Moving the starts of logs (DeleteRecords, KIP-107; `Partition.scala`
//! deleteRecordsOnLeader, `DelayedDeleteRecords.scala`).
//!
//! A piece waits until the logs of all its partitions are loaded, then moves
//! their starts, then waits until every new start is durable or its deadline
//! passes. What is removed from the disk is removed later; see `log/start.rs`.

use super::partition::Waiting;
use super::work::{DeleteRecordsOutcome, DeleteRecordsWork, Origin, Work};
use super::{Deadline, Replicas};
use crate::base::deadlines::DeadlineId;
use crate::base::time::Now;
use crate::effect::disk::DiskOp;
use crate::model::error_code::ErrorCode;

/// Stands for the high watermark (`DeleteRecordsRequest.HIGH_WATERMARK`).
const HIGH_WATERMARK: i64 = -1;

/// A piece whose starts are not all durable.
#[derive(Debug)]
pub(super) struct PendingDelete {
    origin: Origin,
    work: DeleteRecordsWork,
    deadline: DeadlineId,
}

/// The outcome of an item whose start is not durable yet.
const UNDECIDED: ErrorCode = ErrorCode::RequestTimedOut;

impl Replicas {
    pub(super) fn delete_records(
        &mut self,
        now: Now,
        origin: Origin,
        mut work: DeleteRecordsWork,
        disk: &mut Vec<DiskOp>,
    ) {
        let unreadable = self.is_unreadable();
        for at in 0..work.items.len() {
            if let Some(slot) = self.by_id.get(&work.items[at].topic_partition).copied() {
                self.want(slot, disk);
                let partition = self.partitions.get_mut(slot).expect("it was in the table");
                if partition.is_loading() && !unreadable {
                    partition.waiting.push_back(Waiting::DeleteRecords(origin, work));
                    return;
                }
            }
        }
        for item in &mut work.items {
            let Some(slot) = self.by_id.get(&item.topic_partition).copied() else {
                item.outcome = DeleteRecordsOutcome::error(ErrorCode::UnknownTopicOrPartition);
                continue;
            };
            let log = self.log(slot, disk).filter(|(log, _)| log.is_ready());
            let Some((log, mut io)) = log else {
                item.outcome = DeleteRecordsOutcome::error(ErrorCode::KafkaStorageError);
                continue;
            };
            if item.offset == HIGH_WATERMARK {
                item.offset = log.committed().offset;
            }
            let moved = item.offset >= 0 && log.advance_start(item.offset, &mut io).is_ok();
            let error = if moved { UNDECIDED } else { ErrorCode::OffsetOutOfRange };
            item.outcome = DeleteRecordsOutcome::error(error);
        }
        let deadline = work.deadline;
        let key =
            self.deleting.insert(PendingDelete { origin, work, deadline: DeadlineId::default() });
        let id = self.deadlines.insert(deadline, Deadline::DeleteRecords(key));
        self.deleting.get_mut(key).expect("just inserted").deadline = id;
        self.look_at_deletion(key);
        // Fetches that wait for what is gone are told.
        self.wake_deleted(now, key, disk);
    }

    fn wake_deleted(&mut self, now: Now, key: u32, disk: &mut Vec<DiskOp>) {
        let Some(pending) = self.deleting.get(key) else { return };
        let items = pending.work.items.iter();
        let slots: Vec<u32> =
            items.filter_map(|item| self.by_id.get(&item.topic_partition).copied()).collect();
        for slot in slots {
            self.wake_fetches(now, slot, disk);
        }
    }

    /// Looks what became durable of the starts that are waited for.
    pub(super) fn look_at_deletions(&mut self) {
        let keys: Vec<u32> = self.deleting.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.look_at_deletion(key);
        }
    }

    /// Decides the items that can be decided; the last one finishes the piece.
    fn look_at_deletion(&mut self, key: u32) {
        let pending = self.deleting.get_mut(key).expect("it is in the table");
        let mut undecided = false;
        for item in pending.work.items.iter_mut().filter(|item| item.outcome.error == UNDECIDED) {
            let partition =
                self.by_id.get(&item.topic_partition).and_then(|slot| self.partitions.get(*slot));
            item.outcome = match partition.map(|partition| partition.ready_log()) {
                None => DeleteRecordsOutcome::error(ErrorCode::UnknownTopicOrPartition),
                Some(None) => DeleteRecordsOutcome::error(ErrorCode::KafkaStorageError),
                Some(Some(log)) if log.kept_start() >= item.offset => DeleteRecordsOutcome {
                    error: ErrorCode::None,
                    // Retention may have moved it further, which is not durable yet.
                    low_watermark: log.kept_start(),
                },
                Some(Some(_)) => {
                    undecided = true;
                    continue;
                }
            };
        }
        if !undecided {
            self.finish_deletion(key);
        }
    }

    fn finish_deletion(&mut self, key: u32) {
        let pending = self.deleting.remove(key).expect("a piece finishes once");
        self.deadlines.remove(pending.deadline);
        self.finished.push((pending.origin, Work::DeleteRecords(pending.work)));
    }

    /// Undecided items keep RequestTimedOut. Their starts have moved all the same.
    pub(super) fn deletion_timed_out(&mut self, key: u32) {
        self.finish_deletion(key);
    }
}
