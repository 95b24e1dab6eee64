//! The auditor reads every partition from its start to its high watermark and
//! compares it with all that was ever acknowledged or seen.

use std::collections::{BTreeMap, VecDeque};

use corelane::base::rng::Rng;

use crate::client::{Link, Request, Shared};
use crate::consumer::{Ask, Shape, fetch, fetched};
use crate::file::pick;
use crate::model::{Tp, name};
use crate::queue::MS;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const STORAGE_ERROR: i16 = 56;

/// An auditor.
#[derive(Default)]
pub struct Auditor {
    todo: VecDeque<Tp>,
    position: i64,
    /// Where the log starts.
    from: i64,
    /// Where to stop: the high watermark when the partition was begun.
    end: Option<i64>,
    found: BTreeMap<i64, u64>,
    next_at: u64,
    generation: u64,
}

impl Auditor {
    /// Begins with all partitions of living topics.
    pub fn begin(&mut self, shared: &Shared) {
        self.todo = shared.model.living().into();
        self.restart();
    }

    pub fn is_done(&self) -> bool {
        self.todo.is_empty()
    }

    fn restart(&mut self) {
        self.position = 0;
        self.from = 0;
        self.end = None;
        self.found.clear();
    }

    pub fn act(&mut self, link: &mut Link, shared: &mut Shared) -> u64 {
        let now = shared.queue.now();
        while self.todo.front().is_some_and(|tp| shared.model.is_dying(tp.0)) {
            self.todo.pop_front();
            self.restart();
        }
        if link.open() > 0 {
            return u64::MAX;
        }
        let Some(tp) = self.todo.front().copied() else { return u64::MAX };
        if now < self.next_at {
            return self.next_at;
        }
        if self.generation != link.generation {
            // Another run of the broker may have begun.
            self.generation = link.generation;
            self.restart();
        }
        let bytes = *pick(&mut link.rng, &[2_000, 300_000, 4 << 20]);
        let shape =
            Shape { max_wait_ms: 10, min_bytes: 1, max_bytes: bytes, partition_bytes: bytes };
        let version = between(&mut link.rng, 13, 18);
        fetch(link, shared, &Ask::whole(version, &[(tp, self.position)], shape));
        u64::MAX
    }

    pub fn answered(
        &mut self,
        _: &mut Link,
        shared: &mut Shared,
        request: Request,
        frame: Vec<u8>,
    ) {
        // What a dead broker said last may come late, and be lost by now.
        let stale = request.life < shared.model.life;
        for row in fetched(shared, request, frame, None).rows {
            if stale {
                self.restart();
                continue;
            }
            let asked_now = self.todo.front() == Some(&row.tp) && row.offset == self.position;
            if !asked_now || shared.model.is_dying(row.tp.0) {
                continue;
            }
            if row.error == OFFSET_OUT_OF_RANGE
                && let Some(start) = row.start
                && start > row.offset
            {
                // Deleted before the audit, or while it was under way.
                self.position = start;
                self.from = start;
                continue;
            }
            if row.error != 0 {
                assert!(
                    [3, 6, 56, 100].contains(&row.error),
                    "an audit of {} got error {}",
                    name(row.tp),
                    row.error
                );
                if shared.calm && row.error == STORAGE_ERROR && shared.model.is_damaged(row.tp) {
                    // Offline for good.
                    shared.model.offline.insert(row.tp);
                    self.todo.pop_front();
                    self.restart();
                }
                self.next_at = shared.queue.now() + 20 * MS;
                continue;
            }
            let end = *self.end.get_or_insert(row.high_watermark);
            for (attempt, header) in row.batches {
                self.found.insert(header.base_offset, attempt);
                self.position = header.next_offset();
            }
            if self.position >= end {
                shared.model.audited(row.tp, &self.found, self.from, end);
                shared.coverage.one("audited partitions");
                self.todo.pop_front();
                self.restart();
            }
        }
    }
}

fn between(rng: &mut Rng, low: u64, high: u64) -> i16 {
    rng.between(low, high) as i16
}
