//! What the cluster agrees on: records, the immutable image they build, the
//! deltas between images, and the messages between the controller and shards.

pub mod apply;
pub mod codec;
pub mod command;
pub mod image;
pub mod link;
pub mod placement;
pub mod record;
