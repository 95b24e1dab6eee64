//! Messages between the cores of one broker: a bounded queue per ordered pair.
//!
//! Waking: a core that is about to wait says so, then looks into its inboxes
//! once more; a sender first puts its message, then looks whether the receiver
//! has said so. A full fence between the two steps on either side makes sure
//! that at least one of them sees the other, so no message waits for a sleeping
//! core. Only then does the sender send a wake-up (IORING_OP_MSG_RING), once
//! for all messages of its turn; a busy core is never disturbed.
//!
//! ```text
//!     receiver                      sender
//!     parked = true                 put the message
//!     fence                         fence
//!     look into the inboxes         if parked.swap(false): send a wake-up
//! ```
//!
//! A queue is never full: shards mail only what they have reserved an answer's
//! place for (limits::MAIL_OPEN_MAX). A core that has stopped gets no more
//! wake-ups, and what is put for it stays there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering, fence};

use rtrb::{Consumer, Producer, RingBuffer};

use super::ring::Ring;
use crate::base::limits::MAILBOX_LEN;
use crate::model::ids::CoreId;

/// The ends of all queues of one core.
pub struct Mailboxes<M> {
    core: CoreId,
    /// By receiving core; none to itself.
    outboxes: Vec<Option<Producer<M>>>,
    /// By sending core; none from itself.
    inboxes: Vec<Option<Consumer<M>>>,
    /// Receivers of this turn's messages.
    written: Vec<CoreId>,
    parking: Arc<[Parking]>,
    /// Messages sent so far.
    pub sent: u64,
    /// Messages received so far.
    pub received: u64,
}

/// Where one core says that it waits. A cache line of its own: its readers
/// belong to other cores.
#[repr(align(128))]
struct Parking {
    parked: AtomicBool,
    /// The core's ring, -1 before its start and after its end.
    ring: AtomicI32,
}

impl<M> Mailboxes<M> {
    /// The mailboxes of a broker with `cores` cores, in the order of the cores.
    pub fn mesh(cores: usize) -> Vec<Self> {
        let parking: Arc<[Parking]> = (0..cores)
            .map(|_| Parking { parked: AtomicBool::new(false), ring: AtomicI32::new(-1) })
            .collect();
        let mut mesh: Vec<Self> = (0..cores)
            .map(|core| Self {
                core: CoreId(u16::try_from(core).expect("a broker has at most 256 cores")),
                outboxes: Vec::with_capacity(cores),
                inboxes: Vec::with_capacity(cores),
                written: Vec::with_capacity(cores),
                parking: parking.clone(),
                sent: 0,
                received: 0,
            })
            .collect();
        for from in 0..cores {
            for to in 0..cores {
                let (outbox, inbox) = if from == to {
                    (None, None)
                } else {
                    let (outbox, inbox) = RingBuffer::new(MAILBOX_LEN);
                    (Some(outbox), Some(inbox))
                };
                mesh[from].outboxes.push(outbox);
                mesh[to].inboxes.push(inbox);
            }
        }
        mesh
    }

    /// The core these belong to.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Tells the other cores whom to wake. Called by the core's thread, before
    /// anything else.
    pub fn attach(&mut self, ring: &Ring) {
        self.parking().ring.store(ring.fd(), Ordering::Release);
    }

    /// Ends wake-ups: the ring is about to go.
    pub fn detach(&mut self) {
        self.parking().parked.store(false, Ordering::SeqCst);
        self.parking().ring.store(-1, Ordering::Release);
    }

    /// Puts `mail` for `to`, which hears of it with [`Mailboxes::wake`] at the latest.
    ///
    /// # Panics
    /// If there is no room, or no such other core.
    pub fn send(&mut self, to: CoreId, mail: M) {
        let outbox = self.outboxes[usize::from(to.0)].as_mut().expect("no mail to oneself");
        assert!(outbox.push(mail).is_ok(), "the mailbox from {} to {to} is full", self.core);
        self.sent += 1;
        if !self.written.contains(&to) {
            self.written.push(to);
        }
    }

    /// Wakes the receivers of this turn's messages that wait.
    pub fn wake(&mut self, ring: &mut Ring) {
        if self.written.is_empty() {
            return;
        }
        fence(Ordering::SeqCst);
        for to in self.written.drain(..) {
            let parking = &self.parking[usize::from(to.0)];
            if parking.parked.load(Ordering::Relaxed)
                && parking.parked.swap(false, Ordering::SeqCst)
            {
                ring.wake(parking.ring.load(Ordering::Acquire));
            }
        }
    }

    /// Says that this core waits, and returns true, if no message is here.
    pub fn park(&mut self) -> bool {
        self.parking().parked.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let empty = self.inboxes.iter().flatten().all(Consumer::is_empty);
        if !empty {
            self.unpark();
        }
        empty
    }

    /// Says that this core does not wait any more.
    pub fn unpark(&mut self) {
        self.parking().parked.store(false, Ordering::SeqCst);
    }

    /// Takes the messages that are here, in order per sender.
    pub fn receive(&mut self, mut emit: impl FnMut(CoreId, M)) {
        for (from, inbox) in (0..).zip(&mut self.inboxes) {
            let Some(inbox) = inbox else { continue };
            // No more than these, so that two busy cores cannot keep each other here.
            for _ in 0..inbox.slots() {
                let Ok(mail) = inbox.pop() else { break };
                self.received += 1;
                emit(CoreId(from), mail);
            }
        }
    }

    fn parking(&self) -> &Parking {
        &self.parking[usize::from(self.core.0)]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// One core's loop: answers until `last` messages came, waiting in between.
    fn play(mut mail: Mailboxes<u64>, rounds: u64, busy: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut ring = Ring::new().expect("this kernel has io_uring");
        mail.attach(&ring);
        let other = CoreId(1 - mail.core().0);
        let mut seen = Vec::new();
        if mail.core() == CoreId(0) {
            mail.send(other, 0);
        }
        while (seen.len() as u64) < rounds {
            mail.wake(&mut ring);
            if !busy(seen.len() as u64) && mail.park() {
                ring.enter(None);
                mail.unpark();
            } else {
                ring.enter(Some(Duration::ZERO));
            }
            while ring.next().is_some() {}
            let mut came = Vec::new();
            mail.receive(|from, n| {
                assert_eq!(from, other);
                came.push(n);
            });
            for n in came {
                seen.push(n);
                mail.send(other, n + 1);
            }
        }
        mail.wake(&mut ring);
        ring.enter(Some(Duration::ZERO));
        mail.detach();
        seen
    }

    #[test]
    fn ping_pong_across_parked_and_busy_cores() {
        const ROUNDS: u64 = 1_000;
        let mut mesh = Mailboxes::mesh(2);
        let (second, first) = (mesh.pop().expect("two"), mesh.pop().expect("two"));
        // Stretches of waiting and of not waiting, out of step with each other.
        let busy = |n: u64| n % 200 >= 100;
        let thread = std::thread::spawn(move || play(second, ROUNDS, |n| n % 300 >= 150));
        let even = play(first, ROUNDS, busy);
        let odd = thread.join().expect("the other core does not panic");
        assert!(odd.iter().copied().eq((0..ROUNDS).map(|n| 2 * n)));
        assert!(even.iter().copied().eq((0..ROUNDS).map(|n| 2 * n + 1)));
    }

    #[test]
    fn a_message_before_parking_is_not_slept_over() {
        let mut mesh = Mailboxes::mesh(3);
        let mut third = mesh.pop().expect("three");
        mesh[0].send(CoreId(2), 'a');
        mesh[1].send(CoreId(2), 'b');
        mesh[0].send(CoreId(2), 'c');
        assert!(!third.park());
        let mut got = Vec::new();
        third.receive(|from, mail| got.push((from.0, mail)));
        assert_eq!(got, [(0, 'a'), (0, 'c'), (1, 'b')]);
        assert!(third.park());
    }

    #[test]
    #[should_panic(expected = "is full")]
    fn overflow_is_a_broken_promise() {
        let mut mesh = Mailboxes::mesh(2);
        for n in 0..=MAILBOX_LEN {
            mesh[0].send(CoreId(1), n);
        }
    }
}
