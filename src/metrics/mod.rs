//! Numbers about the cores of one broker, and their form for Prometheus.
//!
//! Counting is plain: each core adds to numbers that it alone owns. A
//! [`Snapshot`] is a copy of them that its core makes between two turns when it
//! is asked; it is sent away and written out elsewhere ([`prometheus`]). Every
//! number is a row of [`table`]. Nothing here reads a clock.

pub mod latency;
pub mod prometheus;
mod snapshot;
pub mod table;

pub use latency::Latency;
pub use snapshot::{Sample, Snapshot, Value};
pub use table::Metric;
