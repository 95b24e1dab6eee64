//! The space of the disk: measured, kept in reserve, given back.
//!
//! While batches come in the free space is measured, once a second and whenever
//! a good part of the rest may have been taken. When only the reserve is left
//! (one part in `DISK_RESERVE_PART`, at most `DISK_RESERVE_MAX`), logs take no
//! append that needs more than is preallocated, and say KAFKA_STORAGE_ERROR,
//! which clients try again. So deletions, checkpoints and a restart have room.
//!
//! Others may fill the disk to its last byte. Then what a log cannot do waits
//! (`log/space.rs`); the ballast, a file of this core that holds space for that
//! moment, is removed, and everything that waits is tried again, then and from
//! time to time. The ballast is made anew when there is room for it.
//!
//! What is measured is the whole file system's; nothing here knows who takes it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::work::{LogDirsWork, Origin, Work};
use super::{Deadline, Replicas};
use crate::base::limits::{
    BALLAST_BYTES, DISK_RESERVE_MAX, DISK_RESERVE_PART, SPACE_INTERVAL_MS, SPACE_RETRY_MS,
};
use crate::base::time::{Instant, Now};
use crate::effect::disk::{DiskError, DiskOp, DiskOpKind, DiskOutput, FileId};
use crate::log::io::{LogOp, LogSlot, tag};
use crate::model::error_code::ErrorCode;

/// The owner of operations about space.
pub(super) const SLOT: LogSlot = LogSlot(u32::MAX - 1);

const MEASURE: LogOp = LogOp::Scan;
const MAKE_BALLAST: LogOp = LogOp::Allocate;
const DROP_BALLAST: LogOp = LogOp::Chore;

/// What is known of the disk.
#[derive(Debug)]
pub(super) struct Space {
    /// Total and usable bytes.
    measured: Option<(u64, u64)>,
    measured_at: Instant,
    measuring: bool,
    /// Bytes that came in since the last measurement began.
    taken: u64,
    short: bool,
    ballast: Ballast,
    /// Partitions whose logs wait for space.
    waiting: BTreeSet<u32>,
    /// A look at the space is due.
    look_armed: bool,
    /// Who wants to know how much there is.
    asked: Vec<(Origin, LogDirsWork)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ballast {
    /// To be made when there is room.
    Gone,
    Opening(FileId),
    Allocating(FileId),
    There,
    Dropping,
}

impl Space {
    pub fn new() -> Self {
        Self {
            measured: None,
            measured_at: Instant::default(),
            measuring: false,
            taken: 0,
            short: false,
            ballast: Ballast::Gone,
            waiting: BTreeSet::new(),
            look_armed: false,
            asked: vec![],
        }
    }

    /// Bytes that may be taken before only the reserve is left.
    pub fn room(&self) -> u64 {
        match self.measured {
            _ if self.short => 0,
            None => u64::MAX,
            // What was taken since is not measured yet.
            Some((total, usable)) => {
                usable.saturating_sub(reserve(total)).saturating_sub(self.taken).max(1)
            }
        }
    }

    /// Takes in a measurement. True if there is room again.
    fn note(&mut self, total: u64, usable: u64) -> bool {
        let (was_short, reserve) = (self.short, reserve(total));
        // Not on and off with every segment.
        self.short = usable < if was_short { reserve / 4 * 5 } else { reserve };
        if self.short && !was_short {
            tracing::warn!(
                "{usable} bytes of the disk are left of {total}, {reserve} are kept in reserve: \
                 batches are refused"
            );
        } else if was_short && !self.short {
            tracing::info!("{usable} bytes of the disk are free: batches are accepted again");
        }
        self.measured = Some((total, usable));
        was_short && !self.short
    }
}

/// What is kept of a disk of `total` bytes.
fn reserve(total: u64) -> u64 {
    (total / DISK_RESERVE_PART).min(DISK_RESERVE_MAX)
}

impl Replicas {
    /// Begins to look after the space.
    pub(super) fn start_space(&mut self, disk: &mut Vec<DiskOp>) {
        self.measure(disk);
    }

    /// `bytes` of batches came in.
    pub(super) fn note_taken(&mut self, now: Now, bytes: u64, disk: &mut Vec<DiskOp>) {
        let space = &mut self.space;
        space.taken += bytes;
        let interval = if space.short { SPACE_RETRY_MS } else { SPACE_INTERVAL_MS };
        let old = now.instant >= space.measured_at + Duration::from_millis(interval);
        let much = !space.short
            && space.measured.is_some_and(|(total, usable)| {
                space.taken > usable.saturating_sub(reserve(total)) / 4
            });
        if (old || much) && !space.measuring {
            space.measured_at = now.instant;
            self.measure(disk);
        }
    }

    fn measure(&mut self, disk: &mut Vec<DiskOp>) {
        self.space.measuring = true;
        self.space.taken = 0;
        push(disk, MEASURE, DiskOpKind::Space);
    }

    /// A log waits for space.
    pub(super) fn note_starved(&mut self, slot: u32, disk: &mut Vec<DiskOp>) {
        self.space.waiting.insert(slot);
        self.drop_ballast(disk);
    }

    /// Gives the ballast's space to those who need it now.
    pub(super) fn drop_ballast(&mut self, disk: &mut Vec<DiskOp>) {
        if self.space.ballast == Ballast::There {
            self.space.ballast = Ballast::Dropping;
            push(disk, DROP_BALLAST, DiskOpKind::Remove { path: self.ballast_path() });
        }
    }

    /// Does what a turn leaves to do about the space.
    pub(super) fn space_turn(&mut self, now: Now) {
        let look = self.space.short || !self.space.waiting.is_empty();
        if look && !self.space.look_armed {
            self.space.look_armed = true;
            let at = now.instant + Duration::from_millis(SPACE_INTERVAL_MS);
            self.deadlines.insert(at, Deadline::Space);
        }
    }

    /// It is time to look whether there is space again.
    pub(super) fn look_for_space(&mut self, disk: &mut Vec<DiskOp>) {
        self.space.look_armed = false;
        if !self.space.measuring && self.lifecycle.is_running() {
            self.measure(disk);
        }
        self.resume_starved(disk);
    }

    /// Whether nothing about space is in flight.
    pub(super) fn space_is_quiet(&self) -> bool {
        !self.space.measuring && matches!(self.space.ballast, Ballast::Gone | Ballast::There)
    }

    fn resume_starved(&mut self, disk: &mut Vec<DiskOp>) {
        for slot in std::mem::take(&mut self.space.waiting) {
            if let Some((log, mut io)) = self.log(slot, disk) {
                log.resume(&mut io);
            }
        }
    }

    pub(super) fn on_space_disk(
        &mut self,
        op: LogOp,
        result: Result<DiskOutput, DiskError>,
        disk: &mut Vec<DiskOp>,
    ) {
        match (op, result) {
            (MEASURE, result) => self.on_measured(result, disk),
            (MAKE_BALLAST, result) => self.on_ballast(result, disk),
            (DROP_BALLAST, result) => {
                if let Err(error) = result {
                    tracing::warn!("cannot remove {}: {error}", self.ballast_path().display());
                }
                self.space.ballast = Ballast::Gone;
                self.resume_starved(disk);
            }
            (op, _) => unreachable!("nothing about space is asked for as {op:?}"),
        }
    }

    fn on_measured(&mut self, result: Result<DiskOutput, DiskError>, disk: &mut Vec<DiskOp>) {
        self.space.measuring = false;
        match result {
            Ok(DiskOutput::Space { total, usable }) => {
                if self.space.note(total, usable) {
                    self.resume_starved(disk);
                }
                self.make_ballast(disk);
            }
            Ok(output) => unreachable!("a measurement answered with {output:?}"),
            // The directory is gone, or the disk does not answer: open files may
            // go on to work, and nobody will find them again.
            Err(error) => {
                tracing::error!("cannot measure the space of the disk: {error}");
                self.failed.get_or_insert(error);
            }
        }
        for (origin, work) in std::mem::take(&mut self.space.asked) {
            self.describe_measured(origin, work);
        }
    }

    fn make_ballast(&mut self, disk: &mut Vec<DiskOp>) {
        let wanted = self.space.ballast == Ballast::Gone && self.lifecycle.is_running();
        if wanted && self.space.room() > 2 * BALLAST_BYTES {
            let file = self.files.take();
            self.space.ballast = Ballast::Opening(file);
            let path = self.ballast_path();
            push(disk, MAKE_BALLAST, DiskOpKind::Open { file, path, create: true });
        }
    }

    fn on_ballast(&mut self, result: Result<DiskOutput, DiskError>, disk: &mut Vec<DiskOp>) {
        self.space.ballast = match (self.space.ballast, result) {
            (Ballast::Opening(file), Ok(_)) => {
                let kind = DiskOpKind::Allocate { file, position: 0, len: BALLAST_BYTES };
                push(disk, MAKE_BALLAST, kind);
                Ballast::Allocating(file)
            }
            (Ballast::Allocating(file), result) => {
                self.close_ballast(file, disk);
                match result {
                    Ok(_) => Ballast::There,
                    // Less than it should be; the next measurement tries again.
                    Err(_) => Ballast::Gone,
                }
            }
            (Ballast::Opening(file), Err(_)) => {
                self.files.give(file);
                Ballast::Gone
            }
            (ballast, result) => unreachable!("{result:?} while the ballast is {ballast:?}"),
        };
    }

    fn close_ballast(&mut self, file: FileId, disk: &mut Vec<DiskOp>) {
        push(disk, LogOp::Ignore, DiskOpKind::Close { file });
        self.files.give(file);
    }

    fn ballast_path(&self) -> PathBuf {
        PathBuf::from(format!("space-reserve.{}", self.core.0))
    }

    /// Answers how much the logs and the disk hold, once it is measured.
    pub(super) fn describe_log_dirs(
        &mut self,
        origin: Origin,
        work: LogDirsWork,
        disk: &mut Vec<DiskOp>,
    ) {
        if self.is_unreadable() {
            return self.describe_measured(origin, work);
        }
        for at in 0..work.items.len() {
            if let Some(slot) = self.by_id.get(&work.items[at].topic_partition).copied() {
                self.want(slot, disk);
                let partition = self.partitions.get_mut(slot).expect("it was in the table");
                if partition.is_loading() {
                    partition.waiting.push_back(super::Waiting::LogDirs(origin, work));
                    return;
                }
            }
        }
        self.space.asked.push((origin, work));
        if !self.space.measuring {
            self.measure(disk);
        }
    }

    fn describe_measured(&mut self, origin: Origin, mut work: LogDirsWork) {
        if let Some((total, usable)) = self.space.measured {
            work.total = i64::try_from(total).unwrap_or(i64::MAX);
            work.usable = i64::try_from(usable).unwrap_or(i64::MAX);
        }
        if self.failed.is_some() || self.is_unreadable() {
            work.error = ErrorCode::KafkaStorageError;
        }
        for item in &mut work.items {
            let slot = self.by_id.get(&item.topic_partition);
            let log = slot.and_then(|slot| self.partitions.get(*slot)?.log.as_ref());
            item.size = log.map(|log| i64::try_from(log.size()).unwrap_or(i64::MAX));
        }
        self.finished.push((origin, Work::LogDirs(work)));
    }
}

fn push(disk: &mut Vec<DiskOp>, op: LogOp, kind: DiskOpKind) {
    disk.push(DiskOp { tag: tag(SLOT, op), kind });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_entered_at_once_and_left_with_some_distance() {
        let mut space = Space::new();
        assert_eq!(space.room(), u64::MAX, "nothing is known");
        for (usable, room) in [(100, 60), (41, 1), (40, 1), (39, 0), (49, 0), (50, 10), (55, 15)] {
            let (was_short, again) = (space.short, space.note(800, usable));
            assert_eq!(again, was_short && room > 0, "{usable}");
            assert_eq!(space.room(), room, "{usable}");
        }
        space.taken = 5;
        assert_eq!(space.room(), 10, "what came since is counted");
        assert_eq!(reserve(u64::MAX), DISK_RESERVE_MAX);
    }
}
