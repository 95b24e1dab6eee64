//! Members of the consumer protocol (KIP-848): one heartbeat at a time joins, says what
//! the member has and what it wants, and is answered with what it shall have.
//!
//! Such a member takes on at once what it is given, and gives back with a later
//! heartbeat what it shall not have any more, if it listens. `owners.rs` judges what it
//! is told. Some commits of it are of an epoch in which it did not have the partition
//! yet, or of a member that has left: they have to be refused.

use std::collections::BTreeMap;

use corelane::base::rng::Rng;
use corelane::model::ids::TopicId;
use corelane::wire::groups::{
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
    consumer_group_heartbeat_request as request, consumer_group_heartbeat_response as response,
};
use corelane::wire::small::{topic_id, uuid};
use kafka_wire_core::StrBytes;

use super::{
    COORDINATOR_NOT_AVAILABLE, FENCED_INSTANCE, GROUP_ID_NOT_FOUND, LOADING, Member,
    NOT_COORDINATOR, Question, Stage, UNKNOWN_MEMBER,
};
use crate::client::{Asked, Link, Shared};
use crate::model::Tp;
use crate::owners::Told;
use crate::queue::MS;

const FENCED_EPOCH: i16 = 110;
const UNRELEASED_INSTANCE: i16 = 111;

/// Epochs of a heartbeat: it joins, leaves, or leaves for a while.
const JOINS: i32 = 0;
const LEAVES: i32 = -1;
const AWAY: i32 = -2;

/// The first version by which one may subscribe by a regular expression, and has to
/// have an id.
const REGEX: i16 = 1;

/// What a heartbeat said.
#[derive(Clone, Debug)]
pub struct Said {
    id: String,
    epoch: i32,
    at: u64,
    /// Until when it may count on its place, if this is heard.
    until: u64,
}

/// What a member of the consumer protocol knows besides.
#[derive(Debug, Default)]
pub struct Beats {
    /// It subscribes by a regular expression.
    regex: bool,
    /// A heartbeat is under way on this connection.
    under_way: bool,
    /// It tells all of itself next time.
    tell: bool,
    /// It was given its id just now, and nobody had it before.
    fresh: bool,
    /// No answer to a heartbeat of this id was lost.
    sure: bool,
    /// What it shall have. What it has besides is to be given back ...
    shall: Vec<Tp>,
    /// ... by then.
    by: Option<u64>,
    /// Epochs in which it got what it has, as far as they are certain.
    since: BTreeMap<Tp, i32>,
    /// An id of its own that has left, for good or for another to come, and the epoch.
    pub former: Option<(String, i32)>,
    /// Planted: now and then the broker takes it that the member has nothing.
    pub planted: bool,
}

impl Beats {
    pub fn draw(rng: &mut Rng, planted: bool) -> Self {
        Self { regex: rng.chance(1, 3), tell: true, planted, ..Self::default() }
    }
}

impl Member {
    /// The connection is another one.
    pub(super) fn beats_parted(&mut self, rng: &mut Rng) {
        let beats = self.beats.as_mut().expect("a member of the consumer protocol");
        beats.tell = true;
        let lost = std::mem::take(&mut beats.under_way);
        beats.sure &= !lost;
        if self.stage == Stage::Away || lost && rng.chance(1, 2) {
            self.begin_anew();
        }
    }

    /// A heartbeat that says what is new, or everything.
    pub(super) fn beat(&mut self, link: &mut Link, shared: &mut Shared) {
        let rng = &mut link.rng;
        let joins = self.stage != Stage::Steady;
        let beats = self.beats.as_mut().expect("a member of the consumer protocol");
        if beats.under_way {
            return;
        }
        let mut version = rng.below(2) as i16;
        let tells = joins || beats.tell || rng.chance(1, 10);
        if beats.regex && tells {
            version = REGEX;
        }
        if joins {
            self.owned.clear();
            self.generation = -1;
            beats.shall.clear();
            beats.since.clear();
            beats.by = None;
            if self.id.is_empty() {
                (beats.sure, beats.fresh) = (true, self.instance.is_none());
                if version >= REGEX || rng.chance(1, 2) {
                    self.id = format!("member-{:x}-{:x}", rng.next_u64(), rng.next_u64());
                    shared.model.groups.member_id(&self.id);
                }
            }
        }
        let gives_back = self.owned != beats.shall;
        let listens = shared.calm || !self.deaf;
        let says = tells || gives_back && listens || rng.chance(1, 10);
        let mut message = ConsumerGroupHeartbeatRequest::default();
        message.group_id = StrBytes::from(format!("group-{}", self.group));
        message.member_id = StrBytes::from(self.id.as_str());
        // Now and then it comes late: its epoch is over.
        let late = !joins && !shared.calm && self.generation > 1 && rng.chance(1, 20);
        message.member_epoch = if joins { JOINS } else { self.generation - i32::from(late) };
        message.instance_id = self.instance.as_deref().map(StrBytes::from);
        message.rebalance_timeout_ms = -1;
        if tells {
            let patient = if shared.calm { 6_000 } else { 0 };
            message.rebalance_timeout_ms = self.rebalance_ms.max(patient);
            if beats.regex {
                message.subscribed_topic_regex = Some("(stable|keyed).*".into());
                message.subscribed_topic_names = Some(vec![]);
            } else {
                let topics = shared.model.topics.values().filter(|topic| topic.stable);
                let mut names: Vec<&str> = topics.map(|topic| &*topic.name).collect();
                names.sort_unstable();
                message.subscribed_topic_names =
                    Some(names.into_iter().map(StrBytes::from).collect());
            }
            beats.tell = false;
        }
        let who = name_of(&self.instance, &self.id);
        if says {
            if listens {
                self.owned.clone_from(&beats.shall);
            }
            let group = self.group;
            shared.model.groups.owners.keeps(group, &who, &self.owned);
            message.topic_partitions = Some(rows(&self.owned));
        }
        if beats.planted && !joins && rng.chance(1, 3) {
            message.topic_partitions = Some(vec![]);
        }
        beats.under_way = true;
        // By then it may have to begin anew, if the answer asks for something back.
        let (now, session) = (shared.queue.now(), shared.model.groups.session_ms * MS);
        let by = now + self.rebalance_ms as u64 * MS;
        shared.model.groups.owners.must_give_back(self.group, &who, by);
        let said = Said {
            id: self.id.clone(),
            epoch: message.member_epoch,
            at: now,
            until: now + session,
        };
        link.send(shared, &message, version, 0, Asked::Group(Question::Beat(said)));
    }

    /// Leaves for good, or, as a static member, for a while.
    pub(super) fn beat_goodbye(&mut self, link: &mut Link, shared: &mut Shared) {
        let beats = self.beats.as_mut().expect("a member of the consumer protocol");
        if beats.under_way {
            return;
        }
        beats.under_way = true;
        let away = self.instance.is_some() && link.rng.chance(1, 2);
        let mut message = ConsumerGroupHeartbeatRequest::default();
        message.group_id = StrBytes::from(format!("group-{}", self.group));
        message.member_id = StrBytes::from(self.id.as_str());
        message.member_epoch = if away { AWAY } else { LEAVES };
        message.instance_id = self.instance.as_deref().map(StrBytes::from);
        message.rebalance_timeout_ms = -1;
        let who = name_of(&self.instance, &self.id);
        shared.model.groups.owners.gone(self.group, &who);
        let said = Said { id: self.id.clone(), epoch: message.member_epoch, at: 0, until: 0 };
        let version = link.rng.below(2) as i16;
        link.send(shared, &message, version, 0, Asked::Group(Question::Beat(said)));
        self.go(Stage::Away);
    }

    pub(super) fn beat_answered(
        &mut self,
        shared: &mut Shared,
        said: &Said,
        answer: &ConsumerGroupHeartbeatResponse,
        life: u64,
        rng: &mut Rng,
    ) {
        let now = shared.queue.now();
        let epoch = self.generation;
        let beats = self.beats.as_mut().expect("a member of the consumer protocol");
        beats.under_way = false;
        let leaves = said.epoch < JOINS;
        let who = name_of(&self.instance, &said.id);
        if said.id != self.id {
            // It has been told meanwhile that this is no member.
            return;
        }
        match answer.error_code {
            0 if leaves => {
                assert_eq!(answer.member_epoch, said.epoch, "it is told of the epoch it named");
                shared.coverage.one("consumer groups: members left");
                if !shared.model.groups.is_stale(self.group, life) {
                    beats.former = Some((said.id.clone(), epoch.max(1)));
                }
                self.begin_anew();
            }
            // It never hears of this one: what it says next is of an epoch that may be over.
            0 if !shared.calm && rng.chance(1, 6) => {
                beats.sure = false;
                shared.coverage.one("consumer groups: answers lost");
            }
            0 => self.told(shared, said, answer, life),
            LOADING | COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR => {
                // It may be done or not.
                beats.sure = false;
                self.stage = Stage::Find;
                self.next_at = now + 20 * MS;
            }
            FENCED_EPOCH => {
                assert!(!leaves, "a member that leaves names no epoch");
                shared.coverage.one("consumer groups: members fenced");
                shared.model.groups.owners.gone(self.group, &who);
                beats.tell = true;
                beats.fresh = false;
                self.go(Stage::Join);
            }
            UNKNOWN_MEMBER | FENCED_INSTANCE => {
                shared.coverage.one("consumer groups: members unknown");
                shared.model.groups.owners.gone(self.group, &who);
                self.begin_anew();
            }
            // Its former self has not left; or nobody may change the group.
            UNRELEASED_INSTANCE | GROUP_ID_NOT_FOUND => {
                self.begin_anew();
                self.next_at = now + 20 * MS;
            }
            code => panic!("ConsumerGroupHeartbeat was answered with error {code}"),
        }
    }

    /// It is told what it shall have.
    fn told(
        &mut self,
        shared: &mut Shared,
        said: &Said,
        answer: &ConsumerGroupHeartbeatResponse,
        life: u64,
    ) {
        let now = shared.queue.now();
        let beats = self.beats.as_mut().expect("a member of the consumer protocol");
        let joined = said.epoch == JOINS;
        let id = answer.member_id.as_ref().expect("an id").as_str();
        if said.id.is_empty() {
            shared.model.groups.member_id(id);
        } else {
            assert_eq!(id, said.id, "a member keeps its id");
        }
        assert!(answer.member_epoch > 0, "a member has an epoch");
        assert!(answer.member_epoch >= said.epoch, "epochs do not go back");
        self.id = id.to_owned();
        self.generation = answer.member_epoch;
        self.stage = Stage::Steady;
        shared.coverage.one(match joined {
            true => "consumer groups: members joined",
            false => "consumer groups: heartbeats",
        });
        match &answer.assignment {
            Some(assignment) => {
                let shall = partitions(assignment);
                beats.since.retain(|tp, _| shall.contains(tp));
                let new = shall.iter().filter(|tp| !beats.shall.contains(tp));
                // What a member had before it joined again is older.
                if beats.sure && (beats.fresh || !joined) {
                    beats.since.extend(new.map(|tp| (*tp, self.generation)));
                }
                self.owned.extend(shall.iter().filter(|tp| !beats.shall.contains(tp)));
                self.owned.sort_unstable();
                self.owned.dedup();
                beats.shall = shall;
                shared.coverage.one("consumer groups: assignments");
            }
            None => assert!(!joined, "a member that joins is told what it has"),
        }
        if self.owned == beats.shall {
            beats.by = None;
        } else if beats.by.is_none() {
            beats.by = Some(said.at + self.rebalance_ms as u64 * MS);
            shared.coverage.one("consumer groups: partitions to be given back");
        }
        if shared.model.groups.is_stale(self.group, life) {
            return;
        }
        let beats = self.beats.as_ref().expect("seen above");
        let who = name_of(&self.instance, &self.id);
        shared.model.groups.owners.told(&Told {
            group: self.group,
            member: &who,
            epoch: self.counts_epochs().then_some(self.generation),
            partitions: &beats.shall,
            sure: beats.sure,
            now,
            until: beats.by.map_or(said.until, |by| by.min(said.until)),
        });
        if self.owned.is_empty() {
            self.settled = true;
        }
    }

    /// What to commit as: mostly its epoch, now and then one that has to be refused,
    /// with what is to be refused then.
    pub(super) fn commits_as(&self, rng: &mut Rng, mine: &[Tp]) -> (String, i32, Vec<Tp>) {
        let beats = self.beats.as_ref().expect("a member of the consumer protocol");
        match &beats.former {
            Some((id, epoch)) if rng.chance(1, 20) => (id.clone(), *epoch, mine.to_vec()),
            _ if self.generation > 1 && rng.chance(1, 10) => {
                let older = self.generation - 1;
                let later = mine
                    .iter()
                    .filter(|tp| beats.since.get(tp).is_some_and(|since| *since > older));
                (self.id.clone(), older, later.copied().collect())
            }
            _ if beats.sure && !beats.under_way && rng.chance(1, 30) => {
                (self.id.clone(), self.generation + 1, mine.to_vec())
            }
            _ => (self.id.clone(), self.generation, vec![]),
        }
    }

    pub(super) fn describe_consumers(&self, link: &mut Link, shared: &mut Shared) {
        let mut message = ConsumerGroupDescribeRequest::default();
        message.group_ids = vec![StrBytes::from(format!("group-{}", self.group))];
        let version = link.rng.below(2) as i16;
        link.send(shared, &message, version, 0, Asked::Group(Question::DescribeConsumers));
    }
}

/// A static member is the same under another id.
fn name_of(instance: &Option<String>, id: &str) -> String {
    instance.as_deref().unwrap_or(id).to_owned()
}

fn rows(owned: &[Tp]) -> Vec<request::TopicPartitions> {
    let mut by_topic: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in owned {
        by_topic.entry(*topic).or_default().push(*partition);
    }
    let row = |(topic, partitions)| {
        let mut row = request::TopicPartitions::default();
        row.topic_id = uuid(topic);
        row.partitions = partitions;
        row
    };
    by_topic.into_iter().map(row).collect()
}

fn partitions(assignment: &response::Assignment) -> Vec<Tp> {
    let rows = assignment.topic_partitions.iter();
    let all = rows.flat_map(|row| row.partitions.iter().map(|at| (topic_id(row.topic_id), *at)));
    let mut all: Vec<Tp> = all.collect();
    all.sort_unstable();
    all
}
