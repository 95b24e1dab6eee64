//! Small files that are only ever replaced whole: checkpoints, producer
//! snapshots, properties. One that does not check out is corrupt, never torn.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use crc_fast::{CrcAlgorithm, checksum};
use serde_json::{Map, Value, json};

use super::report::{Report, Stop};
use crate::cli::plural;
use crate::cli::shown::utc;
use crate::log::closed_logs::ClosedLogs;
use crate::log::epochs::LeaderEpochs;
use crate::log::journal;
use crate::log::recovery_points::{RecoveryPoints, decode_into};

/// A `leader-epoch-checkpoint`.
pub(super) fn leader_epochs<W: Write>(bytes: &[u8], report: &mut Report<W>) -> Result<(), Stop> {
    if LeaderEpochs::decode(bytes).is_none() {
        return Err(report.corrupt(None, "this is no list of leader epochs".to_owned())?);
    }
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines().skip(2) {
        let (epoch, offset) = line.split_once(' ').unwrap_or((line, ""));
        report.row(
            "epoch",
            || json!({ "epoch": number(epoch), "first_offset": number(offset) }),
            || format!("epoch {epoch} from offset {offset}"),
        )?;
    }
    Ok(())
}

/// A number as JSON, or what is there instead.
fn number(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| text.into(), Value::from)
}

/// Lines of `key=value` or `key: value`.
pub(super) fn properties<W: Write>(bytes: &[u8], report: &mut Report<W>) -> Result<(), Stop> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(report.corrupt(None, "this is no text".to_owned())?);
    };
    let mut values = Map::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let Some((key, value)) = line.split_once('=').or_else(|| line.split_once(": ")) else {
            return Err(report.corrupt(None, format!("a line without a value: {line:?}"))?);
        };
        values.insert(key.trim().to_owned(), value.trim().into());
    }
    let lines: Vec<&str> = text.lines().collect();
    report.row("properties", || json!({ "values": values }), || lines.join("\n  "))
}

/// A core's recovery points.
pub(super) fn recovery_points<W: Write>(bytes: &[u8], report: &mut Report<W>) -> Result<(), Stop> {
    let mut points = RecoveryPoints::new();
    if !decode_into(bytes, &mut points) {
        return Err(report.corrupt(None, "the checksum does not fit".to_owned())?);
    }
    for (log, offset) in &points {
        let id = uuid::Uuid::from_bytes(log.topic.0).simple();
        let partition = log.partition.0;
        report.row(
            "recovery_point",
            || json!({ "topic_id": id.to_string(), "partition": partition, "offset": offset }),
            || format!("topic {id} partition {partition} is whole before offset {offset}"),
        )?;
    }
    let count = points.len();
    report.row("recovery_points", || json!({ "logs": count }), || plural(count, "log"))
}

/// What a stop has kept of small logs.
pub(super) fn closed_logs<W: Write>(bytes: &[u8], report: &mut Report<W>) -> Result<(), Stop> {
    let mut closed = ClosedLogs::default();
    if !closed.add(bytes) {
        return Err(report.corrupt(None, "the checksum does not fit".to_owned())?);
    }
    let (generation, logs) = (closed.generation, closed.records.len());
    report.row(
        "closed_logs",
        || json!({ "generation": generation, "logs": logs }),
        || format!("{} of generation {generation}", plural(logs, "log")),
    )
}

/// One of the two files of a core's journal. The other one says whether a first record
/// that does not check out is damaged, or torn.
pub(super) fn journal<W: Write>(
    path: &Path,
    bytes: &[u8],
    report: &mut Report<W>,
) -> Result<(), Stop> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (core, which) = journal::parse_file_name(&name).expect("the caller looked");
    let other = match fs::read(path.with_file_name(journal::file_name(core, 1 - which))) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => vec![],
        Err(error) => return Err(Stop::Unreadable(error)),
    };
    let both = if which == 0 { [bytes, &other] } else { [&other, bytes] };
    if let Err(damaged) = journal::scan(both)
        && damaged.which == which
    {
        let what = "a damaged record, with whole ones behind it".to_owned();
        return Err(report.corrupt(Some(damaged.position as u64), what)?);
    }
    // A file that was to be begun again may have no whole record.
    let pieces = journal::scan([bytes, &[]]).unwrap_or_default();
    for piece in &pieces {
        let id = uuid::Uuid::from_bytes(piece.log.topic.0).simple();
        let (partition, len) = (piece.log.partition.0, piece.bytes.len());
        let (segment, position) = (piece.segment, piece.position);
        report.row(
            "piece",
            || {
                json!({
                    "topic_id": id.to_string(), "partition": partition,
                    "segment": segment, "position": position, "bytes": len,
                })
            },
            || {
                let log = format!("topic {id} partition {partition}");
                format!("{log}, segment {segment} from byte {position}: {len} bytes")
            },
        )?;
    }
    let count = pieces.len();
    report.row("journal", || json!({ "pieces": count }), || plural(count, "piece"))
}

/// Bytes of a row: producer id, epoch, last sequence, last offset, offset delta,
/// timestamp, coordinator epoch, first offset of the open transaction.
const ROW_LEN: usize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8;

/// A producer snapshot (`ProducerStateManager.java`).
pub(super) fn producers<W: Write>(bytes: &[u8], report: &mut Report<W>) -> Result<(), Stop> {
    let rows = match producer_rows(bytes) {
        Ok(rows) => rows,
        Err(what) => return Err(report.corrupt(None, what)?),
    };
    let count = rows.len() / ROW_LEN;
    for row in rows.chunks_exact(ROW_LEN) {
        let wide =
            |at: usize| row[at..].first_chunk().map_or(0, |chunk| i64::from_be_bytes(*chunk));
        let narrow =
            |at: usize| row[at..].first_chunk().map_or(0, |chunk| i32::from_be_bytes(*chunk));
        let epoch = i16::from_be_bytes([row[8], row[9]]);
        let (id, sequence, offset, delta) = (wide(0), narrow(10), wide(14), narrow(22));
        let (timestamp, coordinator, open) = (wide(26), narrow(34), wide(38));
        report.row(
            "producer",
            || {
                json!({
                    "producer_id": id, "producer_epoch": epoch, "last_sequence": sequence,
                    "last_offset": offset, "offset_delta": delta, "timestamp": timestamp,
                    "coordinator_epoch": coordinator,
                    "open_transaction": (open >= 0).then_some(open),
                })
            },
            || {
                let open = match open {
                    0.. => format!(", open transaction from offset {open}"),
                    _ => String::new(),
                };
                format!(
                    "producer {id} epoch {epoch}: sequences up to {sequence}, offsets {} to {offset}, {}{open}",
                    offset.saturating_sub(delta.into()),
                    utc(timestamp)
                )
            },
        )?;
    }
    let text = || format!("{} remembered", plural(count, "batch"));
    report.row("producers", || json!({ "rows": count }), text)
}

fn producer_rows(bytes: &[u8]) -> Result<&[u8], String> {
    let short = || "shorter than a snapshot's head".to_owned();
    let (version, rest) = bytes.split_first_chunk::<2>().ok_or_else(short)?;
    let (crc, body) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (count, rows) = body.split_first_chunk::<4>().ok_or_else(short)?;
    let (version, crc) = (i16::from_be_bytes(*version), u32::from_be_bytes(*crc));
    let sum = checksum(CrcAlgorithm::Crc32Iscsi, body) as u32;
    if version != 1 {
        return Err(format!("version {version}, of which nothing is known"));
    }
    if sum != crc {
        return Err(format!("the CRC is {sum:08x} where the head says {crc:08x}"));
    }
    let count = i32::from_be_bytes(*count);
    if usize::try_from(count).ok().and_then(|count| count.checked_mul(ROW_LEN)) != Some(rows.len())
    {
        return Err(format!("{count} rows do not take {} bytes", rows.len()));
    }
    Ok(rows)
}
