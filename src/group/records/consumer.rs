//! The records of groups that use the consumer protocol (KIP-848), one for each
//! kind of key: 3 a group's epoch, 5 what a member says of itself, 6 the epoch
//! of the target assignment, 7 a member's target, 8 what a member has, 16 what a
//! regular expression matches (`ConsumerGroup*Key.json`, `ConsumerGroup*Value.json`).
//! Kind 4 was written by Kafka before 4.1: it is read, means nothing, and is
//! taken back at the next change of the group's epoch. Values have version 0,
//! which is flexible.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::super::{GroupId, MemberId};
use super::{Record, put_i16, put_str};
use crate::model::ids::TopicId;
use crate::rsm::KeyValue;
use crate::wire::WireError;
use crate::wire::reader::Reader;

pub(super) const GROUP: i16 = 3;
pub(super) const PARTITION_METADATA: i16 = 4;
pub(super) const MEMBER: i16 = 5;
pub(super) const TARGET: i16 = 6;
pub(super) const TARGET_MEMBER: i16 = 7;
pub(super) const CURRENT: i16 = 8;
pub(super) const REGEX: i16 = 16;

/// Partitions by topic.
pub type Assignment = BTreeMap<TopicId, BTreeSet<i32>>;

/// Partitions by topic that a member has, each with the member epoch it was
/// given at (KIP-1251).
pub type Owned = BTreeMap<TopicId, BTreeMap<i32, i32>>;

/// One record of a group; without a value it is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The group.
    Group(Option<GroupEpoch>),
    /// What Kafka before 4.1 knew of the topics; whether there is a value.
    PartitionMetadata(bool),
    /// What a member says of itself.
    Member(MemberId, Option<MemberMetadata>),
    /// The target assignment as a whole.
    Target(Option<TargetEpoch>),
    /// What a member shall have.
    TargetMember(MemberId, Option<Arc<Assignment>>),
    /// What a member has.
    Current(MemberId, Option<CurrentAssignment>),
    /// What a regular expression matches.
    Regex(Arc<str>, Option<Arc<ResolvedRegex>>),
}

/// A group's epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupEpoch {
    /// Counts changes of members, of what they subscribe to and of its topics.
    pub epoch: i32,
    /// Of the topics that are subscribed to.
    pub metadata_hash: i64,
}

/// The epoch of a target assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetEpoch {
    /// The group's epoch that it was made for.
    pub epoch: i32,
    /// When it was made, Unix milliseconds; 0 if unknown.
    pub timestamp_ms: i64,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberMetadata {
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Arc<str>>,
    /// `client.rack`.
    pub rack_id: Option<Arc<str>>,
    /// `client.id`.
    pub client_id: Arc<str>,
    /// Address of the client, with a slash before it as Java prints it.
    pub client_host: Arc<str>,
    /// Names of the topics that it subscribes to.
    pub topics: BTreeSet<Arc<str>>,
    /// A regular expression of more such names; empty for none.
    pub regex: Arc<str>,
    /// How long it may take to give partitions back; -1 if unknown.
    pub rebalance_timeout_ms: i32,
    /// The assignor that it prefers.
    pub assignor: Option<Arc<str>>,
    /// What it has joined with, if it uses the classic protocol.
    pub classic: Option<ClassicMetadata>,
}

/// What a member of the classic protocol has joined with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassicMetadata {
    /// `session.timeout.ms`.
    pub session_timeout_ms: i32,
    /// Names of the assignors it knows, and what it tells each.
    pub protocols: Vec<(Arc<str>, Bytes)>,
}

/// What a member has, and how far it is on its way to its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentAssignment {
    /// The epoch that the member has been told, or is about to be.
    pub epoch: i32,
    /// The one before it.
    pub previous_epoch: i32,
    /// Where it stands.
    pub state: MemberState,
    /// What it has.
    pub assigned: Owned,
    /// What it has to give back.
    pub revoking: Owned,
}

/// Where a member stands (`MemberState.java`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberState {
    /// It has what it shall have as of its epoch.
    #[default]
    Stable,
    /// It has to give partitions back.
    UnrevokedPartitions,
    /// It waits for partitions that others still have.
    UnreleasedPartitions,
    /// One that a later release has written.
    Unknown,
}

/// What a regular expression matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedRegex {
    /// Names of the topics.
    pub topics: BTreeSet<Arc<str>>,
    /// Position of the metadata that this is as of.
    pub version: i64,
    /// When this was found out, Unix milliseconds.
    pub timestamp_ms: i64,
}

impl Change {
    /// Whether it says that something is gone.
    pub fn is_tombstone(&self) -> bool {
        match self {
            Change::Group(value) => value.is_none(),
            Change::PartitionMetadata(present) => !present,
            Change::Member(_, value) => value.is_none(),
            Change::Target(value) => value.is_none(),
            Change::TargetMember(_, value) => value.is_none(),
            Change::Current(_, value) => value.is_none(),
            Change::Regex(_, value) => value.is_none(),
        }
    }
}

impl Default for CurrentAssignment {
    fn default() -> Self {
        Self {
            epoch: 0,
            previous_epoch: -1,
            state: MemberState::Stable,
            assigned: Owned::new(),
            revoking: Owned::new(),
        }
    }
}

impl MemberState {
    fn code(self) -> i8 {
        match self {
            MemberState::Stable => 0,
            MemberState::UnrevokedPartitions => 1,
            MemberState::UnreleasedPartitions => 2,
            MemberState::Unknown => 127,
        }
    }

    fn from_code(code: i8) -> Self {
        match code {
            0 => MemberState::Stable,
            1 => MemberState::UnrevokedPartitions,
            2 => MemberState::UnreleasedPartitions,
            _ => MemberState::Unknown,
        }
    }
}

/// The bytes of a group's record.
pub(super) fn encode(group: &GroupId, change: &Change) -> KeyValue {
    let mut key = vec![];
    let mut begin = |kind: i16, more: Option<&str>| {
        put_i16(&mut key, kind);
        put_str(&mut key, group);
        if let Some(more) = more {
            put_str(&mut key, more);
        }
    };
    let value = match change {
        Change::Group(value) => {
            begin(GROUP, None);
            value.as_ref().map(encode_group)
        }
        Change::PartitionMetadata(present) => {
            begin(PARTITION_METADATA, None);
            present.then(|| vec![0, 0, 0, 0, 0, 0, 1, 0])
        }
        Change::Member(member, value) => {
            begin(MEMBER, Some(member));
            value.as_ref().map(encode_member)
        }
        Change::Target(value) => {
            begin(TARGET, None);
            value.as_ref().map(encode_target)
        }
        Change::TargetMember(member, value) => {
            begin(TARGET_MEMBER, Some(member));
            value.as_deref().map(encode_target_member)
        }
        Change::Current(member, value) => {
            begin(CURRENT, Some(member));
            value.as_ref().map(encode_current)
        }
        Change::Regex(regex, value) => {
            begin(REGEX, Some(regex));
            value.as_deref().map(encode_regex)
        }
    };
    KeyValue { key, value }
}

/// Reads a group's record, of whose key the kind has been read.
pub(super) fn decode(
    kind: i16,
    key: &mut Reader<'_>,
    value: Option<&[u8]>,
) -> Result<Record, String> {
    let bad_key = |error: WireError| format!("its key: {error}");
    let bad_value = |error: WireError| format!("its value: {error}");
    let group: GroupId = key.string().map_err(bad_key)?.into();
    let mut more = || key.string().map(Arc::<str>::from).map_err(bad_key);
    let change = match kind {
        GROUP => Change::Group(value.map(decode_group).transpose().map_err(bad_value)?),
        PARTITION_METADATA => Change::PartitionMetadata(value.is_some()),
        MEMBER => Change::Member(more()?, value.map(decode_member).transpose().map_err(bad_value)?),
        TARGET => Change::Target(value.map(decode_target).transpose().map_err(bad_value)?),
        TARGET_MEMBER => {
            let value = value.map(decode_target_member).transpose().map_err(bad_value)?;
            Change::TargetMember(more()?, value.map(Arc::new))
        }
        CURRENT => {
            Change::Current(more()?, value.map(decode_current).transpose().map_err(bad_value)?)
        }
        REGEX => {
            let value = value.map(decode_regex).transpose().map_err(bad_value)?;
            Change::Regex(more()?, value.map(Arc::new))
        }
        kind => return Err(format!("keys of kind {kind} are not known")),
    };
    Ok(Record::Consumer { group, change })
}

/// The start of a value: its version.
fn begin() -> Vec<u8> {
    vec![0, 0]
}

fn reader(value: &[u8]) -> Result<Reader<'_>, WireError> {
    if Reader::new(value, false).i16()? != 0 {
        return Err(WireError::Malformed("the version is not known"));
    }
    Ok(Reader::new(&value[2..], true))
}

fn encode_group(value: &GroupEpoch) -> Vec<u8> {
    let mut out = begin();
    out.extend(value.epoch.to_be_bytes());
    if value.metadata_hash == 0 {
        out.push(0);
    } else {
        out.extend([1, 0, 8]);
        out.extend(value.metadata_hash.to_be_bytes());
    }
    out
}

fn decode_group(value: &[u8]) -> Result<GroupEpoch, WireError> {
    let mut reader = reader(value)?;
    let epoch = reader.i32()?;
    let mut metadata_hash = 0;
    reader.tags(|tag, field| {
        if tag == 0 {
            metadata_hash = field.i64()?;
        }
        Ok(tag == 0)
    })?;
    Ok(GroupEpoch { epoch, metadata_hash })
}

fn encode_target(value: &TargetEpoch) -> Vec<u8> {
    let mut out = begin();
    out.extend(value.epoch.to_be_bytes());
    if value.timestamp_ms == 0 {
        out.push(0);
    } else {
        out.extend([1, 0, 8]);
        out.extend(value.timestamp_ms.to_be_bytes());
    }
    out
}

fn decode_target(value: &[u8]) -> Result<TargetEpoch, WireError> {
    let GroupEpoch { epoch, metadata_hash } = decode_group(value)?;
    Ok(TargetEpoch { epoch, timestamp_ms: metadata_hash })
}

fn encode_member(value: &MemberMetadata) -> Vec<u8> {
    let mut out = begin();
    put_compact_str(&mut out, value.instance_id.as_deref());
    put_compact_str(&mut out, value.rack_id.as_deref());
    put_compact_str(&mut out, Some(&value.client_id));
    put_compact_str(&mut out, Some(&value.client_host));
    put_names(&mut out, &value.topics);
    put_compact_str(&mut out, Some(&value.regex));
    out.extend(value.rebalance_timeout_ms.to_be_bytes());
    put_compact_str(&mut out, value.assignor.as_deref());
    let Some(classic) = &value.classic else {
        out.push(0);
        return out;
    };
    // A struct that may be null begins with a byte which says that it is not.
    let mut field = vec![1];
    field.extend(classic.session_timeout_ms.to_be_bytes());
    put_len(&mut field, classic.protocols.len());
    for (name, metadata) in &classic.protocols {
        put_compact_str(&mut field, Some(name));
        put_len(&mut field, metadata.len());
        field.extend_from_slice(metadata);
        field.push(0);
    }
    field.push(0);
    out.extend([1, 0]);
    put_uvarint(&mut out, field.len());
    out.extend(field);
    out
}

fn decode_member(value: &[u8]) -> Result<MemberMetadata, WireError> {
    let mut reader = reader(value)?;
    let instance_id = reader.nullable_string()?.map(Arc::from);
    let rack_id = reader.nullable_string()?.map(Arc::from);
    let client_id = reader.string()?.into();
    let client_host = reader.string()?.into();
    let topics = names(&mut reader)?;
    let regex = reader.nullable_string()?.unwrap_or("").into();
    let rebalance_timeout_ms = reader.i32()?;
    let assignor = reader.nullable_string()?.map(Arc::from);
    let mut classic = None;
    reader.tags(|tag, field| {
        if tag == 0 && field.i8()? >= 0 {
            classic = Some(decode_classic(field)?);
        }
        Ok(tag == 0)
    })?;
    Ok(MemberMetadata {
        instance_id,
        rack_id,
        client_id,
        client_host,
        topics,
        regex,
        rebalance_timeout_ms,
        assignor,
        classic,
    })
}

fn decode_classic(reader: &mut Reader<'_>) -> Result<ClassicMetadata, WireError> {
    let session_timeout_ms = reader.i32()?;
    let count = reader.array_len(3)?;
    let mut protocols = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.string()?.into();
        let metadata = reader.bytes()?;
        protocols.push((name, Bytes::copy_from_slice(metadata)));
        reader.skip_tags()?;
    }
    reader.skip_tags()?;
    Ok(ClassicMetadata { session_timeout_ms, protocols })
}

fn encode_target_member(value: &Assignment) -> Vec<u8> {
    let mut out = begin();
    put_len(&mut out, value.len());
    for (topic, partitions) in value {
        out.extend(topic.0);
        put_len(&mut out, partitions.len());
        out.extend(partitions.iter().flat_map(|partition| partition.to_be_bytes()));
        out.push(0);
    }
    out.push(0);
    out
}

fn decode_target_member(value: &[u8]) -> Result<Assignment, WireError> {
    let mut reader = reader(value)?;
    let mut assignment = Assignment::new();
    for _ in 0..reader.array_len(18)? {
        let topic = reader.topic_id()?;
        let partitions = numbers(&mut reader)?;
        reader.skip_tags()?;
        assignment.entry(topic).or_default().extend(partitions);
    }
    Ok(assignment)
}

fn encode_current(value: &CurrentAssignment) -> Vec<u8> {
    let mut out = begin();
    out.extend(value.epoch.to_be_bytes());
    out.extend(value.previous_epoch.to_be_bytes());
    out.push(value.state.code() as u8);
    put_owned(&mut out, &value.assigned);
    put_owned(&mut out, &value.revoking);
    out.push(0);
    out
}

fn decode_current(value: &[u8]) -> Result<CurrentAssignment, WireError> {
    let mut reader = reader(value)?;
    let epoch = reader.i32()?;
    let previous_epoch = reader.i32()?;
    let state = MemberState::from_code(reader.i8()?);
    let assigned = owned(&mut reader, epoch)?;
    let revoking = owned(&mut reader, epoch)?;
    Ok(CurrentAssignment { epoch, previous_epoch, state, assigned, revoking })
}

fn put_owned(out: &mut Vec<u8>, owned: &Owned) {
    put_len(out, owned.len());
    for (topic, partitions) in owned {
        out.extend(topic.0);
        put_len(out, partitions.len());
        out.extend(partitions.keys().flat_map(|partition| partition.to_be_bytes()));
        let mut epochs = vec![];
        put_len(&mut epochs, partitions.len());
        epochs.extend(partitions.values().flat_map(|epoch| epoch.to_be_bytes()));
        out.extend([1, 0]);
        put_uvarint(out, epochs.len());
        out.extend(epochs);
    }
}

fn owned(reader: &mut Reader<'_>, member_epoch: i32) -> Result<Owned, WireError> {
    let mut owned = Owned::new();
    for _ in 0..reader.array_len(18)? {
        let topic = reader.topic_id()?;
        let partitions = numbers(reader)?;
        let mut epochs = None;
        reader.tags(|tag, field| {
            if tag == 0 {
                epochs = Some(numbers(field)?);
            }
            Ok(tag == 0)
        })?;
        // Before there were epochs of assignments, only the member's own was valid.
        let epochs = epochs.filter(|epochs| epochs.len() == partitions.len());
        let epochs = epochs.unwrap_or_else(|| vec![member_epoch; partitions.len()]);
        owned.entry(topic).or_default().extend(partitions.into_iter().zip(epochs));
    }
    Ok(owned)
}

fn encode_regex(value: &ResolvedRegex) -> Vec<u8> {
    let mut out = begin();
    put_names(&mut out, &value.topics);
    out.extend(value.version.to_be_bytes());
    out.extend(value.timestamp_ms.to_be_bytes());
    out.push(0);
    out
}

fn decode_regex(value: &[u8]) -> Result<ResolvedRegex, WireError> {
    let mut reader = reader(value)?;
    let topics = names(&mut reader)?;
    Ok(ResolvedRegex { topics, version: reader.i64()?, timestamp_ms: reader.i64()? })
}

fn numbers(reader: &mut Reader<'_>) -> Result<Vec<i32>, WireError> {
    let count = reader.array_len(4)?;
    (0..count).map(|_| reader.i32()).collect()
}

fn names(reader: &mut Reader<'_>) -> Result<BTreeSet<Arc<str>>, WireError> {
    let count = reader.array_len(1)?;
    (0..count).map(|_| Ok(reader.string()?.into())).collect()
}

fn put_names(out: &mut Vec<u8>, names: &BTreeSet<Arc<str>>) {
    put_len(out, names.len());
    for name in names {
        put_compact_str(out, Some(name));
    }
}

fn put_compact_str(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.push(0),
        Some(text) => {
            put_len(out, text.len());
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// A length in the flexible encoding, which counts from one: zero is null.
fn put_len(out: &mut Vec<u8>, len: usize) {
    put_uvarint(out, len + 1);
}

fn put_uvarint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    const T: TopicId = TopicId([7; 16]);

    fn record(change: Change) -> Record {
        Record::Consumer { group: "g".into(), change }
    }

    fn member() -> MemberMetadata {
        MemberMetadata {
            instance_id: Some("i".into()),
            rack_id: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            topics: ["a".into(), "b".into()].into(),
            regex: "t.*".into(),
            rebalance_timeout_ms: 300,
            assignor: Some("range".into()),
            classic: Some(ClassicMetadata {
                session_timeout_ms: 10,
                protocols: vec![("range".into(), Bytes::from_static(b"said"))],
            }),
        }
    }

    fn all() -> Vec<Change> {
        let owned = Owned::from([(T, BTreeMap::from([(0, 3), (2, 5)]))]);
        vec![
            Change::Group(Some(GroupEpoch { epoch: 5, metadata_hash: -9 })),
            Change::Group(Some(GroupEpoch { epoch: 5, metadata_hash: 0 })),
            Change::PartitionMetadata(true),
            Change::Member("m".into(), Some(member())),
            Change::Member("m".into(), Some(MemberMetadata::default())),
            Change::Target(Some(TargetEpoch { epoch: 5, timestamp_ms: 77 })),
            Change::TargetMember(
                "m".into(),
                Some(Arc::new(Assignment::from([(T, [1, 2].into())]))),
            ),
            Change::Current(
                "m".into(),
                Some(CurrentAssignment {
                    epoch: 5,
                    previous_epoch: 4,
                    state: MemberState::UnrevokedPartitions,
                    assigned: owned.clone(),
                    revoking: owned,
                }),
            ),
            Change::Regex(
                "t.*".into(),
                Some(Arc::new(ResolvedRegex {
                    topics: ["t1".into()].into(),
                    version: 12,
                    timestamp_ms: 13,
                })),
            ),
            Change::Group(None),
            Change::PartitionMetadata(false),
            Change::Member("m".into(), None),
            Change::Target(None),
            Change::TargetMember("m".into(), None),
            Change::Current("m".into(), None),
            Change::Regex("t.*".into(), None),
        ]
    }

    #[test]
    fn records_read_as_they_were_written() {
        for change in all() {
            let record = record(change);
            let KeyValue { key, value } = record.encode();
            assert_eq!(Record::decode(Some(&key), value.as_deref()), Ok(record));
        }
    }

    #[test]
    fn bytes_are_kafkas() {
        type Row<'a> = (Change, &'a [u8], Option<&'a [u8]>);
        let rows: [Row<'_>; 5] = [
            (
                Change::Group(Some(GroupEpoch { epoch: 5, metadata_hash: 1 })),
                b"\0\x03\0\x01g",
                Some(b"\0\0\0\0\0\x05\x01\0\x08\0\0\0\0\0\0\0\x01"),
            ),
            (
                Change::TargetMember(
                    "m".into(),
                    Some(Arc::new(Assignment::from([(T, [1].into())]))),
                ),
                b"\0\x07\0\x01g\0\x01m",
                Some(b"\0\0\x02\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x02\0\0\0\x01\0\0"),
            ),
            (
                Change::Target(Some(TargetEpoch { epoch: 2, timestamp_ms: 0 })),
                b"\0\x06\0\x01g",
                Some(b"\0\0\0\0\0\x02\0"),
            ),
            (
                Change::Member("m".into(), Some(MemberMetadata { client_id: "c".into(), ..MemberMetadata::default() })),
                b"\0\x05\0\x01g\0\x01m",
                Some(b"\0\0\0\0\x02c\x01\x01\x01\0\0\0\0\0\0"),
            ),
            (Change::Regex("r".into(), None), b"\0\x10\0\x01g\0\x01r", None),
        ];
        for (change, key, value) in rows {
            let bytes = record(change).encode();
            assert_eq!((&bytes.key[..], bytes.value.as_deref()), (key, value));
        }
        // Without epochs of partitions, as Kafka before 4.3 writes it.
        let value = b"\0\0\0\0\0\x04\0\0\0\x03\0\x02\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x02\0\0\0\x01\0\x01\0";
        let read = Record::decode(Some(b"\0\x08\0\x01g\0\x01m"), Some(value));
        let Ok(Record::Consumer { change: Change::Current(_, Some(current)), .. }) = read else {
            panic!("{read:?}")
        };
        assert_eq!((current.epoch, current.assigned[&T][&1]), (4, 4));
    }

    #[test]
    fn whatever_the_bytes_there_is_a_record_or_a_reason() {
        let mut rng = Rng::new(1);
        for change in all() {
            let good = record(change).encode();
            let Some(value) = good.value.clone() else { continue };
            for len in 0..value.len() {
                let _: Result<Record, String> =
                    Record::decode(Some(&good.key), Some(&value[..len]));
            }
            for _ in 0..5_000 {
                let mut bytes = value.clone();
                for _ in 0..rng.between(1, 4) {
                    let at = rng.below(bytes.len() as u64) as usize;
                    bytes[at] = rng.next_u64() as u8;
                }
                let _: Result<Record, String> = Record::decode(Some(&good.key), Some(&bytes));
            }
        }
    }
}
