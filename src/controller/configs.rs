//! Decides changes of settings: of topics, and of brokers while they run.
//!
//! The rules and messages are those of Kafka's `ConfigAdminManager`,
//! `ConfigurationControlManager` and `ControllerConfigurationValidator`.
//! Resources are judged one by one; of one resource all changes are made or none.

use std::collections::BTreeMap;

use super::decide::{Decision, Policy, Room, refuse, repeated};
use crate::base::limits::CONFIG_VALUE_MAX;
use crate::config::table::Kind;
use crate::config::{topic, validate_dynamic_config};
use crate::metadata::command::{
    AlterOutcome, AlterResource, Answer, ConfigChange, Refusal, ResourceType,
};
use crate::metadata::image::{Image, Topic};
use crate::metadata::record::Record;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{NodeId, topic_name_error};

type Configs = BTreeMap<String, String>;

/// What is to be configured, found.
enum Target<'a> {
    Topic(&'a Topic),
    Broker(Option<NodeId>),
    Group(&'a str),
}

// `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(super) fn alter_configs(
    resources: &[AlterResource],
    validate_only: bool,
    image: &Image,
    policy: &Policy,
) -> Decision {
    let twice = repeated(resources.iter().map(|row| (row.kind, row.name.as_str())));
    let mut records = Vec::new();
    let mut room = Room::of(image);
    let mut alter = |row: &AlterResource| {
        if twice.contains(&(row.kind, row.name.as_str())) {
            let message = "Each resource must appear at most once.";
            return refuse(ErrorCode::InvalidRequest, message);
        }
        let changes = alter(row, image, policy)?;
        room.take(&changes, "Excessively large number of configs per request.")?;
        records.extend(changes);
        Ok(())
    };
    let outcomes = resources
        .iter()
        .map(|row| AlterOutcome { kind: row.kind, name: row.name.clone(), result: alter(row) })
        .collect();
    if validate_only {
        records.clear();
    }
    Decision { records, answer: Answer::AlterConfigs(outcomes) }
}

/// The records that change one resource.
fn alter(row: &AlterResource, image: &Image, policy: &Policy) -> Result<Vec<Record>, Refusal> {
    check_names(&row.change)?;
    let target = find(row, image)?;
    let old = match target {
        Target::Topic(topic) => &topic.configs,
        Target::Broker(broker) => image.broker_config(broker),
        Target::Group(group) => image.group_config(group),
    };
    let new = changed(old, &row.change)?;
    for (name, value) in &new {
        if value.len() > CONFIG_VALUE_MAX {
            let message = format!("The value of {name} is longer than {CONFIG_VALUE_MAX} bytes.");
            return refuse(ErrorCode::InvalidConfig, message);
        }
        match target {
            Target::Topic(_) => (policy.validate_config)(name, value)
                .or_else(|message| refuse(ErrorCode::InvalidConfig, message))?,
            // Another code than for topics, as in Kafka (KAFKA-13609).
            Target::Broker(_) => validate_dynamic_config(name, value)
                .or_else(|message| refuse(ErrorCode::InvalidRequest, message))?,
            Target::Group(_) => {}
        }
    }
    match target {
        Target::Topic(_) => policy.check_together(&new, image)?,
        Target::Group(_) => policy
            .consumer
            .validate(&new)
            .or_else(|message| refuse(ErrorCode::InvalidConfig, message))?,
        Target::Broker(_) => {}
    }
    let set = new.iter().filter(|(name, value)| old.get(*name) != Some(value));
    let set = set.map(|(name, value)| target.record(name, Some(value)));
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let gone = gone.map(|name| target.record(name, None));
    Ok(set.chain(gone).collect())
}

impl Target<'_> {
    fn record(&self, name: &str, value: Option<&String>) -> Record {
        let name = name.to_owned();
        match (self, value) {
            (Self::Topic(topic), Some(value)) => {
                Record::Config { topic: topic.id, name, value: value.clone() }
            }
            (Self::Topic(topic), None) => Record::RemoveConfig { topic: topic.id, name },
            (Self::Broker(broker), value) => {
                Record::BrokerConfig { broker: *broker, name, value: value.cloned() }
            }
            (Self::Group(group), value) => {
                Record::GroupConfig { group: (*group).to_owned(), name, value: value.cloned() }
            }
        }
    }
}

fn check_names(change: &ConfigChange) -> Result<(), Refusal> {
    let (names, nulls): (Vec<&str>, Vec<&str>) = match change {
        ConfigChange::Replace(rows) => {
            let nulls = rows.iter().filter(|(_, value)| value.is_none());
            (
                rows.iter().map(|(name, _)| name.as_str()).collect(),
                nulls.map(|(name, _)| name.as_str()).collect(),
            )
        }
        ConfigChange::Each(rows) => {
            let nulls = rows.iter().filter(|(_, op, value)| *op != DELETE && value.is_none());
            (
                rows.iter().map(|(name, _, _)| name.as_str()).collect(),
                nulls.map(|(name, _, _)| name.as_str()).collect(),
            )
        }
    };
    if !repeated(names.into_iter()).is_empty() {
        return refuse(ErrorCode::InvalidRequest, "Error due to duplicate config keys");
    }
    if !nulls.is_empty() {
        let message = format!("Null value not supported for : {}", nulls.join(", "));
        return refuse(ErrorCode::InvalidRequest, message);
    }
    Ok(())
}

fn find<'a>(row: &'a AlterResource, image: &'a Image) -> Result<Target<'a>, Refusal> {
    let name = row.name.as_str();
    match row.kind {
        ResourceType::TOPIC => {
            if name.is_empty() {
                let message = "Default topic resources are not allowed.";
                return refuse(ErrorCode::InvalidRequest, message);
            }
            if let Some(reason) = topic_name_error(name) {
                let message = format!("Invalid topic: {reason}");
                return refuse(ErrorCode::InvalidTopicException, message);
            }
            match image.topic(name) {
                Some(topic) => Ok(Target::Topic(topic)),
                None => {
                    let message = format!("The topic '{name}' does not exist.");
                    refuse(ErrorCode::UnknownTopicOrPartition, message)
                }
            }
        }
        ResourceType::BROKER if name.is_empty() => Ok(Target::Broker(None)),
        ResourceType::BROKER => {
            let Ok(id) = name.parse().map(NodeId) else {
                let message = format!("Node id must be an integer, but it is: {name}");
                return refuse(ErrorCode::InvalidRequest, message);
            };
            if image.nodes.contains_key(&id) {
                return Ok(Target::Broker(Some(id)));
            }
            let known: Vec<String> = image.nodes.keys().map(NodeId::to_string).collect();
            let known = known.join(" or ");
            let message = format!("Unexpected broker id, expected {known}, but received {name}");
            refuse(ErrorCode::InvalidRequest, message)
        }
        ResourceType::BROKER_LOGGER if matches!(row.change, ConfigChange::Each(_)) => {
            let message = "Log levels cannot be changed while the broker runs.";
            refuse(ErrorCode::InvalidRequest, message)
        }
        ResourceType::CLIENT_METRICS => {
            let message = "Subscriptions of client metrics are not supported.";
            refuse(ErrorCode::InvalidRequest, message)
        }
        ResourceType::GROUP if name.is_empty() => {
            refuse(ErrorCode::InvalidRequest, "Default group resources are not allowed.")
        }
        // It may be made later.
        ResourceType::GROUP => Ok(Target::Group(name)),
        ResourceType(kind) => {
            refuse(ErrorCode::InvalidRequest, format!("Unknown resource type {kind}"))
        }
    }
}

/// The settings after the change.
fn changed(old: &Configs, change: &ConfigChange) -> Result<Configs, Refusal> {
    let rows = match change {
        ConfigChange::Replace(rows) => {
            let set = rows.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
            return Ok(set.map(|(name, value)| (name.clone(), value.clone())).collect());
        }
        ConfigChange::Each(rows) => rows,
    };
    let mut new = old.clone();
    for (name, operation, operand) in rows {
        let operand = operand.as_deref().unwrap_or_default();
        match *operation {
            SET => {
                new.insert(name.clone(), operand.to_owned());
            }
            DELETE => {
                new.remove(name);
            }
            APPEND | SUBTRACT => {
                let appends = *operation == APPEND;
                let Some(row) = topic::row(name).filter(|row| row.kind == Kind::List) else {
                    let what = if appends { "APPEND" } else { "SUBTRACT" };
                    let message =
                        format!("Can't {what} to key {name} because its type is not LIST.");
                    return refuse(ErrorCode::InvalidConfig, message);
                };
                let current = new.get(name).map_or(row.default, String::as_str);
                let mut parts: Vec<&str> =
                    current.split(',').filter(|part| !part.is_empty()).collect();
                for part in operand.split(',') {
                    match (appends, parts.iter().position(|known| *known == part)) {
                        (true, None) => parts.push(part),
                        (false, Some(at)) => {
                            parts.remove(at);
                        }
                        (true, Some(_)) | (false, None) => {}
                    }
                }
                let joined = parts.join(",");
                new.insert(name.clone(), joined);
            }
            other => {
                let message = format!("Unknown operations type {other}");
                return refuse(ErrorCode::InvalidRequest, message);
            }
        }
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use crate::config::validate_topic_config;
    use crate::controller::decide::decide;
    use crate::metadata::command::{Command, NewTopic};
    use crate::metadata::image::Node;
    use crate::metadata::placement::FormerCores;
    use crate::model::ids::MetadataOffset;

    const TOPIC: ResourceType = ResourceType::TOPIC;
    const BROKER: ResourceType = ResourceType::BROKER;

    fn bounds() -> crate::config::ConsumerSettings {
        crate::config::ConsumerSettings {
            session_timeout_ms: 45_000,
            min_session_timeout_ms: 45_000,
            max_session_timeout_ms: 60_000,
            heartbeat_interval_ms: 5_000,
            min_heartbeat_interval_ms: 5_000,
            max_heartbeat_interval_ms: 15_000,
            ..crate::config::ConsumerSettings::default()
        }
    }

    fn policy() -> Policy {
        Policy {
            num_partitions: 1,
            default_replication_factor: 1,
            validate_config: validate_topic_config,
            topics: crate::config::TopicConfig::default(),
            consumer: bounds(),
        }
    }

    /// Broker 1 and the topic `t` with flush.ms=5.
    fn image() -> Image {
        let node = Node { id: NodeId(1), host: "h".into(), port: 9092, cores: 1 };
        let image = Image::empty("c".into(), NodeId(1));
        let image = image.apply(MetadataOffset(1), &[Record::RegisterBroker(node)]).unwrap().0;
        let topic = NewTopic {
            name: "t".to_owned(),
            partitions: 1,
            replication_factor: 1,
            assignments: vec![],
            configs: vec![("flush.ms".to_owned(), Some("5".to_owned()))],
        };
        let create = Command::CreateTopics { topics: vec![topic], validate_only: false };
        let decision =
            decide(&create, &image, &FormerCores::default(), &policy(), &mut Rng::new(1));
        image.apply(MetadataOffset(2), &decision.records).unwrap().0
    }

    fn each(kind: ResourceType, name: &str, rows: &[(&str, i8, Option<&str>)]) -> AlterResource {
        let rows = rows.iter().map(|(name, operation, value)| {
            ((*name).to_owned(), *operation, value.map(str::to_owned))
        });
        AlterResource { kind, name: name.to_owned(), change: ConfigChange::Each(rows.collect()) }
    }

    fn replace(kind: ResourceType, name: &str, rows: &[(&str, Option<&str>)]) -> AlterResource {
        let rows = rows.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
        AlterResource { kind, name: name.to_owned(), change: ConfigChange::Replace(rows.collect()) }
    }

    /// The image afterwards and what each resource was answered.
    fn alter(image: &Image, rows: &[AlterResource]) -> (Image, Vec<String>) {
        let decision = alter_configs(rows, false, image, &policy());
        let dry = alter_configs(rows, true, image, &policy());
        assert_eq!((dry.records.len(), &dry.answer), (0, &decision.answer));
        let Answer::AlterConfigs(outcomes) = decision.answer else { panic!("its own answer") };
        let texts = outcomes.into_iter().map(|outcome| match outcome.result {
            Ok(()) => "ok".to_owned(),
            Err(refusal) => format!("{:?}: {}", refusal.code, refusal.message),
        });
        let next = image.apply(MetadataOffset(image.offset.0 + 1), &decision.records).unwrap().0;
        (next, texts.collect())
    }

    fn topic_configs(image: &Image) -> String {
        let configs = &image.topic("t").unwrap().configs;
        configs.iter().map(|(name, value)| format!("{name}={value} ")).collect()
    }

    #[test]
    fn settings_are_set_replaced_and_removed() {
        let rows = [
            each(TOPIC, "t", &[("flush.messages", SET, Some("9")), ("flush.ms", DELETE, None)]),
            each(BROKER, "", &[("message.max.bytes", SET, Some("7"))]),
            each(BROKER, "1", &[("message.max.bytes", SET, Some("8"))]),
        ];
        let (image, said) = alter(&image(), &rows);
        assert_eq!(said, ["ok"; 3]);
        assert_eq!(topic_configs(&image), "flush.messages=9 ");
        assert_eq!(image.broker_config(None)["message.max.bytes"], "7");
        assert_eq!(image.broker_config(Some(NodeId(1)))["message.max.bytes"], "8");

        let rows = [replace(TOPIC, "t", &[("retention.ms", Some("1"))]), replace(BROKER, "1", &[])];
        let (image, said) = alter(&image, &rows);
        assert_eq!(said, ["ok"; 2]);
        assert_eq!(topic_configs(&image), "retention.ms=1 ");
        assert!(image.broker_config(Some(NodeId(1))).is_empty());
        // What is so already is no change.
        let same = [replace(TOPIC, "t", &[("retention.ms", Some("1"))])];
        assert!(alter_configs(&same, false, &image, &policy()).records.is_empty());
    }

    #[test]
    fn settings_of_groups_are_made_before_the_group_and_within_bounds() {
        const GROUP: ResourceType = ResourceType::GROUP;
        let set = |name: &str, value: &'static str| {
            each(GROUP, name, &[("consumer.session.timeout.ms", SET, Some(value))])
        };
        let (image, said) = alter(&image(), &[set("g", "50000"), set("", "50000")]);
        let default = "InvalidRequest: Default group resources are not allowed.";
        assert_eq!(said, ["ok", default]);
        assert_eq!(image.group_config("g")["consumer.session.timeout.ms"], "50000");
        let (same, said) = alter(&image, &[set("g", "60001")]);
        let above = "InvalidConfig: consumer.session.timeout.ms must be less than or equal to \
                     group.consumer.max.session.timeout.ms";
        assert_eq!((said, &same.group_configs), (vec![above.to_owned()], &image.group_configs));
        let unknown = each(GROUP, "g", &[("retention.ms", SET, Some("1"))]);
        let (_, said) = alter(&image, &[unknown]);
        assert_eq!(said, ["InvalidConfig: Unknown group config name: retention.ms"]);
        // A snapshot has them, and they go again.
        let records = crate::metadata::record::records_of(&image);
        let again = Image::empty("c".into(), NodeId(1)).apply(image.offset, &records).unwrap().0;
        assert_eq!(again.group_configs, image.group_configs);
        let (gone, _) = alter(&image, &[replace(GROUP, "g", &[])]);
        assert!(gone.group_configs.is_empty());
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let min = |ms| each(TOPIC, "t", &[("min.compaction.lag.ms", SET, Some(ms))]);
        let broker = each(BROKER, "", &[("log.cleaner.max.compaction.lag.ms", SET, Some("9"))]);
        let (image, said) = alter(&image(), &[min("500"), broker]);
        assert_eq!(said, ["ok"; 2]);
        let message = "InvalidConfig: conflict topic config setting min.compaction.lag.ms (10) > \
                       max.compaction.lag.ms (9)";
        let (image, said) = alter(&image, &[min("10")]);
        assert_eq!(said, [message]);
        let (_, said) = alter(&image, &[min("9")]);
        assert_eq!(said, ["ok"]);
        // A new topic's are judged the same way.
        let topic = NewTopic {
            name: "u".to_owned(),
            partitions: 1,
            replication_factor: 1,
            assignments: vec![],
            configs: vec![("min.compaction.lag.ms".to_owned(), Some("10".to_owned()))],
        };
        let create = Command::CreateTopics { topics: vec![topic], validate_only: false };
        let decision =
            decide(&create, &image, &FormerCores::default(), &policy(), &mut Rng::new(1));
        let Answer::CreateTopics(outcomes) = decision.answer else { panic!("its own answer") };
        let refusal = outcomes[0].result.as_ref().expect_err("refused");
        assert_eq!(format!("{:?}: {}", refusal.code, refusal.message), message);
    }

    #[test]
    fn lists_are_appended_to_and_subtracted_from() {
        let table = [
            (APPEND, "delete", Ok("delete")),
            (SUBTRACT, "compact", Ok("delete")),
            (APPEND, "compact", Ok("delete,compact")),
            (APPEND, "x", Err("cleanup.policy=delete,x: must be delete, compact or both")),
        ];
        for (operation, value, expected) in table {
            let row = each(TOPIC, "t", &[("cleanup.policy", operation, Some(value))]);
            let (image, said) = alter(&image(), &[row]);
            match expected {
                Ok(policy) => {
                    assert_eq!(said, ["ok"]);
                    assert_eq!(
                        topic_configs(&image),
                        format!("cleanup.policy={policy} flush.ms=5 ")
                    );
                }
                Err(reason) => assert_eq!(said, [format!("InvalidConfig: {reason}")]),
            }
        }
    }

    #[test]
    fn what_is_refused_changes_nothing_and_why() {
        let set = |name: &'static str, value: &'static str| [(name, SET, Some(value))];
        let long = "9".repeat(CONFIG_VALUE_MAX + 1);
        let table = [
            (
                each(
                    TOPIC,
                    "t",
                    &[("flush.ms", SET, Some("1")), ("flush.messages", SET, Some("0"))],
                ),
                "InvalidConfig: flush.messages=0: must be a whole number from 1 to \
                 9223372036854775807",
            ),
            (
                each(TOPIC, "t", &[("flush.ms", SET, None)]),
                "InvalidRequest: Null value not supported for : flush.ms",
            ),
            (
                replace(TOPIC, "t", &[("flush.ms", None)]),
                "InvalidRequest: Null value not supported for : flush.ms",
            ),
            (
                each(TOPIC, "t", &[("flush.ms", SET, Some("1")), ("flush.ms", DELETE, None)]),
                "InvalidRequest: Error due to duplicate config keys",
            ),
            (
                each(TOPIC, "t", &[("flush.ms", APPEND, Some("1"))]),
                "InvalidConfig: Can't APPEND to key flush.ms because its type is not LIST.",
            ),
            (
                each(TOPIC, "t", &[("flush.ms", 9, Some("1"))]),
                "InvalidRequest: Unknown operations type 9",
            ),
            (
                each(TOPIC, "t", &[("flush.ms", SET, Some(&long))]),
                "InvalidConfig: The value of flush.ms is longer than 4096 bytes.",
            ),
            (
                each(TOPIC, "t", &set("no.such", "1")),
                "InvalidConfig: no.such=1: unknown topic setting; the nearest known one is flush.ms",
            ),
            (
                each(TOPIC, "u", &set("flush.ms", "1")),
                "UnknownTopicOrPartition: The topic 'u' does not exist.",
            ),
            (
                each(TOPIC, "", &set("flush.ms", "1")),
                "InvalidRequest: Default topic resources are not allowed.",
            ),
            (each(BROKER, "x", &[]), "InvalidRequest: Node id must be an integer, but it is: x"),
            (
                each(BROKER, "7", &[]),
                "InvalidRequest: Unexpected broker id, expected 1, but received 7",
            ),
            (
                each(BROKER, "1", &set("num.partitions", "2")),
                "InvalidRequest: Cannot update these configs dynamically: [num.partitions]",
            ),
            (
                each(BROKER, "", &set("log.segment.bytes", "1")),
                "InvalidRequest: log.segment.bytes=1: must be a whole number from 1048576 to \
                 2147483647",
            ),
            (
                each(ResourceType::BROKER_LOGGER, "1", &set("root", "DEBUG")),
                "InvalidRequest: Log levels cannot be changed while the broker runs.",
            ),
            (
                replace(ResourceType::BROKER_LOGGER, "1", &[]),
                "InvalidRequest: Unknown resource type 8",
            ),
            (each(ResourceType(3), "x", &[]), "InvalidRequest: Unknown resource type 3"),
        ];
        let image = image();
        for (row, expected) in table {
            let (next, said) = alter(&image, std::slice::from_ref(&row));
            assert_eq!(said, [expected]);
            assert_eq!(topic_configs(&next), "flush.ms=5 ", "{row:?}");
        }
        let twice = [each(TOPIC, "t", &[]), each(BROKER, "1", &[]), each(TOPIC, "t", &[])];
        let once = "InvalidRequest: Each resource must appear at most once.";
        assert_eq!(alter(&image, &twice).1, [once, "ok", once]);
        let (_, said) = alter(&image, &[each(TOPIC, "b/d", &[])]);
        assert!(said[0].starts_with("InvalidTopicException: Invalid topic: "), "{said:?}");
    }
}
