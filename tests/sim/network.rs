//! Streams of bytes between clients and cores: cut anywhere, late, ended or
//! reset by either side, with a bounded amount under way.
//!
//! The server's side keeps the contract of `effect::net`. A rope that is being
//! sent is read bit by bit, as the socket takes it, and must not have changed
//! when the last of it is gone.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use corelane::base::pages::PageSlice;
use corelane::base::rng::Rng;
use corelane::base::rope::Rope;
use corelane::base::slab::Slab;
use corelane::effect::disk::DiskCompletion;
use corelane::effect::net::{ConnectionId, NetOp, ReceiveInto};

use crate::disk::crc_of;
use crate::file::pick;
use crate::planted::Planted;
use crate::queue::{MS, Queue, US, What};

const ECONNRESET: i32 = 104;
const EPIPE: i32 = 32;
const ECANCELED: i32 = 125;

/// What the runtime lends at most for one receive.
const SHARED_LEN: usize = 16 << 10;

/// A connection, numbered for the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conn(pub usize);

/// Something that happens to a connection.
#[derive(Debug)]
pub enum NetStep {
    Accept(Conn),
    /// Bytes reach the server's socket.
    Up(Conn, Vec<u8>),
    UpEnd(Conn, End),
    /// A receive gets what there is.
    Receive(Conn),
    /// The socket takes more of a send.
    Send(Conn),
    /// Bytes reach the client's socket.
    Down(Conn, Vec<u8>),
    DownEnd(Conn, End),
    /// The client goes on reading.
    Read(Conn),
    /// A close of the server is done.
    Closed(Conn),
}

/// How a side of a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

/// What a core hears of its sockets and of its disk, in the order it happened.
#[derive(Debug)]
pub enum Heard {
    Accepted(ConnectionId),
    Lent(ConnectionId, Vec<u8>),
    Page(ConnectionId, corelane::base::pages::PageWriter),
    End(ConnectionId),
    Failed(ConnectionId, i32),
    Sent(ConnectionId, Rope, Result<(), i32>),
    Closed(ConnectionId),
    Disk(DiskCompletion),
}

/// What a step leads to.
#[derive(Debug)]
pub enum Out {
    ToCore(usize, Heard),
    Bytes(usize, Conn, Vec<u8>),
    End(usize, Conn),
}

struct Connection {
    client: usize,
    core: usize,
    /// The server's number for it, from acceptance to its `Closed`.
    id: Option<ConnectionId>,
    up: Vec<u8>,
    up_end: Option<End>,
    receive: Option<ReceiveInto>,
    receive_planned: bool,
    sending: Option<Sending>,
    send_planned: bool,
    closing: bool,
    client_open: bool,
    /// Bytes the socket took that the client has not read.
    unread: usize,
    window: usize,
    stuck: bool,
    arrived: VecDeque<Vec<u8>>,
    /// Streams keep their order: nothing arrives before what was sent before.
    up_last: u64,
    down_last: u64,
}

struct Sending {
    rope: Rope,
    crc: u32,
    taken: usize,
    /// What the client gets instead.
    planted: Option<Vec<u8>>,
}

/// What the network did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub accepted: u64,
    pub resets: u64,
    pub stuck: u64,
    pub up_bytes: u64,
    pub down_bytes: u64,
}

/// All connections.
pub struct Network {
    connections: BTreeMap<Conn, Connection>,
    ids: Vec<Slab<Conn>>,
    accepting: Vec<bool>,
    next: usize,
    rng: Rng,
    planted: Option<Planted>,
    leaked: Vec<PageSlice>,
    pub counters: Counters,
}

impl Network {
    pub fn new(seed: u64, planted: Option<Planted>) -> Self {
        Self {
            connections: BTreeMap::new(),
            ids: vec![],
            accepting: vec![],
            next: 0,
            rng: Rng::stream(seed, "network"),
            planted,
            leaked: vec![],
            counters: Counters::default(),
        }
    }

    /// The broker has so many cores now; none accepts yet.
    pub fn start(&mut self, cores: usize) {
        self.ids = (0..cores).map(|_| Slab::default()).collect();
        self.accepting = vec![false; cores];
    }

    pub fn accept(&mut self, core: usize) {
        self.accepting[core] = true;
    }

    /// The broker is gone: every client's connection is reset.
    pub fn crash(&mut self, queue: &mut Queue) {
        self.accepting.fill(false);
        for (conn, connection) in &mut self.connections {
            connection.id = None;
            connection.receive = None;
            connection.sending = None;
            connection.closing = true;
            let at = connection.down_last.max(queue.now()) + self.rng.between(10 * US, 5 * MS);
            queue.at(at, What::Net(NetStep::DownEnd(*conn, End::Reset)));
        }
    }

    fn delay(&mut self) -> u64 {
        match self.rng.below(50) {
            0 => self.rng.between(MS, 60 * MS),
            _ => self.rng.between(10 * US, 400 * US),
        }
    }

    /// A client connects to whichever core gets it.
    pub fn connect(&mut self, queue: &mut Queue, client: usize) -> Conn {
        self.next += 1;
        let conn = Conn(self.next);
        let core = self.rng.below(self.accepting.len().max(1) as u64) as usize;
        let connection = Connection {
            client,
            core,
            id: None,
            up: vec![],
            up_end: None,
            receive: None,
            receive_planned: false,
            sending: None,
            send_planned: false,
            closing: false,
            client_open: true,
            unread: 0,
            window: *pick(&mut self.rng, &[4 << 10, 64 << 10, 512 << 10]),
            stuck: false,
            arrived: VecDeque::new(),
            up_last: queue.now(),
            down_last: queue.now(),
        };
        self.connections.insert(conn, connection);
        let at = queue.now() + self.delay();
        // Bytes may follow at once, and arrive after.
        self.connections.get_mut(&conn).expect("just inserted").up_last = at;
        queue.at(at, What::Net(NetStep::Accept(conn)));
        conn
    }

    /// A client sends; `silent` bytes are a whole request without an answer.
    pub fn client_sends(&mut self, queue: &mut Queue, conn: Conn, bytes: &[u8], silent: bool) {
        let repeated =
            silent && self.planted == Some(Planted::RepeatedRequest) && self.rng.chance(1, 4);
        for _ in 0..1 + u64::from(repeated) {
            let mut rest = bytes;
            while !rest.is_empty() {
                let most = *pick(&mut self.rng, &[7, 1_000, 40_000, 1 << 20]);
                let now = rest.len().min(self.rng.between(1, most) as usize);
                // A long stream in tiny pieces says no more than one in large.
                let now = now.max(rest.len() / 20);
                let delay = self.delay();
                let connection = self.connections.get_mut(&conn).expect("the client's own");
                let at = connection.up_last.max(queue.now() + delay) + 1;
                connection.up_last = at;
                queue.at(at, What::Net(NetStep::Up(conn, rest[..now].to_vec())));
                rest = &rest[now..];
            }
        }
    }

    /// A client lets go of a connection, or only of its sending side.
    pub fn client_ends(&mut self, queue: &mut Queue, conn: Conn, end: End, half: bool) {
        let delay = self.delay();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.client_open &= half;
        self.counters.resets += u64::from(end == End::Reset);
        let at = match end {
            End::Fin => connection.up_last.max(queue.now() + delay) + 1,
            End::Reset => queue.now() + delay,
        };
        queue.at(at, What::Net(NetStep::UpEnd(conn, end)));
    }

    /// The client does not read for a while.
    pub fn client_sticks(&mut self, queue: &mut Queue, conn: Conn, time: u64) {
        if let Some(connection) = self.connections.get_mut(&conn)
            && !connection.stuck
        {
            self.counters.stuck += 1;
            connection.stuck = true;
            queue.after(time, What::Net(NetStep::Read(conn)));
        }
    }

    /// A core asks for something.
    pub fn perform(&mut self, queue: &mut Queue, core: usize, op: NetOp) {
        let id = match &op {
            NetOp::StopAccepting => {
                self.accepting[core] = false;
                return;
            }
            NetOp::Receive { connection, .. }
            | NetOp::Send { connection, .. }
            | NetOp::Close { connection } => *connection,
        };
        let conn = *self.ids[core].get(id.0).expect("operations name open connections");
        let connection = self.connections.get_mut(&conn).expect("the server has it");
        assert!(!connection.closing, "operations name open connections");
        match op {
            NetOp::Receive { into, .. } => {
                assert!(connection.receive.is_none(), "one receive at a time");
                if let ReceiveInto::Page(page) = &into {
                    assert!(page.spare_len() > 0, "a receive has room");
                }
                connection.receive = Some(into);
                self.plan_receive(queue, conn);
            }
            NetOp::Send { bytes: rope, .. } => {
                assert!(connection.sending.is_none(), "one send at a time");
                let crc = crc_of(&rope);
                let swaps = match self.planted {
                    Some(Planted::SwappedAnswers) => true,
                    Some(Planted::SwappedAnswersSeldom) => self.rng.chance(1, 300),
                    _ => false,
                };
                let planted = swaps.then(|| swap_frames(rope.to_vec()));
                connection.sending = Some(Sending { rope, crc, taken: 0, planted });
                self.plan_send(queue, conn);
            }
            NetOp::Close { .. } => {
                connection.closing = true;
                let delay = self.delay();
                queue.after(delay, What::Net(NetStep::Closed(conn)));
            }
            NetOp::StopAccepting => unreachable!("handled above"),
        }
    }

    fn plan_receive(&mut self, queue: &mut Queue, conn: Conn) {
        let delay = self.rng.between(0, 50 * US);
        let connection = self.connections.get_mut(&conn).expect("the server has it");
        let ready = !connection.up.is_empty() || connection.up_end.is_some();
        if connection.receive.is_some() && ready && !connection.receive_planned {
            connection.receive_planned = true;
            queue.after(delay, What::Net(NetStep::Receive(conn)));
        }
    }

    fn plan_send(&mut self, queue: &mut Queue, conn: Conn) {
        let delay = self.rng.between(0, 100 * US);
        let connection = self.connections.get_mut(&conn).expect("the server has it");
        let room = connection.unread < connection.window || connection.up_end.is_some();
        if connection.sending.is_some() && room && !connection.send_planned {
            connection.send_planned = true;
            queue.after(delay, What::Net(NetStep::Send(conn)));
        }
    }

    /// Carries out a step.
    pub fn step(&mut self, queue: &mut Queue, step: NetStep) -> Vec<Out> {
        let conn = match &step {
            NetStep::Accept(conn)
            | NetStep::Up(conn, _)
            | NetStep::UpEnd(conn, _)
            | NetStep::Receive(conn)
            | NetStep::Send(conn)
            | NetStep::Down(conn, _)
            | NetStep::DownEnd(conn, _)
            | NetStep::Read(conn)
            | NetStep::Closed(conn) => *conn,
        };
        let Some(connection) = self.connections.get_mut(&conn) else { return vec![] };
        let (client, core) = (connection.client, connection.core);
        match step {
            NetStep::Accept(_) => {
                if connection.closing || !self.accepting.get(core).is_some_and(|yes| *yes) {
                    connection.closing = true;
                    return self.step(queue, NetStep::DownEnd(conn, End::Reset));
                }
                self.counters.accepted += 1;
                let id = ConnectionId(self.ids[core].insert(conn));
                connection.id = Some(id);
                vec![Out::ToCore(core, Heard::Accepted(id))]
            }
            NetStep::Up(_, bytes) => {
                if connection.id.is_some() && connection.up_end.is_none() {
                    self.counters.up_bytes += bytes.len() as u64;
                    connection.up.extend(bytes);
                    self.plan_receive(queue, conn);
                }
                vec![]
            }
            NetStep::UpEnd(_, end) => {
                if connection.up_end.is_none() {
                    connection.up_end = Some(end);
                    if end == End::Reset {
                        connection.up.clear();
                    }
                    if connection.id.is_some() {
                        self.plan_receive(queue, conn);
                        self.plan_send(queue, conn);
                    }
                }
                vec![]
            }
            NetStep::Receive(_) => {
                connection.receive_planned = false;
                let heard = self.receive(conn);
                heard.into_iter().map(|heard| Out::ToCore(core, heard)).collect()
            }
            NetStep::Send(_) => {
                connection.send_planned = false;
                let heard = self.send(queue, conn);
                heard.into_iter().map(|heard| Out::ToCore(core, heard)).collect()
            }
            NetStep::Down(_, bytes) => {
                connection.arrived.push_back(bytes);
                self.read(queue, conn)
            }
            NetStep::Read(_) => {
                connection.stuck = false;
                self.read(queue, conn)
            }
            NetStep::DownEnd(_, end) => {
                if connection.stuck && connection.client_open {
                    // It notices when it reads again.
                    queue.after(MS, What::Net(NetStep::DownEnd(conn, end)));
                    return vec![];
                }
                let open = connection.client_open;
                connection.client_open = false;
                if connection.id.is_none() {
                    self.connections.remove(&conn);
                }
                if open { vec![Out::End(client, conn)] } else { vec![] }
            }
            NetStep::Closed(_) => self.closed(queue, conn),
        }
    }

    fn receive(&mut self, conn: Conn) -> Option<Heard> {
        let connection = self.connections.get_mut(&conn)?;
        let id = connection.id?;
        let into = connection.receive.take()?;
        if connection.up.is_empty() {
            return Some(match connection.up_end? {
                End::Fin => Heard::End(id),
                End::Reset => Heard::Failed(id, ECONNRESET),
            });
        }
        let most = match &into {
            ReceiveInto::Shared => SHARED_LEN,
            ReceiveInto::Page(page) => page.spare_len(),
        };
        let mut len = connection.up.len().min(most);
        if self.rng.chance(1, 8) {
            len = self.rng.between(1, len as u64) as usize;
        }
        let rest = connection.up.split_off(len);
        let bytes = std::mem::replace(&mut connection.up, rest);
        Some(match into {
            ReceiveInto::Shared => Heard::Lent(id, bytes),
            ReceiveInto::Page(mut page) => {
                page.put(&bytes);
                Heard::Page(id, page)
            }
        })
    }

    fn send(&mut self, queue: &mut Queue, conn: Conn) -> Option<Heard> {
        let delay = self.delay();
        let connection = self.connections.get_mut(&conn)?;
        let id = connection.id?;
        let sending = connection.sending.as_mut()?;
        if connection.up_end == Some(End::Reset) || !connection.client_open {
            let rope = connection.sending.take().expect("just seen").rope;
            return Some(Heard::Sent(id, rope, Err(EPIPE)));
        }
        let room = connection.window.saturating_sub(connection.unread);
        let left = sending.rope.len() - sending.taken;
        let len =
            (self.rng.between(1, left.max(1) as u64) as usize).max(left / 8).min(room).min(left);
        if len > 0 {
            let range = sending.taken..sending.taken + len;
            let piece = match &sending.planted {
                Some(bytes) => bytes[range].to_vec(),
                None => piece_of(&sending.rope, range),
            };
            sending.taken += len;
            connection.unread += len;
            self.counters.down_bytes += len as u64;
            let at = connection.down_last.max(queue.now() + delay) + 1;
            connection.down_last = at;
            queue.at(at, What::Net(NetStep::Down(conn, piece)));
        }
        if sending.taken < sending.rope.len() {
            self.plan_send(queue, conn);
            return None;
        }
        let sending = connection.sending.take().expect("just seen");
        assert_eq!(crc_of(&sending.rope), sending.crc, "bytes changed while they were sent");
        if self.planted == Some(Planted::LeakedPage) && self.rng.chance(1, 500) {
            self.leaked.extend(sending.rope.parts().iter().cloned());
        }
        Some(Heard::Sent(id, sending.rope, Ok(())))
    }

    fn read(&mut self, queue: &mut Queue, conn: Conn) -> Vec<Out> {
        let Some(connection) = self.connections.get_mut(&conn) else { return vec![] };
        if connection.stuck {
            return vec![];
        }
        let (client, open) = (connection.client, connection.client_open);
        let mut out = vec![];
        for bytes in connection.arrived.drain(..) {
            connection.unread -= bytes.len();
            if open {
                out.push(Out::Bytes(client, conn, bytes));
            }
        }
        if connection.id.is_some() {
            self.plan_send(queue, conn);
        }
        out
    }

    /// What is in flight ends, then the number is free.
    fn closed(&mut self, queue: &mut Queue, conn: Conn) -> Vec<Out> {
        let fin = self.rng.chance(1, 2);
        let connection = self.connections.get_mut(&conn).expect("it closes");
        let core = connection.core;
        let Some(id) = connection.id.take() else { return vec![] };
        let mut heard = vec![];
        if let Some(into) = connection.receive.take() {
            drop(into);
            heard.push(Heard::Failed(id, ECANCELED));
        }
        if let Some(sending) = connection.sending.take() {
            heard.push(Heard::Sent(id, sending.rope, Err(ECANCELED)));
        }
        heard.push(Heard::Closed(id));
        let end = if fin { End::Fin } else { End::Reset };
        let at = connection.down_last.max(queue.now()) + 1;
        queue.at(at, What::Net(NetStep::DownEnd(conn, end)));
        self.ids[core].remove(id.0);
        heard.into_iter().map(|heard| Out::ToCore(core, heard)).collect()
    }
}

/// Swaps the first two of several frames.
fn swap_frames(mut bytes: Vec<u8>) -> Vec<u8> {
    let frame = |at: usize| -> Option<usize> {
        let prefix = bytes.get(at..at + 4)?;
        let len = i32::from_be_bytes(prefix.try_into().expect("four bytes")) as usize + 4;
        (at + len <= bytes.len()).then_some(len)
    };
    if let Some(first) = frame(0)
        && let Some(second) = frame(first)
    {
        bytes[..first + second].rotate_left(first);
    }
    bytes
}

/// Some of the bytes of a rope.
fn piece_of(rope: &Rope, range: Range<usize>) -> Vec<u8> {
    let mut piece = Vec::with_capacity(range.len());
    let mut at = 0;
    for part in rope.parts() {
        let from = range.start.clamp(at, at + part.len()) - at;
        let to = range.end.clamp(at, at + part.len()) - at;
        piece.extend_from_slice(&part[from..to]);
        at += part.len();
    }
    piece
}
