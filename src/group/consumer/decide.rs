//! What members of a group of the consumer protocol say, and what that comes to:
//! records and an answer (the consumer part of Kafka's
//! `GroupMetadataManager.java`).
//!
//! A heartbeat creates or changes its member; that, and changes of the topics that
//! are subscribed to, begin a new epoch of the group; an epoch without a target
//! assignment gets one; then the member is moved on towards its target. Who
//! leaves, or is not heard of, begins a new epoch, too, whose target is made with
//! the next heartbeat of anybody. What comes first and last is here; the epoch and
//! its target, for all who are decided on together, in `making.rs`.
//!
//! Nothing here is kept: a [`Draft`] tries out its records on a copy.

use std::sync::Arc;

use super::reconcile::{Reconcile, UnknownState};
use super::regex::Lookup;
use super::state::{AWAY, Member, State, without_epochs};
use crate::base::limits::REGEXES_PER_GROUP_MAX;
use crate::base::rng::Rng;
use crate::config::{Assignor, GroupSettings};
use crate::group::records::Record;
use crate::group::records::consumer::{
    Assignment, Change, CurrentAssignment, GroupEpoch, MemberMetadata, MemberState, Owned,
};
use crate::group::request::ConsumerHeartbeat;
use crate::group::{GroupId, MemberId};
use crate::metadata::image::Image;
use crate::model::error_code::ErrorCode;

/// What a decision goes by.
#[derive(Debug)]
pub struct Env<'a> {
    /// The group.
    pub group: &'a GroupId,
    /// The settings.
    pub settings: &'a GroupSettings,
    /// The topics that exist.
    pub image: &'a Image,
    /// Now, Unix milliseconds.
    pub now_ms: i64,
    /// For ids of members.
    pub rng: &'a mut Rng,
}

/// A decision in the making.
#[derive(Debug)]
pub struct Draft {
    /// What it would make of the group.
    pub state: State,
    /// The records that are not on their way.
    pub records: Vec<Record>,
    /// The group needs a new epoch.
    pub bump: bool,
    /// Regular expressions that are new.
    pub lookups: Vec<Lookup>,
}

/// What a draft was at some time.
#[derive(Debug)]
pub struct Mark {
    state: State,
    records: usize,
    bump: bool,
    lookups: usize,
}

/// A member that has been heard of: what is left is its next step towards the target.
#[derive(Debug)]
pub struct Heard {
    /// Its id.
    pub id: MemberId,
    /// What it subscribes to has changed.
    pub changed: bool,
    /// What it had.
    pub before: Owned,
}

/// What a member is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Its id.
    pub member_id: MemberId,
    /// Its epoch.
    pub epoch: i32,
    /// What it has; none if it knows.
    pub assignment: Option<Assignment>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error.
    pub error: ErrorCode,
    /// For people.
    pub message: String,
}

fn unknown_state<T>() -> Result<T, Refusal> {
    let message = "the member's state is not known: it must begin anew";
    refuse(ErrorCode::FencedMemberEpoch, message)
}

fn refuse<T>(error: ErrorCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { error, message: message.into() })
}

impl Draft {
    /// Nothing is decided yet.
    pub fn new(state: State) -> Self {
        Self { state, records: vec![], bump: false, lookups: vec![] }
    }

    /// What it is now, to go back to with [`Draft::reset`].
    pub fn mark(&self) -> Mark {
        let (records, lookups) = (self.records.len(), self.lookups.len());
        Mark { state: self.state.clone(), records, bump: self.bump, lookups }
    }

    /// Forgets what was decided since the mark, of which nothing is on its way.
    pub fn reset(&mut self, mark: Mark) {
        (self.state, self.bump) = (mark.state, mark.bump);
        self.records.truncate(mark.records);
        self.lookups.truncate(mark.lookups);
    }

    /// Adds a record.
    pub fn write(&mut self, group: &GroupId, change: Change) {
        self.state.apply(&change);
        self.records.push(Record::Consumer { group: group.clone(), change });
    }

    /// A member that is in the group or joins it.
    ///
    /// # Errors
    /// What it is told instead; whatever was added to the draft does not count.
    pub fn stay(&mut self, env: &mut Env<'_>, beat: &ConsumerHeartbeat) -> Result<Heard, Refusal> {
        let joins = beat.epoch == 0;
        let known = self.state.members.contains_key(&beat.member_id);
        if !known && self.state.members.len() >= env.settings.consumer.max_size {
            return refuse(
                ErrorCode::GroupMaxSizeReached,
                format!("the group has {} members already", env.settings.consumer.max_size),
            );
        }
        let id = match &*beat.member_id {
            "" => new_id(env.rng),
            _ => beat.member_id.clone(),
        };
        let before = match &beat.instance_id {
            None => self.dynamic(&id, beat, joins)?,
            Some(instance) => self.fixed(env, &id, instance, beat, joins)?,
        };
        let metadata = updated(&before.metadata, beat);
        let names_changed = metadata.topics != before.metadata.topics;
        let regex_changed = metadata.regex != before.metadata.regex;
        if regex_changed {
            self.change_regex(env, &before.metadata.regex, &metadata.regex)?;
        }
        if metadata != before.metadata || !self.state.members.contains_key(&id) {
            self.write(env.group, Change::Member(id.clone(), Some(metadata)));
        }
        let changed = names_changed || regex_changed;
        self.bump |= changed || self.state.epoch() == 0;
        if before.current.state == MemberState::Unknown
            && !beat.owned.as_ref().is_some_and(Assignment::is_empty)
        {
            return unknown_state();
        }
        Ok(Heard { id, changed, before: before.current.assigned })
    }

    /// The next step of a member that has been heard of, once there is a target.
    ///
    /// # Errors
    /// What it is told if it is no member any more.
    pub fn answer(
        &mut self,
        env: &Env<'_>,
        beat: &ConsumerHeartbeat,
        heard: Heard,
    ) -> Result<Beat, Refusal> {
        let Heard { id, changed, before } = heard;
        let after = self.reconcile(env, &id, changed, beat.owned.as_ref())?;
        let is_full = beat.rebalance_timeout_ms != -1
            && (beat.topics.is_some() || beat.regex.is_some())
            && beat.owned.is_some();
        let tell = beat.epoch == 0 || is_full || !same(&after.assigned, &before);
        let assignment = tell.then(|| without_epochs(&after.assigned));
        Ok(Beat { member_id: id, epoch: after.epoch, assignment })
    }

    /// The member as it was; one that joins may be new.
    fn dynamic(
        &self,
        id: &MemberId,
        beat: &ConsumerHeartbeat,
        joins: bool,
    ) -> Result<Member, Refusal> {
        match self.state.members.get(id) {
            Some(member) => {
                check_epoch(member, beat)?;
                Ok((**member).clone())
            }
            None if joins => Ok(Member::default()),
            None => refuse(ErrorCode::UnknownMemberId, format!("{id} is no member of the group")),
        }
    }

    /// As [`Draft::dynamic`] for a static member, which may take its old place.
    fn fixed(
        &mut self,
        env: &Env<'_>,
        id: &MemberId,
        instance: &Arc<str>,
        beat: &ConsumerHeartbeat,
        joins: bool,
    ) -> Result<Member, Refusal> {
        let old = self.state.instance(instance).cloned();
        let Some(old) = old else {
            if joins {
                return self.dynamic(id, beat, true);
            }
            return refuse(ErrorCode::UnknownMemberId, format!("nobody is {instance}"));
        };
        let member = self.state.members[&old].clone();
        if !joins {
            if old != *id {
                let message = format!("{instance} is {old} now, not {id}");
                return refuse(ErrorCode::FencedInstanceId, message);
            }
            check_epoch(&member, beat)?;
            return Ok((*member).clone());
        }
        if !member.is_classic() && member.current.epoch != AWAY {
            let message = format!("{instance} is {old}, which has not left");
            return refuse(ErrorCode::UnreleasedInstanceId, message);
        }
        Ok(self.replace(env.group, &old, id))
    }

    /// A static member takes the place of its old self.
    pub fn replace(&mut self, group: &GroupId, old: &MemberId, id: &MemberId) -> Member {
        let mut member = (*self.state.members[old]).clone();
        let target = self.state.target_of(old);
        (member.current.epoch, member.current.previous_epoch) = (0, 0);
        self.remove(group, old);
        self.write(group, Change::Member(id.clone(), Some(member.metadata.clone())));
        self.write(group, Change::TargetMember(id.clone(), Some(target)));
        self.write(group, Change::Current(id.clone(), Some(member.current.clone())));
        member
    }

    fn remove(&mut self, group: &GroupId, id: &MemberId) {
        self.write(group, Change::Current(id.clone(), None));
        self.write(group, Change::TargetMember(id.clone(), None));
        self.write(group, Change::Member(id.clone(), None));
    }

    /// A member subscribes by another regular expression than before.
    fn change_regex(
        &mut self,
        env: &Env<'_>,
        old: &Arc<str>,
        new: &Arc<str>,
    ) -> Result<(), Refusal> {
        if !old.is_empty() && self.state.subscribed_by(old) == 1 {
            self.forget_regex(env.group, old);
        }
        let is_known = self.state.regexes.contains_key(new)
            || self.lookups.iter().any(|lookup| lookup.regex == *new);
        if !new.is_empty() && !is_known {
            if self.state.regexes.len() + self.lookups.len() >= REGEXES_PER_GROUP_MAX {
                let message = format!("the group has {REGEXES_PER_GROUP_MAX} others already");
                return refuse(ErrorCode::InvalidRegularExpression, message);
            }
            let lookup = Lookup::new(new).map_err(|message| Refusal {
                error: ErrorCode::InvalidRegularExpression,
                message,
            })?;
            self.lookups.push(lookup);
        }
        Ok(())
    }

    pub(super) fn forget_regex(&mut self, group: &GroupId, regex: &Arc<str>) {
        if self.state.regexes.contains_key(regex) {
            self.write(group, Change::Regex(regex.clone(), None));
        }
    }

    /// Begins a new epoch of the group.
    pub fn begin_epoch(&mut self, group: &GroupId, metadata_hash: i64) {
        let epoch = self.state.epoch().wrapping_add(1).max(1);
        self.write(group, Change::Group(Some(GroupEpoch { epoch, metadata_hash })));
        if self.state.partition_metadata {
            self.write(group, Change::PartitionMetadata(false));
        }
    }

    /// The assignor that most of those prefer that prefer any; the first that is
    /// set without any.
    pub fn preferred_assignor(&self, settings: &GroupSettings) -> Assignor {
        let assignors = &settings.consumer.assignors;
        let votes = |assignor: &Assignor| {
            let members = self.state.members.values();
            let prefers = |member: &&Arc<Member>| {
                member.metadata.assignor.as_deref() == Some(assignor.name())
            };
            members.filter(prefers).count()
        };
        // The last of those with the most votes is taken.
        let best = assignors.iter().rev().max_by_key(|assignor| votes(assignor));
        best.copied().unwrap_or(Assignor::Uniform)
    }

    /// Moves a member on towards its target.
    pub fn reconcile(
        &mut self,
        env: &Env<'_>,
        id: &MemberId,
        subscription_changed: bool,
        owned: Option<&Assignment>,
    ) -> Result<CurrentAssignment, Refusal> {
        let Some(member) = self.state.members.get(id).cloned() else {
            // It left just after it was heard of.
            return refuse(ErrorCode::UnknownMemberId, format!("{id} is no member of the group"));
        };
        let target = self.state.target_of(id);
        let reconcile = Reconcile {
            state: &self.state,
            image: env.image,
            id,
            metadata: &member.metadata,
            current: &member.current,
            target_epoch: self.state.target_epoch(),
            target: &target,
            subscription_changed,
            owned,
        };
        let next = match reconcile.next() {
            Ok(next) => next,
            Err(UnknownState) => return unknown_state(),
        };
        if next != member.current {
            self.write(env.group, Change::Current(id.clone(), Some(next.clone())));
        }
        Ok(next)
    }

    /// A member that leaves, for a while or for good.
    ///
    /// # Errors
    /// What it is told instead.
    pub fn leave(&mut self, env: &Env<'_>, beat: &ConsumerHeartbeat) -> Result<Beat, Refusal> {
        let id = beat.member_id.clone();
        let left = Beat { member_id: id.clone(), epoch: beat.epoch, assignment: None };
        let unknown =
            || refuse(ErrorCode::UnknownMemberId, format!("{id} is no member of the group"));
        if let Some(instance) = &beat.instance_id {
            match self.state.instance(instance) {
                None => return unknown(),
                Some(owner) if *owner != id => {
                    let message = format!("{instance} is {owner} now, not {id}");
                    return refuse(ErrorCode::FencedInstanceId, message);
                }
                Some(_) => {}
            }
        }
        let Some(member) = self.state.members.get(&id) else { return unknown() };
        if beat.epoch == AWAY && beat.instance_id.is_some() {
            // It keeps what it has until it comes back or is not heard of.
            let mut current = member.current.clone();
            current.epoch = AWAY;
            current.revoking = Owned::new();
            self.write(env.group, Change::Current(id, Some(current)));
        } else {
            self.fence(env, &[id]);
        }
        Ok(left)
    }

    /// Takes members out of the group.
    pub fn fence(&mut self, env: &Env<'_>, ids: &[MemberId]) {
        for id in ids {
            let regex = self.state.members[id].metadata.regex.clone();
            self.remove(env.group, id);
            if !regex.is_empty() && self.state.subscribed_by(&regex) == 0 {
                self.forget_regex(env.group, &regex);
            }
        }
        self.bump |= !ids.is_empty();
    }

    /// Whether it is a member that uses the classic protocol.
    pub fn is_classic(&self, id: &str) -> bool {
        self.state.members.get(id).is_some_and(|member| member.is_classic())
    }

    /// Whether a member has still not given back what it was asked to as of
    /// `epoch`.
    pub fn is_late(&self, id: &str, epoch: i32) -> bool {
        self.state.members.get(id).is_some_and(|member| {
            let current = &member.current;
            current.state == MemberState::UnrevokedPartitions && current.epoch == epoch
        })
    }
}

/// What a member says of itself from now on: what it does not mention stays.
fn updated(before: &MemberMetadata, beat: &ConsumerHeartbeat) -> MemberMetadata {
    MemberMetadata {
        instance_id: beat.instance_id.clone().or_else(|| before.instance_id.clone()),
        rack_id: beat.rack_id.clone().or_else(|| before.rack_id.clone()),
        client_id: beat.client_id.clone(),
        client_host: beat.client_host.clone(),
        topics: match &beat.topics {
            Some(topics) => topics.iter().cloned().collect(),
            None => before.topics.clone(),
        },
        regex: beat.regex.clone().unwrap_or_else(|| before.regex.clone()),
        rebalance_timeout_ms: match beat.rebalance_timeout_ms {
            -1 => before.rebalance_timeout_ms,
            timeout => timeout,
        },
        assignor: beat.assignor.clone().or_else(|| before.assignor.clone()),
        classic: None,
    }
}

/// Whether a member may go on in the epoch that it names
/// (`throwIfConsumerGroupMemberEpochIsInvalid`).
fn check_epoch(member: &Member, beat: &ConsumerHeartbeat) -> Result<(), Refusal> {
    let Member { current, .. } = member;
    // The answer with its new epoch may have been lost: then it has nothing that
    // it should not have.
    let lost = || {
        let has_less = beat.owned.as_ref().is_some_and(|owned| {
            owned.iter().all(|(topic, indexes)| {
                let assigned = current.assigned.get(topic);
                assigned.is_some_and(|has| indexes.iter().all(|index| has.contains_key(index)))
            })
        });
        beat.epoch < current.epoch && beat.epoch == current.previous_epoch && has_less
    };
    if beat.epoch == 0 || beat.epoch == current.epoch || lost() {
        return Ok(());
    }
    let message = format!(
        "the member is in epoch {}, not {}: it must give up its partitions and join again",
        current.epoch, beat.epoch
    );
    refuse(ErrorCode::FencedMemberEpoch, message)
}

fn same(one: &Owned, other: &Owned) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|((topic, has), (other_topic, other))| {
            topic == other_topic && has.keys().eq(other.keys())
        })
}

/// Whether a heartbeat is one that a member may send
/// (`throwIfConsumerGroupHeartbeatRequestIsInvalid`).
///
/// # Errors
/// Why not.
pub fn check(beat: &ConsumerHeartbeat, settings: &GroupSettings) -> Result<(), Refusal> {
    let is_empty = |text: &Option<Arc<str>>| text.as_deref().is_some_and(str::is_empty);
    let known = |name: &Arc<str>| {
        settings.consumer.assignors.iter().any(|assignor| *assignor.name() == **name)
    };
    let wrong = if is_empty(&beat.instance_id) {
        "InstanceId can't be empty."
    } else if is_empty(&beat.rack_id) {
        "RackId can't be empty."
    } else if beat.member_id.is_empty() && (beat.needs_id || beat.epoch != 0) {
        "MemberId can't be empty."
    } else if beat.epoch == 0 && beat.rebalance_timeout_ms == -1 {
        "RebalanceTimeoutMs must be provided in first request."
    } else if beat.epoch == 0 && !beat.owned.as_ref().is_some_and(Assignment::is_empty) {
        "TopicPartitions must be empty when (re-)joining."
    } else if beat.epoch == 0 && beat.topics.is_none() && beat.regex.is_none() {
        "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining."
    } else if beat.epoch == AWAY && beat.instance_id.is_none() {
        "InstanceId can't be null."
    } else if beat.epoch < AWAY {
        "MemberEpoch must be greater than or equal to -2."
    } else if let Some(name) = beat.assignor.as_ref().filter(|name| !known(name)) {
        let names: Vec<&str> = settings.consumer.assignors.iter().map(|a| a.name()).collect();
        let message = format!("ServerAssignor {name} is not supported; {} are", names.join(", "));
        return refuse(ErrorCode::UnsupportedAssignor, message);
    } else {
        return Ok(());
    };
    refuse(ErrorCode::InvalidRequest, wrong)
}

/// A random UUID, as Kafka prints it.
pub(super) fn new_id(rng: &mut Rng) -> MemberId {
    let id = uuid::Builder::from_random_bytes(rng.bytes16()).into_uuid();
    id.to_string().into()
}
