//! Moments to come, earliest first, each with what it is for.
//!
//! A binary heap whose entries know their place, so that a deadline that is no
//! longer needed leaves at once, wherever it is. Tables keep their room: a
//! steady flow of deadlines does not allocate.

use super::slab::Slab;
use super::time::Instant;

/// Deadlines of things described by `T`.
#[derive(Debug)]
pub struct Deadlines<T> {
    /// Moments and rows. No entry is earlier than its parent, which stands at
    /// half its place.
    heap: Vec<(Instant, u32)>,
    rows: Slab<Row<T>>,
    next_number: u64,
}

#[derive(Debug)]
struct Row<T> {
    what: T,
    place: usize,
    number: u64,
}

/// Names a deadline, and never another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadlineId {
    row: u32,
    /// Zero is given to none.
    number: u64,
}

impl<T> Default for Deadlines<T> {
    fn default() -> Self {
        Self { heap: Vec::new(), rows: Slab::default(), next_number: 0 }
    }
}

impl<T> Deadlines<T> {
    /// Adds a deadline.
    pub fn insert(&mut self, at: Instant, what: T) -> DeadlineId {
        self.next_number += 1;
        let (place, number) = (self.heap.len(), self.next_number);
        let row = self.rows.insert(Row { what, place, number });
        self.heap.push((at, row));
        self.rise(place);
        DeadlineId { row, number }
    }

    /// Removes a deadline, unless it has gone already.
    pub fn remove(&mut self, id: DeadlineId) {
        if let Some(row) = self.rows.get(id.row).filter(|row| row.number == id.number) {
            self.take(row.place);
        }
    }

    /// The earliest moment.
    pub fn first(&self) -> Option<Instant> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// Removes the earliest deadline if its moment is not after `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<T> {
        self.first().is_some_and(|at| at <= now).then(|| self.take(0))
    }

    /// Removes the entry at `place`; the last one takes it.
    fn take(&mut self, place: usize) -> T {
        let (_, row) = self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.note(place);
            let place = self.rise(place);
            self.sink(place);
        }
        self.rows.remove(row).expect("every entry has a row").what
    }

    /// Moves an entry ahead of its later parents; returns where it ends.
    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].0 <= self.heap[place].0 {
                break;
            }
            self.swap(parent, place);
            place = parent;
        }
        place
    }

    /// Moves an entry behind its earlier children.
    fn sink(&mut self, mut place: usize) {
        loop {
            let children = 2 * place + 1..self.heap.len().min(2 * place + 3);
            let Some(child) = children.min_by_key(|child| self.heap[*child].0) else { return };
            if self.heap[place].0 <= self.heap[child].0 {
                return;
            }
            self.swap(place, child);
            place = child;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.note(a);
        self.note(b);
    }

    /// Tells the row of the entry at `place` where it is.
    fn note(&mut self, place: usize) {
        let row = self.rows.get_mut(self.heap[place].1);
        row.expect("every entry has a row").place = place;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::base::rng::Rng;

    #[test]
    fn whatever_leaves_early_the_rest_comes_due_in_order() {
        for seed in 0..100 {
            let mut rng = Rng::new(seed);
            let mut deadlines = Deadlines::default();
            let mut model = BTreeMap::new();
            let (mut ids, mut now) = (vec![], 0);
            for what in 0..500_u64 {
                let at = now + rng.below(50);
                ids.push((at, what, deadlines.insert(Instant::from_nanos(at), (at, what))));
                model.insert((at, what), ());
                if rng.below(2) == 0 {
                    let (at, what, id) = ids[rng.below(ids.len() as u64) as usize];
                    deadlines.remove(id);
                    model.remove(&(at, what));
                }
                now += rng.below(3);
                while let Some((at, what)) = deadlines.pop_due(Instant::from_nanos(now)) {
                    let first = *model.first_key_value().expect("the model has it too").0;
                    assert_eq!(at, first.0, "seed {seed}");
                    assert!(model.remove(&(at, what)).is_some());
                }
                let first = model.first_key_value().map(|((at, _), ())| *at);
                assert!(first.is_none_or(|at| at > now));
                assert_eq!(deadlines.first(), first.map(Instant::from_nanos));
            }
        }
    }
}
