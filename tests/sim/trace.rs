//! What happened, for the eyes and for comparison.
//!
//! Every executed event adds to a hash; two runs of one seed must end with the
//! same hash. The last events are kept in readable form when asked for, which
//! costs too much for every run: a failed seed is run again for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;

#[derive(Default)]
struct Trace {
    hash: u64,
    events: u64,
    now: u64,
    /// How many events are kept in readable form.
    kept: usize,
    last: VecDeque<String>,
    /// What the broker has logged as errors and nobody has looked at.
    errors: Vec<String>,
}

impl Trace {
    fn keep(&mut self, name: &str, numbers: &[u64], text: &str) {
        if self.last.len() == self.kept {
            self.last.pop_front();
        }
        let (ms, ns) = (self.now / 1_000_000, self.now % 1_000_000);
        self.last.push_back(format!("{ms:>7}.{ns:06} ms  {name:<10} {numbers:?} {text}"));
    }
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Forgets everything, and keeps the last `kept` events in readable form.
pub fn reset(kept: usize) {
    TRACE.with_borrow_mut(|trace| {
        *trace = Trace { hash: 0xcbf2_9ce4_8422_2325, kept, ..Trace::default() };
    });
}

/// Whether texts are kept.
pub fn is_readable() -> bool {
    TRACE.with_borrow(|trace| trace.kept > 0)
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
        if trace.kept > 0 {
            trace.keep(name, numbers, &text());
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

/// What the broker has logged as errors since the last call.
pub fn take_errors() -> Vec<String> {
    TRACE.with_borrow_mut(|trace| std::mem::take(&mut trace.errors))
}

/// Listens to errors that the broker logs, and to nothing else.
pub struct Errors;

impl tracing::Subscriber for Errors {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        // As the readable trace has it, so that a second run says the same.
        let error = text.0.trim_end().to_owned();
        TRACE.with_borrow_mut(|trace| trace.errors.push(error));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{value:?} ").expect("strings take all writes");
    }
}

/// What the broker logs becomes part of the readable trace.
#[derive(Clone, Copy)]
pub struct Logs;

impl std::io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        TRACE.with_borrow_mut(|trace| {
            if let Some(error) = text.trim_start().strip_prefix("ERROR ") {
                trace.errors.push(error.trim_end().to_owned());
            }
            trace.keep("log", &[], text.trim_end());
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
