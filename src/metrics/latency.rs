//! How long something took, as a histogram.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Times below are not told apart, nanoseconds.
const MIN_NANOS: u64 = 1_000;
/// Times above count as this, nanoseconds.
const MAX_NANOS: u64 = 100_000_000_000;
/// Significant digits of a recorded time.
const DIGITS: u8 = 2;

/// A histogram of times, from a microsecond to 100 seconds with an error of at
/// most 1 %, in about 20 KiB. Recording does not allocate.
#[derive(Clone)]
pub struct Latency {
    histogram: Histogram<u64>,
    sum_nanos: u64,
}

impl Default for Latency {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(MIN_NANOS, MAX_NANOS, DIGITS);
        Self { histogram: histogram.expect("the bounds are in order"), sum_nanos: 0 }
    }
}

impl Latency {
    /// Counts one that took so long.
    pub fn record(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanos);
        self.sum_nanos = self.sum_nanos.saturating_add(nanos);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// All times together, nanoseconds, exact.
    pub fn sum_nanos(&self) -> u64 {
        self.sum_nanos
    }

    /// How many took at most as long as each of `bounds` (nanoseconds,
    /// ascending).
    pub fn up_to(&self, bounds: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; bounds.len()];
        for step in self.histogram.iter_recorded() {
            // The bounds of the histogram's own buckets lie within its error.
            let nanos = self.histogram.lowest_equivalent(step.value_iterated_to());
            let at = bounds.partition_point(|bound| *bound < nanos);
            if let Some(count) = counts.get_mut(at) {
                *count += step.count_at_value();
            }
        }
        let mut sum = 0;
        for count in &mut counts {
            sum += *count;
            *count = sum;
        }
        counts
    }
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Latency({} in {} ns)", self.count(), self.sum_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_at_their_place_and_never_lost() {
        let mut latency = Latency::default();
        for nanos in [0, 10, 900_000, 1_100_000, 99_000_000, 3_000_000_000_000] {
            latency.record(Duration::from_nanos(nanos));
        }
        let bounds = [100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];
        assert_eq!(latency.up_to(&bounds), [2, 3, 4, 5, 5]);
        assert_eq!((latency.count(), latency.sum_nanos()), (6, 3_000_101_000_010));
        latency.record(Duration::MAX);
        assert_eq!((latency.count(), latency.sum_nanos()), (7, u64::MAX));
    }
}
