//! ApiVersions, versions 0 to 5 (`ApiVersionsRequest.json`,
//! `ApiVersionsResponse.json`, KIP-511).
//!
//! The first request of a client, sent before it knows what the broker speaks:
//! the response header is always version 0, and a version that is not served is
//! answered with UNSUPPORTED_VERSION in version 0. No features are announced.

use super::WireError;
use super::apis::{APIS, Api, ApiKey};
use super::reader::Reader;
use super::writer::Writer;
use crate::model::error_code::ErrorCode;
use crate::model::ids::NodeId;

/// A checked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiVersionsRequest<'a> {
    /// The client library; empty before version 3.
    pub client_software_name: &'a str,
    /// Its version; empty before version 3.
    pub client_software_version: &'a str,
    /// The cluster that the client means to speak to, if it knows; from version 5 on.
    pub cluster_id: Option<&'a str>,
    /// The broker that it means, -1 if it does not know; from version 5 on.
    pub node_id: NodeId,
    version: i16,
}

impl<'a> ApiVersionsRequest<'a> {
    /// Checks the whole of `body`, everything after the request header. Bytes after
    /// the request are passed over, as Kafka does.
    ///
    /// # Errors
    /// A version that is not served, or bytes that do not begin with a request.
    pub fn decode(body: &'a [u8], version: i16) -> Result<Self, WireError> {
        let api = ApiKey::ApiVersions.api();
        api.check_version(version)?;
        let mut reader = Reader::new(body, api.is_flexible(version));
        let (name, software) =
            if version >= 3 { (reader.string()?, reader.string()?) } else { ("", "") };
        let (cluster_id, node_id) =
            if version >= 5 { (reader.nullable_string()?, reader.i32()?) } else { (None, -1) };
        reader.skip_tags()?;
        Ok(Self {
            client_software_name: name,
            client_software_version: software,
            cluster_id,
            node_id: NodeId(node_id),
            version,
        })
    }

    /// Whether this broker is the one that the client means to speak to; if it is
    /// not, the client is told REBOOTSTRAP_REQUIRED. What the client or the
    /// broker does not know yet is not compared.
    pub fn means(&self, cluster_id: &str, node: NodeId) -> bool {
        let Some(wanted) = self.cluster_id.filter(|_| !cluster_id.is_empty()) else { return true };
        wanted == cluster_id && (self.node_id.0 < 0 || self.node_id == node)
    }

    /// Whether the client names itself as Kafka demands
    /// (`ApiVersionsRequest.isValid`); otherwise the answer is INVALID_REQUEST.
    pub fn is_valid(&self) -> bool {
        self.version < 3
            || [self.client_software_name, self.client_software_version]
                .into_iter()
                .all(is_software_name)
    }
}

/// Kafka's `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`.
fn is_software_name(name: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(byte))
}

/// Appends the response that lists every API in [`APIS`].
pub fn encode_response(out: &mut Vec<u8>, version: i16, correlation_id: i32) {
    encode(out, version, correlation_id, ErrorCode::None, APIS);
}

/// Appends a response that carries only `error`.
pub fn encode_error(out: &mut Vec<u8>, version: i16, correlation_id: i32, error: ErrorCode) {
    encode(out, version, correlation_id, error, &[]);
}

/// Appends the response to a version that is not served: UNSUPPORTED_VERSION in
/// version 0, with the row of ApiVersions, so that the client can ask again.
pub fn encode_unsupported_version(out: &mut Vec<u8>, correlation_id: i32) {
    let row = [*ApiKey::ApiVersions.api()];
    encode(out, 0, correlation_id, ErrorCode::UnsupportedVersion, &row);
}

fn encode(out: &mut Vec<u8>, version: i16, correlation_id: i32, error: ErrorCode, apis: &[Api]) {
    let api = ApiKey::ApiVersions.api();
    let header = api.has_tagged_response_header(version);
    let mut writer = Writer::begin(out, correlation_id, api.is_flexible(version), header);
    writer.i16(error.code());
    writer.len(Some(apis.len()));
    for api in apis {
        writer.i16(api.key.code());
        writer.i16(api.min);
        writer.i16(api.max);
        writer.no_tags();
    }
    if version >= 1 {
        writer.i32(0); // Throttle time.
    }
    writer.no_tags(); // No features, and so no epoch of theirs.
    writer.end(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names() {
        for good in ["a", "apache-kafka-java", "2.15.0", "librdkafka", "3.9.0-rc1", "A..b"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", ".", "a b", "a_b", "ä", "a\0"] {
            assert!(!is_software_name(bad), "{bad}");
        }
        let request = ApiVersionsRequest::decode(b"\x04a b\x021\0", 3).expect("the form is right");
        assert!(!request.is_valid());
        assert!(ApiVersionsRequest::decode(b"", 2).expect("empty body").is_valid());
    }

    #[test]
    fn the_answer_to_an_unknown_version_is_version_zero() {
        let mut out = Vec::new();
        encode_unsupported_version(&mut out, 0x0102_0304);
        assert_eq!(
            out,
            [
                0, 0, 0, 16, // length
                1, 2, 3, 4, // correlation id
                0, 35, // UNSUPPORTED_VERSION
                0, 0, 0, 1, // one row
                0, 18, 0, 0, 0, 5, // ApiVersions 0 to 5
            ]
        );
    }

    #[test]
    fn a_client_that_means_another_broker_is_told() {
        let table = [
            (&b"\x02a\x021\0\0\0\0\x07\0"[..], true), // No cluster: nothing is compared.
            (b"\x02a\x021\x02c\0\0\0\x01\0", true),
            (b"\x02a\x021\x02c\xff\xff\xff\xff\0", true),
            (b"\x02a\x021\x02c\0\0\0\x02\0", false),
            (b"\x02a\x021\x02d\0\0\0\x01\0", false),
        ];
        for (body, means) in table {
            let request = ApiVersionsRequest::decode(body, 5).expect("a request");
            assert_eq!(request.means("c", NodeId(1)), means, "{request:?}");
            assert!(request.means("", NodeId(1)), "a broker that knows nothing yet");
        }
    }

    #[test]
    fn an_error_has_no_rows() {
        let mut out = Vec::new();
        encode_error(&mut out, 3, 5, ErrorCode::InvalidRequest);
        assert_eq!(out, [0, 0, 0, 12, 0, 0, 0, 5, 0, 42, 1, 0, 0, 0, 0, 0]);
    }
}
