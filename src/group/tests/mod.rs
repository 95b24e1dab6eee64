//! Groups without partitions or clients: what was appended is kept in vectors,
//! time passes when a test says so.

mod consumer;
mod conversion;
mod faults;
mod large;
mod life;
mod members;
mod offsets;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::request::{Commit, CommitRow, Fetch, Identity, Join, Sync, TopicPartitions};
use super::*;
use crate::base::time::UnixMillis;
use crate::config::{Assignor, ConsumerSettings, Migration};
use crate::model::batch::BatchHeader;
use crate::model::error_code::ErrorCode as E;
use crate::model::ids::CoreId;
use crate::replica::work::Origin;
use crate::wire::groups::{JoinGroupResponse, SyncGroupResponse};

/// Partitions of `__consumer_offsets` here.
const PARTITIONS: i32 = 3;

/// Kafka's defaults, with a short first delay.
fn settings() -> GroupSettings {
    GroupSettings {
        min_session_timeout_ms: 6_000,
        max_session_timeout_ms: 1_800_000,
        initial_rebalance_delay_ms: 3_000,
        max_size: 1_000_000,
        offset_metadata_max_bytes: 16,
        offsets_retention_ms: 60_000,
        expiry_check: Duration::from_secs(10),
        topic_partitions: PARTITIONS,
        topic_replication_factor: 1,
        topic_segment_bytes: 1 << 20,
        consumer: ConsumerSettings {
            session_timeout_ms: 45_000,
            min_session_timeout_ms: 10_000,
            max_session_timeout_ms: 60_000,
            heartbeat_interval_ms: 5_000,
            min_heartbeat_interval_ms: 1_000,
            max_heartbeat_interval_ms: 15_000,
            max_size: 1_000_000,
            assignors: vec![Assignor::Uniform, Assignor::Range],
            migration: Migration::Bidirectional,
        },
    }
}

/// The coordinators of a core, and what stands in for the rest of the broker.
struct World {
    coordinator: Coordinator,
    now: Now,
    image: Arc<Image>,
    /// The partitions' batches.
    logs: BTreeMap<PartitionIndex, Vec<Vec<u8>>>,
    ends: BTreeMap<PartitionIndex, i64>,
    next: u64,
    answers: BTreeMap<u64, Response>,
    parked: BTreeSet<u64>,
    /// Appends are held back until they are let go.
    hold: bool,
    held: Vec<(PartitionIndex, u64, Vec<u8>)>,
}

impl World {
    fn new(settings: GroupSettings) -> Self {
        let mut world = Self {
            coordinator: Coordinator::new(settings),
            now: Now { instant: Instant::from_nanos(5), unix: UnixMillis(1_000_000) },
            image: Arc::new(Image::empty("".into(), NodeId(1))),
            logs: BTreeMap::new(),
            ends: BTreeMap::new(),
            next: 0,
            answers: BTreeMap::new(),
            parked: BTreeSet::new(),
            hold: false,
            held: vec![],
        };
        world.load();
        world
    }

    fn load(&mut self) {
        for index in 0..PARTITIONS {
            self.coordinator.add(PartitionIndex(index), PARTITIONS);
        }
        self.run();
    }

    /// The broker stops at once and starts again.
    fn restart(&mut self) {
        let settings = self.coordinator.settings.clone();
        self.coordinator = Coordinator::new(settings);
        // Of the time, in a broker.
        self.coordinator.seed(self.next);
        self.coordinator.set_topics(self.image.clone());
        self.held.clear();
        self.load();
    }

    fn ask(&mut self, group: &str, ask: Ask) -> u64 {
        self.next += 1;
        let origin = Origin { core: CoreId(0), id: self.next };
        let asker = Asker { origin, place: 0 };
        self.coordinator.submit(self.now, asker, Request::Group(group.into(), ask));
        self.run();
        self.next
    }

    /// Asks, and returns the answer, which must come at once.
    fn call(&mut self, group: &str, ask: Ask) -> Response {
        let id = self.ask(group, ask);
        self.take(id)
    }

    fn take(&mut self, id: u64) -> Response {
        self.answers.remove(&id).expect("it is answered")
    }

    fn is_answered(&self, id: u64) -> bool {
        self.answers.contains_key(&id)
    }

    fn run(&mut self) {
        loop {
            let todo: Vec<Effect> = self.coordinator.todo().collect();
            if todo.is_empty() && !self.coordinator.has_work() {
                return;
            }
            for effect in todo {
                self.perform(effect);
            }
            self.coordinator.turn(self.now);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Answer(asker, response) => {
                assert!(!self.parked.contains(&asker.origin.id), "parked answers come late");
                let before = self.answers.insert(asker.origin.id, response);
                assert!(before.is_none(), "a request is answered once");
            }
            Effect::Parked(asker) => assert!(self.parked.insert(asker.origin.id)),
            Effect::Late(asker, response) => {
                assert!(self.parked.remove(&asker.origin.id), "only what was parked is late");
                let before = self.answers.insert(asker.origin.id, response);
                assert!(before.is_none(), "a request is answered once");
            }
            Effect::Append(partition, number, batch) => {
                self.held.push((partition, number, batch));
                if !self.hold {
                    self.release(E::None);
                }
            }
            Effect::Read(partition, offset) => {
                let batches = self.logs.entry(partition).or_default();
                let end = *self.ends.entry(partition).or_default();
                let rest = batches.iter().filter(|batch| {
                    BatchHeader::decode(batch).expect("a batch").next_offset() > offset
                });
                let result = ReadResult {
                    error: E::None,
                    log_start_offset: 0,
                    high_watermark: end,
                    bytes: Bytes::from(rest.flatten().copied().collect::<Vec<u8>>()),
                };
                self.coordinator.read(self.now, partition, result);
            }
        }
    }

    /// Ends the appends that were held back.
    fn release(&mut self, error: E) {
        for (partition, number, mut batch) in std::mem::take(&mut self.held) {
            if error == E::None {
                let end = self.ends.entry(partition).or_default();
                batch[..8].copy_from_slice(&end.to_be_bytes());
                *end = BatchHeader::decode(&batch).expect("a batch").next_offset();
                self.logs.entry(partition).or_default().push(batch);
            }
            self.coordinator.written(self.now, number, error);
        }
        self.run();
    }

    /// Lets time pass, deadline by deadline.
    fn wait(&mut self, ms: u64) {
        let end = self.now.instant + Duration::from_millis(ms);
        while let Some(at) = self.coordinator.next_deadline().filter(|at| *at <= end) {
            self.set_time(at.max(self.now.instant));
            self.coordinator.turn(self.now);
            self.run();
        }
        self.set_time(end);
    }

    fn set_time(&mut self, at: Instant) {
        let passed = at.since(self.now.instant).as_nanos() as i64;
        self.now.unix.0 += passed / 1_000_000;
        self.now.instant = at;
    }

    fn state(&mut self, group: &str) -> String {
        match self.call(group, Ask::Describe) {
            Response::Described(row) => row.group_state.as_str().to_owned(),
            other => panic!("{other:?}"),
        }
    }

    /// Joins as a new member and as one with an id, and returns the request that
    /// waits with the id.
    fn come(&mut self, group: &str, join: Join) -> (MemberId, u64) {
        let first = self.call(group, Ask::Join(Box::new(join.clone())));
        let Response::Joined(first) = first else { panic!("{first:?}") };
        assert_eq!(first.error_code, E::MemberIdRequired.code());
        let member_id: MemberId = first.member_id.as_str().into();
        let join = Join { member_id: member_id.clone(), ..join };
        (member_id, self.ask(group, Ask::Join(Box::new(join))))
    }

    fn joined(&mut self, id: u64) -> JoinGroupResponse {
        match self.take(id) {
            Response::Joined(response) => *response,
            other => panic!("{other:?}"),
        }
    }

    fn synced(&mut self, id: u64) -> SyncGroupResponse {
        match self.take(id) {
            Response::Synced(response) => *response,
            other => panic!("{other:?}"),
        }
    }

    fn heartbeat(&mut self, group: &str, who: Identity) -> E {
        match self.call(group, Ask::Heartbeat(who)) {
            Response::Heartbeat(error) => error,
            other => panic!("{other:?}"),
        }
    }

    /// A group of members, Stable, with assignment `a0` for the first, and so on.
    fn team(&mut self, group: &str, size: usize) -> Vec<Identity> {
        let come: Vec<(MemberId, u64)> = (0..size).map(|_| self.come(group, consumer())).collect();
        while !come.iter().all(|(_, request)| self.is_answered(*request)) {
            self.wait(250);
        }
        let mut members = vec![];
        let mut leader = None;
        for (member_id, request) in come {
            let joined = self.joined(request);
            assert_eq!(joined.error_code, 0);
            if joined.leader == joined.member_id {
                leader = Some(member_id.clone());
            }
            members.push(Identity {
                member_id,
                instance_id: None,
                generation: joined.generation_id,
            });
        }
        let leader = leader.expect("one leads");
        let assignments: Vec<(MemberId, Bytes)> = members
            .iter()
            .enumerate()
            .map(|(at, member)| (member.member_id.clone(), Bytes::from(format!("a{at}"))))
            .collect();
        let asked: Vec<u64> = members
            .iter()
            .map(|member| {
                let mine = if member.member_id == leader { assignments.clone() } else { vec![] };
                self.ask(group, sync(member, mine))
            })
            .collect();
        for (at, request) in asked.into_iter().enumerate() {
            let synced = self.synced(request);
            assert_eq!((synced.error_code, synced.assignment), (0, format!("a{at}").into()));
        }
        assert_eq!(self.state(group), "Stable");
        members
    }

    fn commit(&mut self, group: &str, member: Identity, offset: i64) -> E {
        match self.call(group, commit(member, offset, "")) {
            Response::Committed(codes) => codes[0],
            other => panic!("{other:?}"),
        }
    }

    /// The offset of partition 0 of topic `t`.
    fn offset(&mut self, group: &str) -> i64 {
        let rows = vec![TopicPartitions { topic: "t".into(), partitions: vec![0] }];
        match self.call(group, Ask::Fetch(Fetch { member: None, topics: Some(rows) })) {
            Response::Fetched(Ok(topics)) => topics[0].partitions[0].offset,
            other => panic!("{other:?}"),
        }
    }
}

/// A consumer of topic `t`.
fn consumer() -> Join {
    Join {
        member_id: "".into(),
        instance_id: None,
        client_id: "me".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\0\0\0\0"))],
        needs_known_id: true,
        may_skip_assignment: true,
    }
}

fn named(instance: &str) -> Join {
    Join { instance_id: Some(instance.into()), needs_known_id: false, ..consumer() }
}

fn sync(member: &Identity, assignments: Vec<(MemberId, Bytes)>) -> Ask {
    let member = member.clone();
    Ask::Sync(Sync { member, protocol_type: None, protocol: None, assignments })
}

fn nobody() -> Identity {
    Identity { member_id: "".into(), instance_id: None, generation: -1 }
}

fn commit(member: Identity, offset: i64, metadata: &str) -> Ask {
    let row = CommitRow {
        topic: "t".into(),
        partition: 0,
        offset,
        leader_epoch: 4,
        metadata: metadata.into(),
    };
    Ask::Commit(Commit { member, retention_ms: None, knows_epochs: true, rows: vec![row] })
}
