//! Memory by 2 MiB, which the system is asked to back with one huge page each.
//!
//! A [`Chunk`] is handed out in pieces; it is given back when the last owner of a piece
//! has gone. Until then [`Chunk::discard`] gives back the memory of a piece, but not its
//! addresses. Without huge pages (`transparent_hugepage` is `never`, or there is none
//! free) a chunk works as well, only slower.
//!
//! Not here: who owns which piece.

use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// 2 MiB of zeroed memory, aligned to its size.
pub struct Chunk {
    start: NonNull<u8>,
}

// SAFETY: a chunk is an address range; what is in it belongs to the owners of its pieces.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// Bytes of a chunk: a huge page of x86-64 and of arm64 with 4 KiB pages.
    pub const LEN: usize = 2 << 20;

    /// A new chunk, or `None` if the system has no more addresses or memory.
    pub fn map() -> Option<Arc<Chunk>> {
        // Next to the last one, mostly, and so aligned already.
        let mut start = map(Self::LEN)?;
        if !start.addr().get().is_multiple_of(Self::LEN) {
            // SAFETY: mapped just now, and nothing refers to it.
            unsafe { unmap(start, Self::LEN) };
            start = map_aligned()?;
        }
        // SAFETY: the range was mapped just now. A refusal means no huge page, no more.
        unsafe { libc::madvise(start.as_ptr().cast(), Self::LEN, libc::MADV_HUGEPAGE) };
        Some(Arc::new(Chunk { start }))
    }

    /// The first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Gives the memory of a piece back to the system; it reads as zeros from now on.
    ///
    /// # Safety
    /// `len` bytes at `start` are whole blocks of this chunk, and nothing refers to them.
    pub unsafe fn discard(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the range is inside of a mapping of ours, unused by the caller's word.
        let result = unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTNEED) };
        debug_assert_eq!(result, 0, "whole blocks of a mapping can be discarded");
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and the last owner of a piece has gone.
        unsafe { unmap(self.start, Self::LEN) };
    }
}

/// A chunk's range out of one of twice the size.
fn map_aligned() -> Option<NonNull<u8>> {
    let whole = map(2 * Chunk::LEN)?;
    let before = whole.addr().get().next_multiple_of(Chunk::LEN) - whole.addr().get();
    let after = Chunk::LEN - before;
    // SAFETY: both ends lie inside of what was mapped just now, around the chunk.
    unsafe {
        let start = whole.add(before);
        if before > 0 {
            unmap(whole, before);
        }
        if after > 0 {
            unmap(start.add(Chunk::LEN), after);
        }
        Some(start)
    }
}

fn map(len: usize) -> Option<NonNull<u8>> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping touches nothing that exists.
    let start = unsafe { libc::mmap(null_mut(), len, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}

/// # Safety
/// `len` bytes at `start` are mapped, by [`map`], and nothing refers to them.
unsafe fn unmap(start: NonNull<u8>, len: usize) {
    // SAFETY: by the word of the caller.
    let result = unsafe { libc::munmap(start.as_ptr().cast(), len) };
    debug_assert_eq!(result, 0, "a whole mapping of ours can be unmapped");
}
