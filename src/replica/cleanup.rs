//! What earlier runs have left: directories of deleted topics.
//!
//! A log that is deleted is renamed to `...-delete` and then removed; one that
//! lies where a topic of the same name belongs is renamed to `...-stray`. Neither
//! belongs to a topic any more: what was there at the start is removed then, one
//! directory after the other, by the first core. No partition's directory has
//! such a name, for those end with a number.
//!
//! Not here: directories with the name of a partition that nobody knows. They may
//! be all that is left of something, and stay.

use std::path::PathBuf;

use super::Replicas;
use crate::effect::disk::{DirEntry, DiskError, DiskOp, DiskOpKind, DiskOutput};
use crate::log::io::{LogOp, LogSlot, tag};

/// The owner of removals.
pub(super) const SLOT: LogSlot = LogSlot(u32::MAX - 2);

/// Directories to remove.
#[derive(Debug, Default)]
pub(super) struct Cleanup {
    left: Vec<PathBuf>,
    removing: bool,
}

impl Cleanup {
    /// Takes note of what is in the log directory at the start.
    pub fn found(&mut self, entries: &[DirEntry]) {
        let abandoned = |entry: &&DirEntry| {
            let ends = entry.name.ends_with("-delete") || entry.name.ends_with("-stray");
            entry.is_dir && ends && entry.name.contains('.')
        };
        self.left = entries.iter().filter(abandoned).map(|entry| (&entry.name).into()).collect();
    }

    /// Whether nothing is being removed.
    pub fn is_quiet(&self) -> bool {
        !self.removing
    }
}

impl Replicas {
    /// Removes the next directory.
    pub(super) fn clean_up(&mut self, disk: &mut Vec<DiskOp>) {
        let first = self.core.0 == 0 && self.lifecycle.is_running();
        if first
            && self.cleanup.is_quiet()
            && let Some(path) = self.cleanup.left.pop()
        {
            tracing::info!("removing {}, which an earlier run has left", path.display());
            self.cleanup.removing = true;
            let kind = DiskOpKind::Remove { path };
            disk.push(DiskOp { tag: tag(SLOT, LogOp::Chore), kind });
        }
    }

    pub(super) fn on_cleaned_up(
        &mut self,
        result: Result<DiskOutput, DiskError>,
        disk: &mut Vec<DiskOp>,
    ) {
        self.cleanup.removing = false;
        if let Err(error) = result {
            tracing::warn!("cannot remove what an earlier run has left: {error}");
        }
        self.clean_up(disk);
    }
}
