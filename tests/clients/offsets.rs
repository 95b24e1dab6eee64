//! Where a consumer begins, and how soon it hears of what is new.

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::harness::{PATIENCE, Start, temp_dir};
use crate::kafka::{
    Row, consumer, create_topic, expect_end, next, produce, produce_all, producer, row, take,
};

const EOF: [(&str, &str); 1] = [("enable.partition.eof", "true")];

#[test]
fn from_the_beginning_from_an_offset_from_the_end() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    create_topic(&broker, "t", 1, &[]).expect("created");
    let rows = Row::numbered(1_000);
    produce_all(&broker, &[], "t", &rows[..900]);

    let all = consumer(&broker, &EOF, "t", [0], Offset::Beginning);
    assert_eq!(take(&all, 900).last(), Some(&(899, rows[899].clone())));
    expect_end(&all);
    let ends = all.fetch_watermarks("t", 0, PATIENCE).expect("known");
    assert_eq!(ends, (0, 900));

    // From within a batch: not a record before it.
    for offset in [1, 437, 899] {
        let some = consumer(&broker, &EOF, "t", [0], Offset::Offset(offset));
        assert_eq!(take(&some, 1), [(offset, rows[offset as usize].clone())]);
    }
    let tail = consumer(&broker, &EOF, "t", [0], Offset::OffsetTail(3));
    assert_eq!(take(&tail, 1), [(897, rows[897].clone())]);

    let end = consumer(&broker, &EOF, "t", [0], Offset::End);
    expect_end(&end);
    produce_all(&broker, &[], "t", &rows[900..]);
    assert_eq!(take(&end, 1), [(900, rows[900].clone())]);
    broker.stop();
}

#[test]
fn an_offset_that_is_not_there() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    create_topic(&broker, "t", 1, &[]).expect("created");
    produce_all(&broker, &[], "t", &Row::numbered(10));
    let asks = |reset| {
        let settings = [("auto.offset.reset", reset), ("enable.partition.eof", "true")];
        consumer(&broker, &settings, "t", [0], Offset::Offset(11))
    };
    let stays = asks("error");
    match next(&stays) {
        Err(KafkaError::MessageConsumption(code)) => {
            assert_eq!(code, RDKafkaErrorCode::AutoOffsetReset);
        }
        other => panic!("offset 11 of 10 records: {other:?}"),
    }
    let resets = asks("earliest");
    assert_eq!(take(&resets, 1)[0].0, 0);
    broker.stop();
}

#[test]
fn a_waiting_consumer_hears_at_once() {
    // The consumer lets the broker wait for so long; hearing has to be faster.
    let wait = [("fetch.wait.max.ms", "50000"), ("socket.timeout.ms", "60000")];
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    create_topic(&broker, "t", 4, &[]).expect("created");
    let producer = producer(&broker, &[("linger.ms", "0")]);
    // A consumer each: librdkafka has one fetch open per broker, and the first
    // would wait with the partitions whose offsets it knows.
    let consumers: Vec<_> =
        (0..4).map(|n| consumer(&broker, &wait, "t", [n], Offset::Beginning)).collect();
    let mut slowest = Duration::ZERO;
    for n in 0..200 {
        let mut sent = Row::new(None, Some(format!("{n}").as_bytes()));
        sent.partition = n % 4;
        let started = Instant::now();
        produce(&producer, "t", &[sent.clone()])[0].expect("written");
        let (_, got) = row(&next(&consumers[n as usize % 4]).expect("a record"));
        slowest = slowest.max(started.elapsed());
        assert_eq!(got, sent);
    }
    assert!(slowest < Duration::from_secs(10), "the slowest record took {slowest:?}");
    // The fetches that wait now end with the broker.
    let started = Instant::now();
    broker.stop();
    assert!(started.elapsed() < Duration::from_secs(10), "the stop took {:?}", started.elapsed());
}
