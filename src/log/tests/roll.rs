//! Stories of segments that are sealed for other reasons than their size.

use super::*;

impl Bench {
    /// Appends a record with this timestamp when the broker's clock says `now`.
    pub(super) fn append_at(&mut self, now: i64, timestamp: i64) {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(timestamp, None, Some(b"v"), &[]);
        let batch = builder.finish();
        let header = BatchHeader::decode(&batch).expect("a whole batch");
        let epoch = LeaderEpoch(0);
        self.io(|log, io| log.append(UnixMillis(now), &header, &batch, epoch, io)).expect("room");
        self.io(|log, io| log.flush(io));
        self.settle();
    }

    pub(super) fn bases(&self) -> Vec<i64> {
        self.log.segments.iter().map(|segment| segment.base_offset).collect()
    }
}

fn aged(jitter: u64) -> LogConfig {
    LogConfig { segment_ms: 1_000, segment_jitter_ms: jitter, ..CONFIG }
}

#[test]
fn time_goes_by_the_timestamps() {
    let mut bench = Bench::with(aged(0), Disk::default(), 0, true);
    for (now, timestamp) in [(0, 5_000), (90_000, 6_000), (90_000, 100), (90_000, 6_001)] {
        bench.append_at(now, timestamp);
    }
    assert_eq!(bench.bases(), [0, 3]);
    // What was read from disk is as old as it was.
    for clean in [true, false] {
        bench.append_at(0, 7_001);
        if clean {
            bench.io(|log, io| log.close(io));
            bench.settle();
        }
        let end = bench.log.log_end_offset();
        bench = Bench::with(aged(0), bench.crash(), end, clean);
    }
    assert_eq!(bench.bases(), [0, 3]);
    bench.append_at(0, 7_002);
    assert_eq!(bench.bases(), [0, 3, 6]);
    assert_eq!(bench.disk.segments().count(), 3);
}

#[test]
fn a_long_segment_is_as_old_as_its_first_batch_after_a_restart() {
    let mut bench = Bench::with(aged(0), Disk::default(), 0, true);
    bench.append_at(0, 500);
    bench.fill(20);
    assert!(!bench.log.segments[0].index.is_empty());
    bench.io(|log, io| log.close(io));
    bench.settle();
    let mut bench = Bench::with(aged(0), bench.crash(), 21, true);
    assert_eq!(bench.log.segments[0].first_timestamp, Some(500));
    bench.append_at(0, 1_500);
    bench.append_at(0, 1_501);
    assert_eq!(bench.bases(), [0, 22]);
}

#[test]
fn without_timestamps_time_goes_by_the_brokers_clock() {
    let mut bench = Bench::with(aged(0), Disk::default(), 0, true);
    for now in [70_000, 71_000, 71_001, 72_001, 72_002] {
        bench.append_at(now, -1);
    }
    assert_eq!(bench.bases(), [0, 2, 4]);
}

#[test]
fn jitter_makes_segments_younger_by_no_more_than_it_says() {
    let mut bench = Bench::with(aged(400), Disk::default(), 0, true);
    (0..40_000).step_by(10).for_each(|time| bench.append_at(0, time));
    let bases = bench.bases();
    let ages: Vec<i64> = bases.windows(2).map(|pair| (pair[1] - pair[0]) * 10).collect();
    assert!(ages.iter().all(|age| (600..=1_020).contains(age)), "{ages:?}");
    assert!(ages.iter().any(|age| *age != ages[0]), "{ages:?}");
}

#[test]
fn a_full_index_seals_its_segment() {
    let config = LogConfig { segment_index_bytes: 40, index_interval_bytes: 4096, ..CONFIG };
    let mut bench = Bench::with(config, Disk::default(), 0, true);
    bench.fill(20);
    // Every batch but a segment's first has an entry, and five fit.
    assert_eq!(bench.bases(), [0, 6, 12, 18]);
    let is_index = |path: &PathBuf| path.extension().is_some_and(|name| name == "index");
    let indexes = bench.disk.files.iter().filter(|(path, _)| is_index(path));
    assert!(indexes.map(|(_, bytes)| bytes.len()).all(|len| len <= 40));
}

#[test]
fn files_that_were_given_back_are_opened_when_they_are_needed() {
    let mut bench = Bench::with(CONFIG, Disk::default(), 0, true);
    let release = |log: &mut Log, io: &mut LogIo<'_>| log.release_files(io);
    bench.fill(300);
    assert!(bench.disk.open.len() > 2);
    assert_eq!(bench.io(release), 0, "it was used lately");
    assert!(bench.io(release) > 2);
    bench.settle();
    assert_eq!((bench.disk.open.len(), bench.files.open()), (0, 0));
    bench.io(|log, _| log.evict(usize::MAX));
    assert_eq!(bench.count(), 300);
    bench.fill(5);
    while bench.io(release) == 0 {}
    bench.settle();
    // What is closed without being used again is cut as well.
    bench.io(|log, io| log.close(io));
    bench.settle();
    assert!(bench.log.is_closed() && bench.disk.open.is_empty());
    assert_eq!(bench.disk.log_bytes(), 305 * batch(8_000).len());
    let mut again = Bench::open(bench.crash(), 305, true);
    assert_eq!(again.count(), 305);
}

#[test]
fn a_segment_whose_file_was_given_back_is_cut_when_the_next_one_begins() {
    let mut bench = Bench::with(aged(0), Disk::default(), 0, true);
    bench.append_at(0, 500);
    let exact = bench.log.size();
    while bench.io(|log, io| log.release_files(io)) == 0 {}
    bench.settle();
    bench.append_at(0, 5_000);
    assert_eq!(bench.bases(), [0, 1]);
    assert_eq!(bench.disk.segment(0).len() as u64, exact);
}

#[test]
fn a_segment_is_checked_although_the_next_one_begins_at_the_recovery_point() {
    let mut bench = Bench::with(aged(0), Disk::default(), 0, true);
    bench.append_at(0, 500);
    let exact = bench.log.size();
    bench.append_at(0, 5_000);
    let mut disk = bench.crash();
    // As it was before it was cut, which comes after the next file is made.
    disk.segment(0).resize(1 << 20, 0);
    let mut bench = Bench::with(aged(0), disk, 1, false);
    assert_eq!((bench.log.segments[0].size, bench.disk.segment(0).len() as u64), (exact, exact));
    assert_eq!(bench.log.log_end_offset(), 2);
}
