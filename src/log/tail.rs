//! The resident end of a log: the very pages that are written to disk.
//!
//! Bytes live in extents that are contiguous within a segment. The last one,
//! the open extent, grows. What was submitted to the disk never changes: when a
//! submission ends inside a block, the block is padded with zeros and frozen,
//! and the next append continues in a copy of it ([`Tail::submit`]). The copy
//! supersedes the frozen block, so resident extents never overlap.

use std::collections::VecDeque;
use std::ops::Range;

use crate::base::limits::{TAIL_PAGE_MAX, TAIL_PAGE_MIN};
use crate::base::pages::{BLOCK, PagePool, PageSlice, PageWriter, align_down, align_up};
use crate::base::rope::Rope;
use crate::model::batch::{BatchHeader, HEADER_LEN};

/// Resident bytes of one log.
#[derive(Debug, Default)]
pub struct Tail {
    extents: VecDeque<Extent>,
    open: Option<Open>,
    /// A page whose last submission ended inside a block: filled up to a block
    /// boundary, the rest can be used.
    rest: Option<PageWriter>,
    /// Bytes of the last submission: a hint for the size of the next page.
    last_submission: usize,
    /// Bytes of the pages of all extents and of `rest`: what letting go frees.
    resident: usize,
    /// Nothing was appended since [`Tail::shrink`].
    shrunk: bool,
}

/// Frozen bytes of one segment.
#[derive(Debug)]
struct Extent {
    /// The segment's base offset.
    segment: i64,
    /// File position of the first byte, a multiple of the block.
    position: u64,
    /// Bytes of log.
    len: usize,
    /// Those, and zeros up to the end of the last block.
    padded: PageSlice,
}

impl Extent {
    fn end(&self) -> u64 {
        self.position + self.len as u64
    }

    /// Keeps the first `len` bytes, whole blocks.
    fn keep_blocks(&mut self, len: usize) {
        self.len = len;
        self.padded.narrow(0..len);
    }
}

/// The growing extent.
#[derive(Debug)]
struct Open {
    segment: i64,
    position: u64,
    /// Where in the page the extent starts.
    start: usize,
    page: PageWriter,
}

impl Open {
    fn end(&self) -> u64 {
        self.position + (self.page.len() - self.start) as u64
    }

    fn slice(&self, range: Range<u64>) -> PageSlice {
        let at = |position: u64| self.start + (position - self.position) as usize;
        self.page.slice(at(range.start)..at(range.end))
    }
}

/// The pool has no page for an append; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPages;

impl Tail {
    /// Bytes of memory held: whole pages, with what of them is not used.
    pub fn resident(&self) -> usize {
        self.resident
    }

    /// Appends `parts` to `segment` at `position`, the end of what it holds.
    ///
    /// When the segment has nothing resident, `position` must be block aligned
    /// (a recovered partial block is put there by [`Tail::restore`]).
    pub fn append(
        &mut self,
        segment: i64,
        position: u64,
        parts: [&[u8]; 2],
        pool: &mut PagePool,
    ) -> Result<(), NoPages> {
        if self.open.as_ref().is_some_and(|open| open.segment != segment) {
            self.freeze();
        }
        let len = parts[0].len() + parts[1].len();
        let mut fresh = self.fresh_page(position, len, pool)?;
        self.shrunk = false;
        if self.open.is_none() {
            let page = self.rest.take().unwrap_or_else(|| {
                let page = fresh.take().expect("fresh_page found one");
                self.resident += page.capacity();
                page
            });
            self.reopen(segment, position, page);
        }
        for mut part in parts {
            while !part.is_empty() {
                let open = self.open.as_mut().expect("opened above and after each freeze");
                if open.page.spare_len() == 0 {
                    let (position, page) = (open.end(), fresh.take());
                    self.freeze();
                    let page = page.expect("fresh_page counted the bytes");
                    self.resident += page.capacity();
                    self.open = Some(Open { segment, position, start: page.len(), page });
                    continue;
                }
                let now = part.len().min(open.page.spare_len());
                open.page.put(&part[..now]);
                part = &part[now..];
            }
        }
        Ok(())
    }

    /// The page that an append of `len` bytes at `position` needs beyond those at hand.
    fn fresh_page(
        &mut self,
        position: u64,
        len: usize,
        pool: &mut PagePool,
    ) -> Result<Option<PageWriter>, NoPages> {
        let copied = (position - align_down(position)) as usize;
        let (room, needed) = match (&self.open, &self.rest) {
            (Some(open), _) => (open.page.spare_len(), len),
            // A rest too small for the copied block is not worth keeping.
            (None, Some(rest)) if rest.spare_len() > copied => (rest.spare_len(), len + copied),
            (None, _) => {
                self.drop_rest();
                (0, len + copied)
            }
        };
        if needed <= room {
            return Ok(None);
        }
        let hint = self.last_submission.next_power_of_two().clamp(TAIL_PAGE_MIN, TAIL_PAGE_MAX);
        pool.allocate((needed - room).max(hint)).map(Some).ok_or(NoPages)
    }

    /// Starts the open extent for an append at `position`, with a copy of the
    /// partial block before it.
    fn reopen(&mut self, segment: i64, position: u64, mut page: PageWriter) {
        let (start, aligned) = (page.len(), align_down(position));
        let copied = (position - aligned) as usize;
        let mut superseded = false;
        if copied > 0 {
            let last = self.extents.back_mut().expect("a partial block is resident");
            assert!(last.segment == segment && last.end() == position, "the tail is contiguous");
            let keep = last.len - copied;
            page.put(&last.padded[keep..last.len]);
            last.keep_blocks(keep);
            superseded = keep == 0;
        }
        self.open = Some(Open { segment, position: aligned, start, page });
        if superseded {
            self.drop_last();
        }
    }

    /// Ends the open extent, padding its last block. What is left of the page
    /// serves the next one.
    fn freeze(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        let len = open.page.len() - open.start;
        open.page.pad_to_block();
        if len > 0 {
            self.extents.push_back(Extent {
                segment: open.segment,
                position: open.position,
                len,
                padded: open.page.slice(open.start..open.page.len()),
            });
        }
        let useful = open.page.spare_len() >= BLOCK;
        self.rest = Some(open.page);
        if !useful {
            self.drop_rest();
        }
    }

    /// Lets go of `rest`. The page counts until no extent has it either; extents
    /// of one page are neighbours, and those of the page being filled the last.
    fn drop_rest(&mut self) {
        let Some(page) = self.rest.take() else { return };
        if !self.extents.back().is_some_and(|last| page.holds(&last.padded)) {
            self.resident -= page.capacity();
        }
    }

    /// Lets go of the first extent.
    fn drop_first(&mut self) {
        let Some(first) = self.extents.pop_front() else { return };
        if !self.extents.front().is_some_and(|next| next.padded.shares_page(&first.padded)) {
            self.forget_page(&first.padded);
        }
    }

    /// Lets go of the last extent.
    fn drop_last(&mut self) {
        let Some(last) = self.extents.pop_back() else { return };
        if !self.extents.back().is_some_and(|before| before.padded.shares_page(&last.padded)) {
            self.forget_page(&last.padded);
        }
    }

    /// No extent has the page of `slice` any more.
    fn forget_page(&mut self, slice: &PageSlice) {
        let open = self.open.as_ref().map(|open| &open.page);
        if !open.or(self.rest.as_ref()).is_some_and(|page| page.holds(slice)) {
            self.resident -= slice.page_len();
        }
    }

    /// Adds to `rope` the blocks of `segment` from the one that holds `range.start`
    /// to the one that holds `range.end`, where the segment's resident bytes
    /// must end, padded with zeros. They never change from here on.
    pub fn submit(&mut self, segment: i64, range: Range<u64>, rope: &mut Rope) {
        let (start, end) = (align_down(range.start), range.end);
        self.last_submission = (end - start) as usize;
        let open = self.open.as_ref().filter(|open| open.segment == segment);
        if let Some(open) = open {
            assert_eq!(open.end(), end, "a submission takes all there is");
            if !end.is_multiple_of(BLOCK as u64) {
                self.freeze();
            }
        }
        let before = rope.len();
        self.collect(segment, start..align_up(end), true, rope);
        assert_eq!((rope.len() - before) as u64, align_up(end) - start, "all of it is resident");
    }

    /// Puts the last partial block of a loaded segment in place: `bytes` starts
    /// at the block-aligned `position` and ends where the segment ends.
    pub fn restore(&mut self, segment: i64, position: u64, bytes: PageSlice) {
        assert!(position.is_multiple_of(BLOCK as u64) && self.open.is_none());
        self.shrunk = false;
        self.resident += bytes.page_len();
        self.extents.push_back(Extent { segment, position, len: bytes.len(), padded: bytes });
    }

    /// Forgets bytes of `segment` at and beyond `position`, and of later segments.
    pub fn truncate(&mut self, segment: i64, position: u64) {
        self.freeze();
        while let Some(last) = self.extents.back_mut()
            && (last.segment > segment || (last.segment == segment && last.end() > position))
        {
            if last.segment == segment && last.position < position {
                // Forgotten bytes stay behind the partial block until the next
                // append copies it; nothing submits it before that.
                last.len = (position - last.position) as usize;
            } else {
                self.drop_last();
            }
        }
    }

    /// After [`Tail::truncate`]: makes sure that nothing forgotten stands behind the end
    /// in its block. False if there is no page to copy the block to.
    pub fn clean_end(&mut self, pool: &mut PagePool) -> bool {
        // Its page takes no more: the next append continues in the copy.
        self.drop_rest();
        let Some(last) = self.extents.back_mut() else { return true };
        let copied = (last.end() - align_down(last.end())) as usize;
        if copied == 0 {
            last.padded.narrow(0..last.len);
            return true;
        }
        let Some(mut page) = pool.allocate(BLOCK) else { return false };
        let (segment, position, keep) = (last.segment, align_down(last.end()), last.len - copied);
        page.put(&last.padded[keep..last.len]);
        page.pad_to_block();
        last.keep_blocks(keep);
        if keep == 0 {
            self.drop_last();
        }
        let padded = page.slice(0..BLOCK);
        self.resident += padded.page_len();
        self.extents.push_back(Extent { segment, position, len: copied, padded });
        true
    }

    /// Lets go of the oldest extents that end at or before `position` of
    /// `segment`, until `bytes` of memory are freed; returns how many were. The
    /// last extent stays: it may hold the partial block that the next append needs.
    pub fn evict(&mut self, segment: i64, position: u64, bytes: usize) -> usize {
        let before = self.resident;
        while before - self.resident < bytes && self.extents.len() > 1 {
            let first = &self.extents[0];
            if (first.segment, first.end()) > (segment, position) {
                break;
            }
            self.drop_first();
        }
        before - self.resident
    }

    /// Lets go of all that is not of `segment` or a later one. All of it must be
    /// durable, and nothing appended to it any more.
    pub fn forget_before(&mut self, segment: i64) {
        if self.open.as_ref().is_some_and(|open| open.segment < segment) {
            self.freeze();
        }
        while self.extents.front().is_some_and(|first| first.segment < segment) {
            self.drop_first();
        }
    }

    /// Lets go of everything but the partial block that the next append needs,
    /// which moves to `spare`, an empty page. All there is must be on disk. False
    /// if that was done before, or there is no page.
    pub fn shrink(&mut self, spare: &mut Option<PageWriter>) -> bool {
        if self.shrunk || spare.is_none() {
            return false;
        }
        self.freeze();
        self.shrunk = true;
        self.rest = None;
        let last = self.extents.pop_back();
        self.extents.clear();
        self.resident = 0;
        let Some(last) = last else { return true };
        let position = align_down(last.end());
        let len = (last.end() - position) as usize;
        if len > 0
            && let Some(mut page) = spare.take()
        {
            page.put(&last.padded[last.len - len..last.len]);
            page.pad_to_block();
            let padded = page.slice(0..BLOCK);
            self.resident = padded.page_len();
            self.extents.push_back(Extent { segment: last.segment, position, len, padded });
        }
        true
    }

    /// Adds to `rope` the bytes of `segment` from `range.start`, up to
    /// `range.end` or the end of what is resident. Nothing is added, and false
    /// returned, if the first byte is not resident.
    pub fn read(&self, segment: i64, range: Range<u64>, rope: &mut Rope) -> bool {
        let before = rope.len();
        self.collect(segment, range, false, rope);
        rope.len() > before
    }

    /// The batch header at `position` of `segment`, if it is resident.
    pub fn header(&self, segment: i64, position: u64) -> Option<BatchHeader> {
        let mut bytes = [0; HEADER_LEN];
        let mut filled = 0;
        let mut at = self.find(segment, position);
        while filled < HEADER_LEN {
            let here = position + filled as u64;
            let run = match self.extents.get(at) {
                Some(extent) if extent.segment == segment && extent.position <= here => {
                    &extent.padded[(here - extent.position) as usize..extent.len]
                }
                Some(_) => return None,
                None => {
                    let open = self.open.as_ref().filter(|open| {
                        open.segment == segment && open.position <= here && here < open.end()
                    })?;
                    &open.page.filled()[open.start + (here - open.position) as usize..]
                }
            };
            let now = run.len().min(HEADER_LEN - filled);
            bytes[filled..filled + now].copy_from_slice(&run[..now]);
            filled += now;
            at += 1;
        }
        BatchHeader::decode(&bytes)
    }

    /// Index of the first frozen extent that ends behind `position`.
    fn find(&self, segment: i64, position: u64) -> usize {
        self.extents.partition_point(|extent| (extent.segment, extent.end()) <= (segment, position))
    }

    /// Adds resident bytes from `range.start` on, as far as they are contiguous;
    /// `padded` includes the zeros behind a frozen end.
    fn collect(&self, segment: i64, range: Range<u64>, padded: bool, rope: &mut Rope) {
        let mut at = range.start;
        for extent in self.extents.range(self.find(segment, at)..) {
            if at >= range.end || extent.segment != segment || extent.position > at {
                break;
            }
            let len = if padded { extent.padded.len() } else { extent.len };
            let end = (extent.position + len as u64).min(range.end);
            let local = |position: u64| (position - extent.position) as usize;
            rope.push(extent.padded.slice(local(at)..local(end)));
            at = end;
        }
        if at < range.end
            && let Some(open) = &self.open
            && open.segment == segment
            && open.position <= at
            && at < open.end()
        {
            rope.push(open.slice(at..open.end().min(range.end)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// A tail, the bytes it should hold, and the file its submissions built.
    struct Model {
        tail: Tail,
        pool: PagePool,
        log: Vec<u8>,
        file: Vec<u8>,
        submitted: usize,
        /// What was handed out, with what it said then.
        lent: Vec<(Rope, Vec<u8>)>,
    }

    impl Model {
        fn new() -> Self {
            Self {
                tail: Tail::default(),
                pool: PagePool::new(64 << 20),
                log: vec![],
                file: vec![],
                submitted: 0,
                lent: vec![],
            }
        }

        fn append(&mut self, bytes: &[u8]) {
            let (a, b) = bytes.split_at(bytes.len().min(12));
            let position = self.log.len() as u64;
            self.tail.append(0, position, [a, b], &mut self.pool).expect("within budget");
            self.log.extend_from_slice(bytes);
        }

        fn submit(&mut self) {
            let mut rope = Rope::default();
            self.tail.submit(0, self.submitted as u64..self.log.len() as u64, &mut rope);
            let start = align_down(self.submitted as u64) as usize;
            self.file.truncate(start);
            self.file.extend_from_slice(&rope.to_vec());
            self.submitted = self.log.len();
            let bytes = rope.to_vec();
            self.lent.push((rope, bytes));
        }

        fn check(&self, start: usize) {
            let mut rope = Rope::default();
            if self.tail.read(0, start as u64..u64::MAX, &mut rope) {
                assert_eq!(rope.to_vec(), &self.log[start..], "from {start}");
            }
            for (rope, bytes) in &self.lent {
                assert!(rope.to_vec() == *bytes, "submitted bytes changed");
            }
        }
    }

    #[test]
    fn what_is_read_and_what_is_written_is_what_was_appended() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut model = Model::new();
            for step in 0..60 {
                match rng.below(4) {
                    0 | 1 => {
                        let max = [100, 5_000, 70_000][rng.below(3) as usize];
                        let bytes: Vec<u8> =
                            (0..rng.between(1, max)).map(|at| (at + step) as u8 | 1).collect();
                        model.append(&bytes);
                    }
                    2 if model.submitted < model.log.len() => model.submit(),
                    2 => drop(model.tail.shrink(&mut model.pool.allocate(BLOCK))),
                    _ => {
                        model.lent.clear();
                        model.tail.evict(0, model.submitted as u64, 8_192);
                        assert_eq!(model.tail.resident(), model.pool.in_use(), "seed {seed}");
                    }
                }
                model.check(rng.below(model.log.len() as u64 + 1) as usize);
            }
            model.submit_if_pending();
            assert_eq!(&model.file[..model.log.len()], &model.log[..], "seed {seed}");
            assert!(model.file[model.log.len()..].iter().all(|byte| *byte == 0));
            assert!(model.file.len().is_multiple_of(BLOCK));
        }
    }

    impl Model {
        fn submit_if_pending(&mut self) {
            if self.submitted < self.log.len() {
                self.submit();
            }
        }
    }

    #[test]
    fn a_rolled_segment_is_submitted_after_the_next_one_began() {
        let mut pool = PagePool::new(1 << 20);
        let mut tail = Tail::default();
        tail.append(0, 0, [b"old", b""], &mut pool).expect("within budget");
        tail.append(7, 0, [b"new", b""], &mut pool).expect("within budget");
        for (segment, text) in [(0, b"old"), (7, b"new")] {
            let mut rope = Rope::default();
            tail.submit(segment, 0..3, &mut rope);
            let mut block = [0; BLOCK];
            block[..3].copy_from_slice(text);
            assert_eq!(rope.to_vec(), block);
        }
    }

    #[test]
    fn truncation_forgets_and_appends_go_on() {
        let mut pool = PagePool::new(1 << 20);
        let mut tail = Tail::default();
        tail.append(0, 0, [b"keep", b"drop"], &mut pool).expect("within budget");
        tail.append(9, 0, [b"gone", b""], &mut pool).expect("within budget");
        tail.truncate(0, 4);
        assert_eq!(tail.resident(), pool.in_use());
        tail.append(0, 4, [b"!", b""], &mut pool).expect("within budget");
        let mut rope = Rope::default();
        tail.submit(0, 0..5, &mut rope);
        assert_eq!(&rope.to_vec()[..8], b"keep!\0\0\0");
    }

    #[test]
    fn a_shrunk_tail_keeps_one_block_and_goes_on() {
        let mut pool = PagePool::new(1 << 20);
        for len in [10_000, 8_192, 1] {
            let mut tail = Tail::default();
            tail.append(0, 0, [&vec![1; len], b""], &mut pool).expect("within budget");
            tail.submit(0, 0..len as u64, &mut Rope::default());
            let mut spare = pool.allocate(BLOCK);
            assert!(tail.shrink(&mut spare) && !tail.shrink(&mut spare));
            assert_eq!(spare.is_some(), len % BLOCK == 0, "a page is taken if it is needed");
            drop(spare);
            assert_eq!(tail.resident(), if len % BLOCK == 0 { 0 } else { BLOCK });
            assert_eq!(pool.in_use(), tail.resident());
            tail.append(0, len as u64, [&[2], b""], &mut pool).expect("within budget");
            let mut rope = Rope::default();
            tail.submit(0, len as u64..len as u64 + 1, &mut rope);
            let start = len - len % BLOCK;
            assert_eq!(&rope.to_vec()[..=len - start], [vec![1; len - start], vec![2]].concat());
        }
    }

    #[test]
    fn without_pages_nothing_changes() {
        let mut pool = PagePool::new(BLOCK);
        let mut tail = Tail::default();
        tail.append(0, 0, [&[1; 4000], b""], &mut pool).expect("within budget");
        assert_eq!(tail.append(0, 4000, [&[2; 200], b""], &mut pool), Err(NoPages));
        assert_eq!(tail.resident(), BLOCK);
        tail.append(0, 4000, [&[3; 96], b""], &mut pool).expect("fits the page");
    }
}
