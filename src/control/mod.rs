//! The control plane's kernel: one thread that runs the [`Controller`] and performs
//! what it asks for, on a ring of its own.
//!
//! It decides nothing. Events go to the controller one at a time, in the order
//! they happened for each core and each disk operation; effects are carried out
//! before the next one. While nothing happens the thread sleeps: it wakes for a
//! shard, a completion, a stop, and for ticks only while the controller wants
//! them.
//!
//! [`links`] makes the queues, [`spawn`] starts the thread, and
//! [`ControlHandle::stop`] stops the shards through it and ends it. A shard
//! whose endpoint is dropped counts as stopped, and not cleanly.
//!
//! Beside it, [`serve_admin`] answers HTTP from the numbers that the cores tell
//! through their [`meters`].

#![expect(
    clippy::disallowed_methods,
    reason = "the control thread reads the clocks for its controller"
)]

mod admin;
mod link;
mod meter;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Monotonic, SystemTime, UNIX_EPOCH};

use crate::base::time::{Instant, Now, UnixMillis};
use crate::controller::{
    Controller, ControllerEffects, ControllerError, ControllerEvent, ControllerOptions, Notice,
    TICK,
};
use crate::effect::disk::DiskCompletion;
use crate::metadata::link::ToController;
use crate::runtime::{AbortOnPanic, FileReactor};
pub use admin::serve_admin;
use link::Doorbell;
pub use link::{Full, ShardEndpoint, ShardLink, links};
pub use meter::{Measured, Meter, Meters, meters};

/// Events of each core that are taken in before the disk is looked at again.
const EVENTS_PER_TURN: usize = 64;

/// What the control plane runs.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// The data directory, which is there. The metadata goes into
    /// `__cluster_metadata` below it.
    pub data: PathBuf,
    /// The controller.
    pub controller: ControllerOptions,
}

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The controller cannot use what it found.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// There is no ring, no descriptor or no thread to be had.
    #[error("the control thread cannot run: {0}")]
    Thread(#[from] io::Error),
}

/// The running control thread. It runs on if this is dropped without a stop.
#[must_use]
pub struct ControlHandle {
    thread: JoinHandle<bool>,
    shared: Arc<Shared>,
}

/// How the control thread is, for whoever wants to know.
#[derive(Clone)]
pub struct ControlState(Arc<Shared>);

impl ControlState {
    /// Whether the controller has failed since it started.
    pub fn is_failed(&self) -> bool {
        self.0.failed.load(Ordering::Acquire)
    }

    /// Whether it was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.0.stop.load(Ordering::Acquire)
    }
}

/// What the handle and the thread share.
struct Shared {
    doorbell: Arc<Doorbell>,
    stop: AtomicBool,
    failed: AtomicBool,
}

/// Starts the control thread and waits until the controller is active: the
/// metadata is read, this broker is registered, and each shard's first
/// publication is in its queue. Shards need not run yet.
///
/// # Errors
/// If the thread or the controller cannot start; the links are closed then.
///
/// # Panics
/// If there is not one link for each core, in order.
pub fn spawn(options: ControlOptions, links: Vec<ShardLink>) -> Result<ControlHandle, StartError> {
    let cores = 0..options.controller.node.cores;
    assert!(links.iter().map(|link| link.core().0).eq(cores), "one link for each core");
    let doorbell = links.first().expect("a broker has a core").doorbell();
    let shared =
        Arc::new(Shared { doorbell, stop: AtomicBool::new(false), failed: AtomicBool::new(false) });
    let (started, start) = channel();
    let thread_shared = shared.clone();
    let run = move || {
        let _abort = AbortOnPanic;
        match Control::new(options, links, thread_shared, started.clone()) {
            Ok(control) => control.run(),
            Err(error) => {
                started.send(Err(error.into())).expect("the starting thread waits");
                false
            }
        }
    };
    let thread = std::thread::Builder::new().name("control".to_owned()).spawn(run)?;
    match start.recv().expect("the control thread tells how its start went") {
        Ok(()) => Ok(ControlHandle { thread, shared }),
        Err(error) => {
            // It has told why it ends.
            thread.join().expect("a panic ends the process");
            Err(error)
        }
    }
}

impl ControlHandle {
    /// How the thread is, now and later. If the controller fails, the broker goes
    /// on with the metadata it has, and cannot change it.
    pub fn state(&self) -> ControlState {
        ControlState(self.shared.clone())
    }

    /// Tells all shards to stop, waits until they have, and ends the thread.
    /// Returns whether every shard stopped cleanly.
    pub fn stop(self) -> bool {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.doorbell.ring();
        self.thread.join().expect("a panic ends the process")
    }
}

/// The thread's state.
struct Control {
    controller: Controller,
    effects: ControllerEffects,
    links: Vec<ShardLink>,
    files: FileReactor,
    completions: VecDeque<DiskCompletion>,
    shared: Arc<Shared>,
    /// Told once how the start went.
    started: Option<Sender<Result<(), StartError>>>,
    /// How the thread ends, once it does.
    end: Option<bool>,
    stop_told: bool,
    clock: Monotonic,
    /// When the next tick is due, while the controller wants ticks.
    tick_at: Option<Monotonic>,
}

impl Control {
    fn new(
        options: ControlOptions,
        links: Vec<ShardLink>,
        shared: Arc<Shared>,
        started: Sender<Result<(), StartError>>,
    ) -> io::Result<Self> {
        let bell = shared.doorbell.eventfd().try_clone_to_owned()?;
        Ok(Self {
            controller: Controller::new(options.controller),
            effects: ControllerEffects::default(),
            links,
            files: FileReactor::new(options.data, "control", bell)?,
            completions: VecDeque::new(),
            shared,
            started: Some(started),
            end: None,
            stop_told: false,
            clock: Monotonic::now(),
            tick_at: None,
        })
    }

    fn run(mut self) -> bool {
        self.step(ControllerEvent::Boot);
        loop {
            let more = self.take_events();
            self.flush();
            if let Some(clean) = self.end {
                return clean;
            }
            let tick = self.until_tick();
            // Disk operations go on while shards keep this busy.
            let timeout = if more { Some(Duration::ZERO) } else { tick };
            let completions = &mut self.completions;
            if self.files.wait(timeout, |completion| completions.push_back(completion)) {
                self.shared.doorbell.answer();
            }
        }
    }

    /// Makes the tick that is due, if the controller wants ticks. Returns how long it
    /// is until the next one.
    fn until_tick(&mut self) -> Option<Duration> {
        if !self.controller.wants_ticks() {
            self.tick_at = None;
            return None;
        }
        let now = Monotonic::now();
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick_at = None;
            self.step(ControllerEvent::Tick);
            self.flush();
        }
        let at = *self.tick_at.get_or_insert(now + TICK);
        Some(at - now)
    }

    /// Hands over what has happened, and says whether there may be more.
    fn take_events(&mut self) -> bool {
        for _ in 0..EVENTS_PER_TURN {
            let mut idle = true;
            if self.shared.stop.load(Ordering::Acquire) && !self.stop_told {
                self.stop_told = true;
                self.step(ControllerEvent::Stop);
            }
            if let Some(completion) = self.completions.pop_front() {
                idle = false;
                self.step(ControllerEvent::Disk(completion));
            }
            for core in 0..self.links.len() {
                let link = &mut self.links[core];
                let message = link.receive().or_else(|| {
                    let lost = !link.lost && link.is_lost();
                    link.lost |= lost;
                    lost.then(|| ToController::Stopped { core: link.core(), clean: false })
                });
                if let Some(message) = message {
                    idle = false;
                    self.step(ControllerEvent::Message(message));
                }
            }
            if idle {
                return false;
            }
        }
        true
    }

    fn now(&self) -> Now {
        let nanos = u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // A clock before 1970 reads as 1970.
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix = UnixMillis(i64::try_from(unix.as_millis()).unwrap_or(i64::MAX));
        Now { instant: Instant::from_nanos(nanos), unix }
    }

    /// One event and its effects.
    fn step(&mut self, event: ControllerEvent) {
        let now = self.now();
        self.controller.step(now, event, &mut self.effects);
        for op in self.effects.disk.drain(..) {
            self.files.perform(op);
        }
        for (core, message) in self.effects.shards.drain(..) {
            self.links[usize::from(core.0)].send(message);
        }
        for notice in self.effects.notices.drain(..) {
            match notice {
                Notice::Started => {
                    if let Some(started) = self.started.take() {
                        // Whoever started this waits for it, unless it is gone itself.
                        started.send(Ok(())).ok();
                    }
                }
                Notice::Failed(error) => {
                    self.shared.failed.store(true, Ordering::Release);
                    tracing::error!(%error, "the metadata can be changed no more");
                    if let Some(started) = self.started.take() {
                        started.send(Err(error.into())).ok();
                        self.end = Some(false);
                    }
                }
                Notice::NoSpaceForSnapshot => {
                    tracing::warn!("there is no space for a snapshot of the metadata");
                }
                Notice::Stopped { clean } => self.end = Some(clean),
            }
        }
    }

    fn flush(&mut self) {
        for link in &mut self.links {
            if let Err(error) = link.flush() {
                let core = link.core();
                tracing::error!(%core, %error, "a shard cannot be woken");
            }
        }
    }
}

#[cfg(test)]
mod tests;
