//! Messages off the hot path: the `kafka-wire` crate's types, with our frames
//! and limits around them.
//!
//! `kafka-wire` is strict by version: encoding fails if a field is set that the
//! version does not have and Kafka does not declare ignorable. Its strings are
//! slices of the whole body: copy what is stored. Its structs are
//! `#[non_exhaustive]`: change a default.

use kafka_wire::KafkaMessage;
use kafka_wire_core::{ApiVersion, Decoder};

use super::WireError;
use super::apis::Api;
use crate::base::limits::SMALL_FRAME_MAX;
use crate::model::ids::TopicId;

pub use kafka_wire::{
    AlterConfigsRequest, AlterConfigsResponse, CreatePartitionsRequest, CreatePartitionsResponse,
    CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeClientQuotasRequest,
    DescribeClientQuotasResponse, DescribeClusterRequest, DescribeClusterResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, DescribeLogDirsRequest,
    DescribeLogDirsResponse, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, InitProducerIdRequest, InitProducerIdResponse, KafkaRequest,
    KafkaResponse, ListConfigResourcesRequest, ListConfigResourcesResponse, ListOffsetsRequest,
    ListOffsetsResponse, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
    MetadataRequest, MetadataResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
    alter_configs_response, create_partitions_request, create_partitions_response,
    create_topics_request, create_topics_response, delete_records_request, delete_records_response,
    delete_topics_request, delete_topics_response, describe_cluster_response,
    describe_configs_request, describe_configs_response, describe_log_dirs_response,
    describe_topic_partitions_response, describe_user_scram_credentials_response,
    find_coordinator_response, incremental_alter_configs_request,
    incremental_alter_configs_response, list_config_resources_response, list_offsets_request,
    list_offsets_response, metadata_request, metadata_response, offset_for_leader_epoch_response,
};
pub use kafka_wire_core::{Bytes, BytesMut, DecodeLimits, StrBytes, Uuid};

/// Elements one array of a small message may have: with the smallest element
/// on the wire, what a body grows to in memory stays within [`GROWTH_MAX`].
pub const ARRAY_MAX: usize = 20_000;

/// Most that a decoded message takes, as a multiple of [`SMALL_FRAME_MAX`].
pub const GROWTH_MAX: usize = 24;

/// The limits for what a client sends off the hot path.
pub fn request_limits() -> DecodeLimits {
    let mut limits = DecodeLimits::default();
    limits.max_frame_bytes = SMALL_FRAME_MAX;
    limits.max_string_bytes = i16::MAX as usize;
    limits.max_bytes_bytes = SMALL_FRAME_MAX;
    limits.max_array_elements = ARRAY_MAX;
    limits.max_tagged_fields = 16;
    limits.max_tag_bytes = 4096;
    limits.max_total_tag_bytes = 4096;
    limits
}

/// Decodes a request's body, everything after its header. The body is copied.
///
/// Bytes after the message are passed over, as Kafka does: librdkafka (2.12 and
/// 2.16 among others) ends its request for the metadata of all topics, versions
/// 9 and later, with three of them.
///
/// # Errors
/// A body that does not begin with an `M` of `version`, or is over the limits.
pub fn decode<M: KafkaMessage>(body: &[u8], version: i16) -> Result<M, WireError> {
    decode_within(Bytes::copy_from_slice(body), version, request_limits())
}

/// As [`decode`] for bytes that are shared, under other limits: what a client
/// command receives.
pub fn decode_within<M: KafkaMessage>(
    body: Bytes,
    version: i16,
    limits: DecodeLimits,
) -> Result<M, WireError> {
    let refused = |error: kafka_wire_core::DecodeError| WireError::Message(error.to_string());
    let mut decoder = Decoder::new(body, limits).map_err(refused)?;
    M::decode(&mut decoder, ApiVersion::new(version)).map_err(refused)
}

/// Appends a response with its frame length and header; on an error `out` is as
/// it was.
///
/// # Errors
/// A message that `version` cannot express: a programming error, which costs
/// one response and not the broker.
pub fn encode_response<M: KafkaResponse>(
    out: &mut Vec<u8>,
    correlation_id: i32,
    version: i16,
    message: &M,
) -> Result<(), WireError> {
    let key = M::API_KEY.value();
    let api = Api::find(key).ok_or(WireError::UnknownApi(key))?;
    let mut body = BytesMut::new();
    message
        .encode_into(&mut body, ApiVersion::new(version))
        .map_err(|error| WireError::Message(error.to_string()))?;
    let tagged_header = api.has_tagged_response_header(version);
    let len = 4 + usize::from(tagged_header) + body.len();
    let len = i32::try_from(len)
        .map_err(|_| WireError::Malformed("the response is longer than 2 GiB"))?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&correlation_id.to_be_bytes());
    if tagged_header {
        out.push(0);
    }
    out.extend_from_slice(&body);
    Ok(())
}

/// A topic id as `kafka-wire` has it.
pub fn uuid(id: TopicId) -> Uuid {
    Uuid::from_bytes(id.0)
}

/// `kafka-wire`'s id as a topic id.
pub fn topic_id(uuid: Uuid) -> TopicId {
    TopicId(uuid.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_after_a_request_are_passed_over() {
        // What librdkafka sends for the metadata of all topics: four bytes of
        // zeros where one is the null array, then the two flags and no tags.
        for version in 9..=13 {
            let all: MetadataRequest =
                decode(&[0, 0, 0, 0, 1, 0, 0], version).expect("a request and some more");
            assert!(all.topics.is_none());
        }
        assert!(decode::<MetadataRequest>(&[0, 0], 9).is_err());
    }
}
