//! Batches that are not as they have to be: Kafka's error code, nothing appended.

use corelane::model::batch::batch_crc;
use corelane::model::record::{BatchBuilder, Codec};
use corelane::wire::client::ProduceRequest;
use corelane::wire::small::Bytes;

use crate::harness::wire::{Batch, Wire, produce_request};
use crate::harness::{Start, temp_dir};

const CORRUPT_MESSAGE: i16 = 2;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_REQUIRED_ACKS: i16 = 21;
const UNSUPPORTED_FOR_MESSAGE_FORMAT: i16 = 43;
const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
const INVALID_RECORD: i16 = 87;

fn good() -> Vec<u8> {
    let mut batch = BatchBuilder::new(Codec::None);
    for n in 0..3 {
        batch.push(1_000 + n, Some(b"key"), Some(b"value"), &[]);
    }
    batch.finish()
}

/// The batch with bytes at `at` replaced.
fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = good();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    batch
}

/// The same with the checksum made right again.
fn sealed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = with(at, bytes);
    let crc = batch_crc(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// Positions in a batch.
const LENGTH: usize = 8;
const MAGIC: usize = 16;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const COUNT: usize = 57;

fn bad_batches() -> Vec<(&'static str, Vec<u8>, i16)> {
    let len = good().len() as i32;
    let mut large = BatchBuilder::new(Codec::None);
    large.push(1, None, Some(&[b'x'; 2_000]), &[]);
    vec![
        ("another CRC", with(CRC, &[1, 2, 3, 4]), CORRUPT_MESSAGE),
        ("another last byte", with(good().len() - 1, &[9]), CORRUPT_MESSAGE),
        ("a count without its CRC", with(COUNT, &4_i32.to_be_bytes()), CORRUPT_MESSAGE),
        ("no records by the count", sealed(COUNT, &0_i32.to_be_bytes()), INVALID_RECORD),
        ("a negative count", sealed(COUNT, &(-3_i32).to_be_bytes()), INVALID_RECORD),
        ("a count too high", sealed(COUNT, &4_i32.to_be_bytes()), INVALID_RECORD),
        (
            "offsets beyond the count",
            sealed(LAST_OFFSET_DELTA, &9_i32.to_be_bytes()),
            INVALID_RECORD,
        ),
        ("magic 0", sealed(MAGIC, &[0]), UNSUPPORTED_FOR_MESSAGE_FORMAT),
        ("magic 1", sealed(MAGIC, &[1]), UNSUPPORTED_FOR_MESSAGE_FORMAT),
        ("magic 3", sealed(MAGIC, &[3]), INVALID_RECORD),
        ("longer than it is", with(LENGTH, &len.to_be_bytes()), CORRUPT_MESSAGE),
        ("shorter than it is", with(LENGTH, &(len - 13).to_be_bytes()), INVALID_RECORD),
        ("a negative length", with(LENGTH, &(-1_i32).to_be_bytes()), INVALID_RECORD),
        ("the longest length", with(LENGTH, &i32::MAX.to_be_bytes()), CORRUPT_MESSAGE),
        ("two batches", [good(), good()].concat(), INVALID_RECORD),
        ("a batch and a byte", [good(), vec![0]].concat(), INVALID_RECORD),
        ("a cut batch", good()[..good().len() - 1].to_vec(), CORRUPT_MESSAGE),
        ("less than a header", good()[..60].to_vec(), INVALID_RECORD),
        ("nothing", vec![], INVALID_RECORD),
        ("a control batch", sealed(ATTRIBUTES, &0x20_i16.to_be_bytes()), INVALID_RECORD),
        ("codec 5", sealed(ATTRIBUTES, &5_i16.to_be_bytes()), UNSUPPORTED_COMPRESSION_TYPE),
        ("codec 7", sealed(ATTRIBUTES, &7_i16.to_be_bytes()), UNSUPPORTED_COMPRESSION_TYPE),
        ("more than max.message.bytes", large.finish(), MESSAGE_TOO_LARGE),
    ]
}

#[test]
fn bad_batches_get_their_error_and_are_not_appended() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    let code = wire.create_topic("t", 2, &[("max.message.bytes", "1000")]);
    assert_eq!(code.expect("answered"), 0);
    let send = |wire: &mut Wire, version: i16, acks: i16, batches: &[(i32, Vec<u8>)]| {
        let batches: Vec<Batch<'_>> = batches
            .iter()
            .map(|(partition, bytes)| Batch {
                topic: "t",
                partition: *partition,
                bytes: Bytes::from(bytes.clone()),
            })
            .collect();
        let request: ProduceRequest = produce_request(acks, &batches);
        let response = wire.call(version, &request).expect("answered");
        let answers = &response.responses[0].partition_responses;
        answers.iter().map(|row| (row.error_code, row.base_offset)).collect::<Vec<_>>()
    };
    let mut end = 0;
    for (what, bytes, error) in bad_batches() {
        for version in [3, 8, 9, 12] {
            let answers = send(&mut wire, version, -1, &[(0, bytes.clone())]);
            assert_eq!(answers, [(error, -1)], "{what}, version {version}");
        }
        assert_eq!(wire.offsets("t", 0).expect("answered"), (0, end), "{what}");
        // Its neighbour in the request is not its problem.
        let answers = send(&mut wire, 9, 1, &[(1, good()), (0, bytes)]);
        assert_eq!(answers, [(0, end), (error, -1)], "{what}");
        assert_eq!(send(&mut wire, 9, 1, &[(0, good())]), [(0, end)], "{what}");
        end += 3;
    }
    for acks in [2, -2, i16::MAX] {
        let answers = send(&mut wire, 9, acks, &[(0, good())]);
        assert_eq!(answers, [(INVALID_REQUIRED_ACKS, -1)], "acks {acks}");
    }
    for partition in [2, -1, i32::MAX] {
        let answers = send(&mut wire, 9, 1, &[(partition, good())]);
        assert_eq!(answers, [(UNKNOWN_TOPIC_OR_PARTITION, -1)], "partition {partition}");
    }
    // Nobody can be told with acks=0: the connection is closed.
    for (what, bytes, _) in bad_batches() {
        let mut wire = Wire::connect(broker.address()).expect("it listens");
        let batch = Batch { topic: "t", partition: 0, bytes: Bytes::from(bytes) };
        wire.send(9, &produce_request(0, &[batch])).expect("sent");
        wire.receive().expect_err(what);
    }
    for partition in 0..2 {
        let records = wire.read_all("t", partition).expect("readable");
        assert_eq!(records.len() as i64, end);
        assert!(records.iter().all(|record| record.value.as_deref() == Some(b"value")));
    }
    broker.stop();
}
