//! Start, checkpoints and stop of a core's partitions.
//!
//! Phases: *listing* the log directory and *reading* the recovery points of all
//! cores; after an unclean stop *syncing* all there is, for a process that died
//! may have left what is not durable; then *running*; then *closing*, until every
//! log is closed, *sweeping* damaged files of cores that are no more (core 0), *keeping*
//! what the logs have left that were closed together,
//! *saving* the recovery points; *stopped*. Logs open from *running* on. After an
//! unclean stop every log directory found is loaded in the background.
//! A stop before *running* waits for the read in flight (*abandoned*) and saves
//! nothing: what was not read must not be replaced. A log directory that cannot be read stays
//! *unreadable* until the stop: no log opens, and who asks for one is told
//! KAFKA_STORAGE_ERROR.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Replicas;
use crate::base::limits::{CLOSED_RECORD_MAX, LOADING_MAX, SMALL_FILE_MAX};
use crate::base::time::Now;
use crate::effect::disk::{DiskError, DiskOp, DiskOpKind, DiskOutput};
use crate::log::closed_logs::{self, ClosedLogs, ENTRY_HEAD};
use crate::log::io::{LogOp, LogSlot, tag};
use crate::log::{Log, recovery_points};
use crate::model::error_code::ErrorCode;
use crate::model::ids::CoreId;

/// The owner of operations that belong to no log.
pub(super) const SLOT: LogSlot = LogSlot(u32::MAX);

#[derive(Debug)]
pub(super) struct Lifecycle {
    phase: Phase,
    /// The broker closed all logs before it stopped.
    clean: bool,
    /// All partitions that the core had at the start are added.
    known: bool,
    /// Names of directories there were at the start.
    found: BTreeSet<OsString>,
    /// After an unclean stop: partitions to load.
    to_load: VecDeque<u32>,
    /// Partitions whose logs load.
    loading: BTreeSet<u32>,
    /// Those of them whose logs wait for a page, or for their directory.
    stuck: BTreeSet<u32>,
    /// Logs not closed yet.
    closing: BTreeSet<u32>,
    /// Recovery points moved since they were last written.
    points_moved: bool,
    points_in_flight: bool,
    /// There are files of closed logs.
    closed_logs_found: bool,
    /// One of them is damaged: it may be the newest, so none counts.
    closed_logs_damaged: bool,
    /// Damaged files that no core will replace, for core 0 to remove.
    ownerless: Vec<String>,
    /// Cores of the broker.
    cores: u16,
    failed: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    New,
    Listing,
    /// Files of recovery points and of closed logs still to read.
    Reading(Vec<String>),
    Syncing,
    Unreadable,
    Abandoned,
    Running,
    Closing,
    Sweeping,
    Keeping,
    Saving,
    Stopped,
}

impl Phase {
    /// Whether logs may be open.
    fn has_logs(&self) -> bool {
        match self {
            Self::New | Self::Listing | Self::Reading(_) | Self::Syncing => false,
            Self::Unreadable | Self::Abandoned => false,
            Self::Running | Self::Closing | Self::Sweeping => true,
            Self::Keeping | Self::Saving | Self::Stopped => true,
        }
    }
}

impl Lifecycle {
    pub fn new(clean: bool) -> Self {
        Self {
            phase: Phase::New,
            clean,
            known: false,
            found: BTreeSet::new(),
            to_load: VecDeque::new(),
            loading: BTreeSet::new(),
            stuck: BTreeSet::new(),
            closing: BTreeSet::new(),
            points_moved: false,
            points_in_flight: false,
            closed_logs_found: false,
            closed_logs_damaged: false,
            ownerless: vec![],
            cores: u16::MAX,
            failed: false,
        }
    }

    /// Whether logs may be opened, and if so, whether they were closed cleanly.
    pub fn logs_clean(&self) -> Option<bool> {
        self.phase.has_logs().then_some(self.clean)
    }

    /// Whether the stop has not begun.
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether there was a directory at the start.
    pub fn was_found(&self, dir: &Path) -> bool {
        self.found.contains(dir.as_os_str())
    }

    /// The stop is not a clean one.
    pub fn note_failed(&mut self) {
        self.failed = true;
    }

    /// How many logs load.
    pub fn loading(&self) -> usize {
        self.loading.len()
    }

    /// Takes note that a log begins to load.
    pub fn note_loading(&mut self, slot: u32) {
        self.loading.insert(slot);
    }

    /// Takes note that a log is closed or deleted.
    pub fn note_gone(&mut self, slot: u32) {
        self.closing.remove(&slot);
        self.loading.remove(&slot);
        self.stuck.remove(&slot);
    }
}

impl Replicas {
    /// Begins: reads what the last run left. Partitions can be added before and
    /// after.
    pub fn start(&mut self, disk: &mut Vec<DiskOp>) {
        self.lifecycle.phase = Phase::Listing;
        push(disk, DiskOpKind::ListDir { path: PathBuf::new() });
    }

    /// Takes larger pages from huge pages of the system, from now on. Before the start.
    pub fn use_huge_pages(&mut self) {
        self.pages.use_huge_pages();
    }

    /// Tells how many cores the broker has: files of others have no owner. Before the
    /// start.
    pub fn set_cores(&mut self, cores: u16) {
        self.lifecycle.cores = cores;
    }

    /// All partitions of the core as the first image has them are added. Before
    /// that, nobody knows what there is to recover after an unclean stop.
    pub fn all_added(&mut self) {
        self.lifecycle.known = true;
    }

    /// Whether [`Replicas::close`] has come to its end, and if so, whether every
    /// log is closed and every recovery point written.
    pub fn stopped(&self) -> Option<bool> {
        (self.lifecycle.phase == Phase::Stopped).then_some(!self.lifecycle.failed)
    }

    /// Whether the log directory could not be read at the start: no log opens.
    pub fn is_unreadable(&self) -> bool {
        self.lifecycle.phase == Phase::Unreadable
    }

    /// Logs that still have to be loaded after an unclean stop.
    pub fn recovering(&self) -> usize {
        // A new log is loading, too, for a moment.
        let found = |slot: &&u32| {
            let partition = self.partitions.get(**slot);
            partition.is_some_and(|partition| self.lifecycle.was_found(&partition.dir))
        };
        self.lifecycle.to_load.len() + self.lifecycle.loading.iter().filter(found).count()
    }

    /// Begins to stop. Nothing may be submitted any more.
    pub fn close(&mut self, disk: &mut Vec<DiskOp>) {
        if self.lifecycle.logs_clean().is_none() {
            // No log was opened: they are as the last run left them, unless the
            // directory cannot even be read.
            let unreadable = self.lifecycle.phase == Phase::Unreadable;
            self.lifecycle.failed |= unreadable || !self.lifecycle.clean;
            let busy =
                matches!(self.lifecycle.phase, Phase::Listing | Phase::Reading(_) | Phase::Syncing);
            self.lifecycle.phase = if busy { Phase::Abandoned } else { Phase::Stopped };
            return;
        }
        // What is to be written now may need it.
        self.drop_ballast(disk);
        let recovered = self.lifecycle.known && self.recovering() == 0;
        self.lifecycle.failed |= !self.lifecycle.clean && !recovered;
        self.lifecycle.phase = Phase::Closing;
        let slots: Vec<u32> = self.partitions.iter().map(|(slot, _)| slot).collect();
        let with_many = self.closes_many();
        for slot in slots {
            let removed = self.partitions.get(slot).is_some_and(|partition| partition.removed);
            let Some((log, mut io)) = self.log(slot, disk) else { continue };
            let offline = log.offline().is_some();
            match (offline || removed, with_many) {
                (true, _) => {}
                (false, true) => log.close_with_many(&mut io),
                (false, false) => log.close(&mut io),
            }
            let ended = if offline { log.is_quiet() } else { log.is_closed() };
            if !ended {
                self.lifecycle.closing.insert(slot);
            }
            self.lifecycle.failed |= offline;
        }
    }

    /// Whether the open logs are so many that the small ones are closed together.
    fn closes_many(&self) -> bool {
        let count = self.by_id.len();
        let ready = self.partitions.iter().filter(|(_, one)| one.ready_log().is_some()).count();
        // What is kept of them is read as a whole.
        self.syncs.is_many(ready) && count * (ENTRY_HEAD + CLOSED_RECORD_MAX) < SMALL_FILE_MAX
    }

    /// Takes note that a core's file is damaged.
    fn note_damaged(&mut self, name: &str) {
        let core = name.rsplit('.').next().and_then(|core| core.parse::<u16>().ok());
        let owned = core.is_some_and(|core| core < self.lifecycle.cores);
        // All cores have read it when the stop is under way, and one removes it.
        if !owned && self.core == CoreId(0) {
            self.lifecycle.ownerless.push(name.to_owned());
        }
    }

    /// Removes the next file that is damaged and has no owner, or goes on.
    fn sweep_or_keep(&mut self, disk: &mut Vec<DiskOp>) -> Phase {
        let Some(name) = self.lifecycle.ownerless.pop() else { return self.keep_closed(disk) };
        push(disk, DiskOpKind::Remove { path: name.into() });
        Phase::Sweeping
    }

    /// What is kept of this core's logs, those included that were not opened.
    fn keep_closed(&mut self, disk: &mut Vec<DiskOp>) -> Phase {
        let known = std::mem::take(&mut self.closed_logs);
        let mut kept = ClosedLogs { generation: known.generation + 1, ..ClosedLogs::default() };
        for (_, partition) in self.partitions.iter().filter(|(_, one)| !one.removed) {
            let id = partition.id;
            let record = match &partition.log {
                Some(log) => {
                    if log.is_closed() {
                        self.recovery_points.insert(id, log.recovery_point());
                    }
                    log.closed_record()
                }
                None => known.records.get(&id).map(Vec::as_slice),
            };
            kept.records.extend(record.map(|record| (id, record.to_vec())));
        }
        if kept.records.is_empty() && !self.lifecycle.closed_logs_found {
            self.lifecycle.points_moved = true;
            return Phase::Saving;
        }
        let path = PathBuf::from(closed_logs::file_name(self.core.0));
        push(disk, DiskOpKind::Replace { path, bytes: kept.encode() });
        Phase::Keeping
    }

    /// After an unclean stop, a partition with a directory is loaded.
    pub(super) fn found(&mut self, slot: u32) {
        let partition = self.partitions.get(slot).expect("just added");
        let running = self.lifecycle.logs_clean() == Some(false);
        if running && self.lifecycle.was_found(&partition.dir) {
            self.lifecycle.to_load.push_back(slot);
        }
    }

    /// Takes note of what became of a log.
    pub(super) fn note_progress(&mut self, slot: u32) {
        let partition = self.partitions.get(slot).expect("a log belongs to a partition");
        let Some(log) = &partition.log else { return };
        if !log.is_loading() {
            self.lifecycle.loading.remove(&slot);
        }
        if log.waits_for_page() {
            self.lifecycle.stuck.insert(slot);
        } else {
            self.lifecycle.stuck.remove(&slot);
        }
        if log.offline().is_some() && self.lifecycle.closing.contains(&slot) {
            self.lifecycle.failed = true;
            // What it has in flight ends first.
            if log.is_quiet() {
                self.lifecycle.closing.remove(&slot);
            }
        }
        let known = self.recovery_points.get(&partition.id).copied().unwrap_or(0);
        if !partition.removed && log.recovery_point() > known {
            self.recovery_points.insert(partition.id, log.recovery_point());
            self.lifecycle.points_moved = true;
        }
        if log.wants_checkpoint() {
            self.checkpoint_due.push(slot);
        }
    }

    pub(super) fn lifecycle_turn(&mut self, disk: &mut Vec<DiskOp>) {
        while let Some(slot) = self.checkpoint_due.pop() {
            // It may be in the list more than once.
            if let Some((log, mut io)) = self.log(slot, disk)
                && log.wants_checkpoint()
            {
                log.checkpoint(&mut io);
            }
        }
        match self.lifecycle.phase {
            Phase::Running => self.load_more(disk),
            Phase::Closing
                if self.lifecycle.closing.is_empty()
                    && !self.points_busy()
                    && self.space_is_quiet()
                    && self.cleanup.is_quiet() =>
            {
                let keep = self.lifecycle.failed;
                if self.clear_journal(keep, disk) {
                    self.lifecycle.phase = self.sweep_or_keep(disk);
                }
            }
            _ => {}
        }
        let saves = matches!(self.lifecycle.phase, Phase::Running | Phase::Saving);
        if saves && self.lifecycle.points_moved && !self.points_busy() {
            self.lifecycle.points_moved = false;
            self.lifecycle.points_in_flight = true;
            let path = PathBuf::from(recovery_points::file_name(self.core.0));
            let bytes = recovery_points::encode(&self.recovery_points);
            push(disk, DiskOpKind::Replace { path, bytes });
        }
    }

    /// Whether logs cannot go on loading for want of a page.
    pub(super) fn loads_wait_for_memory(&self) -> bool {
        let log = |slot: &u32| self.partitions.get(*slot)?.log.as_ref();
        self.lifecycle.stuck.iter().filter_map(log).any(Log::waits_for_page)
    }

    fn points_busy(&self) -> bool {
        self.lifecycle.points_in_flight
    }

    fn load_more(&mut self, disk: &mut Vec<DiskOp>) {
        // A log that waits for a page goes on when others have given theirs back.
        for slot in std::mem::take(&mut self.lifecycle.stuck) {
            let there = self.partitions.get(slot).is_some_and(|partition| !partition.removed);
            match self.log(slot, disk) {
                Some((log, mut io)) if log.is_loading() => {
                    log.resume(&mut io);
                    if log.waits_for_page() {
                        self.lifecycle.stuck.insert(slot);
                    }
                }
                None if there => self.open_or_wait(slot, disk),
                _ => {
                    self.lifecycle.loading.remove(&slot);
                }
            }
        }
        while self.lifecycle.loading.len() < LOADING_MAX
            && let Some(slot) = self.lifecycle.to_load.pop_front()
        {
            let there = self.partitions.get(slot).is_some_and(|partition| !partition.removed);
            if there {
                self.want(slot, disk);
                self.open_or_wait(slot, disk);
            }
        }
    }

    /// Opens a log that is to be loaded, once its directory is free.
    fn open_or_wait(&mut self, slot: u32, disk: &mut Vec<DiskOp>) {
        self.open_log(slot, disk);
        if self.log(slot, disk).is_none() {
            self.lifecycle.loading.insert(slot);
            self.lifecycle.stuck.insert(slot);
        }
    }

    /// No log will open: answers all who wait for one.
    pub(super) fn refuse_waiting(&mut self, now: Now, disk: &mut Vec<DiskOp>) {
        let slots: Vec<u32> = self.partitions.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.fail_waiting(slot, ErrorCode::KafkaStorageError, disk);
            self.wake_fetches(now, slot, disk);
        }
    }

    pub(super) fn on_lifecycle_disk(
        &mut self,
        result: Result<DiskOutput, DiskError>,
        disk: &mut Vec<DiskOp>,
    ) {
        let phase = std::mem::replace(&mut self.lifecycle.phase, Phase::Running);
        self.lifecycle.phase = match (phase, result) {
            (Phase::Listing, Ok(DiskOutput::Entries(entries))) => {
                self.cleanup.found(&entries);
                let (dirs, files): (Vec<_>, Vec<_>) =
                    entries.into_iter().partition(|entry| entry.is_dir);
                self.lifecycle.found = dirs.into_iter().map(|dir| dir.name.into()).collect();
                let names = files.into_iter().map(|file| file.name);
                let (closed, names): (Vec<_>, Vec<_>) =
                    names.partition(|name| closed_logs::is_file_name(name));
                self.lifecycle.closed_logs_found = !closed.is_empty();
                let points = names.into_iter().filter(|name| recovery_points::is_file_name(name));
                self.read_points(closed.into_iter().chain(points).collect(), disk)
            }
            (Phase::Reading(mut files), Ok(DiskOutput::Content(bytes))) => {
                let name = files.pop().expect("one of them was read");
                if closed_logs::is_file_name(&name) {
                    if !self.closed_logs.add(&bytes) {
                        tracing::warn!("{name} is damaged; all logs are read from their files");
                        self.lifecycle.closed_logs_damaged = true;
                        self.note_damaged(&name);
                    }
                } else if !recovery_points::decode_into(&bytes, &mut self.recovery_points) {
                    // Recovery takes longer without, and is as safe.
                    tracing::warn!("{name} is damaged; its logs are scanned from their start");
                    self.lifecycle.clean = false;
                    self.note_damaged(&name);
                }
                self.read_points(files, disk)
            }
            (Phase::Listing | Phase::Reading(_), other) => {
                let error = other.err();
                tracing::error!("cannot read the log directory: {error:?}; no log is opened");
                Phase::Unreadable
            }
            (Phase::Syncing, result) => {
                if let Err(error) = result {
                    self.failed.get_or_insert(error);
                }
                self.begin_running(disk)
            }
            (Phase::Abandoned, _) => Phase::Stopped,
            (Phase::Sweeping, result) => {
                if let Err(error) = result {
                    // The next start is slower again, and as safe.
                    tracing::warn!("cannot remove a damaged file: {error}");
                }
                self.sweep_or_keep(disk)
            }
            (Phase::Keeping, result) => {
                if let Err(error) = result {
                    tracing::error!("cannot write what is kept of closed logs: {error}");
                    self.lifecycle.failed = true;
                }
                self.lifecycle.points_moved = true;
                Phase::Saving
            }
            (phase, result) => {
                self.lifecycle.points_in_flight = false;
                if let Err(error) = result {
                    tracing::error!("cannot write the recovery points: {error}");
                    self.lifecycle.failed = true;
                }
                if phase == Phase::Saving { Phase::Stopped } else { phase }
            }
        };
    }

    /// Reads the next file of recovery points, or goes on.
    fn read_points(&mut self, files: Vec<String>, disk: &mut Vec<DiskOp>) -> Phase {
        if let Some(name) = files.last() {
            push(disk, DiskOpKind::ReadFile { path: name.into() });
            return Phase::Reading(files);
        }
        if self.lifecycle.clean {
            return self.begin_running(disk);
        }
        push(disk, DiskOpKind::SyncAll);
        Phase::Syncing
    }

    /// Logs may be opened from now on.
    fn begin_running(&mut self, disk: &mut Vec<DiskOp>) -> Phase {
        self.lifecycle.phase = Phase::Running;
        if !self.lifecycle.clean || self.lifecycle.closed_logs_damaged {
            // They say nothing of what the last run, or a later one, has done since.
            self.closed_logs.records.clear();
        }
        self.start_space(disk);
        self.clean_up(disk);
        let slots: Vec<u32> = self.partitions.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            let partition = self.partitions.get(slot).expect("listed above");
            if partition.removed {
                self.delete_log(slot, disk);
                continue;
            }
            let wanted = partition.wanted;
            self.found(slot);
            if wanted {
                self.open_log(slot, disk);
            }
        }
        Phase::Running
    }
}

fn push(disk: &mut Vec<DiskOp>, kind: DiskOpKind) {
    disk.push(DiskOp { tag: tag(SLOT, LogOp::Chore), kind });
}
