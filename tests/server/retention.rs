//! Old records go, by age and by size, and stay gone.

use std::path::Path;
use std::time::Instant;

use corelane::model::record::{BatchBuilder, Codec};

use crate::harness::wire::{Batch, Wire};
use crate::harness::{PATIENCE, Start, corelane, temp_dir};

const MIB: usize = 1 << 20;

/// One record of half a mebibyte.
fn produce(wire: &mut Wire, topic: &str, timestamp: i64) -> i64 {
    let mut batch = BatchBuilder::new(Codec::None);
    batch.push(timestamp, None, Some(&vec![b'x'; MIB / 2]), &[]);
    let batch = Batch { topic, partition: 0, bytes: batch.finish().into() };
    let (error, offset) = wire.produce(-1, batch).expect("answered");
    assert_eq!(error, 0);
    offset
}

/// Waits until the log begins at `start` and has no more than `segments` files.
fn wait_for(wire: &mut Wire, dir: &Path, topic: &str, start: i64, segments: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = (wire.offsets(topic, 0).expect("answered").0, segments_of(dir, topic));
        if found.0 == start && found.1 <= segments {
            return;
        }
        assert!(found.0 <= start && Instant::now() < deadline, "{topic}: {found:?}");
    }
}

fn segments_of(dir: &Path, topic: &str) -> usize {
    let entries = std::fs::read_dir(dir.join(format!("{topic}-0"))).expect("it is there");
    let names = entries.map(|entry| entry.expect("readable").path());
    names.filter(|path| path.extension().is_some_and(|kind| kind == "log")).count()
}

#[test]
fn records_go_by_age_and_by_size_and_stay_gone() {
    let dir = temp_dir();
    let start = Start::on(dir.path())
        .set("log.segment.bytes=1048576")
        .set("log.retention.check.interval.ms=20");
    let broker = start.broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    let size = (3 * MIB).to_string();
    for (topic, configs) in [
        ("aged", vec![("retention.ms", "3600000")]),
        ("large", vec![("retention.bytes", size.as_str())]),
        ("kept", vec![]),
    ] {
        assert_eq!(wire.create_topic(topic, 1, &configs).expect("answered"), 0);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = i64::try_from(now.expect("it is after 1970").as_millis()).expect("it fits");
    for n in 0..10 {
        // Of the aged ones, the first six are of yesterday.
        let timestamp = if n < 6 { now - 86_400_000 } else { now };
        produce(&mut wire, "aged", timestamp);
        produce(&mut wire, "large", now);
        produce(&mut wire, "kept", 1_000);
    }
    // A segment has one record: with two it would be larger than a mebibyte.
    wait_for(&mut wire, dir.path(), "aged", 6, 4);
    let left = 10 - (3 * MIB).div_ceil(MIB / 2 + 80) as i64;
    wait_for(&mut wire, dir.path(), "large", left, 10 - left as usize);
    assert_eq!(wire.offsets("kept", 0).expect("answered"), (0, 10));

    // Changed while it runs: all of it is of 1970.
    let args = ["topic", "alter", "kept", "--config", "retention.ms=1000"];
    let server = ["--bootstrap", broker.address()];
    assert!(corelane(&[&args[..], &server[..]].concat(), "").status.success());
    wait_for(&mut wire, dir.path(), "kept", 10, 1);
    assert_eq!(wire.read_all("aged", 0).expect("readable").len(), 4);

    broker.kill();
    let broker = start.broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    assert_eq!(wire.offsets("aged", 0).expect("answered"), (6, 10));
    assert_eq!(wire.offsets("kept", 0).expect("answered"), (10, 10));
    assert_eq!(produce(&mut wire, "kept", now), 10);
    assert_eq!(wire.read_all("kept", 0).expect("readable").len(), 1);
    broker.stop();
}
