//! Memory for frames that come in, shared by the connections of one core.
//!
//! Three quarters are for all frames that grow, and an eighth more for that of the
//! one connection that is favoured, so that one of those that wait gets on. The
//! last eighth is for what comes first: the bytes that a connection without a page
//! has just received. So clients with small requests and new clients are served
//! while large frames wait.

use crate::base::pages::{PagePool, PageWriter};

/// Pages of received bytes.
#[derive(Debug)]
pub struct ReceiveMemory {
    pool: PagePool,
}

impl ReceiveMemory {
    /// At most `budget` bytes.
    pub fn new(budget: usize) -> Self {
        Self { pool: PagePool::new(budget) }
    }

    /// The largest frame that can be received: while it grows its page is there
    /// twice, the second one larger.
    pub fn frame_max(&self) -> usize {
        self.pool.budget() / 16 * 7
    }

    /// Bytes that may be in use.
    pub fn budget(&self) -> usize {
        self.pool.budget()
    }

    /// Bytes in use.
    pub fn in_use(&mut self) -> usize {
        self.pool.in_use()
    }

    /// A page for a frame that grows.
    pub fn grow(&mut self, len: usize, favoured: bool) -> Option<PageWriter> {
        let eighths = if favoured { 7 } else { 6 };
        if self.pool.in_use() + len > self.pool.budget() / 8 * eighths {
            return None;
        }
        self.pool.allocate(len)
    }

    /// A page for `least` bytes that have come, with room for `wanted` if there is
    /// plenty.
    pub fn first(&mut self, least: usize, wanted: usize) -> Option<PageWriter> {
        let roomy = if wanted > least { self.grow(wanted, false) } else { None };
        roomy.or_else(|| self.pool.allocate(least))
    }
}
