//! The data plane's kernel: performs a shard's effects with io_uring.
//!
//! One pinned thread per core runs a [`Reactor`], which owns the core's ring,
//! sockets, files and mailboxes and drives the shard by its events. It decides
//! nothing: no retry policy, no order, no timeouts of its own.
//!
//! ```text
//!     threads   pinned threads, the end of the process on a panic
//!     reactor   the loop: wait, tell, perform
//!       sockets   listeners, connections       buffers   shared receive buffers
//!       files     files, disk operations       file_worker   rare and blocking ones
//!         removals   space that is freed slowly
//!       mailbox   queues between cores         event_fd  wake-ups by other threads
//!     file_reactor   files alone, for the control thread
//!     ring      one io_uring                   gather    its vectors
//!     listener  binding                        clock     both clocks
//!     probe     what this kernel and disk can do
//!     measure   how long things take
//! ```

#![expect(unsafe_code, reason = "io_uring works on memory that it is handed by address")]
#![expect(clippy::disallowed_methods, reason = "the runtime is where threads and clocks are")]

mod buffers;
mod clock;
mod event_fd;
mod file_reactor;
mod file_worker;
mod files;
mod gather;
mod listener;
mod mailbox;
mod measure;
mod probe;
mod reactor;
mod removals;
mod ring;
mod sockets;
#[cfg(test)]
mod tests;
mod threads;

pub use event_fd::event_fd;
pub use file_reactor::FileReactor;
pub use files::{FileCounters, skip_sync_from_environment};
pub use listener::{BindError, bind};
pub use mailbox::Mailboxes;
pub use probe::{Capabilities, ProbeError, probe, raise_open_files};
pub use reactor::{ControlInbox, Reactor, ReactorConfig, RuntimeCounters};
pub use sockets::SocketCounters;
pub use threads::{AbortOnPanic, cpus, spawn};
