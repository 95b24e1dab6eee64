//! `corelane produce`: writes the lines of standard input as records.
//!
//! What has arrived goes out together: a batch per partition, one request per
//! broker, the next one after the answers. Keyed records go where Kafka's Java
//! producer puts them; records without a key go to one partition per request, in
//! turn. With a rate, what is due goes out, and then it is waited for more. A batch
//! is sent again only if the broker said that it was not written.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::{Client, ClientError, Retry, Target};
use super::partitioner::partition_for_key;
use super::progress::Progress;
use super::{CliError, Connect, plural};
use crate::model::error_code::ErrorCode;
use crate::model::ids::NodeId;
use crate::model::record::{BatchBuilder, Codec};
use crate::wire::client::{ProduceRequest, ProduceResponse, produce_request};
use crate::wire::small::{Bytes, StrBytes};

/// Bytes of records that one request takes.
const REQUEST_BYTES: usize = 1 << 20;
/// Bytes of records that one batch takes, before compression: well within the
/// default message.max.bytes.
const BATCH_BYTES: usize = 512 << 10;
/// Lines that wait between the reader of standard input and the sender.
const LINES_QUEUED: usize = 10_000;
/// How long a broker may wait for its replicas.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Version 13 names topics by id, which no line needs.
const VERSION_MAX: i16 = 12;

/// Arguments of `produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// The topic; created if the broker allows it.
    topic: String,
    /// Who has to have a record before it counts: 0 nobody, 1 the leader, all in-sync replicas.
    #[arg(long, value_enum, default_value = "all", allow_hyphen_values = true)]
    acks: Acks,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value = "none")]
    compression: Compression,
    /// What ends the key of a line; without it records have no key.
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// A header of every record; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = super::key_value)]
    headers: Vec<(String, String)>,
    /// Most records per second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rate: Option<u64>,
    /// The partition of every record.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Acks {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    #[value(name = "all", alias = "-1")]
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Acks {
    pub(super) fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

impl Compression {
    pub(super) fn codec(self) -> Codec {
        match self {
            Self::None => Codec::None,
            Self::Gzip => Codec::Gzip,
            Self::Snappy => Codec::Snappy,
            Self::Lz4 => Codec::Lz4,
            Self::Zstd => Codec::Zstd,
        }
    }
}

/// Reads standard input to its end and reports what was written.
pub fn run(args: &ProduceArgs) -> Result<(), CliError> {
    let client = Client::connect(&args.connect.bootstrap)?;
    let mut producer = Producer::start(args, client)?;
    if io::stdin().is_terminal() {
        eprintln!("one record per line; end with Ctrl-D");
    }
    let mut progress = Progress::start(!io::stdin().is_terminal());
    let mut pace = args.rate.map(|rate| Pace::new(rate, Instant::now()));
    let result = send_lines(&mut producer, read_lines(), &mut pace, &mut progress);
    progress.end();
    producer.report(args.json)?;
    result
}

fn send_lines(
    producer: &mut Producer<'_>,
    lines: Receiver<io::Result<Vec<u8>>>,
    pace: &mut Option<Pace>,
    progress: &mut Progress,
) -> Result<(), CliError> {
    // Waits for a line, then takes what is there already.
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            let line = line.map_err(|error| {
                CliError::Failed(format!("cannot read standard input: {error}"))
            })?;
            while let Some(wait) = pace.as_mut().and_then(|pace| pace.take(Instant::now())) {
                producer.flush()?;
                progress.show(|| plural(producer.totals.records, "record"));
                std::thread::sleep(wait);
            }
            producer.add(&line)?;
            next = if producer.is_full() { None } else { lines.try_recv().ok() };
        }
        producer.flush()?;
        progress.show(|| plural(producer.totals.records, "record"));
    }
    Ok(())
}

/// A thread that reads lines; its queue is bounded, so a fast input waits.
fn read_lines() -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::sync_channel(LINES_QUEUED);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = input.read_until(b'\n', &mut line);
            let (line, more) = match read {
                Ok(0) => return,
                Ok(_) => (Ok(strip_newline(line)), true),
                Err(error) => (Err(error), false),
            };
            if sender.send(line).is_err() || !more {
                return;
            }
        }
    });
    receiver
}

fn strip_newline(mut line: Vec<u8>) -> Vec<u8> {
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    line
}

/// The key and the value of a line.
fn split_key<'a>(line: &'a [u8], separator: Option<&str>) -> Option<(Option<&'a [u8]>, &'a [u8])> {
    let Some(separator) = separator.map(str::as_bytes) else {
        return Some((None, line));
    };
    let at = line.windows(separator.len()).position(|window| window == separator)?;
    Some((Some(&line[..at]), &line[at + separator.len()..]))
}

/// A finished batch on its way.
#[derive(Clone, Debug)]
struct Batch {
    partition: i32,
    records: usize,
    bytes: Bytes,
}

#[derive(Debug, Default)]
struct Totals {
    lines: usize,
    records: usize,
    bytes: usize,
    /// By partition: records, first and last offset.
    partitions: BTreeMap<i32, (usize, i64, i64)>,
}

pub(super) struct Producer<'a> {
    args: &'a ProduceArgs,
    client: Client,
    leaders: BTreeMap<i32, NodeId>,
    unkeyed: usize,
    open: BTreeMap<i32, BatchBuilder>,
    full: Vec<Batch>,
    gathered: usize,
    totals: Totals,
}

impl<'a> Producer<'a> {
    pub(super) fn start(args: &'a ProduceArgs, client: Client) -> Result<Self, CliError> {
        if args.key_separator.as_deref() == Some("") {
            return Err(CliError::Usage("--key-separator must not be empty".to_owned()));
        }
        let mut producer = Self {
            args,
            client,
            leaders: BTreeMap::new(),
            // Producers that write one line each should not all choose partition 0.
            unkeyed: std::process::id() as usize,
            open: BTreeMap::new(),
            full: Vec::new(),
            gathered: 0,
            totals: Totals::default(),
        };
        producer.find_leaders()?;
        if let Some(partition) = args.partition
            && !producer.leaders.contains_key(&partition)
        {
            let count = plural(producer.leaders.len(), "partition");
            return Err(CliError::Usage(format!(
                "--partition {partition}: topic {} has {count}, numbered from 0",
                args.topic
            )));
        }
        Ok(producer)
    }

    fn find_leaders(&mut self) -> Result<(), ClientError> {
        let topic = self.client.topic(&self.args.topic, true)?;
        self.leaders = topic
            .partitions
            .iter()
            .map(|partition| (partition.partition_index, NodeId(partition.leader_id)))
            .collect();
        Ok(())
    }

    pub(super) fn add(&mut self, line: &[u8]) -> Result<(), CliError> {
        self.totals.lines += 1;
        let (key, value) =
            split_key(line, self.args.key_separator.as_deref()).ok_or_else(|| {
                CliError::Failed(format!("line {} has no key separator", self.totals.lines))
            })?;
        let count = self.leaders.len();
        let partition = match (self.args.partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_for_key(key, count) as i32,
            (None, None) => (self.unkeyed % count) as i32,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let codec = self.args.compression.codec();
        let batch = self.open.entry(partition).or_insert_with(|| BatchBuilder::new(codec));
        let headers = self.args.headers.iter();
        let headers: Vec<(&str, Option<&[u8]>)> =
            headers.map(|(name, value)| (name.as_str(), Some(value.as_bytes()))).collect();
        batch.push(now.as_millis() as i64, key, Some(value), &headers);
        self.gathered += line.len();
        if batch.uncompressed_len() >= BATCH_BYTES {
            self.close(partition);
        }
        Ok(())
    }

    fn close(&mut self, partition: i32) {
        if let Some(batch) = self.open.remove(&partition) {
            let records = batch.len();
            self.full.push(Batch { partition, records, bytes: Bytes::from(batch.finish()) });
        }
    }

    fn is_full(&self) -> bool {
        self.gathered >= REQUEST_BYTES
    }

    /// Sends what was gathered and waits until it is written.
    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        let open: Vec<i32> = self.open.keys().copied().collect();
        for partition in open {
            self.close(partition);
        }
        self.gathered = 0;
        self.unkeyed = self.unkeyed.wrapping_add(1);
        // A request takes one batch per partition; what is over follows in order.
        let mut waiting = std::mem::take(&mut self.full);
        while !waiting.is_empty() {
            let mut round: Vec<Batch> = Vec::new();
            let mut later = Vec::new();
            for batch in waiting {
                let taken = round.iter().any(|other| other.partition == batch.partition);
                if taken { later.push(batch) } else { round.push(batch) }
            }
            self.write(round)?;
            waiting = later;
        }
        Ok(())
    }

    /// Writes batches of different partitions, again as long as that may help.
    fn write(&mut self, mut batches: Vec<Batch>) -> Result<(), CliError> {
        let mut retry = Retry::start();
        loop {
            let (again, error) = self.write_once(batches)?;
            let Some(error) = error else {
                return Ok(());
            };
            if !error.is_retriable() || !retry.wait() {
                return Err(error.into());
            }
            batches = again;
            self.find_leaders()?;
        }
    }

    /// Returns the batches that were not written, and why the first was not.
    fn write_once(
        &mut self,
        batches: Vec<Batch>,
    ) -> Result<(Vec<Batch>, Option<ClientError>), ClientError> {
        let mut by_leader: BTreeMap<NodeId, Vec<Batch>> = BTreeMap::new();
        for batch in batches {
            let leader = self.leaders.get(&batch.partition).copied().unwrap_or(NodeId(-1));
            by_leader.entry(leader).or_default().push(batch);
        }
        let mut again = Vec::new();
        let mut first_error = None;
        for (leader, batches) in by_leader {
            let request = request(self.args, &batches);
            let target = Target::Node(leader);
            if self.args.acks == Acks::None {
                self.client.send(target, VERSION_MAX, &request)?;
                batches.iter().for_each(|batch| self.totals.add(batch, -1));
                continue;
            }
            let response = self.client.call(target, VERSION_MAX, TIMEOUT, |_| request)?;
            for batch in batches {
                let outcome = outcome(&self.args.topic, &batch, &response);
                match outcome {
                    Ok(offset) => self.totals.add(&batch, offset),
                    Err(error) => {
                        // What does not pass by itself decides, whatever came before it.
                        let keep = first_error.as_ref().is_some_and(|e: &ClientError| {
                            !e.is_retriable() || error.is_retriable()
                        });
                        if !keep {
                            first_error = Some(error);
                        }
                        again.push(batch);
                    }
                }
            }
        }
        Ok((again, first_error))
    }

    fn report(&self, as_json: bool) -> Result<(), CliError> {
        let Totals { records, bytes, partitions, .. } = &self.totals;
        let acknowledged = self.args.acks != Acks::None;
        if as_json {
            let partitions: Vec<Value> = partitions
                .iter()
                .map(|(partition, (records, first, last))| {
                    json!({
                        "partition": partition,
                        "records": records,
                        "first_offset": acknowledged.then_some(first),
                        "last_offset": acknowledged.then_some(last),
                    })
                })
                .collect();
            let report = json!({
                "topic": self.args.topic,
                "acknowledged": acknowledged,
                "records": records,
                "bytes": bytes,
                "partitions": partitions,
            });
            writeln!(io::stdout(), "{report}")?;
        } else {
            let what = if acknowledged { "acknowledged" } else { "sent, not acknowledged" };
            eprintln!("{} {what}", plural(*records, "record"));
        }
        Ok(())
    }
}

impl Totals {
    fn add(&mut self, batch: &Batch, base_offset: i64) {
        self.records += batch.records;
        self.bytes += batch.bytes.len();
        let last = base_offset + batch.records as i64 - 1;
        let (records, _, end) =
            self.partitions.entry(batch.partition).or_insert((0, base_offset, last));
        *records += batch.records;
        *end = last;
    }
}

fn request(args: &ProduceArgs, batches: &[Batch]) -> ProduceRequest {
    let mut topic = produce_request::TopicProduceData::default();
    topic.name = StrBytes::from(args.topic.as_str());
    for batch in batches {
        let mut partition = produce_request::PartitionProduceData::default();
        partition.index = batch.partition;
        partition.records = Some(batch.bytes.clone());
        topic.partition_data.push(partition);
    }
    let mut request = ProduceRequest::default();
    request.acks = args.acks.code();
    request.timeout_ms = TIMEOUT.as_millis() as i32;
    request.topic_data = vec![topic];
    request
}

/// The base offset of a batch, or why it was not written.
fn outcome(topic: &str, batch: &Batch, response: &ProduceResponse) -> Result<i64, ClientError> {
    let what = format!("cannot write to {topic}-{}", batch.partition);
    let partition = response
        .responses
        .iter()
        .filter(|answered| answered.name.as_str() == topic)
        .flat_map(|answered| &answered.partition_responses)
        .find(|answered| answered.index == batch.partition);
    match partition {
        Some(partition) if partition.error_code == 0 => Ok(partition.base_offset),
        Some(partition) => {
            Err(ClientError::refused(what, partition.error_code, partition.error_message.as_ref()))
        }
        None => Err(ClientError::refused(what, ErrorCode::UnknownServerError.code(), None)),
    }
}

/// How many records may go out by when: a bucket that fills at a steady rate.
#[derive(Debug)]
struct Pace {
    per_second: f64,
    /// Most that is saved up: a tenth of a second's records.
    most: f64,
    /// Worth waiting for: a hundredth, so that fast ones still share requests.
    enough: f64,
    saved: f64,
    at: Instant,
}

impl Pace {
    fn new(per_second: u64, now: Instant) -> Self {
        let per_second = per_second as f64;
        let (most, enough) = ((per_second / 10.0).max(1.0), (per_second / 100.0).max(1.0));
        Self { per_second, most, enough, saved: enough, at: now }
    }

    /// Takes a record's turn, or says how long to wait before asking again.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.saved = (self.saved + passed * self.per_second).min(self.most);
        if self.saved >= 1.0 {
            self.saved -= 1.0;
            return None;
        }
        Some(Duration::from_secs_f64((self.enough - self.saved) / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::produce_response;

    #[test]
    fn lines_and_keys() {
        assert_eq!(strip_newline(b"a\r\n".to_vec()), b"a");
        assert_eq!(strip_newline(b"a\r".to_vec()), b"a\r");
        assert_eq!(strip_newline(b"\n".to_vec()), b"");
        type Split<'a> = Option<(Option<&'a [u8]>, &'a [u8])>;
        let cases: [(&[u8], Option<&str>, Split<'_>); 5] = [
            (b"a:b", None, Some((None, b"a:b"))),
            (b"a:b:c", Some(":"), Some((Some(b"a"), b"b:c"))),
            (b"a=>b", Some("=>"), Some((Some(b"a"), b"b"))),
            (b":", Some(":"), Some((Some(b""), b""))),
            (b"a", Some(":"), None),
        ];
        for (line, separator, expected) in cases {
            assert_eq!(split_key(line, separator), expected, "{line:?}");
        }
    }

    #[test]
    fn a_rate_is_kept_over_any_second() {
        let start = Instant::now();
        for (rate, seconds) in [(1, 20), (7, 9), (250, 4), (100_000, 2)] {
            let mut pace = Pace::new(rate, start);
            let (mut now, mut sent) = (start, 0);
            while now < start + Duration::from_secs(seconds) {
                match pace.take(now) {
                    None => sent += 1,
                    Some(wait) => now += wait.max(Duration::from_nanos(1)),
                }
            }
            let wanted = rate * seconds;
            assert!((wanted..=wanted + rate / 100 + 2).contains(&sent), "{rate}: {sent}");
        }
        // What was not used is not saved up.
        let mut pace = Pace::new(10, start);
        let later = start + Duration::from_secs(60);
        assert!(pace.take(later).is_none() && pace.take(later).is_some());
    }

    #[test]
    fn outcomes_and_totals() {
        let batch =
            |partition, records| Batch { partition, records, bytes: Bytes::from_static(b"xyz") };
        let mut response = ProduceResponse::default();
        let mut topic = produce_response::TopicProduceResponse::default();
        topic.name = StrBytes::from("t");
        for (index, error_code, base_offset) in [(0, 0, 40), (1, 6, -1)] {
            let mut partition = produce_response::PartitionProduceResponse::default();
            (partition.index, partition.error_code) = (index, error_code);
            partition.base_offset = base_offset;
            topic.partition_responses.push(partition);
        }
        response.responses = vec![topic];
        let mut totals = Totals::default();
        totals.add(&batch(0, 2), outcome("t", &batch(0, 2), &response).expect("written"));
        totals.add(&batch(0, 3), 42);
        assert_eq!(totals.partitions, BTreeMap::from([(0, (5, 40, 44))]));
        assert_eq!((totals.records, totals.bytes), (5, 6));
        let error = outcome("t", &batch(1, 1), &response).expect_err("moved");
        assert_eq!(error.to_string(), "cannot write to t-1: NOT_LEADER_OR_FOLLOWER");
        assert!(error.is_retriable());
        assert!(!outcome("t", &batch(2, 1), &response).expect_err("unanswered").is_retriable());
    }
}
