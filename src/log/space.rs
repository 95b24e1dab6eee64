//! What a log does without space on the disk.
//!
//! Appends are refused before the disk is full: when nothing is left but the
//! reserve ([`LogIo::room`](super::io::LogIo)), they get what is preallocated
//! already. If there is no space all the same, the append that asked for it is
//! rolled back (`flush.rs`), and a chore (a new segment, an index, a
//! checkpoint) waits until it is asked to be tried again: nothing has happened
//! that a later success would not make good, so the log stays as it is. Only a
//! log that is being closed gives up, and is checked at the next start.
//!
//! Not here: a write or a sync without space. Space was reserved for them, so
//! their failure is one of the disk.

use super::segment::SegmentFile;
use super::{Chore, Log, State, Then};
use crate::base::pages::align_up;
use crate::effect::disk::{DiskError, DiskOpKind, DiskOutput};

/// The chore once more, if it may be asked for again.
pub(super) fn again(kind: &DiskOpKind) -> Option<DiskOpKind> {
    Some(match kind {
        DiskOpKind::Open { file, path, create } => {
            DiskOpKind::Open { file: *file, path: path.clone(), create: *create }
        }
        DiskOpKind::Truncate { file, len } => DiskOpKind::Truncate { file: *file, len: *len },
        DiskOpKind::CreateDir { path } => DiskOpKind::CreateDir { path: path.clone() },
        DiskOpKind::Rename { from, to } => {
            DiskOpKind::Rename { from: from.clone(), to: to.clone() }
        }
        DiskOpKind::Remove { path } => DiskOpKind::Remove { path: path.clone() },
        DiskOpKind::Create { path, bytes } => {
            DiskOpKind::Create { path: path.clone(), bytes: bytes.clone() }
        }
        DiskOpKind::Replace { path, bytes } => {
            DiskOpKind::Replace { path: path.clone(), bytes: bytes.clone() }
        }
        _ => return None,
    })
}

impl Log {
    /// Whether a chore waits for space; see [`Log::resume`].
    pub fn waits_for_space(&self) -> bool {
        self.starved
    }

    /// Puts a chore back that found no space; gives others on.
    pub(super) fn put_back(
        &mut self,
        then: Then,
        result: Result<DiskOutput, DiskError>,
        again: Option<DiskOpKind>,
    ) -> Option<(Then, Result<DiskOutput, DiskError>)> {
        let removing = matches!(self.state, State::Deleting) && self.removing;
        let waits = removing || matches!(self.state, State::Loading(_) | State::Ready);
        match (result, again) {
            (Err(DiskError::NoSpace), Some(kind)) if waits => {
                self.chores.push_front(Chore { kind, then });
                self.starved = true;
                None
            }
            (result, _) => Some((then, result)),
        }
    }

    /// Whether an append of `len` bytes would need space that is reserved.
    pub(super) fn lacks_room(&self, rolls: bool, len: usize, room: u64) -> bool {
        let active = self.segments.back().expect("a ready log has a segment");
        let open = matches!(active.file, SegmentFile::Open(_));
        room == 0 && (rolls || !open || active.size + len as u64 > align_up(active.allocated))
    }
}
