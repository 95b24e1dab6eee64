//! Pieces of requests as a partition's core works on them.
//!
//! A piece holds the items of one client request whose partitions live on one
//! core. It is filled in where the partitions are and goes back whole, so its
//! tables serve request after request.

use crate::base::pages::PageSlice;
use crate::base::rope::Rope;
use crate::base::time::Instant;
use crate::model::batch::RecordRefusal;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{CoreId, TopicPartition};

/// Who gets a piece back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The core that has the client's connection.
    pub core: CoreId,
    /// That core's number for the piece, never used twice.
    pub id: u64,
}

/// A piece of one client request.
#[derive(Debug)]
pub enum Work {
    /// Of a Produce request.
    Produce(ProduceWork),
    /// Of a Fetch request.
    Fetch(FetchWork),
    /// Of a ListOffsets request.
    ListOffsets(ListOffsetsWork),
    /// Of an OffsetForLeaderEpoch request.
    EpochEnds(EpochEndsWork),
    /// Of a DeleteRecords request.
    DeleteRecords(DeleteRecordsWork),
    /// Of a DescribeLogDirs request.
    LogDirs(LogDirsWork),
}

/// Batches to append.
#[derive(Debug, Default)]
pub struct ProduceWork {
    /// 0: an item is done when it is appended; otherwise when it is committed.
    pub acks: i16,
    /// When to give up waiting (RequestTimedOut).
    pub deadline: Instant,
    /// At most one per partition.
    pub items: Vec<ProduceItem>,
}

/// A batch to append.
#[derive(Debug)]
pub struct ProduceItem {
    /// Where to.
    pub topic_partition: TopicPartition,
    /// The item's place in the client's request.
    pub place: u32,
    /// The batch; let go of as soon as it is appended.
    pub records: Option<PageSlice>,
    /// What became of it.
    pub outcome: ProduceOutcome,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceOutcome {
    /// For the wire.
    pub error: ErrorCode,
    /// For people, if there is an error to explain.
    pub message: Option<&'static str>,
    /// Offset of the first record, -1 with an error.
    pub base_offset: i64,
    /// First offset of the log, -1 if unknown.
    pub log_start_offset: i64,
    /// The broker's timestamp if the topic has `LogAppendTime`, else -1.
    pub append_time_ms: i64,
    /// Records that the batch was refused for.
    pub record_errors: Vec<RecordRefusal>,
}

impl ProduceOutcome {
    /// An outcome with nothing but an error.
    pub const fn error(error: ErrorCode, message: Option<&'static str>) -> Self {
        Self {
            error,
            message,
            base_offset: -1,
            log_start_offset: -1,
            append_time_ms: -1,
            record_errors: Vec::new(),
        }
    }
}

/// Reads that answer together.
#[derive(Debug, Default)]
pub struct FetchWork {
    /// Answer when there are so many bytes ...
    pub min_bytes: usize,
    /// ... or at this moment.
    pub deadline: Instant,
    /// Most bytes in all; the first batch found may be larger.
    pub max_bytes: usize,
    /// What to read.
    pub items: Vec<FetchItem>,
}

/// A partition to read.
#[derive(Debug)]
pub struct FetchItem {
    /// Where from.
    pub topic_partition: TopicPartition,
    /// The item's place in the client's request.
    pub place: u32,
    /// First offset wanted.
    pub fetch_offset: i64,
    /// Most bytes of this partition.
    pub max_bytes: usize,
    /// The leader epoch the client knows, -1 for none.
    pub current_leader_epoch: i32,
    /// What was read.
    pub outcome: FetchOutcome,
}

/// What was read of a partition.
#[derive(Debug)]
pub struct FetchOutcome {
    /// For the wire.
    pub error: ErrorCode,
    /// End of what consumers may see, -1 with most errors.
    pub high_watermark: i64,
    /// First offset of the log, -1 with most errors.
    pub log_start_offset: i64,
    /// Batches from the one that holds the fetch offset on.
    pub records: Rope,
}

impl Default for FetchOutcome {
    fn default() -> Self {
        Self {
            error: ErrorCode::None,
            high_watermark: -1,
            log_start_offset: -1,
            records: Rope::default(),
        }
    }
}

/// Offsets to look up.
#[derive(Debug, Default)]
pub struct ListOffsetsWork {
    /// What to look up.
    pub items: Vec<ListOffsetsItem>,
}

/// An offset to look up.
#[derive(Debug)]
pub struct ListOffsetsItem {
    /// In which partition.
    pub topic_partition: TopicPartition,
    /// The item's place in the client's request.
    pub place: u32,
    /// Milliseconds since the epoch; -1 latest, -2 and -4 earliest, -3 the record
    /// with the largest timestamp, others nothing (`ListOffsetsRequest.java`).
    pub timestamp: i64,
    /// The leader epoch the client knows, -1 for none.
    pub current_leader_epoch: i32,
    /// What was found.
    pub outcome: ListOffsetsOutcome,
}

/// A looked-up offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListOffsetsOutcome {
    /// For the wire.
    pub error: ErrorCode,
    /// Of the record, -1 unless a timestamp was looked up.
    pub timestamp: i64,
    /// The offset, -1 if there is no such record, or with an error.
    pub offset: i64,
    /// Leader epoch at the offset, -1 if unknown.
    pub leader_epoch: i32,
}

impl ListOffsetsOutcome {
    /// An outcome with nothing but an error.
    pub const fn error(error: ErrorCode) -> Self {
        Self { error, timestamp: -1, offset: -1, leader_epoch: -1 }
    }
}

/// Leader epochs whose end is asked for.
#[derive(Debug, Default)]
pub struct EpochEndsWork {
    /// Which ones.
    pub items: Vec<EpochEndsItem>,
}

/// A leader epoch whose end is asked for.
#[derive(Debug)]
pub struct EpochEndsItem {
    /// In which partition.
    pub topic_partition: TopicPartition,
    /// The item's place in the client's request.
    pub place: u32,
    /// The leader epoch the client knows, -1 for none.
    pub current_leader_epoch: i32,
    /// The epoch.
    pub leader_epoch: i32,
    /// What was found.
    pub outcome: EpochEnd,
}

/// Where a leader epoch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// For the wire.
    pub error: ErrorCode,
    /// The largest epoch up to the one asked for, -1 if that is not known.
    pub leader_epoch: i32,
    /// The first offset behind it, -1 if it is not known.
    pub end_offset: i64,
}

impl EpochEnd {
    /// An outcome with nothing but an error.
    pub const fn error(error: ErrorCode) -> Self {
        Self { error, leader_epoch: -1, end_offset: -1 }
    }
}

/// Starts of logs to move.
#[derive(Debug, Default)]
pub struct DeleteRecordsWork {
    /// When to give up waiting (RequestTimedOut).
    pub deadline: Instant,
    /// At most one per partition.
    pub items: Vec<DeleteRecordsItem>,
}

/// The start of one log to move.
#[derive(Debug)]
pub struct DeleteRecordsItem {
    /// Of which partition.
    pub topic_partition: TopicPartition,
    /// The item's place in the client's request.
    pub place: u32,
    /// First offset that is to stay; -1 is the high watermark.
    pub offset: i64,
    /// What became of it.
    pub outcome: DeleteRecordsOutcome,
}

/// What became of the start of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteRecordsOutcome {
    /// For the wire.
    pub error: ErrorCode,
    /// The log's start on all replicas, -1 with an error.
    pub low_watermark: i64,
}

impl DeleteRecordsOutcome {
    /// An outcome with nothing but an error.
    pub const fn error(error: ErrorCode) -> Self {
        Self { error, low_watermark: -1 }
    }
}

/// Sizes to tell.
#[derive(Debug)]
pub struct LogDirsWork {
    /// Of which logs.
    pub items: Vec<LogDirsItem>,
    /// The log directory's error.
    pub error: ErrorCode,
    /// Bytes of the file system, -1 if unknown.
    pub total: i64,
    /// Bytes of it that can be used, -1 if unknown.
    pub usable: i64,
}

/// The size of one log.
#[derive(Debug)]
pub struct LogDirsItem {
    /// Of which partition.
    pub topic_partition: TopicPartition,
    /// The item's place in the answer.
    pub place: u32,
    /// Bytes of its batches; `None` if it is not there.
    pub size: Option<i64>,
}

impl Default for LogDirsWork {
    fn default() -> Self {
        Self { items: vec![], error: ErrorCode::None, total: -1, usable: -1 }
    }
}
