//! Members of the classic protocol in a group of the consumer protocol, and how a
//! group changes from one protocol to the other.
//!
//! Such a member joins, and is assigned to like any other; instead of heartbeats of
//! its own it is told to join again when there is something to give back or to take
//! on, and gets its assignment by SyncGroup. Its generation is its member epoch
//! (`classicGroupJoinToConsumerGroup` and its neighbours).
//!
//! A classic group is upgraded when a member of the consumer protocol joins it: its
//! members stay, with what they have. A group of the consumer protocol is downgraded
//! when the last such member is gone and others are left. Either is one batch with
//! what caused it (`group.consumer.migration.policy`). A group without members takes
//! on the protocol of whoever joins.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::decide::{Draft, Env, Heard, new_id};
use super::making::Follow;
use super::state::Member;
use super::{Consumer, Done, Wait, Work};
use crate::group::MemberId;
use crate::group::classic::{self, Group};
use crate::group::records::consumer::{
    Assignment, Change, ClassicMetadata, CurrentAssignment, GroupEpoch, MemberMetadata,
    MemberState, Owned, TargetEpoch,
};
use crate::group::records::{GroupValue, MemberValue, Record};
use crate::group::request::{
    Ask, Asker, Identity, Join, Leaving, Response, Sync, refuse_beat, refuse_join, refuse_sync,
};
use crate::group::step::{Step, Then, Todo};
use crate::metadata::image::Image;
use crate::model::error_code::ErrorCode;
use crate::wire::groups::{
    JoinGroupResponse, SyncGroupResponse, decode_assignment, decode_subscription, encode_assignment,
};

/// The protocol type of consumers.
const CONSUMER: &str = "consumer";

impl Draft {
    /// Decides on a request of a member of the classic protocol; who joins is still
    /// to be moved on.
    ///
    /// # Errors
    /// What who joins is told instead, as whom; whatever was added to the draft does
    /// not count.
    pub(super) fn classic(
        &mut self,
        env: &mut Env<'_>,
        asker: Asker,
        ask: Ask,
        done: &mut Done,
    ) -> Result<Option<Follow>, (Asker, MemberId, ErrorCode)> {
        let response = match ask {
            Ask::Join(join) => {
                return match self.classic_join(env, &join) {
                    Ok((heard, owned)) => Ok(Some(Follow::Join(asker, join, heard, owned))),
                    Err((id, error)) => Err((asker, id, error)),
                };
            }
            Ask::Sync(sync) => match self.classic_sync(env.image, &sync) {
                Ok(response) => {
                    done.heard.push(sync.member.member_id.clone());
                    done.waits.push((sync.member.member_id.clone(), Wait::End));
                    Response::Synced(Box::new(response))
                }
                Err(error) => {
                    if error == ErrorCode::RebalanceInProgress {
                        done.waits.push((sync.member.member_id.clone(), Wait::Go));
                    }
                    refuse_sync(error)
                }
            },
            Ask::Heartbeat(who) => match self.classic_member(&who) {
                Ok(member) => {
                    done.heard.push(who.member_id.clone());
                    if self.has_to_rejoin(&who.member_id, member) {
                        done.waits.push((who.member_id.clone(), Wait::Go));
                        Response::Heartbeat(ErrorCode::RebalanceInProgress)
                    } else {
                        Response::Heartbeat(ErrorCode::None)
                    }
                }
                Err(error) => Response::Heartbeat(error),
            },
            Ask::Leave(rows) => {
                let codes = self.classic_leave(env, &rows);
                done.has_left = true;
                Response::Left(ErrorCode::None, codes)
            }
            other => unreachable!("{other:?} is no request of a classic member"),
        };
        done.answers.push((asker, response));
        Ok(None)
    }

    fn classic_join(
        &mut self,
        env: &mut Env<'_>,
        join: &Join,
    ) -> Result<(Heard, Assignment), (MemberId, ErrorCode)> {
        let refuse = |error: ErrorCode| Err((join.member_id.clone(), error));
        let settings = env.settings;
        let sessions = settings.min_session_timeout_ms..=settings.max_session_timeout_ms;
        if !sessions.contains(&join.session_timeout_ms) {
            return refuse(ErrorCode::InvalidSessionTimeout);
        }
        let known = self.state.members.contains_key(&join.member_id);
        if !known && self.state.members.len() >= settings.consumer.max_size {
            return refuse(ErrorCode::GroupMaxSizeReached);
        }
        let first = join.protocols.first().filter(|_| *join.protocol_type == *CONSUMER);
        let Some((_, metadata)) = first.filter(|_| self.know_one_of(&join.protocols)) else {
            return refuse(ErrorCode::InconsistentGroupProtocol);
        };
        let Ok(subscription) = decode_subscription(metadata) else {
            return refuse(ErrorCode::InconsistentGroupProtocol);
        };
        let is_new = join.member_id.is_empty();
        let id = if is_new { new_id(env.rng) } else { join.member_id.clone() };
        if is_new && join.needs_known_id {
            return Err((id, ErrorCode::MemberIdRequired));
        }
        let before = match &join.instance_id {
            None => self.state.members.get(&id).map(|member| (**member).clone()),
            Some(instance) => match self.state.instance(instance).cloned() {
                Some(old) if is_new => Some(self.replace(env.group, &old, &id)),
                Some(owner) if owner != id => return refuse(ErrorCode::FencedInstanceId),
                Some(_) => self.state.members.get(&id).map(|member| (**member).clone()),
                None if is_new => None,
                None => return refuse(ErrorCode::UnknownMemberId),
            },
        };
        let before = before.unwrap_or_default();
        let after = MemberMetadata {
            instance_id: join.instance_id.clone().or_else(|| before.metadata.instance_id.clone()),
            rack_id: subscription.rack.map(Arc::from).or_else(|| before.metadata.rack_id.clone()),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            topics: subscription.topics.iter().map(|name| Arc::from(*name)).collect(),
            regex: "".into(),
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            assignor: before.metadata.assignor.clone(),
            classic: Some(ClassicMetadata {
                session_timeout_ms: join.session_timeout_ms,
                protocols: join.protocols.clone(),
            }),
        };
        let changed =
            after.topics != before.metadata.topics || after.regex != before.metadata.regex;
        let regex = &before.metadata.regex;
        if !regex.is_empty() && self.state.subscribed_by(regex) == 1 {
            self.forget_regex(env.group, regex);
        }
        if after != before.metadata || !self.state.members.contains_key(&id) {
            self.write(env.group, Change::Member(id.clone(), Some(after)));
        }
        self.bump |= changed || self.state.epoch() == 0;
        let owned = by_id(subscription.owned.into_iter(), env.image);
        if before.current.state == MemberState::Unknown && !owned.is_empty() {
            return Err((id, ErrorCode::FencedMemberEpoch));
        }
        Ok((Heard { id, changed, before: before.current.assigned }, owned))
    }

    /// The next step of a member that has joined, once there is a target.
    pub(super) fn classic_joined(
        &mut self,
        env: &Env<'_>,
        join: &Join,
        heard: Heard,
        owned: &Assignment,
        done: &mut Done,
    ) -> Response {
        let id = heard.id;
        let current = match self.reconcile(env, &id, heard.changed, Some(owned)) {
            Ok(current) => current,
            Err(refusal) => return refuse_join(&id, refusal.error),
        };
        let mut response = JoinGroupResponse::default();
        response.generation_id = current.epoch;
        response.protocol_type = Some(CONSUMER.into());
        response.protocol_name = join.protocols.first().map(|(name, _)| (&**name).into());
        response.member_id = (&*id).into();
        done.heard.push(id.clone());
        done.waits.push((id, Wait::Begin));
        Response::Joined(Box::new(response))
    }

    /// Whether all members of the classic protocol know one of these.
    fn know_one_of(&self, protocols: &[(Arc<str>, Bytes)]) -> bool {
        let knows = |classic: &ClassicMetadata, name: &Arc<str>| {
            classic.protocols.iter().any(|(known, _)| known == name)
        };
        protocols.iter().any(|(name, _)| {
            let mut others =
                self.state.members.values().filter_map(|member| member.metadata.classic.as_ref());
            others.all(|classic| knows(classic, name))
        })
    }

    /// A member that uses the classic protocol, in its generation.
    fn classic_member(&self, who: &Identity) -> Result<&Member, ErrorCode> {
        if let Some(instance) = &who.instance_id {
            match self.state.instance(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(owner) if *owner != who.member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        let member = self.state.members.get(&who.member_id).filter(|member| member.is_classic());
        let member = member.ok_or(ErrorCode::UnknownMemberId)?;
        if member.current.epoch == who.generation {
            Ok(member)
        } else {
            Err(ErrorCode::IllegalGeneration)
        }
    }

    /// Whether a member has something to give back, to take on, or to hear of.
    fn has_to_rejoin(&self, id: &MemberId, member: &Member) -> bool {
        let waits = || {
            let target = self.state.target_of(id);
            let mut missing = target.iter().flat_map(|(topic, partitions)| {
                partitions.iter().map(|partition| (*topic, *partition))
            });
            missing.any(|(topic, partition)| {
                self.state.owner(topic, partition).is_some_and(|owner| owner != id)
            })
        };
        member.current.epoch < self.state.epoch()
            || match member.current.state {
                MemberState::UnrevokedPartitions => true,
                MemberState::UnreleasedPartitions => !waits(),
                MemberState::Stable | MemberState::Unknown => false,
            }
    }

    fn classic_sync(&self, image: &Image, sync: &Sync) -> Result<SyncGroupResponse, ErrorCode> {
        let member = self.classic_member(&sync.member)?;
        let classic = member.metadata.classic.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
        let protocol = classic.protocols.first().map(|(name, _)| name);
        let other_type = sync.protocol_type.as_deref().is_some_and(|name| name != CONSUMER);
        if other_type || sync.protocol.is_some() && sync.protocol.as_ref() != protocol {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        let revokes = member.current.state == MemberState::UnrevokedPartitions;
        if member.current.epoch < self.state.epoch() && !revokes {
            return Err(ErrorCode::RebalanceInProgress);
        }
        let mut response = SyncGroupResponse::default();
        response.protocol_type = Some(CONSUMER.into());
        response.protocol_name = protocol.map(|name| (&**name).into());
        response.assignment = by_name(&member.current.assigned, image);
        Ok(response)
    }

    fn classic_leave(&mut self, env: &Env<'_>, rows: &[Leaving]) -> Vec<ErrorCode> {
        let mut leaving = vec![];
        let mut find = |row: &Leaving| {
            let by_instance =
                row.instance_id.as_ref().map(|instance| self.state.instance(instance));
            let id = match by_instance {
                // An administrator names static members so, whatever their protocol.
                Some(owner) if row.member_id.is_empty() => {
                    owner.ok_or(ErrorCode::UnknownMemberId)?.clone()
                }
                Some(None) => return Err(ErrorCode::UnknownMemberId),
                Some(Some(owner)) if *owner != row.member_id => {
                    return Err(ErrorCode::FencedInstanceId);
                }
                _ => {
                    let member = self.state.members.get(&row.member_id);
                    member.filter(|m| m.is_classic()).ok_or(ErrorCode::UnknownMemberId)?;
                    row.member_id.clone()
                }
            };
            if !leaving.contains(&id) {
                leaving.push(id);
            }
            Ok(())
        };
        let codes = rows.iter().map(|row| find(row).err().unwrap_or(ErrorCode::None)).collect();
        self.fence(env, &leaving);
        codes
    }

    /// Whether only members of the classic protocol are left, so that it may become a
    /// classic group.
    pub(super) fn can_downgrade(&self, env: &Env<'_>) -> bool {
        let members = &self.state.members;
        env.settings.consumer.migration.downgrades()
            && !members.is_empty()
            && members.len() <= env.settings.max_size
            && members.values().all(|member| member.is_classic())
            && self.common_protocol().is_some()
    }

    /// Makes it a classic group if that may be. Nothing more is decided on this draft
    /// then.
    pub(super) fn downgrade(&mut self, env: &Env<'_>, done: &mut Done) {
        let members = &self.state.members;
        let protocol = self.can_downgrade(env).then(|| self.common_protocol()).flatten();
        let Some(protocol) = protocol else { return };
        let row = |(id, member): (&MemberId, &Arc<Member>)| {
            let classic = member.metadata.classic.as_ref().expect("all are classic");
            let said = classic.protocols.iter().find(|(name, _)| *name == protocol);
            MemberValue {
                member_id: id.clone(),
                instance_id: member.metadata.instance_id.clone(),
                client_id: member.metadata.client_id.clone(),
                client_host: member.metadata.client_host.clone(),
                rebalance_timeout_ms: member.metadata.rebalance_timeout_ms,
                session_timeout_ms: classic.session_timeout_ms,
                subscription: said.map(|(_, said)| said.clone()).unwrap_or_default(),
                assignment: by_name(&member.current.assigned, env.image),
            }
        };
        // The one that they are in, so that they may still commit what they have read.
        let generation = members.values().map(|member| member.current.epoch).max().unwrap_or(0);
        let generation = generation.max(0);
        let value = GroupValue {
            protocol_type: CONSUMER.into(),
            generation,
            protocol: Some(protocol.clone()),
            leader: members.keys().next().cloned(),
            state_timestamp_ms: env.now_ms,
            members: members.iter().map(row).collect(),
        };
        tracing::info!("group {}: only classic members are left", env.group);
        for change in self.state.tombstones() {
            self.write(env.group, change);
        }
        self.records.push(Record::Group { group: env.group.clone(), value: Some(value) });
        done.is_last = true;
    }

    /// A protocol that all members of the classic protocol know.
    fn common_protocol(&self) -> Option<Arc<str>> {
        let first = self.state.members.values().next()?.metadata.classic.as_ref()?;
        let known = first.protocols.iter();
        let known = known.map(|(name, metadata)| (name.clone(), metadata.clone()));
        known.map(|row| [row]).find(|row| self.know_one_of(row)).map(|[(name, _)]| name)
    }
}

impl Group {
    /// JoinGroup, SyncGroup, Heartbeat, LeaveGroup for a group of the consumer
    /// protocol.
    pub(in crate::group) fn classic_ask(&mut self, asker: Asker, ask: Ask, step: &mut Step<'_>) {
        let joins = matches!(&ask, Ask::Join(join) if join.member_id.is_empty());
        if joins && self.is_empty() {
            self.become_classic(step);
            self.ask_classic(asker, ask, step);
        } else {
            self.consumer_work(Work::Classic(asker, ask), step);
        }
    }

    /// Forgets that it was a group of the consumer protocol, whose last member
    /// has left.
    fn become_classic(&mut self, step: &mut Step<'_>) {
        self.consumer_resign(step);
        let Some(consumer) = self.consumer.take() else { return };
        let records = consumer.tombstones(&self.id);
        if !records.is_empty() {
            self.writes += 1;
            step.out.push(Todo::Write(records, Then::Nothing(self.id.clone())));
        }
    }

    /// Whether a classic group with members may become one of the consumer
    /// protocol (`validateOnlineUpgrade`), and the records that it begins with.
    pub(super) fn upgrade_records(&self, step: &Step<'_>) -> Option<Vec<Change>> {
        let settings = &step.settings.consumer;
        let can = settings.migration.upgrades()
            && self.members.len() <= settings.max_size
            && self.protocol_type.as_deref() == Some(CONSUMER);
        if !can {
            return None;
        }
        let epoch = self.generation;
        let (mut members, mut targets, mut currents) = (vec![], vec![], vec![]);
        for (id, member) in &self.members {
            let protocol = self.protocol.as_deref().unwrap_or("");
            let said = match member.metadata(protocol) {
                said if said.is_empty() => member.protocols.first()?.1.clone(),
                said => said,
            };
            let subscription = decode_subscription(&said).ok()?;
            let assigned = decode_assignment(&member.assignment).ok()?;
            let rows = assigned.iter().map(|(name, partitions)| (&**name, partitions.clone()));
            let assigned = by_id(rows, step.image);
            let metadata = MemberMetadata {
                instance_id: member.instance_id.clone(),
                rack_id: subscription.rack.map(Arc::from),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                topics: subscription.topics.iter().map(|name| Arc::from(*name)).collect(),
                regex: "".into(),
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                assignor: None,
                classic: Some(ClassicMetadata {
                    session_timeout_ms: member.session_timeout_ms,
                    protocols: member.protocols.clone(),
                }),
            };
            let has = assigned.iter().map(|(topic, partitions)| {
                (*topic, partitions.iter().map(|partition| (*partition, epoch)).collect())
            });
            let current = CurrentAssignment {
                epoch,
                previous_epoch: epoch,
                state: MemberState::Stable,
                assigned: has.collect(),
                revoking: Owned::new(),
            };
            members.push(Change::Member(id.clone(), Some(metadata)));
            targets.push(Change::TargetMember(id.clone(), Some(Arc::new(assigned))));
            currents.push(Change::Current(id.clone(), Some(current)));
        }
        let mut changes = members;
        changes.push(Change::Group(Some(GroupEpoch { epoch, metadata_hash: 0 })));
        changes.extend(targets);
        let timestamp_ms = step.now.unix.0;
        changes.push(Change::Target(Some(TargetEpoch { epoch, timestamp_ms })));
        changes.extend(currents);
        Some(changes)
    }

    /// Begins to change to the consumer protocol with these records.
    pub(super) fn begin_upgrade(&mut self, changes: Vec<Change>) {
        let consumer = Consumer { upgrade: changes, ..Consumer::default() };
        self.consumer = Some(Box::new(consumer));
    }

    /// It is a classic group, again or still. If it has begun to change, members
    /// have their time from now on, and join again. What has waited for the other
    /// protocol goes on.
    pub(super) fn go_on_classic(&mut self, has_begun: bool, step: &mut Step<'_>) {
        let Some(mut consumer) = self.consumer.take() else { return };
        let queue = std::mem::take(&mut consumer.queue);
        self.consumer = Some(consumer);
        self.consumer_resign(step);
        self.consumer = None;
        if has_begun && !self.members.is_empty() {
            let ids: Vec<MemberId> = self.members.keys().cloned().collect();
            for id in ids {
                self.refresh(&id, step);
            }
            self.become_state(classic::State::Stable, step);
            self.rebalance(step);
        }
        for work in queue {
            match work {
                Work::Classic(asker, ask) if self.consumer.is_none() => {
                    self.ask_classic(asker, ask, step);
                }
                Work::Classic(asker, ask) => self.classic_ask(asker, ask, step),
                Work::Heartbeat(asker, _) => {
                    step.answer(asker, refuse_beat(ErrorCode::CoordinatorNotAvailable, None));
                }
                // Deadlines are those of the classic group from now on.
                Work::Silent(_) | Work::Late(..) | Work::Overdue(_) => {}
            }
        }
    }
}

/// Partitions by the ids of topics; those of topics that are gone are left out.
fn by_id<'a>(rows: impl Iterator<Item = (&'a str, Vec<i32>)>, image: &Image) -> Assignment {
    let mut assignment = Assignment::new();
    for (name, partitions) in rows {
        if let Some(topic) = image.topic(name) {
            assignment.entry(topic.id).or_default().extend(partitions);
        }
    }
    assignment
}

/// As members of the classic protocol are told what they have.
fn by_name(owned: &Owned, image: &Image) -> Bytes {
    let rows = owned.iter().filter_map(|(topic, partitions)| {
        let name = image.topic_by_id(*topic)?.name.to_string();
        Some((name, partitions.keys().copied().collect()))
    });
    encode_assignment(&rows.collect::<BTreeMap<String, Vec<i32>>>()).into()
}
