//! What goes wrong in the middle: members of generations that are over, and a
//! broker that is killed while its groups change.

use super::*;

#[test]
fn members_of_a_generation_that_is_over_commit_nothing() {
    let mut world = World::new(settings());
    let old = world.team("g", 2);
    assert_eq!(world.commit("g", old[0].clone(), 5), E::None);
    // A third comes. While it is waited for, what was read can be committed.
    let (third, joins) = world.come("g", consumer());
    assert_eq!(world.commit("g", old[0].clone(), 6), E::None);
    let again = |member: &Identity| {
        Ask::Join(Box::new(Join { member_id: member.member_id.clone(), ..consumer() }))
    };
    let rejoins: Vec<u64> = old.iter().map(|member| world.ask("g", again(member))).collect();
    let generation = world.joined(joins).generation_id;
    let leader = world.joined(rejoins[0]).leader;
    world.joined(rejoins[1]);
    assert_eq!((generation, &*world.state("g")), (2, "CompletingRebalance"));
    let now = |member_id: &MemberId| Identity {
        member_id: member_id.clone(),
        instance_id: None,
        generation,
    };
    let refused = [
        (old[0].clone(), E::IllegalGeneration),
        (now(&third), E::RebalanceInProgress),
        (Identity { generation: 3, ..now(&third) }, E::IllegalGeneration),
        (now(&"nobody".into()), E::UnknownMemberId),
        (nobody(), E::UnknownMemberId),
    ];
    for (who, error) in refused {
        assert_eq!(world.commit("g", who.clone(), 99), error, "{who:?}");
    }
    assert_eq!(world.offset("g"), 6);
    let plan = vec![(third.clone(), Bytes::from_static(b"all"))];
    let leads = Identity { member_id: leader.as_str().into(), ..now(&third) };
    let syncs = world.ask("g", sync(&leads, plan));
    assert_eq!(world.synced(syncs).error_code, 0);
    assert_eq!(world.commit("g", old[0].clone(), 99), E::IllegalGeneration);
    assert_eq!(world.commit("g", now(&third), 7), E::None);
    world.restart();
    assert_eq!(world.commit("g", old[0].clone(), 99), E::IllegalGeneration);
    assert_eq!(world.offset("g"), 7);
}

#[test]
fn a_kill_while_members_are_waited_for() {
    let mut world = World::new(settings());
    let members = world.team("g", 2);
    assert_eq!(world.commit("g", members[0].clone(), 5), E::None);
    let (third, _) = world.come("g", consumer());
    assert_eq!(world.state("g"), "PreparingRebalance");
    world.restart();
    // The generation before goes on, and who was joining joins again.
    assert_eq!((&*world.state("g"), world.offset("g")), ("Stable", 5));
    for member in &members {
        assert_eq!(world.heartbeat("g", member.clone()), E::None);
    }
    assert_eq!(world.commit("g", members[1].clone(), 6), E::None);
    let join = Join { member_id: third, ..consumer() };
    let Response::Joined(refused) = world.call("g", Ask::Join(Box::new(join))) else { panic!() };
    assert_eq!(refused.error_code, E::UnknownMemberId.code());
    let (_, joins) = world.come("g", consumer());
    assert_eq!(world.heartbeat("g", members[0].clone()), E::RebalanceInProgress);
    // Nobody of the old generation joins: it goes on without them.
    world.wait(60_000);
    let joined = world.joined(joins);
    assert_eq!((joined.error_code, joined.generation_id, joined.members.len()), (0, 2, 1));
    assert_eq!(world.offset("g"), 6);
}

#[test]
fn a_kill_while_the_assignment_is_written() {
    let mut world = World::new(settings());
    let old = world.team("g", 1);
    let (second, joins) = world.come("g", consumer());
    let again = Join { member_id: old[0].member_id.clone(), ..consumer() };
    let rejoins = world.ask("g", Ask::Join(Box::new(again.clone())));
    let generation = world.joined(rejoins).generation_id;
    world.joined(joins);
    let first = Identity { generation, ..old[0].clone() };
    world.hold = true;
    let plan = vec![(second, Bytes::from_static(b"all"))];
    let syncs = world.ask("g", sync(&first, plan));
    assert!(!world.is_answered(syncs), "nobody is told what may not last");
    world.restart();
    world.hold = false;
    assert_eq!(world.state("g"), "Stable");
    assert_eq!(world.heartbeat("g", first.clone()), E::IllegalGeneration);
    assert_eq!(world.commit("g", first, 9), E::IllegalGeneration);
    assert_eq!(world.commit("g", old[0].clone(), 8), E::None);
    let rejoins = world.ask("g", Ask::Join(Box::new(again)));
    assert_eq!(world.joined(rejoins).generation_id, 2);
}

#[test]
fn a_topic_of_many_partitions_is_forgotten_in_batches_that_fit() {
    let mut world = World::new(settings());
    let rows = |from: i32| {
        let row = |partition| CommitRow {
            topic: "t".into(),
            partition,
            offset: 1,
            leader_epoch: -1,
            metadata: "".into(),
        };
        let rows = (from..from + 2_500).map(row).collect();
        Ask::Commit(Commit { member: nobody(), retention_ms: None, knows_epochs: true, rows })
    };
    let committed = |world: &mut World| -> usize {
        match world.call("g", Ask::Fetch(Fetch::default())) {
            Response::Fetched(Ok(topics)) => {
                topics.iter().map(|topic| topic.partitions.len()).sum()
            }
            other => panic!("{other:?}"),
        }
    };
    for round in 0..2 {
        world.call("g", rows(0));
        world.call("g", rows(2_500));
        assert_eq!(committed(&mut world), 5_000);
        let before = world.logs.values().flatten().count();
        if round == 0 {
            world.coordinator.topic_deleted(world.now, "t");
            world.run();
        } else {
            assert_eq!(world.call("g", Ask::Delete), Response::Deleted(E::None));
        }
        assert_eq!(world.logs.values().flatten().count() - before, 3);
        assert_eq!(committed(&mut world), 0);
        world.restart();
        assert_eq!(committed(&mut world), 0);
    }
    assert_eq!(world.coordinator.list(), Ok(vec![]));
}
