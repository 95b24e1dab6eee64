//! A disk in memory for unit tests: it does what it is told, in order and at
//! once, unless the test holds an operation back or lets it fail.
//!
//! It loses nothing: what a crash leaves is for the simulator.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::disk::{DirEntry, DiskCompletion, DiskError, DiskOp, DiskOpKind, DiskOutput, FileId};
use crate::base::pages::BLOCK;

/// Says which operations are meant.
pub type Which = fn(&DiskOpKind) -> bool;

/// The disk, and the operations it holds back.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    /// Contents by path.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Directories but for the root.
    pub dirs: BTreeSet<PathBuf>,
    open: BTreeMap<FileId, PathBuf>,
    /// Operations of this kind wait for [`MemoryDisk::release`].
    pub hold: Option<Which>,
    held: Vec<DiskOp>,
    /// Operations of this kind fail like this.
    pub fail: Option<(Which, DiskError)>,
    /// Total and usable bytes; plenty if not said.
    pub space: Option<(u64, u64)>,
}

impl MemoryDisk {
    /// The disk as another process finds it.
    pub fn reopened(&self) -> Self {
        Self { files: self.files.clone(), dirs: self.dirs.clone(), ..Self::default() }
    }

    /// Carries out `op`, or keeps it.
    pub fn perform(&mut self, op: DiskOp) -> Option<DiskCompletion> {
        if self.hold.is_some_and(|hold| hold(&op.kind)) {
            self.held.push(op);
            return None;
        }
        Some(self.complete(op))
    }

    /// Carries out what was held back, and holds nothing any more.
    pub fn release(&mut self) -> Vec<DiskCompletion> {
        self.hold = None;
        let held = std::mem::take(&mut self.held);
        held.into_iter().map(|op| self.complete(op)).collect()
    }

    /// How many operations wait.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many files are open.
    pub fn open_files(&self) -> usize {
        self.open.len()
    }

    fn complete(&mut self, op: DiskOp) -> DiskCompletion {
        let result = match self.fail {
            Some((fails, error)) if fails(&op.kind) => Err(error),
            _ => self.run(op.kind),
        };
        DiskCompletion { tag: op.tag, result }
    }

    fn content(&mut self, file: FileId) -> &mut Vec<u8> {
        let path = self.open.get(&file).expect("an operation names an open file");
        self.files.get_mut(path).expect("an open file is there")
    }

    fn run(&mut self, kind: DiskOpKind) -> Result<DiskOutput, DiskError> {
        match kind {
            DiskOpKind::Open { file, path, create } => {
                let parent = path.parent().expect("a path in the log directory");
                if !self.is_dir(parent) || !(create || self.files.contains_key(&path)) {
                    return Err(DiskError::NotFound);
                }
                let len = self.files.entry(path.clone()).or_default().len() as u64;
                let before = self.open.insert(file, path);
                assert!(before.is_none(), "{file:?} is open already");
                return Ok(DiskOutput::Opened { len });
            }
            DiskOpKind::Close { file } => {
                self.open.remove(&file).expect("a close names an open file");
            }
            DiskOpKind::Write { file, position, bytes } => {
                let at = position as usize;
                assert!(at.is_multiple_of(BLOCK) && bytes.len().is_multiple_of(BLOCK));
                let content = self.content(file);
                content.resize(content.len().max(at + bytes.len()), 0);
                content[at..at + bytes.len()].copy_from_slice(&bytes.to_vec());
                return Ok(DiskOutput::Written { bytes });
            }
            DiskOpKind::Read { file, position, len, into: mut page } => {
                let at = position as usize;
                assert!(at.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK));
                let content = self.content(file);
                page.put(&content[at.min(content.len())..(at + len).min(content.len())]);
                return Ok(DiskOutput::Read { page });
            }
            DiskOpKind::Sync { file } => drop(self.content(file)),
            DiskOpKind::SyncAll => {}
            DiskOpKind::Create { path, .. }
                if !path.parent().is_some_and(|dir| self.is_dir(dir)) =>
            {
                return Err(DiskError::NotFound);
            }
            DiskOpKind::Create { path, bytes } => drop(self.files.insert(path, bytes)),
            DiskOpKind::Allocate { file, position, len } => {
                let content = self.content(file);
                content.resize(content.len().max((position + len) as usize), 0);
            }
            DiskOpKind::Truncate { file, len } => self.content(file).resize(len as usize, 0),
            DiskOpKind::CreateDir { path } => drop(self.dirs.insert(path)),
            DiskOpKind::SyncDir { path } | DiskOpKind::SyncNew { path } if self.is_dir(&path) => {}
            DiskOpKind::SyncDir { .. } | DiskOpKind::SyncNew { .. } => {
                return Err(DiskError::NotFound);
            }
            DiskOpKind::Rename { from, to } => return self.rename(&from, &to),
            DiskOpKind::Remove { path } => {
                assert!(!self.open.values().any(|open| open.starts_with(&path)), "in use");
                self.files.retain(|file, _| !file.starts_with(&path));
                self.dirs.retain(|dir| !dir.starts_with(&path));
            }
            DiskOpKind::Replace { path, bytes } => drop(self.files.insert(path, bytes)),
            DiskOpKind::ReadFile { path } => {
                let content = self.files.get(&path).ok_or(DiskError::NotFound)?;
                return Ok(DiskOutput::Content(content.clone()));
            }
            DiskOpKind::ListDir { path } => return self.list(&path).map(DiskOutput::Entries),
            DiskOpKind::ReadDir { path } => {
                let entries = self.list(&path)?;
                return DiskOutput::dir(entries, |name| Ok(self.files[&path.join(name)].clone()));
            }
            DiskOpKind::Space => {
                let (total, usable) = self.space.unwrap_or((1 << 40, 1 << 40));
                return Ok(DiskOutput::Space { total, usable });
            }
        }
        Ok(DiskOutput::Done)
    }

    fn is_dir(&self, path: &Path) -> bool {
        path == Path::new("") || self.dirs.contains(path)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<DiskOutput, DiskError> {
        if !self.dirs.contains(from) && !self.files.contains_key(from) {
            return Err(DiskError::NotFound);
        }
        let moved = |path: PathBuf| match path.strip_prefix(from) {
            Ok(rest) if rest == Path::new("") => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => path,
        };
        let files = std::mem::take(&mut self.files);
        self.files = files.into_iter().map(|(path, bytes)| (moved(path), bytes)).collect();
        self.dirs = std::mem::take(&mut self.dirs).into_iter().map(moved).collect();
        for path in self.open.values_mut() {
            *path = moved(std::mem::take(path));
        }
        Ok(DiskOutput::Done)
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, DiskError> {
        if !self.is_dir(path) {
            return Err(DiskError::NotFound);
        }
        let name = |path: &Path| {
            let name = path.file_name().expect("an entry has a name");
            name.to_string_lossy().into_owned()
        };
        let inside = |entry: &Path| entry.parent() == Some(path);
        let dirs = self.dirs.iter().filter(|dir| inside(dir));
        let dirs = dirs.map(|dir| DirEntry { name: name(dir), is_dir: true, len: 0 });
        let files = self.files.iter().filter(|(file, _)| inside(file));
        let files = files.map(|(file, content)| DirEntry {
            name: name(file),
            is_dir: false,
            len: content.len() as u64,
        });
        let mut entries: Vec<DirEntry> = dirs.chain(files).collect();
        entries.sort_unstable();
        Ok(entries)
    }
}
