//! What a group of the consumer protocol decides on together, and how that goes on
//! in slices.
//!
//! ```text
//! Works -> Lookups -> Members -> Topics -> Assigning -> Telling -> Steps
//! ```
//!
//! *Works*: what waits is taken up: members come, change and go. *Lookups*: topics are
//! matched against regular expressions. *Members*, *Topics*: who subscribes to what;
//! if that has changed, a new epoch begins. *Assigning*, *Telling*: the target of the
//! epoch is made and written. *Steps*: those who were heard of move on towards their
//! target and are answered. What is not needed is passed over, so a heartbeat that
//! says nothing new costs little.
//!
//! A slice ends when its [`Budget`] is over. Records go out in batches of bounded
//! size; the next slice then comes when the batch is committed. If one is refused,
//! whoever was not answered is told so. Of a target that was written in part only,
//! the epoch is not there: the group's is newer, so the next heartbeat has it made
//! again.
//!
//! The topics are those at the beginning, whatever happens meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::assign::{Assigning, Budget, Subscriber};
use super::decide::{Draft, Env, Heard, Refusal};
use super::regex::Lookup;
use super::state::{AWAY, LEAVING};
use super::{Done, Work, beat_response, record_len};
use crate::base::limits::{GROUP_BATCH_BYTES, GROUP_BATCH_RECORDS};
use crate::group::MemberId;
use crate::group::records::consumer::{Assignment, Change, TargetEpoch};
use crate::group::request::{Asker, ConsumerHeartbeat, Join, Response, refuse_beat, refuse_join};
use crate::metadata::image::Image;
use crate::model::error_code::ErrorCode;
use crate::model::ids::TopicId;

/// How long the regular expressions of a group are at least left alone (Kafka's is
/// ten times that).
const REGEX_REFRESH_MS: i64 = 1_000;

/// What it costs to decide on a request, and to add a record.
const WORK_UNITS: usize = 60;
const RECORD_UNITS: usize = 15;

/// When the regular expressions of a group are looked up again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Refresh {
    /// Topics have changed since they were.
    due: bool,
    /// When they were, Unix milliseconds.
    at_ms: i64,
}

/// A decision on all that has waited.
#[derive(Debug)]
pub struct Making {
    /// The state that it comes to, and its records.
    pub draft: Draft,
    /// What is to be done beside the records.
    pub done: Done,
    /// Who is still to be answered; [`Making::follow`] adds to it.
    steps: VecDeque<Follow>,
    /// Whose steps were ever among them.
    heard_of: BTreeSet<MemberId>,
    /// The topics.
    pub image: Arc<Image>,
    /// Their version.
    pub topics_version: u64,
    stage: Stage,
    /// Bytes of the records.
    bytes: usize,
    /// Records that are counted in `bytes`, or do not count.
    counted: usize,
    /// Records that do not count: those that a group begins with.
    begun: usize,
    /// The topics are not those that the group's epoch goes by.
    topics_changed: bool,
    /// Somebody was heard of, so that the group goes by these topics now.
    pub hears: bool,
    /// Only classic members are left.
    downgrades: bool,
    /// A batch of it has gone out.
    pub has_written: bool,
}

/// A member whose next step is to be made.
#[derive(Debug)]
pub enum Follow {
    /// It is answered by ConsumerGroupHeartbeat.
    Beat(Asker, Box<ConsumerHeartbeat>, Heard),
    /// It is answered by JoinGroup: what it has.
    Join(Asker, Box<Join>, Heard, Assignment),
}

impl Follow {
    fn member(&self) -> &MemberId {
        let (Self::Beat(_, _, heard) | Self::Join(_, _, heard, _)) = self;
        &heard.id
    }
}

#[derive(Debug)]
enum Stage {
    Works,
    /// What is still to be looked up.
    Lookups(VecDeque<Lookup>),
    Members(Box<Subscriptions>),
    /// The next subscription; the name behind which it goes on, of those that are
    /// matched if so it says.
    Topics(Box<Subscriptions>, usize, bool, Option<Arc<str>>),
    Assigning(Box<Assigning>),
    Telling(Box<Assigning>),
    Steps,
}

/// Topics' names and a regular expression.
type Subscription = (Arc<str>, BTreeSet<Arc<str>>);

/// Who subscribes to what.
#[derive(Debug, Default)]
struct Subscriptions {
    places: BTreeMap<Subscription, usize>,
    all: Vec<Subscription>,
    members: Vec<Subscriber>,
    /// The topics of each, as far as they exist.
    topics: Vec<BTreeSet<TopicId>>,
    /// How many partitions all those have.
    partitions: BTreeMap<TopicId, i32>,
    hash: u64,
}

/// How a slice ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to do in another turn.
    More,
    /// Records are to go out before there is more to do.
    Write,
    /// All is decided.
    Done,
}

impl Making {
    /// Begins, with records that come before all others.
    pub fn new(draft: Draft, image: Arc<Image>, topics_version: u64, topics_changed: bool) -> Self {
        let begun = draft.records.len();
        Self {
            draft,
            done: Done::default(),
            steps: VecDeque::new(),
            heard_of: BTreeSet::new(),
            image,
            topics_version,
            stage: Stage::Works,
            bytes: 0,
            counted: begun,
            begun,
            topics_changed,
            hears: false,
            downgrades: false,
            has_written: false,
        }
    }

    /// The records are out.
    pub fn written(&mut self) {
        (self.bytes, self.counted, self.begun, self.has_written) = (0, 0, 0, true);
    }

    /// Whether the records fill a batch.
    fn is_full(&mut self) -> bool {
        let new = &self.draft.records[self.counted..];
        self.bytes += new.iter().map(record_len).sum::<usize>();
        self.counted = self.draft.records.len();
        self.bytes >= GROUP_BATCH_BYTES || self.counted - self.begun >= GROUP_BATCH_RECORDS
    }

    /// Goes on by a slice. `queue` is what waits, and `refresh` when regular
    /// expressions are looked up again.
    pub fn go_on(
        &mut self,
        env: &mut Env<'_>,
        queue: &mut VecDeque<Work>,
        refresh: &mut Refresh,
        budget: &mut Budget,
    ) -> Progress {
        while !budget.is_over() {
            match std::mem::replace(&mut self.stage, Stage::Steps) {
                Stage::Works => {
                    let full = self.is_full() || self.downgrades;
                    match if full { None } else { queue.pop_front() } {
                        Some(work) => {
                            budget.take(WORK_UNITS);
                            self.work(work, env);
                            self.stage = Stage::Works;
                        }
                        None => self.stage = self.after_works(env, refresh),
                    }
                }
                Stage::Lookups(mut lookups) => {
                    let Some(lookup) = lookups.front_mut() else {
                        self.stage = self.after_lookups();
                        continue;
                    };
                    match lookup.go_on(env.image, env.now_ms, budget) {
                        Ok(None) => {}
                        Ok(Some(found)) => {
                            let regex = lookup.regex.clone();
                            let same = self.draft.state.regexes.get(&regex);
                            let same = same.is_some_and(|before| before.topics == found.topics);
                            if !same && self.draft.state.subscribed_by(&regex) > 0 {
                                let change = Change::Regex(regex, Some(Arc::new(found)));
                                self.draft.write(env.group, change);
                            }
                            lookups.pop_front();
                        }
                        Err(reason) => {
                            tracing::error!("group {}: {}: {reason}", env.group, lookup.regex);
                            lookups.pop_front();
                        }
                    }
                    self.stage = Stage::Lookups(lookups);
                }
                Stage::Members(mut subscriptions) => {
                    self.stage = if subscriptions.add_members(&self.draft, budget) {
                        subscriptions.topics = vec![BTreeSet::new(); subscriptions.all.len()];
                        Stage::Topics(subscriptions, 0, false, None)
                    } else {
                        Stage::Members(subscriptions)
                    };
                }
                Stage::Topics(subscriptions, at, _, _) if at == subscriptions.all.len() => {
                    self.stage = self.after_topics(*subscriptions, env);
                }
                Stage::Topics(mut subscriptions, at, matched, last) => {
                    let (at, matched, last) =
                        subscriptions.add_topics(&self.draft, env.image, at, matched, last, budget);
                    self.stage = Stage::Topics(subscriptions, at, matched, last);
                }
                Stage::Assigning(mut assigning) => {
                    self.stage = if assigning.go_on(budget) {
                        Stage::Telling(assigning)
                    } else {
                        Stage::Assigning(assigning)
                    };
                }
                Stage::Telling(assigning) if assigning.is_told() => {
                    let epoch = self.draft.state.epoch();
                    let target = TargetEpoch { epoch, timestamp_ms: env.now_ms };
                    self.draft.write(env.group, Change::Target(Some(target)));
                }
                Stage::Telling(mut assigning) => {
                    if let Some((id, target)) = assigning.next_change(budget) {
                        budget.take(RECORD_UNITS);
                        self.draft.write(env.group, Change::TargetMember(id, Some(target)));
                    }
                    self.stage = Stage::Telling(assigning);
                    if self.is_full() {
                        return Progress::Write;
                    }
                }
                Stage::Steps => match self.steps.pop_front() {
                    Some(follow) => {
                        budget.take(WORK_UNITS);
                        self.step(follow, env);
                        if self.is_full() {
                            return Progress::Write;
                        }
                    }
                    None => {
                        if self.downgrades {
                            self.draft.downgrade(env, &mut self.done);
                        }
                        return Progress::Done;
                    }
                },
            }
        }
        Progress::More
    }

    /// Takes up one thing; what it adds to the draft counts if it may be done.
    fn work(&mut self, work: Work, env: &mut Env<'_>) {
        let mark = self.draft.mark();
        let (draft, done) = (&mut self.draft, &mut self.done);
        let mut leaves = false;
        match work {
            Work::Heartbeat(asker, beat) => {
                let result = match beat.epoch {
                    AWAY | LEAVING => draft.leave(env, &beat).map(Ok),
                    _ => draft.stay(env, &beat).map(Err),
                };
                match result {
                    Ok(Ok(answer)) => {
                        leaves = beat.epoch == LEAVING;
                        let own = env.image.group_config(env.group);
                        let every = env.settings.consumer.heartbeat_interval_ms(own);
                        done.answers.push((asker, beat_response(answer, every)));
                    }
                    Ok(Err(heard)) => self.follow(Follow::Beat(asker, beat, heard)),
                    Err(Refusal { error, message }) => {
                        tracing::debug!("group {}: {error:?}: {message}", env.group);
                        draft.reset(mark);
                        done.answers.push((asker, refuse_beat(error, Some(&message))));
                    }
                }
            }
            // What it said may have waited for a batch together with the deadline, in front.
            Work::Silent(id)
                if draft.state.members.contains_key(&id) && !self.heard_of.contains(&id) =>
            {
                tracing::info!("group {}: member {id} has not been heard of", env.group);
                draft.fence(env, &[id]);
                leaves = true;
            }
            Work::Overdue(id) if draft.is_classic(&id) => {
                tracing::info!("group {}: member {id} has not joined again", env.group);
                draft.fence(env, &[id]);
                leaves = true;
            }
            Work::Late(id, epoch) if draft.is_late(&id, epoch) => {
                tracing::info!("group {}: member {id} has kept its partitions", env.group);
                draft.fence(env, &[id]);
                leaves = true;
            }
            Work::Silent(_) | Work::Late(..) | Work::Overdue(_) => {}
            Work::Classic(asker, ask) => match draft.classic(env, asker, ask, done) {
                Ok(follow) => follow.into_iter().for_each(|follow| self.follow(follow)),
                Err((asker, id, error)) => {
                    draft.reset(mark);
                    done.answers.push((asker, refuse_join(&id, error)));
                }
            },
        }
        leaves |= std::mem::take(&mut self.done.has_left);
        self.downgrades |= leaves && self.draft.can_downgrade(env);
    }

    /// Somebody was heard of, whose next step is to be made.
    fn follow(&mut self, follow: Follow) {
        self.heard_of.insert(follow.member().clone());
        self.steps.push_back(follow);
    }

    /// All is taken up: what is to be looked up.
    fn after_works(&mut self, env: &Env<'_>, refresh: &mut Refresh) -> Stage {
        let mut lookups: VecDeque<Lookup> = std::mem::take(&mut self.draft.lookups).into();
        self.hears = !self.steps.is_empty();
        if self.hears {
            refresh.due |= self.topics_changed;
            // The clock may jump either way.
            let since_ms = env.now_ms.saturating_sub(refresh.at_ms).saturating_abs();
            if refresh.due && since_ms >= REGEX_REFRESH_MS {
                lookups.extend(self.draft.state.regexes.keys().map(Lookup::again));
                *refresh = Refresh { due: false, at_ms: env.now_ms };
                self.topics_changed = true;
            }
        }
        if self.downgrades { Stage::Steps } else { Stage::Lookups(lookups) }
    }

    /// Whether anything has to be known of the members.
    fn after_lookups(&self) -> Stage {
        let state = &self.draft.state;
        let assigns = self.topics_changed || state.epoch() > state.target_epoch();
        if self.draft.bump || (assigns && self.hears) {
            Stage::Members(Box::default())
        } else {
            Stage::Steps
        }
    }

    /// Begins a new epoch if there is a reason, and its target if anybody was heard of.
    fn after_topics(&mut self, subscriptions: Subscriptions, env: &Env<'_>) -> Stage {
        let state = &self.draft.state;
        let hash = subscriptions.hash();
        let changed = self.topics_changed && self.hears;
        if self.draft.bump || (changed && hash != state.metadata_hash()) {
            self.draft.begin_epoch(env.group, hash);
        }
        let state = &self.draft.state;
        if !self.hears || state.epoch() <= state.target_epoch() {
            return Stage::Steps;
        }
        let assignor = self.draft.preferred_assignor(env.settings);
        let Subscriptions { members, topics, partitions, .. } = subscriptions;
        tracing::debug!(
            "group {}: epoch {}, assigning to {} members by {}",
            env.group,
            state.epoch(),
            members.len(),
            assignor.name()
        );
        Stage::Assigning(Box::new(Assigning::new(assignor, members, &topics, &partitions)))
    }

    /// Moves a member on and answers it.
    fn step(&mut self, follow: Follow, env: &Env<'_>) {
        let (draft, done) = (&mut self.draft, &mut self.done);
        let every = env.settings.consumer.heartbeat_interval_ms(env.image.group_config(env.group));
        match follow {
            Follow::Beat(asker, beat, heard) => match draft.answer(env, &beat, heard) {
                Ok(answer) => {
                    done.heard.push(answer.member_id.clone());
                    done.answers.push((asker, beat_response(answer, every)));
                }
                Err(Refusal { error, message }) => {
                    done.answers.push((asker, refuse_beat(error, Some(&message))));
                }
            },
            Follow::Join(asker, join, heard, owned) => {
                let response = draft.classic_joined(env, &join, heard, &owned, done);
                done.answers.push((asker, response));
            }
        }
    }

    /// Refuses everybody who was not answered.
    pub fn refuse(self, error: ErrorCode) -> Vec<(Asker, Response)> {
        let mut answers = self.done.answers;
        for (_, response) in &mut answers {
            if response.is_success() {
                response.fail(error);
            }
        }
        answers.extend(self.steps.into_iter().map(|follow| match follow {
            Follow::Beat(asker, ..) => (asker, refuse_beat(error, None)),
            Follow::Join(asker, join, ..) => (asker, refuse_join(&join.member_id, error)),
        }));
        answers
    }
}

impl Subscriptions {
    /// Adds members. True when all are.
    fn add_members(&mut self, draft: &Draft, budget: &mut Budget) -> bool {
        let state = &draft.state;
        let from = self.members.last().map(|member| member.id.clone());
        let from = from.as_deref().map_or(Unbounded, Excluded);
        for (id, member) in state.members.range::<_, str>((from, Unbounded)) {
            if budget.is_over() {
                return false;
            }
            let (regex, names) = (&member.metadata.regex, &member.metadata.topics);
            budget.take(2 + names.len() / 2);
            // Most say what the one before them says.
            let before = self.members.last().map(|member: &Subscriber| member.subscription);
            let before = before.filter(|at| self.all[*at].0 == *regex && self.all[*at].1 == *names);
            let subscription = before.unwrap_or_else(|| {
                let next = self.all.len();
                let subscription = (regex.clone(), names.clone());
                *self.places.entry(subscription.clone()).or_insert_with(|| {
                    self.all.push(subscription);
                    next
                })
            });
            let target = state.target_of(id);
            self.members.push(Subscriber { id: id.clone(), subscription, target });
        }
        true
    }

    /// Adds topics of the subscription at a place, from behind a name on; returns where
    /// to go on.
    fn add_topics(
        &mut self,
        draft: &Draft,
        image: &Image,
        at: usize,
        matched: bool,
        mut last: Option<Arc<str>>,
        budget: &mut Budget,
    ) -> (usize, bool, Option<Arc<str>>) {
        let Self { all, topics, partitions, hash, .. } = self;
        let (regex, names) = &all[at];
        let found = draft.state.regexes.get(regex);
        let names = if matched { found.map(|found| &found.topics) } else { Some(names) };
        let from = last.clone();
        let from = from.as_deref().map_or(Unbounded, Excluded);
        for name in names.into_iter().flat_map(|names| names.range::<str, _>((from, Unbounded))) {
            if budget.is_over() {
                return (at, matched, last);
            }
            budget.take(6);
            last = Some(name.clone());
            let Some(topic) = image.topic(name) else { continue };
            topics[at].insert(topic.id);
            partitions.entry(topic.id).or_insert_with(|| {
                *hash = hash.wrapping_add(hash_of(topic.id, topic.partitions.len()));
                topic.partitions.len() as i32
            });
        }
        budget.take(1);
        if matched { (at + 1, false, None) } else { (at, true, None) }
    }

    /// A number for the topics and how many partitions they have: another one if that
    /// changes.
    fn hash(&self) -> i64 {
        self.hash as i64
    }
}

/// A number for a topic with so many partitions (FNV-1a).
fn hash_of(topic: TopicId, partitions: usize) -> u64 {
    let bytes = topic.0.into_iter().chain((partitions as u32).to_be_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}
