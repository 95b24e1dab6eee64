//! What journals have goes where it belongs, before any log is opened.
//!
//! A journal that a start finds was left by a stop that was not clean. For each core that
//! has left one: both files are read, and what they have of each partition that there is
//! goes to its segment, block by block, where the segment does not have it yet. When all
//! is written it is synced, then the files are removed, and that is made durable. One
//! operation is in flight at a time. A stop in between does no harm: everything is done
//! again.
//!
//! Pieces count only for the last segment of a partition whose directory is the topic's;
//! the file of a later segment proves that the earlier ones are whole.
//!
//! Any error is final: nothing is opened that may lack what was acknowledged.
//!
//! Not here: the format (`log/journal.rs`), and why this is enough
//! (`docs/adr/0011-a-journal-for-small-groups.md`).

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

use crate::base::pages::{PagePool, align_down, align_up};
use crate::base::rope::Rope;
use crate::effect::disk::{
    DirEntry, DiskCompletion, DiskError, DiskOp, DiskOpKind, DiskOutput, DiskTag, FileId,
};
use crate::log::journal::{self, Damaged};
use crate::metadata::image::Image;
use crate::model::ids::{TopicId, TopicPartition};

/// Tells its operations from those of the metadata log.
const TAG: u64 = 1 << 63;

/// The metadata log has two files open.
const FILE: FileId = FileId(2);

/// Bytes of a segment that are read and written at once, about.
const WINDOW: u64 = 512 << 10;

/// The journals cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// An operation failed.
    #[error("replaying the journals: {doing} {path} failed: {error}", path = .path.display())]
    Disk {
        /// What was done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// How it ended.
        error: DiskError,
    },
    /// What was synced is damaged.
    #[error("the journal of core {core} is corrupt: {error}")]
    Corrupt {
        /// Whose it is.
        core: u16,
        /// Where.
        error: Damaged,
    },
    /// A segment is gone whose records a journal has.
    #[error("{path} is missing, and a journal has records of it", path = .0.display())]
    Missing(PathBuf),
}

/// See the head of this file.
#[derive(Debug)]
pub struct Replay {
    state: State,
    tag: u64,
    pages: PagePool,
    /// Directories of partitions.
    dirs: BTreeMap<TopicPartition, PathBuf>,
    /// Cores that have left a journal, and which files.
    cores: VecDeque<(u16, Vec<usize>)>,
    /// All their files.
    found: Vec<PathBuf>,
    /// What is read of the core's files, and those still to read.
    read: [Vec<u8>; 2],
    unread: Vec<usize>,
    /// Logs of the core still to go over.
    logs: VecDeque<LogPieces>,
    /// What is still to be done of the one segment that is open.
    windows: VecDeque<Window>,
    path: PathBuf,
    rewritten: u64,
}

#[derive(Debug)]
struct LogPieces {
    topic: TopicId,
    dir: PathBuf,
    /// By the segment's base offset, oldest first.
    segments: BTreeMap<i64, Vec<Piece>>,
}

#[derive(Debug)]
struct Piece {
    position: u64,
    bytes: Vec<u8>,
}

/// Neighbouring pieces, and the blocks they lie in.
#[derive(Debug)]
struct Window {
    start: u64,
    end: u64,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum State {
    New,
    Listing,
    Reading(u16, usize),
    ReadingMetadata(LogPieces),
    ListingLog(LogPieces),
    Opening,
    ReadingSegment(Window),
    Writing,
    Closing,
    Syncing,
    Removing,
    SyncingDir,
    Done,
    Failed,
}

impl Replay {
    /// One that has not begun.
    #[expect(clippy::new_without_default, reason = "there is one, made by the controller")]
    pub fn new() -> Self {
        Self {
            state: State::New,
            tag: TAG,
            pages: PagePool::new(16 << 20),
            dirs: BTreeMap::new(),
            cores: VecDeque::new(),
            found: vec![],
            read: Default::default(),
            unread: vec![],
            logs: VecDeque::new(),
            windows: VecDeque::new(),
            path: PathBuf::new(),
            rewritten: 0,
        }
    }

    /// Whether this is a replay's operation.
    pub fn owns(tag: DiskTag) -> bool {
        tag.0 & TAG != 0
    }

    /// Whether it has come to its end.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether an operation is in flight.
    pub fn is_busy(&self) -> bool {
        !matches!(self.state, State::New | State::Done | State::Failed)
    }

    /// Begins. `image` says which partitions there are.
    pub fn begin(&mut self, image: &Image, out: &mut Vec<DiskOp>) {
        for topic in image.topics() {
            for (index, _) in (0..).zip(&topic.partitions) {
                let partition = crate::model::ids::PartitionIndex(index);
                let dir = PathBuf::from(format!("{}-{partition}", topic.name));
                self.dirs.insert(TopicPartition { topic: topic.id, partition }, dir);
            }
        }
        self.go(State::Listing, DiskOpKind::ListDir { path: PathBuf::new() }, out);
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
    ) -> Result<(), ReplayError> {
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
    ) -> Result<(), ReplayError> {
        let (doing, path) = match state {
            // The directory is gone: so it is with a topic that is deleted at this moment.
            State::ReadingMetadata(_) if error == DiskError::NotFound => {
                self.next_log(out);
                return Ok(());
            }
            State::New | State::Done | State::Failed => unreachable!("nothing was in flight"),
            State::Listing => ("listing", ".".into()),
            State::Reading(core, which) => ("reading", journal::file_name(core, which).into()),
            State::ReadingMetadata(log) => ("reading", log.dir.join(METADATA)),
            State::ListingLog(log) => ("listing", log.dir),
            State::Opening => ("opening", self.path.clone()),
            State::ReadingSegment(_) => ("reading", self.path.clone()),
            State::Writing => ("writing", self.path.clone()),
            State::Closing => ("closing", self.path.clone()),
            State::Syncing => ("syncing", ".".into()),
            State::Removing => ("removing", self.path.clone()),
            State::SyncingDir => ("syncing", ".".into()),
        };
        Err(ReplayError::Disk { doing, path, error })
    }

    fn went_well(
        &mut self,
        state: State,
        output: DiskOutput,
        out: &mut Vec<DiskOp>,
    ) -> Result<(), ReplayError> {
        match (state, output) {
            (State::Listing, DiskOutput::Entries(entries)) => self.listed(&entries, out),
            (State::Reading(core, which), DiskOutput::Content(bytes)) => {
                self.read[which] = bytes;
                self.read_next(core, out)?;
            }
            (State::ReadingMetadata(log), DiskOutput::Content(bytes)) => {
                let ours = format!("topic_id: {}", log.topic);
                if String::from_utf8_lossy(&bytes).lines().any(|line| line == ours) {
                    let path = log.dir.clone();
                    self.go(State::ListingLog(log), DiskOpKind::ListDir { path }, out);
                } else {
                    self.next_log(out);
                }
            }
            (State::ListingLog(log), DiskOutput::Entries(entries)) => {
                self.log_listed(log, &entries, out)?;
            }
            (State::Opening, DiskOutput::Opened { .. }) => self.next_window(out),
            (State::ReadingSegment(window), DiskOutput::Read { page }) => {
                self.write_window(&window, page.filled(), out);
            }
            (State::Writing, _) => self.next_window(out),
            (State::Closing, _) => self.next_log(out),
            (State::Syncing | State::Removing, _) => self.remove_next(out),
            (State::SyncingDir, _) => self.state = State::Done,
            (state, output) => panic!("{output:?} does not answer {state:?}"),
        }
        Ok(())
    }

    fn listed(&mut self, entries: &[DirEntry], out: &mut Vec<DiskOp>) {
        let mut cores: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            if let Some((core, which)) = journal::parse_file_name(&entry.name) {
                cores.entry(core).or_default().push(which);
                self.found.push(entry.name.clone().into());
            }
        }
        if cores.is_empty() {
            self.state = State::Done;
            return;
        }
        self.cores = cores.into_iter().collect();
        self.next_core(out);
    }

    fn next_core(&mut self, out: &mut Vec<DiskOp>) {
        self.read = Default::default();
        let Some((core, files)) = self.cores.pop_front() else {
            if self.rewritten > 0 {
                tracing::info!("replayed {} pieces of segments from journals", self.rewritten);
            }
            return self.go(State::Syncing, DiskOpKind::SyncAll, out);
        };
        self.unread = files;
        let which = self.unread.pop().expect("it has left a file");
        self.read_file(core, which, out);
    }

    fn read_file(&mut self, core: u16, which: usize, out: &mut Vec<DiskOp>) {
        let path = journal::file_name(core, which).into();
        self.go(State::Reading(core, which), DiskOpKind::ReadFile { path }, out);
    }

    fn read_next(&mut self, core: u16, out: &mut Vec<DiskOp>) -> Result<(), ReplayError> {
        if let Some(which) = self.unread.pop() {
            self.read_file(core, which, out);
            return Ok(());
        }
        let pieces = journal::scan([&self.read[0], &self.read[1]])
            .map_err(|error| ReplayError::Corrupt { core, error })?;
        let mut logs: BTreeMap<TopicPartition, LogPieces> = BTreeMap::new();
        for piece in pieces {
            // Others are deleted.
            let Some(dir) = self.dirs.get(&piece.log) else { continue };
            let log = logs.entry(piece.log).or_insert_with(|| LogPieces {
                topic: piece.log.topic,
                dir: dir.clone(),
                segments: BTreeMap::new(),
            });
            let pieces = log.segments.entry(piece.segment).or_default();
            pieces.push(Piece { position: piece.position, bytes: piece.bytes.to_vec() });
        }
        self.logs = logs.into_values().collect();
        self.next_log(out);
        Ok(())
    }

    fn next_log(&mut self, out: &mut Vec<DiskOp>) {
        let Some(log) = self.logs.pop_front() else { return self.next_core(out) };
        let path = log.dir.join(METADATA);
        self.go(State::ReadingMetadata(log), DiskOpKind::ReadFile { path }, out);
    }

    fn log_listed(
        &mut self,
        mut log: LogPieces,
        entries: &[DirEntry],
        out: &mut Vec<DiskOp>,
    ) -> Result<(), ReplayError> {
        let base = |entry: &DirEntry| {
            let digits = entry.name.strip_suffix(".log").filter(|digits| digits.len() == 20)?;
            digits.parse::<i64>().ok()
        };
        let last = entries.iter().filter_map(base).max();
        if let Some((newest, _)) = log.segments.last_key_value()
            && Some(*newest) > last
        {
            return Err(ReplayError::Missing(log.dir.join(format!("{newest:020}.log"))));
        }
        let Some((last, pieces)) = last.and_then(|last| Some((last, log.segments.remove(&last)?)))
        else {
            self.next_log(out);
            return Ok(());
        };
        self.windows = windows(pieces);
        self.path = log.dir.join(format!("{last:020}.log"));
        let kind = DiskOpKind::Open { file: FILE, path: self.path.clone(), create: false };
        self.go(State::Opening, kind, out);
        Ok(())
    }

    fn next_window(&mut self, out: &mut Vec<DiskOp>) {
        let Some(window) = self.windows.pop_front() else {
            return self.go(State::Closing, DiskOpKind::Close { file: FILE }, out);
        };
        let (position, len) = (window.start, (window.end - window.start) as usize);
        let into = self.pages.allocate(len).expect("one window is read at a time");
        let kind = DiskOpKind::Read { file: FILE, position, len, into };
        self.go(State::ReadingSegment(window), kind, out);
    }

    /// Writes the window if the segment has something else there.
    fn write_window(&mut self, window: &Window, there: &[u8], out: &mut Vec<DiskOp>) {
        let at = |position: u64| (position - window.start) as usize;
        let has = |piece: &Piece| {
            there.get(at(piece.position)..at(piece.position) + piece.bytes.len())
                == Some(&piece.bytes[..])
        };
        let lacks = window.pieces.iter().filter(|piece| !has(piece)).count();
        if lacks == 0 {
            return self.next_window(out);
        }
        self.rewritten += lacks as u64;
        let mut page = self.pages.allocate(at(window.end)).expect("one is written at a time");
        let spare = &mut page.spare()[..at(window.end)];
        spare[..there.len()].copy_from_slice(there);
        // The file may have ended before.
        spare[there.len()..].fill(0);
        for piece in &window.pieces {
            spare[at(piece.position)..][..piece.bytes.len()].copy_from_slice(&piece.bytes);
        }
        page.advance(at(window.end));
        let mut bytes = Rope::default();
        bytes.push(page.slice(0..page.len()));
        let kind = DiskOpKind::Write { file: FILE, position: window.start, bytes };
        self.go(State::Writing, kind, out);
    }

    fn remove_next(&mut self, out: &mut Vec<DiskOp>) {
        match self.found.pop() {
            Some(path) => {
                self.path.clone_from(&path);
                self.go(State::Removing, DiskOpKind::Remove { path }, out);
            }
            None => {
                self.go(State::SyncingDir, DiskOpKind::SyncDir { path: PathBuf::new() }, out);
            }
        }
    }
}

const METADATA: &str = "partition.metadata";

/// Puts pieces together that lie next to each other.
fn windows(mut pieces: Vec<Piece>) -> VecDeque<Window> {
    // Of two in one place the later one stays behind.
    pieces.sort_by_key(|piece| piece.position);
    let mut windows: VecDeque<Window> = VecDeque::new();
    for piece in pieces {
        let start = align_down(piece.position);
        let end = align_up(piece.position.saturating_add(piece.bytes.len() as u64));
        match windows.back_mut() {
            Some(last) if start <= last.end && last.end - last.start < WINDOW => {
                last.end = last.end.max(end);
                last.pieces.push(piece);
            }
            _ => windows.push_back(Window { start, end, pieces: vec![piece] }),
        }
    }
    windows
}
