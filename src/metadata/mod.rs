//! What the cluster agrees on: records, the immutable image they build, the
//! deltas between images, and the messages between the controller and shards.

pub mod command;
pub mod image;
pub mod link;
