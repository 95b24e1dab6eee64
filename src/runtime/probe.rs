//! What this kernel, this process and this disk can do, found out by trying.
//!
//! What cannot be done without is an error that says what stands in the way and
//! what to do about it; a missing nicety is a warning and the plain path.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};

use super::buffers::ReceiveBuffers;
use super::clock;
use super::file_worker;
use super::ring::{Kind, Ring};
use crate::base::pages::{BLOCK, PagePool};

/// How long a message between two rings may take.
const WAKE_PATIENCE: Duration = Duration::from_secs(5);

/// What was found, if the data plane can run.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// Missing niceties, a line each.
    pub warnings: Vec<String>,
    /// Whether the file system reserves space (fallocate); else files are only
    /// extended, and a full disk shows at the write.
    pub fallocate: bool,
    /// Bytes to which direct I/O on the log directory must be aligned, as the
    /// file system tells (memory, file position), if it does (Linux 6.1, STATX_DIOALIGN).
    pub direct_io_alignment: Option<(u32, u32)>,
    /// Bytes this process may lock in memory; `None` for no limit.
    pub memlock: Option<u64>,
    /// Descriptors this process may have open now.
    pub open_files: u64,
}

/// Why the data plane cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel was built without io_uring, or a sandbox hides it.
    #[error(
        "this kernel has no io_uring: Linux 6.1 or newer with CONFIG_IO_URING is needed; \
         in a container, its seccomp profile may hide io_uring_setup"
    )]
    NoIoUring,
    /// `kernel.io_uring_disabled` is 1 or 2.
    #[error(
        "io_uring is switched off (kernel.io_uring_disabled = {0}); \
         switch it on with: sysctl -w kernel.io_uring_disabled=0"
    )]
    Disabled(u8),
    /// The kernel would, but something forbids it.
    #[error(
        "io_uring is forbidden to this process, most likely by the container's seccomp profile: \
         allow io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Forbidden,
    /// The kernel is too old, or another one in disguise.
    #[error("io_uring of this kernel lacks {0}; Linux 6.1 or newer is needed")]
    Lacks(String),
    /// io_uring fails in another way.
    #[error("io_uring cannot be set up: {0}")]
    Broken(io::Error),
    /// The log directory's file system does not do direct I/O.
    #[error(
        "{0} is on a file system without direct I/O (O_DIRECT) in blocks of {BLOCK} bytes; \
         put log.dirs on ext4, XFS or another file system that has it"
    )]
    NoDirectIo(PathBuf),
    /// The log directory cannot be used.
    #[error("the log directory {0} cannot be written to: {1}")]
    Unusable(PathBuf, io::Error),
}

/// Tries what the data plane needs. `log_dir` exists; a file is made in it and
/// removed again.
///
/// # Errors
/// See [`ProbeError`].
pub fn probe(log_dir: &Path) -> Result<Capabilities, ProbeError> {
    let mut warnings = Vec::new();
    probe_opcodes()?;
    probe_ring(&mut warnings)?;
    let (fallocate, direct_io_alignment) = probe_disk(log_dir, &mut warnings)?;
    if !fallocate {
        warnings.push(format!(
            "{} cannot reserve space (fallocate): appends are slower, and a full disk shows late",
            log_dir.display()
        ));
    }
    let memlock = match limit(libc::RLIMIT_MEMLOCK) {
        libc::RLIM_INFINITY => None,
        bytes => Some(bytes),
    };
    let open_files = limit(libc::RLIMIT_NOFILE);
    Ok(Capabilities { warnings, fallocate, direct_io_alignment, memlock, open_files })
}

/// Raises the soft limit of open descriptors to the hard one, and returns it.
///
/// # Errors
/// What setrlimit(2) says.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = limits(libc::RLIMIT_NOFILE);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid for reading for the length of the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

fn limit(resource: libc::__rlimit_resource_t) -> u64 {
    limits(resource).rlim_cur
}

fn limits(resource: libc::__rlimit_resource_t) -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing for the length of the call.
    let result = unsafe { libc::getrlimit(resource, &mut limit) };
    assert_eq!(result, 0, "every Linux has these limits");
    limit
}

fn probe_opcodes() -> Result<(), ProbeError> {
    // The plainest ring: what fails here fails for every program.
    let ring = IoUring::new(8).map_err(setup_error)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(setup_error)?;
    let needed = [
        ("ACCEPT", opcode::AcceptMulti::CODE),
        ("RECV", opcode::Recv::CODE),
        ("SEND", opcode::Send::CODE),
        ("SENDMSG", opcode::SendMsg::CODE),
        ("READ", opcode::Read::CODE),
        ("WRITE", opcode::Write::CODE),
        ("WRITEV", opcode::Writev::CODE),
        ("FSYNC", opcode::Fsync::CODE),
        ("FALLOCATE", opcode::Fallocate::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel2::CODE),
        ("MSG_RING", opcode::MsgRingData::CODE),
    ];
    let lacking = needed.into_iter().filter(|(_, code)| !probe.is_supported(*code));
    let lacking: Vec<&str> = lacking.map(|(name, _)| name).collect();
    if lacking.is_empty() { Ok(()) } else { Err(ProbeError::Lacks(lacking.join(", "))) }
}

fn setup_error(error: io::Error) -> ProbeError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => ProbeError::NoIoUring,
        Some(libc::EPERM | libc::EACCES) => match disabled() {
            Some(level) if level != 0 => ProbeError::Disabled(level),
            _ => ProbeError::Forbidden,
        },
        _ => ProbeError::Broken(error),
    }
}

fn disabled() -> Option<u8> {
    // A kernel without this switch cannot be switched off.
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn probe_ring(warnings: &mut Vec<String>) -> Result<(), ProbeError> {
    let lacks = |what: &str| ProbeError::Lacks(what.to_owned());
    let mut ring = Ring::new().map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => lacks("SINGLE_ISSUER, DEFER_TASKRUN or SUBMIT_ALL"),
        None => lacks("NODROP, EXT_ARG or SUBMIT_STABLE"),
        Some(_) => setup_error(error),
    })?;
    if !ring.registered {
        warnings.push("io_uring cannot register its own descriptor: system calls cost more".into());
    }
    // Goes before the buffers.
    let buffers = ReceiveBuffers::new(&ring).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => lacks("provided buffer rings"),
        _ => ProbeError::Broken(error),
    })?;
    let woken = probe_wake(&mut ring)?;
    drop(ring);
    drop(buffers);
    if woken { Ok(()) } else { Err(lacks("messages between rings (MSG_RING)")) }
}

/// Whether another thread's ring wakes this one.
fn probe_wake(ring: &mut Ring) -> Result<bool, ProbeError> {
    let target = ring.fd();
    let wake = move || {
        let mut ring = Ring::new()?;
        ring.wake(target);
        ring.enter(Some(Duration::ZERO));
        Ok(())
    };
    let thread = std::thread::Builder::new().name("probe".into()).spawn(wake);
    let thread = thread.map_err(ProbeError::Broken)?;
    let give_up = clock::monotonic() + WAKE_PATIENCE;
    let mut woken = false;
    loop {
        while let Some(completion) = ring.next() {
            woken |= completion.token.kind == Kind::Mail;
        }
        let left = give_up.since(clock::monotonic());
        if woken || left.is_zero() {
            break;
        }
        // May return early.
        ring.enter(Some(left));
    }
    match thread.join() {
        Ok(result) => result.map_err(ProbeError::Broken)?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    Ok(woken)
}

/// See [`probe_disk`].
type DiskFound = (bool, Option<(u32, u32)>);

/// Whether space can be reserved, and the alignment that the file system tells.
fn probe_disk(log_dir: &Path, warnings: &mut Vec<String>) -> Result<DiskFound, ProbeError> {
    let path = log_dir.join(format!("corelane-probe-{}.tmp", std::process::id()));
    let unusable = |error| ProbeError::Unusable(log_dir.to_path_buf(), error);
    // Whether the directory can be written to at all, and then how.
    let tried = File::create(&path).and_then(|_| {
        let tried = try_disk(&path);
        fs::remove_file(&path)?;
        tried
    });
    if let Err(error) = &tried
        && matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
    {
        // A full disk is no reason not to start: what it holds can be read and
        // deleted. That it takes what the last run wrote is taken for granted.
        let full = format!("{} is full: how it takes writes was not tried", log_dir.display());
        warnings.push(full);
        return Ok((true, None));
    }
    tried.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => ProbeError::NoDirectIo(log_dir.to_path_buf()),
        _ => unusable(error),
    })
}

fn try_disk(path: &Path) -> io::Result<DiskFound> {
    let (file, _) = file_worker::open(path, false)?;
    // SAFETY: takes no memory.
    let reserved = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, 2 * BLOCK as i64) } == 0;
    if !reserved {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
            return Err(error);
        }
    }
    let mut pool = PagePool::new(2 * BLOCK);
    let mut page = pool.allocate(2 * BLOCK).expect("within budget");
    page.put(&[0x5a; BLOCK]);
    file.write_all_at(page.filled(), BLOCK as u64)?;
    file.sync_data()?;
    let spare = &mut page.spare()[..BLOCK];
    file.read_exact_at(spare, BLOCK as u64)?;
    if spare != [0x5a; BLOCK] {
        return Err(io::Error::other("direct I/O does not return what was written"));
    }
    Ok((reserved, alignment(&file)))
}

fn alignment(file: &File) -> Option<(u32, u32)> {
    // SAFETY: integers only, for which zero is valid.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let (fd, flags, mask) = (file.as_raw_fd(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN);
    // SAFETY: the path is a C string, and `stat` is valid for writing for the
    // length of the call.
    let result = unsafe { libc::statx(fd, c"".as_ptr(), flags, mask, &mut stat) };
    let told = result == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0;
    told.then_some((stat.stx_dio_mem_align, stat.stx_dio_offset_align))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_runs_the_data_plane() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let found = probe(dir.path()).expect("this kernel has io_uring");
        assert!(found.fallocate && found.open_files > 0, "{found:?}");
        assert_eq!(fs::read_dir(dir.path()).expect("still there").count(), 0);
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named() {
        let missing = Path::new("/nonexistent/log");
        let error = probe(missing).expect_err("no such directory").to_string();
        assert!(error.starts_with("the log directory /nonexistent/log cannot be"), "{error}");
        let error = probe(Path::new("/proc")).expect_err("no place for files").to_string();
        assert!(error.contains("/proc"), "{error}");
    }

    #[test]
    fn open_files_can_be_raised() {
        let raised = raise_open_files().expect("a soft limit can be raised");
        assert_eq!(limit(libc::RLIMIT_NOFILE), raised);
    }
}
