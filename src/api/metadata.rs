//! Metadata: brokers, topics, leaders; unknown topics are created if both sides
//! allow it (`auto.create.topics.enable`).
//!
//! Kafka answers UNKNOWN_TOPIC_OR_PARTITION while it creates a topic and lets
//! the client ask again; here the answer waits until every core knows the topic.

use std::sync::Arc;

use super::cluster::{CLUSTER_OPERATIONS, TOPIC_OPERATIONS};
use super::find_coordinator::offsets_topic;
use super::{Answer, Call, Context, Outcome, Pending};
use crate::group::OFFSETS_TOPIC;
use crate::metadata::command::{Command, CreateOutcome, NewTopic};
use crate::metadata::image::Topic;
use crate::model::error_code::ErrorCode;
use crate::model::ids::topic_name_error;
use crate::wire::WireError;
use crate::wire::small::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::wire::small::{
    self, MetadataRequest, MetadataResponse, StrBytes, Uuid, metadata_request,
};

/// First version that asks for topics by id (`KafkaApis.handleTopicMetadataRequest`).
const BY_ID: i16 = 12;

/// A Metadata answer that waits for topics to be created.
#[derive(Debug)]
pub struct PendingMetadata {
    version: i16,
    correlation_id: i32,
    request: MetadataRequest,
}

pub(super) fn request(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: MetadataRequest = small::decode(body, call.version)?;
    let context = call.context;
    let creates = context.auto_create_topics && request.allow_auto_topic_creation;
    let mut topics: Vec<NewTopic> = vec![];
    for name in request.topics.iter().flatten().filter_map(|topic| topic.name.as_ref()) {
        let name = name.as_str();
        let unknown = context.image.topic(name).is_none() && topic_name_error(name).is_none();
        if creates && unknown && topics.iter().all(|topic| topic.name != name) {
            let internal = name == OFFSETS_TOPIC;
            topics.push(if internal {
                offsets_topic(context)
            } else {
                NewTopic {
                    name: name.to_owned(),
                    partitions: -1,
                    replication_factor: -1,
                    assignments: vec![],
                    configs: vec![],
                }
            });
        }
    }
    let (version, correlation_id) = (call.version, call.correlation_id);
    let pending = PendingMetadata { version, correlation_id, request };
    if topics.is_empty() {
        pending.respond(context, &[], answer)?;
        return Ok(Outcome::Done);
    }
    let command = Command::CreateTopics { topics, validate_only: false };
    Ok(Outcome::Command(Pending::Metadata(pending), command))
}

impl PendingMetadata {
    pub(super) fn respond(
        self,
        context: &Context,
        created: &[CreateOutcome],
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        let image = &context.image;
        let mut response = MetadataResponse::default();
        for node in image.nodes.values() {
            let mut broker = MetadataResponseBroker::default();
            broker.node_id = node.id.0;
            broker.host = StrBytes::from(&*node.host);
            broker.port = i32::from(node.port);
            response.brokers.push(broker);
        }
        response.cluster_id = Some(StrBytes::from(&*image.cluster_id));
        response.controller_id = image.controller.0;
        // Version 0 asks for all topics with an empty list, later ones with null.
        let all = match &self.request.topics {
            None => true,
            Some(topics) => self.version == 0 && topics.is_empty(),
        };
        if all {
            response.topics = image.topics().map(describe).collect();
        } else {
            let named = self.request.topics.iter().flatten();
            let look_up = |topic| look_up(context, self.version, topic, created);
            response.topics = named.map(look_up).collect();
        }
        if self.request.include_cluster_authorized_operations {
            response.cluster_authorized_operations = CLUSTER_OPERATIONS;
        }
        if self.request.include_topic_authorized_operations {
            for topic in &mut response.topics {
                topic.topic_authorized_operations = TOPIC_OPERATIONS;
            }
        }
        super::encode_small(answer, self.correlation_id, self.version, &response)
    }
}

/// The row of one topic that was asked for.
fn look_up(
    context: &Context,
    version: i16,
    asked: &metadata_request::MetadataRequestTopic,
    created: &[CreateOutcome],
) -> MetadataResponseTopic {
    let mut row = MetadataResponseTopic::default();
    row.name = asked.name.clone();
    row.topic_id = asked.topic_id;
    let error = match &asked.name {
        // Kafka takes no ids before version 12, though the schema has them.
        _ if version < BY_ID && asked.topic_id != Uuid::default() => ErrorCode::InvalidRequest,
        None if version < BY_ID => ErrorCode::InvalidRequest,
        Some(name) => {
            if let Some(topic) = context.image.topic(name.as_str()) {
                return describe(topic);
            }
            let refused = created
                .iter()
                .find(|outcome| outcome.name == name.as_str())
                .and_then(|outcome| outcome.result.as_ref().err());
            match refused {
                // Another client was faster, and the news has not arrived here.
                Some(refusal) if refusal.code == ErrorCode::TopicAlreadyExists => {
                    ErrorCode::LeaderNotAvailable
                }
                Some(refusal) => refusal.code,
                None if topic_name_error(name.as_str()).is_some() => {
                    ErrorCode::InvalidTopicException
                }
                None => ErrorCode::UnknownTopicOrPartition,
            }
        }
        None if asked.topic_id == Uuid::default() => ErrorCode::InvalidRequest,
        None => match context.image.topic_by_id(small::topic_id(asked.topic_id)) {
            Some(topic) => return describe(topic),
            None => ErrorCode::UnknownTopicId,
        },
    };
    if version < BY_ID {
        // What has no name cannot say so yet (MetadataRequest.getErrorResponse).
        row.name.get_or_insert_default();
    }
    row.error_code = error.code();
    row
}

fn describe(topic: &Arc<Topic>) -> MetadataResponseTopic {
    let mut row = MetadataResponseTopic::default();
    row.name = Some(StrBytes::from(&*topic.name));
    row.topic_id = small::uuid(topic.id);
    row.is_internal = topic.is_internal();
    for (index, partition) in (0..).zip(&topic.partitions) {
        let mut cell = MetadataResponsePartition::default();
        cell.partition_index = index;
        cell.leader_id = partition.leader.map_or(-1, |leader| leader.0);
        cell.leader_epoch = partition.leader_epoch.0;
        cell.replica_nodes = partition.replicas.iter().map(|node| node.0).collect();
        cell.isr_nodes = partition.isr.iter().map(|node| node.0).collect();
        if partition.leader.is_none() {
            cell.error_code = ErrorCode::LeaderNotAvailable.code();
        }
        row.partitions.push(cell);
    }
    row
}
