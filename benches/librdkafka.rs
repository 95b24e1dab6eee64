//! What librdkafka gets through a broker: a second client, which knows nothing of
//! the first, to confirm the figures of `corelane bench produce`.
//!
//!     cargo bench --bench librdkafka -- HOST:PORT TOPIC RECORD_BYTES BATCH_BYTES SECONDS
//!
//! One producer, acks=all, as fast as it goes; the topic is there already. Prints
//! one JSON object: records acknowledged, and how many a second. Without arguments
//! it measures nothing: it needs a broker that somebody else pins and watches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

/// How long the last records may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Acknowledged {
    records: AtomicU64,
}

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            panic!("a record was not written: {error}");
        }
        self.records.fetch_add(1, Ordering::Relaxed);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [bootstrap, topic, record, batch, seconds] = &args[..] else {
        println!("usage: librdkafka HOST:PORT TOPIC RECORD_BYTES BATCH_BYTES SECONDS");
        return;
    };
    let producer: BaseProducer<Acknowledged> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("acks", "all")
        .set("batch.size", batch)
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "100000")
        .create_with_context(Acknowledged::default())
        .expect("a sound configuration");
    let payload = vec![b'x'; record.parse().expect("RECORD_BYTES is a number")];
    let duration = Duration::from_secs_f64(seconds.parse().expect("SECONDS is a number"));
    let start = Instant::now();
    while start.elapsed() < duration {
        for _ in 0..1_000 {
            loop {
                match producer.send(BaseRecord::<(), [u8]>::to(topic).payload(&payload)) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                        producer.poll(Duration::from_millis(1));
                    }
                    Err((error, _)) => panic!("not sent: {error}"),
                }
            }
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE).expect("every record is acknowledged in time");
    let (records, elapsed) =
        (producer.context().records.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
    println!(
        "{{\"records\": {records}, \"seconds\": {elapsed:.3}, \"records_per_second\": {:.1}}}",
        records as f64 / elapsed
    );
}
