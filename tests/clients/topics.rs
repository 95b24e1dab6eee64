//! Topics come, stay and go.

use std::collections::BTreeMap;

use futures_lite::future::block_on;
use rdkafka::Offset;
use rdkafka::admin::{AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use crate::harness::{Broker, PATIENCE, Start, temp_dir};
use crate::kafka::{
    Row, admin, admin_options, config, consumer, create_topic, delete_topic, expect_all,
    expect_end, next, produce, produce_all, producer,
};

/// Every topic and its number of partitions, but for the one that clients have
/// made when they asked for a coordinator.
fn topics(broker: &Broker) -> Vec<(String, usize)> {
    let client: BaseConsumer = config(broker, &[]).create().expect("a sound configuration");
    let metadata = client.fetch_metadata(None, PATIENCE).expect("an answer");
    let mut topics: Vec<_> = metadata
        .topics()
        .iter()
        .filter(|topic| topic.name() != "__consumer_offsets")
        .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
        .collect();
    topics.sort();
    topics
}

fn topic_error(broker: &Broker, name: &str) -> Option<RDKafkaRespErr> {
    let client: BaseConsumer = config(broker, &[]).create().expect("a sound configuration");
    let metadata = client.fetch_metadata(Some(name), PATIENCE).expect("an answer");
    metadata.topics()[0].error()
}

#[test]
fn a_clean_restart_keeps_everything() {
    let dir = temp_dir();
    let start = Start::on(dir.path());
    let rows = Row::numbered(2_000);
    let broker = start.broker();
    create_topic(&broker, "t", 1, &[]).expect("created");
    create_topic(&broker, "empty", 7, &[]).expect("created");
    produce_all(&broker, &[("compression.codec", "snappy")], "t", &rows[..1_000]);
    let ended = broker.stop();
    assert!(ended.stderr.contains("all logs closed"), "{ended:?}");
    for round in 0..3 {
        let broker = start.broker();
        assert!(broker.was_clean(), "round {round}");
        let wanted = [("empty".to_owned(), 7), ("t".to_owned(), 1)];
        assert_eq!(topics(&broker), wanted);
        expect_all(&broker, "t", &rows[..1_000 + round]);
        produce_all(&broker, &[], "t", &rows[1_000 + round..=1_000 + round]);
        broker.stop();
    }
    // As many cores as there were is not a condition.
    for cores in ["corelane.cores=1", "corelane.cores=3"] {
        let broker = start.clone().set(cores).broker();
        expect_all(&broker, "t", &rows[..1_003]);
        broker.stop();
    }
}

/// Settings of a topic by name, as the broker shows them.
fn settings(broker: &Broker, topic: &str) -> BTreeMap<String, String> {
    let request = [ResourceSpecifier::Topic(topic)];
    let mut answer =
        block_on(admin(broker).describe_configs(&request, &admin_options())).expect("an answer");
    let resource = answer.remove(0).expect("the topic is there");
    let rows = resource.entries.into_iter();
    rows.filter_map(|row| Some((row.name, row.value?))).collect()
}

#[test]
fn settings_and_partitions_change_while_the_broker_runs_and_stay() {
    let dir = temp_dir();
    let start = Start::on(dir.path());
    let broker = start.broker();
    let rows = Row::numbered(100);
    create_topic(&broker, "t", 2, &[("flush.ms", "70")]).expect("created");
    produce_all(&broker, &[], "t", &rows);
    assert_eq!(settings(&broker, "t")["flush.ms"], "70");
    assert_eq!(settings(&broker, "t")["max.message.bytes"], "1048588");

    let partitions = [NewPartitions::new("t", 5)];
    let answer = block_on(admin(&broker).create_partitions(&partitions, &admin_options()))
        .expect("an answer");
    assert_eq!(answer, [Ok("t".to_owned())]);
    let again = block_on(admin(&broker).create_partitions(&partitions, &admin_options()))
        .expect("an answer");
    assert_eq!(again, [Err(("t".to_owned(), RDKafkaErrorCode::InvalidPartitions))]);
    // What is not named goes back to its default: the old kind of alteration.
    let change = [AlterConfig::new(ResourceSpecifier::Topic("t")).set("max.message.bytes", "2000")];
    let answer =
        block_on(admin(&broker).alter_configs(&change, &admin_options())).expect("an answer");
    assert!(answer[0].is_ok(), "{answer:?}");
    // As many cores as there were is not a condition; nor is an orderly stop.
    let mut broker = broker;
    for (round, cores) in [4, 1, 3, 2].into_iter().enumerate() {
        let found = settings(&broker, "t");
        assert_eq!(found["max.message.bytes"], "2000", "{cores} cores");
        assert_eq!(found["flush.ms"], i64::MAX.to_string(), "{cores} cores");
        assert_eq!(topics(&broker), [("t".to_owned(), 5)]);
        let mut large = Row::new(None, Some(&[7; 3_000]));
        large.partition = 4;
        let refused = produce(&producer(&broker, &[]), "t", &[large]);
        assert_eq!(refused, [Err(RDKafkaErrorCode::MessageSizeTooLarge)], "{cores} cores");
        let mut row = Row::new(None, Some(b"small"));
        row.partition = 4;
        let offset = round as i64;
        assert_eq!(
            produce(&producer(&broker, &[]), "t", &[row]),
            [Ok((4, offset))],
            "{cores} cores"
        );
        expect_all(&broker, "t", &rows);
        if round % 2 == 0 {
            broker.stop();
        } else {
            broker.kill();
        }
        broker = start.clone().set(&format!("corelane.cores={cores}")).broker();
    }
    expect_all(&broker, "t", &rows);
}

#[test]
fn topics_are_created_and_deleted() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    assert_eq!(topics(&broker), []);
    create_topic(&broker, "t", 3, &[("flush.messages", "1")]).expect("created");
    assert_eq!(topics(&broker), [("t".to_owned(), 3)]);
    for (name, partitions, settings, error) in [
        ("t", 1, &[][..], RDKafkaErrorCode::TopicAlreadyExists),
        ("no/name", 1, &[], RDKafkaErrorCode::InvalidTopic),
        ("u", 100_000, &[], RDKafkaErrorCode::InvalidPartitions),
        ("u", 1, &[("max.message.bytes", "x")], RDKafkaErrorCode::InvalidConfig),
        ("u", 1, &[("no.such.thing", "1")], RDKafkaErrorCode::InvalidConfig),
    ] {
        assert_eq!(create_topic(&broker, name, partitions, settings), Err(error), "{name}");
    }
    delete_topic(&broker, "t").expect("it is there");
    assert_eq!(delete_topic(&broker, "t"), Err(RDKafkaErrorCode::UnknownTopicOrPartition));
    assert_eq!(topics(&broker), []);
    broker.stop();
}

#[test]
fn a_topic_created_anew_is_empty() {
    let dir = temp_dir();
    let start = Start::on(dir.path());
    let mut broker = start.broker();
    for round in 0..4 {
        let rows = Row::numbered(300 + round);
        create_topic(&broker, "t", 2, &[]).expect("created");
        let settings = [("enable.partition.eof", "true")];
        for partition in 0..2 {
            let empty = consumer(&broker, &settings, "t", [partition], Offset::Beginning);
            expect_end(&empty);
        }
        produce_all(&broker, &[], "t", &rows);
        expect_all(&broker, "t", &rows);
        delete_topic(&broker, "t").expect("it is there");
        if round % 2 == 1 {
            broker.stop();
            broker = start.broker();
        }
        assert_eq!(topics(&broker), []);
    }
    broker.stop();
    // Nothing of them is left on the disk.
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .expect("the log directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
        .filter(|name| name.starts_with("t-"))
        .collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn unknown_topics_are_created_if_both_sides_agree() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).set("num.partitions=3").broker();
    let rows = Row::numbered(50);
    produce_all(&broker, &[], "made", &rows);
    assert_eq!(topics(&broker), [("made".to_owned(), 3)]);
    expect_all(&broker, "made", &rows);
    // A consumer does not ask for creation.
    let absent = consumer(&broker, &[], "absent", [0], Offset::Beginning);
    match next(&absent) {
        Err(KafkaError::MessageConsumption(code)) => {
            assert_eq!(code, RDKafkaErrorCode::UnknownTopicOrPartition);
        }
        other => panic!("a topic that is not there: {other:?}"),
    }
    assert_eq!(topics(&broker), [("made".to_owned(), 3)]);
    broker.stop();
}

#[test]
fn unknown_topics_are_an_error_if_the_broker_does_not_create() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).set("auto.create.topics.enable=false").broker();
    let unknown = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    assert_eq!(topic_error(&broker, "absent"), Some(unknown));
    let quick = [("topic.metadata.propagation.max.ms", "500")];
    let refused = produce(&producer(&broker, &quick), "absent", &[Row::new(None, None)]);
    let code = refused[0].expect_err("there is no such topic");
    let codes = [RDKafkaErrorCode::UnknownTopic, RDKafkaErrorCode::UnknownTopicOrPartition];
    assert!(codes.contains(&code), "{code:?}");
    // A partition beyond the last one of a topic that is there.
    create_topic(&broker, "t", 1, &[]).expect("created");
    let mut row = Row::new(None, None);
    row.partition = 1;
    let refused = produce(&producer(&broker, &quick), "t", &[row]);
    assert_eq!(refused, [Err(RDKafkaErrorCode::UnknownPartition)]);
    broker.stop();
}
