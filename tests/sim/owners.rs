//! Who has which partition in groups of the consumer protocol (KIP-848), going by
//! what members are told.
//!
//! A member *holds* a partition from the answer that gives it on, until it says that
//! it has given it back, leaves, or its time is up: the session timeout after it sent
//! the last heartbeat that was answered, or its rebalance timeout after the one whose
//! answer asked for something back. Nobody else is given a partition while it is held,
//! and of one epoch of a group no partition has two owners.
//!
//! What a member holds is noted only while it knows all that the broker has heard from
//! it: a heartbeat whose answer was lost may arrive at any time, and say what is not
//! true any more.

use std::collections::BTreeMap;

use crate::groups::{GroupNumber, Place};
use crate::model::{Tp, name};
use crate::queue::MS;

/// The broker counts milliseconds, and may begin to count within one.
const ROUNDING: u64 = 2 * MS;

/// A member has a partition for certain.
#[derive(Debug)]
struct Hold {
    /// When it had been told of it ...
    told: u64,
    /// ... and until when nobody else can have it.
    until: u64,
}

/// What a member was told.
#[derive(Debug)]
pub struct Told<'a> {
    pub group: GroupNumber,
    pub member: &'a str,
    /// The member's epoch, if those of its group are counted up for ever: those of one
    /// that changes its protocol may come again.
    pub epoch: Option<i32>,
    pub partitions: &'a [Tp],
    /// It knows all that the broker has heard from it.
    pub sure: bool,
    /// Now, and until when the broker may not give it up.
    pub now: u64,
    pub until: u64,
}

/// All that is known of owners.
#[derive(Debug, Default)]
pub struct Owners {
    holds: BTreeMap<Place, BTreeMap<String, Hold>>,
    epochs: BTreeMap<(GroupNumber, i32, Tp), String>,
}

impl Owners {
    /// A member was told what it has.
    pub fn told(&mut self, told: &Told<'_>) {
        let Told { group, member, epoch, partitions, sure, now, until } = *told;
        for tp in partitions {
            if let Some(epoch) = epoch {
                let key = (group, epoch, *tp);
                let owner = self.epochs.entry(key).or_insert_with(|| member.to_owned());
                assert_eq!(owner, member, "{} has two owners in epoch {epoch}", name(*tp));
            }
            if !sure {
                continue;
            }
            let holds = self.holds.entry((group, *tp)).or_default();
            let hold = holds.entry(member.to_owned()).or_insert(Hold { told: now, until: 0 });
            hold.until = until.saturating_sub(ROUNDING).max(hold.until);
            // Whichever of the two was decided first, its owner has it still.
            let end = hold.until;
            let other = holds
                .iter()
                .find(|(id, other)| *id != member && other.until > now && end > other.told);
            if let Some((other, _)) = other {
                panic!("{} is given to {member} in group {group}, and {other} has it", name(*tp));
            }
        }
    }

    /// A member is about to say that it has these and no others.
    pub fn keeps(&mut self, group: GroupNumber, member: &str, partitions: &[Tp]) {
        for ((of, tp), holds) in &mut self.holds {
            if *of == group && !partitions.contains(tp) {
                holds.remove(member);
            }
        }
    }

    /// A member has something to give back by then: it may have to begin anew.
    pub fn must_give_back(&mut self, group: GroupNumber, member: &str, by: u64) {
        for ((of, _), holds) in &mut self.holds {
            if let Some(hold) = holds.get_mut(member).filter(|_| *of == group) {
                hold.until = hold.until.min(by.saturating_sub(ROUNDING));
            }
        }
    }

    /// A member has nothing any more, or will have nothing.
    pub fn gone(&mut self, group: GroupNumber, member: &str) {
        self.keeps(group, member, &[]);
    }

    /// Nothing is certain any more of these groups.
    pub fn forget_groups(&mut self, is_lost: impl Fn(GroupNumber) -> bool) {
        self.holds.retain(|(group, _), _| !is_lost(*group));
        self.epochs.retain(|(group, ..), _| !is_lost(*group));
    }

    /// Nothing is certain any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}
