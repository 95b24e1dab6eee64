//! A member's way from what it has to what it shall have (Kafka's
//! `CurrentAssignmentBuilder.java`).
//!
//! Stable --(there is a newer target)-> UnrevokedPartitions, if it has something
//! that it shall not have: it keeps its epoch until it says that it has given that
//! back. Then, or at once if there is nothing to give back, it takes the target's
//! epoch and whatever of the target nobody else has: Stable if that is all,
//! otherwise UnreleasedPartitions, until the others have given the rest back. In
//! each state a newer target is taken up at once, except that nothing is added
//! while something has to be given back.

use super::state::State;
use crate::group::MemberId;
use crate::group::records::consumer::{
    Assignment, CurrentAssignment, MemberMetadata, MemberState, Owned,
};
use crate::metadata::image::Image;
use crate::model::ids::TopicId;

/// A member that is to be moved on.
#[derive(Clone, Copy, Debug)]
pub struct Reconcile<'a> {
    /// The group, for who has what.
    pub state: &'a State,
    /// The topics that exist.
    pub image: &'a Image,
    /// The member.
    pub id: &'a MemberId,
    /// What it says of itself.
    pub metadata: &'a MemberMetadata,
    /// What it has.
    pub current: &'a CurrentAssignment,
    /// The group's epoch that the target was made for.
    pub target_epoch: i32,
    /// What it shall have.
    pub target: &'a Assignment,
    /// What it subscribes to has changed just now: what it does not want any more
    /// is taken from it even if there is no newer target.
    pub subscription_changed: bool,
    /// What it says it has; none if it says nothing.
    pub owned: Option<&'a Assignment>,
}

impl Reconcile<'_> {
    /// What the member has next: the same if it cannot get on.
    ///
    /// # Errors
    /// A member in a state that is not known has to begin anew, without anything.
    pub fn next(&self) -> Result<CurrentAssignment, UnknownState> {
        let current = self.current;
        match current.state {
            MemberState::Stable if current.epoch != self.target_epoch => Ok(self.advance()),
            MemberState::Stable => Ok(self.keep()),
            MemberState::UnrevokedPartitions if self.still_has(&current.revoking) => {
                Ok(self.keep())
            }
            MemberState::UnrevokedPartitions | MemberState::UnreleasedPartitions => {
                Ok(self.advance())
            }
            MemberState::Unknown if self.owned.is_some_and(Assignment::is_empty) => {
                Ok(self.advance())
            }
            MemberState::Unknown => Err(UnknownState),
        }
    }

    /// Whether the member has, as far as it says, any of these.
    fn still_has(&self, partitions: &Owned) -> bool {
        let Some(owned) = self.owned else { return true };
        owned.iter().any(|(topic, indexes)| {
            let asked = partitions.get(topic);
            asked.is_some_and(|asked| indexes.iter().any(|index| asked.contains_key(index)))
        })
    }

    /// Whether the member subscribes to a topic, which exists.
    fn wants(&self, topic: TopicId) -> bool {
        let topic = self.image.topic_by_id(topic);
        topic.is_some_and(|topic| self.state.subscribes(self.metadata, &topic.name))
    }

    /// Stays, without what it does not subscribe to any more.
    fn keep(&self) -> CurrentAssignment {
        let mut next = self.current.clone();
        if !self.subscription_changed {
            return next;
        }
        let (assigned, dropped): (Owned, Owned) =
            next.assigned.into_iter().partition(|(topic, _)| self.wants(*topic));
        next.assigned = assigned;
        if dropped.is_empty() {
            return next;
        }
        next.previous_epoch = next.epoch;
        let mut revoking = next.revoking.clone();
        for (topic, partitions) in dropped {
            revoking.entry(topic).or_default().extend(partitions);
        }
        if self.still_has(&revoking) {
            next.state = MemberState::UnrevokedPartitions;
            next.revoking = revoking;
        }
        next
    }

    /// Goes on towards the target.
    fn advance(&self) -> CurrentAssignment {
        let current = self.current;
        let mut unreleased = false;
        let (mut kept, mut revoking) = (Owned::new(), Owned::new());
        for (topic, partitions) in &current.assigned {
            let target = self.target.get(topic).filter(|_| self.wants(*topic));
            for (partition, epoch) in partitions {
                let keeps = target.is_some_and(|target| target.contains(partition));
                let side = if keeps { &mut kept } else { &mut revoking };
                side.entry(*topic).or_default().insert(*partition, *epoch);
            }
        }
        if !revoking.is_empty() && self.still_has(&revoking) {
            return CurrentAssignment {
                epoch: current.epoch,
                previous_epoch: current.epoch,
                state: MemberState::UnrevokedPartitions,
                assigned: kept,
                revoking,
            };
        }
        let mut added = vec![];
        for (topic, partitions) in self.target.iter().filter(|(topic, _)| self.wants(**topic)) {
            for partition in partitions {
                if kept.get(topic).is_some_and(|kept| kept.contains_key(partition)) {
                    continue;
                }
                // What the member itself has just given back is free.
                match self.state.owner(*topic, *partition) {
                    Some(owner) if owner != self.id => unreleased = true,
                    _ => added.push((*topic, *partition)),
                }
            }
        }
        for (topic, partition) in added {
            kept.entry(topic).or_default().insert(partition, self.target_epoch);
        }
        CurrentAssignment {
            epoch: self.target_epoch,
            previous_epoch: current.epoch,
            state: if unreleased { MemberState::UnreleasedPartitions } else { MemberState::Stable },
            assigned: kept,
            revoking: Owned::new(),
        }
    }
}

/// A state that a later release has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownState;
