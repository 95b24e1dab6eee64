//! The power is pulled under load: what was acknowledged is on the device.
//!
//! The data lies on an ext4 in a file behind a loop device with direct I/O, so
//! the file holds what reached the device and nothing that only the kernel
//! knows. The broker is killed under load and the file copied while it is still
//! mounted; the copy is what a machine finds after its power came back. It is
//! mounted, its journal replayed, a broker started on it and everything read;
//! then the load goes on there. ext4's periodic commit is put off, so that
//! nothing but the broker's own syncs brings anything to the device.
//!
//! The same without syncs (`CORELANE_TEST_SKIP_SYNC=1`) has to lose records:
//! otherwise this test would prove nothing.
//!
//! Needs root, loop devices and mkfs.ext4:
//! `cargo test --release --test server -- --ignored --nocapture power`
//! (`CORELANE_TEST_ROUNDS` for another number, `CORELANE_TEST_SEED` for other draws).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use corelane::base::rng::Rng;
use tempfile::TempDir;

use crate::harness::{Start, temp_dir};
use crate::load::{Account, ROLLING, SYNCED};
use crate::number;

/// Pulls in a row, each on what the one before has left.
const PULLS_PER_IMAGE: u64 = 10;

const IMAGE_BYTES: u64 = 1 << 30;

#[test]
#[ignore = "needs root, loop devices and minutes; run it with --ignored"]
fn power_pull_100() {
    if !can_mount() {
        return;
    }
    let (count, seed) = (number("CORELANE_TEST_ROUNDS", 100), number("CORELANE_TEST_SEED", 1));
    let started = Instant::now();
    let mut rng = Rng::stream(seed, "power");
    let (mut acknowledged, mut done) = (0, 0);
    while done < count {
        let mut image = Image::create();
        let mut broker = Start::on(&image.data()).broker();
        let mut account = Account::open(&broker, &[SYNCED, ROLLING]);
        for _ in 0..PULLS_PER_IMAGE.min(count - done) {
            let mut load = account.load(&broker, &mut rng, true);
            let heard = load.wait(rng.between(50, 3_000) as usize, &mut rng);
            broker.kill();
            let next = image.copy();
            account.settle(load);
            account.acknowledged += heard as u64;
            image = next;
            broker = Start::on(&image.data()).broker();
            done += 1;
            account.verify(&broker).expect_sound(&format!("seed {seed}, pull {done}"));
        }
        assert_eq!(account.refused, [0; 0], "seed {seed}");
        broker.stop();
        acknowledged += account.acknowledged;
    }
    println!(
        "power: {done} pulls; {acknowledged} records acknowledged, none lost, doubled, moved or \
         changed; {:.1} s, seed {seed}",
        started.elapsed().as_secs_f64(),
    );
}

#[test]
#[ignore = "needs root and loop devices; run it with --ignored"]
fn power_pull_without_sync_loses_records() {
    if !can_mount() {
        return;
    }
    const PULLS: usize = 10;
    let mut rng = Rng::stream(number("CORELANE_TEST_SEED", 1), "power without sync");
    let (mut promised, mut lost, mut pulls_with_loss) = (0, 0, 0);
    for _ in 0..PULLS {
        let image = Image::create();
        let broker = Start::on(&image.data()).env("CORELANE_TEST_SKIP_SYNC", "1").broker();
        let mut account = Account::open(&broker, &[SYNCED, ROLLING]);
        let mut load = account.load(&broker, &mut rng, false);
        load.wait(rng.between(50, 3_000) as usize, &mut rng);
        let ended = broker.kill();
        assert!(ended.stderr.contains("NOTHING IS SYNCED"), "{ended:?}");
        let image = image.copy();
        account.settle(load);
        let broker = Start::on(&image.data()).broker();
        promised += account.promised();
        let findings = account.verify(&broker);
        broker.kill();
        lost += findings.lost;
        pulls_with_loss += usize::from(findings.lost > 0);
    }
    println!(
        "power without sync: {pulls_with_loss} of {PULLS} pulls lost records; of {promised} \
         that were acknowledged or served, {lost} are gone"
    );
    assert!(pulls_with_loss > PULLS / 2, "the test would not notice a missing sync");
}

fn can_mount() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("not run: mounting a file system needs root");
    }
    root
}

/// A file system in a file, mounted.
#[derive(Debug)]
struct Image {
    /// Holds the file and the mount point.
    dir: TempDir,
    /// The loop device.
    device: Option<String>,
    mounted: bool,
}

impl Image {
    /// A new file system.
    fn create() -> Self {
        let image = Self { dir: temp_dir(), device: None, mounted: false };
        let file = std::fs::File::create(image.file()).expect("the build's directory");
        file.set_len(IMAGE_BYTES).expect("room for the image");
        // Nothing is left for the kernel to initialize behind the test's back.
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-J", "size=16", "-E", options])
            .arg(image.file()));
        image.mount()
    }

    /// What is on the device now, as another image, mounted. This one is given up.
    fn copy(self) -> Self {
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

    fn mount_point(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    /// The log directory on it.
    fn data(&self) -> PathBuf {
        self.mount_point().join("data")
    }
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
fn run(command: &mut Command) -> String {
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
