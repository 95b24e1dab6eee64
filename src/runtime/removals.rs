//! Removed files whose space is freed a piece at a time.
//!
//! To free much at once keeps a file system, and a drive that is told of it
//! (`discard`), from everything else: 100 MB held all writes and syncs for 30 ms. A
//! removed file has lost its name at once; its length is then cut in steps, and after
//! each follows a rest of three times as long.
//!
//! What is left at the end of the process is freed then. A file that has another name
//! (a hard link) is left as it is.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes freed in one step; no longer files go at once.
const STEP: u64 = 2 << 20;

/// The shortest rest after a step.
const REST_MIN: Duration = Duration::from_millis(1);

/// Files that wait; beyond it the first one is freed at once.
const WAITING_MAX: usize = 256;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Removals {
    /// What is still to be freed, and how long it is.
    files: VecDeque<(File, u64)>,
    /// When the next step is due; `None` for at once.
    due: Option<Instant>,
}

impl Removals {
    /// Removes a file, or a directory with all that is in it. A missing one is fine.
    /// Nobody may use the files any more.
    ///
    /// # Errors
    /// What unlink(2) and its like say.
    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        match self.remove_existing(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn remove_existing(&mut self, path: &Path) -> io::Result<()> {
        let mut large = vec![];
        if fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                large.extend(open_large(&entry?.path()));
            }
            fs::remove_dir_all(path)?;
        } else {
            large.extend(open_large(path));
            fs::remove_file(path)?;
        }
        for (file, len) in large {
            if file.metadata()?.nlink() == 0 {
                self.files.push_back((file, len));
            }
            if self.files.len() > WAITING_MAX {
                self.files.pop_front();
            }
        }
        Ok(())
    }

    /// How long until the next step; `None` if there is none.
    pub fn wait(&self) -> Option<Duration> {
        let wait = |due: Instant| due.saturating_duration_since(Instant::now());
        (!self.files.is_empty()).then(|| self.due.map_or(Duration::ZERO, wait))
    }

    /// Does the next step if it is due.
    pub fn go_on(&mut self) {
        if self.wait() == Some(Duration::ZERO) {
            self.step();
        }
    }

    fn step(&mut self) {
        let Some((file, mut len)) = self.files.pop_front() else { return };
        let began = Instant::now();
        len = len.saturating_sub(STEP);
        match file.set_len(len) {
            Ok(()) if len > 0 => self.files.push_front((file, len)),
            Ok(()) => {}
            // Closing it frees the rest.
            Err(error) => tracing::warn!("cannot cut a removed file: {error}"),
        }
        let ended = Instant::now();
        self.due = Some(ended + REST_MIN.max(3 * (ended - began)));
    }
}

/// Opens a file to be cut if it is large, and tells its length.
fn open_large(path: &Path) -> Option<(File, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() <= STEP {
        return None;
    }
    match OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => Some((file, metadata.len())),
        Err(error) => {
            tracing::warn!("{} is freed all at once: {error}", path.display());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn file(path: &Path, len: u64) -> File {
        let file = File::create_new(path).expect("a new file");
        file.set_len(len).expect("it can be longer");
        file.write_all_at(b"first", 0).expect("there is space");
        file
    }

    fn len(file: &File) -> u64 {
        file.metadata().expect("it is open").len()
    }

    #[test]
    fn a_large_file_is_freed_in_steps_when_its_name_is_gone() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let path = dir.path().join("large");
        let held = file(&path, 2 * STEP + 1);
        let mut removals = Removals::default();
        removals.remove(&path).expect("it is removed");
        assert!(!path.exists());
        assert_eq!((len(&held), removals.wait()), (2 * STEP + 1, Some(Duration::ZERO)));
        for left in [STEP + 1, 1, 0] {
            removals.step();
            assert_eq!(len(&held), left);
        }
        assert_eq!(removals.wait(), None);
        removals.remove(&path).expect("a missing file is fine");
    }

    #[test]
    fn what_is_in_a_directory_is_freed_too_and_what_is_small_at_once() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let path = dir.path().join("topic-0");
        fs::create_dir(&path).expect("a new directory");
        let (large, small) = (file(&path.join("1.log"), STEP + 1), file(&path.join("2.log"), STEP));
        let mut removals = Removals::default();
        removals.remove(&path).expect("it is removed");
        assert!(!path.exists());
        assert_eq!(removals.files.len(), 1);
        removals.step();
        removals.step();
        assert_eq!((len(&large), len(&small), removals.wait()), (0, STEP, None));
    }

    #[test]
    fn a_file_with_another_name_stays_whole() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let (path, kept) = (dir.path().join("1.log"), dir.path().join("backup"));
        let held = file(&path, 2 * STEP);
        fs::hard_link(&path, &kept).expect("a second name");
        let mut removals = Removals::default();
        removals.remove(&path).expect("it is removed");
        assert_eq!((path.exists(), removals.wait(), len(&held)), (false, None, 2 * STEP));
    }

    #[test]
    fn only_so_many_wait() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let mut removals = Removals::default();
        for n in 0..=WAITING_MAX {
            let path = dir.path().join(n.to_string());
            file(&path, STEP + 1);
            removals.remove(&path).expect("it is removed");
        }
        assert_eq!(removals.files.len(), WAITING_MAX);
    }
}
