//! What a run prints: lines for people, JSON for programs, files for plots.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::plot;
use super::tally::Tally;
use crate::cli::CliError;

const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// Steps of the percentile axis in each halving of what is left.
const TICKS_PER_HALF: u32 = 5;

/// Where results go beside standard output.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Write the latencies as an HdrHistogram percentile file.
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Write a plot of the latencies, by percentile and over time.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    /// What was done, in words.
    pub work: String,
    /// The same for programs.
    pub parameters: Value,
    /// Named results: what was counted, and what its latencies are.
    pub sides: Vec<(&'static str, Tally)>,
}

/// Nanoseconds as milliseconds.
pub fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

impl Report {
    /// Prints the result, and writes the files that are asked for.
    pub fn print(&self, args: &ReportArgs) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        if args.json {
            writeln!(out, "{}", self.json())?;
        } else {
            write!(out, "{}", self.text())?;
        }
        if let Some(path) = &args.hgrm {
            let (_, tally) = self.sides.last().expect("a run has a side");
            write_file(path, &percentiles(&tally.latency))?;
        }
        if let Some(path) = &args.svg {
            write_file(path, &plot::svg(&self.work, &self.sides))?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.work);
        for (name, tally) in &self.sides {
            let seconds = tally.elapsed();
            let _ = writeln!(
                text,
                "  {name:<12} {:>12.0} records/s {:>9.1} MB/s   {} records in {seconds:.1} s",
                tally.records as f64 / seconds,
                tally.bytes as f64 / seconds / 1e6,
                tally.records,
            );
            if tally.latency.is_empty() {
                continue;
            }
            let _ = write!(text, "  {:<12}", "latency ms");
            for (name, quantile) in QUANTILES {
                let value = milliseconds(tally.latency.value_at_quantile(quantile));
                let _ = write!(text, " {name} {value:.3} ");
            }
            let _ = writeln!(text, " max {:.3}", milliseconds(tally.latency.max()));
        }
        text
    }

    fn json(&self) -> Value {
        let sides = self.sides.iter().map(|(name, tally)| {
            let quantiles = QUANTILES.iter().map(|(name, quantile)| {
                let value = milliseconds(tally.latency.value_at_quantile(*quantile));
                ((*name).to_owned(), json!(value))
            });
            let mut latency: serde_json::Map<String, Value> = quantiles.collect();
            latency.insert("max".to_owned(), json!(milliseconds(tally.latency.max())));
            latency.insert("mean".to_owned(), json!(tally.latency.mean() / 1e6));
            let seconds = tally.seconds.iter().map(|second| {
                json!({
                    "records": second.records,
                    "bytes": second.bytes,
                    "p50_ms": milliseconds(second.p50),
                    "p99_ms": milliseconds(second.p99),
                    "max_ms": milliseconds(second.max),
                })
            });
            let side = json!({
                "records": tally.records,
                "bytes": tally.bytes,
                "seconds": tally.elapsed(),
                "records_per_second": tally.records as f64 / tally.elapsed(),
                "megabytes_per_second": tally.bytes as f64 / tally.elapsed() / 1e6,
                "latency_ms": if tally.latency.is_empty() { Value::Null } else { latency.into() },
                "by_second": seconds.collect::<Vec<_>>(),
            });
            ((*name).to_owned(), side)
        });
        let mut all: serde_json::Map<String, Value> = sides.collect();
        all.insert("parameters".to_owned(), self.parameters.clone());
        all.into()
    }
}

fn write_file(path: &Path, text: &str) -> Result<(), CliError> {
    fs::write(path, text)
        .map_err(|error| CliError::Failed(format!("cannot write {}: {error}", path.display())))
}

/// The table that HdrHistogram's plotters read; values are milliseconds.
fn percentiles(latency: &Histogram<u64>) -> String {
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut count = 0;
    for step in latency.iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = milliseconds(step.value_iterated_to());
        let _ = write!(text, "{value:12.3} {quantile:14.12} {count:10}");
        let _ = match quantile < 1.0 {
            true => writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(text),
        };
    }
    let _ = write!(
        text,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n\
         #[Max     = {:12.3}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {:12}]\n",
        latency.mean() / 1e6,
        latency.stdev() / 1e6,
        milliseconds(latency.max()),
        latency.len(),
        latency.buckets(),
        2048,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::super::producers::Due;
    use super::*;

    fn report() -> Report {
        let mut tally = Tally::new(0, 2_000_000_000);
        for n in 1..=1000 {
            tally.count(n * 1_000_000, 1, 100);
            tally.latencies(n * 1_000_000, Due { first: 0, interval: 0.0 }, 1);
        }
        tally.close();
        Report { work: "work".to_owned(), parameters: json!({"a": 1}), sides: vec![("ack", tally)] }
    }

    #[test]
    fn a_report_says_rates_and_quantiles() {
        let text = report().text();
        assert!(text.contains("500 records/s"), "{text}");
        assert!(text.contains("p50 500") && text.contains("max 1000"), "{text}");
        let json = report().json();
        assert_eq!(json["ack"]["records"], 1000);
        assert!((989.0..992.0).contains(&json["ack"]["latency_ms"]["p99"].as_f64().expect("set")));
        assert_eq!(json["parameters"]["a"], 1);
    }

    #[test]
    fn the_percentile_file_counts_everything() {
        let report = report();
        let text = percentiles(&report.sides[0].1.latency);
        let rows: Vec<_> = text.lines().skip(2).take_while(|line| !line.starts_with('#')).collect();
        let last: Vec<_> = rows.last().expect("rows").split_whitespace().collect();
        assert_eq!(&last[1..], ["1.000000000000", "1000"]);
        let plot = plot::svg("a < b", &report.sides);
        assert!(
            plot.starts_with("<svg") && plot.ends_with("</svg>\n") && plot.contains("a &lt; b")
        );
    }
}
