//! A flipped bit in any file: seen, never served, made good where it can be.

use super::*;

/// A closed log of several segments and what it held.
fn closed() -> (BTreeMap<PathBuf, Vec<u8>>, Vec<u8>, i64) {
    let mut bench = Bench::new();
    for n in 0..300_i32 {
        let mut builder = BatchBuilder::new(Codec::None).producer(7, 0, n);
        builder.push(1_000, None, Some(&vec![n as u8; 8_000]), &[]);
        bench.append(&builder.finish()).expect("the log takes it");
    }
    bench.io(|log, io| log.advance_start(3, io)).expect("committed");
    bench.settle();
    let all = bench.read(3);
    bench.io(|log, io| log.close(io));
    bench.settle();
    let point = bench.log.recovery_point();
    (bench.crash().files, all, point)
}

/// Reads to the end as a client would, or until the log is offline.
fn read_or_fail(bench: &mut Bench, mut offset: i64) -> Vec<u8> {
    let mut all = vec![];
    loop {
        let end = bench.log.committed();
        let mut rope = Rope::default();
        match bench.io(|log, io| log.read(offset, 100_000, true, end, &mut rope, io)) {
            Read::Wait => bench.settle(),
            Read::Done if !rope.is_empty() => {
                let bytes = rope.to_vec();
                let mut at = 0;
                while let Some(header) = BatchHeader::decode(&bytes[at..]) {
                    offset = header.next_offset();
                    at += header.total_len().expect("a batch");
                }
                all.extend(bytes);
            }
            _ => return all,
        }
    }
}

#[test]
fn a_flipped_bit_is_never_served() {
    let (files, all, point) = closed();
    let mut outcomes: BTreeMap<String, [u32; 2]> = BTreeMap::new();
    let mut rng = crate::base::rng::Rng::new(5);
    for (path, content) in &files {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let kind = name.rsplit('.').next().unwrap_or(&name).to_owned();
        for _ in 0..if content.len() > 1000 { 6 } else { 24 } {
            let bit = rng.below(content.len() as u64 * 8) as usize;
            for clean in [true, false] {
                let mut files = files.clone();
                files.get_mut(path).expect("it is there")[bit / 8] ^= 1 << (bit % 8);
                let disk = Disk { files, ..Disk::default() };
                let mut bench = Bench::open(disk, point, clean);
                let read = if bench.log.is_ready() { read_or_fail(&mut bench, 3) } else { vec![] };
                let whole = read == all;
                assert!(all.starts_with(&read), "{name} bit {bit}: something else was served");
                let offline = bench.log.offline().is_some();
                assert!(
                    whole || offline,
                    "{name} bit {bit} clean {clean}: short, and nobody says so"
                );
                outcomes.entry(kind.clone()).or_default()[usize::from(!whole)] += 1;
            }
        }
    }
    // What can be made again is made again.
    for kind in ["index", "snapshot", "leader-epoch-checkpoint"] {
        assert_eq!(outcomes[kind][1], 0, "{kind}: {outcomes:?}");
    }
    for kind in ["log", "metadata", "log-start-offset-checkpoint"] {
        assert!(outcomes[kind][1] > 0, "{kind}: {outcomes:?}");
    }
}

#[test]
fn a_making_that_was_cut_short_is_made_again() {
    let file = |name: &str, content: &[u8]| (Path::new(DIR).join(name), content.to_vec());
    let (metadata, log) = ("partition.metadata", "00000000000000000000.log");
    type Files<'a> = &'a [(PathBuf, Vec<u8>)];
    let table: [(Files<'_>, bool, bool); 6] = [
        (&[file(log, b"")], false, true),
        (&[file(metadata, b"versi"), file(log, b"")], false, true),
        (&[file(metadata, b""), file("leader-epoch-checkpoint", b"0\n1")], false, true),
        // The start after that may have been stopped cleanly.
        (&[file(metadata, b"versi"), file(log, b"")], true, true),
        // There was a write, so all this had been durable.
        (&[file(log, &[0; 4096])], false, false),
        (&[file(metadata, b"versi"), file(log, &[0; 4096])], false, false),
    ];
    for (files, clean, ready) in table {
        let disk = Disk { files: files.iter().cloned().collect(), ..Disk::default() };
        let mut bench = Bench::open(disk, 0, clean);
        assert_eq!(bench.log.is_ready(), ready, "{files:?}");
        if ready {
            bench.fill(2);
            let mut bench = Bench::open(bench.crash(), 0, false);
            assert_eq!(bench.log.log_end_offset(), 2, "{files:?}");
            bench.fill(1);
        }
    }
}

#[test]
fn a_read_that_ends_when_the_log_is_offline_keeps_no_memory() {
    let mut bench = Bench::new();
    bench.fill(3);
    bench.io(|log, _| log.evict(usize::MAX) + log.evict_cold(0));
    let end = bench.log.committed();
    let mut rope = Rope::default();
    let read = bench.io(|log, io| log.read(0, 100_000, true, end, &mut rope, io));
    assert!(matches!(read, Read::Wait) && bench.ops.len() == 1);
    bench.log.fail(Offline::Corrupt("a story".into()));
    bench.settle();
    assert_eq!(bench.pages.in_use(), 0);
}
