//! A rope's parts as the kernel's vectors.
//!
//! The kernel copies vectors and message headers when it takes the entry that
//! names them off the submission queue (IORING_FEAT_SUBMIT_STABLE), so one
//! arena per ring, emptied after each submission, serves all operations. The
//! bytes themselves stay where they are until the operation completes; their
//! owner keeps the rope.

use crate::base::rope::Rope;

/// How far into a rope an operation has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    part: usize,
    offset: usize,
    done: usize,
}

impl Cursor {
    /// Bytes behind the cursor.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Whether all of `rope` is behind the cursor.
    pub fn is_end(&self, rope: &Rope) -> bool {
        self.done == rope.len()
    }

    /// Moves `count` bytes ahead in `rope`.
    ///
    /// # Panics
    /// If fewer are left.
    pub fn advance(&mut self, rope: &Rope, count: usize) {
        assert!(count <= rope.len() - self.done, "a cursor stays within its rope");
        self.done += count;
        let mut left = count;
        while left > 0 {
            let rest = rope.parts()[self.part].len() - self.offset;
            if left < rest {
                self.offset += left;
                return;
            }
            left -= rest;
            self.part += 1;
            self.offset = 0;
        }
    }

    /// The bytes of `rope` from the cursor on, part by part.
    pub fn parts<'a>(&self, rope: &'a Rope) -> impl ExactSizeIterator<Item = &'a [u8]> {
        let offset = self.offset;
        let parts = rope.parts()[self.part..].iter().enumerate();
        parts.map(move |(i, part)| if i == 0 { &part[offset..] } else { &part[..] })
    }
}

/// Most vectors in one operation (the kernel's UIO_MAXIOV).
pub const VECTORS_PER_OPERATION: usize = 1024;

/// Vectors between two submissions.
const VECTORS: usize = 4 * VECTORS_PER_OPERATION;

/// Memory for vectors and message headers between two submissions. It never
/// moves: entries on the submission queue point into it.
pub struct Gather {
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::msghdr>,
}

impl Gather {
    /// Room for [`VECTORS`] vectors and `headers` message headers.
    pub fn new(headers: usize) -> Self {
        Self { vectors: Vec::with_capacity(VECTORS), headers: Vec::with_capacity(headers) }
    }

    /// Whether one more operation of any size finds room.
    pub fn has_room(&self) -> bool {
        self.vectors.len() + VECTORS_PER_OPERATION <= VECTORS
            && self.headers.len() < self.headers.capacity()
    }

    /// Forgets everything: the kernel has its copy.
    pub fn clear(&mut self) {
        self.vectors.clear();
        self.headers.clear();
    }

    /// Vectors of `rope` from `cursor` on, at most `max` of them: where they
    /// start and how many there are.
    pub fn vectors(
        &mut self,
        rope: &Rope,
        cursor: Cursor,
        max: usize,
    ) -> (*const libc::iovec, usize) {
        assert!(max <= VECTORS_PER_OPERATION && self.has_room());
        let start = self.vectors.len();
        self.vectors.extend(cursor.parts(rope).take(max).map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        }));
        (self.vectors[start..].as_ptr(), self.vectors.len() - start)
    }

    /// A message header for vectors of this arena.
    pub fn header(&mut self, vectors: (*const libc::iovec, usize)) -> *const libc::msghdr {
        assert!(self.headers.len() < self.headers.capacity());
        // SAFETY: a message header is plain integers and pointers, for which zero is valid.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = vectors.0.cast_mut();
        header.msg_iovlen = vectors.1 as _;
        self.headers.push(header);
        &raw const self.headers[self.headers.len() - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::pages::PagePool;

    #[test]
    fn a_cursor_stops_anywhere() {
        let mut pool = PagePool::new(1 << 20);
        let mut rope = Rope::default();
        for part in ["abc", "de", "fghi"] {
            let mut page = pool.allocate(part.len()).expect("within budget");
            page.put(part.as_bytes());
            rope.push(page.slice(0..part.len()));
        }
        for first in 0..=9 {
            for second in 0..=9 - first {
                let mut cursor = Cursor::default();
                cursor.advance(&rope, first);
                cursor.advance(&rope, second);
                let rest: Vec<u8> = cursor.parts(&rope).flatten().copied().collect();
                assert_eq!(rest, &b"abcdefghi"[first + second..], "{first} then {second}");
                assert!(cursor.parts(&rope).all(|part| !part.is_empty()));
                assert_eq!(
                    (cursor.done(), cursor.is_end(&rope)),
                    (first + second, rest.is_empty())
                );
            }
        }
    }
}
