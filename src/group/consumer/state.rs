//! What the records of a group of the consumer protocol add up to (the
//! replicated part of Kafka's `ConsumerGroup.java`).
//!
//! Changed by [`State::apply`] alone, whether a decision tries out what it is
//! about to write, the batch is committed, or the log is read again. Copies share
//! what they have in common. Of a compacted log any record may come first.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use crate::group::MemberId;
use crate::group::records::consumer::{
    Assignment, Change, CurrentAssignment, GroupEpoch, MemberMetadata, Owned, ResolvedRegex,
    TargetEpoch,
};
use crate::model::ids::TopicId;

/// The member epoch of a static member that has left for a while.
pub const AWAY: i32 = -2;
/// The member epoch of whoever leaves for good.
pub const LEAVING: i32 = -1;

/// The state of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The group's epoch and the hash of its topics; none without a record.
    pub group: Option<GroupEpoch>,
    /// There is a record of kind 4 to take back.
    pub partition_metadata: bool,
    /// The epoch of the target assignment.
    pub target: Option<TargetEpoch>,
    /// Members by id.
    pub members: OrdMap<MemberId, Arc<Member>>,
    /// What each member shall have.
    pub targets: OrdMap<MemberId, Arc<Assignment>>,
    /// What the regular expressions of the members match.
    pub regexes: OrdMap<Arc<str>, Arc<ResolvedRegex>>,
    /// Static members by `group.instance.id`.
    instances: OrdMap<Arc<str>, MemberId>,
    /// Who has each partition, or has still to give it back.
    owners: OrdMap<(TopicId, i32), MemberId>,
}

/// A member.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    /// What it says of itself.
    pub metadata: MemberMetadata,
    /// What it has.
    pub current: CurrentAssignment,
}

/// The state of a group as it is shown (`ConsumerGroup.ConsumerGroupState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Empty,
    Assigning,
    Reconciling,
    Stable,
}

impl Phase {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Empty => "Empty",
            Phase::Assigning => "Assigning",
            Phase::Reconciling => "Reconciling",
            Phase::Stable => "Stable",
        }
    }
}

impl State {
    /// Makes the change that a record says.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Group(value) => self.group = *value,
            Change::PartitionMetadata(present) => self.partition_metadata = *present,
            Change::Target(value) => self.target = *value,
            Change::Member(id, Some(metadata)) => {
                self.forget_instance(id);
                if let Some(instance) = &metadata.instance_id {
                    self.instances.insert(instance.clone(), id.clone());
                }
                self.member_mut(id).metadata = metadata.clone();
            }
            Change::Member(id, None) => {
                self.forget_instance(id);
                self.disown(id);
                self.members.remove(id);
            }
            Change::TargetMember(id, Some(assignment)) => {
                self.targets.insert(id.clone(), assignment.clone());
            }
            Change::TargetMember(id, None) => drop(self.targets.remove(id)),
            Change::Current(id, Some(current)) => {
                self.disown(id);
                for owned in [&current.assigned, &current.revoking] {
                    for (topic, partitions) in owned {
                        for partition in partitions.keys() {
                            self.owners.insert((*topic, *partition), id.clone());
                        }
                    }
                }
                self.member_mut(id).current = current.clone();
            }
            Change::Current(id, None) => {
                self.disown(id);
                if self.members.contains_key(id) {
                    let gone = CurrentAssignment { epoch: LEAVING, ..CurrentAssignment::default() };
                    self.member_mut(id).current = gone;
                }
            }
            Change::Regex(regex, Some(resolved)) => {
                self.regexes.insert(regex.clone(), resolved.clone());
            }
            Change::Regex(regex, None) => drop(self.regexes.remove(regex)),
        }
    }

    fn member_mut(&mut self, id: &MemberId) -> &mut Member {
        Arc::make_mut(self.members.entry(id.clone()).or_default())
    }

    fn forget_instance(&mut self, id: &MemberId) {
        let Some(member) = self.members.get(id) else { return };
        if let Some(instance) = &member.metadata.instance_id
            && self.instances.get(instance) == Some(id)
        {
            self.instances.remove(instance);
        }
    }

    fn disown(&mut self, id: &MemberId) {
        let Some(member) = self.members.get(id).cloned() else { return };
        for (topic, partition) in partitions(&member.current) {
            if self.owners.get(&(topic, partition)) == Some(id) {
                self.owners.remove(&(topic, partition));
            }
        }
    }

    /// The group's epoch, 0 if it has none yet.
    pub fn epoch(&self) -> i32 {
        self.group.map_or(0, |group| group.epoch)
    }

    /// The hash of the topics that the group's epoch goes by.
    pub fn metadata_hash(&self) -> i64 {
        self.group.map_or(0, |group| group.metadata_hash)
    }

    /// The group's epoch that the target assignment was made for, 0 for none.
    pub fn target_epoch(&self) -> i32 {
        self.target.map_or(0, |target| target.epoch)
    }

    /// What a member shall have.
    pub fn target_of(&self, id: &str) -> Arc<Assignment> {
        self.targets.get(id).cloned().unwrap_or_default()
    }

    /// The static member of this instance.
    pub fn instance(&self, instance: &str) -> Option<&MemberId> {
        self.instances.get(instance)
    }

    /// Who has this partition, or has still to give it back.
    pub fn owner(&self, topic: TopicId, partition: i32) -> Option<&MemberId> {
        self.owners.get(&(topic, partition))
    }

    /// Whether there is a record of anything.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The phase the group is in.
    pub fn phase(&self) -> Phase {
        let target = self.target_epoch();
        if self.members.is_empty() {
            Phase::Empty
        } else if self.epoch() > target {
            Phase::Assigning
        } else if self.members.values().all(|member| member.is_reconciled_to(target)) {
            Phase::Stable
        } else {
            Phase::Reconciling
        }
    }

    /// How many members subscribe by `regex`.
    pub fn subscribed_by(&self, regex: &str) -> usize {
        self.members.values().filter(|member| *member.metadata.regex == *regex).count()
    }

    /// Whether any member subscribes to this topic.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        self.members.values().any(|member| self.subscribes(&member.metadata, topic))
    }

    /// Whether a member subscribes to this topic.
    pub fn subscribes(&self, metadata: &MemberMetadata, topic: &str) -> bool {
        metadata.topics.contains(topic)
            || self.regexes.get(&metadata.regex).is_some_and(|found| found.topics.contains(topic))
    }

    /// The records that say nothing is left of the group.
    pub fn tombstones(&self) -> Vec<Change> {
        let mut changes = vec![];
        changes.extend(self.members.keys().map(|id| Change::Current(id.clone(), None)));
        changes.extend(self.targets.keys().map(|id| Change::TargetMember(id.clone(), None)));
        if self.target.is_some() {
            changes.push(Change::Target(None));
        }
        changes.extend(self.members.keys().map(|id| Change::Member(id.clone(), None)));
        changes.extend(self.regexes.keys().map(|regex| Change::Regex(regex.clone(), None)));
        if self.partition_metadata {
            changes.push(Change::PartitionMetadata(false));
        }
        if self.group.is_some() {
            changes.push(Change::Group(None));
        }
        changes
    }
}

impl Member {
    /// Whether it has what it shall have as of `epoch`.
    pub fn is_reconciled_to(&self, epoch: i32) -> bool {
        let current = &self.current;
        current.state == crate::group::records::consumer::MemberState::Stable
            && current.epoch == epoch
    }

    /// Whether it uses the classic protocol.
    pub fn is_classic(&self) -> bool {
        self.metadata.classic.is_some()
    }

    /// The epoch at which it was given a partition that it has, or has still to
    /// give back.
    pub fn assigned_at(&self, topic: TopicId, partition: i32) -> Option<i32> {
        let CurrentAssignment { assigned, revoking, .. } = &self.current;
        [assigned, revoking]
            .into_iter()
            .find_map(|owned| owned.get(&topic)?.get(&partition))
            .copied()
    }
}

/// The partitions that a member has, those to give back among them.
fn partitions(current: &CurrentAssignment) -> impl Iterator<Item = (TopicId, i32)> + '_ {
    [&current.assigned, &current.revoking].into_iter().flat_map(|owned: &Owned| {
        owned
            .iter()
            .flat_map(|(topic, partitions)| partitions.keys().map(|partition| (*topic, *partition)))
    })
}

/// The partitions without their epochs.
pub fn without_epochs(owned: &Owned) -> Assignment {
    let row = |(topic, partitions): (&TopicId, &BTreeMap<i32, i32>)| {
        (*topic, partitions.keys().copied().collect())
    };
    owned.iter().map(row).collect()
}
