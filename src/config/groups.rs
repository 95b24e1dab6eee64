//! Settings of the group coordinators (Kafka's `GroupCoordinatorConfig.java`).

use std::time::Duration;

/// What group coordinators go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSettings {
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`.
    pub max_size: usize,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub expiry_check: Duration,
    /// `offsets.topic.num.partitions`.
    pub topic_partitions: i32,
    /// `offsets.topic.replication.factor`; no more than there are brokers.
    pub topic_replication_factor: i16,
    /// `offsets.topic.segment.bytes`.
    pub topic_segment_bytes: u64,
    /// `group.consumer.*`.
    pub consumer: ConsumerSettings,
}

/// What groups of the consumer protocol go by (KIP-848).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerSettings {
    /// `group.consumer.session.timeout.ms`.
    pub session_timeout_ms: i32,
    /// `group.consumer.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// `group.consumer.max.size`.
    pub max_size: usize,
    /// `group.consumer.assignors`, the default first; not empty.
    pub assignors: Vec<Assignor>,
    /// `group.consumer.migration.policy`.
    pub migration: Migration,
}

/// An assignor of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// As evenly as can be, over all topics.
    Uniform,
    /// Ranges of each topic.
    Range,
}

/// Which groups may change their protocol while they have members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Migration {
    /// From classic to consumer and back.
    #[default]
    Bidirectional,
    /// From classic to consumer.
    Upgrade,
    /// From consumer to classic.
    Downgrade,
    /// None.
    Disabled,
}

impl Assignor {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// Reads a name, or that of Kafka's class.
    ///
    /// # Errors
    /// Any other.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("org.apache.kafka.coordinator.group.assignor.").unwrap_or(text) {
            "uniform" | "UniformAssignor" => Ok(Assignor::Uniform),
            "range" | "RangeAssignor" => Ok(Assignor::Range),
            _ => Err("must be a list of uniform and range".to_owned()),
        }
    }
}

impl Migration {
    /// Whether a classic group may become one of the consumer protocol.
    pub fn upgrades(self) -> bool {
        matches!(self, Migration::Bidirectional | Migration::Upgrade)
    }

    /// Whether a group of the consumer protocol may become a classic one.
    pub fn downgrades(self) -> bool {
        matches!(self, Migration::Bidirectional | Migration::Downgrade)
    }

    /// Reads a policy.
    ///
    /// # Errors
    /// Any other name.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "bidirectional" => Ok(Migration::Bidirectional),
            "upgrade" => Ok(Migration::Upgrade),
            "downgrade" => Ok(Migration::Downgrade),
            "disabled" => Ok(Migration::Disabled),
            _ => Err("must be bidirectional, upgrade, downgrade or disabled".to_owned()),
        }
    }
}
