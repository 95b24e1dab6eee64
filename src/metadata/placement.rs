//! Where new partitions go: which brokers hold them, and on which core.
//!
//! Functions over the image and what was deleted lately, so a controller that is
//! asked twice answers the same. Nothing here moves a partition that exists.

use std::collections::BTreeMap;

use super::image::{Image, Node, Topic};
use crate::base::limits::FORMER_PARTITIONS_MAX;
use crate::model::ids::{CoreId, NodeId, PartitionIndex, TopicName};

/// Partitions per core of one broker, for placing more of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreLoad {
    partitions: Vec<usize>,
}

impl CoreLoad {
    /// How many partitions each of `node`'s cores holds in `image`.
    pub fn of(image: &Image, node: &Node) -> Self {
        let cores = node.cores.max(1);
        let mut partitions = vec![0; usize::from(cores)];
        for partition in image.topics().flat_map(|topic| &topic.partitions) {
            if partition.replicas.contains(&node.id) {
                partitions[usize::from(partition.core_of(cores).0)] += 1;
            }
        }
        Self { partitions }
    }

    /// The core for one more partition, which is counted: the one with the
    /// fewest, of those the lowest.
    pub fn place(&mut self) -> CoreId {
        let (core, count) = (0..)
            .zip(&mut self.partitions)
            .min_by_key(|(_, count)| **count)
            .expect("a broker has at least one core");
        *count += 1;
        CoreId(core)
    }

    /// Counts one more partition on `core`.
    pub fn place_on(&mut self, core: CoreId) {
        let cores = self.partitions.len();
        self.partitions[usize::from(core.0) % cores] += 1;
    }
}

/// The cores of partitions that were deleted, by their names.
///
/// A partition's directory is called by its name, not its id. So a new partition
/// goes to the core that had the last one of its name: that core may still be
/// removing the directory, and does one after the other. What was deleted longest
/// ago is forgotten when there is too much.
#[derive(Clone, Debug, Default)]
pub struct FormerCores {
    topics: BTreeMap<TopicName, Former>,
    /// Names by when they were deleted.
    names: BTreeMap<u64, TopicName>,
    deletions: u64,
    partitions: usize,
}

#[derive(Clone, Debug)]
struct Former {
    deletion: u64,
    cores: Vec<CoreId>,
}

impl FormerCores {
    /// A topic is deleted.
    pub fn note(&mut self, topic: &Topic) {
        let mut cores: Vec<CoreId> = topic.partitions.iter().map(|one| one.core).collect();
        if let Some(before) = self.forget(&topic.name) {
            cores.extend(before.cores.into_iter().skip(cores.len()));
        }
        self.deletions += 1;
        self.partitions += cores.len();
        self.names.insert(self.deletions, topic.name.clone());
        self.topics.insert(topic.name.clone(), Former { deletion: self.deletions, cores });
        while self.partitions > FORMER_PARTITIONS_MAX
            && self.names.len() > 1
            && let Some(name) = self.names.values().next().cloned()
        {
            self.forget(&name);
        }
    }

    fn forget(&mut self, name: &TopicName) -> Option<Former> {
        let former = self.topics.remove(name)?;
        self.names.remove(&former.deletion);
        self.partitions -= former.cores.len();
        Some(former)
    }

    /// The core that had this partition of an earlier topic called `name`.
    pub fn core(&self, name: &str, index: PartitionIndex) -> Option<CoreId> {
        self.topics.get(name)?.cores.get(usize::try_from(index.0).ok()?).copied()
    }
}

/// The replicas of the partition numbered `index` of a new topic: neighbours in
/// the ring of `brokers`, the first of them one further with every partition,
/// starting at a place that differs from topic to topic.
///
/// # Panics
/// If there are fewer brokers than `replication_factor`.
pub fn place_replicas(
    brokers: &[NodeId],
    topics_before: usize,
    index: usize,
    replication_factor: usize,
) -> Vec<NodeId> {
    assert!(replication_factor <= brokers.len(), "a broker holds a partition once");
    let first = topics_before + index;
    (first..first + replication_factor).map(|at| brokers[at % brokers.len()]).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metadata::image::{Partition, Topic};
    use crate::model::ids::{LeaderEpoch, TopicId};

    fn image(cores: &[u16]) -> Image {
        let mut image = Image::empty("cluster".into(), NodeId(1));
        let partitions = cores.iter().map(|core| Partition {
            core: CoreId(*core),
            replicas: vec![NodeId(1)],
            isr: vec![NodeId(1)],
            leader: Some(NodeId(1)),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: 0,
        });
        image.insert_topic(Arc::new(Topic {
            id: TopicId([1; 16]),
            name: "t".into(),
            partitions: partitions.collect(),
            configs: Default::default(),
        }));
        image
    }

    #[test]
    fn the_emptiest_core_is_next_and_ties_go_to_the_lowest() {
        // (cores of the broker, where partitions are, where four more go)
        let table: &[(u16, &[u16], [u16; 4])] = &[
            (1, &[], [0, 0, 0, 0]),
            (4, &[], [0, 1, 2, 3]),
            (3, &[0, 0, 1], [2, 1, 2, 0]),
            (2, &[1, 1, 1], [0, 0, 0, 0]),
            // Cores 2 and 3 of a broker that now has two are 0 and 1.
            (2, &[2, 2, 3], [1, 0, 1, 0]),
        ];
        for (cores, there, expected) in table {
            let node = Node { id: NodeId(1), host: "h".into(), port: 1, cores: *cores };
            let mut load = CoreLoad::of(&image(there), &node);
            let placed = std::array::from_fn(|_| load.place().0);
            assert_eq!(&placed, expected, "{cores} cores with {there:?}");
        }
    }

    #[test]
    fn partitions_of_a_name_go_where_the_last_ones_were() {
        let topic = |name: &str, cores: &[u16]| {
            let partition = image(cores).topic("t").expect("made").partitions.clone();
            Topic {
                id: TopicId([2; 16]),
                name: name.into(),
                partitions: partition,
                configs: Default::default(),
            }
        };
        let cores = |former: &FormerCores, name: &str| -> Vec<Option<u16>> {
            (0..4).map(|at| former.core(name, PartitionIndex(at)).map(|core| core.0)).collect()
        };
        let mut former = FormerCores::default();
        assert_eq!(cores(&former, "a"), [None; 4]);
        former.note(&topic("a", &[1, 0, 3]));
        assert_eq!(cores(&former, "a"), [Some(1), Some(0), Some(3), None]);
        // The third one's directory may be there still.
        former.note(&topic("a", &[1, 0]));
        assert_eq!(cores(&former, "a"), [Some(1), Some(0), Some(3), None]);
        // The oldest is forgotten for newer ones, however many those are.
        former.note(&topic("b", &vec![2; FORMER_PARTITIONS_MAX - 3]));
        assert_eq!((cores(&former, "a")[0], cores(&former, "b")[0]), (Some(1), Some(2)));
        former.note(&topic("c", &[5]));
        assert_eq!((cores(&former, "a")[0], cores(&former, "b")[0]), (None, Some(2)));
        former.note(&topic("d", &vec![6; FORMER_PARTITIONS_MAX + 1]));
        assert_eq!((cores(&former, "c")[0], cores(&former, "d")[0]), (None, Some(6)));
    }

    #[test]
    fn partitions_of_other_brokers_do_not_count() {
        let node = Node { id: NodeId(2), host: "h".into(), port: 1, cores: 2 };
        assert_eq!(CoreLoad::of(&image(&[0, 0]), &node).place(), CoreId(0));
    }

    #[test]
    fn replicas_are_neighbours_and_first_replicas_rotate() {
        let brokers = [NodeId(1), NodeId(2), NodeId(3)];
        let place = |before, index| place_replicas(&brokers, before, index, 2);
        assert_eq!(place(0, 0), [NodeId(1), NodeId(2)]);
        assert_eq!(place(0, 2), [NodeId(3), NodeId(1)]);
        assert_eq!(place(1, 0), [NodeId(2), NodeId(3)]);
        assert_eq!(place_replicas(&brokers[..1], 5, 7, 1), [NodeId(1)]);
    }
}
