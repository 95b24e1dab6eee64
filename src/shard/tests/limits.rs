//! Stories of limits: how much a fetch carries, how long it waits, how large a
//! batch may be, how long a producer is remembered.

use kafka_wire::FetchRequest;

use super::broker::{Broker, ClientId};
use super::every_version::{Named, batch, fetch, produce, values};
use crate::effect::disk::DiskOpKind;
use crate::model::error_code::ErrorCode as E;
use crate::model::ids::TopicId;
use crate::model::record::{BatchBuilder, Codec};
use crate::wire::client::encode_request;
use crate::wire::small::{Bytes, BytesMut};

/// Two cores with a topic of a partition each, and two batches in each: "one" and
/// "two" of equal length, which is returned.
fn broker() -> (Broker, ClientId, TopicId, i32) {
    let mut broker = Broker::new(2, &[]);
    let id = broker.create_topic("t", &[]);
    let client = broker.connect(0);
    let t = Named("t", id);
    for text in ["one", "two"] {
        let rows = [(t, 0, batch(&[text])), (t, 1, batch(&[text]))];
        broker.call(client, &produce(9, -1, &rows), 9);
    }
    (broker, client, id, batch(&["one"]).len() as i32)
}

#[test]
fn how_much_a_fetch_carries() {
    let (mut broker, client, id, len) = broker();
    let t = Named("t", id);
    // Limits of the whole and of each partition, and whole batches of each.
    let table: [(i32, i32, [&[&str]; 2]); 8] = [
        (1 << 20, 1 << 20, [&["one", "two"], &["one", "two"]]),
        (1 << 20, len, [&["one"], &["one"]]),
        // The first batch found is never cut short, whatever the limits are.
        (1, 1 << 20, [&["one"], &[]]),
        (0, 0, [&["one"], &[]]),
        // The first one of each core, as long as the whole has room.
        (1 << 20, 1, [&["one"], &["one"]]),
        (len + 1, 1 << 20, [&["one"], &[]]),
        (2 * len, len, [&["one"], &["one"]]),
        (-1, -1, [&["one"], &[]]),
    ];
    for (max_bytes, partition_max, expected) in table {
        let mut request = fetch(12, &[(t, 0, 0), (t, 1, 0)]);
        (request.max_wait_ms, request.max_bytes) = (0, max_bytes);
        for topic in &mut request.topics {
            topic.partitions[0].partition_max_bytes = partition_max;
        }
        let response = broker.call(client, &request, 12);
        for (at, expected) in expected.iter().enumerate() {
            let mut response = response.clone();
            // The last batch may be cut short; clients pass over it.
            let records = &mut response.responses[at].partitions[0].records;
            let whole = records.as_ref().map_or(0, Bytes::len) / len as usize * len as usize;
            if let Some(records) = records {
                records.truncate(whole);
            }
            let what = format!("{max_bytes} in all, {partition_max} each, partition {at}");
            assert_eq!(values(&response, at), *expected, "{what}");
        }
    }
}

#[test]
fn a_fetch_in_the_middle_of_a_batch_gets_the_whole_of_it() {
    let mut broker = Broker::new(1, &[]);
    let id = broker.create_topic("t", &[]);
    let client = broker.connect(0);
    let t = Named("t", id);
    for texts in [["a", "b", "c"], ["d", "e", "f"]] {
        broker.call(client, &produce(9, -1, &[(t, 0, batch(&texts))]), 9);
    }
    for (offset, expected) in [(0, "abcdef"), (2, "abcdef"), (3, "def"), (5, "def"), (6, "")] {
        let mut request = fetch(12, &[(t, 0, offset)]);
        request.max_wait_ms = 0;
        let response = broker.call(client, &request, 12);
        assert_eq!(values(&response, 0).concat(), expected, "offset {offset}");
    }
}

#[test]
fn more_bytes_than_an_answer_may_have_are_not_waited_for() {
    let (mut broker, client, id, len) = broker();
    let mut request = fetch(12, &[(Named("t", id), 0, 0)]);
    (request.min_bytes, request.max_bytes) = (i32::MAX, 2 * len);
    let response = broker.call(client, &request, 12);
    assert_eq!(values(&response, 0), ["one", "two"]);
    // One byte more than there is has to wait for its time.
    (request.min_bytes, request.max_bytes) = (2 * len + 1, 1 << 20);
    let asked = broker.ask(client, &request, 12);
    broker.run();
    assert!(broker.received(client).is_empty());
    broker.wait(500);
    let response = broker.answer::<FetchRequest>(client, 12, asked).expect("its time is over");
    assert_eq!(values(&response, 0), ["one", "two"]);
}

#[test]
fn a_fetch_that_does_not_wait_still_waits_for_a_log_to_open() {
    let mut broker = Broker::new(1, &[]);
    let id = broker.create_topic("t", &[]);
    let client = broker.connect(0);
    let mut request = fetch(12, &[(Named("t", id), 0, 0)]);
    request.max_wait_ms = 0;
    let response = broker.call(client, &request, 12);
    let partition = &response.responses[0].partitions[0];
    assert_eq!((partition.error_code, partition.high_watermark), (0, 0));

    // But not for ever.
    let id = broker.create_topic("stuck", &[]);
    broker.disks[0].hold = Some(|kind: &DiskOpKind| matches!(kind, DiskOpKind::ReadDir { .. }));
    let mut request = fetch(12, &[(Named("stuck", id), 0, 0)]);
    request.max_wait_ms = 0;
    let asked = broker.ask(client, &request, 12);
    broker.run();
    for _ in 0..19 {
        broker.wait(50);
        assert!(broker.received(client).is_empty());
    }
    broker.wait(50);
    let response = broker.answer::<FetchRequest>(client, 12, asked).expect("long enough");
    let code = response.responses[0].partitions[0].error_code;
    assert_eq!(code, E::NotLeaderOrFollower.code());
}

#[test]
fn the_long_poll_of_a_client_that_goes_ends() {
    let (mut broker, client, id, _) = broker();
    let mut request = fetch(12, &[(Named("t", id), 0, 2), (Named("t", id), 1, 2)]);
    request.max_wait_ms = i32::MAX;
    let asked = broker.ask(client, &request, 12);
    broker.run();
    assert!(broker.received(client).is_empty());
    // It may have ended its side only, so it is answered.
    broker.end(client);
    broker.run();
    assert!(broker.answer::<FetchRequest>(client, 12, asked).is_some());
    assert!(broker.is_closed(client));
    // One that sends nonsense is not.
    let client = broker.connect(1);
    broker.ask(client, &request, 12);
    broker.run();
    broker.send(client, b"GET / HTTP/1.1\r\n");
    broker.run();
    assert!(broker.is_closed(client) && broker.received(client).is_empty());
    for shard in &mut broker.shards {
        assert_eq!(shard.counters().requests_in_flight, 0);
    }
}

#[test]
fn how_large_a_batch_may_be() {
    let mut broker = Broker::new(1, &[]);
    let client = broker.connect(0);
    let large = batch(&["x".repeat(1_200_000).as_str()]);
    let len = large.len();
    let exact = broker.create_topic("exact", &[("max.message.bytes", &len.to_string())]);
    let short = broker.create_topic("short", &[("max.message.bytes", &(len - 1).to_string())]);
    let config = [("max.message.bytes", "2000000"), ("segment.bytes", "1048576")];
    let segment = broker.create_topic("segment", &config);
    for (topic, code) in [
        (Named("exact", exact), E::None),
        (Named("short", short), E::MessageTooLarge),
        (Named("segment", segment), E::RecordListTooLarge),
    ] {
        let response = broker.call(client, &produce(9, -1, &[(topic, 0, large.clone())]), 9);
        let row = &response.responses[0].partition_responses[0];
        assert_eq!(row.error_code, code.code(), "{}", topic.0);
    }
}

#[test]
fn what_follows_a_request_is_passed_over() {
    let (mut broker, client, id, _) = broker();
    let t = Named("t", id);
    let longer = |broker: &mut Broker, frame: BytesMut| {
        let mut bytes = frame.to_vec();
        bytes.extend(b"more");
        let len = bytes.len() as i32 - 4;
        bytes[..4].copy_from_slice(&len.to_be_bytes());
        broker.send(client, &bytes);
        broker.run();
    };
    let request = produce(13, -1, &[(t, 0, batch(&["three"]))]);
    let frame = encode_request(&request, 13, 1, "c").expect("representable");
    longer(&mut broker, frame);
    let response = broker.answer::<kafka_wire::ProduceRequest>(client, 13, 1).expect("answered");
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    let frame = encode_request(&fetch(12, &[(t, 0, 2)]), 12, 2, "c").expect("representable");
    longer(&mut broker, frame);
    let response = broker.answer::<FetchRequest>(client, 12, 2).expect("answered");
    assert_eq!(values(&response, 0), ["three"]);
    let request = kafka_wire::ApiVersionsRequest::default();
    let frame = encode_request(&request, 0, 3, "c").expect("representable");
    longer(&mut broker, frame);
    assert!(broker.answer::<kafka_wire::ApiVersionsRequest>(client, 0, 3).is_some());
}

#[test]
fn a_silent_idempotent_producer_is_forgotten() {
    let mut broker = Broker::new(1, &[("producer.id.expiration.ms", "1000")]);
    let id = broker.create_topic("t", &[]);
    let client = broker.connect(0);
    let write = |broker: &mut Broker, producer: i64, sequence: i32| {
        let mut builder = BatchBuilder::new(Codec::None).producer(producer, 0, sequence);
        builder.push(broker.now.unix.0, None, Some(b"x"), &[]);
        let rows = [(Named("t", id), 0, Bytes::from(builder.finish()))];
        let response = broker.call(client, &produce(9, -1, &rows), 9);
        let row = &response.responses[0].partition_responses[0];
        (row.error_code, row.base_offset)
    };
    assert_eq!(write(&mut broker, 1, 0), (0, 0));
    assert_eq!(write(&mut broker, 2, 0), (0, 1));
    broker.wait(900);
    assert_eq!(write(&mut broker, 1, 0), (0, 0), "sent again");
    assert_eq!(write(&mut broker, 2, 1), (0, 2));
    broker.wait(900);
    // The first is not known any more and may begin anywhere, the second is.
    assert_eq!(write(&mut broker, 1, 40), (0, 3));
    assert_eq!(write(&mut broker, 2, 40), (E::OutOfOrderSequenceNumber.code(), -1));
    assert_eq!(write(&mut broker, 2, 1), (0, 2));
}

/// The beginning of a Produce request that announces `len` bytes.
fn beginning(len: i32, sent: usize) -> Vec<u8> {
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend(b"\0\0\0\x09\0\0\0\x01\xff\xff\0");
    bytes.resize(sent, 0);
    bytes
}

#[test]
fn clients_that_fill_the_memory_for_frames_hurt_nobody_else() {
    // 64 MiB, a core: 16 MiB for frames.
    let mut broker = Broker::new(1, &[("corelane.memory", "64m")]);
    let id = broker.create_topic("t", &[]);
    let t = Named("t", id);
    let hostile: Vec<ClientId> = (0..200)
        .map(|at| {
            let client = broker.connect(0);
            // Some stop early, some after a megabyte.
            broker.send(client, &beginning(7 << 20, 1 << (10 + at % 11)));
            broker.run();
            client
        })
        .collect();
    let memory = |broker: &mut Broker| broker.shards[0].counters().receive_bytes;
    assert!(memory(&mut broker) > 11 << 20 && memory(&mut broker) <= 15 << 20);
    // New clients are accepted and served, with batches of some size too.
    let text = "x".repeat(100_000);
    for _ in 0..20 {
        let client = broker.connect(0);
        broker.call(client, &kafka_wire::MetadataRequest::default(), 1);
        let rows = [(t, 0, batch(&[&text]))];
        let asked = broker.ask(client, &produce(9, -1, &rows), 9);
        broker.run();
        broker.wait(10);
        let response = broker.answer::<kafka_wire::ProduceRequest>(client, 9, asked);
        assert!(response.is_some() || !broker.is_closed(client), "it waits at the worst");
    }
    // Who holds memory and does not get on is closed; everybody else is served.
    let waiting = broker.connect(0);
    let asked = broker.ask(waiting, &produce(9, -1, &[(t, 0, batch(&[&text]))]), 9);
    broker.run();
    for _ in 0..31 {
        broker.wait(1_000);
    }
    assert!(broker.answer::<kafka_wire::ProduceRequest>(waiting, 9, asked).is_some());
    let closed = hostile.iter().filter(|client| broker.is_closed(**client)).count();
    assert!((1..=32).contains(&closed), "one a second at the most: {closed}");
    // With memory to spare nobody is.
    for _ in 0..200 {
        broker.wait(1_000);
    }
    let calm = broker.connect(0);
    broker.send(calm, &beginning(7 << 20, 1000));
    broker.run();
    for _ in 0..100 {
        broker.wait(1_000);
    }
    assert!(!broker.is_closed(calm));
}

#[test]
fn large_requests_that_do_not_fit_together_come_one_after_the_other() {
    let mut broker =
        Broker::new(1, &[("corelane.memory", "64m"), ("message.max.bytes", "4000000")]);
    let id = broker.create_topic("t", &[]);
    let text = "x".repeat(3_900_000);
    let rows = [(Named("t", id), 0, batch(&[&text]))];
    let clients: Vec<ClientId> = (0..8).map(|_| broker.connect(0)).collect();
    let frames: Vec<Vec<u8>> = (0..8)
        .map(|at| encode_request(&produce(9, -1, &rows), 9, at, "c").expect("fits").to_vec())
        .collect();
    // All of them come at once, a piece of each at a time.
    for at in 0..frames[0].len().div_ceil(50_000) {
        for (client, frame) in clients.iter().zip(&frames) {
            let end = frame.len().min((at + 1) * 50_000);
            broker.send(*client, &frame[at * 50_000..end]);
        }
        broker.run();
        broker.wait(10);
    }
    for _ in 0..40 {
        broker.wait(1_000);
    }
    let answered = (0..8).zip(&clients).filter(|(at, client)| {
        broker.answer::<kafka_wire::ProduceRequest>(**client, 9, *at).is_some()
    });
    assert!(answered.count() >= 4, "some may be told to come again, most get on");
    assert_eq!(broker.shards[0].counters().receive_bytes, 0);
}
