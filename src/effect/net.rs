//! Sockets: the operations a core may ask for, and what it hears of them.
//!
//! A connection has at most one receive and one send in flight. After
//! [`NetOp::Close`] the ones in flight still complete, then
//! [`NetEvent::Closed`] ends the connection's number; nothing follows it.

use std::net::SocketAddr;

use crate::base::pages::PageWriter;
use crate::base::rope::Rope;

/// A connection, numbered by the performer from its `Accepted` to its `Closed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// One operation.
#[derive(Debug)]
pub enum NetOp {
    /// Receives some bytes.
    Receive {
        /// The connection.
        connection: ConnectionId,
        /// Where to.
        into: ReceiveInto,
    },
    /// Sends all of `bytes`.
    Send {
        /// The connection.
        connection: ConnectionId,
        /// What to send.
        bytes: Rope,
    },
    /// Closes the connection, abandoning what is in flight.
    Close {
        /// The connection.
        connection: ConnectionId,
    },
    /// Accepts no further connections on this core.
    StopAccepting,
}

/// Where received bytes go.
#[derive(Debug)]
pub enum ReceiveInto {
    /// A buffer shared by all connections of the core, lent for one event: for
    /// connections that are idle or send little.
    Shared,
    /// The spare part of this page.
    Page(PageWriter),
}

/// What happened to a connection.
#[derive(Debug)]
pub enum NetEvent<'a> {
    /// A client connected.
    Accepted {
        /// The connection's number from now on.
        connection: ConnectionId,
        /// The client's address.
        peer: SocketAddr,
    },
    /// A receive ended.
    Received {
        /// The connection.
        connection: ConnectionId,
        /// What came.
        received: Received<'a>,
    },
    /// A send ended: all of it, or an errno.
    Sent {
        /// The connection.
        connection: ConnectionId,
        /// The rope, to be used again.
        bytes: Rope,
        /// Whether all was handed to the socket.
        result: Result<(), i32>,
    },
    /// The connection is gone and its number free.
    Closed {
        /// The connection.
        connection: ConnectionId,
    },
}

/// How a receive ended.
#[derive(Debug)]
pub enum Received<'a> {
    /// Bytes in the shared buffer, for the length of this event.
    Lent(&'a [u8]),
    /// The page handed in, with more of it filled.
    Page(PageWriter),
    /// The peer will send no more.
    End,
    /// The socket failed with this errno.
    Failed(i32),
}
