//! A few words around the `rdkafka` crate: produce and wait, consume and count.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, DeliveryResult, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, Timestamp};

use crate::harness::{Broker, PATIENCE};

/// A record as it was given to a producer or came out of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub timestamp_ms: i64,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Row {
    /// A record without headers for partition 0.
    pub fn new(key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        let timestamp_ms = 1_700_000_000_000;
        Self { partition: 0, key, value, timestamp_ms, headers: vec![] }
    }

    /// Numbered ones.
    pub fn numbered(count: usize) -> Vec<Self> {
        (0..count)
            .map(|n| {
                let (key, value) =
                    (format!("key {n}"), format!("value {n} {}", "x".repeat(n % 300)));
                Self::new(Some(key.as_bytes()), Some(value.as_bytes()))
            })
            .collect()
    }
}

/// What became of each record, in the order of the reports.
type Deliveries = Vec<Result<(i32, i64), RDKafkaErrorCode>>;

#[derive(Debug, Default)]
pub struct Reports(Mutex<Deliveries>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let row = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.rdkafka_error_code().expect("a delivery error")),
        };
        self.0.lock().expect("no test panics in here").push(row);
    }
}

/// A client's configuration for `broker`.
pub fn config(broker: &Broker, settings: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address());
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config
}

/// A producer that batches for a moment, so that codecs have something to do.
pub fn producer(broker: &Broker, settings: &[(&str, &str)]) -> BaseProducer<Reports> {
    let mut config = config(broker, &[("linger.ms", "20"), ("message.max.bytes", "20000000")]);
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create_with_context(Reports::default()).expect("a sound configuration")
}

/// Sends all of `rows` and waits for their reports.
pub fn produce(producer: &BaseProducer<Reports>, topic: &str, rows: &[Row]) -> Deliveries {
    for row in rows {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &row.headers {
            headers = headers.insert(rdkafka::message::Header { key, value: value.as_ref() });
        }
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(topic).partition(row.partition).timestamp(row.timestamp_ms);
        if !row.headers.is_empty() {
            record = record.headers(headers);
        }
        record.key = row.key.as_deref();
        record.payload = row.value.as_deref();
        producer.send(record).unwrap_or_else(|(error, _)| panic!("not queued: {error}"));
    }
    // Not by flush: it looks for reports ten times a second only.
    let deadline = Instant::now() + PATIENCE;
    loop {
        producer.poll(Duration::from_millis(2));
        let mut reports = producer.context().0.lock().expect("no test panics in there");
        if reports.len() >= rows.len() {
            return std::mem::take(&mut reports);
        }
        assert!(Instant::now() < deadline, "{} of {} reports", reports.len(), rows.len());
    }
}

/// Sends all of `rows`; each has to be written.
pub fn produce_all(broker: &Broker, settings: &[(&str, &str)], topic: &str, rows: &[Row]) {
    let deliveries = produce(&producer(broker, settings), topic, rows);
    assert_eq!(deliveries.len(), rows.len());
    if let Some(error) = deliveries.iter().find_map(|row| row.err()) {
        panic!("a record was not written: {error:?}");
    }
}

/// A consumer of these partitions, from `offset` on.
pub fn consumer(
    broker: &Broker,
    settings: &[(&str, &str)],
    topic: &str,
    partitions: impl IntoIterator<Item = i32>,
    offset: Offset,
) -> BaseConsumer {
    let mut config = config(broker, &[("enable.auto.commit", "false"), ("check.crcs", "true")]);
    // The end of a partition and an unknown topic are told after so long.
    config.set("fetch.wait.max.ms", "10").set("topic.metadata.propagation.max.ms", "500");
    config.set("group.id", "unused");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    let consumer: BaseConsumer = config.create().expect("a sound configuration");
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition_offset(topic, partition, offset).expect("a sound offset");
    }
    consumer.assign(&list).expect("assigned");
    consumer
}

/// A member of a group, which leaves when it is dropped.
///
/// librdkafka 2.12 can wait for itself for ever when it is closed during a
/// rebalance: its main thread ends the group first, and then passes over the
/// unassign that the closing thread waits for. Such a member is left behind.
pub struct Member(Option<BaseConsumer>);

impl Member {
    pub fn new(consumer: BaseConsumer) -> Self {
        Self(Some(consumer))
    }
}

impl std::ops::Deref for Member {
    type Target = BaseConsumer;

    fn deref(&self) -> &BaseConsumer {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let consumer = self.0.take();
        let (closed, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(consumer);
            // Nobody listens any more if it took too long.
            let _ = closed.send(());
        });
        if wait.recv_timeout(CLOSING).is_err() {
            eprintln!("a consumer waits for itself and is left behind");
        }
    }
}

/// How long a member may take to leave before it counts as stuck.
const CLOSING: Duration = Duration::from_secs(20);

/// The next message or error, which has to come.
pub fn next(consumer: &BaseConsumer) -> Result<BorrowedMessage<'_>, KafkaError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(left > Duration::ZERO, "neither a record nor an error came");
        if let Some(result) = consumer.poll(left) {
            return result;
        }
    }
}

/// A message's offset and content.
pub fn row(message: &BorrowedMessage<'_>) -> (i64, Row) {
    let Timestamp::CreateTime(timestamp_ms) = message.timestamp() else {
        panic!("the producer's timestamp is kept: {message:?}");
    };
    let headers = message.headers().map_or(vec![], |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect()
    });
    let row = Row {
        partition: message.partition(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        timestamp_ms,
        headers,
    };
    (message.offset(), row)
}

/// The next `count` records.
pub fn take(consumer: &BaseConsumer, count: usize) -> Vec<(i64, Row)> {
    (0..count).map(|_| row(&next(consumer).expect("a record"))).collect()
}

/// All of partition 0, which has to hold exactly `rows`, from offset 0 on.
pub fn expect_all(broker: &Broker, topic: &str, rows: &[Row]) {
    let settings = [("enable.partition.eof", "true")];
    let consumer = consumer(broker, &settings, topic, [0], Offset::Beginning);
    for (offset, wanted) in (0..).zip(rows) {
        let (at, got) = row(&next(&consumer).expect("a record"));
        assert_eq!((at, &got), (offset, wanted), "{topic}");
    }
    expect_end(&consumer);
}

/// The consumer has to be at the end; it says so once per partition.
pub fn expect_end(consumer: &BaseConsumer) {
    match next(consumer) {
        Err(KafkaError::PartitionEOF(_)) => {}
        other => panic!("not at the end: {other:?}"),
    }
}

/// A client for administration.
pub fn admin(broker: &Broker) -> AdminClient<DefaultClientContext> {
    config(broker, &[]).create().expect("a sound configuration")
}

/// Options with much patience.
pub fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

/// Creates a topic; the error that Kafka gave, if any.
pub fn create_topic(
    broker: &Broker,
    name: &str,
    partitions: i32,
    settings: &[(&str, &str)],
) -> Result<(), RDKafkaErrorCode> {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (key, value) in settings {
        topic = topic.set(key, value);
    }
    let admin = admin(broker);
    let results = block_on(admin.create_topics([&topic], &admin_options())).expect("an answer");
    results[0].as_ref().map(drop).map_err(|(_, code)| *code)
}

/// Deletes a topic; the error that Kafka gave, if any.
pub fn delete_topic(broker: &Broker, name: &str) -> Result<(), RDKafkaErrorCode> {
    let admin = admin(broker);
    let results = block_on(admin.delete_topics(&[name], &admin_options())).expect("an answer");
    results[0].as_ref().map(drop).map_err(|(_, code)| *code)
}
