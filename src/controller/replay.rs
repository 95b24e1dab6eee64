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
use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};

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
    #[error(
        "{} is corrupt: {error}. Restore the file; or remove journal.{core}.0 and journal.{core}.1 to start without the acknowledged batches that only they have",
        journal::file_name(*core, error.which)
    )]
    Corrupt {
        /// Whose it is.
        core: u16,
        /// Where.
        error: Damaged,
    },
    /// A segment is gone whose records a journal has.
    #[error(
        "{path} is missing, and a journal has batches of it. Restore the file; or remove all journal.* files to start without the acknowledged batches that only they have",
        path = .0.display()
    )]
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
                let partition = PartitionIndex(index);
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::base::pages::BLOCK;
    use crate::effect::memory_disk::{MemoryDisk, Which};
    use crate::log::journal::{Record, beginning};
    use crate::metadata::image::{Partition, Topic};
    use crate::model::ids::{CoreId, LeaderEpoch, NodeId};

    const SEGMENT: &str = "00000000000000000000.log";

    fn log(topic: u8) -> TopicPartition {
        TopicPartition { topic: TopicId([topic; 16]), partition: PartitionIndex(0) }
    }

    /// With the topics `t1` to `t3`, of one partition each.
    fn image() -> Image {
        let mut image = Image::empty("c".into(), NodeId(1));
        for topic in 1..=3 {
            let partition = Partition {
                core: CoreId(0),
                replicas: vec![NodeId(1)],
                isr: vec![NodeId(1)],
                leader: Some(NodeId(1)),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: 0,
            };
            image.insert_topic(Arc::new(Topic {
                id: log(topic).topic,
                name: format!("t{topic}").as_str().into(),
                partitions: vec![partition],
                configs: BTreeMap::new(),
            }));
        }
        image
    }

    /// A disk on which each topic has a segment of `len` bytes.
    fn disk(len: usize) -> MemoryDisk {
        let mut disk = MemoryDisk::default();
        for topic in 1..=3 {
            let dir = PathBuf::from(format!("t{topic}-0"));
            let metadata = format!("version: 0\ntopic_id: {}\n", log(topic).topic);
            disk.files.insert(dir.join(METADATA), metadata.into_bytes());
            disk.files.insert(dir.join(SEGMENT), vec![b'.'; len]);
            disk.dirs.insert(dir);
        }
        disk
    }

    /// Topic, segment, position, text.
    type Text<'a> = (u8, i64, u64, &'a str);

    /// A file of this epoch, after one of so many records, of records of these pieces.
    fn file(epoch: u64, before: u64, records: &[&[Text<'_>]]) -> Vec<u8> {
        let mut bytes = beginning(epoch, before).to_vec();
        for (pieces, number) in records.iter().zip(1..) {
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            let mut record = Record::default();
            record.clear();
            for (topic, segment, position, text) in *pieces {
                let parts = [text.as_bytes()].into_iter();
                record.push(log(*topic), *segment, *position, text.len() as u32, parts);
            }
            bytes.extend_from_slice(record.finish(epoch, number));
        }
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    /// The same of one record.
    fn record(pieces: &[Text<'_>]) -> Vec<u8> {
        file(1, 0, &[pieces])
    }

    /// Replays, and stops before operation `stop`. True if it came to its end.
    fn replay(disk: &mut MemoryDisk, stop: usize) -> Result<bool, ReplayError> {
        let (mut replay, mut ops) = (Replay::new(), vec![]);
        replay.begin(&image(), &mut ops);
        for _ in 0..stop {
            let Some(op) = ops.pop() else { break };
            assert!(ops.is_empty(), "one operation is in flight");
            let done = disk.perform(op).expect("nothing is held back");
            replay.completed(done, &mut ops)?;
        }
        Ok(replay.is_done())
    }

    fn replay_all(disk: &mut MemoryDisk) -> Result<(), ReplayError> {
        assert!(replay(disk, usize::MAX)?);
        Ok(())
    }

    fn segment(disk: &MemoryDisk, topic: u8) -> &[u8] {
        &disk.files[&Path::new(&format!("t{topic}-0")).join(SEGMENT)]
    }

    fn text_at(disk: &MemoryDisk, topic: u8, position: usize, len: usize) -> String {
        String::from_utf8_lossy(&segment(disk, topic)[position..position + len]).into_owned()
    }

    fn has_journals(disk: &MemoryDisk) -> bool {
        disk.files.keys().any(|path| path.to_string_lossy().starts_with("journal."))
    }

    /// Two cores' journals, one of them with an older and a newer file.
    fn journals(disk: &mut MemoryDisk) {
        let across = BLOCK as u64 - 2;
        let older = file(4, 9, &[&[(1, 0, 10, "old!"), (2, 0, across, "abcd")]]);
        let newer: [&[Text<'_>]; 2] =
            [&[(1, 0, 10, "new!"), (2, 0, across + 4, "efgh")], &[(1, 0, 14, "more")]];
        disk.files.insert("journal.0.1".into(), older);
        disk.files.insert("journal.0.0".into(), file(5, 2, &newer));
        disk.files.insert("journal.7.0".into(), record(&[(3, 0, 0, "first")]));
        disk.files.insert("journal.7.1".into(), vec![]);
    }

    fn assert_replayed(disk: &MemoryDisk) {
        assert_eq!(text_at(disk, 1, 9, 10), ".new!more.");
        assert_eq!(text_at(disk, 2, BLOCK - 3, 10), ".abcdefgh.");
        assert_eq!(text_at(disk, 3, 0, 6), "first.");
    }

    #[test]
    fn without_journals_nothing_is_done() {
        let mut disk = disk(BLOCK);
        let before = disk.files.clone();
        assert_eq!(replay(&mut disk, 1), Ok(true), "one look");
        assert_eq!(disk.files, before);
    }

    #[test]
    fn what_journals_have_goes_where_it_belongs_wherever_it_is_stopped() {
        let mut whole = disk(3 * BLOCK);
        journals(&mut whole);
        replay_all(&mut whole).expect("it works");
        assert_replayed(&whole);
        assert!(!has_journals(&whole) && whole.open_files() == 0);
        let mut stops = 0;
        loop {
            let mut stopped = disk(3 * BLOCK);
            journals(&mut stopped);
            let ended = replay(&mut stopped, stops).expect("it works");
            let mut again = stopped.reopened();
            replay_all(&mut again).expect("it works");
            assert_replayed(&again);
            assert_eq!(again.files, whole.files, "stopped before operation {stops}");
            if ended {
                break;
            }
            stops += 1;
        }
        assert!(stops > 25, "{stops} operations");
    }

    #[test]
    fn a_segment_that_ends_before_a_piece_is_filled_up() {
        let mut disk = disk(10);
        disk.files.insert("journal.0.0".into(), record(&[(1, 0, 10, "tail")]));
        replay_all(&mut disk).expect("it works");
        assert_eq!(text_at(&disk, 1, 0, 14), "..........tail");
        assert!(segment(&disk, 1)[14..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_segments_have_is_not_written_again() {
        let mut disk = disk(BLOCK);
        disk.files.insert("journal.0.0".into(), record(&[(1, 0, 3, "....")]));
        disk.fail = Some((|kind| matches!(kind, DiskOpKind::Write { .. }), DiskError::Io(5)));
        replay_all(&mut disk).expect("nothing is written");
        assert!(!has_journals(&disk));
    }

    #[test]
    fn nothing_comes_back_of_what_is_gone() {
        let pieces = [(1, 0, 0, "sealed"), (2, 0, 0, "deleted"), (9, 0, 0, "unknown")];
        let mut disk = disk(BLOCK);
        disk.files.insert("journal.0.0".into(), record(&pieces));
        // A later segment proves the earlier ones; a directory was made again.
        disk.files.insert("t1-0/00000000000000000007.log".into(), vec![]);
        let other = format!("version: 0\ntopic_id: {}\n", log(8).topic);
        disk.files.insert(Path::new("t2-0").join(METADATA), other.into_bytes());
        let before = disk.files.clone();
        replay_all(&mut disk).expect("it works");
        disk.files.insert("journal.0.0".into(), record(&pieces));
        assert_eq!(disk.files, before);
    }

    #[test]
    fn damage_is_named_and_nothing_changes() {
        let mut damaged = file(1, 0, &[&[(1, 0, 0, "text")], &[(1, 0, 4, "more")]]);
        damaged[BLOCK + 60] ^= 1;
        let newer = record(&[(1, 500, 0, "text")]);
        for (journal, says) in
            [(damaged, "journal.0.0 is corrupt"), (newer, "00500.log is missing")]
        {
            let mut disk = disk(BLOCK);
            disk.files.insert("journal.0.0".into(), journal);
            let before = disk.files.clone();
            let error = replay_all(&mut disk).expect_err("it is damaged").to_string();
            assert!(error.contains(says) && error.contains("remove"), "{error}");
            assert_eq!(disk.files, before);
        }
    }

    #[test]
    fn an_operation_that_fails_is_final_and_named() {
        let fails: [(Which, &str); 5] = [
            (|kind| matches!(kind, DiskOpKind::Write { .. }), "writing t1-0/"),
            (|kind| matches!(kind, DiskOpKind::Read { .. }), "reading t1-0/"),
            (|kind| matches!(kind, DiskOpKind::SyncAll), "syncing"),
            (|kind| matches!(kind, DiskOpKind::ReadFile { .. }), "reading journal.0.0"),
            (|kind| matches!(kind, DiskOpKind::ListDir { .. }), "listing"),
        ];
        for (fails, says) in fails {
            let mut disk = disk(BLOCK);
            disk.files.insert("journal.0.0".into(), record(&[(1, 0, 0, "text")]));
            disk.fail = Some((fails, DiskError::Io(5)));
            let error = replay_all(&mut disk).expect_err("it fails").to_string();
            assert!(error.contains(says), "{error}");
            assert!(has_journals(&disk));
        }
    }
}
