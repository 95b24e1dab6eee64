//! One partition that this broker leads.

use std::collections::VecDeque;
use std::path::PathBuf;

use super::PartitionConfig;
use super::lookups::Lookup;
use super::produce::Waiter;
use super::work::{DeleteRecordsWork, LogDirsWork, Origin};
use crate::log::Log;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{LeaderEpoch, TopicPartition};

/// A partition, its log once it is open, and who waits.
#[derive(Debug)]
pub(super) struct Partition {
    pub id: TopicPartition,
    /// Relative to the log directory.
    pub dir: PathBuf,
    pub leader_epoch: LeaderEpoch,
    pub config: PartitionConfig,
    pub log: Option<Log>,
    /// Somebody needs the log.
    pub wanted: bool,
    /// The topic is deleted; the log goes away.
    pub removed: bool,
    /// In the list of logs to flush.
    pub dirty: bool,
    /// A deadline of `flush.ms` is set.
    pub flush_armed: bool,
    /// What waits for the log to load or to have room, in order.
    pub waiting: VecDeque<Waiting>,
    /// Appended batches by the offset the high watermark must reach.
    pub produced: VecDeque<(i64, Waiter)>,
    /// Lookups that wait for the log.
    pub lookups: Vec<Lookup>,
    /// Parked fetches to look at when the partition changes.
    pub fetches: Vec<u32>,
}

/// Something that waits for a log.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A batch to append.
    Produce(Waiter),
    /// Starts to move.
    DeleteRecords(Origin, DeleteRecordsWork),
    /// Sizes to tell.
    LogDirs(Origin, LogDirsWork),
}

impl Partition {
    pub fn new(
        id: TopicPartition,
        dir: PathBuf,
        leader_epoch: LeaderEpoch,
        config: PartitionConfig,
    ) -> Self {
        Self {
            id,
            dir,
            leader_epoch,
            config,
            log: None,
            wanted: false,
            removed: false,
            dirty: false,
            flush_armed: false,
            waiting: VecDeque::new(),
            produced: VecDeque::new(),
            lookups: vec![],
            fetches: vec![],
        }
    }

    /// Whether the log is not open yet, or still loading.
    pub fn is_loading(&self) -> bool {
        self.log.as_ref().is_none_or(Log::is_loading)
    }

    /// The log, if it can be used now.
    pub fn ready_log(&self) -> Option<&Log> {
        self.log.as_ref().filter(|log| log.is_ready())
    }

    /// What a request with this leader epoch is told, if it is out of date or
    /// ahead (KIP-320). -1 is not checked.
    pub fn epoch_error(&self, current_leader_epoch: i32) -> Option<ErrorCode> {
        match current_leader_epoch {
            -1 => None,
            epoch if epoch < self.leader_epoch.0 => Some(ErrorCode::FencedLeaderEpoch),
            epoch if epoch > self.leader_epoch.0 => Some(ErrorCode::UnknownLeaderEpoch),
            _ => None,
        }
    }
}
