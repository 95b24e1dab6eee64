//! What admin clients ask, at every version that is served, and what changes of
//! settings and partitions do while the broker runs.

use kafka_wire::{
    AlterConfigsRequest, CreatePartitionsRequest, CreateTopicsRequest, DescribeClientQuotasRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeConfigsResponse,
    DescribeTopicPartitionsRequest, DescribeUserScramCredentialsRequest,
    IncrementalAlterConfigsRequest, ListConfigResourcesRequest, ListPartitionReassignmentsRequest,
    alter_configs_request, create_partitions_request, create_topics_request,
    describe_configs_request, describe_topic_partitions_request,
    describe_user_scram_credentials_request, incremental_alter_configs_request,
};

use super::broker::{Broker, ClientId};
use super::every_version::{Named, batch, fetch, produce, values, versions};
use crate::model::error_code::ErrorCode as E;
use crate::wire::apis::ApiKey;
use crate::wire::small::{self, StrBytes};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;

/// Two cores with a topic of a partition each, and a client of core 0.
fn broker() -> (Broker, ClientId) {
    let mut broker = Broker::new(2, &[("message.max.bytes", "5000"), ("log.retention.hours", "2")]);
    broker.create_topic("t", &[("flush.ms", "100")]);
    let client = broker.connect(0);
    (broker, client)
}

fn describe(resources: &[(i8, &str)], keys: Option<&[&str]>) -> DescribeConfigsRequest {
    let mut request = DescribeConfigsRequest::default();
    for (kind, name) in resources {
        let mut row = describe_configs_request::DescribeConfigsResource::default();
        row.resource_type = *kind;
        row.resource_name = StrBytes::from(*name);
        row.configuration_keys =
            keys.map(|keys| keys.iter().map(|key| StrBytes::from(*key)).collect());
        request.resources.push(row);
    }
    request
}

/// One value of the first resource, with its source and the number of its synonyms.
fn shown(response: &DescribeConfigsResponse, name: &str) -> (Option<String>, i8, usize) {
    let rows = &response.results[0].configs;
    let row = rows.iter().find(|row| row.name.as_str() == name).expect(name);
    (row.value.as_ref().map(ToString::to_string), row.config_source, row.synonyms.len())
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn describe_configs() {
    let (mut broker, client) = broker();
    for version in versions(ApiKey::DescribeConfigs) {
        let mut request = describe(&[(TOPIC, "t")], None);
        request.include_synonyms = true;
        request.include_documentation = version >= 3;
        let response = broker.call(client, &request, version);
        assert_eq!(response.results[0].error_code, 0, "version {version}");
        assert_eq!(shown(&response, "flush.ms"), (text("100"), 1, 2));
        assert_eq!(shown(&response, "max.message.bytes"), (text("5000"), 4, 2));
        assert_eq!(shown(&response, "retention.ms"), (text("7200000"), 4, 2));
        assert_eq!(shown(&response, "cleanup.policy"), (text("delete"), 5, 1));
        let row = response.results[0].configs.iter().find(|row| &*row.name == "flush.ms");
        let row = row.expect("seen above");
        assert!(!row.read_only && !row.is_sensitive);
        if version >= 3 {
            assert!(row.documentation.as_ref().is_some_and(|doc| doc.contains("synced")));
            assert_eq!(row.config_type, 5, "LONG");
        }

        request = describe(&[(BROKER, "1")], Some(&["num.partitions", "message.max.bytes"]));
        let response = broker.call(client, &request, version);
        assert_eq!(response.results[0].configs.len(), 2);
        assert_eq!(shown(&response, "num.partitions"), (text("1"), 5, 0));
        assert_eq!(shown(&response, "message.max.bytes"), (text("5000"), 4, 0));
        let read_only = response.results[0].configs.iter().map(|row| row.read_only);
        assert!(read_only.eq([true, false]));

        let rows = [
            (TOPIC, "t", E::None),
            (TOPIC, "gone", E::UnknownTopicOrPartition),
            (TOPIC, "b/d", E::InvalidTopicException),
            (TOPIC, "", E::InvalidTopicException),
            (BROKER, "", E::None),
            (BROKER, "7", E::InvalidRequest),
            (BROKER, "x", E::InvalidRequest),
            (8, "1", E::InvalidRequest),
            (8, "", E::InvalidRequest),
            (16, "s", E::InvalidRequest),
            (32, "g", E::None),
            (32, "", E::InvalidRequest),
            (3, "x", E::InvalidRequest),
            // As in Kafka, once more is not once too often.
            (TOPIC, "t", E::None),
        ];
        let asked = rows.map(|(kind, name, _)| (kind, name));
        let response = broker.call(client, &describe(&asked, Some(&[])), version);
        let said = response
            .results
            .iter()
            .map(|row| (row.resource_type, row.resource_name.as_str(), row.error_code));
        assert!(said.eq(rows.map(|(kind, name, code)| (kind, name, code.code()))), "{version}");
        for row in &response.results {
            let explained = row.error_message.as_ref().is_some_and(|text| !text.is_empty());
            assert_eq!(explained, row.error_code != 0, "{row:?}");
            let nothing = explained || row.resource_name.is_empty();
            assert_eq!(row.configs.is_empty(), nothing, "{row:?}");
        }
    }
}

#[test]
fn an_answer_that_would_be_too_large_says_so() {
    let (mut broker, client) = broker();
    let mut request = describe(&[(TOPIC, "t"); 4_000], None);
    request.include_synonyms = true;
    let response = broker.call(client, &request, 1);
    let codes: Vec<i16> = response.results.iter().map(|row| row.error_code).collect();
    assert_eq!((codes[0], codes[3_999]), (0, E::PolicyViolation.code()));
    assert!(codes.is_sorted());
}

/// An IncrementalAlterConfigs request for one resource.
fn change(
    kind: i8,
    name: &str,
    rows: &[(&str, i8, Option<&str>)],
) -> IncrementalAlterConfigsRequest {
    let mut resource = incremental_alter_configs_request::AlterConfigsResource::default();
    resource.resource_type = kind;
    resource.resource_name = StrBytes::from(name);
    for (name, operation, value) in rows {
        let mut row = incremental_alter_configs_request::AlterableConfig::default();
        row.name = StrBytes::from(*name);
        row.config_operation = *operation;
        row.value = value.map(StrBytes::from);
        resource.configs.push(row);
    }
    let mut request = IncrementalAlterConfigsRequest::default();
    request.resources.push(resource);
    request
}

#[test]
fn alter_configs() {
    let (mut broker, client) = broker();
    let own = |broker: &Broker| broker.image.topic("t").expect("it stays").configs.clone();
    for version in versions(ApiKey::AlterConfigs) {
        let mut resource = alter_configs_request::AlterConfigsResource::default();
        resource.resource_type = TOPIC;
        resource.resource_name = StrBytes::from("t");
        let mut row = alter_configs_request::AlterableConfig::default();
        row.name = StrBytes::from("retention.ms");
        row.value = Some(StrBytes::from(format!("{}", 1000 + version)));
        resource.configs.push(row);
        let mut unknown = resource.clone();
        unknown.resource_name = StrBytes::from("gone");
        let mut request = AlterConfigsRequest::default();
        request.resources = vec![resource, unknown];
        request.validate_only = true;
        let before = own(&broker);
        for validate_only in [true, false] {
            request.validate_only = validate_only;
            let response = broker.call(client, &request, version);
            let codes = response.responses.iter().map(|row| row.error_code);
            assert!(codes.eq([0, E::UnknownTopicOrPartition.code()]), "version {version}");
            assert_eq!(own(&broker) == before, validate_only);
        }
        let after = own(&broker);
        assert_eq!((after.len(), &*after["retention.ms"]), (1, &*format!("{}", 1000 + version)));
    }
    for version in versions(ApiKey::IncrementalAlterConfigs) {
        let set = change(TOPIC, "t", &[("flush.messages", SET, Some("5"))]);
        assert_eq!(broker.call(client, &set, version).responses[0].error_code, 0);
        assert_eq!(own(&broker)["flush.messages"], "5");
        let unset = change(TOPIC, "t", &[("flush.messages", DELETE, None)]);
        assert_eq!(broker.call(client, &unset, version).responses[0].error_code, 0);
        assert!(!own(&broker).contains_key("flush.messages"));
        let bad = change(TOPIC, "t", &[("flush.messages", SET, Some("x"))]);
        let response = broker.call(client, &bad, version);
        assert_eq!(response.responses[0].error_code, E::InvalidConfig.code());
        let message = response.responses[0].error_message.as_deref();
        assert!(message.is_some_and(|text| text.starts_with("flush.messages=x: must be ")));
    }
}

#[test]
fn a_changed_setting_takes_effect_on_every_core() {
    let (mut broker, client) = broker();
    let id = broker.image.topic("t").expect("made above").id;
    let large = "x".repeat(2_000);
    let outcomes = |broker: &mut Broker| -> Vec<i16> {
        let rows = [0, 1].map(|partition| (Named("t", id), partition, batch(&[&large])));
        let response = broker.call(client, &produce(9, -1, &rows), 9);
        response.responses.iter().map(|topic| topic.partition_responses[0].error_code).collect()
    };
    assert_eq!(outcomes(&mut broker), [0, 0]);
    let too_large = [E::MessageTooLarge.code(); 2];
    // The topic's own goes before this broker's, that before all brokers'.
    for (kind, name, key, value, expected) in [
        (BROKER, "", "message.max.bytes", Some("1000"), too_large),
        (BROKER, "1", "message.max.bytes", Some("3000"), [0, 0]),
        (TOPIC, "t", "max.message.bytes", Some("1000"), too_large),
        (TOPIC, "t", "max.message.bytes", None, [0, 0]),
        (BROKER, "1", "message.max.bytes", None, too_large),
        (BROKER, "", "message.max.bytes", None, [0, 0]),
    ] {
        let operation = if value.is_some() { SET } else { DELETE };
        let request = change(kind, name, &[(key, operation, value)]);
        assert_eq!(broker.call(client, &request, 1).responses[0].error_code, 0);
        assert_eq!(outcomes(&mut broker), expected, "{name} {key} {value:?}");
        if value.is_some() && kind == BROKER {
            let described = broker.call(client, &describe(&[(BROKER, name)], None), 4);
            let source = if name.is_empty() { 3 } else { 2 };
            assert_eq!(shown(&described, key), (value.map(str::to_owned), source, 0));
        }
        // What was made since goes by it too.
        let id = broker.create_topic("new", &[]);
        let rows = [(Named("new", id), 0, batch(&[&large]))];
        let response = broker.call(client, &produce(9, -1, &rows), 9);
        let own = if kind == TOPIC {
            response.responses[0].partition_responses[0].error_code
        } else {
            expected[0]
        };
        assert_eq!(response.responses[0].partition_responses[0].error_code, own);
        broker.commit(&[crate::metadata::record::Record::RemoveTopic { id }]);
        broker.run();
    }
}

#[test]
fn what_was_acknowledged_stays_so_when_the_sync_is_waited_for() {
    let (mut broker, client) = broker();
    let id = broker.create_topic("lazy", &[("flush.messages", "1000")]);
    let t = Named("lazy", id);
    let high = |broker: &mut Broker| {
        let response = broker.call(client, &fetch(12, &[(t, 0, 0)]), 12);
        (values(&response, 0).len(), response.responses[0].partitions[0].high_watermark)
    };
    let send = |broker: &mut Broker| {
        let response = broker.call(client, &produce(9, -1, &[(t, 0, batch(&["a"]))]), 9);
        response.responses[0].partition_responses[0].base_offset
    };
    assert_eq!(send(&mut broker), 0);
    assert_eq!(high(&mut broker), (1, 1));
    for (value, offset) in [("1", 1), ("1000", 2), ("1", 3)] {
        let request = change(TOPIC, "lazy", &[("flush.messages", SET, Some(value))]);
        assert_eq!(broker.call(client, &request, 1).responses[0].error_code, 0);
        assert_eq!(high(&mut broker), (offset as usize, offset));
        assert_eq!(send(&mut broker), offset);
    }
}

#[test]
fn create_partitions() {
    let (mut broker, client) = broker();
    let asked = |name: &str, count| {
        let mut topic = create_partitions_request::CreatePartitionsTopic::default();
        topic.name = StrBytes::from(name);
        topic.count = count;
        topic.assignments = None;
        topic
    };
    let mut count = 2;
    for version in versions(ApiKey::CreatePartitions) {
        count += 2;
        let mut manual = asked("t", count);
        let mut assignment = create_partitions_request::CreatePartitionsAssignment::default();
        assignment.broker_ids = vec![1];
        manual.assignments = Some(vec![assignment; 2]);
        let first = if version % 2 == 0 { asked("t", count) } else { manual };
        let mut request = CreatePartitionsRequest::default();
        request.topics = vec![first, asked("gone", 3)];
        for validate_only in [true, false] {
            request.validate_only = validate_only;
            let response = broker.call(client, &request, version);
            let said: Vec<_> =
                response.results.iter().map(|row| (row.name.as_str(), row.error_code)).collect();
            let unknown = E::UnknownTopicOrPartition.code();
            assert_eq!(said, [("t", 0), ("gone", unknown)], "version {version}");
            let there = broker.image.topic("t").expect("it stays").partitions.len() as i32;
            assert_eq!(there, if validate_only { count - 2 } else { count });
        }
        let response = broker.call(client, &request, version);
        assert_eq!(response.results[0].error_code, E::InvalidPartitions.code());
        // They can be used at once, whichever core has them; the others go on.
        let id = broker.image.topic("t").expect("it stays").id;
        for partition in [0, count - 2, count - 1] {
            let rows = [(Named("t", id), partition, batch(&["x"]))];
            let response = broker.call(client, &produce(9, -1, &rows), 9);
            let row = &response.responses[0].partition_responses[0];
            let offset = if partition == 0 { i64::from(version) } else { 0 };
            assert_eq!((row.error_code, row.base_offset), (0, offset), "partition {partition}");
        }
    }
}

#[test]
fn created_topics_say_what_they_go_by() {
    let (mut broker, client) = broker();
    for version in versions(ApiKey::CreateTopics).filter(|version| *version >= 5) {
        let mut topic = create_topics_request::CreatableTopic::default();
        topic.name = StrBytes::from(format!("made-{version}"));
        topic.num_partitions = 1;
        topic.replication_factor = 1;
        let mut row = create_topics_request::CreatableTopicConfig::default();
        row.name = StrBytes::from("flush.ms");
        row.value = Some(StrBytes::from("7"));
        topic.configs.push(row);
        let mut request = CreateTopicsRequest::default();
        request.topics.push(topic);
        request.validate_only = true;
        let dry = broker.call(client, &request, version);
        request.validate_only = false;
        let made = broker.call(client, &request, version);
        assert_eq!(dry.topics[0].configs, made.topics[0].configs);
        let created = made.topics[0].configs.as_ref().expect("it was made");
        let name = format!("made-{version}");
        let described = broker.call(client, &describe(&[(TOPIC, &name)], None), 4);
        let described = described.results[0]
            .configs
            .iter()
            .map(|row| (row.name.clone(), row.value.clone(), row.config_source, row.read_only));
        let created = created
            .iter()
            .map(|row| (row.name.clone(), row.value.clone(), row.config_source, row.read_only));
        assert!(created.eq(described), "version {version}");
    }
}

#[test]
fn describe_cluster() {
    let (mut broker, client) = broker();
    for version in versions(ApiKey::DescribeCluster) {
        let mut request = DescribeClusterRequest::default();
        let response = broker.call(client, &request, version);
        let said = (response.error_code, response.cluster_id.as_str(), response.controller_id);
        assert_eq!(said, (0, "cluster", 1), "version {version}");
        assert_eq!(response.brokers.len(), 1);
        let row = &response.brokers[0];
        assert_eq!((row.broker_id, row.host.as_str(), row.port), (1, "box", 9092));
        assert_eq!(response.cluster_authorized_operations, i32::MIN);
        request.include_cluster_authorized_operations = true;
        let response = broker.call(client, &request, version);
        assert_eq!(response.cluster_authorized_operations, 8096);
        if version >= 1 {
            for (kind, code) in [(2, E::MismatchedEndpointType), (3, E::UnsupportedEndpointType)] {
                request.endpoint_type = kind;
                let response = broker.call(client, &request, version);
                assert_eq!(response.error_code, code.code(), "version {version}");
            }
        }
    }
}

#[test]
fn what_there_is_none_of() {
    let (mut broker, client) = broker();
    for version in versions(ApiKey::ListPartitionReassignments) {
        let response = broker.call(client, &ListPartitionReassignmentsRequest::default(), version);
        assert_eq!((response.error_code, response.topics.len()), (0, 0));
    }
    for version in versions(ApiKey::DescribeClientQuotas) {
        let response = broker.call(client, &DescribeClientQuotasRequest::default(), version);
        assert_eq!((response.error_code, response.entries), (0, Some(vec![])));
    }
    for version in versions(ApiKey::DescribeUserScramCredentials) {
        let mut request = DescribeUserScramCredentialsRequest::default();
        let response = broker.call(client, &request, version);
        assert_eq!((response.error_code, response.results.len()), (0, 0));
        let mut user = describe_user_scram_credentials_request::UserName::default();
        user.name = StrBytes::from("alice");
        request.users = Some(vec![user]);
        let response = broker.call(client, &request, version);
        assert_eq!(response.results[0].error_code, E::ResourceNotFound.code());
    }
    for version in versions(ApiKey::ListConfigResources) {
        let mut request = ListConfigResourcesRequest::default();
        let listed = |response: kafka_wire::ListConfigResourcesResponse| {
            let rows = response.config_resources.into_iter();
            rows.map(|row| (row.resource_type, row.resource_name.to_string())).collect::<Vec<_>>()
        };
        let all = listed(broker.call(client, &request, version));
        if version == 0 {
            assert_eq!(all, []);
            continue;
        }
        assert_eq!(all, [(TOPIC, "t".to_owned()), (BROKER, "1".to_owned())]);
        request.resource_types = vec![BROKER, 8, 16, 32];
        let some = listed(broker.call(client, &request, version));
        assert_eq!(some, [(BROKER, "1".to_owned())]);
        request.resource_types = vec![1];
        let response = broker.call(client, &request, version);
        assert_eq!(response.error_code, E::UnsupportedVersion.code());
    }
}

#[test]
fn describe_topic_partitions() {
    let (mut broker, client) = broker();
    for name in ["a", "z"] {
        broker.create_topic(name, &[]);
    }
    for version in versions(ApiKey::DescribeTopicPartitions) {
        // Names in any order, one twice.
        let ask = |names: &[&str], limit, cursor: Option<(&str, i32)>| {
            let mut request = DescribeTopicPartitionsRequest::default();
            request.response_partition_limit = limit;
            for name in names {
                let mut topic = describe_topic_partitions_request::TopicRequest::default();
                topic.name = StrBytes::from(*name);
                request.topics.push(topic);
            }
            request.cursor = cursor.map(|(name, partition)| {
                let mut cursor = describe_topic_partitions_request::Cursor::default();
                cursor.topic_name = StrBytes::from(name);
                cursor.partition_index = partition;
                cursor
            });
            request
        };
        // Topics as `name:code:partitions`, and where to go on.
        let mut said = |request: DescribeTopicPartitionsRequest| {
            let response = broker.call(client, &request, version);
            let rows = response.topics.iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|row| row.partition_index.to_string());
                let partitions = partitions.collect::<Vec<_>>().join(",");
                let name = topic.name.as_deref().unwrap_or_default();
                format!("{name}:{}:{partitions}", topic.error_code)
            });
            let next = response.next_cursor.as_ref();
            let next = next.map(|next| format!("{}-{}", &*next.topic_name, next.partition_index));
            format!("{} {}", rows.collect::<Vec<_>>().join(" "), next.unwrap_or_default())
        };
        for (names, limit, cursor, expected) in [
            (&[][..], 2_000, None, "a:0:0,1 t:0:0,1 z:0:0,1 "),
            (&["z", "a", "z"], 2_000, None, "a:0:0,1 z:0:0,1 "),
            (&["t", "gone", "b/d"], 2_000, None, "b/d:17: gone:3: t:0:0,1 "),
            (&[], 3, None, "a:0:0,1 t:0:0 t-1"),
            (&[], 3, Some(("t", 1)), "t:0:1 z:0:0,1 "),
            (&[], 2, None, "a:0:0,1 t-0"),
            (&[], 0, None, "a:0:0 a-1"),
            (&["a", "t"], 1, Some(("t", 1)), "t:0:1 "),
            // A topic that went away meanwhile, and one that never had so many.
            (&[], 9, Some(("m", 1)), "t:0:0,1 z:0:0,1 "),
            (&["t"], 9, Some(("t", 7)), "t:0: "),
            (&["a"], 9, Some(("t", 0)), "a:42: "),
            (&["a"], 9, Some(("a", -1)), "a:42: "),
        ] {
            assert_eq!(said(ask(names, limit, cursor)), expected, "{names:?} {limit} {cursor:?}");
        }
        let response = broker.call(client, &ask(&["t"], 10, None), version);
        let topic = &response.topics[0];
        assert_eq!(topic.topic_id, small::uuid(broker.image.topic("t").expect("made above").id));
        assert_eq!(topic.topic_authorized_operations, 3576);
        let row = &topic.partitions[1];
        assert_eq!((row.leader_id, row.leader_epoch), (1, 0));
        assert_eq!((&row.replica_nodes[..], &row.isr_nodes[..]), (&[1][..], &[1][..]));
        assert_eq!(row.offline_replicas, [0; 0]);
    }
}
