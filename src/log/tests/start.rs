//! The start of the log moves up, survives, and takes whole segments with it.

use super::*;
use crate::log::OutOfRange;

fn checkpoint() -> PathBuf {
    Path::new(DIR).join("log-start-offset-checkpoint")
}

fn bases(disk: &Disk) -> Vec<i64> {
    let stem = |path: &PathBuf| path.file_stem()?.to_str()?.parse().ok();
    let logs = disk.files.keys().filter(|path| path.extension().is_some_and(|kind| kind == "log"));
    logs.filter_map(stem).collect()
}

fn advance(bench: &mut Bench, offset: i64) -> Result<(), OutOfRange> {
    let result = bench.io(|log, io| log.advance_start(offset, io));
    bench.settle();
    result
}

#[test]
fn segments_below_the_start_are_deleted_and_nothing_below_it_is_served() {
    let mut bench = Bench::new();
    bench.fill(400);
    let before = bases(&bench.disk);
    assert!(before.len() > 3);
    // Cold pages and open files of what goes are no hindrance.
    bench.io(|log, _| log.evict(usize::MAX));
    bench.read(0);
    let start = before[2] + 1;
    let kept = bench.read(before[2]);
    assert_eq!(advance(&mut bench, start), Ok(()));
    assert_eq!((bench.log.log_start_offset(), bench.log.kept_start()), (start, start));
    assert_eq!(bases(&bench.disk), before[2..]);
    assert!(!bench.disk.files.keys().any(|path| path.ends_with(format!("{:020}.index", 0))));
    assert_eq!(
        bench.disk.files[&checkpoint()],
        format!("0\n2\nt 0 {start}\nt 0 {start}\n").into_bytes()
    );
    let end = bench.log.committed();
    let mut rope = Rope::default();
    let below = bench.io(|log, io| log.read(start - 1, 1000, true, end, &mut rope, io));
    assert_eq!(below, Read::OutOfRange);
    // The batch that holds the start is served whole.
    assert!(bench.read(start).len() == kept.len() - batch(8_000).len());

    // Neither back nor beyond the end.
    assert_eq!(advance(&mut bench, 3), Ok(()));
    assert_eq!(bench.log.log_start_offset(), start);
    assert_eq!(advance(&mut bench, 401), Err(OutOfRange));

    let mut again = Bench::open(bench.crash(), 0, false);
    assert_eq!((again.log.log_start_offset(), again.log.log_end_offset()), (start, 400));
    // All of it: the segment that is written to stays.
    assert_eq!(advance(&mut again, 400), Ok(()));
    assert_eq!(bases(&again.disk).len(), 1);
    again.fill(1);
    let mut last = Bench::open(again.crash(), 0, false);
    assert_eq!((last.log.log_start_offset(), last.read(400).len()), (400, batch(8_000).len()));
}

#[test]
fn a_deletion_that_was_cut_short_goes_on_at_the_next_start() {
    let mut bench = Bench::new();
    bench.fill(400);
    let before = bases(&bench.disk);
    let whole = bench.disk.files.clone();
    let start = before[3];
    advance(&mut bench, start).expect("in range");
    let mut disk = bench.crash();
    for (path, content) in whole {
        let is_first = path.ends_with(format!("{:020}.log", 0));
        let removed = !disk.files.contains_key(&path);
        // Of the first segment the log is gone already, of the others nothing.
        if removed && !is_first && !path.to_string_lossy().ends_with("snapshot") {
            disk.files.insert(path, content);
        }
    }
    // What is deleted is not looked at any more.
    let second = disk.segment(before[1]);
    second.truncate(100);
    let mut again = Bench::open(disk, 0, false);
    // Removals wait for something to happen to the log.
    again.fill(1);
    assert_eq!(again.log.log_start_offset(), start);
    assert_eq!(bases(&again.disk), before[3..]);
    let rest = again.disk.files.keys().filter(|path| path.to_string_lossy().contains("index"));
    assert!(rest.count() <= before.len() - 3, "{:?}", again.disk.files.keys());
}

#[test]
fn a_damaged_start_is_no_start() {
    let mut bench = Bench::new();
    bench.fill(5);
    advance(&mut bench, 3).expect("in range");
    let files = bench.crash().files;
    let good = &files[&checkpoint()];
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let mut files = files.clone();
        files.insert(checkpoint(), bad);
        let bench = Bench::open(Disk { files, ..Disk::default() }, 0, false);
        assert!(bench.corrupt().contains("log-start-offset-checkpoint"), "bit {bit}");
    }
    let mut files = files.clone();
    files.insert(checkpoint(), b"0\n2\nt 0 9\nt 0 9\n".to_vec());
    let bench = Bench::open(Disk { files, ..Disk::default() }, 0, false);
    assert!(bench.corrupt().contains("where 9 were durable"));
}

#[test]
fn a_first_segment_that_vanished_is_missed() {
    let mut bench = Bench::new();
    bench.fill(300);
    let mut disk = bench.crash();
    disk.files.remove(&segment_path(0));
    assert!(Bench::open(disk, 0, false).corrupt().contains("no segment holds the start"));
}

#[test]
fn with_relaxed_flushes_the_start_is_kept_after_what_lies_before_it() {
    let config = LogConfig { flush_messages: 1000, ..CONFIG };
    let mut bench = Bench::with(config, Disk::default(), 0, true);
    bench.fill(5);
    bench.disk.fail = Some(|kind| match kind {
        DiskOpKind::Replace { path, .. } if path.ends_with("log-start-offset-checkpoint") => {
            Some(DiskError::Io(5))
        }
        _ => None,
    });
    assert!(bench.log.is_unsynced());
    bench.io(|log, io| log.advance_start(5, io)).expect("committed");
    let keeps = |op: &DiskOp| matches!(&op.kind, DiskOpKind::Replace { path, .. } if path.ends_with("log-start-offset-checkpoint"));
    assert!(matches!(bench.ops[0].kind, DiskOpKind::Sync { .. }), "the sync comes first");
    assert!(!bench.ops.iter().any(keeps), "the start is kept too early");
    bench.settle();
    assert!(matches!(bench.log.offline(), Some(Offline::Disk { .. })));
}
