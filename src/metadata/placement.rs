//! Where new partitions go: which brokers hold them, and on which core.
//!
//! Pure functions over the image, so a controller that is asked twice answers
//! the same. Nothing here moves a partition that exists.

use super::image::{Image, Node};
use crate::model::ids::{CoreId, NodeId};

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
