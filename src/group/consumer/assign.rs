//! The assignors of the broker: who shall have which partition.
//!
//! Both keep of the target before as much as they can. *uniform* (Kafka's
//! `UniformAssignor.java`) gives every member as many partitions as any other,
//! give or take one, as far as subscriptions allow. *range* (`RangeAssignor.java`)
//! does so for each topic by itself and gives a member partitions that follow each
//! other, the same ones of topics with as many partitions. What is decided depends
//! on the arguments alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::Assignor;
use crate::group::MemberId;
use crate::group::records::consumer::Assignment;
use crate::model::ids::TopicId;

/// A member as assignors see it.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// The topics that it subscribes to and that exist.
    pub topics: BTreeSet<TopicId>,
    /// What it shall have so far.
    pub target: Arc<Assignment>,
}

/// Assigns the partitions of all topics that are subscribed to, of which
/// `partitions` has how many there are.
///
/// # Panics
/// If a topic that is subscribed to is not in `partitions`.
pub fn assign(
    assignor: Assignor,
    members: &BTreeMap<MemberId, Subscriber>,
    partitions: &BTreeMap<TopicId, i32>,
) -> BTreeMap<MemberId, Assignment> {
    let mut first = members.values();
    let Some(topics) = first.next().map(|member| &member.topics) else { return BTreeMap::new() };
    match assignor {
        Assignor::Range => range(members, partitions),
        Assignor::Uniform if first.all(|member| member.topics == *topics) => {
            uniform_same(members, topics, partitions)
        }
        Assignor::Uniform => uniform_mixed(members, partitions),
    }
}

type Partition = (TopicId, i32);

/// What a member keeps of what it had: what it still subscribes to and what is
/// there, and nobody before it has kept.
fn kept(
    member: &Subscriber,
    partitions: &BTreeMap<TopicId, i32>,
    taken: &mut BTreeSet<Partition>,
) -> Vec<Partition> {
    let target = member.target.iter().filter(|(topic, _)| member.topics.contains(topic));
    let all = target.flat_map(|(topic, indexes)| {
        let count = partitions[topic];
        let there = indexes.iter().filter(move |index| (0..count).contains(*index));
        there.map(|index| (*topic, *index))
    });
    all.filter(|partition| taken.insert(*partition)).collect()
}

/// Members that all subscribe to the same topics
/// (`UniformHomogeneousAssignmentBuilder.java`).
fn uniform_same(
    members: &BTreeMap<MemberId, Subscriber>,
    topics: &BTreeSet<TopicId>,
    partitions: &BTreeMap<TopicId, i32>,
) -> BTreeMap<MemberId, Assignment> {
    let total: usize = topics.iter().map(|topic| partitions[topic].max(0) as usize).sum();
    let least = total / members.len();
    // So many members have one more.
    let mut extra = total % members.len();
    let mut taken = BTreeSet::new();
    let mut rows: Vec<(&MemberId, Vec<Partition>)> = vec![];
    for (id, member) in members {
        let mut has = kept(member, partitions, &mut taken);
        let mut quota = least;
        if has.len() > least && extra > 0 {
            extra -= 1;
            quota += 1;
        }
        for partition in has.drain(quota.min(has.len())..) {
            taken.remove(&partition);
        }
        rows.push((id, has));
    }
    let all = topics.iter().flat_map(|topic| (0..partitions[topic]).map(|index| (*topic, index)));
    let mut free = all.filter(|partition| !taken.contains(partition));
    let mut assignments = BTreeMap::new();
    for (id, mut has) in rows {
        let mut quota = least;
        if has.len() <= least && extra > 0 {
            extra -= 1;
            quota += 1;
        }
        let missing = quota.saturating_sub(has.len());
        has.extend(free.by_ref().take(missing));
        assignments.insert(id.clone(), collect(has));
    }
    assignments
}

/// Members of which some subscribe to other topics than others
/// (`UniformHeterogeneousAssignmentBuilder.java`).
fn uniform_mixed(
    members: &BTreeMap<MemberId, Subscriber>,
    partitions: &BTreeMap<TopicId, i32>,
) -> BTreeMap<MemberId, Assignment> {
    let ids: Vec<&MemberId> = members.keys().collect();
    let mut subscribers: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    let mut owner: BTreeMap<Partition, usize> = BTreeMap::new();
    let mut load = vec![0_usize; ids.len()];
    for (at, member) in members.values().enumerate() {
        for topic in &member.topics {
            subscribers.entry(*topic).or_default().push(at);
        }
        for partition in kept(member, partitions, &mut taken) {
            owner.insert(partition, at);
            load[at] += 1;
        }
    }
    // Topics that few subscribe to leave the least choice, so they come first.
    let mut topics: Vec<(&TopicId, &Vec<usize>)> = subscribers.iter().collect();
    topics.sort_by_key(|(_, members)| members.len());
    let lightest = |members: &[usize], load: &[usize]| {
        *members.iter().min_by_key(|at| load[**at]).expect("a topic has subscribers")
    };
    for (topic, members) in &topics {
        for index in 0..partitions[*topic] {
            let partition = (**topic, index);
            owner.entry(partition).or_insert_with(|| {
                let at = lightest(members, &load);
                load[at] += 1;
                at
            });
        }
    }
    // Each move makes loads more alike, so there is an end.
    loop {
        let mut moved = false;
        for (topic, members) in &topics {
            for index in 0..partitions[*topic] {
                let at = owner.get_mut(&(**topic, index)).expect("all are assigned");
                let to = lightest(members, &load);
                if load[*at] > load[to] + 1 {
                    load[*at] -= 1;
                    load[to] += 1;
                    *at = to;
                    moved = true;
                }
            }
        }
        if !moved {
            break;
        }
    }
    let mut rows = vec![vec![]; ids.len()];
    for (partition, at) in owner {
        rows[at].push(partition);
    }
    ids.into_iter().cloned().zip(rows.into_iter().map(collect)).collect()
}

fn range(
    members: &BTreeMap<MemberId, Subscriber>,
    partitions: &BTreeMap<TopicId, i32>,
) -> BTreeMap<MemberId, Assignment> {
    let mut assignments: BTreeMap<MemberId, Assignment> =
        members.keys().map(|id| (id.clone(), Assignment::new())).collect();
    for (topic, count) in partitions {
        let subscribers: Vec<(&MemberId, &Subscriber)> =
            members.iter().filter(|(_, member)| member.topics.contains(topic)).collect();
        if subscribers.is_empty() {
            continue;
        }
        let count = (*count).max(0);
        let least = count as usize / subscribers.len();
        let mut extra = count as usize % subscribers.len();
        let mut taken = BTreeSet::new();
        let mut rows = vec![];
        for (id, member) in subscribers {
            let had = member.target.get(topic).into_iter().flatten();
            let had: Vec<i32> = had
                .copied()
                .filter(|index| (0..count).contains(index) && !taken.contains(index))
                .collect();
            let mut quota = least;
            if had.len() > least && extra > 0 {
                extra -= 1;
                quota += 1;
            }
            let keeps: BTreeSet<i32> = had.into_iter().take(quota).collect();
            taken.extend(keeps.iter().copied());
            rows.push((id, quota, keeps));
        }
        let mut free = (0..count).filter(|index| !taken.contains(index));
        for (id, mut quota, mut keeps) in rows {
            if quota == least && extra > 0 {
                extra -= 1;
                quota += 1;
            }
            let missing = quota - keeps.len();
            keeps.extend(free.by_ref().take(missing));
            if !keeps.is_empty() {
                assignments.get_mut(id).expect("made above").insert(*topic, keeps);
            }
        }
    }
    assignments
}

fn collect(partitions: Vec<Partition>) -> Assignment {
    let mut assignment = Assignment::new();
    for (topic, index) in partitions {
        assignment.entry(topic).or_default().insert(index);
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    const T: TopicId = TopicId([1; 16]);
    const U: TopicId = TopicId([2; 16]);

    fn id(at: usize) -> MemberId {
        format!("m{at:03}").into()
    }

    fn member(topics: &[TopicId]) -> Subscriber {
        Subscriber { topics: topics.iter().copied().collect(), target: Arc::default() }
    }

    /// Who has what, in a line.
    fn show(assignments: &BTreeMap<MemberId, Assignment>) -> String {
        let row = |assignment: &Assignment| {
            let topics = assignment.iter().map(|(topic, indexes)| {
                let name = if *topic == T { 't' } else { 'u' };
                let indexes: Vec<String> = indexes.iter().map(i32::to_string).collect();
                format!("{name}{}", indexes.join(","))
            });
            topics.collect::<Vec<_>>().join(" ")
        };
        assignments.values().map(row).collect::<Vec<_>>().join(" | ")
    }

    /// Assigns, and lets the members go on from that.
    fn again(
        assignor: Assignor,
        members: &mut BTreeMap<MemberId, Subscriber>,
        partitions: &[(TopicId, i32)],
    ) -> String {
        let partitions: BTreeMap<TopicId, i32> = partitions.iter().copied().collect();
        let assignments = assign(assignor, members, &partitions);
        for (id, assignment) in &assignments {
            members.get_mut(id).expect("a member").target = Arc::new(assignment.clone());
        }
        show(&assignments)
    }

    #[test]
    fn members_come_and_go() {
        for (assignor, rows) in [
            (
                Assignor::Uniform,
                [
                    "t0,1,2,3 u0,1,2",
                    "t0,1,2,3 | u0,1,2",
                    "t0,1,2 | u0,1 | t3 u2",
                    "t0,1 u0,1 | t2,3 u2",
                    "t0,1 u0,1 | t2,3 u2",
                    "t0,1 u0,1 | t2,3 u2,3",
                ],
            ),
            (
                Assignor::Range,
                [
                    "t0,1,2,3 u0,1,2",
                    "t0,1 u0,1 | t2,3 u2",
                    "t0,1 u0 | t2 u2 | t3 u1",
                    "t0,2 u0,2 | t1,3 u1",
                    "t0,2 u0,2 | t1,3 u1",
                    "t0,2 u0,2 | t1,3 u1,3",
                ],
            ),
        ] {
            let all = [(T, 4), (U, 3)];
            let mut members = BTreeMap::from([(id(0), member(&[T, U]))]);
            let mut seen = vec![again(assignor, &mut members, &all)];
            for at in [1, 2] {
                members.insert(id(at), member(&[T, U]));
                seen.push(again(assignor, &mut members, &all));
            }
            members.remove(&id(0));
            seen.push(again(assignor, &mut members, &all));
            seen.push(again(assignor, &mut members, &all));
            seen.push(again(assignor, &mut members, &[(T, 4), (U, 4)]));
            assert_eq!(seen, rows, "{assignor:?}");
        }
        assert!(assign(Assignor::Uniform, &BTreeMap::new(), &BTreeMap::new()).is_empty());
    }

    #[test]
    fn mixed_subscriptions() {
        let mut members =
            BTreeMap::from([(id(0), member(&[T])), (id(1), member(&[T, U])), (id(2), member(&[]))]);
        let seen = again(Assignor::Uniform, &mut members, &[(T, 4), (U, 2)]);
        assert_eq!(seen, "t0,1,2 | t3 u0,1 | ");
        let seen = again(Assignor::Range, &mut members, &[(T, 4), (U, 2)]);
        assert_eq!(seen, "t0,1 | t2,3 u0,1 | ");
    }

    #[test]
    fn everything_is_assigned_once_evenly_and_stays() {
        let mut rng = Rng::new(1);
        for round in 0..300 {
            let topics: Vec<TopicId> =
                (1..=rng.between(1, 4) as u8).map(|n| TopicId([n; 16])).collect();
            let mut partitions: BTreeMap<TopicId, i32> =
                topics.iter().map(|topic| (*topic, rng.between(0, 9) as i32)).collect();
            let same = rng.chance(1, 2);
            let assignor = if rng.chance(1, 2) { Assignor::Uniform } else { Assignor::Range };
            let mut members = BTreeMap::new();
            for step in 0..12 {
                match rng.below(4) {
                    0 if members.len() > 1 => {
                        let at = rng.below(members.len() as u64) as usize;
                        let gone: MemberId = members.keys().nth(at).cloned().expect("below");
                        members.remove(&gone);
                    }
                    1 => *partitions.values_mut().next().expect("a topic") += 1,
                    _ => {
                        let wants = |topic: &&TopicId| same || topic.0[0] == 1 || rng.chance(1, 2);
                        let wanted: Vec<TopicId> = topics.iter().filter(wants).copied().collect();
                        members.insert(id(step), member(&wanted));
                    }
                }
                let before = members.clone();
                let rows: Vec<(TopicId, i32)> = partitions.iter().map(|(t, n)| (*t, *n)).collect();
                let seen = again(assignor, &mut members, &rows);
                assert_eq!(again(assignor, &mut members, &rows), seen, "round {round}");
                let mut owners: BTreeMap<Partition, usize> = BTreeMap::new();
                for member in members.values() {
                    for (topic, indexes) in member.target.iter() {
                        assert!(member.topics.contains(topic), "round {round}");
                        for index in indexes {
                            *owners.entry((*topic, *index)).or_default() += 1;
                        }
                    }
                }
                let wanted = |topic: &TopicId| members.values().any(|m| m.topics.contains(topic));
                let all: usize =
                    rows.iter().filter(|(topic, _)| wanted(topic)).map(|(_, n)| *n as usize).sum();
                assert_eq!(owners.len(), all, "round {round}: {seen}");
                assert!(owners.values().all(|count| *count == 1), "round {round}: {seen}");
                let load = |m: &Subscriber| m.target.values().map(BTreeSet::len).sum::<usize>();
                if same && assignor == Assignor::Uniform && !members.is_empty() {
                    let (low, high) =
                        (members.values().map(load).min(), members.values().map(load).max());
                    assert!(high.expect("one") - low.expect("one") <= 1, "round {round}: {seen}");
                    // Nobody who stays loses more than its share asks for.
                    let least = all / members.len();
                    for (id, member) in &members {
                        let had = before[id]
                            .target
                            .iter()
                            .flat_map(|(t, indexes)| indexes.iter().map(|i| (*t, *i)));
                        let had: BTreeSet<Partition> = had.collect();
                        let has = member
                            .target
                            .iter()
                            .flat_map(|(t, indexes)| indexes.iter().map(|i| (*t, *i)));
                        let stays = has.filter(|partition| had.contains(partition)).count();
                        assert!(stays >= had.len().min(least), "round {round}: {seen}");
                    }
                }
            }
        }
    }
}
