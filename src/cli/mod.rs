//! The command line: one file per command.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage. Results go to standard output,
//! everything for people's eyes only to standard error.

#![expect(
    clippy::disallowed_methods,
    reason = "commands are ordinary programs with clocks and threads"
)]

mod bench;
pub mod client;
mod consume;
mod doctor;
mod dump;
mod group;
mod partitioner;
mod produce;
mod progress;
mod serve;
mod shown;
mod topic;

#[cfg(test)]
mod against_librdkafka;

use std::io;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use thiserror::Error;

use client::ClientError;

/// A Kafka-compatible broker, and the commands to try it.
#[derive(Debug, Parser)]
#[command(name = "corelane", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker.
    Serve(serve::ServeArgs),
    /// Create, list, describe and delete topics.
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// List, describe, reset and delete consumer groups.
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Write the lines of standard input to a topic, one record each.
    Produce(produce::ProduceArgs),
    /// Print the records of a topic, and follow it.
    Consume(consume::ConsumeArgs),
    /// Say whether this machine runs a broker well, and what to do if it does not.
    Doctor(doctor::DoctorArgs),
    /// Measure a broker's throughput and latency.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Look into the files of a log directory.
    #[command(subcommand)]
    Log(dump::LogCommand),
}

/// Where a client command connects to.
#[derive(Clone, Debug, Args)]
struct Connect {
    /// Brokers to ask first, separated by commas.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092", value_parser = brokers)]
    bootstrap: String,
}

/// Why a command did not do what it was asked.
#[derive(Debug, Error)]
enum CliError {
    /// It was asked for something that makes no sense: exit status 2.
    #[error("{0}")]
    Usage(String),
    /// It failed: exit status 1.
    #[error("{0}")]
    Failed(String),
    /// Whoever reads standard output has enough: a quiet end.
    #[error("standard output is closed")]
    OutputClosed,
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// For what is written to standard output.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::Failed(format!("cannot write to standard output: {error}"))
        }
    }
}

/// Runs the command of this process's arguments.
pub fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Topic(command) => topic::run(&command),
        Command::Group(command) => group::run(&command),
        Command::Produce(args) => produce::run(&args),
        Command::Consume(args) => consume::run(&args),
        Command::Bench(command) => bench::run(&command),
        Command::Log(command) => dump::run(&command),
        Command::Doctor(args) => doctor::run(&args),
    };
    match result {
        Ok(()) | Err(CliError::OutputClosed) => ExitCode::SUCCESS,
        Err(CliError::Usage(message)) => fail(&message, 2),
        Err(CliError::Failed(message)) => fail(&message, 1),
    }
}

fn fail(message: &str, status: u8) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(status)
}

/// Addresses of brokers, as an option names them.
fn brokers(text: &str) -> Result<String, String> {
    let good = |address: &str| {
        let parts = address.trim().rsplit_once(':');
        parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if text.split(',').all(good) {
        Ok(text.to_owned())
    } else {
        Err("must be HOST:PORT, or several with commas between them".to_owned())
    }
}

/// A name and a value, as an option sets them.
fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be name=value")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// A count of things: `singular` for one, its regular plural for any other.
fn plural(count: usize, singular: &str) -> String {
    match singular {
        _ if count == 1 => format!("1 {singular}"),
        _ if singular.ends_with("ch") => format!("{count} {singular}es"),
        _ => match singular.strip_suffix('y') {
            Some(stem) => format!("{count} {stem}ies"),
            None => format!("{count} {singular}s"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_parses_and_what_is_wrong_usage() {
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        for good in [
            "corelane serve",
            "corelane serve --config f --set a=b --set c=d",
            "corelane topic create t --partitions 3 --replication-factor 1 --config a=b",
            "corelane topic list --bootstrap h:1,i:2 --json",
            "corelane topic describe",
            "corelane topic describe t",
            "corelane topic delete t",
            "corelane produce t --acks all --compression zstd --key-separator : --partition 2",
            "corelane consume t --from-beginning --max 10 --json",
            "corelane produce t --rate 100 --header a=b --header c=",
            "corelane consume t --partition 0 --offset 17",
            "corelane consume t --bootstrap [::1]:9092",
            "corelane consume t --group g --from-beginning --max 3",
            "corelane group list --json",
            "corelane group describe",
            "corelane group describe a b --json",
            "corelane group reset-offsets g --topic t:0,1 --topic u --to-earliest",
            "corelane group reset-offsets g --all-topics --shift-by -5 --execute",
            "corelane group reset-offsets g --topic t --to-time 2026-01-31T12:00",
            "corelane group delete a b",
            "corelane log dump a b --records --json",
            "corelane doctor",
            "corelane doctor --json --config f --set a=b",
        ] {
            assert!(parses(good), "{good}");
        }
        for bad in [
            "corelane",
            "corelane topic",
            "corelane topic create",
            "corelane topic create t --partitions 0",
            "corelane topic create t --config a",
            "corelane produce",
            "corelane produce t --acks 2",
            "corelane produce t --compression brotli",
            "corelane produce t --rate 0",
            "corelane produce t --header a",
            "corelane log dump",
            "corelane topic list --bootstrap localhost",
            "corelane topic list --bootstrap a:1,b:99999",
            "corelane consume t --offset 5 --from-beginning",
            "corelane consume t --offset -1",
            "corelane consume t --max 0",
            "corelane consume t --group g --partition 0",
            "corelane consume t --group g --offset 0",
            "corelane group",
            "corelane group delete",
            "corelane group reset-offsets g --to-earliest",
            "corelane group reset-offsets g --topic t",
            "corelane group reset-offsets g --topic t --all-topics --to-latest",
            "corelane group reset-offsets g --topic t --to-latest --to-offset 5",
            "corelane group reset-offsets g --topic t --to-offset -5",
            "corelane group reset-offsets g --topic t:x --to-latest",
            "corelane group reset-offsets g --topic t --to-time yesterday",
        ] {
            assert!(!parses(bad), "{bad}");
        }
    }
}
