//! Aligned memory that disks and sockets may read while it is still in use.
//!
//! A [`PagePool`] belongs to one core and has a budget. It hands out
//! [`PageWriter`]s: one page, one owner, a filled part that only grows. Any
//! range of the filled part can be shared as a [`PageSlice`], on any thread;
//! filled bytes never change, so a slice can be handed to the kernel while the
//! writer fills the rest of the page. When the last handle to a page goes,
//! wherever that is, the page returns to its pool.
//!
//! A pool that was told to ([`PagePool::use_huge_pages`]) cuts its larger pages from
//! chunks of 2 MiB (`pages/chunk.rs`), all of a chunk alike.
//!
//! Not here: zeroing (a fresh writer's spare bytes are unspecified but always
//! initialised memory), and any idea of what the bytes mean.

#![expect(unsafe_code, reason = "memory that the kernel reads and writes has no safe owner in std")]

mod chunk;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering, fence};

use chunk::Chunk;

/// The unit of alignment of memory, file positions and lengths for direct I/O.
pub const BLOCK: usize = 4096;

/// Pages of `BLOCK << 0` to `BLOCK << (CLASSES - 1)` bytes (1 MiB) are kept for reuse.
const CLASSES: usize = 9;

/// Pages of this class (64 KiB) and of larger ones are cut from chunks. Smaller ones are
/// for partitions that are written to seldom, of which a chunk would keep most unused.
const CUT_CLASS: usize = 4;

/// The smallest budget of a pool that cuts pages from chunks: of few classes a chunk
/// each is in use, most of it for nothing, which has to be little of the whole.
const HUGE_BUDGET_MIN: usize = 128 << 20;

/// Rounds `n` up to a whole number of blocks.
pub const fn align_up(n: u64) -> u64 {
    n.next_multiple_of(BLOCK as u64)
}

/// Rounds `n` down to a whole number of blocks.
pub const fn align_down(n: u64) -> u64 {
    n - n % BLOCK as u64
}

/// The allocation behind the handles.
struct Page {
    handles: AtomicU32,
    /// Index of the free list, or `CLASSES` for a page that is not kept.
    class: u8,
    layout: Layout,
    data: NonNull<u8>,
    /// What it was cut from; otherwise it is an allocation of its own.
    chunk: Option<Arc<Chunk>>,
    home: Arc<Home>,
    /// The next page in the list of returned pages.
    next: *mut Page,
}

/// Where pages whose last handle is gone wait for their pool.
struct Home {
    /// A list of pages; [`CLOSED`] once the pool is gone.
    returned: AtomicPtr<Page>,
}

/// Marks a home without a pool. Never dereferenced.
const CLOSED: *mut Page = std::ptr::without_provenance_mut(1);

impl Page {
    fn allocate(len: usize, class: u8, home: &Arc<Home>) -> NonNull<Page> {
        let layout = Layout::from_size_align(len, BLOCK).expect("a page's length is bounded");
        // SAFETY: the layout's size is at least one block, so not zero.
        let data = unsafe { alloc_zeroed(layout) };
        let Some(data) = NonNull::new(data) else { handle_alloc_error(layout) };
        Page::leak(class, layout, data, None, home)
    }

    /// Piece `index` of `chunk` as a page.
    fn cut(chunk: &Arc<Chunk>, index: usize, class: u8, home: &Arc<Home>) -> NonNull<Page> {
        let len = BLOCK << class;
        assert!((index + 1) * len <= Chunk::LEN, "a piece lies within its chunk");
        let layout = Layout::from_size_align(len, BLOCK).expect("a page's length is bounded");
        // SAFETY: within the chunk, as was asserted.
        let data = unsafe { chunk.start().add(index * len) };
        Page::leak(class, layout, data, Some(chunk.clone()), home)
    }

    /// A page with one handle, which [`Page::free`] ends.
    fn leak(
        class: u8,
        layout: Layout,
        data: NonNull<u8>,
        chunk: Option<Arc<Chunk>>,
        home: &Arc<Home>,
    ) -> NonNull<Page> {
        let handles = AtomicU32::new(1);
        let home = home.clone();
        let page = Page { handles, class, layout, data, chunk, home, next: null_mut() };
        NonNull::from(Box::leak(Box::new(page)))
    }

    /// # Safety
    /// `page` came from [`Page::leak`] and nothing refers to it any more.
    unsafe fn free(page: NonNull<Page>) {
        // SAFETY: `leak` leaked this box, and the caller is its last owner.
        let page = unsafe { Box::from_raw(page.as_ptr()) };
        // The memory of a chunk goes when its last page does.
        if page.chunk.is_none() {
            // SAFETY: `allocate` obtained `data` with this very layout.
            unsafe { dealloc(page.data.as_ptr(), page.layout) };
        }
    }

    /// Frees the page and its memory, also while others of its chunk are in use.
    ///
    /// # Safety
    /// As for [`Page::free`].
    unsafe fn give_back(page: NonNull<Page>) {
        // SAFETY: the piece was cut for this page alone, whose last owner is the caller.
        unsafe {
            let Page { chunk, data, layout, .. } = page.as_ref();
            if let Some(chunk) = chunk {
                chunk.discard(*data, layout.size());
            }
            Page::free(page);
        }
    }

    /// # Safety
    /// The caller gives up one handle of `page` and does not use it afterwards.
    unsafe fn release(page: NonNull<Page>) {
        // SAFETY: the caller's handle keeps the page alive until the decrement.
        let handles = unsafe { &(*page.as_ptr()).handles };
        if handles.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        // SAFETY: this was the last handle, so nothing else reaches the page;
        // the home is cloned because pushing the page gives it away.
        let home = unsafe { (*page.as_ptr()).home.clone() };
        let mut head = home.returned.load(Ordering::Relaxed);
        loop {
            if head == CLOSED {
                // SAFETY: the last handle is gone and no pool wants the page.
                unsafe { Page::free(page) };
                return;
            }
            // SAFETY: still exclusively ours until the exchange succeeds.
            unsafe { (*page.as_ptr()).next = head };
            match home.returned.compare_exchange_weak(
                head,
                page.as_ptr(),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// One core's pages.
///
/// Held bytes (given out or kept for reuse) never exceed the budget: an
/// allocation beyond it fails, and the caller applies back-pressure.
pub struct PagePool {
    home: Arc<Home>,
    free: [Vec<NonNull<Page>>; CLASSES],
    /// Bytes given out and not yet returned.
    in_use: usize,
    /// Bytes kept for reuse.
    kept: usize,
    budget: usize,
    /// Whether larger pages are cut from chunks.
    cuts: bool,
}

// SAFETY: the free pages are reachable through the pool alone, and `Home` is
// made of atomics; moving the pool to another thread moves sole ownership.
unsafe impl Send for PagePool {}

impl PagePool {
    /// An empty pool that will hold at most `budget` bytes.
    pub fn new(budget: usize) -> Self {
        Self {
            home: Arc::new(Home { returned: AtomicPtr::new(null_mut()) }),
            free: Default::default(),
            in_use: 0,
            kept: 0,
            budget,
            cuts: false,
        }
    }

    /// From now on new pages of 64 KiB and more lie in huge pages, if the budget has room
    /// for some.
    pub fn use_huge_pages(&mut self) {
        self.cuts = self.budget >= HUGE_BUDGET_MIN;
    }

    /// A page of at least `len` bytes with nothing filled, or `None` when that
    /// would exceed the budget.
    ///
    /// Lengths up to 1 MiB are rounded up to a power of two times [`BLOCK`],
    /// longer ones to whole blocks.
    pub fn allocate(&mut self, len: usize) -> Option<PageWriter> {
        let blocks = len.div_ceil(BLOCK).max(1);
        let class = (blocks.next_power_of_two().trailing_zeros() as usize).min(CLASSES);
        let bytes = if class < CLASSES { BLOCK << class } else { blocks * BLOCK };
        self.collect();
        if class < CLASSES
            && let Some(page) = self.free[class].pop()
        {
            self.kept -= bytes;
            self.in_use += bytes;
            // SAFETY: a page in a free list has no handle; this one becomes its first.
            unsafe { (*page.as_ptr()).handles.store(1, Ordering::Relaxed) };
            return Some(PageWriter { page, filled: 0 });
        }
        if self.in_use.saturating_add(bytes) > self.budget {
            return None;
        }
        self.make_room(bytes);
        self.in_use += bytes;
        let page =
            if self.cuts && (CUT_CLASS..CLASSES).contains(&class) { self.cut(class) } else { None };
        let page = page.unwrap_or_else(|| Page::allocate(bytes, class as u8, &self.home));
        Some(PageWriter { page, filled: 0 })
    }

    /// The first page of a new chunk, whose others are kept, if the budget has room.
    fn cut(&mut self, class: usize) -> Option<NonNull<Page>> {
        let others = Chunk::LEN - (BLOCK << class);
        if self.in_use + self.kept + others > self.budget {
            return None;
        }
        let chunk = Chunk::map()?;
        let page = |index| Page::cut(&chunk, index, class as u8, &self.home);
        // The last one is taken first.
        self.free[class].extend((1..Chunk::LEN / (BLOCK << class)).rev().map(page));
        self.kept += others;
        Some(page(0))
    }

    /// Bytes given out, counting pages whose last handle may just have gone.
    pub fn in_use(&mut self) -> usize {
        self.collect();
        self.in_use
    }

    /// The most bytes this pool will hold.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Gives pages that are kept back to the system until `bytes` more are within the
    /// budget, the largest first.
    fn make_room(&mut self, bytes: usize) {
        for (class, list) in self.free.iter_mut().enumerate().rev() {
            while self.in_use + self.kept + bytes > self.budget
                && let Some(page) = list.pop()
            {
                self.kept -= BLOCK << class;
                // SAFETY: pages in a free list have no handle.
                unsafe { Page::give_back(page) };
            }
        }
    }

    /// Takes back the pages that were released since the last call.
    fn collect(&mut self) {
        if self.home.returned.load(Ordering::Relaxed).is_null() {
            return;
        }
        let list = self.home.returned.swap(null_mut(), Ordering::Acquire);
        self.keep(list);
    }

    fn keep(&mut self, mut list: *mut Page) {
        while let Some(page) = NonNull::new(list) {
            // SAFETY: the swap made this list ours alone; its pages have no handle.
            let (next, class, len) = unsafe {
                let page = page.as_ref();
                (page.next, usize::from(page.class), page.layout.size())
            };
            list = next;
            self.in_use -= len;
            if class < CLASSES {
                self.kept += len;
                self.free[class].push(page);
            } else {
                // SAFETY: no handle is left and the page is in no list.
                unsafe { Page::free(page) };
            }
        }
    }
}

impl Drop for PagePool {
    fn drop(&mut self) {
        // From here on the last handle of a page frees it.
        let list = self.home.returned.swap(CLOSED, Ordering::Acquire);
        self.keep(list);
        for page in self.free.iter_mut().flat_map(|list| list.drain(..)) {
            // SAFETY: pages in a free list have no handle.
            unsafe { Page::free(page) };
        }
    }
}

impl fmt::Debug for PagePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PagePool")
            .field("in_use", &self.in_use)
            .field("kept", &self.kept)
            .field("budget", &self.budget)
            .finish()
    }
}

/// The one handle that may fill a page.
pub struct PageWriter {
    page: NonNull<Page>,
    filled: usize,
}

// SAFETY: a writer is the only handle that touches bytes at or beyond `filled`;
// what lies before is never changed again, and the handle count is atomic.
unsafe impl Send for PageWriter {}

impl PageWriter {
    /// Bytes the page can hold, a multiple of [`BLOCK`].
    pub fn capacity(&self) -> usize {
        // SAFETY: a handle keeps its page alive, and `layout` never changes.
        unsafe { self.page.as_ref().layout.size() }
    }

    /// Whether `slice` is of this page.
    pub fn holds(&self, slice: &PageSlice) -> bool {
        self.page == slice.page
    }

    /// Bytes filled so far.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing is filled yet.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Bytes that can still be filled.
    pub fn spare_len(&self) -> usize {
        self.capacity() - self.filled
    }

    /// The bytes not yet filled.
    pub fn spare(&mut self) -> &mut [u8] {
        let (data, len) = (self.data(), self.spare_len());
        // SAFETY: these bytes are inside the page, initialised, and reachable
        // through this writer only, which is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(data.add(self.filled), len) }
    }

    /// The filled bytes.
    pub fn filled(&self) -> &[u8] {
        // SAFETY: filled bytes are initialised and never change.
        unsafe { std::slice::from_raw_parts(self.data(), self.filled) }
    }

    /// Declares `len` more bytes of the spare part filled.
    ///
    /// # Panics
    /// If the page has fewer spare bytes.
    pub fn advance(&mut self, len: usize) {
        assert!(len <= self.spare_len(), "a page is filled within its capacity");
        self.filled += len;
    }

    /// Copies `bytes` behind the filled part.
    ///
    /// # Panics
    /// If the page has fewer spare bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.spare()[..bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    /// Fills with zeros up to the next block boundary.
    pub fn pad_to_block(&mut self) {
        let pad = self.filled.next_multiple_of(BLOCK) - self.filled;
        self.spare()[..pad].fill(0);
        self.filled += pad;
    }

    /// Empties the page if no slice of it is left, and says whether it did.
    pub fn reset(&mut self) -> bool {
        // SAFETY: a handle keeps its page alive.
        let handles = unsafe { self.page.as_ref().handles.load(Ordering::Acquire) };
        if handles == 1 {
            self.filled = 0;
        }
        handles == 1
    }

    /// A shared view of `range` of the filled part.
    ///
    /// # Panics
    /// If the range reaches beyond the filled part.
    pub fn slice(&self, range: Range<usize>) -> PageSlice {
        assert!(range.start <= range.end && range.end <= self.filled);
        // SAFETY: a handle keeps its page alive.
        unsafe { self.page.as_ref().handles.fetch_add(1, Ordering::Relaxed) };
        PageSlice {
            page: self.page,
            start: range.start as u32,
            len: (range.end - range.start) as u32,
        }
    }

    fn data(&self) -> *mut u8 {
        // SAFETY: a handle keeps its page alive, and `data` never changes.
        unsafe { self.page.as_ref().data.as_ptr() }
    }
}

impl Drop for PageWriter {
    fn drop(&mut self) {
        // SAFETY: this handle is given up exactly once, here.
        unsafe { Page::release(self.page) };
    }
}

impl fmt::Debug for PageWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageWriter({} of {})", self.filled, self.capacity())
    }
}

/// A shared, immutable range of a page.
pub struct PageSlice {
    page: NonNull<Page>,
    start: u32,
    len: u32,
}

// SAFETY: the bytes of a slice never change and the handle count is atomic.
unsafe impl Send for PageSlice {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for PageSlice {}

impl PageSlice {
    /// A view of `range` of this slice.
    ///
    /// # Panics
    /// If the range reaches beyond the slice.
    pub fn slice(&self, range: Range<usize>) -> PageSlice {
        let mut part = self.clone();
        part.narrow(range);
        part
    }

    /// Bytes of the whole page that this slice keeps alive.
    pub fn page_len(&self) -> usize {
        // SAFETY: a handle keeps its page alive, and `layout` never changes.
        unsafe { self.page.as_ref().layout.size() }
    }

    /// Whether `other` is of the same page.
    pub fn shares_page(&self, other: &PageSlice) -> bool {
        self.page == other.page
    }

    /// Narrows this slice to `range` of itself.
    ///
    /// # Panics
    /// If the range reaches beyond the slice.
    pub fn narrow(&mut self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len as usize);
        self.start += range.start as u32;
        self.len = (range.end - range.start) as u32;
    }
}

impl Deref for PageSlice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range was within the filled part when the slice was made,
        // filled bytes never change, and the handle keeps the page alive.
        unsafe {
            let data = self.page.as_ref().data.as_ptr().add(self.start as usize);
            std::slice::from_raw_parts(data, self.len as usize)
        }
    }
}

impl Clone for PageSlice {
    fn clone(&self) -> Self {
        // SAFETY: a handle keeps its page alive.
        unsafe { self.page.as_ref().handles.fetch_add(1, Ordering::Relaxed) };
        Self { ..*self }
    }
}

impl Drop for PageSlice {
    fn drop(&mut self) {
        // SAFETY: this handle is given up exactly once, here.
        unsafe { Page::release(self.page) };
    }
}

impl fmt::Debug for PageSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSlice({} at {})", self.len, self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_outlive_the_writer_and_the_pool() {
        let mut pool = PagePool::new(1 << 20);
        let mut page = pool.allocate(10).expect("within budget");
        page.put(b"hello");
        let slice = page.slice(1..4);
        page.put(b" world");
        drop(page);
        assert!(pool.in_use() == BLOCK);
        drop(pool);
        assert_eq!(&slice[..], b"ell");
        assert_eq!(&slice.slice(1..3)[..], b"ll");
    }

    #[test]
    fn the_budget_holds_and_returned_pages_serve_again() {
        let mut pool = PagePool::new(2 * BLOCK);
        let a = pool.allocate(BLOCK).expect("within budget");
        let b = pool.allocate(BLOCK).expect("within budget");
        assert!(pool.allocate(1).is_none());
        drop(a);
        assert!(pool.allocate(1).is_some());
        drop(b);
        assert_eq!(pool.in_use(), 0);
        // Kept pages of another class make room.
        assert!(pool.allocate(2 * BLOCK).is_some());
    }

    #[test]
    fn pages_of_a_chunk_are_apart_and_stay_while_one_is_in_use() {
        let mut pool = PagePool::new(HUGE_BUDGET_MIN);
        pool.use_huge_pages();
        let size = BLOCK << CUT_CLASS;
        let count = Chunk::LEN / size;
        let mut pages: Vec<PageWriter> = (0..count)
            .map(|n| {
                let mut page = pool.allocate(size).expect("within budget");
                assert_eq!(page.capacity(), size);
                assert!(page.spare().iter().all(|byte| *byte == 0));
                page.put(&vec![n as u8 + 1; size]);
                page
            })
            .collect();
        let starts: Vec<usize> = pages.iter().map(|page| page.filled().as_ptr().addr()).collect();
        assert!(starts[0].is_multiple_of(Chunk::LEN), "all are of one chunk, in order");
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == size));
        assert_eq!(pool.in_use(), Chunk::LEN);
        // All but one come back and make room for another class.
        let last = pages.pop().expect("there are several");
        drop(pages);
        let others: Vec<_> = std::iter::from_fn(|| pool.allocate(1 << 20)).collect();
        assert_eq!(others.len() << 20, HUGE_BUDGET_MIN - (1 << 20), "but for what the one takes");
        assert_eq!(pool.free[CUT_CLASS].len(), (1 << 20) / size - 1);
        assert!(last.filled().iter().all(|byte| *byte == count as u8));
        drop(pool);
        assert!(last.filled().iter().all(|byte| *byte == count as u8));
    }

    #[test]
    fn the_budget_holds_for_chunks_too() {
        let mut pool = PagePool::new(HUGE_BUDGET_MIN + BLOCK);
        pool.use_huge_pages();
        let mut rng = crate::base::rng::Rng::new(7);
        let mut pages = vec![];
        for _ in 0..20_000 {
            let len = BLOCK << rng.below(CLASSES as u64 + 1);
            match pool.allocate(len) {
                Some(page) => pages.push(page),
                None => assert!(pool.in_use() + len > pool.budget(), "what is kept makes room"),
            }
            if rng.below(3) > 0 && !pages.is_empty() {
                pages.swap_remove(rng.below(pages.len() as u64) as usize);
            }
            let in_use: usize = pages.iter().map(PageWriter::capacity).sum();
            assert_eq!(pool.in_use(), in_use);
            let kept =
                pool.free.iter().enumerate().map(|(class, list)| list.len() * (BLOCK << class));
            assert_eq!(pool.kept, kept.sum::<usize>());
            assert!(pool.in_use + pool.kept <= pool.budget);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "another thread is what is tested")]
    fn pages_come_home_from_other_threads() {
        let mut pool = PagePool::new(1 << 20);
        let slices: Vec<PageSlice> = (0..16)
            .map(|i| {
                let mut page = pool.allocate(BLOCK).expect("within budget");
                page.put(&[i]);
                page.slice(0..1)
            })
            .collect();
        let thread =
            std::thread::spawn(move || slices.iter().map(|s| u32::from(s[0])).sum::<u32>());
        assert_eq!(120_u32, thread.join().expect("the thread does not panic"));
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_page_is_reset_only_when_no_slice_is_left() {
        let mut pool = PagePool::new(1 << 20);
        let mut page = pool.allocate(1).expect("within budget");
        page.put(b"abc");
        let slice = page.slice(0..3);
        assert!(!page.reset());
        drop(slice);
        assert!(page.reset() && page.is_empty());
        page.put(&[1; 10]);
        page.pad_to_block();
        assert_eq!((page.len(), page.filled()[10]), (BLOCK, 0));
    }
}
