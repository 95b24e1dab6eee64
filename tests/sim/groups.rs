//! Members of a consumer group, and what must be true of the group, whatever
//! happens:
//!
//! - all assignments of a generation are of one plan, and each is its member's own;
//! - a committed offset that was acknowledged or seen is there from then on, until
//!   one of the same or a later generation takes its place: members of generations
//!   that are over commit nothing;
//! - every member learns its fate: its requests are answered, and in the end all
//!   are in the group and commit.
//!
//! Where acknowledged does not mean synced, a loss of power may take all that.

use std::collections::{BTreeMap, BTreeSet};

use corelane::base::rng::Rng;
use corelane::wire::groups::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse, encode_subscription,
    join_group_request, offset_commit_request, sync_group_request,
};
use corelane::wire::small::{Bytes, FindCoordinatorRequest, FindCoordinatorResponse, StrBytes};

use crate::client::{Asked, Link, Request, Shared};
use crate::file::pick;
use crate::queue::{MS, SEC};
use crate::wire;

/// The group.
const GROUP: &str = "team";
/// What it commits for: partitions of this topic, or what would be.
const TOPIC: &str = "stable-0";
const SLOTS: i32 = 4;

const UNKNOWN_TOPIC: i16 = 3;
const NOT_COORDINATOR: &[i16] = &[14, 15, 16];
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;
/// Of another generation, and of none.
const OUT: &[i16] = &[22, 25];

/// A generation and a value that was committed in it. Later ones are greater.
type Committed = (i32, i64);

/// What is known of the group.
#[derive(Debug, Default)]
pub struct Group {
    /// Values are given out once.
    next: i64,
    /// The plan of each generation that somebody was told of.
    plans: BTreeMap<i32, i64>,
    /// Who committed what, by slot and value.
    sent: BTreeMap<(i32, i64), i32>,
    /// Commits without an answer: they may be done at any time.
    unanswered: BTreeSet<(i32, i64)>,
    /// What is sure to be committed.
    floor: BTreeMap<i32, Committed>,
}

impl Group {
    fn next(&mut self) -> i64 {
        self.next += 1;
        self.next
    }

    /// The power was lost, and what was acknowledged was perhaps not synced.
    pub fn forget(&mut self) {
        self.plans.clear();
        self.floor.clear();
        // What it comes back with may be anything that was ever sent.
        self.unanswered.extend(self.sent.keys());
    }

    fn raise(&mut self, slot: i32, committed: Committed) {
        let floor = self.floor.entry(slot).or_insert(committed);
        *floor = (*floor).max(committed);
    }

    fn seen(&mut self, slot: i32, value: i64, floor: Option<Committed>) {
        if value == -1 {
            assert_eq!(floor, None, "what was committed for {slot} is gone");
            return;
        }
        let generation = self.sent.get(&(slot, value)).copied();
        let generation = generation.unwrap_or_else(|| panic!("{value} was not committed"));
        let late = self.unanswered.contains(&(slot, value));
        let stands =
            floor.is_none_or(|floor| (generation, value) >= floor || late && generation >= floor.0);
        assert!(stands, "{slot} went back to {value} of generation {generation} from {floor:?}");
        self.raise(slot, (generation, value));
    }
}

/// What a member asked.
#[derive(Debug)]
pub enum GroupAsked {
    Find,
    Join,
    Sync,
    Heartbeat,
    Leave,
    Commit(i32, i64),
    /// With what was sure when it was asked.
    Fetch(BTreeMap<i32, Committed>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Does not know where the group is.
    Lost,
    Outside,
    /// Has joined a generation and has no assignment of it.
    Joined,
    Inside,
}

/// A member.
pub struct Member {
    state: State,
    id: StrBytes,
    generation: i32,
    /// As the leader: who is to get something.
    plan: Vec<StrBytes>,
    slots: Vec<i32>,
    session_ms: i32,
    rebalance_ms: i32,
    leaves: u64,
    pause: u64,
    next_at: u64,
    /// Commits that were acknowledged.
    pub acked: u64,
    /// The run of the broker that offsets were last read from.
    pub read_in: Option<u64>,
}

impl Member {
    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            state: State::Lost,
            id: StrBytes::from(""),
            generation: -1,
            plan: vec![],
            slots: vec![],
            session_ms: *pick(rng, &[100, 300, 3_000]),
            rebalance_ms: *pick(rng, &[50, 200, 2_000]),
            leaves: *pick(rng, &[2, 10, 100]),
            pause: *pick(rng, &[MS, 10 * MS]),
            next_at: 0,
            acked: 0,
            read_in: None,
        }
    }

    pub fn act(&mut self, link: &mut Link, shared: &mut Shared) -> u64 {
        let now = shared.queue.now();
        if link.open() > 0 {
            return u64::MAX;
        }
        if now < self.next_at {
            return self.next_at;
        }
        if shared.quiet {
            if self.read_in == Some(shared.model.life) {
                return u64::MAX;
            }
            match self.state {
                State::Lost => self.find(link, shared),
                _ => self.fetch(link, shared),
            }
            return u64::MAX;
        }
        match self.state {
            State::Lost => self.find(link, shared),
            State::Outside => self.join(link, shared),
            State::Joined => self.sync(link, shared),
            State::Inside => match link.rng.below(10) {
                0 if !shared.calm && link.rng.chance(1, self.leaves) => self.leave(link, shared),
                0 if link.rng.chance(1, 5) => self.join(link, shared),
                0..3 => self.heartbeat(link, shared),
                3 => self.fetch(link, shared),
                _ => self.commit(link, shared),
            },
        }
        u64::MAX
    }

    fn find(&self, link: &mut Link, shared: &mut Shared) {
        let mut request = FindCoordinatorRequest::default();
        request.key = StrBytes::from(GROUP);
        let version = link.rng.between(0, 3) as i16;
        link.send(shared, &request, version, 0, Asked::Group(GroupAsked::Find));
    }

    fn join(&self, link: &mut Link, shared: &mut Shared) {
        let mut protocol = join_group_request::JoinGroupRequestProtocol::default();
        protocol.name = StrBytes::from("range");
        protocol.metadata = Bytes::from(encode_subscription(&[TOPIC]));
        let mut request = JoinGroupRequest::default();
        request.group_id = StrBytes::from(GROUP);
        request.session_timeout_ms = self.session_ms;
        request.rebalance_timeout_ms = self.rebalance_ms;
        request.member_id = self.id.clone();
        request.protocol_type = StrBytes::from("consumer");
        request.protocols = vec![protocol];
        let version = link.rng.between(1, 9) as i16;
        // The longest rebalance timeout, and static initial delays before it.
        link.send(shared, &request, version, 10 * SEC, Asked::Group(GroupAsked::Join));
    }

    fn sync(&mut self, link: &mut Link, shared: &mut Shared) {
        let mut request = SyncGroupRequest::default();
        request.group_id = StrBytes::from(GROUP);
        request.generation_id = self.generation;
        request.member_id = self.id.clone();
        if !self.plan.is_empty() {
            let plan = shared.group.next();
            let first = link.rng.below(SLOTS as u64) as i32;
            for (at, member) in (0..).zip(&self.plan) {
                let slots: Vec<String> = (0..SLOTS)
                    .filter(|slot| (slot + first) % self.plan.len() as i32 == at)
                    .map(|slot| slot.to_string())
                    .collect();
                let mut row = sync_group_request::SyncGroupRequestAssignment::default();
                row.member_id = member.clone();
                row.assignment = Bytes::from(format!("{plan} {} {}", &**member, slots.join(",")));
                request.assignments.push(row);
            }
        }
        let version = link.rng.between(0, 5) as i16;
        link.send(shared, &request, version, 10 * SEC, Asked::Group(GroupAsked::Sync));
    }

    fn heartbeat(&self, link: &mut Link, shared: &mut Shared) {
        let mut request = HeartbeatRequest::default();
        request.group_id = StrBytes::from(GROUP);
        request.generation_id = self.generation;
        request.member_id = self.id.clone();
        let version = link.rng.between(0, 4) as i16;
        link.send(shared, &request, version, 0, Asked::Group(GroupAsked::Heartbeat));
    }

    fn leave(&self, link: &mut Link, shared: &mut Shared) {
        let mut request = LeaveGroupRequest::default();
        request.group_id = StrBytes::from(GROUP);
        request.member_id = self.id.clone();
        let version = link.rng.between(0, 2) as i16;
        link.send(shared, &request, version, 0, Asked::Group(GroupAsked::Leave));
    }

    fn commit(&self, link: &mut Link, shared: &mut Shared) {
        if self.slots.is_empty() {
            return self.heartbeat(link, shared);
        }
        let slot = *pick(&mut link.rng, &self.slots);
        let value = shared.group.next();
        shared.group.sent.insert((slot, value), self.generation);
        shared.group.unanswered.insert((slot, value));
        let mut row = offset_commit_request::OffsetCommitRequestPartition::default();
        row.partition_index = slot;
        row.committed_offset = value;
        row.committed_metadata = Some(StrBytes::from(""));
        let mut topic = offset_commit_request::OffsetCommitRequestTopic::default();
        topic.name = StrBytes::from(TOPIC);
        topic.partitions = vec![row];
        let mut request = OffsetCommitRequest::default();
        request.group_id = StrBytes::from(GROUP);
        request.generation_id_or_member_epoch = self.generation;
        request.member_id = self.id.clone();
        request.topics = vec![topic];
        let version = link.rng.between(2, 9) as i16;
        link.send(shared, &request, version, 0, Asked::Group(GroupAsked::Commit(slot, value)));
    }

    fn fetch(&self, link: &mut Link, shared: &mut Shared) {
        let mut request = OffsetFetchRequest::default();
        request.group_id = StrBytes::from(GROUP);
        request.topics = None;
        let version = link.rng.between(2, 7) as i16;
        let asked = GroupAsked::Fetch(shared.group.floor.clone());
        link.send(shared, &request, version, 0, Asked::Group(asked));
    }

    pub fn answered(
        &mut self,
        link: &mut Link,
        shared: &mut Shared,
        request: Request,
        frame: Vec<u8>,
    ) {
        self.next_at = shared.queue.now() + link.rng.between(0, self.pause);
        let Asked::Group(asked) = request.asked else { panic!("it asked {:?}", request.asked) };
        let (api, version) = (request.api.api(), request.version);
        let code = match asked {
            GroupAsked::Find => {
                let answer: FindCoordinatorResponse = wire::answer(frame, api, version);
                if answer.error_code == 0 {
                    self.state = State::Outside;
                }
                answer.error_code
            }
            GroupAsked::Join => self.joined(wire::answer(frame, api, version)),
            GroupAsked::Sync => self.synced(shared, wire::answer(frame, api, version)),
            GroupAsked::Heartbeat => {
                let answer: HeartbeatResponse = wire::answer(frame, api, version);
                answer.error_code
            }
            GroupAsked::Leave => {
                let answer: LeaveGroupResponse = wire::answer(frame, api, version);
                if answer.error_code == 0 {
                    self.state = State::Outside;
                    self.id = StrBytes::from("");
                    shared.coverage.one("groups: members left");
                }
                answer.error_code
            }
            GroupAsked::Commit(slot, value) => {
                let answer: OffsetCommitResponse = wire::answer(frame, api, version);
                let code = answer.topics[0].partitions[0].error_code;
                if code == 0 {
                    let generation = shared.group.sent[&(slot, value)];
                    shared.group.unanswered.remove(&(slot, value));
                    shared.group.raise(slot, (generation, value));
                    shared.coverage.one("groups: commits acknowledged");
                    self.acked += 1;
                } else if OUT.contains(&code) || code == REBALANCE_IN_PROGRESS {
                    // Refused for sure.
                    shared.group.unanswered.remove(&(slot, value));
                    shared.coverage.one("groups: commits refused");
                }
                code
            }
            GroupAsked::Fetch(floor) => {
                let answer: OffsetFetchResponse = wire::answer(frame, api, version);
                if answer.error_code == 0 {
                    let rows = answer.topics.iter().flat_map(|topic| &topic.partitions);
                    let found: BTreeMap<i32, i64> =
                        rows.map(|row| (row.partition_index, row.committed_offset)).collect();
                    for slot in 0..SLOTS {
                        let value = found.get(&slot).copied().unwrap_or(-1);
                        shared.group.seen(slot, value, floor.get(&slot).copied());
                    }
                    shared.coverage.one("groups: offsets read");
                    self.read_in = Some(request.life);
                }
                answer.error_code
            }
        };
        match code {
            0 | MEMBER_ID_REQUIRED => {}
            UNKNOWN_TOPIC => self.next_at += 20 * MS,
            REBALANCE_IN_PROGRESS => self.state = State::Outside,
            code if OUT.contains(&code) => {
                self.id = StrBytes::from("");
                self.state = State::Outside;
            }
            code => {
                assert!(NOT_COORDINATOR.contains(&code), "a member was told error {code}");
                self.state = State::Lost;
                self.next_at += 20 * MS;
            }
        }
    }

    fn joined(&mut self, answer: JoinGroupResponse) -> i16 {
        if [0, MEMBER_ID_REQUIRED].contains(&answer.error_code) {
            self.id = answer.member_id.clone();
        }
        if answer.error_code == 0 {
            self.state = State::Joined;
            self.generation = answer.generation_id;
            self.plan = answer.members.iter().map(|member| member.member_id.clone()).collect();
            let leads = answer.leader == answer.member_id;
            assert_eq!(leads, !self.plan.is_empty(), "leaders are told of the members");
        }
        answer.error_code
    }

    fn synced(&mut self, shared: &mut Shared, answer: SyncGroupResponse) -> i16 {
        if answer.error_code != 0 {
            return answer.error_code;
        }
        let text = std::str::from_utf8(&answer.assignment).expect("as it was sent");
        let parts: Vec<&str> = text.split(' ').collect();
        let [plan, member, slots] = parts[..] else { panic!("an assignment {text:?}") };
        assert_eq!(member, &*self.id, "an assignment is its member's own");
        let plan: i64 = plan.parse().expect("as it was sent");
        let stands = *shared.group.plans.entry(self.generation).or_insert(plan);
        assert_eq!(stands, plan, "a generation {} has one plan", self.generation);
        self.slots = slots.split(',').filter_map(|slot| slot.parse().ok()).collect();
        self.state = State::Inside;
        shared.coverage.one("groups: assignments");
        0
    }
}
