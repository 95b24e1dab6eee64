//! `corelane bench`: how fast a broker is, measured from outside; any broker that
//! speaks Kafka's protocol.
//!
//! `produce` and `consume` say what goes through, `latency` how long a record takes
//! to its acknowledgement and to a consumer. What it writes stays in its topic.

mod consumers;
mod frames;
mod plot;
mod producers;
mod report;
mod socket;
mod tally;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use thiserror::Error;

use super::client::{Client, ClientError, Target};
use super::produce::{Acks, Compression};
use super::{CliError, Connect, plural};
use crate::model::error_code::ErrorCode;
use crate::model::ids::NodeId;
use crate::wire::small::{
    CreateTopicsRequest, ListOffsetsRequest, StrBytes, create_topics_request, list_offsets_request,
};
use frames::FetchLimits;
use producers::Stamps;
use report::{Report, ReportArgs};
use tally::Tally;

/// Timestamps with a meaning in ListOffsets.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// Stamps count up from so long ago, so that none is in the future: a batch a
/// millisecond fits for half a day.
const STAMPS_BEFORE: Duration = Duration::from_secs(12 * 3600);
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a consumer of `latency` may lag behind the last acknowledgement.
const DRAIN: Duration = Duration::from_millis(500);

/// Where a partition is led.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Its number in the topic.
    pub index: i32,
    /// `HOST:PORT` of its leader.
    pub leader: String,
}

/// Why a run has no result.
#[derive(Debug, Error)]
pub enum BenchError {
    /// A connection could not be made, or broke.
    #[error("connection to {0}: {1}")]
    Connection(String, io::Error),
    /// An answer that does not belong to its request.
    #[error("the broker does not answer as a Kafka broker does")]
    Protocol,
    /// An answer with an error code.
    #[error("the broker answered {}", ErrorCode::name(*.0))]
    Refused(i16),
    /// A batch whose checksum is wrong: partition and offset.
    #[error("a damaged batch at offset {1} of partition {0}")]
    Damaged(i32, i64),
    /// Requests without an answer at the end.
    #[error("{0} requests were never answered")]
    Unanswered(usize),
}

impl From<BenchError> for CliError {
    fn from(error: BenchError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Write, as fast as the broker takes it or at a rate.
    Produce(ProduceArgs),
    /// Read what is there, as fast as it comes.
    Consume(ConsumeArgs),
    /// Write at a rate and read at the same time: acknowledgement and end to end.
    Latency(LatencyArgs),
}

#[derive(Debug, Args)]
struct TopicArgs {
    /// The topic; created if it is not there.
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Partitions of the topic if it is created.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// Setting of the topic if it is created; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::key_value)]
    config: Vec<(String, String)>,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct WriteArgs {
    /// Bytes of a record's value.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=16 << 20))]
    record_size: u32,
    /// Bytes of a batch at most, before compression.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 10, value_parser = clap::value_parser!(u32).range(..=16 << 20))]
    batch_size: u32,
    /// Records of a batch at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_records: Option<u32>,
    /// How long a batch waits for more records, at a rate.
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    linger_ms: f64,
    /// Producers, each with its own connections; all write to all partitions.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    producers: u32,
    /// Who has to have a record before it counts.
    #[arg(long, value_enum, default_value = "all", allow_hyphen_values = true)]
    acks: Acks,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value = "none")]
    compression: Compression,
    /// Give each record a key of eight bytes.
    #[arg(long)]
    keys: bool,
    /// Requests that a connection keeps open.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// Seconds that are measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    duration: f64,
    /// Seconds before that.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    warmup: f64,
}

#[derive(Debug, Args)]
struct ReadArgs {
    /// Consumers, each with its own connections.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    consumers: u32,
    /// Every consumer reads all partitions; they share them otherwise.
    #[arg(long)]
    fan_out: bool,
    /// Bytes of one answer.
    #[arg(long, value_name = "BYTES", default_value_t = 50 << 20, value_parser = clap::value_parser!(i32).range(1..=512 << 20))]
    fetch_bytes: i32,
    /// Bytes of one partition in an answer.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(i32).range(1..))]
    partition_bytes: i32,
    /// Bytes that an answer waits for.
    #[arg(long, value_name = "BYTES", default_value_t = 1, value_parser = clap::value_parser!(i32).range(0..))]
    fetch_min_bytes: i32,
    /// How long an answer waits for them.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(i32).range(0..=60_000))]
    fetch_max_wait_ms: i32,
}

/// Arguments of `produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    write: WriteArgs,
    /// Records per second of all producers; as fast as it goes without.
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    #[command(flatten)]
    report: ReportArgs,
}

/// Arguments of `consume`.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    read: ReadArgs,
    /// Seconds after which it ends; it ends earlier when everything was read.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    duration: f64,
    /// Records after which it ends.
    #[arg(long, value_name = "N")]
    records: Option<u64>,
    /// Go on at the end of the partitions, and start there.
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    report: ReportArgs,
}

/// Arguments of `latency`.
#[derive(Debug, Args)]
pub struct LatencyArgs {
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    write: WriteArgs,
    /// Records per second of all producers.
    #[arg(long, value_name = "N", default_value_t = 10_000.0)]
    rate: f64,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    report: ReportArgs,
}

/// Runs one of them.
pub fn run(command: &BenchCommand) -> Result<(), CliError> {
    match command {
        BenchCommand::Produce(args) => produce(args),
        BenchCommand::Consume(args) => consume(args),
        BenchCommand::Latency(args) => latency(args),
    }
}

fn produce(args: &ProduceArgs) -> Result<(), CliError> {
    let topic = Topic::open(&args.topic, true)?;
    let plan = plan(&args.topic, &args.write, args.rate, &topic)?;
    let start = Instant::now();
    let mut tally = written(&plan);
    let mut live = Live::start();
    producers::run(&plan, &Arc::new(stamps()), start, &mut tally, &mut |tally| live.show(tally))?;
    live.end();
    tally.close();
    let report = Report {
        work: format!("produce: {}", args.write.words(args.rate, topic.partitions.len())),
        parameters: args.write.json(args.rate, topic.partitions.len()),
        sides: vec![("acknowledged", tally)],
    };
    report.print(&args.report)
}

fn consume(args: &ConsumeArgs) -> Result<(), CliError> {
    let mut topic = Topic::open(&args.topic, false)?;
    let from = topic.offsets(if args.follow { LATEST } else { EARLIEST })?;
    let duration = seconds("--duration", args.duration)?;
    let plan = consumers::Plan {
        records: args.records.unwrap_or(u64::MAX),
        until_end: !args.follow,
        ..args.read.plan(&topic, from, duration)
    };
    let start = Instant::now();
    let mut tally = Tally::new(0, duration.as_nanos() as u64);
    let mut live = Live::start();
    let stop = AtomicBool::new(false);
    consumers::run(&plan, None, start, &stop, &mut tally, &mut |tally| live.show(tally))?;
    live.end();
    tally.close();
    tally.end_at_last();
    if tally.records == 0 {
        return Err(CliError::Failed(format!(
            "topic {} is empty; write to it with `corelane bench produce`",
            args.topic.topic
        )));
    }
    let consumers = plural(args.read.consumers as usize, "consumer");
    let partitions = plural(topic.partitions.len(), "partition");
    let report = Report {
        work: format!("consume: {consumers}, {partitions}"),
        parameters: json!({
            "consumers": args.read.consumers,
            "fan_out": args.read.fan_out,
            "partitions": topic.partitions.len(),
        }),
        sides: vec![("read", tally)],
    };
    report.print(&args.report)
}

fn latency(args: &LatencyArgs) -> Result<(), CliError> {
    let mut topic = Topic::open(&args.topic, true)?;
    if args.write.acks == Acks::None {
        return Err(CliError::Usage("acks=0 has no acknowledgement to time".to_owned()));
    }
    let writing = plan(&args.topic, &args.write, Some(args.rate), &topic)?;
    let from = topic.offsets(LATEST)?;
    let reading = args.read.plan(&topic, from, Duration::MAX);
    let stamps = Arc::new(stamps());
    let start = Instant::now();
    let (stop, drained) = (Arc::new(AtomicBool::new(false)), stamps.clone());
    let mut end_to_end = written(&writing);
    let copies = if args.read.fan_out { u64::from(args.read.consumers) } else { 1 };
    let reader = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let result = consumers::run(
                &reading,
                Some(&drained),
                start,
                &stop,
                &mut end_to_end,
                &mut |_| (),
            );
            result.map(|()| end_to_end)
        })
    };
    let mut acknowledged = written(&writing);
    let mut live = Live::start();
    let sent = producers::run(&writing, &stamps, start, &mut acknowledged, &mut |tally| {
        live.show(tally);
    });
    live.end();
    // What was acknowledged last is on its way to the consumers still.
    let patience = Instant::now() + DRAIN;
    while sent.is_ok() && !reader.is_finished() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(20));
    }
    stop.store(true, Ordering::Relaxed);
    let read = reader.join().map_err(|_| CliError::Failed("the consumers panicked".to_owned()))?;
    sent?;
    let mut end_to_end = read?;
    acknowledged.close();
    end_to_end.close();
    let expected = acknowledged.latency.len() * copies;
    if end_to_end.latency.len() < expected {
        eprintln!(
            "warning: the consumers saw {} of {expected} records before they were stopped",
            end_to_end.latency.len()
        );
    }
    let report = Report {
        work: format!("latency: {}", args.write.words(Some(args.rate), topic.partitions.len())),
        parameters: args.write.json(Some(args.rate), topic.partitions.len()),
        sides: vec![("acknowledged", acknowledged), ("end to end", end_to_end)],
    };
    report.print(&args.report)
}

/// A tally of what a plan measures.
fn written(plan: &producers::Plan) -> Tally {
    let begin = plan.warmup.as_nanos() as u64;
    Tally::new(begin, begin + plan.duration.as_nanos() as u64)
}

fn stamps() -> Stamps {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Stamps::new(now.saturating_sub(STAMPS_BEFORE).as_millis() as i64)
}

fn seconds(option: &str, value: f64) -> Result<Duration, CliError> {
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|time| *time <= Duration::from_secs(86_400))
        .ok_or_else(|| CliError::Usage(format!("{option} {value}: not within a day")))
}

fn plan(
    topic: &TopicArgs,
    write: &WriteArgs,
    rate: Option<f64>,
    at: &Topic,
) -> Result<producers::Plan, CliError> {
    if rate.is_some_and(|rate| !(rate > 0.0 && rate < 1e9)) {
        return Err(CliError::Usage("--rate is not between 0 and 1,000,000,000".to_owned()));
    }
    let duration = seconds("--duration", write.duration)?;
    if duration.is_zero() {
        return Err(CliError::Usage("--duration is zero".to_owned()));
    }
    Ok(producers::Plan {
        topic: topic.topic.clone(),
        partitions: at.partitions.clone(),
        record_size: write.record_size as usize,
        batch_size: write.batch_size as usize,
        batch_records: write.batch_records.map_or(usize::MAX, |records| records as usize),
        linger: seconds("--linger-ms", write.linger_ms / 1e3)?,
        producers: write.producers as usize,
        acks: write.acks.code(),
        codec: write.compression.codec(),
        keys: write.keys,
        in_flight: write.in_flight as usize,
        rate,
        duration,
        warmup: seconds("--warmup", write.warmup)?,
    })
}

impl WriteArgs {
    fn words(&self, rate: Option<f64>, partitions: usize) -> String {
        let rate = rate.map_or("full speed".to_owned(), |rate| format!("{rate} records/s"));
        format!(
            "{} B records, {}, {}, acks {}, {}, {} s at {rate}",
            self.record_size,
            plural(partitions, "partition"),
            plural(self.producers as usize, "producer"),
            if self.acks == Acks::All { "all".to_owned() } else { self.acks.code().to_string() },
            if self.compression.codec().name() == "none" {
                "uncompressed"
            } else {
                self.compression.codec().name()
            },
            self.duration,
        )
    }

    fn json(&self, rate: Option<f64>, partitions: usize) -> Value {
        json!({
            "record_size": self.record_size,
            "batch_size": self.batch_size,
            "batch_records": self.batch_records,
            "linger_ms": self.linger_ms,
            "producers": self.producers,
            "partitions": partitions,
            "acks": self.acks.code(),
            "compression": self.compression.codec().name(),
            "keys": self.keys,
            "in_flight": self.in_flight,
            "rate": rate,
        })
    }
}

impl ReadArgs {
    fn plan(&self, topic: &Topic, from: BTreeMap<i32, i64>, duration: Duration) -> consumers::Plan {
        consumers::Plan {
            topic: topic.name.clone(),
            partitions: topic.partitions.clone(),
            from,
            consumers: self.consumers as usize,
            all: self.fan_out,
            limits: FetchLimits {
                max_bytes: self.fetch_bytes,
                partition_max_bytes: self.partition_bytes,
                min_bytes: self.fetch_min_bytes,
                max_wait_ms: self.fetch_max_wait_ms,
            },
            records: u64::MAX,
            until_end: false,
            duration,
        }
    }
}

/// The topic of a run.
struct Topic {
    client: Client,
    name: String,
    partitions: Vec<Partition>,
    leaders: BTreeMap<NodeId, Vec<i32>>,
}

impl Topic {
    fn open(args: &TopicArgs, create: bool) -> Result<Self, CliError> {
        let mut client = Client::connect(&args.connect.bootstrap)?;
        let (found, created) = match client.topic(&args.topic, false) {
            Err(ClientError::NoTopic(_)) if create => {
                create_topic(&mut client, args)?;
                (client.topic(&args.topic, true)?, true)
            }
            found => (found?, false),
        };
        let mut partitions = vec![];
        let mut leaders: BTreeMap<NodeId, Vec<i32>> = BTreeMap::new();
        for partition in &found.partitions {
            let leader = NodeId(partition.leader_id);
            let address = client.address(leader).ok_or_else(|| {
                CliError::Failed(format!("the cluster does not say where node {leader} is"))
            })?;
            partitions
                .push(Partition { index: partition.partition_index, leader: address.to_owned() });
            leaders.entry(leader).or_default().push(partition.partition_index);
        }
        partitions.sort_by_key(|partition| partition.index);
        let mut topic = Self { client, name: args.topic.clone(), partitions, leaders };
        // A broker of several may say who leads before that one knows.
        let deadline = Instant::now() + CREATE_TIMEOUT;
        while created && let Err(error) = topic.offsets(LATEST) {
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(topic)
    }

    /// Where each partition begins or ends.
    fn offsets(&mut self, timestamp: i64) -> Result<BTreeMap<i32, i64>, CliError> {
        let mut offsets = BTreeMap::new();
        for (leader, partitions) in &self.leaders {
            let name = StrBytes::from(self.name.as_str());
            let target = Target::Node(*leader);
            let response = self.client.call(target, 5, Duration::ZERO, |_| {
                let mut topic = list_offsets_request::ListOffsetsTopic::default();
                topic.name = name;
                topic.partitions = partitions
                    .iter()
                    .map(|index| {
                        let mut partition = list_offsets_request::ListOffsetsPartition::default();
                        partition.partition_index = *index;
                        partition.timestamp = timestamp;
                        partition
                    })
                    .collect();
                let mut request = ListOffsetsRequest::default();
                request.replica_id = -1;
                request.topics = vec![topic];
                request
            })?;
            for answer in response.topics.iter().flat_map(|topic| &topic.partitions) {
                if answer.error_code != 0 {
                    return Err(BenchError::Refused(answer.error_code).into());
                }
                offsets.insert(answer.partition_index, answer.offset);
            }
        }
        Ok(offsets)
    }
}

fn create_topic(client: &mut Client, args: &TopicArgs) -> Result<(), CliError> {
    client.metadata(Some(&[]), false)?; // Says who the controller is.
    let response = client.call(Target::Controller, 5, CREATE_TIMEOUT, |_| {
        let mut topic = create_topics_request::CreatableTopic::default();
        topic.name = StrBytes::from(args.topic.as_str());
        topic.num_partitions = args.partitions;
        topic.replication_factor = -1;
        for (key, value) in &args.config {
            let mut config = create_topics_request::CreatableTopicConfig::default();
            config.name = StrBytes::from(key.as_str());
            config.value = Some(StrBytes::from(value.as_str()));
            topic.configs.push(config);
        }
        let mut request = CreateTopicsRequest::default();
        request.topics = vec![topic];
        request.timeout_ms = CREATE_TIMEOUT.as_millis() as i32;
        request
    })?;
    for topic in &response.topics {
        let there = ErrorCode::TopicAlreadyExists.code();
        if topic.error_code != 0 && topic.error_code != there {
            let what = format!("cannot create topic {}", args.topic);
            let message = topic.error_message.as_ref();
            return Err(ClientError::refused(what, topic.error_code, message).into());
        }
    }
    Ok(())
}

/// A line on the terminal that shows how it goes.
struct Live {
    shown: bool,
}

impl Live {
    fn start() -> Self {
        Self { shown: false }
    }

    fn show(&mut self, tally: &Tally) {
        if !io::stderr().is_terminal() {
            return;
        }
        // The last second is under way still.
        let Some(second) = tally.seconds.iter().nth_back(1) else {
            return;
        };
        self.shown = true;
        eprint!(
            "\r\x1b[K{:>4} s {:>11} records/s {:>8.1} MB/s   p50 {:.3} p99 {:.3} max {:.3} ms",
            tally.seconds.len() - 1,
            second.records,
            second.bytes as f64 / 1e6,
            report::milliseconds(second.p50),
            report::milliseconds(second.p99),
            report::milliseconds(second.max),
        );
    }

    fn end(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}
