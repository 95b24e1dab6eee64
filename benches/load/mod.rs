//! Load on a server in another process, and what it cost that process.
//!
//! The server runs on CPU 0, the clients on CPU 1: a thread for each connection
//! that keeps so many requests open, and reads the answers as cheaply as the
//! kernel allows (records are dropped unread with MSG_TRUNC). What is counted
//! is what was answered between two readings of the server's CPU, after a
//! warm-up of half a second.

#![allow(dead_code)] // Each bench uses its part.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

pub const SERVER_CPU: usize = 0;
pub const CLIENT_CPU: usize = 1;

const WARM_UP: Duration = Duration::from_millis(500);

/// Keeps the calling thread on `cpu`.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: a CPU set is plain bits, for which zero is valid; the call reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A port of the loopback interface that nobody uses at the moment.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A server in a process of its own.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts `command` on the server's CPU and waits until it listens.
    pub fn start(mut command: Command, port: u16) -> io::Result<Self> {
        // SAFETY: between fork and exec only a system call is made.
        unsafe { command.pre_exec(|| pin(SERVER_CPU)) };
        Self::start_anywhere(command, port)
    }

    /// Starts `command` on any CPU and waits until it listens.
    pub fn start_anywhere(mut command: Command, port: u16) -> io::Result<Self> {
        let mut server =
            Self { child: command.spawn()?, address: (Ipv4Addr::LOCALHOST, port).into() };
        let patience = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(server.address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(io::Error::other(format!("the server ended: {status}")));
            }
            if Instant::now() > patience {
                return Err(io::Error::other("the server does not listen"));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }

    /// Seconds of CPU that all threads of the server have used, those that the
    /// kernel runs for its io_uring included.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after = text.rsplit(") ").next().unwrap_or_default();
        let ticks = |at: usize| after.split(' ').nth(at).and_then(|word| word.parse::<u64>().ok());
        let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        // SAFETY: asks for a constant of the system.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        Ok((user + system) as f64 / per_second as f64)
    }

    /// Resident memory, bytes.
    pub fn memory(&self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(kib.ok_or(io::ErrorKind::InvalidData)? << 10)
    }

    /// Ends the server at once (SIGKILL).
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Asks the server to stop and waits for it, within reason.
    pub fn stop(self) -> io::Result<ExitStatus> {
        self.stop_within(Duration::from_secs(20))
    }

    /// Asks the server to stop and waits for it, so long at the most.
    pub fn stop_within(mut self, patience: Duration) -> io::Result<ExitStatus> {
        // SAFETY: a signal to a child that was not waited for yet.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        let patience = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > patience {
                return Err(io::Error::other("the server does not stop"));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if the server has been stopped, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one measurement came to.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub seconds: f64,
    /// Answered requests.
    pub answers: u64,
    /// Bytes of batches, sent or received.
    pub bytes: u64,
    pub cpu_seconds: f64,
}

impl Figures {
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds / 1e6
    }

    pub fn cpu_seconds_per_gigabyte(&self) -> f64 {
        self.cpu_seconds / (self.bytes as f64 / 1e9)
    }

    /// How much of its CPU the server used.
    pub fn busy(&self) -> f64 {
        self.cpu_seconds / self.seconds
    }
}

/// One connection's part of the load.
pub trait Client: Send {
    /// Sends the next request.
    fn ask(&mut self, socket: &mut TcpStream) -> io::Result<()>;
    /// Reads at least one answer; returns how many, and bytes of batches.
    fn answer(&mut self, socket: &mut TcpStream) -> io::Result<(u64, u64)>;
}

/// Counted by all clients.
#[derive(Default)]
struct Tally {
    answers: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
}

/// Runs the clients against the server, each with `in_flight` requests open.
pub fn run(
    server: &Server,
    clients: &mut [Box<dyn Client>],
    in_flight: usize,
    length: Duration,
) -> io::Result<Figures> {
    let tally = Tally::default();
    let address = server.address;
    thread::scope(|scope| {
        let tally = &tally;
        let mut threads = vec![];
        for client in clients {
            let body = move || drive(client.as_mut(), address, in_flight, tally);
            threads.push(scope.spawn(body));
        }
        thread::sleep(WARM_UP);
        let before = read(server, tally)?;
        thread::sleep(length);
        let after = read(server, tally)?;
        tally.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| io::Error::other("a client has panicked"))??;
        }
        Ok(Figures {
            seconds: (after.0 - before.0).as_secs_f64(),
            answers: after.1 - before.1,
            bytes: after.2 - before.2,
            cpu_seconds: after.3 - before.3,
        })
    })
}

fn read(server: &Server, tally: &Tally) -> io::Result<(Instant, u64, u64, f64)> {
    let answers = tally.answers.load(Ordering::Relaxed);
    let bytes = tally.bytes.load(Ordering::Relaxed);
    Ok((Instant::now(), answers, bytes, server.cpu_seconds()?))
}

fn drive(
    client: &mut dyn Client,
    address: SocketAddr,
    in_flight: usize,
    tally: &Tally,
) -> io::Result<()> {
    pin(CLIENT_CPU)?;
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let mut open = 0;
    loop {
        let stops = tally.stop.load(Ordering::Relaxed);
        while open < in_flight && !stops {
            client.ask(&mut socket)?;
            open += 1;
        }
        if open == 0 {
            return Ok(());
        }
        let (answers, bytes) = client.answer(&mut socket)?;
        open -= answers as usize;
        tally.answers.fetch_add(answers, Ordering::Relaxed);
        tally.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Reads whole answers of one size, several at a time.
pub struct AnswerReader {
    buffer: Vec<u8>,
    filled: usize,
    len: usize,
}

impl AnswerReader {
    /// For answers of `len` bytes, their length prefix included.
    pub fn new(len: usize) -> Self {
        Self { buffer: vec![0; 256 * len], filled: 0, len }
    }

    /// Reads some, and calls `each` with every whole one.
    pub fn read(
        &mut self,
        socket: &mut TcpStream,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut count = 0;
        while count == 0 {
            let now = socket.read(&mut self.buffer[self.filled..])?;
            if now == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += now;
            for answer in self.buffer[..self.filled].chunks_exact(self.len) {
                each(answer)?;
                count += 1;
            }
            let whole = count as usize * self.len;
            self.buffer.copy_within(whole..self.filled, 0);
            self.filled -= whole;
        }
        Ok(count)
    }
}

/// Takes `len` bytes from the socket without copying them.
pub fn discard(socket: &TcpStream, mut len: usize) -> io::Result<()> {
    while len > 0 {
        let flags = libc::MSG_TRUNC | libc::MSG_WAITALL;
        // SAFETY: with MSG_TRUNC a TCP socket drops the bytes and writes none.
        let now = unsafe { libc::recv(socket.as_raw_fd(), std::ptr::null_mut(), len, flags) };
        match now {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            1.. => len -= now as usize,
            _ => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}

/// Produces frames in turn, as they are.
pub struct PlainProducer {
    pub frame: Vec<u8>,
    pub batch: usize,
    pub answers: AnswerReader,
}

impl Client for PlainProducer {
    fn ask(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        socket.write_all(&self.frame)
    }

    fn answer(&mut self, socket: &mut TcpStream) -> io::Result<(u64, u64)> {
        let answers = self.answers.read(socket, |_| Ok(()))?;
        Ok((answers, answers * self.batch as u64))
    }
}

/// Fetches answers of one known size.
pub struct PlainConsumer {
    pub frame: Vec<u8>,
    /// Bytes of an answer with its length, and of the batches in it.
    pub answer: usize,
    pub batches: usize,
}

impl Client for PlainConsumer {
    fn ask(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        socket.write_all(&self.frame)
    }

    fn answer(&mut self, socket: &mut TcpStream) -> io::Result<(u64, u64)> {
        let mut head = [0; 4];
        socket.read_exact(&mut head)?;
        if i32::from_be_bytes(head) as usize + 4 != self.answer {
            return Err(io::ErrorKind::InvalidData.into());
        }
        discard(socket, self.answer - 4)?;
        Ok((1, self.batches as u64))
    }
}

/// The machine in one line: kernel, CPU, where `dir` is.
pub fn machine(dir: &Path) -> io::Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, name)| name);
    let cores = thread::available_parallelism()?;
    let df = Command::new("df").arg("--output=source,fstype").arg(dir).output()?;
    let df =
        String::from_utf8_lossy(&df.stdout).lines().nth(1).unwrap_or("unknown disk").to_owned();
    let disk: Vec<&str> = df.split_whitespace().collect();
    Ok(format!("Linux {}, {model}, {cores} CPUs, {}", release.trim(), disk.join(" ")))
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
