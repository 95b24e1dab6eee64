//! Reads Kafka's primitive types from bytes in place, in the fixed and the
//! flexible (KIP-482) encodings.

use super::{TopicKey, WireError};
use crate::model::ids::TopicId;

type Result<T> = std::result::Result<T, WireError>;

/// A position in a message. Copying it marks a place to come back to.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self { bytes, at: 0, flexible }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or(WireError::Truncated)?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.bytes[self.at..].first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.at += N;
        Ok(*taken)
    }

    pub fn i8(&mut self) -> Result<i8> {
        self.array().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub fn topic_id(&mut self) -> Result<TopicId> {
        self.array().map(TopicId)
    }

    /// An unsigned varint of at most five bytes that fits 32 bits.
    pub fn uvarint(&mut self) -> Result<u32> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value)
                    .map_err(|_| WireError::Malformed("a varint exceeds 32 bits"));
            }
        }
        Err(WireError::Malformed("a varint is longer than five bytes"))
    }

    /// A string that may be null, in the encoding of this message.
    pub fn nullable_string(&mut self) -> Result<Option<&'a str>> {
        let len = if self.flexible { self.compact_len()? } else { fixed_len(self.i16()?.into())? };
        len.map(|len| utf8(self.take(len)?)).transpose()
    }

    pub fn string(&mut self) -> Result<&'a str> {
        self.nullable_string()?.ok_or(WireError::Malformed("a string that may not be null is"))
    }

    /// Bytes that may be null: where they lie within the message.
    pub fn nullable_bytes(&mut self) -> Result<Option<std::ops::Range<usize>>> {
        let len = if self.flexible { self.compact_len()? } else { fixed_len(self.i32()?)? };
        let Some(len) = len else {
            return Ok(None);
        };
        let start = self.at;
        self.take(len)?;
        Ok(Some(start..self.at))
    }

    /// Bytes that may not be null.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let range = self.nullable_bytes()?;
        let range = range.ok_or(WireError::Malformed("bytes that may not be null are"))?;
        Ok(&self.bytes[range])
    }

    /// The length of an array that may not be null, whose elements have at
    /// least `element_min` bytes each: never more than can follow.
    pub fn array_len(&mut self, element_min: usize) -> Result<usize> {
        let len = if self.flexible { self.compact_len()? } else { fixed_len(self.i32()?)? };
        let len = len.ok_or(WireError::Malformed("an array that may not be null is"))?;
        if len > self.remaining() / element_min { Err(WireError::Truncated) } else { Ok(len) }
    }

    /// A topic by name or, if `by_id`, by id.
    pub fn topic(&mut self, by_id: bool) -> Result<TopicKey<'a>> {
        if by_id { self.topic_id().map(TopicKey::Id) } else { self.string().map(TopicKey::Name) }
    }

    /// Passes over the tagged fields of a flexible message; a fixed one has none.
    pub fn skip_tags(&mut self) -> Result<()> {
        self.tags(|_, _| Ok(false))
    }

    /// Walks the tagged fields of a flexible message. `known` reads the value of
    /// a tag it knows and returns true; the value must fill its announced size.
    pub fn tags(
        &mut self,
        mut known: impl FnMut(u32, &mut Reader<'a>) -> Result<bool>,
    ) -> Result<()> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let len = self.uvarint()? as usize;
            let value = self.take(len)?;
            let mut inside = Reader::new(value, true);
            if known(tag, &mut inside)? && inside.remaining() != 0 {
                return Err(WireError::Malformed("a tagged field is longer than its value"));
            }
        }
        Ok(())
    }

    fn compact_len(&mut self) -> Result<Option<usize>> {
        Ok((self.uvarint()? as usize).checked_sub(1))
    }
}

/// -1 is null; other negative lengths make no sense.
fn fixed_len(len: i32) -> Result<Option<usize>> {
    match len {
        -1 => Ok(None),
        _ => usize::try_from(len).map(Some).map_err(|_| WireError::Malformed("negative length")),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| WireError::Malformed("a string is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints() {
        let read = |bytes: &[u8]| Reader::new(bytes, true).uvarint();
        assert_eq!(read(&[0]), Ok(0));
        assert_eq!(read(&[0xac, 0x02]), Ok(300));
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(u32::MAX));
        assert!(matches!(read(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(WireError::Malformed(_))));
        assert!(matches!(read(&[0x80; 6]), Err(WireError::Malformed(_))));
        assert_eq!(read(&[0x80]), Err(WireError::Truncated));
    }

    #[test]
    fn counts_are_bounded_by_the_bytes_that_remain() {
        assert_eq!(Reader::new(&[0, 0, 0, 2, 9, 9], false).array_len(1), Ok(2));
        assert_eq!(Reader::new(&[0, 0, 0, 3, 9, 9], false).array_len(1), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[3, 9, 9], true).array_len(2), Err(WireError::Truncated));
        assert!(matches!(
            Reader::new(&[0x80, 0, 0, 0], false).array_len(1),
            Err(WireError::Malformed(_))
        ));
    }

    #[test]
    fn a_known_tag_fills_its_size() {
        let walk = |bytes: &[u8]| {
            let mut seen = Vec::new();
            let result = Reader::new(bytes, true).tags(|tag, value| {
                if tag == 7 {
                    seen.push(value.i16()?);
                }
                Ok(tag == 7)
            });
            result.map(|()| seen)
        };
        assert_eq!(walk(&[2, 3, 1, 0xff, 7, 2, 1, 2]), Ok(vec![0x0102]));
        assert_eq!(walk(&[1, 7, 1, 1]), Err(WireError::Truncated));
        assert!(matches!(walk(&[1, 7, 3, 1, 2, 3]), Err(WireError::Malformed(_))));
    }
}
