//! Settings as DescribeConfigs shows them: each with its value, where it comes
//! from, and what else would count (`ConfigHelper.scala`, KIP-226).
//!
//! From strongest to weakest: the topic's or the group's own, this broker's dynamic one, the
//! cluster's dynamic one, what was written at the start, the default.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::groups::GROUP_ROWS;
use super::settings::Settings;
use super::table::{self, Kind};
use super::topic::{self, BrokerRow, TopicConfig, TopicRow};

/// Where a value comes from (`DescribeConfigsResponse.ConfigSource`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    /// Set for the topic.
    Topic = 1,
    /// Set for this broker while it runs.
    DynamicBroker = 2,
    /// Set for all brokers while they run.
    DynamicDefault = 3,
    /// Written at the start.
    Static = 4,
    /// Nobody has set it.
    Default = 5,
    /// Set for the group.
    Group = 8,
}

/// One setting of a topic or of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'static str,
    /// Its value; `None` if it has none.
    pub value: Option<Cow<'a, str>>,
    /// Where that comes from.
    pub source: Source,
    /// Whether it cannot be changed while the broker runs.
    pub read_only: bool,
    /// What it is.
    pub kind: Kind,
    /// What it does.
    pub doc: &'static str,
    /// All that was set or is a default, the one that counts first.
    pub synonyms: Vec<Synonym<'a>>,
}

/// A value that counts, or would if those before it were not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synonym<'a> {
    /// The setting it is of.
    pub name: &'static str,
    /// The value.
    pub value: &'a str,
    /// Where it comes from.
    pub source: Source,
}

/// What was set for brokers.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// What this broker was started with.
    pub settings: &'a Settings,
    /// What was set for all brokers while they run.
    pub cluster: &'a BTreeMap<String, String>,
    /// What was set for this broker while it runs.
    pub broker: &'a BTreeMap<String, String>,
}

impl<'a> Layers<'a> {
    /// What a topic without settings of its own goes by.
    ///
    /// # Errors
    /// A dynamic value that is wrong: one line for people.
    pub fn topic_defaults(self) -> Result<TopicConfig, String> {
        self.settings.topics.with_broker(self.cluster)?.with_broker(self.broker)
    }

    /// All settings of a topic that has set `own`.
    pub fn topic(self, own: &'a BTreeMap<String, String>) -> impl Iterator<Item = Entry<'a>> {
        topic::ROWS.iter().map(move |row| {
            let mut synonyms = self.of_brokers(row.is_acted_on(), row.brokers);
            let mut value = value(row, &synonyms);
            if let Some(text) = own.get(row.name) {
                let synonym = Synonym { name: row.name, value: text, source: Source::Topic };
                synonyms.insert(0, synonym);
                value = Cow::Borrowed(text);
            }
            Entry {
                name: row.name,
                value: Some(value),
                source: source(&synonyms),
                read_only: false,
                kind: row.kind,
                doc: row.doc,
                synonyms,
            }
        })
    }

    /// All settings of this broker.
    pub fn broker(self) -> impl Iterator<Item = Entry<'a>> {
        let written = &self.settings.written;
        let fixed = table::ROWS.iter().map(move |row| {
            let set = written.get(row.name);
            let set = set.map(|text| (row.name, text.as_str(), Source::Static));
            let default = (row.name, row.default, Source::Default);
            let values = set.into_iter().chain([default]);
            let synonyms: Vec<Synonym<'a>> =
                values.map(|(name, value, source)| Synonym { name, value, source }).collect();
            Entry {
                name: row.name,
                value: Some(Cow::Borrowed(synonyms[0].value)),
                source: source(&synonyms),
                read_only: true,
                kind: row.kind,
                doc: row.doc,
                synonyms,
            }
        });
        let brokers = topic::ROWS.iter().flat_map(move |row| {
            row.brokers.iter().map(move |broker| {
                let synonyms = self.of_brokers(row.is_acted_on(), row.brokers);
                let own = synonyms.iter().find(|synonym| synonym.name == broker.name);
                Entry {
                    name: broker.name,
                    value: own.map(|own| Cow::Borrowed(own.value)),
                    source: source(&synonyms),
                    read_only: !is_dynamic(row, broker),
                    kind: row.kind,
                    doc: row.doc,
                    synonyms,
                }
            })
        });
        fixed.chain(brokers)
    }

    /// All settings of a group that has set `own`.
    pub fn group(self, own: &'a BTreeMap<String, String>) -> impl Iterator<Item = Entry<'a>> {
        let written = &self.settings.written;
        GROUP_ROWS.iter().map(move |row| {
            let broker = table::ROWS.iter().find(|broker| broker.name == row.broker);
            let broker = broker.expect("every setting of groups has one of the broker");
            let layers = [
                (row.name, own.get(row.name).map(String::as_str), Source::Group),
                (row.broker, written.get(row.broker).map(String::as_str), Source::Static),
                (row.broker, Some(broker.default), Source::Default),
            ];
            let set = layers
                .into_iter()
                .filter_map(|(name, value, source)| Some(Synonym { name, value: value?, source }));
            let synonyms: Vec<Synonym<'a>> = set.collect();
            Entry {
                name: row.name,
                value: Some(Cow::Borrowed(synonyms[0].value)),
                source: source(&synonyms),
                read_only: false,
                kind: row.kind,
                doc: row.doc,
                synonyms,
            }
        })
    }

    /// What is set for all brokers while they run.
    pub fn cluster(self) -> impl Iterator<Item = Entry<'a>> {
        let cluster = self.cluster;
        cluster.iter().filter_map(|(name, value)| {
            let (row, broker) = topic::broker_row(name)?;
            let source = Source::DynamicDefault;
            Some(Entry {
                name: broker.name,
                value: Some(Cow::Borrowed(value)),
                source,
                read_only: false,
                kind: row.kind,
                doc: row.doc,
                synonyms: vec![Synonym { name: broker.name, value, source }],
            })
        })
    }

    /// What is set of `brokers`, strongest first. What is not acted on is as it
    /// is, whatever was written.
    fn of_brokers(&self, acted_on: bool, brokers: &'static [BrokerRow]) -> Vec<Synonym<'a>> {
        let Self { settings, cluster, broker } = *self;
        let layers = [
            (broker, Source::DynamicBroker),
            (cluster, Source::DynamicDefault),
            (&settings.written, Source::Static),
        ];
        let layers = layers.into_iter().filter(|_| acted_on);
        let mut found = vec![];
        for (values, source) in layers {
            let set = brokers.iter().filter_map(|row| Some((row.name, values.get(row.name)?)));
            found.extend(set.map(|(name, value)| Synonym { name, value, source }));
        }
        let defaults = brokers.iter().filter_map(|row| Some((row.name, row.default?)));
        found.extend(defaults.map(|(name, value)| Synonym {
            name,
            value,
            source: Source::Default,
        }));
        found
    }
}

fn is_dynamic(row: &TopicRow, broker: &BrokerRow) -> bool {
    row.is_acted_on() && broker.unit == 1
}

fn source(synonyms: &[Synonym<'_>]) -> Source {
    synonyms.first().map_or(Source::Default, |first| first.source)
}

/// What a topic setting is by those of the broker.
fn value<'a>(row: &TopicRow, synonyms: &[Synonym<'a>]) -> Cow<'a, str> {
    let Some(first) = synonyms.first() else { return Cow::Borrowed(row.default) };
    let unit = row.brokers.iter().find(|broker| broker.name == first.name);
    let unit = unit.map_or(1, |broker| broker.unit);
    match first.value.trim().parse::<i64>() {
        // -1 is Kafka's "never", whatever the unit.
        Ok(count) if unit != 1 && count >= 0 => Cow::Owned((count * unit).to_string()),
        _ => Cow::Borrowed(first.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Assignment, Machine};

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let machine = Machine { cores: 1, memory_bytes: 1 << 30, hostname: "box".to_owned() };
        let written = pairs.iter().map(|(key, value)| Assignment {
            origin: "test".to_owned(),
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        });
        Settings::resolve(&written.collect::<Vec<_>>(), &machine).expect("good").0
    }

    /// `name=value source: synonyms`.
    fn line(entry: &Entry<'_>) -> String {
        let synonyms = entry.synonyms.iter().map(|s| format!(" {}={}", s.name, s.value));
        let value = entry.value.as_deref().unwrap_or("none");
        format!("{}={value} {:?}:{}", entry.name, entry.source, synonyms.collect::<String>())
    }

    #[test]
    fn where_the_values_of_a_topic_come_from() {
        let settings = settings(&[("log.retention.hours", "2"), ("message.max.bytes", "2000")]);
        let cluster = values(&[("message.max.bytes", "3000"), ("log.segment.bytes", "2097152")]);
        let broker = values(&[("message.max.bytes", "4000")]);
        let own = values(&[("flush.messages", "7")]);
        let layers = Layers { settings: &settings, cluster: &cluster, broker: &broker };
        let lines: Vec<String> = layers.topic(&own).map(|entry| line(&entry)).collect();
        for expected in [
            "cleanup.policy=delete Default: log.cleanup.policy=delete",
            "flush.messages=7 Topic: flush.messages=7 log.flush.interval.messages=1",
            "max.message.bytes=4000 DynamicBroker: message.max.bytes=4000 message.max.bytes=3000 \
             message.max.bytes=2000 message.max.bytes=1048588",
            "remote.storage.enable=false Default:",
            "retention.ms=7200000 Static: log.retention.hours=2 log.retention.hours=168",
            "segment.bytes=2097152 DynamicDefault: log.segment.bytes=2097152 \
             log.segment.bytes=1073741824",
            "segment.ms=604800000 Default: log.roll.hours=168",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}\n{lines:#?}");
        }
        let config = layers.topic_defaults().expect("good");
        assert_eq!((config.max_message_bytes, config.segment_bytes), (4000, 2 << 20));
        assert_eq!(config.retention_ms, Some(7_200_000));
    }

    #[test]
    fn a_brokers_settings_and_what_can_be_changed() {
        let settings = settings(&[("broker.id", "4"), ("log.preallocate", "false")]);
        let (cluster, broker) = (values(&[("log.retention.ms", "9")]), values(&[]));
        let layers = Layers { settings: &settings, cluster: &cluster, broker: &broker };
        let entries: Vec<_> = layers.broker().collect();
        let find = |name| entries.iter().find(|entry| entry.name == name).expect(name);
        assert_eq!(line(find("node.id")), "node.id=4 Static: node.id=4 node.id=1");
        assert_eq!(
            line(find("log.retention.ms")),
            "log.retention.ms=9 DynamicDefault: log.retention.ms=9 log.retention.hours=168"
        );
        assert!(line(find("log.retention.minutes")).starts_with("log.retention.minutes=none "));
        // What is not acted on is shown as it is.
        assert!(line(find("log.preallocate")).starts_with("log.preallocate=true Default"));
        for (name, read_only) in [
            ("node.id", true),
            ("log.retention.ms", false),
            ("log.retention.hours", true),
            ("log.cleanup.policy", false),
            ("log.preallocate", true),
            ("message.max.bytes", false),
        ] {
            assert_eq!(find(name).read_only, read_only, "{name}");
        }
        let names: std::collections::BTreeSet<_> = entries.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), entries.len(), "no name comes twice");
        let cluster: Vec<String> = layers.cluster().map(|entry| line(&entry)).collect();
        assert_eq!(cluster, ["log.retention.ms=9 DynamicDefault: log.retention.ms=9"]);
    }
}
