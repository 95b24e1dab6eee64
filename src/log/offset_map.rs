//! Which offset is the last one of a key: a table of fixed size
//! (`SkimpyOffsetMap.java`).
//!
//! Keys are known by a hash of 128 bits, and two keys with the same one are taken
//! for one another. Slots are probed one after the other; nothing is ever removed.

use std::hash::{DefaultHasher, Hasher};

/// Keys and offsets.
#[derive(Debug, Default)]
pub struct OffsetMap {
    slots: Vec<Slot>,
    len: usize,
}

/// A key's hash and the offset behind its own; 0 in a slot that is free: memory
/// that is zero already is had at once.
type Slot = (u64, u64, i64);

const FREE: Slot = (0, 0, 0);

/// Tenths of the slots that are used at most.
const LOAD_TENTHS: usize = 9;

/// The table has no room for another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl OffsetMap {
    /// An empty table of at most `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        let slots = (bytes / size_of::<Slot>()).max(16);
        Self { slots: vec![FREE; slots], len: 0 }
    }

    /// Keys in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Notes that `key` is at `offset`, behind all offsets before.
    ///
    /// # Errors
    /// If the key is new and the table full.
    pub fn put(&mut self, key: &[u8], offset: i64) -> Result<(), Full> {
        let at = self.find(key);
        if self.slots[at].2 == 0 {
            if (self.len + 1) * 10 > self.slots.len() * LOAD_TENTHS {
                return Err(Full);
            }
            self.len += 1;
        }
        let (one, other) = hash(key);
        self.slots[at] = (one, other, offset + 1);
        Ok(())
    }

    /// The last offset of `key`, if it is known.
    pub fn get(&self, key: &[u8]) -> Option<i64> {
        let (_, _, behind) = self.slots[self.find(key)];
        (behind > 0).then(|| behind - 1)
    }

    /// The slot of `key`, or the one that it would get.
    fn find(&self, key: &[u8]) -> usize {
        let (one, other) = hash(key);
        let mut at = (one % self.slots.len() as u64) as usize;
        while self.slots[at].2 > 0 && (self.slots[at].0, self.slots[at].1) != (one, other) {
            at = (at + 1) % self.slots.len();
        }
        at
    }
}

fn hash(key: &[u8]) -> (u64, u64) {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(seed);
        hasher.write(key);
        hasher.finish()
    };
    (half(0), half(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_offset_of_each_key_until_it_is_full() {
        let mut map = OffsetMap::new(100 * size_of::<Slot>());
        assert!(map.is_empty() && map.get(b"k").is_none());
        for offset in 0..90_i64 {
            map.put(&offset.to_be_bytes(), offset).expect("room");
        }
        assert_eq!((map.put(b"another", 90), map.len()), (Err(Full), 90));
        for offset in 0..90_i64 {
            map.put(&offset.to_be_bytes(), 100 + offset).expect("it is there");
        }
        assert!((0..90_i64).all(|key| map.get(&key.to_be_bytes()) == Some(100 + key)));
        assert_eq!((map.get(b"another"), map.len()), (None, 90));
    }
}
