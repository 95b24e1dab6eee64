//! How members come, stay and go: JoinGroup, SyncGroup, Heartbeat, LeaveGroup
//! and the deadlines behind them (the classic part of Kafka's
//! `GroupMetadataManager.java`).
//!
//! Empty or Stable or CompletingRebalance --(somebody joins, leaves, vanishes)->
//! PreparingRebalance --(all joined, or time is up)-> CompletingRebalance
//! --(the leader's assignment is committed)-> Stable. A rebalance of which
//! nobody is left ends in Empty.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::MemberId;
use super::classic::{Group, Member, State};
use super::request::{Asker, Identity, Join, Leaving, Response, Sync, refuse_join, refuse_sync};
use super::step::{Due, Step, Then, Todo};
use crate::base::deadlines::DeadlineId;
use crate::model::error_code::ErrorCode;
use crate::wire::groups::{JoinGroupResponse, SyncGroupResponse};

use bytes::Bytes;

/// How long a new member waits in a rebalance before it has to ask again: it
/// cannot send heartbeats, and may be gone (`classicGroupNewMemberJoinTimeoutMs`).
const NEW_MEMBER_JOIN_TIMEOUT_MS: i32 = 5 * 60 * 1000;

/// Bytes of a client's name that go into a member id.
const NAME_IN_ID_MAX: usize = 255;

impl Group {
    /// JoinGroup.
    pub(super) fn join(&mut self, asker: Asker, join: Join, step: &mut Step<'_>) {
        let settings = step.settings;
        let sessions = settings.min_session_timeout_ms..=settings.max_session_timeout_ms;
        let refused = if !sessions.contains(&join.session_timeout_ms) {
            Err(ErrorCode::InvalidSessionTimeout)
        } else if !self.has_room_for(&join.member_id, settings.max_size) {
            if !join.member_id.is_empty() {
                self.remove(&join.member_id, ErrorCode::GroupMaxSizeReached, step);
            }
            return step.answer(asker, refuse_join("", ErrorCode::GroupMaxSizeReached));
        } else if self.state == State::Dead {
            Err(ErrorCode::CoordinatorNotAvailable)
        } else if !self.supports(&join.protocol_type, &join.protocols) {
            Err(ErrorCode::InconsistentGroupProtocol)
        } else {
            Ok(())
        };
        if let Err(error) = refused {
            return step.answer(asker, refuse_join(&join.member_id, error));
        }
        if join.member_id.is_empty() {
            self.join_new(asker, join, step);
        } else {
            self.join_known(asker, join, step);
        }
    }

    /// Whether the group takes one more, or has this member already
    /// (`acceptJoiningMember`).
    fn has_room_for(&self, id: &str, max: usize) -> bool {
        match self.state {
            State::Empty | State::Dead => true,
            State::PreparingRebalance => {
                let joined = self.members.get(id).is_some_and(|member| member.join.is_some());
                joined || self.joining < max
            }
            State::CompletingRebalance | State::Stable => {
                self.members.contains_key(id) || self.members.len() < max
            }
        }
    }

    fn join_new(&mut self, asker: Asker, join: Join, step: &mut Step<'_>) {
        let id = new_member_id(&join, step);
        if let Some(instance) = &join.instance_id {
            match self.instances.get(instance).cloned() {
                Some(old) => self.join_in_place_of(&old, id, asker, join, step),
                None => self.add(id, asker, join, step),
            }
        } else if join.needs_known_id {
            let session = Due::Session(id.clone());
            let deadline = step.arm(&self.id, join.session_timeout_ms, session);
            self.pending.insert(id.clone(), deadline);
            step.answer(asker, refuse_join(&id, ErrorCode::MemberIdRequired));
        } else {
            self.add(id, asker, join, step);
        }
    }

    fn join_known(&mut self, asker: Asker, join: Join, step: &mut Step<'_>) {
        let id = join.member_id.clone();
        if let Some(deadline) = self.pending.get(&id).copied() {
            if join.instance_id.is_some() {
                // Only dynamic members are given ids to come again with.
                return step.answer(asker, refuse_join(&id, ErrorCode::UnknownMemberId));
            }
            step.timers.remove(deadline);
            self.pending.remove(&id);
            return self.add(id, asker, join, step);
        }
        if let Err(error) = self.check_member(&id, join.instance_id.as_deref()) {
            return step.answer(asker, refuse_join(&id, error));
        }
        let same = self.members[&id].protocols == join.protocols;
        let again = match self.state {
            State::PreparingRebalance => false,
            // It may not have got the answer to its first request.
            State::CompletingRebalance => same,
            // A leader that joins again wants a rebalance, and so does who has
            // something new to tell.
            State::Stable => same && !self.is_leader(&id),
            State::Empty | State::Dead => {
                return step.answer(asker, refuse_join(&id, ErrorCode::UnknownMemberId));
            }
        };
        if again {
            let response = self.joined(&id);
            return step.answer(asker, response);
        }
        let Join { protocols, rebalance_timeout_ms, session_timeout_ms, .. } = join;
        self.update(&id, protocols, rebalance_timeout_ms, session_timeout_ms);
        self.park_join(&id, asker, step);
        self.rebalance_or_complete(step);
    }

    /// Adds a member whose JoinGroup waits from now on.
    fn add(&mut self, id: MemberId, asker: Asker, join: Join, step: &mut Step<'_>) {
        if self.state == State::PreparingRebalance && self.previous == State::Empty {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type);
        }
        let member = Member {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            is_new: true,
            join: None,
            sync: None,
            session: DeadlineId::default(),
        };
        self.insert(id.clone(), member);
        self.park_join(&id, asker, step);
        self.refresh_for(&id, NEW_MEMBER_JOIN_TIMEOUT_MS, step);
        self.rebalance_or_complete(step);
    }

    /// A static member came back (`updateStaticMemberThenRebalanceOrCompleteJoin`).
    fn join_in_place_of(
        &mut self,
        old: &MemberId,
        id: MemberId,
        asker: Asker,
        join: Join,
        step: &mut Step<'_>,
    ) {
        let leader_before = self.leader.clone();
        self.replace(old, &id, step);
        let Join { protocols, rebalance_timeout_ms, session_timeout_ms, .. } = join;
        self.update(&id, protocols, rebalance_timeout_ms, session_timeout_ms);
        self.refresh(&id, step);
        if self.state == State::Stable && self.select_protocol() == self.protocol {
            // Nothing changes for the others. The leader is told to keep the
            // assignment, or if it is too old to understand that, not that it
            // is the leader.
            let mut response = self.joined(&id);
            if let Response::Joined(joined) = &mut response {
                if join.may_skip_assignment {
                    joined.skip_assignment = self.is_leader(&id);
                } else {
                    joined.leader = leader_before.as_deref().unwrap_or("").into();
                    joined.members = vec![];
                }
            }
            let then = Then::Answer(self.id.clone(), asker, response);
            return self.write_self(None, then, step);
        }
        self.park_join(&id, asker, step);
        match self.state {
            // The old id may be with the leader already, so nobody would assign
            // anything to the new one.
            State::CompletingRebalance | State::Stable => self.rebalance_or_complete(step),
            _ => self.complete_join_if_all(step),
        }
    }

    /// The answer to who is a member of the current generation.
    fn joined(&self, id: &str) -> Response {
        let mut response = JoinGroupResponse::default();
        response.generation_id = self.generation;
        response.protocol_type = self.protocol_type.as_deref().map(Into::into);
        response.protocol_name = Some(self.protocol.as_deref().unwrap_or("").into());
        response.leader = self.leader.as_deref().unwrap_or("").into();
        response.member_id = id.into();
        if self.is_leader(id) {
            response.members = self.roll();
        }
        Response::Joined(Box::new(response))
    }

    /// Begins a rebalance, or ends the one that is under way if all are there.
    fn rebalance_or_complete(&mut self, step: &mut Step<'_>) {
        match self.state {
            State::Empty | State::Stable | State::CompletingRebalance => self.rebalance(step),
            State::PreparingRebalance | State::Dead => self.complete_join_if_all(step),
        }
    }

    /// Begins a rebalance.
    pub(super) fn rebalance(&mut self, step: &mut Step<'_>) {
        if self.state == State::CompletingRebalance {
            self.give_up_assignment(ErrorCode::RebalanceInProgress, step);
        }
        step.timers.remove(self.sync_timer);
        let initial = self.state == State::Empty;
        self.become_state(State::PreparingRebalance, step);
        step.timers.remove(self.join_timer);
        if initial {
            let delay_ms = step.settings.initial_rebalance_delay_ms;
            let remaining_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms).max(0);
            self.new_member_added = false;
            let due = Due::InitialJoin { delay_ms, remaining_ms };
            self.join_timer = step.arm(&self.id, delay_ms, due);
        } else if self.all_joined() {
            self.complete_join(step);
        } else {
            self.join_timer = step.arm(&self.id, self.rebalance_timeout_ms(), Due::Join);
        }
    }

    /// The delay of a group's first rebalance is over: waits longer if somebody
    /// has joined meanwhile.
    pub(super) fn initial_join_due(
        &mut self,
        delay_ms: i32,
        remaining_ms: i32,
        step: &mut Step<'_>,
    ) {
        if self.state != State::PreparingRebalance {
            return;
        }
        if std::mem::take(&mut self.new_member_added) && remaining_ms > 0 {
            let next_ms = step.settings.initial_rebalance_delay_ms.min(remaining_ms);
            let remaining_ms = remaining_ms.saturating_sub(delay_ms).max(0);
            let due = Due::InitialJoin { delay_ms: next_ms, remaining_ms };
            self.join_timer = step.arm(&self.id, next_ms, due);
        } else {
            self.complete_join(step);
        }
    }

    fn complete_join_if_all(&mut self, step: &mut Step<'_>) {
        let waits = self.state == State::PreparingRebalance && self.previous != State::Empty;
        if waits && self.all_joined() {
            self.complete_join(step);
        }
    }

    /// Ends the wait for members: whoever is there makes the next generation.
    pub(super) fn complete_join(&mut self, step: &mut Step<'_>) {
        if self.state != State::PreparingRebalance {
            return;
        }
        step.timers.remove(self.join_timer);
        // Static members are given their session timeout to come back.
        let gone: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| member.join.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.remove(&id, ErrorCode::UnknownMemberId, step);
        }
        if !self.elect_joined_leader() && !self.members.is_empty() {
            // Static members only, none of which has come: sessions will tell.
            self.join_timer = step.arm(&self.id, self.rebalance_timeout_ms(), Due::Join);
            return;
        }
        self.next_generation(step);
        if self.state == State::Empty {
            return self.write_self(None, Then::Nothing(self.id.clone()), step);
        }
        let ids: Vec<MemberId> = self.members.keys().cloned().collect();
        tracing::debug!(
            "group {}: generation {} of {} members",
            self.id,
            self.generation,
            ids.len()
        );
        for id in &ids {
            let response = self.joined(id);
            self.answer_join(id, response, step);
            self.refresh(id, step);
            self.members.get_mut(id).expect("listed above").is_new = false;
            self.pending_sync.insert(id.clone());
        }
        let due = Due::Sync(self.generation);
        self.sync_timer = step.arm(&self.id, self.rebalance_timeout_ms(), due);
    }

    /// Makes sure that the leader is one who has joined. False if nobody has.
    fn elect_joined_leader(&mut self) -> bool {
        let joined = |member: &Member| member.join.is_some();
        if self.leader.as_ref().and_then(|id| self.members.get(id)).is_some_and(joined) {
            return true;
        }
        let next = self.members.iter().find(|(_, member)| joined(member));
        let Some((id, _)) = next else { return false };
        self.leader = Some(id.clone());
        true
    }

    /// SyncGroup.
    pub(super) fn sync(&mut self, asker: Asker, sync: Sync, step: &mut Step<'_>) {
        let other =
            |said: &Option<Arc<str>>, known: &Option<Arc<str>>| said.is_some() && said != known;
        let checked = if self.state == State::Dead {
            Err(ErrorCode::CoordinatorNotAvailable)
        } else if let Err(error) = self.check_identity(&sync.member) {
            Err(error)
        } else if other(&sync.protocol_type, &self.protocol_type)
            || other(&sync.protocol, &self.protocol)
        {
            Err(ErrorCode::InconsistentGroupProtocol)
        } else if self.state == State::PreparingRebalance {
            Err(ErrorCode::RebalanceInProgress)
        } else {
            Ok(())
        };
        if let Err(error) = checked {
            return step.answer(asker, refuse_sync(error));
        }
        let id = sync.member.member_id;
        self.synced(&id, step);
        match self.state {
            State::CompletingRebalance => {
                self.park_sync(&id, asker, step);
                if self.is_leader(&id) {
                    self.assign(sync.assignments, step);
                }
            }
            State::Stable => {
                let assignment = self.members[&id].assignment.clone();
                let response = self.sync_response(assignment);
                step.answer(asker, response);
                self.refresh(&id, step);
            }
            State::Empty | State::PreparingRebalance | State::Dead => {
                step.answer(asker, refuse_sync(ErrorCode::UnknownMemberId));
            }
        }
    }

    /// A member of this generation has asked for its assignment.
    fn synced(&mut self, id: &str, step: &mut Step<'_>) {
        self.pending_sync.remove(id);
        if self.pending_sync.is_empty() {
            step.timers.remove(self.sync_timer);
        }
    }

    /// Writes down what the leader assigned. Who is not named gets nothing.
    fn assign(&mut self, rows: Vec<(MemberId, Bytes)>, step: &mut Step<'_>) {
        let mut assignments: BTreeMap<MemberId, Bytes> =
            self.members.keys().map(|id| (id.clone(), Bytes::new())).collect();
        for (id, assignment) in rows {
            if let Some(row) = assignments.get_mut(&id) {
                *row = assignment;
            }
        }
        let then = Then::Assigned {
            group: self.id.clone(),
            generation: self.generation,
            assignments: assignments.clone(),
        };
        self.write_self(Some(&assignments), then, step);
    }

    /// The leader's assignment is committed, or was refused with an error.
    pub(super) fn assigned(
        &mut self,
        generation: i32,
        mut assignments: BTreeMap<MemberId, Bytes>,
        result: Result<(), ErrorCode>,
        step: &mut Step<'_>,
    ) {
        // Another rebalance may have begun meanwhile.
        if self.state != State::CompletingRebalance || self.generation != generation {
            return;
        }
        match result {
            Ok(()) => {
                for (id, member) in &mut self.members {
                    member.assignment = assignments.remove(id).unwrap_or_default();
                }
                self.answer_syncs(ErrorCode::None, step);
                self.become_state(State::Stable, step);
            }
            Err(error) => {
                self.give_up_assignment(error, step);
                self.rebalance(step);
            }
        }
    }

    /// Whoever waits for an assignment is told that there is none.
    fn give_up_assignment(&mut self, error: ErrorCode, step: &mut Step<'_>) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        self.answer_syncs(error, step);
    }

    fn answer_syncs(&mut self, error: ErrorCode, step: &mut Step<'_>) {
        let waiting: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, member)| member.sync.is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for id in waiting {
            let member = self.members.get_mut(&id).expect("listed above");
            let asker = member.sync.take().expect("listed above");
            let assignment = member.assignment.clone();
            let response = match error {
                ErrorCode::None => self.sync_response(assignment),
                error => refuse_sync(error),
            };
            step.out.push(Todo::Late(asker, response));
            self.refresh(&id, step);
        }
    }

    fn sync_response(&self, assignment: Bytes) -> Response {
        let mut response = SyncGroupResponse::default();
        response.protocol_type = self.protocol_type.as_deref().map(Into::into);
        response.protocol_name = self.protocol.as_deref().map(Into::into);
        response.assignment = assignment;
        Response::Synced(Box::new(response))
    }

    /// Heartbeat.
    pub(super) fn heartbeat(&mut self, who: &Identity, step: &mut Step<'_>) -> ErrorCode {
        if self.state == State::Dead {
            return ErrorCode::CoordinatorNotAvailable;
        }
        if let Err(error) = self.check_identity(who) {
            return error;
        }
        match self.state {
            State::Empty | State::Dead => ErrorCode::UnknownMemberId,
            State::PreparingRebalance => {
                self.refresh(&who.member_id, step);
                ErrorCode::RebalanceInProgress
            }
            // Members send heartbeats as soon as they have joined.
            State::CompletingRebalance | State::Stable => {
                self.refresh(&who.member_id, step);
                ErrorCode::None
            }
        }
    }

    /// LeaveGroup: what became of each.
    pub(super) fn leave(&mut self, rows: &[Leaving], step: &mut Step<'_>) -> Vec<ErrorCode> {
        let mut changed = false;
        let mut leave = |row: &Leaving| {
            let by_instance = row.instance_id.as_ref().filter(|_| row.member_id.is_empty());
            let id = match by_instance {
                // An administrator names static members so.
                Some(instance) => self.instances.get(instance).cloned(),
                None => Some(row.member_id.clone()),
            };
            let id = id.ok_or(ErrorCode::UnknownMemberId)?;
            if !self.pending.contains_key(&id) {
                self.check_member(&id, row.instance_id.as_deref())?;
            }
            self.remove(&id, ErrorCode::UnknownMemberId, step);
            changed = true;
            Ok(())
        };
        let codes = rows.iter().map(|row| leave(row).err().unwrap_or(ErrorCode::None)).collect();
        if changed {
            self.after_removal(step);
        }
        codes
    }

    /// A member was not heard of for its session timeout.
    pub(super) fn session_due(&mut self, id: &MemberId, step: &mut Step<'_>) {
        if self.pending.remove(id).is_some() {
            return self.complete_join_if_all(step);
        }
        let Some(member) = self.members.get(id) else { return };
        // Who waits for the others is not expected to send heartbeats, unless it
        // is new: it may be gone without that being seen.
        if !member.is_new && (member.join.is_some() || member.sync.is_some()) {
            return;
        }
        tracing::info!("group {}: member {id} has not been heard of and is removed", self.id);
        self.remove(id, ErrorCode::UnknownMemberId, step);
        self.after_removal(step);
    }

    /// The wait for members to ask for their assignment is over.
    pub(super) fn sync_due(&mut self, generation: i32, step: &mut Step<'_>) {
        let waits = matches!(self.state, State::CompletingRebalance | State::Stable);
        if !waits || self.generation != generation || self.pending_sync.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_sync) {
            tracing::info!("group {}: member {id} has not synced and is removed", self.id);
            self.remove(&id, ErrorCode::UnknownMemberId, step);
        }
        self.rebalance(step);
    }

    fn after_removal(&mut self, step: &mut Step<'_>) {
        match self.state {
            State::Stable | State::CompletingRebalance => self.rebalance(step),
            State::PreparingRebalance => self.complete_join_if_all(step),
            State::Empty | State::Dead => {}
        }
    }

    /// Writes the group down.
    fn write_self(
        &mut self,
        assignments: Option<&BTreeMap<MemberId, Bytes>>,
        then: Then,
        step: &mut Step<'_>,
    ) {
        let record = self.record(assignments);
        self.writes += 1;
        step.out.push(Todo::Write(vec![record], then));
    }
}

/// An id that no member has had: the client's name, or that of its instance,
/// and a random UUID (`ClassicGroup.generateMemberId`).
fn new_member_id(join: &Join, step: &mut Step<'_>) -> MemberId {
    let name = join.instance_id.as_ref().unwrap_or(&join.client_id);
    let mut end = name.len().min(NAME_IN_ID_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let (high, low) = (step.rng.next_u64(), step.rng.next_u64());
    let bits = (u128::from(high) << 64) | u128::from(low);
    let uuid = uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
    format!("{}-{uuid}", &name[..end]).into()
}
