//! Files: the operations a log may ask for.
//!
//! Operations are not ordered among each other; who needs an order waits for a
//! completion. [`DiskOpKind::Sync`] makes durable the writes of its file that had
//! completed when it was asked for, [`DiskOpKind::SyncAll`] those of all files.
//! In-flight operations own their buffers and give them back with their completion.
//!
//! Paths are relative to the log directory. All file handles are direct
//! (O_DIRECT): positions, lengths and memory are multiples of
//! [`BLOCK`](crate::base::pages::BLOCK).

use std::path::PathBuf;

use crate::base::limits::{DIR_FILE_MAX, DIR_FILES_MAX};
use crate::base::pages::PageWriter;
use crate::base::rope::Rope;

/// A file handle, numbered by whoever asks: in use from its `Open` to its
/// `Close`, for any open file of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// Carried by an operation and by its completion; means something to the asker alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskTag(pub u64);

/// One operation.
#[derive(Debug)]
pub struct DiskOp {
    /// Comes back with the completion.
    pub tag: DiskTag,
    /// What to do.
    pub kind: DiskOpKind,
}

/// What to do.
#[derive(Debug)]
pub enum DiskOpKind {
    /// Opens the file at `path` under `file`, creating it empty if `create`.
    /// Answers [`DiskOutput::Opened`], or [`DiskError::NotFound`].
    /// A created file's name is durable only after [`DiskOpKind::SyncDir`].
    Open {
        /// The handle from now on.
        file: FileId,
        /// The file.
        path: PathBuf,
        /// Whether a missing file is made.
        create: bool,
    },
    /// Forgets the handle. Nothing of the file may be in flight.
    Close {
        /// The handle.
        file: FileId,
    },
    /// Writes all of `bytes` at `position`. Answers [`DiskOutput::Written`];
    /// after an error, any part of the range may have changed.
    Write {
        /// The handle.
        file: FileId,
        /// Byte position, aligned.
        position: u64,
        /// Aligned pieces.
        bytes: Rope,
    },
    /// Reads into the spare part of `into` as much as there is, up to `len`.
    /// Answers [`DiskOutput::Read`]; fewer bytes than asked for mean that the
    /// file ends there.
    Read {
        /// The handle.
        file: FileId,
        /// Byte position, aligned.
        position: u64,
        /// Bytes, aligned.
        len: usize,
        /// An empty page with at least `len` spare bytes.
        into: PageWriter,
    },
    /// Makes the file's completed writes, and its length, durable (fdatasync).
    /// An error is final: what was written since the last success is unknown.
    Sync {
        /// The handle.
        file: FileId,
    },
    /// Makes everything in the log directory durable that had completed when it
    /// was asked for: of all files what they hold and how long they are, of all
    /// directories the names. One costs about as much for a thousand files as for
    /// one. An error is final, for every file of the directory.
    SyncAll,
    /// Reserves space for `len` bytes at `position`; new bytes read as zeros.
    /// The file's length covers them.
    Allocate {
        /// The handle.
        file: FileId,
        /// Byte position.
        position: u64,
        /// Bytes.
        len: u64,
    },
    /// Cuts or extends the file to `len` bytes, which need not be aligned.
    Truncate {
        /// The handle.
        file: FileId,
        /// Bytes.
        len: u64,
    },
    /// Makes a directory; one that exists is fine.
    CreateDir {
        /// The directory.
        path: PathBuf,
    },
    /// Makes the entries of a directory durable.
    SyncDir {
        /// The directory.
        path: PathBuf,
    },
    /// Renames a file or directory and makes that durable.
    Rename {
        /// Old path.
        from: PathBuf,
        /// New path, in the same directory.
        to: PathBuf,
    },
    /// Removes a file, or a directory with all that is in it, none of it open. A
    /// missing one is fine. The space of large files comes back little by little.
    Remove {
        /// What to remove.
        path: PathBuf,
    },
    /// Replaces the file by `bytes`, whole or not at all, durable when it
    /// completes (temporary, fsync, rename, fsync of the directory).
    Replace {
        /// The file.
        path: PathBuf,
        /// Its new content.
        bytes: Vec<u8>,
    },
    /// Makes what was made in a directory durable: what its files hold and how long
    /// they are, their names, and its own.
    SyncNew {
        /// The directory.
        path: PathBuf,
    },
    /// Makes a small file of `bytes`, or makes them all there is in it. Neither
    /// name nor bytes are durable before [`DiskOpKind::SyncNew`] or
    /// [`DiskOpKind::SyncAll`]: a loss of power may leave any part of them.
    Create {
        /// The file.
        path: PathBuf,
        /// Its content.
        bytes: Vec<u8>,
    },
    /// Reads a whole small file (limits::SMALL_FILE_MAX). Answers
    /// [`DiskOutput::Content`], or [`DiskError::NotFound`].
    ReadFile {
        /// The file.
        path: PathBuf,
    },
    /// Lists a directory. Answers [`DiskOutput::Entries`], sorted by name, or
    /// [`DiskError::NotFound`].
    ListDir {
        /// The directory.
        path: PathBuf,
    },
    /// Lists a directory and reads its small files: of those that are no segments
    /// (`.log`) and no longer than limits::DIR_FILE_MAX, the first
    /// limits::DIR_FILES_MAX. Answers [`DiskOutput::Dir`], or [`DiskError::NotFound`].
    ReadDir {
        /// The directory.
        path: PathBuf,
    },
    /// Measures the file system of the log directory. Answers [`DiskOutput::Space`].
    Space,
}

/// The end of one operation.
#[derive(Debug)]
pub struct DiskCompletion {
    /// The operation's tag.
    pub tag: DiskTag,
    /// How it ended.
    pub result: Result<DiskOutput, DiskError>,
}

/// What a successful operation returns.
#[derive(Debug)]
pub enum DiskOutput {
    /// Nothing but success.
    Done,
    /// The file's length in bytes.
    Opened {
        /// Bytes.
        len: u64,
    },
    /// The written rope, to be used again.
    Written {
        /// What was written.
        bytes: Rope,
    },
    /// The page with what was read as its filled part.
    Read {
        /// The page that was handed in.
        page: PageWriter,
    },
    /// A small file's bytes.
    Content(Vec<u8>),
    /// A directory's entries.
    Entries(Vec<DirEntry>),
    /// A directory's entries, sorted by name, and what some of its files hold.
    Dir {
        /// All entries.
        entries: Vec<DirEntry>,
        /// Name and bytes of small files.
        contents: Vec<(String, Vec<u8>)>,
    },
    /// How large the file system is, and how much of it can be used.
    Space {
        /// Bytes in all.
        total: u64,
        /// Bytes that this process may still take.
        usable: u64,
    },
}

impl DiskOutput {
    /// The answer to [`DiskOpKind::ReadDir`] about a directory with these entries,
    /// sorted by name. `read` gives the bytes of one of its files.
    ///
    /// # Errors
    /// The first one of `read`.
    pub fn dir<E>(
        entries: Vec<DirEntry>,
        mut read: impl FnMut(&str) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let small = entries.iter().filter(|entry| entry.is_small_file()).take(DIR_FILES_MAX);
        let contents = small.map(|entry| Ok((entry.name.clone(), read(&entry.name)?)));
        let contents = contents.collect::<Result<_, E>>()?;
        Ok(Self::Dir { entries, contents })
    }
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name alone.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes, zero for a directory.
    pub len: u64,
}

impl DirEntry {
    /// Whether [`DiskOpKind::ReadDir`] reads it, if there are not too many.
    fn is_small_file(&self) -> bool {
        !self.is_dir && self.len <= DIR_FILE_MAX && !self.name.ends_with(".log")
    }
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No such file or directory.
    #[error("no such file or directory")]
    NotFound,
    /// The disk or the quota is full.
    #[error("no space left")]
    NoSpace,
    /// Anything else, by its errno.
    #[error("I/O error: {}", std::io::Error::from_raw_os_error(*.0))]
    Io(i32),
}
