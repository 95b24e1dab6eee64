//! Reading batches, and the purgatory where fetch pieces wait for bytes
//! (Kafka's `DelayedFetch.scala`).

use std::time::Duration;

use super::work::{FetchOutcome, FetchWork, Origin, Work};
use super::{Deadline, Replicas};
use crate::base::deadlines::DeadlineId;
use crate::base::limits::{FETCH_BYTES_MAX, LOAD_PATIENCE_MS};
use crate::base::time::{Instant, Now};
use crate::effect::disk::DiskOp;
use crate::log::Read;
use crate::model::error_code::ErrorCode;

/// How often a fetch that waits for a read looks again: nothing else says that there
/// is memory for it.
const READ_POLL: Duration = Duration::from_millis(50);

/// A fetch piece that waits.
#[derive(Debug)]
pub(super) struct ParkedFetch {
    origin: Origin,
    work: FetchWork,
    deadline: DeadlineId,
    /// Until when logs that load are waited for.
    patience: Instant,
}

impl ParkedFetch {
    pub fn origin(&self) -> Origin {
        self.origin
    }
}

/// What one round of reads came to.
struct Round {
    bytes: usize,
    /// Something has to be said at once.
    error: bool,
    /// Some of it waits for a read.
    waits: bool,
    /// Some of it waits for a log to load.
    loading: bool,
}

impl Replicas {
    pub(super) fn fetch(
        &mut self,
        now: Now,
        origin: Origin,
        mut work: FetchWork,
        disk: &mut Vec<DiskOp>,
    ) {
        for item in &work.items {
            if let Some(slot) = self.by_id.get(&item.topic_partition).copied() {
                self.want(slot, disk);
            }
        }
        let round = self.read_all(&mut work, disk);
        let patience = work.deadline.max(now.instant + Duration::from_millis(LOAD_PATIENCE_MS));
        if round.answers(&work) || round.is_late(now, &work, patience) {
            return self.finish_fetch(origin, work);
        }
        let soon = round.waits || work.deadline <= now.instant;
        let at = if soon { now.instant + READ_POLL } else { work.deadline };
        let deadline = DeadlineId::default();
        let key = self.parked.insert(ParkedFetch { origin, work, deadline, patience });
        let parked = self.parked.get_mut(key).expect("just parked");
        parked.deadline = self.deadlines.insert(at, Deadline::Fetch(key));
        for item in &parked.work.items {
            if let Some(slot) = self.by_id.get(&item.topic_partition)
                && let Some(partition) = self.partitions.get_mut(*slot)
            {
                partition.fetches.push(key);
            }
        }
    }

    /// Looks again at the fetches that wait for a partition.
    pub(super) fn wake_fetches(&mut self, now: Now, slot: u32, disk: &mut Vec<DiskOp>) {
        let mut at = 0;
        while let Some(partition) = self.partitions.get(slot)
            && let Some(key) = partition.fetches.get(at).copied()
        {
            if self.retry_fetch(now, key, disk) {
                // A deleted partition is no longer found by its id.
                if let Some(partition) = self.partitions.get_mut(slot) {
                    partition.fetches.retain(|parked| *parked != key);
                }
            } else {
                at += 1;
            }
        }
    }

    /// Answers a parked fetch if it can be answered now.
    fn retry_fetch(&mut self, now: Now, key: u32, disk: &mut Vec<DiskOp>) -> bool {
        let parked = self.parked.get_mut(key).expect("a partition lists parked fetches only");
        let (origin, patience) = (parked.origin, parked.patience);
        let mut work = std::mem::take(&mut parked.work);
        let round = self.read_all(&mut work, disk);
        if round.answers(&work) || round.is_late(now, &work, patience) {
            self.unpark(key, &work);
            self.finish_fetch(origin, work);
            return true;
        }
        self.parked.get_mut(key).expect("seen above").work = work;
        false
    }

    /// The home of a parked fetch needs it no longer: answers with what there is.
    pub fn cancel_fetch(&mut self, origin: Origin) {
        let found = self.parked.iter().find(|(_, parked)| parked.origin == origin);
        let Some((key, _)) = found else { return };
        let parked = self.parked.get_mut(key).expect("just found");
        let work = std::mem::take(&mut parked.work);
        self.unpark(key, &work);
        self.finish_fetch(origin, work);
    }

    /// The wait is over: answers with what there is, but for a read that is under
    /// way, for which a client waits in Kafka too, and a log that is being opened.
    pub(super) fn fetch_timed_out(&mut self, now: Now, key: u32, disk: &mut Vec<DiskOp>) {
        if !self.retry_fetch(now, key, disk) {
            let parked = self.parked.get_mut(key).expect("a parked fetch has a deadline");
            parked.deadline = self.deadlines.insert(now.instant + READ_POLL, Deadline::Fetch(key));
        }
    }

    fn unpark(&mut self, key: u32, work: &FetchWork) {
        let parked = self.parked.remove(key).expect("it is parked");
        self.deadlines.remove(parked.deadline);
        for item in &work.items {
            if let Some(slot) = self.by_id.get(&item.topic_partition)
                && let Some(partition) = self.partitions.get_mut(*slot)
            {
                partition.fetches.retain(|parked| *parked != key);
            }
        }
    }

    fn finish_fetch(&mut self, origin: Origin, work: FetchWork) {
        self.counters.fetches += 1;
        let bytes: usize = work.items.iter().map(|item| item.outcome.records.len()).sum();
        self.counters.fetched_bytes += bytes as u64;
        self.finished.push((origin, Work::Fetch(work)));
    }

    /// Reads every item afresh, in order, within the piece's limits.
    fn read_all(&mut self, work: &mut FetchWork, disk: &mut Vec<DiskOp>) -> Round {
        let mut left = work.max_bytes.min(FETCH_BYTES_MAX);
        let mut round = Round { bytes: 0, error: false, waits: false, loading: false };
        for item in &mut work.items {
            let mut records = std::mem::take(&mut item.outcome.records);
            records.clear();
            item.outcome = FetchOutcome { records, ..FetchOutcome::default() };
            let outcome = &mut item.outcome;
            let Some(slot) = self.by_id.get(&item.topic_partition).copied() else {
                outcome.error = ErrorCode::UnknownTopicOrPartition;
                round.error = true;
                continue;
            };
            let partition = self.partitions.get_mut(slot).expect("it was in the table");
            if let Some(error) = partition.epoch_error(item.current_leader_epoch) {
                outcome.error = error;
                round.error = true;
                continue;
            }
            if partition.is_loading() {
                if self.is_unreadable() {
                    outcome.error = ErrorCode::KafkaStorageError;
                    round.error = true;
                    continue;
                }
                // A client that has waited long enough is told to come again.
                outcome.error = ErrorCode::NotLeaderOrFollower;
                round.loading = true;
                continue;
            }
            let max = item.max_bytes.min(left);
            let whole_first = round.bytes == 0;
            let records = &mut outcome.records;
            let read = loop {
                let (log, mut io) = self.log(slot, disk).expect("it is not loading");
                let committed = log.committed();
                outcome.high_watermark = committed.offset;
                outcome.log_start_offset = log.log_start_offset();
                let offset = item.fetch_offset;
                let read = log.read(offset, max, whole_first, committed, records, &mut io);
                match read {
                    Read::NoPages(len) if self.evict_for_read(slot, len) > 0 => {}
                    read => break read,
                }
            };
            match read {
                Read::Done => {}
                Read::Wait | Read::NoPages(_) => round.waits = true,
                Read::OutOfRange => {
                    outcome.error = ErrorCode::OffsetOutOfRange;
                    round.error = true;
                }
                Read::Unavailable => {
                    outcome.error = ErrorCode::KafkaStorageError;
                    outcome.high_watermark = -1;
                    round.error = true;
                }
            }
            left = left.saturating_sub(outcome.records.len());
            round.bytes += outcome.records.len();
        }
        round
    }
}

impl Round {
    /// Whether the time to wait is over. Who has something does not wait for more:
    /// there may never be memory for all that was asked for at the same time.
    fn is_late(&self, now: Now, work: &FetchWork, patience: Instant) -> bool {
        let waits = self.waits && self.bytes == 0;
        now.instant >= work.deadline && !waits && (!self.loading || now.instant >= patience)
    }

    /// Whether there is enough to answer before the deadline.
    fn answers(&self, work: &FetchWork) -> bool {
        let nothing_yet = self.bytes == 0 && (self.waits || self.loading);
        self.error || (self.bytes >= work.min_bytes && !nothing_yet)
    }
}
