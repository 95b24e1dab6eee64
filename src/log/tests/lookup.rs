//! Stories of offsets looked up by timestamp, against a plain list of records.

use super::super::lookup::{Search, TimeSearch, TimeTarget};
use super::*;
use crate::base::rng::Rng;

impl Bench {
    /// A search to its end: the timestamp and the offset that were found.
    fn search(&mut self, target: TimeTarget) -> Option<(i64, i64)> {
        let mut search = TimeSearch::new(target);
        for _ in 0..10_000 {
            match self.io(|log, io| log.search(&mut search, io)) {
                Search::Found(found) => return Some((found.timestamp, found.offset)),
                Search::Nothing => return None,
                Search::Wait => self.settle(),
                Search::Pause => {}
                other => panic!("{other:?} for {target:?}"),
            }
        }
        panic!("{target:?} has no end");
    }

    /// Compares every search with the timestamps of all records in order.
    fn compare(&mut self, times: &[i64], what: &str) {
        let mut targets: Vec<i64> = times.iter().flat_map(|time| [time - 1, *time]).collect();
        targets.push(i64::MAX);
        targets.sort_unstable();
        targets.dedup();
        for target in targets.into_iter().filter(|target| *target >= 0).step_by(11) {
            let at = times.iter().position(|time| *time >= target);
            let expected = at.map(|at| (times[at], at as i64));
            assert_eq!(self.search(TimeTarget::From(target)), expected, "{what}: from {target}");
        }
        let max = times.iter().copied().max().filter(|max| *max >= 0);
        let first = max.and_then(|max| times.iter().position(|time| *time == max));
        let expected = max.zip(first.map(|at| at as i64));
        assert_eq!(self.search(TimeTarget::Latest), expected, "{what}: the latest");
    }
}

fn timed(codec: Codec, times: &[i64], value: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    for time in times {
        // Bytes that do not compress.
        let mut rng = Rng::stream(*time as u64, "values");
        let value: Vec<u8> = (0..value).map(|_| rng.next_u64() as u8).collect();
        builder.push(*time, None, Some(&value), &[]);
    }
    builder.finish()
}

/// Batches of one to four records whose timestamps mostly grow.
fn fill(bench: &mut Bench, rng: &mut Rng, batches: usize, times: &mut Vec<i64>) {
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    for n in 0..batches {
        let mut batch = vec![];
        for _ in 0..rng.between(1, 4) {
            let time = times.len() as i64 * 10 + rng.between(0, 400) as i64 - 200;
            batch.push(if rng.between(0, 40) == 0 { -1 } else { time });
        }
        let timed = timed(codecs[n % 5], &batch, 3_000);
        bench.append(&timed).expect("the log takes it");
        times.append(&mut batch);
    }
}

#[test]
fn every_timestamp_is_found_warm_cold_recovered_and_reopened() {
    let mut rng = Rng::stream(3, "timestamps");
    let (mut bench, mut times) = (Bench::new(), vec![]);
    bench.compare(&times, "empty");
    fill(&mut bench, &mut rng, 500, &mut times);
    assert!(bench.log.segments.len() > 2);
    bench.compare(&times, "warm");
    bench.io(|log, _| log.evict(usize::MAX));
    bench.compare(&times, "cold");

    let recovery_point = bench.log.recovery_point();
    assert!(recovery_point > 0);
    let mut bench = Bench::open(bench.crash(), recovery_point, false);
    bench.compare(&times, "recovered");
    fill(&mut bench, &mut rng, 30, &mut times);
    bench.io(|log, io| log.checkpoint(io));
    bench.settle();
    let recovery_point = bench.log.recovery_point();
    assert_eq!(recovery_point, times.len() as i64);
    let mut bench = Bench::open(bench.crash(), recovery_point, false);
    bench.compare(&times, "recovered from a checkpoint");

    bench.io(|log, io| log.close(io));
    bench.settle();
    let end = times.len() as i64;
    let mut bench = Bench::open(bench.crash(), end, true);
    bench.compare(&times, "reopened");
    fill(&mut bench, &mut rng, 30, &mut times);
    bench.compare(&times, "reopened and written to");
    // Without its time indexes the log makes them again.
    bench.io(|log, io| log.close(io));
    bench.settle();
    let mut disk = bench.crash();
    let whole = disk.files.clone();
    disk.files.retain(|path, _| path.extension().is_none_or(|name| name != "timeindex"));
    let mut bench = Bench::open(disk, times.len() as i64, true);
    bench.compare(&times, "time indexes lost");
    bench.io(|log, io| log.close(io));
    bench.settle();
    assert!(bench.crash().files == whole, "the files are what they were");
}

#[test]
fn the_latest_is_not_found_before_it_is_committed() {
    let mut bench = Bench::new();
    bench.append(&timed(Codec::None, &[5, 9], 10)).expect("room");
    let second = timed(Codec::None, &[7, 20], 10);
    let header = BatchHeader::decode(&second).expect("a whole batch");
    bench
        .io(|log, io| log.append(UnixMillis(0), &header, &second, LeaderEpoch(0), io))
        .expect("room");
    let mut search = TimeSearch::new(TimeTarget::Latest);
    assert_eq!(bench.io(|log, io| log.search(&mut search, io)), Search::Wait);
    assert_eq!(bench.search(TimeTarget::From(10)), None);
    bench.io(|log, io| log.flush(io));
    bench.settle();
    assert_eq!(bench.search(TimeTarget::Latest), Some((20, 3)));
    assert_eq!(bench.search(TimeTarget::From(10)), Some((20, 3)));
}

#[test]
fn a_timestamp_that_was_rolled_back_is_forgotten() {
    let mut bench = Bench::new();
    bench.log.config.segment_bytes = 1 << 30;
    bench.append(&timed(Codec::None, &[5], 10)).expect("room");
    bench.disk.fail =
        Some(|kind| matches!(kind, DiskOpKind::Allocate { .. }).then_some(DiskError::NoSpace));
    bench.append(&timed(Codec::None, &[99], 4 << 20)).expect("it is not known yet");
    assert_eq!((bench.log.is_full(), bench.log.log_end_offset()), (true, 1));
    assert_eq!(bench.search(TimeTarget::Latest), Some((5, 0)));
    assert_eq!(bench.search(TimeTarget::From(6)), None);
}

#[test]
fn one_timestamp_for_all_is_that_of_the_first_record() {
    let mut bench = Bench::new();
    let mut builder = BatchBuilder::new(Codec::Zstd).attributes(0x08);
    for time in [3, 8, 4] {
        builder.push(time, None, None, &[]);
    }
    bench.append(&builder.finish()).expect("room");
    assert_eq!(bench.search(TimeTarget::From(0)), Some((8, 0)));
    assert_eq!(bench.search(TimeTarget::Latest), Some((8, 0)));
    assert_eq!(bench.search(TimeTarget::From(9)), None);
}

#[test]
fn a_damaged_batch_is_not_looked_into() {
    let mut bench = Bench::new();
    bench.append(&timed(Codec::None, &[5, 9], 10)).expect("room");
    bench.io(|log, io| log.close(io));
    bench.settle();
    let mut bench = Bench::open(bench.crash(), 2, true);
    bench.io(|log, _| log.evict(usize::MAX));
    bench.log.tail = Default::default();
    let last = bench.disk.segment(0).len() - 1;
    bench.disk.segment(0)[last] ^= 1;
    let mut search = TimeSearch::new(TimeTarget::From(6));
    assert_eq!(bench.io(|log, io| log.search(&mut search, io)), Search::Wait);
    bench.settle();
    assert_eq!(bench.io(|log, io| log.search(&mut search, io)), Search::Damaged);
}
