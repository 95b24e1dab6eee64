//! What the runs have exercised. A row that stays zero is a hole in the
//! simulation, and fails it.

use std::collections::BTreeMap;

/// Rows that must not be zero after a run of all default seeds.
pub const REQUIRED: &[&str] = &[
    "acks=0 requests",
    "acks=1 acknowledged",
    "acks=all acknowledged",
    "audited partitions",
    "batches read",
    "clean starts",
    "clean stops",
    "clock jumps",
    "consumer groups: answers lost",
    "consumer groups: assignments",
    "consumer groups: commits of other epochs",
    "consumer groups: described",
    "consumer groups: heartbeats",
    "consumer groups: members fenced",
    "consumer groups: members joined",
    "consumer groups: members left",
    "consumer groups: members unknown",
    "consumer groups: partitions to be given back",
    "consumer groups: stale commits refused",
    "crashes: death of the process",
    "crashes: during a stop",
    "crashes: loss of power",
    "disk: failed names and small files",
    "disk: faults",
    "disk: operations in flight at a crash",
    "disk: reads",
    "disk: records of journals",
    "disk: renames",
    "disk: replaces",
    "disk: segments compacted",
    "disk: stale batches behind the end of a log",
    "disk: syncs",
    "disk: syncs of all files",
    "disk: truncates",
    "disk: unsynced changes at a loss of power",
    "disk: writes",
    "disk: writes from journals",
    "empty long polls",
    "flipped bits: groups offline and named",
    "flipped bits: in indexes",
    "flipped bits: in journals",
    "flipped bits: in last segments",
    "flipped bits: in logs of groups",
    "flipped bits: in other files of logs",
    "flipped bits: in recovery points",
    "flipped bits: in segments",
    "flipped bits: in the metadata",
    "flipped bits: in what is kept of closed logs",
    "flipped bits: logs offline and named",
    "flipped bits: logs that may end there",
    "flipped bits: starts refused for a journal",
    "flipped bits: starts refused for the metadata",
    "fetch sessions: granted",
    "fetch sessions: kept back what had not changed",
    "fetch sessions: refused",
    "fetch sessions: used",
    "groups: assignments",
    "groups: deleted",
    "groups: described",
    "groups: heartbeats",
    "groups: late commits refused",
    "groups: listed",
    "groups: members joined",
    "groups: members left",
    "groups: offsets committed",
    "groups: offsets found",
    "idempotent batches acknowledged",
    "keyed batches acknowledged",
    "keyed partitions judged",
    "lookups by time: found",
    "lookups by time: nothing",
    "mail between cores",
    "network: connections",
    "network: resets by clients",
    "network: stuck readers",
    "refused: bad batches",
    "refused: storage errors",
    "records deleted",
    "runs with several cores",
    "settings changed",
    "settings shown",
    "topics created",
    "topics created by Metadata",
    "topics deleted",
    "topics grown",
];

/// APIs that must have answered.
pub const ANSWERED: &[&str] = &[
    "ApiVersions",
    "ConsumerGroupDescribe",
    "ConsumerGroupHeartbeat",
    "CreatePartitions",
    "CreateTopics",
    "DeleteGroups",
    "DeleteRecords",
    "DeleteTopics",
    "DescribeConfigs",
    "DescribeGroups",
    "Fetch",
    "FindCoordinator",
    "Heartbeat",
    "IncrementalAlterConfigs",
    "InitProducerId",
    "JoinGroup",
    "LeaveGroup",
    "ListGroups",
    "ListOffsets",
    "Metadata",
    "OffsetCommit",
    "OffsetFetch",
    "Produce",
    "SyncGroup",
];

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Calls of `Shard::step`.
    pub shard_events: u64,
    rows: BTreeMap<&'static str, u64>,
    /// Answers by the name of the API.
    answers: BTreeMap<&'static str, u64>,
}

impl Coverage {
    pub fn add(&mut self, name: &'static str, count: u64) {
        *self.rows.entry(name).or_default() += count;
    }

    pub fn one(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// An answer came.
    pub fn answer(&mut self, api: &'static str) {
        *self.answers.entry(api).or_default() += 1;
    }

    pub fn merge(&mut self, other: &Coverage) {
        self.shard_events += other.shard_events;
        for (name, count) in &other.rows {
            self.add(name, *count);
        }
        for (api, count) in &other.answers {
            *self.answers.entry(api).or_default() += count;
        }
    }

    pub fn get(&self, name: &str) -> u64 {
        self.rows.get(name).copied().unwrap_or(0)
    }

    pub fn print(&self) {
        println!("  {:>12}  shard events", self.shard_events);
        for (name, count) in &self.rows {
            println!("  {count:>12}  {name}");
        }
        for (api, count) in &self.answers {
            println!("  {count:>12}  answers: {api}");
        }
    }

    /// Required rows that are zero.
    pub fn missing(&self) -> Vec<&'static str> {
        let rows = REQUIRED.iter().copied().filter(|name| self.get(name) == 0);
        let apis = ANSWERED.iter().copied().filter(|api| !self.answers.contains_key(api));
        rows.chain(apis).collect()
    }
}
