//! What happened, for the eyes and for comparison.
//!
//! Every executed event adds to a hash; two runs of one seed must end with the
//! same hash. The last events are kept in readable form when asked for, which
//! costs too much for every run: a failed seed is run again for it.

use std::cell::RefCell;
use std::collections::VecDeque;

/// Events kept for printing.
const KEPT: usize = 60;

#[derive(Default)]
struct Trace {
    hash: u64,
    events: u64,
    now: u64,
    readable: bool,
    last: VecDeque<String>,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Forgets everything. `readable` keeps texts.
pub fn reset(readable: bool) {
    TRACE.with_borrow_mut(|trace| {
        *trace = Trace { hash: 0xcbf2_9ce4_8422_2325, readable, ..Trace::default() };
    });
}

/// Whether texts are kept.
pub fn is_readable() -> bool {
    TRACE.with_borrow(|trace| trace.readable)
}

/// The virtual time of what follows, nanoseconds.
pub fn at(now: u64) {
    TRACE.with_borrow_mut(|trace| trace.now = now);
}

/// One event: what it is called and numbers that tell it from others. `text`
/// says more to people.
pub fn event(name: &'static str, numbers: &[u64], text: impl FnOnce() -> String) {
    TRACE.with_borrow_mut(|trace| {
        trace.events += 1;
        let bytes = name.bytes().map(u64::from);
        for word in bytes.chain([trace.now]).chain(numbers.iter().copied()) {
            trace.hash = (trace.hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        if trace.readable {
            if trace.last.len() == KEPT {
                trace.last.pop_front();
            }
            let (ms, ns) = (trace.now / 1_000_000, trace.now % 1_000_000);
            trace.last.push_back(format!("{ms:>7}.{ns:06} ms  {name:<10} {numbers:?} {}", text()));
        }
    });
}

/// The hash of all events so far.
pub fn hash() -> u64 {
    TRACE.with_borrow(|trace| trace.hash)
}

/// How many events there were.
pub fn events() -> u64 {
    TRACE.with_borrow(|trace| trace.events)
}

/// The last events, oldest first.
pub fn last() -> Vec<String> {
    TRACE.with_borrow(|trace| trace.last.iter().cloned().collect())
}
