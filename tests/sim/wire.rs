//! Requests as bytes and answers from bytes, with the schemas that are
//! generated from Kafka's own.

use kafka_wire::{KafkaMessage, KafkaRequest};
use kafka_wire_core::{ApiVersion, Bytes, BytesMut, DecodeLimits};

use corelane::wire::apis::Api;
use corelane::wire::small::decode_within;

/// A request's frame.
pub fn request<M: KafkaRequest>(message: &M, version: i16, correlation_id: i32) -> Vec<u8> {
    let api = Api::find(M::API_KEY.value()).expect("the broker serves it");
    let mut body = BytesMut::new();
    message.encode_into(&mut body, ApiVersion::new(version)).expect("a message of its version");
    let mut frame = vec![0; 4];
    frame.extend_from_slice(&api.key.code().to_be_bytes());
    frame.extend_from_slice(&version.to_be_bytes());
    frame.extend_from_slice(&correlation_id.to_be_bytes());
    frame.extend_from_slice(&3_i16.to_be_bytes());
    frame.extend_from_slice(b"sim");
    if api.is_flexible(version) {
        frame.push(0);
    }
    frame.extend_from_slice(&body);
    let len = (frame.len() - 4) as i32;
    frame[..4].copy_from_slice(&len.to_be_bytes());
    frame
}

/// Takes the first whole frame off `buffer`.
pub fn take_frame(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let len = i32::from_be_bytes(*buffer.first_chunk()?);
    let len = usize::try_from(len).expect("an answer has a length") + 4;
    if buffer.len() < len {
        return None;
    }
    let frame = buffer[4..len].to_vec();
    buffer.drain(..len);
    Some(frame)
}

/// The correlation id of an answer.
pub fn correlation_id(frame: &[u8]) -> i32 {
    i32::from_be_bytes(*frame.first_chunk().expect("an answer has a header"))
}

/// An answer's message.
pub fn answer<M: KafkaMessage>(frame: Vec<u8>, api: &Api, version: i16) -> M {
    let header = 4 + usize::from(api.has_tagged_response_header(version));
    let mut limits = DecodeLimits::default();
    limits.max_frame_bytes = 64 << 20;
    limits.max_bytes_bytes = 64 << 20;
    decode_within(Bytes::from(frame).slice(header..), version, limits)
        .unwrap_or_else(|error| panic!("an answer of {} {version}: {error}", api.name))
}
