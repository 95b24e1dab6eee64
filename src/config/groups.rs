//! Settings of the group coordinators (Kafka's `GroupCoordinatorConfig.java`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::table::Kind;
use super::value::number;

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
    /// `group.consumer.min.session.timeout.ms`: what a group may set.
    pub min_session_timeout_ms: i32,
    /// `group.consumer.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.consumer.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// `group.consumer.min.heartbeat.interval.ms`: what a group may set.
    pub min_heartbeat_interval_ms: i32,
    /// `group.consumer.max.heartbeat.interval.ms`.
    pub max_heartbeat_interval_ms: i32,
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

/// A setting that a group may have of its own (`GroupConfig.java`).
#[derive(Clone, Copy, Debug)]
pub struct GroupRow {
    /// Kafka's name.
    pub name: &'static str,
    /// The broker's setting that is its default.
    pub broker: &'static str,
    /// What Kafka says it is.
    pub kind: Kind,
    /// What it does.
    pub doc: &'static str,
}

const SESSION_TIMEOUT: &str = "consumer.session.timeout.ms";
const HEARTBEAT_INTERVAL: &str = "consumer.heartbeat.interval.ms";

/// The settings of a group, by name.
pub const GROUP_ROWS: &[GroupRow] = &[
    GroupRow {
        name: HEARTBEAT_INTERVAL,
        broker: "group.consumer.heartbeat.interval.ms",
        kind: Kind::Int,
        doc: "How often a member of the consumer protocol gives a sign of life.",
    },
    GroupRow {
        name: SESSION_TIMEOUT,
        broker: "group.consumer.session.timeout.ms",
        kind: Kind::Int,
        doc: "How long a member of the consumer protocol may be silent.",
    },
];

impl ConsumerSettings {
    /// Whether a group may have set all of `own`.
    ///
    /// # Errors
    /// Why not: one line for people, which goes out with INVALID_CONFIG.
    pub fn validate(&self, own: &BTreeMap<String, String>) -> Result<(), String> {
        for (name, value) in own {
            if GROUP_ROWS.iter().all(|row| row.name != name) {
                return Err(format!("Unknown group config name: {name}"));
            }
            number(value.trim(), 1..=i32::MAX)
                .map_err(|allowed| format!("{name}={value}: {allowed}"))?;
        }
        let heartbeat = read(own, HEARTBEAT_INTERVAL).unwrap_or(self.heartbeat_interval_ms);
        let session = read(own, SESSION_TIMEOUT).unwrap_or(self.session_timeout_ms);
        let bounds = [
            (HEARTBEAT_INTERVAL, heartbeat, self.min_heartbeat_interval_ms, true),
            (HEARTBEAT_INTERVAL, heartbeat, self.max_heartbeat_interval_ms, false),
            (SESSION_TIMEOUT, session, self.min_session_timeout_ms, true),
            (SESSION_TIMEOUT, session, self.max_session_timeout_ms, false),
        ];
        for (name, value, bound, is_least) in bounds {
            let (short, rest) = name.split_once('.').expect("names have parts");
            let (than, which) = if is_least { ("greater", "min") } else { ("less", "max") };
            if value != bound && (value < bound) == is_least {
                return Err(format!(
                    "{name} must be {than} than or equal to group.{short}.{which}.{rest}"
                ));
            }
        }
        if session <= heartbeat {
            return Err(format!("{SESSION_TIMEOUT} must be greater than {HEARTBEAT_INTERVAL}"));
        }
        Ok(())
    }

    /// How long a member of a group that has set `own` may be silent, milliseconds.
    /// What it set under other bounds than today's is taken to the nearest of them.
    pub fn session_timeout_ms(&self, own: &BTreeMap<String, String>) -> i32 {
        read(own, SESSION_TIMEOUT).map_or(self.session_timeout_ms, |own| {
            own.min(self.max_session_timeout_ms).max(self.min_session_timeout_ms)
        })
    }

    /// How often a member of a group that has set `own` gives a sign of life,
    /// milliseconds; bounded in the same way.
    pub fn heartbeat_interval_ms(&self, own: &BTreeMap<String, String>) -> i32 {
        read(own, HEARTBEAT_INTERVAL).map_or(self.heartbeat_interval_ms, |own| {
            own.min(self.max_heartbeat_interval_ms).max(self.min_heartbeat_interval_ms)
        })
    }
}

/// A setting of a group, which was checked when it was set.
fn read(own: &BTreeMap<String, String>, name: &str) -> Option<i32> {
    own.get(name)?.trim().parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn own(session: Option<&str>, heartbeat: Option<&str>) -> BTreeMap<String, String> {
        let rows = [(SESSION_TIMEOUT, session), (HEARTBEAT_INTERVAL, heartbeat)];
        rows.iter().filter_map(|(k, v)| Some(((*k).to_owned(), (*v)?.to_owned()))).collect()
    }

    #[test]
    fn what_a_group_may_set_and_what_it_goes_by() {
        let settings = ConsumerSettings {
            session_timeout_ms: 45_000,
            min_session_timeout_ms: 14_000,
            max_session_timeout_ms: 60_000,
            heartbeat_interval_ms: 5_000,
            min_heartbeat_interval_ms: 5_000,
            max_heartbeat_interval_ms: 15_000,
            ..ConsumerSettings::default()
        };
        let table: [(_, _, Result<(), &str>); 9] = [
            (None, None, Ok(())),
            (Some("14000"), Some("5000"), Ok(())),
            (Some("60000"), Some("15000"), Ok(())),
            (
                Some("13999"),
                None,
                Err("consumer.session.timeout.ms must be greater than or equal to \
                     group.consumer.min.session.timeout.ms"),
            ),
            (
                Some("60001"),
                None,
                Err("consumer.session.timeout.ms must be less than or equal to \
                     group.consumer.max.session.timeout.ms"),
            ),
            (
                None,
                Some("4999"),
                Err("consumer.heartbeat.interval.ms must be greater than or equal to \
                     group.consumer.min.heartbeat.interval.ms"),
            ),
            (
                None,
                Some("15001"),
                Err("consumer.heartbeat.interval.ms must be less than or equal to \
                     group.consumer.max.heartbeat.interval.ms"),
            ),
            (
                Some("14500"),
                Some("15000"),
                Err("consumer.session.timeout.ms must be greater than \
                     consumer.heartbeat.interval.ms"),
            ),
            (
                Some("x"),
                None,
                Err("consumer.session.timeout.ms=x: must be a whole number from 1 to 2147483647"),
            ),
        ];
        for (session, heartbeat, expected) in table {
            let result = settings.validate(&own(session, heartbeat));
            assert_eq!(result, expected.map_err(str::to_owned), "{session:?} {heartbeat:?}");
        }
        let other = BTreeMap::from([("share.session.timeout.ms".to_owned(), "1".to_owned())]);
        let error = "Unknown group config name: share.session.timeout.ms";
        assert_eq!(settings.validate(&other), Err(error.to_owned()));

        let goes_by = |session, heartbeat| {
            let own = own(session, heartbeat);
            (settings.session_timeout_ms(&own), settings.heartbeat_interval_ms(&own))
        };
        assert_eq!(goes_by(None, None), (45_000, 5_000));
        assert_eq!(goes_by(Some("20000"), Some("6000")), (20_000, 6_000));
        // The bounds were others then.
        assert_eq!(goes_by(Some("1"), Some("900000")), (14_000, 15_000));
    }
}
