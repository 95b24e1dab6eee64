//! What a shard asks the controller to change, and the answers.
//!
//! A command is decided against the controller's newest state, committed as one
//! Raft entry, and answered when every core of this broker has applied it.

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
    /// A block of producer ids for the asking core.
    AllocateProducerIds,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id; zero with `validate_only`.
    pub id: TopicId,
    /// Its number of partitions.
    pub partitions: i32,
    /// Its replication factor.
    pub replication_factor: i16,
}

/// What became of one topic to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// The topic as it was asked for.
    pub topic: TopicRef,
    /// Name and id of the deleted topic.
    pub result: Result<(String, TopicId), Refusal>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the wire.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}
