//! The disk that all cores and the controller share.
//!
//! An operation takes effect at a moment between its submission and its
//! completion, and is durable as `effect::disk` promises and not a bit more.
//! What is submitted must not change until the completion. A crash of the
//! process keeps what completed; a loss of power keeps what was synced, and of
//! the rest any subset: sectors of writes, lengths, names.

pub mod flips;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Component, Path};

use corelane::base::pages::BLOCK;
use corelane::base::rng::Rng;
use corelane::base::rope::Rope;
use corelane::controller::replay::Replay;
use corelane::effect::disk::{
    DirEntry, DiskCompletion, DiskError, DiskOp, DiskOpKind, DiskOutput, DiskTag, FileId,
};
use corelane::log::io::{LogOp, untag};
use corelane::log::journal::parse_file_name;
use corelane::log::producers::Producers;

use crate::damage;
use crate::file::{Change, Content, File, SECTOR, pick};
use crate::planted::{Planted, misplace, spoil_commits};

const EIO: i32 = 5;
const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// Who asked: a core, or the controller.
pub type Owner = u16;

/// The controller.
pub const CONTROLLER: Owner = u16::MAX;

/// What goes wrong, each as one in so many operations; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub failed_sync: u64,
    pub failed_write: u64,
    pub failed_read: u64,
    pub no_space: u64,
    /// Of operations on names and on small files.
    pub failed_name: u64,
    pub slow: u64,
    /// Of losses of power, for each log: a stale batch stands behind its end.
    pub stale: u64,
}

/// What the disk did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub writes: u64,
    /// Of journals.
    pub records: u64,
    /// Pieces of segments that were written from journals.
    pub replayed: u64,
    pub reads: u64,
    pub syncs: u64,
    pub syncs_of_all: u64,
    pub replaces: u64,
    pub truncates: u64,
    pub renames: u64,
    /// Compacted segments that took the place of others.
    pub swaps: u64,
    pub faults: u64,
    pub failed_names: u64,
    pub failed_syncs: u64,
    /// Bytes that recovery scans read since the last start.
    pub scanned: u64,
    /// Operations that a crash caught in flight.
    pub caught: u64,
    /// Unsynced writes at losses of power.
    pub unsynced: u64,
    /// Stale batches behind the ends of logs.
    pub stale: u64,
    /// Flipped bits, by what they were in.
    pub flipped_segments: u64,
    pub flipped_indexes: u64,
    pub flipped_small: u64,
    pub flipped_last: u64,
    pub flipped_groups: u64,
    pub flipped_points: u64,
    pub flipped_closed: u64,
    pub flipped_metadata: u64,
    pub flipped_journals: u64,
}

#[derive(Debug)]
enum Node {
    File(File),
    Dir(Dir),
}

#[derive(Debug, Default)]
struct Dir {
    now: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    unsynced: Vec<(u64, NameChange)>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, usize),
    Remove(String),
    /// From, to, and what bears the name.
    Rename(String, String, usize),
}

impl NameChange {
    fn names(&self, name: &str) -> bool {
        match self {
            Self::Set(of, _) | Self::Remove(of) => of == name,
            Self::Rename(from, to, _) => from == name || to == name,
        }
    }

    /// Whether both are about one name.
    fn meets(&self, other: &Self) -> bool {
        match self {
            Self::Set(name, _) | Self::Remove(name) => other.names(name),
            Self::Rename(from, to, _) => other.names(from) || other.names(to),
        }
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Set(name, node) => {
            names.insert(name.clone(), *node);
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
        NameChange::Rename(from, to, node) => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

#[derive(Debug)]
struct InFlight {
    owner: Owner,
    tag: DiskTag,
    kind: DiskOpKind,
    /// Of a write's rope when it was submitted.
    crc: u32,
    /// What a sync covers.
    covers: Vec<u64>,
    /// Of the file or directory a handle or path named at submission.
    node: Option<usize>,
    fault: Option<DiskError>,
    /// Set when it has taken effect.
    result: Option<Result<DiskOutput, DiskError>>,
}

/// The disk.
pub struct Disk {
    nodes: Vec<Node>,
    handles: BTreeMap<(Owner, FileId), usize>,
    in_flight: BTreeMap<u64, InFlight>,
    next: u64,
    rng: Rng,
    pub faults: Faults,
    planted: Option<Planted>,
    /// For a planted bug: what the last sync of everything should have covered.
    stale: Vec<u64>,
    /// Syncs that were told before they were durable.
    early: VecDeque<(usize, Vec<u64>)>,
    pub counters: Counters,
    /// Files that have a flipped bit.
    flipped: BTreeSet<(String, String)>,
}

/// Completions between such a sync's and what it promises.
const EARLY: usize = 3;

const ROOT: usize = 0;

impl Disk {
    pub fn new(seed: u64, planted: Option<Planted>) -> Self {
        Self {
            nodes: vec![Node::Dir(Dir::default())],
            handles: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next: 0,
            rng: Rng::stream(seed, "disk"),
            faults: Faults::default(),
            planted,
            stale: vec![],
            early: VecDeque::new(),
            counters: Counters::default(),
            flipped: BTreeSet::new(),
        }
    }

    /// Takes an operation. Returns its number, when it takes effect and when it
    /// completes, as delays.
    pub fn submit(&mut self, owner: Owner, op: DiskOp) -> (u64, u64, u64) {
        self.next += 1;
        let DiskOp { tag, kind } = op;
        let handle = match &kind {
            DiskOpKind::Close { file }
            | DiskOpKind::Write { file, .. }
            | DiskOpKind::Read { file, .. }
            | DiskOpKind::Sync { file }
            | DiskOpKind::Allocate { file, .. }
            | DiskOpKind::Truncate { file, .. } => {
                let node = self.handles.get(&(owner, *file)).copied();
                Some(node.expect("operations name open files"))
            }
            DiskOpKind::Open { file, .. } => {
                assert!(!self.handles.contains_key(&(owner, *file)), "{file:?} is open already");
                None
            }
            _ => None,
        };
        let mut crc = 0;
        let mut covers = vec![];
        match &kind {
            DiskOpKind::Close { file } => {
                self.handles.remove(&(owner, *file));
                let busy = self.in_flight.values().any(|op| {
                    op.owner == owner
                        && op.node == handle
                        && !matches!(op.kind, DiskOpKind::Close { .. })
                });
                assert!(!busy, "nothing of a closed file is in flight");
            }
            DiskOpKind::Write { position, bytes, .. } => {
                assert!(
                    aligned(*position) && !bytes.is_empty(),
                    "writes are aligned and not empty"
                );
                let parts = bytes.parts().iter();
                let mut whole = parts.map(|part| aligned(part.len() as u64 | part.as_ptr() as u64));
                assert!(whole.all(|one| one), "every part is aligned");
                crc = crc_of(bytes);
            }
            DiskOpKind::Read { position, len, into, .. } => {
                assert!(
                    aligned(*position) && aligned(*len as u64) && *len > 0,
                    "reads are aligned"
                );
                assert!(into.is_empty() && into.spare_len() >= *len);
                if owner != CONTROLLER && matches!(untag(tag).1, LogOp::Scan) {
                    self.counters.scanned += *len as u64;
                }
            }
            DiskOpKind::Sync { .. } => {
                covers = self.file(handle.expect("seen above")).syncable();
            }
            DiskOpKind::SyncAll => {
                covers = self.syncable();
                if self.planted == Some(Planted::SyncAllStale) {
                    std::mem::swap(&mut covers, &mut self.stale);
                }
            }
            DiskOpKind::SyncNew { path } => covers = self.syncable_below(path),
            DiskOpKind::SyncDir { path } => {
                if let Some(Node::Dir(dir)) = self.find(path).map(|node| &self.nodes[node]) {
                    covers = dir.unsynced.iter().map(|(operation, _)| *operation).collect();
                }
            }
            _ => {}
        }
        let (took, fault) = self.draw(&kind);
        let effect = self.rng.between(0, took);
        let op = InFlight { owner, tag, kind, crc, covers, node: handle, fault, result: None };
        self.in_flight.insert(self.next, op);
        (self.next, effect, took)
    }

    /// How long an operation takes, and whether it fails.
    fn draw(&mut self, kind: &DiskOpKind) -> (u64, Option<DiskError>) {
        let (low, high) = match kind {
            DiskOpKind::Sync { .. }
            | DiskOpKind::SyncDir { .. }
            | DiskOpKind::SyncNew { .. }
            | DiskOpKind::SyncAll => (50 * US, 3 * MS),
            DiskOpKind::Replace { .. } | DiskOpKind::Rename { .. } => (200 * US, 5 * MS),
            _ => (20 * US, 600 * US),
        };
        let faults = self.faults;
        let slow = self.one_in(faults.slow);
        let took = self.rng.between(low, high) * if slow { self.rng.between(10, 200) } else { 1 };
        let fault = match kind {
            DiskOpKind::Sync { .. } | DiskOpKind::SyncAll if self.one_in(faults.failed_sync) => {
                Some(DiskError::Io(EIO))
            }
            DiskOpKind::Write { .. } if self.one_in(faults.failed_write) => {
                Some(DiskError::Io(EIO))
            }
            DiskOpKind::Read { .. } if self.one_in(faults.failed_read) => Some(DiskError::Io(EIO)),
            DiskOpKind::Allocate { .. } if self.one_in(faults.no_space) => Some(DiskError::NoSpace),
            DiskOpKind::Open { .. }
            | DiskOpKind::CreateDir { .. }
            | DiskOpKind::SyncDir { .. }
            | DiskOpKind::SyncNew { .. }
            | DiskOpKind::Rename { .. }
            | DiskOpKind::Remove { .. }
            | DiskOpKind::Replace { .. }
            | DiskOpKind::Create { .. }
            | DiskOpKind::ReadFile { .. }
            | DiskOpKind::ListDir { .. }
            | DiskOpKind::ReadDir { .. }
                if self.one_in(faults.failed_name) =>
            {
                self.counters.failed_names += 1;
                let full = self.rng.chance(1, 2);
                Some(if full { DiskError::NoSpace } else { DiskError::Io(EIO) })
            }
            _ => None,
        };
        self.counters.faults += u64::from(fault.is_some());
        (took, fault)
    }

    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.rng.chance(1, n)
    }

    /// The operation takes effect, if it is still in flight.
    pub fn take_effect(&mut self, id: u64) {
        let Some(mut op) = self.in_flight.remove(&id) else { return };
        op.result = Some(self.run(id, &mut op));
        self.in_flight.insert(id, op);
    }

    /// The operation completes, if it is still in flight.
    pub fn complete(&mut self, id: u64) -> Option<(Owner, DiskCompletion)> {
        let op = self.in_flight.remove(&id)?;
        let result = op.result.expect("it took effect before");
        if let DiskOpKind::Write { bytes, .. } = &op.kind {
            assert_eq!(crc_of(bytes), op.crc, "a submitted page changed");
        }
        if !self.early.is_empty() {
            self.make_good(EARLY);
        }
        if result.is_ok() {
            self.make_durable(id, &op.kind, op.node, &op.covers);
        }
        let result = match (result, op.kind) {
            (Ok(_), DiskOpKind::Write { bytes, .. }) => Ok(DiskOutput::Written { bytes }),
            (Ok(_), DiskOpKind::Read { into, .. }) => Ok(DiskOutput::Read { page: into }),
            (result, _) => result,
        };
        let lost_of = match self.planted {
            Some(Planted::LostCompletion) => Some(300),
            Some(Planted::LostCompletionSeldom) => Some(30_000),
            _ => None,
        };
        if lost_of.is_some_and(|of| self.rng.chance(1, of)) {
            return None;
        }
        Some((op.owner, DiskCompletion { tag: op.tag, result }))
    }

    fn run(&mut self, id: u64, op: &mut InFlight) -> Result<DiskOutput, DiskError> {
        let truncate_lies = self.planted == Some(Planted::TruncateLies);
        let done = Ok(DiskOutput::Done);
        if let Some(error) = op.fault
            && !matches!(
                op.kind,
                DiskOpKind::Write { .. } | DiskOpKind::Sync { .. } | DiskOpKind::SyncAll
            )
        {
            return Err(error);
        }
        match &mut op.kind {
            DiskOpKind::Open { file, path, create } => {
                let node = match self.find(path) {
                    Some(node) => node,
                    None if *create => {
                        let (dir, name) = self.parent(path).ok_or(DiskError::NotFound)?;
                        let node = self.add(Node::File(File::default()));
                        self.rename(id, dir, NameChange::Set(name, node));
                        node
                    }
                    None => return Err(DiskError::NotFound),
                };
                self.handles.insert((op.owner, *file), node);
                Ok(DiskOutput::Opened { len: self.file(node).now().len() })
            }
            DiskOpKind::Close { .. } => done,
            DiskOpKind::Write { position, bytes, .. } => {
                self.counters.writes += 1;
                if self.journals().contains(&op.node) {
                    self.counters.records += 1;
                } else if op.owner == CONTROLLER && Replay::owns(op.tag) {
                    self.counters.replayed += 1;
                }
                let mut content = bytes.to_vec();
                let flips = self.planted == Some(Planted::ChangedPage) && self.rng.chance(1, 50);
                let crc = crc32fast::hash(&content) ^ u32::from(flips);
                assert_eq!(crc, op.crc, "a submitted page changed");
                let torn = self.planted == Some(Planted::TornWrite) || op.fault.is_some();
                let node = op.node.expect("a write has a file");
                let (mut position, odds) = (*position, if op.fault.is_some() { 2 } else { 20 });
                let whole = content.len() / SECTOR;
                let lost = self.rng.below(whole as u64) as usize;
                if torn && self.rng.chance(1, odds) {
                    let tail = content.split_off((lost + 1) * SECTOR);
                    content.truncate(lost * SECTOR);
                    let change = Change::Write { position, bytes: content };
                    self.file_mut(node).change(id, change, false);
                    position += (lost as u64 + 1) * SECTOR as u64;
                    content = tail;
                }
                let change = Change::Write { position, bytes: content };
                self.file_mut(node).change(id, change, false);
                op.fault.map_or(done, Err)
            }
            DiskOpKind::Read { position, len, into, .. } => {
                self.counters.reads += 1;
                let node = op.node.expect("a read has a file");
                let misplaced_of = match self.planted {
                    Some(Planted::MisplacedRead) => Some(10),
                    Some(Planted::MisplacedReadSeldom) => Some(500),
                    _ => None,
                };
                let misplaced = misplaced_of.is_some_and(|of| self.rng.chance(1, of));
                let position = *position + if misplaced { BLOCK as u64 } else { 0 };
                let spare = &mut into.spare()[..*len];
                let file = match &self.nodes[node] {
                    Node::File(file) => file,
                    Node::Dir(_) => unreachable!("a handle is of a file"),
                };
                let log_op = (op.owner != CONTROLLER).then(|| untag(op.tag).1);
                let read = match as_planted(self.planted, log_op, file, &mut self.rng) {
                    Some(seen) => seen.read(position, spare),
                    None => file.now().read(position, spare),
                };
                into.advance(read);
                done
            }
            DiskOpKind::Sync { .. } => {
                self.counters.syncs += 1;
                if let Some(error) = op.fault {
                    self.counters.failed_syncs += 1;
                    let node = op.node.expect("a sync has a file");
                    let covers = std::mem::take(&mut op.covers);
                    let mut rng = Rng::new(self.rng.next_u64());
                    self.file_mut(node).fail_sync(&covers, &mut rng);
                    return Err(error);
                }
                done
            }
            DiskOpKind::SyncAll => {
                self.counters.syncs_of_all += 1;
                let Some(error) = op.fault else { return done };
                self.counters.failed_syncs += 1;
                // What a sync under way of a single file covers is that one's.
                let others = self.in_flight.values().filter(|other| {
                    matches!(other.kind, DiskOpKind::Sync { .. } | DiskOpKind::SyncNew { .. })
                });
                let others: BTreeSet<u64> =
                    others.flat_map(|other| &other.covers).copied().collect();
                op.covers.retain(|of| !others.contains(of));
                // Who has other files open is told when it syncs those.
                let open = self.handles.iter().filter(|((owner, _), _)| *owner == op.owner);
                let open: BTreeSet<usize> = open.map(|(_, node)| *node).collect();
                for node in open {
                    let mut rng = Rng::new(self.rng.next_u64());
                    self.file_mut(node).fail_sync(&op.covers, &mut rng);
                }
                Err(error)
            }
            DiskOpKind::Allocate { position, len, .. } => {
                let change = Change::Extend { len: *position + *len };
                self.file_mut(op.node.expect("it has a file")).change(id, change, false);
                done
            }
            DiskOpKind::Truncate { len, .. } => {
                self.counters.truncates += 1;
                let change = Change::Truncate { len: *len };
                self.file_mut(op.node.expect("it has a file")).change(id, change, truncate_lies);
                done
            }
            DiskOpKind::CreateDir { path } => {
                let (dir, name) = self.parent(path).ok_or(DiskError::NotFound)?;
                if !self.dir(dir).now.contains_key(&name) {
                    let node = self.add(Node::Dir(Dir::default()));
                    self.rename(id, dir, NameChange::Set(name, node));
                }
                done
            }
            DiskOpKind::SyncDir { path } | DiskOpKind::SyncNew { path } => {
                self.find(path).ok_or(DiskError::NotFound)?;
                done
            }
            DiskOpKind::Rename { from, to } => {
                self.counters.renames += 1;
                let (dir, name) = self.parent(from).ok_or(DiskError::NotFound)?;
                let (to_dir, to_name) = self.parent(to).ok_or(DiskError::NotFound)?;
                assert_eq!(dir, to_dir, "a rename stays in its directory");
                let node = *self.dir(dir).now.get(&name).ok_or(DiskError::NotFound)?;
                op.node = Some(node);
                if to_name.ends_with(".swap") {
                    self.counters.swaps += 1;
                    let mut bytes = self.file(node).now().to_vec();
                    match self.planted {
                        Some(Planted::ChangedByCompaction) => {
                            spoil_commits(&mut bytes);
                            self.nodes[node] = Node::File(File::durable(&bytes));
                        }
                        Some(Planted::LostByCompaction) if from.starts_with("keyed-0") => {
                            damage::hide_a_batch(&mut bytes, &mut self.rng);
                            self.nodes[node] = Node::File(File::durable(&bytes));
                        }
                        _ => {}
                    }
                }
                self.rename(id, dir, NameChange::Rename(name, to_name, node));
                done
            }
            DiskOpKind::Remove { path } => {
                let Some(node) = self.find(path) else { return done };
                let (dir, name) = self.parent(path).expect("it was found");
                assert!(!self.is_open_below(node), "{} is removed while open", path.display());
                self.remove_inside(id, node);
                self.rename(id, dir, NameChange::Remove(name));
                done
            }
            DiskOpKind::Replace { path, bytes } => {
                self.counters.replaces += 1;
                let (dir, name) = self.parent(path).ok_or(DiskError::NotFound)?;
                let mut bytes = bytes.as_slice();
                let times = path.extension().is_some_and(|name| name == "timeindex");
                if times && self.planted == Some(Planted::LostIndexEntry) {
                    bytes = &bytes[..bytes.len().saturating_sub(12)];
                }
                let node = self.add(Node::File(File::durable(bytes)));
                self.rename(id, dir, NameChange::Set(name, node));
                done
            }
            DiskOpKind::Create { path, bytes } => {
                let (dir, name) = self.parent(path).ok_or(DiskError::NotFound)?;
                let node = match self.find(path) {
                    Some(node) => node,
                    None => {
                        let node = self.add(Node::File(File::default()));
                        self.rename(id, dir, NameChange::Set(name, node));
                        node
                    }
                };
                let bytes = bytes.clone();
                let file = self.file_mut(node);
                file.change(id, Change::Truncate { len: 0 }, false);
                file.change(id, Change::Write { position: 0, bytes }, false);
                op.node = Some(node);
                done
            }
            DiskOpKind::ReadFile { path } => self.content(path).map(DiskOutput::Content),
            DiskOpKind::ListDir { path } => self.list(path).map(DiskOutput::Entries),
            DiskOpKind::ReadDir { path } => {
                let entries = self.list(path)?;
                DiskOutput::dir(entries, |name| self.content(&path.join(name)))
            }
            DiskOpKind::Space => {
                // The disk is never full; other processes may have filled it.
                let full = self.one_in(self.faults.no_space);
                self.counters.faults += u64::from(full);
                let usable = if full { 0 } else { 1 << 39 };
                Ok(DiskOutput::Space { total: 1 << 40, usable })
            }
        }
    }

    /// What a small file holds, as whoever asks is shown it.
    fn content(&self, path: &Path) -> Result<Vec<u8>, DiskError> {
        let node = self.find(path).ok_or(DiskError::NotFound)?;
        let snapshot = path.extension().is_some_and(|name| name == "snapshot");
        if path.to_str().and_then(parse_file_name).is_some() {
            match self.planted {
                Some(Planted::ForgottenJournal) => return Ok(vec![]),
                Some(Planted::MisplacedReplay) => {
                    let mut bytes = self.file(node).now().to_vec();
                    misplace(&mut bytes);
                    return Ok(bytes);
                }
                _ => {}
            }
        }
        if snapshot && self.planted == Some(Planted::ForgottenProducers) {
            return Ok(Producers::default().encode(0));
        }
        Ok(self.file(node).now().to_vec())
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, DiskError> {
        let node = self.find(path).ok_or(DiskError::NotFound)?;
        let Node::Dir(dir) = &self.nodes[node] else { return Err(DiskError::Io(20)) };
        let entries = dir.now.iter().map(|(name, node)| match &self.nodes[*node] {
            Node::File(file) => {
                DirEntry { name: name.clone(), is_dir: false, len: file.now().len() }
            }
            Node::Dir(_) => DirEntry { name: name.clone(), is_dir: true, len: 0 },
        });
        Ok(entries.collect())
    }

    /// What the completion promises.
    fn make_durable(&mut self, id: u64, kind: &DiskOpKind, node: Option<usize>, covers: &[u64]) {
        match kind {
            DiskOpKind::Write { .. }
            | DiskOpKind::Allocate { .. }
            | DiskOpKind::Truncate { .. }
            | DiskOpKind::Create { .. } => {
                self.file_mut(node.expect("it has a file")).complete(id);
            }
            DiskOpKind::Sync { .. } | DiskOpKind::SyncAll if self.sync_lies() => {}
            DiskOpKind::SyncAll | DiskOpKind::SyncNew { .. } => self.sync_all(covers),
            DiskOpKind::Sync { .. }
                if self.planted == Some(Planted::JournalSyncLies)
                    && self.journals().contains(&node) => {}
            DiskOpKind::Sync { .. } if self.planted == Some(Planted::EarlySync) => {
                self.early.push_back((node.expect("it has a file"), covers.to_vec()));
            }
            DiskOpKind::Sync { .. } => {
                let truncate_lies = self.planted == Some(Planted::TruncateLies);
                self.file_mut(node.expect("it has a file")).sync(covers, truncate_lies);
            }
            DiskOpKind::SyncDir { path } if self.planted != Some(Planted::SyncDirLies) => {
                if let Some(found) = self.find(path) {
                    self.sync_names(found, covers);
                }
            }
            DiskOpKind::Rename { from: path, .. } | DiskOpKind::Replace { path, .. } => {
                if let Some((dir, _)) = self.parent(path) {
                    self.sync_names(dir, &[id]);
                }
            }
            _ => {}
        }
    }

    /// Makes all but the last `but` syncs durable that were told before.
    fn make_good(&mut self, but: usize) {
        while self.early.len() > but
            && let Some((node, covers)) = self.early.pop_front()
        {
            self.file_mut(node).sync(&covers, false);
        }
    }

    /// Whether a planted bug makes this sync one in name only.
    fn sync_lies(&mut self) -> bool {
        match self.planted {
            Some(Planted::SyncLies) => true,
            Some(Planted::SyncLiesSeldom) => self.rng.chance(1, 50),
            _ => false,
        }
    }

    /// The operations that a sync of everything asked for now covers.
    fn syncable(&self) -> Vec<u64> {
        let mut covers = vec![];
        for node in &self.nodes {
            match node {
                Node::File(file) => covers.append(&mut file.syncable()),
                Node::Dir(dir) => covers.extend(dir.unsynced.iter().map(|(of, _)| *of)),
            }
        }
        covers
    }

    /// What is not durable of a directory: its files, their names, and its own.
    fn syncable_below(&self, path: &Path) -> Vec<u64> {
        let Some(Node::Dir(dir)) = self.find(path).map(|node| &self.nodes[node]) else {
            return vec![];
        };
        let (parent, _) = self.parent(path).expect("it was found");
        let names = [dir, self.dir(parent)].into_iter().flat_map(|dir| &dir.unsynced);
        let mut covers: Vec<u64> = names.map(|(of, _)| *of).collect();
        for node in dir.now.values() {
            if let Node::File(file) = &self.nodes[*node] {
                covers.append(&mut file.syncable());
            }
        }
        covers
    }

    fn sync_all(&mut self, covers: &[u64]) {
        let truncate_lies = self.planted == Some(Planted::TruncateLies);
        let names_lie = self.planted == Some(Planted::SyncDirLies);
        for node in 0..self.nodes.len() {
            match &mut self.nodes[node] {
                Node::File(file) => file.sync(covers, truncate_lies),
                Node::Dir(dir) if !dir.unsynced.is_empty() && !names_lie => {
                    self.sync_names(node, covers);
                }
                Node::Dir(_) => {}
            }
        }
    }

    fn sync_names(&mut self, dir: usize, operations: &[u64]) {
        let dir = self.dir_mut(dir);
        for (operation, change) in std::mem::take(&mut dir.unsynced) {
            if operations.contains(&operation) {
                apply(&mut dir.durable, &change);
                // What happened to the name before is over.
                dir.unsynced.retain(|(_, before)| !before.meets(&change));
            } else {
                dir.unsynced.push((operation, change));
            }
        }
    }

    /// The process ends at once; with `power`, so does the machine.
    pub fn crash(&mut self, power: bool) {
        self.counters.caught += self.in_flight.len() as u64;
        self.handles.clear();
        for (id, mut op) in std::mem::take(&mut self.in_flight) {
            // What has not taken effect may still do so, wholly or in part.
            if op.result.is_none() && self.rng.chance(1, 2) {
                match &mut op.kind {
                    DiskOpKind::Open { .. }
                    | DiskOpKind::Read { .. }
                    | DiskOpKind::Close { .. } => {}
                    DiskOpKind::Write { .. } if !power => self.write_part(id, &op),
                    DiskOpKind::Create { bytes, .. } => {
                        bytes.truncate(self.rng.between(0, bytes.len() as u64) as usize);
                        drop(self.run(id, &mut op));
                    }
                    _ => drop(self.run(id, &mut op)),
                }
                self.handles.clear();
            }
            if let DiskOpKind::Replace { path, bytes } = &op.kind
                && self.rng.chance(1, 4)
            {
                self.leave_temporary(id, path, bytes);
            }
        }
        if power {
            self.early.clear();
            self.lose_power();
            return self.plant_stale();
        }
        self.make_good(0);
        for node in &mut self.nodes {
            if let Node::File(file) = node {
                file.complete_all();
            }
        }
    }

    /// Some sectors of a write that the death of the process caught.
    fn write_part(&mut self, id: u64, op: &InFlight) {
        let DiskOpKind::Write { position, bytes, .. } = &op.kind else { return };
        for (at, sector) in (0..).zip(bytes.to_vec().chunks(SECTOR)) {
            if self.rng.chance(1, 2) {
                let position = position + at * SECTOR as u64;
                let change = Change::Write { position, bytes: sector.to_vec() };
                self.file_mut(op.node.expect("a write has a file")).change(id, change, false);
            }
        }
    }

    fn leave_temporary(&mut self, id: u64, path: &Path, bytes: &[u8]) {
        let Some((dir, name)) = self.parent(path) else { return };
        let len = self.rng.between(0, bytes.len() as u64) as usize;
        let node = self.add(Node::File(File::durable(&bytes[..len])));
        self.rename(id, dir, NameChange::Set(format!("{name}.tmp"), node));
    }

    fn lose_power(&mut self) {
        let truncate_lies = self.planted == Some(Planted::TruncateLies);
        for node in &mut self.nodes {
            match node {
                Node::File(file) => {
                    self.counters.unsynced += file.syncable().len() as u64;
                    file.lose_power(&mut self.rng, truncate_lies);
                }
                Node::Dir(dir) => {
                    let odds = *pick(&mut self.rng, &[0, 1, 2]);
                    for (_, change) in std::mem::take(&mut dir.unsynced) {
                        if self.rng.chance(odds, 2) {
                            apply(&mut dir.durable, &change);
                        }
                    }
                    dir.now = dir.durable.clone();
                }
            }
        }
    }

    /// Puts stale batches behind the ends of some logs, where space is preallocated.
    fn plant_stale(&mut self) {
        let logs: Vec<usize> =
            self.logs().into_iter().filter_map(|(_, files)| files.last().copied()).collect();
        for node in logs {
            if self.one_in(self.faults.stale) {
                let mut rng = Rng::new(self.rng.next_u64());
                let planted = damage::plant_stale(self.file_mut(node), &mut rng);
                self.counters.stale += u64::from(planted);
            }
        }
    }

    /// The files of journals.
    fn journals(&self) -> Vec<Option<usize>> {
        let names = self.dir(ROOT).now.iter();
        names
            .filter(|(name, _)| parse_file_name(name).is_some())
            .map(|(_, node)| Some(*node))
            .collect()
    }

    /// The directories of partitions, and their segments in order.
    fn logs(&self) -> Vec<(String, Vec<usize>)> {
        let Node::Dir(root) = &self.nodes[ROOT] else { unreachable!("the root is a directory") };
        let mut found = vec![];
        for (name, node) in &root.now {
            let Node::Dir(dir) = &self.nodes[*node] else { continue };
            if dir.now.contains_key("partition.metadata") && !name.contains('.') {
                let files = dir.now.iter().filter(|(name, _)| name.ends_with(".log"));
                found.push((name.clone(), files.map(|(_, node)| *node).collect()));
            }
        }
        found
    }

    /// An operation of `owner` that is in flight, but for closes of handles.
    pub fn busy(&self, owner: Owner) -> Option<&DiskOpKind> {
        let open = self.in_flight.values().filter(|op| op.owner == owner).map(|op| &op.kind);
        open.into_iter().find(|kind| !matches!(kind, DiskOpKind::Close { .. }))
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn rename(&mut self, operation: u64, dir: usize, change: NameChange) {
        let dir = self.dir_mut(dir);
        apply(&mut dir.now, &change);
        dir.unsynced.push((operation, change));
    }

    fn remove_inside(&mut self, operation: u64, node: usize) {
        let Node::Dir(dir) = &self.nodes[node] else { return };
        let inside: Vec<(String, usize)> =
            dir.now.iter().map(|(name, node)| (name.clone(), *node)).collect();
        for (name, below) in inside {
            self.remove_inside(operation, below);
            self.rename(operation, node, NameChange::Remove(name));
        }
    }

    fn is_open_below(&self, node: usize) -> bool {
        match &self.nodes[node] {
            Node::File(_) => self.handles.values().any(|open| *open == node),
            Node::Dir(dir) => dir.now.values().any(|below| self.is_open_below(*below)),
        }
    }

    fn find(&self, path: &Path) -> Option<usize> {
        path.components().try_fold(ROOT, |node, part| match part {
            Component::CurDir => Some(node),
            Component::Normal(name) => match &self.nodes[node] {
                Node::Dir(dir) => dir.now.get(name.to_str().expect("names are UTF-8")).copied(),
                Node::File(_) => None,
            },
            _ => panic!("{} leads out of the log directory", path.display()),
        })
    }

    /// The directory that holds `path`, and the last name of it.
    fn parent(&self, path: &Path) -> Option<(usize, String)> {
        let name = path.file_name().expect("the log directory itself stays as it is");
        let dir = self.find(path.parent().expect("a path with a name has a parent"))?;
        matches!(self.nodes[dir], Node::Dir(_)).then(|| (dir, name.to_string_lossy().into_owned()))
    }

    fn file(&self, node: usize) -> &File {
        match &self.nodes[node] {
            Node::File(file) => file,
            Node::Dir(_) => panic!("a directory is used as a file"),
        }
    }

    fn file_mut(&mut self, node: usize) -> &mut File {
        match &mut self.nodes[node] {
            Node::File(file) => file,
            Node::Dir(_) => panic!("a directory is used as a file"),
        }
    }

    fn dir(&self, node: usize) -> &Dir {
        match &self.nodes[node] {
            Node::Dir(dir) => dir,
            Node::File(_) => panic!("a file is used as a directory"),
        }
    }

    fn dir_mut(&mut self, node: usize) -> &mut Dir {
        match &mut self.nodes[node] {
            Node::Dir(dir) => dir,
            Node::File(_) => panic!("a file is used as a directory"),
        }
    }
}

/// What a reader sees that has a planted bug, if it differs from what is there.
fn as_planted(
    planted: Option<Planted>,
    op: Option<LogOp>,
    file: &File,
    rng: &mut Rng,
) -> Option<Content> {
    let change: fn(&mut [u8]) = match (planted?, op?) {
        (Planted::SkippedChecksum, LogOp::Scan) | (Planted::ServedDamage, LogOp::Cold(_)) => {
            damage::with_good_checksums
        }
        (Planted::StaleBatch, LogOp::Scan) => damage::with_expected_offsets,
        (Planted::ReusedOffset, LogOp::Scan) if rng.chance(1, 20) => damage::without_last_batch,
        _ => return None,
    };
    let mut bytes = file.now().to_vec();
    change(&mut bytes);
    Some(Content::of(&bytes))
}

fn aligned(n: u64) -> bool {
    n.is_multiple_of(BLOCK as u64)
}

/// A checksum of a rope's bytes.
pub fn crc_of(rope: &Rope) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in rope.parts() {
        hasher.update(part);
    }
    hasher.finalize()
}
