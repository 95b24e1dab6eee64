//! The files of the metadata log, `<data>/__cluster_metadata/`:
//!
//! ```text
//! snapshot                    all metadata up to one entry; replaced as a whole
//! log-<20 digits>             a segment: frames from that entry on
//! ```
//!
//! One operation is in flight at a time, and each waits for the one before:
//!
//! ```text
//! Boot      list, read (or make) the snapshot, read (or make) the segment,
//!           cut what was never synced, reserve space, sync
//! Idle      nothing in flight
//! Write     the frames of one turn, then their sync
//! Rotate    the snapshot, then a new segment that starts with the ballot and
//!           all entries behind the snapshot, then the old one goes
//! Failed    after any error but a lack of space for a snapshot; for ever
//! ```
//!
//! A crash leaves either the old segment (perhaps with a newer snapshot, which
//! it overlaps) or the new one, so there is always one that continues the
//! snapshot. A failed sync is never repeated: what is on disk is unknown then.
//!
//! What the frames mean is not known here.

use std::path::PathBuf;

use crate::base::limits::{METADATA_LOG_MAX, METADATA_LOG_RESERVE, METADATA_PENDING_MAX};
use crate::base::pages::{BLOCK, PagePool, align_down, align_up};
use crate::base::rope::Rope;
use crate::effect::disk::{
    DirEntry, DiskCompletion, DiskError, DiskOp, DiskOpKind, DiskOutput, DiskTag, FileId,
};
use crate::raft::frame::{self, Corrupt, Frame, encode_write};
use crate::raft::snapshot::{Snapshot, SnapshotError};
use crate::raft::{Ballot, Entry};

/// The directory, in the data directory.
pub const DIRECTORY: &str = "__cluster_metadata";

const SNAPSHOT: &str = "snapshot";
const SEGMENT: &str = "log-";

/// One write's piece of memory.
const PAGE: usize = 1 << 20;

/// How long a segment gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes after which a snapshot is made and a new segment begins.
    pub snapshot_at: u64,
    /// Bytes reserved behind those; half of them may be used while no snapshot
    /// can be made, the other half is for what is on its way.
    pub reserve: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { snapshot_at: METADATA_LOG_MAX, reserve: METADATA_LOG_RESERVE }
    }
}

/// What the disk holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The segment's frames, which may begin before the snapshot.
    pub frames: Vec<Frame>,
}

/// What was asked for has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilesEvent {
    /// The boot: everything found is durable.
    Recovered(Recovered),
    /// A write: it is durable.
    Written,
    /// A rotation: the snapshot is durable and the log is short again.
    Rotated,
    /// A rotation was given up for want of space; the log goes on as it is.
    NoSpaceToRotate,
}

/// The files cannot be used, now or any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// An operation failed.
    #[error("{doing} {path} failed: {error}", path = .path.display())]
    Disk {
        /// What was done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// How it ended.
        error: DiskError,
    },
    /// Synced frames are damaged.
    #[error("{path}: {error}", path = .path.display())]
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where.
        error: Corrupt,
    },
    /// The snapshot cannot be read.
    #[error("{path}: {0}", path = snapshot_path().display())]
    Snapshot(#[from] SnapshotError),
    /// A file that must be there is not.
    #[error("{path} is missing: the metadata log cannot be continued", path = .0.display())]
    Missing(PathBuf),
    /// The segment has no ballot, which every segment starts with.
    #[error("{path} is corrupt: it does not start with a ballot", path = .0.display())]
    NoStart(PathBuf),
}

/// The step in flight; its completion leads to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Failed,
    BootMakeDir,
    BootSyncParent,
    BootSyncDir,
    BootList,
    BootReadSnapshot { segments: Vec<u64> },
    BootMakeSnapshot,
    BootReadSegment { snapshot: Snapshot, old: Vec<u64> },
    BootMakeSegment { snapshot: Snapshot },
    BootOpen(Boot),
    BootCut(Boot),
    BootReserve(Boot),
    BootSync(Boot),
    BootRemove(Boot),
    Writing,
    Syncing,
    RotateSnapshot { first: u64, start: Vec<u8> },
    RotateSegment { first: u64, start: Vec<u8> },
    RotateOpen { first: u64, start: Vec<u8> },
    RotateReserve { old: u64 },
    RotateSync { old: u64 },
    RotateClose { old: u64 },
    RotateRemove,
}

/// What the rest of a boot needs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Boot {
    recovered: Recovered,
    /// Older segments, to be removed.
    old: Vec<u64>,
    /// Whether what follows the frames must be cut.
    torn: bool,
    /// The file's length in bytes.
    len: u64,
}

/// The segment that is written to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Segment {
    /// Its first entry, which names it.
    first: u64,
    /// Its handle: another one than its predecessor's.
    file: u32,
    /// Where its frames end, in bytes.
    end: u64,
    /// Number of its last write.
    write: u64,
    /// The frames' bytes from the last block boundary on.
    tail: Vec<u8>,
}

/// The files.
#[derive(Debug)]
pub struct LogFiles {
    limits: LogLimits,
    /// What a new cluster starts from.
    birth: Snapshot,
    state: State,
    segment: Segment,
    pages: PagePool,
    tag: u64,
}

fn snapshot_path() -> PathBuf {
    [DIRECTORY, SNAPSHOT].iter().collect()
}

fn segment_path(first: u64) -> PathBuf {
    PathBuf::from(DIRECTORY).join(format!("{SEGMENT}{first:020}"))
}

fn segment_of(entry: &DirEntry) -> Option<u64> {
    let digits = entry.name.strip_prefix(SEGMENT)?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { digits.parse().ok() } else { None }
}

/// The frames a segment starts with.
fn start_of_segment(ballot: Ballot, entries: &[Entry]) -> Vec<u8> {
    let mut start = Vec::new();
    encode_write(&mut start, 0, 1, Some(ballot), entries);
    start
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.resize(align_up(bytes.len() as u64) as usize, 0);
    out
}

fn tail_of(bytes: &[u8]) -> Vec<u8> {
    bytes[align_down(bytes.len() as u64) as usize..].to_vec()
}

impl LogFiles {
    /// Files not yet looked at. If there are none, `birth` is where they start.
    pub fn new(birth: Snapshot, limits: LogLimits) -> Self {
        // A turn's entries with their frames, its tail block and the pages' rounding.
        let budget = 2 * METADATA_PENDING_MAX + 4 * PAGE;
        Self {
            limits,
            birth,
            state: State::Idle,
            segment: Segment::default(),
            pages: PagePool::new(budget),
            tag: 0,
        }
    }

    /// Whether an operation is in flight.
    pub fn is_busy(&self) -> bool {
        !matches!(self.state, State::Idle | State::Failed)
    }

    /// Bytes of the segment's frames.
    pub fn log_len(&self) -> u64 {
        self.segment.end
    }

    /// Whether the segment is long enough for a snapshot.
    pub fn wants_rotation(&self) -> bool {
        self.segment.end > self.limits.snapshot_at
    }

    /// Whether nothing more should be proposed until there is room for a snapshot.
    pub fn is_full(&self) -> bool {
        self.segment.end > self.limits.snapshot_at + self.limits.reserve / 2
    }

    /// Looks at what is there.
    pub fn boot(&mut self, out: &mut Vec<DiskOp>) {
        assert_eq!(self.state, State::Idle, "files are booted once, first");
        self.go(State::BootMakeDir, DiskOpKind::CreateDir { path: DIRECTORY.into() }, out);
    }

    /// Writes and syncs `ballot` and `entries`.
    ///
    /// # Panics
    /// If an operation is in flight, or there is nothing to write.
    pub fn write(&mut self, ballot: Option<Ballot>, entries: &[Entry], out: &mut Vec<DiskOp>) {
        assert_eq!(self.state, State::Idle, "one write at a time");
        let segment = &mut self.segment;
        let position = align_down(segment.end);
        let mut bytes = std::mem::take(&mut segment.tail);
        let mut frames = Vec::new();
        segment.write += 1;
        encode_write(&mut frames, segment.end, segment.write, ballot, entries);
        segment.end += frames.len() as u64;
        bytes.append(&mut frames);
        segment.tail = tail_of(&bytes);
        let mut rope = Rope::default();
        for piece in bytes.chunks(PAGE) {
            let page = self.pages.allocate(piece.len());
            let mut page = page.expect("the budget covers the largest write, one is in flight");
            page.put(piece);
            page.pad_to_block();
            rope.push(page.slice(0..page.len()));
        }
        let file = FileId(self.segment.file);
        self.go(State::Writing, DiskOpKind::Write { file, position, bytes: rope }, out);
    }

    /// Replaces the snapshot and continues in a new segment. `entries` are all
    /// that follow the snapshot.
    ///
    /// # Panics
    /// If an operation is in flight.
    pub fn rotate(&mut self, snapshot: &Snapshot, entries: &[Entry], out: &mut Vec<DiskOp>) {
        assert_eq!(self.state, State::Idle, "one operation at a time");
        let first = snapshot.index + 1;
        let start = start_of_segment(snapshot.ballot, entries);
        let replace = DiskOpKind::Replace { path: snapshot_path(), bytes: snapshot.encode() };
        self.go(State::RotateSnapshot { first, start }, replace, out);
    }

    fn go(&mut self, state: State, kind: DiskOpKind, out: &mut Vec<DiskOp>) {
        self.state = state;
        self.tag += 1;
        out.push(DiskOp { tag: DiskTag(self.tag), kind });
    }

    /// Takes the completion of the operation in flight and goes on.
    ///
    /// # Panics
    /// If it is another operation's.
    pub fn completed(
        &mut self,
        completion: DiskCompletion,
        out: &mut Vec<DiskOp>,
    ) -> Result<Option<FilesEvent>, FilesError> {
        assert_eq!(completion.tag, DiskTag(self.tag), "one operation is in flight");
        let state = std::mem::replace(&mut self.state, State::Failed);
        match completion.result {
            Ok(output) => self.went_well(state, output, out),
            Err(error) => self.failed(state, error, out),
        }
    }

    fn failed(
        &mut self,
        state: State,
        error: DiskError,
        out: &mut Vec<DiskOp>,
    ) -> Result<Option<FilesEvent>, FilesError> {
        let (doing, path) = match state {
            // A lack of space is survived where what is there stays as it was.
            State::RotateSnapshot { .. } | State::RotateSegment { .. }
                if error == DiskError::NoSpace =>
            {
                self.state = State::Idle;
                return Ok(Some(FilesEvent::NoSpaceToRotate));
            }
            State::BootReserve(boot) if error == DiskError::NoSpace => {
                self.sync_at_boot(boot, out);
                return Ok(None);
            }
            State::RotateReserve { old } if error == DiskError::NoSpace => {
                self.sync_new_segment(old, out);
                return Ok(None);
            }
            State::BootMakeDir => ("making", DIRECTORY.into()),
            State::BootSyncParent => ("syncing", ".".into()),
            State::BootSyncDir => ("syncing", DIRECTORY.into()),
            State::BootList => ("listing", DIRECTORY.into()),
            State::BootReadSnapshot { .. } => ("reading", snapshot_path()),
            State::BootMakeSnapshot | State::RotateSnapshot { .. } => {
                ("replacing", snapshot_path())
            }
            State::BootReadSegment { .. } => ("reading", segment_path(self.segment.first)),
            State::BootMakeSegment { .. } => ("making", segment_path(self.segment.first)),
            State::RotateSegment { first, .. } => ("making", segment_path(first)),
            State::BootOpen(_) => ("opening", segment_path(self.segment.first)),
            State::RotateOpen { first, .. } => ("opening", segment_path(first)),
            State::BootCut(_) => ("cutting", segment_path(self.segment.first)),
            State::BootReserve(_) | State::RotateReserve { .. } => {
                ("reserving space for", segment_path(self.segment.first))
            }
            State::BootSync(_) | State::Syncing | State::RotateSync { .. } => {
                ("syncing", segment_path(self.segment.first))
            }
            State::Writing => ("writing", segment_path(self.segment.first)),
            State::RotateClose { old } => ("closing", segment_path(old)),
            State::BootRemove(_) | State::RotateRemove => {
                ("removing an old segment in", DIRECTORY.into())
            }
            State::Idle | State::Failed => unreachable!("nothing was in flight"),
        };
        Err(FilesError::Disk { doing, path, error })
    }

    fn went_well(
        &mut self,
        state: State,
        output: DiskOutput,
        out: &mut Vec<DiskOp>,
    ) -> Result<Option<FilesEvent>, FilesError> {
        match (state, output) {
            (State::BootMakeDir, _) => {
                self.go(State::BootSyncParent, DiskOpKind::SyncDir { path: PathBuf::new() }, out);
            }
            (State::BootSyncParent, _) => {
                // A name found after a crash may not be durable yet.
                self.go(State::BootSyncDir, DiskOpKind::SyncDir { path: DIRECTORY.into() }, out);
            }
            (State::BootSyncDir, _) => {
                self.go(State::BootList, DiskOpKind::ListDir { path: DIRECTORY.into() }, out);
            }
            (State::BootList, DiskOutput::Entries(entries)) => self.listed(&entries, out)?,
            (State::BootReadSnapshot { segments }, DiskOutput::Content(bytes)) => {
                self.snapshot_read(Snapshot::decode(&bytes)?, segments, out)?;
            }
            (State::BootMakeSnapshot, _) => self.snapshot_read(self.birth.clone(), vec![], out)?,
            (State::BootReadSegment { snapshot, old }, DiskOutput::Content(bytes)) => {
                self.segment_read(snapshot, old, &bytes, out)?;
            }
            (State::BootMakeSegment { snapshot }, _) => {
                let start = start_of_segment(snapshot.ballot, &[]);
                self.segment_read(snapshot, vec![], &padded(&start), out)?;
            }
            (State::BootOpen(boot), DiskOutput::Opened { len }) => {
                let boot = Boot { len, ..boot };
                if boot.torn {
                    let (file, len) = (FileId(self.segment.file), self.segment.end);
                    self.go(State::BootCut(boot), DiskOpKind::Truncate { file, len }, out);
                } else {
                    self.reserve_at_boot(boot, out);
                }
            }
            (State::BootCut(boot), _) => {
                let boot = Boot { len: self.segment.end, ..boot };
                self.reserve_at_boot(boot, out);
            }
            (State::BootReserve(boot), _) => self.sync_at_boot(boot, out),
            (State::BootSync(boot) | State::BootRemove(boot), _) => {
                return Ok(self.remove_old_at_boot(boot, out));
            }
            (State::Writing, DiskOutput::Written { .. }) => {
                let file = FileId(self.segment.file);
                self.go(State::Syncing, DiskOpKind::Sync { file }, out);
            }
            (State::Syncing, _) => {
                self.state = State::Idle;
                return Ok(Some(FilesEvent::Written));
            }
            (State::RotateSnapshot { first, start }, _) => {
                let replace =
                    DiskOpKind::Replace { path: segment_path(first), bytes: padded(&start) };
                self.go(State::RotateSegment { first, start }, replace, out);
            }
            (State::RotateSegment { first, start }, _) => {
                let file = FileId(1 - self.segment.file);
                let open = DiskOpKind::Open { file, path: segment_path(first), create: false };
                self.go(State::RotateOpen { first, start }, open, out);
            }
            (State::RotateOpen { first, start }, _) => {
                let old = self.segment.first;
                self.segment = Segment {
                    first,
                    file: 1 - self.segment.file,
                    end: start.len() as u64,
                    write: 1,
                    tail: tail_of(&start),
                };
                self.go(State::RotateReserve { old }, self.reservation(), out);
            }
            (State::RotateReserve { old }, _) => self.sync_new_segment(old, out),
            (State::RotateSync { old }, _) => {
                let file = FileId(1 - self.segment.file);
                self.go(State::RotateClose { old }, DiskOpKind::Close { file }, out);
            }
            (State::RotateClose { old }, _) => {
                let remove = DiskOpKind::Remove { path: segment_path(old) };
                self.go(State::RotateRemove, remove, out);
            }
            (State::RotateRemove, _) => {
                self.state = State::Idle;
                return Ok(Some(FilesEvent::Rotated));
            }
            (state, output) => panic!("{output:?} does not answer {state:?}"),
        }
        Ok(None)
    }

    fn listed(&mut self, entries: &[DirEntry], out: &mut Vec<DiskOp>) -> Result<(), FilesError> {
        let segments: Vec<u64> = entries.iter().filter_map(segment_of).collect();
        let path = snapshot_path();
        if entries.iter().any(|entry| entry.name == SNAPSHOT) {
            self.go(State::BootReadSnapshot { segments }, DiskOpKind::ReadFile { path }, out);
        } else if segments.is_empty() {
            let bytes = self.birth.encode();
            self.go(State::BootMakeSnapshot, DiskOpKind::Replace { path, bytes }, out);
        } else {
            return Err(FilesError::Missing(path));
        }
        Ok(())
    }

    fn snapshot_read(
        &mut self,
        snapshot: Snapshot,
        mut segments: Vec<u64>,
        out: &mut Vec<DiskOp>,
    ) -> Result<(), FilesError> {
        segments.sort_unstable();
        let next = snapshot.index + 1;
        match segments.pop() {
            Some(first) if first <= next => {
                self.segment.first = first;
                let read = DiskOpKind::ReadFile { path: segment_path(first) };
                self.go(State::BootReadSegment { snapshot, old: segments }, read, out);
            }
            None if snapshot.index == Snapshot::BIRTH => {
                self.segment.first = next;
                let bytes = padded(&start_of_segment(snapshot.ballot, &[]));
                let make = DiskOpKind::Replace { path: segment_path(next), bytes };
                self.go(State::BootMakeSegment { snapshot }, make, out);
            }
            _ => return Err(FilesError::Missing(segment_path(next))),
        }
        Ok(())
    }

    fn segment_read(
        &mut self,
        snapshot: Snapshot,
        old: Vec<u64>,
        bytes: &[u8],
        out: &mut Vec<DiskOp>,
    ) -> Result<(), FilesError> {
        let path = segment_path(self.segment.first);
        let scan = match frame::scan(bytes) {
            Ok(scan) => scan,
            Err(error) => return Err(FilesError::Corrupt { path, error }),
        };
        if !matches!(scan.frames.first(), Some(Frame::Ballot(_))) {
            return Err(FilesError::NoStart(path));
        }
        self.segment.end = scan.end;
        self.segment.write = scan.write;
        // The last frame's padding may lie beyond a file that was cut short.
        let tail = bytes.get(align_down(scan.end) as usize..);
        let mut tail = tail.unwrap_or_default().to_vec();
        tail.resize((scan.end % BLOCK as u64) as usize, 0);
        self.segment.tail = tail;
        let recovered = Recovered { snapshot, frames: scan.frames };
        let boot = Boot { recovered, old, torn: scan.torn, len: 0 };
        let open = DiskOpKind::Open { file: FileId(self.segment.file), path, create: false };
        self.go(State::BootOpen(boot), open, out);
        Ok(())
    }

    fn reserved_len(&self) -> u64 {
        align_up(self.limits.snapshot_at + self.limits.reserve)
    }

    fn reservation(&self) -> DiskOpKind {
        let file = FileId(self.segment.file);
        DiskOpKind::Allocate { file, position: 0, len: self.reserved_len() }
    }

    fn reserve_at_boot(&mut self, boot: Boot, out: &mut Vec<DiskOp>) {
        if boot.len < self.reserved_len() {
            self.go(State::BootReserve(boot), self.reservation(), out);
        } else {
            self.sync_at_boot(boot, out);
        }
    }

    fn sync_at_boot(&mut self, boot: Boot, out: &mut Vec<DiskOp>) {
        let file = FileId(self.segment.file);
        self.go(State::BootSync(boot), DiskOpKind::Sync { file }, out);
    }

    fn remove_old_at_boot(&mut self, mut boot: Boot, out: &mut Vec<DiskOp>) -> Option<FilesEvent> {
        match boot.old.pop() {
            Some(old) => {
                let remove = DiskOpKind::Remove { path: segment_path(old) };
                self.go(State::BootRemove(boot), remove, out);
                None
            }
            None => {
                self.state = State::Idle;
                Some(FilesEvent::Recovered(boot.recovered))
            }
        }
    }

    fn sync_new_segment(&mut self, old: u64, out: &mut Vec<DiskOp>) {
        let file = FileId(self.segment.file);
        self.go(State::RotateSync { old }, DiskOpKind::Sync { file }, out);
    }
}
