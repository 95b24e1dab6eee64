//! Every decoder by itself.

use std::collections::BTreeMap;

use corelane::base::rng::Rng;
use corelane::log::epochs::LeaderEpochs;
use corelane::log::index::OffsetIndex;
use corelane::log::producers::Producers;
use corelane::log::recovery_points;
use corelane::model::batch::{BatchHeader, batch_crc, validate};
use corelane::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use corelane::model::record::decode_records;
use corelane::wire::api_versions::ApiVersionsRequest;
use corelane::wire::apis::{APIS, ApiKey};
use corelane::wire::fetch::FetchRequest;
use corelane::wire::frame::{RequestHeader, frame_len};
use corelane::wire::produce::ProduceRequest;

use crate::memory::peak;
use crate::mutate::{mutate, mutate_sealed};
use crate::{requests, rounds, seed};

/// What a decoder may allocate that hands out nothing but slices: room for an
/// error's text.
const NOTHING: usize = 1 << 10;

#[test]
fn frames_and_headers() {
    let mut rng = Rng::stream(seed(), "frames");
    for round in 0..rounds(100_000) {
        let api = &APIS[rng.below(APIS.len() as u64) as usize];
        let version = rng.between(api.served_min as u64, api.max as u64) as i16;
        let mut frame = requests::valid(api, version, (0, 0), &mut rng);
        frame.truncate(64);
        mutate(&mut frame, &mut rng);
        let ((), peak) = peak(|| {
            if let Ok(Some(len)) = frame_len(&frame, 100 << 20) {
                assert!(len <= 100 << 20);
            }
            if let Ok((header, at)) = RequestHeader::decode(frame.get(4..).unwrap_or_default()) {
                assert!(at <= frame.len() - 4);
                let _ = header.api();
            }
        });
        assert!(peak <= NOTHING, "round {round}: {peak} bytes for {frame:x?}");
    }
}

#[test]
fn requests_that_are_decoded_in_place() {
    let mut rng = Rng::stream(seed(), "in place");
    for api in APIS.iter() {
        for version in api.served_min..=api.max {
            for round in 0..rounds(400) {
                let mut frame = requests::valid(api, version, (1, 2), &mut rng);
                let Ok((_, at)) = RequestHeader::decode(&frame[4..]) else { continue };
                let mut body = frame.split_off(4 + at);
                mutate(&mut body, &mut rng);
                let ((), peak) = peak(|| match api.key {
                    ApiKey::Produce => {
                        let Ok(request) = ProduceRequest::decode(&body, version) else { return };
                        let walked = request.partitions();
                        let within = walked.filter(|row| {
                            row.records.clone().is_none_or(|range| body.get(range).is_some())
                        });
                        assert_eq!(within.count(), request.partition_count());
                    }
                    ApiKey::Fetch => {
                        let Ok(request) = FetchRequest::decode(&body, version) else { return };
                        assert_eq!(request.partitions().count(), request.partition_count());
                        assert!(request.forgotten().count() <= body.len());
                    }
                    ApiKey::ApiVersions => {
                        let Ok(request) = ApiVersionsRequest::decode(&body, version) else {
                            return;
                        };
                        let _ = request.is_valid()
                            && request.means("c", corelane::model::ids::NodeId(1));
                    }
                    _ => {}
                });
                let name = api.name;
                assert!(peak <= NOTHING, "{name} {version}, round {round}: {peak} bytes");
            }
        }
    }
}

/// Sets a batch's length and checksum right.
fn seal_batch(batch: &mut [u8]) {
    if batch.len() > 61 {
        let len = batch.len() as i32 - 12;
        batch[8..12].copy_from_slice(&len.to_be_bytes());
        batch[16] = 2;
        let crc = batch_crc(batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

#[test]
fn batches_and_their_records() {
    const UNCOMPRESSED: usize = 64 << 10;
    let mut rng = Rng::stream(seed(), "batches");
    for round in 0..rounds(20_000) {
        let mut batch = requests::batch(&mut rng);
        mutate_sealed(&mut batch, &mut rng, seal_batch);
        let (header, used) = peak(|| validate(&batch, 1 << 20));
        assert!(used <= NOTHING, "round {round}: {used} bytes");
        if let Ok(header) = header {
            assert_eq!(header.total_len(), Some(batch.len()));
            assert!(header.record_count > 0);
        }
        if let Some(header) = BatchHeader::decode(&batch) {
            let again = BatchHeader::decode(&header.encode()).expect("a whole header");
            assert_eq!(again, header);
        }
        // The codecs' own tables are most of it.
        let (_, used) = peak(|| decode_records(&batch, UNCOMPRESSED));
        assert!(used <= 32 * UNCOMPRESSED + (12 << 20), "round {round}: {used} bytes");
    }
}

#[test]
fn small_files_of_a_log() {
    let mut rng = Rng::stream(seed(), "files");
    let mut index = OffsetIndex::default();
    for at in 0..50_u32 {
        index.note(at * 10, u64::from(at) * 40_000, 4_096);
    }
    let index = index.encode(50 * 40_000);
    let mut epochs = LeaderEpochs::default();
    for at in 0..20 {
        epochs.note(LeaderEpoch(at), i64::from(at) * 7);
    }
    let epochs = epochs.encode();
    let mut producers = Producers::default();
    for _ in 0..200 {
        let batch = requests::batch(&mut rng);
        let header = BatchHeader::decode(&batch).expect("whole");
        producers.note(&BatchHeader { base_offset: 5, ..header }, 5);
    }
    let producers = producers.encode(i64::MAX);
    let points: BTreeMap<TopicPartition, i64> = (0..30)
        .map(|at| (TopicPartition { topic: TopicId([at; 16]), partition: PartitionIndex(3) }, 9))
        .collect();
    let points = recovery_points::encode(&points);
    assert!(Producers::decode(&producers).is_some() && LeaderEpochs::decode(&epochs).is_some());

    /// The checksum behind the version.
    fn seal_snapshot(bytes: &mut [u8]) {
        if bytes.len() > 6 {
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[6..]) as u32;
            bytes[..2].copy_from_slice(&1_i16.to_be_bytes());
            bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        }
    }
    type Seal = fn(&mut [u8]);
    type Decode = fn(&[u8]);
    let unsealed: Seal = |_| {};
    let files: [(&str, &[u8], Seal, Decode); 4] = [
        ("an index", &index, unsealed, |bytes| {
            if let Some(index) = OffsetIndex::decode(bytes, 2_000_000) {
                assert!(index.lookup(u32::MAX) <= 2_000_000);
            }
        }),
        ("epochs", &epochs, unsealed, |bytes| {
            if let Some(epochs) = LeaderEpochs::decode(bytes) {
                let _ = epochs.latest();
            }
        }),
        ("a producer snapshot", &producers, seal_snapshot, |bytes| {
            if let Some(mut producers) = Producers::decode(bytes) {
                producers.truncate(3);
                producers.expire(0);
                let _ = producers.encode(i64::MAX);
            }
        }),
        ("recovery points", &points, unsealed, |bytes| {
            let mut points = BTreeMap::new();
            recovery_points::decode_into(bytes, &mut points);
        }),
    ];
    for (what, good, seal, decode) in files {
        for round in 0..rounds(5_000) {
            let mut bytes = good.to_vec();
            mutate_sealed(&mut bytes, &mut rng, seal);
            let ((), used) = peak(|| decode(&bytes));
            assert!(used <= 64 * bytes.len() + (16 << 10), "{what}, round {round}: {used} bytes");
        }
    }
}
