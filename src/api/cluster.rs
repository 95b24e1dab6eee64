//! What admin clients ask of a whole cluster: DescribeCluster (KIP-700,
//! KIP-919), ListConfigResources (KIP-1142), and, for Kafka's own tools, the true
//! answers about what there is none of: reassignments, client quotas, SCRAM
//! credentials.

use super::{Answer, Call};
use crate::metadata::command::ResourceType;
use crate::model::error_code::ErrorCode;
use crate::wire::WireError;
use crate::wire::small::{
    self, DescribeClientQuotasRequest, DescribeClientQuotasResponse, DescribeClusterRequest,
    DescribeClusterResponse, DescribeUserScramCredentialsRequest,
    DescribeUserScramCredentialsResponse, ListConfigResourcesRequest, ListConfigResourcesResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, StrBytes,
    describe_cluster_response, describe_user_scram_credentials_response,
    list_config_resources_response,
};

// `AclOperation`: as bits, all that can be done when nobody is refused anything
// (`AclEntry.supportedOperations`).
const CREATE: i32 = 1 << 5;
const ALTER: i32 = 1 << 7;
const DESCRIBE: i32 = 1 << 8;
const CLUSTER_ACTION: i32 = 1 << 9;
const DESCRIBE_CONFIGS: i32 = 1 << 10;
const ALTER_CONFIGS: i32 = 1 << 11;
const IDEMPOTENT_WRITE: i32 = 1 << 12;

/// What may be done to the cluster.
pub(super) const CLUSTER_OPERATIONS: i32 = CREATE
    | ALTER
    | DESCRIBE
    | CLUSTER_ACTION
    | DESCRIBE_CONFIGS
    | ALTER_CONFIGS
    | IDEMPOTENT_WRITE;

/// What may be done to a topic: READ, WRITE and DELETE too.
pub(super) const TOPIC_OPERATIONS: i32 =
    1 << 3 | 1 << 4 | CREATE | 1 << 6 | ALTER | DESCRIBE | DESCRIBE_CONFIGS | ALTER_CONFIGS;

// `EndpointType`.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub(super) fn describe(call: &Call<'_>, body: &[u8], answer: &mut Answer) -> Result<(), WireError> {
    let request: DescribeClusterRequest = small::decode(body, call.version)?;
    let image = &call.context.image;
    let mut response = DescribeClusterResponse::default();
    let refused = match request.endpoint_type {
        BROKERS => None,
        CONTROLLERS => Some((
            ErrorCode::MismatchedEndpointType,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of \
             type CONTROLLER"
                .to_owned(),
        )),
        other => {
            Some((ErrorCode::UnsupportedEndpointType, format!("Unsupported endpoint type {other}")))
        }
    };
    if let Some((code, message)) = refused {
        response.error_code = code.code();
        response.error_message = Some(message.into());
        return super::encode_small(answer, call.correlation_id, call.version, &response);
    }
    response.endpoint_type = BROKERS;
    response.cluster_id = StrBytes::from(&*image.cluster_id);
    response.controller_id = image.controller.0;
    response.brokers = image
        .nodes
        .values()
        .map(|node| {
            let mut row = describe_cluster_response::DescribeClusterBroker::default();
            row.broker_id = node.id.0;
            row.host = StrBytes::from(&*node.host);
            row.port = i32::from(node.port);
            row
        })
        .collect();
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    super::encode_small(answer, call.correlation_id, call.version, &response)
}

/// First version that lists more than subscriptions of client metrics.
const ANY_RESOURCE: i16 = 1;

/// Loggers and subscriptions of client metrics may be asked for: none of them has
/// settings here.
const LISTABLE: [ResourceType; 5] = [
    ResourceType::TOPIC,
    ResourceType::BROKER,
    ResourceType::BROKER_LOGGER,
    ResourceType::CLIENT_METRICS,
    ResourceType::GROUP,
];

pub(super) fn list_config_resources(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<(), WireError> {
    let request: ListConfigResourcesRequest = small::decode(body, call.version)?;
    let image = &call.context.image;
    let mut response = ListConfigResourcesResponse::default();
    let asked = &request.resource_types;
    if asked.iter().any(|kind| !LISTABLE.contains(&ResourceType(*kind))) {
        response.error_code = ErrorCode::UnsupportedVersion.code();
        return super::encode_small(answer, call.correlation_id, call.version, &response);
    }
    let wanted = |kind: ResourceType| {
        call.version >= ANY_RESOURCE && (asked.is_empty() || asked.contains(&kind.0))
    };
    let row = |kind: ResourceType, name: StrBytes| {
        let mut row = list_config_resources_response::ConfigResource::default();
        row.resource_type = kind.0;
        row.resource_name = name;
        row
    };
    if wanted(ResourceType::TOPIC) {
        let topics = image.topics().map(|topic| StrBytes::from(&*topic.name));
        response.config_resources.extend(topics.map(|name| row(ResourceType::TOPIC, name)));
    }
    if wanted(ResourceType::BROKER) {
        let brokers = image.nodes.keys().map(|id| StrBytes::from(id.to_string()));
        response.config_resources.extend(brokers.map(|name| row(ResourceType::BROKER, name)));
    }
    if wanted(ResourceType::GROUP) {
        let groups = image.group_configs.keys().map(|group| StrBytes::from(&**group));
        response.config_resources.extend(groups.map(|name| row(ResourceType::GROUP, name)));
    }
    super::encode_small(answer, call.correlation_id, call.version, &response)
}

/// Partitions never move, so none is on its way.
pub(super) fn list_partition_reassignments(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<(), WireError> {
    let _: ListPartitionReassignmentsRequest = small::decode(body, call.version)?;
    let response = ListPartitionReassignmentsResponse::default();
    super::encode_small(answer, call.correlation_id, call.version, &response)
}

/// Nobody has a quota.
pub(super) fn describe_client_quotas(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<(), WireError> {
    let _: DescribeClientQuotasRequest = small::decode(body, call.version)?;
    let mut response = DescribeClientQuotasResponse::default();
    response.entries = Some(vec![]);
    super::encode_small(answer, call.correlation_id, call.version, &response)
}

/// Nobody has SCRAM credentials.
pub(super) fn describe_scram_credentials(
    call: &Call<'_>,
    body: &[u8],
    answer: &mut Answer,
) -> Result<(), WireError> {
    let request: DescribeUserScramCredentialsRequest = small::decode(body, call.version)?;
    let mut response = DescribeUserScramCredentialsResponse::default();
    for user in request.users.unwrap_or_default() {
        let message = format!(
            "Attempt to describe a user credential that does not exist: {}",
            user.name.as_str()
        );
        let mut row =
            describe_user_scram_credentials_response::DescribeUserScramCredentialsResult::default();
        row.user = user.name;
        row.error_code = ErrorCode::ResourceNotFound.code();
        row.error_message = Some(message.into());
        response.results.push(row);
    }
    super::encode_small(answer, call.correlation_id, call.version, &response)
}
