//! The controller: decides changes of the cluster's metadata, makes them
//! durable, and tells every core of this broker.
//!
//! It is a value like a shard, `controller.step(now, event, &mut effects)`, and
//! goes through these states:
//!
//! | state | until | commands get |
//! |---|---|---|
//! | booting | the files are read, all durable entries are committed again, what journals have is replayed and this broker is registered | NOT_CONTROLLER |
//! | active | it is told to stop, or fails | an answer |
//! | failed | the end | KAFKA_STORAGE_ERROR |
//!
//! A command is decided against the newest state, committed or on its way, and
//! its records become one entry of the metadata log. It is answered when that
//! entry is committed and every core has applied it; a command that changes
//! nothing is answered as soon as what it saw is known everywhere. So a client
//! that was answered can use what it created on any core.
//!
//! A failed write or sync is final: the controller proposes nothing more and
//! answers errors, but what is committed stays known and the broker stays up.
//!
//! Not here: other controllers. The quorum is this one.

mod configs;
pub mod decide;
pub mod files;
mod partitions;
mod publication;
pub mod replay;

#[cfg(test)]
mod test_disk;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::base::limits::COMMANDS_OPEN_MAX;
use crate::base::rng::Rng;
use crate::base::time::{Instant, Now};
use crate::effect::disk::{DiskCompletion, DiskOp};
use crate::metadata::apply::ApplyError;
use crate::metadata::codec::CodecError;
use crate::metadata::command::{Answer, Command};
use crate::metadata::image::{Change, Delta, Image, Node};
use crate::metadata::link::{ToController, ToShard};
use crate::metadata::placement::FormerCores;
use crate::metadata::record::{Record, decode_batch, encode_batch, records_of};
use crate::model::error_code::ErrorCode;
use crate::model::ids::{CoreId, MetadataOffset};
use crate::raft::Entry;
use crate::raft::node::{ProposeError, RaftError, RaftNode, Step};
use crate::raft::snapshot::Snapshot;
use crate::raft::store::{LogError, Store};
use decide::{Policy, decide, refuse_all, refuse_successes};
use files::{FilesError, FilesEvent, LogFiles, LogLimits, Recovered};
use publication::Publications;
use replay::{Replay, ReplayError};

/// How often [`ControllerEvent::Tick`] comes while it is wanted.
pub const TICK: Duration = Duration::from_millis(50);

/// How long after a lack of space a snapshot is tried again.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(10);

/// Who and what this controller is.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// This broker as clients reach it.
    pub node: Node,
    /// `cluster.id`: the metadata of another cluster is refused.
    pub cluster_id: Arc<str>,
    /// `directory.id`: an emptied disk is another voter than the one it was.
    pub directory_id: [u8; 16],
    /// The settings that decisions depend on.
    pub policy: Policy,
    /// How long the log gets.
    pub log: LogLimits,
    /// Where all randomness comes from.
    pub seed: u64,
}

/// Something that happened.
#[derive(Debug)]
pub enum ControllerEvent {
    /// The first event.
    Boot,
    /// [`TICK`] has passed; wanted only while [`Controller::wants_ticks`].
    Tick,
    /// A shard wrote.
    Message(ToController),
    /// A disk operation ended.
    Disk(DiskCompletion),
    /// The broker is to stop: tells the shards, and when all have stopped says
    /// [`Notice::Stopped`].
    Stop,
}

/// What a controller wants done. The performer empties it after every step.
#[derive(Debug, Default)]
pub struct ControllerEffects {
    /// Disk operations below the data directory. File handles are the
    /// controller's own.
    pub disk: Vec<DiskOp>,
    /// Messages to shards, in order per core.
    pub shards: Vec<(CoreId, ToShard)>,
    /// For whoever runs the controller.
    pub notices: Vec<Notice>,
}

/// What whoever runs the controller should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The controller is active and its image is on its way to the shards.
    Started,
    /// The controller has failed, for good. Before `Started`, the broker cannot
    /// start; after it, the broker goes on with the metadata it has.
    Failed(ControllerError),
    /// There was no room for a snapshot; it is tried again.
    NoSpaceForSnapshot,
    /// All shards have stopped and no operation is in flight.
    Stopped {
        /// Whether every core stopped cleanly.
        clean: bool,
    },
}

/// Why a controller failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControllerError {
    /// Its files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The journals of the cores.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The order of what its files hold.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The engine.
    #[error(transparent)]
    Raft(#[from] RaftError),
    /// The files of another cluster.
    #[error("the metadata belongs to cluster {found}, not to {expected}")]
    Cluster {
        /// `cluster.id` of the files.
        found: String,
        /// `cluster.id` of this broker.
        expected: String,
    },
    /// An entry that cannot be read.
    #[error("entry {index} of the metadata log: {error}")]
    Record {
        /// Its index; a snapshot's stands for all it covers.
        index: u64,
        /// Why not.
        error: CodecError,
    },
    /// An entry that does not fit what came before.
    #[error("entry {index} of the metadata log: {error}")]
    Apply {
        /// Its index.
        index: u64,
        /// Why not.
        error: ApplyError,
    },
}

/// The controller.
pub struct Controller {
    options: ControllerOptions,
    state: State,
    files: LogFiles,
    replay: Replay,
    raft: Option<RaftNode>,
    rng: Rng,
    /// The committed state.
    image: Arc<Image>,
    /// The committed state and all that is proposed.
    pending: Image,
    /// Where what was deleted lately was.
    former: FormerCores,
    /// All entries up to here are committed and applied.
    applied: u64,
    publications: Publications,
    /// Answers in the order of the positions they wait for.
    waiting: VecDeque<Waiting>,
    stopping: bool,
    told_stopped: bool,
    /// No snapshot is tried before.
    snapshot_after: Instant,
    /// What the snapshot on its way covers.
    snapshot_index: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Until the files are read.
    Reading,
    /// Until the entry that was last at the election is applied.
    Replaying {
        until: u64,
    },
    /// Until logs have what the journals have.
    Recovering,
    /// Until this broker's registration is applied.
    Registering,
    Active,
    Failed,
}

/// An answer that waits until all cores are at `offset`.
#[derive(Debug)]
struct Waiting {
    offset: MetadataOffset,
    core: CoreId,
    id: u64,
    answer: Answer,
}

/// The voter's id in Raft: another one for every node and every directory it
/// ever had, never zero.
fn raft_id(options: &ControllerOptions) -> u64 {
    let node = options.node.id.0.to_le_bytes();
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    node.iter().chain(&options.directory_id).fold(0xcbf2_9ce4_8422_2325, hash).max(1)
}

impl Controller {
    /// A controller for a broker with `options.node.cores` cores that has not
    /// heard [`ControllerEvent::Boot`].
    pub fn new(options: ControllerOptions) -> Self {
        let nothing = Image::empty(options.cluster_id.clone(), options.node.id);
        let birth = Snapshot::birth(&options.cluster_id, raft_id(&options), encode_batch(&[]));
        Self {
            state: State::Reading,
            files: LogFiles::new(birth, options.log),
            replay: Replay::new(),
            raft: None,
            rng: Rng::stream(options.seed, "topic ids"),
            image: Arc::new(nothing.clone()),
            pending: nothing.clone(),
            former: FormerCores::default(),
            applied: 0,
            publications: Publications::new(options.node.cores, nothing),
            waiting: VecDeque::new(),
            stopping: false,
            told_stopped: false,
            snapshot_after: Instant::default(),
            snapshot_index: 0,
            options,
        }
    }

    /// The committed metadata.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Whether [`ControllerEvent::Tick`] means anything now. A quorum of one
    /// that leads has nobody to hear from and needs none.
    pub fn wants_ticks(&self) -> bool {
        self.state != State::Failed && self.raft.as_ref().is_some_and(|raft| !raft.is_leader())
    }

    /// Takes in one event and says what is to be done about it.
    pub fn step(&mut self, now: Now, event: ControllerEvent, effects: &mut ControllerEffects) {
        let result = self.handle(event, effects);
        let result = result.and_then(|()| self.advance(now, effects));
        if let Err(error) = result {
            self.fail(error, effects);
        }
        self.send_answers(effects);
        if self.stopping
            && !self.told_stopped
            && !self.files.is_busy()
            && !self.replay.is_busy()
            && let Some(clean) = self.publications.all_stopped()
        {
            self.told_stopped = true;
            effects.notices.push(Notice::Stopped { clean });
        }
    }

    fn handle(
        &mut self,
        event: ControllerEvent,
        effects: &mut ControllerEffects,
    ) -> Result<(), ControllerError> {
        match event {
            ControllerEvent::Boot => self.files.boot(&mut effects.disk),
            ControllerEvent::Tick => {
                if let Some(raft) = &mut self.raft {
                    raft.tick();
                }
            }
            ControllerEvent::Message(ToController::Command { core, id, command }) => {
                self.command(core, id, &command, effects);
            }
            ControllerEvent::Message(ToController::Applied { core, offset }) => {
                self.publications.applied(core, offset, &self.image, &mut effects.shards);
            }
            ControllerEvent::Message(ToController::Stopped { core, clean }) => {
                self.publications.stopped(core, clean);
            }
            ControllerEvent::Disk(completion) => self.disk(completion, effects)?,
            ControllerEvent::Stop if !self.stopping => {
                self.stopping = true;
                let running = self.publications.cores();
                let running = running.filter(|core| self.publications.is_running(*core));
                effects.shards.extend(running.map(|core| (core, ToShard::Stop)));
            }
            ControllerEvent::Stop => {}
        }
        Ok(())
    }

    fn disk(
        &mut self,
        completion: DiskCompletion,
        effects: &mut ControllerEffects,
    ) -> Result<(), ControllerError> {
        if Replay::owns(completion.tag) {
            return Ok(self.replay.completed(completion, &mut effects.disk)?);
        }
        match self.files.completed(completion, &mut effects.disk)? {
            None => Ok(()),
            // What was in flight when the controller failed changes nothing.
            Some(_) if self.state == State::Failed => Ok(()),
            Some(FilesEvent::Recovered(recovered)) => self.recovered(recovered),
            Some(FilesEvent::Written) => {
                self.raft.as_mut().expect("only Raft has anything written").persisted();
                Ok(())
            }
            Some(FilesEvent::Rotated) => {
                let raft = self.raft.as_mut().expect("only a log that is read is rotated");
                raft.compact(self.snapshot_index);
                Ok(())
            }
            Some(FilesEvent::NoSpaceToRotate) => {
                effects.notices.push(Notice::NoSpaceForSnapshot);
                Ok(())
            }
        }
    }

    /// Starts from what the disk holds, and takes the lead at once.
    fn recovered(&mut self, recovered: Recovered) -> Result<(), ControllerError> {
        let Recovered { snapshot, frames } = recovered;
        let index = snapshot.index;
        if *snapshot.cluster_id != *self.options.cluster_id {
            let expected = self.options.cluster_id.to_string();
            return Err(ControllerError::Cluster { found: snapshot.cluster_id, expected });
        }
        let store = Store::recover(&snapshot, frames)?;
        let rng = Rng::stream(self.options.seed, "elections");
        let mut raft = RaftNode::new(raft_id(&self.options), store, index, rng)?;
        let records = decode_batch(&snapshot.records)
            .map_err(|error| ControllerError::Record { index, error })?;
        let offset = MetadataOffset(snapshot.offset);
        let image = self.image.apply(offset, &records);
        let image = image.map_err(|error| ControllerError::Apply { index, error })?.0;
        self.image = Arc::new(image);
        self.applied = index;
        raft.campaign()?;
        self.state = State::Replaying { until: raft.last_index() };
        self.raft = Some(raft);
        Ok(())
    }

    /// Goes on with whatever can go on.
    fn advance(
        &mut self,
        now: Now,
        effects: &mut ControllerEffects,
    ) -> Result<(), ControllerError> {
        if self.state == State::Failed {
            return Ok(());
        }
        loop {
            let busy = self.files.is_busy() || self.replay.is_busy();
            let Some(raft) = self.raft.as_mut().filter(|_| !busy) else {
                return Ok(());
            };
            match raft.next_step()? {
                Some(Step::Persist { ballot, entries }) => {
                    self.files.write(ballot, &entries, &mut effects.disk);
                }
                Some(Step::Commit(entries)) => {
                    for entry in &entries {
                        self.commit(entry, effects)?;
                    }
                }
                None if self.start(effects) => {}
                None => {
                    self.rotate(now, effects);
                    return Ok(());
                }
            }
        }
    }

    fn commit(
        &mut self,
        entry: &Entry,
        effects: &mut ControllerEffects,
    ) -> Result<(), ControllerError> {
        let index = entry.index;
        self.applied = index;
        if entry.data.is_empty() {
            return Ok(());
        }
        let records =
            decode_batch(&entry.data).map_err(|error| ControllerError::Record { index, error })?;
        let (image, delta) = self
            .image
            .apply(MetadataOffset(index), &records)
            .map_err(|error| ControllerError::Apply { index, error })?;
        let before = std::mem::replace(&mut self.image, Arc::new(image)).offset;
        if self.state == State::Active {
            self.publications.publish(before, &self.image, delta, &mut effects.shards);
        }
        Ok(())
    }

    /// Takes the next step towards being active, and says whether it did.
    fn start(&mut self, effects: &mut ControllerEffects) -> bool {
        let node = &self.options.node;
        let registered = self.image.nodes.get(&node.id).is_some_and(|found| **found == *node);
        match self.state {
            State::Replaying { until } if self.applied >= until => {
                self.state = State::Recovering;
                self.replay.begin(&self.image, &mut effects.disk);
                true
            }
            State::Recovering if self.replay.is_done() => {
                self.pending = Image::clone(&self.image);
                self.state = State::Registering;
                if !registered {
                    let record = Record::RegisterBroker(node.clone());
                    let proposed = self.propose(vec![record]);
                    proposed.expect("a leader with nothing proposed takes a proposal");
                }
                true
            }
            State::Registering if registered => {
                self.state = State::Active;
                let offset = self.image.offset;
                self.publications.publish(
                    offset,
                    &self.image,
                    Delta::default(),
                    &mut effects.shards,
                );
                effects.notices.push(Notice::Started);
                true
            }
            _ => false,
        }
    }

    /// Proposes `records` as one entry.
    fn propose(&mut self, records: Vec<Record>) -> Result<(), ProposeError> {
        let raft = self.raft.as_mut().ok_or(ProposeError::NotLeader)?;
        let index = raft.propose(encode_batch(&records))?;
        let next = self.pending.apply(MetadataOffset(index), &records);
        let (next, delta) = next.expect("a decision fits the image it was made on");
        self.pending = next;
        for change in &delta.changes {
            if let Change::TopicDeleted(topic) = change {
                self.former.note(topic);
            }
        }
        Ok(())
    }

    fn command(
        &mut self,
        core: CoreId,
        id: u64,
        command: &Command,
        effects: &mut ControllerEffects,
    ) {
        match self.decide(command) {
            // An answer may rest on what is only proposed, so it waits for that.
            Ok(answer) => {
                let offset = self.pending.offset;
                self.waiting.push_back(Waiting { offset, core, id, answer });
            }
            Err((code, message)) => {
                let answer = refuse_all(command, code, message);
                effects.shards.push((core, ToShard::Answer { id, answer }));
            }
        }
    }

    /// Decides and proposes, or says why this controller cannot.
    fn decide(&mut self, command: &Command) -> Result<Answer, (ErrorCode, &'static str)> {
        match self.state {
            State::Active => {}
            State::Failed => return Err((ErrorCode::KafkaStorageError, FAILED)),
            _ => return Err((ErrorCode::NotController, "The controller is starting.")),
        }
        if self.waiting.len() >= COMMANDS_OPEN_MAX {
            return Err((ErrorCode::RequestTimedOut, BUSY));
        }
        if self.files.is_full() {
            let message = "There is no space left for the metadata log.";
            return Err((ErrorCode::KafkaStorageError, message));
        }
        let decision =
            decide(command, &self.pending, &self.former, &self.options.policy, &mut self.rng);
        if !decision.records.is_empty() {
            self.propose(decision.records).map_err(|error| match error {
                ProposeError::Full => (ErrorCode::RequestTimedOut, BUSY),
                ProposeError::NotLeader => {
                    (ErrorCode::NotController, "The controller does not lead.")
                }
            })?;
        }
        Ok(decision.answer)
    }

    /// Sends the answers whose position every core has reached.
    fn send_answers(&mut self, effects: &mut ControllerEffects) {
        let everywhere = self.publications.applied_everywhere().min(self.image.offset);
        while let Some(front) = self.waiting.front()
            && front.offset <= everywhere
        {
            let Waiting { core, id, answer, .. } = self.waiting.pop_front().expect("the front");
            if self.publications.is_running(core) {
                effects.shards.push((core, ToShard::Answer { id, answer }));
            }
        }
    }

    fn rotate(&mut self, now: Now, effects: &mut ControllerEffects) {
        if !self.files.wants_rotation() || now.instant < self.snapshot_after {
            return;
        }
        let Some(raft) = &self.raft else { return };
        let store = raft.store();
        let snapshot = Snapshot {
            index: self.applied,
            term: store.term_of(self.applied).expect("what is applied is held"),
            offset: self.image.offset.0,
            ballot: store.ballot(),
            voters: store.voters().to_vec(),
            cluster_id: self.options.cluster_id.to_string(),
            records: encode_batch(&records_of(&self.image)),
        };
        self.snapshot_index = snapshot.index;
        self.snapshot_after = now.instant + SNAPSHOT_RETRY;
        let entries = store.entries_after(snapshot.index);
        self.files.rotate(&snapshot, &entries, &mut effects.disk);
    }

    /// Fails for good: what is committed stays, what is not becomes an error.
    fn fail(&mut self, error: ControllerError, effects: &mut ControllerEffects) {
        if self.state == State::Failed {
            return;
        }
        self.state = State::Failed;
        self.pending = Image::clone(&self.image);
        let committed = self.image.offset;
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.offset > committed) {
            waiting.offset = committed;
            refuse_successes(&mut waiting.answer, ErrorCode::KafkaStorageError, FAILED);
        }
        effects.notices.push(Notice::Failed(error));
    }
}

const FAILED: &str = "The metadata log of this broker has failed.";
const BUSY: &str = "Too many changes of the metadata are in flight.";
