//! librdkafka, through the `rdkafka` crate, against the real binary.

#[path = "../harness/mod.rs"]
#[allow(dead_code)] // Each test binary uses its part.
mod harness;

mod kafka;
mod offsets;
mod records;
mod topics;
