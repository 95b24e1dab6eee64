//! Decides CreatePartitions: topics that are there get more partitions.
//!
//! The rules and messages are those of Kafka's `ReplicationControlManager` and
//! `ControllerApis`. Topics are judged one by one.

use std::collections::BTreeMap;

use super::decide::{Decision, Room, check_assignment, new_partition, refuse, repeated};
use crate::base::limits::{PARTITIONS_MAX, PARTITIONS_PER_TOPIC_MAX};
use crate::metadata::command::{Answer, MorePartitions, PartitionsOutcome, Refusal};
use crate::metadata::image::{Image, Topic};
use crate::metadata::placement::{CoreLoad, FormerCores, place_replicas};
use crate::metadata::record::Record;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{NodeId, PartitionIndex};

pub(super) fn create_partitions(
    topics: &[MorePartitions],
    validate_only: bool,
    image: &Image,
    former: &FormerCores,
) -> Decision {
    let names = repeated(topics.iter().map(|topic| topic.name.as_str()));
    let mut growth = Growth {
        image,
        former,
        loads: image.nodes.iter().map(|(id, node)| (*id, CoreLoad::of(image, node))).collect(),
        room: Room::of(image),
        partitions: image.topics().map(|topic| topic.partitions.len()).sum(),
        records: Vec::new(),
    };
    let grow = |topic: &MorePartitions| PartitionsOutcome {
        name: topic.name.clone(),
        result: if names.contains(topic.name.as_str()) {
            refuse(ErrorCode::InvalidRequest, "Duplicate topic name.")
        } else {
            growth.grow(topic)
        },
    };
    let outcomes = topics.iter().map(grow).collect();
    let records = if validate_only { vec![] } else { growth.records };
    Decision { records, answer: Answer::CreatePartitions(outcomes) }
}

/// One CreatePartitions while its topics are gone through.
struct Growth<'a> {
    image: &'a Image,
    former: &'a FormerCores,
    loads: BTreeMap<NodeId, CoreLoad>,
    room: Room,
    partitions: usize,
    records: Vec<Record>,
}

impl Growth<'_> {
    fn grow(&mut self, asked: &MorePartitions) -> Result<(), Refusal> {
        let Some(topic) = self.image.topic(&asked.name) else {
            let message = "This server does not host this topic-partition.";
            return refuse(ErrorCode::UnknownTopicOrPartition, message);
        };
        let there = topic.partitions.len();
        let new = self.new_partitions(topic, asked)?;
        let replicas = match &asked.assignments {
            Some(assignments) => self.assigned(topic, assignments, new)?,
            None => self.placed(topic, new)?,
        };
        if self.partitions + new > PARTITIONS_MAX {
            let message = format!("The cluster would have more than {PARTITIONS_MAX} partitions.");
            return refuse(ErrorCode::InvalidPartitions, message);
        }
        let mut loads = self.loads.clone();
        let indexes = (there as i32..).map(PartitionIndex);
        let records: Vec<Record> = indexes
            .zip(replicas)
            .map(|(index, replicas)| {
                let core = self.former.core(&topic.name, index);
                let partition = new_partition(replicas, core, &mut loads);
                Record::Partition { topic: topic.id, index, partition }
            })
            .collect();
        self.room.take(&records, "Excessively large number of partitions per request.")?;
        self.partitions += new;
        self.loads = loads;
        self.records.extend(records);
        Ok(())
    }

    /// How many partitions are new.
    fn new_partitions(&self, topic: &Topic, asked: &MorePartitions) -> Result<usize, Refusal> {
        let (there, wanted) = (topic.partitions.len() as i32, asked.count);
        if wanted == there {
            let message = format!("Topic already has {there} partition(s).");
            return refuse(ErrorCode::InvalidPartitions, message);
        }
        if wanted < there {
            let message = format!(
                "The topic {} currently has {there} partition(s); {wanted} would not be an \
                 increase.",
                asked.name
            );
            return refuse(ErrorCode::InvalidPartitions, message);
        }
        if wanted > PARTITIONS_PER_TOPIC_MAX {
            let message = format!(
                "Number of partitions is {wanted}, it must be from 1 to \
                 {PARTITIONS_PER_TOPIC_MAX}."
            );
            return refuse(ErrorCode::InvalidPartitions, message);
        }
        Ok((wanted - there) as usize)
    }

    fn assigned(
        &self,
        topic: &Topic,
        assignments: &[Vec<i32>],
        new: usize,
    ) -> Result<Vec<Vec<NodeId>>, Refusal> {
        if assignments.len() != new {
            let message = format!(
                "Attempted to add {new} additional partition(s), but only {} assignment(s) were \
                 specified.",
                assignments.len()
            );
            return refuse(ErrorCode::InvalidReplicaAssignment, message);
        }
        let factor = topic.partitions[0].replicas.len();
        for brokers in assignments {
            check_assignment(self.image, brokers, Some(factor))
                .or_else(|message| refuse(ErrorCode::InvalidReplicaAssignment, message))?;
        }
        let nodes = |brokers: &Vec<i32>| brokers.iter().copied().map(NodeId).collect();
        Ok(assignments.iter().map(nodes).collect())
    }

    fn placed(&self, topic: &Topic, new: usize) -> Result<Vec<Vec<NodeId>>, Refusal> {
        let brokers: Vec<NodeId> = self.image.nodes.keys().copied().collect();
        let factor = topic.partitions[0].replicas.len();
        if factor > brokers.len() {
            let message = format!(
                "Unable to replicate the partition {factor} time(s): The target replication \
                 factor of {factor} cannot be reached because only {} broker(s) are registered.",
                brokers.len()
            );
            return refuse(ErrorCode::InvalidReplicationFactor, message);
        }
        // The ring goes on where the topic's last partition left it.
        let last = topic.partitions.last().and_then(|partition| partition.replicas.first());
        let at = last.and_then(|last| brokers.iter().position(|broker| broker == last));
        let first = at.map_or(0, |at| at + 1);
        Ok((0..new).map(|index| place_replicas(&brokers, first, index, factor)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::image::{Node, Partition};
    use crate::model::ids::{CoreId, LeaderEpoch, MetadataOffset, TopicId};

    /// Broker 1 with three cores, and `t` with two partitions on the first.
    fn image() -> Image {
        let id = TopicId([1; 16]);
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
        let node = Node { id: NodeId(1), host: "h".into(), port: 9092, cores: 3 };
        let records = [
            Record::RegisterBroker(node),
            Record::Topic { name: "t".to_owned(), id },
            partition(0),
            partition(1),
        ];
        Image::empty("c".into(), NodeId(1)).apply(MetadataOffset(1), &records).unwrap().0
    }

    fn more(name: &str, count: i32, assignments: Option<&[&[i32]]>) -> MorePartitions {
        let assignments = assignments.map(|rows| rows.iter().map(|row| row.to_vec()).collect());
        MorePartitions { name: name.to_owned(), count, assignments }
    }

    fn said(decision: &Decision) -> Vec<String> {
        let Answer::CreatePartitions(outcomes) = &decision.answer else { panic!("its own answer") };
        let text = |outcome: &PartitionsOutcome| match &outcome.result {
            Ok(()) => "ok".to_owned(),
            Err(refusal) => format!("{:?}: {}", refusal.code, refusal.message),
        };
        outcomes.iter().map(text).collect()
    }

    #[test]
    fn new_partitions_go_where_the_fewest_are() {
        for asked in [more("t", 5, None), more("t", 5, Some(&[&[1], &[1], &[1]]))] {
            let decision = create_partitions(
                std::slice::from_ref(&asked),
                false,
                &image(),
                &FormerCores::default(),
            );
            assert_eq!(said(&decision), ["ok"]);
            let next = image().apply(MetadataOffset(2), &decision.records).unwrap().0;
            let cores = next.topic("t").unwrap().partitions.iter().map(|row| row.core.0);
            assert!(cores.eq([0, 0, 1, 2, 1]), "{:?}", decision.records);
            let dry = create_partitions(&[asked], true, &image(), &FormerCores::default());
            assert_eq!((dry.records.len(), said(&dry)), (0, vec!["ok".to_owned()]));
        }
    }

    #[test]
    fn what_is_refused_and_why() {
        let table = [
            (more("t", 2, None), "InvalidPartitions: Topic already has 2 partition(s)."),
            (
                more("t", 1, None),
                "InvalidPartitions: The topic t currently has 2 partition(s); 1 would not be an \
                 increase.",
            ),
            (
                more("t", -1, None),
                "InvalidPartitions: The topic t currently has 2 partition(s); -1 would not be an \
                 increase.",
            ),
            (
                more("t", i32::MAX, None),
                "InvalidPartitions: Number of partitions is 2147483647, it must be from 1 to \
                 10000.",
            ),
            (
                more("u", 3, None),
                "UnknownTopicOrPartition: This server does not host this topic-partition.",
            ),
            (
                more("t", 4, Some(&[&[1]])),
                "InvalidReplicaAssignment: Attempted to add 2 additional partition(s), but only 1 \
                 assignment(s) were specified.",
            ),
            (
                more("t", 3, Some(&[&[2]])),
                "InvalidReplicaAssignment: The manual partition assignment includes broker 2, but \
                 no such broker is registered.",
            ),
            (
                more("t", 3, Some(&[&[]])),
                "InvalidReplicaAssignment: The manual partition assignment includes an empty \
                 replica list.",
            ),
        ];
        for (asked, expected) in table {
            let decision = create_partitions(&[asked], false, &image(), &FormerCores::default());
            assert_eq!(said(&decision), [expected]);
            assert!(decision.records.is_empty());
        }
        let twice = [more("t", 3, None), more("u", 3, None), more("t", 4, None)];
        let decision = create_partitions(&twice, false, &image(), &FormerCores::default());
        assert_eq!(said(&decision)[0], "InvalidRequest: Duplicate topic name.");
        assert_eq!(said(&decision)[2], "InvalidRequest: Duplicate topic name.");
        assert!(decision.records.is_empty());
    }
}
