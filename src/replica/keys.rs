//! Whether every record has a key, as it must in a topic that is compacted
//! (`LogValidator.validateKey`).
//!
//! The batch is opened for it, for as many bytes as a batch may reasonably unfold
//! to: what lies behind is taken as it is, and compaction drops it if it has no
//! key.

use super::work::ProduceOutcome;
use crate::base::limits::{KEY_CHECK_BYTES, RECORD_ERRORS_MAX};
use crate::base::pages::PageSlice;
use crate::base::rope::Rope;
use crate::model::batch::{BatchHeader, RecordRefusal};
use crate::model::error_code::ErrorCode;
use crate::model::record_times::{Next, RecordTimes};

const REJECTED: &str = "One or more records have been rejected: they have no key";
const UNREADABLE: &str = "The records of the batch cannot be read";

/// What the producer of `batch`, whose checksum is right, is told if it may not be
/// appended to `partition`, named as Kafka does.
pub(super) fn refusal(
    partition: &str,
    header: &BatchHeader,
    batch: &PageSlice,
) -> Option<ProduceOutcome> {
    let unreadable = || Some(ProduceOutcome::error(ErrorCode::InvalidRecord, Some(UNREADABLE)));
    let mut bytes = Rope::default();
    bytes.push(batch.clone());
    let Ok(mut records) = RecordTimes::open(*header, bytes) else { return unreadable() };
    let (mut budget, mut index, mut errors) = (KEY_CHECK_BYTES, 0, vec![]);
    while errors.len() < RECORD_ERRORS_MAX {
        match records.next(&mut budget) {
            Ok(Next::Record { has_key: true, .. }) => {}
            Ok(Next::Record { has_key: false, .. }) => {
                let message = format!(
                    "Compacted topic cannot accept message without key in topic partition \
                     {partition}."
                );
                errors.push(RecordRefusal { index, message });
            }
            Ok(Next::Pause | Next::End) => break,
            Err(_) => return unreadable(),
        }
        index += 1;
    }
    if errors.is_empty() {
        return None;
    }
    let outcome = ProduceOutcome::error(ErrorCode::InvalidRecord, Some(REJECTED));
    Some(ProduceOutcome { record_errors: errors, ..outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::pages::PagePool;
    use crate::model::record::{BatchBuilder, Codec};

    fn judge(codec: Codec, keys: &[Option<&str>], spoil: bool) -> Option<Vec<i32>> {
        let mut builder = BatchBuilder::new(codec);
        for key in keys {
            builder.push(1, key.map(str::as_bytes), Some(b"v"), &[]);
        }
        let mut batch = builder.finish();
        if spoil {
            let end = batch.len();
            batch[end - 6..].fill(0xff);
        }
        let mut page = PagePool::new(1 << 20).allocate(batch.len()).expect("within budget");
        page.put(&batch);
        let header = BatchHeader::decode(&batch).expect("a whole batch");
        let outcome = refusal("t-0", &header, &page.slice(0..batch.len()))?;
        assert_eq!(outcome.error, ErrorCode::InvalidRecord);
        Some(outcome.record_errors.iter().map(|error| error.index).collect())
    }

    #[test]
    fn records_without_a_key_are_named() {
        for codec in [Codec::None, Codec::Lz4] {
            assert_eq!(judge(codec, &[Some("a"), Some("")], false), None);
            assert_eq!(judge(codec, &[Some("a"), None, Some("b"), None], false), Some(vec![1, 3]));
            assert_eq!(judge(codec, &[Some("a"), Some("b")], true), Some(vec![]));
        }
    }
}
