//! Consumer groups: members share partitions, and go on where the group was.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use corelane::wire::groups::DescribeGroupsRequest;
use corelane::wire::small::StrBytes;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::Message;

use crate::harness::wire::Wire;
use crate::harness::{Broker, PATIENCE, Start, running, temp_dir};
use crate::kafka::{Member, Row, config, create_topic, produce_all};

/// A member of group `team` that reads topic `t`.
fn member(broker: &Broker, settings: &[(&str, &str)]) -> Member {
    let mut config = config(broker, &[("enable.auto.commit", "false"), ("group.id", "team")]);
    config.set("auto.offset.reset", "earliest").set("fetch.wait.max.ms", "50");
    config.set("session.timeout.ms", "6000").set("heartbeat.interval.ms", "200");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    let consumer: BaseConsumer = config.create().expect("a sound configuration");
    consumer.subscribe(&["t"]).expect("subscribed");
    Member::new(consumer)
}

/// The partitions that a member owns.
fn owned(member: &BaseConsumer) -> BTreeSet<i32> {
    let list = member.assignment().expect("known");
    list.elements().iter().map(|row| row.partition()).collect()
}

/// Polls all of `members` until it is as wanted.
fn poll_until(members: &[&BaseConsumer], mut wanted: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !wanted() {
        assert!(Instant::now() < deadline, "the group does not settle");
        for member in members {
            // Records do not matter here.
            drop(member.poll(Duration::from_millis(10)));
        }
    }
}

/// The values of the next `count` records.
fn read(member: &BaseConsumer, count: usize) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut values = vec![];
    while values.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records", values.len());
        if let Some(message) = member.poll(Duration::from_millis(100)) {
            let message = message.expect("a record");
            let value = message.payload().expect("a value").to_vec();
            values.push(String::from_utf8(value).expect("text"));
        }
    }
    values
}

fn rows(count: usize) -> Vec<Row> {
    let row = |n: usize| {
        let mut row = Row::new(None, Some(format!("{n}").as_bytes()));
        row.partition = (n % 4) as i32;
        row
    };
    (0..count).map(row).collect()
}

fn start(dir: &std::path::Path) -> Start {
    let start = Start::on(dir).set("group.initial.rebalance.delay.ms=100");
    start.set("offsets.topic.num.partitions=5")
}

#[test]
fn members_come_and_go_and_share() {
    for assignor in ["range", "cooperative-sticky"] {
        let dir = temp_dir();
        let broker = start(dir.path()).broker();
        create_topic(&broker, "t", 4, &[]).expect("created");
        let settings = [("partition.assignment.strategy", assignor)];
        let a = member(&broker, &settings);
        poll_until(&[&a], || owned(&a).len() == 4);
        let b = member(&broker, &settings);
        poll_until(&[&a, &b], || owned(&a).len() == 2 && owned(&b).len() == 2);
        assert!(owned(&a).is_disjoint(&owned(&b)), "{assignor}");
        let c = member(&broker, &settings);
        poll_until(&[&a, &b, &c], || {
            let all = [&a, &b, &c].map(|member| owned(member));
            all.iter().all(|own| !own.is_empty())
                && all.iter().map(BTreeSet::len).sum::<usize>() == 4
        });
        drop(b);
        drop(c);
        poll_until(&[&a], || owned(&a).len() == 4);
        drop(a);
        broker.stop();
    }
}

#[test]
fn a_group_goes_on_where_it_was_after_a_stop_and_after_a_kill() {
    let dir = temp_dir();
    let mut broker = start(dir.path()).broker();
    // Members look for the broker where it was.
    let address = format!("listeners=PLAINTEXT://{}", broker.address());
    create_topic(&broker, "t", 4, &[]).expect("created");
    produce_all(&broker, &[], "t", &rows(400));
    let mut seen = BTreeSet::new();
    for round in 0..4 {
        let reader = member(&broker, &[]);
        for value in read(&reader, 100) {
            assert!(seen.insert(value.clone()), "{value} came twice");
        }
        reader.commit_consumer_state(CommitMode::Sync).expect("committed");
        // Every other time the member is still there, and leaves afterwards.
        let stays = (round % 2 == 0).then_some(reader);
        if stays.is_some() {
            broker.kill();
        } else {
            broker.stop();
        }
        broker = start(dir.path()).set(&address).broker();
        drop(stays);
    }
    assert_eq!(seen.len(), 400);
    let reader = member(&broker, &[]);
    poll_until(&[&reader], || owned(&reader).len() == 4);
    let offsets: Vec<Option<i64>> = {
        // librdkafka ends no consumer of which there is such a list.
        let committed = reader.committed(PATIENCE).expect("known");
        committed.elements().iter().map(|row| row.offset().to_raw()).collect()
    };
    assert_eq!(offsets, [Some(100); 4]);
    drop(reader);
    broker.stop();
}

#[test]
fn nothing_is_lost_by_a_kill_in_the_middle_of_a_rebalance() {
    let dir = temp_dir();
    let broker = start(dir.path()).broker();
    let address = format!("listeners=PLAINTEXT://{}", broker.address());
    create_topic(&broker, "t", 4, &[]).expect("created");
    produce_all(&broker, &[], "t", &rows(400));
    let one = member(&broker, &[]);
    let mut seen: BTreeSet<String> = read(&one, 100).into_iter().collect();
    one.commit_consumer_state(CommitMode::Sync).expect("committed");
    // The second one waits for the first, which is not polled and so does not join.
    let two = member(&broker, &[]);
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    let mut request = DescribeGroupsRequest::default();
    request.groups = vec![StrBytes::from("team")];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let group = wire.call(0, &request).expect("answered").groups.swap_remove(0);
        if group.group_state.as_str() == "PreparingRebalance" {
            break;
        }
        assert!(Instant::now() < deadline, "the group is {}", &*group.group_state);
        drop(two.poll(Duration::from_millis(10)));
    }
    broker.kill();
    let broker = start(dir.path()).set(&address).broker();
    while seen.len() < 400 {
        assert!(Instant::now() < deadline + PATIENCE, "{} records", seen.len());
        for member in [&one, &two] {
            // The broker is away for a moment, which is no end.
            if let Some(Ok(message)) = member.poll(Duration::from_millis(10)) {
                let value = message.payload().expect("a value").to_vec();
                seen.insert(String::from_utf8(value).expect("text"));
            }
        }
    }
    poll_until(&[&one, &two], || owned(&one).len() == 2 && owned(&two).len() == 2);
    assert!(owned(&one).is_disjoint(&owned(&two)));
    drop((one, two));
    broker.stop();
}

#[test]
fn members_of_both_kinds_share() {
    let dir = temp_dir();
    let broker = start(dir.path()).broker();
    create_topic(&broker, "t", 4, &[]).expect("created");
    produce_all(&broker, &[], "t", &rows(40));
    let words = ["consume", "t", "--group", "team", "--from-beginning", "--bootstrap"];
    let command = || running(&[&words[..], &[broker.address()]].concat());
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    // Whoever comes first leads, and assigns.
    for commands_lead in [true, false] {
        let (ours, theirs) = if commands_lead {
            let ours = command();
            wait_for_state(&mut wire, "Stable");
            (ours, member(&broker, &[]))
        } else {
            let theirs = member(&broker, &[]);
            poll_until(&[&theirs], || owned(&theirs).len() == 4);
            (command(), theirs)
        };
        poll_until(&[&theirs], || owned(&theirs).len() == 2);
        let mine = owned(&theirs);
        let value = |n: i32| format!("{n}, {commands_lead}");
        let late = (0..8).map(|n| {
            let mut row = Row::new(None, Some(value(n).as_bytes()));
            row.partition = n % 4;
            row
        });
        produce_all(&broker, &[], "t", &late.collect::<Vec<_>>());
        let expected: BTreeSet<String> =
            (0..8).filter(|n| !mine.contains(&(n % 4))).map(value).collect();
        let mut seen = BTreeSet::new();
        while !expected.is_subset(&seen) {
            seen.insert(ours.line());
        }
        assert_eq!(ours.interrupt().status.code(), Some(0));
        poll_until(&[&theirs], || owned(&theirs).len() == 4);
        drop(theirs);
        wait_for_state(&mut wire, "Empty");
    }
    broker.stop();
}

/// Waits until the group is in a state.
fn wait_for_state(wire: &mut Wire, state: &str) {
    let mut request = DescribeGroupsRequest::default();
    request.groups = vec![StrBytes::from("team")];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let group = wire.call(0, &request).expect("answered").groups.swap_remove(0);
        if group.group_state.as_str() == state {
            return;
        }
        assert!(Instant::now() < deadline, "the group is {}", &*group.group_state);
    }
}

#[test]
fn a_static_member_that_restarts_keeps_its_partitions() {
    let dir = temp_dir();
    let broker = start(dir.path()).broker();
    create_topic(&broker, "t", 4, &[]).expect("created");
    let named = |name| member(&broker, &[("group.instance.id", name)]);
    let (one, two) = (named("one"), named("two"));
    poll_until(&[&one, &two], || owned(&one).len() == 2 && owned(&two).len() == 2);
    let before = owned(&two);
    drop(two);
    let two = named("two");
    poll_until(&[&two], || owned(&two) == before);
    assert_eq!(owned(&one).len(), 2);
    drop((one, two));
    broker.stop();
}
