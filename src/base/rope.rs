//! Bytes in pieces, in order: what a socket sends and a disk writes.

use super::pages::PageSlice;

/// Slices of pages that read as one run of bytes.
///
/// Cleared ropes keep their table, so one that is reused stops allocating.
#[derive(Debug, Default)]
pub struct Rope {
    parts: Vec<PageSlice>,
    len: usize,
}

impl Rope {
    /// Adds `part` at the end. An empty part is dropped.
    pub fn push(&mut self, part: PageSlice) {
        if !part.is_empty() {
            self.len += part.len();
            self.parts.push(part);
        }
    }

    /// Moves all parts of `other` to the end of this rope.
    pub fn append(&mut self, other: &mut Rope) {
        self.len += other.len;
        other.len = 0;
        self.parts.append(&mut other.parts);
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces in order, none empty.
    pub fn parts(&self) -> &[PageSlice] {
        &self.parts
    }

    /// Lets go of all pieces.
    pub fn clear(&mut self) {
        self.parts.clear();
        self.len = 0;
    }

    /// Removes the first `count` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len, "a rope advances within its length");
        self.len -= count;
        let mut left = count;
        let mut whole = 0;
        while let Some(part) = self.parts.get_mut(whole)
            && left > 0
        {
            let len = part.len();
            if left < len {
                part.narrow(left..len);
                break;
            }
            left -= len;
            whole += 1;
        }
        self.parts.drain(..whole);
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        let mut end = 0;
        let mut keep = 0;
        for part in &mut self.parts {
            if end >= len {
                break;
            }
            if end + part.len() > len {
                part.narrow(0..len - end);
            }
            end += part.len();
            keep += 1;
        }
        self.parts.truncate(keep);
        self.len = self.len.min(len);
    }

    /// A copy of all bytes, for messages off the hot path and for tests.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len);
        for part in &self.parts {
            out.extend_from_slice(part);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::pages::PagePool;

    fn rope(pool: &mut PagePool, parts: &[&[u8]]) -> Rope {
        let mut rope = Rope::default();
        for part in parts {
            let mut page = pool.allocate(part.len()).expect("within budget");
            page.put(part);
            rope.push(page.slice(0..part.len()));
        }
        rope
    }

    #[test]
    fn advance_and_truncate_cut_inside_and_between_parts() {
        let mut pool = PagePool::new(1 << 20);
        for cut in 0..=9 {
            let mut front = rope(&mut pool, &[b"abc", b"", b"def", b"ghi"]);
            front.advance(cut);
            assert_eq!(front.to_vec(), &b"abcdefghi"[cut..], "advance {cut}");
            let mut back = rope(&mut pool, &[b"abc", b"def", b"ghi"]);
            back.truncate(cut);
            assert_eq!(back.to_vec(), &b"abcdefghi"[..cut], "truncate {cut}");
            assert_eq!((front.len(), back.len()), (9 - cut, cut));
            assert!(back.parts().iter().all(|part| !part.is_empty()));
        }
    }
}
