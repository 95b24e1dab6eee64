//! The messages between the controller and the shards of one broker.
//!
//! Both directions are bounded queues that keep order. A shard applies
//! publications in order and reports each; the controller's commands wait for
//! the slowest core.

use std::sync::Arc;

use super::command::{Answer, Command};
use super::image::{Delta, Image};
use crate::model::ids::{CoreId, MetadataOffset};

/// From the controller to a shard.
#[derive(Clone, Debug)]
pub enum ToShard {
    /// The metadata changed. A shard's first publication has the whole image
    /// in its delta.
    Publish {
        /// The state after the change.
        image: Arc<Image>,
        /// The change.
        delta: Arc<Delta>,
    },
    /// A command was carried out, or refused.
    Answer {
        /// The command's number.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// The broker is stopping: accept nothing more, answer what is in flight,
    /// sync, and report [`ToController::Stopped`].
    Stop,
}

/// From a shard to the controller.
#[derive(Clone, Debug)]
pub enum ToController {
    /// A client wants a change.
    Command {
        /// The asking core.
        core: CoreId,
        /// The core's number for the command.
        id: u64,
        /// The change.
        command: Command,
    },
    /// The core has applied the metadata up to here.
    Applied {
        /// The core.
        core: CoreId,
        /// Position of its image.
        offset: MetadataOffset,
    },
    /// The core has nothing in flight any more.
    Stopped {
        /// The core.
        core: CoreId,
        /// Whether every log of the core is closed, synced and checkpointed.
        clean: bool,
    },
}
