//! Many seeds, on one thread or on several.
//!
//! Each world lives and dies on the thread that has drawn its seed; what it keeps
//! beside itself (`trace.rs`) is the thread's own. Only counts leave the thread.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::coverage::Coverage;
use crate::{run, trace};

/// Every so many seeds, one runs twice and must do the same.
const TWICE_EVERY: u64 = 10;

/// Seeds of long runs between two lines that tell how far it is.
const PROGRESS_EVERY: u64 = 1_000;

/// What became of the seeds.
#[derive(Default)]
pub struct Summary {
    pub passed: u64,
    pub failed: u64,
    pub coverage: Coverage,
    /// Of all runs, second ones too.
    pub shard_events: u64,
    /// Time that they took on CPUs, nanoseconds, where the kernel tells it.
    pub cpu_ns: Option<u64>,
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.coverage.merge(&other.coverage);
        self.shard_events += other.shard_events;
    }
}

/// Runs all seeds, `jobs` at a time, and tells how far it is.
pub fn run_seeds(seeds: &[u64], jobs: usize) -> Summary {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let whole = Mutex::new(Summary { cpu_ns: Some(0), ..Summary::default() });
    let work = || {
        let before = cpu_ns();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed) as usize;
            let Some(seed) = seeds.get(at) else { break };
            let summary = run_seed(*seed);
            let mut whole = whole.lock().expect("nobody panics with the lock");
            whole.add(&summary);
            let done = whole.passed + whole.failed;
            if done.is_multiple_of(PROGRESS_EVERY) {
                let (failed, seconds) = (whole.failed, started.elapsed().as_secs());
                println!("{done} seeds of {}, {failed} failed, {seconds} s", seeds.len());
            }
        }
        let took = before.zip(cpu_ns()).map(|(before, after)| after - before);
        let mut whole = whole.lock().expect("nobody panics with the lock");
        whole.cpu_ns = whole.cpu_ns.zip(took).map(|(sum, took)| sum + took);
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs.max(1) {
            scope.spawn(work);
        }
        work();
    });
    whole.into_inner().expect("nobody panics with the lock")
}

fn run_seed(seed: u64) -> Summary {
    let mut summary = Summary::default();
    let Ok(coverage) = run(seed, None, true) else {
        return Summary { failed: 1, ..summary };
    };
    summary.shard_events = coverage.shard_events;
    if seed.is_multiple_of(TWICE_EVERY) {
        let hash = trace::hash();
        let again = run(seed, None, true);
        if trace::hash() != hash {
            println!("seed {seed}: two runs differ");
            return Summary { failed: 1, ..summary };
        }
        summary.shard_events += again.map_or(0, |again| again.shard_events);
    }
    Summary { passed: 1, coverage, ..summary }
}

/// Time that this thread has run on a CPU.
fn cpu_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok()
}
