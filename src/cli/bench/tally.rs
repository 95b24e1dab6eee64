//! What a run counts: totals, latencies, and both for each second.

use hdrhistogram::Histogram;

use super::producers::Due;

/// Longer latencies count as this: ten minutes, nanoseconds.
const LATENCY_MAX: u64 = 600_000_000_000;

const SECOND: u64 = 1_000_000_000;

/// Totals of what was measured.
#[derive(Debug)]
pub struct Tally {
    /// Nanoseconds from the start at which measuring begins and ends.
    begin: u64,
    end: u64,
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Latencies, nanoseconds.
    pub latency: Histogram<u64>,
    /// Each whole second that was measured.
    pub seconds: Vec<Second>,
    current: Histogram<u64>,
    /// When the last record was counted.
    last: u64,
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    /// Records.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Median latency, nanoseconds.
    pub p50: u64,
    /// 99th percentile, nanoseconds.
    pub p99: u64,
    /// The worst, nanoseconds.
    pub max: u64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_MAX, 3).expect("sane bounds")
}

impl Tally {
    /// Measures from `begin` to `end`, nanoseconds from the start.
    pub fn new(begin: u64, end: u64) -> Self {
        Self {
            begin,
            end,
            records: 0,
            bytes: 0,
            latency: histogram(),
            seconds: vec![],
            current: histogram(),
            last: begin,
        }
    }

    fn measures(&self, now: u64) -> bool {
        (self.begin..self.end).contains(&now)
    }

    /// The second that `now` is in; closes those before it.
    fn second(&mut self, now: u64) -> &mut Second {
        let at = ((now - self.begin) / SECOND) as usize;
        if self.seconds.len() <= at {
            self.close_second();
            self.seconds.resize_with(at + 1, Second::default);
        }
        &mut self.seconds[at]
    }

    fn close_second(&mut self) {
        if let Some(second) = self.seconds.last_mut() {
            second.p50 = self.current.value_at_quantile(0.5);
            second.p99 = self.current.value_at_quantile(0.99);
            second.max = self.current.max();
        }
        self.current.reset();
    }

    /// Counts records that were done at `now`.
    pub fn count(&mut self, now: u64, records: u64, bytes: u64) {
        if !self.measures(now) {
            return;
        }
        self.records += records;
        self.bytes += bytes;
        self.last = self.last.max(now);
        let second = self.second(now);
        second.records += records;
        second.bytes += bytes;
    }

    /// Notes how long `records` records took that are done at `now`. Those that
    /// were due while it was measured count, however late they are.
    pub fn latencies(&mut self, now: u64, due: Due, records: u64) {
        if !(self.begin..self.end).contains(&due.first) {
            return;
        }
        let inside = self.measures(now);
        if inside {
            self.second(now);
        }
        if due.interval == 0.0 {
            let latency = now.saturating_sub(due.first);
            self.latency.saturating_record_n(latency, records);
            if inside {
                self.current.saturating_record_n(latency, records);
            }
            return;
        }
        for latency in due.latencies(records, now) {
            self.latency.saturating_record(latency);
            if inside {
                self.current.saturating_record(latency);
            }
        }
    }

    /// Ends the last second.
    pub fn close(&mut self) {
        self.close_second();
    }

    /// Ends measuring where the last record was, for a run that ended early.
    pub fn end_at_last(&mut self) {
        self.end = self.last;
    }

    /// Seconds that were measured.
    pub fn elapsed(&self) -> f64 {
        (self.end - self.begin) as f64 / SECOND as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_due_in_time_counts_and_seconds_are_kept() {
        let mut tally = Tally::new(SECOND, 3 * SECOND);
        tally.count(SECOND - 1, 5, 50);
        tally.count(SECOND, 1, 10);
        tally.latencies(SECOND, Due { first: SECOND - 5, interval: 0.0 }, 1);
        assert_eq!((tally.records, tally.latency.len()), (1, 0));
        tally.count(2 * SECOND, 2, 20);
        tally.latencies(2 * SECOND, Due { first: SECOND, interval: 1_000.0 }, 2);
        // Late, but it was due.
        tally.latencies(9 * SECOND, Due { first: 2 * SECOND, interval: 0.0 }, 1);
        tally.close();
        assert_eq!((tally.records, tally.bytes, tally.latency.len()), (3, 30, 3));
        assert!(tally.latency.max() >= 7 * SECOND);
        assert_eq!(tally.seconds.len(), 2);
        assert_eq!(tally.seconds[1].records, 2);
        assert!(tally.seconds[1].p50 > SECOND / 2 && tally.seconds[1].max < 2 * SECOND);
        assert_eq!(tally.elapsed(), 2.0);
    }
}
