//! Requests and their answers, a file for each family.
//!
//! Going down, a request becomes pieces of [`Work`] for the cores that own its
//! partitions, or a command for the controller, and a [`Pending`] answer. Going
//! up, the finished pieces fill the pending answer, which is then encoded in the
//! request's order. What needs neither is answered at once.

pub mod answer;
mod cluster;
mod configs;
mod delete_records;
mod fetch;
mod find_coordinator;
mod groups;
mod list_offsets;
mod log_dirs;
mod metadata;
mod offset_for_leader_epoch;
mod produce;
mod producer_id;
mod session;
mod topic_partitions;
mod topics;

use std::net::IpAddr;
use std::sync::Arc;

pub use self::answer::Answer;
use self::configs::PendingAlter;
use self::delete_records::PendingDeleteRecords;
use self::fetch::PendingFetch;
use self::find_coordinator::PendingCoordinator;
pub use self::groups::Part;
use self::groups::PendingGroup;
use self::list_offsets::PendingListOffsets;
use self::log_dirs::PendingLogDirs;
use self::metadata::PendingMetadata;
use self::offset_for_leader_epoch::PendingEpochEnds;
use self::produce::PendingProduce;
use self::producer_id::PendingProducerId;
pub use self::session::Sessions;
use self::session::Wanted;
use self::topics::{PendingCreate, PendingDelete, PendingPartitions};
use crate::base::pages::PageSlice;
use crate::base::rope::Rope;
use crate::base::time::Now;
use crate::config::{GroupSettings, Settings};
use crate::group;
use crate::metadata::command::{self, Command};
use crate::metadata::image::{Image, Topic};
use crate::model::error_code::ErrorCode;
use crate::model::ids::{CoreId, NodeId, PartitionIndex, TopicPartition};
use crate::replica::work::{FetchItem, FetchOutcome, ProduceItem, ProduceOutcome, Work};
use crate::wire::apis::ApiKey;
use crate::wire::frame::RequestHeader;
use crate::wire::{TopicKey, WireError, api_versions, small};

/// What requests are judged by.
#[derive(Debug)]
pub struct Context {
    /// This broker.
    pub node: NodeId,
    /// The core that takes the request up.
    pub core: CoreId,
    /// The log directory, as it is told.
    pub log_dir: Arc<str>,
    /// Its number of cores.
    pub cores: u16,
    /// What the broker was started with.
    pub settings: Arc<Settings>,
    /// The metadata as this core has applied it.
    pub image: Arc<Image>,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `fetch.max.bytes`.
    pub fetch_max_bytes: usize,
    /// Settings of groups.
    pub groups: GroupSettings,
}

/// What a request came to.
#[derive(Debug)]
pub enum Outcome {
    /// The answer is complete.
    Done,
    /// Pieces for the cores that own the partitions; none of them is empty.
    Work(Pending, Vec<(CoreId, Work)>),
    /// Parts for the coordinators of groups; there is at least one.
    Group(Pending, Vec<Part>),
    /// A change for the controller.
    Command(Pending, Command),
}

/// An answer that waits for work or for the controller.
#[derive(Debug)]
pub enum Pending {
    /// To Produce.
    Produce(PendingProduce),
    /// To Fetch.
    Fetch(PendingFetch),
    /// To ListOffsets.
    ListOffsets(PendingListOffsets),
    /// To DescribeLogDirs.
    LogDirs(PendingLogDirs),
    /// To OffsetForLeaderEpoch.
    EpochEnds(PendingEpochEnds),
    /// To DeleteRecords.
    DeleteRecords(PendingDeleteRecords),
    /// To Metadata that creates topics.
    Metadata(PendingMetadata),
    /// To CreateTopics.
    CreateTopics(PendingCreate),
    /// To CreatePartitions.
    CreatePartitions(PendingPartitions),
    /// To AlterConfigs and IncrementalAlterConfigs.
    AlterConfigs(PendingAlter),
    /// To DeleteTopics.
    DeleteTopics(PendingDelete),
    /// To FindCoordinator that creates `__consumer_offsets`.
    FindCoordinator(PendingCoordinator),
    /// To whatever coordinators of groups answer.
    Group(PendingGroup),
    /// To InitProducerId.
    ProducerId(PendingProducerId),
}

/// Producer ids that this core may give out.
#[derive(Debug, Default)]
pub struct ProducerIds {
    pub(crate) block: std::ops::Range<i64>,
}

/// What a core keeps from request to request: fetch sessions, and tables that
/// serve again.
#[derive(Debug, Default)]
pub struct Pools {
    pub(crate) produce: Vec<Vec<ProduceItem>>,
    pub(crate) fetch: Vec<Vec<FetchItem>>,
    pub(crate) produce_outcomes: Vec<Vec<ProduceOutcome>>,
    pub(crate) fetch_outcomes: Vec<Vec<FetchOutcome>>,
    pub(crate) parts: Vec<Vec<(CoreId, Work)>>,
    wanted: Vec<Vec<Wanted>>,
    /// Of the clients whose connections this core has.
    pub sessions: Sessions,
    /// Empty tables of cores.
    pub cores: Vec<Vec<CoreId>>,
    /// Empty ropes.
    pub ropes: Vec<Rope>,
}

impl Pools {
    /// Nothing kept yet but `sessions`.
    pub fn new(sessions: Sessions) -> Self {
        Self { sessions, ..Self::default() }
    }

    /// Takes back the table of parts of a request. One is out at a time; those of rare
    /// requests are not from here, and must not pile up.
    pub fn give_parts(&mut self, parts: Vec<(CoreId, Work)>) {
        if self.parts.is_empty() {
            self.parts.push(parts);
        }
    }
}

/// Items of a request by the core that works on them, for requests that are rare:
/// produces and fetches gather theirs in tables that are used again.
struct ByCore<I>(Vec<(CoreId, Vec<I>)>);

impl<I> ByCore<I> {
    fn add(&mut self, core: CoreId, item: I) {
        match self.0.iter_mut().find(|(known, _)| *known == core) {
            Some((_, items)) => items.push(item),
            None => self.0.push((core, vec![item])),
        }
    }

    /// A piece of work for each core that has items.
    fn work(self, work: impl Fn(Vec<I>) -> Work) -> Vec<(CoreId, Work)> {
        self.0.into_iter().map(|(core, items)| (core, work(items))).collect()
    }
}

/// Takes up the request in `frame` (without its length).
///
/// # Errors
/// The connection has to be closed: the bytes are no request, or one that is
/// not served.
pub fn request(
    context: &Context,
    now: Now,
    peer: IpAddr,
    frame: &PageSlice,
    ids: &mut ProducerIds,
    pools: &mut Pools,
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let (header, body_at) = RequestHeader::decode(frame)?;
    let (version, correlation_id) = (header.api_version, header.correlation_id);
    if header.is_api_versions() {
        versions(context, &header, &frame[body_at..], answer)?;
        return Ok(Outcome::Done);
    }
    let api = header.api()?;
    let body = frame.slice(body_at..frame.len());
    let client_id = header.client_id.unwrap_or("");
    let call = Call { context, now, version, correlation_id, client_id, peer };
    match api.key {
        ApiKey::Produce => produce::request(&call, body, pools, answer),
        ApiKey::Fetch => fetch::request(&call, body, pools, answer),
        ApiKey::ListOffsets => list_offsets::request(&call, &body, answer),
        ApiKey::OffsetForLeaderEpoch => offset_for_leader_epoch::request(&call, &body, answer),
        ApiKey::Metadata => metadata::request(&call, &body, answer),
        ApiKey::FindCoordinator => find_coordinator::request(&call, &body, answer),
        ApiKey::OffsetCommit => groups::commit(&call, &body, answer),
        ApiKey::OffsetFetch => groups::fetch(&call, &body, answer),
        ApiKey::OffsetDelete => groups::delete_offsets(&call, &body, answer),
        ApiKey::JoinGroup => groups::join(&call, &body, answer),
        ApiKey::SyncGroup => groups::sync(&call, &body, answer),
        ApiKey::Heartbeat => groups::heartbeat(&call, &body, answer),
        ApiKey::LeaveGroup => groups::leave(&call, &body, answer),
        ApiKey::ListGroups => groups::list(&call, &body, answer),
        ApiKey::ConsumerGroupHeartbeat => groups::consumer_heartbeat(&call, &body, answer),
        ApiKey::ConsumerGroupDescribe => groups::describe_consumers(&call, &body, answer),
        ApiKey::DescribeGroups => groups::describe(&call, &body, answer),
        ApiKey::DeleteGroups => groups::delete(&call, &body, answer),
        ApiKey::CreateTopics => topics::create(&call, &body),
        ApiKey::CreatePartitions => topics::create_partitions(&call, &body),
        ApiKey::DescribeConfigs => configs::describe(&call, &body, answer),
        ApiKey::AlterConfigs => configs::alter(&call, &body),
        ApiKey::IncrementalAlterConfigs => configs::alter_incrementally(&call, &body),
        ApiKey::ListPartitionReassignments => {
            cluster::list_partition_reassignments(&call, &body, answer).map(|()| Outcome::Done)
        }
        ApiKey::DescribeClientQuotas => {
            cluster::describe_client_quotas(&call, &body, answer).map(|()| Outcome::Done)
        }
        ApiKey::DescribeUserScramCredentials => {
            cluster::describe_scram_credentials(&call, &body, answer).map(|()| Outcome::Done)
        }
        ApiKey::DescribeCluster => cluster::describe(&call, &body, answer).map(|()| Outcome::Done),
        ApiKey::ListConfigResources => {
            cluster::list_config_resources(&call, &body, answer).map(|()| Outcome::Done)
        }
        ApiKey::DescribeTopicPartitions => {
            topic_partitions::request(&call, &body, answer).map(|()| Outcome::Done)
        }
        ApiKey::DeleteTopics => topics::delete(&call, &body),
        ApiKey::DeleteRecords => delete_records::request(&call, &body, answer),
        ApiKey::DescribeLogDirs => log_dirs::request(&call, &body),
        ApiKey::InitProducerId => producer_id::request(&call, &body, ids, answer),
        ApiKey::ApiVersions => unreachable!("answered above, whatever its version"),
    }
}

/// One request being taken up.
pub(crate) struct Call<'a> {
    context: &'a Context,
    now: Now,
    version: i16,
    correlation_id: i32,
    client_id: &'a str,
    peer: IpAddr,
}

/// ApiVersions is answered in any version, so that clients find a common one.
fn versions(
    context: &Context,
    header: &RequestHeader<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<(), WireError> {
    let (version, correlation_id) = (header.api_version, header.correlation_id);
    let out = &mut answer.bytes;
    if !ApiKey::ApiVersions.api().serves(version) {
        api_versions::encode_unsupported_version(out, correlation_id);
        return Ok(());
    }
    let request = api_versions::ApiVersionsRequest::decode(body, version)?;
    let error = if !request.is_valid() {
        ErrorCode::InvalidRequest
    } else if !request.means(&context.image.cluster_id, context.node) {
        ErrorCode::RebootstrapRequired
    } else {
        api_versions::encode_response(out, version, correlation_id);
        return Ok(());
    };
    api_versions::encode_error(out, version, correlation_id, error);
    Ok(())
}

impl Pending {
    /// Takes in a finished piece.
    pub fn fill(&mut self, work: Work, pools: &mut Pools) {
        match (self, work) {
            (Pending::Produce(pending), Work::Produce(work)) => pending.fill(work, pools),
            (Pending::Fetch(pending), Work::Fetch(work)) => pending.fill(work, pools),
            (Pending::ListOffsets(pending), Work::ListOffsets(work)) => pending.fill(work),
            (Pending::EpochEnds(pending), Work::EpochEnds(work)) => pending.fill(work),
            (Pending::DeleteRecords(pending), Work::DeleteRecords(work)) => pending.fill(work),
            (Pending::LogDirs(pending), Work::LogDirs(work)) => pending.fill(work),
            (pending, work) => unreachable!("{pending:?} does not wait for {work:?}"),
        }
    }

    /// Takes in the answer to the part at `place`.
    pub fn fill_group(&mut self, place: u32, response: group::request::Response) {
        match self {
            Pending::Group(pending) => pending.fill(place, response),
            pending => unreachable!("{pending:?} does not wait for {response:?}"),
        }
    }

    /// Whether the answer is good enough without the pieces that are still out.
    pub fn is_enough(&self) -> bool {
        matches!(self, Pending::Fetch(pending) if pending.is_enough())
    }

    /// Encodes the answer once all pieces are in. Nothing is encoded for a
    /// client that expects no answer.
    ///
    /// # Errors
    /// The connection has to be closed: a Produce with acks=0 failed, which is
    /// the only way to say so.
    pub fn respond(
        self,
        context: &Context,
        pools: &mut Pools,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        match self {
            Pending::Produce(pending) => pending.respond(pools, answer),
            Pending::Fetch(pending) => {
                pending.respond(pools, answer);
                Ok(())
            }
            Pending::ListOffsets(pending) => pending.respond(answer),
            Pending::Group(pending) => pending.respond(context, answer),
            Pending::EpochEnds(pending) => pending.respond(answer),
            Pending::DeleteRecords(pending) => pending.respond(answer),
            Pending::LogDirs(pending) => pending.respond(answer),
            other => unreachable!("{other:?} waits for the controller"),
        }
    }

    /// Encodes the answer with what the controller said.
    ///
    /// # Errors
    /// As for [`Pending::respond`].
    pub fn respond_with(
        self,
        context: &Context,
        said: command::Answer,
        ids: &mut ProducerIds,
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        match (self, said) {
            (Pending::Metadata(pending), command::Answer::CreateTopics(outcomes)) => {
                pending.respond(context, &outcomes, answer)
            }
            (Pending::FindCoordinator(pending), command::Answer::CreateTopics(outcomes)) => {
                pending.respond(context, &outcomes, answer)
            }
            (Pending::CreateTopics(pending), command::Answer::CreateTopics(outcomes)) => {
                pending.respond(context, outcomes, answer)
            }
            (Pending::CreatePartitions(pending), command::Answer::CreatePartitions(outcomes)) => {
                pending.respond(outcomes, answer)
            }
            (Pending::AlterConfigs(pending), command::Answer::AlterConfigs(outcomes)) => {
                pending.respond(outcomes, answer)
            }
            (Pending::DeleteTopics(pending), command::Answer::DeleteTopics(outcomes)) => {
                pending.respond(outcomes, answer)
            }
            (Pending::ProducerId(pending), command::Answer::AllocateProducerIds(block)) => {
                pending.respond(block, ids, answer)
            }
            (pending, said) => unreachable!("{pending:?} does not wait for {said:?}"),
        }
    }
}

impl Context {
    /// The topic that a request names.
    pub(crate) fn topic(&self, key: TopicKey<'_>) -> Result<&Arc<Topic>, ErrorCode> {
        match key {
            TopicKey::Name(name) => {
                self.image.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition)
            }
            TopicKey::Id(id) => self.image.topic_by_id(id).ok_or(ErrorCode::UnknownTopicId),
        }
    }

    /// The partition of `topic` and the core of this broker that leads it.
    pub(crate) fn route(
        &self,
        topic: &Topic,
        index: PartitionIndex,
    ) -> Result<(TopicPartition, CoreId), ErrorCode> {
        let partition = topic.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if partition.leader != Some(self.node) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let id = TopicPartition { topic: topic.id, partition: index };
        Ok((id, partition.core_of(self.cores)))
    }
}

/// Encodes a message off the hot path as the whole answer.
fn encode_small<M: small::KafkaResponse>(
    answer: &mut Answer,
    correlation_id: i32,
    version: i16,
    message: &M,
) -> Result<(), WireError> {
    small::encode_response(&mut answer.bytes, correlation_id, version, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_rare_requests_do_not_pile_up() {
        let mut pools = Pools::default();
        for _ in 0..3 {
            pools.give_parts(Vec::with_capacity(4));
        }
        assert_eq!(pools.parts.len(), 1);
        assert!(pools.parts[0].capacity() >= 4, "it serves again");
    }
}
