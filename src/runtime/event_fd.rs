//! An eventfd that a ring reads: how threads without a ring wake a core.
//!
//! The reading side clears the counter first and looks into its queue after
//! that; the writing side puts its message first. So whatever is put is either
//! seen by this look or makes the next read complete.

use std::cell::UnsafeCell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::ring::{Completion, Ring, Token};

/// Makes an eventfd whose counter is zero.
///
/// # Errors
/// What eventfd(2) says.
pub fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: takes no memory.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Checks the end of a read that [`EventFd::arm`] asked for.
///
/// # Panics
/// If the eventfd cannot be read: it would be asked again for ever.
pub fn check_signal(completion: Completion) {
    if let Err(errno) = completion.result
        && errno != libc::EINTR
    {
        let error = io::Error::from_raw_os_error(errno);
        panic!("the eventfd {:?} cannot be read: {error}", completion.token.kind);
    }
}

/// The reading side of an eventfd.
pub struct EventFd {
    fd: OwnedFd,
    token: Token,
    /// Where the kernel puts the counter; nobody looks at it.
    counter: Box<UnsafeCell<u64>>,
}

impl EventFd {
    /// Reads `fd` with completions called `token`.
    ///
    /// # Errors
    /// What fcntl(2) says.
    pub fn new(fd: OwnedFd, token: Token) -> io::Result<Self> {
        // On a non-blocking descriptor a read would fail instead of waiting.
        // SAFETY: takes no memory.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: takes no memory.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, token, counter: Box::new(UnsafeCell::new(0)) })
    }

    /// Asks for one completion when the counter is not zero, which clears it.
    /// The last one has completed.
    pub fn arm(&self, ring: &mut Ring) {
        let len = size_of::<u64>();
        // SAFETY: the box stays where it is and nothing looks into it; its owner
        // outlives what is in flight.
        unsafe { ring.read(self.token, self.fd.as_raw_fd(), 0, self.counter.get().cast(), len) };
    }
}
