//! Stories of fetch sessions (KIP-227).

use kafka_wire::{FetchRequest, FetchResponse, fetch_request};

use super::broker::{Broker, ClientId};
use super::every_version::{Named, UNKNOWN, batch, fetch, produce, values};
use crate::model::error_code::ErrorCode as E;
use crate::model::ids::TopicId;
use crate::wire::small::{self, StrBytes};

/// A request of a session, which asks for these changes and does not wait.
fn ask(version: i16, session: (i32, i32), rows: &[(Named<'_>, i32, i64)]) -> FetchRequest {
    let mut request = fetch(version, rows);
    request.max_wait_ms = 0;
    (request.session_id, request.session_epoch) = session;
    request
}

/// The same without these partitions from now on.
fn forget(mut request: FetchRequest, version: i16, rows: &[(Named<'_>, i32)]) -> FetchRequest {
    for (Named(name, id), partition) in rows {
        let mut topic = fetch_request::ForgottenTopic::default();
        if version >= 13 {
            topic.topic_id = small::uuid(*id);
        } else {
            topic.topic = StrBytes::from(*name);
        }
        topic.partitions.push(*partition);
        request.forgotten_topics_data.push(topic);
    }
    request
}

/// Every partition that an answer speaks of: its number, its error, its values.
fn said(response: &FetchResponse) -> Vec<(i32, i16, Vec<String>)> {
    assert_eq!(response.error_code, 0);
    let mut rows = vec![];
    for (at, topic) in response.responses.iter().enumerate() {
        assert_eq!(topic.partitions.len(), 1, "partitions of these tests are no neighbours");
        let partition = &topic.partitions[0];
        rows.push((partition.partition_index, partition.error_code, values(response, at)));
    }
    rows
}

/// Two cores with two topics of two partitions, and a client of core 0.
fn broker() -> (Broker, ClientId, [TopicId; 2]) {
    let mut broker = Broker::new(2, &[]);
    let ids = [broker.create_topic("t", &[]), broker.create_topic("u", &[])];
    let client = broker.connect(0);
    (broker, client, ids)
}

fn write(broker: &mut Broker, client: ClientId, topic: Named<'_>, partition: i32, text: &str) {
    let rows = [(topic, partition, batch(&[text]))];
    let response = broker.call(client, &produce(9, -1, &rows), 9);
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
}

fn sessions(broker: &mut Broker) -> usize {
    broker.shards.iter_mut().map(|shard| shard.counters().fetch_sessions).sum()
}

#[test]
fn an_incremental_answer_says_what_has_changed_in_every_version() {
    let (mut broker, client, [t, u]) = broker();
    let (t, u) = (Named("t", t), Named("u", u));
    let mut end = 0;
    for version in 7..=18 {
        write(&mut broker, client, t, 0, "a");
        write(&mut broker, client, u, 1, "b");
        end += 1;
        let full = ask(version, (0, 0), &[(t, 0, end - 1), (u, 1, end - 1)]);
        let response = broker.call(client, &full, version);
        let id = response.session_id;
        assert!(id > 0, "version {version}");
        let first = [(0, 0, vec!["a".to_owned()]), (1, 0, vec!["b".to_owned()])];
        assert_eq!(said(&response), first, "version {version}");

        // The client has read them; nothing is new.
        let request = ask(version, (id, 1), &[(t, 0, end), (u, 1, end)]);
        let response = broker.call(client, &request, version);
        assert_eq!((response.session_id, said(&response)), (id, vec![]), "version {version}");

        // One has something new; neither is named.
        write(&mut broker, client, u, 1, "c");
        let response = broker.call(client, &ask(version, (id, 2), &[]), version);
        assert_eq!(said(&response), [(1, 0, vec!["c".to_owned()])], "version {version}");
        let name = &response.responses[0];
        let named = if version >= 13 { "" } else { "u" };
        assert_eq!(&*name.topic, named, "version {version}");
        if version >= 13 {
            assert_eq!(name.topic_id, small::uuid(u.1));
        }

        // One is forgotten, though there is something new.
        write(&mut broker, client, t, 0, "d");
        let request = forget(ask(version, (id, 3), &[]), version, &[(t, 0)]);
        let response = broker.call(client, &request, version);
        assert_eq!(said(&response), [(1, 0, vec!["c".to_owned()])], "version {version}");
        // The other too: that ends the session.
        let request = forget(ask(version, (id, 4), &[]), version, &[(u, 1)]);
        let response = broker.call(client, &request, version);
        assert_eq!((response.session_id, said(&response)), (0, vec![]));
        assert_eq!(sessions(&mut broker), 0, "version {version}");
        end += 1;
    }
}

#[test]
fn what_goes_for_the_whole_request() {
    let (mut broker, client, [t, _]) = broker();
    let other = broker.connect(1);
    let t = Named("t", t);
    write(&mut broker, client, t, 0, "a");
    let id = broker.call(client, &ask(12, (0, 0), &[(t, 0, 0)]), 12).session_id;
    let table = [
        ("no session", client, 12, (0, 1), E::FetchSessionIdNotFound),
        ("nobody's session", client, 12, (id ^ 0x100, 1), E::FetchSessionIdNotFound),
        ("of another core", other, 12, (id, 1), E::FetchSessionIdNotFound),
        ("an epoch ahead", client, 12, (id, 2), E::InvalidFetchSessionEpoch),
        ("an epoch below all", client, 12, (id, -2), E::InvalidFetchSessionEpoch),
        ("by id in a session by name", client, 13, (id, 1), E::FetchSessionTopicIdError),
        ("right", client, 12, (id, 1), E::None),
        ("the same again", client, 12, (id, 1), E::InvalidFetchSessionEpoch),
        ("the next", client, 12, (id, 2), E::None),
    ];
    for (what, client, version, session, code) in table {
        let response = broker.call(client, &ask(version, session, &[]), version);
        assert_eq!(response.error_code, code.code(), "{what}");
        let ours = if code == E::None { id } else { 0 };
        assert_eq!(response.session_id, ours, "{what}");
        assert_eq!(response.responses.is_empty(), code != E::None, "{what}");
    }
    // A full request of its id ends it, and may open another.
    let response = broker.call(client, &ask(12, (id, 0), &[(t, 0, 0)]), 12);
    assert!(response.session_id != id && response.session_id > 0);
    assert_eq!(sessions(&mut broker), 1);
    let response = broker.call(client, &ask(12, (response.session_id, -1), &[]), 12);
    assert_eq!((response.error_code, response.session_id), (0, 0));
    assert_eq!(sessions(&mut broker), 0);
    // It has nothing to forget, whatever it says.
    let request = forget(ask(12, (0, 0), &[(t, 0, 0)]), 12, &[(t, 0)]);
    let response = broker.call(client, &request, 12);
    let session = (response.session_id, 1);
    assert_eq!(said(&broker.call(client, &ask(12, session, &[]), 12)).len(), 1);
    broker.call(client, &ask(12, (session.0, -1), &[]), 12);
    // Who wants none gets none.
    let response = broker.call(client, &ask(12, (0, -1), &[(t, 0, 0)]), 12);
    assert_eq!((response.session_id, sessions(&mut broker)), (0, 0));
}

#[test]
fn a_request_that_was_overtaken_within_its_session_is_told() {
    let (mut broker, client, [t, _]) = broker();
    let t = Named("t", t);
    write(&mut broker, client, t, 0, "a");
    let id = broker.call(client, &ask(12, (0, 0), &[(t, 0, 1)]), 12).session_id;
    let second = broker.connect(0);
    let mut waits = ask(12, (id, 1), &[]);
    waits.max_wait_ms = 500;
    let asked = broker.ask(client, &waits, 12);
    broker.run();
    assert_eq!(broker.call(second, &ask(12, (id, 2), &[]), 12).error_code, 0);
    broker.wait(500);
    let late = broker.answer::<FetchRequest>(client, 12, asked).expect("its time is over");
    assert_eq!(late.error_code, E::InvalidFetchSessionEpoch.code());
}

#[test]
fn an_error_is_said_again_and_so_is_its_end() {
    let (mut broker, client, [t, _]) = broker();
    let (t, late) = (Named("t", t), Named("late", UNKNOWN));
    write(&mut broker, client, t, 0, "a");
    let full = ask(12, (0, 0), &[(late, 0, 0), (t, 0, 1)]);
    let response = broker.call(client, &full, 12);
    let unknown = E::UnknownTopicOrPartition.code();
    assert_eq!(said(&response), [(0, unknown, vec![]), (0, 0, vec![])]);
    let id = response.session_id;
    let response = broker.call(client, &ask(12, (id, 1), &[]), 12);
    assert_eq!(said(&response), [(0, unknown, vec![])]);
    broker.create_topic("late", &[]);
    let response = broker.call(client, &ask(12, (id, 2), &[]), 12);
    assert_eq!(said(&response), [(0, 0, vec![])]);
    assert_eq!(response.responses[0].partitions[0].high_watermark, 0);
    let response = broker.call(client, &ask(12, (id, 3), &[]), 12);
    assert_eq!(said(&response), []);
}

#[test]
fn each_partition_gets_its_turn() {
    let mut broker = Broker::new(1, &[]);
    let client = broker.connect(0);
    let names = ["a", "b", "c"];
    let topics = names.map(|name| Named(name, broker.create_topic(name, &[])));
    for topic in topics {
        write(&mut broker, client, topic, 0, topic.0);
    }
    let rows = topics.map(|topic| (topic, 0, 0));
    let limited = |session, rows: &[(Named<'_>, i32, i64)]| {
        let mut request = ask(12, session, rows);
        request.max_bytes = 1;
        request
    };
    let response = broker.call(client, &limited((0, 0), &rows), 12);
    let records = |response: &FetchResponse| -> Vec<String> {
        said(response).into_iter().flat_map(|(_, _, values)| values).collect()
    };
    assert_eq!(records(&response), ["a"]);
    let id = response.session_id;
    for (epoch, expected) in (1..).zip(["a", "b", "c", "a", "b"]) {
        let response = broker.call(client, &limited((id, epoch), &[]), 12);
        assert_eq!(records(&response), [expected], "epoch {epoch}");
    }
}

#[test]
fn slots_are_bounded() {
    let mut broker = Broker::new(1, &[("max.incremental.fetch.session.cache.slots", "2")]);
    let client = broker.connect(0);
    let (t, u) = (broker.create_topic("t", &[]), broker.create_topic("u", &[]));
    let (t, u) = (Named("t", t), Named("u", u));
    let open = |broker: &mut Broker, rows: &[(Named<'_>, i32, i64)]| {
        broker.call(client, &ask(12, (0, 0), rows), 12).session_id
    };
    let one = [(t, 0, 0)];
    let first = open(&mut broker, &one);
    let second = open(&mut broker, &one);
    assert!(first != 0 && second != 0 && first != second);
    assert_eq!(open(&mut broker, &one), 0, "no room");
    // The first is in use, the second is not.
    broker.wait(60_000);
    assert_eq!(broker.call(client, &ask(12, (first, 1), &[]), 12).error_code, 0);
    broker.wait(60_001);
    let third = open(&mut broker, &one);
    assert!(third != 0 && sessions(&mut broker) == 2);
    let response = broker.call(client, &ask(12, (second, 1), &[]), 12);
    assert_eq!(response.error_code, E::FetchSessionIdNotFound.code());
    // Old and in use gives way to a larger one only.
    assert_eq!(open(&mut broker, &one), 0);
    let larger = open(&mut broker, &[(t, 0, 0), (u, 0, 0)]);
    assert!(larger != 0 && sessions(&mut broker) == 2);
    let response = broker.call(client, &ask(12, (first, 2), &[]), 12);
    assert_eq!(response.error_code, E::FetchSessionIdNotFound.code());

    let mut broker = Broker::new(1, &[("max.incremental.fetch.session.cache.slots", "0")]);
    let client = broker.connect(0);
    let id = broker.create_topic("t", &[]);
    let response = broker.call(client, &ask(12, (0, 0), &[(Named("t", id), 0, 0)]), 12);
    assert_eq!((response.error_code, response.session_id), (0, 0));
}
