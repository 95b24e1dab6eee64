//! Snapshots as text in Prometheus' exposition format, version 0.0.4.

use std::fmt::Write;

use super::snapshot::{Sample, Snapshot, Value};
use super::table::{ALL, Kind};

/// The media type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper ends of the buckets that are shown of a histogram, nanoseconds.
const BOUNDS: [u64; 18] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    30_000_000_000,
];

/// All numbers of `snapshots`, each with its core.
pub fn text(snapshots: &[Snapshot]) -> String {
    let mut out = String::new();
    for metric in ALL {
        let mut head = false;
        for snapshot in snapshots {
            let samples = snapshot.samples.iter().filter(|sample| sample.metric == *metric);
            for sample in samples {
                if !std::mem::replace(&mut head, true) {
                    head_of(&mut out, metric.name, metric.kind, metric.help);
                }
                write_sample(&mut out, snapshot.core.0, sample);
            }
        }
    }
    out
}

/// The lines before the numbers of `name`.
pub fn head_of(out: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    put(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

fn write_sample(out: &mut String, core: u16, sample: &Sample) {
    let name = sample.metric.name;
    let mut labels = format!("core=\"{core}\"");
    if let Some((label, value)) = sample.label {
        put(&mut labels, format_args!(",{label}=\"{value}\""));
    }
    match &sample.value {
        Value::Whole(value) => put(out, format_args!("{name}{{{labels}}} {value}\n")),
        Value::Nanos(nanos) => {
            put(out, format_args!("{name}{{{labels}}} {}\n", seconds(*nanos)));
        }
        Value::Latency(latency) => {
            for (bound, count) in BOUNDS.iter().zip(latency.up_to(&BOUNDS)) {
                let bound = seconds(*bound);
                put(out, format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {count}\n"));
            }
            let (count, sum) = (latency.count(), seconds(latency.sum_nanos()));
            put(out, format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n"));
            put(out, format_args!("{name}_sum{{{labels}}} {sum}\n"));
            put(out, format_args!("{name}_count{{{labels}}} {count}\n"));
        }
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes all");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Latency, table};
    use crate::model::ids::CoreId;

    #[test]
    fn snapshots_become_families_with_a_line_for_each_core() {
        let mut latency = Latency::default();
        latency.record(Duration::from_micros(200));
        latency.record(Duration::from_secs(2));
        let snapshots: Vec<Snapshot> = [0, 1]
            .into_iter()
            .map(|core| {
                let mut snapshot = Snapshot::new(CoreId(core));
                snapshot.nanos(&table::BUSY_SECONDS, 1_500_000_000);
                snapshot.labelled(&table::MEMORY_BYTES, ("kind", "logs"), 7);
                if core == 1 {
                    let label = Some(("api", "Fetch"));
                    snapshot.latency(&table::REQUEST_SECONDS, label, &latency);
                }
                snapshot
            })
            .collect();
        let text = text(&snapshots);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1] == "# TYPE corelane_request_duration_seconds histogram", "{text}");
        for line in [
            r#"corelane_request_duration_seconds_bucket{core="1",api="Fetch",le="0.0001"} 0"#,
            r#"corelane_request_duration_seconds_bucket{core="1",api="Fetch",le="0.00025"} 1"#,
            r#"corelane_request_duration_seconds_bucket{core="1",api="Fetch",le="5"} 2"#,
            r#"corelane_request_duration_seconds_bucket{core="1",api="Fetch",le="+Inf"} 2"#,
            r#"corelane_request_duration_seconds_sum{core="1",api="Fetch"} 2.0002"#,
            r#"corelane_request_duration_seconds_count{core="1",api="Fetch"} 2"#,
            r#"corelane_memory_bytes{core="0",kind="logs"} 7"#,
            r#"corelane_busy_seconds_total{core="0"} 1.5"#,
            r#"corelane_busy_seconds_total{core="1"} 1.5"#,
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{text}");
        }
        assert_eq!(lines.iter().filter(|line| line.starts_with("# TYPE")).count(), 3);
    }
}
