//! From one image to the next: the only place where records take effect.
//!
//! Live changes, replay after a start and snapshots all come through
//! [`Image::apply`]. It is deterministic, and a batch that does not fit the
//! image is an error that changes nothing: the log and the image then disagree,
//! and whoever applies must stop.

use std::sync::Arc;

use super::image::{Change, Delta, Image, Topic};
use super::record::Record;
use crate::model::ids::{MetadataOffset, NodeId, PartitionIndex, TopicId};

/// Why a batch cannot be applied to an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A topic of this name or id is there already.
    #[error("topic {name} ({id}) is there already")]
    TopicExists {
        /// Its name.
        name: String,
        /// Its id.
        id: TopicId,
    },
    /// Producer ids would be given out twice.
    #[error("producer ids below {0} are given out already")]
    ProducerIds(i64),
    /// There is no topic to remove or to change.
    #[error("there is no topic {0}")]
    NoTopic(TopicId),
    /// A partition out of order.
    #[error("partition {index} of topic {topic} is out of order")]
    OutOfOrder {
        /// The topic.
        topic: TopicId,
        /// The partition.
        index: PartitionIndex,
    },
    /// A topic without partitions.
    #[error("topic {0} has no partitions")]
    NoPartitions(TopicId),
}

impl Image {
    /// The image at `offset` after `records`, and what is different in it.
    pub fn apply(
        &self,
        offset: MetadataOffset,
        records: &[Record],
    ) -> Result<(Image, Delta), ApplyError> {
        let mut next = self.clone();
        next.offset = offset;
        let mut delta = Delta::default();
        let mut open: Option<Open> = None;
        for record in records {
            let of_topic = match record {
                Record::Partition { topic, .. }
                | Record::Config { topic, .. }
                | Record::RemoveConfig { topic, .. } => Some(*topic),
                _ => None,
            };
            if open.as_ref().map(|open| open.topic.id) != of_topic {
                next.finish_topic(open.take(), &mut delta)?;
            }
            if let Some(id) = of_topic {
                let open = match &mut open {
                    Some(open) => open,
                    None => {
                        let topic = next.topic_by_id(id).ok_or(ApplyError::NoTopic(id))?;
                        open.insert(Open { topic: Topic::clone(topic), is_new: false })
                    }
                };
                open.topic.change(record)?;
                continue;
            }
            match record {
                Record::RegisterBroker(node) => {
                    let node = Arc::new(node.clone());
                    next.nodes.insert(node.id, node.clone());
                    delta.changes.push(Change::NodeChanged(node));
                }
                Record::Topic { name, id } => {
                    if next.topic(name).is_some() || next.topic_by_id(*id).is_some() {
                        return Err(ApplyError::TopicExists { name: name.clone(), id: *id });
                    }
                    let topic = Topic {
                        id: *id,
                        name: name.as_str().into(),
                        partitions: Vec::new(),
                        configs: Default::default(),
                    };
                    open = Some(Open { topic, is_new: true });
                }
                Record::RemoveTopic { id } => {
                    let topic = next.remove_topic(*id).ok_or(ApplyError::NoTopic(*id))?;
                    delta.changes.push(Change::TopicDeleted(topic));
                }
                Record::BrokerConfig { broker, name, value } => {
                    next.configure_broker(*broker, name, value.as_ref());
                    if delta.changes.last() != Some(&Change::BrokerConfigChanged) {
                        delta.changes.push(Change::BrokerConfigChanged);
                    }
                }
                // Groups look at the image when they need it.
                Record::GroupConfig { group, name, value } => {
                    next.configure_group(group, name, value.as_ref());
                }
                Record::ProducerIds { next: id } => {
                    if *id < next.next_producer_id {
                        return Err(ApplyError::ProducerIds(*id));
                    }
                    next.next_producer_id = *id;
                }
                Record::Partition { .. } | Record::Config { .. } | Record::RemoveConfig { .. } => {
                    unreachable!("handled above")
                }
            }
        }
        next.finish_topic(open, &mut delta)?;
        Ok((next, delta))
    }

    fn configure_broker(&mut self, broker: Option<NodeId>, name: &str, value: Option<&String>) {
        let configs = self.broker_configs.entry(broker).or_default();
        match value {
            Some(value) => configs.insert(name.to_owned(), value.clone()),
            None => configs.remove(name),
        };
        if configs.is_empty() {
            self.broker_configs.remove(&broker);
        }
    }

    fn configure_group(&mut self, group: &str, name: &str, value: Option<&String>) {
        let mut configs = self.group_configs.get(group).cloned().unwrap_or_default();
        match value {
            Some(value) => configs.insert(name.to_owned(), value.clone()),
            None => configs.remove(name),
        };
        if configs.is_empty() {
            self.group_configs.remove(group);
        } else {
            self.group_configs.insert(group.to_owned(), configs);
        }
    }

    fn finish_topic(&mut self, open: Option<Open>, delta: &mut Delta) -> Result<(), ApplyError> {
        let Some(Open { topic, is_new }) = open else { return Ok(()) };
        if topic.partitions.is_empty() {
            return Err(ApplyError::NoPartitions(topic.id));
        }
        let topic = Arc::new(topic);
        self.insert_topic(topic.clone());
        delta.changes.push(match is_new {
            true => Change::TopicCreated(topic),
            false => Change::TopicChanged(topic),
        });
        Ok(())
    }

    /// What is different in this image from `old`: for a core that missed
    /// publications, and with an empty `old` for one that has seen none.
    ///
    /// Deletions come first, so a name that moved to another topic is free
    /// before it is taken.
    pub fn changes_since(&self, old: &Image) -> Delta {
        let nodes = self.nodes.iter().filter(|(id, node)| old.nodes.get(id) != Some(node));
        let nodes = nodes.map(|(_, node)| Change::NodeChanged(node.clone()));
        let deleted = old.topics().filter(|topic| self.topic_by_id(topic.id).is_none());
        let deleted = deleted.map(|topic| Change::TopicDeleted(topic.clone()));
        let created = self.topics().filter(|topic| old.topic_by_id(topic.id).is_none());
        let created = created.map(|topic| Change::TopicCreated(topic.clone()));
        let changed = self.topics().filter(|topic| {
            let before = old.topic_by_id(topic.id);
            before.is_some_and(|before| !Arc::ptr_eq(before, topic) && before != *topic)
        });
        let changed = changed.map(|topic| Change::TopicChanged(topic.clone()));
        let configured = self.broker_configs != old.broker_configs;
        let configured = configured.then_some(Change::BrokerConfigChanged);
        let topics = deleted.chain(created).chain(changed);
        Delta { changes: nodes.chain(configured).chain(topics).collect() }
    }
}

/// A topic whose records are being applied.
struct Open {
    topic: Topic,
    is_new: bool,
}

impl Topic {
    fn change(&mut self, record: &Record) -> Result<(), ApplyError> {
        match record {
            Record::Partition { topic, index, partition } => {
                if usize::try_from(index.0) != Ok(self.partitions.len()) {
                    return Err(ApplyError::OutOfOrder { topic: *topic, index: *index });
                }
                self.partitions.push(partition.clone());
            }
            Record::Config { name, value, .. } => {
                self.configs.insert(name.clone(), value.clone());
            }
            Record::RemoveConfig { name, .. } => {
                self.configs.remove(name);
            }
            _ => unreachable!("no record of a topic that is there"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::image::{Node, Partition};
    use crate::metadata::record::records_of;
    use crate::model::ids::{CoreId, LeaderEpoch};

    fn topic(name: &str, id: u8, partitions: i32) -> Vec<Record> {
        let id = TopicId([id; 16]);
        let partition = |index| Record::Partition {
            topic: id,
            index: PartitionIndex(index),
            partition: Partition {
                core: CoreId(0),
                replicas: vec![NodeId(1)],
                isr: vec![NodeId(1)],
                leader: Some(NodeId(1)),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: 0,
            },
        };
        let mut records = vec![Record::Topic { name: name.into(), id }];
        records.extend((0..partitions).map(partition));
        records.push(Record::Config { topic: id, name: "retention.ms".into(), value: "5".into() });
        records
    }

    fn empty() -> Image {
        Image::empty("cluster".into(), NodeId(1))
    }

    fn names(delta: &Delta) -> Vec<String> {
        let name = |change: &Change| match change {
            Change::TopicCreated(topic) => format!("+{}", topic.name),
            Change::TopicDeleted(topic) => format!("-{}", topic.name),
            Change::TopicChanged(topic) => format!("~{}", topic.name),
            Change::BrokerConfigChanged => "brokers".to_owned(),
            Change::NodeChanged(node) => format!("node {}", node.id),
        };
        delta.changes.iter().map(name).collect()
    }

    #[test]
    fn an_image_grows_by_records_and_can_be_rebuilt_from_its_own() {
        let node = Node { id: NodeId(1), host: "h".into(), port: 9092, cores: 2 };
        let mut batch = vec![Record::RegisterBroker(node)];
        batch.extend(topic("a", 1, 2));
        batch.extend(topic("b", 2, 1));
        let (first, delta) = empty().apply(MetadataOffset(5), &batch).unwrap();
        assert_eq!(names(&delta), ["node 1", "+a", "+b"]);
        assert_eq!(first.topic("a").unwrap().partitions.len(), 2);
        assert_eq!(first.topic("b").unwrap().configs["retention.ms"], "5");

        let gone = [Record::RemoveTopic { id: TopicId([1; 16]) }];
        let (second, delta) = first.apply(MetadataOffset(6), &gone).unwrap();
        assert_eq!(names(&delta), ["-a"]);
        assert!(second.topic("a").is_none() && first.topic("a").is_some(), "images never change");

        let rebuilt = empty().apply(MetadataOffset(6), &records_of(&second)).unwrap().0;
        assert_eq!(rebuilt, second);
    }

    #[test]
    fn a_batch_that_does_not_fit_changes_nothing_and_says_why() {
        let image = empty().apply(MetadataOffset(2), &topic("a", 1, 1)).unwrap().0;
        let id = TopicId([9; 16]);
        let skipped = {
            let mut records = topic("b", 2, 2);
            records.remove(1);
            records
        };
        let table = [
            (topic("a", 2, 1), "topic a (AgICAgICAgICAgICAgICAg) is there already"),
            (topic("c", 1, 1), "topic c (AQEBAQEBAQEBAQEBAQEBAQ) is there already"),
            (vec![Record::RemoveTopic { id }], "there is no topic CQkJCQkJCQkJCQkJCQkJCQ"),
            (skipped, "partition 1 of topic AgICAgICAgICAgICAgICAg is out of order"),
            (topic("b", 2, 0), "topic AgICAgICAgICAgICAgICAg has no partitions"),
            (topic("b", 2, 1)[1..].to_vec(), "there is no topic AgICAgICAgICAgICAgICAg"),
        ];
        for (records, expected) in table {
            let error = image.apply(MetadataOffset(3), &records).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_core_that_missed_publications_gets_the_difference() {
        let old = empty().apply(MetadataOffset(2), &topic("a", 1, 1)).unwrap().0;
        let mut batch = vec![Record::RemoveTopic { id: TopicId([1; 16]) }];
        batch.extend(topic("a", 3, 1));
        batch.extend(topic("b", 2, 1));
        let new = old.apply(MetadataOffset(3), &batch).unwrap().0;
        assert_eq!(names(&new.changes_since(&old)), ["-a", "+a", "+b"]);
        assert_eq!(names(&new.changes_since(&new)), [""; 0]);
        assert_eq!(names(&old.changes_since(&empty())), ["+a"]);
    }

    #[test]
    fn topics_and_brokers_change_while_they_are_there() {
        let mut batch = topic("a", 1, 1);
        batch.extend(topic("b", 2, 1));
        let old = empty().apply(MetadataOffset(2), &batch).unwrap().0;
        let id = TopicId([1; 16]);
        let Record::Partition { partition, .. } = topic("a", 1, 1).remove(1) else {
            panic!("a partition follows its topic")
        };
        let set = |name: &str, value: &str| Record::Config {
            topic: id,
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let broker = |value: Option<&str>| Record::BrokerConfig {
            broker: Some(NodeId(1)),
            name: "message.max.bytes".to_owned(),
            value: value.map(str::to_owned),
        };
        let batch = [
            Record::Partition { topic: id, index: PartitionIndex(1), partition },
            set("flush.ms", "7"),
            broker(Some("5")),
            broker(Some("6")),
            Record::RemoveConfig { topic: id, name: "retention.ms".to_owned() },
        ];
        let (new, delta) = old.apply(MetadataOffset(3), &batch).unwrap();
        assert_eq!(names(&delta), ["~a", "brokers", "~a"]);
        assert_eq!(names(&new.changes_since(&old)), ["brokers", "~a"]);
        let changed = new.topic("a").unwrap();
        assert_eq!(changed.partitions.len(), 2);
        assert_eq!(changed.configs.get("flush.ms").map(String::as_str), Some("7"));
        assert_eq!(changed.configs.get("retention.ms"), None);
        assert_eq!(new.broker_config(Some(NodeId(1)))["message.max.bytes"], "6");
        let rebuilt = empty().apply(MetadataOffset(3), &records_of(&new)).unwrap().0;
        assert_eq!(rebuilt, new);
        let back = new.apply(MetadataOffset(4), &[broker(None)]).unwrap().0;
        assert!(back.broker_configs.is_empty());
    }
}
