//! The cluster's metadata at one position of its log, immutable and shared.
//!
//! Images share what did not change between them, so publishing one to every
//! core costs a reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use crate::model::ids::{
    CoreId, LeaderEpoch, MetadataOffset, NodeId, PartitionIndex, TopicId, TopicName,
};

/// All metadata at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The position.
    pub offset: MetadataOffset,
    /// `cluster.id`.
    pub cluster_id: Arc<str>,
    /// The active controller.
    pub controller: NodeId,
    /// The next producer id to give out; ids are never given out twice.
    pub next_producer_id: i64,
    /// Brokers by id.
    pub nodes: BTreeMap<NodeId, Arc<Node>>,
    /// Settings of brokers that were made while they run, by Kafka's names; those
    /// of `None` are for all brokers.
    pub broker_configs: BTreeMap<Option<NodeId>, BTreeMap<String, String>>,
    /// Settings of groups, by Kafka's names.
    pub group_configs: OrdMap<String, BTreeMap<String, String>>,
    topics: OrdMap<TopicName, Arc<Topic>>,
    names: OrdMap<TopicId, TopicName>,
}

/// A broker as clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `node.id`.
    pub id: NodeId,
    /// Advertised host.
    pub host: Arc<str>,
    /// Advertised port.
    pub port: u16,
    /// Cores that partitions are spread over.
    pub cores: u16,
}

/// A topic and its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// Partitions by index.
    pub partitions: Vec<Partition>,
    /// Settings that differ from the broker's defaults, by Kafka's names.
    pub configs: BTreeMap<String, String>,
}

/// One partition's placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The core that owns it on every replica; a broker with fewer cores takes it modulo.
    pub core: CoreId,
    /// The replicas, the preferred leader first.
    pub replicas: Vec<NodeId>,
    /// In-sync replicas.
    pub isr: Vec<NodeId>,
    /// The leader, if there is one.
    pub leader: Option<NodeId>,
    /// Counts leaders.
    pub leader_epoch: LeaderEpoch,
    /// Counts changes of any kind.
    pub partition_epoch: i32,
}

/// What changed from one image to the next, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// The changes.
    pub changes: Vec<Change>,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A topic that was not there before.
    TopicCreated(Arc<Topic>),
    /// A topic that is gone; what it was.
    TopicDeleted(Arc<Topic>),
    /// A topic that has more partitions or other settings than before.
    TopicChanged(Arc<Topic>),
    /// Settings of brokers changed.
    BrokerConfigChanged,
    /// A broker registered, or its registration changed.
    NodeChanged(Arc<Node>),
}

impl Image {
    /// A cluster with neither topics nor brokers.
    pub fn empty(cluster_id: Arc<str>, controller: NodeId) -> Self {
        Self {
            offset: MetadataOffset(0),
            cluster_id,
            controller,
            next_producer_id: 0,
            nodes: BTreeMap::new(),
            broker_configs: BTreeMap::new(),
            group_configs: OrdMap::new(),
            topics: OrdMap::new(),
            names: OrdMap::new(),
        }
    }

    /// The topic called `name`.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// The topic with this id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(&id)?)
    }

    /// All topics by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// The topics by name from behind this one on.
    pub fn topics_after(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<Topic>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = name.map_or(Unbounded, Excluded);
        self.topics.range::<_, str>((from, Unbounded)).map(|(_, topic)| topic)
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// What was set for `broker` while it runs, or with `None` for all brokers.
    pub fn broker_config(&self, broker: Option<NodeId>) -> &BTreeMap<String, String> {
        const NOTHING: &BTreeMap<String, String> = &BTreeMap::new();
        self.broker_configs.get(&broker).unwrap_or(NOTHING)
    }

    /// What was set for `group`.
    pub fn group_config(&self, group: &str) -> &BTreeMap<String, String> {
        const NOTHING: &BTreeMap<String, String> = &BTreeMap::new();
        self.group_configs.get(group).unwrap_or(NOTHING)
    }

    /// Adds `topic` or replaces the one of its name.
    pub fn insert_topic(&mut self, topic: Arc<Topic>) {
        if let Some(old) = self.topics.insert(topic.name.clone(), topic.clone()) {
            self.names.remove(&old.id);
        }
        self.names.insert(topic.id, topic.name.clone());
    }

    /// Removes the topic with this id and returns it.
    pub fn remove_topic(&mut self, id: TopicId) -> Option<Arc<Topic>> {
        self.topics.remove(&self.names.remove(&id)?)
    }
}

impl Topic {
    /// The partition numbered `index`.
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index.0).ok()?)
    }

    /// Whether Kafka keeps this topic for itself (`Topic.isInternal`).
    pub fn is_internal(&self) -> bool {
        matches!(&*self.name, "__consumer_offsets" | "__transaction_state")
    }
}

impl Partition {
    /// The owning core on a broker with `cores` cores.
    pub fn core_of(&self, cores: u16) -> CoreId {
        CoreId(self.core.0 % cores.max(1))
    }
}
