//! Appends Kafka's primitive types to a response, in the fixed and the flexible
//! (KIP-482) encodings, within a frame whose length is set at the end.

use super::TopicKey;
use crate::model::ids::NodeId;

/// A response under construction at the end of a buffer.
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    flexible: bool,
}

/// Where a broker is reached, for responses that name a new leader (KIP-951).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEndpoint<'a> {
    /// `node.id`.
    pub id: NodeId,
    /// Advertised host.
    pub host: &'a str,
    /// Advertised port.
    pub port: u16,
}

impl<'o> Writer<'o> {
    /// Starts a frame with a response header; `flexible` goes for the body,
    /// `tagged_header` for the header (version 1).
    pub fn begin(
        out: &'o mut Vec<u8>,
        correlation_id: i32,
        flexible: bool,
        tagged_header: bool,
    ) -> Self {
        let start = out.len();
        let mut writer = Self { out, start, flexible };
        writer.i32(0);
        writer.i32(correlation_id);
        if tagged_header {
            writer.u8(0);
        }
        writer
    }

    /// Sets the frame's length, which also counts `elsewhere` bytes that are
    /// sent between those written here.
    ///
    /// # Panics
    /// If the frame is longer than 2 GiB.
    pub fn end(self, elsewhere: usize) {
        let len = self.out.len() - self.start - 4 + elsewhere;
        let len = i32::try_from(len).expect("a response is shorter than 2 GiB");
        self.out[self.start..self.start + 4].copy_from_slice(&len.to_be_bytes());
    }

    /// Bytes in the buffer, whatever was in it before included.
    pub fn position(&self) -> usize {
        self.out.len()
    }

    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub fn i16(&mut self, value: i16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    /// The length of an array, or of bytes with a four-byte length when fixed.
    pub fn len(&mut self, len: Option<usize>) {
        const FITS: &str = "lengths on the wire fit 31 bits";
        let len = len.map(|len| i32::try_from(len).expect(FITS));
        if self.flexible {
            self.uvarint(len.map_or(0, |len| len as u32 + 1));
        } else {
            self.i32(len.unwrap_or(-1));
        }
    }

    pub fn nullable_string(&mut self, value: Option<&str>) {
        if self.flexible {
            self.len(value.map(str::len));
        } else {
            let len = value.map(|value| i16::try_from(value.len()).expect("a short string"));
            self.i16(len.unwrap_or(-1));
        }
        self.out.extend_from_slice(value.unwrap_or_default().as_bytes());
    }

    /// A topic by name or id, whichever `topic` is: the caller echoes what the
    /// request of the same version had.
    pub fn topic(&mut self, topic: TopicKey<'_>) {
        match topic {
            TopicKey::Name(name) => self.nullable_string(Some(name)),
            TopicKey::Id(id) => self.out.extend_from_slice(&id.0),
        }
    }

    /// The end of a structure without tagged fields.
    pub fn no_tags(&mut self) {
        self.tag_count(0);
    }

    /// The number of tagged fields that follow.
    pub fn tag_count(&mut self, count: u32) {
        if self.flexible {
            self.uvarint(count);
        } else {
            assert_eq!(count, 0, "fixed versions have no tagged fields");
        }
    }

    /// The tagged field of NodeEndpoints, the last of Produce and Fetch
    /// responses, or none.
    pub fn node_endpoints(&mut self, nodes: &[NodeEndpoint<'_>]) {
        if nodes.is_empty() {
            return self.no_tags();
        }
        self.tag_count(1);
        let size = |len: usize| uvarint_len(len as u32);
        let entry = |node: &NodeEndpoint<'_>| 4 + size(node.host.len() + 1) + node.host.len() + 6;
        let len = size(nodes.len() + 1) + nodes.iter().map(entry).sum::<usize>();
        self.uvarint(0);
        self.uvarint(len as u32);
        self.len(Some(nodes.len()));
        for node in nodes {
            self.i32(node.id.0);
            self.nullable_string(Some(node.host));
            self.i32(node.port.into());
            self.nullable_string(None);
            self.no_tags();
        }
    }
}

fn uvarint_len(value: u32) -> usize {
    (32 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varint_lengths() {
        for (value, len) in [(0, 1), (127, 1), (128, 2), (16383, 2), (16384, 3), (u32::MAX, 5)] {
            let mut out = Vec::new();
            let mut writer = Writer::begin(&mut out, 0, true, false);
            writer.uvarint(value);
            assert_eq!((uvarint_len(value), out.len() - 8), (len, len), "{value}");
        }
    }
}
