//! What must be true of groups, whatever happens.
//!
//! Every commit has a number of its own, larger than those of all commits sent
//! before it, and that is the offset it commits, so that whoever reads an offset
//! knows which commit it was:
//!
//! - what is read was committed, to that group and partition, and not refused;
//! - a commit that was over before another was sent is not read any more when that
//!   one is acknowledged, or was read;
//! - a member of a generation that others have left behind commits nothing;
//! - what a generation's members are assigned comes from one leader, and no
//!   partition has two owners;
//! - no two members get the same id;
//! - what members of the consumer protocol have, is judged by `owners.rs`.
//!
//! A flipped bit in the last segment of a log of `__consumer_offsets` may end it there
//! after an unclean stop: what was committed before it stays.
//!
//! Where `__consumer_offsets` is *weak* a loss of power or a failed sync takes all
//! of that back.

use std::collections::{BTreeMap, BTreeSet};

use corelane::group::partition_of;

use crate::model::{Tp, name};
use crate::owners::Owners;

/// Groups are numbered.
pub type GroupNumber = u8;

/// Where something is committed.
pub type Place = (GroupNumber, Tp);

/// A commit, or the deletion of what was committed.
#[derive(Debug)]
struct Commit {
    place: Place,
    deletes: bool,
    /// When it had been done or could not be done any more.
    over: u64,
    /// The run of the broker it was sent to.
    life: u64,
    refused: bool,
    /// The generation it comes from had been left behind when it was sent.
    fenced: bool,
}

/// What one generation was assigned.
#[derive(Debug)]
struct Assignment {
    /// Tells what one leader assigned from what another did.
    token: u64,
    owners: BTreeMap<Tp, String>,
    members: BTreeMap<String, Vec<Tp>>,
}

/// All that is known of groups.
#[derive(Debug, Default)]
pub struct Groups {
    /// Acknowledged does not mean synced.
    pub weak: bool,
    /// Groups with members of both protocols: their generations begin anew when they
    /// change while they are empty, as Kafka's do, and tell nothing.
    pub mixed: BTreeSet<GroupNumber>,
    /// The session timeout of members of the consumer protocol, milliseconds.
    pub session_ms: u64,
    /// Who has which partition, by that protocol.
    pub owners: Owners,
    /// Counts what happens.
    time: u64,
    commits: BTreeMap<u64, Commit>,
    /// What is certain of a place: this commit was done. What was over before it
    /// was sent is not read any more.
    floors: BTreeMap<Place, u64>,
    assignments: BTreeMap<(GroupNumber, i32), Assignment>,
    /// The largest generation that was assigned anything.
    generations: BTreeMap<GroupNumber, i32>,
    member_ids: BTreeSet<String>,
    /// The last run of the broker of which news may be overtaken.
    lost: Option<u64>,
    /// Partitions of `__consumer_offsets`.
    pub partitions: i32,
    /// By such a partition: the last run that may have found a flipped bit where a torn
    /// write is possible, and have cut the log there.
    cuts: BTreeMap<i32, u64>,
}

impl Groups {
    /// A number that is larger than all before.
    pub fn next(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    /// An offset is about to be committed, or deleted; returns the commit's number.
    pub fn sent(&mut self, place: Place, generation: i32, deletes: bool, life: u64) -> u64 {
        let number = self.next();
        let newest = self.generations.get(&place.0).copied().unwrap_or(-1);
        let fenced = (0..newest).contains(&generation);
        let commit = Commit { place, deletes, over: u64::MAX, life, refused: false, fenced };
        self.commits.insert(number, commit);
        number
    }

    /// The commit that was just sent has to be refused.
    pub fn fence(&mut self, number: u64) {
        let commit = self.commits.get_mut(&number).expect("it was sent");
        // What is told may be taken back where it was not synced, or was lost.
        let lost = self.cuts.contains_key(&home(commit.place.0, self.partitions));
        commit.fenced |= !self.weak && !lost;
    }

    /// A commit was acknowledged.
    pub fn acked(&mut self, number: u64) {
        let now = self.next();
        let commit = self.commits.get_mut(&number).expect("it was sent");
        commit.over = now.min(commit.over);
        let (place, life) = (commit.place, commit.life);
        assert!(!commit.fenced, "a member left behind has committed {}", place_name(place));
        if !self.is_stale(place.0, life) {
            self.done(place, number);
        }
    }

    /// A commit was refused with an error that means that it is not there.
    pub fn refused(&mut self, number: u64) {
        self.commits.get_mut(&number).expect("it was sent").refused = true;
    }

    /// What must be found at a place by who asks now, to be given to
    /// [`Groups::found`].
    pub fn floor(&self, place: Place) -> u64 {
        self.floors.get(&place).copied().unwrap_or(0)
    }

    /// Somebody who asked the run `life` of the broker found this offset committed,
    /// or none.
    pub fn found(&mut self, place: Place, offset: Option<u64>, floor: u64, life: u64) {
        let what = place_name(place);
        let Some(number) = offset else {
            let deletes = |commit: &Commit| {
                commit.place == place && commit.deletes && !commit.refused && commit.over >= floor
            };
            let deleted = floor == 0 || self.commits.values().rev().any(deletes);
            assert!(deleted, "what was committed of {what} as {floor} is gone");
            return;
        };
        let commit = self.commits.get(&number);
        let commit = commit.unwrap_or_else(|| panic!("nobody committed {number} of {what}"));
        assert_eq!(commit.place, place, "{number} was committed elsewhere than {what}");
        assert!(!commit.refused && !commit.deletes, "{number} of {what} was refused, and is there");
        assert!(commit.over >= floor, "the offset of {what} went back from {floor} to {number}");
        if !self.is_stale(place.0, life) {
            self.done(place, number);
        }
    }

    fn done(&mut self, place: Place, number: u64) {
        let floor = self.floors.entry(place).or_insert(0);
        *floor = number.max(*floor);
    }

    /// A member got its assignment.
    pub fn assigned(
        &mut self,
        (group, generation): (GroupNumber, i32),
        member: &str,
        token: u64,
        partitions: &[Tp],
        life: u64,
    ) {
        if self.is_stale(group, life) || self.mixed.contains(&group) {
            return;
        }
        let newest = self.generations.entry(group).or_insert(generation);
        *newest = generation.max(*newest);
        let row = self.assignments.entry((group, generation)).or_insert_with(|| Assignment {
            token,
            owners: BTreeMap::new(),
            members: BTreeMap::new(),
        });
        assert_eq!(row.token, token, "generation {generation} of group {group} has two leaders");
        for tp in partitions {
            let owner = row.owners.entry(*tp).or_insert_with(|| member.to_owned());
            assert_eq!(owner, member, "{} has two owners in group {group}", name(*tp));
        }
        let before = row.members.entry(member.to_owned()).or_insert_with(|| partitions.to_vec());
        assert_eq!(before, partitions, "{member} was assigned other partitions");
    }

    /// A member got an id.
    pub fn member_id(&mut self, id: &str) {
        assert!(self.member_ids.insert(id.to_owned()), "the member id {id} is given out twice");
    }

    /// The broker ended: what was sent to it is over.
    pub fn end_life(&mut self) {
        let now = self.next();
        for commit in self.commits.values_mut().rev() {
            commit.over = now.min(commit.over);
        }
    }

    /// What was not synced is lost.
    pub fn lose(&mut self, life: u64) {
        self.lost = Some(life);
        if self.weak {
            self.floors.clear();
            self.assignments.clear();
            self.generations.clear();
            self.owners.forget();
        }
    }

    /// Before run `life` a bit was flipped in the log of a partition of
    /// `__consumer_offsets`, where it may end that. Of what its groups have committed
    /// these offsets are in front of it, and stay; nothing is promised of the rest.
    pub fn cut(&mut self, partition: i32, kept: &[u64], life: u64) {
        let Self { floors, commits, assignments, generations, owners, partitions, .. } = self;
        let is_lost = |group: GroupNumber| home(group, *partitions) == partition;
        let mut certain: BTreeMap<Place, u64> = BTreeMap::new();
        for number in kept {
            let place = commits.get(number).expect("somebody committed it").place;
            let last = certain.entry(place).or_insert(0);
            *last = (*last).max(*number);
        }
        for (place, floor) in floors.iter_mut().filter(|(place, _)| is_lost(place.0)) {
            *floor = (*floor).min(certain.get(place).copied().unwrap_or(0));
        }
        assignments.retain(|(group, _), _| !is_lost(*group));
        generations.retain(|group, _| !is_lost(*group));
        owners.forget_groups(is_lost);
        self.cuts.insert(partition, life);
    }

    /// The partition of `__consumer_offsets` that a group lives in.
    pub fn home(&self, group: GroupNumber) -> i32 {
        home(group, self.partitions)
    }

    /// Whether what this run of the broker said of a group may have been lost since.
    pub fn is_stale(&self, group: GroupNumber, life: u64) -> bool {
        let cut = self.cuts.get(&self.home(group));
        self.weak && self.lost.is_some_and(|lost| life <= lost)
            || cut.is_some_and(|cut| life < *cut)
    }
}

fn home(group: GroupNumber, partitions: i32) -> i32 {
    partition_of(&format!("group-{group}"), partitions).0
}

fn place_name((group, tp): Place) -> String {
    format!("{} in group {group}", name(tp))
}
