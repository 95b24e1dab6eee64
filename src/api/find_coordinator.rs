//! FindCoordinator (KIP-699): the broker that leads a group's partition of
//! `__consumer_offsets`, which is created when it is first asked for.
//!
//! There are no coordinators of transactions yet: a transactional producer gets
//! an error that it does not retry.

use super::{Answer, Call, Context, Outcome, Pending};
use crate::config::topic::COMPACTED;
use crate::group::{OFFSETS_TOPIC, partition_of};
use crate::metadata::command::{Command, CreateOutcome, NewTopic};
use crate::metadata::image::Node;
use crate::model::error_code::ErrorCode;
use crate::wire::WireError;
use crate::wire::small::{
    self, FindCoordinatorRequest, FindCoordinatorResponse, StrBytes, find_coordinator_response,
};

/// First version that asks for several keys.
const MANY: i16 = 4;

/// Key types (`CoordinatorType`).
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// A FindCoordinator answer that waits for the topic to be created.
#[derive(Debug)]
pub struct PendingCoordinator {
    version: i16,
    correlation_id: i32,
    request: FindCoordinatorRequest,
}

/// `__consumer_offsets` as it is created.
pub(super) fn offsets_topic(context: &Context) -> NewTopic {
    let settings = &context.groups;
    let brokers = i16::try_from(context.image.nodes.len()).unwrap_or(i16::MAX);
    let (name, value) = COMPACTED;
    NewTopic {
        name: OFFSETS_TOPIC.to_owned(),
        partitions: settings.topic_partitions,
        replication_factor: settings.topic_replication_factor.min(brokers),
        assignments: vec![],
        configs: vec![
            (name.to_owned(), Some(value.to_owned())),
            ("segment.bytes".to_owned(), Some(settings.topic_segment_bytes.to_string())),
        ],
    }
}

pub(super) fn request(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<Outcome, WireError> {
    let request: FindCoordinatorRequest = small::decode(body, call.version)?;
    let (version, correlation_id) = (call.version, call.correlation_id);
    let context = call.context;
    let missing = request.key_type == GROUP && context.image.topic(OFFSETS_TOPIC).is_none();
    let pending = PendingCoordinator { version, correlation_id, request };
    if missing {
        let topics = vec![offsets_topic(context)];
        let command = Command::CreateTopics { topics, validate_only: false };
        return Ok(Outcome::Command(Pending::FindCoordinator(pending), command));
    }
    pending.respond(context, &[], answer)?;
    Ok(Outcome::Done)
}

impl PendingCoordinator {
    pub(super) fn respond(
        self,
        context: &Context,
        created: &[CreateOutcome],
        answer: &mut Answer,
    ) -> Result<(), WireError> {
        for refusal in created.iter().filter_map(|outcome| outcome.result.as_ref().err()) {
            if refusal.code != ErrorCode::TopicAlreadyExists {
                tracing::warn!("{OFFSETS_TOPIC} cannot be created: {}", refusal.message);
            }
        }
        let mut response = FindCoordinatorResponse::default();
        if self.version < MANY {
            let row = self.row(context, &self.request.key);
            (response.node_id, response.host, response.port) = (row.node_id, row.host, row.port);
            response.error_code = row.error_code;
            if self.version >= 1 {
                response.error_message = row.error_message;
            }
        } else {
            let keys = self.request.coordinator_keys.iter();
            response.coordinators = keys.map(|key| self.row(context, key)).collect();
        }
        super::encode_small(answer, self.correlation_id, self.version, &response)
    }

    fn row(&self, context: &Context, key: &StrBytes) -> find_coordinator_response::Coordinator {
        let mut row = find_coordinator_response::Coordinator::default();
        row.key = key.clone();
        let found = match self.request.key_type {
            GROUP => coordinator(context, key.as_str())
                .ok_or((ErrorCode::CoordinatorNotAvailable, "the coordinator is not available")),
            TRANSACTION => Err((
                ErrorCode::TransactionalIdAuthorizationFailed,
                "transactions are not supported yet",
            )),
            _ => Err((ErrorCode::InvalidRequest, "there are no coordinators of this type")),
        };
        match found {
            Ok(node) => {
                row.node_id = node.id.0;
                row.host = StrBytes::from(&*node.host);
                row.port = node.port.into();
            }
            Err((error, message)) => {
                (row.node_id, row.port) = (-1, -1);
                row.error_code = error.code();
                row.error_message = Some(StrBytes::from(message));
            }
        }
        row
    }
}

/// The broker that coordinates a group.
fn coordinator<'a>(context: &'a Context, group: &str) -> Option<&'a Node> {
    let topic = context.image.topic(OFFSETS_TOPIC)?;
    let partition = topic.partition(partition_of(group, topic.partitions.len() as i32))?;
    context.image.nodes.get(&partition.leader?).map(|node| &**node)
}
