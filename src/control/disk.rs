//! Performs disk operations on glommio: what names a handle goes through its
//! rings with direct I/O, what names a path through its thread for blocking
//! calls.
//!
//! It decides nothing: an operation is carried out once, as it was asked for,
//! and an error is reported as it came. Temporary files of a replacement that
//! failed are removed with the next one's.
//!
//! glommio probes a device's polling with the first file it opens there and
//! remembers a wrong answer if that file is empty. The controller's segments
//! are never empty.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions};

use crate::base::limits::SMALL_FILE_MAX;
use crate::base::rope::Rope;
use crate::effect::disk::{
    DirEntry, DiskCompletion, DiskError, DiskOp, DiskOpKind, DiskOutput, FileId,
};

/// The files below one directory.
pub(super) struct Disk {
    root: PathBuf,
    open: RefCell<BTreeMap<FileId, Rc<DmaFile>>>,
}

fn from_errno(errno: Option<i32>) -> DiskError {
    match errno.unwrap_or(libc::EIO) {
        libc::ENOENT => DiskError::NotFound,
        libc::ENOSPC | libc::EDQUOT => DiskError::NoSpace,
        errno => DiskError::Io(errno),
    }
}

fn io_error(error: io::Error) -> DiskError {
    from_errno(error.raw_os_error())
}

fn glommio_error(error: GlommioError<()>) -> DiskError {
    from_errno(error.raw_os_error())
}

impl Disk {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, open: RefCell::default() }
    }

    /// Carries out `op`.
    pub(super) async fn perform(&self, op: DiskOp) -> DiskCompletion {
        DiskCompletion { tag: op.tag, result: self.run(op.kind).await }
    }

    fn file(&self, file: FileId) -> Rc<DmaFile> {
        self.open.borrow().get(&file).expect("an operation names an open file").clone()
    }

    async fn run(&self, kind: DiskOpKind) -> Result<DiskOutput, DiskError> {
        match kind {
            DiskOpKind::Open { file, path, create } => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(create);
                let opened = options.dma_open(self.root.join(path)).await;
                let opened = opened.map_err(glommio_error)?;
                let len = opened.file_size().await.map_err(glommio_error)?;
                self.open.borrow_mut().insert(file, Rc::new(opened));
                Ok(DiskOutput::Opened { len })
            }
            DiskOpKind::Close { file } => {
                let closed = self.open.borrow_mut().remove(&file);
                let closed = closed.expect("a close names an open file").close_rc().await;
                closed.map_err(glommio_error)?;
                Ok(DiskOutput::Done)
            }
            DiskOpKind::Write { file, position, bytes } => {
                write(&self.file(file), position, &bytes).await?;
                Ok(DiskOutput::Written { bytes })
            }
            DiskOpKind::Read { file, position, len, into: mut page } => {
                let read = self.file(file).read_at_aligned(position, len).await;
                let read = read.map_err(glommio_error)?;
                page.put(&read);
                Ok(DiskOutput::Read { page })
            }
            DiskOpKind::Sync { file } => {
                self.file(file).fdatasync().await.map_err(glommio_error)?;
                Ok(DiskOutput::Done)
            }
            DiskOpKind::Allocate { file, position, len } => {
                let allocated = self.file(file).pre_allocate(position + len, false).await;
                allocated.map_err(glommio_error)?;
                Ok(DiskOutput::Done)
            }
            DiskOpKind::Truncate { file, len } => {
                self.file(file).truncate(len).await.map_err(glommio_error)?;
                Ok(DiskOutput::Done)
            }
            kind @ (DiskOpKind::SyncAll
            | DiskOpKind::SyncNew { .. }
            | DiskOpKind::ReadDir { .. }
            | DiskOpKind::Create { .. }) => {
                unreachable!("the controller does not ask for {kind:?}")
            }
            kind @ (DiskOpKind::CreateDir { .. }
            | DiskOpKind::SyncDir { .. }
            | DiskOpKind::Rename { .. }
            | DiskOpKind::Remove { .. }
            | DiskOpKind::Replace { .. }
            | DiskOpKind::ReadFile { .. }
            | DiskOpKind::ListDir { .. }
            | DiskOpKind::Space) => {
                let root = self.root.clone();
                let run = move || by_path(&root, kind).map_err(io_error);
                glommio::executor().spawn_blocking(run).await
            }
        }
    }
}

async fn write(file: &DmaFile, position: u64, bytes: &Rope) -> Result<(), DiskError> {
    let mut position = position;
    for part in bytes.parts() {
        let mut rest: &[u8] = part;
        while !rest.is_empty() {
            let mut buffer = file.alloc_dma_buffer(rest.len());
            buffer.as_bytes_mut()[..rest.len()].copy_from_slice(rest);
            let written = file.write_at(buffer, position).await.map_err(glommio_error)?;
            if written == 0 {
                return Err(DiskError::NoSpace);
            }
            position += written as u64;
            rest = &rest[written.min(rest.len())..];
        }
    }
    Ok(())
}

/// Carries out an operation that names paths.
fn by_path(root: &Path, kind: DiskOpKind) -> io::Result<DiskOutput> {
    match kind {
        DiskOpKind::CreateDir { path } => match fs::create_dir(root.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        },
        DiskOpKind::SyncDir { path } => sync_dir(&root.join(path))?,
        DiskOpKind::Rename { from, to } => {
            let to = root.join(to);
            fs::rename(root.join(from), &to)?;
            sync_dir(parent(&to))?;
        }
        DiskOpKind::Remove { path } => {
            let path = root.join(path);
            let removed = match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) => Err(error),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        DiskOpKind::Replace { path, bytes } => replace(&root.join(path), &bytes)?,
        DiskOpKind::ReadFile { path } => {
            let path = root.join(path);
            if fs::metadata(&path)?.len() > SMALL_FILE_MAX as u64 {
                return Err(io::Error::from_raw_os_error(libc::EFBIG));
            }
            return Ok(DiskOutput::Content(fs::read(path)?));
        }
        DiskOpKind::ListDir { path } => {
            let mut entries = Vec::new();
            for entry in fs::read_dir(root.join(path))? {
                let entry = entry?;
                let found = entry.metadata()?;
                let is_dir = found.is_dir();
                let len = if is_dir { 0 } else { found.len() };
                // A name that is no text is nobody's that asks.
                if let Ok(name) = entry.file_name().into_string() {
                    entries.push(DirEntry { name, is_dir, len });
                }
            }
            entries.sort_unstable();
            return Ok(DiskOutput::Entries(entries));
        }
        DiskOpKind::Space => {
            let found = rustix::fs::statvfs(root)?;
            let (total, usable) =
                (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize);
            return Ok(DiskOutput::Space { total, usable });
        }
        _ => unreachable!("operations on handles do not come here"),
    }
    Ok(DiskOutput::Done)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.to_owned().into_os_string();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    if let Err(error) = write() {
        // Without space, what is left of it must not take more. If even that
        // fails, the first error is the one that matters.
        fs::remove_file(&temporary).ok();
        return Err(error);
    }
    fs::rename(&temporary, path)?;
    sync_dir(parent(path))
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("a path below a root has a parent")
}

fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
