//! What a coordinator is asked, and what it answers.
//!
//! Requests come freed of their versions: whoever takes them off the wire fills
//! in what an older version leaves out. Everything that may be kept is owned.

use std::sync::Arc;

use bytes::Bytes;

use super::records::consumer::Assignment;
use super::{GroupId, MemberId};
use crate::model::error_code::ErrorCode;
use crate::replica::work::Origin;
use crate::wire::groups::consumer_group_describe_response::DescribedGroup as DescribedConsumers;
use crate::wire::groups::describe_groups_response::DescribedGroup;
use crate::wire::groups::list_groups_response::ListedGroup;
use crate::wire::groups::{ConsumerGroupHeartbeatResponse, JoinGroupResponse, SyncGroupResponse};

/// Who asks: a request of a client, and which part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The request.
    pub origin: Origin,
    /// The part's place in the request.
    pub place: u32,
}

/// What is asked of the coordinators of one core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// About one group.
    Group(GroupId, Ask),
    /// ListGroups: all groups of this core.
    List,
}

/// What is asked about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// JoinGroup.
    Join(Box<Join>),
    /// SyncGroup.
    Sync(Sync),
    /// Heartbeat.
    Heartbeat(Identity),
    /// LeaveGroup: the members that leave.
    Leave(Vec<Leaving>),
    /// OffsetCommit.
    Commit(Commit),
    /// OffsetFetch.
    Fetch(Fetch),
    /// OffsetDelete.
    DeleteOffsets(Vec<TopicPartitions>),
    /// DescribeGroups.
    Describe,
    /// DeleteGroups.
    Delete,
    /// ConsumerGroupHeartbeat.
    ConsumerHeartbeat(Box<ConsumerHeartbeat>),
    /// ConsumerGroupDescribe.
    DescribeConsumers,
}

/// A sign of life of a member by the consumer protocol (KIP-848). What has not
/// changed since the last one is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerHeartbeat {
    /// Its id; from old versions empty for a new member.
    pub member_id: MemberId,
    /// The request's version wants an id from new members, too.
    pub needs_id: bool,
    /// The epoch it is in; 0 joins, -1 leaves, -2 leaves for a while.
    pub epoch: i32,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Arc<str>>,
    /// `client.rack`.
    pub rack_id: Option<Arc<str>>,
    /// How long it may take to give partitions back; -1 if left out.
    pub rebalance_timeout_ms: i32,
    /// Names of the topics that it subscribes to.
    pub topics: Option<Vec<Arc<str>>>,
    /// A regular expression of more such names; empty for none any more.
    pub regex: Option<Arc<str>>,
    /// The assignor that it prefers.
    pub assignor: Option<Arc<str>>,
    /// What it has.
    pub owned: Option<Assignment>,
    /// `client.id`.
    pub client_id: Arc<str>,
    /// Its address.
    pub client_host: Arc<str>,
}

/// Offsets to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetch {
    /// The member that asks and its epoch, if it says so (KIP-848).
    pub member: Option<(MemberId, i32)>,
    /// The partitions, or all that have an offset.
    pub topics: Option<Vec<TopicPartitions>>,
}

/// Partitions of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPartitions {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The partitions.
    pub partitions: Vec<i32>,
}

/// A member who wants to take part in the next generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Empty for a new member.
    pub member_id: MemberId,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<Arc<str>>,
    /// `client.id`.
    pub client_id: Arc<str>,
    /// Its address.
    pub client_host: Arc<str>,
    /// `session.timeout.ms`.
    pub session_timeout_ms: i32,
    /// How long the others wait for it in a rebalance.
    pub rebalance_timeout_ms: i32,
    /// `consumer`, `connect`, ...
    pub protocol_type: Arc<str>,
    /// Names of the assignors it knows, and what it tells each.
    pub protocols: Vec<(Arc<str>, Bytes)>,
    /// A new member gets an id and has to come again with it (KIP-394).
    pub needs_known_id: bool,
    /// The leader can be told to keep the assignment (KIP-814).
    pub may_skip_assignment: bool,
}

/// Which member, in which generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The member.
    pub member_id: MemberId,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Arc<str>>,
    /// The generation it thinks it is in.
    pub generation: i32,
}

/// A member who wants its assignment; the leader brings everybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// Who.
    pub member: Identity,
    /// Checked if present (KIP-559).
    pub protocol_type: Option<Arc<str>>,
    /// Checked if present.
    pub protocol: Option<Arc<str>>,
    /// From the leader: members and what they get.
    pub assignments: Vec<(MemberId, Bytes)>,
}

/// A member that leaves, or is made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Empty if a static member is named by its instance id alone.
    pub member_id: MemberId,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Arc<str>>,
}

/// Offsets to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Who; without a member and with a negative generation whoever is not in
    /// the group.
    pub member: Identity,
    /// Until when they are kept, from versions that say so; otherwise as long
    /// as `offsets.retention.minutes` says.
    pub retention_ms: Option<i64>,
    /// The request's version knows of member epochs.
    pub knows_epochs: bool,
    /// The offsets.
    pub rows: Vec<CommitRow>,
}

/// An offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRow {
    /// Name of the topic, which exists.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 if unknown.
    pub leader_epoch: i32,
    /// Whatever the client wants to keep with it.
    pub metadata: Arc<str>,
}

/// Committed offsets of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedTopic {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Its partitions.
    pub partitions: Vec<FetchedOffset>,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOffset {
    /// The partition.
    pub partition: i32,
    /// The next offset to read, -1 for none.
    pub offset: i64,
    /// -1 if unknown.
    pub leader_epoch: i32,
    /// What the client wanted to keep with it.
    pub metadata: Arc<str>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To [`Ask::Join`].
    Joined(Box<JoinGroupResponse>),
    /// To [`Ask::Sync`].
    Synced(Box<SyncGroupResponse>),
    /// To [`Ask::Heartbeat`].
    Heartbeat(ErrorCode),
    /// To [`Ask::Leave`]: of all, and of each member.
    Left(ErrorCode, Vec<ErrorCode>),
    /// To [`Ask::Commit`], by row.
    Committed(Vec<ErrorCode>),
    /// To [`Ask::Fetch`].
    Fetched(Result<Vec<FetchedTopic>, ErrorCode>),
    /// To [`Ask::DeleteOffsets`]: of all, and of each topic.
    OffsetsDeleted(ErrorCode, Vec<ErrorCode>),
    /// To [`Ask::Describe`].
    Described(Box<DescribedGroup>),
    /// To [`Ask::Delete`].
    Deleted(ErrorCode),
    /// To [`Ask::ConsumerHeartbeat`].
    Beat(Box<ConsumerGroupHeartbeatResponse>),
    /// To [`Ask::DescribeConsumers`].
    ConsumersDescribed(Box<DescribedConsumers>),
    /// To [`Request::List`].
    Listed(Result<Vec<ListedGroup>, ErrorCode>),
}

impl Request {
    /// The answer to a request of which nothing is done.
    pub fn refuse(&self, error: ErrorCode) -> Response {
        match self {
            Request::List => Response::Listed(Err(error)),
            Request::Group(group, ask) => ask.refuse(group, error),
        }
    }
}

impl Ask {
    /// The answer to a request of which nothing is done.
    pub fn refuse(&self, group: &GroupId, error: ErrorCode) -> Response {
        match self {
            Ask::Join(join) => refuse_join(&join.member_id, error),
            Ask::Sync(_) => refuse_sync(error),
            Ask::Heartbeat(_) => Response::Heartbeat(error),
            Ask::Leave(_) => Response::Left(error, vec![]),
            Ask::Commit(commit) => Response::Committed(vec![error; commit.rows.len()]),
            Ask::Fetch(_) => Response::Fetched(Err(error)),
            Ask::DeleteOffsets(_) => Response::OffsetsDeleted(error, vec![]),
            Ask::Describe => {
                let mut row = DescribedGroup::default();
                row.group_id = (&**group).into();
                row.error_code = error.code();
                Response::Described(Box::new(row))
            }
            Ask::Delete => Response::Deleted(error),
            Ask::ConsumerHeartbeat(_) => refuse_beat(error, None),
            Ask::DescribeConsumers => {
                let mut row = DescribedConsumers::default();
                row.group_id = (&**group).into();
                row.error_code = error.code();
                Response::ConsumersDescribed(Box::new(row))
            }
        }
    }
}

impl Response {
    /// Whether a heartbeat or a request of a classic member went well.
    pub(super) fn is_success(&self) -> bool {
        match self {
            Response::Beat(beat) => beat.error_code == 0,
            Response::Joined(join) => join.error_code == 0,
            Response::Synced(sync) => sync.error_code == 0,
            Response::Heartbeat(code) => *code == ErrorCode::None,
            _ => true,
        }
    }

    /// What is answered in place of a success whose records were not committed.
    pub(super) fn fail(&mut self, error: ErrorCode) {
        match self {
            Response::Joined(join) => {
                let Response::Joined(refused) = refuse_join("", error) else { return };
                **join = *refused;
            }
            Response::Synced(sync) => sync.error_code = error.code(),
            Response::Heartbeat(code) | Response::Deleted(code) => *code = error,
            Response::Left(code, rows) | Response::OffsetsDeleted(code, rows) => {
                *code = error;
                rows.clear();
            }
            Response::Committed(rows) => {
                for code in rows.iter_mut().filter(|code| **code == ErrorCode::None) {
                    *code = error;
                }
            }
            Response::Fetched(fetched) => *fetched = Err(error),
            Response::Described(row) => row.error_code = error.code(),
            Response::Beat(beat) => {
                let Response::Beat(refused) = refuse_beat(error, None) else { return };
                **beat = *refused;
            }
            Response::ConsumersDescribed(row) => row.error_code = error.code(),
            Response::Listed(listed) => *listed = Err(error),
        }
    }
}

/// A JoinGroup answer with nothing but an error.
pub(super) fn refuse_join(member_id: &str, error: ErrorCode) -> Response {
    let mut response = JoinGroupResponse::default();
    response.error_code = error.code();
    response.generation_id = -1;
    response.protocol_name = Some("".into());
    response.member_id = member_id.into();
    Response::Joined(Box::new(response))
}

/// A SyncGroup answer with nothing but an error.
pub(super) fn refuse_sync(error: ErrorCode) -> Response {
    let mut response = SyncGroupResponse::default();
    response.error_code = error.code();
    Response::Synced(Box::new(response))
}

/// A ConsumerGroupHeartbeat answer with nothing but an error.
pub(super) fn refuse_beat(error: ErrorCode, message: Option<&str>) -> Response {
    let mut response = ConsumerGroupHeartbeatResponse::default();
    response.error_code = error.code();
    response.error_message = message.map(Into::into);
    Response::Beat(Box::new(response))
}
