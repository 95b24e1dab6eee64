//! No space: what is refused, what waits, and that nothing is given up.

use super::*;
use crate::model::error_code::ErrorCode;

type Fails = fn(&DiskOpKind) -> Option<DiskError>;

const NO_SPACE: Option<DiskError> = Some(DiskError::NoSpace);

fn makes_files(kind: &DiskOpKind) -> Option<DiskError> {
    if matches!(kind, DiskOpKind::Open { create: true, .. }) { NO_SPACE } else { None }
}

fn replaces(kind: &DiskOpKind) -> Option<DiskError> {
    if matches!(kind, DiskOpKind::Replace { .. }) { NO_SPACE } else { None }
}

fn creates(kind: &DiskOpKind) -> Option<DiskError> {
    if matches!(kind, DiskOpKind::Create { .. }) { NO_SPACE } else { None }
}

fn makes_dirs(kind: &DiskOpKind) -> Option<DiskError> {
    if matches!(kind, DiskOpKind::CreateDir { .. }) { NO_SPACE } else { None }
}

fn renames(kind: &DiskOpKind) -> Option<DiskError> {
    if matches!(kind, DiskOpKind::Rename { .. }) { NO_SPACE } else { None }
}

#[test]
fn what_finds_no_space_waits_and_goes_on() {
    let table: [(&str, i64, Fails); 4] = [
        ("a segment", 100, makes_files),
        ("an index, a snapshot, the start", 100, replaces),
        ("the directory", 0, makes_dirs),
        ("the first segment", 0, makes_files),
    ];
    for (what, before, fails) in table {
        let mut bench = Bench::new();
        bench.fill(before);
        bench.disk.fail = Some(fails);
        for _ in 0..100 {
            bench.append(&batch(8_000)).expect("memory has room");
        }
        assert!(bench.log.waits_for_space() && bench.log.offline().is_none(), "{what}");
        let committed = bench.log.committed().offset;
        assert!((before..=before + 100).contains(&committed), "{what}");
        let start = committed / 2;
        bench.io(|log, io| log.advance_start(start, io)).expect("committed");
        bench.settle();
        // What is there is read all the while.
        assert_eq!(bench.read(start).len() as i64, (committed - start) * batch(8_000).len() as i64);
        // Still none.
        bench.io(|log, io| log.resume(io));
        bench.settle();
        assert!(bench.log.waits_for_space(), "{what}");

        bench.disk.fail = None;
        bench.io(|log, io| log.resume(io));
        bench.settle();
        let end = before + 100;
        let now = (bench.log.committed().offset, bench.log.kept_start());
        assert_eq!(now, (end, start), "{what}");
        let whole = bench.read(start);
        let mut again = Bench::open(bench.crash(), 0, false);
        assert_eq!(again.log.log_end_offset(), end, "{what}");
        assert!(again.read(start) == whole, "{what}");
    }
}

#[test]
fn a_start_without_space_waits_for_some() {
    for fails in [replaces as Fails, |kind| match kind {
        DiskOpKind::Truncate { .. } => NO_SPACE,
        _ => None,
    }] {
        let mut bench = Bench::new();
        bench.fill(300);
        let whole = bench.read(0);
        let mut disk = bench.crash();
        disk.fail = Some(fails);
        let mut again = Bench::open(disk, 0, false);
        assert!(again.log.is_loading() && again.log.waits_for_space());
        again.disk.fail = None;
        again.io(|log, io| log.resume(io));
        again.settle();
        assert!(again.log.is_ready() && again.read(0) == whole);
    }
}

#[test]
fn a_deletion_without_space_waits_for_some() {
    let mut bench = Bench::new();
    bench.fill(5);
    bench.disk.fail = Some(renames);
    bench.io(|log, io| log.delete(io));
    bench.settle();
    assert!(bench.log.waits_for_space() && !bench.log.is_closed());
    bench.disk.fail = None;
    bench.io(|log, io| log.resume(io));
    bench.settle();
    assert!(bench.log.is_closed() && bench.disk.files.is_empty());
}

#[test]
fn a_deletion_goes_past_a_chore_that_waits() {
    for fails in [makes_files as Fails, makes_dirs, creates] {
        let mut bench = Bench::new();
        bench.disk.fail = Some(fails);
        bench.append(&batch(100)).expect("memory has room");
        assert!(bench.log.waits_for_space());
        bench.io(|log, io| log.delete(io));
        bench.settle();
        assert!(bench.log.is_closed() && bench.files.open() == 0);
    }
}

#[test]
fn without_room_appends_get_what_is_preallocated_and_nothing_else() {
    let mut bench = Bench::new();
    bench.fill(2);
    bench.room = 0;
    let held = bench.disk.log_bytes();
    let mut taken = 0;
    let refused = loop {
        match bench.append(&batch(8_000)) {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::Unavailable);
    assert!(taken > 10 && bench.disk.log_bytes() == held, "{taken}");
    bench.room = ROOM;
    bench.fill(200);
    assert_eq!(bench.count(), 202 + taken);
}

/// The batch of an idempotent producer with this sequence number.
fn numbered(sequence: i32) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None).producer(9, 0, sequence);
    builder.push(1_000, None, Some(&[b'v'; 8_000]), &[]);
    builder.finish()
}

fn five_a_segment() -> LogConfig {
    LogConfig { segment_bytes: 5 * numbered(0).len() as u64, ..CONFIG }
}

/// What the log says to a batch with this sequence number, which is not handed on.
fn offer(bench: &mut Bench, sequence: i32) -> Result<Appended, AppendError> {
    let batch = numbered(sequence);
    let header = BatchHeader::decode(&batch).expect("a whole batch");
    bench.io(|log, io| log.append(UnixMillis(0), &header, &batch, LeaderEpoch(0), io))
}

/// The producer has five acknowledged batches, and everything behind them is lost.
fn check_five(bench: &mut Bench, what: &str) {
    let out_of_order = Err(AppendError::Refused(ErrorCode::OutOfOrderSequenceNumber));
    assert_eq!(bench.log.log_end_offset(), 5, "{what}");
    for known in 0..5 {
        let again = offer(bench, known).expect("it is there");
        assert_eq!((again.base_offset, again.duplicate), (known.into(), true), "{what}");
    }
    assert_eq!(offer(bench, 6), out_of_order, "{what}");
    let next = offer(bench, 5).expect("it follows");
    assert_eq!((next.base_offset, next.duplicate), (5, false), "{what}");
}

#[test]
fn appends_that_are_taken_back_do_not_make_a_producer_unknown() {
    for more in 1..12 {
        let mut bench = Bench::with(five_a_segment(), Disk::default(), 0, true);
        for at in 0..5 {
            bench.append(&numbered(at)).expect("memory has room");
        }
        bench.disk.fail = Some(|kind| match kind {
            DiskOpKind::Allocate { .. } => NO_SPACE,
            _ => None,
        });
        for at in 5..5 + more {
            offer(&mut bench, at).expect("memory has room");
        }
        bench.io(|log, io| log.flush(io));
        bench.settle();
        bench.disk.fail = None;
        assert!(bench.log.retry_space());
        check_five(&mut bench, &format!("{more} more"));
    }
}

#[test]
fn a_snapshot_at_a_roll_has_what_lies_before_however_much_follows() {
    let config = five_a_segment();
    for more in 1..12 {
        let mut bench = Bench::with(config, Disk::default(), 0, true);
        for at in 0..5 {
            bench.append(&numbered(at)).expect("memory has room");
        }
        for at in 5..5 + more {
            offer(&mut bench, at).expect("memory has room");
        }
        bench.io(|log, io| log.flush(io));
        while bench.log.committed().offset == 5 && !bench.ops.is_empty() {
            let op = bench.ops.remove(0);
            let (_, what) = untag(op.tag);
            let result = bench.disk.perform(op.kind);
            bench.io(|log, io| log.on_disk(what, result, io));
            // The power goes, and with it what is not synced.
            let mut files = bench.disk.files.clone();
            if let Some(segment) = files.get_mut(&segment_path(5)) {
                segment.clear();
            }
            let disk = Disk { files, ..Disk::default() };
            let mut again = Bench::with(config, disk, 0, false);
            check_five(&mut again, &format!("{more} more"));
        }
    }
}

#[test]
fn a_log_of_an_earlier_run_fills_its_last_block_before_it_asks_for_space() {
    let one = batch(100);
    for clean in [true, false] {
        let mut bench = Bench::new();
        bench.append(&one).expect("memory has room");
        if clean {
            bench.io(|log, io| log.close(io));
            bench.settle();
        }
        let recovery_point = bench.log.recovery_point();
        let mut again = Bench::open(bench.crash(), recovery_point, clean);
        again.disk.fail = Some(|kind| match kind {
            DiskOpKind::Allocate { .. } => NO_SPACE,
            _ => None,
        });
        again.room = 0;
        while again.append(&one).is_ok() {}
        let fit = (BLOCK / one.len()) as i64;
        assert_eq!((again.log.committed().offset, again.log.is_full()), (fit, false));
        again.room = ROOM;
        again.append(&one).expect("it is not known yet");
        assert!(again.log.is_full() && again.log.log_end_offset() == fit);
        assert_eq!(again.disk.log_bytes(), BLOCK, "nothing is preallocated");
        again.disk.fail = None;
        assert!(again.log.retry_space());
        again.append(&one).expect("there is space");
        assert_eq!(again.log.committed().offset, fit + 1);
        assert!(again.disk.log_bytes() > BLOCK);
        let read = again.read(0);
        let mut third = Bench::open(again.crash(), recovery_point, false);
        assert!(third.read(0) == read && read.len() == (fit as usize + 1) * one.len());
    }
}
