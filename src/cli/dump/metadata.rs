//! The cluster's metadata: the snapshot, and the log of entries behind it.

use std::io::Write;

use serde_json::{Value, json};

use super::report::{Report, Stop};
use crate::metadata::record::decode_batch;
use crate::raft::frame::{Frame, scan};
use crate::raft::snapshot::Snapshot;

/// `__cluster_metadata/snapshot`.
pub(super) fn snapshot<W: Write>(bytes: &[u8], report: &mut Report<W>) -> Result<(), Stop> {
    let found = match Snapshot::decode(bytes) {
        Ok(found) => found,
        Err(error) => return Err(report.corrupt(None, error.to_string())?),
    };
    report.row(
        "snapshot",
        || {
            json!({
                "index": found.index, "term": found.term, "offset": found.offset,
                "cluster_id": found.cluster_id, "voters": found.voters,
                "vote": found.ballot.vote, "commit": found.ballot.commit,
            })
        },
        || {
            format!(
                "all up to entry {} of term {}, cluster {}, voters {:?}",
                found.index, found.term, found.cluster_id, found.voters
            )
        },
    )?;
    records(&found.records, found.index, report)
}

/// `__cluster_metadata/log-N`.
pub(super) fn log<W: Write>(bytes: &[u8], report: &mut Report<W>) -> Result<(), Stop> {
    let found = match scan(bytes) {
        Ok(found) => found,
        Err(corrupt) => return Err(report.corrupt(Some(corrupt.position), corrupt.to_string())?),
    };
    for frame in &found.frames {
        match frame {
            Frame::Ballot(ballot) => report.row(
                "ballot",
                || json!({ "term": ballot.term, "vote": ballot.vote, "commit": ballot.commit }),
                || {
                    format!(
                        "ballot: term {}, vote for {}, committed up to {}",
                        ballot.term, ballot.vote, ballot.commit
                    )
                },
            )?,
            Frame::Entry(entry) => {
                report.row(
                    "entry",
                    || json!({ "index": entry.index, "term": entry.term, "bytes": entry.data.len() }),
                    || {
                        let (index, term) = (entry.index, entry.term);
                        format!("entry {index} of term {term}, {} bytes", entry.data.len())
                    },
                )?;
                // A new leader begins with an entry that says nothing.
                if !entry.data.is_empty() {
                    records(&entry.data, entry.index, report)?;
                }
            }
        }
    }
    let (end, writes, len) = (found.end, found.write, bytes.len());
    report.row(
        "log",
        || json!({ "writes": writes, "frame_bytes": end, "file_bytes": len }),
        || format!("{writes} writes, {end} bytes of {len}"),
    )?;
    if found.torn {
        let what = "a write that was never synced; the next start cuts it".to_owned();
        return Err(report.torn(Some(end), what)?);
    }
    Ok(())
}

/// The records of a batch, as the developers' form of each.
fn records<W: Write>(bytes: &[u8], index: u64, report: &mut Report<W>) -> Result<(), Stop> {
    let found = match decode_batch(bytes) {
        Ok(found) => found,
        Err(error) => return Err(report.corrupt(None, format!("entry {index}: {error}"))?),
    };
    for record in &found {
        let text = format!("{record:?}");
        report.row(
            "metadata",
            || json!({ "index": index, "record": Value::from(text.as_str()) }),
            || format!("  {text}"),
        )?;
    }
    Ok(())
}
