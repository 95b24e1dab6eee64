//! What a shard asks the controller to change, and the answers.
//!
//! A command is decided against the controller's newest state, committed as one
//! Raft entry, and answered when every core of this broker has applied it.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::model::error_code::ErrorCode;
use crate::model::ids::TopicId;

/// A change of metadata that a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// CreateTopics, or the automatic creation of topics that a Metadata
    /// request named. Topics are judged one by one.
    CreateTopics {
        /// The topics.
        topics: Vec<NewTopic>,
        /// Only say what would happen.
        validate_only: bool,
    },
    /// DeleteTopics.
    DeleteTopics {
        /// The topics.
        topics: Vec<TopicRef>,
    },
    /// CreatePartitions: topics get more partitions. Topics are judged one by one.
    CreatePartitions {
        /// The topics.
        topics: Vec<MorePartitions>,
        /// Only say what would happen.
        validate_only: bool,
    },
    /// AlterConfigs and IncrementalAlterConfigs. Resources are judged one by one.
    AlterConfigs {
        /// The resources.
        resources: Vec<AlterResource>,
        /// Only say what would happen.
        validate_only: bool,
    },
    /// A block of producer ids for the asking core.
    AllocateProducerIds,
}

/// A topic that is to have more partitions, as in CreatePartitionsRequest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MorePartitions {
    /// Its name.
    pub name: String,
    /// How many it is to have in all.
    pub count: i32,
    /// Explicit replicas of the new ones, `None` for automatic placement.
    pub assignments: Option<Vec<Vec<i32>>>,
}

/// What has settings (`ConfigResource.Type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceType(pub i8);

impl ResourceType {
    /// A topic, by name.
    pub const TOPIC: Self = Self(2);
    /// A broker, by id, or all of them, by an empty name.
    pub const BROKER: Self = Self(4);
    /// The loggers of a broker, by its id.
    pub const BROKER_LOGGER: Self = Self(8);
    /// A subscription of client metrics, by name.
    pub const CLIENT_METRICS: Self = Self(16);
    /// A group, by its id.
    pub const GROUP: Self = Self(32);
}

/// A resource whose settings are to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterResource {
    /// What it is, not yet checked.
    pub kind: ResourceType,
    /// Which one.
    pub name: String,
    /// The changes.
    pub change: ConfigChange,
}

/// How settings are to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// They become these; what is not named is as if never set (AlterConfigs).
    Replace(Vec<(String, Option<String>)>),
    /// One after the other: name, operation (`AlterConfigOp.OpType`), operand
    /// (IncrementalAlterConfigs).
    Each(Vec<(String, i8, Option<String>)>),
}

/// A topic to create, as in CreateTopicsRequest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name, not yet checked.
    pub name: String,
    /// Number of partitions; -1 for `num.partitions`.
    pub partitions: i32,
    /// Replicas; -1 for `default.replication.factor`.
    pub replication_factor: i16,
    /// Explicit replicas by partition, empty for automatic placement.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Topic settings by Kafka's names, not yet checked.
    pub configs: Vec<(String, Option<String>)>,
}

/// A topic named one way or the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRef {
    /// By name.
    Name(String),
    /// By id.
    Id(TopicId),
}

/// The controller's answer to a [`Command`], its rows in the command's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Command::CreateTopics`].
    CreateTopics(Vec<CreateOutcome>),
    /// To [`Command::DeleteTopics`].
    DeleteTopics(Vec<DeleteOutcome>),
    /// To [`Command::CreatePartitions`].
    CreatePartitions(Vec<PartitionsOutcome>),
    /// To [`Command::AlterConfigs`].
    AlterConfigs(Vec<AlterOutcome>),
    /// To [`Command::AllocateProducerIds`].
    AllocateProducerIds(Result<Range<i64>, Refusal>),
}

/// What became of one topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOutcome {
    /// The name that was asked for.
    pub name: String,
    /// What was (or with `validate_only` would be) created.
    pub result: Result<CreatedTopic, Refusal>,
}

/// A created topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id; zero with `validate_only`.
    pub id: TopicId,
    /// Its number of partitions.
    pub partitions: i32,
    /// Its replication factor.
    pub replication_factor: i16,
    /// Its own settings.
    pub configs: BTreeMap<String, String>,
}

/// What became of one topic to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// The topic as it was asked for.
    pub topic: TopicRef,
    /// Name and id of the deleted topic.
    pub result: Result<(String, TopicId), Refusal>,
}

/// What became of one topic that is to have more partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionsOutcome {
    /// The topic.
    pub name: String,
    /// Whether it has them, or with `validate_only` could have.
    pub result: Result<(), Refusal>,
}

/// What became of one resource whose settings were to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterOutcome {
    /// What it is.
    pub kind: ResourceType,
    /// Which one.
    pub name: String,
    /// Whether they are changed, or with `validate_only` could be.
    pub result: Result<(), Refusal>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the wire.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}
