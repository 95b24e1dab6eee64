//! Stories of connections: order, waiting, back-pressure, the end.

use std::path::Path;

use kafka_wire::create_topics_request::CreatableTopic;
use kafka_wire::{
    ApiVersionsRequest, CreateTopicsRequest, FetchRequest, MetadataRequest, ProduceRequest,
};

use super::broker::{Broker, ClientId};
use super::every_version::{Named, batch, fetch, produce, values};
use crate::base::limits::REQUESTS_PER_CONNECTION_MAX;
use crate::base::time::Instant;
use crate::effect::disk::DiskOpKind;
use crate::metrics::Snapshot;
use crate::model::error_code::ErrorCode as E;
use crate::model::ids::{CoreId, TopicId};
use crate::shard::event::Wake;

fn is_sync(kind: &DiskOpKind) -> bool {
    matches!(kind, DiskOpKind::Sync { .. })
}

/// Two cores with a topic of a partition each, whose logs are open.
fn broker() -> (Broker, ClientId, TopicId) {
    let mut broker = Broker::new(2, &[]);
    let id = broker.create_topic("t", &[]);
    let client = broker.connect(0);
    let rows = [(Named("t", id), 0, batch(&["first"])), (Named("t", id), 1, batch(&["first"]))];
    broker.call(client, &produce(3, 1, &rows), 3);
    (broker, client, id)
}

#[test]
fn answers_come_in_the_order_of_the_requests() {
    let (mut broker, client, id) = broker();
    let t = Named("t", id);
    for disk in &mut broker.disks {
        disk.hold = Some(is_sync);
    }
    let far = broker.ask(client, &produce(3, 1, &[(t, 1, batch(&["a"]))]), 3);
    let versions = broker.ask(client, &ApiVersionsRequest::default(), 0);
    let silent = produce(3, 0, &[(t, 0, batch(&["b"]))]);
    broker.ask(client, &silent, 3);
    let near = broker.ask(client, &produce(3, -1, &[(t, 0, batch(&["c"]))]), 3);
    let metadata = broker.ask(client, &MetadataRequest::default(), 1);
    broker.run();
    assert_eq!(broker.received(client), b"", "the first answer waits for its sync");
    broker.release();
    let first = broker.answer::<ProduceRequest>(client, 3, far).expect("synced");
    assert_eq!(first.responses[0].partition_responses[0].base_offset, 1);
    assert!(broker.answer::<ApiVersionsRequest>(client, 0, versions).is_some());
    let third = broker.answer::<ProduceRequest>(client, 3, near).expect("synced");
    assert_eq!(third.responses[0].partition_responses[0].base_offset, 2, "behind the silent one");
    assert!(broker.answer::<MetadataRequest>(client, 1, metadata).is_some());
    assert_eq!(broker.received(client), b"");
}

#[test]
fn nothing_is_seen_before_it_is_synced() {
    let (mut broker, writer, id) = broker();
    let reader = broker.connect(1);
    broker.disks[0].hold = Some(is_sync);
    let written = broker.ask(writer, &produce(3, -1, &[(Named("t", id), 0, batch(&["x"]))]), 3);
    let read = broker.ask(reader, &fetch(12, &[(Named("t", id), 0, 1)]), 12);
    broker.run();
    assert!(broker.disks[0].held() == 1, "written, not synced");
    assert!(broker.received(writer).is_empty() && broker.received(reader).is_empty());
    broker.release();
    assert!(broker.answer::<ProduceRequest>(writer, 3, written).is_some());
    let response = broker.answer::<FetchRequest>(reader, 12, read).expect("woken");
    assert_eq!(values(&response, 0), ["x"]);
}

#[test]
fn a_fetch_waits_for_bytes_or_for_its_time() {
    let (mut broker, reader, id) = broker();
    let writer = broker.connect(1);
    // Over both cores, from the ends.
    let both = fetch(12, &[(Named("t", id), 0, 1), (Named("t", id), 1, 1)]);
    let waiting = broker.ask(reader, &both, 12);
    broker.run();
    broker.wait(499);
    assert_eq!(broker.received(reader), b"");
    broker.wait(1);
    let response = broker.answer::<FetchRequest>(reader, 12, waiting).expect("its time is over");
    assert!(values(&response, 0).is_empty() && values(&response, 1).is_empty());

    let waiting = broker.ask(reader, &both, 12);
    broker.run();
    broker.call(writer, &produce(3, 1, &[(Named("t", id), 1, batch(&["news"]))]), 3);
    let response = broker.answer::<FetchRequest>(reader, 12, waiting).expect("there is news");
    assert_eq!((values(&response, 0).len(), values(&response, 1)), (0, vec!["news".to_owned()]));
    for shard in &mut broker.shards {
        assert_eq!(shard.counters().requests_in_flight, 0, "the other core was told");
    }
}

#[test]
fn a_deleted_topic_wakes_who_waits_for_it() {
    let (mut broker, client, id) = broker();
    let t = Named("t", id);
    broker.disks[1].hold = Some(is_sync);
    let writer = broker.connect(1);
    let read = broker.ask(client, &fetch(12, &[(t, 0, 1)]), 12);
    let write = broker.ask(writer, &produce(3, 1, &[(t, 1, batch(&["x"]))]), 3);
    broker.run();
    broker.commit(&[crate::metadata::record::Record::RemoveTopic { id }]);
    broker.run();
    let gone = E::UnknownTopicOrPartition.code();
    let read = broker.answer::<FetchRequest>(client, 12, read).expect("woken");
    assert_eq!(read.responses[0].partitions[0].error_code, gone);
    let write = broker.answer::<ProduceRequest>(writer, 3, write).expect("woken");
    assert_eq!(write.responses[0].partition_responses[0].error_code, gone);
    broker.release();
    for disk in &broker.disks {
        assert!(disk.dirs.is_empty() && disk.open_files() == 0, "{disk:?}");
    }
    // Its name is free at once.
    let id = broker.create_topic("t", &[]);
    let response = broker.call(client, &produce(3, 1, &[(Named("t", id), 0, batch(&["y"]))]), 3);
    assert_eq!(response.responses[0].partition_responses[0].base_offset, 0);
}

#[test]
fn a_silent_producer_is_told_of_a_failure_by_the_close() {
    let (mut broker, client, id) = broker();
    broker.ask(client, &produce(3, 0, &[(Named("t", id), 0, batch(&["fine"]))]), 3);
    broker.run();
    assert!(!broker.is_closed(client));
    broker.ask(client, &produce(3, 0, &[(Named("t", id), 5, batch(&["lost"]))]), 3);
    broker.run();
    assert!(broker.is_closed(client) && broker.received(client).is_empty());
}

#[test]
fn what_is_no_request_costs_the_connection() {
    let (mut broker, ..) = broker();
    let broken: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        // Negative length; an API that nobody serves; a version that nobody serves.
        b"\xff\xff\xff\xff\0\x03\0\0\0\0\0\x01\xff\xff",
        b"\0\0\0\x0a\x03\xe7\0\0\0\0\0\x01\xff\xff",
        b"\0\0\0\x0a\0\x03\0\x63\0\0\0\x01\xff\xff",
        // A Metadata request that announces a topic and names none.
        b"\0\0\0\x0e\0\x03\0\x01\0\0\0\x01\xff\xff\0\0\0\x01",
    ];
    for bytes in broken {
        let client = broker.connect(0);
        broker.send(client, bytes);
        broker.run();
        assert!(broker.is_closed(client) && broker.received(client).is_empty(), "{bytes:?}");
    }
}

#[test]
fn answers_to_a_client_that_left_are_dropped() {
    let (mut broker, _, id) = broker();
    for disk in &mut broker.disks {
        disk.hold = Some(is_sync);
    }
    let client = broker.connect(0);
    broker.ask(client, &produce(3, 1, &[(Named("t", id), 1, batch(&["x"]))]), 3);
    broker.send(client, b"nonsense");
    broker.run();
    assert!(broker.is_closed(client));
    // Its number belongs to somebody else when the answer comes.
    let next = broker.connect(0);
    assert_eq!(next, client);
    let own = broker.ask(next, &ApiVersionsRequest::default(), 0);
    broker.run();
    assert!(broker.answer::<ApiVersionsRequest>(next, 0, own).is_some());
    broker.release();
    assert!(broker.received(next).is_empty() && !broker.is_closed(next));
    assert_eq!(broker.shards[0].counters().requests_in_flight, 0);
}

#[test]
fn a_client_that_ends_its_side_gets_its_answers_first() {
    let (mut broker, client, id) = broker();
    broker.disks[0].hold = Some(is_sync);
    let asked = broker.ask(client, &produce(3, 1, &[(Named("t", id), 0, batch(&["x"]))]), 3);
    broker.end(client);
    broker.run();
    assert!(!broker.is_closed(client));
    broker.release();
    assert!(broker.answer::<ProduceRequest>(client, 3, asked).is_some());
    assert!(broker.is_closed(client));
}

#[test]
fn requests_beyond_what_a_connection_may_have_open_are_not_forgotten() {
    let (mut broker, client, id) = broker();
    let other = broker.create_topic("u", &[]);
    broker.call(client, &produce(3, 1, &[(Named("u", other), 0, batch(&["first"]))]), 3);
    for _ in 0..3 * REQUESTS_PER_CONNECTION_MAX {
        broker.ask(client, &produce(3, 0, &[(Named("t", id), 0, batch(&["x"]))]), 3);
    }
    // Taken up when there is room again, at the end of a turn; its log is idle.
    broker.ask(client, &produce(3, 0, &[(Named("u", other), 0, batch(&["last"]))]), 3);
    broker.run();
    assert!(broker.shards[0].wake() > Wake::At(broker.now.instant), "nothing is left to do");
    let file = &broker.disks[0].files[Path::new("u-0/00000000000000000000.log")];
    let (first, last) = (batch(&["first"]).len(), batch(&["last"]).len());
    assert!(file[first..first + last].iter().any(|byte| *byte != 0), "it is not on the disk");
}

#[test]
fn silent_connections_are_closed_and_waiting_ones_are_not() {
    let mut broker = Broker::new(1, &[("connections.max.idle.ms", "1000")]);
    let id = broker.create_topic("t", &[]);
    let (silent, talks, waits) = (broker.connect(0), broker.connect(0), broker.connect(0));
    let mut request = fetch(12, &[(Named("t", id), 0, 0)]);
    request.max_wait_ms = 5_000;
    let asked = broker.ask(waits, &request, 12);
    broker.run();
    for _ in 0..12 {
        broker.wait(100);
        broker.call(talks, &ApiVersionsRequest::default(), 0);
    }
    assert!(broker.is_closed(silent) && !broker.is_closed(talks) && !broker.is_closed(waits));
    broker.wait(5_000);
    assert!(broker.answer::<FetchRequest>(waits, 12, asked).is_some());
    assert!(broker.is_closed(talks));
    broker.wait(1_200);
    assert!(broker.is_closed(waits));
    broker.wait(1_000);
    let look = Wake::At(Instant::from_nanos(15_000_000_000));
    assert_eq!(broker.shards[0].wake(), look, "nothing else is left to look for");
}

#[test]
fn a_large_batch_comes_through_a_page_of_its_own() {
    let (mut broker, client, id) = broker();
    let text = "x".repeat(900_000);
    for partition in [0, 1] {
        let rows = [(Named("t", id), partition, batch(&[&text]))];
        let response = broker.call(client, &produce(9, -1, &rows), 9);
        assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
        let response = broker.call(client, &fetch(12, &[(Named("t", id), partition, 1)]), 12);
        assert!(values(&response, 0) == [text.as_str()]);
    }
    let rows = [(Named("t", id), 0, batch(&[&"x".repeat(2_000_000)]))];
    let response = broker.call(client, &produce(9, -1, &rows), 9);
    let error = response.responses[0].partition_responses[0].error_code;
    assert_eq!(error, E::MessageTooLarge.code());
    assert_eq!(broker.shards[0].counters().receive_bytes, 0, "nothing of a request stays");
}

#[test]
fn with_flush_messages_above_one_a_write_is_enough() {
    let mut broker = Broker::new(1, &[]);
    let id = broker.create_topic("t", &[("flush.messages", "100"), ("flush.ms", "1000")]);
    let client = broker.connect(0);
    broker.disks[0].hold = Some(is_sync);
    let response = broker.call(client, &produce(3, -1, &[(Named("t", id), 0, batch(&["x"]))]), 3);
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    assert_eq!(broker.disks[0].held(), 0);
    broker.wait(999);
    assert_eq!(broker.disks[0].held(), 0);
    broker.wait(1);
    assert_eq!(broker.disks[0].held(), 1, "flush.ms is over");
}

#[test]
fn a_full_disk_is_said_and_passes() {
    let (mut broker, client, id) = broker();
    // Segments of 1 MiB: the next one needs space that is not there.
    let small = broker.create_topic("small", &[("segment.bytes", "1048576")]);
    let full = |kind: &DiskOpKind| matches!(kind, DiskOpKind::Allocate { .. });
    broker.disks[0].fail = Some((full, crate::effect::disk::DiskError::NoSpace));
    let rows = [(Named("small", small), 0, batch(&["x"])), (Named("t", id), 0, batch(&["y"]))];
    let response = broker.call(client, &produce(3, 1, &rows), 3);
    let code = |topic: usize| response.responses[topic].partition_responses[0].error_code;
    assert_eq!((code(0), code(1)), (E::KafkaStorageError.code(), 0));
    let read = broker.call(client, &fetch(12, &[(Named("t", id), 0, 0)]), 12);
    assert_eq!(values(&read, 0), ["first", "y"]);
    broker.disks[0].fail = None;
    let response = broker.call(client, &produce(3, 1, &rows[..1]), 3);
    let row = &response.responses[0].partition_responses[0];
    assert_eq!((row.error_code, row.base_offset), (0, 0));
}

#[test]
fn a_failed_sync_takes_the_whole_log_directory_offline() {
    let (mut broker, client, id) = broker();
    broker.disks[0].fail = Some((is_sync, crate::effect::disk::DiskError::Io(5)));
    let rows = |text| [(Named("t", id), 0, batch(&[text])), (Named("t", id), 1, batch(&[text]))];
    let response = broker.call(client, &produce(3, 1, &rows("b")[..1]), 3);
    let failed = E::KafkaStorageError.code();
    assert_eq!(response.responses[0].partition_responses[0].error_code, failed);
    // Another sync may succeed and mean nothing: no core relies on one.
    broker.disks[0].fail = None;
    let response = broker.call(client, &produce(3, 1, &rows("c")), 3);
    let code = |topic: usize| response.responses[topic].partition_responses[0].error_code;
    assert_eq!((code(0), code(1)), (failed, failed));
    let response = broker.call(client, &fetch(12, &[(Named("t", id), 1, 0)]), 12);
    assert_eq!(response.responses[0].partitions[0].error_code, failed);
    for core in 0..2 {
        let mut snapshot = Snapshot::new(CoreId(core));
        broker.shards[usize::from(core)].measure(&mut snapshot);
        let why = snapshot.unwell.join("; ");
        assert!(why.starts_with("the log directory has failed: I/O error"), "{why}");
    }
    // The broker stays up, and says at its stop that the logs are to be checked.
    broker.call(client, &ApiVersionsRequest::default(), 0);
    broker.stop();
    assert!(broker.stopped.len() == 2 && broker.stopped.iter().all(|(_, clean)| !clean));
}

#[test]
fn a_stop_answers_what_is_in_flight_and_closes_every_log() {
    let (mut broker, client, id) = broker();
    let idle = broker.connect(1);
    let poller = broker.connect(1);
    let polled = broker.ask(poller, &fetch(12, &[(Named("t", id), 0, 1)]), 12);
    broker.disks[1].hold = Some(is_sync);
    let asked = broker.ask(client, &produce(3, 1, &[(Named("t", id), 1, batch(&["x"]))]), 3);
    broker.run();
    broker.stop();
    assert!(broker.answer::<FetchRequest>(poller, 12, polled).is_some(), "a poll ends at once");
    assert!(broker.is_closed(idle) && broker.is_closed(poller) && !broker.is_closed(client));
    assert!(broker.stopped.is_empty());
    broker.release();
    assert!(broker.answer::<ProduceRequest>(client, 3, asked).is_some());
    broker.stopped.sort();
    let cores: Vec<(u16, bool)> = broker.stopped.iter().map(|(c, clean)| (c.0, *clean)).collect();
    assert_eq!(cores, [(0, true), (1, true)]);
    for (core, shard) in broker.shards.iter_mut().enumerate() {
        assert!(shard.stopped_clean() && shard.wake() == Wake::Stopped);
        let counters = shard.counters();
        let held = (counters.receive_bytes, counters.log_bytes, counters.connections);
        assert_eq!(held, (0, 0, 0), "core {core}");
        assert_eq!(broker.disks[core].open_files(), 0);
        let segment = format!("t-{core}/00000000000000000000.log");
        let len = broker.disks[core].files[Path::new(&segment)].len();
        assert!(len > 0 && !len.is_multiple_of(512), "cut to its exact length: {len}");
    }
}

#[test]
fn more_commands_than_the_controller_takes_wait_their_turn() {
    let mut broker = Broker::new(1, &[]);
    let clients: Vec<ClientId> = (0..6).map(|_| broker.connect(0)).collect();
    let mut topic = CreatableTopic::default();
    topic.name = "not/a name".into();
    let mut request = CreateTopicsRequest::default();
    request.topics = vec![topic];
    let mut asked = vec![];
    for client in &clients {
        for _ in 0..REQUESTS_PER_CONNECTION_MAX {
            asked.push((*client, broker.ask(*client, &request, 5)));
        }
    }
    broker.run();
    for (client, id) in asked {
        let answer = broker.answer::<CreateTopicsRequest>(client, 5, id).expect("answered");
        assert_eq!(answer.topics[0].error_code, E::InvalidTopicException.code());
    }
}
