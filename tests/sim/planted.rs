//! Bugs of the performer that the checkers must find, one at a time.
//!
//! They live in the simulator alone; the broker has no switch for them.

use corelane::log::journal::{FRAME_HEAD, RECORD_HEAD};
use corelane::model::batch::{BatchHeader, batch_crc};
use corelane::model::record::decode_records;

use crate::damage::records;

/// A bug to plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A sync of a file succeeds and makes nothing durable: records are
    /// acknowledged before they would survive a crash.
    SyncLies,
    /// One sync in fifty is such a one.
    SyncLiesSeldom,
    /// A sync of a journal succeeds and makes nothing durable.
    JournalSyncLies,
    /// A journal is read as one that is empty: what only it has is lost.
    ForgottenJournal,
    /// What a journal has is put behind the place where it belongs.
    MisplacedReplay,
    /// A sync of everything makes durable what the one before it was asked for: what
    /// has completed since then counts as durable and is not.
    SyncAllStale,
    /// A truncation shortens the file and leaves the bytes behind its end: they
    /// are there again when it grows.
    TruncateLies,
    /// A sync of a directory succeeds and makes no name durable.
    SyncDirLies,
    /// A write succeeds without one of its sectors.
    TornWrite,
    /// A submitted page changes before the disk or the socket has read it.
    ChangedPage,
    /// A message between cores is lost.
    LostMail,
    /// The end of a disk operation is never told.
    LostCompletion,
    /// One in thirty thousand is not.
    LostCompletionSeldom,
    /// A produce request is delivered twice.
    RepeatedRequest,
    /// Two answers on a connection change places.
    SwappedAnswers,
    /// They do, where there are two, in one send of three hundred.
    SwappedAnswersSeldom,
    /// A read returns what another place of the file holds.
    MisplacedRead,
    /// One in five hundred does.
    MisplacedReadSeldom,
    /// A core is told of new metadata, and another is not.
    LostPublication,
    /// A snapshot of producers is read as one of none: who sends again writes
    /// twice.
    ForgottenProducers,
    /// The socket keeps a page that it has sent.
    LeakedPage,
    /// A sync is told a little before it is durable: records are acknowledged
    /// before they would survive a crash at that moment.
    EarlySync,
    /// The broker syncs less often than the topic asks for, and so serves and
    /// acknowledges what is above the high watermark that it may have.
    LateSync,
    /// Recovery does not look at checksums.
    SkippedChecksum,
    /// Recovery does not look at offsets, and goes on past a stale batch.
    StaleBatch,
    /// Recovery misses the last batch now and then: its offset is given again.
    ReusedOffset,
    /// A reader does not look at checksums, and serves what the disk has damaged.
    ServedDamage,
    /// The last entry of a time index is lost when it is written.
    LostIndexEntry,
    /// A fetch that waits at another core for records is forgotten there, seldom.
    ForgottenFetch,
    /// Compaction loses the last value of a key.
    LostByCompaction,
    /// One heartbeat in three of a member of the consumer protocol is taken to say that
    /// it has given back all it had.
    EarlyRelease,
    /// Commits are not asked for the epoch of their member.
    UncheckedEpoch,
    /// Compaction changes records: what a group has committed becomes 0.
    ChangedByCompaction,
}

/// Every planted bug, with the number of seeds within which it must be caught.
pub const ALL: &[(Planted, u64)] = &[
    (Planted::SyncLies, 20),
    (Planted::SyncLiesSeldom, 300),
    (Planted::SyncAllStale, 600),
    (Planted::JournalSyncLies, 300),
    (Planted::ForgottenJournal, 300),
    (Planted::MisplacedReplay, 300),
    (Planted::TruncateLies, 10_000),
    (Planted::SyncDirLies, 20),
    (Planted::TornWrite, 20),
    (Planted::ChangedPage, 10),
    (Planted::LostMail, 20),
    (Planted::LostCompletion, 10),
    (Planted::LostCompletionSeldom, 1_000),
    (Planted::RepeatedRequest, 60),
    (Planted::SwappedAnswers, 10),
    (Planted::SwappedAnswersSeldom, 1_000),
    (Planted::MisplacedRead, 10),
    (Planted::MisplacedReadSeldom, 1_000),
    (Planted::LostPublication, 60),
    (Planted::ForgottenProducers, 150),
    (Planted::LeakedPage, 100),
    (Planted::EarlySync, 60),
    (Planted::LateSync, 100),
    (Planted::SkippedChecksum, 300),
    (Planted::StaleBatch, 60),
    (Planted::ReusedOffset, 20),
    (Planted::ServedDamage, 300),
    (Planted::LostIndexEntry, 400),
    (Planted::ForgottenFetch, 800),
    (Planted::EarlyRelease, 1_000),
    (Planted::UncheckedEpoch, 300),
    (Planted::LostByCompaction, 600),
    (Planted::ChangedByCompaction, 600),
];

/// Says of what a journal's file has that it belongs behind its place.
pub fn misplace(file: &mut [u8]) {
    for record in records(file).into_iter().skip(1) {
        let record = &mut file[record.range];
        let mut at = RECORD_HEAD;
        while at < record.len() {
            let len = u32::from_le_bytes(record[at + 20..at + 24].try_into().expect("four bytes"));
            let position = &mut record[at + 32..at + 40];
            let moved = u64::from_le_bytes((&*position).try_into().expect("eight bytes"));
            position.copy_from_slice(&(moved + u64::from(len)).to_le_bytes());
            at += FRAME_HEAD + len as usize;
        }
        let crc = crc32fast::hash(&record[8..]);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Makes the committed offsets of a segment of `__consumer_offsets` 0.
pub fn spoil_commits(segment: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = BatchHeader::decode(&segment[at..]) {
        let len = header.total_len().expect("whole batches");
        let batch = &mut segment[at..at + len];
        for record in decode_records(batch, 1 << 20).expect("whole batches") {
            let (Some(key), Some(value)) = (record.key, record.value) else { continue };
            // Version 0 or 1 of a key is that of a committed offset.
            let found = batch.windows(value.len()).position(|bytes| bytes == &value[..]);
            if let (0 | 1, Some(place), 10..) = (key[1], found, value.len()) {
                batch[place + 2..place + 10].fill(0);
            }
        }
        let crc = batch_crc(batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        at += len;
    }
}
