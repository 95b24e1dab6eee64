//! The offsets that a group has committed (Kafka's `OffsetMetadataManager.java`).
//!
//! What is here is committed: offsets arrive by records alone. Who may commit
//! depends on the group's state, and so does when offsets expire.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::classic::{Group, State};
use super::consumer::Committer;
use super::records::{CommittedOffset, Record};
use super::request::{
    Asker, Commit, Fetch, FetchedOffset, FetchedTopic, Response, TopicPartitions,
};
use super::step::{Step, Then, Todo};
use crate::model::error_code::ErrorCode;

/// Offsets that are removed with one batch: it stays well below
/// `max.message.bytes`.
const REMOVED_AT_ONCE_MAX: usize = 2_000;

/// Committed offsets by topic and partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>,
}

impl Offsets {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// The offset of a partition.
    pub fn get(&self, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.topics.get(topic)?.get(&partition)
    }

    /// Makes the change that a record says.
    pub(super) fn apply(
        &mut self,
        topic: Arc<str>,
        partition: i32,
        offset: Option<CommittedOffset>,
    ) {
        match offset {
            Some(offset) => drop(self.topics.entry(topic).or_default().insert(partition, offset)),
            None => {
                if let Some(partitions) = self.topics.get_mut(&topic) {
                    partitions.remove(&partition);
                    if partitions.is_empty() {
                        self.topics.remove(&topic);
                    }
                }
            }
        }
    }

    /// Records that remove the offsets which `gone` says yes to.
    fn tombstones(
        &self,
        group: &Arc<str>,
        mut gone: impl FnMut(&Arc<str>, i32, &CommittedOffset) -> bool,
    ) -> Vec<Record> {
        let mut records = vec![];
        for (topic, partitions) in &self.topics {
            for (partition, offset) in partitions {
                if gone(topic, *partition, offset) {
                    records.push(Record::Offset {
                        group: group.clone(),
                        topic: topic.clone(),
                        partition: *partition,
                        offset: None,
                    });
                }
            }
        }
        records
    }

    fn len(&self) -> usize {
        self.topics.values().map(BTreeMap::len).sum()
    }
}

impl Group {
    /// OffsetCommit. Rows are answered one by one.
    pub(super) fn commit(&mut self, asker: Asker, commit: Commit, step: &mut Step<'_>) {
        let committer = match self.check_commit(&commit) {
            Ok(committer) => committer,
            Err(error) => {
                let codes = vec![error; commit.rows.len()];
                return step.answer(asker, Response::Committed(codes));
            }
        };
        let row_checks: Vec<Result<(), ErrorCode>> = commit
            .rows
            .iter()
            .map(|row| committer.check(step.image, &row.topic, row.partition))
            .collect();
        // Committing is a sign of life.
        if matches!(self.state, State::Stable | State::PreparingRebalance) {
            self.refresh(&commit.member.member_id, step);
        }
        let now = step.now.unix.0;
        let expire = commit.retention_ms.map_or(-1, |retention| now.saturating_add(retention));
        let metadata_max = step.settings.offset_metadata_max_bytes;
        let (mut codes, mut records) = (vec![], vec![]);
        for (row, check) in commit.rows.into_iter().zip(row_checks) {
            if let Err(error) = check {
                codes.push(error);
                continue;
            }
            if row.metadata.len() > metadata_max {
                codes.push(ErrorCode::OffsetMetadataTooLarge);
                continue;
            }
            codes.push(ErrorCode::None);
            let offset = CommittedOffset {
                offset: row.offset,
                leader_epoch: row.leader_epoch,
                metadata: row.metadata,
                commit_timestamp_ms: now,
                expire_timestamp_ms: expire,
            };
            records.push(Record::Offset {
                group: self.id.clone(),
                topic: row.topic,
                partition: row.partition,
                offset: Some(offset),
            });
        }
        let then = Then::Answer(self.id.clone(), asker, Response::Committed(codes));
        self.write(records, then, step);
    }

    /// `ClassicGroup.validateOffsetCommit`.
    fn check_commit(&self, commit: &Commit) -> Result<Committer<'_>, ErrorCode> {
        let who = &commit.member;
        if self.state == State::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        if let Some(consumer) = self.consumers() {
            return consumer.check_commit(who, commit.knows_epochs);
        }
        if who.generation < 0 && self.state == State::Empty {
            return Ok(Committer::All); // Whoever assigns partitions itself, or an administrator.
        }
        if who.generation < 0 && who.member_id.is_empty() && who.instance_id.is_none() {
            return Err(ErrorCode::UnknownMemberId); // Only members of a group that has some.
        }
        self.check_identity(who)?;
        if self.state == State::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(Committer::All)
    }

    /// OffsetFetch.
    pub(super) fn answer_fetch(&self, asker: Asker, fetch: &Fetch, step: &mut Step<'_>) {
        // Only members of the consumer protocol are told when they are behind.
        let checked = match (self.consumers(), &fetch.member) {
            (Some(consumer), Some((id, epoch))) => consumer.check_fetch(id, *epoch),
            _ => Ok(()),
        };
        let fetched = checked.map(|()| self.fetch(fetch.topics.as_deref()));
        step.answer(asker, Response::Fetched(fetched));
    }

    /// The offsets of these partitions, or all.
    pub(super) fn fetch(&self, topics: Option<&[TopicPartitions]>) -> Vec<FetchedTopic> {
        let row = |partition: i32, offset: Option<&CommittedOffset>| FetchedOffset {
            partition,
            offset: offset.map_or(-1, |offset| offset.offset),
            leader_epoch: offset.map_or(-1, |offset| offset.leader_epoch),
            metadata: offset.map_or_else(|| "".into(), |offset| offset.metadata.clone()),
        };
        match topics {
            Some(topics) => topics
                .iter()
                .map(|TopicPartitions { topic, partitions }| FetchedTopic {
                    topic: topic.clone(),
                    partitions: partitions
                        .iter()
                        .map(|partition| row(*partition, self.offsets.get(topic, *partition)))
                        .collect(),
                })
                .collect(),
            None => self
                .offsets
                .topics
                .iter()
                .map(|(topic, partitions)| FetchedTopic {
                    topic: topic.clone(),
                    partitions: partitions
                        .iter()
                        .map(|(partition, offset)| row(*partition, Some(offset)))
                        .collect(),
                })
                .collect(),
        }
    }

    /// OffsetDelete.
    pub(super) fn delete_offsets(
        &mut self,
        asker: Asker,
        topics: Vec<TopicPartitions>,
        step: &mut Step<'_>,
    ) {
        let refused = match self.state {
            State::Empty => None,
            State::Dead => Some(ErrorCode::GroupIdNotFound),
            // Consumers may lose offsets of topics that they do not read.
            _ if self.knows_subscriptions() => None,
            _ => Some(ErrorCode::NonEmptyGroup),
        };
        if let Some(error) = refused {
            return step.answer(asker, Response::OffsetsDeleted(error, vec![]));
        }
        let (mut codes, mut records) = (vec![], vec![]);
        for TopicPartitions { topic, partitions } in topics {
            if self.is_subscribed_to(&topic) {
                codes.push(ErrorCode::GroupSubscribedToTopic);
                continue;
            }
            codes.push(ErrorCode::None);
            // Also those that are not known: a commit may be on its way.
            records.extend(partitions.into_iter().map(|partition| Record::Offset {
                group: self.id.clone(),
                topic: topic.clone(),
                partition,
                offset: None,
            }));
        }
        let response = Response::OffsetsDeleted(ErrorCode::None, codes);
        self.write(records, Then::Answer(self.id.clone(), asker, response), step);
    }

    /// DeleteGroups, or nobody needs the group any more.
    pub(super) fn delete(&mut self, asker: Option<Asker>, step: &mut Step<'_>) {
        let refused = match self.state {
            State::Dead => Some(ErrorCode::GroupIdNotFound),
            State::Empty if self.consumer.is_some() && !self.is_empty() => {
                Some(ErrorCode::NonEmptyGroup)
            }
            // What is on its way would come after the group's end.
            State::Empty if self.writes > 0 => {
                self.deletes.extend(asker);
                return;
            }
            State::Empty => None,
            _ => Some(ErrorCode::NonEmptyGroup),
        };
        if let Some(error) = refused {
            if let Some(asker) = asker {
                step.answer(asker, Response::Deleted(error));
            }
            return;
        }
        let records = self.offsets.tombstones(&self.id, |_, _, _| true);
        self.become_state(State::Dead, step);
        let mut last = self.write_all_but_last(records, step);
        match &self.consumer {
            Some(consumer) => last.extend(consumer.tombstones(&self.id)),
            None => last.push(Record::Group { group: self.id.clone(), value: None }),
        }
        self.write(last, Then::Deleted(self.id.clone(), asker), step);
    }

    /// Removes the offsets that have expired, and the group if nothing else is
    /// left (`ClassicGroup.offsetExpirationCondition`, KIP-211).
    pub(super) fn expire(&mut self, step: &mut Step<'_>) {
        if self.writes > 0 || self.state == State::Dead {
            return;
        }
        let now = step.now.unix.0;
        let retention = step.settings.offsets_retention_ms;
        // While a group is empty its offsets age together, since it became so;
        // those of a group that never had members, each since its commit.
        let base = match (&self.protocol_type, self.state) {
            (None, _) => None,
            (Some(_), State::Empty) => self.state_since_ms(),
            (Some(_), State::Stable) if self.knows_subscriptions() => None,
            (Some(_), _) => return,
        };
        let expired = |topic: &Arc<str>, _: i32, offset: &CommittedOffset| {
            if !self.is_empty() && self.is_subscribed_to(topic) {
                return false;
            }
            match offset.expire_timestamp_ms {
                -1 => base
                    .unwrap_or(offset.commit_timestamp_ms)
                    .checked_add(retention)
                    .is_some_and(|at| at <= now),
                at => at <= now,
            }
        };
        let mut records = self.offsets.tombstones(&self.id, expired);
        if records.len() > REMOVED_AT_ONCE_MAX {
            // The rest has its turn at the next look.
            records.truncate(REMOVED_AT_ONCE_MAX);
            return self.write(records, Then::Nothing(self.id.clone()), step);
        }
        let rests = self.is_empty() && self.members.is_empty() && self.pending.is_empty();
        if rests && records.len() == self.offsets.len() {
            self.delete(None, step);
        } else if !records.is_empty() {
            self.write(records, Then::Nothing(self.id.clone()), step);
        }
    }

    /// A topic is deleted, and what was committed for it with it.
    pub(super) fn topic_deleted(&mut self, name: &str, step: &mut Step<'_>) {
        let records = self.offsets.tombstones(&self.id, |topic, _, _| **topic == *name);
        if self.state != State::Dead {
            let last = self.write_all_but_last(records, step);
            self.write(last, Then::Nothing(self.id.clone()), step);
        }
    }

    /// Appends records in batches that are not too large, but for the last batch,
    /// which is returned.
    fn write_all_but_last(&mut self, mut records: Vec<Record>, step: &mut Step<'_>) -> Vec<Record> {
        while records.len() > REMOVED_AT_ONCE_MAX {
            let rest = records.split_off(REMOVED_AT_ONCE_MAX);
            self.write(records, Then::Nothing(self.id.clone()), step);
            records = rest;
        }
        records
    }

    /// Appends records; without any there is nothing to wait for.
    fn write(&mut self, records: Vec<Record>, then: Then, step: &mut Step<'_>) {
        if records.is_empty() {
            if let Then::Answer(_, asker, response) = then {
                step.answer(asker, response);
            }
            return;
        }
        self.writes += 1;
        step.out.push(Todo::Write(records, then));
    }
}
