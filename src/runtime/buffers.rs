//! The receive buffers shared by all connections of a core.
//!
//! A provided-buffer ring: the kernel takes a buffer only when bytes are there,
//! so idle connections hold none. A buffer is lent for one event and given back
//! within the turn; [`ReceiveBuffers::publish`] shows the kernel all that were
//! given back at once.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::ring::{Ring, Token};
use crate::base::pages::BLOCK;
use std::os::fd::RawFd;

/// Buffers of one core.
const COUNT: u16 = 64;

/// Bytes of one buffer: the most that one shared receive returns.
pub const BUFFER_LEN: usize = 16 << 10;

const GROUP: u16 = 0;

/// The table takes the first block, the buffers follow.
const LAYOUT: Layout = match Layout::from_size_align(BLOCK + COUNT as usize * BUFFER_LEN, BLOCK) {
    Ok(layout) => layout,
    Err(_) => panic!("the buffers have a layout"),
};

const _: () = assert!(COUNT.is_power_of_two() && COUNT as usize * 16 <= BLOCK);

/// The buffers and the table the kernel takes them from.
pub struct ReceiveBuffers {
    memory: NonNull<u8>,
    tail: u16,
}

impl ReceiveBuffers {
    /// Registers the buffers with `ring`, which must go before they do.
    ///
    /// # Errors
    /// What io_uring_register says.
    pub fn new(ring: &Ring) -> io::Result<Self> {
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(LAYOUT) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(LAYOUT) };
        let mut buffers = Self { memory, tail: 0 };
        let table = memory.as_ptr() as u64;
        // SAFETY: the table is valid until the ring is gone, by this function's contract.
        unsafe { ring.submitter().register_buf_ring_with_flags(table, COUNT, GROUP, 0) }?;
        for id in 0..COUNT {
            buffers.give_back(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Receives from `socket` into one of the buffers.
    pub fn receive(&self, ring: &mut Ring, token: Token, socket: RawFd) {
        ring.receive_provided(token, socket, GROUP, BUFFER_LEN);
    }

    /// The first `len` bytes of buffer `id`, which a completion named.
    pub fn lent(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < COUNT && len <= BUFFER_LEN);
        // SAFETY: in bounds and initialised; the kernel has no claim on a buffer
        // from its completion until it is given back, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.buffer(id), len) }
    }

    /// Returns buffer `id`, for use after the next [`ReceiveBuffers::publish`].
    pub fn give_back(&mut self, id: u16) {
        assert!(id < COUNT);
        let slot = usize::from(self.tail & (COUNT - 1));
        // SAFETY: the slot is inside the table and lies beyond the published tail,
        // where the kernel does not look.
        let entry = unsafe { &mut *self.memory.as_ptr().cast::<BufRingEntry>().add(slot) };
        entry.set_addr(self.buffer(id) as u64);
        entry.set_len(BUFFER_LEN as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel the buffers that were given back.
    pub fn publish(&mut self) {
        // SAFETY: the tail is an aligned u16 in the table's first entry; the kernel
        // only reads it.
        let tail = unsafe {
            let tail = BufRingEntry::tail(self.memory.as_ptr().cast()).cast_mut();
            AtomicU16::from_ptr(tail)
        };
        tail.store(self.tail, Ordering::Release);
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        // SAFETY: `id` is below COUNT, so the buffer lies within the allocation.
        unsafe { self.memory.as_ptr().add(BLOCK + usize::from(id) * BUFFER_LEN) }
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; no receive is in flight any more.
        unsafe { dealloc(self.memory.as_ptr(), LAYOUT) };
    }
}
