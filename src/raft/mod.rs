//! Our side of the `raft` crate: what its log and snapshot look like on disk,
//! the mirror of the durable log that it reads, and the loop around it.
//!
//! Nothing here performs I/O, reads a clock or draws an unseeded number. Files
//! and their order belong to the controller.

pub mod frame;
pub mod node;
pub mod snapshot;
pub mod store;

/// What a member must not forget of its votes (Raft's persistent state).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ballot {
    /// The newest term it has seen.
    pub term: u64,
    /// Whom it voted for in that term, zero for nobody.
    pub vote: u64,
    /// Entries up to here are committed. May lag behind what is known.
    pub commit: u64,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its index, from 1.
    pub index: u64,
    /// The term in which it was proposed.
    pub term: u64,
    /// A batch of metadata records, or nothing: a new leader's first entry.
    pub data: Vec<u8>,
}
