//! How often does a shard allocate in its steady state?
//!
//! A real `Shard` is stepped by a performer without a kernel: its disk completes
//! everything in the next turn, its sockets hand over at most 128 KiB at a time.
//! A counting allocator counts within `step` only. Each load runs until every
//! table and page has come around (more bytes than the shard may keep), then it
//! is counted.
//!
//! Two columns: what batches cost, and what housekeeping does. Housekeeping is a
//! turn in which the disk is asked for, or has done, more than writes and syncs of
//! open files: checkpoints (indexes and producer snapshots are encoded whole),
//! rolls, reservations of space. Fails if a batch costs more than 0.001
//! allocations (an index that doubles), or housekeeping more than one for each MiB
//! that went in; where logs share the journal, 0.003 (the list of logs that a new file
//! of it has) and 1.5.
//!
//! `cargo bench --bench allocations [-- --trace]`: with `--trace`, where the first
//! allocations of batches behind the warm-up come from.

#![expect(unsafe_code, reason = "a global allocator is unsafe to implement")]

mod requests;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use corelane::base::rope::Rope;
use corelane::base::time::{Instant, Now, UnixMillis};
use corelane::config::{Assignment, Machine, Settings};
use corelane::effect::disk::{DiskCompletion, DiskOp, DiskOpKind, DiskOutput};
use corelane::effect::net::{ConnectionId, NetEvent, NetOp, ReceiveInto, Received};
use corelane::metadata::image::{Image, Node, Partition};
use corelane::metadata::link::ToShard;
use corelane::metadata::record::Record;
use corelane::model::ids::{CoreId, LeaderEpoch, MetadataOffset, NodeId, PartitionIndex, TopicId};
use corelane::shard::Shard;
use corelane::shard::event::{Effects, Event};

/// Memory of the shard: five eighths for logs, of which three quarters are kept.
const MEMORY: u64 = 256 << 20;
/// Bytes of log that are certainly resident.
const RESIDENT: usize = 64 << 20;
const TOPIC: &str = "bench";
const LENT_MAX: usize = 16 << 10;
const RECEIVED_MAX: usize = 128 << 10;
/// Allocations for each batch, and of housekeeping for each MiB produced.
const ALLOWED: (f64, f64) = (0.001, 1.0);
/// The same where logs share the journal.
const JOURNALED_ALLOWED: (f64, f64) = (0.003, 1.5);
/// From so many partitions on, small batches share the journal.
const JOURNALED: i32 = 100;
/// At least so much is counted.
const COUNTED_BATCHES: usize = 20_000;
const COUNTED_BYTES: usize = 256 << 20;

struct Counting;

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// Where allocations come from, if that is asked for, and how many are wanted.
    static TRACED: RefCell<Vec<String>> = const { RefCell::new(vec![]) };
    static WANTED: Cell<usize> = const { Cell::new(0) };
}

impl Counting {
    fn note(layout: Layout) {
        if COUNTING.get() {
            COUNT.set(COUNT.get() + 1);
            if TRACED.with_borrow(Vec::len) < WANTED.get() {
                COUNTING.set(false);
                let trace = format!("{} bytes:\n{}", layout.size(), Backtrace::force_capture());
                TRACED.with_borrow_mut(|traced| traced.push(trace));
                COUNTING.set(true);
            }
        }
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(layout);
        // SAFETY: the caller's own promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note(layout);
        // SAFETY: the caller's own promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        Self::note(layout);
        // SAFETY: the caller's own promise.
        unsafe { System.realloc(old, layout, new_size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's own promise.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a client asks for, again and again.
enum Asks {
    Produce {
        partition: i32,
    },
    /// Fetches from `offset`, which wraps at `end`.
    Fetch {
        offset: i64,
        end: i64,
    },
}

/// One connection, with the requests that it keeps open.
struct Client {
    asks: Asks,
    /// One request for each partition that is asked of.
    frames: Vec<Vec<u8>>,
    in_flight: usize,
    /// Bytes of the current frame that have left.
    sent: usize,
    open: usize,
    receive: Option<ReceiveInto>,
    answers: Vec<u8>,
    answered: u64,
}

struct World {
    shard: Shard,
    effects: Effects,
    now: Now,
    completions: Vec<DiskCompletion>,
    sent: Vec<(ConnectionId, Rope)>,
    clients: Vec<Client>,
    batch: requests::Batch,
    lent: Vec<u8>,
    /// Answers to batches and to fetches.
    answers: [u64; 2],
    fetched_batches: u64,
    /// Allocations of turns with housekeeping, and of those without.
    allocations: [u64; 2],
    /// The last turn asked the disk for more than writes and syncs.
    housekeeping: bool,
}

impl World {
    fn new(partitions: i32, batch: requests::Batch) -> Self {
        let set = [format!("corelane.memory={MEMORY}"), "corelane.cores=1".into()];
        let set = set.map(|text| Assignment::parse(&text).expect("key=value"));
        let machine = Machine { cores: 1, memory_bytes: 1 << 30, hostname: "localhost".to_owned() };
        let (settings, _) = Settings::resolve(&set, &machine).expect("they are allowed");
        let node = settings.node_id;
        let mut world = Self {
            shard: Shard::new(CoreId(0), Arc::new(settings), true),
            effects: Effects::default(),
            now: Now { instant: Instant::from_nanos(0), unix: UnixMillis(requests::unix_millis()) },
            completions: vec![],
            sent: vec![],
            clients: vec![],
            batch,
            lent: vec![0; LENT_MAX],
            answers: [0; 2],
            fetched_batches: 0,
            allocations: [0; 2],
            housekeeping: false,
        };
        let topic = TopicId([7; 16]);
        let mut records = vec![
            Record::RegisterBroker(Node { id: node, host: "h".into(), port: 9, cores: 1 }),
            Record::Topic { name: TOPIC.into(), id: topic },
        ];
        records.extend((0..partitions).map(|index| Record::Partition {
            topic,
            index: PartitionIndex(index),
            partition: Partition {
                core: CoreId(0),
                replicas: vec![node],
                isr: vec![node],
                leader: Some(node),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: 0,
            },
        }));
        let empty = Image::empty("cluster".into(), NodeId(node.0));
        let (image, delta) = empty.apply(MetadataOffset(1), &records).expect("they fit");
        let publish = ToShard::Publish { image: Arc::new(image), delta: Arc::new(delta) };
        world.step(Event::Control(publish));
        world
    }

    fn connect(&mut self, asks: Asks, frames: Vec<Vec<u8>>, in_flight: usize) {
        let connection = ConnectionId(self.clients.len() as u32);
        self.clients.push(Client {
            asks,
            frames,
            in_flight,
            sent: 0,
            open: 0,
            receive: None,
            answers: vec![],
            answered: 0,
        });
        let peer = ([127, 0, 0, 1], 1).into();
        self.step(Event::Net(NetEvent::Accepted { connection, peer }));
    }

    fn producers(&mut self, connections: usize, partitions: i32, in_flight: usize) {
        let frame = |partition| requests::produce(TOPIC, partition, &self.batch.bytes);
        let frames: Vec<Vec<u8>> = (0..partitions).map(frame).collect();
        for connection in 0..connections {
            let partition = connection as i32 % partitions;
            self.connect(Asks::Produce { partition }, frames.clone(), in_flight);
        }
    }

    fn consumer(&mut self, max_bytes: usize, end: i64) {
        let frame = requests::fetch(TOPIC, 0, max_bytes as i32);
        self.connect(Asks::Fetch { offset: 0, end }, vec![frame], 1);
    }

    /// The only place where allocations count.
    fn step(&mut self, event: Event<'_>) {
        COUNTING.set(true);
        self.shard.step(self.now, event, &mut self.effects);
        COUNTING.set(false);
    }

    fn turn(&mut self) {
        let (count, traced) = (COUNT.get(), TRACED.with_borrow(Vec::len));
        let before = self.housekeeping;
        self.now.instant = self.now.instant + Duration::from_micros(10);
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            self.step(Event::Disk(completion));
        }
        self.completions = completions;
        let mut sent = std::mem::take(&mut self.sent);
        for (connection, bytes) in sent.drain(..) {
            self.answered(connection, &bytes);
            self.step(Event::Net(NetEvent::Sent { connection, bytes, result: Ok(()) }));
        }
        self.sent = sent;
        for index in 0..self.clients.len() {
            self.receive(index);
        }
        self.step(Event::Turn);
        self.perform();
        let housekeeping = before || self.housekeeping;
        self.allocations[usize::from(!housekeeping)] += COUNT.get() - count;
        if housekeeping {
            TRACED.with_borrow_mut(|traces| traces.truncate(traced));
        }
    }

    /// Hands over what the client has to say, if it is wanted.
    fn receive(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let connection = ConnectionId(index as u32);
        match client.receive.take() {
            Some(ReceiveInto::Shared) => {
                let mut lent = std::mem::take(&mut self.lent);
                let len = client.fill(&mut lent);
                if len == 0 {
                    client.receive = Some(ReceiveInto::Shared);
                } else {
                    let received = Received::Lent(&lent[..len]);
                    self.step(Event::Net(NetEvent::Received { connection, received }));
                }
                self.lent = lent;
            }
            Some(ReceiveInto::Page(mut page)) => {
                let most = page.spare_len().min(RECEIVED_MAX);
                let len = client.fill(&mut page.spare()[..most]);
                if len == 0 {
                    client.receive = Some(ReceiveInto::Page(page));
                } else {
                    page.advance(len);
                    let received = Received::Page(page);
                    self.step(Event::Net(NetEvent::Received { connection, received }));
                }
            }
            None => {}
        }
    }

    fn perform(&mut self) {
        self.housekeeping = false;
        for DiskOp { tag, kind } in self.effects.disk.drain(..) {
            self.housekeeping |=
                !matches!(kind, DiskOpKind::Write { .. } | DiskOpKind::Sync { .. });
            let output = match kind {
                DiskOpKind::Write { bytes, .. } => DiskOutput::Written { bytes },
                DiskOpKind::Open { .. } => DiskOutput::Opened { len: 0 },
                DiskOpKind::ListDir { .. } => DiskOutput::Entries(vec![]),
                DiskOpKind::ReadDir { .. } => DiskOutput::Dir { entries: vec![], contents: vec![] },
                DiskOpKind::Space => DiskOutput::Space { total: 1 << 40, usable: 1 << 40 },
                DiskOpKind::Read { .. } | DiskOpKind::ReadFile { .. } => {
                    panic!("all that is asked for is resident")
                }
                _ => DiskOutput::Done,
            };
            self.completions.push(DiskCompletion { tag, result: Ok(output) });
        }
        for op in self.effects.net.drain(..) {
            match op {
                NetOp::Receive { connection, into } => {
                    self.clients[connection.0 as usize].receive = Some(into);
                }
                NetOp::Send { connection, bytes } => self.sent.push((connection, bytes)),
                other => panic!("{other:?}"),
            }
        }
        self.effects.control.clear();
    }

    /// Reads the answers in `bytes` as far as they matter here.
    fn answered(&mut self, connection: ConnectionId, bytes: &Rope) {
        let client = &mut self.clients[connection.0 as usize];
        match client.asks {
            Asks::Produce { .. } => {
                for part in bytes.parts() {
                    client.answers.extend_from_slice(part);
                }
                let len = 4 + requests::produced_len(TOPIC);
                for answer in client.answers.chunks_exact(len) {
                    assert_eq!(requests::i32_at(answer, 0) as usize, len - 4);
                    assert_eq!(requests::produced(&answer[4..], TOPIC).error, 0);
                    client.open -= 1;
                    self.answers[0] += 1;
                }
                assert!(client.answers.len().is_multiple_of(len), "answers are sent whole");
                client.answers.clear();
            }
            Asks::Fetch { ref mut offset, end } => {
                let head = &bytes.parts()[0];
                assert_eq!(requests::fetched(&head[4..], TOPIC).error, 0);
                let at = 4 + requests::fetched_head(TOPIC);
                let (records, _) = requests::records_len(&head[at..]);
                let batches = records / self.batch.bytes.len();
                *offset += (batches * self.batch.records) as i64;
                if *offset >= end {
                    *offset = 0;
                }
                client.open -= 1;
                self.answers[1] += 1;
                self.fetched_batches += batches as u64;
            }
        }
        client.answered += 1;
    }

    /// Batches that went in and out so far.
    fn batches(&self) -> u64 {
        self.answers[0] + self.fetched_batches
    }
}

impl Client {
    /// Writes what the client says next into `into`, within its open requests.
    fn fill(&mut self, into: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < into.len() && self.open < self.in_flight {
            let at = match &mut self.asks {
                Asks::Produce { partition } => *partition as usize,
                Asks::Fetch { offset, .. } => {
                    requests::set_fetch_offset(&mut self.frames[0], *offset);
                    0
                }
            };
            let frame = &self.frames[at][self.sent..];
            let now = frame.len().min(into.len() - filled);
            into[filled..filled + now].copy_from_slice(&frame[..now]);
            filled += now;
            self.sent += now;
            if now == frame.len() {
                self.sent = 0;
                self.open += 1;
                if let Asks::Produce { partition } = &mut self.asks {
                    *partition = (*partition + 1) % self.frames.len() as i32;
                }
            }
        }
        filled
    }
}

/// Turns until `batches` have gone in or out.
fn run(world: &mut World, batches: u64) {
    let (until, mut idle) = (world.batches() + batches, 0);
    while world.batches() < until {
        let before = world.batches();
        world.turn();
        idle = if world.batches() == before { idle + 1 } else { 0 };
        assert!(idle < 1_000_000, "the shard answers");
    }
}

struct Load {
    name: &'static str,
    batch: usize,
    connections: usize,
    partitions: i32,
    in_flight: usize,
    /// Bytes a consumer asks for, 0 for no consumer.
    fetch: usize,
    /// Whether the consumer reads what is being written, or what was.
    tailing: bool,
}

const LOADS: [Load; 9] = [
    produce("64 KiB, 1 connection", 64 << 10, 1, 1, 8),
    produce("64 KiB, 4 connections, 6 partitions", 64 << 10, 4, 6, 8),
    produce("1 KiB, 1 connection", 1 << 10, 1, 1, 32),
    produce("1 KiB, 4 connections, 6 partitions", 1 << 10, 4, 6, 64),
    produce("1 KiB, 4 connections, 100 partitions", 1 << 10, 4, 100, 64),
    fetch("1 MiB of 64 KiB batches", 64 << 10, 1 << 20, false),
    fetch("64 KiB of 1 KiB batches", 1 << 10, 64 << 10, false),
    fetch("64 KiB batches as they come", 64 << 10, 1 << 20, true),
    fetch("1 KiB batches as they come", 1 << 10, 1 << 20, true),
];

const fn produce(
    name: &'static str,
    batch: usize,
    connections: usize,
    partitions: i32,
    in_flight: usize,
) -> Load {
    Load { name, batch, connections, partitions, in_flight, fetch: 0, tailing: false }
}

const fn fetch(name: &'static str, batch: usize, fetch: usize, tailing: bool) -> Load {
    Load { name, batch, connections: 1, partitions: 1, in_flight: 8, fetch, tailing }
}

fn main() -> ExitCode {
    let trace = std::env::args().any(|argument| argument == "--trace");
    println!("| load | batches | allocations | per batch | housekeeping | per MiB in |");
    println!("|---|---|---|---|---|---|");
    let mut beyond = vec![];
    for load in &LOADS {
        let batch = requests::batch(100, load.batch);
        let (len, records) = (batch.bytes.len(), batch.records);
        let mut world = World::new(load.partitions, batch);
        world.producers(load.connections, load.partitions, load.in_flight);
        let warm = if load.fetch > 0 && !load.tailing { RESIDENT } else { 2 * MEMORY as usize };
        let warm_batches = (warm / len) as u64;
        if load.tailing {
            world.consumer(load.fetch, i64::MAX);
        }
        run(&mut world, warm_batches);
        if load.fetch > 0 && !load.tailing {
            world.clients[0].in_flight = 0;
            let end = (warm_batches / 2 * records as u64) as i64;
            world.consumer(load.fetch, end);
            run(&mut world, warm_batches);
        }
        let (before, produced) = (world.batches(), world.answers[0]);
        world.allocations = [0; 2];
        WANTED.set(if trace { 40 } else { 0 });
        run(&mut world, COUNTED_BATCHES.max(COUNTED_BYTES / len) as u64);
        WANTED.set(0);
        for trace in TRACED.take() {
            println!("{trace}");
        }
        let batches = world.batches() - before;
        let mib = ((world.answers[0] - produced) * len as u64) as f64 / (1 << 20) as f64;
        let journaled = world.shard.counters().replicas.journal_bytes;
        let shares = load.partitions >= JOURNALED;
        assert_eq!(journaled > (batches as usize * len / 2) as u64, shares, "{journaled} bytes");
        let [housekeeping, count] = world.allocations;
        let (each, chores) = (count as f64 / batches as f64, housekeeping as f64 / mib.max(1.0));
        let allowed = if shares { JOURNALED_ALLOWED } else { ALLOWED };
        if each > allowed.0 || chores > allowed.1 {
            beyond.push(format!("{}: {each:.5} and {chores:.2}, {allowed:?} allowed", load.name));
        }
        println!(
            "| {} | {batches} | {count} | {each:.5} | {housekeeping} | {chores:.2} |",
            load.name
        );
    }
    if beyond.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\n{}", beyond.join("\n"));
    ExitCode::FAILURE
}
