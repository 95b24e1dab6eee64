//! One member of the metadata quorum: the step loop around the `raft` crate.
//!
//! The owner proposes, calls [`RaftNode::next_step`] until it returns nothing, makes
//! durable what it is told to ([`Step::Persist`]) and says so with
//! [`RaftNode::persisted`], and applies what is committed ([`Step::Commit`]).
//! At most one `Persist` is open, and nothing else comes while one is: so what
//! arrives meanwhile goes into the next one, with one write and one sync.
//!
//! Entries are committed only after they are durable here. The crate draws
//! election timeouts from the thread's generator; they are replaced at once by
//! seeded ones, so that a run repeats exactly.
//!
//! Not here: messages to other members. A configuration with other voters than
//! this one is refused.

use ::raft::prelude::{EntryType, RawNode};
use ::raft::{Config, StateRole};

use super::store::{Store, from_raft};
use super::{Ballot, Entry};
use crate::base::limits::{METADATA_BATCH_MAX, METADATA_PENDING_MAX};
use crate::base::rng::Rng;

/// Ticks between a leader's heartbeats.
const HEARTBEAT_TICKS: usize = 2;
/// Least ticks without a leader before an election; twice as many are the most.
const ELECTION_TICKS: usize = 10;

/// A member.
pub struct RaftNode {
    raft: RawNode<Store>,
    rng: Rng,
    /// The state in which the election timeout was drawn.
    drawn_in: Option<(u64, StateRole)>,
    timeout: usize,
    /// Number of the open `Persist`.
    open: Option<u64>,
    /// The open `Persist` until it is told.
    queued: Option<Step>,
    /// The ballot as far as it is on disk or on its way.
    written: Ballot,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// To make durable: all of it before anything of it counts.
    Persist {
        /// The ballot, if it changed.
        ballot: Option<Ballot>,
        /// Entries, in order.
        entries: Vec<Entry>,
    },
    /// To apply, in order. Entries without data change nothing.
    Commit(Vec<Entry>),
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// This member does not lead.
    NotLeader,
    /// Too much is proposed and not yet committed.
    Full,
}

/// The engine cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RaftError {
    /// Another configuration than a quorum of one.
    #[error("the metadata log belongs to voters {found:x?}, this is {id:x}")]
    Voters {
        /// The voters found.
        found: Vec<u64>,
        /// This member.
        id: u64,
    },
    /// An entry that only a larger quorum writes.
    #[error("entry {0} of the metadata log changes the quorum, which this software cannot")]
    Membership(u64),
    /// The crate reported an error.
    #[error("raft: {0}")]
    Engine(String),
}

fn engine(error: ::raft::Error) -> RaftError {
    RaftError::Engine(error.to_string())
}

fn role(raft: &RawNode<Store>) -> (u64, StateRole) {
    (raft.raft.term, raft.raft.state)
}

impl RaftNode {
    /// Member `id`, which must be the only voter, with what its disk holds up
    /// to the applied entry `applied`.
    pub fn new(id: u64, store: Store, applied: u64, rng: Rng) -> Result<Self, RaftError> {
        if store.voters() != [id] {
            return Err(RaftError::Voters { found: store.voters().to_vec(), id });
        }
        let config = Config {
            id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            max_size_per_msg: METADATA_BATCH_MAX as u64,
            max_inflight_msgs: 64,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: METADATA_PENDING_MAX as u64,
            max_committed_size_per_ready: METADATA_PENDING_MAX as u64,
            ..Config::default()
        };
        let written = store.ballot();
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config, store, &logger).map_err(engine)?;
        let mut node = Self {
            raft,
            rng,
            drawn_in: None,
            timeout: ELECTION_TICKS,
            open: None,
            queued: None,
            written,
        };
        node.draw_timeout();
        Ok(node)
    }

    /// Replaces the timeout that the crate drew.
    fn draw_timeout(&mut self) {
        let state = role(&self.raft);
        if self.drawn_in != Some(state) {
            self.drawn_in = Some(state);
            self.timeout = ELECTION_TICKS + self.rng.below(ELECTION_TICKS as u64) as usize;
        }
        self.raft.raft.set_randomized_election_timeout(self.timeout);
    }

    /// Stands for election now.
    pub fn campaign(&mut self) -> Result<(), RaftError> {
        let result = self.raft.campaign().map_err(engine);
        self.draw_timeout();
        result
    }

    /// Tells that one tick's time has passed.
    pub fn tick(&mut self) {
        self.raft.tick();
        self.draw_timeout();
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    /// Index of the last entry, proposed or durable.
    pub fn last_index(&self) -> u64 {
        self.raft.raft.raft_log.last_index()
    }

    /// Proposes `data` as one entry and returns the entry's index.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<u64, ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader);
        }
        match self.raft.propose(Vec::new(), data) {
            Ok(()) => Ok(self.last_index()),
            Err(_) => Err(ProposeError::Full),
        }
    }

    /// What is to be done next, or nothing until something happens.
    pub fn next_step(&mut self) -> Result<Option<Step>, RaftError> {
        if let Some(step) = self.queued.take() {
            return Ok(Some(step));
        }
        while self.open.is_none() && self.raft.has_ready() {
            let mut ready = self.raft.ready();
            assert!(
                ready.messages().is_empty() && ready.persisted_messages().is_empty(),
                "a quorum of one sends nothing"
            );
            let committed = ready.take_committed_entries();
            let entries: Vec<Entry> = ready.take_entries().iter().map(from_raft).collect();
            if let Some(state) = ready.hs() {
                let ballot = Ballot { term: state.term, vote: state.vote, commit: state.commit };
                self.raft.mut_store().set_ballot(ballot);
            }
            for entry in &entries {
                self.raft.mut_store().append(entry.clone());
            }
            let (number, must_sync) = (ready.number(), ready.must_sync());
            self.raft.advance_append_async(ready);
            if must_sync {
                self.open = Some(number);
                let ballot = self.raft.store().ballot();
                let changed = ballot != self.written;
                self.written = ballot;
                let ballot = changed.then_some(ballot);
                self.queued = Some(Step::Persist { ballot, entries });
            } else {
                // Only the commit index moved: it goes with the next write.
                self.raft.on_persist_ready(number);
            }
            let committed = self.committed(&committed)?;
            if !committed.is_empty() {
                return Ok(Some(Step::Commit(committed)));
            }
        }
        Ok(self.queued.take())
    }

    fn committed(&mut self, entries: &[::raft::prelude::Entry]) -> Result<Vec<Entry>, RaftError> {
        if let Some(change) =
            entries.iter().find(|entry| entry.get_entry_type() != EntryType::EntryNormal)
        {
            return Err(RaftError::Membership(change.index));
        }
        self.raft.advance_apply();
        Ok(entries.iter().map(from_raft).collect())
    }

    /// Tells that the open [`Step::Persist`] is durable.
    ///
    /// # Panics
    /// If none is open.
    pub fn persisted(&mut self) {
        let number = self.open.take().expect("something was to be made durable");
        self.raft.on_persist_ready(number);
        self.draw_timeout();
    }

    /// Whether a [`Step::Persist`] is open.
    pub fn is_persisting(&self) -> bool {
        self.open.is_some()
    }

    /// The mirror of the log.
    pub fn store(&self) -> &Store {
        self.raft.store()
    }

    /// Forgets entries up to `index`, which a durable snapshot holds.
    pub fn compact(&mut self, index: u64) {
        self.raft.mut_store().compact(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::snapshot::Snapshot;

    fn born() -> RaftNode {
        let store = Store::recover(&Snapshot::birth("c", 7, vec![]), vec![]).unwrap();
        RaftNode::new(7, store, 1, Rng::new(1)).unwrap()
    }

    fn steps(node: &mut RaftNode) -> Vec<Step> {
        std::iter::from_fn(|| node.next_step().unwrap()).collect()
    }

    fn entry(index: u64, data: &[u8]) -> Entry {
        Entry { index, term: 2, data: data.to_vec() }
    }

    #[test]
    fn a_quorum_of_one_commits_what_its_own_disk_has() {
        let mut node = born();
        assert_eq!(node.propose(b"early".to_vec()), Err(ProposeError::NotLeader));
        node.campaign().unwrap();
        assert!(node.is_leader());
        assert_eq!(node.propose(b"a".to_vec()), Ok(3));
        let ballot = Some(Ballot { term: 2, vote: 7, commit: 1 });
        let entries = vec![entry(2, b""), entry(3, b"a")];
        assert_eq!(steps(&mut node), [Step::Persist { ballot, entries }]);

        // What comes while the disk is busy waits, and goes in one write.
        assert_eq!((node.propose(b"b".to_vec()), node.propose(b"c".to_vec())), (Ok(4), Ok(5)));
        assert_eq!(steps(&mut node), []);
        node.persisted();
        let ballot = Some(Ballot { term: 2, vote: 7, commit: 3 });
        let entries = vec![entry(4, b"b"), entry(5, b"c")];
        let expected =
            [Step::Commit(vec![entry(2, b""), entry(3, b"a")]), Step::Persist { ballot, entries }];
        assert_eq!(steps(&mut node), expected);
        node.persisted();
        let committed = vec![entry(4, b"b"), entry(5, b"c")];
        assert_eq!(steps(&mut node), [Step::Commit(committed)]);
        assert_eq!(steps(&mut node), []);
    }

    #[test]
    fn proposals_are_bounded() {
        let mut node = born();
        node.campaign().unwrap();
        let taken = (0..100).take_while(|_| node.propose(vec![0; 1 << 20]).is_ok()).count();
        assert_eq!(taken, METADATA_PENDING_MAX >> 20);
        assert_eq!(node.propose(vec![1]), Err(ProposeError::Full));
    }

    #[test]
    fn another_member_s_log_is_refused() {
        let store = Store::recover(&Snapshot::birth("c", 8, vec![]), vec![]).unwrap();
        let error = RaftNode::new(7, store, 1, Rng::new(1)).err();
        assert_eq!(error, Some(RaftError::Voters { found: vec![8], id: 7 }));
    }

    #[test]
    fn election_timeouts_follow_from_the_seed() {
        let timeouts = || {
            let mut node = born();
            let first = node.raft.raft.randomized_election_timeout();
            node.campaign().unwrap();
            (first, node.raft.raft.randomized_election_timeout())
        };
        assert!((0..8).map(|_| timeouts()).all(|drawn| drawn == timeouts()));
    }
}
