//! Hostile clients of a real shard: valid requests spoiled in every API and
//! version, and fetch sessions used in every wrong way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use corelane::base::rng::Rng;
use corelane::base::time::{Instant, Now, UnixMillis};
use corelane::config::{Assignment, Machine, Settings, validate_topic_config};
use corelane::controller::decide::{Policy, decide};
use corelane::effect::disk::{DiskCompletion, DiskError, DiskOp, DiskOpKind, DiskOutput};
use corelane::effect::net::{ConnectionId, NetEvent, NetOp, ReceiveInto, Received};
use corelane::metadata::image::{Image, Node, Partition};
use corelane::metadata::link::{ToController, ToShard};
use corelane::metadata::placement::FormerCores;
use corelane::metadata::record::Record;
use corelane::model::ids::{CoreId, LeaderEpoch, MetadataOffset, PartitionIndex, TopicId};
use corelane::shard::Shard;
use corelane::shard::event::{Effects, Event, Wake};
use corelane::wire::APIS;
use corelane::wire::apis::{Api, ApiKey};

use crate::memory::peak;
use crate::mutate::mutate;
use crate::{requests, rounds, seed};

/// `corelane.memory`: pages of the shard, all together.
const MEMORY: usize = 64 << 20;
/// What tables, decoded messages and metadata may take beside it.
const BESIDE: usize = 64 << 20;
/// ECANCELED.
const CANCELED: i32 = 125;

/// Something that happens next.
enum Next {
    Disk(DiskCompletion),
    Sent(ConnectionId, corelane::base::rope::Rope),
    Control(ToShard),
    Closed(ConnectionId),
}

#[derive(Default)]
struct Client {
    sent: VecDeque<u8>,
    receive: Option<ReceiveInto>,
    answers: Vec<u8>,
    open: bool,
}

/// A shard whose disk does everything in the next turn, a controller that
/// decides at once, and clients.
struct World {
    shard: Shard,
    effects: Effects,
    now: Now,
    next: Vec<Next>,
    image: Arc<Image>,
    policy: Policy,
    rng: Rng,
    clients: Vec<Client>,
}

impl World {
    fn new() -> Self {
        let idle = "connections.max.idle.ms=-1".to_owned();
        let set = [format!("corelane.memory={MEMORY}"), "corelane.cores=1".to_owned(), idle];
        let set = set.map(|text| Assignment::parse(&text).expect("key=value"));
        let machine = Machine { cores: 1, memory_bytes: 1 << 30, hostname: "localhost".to_owned() };
        let (settings, _) = Settings::resolve(&set, &machine).expect("they are allowed");
        let node = settings.node_id;
        let policy = Policy {
            num_partitions: 1,
            default_replication_factor: 1,
            validate_config: validate_topic_config,
            topics: corelane::config::TopicConfig::default(),
            consumer: corelane::config::ConsumerSettings::default(),
        };
        let mut world = Self {
            shard: Shard::new(CoreId(0), Arc::new(settings), true),
            effects: Effects::default(),
            now: Now { instant: Instant::from_nanos(0), unix: UnixMillis(1_700_000_000_000) },
            next: vec![],
            image: Arc::new(Image::empty("cluster".into(), node)),
            policy,
            rng: Rng::stream(seed(), "controller"),
            clients: vec![],
        };
        let topic = TopicId(requests::TOPIC_ID);
        let mut records = vec![
            Record::RegisterBroker(Node { id: node, host: "h".into(), port: 9, cores: 1 }),
            Record::Topic { name: requests::TOPIC.into(), id: topic },
        ];
        records.extend((0..2).map(|index| Record::Partition {
            topic,
            index: PartitionIndex(index),
            partition: Partition {
                core: CoreId(0),
                replicas: vec![node],
                isr: vec![node],
                leader: Some(node),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: 0,
            },
        }));
        world.commit(&records);
        world.run();
        world
    }

    fn commit(&mut self, records: &[Record]) {
        let offset = MetadataOffset(self.image.offset.0 + 1);
        let (image, delta) = self.image.apply(offset, records).expect("they fit");
        self.image = Arc::new(image);
        let publish = ToShard::Publish { image: self.image.clone(), delta: Arc::new(delta) };
        self.next.push(Next::Control(publish));
    }

    fn connect(&mut self) -> usize {
        let free = self.clients.iter().position(|client| !client.open);
        let at = free.unwrap_or(self.clients.len());
        if at == self.clients.len() {
            self.clients.push(Client::default());
        }
        self.clients[at] = Client { open: true, ..Client::default() };
        let connection = ConnectionId(at as u32);
        let peer = ([127, 0, 0, 1], 1).into();
        self.step(Event::Net(NetEvent::Accepted { connection, peer }));
        self.run();
        at
    }

    fn step(&mut self, event: Event<'_>) {
        self.shard.step(self.now, event, &mut self.effects);
    }

    /// What the client says, and all that follows, a second included.
    fn say(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].sent.extend(bytes);
        self.run();
        for _ in 0..3 {
            self.now.instant = self.now.instant + Duration::from_millis(400);
            self.run();
        }
    }

    fn run(&mut self) {
        for _ in 0..100_000 {
            let mut idle = true;
            for next in std::mem::take(&mut self.next) {
                idle = false;
                match next {
                    Next::Disk(completion) => self.step(Event::Disk(completion)),
                    Next::Control(message) => self.step(Event::Control(message)),
                    Next::Closed(connection) => {
                        self.clients[connection.0 as usize].open = false;
                        self.step(Event::Net(NetEvent::Closed { connection }));
                    }
                    Next::Sent(connection, bytes) => {
                        let result = Ok(());
                        self.step(Event::Net(NetEvent::Sent { connection, bytes, result }));
                    }
                }
            }
            for at in 0..self.clients.len() {
                idle &= !self.receive(at);
            }
            let due = match self.shard.wake() {
                Wake::Now => true,
                Wake::At(at) => at <= self.now.instant,
                Wake::OnEvent | Wake::Stopped => false,
            };
            if idle && !due {
                return;
            }
            self.step(Event::Turn);
            self.perform();
        }
        panic!("the shard does not come to rest");
    }

    fn receive(&mut self, at: usize) -> bool {
        let client = &mut self.clients[at];
        if client.sent.is_empty() || client.receive.is_none() {
            return false;
        }
        let connection = ConnectionId(at as u32);
        let lent: Vec<u8>;
        let received = match client.receive.take().expect("seen above") {
            ReceiveInto::Shared => {
                let len = client.sent.len().min(16 << 10);
                lent = client.sent.drain(..len).collect();
                Received::Lent(&lent)
            }
            ReceiveInto::Page(mut page) => {
                let len = client.sent.len().min(page.spare_len());
                let bytes: Vec<u8> = client.sent.drain(..len).collect();
                page.put(&bytes);
                Received::Page(page)
            }
        };
        self.step(Event::Net(NetEvent::Received { connection, received }));
        true
    }

    fn perform(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for DiskOp { tag, kind } in effects.disk.drain(..) {
            let result = match kind {
                DiskOpKind::Write { bytes, .. } => Ok(DiskOutput::Written { bytes }),
                DiskOpKind::Open { .. } => Ok(DiskOutput::Opened { len: 0 }),
                DiskOpKind::ListDir { .. } => Ok(DiskOutput::Entries(vec![])),
                DiskOpKind::ReadDir { .. } => {
                    Ok(DiskOutput::Dir { entries: vec![], contents: vec![] })
                }
                DiskOpKind::Read { .. } => Err(DiskError::Io(5)),
                DiskOpKind::ReadFile { .. } => Err(DiskError::NotFound),
                DiskOpKind::Space => Ok(DiskOutput::Space { total: 1 << 40, usable: 1 << 40 }),
                _ => Ok(DiskOutput::Done),
            };
            self.next.push(Next::Disk(DiskCompletion { tag, result }));
        }
        for op in effects.net.drain(..) {
            match op {
                NetOp::Receive { connection, into } => {
                    self.clients[connection.0 as usize].receive = Some(into);
                }
                NetOp::Send { connection, bytes } => {
                    let answers = &mut self.clients[connection.0 as usize].answers;
                    answers.extend(bytes.parts().iter().flat_map(|part| part.iter()));
                    self.next.push(Next::Sent(connection, bytes));
                }
                NetOp::Close { connection } => {
                    if self.clients[connection.0 as usize].receive.take().is_some() {
                        let received = Received::Failed(CANCELED);
                        self.shard.step(
                            self.now,
                            Event::Net(NetEvent::Received { connection, received }),
                            &mut self.effects,
                        );
                    }
                    self.next.push(Next::Closed(connection));
                }
                NetOp::StopAccepting => unreachable!("nobody stops it"),
            }
        }
        for message in effects.control.drain(..) {
            if let ToController::Command { id, command, .. } = message {
                let decision = decide(
                    &command,
                    &self.image,
                    &FormerCores::default(),
                    &self.policy,
                    &mut self.rng,
                );
                if !decision.records.is_empty() {
                    self.commit(&decision.records);
                }
                let answer = ToShard::Answer { id, answer: decision.answer };
                self.next.push(Next::Control(answer));
            }
        }
    }

    /// Takes the client's answers; they are whole frames.
    fn answers(&mut self, client: usize) -> Vec<Vec<u8>> {
        let said = std::mem::take(&mut self.clients[client].answers);
        let (mut rest, mut frames) = (&said[..], vec![]);
        while let Some((prefix, after)) = rest.split_first_chunk::<4>() {
            let len = i32::from_be_bytes(*prefix) as usize;
            assert!(len >= 4 && after.len() >= len, "a cut answer");
            frames.push(after[..len].to_vec());
            rest = &after[len..];
        }
        assert!(rest.is_empty(), "a cut length");
        frames
    }

    /// Another client is served, and no memory is held for nothing.
    fn expect_unhurt(&mut self, bystander: usize, what: &str) {
        let mut rng = Rng::new(1);
        let frame = requests::valid(ApiKey::Metadata.api(), 1, (0, 0), &mut rng);
        self.say(bystander, &frame);
        assert_eq!(self.answers(bystander).len(), 1, "{what}: the other client");
        let counters = self.shard.counters();
        let held = (counters.requests_in_flight, counters.answer_bytes <= 1 << 20);
        assert_eq!(held, (0, true), "{what}");
    }
}

fn every_version(key: impl Fn(&Api) -> bool) -> impl Iterator<Item = (&'static Api, i16)> {
    let apis = APIS.iter().filter(move |api| key(api));
    apis.flat_map(|api| (api.served_min..=api.max).map(move |version| (api, version)))
}

#[test]
fn spoiled_requests_of_every_api_and_version() {
    let mut rng = Rng::stream(seed(), "spoiled");
    let ((), used) = peak(|| {
        let mut world = World::new();
        let (bystander, mut client) = (world.connect(), world.connect());
        for (api, version) in every_version(|_| true) {
            let what = format!("seed {}: {} {version}", seed(), api.name);
            for _ in 0..rounds(25) {
                let mut frame = requests::valid(api, version, (0, -1), &mut rng);
                if rng.chance(9, 10) {
                    // The API and the version stay.
                    let mut rest = frame.split_off(8);
                    mutate(&mut rest, &mut rng);
                    frame.extend(rest);
                    if rng.chance(9, 10) {
                        requests::set_len(&mut frame);
                    }
                }
                world.say(client, &frame);
                world.answers(client);
                // One that waits for more would take the next one for it.
                if !world.clients[client].open || rng.chance(1, 4) {
                    client = world.connect();
                }
            }
            world.expect_unhurt(bystander, &what);
        }
    });
    assert!(used <= MEMORY + BESIDE, "{} MiB", used >> 20);
}

#[test]
fn fetch_sessions_used_in_every_wrong_way() {
    let mut rng = Rng::stream(seed(), "sessions");
    let ((), used) = peak(|| {
        let mut world = World::new();
        let bystander = world.connect();
        let mut clients: Vec<usize> = (0..3).map(|_| world.connect()).collect();
        // What the clients know: a session and its next epoch, right or not.
        let mut sessions = vec![(0, 0)];
        for round in 0..rounds(3_000) {
            let at = rng.below(3) as usize;
            let version = rng.between(7, 18) as i16;
            let mut session = sessions[rng.below(sessions.len() as u64) as usize];
            match rng.below(8) {
                0 => session = (0, 0),
                1 => {
                    session.1 = [-1, 0, 1, i32::MAX, i32::MIN, session.1 + 1][rng.below(6) as usize]
                }
                2 => session.0 = rng.next_u64() as i32,
                _ => {}
            }
            let mut frame = requests::valid(ApiKey::Fetch.api(), version, session, &mut rng);
            if rng.chance(1, 5) {
                let mut body = frame.split_off(18);
                mutate(&mut body, &mut rng);
                frame.extend(body);
                requests::set_len(&mut frame);
            }
            world.say(clients[at], &frame);
            for answer in world.answers(clients[at]) {
                // Behind the correlation id, the header's tags and the throttle time.
                let body = if version >= 12 { 9 } else { 8 };
                let error = i16::from_be_bytes(*answer[body..].first_chunk().expect("two bytes"));
                let id = i32::from_be_bytes(*answer[body + 2..].first_chunk().expect("four bytes"));
                assert!([0, 70, 71, 106].contains(&error), "round {round}: error {error}");
                assert!(error == 0 || id == 0, "round {round}");
                if id != 0 {
                    let next = if session.0 == id { session.1.wrapping_add(1) } else { 1 };
                    sessions.push((id, next));
                }
            }
            if sessions.len() > 20 {
                sessions.remove(rng.below(20) as usize);
            }
            if !world.clients[clients[at]].open {
                clients[at] = world.connect();
            }
            assert!(world.shard.counters().fetch_sessions <= 1_000);
            if round % 500 == 0 {
                world.expect_unhurt(bystander, "sessions");
            }
        }
    });
    assert!(used <= MEMORY + BESIDE, "{} MiB", used >> 20);
}
