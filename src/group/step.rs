//! What a group reads while it takes a step, and what the step leaves to do.

use super::records::Record;
use super::request::{Asker, Response};
use super::{GroupId, MemberId};
use crate::base::deadlines::{DeadlineId, Deadlines};
use crate::base::rng::Rng;
use crate::base::time::Now;
use crate::config::GroupSettings;
use crate::metadata::image::Image;
use crate::model::ids::PartitionIndex;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// One step of one group.
#[derive(Debug)]
pub struct Step<'a> {
    /// When it is.
    pub now: Now,
    /// The settings.
    pub settings: &'a GroupSettings,
    /// The topics that exist.
    pub image: &'a Arc<Image>,
    /// Counts changes of topics.
    pub topics_version: u64,
    /// The partition of `__consumer_offsets` that the group is in.
    pub partition: PartitionIndex,
    /// Deadlines of all groups of the core.
    pub timers: &'a mut Deadlines<Timer>,
    /// For the ids of new members.
    pub rng: &'a mut Rng,
    /// What is to be done, in order.
    pub out: &'a mut Vec<Todo>,
}

/// A deadline of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// The group's partition.
    pub partition: PartitionIndex,
    /// The group.
    pub group: GroupId,
    /// What is due.
    pub due: Due,
}

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// A member has not been heard of for its session timeout.
    Session(MemberId),
    /// The wait for members to join a group that was empty.
    InitialJoin {
        /// How long it was.
        delay_ms: i32,
        /// How long it may be in all.
        remaining_ms: i32,
    },
    /// The wait for members to join again.
    Join,
    /// The wait for members of a generation to ask for their assignment.
    Sync(i32),
    /// The wait for a member of the consumer protocol to give back what it was
    /// asked to at this epoch.
    Revocation(MemberId, i32),
    /// The wait for a classic member of such a group to join or to sync.
    Overdue(MemberId),
}

/// Something that a step leaves to do.
#[derive(Debug)]
pub enum Todo {
    /// Answer now.
    Answer(Asker, Response),
    /// A request will be answered later, by [`Todo::Late`].
    Parked(Asker),
    /// Answer a request that was parked.
    Late(Asker, Response),
    /// Append records.
    Write(Vec<Record>, Then),
    /// Go on with the group in another turn.
    GoOn(GroupId),
}

/// What is to be done when records are committed, or are not.
#[derive(Debug)]
pub enum Then {
    /// Answer.
    Answer(GroupId, Asker, Response),
    /// The leader's assignment of a generation stands.
    Assigned {
        /// The group.
        group: GroupId,
        /// The generation.
        generation: i32,
        /// What each member gets.
        assignments: BTreeMap<MemberId, Bytes>,
    },
    /// The group is gone; whoever asked for that is answered.
    Deleted(GroupId, Option<Asker>),
    /// A batch of a group of the consumer protocol stands: answer.
    Consumer(GroupId, Vec<(Asker, Response)>),
    /// Nothing.
    Nothing(GroupId),
}

impl Step<'_> {
    /// Sets a deadline.
    pub fn arm(&mut self, group: &GroupId, after_ms: i32, due: Due) -> DeadlineId {
        let after = Duration::from_millis(after_ms.max(0).unsigned_abs().into());
        let timer = Timer { partition: self.partition, group: group.clone(), due };
        self.timers.insert(self.now.instant + after, timer)
    }

    /// Answers now.
    pub fn answer(&mut self, asker: Asker, response: Response) {
        self.out.push(Todo::Answer(asker, response));
    }
}

impl Then {
    /// The group that the records are about.
    pub fn group(&self) -> &GroupId {
        match self {
            Then::Answer(group, ..)
            | Then::Assigned { group, .. }
            | Then::Deleted(group, _)
            | Then::Consumer(group, _)
            | Then::Nothing(group) => group,
        }
    }
}
