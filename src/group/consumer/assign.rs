//! The assignors of the broker: who shall have which partition.
//!
//! Both keep of the target before as much as they can. *uniform* (Kafka's
//! `UniformAssignor.java`) gives every member as many partitions as any other,
//! give or take one, as far as subscriptions allow. *range* (`RangeAssignor.java`)
//! does so for each topic by itself and gives a member partitions that follow each
//! other, the same ones of topics with as many partitions. What is decided depends
//! on the arguments alone.
//!
//! An [`Assigning`] is worked on in slices, each of so many units of work: a unit
//! is a member or a partition looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::Assignor;
use crate::group::MemberId;
use crate::group::records::consumer::Assignment;
use crate::model::ids::TopicId;

/// Work that is left of a slice, in units.
#[derive(Debug)]
pub struct Budget(usize);

impl Budget {
    /// So many units.
    pub fn new(units: usize) -> Self {
        Self(units)
    }

    /// Takes some; whoever takes the last ones may take more than there are.
    pub fn take(&mut self, units: usize) {
        self.0 = self.0.saturating_sub(units);
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.0 == 0
    }
}

/// A member as assignors see it.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// Its id.
    pub id: MemberId,
    /// Which of the subscriptions it has.
    pub subscription: usize,
    /// What it shall have so far.
    pub target: Arc<Assignment>,
}

/// The topics that members subscribe to: for each whether it is, in the order of
/// the topics.
type Wanted = Vec<bool>;

/// A partition: the place of its topic, and its index.
type Partition = (u32, i32);

/// Members, by their places.
type Members = Arc<[u32]>;

/// Nobody has the partition.
const FREE: u32 = u32::MAX;

/// An assignment in the making.
#[derive(Debug)]
pub struct Assigning {
    /// By id.
    members: Vec<Subscriber>,
    /// The topics by id, how many partitions each has, and the place of its first one
    /// among all.
    topics: Vec<(TopicId, i32, usize)>,
    subscriptions: Vec<Wanted>,
    /// The members that have one of these subscriptions.
    subscribers: BTreeMap<Vec<usize>, Members>,
    /// Who has each partition so far, by its place.
    owners: Vec<u32>,
    /// What each member gets.
    rows: Vec<Vec<Partition>>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Shares of equal size of all topics.
    Same(Pool),
    /// Shares of equal size of each topic; the ones before this place are shared.
    Ranges(usize, Option<Pool>),
    /// Members that subscribe to different topics, all at once.
    Mixed(Box<Mixed>),
    /// All is assigned, the members before this one have been told.
    Done(usize),
}

/// Topics whose partitions are shared by members as equally as can be.
#[derive(Debug)]
struct Pool {
    /// Places of the topics.
    topics: std::ops::Range<usize>,
    /// Places of the members; all if there are none.
    members: Option<Members>,
    /// The next member, first to say what it keeps, then to be given the rest.
    at: usize,
    gives: bool,
    /// So many members are still to have one more than the others.
    extra: Option<usize>,
    /// The next partition that may be free.
    free: Partition,
    /// Of each member: how many it keeps, and may have.
    quotas: Vec<(usize, usize)>,
}

/// See [`Stage::Mixed`].
#[derive(Debug)]
struct Mixed {
    phase: MixedPhase,
    /// How many each member has.
    load: Vec<usize>,
    /// Members of each topic, by the place of the topic.
    subscribers: Vec<Members>,
    /// Places of topics, those that few subscribe to first: they leave the least
    /// choice.
    order: Vec<u32>,
    /// Something was moved in this round.
    moved: bool,
}

#[derive(Clone, Copy, Debug)]
enum MixedPhase {
    /// Whose is the next topic, by its place?
    Topics(usize),
    /// The next member says what it keeps.
    Keep(usize),
    /// The next partition, by the place of its topic in the order, is given to
    /// somebody.
    Give(usize, i32),
    /// The next partition is moved if that makes loads more alike. Each move does,
    /// so there is an end.
    Move(usize, i32),
    /// The next topic's partitions are put into the rows.
    Collect(usize, i32),
}

impl Assigning {
    /// Assigns the partitions of `topics`, of which there are so many, to `members`,
    /// ordered by id, whose subscriptions are some of `subscriptions`.
    pub fn new(
        assignor: Assignor,
        members: Vec<Subscriber>,
        subscriptions: &[BTreeSet<TopicId>],
        topics: &BTreeMap<TopicId, i32>,
    ) -> Self {
        let mut count = 0;
        let row = |(topic, partitions): (&TopicId, &i32)| {
            let first = count;
            count += (*partitions).max(0) as usize;
            (*topic, (*partitions).max(0), first)
        };
        let topics: Vec<(TopicId, i32, usize)> = topics.iter().map(row).collect();
        let wanted = |subscription: &BTreeSet<TopicId>| {
            let mut wanted = vec![false; topics.len()];
            let mut place = 0;
            for topic in subscription {
                while topics.get(place).is_some_and(|row| row.0 < *topic) {
                    place += 1;
                }
                if topics.get(place).is_some_and(|row| row.0 == *topic) {
                    wanted[place] = true;
                }
            }
            wanted
        };
        let subscriptions: Vec<Wanted> = subscriptions.iter().map(wanted).collect();
        let stage = match assignor {
            _ if members.is_empty() => Stage::Done(0),
            Assignor::Range => Stage::Ranges(0, None),
            Assignor::Uniform if subscriptions.len() == 1 => {
                Stage::Same(Pool::new(0..topics.len(), None))
            }
            Assignor::Uniform => Stage::Mixed(Box::new(Mixed {
                phase: MixedPhase::Topics(0),
                load: vec![0; members.len()],
                subscribers: Vec::with_capacity(topics.len()),
                order: vec![],
                moved: false,
            })),
        };
        Self {
            rows: vec![vec![]; members.len()],
            owners: vec![FREE; count],
            subscribers: BTreeMap::new(),
            members,
            topics,
            subscriptions,
            stage,
        }
    }

    /// The members that subscribe to a topic.
    fn subscribers(&mut self, place: usize, budget: &mut Budget) -> Members {
        let wants = |subscription: &usize| self.subscriptions[*subscription][place];
        let wanting: Vec<usize> = (0..self.subscriptions.len()).filter(wants).collect();
        budget.take(1 + self.subscriptions.len() / 16);
        if let Some(members) = self.subscribers.get(&wanting) {
            return members.clone();
        }
        budget.take(self.members.len() / 4);
        let all = self.members.iter().enumerate();
        let wanting_one = all.filter(|(_, one)| wanting.binary_search(&one.subscription).is_ok());
        let members: Members = wanting_one.map(|(at, _)| at as u32).collect();
        self.subscribers.insert(wanting, members.clone());
        members
    }

    /// Goes on. True when all is assigned.
    pub fn go_on(&mut self, budget: &mut Budget) -> bool {
        while !budget.is_over() {
            match std::mem::replace(&mut self.stage, Stage::Done(0)) {
                Stage::Done(told) => {
                    self.stage = Stage::Done(told);
                    return true;
                }
                Stage::Same(mut pool) => {
                    if !self.share(&mut pool, budget) {
                        self.stage = Stage::Same(pool);
                    }
                }
                Stage::Ranges(place, Some(mut pool)) => {
                    let shared = self.share(&mut pool, budget);
                    self.stage = Stage::Ranges(place, Some(pool).filter(|_| !shared));
                }
                Stage::Ranges(place, None) if place < self.topics.len() => {
                    let members = self.subscribers(place, budget);
                    let pool = Pool::new(place..place + 1, Some(members));
                    let anybody = pool.members.as_ref().is_some_and(|all| !all.is_empty());
                    self.stage = Stage::Ranges(place + 1, Some(pool).filter(|_| anybody));
                }
                Stage::Ranges(_, None) => {}
                Stage::Mixed(mut mixed) => {
                    if !self.mix(&mut mixed, budget) {
                        self.stage = Stage::Mixed(mixed);
                    }
                }
            }
        }
        matches!(self.stage, Stage::Done(_))
    }

    /// The next member that is to have something else than before, once all is
    /// assigned.
    pub fn next_change(&mut self, budget: &mut Budget) -> Option<(MemberId, Arc<Assignment>)> {
        let Stage::Done(told) = &mut self.stage else { return None };
        while let Some(row) = self.rows.get_mut(*told)
            && !budget.is_over()
        {
            let member = &self.members[*told];
            *told += 1;
            let row = std::mem::take(row);
            budget.take(1 + row.len());
            let has = |(place, index): &Partition| {
                let target = member.target.get(&self.topics[*place as usize].0);
                target.is_some_and(|target| target.contains(index))
            };
            let before: usize = member.target.values().map(|indexes| indexes.len()).sum();
            if before == row.len() && row.iter().all(has) {
                continue;
            }
            let mut row = row;
            row.sort_unstable();
            let topics = row.chunk_by(|one, other| one.0 == other.0).map(|run| {
                let topic = self.topics[run[0].0 as usize].0;
                (topic, run.iter().map(|(_, index)| *index).collect())
            });
            let assignment: Assignment = topics.collect();
            return Some((member.id.clone(), Arc::new(assignment)));
        }
        None
    }

    /// Whether everybody has been told.
    pub fn is_told(&self) -> bool {
        matches!(self.stage, Stage::Done(told) if told >= self.members.len())
    }

    /// What a member had of these topics, subscribes to, that is there, and that
    /// nobody before it has kept.
    fn kept(&self, member: usize, topics: &std::ops::Range<usize>) -> Vec<Partition> {
        let Subscriber { subscription, target, .. } = &self.members[member];
        let wanted = &self.subscriptions[*subscription];
        let mut kept = vec![];
        let mut add = |place: usize, indexes: &BTreeSet<i32>| {
            let (_, count, first) = self.topics[place];
            let there = indexes.iter().filter(|index| (0..count).contains(*index));
            let free = there.filter(|index| self.owners[first + **index as usize] == FREE);
            kept.extend(free.map(|index| (place as u32, *index)));
        };
        if topics.len() == 1 {
            let place = topics.start;
            if let Some(indexes) = target.get(&self.topics[place].0).filter(|_| wanted[place]) {
                add(place, indexes);
            }
            return kept;
        }
        for (topic, indexes) in &**target {
            if let Ok(place) = self.topics.binary_search_by_key(topic, |row| row.0)
                && wanted[place]
            {
                add(place, indexes);
            }
        }
        kept
    }

    fn own(&mut self, (place, index): Partition, member: usize) {
        let first = self.topics[place as usize].2;
        self.owners[first + index as usize] = member as u32;
    }

    /// Goes on with a pool (`UniformHomogeneousAssignmentBuilder.java`). True when
    /// all of it is shared.
    fn share(&mut self, pool: &mut Pool, budget: &mut Budget) -> bool {
        let count = pool.members.as_ref().map_or(self.members.len(), |members| members.len());
        let total: usize = self.topics[pool.topics.clone()].iter().map(|row| row.1 as usize).sum();
        let least = total / count;
        let mut extra = pool.extra.unwrap_or(total % count);
        while !budget.is_over() && (pool.at < count || !pool.gives) {
            if pool.at == count {
                (pool.at, pool.gives) = (0, true);
                continue;
            }
            let at = pool.at;
            pool.at += 1;
            let member = pool.members.as_ref().map_or(at, |members| members[at] as usize);
            if pool.gives {
                let (keeps, mut quota) = pool.quotas[at];
                if quota == least && extra > 0 {
                    extra -= 1;
                    quota += 1;
                }
                budget.take(1 + quota - keeps);
                for _ in keeps..quota {
                    let partition = self.next_free(pool, budget);
                    self.own(partition, member);
                    self.rows[member].push(partition);
                }
            } else {
                let mut has = self.kept(member, &pool.topics);
                budget.take(1 + has.len());
                let mut quota = least;
                if has.len() > least && extra > 0 {
                    extra -= 1;
                    quota += 1;
                }
                has.truncate(quota);
                has.iter().for_each(|partition| self.own(*partition, member));
                pool.quotas.push((has.len(), quota));
                self.rows[member].extend(has);
            }
        }
        pool.extra = Some(extra);
        pool.at == count && pool.gives
    }

    /// The next partition of a pool that nobody has; there is one.
    fn next_free(&self, pool: &mut Pool, budget: &mut Budget) -> Partition {
        loop {
            let (place, index) = pool.free;
            let (_, count, first) = self.topics[place as usize];
            if index >= count {
                pool.free = (place + 1, 0);
                continue;
            }
            pool.free.1 += 1;
            if self.owners[first + index as usize] == FREE {
                return (place, index);
            }
            // Far less than what is a unit.
            if index % 16 == 0 {
                budget.take(1);
            }
        }
    }

    /// Goes on with members that subscribe to different topics
    /// (`UniformHeterogeneousAssignmentBuilder.java`). True when all is assigned.
    fn mix(&mut self, mixed: &mut Mixed, budget: &mut Budget) -> bool {
        while !budget.is_over() {
            match mixed.phase {
                MixedPhase::Topics(place) if place == self.topics.len() => {
                    let of = |place: &u32| mixed.subscribers[*place as usize].len();
                    let mut order: Vec<u32> = (0..place as u32).collect();
                    order.retain(|place| of(place) > 0);
                    order.sort_by_key(of);
                    mixed.order = order;
                    mixed.phase = MixedPhase::Keep(0);
                }
                MixedPhase::Topics(place) => {
                    let subscribers = self.subscribers(place, budget);
                    mixed.subscribers.push(subscribers);
                    mixed.phase = MixedPhase::Topics(place + 1);
                }
                MixedPhase::Keep(member) if member == self.members.len() => {
                    mixed.phase = MixedPhase::Give(0, 0);
                }
                MixedPhase::Keep(member) => {
                    let kept = self.kept(member, &(0..self.topics.len()));
                    budget.take(1 + kept.len());
                    mixed.load[member] = kept.len();
                    kept.into_iter().for_each(|partition| self.own(partition, member));
                    mixed.phase = MixedPhase::Keep(member + 1);
                }
                MixedPhase::Give(at, index) => match self.at(mixed, at, index) {
                    Ok((place, slot)) => {
                        budget.take(1);
                        if self.owners[slot] == FREE {
                            let to = mixed.lightest(place, budget);
                            mixed.load[to as usize] += 1;
                            self.owners[slot] = to;
                        }
                        mixed.phase = MixedPhase::Give(at, index + 1);
                    }
                    Err(true) => mixed.phase = MixedPhase::Give(at + 1, 0),
                    Err(false) => mixed.phase = MixedPhase::Move(0, 0),
                },
                MixedPhase::Move(at, index) => match self.at(mixed, at, index) {
                    Ok((place, slot)) => {
                        let from = self.owners[slot];
                        let to = mixed.lightest(place, budget);
                        if mixed.load[from as usize] > mixed.load[to as usize] + 1 {
                            mixed.load[from as usize] -= 1;
                            mixed.load[to as usize] += 1;
                            self.owners[slot] = to;
                            mixed.moved = true;
                        }
                        mixed.phase = MixedPhase::Move(at, index + 1);
                    }
                    Err(true) => mixed.phase = MixedPhase::Move(at + 1, 0),
                    Err(false) if std::mem::take(&mut mixed.moved) => {
                        mixed.phase = MixedPhase::Move(0, 0);
                    }
                    Err(false) => mixed.phase = MixedPhase::Collect(0, 0),
                },
                MixedPhase::Collect(at, index) => match self.at(mixed, at, index) {
                    Ok((place, slot)) => {
                        budget.take(1);
                        self.rows[self.owners[slot] as usize].push((place, index));
                        mixed.phase = MixedPhase::Collect(at, index + 1);
                    }
                    Err(true) => mixed.phase = MixedPhase::Collect(at + 1, 0),
                    Err(false) => return true,
                },
            }
        }
        false
    }

    /// A partition by the place of its topic in the order: the place of the topic,
    /// and that of the partition among all; or whether there are more topics.
    fn at(&self, mixed: &Mixed, at: usize, index: i32) -> Result<(u32, usize), bool> {
        let place = *mixed.order.get(at).ok_or(false)?;
        let (_, count, first) = self.topics[place as usize];
        if index < count { Ok((place, first + index as usize)) } else { Err(true) }
    }
}

impl Pool {
    fn new(topics: std::ops::Range<usize>, members: Option<Members>) -> Self {
        let free = (topics.start as u32, 0);
        Self { topics, members, at: 0, gives: false, extra: None, free, quotas: vec![] }
    }
}

impl Mixed {
    /// The member of a topic that has the least.
    fn lightest(&self, place: u32, budget: &mut Budget) -> u32 {
        let members = &self.subscribers[place as usize];
        budget.take(1 + members.len() / 16);
        let lightest = members.iter().min_by_key(|member| self.load[**member as usize]);
        *lightest.expect("a topic has subscribers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// A member: the topics that it subscribes to, and what it shall have.
    #[derive(Clone)]
    struct Member {
        topics: BTreeSet<TopicId>,
        target: Arc<Assignment>,
    }

    /// Assigns in slices of `units`.
    fn assign(
        assignor: Assignor,
        members: &BTreeMap<MemberId, Member>,
        partitions: &BTreeMap<TopicId, i32>,
        units: usize,
    ) -> BTreeMap<MemberId, Assignment> {
        let all: BTreeSet<&BTreeSet<TopicId>> = members.values().map(|one| &one.topics).collect();
        let all: Vec<BTreeSet<TopicId>> = all.into_iter().cloned().collect();
        let subscriber = |(id, member): (&MemberId, &Member)| Subscriber {
            id: id.clone(),
            subscription: all
                .iter()
                .position(|topics| *topics == member.topics)
                .expect("of a member"),
            target: member.target.clone(),
        };
        let topics = partitions.iter().filter(|(id, _)| all.iter().flatten().any(|t| t == *id));
        let topics = topics.map(|(id, count)| (*id, *count)).collect();
        let members_now: Vec<Subscriber> = members.iter().map(subscriber).collect();
        let mut assigning = Assigning::new(assignor, members_now, &all, &topics);
        while !assigning.go_on(&mut Budget::new(units)) {}
        let mut assignments: BTreeMap<MemberId, Assignment> =
            members.iter().map(|(id, member)| (id.clone(), (*member.target).clone())).collect();
        while !assigning.is_told() {
            while let Some((id, target)) = assigning.next_change(&mut Budget::new(units)) {
                assignments.insert(id, (*target).clone());
            }
        }
        assignments
    }

    const T: TopicId = TopicId([1; 16]);
    const U: TopicId = TopicId([2; 16]);

    fn id(at: usize) -> MemberId {
        format!("m{at:03}").into()
    }

    fn member(topics: &[TopicId]) -> Member {
        Member { topics: topics.iter().copied().collect(), target: Arc::default() }
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
        members: &mut BTreeMap<MemberId, Member>,
        partitions: &[(TopicId, i32)],
    ) -> String {
        let partitions: BTreeMap<TopicId, i32> = partitions.iter().copied().collect();
        let assignments = assign(assignor, members, &partitions, 1);
        // Slices do not matter.
        assert_eq!(assign(assignor, members, &partitions, 1_000_000), assignments);
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
        assert!(assign(Assignor::Uniform, &BTreeMap::new(), &BTreeMap::new(), 9).is_empty());
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
                let mut owners: BTreeMap<(TopicId, i32), usize> = BTreeMap::new();
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
                let load = |m: &Member| m.target.values().map(BTreeSet::len).sum::<usize>();
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
                        let had: BTreeSet<(TopicId, i32)> = had.collect();
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
