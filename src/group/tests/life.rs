//! The coordinator itself: loading, resigning, and that every request has one
//! answer whatever happens.

use super::super::request::Leaving;
use super::*;
use crate::model::record::{BatchBuilder, Codec};

#[test]
fn partitions_are_kafkas() {
    // "abc".hashCode() is 96354; that of the long word is Integer.MIN_VALUE.
    let table = [("abc", 50, 4), ("", 50, 0), ("polygenelubricants", 50, 0), ("é", 7, 233 % 7)];
    for (group, count, partition) in table {
        assert_eq!(partition_of(group, count), PartitionIndex(partition), "{group}");
    }
}

#[test]
fn a_group_goes_on_after_a_restart() {
    let mut world = World::new(settings());
    let members = world.team("g", 2);
    assert_eq!(world.commit("g", members[0].clone(), 5), E::None);
    world.restart();
    assert_eq!((&*world.state("g"), world.offset("g")), ("Stable", 5));
    assert_eq!(world.heartbeat("g", members[1].clone()), E::None);
    let id = world.ask("g", sync(&members[1], vec![]));
    assert_eq!(world.synced(id).assignment, "a1");
    // Who does not come back is missed.
    world.wait(9_999);
    assert_eq!(world.heartbeat("g", members[1].clone()), E::None);
    world.wait(2);
    assert_eq!(world.heartbeat("g", members[0].clone()), E::UnknownMemberId);
    assert_eq!(world.heartbeat("g", members[1].clone()), E::RebalanceInProgress);
}

#[test]
fn groups_are_counted_as_they_and_their_partitions_come_and_go() {
    let mut world = World::new(settings());
    for group in ["a", "b", "c", "d"] {
        assert_eq!(world.commit(group, nobody(), 5), E::None);
    }
    world.call("a", Ask::Delete);
    assert_eq!(world.coordinator.groups, 3);
    // One whose first commit is still on its way counts, too.
    world.hold = true;
    let id = world.ask("e", commit(nobody(), 5, ""));
    assert_eq!(world.coordinator.groups, 4);
    for index in 0..PARTITIONS {
        world.coordinator.remove(world.now, PartitionIndex(index));
    }
    world.run();
    assert!(world.is_answered(id));
    assert_eq!(world.coordinator.groups, 0);
    world.held.clear();
    world.hold = false;
    world.load();
    assert_eq!(world.coordinator.groups, 3);
}

#[test]
fn records_that_make_no_sense_are_passed_over() {
    let mut world = World::new(settings());
    world.commit("g", nobody(), 5);
    let partition = partition_of("g", PARTITIONS);
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(0, None, None, &[]);
    builder.push(0, Some(b"\0\x07\0\x01g"), Some(b"\0\0"), &[]);
    builder.push(0, Some(b"\0\x01\0\x01g\0\x01t\0\0\0\0"), Some(b"\0\x63"), &[]);
    builder.push(0, Some(b"\0\x02\0\x01g"), Some(b"\0\x03\0\x01"), &[]);
    let end = world.ends.get_mut(&partition).expect("something was appended");
    let mut batch = builder.finish();
    batch[..8].copy_from_slice(&end.to_be_bytes());
    *end += 4;
    world.logs.get_mut(&partition).expect("as above").push(batch);
    world.restart();
    assert_eq!(world.offset("g"), 5);
    assert_eq!(world.commit("g", nobody(), 6), E::None);
    world.restart();
    assert_eq!(world.offset("g"), 6);
}

#[test]
fn requests_for_what_is_not_here_or_not_loaded() {
    let mut coordinator = Coordinator::new(settings());
    let now = Now::default();
    let asker = Asker { origin: Origin { core: CoreId(0), id: 1 }, place: 0 };
    let ask = |coordinator: &mut Coordinator| {
        coordinator.submit(now, asker, Request::Group("abc".into(), Ask::Delete));
        let answers = coordinator.todo().filter_map(|effect| match effect {
            Effect::Answer(_, Response::Deleted(error)) => Some(error),
            _ => None,
        });
        answers.collect::<Vec<E>>()
    };
    assert_eq!(ask(&mut coordinator), [E::NotCoordinator]);
    coordinator.add(partition_of("abc", 5), 5);
    assert_eq!(ask(&mut coordinator), [E::CoordinatorLoadInProgress]);
    assert_eq!(coordinator.list(), Err(E::CoordinatorLoadInProgress));
    let empty =
        ReadResult { error: E::None, log_start_offset: 0, high_watermark: 0, bytes: Bytes::new() };
    coordinator.read(now, partition_of("abc", 5), empty);
    assert_eq!(ask(&mut coordinator), [E::GroupIdNotFound]);
    coordinator.remove(now, partition_of("abc", 5));
    assert_eq!(ask(&mut coordinator), [E::NotCoordinator]);
}

#[test]
fn whoever_waits_is_answered_when_the_coordinator_resigns() {
    let mut world = World::new(settings());
    let (_, joins) = world.come("g", consumer());
    world.coordinator.resign(world.now);
    world.run();
    assert_eq!(world.joined(joins).error_code, E::NotCoordinator.code());
    assert_eq!(world.commit("g", nobody(), 1), E::NotCoordinator);
    assert_eq!(world.coordinator.next_deadline(), None);
}

#[test]
fn every_request_is_answered_once_whatever_happens() {
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let mut world = World::new(GroupSettings { max_size: 5, ..settings() });
        let mut known: Vec<Identity> = vec![nobody()];
        let mut asked = vec![];
        let mut owners: BTreeMap<(String, i32, Bytes), MemberId> = BTreeMap::new();
        for _ in 0..300 {
            let group = ["g", "h"][rng.below(2) as usize];
            let mut who = known[rng.below(known.len() as u64) as usize].clone();
            if rng.chance(1, 20) {
                who.generation += 1;
            }
            let ask = match rng.below(10) {
                0..4 => {
                    let mut join = if rng.chance(1, 3) {
                        named(["i", "j"][rng.below(2) as usize])
                    } else {
                        consumer()
                    };
                    if rng.chance(2, 3) {
                        (join.member_id, join.instance_id) = (who.member_id, who.instance_id);
                    }
                    join.rebalance_timeout_ms = rng.between(1, 30_000) as i32;
                    Ask::Join(Box::new(join))
                }
                4..6 => {
                    let all = known.iter().map(|member| &member.member_id).enumerate();
                    let plan = all.map(|(at, id)| (id.clone(), Bytes::from(format!("p{at}"))));
                    sync(&who, plan.collect())
                }
                6 => Ask::Heartbeat(who),
                7 => commit(who, 1, ""),
                8 => {
                    let Identity { member_id, instance_id, .. } = who;
                    Ask::Leave(vec![Leaving { member_id, instance_id }])
                }
                _ => match rng.below(3) {
                    0 => Ask::Delete,
                    1 => Ask::Describe,
                    _ => Ask::Fetch(Fetch::default()),
                },
            };
            let instance = match &ask {
                Ask::Join(join) => join.instance_id.clone(),
                Ask::Sync(sync) => sync.member.instance_id.clone(),
                _ => None,
            };
            let syncs = match &ask {
                Ask::Sync(sync) => Some(sync.member.clone()),
                _ => None,
            };
            asked.push((world.ask(group, ask), group, instance, syncs));
            match rng.below(6) {
                0 => world.wait(rng.between(1, 12_000)),
                1 => world.hold = true,
                2 => {
                    world.hold = false;
                    let error = if rng.chance(1, 5) { E::KafkaStorageError } else { E::None };
                    world.release(error);
                }
                _ => {}
            }
            asked.retain(|(id, group, instance, syncs)| {
                let Some(answer) = world.answers.remove(id) else { return true };
                match answer {
                    Response::Joined(joined) if !joined.member_id.as_str().is_empty() => {
                        known.push(Identity {
                            member_id: joined.member_id.as_str().into(),
                            instance_id: instance.clone(),
                            generation: joined.generation_id,
                        });
                    }
                    // One owner for each part of a generation's plan, but for a
                    // static member under its next id.
                    Response::Synced(synced) if synced.error_code == 0 => {
                        let member = syncs.clone().expect("it was a sync");
                        let part = (group.to_string(), member.generation, synced.assignment);
                        if member.instance_id.is_none() && !part.2.is_empty() {
                            let owner = owners.entry(part).or_insert(member.member_id.clone());
                            assert_eq!(*owner, member.member_id, "seed {seed}");
                        }
                    }
                    _ => {}
                }
                false
            });
        }
        world.coordinator.resign(world.now);
        world.run();
        world.hold = false;
        world.release(E::None);
        asked.retain(|(id, ..)| world.answers.remove(id).is_none());
        assert!(asked.is_empty() && world.parked.is_empty(), "seed {seed}: {asked:?}");
        world.restart();
    }
}
