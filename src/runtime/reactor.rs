//! The loop of one core: waits, tells what happened, carries out what is wanted.
//!
//! One turn is: submit and wait (one system call), read the clocks, an event
//! per completion, the mail, the controller's messages, [`Event::Turn`], then
//! all effects. How long to wait is the shard's [`Wake`]; the reactor adds
//! nothing but the short rest of a listener that ran out of descriptors.
//!
//! In the steady state no operation allocates: tables keep their rows, the
//! vectors of [`Effects`] are drained, and iovecs live in an arena.
//!
//! Dropping a reactor cancels what is in flight and waits for its completions.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use super::clock;
use super::event_fd::{EventFd, check_signal};
use super::files::{FileCounters, Files};
use super::mailbox::Mailboxes;
use super::measure::{DiskTimes, Times};
use super::ring::{Kind, Ring, Token};
use super::sockets::{SocketCounters, Sockets};
use crate::base::limits::CONNECTIONS_PER_CORE_MAX;
use crate::base::time::{Instant, Now};
use crate::effect::net::NetEvent;
use crate::mesh::Mail;
use crate::metadata::link::{ToController, ToShard};
use crate::shard::event::{Effects, Event, Wake};

/// The shard's end of the queues to and from the controller.
pub struct ControlInbox {
    /// Written to after every message to the shard.
    pub eventfd: OwnedFd,
    /// The next message that is here.
    pub receive: Box<dyn FnMut() -> Option<ToShard> + Send>,
    /// Puts a message for the controller and wakes it.
    pub send: Box<dyn FnMut(ToController) + Send>,
}

/// What a reactor is made of.
pub struct ReactorConfig {
    /// The core's ends of the queues between cores.
    pub mailboxes: Mailboxes<Mail>,
    /// Listening sockets, in blocking mode.
    pub listeners: Vec<TcpListener>,
    /// Where all paths start; exists.
    pub log_dir: PathBuf,
    /// The core's end of the queues of the controller.
    pub control: Option<ControlInbox>,
    /// Connections at a time; further ones are closed at once.
    pub connections_max: usize,
    /// For the power-pull test alone: syncs of files and directories do nothing
    /// and claim success
    /// ([`skip_sync_from_environment`](super::skip_sync_from_environment)).
    pub unsafe_skip_sync: bool,
}

impl ReactorConfig {
    /// A core with these mailboxes and files, without listeners and controller.
    pub fn new(mailboxes: Mailboxes<Mail>, log_dir: PathBuf) -> Self {
        Self {
            mailboxes,
            listeners: Vec::new(),
            log_dir,
            control: None,
            connections_max: CONNECTIONS_PER_CORE_MAX,
            unsafe_skip_sync: false,
        }
    }
}

/// What happened on one core since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuntimeCounters {
    /// Turns of the loop.
    pub turns: u64,
    /// Turns that waited.
    pub parked: u64,
    /// Calls of io_uring_enter.
    pub enters: u64,
    /// Messages to other cores.
    pub mail_sent: u64,
    /// Messages from other cores.
    pub mail_received: u64,
    /// Of the sockets.
    pub sockets: SocketCounters,
    /// Of the files.
    pub files: FileCounters,
}

/// The data plane's kernel of one core. Made and used by one thread.
pub struct Reactor {
    // Dropped first: the kernel lets go of everything below.
    ring: Ring,
    sockets: Sockets,
    files: Files,
    mail: Mailboxes<Mail>,
    control: Option<Control>,
    effects: Effects,
    times: Times,
    turns: u64,
    parked: u64,
}

struct Control {
    signal: EventFd,
    receive: Box<dyn FnMut() -> Option<ToShard> + Send>,
    send: Box<dyn FnMut(ToController) + Send>,
    /// Whether to look for messages in this turn.
    signalled: bool,
}

impl Reactor {
    /// Makes the core's ring and arms its listeners.
    ///
    /// # Errors
    /// If the kernel refuses a ring, its buffers, a descriptor or a thread;
    /// [`probe`](super::probe) tells more.
    pub fn new(config: ReactorConfig) -> io::Result<Self> {
        let mut ring = Ring::new()?;
        let mut mail = config.mailboxes;
        let name = mail.core().0.to_string();
        let sockets = Sockets::new(&mut ring, config.listeners, config.connections_max)?;
        let files = Files::new(&mut ring, config.log_dir, &name, config.unsafe_skip_sync)?;
        let control = match config.control {
            Some(ControlInbox { eventfd, receive, send }) => {
                let signal = EventFd::new(eventfd, Token::new(Kind::Control, 0))?;
                signal.arm(&mut ring);
                Some(Control { signal, receive, send, signalled: true })
            }
            None => None,
        };
        mail.attach(&ring);
        let effects = Effects::default();
        let times = Times::default();
        Ok(Self { ring, sockets, files, mail, control, effects, times, turns: 0, parked: 0 })
    }

    /// Drives `shard` until it has stopped.
    pub fn run<S>(
        &mut self,
        shard: &mut S,
        step: impl Fn(&mut S, Now, Event<'_>, &mut Effects),
        wake: impl Fn(&S) -> Wake,
    ) {
        let mut next = Wake::Now;
        while next != Wake::Stopped {
            self.turn(next, |now, event, effects| step(shard, now, event, effects));
            next = wake(shard);
        }
    }

    /// One turn, which waits as `wake` says.
    pub fn turn(&mut self, wake: Wake, mut step: impl FnMut(Now, Event<'_>, &mut Effects)) {
        self.wait(wake);
        self.turns += 1;
        let now = clock::now();
        self.times.woken(now.instant);
        self.files.set_time(now.instant);
        let mut effects = std::mem::take(&mut self.effects);
        self.tell(now, |event| step(now, event, &mut effects));
        self.perform(&mut effects);
        self.effects = effects;
        self.times.done(clock::monotonic());
    }

    /// How this core spent its time so far.
    pub(super) fn times(&self) -> &Times {
        &self.times
    }

    /// How long the disk took so far.
    pub(super) fn disk_times(&self) -> &DiskTimes {
        &self.files.times
    }

    /// Disk operations in the ring.
    pub(super) fn disk_in_flight(&self) -> usize {
        self.files.in_flight()
    }

    /// What happened so far.
    pub fn counters(&self) -> RuntimeCounters {
        RuntimeCounters {
            turns: self.turns,
            parked: self.parked,
            enters: self.ring.enters,
            mail_sent: self.mail.sent,
            mail_received: self.mail.received,
            sockets: self.sockets.counters,
            files: self.files.counters,
        }
    }

    /// Submits, and waits until something has happened or `wake` is over.
    fn wait(&mut self, wake: Wake) {
        const NOW: Instant = Instant::from_nanos(0);
        let until = match wake {
            Wake::Now | Wake::Stopped => Some(NOW),
            Wake::At(_) | Wake::OnEvent if self.has_ready() => Some(NOW),
            Wake::At(at) => Some(at),
            Wake::OnEvent => None,
        };
        // None is later than any time.
        let until = [until, self.sockets.resume_at()].into_iter().flatten().min();
        let timeout = until.map(|until| match until {
            NOW => Duration::ZERO,
            until => until.since(clock::monotonic()),
        });
        if wake == Wake::Now && self.files.in_flight() > 0 {
            // The kernel's threads that complete writes and run syncs are bound to this
            // CPU, and would wait until the work that is left pauses by itself.
            std::thread::yield_now();
        }
        if timeout == Some(Duration::ZERO) || !self.mail.park() {
            self.ring.enter(Some(Duration::ZERO));
        } else {
            self.parked += 1;
            self.ring.enter(timeout);
            self.mail.unpark();
        }
    }

    fn has_ready(&self) -> bool {
        self.sockets.has_ready()
            || self.files.has_ready()
            || self.control.as_ref().is_some_and(|control| control.signalled)
    }

    /// An event for everything that has happened.
    fn tell(&mut self, now: Now, mut emit: impl FnMut(Event<'_>)) {
        let Self { ring, sockets, files, mail, control, times, .. } = self;
        let mut emit = |event: Event<'_>| {
            emit(event);
            times.stepped(clock::monotonic());
        };
        sockets.emit_ready(|event| emit(Event::Net(event)));
        files.emit_ready(|completion| emit(Event::Disk(completion)));
        while let Some(completion) = ring.next() {
            match completion.token.kind {
                Kind::Receive => {
                    sockets.receive_completed(ring, completion, |event| emit(Event::Net(event)));
                }
                Kind::Send => {
                    sockets.send_completed(ring, completion, |event| emit(Event::Net(event)));
                }
                Kind::Disk => {
                    files.completed(ring, completion, |completion| emit(Event::Disk(completion)));
                }
                Kind::Accept => {
                    let emit = |event: NetEvent<'_>| emit(Event::Net(event));
                    sockets.accept_completed(ring, completion, now.instant, emit);
                }
                Kind::Worker => {
                    check_signal(completion);
                    let token = completion.token;
                    files.worker_signalled(ring, token, |done| emit(Event::Disk(done)));
                }
                Kind::Control => {
                    check_signal(completion);
                    let control = control.as_mut().expect("the controller's signal was armed");
                    control.signal.arm(ring);
                    control.signalled = true;
                }
                Kind::Mail | Kind::Ignored => {}
            }
        }
        sockets.end_of_completions(ring);
        sockets.resume(ring, now.instant);
        mail.receive(|from, mail| emit(Event::Mail { from, mail }));
        if let Some(control) = control
            && std::mem::take(&mut control.signalled)
        {
            while let Some(message) = (control.receive)() {
                emit(Event::Control(message));
            }
        }
        emit(Event::Turn);
    }

    /// Carries out all effects.
    fn perform(&mut self, effects: &mut Effects) {
        if !effects.disk.is_empty() {
            self.files.set_time(clock::monotonic());
        }
        for op in effects.disk.drain(..) {
            self.files.perform(&mut self.ring, op);
        }
        for op in effects.net.drain(..) {
            self.sockets.perform(&mut self.ring, op);
        }
        for (to, mail) in effects.mail.drain(..) {
            self.mail.send(to, mail);
        }
        self.mail.wake(&mut self.ring);
        for message in effects.control.drain(..) {
            let control = self.control.as_mut().expect("a shard that speaks has a controller");
            (control.send)(message);
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.mail.detach();
        self.ring.quiesce(|completion| {
            if completion.token.kind == Kind::Accept {
                Sockets::discard_accepted(completion);
            }
        });
    }
}
