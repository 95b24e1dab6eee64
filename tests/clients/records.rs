//! What goes in comes out: codecs, acknowledgements, every field, every size.

use corelane::model::batch::BatchHeader;
use rdkafka::Offset;
use rdkafka::types::RDKafkaErrorCode;

use crate::harness::{Start, temp_dir};
use crate::kafka::{Row, consumer, create_topic, expect_all, produce, produce_all, producer, take};

const CODECS: [(&str, i16); 5] = [("none", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)];

#[test]
fn every_codec_with_every_acknowledgement() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    let rows = Row::numbered(500);
    for (codec, id) in CODECS {
        for acks in ["0", "1", "all"] {
            let topic = format!("{codec}-{acks}");
            create_topic(&broker, &topic, 1, &[]).expect("created");
            let settings = [("compression.codec", codec), ("acks", acks)];
            produce_all(&broker, &settings, &topic, &rows);
            expect_all(&broker, &topic, &rows);
            // Batches lie on the disk as the producer made them. It leaves one that
            // compression would only enlarge, such as a first record alone.
            let segment = dir.path().join(format!("{topic}-0/00000000000000000000.log"));
            let bytes = std::fs::read(segment).expect("the log's first segment");
            let mut rest = &bytes[..];
            let batches = std::iter::from_fn(|| {
                let header = BatchHeader::decode(rest).filter(|header| header.magic == 2)?;
                rest = &rest[header.total_len()?..];
                Some(header)
            });
            let compressed: Vec<_> = batches.filter(|header| header.codec() == id).collect();
            assert!(compressed.iter().any(|header| header.record_count > 1), "{topic}");
        }
    }
    broker.stop();
}

#[test]
fn every_field_of_a_record_is_kept() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    create_topic(&broker, "t", 1, &[]).expect("created");
    let header = |key: &str, value: Option<&[u8]>| (key.to_owned(), value.map(<[u8]>::to_vec));
    let mut rows = vec![
        Row::new(None, None),
        Row::new(None, Some(b"no key")),
        Row::new(Some(b"a tombstone"), None),
        Row::new(Some(b""), Some(b"")),
        Row::new(Some(&[0, 255, 128]), Some(&[0xff; 300])),
    ];
    rows[1].headers = vec![
        header("one", Some(b"1")),
        header("null", None),
        header("empty", Some(b"")),
        header("one", Some(b"again")),
        header("bytes", Some(&[0, 255])),
    ];
    // Timestamps need not be in order; a late one lies before its batch's first.
    rows[2].timestamp_ms = 1;
    rows[3].timestamp_ms = i64::from(u32::MAX) + 1;
    for codec in ["none", "zstd"] {
        produce_all(&broker, &[("compression.codec", codec)], "t", &rows);
    }
    expect_all(&broker, "t", &[rows.clone(), rows].concat());
    broker.stop();
}

/// Bytes of a batch of one record beside the record's value: the batch's
/// header, the record's length (three bytes), attributes, timestamp, offset, no
/// key, the value's length (three bytes), no headers.
const AROUND_A_VALUE: usize = 61 + 3 + 1 + 1 + 1 + 1 + 3 + 1;

#[test]
fn a_batch_may_be_as_large_as_the_topic_says_and_no_larger() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    let large = |len: usize| Row::new(None, Some(&vec![b'x'; len]));
    create_topic(&broker, "default", 1, &[]).expect("created");
    create_topic(&broker, "small", 1, &[("max.message.bytes", "20000")]).expect("created");
    create_topic(&broker, "huge", 1, &[("max.message.bytes", "9000000")]).expect("created");
    let too_large = Err(RDKafkaErrorCode::MessageSizeTooLarge);
    // Each with its acknowledgement before the next: one record per batch.
    let alone = [("queue.buffering.max.ms", "0"), ("acks", "all")];
    for (topic, max) in [("default", 1_048_588), ("small", 20_000), ("huge", 9_000_000)] {
        // Lengths of at least 2^20 take one byte more, and there are two of them.
        let around = AROUND_A_VALUE + if max > (1 << 20) + 100 { 2 } else { 0 };
        let producer = producer(&broker, &alone);
        let fits = large(max - around);
        assert_eq!(produce(&producer, topic, std::slice::from_ref(&fits)), [Ok((0, 0))], "{topic}");
        assert_eq!(produce(&producer, topic, &[large(max - around + 1)]), [too_large], "{topic}");
        let small = Row::new(Some(b"after"), Some(b"all is well"));
        assert_eq!(
            produce(&producer, topic, std::slice::from_ref(&small)),
            [Ok((0, 1))],
            "{topic}"
        );
        expect_all(&broker, topic, &[fits, small]);
    }
    broker.stop();
}

#[test]
fn a_consumer_of_small_bites_still_gets_large_batches() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    create_topic(&broker, "t", 1, &[]).expect("created");
    let rows: Vec<Row> =
        (0..20).map(|n| Row::new(None, Some(&vec![n; 40_000 * usize::from(n)]))).collect();
    produce_all(&broker, &[], "t", &rows);
    let bites = [("fetch.message.max.bytes", "1000"), ("fetch.max.bytes", "1000000")];
    let consumer = consumer(&broker, &bites, "t", [0], Offset::Beginning);
    for ((offset, got), wanted) in take(&consumer, rows.len()).iter().zip(&rows) {
        assert!(got == wanted, "another record at {offset}");
    }
    broker.stop();
}

#[test]
fn many_partitions_on_several_cores() {
    const PARTITIONS: i32 = 64;
    let dir = temp_dir();
    let broker = Start::on(dir.path()).set("corelane.cores=3").broker();
    create_topic(&broker, "wide", PARTITIONS, &[]).expect("created");
    let mut rows = Row::numbered(6_400);
    for (n, row) in rows.iter_mut().enumerate() {
        row.partition = n as i32 % PARTITIONS;
    }
    produce_all(&broker, &[("compression.codec", "lz4")], "wide", &rows);
    let consumer = consumer(&broker, &[], "wide", 0..PARTITIONS, Offset::Beginning);
    let mut seen = vec![0; PARTITIONS as usize];
    for (offset, got) in take(&consumer, rows.len()) {
        let next = &mut seen[got.partition as usize];
        assert_eq!(offset, *next, "in order, each once");
        assert_eq!(got, rows[(offset * i64::from(PARTITIONS)) as usize + got.partition as usize]);
        *next += 1;
    }
    assert!(seen.iter().all(|count| *count == 100), "{seen:?}");
    broker.stop();
}
