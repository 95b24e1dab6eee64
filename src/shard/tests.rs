//! Shards as a client sees them: bytes in, bytes out, with disks in memory, a
//! controller of a few lines and mail carried by hand.

mod broker;
mod every_version;
mod groups;
mod stories;
