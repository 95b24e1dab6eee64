//! The settings a broker runs with, put together from what was written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::groups::GroupSettings;
use super::known;
use super::properties::Assignment;
use super::table::{Draft, Listener, ROWS};
use super::topic::{self, TopicConfig};
use super::value::list;
use super::{ConfigError, nearest};
use crate::base::limits::CORES_MAX;
use crate::model::ids::NodeId;

/// What defaults depend on, asked of the machine by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Cores this process may use, at least 1.
    pub cores: usize,
    /// Bytes of memory this process may use.
    pub memory_bytes: u64,
    /// Its name, advertised when nothing better is known.
    pub hostname: String,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The settings of one broker. See [`ROWS`] for what each does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `node.id`.
    pub node_id: NodeId,
    /// `listeners`: where to bind. An empty host is every interface; port 0 is
    /// one that the kernel chooses.
    pub listener: Endpoint,
    /// `advertised.listeners`: where clients are told to go. Port 0 is the one
    /// that was bound.
    pub advertised: Endpoint,
    /// `log.dirs`.
    pub log_dir: PathBuf,
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `socket.request.max.bytes`.
    pub request_max_bytes: usize,
    /// `fetch.max.bytes`.
    pub fetch_max_bytes: usize,
    /// `max.incremental.fetch.session.cache.slots`, of all cores together.
    pub fetch_session_slots: usize,
    /// `producer.id.expiration.ms`.
    pub producer_expiration: Duration,
    /// `log.retention.check.interval.ms`.
    pub retention_check: Duration,
    /// `log.cleaner.enable`.
    pub cleaner_enable: bool,
    /// `log.cleaner.backoff.ms`.
    pub cleaner_backoff: Duration,
    /// `log.cleaner.io.max.bytes.per.second`, of all cores together, at least 1; `None`
    /// for any.
    pub cleaner_rate: Option<u64>,
    /// `log.cleaner.io.buffer.size`, bytes of one read and of one write.
    pub cleaner_buffer: usize,
    /// `connections.max.idle.ms`, `None` for never.
    pub connections_max_idle: Option<Duration>,
    /// `group.*`, `offset.*` and `offsets.*`.
    pub groups: GroupSettings,
    /// `corelane.cores`.
    pub cores: u16,
    /// `corelane.memory`, bytes.
    pub memory: u64,
    /// `corelane.memory.huge.pages`.
    pub huge_pages: bool,
    /// `corelane.journal.bytes`, of one file of one core; 0 for no journal.
    pub journal_bytes: u64,
    /// `message.max.bytes`, `log.segment.bytes` and the other defaults of topics.
    pub topics: TopicConfig,
    /// What was written, by the setting's own name.
    pub written: BTreeMap<String, String>,
    /// `corelane.admin.listener`, `None` for nowhere. An empty host is every
    /// interface; port 0 is one that the kernel chooses.
    pub admin_listener: Option<Endpoint>,
}

impl Settings {
    /// Puts settings together; of two assignments to one key the later wins.
    /// Also returns warnings, one line each.
    pub fn resolve(
        assignments: &[Assignment],
        machine: &Machine,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let mut warnings = Vec::new();
        for Assignment { origin, key, value } in assignments {
            let is_row = ROWS.iter().any(|row| row.name == key || row.synonym == Some(key));
            if is_row || topic::broker_row(key).is_some() {
                continue;
            }
            if !known::is_known(key) {
                let names = ROWS.iter().map(|row| row.name).chain(topic::broker_names());
                let names = names.chain(known::KEYS.iter().copied());
                let nearest = nearest(key, names);
                return Err(ConfigError(format!(
                    "{origin}: {key}={value}: unknown setting; the nearest known one is {nearest}"
                )));
            }
            check_quorum(key, value)
                .map_err(|allowed| ConfigError(format!("{origin}: {key}={value}: {allowed}")))?;
            warnings.push(format!("{origin}: {key} is a Kafka setting that has no effect here"));
        }

        let mut draft = Draft::defaults();
        let last = |name| assignments.iter().rev().find(|assignment| assignment.key == name);
        let mut written = BTreeMap::new();
        for row in ROWS {
            let Some(set) = last(row.name).or_else(|| last(row.synonym?)) else {
                continue;
            };
            (row.set)(&mut draft, &set.value).map_err(|allowed| {
                ConfigError(format!("{}: {}={}: {allowed}", set.origin, set.key, set.value))
            })?;
            written.insert(row.name.to_owned(), set.value.clone());
        }
        let mut topics = TopicConfig::default();
        for name in topic::broker_names() {
            let Some(set) = last(name) else { continue };
            written.insert(name.to_owned(), set.value.clone());
            topics = TopicConfig::default()
                .with_broker(&written)
                .map_err(|reason| ConfigError(format!("{}: {reason}", set.origin)))?;
        }
        let settings = Settings { topics, written, ..draft.finish(machine, &mut warnings)? };
        Ok((settings, warnings))
    }
}

/// Settings that would start something else than they promise.
fn check_quorum(key: &str, value: &str) -> Result<(), &'static str> {
    match key {
        "process.roles" if !list(value).any(|role| role == "broker") => {
            Err("must have the role broker")
        }
        "controller.quorum.voters" | "controller.quorum.bootstrap.servers"
            if list(value).count() > 1 =>
        {
            Err("a quorum of more than one node is not supported yet")
        }
        _ => Ok(()),
    }
}

impl Draft {
    fn finish(
        self,
        machine: &Machine,
        warnings: &mut Vec<String>,
    ) -> Result<Settings, ConfigError> {
        let is_controller =
            |listener: &Listener| self.controller_listener_names.contains(&listener.name);
        for listener in self.listeners.iter().filter(|listener| is_controller(listener)) {
            warnings.push(format!(
                "listeners: {} is a controller listener, which is not opened",
                listener.name
            ));
        }
        let listener = only(
            "listeners",
            self.listeners.iter().filter(|listener| !is_controller(listener)),
        )?
        .ok_or_else(|| ConfigError("listeners: must have a PLAINTEXT listener".to_owned()))?;
        let advertised = only(
            "advertised.listeners",
            self.advertised_listeners.iter().filter(|listener| !is_controller(listener)),
        )?
        .unwrap_or_else(|| listener.clone());
        let advertised = match advertised.host.as_str() {
            "" => Endpoint { host: machine.hostname.clone(), ..advertised },
            "0.0.0.0" | "::" => {
                return Err(ConfigError(format!(
                    "advertised.listeners: clients cannot connect to {}; set advertised.listeners \
                     to PLAINTEXT://<name of this host>:{}",
                    advertised.host, advertised.port
                )));
            }
            _ => advertised,
        };
        let consumer = &self.groups.consumer;
        // `GroupCoordinatorConfig.java`.
        for (name, least, value, most) in [
            (
                "heartbeat.interval.ms",
                consumer.min_heartbeat_interval_ms,
                consumer.heartbeat_interval_ms,
                consumer.max_heartbeat_interval_ms,
            ),
            (
                "session.timeout.ms",
                consumer.min_session_timeout_ms,
                consumer.session_timeout_ms,
                consumer.max_session_timeout_ms,
            ),
        ] {
            let bound = if value < least {
                "greater than or equal to group.consumer.min"
            } else if value > most {
                "less than or equal to group.consumer.max"
            } else {
                continue;
            };
            return Err(ConfigError(format!(
                "group.consumer.{name}={value}: must be {bound}.{name}"
            )));
        }
        if consumer.heartbeat_interval_ms >= consumer.session_timeout_ms {
            return Err(ConfigError(
                "group.consumer.heartbeat.interval.ms: must be less than \
                 group.consumer.session.timeout.ms"
                    .to_owned(),
            ));
        }
        let machine_cores =
            u16::try_from(machine.cores.clamp(1, CORES_MAX)).expect("the most cores fit 16 bits");
        let cores = self.cores.unwrap_or(machine_cores);
        if usize::from(cores) > machine.cores {
            warnings.push(format!(
                "corelane.cores={cores}: this process has {} cores, which several threads will share",
                machine.cores
            ));
        }
        Ok(Settings {
            node_id: self.node_id,
            listener,
            advertised,
            log_dir: self.log_dir,
            num_partitions: self.num_partitions,
            default_replication_factor: self.default_replication_factor,
            auto_create_topics: self.auto_create_topics,
            request_max_bytes: self.request_max_bytes,
            fetch_max_bytes: self.fetch_max_bytes,
            fetch_session_slots: self.fetch_session_slots,
            producer_expiration: self.producer_expiration,
            retention_check: self.retention_check,
            cleaner_enable: self.cleaner_enable,
            cleaner_backoff: self.cleaner_backoff,
            cleaner_rate: self.cleaner_rate,
            cleaner_buffer: self.cleaner_buffer,
            connections_max_idle: self.connections_max_idle,
            groups: self.groups,
            cores,
            memory: self.memory.unwrap_or(machine.memory_bytes / 2),
            huge_pages: self.huge_pages,
            journal_bytes: self.journal_bytes,
            topics: TopicConfig::default(),
            written: BTreeMap::new(),
            admin_listener: self.admin_listener,
        })
    }
}

/// The one plaintext listener of `key`, if any is there.
fn only<'a>(
    key: &str,
    mut listeners: impl Iterator<Item = &'a Listener>,
) -> Result<Option<Endpoint>, ConfigError> {
    let Some(listener) = listeners.next() else {
        return Ok(None);
    };
    if listener.name != "PLAINTEXT" {
        return Err(ConfigError(format!(
            "{key}: {}://{}:{}: only PLAINTEXT is supported yet",
            listener.name, listener.host, listener.port
        )));
    }
    if let Some(second) = listeners.next() {
        return Err(ConfigError(format!(
            "{key}: {}://{}:{}: more than one listener is not supported yet",
            second.name, second.host, second.port
        )));
    }
    Ok(Some(Endpoint { host: listener.host.clone(), port: listener.port }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Assignor, ConsumerSettings, Migration, properties};

    fn machine() -> Machine {
        Machine { cores: 4, memory_bytes: 16 << 30, hostname: "box".to_owned() }
    }

    fn resolve(pairs: &[(&str, &str)]) -> Result<(Settings, Vec<String>), String> {
        let assignments: Vec<_> = pairs
            .iter()
            .map(|(key, value)| Assignment {
                origin: "--set".to_owned(),
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect();
        Settings::resolve(&assignments, &machine()).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults() {
        let (settings, warnings) = resolve(&[]).expect("defaults");
        let local = Endpoint { host: "127.0.0.1".to_owned(), port: 9092 };
        assert_eq!(
            settings,
            Settings {
                node_id: NodeId(1),
                listener: local.clone(),
                advertised: local,
                log_dir: PathBuf::from("./corelane-data"),
                num_partitions: 1,
                default_replication_factor: 1,
                auto_create_topics: true,
                request_max_bytes: 104_857_600,
                fetch_max_bytes: 57_671_680,
                fetch_session_slots: 1000,
                producer_expiration: Duration::from_secs(86_400),
                retention_check: Duration::from_secs(300),
                cleaner_enable: true,
                cleaner_backoff: Duration::from_secs(15),
                cleaner_rate: None,
                cleaner_buffer: 512 << 10,
                connections_max_idle: Some(Duration::from_secs(600)),
                groups: GroupSettings {
                    min_session_timeout_ms: 6_000,
                    max_session_timeout_ms: 1_800_000,
                    initial_rebalance_delay_ms: 3_000,
                    max_size: i32::MAX as usize,
                    offset_metadata_max_bytes: 4_096,
                    offsets_retention_ms: 7 * 24 * 3_600_000,
                    expiry_check: Duration::from_secs(600),
                    topic_partitions: 50,
                    topic_replication_factor: 3,
                    topic_segment_bytes: 100 << 20,
                    consumer: ConsumerSettings {
                        session_timeout_ms: 45_000,
                        min_session_timeout_ms: 45_000,
                        max_session_timeout_ms: 60_000,
                        heartbeat_interval_ms: 5_000,
                        min_heartbeat_interval_ms: 5_000,
                        max_heartbeat_interval_ms: 15_000,
                        max_size: i32::MAX as usize,
                        assignors: vec![Assignor::Uniform, Assignor::Range],
                        migration: Migration::Bidirectional,
                    },
                },
                cores: 4,
                memory: 8 << 30,
                huge_pages: false,
                journal_bytes: 32 << 20,
                topics: TopicConfig::default(),
                written: BTreeMap::new(),
                admin_listener: Some(Endpoint { host: "127.0.0.1".to_owned(), port: 9190 }),
            }
        );
        assert_eq!(warnings, [""; 0]);
    }

    /// The settings in Kafka 4's config/server.properties, in its order.
    const STOCK: &str = "\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/tmp/kraft-combined-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
#log.flush.interval.messages=10000
#log.flush.interval.ms=1000
log.retention.hours=168
#log.retention.bytes=1073741824
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
";

    #[test]
    fn kafkas_stock_file_starts() {
        let assignments = properties::parse("server.properties", STOCK).expect("syntax");
        let (settings, warnings) = Settings::resolve(&assignments, &machine()).expect("starts");
        assert_eq!(settings.listener, Endpoint { host: String::new(), port: 9092 });
        assert_eq!(settings.advertised, Endpoint { host: "localhost".to_owned(), port: 9092 });
        assert_eq!(settings.log_dir, PathBuf::from("/tmp/kraft-combined-logs"));
        let has = |line: &str| warnings.iter().any(|warning| warning == line);
        assert!(has(
            "server.properties:1: process.roles is a Kafka setting that has no effect here"
        ));
        assert!(has("listeners: CONTROLLER is a controller listener, which is not opened"));
        assert!(!warnings.iter().any(|warning| warning.contains("log.segment.bytes")));

        // The older stock file names voters instead.
        let older = STOCK.replace("bootstrap.servers=", "voters=1@");
        let assignments = properties::parse("server.properties", &older).expect("syntax");
        assert!(Settings::resolve(&assignments, &machine()).is_ok());
    }

    #[test]
    fn overrides_and_synonyms() {
        let (settings, _) = resolve(&[
            ("node.id", "7"),
            ("broker.id", "8"),
            ("log.dir", "/data"),
            ("num.partitions", "3"),
            ("num.partitions", "5"),
            ("corelane.memory", "512m"),
            ("corelane.cores", "2"),
            ("connections.max.idle.ms", "-1"),
            ("log.flush.interval.ms", "1000"),
            ("listeners", "plaintext://[::1]:0"),
        ])
        .expect("good");
        assert_eq!((settings.node_id, settings.num_partitions), (NodeId(7), 5));
        assert_eq!(settings.log_dir, PathBuf::from("/data"));
        assert_eq!((settings.memory, settings.cores), (512 << 20, 2));
        assert_eq!((settings.connections_max_idle, settings.topics.flush_ms), (None, Some(1000)));
        assert_eq!(settings.written["node.id"], "7");
        assert_eq!(settings.written["num.partitions"], "5");
        assert_eq!(settings.listener, Endpoint { host: "::1".to_owned(), port: 0 });
        let (settings, _) = resolve(&[("listeners", "PLAINTEXT://:9092")]).expect("good");
        assert_eq!(settings.advertised.host, "box");
        let (_, warnings) = resolve(&[("corelane.cores", "8")]).expect("good");
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn errors_are_one_line_with_key_value_and_what_is_allowed() {
        let cases = [
            ("num.partitions", "abc", "must be a whole number from 1 to 10000"),
            ("num.partitions", "0", "must be a whole number from 1 to 10000"),
            ("auto.create.topics.enable", "yes", "must be true or false"),
            ("corelane.memory", "8gb", "must be a size of at least 64 MiB, such as 512m or 8g"),
            ("corelane.cores", "none", "must be a whole number from 1 to 256, or all"),
            ("log.dirs", "/a,/b", "more than one directory is not supported yet"),
            ("log.dirs", "", "must name a directory"),
            ("listeners", "localhost:9092", "must be a list of NAME://host:port"),
            ("listeners", "PLAINTEXT://h:99999", "must have a port from 0 to 65535"),
            ("process.roles", "controller", "must have the role broker"),
            (
                "controller.quorum.voters",
                "1@a:1,2@b:1,3@c:1",
                "a quorum of more than one node is not supported yet",
            ),
            ("log.retention.hours", "x", "must be a whole number from -1 to 2147483647"),
            ("num.partition", "1", "unknown setting; the nearest known one is num.partitions"),
            ("corelane.memroy", "1g", "unknown setting; the nearest known one is corelane.memory"),
        ];
        for (key, value, allowed) in cases {
            let error = resolve(&[(key, value)]).expect_err(key);
            assert_eq!(error, format!("--set: {key}={value}: {allowed}"));
        }
        let cases = [
            (
                "listeners",
                "SSL://h:9093",
                "listeners: SSL://h:9093: only PLAINTEXT is supported yet",
            ),
            (
                "listeners",
                "PLAINTEXT://a:1,PLAINTEXT://b:2",
                "listeners: PLAINTEXT://b:2: more than one listener is not supported yet",
            ),
            ("listeners", "CONTROLLER://:9093", "listeners: must have a PLAINTEXT listener"),
            (
                "listeners",
                "PLAINTEXT://0.0.0.0:9092",
                "advertised.listeners: clients cannot connect to 0.0.0.0; set advertised.listeners \
                 to PLAINTEXT://<name of this host>:9092",
            ),
        ];
        for (key, value, expected) in cases {
            assert_eq!(resolve(&[(key, value)]).expect_err(value), expected);
        }
    }

    #[test]
    fn no_name_is_known_twice() {
        for row in ROWS {
            assert!(!known::is_known(row.name), "{}", row.name);
            assert!(!row.doc.is_empty());
        }
        for row in topic::ROWS {
            for broker in row.brokers {
                let known = known::is_known(broker.name);
                assert_eq!(known, !row.is_acted_on(), "{}", broker.name);
            }
        }
        assert!(known::KEYS.is_sorted_by(|a, b| a < b), "sorted without repetition");
    }
}
