//! What a core may ask of the world, and how the world answers.
//!
//! An effect is data: the core fills it in, a performer (the runtime with
//! io_uring, or the simulator) carries it out once and reports its completion
//! once. Performers decide nothing: no retries, no ordering beyond what is
//! said here, no timeouts of their own.

pub mod disk;
#[cfg(test)]
pub mod memory_disk;
pub mod net;
