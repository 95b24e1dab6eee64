//! Groups of the consumer protocol that are so large that what is decided takes
//! several slices and several batches.

use super::consumer::{Client, client, world};
use super::*;
use crate::base::limits::GROUP_BATCH_RECORDS;
use crate::group::records::consumer::Assignment;

const MEMBERS: usize = 300;
const TOPICS: [(&str, usize); 2] = [("t", 400), ("u", 200)];

fn clients() -> Vec<Client> {
    (0..MEMBERS).map(|at| client(&format!("m{at:03}"), &["t", "u"])).collect()
}

/// Has all of them join while the first batch is on its way.
fn join(world: &mut World, clients: &[Client]) -> Vec<u64> {
    world.hold = true;
    let beats = clients.iter().map(|client| Ask::ConsumerHeartbeat(Box::new(client.full())));
    beats.map(|ask| world.ask("g", ask)).collect()
}

/// Takes the answers; who was refused is no member.
fn learn(world: &mut World, clients: &mut [Client], asked: &[u64]) -> usize {
    let mut joined = 0;
    for (client, id) in clients.iter_mut().zip(asked) {
        if world.is_answered(*id) {
            let answer = world.beaten(*id);
            if answer.error_code == 0 {
                client.learn(&answer);
                client.obey();
                joined += 1;
            }
        }
    }
    joined
}

/// Heartbeats until all is shared; at no time has a partition two owners.
fn share(world: &mut World, clients: &mut [Client]) {
    world.hold = false;
    world.release(E::None);
    for _ in 0..4 {
        for client in clients.iter_mut() {
            world.tell(client);
            client.obey();
        }
        let owned = clients.iter().map(|client| size(&client.owned)).sum::<usize>();
        let mut all: Vec<_> = clients.iter().flat_map(|client| partitions(&client.owned)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), owned, "a partition has one owner");
    }
    let sizes: Vec<usize> = clients.iter().map(|client| size(&client.owned)).collect();
    assert!(sizes.iter().all(|size| *size == 600 / MEMBERS), "{sizes:?}");
    assert_eq!(world.consumers().group_state.as_str(), "Stable");
}

fn partitions(assignment: &Assignment) -> impl Iterator<Item = ([u8; 16], i32)> + '_ {
    assignment.iter().flat_map(|(topic, indexes)| indexes.iter().map(|index| (topic.0, *index)))
}

fn size(assignment: &Assignment) -> usize {
    partitions(assignment).count()
}

#[test]
fn many_members_join_at_once() {
    let mut world = world(&TOPICS);
    let mut clients = clients();
    let asked = join(&mut world, &clients);
    let mut batches = 0;
    while !world.held.is_empty() {
        for (_, _, batch) in &world.held {
            let records = BatchHeader::decode(batch).expect("a batch").record_count;
            assert!(records as usize <= GROUP_BATCH_RECORDS + 3, "{records} records in a batch");
        }
        batches += world.held.len();
        world.release(E::None);
    }
    assert!((3..20).contains(&batches), "{batches} batches");
    assert_eq!(learn(&mut world, &mut clients, &asked), MEMBERS);
    share(&mut world, &mut clients);
}

#[test]
fn a_batch_in_the_middle_is_refused() {
    for refused in [0, 2, 4] {
        let mut world = world(&TOPICS);
        let mut clients = clients();
        let asked = join(&mut world, &clients);
        for _ in 0..refused {
            world.release(E::None);
        }
        world.release(E::NotLeaderOrFollower);
        while !world.held.is_empty() {
            world.release(E::None);
        }
        let joined = learn(&mut world, &mut clients, &asked);
        assert!(joined < MEMBERS && asked.iter().all(|id| !world.is_answered(*id)));
        share(&mut world, &mut clients);
    }
}

#[test]
fn a_kill_in_the_middle() {
    for written in [1, 3] {
        let mut world = world(&TOPICS);
        let mut clients = clients();
        let asked = join(&mut world, &clients);
        for _ in 0..written {
            world.release(E::None);
        }
        learn(&mut world, &mut clients, &asked);
        world.restart();
        share(&mut world, &mut clients);
    }
}

#[test]
fn everybody_is_answered_when_the_core_resigns_in_the_middle() {
    let mut world = world(&TOPICS);
    let clients = clients();
    let asked = join(&mut world, &clients);
    let (partition, number, _) = world.held.remove(0);
    world.coordinator.written(world.now, number, E::None);
    assert!(world.coordinator.has_work(), "a slice is left in {partition}");
    world.coordinator.resign(world.now);
    world.run();
    for id in &asked[1..] {
        assert_eq!(world.beaten(*id).error_code, E::NotCoordinator.code());
    }
}

#[test]
fn a_regular_expression_that_matches_many_topics() {
    let names: Vec<String> = (0..2_000).map(|at| format!("t{at:04}")).collect();
    let mut image = Image::empty("".into(), NodeId(1));
    let mut world = world(&[]);
    let mut add = |world: &mut World, at: usize| {
        let mut id = [7; 16];
        id[..8].copy_from_slice(&(at as u64).to_be_bytes());
        image.insert_topic(super::consumer::topic(&names[at], id, 1));
        world.image = Arc::new(image.clone());
        world.coordinator.set_topics(world.image.clone());
    };
    (0..1_999).for_each(|at| add(&mut world, at));
    let mut clients = [client("a", &[]), client("b", &[])];
    for client in &mut clients {
        client.regex = Some("t[0-9]+");
        world.tell(client);
        client.obey();
    }
    let [a, b] = &mut clients;
    world.settle(&mut [a, b]);
    assert_eq!(size(&a.owned) + size(&b.owned), 1_999);
    add(&mut world, 1_999);
    world.wait(2_000);
    let [a, b] = &mut clients;
    world.settle(&mut [a, b]);
    assert_eq!((size(&a.owned), size(&b.owned)), (1_000, 1_000));
}
