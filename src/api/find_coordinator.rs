//! FindCoordinator (KIP-699): there are no coordinators yet.
//!
//! It is served because librdkafka takes it as the sign of a broker that knows
//! LZ4 and sends uncompressed batches without it (`rdkafka_feature.c`). The
//! answer for a group is Kafka's while it has no coordinator: consumers that
//! assign partitions themselves go on undisturbed. A transactional producer gets
//! an error that it does not retry.

use super::{Answer, Call};
use crate::model::error_code::ErrorCode;
use crate::wire::WireError;
use crate::wire::small::{
    self, FindCoordinatorRequest, FindCoordinatorResponse, StrBytes, find_coordinator_response,
};

const MESSAGE: &str = "consumer groups and transactions are not supported yet";

/// First version that asks for several keys.
const MANY: i16 = 4;

/// The key type of transactional ids (`CoordinatorType.TRANSACTION`).
const TRANSACTION: i8 = 1;

pub(super) fn request(call: &Call<'_>, body: &[u8], answer: &mut Answer) -> Result<(), WireError> {
    let request: FindCoordinatorRequest = small::decode(body, call.version)?;
    tracing::debug!("a client asks for a coordinator: {MESSAGE}");
    let code = match request.key_type {
        TRANSACTION => ErrorCode::TransactionalIdAuthorizationFailed.code(),
        _ => ErrorCode::CoordinatorNotAvailable.code(),
    };
    let message = StrBytes::from(MESSAGE);
    let mut response = FindCoordinatorResponse::default();
    if call.version < MANY {
        response.node_id = -1;
        response.port = -1;
        response.error_code = code;
        if call.version >= 1 {
            response.error_message = Some(message);
        }
    } else {
        let refused = request.coordinator_keys.into_iter().map(|key| {
            let mut row = find_coordinator_response::Coordinator::default();
            row.key = key;
            row.node_id = -1;
            row.port = -1;
            row.error_code = code;
            row.error_message = Some(message.clone());
            row
        });
        response.coordinators = refused.collect();
    }
    super::encode_small(answer, call.correlation_id, call.version, &response)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::Context;
    use crate::base::time::Now;
    use crate::config::{Machine, Settings};
    use crate::metadata::image::Image;
    use crate::model::ids::NodeId;
    use crate::wire::apis::ApiKey;
    use crate::wire::client::{decode_response, encode_request};
    use crate::wire::frame::RequestHeader;
    use crate::wire::small::Bytes;

    #[test]
    fn every_version_is_told_that_there_is_none() {
        let machine = Machine { cores: 1, memory_bytes: 1 << 30, hostname: "box".to_owned() };
        let settings = Settings::resolve(&[], &machine).expect("the defaults are good").0;
        let context = Context {
            node: NodeId(1),
            cores: 1,
            settings: Arc::new(settings),
            image: Arc::new(Image::empty("c".into(), NodeId(1))),
            auto_create_topics: true,
            fetch_max_bytes: 1,
        };
        let api = ApiKey::FindCoordinator.api();
        let group = (0, ErrorCode::CoordinatorNotAvailable);
        let transaction = (TRANSACTION, ErrorCode::TransactionalIdAuthorizationFailed);
        let cases =
            (api.min..=api.max).flat_map(|version| [(version, group), (version, transaction)]);
        // Version 0 knows groups only.
        for (version, (key_type, error)) in cases.filter(|case| case.0 > 0 || case.1 == group) {
            let mut request = FindCoordinatorRequest::default();
            request.key_type = key_type;
            if version < MANY {
                request.key = StrBytes::from("g");
            } else {
                request.coordinator_keys = vec![StrBytes::from("g"), StrBytes::from("h")];
            }
            let frame = encode_request(&request, version, 7, "me").expect("representable");
            let (_, body) = RequestHeader::decode(&frame[4..]).expect("a header");
            let call = Call { context: &context, now: Now::default(), version, correlation_id: 7 };
            let mut answer = Answer::default();
            super::request(&call, &frame[4 + body..], &mut answer).expect("answered");
            let bytes = Bytes::copy_from_slice(&answer.bytes[4..]);
            let response =
                decode_response::<FindCoordinatorRequest>(bytes, version, 7).expect("a response");
            let codes: Vec<i16> = match version {
                ..MANY => vec![response.error_code],
                _ => response.coordinators.iter().map(|row| row.error_code).collect(),
            };
            assert!(codes.iter().all(|code| *code == error.code()), "version {version}");
            assert_eq!(codes.len(), if version < MANY { 1 } else { 2 });
        }
    }
}
