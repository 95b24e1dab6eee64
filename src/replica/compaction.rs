//! Running compaction: which log, and when.
//!
//! A look goes over the partitions, some in each turn; the first log that is dirty
//! enough is compacted to its end, one slice in each turn, then the look goes on.
//! The next one begins `log.cleaner.backoff.ms` after the end of this one. One log
//! of a core is compacted at a time, so there is one table of keys. Of the bytes that
//! it may read and write each second (`log.cleaner.io.max.bytes.per.second`) a core has
//! its part, and rests after each slice as long as that took of it.

use std::time::Duration;

use super::{Deadline, MEMORY_POLL, Replicas};
use crate::base::limits::{COMPACTION_CHUNK_MAX, COMPACTION_MAP_BYTES, RETENTION_LOOKS};
use crate::base::pages::BLOCK;
use crate::base::time::{Instant, Now, UnixMillis};
use crate::effect::disk::DiskOp;
use crate::log::Log;
use crate::log::compaction::{CleaningCounts, Compacted};
use crate::log::offset_map::OffsetMap;

/// What compaction and retention have done on one core since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaning {
    /// What was read, kept and deleted.
    pub counts: CleaningCounts,
    /// Runs over a log that have ended.
    pub runs: u64,
    /// How long the last one took.
    pub last_run: Duration,
    /// When it ended; zero before the first.
    pub last_end: UnixMillis,
    /// The largest part of a log that was not compacted when all were looked at last,
    /// in millionths.
    pub max_dirty_ppm: u32,
    /// Logs that something damaged keeps from being compacted until a restart.
    pub uncleanable: usize,
}

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
    /// Bytes of a read and of a write.
    chunk: usize,
    /// Nothing is compacted.
    disabled: bool,
    /// Bytes that may be read and written each second.
    rate: Option<u64>,
    /// What was read and written has had its time then.
    paid: Instant,
    /// That is still to come.
    rests: bool,
    /// When the run began.
    began: Instant,
    /// The largest part that this look has found not compacted, in millionths.
    dirtiest: u32,
    cleaning: Cleaning,
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
            chunk: COMPACTION_CHUNK_MAX,
            disabled: false,
            rate: None,
            paid: Instant::default(),
            rests: false,
            began: Instant::default(),
            dirtiest: 0,
            cleaning: Cleaning::default(),
        }
    }

    /// Whether there is something to do at once.
    pub fn has_work(&self) -> bool {
        match self.running {
            Some(_) => self.ready && !self.rests,
            None => self.at.is_some(),
        }
    }

    /// It is time for a look.
    pub fn begin(&mut self) {
        (self.at, self.dirtiest) = (Some(0), 0);
    }

    /// Something happened to the log of this partition, if it is the one.
    pub fn wake(&mut self, slot: u32) {
        self.ready |= self.running == Some(slot);
    }

    /// Something was done to old records.
    pub fn count(&mut self, counts: CleaningCounts) {
        self.cleaning.counts += counts;
    }

    /// So many bytes were read and written: when to go on, if not at once.
    fn pay(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate?);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid = self.paid.max(now) + time;
        self.rests = self.paid > now;
        self.rests.then_some(self.paid)
    }

    /// What was read and written has had its time.
    pub fn rested(&mut self) {
        self.rests = false;
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

    /// Lets compaction read and write no more than `rate` bytes a second, in pieces of
    /// about `chunk` bytes; with a rate of zero there is none.
    pub fn limit_compaction(&mut self, rate: Option<u64>, chunk: usize) {
        let chunk = chunk.clamp(BLOCK, COMPACTION_CHUNK_MAX);
        self.compactor.chunk = chunk - chunk % BLOCK;
        self.compactor.disabled = rate == Some(0);
        self.compactor.rate = rate.filter(|rate| *rate > 0);
    }

    /// Lets the table of keys take no more than `bytes`, however much is said
    /// elsewhere.
    pub fn limit_compaction_map(&mut self, bytes: usize) {
        self.compactor.map_max = bytes;
    }

    /// What compaction and retention have done.
    pub fn cleaning(&self) -> Cleaning {
        let logs = self.partitions.iter().filter_map(|(_, partition)| partition.log.as_ref());
        let uncleanable = logs.filter(|log| log.is_uncleanable()).count();
        Cleaning { uncleanable, ..self.compactor.cleaning }
    }

    /// Goes on with what is compacted, or looks for something.
    pub(super) fn compaction_turn(&mut self, now: Now, disk: &mut Vec<DiskOp>) {
        if !self.lifecycle.is_running() || self.compactor.disabled {
            return;
        }
        if !self.compactor.begun {
            self.compactor.begun = true;
            self.deadlines.insert(now.instant + self.compactor.backoff, Deadline::Compaction);
        }
        match self.compactor.running {
            Some(slot) if self.compactor.has_work() => self.go_on_compacting(now, slot, disk),
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
            let Some(log) = log else { continue };
            let Some(dirt) = log.dirt(now.unix, &config) else { continue };
            self.compactor.dirtiest = self.compactor.dirtiest.max(dirt.ratio_ppm);
            if !dirt.due {
                continue;
            }
            tracing::info!("log {}: compacting it", log.dir().display());
            log.begin_compaction(now.unix, &config, self.compactor.chunk);
            let bytes = self.compactor.map_max.min(self.pages.budget() / 8);
            self.compactor.map = OffsetMap::new(bytes);
            (self.compactor.running, self.compactor.ready) = (Some(slot), true);
            self.compactor.began = now.instant;
            self.compactor.at = Some(slot + 1);
            return;
        }
        self.compactor.at = (upto < slots).then_some(upto);
        if self.compactor.at.is_none() {
            self.compactor.cleaning.max_dirty_ppm = self.compactor.dirtiest;
            self.deadlines.insert(now.instant + self.compactor.backoff, Deadline::Compaction);
        }
    }

    fn go_on_compacting(&mut self, now: Now, slot: u32, disk: &mut Vec<DiskOp>) {
        let mut map = std::mem::take(&mut self.compactor.map);
        let result = match self.log(slot, disk) {
            Some((log, mut io)) => {
                let result = log.compact(&mut map, &mut io);
                let counts = log.take_counts();
                self.compactor.count(counts);
                let bytes = counts.mapped_bytes + counts.read_bytes + counts.kept_bytes;
                if let Some(until) = self.compactor.pay(now.instant, bytes) {
                    self.deadlines.insert(until, Deadline::CompactionRest);
                }
                result
            }
            // It was deleted.
            None => Compacted::Done,
        };
        self.compactor.map = map;
        match result {
            Compacted::More => {}
            Compacted::Wait => self.compactor.ready = false,
            Compacted::NoPages => {
                if self.evict_for_read(slot, self.compactor.chunk) == 0 {
                    self.compactor.ready = false;
                    self.deadlines.insert(now.instant + MEMORY_POLL, Deadline::CompactionMemory);
                }
            }
            Compacted::Done => {
                self.compactor.running = None;
                self.compactor.map = OffsetMap::default();
                let cleaning = &mut self.compactor.cleaning;
                cleaning.runs += 1;
                cleaning.last_run = now.instant.since(self.compactor.began);
                cleaning.last_end = now.unix;
            }
        }
    }
}
