//! Metadata records: the only thing that changes the cluster's metadata.
//!
//! The vocabulary is Kafka's (`metadata/src/main/resources/common/metadata/`),
//! the binary form is ours. A batch of records is one entry of the metadata
//! log: all of it is applied or none. The records of a new topic stand together:
//! its [`Record::Topic`], then its partitions in order, then its settings.
//! Further partitions and settings may follow at any time.
//!
//! A batch of an unknown version or with an unknown kind of record is an error,
//! and whoever meets it stops: skipping a record would let this broker's
//! metadata differ from the others'.

use super::codec::{CodecError, Decode, Encode, Reader, put_count, put_str};
use super::image::{Image, Node, Partition};
use crate::model::ids::{CoreId, LeaderEpoch, NodeId, PartitionIndex, TopicId};

/// One change of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A broker is there, or is there differently (RegisterBrokerRecord).
    RegisterBroker(Node),
    /// A topic without partitions (TopicRecord).
    Topic {
        /// Its name.
        name: String,
        /// Its id.
        id: TopicId,
    },
    /// The next partition of the topic (PartitionRecord).
    Partition {
        /// The topic.
        topic: TopicId,
        /// Its number: partitions come in order, from zero.
        index: PartitionIndex,
        /// Where it is.
        partition: Partition,
    },
    /// A setting of the topic (ConfigRecord).
    Config {
        /// The topic.
        topic: TopicId,
        /// Kafka's name of the setting.
        name: String,
        /// Its value.
        value: String,
    },
    /// The topic goes by the broker's setting again (ConfigRecord without a value).
    RemoveConfig {
        /// The topic.
        topic: TopicId,
        /// Kafka's name of the setting.
        name: String,
    },
    /// A setting of brokers while they run (ConfigRecord).
    BrokerConfig {
        /// The broker; `None` for all of them.
        broker: Option<NodeId>,
        /// Kafka's name of the setting.
        name: String,
        /// Its value; `None` for what it was without.
        value: Option<String>,
    },
    /// A setting of a group (ConfigRecord).
    GroupConfig {
        /// The group, which need not be there.
        group: String,
        /// Kafka's name of the setting.
        name: String,
        /// Its value; `None` for the broker's.
        value: Option<String>,
    },
    /// The topic is gone (RemoveTopicRecord).
    RemoveTopic {
        /// The topic.
        id: TopicId,
    },
    /// Producer ids below this one are given out (ProducerIdsRecord).
    ProducerIds {
        /// The next one to give out.
        next: i64,
    },
}

const BATCH_VERSION: u8 = 1;
const RECORD_VERSION: u8 = 1;

const REGISTER_BROKER: u8 = 1;
const TOPIC: u8 = 2;
const PARTITION: u8 = 3;
const CONFIG: u8 = 4;
const REMOVE_TOPIC: u8 = 5;
const PRODUCER_IDS: u8 = 6;
const REMOVE_CONFIG: u8 = 7;
const BROKER_CONFIG: u8 = 8;
const GROUP_CONFIG: u8 = 9;

/// Smallest form of a record: its kind, its version, a producer id.
const RECORD_MIN: usize = 10;

/// The form of `records` as one entry of the metadata log.
pub fn encode_batch(records: &[Record]) -> Vec<u8> {
    let mut out = vec![BATCH_VERSION];
    put_count(&mut out, records.len());
    for record in records {
        record.encode(&mut out);
    }
    out
}

/// Reads what [`encode_batch`] wrote. `bytes` may be anything.
pub fn decode_batch(bytes: &[u8]) -> Result<Vec<Record>, CodecError> {
    let mut from = Reader::new(bytes);
    read_version(&mut from, "a batch of metadata records", BATCH_VERSION)?;
    let count = from.count(RECORD_MIN, "the number of records")?;
    let records = (0..count).map(|_| Record::decode(&mut from)).collect::<Result<_, _>>()?;
    from.end("the end of a batch of metadata records")?;
    Ok(records)
}

/// The records that build `image` from nothing.
pub fn records_of(image: &Image) -> Vec<Record> {
    let mut records: Vec<Record> =
        image.nodes.values().map(|node| Record::RegisterBroker(Node::clone(node))).collect();
    for (broker, configs) in &image.broker_configs {
        for (name, value) in configs {
            let (name, value) = (name.clone(), Some(value.clone()));
            records.push(Record::BrokerConfig { broker: *broker, name, value });
        }
    }
    for (group, configs) in &image.group_configs {
        for (name, value) in configs {
            let (name, value) = (name.clone(), Some(value.clone()));
            records.push(Record::GroupConfig { group: group.clone(), name, value });
        }
    }
    for topic in image.topics() {
        records.push(Record::Topic { name: topic.name.to_string(), id: topic.id });
        for (index, partition) in (0..).zip(&topic.partitions) {
            let partition = partition.clone();
            records.push(Record::Partition {
                topic: topic.id,
                index: PartitionIndex(index),
                partition,
            });
        }
        for (name, value) in &topic.configs {
            let (name, value) = (name.clone(), value.clone());
            records.push(Record::Config { topic: topic.id, name, value });
        }
    }
    if image.next_producer_id > 0 {
        records.push(Record::ProducerIds { next: image.next_producer_id });
    }
    records
}

/// Bytes that `records` take in a batch.
pub fn encoded_len(records: &[Record]) -> usize {
    records.iter().map(Record::len).sum::<usize>() + 5
}

impl Record {
    /// Bytes of the record's form.
    fn len(&self) -> usize {
        2 + match self {
            Self::RegisterBroker(node) => 4 + 4 + node.host.len() + 2 + 2,
            Self::Topic { name, .. } => 4 + name.len() + 16,
            Self::Partition { partition, .. } => partition_len(partition),
            Self::Config { name, value, .. } => 16 + 8 + name.len() + value.len(),
            Self::RemoveConfig { name, .. } => 16 + 4 + name.len(),
            Self::BrokerConfig { name, value, .. } => {
                4 + 4 + name.len() + 1 + value.as_ref().map_or(0, |value| 4 + value.len())
            }
            Self::GroupConfig { group, name, value } => {
                let value = value.as_ref().map_or(0, |value| 4 + value.len());
                4 + group.len() + 4 + name.len() + 1 + value
            }
            Self::RemoveTopic { .. } => 16,
            Self::ProducerIds { .. } => 8,
        }
    }
}

fn partition_len(partition: &Partition) -> usize {
    16 + 4 + 2 + 4 + 4 + 4 + 8 + 4 * (partition.replicas.len() + partition.isr.len())
}

/// Bytes that the topics and settings of `image` take in a snapshot.
pub fn topics_len(image: &Image) -> usize {
    let topic_len = |topic: &super::image::Topic| {
        let partitions: usize = topic.partitions.iter().map(|p| 2 + partition_len(p)).sum();
        let configs: usize = topic.configs.iter().map(|(k, v)| 26 + k.len() + v.len()).sum();
        22 + topic.name.len() + partitions + configs
    };
    let broker_configs = image.broker_configs.values().flatten();
    let broker_configs: usize = broker_configs.map(|(k, v)| 15 + k.len() + v.len()).sum();
    let of_group = |(group, configs): (&String, &std::collections::BTreeMap<String, String>)| {
        configs.iter().map(|(k, v)| 15 + group.len() + k.len() + v.len()).sum::<usize>()
    };
    let group_configs: usize = image.group_configs.iter().map(of_group).sum();
    let topics: usize = image.topics().map(|topic| topic_len(topic)).sum();
    topics + broker_configs + group_configs
}

fn read_version(from: &mut Reader<'_>, what: &'static str, newest: u8) -> Result<(), CodecError> {
    match from.u8(what)? {
        version if version == newest => Ok(()),
        version => Err(CodecError::Version { what, version, newest }),
    }
}

fn put_nodes(out: &mut Vec<u8>, nodes: &[NodeId]) {
    put_count(out, nodes.len());
    for node in nodes {
        out.extend_from_slice(&node.0.to_le_bytes());
    }
}

fn read_nodes(from: &mut Reader<'_>, what: &'static str) -> Result<Vec<NodeId>, CodecError> {
    let count = from.count(4, what)?;
    (0..count).map(|_| from.i32(what).map(NodeId)).collect()
}

/// In a record of a broker's setting, all brokers.
const ALL_BROKERS: i32 = -1;

/// In a partition record, the leader of a partition that has none (Kafka's `NO_LEADER`).
const NO_LEADER: i32 = -1;

impl Encode for Record {
    fn encode(&self, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, kind| out.extend_from_slice(&[kind, RECORD_VERSION]);
        match self {
            Self::RegisterBroker(node) => {
                head(out, REGISTER_BROKER);
                out.extend_from_slice(&node.id.0.to_le_bytes());
                put_str(out, &node.host);
                out.extend_from_slice(&node.port.to_le_bytes());
                out.extend_from_slice(&node.cores.to_le_bytes());
            }
            Self::Topic { name, id } => {
                head(out, TOPIC);
                put_str(out, name);
                out.extend_from_slice(&id.0);
            }
            Self::Partition { topic, index, partition } => {
                head(out, PARTITION);
                out.extend_from_slice(&topic.0);
                out.extend_from_slice(&index.0.to_le_bytes());
                out.extend_from_slice(&partition.core.0.to_le_bytes());
                let leader = partition.leader.map_or(NO_LEADER, |node| node.0);
                out.extend_from_slice(&leader.to_le_bytes());
                out.extend_from_slice(&partition.leader_epoch.0.to_le_bytes());
                out.extend_from_slice(&partition.partition_epoch.to_le_bytes());
                put_nodes(out, &partition.replicas);
                put_nodes(out, &partition.isr);
            }
            Self::Config { topic, name, value } => {
                head(out, CONFIG);
                out.extend_from_slice(&topic.0);
                put_str(out, name);
                put_str(out, value);
            }
            Self::RemoveConfig { topic, name } => {
                head(out, REMOVE_CONFIG);
                out.extend_from_slice(&topic.0);
                put_str(out, name);
            }
            Self::BrokerConfig { broker, name, value } => {
                head(out, BROKER_CONFIG);
                let broker = broker.map_or(ALL_BROKERS, |broker| broker.0);
                out.extend_from_slice(&broker.to_le_bytes());
                put_str(out, name);
                put_value(out, value.as_ref());
            }
            Self::GroupConfig { group, name, value } => {
                head(out, GROUP_CONFIG);
                put_str(out, group);
                put_str(out, name);
                put_value(out, value.as_ref());
            }
            Self::RemoveTopic { id } => {
                head(out, REMOVE_TOPIC);
                out.extend_from_slice(&id.0);
            }
            Self::ProducerIds { next } => {
                head(out, PRODUCER_IDS);
                out.extend_from_slice(&next.to_le_bytes());
            }
        }
    }
}

impl Decode for Record {
    fn decode(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let kind = from.u8("the kind of a record")?;
        if !(REGISTER_BROKER..=GROUP_CONFIG).contains(&kind) {
            return Err(CodecError::Kind(kind));
        }
        read_version(from, "a metadata record", RECORD_VERSION)?;
        Ok(match kind {
            REGISTER_BROKER => Self::RegisterBroker(Node {
                id: NodeId(from.i32("a broker's id")?),
                host: from.str("a broker's host")?.into(),
                port: from.u16("a broker's port")?,
                cores: from.u16("a broker's cores")?,
            }),
            TOPIC => Self::Topic {
                name: from.str("a topic's name")?.to_owned(),
                id: read_topic_id(from)?,
            },
            PARTITION => Self::Partition {
                topic: read_topic_id(from)?,
                index: PartitionIndex(from.i32("a partition's number")?),
                partition: read_partition(from)?,
            },
            CONFIG => Self::Config {
                topic: read_topic_id(from)?,
                name: from.str("a setting's name")?.to_owned(),
                value: from.str("a setting's value")?.to_owned(),
            },
            REMOVE_TOPIC => Self::RemoveTopic { id: read_topic_id(from)? },
            REMOVE_CONFIG => Self::RemoveConfig {
                topic: read_topic_id(from)?,
                name: from.str("a setting's name")?.to_owned(),
            },
            BROKER_CONFIG => Self::BrokerConfig {
                broker: match from.i32("a setting's broker")? {
                    ALL_BROKERS => None,
                    node if node < 0 => return Err(CodecError::Malformed("a setting's broker")),
                    node => Some(NodeId(node)),
                },
                name: from.str("a setting's name")?.to_owned(),
                value: read_value(from)?,
            },
            GROUP_CONFIG => Self::GroupConfig {
                group: from.str("a setting's group")?.to_owned(),
                name: from.str("a setting's name")?.to_owned(),
                value: read_value(from)?,
            },
            PRODUCER_IDS => Self::ProducerIds { next: from.i64("a producer id")? },
            kind => return Err(CodecError::Kind(kind)),
        })
    }
}

fn put_value(out: &mut Vec<u8>, value: Option<&String>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put_str(out, value);
    }
}

fn read_value(from: &mut Reader<'_>) -> Result<Option<String>, CodecError> {
    match from.u8("whether a setting has a value")? {
        0 => Ok(None),
        1 => Ok(Some(from.str("a setting's value")?.to_owned())),
        _ => Err(CodecError::Malformed("whether a setting has a value")),
    }
}

fn read_topic_id(from: &mut Reader<'_>) -> Result<TopicId, CodecError> {
    from.bytes16("a topic's id").map(TopicId)
}

fn read_partition(from: &mut Reader<'_>) -> Result<Partition, CodecError> {
    let core = CoreId(from.u16("a partition's core")?);
    let leader = match from.i32("a partition's leader")? {
        NO_LEADER => None,
        node if node < 0 => return Err(CodecError::Malformed("a partition's leader")),
        node => Some(NodeId(node)),
    };
    Ok(Partition {
        core,
        leader,
        leader_epoch: LeaderEpoch(from.i32("a partition's leader epoch")?),
        partition_epoch: from.i32("a partition's epoch")?,
        replicas: read_nodes(from, "a partition's replicas")?,
        isr: read_nodes(from, "a partition's in-sync replicas")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn samples() -> Vec<Record> {
        let id = TopicId([7; 16]);
        let partition = Partition {
            core: CoreId(3),
            replicas: vec![NodeId(1), NodeId(2)],
            isr: vec![NodeId(1)],
            leader: Some(NodeId(1)),
            leader_epoch: LeaderEpoch(4),
            partition_epoch: 9,
        };
        let headless = Partition { leader: None, isr: vec![], ..partition.clone() };
        vec![
            Record::RegisterBroker(Node {
                id: NodeId(1),
                host: "broker.example".into(),
                port: 9092,
                cores: 4,
            }),
            Record::Topic { name: "orders".into(), id },
            Record::Partition { topic: id, index: PartitionIndex(0), partition },
            Record::Partition { topic: id, index: PartitionIndex(1), partition: headless },
            Record::Config { topic: id, name: "retention.ms".into(), value: "1000".into() },
            Record::RemoveConfig { topic: id, name: "retention.ms".into() },
            Record::BrokerConfig {
                broker: None,
                name: "log.retention.ms".into(),
                value: Some("5".into()),
            },
            Record::BrokerConfig { broker: Some(NodeId(1)), name: "a".into(), value: None },
            Record::GroupConfig { group: "g".into(), name: "a".into(), value: Some("b".into()) },
            Record::GroupConfig { group: String::new(), name: "a".into(), value: None },
            Record::RemoveTopic { id },
        ]
    }

    #[test]
    fn every_record_comes_back_as_it_was_and_has_the_length_it_says() {
        for records in [samples(), vec![], samples()[1..3].to_vec()] {
            let bytes = encode_batch(&records);
            assert_eq!(bytes.len(), encoded_len(&records));
            assert_eq!(decode_batch(&bytes), Ok(records));
        }
    }

    #[test]
    fn what_is_not_known_is_refused_and_never_skipped() {
        let mut later = encode_batch(&samples());
        later[0] = 2;
        assert!(matches!(decode_batch(&later), Err(CodecError::Version { version: 2, .. })));
        let mut kind = encode_batch(&samples());
        kind[5] = 200;
        assert_eq!(decode_batch(&kind), Err(CodecError::Kind(200)));
        let mut version = encode_batch(&samples());
        version[6] = 9;
        assert!(matches!(decode_batch(&version), Err(CodecError::Version { version: 9, .. })));
        let mut longer = encode_batch(&samples());
        longer.push(0);
        assert!(matches!(decode_batch(&longer), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn hostile_bytes_are_errors_and_cost_nothing() {
        let whole = encode_batch(&samples());
        for len in 0..whole.len() {
            assert!(decode_batch(&whole[..len]).is_err(), "cut at {len}");
        }
        let mut rng = Rng::stream(1, "hostile records");
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..rng.between(1, 6) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = rng.next_u64() as u8;
            }
            bytes.truncate(rng.between(0, whole.len() as u64) as usize);
            // Whatever decodes must be exactly what those bytes say.
            if let Ok(records) = decode_batch(&bytes) {
                assert_eq!(encode_batch(&records), bytes);
            }
        }
        let count = [1, 0xff, 0xff, 0xff, 0xff];
        assert!(decode_batch(&count).is_err(), "a huge count reserves nothing");
    }
}
