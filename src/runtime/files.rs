//! The open files of one thread and the disk operations in flight.
//!
//! Reads, writes, syncs and allocations go through the ring, everything else
//! to the file worker, but that syncs of all files (syncfs, which the ring does
//! not have) go to a worker of their own and wait for no name. An operation in
//! flight owns its buffers and a share of its file; it completes once, with as many
//! kernel operations as it takes to read or write all that was asked for.
//!
//! Not here: order among operations, retries after errors, caching.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::event_fd::EventFd;
use super::file_worker::{FileWorker, Job, disk_error};
use super::gather::Cursor;
use super::measure::DiskTimes;
use super::ring::{Completion, Kind, Ring, Token};
use crate::base::pages::{BLOCK, PageWriter};
use crate::base::rope::Rope;
use crate::base::slab::Slab;
use crate::base::time::Instant;
use crate::effect::disk::{
    DiskCompletion, DiskError, DiskOp, DiskOpKind, DiskOutput, DiskTag, FileId,
};

/// What the workers' signals are called.
const FILES: u32 = 0;
const SYNCS: u32 = 1;

/// The files of one core, or of the control thread.
pub struct Files {
    log_dir: PathBuf,
    /// For the power-pull test alone: syncs do nothing and claim success.
    skip_sync: bool,
    table: HashMap<FileId, Arc<File>>,
    operations: Slab<Operation>,
    worker: FileWorker,
    worker_signal: EventFd,
    /// For syncs of all files.
    syncer: FileWorker,
    syncer_signal: EventFd,
    /// When the syncs of all files that it has began, oldest first.
    syncing: VecDeque<Instant>,
    /// Completions that need no waiting, for the next turn.
    ready: Vec<DiskCompletion>,
    /// When what is told or carried out now happens.
    now: Instant,
    /// What happened so far.
    pub counters: FileCounters,
    /// How long it took.
    pub times: DiskTimes,
}

/// What happened to the files of one core since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileCounters {
    /// Writes completed.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads completed.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Syncs of files completed.
    pub syncs: u64,
    /// Syncs of all files completed.
    pub syncs_of_all: u64,
    /// Operations given to the file worker.
    pub worker_jobs: u64,
}

/// An operation in the ring.
struct Operation {
    tag: DiskTag,
    file: Arc<File>,
    kind: OperationKind,
    since: Instant,
}

enum OperationKind {
    Write { position: u64, bytes: Rope, cursor: Cursor },
    Read { position: u64, into: PageWriter, len: usize },
    Sync,
    Allocate { position: u64, len: u64 },
}

impl Operation {
    /// Hands the operation, or what is left of it, to the ring.
    fn submit(&mut self, ring: &mut Ring, token: Token) {
        let fd: RawFd = self.file.as_raw_fd();
        match &mut self.kind {
            OperationKind::Write { position, bytes, cursor } => {
                // SAFETY: the operation holds the rope until its completion.
                unsafe { ring.write(token, fd, *position, bytes, *cursor) };
            }
            OperationKind::Read { position, into, len } => {
                let done = into.len();
                let memory = into.spare().as_mut_ptr();
                // SAFETY: `len` spare bytes were checked when the operation came, and
                // the operation holds the page, untouched, until its completion.
                unsafe { ring.read(token, fd, *position + done as u64, memory, *len - done) };
            }
            OperationKind::Sync => ring.sync(token, fd),
            OperationKind::Allocate { position, len } => ring.allocate(token, fd, *position, *len),
        }
    }

    /// Takes in `count` transferred bytes and says whether there are more to come.
    fn transferred(&mut self, count: usize) -> Result<bool, DiskError> {
        match &mut self.kind {
            OperationKind::Write { bytes, cursor, .. } => {
                // Direct writes go on at a block; a part of one is written again.
                let whole = if cursor.done() + count == bytes.len() {
                    count
                } else {
                    count - count % BLOCK
                };
                if whole == 0 {
                    return Err(DiskError::Io(libc::EIO));
                }
                cursor.advance(bytes, whole);
                Ok(!cursor.is_end(bytes))
            }
            OperationKind::Read { into, len, .. } => {
                into.advance(count);
                // Only the end of the file ends a read inside a block, or without a byte.
                Ok(into.len() < *len && count > 0 && count.is_multiple_of(BLOCK))
            }
            OperationKind::Sync | OperationKind::Allocate { .. } => Ok(false),
        }
    }
}

impl Files {
    /// Files below `log_dir`, which exists. `name` tells the workers from others'.
    ///
    /// # Errors
    /// If the workers cannot be started.
    pub fn new(ring: &mut Ring, log_dir: PathBuf, name: &str, skip_sync: bool) -> io::Result<Self> {
        let mut start = |work: &str, index: u32| -> io::Result<(FileWorker, EventFd)> {
            let (worker, signal) =
                FileWorker::start(format!("{work}-{name}"), &log_dir, skip_sync)?;
            let signal = EventFd::new(signal, Token::new(Kind::Worker, index))?;
            signal.arm(ring);
            Ok((worker, signal))
        };
        let (worker, worker_signal) = start("files", FILES)?;
        let (syncer, syncer_signal) = start("syncs", SYNCS)?;
        Ok(Self {
            log_dir,
            skip_sync,
            table: HashMap::new(),
            operations: Slab::default(),
            worker,
            worker_signal,
            syncer,
            syncer_signal,
            syncing: VecDeque::new(),
            ready: Vec::new(),
            now: Instant::default(),
            counters: FileCounters::default(),
            times: DiskTimes::default(),
        })
    }

    /// Sets the moment of what is told or carried out from now on.
    pub fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    /// Operations in the ring, and syncs of all files.
    pub fn in_flight(&self) -> usize {
        self.operations.len() + self.syncing.len()
    }

    /// Whether there are completions that need no waiting.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Tells the completions that need no waiting.
    pub fn emit_ready(&mut self, emit: impl FnMut(DiskCompletion)) {
        self.ready.drain(..).for_each(emit);
    }

    /// Carries out one operation.
    ///
    /// # Panics
    /// If a handle is not open, is open already, or is closed with something in
    /// flight; if bytes, positions or lengths are not aligned where they must be;
    /// if a path leads out of the log directory.
    pub fn perform(&mut self, ring: &mut Ring, DiskOp { tag, kind }: DiskOp) {
        let job = match kind {
            DiskOpKind::Write { file, position, bytes } => {
                check_write(position, &bytes);
                let kind = OperationKind::Write { position, bytes, cursor: Cursor::default() };
                return self.submit(ring, tag, file, kind);
            }
            DiskOpKind::Read { file, position, len, into } => {
                assert!(is_aligned(position) && is_aligned(len as u64), "reads are aligned");
                assert!(into.is_empty() && into.spare_len() >= len && len > 0);
                return self.submit(ring, tag, file, OperationKind::Read { position, into, len });
            }
            DiskOpKind::Sync { .. } if self.skip_sync => {
                self.ready.push(DiskCompletion { tag, result: Ok(DiskOutput::Done) });
                return;
            }
            DiskOpKind::Sync { file } => {
                return self.submit(ring, tag, file, OperationKind::Sync);
            }
            DiskOpKind::SyncAll => {
                self.syncing.push_back(self.now);
                return self.syncer.give(tag, Job::SyncAll);
            }
            DiskOpKind::Allocate { file, position, len } => {
                return self.submit(ring, tag, file, OperationKind::Allocate { position, len });
            }
            DiskOpKind::Open { file, path, create } => {
                assert!(!self.table.contains_key(&file), "{file:?} is open already");
                Job::Open { file, path: self.resolve(&path), create }
            }
            DiskOpKind::Close { file } => {
                let file = self.table.remove(&file).expect("only open files are closed");
                assert_eq!(Arc::strong_count(&file), 1, "nothing of a closed file is in flight");
                Job::Close { file }
            }
            DiskOpKind::Truncate { file, len } => Job::Truncate { file: self.file(file), len },
            DiskOpKind::CreateDir { path } => Job::CreateDir { path: self.resolve(&path) },
            DiskOpKind::SyncDir { path } => Job::SyncDir { path: self.resolve(&path) },
            DiskOpKind::Rename { from, to } => {
                Job::Rename { from: self.resolve_entry(&from), to: self.resolve_entry(&to) }
            }
            DiskOpKind::Remove { path } => Job::Remove { path: self.resolve_entry(&path) },
            DiskOpKind::Replace { path, bytes } => {
                Job::Replace { path: self.resolve_entry(&path), bytes }
            }
            DiskOpKind::SyncNew { path } => Job::SyncNew { path: self.resolve_entry(&path) },
            DiskOpKind::Create { path, bytes } => {
                Job::Create { path: self.resolve_entry(&path), bytes }
            }
            DiskOpKind::ReadFile { path } => Job::ReadFile { path: self.resolve(&path) },
            DiskOpKind::ListDir { path } => Job::ListDir { path: self.resolve(&path) },
            DiskOpKind::ReadDir { path } => Job::ReadDir { path: self.resolve(&path) },
            DiskOpKind::Space => Job::Space { path: self.log_dir.clone() },
        };
        self.give(tag, job);
    }

    fn give(&mut self, tag: DiskTag, job: Job) {
        self.counters.worker_jobs += 1;
        self.worker.give(tag, job);
    }

    fn submit(&mut self, ring: &mut Ring, tag: DiskTag, file: FileId, kind: OperationKind) {
        let file = self.file(file);
        let index = self.operations.insert(Operation { tag, file, kind, since: self.now });
        let operation = self.operations.get_mut(index).expect("inserted just now");
        operation.submit(ring, Token::new(Kind::Disk, index));
    }

    /// An operation in the ring ended, or a part of it.
    pub fn completed(
        &mut self,
        ring: &mut Ring,
        completion: Completion,
        emit: impl FnOnce(DiskCompletion),
    ) {
        let Token { index, .. } = completion.token;
        let operation = self.operations.get_mut(index).expect("an operation in flight is there");
        let more = match completion.result {
            Ok(count) => operation.transferred(count),
            // A signal came: nothing was done yet.
            Err(libc::EINTR) => Ok(true),
            Err(errno) => Err(disk_error(errno)),
        };
        if more == Ok(true) {
            return operation.submit(ring, completion.token);
        }
        let Operation { tag, file, kind, since } =
            self.operations.remove(index).expect("an operation in flight is there");
        let took = self.now.since(since);
        let result = match (more, kind) {
            (Err(DiskError::Io(libc::EOPNOTSUPP)), OperationKind::Allocate { position, len }) => {
                // The file system cannot reserve space, which the probe has warned of;
                // the length and the zeros it can give.
                return self.give(tag, Job::Extend { file, len: position + len });
            }
            (Err(error), _) => {
                self.times.errors += 1;
                Err(error)
            }
            (Ok(_), OperationKind::Write { bytes, .. }) => {
                self.counters.writes += 1;
                self.times.writes.record(took);
                self.counters.written_bytes += bytes.len() as u64;
                Ok(DiskOutput::Written { bytes })
            }
            (Ok(_), OperationKind::Read { into, .. }) => {
                self.counters.reads += 1;
                self.times.reads.record(took);
                self.counters.read_bytes += into.len() as u64;
                Ok(DiskOutput::Read { page: into })
            }
            (Ok(_), OperationKind::Sync) => {
                self.counters.syncs += 1;
                self.times.syncs.record(took);
                Ok(DiskOutput::Done)
            }
            (Ok(_), OperationKind::Allocate { .. }) => Ok(DiskOutput::Done),
        };
        // The file is let go first, for the asker may close it at once.
        drop(file);
        emit(DiskCompletion { tag, result });
    }

    /// The worker whose signal is called `token` has results.
    pub fn worker_signalled(
        &mut self,
        ring: &mut Ring,
        token: Token,
        mut emit: impl FnMut(DiskCompletion),
    ) {
        if token.index == SYNCS {
            self.syncer_signal.arm(ring);
            self.syncer.answer();
            while let Some(finished) = self.syncer.finished() {
                let since = self.syncing.pop_front().expect("they end in order");
                self.counters.syncs_of_all += 1;
                self.times.syncs.record(self.now.since(since));
                self.times.errors += u64::from(finished.completion.result.is_err());
                emit(finished.completion);
            }
            return;
        }
        self.worker_signal.arm(ring);
        self.worker.answer();
        while let Some(finished) = self.worker.finished() {
            if let Some((id, file)) = finished.opened {
                let other = self.table.insert(id, file);
                assert!(other.is_none(), "{id:?} is open already");
            }
            emit(finished.completion);
        }
    }

    fn file(&self, file: FileId) -> Arc<File> {
        self.table.get(&file).expect("operations name open files").clone()
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        assert!(inside, "{} leads out of the log directory", path.display());
        self.log_dir.join(path)
    }

    /// As `resolve`, for paths that must not name the log directory itself.
    fn resolve_entry(&self, path: &Path) -> PathBuf {
        assert!(path.components().next().is_some(), "the log directory itself stays as it is");
        self.resolve(path)
    }
}

/// Whether the power-pull test asks for syncs that do nothing, by
/// `CORELANE_TEST_SKIP_SYNC=1` in the environment; says so loudly if it does.
pub fn skip_sync_from_environment() -> bool {
    let skip = std::env::var_os("CORELANE_TEST_SKIP_SYNC").is_some_and(|value| value == "1");
    if skip {
        let warning = "CORELANE_TEST_SKIP_SYNC=1: NOTHING IS SYNCED, A POWER LOSS LOSES \
                       ACKNOWLEDGED RECORDS. For tests of the broker alone.";
        eprintln!("corelane: {warning}");
        tracing::error!("{warning}");
    }
    skip
}

fn is_aligned(n: u64) -> bool {
    n.is_multiple_of(BLOCK as u64)
}

fn check_write(position: u64, bytes: &Rope) {
    assert!(is_aligned(position) && !bytes.is_empty(), "writes are aligned and not empty");
    for part in bytes.parts() {
        let aligned = is_aligned(part.len() as u64) && is_aligned(part.as_ptr() as u64);
        assert!(aligned, "every part of a write is aligned");
    }
}
