//! Old records go, by age, by size and by key, and stay gone.

use std::collections::BTreeMap;
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
    // A while ahead, or it would soon be too old.
    assert_eq!(produce(&mut wire, "kept", now + 1_800_000), 10);
    assert_eq!(wire.read_all("kept", 0).expect("readable").len(), 1);
    broker.stop();
}

const INVALID_RECORD: i16 = 87;

/// What the records say of each key.
fn values(wire: &mut Wire, topic: &str) -> (usize, BTreeMap<String, Option<Vec<u8>>>) {
    let records = wire.read_all(topic, 0).expect("readable");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let count = records.len();
    let pairs = records.into_iter().map(|record| {
        (text(&record.key.expect("a key")), record.value.map(|value| value.to_vec()))
    });
    (count, pairs.collect())
}

#[test]
fn of_a_compacted_topic_the_last_record_of_each_key_stays() {
    let dir = temp_dir();
    let start =
        Start::on(dir.path()).set("log.segment.bytes=1048576").set("log.cleaner.backoff.ms=20");
    let broker = start.broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    let configs = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.01")];
    assert_eq!(wire.create_topic("keyed", 1, &configs).expect("answered"), 0);
    let mut model = BTreeMap::new();
    let codecs = [Codec::None, Codec::Lz4, Codec::Zstd, Codec::Gzip, Codec::Snappy];
    let mut state = 1_u32;
    for n in 0..120_usize {
        let mut batch = BatchBuilder::new(codecs[n % codecs.len()]);
        for k in 0..50 {
            let key = format!("key {}", (n * 7 + k) % 300);
            // Bytes that do not compress.
            let value: Vec<u8> = (0..1_000)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            batch.push(1_000, Some(key.as_bytes()), Some(&value), &[]);
            model.insert(key, Some(value));
        }
        let batch = Batch { topic: "keyed", partition: 0, bytes: batch.finish().into() };
        assert_eq!(wire.produce(-1, batch).expect("answered").0, 0);
    }
    // Until about a segment and the keys are left.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (count, found) = values(&mut wire, "keyed");
        assert_eq!(found, model);
        if count < 1_500 {
            break;
        }
        assert!(Instant::now() < deadline, "{count} records are left");
    }
    let mut keyless = BatchBuilder::new(Codec::None);
    keyless.push(1_000, None, Some(b"v"), &[]);
    let batch = Batch { topic: "keyed", partition: 0, bytes: keyless.finish().into() };
    assert_eq!(wire.produce(-1, batch).expect("answered").0, INVALID_RECORD);
    broker.kill();
    let broker = start.broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    assert_eq!(values(&mut wire, "keyed").1, model);
    assert_eq!(wire.offsets("keyed", 0).expect("answered"), (0, 6_000));
    broker.stop();
}
