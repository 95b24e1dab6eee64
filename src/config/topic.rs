//! Settings of one topic (Kafka's `TopicConfig.java` and `LogConfig.java`), and
//! the broker's settings that are their defaults (`ServerTopicConfigSynonyms.java`).
//!
//! A setting that Kafka has and corelane does not act on is refused when a topic
//! is created or altered, unless its value is what happens anyway: a topic never
//! promises what it does not keep.

use std::collections::BTreeMap;

use super::nearest;
use super::table::{Kind, flush_messages, message_bytes, milliseconds, segment_bytes, store};
use super::value::number;

/// What a log goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `max.message.bytes`: largest record batch.
    pub max_message_bytes: usize,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`: age at which a segment is sealed, from 1.
    pub segment_ms: u64,
    /// `segment.jitter.ms`: most that is drawn from the age, so that not all
    /// segments are sealed at once.
    pub segment_jitter_ms: u64,
    /// `segment.index.bytes`: largest index of a segment.
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`: log between two entries of an index.
    pub index_interval_bytes: u64,
    /// `flush.messages`: 1 means that acknowledgements wait for the sync.
    pub flush_messages: u64,
    /// `flush.ms`, `None` for never.
    pub flush_ms: Option<u64>,
    /// `cleanup.policy`.
    pub cleanup: CleanupPolicy,
    /// `retention.ms`: age at which records are deleted, `None` for never.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`: size beyond which a partition's oldest segments are
    /// deleted, `None` for any size.
    pub retention_bytes: Option<u64>,
    /// `min.cleanable.dirty.ratio`, in millionths: share of a log that is not
    /// compacted above which it is.
    pub min_cleanable_dirty_ppm: u32,
    /// `min.compaction.lag.ms`: age up to which a record is not compacted.
    pub min_compaction_lag_ms: u64,
    /// `max.compaction.lag.ms`: age at which it is at the latest, from 1.
    pub max_compaction_lag_ms: u64,
    /// `delete.retention.ms`: how long tombstones stay.
    pub delete_retention_ms: u64,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a record's timestamp may lie
    /// before the broker's clock, `None` for any.
    pub timestamp_before_max_ms: Option<u64>,
    /// `message.timestamp.after.max.ms`: how far it may lie ahead, `None` for any.
    pub timestamp_after_max_ms: Option<u64>,
}

/// What becomes of old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Old segments are deleted.
    pub delete: bool,
    /// Of the records with a key, the last one stays.
    pub compact: bool,
}

/// Whose clock a record's timestamp is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, at the append.
    LogAppendTime,
}

/// A topic setting.
#[derive(Clone, Copy, Debug)]
pub struct TopicRow {
    /// Kafka's name.
    pub name: &'static str,
    /// What Kafka says it is.
    pub kind: Kind,
    /// The default, as it would be written.
    pub default: &'static str,
    /// The broker's settings that are its default, the first that is set counts.
    pub brokers: &'static [BrokerRow],
    /// What it does.
    pub doc: &'static str,
    /// What becomes of a value.
    pub(super) acts: Acts,
}

/// A setting of the broker that is the default of a topic setting.
#[derive(Clone, Copy, Debug)]
pub struct BrokerRow {
    /// Kafka's name.
    pub name: &'static str,
    /// How much of the topic setting's unit one of its unit is.
    pub unit: i64,
    /// Its default, as it would be written, if it has one.
    pub default: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Acts {
    /// The value is acted on; the error says what is allowed.
    On(fn(&mut TopicConfig, &str) -> Result<(), String>),
    /// Only what happens anyway is accepted.
    Only(&'static [&'static str]),
}

/// A broker setting in the unit of the topic setting.
const fn broker(name: &'static str, default: &'static str) -> BrokerRow {
    BrokerRow { name, unit: 1, default: Some(default) }
}

/// A broker setting in the unit of the topic setting that has no default.
const fn unset(name: &'static str) -> BrokerRow {
    BrokerRow { name, unit: 1, default: None }
}

const NEVER: &str = "9223372036854775807";
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// Every topic setting of Kafka's, by name.
pub const ROWS: &[TopicRow] = &[
    TopicRow {
        name: "cleanup.policy",
        kind: Kind::List,
        default: "delete",
        brokers: &[broker("log.cleanup.policy", "delete")],
        doc: "What becomes of old records: delete, compact, or both.",
        acts: Acts::On(|config, text| {
            let mut policy = CleanupPolicy { delete: false, compact: false };
            for one in text.split(',').map(str::trim) {
                match one {
                    "delete" => policy.delete = true,
                    "compact" => policy.compact = true,
                    _ => return Err("must be delete, compact or both".to_owned()),
                }
            }
            config.cleanup = policy;
            Ok(())
        }),
    },
    TopicRow {
        name: "compression.gzip.level",
        kind: Kind::Int,
        default: "-1",
        brokers: &[broker("compression.gzip.level", "-1")],
        doc: "Level at which the broker would compress; it does not.",
        acts: Acts::Only(&["-1"]),
    },
    TopicRow {
        name: "compression.lz4.level",
        kind: Kind::Int,
        default: "9",
        brokers: &[broker("compression.lz4.level", "9")],
        doc: "Level at which the broker would compress; it does not.",
        acts: Acts::Only(&["9"]),
    },
    TopicRow {
        name: "compression.type",
        kind: Kind::String,
        default: "producer",
        brokers: &[broker("compression.type", "producer")],
        doc: "Batches are kept as the producer compressed them.",
        acts: Acts::Only(&["producer"]),
    },
    TopicRow {
        name: "compression.zstd.level",
        kind: Kind::Int,
        default: "3",
        brokers: &[broker("compression.zstd.level", "3")],
        doc: "Level at which the broker would compress; it does not.",
        acts: Acts::Only(&["3"]),
    },
    TopicRow {
        name: "delete.retention.ms",
        kind: Kind::Long,
        default: "86400000",
        brokers: &[broker("log.cleaner.delete.retention.ms", "86400000")],
        doc: "How long a compacted topic keeps tombstones, milliseconds.",
        acts: Acts::On(|config, text| {
            store(&mut config.delete_retention_ms, number(text, 0..=i64::MAX as u64))
        }),
    },
    TopicRow {
        name: "file.delete.delay.ms",
        kind: Kind::Long,
        default: "0",
        brokers: &[broker("log.segment.delete.delay.ms", "0")],
        doc: "How long a deleted file stays; it goes at once.",
        acts: Acts::Only(&["0"]),
    },
    TopicRow {
        name: "flush.messages",
        kind: Kind::Long,
        default: "1",
        brokers: &[broker("log.flush.interval.messages", "1")],
        doc: "Records after which a log is synced; with 1 an acknowledgement waits for the sync, \
              which is shared by all that arrived meanwhile.",
        acts: Acts::On(|config, text| store(&mut config.flush_messages, flush_messages(text))),
    },
    TopicRow {
        name: "flush.ms",
        kind: Kind::Long,
        default: NEVER,
        brokers: &[broker("log.flush.interval.ms", NEVER)],
        doc: "Time after which a log with unsynced records is synced, milliseconds.",
        acts: Acts::On(|config, text| store(&mut config.flush_ms, milliseconds(text))),
    },
    TopicRow {
        name: "follower.replication.throttled.replicas",
        kind: Kind::List,
        default: "",
        brokers: &[],
        doc: "Replicas whose replication is throttled; none.",
        acts: Acts::Only(&[""]),
    },
    TopicRow {
        name: "index.interval.bytes",
        kind: Kind::Int,
        default: "32768",
        brokers: &[broker("log.index.interval.bytes", "32768")],
        doc: "Bytes of log between two entries of its index, which is in memory.",
        acts: Acts::On(|config, text| {
            store(&mut config.index_interval_bytes, number(text, 4096..=i32::MAX as u64))
        }),
    },
    TopicRow {
        name: "leader.replication.throttled.replicas",
        kind: Kind::List,
        default: "",
        brokers: &[],
        doc: "Replicas whose replication is throttled; none.",
        acts: Acts::Only(&[""]),
    },
    TopicRow {
        name: "local.retention.bytes",
        kind: Kind::Long,
        default: "-2",
        brokers: &[broker("log.local.retention.bytes", "-2")],
        doc: "Of a tiered topic; -2 for retention.bytes.",
        acts: Acts::Only(&["-2"]),
    },
    TopicRow {
        name: "local.retention.ms",
        kind: Kind::Long,
        default: "-2",
        brokers: &[broker("log.local.retention.ms", "-2")],
        doc: "Of a tiered topic; -2 for retention.ms.",
        acts: Acts::Only(&["-2"]),
    },
    TopicRow {
        name: "max.compaction.lag.ms",
        kind: Kind::Long,
        default: NEVER,
        brokers: &[broker("log.cleaner.max.compaction.lag.ms", NEVER)],
        doc: "Age of a record at which a compacted topic is compacted at the latest, milliseconds.",
        acts: Acts::On(|config, text| {
            store(&mut config.max_compaction_lag_ms, number(text, 1..=i64::MAX as u64))
        }),
    },
    TopicRow {
        name: "max.message.bytes",
        kind: Kind::Int,
        default: "1048588",
        brokers: &[broker("message.max.bytes", "1048588")],
        doc: "Largest record batch.",
        acts: Acts::On(|config, text| store(&mut config.max_message_bytes, message_bytes(text))),
    },
    TopicRow {
        name: "message.timestamp.after.max.ms",
        kind: Kind::Long,
        default: "3600000",
        brokers: &[broker("log.message.timestamp.after.max.ms", "3600000")],
        doc: "How far a record's timestamp may lie ahead of the broker's clock, milliseconds.",
        acts: Acts::On(|config, text| {
            store(&mut config.timestamp_after_max_ms, milliseconds(text))
        }),
    },
    TopicRow {
        name: "message.timestamp.before.max.ms",
        kind: Kind::Long,
        default: NEVER,
        brokers: &[broker("log.message.timestamp.before.max.ms", NEVER)],
        doc: "How far a record's timestamp may lie before the broker's clock, milliseconds.",
        acts: Acts::On(|config, text| {
            store(&mut config.timestamp_before_max_ms, milliseconds(text))
        }),
    },
    TopicRow {
        name: "message.timestamp.type",
        kind: Kind::String,
        default: "CreateTime",
        brokers: &[broker("log.message.timestamp.type", "CreateTime")],
        doc: "Whose clock a record's timestamp is of: CreateTime for the producer's, \
              LogAppendTime for the broker's.",
        acts: Acts::On(|config, text| {
            config.timestamp_type = match text {
                "CreateTime" => TimestampType::CreateTime,
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => return Err("must be CreateTime or LogAppendTime".to_owned()),
            };
            Ok(())
        }),
    },
    TopicRow {
        name: "min.cleanable.dirty.ratio",
        kind: Kind::Double,
        default: "0.5",
        brokers: &[broker("log.cleaner.min.cleanable.ratio", "0.5")],
        doc: "Share of a compacted topic's log that is not compacted yet, above which it is.",
        acts: Acts::On(|config, text| {
            let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
            let ratio = ratio.ok_or("must be a number from 0 to 1")?;
            config.min_cleanable_dirty_ppm = (ratio * 1e6) as u32;
            Ok(())
        }),
    },
    TopicRow {
        name: "min.compaction.lag.ms",
        kind: Kind::Long,
        default: "0",
        brokers: &[broker("log.cleaner.min.compaction.lag.ms", "0")],
        doc: "Age up to which a record of a compacted topic stays in any case, milliseconds.",
        acts: Acts::On(|config, text| {
            store(&mut config.min_compaction_lag_ms, number(text, 0..=i64::MAX as u64))
        }),
    },
    TopicRow {
        name: "min.insync.replicas",
        kind: Kind::Int,
        default: "1",
        brokers: &[broker("min.insync.replicas", "1")],
        doc: "In-sync replicas that acks=all needs.",
        acts: Acts::Only(&["1"]),
    },
    TopicRow {
        name: "preallocate",
        kind: Kind::Boolean,
        default: "true",
        brokers: &[broker("log.preallocate", "true")],
        doc: "Whether space is taken ahead of the log's end; it is, in steps.",
        acts: Acts::Only(&["true"]),
    },
    TopicRow {
        name: "remote.log.copy.disable",
        kind: Kind::Boolean,
        default: "false",
        brokers: &[],
        doc: "Of a tiered topic.",
        acts: Acts::Only(&["false"]),
    },
    TopicRow {
        name: "remote.log.delete.on.disable",
        kind: Kind::Boolean,
        default: "false",
        brokers: &[],
        doc: "Of a tiered topic.",
        acts: Acts::Only(&["false"]),
    },
    TopicRow {
        name: "remote.storage.enable",
        kind: Kind::Boolean,
        default: "false",
        brokers: &[],
        doc: "Whether a topic is tiered.",
        acts: Acts::Only(&["false"]),
    },
    TopicRow {
        name: "retention.bytes",
        kind: Kind::Long,
        default: "-1",
        brokers: &[broker("log.retention.bytes", "-1")],
        doc: "Size of a partition beyond which its oldest segments are deleted; -1 for any.",
        acts: Acts::On(|config, text| {
            let bytes = number(text, i64::MIN..=i64::MAX).map(|bytes| u64::try_from(bytes).ok());
            store(&mut config.retention_bytes, bytes)
        }),
    },
    TopicRow {
        name: "retention.ms",
        kind: Kind::Long,
        default: "604800000",
        brokers: &[
            unset("log.retention.ms"),
            BrokerRow { name: "log.retention.minutes", unit: MINUTE_MS, default: None },
            BrokerRow { name: "log.retention.hours", unit: HOUR_MS, default: Some("168") },
        ],
        doc: "Age at which records are deleted, milliseconds; -1 for never.",
        acts: Acts::On(|config, text| {
            let ms = number(text, -1..=i64::MAX).map(|ms| u64::try_from(ms).ok());
            store(&mut config.retention_ms, ms)
        }),
    },
    TopicRow {
        name: "segment.bytes",
        kind: Kind::Int,
        default: "1073741824",
        brokers: &[broker("log.segment.bytes", "1073741824")],
        doc: "Size at which a segment of a log is sealed.",
        acts: Acts::On(|config, text| store(&mut config.segment_bytes, segment_bytes(text))),
    },
    TopicRow {
        name: "segment.index.bytes",
        kind: Kind::Int,
        default: "10485760",
        brokers: &[broker("log.index.size.max.bytes", "10485760")],
        doc: "Size of a segment's index at which the segment is sealed.",
        acts: Acts::On(|config, text| {
            store(&mut config.segment_index_bytes, number(text, 4..=i32::MAX as u32))
        }),
    },
    TopicRow {
        name: "segment.jitter.ms",
        kind: Kind::Long,
        default: "0",
        brokers: &[
            unset("log.roll.jitter.ms"),
            BrokerRow { name: "log.roll.jitter.hours", unit: HOUR_MS, default: Some("0") },
        ],
        doc: "Most that is drawn from segment.ms, so that not all segments are sealed at once.",
        acts: Acts::On(|config, text| {
            store(&mut config.segment_jitter_ms, number(text, 0..=i64::MAX as u64))
        }),
    },
    TopicRow {
        name: "segment.ms",
        kind: Kind::Long,
        default: "604800000",
        brokers: &[
            unset("log.roll.ms"),
            BrokerRow { name: "log.roll.hours", unit: HOUR_MS, default: Some("168") },
        ],
        doc: "Age at which a segment of a log is sealed, milliseconds.",
        acts: Acts::On(|config, text| {
            store(&mut config.segment_ms, number(text, 1..=i64::MAX as u64))
        }),
    },
    TopicRow {
        name: "unclean.leader.election.enable",
        kind: Kind::Boolean,
        default: "false",
        brokers: &[broker("unclean.leader.election.enable", "false")],
        doc: "Whether a replica that is not in sync may become leader.",
        acts: Acts::Only(&["false"]),
    },
];

/// What the broker's own topics are set to.
pub const COMPACTED: (&str, &str) = ("cleanup.policy", "compact");

const _: () = assert!(crate::base::limits::INDEX_INTERVAL_BYTES == 32_768);

impl Default for TopicConfig {
    /// Every setting at its default.
    fn default() -> Self {
        let mut config = Self {
            max_message_bytes: 0,
            segment_bytes: 0,
            segment_ms: 1,
            segment_jitter_ms: 0,
            segment_index_bytes: 0,
            index_interval_bytes: 0,
            flush_messages: 1,
            flush_ms: None,
            cleanup: CleanupPolicy { delete: true, compact: false },
            retention_ms: None,
            retention_bytes: None,
            min_cleanable_dirty_ppm: 0,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: 1,
            delete_retention_ms: 0,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: None,
            timestamp_after_max_ms: None,
        };
        for row in ROWS {
            config.set(row.name, row.default).expect("a default is allowed");
        }
        config
    }
}

impl TopicConfig {
    /// These settings under a topic's own.
    ///
    /// # Errors
    /// What [`validate_topic_config`] says of the first one that is wrong.
    pub fn with(&self, overrides: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut config = self.clone();
        for (name, value) in overrides {
            config.set(name, value)?;
        }
        Ok(config)
    }

    /// Whether these settings go together (`LogConfig.validateValues`).
    ///
    /// # Errors
    /// Why not: one line for people, which goes out with INVALID_CONFIG.
    pub fn check_together(&self) -> Result<(), String> {
        let (min, max) = (self.min_compaction_lag_ms, self.max_compaction_lag_ms);
        if min <= max {
            return Ok(());
        }
        Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({min}) > \
             max.compaction.lag.ms ({max})"
        ))
    }

    /// These settings under the broker's `values`, by the broker's names.
    ///
    /// # Errors
    /// The first value that is wrong, with what is allowed: one line for people.
    pub fn with_broker(&self, values: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut config = self.clone();
        for row in ROWS.iter().filter(|row| row.is_acted_on()) {
            let set = |broker: &BrokerRow| Some((*broker, values.get(broker.name)?));
            // Each is checked, the first one counts.
            for (broker, value) in row.brokers.iter().filter_map(set).rev() {
                config
                    .set_by_broker(row, &broker, value)
                    .map_err(|allowed| format!("{}={value}: {allowed}", broker.name))?;
            }
        }
        Ok(config)
    }

    fn set_by_broker(
        &mut self,
        row: &TopicRow,
        broker: &BrokerRow,
        value: &str,
    ) -> Result<(), String> {
        let Acts::On(set) = row.acts else {
            return Err("has no effect here".to_owned());
        };
        if broker.unit == 1 {
            return set(self, value.trim());
        }
        let most = i64::from(i32::MAX);
        let scaled = match number(value.trim(), -1..=most)? {
            // Kafka's "never", whatever the unit.
            -1 => -1,
            count => count * broker.unit,
        };
        let allowed = format!("must be a whole number from 0 to {most}");
        set(self, &scaled.to_string()).map_err(|_| allowed)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let Some(row) = row(name) else {
            let nearest = nearest(name, ROWS.iter().map(|row| row.name));
            return Err(format!(
                "{name}={value}: unknown topic setting; the nearest known one is {nearest}"
            ));
        };
        let only = match row.acts {
            Acts::On(set) => {
                return set(self, value.trim())
                    .map_err(|allowed| format!("{name}={value}: {allowed}"));
            }
            Acts::Only(only) => only,
        };
        if only.iter().any(|only| only.eq_ignore_ascii_case(value.trim())) {
            return Ok(());
        }
        let only = only.join("', '");
        Err(format!("{name}={value}: not supported yet; the only value is '{only}'"))
    }
}

impl TopicRow {
    /// Whether a value of one's own has an effect.
    pub fn is_acted_on(&self) -> bool {
        matches!(self.acts, Acts::On(_))
    }
}

/// The topic setting called `name`.
pub fn row(name: &str) -> Option<&'static TopicRow> {
    ROWS.iter().find(|row| row.name == name)
}

/// The broker setting `name`, if it is the default of a topic setting that is
/// acted on, and that one.
pub fn broker_row(name: &str) -> Option<(&'static TopicRow, &'static BrokerRow)> {
    let rows = ROWS.iter().filter(|row| row.is_acted_on());
    let mut brokers = rows.flat_map(|row| row.brokers.iter().map(move |broker| (row, broker)));
    brokers.find(|(_, broker)| broker.name == name)
}

/// The names that [`broker_row`] finds.
pub fn broker_names() -> impl Iterator<Item = &'static str> {
    let rows = ROWS.iter().filter(|row| row.is_acted_on());
    rows.flat_map(|row| row.brokers.iter().map(|broker| broker.name))
}

/// Whether a topic may have this setting; the error, one line for people, goes
/// out with INVALID_CONFIG.
pub fn validate_topic_config(name: &str, value: &str) -> Result<(), String> {
    TopicConfig::default().set(name, value)
}

/// Whether the broker's setting `name` may be changed to `value` while it runs;
/// the error is one line for people. As in Kafka, all that can be changed are
/// defaults of topics (`DynamicBrokerConfig.java`).
pub fn validate_dynamic_config(name: &str, value: &str) -> Result<(), String> {
    match broker_row(name) {
        Some((row, broker)) if broker.unit == 1 => TopicConfig::default()
            .set_by_broker(row, broker, value)
            .map_err(|allowed| format!("{name}={value}: {allowed}")),
        _ => Err(format!("Cannot update these configs dynamically: [{name}]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_topic_has_the_brokers_settings_unless_it_has_its_own() {
        let defaults = TopicConfig::default();
        assert_eq!((defaults.max_message_bytes, defaults.flush_messages), (1_048_588, 1));
        assert_eq!((defaults.retention_ms, defaults.retention_bytes), (Some(604_800_000), None));
        let broker = values(&[("message.max.bytes", "3000"), ("log.segment.bytes", "2097152")]);
        let broker = defaults.with_broker(&broker).expect("good");
        assert_eq!((broker.max_message_bytes, broker.segment_bytes), (3000, 2 << 20));
        let own = values(&[
            ("max.message.bytes", "2000"),
            ("flush.messages", "9223372036854775807"),
            ("flush.ms", "500"),
            ("cleanup.policy", "compact, delete"),
            ("min.cleanable.dirty.ratio", "0.25"),
            ("delete.retention.ms", "7"),
            ("retention.ms", "-1"),
            ("message.timestamp.type", "LogAppendTime"),
        ]);
        let expected = TopicConfig {
            max_message_bytes: 2000,
            segment_bytes: 2 << 20,
            flush_messages: i64::MAX as u64,
            flush_ms: Some(500),
            cleanup: CleanupPolicy { delete: true, compact: true },
            min_cleanable_dirty_ppm: 250_000,
            delete_retention_ms: 7,
            retention_ms: None,
            timestamp_type: TimestampType::LogAppendTime,
            ..defaults
        };
        assert_eq!(broker.with(&own), Ok(expected));
    }

    #[test]
    fn the_least_lag_of_compaction_is_not_above_the_most() {
        let check = |min: &str, max: &str| {
            let lags = [("min.compaction.lag.ms", min), ("max.compaction.lag.ms", max)];
            TopicConfig::default().with(&values(&lags)).expect("good").check_together()
        };
        assert_eq!((check("0", "1"), check("7", "7")), (Ok(()), Ok(())));
        let message = "conflict topic config setting min.compaction.lag.ms (8) > \
                       max.compaction.lag.ms (7)";
        assert_eq!(check("8", "7"), Err(message.to_owned()));
    }

    #[test]
    fn of_several_units_the_finest_counts() {
        let retention = |pairs: &[(&str, &str)]| {
            TopicConfig::default().with_broker(&values(pairs)).map(|config| config.retention_ms)
        };
        assert_eq!(retention(&[("log.retention.hours", "2")]), Ok(Some(7_200_000)));
        assert_eq!(retention(&[("log.retention.hours", "-1")]), Ok(None));
        let two = [("log.retention.hours", "2"), ("log.retention.minutes", "1")];
        assert_eq!(retention(&two), Ok(Some(60_000)));
        let three = [("log.retention.ms", "5"), two[0], two[1]];
        assert_eq!(retention(&three), Ok(Some(5)));
        // What does not count is checked all the same.
        let bad = [("log.retention.ms", "5"), ("log.retention.hours", "x")];
        let error = "log.retention.hours=x: must be a whole number from -1 to 2147483647";
        assert_eq!(retention(&bad), Err(error.to_owned()));
    }

    #[test]
    fn what_is_refused_and_why() {
        let cases = [
            ("flush.messages", "0", "must be a whole number from 1 to 9223372036854775807"),
            ("segment.bytes", "100", "must be a whole number from 1048576 to 2147483647"),
            ("cleanup.policy", "compact,x", "must be delete, compact or both"),
            ("cleanup.policy", "", "must be delete, compact or both"),
            ("min.cleanable.dirty.ratio", "1.1", "must be a number from 0 to 1"),
            ("preallocate", "false", "not supported yet; the only value is 'true'"),
            ("retention.ms", "-2", "must be a whole number from -1 to 9223372036854775807"),
            ("message.timestamp.type", "x", "must be CreateTime or LogAppendTime"),
            ("retention.mss", "1", "unknown topic setting; the nearest known one is retention.ms"),
        ];
        for (name, value, reason) in cases {
            let error = validate_topic_config(name, value).expect_err(name);
            assert_eq!(error, format!("{name}={value}: {reason}"));
        }
        for (name, value) in [("retention.ms", "-1"), ("preallocate", "TRUE")] {
            assert_eq!(validate_topic_config(name, value), Ok(()));
        }
        assert_eq!(validate_dynamic_config("log.retention.ms", "5"), Ok(()));
        for (name, value, reason) in [
            (
                "message.max.bytes",
                "x",
                "message.max.bytes=x: must be a whole number from 0 to 16777216",
            ),
            ("num.partitions", "2", "Cannot update these configs dynamically: [num.partitions]"),
            (
                "log.retention.hours",
                "2",
                "Cannot update these configs dynamically: [log.retention.hours]",
            ),
        ] {
            assert_eq!(validate_dynamic_config(name, value), Err(reason.to_owned()));
        }
    }

    #[test]
    fn the_brokers_defaults_are_the_topics() {
        assert!(ROWS.is_sorted_by_key(|row| row.name));
        for row in ROWS {
            assert_eq!(validate_topic_config(row.name, row.default), Ok(()), "{}", row.name);
            for broker in row.brokers {
                let Some(default) = broker.default else { continue };
                let scaled = match broker.unit {
                    1 => default.to_owned(),
                    unit => (default.parse::<i64>().expect("a number") * unit).to_string(),
                };
                assert_eq!(scaled, row.default, "{}", broker.name);
            }
            assert!(
                row.brokers.is_empty() || row.brokers.last().is_some_and(|b| b.default.is_some())
            );
        }
    }
}
