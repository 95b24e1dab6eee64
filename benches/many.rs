//! Many partitions: how long a stop and a start take, and what idle ones cost.
//!
//! The real binary on any CPU, its `--cores` pinned as it likes. A topic of
//! `--partitions` gets one record in each. Then, round by round:
//!
//! - *stop*: from SIGTERM to the end of the process;
//! - *clean start*: from the start of the process to the acknowledgement of the last
//!   of a record for each partition (acks=all, synced);
//! - *start after kill -9*: the same, behind a SIGKILL.
//!
//! The parts of a start that are shown: until it listens, and until the first answer
//! (a request names `--batch` partitions). Idle memory and CPU are read from /proc:
//! of a broker without a topic, and of one that has just taken a record for each
//! partition; CPU over `--idle` seconds.
//!
//! `cargo bench --bench many -- [--dir DIR] [--partitions N] [--cores N] [--rounds N]
//! [--batch N] [--idle SECONDS] [--binary PATH]`

#![allow(clippy::disallowed_methods)] // Measures real time.
#![allow(unsafe_code)] // Asks the kernel or the allocator directly.

mod load;
mod requests;

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use load::{Server, median};

const TOPIC: &str = "t";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

struct Arguments {
    dir: PathBuf,
    partitions: i32,
    cores: usize,
    rounds: usize,
    batch: usize,
    idle: f64,
    binary: PathBuf,
}

impl Arguments {
    fn read() -> Self {
        let mut arguments = Self {
            dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
            partitions: 10_000,
            cores: 1,
            rounds: 3,
            batch: 500,
            idle: 10.0,
            binary: env!("CARGO_BIN_EXE_corelane").into(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut next = || words.next().unwrap_or_else(|| usage(&word));
            match word.as_str() {
                "--bench" => {} // Cargo says so.
                "--dir" => arguments.dir = next().into(),
                "--partitions" => arguments.partitions = number(&word, &next()),
                "--cores" => arguments.cores = number(&word, &next()),
                "--rounds" => arguments.rounds = number(&word, &next()),
                "--batch" => arguments.batch = number(&word, &next()),
                "--idle" => arguments.idle = number(&word, &next()),
                "--binary" => arguments.binary = next().into(),
                _ => usage(&word),
            }
        }
        arguments
    }

    /// Starts the broker; it listens when this returns.
    fn start(&self, dir: &Path) -> io::Result<Server> {
        let port = load::free_port()?;
        let mut command = Command::new(&self.binary);
        command.arg("serve");
        for set in [
            format!("listeners=PLAINTEXT://127.0.0.1:{port}"),
            format!("log.dirs={}", dir.display()),
            "corelane.admin.listener=".to_owned(),
            format!("corelane.cores={}", self.cores),
        ] {
            command.arg("--set").arg(set);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Server::start_anywhere(command, port)
    }

    /// Runs a command of the broker's own command line.
    fn command(&self, server: &Server, words: &[&str]) -> io::Result<()> {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--bootstrap").arg(server.address.to_string());
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(format!("{words:?}: {said}")))
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> T {
    text.parse().unwrap_or_else(|_| usage(name))
}

fn usage(word: &str) -> ! {
    eprintln!("cannot make sense of {word}; see the head of the bench's file");
    std::process::exit(2);
}

/// What one start came to, seconds since the process was started.
struct Start {
    listens: f64,
    first: f64,
    last: f64,
    cpu: f64,
}

fn main() -> io::Result<()> {
    let mut arguments = Arguments::read();
    let dir = arguments.dir.join(format!("corelane-many-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    arguments.dir = dir;
    let result = measure(&arguments);
    fs::remove_dir_all(&arguments.dir)?;
    result
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let Arguments { partitions, cores, rounds, .. } = arguments;
    println!("{}", load::machine(&arguments.dir)?);
    println!("{partitions} partitions, {cores} cores, {rounds} rounds\n");

    let empty = arguments.start(&arguments.dir.join("empty"))?;
    let (resident, busy) = rest(&empty, arguments.idle)?;
    println!("no topic: {:.1} MiB resident, {busy:.2} % of a CPU", mib(resident));
    empty.stop()?;

    let dir = arguments.dir.join("data");
    let mut server = arguments.start(&dir)?;
    arguments
        .command(&server, &["topic", "create", TOPIC, "--partitions", &partitions.to_string()])?;
    let created = server.memory()?;
    let begun = Instant::now();
    produce(arguments, &server, begun)?;
    println!("first records: {:.2} s", begun.elapsed().as_secs_f64());
    let each = |now: u64| now.saturating_sub(resident) as f64 / f64::from(*partitions) / 1024.0;
    let (used, busy) = rest(&server, arguments.idle)?;
    println!(
        "{partitions} partitions: {:.1} MiB resident, {:.1} KiB each before the first record, \
         {:.1} KiB after it; {busy:.2} % of a CPU",
        mib(used),
        each(created),
        each(used)
    );

    let (mut stops, mut clean, mut killed) = (vec![], vec![], vec![]);
    for round in 1..=*rounds {
        let begun = Instant::now();
        let status = server.stop_within(PATIENCE)?;
        stops.push(begun.elapsed().as_secs_f64());
        if !status.success() {
            return Err(io::Error::other(format!("not a clean stop: {status}")));
        }
        let (again, start) = start_and_produce(arguments, &dir)?;
        tell(round, "clean start", &start);
        clean.push(start.last);
        again.kill()?;
        let (again, start) = start_and_produce(arguments, &dir)?;
        tell(round, "start after kill -9", &start);
        killed.push(start.last);
        server = again;
        println!("round {round}: stop {:.2} s", stops[round - 1]);
    }
    let (used, busy) = rest(&server, arguments.idle)?;
    println!("after a restart: {:.1} KiB each; {busy:.2} % of a CPU", each(used));
    server.stop_within(PATIENCE)?;
    println!("\n| what | median of {rounds} |\n|---|---|");
    for (what, times) in
        [("clean stop", stops), ("clean start", clean), ("start after kill -9", killed)]
    {
        println!("| {what} | {:.2} s |", median(times));
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn tell(round: usize, what: &str, start: &Start) {
    let Start { listens, first, last, cpu } = start;
    println!(
        "round {round}: {what} {last:.2} s (listens {listens:.2}, first answer {first:.2}; \
         CPU {cpu:.2} s)"
    );
}

/// Resident memory, and percent of a CPU that a broker uses that has nothing to do.
fn rest(server: &Server, seconds: f64) -> io::Result<(u64, f64)> {
    // What has just happened is over.
    thread::sleep(Duration::from_secs(2));
    let before = server.cpu_seconds()?;
    thread::sleep(Duration::from_secs_f64(seconds));
    let busy = (server.cpu_seconds()? - before) / seconds * 100.0;
    Ok((server.memory()?, busy))
}

fn start_and_produce(arguments: &Arguments, dir: &Path) -> io::Result<(Server, Start)> {
    let begun = Instant::now();
    let server = arguments.start(dir)?;
    let listens = begun.elapsed().as_secs_f64();
    let (first, last) = produce(arguments, &server, begun)?;
    let cpu = server.cpu_seconds()?;
    Ok((server, Start { listens, first, last, cpu }))
}

/// Writes a record to each partition. Returns when the first and the last request
/// were answered, seconds since `begun`.
fn produce(arguments: &Arguments, server: &Server, begun: Instant) -> io::Result<(f64, f64)> {
    let batch = requests::batch(100, 1);
    let mut socket = TcpStream::connect(server.address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let all: Vec<i32> = (0..arguments.partitions).step_by(arguments.batch).collect();
    let range = |from: i32| from..(from + arguments.batch as i32).min(arguments.partitions);
    let mut writer = socket.try_clone()?;
    let frames: Vec<Vec<u8>> = all
        .iter()
        .map(|from| requests::produce_to_many(TOPIC, range(*from), &batch.bytes))
        .collect();
    // The broker stops reading when it has enough to do.
    let writing =
        thread::spawn(move || frames.iter().try_for_each(|frame| writer.write_all(frame)));
    let mut first = None;
    for from in &all {
        let mut len = [0; 4];
        socket.read_exact(&mut len)?;
        let mut answer = vec![0; i32::from_be_bytes(len) as usize];
        socket.read_exact(&mut answer)?;
        let errors = requests::produced_to_many(&answer, TOPIC, range(*from).len());
        if errors.as_ref().is_none_or(|errors| !errors.is_empty()) {
            let text = format!("partitions from {from} on answer with errors: {errors:?}");
            return Err(io::Error::other(text));
        }
        first.get_or_insert(begun.elapsed().as_secs_f64());
    }
    writing.join().map_err(|_| io::Error::other("the writer has panicked"))??;
    let last = begun.elapsed().as_secs_f64();
    Ok((first.unwrap_or(last), last))
}
