//! What zero-copy sends, registered buffers and huge pages save, without a broker.
//!
//! Sends: one connection, one send in flight, from memory of 64 MiB that is sent over
//! and over, as a consumer of resident pages is served; the reader drops the bytes
//! unread (MSG_TRUNC). Over the loopback interface, and over a veth pair between two
//! network namespaces that the bench makes and removes (which takes root). *copied* is
//! the share of sends whose notification says that the kernel copied the bytes after
//! all (IORING_SEND_ZC_REPORT_USAGE).
//!
//! Writes: direct, four in flight, over a file of 256 MiB that was written before.
//!
//! Each with pages of 4 KiB and of 2 MiB, and with buffers that are registered with the
//! ring (*fixed*) or not; the kernel takes registered ones for sends only together with
//! zero copy. The sender is on CPU 0, the reader on CPU 1. *own* is the CPU time of the
//! sending or writing process, *machine* that of both processors with their interrupts;
//! seconds per GB, medians of the rounds, sides in turns.
//!
//! `cargo bench --bench zero_copy -- [--dir DIR] [--rounds N] [--seconds N]`

#![allow(clippy::disallowed_methods)] // Measures real time.
#![allow(unsafe_code)] // Asks the kernel directly.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

const MEMORY: usize = 64 << 20;
const FILE: u64 = 256 << 20;
const HUGE: usize = 2 << 20;
const WRITES: usize = 4;
/// Notifications of zero-copy sends that may be missing.
const PINNED: usize = 8;
/// IORING_SEND_ZC_REPORT_USAGE, and the bit of the notification that answers it.
const REPORT_USAGE: u16 = 8;
const WAS_COPIED: u32 = 1 << 31;
const SIZES: [usize; 2] = [64 << 10, 1 << 20];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Op {
    Send,
    SendZc,
    SendZcFixed,
    Write,
    WriteFixed,
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Op::Send => "SEND",
            Op::SendZc => "SEND_ZC",
            Op::SendZcFixed => "SEND_ZC fixed",
            Op::Write => "WRITE",
            Op::WriteFixed => "WRITE_FIXED",
        }
    }

    fn is_fixed(self) -> bool {
        matches!(self, Op::SendZcFixed | Op::WriteFixed)
    }
}

#[derive(Clone, Copy)]
struct Cell {
    op: Op,
    size: usize,
    huge: bool,
}

fn cells(ops: &[Op]) -> Vec<Cell> {
    let mut cells = vec![];
    for size in SIZES {
        for &op in ops {
            cells.extend([false, true].map(|huge| Cell { op, size, huge }));
        }
    }
    cells
}

/// What one round of a cell came to.
#[derive(Clone, Copy)]
struct Figures {
    speed: f64,
    own: f64,
    machine: f64,
    copied: f64,
}

fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let (mut dir, mut rounds, mut seconds) =
        (PathBuf::from(env!("CARGO_TARGET_TMPDIR")), 5, 0.5_f64);
    let (mut receive, mut send) = (None, None);
    while let Some(word) = words.next() {
        let mut next = || words.next().unwrap_or_else(|| usage(&word));
        match word.as_str() {
            "--bench" => {} // Cargo says so.
            "--dir" => dir = next().into(),
            "--rounds" => rounds = next().parse().unwrap_or_else(|_| usage(&word)),
            "--seconds" => seconds = next().parse().unwrap_or_else(|_| usage(&word)),
            "--receive" => receive = next().parse::<IpAddr>().ok(),
            "--send" => send = next().parse::<SocketAddr>().ok(),
            _ => usage(&word),
        }
    }
    let length = Duration::from_secs_f64(seconds);
    if let Some(address) = receive {
        return read_and_drop(address);
    }
    if let Some(address) = send {
        return run(&cells(&[Op::Send, Op::SendZc, Op::SendZcFixed]), rounds, |cell| {
            send_cell(cell, address, length)
        });
    }
    let options = ["--rounds".to_owned(), rounds.to_string()].into_iter();
    let options: Vec<String> =
        options.chain(["--seconds".to_owned(), seconds.to_string()]).collect();
    println!("loopback\n");
    sends(None, Ipv4Addr::LOCALHOST, &options)?;
    println!("\nveth pair between two network namespaces\n");
    match Pair::new() {
        Ok(pair) => sends(Some(&pair), Pair::READER, &options)?,
        Err(error) => println!("not run: {error}"),
    }
    println!("\nwrites\n");
    let path = dir.join(format!("zero-copy-{}", std::process::id()));
    let result = File::create(&path).and_then(|file| {
        drop(file);
        writes(&path, rounds, length)
    });
    fs::remove_file(&path)?;
    result
}

fn usage(word: &str) -> ! {
    eprintln!("cannot make sense of {word}; see the head of the bench's file");
    std::process::exit(2);
}

/// Two network namespaces with a wire between them. Removed when it is dropped.
struct Pair {
    names: [String; 2],
}

impl Pair {
    const SENDER: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
    const READER: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 2);

    fn new() -> io::Result<Self> {
        let pid = std::process::id();
        let pair = Self { names: ["s", "r"].map(|side| format!("corelane-{pid}-{side}")) };
        let [sender, reader] = &pair.names;
        ip(&["netns", "add", sender])?;
        ip(&["netns", "add", reader])?;
        let peer = ["peer", "name", "wire", "netns", reader];
        let add = ["-n", sender, "link", "add", "wire", "type", "veth"];
        ip(&[&add[..], &peer].concat())?;
        for (name, address) in [(sender, Self::SENDER), (reader, Self::READER)] {
            ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", "wire"])?;
            ip(&["-n", name, "link", "set", "wire", "up"])?;
        }
        Ok(pair)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            // One that was never made cannot be removed.
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn ip(words: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(words).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(io::Error::other(said)) }
}

/// This program again, in a network namespace if there are some.
fn again(pair: Option<&Pair>, side: usize) -> io::Result<Command> {
    let program = std::env::current_exe()?;
    Ok(match pair {
        None => Command::new(program),
        Some(pair) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &pair.names[side]]).arg(program);
            command
        }
    })
}

/// Ends a process that would wait for ever.
struct Reader(Child);

impl Drop for Reader {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sends(pair: Option<&Pair>, reader: Ipv4Addr, options: &[String]) -> io::Result<()> {
    let mut command = again(pair, 1)?;
    command.args(["--receive", &reader.to_string()]).stdout(Stdio::piped());
    let mut child = Reader(command.spawn()?);
    let mut address = String::new();
    let stdout = child.0.stdout.take().expect("it was piped");
    BufReader::new(stdout).read_line(&mut address)?;
    let status = again(pair, 0)?.args(["--send", address.trim()]).args(options).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("the sender failed")) }
}

fn read_and_drop(address: IpAddr) -> io::Result<()> {
    pin(1)?;
    let listener = TcpListener::bind((address, 0))?;
    println!("{}", listener.local_addr()?);
    for socket in listener.incoming() {
        let socket = socket?;
        // SAFETY: with MSG_TRUNC a TCP socket drops the bytes and writes none.
        while unsafe {
            libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), 4 << 20, libc::MSG_TRUNC)
        } > 0
        {}
    }
    Ok(())
}

fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: a CPU set is plain bits, for which zero is valid; the call reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Memory that starts where a huge page does, and is made of those or not.
struct Memory {
    map: *mut libc::c_void,
    start: *mut u8,
}

impl Memory {
    fn new(huge: bool) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: a new mapping, of which an aligned part is used and filled.
        unsafe {
            let map = libc::mmap(std::ptr::null_mut(), MEMORY + HUGE, protection, flags, -1, 0);
            if map == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let start = map.cast::<u8>().add(map.align_offset(HUGE));
            if libc::madvise(start.cast(), MEMORY, advice) != 0 {
                return Err(io::Error::last_os_error());
            }
            start.write_bytes(1, MEMORY);
            Ok(Self { map, start })
        }
    }

    /// The `count`th piece of `size` bytes, over and over.
    fn piece(&self, count: usize, size: usize) -> *const u8 {
        // SAFETY: within the mapping.
        unsafe { self.start.add(count * size % MEMORY) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the ring that used it is gone.
        unsafe { libc::munmap(self.map, MEMORY + HUGE) };
    }
}

fn ring(memory: &Memory, fixed: bool) -> io::Result<IoUring> {
    let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(64)?;
    if fixed {
        let vector = libc::iovec { iov_base: memory.start.cast(), iov_len: MEMORY };
        // SAFETY: the memory outlives the ring.
        unsafe { ring.submitter().register_buffers(&[vector]) }?;
    }
    Ok(ring)
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: the memory outlives the ring.
    unsafe { ring.submission().push(entry) }.expect("the queue has room");
}

/// CPU seconds of this process with its io_uring workers, and of the machine.
fn used() -> io::Result<(f64, f64)> {
    // SAFETY: `usage` is valid for writing; the other asks for a constant.
    let (usage, per_second) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        (usage, libc::sysconf(libc::_SC_CLK_TCK) as f64)
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let text = fs::read_to_string("/proc/stat")?;
    let ticks = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<f64> = ticks.filter_map(|word| word.parse().ok()).collect();
    // All but idle (3), waiting for the disk (4) and what other guests took (7 and on).
    let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|&at| ticks.get(at)).sum();
    Ok((seconds(usage.ru_utime) + seconds(usage.ru_stime), busy / per_second))
}

/// Calls `step`, which says how many bytes it has moved, for so long.
fn timed(length: Duration, mut step: impl FnMut() -> io::Result<usize>) -> io::Result<Figures> {
    let (before, began) = (used()?, Instant::now());
    let mut bytes = 0;
    while began.elapsed() < length {
        bytes += step()?;
    }
    let (after, seconds, gigabytes) = (used()?, began.elapsed().as_secs_f64(), bytes as f64 / 1e9);
    Ok(Figures {
        speed: 1e3 * gigabytes / seconds,
        own: (after.0 - before.0) / gigabytes,
        machine: (after.1 - before.1) / gigabytes,
        copied: 0.0,
    })
}

fn send_cell(cell: Cell, address: SocketAddr, length: Duration) -> io::Result<Figures> {
    let Cell { op, size, huge } = cell;
    let memory = Memory::new(huge)?;
    let mut ring = ring(&memory, op.is_fixed())?;
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let (fd, flags) = (types::Fd(socket.as_raw_fd()), libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
    let (mut sent, mut pinned, mut copied, mut told) = (0, 0, 0, 0);
    let mut figures = timed(length, || {
        let piece = memory.piece(sent, size);
        sent += 1;
        let zero_copy = |index| {
            let entry = opcode::SendZc::new(fd, piece, size as u32);
            entry.flags(flags).zc_flags(REPORT_USAGE).buf_index(index).build()
        };
        let entry = match op {
            Op::SendZc => zero_copy(None),
            Op::SendZcFixed => zero_copy(Some(0)),
            _ => opcode::Send::new(fd, piece, size as u32).flags(flags).build(),
        };
        push(&mut ring, &entry);
        let mut done = None;
        while done.is_none() || pinned > PINNED {
            ring.submit_and_wait(1)?;
            while let Some(entry) = ring.completion().next() {
                if cqueue::notif(entry.flags()) {
                    pinned -= 1;
                    told += 1;
                    copied += usize::from(entry.result() as u32 & WAS_COPIED != 0);
                } else {
                    pinned += usize::from(cqueue::more(entry.flags()));
                    done = Some(moved(entry.result())?);
                }
            }
        }
        Ok(done.unwrap_or(0))
    })?;
    while pinned > 0 {
        ring.submit_and_wait(1)?;
        pinned -= ring.completion().filter(|entry| cqueue::notif(entry.flags())).count();
    }
    figures.copied = copied as f64 / f64::from(told.max(1));
    Ok(figures)
}

fn writes(path: &Path, rounds: usize, length: Duration) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path)?;
    let fd = file.as_raw_fd();
    // SAFETY: the descriptor is open.
    if unsafe { libc::fallocate(fd, 0, 0, FILE as libc::off_t) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let first = Cell { op: Op::Write, size: 1 << 20, huge: false };
    write_cell(first, fd, Duration::from_secs(1))?;
    run(&cells(&[Op::Write, Op::WriteFixed]), rounds, |cell| write_cell(cell, fd, length))
}

fn write_cell(cell: Cell, fd: RawFd, length: Duration) -> io::Result<Figures> {
    let Cell { op, size, huge } = cell;
    let memory = Memory::new(huge)?;
    let mut ring = ring(&memory, op.is_fixed())?;
    let (mut count, mut open) = (0, 0);
    let figures = timed(length, || {
        while open < WRITES {
            let (piece, at) = (memory.piece(count, size), (count * size) as u64 % FILE);
            let (file, len) = (types::Fd(fd), size as u32);
            let entry = if op.is_fixed() {
                opcode::WriteFixed::new(file, piece, len, 0).offset(at).build()
            } else {
                opcode::Write::new(file, piece, len).offset(at).build()
            };
            push(&mut ring, &entry);
            (count, open) = (count + 1, open + 1);
        }
        ring.submit_and_wait(1)?;
        let mut bytes = 0;
        while let Some(entry) = ring.completion().next() {
            bytes += moved(entry.result())?;
            open -= 1;
        }
        Ok(bytes)
    })?;
    while open > 0 {
        ring.submit_and_wait(1)?;
        open -= ring.completion().count();
    }
    Ok(figures)
}

fn moved(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Measures all cells in turns and prints their medians.
fn run(
    cells: &[Cell],
    rounds: usize,
    mut measure: impl FnMut(Cell) -> io::Result<Figures>,
) -> io::Result<()> {
    pin(0)?;
    let mut found = vec![vec![]; cells.len()];
    // The first round is not counted.
    for round in 0..=rounds {
        for (&cell, rows) in cells.iter().zip(&mut found) {
            let figures = measure(cell)?;
            if round > 0 {
                rows.push(figures);
            }
        }
    }
    println!("| bytes | operation | pages | MB/s | own s/GB (min-max) | machine s/GB | copied |");
    println!("|---|---|---|---|---|---|---|");
    for (cell, rows) in cells.iter().zip(&found) {
        let of = |what: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = rows.iter().map(what).collect();
            values.sort_by(f64::total_cmp);
            (values[0], values[values.len() / 2], values[values.len() - 1])
        };
        let own = of(|row| row.own);
        println!(
            "| {} KiB | {} | {} | {:.0} | {:.3} ({:.3}-{:.3}) | {:.3} | {:.0} % |",
            cell.size >> 10,
            cell.op.name(),
            if cell.huge { "2 MiB" } else { "4 KiB" },
            of(|row| row.speed).1,
            own.1,
            own.0,
            own.2,
            of(|row| row.machine).1,
            100.0 * of(|row| row.copied).1,
        );
    }
    Ok(())
}
