//! Compaction against a model, with a crash at every step, and in its details.

use super::*;
use crate::base::rng::Rng;
use crate::log::compaction::{Compacted, CompactionConfig};
use crate::log::offset_map::OffsetMap;
use crate::model::rebatch::delete_horizon;
use crate::model::record::{Record, decode_records};

const SMALL: LogConfig = LogConfig { segment_bytes: 2_000, index_interval_bytes: 300, ..CONFIG };

const ALL: CompactionConfig = CompactionConfig {
    dirty_ratio_ppm: 0,
    min_lag_ms: 0,
    max_lag_ms: i64::MAX as u64,
    delete_retention_ms: 1_000,
};

const MAP: usize = 1 << 20;

/// Offset, key and value of a record.
type Row = (i64, Vec<u8>, Option<Vec<u8>>);

fn row(record: Record) -> Row {
    let key = record.key.expect("records have keys").to_vec();
    (record.offset, key, record.value.map(|value| value.to_vec()))
}

impl Bench {
    /// Runs compaction to its end, or until so many operations were carried out:
    /// then false.
    fn compact_some(&mut self, now: i64, config: &CompactionConfig, map: usize, ops: u64) -> bool {
        self.io(|log, _| log.begin_compaction(UnixMillis(now), config));
        let (mut map, mut left) = (OffsetMap::new(map), ops);
        loop {
            match self.io(|log, io| log.compact(&mut map, io)) {
                Compacted::Done => break,
                Compacted::More => continue,
                Compacted::NoPages => panic!("there is memory"),
                Compacted::Wait => assert!(!self.ops.is_empty(), "nothing to wait for"),
            }
            let mut ops = std::mem::take(&mut self.ops).into_iter();
            while let Some(op) = ops.next() {
                if left == 0 {
                    // What else was asked for is still to come.
                    self.ops.splice(0..0, std::iter::once(op).chain(ops));
                    return false;
                }
                left -= 1;
                let (_, what) = untag(op.tag);
                let result = self.disk.perform(op.kind);
                self.io(|log, io| log.on_disk(what, result, io));
            }
        }
        self.settle();
        true
    }

    fn compact(&mut self, now: i64) {
        assert!(self.compact_some(now, &ALL, MAP, u64::MAX));
    }

    /// Appends a batch of records with these keys and values.
    fn append_rows(&mut self, builder: BatchBuilder, rows: &[(&[u8], Option<&[u8]>)]) {
        let mut builder = builder;
        for (key, value) in rows {
            builder.push(1_000, Some(key), *value, &[("h", Some(b"x"))]);
        }
        self.append(&builder.finish()).expect("the log takes it");
    }

    fn headers(&mut self) -> Vec<BatchHeader> {
        let start = self.log.log_start_offset();
        let bytes = self.read(start);
        let (mut at, mut headers) = (0, vec![]);
        while let Some(header) = BatchHeader::decode(&bytes[at..]) {
            at += header.total_len().expect("whole");
            headers.push(header);
        }
        headers
    }

    fn rows(&mut self) -> Vec<Row> {
        let start = self.log.log_start_offset();
        let bytes = self.read(start);
        let (mut at, mut rows) = (0, vec![]);
        while let Some(header) = BatchHeader::decode(&bytes[at..]) {
            let len = header.total_len().expect("whole");
            let records = decode_records(&bytes[at..at + len], 1 << 20).expect("our own");
            rows.extend(records.into_iter().map(row));
            at += len;
        }
        rows
    }
}

/// What a log holds: the last value of each key, `None` for a tombstone.
fn last(rows: &[Row]) -> BTreeMap<Vec<u8>, (i64, Option<Vec<u8>>)> {
    rows.iter().map(|(offset, key, value)| (key.clone(), (*offset, value.clone()))).collect()
}

/// A log of some segments with a few keys that come again and again.
fn filled(rng: &mut Rng) -> Bench {
    let mut bench = Bench::with(SMALL, Disk::default(), 0, true);
    let codecs = [Codec::None, Codec::None, Codec::Lz4, Codec::Zstd, Codec::Gzip, Codec::Snappy];
    let mut sequences = [0; 3];
    for _ in 0..60 {
        let codec = codecs[rng.below(codecs.len() as u64) as usize];
        let producer = rng.below(4) as usize;
        let mut builder = BatchBuilder::new(codec);
        let count = rng.between(1, 6) as i32;
        if let Some(sequence) = sequences.get_mut(producer) {
            builder = builder.producer(producer as i64, 0, *sequence);
            *sequence += count;
        }
        for _ in 0..count {
            let key = [rng.below(20) as u8];
            let value = vec![rng.below(256) as u8; rng.between(1, 120) as usize];
            let value = (!rng.chance(1, 5)).then_some(value);
            builder.push(rng.between(1_000, 2_000) as i64, Some(&key), value.as_deref(), &[]);
        }
        bench.append(&builder.finish()).expect("the log takes it");
    }
    bench
}

/// What must hold of a log that was `before`, however much of it is compacted.
fn check(bench: &mut Bench, before: &[Row]) {
    let after = bench.rows();
    let known: BTreeMap<i64, &Row> = before.iter().map(|row| (row.0, row)).collect();
    assert!(after.windows(2).all(|pair| pair[0].0 < pair[1].0), "offsets grow");
    assert!(after.iter().all(|row| known[&row.0] == row), "records are as they were");
    let (mut had, has) = (last(before), last(&after));
    // A tombstone may be gone; what it deleted must not come back.
    had.retain(|key, (_, value)| value.is_some() || has.contains_key(key));
    assert_eq!(has, had);
}

#[test]
fn the_last_record_of_each_key_survives() {
    for seed in 0..40 {
        let mut rng = Rng::stream(seed, "compaction");
        let mut bench = filled(&mut rng);
        let mut before = bench.rows();
        let (end, size) = (bench.log.log_end_offset(), bench.log.size());
        let active = *bases(&bench).last().expect("there is one");
        bench.compact(5_000);
        check(&mut bench, &before);
        let rows = bench.rows();
        let sealed: Vec<Row> = rows.iter().filter(|row| row.0 < active).cloned().collect();
        let all_sealed: Vec<Row> = before.iter().filter(|row| row.0 < active).cloned().collect();
        assert_eq!(last(&sealed).len(), sealed.len(), "seed {seed}: once each");
        assert_eq!(last(&sealed), last(&all_sealed), "seed {seed}");
        assert!(bench.log.size() < size && bench.log.log_end_offset() == end);
        assert!(!bench.log.wants_compaction(UnixMillis(5_000), &ALL), "nothing is dirty");

        // Tombstones go when their time is over; nothing comes back.
        for now in [5_999, 6_000, 6_999, 7_000, 90_000] {
            bench.compact_dirty(now, &mut before);
            check(&mut bench, &before);
        }
        check(&mut bench, &before);

        // What the disk has is what was read; the producers go on where they were.
        let rows = bench.rows();
        for clean in [true, false] {
            if clean {
                bench.io(|log, io| log.close(io));
                bench.settle();
                assert!(bench.log.is_closed());
            }
            let point = if clean { bench.log.recovery_point() } else { 0 };
            bench = Bench::with(SMALL, bench.crash(), point, clean);
            assert_eq!(bench.rows(), rows, "seed {seed}, clean {clean}");
            for at in 0..end {
                let from = bench.first_from(at);
                assert_eq!(from, rows.iter().map(|row| row.0).find(|offset| *offset >= at));
            }
        }
        assert!(!bench.disk.files.keys().any(|path| {
            let name = path.to_string_lossy();
            name.ends_with(".cleaned") || name.ends_with(".swap")
        }));
    }
}

impl Bench {
    /// Compacts once more, though little is dirty: what was active is sealed.
    fn compact_dirty(&mut self, now: i64, before: &mut Vec<Row>) {
        let start = self.log.log_end_offset();
        while bases(self).last().is_some_and(|base| *base < start) {
            self.append_rows(BatchBuilder::new(Codec::None), &[(b"more", Some(&[1; 150]))]);
        }
        before.extend(self.rows().into_iter().filter(|row| row.0 >= start));
        self.compact(now);
    }

    /// The first record that a consumer finds from `offset` on.
    fn first_from(&mut self, offset: i64) -> Option<i64> {
        let bytes = self.read(offset);
        let mut at = 0;
        while let Some(header) = BatchHeader::decode(&bytes[at..]) {
            let len = header.total_len().expect("whole");
            let records = decode_records(&bytes[at..at + len], 1 << 20).expect("our own");
            if let Some(record) = records.iter().find(|record| record.offset >= offset) {
                return Some(record.offset);
            }
            at += len;
        }
        None
    }
}

fn bases(bench: &Bench) -> Vec<i64> {
    bench.log.segments.iter().map(|segment| segment.base_offset).collect()
}

/// A log of which much was compacted: its small segments will become one.
fn compacted_once(rng: &mut Rng) -> Bench {
    let mut bench = filled(rng);
    bench.compact(5_000);
    for n in 0..12 {
        bench.append_rows(BatchBuilder::new(Codec::None), &[(&[n], Some(&[n; 300]))]);
    }
    bench
}

#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new() {
    let mut rng = Rng::stream(7, "compaction crash");
    let before = compacted_once(&mut rng).rows();
    let mut done = false;
    for ops in 0..10_000 {
        // What was removed stays so, comes back, or some of it does.
        for back in 0..4 {
            let mut rng = Rng::stream(7, "compaction crash");
            let mut bench = compacted_once(&mut rng);
            done = bench.compact_some(5_000, &ALL, MAP, ops);
            let removed = std::mem::take(&mut bench.disk.removed);
            // Of some logs nothing is scanned but the end.
            let point = if back % 2 == 1 { bench.log.recovery_point() } else { 0 };
            let mut disk = bench.crash();
            let mut rng = Rng::stream(ops * 4 + back, "what comes back");
            for (path, content) in removed {
                let comes = back == 1 || (back > 1 && rng.chance(1, 2));
                if comes && !disk.files.contains_key(&path) {
                    disk.files.insert(path, content);
                }
            }
            let mut again = Bench::with(SMALL, disk, point, false);
            assert!(again.log.is_ready(), "after {ops}, {back}: {:?}", again.log.offline());
            check(&mut again, &before);
            // And once more, from whatever there is.
            again.compact(5_000);
            check(&mut again, &before);
            again.append_rows(BatchBuilder::new(Codec::None), &[(b"new", Some(b"v"))]);
            let extra = |path: &&PathBuf| path.to_string_lossy().contains('-') && !is_known(path);
            assert_eq!(again.disk.files.keys().find(extra), None, "after {ops}");
        }
        if done {
            assert!(ops > 40, "there are many steps");
            break;
        }
    }
    assert!(done);
}

fn is_known(path: &Path) -> bool {
    let name = path.file_name().expect("files have names").to_string_lossy();
    name.ends_with("-checkpoint")
        || !(name.ends_with(".cleaned") || name.ends_with(".swap") || name.contains('-'))
}

#[test]
fn a_small_table_takes_several_runs() {
    let mut rng = Rng::stream(3, "compaction in parts");
    let mut bench = filled(&mut rng);
    let before = bench.rows();
    let active = *bases(&bench).last().expect("there is one");
    let mut runs = 0;
    // Room for a few keys.
    while bench.log.wants_compaction(UnixMillis(5_000), &ALL) {
        assert!(bench.compact_some(5_000, &ALL, 16 * 24, u64::MAX));
        check(&mut bench, &before);
        runs += 1;
        assert!(runs < 200, "every run gets further");
    }
    assert!(runs > 2);
    assert!(bench.log.cleaner.cleaned >= active);
}

#[test]
fn the_last_batch_of_a_producer_keeps_its_sequence_numbers() {
    let mut bench = Bench::with(SMALL, Disk::default(), 0, true);
    let producer = |sequence| BatchBuilder::new(Codec::Zstd).producer(9, 2, sequence);
    bench.append_rows(producer(0), &[(b"a", Some(b"1"))]);
    bench.append_rows(producer(1), &[(b"a", Some(b"2")), (b"b", Some(b"2"))]);
    let plain = || BatchBuilder::new(Codec::None);
    for _ in 0..20 {
        bench.append_rows(plain(), &[(b"a", Some(&[3; 100])), (b"b", Some(&[3; 100]))]);
    }
    bench.compact(5_000);
    let kept = bench.headers().into_iter().find(|header| header.producer_id == 9).expect("one");
    assert_eq!((kept.base_offset, kept.next_offset(), kept.record_count), (1, 3, 0));
    assert_eq!((kept.base_sequence, kept.producer_epoch, kept.codec()), (1, 2, 0));
    // Without a snapshot all is scanned, and the producer goes on all the same.
    let mut disk = bench.crash();
    disk.files.retain(|path, _| path.extension().is_none_or(|kind| kind != "snapshot"));
    let mut again = Bench::with(SMALL, disk, 0, false);
    again.append_rows(producer(3), &[(b"a", Some(b"4"))]);
    let wrong = {
        let mut builder = producer(9);
        builder.push(1_000, Some(b"a"), None, &[]);
        builder.finish()
    };
    assert!(matches!(again.append(&wrong), Err(AppendError::Refused(_))));
}

#[test]
fn a_batch_with_tombstones_says_when_they_may_go() {
    let mut bench = Bench::with(SMALL, Disk::default(), 0, true);
    let plain = || BatchBuilder::new(Codec::None);
    bench.append_rows(plain(), &[(b"gone", None), (b"kept", Some(b"v"))]);
    bench.append_rows(plain(), &[(b"x", Some(&[1; 1_900]))]);
    bench.append_rows(plain(), &[(b"y", Some(&[1; 1_900]))]);
    bench.compact(5_000);
    let first = bench.headers()[0];
    assert_eq!((delete_horizon(&first), first.record_count), (Some(6_000), 2));
    let all = bench.rows();
    bench.append_rows(plain(), &[(b"z", Some(&[1; 1_900]))]);
    bench.compact(5_999);
    assert_eq!(bench.headers()[0], first, "its moment does not move");
    assert_eq!(bench.rows()[..all.len()], all);
    bench.append_rows(plain(), &[(b"z", Some(&[1; 1_900]))]);
    bench.compact(6_000);
    let rows = bench.rows();
    assert!(rows.iter().all(|row| row.1 != b"gone"));
    assert_eq!(rows[0].0, 1);
}

#[test]
fn what_is_dirty_enough() {
    let mut bench = Bench::with(SMALL, Disk::default(), 0, true);
    let wants = |bench: &Bench, now: i64, config: &CompactionConfig| {
        bench.log.wants_compaction(UnixMillis(now), config)
    };
    let batch = |bench: &mut Bench, key: u8| {
        let builder = BatchBuilder::new(Codec::None);
        bench.append_rows(builder, &[(&[key], Some(&[key; 1_900]))]);
    };
    batch(&mut bench, 1);
    assert!(!wants(&bench, 5_000, &ALL), "the active segment is left alone");
    batch(&mut bench, 2);
    assert!(wants(&bench, 5_000, &ALL));
    // Its records are of 1,000.
    let lag = |min_lag_ms, max_lag_ms| CompactionConfig { min_lag_ms, max_lag_ms, ..ALL };
    assert!(!wants(&bench, 5_000, &lag(4_001, u64::MAX)));
    assert!(wants(&bench, 5_000, &lag(4_000, u64::MAX)));
    bench.compact(5_000);
    let half = CompactionConfig { dirty_ratio_ppm: 500_000, ..ALL };
    batch(&mut bench, 3);
    assert!(!wants(&bench, 5_000, &half), "as much is dirty as is clean");
    assert!(!wants(&bench, 5_000, &CompactionConfig { max_lag_ms: 4_000, ..half }));
    assert!(wants(&bench, 5_000, &CompactionConfig { max_lag_ms: 3_999, ..half }));
    batch(&mut bench, 4);
    assert!(wants(&bench, 5_000, &half));
}

#[test]
fn damage_ends_compaction_and_nothing_else() {
    let mut rng = Rng::stream(5, "compaction damage");
    let mut bench = filled(&mut rng);
    let (before, files) = (bench.rows(), bench.disk.files.clone());
    bench.disk.segment(0)[100] ^= 1;
    assert!(bench.compact_some(5_000, &ALL, MAP, u64::MAX));
    assert!(bench.log.is_ready() && !bench.log.wants_compaction(UnixMillis(9_000), &ALL));
    bench.disk.segment(0)[100] ^= 1;
    assert!(bench.disk.files == files, "nothing was changed");
    assert_eq!(bench.rows(), before);
}

#[test]
fn without_space_it_is_left_for_later() {
    let mut rng = Rng::stream(6, "compaction without space");
    let mut bench = filled(&mut rng);
    let before = bench.rows();
    bench.room = 0;
    bench.compact(5_000);
    assert!(bench.log.size() > 0 && bench.rows() == before);
    bench.room = ROOM;
    bench.disk.fail = Some(|kind| match kind {
        DiskOpKind::Write { .. } => Some(DiskError::NoSpace),
        _ => None,
    });
    bench.compact(5_000);
    assert_eq!(bench.rows(), before);
    bench.disk.fail = None;
    bench.compact(5_000);
    check(&mut bench, &before);
    assert!(!bench.disk.open.is_empty() && bench.files.open() == bench.disk.open.len());
}

#[test]
fn a_log_that_is_closed_or_deleted_meanwhile() {
    for (seed, delete) in [(1, false), (2, true)] {
        for ops in 0..60 {
            let mut rng = Rng::stream(seed, "compaction and the end");
            let mut bench = filled(&mut rng);
            let before = bench.rows();
            if bench.compact_some(5_000, &ALL, MAP, ops) {
                break;
            }
            bench.io(|log, io| if delete { log.delete(io) } else { log.close(io) });
            bench.settle();
            assert!(bench.log.is_closed(), "after {ops}");
            assert!(bench.disk.open.is_empty() && bench.files.open() == 0, "after {ops}");
            if delete {
                assert!(bench.disk.files.is_empty());
            } else {
                let point = bench.log.recovery_point();
                let mut again = Bench::with(SMALL, bench.crash(), point, true);
                check(&mut again, &before);
            }
        }
    }
}

#[test]
fn compaction_gets_on_while_files_are_given_back() {
    let mut rng = Rng::stream(7, "compaction of closed files");
    let mut bench = compacted_once(&mut rng);
    let before = bench.rows();
    bench.io(|log, _| log.begin_compaction(UnixMillis(5_000), &ALL));
    let mut map = OffsetMap::new(MAP);
    for _ in 0..1_000 {
        let compacted = bench.io(|log, io| log.compact(&mut map, io));
        // Too many are open all the time, of other logs.
        bench.io(|log, io| log.release_files(io) + log.release_files(io));
        bench.settle();
        bench.io(|log, io| log.release_files(io) + log.release_files(io));
        if matches!(compacted, Compacted::Done) {
            bench.settle();
            return check(&mut bench, &before);
        }
    }
    panic!("compaction goes round in circles");
}
