//! Members of groups: they find the coordinator, join, share out partitions,
//! send heartbeats, commit and read offsets, leave, and come back. Some only
//! commit, in a group that nobody else is in, and delete it now and then.
//!
//! A group has members of the classic protocol, of the consumer protocol (`beat.rs`),
//! or of both: then it changes its own when they come and go.

mod beat;

use std::collections::BTreeMap;

use corelane::base::rng::Rng;
use corelane::model::ids::TopicId;
use corelane::wire::groups::{
    ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatResponse, DeleteGroupsRequest,
    DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, HeartbeatRequest,
    HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
    decode_assignment, encode_assignment, join_group_request, leave_group_request,
    offset_commit_request, offset_fetch_request, sync_group_request,
};
use corelane::wire::small::{topic_id, uuid};
use kafka_wire::{FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_wire_core::{Bytes, StrBytes};

use self::beat::{Beats, Said};
use crate::client::{Asked, Link, Request, Shared};
use crate::file::pick;
use crate::groups::GroupNumber;
use crate::model::Tp;
use crate::planted::Planted;
use crate::queue::{MS, SEC};
use crate::wire;

const UNKNOWN_TOPIC: i16 = 3;
const LOADING: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER: i16 = 25;
const REBALANCE: i16 = 27;
const NON_EMPTY_GROUP: i16 = 68;
const GROUP_ID_NOT_FOUND: i16 = 69;
const MEMBER_ID_REQUIRED: i16 = 79;
const FENCED_INSTANCE: i16 = 82;
const UNKNOWN_TOPIC_ID: i16 = 100;
const STALE_EPOCH: i16 = 113;

/// Errors of a commit that mean that it is not there.
const REFUSALS: &[i16] = &[
    UNKNOWN_TOPIC,
    LOADING,
    ILLEGAL_GENERATION,
    UNKNOWN_MEMBER,
    REBALANCE,
    FENCED_INSTANCE,
    UNKNOWN_TOPIC_ID,
    STALE_EPOCH,
    GROUP_ID_NOT_FOUND,
];

/// First versions: of commits and reads by topic id, of reads of several groups.
const BY_ID: i16 = 10;
const SEVERAL: i16 = 8;
/// And of commits and reads that know epochs of members.
const EPOCHS: i16 = 9;

/// The generation of commits that tell a member nothing of itself.
const OTHERS: i32 = -2;

/// The group that has only members of the consumer protocol.
const CONSUMERS: GroupNumber = 2;

/// What a request of a member was about.
#[derive(Debug)]
pub enum Question {
    Find,
    /// The id it was sent with.
    Join(String),
    Sync(i32),
    Heartbeat(i32),
    /// Commits by partition.
    Commit(i32, Vec<(Tp, u64)>),
    /// What has to be found, by partition.
    Fetch(Vec<(Tp, u64)>),
    Leave,
    Beat(Said),
    Describe,
    DescribeConsumers,
    List,
    /// The deletions.
    Delete(Vec<u64>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Find,
    Join,
    Sync,
    /// It has said goodbye, and waits for the answer.
    Away,
    /// It has an assignment, or needs none.
    Steady,
}

/// A member.
pub struct Member {
    group: GroupNumber,
    /// Alone in its group, without joining it.
    alone: bool,
    instance: Option<String>,
    session_ms: i32,
    rebalance_ms: i32,
    most_open: usize,
    /// It does not hear of rebalances.
    deaf: bool,
    pause: u64,
    stage: Stage,
    id: String,
    generation: i32,
    /// What it assigns if it leads, by member.
    plan: Vec<(String, Vec<u8>)>,
    owned: Vec<Tp>,
    /// It uses the consumer protocol.
    beats: Option<Beats>,
    /// Planted: the broker takes every epoch for the member's.
    all_epochs: bool,
    next_at: u64,
    connection: u64,
    /// It has got what a member wants, since that was last asked for.
    pub settled: bool,
    /// It has read all committed offsets, since that was last asked for.
    pub verified: bool,
}

impl Member {
    /// `at` tells it from all other clients.
    pub fn draw(rng: &mut Rng, at: usize) -> Self {
        let alone = rng.chance(1, 4);
        Self {
            group: if alone { 100 + at as GroupNumber } else { rng.below(2) as GroupNumber },
            alone,
            instance: rng.chance(1, 3).then(|| format!("instance-{at}")),
            session_ms: *pick(rng, &[40, 300, 3_000]),
            rebalance_ms: *pick(rng, &[30, 300, 3_000]),
            most_open: rng.between(1, 3) as usize,
            deaf: rng.chance(1, 4),
            pause: *pick(rng, &[3 * MS, 20 * MS]),
            stage: Stage::Find,
            id: String::new(),
            generation: -1,
            plan: vec![],
            owned: vec![],
            beats: None,
            all_epochs: false,
            next_at: 0,
            connection: 0,
            settled: false,
            verified: false,
        }
    }

    /// Makes some of those that are not alone members of the consumer protocol.
    pub fn draw_protocol(&mut self, rng: &mut Rng, planted: Option<Planted>) {
        // Shows only where several of them share a group.
        let early = planted == Some(Planted::EarlyRelease);
        if !self.alone && (early || rng.chance(1, 2)) {
            self.beats = Some(Beats::draw(rng, early));
            self.all_epochs = planted == Some(Planted::UncheckedEpoch);
            if early || rng.chance(1, 2) {
                self.group = CONSUMERS;
            }
        }
    }

    /// Its group, if it shares one, and what it has there.
    pub fn shares(&self) -> Option<(GroupNumber, &[Tp])> {
        (!self.alone).then_some((self.group, &self.owned))
    }

    /// Its group.
    pub fn group(&self) -> GroupNumber {
        self.group
    }

    /// Whether it sees to it that the broker assigns.
    pub fn is_consumer(&self) -> bool {
        self.beats.is_some()
    }

    /// Whether epochs of its group are counted up for ever.
    fn counts_epochs(&self) -> bool {
        self.group == CONSUMERS
    }

    fn name(&self) -> StrBytes {
        StrBytes::from(format!("group-{}", self.group))
    }

    /// Partitions that groups are about: those that stay.
    pub fn partitions(shared: &Shared) -> Vec<Tp> {
        let stable = shared.model.topics.iter().filter(|(_, topic)| topic.stable);
        stable.flat_map(|(id, topic)| (0..topic.partitions).map(|at| (*id, at))).collect()
    }

    pub fn act(&mut self, link: &mut Link, shared: &mut Shared) -> u64 {
        let now = shared.queue.now();
        if self.connection != link.generation {
            self.connection = link.generation;
            if self.beats.is_some() {
                self.beats_parted(&mut link.rng);
            }
            // What was under way may have been done or not; it is asked again.
            if self.stage != Stage::Away && link.rng.chance(1, 2) {
                self.stage = Stage::Find;
            }
        }
        let most = if self.stage == Stage::Steady && !shared.quiet { self.most_open } else { 1 };
        if link.open() >= most {
            return u64::MAX;
        }
        if now < self.next_at {
            return self.next_at;
        }
        let most = if shared.calm { 50 * MS } else { 0 };
        self.next_at = now + link.rng.between(0, self.pause.max(most));
        if shared.quiet {
            if self.verified {
                return now + SEC;
            }
            self.fetch(link, shared);
            return self.next_at;
        }
        match self.stage {
            Stage::Find => self.find(link, shared),
            Stage::Join if self.alone => self.stage = Stage::Steady,
            Stage::Away => return u64::MAX,
            Stage::Join if self.beats.is_some() => self.beat(link, shared),
            Stage::Join => self.join(link, shared),
            Stage::Sync => self.sync(link, shared),
            Stage::Steady if self.alone => match link.rng.below(20) {
                0..10 => self.commit(link, shared),
                10..16 => self.fetch(link, shared),
                16 => self.delete(link, shared),
                17 => self.list(link, shared),
                _ => self.describe(link, shared),
            },
            Stage::Steady if self.beats.is_some() => match link.rng.below(60) {
                0..30 => self.beat(link, shared),
                30..50 => self.commit(link, shared),
                50..56 => self.fetch(link, shared),
                56 if !shared.calm => self.beat_goodbye(link, shared),
                // It vanishes, and comes back as somebody else.
                57 if !shared.calm => self.begin_anew(),
                58 => self.list(link, shared),
                _ => self.describe_consumers(link, shared),
            },
            Stage::Steady => match link.rng.below(60) {
                0..30 => self.heartbeat(link, shared),
                30..50 => self.commit(link, shared),
                50..56 => self.fetch(link, shared),
                56 if !shared.calm => self.leave(link, shared),
                57 if !shared.calm => self.stage = Stage::Join,
                58 => self.list(link, shared),
                _ => self.describe(link, shared),
            },
        }
        self.next_at
    }

    fn find(&self, link: &mut Link, shared: &mut Shared) {
        let version = link.rng.between(0, 6) as i16;
        let mut request = FindCoordinatorRequest::default();
        if version >= 4 {
            request.coordinator_keys = vec![self.name()];
        } else {
            request.key = self.name();
        }
        link.send(shared, &request, version, 0, Asked::Group(Question::Find));
    }

    fn join(&mut self, link: &mut Link, shared: &mut Shared) {
        let version = link.rng.between(if self.instance.is_some() { 5 } else { 0 }, 9) as i16;
        let mut topics: Vec<&str> =
            shared.model.topics.values().filter(|topic| topic.stable).map(|t| &*t.name).collect();
        topics.sort_unstable();
        let mut metadata = vec![0, 0];
        metadata.extend_from_slice(&(topics.len() as i32).to_be_bytes());
        for topic in topics {
            metadata.extend_from_slice(&(topic.len() as i16).to_be_bytes());
            metadata.extend_from_slice(topic.as_bytes());
        }
        metadata.extend_from_slice(&(-1_i32).to_be_bytes());
        let mut request = JoinGroupRequest::default();
        request.group_id = self.name();
        // Whoever has to get on must not lose its place for a slow moment.
        let patient = if shared.calm { 6_000 } else { 0 };
        request.session_timeout_ms = self.session_ms.max(patient);
        if version >= 1 {
            request.rebalance_timeout_ms = self.rebalance_ms.max(patient);
        }
        request.member_id = StrBytes::from(self.id.as_str());
        request.group_instance_id = self.instance.as_deref().map(StrBytes::from);
        request.protocol_type = "consumer".into();
        for protocol in ["range", "roundrobin"] {
            let mut row = join_group_request::JoinGroupRequestProtocol::default();
            row.name = protocol.into();
            row.metadata = Bytes::from(metadata.clone());
            request.protocols.push(row);
        }
        let asked = Asked::Group(Question::Join(self.id.clone()));
        link.send(shared, &request, version, 20 * SEC, asked);
    }

    fn sync(&mut self, link: &mut Link, shared: &mut Shared) {
        let version = link.rng.between(if self.instance.is_some() { 3 } else { 0 }, 5) as i16;
        let mut request = SyncGroupRequest::default();
        request.group_id = self.name();
        request.generation_id = self.generation;
        request.member_id = StrBytes::from(self.id.as_str());
        request.group_instance_id = self.instance.as_deref().map(StrBytes::from);
        if version >= 5 && link.rng.chance(1, 2) {
            request.protocol_type = Some("consumer".into());
        }
        for (id, assignment) in &self.plan {
            let mut row = sync_group_request::SyncGroupRequestAssignment::default();
            row.member_id = StrBytes::from(id.as_str());
            row.assignment = Bytes::from(assignment.clone());
            request.assignments.push(row);
        }
        let asked = Asked::Group(Question::Sync(self.generation));
        link.send(shared, &request, version, 20 * SEC, asked);
    }

    fn heartbeat(&self, link: &mut Link, shared: &mut Shared) {
        let version = link.rng.between(if self.instance.is_some() { 3 } else { 0 }, 4) as i16;
        let mut request = HeartbeatRequest::default();
        request.group_id = self.name();
        request.generation_id = self.generation;
        request.member_id = StrBytes::from(self.id.as_str());
        request.group_instance_id = self.instance.as_deref().map(StrBytes::from);
        let asked = Asked::Group(Question::Heartbeat(self.generation));
        link.send(shared, &request, version, 0, asked);
    }

    fn commit(&mut self, link: &mut Link, shared: &mut Shared) {
        let mut mine = if self.alone { Self::partitions(shared) } else { self.owned.clone() };
        if link.rng.chance(1, 2) && !mine.is_empty() {
            mine = vec![*pick(&mut link.rng, &mine)];
        }
        // The broker may assign what its creator has not been told of yet.
        mine.retain(|tp| shared.model.topics.contains_key(&tp.0));
        if mine.is_empty() {
            self.settled = true;
            return;
        }
        mine.sort_unstable();
        let oldest = match (&self.beats, &self.instance) {
            (Some(_), _) => EPOCHS,
            (None, Some(_)) => 7,
            (None, None) => 2,
        };
        let version = link.rng.between(oldest as u64, 10) as i16;
        let (id, generation, fenced) = match &self.beats {
            Some(_) => self.commits_as(&mut link.rng, &mine),
            None if self.alone => (String::new(), -1, vec![]),
            None => (self.id.clone(), self.generation, vec![]),
        };
        let mut request = OffsetCommitRequest::default();
        request.group_id = self.name();
        request.generation_id_or_member_epoch = generation;
        if !self.alone {
            request.member_id = StrBytes::from(id.as_str());
            if self.all_epochs {
                request.generation_id_or_member_epoch = self.generation;
                request.member_id = StrBytes::from(self.id.as_str());
            }
            request.group_instance_id = self.instance.as_deref().map(StrBytes::from);
        }
        let mut rows = vec![];
        for tp in mine {
            let number =
                shared.model.groups.sent((self.group, tp), generation, false, shared.model.life);
            if fenced.contains(&tp) {
                shared.model.groups.fence(number);
                shared.coverage.one("consumer groups: commits of other epochs");
            }
            rows.push((tp, number));
            let mut row = offset_commit_request::OffsetCommitRequestPartition::default();
            row.partition_index = tp.1;
            row.committed_offset = number as i64;
            row.committed_metadata = Some(StrBytes::from(number.to_string()));
            let topic = &shared.model.topics[&tp.0];
            let known = request.topics.iter_mut().find(|known| match version {
                BY_ID.. => known.topic_id == uuid(tp.0),
                _ => known.name.as_str() == topic.name,
            });
            match known {
                Some(known) => known.partitions.push(row),
                None => {
                    let mut new = offset_commit_request::OffsetCommitRequestTopic::default();
                    if version >= BY_ID {
                        new.topic_id = uuid(tp.0);
                    } else {
                        new.name = StrBytes::from(topic.name.as_str());
                    }
                    new.partitions.push(row);
                    request.topics.push(new);
                }
            }
        }
        let own = self.alone || (&id, generation) == (&self.id, self.generation);
        let generation = if own { generation } else { OTHERS };
        let asked = Asked::Group(Question::Commit(generation, rows));
        link.send(shared, &request, version, 0, asked);
    }

    /// Reads what is committed of all partitions.
    fn fetch(&self, link: &mut Link, shared: &mut Shared) {
        let version = link.rng.between(1, 10) as i16;
        let partitions = Self::partitions(shared);
        let floor = |tp: &Tp| (*tp, shared.model.groups.floor((self.group, *tp)));
        let floors: Vec<(Tp, u64)> = partitions.iter().map(floor).collect();
        let mut request = OffsetFetchRequest::default();
        let mut topics: Vec<(TopicId, Vec<i32>)> = vec![];
        for (id, partition) in partitions {
            match topics.last_mut().filter(|(last, _)| *last == id) {
                Some((_, partitions)) => partitions.push(partition),
                None => topics.push((id, vec![partition])),
            }
        }
        let name = |id: &TopicId| StrBytes::from(shared.model.topics[id].name.as_str());
        let all = version >= 2 && link.rng.chance(1, 3);
        if version >= SEVERAL {
            let mut group = offset_fetch_request::OffsetFetchRequestGroup::default();
            group.group_id = self.name();
            let knows = self.beats.is_some() && self.stage == Stage::Steady && !shared.quiet;
            if version >= EPOCHS && knows && link.rng.chance(1, 3) {
                group.member_id = Some(StrBytes::from(self.id.as_str()));
                group.member_epoch = self.generation;
            }
            let rows = topics.into_iter().map(|(id, partitions)| {
                let mut row = offset_fetch_request::OffsetFetchRequestTopics::default();
                if version >= BY_ID {
                    row.topic_id = uuid(id);
                } else {
                    row.name = name(&id);
                }
                row.partition_indexes = partitions;
                row
            });
            group.topics = (!all).then(|| rows.collect());
            request.groups = vec![group];
        } else {
            request.group_id = self.name();
            let rows = topics.into_iter().map(|(id, partitions)| {
                let mut row = offset_fetch_request::OffsetFetchRequestTopic::default();
                row.name = name(&id);
                row.partition_indexes = partitions;
                row
            });
            request.topics = (!all).then(|| rows.collect());
        }
        link.send(shared, &request, version, 0, Asked::Group(Question::Fetch(floors)));
    }

    fn leave(&mut self, link: &mut Link, shared: &mut Shared) {
        let version = link.rng.between(if self.instance.is_some() { 3 } else { 0 }, 5) as i16;
        let mut request = LeaveGroupRequest::default();
        request.group_id = self.name();
        if version >= 3 {
            let mut row = leave_group_request::MemberIdentity::default();
            row.member_id = StrBytes::from(self.id.as_str());
            row.group_instance_id = self.instance.as_deref().map(StrBytes::from);
            request.members.push(row);
        } else {
            request.member_id = StrBytes::from(self.id.as_str());
        }
        link.send(shared, &request, version, 0, Asked::Group(Question::Leave));
        self.begin_anew();
    }

    fn describe(&self, link: &mut Link, shared: &mut Shared) {
        let mut request = DescribeGroupsRequest::default();
        request.groups = vec![self.name()];
        let version = link.rng.between(0, 6) as i16;
        link.send(shared, &request, version, 0, Asked::Group(Question::Describe));
    }

    fn list(&self, link: &mut Link, shared: &mut Shared) {
        let version = link.rng.between(0, 5) as i16;
        let request = ListGroupsRequest::default();
        link.send(shared, &request, version, 0, Asked::Group(Question::List));
    }

    fn delete(&self, link: &mut Link, shared: &mut Shared) {
        let mut request = DeleteGroupsRequest::default();
        request.groups_names = vec![self.name()];
        let life = shared.model.life;
        let partitions = Self::partitions(shared);
        let delete = |tp: Tp| shared.model.groups.sent((self.group, tp), -1, true, life);
        let numbers = partitions.into_iter().map(delete).collect();
        let version = link.rng.between(0, 3) as i16;
        link.send(shared, &request, version, 0, Asked::Group(Question::Delete(numbers)));
    }

    /// It is no member any more.
    fn begin_anew(&mut self) {
        self.id = String::new();
        if self.beats.is_some() {
            self.generation = -1;
        }
        self.go(Stage::Join);
    }

    fn go(&mut self, stage: Stage) {
        self.stage = stage;
        self.owned.clear();
        self.plan.clear();
    }

    pub fn answered(
        &mut self,
        link: &mut Link,
        shared: &mut Shared,
        request: Request,
        frame: Vec<u8>,
    ) {
        let (api, version, life) = (request.api.api(), request.version, request.life);
        let Asked::Group(question) = request.asked else {
            panic!("a member asked {:?}", request.asked)
        };
        match question {
            Question::Find => {
                let answer: FindCoordinatorResponse = wire::answer(frame, api, version);
                let code =
                    answer.coordinators.first().map_or(answer.error_code, |row| row.error_code);
                match code {
                    0 if self.beats.is_some() && self.generation > 0 => self.stage = Stage::Steady,
                    0 => self.stage = Stage::Join,
                    COORDINATOR_NOT_AVAILABLE => self.next_at = shared.queue.now() + 20 * MS,
                    code => panic!("FindCoordinator was answered with error {code}"),
                }
            }
            Question::Join(id) => {
                let answer: JoinGroupResponse = wire::answer(frame, api, version);
                self.joined(shared, &id, answer);
            }
            Question::Sync(generation) => {
                let answer: SyncGroupResponse = wire::answer(frame, api, version);
                match answer.error_code {
                    0 => self.synced(shared, generation, &answer.assignment, life),
                    code => self.refused(shared, generation, code),
                }
            }
            Question::Heartbeat(generation) => {
                let answer: HeartbeatResponse = wire::answer(frame, api, version);
                match answer.error_code {
                    0 => shared.coverage.one("groups: heartbeats"),
                    code => self.refused(shared, generation, code),
                }
            }
            Question::Commit(generation, rows) => {
                let answer: OffsetCommitResponse = wire::answer(frame, api, version);
                self.committed(shared, generation, &rows, &answer);
            }
            Question::Fetch(floors) => {
                let answer: OffsetFetchResponse = wire::answer(frame, api, version);
                self.fetched(shared, &floors, &answer, life);
            }
            Question::Leave => {
                let answer: LeaveGroupResponse = wire::answer(frame, api, version);
                match answer.error_code {
                    0 => shared.coverage.one("groups: members left"),
                    code => self.check_passing(shared, code, "LeaveGroup"),
                }
            }
            Question::Beat(said) => {
                let answer: ConsumerGroupHeartbeatResponse = wire::answer(frame, api, version);
                self.beat_answered(shared, &said, &answer, life, &mut link.rng);
            }
            Question::DescribeConsumers => {
                let answer: ConsumerGroupDescribeResponse = wire::answer(frame, api, version);
                let [row] = &answer.groups[..] else { panic!("one group was asked for") };
                match row.error_code {
                    0 | GROUP_ID_NOT_FOUND => shared.coverage.one("consumer groups: described"),
                    code => self.check_passing(shared, code, "ConsumerGroupDescribe"),
                }
            }
            Question::Describe => {
                let answer: DescribeGroupsResponse = wire::answer(frame, api, version);
                let [row] = &answer.groups[..] else { panic!("one group was asked for") };
                match row.error_code {
                    0 | GROUP_ID_NOT_FOUND => shared.coverage.one("groups: described"),
                    code => self.check_passing(shared, code, "DescribeGroups"),
                }
            }
            Question::List => {
                let answer: ListGroupsResponse = wire::answer(frame, api, version);
                match answer.error_code {
                    0 => shared.coverage.one("groups: listed"),
                    code => self.check_passing(shared, code, "ListGroups"),
                }
            }
            Question::Delete(numbers) => {
                let answer: DeleteGroupsResponse = wire::answer(frame, api, version);
                let [row] = &answer.results[..] else { panic!("one group was asked for") };
                let groups = &mut shared.model.groups;
                match row.error_code {
                    0 => {
                        numbers.into_iter().for_each(|number| groups.acked(number));
                        shared.coverage.one("groups: deleted");
                    }
                    GROUP_ID_NOT_FOUND | LOADING | NON_EMPTY_GROUP => {
                        numbers.into_iter().for_each(|number| groups.refused(number));
                    }
                    code => self.check_passing(shared, code, "DeleteGroups"),
                }
            }
        }
    }

    fn check_passing(&mut self, shared: &Shared, code: i16, what: &str) {
        let passing = [
            LOADING,
            COORDINATOR_NOT_AVAILABLE,
            NOT_COORDINATOR,
            UNKNOWN_MEMBER,
            FENCED_INSTANCE,
            STALE_EPOCH,
        ];
        assert!(passing.contains(&code), "{what} was answered with error {code}");
        if self.alone {
            self.stage = Stage::Find;
        }
        self.next_at = shared.queue.now() + 20 * MS;
    }

    fn joined(&mut self, shared: &mut Shared, asked: &str, answer: JoinGroupResponse) {
        let id = answer.member_id.as_str();
        if asked.is_empty() && !id.is_empty() {
            shared.model.groups.member_id(id);
        }
        match answer.error_code {
            0 => {
                assert!(asked.is_empty() || id == asked, "{asked} joined, and is told to be {id}");
                self.id = id.to_owned();
                self.generation = answer.generation_id;
                shared.coverage.one("groups: members joined");
                self.go(Stage::Sync);
                if !answer.members.is_empty() && !answer.skip_assignment {
                    let members = answer.members.iter();
                    let ids: Vec<String> =
                        members.map(|row| row.member_id.as_str().to_owned()).collect();
                    assert!(ids.iter().any(|row| row == id), "the leader is a member");
                    self.plan = assign(shared, ids);
                }
            }
            MEMBER_ID_REQUIRED => {
                assert!(asked.is_empty() && !id.is_empty(), "an id to come again with");
                self.id = id.to_owned();
            }
            code => self.refused(shared, self.generation, code),
        }
    }

    fn synced(&mut self, shared: &mut Shared, generation: i32, bytes: &[u8], life: u64) {
        shared.coverage.one("groups: assignments");
        // Whoever the leader did not know of gets nothing.
        let (token, owned) = read_assignment(shared, bytes);
        if token > 0 {
            let place = (self.group, generation);
            // A static member is the same under another id.
            let who = self.instance.as_deref().unwrap_or(&self.id);
            shared.model.groups.assigned(place, who, token, &owned, life);
        }
        self.stage = Stage::Steady;
        self.owned = owned;
        if self.owned.is_empty() {
            self.settled = true;
        }
    }

    /// A request of a member of `generation` was refused.
    fn refused(&mut self, shared: &Shared, generation: i32, code: i16) {
        let current = generation == self.generation;
        match code {
            UNKNOWN_MEMBER | FENCED_INSTANCE | GROUP_ID_NOT_FOUND if current => self.begin_anew(),
            // Some do not listen, and go on as if nothing had happened.
            REBALANCE if !shared.calm && self.stage == Stage::Steady && self.deaf => {}
            REBALANCE | ILLEGAL_GENERATION if current => {
                self.go(Stage::Join);
            }
            UNKNOWN_MEMBER | FENCED_INSTANCE | GROUP_ID_NOT_FOUND => {}
            REBALANCE | ILLEGAL_GENERATION | STALE_EPOCH => {}
            LOADING | COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR => {
                self.stage = Stage::Find;
                self.next_at = shared.queue.now() + 20 * MS;
            }
            code => panic!("a member of group {} got error {code}", self.group),
        }
    }

    fn committed(
        &mut self,
        shared: &mut Shared,
        generation: i32,
        rows: &[(Tp, u64)],
        answer: &OffsetCommitResponse,
    ) {
        let codes = answer.topics.iter().flat_map(|topic| &topic.partitions);
        assert_eq!(codes.clone().count(), rows.len(), "an outcome for each partition");
        for ((tp, number), row) in rows.iter().zip(codes) {
            assert_eq!(row.partition_index, tp.1, "outcomes in the request's order");
            match row.error_code {
                0 => {
                    shared.model.groups.acked(*number);
                    shared.coverage.one("groups: offsets committed");
                    self.settled |= generation == self.generation || self.alone;
                }
                code => {
                    if REFUSALS.contains(&code) {
                        shared.model.groups.refused(*number);
                    }
                    if code == STALE_EPOCH {
                        shared.coverage.one("consumer groups: stale commits refused");
                    }
                    if [ILLEGAL_GENERATION, UNKNOWN_MEMBER, FENCED_INSTANCE].contains(&code) {
                        shared.coverage.one("groups: late commits refused");
                    }
                    if [UNKNOWN_TOPIC, UNKNOWN_TOPIC_ID].contains(&code) {
                        self.next_at = shared.queue.now() + 20 * MS;
                    } else if self.alone {
                        self.check_passing(shared, code, "a lonely OffsetCommit");
                    } else {
                        self.refused(shared, generation, code);
                    }
                }
            }
        }
    }

    fn fetched(
        &mut self,
        shared: &mut Shared,
        floors: &[(Tp, u64)],
        answer: &OffsetFetchResponse,
        life: u64,
    ) {
        let group = answer.groups.first();
        let code = group.map_or(answer.error_code, |group| group.error_code);
        if code != 0 {
            return self.check_passing(shared, code, "OffsetFetch");
        }
        let id_of = |name: &str| {
            let mut topics = shared.model.topics.iter();
            topics.find(|(_, topic)| topic.stable && topic.name == name).map(|(id, _)| *id)
        };
        let mut found: Vec<(Tp, i16, i64, String)> = vec![];
        for topic in &answer.topics {
            let id = id_of(topic.name.as_str()).expect("a topic that stays");
            found.extend(topic.partitions.iter().map(|row| {
                let text = row.metadata.as_deref().unwrap_or_default().to_owned();
                ((id, row.partition_index), row.error_code, row.committed_offset, text)
            }));
        }
        for topic in group.into_iter().flat_map(|group| &group.topics) {
            let id = id_of(topic.name.as_str()).unwrap_or_else(|| topic_id(topic.topic_id));
            found.extend(topic.partitions.iter().map(|row| {
                let text = row.metadata.as_deref().unwrap_or_default().to_owned();
                ((id, row.partition_index), row.error_code, row.committed_offset, text)
            }));
        }
        if found.iter().any(|(_, code, ..)| *code != 0) {
            let code = found.iter().map(|(_, code, ..)| *code).find(|code| *code != 0);
            let code = code.expect("just seen");
            if ![UNKNOWN_TOPIC, UNKNOWN_TOPIC_ID].contains(&code) {
                self.check_passing(shared, code, "OffsetFetch");
            }
            return;
        }
        for (tp, floor) in floors {
            let row = found.iter().find(|(other, ..)| other == tp);
            let offset = row.map(|(_, _, offset, _)| *offset).filter(|offset| *offset >= 0);
            if let Some((_, _, offset, text)) = row.filter(|_| offset.is_some()) {
                assert_eq!(*text, offset.to_string(), "an offset with another's metadata");
            }
            let offset = offset.map(|offset| offset as u64);
            shared.model.groups.found((self.group, *tp), offset, *floor, life);
            shared.coverage.one("groups: offsets found");
        }
        self.verified = true;
    }
}

/// The leader shares out all partitions that stay.
fn assign(shared: &mut Shared, members: Vec<String>) -> Vec<(String, Vec<u8>)> {
    let token = shared.model.groups.next();
    let count = members.len();
    let partitions = Member::partitions(shared);
    let plan = members.into_iter().enumerate().map(|(at, id)| {
        let mut rows: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in partitions.iter().skip(at).step_by(count) {
            let name = shared.model.topics[topic].name.clone();
            rows.entry(name).or_default().push(*partition);
        }
        let mut bytes = encode_assignment(&rows);
        bytes.truncate(bytes.len() - USER_DATA_LEN);
        bytes.extend_from_slice(&8_i32.to_be_bytes());
        bytes.extend_from_slice(&token.to_le_bytes());
        (id, bytes)
    });
    plan.collect()
}

/// Bytes of the length of the user data that end an assignment.
const USER_DATA_LEN: usize = 4;

/// What a member is assigned, with the leader's token, or 0 if there is none: then the
/// broker has assigned it.
fn read_assignment(shared: &Shared, bytes: &[u8]) -> (u64, Vec<Tp>) {
    let rows = decode_assignment(bytes).expect("an assignment");
    let len = encode_assignment(&rows).len() - USER_DATA_LEN;
    let token = bytes.get(len + USER_DATA_LEN..).and_then(<[u8]>::first_chunk);
    let id_of = |name: &String| {
        let mut topics = shared.model.topics.iter();
        let found = topics.find(|(_, topic)| topic.stable && topic.name == *name);
        *found.expect("a topic that stays").0
    };
    let rows = rows.iter().map(|(name, partitions)| (id_of(name), partitions));
    let mut owned: Vec<Tp> =
        rows.flat_map(|(id, partitions)| partitions.iter().map(move |at| (id, *at))).collect();
    owned.sort_unstable();
    (token.map_or(0, |token| u64::from_le_bytes(*token)), owned)
}
