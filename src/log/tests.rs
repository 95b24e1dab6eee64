//! Stories of one log on a disk in memory: what recovery cuts, what it refuses
//! to cut, and what a full or failing disk does.

mod compaction;
mod damage;
mod groups;
mod lookup;
mod retention;
mod roll;
mod space;
mod start;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::io::{FileIds, LogIo, LogSlot, WantedSync, untag};
use super::{AppendError, Appended, Found, Log, LogConfig, Offline, Read};
use crate::base::limits::LOG_UNSYNCED_MAX;
use crate::base::pages::{BLOCK, PagePool};
use crate::base::rope::Rope;
use crate::base::time::UnixMillis;
use crate::effect::disk::{DirEntry, DiskError, DiskOp, DiskOpKind, DiskOutput, FileId};
use crate::model::batch::{BatchHeader, batch_crc};
use crate::model::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use crate::model::record::{BatchBuilder, Codec};

const ROOM: u64 = u64::MAX;
const DIR: &str = "t-0";
const CONFIG: LogConfig = LogConfig {
    segment_bytes: 1 << 20,
    flush_messages: 1,
    index_interval_bytes: 32 << 10,
    segment_index_bytes: 10 << 20,
    segment_ms: i64::MAX as u64,
    segment_jitter_ms: 0,
    append_time: false,
    producer_expiration_ms: 86_400_000,
};

/// Files and what goes wrong with them. Every operation completes in order.
#[derive(Default)]
struct Disk {
    files: BTreeMap<PathBuf, Vec<u8>>,
    open: BTreeMap<FileId, PathBuf>,
    /// What was removed since a directory was synced: a loss of power may bring
    /// any of it back.
    removed: BTreeMap<PathBuf, Vec<u8>>,
    /// Fails every operation that this says of.
    fail: Option<fn(&DiskOpKind) -> Option<DiskError>>,
}

impl Disk {
    fn perform(&mut self, kind: DiskOpKind) -> Result<DiskOutput, DiskError> {
        if let Some(error) = self.fail.and_then(|fail| fail(&kind)) {
            return Err(error);
        }
        let done = Ok(DiskOutput::Done);
        match kind {
            DiskOpKind::Open { file, path, create } => {
                if !create && !self.files.contains_key(&path) {
                    return Err(DiskError::NotFound);
                }
                let len = self.files.entry(path.clone()).or_default().len() as u64;
                self.open.insert(file, path);
                Ok(DiskOutput::Opened { len })
            }
            DiskOpKind::Close { file } => {
                self.open.remove(&file);
                done
            }
            DiskOpKind::Write { file, position, bytes } => {
                let (at, new) = (position as usize, bytes.to_vec());
                let content = self.content(file);
                content.resize(content.len().max(at + new.len()), 0);
                content[at..at + new.len()].copy_from_slice(&new);
                Ok(DiskOutput::Written { bytes })
            }
            DiskOpKind::Read { file, position, len, into: mut page } => {
                let content = self.content(file);
                let at = (position as usize).min(content.len());
                page.put(&content[at..(at + len).min(content.len())]);
                Ok(DiskOutput::Read { page })
            }
            DiskOpKind::Allocate { file, position, len } => {
                let content = self.content(file);
                content.resize(content.len().max((position + len) as usize), 0);
                done
            }
            DiskOpKind::Truncate { file, len } => {
                self.content(file).resize(len as usize, 0);
                done
            }
            DiskOpKind::SyncDir { .. } | DiskOpKind::SyncNew { .. } | DiskOpKind::SyncAll => {
                self.removed.clear();
                done
            }
            DiskOpKind::Sync { .. } | DiskOpKind::CreateDir { .. } => done,
            DiskOpKind::Rename { from, to } => {
                let moved: Vec<PathBuf> =
                    self.files.keys().filter(|path| path.starts_with(&from)).cloned().collect();
                for path in moved {
                    let rest = path.strip_prefix(&from).expect("filtered by it").to_owned();
                    let content = self.files.remove(&path).expect("just listed");
                    self.files.insert(to.join(rest), content);
                }
                done
            }
            DiskOpKind::Remove { path } => {
                let gone = self.files.extract_if(.., |file, _| file.starts_with(&path));
                self.removed.extend(gone);
                done
            }
            DiskOpKind::Replace { path, bytes } | DiskOpKind::Create { path, bytes } => {
                self.files.insert(path, bytes);
                done
            }
            DiskOpKind::ReadFile { path } => {
                let content = self.files.get(&path).cloned();
                content.map(DiskOutput::Content).ok_or(DiskError::NotFound)
            }
            DiskOpKind::ListDir { .. } => unreachable!("a log reads what it lists"),
            DiskOpKind::ReadDir { path } => {
                let entries = self.list(&path)?;
                DiskOutput::dir(entries, |name| Ok(self.files[&path.join(name)].clone()))
            }
            DiskOpKind::Space => unreachable!("a log does not measure the disk"),
        }
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>, DiskError> {
        let entry = |(path, content): (&PathBuf, &Vec<u8>)| DirEntry {
            name: path.file_name().expect("files have names").to_string_lossy().into_owned(),
            is_dir: false,
            len: content.len() as u64,
        };
        let inside = self.files.iter().filter(|(path, _)| path.starts_with(dir));
        let entries: Vec<DirEntry> = inside.map(entry).collect();
        if entries.is_empty() {
            return Err(DiskError::NotFound);
        }
        Ok(entries)
    }

    fn content(&mut self, file: FileId) -> &mut Vec<u8> {
        self.files.get_mut(&self.open[&file]).expect("open files are there")
    }

    fn segments(&self) -> impl Iterator<Item = &Vec<u8>> {
        let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
        self.files.iter().filter(move |(path, _)| is_log(path)).map(|(_, content)| content)
    }

    fn log_bytes(&self) -> usize {
        self.segments().map(Vec::len).sum()
    }

    fn segment(&mut self, base: i64) -> &mut Vec<u8> {
        self.files.get_mut(&segment_path(base)).expect("the segment is there")
    }
}

fn segment_path(base: i64) -> PathBuf {
    Path::new(DIR).join(format!("{base:020}.log"))
}

/// A log and all it stands on.
struct Bench {
    disk: Disk,
    pages: PagePool,
    files: FileIds,
    ops: Vec<DiskOp>,
    log: Log,
    room: u64,
}

fn id() -> TopicPartition {
    TopicPartition { topic: TopicId([7; 16]), partition: PartitionIndex(0) }
}

impl Bench {
    fn open(disk: Disk, recovery_point: i64, clean: bool) -> Self {
        Self::with(CONFIG, disk, recovery_point, clean)
    }

    fn with(config: LogConfig, disk: Disk, recovery_point: i64, clean: bool) -> Self {
        let (mut pages, mut files, mut ops) =
            (PagePool::new(256 << 20), FileIds::default(), vec![]);
        let mut syncs = vec![];
        let mut io = LogIo {
            disk: &mut ops,
            syncs: &mut syncs,
            pages: &mut pages,
            files: &mut files,
            room: ROOM,
            may_read: true,
            groups: None,
        };
        let log = {
            let found = Found { recovery_point, clean, closed: None };
            Log::open(LogSlot(0), id(), DIR.into(), config, found, &mut io)
        };
        let mut bench = Self { disk, pages, files, ops, log, room: ROOM };
        bench.settle();
        bench
    }

    fn new() -> Self {
        Self::open(Disk::default(), 0, true)
    }

    fn io<T>(&mut self, call: impl FnOnce(&mut Log, &mut LogIo<'_>) -> T) -> T {
        let room = self.room;
        let mut syncs = vec![];
        let mut io = LogIo {
            disk: &mut self.ops,
            syncs: &mut syncs,
            pages: &mut self.pages,
            files: &mut self.files,
            room,
            may_read: true,
            groups: None,
        };
        let result = call(&mut self.log, &mut io);
        self.ops.extend(syncs.into_iter().map(WantedSync::alone));
        result
    }

    /// Performs until nothing is in flight.
    fn settle(&mut self) {
        while !self.ops.is_empty() {
            for op in std::mem::take(&mut self.ops) {
                let (_, what) = untag(op.tag);
                let result = self.disk.perform(op.kind);
                self.io(|log, io| log.on_disk(what, result, io));
            }
        }
    }

    fn append(&mut self, batch: &[u8]) -> Result<Appended, AppendError> {
        let header = BatchHeader::decode(batch).expect("a whole batch");
        let epoch = LeaderEpoch(0);
        let appended = self.io(|log, io| log.append(UnixMillis(0), &header, batch, epoch, io));
        self.io(|log, io| log.flush(io));
        self.settle();
        appended
    }

    fn fill(&mut self, batches: i64) {
        for _ in 0..batches {
            let appended = self.append(&batch(8_000)).expect("the log takes it");
            assert_eq!(self.log.committed().offset, appended.next_offset);
        }
    }

    /// All bytes from `offset` on, read as a consumer would.
    fn read(&mut self, mut offset: i64) -> Vec<u8> {
        let mut all = vec![];
        loop {
            let end = self.log.committed();
            let mut rope = Rope::default();
            match self.io(|log, io| log.read(offset, 100_000, true, end, &mut rope, io)) {
                Read::Wait => self.settle(),
                Read::Done if rope.is_empty() => return all,
                Read::Done => {
                    let (mut bytes, whole) = (rope.to_vec(), all.len());
                    all.append(&mut bytes);
                    let mut at = whole;
                    while let Some(header) = BatchHeader::decode(&all[at..])
                        && let Some(len) = header.total_len()
                        && at + len <= all.len()
                    {
                        assert_eq!(header.crc, batch_crc(&all[at..at + len]));
                        offset = header.next_offset();
                        at += len;
                    }
                    all.truncate(at);
                }
                other => panic!("{other:?} at {offset}"),
            }
        }
    }

    fn count(&mut self) -> usize {
        self.read(0).len() / batch(8_000).len()
    }

    fn crash(self) -> Disk {
        Disk { open: BTreeMap::new(), removed: BTreeMap::new(), ..self.disk }
    }

    fn corrupt(&self) -> &str {
        match self.log.offline() {
            Some(Offline::Corrupt(why)) => why,
            other => panic!("not corrupt: {other:?}"),
        }
    }
}

fn batch(value: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(1_000, None, Some(&vec![b'v'; value]), &[]);
    builder.finish()
}

#[test]
fn appends_are_read_back_from_memory_and_from_disk_over_segments() {
    let mut bench = Bench::new();
    bench.fill(300);
    let warm = bench.read(0);
    assert_eq!(bench.count(), 300);
    assert!(bench.disk.segments().count() > 2);
    bench.io(|log, _| log.evict(usize::MAX) + log.evict_cold(0));
    assert!(bench.read(0) == warm, "cold bytes are the warm ones");
    assert_eq!(bench.read(299).len(), batch(8_000).len());
}

#[test]
fn a_clean_close_leaves_exact_files_and_opens_without_recovery() {
    let mut bench = Bench::new();
    bench.fill(200);
    bench.io(|log, io| log.close(io));
    bench.settle();
    assert!(bench.log.is_closed() && bench.log.recovery_point() == 200);
    assert_eq!(bench.disk.log_bytes(), 200 * batch(8_000).len());
    let mut again = Bench::open(bench.crash(), 200, true);
    assert_eq!((again.log.log_end_offset(), again.count()), (200, 200));
    again.fill(1);
    assert_eq!(again.count(), 201);
}

#[test]
fn a_torn_end_is_cut_wherever_it_tears() {
    let mut bench = Bench::new();
    bench.fill(10);
    let len = batch(8_000).len();
    let disk = bench.crash();
    for torn in [1, 60, 61, 62, 4_096, len - 2] {
        let mut files = disk.files.clone();
        let segment = files.get_mut(&segment_path(0)).expect("it is there");
        segment[9 * len + torn..].fill(0);
        let mut again = Bench::open(Disk { files, ..Disk::default() }, 0, false);
        assert_eq!(again.count(), 9, "torn after {torn} bytes");
        let left = &again.disk.segment(0)[9 * len..];
        assert!(left.len() < BLOCK && left.iter().all(|byte| *byte == 0), "behind the end");
        again.fill(3);
        assert_eq!(again.count(), 12);
    }
}

#[test]
fn a_stale_batch_at_the_expected_offset_never_comes_back() {
    let mut bench = Bench::new();
    bench.fill(10);
    let len = batch(8_000).len();
    let mut disk = bench.crash();
    // The ninth batch is torn; the tenth, whole, lies where it always lay.
    disk.segment(0)[8 * len + 100] ^= 1;
    let mut again = Bench::open(disk, 0, false);
    assert_eq!(again.count(), 8);
    again.fill(1);
    // Had the tenth been left there, it would now be next.
    let mut third = Bench::open(again.crash(), 0, false);
    assert_eq!(third.count(), 9);
}

#[test]
fn damage_below_the_recovery_point_is_never_cut() {
    let mut bench = Bench::new();
    bench.fill(10);
    let mut disk = bench.crash();
    disk.segment(0)[300] ^= 1;
    let before = disk.segment(0).clone();
    let mut again = Bench::open(disk, 5, false);
    assert!(again.corrupt().contains("5 were durable"), "{}", again.corrupt());
    assert_eq!(*again.disk.segment(0), before);
    assert_eq!(again.append(&batch(10)), Err(AppendError::Unavailable));
}

#[test]
fn damage_with_valid_batches_far_behind_is_never_cut() {
    let mut bench = Bench::new();
    bench.log.config.segment_bytes = 1 << 30;
    let large = batch(1 << 20);
    for _ in 0..LOG_UNSYNCED_MAX / large.len() + 6 {
        bench.append(&large).expect("the log takes it");
    }
    let mut disk = bench.crash();
    disk.segment(0)[large.len() + 500] ^= 1;
    let again = Bench::open(disk, 0, false);
    assert!(again.corrupt().contains("with whole ones at"), "{}", again.corrupt());
}

#[test]
fn a_hole_between_segments_is_corruption() {
    let mut bench = Bench::new();
    bench.fill(300);
    let mut disk = bench.crash();
    let len = disk.segment(0).len();
    disk.segment(0)[len - 100..].fill(0);
    assert!(Bench::open(disk, 0, false).corrupt().contains("another follows"));
}

#[test]
fn missing_or_damaged_side_files_are_made_again() {
    let mut bench = Bench::new();
    bench.fill(300);
    bench.io(|log, io| log.close(io));
    bench.settle();
    let whole = bench.crash();
    for damage in ["index", "snapshot", "leader-epoch-checkpoint"] {
        let mut files = whole.files.clone();
        for (path, content) in &mut files {
            if path.to_string_lossy().ends_with(damage) {
                *content = b"nonsense".to_vec();
            }
        }
        for clean in [true, false] {
            let disk = Disk { files: files.clone(), ..Disk::default() };
            let mut again = Bench::open(disk, 300, clean);
            assert_eq!(again.count(), 300, "{damage}, clean {clean}");
            again.fill(1);
        }
    }
}

#[test]
fn an_index_that_leads_too_far_hides_nothing_from_recovery() {
    let mut bench = Bench::new();
    bench.fill(20);
    bench.io(|log, io| log.close(io));
    bench.settle();
    let mut disk = bench.crash();
    let is_index = |path: &PathBuf| path.extension().is_some_and(|name| name == "index");
    let index = disk.files.iter_mut().find(|(path, _)| is_index(path)).expect("a closed log").1;
    // Its only entry names the batch behind its own.
    let position = u32::from_be_bytes(*index[4..].first_chunk().expect("an entry"));
    index.truncate(4);
    index.extend_from_slice(&(position + batch(8_000).len() as u32).to_be_bytes());
    let mut again = Bench::open(disk, 20, false);
    assert_eq!(again.count(), 20);
    assert!(!again.log.segments[0].index_doubted);
}

#[test]
fn lost_leader_epochs_are_written_again() {
    let mut bench = Bench::new();
    bench.fill(3);
    let mut disk = bench.crash();
    let is_epochs = |path: &Path| path.ends_with("leader-epoch-checkpoint");
    disk.files.retain(|path, _| !is_epochs(path));
    let mut again = Bench::open(disk, 0, false);
    again.io(|log, io| log.close(io));
    again.settle();
    assert!(again.crash().files.keys().any(|path| is_epochs(path)));
}

#[test]
fn lost_segments_and_lost_metadata_are_corruption() {
    let disk = Disk::default();
    assert!(Bench::open(disk, 7, false).corrupt().contains("7 offsets"));
    let mut bench = Bench::new();
    bench.fill(1);
    let mut disk = bench.crash();
    disk.files.remove(&Path::new(DIR).join("partition.metadata"));
    assert!(Bench::open(disk, 0, false).corrupt().contains("partition.metadata"));
}

#[test]
fn the_log_of_a_deleted_topic_is_moved_out_of_the_way() {
    let mut bench = Bench::new();
    bench.fill(2);
    let mut disk = bench.crash();
    let metadata = Path::new(DIR).join("partition.metadata");
    disk.files.insert(
        metadata,
        b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ\n"
            .to_vec(),
    );
    let mut again = Bench::open(disk, 0, false);
    assert_eq!(again.log.log_end_offset(), 0);
    again.fill(1);
    assert!(again.disk.files.keys().any(|path| path.to_string_lossy().contains("-stray/")));
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let mut bench = Bench::new();
    bench.fill(2);
    bench.disk.fail =
        Some(|kind| matches!(kind, DiskOpKind::Allocate { .. }).then_some(DiskError::NoSpace));
    let mut refused = 0;
    for _ in 0..200 {
        let before = bench.log.log_end_offset();
        match bench.append(&batch(100_000)) {
            Ok(_) if bench.log.is_full() => {
                assert_eq!(bench.log.log_end_offset(), before, "rolled back");
                refused += 1;
            }
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, AppendError::Unavailable);
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && bench.log.offline().is_none());
    bench.disk.fail = None;
    assert!(bench.log.retry_space());
    let end = bench.log.log_end_offset();
    bench.fill(3);
    assert_eq!(bench.log.committed().offset, end + 3);
    let read = bench.read(0);
    let mut again = Bench::open(bench.crash(), 0, false);
    assert!(again.read(0) == read, "what is on disk is what was served");
}

#[test]
fn a_failed_sync_is_final() {
    let mut bench = Bench::new();
    bench.fill(2);
    bench.disk.fail =
        Some(|kind| matches!(kind, DiskOpKind::Sync { .. }).then_some(DiskError::Io(5)));
    bench.append(&batch(10)).expect("it is not known yet");
    assert_eq!(bench.log.committed().offset, 2);
    assert_eq!(bench.log.offline(), Some(&Offline::Directory(DiskError::Io(5))));
    bench.disk.fail = None;
    assert_eq!(bench.append(&batch(10)), Err(AppendError::Unavailable));
    assert_eq!(bench.log.committed().offset, 2);
}

#[test]
fn duplicates_are_known_after_a_crash_and_after_a_clean_stop() {
    let sent = |sequence: i32| {
        let mut builder = BatchBuilder::new(Codec::None).producer(9, 0, sequence);
        builder.push(1_000, None, Some(b"v"), &[]);
        builder.finish()
    };
    for clean in [true, false] {
        let mut bench = Bench::new();
        for sequence in 0..8 {
            bench.append(&sent(sequence)).expect("in order");
        }
        if clean {
            bench.io(|log, io| log.close(io));
            bench.settle();
        }
        let recovery_point = bench.log.recovery_point();
        let mut again = Bench::open(bench.crash(), recovery_point, clean);
        for sequence in 3..8 {
            let appended = again.append(&sent(sequence)).expect("known");
            assert!(appended.duplicate && appended.base_offset == i64::from(sequence));
        }
        assert!(!again.append(&sent(8)).expect("the next one").duplicate);
        assert!(matches!(again.append(&sent(10)), Err(AppendError::Refused(_))));
    }
}

#[test]
fn a_deleted_log_leaves_nothing() {
    let mut bench = Bench::new();
    bench.fill(3);
    bench.io(|log, io| log.delete(io));
    bench.settle();
    assert!(bench.log.is_closed() && bench.log.is_renamed_away());
    assert!(bench.disk.files.is_empty() && bench.disk.open.is_empty());
    assert_eq!(bench.files.open(), 0);
}

#[test]
fn a_log_deleted_at_any_moment_leaves_nothing() {
    for steps in 0..60 {
        let mut bench = Bench::new();
        let large = batch(700_000);
        let header = BatchHeader::decode(&large).expect("a whole batch");
        // Two segments: directories, files and a seal are in the making.
        for _ in 0..2 {
            let epoch = LeaderEpoch(0);
            let append = |log: &mut Log, io: &mut LogIo<'_>| {
                log.append(UnixMillis(0), &header, &large, epoch, io).expect("room");
                log.flush(io);
            };
            bench.io(append);
        }
        for _ in 0..steps {
            if !bench.ops.is_empty() {
                let op = bench.ops.remove(0);
                let result = bench.disk.perform(op.kind);
                bench.io(|log, io| log.on_disk(untag(op.tag).1, result, io));
            }
        }
        bench.io(|log, io| log.delete(io));
        bench.settle();
        assert!(bench.log.is_closed() && bench.log.is_renamed_away(), "after {steps} steps");
        assert!(bench.disk.files.is_empty() && bench.disk.open.is_empty(), "after {steps} steps");
        assert_eq!(bench.files.open(), 0, "after {steps} steps");
    }
}

#[test]
fn a_cold_page_does_not_hide_what_is_written_behind_it() {
    let mut bench = Bench::new();
    bench.fill(2);
    let disk = bench.crash();
    // Loaded anew, so that nothing but the last block is resident.
    let mut bench = Bench::open(disk, 0, false);
    assert_eq!(bench.count(), 2);
    bench.fill(2);
    assert_eq!(bench.count(), 4);
}

#[test]
fn a_directory_without_segments_may_be_a_deleted_topics_too() {
    let mut disk = Disk::default();
    let metadata = Path::new(DIR).join("partition.metadata");
    disk.files.insert(
        metadata,
        b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA\n"
            .to_vec(),
    );
    let mut bench = Bench::open(disk, 0, false);
    bench.fill(2);
    // What was acknowledged is this topic's at the next start.
    let disk = bench.crash();
    let mut bench = Bench::open(disk, 0, false);
    assert_eq!(bench.count(), 2);
}
