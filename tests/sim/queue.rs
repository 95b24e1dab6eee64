//! What will happen, by virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use corelane::base::slab::Slab;
use corelane::mesh::Mail;
use corelane::metadata::link::{ToController, ToShard};

use crate::network::NetStep;

/// One microsecond of virtual time.
pub const US: u64 = 1_000;
/// One millisecond.
pub const MS: u64 = 1_000_000;
/// One second.
pub const SEC: u64 = 1_000_000_000;

/// Something that will happen. `life` names the run of the broker it belongs
/// to: what a dead one left behind is dropped.
#[derive(Debug)]
pub enum What {
    /// A core's turn, if it is still the one that was planned last.
    Turn {
        life: u64,
        core: usize,
        plan: u64,
    },
    /// A step of the controller, planned likewise.
    Control {
        life: u64,
        plan: u64,
    },
    Mail {
        life: u64,
        from: usize,
        to: usize,
        mail: Mail,
    },
    ToShard {
        life: u64,
        core: usize,
        message: ToShard,
    },
    ToController {
        life: u64,
        message: ToController,
    },
    DiskEffect(u64),
    DiskDone(u64),
    Net(NetStep),
    /// A client wanted to be woken.
    Client {
        client: usize,
        plan: u64,
    },
    /// The run's script wanted to be woken.
    Mark,
}

/// All that will happen.
#[derive(Default)]
pub struct Queue {
    /// Time, order of planning, and where in `plans` it is.
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    plans: Slab<What>,
    sequence: u64,
    now: u64,
}

impl Queue {
    /// The virtual time, nanoseconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Plans `what` in `delay` nanoseconds.
    pub fn after(&mut self, delay: u64, what: What) {
        self.at(self.now + delay, what);
    }

    /// Plans `what` for a moment, or now if that is past.
    pub fn at(&mut self, at: u64, what: What) {
        self.sequence += 1;
        let at = at.max(self.now);
        let key = self.plans.insert(what);
        self.heap.push(Reverse((at, self.sequence, key)));
    }

    /// The next thing that happens.
    pub fn pop(&mut self) -> Option<What> {
        let Reverse((at, _, key)) = self.heap.pop()?;
        self.now = at;
        self.plans.remove(key)
    }
}
