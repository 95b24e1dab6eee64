//! Figures of consumer groups: commits with their sync, and rebalances.
//!
//! The real binary with one core on CPU 0, clients on CPU 1, each a thread with a
//! connection of its own that waits for every answer, as real consumers do.
//!
//! - *commits*: groups without members commit one offset again and again; each
//!   answer comes after the record in `__consumer_offsets` is synced.
//! - *classic*: all members join an empty group at once; then one more joins, and
//!   the others learn it from their heartbeats. Counted without the delay that
//!   `group.initial.rebalance.delay.ms` sets, and with the heartbeats of 100 ms.
//! - *consumer* (KIP-848): the same, with as many partitions as members; and how
//!   often a member lost a partition that it got back, which must be never.
//!
//! `cargo bench --bench groups -- [--dir DIR] [--members N] [--seconds N] [--clients N]`

#![allow(clippy::disallowed_methods)] // Measures real time.
#![allow(unsafe_code)] // Asks the kernel or the allocator directly.
#![allow(dead_code)] // Of what benches share, not all is needed here.

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use corelane::cli::client::{Client, Target};
use corelane::wire::groups::{
    Assignment, ConsumerGroupHeartbeatRequest, HeartbeatRequest, JoinGroupRequest,
    OffsetCommitRequest, SyncGroupRequest, consumer_group_heartbeat_request, encode_assignment,
    encode_subscription, join_group_request, offset_commit_request, sync_group_request,
};
use corelane::wire::small::{Bytes, FindCoordinatorRequest, StrBytes};
use load::{CLIENT_CPU, Server, free_port, pin};

const TOPIC: &str = "bench";
const DELAY: Duration = Duration::from_millis(500);
const HEARTBEAT: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;

struct Options {
    dir: PathBuf,
    members: usize,
    seconds: u64,
    clients: usize,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { dir: std::env::temp_dir(), members: 100, seconds: 5, clients: 64 };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            if word == "--bench" {
                continue;
            }
            let value = words.next().unwrap_or_else(|| usage(&word));
            let number = || value.parse().unwrap_or_else(|_| usage(&word));
            match word.as_str() {
                "--dir" => options.dir = PathBuf::from(&value),
                "--members" => options.members = number(),
                "--seconds" => options.seconds = number() as u64,
                "--clients" => options.clients = number(),
                _ => usage(&word),
            }
        }
        options
    }
}

fn usage(word: &str) -> ! {
    eprintln!("{word}: see the head of benches/groups.rs");
    std::process::exit(2)
}

fn main() -> io::Result<()> {
    let options = Options::read();
    let dir = options.dir.join(format!("corelane-groups-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = measure(&options, &dir);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn measure(options: &Options, dir: &Path) -> io::Result<()> {
    println!("{}\n", load::machine(dir)?);
    let port = free_port()?;
    let binary = env!("CARGO_BIN_EXE_corelane");
    let mut command = Command::new(binary);
    command.arg("serve").args(["--set", &format!("log.dirs={}", dir.display())]);
    command.args(["--set", &format!("listeners=PLAINTEXT://127.0.0.1:{port}")]);
    for setting in [
        "corelane.cores=1",
        "corelane.admin.listener=",
        &format!("group.initial.rebalance.delay.ms={}", DELAY.as_millis()),
    ] {
        command.args(["--set", setting]);
    }
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let server = Server::start(command, port)?;
    pin(CLIENT_CPU)?;
    let address = server.address.to_string();
    let partitions = (options.members + 1).to_string();
    let made = Command::new(binary)
        .args(["topic", "create", TOPIC, "--partitions", &partitions, "--bootstrap", &address])
        .stdout(std::process::Stdio::null())
        .status()?;
    assert!(made.success(), "the topic is made");
    find_coordinator(&address);
    commits(options, &server, &address)?;
    classic(options, &address);
    consumer(options, &address);
    server.stop()?;
    Ok(())
}

fn connect(address: &str) -> Client {
    Client::connect(address).expect("the broker answers")
}

/// Asks for a coordinator until there is one, which makes the offsets' topic.
fn find_coordinator(address: &str) {
    let mut client = connect(address);
    let patience = Instant::now() + PATIENCE;
    loop {
        let found = client.call(Target::Any, 3, Duration::ZERO, |_| {
            let mut request = FindCoordinatorRequest::default();
            request.key = text("committer-0");
            request
        });
        if found.expect("the broker answers").error_code == 0 {
            return;
        }
        assert!(Instant::now() < patience, "there is no coordinator");
        thread::sleep(Duration::from_millis(20));
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from(text)
}

/// Commits of all clients for some seconds, after one to warm up.
fn commits(options: &Options, server: &Server, address: &str) -> io::Result<()> {
    let (stop, counting) = (AtomicBool::new(false), AtomicBool::new(false));
    let times = Mutex::new(vec![]);
    let length = Duration::from_secs(options.seconds);
    let cpu = thread::scope(|scope| {
        for n in 0..options.clients {
            let (stop, counting, times) = (&stop, &counting, &times);
            scope.spawn(move || {
                let mut client = connect(address);
                let mut mine = vec![];
                let group = text(&format!("committer-{n}"));
                for offset in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let counted = counting.load(Ordering::Relaxed);
                    let start = Instant::now();
                    commit(&mut client, &group, n as i32 % options.members as i32, offset);
                    if counted {
                        mine.push(start.elapsed());
                    }
                }
                times.lock().expect("no one panicked").append(&mut mine);
            });
        }
        thread::sleep(Duration::from_secs(1));
        let before = server.cpu_seconds();
        counting.store(true, Ordering::Relaxed);
        thread::sleep(length);
        let cpu = server.cpu_seconds().and_then(|after| Ok(after - before?));
        stop.store(true, Ordering::Relaxed);
        cpu
    })?;
    let mut times = times.into_inner().expect("no one panicked");
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "commits: {} groups, {:.0} a second, {:.1} us of the broker's CPU each; \
         p50 {:.2} ms, p99 {:.2} ms",
        options.clients,
        times.len() as f64 / length.as_secs_f64(),
        cpu * 1e6 / times.len() as f64,
        at(0.5),
        at(0.99),
    );
    Ok(())
}

fn commit(client: &mut Client, group: &StrBytes, partition: i32, offset: i64) {
    let mut row = offset_commit_request::OffsetCommitRequestPartition::default();
    row.partition_index = partition;
    row.committed_offset = offset;
    row.committed_leader_epoch = -1;
    let mut topic = offset_commit_request::OffsetCommitRequestTopic::default();
    topic.name = text(TOPIC);
    topic.partitions.push(row);
    let mut request = OffsetCommitRequest::default();
    request.group_id = group.clone();
    request.generation_id_or_member_epoch = -1;
    request.topics.push(topic);
    loop {
        let answer = client.call(Target::Any, 9, Duration::ZERO, |_| request.clone());
        let answer = answer.expect("the broker answers");
        match answer.topics[0].partitions[0].error_code {
            0 => return,
            // The coordinator loads, or its topic is being made.
            14..=16 => thread::sleep(Duration::from_millis(20)),
            other => panic!("a commit is refused: {other}"),
        }
    }
}

/// A member of a classic group, without its heartbeats.
struct Classic {
    client: Client,
    id: StrBytes,
    generation: i32,
}

impl Classic {
    fn new(address: &str) -> Self {
        Self { client: connect(address), id: text(""), generation: -1 }
    }

    /// Joins and syncs until that is done for one generation.
    fn join(&mut self) {
        loop {
            let mut protocol = join_group_request::JoinGroupRequestProtocol::default();
            protocol.name = text("range");
            protocol.metadata = Bytes::from(encode_subscription(&[TOPIC]));
            let mut request = JoinGroupRequest::default();
            request.group_id = text("classic");
            request.session_timeout_ms = 45_000;
            request.rebalance_timeout_ms = 60_000;
            request.member_id = self.id.clone();
            request.protocol_type = text("consumer");
            request.protocols = vec![protocol];
            let joined = self.client.call(Target::Any, 5, PATIENCE, |_| request);
            let joined = joined.expect("the broker answers");
            self.id = joined.member_id.clone();
            match joined.error_code {
                0 => {}
                MEMBER_ID_REQUIRED => continue,
                14..=16 => {
                    thread::sleep(Duration::from_millis(20));
                    continue;
                }
                other => panic!("a member is refused: {other}"),
            }
            self.generation = joined.generation_id;
            let mut request = SyncGroupRequest::default();
            request.group_id = text("classic");
            request.generation_id = self.generation;
            request.member_id = self.id.clone();
            if joined.leader == joined.member_id {
                for (partition, member) in (0..).zip(&joined.members) {
                    let assignment = Assignment::from([(TOPIC.to_owned(), vec![partition])]);
                    let mut row = sync_group_request::SyncGroupRequestAssignment::default();
                    row.member_id = member.member_id.clone();
                    row.assignment = Bytes::from(encode_assignment(&assignment));
                    request.assignments.push(row);
                }
            }
            let synced = self.client.call(Target::Any, 4, PATIENCE, |_| request);
            match synced.expect("the broker answers").error_code {
                0 => return,
                REBALANCE_IN_PROGRESS => {}
                other => panic!("a sync is refused: {other}"),
            }
        }
    }

    /// False if the group rebalances.
    fn heartbeat(&mut self) -> bool {
        let mut request = HeartbeatRequest::default();
        request.group_id = text("classic");
        request.generation_id = self.generation;
        request.member_id = self.id.clone();
        let beat = self.client.call(Target::Any, 4, PATIENCE, |_| request);
        beat.expect("the broker answers").error_code == 0
    }
}

fn classic(options: &Options, address: &str) {
    let ready = Barrier::new(options.members + 1);
    let joined = Barrier::new(options.members + 1);
    let settled = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..options.members {
            let (ready, joined, settled) = (&ready, &joined, &settled);
            scope.spawn(move || {
                let mut member = Classic::new(address);
                ready.wait();
                member.join();
                joined.wait();
                while member.heartbeat() {
                    thread::sleep(HEARTBEAT);
                }
                member.join();
                settled.fetch_add(1, Ordering::Relaxed);
            });
        }
        ready.wait();
        let start = Instant::now();
        joined.wait();
        let first = start.elapsed();
        let start = Instant::now();
        Classic::new(address).join();
        wait(|| settled.load(Ordering::Relaxed) == options.members);
        println!(
            "classic: {} members join in {:.0} ms beyond the delay of {} ms; one more: {:.0} ms",
            options.members,
            (first.as_secs_f64() - DELAY.as_secs_f64()) * 1e3,
            DELAY.as_millis(),
            start.elapsed().as_secs_f64() * 1e3,
        );
    });
}

fn wait(until: impl Fn() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !until() {
        assert!(Instant::now() < patience, "the group does not settle");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the members of the consumer group own, by their numbers.
type Owned = Mutex<BTreeMap<usize, BTreeSet<i32>>>;

/// A member's life: heartbeats, in which it takes and gives what it is told to.
fn member(address: &str, n: usize, owned: &Owned, stop: &AtomicBool, losses: &AtomicUsize) {
    let mut client = connect(address);
    let (id, mut epoch) = (uuid::Uuid::new_v4().to_string(), 0);
    let mut mine: BTreeSet<i32> = BTreeSet::new();
    let (mut topic_id, mut changed) = (None, true);
    while !stop.load(Ordering::Relaxed) {
        let mut request = ConsumerGroupHeartbeatRequest::default();
        request.group_id = text("consumer");
        request.member_id = text(&id);
        request.member_epoch = epoch;
        request.rebalance_timeout_ms = -1;
        if epoch == 0 {
            request.rebalance_timeout_ms = 60_000;
            request.subscribed_topic_names = Some(vec![text(TOPIC)]);
            request.topic_partitions = Some(vec![]);
        } else if changed && let Some(topic_id) = topic_id {
            let mut row = consumer_group_heartbeat_request::TopicPartitions::default();
            row.topic_id = topic_id;
            row.partitions = mine.iter().copied().collect();
            request.topic_partitions = Some(vec![row]);
        }
        let answer = client.call(Target::Any, 1, PATIENCE, |_| request);
        let answer = answer.expect("the broker answers");
        match answer.error_code {
            0 => {}
            14..=16 => {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            other => panic!("a heartbeat is refused: {other}"),
        }
        (epoch, changed) = (answer.member_epoch, false);
        if let Some(assignment) = answer.assignment {
            let rows = &assignment.topic_partitions;
            topic_id = rows.first().map(|row| row.topic_id).or(topic_id);
            let now: BTreeSet<i32> =
                rows.iter().flat_map(|row| row.partitions.iter().copied()).collect();
            losses.fetch_add(mine.difference(&now).count(), Ordering::Relaxed);
            changed = now != mine;
            mine = now;
            owned.lock().expect("no one panicked").insert(n, mine.clone());
        }
        if !changed {
            thread::sleep(HEARTBEAT);
        }
    }
}

fn consumer(options: &Options, address: &str) {
    let owned = Owned::default();
    let (stop, losses) = (AtomicBool::new(false), AtomicUsize::new(0));
    let partitions = options.members + 1;
    // Everybody has something, and together they have all, each once.
    let settled = |members: usize| {
        let owned = owned.lock().expect("no one panicked");
        let all: Vec<i32> = owned.values().flatten().copied().collect();
        let distinct: BTreeSet<i32> = all.iter().copied().collect();
        owned.values().filter(|mine| !mine.is_empty()).count() == members
            && all.len() == partitions
            && distinct.len() == partitions
    };
    thread::scope(|scope| {
        let start = Instant::now();
        for n in 0..options.members {
            let (owned, stop, losses) = (&owned, &stop, &losses);
            scope.spawn(move || member(address, n, owned, stop, losses));
        }
        wait(|| settled(options.members));
        let first = start.elapsed();
        losses.store(0, Ordering::Relaxed);
        let start = Instant::now();
        scope.spawn(|| member(address, options.members, &owned, &stop, &losses));
        wait(|| settled(partitions));
        println!(
            "consumer: {} members join in {:.0} ms; one more: {:.0} ms, for which the others \
             gave up {} of {partitions} partitions",
            options.members,
            first.as_secs_f64() * 1e3,
            start.elapsed().as_secs_f64() * 1e3,
            losses.load(Ordering::Relaxed),
        );
        stop.store(true, Ordering::Relaxed);
    });
}
