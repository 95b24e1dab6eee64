//! The top of the pure core: one value per core that owns the core's
//! connections, partitions and everything between them.

pub mod event;
