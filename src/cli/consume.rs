//! `corelane consume`: prints the records of a topic and follows it.
//!
//! Every partition is read from where it was asked to start, without saving
//! offsets; with `--group` as a member of a consumer group
//! ([`consume`](super::group::consume)). At the end of a topic it waits for more,
//! until Ctrl-C or `--max`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, ClientError, Retry, Target, is_retriable};
use super::progress::Progress;
use super::shown::json_text;
use super::{CliError, Connect};
use crate::model::batch::BatchHeader;
use crate::model::error_code::ErrorCode;
use crate::model::ids::NodeId;
use crate::model::record::{Record, RecordError, decode_records};
use crate::wire::client::{FetchRequest, fetch_request};
use crate::wire::small::{Bytes, ListOffsetsRequest, StrBytes, list_offsets_request};

/// How long a broker may wait for records; also how long Ctrl-C may take.
const WAIT: Duration = Duration::from_millis(500);
const WAIT_OF_MANY: Duration = Duration::from_millis(100);
/// Bytes that one fetch and one partition of it ask for.
const FETCH_BYTES: i32 = 16 << 20;
const PARTITION_BYTES: i32 = 1 << 20;
/// Most that one batch may unfold to.
const BATCH_UNFOLDED_MAX: usize = 256 << 20;
/// Version 13 names topics by id.
const FETCH_VERSION_MAX: i16 = 12;
const LIST_OFFSETS_VERSION_MAX: i16 = 7;

/// Timestamps with a meaning in ListOffsets.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// Arguments of `consume`.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    /// The topic.
    topic: String,
    /// Start at the first record there is; without it, at the next one that arrives.
    /// With --group: where nothing is committed.
    #[arg(long, conflicts_with = "offset")]
    from_beginning: bool,
    /// Read this partition only; may be repeated.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// Share the topic with the other members of this group, and go on where it is.
    #[arg(long, value_name = "GROUP", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    #[arg(conflicts_with_all = ["partition", "offset"])]
    group: Option<String>,
    /// Start every partition at this offset.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    offset: Option<i64>,
    /// End after this many records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Print one JSON object per record, with offset, timestamp, key and headers.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Prints records until it is stopped.
pub fn run(args: &ConsumeArgs) -> Result<(), CliError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The first signal ends the loop below; a second one ends the process.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| CliError::Failed(format!("cannot watch signals: {error}")))?;
    }
    let client = Client::connect(&args.connect.bootstrap)?;
    if let Some(group) = &args.group {
        return super::group::consume::run(args, group, client, &stop);
    }
    let mut consumer = Consumer::start(args, client)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut left = args.max();
    // Records on the same terminal are progress enough.
    let mut progress = Progress::start(!io::stdout().is_terminal());
    let mut seen = 0;
    let mut retry = Retry::start();
    while left > 0 && !stop.load(Ordering::Relaxed) {
        let polled = consumer.poll(|partition, record| {
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            seen += 1;
            print(&mut out, args, partition, record).map(|()| true)
        });
        out.flush()?;
        progress.show(|| super::plural(seen, "record"));
        match polled {
            Ok(()) => retry = Retry::start(),
            Err(CliError::Failed(_)) if consumer.lost_leader && retry.wait() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl ConsumeArgs {
    /// The topic.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Most records to print.
    pub(super) fn max(&self) -> u64 {
        self.max.unwrap_or(u64::MAX)
    }
}

pub(super) struct Consumer<'a> {
    args: &'a ConsumeArgs,
    client: Client,
    leaders: BTreeMap<i32, NodeId>,
    /// The next offset of each partition that is read.
    positions: BTreeMap<i32, i64>,
    /// The last poll failed in a way that finding the leaders anew may cure.
    lost_leader: bool,
}

impl<'a> Consumer<'a> {
    pub(super) fn start(args: &'a ConsumeArgs, client: Client) -> Result<Self, CliError> {
        let mut consumer = Self::without_positions(args, client)?;
        for partition in &args.partition {
            if !consumer.leaders.contains_key(partition) {
                return Err(CliError::Usage(format!(
                    "--partition {partition}: topic {} has {}, numbered from 0",
                    args.topic,
                    super::plural(consumer.leaders.len(), "partition")
                )));
            }
        }
        let wanted: Vec<i32> = if args.partition.is_empty() {
            consumer.leaders.keys().copied().collect()
        } else {
            args.partition.clone()
        };
        consumer.positions = match args.offset {
            Some(offset) => wanted.iter().map(|partition| (*partition, offset)).collect(),
            None => consumer.starts(&wanted)?,
        };
        Ok(consumer)
    }

    /// One that knows the leaders and reads nothing yet.
    pub(super) fn without_positions(
        args: &'a ConsumeArgs,
        client: Client,
    ) -> Result<Self, ClientError> {
        let mut consumer = Self {
            args,
            client,
            leaders: BTreeMap::new(),
            positions: BTreeMap::new(),
            lost_leader: false,
        };
        consumer.find_leaders()?;
        Ok(consumer)
    }

    /// Where partitions are read from if nothing else is known.
    pub(super) fn starts(&mut self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, ClientError> {
        let timestamp = if self.args.from_beginning { EARLIEST } else { LATEST };
        let mut retry = Retry::start();
        loop {
            match self.list_offsets(partitions, timestamp) {
                Err(error) if error.is_retriable() && retry.wait() => self.find_leaders()?,
                result => return result,
            }
        }
    }

    /// Reads from these offsets on, and nothing else.
    pub(super) fn assign(&mut self, positions: BTreeMap<i32, i64>) {
        self.positions = positions;
    }

    /// The next offset of each partition that is read.
    pub(super) fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.positions
    }

    /// Whether the last poll failed in a way that another one may cure.
    pub(super) fn lost_leader(&self) -> bool {
        self.lost_leader
    }

    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    pub(super) fn find_leaders(&mut self) -> Result<(), ClientError> {
        let topic = self.client.topic(&self.args.topic, false)?;
        self.leaders = topic
            .partitions
            .iter()
            .map(|partition| (partition.partition_index, NodeId(partition.leader_id)))
            .collect();
        self.lost_leader = false;
        Ok(())
    }

    fn by_leader(&self, partitions: &[i32]) -> BTreeMap<NodeId, Vec<i32>> {
        let mut by_leader: BTreeMap<NodeId, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            let leader = self.leaders.get(partition).copied().unwrap_or(NodeId(-1));
            by_leader.entry(leader).or_default().push(*partition);
        }
        by_leader
    }

    fn list_offsets(
        &mut self,
        partitions: &[i32],
        timestamp: i64,
    ) -> Result<BTreeMap<i32, i64>, ClientError> {
        let mut offsets = BTreeMap::new();
        for (leader, partitions) in self.by_leader(partitions) {
            let target = Target::Node(leader);
            let name = StrBytes::from(self.args.topic.as_str());
            let response =
                self.client.call(target, LIST_OFFSETS_VERSION_MAX, Duration::ZERO, |_| {
                    let mut topic = list_offsets_request::ListOffsetsTopic::default();
                    topic.name = name;
                    for partition in &partitions {
                        let mut wanted = list_offsets_request::ListOffsetsPartition::default();
                        wanted.partition_index = *partition;
                        wanted.timestamp = timestamp;
                        topic.partitions.push(wanted);
                    }
                    let mut request = ListOffsetsRequest::default();
                    request.replica_id = -1;
                    request.topics = vec![topic];
                    request
                })?;
            let answers = response.topics.iter().flat_map(|topic| &topic.partitions);
            for answer in answers {
                if answer.error_code != 0 {
                    let what = format!("offsets of {}-{}", self.args.topic, answer.partition_index);
                    return Err(ClientError::refused(what, answer.error_code, None));
                }
                offsets.insert(answer.partition_index, answer.offset);
            }
        }
        if let Some(missing) = partitions.iter().find(|partition| !offsets.contains_key(partition))
        {
            let what = format!("offsets of {}-{missing}", self.args.topic);
            return Err(ClientError::refused(what, ErrorCode::UnknownServerError.code(), None));
        }
        Ok(offsets)
    }

    /// Fetches once from every leader and gives each record to `each`, until it
    /// returns false.
    pub(super) fn poll(
        &mut self,
        mut each: impl FnMut(i32, &Record) -> Result<bool, CliError>,
    ) -> Result<(), CliError> {
        if self.lost_leader
            && let Err(error) = self.find_leaders()
        {
            self.lost_leader = error.may_pass();
            return Err(error.into());
        }
        let partitions: Vec<i32> = self.positions.keys().copied().collect();
        let by_leader = self.by_leader(&partitions);
        let wait = if by_leader.len() == 1 { WAIT } else { WAIT_OF_MANY };
        for (leader, partitions) in by_leader {
            let fetched = self.client.call(Target::Node(leader), FETCH_VERSION_MAX, wait, |_| {
                fetch_request(&self.args.topic, &self.positions, &partitions, wait)
            });
            let response = match fetched {
                Ok(response) => response,
                Err(error) => {
                    self.lost_leader = error.may_pass();
                    return Err(error.into());
                }
            };
            if response.error_code != 0 {
                let what = format!("cannot read topic {}", self.args.topic);
                return Err(self.refused(what, response.error_code));
            }
            for answer in response.responses.iter().flat_map(|topic| &topic.partitions) {
                let partition = answer.partition_index;
                let Some(position) = self.positions.get(&partition).copied() else {
                    continue; // Not asked for.
                };
                if answer.error_code == ErrorCode::OffsetOutOfRange.code() {
                    return Err(self.out_of_range(partition, position));
                }
                if answer.error_code != 0 {
                    let what = format!("cannot read {}-{partition}", self.args.topic);
                    return Err(self.refused(what, answer.error_code));
                }
                let records = answer.records.clone().unwrap_or_default();
                let next = open(&records, position, |record| each(partition, record))
                    .map_err(|error| error.within(&self.args.topic, partition))?;
                self.positions.insert(partition, next);
            }
        }
        Ok(())
    }

    /// Says which offsets there are.
    fn out_of_range(&mut self, partition: i32, position: i64) -> CliError {
        let mut offset =
            |which| Some(*self.list_offsets(&[partition], which).ok()?.get(&partition)?);
        let there = match (offset(EARLIEST), offset(LATEST)) {
            (Some(first), Some(next)) if first < next => format!("it has {first} to {}", next - 1),
            (Some(first), Some(_)) => format!("it is empty, and the next one is {first}"),
            _ => "which there are could not be asked".to_owned(),
        };
        let topic = &self.args.topic;
        CliError::Failed(format!(
            "offset {position} of {topic}-{partition} is not there, {there}: OFFSET_OUT_OF_RANGE"
        ))
    }

    fn refused(&mut self, what: String, code: i16) -> CliError {
        self.lost_leader = is_retriable(code);
        ClientError::refused(what, code, None).into()
    }
}

fn fetch_request(
    topic: &str,
    positions: &BTreeMap<i32, i64>,
    partitions: &[i32],
    wait: Duration,
) -> FetchRequest {
    let mut wanted = fetch_request::FetchTopic::default();
    wanted.topic = StrBytes::from(topic);
    for partition in partitions {
        let mut row = fetch_request::FetchPartition::default();
        row.partition = *partition;
        row.fetch_offset = positions[partition];
        row.partition_max_bytes = PARTITION_BYTES;
        wanted.partitions.push(row);
    }
    let mut request = FetchRequest::default();
    request.max_wait_ms = wait.as_millis() as i32;
    request.min_bytes = 1;
    request.max_bytes = FETCH_BYTES;
    request.topics = vec![wanted];
    request
}

/// Why fetched records cannot be given on.
enum OpenError {
    Batch { offset: i64, error: RecordError },
    Stuck { offset: i64 },
    Each(CliError),
}

impl OpenError {
    fn within(self, topic: &str, partition: i32) -> CliError {
        match self {
            Self::Batch { offset, error } => CliError::Failed(format!(
                "the batch at {topic}-{partition} offset {offset}: {error}"
            )),
            Self::Stuck { offset } => CliError::Failed(format!(
                "the broker sends less than a batch of {topic}-{partition} at offset {offset}"
            )),
            Self::Each(error) => error,
        }
    }
}

/// Gives the records from offset `from` on to `each`, until it returns false,
/// and returns the offset to go on from. A batch that is cut off at the end, as
/// Kafka may send it, is left for the next fetch.
fn open(
    records: &Bytes,
    from: i64,
    mut each: impl FnMut(&Record) -> Result<bool, CliError>,
) -> Result<i64, OpenError> {
    let mut rest = &records[..];
    let mut next = from;
    while let Some(header) = BatchHeader::decode(rest) {
        let Some(batch) = header.total_len().and_then(|len| rest.get(..len)) else {
            break;
        };
        // Control batches mark the end of transactions: nothing to read.
        if !header.is_control() && header.next_offset() > from {
            let opened = decode_records(batch, BATCH_UNFOLDED_MAX)
                .map_err(|error| OpenError::Batch { offset: header.base_offset, error })?;
            for record in opened.iter().filter(|record| record.offset >= from) {
                if !each(record).map_err(OpenError::Each)? {
                    return Ok(record.offset);
                }
            }
        }
        next = next.max(header.next_offset());
        rest = &rest[batch.len()..];
    }
    if next == from && !records.is_empty() {
        return Err(OpenError::Stuck { offset: from });
    }
    Ok(next)
}

pub(super) fn print(
    out: &mut impl Write,
    args: &ConsumeArgs,
    partition: i32,
    record: &Record,
) -> Result<(), CliError> {
    if args.json {
        writeln!(out, "{}", to_json(&args.topic, partition, record))?;
    } else {
        out.write_all(record.value.as_deref().unwrap_or(b"null"))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn to_json(topic: &str, partition: i32, record: &Record) -> Value {
    let headers: Vec<Value> = record
        .headers
        .iter()
        .map(|header| json!({ "key": json_text(Some(&header.key)), "value": json_text(header.value.as_deref()) }))
        .collect();
    json!({
        "topic": topic,
        "partition": partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "key": json_text(record.key.as_deref()),
        "value": json_text(record.value.as_deref()),
        "headers": headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::{BatchBuilder, Codec};

    /// Two batches of three records from offset 10 on, and one control batch
    /// between them.
    fn records() -> Bytes {
        let batch = |base: i64, control: bool, count: i64| {
            let flags = if control { 0x20 } else { 0 };
            let mut builder = BatchBuilder::new(Codec::Gzip).attributes(flags);
            for n in 0..count {
                let value = format!("v{}", base + n);
                builder.push(n, None, Some(value.as_bytes()), &[]);
            }
            let mut batch = builder.finish();
            batch[..8].copy_from_slice(&base.to_be_bytes());
            batch
        };
        Bytes::from([batch(10, false, 3), batch(13, true, 1), batch(14, false, 3)].concat())
    }

    fn offsets(records: &Bytes, from: i64, max: usize) -> (Vec<i64>, i64) {
        let mut seen = Vec::new();
        let next = open(records, from, |record| {
            if seen.len() == max {
                return Ok(false);
            }
            seen.push(record.offset);
            Ok(true)
        });
        (seen, next.unwrap_or_else(|error| panic!("{}", error.within("t", 0))))
    }

    #[test]
    fn records_are_read_from_where_they_are_wanted() {
        let all = records();
        assert_eq!(offsets(&all, 10, 9), (vec![10, 11, 12, 14, 15, 16], 17));
        assert_eq!(offsets(&all, 12, 9), (vec![12, 14, 15, 16], 17), "from within a batch");
        assert_eq!(offsets(&all, 10, 4), (vec![10, 11, 12, 14], 15), "the rest is left");
        let cut = all.slice(..all.len() - 1);
        assert_eq!(offsets(&cut, 10, 9), (vec![10, 11, 12], 14), "a cut batch waits");
        assert_eq!(offsets(&Bytes::new(), 10, 9), (vec![], 10));
        assert!(matches!(open(&all.slice(..30), 10, |_| Ok(true)), Err(OpenError::Stuck { .. })));
        let mut bad = all.to_vec();
        bad[70] ^= 1;
        let Err(error) = open(&Bytes::from(bad), 10, |_| Ok(true)) else {
            panic!("a broken batch opens");
        };
        let error = error.within("t", 3).to_string();
        assert!(error.starts_with("the batch at t-3 offset 10: "), "{error}");
    }

    #[test]
    fn json_keeps_every_byte() {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(5, Some(b"\xff\x00"), None, &[("h", Some("ä".as_bytes())), ("n", None)]);
        let records = decode_records(&builder.finish(), 1000).expect("opens");
        assert_eq!(
            to_json("t", 2, &records[0]),
            json!({
                "topic": "t", "partition": 2, "offset": 0, "timestamp": 5,
                "key": { "hex": "ff00" }, "value": null,
                "headers": [{ "key": "h", "value": "ä" }, { "key": "n", "value": null }],
            })
        );
    }
}
