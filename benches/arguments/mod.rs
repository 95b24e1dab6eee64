//! The command line that the ceiling and the broker's bench share, and the bare
//! loop as a server of its own: the bench runs itself again to have one.

#![allow(dead_code)] // Each bench uses its part.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bare;
use crate::load::{self, AnswerReader, Client, Figures, PlainConsumer, PlainProducer, Server};
use crate::requests::{self, Batch};

/// As short as any: the answers of both sides have the same size.
pub const TOPIC: &str = "t";

/// Bytes a consumer asks for at most; it gets whole batches.
const FETCH_MAX: usize = 1 << 20;

const FILE: &str = "ceiling";

pub struct Arguments {
    /// Where the server's files go.
    pub dir: PathBuf,
    /// Length of one measurement.
    pub length: Duration,
    pub rounds: usize,
    pub connections: usize,
    /// Produce requests that each connection keeps open.
    pub in_flight: usize,
    pub partitions: i32,
    /// `corelane.memory`, bytes.
    pub memory: u64,
    /// Loads that are run, by the beginning of their names; all if there are none.
    pub only: Vec<String>,
    /// Broker binaries to compare.
    pub binaries: Vec<PathBuf>,
    /// This process is the server.
    pub serve: Option<Serve>,
}

/// What the bare server is told.
pub struct Serve {
    port: u16,
    file: PathBuf,
    answers: bare::Answers,
}

impl Serve {
    pub fn run(&self) -> io::Result<()> {
        bare::serve(self.port, &self.file, load::SERVER_CPU, self.answers)
    }
}

impl Arguments {
    /// Reads them; whatever cannot be understood ends the process.
    pub fn read() -> Self {
        let mut arguments = Self {
            dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
            length: Duration::from_secs(2),
            rounds: 5,
            connections: 4,
            in_flight: 8,
            partitions: 4,
            memory: 3 << 30,
            only: vec![],
            binaries: vec![],
            serve: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut next = || words.next().unwrap_or_else(|| usage(&word));
            match word.as_str() {
                "--bench" => {} // Cargo says so.
                "--dir" => arguments.dir = next().into(),
                "--seconds" => arguments.length = Duration::from_secs_f64(number(&word, &next())),
                "--rounds" => arguments.rounds = number(&word, &next()),
                "--connections" => arguments.connections = number(&word, &next()),
                "--in-flight" => arguments.in_flight = number(&word, &next()),
                "--partitions" => arguments.partitions = number(&word, &next()),
                "--memory" => arguments.memory = number(&word, &next()),
                "--only" => arguments.only.push(next()),
                "--binary" => arguments.binaries.push(next().into()),
                "--serve" => {
                    arguments.serve = Some(Serve {
                        port: number(&word, &next()),
                        file: next().into(),
                        answers: bare::Answers {
                            produced: number(&word, &next()),
                            fetched: number(&word, &next()),
                        },
                    });
                }
                _ => usage(&word),
            }
        }
        arguments
    }

    /// Starts the bare loop as a server.
    pub fn start_bare(&self, batch: &Batch) -> io::Result<Server> {
        let port = load::free_port()?;
        let file = self.dir.join(FILE);
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--serve").arg(port.to_string()).arg(&file);
        command.arg((4 + requests::produced_len(TOPIC)).to_string());
        command.arg(fetched_len(batch).to_string());
        Server::start(command, port)
    }

    /// A client of the bare loop.
    pub fn bare_client(&self, batch: &Batch, produce: bool) -> Box<dyn Client> {
        if produce {
            let frame = requests::produce(TOPIC, 0, &batch.bytes);
            let answers = AnswerReader::new(4 + requests::produced_len(TOPIC));
            Box::new(PlainProducer { frame, batch: batch.bytes.len(), answers })
        } else {
            let batches = fetch_bytes(batch);
            let frame = requests::fetch(TOPIC, 0, batches as i32);
            Box::new(PlainConsumer { frame, answer: fetched_len(batch), batches })
        }
    }

    /// Runs one measurement with a client for each connection.
    pub fn run(
        &self,
        server: &Server,
        produce: bool,
        client: impl Fn(usize) -> Box<dyn Client>,
    ) -> io::Result<Figures> {
        let mut clients: Vec<_> = (0..self.connections).map(client).collect();
        // A consumer waits for its answer before it asks again.
        let in_flight = if produce { self.in_flight } else { 1 };
        load::run(server, &mut clients, in_flight, self.length)
    }

    /// Removes what the bare loop wrote.
    pub fn clean(&self) {
        bare::files(&self.dir.join(FILE)).for_each(|file| remove(&file));
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("{}: {error}", path.display());
    }
}

/// Bytes of whole batches that a fetch asks for.
pub fn fetch_bytes(batch: &Batch) -> usize {
    FETCH_MAX / batch.bytes.len() * batch.bytes.len()
}

/// Bytes of the answer to that, its length included.
fn fetched_len(batch: &Batch) -> usize {
    let records = fetch_bytes(batch);
    4 + requests::fetched_head(TOPIC) + requests::records_prefix(records) + records + 3
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> T {
    text.parse().unwrap_or_else(|_| usage(name))
}

fn usage(word: &str) -> ! {
    eprintln!("cannot make sense of {word}; see the head of the bench's file");
    std::process::exit(2);
}
