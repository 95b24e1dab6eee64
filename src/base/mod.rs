//! What everything stands on: time as a value, seeded randomness, limits,
//! aligned pages, bounded queues.
//!
//! Nothing here knows Kafka, and nothing here performs I/O or reads a clock.

pub mod deadlines;
pub mod limits;
pub mod pages;
pub mod rng;
pub mod rope;
pub mod slab;
pub mod time;
