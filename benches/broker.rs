//! The broker's first figures, beside the ceiling of its machine.
//!
//! The real binary with one core on CPU 0, a raw client on CPU 1; produce with
//! acks=all, synced before it is acknowledged (the default), and consume of
//! resident records. Records of 100 B and 1 KiB in uncompressed batches of
//! 64 KiB. Broker and ceiling (`bare/`) take turns within a round; the table has
//! the medians of the rounds. Every answer is checked: error, base offset, size.
//!
//! `cargo bench --bench broker -- [--dir DIR] [--seconds N] [--rounds N]
//! [--connections N] [--in-flight N] [--partitions N] [--memory BYTES]
//! [--only LOAD]... [--binary PATH]...`
//!
//! With several binaries all take turns, which is how two builds are compared.
//! `--only` takes "produce 100 B" and so on, or the beginning of it. Needs about
//! 4 GB in DIR.

#![allow(clippy::disallowed_methods)] // Measures real time.
#![allow(unsafe_code)] // Asks the kernel or the allocator directly.

mod arguments;
mod bare;
mod load;
mod requests;

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use arguments::Arguments;
use load::{AnswerReader, Client, Figures, Server, median};
use requests::Batch;

/// What consumers read, over and over: less than the broker keeps in memory.
const RESIDENT: usize = 512 << 20;

/// One batch: its base offset, behind which the rest is not looked at.
const LOOKED_AT: usize = 8;

struct Load {
    name: &'static str,
    record: usize,
    produce: bool,
}

const LOADS: [Load; 4] = [
    Load { name: "produce 100 B", record: 100, produce: true },
    Load { name: "produce 1 KiB", record: 1024, produce: true },
    Load { name: "consume 100 B", record: 100, produce: false },
    Load { name: "consume 1 KiB", record: 1024, produce: false },
];

fn main() -> io::Result<()> {
    let mut arguments = Arguments::read();
    if let Some(serve) = &arguments.serve {
        return serve.run();
    }
    if arguments.binaries.is_empty() {
        arguments.binaries.push(env!("CARGO_BIN_EXE_corelane").into());
    }
    let dir = arguments.dir.join(format!("corelane-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    arguments.dir = dir;
    let result = measure(&arguments);
    fs::remove_dir_all(&arguments.dir)?;
    result
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    println!("{}", load::machine(&arguments.dir)?);
    println!(
        "{} connections, {} produce requests in flight on each, {} partitions; {} rounds of {:?}\n",
        arguments.connections,
        arguments.in_flight,
        arguments.partitions,
        arguments.rounds,
        arguments.length,
    );
    let brokers: Vec<Broker> = arguments
        .binaries
        .iter()
        .enumerate()
        .map(|(index, binary)| Broker::start(arguments, binary, index))
        .collect::<io::Result<_>>()?;
    let loads = LOADS.iter().filter(|load| {
        arguments.only.is_empty() || arguments.only.iter().any(|only| load.name.starts_with(only))
    });
    println!(
        "| load | side | records/s | MB/s (min-max) | server CPU s/GB | server busy | MB/s to ceiling | CPU to ceiling |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for load in loads {
        let batch = requests::batch(load.record, 64 << 10);
        let mut ceiling = vec![];
        let mut sides = vec![vec![]; brokers.len()];
        // The first round fills memory and is not counted.
        for round in 0..=arguments.rounds {
            let server = arguments.start_bare(&batch)?;
            let client = |_| arguments.bare_client(&batch, load.produce);
            let figures = arguments.run(&server, load.produce, client)?;
            drop(server);
            arguments.clean();
            if round > 0 {
                ceiling.push(figures);
            }
            for (broker, side) in brokers.iter().zip(&mut sides) {
                let figures = broker.measure(arguments, &batch, load.produce)?;
                if round > 0 {
                    side.push(figures);
                }
            }
        }
        print(load, "ceiling", &ceiling, None, &batch);
        for (index, side) in sides.iter().enumerate() {
            print(load, &brokers[index].name, side, Some(&ceiling), &batch);
        }
    }
    println!();
    for broker in brokers {
        let memory = broker.server.memory()?;
        println!("{}: {} MB resident", broker.name, memory / 1_000_000);
        broker.server.stop()?;
    }
    Ok(())
}

fn print(load: &Load, side: &str, rounds: &[Figures], ceiling: Option<&[Figures]>, batch: &Batch) {
    let of =
        |rounds: &[Figures], what: fn(&Figures) -> f64| median(rounds.iter().map(what).collect());
    let speed = of(rounds, Figures::megabytes_per_second);
    let cost = of(rounds, Figures::cpu_seconds_per_gigabyte);
    let speeds = rounds.iter().map(Figures::megabytes_per_second);
    let (min, max) =
        speeds.fold((f64::MAX, 0.0_f64), |(min, max), speed| (min.min(speed), max.max(speed)));
    let records = speed * 1e6 / batch.bytes.len() as f64 * batch.records as f64;
    let (speed_ratio, cost_ratio) = ceiling.map_or(("".into(), "".into()), |ceiling| {
        let speed_ratio = speed / of(ceiling, Figures::megabytes_per_second);
        let cost_ratio = cost / of(ceiling, Figures::cpu_seconds_per_gigabyte);
        (format!("{speed_ratio:.2}"), format!("{cost_ratio:.2}"))
    });
    println!(
        "| {} | {side} | {:.2} M | {speed:.0} ({min:.0}-{max:.0}) | {cost:.3} | {:.0} % | {speed_ratio} | {cost_ratio} |",
        load.name,
        records / 1e6,
        100.0 * of(rounds, Figures::busy),
    );
}

/// A running broker.
struct Broker {
    name: String,
    binary: PathBuf,
    server: Server,
}

impl Broker {
    fn start(arguments: &Arguments, binary: &PathBuf, index: usize) -> io::Result<Self> {
        let name = if arguments.binaries.len() == 1 {
            "broker".to_owned()
        } else {
            format!("broker {}", index + 1)
        };
        let port = load::free_port()?;
        let dir = arguments.dir.join(index.to_string());
        let mut command = Command::new(binary);
        command.arg("serve");
        for set in [
            format!("listeners=PLAINTEXT://127.0.0.1:{port}"),
            format!("log.dirs={}", dir.display()),
            format!("corelane.memory={}", arguments.memory),
            "corelane.admin.listener=".to_owned(),
            "corelane.cores=1".to_owned(),
        ] {
            command.arg("--set").arg(set);
        }
        command.stdout(Stdio::null());
        let server = Server::start(command, port)?;
        if arguments.binaries.len() > 1 {
            println!("{name} is {}", binary.display());
        }
        Ok(Self { name, binary: binary.clone(), server })
    }

    /// Runs a command of the broker's own command line.
    fn command(&self, words: &[&str]) -> io::Result<()> {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--bootstrap").arg(self.server.address.to_string());
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(format!("{words:?}: {said}")))
    }

    fn measure(&self, arguments: &Arguments, batch: &Batch, produce: bool) -> io::Result<Figures> {
        let (topic, partitions) = (arguments::TOPIC, arguments.partitions);
        self.command(&["topic", "create", topic, "--partitions", &partitions.to_string()])?;
        let figures = if produce {
            arguments.run(&self.server, true, |_| Box::new(Producer::new(batch, partitions)))
        } else {
            let each = RESIDENT / batch.bytes.len() / partitions as usize;
            self.fill(batch, partitions, each)?;
            let end = (each * batch.records) as i64;
            arguments.run(&self.server, false, |index| {
                Box::new(Consumer::new(batch, index as i32 % partitions, end))
            })
        };
        self.command(&["topic", "delete", topic])?;
        figures
    }

    /// Writes `each` batches to every partition.
    fn fill(&self, batch: &Batch, partitions: i32, each: usize) -> io::Result<()> {
        let mut producer = Producer::new(batch, partitions);
        let mut socket = TcpStream::connect(self.server.address)?;
        let (mut open, mut left) = (0, each * partitions as usize);
        while open > 0 || left > 0 {
            if left > 0 && open < 16 {
                producer.ask(&mut socket)?;
                (open, left) = (open + 1, left - 1);
            } else {
                open -= producer.answer(&mut socket)?.0;
            }
        }
        Ok(())
    }
}

/// Writes a batch to every partition in turn.
struct Producer {
    frames: Vec<Vec<u8>>,
    asked: usize,
    answered: usize,
    /// The last base offset in each partition.
    last: Vec<i64>,
    answers: AnswerReader,
    batch: usize,
}

impl Producer {
    fn new(batch: &Batch, partitions: i32) -> Self {
        let frame = |partition| requests::produce(arguments::TOPIC, partition, &batch.bytes);
        Self {
            frames: (0..partitions).map(frame).collect(),
            asked: 0,
            answered: 0,
            last: vec![-1; partitions as usize],
            answers: AnswerReader::new(4 + requests::produced_len(arguments::TOPIC)),
            batch: batch.bytes.len(),
        }
    }
}

impl Client for Producer {
    fn ask(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        let at = self.asked % self.frames.len();
        requests::set_correlation_id(&mut self.frames[at], self.asked as i32);
        self.asked += 1;
        socket.write_all(&self.frames[at])
    }

    fn answer(&mut self, socket: &mut TcpStream) -> io::Result<(u64, u64)> {
        let Self { answered, last, answers, .. } = self;
        let count = answers.read(socket, |answer| {
            let said = requests::produced(&answer[4..], arguments::TOPIC);
            let partition = *answered % last.len();
            let known = &mut last[partition];
            let is_next = requests::i32_at(answer, 4) == *answered as i32;
            if said.error != 0 || said.base_offset <= *known || !is_next {
                return Err(io::Error::other(format!("{said:?} after {known}")));
            }
            *known = said.base_offset;
            *answered += 1;
            Ok(())
        })?;
        Ok((count, count * self.batch as u64))
    }
}

/// Reads a partition from its start to `end`, over and over.
struct Consumer {
    frame: Vec<u8>,
    offset: i64,
    end: i64,
    batch: usize,
    records: usize,
    head: Vec<u8>,
}

impl Consumer {
    fn new(batch: &Batch, partition: i32, end: i64) -> Self {
        let topic = arguments::TOPIC;
        let max = arguments::fetch_bytes(batch);
        let records_at = 4 + requests::fetched_head(topic) + requests::records_prefix(max);
        Self {
            frame: requests::fetch(topic, partition, max as i32),
            offset: 0,
            end,
            batch: batch.bytes.len(),
            records: batch.records,
            head: vec![0; records_at + LOOKED_AT],
        }
    }
}

impl Client for Consumer {
    fn ask(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        requests::set_fetch_offset(&mut self.frame, self.offset);
        socket.write_all(&self.frame)
    }

    fn answer(&mut self, socket: &mut TcpStream) -> io::Result<(u64, u64)> {
        // An answer with an error is shorter than the head of one with records.
        let at = 4 + requests::fetched_head(arguments::TOPIC);
        socket.read_exact(&mut self.head[..at])?;
        let said = requests::fetched(&self.head[4..], arguments::TOPIC);
        if said.error != 0 {
            return Err(io::Error::other(format!("{said:?} at {}", self.offset)));
        }
        socket.read_exact(&mut self.head[at..])?;
        let head = &self.head;
        let (records, prefix) = requests::records_len(&head[at..]);
        let whole = records > 0 && records.is_multiple_of(self.batch);
        let base = requests::i64_at(head, head.len() - LOOKED_AT);
        let len = requests::i32_at(head, 0) as usize + 4;
        let fits = at + prefix + LOOKED_AT == head.len() && len == at + prefix + records + 3;
        if !whole || !fits || base != self.offset {
            let asked = self.offset;
            let text = format!("{said:?}: {records} bytes from {base}, asked for {asked}");
            return Err(io::Error::other(text));
        }
        load::discard(socket, len - head.len())?;
        self.offset += (records / self.batch * self.records) as i64;
        if self.offset >= self.end {
            self.offset = 0;
        }
        Ok((1, records as u64))
    }
}
