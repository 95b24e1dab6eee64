//! corelane: a Kafka-wire-compatible broker for bare-metal Linux.
//!
//! The core of the broker is a value: `shard.step(now, event, &mut effects)`.
//! Folders import only from folders above them in this list; what lies below
//! the shard performs its effects on the real kernel, and the simulator performs
//! the same effects on a seeded fake one.

#![warn(clippy::allow_attributes_without_reason, clippy::disallowed_methods, clippy::unwrap_used)]

pub mod base;

pub mod model;

pub mod config;

pub mod effect;

pub mod metrics;

pub mod wire;

pub mod log;

pub mod metadata;

pub mod replica;

pub mod raft;

pub mod rsm;

pub mod controller;

pub mod group;

pub mod mesh;

pub mod api;

pub mod connection;

pub mod shard;

pub mod runtime;

pub mod control;

pub mod node;

pub mod cli;

pub mod docs;
