//! Settings of one topic (Kafka's `TopicConfig.java`).
//!
//! A setting that Kafka has and corelane does not act on is refused when a topic
//! is created or altered, unless its value is what happens anyway: a topic never
//! promises what it does not keep.

use std::collections::BTreeMap;

use super::nearest;
use super::settings::Settings;
use super::table::{flush_messages, message_bytes, milliseconds, segment_bytes, store};

/// What a log goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `max.message.bytes`: largest record batch.
    pub max_message_bytes: usize,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `flush.messages`: 1 means that acknowledgements wait for the sync.
    pub flush_messages: u64,
    /// `flush.ms`, `None` for never.
    pub flush_ms: Option<u64>,
}

struct Row {
    name: &'static str,
    set: fn(&mut TopicConfig, &str) -> Result<(), String>,
}

const ROWS: &[Row] = &[
    Row {
        name: "max.message.bytes",
        set: |config, text| store(&mut config.max_message_bytes, message_bytes(text)),
    },
    Row {
        name: "segment.bytes",
        set: |config, text| store(&mut config.segment_bytes, segment_bytes(text)),
    },
    Row {
        name: "flush.messages",
        set: |config, text| store(&mut config.flush_messages, flush_messages(text)),
    },
    Row { name: "flush.ms", set: |config, text| store(&mut config.flush_ms, milliseconds(text)) },
];

/// Kafka's other settings with the values that are what happens anyway.
const FIXED: &[(&str, &[&str])] = &[
    ("cleanup.policy", &["delete"]),
    ("compression.gzip.level", &["-1"]),
    ("compression.lz4.level", &["9"]),
    ("compression.type", &["producer"]),
    ("compression.zstd.level", &["3"]),
    ("delete.retention.ms", &["86400000"]),
    ("file.delete.delay.ms", &[]),
    ("follower.replication.throttled.replicas", &[""]),
    ("index.interval.bytes", &["32768"]),
    ("leader.replication.throttled.replicas", &[""]),
    ("local.retention.bytes", &["-2"]),
    ("local.retention.ms", &["-2"]),
    ("max.compaction.lag.ms", &["9223372036854775807"]),
    ("message.timestamp.after.max.ms", &["9223372036854775807"]),
    ("message.timestamp.before.max.ms", &["9223372036854775807"]),
    ("message.timestamp.type", &["CreateTime"]),
    ("min.cleanable.dirty.ratio", &["0.5"]),
    ("min.compaction.lag.ms", &["0"]),
    ("min.insync.replicas", &["1"]),
    ("preallocate", &["true"]),
    ("remote.log.copy.disable", &["false"]),
    ("remote.log.delete.on.disable", &["false"]),
    ("remote.storage.enable", &["false"]),
    ("retention.bytes", &["-1"]),
    ("retention.ms", &["-1"]),
    ("segment.index.bytes", &["10485760"]),
    ("segment.jitter.ms", &["0"]),
    ("segment.ms", &["9223372036854775807"]),
    ("unclean.leader.election.enable", &["false"]),
];

/// What the broker's own topics are set to; they grow until there is a cleaner.
pub const COMPACTED: (&str, &str) = ("cleanup.policy", "compact");

const _: () = assert!(crate::base::limits::INDEX_INTERVAL_BYTES == 32_768);

impl TopicConfig {
    /// The broker's settings as defaults of its topics.
    pub fn defaults(settings: &Settings) -> Self {
        Self {
            max_message_bytes: settings.message_max_bytes,
            segment_bytes: settings.segment_bytes,
            flush_messages: settings.flush_messages,
            flush_ms: settings.flush_ms,
        }
    }

    /// The defaults with a topic's own settings.
    ///
    /// # Errors
    /// What [`validate_topic_config`] says of the first one that is wrong.
    pub fn resolve(
        settings: &Settings,
        overrides: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let mut config = Self::defaults(settings);
        for (name, value) in overrides {
            // Only topics that the broker makes for itself have it.
            if (name.as_str(), value.as_str()) != COMPACTED {
                config.set(name, value)?;
            }
        }
        Ok(config)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        if let Some(row) = ROWS.iter().find(|row| row.name == name) {
            return (row.set)(self, value.trim())
                .map_err(|allowed| format!("{name}={value}: {allowed}"));
        }
        let Some((_, fixed)) = FIXED.iter().find(|(known, _)| *known == name) else {
            let names = ROWS.iter().map(|row| row.name).chain(FIXED.iter().map(|(name, _)| *name));
            let nearest = nearest(name, names);
            return Err(format!(
                "{name}={value}: unknown topic setting; the nearest known one is {nearest}"
            ));
        };
        if fixed.iter().any(|fixed| fixed.eq_ignore_ascii_case(value.trim())) {
            Ok(())
        } else if let [only] = fixed {
            Err(format!("{name}={value}: not supported yet; the only value is '{only}'"))
        } else {
            Err(format!("{name}={value}: not supported yet"))
        }
    }
}

/// Whether a topic may be created with this setting; the error, one line for
/// people, goes out with INVALID_CONFIG.
pub fn validate_topic_config(name: &str, value: &str) -> Result<(), String> {
    let mut config =
        TopicConfig { max_message_bytes: 0, segment_bytes: 0, flush_messages: 1, flush_ms: None };
    config.set(name, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Machine;

    fn settings() -> Settings {
        let machine = Machine { cores: 1, memory_bytes: 1 << 30, hostname: "box".to_owned() };
        Settings::resolve(&[], &machine).expect("defaults").0
    }

    #[test]
    fn a_topic_has_the_brokers_settings_unless_it_has_its_own() {
        let settings = settings();
        let overrides = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let plain = TopicConfig::resolve(&settings, &overrides(&[])).expect("good");
        assert_eq!(plain, TopicConfig::defaults(&settings));
        assert_eq!((plain.max_message_bytes, plain.flush_messages), (1_048_588, 1));
        let own = overrides(&[
            ("max.message.bytes", "2000"),
            ("segment.bytes", "1048576"),
            ("flush.messages", "9223372036854775807"),
            ("flush.ms", "500"),
            ("cleanup.policy", "delete"),
        ]);
        assert_eq!(
            TopicConfig::resolve(&settings, &own),
            Ok(TopicConfig {
                max_message_bytes: 2000,
                segment_bytes: 1 << 20,
                flush_messages: i64::MAX as u64,
                flush_ms: Some(500),
            })
        );
    }

    #[test]
    fn what_is_refused_and_why() {
        let cases = [
            ("flush.messages", "0", "must be a whole number from 1 to 9223372036854775807"),
            ("segment.bytes", "100", "must be a whole number from 1048576 to 2147483647"),
            ("cleanup.policy", "compact", "not supported yet; the only value is 'delete'"),
            ("retention.ms", "1000", "not supported yet; the only value is '-1'"),
            ("file.delete.delay.ms", "60000", "not supported yet"),
            ("retention.mss", "1", "unknown topic setting; the nearest known one is retention.ms"),
        ];
        for (name, value, reason) in cases {
            let error = validate_topic_config(name, value).expect_err(name);
            assert_eq!(error, format!("{name}={value}: {reason}"));
        }
        for (name, value) in [("retention.ms", "-1"), ("message.timestamp.type", "CreateTime")] {
            assert_eq!(validate_topic_config(name, value), Ok(()));
        }
    }
}
