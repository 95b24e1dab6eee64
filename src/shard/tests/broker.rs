//! All shards of one broker, performed in one thread in a fixed order.
//!
//! A shard gets [`Event::Turn`] after events, or when its [`Wake`] asks for it,
//! and never otherwise: work that a shard forgets stays undone here as it would
//! on a ring.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::{RequestResponsePair, response_header_version_for};
use kafka_wire_core::{ApiVersion, KafkaDecode};

use crate::base::limits::CONTROL_QUEUE_LEN;
use crate::base::rng::Rng;
use crate::base::time::{Now, UnixMillis};
use crate::config::{Assignment, Machine, Settings, validate_topic_config};
use crate::controller::decide::{Policy, decide};
use crate::effect::disk::DiskCompletion;
use crate::effect::memory_disk::MemoryDisk;
use crate::effect::net::{ConnectionId, NetEvent, NetOp, ReceiveInto, Received};
use crate::mesh::Mail;
use crate::metadata::image::{Delta, Image, Node};
use crate::metadata::link::{ToController, ToShard};
use crate::metadata::placement::FormerCores;
use crate::metadata::record::Record;
use crate::model::ids::{CoreId, MetadataOffset, NodeId, TopicId};
use crate::shard::Shard;
use crate::shard::event::{Effects, Event, Wake};
use crate::wire::client::encode_request;
use crate::wire::small::{Bytes, DecodeLimits, KafkaRequest};

/// Bytes that one receive into the shared buffer brings at most.
const SHARED: usize = 16 << 10;

/// ECANCELED.
const CANCELED: i32 = 125;

/// A client's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId {
    pub core: usize,
    number: u32,
}

#[derive(Debug, Default)]
struct Client {
    /// On the way to the broker.
    sent: VecDeque<u8>,
    /// The client has ended its side.
    ended: bool,
    receiving: Option<ReceiveInto>,
    /// What the broker sent.
    received: Vec<u8>,
    closed: bool,
}

/// Something that happened to one shard.
#[derive(Debug)]
enum Happened {
    Accepted(ConnectionId),
    Readable(ConnectionId),
    Sent(ConnectionId, crate::base::rope::Rope),
    /// A receive that a close has ended.
    Cancelled(ConnectionId),
    Closed(ConnectionId),
    Disk(DiskCompletion),
    Mail(CoreId, Mail),
    Control(ToShard),
}

pub struct Broker {
    pub now: Now,
    pub shards: Vec<Shard>,
    pub disks: Vec<MemoryDisk>,
    queues: Vec<VecDeque<Happened>>,
    effects: Vec<Effects>,
    clients: BTreeMap<ClientId, Client>,
    pub image: Arc<Image>,
    /// What led to it.
    last: Arc<Delta>,
    policy: Policy,
    rng: Rng,
    /// What shards said when they stopped.
    pub stopped: Vec<(CoreId, bool)>,
    accepting: Vec<bool>,
    correlation_id: i32,
}

impl Broker {
    /// A broker with `cores` cores and these settings that has just started.
    pub fn new(cores: u16, set: &[(&str, &str)]) -> Self {
        let machine =
            Machine { cores: cores.into(), memory_bytes: 1 << 30, hostname: "box".to_owned() };
        let assignments: Vec<Assignment> = set
            .iter()
            .map(|(key, value)| Assignment {
                origin: "test".to_owned(),
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect();
        let (settings, _) = Settings::resolve(&assignments, &machine).expect("good settings");
        let policy = Policy {
            num_partitions: settings.num_partitions,
            default_replication_factor: settings.default_replication_factor,
            validate_config: validate_topic_config,
            topics: crate::config::TopicConfig::default(),
            consumer: crate::config::ConsumerSettings::default(),
        };
        let node = Node { id: settings.node_id, host: "box".into(), port: 9092, cores };
        let settings = Arc::new(settings);
        let mut broker = Self {
            now: Now { instant: Default::default(), unix: UnixMillis(1_700_000_000_000) },
            shards: (0..cores)
                .map(|core| Shard::new(CoreId(core), settings.clone(), true))
                .collect(),
            disks: (0..cores).map(|_| MemoryDisk::default()).collect(),
            queues: (0..cores).map(|_| VecDeque::new()).collect(),
            effects: (0..cores).map(|_| Effects::default()).collect(),
            clients: BTreeMap::new(),
            image: Arc::new(Image::empty("cluster".into(), NodeId(1))),
            last: Arc::default(),
            policy,
            rng: Rng::new(1),
            stopped: vec![],
            accepting: vec![true; usize::from(cores)],
            correlation_id: 100,
        };
        broker.commit(&[Record::RegisterBroker(node)]);
        broker.run();
        broker
    }

    /// A client connected to `core`.
    pub fn connect(&mut self, core: usize) -> ClientId {
        assert!(self.accepting[core], "the core accepts connections");
        let taken = self.clients.iter().filter(|(id, client)| id.core == core && !client.closed);
        let taken: Vec<u32> = taken.map(|(id, _)| id.number).collect();
        let number = (0..).find(|number| !taken.contains(number)).expect("numbers do not end");
        let client = ClientId { core, number };
        self.clients.insert(client, Client::default());
        self.queues[core].push_back(Happened::Accepted(ConnectionId(number)));
        client
    }

    fn client(&mut self, id: ClientId) -> &mut Client {
        self.clients.get_mut(&id).expect("connected once")
    }

    /// Puts bytes on their way to the broker.
    pub fn send(&mut self, client: ClientId, bytes: &[u8]) {
        self.client(client).sent.extend(bytes);
    }

    /// Ends the client's side of the connection.
    pub fn end(&mut self, client: ClientId) {
        self.client(client).ended = true;
    }

    /// Puts a request on its way and returns its correlation id.
    pub fn ask<R: KafkaRequest>(&mut self, client: ClientId, request: &R, version: i16) -> i32 {
        self.correlation_id += 1;
        let id = self.correlation_id;
        let frame = encode_request(request, version, id, "test").expect("representable");
        self.send(client, &frame);
        id
    }

    /// The answer that came first, if it is here whole; it must be to
    /// `correlation_id`, and exactly a response of `version`.
    pub fn answer<R: RequestResponsePair>(
        &mut self,
        client: ClientId,
        version: i16,
        correlation_id: i32,
    ) -> Option<R::Response> {
        let received = &mut self.client(client).received;
        let len = i32::from_be_bytes(*received.first_chunk()?) as usize;
        let frame: Vec<u8> = received.drain(..4 + len).skip(4).collect();
        assert_eq!(frame[..4], correlation_id.to_be_bytes(), "answers come in order");
        let header = response_header_version_for::<R>(ApiVersion::new(version)).expect("known");
        let body = 4 + usize::from(header > 0);
        assert!(header == 0 || frame[4] == 0, "no tags in the header");
        let body = Bytes::copy_from_slice(&frame[body..]);
        let mut decoder =
            kafka_wire_core::Decoder::new(body, DecodeLimits::default()).expect("fits");
        let response = R::Response::decode(&mut decoder, ApiVersion::new(version));
        let response = response.unwrap_or_else(|error| panic!("version {version}: {error}"));
        decoder.finish().expect("nothing follows a response");
        Some(response)
    }

    /// Asks, and returns the answer, which must come without further events.
    pub fn call<R: RequestResponsePair>(
        &mut self,
        client: ClientId,
        request: &R,
        version: i16,
    ) -> R::Response {
        let id = self.ask(client, request, version);
        self.run();
        assert!(!self.is_closed(client), "version {version}: the connection was closed");
        let answer = self.answer::<R>(client, version, id);
        answer.unwrap_or_else(|| panic!("version {version}: there is no answer"))
    }

    /// Bytes that came and were not taken.
    pub fn received(&self, client: ClientId) -> &[u8] {
        &self.clients[&client].received
    }

    /// Whether the broker has closed the connection.
    pub fn is_closed(&self, client: ClientId) -> bool {
        self.clients[&client].closed
    }

    /// Lets time pass.
    pub fn wait(&mut self, ms: u64) {
        self.now.instant = self.now.instant + Duration::from_millis(ms);
        self.now.unix.0 += ms as i64;
        self.run();
    }

    /// Lets the disks do what they held back.
    pub fn release(&mut self) {
        for core in 0..self.disks.len() {
            let done = self.disks[core].release();
            self.queues[core].extend(done.into_iter().map(Happened::Disk));
        }
        self.run();
    }

    /// Tells all shards to stop.
    pub fn stop(&mut self) {
        for queue in &mut self.queues {
            queue.push_back(Happened::Control(ToShard::Stop));
        }
        self.run();
    }

    /// Makes a change of the metadata known to all cores.
    pub fn commit(&mut self, records: &[Record]) {
        let offset = MetadataOffset(self.image.offset.0 + 1);
        let (image, delta) = self.image.apply(offset, records).expect("the records fit");
        (self.image, self.last) = (Arc::new(image), Arc::new(delta));
        for queue in &mut self.queues {
            let (image, delta) = (self.image.clone(), self.last.clone());
            queue.push_back(Happened::Control(ToShard::Publish { image, delta }));
        }
    }

    /// A topic with as many partitions as there are cores, one on each.
    pub fn create_topic(&mut self, name: &str, config: &[(&str, &str)]) -> TopicId {
        let topic = crate::metadata::command::NewTopic {
            name: name.to_owned(),
            partitions: self.shards.len() as i32,
            replication_factor: 1,
            assignments: vec![],
            configs: config
                .iter()
                .map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned())))
                .collect(),
        };
        let command = crate::metadata::command::Command::CreateTopics {
            topics: vec![topic],
            validate_only: false,
        };
        let decision =
            decide(&command, &self.image, &FormerCores::default(), &self.policy, &mut self.rng);
        assert!(!decision.records.is_empty(), "{:?}", decision.answer);
        self.commit(&decision.records);
        self.run();
        self.image.topic(name).expect("just made").id
    }

    /// Performs everything until nothing happens by itself any more.
    pub fn run(&mut self) {
        loop {
            let mut idle = true;
            for core in 0..self.shards.len() {
                self.readable(core);
                let happened = std::mem::take(&mut self.queues[core]);
                let due = match self.shards[core].wake() {
                    Wake::Now => true,
                    Wake::At(at) => at <= self.now.instant,
                    Wake::OnEvent | Wake::Stopped => false,
                };
                if happened.is_empty() && !due {
                    continue;
                }
                idle = false;
                for happened in happened {
                    self.tell(core, happened);
                }
                self.shards[core].step(self.now, Event::Turn, &mut self.effects[core]);
                self.perform(core);
            }
            if idle {
                return;
            }
        }
    }

    fn readable(&mut self, core: usize) {
        for (id, client) in self.clients.iter().filter(|(id, _)| id.core == core) {
            if client.receiving.is_some() && (!client.sent.is_empty() || client.ended) {
                self.queues[core].push_back(Happened::Readable(ConnectionId(id.number)));
            }
        }
    }

    fn tell(&mut self, core: usize, happened: Happened) {
        let Self { shards, effects, clients, now, .. } = self;
        let (shard, effects, now) = (&mut shards[core], &mut effects[core], *now);
        let event = match happened {
            Happened::Accepted(connection) => {
                let peer = ([127, 0, 0, 1], 1).into();
                Event::Net(NetEvent::Accepted { connection, peer })
            }
            Happened::Readable(connection) => {
                let id = ClientId { core, number: connection.0 };
                let client = clients.get_mut(&id).expect("connected once");
                let mut lent = vec![];
                let received = match client.receiving.take() {
                    None => return,
                    Some(_) if client.sent.is_empty() => Received::End,
                    Some(ReceiveInto::Shared) => {
                        let len = client.sent.len().min(SHARED);
                        lent.extend(client.sent.drain(..len));
                        Received::Lent(&lent)
                    }
                    Some(ReceiveInto::Page(mut page)) => {
                        let len = client.sent.len().min(page.spare_len());
                        page.put(&client.sent.drain(..len).collect::<Vec<u8>>());
                        Received::Page(page)
                    }
                };
                shard.step(now, Event::Net(NetEvent::Received { connection, received }), effects);
                return;
            }
            Happened::Sent(connection, bytes) => {
                Event::Net(NetEvent::Sent { connection, bytes, result: Ok(()) })
            }
            Happened::Cancelled(connection) => {
                let received = Received::Failed(CANCELED);
                Event::Net(NetEvent::Received { connection, received })
            }
            Happened::Closed(connection) => Event::Net(NetEvent::Closed { connection }),
            Happened::Disk(completion) => Event::Disk(completion),
            Happened::Mail(from, mail) => Event::Mail { from, mail },
            Happened::Control(message) => Event::Control(message),
        };
        shard.step(now, event, effects);
    }

    fn perform(&mut self, core: usize) {
        let mut effects = std::mem::take(&mut self.effects[core]);
        for op in effects.disk.drain(..) {
            let done = self.disks[core].perform(op);
            self.queues[core].extend(done.map(Happened::Disk));
        }
        for op in effects.net.drain(..) {
            self.perform_net(core, op);
        }
        for (to, mail) in effects.mail.drain(..) {
            assert_ne!(usize::from(to.0), core, "a core does not mail itself");
            self.queues[usize::from(to.0)].push_back(Happened::Mail(CoreId(core as u16), mail));
        }
        assert!(effects.control.len() <= CONTROL_QUEUE_LEN, "the controller's queue has room");
        for message in effects.control.drain(..) {
            self.control(message);
        }
        self.effects[core] = effects;
    }

    fn perform_net(&mut self, core: usize, op: NetOp) {
        let client = |connection: ConnectionId| ClientId { core, number: connection.0 };
        match op {
            NetOp::Receive { connection, into } => {
                let before = self.client(client(connection)).receiving.replace(into);
                assert!(before.is_none(), "one receive at a time");
            }
            NetOp::Send { connection, bytes } => {
                assert!(!bytes.is_empty());
                self.client(client(connection)).received.extend(bytes.to_vec());
                self.queues[core].push_back(Happened::Sent(connection, bytes));
            }
            NetOp::Close { connection } => {
                let client = self.client(client(connection));
                client.closed = true;
                let cancelled = client.receiving.take().map(|_| Happened::Cancelled(connection));
                self.queues[core].extend(cancelled);
                self.queues[core].push_back(Happened::Closed(connection));
            }
            NetOp::StopAccepting => self.accepting[core] = false,
        }
    }

    /// The controller: every command is committed and known everywhere at once.
    fn control(&mut self, message: ToController) {
        match message {
            ToController::Command { core, id, command } => {
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
                self.queues[usize::from(core.0)].push_back(Happened::Control(answer));
            }
            ToController::Applied { offset, .. } => assert!(offset <= self.image.offset),
            ToController::Stopped { core, clean } => self.stopped.push((core, clean)),
        }
    }
}
