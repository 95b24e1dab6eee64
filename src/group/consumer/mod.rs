//! A group of the consumer protocol (KIP-848, Kafka's `ConsumerGroup.java`).
//!
//! Its members send heartbeats; the broker assigns. [`state`] is what is written
//! down, [`decide`] what a request comes to, [`assign`] who shall have what,
//! [`reconcile`] how a member gets there, [`making`] in which order that goes.
//!
//! Everything is decided on what is committed: while a decision is being made or is
//! on its way, requests and deadlines of the group wait, and are then decided on
//! together. With a large group that takes several slices, each in a turn of its own,
//! and several batches. If a batch is refused, nothing of it has happened but that
//! timers run.
//!
//! Sessions and revocations have deadlines, which are not written: after a restart
//! each member has its time anew.

mod assign;
mod classic;
mod decide;
mod making;
mod reconcile;
mod regex;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use self::assign::Budget;
use self::decide::{Beat, Draft, Env, Refusal};
use self::making::{Making, Progress, Refresh};
use self::state::{AWAY, LEAVING, Member, State, without_epochs};
use super::classic::{self as group, Group};
use super::records::Record;
use super::records::consumer::{Assignment, Change, MemberState};
use super::request::{Ask, Asker, ConsumerHeartbeat, Identity, Response, refuse_beat};
use super::step::{Due, Step, Then, Todo};
use super::{GroupId, MemberId};
use crate::base::deadlines::DeadlineId;
use crate::base::limits::GROUP_SLICE_UNITS;
use crate::config::GroupSettings;
use crate::metadata::image::Image;
use crate::model::error_code::ErrorCode;
use crate::rsm::KeyValue;
use crate::wire::groups::consumer_group_describe_response as described;
use crate::wire::groups::list_groups_response::ListedGroup;
use crate::wire::groups::{
    ConsumerGroupHeartbeatResponse, consumer_group_heartbeat_response as heartbeat_response,
};
use crate::wire::small;

/// Why a heartbeat is not one that a member may send, if so: the answer.
pub(super) fn refusal(beat: &ConsumerHeartbeat, settings: &GroupSettings) -> Option<Response> {
    let Refusal { error, message } = decide::check(beat, settings).err()?;
    Some(refuse_beat(error, Some(&message)))
}

/// A group of the consumer protocol; its offsets are with the [`Group`].
#[derive(Debug, Default)]
pub struct Consumer {
    /// What is committed.
    state: State,
    /// What waits until the batch that is on its way has ended.
    queue: VecDeque<Work>,
    /// What is being decided on; a batch of it may be on its way.
    making: Option<Box<Making>>,
    /// A turn was asked for to go on with that.
    goes_on: bool,
    /// A batch is on its way.
    busy: bool,
    sessions: BTreeMap<MemberId, DeadlineId>,
    revocations: BTreeMap<MemberId, DeadlineId>,
    /// By when classic members have to join, or to ask for their assignment.
    waits: BTreeMap<MemberId, DeadlineId>,
    /// The version of the topics that the group's epoch goes by.
    topics_seen: Option<u64>,
    /// When regular expressions are looked up again.
    refresh: Refresh,
    /// The records that a classic group with members begins to change with; empty
    /// once that is committed.
    upgrade: Vec<Change>,
    /// The batch that is on its way makes it a classic group.
    downgrades: bool,
}

/// Something to decide on.
#[derive(Debug)]
enum Work {
    Heartbeat(Asker, Box<ConsumerHeartbeat>),
    /// A member was not heard of for its session timeout.
    Silent(MemberId),
    /// A member has not given back in time what it was asked to at this epoch.
    Late(MemberId, i32),
    /// JoinGroup, SyncGroup, Heartbeat, LeaveGroup.
    Classic(Asker, Ask),
    /// A classic member has not joined, or asked for its assignment, in time.
    Overdue(MemberId),
}

/// What becomes of the wait for a classic member.
#[derive(Clone, Copy, Debug)]
enum Wait {
    /// It has joined and has to ask for its assignment.
    Begin,
    /// It has been told to join again; an earlier deadline stands.
    Go,
    /// It has asked for its assignment.
    End,
}

/// Who may commit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Committer<'a> {
    /// Whoever asks, all rows.
    All,
    /// A member of an older epoch: what it has had since then (KIP-1251).
    Since(&'a Member, i32),
}

impl Consumer {
    /// Makes the change that a record says.
    pub(super) fn apply(&mut self, change: &Change) {
        self.state.apply(change);
    }

    /// Whether nothing is left of the group, or expected of it.
    pub(super) fn is_nothing(&self) -> bool {
        !self.is_deciding() && self.state.is_nothing() && self.upgrade.is_empty()
    }

    /// Whether it is about to become a classic group.
    pub(super) fn is_downgrading(&self) -> bool {
        self.downgrades
    }

    /// Whether it is still a classic group that has begun to change.
    pub(super) fn is_upgrading(&self) -> bool {
        !self.upgrade.is_empty()
    }

    /// Whether the group has no members, and is about to have none.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_deciding() && self.state.members.is_empty()
    }

    /// Whether something is to be decided on, or on its way.
    fn is_deciding(&self) -> bool {
        self.busy || self.making.is_some() || !self.queue.is_empty()
    }

    /// The records that say nothing is left of the group.
    pub(super) fn tombstones(&self, group: &GroupId) -> Vec<Record> {
        let changes = self.state.tombstones().into_iter();
        changes.map(|change| Record::Consumer { group: group.clone(), change }).collect()
    }

    /// Whether any member subscribes to this topic.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.state.is_subscribed_to(topic)
    }

    /// What of a commit may be done (`ConsumerGroup.validateOffsetCommit`).
    pub(super) fn check_commit(
        &self,
        who: &Identity,
        knows_epochs: bool,
    ) -> Result<Committer<'_>, ErrorCode> {
        if who.generation < 0 && self.state.members.is_empty() {
            return Ok(Committer::All);
        }
        let member = self.state.members.get(&who.member_id);
        let member = member.ok_or(ErrorCode::UnknownMemberId)?;
        if !member.is_classic() && !knows_epochs {
            return Err(ErrorCode::UnsupportedVersion);
        }
        match who.generation {
            epoch if epoch == member.current.epoch => Ok(Committer::All),
            epoch if epoch < member.current.epoch && !member.is_classic() => {
                Ok(Committer::Since(member, epoch))
            }
            _ => Err(stale(member)),
        }
    }

    /// What a member may not read offsets for, if so
    /// (`ConsumerGroup.validateOffsetFetch`).
    pub(super) fn check_fetch(&self, id: &str, epoch: i32) -> Result<(), ErrorCode> {
        let member = self.state.members.get(id).ok_or(ErrorCode::UnknownMemberId)?;
        if member.current.epoch == epoch { Ok(()) } else { Err(stale(member)) }
    }

    fn describe(
        &self,
        id: &GroupId,
        settings: &GroupSettings,
        image: &Image,
    ) -> described::DescribedGroup {
        let mut row = described::DescribedGroup::default();
        row.group_id = (&**id).into();
        row.group_state = self.state.phase().name().into();
        row.group_epoch = self.state.epoch();
        row.assignment_epoch = self.state.target_epoch();
        let draft = Draft::new(self.state.clone());
        row.assignor_name = draft.preferred_assignor(settings).name().into();
        let name = |text: &Arc<str>| small::StrBytes::from(&**text);
        for (id, member) in &self.state.members {
            let metadata = &member.metadata;
            let mut cell = described::Member::default();
            cell.member_id = name(id);
            cell.instance_id = metadata.instance_id.as_ref().map(name);
            cell.rack_id = metadata.rack_id.as_ref().map(name);
            cell.member_epoch = member.current.epoch;
            cell.client_id = name(&metadata.client_id);
            cell.client_host = name(&metadata.client_host);
            cell.subscribed_topic_names = metadata.topics.iter().map(name).collect();
            let regex = Some(&metadata.regex).filter(|regex| !regex.is_empty());
            cell.subscribed_topic_regex = regex.map(name);
            cell.assignment = show(&without_epochs(&member.current.assigned), image);
            cell.target_assignment = show(&self.state.target_of(id), image);
            cell.member_type = if member.is_classic() { 0 } else { 1 };
            row.members.push(cell);
        }
        row
    }
}

/// What decisions leave to do beside their records.
#[derive(Debug, Default)]
struct Done {
    answers: Vec<(Asker, Response)>,
    /// Members that have given a sign of life.
    heard: Vec<MemberId>,
    waits: Vec<(MemberId, Wait)>,
    /// A classic member has left.
    has_left: bool,
    /// It is a classic group from here on.
    is_last: bool,
}

/// Bytes of a record's key and value, about.
fn record_len(record: &Record) -> usize {
    // What may be long is not encoded for this alone.
    if let Record::Consumer { change, .. } = record {
        match change {
            Change::Regex(regex, Some(found)) => {
                return regex.len() + found.topics.iter().map(|name| name.len() + 2).sum::<usize>();
            }
            Change::TargetMember(member, Some(target)) => {
                return member.len() + target.values().map(|one| 18 + 4 * one.len()).sum::<usize>();
            }
            Change::Current(member, Some(current)) => {
                let owned = [&current.assigned, &current.revoking].into_iter();
                let topics = owned.flat_map(|owned| owned.values());
                return member.len() + topics.map(|one| 24 + 8 * one.len()).sum::<usize>();
            }
            _ => {}
        }
    }
    let KeyValue { key, value } = record.encode();
    key.len() + value.map_or(0, |value| value.len())
}

fn stale(member: &Member) -> ErrorCode {
    if member.is_classic() { ErrorCode::IllegalGeneration } else { ErrorCode::StaleMemberEpoch }
}

impl Committer<'_> {
    /// Why an offset of this partition may not be committed, if so.
    pub(super) fn check(self, image: &Image, topic: &str, partition: i32) -> Result<(), ErrorCode> {
        let Committer::Since(member, epoch) = self else { return Ok(()) };
        let assigned_at =
            image.topic(topic).and_then(|topic| member.assigned_at(topic.id, partition));
        match assigned_at {
            Some(at) if at <= epoch => Ok(()),
            _ => Err(stale(member)),
        }
    }
}

impl Group {
    /// ConsumerGroupHeartbeat.
    pub(super) fn consumer_heartbeat(
        &mut self,
        asker: Asker,
        beat: Box<ConsumerHeartbeat>,
        step: &mut Step<'_>,
    ) {
        if self.state() == group::State::Dead {
            return step.answer(asker, refuse_beat(ErrorCode::CoordinatorNotAvailable, None));
        }
        if self.consumer.is_none() {
            let upgrade = match self.state() {
                _ if beat.epoch != 0 => None,
                group::State::Empty => Some(vec![]),
                _ => self.upgrade_records(step),
            };
            let Some(upgrade) = upgrade else {
                let message = format!("Group {} is not a consumer group.", self.id);
                let refused = refuse_beat(ErrorCode::GroupIdNotFound, Some(&message));
                return step.answer(asker, refused);
            };
            self.begin_upgrade(upgrade);
        }
        self.consumer_work(Work::Heartbeat(asker, beat), step);
    }

    /// A member was not heard of for its session timeout.
    pub(super) fn consumer_silent(&mut self, id: MemberId, step: &mut Step<'_>) {
        self.consumer_work(Work::Silent(id), step);
    }

    /// A member has had its rebalance timeout to give partitions back.
    pub(super) fn consumer_late(&mut self, id: MemberId, epoch: i32, step: &mut Step<'_>) {
        self.consumer_work(Work::Late(id, epoch), step);
    }

    /// A classic member has not joined, or asked for its assignment, in time.
    pub(super) fn consumer_overdue(&mut self, id: MemberId, step: &mut Step<'_>) {
        self.consumer_work(Work::Overdue(id), step);
    }

    fn consumer_work(&mut self, work: Work, step: &mut Step<'_>) {
        if let Some(consumer) = &mut self.consumer {
            consumer.queue.push_back(work);
            self.consumer_go_on(step);
        }
    }

    /// Decides on what waits, by a slice, unless a batch is on its way.
    pub(super) fn consumer_go_on(&mut self, step: &mut Step<'_>) {
        let mut budget = Budget::new(GROUP_SLICE_UNITS);
        loop {
            let Some(consumer) = &mut self.consumer else { return };
            if consumer.busy || (consumer.making.is_none() && consumer.queue.is_empty()) {
                break;
            }
            let mut making = match consumer.making.take() {
                Some(making) => making,
                None => {
                    let mut draft = Draft::new(consumer.state.clone());
                    for change in &consumer.upgrade {
                        draft.write(&self.id, change.clone());
                    }
                    let topics_changed = consumer.topics_seen != Some(step.topics_version);
                    let (image, version) = (step.image.clone(), step.topics_version);
                    Box::new(Making::new(draft, image, version, topics_changed))
                }
            };
            let image = making.image.clone();
            let mut env = Env {
                group: &self.id,
                settings: step.settings,
                image: &image,
                now_ms: step.now.unix.0,
                rng: &mut *step.rng,
            };
            let Consumer { queue, refresh, .. } = &mut **consumer;
            let progress = making.go_on(&mut env, queue, refresh, &mut budget);
            if progress == Progress::More {
                consumer.making = Some(making);
                if !std::mem::replace(&mut consumer.goes_on, true) {
                    step.out.push(Todo::GoOn(self.id.clone()));
                }
                break;
            }
            let (draft, done) = (&mut making.draft, &making.done);
            if !making.has_written && draft.records.len() == consumer.upgrade.len() {
                // Nothing is decided, so a classic group stays what it is.
                draft.records.clear();
            }
            if progress == Progress::Done && making.hears {
                consumer.topics_seen = Some(making.topics_version);
            }
            consumer.set_timers(&self.id, draft, done, step);
            let done = std::mem::take(&mut making.done);
            let mut records = std::mem::take(&mut making.draft.records);
            making.written();
            if progress == Progress::Write {
                consumer.making = Some(making);
            }
            if records.is_empty() {
                for (asker, response) in done.answers {
                    step.answer(asker, response);
                }
                if !consumer.upgrade.is_empty() {
                    return self.go_on_classic(false, step);
                }
                continue;
            }
            if self.recorded {
                // It was a classic group until now.
                let gone = Record::Group { group: self.id.clone(), value: None };
                records.insert(0, gone);
            }
            (consumer.busy, consumer.downgrades) = (true, done.is_last);
            // Ids that were given out do not count: their owners will ask again.
            self.stop_waiting(step);
            self.writes += 1;
            let then = Then::Consumer(self.id.clone(), done.answers);
            step.out.push(Todo::Write(records, then));
        }
        if self.consumer.as_ref().is_some_and(|consumer| consumer.is_nothing()) {
            self.consumer = None;
        }
    }

    /// Goes on in a turn that was asked for.
    pub(super) fn consumer_turn(&mut self, step: &mut Step<'_>) {
        if let Some(consumer) = &mut self.consumer {
            consumer.goes_on = false;
            self.consumer_go_on(step);
        }
    }

    /// The batch that was on its way is committed, or was refused.
    pub(super) fn consumer_written(
        &mut self,
        answers: Vec<(Asker, Response)>,
        result: Result<(), ErrorCode>,
        step: &mut Step<'_>,
    ) {
        for (asker, mut response) in answers {
            if let Err(error) = result
                && response.is_success()
            {
                response.fail(error);
            }
            step.answer(asker, response);
        }
        let Some(consumer) = &mut self.consumer else { return };
        consumer.busy = false;
        let upgrades = consumer.is_upgrading();
        if let Err(error) = result {
            if let Some(making) = consumer.making.take() {
                for (asker, response) in making.refuse(error) {
                    step.answer(asker, response);
                }
            }
            consumer.topics_seen = None;
            consumer.downgrades = false;
            if upgrades {
                return self.go_on_classic(true, step);
            }
            // Deadlines of members that stay may have been taken away.
            self.consumer_loaded(step);
        } else if consumer.downgrades {
            return self.go_on_classic(true, step);
        } else if upgrades || self.protocol_type.is_some() {
            consumer.upgrade.clear();
            self.forget_classic();
            // Members that were taken over have to be heard of, too.
            self.consumer_loaded(step);
        }
        self.consumer_go_on(step);
    }

    /// All records are read: members have their time from now on.
    pub(super) fn consumer_loaded(&mut self, step: &mut Step<'_>) {
        let Some(consumer) = &mut self.consumer else { return };
        let rows: Vec<(MemberId, Arc<Member>)> = consumer
            .state
            .members
            .iter()
            .map(|(id, member)| (id.clone(), member.clone()))
            .collect();
        for (id, member) in rows {
            consumer.await_sign(&self.id, &id, &member, step);
            consumer.await_revocation(&self.id, &id, &member, step);
        }
    }

    /// The group is told that this core does not coordinate it any more.
    pub(super) fn consumer_resign(&mut self, step: &mut Step<'_>) {
        let Some(consumer) = &mut self.consumer else { return };
        if let Some(making) = consumer.making.take() {
            for (asker, response) in making.refuse(ErrorCode::NotCoordinator) {
                step.answer(asker, response);
            }
        }
        for work in consumer.queue.drain(..) {
            match work {
                Work::Heartbeat(asker, _) => {
                    step.answer(asker, refuse_beat(ErrorCode::NotCoordinator, None));
                }
                Work::Classic(asker, ask) => {
                    step.answer(asker, ask.refuse(&self.id, ErrorCode::NotCoordinator));
                }
                Work::Silent(_) | Work::Late(..) | Work::Overdue(_) => {}
            }
        }
        for timers in [&mut consumer.sessions, &mut consumer.revocations, &mut consumer.waits] {
            for (_, deadline) in std::mem::take(timers) {
                step.timers.remove(deadline);
            }
        }
    }

    /// The group as ConsumerGroupDescribe shows it.
    pub(super) fn describe_consumers(&self, step: &Step<'_>) -> Response {
        let row = match self.consumers() {
            Some(consumer) => consumer.describe(&self.id, step.settings, step.image),
            None => {
                let mut row = described::DescribedGroup::default();
                row.group_id = (&*self.id).into();
                row.error_code = ErrorCode::GroupIdNotFound.code();
                let message = format!("Group {} is not a consumer group.", self.id);
                row.error_message = Some(message.into());
                row
            }
        };
        Response::ConsumersDescribed(Box::new(row))
    }

    /// A group of the consumer protocol as ListGroups shows it; none if it is not.
    pub(super) fn list_consumer(&self) -> Option<ListedGroup> {
        let consumer = self.consumers()?;
        let mut row = ListedGroup::default();
        row.group_id = (&*self.id).into();
        row.protocol_type = "consumer".into();
        row.group_state = consumer.state.phase().name().into();
        row.group_type = "consumer".into();
        Some(row)
    }
}

impl Consumer {
    /// Sets the deadlines that follow from a batch, committed or not: what is due
    /// is checked when it is.
    fn set_timers(&mut self, group: &GroupId, draft: &Draft, done: &Done, step: &mut Step<'_>) {
        for record in &draft.records {
            let Record::Consumer { change, .. } = record else { continue };
            match change {
                Change::Member(id, None) => {
                    for timers in [&mut self.sessions, &mut self.revocations, &mut self.waits] {
                        if let Some(deadline) = timers.remove(id) {
                            step.timers.remove(deadline);
                        }
                    }
                }
                Change::Current(id, Some(_)) => {
                    if let Some(member) = draft.state.members.get(id) {
                        self.await_revocation(group, id, member, step);
                    }
                }
                _ => {}
            }
        }
        for id in &done.heard {
            if let Some(member) = draft.state.members.get(id) {
                self.await_sign(group, id, member, step);
            }
        }
        for (id, wait) in &done.waits {
            if let Wait::Begin | Wait::End = wait
                && let Some(deadline) = self.waits.remove(id)
            {
                step.timers.remove(deadline);
            }
            let Some(member) = draft.state.members.get(id) else { continue };
            if !matches!(wait, Wait::End) && !self.waits.contains_key(id) {
                let timeout_ms = member.metadata.rebalance_timeout_ms;
                let deadline = step.arm(group, timeout_ms, Due::Overdue(id.clone()));
                self.waits.insert(id.clone(), deadline);
            }
        }
    }

    fn await_sign(&mut self, group: &GroupId, id: &MemberId, member: &Member, step: &mut Step<'_>) {
        let classic = member.metadata.classic.as_ref();
        let timeout_ms = match classic {
            Some(classic) => classic.session_timeout_ms,
            None => step.settings.consumer.session_timeout_ms(step.image.group_config(group)),
        };
        let deadline = step.arm(group, timeout_ms, Due::Session(id.clone()));
        if let Some(earlier) = self.sessions.insert(id.clone(), deadline) {
            step.timers.remove(earlier);
        }
    }

    fn await_revocation(
        &mut self,
        group: &GroupId,
        id: &MemberId,
        member: &Member,
        step: &mut Step<'_>,
    ) {
        if let Some(earlier) = self.revocations.remove(id) {
            step.timers.remove(earlier);
        }
        // Members of the classic protocol have a time to join again instead.
        let revokes = member.current.state == MemberState::UnrevokedPartitions;
        if revokes && !member.is_classic() {
            let due = Due::Revocation(id.clone(), member.current.epoch);
            let deadline = step.arm(group, member.metadata.rebalance_timeout_ms, due);
            self.revocations.insert(id.clone(), deadline);
        }
    }
}

fn beat_response(beat: Beat, heartbeat_interval_ms: i32) -> Response {
    let mut response = ConsumerGroupHeartbeatResponse::default();
    response.member_id = Some((&*beat.member_id).into());
    response.member_epoch = beat.epoch;
    if !matches!(beat.epoch, LEAVING | AWAY) {
        response.heartbeat_interval_ms = heartbeat_interval_ms;
    }
    response.assignment = beat.assignment.map(|assignment| {
        let mut out = heartbeat_response::Assignment::default();
        for (topic, partitions) in assignment {
            let mut row = heartbeat_response::TopicPartitions::default();
            row.topic_id = small::uuid(topic);
            row.partitions = partitions.into_iter().collect();
            out.topic_partitions.push(row);
        }
        out
    });
    Response::Beat(Box::new(response))
}

/// An assignment by names; topics that are gone have none.
fn show(assignment: &Assignment, image: &Image) -> described::Assignment {
    let mut out = described::Assignment::default();
    for (id, partitions) in assignment {
        let Some(topic) = image.topic_by_id(*id) else { continue };
        let mut row = described::TopicPartitions::default();
        row.topic_id = small::uuid(*id);
        row.topic_name = (&*topic.name).into();
        row.partitions = partitions.iter().copied().collect();
        out.topic_partitions.push(row);
    }
    out
}
