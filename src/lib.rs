//! corelane: a Kafka-wire-compatible broker for bare-metal Linux.
//!
//! The core of the broker is a value: `shard.step(now, event, &mut effects)`.
//! Folders import only from folders above them in this list; what lies below
//! the shard performs its effects on the real kernel, and the simulator performs
//! the same effects on a seeded fake one.

pub mod base;

pub mod model;

pub mod effect;

pub mod metadata;

pub mod raft;

pub mod controller;

pub mod mesh;

pub mod shard;

pub mod control;
