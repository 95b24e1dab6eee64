//! Whether a producer's timestamps are ones that the topic takes
//! (`LogValidator.validateTimestamp`).
//!
//! The batch's header has its largest timestamp and its first one, and they
//! decide. Only where they do not tell everything, because the topic has a
//! lower bound, or where records have to be named, is the batch opened, for as
//! many bytes as one slice of work: records behind that are judged by the header
//! alone.

use super::work::ProduceOutcome;
use crate::base::limits::{RECORD_ERRORS_MAX, TIMESTAMP_CHECK_BYTES};
use crate::base::pages::PageSlice;
use crate::base::rope::Rope;
use crate::base::time::UnixMillis;
use crate::model::batch::{BatchHeader, RecordRefusal};
use crate::model::error_code::ErrorCode;
use crate::model::record_times::{Next, RecordTimes};

/// The timestamps that a topic takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimestampBounds {
    /// `message.timestamp.type` is `LogAppendTime`: the producer's do not matter.
    pub append_time: bool,
    /// `message.timestamp.before.max.ms`, `None` for any.
    pub before_max_ms: Option<u64>,
    /// `message.timestamp.after.max.ms`, `None` for any.
    pub after_max_ms: Option<u64>,
}

const REJECTED: &str = "One or more records have been rejected due to invalid timestamp";

impl TimestampBounds {
    /// The earliest and the latest timestamp taken at `now`.
    fn range(&self, now: UnixMillis) -> (i64, i64) {
        let ms = |max: Option<u64>| max.map(|max| i64::try_from(max).unwrap_or(i64::MAX));
        let earliest = ms(self.before_max_ms).map_or(i64::MIN, |max| now.0.saturating_sub(max));
        let latest = ms(self.after_max_ms).map_or(i64::MAX, |max| now.0.saturating_add(max));
        (earliest, latest)
    }

    /// What the producer of `batch`, whose checksum is right, is told if it may
    /// not be appended.
    pub fn refusal(
        &self,
        header: &BatchHeader,
        batch: &PageSlice,
        now: UnixMillis,
    ) -> Option<ProduceOutcome> {
        if header.is_log_append_time() {
            let reason = "Producer should not set timestamp type to LogAppendTime.";
            return Some(ProduceOutcome::error(ErrorCode::InvalidTimestamp, Some(reason)));
        }
        if self.append_time {
            return None;
        }
        let (earliest, latest) = self.range(now);
        let bad = |timestamp: i64| timestamp != -1 && !(earliest..=latest).contains(&timestamp);
        let suspicious = bad(header.max_timestamp) || bad(header.base_timestamp);
        if !suspicious && self.before_max_ms.is_none() {
            return None;
        }
        let errors = bad_records(header, batch, &bad, (earliest, latest));
        if !suspicious && errors.is_empty() {
            return None;
        }
        let outcome = ProduceOutcome::error(ErrorCode::InvalidTimestamp, Some(REJECTED));
        Some(ProduceOutcome { record_errors: errors, ..outcome })
    }
}

/// The first records whose timestamp is bad.
fn bad_records(
    header: &BatchHeader,
    batch: &PageSlice,
    bad: &dyn Fn(i64) -> bool,
    (earliest, latest): (i64, i64),
) -> Vec<RecordRefusal> {
    let mut errors = vec![];
    let mut bytes = Rope::default();
    bytes.push(batch.clone());
    // What cannot be opened names no records; the header has decided already.
    let Ok(mut times) = RecordTimes::open(*header, bytes) else { return errors };
    let mut budget = TIMESTAMP_CHECK_BYTES;
    let mut index = 0;
    while errors.len() < RECORD_ERRORS_MAX
        && let Ok(Next::Record { offset, timestamp, .. }) = times.next(&mut budget)
    {
        if bad(timestamp) {
            let message = format!(
                "Timestamp {timestamp} of message with offset {offset} is out of range. The \
                 timestamp should be within [{earliest}, {latest}]"
            );
            errors.push(RecordRefusal { index, message });
        }
        index += 1;
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::pages::PagePool;
    use crate::model::record::{BatchBuilder, Codec};

    fn judge(
        bounds: &TimestampBounds,
        codec: Codec,
        times: &[i64],
        flags: i16,
    ) -> Option<Vec<i32>> {
        let mut builder = BatchBuilder::new(codec).attributes(flags);
        for time in times {
            builder.push(*time, None, Some(b"v"), &[]);
        }
        let batch = builder.finish();
        let mut page = PagePool::new(1 << 20).allocate(batch.len()).expect("within budget");
        page.put(&batch);
        let header = BatchHeader::decode(&batch).expect("a whole batch");
        let outcome = bounds.refusal(&header, &page.slice(0..batch.len()), UnixMillis(1_000))?;
        assert_eq!(outcome.error, ErrorCode::InvalidTimestamp);
        Some(outcome.record_errors.iter().map(|error| error.index).collect())
    }

    #[test]
    fn timestamps_out_of_bounds_are_named() {
        let bounds = |before, after| TimestampBounds {
            append_time: false,
            before_max_ms: before,
            after_max_ms: after,
        };
        for codec in [Codec::None, Codec::Zstd] {
            let judge = |bounds: &TimestampBounds, times: &[i64]| judge(bounds, codec, times, 0);
            let both = bounds(Some(100), Some(50));
            assert_eq!(judge(&both, &[900, 1_050, 1_000]), None);
            assert_eq!(judge(&both, &[-1, -1]), None, "no timestamp is no bad one");
            assert_eq!(judge(&both, &[1_000, 1_051, 1_000]), Some(vec![1]));
            assert_eq!(judge(&both, &[1_000, 899, 1_051]), Some(vec![1, 2]));
            assert_eq!(judge(&bounds(None, Some(50)), &[0, 1_050]), None);
            assert_eq!(judge(&bounds(None, None), &[0, i64::MAX]), None);
            assert_eq!(judge(&bounds(Some(u64::MAX), None), &[0, i64::MAX]), None);
            let stamped = TimestampBounds { append_time: true, ..both };
            assert_eq!(judge(&stamped, &[0, i64::MAX]), None);
        }
        // Only the broker says that a timestamp is the broker's.
        let by_broker = judge(&bounds(None, None), Codec::None, &[1_000], 0x08);
        assert_eq!(by_broker, Some(vec![]));
    }
}
