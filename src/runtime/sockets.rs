//! Listeners and connections of one core.
//!
//! A connection's row exists from its acceptance to [`NetEvent::Closed`], and
//! owns its descriptor and whatever is in flight:
//!
//! ```text
//!     open --Close--> closing --last completion--> gone, its number free
//! ```
//!
//! Closing shuts the socket down and cancels, so that what is in flight ends
//! soon; every operation still completes exactly once, before `Closed`.
//!
//! A send goes on until its rope is sent, in as many kernel operations as that
//! takes. A shared receive that found no buffer is asked for again in the same
//! turn, once the turn's buffers are back.
//!
//! Not here: timeouts, and any limit on what a connection sends or receives.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;
use std::{io, mem};

use socket2::SockRef;

use super::buffers::ReceiveBuffers;
use super::gather::Cursor;
use super::ring::{Completion, Kind, Ring, Token};
use crate::base::pages::PageWriter;
use crate::base::rope::Rope;
use crate::base::slab::Slab;
use crate::base::time::Instant;
use crate::effect::net::{ConnectionId, NetEvent, NetOp, ReceiveInto, Received};

/// How long accepting rests when descriptors or memory have run out: the
/// connection that could not be accepted stays in the listener's queue, and
/// asking again at once would spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// The sockets of one core.
pub struct Sockets {
    listeners: Vec<Listener>,
    connections: Slab<Connection>,
    connections_max: usize,
    buffers: ReceiveBuffers,
    /// Connections whose shared receive found no buffer in this turn.
    starved: Vec<u32>,
    /// When listeners that rest accept again.
    resume_accept: Option<Instant>,
    accepting: bool,
    /// Events that need no completion, for the next turn.
    ready: Vec<Ready>,
    /// What happened so far.
    pub counters: SocketCounters,
}

/// What happened to the sockets of one core since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketCounters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at once, beyond the limit.
    pub refused: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
}

struct Listener {
    socket: TcpListener,
    /// Whether an accept is in flight.
    armed: bool,
}

struct Connection {
    socket: OwnedFd,
    receive: Receive,
    send: Option<Sending>,
    closing: bool,
}

/// The receive in flight.
enum Receive {
    None,
    Shared,
    Page(PageWriter),
}

/// The send in flight.
struct Sending {
    bytes: Rope,
    cursor: Cursor,
}

enum Ready {
    Sent { connection: ConnectionId, bytes: Rope },
    Closed { connection: ConnectionId },
}

impl Connection {
    fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn is_idle(&self) -> bool {
        matches!(self.receive, Receive::None) && self.send.is_none()
    }
}

impl Sockets {
    /// Accepts at most `connections_max` connections at a time from `listeners`,
    /// which are in blocking mode.
    ///
    /// # Errors
    /// If the receive buffers cannot be registered.
    pub fn new(
        ring: &mut Ring,
        listeners: Vec<TcpListener>,
        connections_max: usize,
    ) -> io::Result<Self> {
        let listeners = listeners.into_iter().map(|socket| Listener { socket, armed: false });
        let mut sockets = Self {
            listeners: listeners.collect(),
            connections: Slab::default(),
            connections_max,
            buffers: ReceiveBuffers::new(ring)?,
            starved: Vec::new(),
            resume_accept: None,
            accepting: true,
            ready: Vec::new(),
            counters: SocketCounters::default(),
        };
        sockets.arm_listeners(ring);
        Ok(sockets)
    }

    /// When [`Sockets::resume`] has something to do.
    pub fn resume_at(&self) -> Option<Instant> {
        self.resume_accept
    }

    /// Accepts again after a rest.
    pub fn resume(&mut self, ring: &mut Ring, now: Instant) {
        if self.resume_accept.is_some_and(|at| at <= now) {
            self.resume_accept = None;
            self.arm_listeners(ring);
        }
    }

    /// Whether there are events without a completion.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Tells the events that need no completion.
    pub fn emit_ready(&mut self, mut emit: impl FnMut(NetEvent<'_>)) {
        for ready in self.ready.drain(..) {
            match ready {
                Ready::Sent { connection, bytes } => {
                    emit(NetEvent::Sent { connection, bytes, result: Ok(()) });
                }
                Ready::Closed { connection } => emit(NetEvent::Closed { connection }),
            }
        }
    }

    /// Gives the turn's receive buffers back, and asks again for those who
    /// found none.
    pub fn end_of_completions(&mut self, ring: &mut Ring) {
        self.buffers.publish();
        for index in self.starved.drain(..) {
            let connection = self.connections.get(index).expect("a starved receive is in flight");
            self.buffers.receive(ring, Token::new(Kind::Receive, index), connection.fd());
        }
    }

    /// Carries out one operation.
    ///
    /// # Panics
    /// If the connection is closed or closing, or has the like in flight.
    pub fn perform(&mut self, ring: &mut Ring, op: NetOp) {
        match op {
            NetOp::Receive { connection, into } => self.receive(ring, connection, into),
            NetOp::Send { connection, bytes } => self.send(ring, connection, bytes),
            NetOp::Close { connection } => self.close(ring, connection),
            NetOp::StopAccepting => self.stop_accepting(ring),
        }
    }

    fn open(&mut self, connection: ConnectionId) -> &mut Connection {
        let row = self.connections.get_mut(connection.0);
        row.filter(|row| !row.closing).expect("operations name open connections")
    }

    fn receive(&mut self, ring: &mut Ring, connection: ConnectionId, into: ReceiveInto) {
        let row = self.open(connection);
        assert!(matches!(row.receive, Receive::None), "one receive at a time");
        let (token, fd) = (Token::new(Kind::Receive, connection.0), row.fd());
        match into {
            ReceiveInto::Shared => {
                row.receive = Receive::Shared;
                self.buffers.receive(ring, token, fd);
            }
            ReceiveInto::Page(mut page) => {
                let spare = page.spare();
                assert!(!spare.is_empty(), "a receive has room");
                let (memory, len) = (spare.as_mut_ptr(), spare.len());
                row.receive = Receive::Page(page);
                // SAFETY: the row holds the page, untouched, until the completion.
                unsafe { ring.receive(token, fd, memory, len) };
            }
        }
    }

    fn send(&mut self, ring: &mut Ring, connection: ConnectionId, bytes: Rope) {
        let row = self.open(connection);
        assert!(row.send.is_none(), "one send at a time");
        if bytes.is_empty() {
            self.ready.push(Ready::Sent { connection, bytes });
            return;
        }
        let fd = row.fd();
        let sending = row.send.insert(Sending { bytes, cursor: Cursor::default() });
        let token = Token::new(Kind::Send, connection.0);
        // SAFETY: the row holds the rope until the completion.
        unsafe { ring.send(token, fd, &sending.bytes, sending.cursor) };
    }

    fn close(&mut self, ring: &mut Ring, connection: ConnectionId) {
        let row = self.open(connection);
        row.closing = true;
        if row.is_idle() {
            self.connections.remove(connection.0);
            self.ready.push(Ready::Closed { connection });
            return;
        }
        // An error means that the peer has gone already: then what is in flight
        // ends by itself.
        let _ = SockRef::from(&row.socket).shutdown(std::net::Shutdown::Both);
        ring.cancel_fd(row.fd());
    }

    fn stop_accepting(&mut self, ring: &mut Ring) {
        self.accepting = false;
        self.resume_accept = None;
        for (index, listener) in (0..).zip(&self.listeners) {
            if listener.armed {
                ring.cancel_token(Token::new(Kind::Accept, index));
            }
        }
        self.close_listeners();
    }

    /// Closes the listeners once no accept holds them.
    fn close_listeners(&mut self) {
        if self.listeners.iter().all(|listener| !listener.armed) {
            self.listeners.clear();
        }
    }

    fn arm_listeners(&mut self, ring: &mut Ring) {
        for (index, listener) in (0..).zip(&mut self.listeners) {
            if !listener.armed {
                listener.armed = true;
                ring.accept(Token::new(Kind::Accept, index), listener.socket.as_raw_fd());
            }
        }
    }

    /// An accept returned a connection, or ended.
    pub fn accept_completed(
        &mut self,
        ring: &mut Ring,
        completion: Completion,
        now: Instant,
        emit: impl FnOnce(NetEvent<'_>),
    ) {
        let index = completion.token.index as usize;
        self.listeners[index].armed = completion.more;
        match completion.result {
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(fd) => self.accepted(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }, emit),
            Err(_) if !self.accepting => {}
            // The client gave up before it was accepted.
            Err(libc::ECONNABORTED | libc::EINTR) => {}
            Err(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                tracing::warn!("accepting rests for {ACCEPT_REST:?}: {error}");
                self.resume_accept = Some(now + ACCEPT_REST);
            }
        }
        if !self.accepting {
            self.close_listeners();
        } else if self.resume_accept.is_none() {
            self.arm_listeners(ring);
        }
    }

    /// Closes a connection that was accepted while the reactor is dropped.
    pub fn discard_accepted(completion: Completion) {
        if let Ok(fd) = completion.result {
            // SAFETY: the kernel has just made this descriptor for us.
            drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        }
    }

    fn accepted(&mut self, socket: OwnedFd, emit: impl FnOnce(NetEvent<'_>)) {
        if !self.accepting || self.connections.len() >= self.connections_max {
            self.counters.refused += 1;
            return;
        }
        let Some(peer) = prepare(&socket) else { return };
        self.counters.accepted += 1;
        let row = Connection { socket, receive: Receive::None, send: None, closing: false };
        let connection = ConnectionId(self.connections.insert(row));
        emit(NetEvent::Accepted { connection, peer });
    }

    /// A receive ended.
    pub fn receive_completed(
        &mut self,
        ring: &mut Ring,
        completion: Completion,
        mut emit: impl FnMut(NetEvent<'_>),
    ) {
        let Token { index, .. } = completion.token;
        let connection = ConnectionId(index);
        let row = self.connections.get_mut(index).expect("a receive's connection is there");
        if let Ok(len) = completion.result {
            self.counters.received_bytes += len as u64;
        }
        match mem::replace(&mut row.receive, Receive::None) {
            Receive::None => unreachable!("a receive is in flight"),
            Receive::Page(mut page) => {
                let received = match completion.result {
                    Ok(0) => Received::End,
                    Ok(len) => {
                        page.advance(len);
                        Received::Page(page)
                    }
                    Err(libc::EINTR) if !row.closing => {
                        return self.receive(ring, connection, ReceiveInto::Page(page));
                    }
                    Err(errno) => Received::Failed(errno),
                };
                emit(NetEvent::Received { connection, received });
            }
            Receive::Shared => {
                let received = match (completion.result, completion.buffer) {
                    (Ok(0), _) => Received::End,
                    (Ok(len), buffer) => {
                        let id = buffer.expect("bytes came in a provided buffer");
                        Received::Lent(self.buffers.lent(id, len))
                    }
                    (Err(libc::ENOBUFS), _) if !row.closing => {
                        row.receive = Receive::Shared;
                        self.starved.push(index);
                        return;
                    }
                    (Err(libc::EINTR), None) if !row.closing => {
                        return self.receive(ring, connection, ReceiveInto::Shared);
                    }
                    (Err(errno), _) => Received::Failed(errno),
                };
                emit(NetEvent::Received { connection, received });
                if let Some(id) = completion.buffer {
                    self.buffers.give_back(id);
                }
            }
        }
        self.finish_close(connection, emit);
    }

    /// A send ended, or a part of it.
    pub fn send_completed(
        &mut self,
        ring: &mut Ring,
        completion: Completion,
        mut emit: impl FnMut(NetEvent<'_>),
    ) {
        let connection = ConnectionId(completion.token.index);
        let row = self.connections.get_mut(connection.0).expect("a send's connection is there");
        let fd = row.fd();
        let sending = row.send.as_mut().expect("a send is in flight");
        if let Ok(len) = completion.result {
            self.counters.sent_bytes += len as u64;
            sending.cursor.advance(&sending.bytes, len);
        }
        let result = match completion.result {
            Ok(_) if sending.cursor.is_end(&sending.bytes) => Ok(()),
            Ok(_) | Err(libc::EINTR) if row.closing => Err(libc::ECANCELED),
            Ok(0) => Err(libc::EIO),
            Ok(_) | Err(libc::EINTR) => {
                // SAFETY: the row holds the rope until the completion.
                unsafe { ring.send(completion.token, fd, &sending.bytes, sending.cursor) };
                return;
            }
            Err(errno) => Err(errno),
        };
        let bytes = row.send.take().expect("a send is in flight").bytes;
        emit(NetEvent::Sent { connection, bytes, result });
        self.finish_close(connection, emit);
    }

    fn finish_close(&mut self, connection: ConnectionId, mut emit: impl FnMut(NetEvent<'_>)) {
        let row = self.connections.get(connection.0).expect("its completion came just now");
        if row.closing && row.is_idle() {
            self.connections.remove(connection.0);
            emit(NetEvent::Closed { connection });
        }
    }
}

/// Readies an accepted socket and returns its peer, or `None` if that has gone.
fn prepare(socket: &OwnedFd) -> Option<SocketAddr> {
    let socket = SockRef::from(socket);
    let peer = socket.peer_addr().ok()?.as_socket()?;
    // Answers are complete when they are sent: waiting for more helps nobody.
    socket.set_tcp_nodelay(true).ok()?;
    Some(peer)
}
