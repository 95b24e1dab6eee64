//! `corelane log dump`: what is in the files of a log directory, and whether it
//! is whole.
//!
//! Reads files only, of a stopped broker or a running one (whose newest batch may
//! then look torn). Every file that is not what it should be is said to be torn,
//! where an unfinished write explains it, or corrupt; the exit status is 1 then.
//! Nothing is changed.
//!
//! ```text
//!     segment     .log: batches, and their records
//!     indexes     .index, .timeindex, .txnindex, against their segment
//!     small       checkpoints, producer snapshots, properties, journals
//!     metadata    __cluster_metadata: snapshot and log
//! ```

mod indexes;
mod metadata;
mod report;
mod segment;
mod small;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use self::report::{Report, Stop};
use super::progress::Progress;
use super::{CliError, plural};
use crate::base::limits::SMALL_FILE_MAX;
use crate::log::{closed_logs, journal, recovery_points};

/// Directories below the one that is named: a log directory's partitions.
const DEPTH_MAX: usize = 2;

/// Subcommands of `log`.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Print what is in segments, indexes, checkpoints and snapshots, and whether it is whole.
    Dump(DumpArgs),
}

/// Arguments of `log dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// Files, directories of partitions, or a whole log directory.
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Open every batch and print its records.
    #[arg(long)]
    records: bool,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Runs a subcommand.
pub fn run(command: &LogCommand) -> Result<(), CliError> {
    let LogCommand::Dump(args) = command;
    let out = io::BufWriter::new(io::stdout().lock());
    let mut report = Report::new(out, args.json, args.records);
    let mut progress = Progress::start(!io::IsTerminal::is_terminal(&io::stdout()));
    for path in &args.paths {
        dump(path, 0, &mut report, &mut progress)?;
    }
    progress.end();
    report.out.flush()?;
    match report.bad_files {
        0 => Ok(()),
        bad => Err(CliError::Failed(format!(
            "{bad} of {} {} torn or corrupt",
            plural(report.files, "file"),
            if bad == 1 { "is" } else { "are" }
        ))),
    }
}

/// Prints a file, or all files of a directory in the order of their names.
fn dump<W: Write>(
    path: &Path,
    depth: usize,
    report: &mut Report<W>,
    progress: &mut Progress,
) -> Result<(), CliError> {
    let failed =
        |error: io::Error| CliError::Failed(format!("cannot read {}: {error}", path.display()));
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        progress.show(|| format!("{} files, {}", report.files, path.display()));
        return dump_file(path, report);
    }
    if depth > DEPTH_MAX {
        return Ok(());
    }
    let entries: io::Result<Vec<_>> = fs::read_dir(path).map_err(failed)?.collect();
    let mut paths: Vec<PathBuf> = entries.map_err(failed)?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    for inner in &paths {
        match dump(inner, depth + 1, report, progress) {
            // A running broker removes files while this reads.
            Err(CliError::Failed(_)) if depth > 0 && !inner.exists() => {}
            result => result?,
        }
    }
    Ok(())
}

fn dump_file<W: Write>(path: &Path, report: &mut Report<W>) -> Result<(), CliError> {
    report.begin(path);
    let end = match content(path, report) {
        Ok(()) | Err(Stop::Damaged) => Ok(()),
        Err(Stop::Unreadable(error)) => {
            Err(CliError::Failed(format!("cannot read {}: {error}", path.display())))
        }
        Err(Stop::Output(error)) => Err(error.into()),
    };
    report.end();
    end
}

/// Finds out by its name what a file is, and prints it.
fn content<W: Write>(path: &Path, report: &mut Report<W>) -> Result<(), Stop> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    let in_metadata = path.parent().is_some_and(|dir| dir.ends_with("__cluster_metadata"));
    match (name.as_str(), extension.as_str()) {
        ("snapshot", _) if in_metadata => metadata::snapshot(&whole(path, report)?, report),
        (log, _) if in_metadata && log.starts_with("log-") => {
            metadata::log(&whole(path, report)?, report)
        }
        ("leader-epoch-checkpoint", _) => small::leader_epochs(&whole(path, report)?, report),
        ("partition.metadata" | "meta.properties" | ".kafka_cleanshutdown", _) => {
            small::properties(&whole(path, report)?, report)
        }
        (points, _) if recovery_points::is_file_name(points) => {
            small::recovery_points(&whole(path, report)?, report)
        }
        (journal, _) if journal::parse_file_name(journal).is_some() => {
            small::journal(path, &whole(path, report)?, report)
        }
        (closed, _) if closed_logs::is_file_name(closed) => {
            small::closed_logs(&whole(path, report)?, report)
        }
        (_, "log") => segment::dump(path, report),
        (_, "index") => indexes::offsets(path, &whole(path, report)?, report),
        (_, "timeindex") => indexes::times(path, &whole(path, report)?, report),
        (_, "txnindex") => indexes::transactions(&whole(path, report)?, report),
        (_, "snapshot") => small::producers(&whole(path, report)?, report),
        (".lock", _) => report.note("held by a running broker".to_owned()),
        (_, "tmp") => report.note("an unfinished replacement, of no meaning".to_owned()),
        _ => report.note("not a file that is known here".to_owned()),
    }
}

/// A small file's bytes.
fn whole<W: Write>(path: &Path, report: &mut Report<W>) -> Result<Vec<u8>, Stop> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Stop::Unreadable)?;
    file.take(SMALL_FILE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(Stop::Unreadable)?;
    if bytes.len() > SMALL_FILE_MAX {
        return Err(report.corrupt(None, format!("longer than {SMALL_FILE_MAX} bytes"))?);
    }
    Ok(bytes)
}
