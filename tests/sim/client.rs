//! A client: one connection at a time, requests in a row, answers in the same
//! row. What it asks is its role's business.
//!
//! Checked here: every request that expects an answer gets exactly one, in
//! order and in time, or its connection ends.

use std::collections::VecDeque;

use corelane::base::rng::Rng;
use corelane::wire::apis::ApiKey;
use kafka_wire::KafkaRequest;

use crate::admin::Admin;
use crate::auditor::Auditor;
use crate::consumer::{Consumer, FetchAsked};
use crate::coverage::Coverage;
use crate::idempotent::Idempotent;
use crate::keyed::Keyed;
use crate::member::{Member, Question};
use crate::model::{Model, Tp};
use crate::network::{Conn, End, Network};
use crate::producer::Producer;
use crate::queue::{MS, Queue, SEC, What};
use crate::session::SessionUse;
use crate::trace;
use crate::wire;

/// What an answer may take beyond what the request itself allows.
const SLACK: u64 = 20 * SEC;

/// What all clients share.
pub struct Shared {
    pub queue: Queue,
    pub network: Network,
    pub model: Model,
    pub coverage: Coverage,
    /// Clients send nothing new any more, but readers go on to the end.
    pub quiet: bool,
    /// No faults of clients from here on.
    pub calm: bool,
}

/// What was asked, and what the answer is judged by.
#[derive(Debug)]
pub enum Asked {
    ApiVersions,
    ProducerId,
    /// Attempts by partition.
    Produce(Vec<(Tp, u64)>),
    Fetch(Vec<FetchAsked>, SessionUse),
    ListOffsets(Vec<(Tp, i64, i64)>),
    Group(Question),
    Admin,
}

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Request {
    correlation_id: i32,
    pub api: ApiKey,
    pub version: i16,
    pub sent: u64,
    /// The run of the broker that it was sent to.
    pub life: u64,
    late: u64,
    pub asked: Asked,
}

/// What a client is for.
pub enum Role {
    Producer(Producer),
    Idempotent(Idempotent),
    Consumer(Consumer),
    Member(Member),
    Keyed(Keyed),
    Auditor(Auditor),
    Admin(Admin),
}

/// One client.
pub struct Client {
    pub id: usize,
    pub link: Link,
    pub role: Role,
}

/// A client's connection.
pub struct Link {
    pub id: usize,
    pub rng: Rng,
    conn: Option<Conn>,
    /// The run of the broker it goes to.
    life: u64,
    /// Counts connections.
    pub generation: u64,
    buffer: Vec<u8>,
    in_flight: VecDeque<Request>,
    next: i32,
    plan: u64,
    retry_at: u64,
    stuck_until: u64,
}

impl Client {
    pub fn new(id: usize, seed: u64, role: Role) -> Self {
        let link = Link {
            id,
            rng: Rng::stream(seed, &format!("client {id}")),
            conn: None,
            life: 0,
            generation: 0,
            buffer: vec![],
            in_flight: VecDeque::new(),
            next: 0,
            plan: 0,
            retry_at: 0,
            stuck_until: 0,
        };
        Self { id, link, role }
    }

    /// Does what is to be done now and plans the next time.
    pub fn wake(&mut self, shared: &mut Shared, plan: Option<u64>) {
        if plan.is_some_and(|plan| plan != self.link.plan) {
            return;
        }
        let now = shared.queue.now();
        if let Some(late) = self.link.in_flight.front().filter(|front| front.late < now) {
            panic!("client {} got no answer to {late:?}, and it is {} ms", self.id, now / MS);
        }
        let mut next = now + 500 * MS;
        if now < self.link.retry_at {
            next = self.link.retry_at;
        } else {
            if self.link.conn.is_none() && self.wants_connection(shared) {
                self.connect(shared);
            }
            if self.link.conn.is_some() {
                self.misbehave(shared);
            }
            if self.link.conn.is_some() {
                let Self { link, role, .. } = self;
                let at = match role {
                    Role::Producer(role) => role.act(link, shared),
                    Role::Idempotent(role) => role.act(link, shared),
                    Role::Consumer(role) => role.act(link, shared),
                    Role::Member(role) => role.act(link, shared),
                    Role::Keyed(role) => role.act(link, shared),
                    Role::Auditor(role) => role.act(link, shared),
                    Role::Admin(role) => role.act(link, shared),
                };
                next = next.min(at.max(now + MS / 10));
            }
        }
        self.link.plan += 1;
        shared.queue.at(next, What::Client { client: self.id, plan: self.link.plan });
    }

    fn wants_connection(&self, shared: &Shared) -> bool {
        match &self.role {
            Role::Auditor(auditor) => !auditor.is_done(),
            Role::Producer(_) | Role::Idempotent(_) => !shared.quiet,
            _ => true,
        }
    }

    fn connect(&mut self, shared: &mut Shared) {
        let link = &mut self.link;
        link.generation += 1;
        link.life = shared.model.life;
        link.conn = Some(shared.network.connect(&mut shared.queue, link.id));
        if link.rng.chance(1, 3) {
            let version = link.rng.between(0, 4) as i16;
            let mut request = kafka_wire::ApiVersionsRequest::default();
            if version >= 3 {
                request.client_software_name = "sim".into();
                request.client_software_version = "1".into();
            }
            link.send(shared, &request, version, 0, Asked::ApiVersions);
        }
    }

    /// Sometimes a client stops reading, or goes away in the middle.
    fn misbehave(&mut self, shared: &mut Shared) {
        let link = &mut self.link;
        if shared.calm {
            return;
        }
        if link.rng.chance(1, 150) {
            let time = link.rng.between(10 * MS, 800 * MS);
            link.stuck_until = shared.queue.now() + time;
            shared.network.client_sticks(&mut shared.queue, link.conn.expect("it is there"), time);
        }
        if link.rng.chance(1, 150) {
            let end = if link.rng.chance(1, 2) { End::Reset } else { End::Fin };
            link.leave(shared, end);
        }
    }

    /// Bytes came.
    pub fn bytes(&mut self, shared: &mut Shared, conn: Conn, bytes: Vec<u8>) {
        if self.link.conn != Some(conn) {
            return;
        }
        self.link.buffer.extend_from_slice(&bytes);
        while self.link.conn == Some(conn)
            && let Some(frame) = wire::take_frame(&mut self.link.buffer)
        {
            let id = wire::correlation_id(&frame);
            let Some(request) = self.link.in_flight.pop_front() else {
                panic!("client {} got an answer {id} that it did not ask for", self.id);
            };
            assert_eq!(id, request.correlation_id, "client {}: answers in order", self.id);
            let (api, version) = (request.api.api(), request.version);
            let (client, waited) = (self.id as u64, shared.queue.now() - request.sent);
            trace::event("answer", &[client, id as u64, frame.len() as u64], || {
                format!("{} after {} us", api.name, waited / 1_000)
            });
            let Self { link, role, .. } = self;
            shared.coverage.answer(api.name);
            if let Asked::ApiVersions = request.asked {
                let answer: kafka_wire::ApiVersionsResponse = wire::answer(frame, api, version);
                assert_eq!(answer.error_code, 0);
                continue;
            }
            match role {
                Role::Producer(role) => role.answered(link, shared, request, frame),
                Role::Idempotent(role) => role.answered(link, shared, request, frame),
                Role::Consumer(role) => role.answered(link, shared, request, frame),
                Role::Member(role) => role.answered(link, shared, request, frame),
                Role::Keyed(role) => role.answered(link, shared, request, frame),
                Role::Auditor(role) => role.answered(link, shared, request, frame),
                Role::Admin(role) => role.answered(link, shared, request, frame),
            }
        }
        self.wake(shared, None);
    }

    /// The connection ended.
    pub fn ended(&mut self, shared: &mut Shared, conn: Conn) {
        if self.link.conn == Some(conn) {
            self.link.forget(shared);
            self.wake(shared, None);
        }
    }

    /// Requests without an answer.
    pub fn waiting(&self) -> usize {
        self.link.in_flight.len()
    }
}

impl Link {
    /// Requests without an answer.
    pub fn open(&self) -> usize {
        self.in_flight.len()
    }

    /// Sends a request whose answer may take `allowed` nanoseconds and some more.
    pub fn send<M: KafkaRequest>(
        &mut self,
        shared: &mut Shared,
        message: &M,
        version: i16,
        allowed: u64,
        asked: Asked,
    ) {
        let id = self.write(shared, message, version, false);
        let sent = shared.queue.now();
        let late = sent.max(self.stuck_until) + allowed + SLACK;
        let key = M::API_KEY.value();
        let api = corelane::wire::apis::Api::find(key).expect("the broker serves it").key;
        let life = self.life;
        let request = Request { correlation_id: id, api, version, sent, life, late, asked };
        self.in_flight.push_back(request);
    }

    /// Sends a request that gets no answer.
    pub fn send_silent<M: KafkaRequest>(&mut self, shared: &mut Shared, message: &M, version: i16) {
        self.write(shared, message, version, true);
    }

    fn write<M: KafkaRequest>(
        &mut self,
        shared: &mut Shared,
        message: &M,
        version: i16,
        silent: bool,
    ) -> i32 {
        self.next += 1;
        let frame = wire::request(message, version, self.next);
        let (client, id, len) = (self.id as u64, self.next as u64, frame.len() as u64);
        trace::event("request", &[client, id, len], || format!("{} {version}", M::NAME));
        let conn = self.conn.expect("roles act while there is a connection");
        shared.network.client_sends(&mut shared.queue, conn, &frame, silent);
        self.next
    }

    /// Lets go of the connection.
    pub fn leave(&mut self, shared: &mut Shared, end: End) {
        if let Some(conn) = self.conn {
            shared.network.client_ends(&mut shared.queue, conn, end, false);
            self.forget(shared);
        }
    }

    fn forget(&mut self, shared: &mut Shared) {
        trace::event("parted", &[self.id as u64, self.in_flight.len() as u64], String::new);
        self.conn = None;
        self.buffer.clear();
        self.in_flight.clear();
        self.stuck_until = 0;
        self.retry_at = shared.queue.now() + self.rng.between(MS, 50 * MS);
    }
}
