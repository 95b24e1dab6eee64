//! `corelane serve`: runs the broker.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::CliError;
use crate::config::{Assignment, Machine, Settings, properties};
use crate::node;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A file of settings in the form of Kafka's server.properties.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over what the file says; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Runs the broker until it is told to stop.
pub fn run(args: &ServeArgs) -> Result<(), CliError> {
    let (settings, warnings) = load(args)?;
    let filter = EnvFilter::try_from_env("CORELANE_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    start(settings)
}

/// Hands over to the node.
fn start(settings: Settings) -> Result<(), CliError> {
    node::run(settings).map_err(|error| {
        if error.is_usage() {
            CliError::Usage(error.to_string())
        } else {
            CliError::Failed(error.to_string())
        }
    })
}

/// The settings of the file and of the command line, with warnings.
pub(super) fn load(args: &ServeArgs) -> Result<(Settings, Vec<String>), CliError> {
    let usage = |error: crate::config::ConfigError| CliError::Usage(error.to_string());
    let mut assignments = Vec::new();
    if let Some(path) = &args.config {
        let name = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|error| CliError::Usage(format!("cannot read {name}: {error}")))?;
        assignments = properties::parse(&name, &text).map_err(usage)?;
    }
    for set in &args.set {
        assignments.push(Assignment::parse(set).map_err(usage)?);
    }
    Settings::resolve(&assignments, &machine()?).map_err(usage)
}

/// What this machine, or the container around this process, has.
fn machine() -> Result<Machine, CliError> {
    let cores = std::thread::available_parallelism()
        .map_err(|error| CliError::Failed(format!("cannot tell the number of cores: {error}")))?;
    let meminfo = fs::read_to_string("/proc/meminfo")
        .map_err(|error| CliError::Failed(format!("cannot read /proc/meminfo: {error}")))?;
    let total = total_memory(&meminfo)
        .ok_or_else(|| CliError::Failed("/proc/meminfo has no MemTotal".to_owned()))?;
    // Not there outside of a container, and "max" in one without a limit.
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u64::MAX);
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").map_err(|error| {
        CliError::Failed(format!("cannot read /proc/sys/kernel/hostname: {error}"))
    })?;
    Ok(Machine {
        cores: cores.get(),
        memory_bytes: total.min(limit),
        hostname: hostname.trim().to_owned(),
    })
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_command_line_goes_over_the_file() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        writeln!(file, "num.partitions=3\nnode.id=4").expect("written");
        let args = ServeArgs {
            config: Some(file.path().to_owned()),
            set: vec!["num.partitions=6".to_owned()],
        };
        let (settings, warnings) = load(&args).expect("good settings");
        assert_eq!((settings.num_partitions, settings.node_id.0), (6, 4));
        assert!(warnings.is_empty() && settings.memory > 0 && settings.cores > 0);
    }

    #[test]
    fn wrong_settings_are_wrong_usage() {
        let load = |config: Option<&str>, set: &str| {
            let args = ServeArgs { config: config.map(PathBuf::from), set: vec![set.to_owned()] };
            match load(&args) {
                Err(CliError::Usage(message)) => message,
                other => panic!("not a usage error: {other:?}"),
            }
        };
        assert!(
            load(Some("/nowhere/server.properties"), "a=b").starts_with("cannot read /nowhere")
        );
        assert_eq!(load(None, "num.partitions"), "--set num.partitions: must be key=value");
        assert!(load(None, "num.partitions=x").contains("must be a whole number"));
    }

    #[test]
    fn memory_as_the_kernel_tells_it() {
        assert_eq!(total_memory("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }
}
