//! What a shard hears and what it asks for.
//!
//! The performer calls `step(now, event, effects)` once for every event, in the
//! order they happened, then once with [`Event::Turn`] when it has no more; it
//! then carries out all effects. [`Wake`] says how long it may wait for the
//! next event.

use crate::base::time::Instant;
use crate::effect::disk::{DiskCompletion, DiskOp};
use crate::effect::net::{NetEvent, NetOp};
use crate::mesh::Mail;
use crate::metadata::link::{ToController, ToShard};
use crate::model::ids::CoreId;

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// To a connection.
    Net(NetEvent<'a>),
    /// A disk operation ended.
    Disk(DiskCompletion),
    /// Another core wrote.
    Mail {
        /// The sender.
        from: CoreId,
        /// The message.
        mail: Mail,
    },
    /// The controller wrote.
    Control(ToShard),
    /// All that had happened has been told, or a deadline passed.
    Turn,
}

/// What a shard wants done. The performer empties it after every turn.
#[derive(Debug, Default)]
pub struct Effects {
    /// Disk operations, in order.
    pub disk: Vec<DiskOp>,
    /// Socket operations, in order.
    pub net: Vec<NetOp>,
    /// Messages to other cores, in order per core. There is always room for them
    /// (limits::MAIL_OPEN_MAX).
    pub mail: Vec<(CoreId, Mail)>,
    /// Messages to the controller, in order.
    pub control: Vec<ToController>,
}

/// When a shard wants its next [`Event::Turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// At once, after what has already happened: there is work left.
    Now,
    /// At this moment, or earlier with an event.
    At(Instant),
    /// With the next event.
    OnEvent,
    /// Never: the shard has stopped.
    Stopped,
}
