//! Which way makes appends durable on one core?
//!
//! The log appender has three candidates, and this bench runs all of them through one loop:
//!
//!     fsync     one write in flight per file; fdatasync goes out on its completion and covers all of it
//!     fsync+    the same, but the next write goes out while that sync is in flight (pipelined)
//!     dsync     one RWF_DSYNC write in flight per file
//!     syncfs    one write in flight per file; all files whose writes have completed share one syncfs(2)
//!               of the file system, one at a time, on a thread; one fdatasync after it, because a file
//!               system without anything to write back may leave out the flush of the drive's cache
//!     journal   every append of a turn is packed into one write to one journal file, then one
//!               fdatasync; segment files follow later, unsynced, in pieces of 64 KiB and more
//!     journal+  the same, pipelined
//!     jdsync    the same, RWF_DSYNC instead of the fdatasync
//!
//! crossed with the state of the file ahead of its tail:
//!
//!     fallocated  unwritten extents, in steps that double from 1 MiB to 32 MiB
//!     zeros       the same steps, then overwritten with zeros before the tail reaches them
//!     recycled    written long ago; what zeroing it cost is NOT counted, so this is a lower bound
//!
//! The journal itself is always recycled (256 MiB, two halves). A half may be reused only when every
//! segment with data in it was written and synced; that checkpoint runs in the loop, the last one of
//! a cell is run to its end, and both are charged to the cell, in time and in CPU.
//!
//! The load is a closed loop of a fixed number of outstanding appends spread over the files by a
//! seeded generator. It starts as two halves one turn apart, and a new append arrives only after the
//! turn in which its predecessor was acknowledged has sent its writes, as it would from a socket.
//! What arrives while a file's write is in flight shares the next one (group commit). The partial
//! tail block is rewritten by the next write, from a copy: submitted bytes never change.
//!
//! Durable means: the kernel completed the sync. Latency runs from arrival to that completion. CPU is
//! counted three ways: the process (with its io-wq workers), the kernel's own threads (extent
//! conversion, dsync completion, jbd2: /proc/<pid>/schedstat), and the whole machine (/proc/stat,
//! which counts other programs too). Sides alternate within a round; cells are medians.
//!
//! Not modelled: sockets, CRC, registered buffers, the kernel's work on a full disk.
//!
//! syncfs writes back what other programs have dirty on that file system, too: the cell pays for them.
//!
//! `cargo bench --bench sync_policy -- [--dir DIR] [--quick] [--load WORD] [--policies A,B] [--ahead WORD]`;
//! DIR must be on the file system in question, it is left as it was found. Needs 3 GiB there. The last
//! three pick the cells whose names contain the word, or are listed. Prints a markdown table.

#![allow(clippy::disallowed_methods)] // Measures real time.
#![allow(unsafe_code)] // Asks the kernel or the allocator directly.

use io_uring::{IoUring, opcode, squeue, types};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
const MIB: u64 = 1 << 20;
const SMALL: usize = 1_000;
const LARGE: usize = 64 << 10;
/// One group commit writes at most this much (files; with more than four files a quarter of it).
const GROUP_MAX: usize = 1 << 20;
/// A segment of the journal policies is written when this much has gathered.
const PIECE: usize = 64 << 10;
const HEADER: usize = 32;
const JOURNAL_SIZE: u64 = 256 * MIB;
const STEP_FIRST: u64 = MIB;
const STEP_LAST: u64 = 32 * MIB;
const CHECKPOINT_SYNCS: usize = 16;

#[derive(Clone, Copy, PartialEq)]
struct Policy {
    name: &'static str,
    journal: bool,
    dsync: bool,
    pipelined: bool,
    /// One syncfs for all files.
    together: bool,
}

const fn policy(name: &'static str, journal: bool, dsync: bool, pipelined: bool) -> Policy {
    Policy { name, journal, dsync, pipelined, together: false }
}

const POLICIES: [Policy; 7] = [
    policy("fsync", false, false, false),
    policy("fsync+", false, false, true),
    policy("dsync", false, true, false),
    Policy { together: true, ..policy("syncfs", false, false, true) },
    policy("journal", true, false, false),
    policy("journal+", true, false, true),
    policy("jdsync", true, true, false),
];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Ahead {
    Fallocated,
    Zeros,
    Recycled,
}

/// `large_in`: one append in so many is LARGE (0: none), the others are SMALL.
struct Load {
    name: &'static str,
    files: usize,
    outstanding: usize,
    large_in: u64,
}

const fn load(name: &'static str, files: usize, outstanding: usize, large_in: u64) -> Load {
    Load { name, files, outstanding, large_in }
}

const LOADS: [Load; 8] = [
    load("64 KiB, 1 file", 1, 32, 1),
    load("64 KiB, 4 files", 4, 32, 1),
    load("mixed, 1 file", 1, 256, 8),
    load("mixed, 100 files", 100, 256, 8),
    load("mixed, 1000 files", 1000, 256, 8),
    load("small, 1 file", 1, 256, 0),
    load("small, 100 files", 100, 256, 0),
    load("small, 1000 files", 1000, 256, 0),
];

/// What a completion belongs to; the low 32 bits of user_data are the lane.
const WRITE: u64 = 0;
const SYNC: u64 = 1;
const ALLOCATE: u64 = 2;
const ZERO: u64 = 3;
const TOGETHER: u64 = 4;

/// `at_us` counts from the start of the cell.
#[derive(Clone, Copy)]
struct Append {
    at_us: u32,
    len: usize,
    lane: usize,
}

/// One file that is appended to: a segment, or the journal. Buffers are offsets into the memory.
/// `buf[..at]` holds the file's bytes from the block boundary `base` on; `base + at` is the tail.
#[derive(Default)]
struct Lane {
    buf: usize,
    cap: usize,
    at: usize,
    base: u64,
    /// Writes stay below `ready`; a recycled file starts over there, a fresh one is extended.
    ready: u64,
    recycled: bool,
    step: u64,
    extending: bool,
    zeroed_to: u64,
    writing: bool,
    write_buf: usize,
    syncing: bool,
    /// Bytes were placed since the last write was submitted.
    dirty: bool,
    queued: VecDeque<Append>,
    // Arrival times of what is: placed, in a write, written, in a sync.
    placed: Vec<u32>,
    in_write: Vec<u32>,
    written: Vec<u32>,
    in_sync: Vec<u32>,
    // Journal policies: the journal holds data of this segment; its checkpoint is due, and still
    // owes it a write up to the tail.
    unsynced: bool,
    checkpoint: bool,
    owed: bool,
}

struct Run<'a> {
    memory: &'a Memory,
    ring: IoUring,
    start: Instant,
    policy: Policy,
    ahead: Ahead,
    large_in: u64,
    /// The segments, then the journal.
    lanes: Vec<Lane>,
    fds: Vec<i32>,
    files: usize,
    /// Free buffers of segments and of the journal, last returned first.
    pools: [Vec<usize>; 2],
    random: u64,
    soon: Vec<Append>,
    touched: Vec<usize>,
    checkpoint_queue: VecDeque<usize>,
    checkpoint_active: usize,
    /// Lanes whose writes have completed since the last syncfs began, and what is in that one.
    unsynced: Vec<usize>,
    together: Option<Vec<u32>>,
    syncer: &'a Syncer,
    /// The half of the journal that the tail is in; entering the other one starts a checkpoint.
    half: u64,
    outstanding: usize,
    in_flight: usize,
    stopped: bool,
    latency_us: Vec<u32>,
    bytes: u64,
    writes: u64,
}

impl Lane {
    fn has_room(&self, len: usize) -> bool {
        self.at + len <= self.cap
    }

    fn place(&mut self, memory: &Memory, len: usize) {
        assert!(self.has_room(len));
        memory.copy(SOURCE, self.buf + self.at, len);
        self.at += len;
        self.dirty = true;
    }
}

impl Run<'_> {
    fn push(&mut self, entry: squeue::Entry, kind: u64, lane: usize) {
        let entry = entry.user_data(kind << 32 | lane as u64);
        // SAFETY: buffers named in entries lie in `memory`, which outlives the ring.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit().expect("submit");
        }
        self.in_flight += 1;
    }

    fn now_us(&self) -> u32 {
        self.start.elapsed().as_micros() as u32
    }

    fn arrive(&mut self, at_us: u32) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let lane = (self.random >> 33) as usize % self.files;
        let large = self.large_in > 0 && (self.random >> 8).is_multiple_of(self.large_in);
        self.soon.push(Append { at_us, len: if large { LARGE } else { SMALL }, lane });
    }

    fn acknowledge(&mut self, group: &mut Vec<u32>) {
        let now_us = self.now_us();
        for at_us in group.drain(..) {
            self.latency_us.push(now_us - at_us);
            if self.stopped {
                self.outstanding -= 1;
            } else {
                self.arrive(now_us);
            }
        }
    }

    fn deliver(&mut self) {
        for append in std::mem::take(&mut self.soon) {
            let lane = if self.policy.journal { self.files } else { append.lane };
            self.lanes[lane].queued.push_back(append);
            self.touched.push(lane);
        }
    }

    /// Puts appends into their file's aligned tail (and into the journal), sends what may be sent.
    fn pump(&mut self) {
        self.touched.extend(self.policy.journal.then_some(self.files));
        let mut touched = std::mem::take(&mut self.touched);
        while let Some(index) = touched.pop() {
            while let Some(&Append { at_us, len, lane }) = self.lanes[index].queued.front() {
                let header = if lane == index { 0 } else { HEADER };
                if !self.lanes[lane].has_room(len) || !self.lanes[index].has_room(header + len) {
                    break;
                }
                self.lanes[lane].place(self.memory, len);
                if lane != index {
                    self.lanes[index].place(self.memory, HEADER + len);
                    self.lanes[lane].unsynced = true;
                    touched.push(lane);
                }
                self.lanes[index].queued.pop_front();
                self.lanes[index].placed.push(at_us);
                self.bytes += len as u64;
            }
            if index < self.files {
                self.flush(index);
            }
        }
        if self.policy.journal {
            self.flush(self.files);
        }
        while self.checkpoint_active < CHECKPOINT_SYNCS {
            let Some(index) = self.checkpoint_queue.pop_front() else { break };
            self.checkpoint_active += 1;
            let lane = &mut self.lanes[index];
            (lane.checkpoint, lane.owed) = (true, lane.dirty);
            self.flush(index);
            self.sync_segment(index);
        }
    }

    /// Sends the lane's next write, if its policy allows one now.
    fn flush(&mut self, index: usize) {
        let is_journal = index == self.files;
        let behind = self.policy.journal && !is_journal;
        let lane = &self.lanes[index];
        if !lane.dirty || lane.writing || (!behind && !self.policy.pipelined && lane.syncing) {
            return;
        }
        let half = lane.base * 2 / JOURNAL_SIZE;
        if is_journal && half != self.half {
            if self.checkpoint_running() {
                return; // segments still need what this half holds; pump tries again every turn
            }
            self.half = half;
            self.checkpoint();
        }
        let lane = &mut self.lanes[index];
        let wraps = lane.recycled && lane.base + 2 * lane.cap as u64 > lane.ready;
        let whole = !behind || lane.owed || wraps || !lane.has_room(LARGE);
        if !whole && lane.at < PIECE {
            return;
        }
        let len = if whole { lane.at.next_multiple_of(BLOCK) } else { lane.at / BLOCK * BLOCK };
        let end = lane.base + len as u64;
        if end <= lane.ready {
            let Some(next) = self.pools[usize::from(is_journal)].pop() else {
                self.touched.push(index);
                return;
            };
            // The tail block goes on in a copy; the journal and a file that starts over go on clean.
            let keep = if is_journal || wraps { 0 } else { lane.at % BLOCK };
            self.memory.copy(ZEROS, lane.buf + lane.at, len.saturating_sub(lane.at));
            self.memory.copy(lane.buf + lane.at - keep, next, keep);
            let fd = types::Fixed(index as u32);
            let write = opcode::Write::new(fd, self.memory.at(lane.buf), len as u32)
                .offset(lane.base)
                .rw_flags(if self.policy.dsync && !behind { libc::RWF_DSYNC } else { 0 });
            (lane.writing, lane.write_buf, lane.buf) = (true, lane.buf, next);
            lane.base =
                if wraps { 0 } else { end - if whole && keep > 0 { BLOCK as u64 } else { 0 } };
            (lane.at, lane.dirty) = (keep, keep > 0 && !whole);
            lane.owed &= lane.dirty;
            lane.in_write.append(&mut lane.placed);
            self.writes += 1;
            self.push(write.build(), WRITE, index);
        }
        let lane = &mut self.lanes[index];
        if !lane.recycled && !lane.extending && end + lane.step / 2 > lane.ready {
            lane.extending = true;
            lane.step = (lane.step * 2).min(STEP_LAST);
            lane.zeroed_to = lane.ready;
            let fd = types::Fixed(index as u32);
            let allocate = opcode::Fallocate::new(fd, lane.step).offset(lane.ready);
            self.push(allocate.build(), ALLOCATE, index);
        }
    }

    fn sync(&mut self, index: usize) {
        self.lanes[index].syncing = true;
        let fd = types::Fixed(index as u32);
        let sync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC);
        self.push(sync.build(), SYNC, index);
    }

    /// One syncfs for all that is written, unless one is under way.
    fn sync_together(&mut self) {
        if self.together.is_some() || self.unsynced.is_empty() {
            return;
        }
        let mut group = vec![];
        let fd = self.fds[self.unsynced[0]];
        for index in self.unsynced.drain(..) {
            group.append(&mut self.lanes[index].written);
        }
        self.together = Some(group);
        self.syncer.begin.send(fd).expect("the syncer lives");
        let event = types::Fd(self.syncer.done.as_raw_fd());
        let read = opcode::Read::new(event, self.memory.at(EVENT), 8);
        self.push(read.build(), TOGETHER, 0);
    }

    fn sync_segment(&mut self, index: usize) {
        let lane = &self.lanes[index];
        if lane.checkpoint && !lane.owed && !lane.writing && !lane.syncing {
            self.sync(index);
        }
    }

    fn checkpoint_running(&self) -> bool {
        self.checkpoint_active > 0 || !self.checkpoint_queue.is_empty()
    }

    fn checkpoint(&mut self) {
        for index in 0..self.files {
            if std::mem::take(&mut self.lanes[index].unsynced) {
                self.checkpoint_queue.push_back(index);
            }
        }
    }

    fn complete(&mut self, user_data: u64, result: i32) {
        let (kind, index) = (user_data >> 32, user_data as u32 as usize);
        assert!(result >= 0, "operation {kind}: {}", std::io::Error::from_raw_os_error(-result));
        let is_journal = index == self.files;
        let behind = self.policy.journal && !is_journal;
        self.in_flight -= 1;
        self.touched.push(index);
        let lane = &mut self.lanes[index];
        match kind {
            WRITE => {
                lane.writing = false;
                self.pools[usize::from(is_journal)].push(lane.write_buf);
                if behind {
                    self.sync_segment(index);
                } else if self.policy.together {
                    lane.written.append(&mut lane.in_write);
                    self.unsynced.push(index);
                } else if self.policy.dsync {
                    let mut group = std::mem::take(&mut lane.in_write);
                    self.acknowledge(&mut group);
                } else {
                    lane.written.append(&mut lane.in_write);
                    if !lane.syncing {
                        lane.in_sync.append(&mut lane.written);
                        self.sync(index);
                    }
                }
            }
            TOGETHER => {
                let mut group = self.together.take().expect("one was under way");
                self.acknowledge(&mut group);
            }
            SYNC if behind => {
                (lane.syncing, lane.checkpoint) = (false, false);
                self.checkpoint_active -= 1;
            }
            SYNC => {
                lane.syncing = false;
                let mut group = std::mem::take(&mut lane.in_sync);
                if !lane.written.is_empty() {
                    lane.in_sync.append(&mut lane.written);
                    self.sync(index);
                }
                self.acknowledge(&mut group);
            }
            _ => {
                lane.zeroed_to += if kind == ZERO { MIB } else { 0 };
                let step_ends = lane.ready + lane.step;
                if self.ahead != Ahead::Zeros || lane.zeroed_to == step_ends {
                    (lane.ready, lane.extending) = (step_ends, false);
                } else if self.outstanding > 0 {
                    let fd = types::Fixed(index as u32);
                    let zero = opcode::Write::new(fd, self.memory.at(ZEROS), MIB as u32);
                    let zero = zero.offset(lane.zeroed_to);
                    self.push(zero.build(), ZERO, index);
                }
            }
        }
    }

    /// The broker's turn: completions, what they allow, new arrivals, what those allow, one enter.
    fn turns(&mut self, deadline: Instant, bytes_max: u64, done: impl Fn(&Self) -> bool) {
        let mut ready: Vec<(u64, i32)> = Vec::with_capacity(1024);
        loop {
            ready.extend(self.ring.completion().map(|c| (c.user_data(), c.result())));
            for (user_data, result) in ready.drain(..) {
                self.complete(user_data, result);
            }
            self.pump();
            self.deliver();
            self.pump();
            self.sync_together();
            if done(self) {
                return;
            }
            self.stopped |= self.bytes > bytes_max || Instant::now() > deadline;
            self.ring.submit_and_wait(1).expect("enter");
        }
    }
}

/// One mapping: a MiB of zeros, a MiB of record bytes, the journal's buffers, the segments' buffers.
struct Memory(*mut u8);

const ZEROS: usize = 0;
const SOURCE: usize = MIB as usize;
const JOURNAL_BUFS: usize = 2 * MIB as usize;
const SEGMENT_BUFS: usize = 6 * MIB as usize;
const EVENT: usize = SEGMENT_BUFS + (320 << 20);
const MEMORY: usize = EVENT + BLOCK;

/// A thread that syncs the file system, since no operation of the ring does.
struct Syncer {
    /// A file of the group.
    begin: Sender<i32>,
    /// An eventfd that tells the end.
    done: File,
}

impl Syncer {
    fn start(dir: &Path) -> Self {
        let (begin, inbox) = channel::<i32>();
        // SAFETY: a new descriptor, owned by nobody else.
        let done = unsafe { File::from_raw_fd(libc::eventfd(0, 0)) };
        let mut bell = done.try_clone().expect("descriptor");
        let dir = File::open(dir).expect("directory");
        std::thread::spawn(move || {
            for fd in inbox {
                // SAFETY: no memory is involved.
                let synced = unsafe { libc::syncfs(dir.as_raw_fd()) | libc::fdatasync(fd) };
                assert_eq!(synced, 0, "sync: {}", std::io::Error::last_os_error());
                bell.write_all(&1_u64.to_ne_bytes()).expect("eventfd");
            }
        });
        Self { begin, done }
    }
}

impl Memory {
    fn new() -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping, touched at once, that lives until the process ends.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), MEMORY, prot, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        // SAFETY: inside the mapping.
        unsafe { at.cast::<u8>().add(SOURCE).write_bytes(0xA5, MIB as usize) };
        Memory(at.cast())
    }

    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= MEMORY);
        // SAFETY: inside the mapping.
        unsafe { self.0.add(offset) }
    }

    fn copy(&self, from: usize, to: usize, len: usize) {
        assert!(from.max(to) + len <= MEMORY);
        // SAFETY: inside the mapping; `to` is never a buffer in flight.
        unsafe { std::ptr::copy(self.at(from), self.at(to), len) }
    }
}

/// CPU seconds so far: this process, the kernel's threads, the whole machine.
#[derive(Clone)]
struct Cpu {
    process: f64,
    machine: f64,
    kernel: Vec<(u32, u64)>,
}

impl Cpu {
    fn now() -> Self {
        // SAFETY: rusage is plain numbers, for which zeros are good.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is valid for writing for the length of the call.
        unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
        let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
        let stat = fs::read_to_string("/proc/stat").expect("/proc/stat");
        let ticks: Vec<f64> =
            stat.split_whitespace().skip(1).take(7).map(|t| t.parse().unwrap_or(0.0)).collect();
        let mut kernel = vec![];
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let read = |name| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            // A kernel thread is a child of kthreadd, process 2.
            let stat = read("stat");
            let parent = stat.rsplit(')').next().and_then(|s| s.split_whitespace().nth(1));
            if parent == Some("2") {
                let ran = read("schedstat").split(' ').next().and_then(|n| n.parse().ok());
                kernel.push((pid, ran.unwrap_or(0)));
            }
        }
        Cpu {
            process: seconds(usage.ru_utime) + seconds(usage.ru_stime),
            // user, nice, system, irq, softirq; not idle, not waiting for the disk.
            machine: (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / 100.0,
            kernel,
        }
    }

    /// (process, kernel threads, machine) since `then`; threads that ended in between are lost.
    fn since(&self, then: &Cpu) -> [f64; 3] {
        let before = |pid| then.kernel.iter().find(|(p, _)| *p == pid).map_or(0, |(_, ran)| *ran);
        let threads: u64 = self.kernel.iter().map(|(pid, ran)| ran - before(*pid).min(*ran)).sum();
        [self.process - then.process, threads as f64 / 1e9, self.machine - then.machine]
    }
}

/// Medians of these are a row: what it is, and the digits to print.
const COLUMNS: [(&str, usize); 9] = [
    ("appends/s", 0),
    ("MB/s", 0),
    ("p50 us", 0),
    ("p99 us", 0),
    ("appends/write", 1),
    ("CPU us/append: process", 2),
    ("kernel threads", 2),
    ("machine", 2),
    ("process + kernel s/GB", 3),
];
type Cell = [f64; COLUMNS.len()];

/// Makes `count` files of `size` bytes: unwritten extents, or zeros.
fn prepare(dir: &Path, name: &str, count: usize, size: u64, zeros: Option<&Memory>) -> Vec<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).custom_flags(libc::O_DIRECT);
    let files = (0..count).map(|i| {
        let file = options.open(dir.join(format!("{name}-{i}"))).expect("open");
        // SAFETY: no memory is involved.
        let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, size as i64) };
        assert_eq!(result, 0, "fallocate: {}", std::io::Error::last_os_error());
        let Some(memory) = zeros else { return file };
        for offset in (0..size).step_by(MIB as usize) {
            let (fd, zeros) = (file.as_raw_fd(), memory.at(ZEROS).cast());
            // SAFETY: there is a MiB of zeros.
            let n = unsafe { libc::pwrite(fd, zeros, MIB as usize, offset as i64) };
            assert_eq!(n, MIB as isize, "{}", std::io::Error::last_os_error());
        }
        file
    });
    files.collect()
}

fn remove(dir: &Path, name: &str, count: usize) {
    for i in 0..count {
        fs::remove_file(dir.join(format!("{name}-{i}"))).expect("remove");
    }
    sync_filesystem(dir);
}

fn sync_filesystem(dir: &Path) {
    let file = File::open(dir).expect("directory");
    // SAFETY: no memory is involved.
    unsafe { libc::syncfs(file.as_raw_fd()) };
}

struct Bench {
    dir: PathBuf,
    memory: Memory,
    journal: File,
    syncer: Syncer,
    seconds: f64,
    pick: Pick,
}

/// Which cells to run; empty words mean all.
#[derive(Default)]
struct Pick {
    load: String,
    policies: String,
    ahead: String,
}

fn recycled_size(files: usize) -> u64 {
    (1024 / files as u64).min(256) * MIB
}

impl Bench {
    fn cell(&self, load: &Load, policy: Policy, ahead: Ahead, recycled: &[File]) -> Cell {
        // Fresh files start with their first step prepared; that is charged by the share used.
        let (cpu, start) = (Cpu::now(), Instant::now());
        let count = if ahead == Ahead::Recycled { 0 } else { load.files };
        let zeros = (ahead == Ahead::Zeros).then_some(&self.memory);
        let fresh = prepare(&self.dir, "fresh", count, STEP_FIRST, zeros);
        let prepared = (Cpu::now().since(&cpu), start.elapsed().as_secs_f64());
        sync_filesystem(&self.dir);

        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_cqsize(1024);
        let ring = builder.build(256).expect("io_uring");
        let files = if ahead == Ahead::Recycled { recycled } else { &fresh };
        let fds: Vec<i32> = files.iter().chain([&self.journal]).map(AsRawFd::as_raw_fd).collect();
        ring.submitter().register_files(&fds).expect("register files");
        // Workers share the core (their CPU is the core's), and more than the default 8 may sync.
        ring.submitter().register_iowq_aff(&core_set()).expect("worker affinity");
        ring.submitter().register_iowq_max_workers(&mut [64, 0]).expect("worker limit");

        let cap = if load.files > 4 { GROUP_MAX / 4 } else { GROUP_MAX };
        let mut pools: [Vec<usize>; 2] = [
            (SEGMENT_BUFS..EVENT).step_by(cap).collect(),
            (JOURNAL_BUFS..SEGMENT_BUFS).step_by(GROUP_MAX).collect(),
        ];
        let mut lane = |pool: usize, cap, recycled, ready| {
            let buf = pools[pool].pop().expect("a buffer");
            Lane { buf, cap, recycled, ready, step: STEP_FIRST, ..Lane::default() }
        };
        let recycled = ahead == Ahead::Recycled;
        let ready = if recycled { recycled_size(load.files) } else { STEP_FIRST };
        let mut lanes: Vec<Lane> = fds[1..].iter().map(|_| lane(0, cap, recycled, ready)).collect();
        lanes.push(lane(1, GROUP_MAX, true, JOURNAL_SIZE));

        let (cpu, start) = (Cpu::now(), Instant::now());
        let mut run = Run {
            memory: &self.memory,
            ring,
            start,
            policy,
            ahead,
            large_in: load.large_in,
            lanes,
            fds: fds.clone(),
            unsynced: vec![],
            together: None,
            syncer: &self.syncer,
            files: load.files,
            pools,
            random: 0x9E37_79B9_7F4A_7C15,
            soon: vec![],
            touched: vec![],
            checkpoint_queue: VecDeque::new(),
            checkpoint_active: 0,
            half: 0,
            outstanding: load.outstanding,
            in_flight: 0,
            stopped: false,
            latency_us: Vec::with_capacity(1 << 20),
            bytes: 0,
            writes: 0,
        };
        // A journal cell of small appends runs until half a journal is full, so that the checkpoint
        // at its end is shared by as many appends as in the long run.
        let to_half = policy.journal && load.large_in == 0;
        let seconds = if to_half { self.seconds * 2.5 } else { self.seconds };
        let bytes_max = if to_half { JOURNAL_SIZE / 2 } else { u64::MAX };
        let deadline = start + Duration::from_secs_f64(seconds);
        for i in 0..load.outstanding {
            if i == load.outstanding / 2 {
                run.deliver();
                run.pump();
            }
            run.arrive(0);
        }
        run.turns(deadline, bytes_max, |run| run.outstanding == 0);
        if policy.journal {
            run.turns(deadline, 0, |run| !run.checkpoint_running());
            run.checkpoint();
        }
        run.turns(deadline, 0, |run| !run.checkpoint_running() && run.in_flight == 0);
        let share = (run.bytes as f64 / (load.files as u64 * STEP_FIRST) as f64).min(1.0);
        let wall = start.elapsed().as_secs_f64() + prepared.1 * share;
        let spent = Cpu::now().since(&cpu);

        let count = run.latency_us.len() as f64;
        run.latency_us.sort_unstable();
        let quantile = |q: f64| f64::from(run.latency_us[((count - 1.0) * q) as usize]);
        let [process, kernel, machine] =
            std::array::from_fn(|i| (spent[i] + prepared.0[i] * share) * 1e6 / count);
        let (mb, per_write) = (run.bytes as f64 / 1e6, count / run.writes as f64);
        let (p50, p99, s_per_gb) =
            (quantile(0.5), quantile(0.99), (process + kernel) * count / 1e3 / mb);
        let cell =
            [count / wall, mb / wall, p50, p99, per_write, process, kernel, machine, s_per_gb];
        drop((run, fresh));
        remove(&self.dir, "fresh", if recycled { 0 } else { load.files });
        cell
    }

    fn run(&self, load: &Load, rounds: usize) {
        let size = recycled_size(load.files);
        let wanted = format!("{:?}", Ahead::Recycled).contains(&self.pick.ahead);
        let count = if wanted { load.files } else { 0 };
        let recycled = prepare(&self.dir, "recycled", count, size, Some(&self.memory));
        sync_filesystem(&self.dir);
        // The journal never writes behind its segments' zeros: nobody waits for those writes.
        let aheads = [Ahead::Fallocated, Ahead::Zeros, Ahead::Recycled];
        let mut sides: Vec<(Policy, Ahead, Vec<Cell>)> = aheads
            .into_iter()
            .flat_map(|ahead| POLICIES.map(|policy| (policy, ahead, vec![])))
            .filter(|(policy, ahead, _)| !policy.journal || *ahead != Ahead::Zeros)
            .filter(|(policy, ahead, _)| {
                let Pick { policies, ahead: word, .. } = &self.pick;
                let listed = policies.split(',').any(|name| name == policy.name);
                (policies.is_empty() || listed) && format!("{ahead:?}").contains(&**word)
            })
            .collect();
        let count = sides.len();
        for round in 0..rounds {
            for i in 0..count {
                // Another order in every round: rotated, and every second one backwards.
                let i = if round % 2 == 0 { i } else { count - 1 - i };
                let (policy, ahead, cells) = &mut sides[(i + round * 5) % count];
                let cell = self.cell(load, *policy, *ahead, &recycled);
                cells.push(cell);
            }
        }
        println!("\n### {} ({} outstanding)\n", load.name, load.outstanding);
        let titles = COLUMNS.map(|(title, _)| title).join(" | ");
        println!("| ahead | policy | {titles} | s/GB min-max |");
        println!("|---|---{}|---|", "|---".repeat(COLUMNS.len()));
        for (policy, ahead, cells) in &sides {
            print!("| {ahead:?} | {} |", policy.name);
            let mut values = vec![];
            for (i, (_, digits)) in COLUMNS.iter().enumerate() {
                values = cells.iter().map(|cell| cell[i]).collect();
                values.sort_by(f64::total_cmp);
                print!(" {:.digits$} |", values[rounds / 2], digits = *digits);
            }
            println!(" {:.3}-{:.3} |", values[0], values[rounds - 1]);
        }
        remove(&self.dir, "recycled", recycled.len());
    }
}

fn core_set() -> libc::cpu_set_t {
    // SAFETY: a cpu_set_t is plain bits; CPU_SET stays inside it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        set
    }
}

fn main() {
    let (mut dir, mut quick) = (std::env::temp_dir(), false);
    let mut pick = Pick::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {}
            "--quick" => quick = true,
            "--dir" => dir = args.next().expect("--dir DIR").into(),
            "--load" => pick.load = args.next().expect("--load WORD"),
            "--policies" => pick.policies = args.next().expect("--policies A,B"),
            "--ahead" => pick.ahead = args.next().expect("--ahead WORD"),
            other => {
                eprintln!(
                    "unknown option {other}; --dir DIR, --quick, --load WORD, --policies A,B, \
                     --ahead WORD"
                );
                std::process::exit(2);
            }
        }
    }
    let dir = dir.join(format!("sync_policy-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("directory");
    // SAFETY: no memory is kept.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &core_set()) };
    let memory = Memory::new();
    let journal = prepare(&dir, "journal", 1, JOURNAL_SIZE, Some(&memory)).remove(0);
    sync_filesystem(&dir);
    let (seconds, rounds) = if quick { (0.2, 3) } else { (0.6, 3) };
    let syncer = Syncer::start(&dir);
    let bench = Bench { dir: dir.clone(), memory, seconds, journal, syncer, pick };
    for load in LOADS.iter().filter(|load| load.name.contains(&bench.pick.load)) {
        bench.run(load, rounds);
    }
    fs::remove_dir_all(&dir).expect("clean up");
}
