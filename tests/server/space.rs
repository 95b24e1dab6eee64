//! A disk that is full, and one that fails: on a small ext4 of its own.
//!
//! A few cycles run in plain `cargo test`, if it runs as root. Fifty:
//! `cargo test --test server -- --ignored --nocapture fill_and_drain_50`
//! (`CORELANE_TEST_ROUNDS` for another number, `CORELANE_TEST_SEED` for other draws).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use corelane::base::rng::Rng;
use corelane::model::record::{BatchBuilder, Codec};
use corelane::wire::small::{
    Bytes, DeleteRecordsRequest, DescribeLogDirsRequest, StrBytes, delete_records_request,
};

use crate::harness::wire::{Batch, Wire};
use crate::harness::{Broker, PATIENCE, Start};
use crate::image::{Image, can_mount, run};
use crate::number;

const IMAGE_BYTES: u64 = 64 << 20;
const TOPIC: &str = "fill";
const PARTITIONS: i32 = 2;

const STORAGE_ERROR: i16 = 56;
const OFFSET_OUT_OF_RANGE: i16 = 1;

#[test]
fn a_full_disk_is_drained_and_filled_again() {
    fill_and_drain(3, 1);
}

#[test]
#[ignore = "takes minutes; run it with --ignored"]
fn fill_and_drain_50() {
    fill_and_drain(number("CORELANE_TEST_ROUNDS", 50), number("CORELANE_TEST_SEED", 1));
}

/// What was acknowledged and not deleted: values by offset.
type Kept = BTreeMap<(i32, i64), Vec<u8>>;

fn fill_and_drain(cycles: u64, seed: u64) {
    if !can_mount() {
        return;
    }
    let started = Instant::now();
    let mut rng = Rng::stream(seed, "fill and drain");
    let image = Image::create(IMAGE_BYTES);
    let start = Start::on(&image.data()).set("log.segment.bytes=1048576");
    let mut broker = start.broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    assert_eq!(wire.create_topic(TOPIC, PARTITIONS, &[]).expect("answered"), 0);
    let mut kept = Kept::new();
    let mut acknowledged = 0;
    for cycle in 0..cycles {
        let when = format!("seed {seed}, cycle {cycle}");
        assert_eq!(wire.create_topic("gone", 1, &[]).expect("answered"), 0, "{when}");
        accepted(&mut wire, "gone", 0, &mut rng);
        let filled = fill(&mut wire, &mut rng, &mut kept);
        assert!(filled > 100, "{when}: {filled} records fitted");
        acknowledged += filled;
        let left = usable(image.mount_point().as_path());
        assert!(left > 0, "{when}: batches were taken to the last byte");

        // Others take the rest.
        let filler = (cycle % 2 == 0).then(|| Filler::new(&image));
        verify(&mut wire, &kept, &when);
        if rng.chance(1, 2) {
            assert_eq!(wire.delete_topic("gone").expect("answered"), 0, "{when}");
        }
        if rng.chance(2, 3) {
            if rng.chance(1, 2) {
                broker.kill();
            } else {
                broker.signal(rustix::process::Signal::TERM);
                broker.wait();
            }
            broker = start.broker();
            wire = Wire::connect(broker.address()).expect("it listens");
            verify(&mut wire, &kept, &when);
        }
        if wire.topics().expect("answered").contains_key("gone") {
            assert_eq!(wire.delete_topic("gone").expect("answered"), 0, "{when}");
        }
        for partition in 0..PARTITIONS {
            let (_, end) = wire.offsets(TOPIC, partition).expect("answered");
            // Now and then something stays.
            let to = if rng.chance(1, 3) { end - rng.between(1, 20) as i64 } else { end };
            assert_eq!(delete_records(&mut wire, partition, to), (0, to), "{when}");
            kept.retain(|(of, offset), _| *of != partition || *offset >= to);
            assert_eq!(wire.offsets(TOPIC, partition).expect("answered"), (to, end), "{when}");
            let below = wire.fetch(TOPIC, partition, to - 1, 0).expect_err("it is deleted");
            assert!(below.to_string().ends_with(&format!("error {OFFSET_OUT_OF_RANGE}")));
        }
        verify(&mut wire, &kept, &when);
        drop(filler);
    }
    broker.stop();
    let broker = start.broker();
    assert!(broker.was_clean());
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    verify(&mut wire, &kept, "after an orderly stop");
    describe(&broker, &mut wire, &image);
    broker.stop();
    println!(
        "space: {cycles} cycles; {acknowledged} records acknowledged, none lost; {:.1} s, seed \
         {seed}",
        started.elapsed().as_secs_f64()
    );
}

/// The sizes of the directory and the disk are told.
fn describe(broker: &Broker, wire: &mut Wire, image: &Image) {
    let mut request = DescribeLogDirsRequest::default();
    request.topics = None;
    let response = wire.call(5, &request).expect("answered");
    let dir = &response.results[0];
    assert_eq!((dir.error_code, Path::new(&*dir.log_dir)), (0, broker.dir()));
    let usable = usable(image.mount_point().as_path());
    assert!(dir.total_bytes > 40 << 20 && dir.total_bytes < IMAGE_BYTES as i64);
    assert!(usable.abs_diff(dir.usable_bytes as u64) < 8 << 20, "{usable} {dir:?}");
    assert_eq!(dir.topics.len(), 1);
}

/// Sends records until the disk takes no more; how many it took.
fn fill(wire: &mut Wire, rng: &mut Rng, kept: &mut Kept) -> u64 {
    let (mut taken, mut refused) = (0, [0; PARTITIONS as usize]);
    // What is refused once may be accepted again: space is given back late.
    while refused.iter().any(|count| *count < 3) {
        for partition in 0..PARTITIONS {
            let value = value(rng);
            match send(wire, TOPIC, partition, &value) {
                (0, offset) => {
                    taken += 1;
                    let before = kept.insert((partition, offset), value);
                    assert_eq!(before, None, "an offset is given once");
                }
                (STORAGE_ERROR, _) => refused[partition as usize] += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    taken
}

/// Sends a record until it is accepted.
fn accepted(wire: &mut Wire, topic: &str, partition: i32, rng: &mut Rng) {
    let deadline = Instant::now() + PATIENCE;
    let value = value(rng);
    while send(wire, topic, partition, &value).0 != 0 {
        assert!(Instant::now() < deadline, "nothing is accepted any more");
    }
}

fn value(rng: &mut Rng) -> Vec<u8> {
    let mut value = vec![0; rng.between(20_000, 120_000) as usize];
    value.chunks_mut(8).for_each(|chunk| {
        chunk.copy_from_slice(&rng.next_u64().to_le_bytes()[..chunk.len()]);
    });
    value
}

fn send(wire: &mut Wire, topic: &str, partition: i32, value: &[u8]) -> (i16, i64) {
    let mut batch = BatchBuilder::new(Codec::None);
    batch.push(1, None, Some(value), &[]);
    let bytes = Bytes::from(batch.finish());
    wire.produce(-1, Batch { topic, partition, bytes }).expect("answered")
}

/// Reads everything: it is what was acknowledged, and nothing else.
fn verify(wire: &mut Wire, kept: &Kept, when: &str) {
    let mut found = 0;
    for partition in 0..PARTITIONS {
        for record in wire.read_all(TOPIC, partition).unwrap_or_else(|e| panic!("{when}: {e}")) {
            found += 1;
            let known = kept.get(&(partition, record.offset));
            assert!(known.map(Vec::as_slice) == record.value.as_deref(), "{when}: {partition}");
        }
    }
    assert_eq!(found, kept.len(), "{when}");
}

/// Moves the start of a partition; error code and low watermark.
fn delete_records(wire: &mut Wire, partition: i32, offset: i64) -> (i16, i64) {
    let mut row = delete_records_request::DeleteRecordsPartition::default();
    row.partition_index = partition;
    row.offset = offset;
    let mut topic = delete_records_request::DeleteRecordsTopic::default();
    topic.name = StrBytes::from(TOPIC);
    topic.partitions.push(row);
    let mut request = DeleteRecordsRequest::default();
    request.topics.push(topic);
    request.timeout_ms = PATIENCE.as_millis() as i32;
    let response = wire.call(2, &request).expect("answered");
    let row = &response.topics[0].partitions[0];
    (row.error_code, row.low_watermark)
}

fn usable(path: &Path) -> u64 {
    let found = rustix::fs::statvfs(path).expect("it is mounted");
    found.f_bavail * found.f_frsize
}

/// A file that takes all that is left; dropped, it gives it back.
struct Filler(std::path::PathBuf);

impl Filler {
    fn new(image: &Image) -> Self {
        let path = image.mount_point().join("filler");
        let mut file = File::create(&path).expect("an inode is left");
        let block = vec![7; 1 << 20];
        for len in [1 << 20, 4096] {
            while file.write_all(&block[..len]).is_ok() {}
        }
        // What was written last may have found no place.
        let _ = file.sync_all();
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Acknowledges a few records, then `fail`s the directory: produces are refused,
/// the broker stays up and says why; `heal` it, and all of them are there.
fn fails(image: Image, fail: impl FnOnce(&Image), heal: impl FnOnce(Image) -> Image) {
    let start = Start::on(&image.data());
    let broker = start.broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    assert_eq!(wire.create_topic(TOPIC, PARTITIONS, &[]).expect("answered"), 0);
    let mut rng = Rng::new(1);
    let mut kept = Kept::new();
    for _ in 0..50 {
        let value = value(&mut rng);
        let (code, offset) = send(&mut wire, TOPIC, 0, &value);
        assert_eq!(code, 0);
        kept.insert((0, offset), value);
    }
    fail(&image);
    let deadline = Instant::now() + PATIENCE;
    let value = value(&mut rng);
    // Space that is reserved and descriptors that are open may do for a while.
    let mut unknown = 0;
    while send(&mut wire, TOPIC, 0, &value).0 != STORAGE_ERROR {
        unknown += 1;
        assert!(Instant::now() < deadline, "{unknown} more were acknowledged");
    }
    for partition in 0..PARTITIONS {
        assert_eq!(send(&mut wire, TOPIC, partition, &value).0, STORAGE_ERROR);
    }
    assert!(wire.topics().expect("it is up").contains_key(TOPIC));
    let ended = broker.kill();
    assert!(ended.stderr.contains("the log directory has failed"), "{}", ended.stderr);
    let image = heal(image);
    let broker = Start::on(&image.data()).broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    let records = wire.read_all(TOPIC, 0).expect("readable");
    for ((_, offset), value) in &kept {
        let record = records.iter().find(|record| record.offset == *offset);
        assert!(
            record.is_some_and(|record| record.value.as_deref() == Some(&value[..])),
            "{offset}"
        );
    }
    broker.stop();
}

#[test]
fn a_file_system_that_fails_takes_the_log_directory_offline() {
    if !can_mount() {
        return;
    }
    let abort = |image: &Image| {
        // The journal is gone, as after an error of the device: every sync fails.
        run(Command::new("mount").args(["-o", "remount,abort"]).arg(image.mount_point()));
    };
    fails(Image::create(IMAGE_BYTES), abort, Image::copy);
}

#[test]
fn a_log_directory_that_vanishes_is_missed() {
    if !can_mount() {
        return;
    }
    let aside = |image: &Image| image.mount_point().join("aside");
    let vanish = |image: &Image| std::fs::rename(image.data(), aside(image)).expect("renamed");
    let back = |image: Image| {
        std::fs::rename(aside(&image), image.data()).expect("renamed");
        image
    };
    fails(Image::create(IMAGE_BYTES), vanish, back);
}
