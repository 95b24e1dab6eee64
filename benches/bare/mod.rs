//! The shortest loop on the broker's kernel interfaces: what any broker on one
//! core could at most do here.
//!
//! One thread, one io_uring with the broker's own settings. Frames come in by
//! plain receives of up to 256 KiB, each is copied once into aligned pages;
//! all that is there goes out in one O_DIRECT write to a preallocated file, and
//! fdatasync follows on the write's completion (what arrives meanwhile shares
//! the next one). Then every frame gets a small answer. A Fetch frame is answered
//! at once from memory that was filled before, in one send.
//!
//! A frame is judged by its length and its API key alone; no Kafka, no CRC, no
//! index, no topics, no offsets, no back-pressure beyond the client's own.

use std::fs::OpenOptions;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, Submitter, opcode, squeue};

use crate::requests;

const BLOCK: u64 = 4096;
const RECEIVE: usize = 256 << 10;
/// Pages for what is not durable yet; used again and again.
const PAGES: usize = 64 << 20;
const PREALLOCATE_MIN: u64 = 1 << 20;
const PREALLOCATE_MAX: u64 = 32 << 20;
/// Memory that consumers are served from.
const RESIDENT: usize = 512 << 20;

const ACCEPT: u64 = 0;
const RECEIVE_DONE: u64 = 1;
const SEND_DONE: u64 = 2;
const WRITE_DONE: u64 = 3;
const SYNC_DONE: u64 = 4;
const ALLOCATE_DONE: u64 = 5;

/// What the loop answers.
#[derive(Clone, Copy)]
pub struct Answers {
    /// Bytes of the answer to one produce frame, its length included.
    pub produced: usize,
    /// Bytes of the answer to one fetch frame, its length included.
    pub fetched: usize,
}

struct Connection {
    socket: RawFd,
    input: Vec<u8>,
    start: usize,
    filled: usize,
    /// Frames that wait for the disk: placed, being written, being synced.
    placed: usize,
    writing: usize,
    syncing: usize,
    /// Answers to produce frames that may be sent.
    owed: usize,
    /// Fetch frames that may be answered.
    wanted: usize,
    /// The send in flight: where it starts, and what is left of it.
    sending: Option<(*const u8, usize)>,
}

struct Loop {
    /// Lives as long as the process.
    ring: &'static IoUring,
    /// Kept, because only the submitter that registered the ring's descriptor
    /// uses the registration.
    submitter: Submitter<'static>,
    listener: TcpListener,
    connections: Vec<Connection>,
    answers: Answers,
    acknowledgements: Vec<u8>,
    resident: Memory,
    resident_at: usize,
    file: RawFd,
    pages: Memory,
    /// File positions: end of what was placed, handed to the disk, durable.
    placed: u64,
    written: u64,
    allocated: u64,
    step: u64,
    writing: bool,
    syncing: bool,
    allocating: bool,
    vectors: Box<[libc::iovec; 2]>,
}

/// Page-aligned memory, every byte of it touched.
struct Memory {
    start: *mut u8,
    len: usize,
}

impl Memory {
    fn new(len: usize) -> Self {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, flags | libc::MAP_POPULATE, -1, 0)
        };
        assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self { start: start.cast(), len }
    }

    fn at(&self, position: usize) -> *mut u8 {
        assert!(position < self.len);
        // SAFETY: inside the mapping, which lives as long as the process.
        unsafe { self.start.add(position) }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is initialised, and ours alone by `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

/// Serves until the process ends. `file` is made; `cpu` is where the
/// thread already runs and its kernel workers shall.
pub fn serve(listener: TcpListener, file: &Path, cpu: usize, answers: Answers) -> io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(file)?;
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(1024)
        .build(256)?;
    // SAFETY: a CPU set is plain bits, for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid set and `cpu` a CPU of this machine.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    ring.submitter().register_iowq_aff(&set)?;
    let ring: &'static IoUring = Box::leak(Box::new(ring));
    let mut submitter = ring.submitter();
    submitter.register_ring_fd()?;
    let mut answer = vec![0; answers.produced];
    answer[..4].copy_from_slice(&(answers.produced as i32 - 4).to_be_bytes());
    let mut resident = Memory::new(RESIDENT - RESIDENT % answers.fetched);
    for chunk in resident.bytes().chunks_exact_mut(answers.fetched) {
        chunk.fill(7);
        chunk[..4].copy_from_slice(&(answers.fetched as i32 - 4).to_be_bytes());
    }
    let mut serving = Loop {
        ring,
        submitter,
        listener,
        connections: vec![],
        answers,
        acknowledgements: answer.repeat(1024),
        resident,
        resident_at: 0,
        file: file.into_raw_fd(),
        pages: Memory::new(PAGES),
        placed: 0,
        written: 0,
        allocated: 0,
        step: PREALLOCATE_MIN,
        writing: false,
        syncing: false,
        allocating: false,
        vectors: Box::new([libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 2]),
    };
    serving.run()
}

impl Loop {
    fn push(&mut self, entry: squeue::Entry, kind: u64, connection: usize) {
        let entry = entry.user_data(kind << 32 | connection as u64);
        // SAFETY: buffers of entries belong to the loop and stay until they complete;
        // no other handle of the queue is alive.
        while unsafe { self.ring.submission_shared().push(&entry) }.is_err() {
            self.submitter.submit().expect("a full queue is submitted");
        }
    }

    fn run(&mut self) -> io::Result<()> {
        self.accept();
        self.allocate();
        loop {
            match self.submitter.submit_and_wait(1) {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(error),
                _ => {}
            }
            // SAFETY: no other handle of the queue is alive.
            while let Some(entry) = unsafe { self.ring.completion_shared() }.next() {
                let (kind, index) = (entry.user_data() >> 32, entry.user_data() as u32 as usize);
                let result = entry.result();
                match kind {
                    ACCEPT => self.accepted(check(result)? as RawFd),
                    RECEIVE_DONE if result <= 0 => {} // The client has gone.
                    RECEIVE_DONE => self.received(index, result as usize),
                    SEND_DONE => self.sent(index, check(result)?),
                    WRITE_DONE => self.write_done(check(result)?),
                    SYNC_DONE => {
                        check(result)?;
                        self.synced();
                    }
                    ALLOCATE_DONE => {
                        check(result)?;
                        self.allocating = false;
                        self.allocated += self.step;
                        self.step = (2 * self.step).min(PREALLOCATE_MAX);
                    }
                    _ => unreachable!("no other operations are sent"),
                }
            }
            self.write();
            for index in 0..self.connections.len() {
                self.send(index);
            }
        }
    }

    fn accept(&mut self) {
        let listener = Fd(self.listener.as_raw_fd());
        let null = std::ptr::null_mut();
        self.push(opcode::Accept::new(listener, null, null.cast()).build(), ACCEPT, 0);
    }

    fn accepted(&mut self, socket: RawFd) {
        let on: libc::c_int = 1;
        // SAFETY: `on` is an int, as TCP_NODELAY wants it, and lives through the call.
        let set = unsafe {
            let (on, len) = ((&raw const on).cast(), size_of::<libc::c_int>() as u32);
            libc::setsockopt(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, on, len)
        };
        assert_eq!(set, 0);
        self.connections.push(Connection {
            socket,
            input: vec![0; RECEIVE],
            start: 0,
            filled: 0,
            placed: 0,
            writing: 0,
            syncing: 0,
            owed: 0,
            wanted: 0,
            sending: None,
        });
        self.receive(self.connections.len() - 1);
        self.accept();
    }

    fn receive(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.start == connection.filled {
            (connection.start, connection.filled) = (0, 0);
        } else if RECEIVE - connection.start < RECEIVE / 2 {
            connection.input.copy_within(connection.start..connection.filled, 0);
            connection.filled -= connection.start;
            connection.start = 0;
        }
        let into = &mut connection.input[connection.filled..];
        let entry = opcode::Recv::new(Fd(connection.socket), into.as_mut_ptr(), into.len() as u32);
        self.push(entry.build(), RECEIVE_DONE, index);
    }

    fn received(&mut self, index: usize, len: usize) {
        self.connections[index].filled += len;
        loop {
            let connection = &self.connections[index];
            let bytes = &connection.input[connection.start..connection.filled];
            if bytes.len() < 6 {
                break;
            }
            let frame = requests::i32_at(bytes, 0) as usize + 4;
            if bytes.len() < frame {
                break;
            }
            let is_produce = requests::i16_at(bytes, 4) == 0;
            let start = connection.start;
            if is_produce {
                self.place(index, start, frame);
                self.connections[index].placed += 1;
            } else {
                self.connections[index].wanted += 1;
            }
            self.connections[index].start += frame;
        }
        self.receive(index);
    }

    /// Copies a frame into the pages.
    fn place(&mut self, index: usize, start: usize, len: usize) {
        assert!((self.placed - self.written) as usize + len < PAGES - (16 << 20));
        let at = self.placed as usize % PAGES;
        let first = len.min(PAGES - at);
        let from = &self.connections[index].input[start..start + len];
        let pages = self.pages.bytes();
        pages[at..at + first].copy_from_slice(&from[..first]);
        pages[..len - first].copy_from_slice(&from[first..]);
        self.placed += len as u64;
    }

    fn allocate(&mut self) {
        self.allocating = true;
        let entry = opcode::Fallocate::new(Fd(self.file), self.step).offset(self.allocated);
        self.push(entry.build(), ALLOCATE_DONE, 0);
    }

    /// Writes what was placed, unless something is on its way to be durable.
    fn write(&mut self) {
        let end = self.placed.next_multiple_of(BLOCK);
        if !self.allocating && self.allocated < end + self.step / 2 {
            self.allocate();
        }
        let busy = self.writing || self.syncing;
        if busy || self.placed == self.written || self.allocated < end {
            return;
        }
        self.writing = true;
        let start = self.written - self.written % BLOCK;
        let len = (end - start) as usize;
        let at = start as usize % PAGES;
        let first = len.min(PAGES - at);
        *self.vectors = [
            libc::iovec { iov_base: self.pages.at(at).cast(), iov_len: first },
            libc::iovec { iov_base: self.pages.at(0).cast(), iov_len: len - first },
        ];
        let file = Fd(self.file);
        let entry = if first == len {
            opcode::Write::new(file, self.pages.at(at), len as u32).offset(start).build()
        } else {
            opcode::Writev::new(file, self.vectors.as_ptr(), 2).offset(start).build()
        };
        self.written = self.placed;
        for connection in &mut self.connections {
            connection.writing = std::mem::take(&mut connection.placed);
        }
        self.push(entry, WRITE_DONE, len);
    }

    fn write_done(&mut self, len: usize) {
        assert!(len.is_multiple_of(BLOCK as usize), "direct writes are whole");
        self.writing = false;
        self.syncing = true;
        for connection in &mut self.connections {
            connection.syncing = std::mem::take(&mut connection.writing);
        }
        let entry = opcode::Fsync::new(Fd(self.file)).flags(FsyncFlags::DATASYNC);
        self.push(entry.build(), SYNC_DONE, 0);
    }

    fn synced(&mut self) {
        self.syncing = false;
        for connection in &mut self.connections {
            connection.owed += std::mem::take(&mut connection.syncing);
        }
    }

    /// Answers what may be answered, in one send.
    fn send(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.sending.is_some() {
            return;
        }
        if connection.owed > 0 {
            let len = std::mem::take(&mut connection.owed) * self.answers.produced;
            connection.sending = Some((self.acknowledgements[..len].as_ptr(), len));
        } else if connection.wanted > 0 {
            connection.wanted -= 1;
            connection.sending = Some((self.resident.at(self.resident_at), self.answers.fetched));
            self.resident_at = (self.resident_at + self.answers.fetched) % self.resident.len;
        } else {
            return;
        }
        self.go_on_sending(index);
    }

    fn go_on_sending(&mut self, index: usize) {
        let connection = &self.connections[index];
        let (start, len) = connection.sending.expect("something is to be sent");
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = opcode::Send::new(Fd(connection.socket), start, len as u32).flags(flags);
        self.push(entry.build(), SEND_DONE, index);
    }

    fn sent(&mut self, index: usize, count: usize) {
        let sending = &mut self.connections[index].sending;
        let (start, len) = sending.take().expect("a send is in flight");
        if count < len {
            *sending = Some((start.wrapping_add(count), len - count));
            self.go_on_sending(index);
        }
    }
}

fn check(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
