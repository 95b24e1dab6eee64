//! A disk for the controller's tests: it does what it is told at once, and a
//! crash keeps any subset of the sectors that were not synced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::rng::Rng;
use crate::effect::disk::{
    DirEntry, DiskCompletion, DiskError, DiskOp, DiskOpKind, DiskOutput, FileId,
};

const SECTOR: usize = 512;

/// A file's bytes as they are read, and as a crash certainly leaves them.
#[derive(Clone, Debug, Default)]
pub struct TestFile {
    pub bytes: Vec<u8>,
    synced: Vec<u8>,
}

/// The disk.
#[derive(Debug)]
pub struct TestDisk {
    pub files: BTreeMap<PathBuf, TestFile>,
    open: BTreeMap<FileId, PathBuf>,
    rng: Rng,
    /// Operations of this name fail like this.
    pub failing: Option<(&'static str, DiskError)>,
}

/// What an operation is called.
pub fn name(kind: &DiskOpKind) -> &'static str {
    match kind {
        DiskOpKind::Open { .. } => "open",
        DiskOpKind::Close { .. } => "close",
        DiskOpKind::Write { .. } => "write",
        DiskOpKind::Read { .. } => "read",
        DiskOpKind::Sync { .. } => "sync",
        DiskOpKind::SyncAll => "sync all",
        DiskOpKind::SyncNew { .. } => "sync new",
        DiskOpKind::Create { .. } => "create",
        DiskOpKind::Allocate { .. } => "allocate",
        DiskOpKind::Truncate { .. } => "truncate",
        DiskOpKind::CreateDir { .. } => "create dir",
        DiskOpKind::SyncDir { .. } => "sync dir",
        DiskOpKind::Rename { .. } => "rename",
        DiskOpKind::Remove { .. } => "remove",
        DiskOpKind::Replace { .. } => "replace",
        DiskOpKind::ReadFile { .. } => "read file",
        DiskOpKind::ListDir { .. } => "list dir",
        DiskOpKind::ReadDir { .. } => "read dir",
        DiskOpKind::Space => "space",
    }
}

impl TestDisk {
    pub fn new(seed: u64) -> Self {
        Self {
            files: BTreeMap::new(),
            open: BTreeMap::new(),
            rng: Rng::stream(seed, "disk"),
            failing: None,
        }
    }

    pub fn perform(&mut self, op: DiskOp) -> DiskCompletion {
        let result = match self.failing {
            Some((failing, error)) if failing == name(&op.kind) => Err(error),
            _ => self.run(op.kind),
        };
        DiskCompletion { tag: op.tag, result }
    }

    fn file(&mut self, file: FileId) -> &mut TestFile {
        let path = &self.open[&file];
        self.files.get_mut(path).expect("an open file is there")
    }

    fn run(&mut self, kind: DiskOpKind) -> Result<DiskOutput, DiskError> {
        match kind {
            DiskOpKind::Open { file, path, create } => {
                assert!(!create && !self.open.contains_key(&file));
                let len = self.files.get(&path).ok_or(DiskError::NotFound)?.bytes.len() as u64;
                self.open.insert(file, path);
                return Ok(DiskOutput::Opened { len });
            }
            DiskOpKind::Close { file } => {
                self.open.remove(&file).expect("only an open file is closed");
            }
            DiskOpKind::Write { file, position, bytes } => {
                assert!(position.is_multiple_of(4096) && bytes.len().is_multiple_of(4096));
                let position = position as usize;
                let content = &mut self.file(file).bytes;
                let end = position + bytes.len();
                content.resize(content.len().max(end), 0);
                content[position..end].copy_from_slice(&bytes.to_vec());
                return Ok(DiskOutput::Written { bytes });
            }
            DiskOpKind::Sync { file } => {
                let file = self.file(file);
                file.synced = file.bytes.clone();
            }
            DiskOpKind::Allocate { file, position, len } => {
                let content = &mut self.file(file).bytes;
                content.resize(content.len().max((position + len) as usize), 0);
            }
            DiskOpKind::Truncate { file, len } => self.file(file).bytes.resize(len as usize, 0),
            DiskOpKind::CreateDir { .. } | DiskOpKind::SyncDir { .. } => {}
            DiskOpKind::Remove { path } => {
                assert!(!self.open.values().any(|open| *open == path));
                self.files.remove(&path);
            }
            DiskOpKind::Replace { path, bytes } => {
                self.files.insert(path, TestFile { synced: bytes.clone(), bytes });
            }
            DiskOpKind::ReadFile { path } => {
                let file = self.files.get(&path).ok_or(DiskError::NotFound)?;
                return Ok(DiskOutput::Content(file.bytes.clone()));
            }
            DiskOpKind::Space => unreachable!("the controller does not measure the disk"),
            DiskOpKind::ListDir { path } => {
                let inside = self.files.iter().filter(|(file, _)| file.parent() == Some(&path));
                let entries = inside.map(|(file, content)| DirEntry {
                    name: file.file_name().expect("a file has a name").to_string_lossy().into(),
                    is_dir: false,
                    len: content.bytes.len() as u64,
                });
                return Ok(DiskOutput::Entries(entries.collect()));
            }
            kind @ (DiskOpKind::Read { .. }
            | DiskOpKind::Rename { .. }
            | DiskOpKind::SyncAll
            | DiskOpKind::SyncNew { .. }
            | DiskOpKind::ReadDir { .. }
            | DiskOpKind::Create { .. }) => {
                panic!("the controller asks for no {}", name(&kind))
            }
        }
        Ok(DiskOutput::Done)
    }

    /// The power goes, while `in_flight` may or may not have been done.
    pub fn crash(&mut self, in_flight: Option<DiskOp>) {
        if let Some(op) = in_flight
            && self.rng.chance(1, 2)
        {
            self.perform(op);
        }
        self.open.clear();
        for file in self.files.values_mut() {
            let kept_len = if self.rng.chance(1, 2) { file.bytes.len() } else { file.synced.len() };
            let mut kept = file.synced.clone();
            kept.resize(kept_len, 0);
            for start in (0..kept_len.min(file.bytes.len())).step_by(SECTOR) {
                let end = (start + SECTOR).min(kept_len).min(file.bytes.len());
                if self.rng.chance(1, 2) {
                    kept[start..end].copy_from_slice(&file.bytes[start..end]);
                }
            }
            *file = TestFile { synced: kept.clone(), bytes: kept };
        }
    }

    /// The bytes of the only segment.
    pub fn segment(&mut self) -> &mut Vec<u8> {
        let is_segment = |path: &Path| path.to_string_lossy().contains("log-");
        let mut segments = self.files.iter_mut().filter(|(path, _)| is_segment(path));
        let (_, file) = segments.next().expect("there is a segment");
        assert!(segments.next().is_none(), "there is one segment");
        &mut file.bytes
    }
}
