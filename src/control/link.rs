//! The queues between the control thread and the shards' threads.
//!
//! Each core has two bounded queues, one each way, which keep order. A shard is
//! woken by an eventfd that its ring reads; the control thread by one doorbell
//! that all shards share. A core whose queue is full is not heard until it has
//! taken what waits for it, so nothing grows.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rtrb::{Consumer, Producer, PushError, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};

use crate::base::limits::CONTROL_QUEUE_LEN;
use crate::metadata::link::{ToController, ToShard};
use crate::model::ids::CoreId;

/// Wakes the control thread, from any thread.
///
/// Whoever rings has put something before; whoever answers looks after that. So
/// what was put is either seen by this look or rings again.
#[derive(Debug)]
pub(super) struct Doorbell {
    /// Whether the eventfd was written to since the last answer.
    rung: AtomicBool,
    eventfd: OwnedFd,
}

impl Doorbell {
    fn new() -> io::Result<Self> {
        // Blocking, so that a ring's read waits instead of failing.
        Ok(Self { rung: false.into(), eventfd: eventfd(0, EventfdFlags::CLOEXEC)? })
    }

    /// Wakes whoever reads [`Doorbell::eventfd`].
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            let written = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
            written.expect("an eventfd takes a one");
        }
    }

    /// Takes note of a ring. What was put before it is to be looked for after this.
    pub(super) fn answer(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }

    /// Becomes readable (eight bytes) when it was rung.
    pub(super) fn eventfd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

/// What both ends of a link see.
#[derive(Debug)]
struct Shared {
    doorbell: Arc<Doorbell>,
    /// There is more for the shard than its queue holds.
    overflow: AtomicBool,
    eventfd: OwnedFd,
}

/// The shard's end of its link. It may be moved to the shard's thread.
#[derive(Debug)]
pub struct ShardEndpoint {
    core: CoreId,
    shared: Arc<Shared>,
    to_controller: Producer<ToController>,
    from_controller: Consumer<ToShard>,
    /// The last field, so it rings when the queues' ends are gone.
    _ring: RingWhenDropped,
}

#[derive(Debug)]
struct RingWhenDropped(Arc<Doorbell>);

impl Drop for RingWhenDropped {
    fn drop(&mut self) {
        self.0.ring();
    }
}

/// The controller's end of one shard's link.
#[derive(Debug)]
pub struct ShardLink {
    core: CoreId,
    shared: Arc<Shared>,
    from_shard: Consumer<ToController>,
    to_shard: Producer<ToShard>,
    /// What the queue has no room for. Only the answers to what the shard had
    /// already sent and the publications it may have unapplied come here.
    overflow: VecDeque<ToShard>,
    /// Whether anything was pushed since the shard was last woken.
    pushed: bool,
    /// Whether the shard's end is gone, and that was noticed.
    pub(super) lost: bool,
}

/// The queue to the controller is full; the message comes back.
#[derive(Debug)]
pub struct Full(pub ToController);

/// The links of cores 0 to `cores` - 1.
///
/// # Errors
/// If the process may not open more files.
pub fn links(cores: u16) -> io::Result<(Vec<ShardLink>, Vec<ShardEndpoint>)> {
    let doorbell = Arc::new(Doorbell::new()?);
    let mut both = (Vec::new(), Vec::new());
    for core in (0..cores).map(CoreId) {
        // Blocking, so that a ring's read waits instead of failing.
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC)?;
        let shared = Shared { doorbell: doorbell.clone(), overflow: false.into(), eventfd };
        let shared = Arc::new(shared);
        let (to_controller, from_shard) = RingBuffer::new(CONTROL_QUEUE_LEN);
        let (to_shard, from_controller) = RingBuffer::new(CONTROL_QUEUE_LEN);
        both.0.push(ShardLink {
            core,
            shared: shared.clone(),
            from_shard,
            to_shard,
            overflow: VecDeque::new(),
            pushed: false,
            lost: false,
        });
        let _ring = RingWhenDropped(doorbell.clone());
        both.1.push(ShardEndpoint { core, shared, to_controller, from_controller, _ring });
    }
    Ok(both)
}

impl ShardEndpoint {
    /// The core.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// Sends `message` and wakes the control thread.
    ///
    /// # Errors
    /// If the queue is full; try again with the next event.
    pub fn send(&mut self, message: ToController) -> Result<(), Full> {
        self.to_controller.push(message).map_err(|PushError::Full(message)| Full(message))?;
        self.shared.doorbell.ring();
        Ok(())
    }

    /// The next message. After a read of [`ShardEndpoint::eventfd`] ends, call
    /// this until it returns nothing.
    pub fn receive(&mut self) -> Option<ToShard> {
        let message = self.from_controller.pop().ok()?;
        // Either this sees that more waits, or the other side sees the room.
        fence(Ordering::SeqCst);
        if self.shared.overflow.load(Ordering::Relaxed) {
            self.shared.doorbell.ring();
        }
        Some(message)
    }

    /// Becomes readable (eight bytes) when there is something to receive.
    pub fn eventfd(&self) -> BorrowedFd<'_> {
        self.shared.eventfd.as_fd()
    }

    /// Whether the control thread is gone: nothing more will come.
    pub fn is_closed(&self) -> bool {
        self.to_controller.is_abandoned()
    }
}

impl ShardLink {
    /// The core.
    pub fn core(&self) -> CoreId {
        self.core
    }

    pub(super) fn doorbell(&self) -> Arc<Doorbell> {
        self.shared.doorbell.clone()
    }

    /// The shard's next message, unless the shard must first take what waits for it.
    pub(super) fn receive(&mut self) -> Option<ToController> {
        if self.overflow.is_empty() { self.from_shard.pop().ok() } else { None }
    }

    /// Whether the shard's end is gone and all it sent has been received.
    pub(super) fn is_lost(&self) -> bool {
        // In this order: what was sent before the end went is seen.
        self.from_shard.is_abandoned() && self.from_shard.is_empty()
    }

    /// Sends `message` as soon as there is room.
    pub(super) fn send(&mut self, message: ToShard) {
        if self.to_shard.is_abandoned() {
            return;
        }
        self.overflow.push_back(message);
        self.push();
    }

    fn push(&mut self) {
        while let Some(message) = self.overflow.pop_front() {
            if let Err(PushError::Full(message)) = self.to_shard.push(message) {
                self.overflow.push_front(message);
                // Whoever made room before it saw this did not ring: look again.
                self.shared.overflow.store(true, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                if self.to_shard.is_full() {
                    break;
                }
                continue;
            }
            self.pushed = true;
        }
        if self.overflow.is_empty() {
            self.shared.overflow.store(false, Ordering::Relaxed);
        }
    }

    /// Moves what waits into the queue and wakes the shard if there is anything new.
    ///
    /// # Errors
    /// If the eventfd cannot be written, which only a closed one causes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.to_shard.is_abandoned() {
            self.overflow.clear();
            return Ok(());
        }
        self.push();
        if std::mem::take(&mut self.pushed) {
            rustix::io::write(&self.shared.eventfd, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::MetadataOffset;

    fn applied(offset: u64) -> ToController {
        ToController::Applied { core: CoreId(0), offset: MetadataOffset(offset) }
    }

    fn readable(endpoint: &ShardEndpoint) -> u64 {
        let mut counter = [0; 8];
        let mut fds = [rustix::event::PollFd::new(&endpoint.shared.eventfd, IN)];
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut fds, Some(&none)).unwrap() == 0 {
            return 0;
        }
        rustix::io::read(&endpoint.shared.eventfd, &mut counter).unwrap();
        u64::from_ne_bytes(counter)
    }

    const IN: rustix::event::PollFlags = rustix::event::PollFlags::IN;

    #[test]
    fn what_does_not_fit_waits_in_order_and_holds_the_shard_back() {
        let (mut links, mut endpoints) = links(1).unwrap();
        let (link, endpoint) = (&mut links[0], &mut endpoints[0]);
        let answer = |id| ToShard::Answer {
            id,
            answer: crate::metadata::command::Answer::DeleteTopics(vec![]),
        };
        for id in 0..CONTROL_QUEUE_LEN as u64 + 3 {
            link.send(answer(id));
        }
        link.flush().unwrap();
        assert_eq!(readable(endpoint), 1, "one wake for all");
        endpoint.send(applied(1)).unwrap();
        assert!(link.receive().is_none(), "first it takes what waits");
        for expected in 0..CONTROL_QUEUE_LEN as u64 + 3 {
            let received = endpoint.receive();
            assert!(matches!(received, Some(ToShard::Answer { id, .. }) if id == expected));
            assert!(endpoint.shared.doorbell.rung.swap(false, Ordering::SeqCst) == (expected < 3));
            link.flush().unwrap();
        }
        assert_eq!(readable(endpoint), 3);
        assert!(endpoint.receive().is_none() && link.receive().is_some());
    }

    #[test]
    fn a_full_queue_gives_the_message_back_and_a_dropped_end_is_noticed() {
        let (mut links, mut endpoints) = links(1).unwrap();
        let mut endpoint = endpoints.remove(0);
        for offset in 0..CONTROL_QUEUE_LEN as u64 {
            endpoint.send(applied(offset)).unwrap();
        }
        assert!(matches!(endpoint.send(applied(9)), Err(Full(ToController::Applied { .. }))));
        drop(endpoint);
        assert!(!links[0].is_lost(), "what it sent comes first");
        while links[0].receive().is_some() {}
        assert!(links[0].is_lost());
        links[0].send(ToShard::Stop);
        links[0].flush().unwrap();

        let (links, endpoints) = self::links(1).unwrap();
        drop(links);
        assert!(endpoints[0].is_closed());
    }
}
