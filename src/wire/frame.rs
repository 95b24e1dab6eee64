//! Frames and request headers.
//!
//! A frame is a four-byte length and that many bytes: a header, then a body.
//! Its size is judged from its first six bytes, before anything is kept for it
//! ([`frame_len`]); the header tells which decoder gets the body.

use super::apis::{Api, ApiKey};
use super::reader::Reader;
use super::{APIS, WireError};

/// Bytes of a frame's length, which it does not count.
pub const LENGTH_PREFIX: usize = 4;

/// The shortest header: API key, version, correlation id, null client id.
const HEADER_MIN: usize = 10;

/// The header of a request, versions 1 and 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// Number of the API; always one of [`APIS`].
    pub api_key: i16,
    /// Its version; not checked to be served.
    pub api_version: i16,
    /// Repeated in the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<&'a str>,
}

/// Length of the frame that starts with `bytes`, without its prefix, or `None`
/// while too few bytes are there to tell. `request_max` is
/// `socket.request.max.bytes`.
///
/// # Errors
/// A length that is outside what the API may send, or an API that is not served.
pub fn frame_len(bytes: &[u8], request_max: usize) -> Result<Option<usize>, WireError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<LENGTH_PREFIX>() else {
        return Ok(None);
    };
    let announced = i32::from_be_bytes(*prefix);
    let check = |max: usize| match usize::try_from(announced) {
        Ok(len) if (HEADER_MIN..=max).contains(&len) => Ok(len),
        _ => Err(WireError::FrameLength { len: announced.into(), min: HEADER_MIN, max }),
    };
    check(request_max)?;
    let Some(key) = rest.first_chunk::<2>() else {
        return Ok(None);
    };
    let key = i16::from_be_bytes(*key);
    let api = Api::find(key).ok_or(WireError::UnknownApi(key))?;
    check(api.frame_max.unwrap_or(request_max).min(request_max)).map(Some)
}

impl<'a> RequestHeader<'a> {
    /// Reads the header of `frame` (without its prefix); the body starts at the
    /// returned position.
    ///
    /// The version need not be one that is served, so that ApiVersions can be
    /// answered in any: see [`RequestHeader::api`].
    ///
    /// # Errors
    /// An API that is not in the table, or bytes that are no header.
    pub fn decode(frame: &'a [u8]) -> Result<(Self, usize), WireError> {
        let mut reader = Reader::new(frame, false);
        let api_key = reader.i16()?;
        let api_version = reader.i16()?;
        let correlation_id = reader.i32()?;
        let api = Api::find(api_key).ok_or(WireError::UnknownApi(api_key))?;
        // The client id keeps its fixed encoding in every header version.
        let client_id = reader.nullable_string()?;
        let mut body = reader.position();
        if api.is_flexible(api_version) {
            let mut tags = Reader::new(&frame[body..], true);
            tags.skip_tags()?;
            body += tags.position();
        }
        Ok((Self { api_key, api_version, correlation_id, client_id }, body))
    }

    /// The API's row if its version is served. Kafka closes the connection of
    /// who asks for another, unless the API is ApiVersions.
    pub fn api(&self) -> Result<&'static Api, WireError> {
        let api = Api::find(self.api_key).ok_or(WireError::UnknownApi(self.api_key))?;
        api.check_version(self.api_version)?;
        Ok(api)
    }

    /// Whether this is an ApiVersions request, which is answered in any version.
    pub fn is_api_versions(&self) -> bool {
        self.api_key == ApiKey::ApiVersions.code()
    }
}

const _: () = {
    let mut row = 0;
    while row < APIS.len() {
        assert!(APIS[row].min <= APIS[row].served_min && APIS[row].served_min <= APIS[row].max);
        row += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_judged_by_its_first_six_bytes() {
        let start = |len: i32, key: i16| [&len.to_be_bytes()[..], &key.to_be_bytes()].concat();
        let max = 100 << 20;
        assert_eq!(frame_len(&[0, 0, 0], max), Ok(None));
        assert_eq!(frame_len(&start(20, 0)[..5], max), Ok(None));
        assert_eq!(frame_len(&start(20, 0), max), Ok(Some(20)));
        assert_eq!(frame_len(&start(max as i32, 0), max), Ok(Some(max)));
        assert_eq!(frame_len(&start(1 << 20, 3), max), Ok(Some(1 << 20)));
        for (len, key) in [(-1, 0), (9, 0), (max as i32 + 1, 0), (i32::MAX, 0), ((1 << 20) + 1, 3)]
        {
            let error = frame_len(&start(len, key), max).expect_err("refused");
            assert!(matches!(error, WireError::FrameLength { .. }), "{len} {key}");
        }
        assert_eq!(frame_len(&start(20, 4), max), Err(WireError::UnknownApi(4)));
        // HTTP on a Kafka port is refused by the length alone.
        assert!(frame_len(b"GET ", max).is_err());
    }

    #[test]
    fn headers_of_both_versions() {
        // Metadata 8: header version 1.
        let one = b"\0\x03\0\x08\0\0\0\x07\0\x02idBODY";
        let (header, body) = RequestHeader::decode(one).expect("whole");
        assert_eq!(
            header,
            RequestHeader { api_key: 3, api_version: 8, correlation_id: 7, client_id: Some("id") }
        );
        assert_eq!(&one[body..], b"BODY");
        // Metadata 9: header version 2, with an unknown tagged field.
        let two = b"\0\x03\0\x09\0\0\0\x07\xff\xff\x01\x05\x02xyBODY";
        let (header, body) = RequestHeader::decode(two).expect("whole");
        assert_eq!((header.client_id, &two[body..]), (None, &b"BODY"[..]));
        for cut in 0..body {
            assert_eq!(RequestHeader::decode(&two[..cut]), Err(WireError::Truncated), "{cut}");
        }
    }

    #[test]
    fn versions_that_are_not_served_still_have_a_header() {
        let (header, _) =
            RequestHeader::decode(b"\0\x12\0\x63\0\0\0\x01\xff\xff\0").expect("a header");
        assert!(header.is_api_versions());
        assert_eq!(
            header.api(),
            Err(WireError::UnsupportedVersion { api: "ApiVersions", version: 99 })
        );
        let unknown = RequestHeader::decode(b"\0\x04\0\0\0\0\0\x01\xff\xff");
        assert_eq!(unknown, Err(WireError::UnknownApi(4)));
    }
}
