//! The mirror in memory of the durable log, which the `raft` crate reads.
//!
//! It holds the ballot, the configuration and the entries behind the newest
//! snapshot. Recovery fills it; after that it grows by what is on its way to
//! the disk, so the crate's own bookkeeping says which part is durable.

use std::collections::VecDeque;

use ::raft::eraftpb;
use ::raft::prelude::{ConfState, HardState};
use ::raft::{Error, GetEntriesContext, RaftState, Storage, StorageError, util};

use super::frame::Frame;
use super::snapshot::Snapshot;
use super::{Ballot, Entry};

/// The mirror.
#[derive(Clone, Debug)]
pub struct Store {
    ballot: Ballot,
    voters: Vec<u64>,
    /// Index and term of the entry before the first one held.
    base: (u64, u64),
    entries: VecDeque<eraftpb::Entry>,
}

/// Frames that cannot follow each other, though each is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Entries are missing.
    #[error("the metadata log is corrupt: entry {found} follows entry {last}")]
    Gap {
        /// The entry before.
        last: u64,
        /// The entry found.
        found: u64,
    },
    /// The ballot names a committed entry that is not there.
    #[error("the metadata log is corrupt: entry {commit} is committed, the last one is {last}")]
    Lost {
        /// Known to be committed.
        commit: u64,
        /// The last entry found.
        last: u64,
    },
}

impl Store {
    /// What `snapshot` and the frames of the log behind it hold.
    pub fn recover(snapshot: &Snapshot, frames: Vec<Frame>) -> Result<Self, LogError> {
        let mut store = Self {
            ballot: snapshot.ballot,
            voters: snapshot.voters.clone(),
            base: (snapshot.index, snapshot.term),
            entries: VecDeque::new(),
        };
        for frame in frames {
            match frame {
                Frame::Ballot(ballot) => store.ballot = ballot,
                // A segment that was begun before the snapshot starts with what it covers.
                Frame::Entry(entry) if entry.index <= snapshot.index => {}
                Frame::Entry(entry) => {
                    let last = store.last();
                    if entry.index > last + 1 {
                        return Err(LogError::Gap { last, found: entry.index });
                    }
                    store.append(entry);
                }
            }
        }
        let (commit, last) = (store.ballot.commit, store.last());
        if commit > last {
            return Err(LogError::Lost { commit, last });
        }
        // A segment that was begun before the snapshot may have an older ballot.
        if store.ballot.term < snapshot.ballot.term {
            store.ballot = snapshot.ballot;
        }
        store.ballot.commit = commit.max(snapshot.index);
        Ok(store)
    }

    /// The ballot.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Replaces the ballot.
    pub fn set_ballot(&mut self, ballot: Ballot) {
        self.ballot = ballot;
    }

    /// The voters' Raft ids.
    pub fn voters(&self) -> &[u64] {
        &self.voters
    }

    /// Index of the last entry.
    pub fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    /// The term of entry `index`, if it is known.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        let at = index.checked_sub(self.base.0 + 1)?;
        Some(self.entries.get(usize::try_from(at).ok()?)?.term)
    }

    /// Adds `entry`, dropping it and all after it if it is there already.
    ///
    /// # Panics
    /// If an entry between is missing, or the entry is in the snapshot.
    pub fn append(&mut self, entry: Entry) {
        assert!(
            entry.index > self.base.0 && entry.index <= self.last() + 1,
            "entries are in order"
        );
        self.entries.truncate((entry.index - self.base.0 - 1) as usize);
        self.entries.push_back(eraftpb::Entry {
            index: entry.index,
            term: entry.term,
            data: entry.data.into(),
            ..Default::default()
        });
    }

    /// The entries behind `index`.
    pub fn entries_after(&self, index: u64) -> Vec<Entry> {
        let skip = index.saturating_sub(self.base.0) as usize;
        self.entries.iter().skip(skip).map(from_raft).collect()
    }

    /// Forgets the entries up to `index`, which a snapshot now holds.
    ///
    /// # Panics
    /// If `index` is not held.
    pub fn compact(&mut self, index: u64) {
        let term = self.term_of(index).expect("a snapshot is of an entry that is held");
        self.entries.drain(..(index - self.base.0) as usize);
        self.base = (index, term);
    }
}

/// Our form of the crate's entry.
pub fn from_raft(entry: &eraftpb::Entry) -> Entry {
    Entry { index: entry.index, term: entry.term, data: entry.data.to_vec() }
}

impl Storage for Store {
    fn initial_state(&self) -> ::raft::Result<RaftState> {
        let Ballot { term, vote, commit } = self.ballot;
        let hard_state = HardState { term, vote, commit, ..Default::default() };
        let conf_state = ConfState::from((self.voters.clone(), vec![]));
        Ok(RaftState { hard_state, conf_state })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> ::raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.base.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(low <= high && high <= self.last() + 1, "entries {low}..{high} were asked for");
        let range = (low - self.base.0 - 1) as usize..(high - self.base.0 - 1) as usize;
        let mut entries: Vec<_> = self.entries.range(range).cloned().collect();
        util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> ::raft::Result<u64> {
        self.term_of(index).ok_or(Error::Store(if index < self.base.0 {
            StorageError::Compacted
        } else {
            StorageError::Unavailable
        }))
    }

    fn first_index(&self) -> ::raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> ::raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> ::raft::Result<eraftpb::Snapshot> {
        // Asked for on behalf of a follower that is far behind; it asks again.
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Frame {
        Frame::Entry(Entry { index, term, data: vec![index as u8] })
    }

    fn recover(frames: Vec<Frame>) -> Result<Store, LogError> {
        let mut snapshot = Snapshot::birth("c", 1, vec![]);
        snapshot.index = 3;
        snapshot.ballot.commit = 3;
        Store::recover(&snapshot, frames)
    }

    #[test]
    fn a_log_is_what_follows_the_snapshot() {
        let ballot = Ballot { term: 2, vote: 1, commit: 2 };
        let frames =
            vec![Frame::Ballot(ballot), entry(2, 1), entry(3, 1), entry(4, 2), entry(5, 2)];
        let mut store = recover(frames).unwrap();
        assert_eq!((store.last(), store.term_of(5), store.term_of(6)), (5, Some(2), None));
        assert_eq!(store.ballot(), Ballot { term: 2, vote: 1, commit: 3 });
        assert_eq!(store.entries_after(4).len(), 1);
        store.compact(4);
        assert_eq!((store.first_index(), store.term_of(4)), (Ok(5), Some(2)));
        assert!(store.term(3).is_err() && store.entries_after(4).len() == 1);
    }

    #[test]
    fn a_later_entry_replaces_those_from_its_index_on() {
        let frames = vec![entry(4, 1), entry(5, 1), entry(6, 1), entry(5, 2)];
        let store = recover(frames).unwrap();
        assert_eq!((store.last(), store.term_of(5)), (5, Some(2)));
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(recover(vec![entry(5, 1)]).unwrap_err(), LogError::Gap { last: 3, found: 5 });
        let ballot = Ballot { term: 1, vote: 1, commit: 9 };
        let lost = recover(vec![Frame::Ballot(ballot)]).unwrap_err();
        assert_eq!(lost, LogError::Lost { commit: 9, last: 3 });
    }
}
