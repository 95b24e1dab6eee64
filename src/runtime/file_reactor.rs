//! A ring with files and a bell and nothing else: what the control thread waits on.
//!
//! It carries out disk operations below one directory and wakes for their ends,
//! for the bell, and for a deadline. It decides nothing.
//!
//! Dropping it cancels what is in flight and waits for its completions.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use super::clock;
use super::event_fd::{EventFd, check_signal};
use super::files::Files;
use super::ring::{Kind, Ring, Token};
use crate::effect::disk::{DiskCompletion, DiskOp};

/// See the head of this file. Made and used by one thread.
pub struct FileReactor {
    // Dropped first: the kernel lets go of everything below.
    ring: Ring,
    files: Files,
    bell: EventFd,
}

impl FileReactor {
    /// For the files below `directory`, which exists. `name` tells its helper
    /// threads from others'. Whoever writes to the eventfd `bell` wakes it.
    ///
    /// # Errors
    /// If the kernel refuses a ring, a descriptor or a thread.
    pub fn new(directory: PathBuf, name: &str, bell: OwnedFd) -> io::Result<Self> {
        let mut ring = Ring::new()?;
        let files = Files::new(&mut ring, directory, name, false)?;
        let bell = EventFd::new(bell, Token::new(Kind::Control, 0))?;
        bell.arm(&mut ring);
        Ok(Self { ring, files, bell })
    }

    /// Carries out one operation; its end is told by a later [`FileReactor::wait`].
    ///
    /// # Panics
    /// If the operation is not one that a core may ask for (see `DiskOpKind`).
    pub fn perform(&mut self, op: DiskOp) {
        self.files.set_time(clock::monotonic());
        self.files.perform(&mut self.ring, op);
    }

    /// Waits until an operation ends, the bell rings or `timeout` has passed, or
    /// shorter. Tells the ends of operations and returns whether the bell rang.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        mut emit: impl FnMut(DiskCompletion),
    ) -> bool {
        self.ring.enter(timeout);
        self.files.set_time(clock::monotonic());
        let mut rang = false;
        while let Some(completion) = self.ring.next() {
            match completion.token.kind {
                Kind::Disk => self.files.completed(&mut self.ring, completion, &mut emit),
                Kind::Worker => {
                    check_signal(completion);
                    self.files.worker_signalled(&mut self.ring, completion.token, &mut emit);
                }
                Kind::Control => {
                    check_signal(completion);
                    self.bell.arm(&mut self.ring);
                    rang = true;
                }
                Kind::Ignored => {}
                kind => unreachable!("there are no sockets and no other cores: {kind:?}"),
            }
        }
        rang
    }
}

impl Drop for FileReactor {
    fn drop(&mut self) {
        self.ring.quiesce(drop);
    }
}
