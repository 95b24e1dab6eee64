//! Kafka's bytes, without I/O: frames, headers, the table of APIs, and messages.
//!
//! Produce, Fetch and ApiVersions are written by hand and decoded in place; the
//! messages off the hot path are the `kafka-wire` crate's (see [`small`]).
//! Every decoder is bounded by the bytes it is given; none panics. Bytes left over
//! are passed over, as Kafka does. What a message means is decided above this
//! layer.

pub mod api_versions;
pub mod apis;
pub mod client;
pub mod fetch;
pub mod frame;
pub mod groups;
pub mod produce;
pub(crate) mod reader;
pub mod small;
mod writer;

#[cfg(test)]
mod cross_check;

use thiserror::Error;

use crate::model::ids::TopicId;

pub use apis::{APIS, Api, ApiKey};

/// Why bytes are not the message they should be. The connection they came from
/// cannot be trusted to be in step any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The message ends inside a field, or announces more elements than its
    /// bytes can hold.
    #[error("the message is cut short")]
    Truncated,
    /// A field has a value that Kafka does not allow.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// More partitions than [`REQUEST_PARTITIONS_MAX`](crate::base::limits::REQUEST_PARTITIONS_MAX).
    #[error("the request names too many partitions")]
    TooManyPartitions,
    /// A frame's length is negative, too small for a header, or above its API's bound.
    #[error("a frame of {len} bytes is outside {min}..={max}")]
    FrameLength {
        /// The announced length.
        len: i64,
        /// The least that makes sense.
        min: usize,
        /// The most that is accepted.
        max: usize,
    },
    /// An API that is not served.
    #[error("API key {0} is not served")]
    UnknownApi(i16),
    /// A version of a known API that is not served.
    #[error("version {version} of {api} is not served")]
    UnsupportedVersion {
        /// The API's name.
        api: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// `kafka-wire` refused a message.
    #[error("{0}")]
    Message(String),
}

/// How a message names a topic: by name, or since the versions of KIP-516 by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TopicKey<'a> {
    /// By name; not checked to be a legal one.
    Name(&'a str),
    /// By id.
    Id(TopicId),
}
