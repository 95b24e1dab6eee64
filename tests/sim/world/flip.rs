//! Bits flip while the broker is down, and what it has to make of that.
//!
//! - A log that is damaged serves nothing wrong. It may go offline, and is named then.
//!   Only where a write may be torn, in its last segment after an unclean stop and not
//!   below the recovery point, may it be cut: then it ends there.
//! - Groups whose log is offline are not served; all others are.
//! - Without recovery points, or what a stop has kept of closed logs, nothing is lost.
//! - On damaged metadata the broker does not start, names the file and leaves it as it is,
//!   or has everything. When the bit is put back, it starts. A damaged last write cannot be
//!   told from a torn one, so that is left alone here.
//! - So it is with a damaged journal; its newest record is left alone for the same reason.

use corelane::controller::files::FilesError;
use corelane::controller::replay::ReplayError;
use corelane::controller::{ControllerError, Notice};

use super::World;
use crate::client::Role;
use crate::disk::flips::{Damaged, METADATA};
use crate::groups::GroupNumber;
use crate::queue::SEC;
use crate::trace;

/// Of the kinds of flipped bits that are drawn: in files of cores.
const CORES: u64 = 17;
/// Of a journal.
const JOURNAL: u64 = 20;

/// The topic of groups, as its directories begin.
const GROUPS: &str = "__consumer_offsets-";

impl World {
    /// Flips a bit of what is durable, now and then.
    pub(super) fn flip(&mut self) {
        let Some(rng) = &mut self.flips else { return };
        if !rng.chance(2, 3) {
            return;
        }
        let kind = match rng.below(20) {
            // Planted bugs are about logs.
            _ if self.planted.is_some() => 0,
            // It is not often that there is one.
            _ if self.disk.has_journals() && rng.chance(1, 2) => JOURNAL,
            // Such a file counts behind a clean stop only, which is not often.
            10.. if self.clean && self.disk.has_closed_logs() => CORES,
            kind => kind,
        };
        match kind {
            0..12 => {
                let model = &self.shared.model;
                let stable = model.topics.iter().filter(|(_, topic)| topic.stable);
                let all = stable.flat_map(|(id, topic)| (0..topic.partitions).map(|at| (*id, at)));
                let dirs: Vec<String> = all.map(|tp| model.dir_of(tp)).collect();
                self.flip_log(&dirs);
            }
            12..16 => {
                let dirs = self.disk.dirs(GROUPS);
                self.flip_log(&dirs);
            }
            16..=CORES => {
                if let Some(file) = self.disk.flip_of_cores() {
                    trace::event("flip", &[], || file);
                }
            }
            kind => {
                let damaged = match kind {
                    JOURNAL => self.disk.flip_journal(),
                    _ => self.disk.flip_metadata(),
                };
                if let Some(damaged) = damaged {
                    self.start_on_damage(damaged);
                }
            }
        }
    }

    fn flip_log(&mut self, dirs: &[String]) {
        if dirs.is_empty() {
            return;
        }
        let Some(flip) = self.disk.flip(dirs) else { return };
        trace::event("flip", &[], || format!("{flip:?}"));
        if let Some(tp) = self.shared.model.partition_of(&flip.dir) {
            self.shared.model.damage(tp);
        }
        self.flipped.push(flip.dir.clone());
        self.flips_left.push(flip);
    }

    /// The broker is about to start: where it may cut a log for a flipped bit, nothing is
    /// promised of what follows.
    pub(super) fn foresee_cuts(&mut self) {
        // Damaged ones make the stop one that was not clean.
        if self.clean && self.disk.points_are_whole() {
            return;
        }
        for flip in self.flips_left.clone() {
            let Some(from) = self.disk.is_open(&flip) else { continue };
            if from < self.disk.recovery_point(&flip.dir) {
                continue;
            }
            trace::event("cut", &[from as u64], || flip.dir.clone());
            self.shared.coverage.one("flipped bits: logs that may end there");
            let life = self.shared.model.life;
            if let Some(partition) = flip.dir.strip_prefix(GROUPS) {
                let kept = self.disk.commits(&flip.dir, from);
                let partition = partition.parse().expect("it ends with the partition");
                self.shared.model.groups.cut(partition, &kept, life);
                continue;
            }
            let tp = self.shared.model.partition_of(&flip.dir).expect("its directory was chosen");
            self.shared.model.cut(tp, from);
            for client in &mut self.clients {
                if let Role::Keyed(keyed) = &mut client.role {
                    keyed.cut(tp, from);
                }
            }
        }
    }

    /// Starts the broker on damaged metadata or a damaged journal, and puts the bit back.
    fn start_on_damage(&mut self, damaged: Damaged) {
        let path = damaged.path.display().to_string();
        trace::event("flip", &[], || path.clone());
        self.damaged = Some(damaged);
        let metadata = path.starts_with(METADATA);
        let named = if metadata { METADATA.to_owned() } else { path };
        self.flipped.push(named.clone());
        self.start();
        let heard = |notice: &Notice| matches!(notice, Notice::Started | Notice::Failed(_));
        self.must("the controller says how it starts", 60 * SEC, |world| {
            world.broker.as_ref().is_some_and(|broker| broker.notices.iter().any(heard))
        });
        let broker = self.broker.as_ref().expect("it was started");
        let refused = broker.notices.iter().any(|notice| match notice {
            Notice::Failed(error) => self.is_about_damage(error),
            _ => false,
        });
        let started = broker.notices.iter().any(|notice| matches!(notice, Notice::Started));
        assert!(metadata || !started, "it starts with a damaged {named}");
        self.crash(false);
        self.flipped.retain(|dir| *dir != named);
        let damaged = self.damaged.take().expect("set above");
        let left = self.disk.mend(&damaged);
        if refused {
            assert!(left, "a start is refused, and changes {}", damaged.path.display());
            self.shared.coverage.one(match metadata {
                true => "flipped bits: starts refused for the metadata",
                false => "flipped bits: starts refused for a journal",
            });
        }
    }

    /// Whether the controller failed for the damage there is, and names the file.
    pub(super) fn is_about_damage(&self, error: &ControllerError) -> bool {
        let Some(damaged) = &self.damaged else { return false };
        let fault = matches!(
            error,
            ControllerError::Files(FilesError::Disk { .. })
                | ControllerError::Replay(ReplayError::Disk { .. })
        );
        !fault && error.to_string().contains(&damaged.path.display().to_string())
    }

    /// Whether the log of a group is damaged, and the broker has named it.
    pub(super) fn is_group_lost(&self, group: GroupNumber) -> bool {
        let dir = format!("{GROUPS}{}", self.shared.model.groups.home(group));
        self.told.iter().any(|error| error.contains(&dir))
    }
}
