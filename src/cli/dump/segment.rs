//! A segment: batches one after the other, then at most zeros.
//!
//! The CRC of every batch is checked, and that offsets go forward; a gap in them is
//! shown, since compaction leaves some. A damaged batch with a valid later one
//! behind it is corruption; with none, an unfinished write explains it, and it is
//! called torn.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};

use super::report::{Report, Stop};
use crate::cli::plural;
use crate::cli::shown::{json_text, short_text, utc};
use crate::model::batch::{BatchHeader, HEADER_LEN, MAGIC, batch_crc};
use crate::model::record::{Codec, Record, decode_records};

/// Longest batch that is read; brokers take less.
const BATCH_MAX: usize = 256 << 20;
/// Most that one batch may unfold to.
const UNFOLDED_MAX: usize = 256 << 20;
/// How far a valid batch is looked for behind a damaged one.
const SEARCH_MAX: usize = 64 << 20;

/// The first offset that a file's name tells.
pub(super) fn base_offset(path: &Path) -> Option<i64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// What was found so far.
#[derive(Debug, Default)]
struct Found {
    batches: u64,
    records: u64,
    first: Option<i64>,
    /// The least offset that may follow, and the first one of the segment.
    next: i64,
    base: i64,
    position: u64,
}

/// Prints the batches of a segment.
pub(super) fn dump<W: Write>(path: &Path, report: &mut Report<W>) -> Result<(), Stop> {
    let file = File::open(path).map_err(Stop::Unreadable)?;
    let len = file.metadata().map_err(Stop::Unreadable)?.len();
    let base = base_offset(path).unwrap_or(0);
    let mut found = Found { next: base, base, ..Found::default() };
    let mut bytes = Vec::new();
    let mut input = std::io::BufReader::with_capacity(1 << 20, &file);
    while found.position < len {
        bytes.clear();
        if read(&mut input, &mut bytes, HEADER_LEN)? && bytes.iter().any(|byte| *byte != 0) {
            match batch(&mut input, &mut bytes, &found, len)? {
                Ok(header) => {
                    if let Some(what) = misplaced(&header, &found) {
                        summary(&found, len, report)?;
                        return Err(report.corrupt(Some(found.position), what)?);
                    }
                    if header.base_offset > found.next {
                        let (from, to) = (found.next, header.base_offset - 1);
                        report.row(
                            "gap",
                            || json!({ "first_offset": from, "last_offset": to }),
                            || format!("no records of offsets {from} to {to}"),
                        )?;
                    }
                    show(&header, &bytes, &found, report)?;
                    found.batches += 1;
                    found.records += u64::from(header.record_count.unsigned_abs());
                    found.first.get_or_insert(header.base_offset);
                    found.next = header.next_offset();
                    found.position += bytes.len() as u64;
                    continue;
                }
                Err(what) => {
                    summary(&found, len, report)?;
                    return Err(damaged(&file, &found, what, report)?);
                }
            }
        }
        if let Some(at) = first_not_zero(&file, found.position)? {
            summary(&found, len, report)?;
            let what = if bytes.len() < HEADER_LEN {
                "the file ends within a batch's header".to_owned()
            } else {
                format!("zeros where a batch should be, and other bytes from {at} on")
            };
            return Err(damaged(&file, &found, what, report)?);
        }
        break;
    }
    summary(&found, len, report)
}

/// Reads on until `bytes` has `len` bytes; false if the file ends before.
fn read(input: &mut impl Read, bytes: &mut Vec<u8>, len: usize) -> Result<bool, Stop> {
    let missing = len - bytes.len();
    input.take(missing as u64).read_to_end(bytes).map_err(Stop::Unreadable)?;
    Ok(bytes.len() == len)
}

/// Reads the rest of the batch whose header is in `bytes`, and checks it; or says
/// what is wrong.
fn batch(
    input: &mut impl Read,
    bytes: &mut Vec<u8>,
    found: &Found,
    file_len: u64,
) -> Result<Result<BatchHeader, String>, Stop> {
    let header = BatchHeader::decode(bytes).expect("as many bytes as a header has");
    if header.magic != MAGIC {
        return Ok(Err(format!("magic {} where a batch of magic {MAGIC} should be", header.magic)));
    }
    let Some(len) = header.total_len() else {
        return Ok(Err(format!("a batch of impossible length {}", header.batch_length)));
    };
    if len as u64 > file_len - found.position {
        return Ok(Err(format!("a batch of {len} bytes that ends behind the file")));
    }
    if len > BATCH_MAX {
        return Ok(Err(format!("a batch of {len} bytes, more than any broker takes")));
    }
    if !read(input, bytes, len)? {
        return Ok(Err("the file became shorter while it was read".to_owned()));
    }
    let crc = batch_crc(bytes);
    if crc != header.crc {
        return Ok(Err(format!(
            "the batch's CRC is {crc:08x} where its header says {:08x}",
            header.crc
        )));
    }
    Ok(Ok(header))
}

/// What is wrong with the offsets of a batch that is whole, if anything. They
/// are not covered by its CRC.
fn misplaced(header: &BatchHeader, found: &Found) -> Option<String> {
    let (first, last) = (header.base_offset, header.next_offset() - 1);
    // Indexes have 32 bits for an offset in its segment.
    let most = found.base.saturating_add(u32::MAX.into());
    let good = first >= found.next && last >= first && last <= most;
    (!good).then(|| {
        let next = found.next;
        format!("a whole batch of offsets {first} to {last} where {next} or a later one should be")
    })
}

fn show<W: Write>(
    header: &BatchHeader,
    bytes: &[u8],
    found: &Found,
    report: &mut Report<W>,
) -> Result<(), Stop> {
    let last = header.next_offset() - 1;
    let codec = Codec::from_id(header.codec()).map_or("unknown", codec_name);
    let idempotent = header.producer_id >= 0;
    let fields = || {
        json!({
            "position": found.position,
            "base_offset": header.base_offset,
            "last_offset": last,
            "bytes": bytes.len(),
            "records": header.record_count,
            "leader_epoch": header.leader_epoch.0,
            "codec": codec,
            "crc": format!("{:08x}", header.crc),
            "base_timestamp": header.base_timestamp,
            "max_timestamp": header.max_timestamp,
            "log_append_time": header.is_log_append_time(),
            "transactional": header.is_transactional(),
            "control": header.is_control(),
            "producer_id": idempotent.then_some(header.producer_id),
            "producer_epoch": idempotent.then_some(header.producer_epoch),
            "base_sequence": idempotent.then_some(header.base_sequence),
        })
    };
    let text = || {
        let mut text = format!(
            "byte {:<10} offsets {} to {last}, {}, {} bytes, epoch {}, {codec}, {}",
            found.position,
            header.base_offset,
            plural(usize::try_from(header.record_count).unwrap_or(0), "record"),
            bytes.len(),
            header.leader_epoch.0,
            utc(header.max_timestamp),
        );
        if idempotent {
            let (id, epoch, sequence) =
                (header.producer_id, header.producer_epoch, header.base_sequence);
            text.push_str(&format!(", producer {id} epoch {epoch} sequence {sequence}"));
        }
        for (is, word) in [
            (header.is_transactional(), "transactional"),
            (header.is_control(), "control"),
            (header.is_log_append_time(), "log append time"),
        ] {
            if is {
                text.push_str(&format!(", {word}"));
            }
        }
        text
    };
    report.row("batch", fields, text)?;
    if !report.records {
        return Ok(());
    }
    let records = match decode_records(bytes, UNFOLDED_MAX) {
        Ok(records) => records,
        // The next batch is where it should be all the same.
        Err(error) => {
            let what = format!("the batch's records cannot be read: {error}");
            report.corrupt(Some(found.position), what)?;
            return Ok(());
        }
    };
    let mut next = header.base_offset;
    for record in &records {
        if record.offset < next || record.offset > last {
            let what = format!("a record of offset {} in a batch up to {last}", record.offset);
            report.corrupt(Some(found.position), what)?;
        }
        next = record.offset.saturating_add(1);
        show_record(record, header.is_control(), report)?;
    }
    Ok(())
}

fn show_record<W: Write>(
    record: &Record,
    is_control: bool,
    report: &mut Report<W>,
) -> Result<(), Stop> {
    // EndTransactionMarker: a version and a type, two bytes each.
    let marker = match record.key.as_deref() {
        Some([_, _, 0, 0]) if is_control => Some("abort"),
        Some([_, _, 0, 1]) if is_control => Some("commit"),
        _ => None,
    };
    let fields = || {
        let headers: Vec<Value> = record
            .headers
            .iter()
            .map(|header| {
                json!({
                    "key": json_text(Some(&header.key)),
                    "value": json_text(header.value.as_deref()),
                })
            })
            .collect();
        json!({
            "offset": record.offset,
            "timestamp": record.timestamp_ms,
            "key": json_text(record.key.as_deref()),
            "value": json_text(record.value.as_deref()),
            "headers": headers,
            "marker": marker,
        })
    };
    let text = || {
        let mut text = format!("  {} {}", record.offset, utc(record.timestamp_ms));
        if let Some(marker) = marker {
            text.push_str(&format!(" marker {marker}"));
            return text;
        }
        text.push_str(&format!(" key {}", short_text(record.key.as_deref())));
        for header in &record.headers {
            let (key, value) = (short_text(Some(&header.key)), short_text(header.value.as_deref()));
            text.push_str(&format!(" header {key}={value}"));
        }
        text.push_str(&format!(" value {}", short_text(record.value.as_deref())));
        text
    };
    report.row("record", fields, text)
}

fn codec_name(codec: Codec) -> &'static str {
    match codec {
        Codec::None => "uncompressed",
        Codec::Gzip => "gzip",
        Codec::Snappy => "snappy",
        Codec::Lz4 => "lz4",
        Codec::Zstd => "zstd",
    }
}

fn summary<W: Write>(found: &Found, len: u64, report: &mut Report<W>) -> Result<(), Stop> {
    let Found { batches, records, first, next, position, .. } = *found;
    let fields = || {
        json!({
            "batches": batches,
            "records": records,
            "first_offset": first,
            "next_offset": next,
            "batch_bytes": position,
            "file_bytes": len,
        })
    };
    let text = || {
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let counts =
            format!("{}, {}", plural(count(batches), "batch"), plural(count(records), "record"));
        let offsets = first.map(|first| format!(", offsets {first} to {}", next - 1));
        let offsets = offsets.unwrap_or_default();
        let behind = match len - position {
            0 => String::new(),
            rest => format!(", {rest} bytes behind them"),
        };
        format!("{counts}{offsets}, {position} bytes{behind}")
    };
    report.row("segment", fields, text)
}

/// Where the first byte other than zero is, from `from` on.
fn first_not_zero(file: &File, from: u64) -> Result<Option<u64>, Stop> {
    let mut chunk = vec![0; 1 << 20];
    let mut at = from;
    loop {
        let read = file.read_at(&mut chunk, at).map_err(Stop::Unreadable)?;
        if read == 0 {
            return Ok(None);
        }
        if let Some(found) = chunk[..read].iter().position(|byte| *byte != 0) {
            return Ok(Some(at + found as u64));
        }
        at += read as u64;
    }
}

/// Says what is wrong behind the last good batch.
fn damaged<W: Write>(
    file: &File,
    found: &Found,
    what: String,
    report: &mut Report<W>,
) -> Result<Stop, Stop> {
    let at = Some(found.position);
    match later_batch(file, found)? {
        Some((offset, position)) => report
            .corrupt(at, format!("{what}; a batch of offset {offset} follows at byte {position}")),
        None => report.torn(at, format!("{what}; no batch follows")),
    }
}

/// The first valid batch of a later offset behind the damage.
fn later_batch(file: &File, found: &Found) -> Result<Option<(i64, u64)>, Stop> {
    let from = found.position + 1;
    let mut bytes = vec![0; SEARCH_MAX];
    let mut len = 0;
    while len < bytes.len() {
        match file.read_at(&mut bytes[len..], from + len as u64).map_err(Stop::Unreadable)? {
            0 => break,
            read => len += read,
        }
    }
    for at in 0..len {
        let rest = &bytes[at..len];
        if rest.get(16) != Some(&(MAGIC as u8)) {
            continue;
        }
        let Some(header) = BatchHeader::decode(rest) else { break };
        let plausible = header.base_offset >= found.next && header.last_offset_delta >= 0;
        if plausible
            && let Some(batch) = header.total_len().and_then(|len| rest.get(..len))
            && batch_crc(batch) == header.crc
        {
            return Ok(Some((header.base_offset, from + at as u64)));
        }
    }
    Ok(None)
}
