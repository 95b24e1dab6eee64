//! Whole cores: threads, the controller's queue, and the end on a panic.

use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc::channel;

use crate::base::time::Now;
use crate::mesh::Mail;
use crate::metadata::link::{ToController, ToShard};
use crate::model::ids::CoreId;
use crate::runtime::{ControlInbox, Mailboxes, ReactorConfig, cpus, event_fd, spawn};
use crate::shard::event::{Effects, Event, Wake};

/// A shard that reports its stop.
struct Stopper {
    core: CoreId,
    stopped: bool,
}

impl Stopper {
    fn step(&mut self, _now: Now, event: Event<'_>, effects: &mut Effects) {
        match event {
            Event::Control(ToShard::Stop) => {
                effects.control.push(ToController::Stopped { core: self.core, clean: true });
                self.stopped = true;
            }
            Event::Turn => {}
            other => panic!("{other:?}"),
        }
    }

    fn wake(&self) -> Wake {
        if self.stopped { Wake::Stopped } else { Wake::OnEvent }
    }
}

#[test]
fn the_controller_reaches_every_core_and_hears_of_it() {
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let (to_controller, from_shards) = channel();
    let mut stops = Vec::new();
    let mut threads = Vec::new();
    for mailboxes in Mailboxes::mesh(2) {
        let core = mailboxes.core();
        let (stop, messages) = channel();
        let eventfd = event_fd().expect("a descriptor");
        let doorbell = std::fs::File::from(eventfd.try_clone().expect("a descriptor"));
        let to_controller = to_controller.clone();
        let mut config = ReactorConfig::new(mailboxes, dir.path().to_owned());
        config.control = Some(ControlInbox {
            eventfd,
            receive: Box::new(move || messages.try_recv().ok()),
            send: Box::new(move |message| to_controller.send(message).expect("listening")),
        });
        let cpu = cpus().first().copied();
        let thread = spawn(config, cpu, move |reactor| {
            let mut shard = Stopper { core, stopped: false };
            reactor.run(&mut shard, Stopper::step, Stopper::wake);
        });
        threads.push(thread.expect("this kernel has io_uring"));
        stops.push((stop, doorbell));
    }
    for (stop, doorbell) in &mut stops {
        stop.send(ToShard::Stop).expect("the core listens");
        std::io::Write::write_all(doorbell, &1_u64.to_ne_bytes()).expect("an eventfd");
    }
    let mut stopped: Vec<u16> = (0..2)
        .map(|_| match from_shards.recv() {
            Ok(ToController::Stopped { core, clean: true }) => core.0,
            other => panic!("{other:?}"),
        })
        .collect();
    stopped.sort_unstable();
    assert_eq!(stopped, [0, 1]);
    for thread in threads {
        thread.join().expect("the core does not panic");
    }
}

/// A shard that answers each message until it has had enough of them. It has
/// work of its own in some stretches, and waits in the others.
struct Player {
    other: CoreId,
    serves: bool,
    got: u32,
    busy: u32,
}

const MESSAGES: u32 = 600;

impl Player {
    fn step(&mut self, _now: Now, event: Event<'_>, effects: &mut Effects) {
        match event {
            Event::Mail { from, mail: Mail::Drained } => {
                assert_eq!(from, self.other);
                self.got += 1;
                // The one who serves gets the last answer.
                if self.got < MESSAGES || !self.serves {
                    effects.mail.push((self.other, Mail::Drained));
                }
            }
            Event::Turn if self.serves && self.busy == 0 => {
                effects.mail.push((self.other, Mail::Drained));
                self.busy = 170;
            }
            Event::Turn => {}
            other => panic!("{other:?}"),
        }
    }

    fn wake(&self) -> Wake {
        match self.got {
            MESSAGES => Wake::Stopped,
            got if got / self.busy.max(1) % 2 == 1 => Wake::Now,
            _ => Wake::OnEvent,
        }
    }
}

#[test]
fn two_reactors_play_ping_pong_whether_they_wait_or_not() {
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let mut threads = Vec::new();
    let (report, reports) = channel();
    for mailboxes in Mailboxes::mesh(2) {
        let core = mailboxes.core();
        let report = report.clone();
        let serves = core == CoreId(0);
        let busy = if serves { 0 } else { 130 };
        let mut player = Player { other: CoreId(1 - core.0), serves, got: 0, busy };
        let config = ReactorConfig::new(mailboxes, dir.path().to_owned());
        let thread = spawn(config, None, move |reactor| {
            reactor.run(&mut player, Player::step, Player::wake);
            // The last messages and their wake-up leave with this turn.
            reactor.turn(Wake::Now, |_, _, _| {});
            report.send(reactor.counters()).expect("listening");
        });
        threads.push(thread.expect("this kernel has io_uring"));
    }
    for _ in 0..2 {
        let counters = reports.recv().expect("both report");
        let (sent, received) = (counters.mail_sent, counters.mail_received);
        assert_eq!((sent, received), (u64::from(MESSAGES), u64::from(MESSAGES)));
        assert!(counters.parked > 0 && counters.parked < counters.turns, "{counters:?}");
    }
    for thread in threads {
        thread.join().expect("the core does not panic");
    }
}

#[test]
#[ignore = "ends the process; started by the test below"]
fn panicking_core() {
    let config = ReactorConfig::new(Mailboxes::mesh(1).remove(0), std::env::temp_dir());
    let thread = spawn(config, None, |_| panic!("an invariant is broken"));
    let _ = thread.expect("this kernel has io_uring").join();
    std::thread::park();
}

#[test]
fn a_panic_ends_the_process_loudly() {
    let output = super::in_a_process_of_its_own("threads::panicking_core");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{:?}", output.status);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("an invariant is broken"), "{said}");
    assert!(said.contains("corelane: thread core-0 has panicked"), "{said}");
}
