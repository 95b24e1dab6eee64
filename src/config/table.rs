//! The settings that have an effect: one row each. Those that are defaults of
//! topics are in [`topic`](super::topic).
//!
//! None of these can be changed while the broker runs.

use std::path::PathBuf;
use std::time::Duration;

use super::groups::{Assignor, GroupSettings, Migration};
use super::settings::Endpoint;
use super::value::{boolean, endpoint, list, number, size};
use crate::base::limits::{
    CORES_MAX, JOURNAL_BYTES_MAX, MESSAGE_BYTES_MAX, PARTITIONS_PER_TOPIC_MAX,
};
use crate::model::ids::NodeId;

/// What a setting is (Kafka's `ConfigDef.Type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Kafka's own")]
pub enum Kind {
    Boolean,
    String,
    Int,
    Short,
    Long,
    Double,
    List,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Kafka's name; ours alone start with `corelane.`.
    pub name: &'static str,
    /// Another name of Kafka's for the same setting; the first one wins.
    pub synonym: Option<&'static str>,
    /// What Kafka says it is.
    pub kind: Kind,
    /// The default, as it would be written.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// Reads a value; the error says what is allowed.
    pub(super) set: fn(&mut Draft, &str) -> Result<(), String>,
}

/// Settings one by one, before those that depend on each other are put together.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub node_id: NodeId,
    pub listeners: Vec<Listener>,
    pub advertised_listeners: Vec<Listener>,
    pub controller_listener_names: Vec<String>,
    pub log_dir: PathBuf,
    pub num_partitions: i32,
    pub default_replication_factor: i16,
    pub auto_create_topics: bool,
    pub request_max_bytes: usize,
    pub fetch_max_bytes: usize,
    pub fetch_session_slots: usize,
    pub producer_expiration: Duration,
    pub retention_check: Duration,
    pub cleaner_enable: bool,
    pub cleaner_backoff: Duration,
    pub cleaner_rate: Option<u64>,
    pub cleaner_buffer: usize,
    pub connections_max_idle: Option<Duration>,
    pub groups: GroupSettings,
    pub cores: Option<u16>,
    pub memory: Option<u64>,
    pub huge_pages: bool,
    pub journal_bytes: u64,
    pub admin_listener: Option<Endpoint>,
}

/// `NAME://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub name: String,
    pub host: String,
    pub port: u16,
}

/// Segments below this size are refused, as Kafka does.
pub(super) const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// Positions in a segment are 32 bits with a sign.
pub(super) const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;
/// Kafka has no limit; this one bounds a mistake.
const SESSIONS_MAX: usize = 1_000_000;
/// Less memory than this starts no core.
const MEMORY_MIN: u64 = 64 << 20;

/// Every row, in the order they are documented.
pub const ROWS: &[Row] = &[
    Row {
        name: "node.id",
        synonym: Some("broker.id"),
        kind: Kind::Int,
        default: "1",
        doc: "Identity of this broker in its cluster.",
        set: |draft, text| store(&mut draft.node_id, number(text, 0..=i32::MAX).map(NodeId)),
    },
    Row {
        name: "listeners",
        synonym: None,
        kind: Kind::List,
        default: "PLAINTEXT://127.0.0.1:9092",
        doc: "Where clients are accepted. Only PLAINTEXT; an empty host is every interface.",
        set: |draft, text| store(&mut draft.listeners, listeners(text)),
    },
    Row {
        name: "advertised.listeners",
        synonym: None,
        kind: Kind::List,
        default: "",
        doc: "Where clients are told to go; empty for the same as listeners.",
        set: |draft, text| store(&mut draft.advertised_listeners, listeners(text)),
    },
    Row {
        name: "controller.listener.names",
        synonym: None,
        kind: Kind::List,
        default: "CONTROLLER",
        doc: "Names in listeners that are Kafka's controller listeners; they are not opened.",
        set: |draft, text| {
            draft.controller_listener_names = list(text).map(str::to_owned).collect();
            Ok(())
        },
    },
    Row {
        name: "log.dirs",
        synonym: Some("log.dir"),
        kind: Kind::List,
        default: "./corelane-data",
        doc: "Where the data lies. More than one directory is not supported yet.",
        set: |draft, text| {
            let mut dirs = list(text);
            match (dirs.next(), dirs.next()) {
                (Some(dir), None) => store(&mut draft.log_dir, Ok(PathBuf::from(dir))),
                (None, _) => Err("must name a directory".to_owned()),
                (_, Some(_)) => Err("more than one directory is not supported yet".to_owned()),
            }
        },
    },
    Row {
        name: "num.partitions",
        synonym: None,
        kind: Kind::Int,
        default: "1",
        doc: "Partitions of a topic that is created without saying how many.",
        set: |draft, text| {
            store(&mut draft.num_partitions, number(text, 1..=PARTITIONS_PER_TOPIC_MAX))
        },
    },
    Row {
        name: "default.replication.factor",
        synonym: None,
        kind: Kind::Int,
        default: "1",
        doc: "Replicas of a topic that is created without saying how many.",
        set: |draft, text| store(&mut draft.default_replication_factor, number(text, 1..=i16::MAX)),
    },
    Row {
        name: "auto.create.topics.enable",
        synonym: None,
        kind: Kind::Boolean,
        default: "true",
        doc: "Whether asking for the metadata of a topic creates it.",
        set: |draft, text| store(&mut draft.auto_create_topics, boolean(text)),
    },
    Row {
        name: "socket.request.max.bytes",
        synonym: None,
        kind: Kind::Int,
        default: "104857600",
        doc: "Largest request.",
        set: |draft, text| {
            store(&mut draft.request_max_bytes, number(text, 1 << 10..=i32::MAX as usize))
        },
    },
    Row {
        name: "fetch.max.bytes",
        synonym: None,
        kind: Kind::Int,
        default: "57671680",
        doc: "Most bytes one fetch answer carries, whatever the client asks for.",
        set: |draft, text| {
            store(&mut draft.fetch_max_bytes, number(text, 1024..=i32::MAX as usize))
        },
    },
    Row {
        name: "max.incremental.fetch.session.cache.slots",
        synonym: None,
        kind: Kind::Int,
        default: "1000",
        doc: "Fetch sessions that are kept (KIP-227), split by core; 0 for none.",
        set: |draft, text| store(&mut draft.fetch_session_slots, number(text, 0..=SESSIONS_MAX)),
    },
    Row {
        name: "producer.id.expiration.ms",
        synonym: None,
        kind: Kind::Int,
        default: "86400000",
        doc: "An idempotent producer that has written nothing for so long is forgotten.",
        set: |draft, text| {
            let expiration = number(text, 1..=i32::MAX as u64).map(Duration::from_millis);
            store(&mut draft.producer_expiration, expiration)
        },
    },
    Row {
        name: "log.cleaner.enable",
        synonym: None,
        kind: Kind::Boolean,
        default: "true",
        doc: "Whether logs are compacted.",
        set: |draft, text| store(&mut draft.cleaner_enable, boolean(text)),
    },
    Row {
        name: "log.cleaner.io.max.bytes.per.second",
        synonym: None,
        kind: Kind::Double,
        default: "1.7976931348623157E308",
        doc: "Bytes that compaction reads and writes each second at most, on all cores together.",
        set: |draft, text| store(&mut draft.cleaner_rate, rate(text)),
    },
    Row {
        name: "log.cleaner.io.buffer.size",
        synonym: None,
        kind: Kind::Int,
        default: "524288",
        doc: "Bytes that compaction reads, and writes, at a time.",
        set: |draft, text| store(&mut draft.cleaner_buffer, number(text, 0..=i32::MAX as usize)),
    },
    Row {
        name: "log.cleaner.backoff.ms",
        synonym: None,
        kind: Kind::Long,
        default: "15000",
        doc: "How often logs are looked through for something to compact.",
        set: |draft, text| {
            let every = number(text, 0..=i64::MAX as u64);
            // There is always a moment between two looks.
            store(&mut draft.cleaner_backoff, every.map(|ms| Duration::from_millis(ms.max(1))))
        },
    },
    Row {
        name: "log.retention.check.interval.ms",
        synonym: None,
        kind: Kind::Long,
        default: "300000",
        doc: "How often logs are looked through for records that need not be kept.",
        set: |draft, text| {
            let every = number(text, 1..=i64::MAX as u64).map(Duration::from_millis);
            store(&mut draft.retention_check, every)
        },
    },
    Row {
        name: "connections.max.idle.ms",
        synonym: None,
        kind: Kind::Long,
        default: "600000",
        doc: "Time after which a silent connection is closed; -1 for never.",
        set: |draft, text| {
            let idle = number(text, -1..=i64::MAX)
                .map(|ms| u64::try_from(ms).ok().map(Duration::from_millis));
            store(&mut draft.connections_max_idle, idle)
        },
    },
    Row {
        name: "group.initial.rebalance.delay.ms",
        synonym: None,
        kind: Kind::Long,
        default: "3000",
        doc: "How long the first rebalance of an empty group waits for more members.",
        set: |draft, text| {
            store(&mut draft.groups.initial_rebalance_delay_ms, number(text, 0..=i32::MAX))
        },
    },
    Row {
        name: "group.min.session.timeout.ms",
        synonym: None,
        kind: Kind::Long,
        default: "6000",
        doc: "Shortest session timeout that a member of a group may ask for.",
        set: |draft, text| {
            store(&mut draft.groups.min_session_timeout_ms, number(text, 0..=i32::MAX))
        },
    },
    Row {
        name: "group.max.session.timeout.ms",
        synonym: None,
        kind: Kind::Long,
        default: "1800000",
        doc: "Longest session timeout that a member of a group may ask for.",
        set: |draft, text| {
            store(&mut draft.groups.max_session_timeout_ms, number(text, 0..=i32::MAX))
        },
    },
    Row {
        name: "group.max.size",
        synonym: None,
        kind: Kind::Int,
        default: "2147483647",
        doc: "Members that a group may have.",
        set: |draft, text| store(&mut draft.groups.max_size, number(text, 1..=i32::MAX as usize)),
    },
    Row {
        name: "group.consumer.session.timeout.ms",
        synonym: None,
        kind: Kind::Int,
        default: "45000",
        doc: "How long a member of the consumer protocol may be silent.",
        set: |draft, text| {
            store(&mut draft.groups.consumer.session_timeout_ms, number(text, 1..=i32::MAX))
        },
    },
    Row {
        name: "group.consumer.heartbeat.interval.ms",
        synonym: None,
        kind: Kind::Int,
        default: "5000",
        doc: "How often a member of the consumer protocol gives a sign of life.",
        set: |draft, text| {
            store(&mut draft.groups.consumer.heartbeat_interval_ms, number(text, 1..=i32::MAX))
        },
    },
    Row {
        name: "group.consumer.min.session.timeout.ms",
        synonym: None,
        kind: Kind::Int,
        default: "45000",
        doc: "Shortest session timeout that groups of the consumer protocol may have.",
        set: |draft, text| {
            store(&mut draft.groups.consumer.min_session_timeout_ms, number(text, 1..=i32::MAX))
        },
    },
    Row {
        name: "group.consumer.max.session.timeout.ms",
        synonym: None,
        kind: Kind::Int,
        default: "60000",
        doc: "Longest session timeout that groups of the consumer protocol may have.",
        set: |draft, text| {
            store(&mut draft.groups.consumer.max_session_timeout_ms, number(text, 1..=i32::MAX))
        },
    },
    Row {
        name: "group.consumer.min.heartbeat.interval.ms",
        synonym: None,
        kind: Kind::Int,
        default: "5000",
        doc: "Shortest heartbeat interval that groups of the consumer protocol may have.",
        set: |draft, text| {
            store(&mut draft.groups.consumer.min_heartbeat_interval_ms, number(text, 1..=i32::MAX))
        },
    },
    Row {
        name: "group.consumer.max.heartbeat.interval.ms",
        synonym: None,
        kind: Kind::Int,
        default: "15000",
        doc: "Longest heartbeat interval that groups of the consumer protocol may have.",
        set: |draft, text| {
            store(&mut draft.groups.consumer.max_heartbeat_interval_ms, number(text, 1..=i32::MAX))
        },
    },
    Row {
        name: "group.consumer.max.size",
        synonym: None,
        kind: Kind::Int,
        default: "2147483647",
        doc: "Members that a group of the consumer protocol may have.",
        set: |draft, text| {
            store(&mut draft.groups.consumer.max_size, number(text, 1..=i32::MAX as usize))
        },
    },
    Row {
        name: "group.consumer.assignors",
        synonym: None,
        kind: Kind::List,
        default: "uniform,range",
        doc: "Assignors of the consumer protocol; the first is the default.",
        set: |draft, text| {
            let assignors: Result<Vec<Assignor>, String> =
                list(text).map(Assignor::parse).collect();
            let assignors = assignors.and_then(|assignors| match assignors[..] {
                [] => Err("must not be empty".to_owned()),
                _ => Ok(assignors),
            });
            store(&mut draft.groups.consumer.assignors, assignors)
        },
    },
    Row {
        name: "group.consumer.migration.policy",
        synonym: None,
        kind: Kind::String,
        default: "bidirectional",
        doc: "Which groups with members may change between the classic and the consumer protocol.",
        set: |draft, text| store(&mut draft.groups.consumer.migration, Migration::parse(text)),
    },
    Row {
        name: "offset.metadata.max.bytes",
        synonym: None,
        kind: Kind::Int,
        default: "4096",
        doc: "Longest text that may be committed with an offset.",
        set: |draft, text| {
            store(&mut draft.groups.offset_metadata_max_bytes, number(text, 0..=i16::MAX as usize))
        },
    },
    Row {
        name: "offsets.retention.minutes",
        synonym: None,
        kind: Kind::Int,
        default: "10080",
        doc: "How long the offsets of a group are kept after its last member has left.",
        set: |draft, text| {
            store(
                &mut draft.groups.offsets_retention_ms,
                number(text, 1..=i32::MAX).map(|minutes| i64::from(minutes) * 60_000),
            )
        },
    },
    Row {
        name: "offsets.retention.check.interval.ms",
        synonym: None,
        kind: Kind::Long,
        default: "600000",
        doc: "How often expired offsets are looked for.",
        set: |draft, text| {
            store(
                &mut draft.groups.expiry_check,
                number(text, 1..=i64::MAX as u64).map(Duration::from_millis),
            )
        },
    },
    Row {
        name: "offsets.topic.num.partitions",
        synonym: None,
        kind: Kind::Int,
        default: "50",
        doc: "Partitions of __consumer_offsets, when it is created.",
        set: |draft, text| {
            store(&mut draft.groups.topic_partitions, number(text, 1..=PARTITIONS_PER_TOPIC_MAX))
        },
    },
    Row {
        name: "offsets.topic.replication.factor",
        synonym: None,
        kind: Kind::Int,
        default: "3",
        doc: "Replicas of __consumer_offsets, when it is created; no more than there are brokers.",
        set: |draft, text| {
            store(&mut draft.groups.topic_replication_factor, number(text, 1..=i16::MAX))
        },
    },
    Row {
        name: "offsets.topic.segment.bytes",
        synonym: None,
        kind: Kind::Int,
        default: "104857600",
        doc: "Size of the segments of __consumer_offsets, when it is created.",
        set: |draft, text| {
            store(
                &mut draft.groups.topic_segment_bytes,
                number(text, SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX),
            )
        },
    },
    Row {
        name: "corelane.cores",
        synonym: None,
        kind: Kind::String,
        default: "all",
        doc: "Cores that serve partitions, one pinned thread each.",
        set: |draft, text| {
            draft.cores = if text.eq_ignore_ascii_case("all") {
                None
            } else {
                let cores = number(text, 1..=CORES_MAX as u16);
                Some(cores.map_err(|allowed| format!("{allowed}, or all"))?)
            };
            Ok(())
        },
    },
    Row {
        name: "corelane.memory",
        synonym: None,
        kind: Kind::String,
        default: "",
        doc: "Memory for pages, buffers and tables, split by core; empty for half of the machine's.",
        set: |draft, text| {
            draft.memory = if text.is_empty() { None } else { Some(size(text, MEMORY_MIN)?) };
            Ok(())
        },
    },
    Row {
        name: "corelane.memory.huge.pages",
        synonym: None,
        kind: Kind::Boolean,
        default: "false",
        doc: "Whether the memory of logs is asked for in huge pages of 2 MiB: for a machine of its own; where a host takes back what a virtual machine does not use, each takes long to get.",
        set: |draft, text| store(&mut draft.huge_pages, boolean(text)),
    },
    Row {
        name: "corelane.journal.bytes",
        synonym: None,
        kind: Kind::String,
        default: "32m",
        doc: "One of the two files of the journal that each core makes when small batches come to many partitions at once, so that they share one write and one sync; 0 for none. At most 64m.",
        set: |draft, text| {
            let bytes = size(text, 0)?;
            if bytes > JOURNAL_BYTES_MAX {
                return Err("must be at most 64m".to_owned());
            }
            draft.journal_bytes = bytes;
            Ok(())
        },
    },
    Row {
        name: "corelane.admin.listener",
        synonym: None,
        kind: Kind::String,
        default: "127.0.0.1:9190",
        doc: "Where /health and /metrics are served by HTTP; empty for nowhere.",
        set: |draft, text| {
            draft.admin_listener = if text.is_empty() { None } else { Some(endpoint(text)?) };
            Ok(())
        },
    },
];

impl Draft {
    /// Every setting at its default.
    pub fn defaults() -> Self {
        let mut draft = Self {
            node_id: NodeId(0),
            listeners: Vec::new(),
            advertised_listeners: Vec::new(),
            controller_listener_names: Vec::new(),
            log_dir: PathBuf::new(),
            num_partitions: 0,
            default_replication_factor: 0,
            auto_create_topics: false,
            request_max_bytes: 0,
            fetch_max_bytes: 0,
            fetch_session_slots: 0,
            producer_expiration: Duration::ZERO,
            retention_check: Duration::ZERO,
            cleaner_enable: false,
            cleaner_backoff: Duration::ZERO,
            cleaner_rate: None,
            cleaner_buffer: 0,
            connections_max_idle: None,
            groups: GroupSettings::default(),
            cores: None,
            memory: None,
            huge_pages: false,
            journal_bytes: 0,
            admin_listener: None,
        };
        for row in ROWS {
            (row.set)(&mut draft, row.default).expect("a default is allowed");
        }
        draft
    }
}

/// Puts a value that was read in its place.
pub(super) fn store<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

pub(super) fn message_bytes(text: &str) -> Result<usize, String> {
    number(text, 0..=MESSAGE_BYTES_MAX)
}

pub(super) fn segment_bytes(text: &str) -> Result<u64, String> {
    number(text, SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX)
}

pub(super) fn flush_messages(text: &str) -> Result<u64, String> {
    number(text, 1..=i64::MAX as u64)
}

/// Kafka's largest number is its "never".
pub(super) fn milliseconds(text: &str) -> Result<Option<u64>, String> {
    let ms = number(text, 0..=i64::MAX as u64)?;
    Ok((ms != i64::MAX as u64).then_some(ms))
}

/// Bytes a second, as a floating-point number; so many that none is ever held up are
/// `None`.
fn rate(text: &str) -> Result<Option<u64>, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate >= 1.0 => Ok((rate < 1e15).then_some(rate as u64)),
        _ => Err("must be a number of at least 1".to_owned()),
    }
}

fn listeners(text: &str) -> Result<Vec<Listener>, String> {
    const ALLOWED: &str = "must be a list of NAME://host:port";
    list(text)
        .map(|entry| {
            let (name, address) = entry.split_once("://").ok_or(ALLOWED)?;
            let (host, port) = address.rsplit_once(':').ok_or(ALLOWED)?;
            let host = match host.strip_prefix('[') {
                Some(inner) => inner.strip_suffix(']').ok_or(ALLOWED)?,
                None if host.contains([':', '/']) => {
                    return Err(
                        "must have IPv6 addresses in brackets: NAME://[::1]:9092".to_owned()
                    );
                }
                None => host,
            };
            let port = port.parse().map_err(|_| "must have a port from 0 to 65535".to_owned())?;
            let name = name.to_ascii_uppercase();
            Ok(Listener { name, host: host.to_owned(), port })
        })
        .collect()
}
