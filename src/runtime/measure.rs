//! What a reactor counts about time, and its part of a snapshot.

use std::time::Duration;

use super::reactor::Reactor;
use crate::base::limits::STEP_SLICE_US;
use crate::base::time::Instant;
use crate::metrics::{Latency, Snapshot, table};

/// How a core spends its time.
#[derive(Debug, Default)]
pub struct Times {
    steps: Latency,
    stalls: u64,
    busy_nanos: u64,
    waited_nanos: u64,
    /// Up to here time is counted; `None` before the first turn.
    counted: Option<Instant>,
    /// When the last event had been taken in.
    last: Instant,
}

impl Times {
    /// The wait has ended: a turn begins.
    pub fn woken(&mut self, now: Instant) {
        if let Some(counted) = self.counted {
            self.waited_nanos += nanos(now.since(counted));
        }
        self.counted = Some(now);
        self.last = now;
    }

    /// An event has been taken in.
    pub fn stepped(&mut self, now: Instant) {
        let time = now.since(self.last);
        self.steps.record(time);
        self.stalls += u64::from(time > Duration::from_micros(STEP_SLICE_US));
        self.last = now;
    }

    /// All effects have been carried out: the turn ends.
    pub fn done(&mut self, now: Instant) {
        if let Some(counted) = self.counted {
            self.busy_nanos += nanos(now.since(counted));
        }
        self.counted = Some(now);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How long the disk takes.
#[derive(Debug, Default)]
pub struct DiskTimes {
    /// Writes, from the submission to the end.
    pub writes: Latency,
    /// Syncs.
    pub syncs: Latency,
    /// Reads.
    pub reads: Latency,
    /// Operations in the ring that failed.
    pub errors: u64,
}

impl Reactor {
    /// Adds this core's numbers to `snapshot`.
    pub fn measure(&self, snapshot: &mut Snapshot) {
        let (counters, disk, times) = (self.counters(), self.disk_times(), self.times());
        for (metric, value) in [
            (&table::CONNECTIONS_ACCEPTED, counters.sockets.accepted),
            (&table::CONNECTIONS_REFUSED, counters.sockets.refused),
            (&table::RECEIVED_BYTES, counters.sockets.received_bytes),
            (&table::SENT_BYTES, counters.sockets.sent_bytes),
            (&table::DISK_WRITTEN_BYTES, counters.files.written_bytes),
            (&table::DISK_READ_BYTES, counters.files.read_bytes),
            (&table::DISK_ERRORS, disk.errors),
            (&table::DISK_IN_FLIGHT, self.disk_in_flight() as u64),
            (&table::FILE_JOBS, counters.files.worker_jobs),
            (&table::MAIL_SENT, counters.mail_sent),
            (&table::MAIL_RECEIVED, counters.mail_received),
            (&table::STALLS, times.stalls),
            (&table::TURNS, counters.turns),
            (&table::PARKED, counters.parked),
            (&table::SYSTEM_CALLS, counters.enters),
        ] {
            snapshot.whole(metric, value);
        }
        snapshot.nanos(&table::BUSY_SECONDS, times.busy_nanos);
        snapshot.nanos(&table::WAITED_SECONDS, times.waited_nanos);
        for (metric, latency) in [
            (&table::DISK_WRITE_SECONDS, &disk.writes),
            (&table::DISK_SYNC_SECONDS, &disk.syncs),
            (&table::DISK_READ_SECONDS, &disk.reads),
            (&table::STEP_SECONDS, &times.steps),
        ] {
            snapshot.latency(metric, None, latency);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_works_or_waits() {
        let at = |micros: u64| Instant::from_nanos(1_000 * micros);
        let mut times = Times::default();
        times.woken(at(100));
        times.stepped(at(110));
        times.stepped(at(710));
        times.done(at(720));
        times.woken(at(1_720));
        times.stepped(at(1_730));
        times.done(at(1_740));
        assert_eq!((times.busy_nanos, times.waited_nanos), (640_000, 1_000_000));
        assert_eq!((times.steps.count(), times.stalls), (3, 1));
    }
}
