//! The records of `__consumer_offsets`, in Kafka's own formats.
//!
//! A key begins with the number of its kind: 0 and 1 a committed offset, 2 a
//! group (`OffsetCommitKey.json`, `GroupMetadataKey.json`). Values begin with
//! their version: offsets are written in version 3 and read in 0 to 4, groups
//! written in 3 and read in 0 to 4 (`OffsetCommitValue.json`,
//! `GroupMetadataValue.json`). Those of groups of the consumer protocol are in
//! [`consumer`]. Other kinds are of groups that are not served here. Any bytes
//! give a record or a reason.

pub mod consumer;

use std::sync::Arc;

use bytes::Bytes;

use super::{GroupId, MemberId};
use crate::rsm::KeyValue;
use crate::wire::WireError;
use crate::wire::reader::Reader;

/// The version that values are written in: the last one that older releases of
/// Kafka read.
const WRITTEN: i16 = 3;
/// The first version in the flexible encoding, and the last one.
const FLEXIBLE: i16 = 4;

/// Kinds of keys.
const OFFSET: i16 = 1;
const GROUP: i16 = 2;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The offset that a group has committed for a partition, or that it has
    /// none any more.
    Offset {
        /// The group.
        group: GroupId,
        /// Name of the topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// What is committed.
        offset: Option<CommittedOffset>,
    },
    /// A group as it was at the end of a rebalance, or that it is no more.
    Group {
        /// The group.
        group: GroupId,
        /// What it was.
        value: Option<GroupValue>,
    },
    /// A record of a group of the consumer protocol.
    Consumer {
        /// The group.
        group: GroupId,
        /// What it says.
        change: consumer::Change,
    },
}

/// What a group has committed for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record that was read, -1 if unknown.
    pub leader_epoch: i32,
    /// Whatever the client wants to keep with it.
    pub metadata: Arc<str>,
    /// When it was committed, Unix milliseconds.
    pub commit_timestamp_ms: i64,
    /// When it expires, in records of version 1; -1 otherwise.
    pub expire_timestamp_ms: i64,
}

/// A group at the end of a rebalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupValue {
    /// `consumer`, `connect`, ...; empty for none.
    pub protocol_type: Arc<str>,
    /// Counts rebalances.
    pub generation: i32,
    /// The assignor that was chosen.
    pub protocol: Option<Arc<str>>,
    /// The leader's member id.
    pub leader: Option<MemberId>,
    /// When the group came into its state, Unix milliseconds; -1 if unknown.
    pub state_timestamp_ms: i64,
    /// The members.
    pub members: Vec<MemberValue>,
}

/// A member of a group at the end of a rebalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    /// Its id.
    pub member_id: MemberId,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Arc<str>>,
    /// `client.id`.
    pub client_id: Arc<str>,
    /// Address of the client, with a slash before it as Java prints it.
    pub client_host: Arc<str>,
    /// `max.poll.interval.ms` of consumers.
    pub rebalance_timeout_ms: i32,
    /// `session.timeout.ms`.
    pub session_timeout_ms: i32,
    /// What it told its assignor.
    pub subscription: Bytes,
    /// What it was assigned.
    pub assignment: Bytes,
}

impl Record {
    /// The bytes of the record.
    pub fn encode(&self) -> KeyValue {
        let mut key = vec![];
        match self {
            Record::Offset { group, topic, partition, offset } => {
                put_i16(&mut key, OFFSET);
                put_str(&mut key, group);
                put_str(&mut key, topic);
                key.extend(partition.to_be_bytes());
                KeyValue { key, value: offset.as_ref().map(encode_offset) }
            }
            Record::Group { group, value } => {
                put_i16(&mut key, GROUP);
                put_str(&mut key, group);
                KeyValue { key, value: value.as_ref().map(encode_group) }
            }
            Record::Consumer { group, change } => consumer::encode(group, change),
        }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Why it cannot be read, for people.
    pub fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Self, String> {
        let key = key.ok_or("it has no key")?;
        let mut reader = Reader::new(key, false);
        let kind = reader.i16().map_err(|error| format!("its key: {error}"))?;
        match kind {
            0 | OFFSET => {
                let (group, topic, partition) =
                    decode_offset_key(&mut reader).map_err(|error| format!("its key: {error}"))?;
                let offset = value.map(decode_offset).transpose();
                let offset = offset.map_err(|error| format!("its value: {error}"))?;
                Ok(Record::Offset { group, topic, partition, offset })
            }
            GROUP => {
                let group = reader.string().map_err(|error| format!("its key: {error}"))?.into();
                let value = value.map(decode_group).transpose();
                let value = value.map_err(|error| format!("its value: {error}"))?;
                Ok(Record::Group { group, value })
            }
            kind => consumer::decode(kind, &mut reader, value),
        }
    }
}

fn encode_offset(offset: &CommittedOffset) -> Vec<u8> {
    let mut out = vec![];
    put_i16(&mut out, WRITTEN);
    out.extend(offset.offset.to_be_bytes());
    out.extend(offset.leader_epoch.to_be_bytes());
    put_str(&mut out, &offset.metadata);
    out.extend(offset.commit_timestamp_ms.to_be_bytes());
    out
}

fn decode_offset_key(reader: &mut Reader<'_>) -> Result<(GroupId, Arc<str>, i32), WireError> {
    Ok((reader.string()?.into(), reader.string()?.into(), reader.i32()?))
}

fn decode_offset(value: &[u8]) -> Result<CommittedOffset, WireError> {
    let (mut reader, version) = begin(value)?;
    let offset = reader.i64()?;
    let leader_epoch = if version >= 3 { reader.i32()? } else { -1 };
    let metadata = reader.string()?.into();
    let commit_timestamp_ms = reader.i64()?;
    let expire_timestamp_ms = if version == 1 { reader.i64()? } else { -1 };
    Ok(CommittedOffset { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms })
}

fn encode_group(group: &GroupValue) -> Vec<u8> {
    let mut out = vec![];
    put_i16(&mut out, WRITTEN);
    put_str(&mut out, &group.protocol_type);
    out.extend(group.generation.to_be_bytes());
    put_nullable_str(&mut out, group.protocol.as_deref());
    put_nullable_str(&mut out, group.leader.as_deref());
    out.extend(group.state_timestamp_ms.to_be_bytes());
    out.extend((group.members.len() as i32).to_be_bytes());
    for member in &group.members {
        put_str(&mut out, &member.member_id);
        put_nullable_str(&mut out, member.instance_id.as_deref());
        put_str(&mut out, &member.client_id);
        put_str(&mut out, &member.client_host);
        out.extend(member.rebalance_timeout_ms.to_be_bytes());
        out.extend(member.session_timeout_ms.to_be_bytes());
        for bytes in [&member.subscription, &member.assignment] {
            out.extend((bytes.len() as i32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
    }
    out
}

fn decode_group(value: &[u8]) -> Result<GroupValue, WireError> {
    let (mut reader, version) = begin(value)?;
    let protocol_type = reader.string()?.into();
    let generation = reader.i32()?;
    let protocol = reader.nullable_string()?.map(Arc::from);
    let leader = reader.nullable_string()?.map(Arc::from);
    let state_timestamp_ms = if version >= 2 { reader.i64()? } else { -1 };
    // The shortest member in the flexible encoding.
    let count = reader.array_len(10)?;
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let member_id = reader.string()?.into();
        let instance_id = match version {
            3.. => reader.nullable_string()?.map(Arc::from),
            _ => None,
        };
        let client_id = reader.string()?.into();
        let client_host = reader.string()?.into();
        let rebalance_timeout_ms = if version >= 1 { Some(reader.i32()?) } else { None };
        let session_timeout_ms = reader.i32()?;
        let mut bytes = || {
            let range = reader.nullable_bytes()?;
            let range = range.ok_or(WireError::Malformed("bytes that may not be null are"))?;
            Ok(Bytes::copy_from_slice(&value[2 + range.start..2 + range.end]))
        };
        let (subscription, assignment) = (bytes()?, bytes()?);
        reader.skip_tags()?;
        members.push(MemberValue {
            member_id,
            instance_id,
            client_id,
            client_host,
            // Members of old had one timeout for both.
            rebalance_timeout_ms: rebalance_timeout_ms.unwrap_or(session_timeout_ms),
            session_timeout_ms,
            subscription,
            assignment,
        });
    }
    Ok(GroupValue { protocol_type, generation, protocol, leader, state_timestamp_ms, members })
}

/// The version of a value, and what follows it.
fn begin(value: &[u8]) -> Result<(Reader<'_>, i16), WireError> {
    let version = Reader::new(value, false).i16()?;
    if !(0..=FLEXIBLE).contains(&version) {
        return Err(WireError::Malformed("the version is not known"));
    }
    Ok((Reader::new(&value[2..], version >= FLEXIBLE), version))
}

fn put_i16(out: &mut Vec<u8>, value: i16) {
    out.extend(value.to_be_bytes());
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put_nullable_str(out, Some(text));
}

fn put_nullable_str(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => put_i16(out, -1),
        Some(text) => {
            let len = i16::try_from(text.len()).expect("strings come off the wire, and fit it");
            put_i16(out, len);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn offset() -> Record {
        Record::Offset {
            group: "g".into(),
            topic: "t".into(),
            partition: 3,
            offset: Some(CommittedOffset {
                offset: 7,
                leader_epoch: 2,
                metadata: "m".into(),
                commit_timestamp_ms: 9,
                expire_timestamp_ms: -1,
            }),
        }
    }

    fn group() -> Record {
        let member = MemberValue {
            member_id: "a-1".into(),
            instance_id: Some("i".into()),
            client_id: "a".into(),
            client_host: "/127.0.0.1".into(),
            rebalance_timeout_ms: 300,
            session_timeout_ms: 100,
            subscription: Bytes::from_static(b"sub"),
            assignment: Bytes::from_static(b"ass"),
        };
        Record::Group {
            group: "g".into(),
            value: Some(GroupValue {
                protocol_type: "consumer".into(),
                generation: 5,
                protocol: Some("range".into()),
                leader: Some("a-1".into()),
                state_timestamp_ms: 11,
                members: vec![member.clone(), MemberValue { instance_id: None, ..member }],
            }),
        }
    }

    fn decode(bytes: &KeyValue) -> Result<Record, String> {
        Record::decode(Some(&bytes.key), bytes.value.as_deref())
    }

    #[test]
    fn records_read_as_they_were_written() {
        let gone = |record: Record| match record {
            Record::Offset { group, topic, partition, .. } => {
                Record::Offset { group, topic, partition, offset: None }
            }
            Record::Group { group, .. } => Record::Group { group, value: None },
            Record::Consumer { .. } => unreachable!("told of in a file of its own"),
        };
        for record in [offset(), group(), gone(offset()), gone(group())] {
            assert_eq!(decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn bytes_are_kafkas() {
        let KeyValue { key, value } = offset().encode();
        assert_eq!(key, b"\0\x01\0\x01g\0\x01t\0\0\0\x03");
        let expected = b"\0\x03\0\0\0\0\0\0\0\x07\0\0\0\x02\0\x01m\0\0\0\0\0\0\0\x09";
        assert_eq!(value.as_deref(), Some(&expected[..]));
        // Older versions, and the flexible one with a tagged field.
        let values: [(&[u8], i32, i64); 4] = [
            (b"\0\0\0\0\0\0\0\0\0\x07\0\x01m\0\0\0\0\0\0\0\x09", -1, -1),
            (b"\0\x01\0\0\0\0\0\0\0\x07\0\x01m\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x0a", -1, 10),
            (b"\0\x02\0\0\0\0\0\0\0\x07\0\x01m\0\0\0\0\0\0\0\x09", -1, -1),
            (b"\0\x04\0\0\0\0\0\0\0\x07\0\0\0\x02\x02m\0\0\0\0\0\0\0\x09\x01\0\x01x", 2, -1),
        ];
        for (value, leader_epoch, expire_timestamp_ms) in values {
            let Ok(Record::Offset { offset: Some(offset), .. }) =
                Record::decode(Some(&key), Some(value))
            else {
                panic!("{value:?}")
            };
            assert_eq!((offset.offset, &*offset.metadata, offset.commit_timestamp_ms), (7, "m", 9));
            assert_eq!(
                (offset.leader_epoch, offset.expire_timestamp_ms),
                (leader_epoch, expire_timestamp_ms)
            );
        }
    }

    #[test]
    fn whatever_the_bytes_there_is_a_record_or_a_reason() {
        let mut rng = Rng::new(1);
        for record in [offset(), group()] {
            let good = record.encode();
            let value = good.value.clone().expect("a value");
            for len in 0..value.len() {
                assert!(Record::decode(Some(&good.key), Some(&value[..len])).is_err(), "{len}");
            }
            for _ in 0..20_000 {
                let mut bytes = good.clone();
                let value = bytes.value.as_mut().expect("a value");
                for _ in 0..rng.between(1, 4) {
                    let at = rng.below(value.len() as u64) as usize;
                    value[at] = rng.next_u64() as u8;
                }
                let at = rng.below(bytes.key.len() as u64) as usize;
                bytes.key[at] ^= (rng.below(8) == 0) as u8;
                let _: Result<Record, String> = decode(&bytes);
            }
        }
        assert!(Record::decode(None, None).is_err());
        assert!(Record::decode(Some(b"\0\x09\0\x01g"), None).is_err());
        assert!(Record::decode(Some(b"\0\x02\0\x01g"), Some(b"\0\x05")).is_err());
    }
}
