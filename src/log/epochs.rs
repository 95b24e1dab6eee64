//! Which leader epoch began at which offset (`LeaderEpochFileCache.java`,
//! KIP-101), and its file `leader-epoch-checkpoint`.

use crate::model::ids::LeaderEpoch;

/// Epochs and their first offsets, both increasing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: Vec<(LeaderEpoch, i64)>,
}

impl LeaderEpochs {
    /// Notes that a batch of `epoch` starts at `offset`. True if that is news.
    pub fn note(&mut self, epoch: LeaderEpoch, offset: i64) -> bool {
        let news = self.entries.last().is_none_or(|(last, _)| *last < epoch);
        if news {
            self.entries.push((epoch, offset));
        }
        news
    }

    /// The newest epoch.
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|(epoch, _)| *epoch)
    }

    /// The epoch that `offset` lies in, if it is known.
    pub fn at(&self, offset: i64) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|(_, start)| *start <= offset);
        after.checked_sub(1).map(|at| self.entries[at].0)
    }

    /// Where `requested` ends: the largest epoch known up to it and the start of
    /// the next one, in a log that ends at `end_offset` and whose leader has the
    /// epoch `current`, whether or not it has written anything. `None` for an
    /// epoch that is not known (`LeaderEpochFileCache.endOffsetFor`).
    pub fn end_of(
        &self,
        requested: LeaderEpoch,
        current: LeaderEpoch,
        end_offset: i64,
    ) -> Option<(LeaderEpoch, i64)> {
        if requested == self.latest().map_or(current, |latest| latest.max(current)) {
            return Some((requested, end_offset));
        }
        let after = self.entries.partition_point(|(epoch, _)| *epoch <= requested);
        let end = match self.entries.get(after) {
            Some((_, start)) => *start,
            None if requested < current => end_offset,
            None => return None,
        };
        let known = after.checked_sub(1).map_or(requested, |at| self.entries[at].0);
        (requested.0 >= 0).then_some((known, end))
    }

    /// Forgets epochs that begin at or beyond `end_offset`.
    pub fn truncate(&mut self, end_offset: i64) {
        self.entries.retain(|(_, start)| *start < end_offset);
    }

    /// Forgets what lies before `start`: the epoch at that offset begins there.
    /// True if anything changed.
    pub fn truncate_start(&mut self, start: i64) -> bool {
        let before = self.entries.partition_point(|(_, first)| *first <= start);
        let Some(last) = before.checked_sub(1) else { return false };
        let changed = last > 0 || self.entries[last].1 < start;
        self.entries.drain(..last);
        self.entries[0].1 = start;
        changed
    }

    /// Kafka's checkpoint file: version, count, one `epoch offset` a line. There is
    /// no checksum: every line is there twice, which Kafka's reader passes over.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!("0\n{}\n", 2 * self.entries.len());
        for (epoch, start) in &self.entries {
            let row = format!("{} {start}\n", epoch.0);
            text.push_str(&row);
            text.push_str(&row);
        }
        text.into_bytes()
    }

    /// Reads the checkpoint file, or `None` if it makes no sense.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        if lines.next()? != "0" {
            return None;
        }
        let count: usize = lines.next()?.parse().ok()?;
        let mut epochs = Self::default();
        while let Some(line) = lines.next() {
            if lines.next() != Some(line) {
                return None;
            }
            let (epoch, start) = line.split_once(' ')?;
            let start: i64 = start.parse().ok()?;
            let increases = epochs.entries.last().is_none_or(|(_, last)| *last <= start);
            if !increases || !epochs.note(LeaderEpoch(epoch.parse().ok()?), start) {
                return None;
            }
        }
        (2 * epochs.entries.len() == count).then_some(epochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_epoch_is_the_start_of_the_next_one() {
        let mut epochs = LeaderEpochs::default();
        for (epoch, start) in [(2, 10), (4, 20), (5, 30)] {
            epochs.note(LeaderEpoch(epoch), start);
        }
        // Requested, the leader's, what is meant and where it ends.
        let table = [
            (-1, 5, None),
            (0, 5, Some((0, 10))),
            (2, 5, Some((2, 20))),
            (3, 5, Some((2, 20))),
            (4, 5, Some((4, 30))),
            (5, 5, Some((5, 40))),
            (6, 5, None),
            (5, 7, Some((5, 40))),
            (6, 7, Some((5, 40))),
            (7, 7, Some((7, 40))),
            (8, 7, None),
        ];
        for (requested, current, expected) in table {
            let end = epochs.end_of(LeaderEpoch(requested), LeaderEpoch(current), 40);
            let end = end.map(|(epoch, end)| (epoch.0, end));
            assert_eq!(end, expected, "{requested} of {current}");
        }
        let empty = LeaderEpochs::default();
        assert_eq!(empty.end_of(LeaderEpoch(0), LeaderEpoch(0), 0), Some((LeaderEpoch(0), 0)));
        assert_eq!(empty.end_of(LeaderEpoch(1), LeaderEpoch(0), 0), None);
        assert_eq!((epochs.at(9), epochs.at(25)), (None, Some(LeaderEpoch(4))));
    }

    #[test]
    fn the_file_gives_the_epochs_back_and_nonsense_is_refused() {
        let mut epochs = LeaderEpochs::default();
        assert!(epochs.note(LeaderEpoch(0), 0) && epochs.note(LeaderEpoch(3), 10));
        assert!(!epochs.note(LeaderEpoch(3), 11) && !epochs.note(LeaderEpoch(1), 12));
        assert_eq!(epochs.encode(), b"0\n4\n0 0\n0 0\n3 10\n3 10\n");
        assert_eq!(LeaderEpochs::decode(&epochs.encode()), Some(epochs.clone()));
        for bad in [
            "",
            "1\n0\n",
            "0\n2\n",
            "0\n2\n0\n0\n",
            "0\n4\n1 0\n1 0\n0 5\n0 5\n",
            "0\n2\n0 5\n0 7\n",
        ] {
            assert_eq!(LeaderEpochs::decode(bad.as_bytes()), None, "{bad:?}");
        }
        let mut later = epochs.clone();
        assert!(!later.truncate_start(-1) && !later.truncate_start(0));
        assert!(later.truncate_start(4) && !later.truncate_start(4));
        assert_eq!(later.encode(), b"0\n4\n0 4\n0 4\n3 10\n3 10\n");
        assert!(later.truncate_start(12));
        assert_eq!(later.encode(), b"0\n2\n3 12\n3 12\n");
        epochs.truncate(10);
        assert_eq!(epochs.latest(), Some(LeaderEpoch(0)));
    }
}
