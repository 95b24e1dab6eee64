//! A core's file of what a clean stop has kept of its small logs (`closed.rs`).
//!
//! One line, `corelane-closed-logs 1 GENERATION CRC`, the CRC-32 being that of the
//! generation (eight bytes) and of what follows: for each log its topic id (16 bytes),
//! partition (4), length of the record (4), record.
//!
//! The file stays where it is while the broker runs, and a core that is no more
//! leaves its file behind. So each stop writes with a generation one above all
//! that its start has found, and only files of the newest generation count. A log
//! that misses its record for that is loaded from its directory. A damaged file may be
//! the newest: while there is one, no record counts.

use std::collections::BTreeMap;

use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};

const VERSION: &str = "corelane-closed-logs 1";

/// Bytes of a log's entry but for the record.
pub const ENTRY_HEAD: usize = 16 + 4 + 4;

/// Records of closed logs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClosedLogs {
    /// Of the stop that wrote them; 0 for none.
    pub generation: u64,
    /// Record by log.
    pub records: BTreeMap<TopicPartition, Vec<u8>>,
}

/// The file's name for one core.
pub fn file_name(core: u16) -> String {
    format!("closed-logs.{core}")
}

/// Whether `name` is some core's file.
pub fn is_file_name(name: &str) -> bool {
    name.strip_prefix("closed-logs.")
        .is_some_and(|core| !core.is_empty() && core.bytes().all(|byte| byte.is_ascii_digit()))
}

impl ClosedLogs {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![];
        for (log, record) in &self.records {
            body.extend_from_slice(&log.topic.0);
            body.extend_from_slice(&log.partition.0.to_be_bytes());
            body.extend_from_slice(&(record.len() as u32).to_be_bytes());
            body.extend_from_slice(record);
        }
        let crc = crc(self.generation, &body);
        let mut out = format!("{VERSION} {} {crc:08x}\n", self.generation).into_bytes();
        out.extend_from_slice(&body);
        out
    }

    /// Adds a file's records. Those of an older generation are nothing. False if
    /// the file is damaged: nothing was added.
    pub fn add(&mut self, bytes: &[u8]) -> bool {
        let Some(mut read) = decode(bytes) else { return false };
        if read.generation > self.generation {
            *self = read;
        } else if read.generation == self.generation {
            self.records.append(&mut read.records);
        }
        true
    }
}

fn crc(generation: u64, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&generation.to_be_bytes());
    crc.update(body);
    crc.finalize()
}

fn decode(bytes: &[u8]) -> Option<ClosedLogs> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let (generation, sum) = head.strip_prefix(VERSION)?.strip_prefix(' ')?.split_once(' ')?;
    let generation = generation.parse().ok()?;
    let mut body = &bytes[end + 1..];
    if u32::from_str_radix(sum, 16).ok()? != crc(generation, body) {
        return None;
    }
    let mut records = BTreeMap::new();
    while !body.is_empty() {
        let (topic, rest) = body.split_first_chunk()?;
        let (partition, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (record, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        let partition = PartitionIndex(i32::from_be_bytes(*partition));
        records.insert(TopicPartition { topic: TopicId(*topic), partition }, record.to_vec());
        body = rest;
    }
    Some(ClosedLogs { generation, records })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(generation: u64, numbers: &[u8]) -> ClosedLogs {
        let record = |n: &u8| {
            let log = TopicPartition { topic: TopicId([*n; 16]), partition: PartitionIndex(1) };
            (log, vec![*n; usize::from(*n)])
        };
        ClosedLogs { generation, records: numbers.iter().map(record).collect() }
    }

    #[test]
    fn only_the_newest_generation_counts_and_damage_is_seen() {
        let mut joined = ClosedLogs::default();
        for file in [logs(3, &[1, 2]), logs(4, &[2, 5]), logs(4, &[0, 7]), logs(1, &[9])] {
            assert!(joined.add(&file.encode()));
        }
        assert_eq!(joined, logs(4, &[0, 2, 5, 7]));
        let bytes = logs(3, &[1, 4]).encode();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut none = ClosedLogs::default();
            // A flip of case in the hexadecimal CRC is no damage.
            assert!(!none.add(&bad) || none == logs(3, &[1, 4]), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(!ClosedLogs::default().add(&bytes[..len]), "{len} bytes");
        }
        assert!(is_file_name(&file_name(12)) && !is_file_name("closed-logs."));
    }
}
