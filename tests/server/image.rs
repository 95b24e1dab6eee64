//! A file system of its own in a file, behind a loop device with direct I/O, so
//! that the file holds what reached the device and nothing that only the kernel
//! knows.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::temp_dir;

/// Whether a file system can be mounted here; says so if not.
pub fn can_mount() -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "mounting a file system needs root"
    } else if !Path::new("/dev/loop-control").exists() {
        "there are no loop devices"
    } else {
        return true;
    };
    println!("not run: {why}");
    false
}

/// A file system in a file, mounted.
#[derive(Debug)]
pub struct Image {
    /// Holds the file and the mount point.
    dir: TempDir,
    /// The loop device.
    device: Option<String>,
    mounted: bool,
}

impl Image {
    /// A new file system.
    pub fn create(bytes: u64) -> Self {
        let image = Self { dir: temp_dir(), device: None, mounted: false };
        let file = std::fs::File::create(image.file()).expect("the build's directory");
        file.set_len(bytes).expect("room for the image");
        // Nothing is left for the kernel to initialize behind the test's back.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0", "-J", &format!("size={}", journal_mib(bytes))])
            .args(["-E", options])
            .arg(image.file()));
        image.mount()
    }

    /// What is on the device now, as another image, mounted. This one is given up.
    pub fn copy(self) -> Self {
        let copy = Self { dir: temp_dir(), device: None, mounted: false };
        run(Command::new("cp").arg("--sparse=always").arg(self.file()).arg(copy.file()));
        drop(self);
        copy.mount()
    }

    fn mount(mut self) -> Self {
        let attach = ["--find", "--show", "--direct-io=on"];
        let device = run(Command::new("losetup").args(attach).arg(self.file()));
        let device = device.trim().to_owned();
        self.device = Some(device.clone());
        let name = Path::new(&device).file_name().expect("a device's path").to_owned();
        let direct = Path::new("/sys/block").join(name).join("loop/dio");
        let direct = std::fs::read_to_string(direct).expect("the device's attributes");
        assert_eq!(direct.trim(), "1", "{device} has no direct I/O: copies would hold too much");
        std::fs::create_dir(self.mount_point()).expect("an empty directory");
        let options = "noatime,commit=3000";
        run(Command::new("mount").args(["-o", options, &device]).arg(self.mount_point()));
        self.mounted = true;
        self
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    pub fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    /// The log directory on it.
    pub fn data(&self) -> PathBuf {
        self.mount_point().join("data")
    }
}

/// A small share of the device, within what mkfs takes.
fn journal_mib(bytes: u64) -> u64 {
    (bytes >> 25).clamp(4, 16)
}

impl Drop for Image {
    fn drop(&mut self) {
        // Lazily: the kernel lets go of a killed broker's ring after its process.
        if self.mounted {
            attempt(Command::new("umount").arg("--lazy").arg(self.mount_point()));
        }
        if let Some(device) = &self.device {
            attempt(Command::new("losetup").args(["--detach", device]));
        }
    }
}

/// Runs a command that has to succeed; what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8(output.stdout).expect("plain text")
}

/// Runs a command that cleans up: a failure is told and is no other one's end.
fn attempt(command: &mut Command) {
    match command.output() {
        Ok(output) if output.status.success() => {}
        failed => eprintln!("{command:?}: {failed:?}"),
    }
}
