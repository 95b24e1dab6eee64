//! Hostile bytes for every decoder, and for a whole shard.
//!
//! Seeded and bounded: `CORELANE_TEST_SEED` and `CORELANE_FUZZ_ROUNDS` change the
//! seed and how long it goes on. Nothing may panic, and nothing may allocate out of
//! proportion to the bytes it was given, which a counting allocator checks.

#![expect(unsafe_code, reason = "a global allocator is unsafe to implement")]

mod decoders;
mod memory;
mod mutate;
mod requests;
mod shard;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// The seed of all that is drawn.
fn seed() -> u64 {
    number("CORELANE_TEST_SEED", 1)
}

/// How often something is tried: `times`, or more or less of it.
fn rounds(times: u64) -> u64 {
    times * number("CORELANE_FUZZ_ROUNDS", 100) / 100
}
