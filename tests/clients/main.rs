//! librdkafka, through the `rdkafka` crate, against the real binary.

// Tests outside of the process: they wait with a clock, in threads of their own.
#![allow(clippy::disallowed_methods)]

#[path = "../harness/mod.rs"]
#[allow(dead_code)] // Each test binary uses its part.
mod harness;

mod consumer_groups;
mod groups;
mod kafka;
mod offsets;
mod records;
mod topics;
