//! The shortest loop on the broker's kernel interfaces: what any broker on one
//! core could at most do here.
//!
//! One thread, one io_uring with the broker's own settings. Frames come in by
//! plain receives of up to 256 KiB, each is copied once into the aligned pages of
//! one of a few files, as a broker has a log for each partition; all that is there
//! for a file goes out in one O_DIRECT write into its preallocated space, and
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
use std::path::{Path, PathBuf};

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, Submitter, opcode, squeue};

use crate::requests;

const BLOCK: u64 = 4096;
const RECEIVE: usize = 256 << 10;
/// Files; connections take turns at them.
const FILES: usize = 4;
/// Pages for what is not durable yet in one file; used again and again.
const PAGES: usize = 16 << 20;
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
    tails: Vec<Tail>,
}

/// The end of one file.
struct Tail {
    file: RawFd,
    pages: Memory,
    /// File positions: end of what was placed, of what was handed to the disk, of
    /// the preallocated space.
    placed: u64,
    written: u64,
    allocated: u64,
    step: u64,
    writing: bool,
    syncing: bool,
    allocating: bool,
    vectors: Box<[libc::iovec; 2]>,
}

impl Tail {
    fn new(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).custom_flags(libc::O_DIRECT);
        Ok(Self {
            file: options.open(path)?.into_raw_fd(),
            pages: Memory::new(PAGES),
            placed: 0,
            written: 0,
            allocated: 0,
            step: PREALLOCATE_MIN,
            writing: false,
            syncing: false,
            allocating: false,
            vectors: Box::new([libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 2]),
        })
    }

    /// Copies a frame into the pages.
    fn place(&mut self, frame: &[u8]) {
        assert!((self.placed - self.written) as usize + frame.len() < PAGES / 2);
        let at = self.placed as usize % PAGES;
        let first = frame.len().min(PAGES - at);
        let pages = self.pages.bytes();
        pages[at..at + first].copy_from_slice(&frame[..first]);
        pages[..frame.len() - first].copy_from_slice(&frame[first..]);
        self.placed += frame.len() as u64;
    }
}

/// The files that [`serve`] makes at `file`.
pub fn files(file: &Path) -> impl Iterator<Item = PathBuf> {
    (0..FILES).map(move |n| file.with_extension(format!("{n}.bin")))
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

/// Serves on `port` until the process ends. [`files`] are made; `cpu` is where the
/// thread already runs and its kernel workers shall. It listens when its memory is
/// filled, so that nothing of that is measured.
pub fn serve(port: u16, file: &Path, cpu: usize, answers: Answers) -> io::Result<()> {
    let tails = files(file).map(|path| Tail::new(&path)).collect::<io::Result<_>>()?;
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
        listener: TcpListener::bind(("127.0.0.1", port))?,
        connections: vec![],
        answers,
        acknowledgements: answer.repeat(1024),
        resident,
        resident_at: 0,
        tails,
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
        for tail in 0..FILES {
            self.allocate(tail);
        }
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
                    WRITE_DONE => self.write_done(index, check(result)?),
                    SYNC_DONE => {
                        check(result)?;
                        self.synced(index);
                    }
                    ALLOCATE_DONE => {
                        check(result)?;
                        let tail = &mut self.tails[index];
                        tail.allocating = false;
                        tail.allocated += tail.step;
                        tail.step = (2 * tail.step).min(PREALLOCATE_MAX);
                    }
                    _ => unreachable!("no other operations are sent"),
                }
            }
            for tail in 0..FILES {
                self.write(tail);
            }
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
            if is_produce {
                self.tails[index % FILES].place(&bytes[..frame]);
                self.connections[index].placed += 1;
            } else {
                self.connections[index].wanted += 1;
            }
            self.connections[index].start += frame;
        }
        self.receive(index);
    }

    fn allocate(&mut self, tail: usize) {
        let at = &mut self.tails[tail];
        at.allocating = true;
        let entry = opcode::Fallocate::new(Fd(at.file), at.step).offset(at.allocated);
        self.push(entry.build(), ALLOCATE_DONE, tail);
    }

    /// Writes what was placed, unless something is on its way to be durable.
    fn write(&mut self, tail: usize) {
        let at = &self.tails[tail];
        let end = at.placed.next_multiple_of(BLOCK);
        if !at.allocating && at.allocated < end + at.step / 2 {
            self.allocate(tail);
        }
        let at = &mut self.tails[tail];
        let busy = at.writing || at.syncing;
        if busy || at.placed == at.written || at.allocated < end {
            return;
        }
        at.writing = true;
        let start = at.written - at.written % BLOCK;
        let len = (end - start) as usize;
        let first_at = start as usize % PAGES;
        let first = len.min(PAGES - first_at);
        *at.vectors = [
            libc::iovec { iov_base: at.pages.at(first_at).cast(), iov_len: first },
            libc::iovec { iov_base: at.pages.at(0).cast(), iov_len: len - first },
        ];
        let file = Fd(at.file);
        let entry = if first == len {
            opcode::Write::new(file, at.pages.at(first_at), len as u32).offset(start).build()
        } else {
            opcode::Writev::new(file, at.vectors.as_ptr(), 2).offset(start).build()
        };
        at.written = at.placed;
        for connection in self.connections.iter_mut().skip(tail).step_by(FILES) {
            connection.writing = std::mem::take(&mut connection.placed);
        }
        self.push(entry, WRITE_DONE, tail);
    }

    fn write_done(&mut self, tail: usize, len: usize) {
        assert!(len.is_multiple_of(BLOCK as usize), "direct writes are whole");
        let at = &mut self.tails[tail];
        at.writing = false;
        at.syncing = true;
        let entry = opcode::Fsync::new(Fd(at.file)).flags(FsyncFlags::DATASYNC);
        for connection in self.connections.iter_mut().skip(tail).step_by(FILES) {
            connection.syncing = std::mem::take(&mut connection.writing);
        }
        self.push(entry.build(), SYNC_DONE, tail);
    }

    fn synced(&mut self, tail: usize) {
        self.tails[tail].syncing = false;
        for connection in self.connections.iter_mut().skip(tail).step_by(FILES) {
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
