//! Consumer groups and committed offsets: the coordinators of one core.
//!
//! A group lives where its partition of `__consumer_offsets` lives
//! ([`partition_of`]). [`Coordinator`] has the groups of all such partitions of
//! its core. It takes requests and gives each exactly one answer, through
//! [`Coordinator::todo`]; a JoinGroup or SyncGroup that waits for others is said
//! to be parked first. What has to be kept is appended to the partition and
//! answered when it is committed.
//!
//! A partition's groups are loaded when the core takes it on; requests are
//! answered COORDINATOR_LOAD_IN_PROGRESS meanwhile, and NOT_COORDINATOR if the
//! partition is not here or cannot be read. After [`Coordinator::resign`]
//! everything is answered NOT_COORDINATOR.
//!
//! Groups use the classic protocol, whose members assign, or the consumer protocol
//! (KIP-848), for which the coordinator does. There are no transactions here:
//! offsets are stable as soon as they are committed.

mod classic;
mod consumer;
mod offsets;
mod rebalance;
pub mod records;
pub mod request;
mod step;
#[cfg(test)]
mod tests;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use self::classic::Group;
pub use self::classic::State;
use self::records::Record;
use self::request::{Ask, Asker, Request, Response};
use self::step::{Due, Step, Then, Timer, Todo};
use crate::base::deadlines::Deadlines;
use crate::base::limits::{GROUPS_LOADING_MAX, GROUPS_PER_CORE_MAX};
use crate::base::rng::Rng;
use crate::base::time::{Instant, Now};
use crate::config::GroupSettings;
use crate::metadata::image::Image;
use crate::model::error_code::ErrorCode;
use crate::model::ids::{NodeId, PartitionIndex};
use crate::rsm::{Host, KeyValue, Progress, ReadResult, StateMachine};
use crate::wire::groups::list_groups_response::ListedGroup;

/// `group.id`.
pub type GroupId = Arc<str>;

/// A member's id, which the coordinator gives.
pub type MemberId = Arc<str>;

/// The topic whose partitions groups live in.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Groups that one turn looks at for offsets that have expired.
const EXPIRY_SLICE: usize = 64;

/// The partition of `__consumer_offsets`, which has `count`, that `group` lives in
/// (Kafka's `Utils.abs(groupId.hashCode()) % count`).
///
/// # Panics
/// If `count` is not positive.
pub fn partition_of(group: &str, count: i32) -> PartitionIndex {
    assert!(count > 0, "a topic has partitions");
    let hash = group
        .encode_utf16()
        .fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    PartitionIndex(hash.checked_abs().unwrap_or(0) % count)
}

/// The groups of one partition.
#[derive(Debug, Default)]
struct Groups {
    by_id: BTreeMap<GroupId, Group>,
}

impl StateMachine for Groups {
    type Record = Record;
    type Then = Then;

    fn encode(record: &Record) -> KeyValue {
        record.encode()
    }

    fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Record, String> {
        Record::decode(key, value)
    }

    fn apply(&mut self, record: Record, live: bool) {
        match record {
            Record::Offset { group, topic, partition, offset } => {
                if offset.is_none() && !self.by_id.contains_key(&group) {
                    return;
                }
                let row = self.by_id.entry(group).or_insert_with_key(|id| Group::new(id.clone()));
                row.offsets.apply(topic, partition, offset);
                if !live && row.is_nothing() {
                    let id = row.id.clone();
                    self.by_id.remove(&id);
                }
            }
            Record::Group { group, value: Some(value) } => {
                let row = self.by_id.entry(group).or_insert_with_key(|id| Group::new(id.clone()));
                row.recorded = true;
                if !live {
                    row.consumer = None; // What comes later counts.
                }
                // A group that lives wrote this itself, and may be further, unless it
                // has just become a classic one.
                let converts = row.consumer.as_ref().is_some_and(|it| it.is_downgrading());
                if !live || converts {
                    row.load(value);
                }
            }
            Record::Group { group, value: None } => {
                let Some(row) = self.by_id.get_mut(&group) else { return };
                row.recorded = false;
                if !live {
                    row.forget_classic();
                    if row.is_nothing() {
                        self.by_id.remove(&group);
                    }
                }
            }
            Record::Consumer { group, change } => {
                if change.is_tombstone() {
                    let Some(row) = self.by_id.get_mut(&group) else { return };
                    let Some(consumer) = &mut row.consumer else { return };
                    consumer.apply(&change);
                    if !live && consumer.is_nothing() {
                        row.consumer = None;
                        if row.is_nothing() {
                            self.by_id.remove(&group);
                        }
                    }
                    return;
                }
                let row = self.by_id.entry(group).or_insert_with_key(|id| Group::new(id.clone()));
                if !live && row.consumer.is_none() {
                    row.forget_classic(); // What comes later counts.
                }
                row.consumer.get_or_insert_default().apply(&change);
            }
        }
    }
}

/// Something for whoever has the partitions and the way back to clients.
#[derive(Debug)]
pub enum Effect {
    /// Give an answer.
    Answer(Asker, Response),
    /// A request will be answered later.
    Parked(Asker),
    /// Give an answer to what was parked.
    Late(Asker, Response),
    /// Append a batch, acknowledged as with acks=all, and tell
    /// [`Coordinator::written`] under this number. In this order.
    Append(PartitionIndex, u64, Vec<u8>),
    /// Read from an offset, as soon as that can be done, and tell
    /// [`Coordinator::read`]. One read of a partition at a time.
    Read(PartitionIndex, i64),
}

/// The coordinators of one core.
#[derive(Debug)]
pub struct Coordinator {
    settings: GroupSettings,
    /// The topics that exist.
    image: Arc<Image>,
    /// Counts changes of topics.
    topics_version: u64,
    /// Partitions that the topic has.
    count: i32,
    hosts: BTreeMap<PartitionIndex, Host<Groups>>,
    /// Partitions that wait until fewer are loading.
    to_load: VecDeque<PartitionIndex>,
    /// Partitions that are being loaded.
    loading: usize,
    /// Those of them with a slice to do.
    slices: VecDeque<PartitionIndex>,
    /// Groups with a slice to do.
    going: VecDeque<(PartitionIndex, GroupId)>,
    timers: Deadlines<Timer>,
    rng: Rng,
    seeded: bool,
    next_write: u64,
    /// Which partition's log each write is for.
    writes: BTreeMap<u64, PartitionIndex>,
    /// When to look for expired offsets next.
    expiry: Option<Instant>,
    /// Where the look goes on, the groups up to there having been seen.
    expiry_at: Option<(PartitionIndex, Option<GroupId>)>,
    groups: usize,
    resigned: bool,
    todo: Vec<Effect>,
    scratch: Vec<Todo>,
}

impl Coordinator {
    /// No partitions yet.
    pub fn new(settings: GroupSettings) -> Self {
        Self {
            settings,
            image: Arc::new(Image::empty("".into(), NodeId(-1))),
            topics_version: 0,
            count: 0,
            hosts: BTreeMap::new(),
            to_load: VecDeque::new(),
            loading: 0,
            slices: VecDeque::new(),
            going: VecDeque::new(),
            timers: Deadlines::default(),
            rng: Rng::new(0),
            seeded: false,
            next_write: 0,
            writes: BTreeMap::new(),
            expiry: None,
            expiry_at: None,
            groups: 0,
            resigned: false,
            todo: vec![],
            scratch: vec![],
        }
    }

    /// Seeds the ids of members, once: they must not come again after a restart.
    pub fn seed(&mut self, seed: u64) {
        if !std::mem::replace(&mut self.seeded, true) {
            self.rng = Rng::stream(seed, "member ids");
        }
    }

    /// Tells of the topics that exist from now on.
    pub fn set_topics(&mut self, image: Arc<Image>) {
        self.image = image;
        self.topics_version += 1;
    }

    /// Takes on a partition of `__consumer_offsets`, which has `count`.
    pub fn add(&mut self, partition: PartitionIndex, count: i32) {
        self.count = count;
        if self.resigned {
            return; // What it would read is about to be closed.
        }
        self.hosts.insert(partition, Host::new(Groups::default()));
        self.to_load.push_back(partition);
        self.load_next();
    }

    /// Lets a partition go.
    pub fn remove(&mut self, now: Now, partition: PartitionIndex) {
        let before = self.count_groups(partition);
        self.resign_from(now, partition);
        let abandoned = self.hosts.get_mut(&partition).map(Host::abandon).unwrap_or_default();
        self.with(now, partition, |groups, step| {
            for then in abandoned {
                groups.written(then, Err(ErrorCode::NotCoordinator), step);
            }
        });
        if self.hosts.remove(&partition).is_some_and(|host| host.is_loading()) {
            match self.to_load.iter().position(|waiting| *waiting == partition) {
                Some(at) => drop(self.to_load.remove(at)),
                None => self.loaded_one(),
            }
        }
        self.recount(partition, before);
        self.slices.retain(|other| *other != partition);
        self.going.retain(|(other, _)| *other != partition);
        self.writes.retain(|_, other| *other != partition);
    }

    /// The broker is stopping: answers everybody who waits.
    pub fn resign(&mut self, now: Now) {
        if std::mem::replace(&mut self.resigned, true) {
            return;
        }
        let partitions: Vec<PartitionIndex> = self.hosts.keys().copied().collect();
        for partition in partitions {
            self.resign_from(now, partition);
        }
        self.to_load.clear();
        self.slices.clear();
        self.going.clear();
        self.timers = Deadlines::default();
        (self.expiry, self.expiry_at) = (None, None);
    }

    fn resign_from(&mut self, now: Now, partition: PartitionIndex) {
        self.with(now, partition, |groups, step| {
            for group in groups.by_id.values_mut() {
                group.resign(step);
            }
        });
    }

    /// What is to be done now, in order.
    pub fn todo(&mut self) -> std::vec::Drain<'_, Effect> {
        self.todo.drain(..)
    }

    /// When the next deadline passes.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.timers.first(), self.expiry].into_iter().flatten().min()
    }

    /// Whether a turn has something to do at once.
    pub fn has_work(&self) -> bool {
        !self.slices.is_empty()
            || !self.going.is_empty()
            || self.expiry_at.is_some()
            || !self.todo.is_empty()
    }

    /// Takes a request. It is answered at once or later.
    pub fn submit(&mut self, now: Now, asker: Asker, request: Request) {
        let refused = match &request {
            Request::List => {
                let listed = self.list();
                self.todo.push(Effect::Answer(asker, Response::Listed(listed)));
                return;
            }
            Request::Group(group, ask) => {
                let partition = (self.count > 0).then(|| partition_of(group, self.count));
                let host = partition.and_then(|partition| self.hosts.get_mut(&partition));
                let refused = match host {
                    _ if self.resigned => Some(ErrorCode::NotCoordinator),
                    None => Some(ErrorCode::NotCoordinator),
                    Some(host) => host.machine().err(),
                };
                let offsets = matches!(
                    ask,
                    Ask::Commit(_) | Ask::Fetch(_) | Ask::Describe | Ask::DescribeConsumers
                );
                match refused {
                    // Consumers that commit only may have a group without a name.
                    None if group.is_empty() && !offsets => Some(ErrorCode::InvalidGroupId),
                    refused => refused,
                }
            }
        };
        if let Some(error) = refused {
            let response = request.refuse(error);
            self.todo.push(Effect::Answer(asker, response));
            return;
        }
        let Request::Group(id, ask) = request else { unreachable!("answered above") };
        let partition = partition_of(&id, self.count);
        let full = self.groups >= GROUPS_PER_CORE_MAX;
        self.with_counted(now, partition, |groups, step| groups.ask(asker, &id, ask, full, step));
    }

    fn count_groups(&mut self, partition: PartitionIndex) -> usize {
        let groups = self.hosts.get_mut(&partition).and_then(|host| host.machine().ok());
        groups.map_or(0, |groups| groups.by_id.len())
    }

    fn list(&mut self) -> Result<Vec<ListedGroup>, ErrorCode> {
        if self.resigned {
            return Err(ErrorCode::NotCoordinator);
        }
        let mut rows = vec![];
        for host in self.hosts.values_mut() {
            match host.machine() {
                Ok(groups) => rows.extend(groups.by_id.values().map(Group::list)),
                Err(ErrorCode::NotCoordinator) => {} // Who cannot be read has none to show.
                Err(error) => return Err(error),
            }
        }
        Ok(rows)
    }

    /// A topic is deleted, and with it what groups have committed for it.
    pub fn topic_deleted(&mut self, now: Now, name: &str) {
        if self.resigned {
            return;
        }
        let partitions: Vec<PartitionIndex> = self.hosts.keys().copied().collect();
        for partition in partitions {
            self.with(now, partition, |groups, step| {
                for group in groups.by_id.values_mut() {
                    group.topic_deleted(name, step);
                }
            });
        }
    }

    /// The batch that was given out under `number` is committed, or was refused.
    pub fn written(&mut self, now: Now, number: u64, error: ErrorCode) {
        let Some(partition) = self.writes.remove(&number) else { return };
        let before = self.count_groups(partition);
        let Some(host) = self.hosts.get_mut(&partition) else { return };
        let Some(then) = host.written(number, error == ErrorCode::None) else { return };
        let result = match error {
            ErrorCode::None => Ok(()),
            error => Err(coordinator_error(error)),
        };
        self.with(now, partition, |groups, step| groups.written(then, result, step));
        self.recount(partition, before);
    }

    /// A read that was asked for ended.
    pub fn read(&mut self, now: Now, partition: PartitionIndex, result: ReadResult) {
        if self.resigned {
            return;
        }
        let Some(host) = self.hosts.get_mut(&partition) else { return };
        let progress = host.read(result);
        self.go_on_loading(now, partition, progress);
    }

    fn go_on_loading(&mut self, now: Now, partition: PartitionIndex, progress: Progress) {
        match progress {
            Progress::Read(offset) => self.todo.push(Effect::Read(partition, offset)),
            Progress::Slice => self.slices.push_back(partition),
            Progress::Loaded => {
                self.groups += self.count_groups(partition);
                self.with(now, partition, |groups, step| {
                    for group in groups.by_id.values_mut() {
                        group.loaded(step);
                    }
                });
                self.expiry.get_or_insert(now.instant + self.settings.expiry_check);
                self.loaded_one();
            }
            Progress::Failed => {
                tracing::error!("groups of {OFFSETS_TOPIC}-{partition} cannot be loaded");
                self.loaded_one();
            }
        }
    }

    fn loaded_one(&mut self) {
        self.loading -= 1;
        self.load_next();
    }

    fn load_next(&mut self) {
        while self.loading < GROUPS_LOADING_MAX
            && let Some(partition) = self.to_load.pop_front()
        {
            self.loading += 1;
            self.todo.push(Effect::Read(partition, 0));
        }
    }

    /// Does what a turn leaves to do: deadlines, a slice of a group, a slice of
    /// loading, a slice of the look for expired offsets.
    pub fn turn(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop_due(now.instant) {
            let Timer { partition, group, due } = timer;
            self.with_counted(now, partition, |groups, step| groups.due(&group, due, step));
        }
        if let Some((partition, group)) = self.going.pop_front() {
            self.with_counted(now, partition, |groups, step| groups.go_on(&group, step));
        }
        if let Some(partition) = self.slices.pop_front()
            && let Some(host) = self.hosts.get_mut(&partition)
        {
            let progress = host.slice();
            self.go_on_loading(now, partition, progress);
        }
        if self.expiry.is_some_and(|at| at <= now.instant) && !self.resigned {
            self.expiry = Some(now.instant + self.settings.expiry_check);
            self.expiry_at = self.hosts.keys().next().map(|first| (*first, None));
        }
        if let Some((partition, after)) = self.expiry_at.take() {
            self.expire(now, partition, after);
        }
    }

    /// Looks at some groups for offsets that have expired.
    fn expire(&mut self, now: Now, partition: PartitionIndex, after: Option<GroupId>) {
        let mut last = None;
        self.with(now, partition, |groups, step| {
            use std::ops::Bound::{Excluded, Unbounded};
            let from = after.map_or(Unbounded, Excluded);
            let mut ids = groups.by_id.range::<GroupId, _>((from, Unbounded)).map(|(id, _)| id);
            let ids: Vec<GroupId> = ids.by_ref().take(EXPIRY_SLICE).cloned().collect();
            last = ids.last().filter(|_| ids.len() == EXPIRY_SLICE).cloned();
            for id in ids {
                groups.by_id.get_mut(&id).expect("just listed").expire(step);
            }
        });
        self.expiry_at = match last {
            Some(id) => Some((partition, Some(id))),
            None => {
                let next = PartitionIndex(partition.0 + 1);
                self.hosts.range(next..).next().map(|(next, _)| (*next, None))
            }
        };
    }

    /// As [`Coordinator::with`], with an eye on how many groups there are.
    fn with_counted(
        &mut self,
        now: Now,
        partition: PartitionIndex,
        act: impl FnOnce(&mut Groups, &mut Step<'_>),
    ) {
        let before = self.count_groups(partition);
        self.with(now, partition, act);
        self.recount(partition, before);
    }

    /// A partition that had `before` groups has as many as it has now.
    fn recount(&mut self, partition: PartitionIndex, before: usize) {
        let others = self.groups.checked_sub(before).expect("all groups are counted");
        self.groups = others + self.count_groups(partition);
    }

    /// Takes a step with the groups of a partition, if they are loaded, and does
    /// what it leaves to do.
    fn with(
        &mut self,
        now: Now,
        partition: PartitionIndex,
        act: impl FnOnce(&mut Groups, &mut Step<'_>),
    ) {
        let Some(host) = self.hosts.get_mut(&partition) else { return };
        let Ok(groups) = host.machine() else { return };
        let mut out = std::mem::take(&mut self.scratch);
        let mut step = Step {
            now,
            settings: &self.settings,
            image: &self.image,
            topics_version: self.topics_version,
            partition,
            timers: &mut self.timers,
            rng: &mut self.rng,
            out: &mut out,
        };
        act(groups, &mut step);
        for todo in out.drain(..) {
            let effect = match todo {
                Todo::Answer(asker, response) => Effect::Answer(asker, response),
                Todo::Parked(asker) => Effect::Parked(asker),
                Todo::Late(asker, response) => Effect::Late(asker, response),
                Todo::GoOn(group) => {
                    self.going.push_back((partition, group));
                    continue;
                }
                Todo::Write(records, then) => {
                    self.next_write += 1;
                    let number = self.next_write;
                    self.writes.insert(number, partition);
                    Effect::Append(partition, number, host.write(now.unix, number, records, then))
                }
            };
            self.todo.push(effect);
        }
        self.scratch = out;
    }
}

impl Groups {
    /// A request about a group. `full` says that there may be no new ones.
    fn ask(&mut self, asker: Asker, id: &GroupId, ask: Ask, full: bool, step: &mut Step<'_>) {
        if let Ask::ConsumerHeartbeat(beat) = &ask
            && let Some(refusal) = consumer::refusal(beat, step.settings)
        {
            return step.answer(asker, refusal);
        }
        if !self.by_id.contains_key(id) {
            // Who joins or commits without being a member makes a group.
            let makes = match &ask {
                Ask::Join(join) => join.member_id.is_empty(),
                Ask::Commit(commit) => commit.member.generation < 0,
                Ask::ConsumerHeartbeat(beat) => beat.epoch == 0,
                _ => false,
            };
            if !makes {
                return step.answer(asker, no_such_group(id, &ask));
            }
            if full {
                tracing::warn!("no room for group {id}");
                return step.answer(asker, ask.refuse(id, ErrorCode::CoordinatorNotAvailable));
            }
            self.by_id.insert(id.clone(), Group::new(id.clone()));
        }
        let group = self.by_id.get_mut(id).expect("seen or made above");
        match ask {
            Ask::Join(_) | Ask::Sync(_) | Ask::Heartbeat(_) | Ask::Leave(_) => {
                match group.consumer {
                    Some(_) => group.classic_ask(asker, ask, step),
                    None => group.ask_classic(asker, ask, step),
                }
            }
            Ask::Commit(commit) => group.commit(asker, commit, step),
            Ask::Fetch(fetch) => group.answer_fetch(asker, &fetch, step),
            Ask::DeleteOffsets(topics) => group.delete_offsets(asker, topics, step),
            Ask::Describe => step.answer(asker, Response::Described(Box::new(group.describe()))),
            Ask::Delete => group.delete(Some(asker), step),
            Ask::ConsumerHeartbeat(beat) => group.consumer_heartbeat(asker, beat, step),
            Ask::DescribeConsumers => {
                let response = group.describe_consumers(step);
                step.answer(asker, response);
            }
        }
        self.drop_if_nothing(id);
    }

    /// A deadline of a group has passed.
    fn due(&mut self, id: &GroupId, due: Due, step: &mut Step<'_>) {
        let Some(group) = self.by_id.get_mut(id) else { return };
        match due {
            Due::Session(member) if group.consumer.is_some() => {
                group.consumer_silent(member, step);
            }
            Due::Overdue(member) => group.consumer_overdue(member, step),
            Due::Revocation(member, epoch) => group.consumer_late(member, epoch, step),
            Due::Session(member) => group.session_due(&member, step),
            Due::InitialJoin { delay_ms, remaining_ms } => {
                group.initial_join_due(delay_ms, remaining_ms, step);
            }
            Due::Join => group.complete_join(step),
            Due::Sync(generation) => group.sync_due(generation, step),
        }
        self.drop_if_nothing(id);
    }

    /// A group goes on with what takes more than one slice.
    fn go_on(&mut self, id: &GroupId, step: &mut Step<'_>) {
        if let Some(group) = self.by_id.get_mut(id) {
            group.consumer_turn(step);
            self.drop_if_nothing(id);
        }
    }

    /// Records are committed, or were refused.
    fn written(&mut self, then: Then, result: Result<(), ErrorCode>, step: &mut Step<'_>) {
        let id = then.group().clone();
        if let Err(error) = result {
            tracing::warn!("group {id}: what was to be written down was refused: {error:?}");
        }
        if let Some(group) = self.by_id.get_mut(&id) {
            group.writes -= 1;
            match &then {
                Then::Deleted(..) if result.is_ok() => {
                    group.resign(step);
                    self.by_id.remove(&id);
                }
                Then::Deleted(..) => group.become_state(State::Empty, step),
                _ => {}
            }
        }
        match then {
            Then::Answer(_, asker, mut response) => {
                if let Err(error) = result {
                    response.fail(error);
                }
                step.answer(asker, response);
            }
            Then::Assigned { group, generation, assignments } => {
                if let Some(group) = self.by_id.get_mut(&group) {
                    group.assigned(generation, assignments, result, step);
                }
            }
            Then::Deleted(_, Some(asker)) => {
                let code = result.err().unwrap_or(ErrorCode::None);
                step.answer(asker, Response::Deleted(code));
            }
            Then::Consumer(group, answers) => match self.by_id.get_mut(&group) {
                Some(group) => group.consumer_written(answers, result, step),
                None => unreachable!("a group stays while a batch of it is on its way"),
            },
            Then::Deleted(_, None) | Then::Nothing(_) => {}
        }
        if let Some(group) = self.by_id.get_mut(&id).filter(|group| group.writes == 0) {
            for asker in std::mem::take(&mut group.deletes) {
                group.delete(Some(asker), step);
            }
        }
        self.drop_if_nothing(&id);
    }

    fn drop_if_nothing(&mut self, id: &GroupId) {
        if self.by_id.get(id).is_some_and(Group::is_nothing) {
            self.by_id.remove(id);
        }
    }
}

impl Group {
    /// JoinGroup, SyncGroup, Heartbeat, LeaveGroup for a classic group.
    fn ask_classic(&mut self, asker: Asker, ask: Ask, step: &mut Step<'_>) {
        match ask {
            Ask::Join(join) => self.join(asker, *join, step),
            Ask::Sync(sync) => self.sync(asker, sync, step),
            Ask::Heartbeat(who) => {
                let code = self.heartbeat(&who, step);
                step.answer(asker, Response::Heartbeat(code));
            }
            Ask::Leave(_) if self.state() == State::Dead => {
                step.answer(asker, Response::Left(ErrorCode::CoordinatorNotAvailable, vec![]));
            }
            Ask::Leave(rows) => {
                let codes = self.leave(&rows, step);
                step.answer(asker, Response::Left(ErrorCode::None, codes));
            }
            other => unreachable!("{other:?} is no request of a classic member"),
        }
    }

    /// All records are read: members have their session timeout from now on.
    fn loaded(&mut self, step: &mut Step<'_>) {
        self.consumer_loaded(step);
        let ids: Vec<MemberId> = self.members.keys().cloned().collect();
        for id in ids {
            self.refresh(&id, step);
        }
    }
}

/// What is answered about a group that does not exist.
fn no_such_group(id: &GroupId, ask: &Ask) -> Response {
    match ask {
        Ask::Commit(commit) if commit.knows_epochs => ask.refuse(id, ErrorCode::GroupIdNotFound),
        Ask::Commit(_) => ask.refuse(id, ErrorCode::IllegalGeneration),
        // Nothing is committed yet.
        Ask::Fetch(fetch) => {
            Response::Fetched(Ok(Group::new(id.clone()).fetch(fetch.topics.as_deref())))
        }
        Ask::ConsumerHeartbeat(_) => {
            let message = format!("Consumer group {id} not found.");
            request::refuse_beat(ErrorCode::GroupIdNotFound, Some(&message))
        }
        Ask::DescribeConsumers => {
            let mut response = ask.refuse(id, ErrorCode::GroupIdNotFound);
            if let Response::ConsumersDescribed(row) = &mut response {
                row.error_message = Some(format!("Group {id} not found.").into());
            }
            response
        }
        Ask::DeleteOffsets(_) | Ask::Delete => ask.refuse(id, ErrorCode::GroupIdNotFound),
        Ask::Describe => {
            let mut response = ask.refuse(id, ErrorCode::GroupIdNotFound);
            if let Response::Described(row) = &mut response {
                row.group_state = State::Dead.name().into();
                row.error_message = Some(format!("Group {id} not found.").into());
            }
            response
        }
        Ask::Join(_) | Ask::Sync(_) | Ask::Heartbeat(_) | Ask::Leave(_) => {
            ask.refuse(id, ErrorCode::UnknownMemberId)
        }
    }
}

/// What a client is told when the partition refused records
/// (`CoordinatorOperationExceptionHelper.java`).
fn coordinator_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => ErrorCode::UnknownServerError,
        other => other,
    }
}
