//! The log directory: its file system and device, what the kernel does with
//! them, and how long a sync takes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::machine::read;
use super::{Finding, bytes};
use crate::base::pages::{BLOCK, PagePool};
use crate::config::Settings;
use crate::runtime::{self, Capabilities};

/// The measurement ends after so many syncs, or so long.
const SYNCS_MAX: usize = 200;
const MEASURE_FOR: Duration = Duration::from_secs(2);
/// The file that is written over and over: as a segment is that is used again.
const FILE_LEN: usize = 1 << 20;
/// A median sync beyond which clients feel it.
const SYNC_SLOW: Duration = Duration::from_millis(5);
/// No disk with a cache that is flushed, and none without one, is as fast.
const SYNC_UNBELIEVABLE: Duration = Duration::from_micros(5);
/// Space below which a broker soon stands still.
const SPACE_MIN: u64 = 10 << 30;
/// Memory that the ring of a core may have to lock.
const MEMLOCK_PER_CORE: u64 = 2 << 20;

/// All findings.
pub(super) fn look(settings: &Settings) -> Vec<Finding> {
    let wanted = std::path::absolute(&settings.log_dir).unwrap_or(settings.log_dir.clone());
    let Some(dir) = wanted.ancestors().find(|dir| dir.is_dir()) else {
        let found = format!("{} has no directory above it", wanted.display());
        return vec![Finding::fail("log directory", found, "name another with log.dirs")];
    };
    let mut findings = vec![place(&wanted, dir)];
    let capabilities = match runtime::probe(dir) {
        Ok(capabilities) => capabilities,
        Err(error) => {
            // What is wrong says what to do, too.
            findings.push(Finding::fail("io_uring", error.to_string(), ""));
            return findings;
        }
    };
    findings.extend(rings(&capabilities, settings.cores));
    findings.extend(file_system(dir));
    findings.push(match sync_times(dir) {
        Ok(times) => sync(times),
        Err(error) => {
            let found = format!("it cannot be measured: {error}");
            Finding::fail("sync", found, "see whether the directory can be written to")
        }
    });
    findings
}

fn place(wanted: &Path, dir: &Path) -> Finding {
    let what = if wanted == dir {
        wanted.display().to_string()
    } else {
        format!("{} does not exist yet; this is about {}", wanted.display(), dir.display())
    };
    let (free, total) = match rustix::fs::statvfs(dir) {
        Ok(stat) => (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize),
        Err(error) => {
            return Finding::fail("log directory", format!("{what}: {error}"), "is it mounted?");
        }
    };
    let found = format!("{what}, {} free of {}", bytes(free), bytes(total));
    if free >= SPACE_MIN {
        return Finding::ok("log directory", found);
    }
    Finding::warn(
        "log directory",
        found,
        "produces are refused when the disk is full: have more space, or name another directory \
         with log.dirs",
    )
}

/// What the probe found.
fn rings(capabilities: &Capabilities, cores: u16) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(
        "io_uring",
        "every operation, buffer rings and messages between rings work",
    )];
    let warnings = capabilities.warnings.iter();
    findings.extend(warnings.map(|warning| {
        Finding::warn("io_uring", warning, "the broker runs without; a newer kernel may have it")
    }));
    let needed = MEMLOCK_PER_CORE * u64::from(cores);
    findings.push(match capabilities.memlock {
        None => Finding::ok("memlock", "unlimited"),
        Some(limit) if limit >= needed => Finding::ok("memlock", bytes(limit)),
        Some(limit) => Finding::warn(
            "memlock",
            format!("{}, where {cores} cores may lock {}", bytes(limit), bytes(needed)),
            "LimitMEMLOCK=infinity in the systemd unit, or ulimit -l unlimited",
        ),
    });
    findings.push(match capabilities.direct_io_alignment {
        Some((memory, position)) if memory.max(position) as usize <= BLOCK => Finding::ok(
            "direct I/O",
            format!("works in blocks of {BLOCK} bytes (memory {memory}, position {position})"),
        ),
        Some((memory, position)) => Finding::fail(
            "direct I/O",
            format!("needs alignment to {} bytes; {BLOCK} are used", memory.max(position)),
            "put log.dirs on another file system or device",
        ),
        None => Finding::ok(
            "direct I/O",
            format!(
                "works in blocks of {BLOCK} bytes (the file system does not tell what it needs)"
            ),
        ),
    });
    findings
}

/// One line of /proc/self/mountinfo, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    kind: String,
    options: String,
}

/// The mount of a device, `MAJOR:MINOR`.
fn mount_of(mountinfo: &str, device: &str) -> Option<Mount> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let of_device = before.split(' ').nth(2)? == device;
        let mut after = after.split(' ');
        let (kind, _, options) = (after.next()?, after.next()?, after.next()?);
        let mount = before.split(' ').nth(5)?;
        of_device.then(|| Mount { kind: kind.to_owned(), options: format!("{mount},{options}") })
    })
}

fn file_system(dir: &Path) -> Vec<Finding> {
    let device = match fs::metadata(dir) {
        Ok(metadata) => metadata.dev(),
        Err(error) => {
            return vec![Finding::fail("file system", error.to_string(), "is it mounted?")];
        }
    };
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let mountinfo = read("/proc/self/mountinfo").unwrap_or_default();
    let queue = queue_of(&PathBuf::from(format!("/sys/dev/block/{device}")));
    vec![
        kind(mount_of(&mountinfo, &device)),
        cache(queue.as_deref().map(|queue| {
            let value = |name: &str| read(&queue.join(name).to_string_lossy()).unwrap_or_default();
            Queue {
                cache: value("write_cache"),
                logical: value("logical_block_size"),
                physical: value("physical_block_size"),
                rotational: value("rotational") == "1",
            }
        })),
    ]
}

fn kind(mount: Option<Mount>) -> Finding {
    const ADVICE: &str = "ext4 and XFS are what is tested";
    let Some(Mount { kind, options }) = mount else {
        return Finding::warn("file system", "which one it is cannot be seen", ADVICE);
    };
    let unsafe_option =
        options.split(',').find(|option| matches!(*option, "nobarrier" | "barrier=0"));
    if let Some(option) = unsafe_option {
        return Finding::fail(
            "file system",
            format!("{kind} with {option}: a sync does not reach the disk"),
            format!("mount it without {option}"),
        );
    }
    match kind.as_str() {
        "ext4" | "xfs" => Finding::ok("file system", kind),
        _ => Finding::warn("file system", kind, ADVICE),
    }
}

/// The queue directory of a block device, or of the disk that a partition is on.
fn queue_of(device: &Path) -> Option<PathBuf> {
    let device = device.canonicalize().ok()?;
    device.ancestors().take(2).map(|dir| dir.join("queue")).find(|queue| queue.is_dir())
}

/// What the kernel tells of a device.
#[derive(Debug)]
struct Queue {
    cache: String,
    logical: String,
    physical: String,
    rotational: bool,
}

fn cache(queue: Option<Queue>) -> Finding {
    let Some(Queue { cache, logical, physical, rotational }) = queue else {
        return Finding::warn(
            "write cache",
            "the file system is on no single block device: what its cache does cannot be seen",
            "be sure that a sync survives the loss of power there",
        );
    };
    let sectors = format!("sectors of {logical} bytes, {physical} inside");
    let promise = "what is promised for a power loss assumes a drive that flushes when it says so \
                   and overwrites a sector whole or not at all";
    let (cache, what) = match cache.as_str() {
        "write back" => (cache, "each sync flushes it"),
        "write through" => (cache, "none that is volatile, as the drive says"),
        _ => ("not told".to_owned(), "each sync asks for a flush"),
    };
    let found = format!("{cache} ({what}), {sectors}; {promise}");
    if rotational {
        let advice = "each sync waits for the disk to turn: an SSD, if latency matters; nothing, if \
                      this is a virtual disk that only says so";
        return Finding::warn("write cache", format!("{found}; a turning disk"), advice);
    }
    Finding::ok("write cache", found)
}

/// How long writing a block and syncing it took, in order of length.
fn sync_times(dir: &Path) -> io::Result<Vec<Duration>> {
    let path = dir.join(format!("corelane-doctor-{}.tmp", std::process::id()));
    let times = measure(&path);
    let removed = fs::remove_file(&path);
    let mut times = times?;
    removed?;
    times.sort();
    Ok(times)
}

fn measure(path: &Path) -> io::Result<Vec<Duration>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).custom_flags(libc::O_DIRECT);
    let file: File = options.open(path)?;
    let mut pool = PagePool::new(FILE_LEN);
    let mut page = pool.allocate(FILE_LEN).ok_or(io::ErrorKind::OutOfMemory)?;
    page.put(&vec![0x5a; FILE_LEN]);
    file.write_all_at(page.filled(), 0)?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(SYNCS_MAX);
    let end = Instant::now() + MEASURE_FOR;
    while times.len() < SYNCS_MAX && Instant::now() < end {
        let at = times.len() * BLOCK % FILE_LEN;
        let start = Instant::now();
        file.write_all_at(&page.filled()[..BLOCK], at as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Ok(times)
}

/// Judges times that are in order of length.
fn sync(times: Vec<Duration>) -> Finding {
    let (Some(max), Some(median)) = (times.last(), times.get(times.len() / 2)) else {
        return Finding::fail("sync", "none ended in time", "this disk cannot keep a log");
    };
    let high = times[(times.len() * 99 / 100).min(times.len() - 1)];
    let found = format!(
        "a block written and synced in {median:.0?} (median of {}; 99 % within {high:.0?}, longest \
         {max:.0?})",
        times.len()
    );
    if *median < SYNC_UNBELIEVABLE {
        let advice = "nothing reaches a disk so fast: is this memory, or a cache that lies?";
        return Finding::warn("sync", found, advice);
    }
    if *median > SYNC_SLOW {
        let advice = "each acknowledgement waits for one, shared by all that came meanwhile: a disk \
                      with power-loss protection, or log.flush.interval.messages above 1 if a power \
                      loss may cost the last records";
        return Finding::warn("sync", found, advice);
    }
    Finding::ok("sync", found)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn the_mount_of_a_device() {
        let mountinfo = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,noatime shared:1 - ext4 /dev/vda rw,nobarrier
28 1 254:1 / /data rw - xfs /dev/vdb rw";
        let root = mount_of(mountinfo, "254:0").expect("it is there");
        assert_eq!(root.options, "rw,noatime,rw,nobarrier");
        assert_eq!(kind(Some(root)).level, Level::Fail);
        assert_eq!(kind(mount_of(mountinfo, "254:1")), Finding::ok("file system", "xfs"));
        assert_eq!(kind(mount_of(mountinfo, "0:21")).level, Level::Warn);
        assert_eq!(kind(mount_of(mountinfo, "8:1")).level, Level::Warn);
    }

    #[test]
    fn times_of_syncs_are_judged_by_their_median() {
        let of = |micros: &[u64]| sync(micros.iter().map(|n| Duration::from_micros(*n)).collect());
        assert_eq!(of(&[]).level, Level::Fail);
        assert_eq!(of(&[1, 2, 900]).level, Level::Warn);
        assert_eq!(of(&[100, 200, 90_000]).level, Level::Ok);
        assert_eq!(of(&[100, 8_000, 9_000]).level, Level::Warn);
        let found = of(&[100, 200, 90_000]).found;
        assert!(found.starts_with("a block written and synced in 200µs (median of 3;"), "{found}");
    }

    #[test]
    fn a_directory_is_measured_and_left_as_it_was() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let times = sync_times(dir.path()).expect("it can be written to");
        assert!(!times.is_empty() && times.is_sorted());
        assert_eq!(fs::read_dir(dir.path()).expect("still there").count(), 0);
    }
}
