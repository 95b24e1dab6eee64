//! Looking after old records: every log is asked so often to delete what need
//! not be kept (`LogManager.cleanupLogs`).
//!
//! A *sweep* goes over the partitions, some in each turn, and opens the logs that
//! lay on the disk at the start and that nobody has asked for yet, a few at a
//! time: what nobody reads grows old, too. The next sweep begins a while after
//! the end of this one. Ages go by the wall clock, sweeps do not.

use std::time::Duration;

use super::{Deadline, Replicas};
use crate::base::limits::{LOADING_MAX, RETENTION_LOOKS};
use crate::base::time::Now;
use crate::effect::disk::DiskOp;

/// The first sweep begins so long after the start at the latest
/// (`log.initial.task.delay.ms`).
const FIRST_SWEEP: Duration = Duration::from_secs(30);

/// When sweeps are, and how far the one under way has come.
#[derive(Debug)]
pub(super) struct Sweeps {
    every: Duration,
    /// The first one has its deadline.
    begun: bool,
    /// The next partition to look at, during a sweep.
    at: Option<u32>,
    /// The sweep waits until other logs are loaded.
    waits: bool,
}

impl Sweeps {
    pub fn new() -> Self {
        Self { every: Duration::from_millis(300_000), begun: false, at: None, waits: false }
    }

    /// Whether the sweep goes on at once.
    pub fn has_work(&self) -> bool {
        self.at.is_some() && !self.waits
    }

    /// It is time for a sweep.
    pub fn begin(&mut self) {
        self.at = Some(0);
    }
}

impl Replicas {
    /// Sets how long after each other logs are asked to delete what need not be
    /// kept (`log.retention.check.interval.ms`).
    pub fn sweep_every(&mut self, every: Duration) {
        self.sweeps.every = every;
    }

    /// Goes on with the sweep, if one is under way.
    pub(super) fn sweep(&mut self, now: Now, disk: &mut Vec<DiskOp>) {
        if !self.sweeps.begun && self.lifecycle.is_running() {
            self.sweeps.begun = true;
            let first = now.instant + FIRST_SWEEP.min(self.sweeps.every);
            self.deadlines.insert(first, Deadline::Sweep);
        }
        let Some(from) = self.sweeps.at.filter(|_| self.lifecycle.is_running()) else { return };
        let slots = self.partitions.end();
        let upto = slots.min(from.saturating_add(RETENTION_LOOKS));
        for slot in from..upto {
            if !self.look_after(now, slot, disk) {
                (self.sweeps.at, self.sweeps.waits) = (Some(slot), true);
                return;
            }
        }
        self.sweeps.waits = false;
        self.sweeps.at = (upto < slots).then_some(upto);
        if self.sweeps.at.is_none() {
            self.deadlines.insert(now.instant + self.sweeps.every, Deadline::Sweep);
        }
    }

    /// Asks one log. False if it has to be loaded and too many others are.
    fn look_after(&mut self, now: Now, slot: u32, disk: &mut Vec<DiskOp>) -> bool {
        let Some(partition) = self.partitions.get(slot) else { return true };
        let retention = partition.config.retention;
        let compacts = partition.config.compaction.is_some();
        if partition.removed || (retention.keeps_all() && !compacts) {
            return true;
        }
        if partition.log.is_none() {
            if !partition.wanted && self.lifecycle.was_found(&partition.dir) {
                if self.lifecycle.loading() >= LOADING_MAX {
                    return false;
                }
                // It is asked by the next sweep.
                self.want(slot, disk);
            }
            return true;
        }
        if let Some((log, mut io)) = self.log(slot, disk)
            && log.retain(now.unix, retention, &mut io)
        {
            let counts = log.take_counts();
            self.compactor.count(counts);
            // Fetches that wait for what is gone are told.
            self.wake_fetches(now, slot, disk);
        }
        true
    }
}
