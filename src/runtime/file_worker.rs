//! A thread for the file operations that are rare and may block for long:
//! names, lengths, directories, small whole files, syncs of the file system.
//!
//! It works off its jobs in order and reports each once. Results wait in a
//! queue; an eventfd tells the core's ring of them, once until the core looks. Job
//! queue and results are bounded by what the core has in flight. Between jobs it frees
//! the space of removed files, a piece at a time ([`Removals`]).
//!
//! Dropping the worker waits for the jobs already given to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;

use super::event_fd::event_fd;
use super::removals::Removals;
use super::threads::AbortOnPanic;
use crate::base::limits::SMALL_FILE_MAX;
use crate::base::pages::{BLOCK, PagePool};
use crate::effect::disk::{DirEntry, DiskCompletion, DiskError, DiskOutput, DiskTag, FileId};

/// A small file longer than this is read by direct I/O ...
const DIRECT_FROM: usize = 256 << 10;
/// ... of so many bytes.
const DIRECT_PIECE: usize = 1 << 20;

/// What to do; all paths are whole.
pub enum Job {
    /// See `DiskOpKind::Open`.
    Open { file: FileId, path: PathBuf, create: bool },
    /// Lets go of a file: closing the last handle of a removed file takes time.
    Close { file: Arc<File> },
    /// Makes the file at least `len` bytes long.
    Extend { file: Arc<File>, len: u64 },
    /// See `DiskOpKind::Truncate`.
    Truncate { file: Arc<File>, len: u64 },
    /// See `DiskOpKind::CreateDir`.
    CreateDir { path: PathBuf },
    /// See `DiskOpKind::SyncDir`.
    SyncDir { path: PathBuf },
    /// See `DiskOpKind::SyncAll`.
    SyncAll,
    /// See `DiskOpKind::SyncNew`.
    SyncNew { path: PathBuf },
    /// See `DiskOpKind::Create`.
    Create { path: PathBuf, bytes: Vec<u8> },
    /// See `DiskOpKind::Rename`.
    Rename { from: PathBuf, to: PathBuf },
    /// See `DiskOpKind::Remove`.
    Remove { path: PathBuf },
    /// See `DiskOpKind::Replace`.
    Replace { path: PathBuf, bytes: Vec<u8> },
    /// See `DiskOpKind::ReadFile`.
    ReadFile { path: PathBuf },
    /// See `DiskOpKind::ListDir`.
    ListDir { path: PathBuf },
    /// See `DiskOpKind::ReadDir`.
    ReadDir { path: PathBuf },
    /// See `DiskOpKind::Space`.
    Space { path: PathBuf },
}

/// A job that was done.
pub struct Finished {
    /// What to report.
    pub completion: DiskCompletion,
    /// A file that was opened.
    pub opened: Option<(FileId, Arc<File>)>,
}

/// The asking side.
pub struct FileWorker {
    /// `None` once dropped.
    jobs: Option<Sender<(DiskTag, Job)>>,
    finished: Receiver<Finished>,
    /// The eventfd was written to since the core last looked.
    signalled: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FileWorker {
    /// Starts the thread of a worker for files in `log_dir`. Returns the worker and
    /// the eventfd of its results. With `skip_sync` nothing is synced, which only
    /// tests want.
    ///
    /// # Errors
    /// If there can be no further thread, descriptor or file.
    pub fn start(name: String, log_dir: &Path, skip_sync: bool) -> io::Result<(Self, OwnedFd)> {
        let (jobs, inbox) = channel();
        let (outbox, finished) = channel();
        let signal = event_fd()?;
        let mut doorbell = File::from(signal.try_clone()?);
        let syncs = Syncs::new(&name, log_dir, skip_sync)?;
        let signalled = Arc::new(AtomicBool::new(false));
        let is_signalled = signalled.clone();
        let work = move || {
            let _abort = AbortOnPanic;
            let mut removals = Removals::default();
            loop {
                let next = match removals.wait() {
                    None => inbox.recv().map_err(RecvTimeoutError::from),
                    Some(wait) => inbox.recv_timeout(wait),
                };
                removals.go_on();
                let (tag, job) = match next {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                if outbox.send(perform(tag, job, &syncs, &mut removals)).is_err() {
                    // Nobody asks for results any more; the jobs are still to be done.
                    continue;
                }
                // The result is there before; so the core finds it when it looks for what
                // was signalled, or is signalled again.
                if !is_signalled.swap(true, Ordering::AcqRel) {
                    doorbell.write_all(&1_u64.to_ne_bytes()).expect("an eventfd takes a one");
                }
            }
        };
        let thread = std::thread::Builder::new().name(name).spawn(work)?;
        Ok((Self { jobs: Some(jobs), finished, signalled, thread: Some(thread) }, signal))
    }

    /// Gives the worker one more job.
    pub fn give(&self, tag: DiskTag, job: Job) {
        let jobs = self.jobs.as_ref().expect("dropped by `drop` alone");
        jobs.send((tag, job)).expect("the worker ends after its last job");
    }

    /// Takes note of a signal. What has ended is to be looked for after this.
    pub fn answer(&self) {
        self.signalled.swap(false, Ordering::AcqRel);
    }

    /// The next result that is here.
    pub fn finished(&self) -> Option<Finished> {
        self.finished.try_recv().ok()
    }
}

impl Drop for FileWorker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic has ended the process already.
            let _ = thread.join();
        }
    }
}

/// What an operating failure is to the asker.
pub fn disk_error(errno: i32) -> DiskError {
    match errno {
        libc::ENOENT => DiskError::NotFound,
        libc::ENOSPC | libc::EDQUOT => DiskError::NoSpace,
        errno => DiskError::Io(errno),
    }
}

fn perform(tag: DiskTag, job: Job, syncs: &Syncs, removals: &mut Removals) -> Finished {
    let mut opened = None;
    let result = match job {
        Job::Open { file, path, create } => open(&path, create).map(|(handle, len)| {
            opened = Some((file, Arc::new(handle)));
            DiskOutput::Opened { len }
        }),
        Job::Close { file } => {
            drop(file);
            Ok(DiskOutput::Done)
        }
        Job::Extend { file, len } => extend(&file, len).map(done),
        Job::Truncate { file, len } => file.set_len(len).map(done),
        Job::CreateDir { path } => create_dir(&path).map(done),
        Job::SyncDir { path } => syncs.dir(&path).map(done),
        Job::SyncAll => syncs.all().map(done),
        Job::SyncNew { path } => syncs.new_dir(&path).map(done),
        Job::Create { path, bytes } => fs::write(&path, &bytes).map(done),
        Job::Rename { from, to } => rename(&from, &to, syncs).map(done),
        Job::Remove { path } => removals.remove(&path).map(done),
        Job::Replace { path, bytes } => replace(&path, &bytes, syncs).map(done),
        Job::ReadFile { path } => read_file(&path).map(DiskOutput::Content),
        Job::ListDir { path } => list_dir(&path).map(DiskOutput::Entries),
        Job::ReadDir { path } => read_dir(&path),
        Job::Space { path } => space(&path),
    };
    let result = result.map_err(|error| disk_error(error.raw_os_error().unwrap_or(libc::EIO)));
    Finished { completion: DiskCompletion { tag, result }, opened }
}

fn done((): ()) -> DiskOutput {
    DiskOutput::Done
}

/// Opens a file for direct I/O; its length is the second value.
///
/// # Errors
/// What open(2) says.
pub fn open(path: &Path, create: bool) -> io::Result<(File, u64)> {
    let open = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).custom_flags(flags).open(path)
    };
    let file = match open(libc::O_DIRECT | libc::O_NOATIME) {
        // Only a file's owner may leave its access time alone.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(libc::O_DIRECT)?,
        other => other?,
    };
    let len = file.metadata()?.len();
    Ok((file, len))
}

fn extend(file: &File, len: u64) -> io::Result<()> {
    if file.metadata()?.len() < len { file.set_len(len) } else { Ok(()) }
}

fn create_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

/// Makes things durable, unless a test asks for nothing to be.
struct Syncs {
    skip: bool,
    /// Open since the start: errors of the file system's writes are told once to
    /// each open file, those before it excepted.
    log_dir: File,
    /// A file without a name.
    flushed: File,
}

impl Syncs {
    fn new(name: &str, log_dir: &Path, skip: bool) -> io::Result<Self> {
        let path = log_dir.join(format!("{name}.tmp"));
        let flushed = File::create(&path)?;
        fs::remove_file(&path)?;
        Ok(Self { skip, log_dir: File::open(log_dir)?, flushed })
    }

    /// Everything in the file system. It may have nothing to write back and leave
    /// the drive's cache alone (XFS), or write back after it has flushed that
    /// (ext4 without a journal): the sync of a file flushes it in any case.
    fn all(&self) -> io::Result<()> {
        if self.skip {
            return Ok(());
        }
        rustix::fs::syncfs(&self.log_dir)?;
        self.flushed.sync_data()
    }

    fn file(&self, file: &File) -> io::Result<()> {
        if self.skip { Ok(()) } else { file.sync_all() }
    }

    /// The files in a directory, their names, and its own.
    fn new_dir(&self, path: &Path) -> io::Result<()> {
        if self.skip {
            return Ok(());
        }
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                File::open(entry.path())?.sync_all()?;
            }
        }
        self.dir(path)?;
        self.dir(parent(path))
    }

    fn dir(&self, path: &Path) -> io::Result<()> {
        if self.skip { Ok(()) } else { File::open(path)?.sync_all() }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("a path below the log directory has a parent")
}

fn rename(from: &Path, to: &Path, syncs: &Syncs) -> io::Result<()> {
    fs::rename(from, to)?;
    syncs.dir(parent(to))
}

fn replace(path: &Path, bytes: &[u8], syncs: &Syncs) -> io::Result<()> {
    let mut temporary = path.to_path_buf().into_os_string();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        syncs.file(&file)?;
        fs::rename(&temporary, path)
    };
    if let Err(error) = write() {
        // The first error tells more than a second one; a rest is overwritten next time.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    syncs.dir(parent(path))
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if len > DIRECT_FROM {
        return read_direct(path);
    }
    let mut bytes = Vec::with_capacity(len);
    file.take(len as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a longer file past the page cache, which would be filled with bytes, many of
/// them zeros of reserved space, that nobody asks for again.
fn read_direct(path: &Path) -> io::Result<Vec<u8>> {
    let (file, len) = open(path, false)?;
    let len = usize::try_from(len).ok().filter(|len| *len <= SMALL_FILE_MAX);
    let Some(len) = len else { return Err(io::Error::from_raw_os_error(libc::EFBIG)) };
    let mut bytes = Vec::with_capacity(len);
    let mut pages = PagePool::new(DIRECT_PIECE);
    let mut page = pages.allocate(DIRECT_PIECE).ok_or(io::ErrorKind::OutOfMemory)?;
    while bytes.len() < len {
        let piece = &mut page.spare()[..DIRECT_PIECE];
        let count = match file.read_at(piece, bytes.len() as u64) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?.min(len - bytes.len()),
        };
        bytes.extend_from_slice(&piece[..count]);
        // Only the end of a file ends a read inside a block.
        if bytes.len() < len && (count == 0 || !count.is_multiple_of(BLOCK)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}

fn space(path: &Path) -> io::Result<DiskOutput> {
    let found = rustix::fs::statvfs(path)?;
    let (total, usable) = (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize);
    Ok(DiskOutput::Space { total, usable })
}

fn read_dir(path: &Path) -> io::Result<DiskOutput> {
    DiskOutput::dir(list_dir(path)?, |name| read_file(&path.join(name)))
}

fn list_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = |entry: &fs::DirEntry| {
            // A name that is not UTF-8 is none of ours: any readable form will do.
            entry.file_name().to_string_lossy().into_owned()
        };
        // Most are directories, which are known as such without another call.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            entries.push(DirEntry { name: name(&entry), is_dir: true, len: 0 });
            continue;
        }
        // Through links, as everything else; a dangling one counts as a file.
        let metadata = match fs::metadata(entry.path()).or_else(|_| entry.metadata()) {
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let is_dir = metadata.is_dir();
        let len = if is_dir { 0 } else { metadata.len() };
        entries.push(DirEntry { name: name(&entry), is_dir, len });
    }
    entries.sort();
    Ok(entries)
}
