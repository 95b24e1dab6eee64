//! The real binary as a child process, for tests.
//!
//! A broker is started on a port that the kernel chooses and is up when its
//! banner says so. It ends by [`Broker::stop`] (SIGTERM, exit status 0), by
//! [`Broker::kill`] (SIGKILL), or when it is dropped. Every wait has an end;
//! nothing waits by sleeping. Processes are ended by their number.

pub mod wire;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

/// The longest that anything may take; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An empty directory on the file system of the build, which takes direct I/O
/// where `/tmp` may not.
pub fn temp_dir() -> TempDir {
    tempfile::Builder::new()
        .prefix("corelane-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("the build's directory can be written")
}

/// How a broker is to be started.
#[derive(Clone, Debug)]
pub struct Start {
    dir: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Start {
    /// On the data of `dir`, with two cores and a modest share of the memory. What
    /// tests write may be of any age, and stays.
    pub fn on(dir: &Path) -> Self {
        let start = Self { dir: dir.to_owned(), arguments: vec![], environment: vec![] };
        start
            .set("listeners=PLAINTEXT://127.0.0.1:0")
            .set(&format!("log.dirs={}", dir.display()))
            .set("corelane.admin.listener=")
            .set("corelane.cores=2")
            .set("corelane.memory=512m")
            .set("log.retention.ms=-1")
    }

    /// Adds a setting; the last one of a name counts.
    pub fn set(mut self, setting: &str) -> Self {
        self.arguments.extend(["--set".to_owned(), setting.to_owned()]);
        self
    }

    /// Adds a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts a broker that has to come up.
    pub fn broker(&self) -> Broker {
        match self.attempt() {
            Ok(broker) => broker,
            Err(ended) => panic!("the broker did not start: {ended:?}"),
        }
    }

    /// Starts a broker that need not come up.
    pub fn attempt(&self) -> Result<Broker, Ended> {
        let mut process = Process::spawn(|command| {
            command.arg("serve").args(&self.arguments);
            command.envs(self.environment.iter().map(|(name, value)| (name, value)));
            command.stdin(Stdio::null());
        });
        let deadline = Instant::now() + PATIENCE;
        let mut banner = String::new();
        loop {
            match process.lines.recv_timeout(left(deadline)) {
                Ok(line) => {
                    let last = line.trim_start().starts_with("cluster ");
                    banner.push_str(&line);
                    if last {
                        break;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let mut ended = process.end(left(deadline));
                    ended.stdout.insert_str(0, &banner);
                    return Err(ended);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let threads = process.threads();
                    panic!("no banner came, only {banner:?}; its threads:\n{threads}")
                }
            }
        }
        let row = |name: &str| {
            let line = banner.lines().find(|line| line.trim_start().starts_with(name));
            line.unwrap_or_else(|| panic!("no {name} in {banner:?}"))
        };
        let address = row("kafka ").split_whitespace().nth(1).expect("an address").to_owned();
        let admin = banner.lines().find_map(|line| line.trim_start().strip_prefix("admin "));
        let admin = admin.map(|row| {
            let url = row.split_whitespace().next().expect("an address");
            url.trim_start_matches("http://").trim_end_matches("/health,").to_owned()
        });
        let was_clean = !row("data ").ends_with("logs are checked)");
        Ok(Broker { dir: self.dir.clone(), process, address, admin, was_clean })
    }
}

/// A running broker. Dropping it kills it.
#[derive(Debug)]
pub struct Broker {
    dir: PathBuf,
    process: Process,
    address: String,
    admin: Option<String>,
    was_clean: bool,
}

impl Broker {
    /// Where it listens, `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it answers HTTP, `HOST:PORT`.
    pub fn admin(&self) -> &str {
        self.admin.as_deref().expect("started with an admin listener")
    }

    /// Its log directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it found its logs closed by the last run.
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// Its most resident memory so far, bytes.
    pub fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.child.id());
        let status = std::fs::read_to_string(path).expect("a running process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("a size in kB");
        kib.trim().parse::<u64>().expect("a number") * 1024
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for it to end by itself.
    pub fn wait(mut self) -> Ended {
        self.process.end(PATIENCE)
    }

    /// Stops it with SIGTERM; it has to end with status 0.
    pub fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        let ended = self.wait();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        ended
    }

    /// Kills it with SIGKILL. It has to have lived until then.
    pub fn kill(mut self) -> Ended {
        self.signal(Signal::KILL);
        let ended = self.process.end(PATIENCE);
        assert_eq!(ended.status.code(), None, "it ended before it was killed: {ended:?}");
        ended
    }
}

/// Runs a command of the binary to its end.
pub fn corelane<S: AsRef<OsStr>>(arguments: &[S], stdin: &str) -> Ended {
    let mut process = Process::spawn(|command| {
        command.args(arguments).stdin(Stdio::piped());
    });
    let mut pipe = process.child.stdin.take().expect("asked for");
    // A command that ends early leaves its input unread.
    let _ = pipe.write_all(stdin.as_bytes());
    drop(pipe);
    process.end(PATIENCE)
}

/// Starts a command of the binary that goes on until it is told to end.
pub fn running<S: AsRef<OsStr>>(arguments: &[S]) -> Process {
    Process::spawn(|command| {
        command.args(arguments).stdin(Stdio::null());
    })
}

/// A child process whose output is read as it comes.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pidfd: OwnedFd,
    lines: mpsc::Receiver<String>,
    stderr: Option<JoinHandle<String>>,
}

impl Process {
    fn spawn(prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn().expect("the binary starts");
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .expect("a child that was not waited for has a number");
        let stdout = BufReader::new(child.stdout.take().expect("asked for"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut stdout = stdout;
            let mut line = String::new();
            while stdout.read_line(&mut line).is_ok_and(|len| len > 0) {
                if sender.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        let mut stderr = child.stderr.take().expect("asked for");
        let stderr = std::thread::spawn(move || {
            let mut bytes = vec![];
            // What was read before an error is what there is.
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self { child, pidfd, lines, stderr: Some(stderr) }
    }

    /// The next line of its output, without its end.
    pub fn line(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE).expect("another line");
        line.trim_end_matches('\n').to_owned()
    }

    /// Asks it to end by a signal, and waits for that.
    pub fn interrupt(mut self) -> Ended {
        self.signal(Signal::INT);
        self.end(PATIENCE)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is our child");
    }

    /// Waits for the end and collects the rest of the output.
    fn end(&mut self, patience: Duration) -> Ended {
        let timeout = Timespec::try_from(patience).expect("a minute at most");
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let ended = poll(&mut fds, Some(&timeout)).expect("a valid descriptor");
        let threads = if ended == 0 { self.threads() } else { String::new() };
        if ended == 0 {
            self.signal(Signal::KILL);
        }
        let status = self.child.wait().expect("it is our child");
        let stdout = self.lines.iter().collect();
        let stderr = self.stderr.take().expect("a process ends once");
        let stderr = stderr.join().expect("the reader does not panic");
        let result = Ended { status, stdout, stderr };
        assert!(ended > 0, "the process did not end in time: {result:?}; its threads:\n{threads}");
        result
    }

    /// What each thread does, and where it is in the kernel as far as that may be
    /// read: for a process that does nothing any more.
    fn threads(&self) -> String {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", self.child.id())) else {
            return "it has ended".to_owned();
        };
        let mut text = String::new();
        for task in tasks.flatten() {
            let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let status = read("status");
            let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or_default();
            text += &format!("{} {state}\n{}", read("comm").trim_end(), read("stack"));
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.stderr.is_some() {
            // It may have ended by itself; either way it is gone afterwards.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
