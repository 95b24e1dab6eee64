//! How the numbers of the cores come to whoever asks for them.
//!
//! The asker raises a core's flag and wakes it by the eventfd of its link; the
//! core looks at the flag once a turn, copies its numbers and sends them. A core
//! that does not answer in time is missing from what the asker gets. One asks at
//! a time; an answer that is late carries the number of its question, and is
//! dropped.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::ShardEndpoint;
use crate::metrics::Snapshot;
use crate::model::ids::CoreId;

/// A core's end.
#[derive(Debug)]
pub struct Meter {
    core: CoreId,
    /// The number of the last question.
    asked: Arc<AtomicU64>,
    /// The number of the last one answered.
    answered: u64,
    answers: SyncSender<(u64, Snapshot)>,
}

/// The asker's end, for all cores.
#[derive(Debug)]
pub struct Meters {
    cores: Vec<Asked>,
    number: u64,
    answers: Receiver<(u64, Snapshot)>,
}

#[derive(Debug)]
struct Asked {
    core: CoreId,
    asked: Arc<AtomicU64>,
    eventfd: OwnedFd,
}

/// What the cores told, in their order.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Of those that answered.
    pub snapshots: Vec<Snapshot>,
    /// Those that did not.
    pub silent: Vec<CoreId>,
}

/// Both ends for the cores of `endpoints`.
///
/// # Errors
/// If the process may not open more files.
pub fn meters(endpoints: &[ShardEndpoint]) -> io::Result<(Meters, Vec<Meter>)> {
    // Room for a late answer beside the wanted one of each core.
    let (sender, answers) = sync_channel(2 * endpoints.len());
    let mut cores = Vec::with_capacity(endpoints.len());
    let mut meters = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let (core, asked) = (endpoint.core(), Arc::new(AtomicU64::new(0)));
        meters.push(Meter { core, asked: asked.clone(), answered: 0, answers: sender.clone() });
        let eventfd = endpoint.eventfd().try_clone_to_owned()?;
        cores.push(Asked { core, asked, eventfd });
    }
    Ok((Meters { cores, number: 0, answers }, meters))
}

impl Meter {
    /// Answers, if there is a question: `measure` fills in the numbers.
    pub fn answer(&mut self, measure: impl FnOnce(&mut Snapshot)) {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked == self.answered {
            return;
        }
        self.answered = asked;
        let mut snapshot = Snapshot::new(self.core);
        measure(&mut snapshot);
        // If there is no room, or nobody, then nobody waits for it.
        self.answers.try_send((asked, snapshot)).ok();
    }
}

impl Meters {
    /// Asks every core and waits for their answers, at most `patience`.
    pub fn ask(&mut self, patience: Duration) -> Measured {
        while self.answers.try_recv().is_ok() {}
        self.number += 1;
        let mut silent: Vec<CoreId> = self.cores.iter().map(|row| row.core).collect();
        for row in &self.cores {
            row.asked.store(self.number, Ordering::Relaxed);
            if let Err(error) = rustix::io::write(&row.eventfd, &1_u64.to_ne_bytes()) {
                tracing::error!(core = %row.core, %error, "a core cannot be woken");
            }
        }
        let deadline = Instant::now() + patience;
        let mut snapshots = Vec::with_capacity(self.cores.len());
        while !silent.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left) {
                Ok((number, snapshot)) if number == self.number => {
                    silent.retain(|core| *core != snapshot.core);
                    snapshots.push(snapshot);
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        snapshots.sort_by_key(|snapshot| snapshot.core);
        Measured { snapshots, silent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::links;
    use crate::metrics::table;

    #[test]
    fn cores_answer_in_their_turns_and_silent_ones_are_named() {
        let (_links, endpoints) = links(2).expect("eventfds");
        let (mut asker, mut meters) = meters(&endpoints).expect("eventfds");
        meters[0].answer(|_| panic!("nobody asked"));
        let (go, gone) = std::sync::mpsc::channel();
        let mut late = meters.pop().expect("core 1");
        let mut meter = meters.pop().expect("core 0");
        let eventfd = endpoints[0].eventfd().try_clone_to_owned().expect("a descriptor");
        let core = std::thread::spawn(move || {
            let mut count = [0; 8];
            while gone.try_recv().is_err() {
                rustix::io::read(&eventfd, &mut count).expect("it is woken");
                meter.answer(|snapshot| snapshot.whole(&table::TURNS, 7));
            }
        });
        let measured = asker.ask(Duration::from_millis(50));
        assert_eq!(measured.silent, [CoreId(1)]);
        assert_eq!(measured.snapshots.len(), 1);
        // The late answer is to the first question.
        late.answer(|_| {});
        go.send(()).expect("the core listens");
        let measured = asker.ask(Duration::from_millis(50));
        assert_eq!(measured.silent, [CoreId(1)]);
        core.join().expect("it ends");
    }
}
