//! The log directory: who owns it, which cluster it belongs to, how the last
//! run ended.
//!
//! - `.lock` is locked for as long as the broker runs.
//! - `meta.properties` (Kafka's name and keys) holds the ids. It is made once,
//!   in an empty directory. While a broker runs, and after an unclean stop, it says
//!   version 2: there may be journals, which a binary that knows none must not miss.
//! - `.kafka_cleanshutdown` says that every log was closed. It is removed, and
//!   that made durable, before the first write of the next run.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;
use uuid::Uuid;

use crate::model::ids::NodeId;

const META: &str = "meta.properties";
const CLEAN: &str = ".kafka_cleanshutdown";
const LOCK: &str = ".lock";

/// The first line of `meta.properties`.
const NO_JOURNALS: &str = "version=1";
const JOURNALS: &str = "version=2";

/// A log directory that this process owns.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
    /// `cluster.id`.
    pub cluster_id: String,
    /// `directory.id`.
    pub directory_id: [u8; 16],
    /// Whether the last run closed every log; so it is with a new directory.
    pub clean: bool,
    /// Whether there may be journals: the directory says so.
    pub journals: bool,
    /// `meta.properties` but for its version.
    meta: String,
}

/// Why the directory cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// Another broker has it.
    #[error("{0} is in use by another broker; stop that one, or set log.dirs to another directory")]
    InUse(PathBuf),
    /// It belongs to another node.
    #[error("{dir} belongs to node.id={theirs}, and this broker is node.id={ours}")]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        theirs: String,
        /// Who wants it.
        ours: NodeId,
    },
    /// Its `meta.properties` is not one.
    #[error("{0}: {1}; restore it, or start with an empty log.dirs")]
    BadMeta(PathBuf, String),
    /// There is data and no `meta.properties`.
    #[error("{0} is not empty and has no meta.properties; it is no log directory of corelane")]
    Foreign(PathBuf),
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl DataDir {
    /// Takes the directory, makes what is missing, and notes that from now on it
    /// is not clean.
    pub fn open(path: &Path, node: NodeId) -> Result<Self, DataDirError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        fs::create_dir_all(path).map_err(failed(path))?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(&lock_path)(error)),
        }
        let meta_path = path.join(META);
        let (mut new, mut journals) = (false, false);
        let (cluster_id, directory_id) = match fs::read_to_string(&meta_path) {
            Ok(text) => {
                journals = text.lines().any(|line| line == JOURNALS);
                read_meta(path, &text, node)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut entries = fs::read_dir(path).map_err(failed(path))?;
                if entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOCK)) {
                    return Err(DataDirError::Foreign(path.to_owned()));
                }
                let (cluster, directory) = (Uuid::new_v4(), Uuid::new_v4());
                let text = meta(&cluster.simple().to_string(), node, *directory.as_bytes());
                let text = format!("{NO_JOURNALS}\n{text}");
                replace(path, META, text.as_bytes()).map_err(failed(&meta_path))?;
                new = true;
                (cluster.simple().to_string(), *directory.as_bytes())
            }
            Err(error) => return Err(failed(&meta_path)(error)),
        };
        let clean_path = path.join(CLEAN);
        let clean = match fs::remove_file(&clean_path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => new,
            Err(error) => return Err(failed(&clean_path)(error)),
        };
        sync_dir(path).map_err(failed(path))?;
        let meta = meta(&cluster_id, node, directory_id);
        if !journals {
            match replace(path, META, format!("{JOURNALS}\n{meta}").as_bytes()) {
                Ok(()) => journals = true,
                // The broker starts on a full disk, and makes no journals.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
                Err(error) => return Err(failed(&meta_path)(error)),
            }
        }
        let path = path.to_owned();
        Ok(Self { path, _lock: lock, cluster_id, directory_id, clean, journals, meta })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes durably that every log is closed.
    pub fn mark_clean(&self) -> Result<(), DataDirError> {
        replace(&self.path, META, format!("{NO_JOURNALS}\n{}", self.meta).as_bytes())
            .map_err(|source| DataDirError::Io { path: self.path.join(META), source })?;
        replace(&self.path, CLEAN, b"version=1\n")
            .map_err(|source| DataDirError::Io { path: self.path.join(CLEAN), source })
    }
}

/// Behind the version.
fn meta(cluster_id: &str, node: NodeId, directory: [u8; 16]) -> String {
    let directory = Uuid::from_bytes(directory);
    format!("cluster.id={cluster_id}\nnode.id={node}\ndirectory.id={directory}\n")
}

fn read_meta(dir: &Path, text: &str, node: NodeId) -> Result<(String, [u8; 16]), DataDirError> {
    let path = dir.join(META);
    let bad = |what: &str| DataDirError::BadMeta(path.clone(), what.to_owned());
    let rows: BTreeMap<&str, &str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    let row = |key: &str| rows.get(key).copied().ok_or_else(|| bad(&format!("has no {key}")));
    if !["1", "2"].contains(&row("version")?) {
        return Err(bad("is of another version"));
    }
    let theirs = row("node.id")?;
    if theirs != node.to_string() {
        let (dir, theirs) = (dir.to_owned(), theirs.to_owned());
        return Err(DataDirError::OtherNode { dir, theirs, ours: node });
    }
    let directory_id = Uuid::parse_str(row("directory.id")?);
    let directory_id = directory_id.map_err(|_| bad("has a directory.id that is no UUID"))?;
    Ok((row("cluster.id")?.to_owned(), *directory_id.as_bytes()))
}

/// Replaces a file of the directory, whole or not at all, durably.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_once_owned_once_and_clean_once() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("data");
        let first = DataDir::open(&path, NodeId(1)).expect("an empty directory");
        assert!(first.clean, "there is nothing to check in a new one");
        assert!(matches!(DataDir::open(&path, NodeId(1)), Err(DataDirError::InUse(_))));
        let cluster_id = first.cluster_id.clone();
        let version = || fs::read_to_string(path.join(META)).expect("it is there")[..9].to_owned();
        assert!(first.journals && version() == JOURNALS);
        first.mark_clean().expect("the disk works");
        assert_eq!(version(), NO_JOURNALS);
        drop(first);
        let second = DataDir::open(&path, NodeId(1)).expect("it is free again");
        assert!(second.clean && second.cluster_id == cluster_id);
        drop(second);
        assert!(!DataDir::open(&path, NodeId(1)).expect("it is free again").clean);
        let other = DataDir::open(&path, NodeId(2)).expect_err("another node's");
        assert!(other.to_string().contains("node.id=1"), "{other}");
    }

    #[test]
    fn foreign_and_damaged_directories_are_refused() {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::write(root.path().join("precious"), "data").expect("written");
        let foreign = DataDir::open(root.path(), NodeId(1)).expect_err("not ours");
        assert!(matches!(foreign, DataDirError::Foreign(_)));
        fs::write(root.path().join(META), "version=1\nnode.id=1\n").expect("written");
        let bad = DataDir::open(root.path(), NodeId(1)).expect_err("no ids");
        assert!(bad.to_string().contains("directory.id"), "{bad}");
    }
}
