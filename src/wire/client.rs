//! The other direction: requests that are sent and responses that are read.
//!
//! For client commands; also the broker's own APIs are spoken here as any
//! client speaks them. No I/O.

use kafka_wire::{KafkaMessage, OutboundFrameLimits, RequestResponsePair};
use kafka_wire_core::{ApiVersion, Bytes, BytesMut, DecodeLimits, Decoder, StrBytes};

use super::WireError;

pub use kafka_wire::{
    ApiVersionsRequest, ApiVersionsResponse, FetchRequest, FetchResponse, KafkaRequest,
    ProduceRequest, ProduceResponse, fetch_request, fetch_response, produce_request,
    produce_response,
};

/// The frame of a request, its length included.
///
/// # Errors
/// A message that `version` cannot express, or that is longer than 2 GiB.
pub fn encode_request<R: KafkaRequest>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: &str,
) -> Result<BytesMut, WireError> {
    let mut out = BytesMut::new();
    kafka_wire::encode_request(
        &mut out,
        correlation_id,
        Some(StrBytes::from(client_id)),
        request,
        ApiVersion::new(version),
        OutboundFrameLimits::new(i32::MAX as usize),
    )
    .map_err(|error| WireError::Message(error.to_string()))?;
    Ok(out)
}

/// Reads the response to `R` from a frame without its length. What it holds
/// shares the frame's bytes. Bytes after it are passed over, as Kafka's clients
/// do; there are brokers that send some.
///
/// # Errors
/// Another correlation id than the request's, or bytes that do not begin with a
/// response of `version`.
pub fn decode_response<R: RequestResponsePair>(
    frame: Bytes,
    version: i16,
    correlation_id: i32,
) -> Result<R::Response, WireError> {
    let refused = |error: kafka_wire_core::DecodeError| WireError::Message(error.to_string());
    let header_version = kafka_wire::response_header_version_for::<R>(ApiVersion::new(version))
        .map_err(|error| WireError::Message(error.to_string()))?;
    let mut limits = DecodeLimits::default();
    limits.max_frame_bytes = frame.len();
    limits.max_bytes_bytes = frame.len();
    let mut decoder = Decoder::new(frame, limits).map_err(refused)?;
    if decoder.read_i32().map_err(refused)? != correlation_id {
        return Err(WireError::Malformed("the response is to another request"));
    }
    if header_version > 0 {
        decoder.read_tagged_fields().map_err(refused)?;
    }
    <R::Response as kafka_wire_core::KafkaDecode>::decode(&mut decoder, ApiVersion::new(version))
        .map_err(refused)
}

/// The version to speak of `R` with a broker that offers `min..=max`: the
/// highest that both know and `ceiling` allows.
pub fn common_version<R: KafkaRequest>(min: i16, max: i16, ceiling: i16) -> Option<i16> {
    let ours = <R as KafkaMessage>::SUPPORTED_VERSIONS;
    let version = max.min(ceiling).min(ours.max().value());
    (version >= min.max(ours.min().value())).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error_code::ErrorCode;
    use crate::model::ids::PartitionIndex;
    use crate::wire::apis::ApiKey;
    use crate::wire::fetch::{FetchResponseEncoder, PartitionHead, ResponseHead};
    use crate::wire::frame::RequestHeader;
    use crate::wire::produce;
    use crate::wire::{TopicKey, api_versions};

    #[test]
    fn a_request_reads_as_it_was_sent() {
        let mut request = ProduceRequest::default();
        request.acks = -1;
        for version in 3..=13 {
            let frame = encode_request(&request, version, 77, "me").expect("representable");
            let (header, body) = RequestHeader::decode(&frame[4..]).expect("a header");
            assert_eq!((header.correlation_id, header.client_id), (77, Some("me")));
            assert_eq!(header.api().expect("served").key, ApiKey::Produce);
            let read = produce::ProduceRequest::decode(&frame[4 + body..], version);
            assert_eq!(read.expect("a request").acks, -1);
        }
    }

    #[test]
    fn a_response_reads_as_it_was_sent() {
        let mut out = Vec::new();
        api_versions::encode_response(&mut out, 3, 5);
        let frame = Bytes::copy_from_slice(&out[4..]);
        let response = decode_response::<ApiVersionsRequest>(frame.clone(), 3, 5).expect("reads");
        assert_eq!(response.api_keys.len(), crate::wire::APIS.len());
        let other = decode_response::<ApiVersionsRequest>(frame, 3, 6);
        assert!(matches!(other, Err(WireError::Malformed(_))));

        let (mut out, mut cuts) = (Vec::new(), Vec::new());
        let none = ErrorCode::None;
        let head = ResponseHead {
            version: 12,
            correlation_id: 5,
            throttle_time_ms: 0,
            error: none,
            session_id: 0,
            topics: 1,
        };
        let mut encoder = FetchResponseEncoder::begin(&mut out, &mut cuts, &head);
        encoder.topic(TopicKey::Name("t"), 1);
        encoder.partition(&PartitionHead::refused(PartitionIndex(4), none), 0);
        encoder.finish(&[]);
        let frame = Bytes::copy_from_slice(&out[4..]);
        let response = decode_response::<FetchRequest>(frame, 12, 5).expect("reads");
        assert_eq!(response.responses[0].partitions[0].partition_index, 4);
    }

    #[test]
    fn versions_in_common() {
        assert_eq!(common_version::<FetchRequest>(4, 18, 12), Some(12));
        assert_eq!(common_version::<FetchRequest>(0, 11, 12), Some(11));
        assert_eq!(common_version::<FetchRequest>(0, 3, 12), None);
        assert_eq!(common_version::<FetchRequest>(13, 18, 12), None);
    }
}
