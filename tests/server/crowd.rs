//! Many clients at a time, most of them bad ones: the others go on, new ones are
//! served, and memory stays within bounds.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use corelane::model::record::{BatchBuilder, Codec};
use corelane::wire::client::{FetchRequest, encode_request, fetch_request};
use corelane::wire::small::{Bytes, MetadataRequest, StrBytes};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::wire::{Batch, Wire};
use crate::harness::{Broker, PATIENCE, Start, temp_dir};

/// What the broker may use, and what its code, stacks and queues may take beside it.
const MEMORY: (&str, u64) = ("corelane.memory=128m", (128 + 96) << 20);

/// Idle connections, and connections of each bad kind.
const IDLE: usize = 1_000;
const STUCK: usize = 100;
const DRIPPING: usize = 50;
const DEAF: usize = 30;
const HALF_CLOSED: usize = 20;

fn connect(broker: &Broker) -> TcpStream {
    TcpStream::connect(broker.address()).expect("it listens")
}

fn batch(len: usize) -> Bytes {
    let mut batch = BatchBuilder::new(Codec::None);
    batch.push(1, None, Some(&vec![b'x'; len]), &[]);
    Bytes::from(batch.finish())
}

/// Writes and reads a record, on a connection of its own if `fresh`.
fn expect_served(broker: &Broker, wire: &mut Wire, fresh: bool) {
    let mut own = fresh.then(|| Wire::connect(broker.address()).expect("it listens"));
    let wire = own.as_mut().unwrap_or(wire);
    for partition in 0..2 {
        let batch = Batch { topic: "t", partition, bytes: batch(1_000) };
        let (code, offset) = wire.produce(-1, batch).expect("answered");
        assert_eq!(code, 0);
        let records = wire.fetch("t", partition, offset, 0).expect("served");
        assert_eq!(records.len(), 1);
    }
}

/// A fetch of a megabyte of topic "large".
fn large_fetch() -> Vec<u8> {
    let mut row = fetch_request::FetchPartition::default();
    row.partition_max_bytes = 1 << 20;
    let mut topic = fetch_request::FetchTopic::default();
    topic.topic = StrBytes::from("large");
    topic.partitions = vec![row];
    let mut request = FetchRequest::default();
    (request.max_wait_ms, request.max_bytes) = (100, 1 << 20);
    request.topics = vec![topic];
    encode_request(&request, 12, 1, "deaf").expect("representable").to_vec()
}

#[test]
fn idle_stuck_and_deaf_clients_hurt_nobody_else() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("allowed");
    let dir = temp_dir();
    let broker = Start::on(dir.path()).set(MEMORY.0).broker();
    let mut bystander = Wire::connect(broker.address()).expect("it listens");
    for topic in ["t", "large"] {
        assert_eq!(bystander.create_topic(topic, 2, &[]).expect("answered"), 0);
    }
    let large = Batch { topic: "large", partition: 0, bytes: batch(1_000_000) };
    assert_eq!(bystander.produce(-1, large).expect("answered").0, 0);

    let idle: Vec<TcpStream> = (0..IDLE).map(|_| connect(&broker)).collect();
    expect_served(&broker, &mut bystander, true);

    // A hundred megabytes announced and never sent; a few of them are begun.
    let mut beginning = 104_857_600_i32.to_be_bytes().to_vec();
    beginning.extend(b"\0\0\0\x09\0\0\0\x01\xff\xff\0");
    let stuck: Vec<TcpStream> = (0..STUCK)
        .map(|at| {
            let mut stream = connect(&broker);
            stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a sound time");
            beginning.resize(15 + (at % 10) * 30_000, 0);
            // It may be closed, or not read, before it has all.
            let _ = stream.write_all(&beginning);
            stream
        })
        .collect();
    expect_served(&broker, &mut bystander, true);

    // Ask for a lot and never read it.
    let fetch = large_fetch();
    let deaf: Vec<TcpStream> = (0..DEAF)
        .map(|_| {
            let mut stream = connect(&broker);
            for _ in 0..60 {
                stream.write_all(&fetch).expect("requests are small");
            }
            stream
        })
        .collect();
    expect_served(&broker, &mut bystander, true);

    // A long poll that its client has turned away from ends with its connection.
    let half: Vec<TcpStream> = (0..HALF_CLOSED)
        .map(|_| {
            let mut stream = connect(&broker);
            stream.write_all(&fetch[..fetch.len() / 2]).expect("sent");
            stream.shutdown(Shutdown::Write).expect("connected");
            stream
        })
        .collect();

    // A byte at a time, between the requests of others.
    let mut request = MetadataRequest::default();
    request.topics = None;
    let frame = encode_request(&request, 9, 1, "drip").expect("representable");
    let mut dripping: Vec<Wire> =
        (0..DRIPPING).map(|_| Wire::connect(broker.address()).expect("it listens")).collect();
    for (at, byte) in frame.iter().enumerate() {
        for wire in &mut dripping {
            wire.stream.write_all(&[*byte]).expect("sent");
        }
        expect_served(&broker, &mut bystander, at % 4 == 0);
    }
    for wire in &mut dripping {
        wire.receive().expect("slow, but whole");
    }

    let peak = broker.peak_memory();
    assert!(peak < MEMORY.1, "{} MiB at the most", peak >> 20);
    drop((stuck, deaf, half));
    // The idle ones can still speak.
    for stream in idle.into_iter().step_by(100) {
        let mut stream = stream;
        stream.set_read_timeout(Some(PATIENCE)).expect("a sound time");
        stream.write_all(&frame).expect("open");
        let mut prefix = [0; 4];
        std::io::Read::read_exact(&mut stream, &mut prefix).expect("answered");
    }
    expect_served(&broker, &mut bystander, true);
    let ended = broker.stop();
    assert!(!ended.stderr.contains("panic"), "{ended:?}");
}
