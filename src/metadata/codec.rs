//! Reading and writing the small binary forms of our own files: little-endian
//! numbers, lengths before what they count.
//!
//! A [`Reader`] walks bytes that may be anything. It never panics, and nothing
//! it returns is larger than the bytes it was given.

/// Why bytes could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end before the value does.
    #[error("the bytes end inside {0}")]
    Truncated(&'static str),
    /// A value that no writer writes.
    #[error("{0} has an impossible value")]
    Malformed(&'static str),
    /// Written by a later version of this software, or not by it at all.
    #[error("{what} has version {version}, this software reads up to {newest}")]
    Version {
        /// What was read.
        what: &'static str,
        /// The version found.
        version: u8,
        /// The newest version that can be read.
        newest: u8,
    },
    /// A kind of record that this software does not know.
    #[error("there is no metadata record of kind {0}")]
    Kind(u8),
}

/// Something with one binary form.
pub trait Encode {
    /// Adds the form to `out`.
    fn encode(&self, out: &mut Vec<u8>);
}

/// Something that can be read back from its binary form.
pub trait Decode: Sized {
    /// Reads one value.
    fn decode(from: &mut Reader<'_>) -> Result<Self, CodecError>;
}

/// A position in bytes that were read from somewhere.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes of `what`.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CodecError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    /// A byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    /// Two bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Four bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Four signed bytes.
    pub fn i32(&mut self, what: &'static str) -> Result<i32, CodecError> {
        Ok(i32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes, the lowest first.
    pub fn i64(&mut self, what: &'static str) -> Result<i64, CodecError> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    /// Sixteen bytes as they are.
    pub fn bytes16(&mut self, what: &'static str) -> Result<[u8; 16], CodecError> {
        self.array(what)
    }

    /// A count of things that take at least `each` bytes each, so a count that
    /// cannot be true is refused before anything is allocated for it.
    pub fn count(&mut self, each: usize, what: &'static str) -> Result<usize, CodecError> {
        let count = self.u32(what)? as usize;
        if count > self.remaining() / each.max(1) {
            return Err(CodecError::Truncated(what));
        }
        Ok(count)
    }

    /// A string of UTF-8.
    pub fn str(&mut self, what: &'static str) -> Result<&'a str, CodecError> {
        let len = self.count(1, what)?;
        std::str::from_utf8(self.take(len, what)?).map_err(|_| CodecError::Malformed(what))
    }

    /// Says that nothing may be left.
    pub fn end(&self, what: &'static str) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Malformed(what)) }
    }
}

/// Adds the length of `text` and `text`.
pub fn put_str(out: &mut Vec<u8>, text: &str) {
    put_count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Adds a count.
///
/// # Panics
/// If it is 2^32 or more; the limits keep every count far below.
pub fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("counts are under 2^32");
    out.extend_from_slice(&count.to_le_bytes());
}
