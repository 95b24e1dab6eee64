//! Members that come, stay, vanish and come back.

use super::super::request::Leaving;
use super::*;

#[test]
fn two_members_share_and_a_third_makes_them_share_again() {
    let mut world = World::new(settings());
    let (a, a_joins) = world.come("g", consumer());
    world.wait(2_000);
    let (b, b_joins) = world.come("g", consumer());
    assert_eq!(world.state("g"), "PreparingRebalance");
    // The second member makes the first delay longer, once.
    world.wait(3_500);
    assert!(!world.is_answered(a_joins) && !world.is_answered(b_joins));
    world.wait(1_000);
    let (one, two) = (world.joined(a_joins), world.joined(b_joins));
    assert_eq!((one.error_code, one.generation_id, one.leader.as_str()), (0, 1, &*a));
    assert_eq!((two.error_code, two.generation_id, two.leader.as_str()), (0, 1, &*a));
    assert_eq!((one.members.len(), two.members.len()), (2, 0));
    assert_eq!(one.protocol_name.as_deref(), Some("range"));

    let [one, two] =
        [&a, &b].map(|id| Identity { member_id: id.clone(), instance_id: None, generation: 1 });
    let waits = world.ask("g", sync(&two, vec![]));
    assert!(!world.is_answered(waits));
    assert_eq!(world.commit("g", two.clone(), 5), E::RebalanceInProgress);
    assert_eq!(world.heartbeat("g", two.clone()), E::None);
    let plan = vec![(a.clone(), Bytes::from("left")), (b.clone(), Bytes::from("right"))];
    let leader = world.ask("g", sync(&one, plan));
    assert_eq!(world.synced(leader).assignment, "left");
    assert_eq!(world.synced(waits).assignment, "right");
    assert_eq!(world.commit("g", two.clone(), 5), E::None);

    let (_, c_joins) = world.come("g", consumer());
    assert_eq!(world.heartbeat("g", one.clone()), E::RebalanceInProgress);
    for who in [&a, &b] {
        let join = Join { member_id: who.clone(), ..consumer() };
        let id = world.ask("g", Ask::Join(Box::new(join)));
        assert_eq!(world.is_answered(id), *who == b, "the last one to come ends the wait");
    }
    assert_eq!(world.joined(c_joins).generation_id, 2);
    assert_eq!(world.heartbeat("g", one), E::IllegalGeneration);
}

#[test]
fn who_is_not_heard_of_is_removed() {
    let mut world = World::new(settings());
    let members = world.team("g", 3);
    // The third vanishes; the others go on.
    for _ in 0..4 {
        world.wait(4_000);
        for member in &members[..2] {
            let said = world.heartbeat("g", member.clone());
            assert!(matches!(said, E::None | E::RebalanceInProgress));
        }
    }
    assert_eq!(world.heartbeat("g", members[2].clone()), E::UnknownMemberId);
    assert_eq!(world.state("g"), "PreparingRebalance");
    // The second does not come back to join: the rebalance waits as long as it
    // may, or until its session is over.
    let join = Join { member_id: members[0].member_id.clone(), ..consumer() };
    let joins = world.ask("g", Ask::Join(Box::new(join)));
    world.wait(11_000);
    let joined = world.joined(joins);
    assert_eq!((joined.generation_id, joined.members.len()), (2, 1));
    // It does not ask for its assignment either, and is gone too.
    world.wait(100_000);
    // Nothing is left of the group, so it goes at the next look.
    assert_eq!(world.state("g"), "Dead");
}

#[test]
fn who_joined_and_does_not_sync_is_removed() {
    let mut world = World::new(settings());
    let (a, joins) = world.come("g", Join { session_timeout_ms: 1_000_000, ..consumer() });
    world.wait(3_000);
    assert_eq!(world.joined(joins).generation_id, 1);
    world.wait(59_000);
    let member = Identity { member_id: a, instance_id: None, generation: 1 };
    assert_eq!(world.heartbeat("g", member.clone()), E::None);
    world.wait(2_000);
    assert_eq!(world.heartbeat("g", member), E::UnknownMemberId);
    assert_eq!(world.state("g"), "Empty");
}

#[test]
fn an_id_that_was_given_out_and_not_used_leaves_nothing_behind() {
    let mut world = World::new(settings());
    let first = world.call("g", Ask::Join(Box::new(consumer())));
    assert!(matches!(first, Response::Joined(_)));
    assert_eq!(world.state("g"), "Empty");
    world.wait(10_001);
    assert_eq!(world.state("g"), "Dead");
    // A rebalance waits for who has an id.
    let members = world.team("h", 1);
    world.call("h", Ask::Join(Box::new(consumer())));
    let join = Join { member_id: members[0].member_id.clone(), ..consumer() };
    let joins = world.ask("h", Ask::Join(Box::new(join)));
    assert!(!world.is_answered(joins));
    world.wait(10_001);
    assert_eq!(world.joined(joins).generation_id, 2);
}

#[test]
fn who_may_not_speak_for_a_member() {
    let mut world = World::new(settings());
    let joins = world.ask("g", Ask::Join(Box::new(named("i"))));
    world.wait(3_000);
    let joined = world.joined(joins);
    let me: MemberId = joined.member_id.as_str().into();
    assert!(me.starts_with("i-"));
    let who = |id: &str, instance: Option<&str>, generation| Identity {
        member_id: id.into(),
        instance_id: instance.map(Into::into),
        generation,
    };
    let good = who(&me, Some("i"), 1);
    let synced = world.ask("g", sync(&good, vec![]));
    assert_eq!(world.synced(synced).error_code, 0);
    let table = [
        (good, E::None),
        (who(&me, None, 1), E::None),
        (who("x", None, 1), E::UnknownMemberId),
        (who("x", Some("i"), 1), E::FencedInstanceId),
        (who(&me, Some("j"), 1), E::UnknownMemberId),
        (who(&me, None, 0), E::IllegalGeneration),
        (who(&me, Some("i"), 2), E::IllegalGeneration),
    ];
    for (who, expected) in table {
        assert_eq!(world.heartbeat("g", who.clone()), expected, "{who:?}");
        let id = world.ask("g", sync(&who, vec![]));
        assert_eq!(world.synced(id).error_code, expected.code(), "{who:?}");
        assert_eq!(world.commit("g", who.clone(), 1), expected, "{who:?}");
        let unknown = world.heartbeat("other", who);
        assert_eq!(unknown, E::UnknownMemberId);
    }
    assert_eq!(world.commit("g", nobody(), 1), E::UnknownMemberId);
    let other = Ask::Sync(Sync {
        member: Identity { member_id: me, instance_id: None, generation: 1 },
        protocol_type: Some("connect".into()),
        protocol: None,
        assignments: vec![],
    });
    let id = world.ask("g", other);
    assert_eq!(world.synced(id).error_code, E::InconsistentGroupProtocol.code());
}

#[test]
fn joins_that_are_refused() {
    let mut world = World::new(GroupSettings { max_size: 2, ..settings() });
    world.team("g", 2);
    let table = [
        (Join { session_timeout_ms: 5_999, ..consumer() }, E::InvalidSessionTimeout),
        (Join { session_timeout_ms: 1_800_001, ..consumer() }, E::InvalidSessionTimeout),
        (Join { protocol_type: "connect".into(), ..consumer() }, E::GroupMaxSizeReached),
        (Join { member_id: "x".into(), ..consumer() }, E::GroupMaxSizeReached),
    ];
    for (join, error) in table {
        let id = world.ask("g", Ask::Join(Box::new(join)));
        assert_eq!(world.joined(id).error_code, error.code());
    }
    let mut world = World::new(settings());
    world.team("g", 1);
    let other = vec![("sticky".into(), Bytes::new())];
    let table = [
        ("g", Join { protocol_type: "connect".into(), ..consumer() }, E::InconsistentGroupProtocol),
        ("g", Join { protocols: other, ..consumer() }, E::InconsistentGroupProtocol),
        ("g", Join { member_id: "x".into(), ..consumer() }, E::UnknownMemberId),
        ("h", Join { member_id: "x".into(), ..consumer() }, E::UnknownMemberId),
        ("h", Join { protocols: vec![], ..consumer() }, E::InconsistentGroupProtocol),
        ("", consumer(), E::InvalidGroupId),
    ];
    for (group, join, error) in table {
        let id = world.ask(group, Ask::Join(Box::new(join)));
        assert_eq!(world.joined(id).error_code, error.code(), "{group} {error:?}");
    }
}

#[test]
fn a_static_member_comes_back_and_nobody_is_disturbed() {
    let mut world = World::new(settings());
    let joins = ["i", "j"].map(|name| world.ask("g", Ask::Join(Box::new(named(name)))));
    world.wait(7_000);
    let joined = joins.map(|id| world.joined(id));
    let [i, j] = joined.each_ref().map(|joined| MemberId::from(joined.member_id.as_str()));
    let plan = vec![(i.clone(), Bytes::from("for i")), (j.clone(), Bytes::from("for j"))];
    for (at, id) in [&i, &j].into_iter().enumerate() {
        let who = Identity { member_id: id.clone(), instance_id: None, generation: 1 };
        world.ask("g", sync(&who, if at == 0 { plan.clone() } else { vec![] }));
    }
    // The leader, and a member; then a leader that cannot skip the assignment.
    for (name, old, skips, leads) in
        [("j", &j, true, false), ("i", &i, true, true), ("j", &j, false, false)]
    {
        let join = Join { may_skip_assignment: skips, ..named(name) };
        let id = world.ask("g", Ask::Join(Box::new(join)));
        let joined = world.joined(id);
        assert_eq!((joined.error_code, joined.generation_id), (0, 1));
        assert_eq!((joined.skip_assignment, joined.members.len()), (leads, 2 * usize::from(leads)));
        assert_ne!(joined.member_id.as_str(), &**old);
        let who = |id: &str| Identity {
            member_id: id.into(),
            instance_id: Some(name.into()),
            generation: 1,
        };
        assert_eq!(world.heartbeat("g", who(old)), E::FencedInstanceId);
        let id = world.ask("g", sync(&who(joined.member_id.as_str()), vec![]));
        assert_eq!(world.synced(id).assignment, format!("for {name}"));
    }
    assert_eq!(world.state("g"), "Stable");
}

#[test]
fn an_old_leader_is_not_told_that_it_leads() {
    let mut world = World::new(settings());
    let joins = world.ask("g", Ask::Join(Box::new(named("i"))));
    world.wait(3_000);
    let old = world.joined(joins).member_id;
    let who = Identity { member_id: old.as_str().into(), instance_id: None, generation: 1 };
    world.ask("g", sync(&who, vec![]));
    let join = Join { may_skip_assignment: false, ..named("i") };
    let id = world.ask("g", Ask::Join(Box::new(join)));
    let joined = world.joined(id);
    assert_eq!((joined.leader, joined.members.len(), joined.skip_assignment), (old, 0, false));
}

#[test]
fn members_leave() {
    let mut world = World::new(settings());
    let members = world.team("g", 2);
    let row = |id: &str, instance: Option<&str>| Leaving {
        member_id: id.into(),
        instance_id: instance.map(Into::into),
    };
    let rows = vec![row(&members[0].member_id, None), row("x", None), row("", Some("no"))];
    let left = world.call("g", Ask::Leave(rows));
    let expected = vec![E::None, E::UnknownMemberId, E::UnknownMemberId];
    assert_eq!(left, Response::Left(E::None, expected));
    assert_eq!(world.heartbeat("g", members[1].clone()), E::RebalanceInProgress);
    let left = world.call("g", Ask::Leave(vec![row(&members[1].member_id, None)]));
    assert_eq!(left, Response::Left(E::None, vec![E::None]));
    assert_eq!(world.state("g"), "Empty");
    let gone = world.call("other", Ask::Leave(vec![row("x", None)]));
    assert_eq!(gone, Response::Left(E::UnknownMemberId, vec![]));
}

#[test]
fn an_assignment_that_cannot_be_kept_is_not_given() {
    let mut world = World::new(settings());
    let (a, joins) = world.come("g", consumer());
    world.wait(3_000);
    world.joined(joins);
    world.hold = true;
    let who = Identity { member_id: a.clone(), instance_id: None, generation: 1 };
    let id = world.ask("g", sync(&who, vec![(a, Bytes::from("x"))]));
    assert!(!world.is_answered(id));
    world.release(E::KafkaStorageError);
    assert_eq!(world.synced(id).error_code, E::NotCoordinator.code());
    assert_eq!(world.heartbeat("g", who), E::RebalanceInProgress);
}

#[test]
fn a_thousand_members() {
    let mut world = World::new(settings());
    let members = world.team("g", 1_000);
    assert_eq!(members.len(), 1_000);
    world.restart();
    assert_eq!(world.heartbeat("g", members[999].clone()), E::None);
    assert_eq!(world.commit("g", members[500].clone(), 7), E::None);
}

#[test]
fn the_last_members_leave_while_another_has_only_an_id() {
    let mut world = World::new(settings());
    let members = world.team("g", 2);
    let first = world.call("g", Ask::Join(Box::new(consumer())));
    let Response::Joined(first) = first else { panic!("{first:?}") };
    for member in members {
        let leaving = Leaving { member_id: member.member_id, instance_id: None };
        world.call("g", Ask::Leave(vec![leaving]));
        assert_eq!(world.state("g"), "PreparingRebalance");
    }
    let join = Join { member_id: first.member_id.as_str().into(), ..consumer() };
    let joins = world.ask("g", Ask::Join(Box::new(join)));
    assert_eq!(world.joined(joins).error_code, 0);
}

#[test]
fn a_partition_that_comes_during_the_stop_is_not_read() {
    let mut world = World::new(settings());
    world.coordinator.resign(world.now);
    world.coordinator.add(PartitionIndex(PARTITIONS), PARTITIONS + 1);
    assert!(world.coordinator.todo().next().is_none());
}
