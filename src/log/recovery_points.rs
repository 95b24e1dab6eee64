//! A core's checkpoint file: up to where each of its logs is known to be whole
//! and durable, so that recovery need not look at what lies before.
//!
//! One line a log, `topic-id partition offset`, under a header with a version
//! and a CRC-32 of the lines. Every line stays true for as long as the log
//! exists, so files of several cores (a broker may be started with another
//! number of them) are joined by taking the larger offset.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};

const VERSION: &str = "corelane-recovery-points 1";

/// Most bytes of one line: id, partition, offset, and what is between them.
const LINE_MAX: usize = 32 + 1 + 10 + 1 + 19 + 1;

/// Recovery points by log.
pub type RecoveryPoints = BTreeMap<TopicPartition, i64>;

/// The file's name for one core.
pub fn file_name(core: u16) -> String {
    format!("recovery-points.{core}")
}

/// Whether `name` is some core's file.
pub fn is_file_name(name: &str) -> bool {
    name.strip_prefix("recovery-points.")
        .is_some_and(|core| !core.is_empty() && core.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The file's bytes.
pub fn encode(points: &RecoveryPoints) -> Vec<u8> {
    let mut lines = String::with_capacity(points.len() * LINE_MAX);
    for (log, offset) in points {
        let id = u128::from_be_bytes(log.topic.0);
        writeln!(lines, "{id:032x} {} {offset}", log.partition).expect("strings take all writes");
    }
    let crc = crc32fast::hash(lines.as_bytes());
    let mut out = String::with_capacity(VERSION.len() + 10 + lines.len());
    write!(out, "{VERSION} {crc:08x}\n{lines}").expect("strings take all writes");
    out.into_bytes()
}

/// Adds a file's points to `points`, keeping the larger offset of each log.
/// False, with nothing added, if the file is damaged.
pub fn decode_into(bytes: &[u8], points: &mut RecoveryPoints) -> bool {
    let Some(read) = decode(bytes) else { return false };
    for (log, offset) in read {
        let known = points.entry(log).or_insert(offset);
        *known = offset.max(*known);
    }
    true
}

fn decode(bytes: &[u8]) -> Option<Vec<(TopicPartition, i64)>> {
    let (head, lines) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
    let crc = head.strip_prefix(VERSION)?.strip_prefix(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(lines.as_bytes()) {
        return None;
    }
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let topic = u128::from_str_radix(words.next()?, 16).ok()?;
        let partition = words.next()?.parse().ok()?;
        let offset = words.next()?.parse().ok()?;
        let topic = TopicId(topic.to_be_bytes());
        Some((TopicPartition { topic, partition: PartitionIndex(partition) }, offset))
    };
    lines.lines().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_join_and_damage_is_seen() {
        let log = |n: u8| TopicPartition {
            topic: TopicId([n; 16]),
            partition: PartitionIndex(i32::from(n)),
        };
        let old = RecoveryPoints::from([(log(1), 5), (log(2), 9)]);
        let new = RecoveryPoints::from([(log(1), 7), (log(3), 0)]);
        let mut joined = RecoveryPoints::new();
        assert!(decode_into(&encode(&old), &mut joined));
        assert!(decode_into(&encode(&new), &mut joined));
        assert_eq!(joined, RecoveryPoints::from([(log(1), 7), (log(2), 9), (log(3), 0)]));
        let bytes = encode(&old);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut none = RecoveryPoints::new();
            // A flip of case in the hexadecimal CRC is no damage.
            assert!(!decode_into(&bad, &mut none) || none == old, "bit {bit}");
        }
        assert!(is_file_name(&file_name(12)) && !is_file_name("recovery-points."));
    }
}
