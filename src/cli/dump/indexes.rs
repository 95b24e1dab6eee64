//! Indexes of a segment, in Kafka's formats.
//!
//! `.index` (`OffsetIndex.java`): relative offset u32, position u32. An entry
//! names the last offset of a batch and where that batch starts; each is looked
//! up in the segment beside it. `.timeindex` (`TimeIndex.java`): timestamp i64,
//! relative offset u32: no record up to the offset is later. `.txnindex`
//! (`AbortedTxn.java`): version i16, producer id, first and last offset, last
//! stable offset, i64 each. A tail of zeros is preallocated space.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::json;

use super::report::{Report, Stop};
use super::segment::base_offset;
use crate::cli::plural;
use crate::cli::shown::utc;
use crate::model::batch::{BatchHeader, HEADER_LEN, MAGIC};

/// Entries of `len` bytes before the zeros at the end.
fn entries<'a, W: Write>(
    bytes: &'a [u8],
    len: usize,
    report: &mut Report<W>,
) -> Result<Vec<&'a [u8]>, Stop> {
    if !bytes.len().is_multiple_of(len) {
        let what = format!("{} bytes are no multiple of {len}", bytes.len());
        return Err(report.corrupt(None, what)?);
    }
    let all: Vec<&[u8]> = bytes.chunks_exact(len).collect();
    // The first entry may be all zeros: offset 0 at byte 0.
    let last = all.iter().rposition(|entry| entry.iter().any(|byte| *byte != 0));
    Ok(all[..last.map_or(0, |last| last + 1)].to_vec())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |chunk| u32::from_be_bytes(*chunk))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    bytes[at..].first_chunk().map_or(0, |chunk| i64::from_be_bytes(*chunk))
}

/// Prints an `.index`, and checks it against the segment.
pub(super) fn offsets<W: Write>(
    path: &Path,
    bytes: &[u8],
    report: &mut Report<W>,
) -> Result<(), Stop> {
    let base = base_offset(path).unwrap_or(0);
    let segment = File::open(path.with_extension("log")).ok();
    let mut before: Option<(i64, u32)> = None;
    let entries = entries(bytes, 8, report)?;
    for (at, entry) in (0_u64..).zip(&entries) {
        let offset = base.saturating_add(i64::from(u32_at(entry, 0)));
        let position = u32_at(entry, 4);
        report.row(
            "entry",
            || json!({ "offset": offset, "position": position }),
            || format!("offset {offset} ends the batch at byte {position}"),
        )?;
        if before.is_some_and(|(last, from)| last >= offset || from >= position) {
            report.corrupt(Some(at * 8), "entries do not increase".to_owned())?;
        }
        before = Some((offset, position));
        if let Some(segment) = &segment
            && let Some(what) = mismatch(segment, offset, position)?
        {
            report.corrupt(Some(at * 8), what)?;
        }
    }
    if segment.is_none() {
        report.note("there is no segment beside it".to_owned())?;
    }
    count(entries.len(), report)
}

/// What is wrong with an entry, if anything.
fn mismatch(segment: &File, offset: i64, position: u32) -> Result<Option<String>, Stop> {
    let mut bytes = [0; HEADER_LEN];
    let read = segment.read_at(&mut bytes, position.into()).map_err(Stop::Unreadable)?;
    let header = BatchHeader::decode(&bytes[..read]).filter(|header| header.magic == MAGIC);
    let Some(header) = header else {
        return Ok(Some(format!("no batch starts at byte {position} of the segment")));
    };
    let last = header.next_offset() - 1;
    Ok((last != offset).then(|| {
        format!("the batch at byte {position} of the segment ends with offset {last}, not {offset}")
    }))
}

/// Prints a `.timeindex`.
pub(super) fn times<W: Write>(
    path: &Path,
    bytes: &[u8],
    report: &mut Report<W>,
) -> Result<(), Stop> {
    let base = base_offset(path).unwrap_or(0);
    let mut before: Option<(i64, i64)> = None;
    let entries = entries(bytes, 12, report)?;
    for (at, entry) in (0_u64..).zip(&entries) {
        let timestamp = i64_at(entry, 0);
        let offset = base.saturating_add(i64::from(u32_at(entry, 8)));
        report.row(
            "entry",
            || json!({ "timestamp": timestamp, "offset": offset }),
            || format!("{} is the latest up to offset {offset}", utc(timestamp)),
        )?;
        if before.is_some_and(|(time, last)| time > timestamp || last >= offset) {
            report.corrupt(Some(at * 12), "entries do not increase".to_owned())?;
        }
        before = Some((timestamp, offset));
    }
    count(entries.len(), report)
}

/// Prints a `.txnindex`.
pub(super) fn transactions<W: Write>(bytes: &[u8], report: &mut Report<W>) -> Result<(), Stop> {
    const LEN: usize = 34;
    let entries = entries(bytes, LEN, report)?;
    for (at, entry) in (0_u64..).zip(&entries) {
        let (id, first) = (i64_at(entry, 2), i64_at(entry, 10));
        let (last, stable) = (i64_at(entry, 18), i64_at(entry, 26));
        report.row(
            "aborted",
            || {
                json!({
                    "producer_id": id, "first_offset": first, "last_offset": last,
                    "last_stable_offset": stable,
                })
            },
            || format!("producer {id} aborted offsets {first} to {last}, stable before {stable}"),
        )?;
        if entry[..2] != [0, 0] || last < first {
            report.corrupt(Some(at * LEN as u64), "this is no aborted transaction".to_owned())?;
        }
    }
    count(entries.len(), report)
}

fn count<W: Write>(count: usize, report: &mut Report<W>) -> Result<(), Stop> {
    report.row("index", || json!({ "entries": count }), || plural(count, "entry"))
}
