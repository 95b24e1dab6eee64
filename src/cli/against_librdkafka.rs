//! The client commands against librdkafka's mock cluster: brokers that share no
//! code with ours.

use std::collections::BTreeMap;

use clap::Parser;
use rdkafka::mocking::MockCluster;

use super::client::Client;
use super::consume::{ConsumeArgs, Consumer};
use super::produce::{ProduceArgs, Producer};

#[derive(Parser)]
struct Produce {
    #[command(flatten)]
    args: ProduceArgs,
}

#[derive(Parser)]
struct Consume {
    #[command(flatten)]
    args: ConsumeArgs,
}

#[test]
fn what_is_produced_is_consumed() {
    let cluster = MockCluster::new(2).expect("starts");
    cluster.create_topic("t", 3, 1).expect("created");
    let bootstrap = cluster.bootstrap_servers();
    for (round, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].iter().enumerate() {
        let words = ["produce", "t", "--key-separator", ":", "--compression", codec];
        let produce = Produce::parse_from(words);
        let client = Client::connect(&bootstrap).expect("connects");
        let mut producer = Producer::start(&produce.args, client).expect("has leaders");
        for n in 0..100 {
            producer.add(format!("key{n}:value {round} {n}").as_bytes()).expect("has a key");
        }
        producer.flush().expect("acknowledged");
    }

    let consume = Consume::parse_from(["consume", "t", "--from-beginning"]);
    let client = Client::connect(&bootstrap).expect("connects");
    let mut consumer = Consumer::start(&consume.args, client).expect("has offsets");
    let mut seen: BTreeMap<Vec<u8>, Vec<i32>> = BTreeMap::new();
    let mut next = [0; 3];
    let mut count = 0;
    while count < 500 {
        consumer
            .poll(|partition, record| {
                assert_eq!(record.offset, next[partition as usize], "in order, none missing");
                next[partition as usize] += 1;
                count += 1;
                let key = record.key.as_deref().expect("has a key").to_vec();
                seen.entry(key).or_default().push(partition);
                Ok(true)
            })
            .expect("reads");
    }
    assert_eq!(seen.len(), 100);
    assert!(seen.values().all(|partitions| partitions.len() == 5));
    assert!(
        seen.values().all(|partitions| partitions.iter().all(|other| *other == partitions[0])),
        "equal keys, equal partitions"
    );
    assert!(next.iter().all(|offset| *offset > 0), "every partition has some");
}
