//! DescribeLogDirs (KIP-113, KIP-827): what the log directory holds and has room
//! for.

use super::{Call, Outcome, Pending};
use crate::model::error_code::ErrorCode;
use crate::model::ids::{CoreId, PartitionIndex, TopicPartition};
use crate::replica::work::{LogDirsItem, LogDirsWork, Work};
use crate::wire::WireError;
use crate::wire::small::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use crate::wire::small::{self, DescribeLogDirsRequest, DescribeLogDirsResponse, StrBytes};

use super::Answer;

/// The first version that tells the sizes of the file system (KIP-827).
const SPACE_FROM: i16 = 4;

/// A DescribeLogDirs answer that waits for its pieces.
#[derive(Debug)]
pub struct PendingLogDirs {
    version: i16,
    correlation_id: i32,
    log_dir: StrBytes,
    /// Topics and their partitions, as they are asked about and hosted here.
    topics: Vec<(StrBytes, Vec<PartitionIndex>)>,
    /// One per partition, in order.
    sizes: Vec<Option<i64>>,
    error: ErrorCode,
    total: i64,
    usable: i64,
}

pub(super) fn request(call: &Call<'_>, body: &[u8]) -> Result<Outcome, WireError> {
    let request: DescribeLogDirsRequest = small::decode(body, call.version)?;
    let context = call.context;
    // The core that asks measures the disk, whatever it leads.
    let own = LogDirsWork::default();
    let mut parts: Vec<(CoreId, LogDirsWork)> = vec![(call.context.core, own)];
    let mut topics = vec![];
    let mut place = 0;
    let wanted = request.topics.as_ref();
    for topic in context.image.topics() {
        let asked = wanted.map(|rows| {
            let rows = rows.iter().filter(|row| *row.topic == *topic.name);
            rows.flat_map(|row| row.partitions.iter().copied()).collect::<Vec<i32>>()
        });
        let mut indexes = vec![];
        for (index, partition) in (0..).zip(&topic.partitions) {
            let named = asked.as_ref().is_none_or(|asked| asked.contains(&index));
            if !named || !partition.replicas.contains(&context.node) {
                continue;
            }
            let core = partition.core_of(context.cores);
            let partition = PartitionIndex(index);
            let topic_partition = TopicPartition { topic: topic.id, partition };
            let item = LogDirsItem { topic_partition, place, size: None };
            place += 1;
            indexes.push(partition);
            match parts.iter_mut().find(|(known, _)| *known == core) {
                Some((_, work)) => work.items.push(item),
                None => parts.push((core, LogDirsWork { items: vec![item], ..Default::default() })),
            }
        }
        if !indexes.is_empty() {
            topics.push((StrBytes::from(&*topic.name), indexes));
        }
    }
    let pending = PendingLogDirs {
        version: call.version,
        correlation_id: call.correlation_id,
        log_dir: StrBytes::from(&*context.log_dir),
        topics,
        sizes: vec![None; place as usize],
        error: ErrorCode::None,
        total: -1,
        usable: -1,
    };
    let parts = parts.into_iter().map(|(core, work)| (core, Work::LogDirs(work))).collect();
    Ok(Outcome::Work(Pending::LogDirs(pending), parts))
}

impl PendingLogDirs {
    pub(super) fn fill(&mut self, work: LogDirsWork) {
        if work.error != ErrorCode::None {
            self.error = work.error;
        }
        self.total = self.total.max(work.total);
        self.usable = self.usable.max(work.usable);
        for item in work.items {
            self.sizes[item.place as usize] = item.size;
        }
    }

    pub(super) fn respond(self, answer: &mut Answer) -> Result<(), WireError> {
        let mut result = DescribeLogDirsResult::default();
        result.error_code = self.error.code();
        result.log_dir = self.log_dir;
        if self.version >= SPACE_FROM {
            result.total_bytes = self.total;
            result.usable_bytes = self.usable;
        }
        let mut sizes = self.sizes.into_iter();
        // A directory that has failed has no logs that anybody could use.
        let failed = self.error != ErrorCode::None;
        for (name, indexes) in self.topics {
            let mut row = DescribeLogDirsTopic::default();
            row.name = name;
            for (index, size) in indexes.into_iter().zip(&mut sizes) {
                // A partition without a size was deleted meanwhile.
                if let Some(size) = size.filter(|_| !failed) {
                    let mut cell = DescribeLogDirsPartition::default();
                    cell.partition_index = index.0;
                    cell.partition_size = size;
                    row.partitions.push(cell);
                }
            }
            if !row.partitions.is_empty() {
                result.topics.push(row);
            }
        }
        let mut response = DescribeLogDirsResponse::default();
        response.results.push(result);
        super::encode_small(answer, self.correlation_id, self.version, &response)
    }
}
