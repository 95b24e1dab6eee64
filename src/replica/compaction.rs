//! Running compaction: which log, and when.
//!
//! A look goes over the partitions, some in each turn; the first log that is dirty
//! enough is compacted to its end, one slice in each turn, then the look goes on.
//! The next one begins `log.cleaner.backoff.ms` after the end of this one. One log
//! of a core is compacted at a time, so there is one table of keys.

use std::time::Duration;

use super::{Deadline, MEMORY_POLL, Replicas};
use crate::base::limits::{COMPACTION_CHUNK_BYTES, COMPACTION_MAP_BYTES, RETENTION_LOOKS};
use crate::base::time::Now;
use crate::effect::disk::DiskOp;
use crate::log::Log;
use crate::log::compaction::Compacted;
use crate::log::offset_map::OffsetMap;

/// What is looked at or compacted.
#[derive(Debug)]
pub(super) struct Compactor {
    backoff: Duration,
    /// The first look has its deadline.
    begun: bool,
    /// The next partition to look at, during a look.
    at: Option<u32>,
    /// The partition whose log is compacted.
    running: Option<u32>,
    /// It can go on.
    ready: bool,
    map: OffsetMap,
    map_max: usize,
}

impl Compactor {
    pub fn new() -> Self {
        Self {
            backoff: Duration::from_secs(15),
            begun: false,
            at: None,
            running: None,
            ready: false,
            map: OffsetMap::default(),
            map_max: COMPACTION_MAP_BYTES,
        }
    }

    /// Whether there is something to do at once.
    pub fn has_work(&self) -> bool {
        match self.running {
            Some(_) => self.ready,
            None => self.at.is_some(),
        }
    }

    /// It is time for a look.
    pub fn begin(&mut self) {
        self.at = Some(0);
    }

    /// Something happened to the log of this partition, if it is the one.
    pub fn wake(&mut self, slot: u32) {
        self.ready |= self.running == Some(slot);
    }

    /// Memory may have come back.
    pub fn wake_any(&mut self) {
        self.ready = true;
    }
}

impl Replicas {
    /// Sets how long after each other logs to compact are looked for
    /// (`log.cleaner.backoff.ms`).
    pub fn compact_every(&mut self, backoff: Duration) {
        self.compactor.backoff = backoff;
    }

    /// Lets the table of keys take no more than `bytes`, however much is said
    /// elsewhere.
    pub fn limit_compaction_map(&mut self, bytes: usize) {
        self.compactor.map_max = bytes;
    }

    /// Goes on with what is compacted, or looks for something.
    pub(super) fn compaction_turn(&mut self, now: Now, disk: &mut Vec<DiskOp>) {
        if !self.lifecycle.is_running() {
            return;
        }
        if !self.compactor.begun {
            self.compactor.begun = true;
            self.deadlines.insert(now.instant + self.compactor.backoff, Deadline::Compaction);
        }
        match self.compactor.running {
            Some(slot) if self.compactor.ready => self.go_on_compacting(now, slot, disk),
            Some(_) => {}
            None => self.look_for_dirt(now),
        }
    }

    fn look_for_dirt(&mut self, now: Now) {
        let Some(from) = self.compactor.at else { return };
        let slots = self.partitions.end();
        let upto = slots.min(from.saturating_add(RETENTION_LOOKS));
        for slot in from..upto {
            let Some(partition) = self.partitions.get_mut(slot).filter(|one| !one.removed) else {
                continue;
            };
            let Some(config) = partition.config.compaction else { continue };
            let log = partition.log.as_mut().filter(|log| Log::is_ready(log));
            let Some(log) = log.filter(|log| log.wants_compaction(now.unix, &config)) else {
                continue;
            };
            tracing::info!("log {}: compacting it", log.dir().display());
            log.begin_compaction(now.unix, &config);
            let bytes = self.compactor.map_max.min(self.pages.budget() / 8);
            self.compactor.map = OffsetMap::new(bytes);
            (self.compactor.running, self.compactor.ready) = (Some(slot), true);
            self.compactor.at = Some(slot + 1);
            return;
        }
        self.compactor.at = (upto < slots).then_some(upto);
        if self.compactor.at.is_none() {
            self.deadlines.insert(now.instant + self.compactor.backoff, Deadline::Compaction);
        }
    }

    fn go_on_compacting(&mut self, now: Now, slot: u32, disk: &mut Vec<DiskOp>) {
        let mut map = std::mem::take(&mut self.compactor.map);
        let result = match self.log(slot, disk) {
            Some((log, mut io)) => log.compact(&mut map, &mut io),
            // It was deleted.
            None => Compacted::Done,
        };
        self.compactor.map = map;
        match result {
            Compacted::More => {}
            Compacted::Wait => self.compactor.ready = false,
            Compacted::NoPages => {
                if self.evict_for_read(slot, COMPACTION_CHUNK_BYTES) == 0 {
                    self.compactor.ready = false;
                    self.deadlines.insert(now.instant + MEMORY_POLL, Deadline::CompactionMemory);
                }
            }
            Compacted::Done => {
                self.compactor.running = None;
                self.compactor.map = OffsetMap::default();
            }
        }
    }
}
