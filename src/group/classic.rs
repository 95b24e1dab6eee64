//! One classic group: its members and the state it is in (Kafka's
//! `ClassicGroup.java`).
//!
//! States: *Empty*, there may be committed offsets; *PreparingRebalance*,
//! members are waited for; *CompletingRebalance*, the leader's assignment is
//! waited for; *Stable*; *Dead*, about to be deleted. `rebalance.rs` has the
//! transitions. Membership is not replicated but for what a rebalance ends
//! with: who is loaded from a record is Stable or Empty.
//!
//! A request that waits is held by its member and answered whatever becomes of
//! the member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::consumer::Consumer;
use super::offsets::Offsets;
use super::records::{GroupValue, MemberValue, Record};
use super::request::{Asker, Identity, Response, refuse_join, refuse_sync};
use super::step::{Due, Step, Todo};
use super::{GroupId, MemberId};
use crate::base::deadlines::DeadlineId;
use crate::model::error_code::ErrorCode;
use crate::wire::groups::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use crate::wire::groups::join_group_response::JoinGroupResponseMember;
use crate::wire::groups::list_groups_response::ListedGroup;
use crate::wire::groups::subscribed_topics;

/// The protocol type of consumers.
const CONSUMER: &str = "consumer";

/// The state of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Kafka's own")]
pub enum State {
    #[default]
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

impl State {
    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
            State::Dead => "Dead",
        }
    }
}

/// A classic group, and the offsets it has committed.
#[derive(Debug)]
pub struct Group {
    pub(super) id: GroupId,
    pub(super) state: State,
    /// The state before this one.
    pub(super) previous: State,
    /// When it came into its state, Unix milliseconds; -1 if unknown.
    state_since_ms: i64,
    pub(super) protocol_type: Option<Arc<str>>,
    pub(super) protocol: Option<Arc<str>>,
    pub(super) generation: i32,
    pub(super) leader: Option<MemberId>,
    pub(super) members: BTreeMap<MemberId, Member>,
    /// Static members by `group.instance.id`.
    pub(super) instances: BTreeMap<Arc<str>, MemberId>,
    /// Ids that were given out and have not joined, and until when they may.
    pub(super) pending: BTreeMap<MemberId, DeadlineId>,
    /// Members of this generation that have not asked for their assignment.
    pub(super) pending_sync: BTreeSet<MemberId>,
    /// How many members know each protocol.
    supported: BTreeMap<Arc<str>, usize>,
    /// Members whose JoinGroup waits.
    pub(super) joining: usize,
    /// Somebody joined since the initial delay began.
    pub(super) new_member_added: bool,
    /// What its consumers subscribe to, if that can be told.
    subscribed: Option<BTreeSet<String>>,
    pub(super) join_timer: DeadlineId,
    pub(super) sync_timer: DeadlineId,
    /// There is a record of it.
    pub(super) recorded: bool,
    /// Batches about it that are on their way.
    pub(super) writes: usize,
    /// Who wants it deleted as soon as they have ended.
    pub(super) deletes: Vec<Asker>,
    pub(super) offsets: Offsets,
    /// What there is of it if it uses the consumer protocol: then it is Empty as
    /// far as the rest of this file goes.
    pub(super) consumer: Option<Box<Consumer>>,
}

/// A member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub instance_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub protocols: Vec<(Arc<str>, Bytes)>,
    pub assignment: Bytes,
    /// Has not taken part in a generation yet: it cannot send heartbeats.
    pub is_new: bool,
    /// Its JoinGroup that waits.
    pub join: Option<Asker>,
    /// Its SyncGroup that waits.
    pub sync: Option<Asker>,
    pub session: DeadlineId,
}

impl Member {
    /// What it tells the assignor called `protocol`.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| **name == *protocol);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}

impl Group {
    /// A group without members.
    pub fn new(id: GroupId) -> Self {
        Self {
            id,
            state: State::Empty,
            previous: State::Dead,
            state_since_ms: -1,
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending: BTreeMap::new(),
            pending_sync: BTreeSet::new(),
            supported: BTreeMap::new(),
            joining: 0,
            new_member_added: false,
            subscribed: None,
            join_timer: DeadlineId::default(),
            sync_timer: DeadlineId::default(),
            recorded: false,
            writes: 0,
            deletes: vec![],
            offsets: Offsets::default(),
            consumer: None,
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes on what a record says: the group is Stable, or Empty without
    /// members.
    pub(super) fn load(&mut self, value: GroupValue) {
        self.forget_classic();
        self.recorded = true;
        self.protocol_type = Some(value.protocol_type).filter(|name| !name.is_empty());
        self.protocol = value.protocol;
        self.generation = value.generation;
        self.state_since_ms = value.state_timestamp_ms;
        self.leader = value.leader;
        if !value.members.is_empty() {
            self.state = State::Stable;
        }
        let protocol = self.protocol.clone().unwrap_or_else(|| "".into());
        for row in value.members {
            let member = Member {
                instance_id: row.instance_id,
                client_id: row.client_id,
                client_host: row.client_host,
                rebalance_timeout_ms: row.rebalance_timeout_ms,
                session_timeout_ms: row.session_timeout_ms,
                protocols: vec![(protocol.clone(), row.subscription)],
                assignment: row.assignment,
                is_new: false,
                join: None,
                sync: None,
                session: DeadlineId::default(),
            };
            self.insert(row.member_id, member);
        }
        self.subscribed = self.compute_subscribed();
    }

    /// Forgets what it was by the classic protocol: there is no record of that any
    /// more.
    pub(super) fn forget_classic(&mut self) {
        let new = Self::new(self.id.clone());
        let old = std::mem::replace(self, new);
        (self.offsets, self.consumer) = (old.offsets, old.consumer);
        (self.writes, self.deletes) = (old.writes, old.deletes);
    }

    /// Whoever waits is told to join again, and nobody is waited for.
    pub(super) fn stop_waiting(&mut self, step: &mut Step<'_>) {
        for member in self.members.values_mut() {
            refuse_waiting(member, ErrorCode::RebalanceInProgress, step);
            (member.join, member.sync) = (None, None);
            step.timers.remove(member.session);
        }
        self.joining = 0;
        for (_, deadline) in std::mem::take(&mut self.pending) {
            step.timers.remove(deadline);
        }
        step.timers.remove(self.join_timer);
        step.timers.remove(self.sync_timer);
    }

    /// What there is of it by the consumer protocol, unless it is only about to
    /// change to that.
    pub(super) fn consumers(&self) -> Option<&Consumer> {
        self.consumer.as_deref().filter(|consumer| !consumer.is_upgrading())
    }

    /// Whether nothing is left that anybody could ask about.
    pub(super) fn is_nothing(&self) -> bool {
        self.state == State::Empty
            && self.members.is_empty()
            && self.pending.is_empty()
            && self.offsets.is_empty()
            && !self.recorded
            && self.writes == 0
            && self.consumer.as_ref().is_none_or(|consumer| consumer.is_nothing())
    }

    /// The group as a record; with `assignments` in place of what members have.
    pub(super) fn record(&self, assignments: Option<&BTreeMap<MemberId, Bytes>>) -> Record {
        let protocol = self.protocol.as_deref().unwrap_or("");
        let members = self.members.iter().map(|(id, member)| MemberValue {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(protocol),
            assignment: match assignments {
                Some(assignments) => assignments.get(id).cloned().unwrap_or_default(),
                None => member.assignment.clone(),
            },
        });
        let value = GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| "".into()),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: self.state_since_ms,
            members: members.collect(),
        };
        Record::Group { group: self.id.clone(), value: Some(value) }
    }

    pub(super) fn become_state(&mut self, state: State, step: &Step<'_>) {
        self.previous = std::mem::replace(&mut self.state, state);
        self.state_since_ms = step.now.unix.0;
    }

    /// Adds a member, which becomes the leader if there is none.
    pub(super) fn insert(&mut self, id: MemberId, member: Member) {
        for (name, _) in &member.protocols {
            *self.supported.entry(name.clone()).or_default() += 1;
        }
        if let Some(instance) = &member.instance_id {
            self.instances.insert(instance.clone(), id.clone());
        }
        self.joining += usize::from(member.join.is_some());
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id, member);
    }

    /// Takes a member out, its waiting requests with it.
    fn take(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.forget_protocols(&member.protocols);
        if let Some(instance) = &member.instance_id
            && self.instances.get(instance).is_some_and(|owner| **owner == *id)
        {
            self.instances.remove(instance);
        }
        self.joining -= usize::from(member.join.is_some());
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.pending_sync.remove(id);
        Some(member)
    }

    /// Removes a member; what waits for it is answered with `error`.
    pub(super) fn remove(&mut self, id: &str, error: ErrorCode, step: &mut Step<'_>) {
        if let Some(deadline) = self.pending.remove(id) {
            step.timers.remove(deadline);
        }
        let Some(member) = self.take(id) else { return };
        step.timers.remove(member.session);
        refuse_waiting(&member, error, step);
    }

    /// A static member comes back under a new id and takes its old one's place.
    pub(super) fn replace(&mut self, old: &str, new: &MemberId, step: &mut Step<'_>) {
        let was_leader = self.is_leader(old);
        let mut member = self.take(old).expect("a static member is a member");
        step.timers.remove(member.session);
        refuse_waiting(&member, ErrorCode::FencedInstanceId, step);
        (member.join, member.sync) = (None, None);
        self.insert(new.clone(), member);
        if was_leader {
            self.leader = Some(new.clone());
        }
    }

    /// Changes what a member said of itself when it joined.
    pub(super) fn update(
        &mut self,
        id: &str,
        protocols: Vec<(Arc<str>, Bytes)>,
        rebalance_timeout_ms: i32,
        session_timeout_ms: i32,
    ) {
        for (name, _) in &protocols {
            *self.supported.entry(name.clone()).or_default() += 1;
        }
        let member = self.members.get_mut(id).expect("only members are updated");
        member.rebalance_timeout_ms = rebalance_timeout_ms;
        member.session_timeout_ms = session_timeout_ms;
        let before = std::mem::replace(&mut member.protocols, protocols);
        self.forget_protocols(&before);
    }

    fn forget_protocols(&mut self, protocols: &[(Arc<str>, Bytes)]) {
        for (name, _) in protocols {
            if let Some(count) = self.supported.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.supported.remove(name);
                }
            }
        }
    }

    /// Lets a member's JoinGroup wait. An earlier one that still does is from a
    /// connection that the client has given up.
    pub(super) fn park_join(&mut self, id: &str, asker: Asker, step: &mut Step<'_>) {
        step.out.push(Todo::Parked(asker));
        let member = self.members.get_mut(id).expect("only members wait");
        match member.join.replace(asker) {
            None => self.joining += 1,
            Some(earlier) => {
                let refused = refuse_join(id, ErrorCode::RebalanceInProgress);
                step.out.push(Todo::Late(earlier, refused));
            }
        }
    }

    /// Answers a member's JoinGroup, if it waits.
    pub(super) fn answer_join(&mut self, id: &str, response: Response, step: &mut Step<'_>) {
        let member = self.members.get_mut(id).expect("only members wait");
        if let Some(asker) = member.join.take() {
            self.joining -= 1;
            step.out.push(Todo::Late(asker, response));
        }
    }

    /// Lets a member's SyncGroup wait.
    pub(super) fn park_sync(&mut self, id: &str, asker: Asker, step: &mut Step<'_>) {
        step.out.push(Todo::Parked(asker));
        let member = self.members.get_mut(id).expect("only members wait");
        if let Some(earlier) = member.sync.replace(asker) {
            step.out.push(Todo::Late(earlier, refuse_sync(ErrorCode::RebalanceInProgress)));
        }
    }

    /// Answers everybody who waits: this core is no longer the coordinator.
    pub(super) fn resign(&mut self, step: &mut Step<'_>) {
        self.consumer_resign(step);
        for member in self.members.values_mut() {
            refuse_waiting(member, ErrorCode::NotCoordinator, step);
            (member.join, member.sync) = (None, None);
            step.timers.remove(member.session);
        }
        self.joining = 0;
        for asker in self.deletes.drain(..) {
            step.answer(asker, Response::Deleted(ErrorCode::NotCoordinator));
        }
        for deadline in self.pending.values() {
            step.timers.remove(*deadline);
        }
        step.timers.remove(self.join_timer);
        step.timers.remove(self.sync_timer);
    }

    /// Starts the wait for a member's next sign of life anew.
    pub(super) fn refresh(&mut self, id: &str, step: &mut Step<'_>) {
        if let Some(member) = self.members.get(id) {
            self.refresh_for(id, member.session_timeout_ms, step);
        }
    }

    /// As [`Group::refresh`], with another time.
    pub(super) fn refresh_for(&mut self, id: &str, timeout_ms: i32, step: &mut Step<'_>) {
        let Some((id, member)) = self.members.get_key_value(id) else { return };
        step.timers.remove(member.session);
        let deadline = step.arm(&self.id, timeout_ms, Due::Session(id.clone()));
        let id = id.clone();
        self.members.get_mut(&id).expect("seen above").session = deadline;
    }

    pub(super) fn is_leader(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    /// Whether somebody with these protocols can be a member.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[(Arc<str>, Bytes)]) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        // Whoever has only an id has not said what it knows: without other members any
        // protocol will do.
        let known = |name: &Arc<str>| self.supported.get(name).copied().unwrap_or(0);
        let by_all = |name: &Arc<str>| known(name) == self.members.len();
        let same_type = self.protocol_type.as_deref() == Some(protocol_type);
        same_type && protocols.iter().any(|(name, _)| by_all(name))
    }

    /// The protocol that most members prefer of those that all know.
    pub(super) fn select_protocol(&self) -> Option<Arc<str>> {
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let by_all = |name: &Arc<str>| self.supported.get(name) == Some(&self.members.len());
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| by_all(name)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, votes)| *votes).map(|(name, _)| name.clone())
    }

    /// Begins the next generation with the members that are there.
    pub(super) fn next_generation(&mut self, step: &Step<'_>) {
        self.generation = self.generation.wrapping_add(1).max(0);
        if self.members.is_empty() {
            self.protocol = None;
            self.become_state(State::Empty, step);
        } else {
            self.protocol = self.select_protocol();
            self.become_state(State::CompletingRebalance, step);
        }
        self.subscribed = self.compute_subscribed();
        self.pending_sync.clear();
    }

    fn compute_subscribed(&self) -> Option<BTreeSet<String>> {
        if self.protocol_type.as_deref() != Some(CONSUMER) {
            return None;
        }
        let protocol = self.protocol.as_deref().unwrap_or("");
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = member.metadata(protocol);
            topics.extend(subscribed_topics(&metadata).ok()?.into_iter().map(str::to_owned));
        }
        Some(topics)
    }

    /// Whether its consumers read this topic, as far as can be told.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        if let Some(consumer) = self.consumers() {
            return consumer.is_subscribed_to(topic);
        }
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.protocol_type.as_deref() == Some(CONSUMER) && !self.members.is_empty(),
        }
    }

    /// Whether what consumers subscribe to is known.
    pub(super) fn knows_subscriptions(&self) -> bool {
        self.consumers().is_some() || self.subscribed.is_some()
    }

    /// Whether it has no members, by whatever protocol.
    pub(super) fn is_empty(&self) -> bool {
        let consumers = self.consumer.as_ref();
        self.state == State::Empty && consumers.is_none_or(|consumer| consumer.is_empty())
    }

    /// When the group came into its state, if that is known.
    pub(super) fn state_since_ms(&self) -> Option<i64> {
        (self.state_since_ms >= 0).then_some(self.state_since_ms)
    }

    /// Longest of the members' rebalance timeouts.
    pub(super) fn rebalance_timeout_ms(&self) -> i32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0)
    }

    pub(super) fn all_joined(&self) -> bool {
        self.members.len() == self.joining && self.pending.is_empty()
    }

    /// Why a member may not speak for itself, if so.
    pub(super) fn check_member(
        &self,
        id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ErrorCode> {
        if let Some(instance) = instance_id {
            match self.instances.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(owner) if **owner != *id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// As [`Group::check_member`], and the generation.
    pub(super) fn check_identity(&self, who: &Identity) -> Result<(), ErrorCode> {
        self.check_member(&who.member_id, who.instance_id.as_deref())?;
        if who.generation == self.generation { Ok(()) } else { Err(ErrorCode::IllegalGeneration) }
    }

    /// All members as the leader is told of them.
    pub(super) fn roll(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol.as_deref().unwrap_or("");
        let row = |(id, member): (&MemberId, &Member)| {
            let mut row = JoinGroupResponseMember::default();
            row.member_id = (&**id).into();
            row.group_instance_id = member.instance_id.as_deref().map(Into::into);
            row.metadata = member.metadata(protocol);
            row
        };
        self.members.iter().map(row).collect()
    }

    /// The group as DescribeGroups shows it.
    pub fn describe(&self) -> DescribedGroup {
        let mut row = DescribedGroup::default();
        row.group_id = (&*self.id).into();
        if self.consumers().is_some() {
            row.group_state = State::Dead.name().into();
            row.error_code = ErrorCode::GroupIdNotFound.code();
            row.error_message = Some(format!("Group {} is not a classic group.", self.id).into());
            return row;
        }
        row.group_state = self.state.name().into();
        row.protocol_type = self.protocol_type.as_deref().unwrap_or("").into();
        let stable = self.state == State::Stable;
        let protocol = self.protocol.as_deref().filter(|_| stable).unwrap_or("");
        row.protocol_data = protocol.into();
        for (id, member) in &self.members {
            let mut cell = DescribedGroupMember::default();
            cell.member_id = (&**id).into();
            cell.group_instance_id = member.instance_id.as_deref().map(Into::into);
            cell.client_id = (&*member.client_id).into();
            cell.client_host = (&*member.client_host).into();
            // While the group rebalances there is nothing that is valid for all.
            if stable {
                cell.member_metadata = member.metadata(protocol);
                cell.member_assignment = member.assignment.clone();
            }
            row.members.push(cell);
        }
        row
    }

    /// The group as ListGroups shows it.
    pub fn list(&self) -> ListedGroup {
        if let Some(row) = self.list_consumer() {
            return row;
        }
        let mut row = ListedGroup::default();
        row.group_id = (&*self.id).into();
        row.protocol_type = self.protocol_type.as_deref().unwrap_or("").into();
        row.group_state = self.state.name().into();
        row.group_type = "classic".into();
        row
    }
}

fn refuse_waiting(member: &Member, error: ErrorCode, step: &mut Step<'_>) {
    if let Some(asker) = member.join {
        step.out.push(Todo::Late(asker, refuse_join("", error)));
    }
    if let Some(asker) = member.sync {
        step.out.push(Todo::Late(asker, refuse_sync(error)));
    }
}
