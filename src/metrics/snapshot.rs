//! What one core counted, at one moment.

use super::Latency;
use super::table::Metric;
use crate::model::ids::CoreId;

/// A core's numbers.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Whose they are.
    pub core: CoreId,
    /// The numbers, in no particular order.
    pub samples: Vec<Sample>,
    /// Why the core is not well, a line each; empty if it is.
    pub unwell: Vec<String>,
    /// Logs that serve nothing until a restart.
    pub offline_logs: usize,
}

/// One number.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What it is.
    pub metric: &'static Metric,
    /// What it is of, as a label and its value, where a core has several.
    pub label: Option<(&'static str, &'static str)>,
    /// The number.
    pub value: Value,
}

/// A number, as it was counted.
#[derive(Clone, Debug)]
pub enum Value {
    /// A count, or an amount.
    Whole(u64),
    /// A time in nanoseconds, shown in seconds.
    Nanos(u64),
    /// A histogram of times.
    Latency(Box<Latency>),
}

impl Snapshot {
    /// An empty one.
    pub fn new(core: CoreId) -> Self {
        Self { core, samples: Vec::with_capacity(64), unwell: vec![], offline_logs: 0 }
    }

    /// Adds a count or an amount.
    pub fn whole(&mut self, metric: &'static Metric, value: u64) {
        self.samples.push(Sample { metric, label: None, value: Value::Whole(value) });
    }

    /// Adds one of several counts or amounts of the core.
    pub fn labelled(
        &mut self,
        metric: &'static Metric,
        label: (&'static str, &'static str),
        value: u64,
    ) {
        self.samples.push(Sample { metric, label: Some(label), value: Value::Whole(value) });
    }

    /// Adds a time, nanoseconds.
    pub fn nanos(&mut self, metric: &'static Metric, value: u64) {
        self.samples.push(Sample { metric, label: None, value: Value::Nanos(value) });
    }

    /// Adds a copy of a histogram.
    pub fn latency(
        &mut self,
        metric: &'static Metric,
        label: Option<(&'static str, &'static str)>,
        latency: &Latency,
    ) {
        let value = Value::Latency(Box::new(latency.clone()));
        self.samples.push(Sample { metric, label, value });
    }
}
