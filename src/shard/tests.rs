//! Shards as a client sees them: bytes in, bytes out, with disks in memory, a
//! controller of a few lines and mail carried by hand.

mod admin;
mod administration;
mod broker;
mod consumer_groups;
mod every_version;
mod groups;
mod limits;
mod sessions;
mod stories;
mod timestamps;
