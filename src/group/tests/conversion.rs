//! Groups that change their protocol while they have members.

use super::consumer::{Client, client, world};
use super::*;
use crate::group::request::{ConsumerHeartbeat, Leaving};
use crate::wire::groups::{Assignment as Named, decode_assignment, encode_assignment};

/// A classic member as its client knows it: one of the eager kind.
#[derive(Clone, Debug)]
struct Old {
    who: Identity,
    has: Named,
}

impl Old {
    fn shows(&self) -> String {
        let topics = self.has.iter().map(|(topic, partitions)| {
            let partitions: Vec<String> = partitions.iter().map(i32::to_string).collect();
            format!("{topic}{}", partitions.join(","))
        });
        topics.collect::<Vec<_>>().join(" ")
    }
}

impl World {
    /// A Stable classic group `g` of members that have these partitions of `t`.
    fn olds(&mut self, rows: &[&[i32]]) -> Vec<Old> {
        let come: Vec<(MemberId, u64)> = rows.iter().map(|_| self.come("g", consumer())).collect();
        while !come.iter().all(|(_, request)| self.is_answered(*request)) {
            self.wait(250);
        }
        let mut olds = vec![];
        let mut leader = None;
        for ((member_id, request), row) in come.into_iter().zip(rows) {
            let joined = self.joined(request);
            if joined.leader == joined.member_id {
                leader = Some(olds.len());
            }
            let generation = joined.generation_id;
            let who = Identity { member_id, instance_id: None, generation };
            olds.push(Old { who, has: Named::from([("t".to_owned(), row.to_vec())]) });
        }
        let all: Vec<(MemberId, Bytes)> = olds
            .iter()
            .map(|old| (old.who.member_id.clone(), encode_assignment(&old.has).into()))
            .collect();
        let asked: Vec<u64> = olds
            .iter()
            .enumerate()
            .map(|(at, old)| {
                let mine = if Some(at) == leader { all.clone() } else { vec![] };
                self.ask("g", sync(&old.who, mine))
            })
            .collect();
        for request in asked {
            assert_eq!(self.synced(request).error_code, 0);
        }
        olds
    }

    /// A heartbeat; if told to, the member gives back everything, joins and gets its
    /// assignment.
    fn live(&mut self, old: &mut Old) -> E {
        let told = self.heartbeat("g", old.who.clone());
        if told == E::RebalanceInProgress {
            old.has.clear();
            let join = Join { member_id: old.who.member_id.clone(), ..consumer() };
            let asked = self.ask("g", Ask::Join(Box::new(join)));
            if !self.is_answered(asked) {
                self.wait(10);
            }
            let joined = self.joined(asked);
            assert_eq!(joined.error_code, 0);
            old.who.generation = joined.generation_id;
            if joined.leader != joined.member_id {
                let asked = self.ask("g", sync(&old.who, vec![]));
                let synced = self.synced(asked);
                if synced.error_code == 0 {
                    old.has = decode_assignment(&synced.assignment).expect("an assignment");
                    old.has.retain(|_, partitions| !partitions.is_empty());
                }
            }
        }
        told
    }

    fn settle_both(&mut self, olds: &mut [Old], news: &mut [Client]) {
        for _ in 0..8 {
            for old in &mut *olds {
                self.live(old);
            }
            for new in &mut *news {
                self.tell(new);
                new.obey();
            }
        }
        assert_eq!(self.consumers().group_state.as_str(), "Stable");
    }
}

#[test]
fn a_classic_group_is_taken_over_member_by_member_and_back() {
    let mut world = world(&[("t", 4)]);
    let mut olds = world.olds(&[&[0, 1], &[2, 3]]);
    let first = olds[0].who.clone();
    assert_eq!(world.commit("g", first, 5), E::None);
    // The first member of the new kind: the others are told to join again.
    let mut news = vec![client("new", &["t"])];
    world.tell(&mut news[0]);
    assert_eq!(world.consumers().members.len(), 3);
    assert_eq!(world.heartbeat("g", olds[0].who.clone()), E::RebalanceInProgress);
    // Until then they may commit.
    let first = olds[0].who.clone();
    assert_eq!(world.commit("g", first, 6), E::None);
    world.settle_both(&mut olds, &mut news);
    let shown = format!("{} | {} | {}", olds[0].shows(), olds[1].shows(), news[0].shows());
    let mut all: Vec<&str> = shown.split(['t', ' ', '|', ',']).filter(|n| !n.is_empty()).collect();
    all.sort_unstable();
    assert_eq!(all, ["0", "1", "2", "3"], "{shown}");
    assert!(olds.iter().all(|old| !old.has.is_empty()), "{shown}");
    assert_eq!(world.heartbeat("g", olds[0].who.clone()), E::None);
    // A restart in the middle of it.
    world.restart();
    assert_eq!(world.heartbeat("g", olds[0].who.clone()), E::None);
    let types: Vec<i8> = world.consumers().members.iter().map(|row| row.member_type).collect();
    assert_eq!(types.iter().filter(|kind| **kind == 0).count(), 2);
    // Another one of the old kind comes.
    let (member_id, request) = world.come("g", consumer());
    let joined = world.joined(request);
    let who = Identity { member_id, instance_id: None, generation: joined.generation_id };
    olds.push(Old { who, has: Named::new() });
    world.settle_both(&mut olds, &mut news);
    assert_eq!(world.consumers().members.len(), 4);
    assert!(olds.iter().all(|old| old.has["t"].len() == 1));
    // The only new one leaves: it is a classic group again, which rebalances.
    let left = world.beat(ConsumerHeartbeat { epoch: -1, ..news[0].short() });
    assert_eq!(left.error_code, 0);
    assert_eq!(world.state("g"), "PreparingRebalance");
    assert_eq!(world.offset("g"), 6);
    // Before they join again they may commit what they have read.
    assert_eq!(world.commit("g", olds[0].who.clone(), 7), E::None);
    world.restart();
    assert_eq!((world.state("g").as_str(), world.offset("g")), ("Stable", 7));
    for old in &olds {
        assert_eq!(world.heartbeat("g", old.who.clone()), E::None);
    }
}

#[test]
fn a_classic_group_of_many_members_is_taken_over() {
    let mut world = world(&[("t", 400)]);
    let partitions: Vec<i32> = (0..400).collect();
    let rows: Vec<&[i32]> = partitions.chunks(1).collect();
    world.olds(&rows);
    let answer = world.beat(client("new", &["t"]).full());
    assert_eq!((answer.error_code, world.consumers().members.len()), (0, 401));
}

#[test]
fn members_of_the_old_kind_leave_or_are_not_heard_of() {
    let mut world = world(&[("t", 4)]);
    let mut olds = world.olds(&[&[0, 1], &[2, 3]]);
    let mut news = vec![client("new", &["t"])];
    world.tell(&mut news[0]);
    world.settle_both(&mut olds, &mut news);
    let row = |id: &str| Leaving { member_id: id.into(), instance_id: None };
    let rows = vec![row(&olds[0].who.member_id), row("new"), row("x")];
    let left = world.call("g", Ask::Leave(rows));
    let codes = vec![E::None, E::UnknownMemberId, E::UnknownMemberId];
    assert_eq!(left, Response::Left(E::None, codes));
    assert_eq!(world.heartbeat("g", olds[0].who.clone()), E::UnknownMemberId);
    // The other one is told to join again, and does not.
    world.tell(&mut news[0]);
    for _ in 0..13 {
        let told = world.heartbeat("g", olds[1].who.clone());
        assert!([E::RebalanceInProgress, E::UnknownMemberId].contains(&told), "{told:?}");
        world.wait(5_000);
        world.tell(&mut news[0]);
        news[0].obey();
    }
    assert_eq!(world.heartbeat("g", olds[1].who.clone()), E::UnknownMemberId);
    assert_eq!(news[0].shows(), "t0,1,2,3");
}

#[test]
fn what_cannot_be_changed() {
    for (policy, upgrades) in [(Migration::Disabled, false), (Migration::Downgrade, false)] {
        let mut world = world(&[("t", 4)]);
        world.coordinator.settings.consumer.migration = policy;
        let olds = world.olds(&[&[0, 1, 2, 3]]);
        assert!(!upgrades);
        assert_eq!(world.refusal(client("new", &["t"]).full()), E::GroupIdNotFound);
        assert_eq!(world.heartbeat("g", olds[0].who.clone()), E::None);
    }
    // A join that is refused changes nothing.
    let mut world = world(&[("t", 4)]);
    let olds = world.olds(&[&[0, 1, 2, 3]]);
    let mut bad = client("new", &["t"]);
    bad.regex = Some("(");
    assert_eq!(world.refusal(bad.full()), E::InvalidRegularExpression);
    assert_eq!(world.heartbeat("g", olds[0].who.clone()), E::None);
    // Nor does a batch that is refused: members join again.
    world.hold = true;
    let beat = client("new", &["t"]).full();
    let asked = world.ask("g", Ask::ConsumerHeartbeat(Box::new(beat)));
    world.release(E::NotEnoughReplicas);
    assert_eq!(world.beaten(asked).error_code, E::CoordinatorNotAvailable.code());
    world.hold = false;
    assert_eq!(world.state("g"), "PreparingRebalance");
    assert_eq!(world.heartbeat("g", olds[0].who.clone()), E::RebalanceInProgress);
    // Protocols that nobody else knows, and types that are no consumers'.
    world.tell(&mut client("new", &["t"]));
    let other = Join { protocols: vec![("mine".into(), Bytes::new())], ..consumer() };
    for join in [other, Join { protocol_type: "connect".into(), ..consumer() }] {
        let Response::Joined(joined) = world.call("g", Ask::Join(Box::new(join))) else {
            panic!("a join")
        };
        assert_eq!(joined.error_code, E::InconsistentGroupProtocol.code());
    }
}

#[test]
fn a_member_that_is_taken_over_and_never_heard_of_is_not_waited_for() {
    let mut world = world(&[("t", 2)]);
    world.olds(&[&[0, 1]]);
    let mut new = client("new", &["t"]);
    world.tell(&mut new);
    assert_eq!((world.consumers().members.len(), new.shows().as_str()), (2, ""));
    world.wait(9_000);
    world.tell(&mut new);
    assert_eq!((world.consumers().members.len(), new.shows().as_str()), (2, ""));
    world.wait(1_100);
    world.settle(&mut [&mut new]);
    assert_eq!((world.consumers().members.len(), new.shows().as_str()), (1, "t0,1"));
}
