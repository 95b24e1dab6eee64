//! Syncs of logs: each its own, or one for many.
//!
//! A log says that it waits for a sync when its write has completed. At the end
//! of the turn the sync of a file is sent for each, or, if more would be in
//! flight than the core's part of `SYNCS_ALONE_MAX`, one of all files for all who wait. While that
//! is in flight, who comes waits for the next one: what it makes durable had
//! completed before it was asked for, and nothing else is told so.
//!
//! A sync of all files waits for what other programs have written to the file
//! system, too. If one was slow for that, logs are synced alone for a while, unless
//! they are so many that this would take as long.
//!
//! Its failure is final for the log directory, as that of a single sync.
//!
//! Not here: when a log wants a sync (`log/flush.rs`), and the order in a log.

use std::collections::VecDeque;
use std::time::Duration;

use super::Replicas;
use crate::base::limits::{
    SYNC_ALL_PAUSE_MS, SYNC_ALL_SLOW_EACH_MS, SYNC_ALL_SLOW_MS, SYNCS_ALONE_MAX, SYNCS_TOLD_MAX,
};
use crate::base::time::{Instant, Now};
use crate::effect::disk::{DiskError, DiskOp, DiskOpKind, DiskOutput};
use crate::log::io::{LogOp, LogSlot, WantedSync, tag};

/// The owner of syncs of all files.
pub(super) const SLOT: LogSlot = LogSlot(u32::MAX - 3);

/// Who waits for what.
#[derive(Debug)]
pub(super) struct Syncs {
    /// No sync was asked for them yet.
    wanted: Vec<WantedSync>,
    /// Syncs of single files in flight ...
    alone: usize,
    /// ... and how many may be.
    alone_max: usize,
    /// Whom the sync of all files in flight is for; empty if there is none.
    shared: Vec<WantedSync>,
    /// When that was asked for.
    since: Instant,
    /// How long the last one took that was slow ...
    slow: Duration,
    /// ... and until when that counts.
    paused: Instant,
    /// Logs to be told of the end of one.
    ended: VecDeque<(WantedSync, Result<(), DiskError>)>,
}

impl Syncs {
    pub fn new() -> Self {
        Self {
            wanted: vec![],
            alone: 0,
            alone_max: SYNCS_ALONE_MAX,
            shared: vec![],
            since: Instant::from_nanos(0),
            slow: Duration::ZERO,
            paused: Instant::from_nanos(0),
            ended: VecDeque::new(),
        }
    }

    /// Where logs say what they wait for.
    pub fn wanted(&mut self) -> &mut Vec<WantedSync> {
        &mut self.wanted
    }

    pub fn limit_alone(&mut self, max: usize) {
        self.alone_max = max;
    }

    /// Whether so many syncs would be one.
    pub fn is_many(&self, syncs: usize) -> bool {
        syncs > self.alone_max
    }

    /// Whether a turn has something to do at once.
    pub fn has_work(&self) -> bool {
        !self.ended.is_empty() || (!self.wanted.is_empty() && self.shared.is_empty())
    }

    /// An operation of a log has ended.
    pub fn note_end(&mut self, op: LogOp) {
        if matches!(op, LogOp::Sync | LogOp::ChoreSync) {
            self.alone -= 1;
        }
    }
}

/// How long a sync of all files may take for so many logs.
fn patience(logs: usize) -> Duration {
    Duration::from_millis(SYNC_ALL_SLOW_MS + SYNC_ALL_SLOW_EACH_MS * logs as u64)
}

impl Replicas {
    /// Sends the syncs that logs wait for.
    pub(super) fn send_syncs(&mut self, now: Now, disk: &mut Vec<DiskOp>) {
        let Syncs { wanted, alone, alone_max, shared, since, slow, paused, .. } = &mut self.syncs;
        let groups = wanted.iter().filter(|one| one.op == LogOp::Sync).count();
        let many = groups > 0 && *alone + shared.len() + groups > *alone_max;
        if wanted.is_empty() || !shared.is_empty() {
            if many {
                self.use_journal(now, disk);
            }
            return;
        }
        let count = *alone + wanted.len();
        let worth = now.instant >= *paused || *slow <= patience(count);
        if count > *alone_max && worth {
            *since = now.instant;
            std::mem::swap(wanted, shared);
            disk.push(DiskOp { tag: tag(SLOT, LogOp::Sync), kind: DiskOpKind::SyncAll });
        } else {
            *alone += wanted.len();
            disk.extend(wanted.drain(..).map(WantedSync::alone));
        }
        if many {
            self.use_journal(now, disk);
        }
    }

    /// The sync of all files has ended.
    pub(super) fn on_synced_all(
        &mut self,
        now: Now,
        result: Result<DiskOutput, DiskError>,
        disk: &mut Vec<DiskOp>,
    ) {
        let result = result.map(drop);
        if let Err(error) = result {
            // Another one may succeed without having written anything.
            self.failed.get_or_insert(error);
        }
        let Syncs { shared, since, slow, paused, ended, .. } = &mut self.syncs;
        let took = now.instant.since(*since);
        if took > patience(shared.len()) {
            tracing::debug!("a sync of the file system took {took:?} for {} logs", shared.len());
            *slow = took;
            *paused = now.instant + Duration::from_millis(SYNC_ALL_PAUSE_MS);
        }
        ended.extend(shared.drain(..).map(|wanted| (wanted, result)));
        self.tell_synced(now, disk);
    }

    /// Tells the next logs that their sync has ended.
    pub(super) fn tell_synced(&mut self, now: Now, disk: &mut Vec<DiskOp>) {
        for _ in 0..SYNCS_TOLD_MAX {
            let Some((wanted, result)) = self.syncs.ended.pop_front() else { return };
            let result = result.map(|()| DiskOutput::Done);
            self.on_log_disk(now, wanted.slot, wanted.op, result, disk);
        }
    }
}
