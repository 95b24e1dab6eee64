//! The real binary, spoken to by hand: bad input, signals, crashes, power loss.
//!
//! What takes minutes or needs root is ignored by default; its file says how to
//! run it.

// Tests outside of the process: they wait with a clock, in threads of their own.
#![allow(clippy::disallowed_methods)]

#[path = "../harness/mod.rs"]
#[allow(dead_code)] // Each test binary uses its part.
mod harness;

mod admin;
mod batches;
mod cli;
mod crash;
mod crowd;
mod groups;
mod hostile;
mod image;
mod load;
mod power;
mod retention;
mod space;
mod stop;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}
