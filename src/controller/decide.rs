//! What a command changes: the decision, without the change.
//!
//! [`decide`] reads the newest image, committed or on its way, and returns the
//! records that would carry the command out together with the answer that is
//! true once they are committed. It changes nothing but the random generator
//! that topic ids are drawn from.
//!
//! The rules and messages are those of Kafka's `ReplicationControlManager`,
//! `StripedReplicaPlacer` and `ControllerApis`.

use std::collections::{BTreeMap, BTreeSet};

use super::configs::alter_configs;
use super::partitions::create_partitions;
use crate::base::limits::{
    CONFIG_VALUE_MAX, METADATA_BATCH_MAX, METADATA_IMAGE_MAX, PARTITIONS_MAX,
    PARTITIONS_PER_TOPIC_MAX,
};
use crate::base::rng::Rng;
use crate::config::{ConsumerSettings, TopicConfig};
use crate::metadata::command::{
    AlterOutcome, AlterResource, Answer, Command, CreateOutcome, CreatedTopic, DeleteOutcome,
    MorePartitions, NewTopic, PartitionsOutcome, Refusal, TopicRef,
};
use crate::metadata::image::{Image, Partition};
use crate::metadata::placement::{CoreLoad, FormerCores, place_replicas};
use crate::metadata::record::{Record, encoded_len, topics_len};
use crate::model::error_code::ErrorCode;
use crate::model::ids::{CoreId, LeaderEpoch, NodeId, PartitionIndex, TopicId, topic_name_error};

/// The settings that decisions depend on.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// Why a topic setting (by Kafka's name) cannot have a value, for people.
    pub validate_config: fn(&str, &str) -> Result<(), String>,
    /// What topics go by that say nothing, as written at the start.
    pub topics: TopicConfig,
    /// What groups of the consumer protocol go by that say nothing, and may say.
    pub consumer: ConsumerSettings,
}

impl Policy {
    /// Whether a topic may have all of `configs`, each of which it may have.
    ///
    /// # Errors
    /// What contradicts what: INVALID_CONFIG.
    pub(super) fn check_together(
        &self,
        configs: &BTreeMap<String, String>,
        image: &Image,
    ) -> Result<(), Refusal> {
        let defaults = self.topics.with_broker(image.broker_config(None));
        let config = defaults.and_then(|defaults| defaults.with(configs));
        config
            .and_then(|config| config.check_together())
            .or_else(|message| refuse(ErrorCode::InvalidConfig, message))
    }
}

/// A command, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// One batch for the metadata log; empty if nothing changes.
    pub records: Vec<Record>,
    /// The answer once the batch is committed.
    pub answer: Answer,
}

/// Kafka's own topic for the metadata log, which nobody creates.
const CLUSTER_METADATA: &str = "__cluster_metadata";

/// Producer ids that a core gets at a time (Kafka's `ProducerIdsBlock`).
const PRODUCER_ID_BLOCK: i64 = 1000;

/// Decides `command` against `image`.
pub fn decide(
    command: &Command,
    image: &Image,
    former: &FormerCores,
    policy: &Policy,
    rng: &mut Rng,
) -> Decision {
    match command {
        Command::CreateTopics { topics, validate_only } => {
            let mut creation = Creation::new(image, former, policy);
            let names = repeated(topics.iter().map(|topic| topic.name.as_str()));
            let decide = |topic: &NewTopic| CreateOutcome {
                name: topic.name.clone(),
                result: if names.contains(topic.name.as_str()) {
                    refuse(ErrorCode::InvalidRequest, "Duplicate topic name.")
                } else {
                    creation.create(topic, rng)
                },
            };
            let mut outcomes: Vec<CreateOutcome> = topics.iter().map(decide).collect();
            if *validate_only {
                for created in outcomes.iter_mut().flat_map(|outcome| &mut outcome.result) {
                    created.id = TopicId::default();
                }
                creation.records.clear();
            }
            Decision { records: creation.records, answer: Answer::CreateTopics(outcomes) }
        }
        Command::DeleteTopics { topics } => delete_topics(topics, image),
        Command::CreatePartitions { topics, validate_only } => {
            create_partitions(topics, *validate_only, image, former)
        }
        Command::AlterConfigs { resources, validate_only } => {
            alter_configs(resources, *validate_only, image, policy)
        }
        Command::AllocateProducerIds => {
            let first = image.next_producer_id;
            let next = first + PRODUCER_ID_BLOCK;
            Decision {
                records: vec![Record::ProducerIds { next }],
                answer: Answer::AllocateProducerIds(Ok(first..next)),
            }
        }
    }
}

/// The answer to a command of which nothing is done.
pub fn refuse_all(command: &Command, code: ErrorCode, message: &str) -> Answer {
    match command {
        Command::CreateTopics { topics, .. } => {
            let refuse = |topic: &NewTopic| CreateOutcome {
                name: topic.name.clone(),
                result: refuse(code, message),
            };
            Answer::CreateTopics(topics.iter().map(refuse).collect())
        }
        Command::DeleteTopics { topics } => {
            let refuse = |topic: &TopicRef| DeleteOutcome {
                topic: topic.clone(),
                result: refuse(code, message),
            };
            Answer::DeleteTopics(topics.iter().map(refuse).collect())
        }
        Command::CreatePartitions { topics, .. } => {
            let refuse = |topic: &MorePartitions| PartitionsOutcome {
                name: topic.name.clone(),
                result: refuse(code, message),
            };
            Answer::CreatePartitions(topics.iter().map(refuse).collect())
        }
        Command::AlterConfigs { resources, .. } => {
            let refuse = |resource: &AlterResource| AlterOutcome {
                kind: resource.kind,
                name: resource.name.clone(),
                result: refuse(code, message),
            };
            Answer::AlterConfigs(resources.iter().map(refuse).collect())
        }
        Command::AllocateProducerIds => Answer::AllocateProducerIds(refuse(code, message)),
    }
}

/// Turns the successes in `answer`, which may not have happened, into refusals.
pub fn refuse_successes(answer: &mut Answer, code: ErrorCode, message: &str) {
    match answer {
        Answer::CreateTopics(outcomes) => {
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.result.is_ok()) {
                outcome.result = refuse(code, message);
            }
        }
        Answer::DeleteTopics(outcomes) => {
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.result.is_ok()) {
                outcome.result = refuse(code, message);
            }
        }
        Answer::CreatePartitions(outcomes) => {
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.result.is_ok()) {
                outcome.result = refuse(code, message);
            }
        }
        Answer::AlterConfigs(outcomes) => {
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.result.is_ok()) {
                outcome.result = refuse(code, message);
            }
        }
        Answer::AllocateProducerIds(ids) => *ids = refuse(code, message),
    }
}

pub(super) fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

/// What comes more than once.
pub(super) fn repeated<T: Ord + Copy>(items: impl Iterator<Item = T>) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    items.filter(|item| !seen.insert(*item)).collect()
}

/// What one command may still make the metadata grow by.
pub(super) struct Room {
    batch: usize,
    image: usize,
}

impl Room {
    /// What is left beside `image` and in a batch of its own.
    pub fn of(image: &Image) -> Self {
        Self {
            batch: METADATA_BATCH_MAX.saturating_sub(encoded_len(&[])),
            image: METADATA_IMAGE_MAX.saturating_sub(topics_len(image)),
        }
    }

    /// Takes what `records` need, or refuses them with nothing taken; `excessive`
    /// is said of a batch that would be too long.
    pub fn take(&mut self, records: &[Record], excessive: &str) -> Result<(), Refusal> {
        let len = encoded_len(records);
        let Some(batch) = self.batch.checked_sub(len) else {
            return refuse(ErrorCode::PolicyViolation, excessive);
        };
        let shrinks = |record: &Record| {
            matches!(
                record,
                Record::RemoveConfig { .. }
                    | Record::BrokerConfig { value: None, .. }
                    | Record::GroupConfig { value: None, .. }
            )
        };
        let growth = if records.iter().all(shrinks) { 0 } else { len };
        let Some(image) = self.image.checked_sub(growth) else {
            let message = "The cluster's metadata has reached its largest size.";
            return refuse(ErrorCode::PolicyViolation, message);
        };
        (self.batch, self.image) = (batch, image);
        Ok(())
    }
}

/// A new partition, on the core `former` that had an earlier one of its name, or
/// else on the core of its leader that has the fewest.
///
/// # Panics
/// If the leader, which is the first replica, is no broker of `loads`.
pub(super) fn new_partition(
    replicas: Vec<NodeId>,
    former: Option<CoreId>,
    loads: &mut BTreeMap<NodeId, CoreLoad>,
) -> Partition {
    let leader = replicas[0];
    let load = loads.get_mut(&leader).expect("replicas are registered brokers");
    let core = match former {
        Some(core) => {
            load.place_on(core);
            core
        }
        None => load.place(),
    };
    Partition {
        core,
        isr: replicas.clone(),
        replicas,
        leader: Some(leader),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
    }
}

/// One CreateTopics while its topics are gone through.
struct Creation<'a> {
    image: &'a Image,
    former: &'a FormerCores,
    policy: &'a Policy,
    brokers: Vec<NodeId>,
    loads: BTreeMap<NodeId, CoreLoad>,
    names: Vec<String>,
    records: Vec<Record>,
    room: Room,
    partitions: usize,
}

impl<'a> Creation<'a> {
    fn new(image: &'a Image, former: &'a FormerCores, policy: &'a Policy) -> Self {
        Self {
            image,
            former,
            policy,
            brokers: image.nodes.keys().copied().collect(),
            loads: image.nodes.iter().map(|(id, node)| (*id, CoreLoad::of(image, node))).collect(),
            names: Vec::new(),
            records: Vec::new(),
            room: Room::of(image),
            partitions: image.topics().map(|topic| topic.partitions.len()).sum(),
        }
    }

    fn create(&mut self, topic: &NewTopic, rng: &mut Rng) -> Result<CreatedTopic, Refusal> {
        self.check_name(&topic.name)?;
        let configs = self.check_configs(topic)?;
        let replicas = self.replicas(topic)?;
        if self.partitions + replicas.len() > PARTITIONS_MAX {
            let message = format!("The cluster would have more than {PARTITIONS_MAX} partitions.");
            return refuse(ErrorCode::InvalidPartitions, message);
        }
        let id = new_topic_id(self.image, rng);
        let mut loads = self.loads.clone();
        let mut records = vec![Record::Topic { name: topic.name.clone(), id }];
        for (index, replicas) in (0..).map(PartitionIndex).zip(&replicas) {
            let core = self.former.core(&topic.name, index);
            let partition = new_partition(replicas.clone(), core, &mut loads);
            records.push(Record::Partition { topic: id, index, partition });
        }
        let settings = configs.clone().into_iter();
        records.extend(settings.map(|(name, value)| Record::Config { topic: id, name, value }));

        self.room.take(&records, "Excessively large number of partitions per request.")?;
        self.partitions += replicas.len();
        self.loads = loads;
        self.names.push(topic.name.clone());
        self.records.extend(records);
        Ok(CreatedTopic {
            id,
            partitions: replicas.len() as i32,
            replication_factor: replicas[0].len() as i16,
            configs,
        })
    }

    fn check_name(&self, name: &str) -> Result<(), Refusal> {
        if self.image.topic(name).is_some() {
            let message = format!("Topic '{name}' already exists.");
            return refuse(ErrorCode::TopicAlreadyExists, message);
        }
        if let Some(reason) = topic_name_error(name) {
            return refuse(ErrorCode::InvalidTopicException, format!("Invalid topic: {reason}"));
        }
        if name == CLUSTER_METADATA {
            let message = format!("Creation of internal topic {name} is prohibited.");
            return refuse(ErrorCode::InvalidRequest, message);
        }
        let existing = self.image.topics().map(|topic| &*topic.name);
        let mut all = existing.chain(self.names.iter().map(String::as_str));
        match all.find(|other| name.contains(['.', '_']) && collide(name, other)) {
            None => Ok(()),
            Some(other) => {
                let message = format!("Topic '{name}' collides with existing topic: {other}");
                refuse(ErrorCode::InvalidTopicException, message)
            }
        }
    }

    fn check_configs(&self, topic: &NewTopic) -> Result<BTreeMap<String, String>, Refusal> {
        let nulls = topic.configs.iter().filter(|(_, value)| value.is_none());
        let nulls: Vec<&str> = nulls.map(|(name, _)| name.as_str()).collect();
        if !nulls.is_empty() {
            let names = nulls.join(",");
            let message = format!("Null value not supported for topic configs: {names}");
            return refuse(ErrorCode::InvalidConfig, message);
        }
        let mut configs = BTreeMap::new();
        for (name, value) in &topic.configs {
            let value = value.as_deref().unwrap_or_default();
            if value.len() > CONFIG_VALUE_MAX {
                let message =
                    format!("The value of {name} is longer than {CONFIG_VALUE_MAX} bytes.");
                return refuse(ErrorCode::InvalidConfig, message);
            }
            if let Err(message) = (self.policy.validate_config)(name, value) {
                return refuse(ErrorCode::InvalidConfig, message);
            }
            configs.insert(name.clone(), value.to_owned());
        }
        self.policy.check_together(&configs, self.image)?;
        Ok(configs)
    }

    /// The replicas of each partition.
    fn replicas(&self, topic: &NewTopic) -> Result<Vec<Vec<NodeId>>, Refusal> {
        if !topic.assignments.is_empty() {
            return self.assigned_replicas(topic);
        }
        if topic.replication_factor < -1 || topic.replication_factor == 0 {
            let message =
                "Replication factor must be larger than 0, or -1 to use the default value.";
            return refuse(ErrorCode::InvalidReplicationFactor, message);
        }
        if topic.partitions < -1 || topic.partitions == 0 {
            let message = "Number of partitions was set to an invalid non-positive value.";
            return refuse(ErrorCode::InvalidPartitions, message);
        }
        let or_default = |asked: i32, default: i32| if asked == -1 { default } else { asked };
        let partitions = or_default(topic.partitions, self.policy.num_partitions);
        check_partitions(partitions as i64)?;
        let factor = or_default(
            topic.replication_factor.into(),
            self.policy.default_replication_factor.into(),
        );
        let brokers = self.brokers.len();
        if factor < 1 || factor as usize > brokers {
            let message = format!(
                "Unable to replicate the partition {factor} time(s): The target replication \
                 factor of {factor} cannot be reached because only {brokers} broker(s) are \
                 registered."
            );
            return refuse(ErrorCode::InvalidReplicationFactor, message);
        }
        let before = self.image.topic_count() + self.names.len();
        let place = |index| place_replicas(&self.brokers, before, index, factor as usize);
        Ok((0..partitions as usize).map(place).collect())
    }

    fn assigned_replicas(&self, topic: &NewTopic) -> Result<Vec<Vec<NodeId>>, Refusal> {
        if topic.replication_factor != -1 {
            let message = "A manual partition assignment was specified, but replication factor \
                           was not set to -1.";
            return refuse(ErrorCode::InvalidRequest, message);
        }
        if topic.partitions != -1 {
            let message = "A manual partition assignment was specified, but numPartitions was \
                           not set to -1.";
            return refuse(ErrorCode::InvalidRequest, message);
        }
        check_partitions(topic.assignments.len() as i64)?;
        let mut partitions = BTreeMap::new();
        let mut factor = None;
        for (index, brokers) in &topic.assignments {
            if partitions.contains_key(index) {
                let message =
                    format!("Found multiple manual partition assignments for partition {index}");
                return refuse(ErrorCode::InvalidReplicaAssignment, message);
            }
            check_assignment(self.image, brokers, factor)
                .or_else(|message| refuse(ErrorCode::InvalidReplicaAssignment, message))?;
            factor = Some(brokers.len());
            let replicas: Vec<NodeId> = brokers.iter().copied().map(NodeId).collect();
            partitions.insert(*index, replicas);
        }
        if !partitions.keys().copied().eq(0..topic.assignments.len() as i32) {
            let message = "partitions should be a consecutive 0-based integer sequence";
            return refuse(ErrorCode::InvalidReplicaAssignment, message);
        }
        Ok(partitions.into_values().collect())
    }
}

/// Whether `brokers` can be the replicas of a partition whose topic has `factor`
/// of them.
pub(super) fn check_assignment(
    image: &Image,
    brokers: &[i32],
    factor: Option<usize>,
) -> Result<(), String> {
    let subject = "The manual partition assignment includes";
    if brokers.is_empty() {
        return Err(format!("{subject} an empty replica list."));
    }
    if let Some(id) = brokers.iter().find(|id| !image.nodes.contains_key(&NodeId(**id))) {
        return Err(format!("{subject} broker {id}, but no such broker is registered."));
    }
    if let Some(id) = repeated(brokers.iter()).first() {
        return Err(format!("{subject} the broker {id} more than once."));
    }
    match factor {
        Some(factor) if factor != brokers.len() => Err(format!(
            "{subject} a partition with {} replica(s), but this is not consistent with \
             previous partitions, which have {factor} replica(s).",
            brokers.len()
        )),
        _ => Ok(()),
    }
}

fn check_partitions(count: i64) -> Result<(), Refusal> {
    if (1..=i64::from(PARTITIONS_PER_TOPIC_MAX)).contains(&count) {
        return Ok(());
    }
    let message = format!(
        "Number of partitions is {count}, it must be from 1 to {PARTITIONS_PER_TOPIC_MAX}."
    );
    refuse(ErrorCode::InvalidPartitions, message)
}

/// Whether two names become one in metric names, where `.` is written `_`
/// (Kafka's `Topic.hasCollision`).
fn collide(a: &str, b: &str) -> bool {
    let unified = |byte| if byte == b'.' { b'_' } else { byte };
    a.bytes().map(unified).eq(b.bytes().map(unified))
}

/// A random UUID of version 4 that no topic has and whose text does not start
/// with `-`, as in Kafka's `Uuid.randomUuid`. The version keeps it clear of
/// Kafka's reserved ids, which are small numbers.
fn new_topic_id(image: &Image, rng: &mut Rng) -> TopicId {
    loop {
        let mut bytes = rng.bytes16();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let id = TopicId(bytes);
        let dash = bytes[0] >> 2 == 62;
        if !dash && image.topic_by_id(id).is_none() {
            return id;
        }
    }
}

fn delete_topics(topics: &[TopicRef], image: &Image) -> Decision {
    // A topic that is named twice, in whatever way, is not deleted at all.
    let find = |topic: &TopicRef| match topic {
        TopicRef::Name(name) => image.topic(name),
        TopicRef::Id(id) => image.topic_by_id(*id),
    };
    let twice = repeated(topics.iter().filter_map(|topic| Some(find(topic)?.id)));
    let names = topics.iter().filter_map(|topic| match topic {
        TopicRef::Name(name) => Some(name.as_str()),
        TopicRef::Id(_) => None,
    });
    let names = repeated(names);
    let mut records = Vec::new();
    let mut len = encoded_len(&[]);
    let mut delete = |topic: &TopicRef| {
        match topic {
            TopicRef::Name(name) if names.contains(name.as_str()) => {
                return refuse(ErrorCode::InvalidRequest, "Duplicate topic name.");
            }
            TopicRef::Id(id) if *id == TopicId::default() => {
                let message = "Neither topic name nor id were specified.";
                return refuse(ErrorCode::InvalidRequest, message);
            }
            _ => {}
        }
        let Some(found) = find(topic) else {
            return match topic {
                TopicRef::Name(_) => refuse(
                    ErrorCode::UnknownTopicOrPartition,
                    "This server does not host this topic-partition.",
                ),
                TopicRef::Id(_) => {
                    refuse(ErrorCode::UnknownTopicId, "This server does not host this topic ID.")
                }
            };
        };
        if twice.contains(&found.id) {
            let message = match topic {
                TopicRef::Name(_) => {
                    "The provided topic name maps to an ID that was already supplied."
                }
                TopicRef::Id(_) => "Duplicate topic id.",
            };
            return refuse(ErrorCode::InvalidRequest, message);
        }
        let record = Record::RemoveTopic { id: found.id };
        len += encoded_len(std::slice::from_ref(&record));
        if len > METADATA_BATCH_MAX {
            let message = "Excessively large number of topics per request.";
            return refuse(ErrorCode::PolicyViolation, message);
        }
        records.push(record);
        Ok((found.name.to_string(), found.id))
    };
    let outcomes = topics
        .iter()
        .map(|topic| DeleteOutcome { topic: topic.clone(), result: delete(topic) })
        .collect();
    Decision { records, answer: Answer::DeleteTopics(outcomes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::image::Node;
    use crate::model::ids::{CoreId, MetadataOffset};

    fn policy() -> Policy {
        let validate_config = |name: &str, value: &str| match (name, value.parse::<i64>()) {
            ("retention.ms", Ok(_)) => Ok(()),
            ("retention.ms", Err(_)) => Err(format!("{name} is not a number: {value}")),
            _ => Err(format!("Unknown topic config name: {name}")),
        };
        Policy {
            num_partitions: 2,
            default_replication_factor: 1,
            validate_config,
            topics: TopicConfig::default(),
            consumer: ConsumerSettings::default(),
        }
    }

    fn topic(name: &str) -> NewTopic {
        NewTopic {
            name: name.to_owned(),
            partitions: 1,
            replication_factor: 1,
            assignments: vec![],
            configs: vec![],
        }
    }

    fn create(topics: &[NewTopic]) -> Command {
        Command::CreateTopics { topics: topics.to_vec(), validate_only: false }
    }

    /// One broker, number 1, with three cores, and the topics `a` and `b.c`.
    fn image() -> Image {
        let node = Node { id: NodeId(1), host: "h".into(), port: 9092, cores: 3 };
        let empty = Image::empty("c".into(), NodeId(1));
        let image = empty.apply(MetadataOffset(2), &[Record::RegisterBroker(node)]).unwrap().0;
        let mut rng = Rng::new(9);
        let decision = decide(
            &create(&[topic("a"), topic("b.c")]),
            &image,
            &FormerCores::default(),
            &policy(),
            &mut rng,
        );
        image.apply(MetadataOffset(3), &decision.records).unwrap().0
    }

    fn outcomes(command: &Command) -> (Vec<Record>, Vec<Result<CreatedTopic, Refusal>>) {
        let decision =
            decide(command, &image(), &FormerCores::default(), &policy(), &mut Rng::new(1));
        let Answer::CreateTopics(outcomes) = decision.answer else { panic!("another answer") };
        (decision.records, outcomes.into_iter().map(|outcome| outcome.result).collect())
    }

    #[test]
    fn topics_that_cannot_be_are_refused_as_kafka_does() {
        let with = |change: &dyn Fn(&mut NewTopic)| {
            let mut new = topic("new");
            change(&mut new);
            new
        };
        let assigned = |rows: &[(i32, &[i32])]| NewTopic {
            partitions: -1,
            replication_factor: -1,
            assignments: rows.iter().map(|(index, to)| (*index, to.to_vec())).collect(),
            ..topic("new")
        };
        use ErrorCode::{
            InvalidConfig, InvalidPartitions, InvalidReplicaAssignment, InvalidReplicationFactor,
            InvalidRequest, InvalidTopicException, TopicAlreadyExists,
        };
        let table = [
            (topic("a"), TopicAlreadyExists, "Topic 'a' already exists."),
            (topic(""), InvalidTopicException, "Invalid topic: the topic name is empty"),
            (topic("b_c"), InvalidTopicException, "Topic 'b_c' collides with existing topic: b.c"),
            (topic(CLUSTER_METADATA), InvalidRequest, "is prohibited."),
            (with(&|t| t.partitions = 0), InvalidPartitions, "invalid non-positive value."),
            (with(&|t| t.partitions = -2), InvalidPartitions, "invalid non-positive value."),
            (with(&|t| t.partitions = i32::MAX), InvalidPartitions, "from 1 to 10000."),
            (with(&|t| t.replication_factor = 0), InvalidReplicationFactor, "larger than 0"),
            (
                with(&|t| t.replication_factor = 3),
                InvalidReplicationFactor,
                "Unable to replicate the partition 3 time(s): The target replication factor of 3 \
                 cannot be reached because only 1 broker(s) are registered.",
            ),
            (with(&|t| t.assignments = vec![(0, vec![1])]), InvalidRequest, "not set to -1."),
            (assigned(&[(0, &[])]), InvalidReplicaAssignment, "an empty replica list."),
            (assigned(&[(0, &[2])]), InvalidReplicaAssignment, "includes broker 2, but no such"),
            (assigned(&[(0, &[1, 1])]), InvalidReplicaAssignment, "the broker 1 more than once."),
            (assigned(&[(0, &[1]), (0, &[1])]), InvalidReplicaAssignment, "multiple manual"),
            (assigned(&[(1, &[1])]), InvalidReplicaAssignment, "consecutive 0-based"),
            (
                with(&|t| t.configs = vec![("no.such".into(), Some("1".into()))]),
                InvalidConfig,
                "Unknown topic config name: no.such",
            ),
            (
                with(&|t| t.configs = vec![("retention.ms".into(), None)]),
                InvalidConfig,
                "Null value not supported for topic configs: retention.ms",
            ),
            (
                with(&|t| t.configs = vec![("retention.ms".into(), Some("1".repeat(5000)))]),
                InvalidConfig,
                "longer than 4096 bytes.",
            ),
        ];
        for (new, code, message) in table {
            let (records, outcomes) = outcomes(&create(std::slice::from_ref(&new)));
            let refusal = outcomes[0].clone().expect_err(message);
            assert_eq!(refusal.code, code, "{new:?}: {}", refusal.message);
            assert!(refusal.message.contains(message), "{}", refusal.message);
            assert!(records.is_empty());
        }
    }

    #[test]
    fn topics_of_one_request_are_judged_one_by_one() {
        let asked = [topic("x.y"), topic("twice"), topic("x_y"), topic("twice"), topic("z")];
        let (records, outcomes) = outcomes(&create(&asked));
        let codes = outcomes.iter().map(|outcome| outcome.as_ref().err().map(|r| r.code));
        let invalid = Some(ErrorCode::InvalidRequest);
        let collides = Some(ErrorCode::InvalidTopicException);
        assert!(codes.eq([None, invalid, collides, invalid, None]));
        // Partitions go round the cores: a and b.c are on 0 and 1.
        let cores = records.iter().filter_map(|record| match record {
            Record::Partition { partition, .. } => Some(partition.core),
            _ => None,
        });
        assert!(cores.eq([CoreId(2), CoreId(0)]));
    }

    #[test]
    fn defaults_and_settings_arrive_in_the_records() {
        let asked = NewTopic {
            partitions: -1,
            replication_factor: -1,
            configs: vec![("retention.ms".into(), Some("5".into()))],
            ..topic("new")
        };
        let (records, outcomes) = outcomes(&create(std::slice::from_ref(&asked)));
        let created = outcomes[0].clone().unwrap();
        assert_eq!((created.partitions, created.replication_factor), (2, 1));
        assert_eq!((created.id.0[6] >> 4, created.id.0[8] >> 6), (4, 2), "a version 4 UUID");
        let next = image().apply(MetadataOffset(9), &records).unwrap().0;
        let made = next.topic("new").unwrap();
        assert_eq!((made.id, &*made.configs["retention.ms"]), (created.id, "5"));

        let only = Command::CreateTopics { topics: vec![asked], validate_only: true };
        let (records, outcomes) = self::outcomes(&only);
        assert_eq!((records.len(), outcomes[0].clone().unwrap().id), (0, TopicId::default()));
    }

    #[test]
    fn a_request_that_would_not_fit_one_entry_is_cut_at_the_topic_that_passes_it() {
        let large = |name| NewTopic { partitions: PARTITIONS_PER_TOPIC_MAX, ..topic(name) };
        let asked = [large("one"), large("two"), large("three"), topic("small")];
        let (records, outcomes) = outcomes(&create(&asked));
        assert!(encoded_len(&records) <= METADATA_BATCH_MAX);
        assert_eq!(outcomes[2].as_ref().unwrap_err().code, ErrorCode::PolicyViolation);
        assert!(outcomes[1].is_ok() && outcomes[3].is_ok());
    }

    #[test]
    fn topics_are_deleted_by_name_or_id_but_not_twice() {
        let image = image();
        let id = |name: &str| image.topic(name).unwrap().id;
        let name = |name: &str| TopicRef::Name(name.into());
        let delete = |topics: &[TopicRef]| {
            let command = Command::DeleteTopics { topics: topics.to_vec() };
            let decision =
                decide(&command, &image, &FormerCores::default(), &policy(), &mut Rng::new(1));
            let Answer::DeleteTopics(outcomes) = decision.answer else { panic!("another answer") };
            let codes = outcomes.iter().map(|o| o.result.as_ref().err().map(|r| r.code));
            (decision.records.len(), codes.collect::<Vec<_>>())
        };
        let invalid = Some(ErrorCode::InvalidRequest);
        assert_eq!(delete(&[name("a"), TopicRef::Id(id("b.c"))]), (2, vec![None, None]));
        assert_eq!(delete(&[name("a"), name("a")]), (0, vec![invalid; 2]));
        assert_eq!(delete(&[name("a"), TopicRef::Id(id("a"))]), (0, vec![invalid; 2]));
        assert_eq!(delete(&[TopicRef::Id(TopicId::default())]), (0, vec![invalid]));
        let unknown = [Some(ErrorCode::UnknownTopicOrPartition), Some(ErrorCode::UnknownTopicId)];
        assert_eq!(delete(&[name("x"), TopicRef::Id(TopicId([3; 16]))]), (0, unknown.to_vec()));
    }
}
