//! Names for things: every number has a type.

use std::fmt;
use std::sync::Arc;

/// A broker, `node.id` in Kafka's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub i32);

/// A core of this broker, numbered from zero in the order of its pinned threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u16);

/// A partition's number within its topic, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionIndex(pub i32);

/// Identity of a topic for ever; a topic created anew under an old name has
/// another one (KIP-516).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

/// One partition of one topic, whatever the topic is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionIndex,
}

/// Counts changes of a partition's leader. -1 is unknown, 0 the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderEpoch(pub i32);

/// Position in the cluster's metadata log: the Raft index of a committed entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetadataOffset(pub u64);

/// A topic's name, checked by [`topic_name_error`].
pub type TopicName = Arc<str>;

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PartitionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TopicId {
    /// Kafka's form: URL-safe base64 without padding, 22 characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits = u128::from_be_bytes(self.0);
        for digit in (0..22).rev() {
            // 22 digits hold 132 bits: the last one carries the final two bits, shifted left.
            let value = if digit == 0 { bits << 4 } else { bits >> (6 * digit - 4) };
            write!(f, "{}", DIGITS[(value & 63) as usize] as char)?;
        }
        Ok(())
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Why `name` cannot name a topic, or `None` if it can (Kafka's
/// `Topic.validate`: 1 to 249 of `[a-zA-Z0-9._-]`, neither `.` nor `..`).
pub fn topic_name_error(name: &str) -> Option<&'static str> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() {
        Some("the topic name is empty")
    } else if name == "." || name == ".." {
        Some("the topic name is \".\" or \"..\"")
    } else if name.len() > 249 {
        Some("the topic name is longer than 249 characters")
    } else if !name.bytes().all(legal) {
        Some("the topic name has a character other than ASCII letters, digits, '.', '_' and '-'")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_ids_print_as_kafka_prints_them() {
        // Uuid.METADATA_TOPIC_ID and a mixed value, from Kafka's Uuid.toString.
        let mut one = [0; 16];
        one[15] = 1;
        assert_eq!(TopicId(one).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(TopicId([0xff; 16]).to_string(), "_____________________w");
    }

    #[test]
    fn topic_names() {
        for good in ["a", "__consumer_offsets", "A.b-c_9", &"x".repeat(249)] {
            assert_eq!(topic_name_error(good), None, "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(250)] {
            assert!(topic_name_error(bad).is_some(), "{bad}");
        }
    }
}
