//! A line that says how far long work has come, for a person at a terminal.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// How often the line changes.
const EVERY: Duration = Duration::from_secs(1);

/// The line on standard error; nothing if nobody watches.
pub struct Progress {
    enabled: bool,
    shown: bool,
    next: Instant,
}

impl Progress {
    /// Shown if standard error is a terminal and `wanted`: not where it would
    /// run into what a person types or reads.
    pub fn start(wanted: bool) -> Self {
        let enabled = wanted && io::stderr().is_terminal();
        Self { enabled, shown: false, next: Instant::now() + EVERY }
    }

    /// Says `text`, if it is time to.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if self.enabled && Instant::now() >= self.next {
            eprint!("\r\x1b[K{}", text());
            self.shown = true;
            self.next = Instant::now() + EVERY;
        }
    }

    /// Takes the line away.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
