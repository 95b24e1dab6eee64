//! Old segments go: by age, by size, all of them, and nothing more.

use super::*;
use crate::log::retention::Retention;

/// Every batch of a second has a segment of its own.
const SMALL: LogConfig = LogConfig { segment_ms: 0, ..CONFIG };

const fn ms(ms: u64) -> Retention {
    Retention { ms: Some(ms), bytes: None }
}

const fn bytes(bytes: u64) -> Retention {
    Retention { ms: None, bytes: Some(bytes) }
}

impl Bench {
    fn retain(&mut self, now: i64, retention: Retention) -> bool {
        let moved = self.io(|log, io| log.retain(UnixMillis(now), retention, io));
        self.settle();
        moved
    }

    /// The log's start, its end, and the segments on the disk.
    fn shape(&self) -> (i64, i64, Vec<i64>) {
        let stem = |path: &PathBuf| path.file_stem()?.to_str()?.parse().ok();
        let is_log = |path: &&PathBuf| path.extension().is_some_and(|kind| kind == "log");
        let bases = self.disk.files.keys().filter(is_log).filter_map(stem).collect();
        (self.log.log_start_offset(), self.log.log_end_offset(), bases)
    }

    fn reopened(self, clean: bool) -> Self {
        let (mut bench, end) = (self, 0);
        if clean {
            bench.io(|log, io| log.close(io));
            bench.settle();
            assert!(bench.log.is_closed());
            let point = bench.log.recovery_point();
            return Self::with(SMALL, bench.crash(), point, true);
        }
        Self::with(SMALL, bench.crash(), end, false)
    }
}

fn bench(timestamps: &[i64]) -> Bench {
    let mut bench = Bench::with(SMALL, Disk::default(), 0, true);
    for timestamp in timestamps {
        bench.append_at(*timestamp, *timestamp);
    }
    bench
}

#[test]
fn by_age_a_segment_goes_with_its_newest_record() {
    let mut bench = bench(&[1_000, 2_000, 3_000, 4_000]);
    assert_eq!(bench.shape(), (0, 4, vec![0, 1, 2, 3]));
    assert!(!bench.retain(2_000, ms(1_000)), "not older, as old");
    assert!(bench.retain(2_001, ms(1_000)));
    assert_eq!(bench.shape(), (1, 4, vec![1, 2, 3]));
    assert!(!bench.retain(i64::MIN, ms(0)), "the clock went back");
    assert!(bench.retain(4_001, ms(1_000)));
    for clean in [true, false] {
        bench = bench.reopened(clean);
        assert_eq!(bench.shape(), (3, 4, vec![3]), "clean {clean}");
    }
    // The past is not old if what lies before it is young.
    bench.append_at(9_000, 100);
    assert!(!bench.retain(4_500, ms(1_000)));
}

#[test]
fn when_all_is_too_old_an_empty_segment_takes_its_place() {
    for clean in [true, false] {
        let mut bench = bench(&[1_000, 2_000, 3_000]);
        // A resting log whose files were given back is cut all the same.
        bench.io(|log, io| log.release_files(io));
        bench.io(|log, io| log.release_files(io));
        assert!(bench.retain(9_000, ms(10)));
        assert_eq!(bench.shape(), (3, 3, vec![3]));
        assert!(bench.disk.log_bytes() == 0 && bench.read(3).is_empty());
        assert!(!bench.retain(9_000, ms(10)), "an empty segment does not grow old");
        let mut again = bench.reopened(clean);
        assert_eq!(again.shape(), (3, 3, vec![3]), "clean {clean}");
        again.append_at(9_000, 8_999);
        assert_eq!(again.log.committed().offset, 4);
        let again = again.reopened(clean);
        assert_eq!(again.shape(), (3, 4, vec![3]), "clean {clean}");
    }
}

#[test]
fn an_append_keeps_the_segment_that_was_to_be_sealed() {
    let mut bench = bench(&[1_000]);
    let config = LogConfig { segment_ms: i64::MAX as u64, ..SMALL };
    bench.io(|log, io| log.configure(config, io));
    let old = batch(10);
    let header = BatchHeader::decode(&old).expect("a whole batch");
    let append = |log: &mut Log, io: &mut LogIo<'_>| {
        log.append(UnixMillis(0), &header, &old, LeaderEpoch(0), io).map(|_| ())
    };
    // What is not committed stays, whatever its age.
    bench.io(append).expect("room");
    assert!(!bench.retain(90_000, ms(10)));
    assert_eq!(bench.log.committed().offset, 2);
    // The start is written while another batch comes.
    bench.io(|log, io| log.retain(UnixMillis(90_000), ms(10), io));
    bench.io(append).expect("room");
    bench.io(|log, io| log.flush(io));
    bench.settle();
    assert_eq!(bench.shape(), (2, 3, vec![0]));
    assert_eq!(bench.read(2).len(), old.len());
    assert!(bench.retain(90_000, ms(10)));
    assert_eq!(bench.shape(), (3, 3, vec![3]));
}

#[test]
fn by_size_whole_segments_go_as_long_as_enough_is_left() {
    let mut bench = bench(&[1_000, 2_000, 3_000, 4_000]);
    let one = bench.log.size() / 4;
    assert!(!bench.retain(0, bytes(4 * one)));
    assert!(!bench.retain(0, bytes(3 * one + 1)), "less than that would be left");
    assert!(bench.retain(0, bytes(3 * one)));
    assert_eq!(bench.shape(), (1, 4, vec![1, 2, 3]));
    // What lies below the start does not count, though it lies there still.
    bench.disk.fail = Some(|kind| match kind {
        DiskOpKind::Remove { .. } => Some(DiskError::NoSpace),
        _ => None,
    });
    assert!(bench.retain(0, bytes(2 * one)));
    assert_eq!(bench.shape(), (2, 4, vec![1, 2, 3]));
    assert!(!bench.retain(0, bytes(2 * one)));
    bench.disk.fail = None;
    bench.io(|log, io| log.resume(io));
    bench.settle();
    assert_eq!(bench.shape(), (2, 4, vec![2, 3]));
    assert!(bench.retain(0, bytes(0)));
    assert_eq!(bench.shape(), (4, 4, vec![4]));
}

#[test]
fn without_timestamps_age_goes_by_the_brokers_clock() {
    let mut bench = Bench::with(CONFIG, Disk::default(), 0, true);
    bench.append_at(5_000, -1);
    assert!(!bench.retain(6_000, ms(1_000)));
    let mut bench = bench.reopened(true);
    assert!(!bench.retain(90_000, ms(1_000)), "nobody knows how old it is");
    assert!(!bench.retain(91_000, ms(1_000)));
    assert!(bench.retain(91_001, ms(1_000)));
    assert_eq!(bench.shape(), (1, 1, vec![1]));
}

#[test]
fn producers_are_known_after_a_crash_at_any_step_of_a_roll() {
    let sent = |sequence: i32| {
        let mut builder = BatchBuilder::new(Codec::None).producer(9, 0, sequence);
        builder.push(1_000, None, Some(b"v"), &[]);
        builder.finish()
    };
    // Retention rolls an empty segment in; or records are deleted, and an append rolls.
    for deleted in [false, true] {
        let mut steps = 0;
        loop {
            let large = LogConfig { segment_ms: i64::MAX as u64, ..SMALL };
            let mut bench = Bench::with(large, Disk::default(), 0, true);
            for sequence in 0..3 {
                bench.append(&sent(sequence)).expect("in order");
            }
            // A checkpoint: the crash is to find a snapshot before the last batch.
            bench.io(|log, io| log.checkpoint(io));
            bench.settle();
            bench.append(&sent(3)).expect("in order");
            if deleted {
                bench.io(|log, io| log.advance_start(4, io)).expect("committed");
                bench.settle();
                bench.io(|log, io| log.configure(SMALL, io));
                let mut builder = BatchBuilder::new(Codec::None);
                builder.push(9_000, None, Some(b"of nobody"), &[]);
                let batch = builder.finish();
                let header = BatchHeader::decode(&batch).expect("a whole batch");
                let append = |log: &mut Log, io: &mut LogIo<'_>| {
                    log.append(UnixMillis(9_000), &header, &batch, LeaderEpoch(0), io).map(|_| ())
                };
                bench.io(append).expect("room");
                bench.io(|log, io| log.flush(io));
            } else {
                bench.io(|log, io| log.retain(UnixMillis(90_000), ms(10), io));
            }
            for _ in 0..steps {
                if !bench.ops.is_empty() {
                    let op = bench.ops.remove(0);
                    let result = bench.disk.perform(op.kind);
                    bench.io(|log, io| log.on_disk(untag(op.tag).1, result, io));
                }
            }
            let (done, point) = (bench.ops.is_empty(), bench.log.recovery_point());
            let mut again = Bench::with(SMALL, bench.crash(), point, false);
            again.io(|log, io| log.flush(io));
            again.settle();
            // A second crash, before there was another checkpoint.
            let mut again = Bench::with(SMALL, again.crash(), point, false);
            assert!(again.log.is_ready(), "{deleted}, after {steps}: {:?}", again.log.offline());
            let appended = again.append(&sent(4));
            assert!(appended.is_ok(), "{deleted}, after {steps}: {appended:?}");
            // What was kept for the scan alone goes in the end.
            again.io(|log, io| log.checkpoint(io));
            again.settle();
            let (start, _, bases) = again.shape();
            let needed = bases.iter().filter(|base| **base <= start).count();
            assert_eq!(needed, 1, "{deleted}, after {steps}: {bases:?} from {start}");
            if done {
                assert!(steps > 10, "there are many steps");
                break;
            }
            steps += 1;
        }
    }
}

#[test]
fn a_snapshot_before_the_recovery_point_keeps_the_producers_of_deleted_batches() {
    let sent = |id: i64, sequence: i32| {
        let mut builder = BatchBuilder::new(Codec::None).producer(id, 0, sequence);
        builder.push(1_000, None, Some(b"v"), &[]);
        builder.finish()
    };
    let mut bench = Bench::with(CONFIG, Disk::default(), 0, true);
    for sequence in 0..4 {
        bench.append(&sent(9, sequence)).expect("in order");
    }
    assert!(bench.retain(90_000, ms(10)));
    assert_eq!(bench.shape(), (4, 4, vec![4]));
    bench.append(&sent(7, 0)).expect("in order");
    // As a stop leaves it that closed many logs together, when that file is lost; and
    // after a crash in the roll that deletes the rest.
    let files = bench.crash().files;
    for steps in 0.. {
        let disk = Disk { files: files.clone(), ..Disk::default() };
        let mut bench = Bench::with(CONFIG, disk, 5, false);
        bench.io(|log, io| log.retain(UnixMillis(90_000), ms(10), io));
        for _ in 0..steps {
            if !bench.ops.is_empty() {
                let op = bench.ops.remove(0);
                let result = bench.disk.perform(op.kind);
                bench.io(|log, io| log.on_disk(untag(op.tag).1, result, io));
            }
        }
        let done = bench.ops.is_empty();
        let mut again = Bench::with(CONFIG, bench.crash(), 5, false);
        for (id, sequence, offset) in [(9, 3, 3), (7, 0, 4)] {
            let appended = again.append(&sent(id, sequence)).expect("it is there");
            let found = (appended.base_offset, appended.duplicate);
            assert_eq!(found, (offset, true), "after {steps} steps");
        }
        if done {
            assert!(steps > 10, "there are many steps");
            break;
        }
    }
}
