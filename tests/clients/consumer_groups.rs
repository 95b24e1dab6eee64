//! Groups of the consumer protocol (KIP-848), as librdkafka speaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::Message;

use crate::harness::{Broker, PATIENCE, Start, corelane, temp_dir};
use crate::kafka::{Member, Row, config, create_topic, produce_all};

fn start(dir: &std::path::Path) -> Start {
    Start::on(dir)
        .set("offsets.topic.num.partitions=5")
        .set("group.consumer.min.heartbeat.interval.ms=100")
        .set("group.consumer.heartbeat.interval.ms=100")
        .set("group.consumer.min.session.timeout.ms=6000")
        .set("group.consumer.session.timeout.ms=6000")
}

/// A member of group `team`.
fn member(broker: &Broker, topic: &str, settings: &[(&str, &str)]) -> Member {
    member_of("consumer", broker, topic, settings)
}

/// A member of group `team` by this protocol.
fn member_of(protocol: &str, broker: &Broker, topic: &str, settings: &[(&str, &str)]) -> Member {
    let mut config = config(broker, &[("enable.auto.commit", "false"), ("group.id", "team")]);
    config.set("group.protocol", protocol).set("auto.offset.reset", "earliest");
    if protocol == "classic" {
        config.set("session.timeout.ms", "6000").set("heartbeat.interval.ms", "200");
    }
    config.set("fetch.wait.max.ms", "50").set("topic.metadata.refresh.interval.ms", "300");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    let consumer: BaseConsumer = config.create().expect("a sound configuration");
    consumer.subscribe(&[topic]).expect("subscribed");
    Member::new(consumer)
}

/// The partitions that a member owns.
fn owned(member: &BaseConsumer) -> BTreeSet<(String, i32)> {
    let list = member.assignment().expect("known");
    list.elements().iter().map(|row| (row.topic().to_owned(), row.partition())).collect()
}

/// Polls all of `members`, which remember what they get, until it is as wanted.
fn poll_until(
    members: &[&BaseConsumer],
    seen: &mut BTreeMap<String, usize>,
    mut wanted: impl FnMut(&BTreeMap<String, usize>) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    while !wanted(seen) {
        let all: Vec<_> = members.iter().map(|member| owned(member)).collect();
        assert!(Instant::now() < deadline, "the group does not settle: {all:?}, {}", seen.len());
        for member in members {
            if let Some(Ok(message)) = member.poll(Duration::from_millis(10)) {
                let value = message.payload().expect("a value").to_vec();
                *seen.entry(String::from_utf8(value).expect("text")).or_default() += 1;
                member.store_offset_from_message(&message).expect("stored");
            }
        }
    }
}

fn rows(from: usize, count: usize) -> Vec<Row> {
    let row = |n: usize| {
        let mut row = Row::new(None, Some(format!("{n}").as_bytes()));
        row.partition = (n % 4) as i32;
        row
    };
    (from..from + count).map(row).collect()
}

#[test]
fn members_come_and_go_and_read_everything_once() {
    for assignor in ["uniform", "range"] {
        let dir = temp_dir();
        let broker = start(dir.path()).broker();
        create_topic(&broker, "t", 4, &[]).expect("created");
        // Offsets are committed when partitions are given back.
        let settings = [
            ("group.remote.assignor", assignor),
            ("enable.auto.commit", "true"),
            ("enable.auto.offset.store", "false"),
            ("auto.commit.interval.ms", "100"),
        ];
        let mut seen = BTreeMap::new();
        produce_all(&broker, &[], "t", &rows(0, 400));
        let a = member(&broker, "t", &settings);
        poll_until(&[&a], &mut seen, |_| owned(&a).len() == 4);
        let b = member(&broker, "t", &settings);
        poll_until(&[&a, &b], &mut seen, |_| owned(&a).len() == 2 && owned(&b).len() == 2);
        assert!(owned(&a).is_disjoint(&owned(&b)), "{assignor}");
        produce_all(&broker, &[], "t", &rows(400, 400));
        let c = member(&broker, "t", &settings);
        poll_until(&[&a, &b, &c], &mut seen, |_| {
            let sizes = [&a, &b, &c].map(|member| owned(member).len());
            sizes.iter().sum::<usize>() == 4 && sizes.iter().all(|size| *size > 0)
        });
        drop(b);
        produce_all(&broker, &[], "t", &rows(800, 400));
        poll_until(&[&a, &c], &mut seen, |_| owned(&a).len() == 2 && owned(&c).len() == 2);
        poll_until(&[&a, &c], &mut seen, |seen| seen.len() == 1_200);
        let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
        assert_eq!(twice, [], "{assignor}");
        let shown = corelane(&["group", "describe", "team", "--bootstrap", broker.address()], "");
        assert!(
            shown.stdout.contains(&format!("Stable, 2 members, assignor {assignor}")),
            "{shown:?}"
        );
        let shown = corelane(&["group", "list", "--json", "--bootstrap", broker.address()], "");
        assert!(shown.stdout.contains(r#""type":"consumer""#), "{shown:?}");
        drop((a, c));
        broker.stop();
    }
}

#[test]
fn a_regular_expression_takes_up_what_comes() {
    let dir = temp_dir();
    let broker = start(dir.path()).broker();
    create_topic(&broker, "logs-a", 2, &[]).expect("created");
    create_topic(&broker, "other", 2, &[]).expect("created");
    let mut seen = BTreeMap::new();
    let a = member(&broker, "^logs-.*", &[]);
    poll_until(&[&a], &mut seen, |_| owned(&a).len() == 2);
    create_topic(&broker, "logs-b", 3, &[]).expect("created");
    poll_until(&[&a], &mut seen, |_| owned(&a).len() == 5);
    assert!(owned(&a).iter().all(|(topic, _)| topic.starts_with("logs-")));
    drop(a);
    broker.stop();
}

#[test]
fn members_go_on_after_a_kill_of_the_broker() {
    let dir = temp_dir();
    let broker = start(dir.path()).broker();
    let address = format!("listeners=PLAINTEXT://{}", broker.address());
    create_topic(&broker, "t", 4, &[]).expect("created");
    produce_all(&broker, &[], "t", &rows(0, 200));
    let mut seen = BTreeMap::new();
    let settings = [("enable.auto.offset.store", "false")];
    let (a, b) = (member(&broker, "t", &settings), member(&broker, "t", &settings));
    poll_until(&[&a, &b], &mut seen, |seen| {
        owned(&a).len() == 2 && owned(&b).len() == 2 && seen.len() == 200
    });
    for member in [&a, &b] {
        member.commit_consumer_state(CommitMode::Sync).expect("committed");
    }
    let before = (owned(&a), owned(&b));
    broker.kill();
    let broker = start(dir.path()).set(&address).broker();
    produce_all(&broker, &[], "t", &rows(200, 200));
    poll_until(&[&a, &b], &mut seen, |seen| seen.len() == 400);
    assert_eq!((owned(&a), owned(&b)), before, "nobody has to give up anything");
    // A partition may have moved before the first commit, and was read again then.
    let again = |(value, count): (&String, &usize)| {
        *count > 1 && value.parse::<usize>().expect("a number") >= 200
    };
    assert!(!seen.iter().any(again), "{seen:?}");
    drop((a, b));
    broker.stop();
}

#[test]
fn a_static_member_that_restarts_keeps_its_partitions() {
    let dir = temp_dir();
    let broker = start(dir.path()).broker();
    create_topic(&broker, "t", 4, &[]).expect("created");
    let mut seen = BTreeMap::new();
    let named = |name| member(&broker, "t", &[("group.instance.id", name)]);
    let (one, two) = (named("one"), named("two"));
    poll_until(&[&one, &two], &mut seen, |_| owned(&one).len() == 2 && owned(&two).len() == 2);
    let before = owned(&two);
    drop(two);
    let two = named("two");
    poll_until(&[&one, &two], &mut seen, |_| owned(&two) == before);
    assert_eq!(owned(&one).len(), 2);
    drop((one, two));
    broker.stop();
}

#[test]
fn a_group_changes_its_protocol_member_by_member() {
    for assignor in ["range", "cooperative-sticky"] {
        let dir = temp_dir();
        let broker = start(dir.path()).set("group.initial.rebalance.delay.ms=100").broker();
        create_topic(&broker, "t", 4, &[]).expect("created");
        produce_all(&broker, &[], "t", &rows(0, 400));
        let commits = [
            ("enable.auto.commit", "true"),
            ("enable.auto.offset.store", "false"),
            ("auto.commit.interval.ms", "100"),
        ];
        let classic = [&commits[..], &[("partition.assignment.strategy", assignor)]].concat();
        let old = || member_of("classic", &broker, "t", &classic);
        let new = || member_of("consumer", &broker, "t", &commits);
        let shows = |text: &str| {
            let words = ["group", "list", "--json", "--bootstrap", broker.address()];
            let shown = corelane(&words, "");
            assert!(shown.stdout.contains(text), "{assignor}: {shown:?}");
        };
        let once = |seen: &BTreeMap<String, usize>, when: &str| {
            let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
            assert_eq!(twice, [], "{assignor}, {when}");
        };
        let mut seen = BTreeMap::new();
        let (a, b) = (old(), old());
        poll_until(&[&a, &b], &mut seen, |_| owned(&a).len() == 2 && owned(&b).len() == 2);
        shows(r#""type":"classic""#);
        once(&seen, "two classic members");
        let c = new();
        produce_all(&broker, &[], "t", &rows(400, 400));
        poll_until(&[&a, &b, &c], &mut seen, |_| {
            let sizes = [&a, &b, &c].map(|member| owned(member).len());
            sizes.iter().sum::<usize>() == 4 && sizes.iter().all(|size| *size > 0)
        });
        shows(r#""type":"consumer""#);
        once(&seen, "a member of the other kind");
        drop(a);
        poll_until(&[&b, &c], &mut seen, |_| owned(&b).len() == 2 && owned(&c).len() == 2);
        once(&seen, "one has left");
        drop(c);
        produce_all(&broker, &[], "t", &rows(800, 400));
        poll_until(&[&b], &mut seen, |seen| owned(&b).len() == 4 && seen.len() == 1_200);
        shows(r#""type":"classic""#);
        once(&seen, "classic again");
        drop(b);
        broker.stop();
    }
}
