//! Figures of compaction: how fast one core compacts beside live produce, and what
//! that does to the acknowledgements.
//!
//! The real binary with one core on CPU 0, the clients on CPU 1. A log of records of
//! 1 KiB is filled, each key about four times at random places (`--times`). Then, in
//! turns, with and without its compaction, the same core takes 100 MB/s of 1 KiB
//! records in batches of 64 KiB, acks=all and synced: an open loop, so the time of an
//! acknowledgement counts from the moment its batch was due. Every answer is checked.
//!
//! The speed of compaction is the length of the log by the time from the beginning of
//! the run to its end, in which it is read twice and what stays is written once. The
//! table has a row for each round, with how long writes, syncs and reads of the disk
//! and steps of the core took, up to the bound of their histogram's bucket; then
//! medians.
//!
//! `cargo bench --bench compaction -- [--dir DIR] [--rounds N] [--megabytes N]
//! [--times N] [--value BYTES] [--rate MB] [--set KEY=VALUE]...`
//!
//! `--rate 0` measures compaction alone. `--set` goes to the broker. Needs in DIR
//! twice the log, which is 1024 MB, and the live records of one round.

#![allow(clippy::disallowed_methods)] // Measures real time.
#![allow(unsafe_code)] // Asks the kernel or the allocator directly.

mod load;
mod requests;

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use corelane::model::record::{BatchBuilder, Codec};
use load::{AnswerReader, CLIENT_CPU, Server, free_port, median, pin};

const LIVE: &str = "live";
const DIRTY: &str = "dirty";
const BATCH: usize = 64 << 10;
const LIVE_CONNECTIONS: usize = 4;
const PARTITIONS: &str = "4";
/// Without compaction; with it, as long as that takes.
const LENGTH: Duration = Duration::from_secs(5);
const WARM_UP: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(120);
/// Requests that filling keeps open.
const FILLING: usize = 8;
const POLL: Duration = Duration::from_millis(50);

struct Options {
    dir: PathBuf,
    rounds: usize,
    megabytes: usize,
    times: usize,
    value: usize,
    rate: f64,
    settings: Vec<String>,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
            rounds: 5,
            megabytes: 1024,
            times: 4,
            value: 1024,
            rate: 100.0,
            settings: vec![],
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--bench" {
                continue;
            }
            let value = words.next().unwrap_or_else(|| usage(&word));
            let number = || value.parse().unwrap_or_else(|_| usage(&word));
            match word.as_str() {
                "--dir" => options.dir = PathBuf::from(&value),
                "--rounds" => options.rounds = number(),
                "--megabytes" => options.megabytes = number(),
                "--times" => options.times = number(),
                "--value" => options.value = number(),
                "--rate" => options.rate = value.parse().unwrap_or_else(|_| usage(&word)),
                "--set" => options.settings.push(value),
                _ => usage(&word),
            }
        }
        options
    }
}

fn usage(word: &str) -> ! {
    eprintln!("{word}: see the head of benches/compaction.rs");
    std::process::exit(2)
}

fn main() -> io::Result<()> {
    let options = Options::read();
    let dir = options.dir.join(format!("corelane-compaction-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let result = measure(&options, &dir);
    fs::remove_dir_all(&dir)?;
    result
}

/// A broker and how to speak to it.
struct Broker {
    server: Server,
    admin: u16,
}

impl Broker {
    fn start(options: &Options, dir: &Path) -> io::Result<Self> {
        let (port, admin) = (free_port()?, free_port()?);
        let mut command = Command::new(env!("CARGO_BIN_EXE_corelane"));
        command.arg("serve");
        let mut set = |setting: &str| {
            command.args(["--set", setting]);
        };
        set(&format!("log.dirs={}", dir.display()));
        set(&format!("listeners=PLAINTEXT://127.0.0.1:{port}"));
        set(&format!("corelane.admin.listener=127.0.0.1:{admin}"));
        set("corelane.cores=1");
        set("corelane.memory=1073741824");
        set("log.cleaner.backoff.ms=100");
        options.settings.iter().for_each(|setting| set(setting));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { server: Server::start(command, port)?, admin })
    }

    /// `corelane topic ...`.
    fn topic(&self, words: &[&str]) -> io::Result<()> {
        let done = Command::new(env!("CARGO_BIN_EXE_corelane"))
            .arg("topic")
            .args(words)
            .args(["--bootstrap", &self.server.address.to_string()])
            .stdout(Stdio::null())
            .status()?;
        if done.success() { Ok(()) } else { Err(io::Error::other(format!("topic {words:?}"))) }
    }

    /// Its numbers, in Prometheus' text.
    fn metrics(&self) -> io::Result<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.admin))?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(text)
    }

    /// One number of the core's.
    fn number(&self, name: &str) -> io::Result<f64> {
        let text = self.metrics()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("{core="));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        value.ok_or_else(|| io::Error::other(format!("no {name} in /metrics")))
    }

    /// How long things have taken so far.
    fn times(&self) -> io::Result<Times> {
        let text = self.metrics()?;
        Ok(TIMES.map(|(_, name)| buckets(&text, name)))
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpStream::connect(self.server.address)?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

/// What takes its time beside the acknowledgements, and its histogram.
const TIMES: [(&str, &str); 4] = [
    ("write", "corelane_disk_write_duration_seconds"),
    ("sync", "corelane_disk_sync_duration_seconds"),
    ("read", "corelane_disk_read_duration_seconds"),
    ("step", "corelane_step_duration_seconds"),
];

/// For each of [`TIMES`] the buckets: seconds, and how many took no longer.
type Times = [Vec<(f64, f64)>; TIMES.len()];

fn buckets(text: &str, name: &str) -> Vec<(f64, f64)> {
    let rows = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("_bucket{"));
    let row = |line: &str| {
        let (_, rest) = line.split_once("le=\"")?;
        let (bound, count) = rest.split_once("\"} ")?;
        let bound = bound.parse().unwrap_or(f64::INFINITY);
        Some((bound, count.parse().ok()?))
    };
    rows.filter_map(row).collect()
}

/// The milliseconds that half of them, 99 % and 99.9 % took no longer than, by the
/// bounds of the buckets.
fn shown(before: &Times, after: &Times) -> String {
    let row = |at: usize| {
        let counts = after[at].iter().zip(&before[at]).map(|(now, then)| (now.0, now.1 - then.1));
        let counts: Vec<(f64, f64)> = counts.collect();
        let total = counts.last().map_or(0.0, |last| last.1);
        let share = |share: f64| {
            let bound = counts.iter().find(|(_, count)| *count >= total * share);
            bound.map_or(0.0, |(bound, _)| bound * 1e3)
        };
        let (half, most, nearly) = (share(0.5), share(0.99), share(0.999));
        format!("{} {half}/{most}/{nearly}", TIMES[at].0)
    };
    (0..TIMES.len()).map(row).collect::<Vec<_>>().join(", ")
}

/// What one measurement came to; times in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Figures {
    p50: f64,
    p99: f64,
    /// Live records, MB/s, and CPU of the broker.
    produced: f64,
    busy: f64,
    /// MB of the log each second; 0 without compaction.
    compacted: f64,
    /// What is left of the log.
    kept: f64,
}

fn measure(options: &Options, dir: &Path) -> io::Result<()> {
    println!("{}", load::machine(dir)?);
    println!(
        "a log of {} MB with {} B records, each key {} times; {} MB/s of live records\n",
        options.megabytes, options.value, options.times, options.rate
    );
    pin(CLIENT_CPU)?;
    let mut rows = vec![];
    let times = "ms of 50 %, 99 %, 99.9 %";
    println!("| round | compaction | MB/s | kept | live MB/s | p50 ms | p99 ms | CPU | {times} |");
    println!("|---|---|---:|---:|---:|---:|---:|---:|---|");
    for round in 0..options.rounds {
        let data = dir.join(round.to_string());
        let broker = Broker::start(options, &data)?;
        let segment = "segment.bytes=104857600";
        let config = ["--config", "cleanup.policy=compact", "--config", segment];
        let never = ["--config", "min.cleanable.dirty.ratio=1"];
        broker.topic(&[&["create", DIRTY, "--partitions", "1"], &config[..], &never].concat())?;
        broker.topic(&["create", LIVE, "--partitions", PARTITIONS])?;
        let bytes = fill(options, &broker, round)?;
        let mut both = [None, None];
        // Which comes first changes: the disk remembers what was before.
        for compacts in [round % 2 == 1, round % 2 == 0] {
            let before = broker.times()?;
            let figures = live(options, &broker, compacts.then_some(bytes))?;
            let times = shown(&before, &broker.times()?);
            let side = if compacts { "with" } else { "without" };
            println!(
                "| {round} | {side} | {:.0} | {:.2} | {:.0} | {:.2} | {:.2} | {:.2} | {times} |",
                figures.compacted,
                figures.kept,
                figures.produced,
                figures.p50,
                figures.p99,
                figures.busy
            );
            both[usize::from(compacts)] = Some(figures);
        }
        rows.push(both.map(|side| side.expect("both were measured")));
        broker.server.stop()?;
        fs::remove_dir_all(&data)?;
    }
    let of = |side: usize, get: fn(&Figures) -> f64| {
        median(rows.iter().map(|both| get(&both[side])).collect())
    };
    println!(
        "\nmedians: compaction {:.0} MB/s; p99 {:.2} ms without, {:.2} ms with; CPU {:.2}, {:.2}",
        of(1, |one| one.compacted),
        of(0, |one| one.p99),
        of(1, |one| one.p99),
        of(0, |one| one.busy),
        of(1, |one| one.busy),
    );
    let ratios = rows.iter().map(|[without, with]| with.p99 / without.p99).collect();
    println!("p99 with compaction to without, median of the rounds' ratios: {:.2}", median(ratios));
    Ok(())
}

/// Writes the log that is to be compacted; returns its bytes.
fn fill(options: &Options, broker: &Broker, round: usize) -> io::Result<u64> {
    let total = options.megabytes as u64 * 1_000_000;
    let keys = total / options.value as u64 / options.times as u64;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ round as u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let noise: Vec<u8> = (0..options.value + (1 << 16)).map(|_| random() as u8).collect();
    let mut socket = broker.connect()?;
    let mut answers = AnswerReader::new(4 + requests::produced_len(DIRTY));
    let (mut written, mut open) = (0, 0);
    while written < total || open > 0 {
        if written < total && open < FILLING {
            let mut builder = BatchBuilder::new(Codec::None);
            while builder.is_empty() || builder.uncompressed_len() + options.value + 40 <= BATCH {
                let key = format!("key-{:012}", random() % keys);
                let value = &noise[random() as usize & 0xffff..][..options.value];
                builder.push(requests::unix_millis(), Some(key.as_bytes()), Some(value), &[]);
            }
            let batch = builder.finish();
            socket.write_all(&requests::produce(DIRTY, 0, &batch))?;
            (written, open) = (written + batch.len() as u64, open + 1);
            continue;
        }
        open -= answers.read(&mut socket, |answer| good(answer, DIRTY))? as usize;
    }
    Ok(written)
}

fn good(answer: &[u8], topic: &str) -> io::Result<()> {
    match requests::produced(&answer[4..], topic).error {
        0 => Ok(()),
        error => Err(io::Error::other(format!("the broker answered with error {error}"))),
    }
}

/// When a batch was due, and how long it took from then on.
type Sample = (Instant, Duration);

/// Live records, with the compaction of so many bytes or without.
fn live(options: &Options, broker: &Broker, compact: Option<u64>) -> io::Result<Figures> {
    let stop = AtomicBool::new(false);
    let batch = requests::batch(1024, BATCH);
    let every = batch.bytes.len() as f64 / (options.rate * 1e6) * LIVE_CONNECTIONS as f64;
    thread::scope(|scope| {
        let mut connections = vec![];
        if options.rate > 0.0 {
            for n in 0..LIVE_CONNECTIONS {
                let frame = requests::produce(LIVE, n as i32, &batch.bytes);
                let shift = every * n as f64 / LIVE_CONNECTIONS as f64;
                let (stop, socket) = (&stop, broker.connect()?);
                connections.push(scope.spawn(move || open_loop(socket, frame, every, shift, stop)));
            }
        }
        let result = watch(broker, compact);
        stop.store(true, Ordering::Relaxed);
        let mut samples = vec![];
        for connection in connections {
            samples.extend(connection.join().expect("a client does not panic")?);
        }
        let (from, to, cpu, compacted, kept) = result?;
        let counted = samples.iter().filter(|(due, _)| (from..to).contains(due));
        let mut times: Vec<Duration> = counted.map(|(_, took)| *took).collect();
        times.sort_unstable();
        let at = |share: f64| match times.len() {
            0 => f64::NAN,
            len => times[((len - 1) as f64 * share) as usize].as_secs_f64() * 1e3,
        };
        let seconds = (to - from).as_secs_f64();
        Ok(Figures {
            p50: at(0.5),
            p99: at(0.99),
            produced: (times.len() * batch.bytes.len()) as f64 / seconds / 1e6,
            busy: cpu / seconds,
            compacted,
            kept,
        })
    })
}

/// The time that counts, the broker's CPU in it, the speed of compaction, and what
/// part of the log was kept.
fn watch(broker: &Broker, compact: Option<u64>) -> io::Result<(Instant, Instant, f64, f64, f64)> {
    const RUNS: &str = "corelane_cleaner_runs_total";
    const MAPPED: &str = "corelane_cleaner_mapped_bytes_total";
    thread::sleep(WARM_UP);
    let Some(bytes) = compact else {
        let (from, before) = (Instant::now(), broker.server.cpu_seconds()?);
        thread::sleep(LENGTH);
        let cpu = broker.server.cpu_seconds()? - before;
        return Ok((from, Instant::now(), cpu, 0.0, 1.0));
    };
    let runs = broker.number(RUNS)?;
    let mapped = broker.number(MAPPED)?;
    broker.topic(&["alter", DIRTY, "--config", "min.cleanable.dirty.ratio=0"])?;
    let patience = Instant::now() + PATIENCE;
    let wait = |name: &str, before: f64| {
        while broker.number(name)? <= before {
            if Instant::now() > patience {
                return Err(io::Error::other("the log is not compacted"));
            }
            thread::sleep(POLL);
        }
        Ok(())
    };
    wait(MAPPED, mapped)?;
    let (from, before) = (Instant::now(), broker.server.cpu_seconds()?);
    wait(RUNS, runs)?;
    let to = Instant::now();
    let cpu = broker.server.cpu_seconds()? - before;
    let took = broker.number("corelane_cleaner_last_run_seconds")?;
    let read = broker.number("corelane_cleaner_read_bytes_total")?;
    let kept = broker.number("corelane_cleaner_kept_bytes_total")?;
    Ok((from, to, cpu, bytes as f64 / took / 1e6, kept / read))
}

/// Sends the frame every so many seconds, whatever becomes of the answers, and reads
/// them in a thread of its own.
fn open_loop(
    mut socket: TcpStream,
    frame: Vec<u8>,
    every: f64,
    shift: f64,
    stop: &AtomicBool,
) -> io::Result<Vec<Sample>> {
    let mut reader = socket.try_clone()?;
    let (sent, due) = mpsc::channel::<Instant>();
    let answers = thread::spawn(move || {
        let mut samples = vec![];
        let mut answers = AnswerReader::new(4 + requests::produced_len(LIVE));
        let mut open = 0_u64;
        loop {
            if open == 0 {
                let Ok(at) = due.recv() else { return Ok(samples) };
                samples.push((at, Duration::ZERO));
                open += 1;
            }
            let first = samples.len() - open as usize;
            let count = answers.read(&mut reader, |answer| good(answer, LIVE))?;
            let now = Instant::now();
            while open < count {
                samples.push((due.recv().map_err(io::Error::other)?, Duration::ZERO));
                open += 1;
            }
            for (at, took) in &mut samples[first..first + count as usize] {
                *took = now - *at;
            }
            open -= count;
        }
    });
    let start = Instant::now() + Duration::from_secs_f64(shift);
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let at = start + Duration::from_secs_f64(every * f64::from(n));
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if sent.send(at).is_err() {
            break;
        }
        socket.write_all(&frame)?;
    }
    drop(sent);
    answers.join().expect("a client does not panic")
}
