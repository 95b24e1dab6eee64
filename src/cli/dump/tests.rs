//! What is said of whole files and of damaged ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::report::Report;
use super::{Progress, dump};
use crate::base::pages::BLOCK;
use crate::log::closed_logs::ClosedLogs;
use crate::log::journal::{Record, beginning};
use crate::log::recovery_points::{self, RecoveryPoints};
use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};
use crate::model::record::{BatchBuilder, Codec};
use crate::raft::Ballot;
use crate::raft::frame::encode_write;
use crate::raft::snapshot::Snapshot;

const SEGMENT: &str = "00000000000000000010.log";
const INDEX: &str = "00000000000000000010.index";

/// `count` records from offset `base` on, one batch.
fn batch(base: i64, count: i64, codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    for n in 0..count {
        let value = format!("value {}", base + n);
        builder.push(1_700_000_000_000 + n, Some(b"k"), Some(value.as_bytes()), &[("h", None)]);
    }
    let mut batch = builder.finish();
    batch[..8].copy_from_slice(&base.to_be_bytes());
    batch
}

fn segment() -> Vec<u8> {
    [batch(10, 3, Codec::None), batch(13, 1, Codec::Zstd), batch(14, 5, Codec::Gzip)].concat()
}

/// A directory with one file.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join(name);
    fs::write(&path, bytes).expect("written");
    (dir, path)
}

/// The rows of a dump, and how many files are bad.
fn rows(path: &Path, records: bool) -> (Vec<Value>, usize) {
    let mut out = Vec::new();
    let mut report = Report::new(&mut out, true, records);
    dump(path, 0, &mut report, &mut Progress::start(false)).expect("readable");
    let bad = report.bad_files;
    let text = String::from_utf8(out).expect("text");
    (text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(), bad)
}

fn text(path: &Path) -> String {
    let mut out = Vec::new();
    let mut report = Report::new(&mut out, false, true);
    dump(path, 0, &mut report, &mut Progress::start(false)).expect("readable");
    String::from_utf8(out).expect("text")
}

fn of_type<'a>(rows: &'a [Value], kind: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["type"] == kind).collect()
}

#[test]
fn a_whole_segment() {
    let mut bytes = segment();
    let len = bytes.len();
    bytes.resize(1 << 20, 0);
    let (_dir, path) = file(SEGMENT, &bytes);
    let (found, bad) = rows(&path, true);
    assert_eq!(bad, 0);
    let batches = of_type(&found, "batch");
    let codecs: Vec<&Value> = batches.iter().map(|batch| &batch["codec"]).collect();
    assert_eq!(codecs, ["uncompressed", "zstd", "gzip"]);
    assert_eq!(batches[2]["base_offset"], 14);
    let records = of_type(&found, "record");
    assert_eq!(records.len(), 9);
    assert_eq!((&records[8]["offset"], &records[8]["value"]), (&json!(18), &json!("value 18")));
    assert_eq!(records[0]["headers"], json!([{ "key": "h", "value": null }]));
    let summary = of_type(&found, "segment")[0];
    assert_eq!((&summary["next_offset"], &summary["batch_bytes"]), (&json!(19), &json!(len)));
    assert!(of_type(&rows(&path, false).0, "record").is_empty());
    let text = text(&path);
    let record = r#"10 2023-11-14T22:13:20.000Z key "k" header "h"=null value "value 10""#;
    assert!(text.contains(record), "{text}");
    assert!(text.contains("3 batches, 9 records, offsets 10 to 18, "), "{text}");
}

#[test]
fn every_damage_of_a_segment_is_seen() {
    let whole = segment();
    let last = whole.len() - batch(14, 5, Codec::Gzip).len();
    let second = batch(10, 3, Codec::None).len();
    let start = |at: usize| [last, second, 0].into_iter().find(|start| *start <= at).unwrap_or(0);
    // Leader epochs are not covered by the CRC.
    for at in (0..whole.len()).filter(|at| !(12..16).contains(&(at - start(*at)))) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        let (_dir, path) = file(SEGMENT, &bytes);
        let (found, bad) = rows(&path, false);
        // A later base offset in the last batch is a gap, which may be.
        if !(last..last + 8).contains(&at) {
            assert_eq!(bad, 1, "byte {at}");
            let kind = if at < last { "corrupt" } else { "torn" };
            assert_eq!(of_type(&found, kind).len(), 1, "byte {at}: {found:?}");
        }
    }
    for cut in 1..whole.len() {
        let (_dir, path) = file(SEGMENT, &whole[..cut]);
        let (found, bad) = rows(&path, true);
        // The first seven bytes of a small offset are zeros, as at the end of a segment.
        let seen = cut - start(cut) > 7;
        assert_eq!(bad, usize::from(seen), "cut at {cut}");
        assert_eq!(of_type(&found, "torn").len(), bad, "cut at {cut}");
    }
    let hole = [&whole[..last], &[0; 4096][..], &whole[last..]].concat();
    let (_dir, path) = file(SEGMENT, &hole);
    let (found, _) = rows(&path, false);
    let what = of_type(&found, "corrupt")[0]["what"].as_str().expect("text").to_owned();
    assert!(what.contains("a batch of offset 14 follows"), "{what}");
    let (_dir, path) = file(SEGMENT, &[&whole[..], &batch(12, 1, Codec::None)].concat());
    let (found, _) = rows(&path, false);
    assert_eq!(of_type(&found, "corrupt").len(), 1, "an offset that was there: {found:?}");
    let (_dir, path) = file("00000000000000000011.log", &whole);
    assert_eq!(rows(&path, false).1, 1, "an offset before the file's name");
}

#[test]
fn indexes_are_checked_against_their_segment() {
    let entry =
        |offset: u32, position: u32| [offset.to_be_bytes(), position.to_be_bytes()].concat();
    let (dir, _) = file(SEGMENT, &segment());
    let path = dir.path().join(INDEX);
    let second = batch(10, 3, Codec::None).len() as u32;
    let third = second + batch(13, 1, Codec::Zstd).len() as u32;
    let mut good = [entry(3, second), entry(8, third)].concat();
    good.resize(4096, 0);
    fs::write(&path, &good).expect("written");
    let (found, bad) = rows(&path, false);
    assert_eq!((of_type(&found, "entry").len(), bad), (2, 0), "{found:?}");
    assert_eq!(rows(dir.path(), true).1, 0);
    for wrong in [
        [entry(3, second), entry(7, third)].concat(),
        [entry(3, second), entry(8, third + 1)].concat(),
        [entry(8, third), entry(3, second)].concat(),
        [entry(3, second), entry(8, u32::MAX)].concat(),
        vec![1; 9],
    ] {
        fs::write(&path, &wrong).expect("written");
        assert_eq!(rows(&path, false).1, 1, "{wrong:?}");
    }
    let (_dir, path) = file("0.timeindex", &[0; 12]);
    assert_eq!(rows(&path, false).1, 0);
    let mut times = [5_i64.to_be_bytes().to_vec(), 1_u32.to_be_bytes().to_vec()].concat();
    times.extend_from_within(..);
    let (_dir, path) = file("0.timeindex", &times);
    assert_eq!(rows(&path, false).1, 1, "not increasing");
}

#[test]
fn small_files_are_read_and_their_damage_is_seen() {
    let log = TopicPartition { topic: TopicId([7; 16]), partition: PartitionIndex(3) };
    let points = recovery_points::encode(&RecoveryPoints::from([(log, 99)]));
    let snapshot = Snapshot::birth("cluster", 1, vec![1, 0, 0, 0, 0]).encode();
    let mut frames = Vec::new();
    let ballot = Ballot { term: 1, vote: 1, commit: 1 };
    encode_write(&mut frames, 0, 1, Some(ballot), &[]);
    let end = frames.len() as u64;
    encode_write(&mut frames, end, 2, Some(ballot), &[]);
    let producers = crate::log::producers::Producers::default().encode(5);
    let records = BTreeMap::from([(log, vec![1, 2, 3])]);
    let closed = ClosedLogs { generation: 2, records }.encode();
    let mut journal = beginning(1, 0).to_vec();
    journal.resize(BLOCK, 0);
    for number in 1..3 {
        let mut record = Record::default();
        record.clear();
        record.push(log, 0, 7, 4, [&b"text"[..]].into_iter());
        journal.extend_from_slice(record.finish(1, number));
        journal.resize(journal.len().next_multiple_of(BLOCK), 0);
    }
    for (name, bytes, kind, damaged) in [
        ("closed-logs.0", &closed[..], "closed_logs", 9),
        ("journal.0.1", &journal, "piece", BLOCK + 50),
        ("recovery-points.0", &points[..], "recovery_point", points.len() - 2),
        ("leader-epoch-checkpoint", b"0\n2\n4 17\n4 17\n", "epoch", 0),
        ("partition.metadata", b"version: 0\ntopic_id: x\n", "properties", 7),
        ("meta.properties", b"# c\nversion=1\n", "properties", 11),
        ("5.snapshot", &producers, "producers", 3),
        ("__cluster_metadata/snapshot", &snapshot, "snapshot", 20),
        ("__cluster_metadata/log-00000000000000000002", &frames, "ballot", frames.len() - 9),
    ] {
        let dir = TempDir::new().expect("a temporary directory");
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("made");
        fs::write(&path, bytes).expect("written");
        let (found, bad) = rows(dir.path(), false);
        assert!(bad == 0 && !of_type(&found, kind).is_empty(), "{name}: {found:?}");
        assert!(text(&path).lines().count() >= 2, "{name}");
        let mut wrong = bytes.to_vec();
        wrong[damaged] ^= 0x11;
        fs::write(&path, &wrong).expect("written");
        let (found, bad) = rows(dir.path(), false);
        assert_eq!(bad, 1, "{name}: {found:?}");
    }
    let (_dir, path) = file("anything", b"else");
    assert_eq!(rows(&path, false).1, 0);
}
