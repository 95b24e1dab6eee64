//! Threads of the data plane: one per core, named, pinned, and never silent
//! about their end.
//!
//! A panic in one of them is a programmer's error that leaves its partitions
//! without an owner: the process says so and ends at once, so that the other
//! replicas take over. Nothing is unwound past the panic, since buffers that
//! the kernel still uses must stay where they are.

use std::io;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use super::reactor::{Reactor, ReactorConfig};

/// Ends the process if it is dropped by a panic. Declared after, and so dropped
/// before, whatever must not be unwound.
pub struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            eprintln!(
                "corelane: thread {} has panicked",
                thread.name().unwrap_or("without a name")
            );
            std::process::abort();
        }
    }
}

/// The CPUs this process may use, in ascending order; empty if they cannot be told.
pub fn cpus() -> Vec<usize> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    ids.into_iter().map(|id| id.id).collect()
}

/// Starts the thread of one core, pinned to `cpu` if one is given, makes its
/// reactor there and calls `body` with it; the thread ends when `body` returns.
/// Returns when the reactor is ready. A CPU that cannot be pinned to is a
/// warning in the log.
///
/// # Errors
/// If the thread or its reactor cannot be made.
pub fn spawn<F>(config: ReactorConfig, cpu: Option<usize>, body: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce(&mut Reactor) + Send + 'static,
{
    let core = config.mailboxes.core();
    let (ready, is_ready) = sync_channel(1);
    let run = move || {
        // The file worker, a thread that inherits the affinity of its maker, is
        // started with the reactor: it shall not compete for the pinned CPU.
        let mut reactor = match Reactor::new(config) {
            Ok(reactor) => reactor,
            Err(error) => {
                ready.send(Err(error)).expect("the starting thread waits");
                return;
            }
        };
        let _abort = AbortOnPanic;
        if let Some(id) = cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            tracing::warn!("core {core} could not be pinned to CPU {id}");
        }
        ready.send(Ok(())).expect("the starting thread waits");
        body(&mut reactor);
    };
    let thread = std::thread::Builder::new().name(format!("core-{core}")).spawn(run)?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other(format!("core {core} ended before it was ready"))),
    }
}
