//! An answer under construction: encoded bytes with places for records.

use crate::base::pages::{PagePool, PageWriter};
use crate::base::rope::Rope;
use crate::wire::fetch::Cut;

/// Size of the pages that encoded heads are put into, one after another.
const HEADS_PAGE: usize = 64 << 10;

/// Encoded bytes, and the records that belong between them.
#[derive(Debug, Default)]
pub struct Answer {
    /// What was encoded.
    pub bytes: Vec<u8>,
    /// Where records belong, in order.
    pub cuts: Vec<Cut>,
    /// The records, one rope per cut.
    pub records: Vec<Rope>,
    /// The page that takes the next encoded bytes.
    page: Option<PageWriter>,
}

/// The core has no page for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPages;

impl Answer {
    /// Moves the answer into `rope`, leaving this empty for the next one. Records
    /// are moved, not copied.
    pub fn finish(
        &mut self,
        rope: &mut Rope,
        spare: &mut Vec<Rope>,
        pool: &mut PagePool,
    ) -> Result<(), NoPages> {
        let result = self.fill(rope, pool);
        self.bytes.clear();
        self.cuts.clear();
        for mut records in self.records.drain(..) {
            records.clear();
            spare.push(records);
        }
        result
    }

    /// Forgets what was encoded.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.cuts.clear();
        self.records.clear();
    }

    fn fill(&mut self, rope: &mut Rope, pool: &mut PagePool) -> Result<(), NoPages> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        if self.page.as_ref().is_none_or(|page| page.spare_len() < self.bytes.len()) {
            let reset = self
                .page
                .as_mut()
                .is_some_and(|page| page.capacity() >= self.bytes.len() && page.reset());
            if !reset {
                let len = self.bytes.len().max(HEADS_PAGE);
                self.page = Some(pool.allocate(len).ok_or(NoPages)?);
            }
        }
        let page = self.page.as_mut().expect("made above");
        let start = page.len();
        page.put(&self.bytes);
        let mut at = 0;
        for (cut, records) in self.cuts.iter().zip(&mut self.records) {
            assert_eq!(cut.len, records.len(), "a cut takes the records it was made for");
            rope.push(page.slice(start + at..start + cut.at));
            rope.append(records);
            at = cut.at;
        }
        rope.push(page.slice(start + at..start + self.bytes.len()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_go_where_the_cuts_are_and_pages_serve_again() {
        let mut pool = PagePool::new(256 << 10);
        let mut page = pool.allocate(3).expect("within budget");
        page.put(b"123");
        let mut answer = Answer::default();
        for _ in 0..100_000 {
            answer.bytes.extend_from_slice(b"headtail");
            answer.cuts.push(Cut { at: 4, len: 3 });
            let mut records = Rope::default();
            records.push(page.slice(0..3));
            answer.records.push(records);
            let mut rope = Rope::default();
            answer.finish(&mut rope, &mut vec![], &mut pool).expect("pages come back");
            assert_eq!(rope.to_vec(), b"head123tail");
        }
    }
}
