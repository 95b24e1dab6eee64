//! Committed offsets: who may commit, what survives, what expires.

use super::*;

#[test]
fn offsets_of_whoever_assigns_partitions_itself() {
    let mut world = World::new(settings());
    assert_eq!(world.offset("g"), -1);
    assert_eq!(world.commit("g", nobody(), 7), E::None);
    assert_eq!(world.commit("", nobody(), 8), E::None);
    assert_eq!((world.offset("g"), world.offset("")), (7, 8));
    let all = world.call("g", Ask::Fetch(Fetch::default()));
    let Response::Fetched(Ok(topics)) = all else { panic!("{all:?}") };
    assert_eq!((topics.len(), topics[0].partitions[0].leader_epoch), (1, 4));
    let member = Identity { member_id: "x".into(), instance_id: None, generation: 3 };
    assert_eq!(world.commit("g", member.clone(), 9), E::UnknownMemberId);
    assert_eq!(world.commit("h", member, 9), E::GroupIdNotFound);
    let long = world.call("g", commit(nobody(), 9, "seventeen letters"));
    assert_eq!(long, Response::Committed(vec![E::OffsetMetadataTooLarge]));
    assert_eq!(world.offset("g"), 7);
}

#[test]
fn what_is_answered_is_committed_and_what_is_seen_too() {
    let mut world = World::new(settings());
    world.hold = true;
    let first = world.ask("g", commit(nobody(), 7, ""));
    assert!(!world.is_answered(first));
    assert_eq!(world.offset("g"), -1);
    world.release(E::None);
    assert_eq!(world.take(first), Response::Committed(vec![E::None]));
    for (refused, said) in [
        (E::KafkaStorageError, E::NotCoordinator),
        (E::NotEnoughReplicas, E::CoordinatorNotAvailable),
        (E::MessageTooLarge, E::UnknownServerError),
    ] {
        let id = world.ask("g", commit(nobody(), 8, ""));
        world.release(refused);
        assert_eq!(world.take(id), Response::Committed(vec![said]));
    }
    assert_eq!(world.offset("g"), 7);
    world.restart();
    assert_eq!(world.offset("g"), 7);
}

#[test]
fn groups_are_deleted_when_nobody_is_in_them() {
    let mut world = World::new(settings());
    assert_eq!(world.call("g", Ask::Delete), Response::Deleted(E::GroupIdNotFound));
    let members = world.team("g", 1);
    world.commit("g", members[0].clone(), 5);
    assert_eq!(world.call("g", Ask::Delete), Response::Deleted(E::NonEmptyGroup));
    world.wait(10_001);
    // It waits for what is on its way.
    world.hold = true;
    let commits = world.ask("g", commit(nobody(), 6, ""));
    let deletes = world.ask("g", Ask::Delete);
    assert!(!world.is_answered(deletes));
    world.release(E::None);
    assert_eq!(world.take(commits), Response::Committed(vec![E::None]));
    assert_eq!(world.commit_code(), E::CoordinatorNotAvailable);
    world.hold = false;
    world.release(E::None);
    assert_eq!(world.take(deletes), Response::Deleted(E::None));
    assert_eq!((world.offset("g"), &*world.state("g")), (-1, "Dead"));
    world.restart();
    assert_eq!((world.offset("g"), &*world.state("g")), (-1, "Dead"));
}

impl World {
    /// What a commit for group `g` is told at once.
    fn commit_code(&mut self) -> E {
        self.commit("g", nobody(), 1)
    }
}

#[test]
fn offsets_are_deleted_unless_they_are_needed() {
    let mut world = World::new(settings());
    let topics = || vec![TopicPartitions { topic: "t".into(), partitions: vec![0, 1] }];
    let none = world.call("g", Ask::DeleteOffsets(topics()));
    assert_eq!(none, Response::OffsetsDeleted(E::GroupIdNotFound, vec![]));
    let members = world.team("g", 1);
    world.commit("g", members[0].clone(), 5);
    let read = world.call("g", Ask::DeleteOffsets(topics()));
    assert_eq!(read, Response::OffsetsDeleted(E::None, vec![E::GroupSubscribedToTopic]));
    world.wait(10_001);
    let gone = world.call("g", Ask::DeleteOffsets(topics()));
    assert_eq!(gone, Response::OffsetsDeleted(E::None, vec![E::None]));
    assert_eq!(world.offset("g"), -1);
}

#[test]
fn offsets_expire_after_the_group_is_empty() {
    let mut world = World::new(settings());
    let members = world.team("g", 1);
    world.commit("g", members[0].clone(), 5);
    // A group that never had members counts from the commit.
    world.commit("simple", nobody(), 6);
    for _ in 0..20 {
        world.wait(5_000);
        assert_eq!(world.heartbeat("g", members[0].clone()), E::None);
    }
    assert_eq!((world.offset("g"), world.offset("simple")), (5, -1));
    world.wait(60_000);
    assert_eq!((world.offset("g"), &*world.state("g")), (5, "Empty"));
    world.wait(25_000);
    assert_eq!((world.offset("g"), &*world.state("g")), (-1, "Dead"));
    world.restart();
    assert_eq!(world.coordinator.list(), Ok(vec![]));
}

#[test]
fn a_topics_offsets_go_with_it() {
    let mut world = World::new(settings());
    world.commit("g", nobody(), 5);
    world.coordinator.topic_deleted(world.now, "other");
    world.run();
    assert_eq!(world.offset("g"), 5);
    world.coordinator.topic_deleted(world.now, "t");
    world.run();
    assert_eq!(world.offset("g"), -1);
}

#[test]
fn ten_thousand_groups() {
    let mut world = World::new(settings());
    for number in 0..10_000 {
        assert_eq!(world.commit(&format!("g{number}"), nobody(), number), E::None);
    }
    world.restart();
    assert_eq!(world.coordinator.list().expect("loaded").len(), 10_000);
    assert_eq!(world.offset("g1234"), 1_234);
    world.wait(100_000);
    assert_eq!(world.coordinator.list(), Ok(vec![]));
}
