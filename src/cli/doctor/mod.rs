//! `corelane doctor`: whether this machine runs a broker well, and what to do if
//! it does not.
//!
//! Takes the settings of `serve`, so that it looks at the log directory and the
//! memory that the broker would have. Each finding is `ok`, `warn` (it runs, less
//! well) or `fail` (it does not start, or a promise does not hold); exit status 1
//! if anything fails. In the log directory a file is made, written, synced and
//! removed; nothing else is changed, and a broker may be running.
//!
//! ```text
//!     machine     kernel, limits, clock, CPU, memory
//!     disk        file system, device, direct I/O, the time of a sync
//! ```

mod disk;
mod machine;

use std::io::{self, Write};

use clap::Args;
use serde_json::{Value, json};

use super::serve::{self, ServeArgs};
use super::{CliError, plural};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    Warn,
    Fail,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    level: Level,
    /// What it is about.
    name: &'static str,
    /// What it is.
    found: String,
    /// What to do; empty if nothing.
    advice: String,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, name, found: found.into(), advice: String::new() }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warn, name, found: found.into(), advice: advice.into() }
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Fail, name, found: found.into(), advice: advice.into() }
    }
}

/// Looks at everything and prints what was found.
pub fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let (settings, warnings) = serve::load(&args.serve)?;
    let mut findings: Vec<Finding> =
        warnings.into_iter().map(|warning| Finding::warn("settings", warning, "")).collect();
    findings.extend(machine::look(&settings));
    findings.extend(disk::look(&settings));
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", to_json(&findings))?;
    } else {
        write!(out, "{}", to_text(&findings))?;
    }
    out.flush()?;
    match findings.iter().filter(|finding| finding.level == Level::Fail).count() {
        0 => Ok(()),
        bad => Err(CliError::Failed(format!("{} in the way of a broker", plural(bad, "thing")))),
    }
}

fn to_json(findings: &[Finding]) -> Value {
    let checks: Vec<Value> = findings
        .iter()
        .map(|finding| {
            json!({
                "name": finding.name,
                "level": finding.level.word(),
                "found": finding.found,
                "advice": (!finding.advice.is_empty()).then_some(&finding.advice),
            })
        })
        .collect();
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    json!({ "status": worst.word(), "checks": checks })
}

fn to_text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (word, name) = (finding.level.word(), finding.name);
        text.push_str(&format!("{word:<5} {name:<width$}  {}\n", finding.found));
        if !finding.advice.is_empty() {
            text.push_str(&format!("{:<5} {:<width$}  -> {}\n", "", "", finding.advice));
        }
    }
    text
}

/// Bytes for people.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut amount = count as f64;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let whole = amount.fract() < 0.05;
    if whole {
        format!("{amount:.0} {}", UNITS[unit])
    } else {
        format!("{amount:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_as_text_and_json() {
        let findings = [
            Finding::ok("kernel", "6.18"),
            Finding::warn("governor", "powersave", "set it"),
            Finding::fail("io_uring", "it is off", ""),
        ];
        let text = to_text(&findings);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "ok    kernel    6.18",
                "warn  governor  powersave",
                "                -> set it",
                "fail  io_uring  it is off",
            ]
        );
        let json = to_json(&findings);
        assert_eq!((&json["status"], &json["checks"][0]["level"]), (&json!("fail"), &json!("ok")));
        assert_eq!(json["checks"][2]["advice"], Value::Null);
        assert_eq!(to_json(&findings[..2])["status"], "warn");
    }

    #[test]
    fn bytes_for_people() {
        for (count, text) in [
            (0, "0 bytes"),
            (1 << 10, "1 KiB"),
            (1536, "1.5 KiB"),
            (8 << 30, "8 GiB"),
            (3 << 50, "3072 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
