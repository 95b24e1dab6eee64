//! One io_uring, used by the thread that made it.
//!
//! Wraps the `io-uring` crate into the few operations this runtime performs.
//! Every operation carries a [`Token`] that comes back with its completion; an
//! operation's memory belongs to it from the call to that completion, which is
//! what makes the calls that pass memory `unsafe`. [`Ring::outstanding`] counts
//! the completions still to come.
//!
//! A full submission queue is submitted on the spot; completions are never
//! dropped (IORING_FEAT_NODROP). Not here: what a completion means.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::types::{CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Submitter, cqueue, opcode, squeue};

use super::gather::{Cursor, Gather, VECTORS_PER_OPERATION};
use crate::base::rope::Rope;

/// Entries of the submission queue.
pub const ENTRIES: u32 = 256;

/// Entries of the completion queue.
const COMPLETIONS: u32 = 4 * ENTRIES;

/// Most vectors in one send: more make the kernel hold the socket for long.
const VECTORS_PER_SEND: usize = 256;

const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// What a completion is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Nobody waits for it.
    Ignored,
    /// Another core wants this one awake.
    Mail,
    /// A multishot accept of listener `index`.
    Accept,
    /// The receive of connection `index`.
    Receive,
    /// The send of connection `index`.
    Send,
    /// Disk operation `index`.
    Disk,
    /// The file worker has results.
    Worker,
    /// The controller has written.
    Control,
}

/// Names an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is about.
    pub kind: Kind,
    /// Which one.
    pub index: u32,
}

impl Token {
    /// The token of `kind` number `index`.
    pub const fn new(kind: Kind, index: u32) -> Self {
        Self { kind, index }
    }

    const fn encode(self) -> u64 {
        (self.kind as u64) << 32 | self.index as u64
    }

    fn decode(bits: u64) -> Self {
        const KINDS: [Kind; 8] = [
            Kind::Ignored,
            Kind::Mail,
            Kind::Accept,
            Kind::Receive,
            Kind::Send,
            Kind::Disk,
            Kind::Worker,
            Kind::Control,
        ];
        Self { kind: KINDS[(bits >> 32) as usize], index: bits as u32 }
    }
}

/// The end of an operation, or one more result of a multishot operation.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// The operation.
    pub token: Token,
    /// Its result, or the errno.
    pub result: Result<usize, i32>,
    /// Whether the operation goes on.
    pub more: bool,
    /// The provided buffer it used.
    pub buffer: Option<u16>,
}

/// An io_uring with its memory for vectors.
pub struct Ring {
    /// Refers to `ring`. Kept, because only the submitter that registered the
    /// ring's descriptor uses the registration.
    submitter: Submitter<'static>,
    /// Owned; freed by `drop`.
    ring: NonNull<IoUring>,
    gather: Gather,
    enter_flags: EnterFlags,
    outstanding: usize,
    /// Calls of io_uring_enter.
    pub enters: u64,
    /// Whether calls name the ring by its registered index.
    pub registered: bool,
}

impl Ring {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// What io_uring_setup says; `Unsupported` if a feature is missing that
    /// cannot be done without.
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)?;
        let params = ring.params();
        if !(params.is_feature_nodrop()
            && params.is_feature_ext_arg()
            && params.is_feature_submit_stable())
        {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut enter_flags = EnterFlags::empty();
        if params.is_feature_no_iowait() {
            // An idle broker waits for clients, not for its disk.
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        let ring = NonNull::from(Box::leak(Box::new(ring)));
        // SAFETY: the ring is freed by `drop` alone, after the last use of this reference.
        let mut submitter = unsafe { ring.as_ref() }.submitter();
        let registered = submitter.register_ring_fd().is_ok();
        Ok(Self {
            submitter,
            ring,
            gather: Gather::new(ENTRIES as usize),
            enter_flags,
            outstanding: 0,
            enters: 0,
            registered,
        })
    }

    /// The ring's descriptor, for messages from other rings.
    pub fn fd(&self) -> RawFd {
        self.io().as_raw_fd()
    }

    /// For registrations.
    pub fn submitter(&self) -> &Submitter<'_> {
        &self.submitter
    }

    /// Final completions still to come.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Submits what is queued, runs the kernel's deferred work, and returns when
    /// there is a completion or `timeout` has passed; at once if it is zero,
    /// and possibly earlier in any case.
    pub fn enter(&mut self, timeout: Option<Duration>) {
        let timespec = timeout.map(Timespec::from).unwrap_or_default();
        let mut args = SubmitArgs::new();
        if timeout.is_some() {
            args = args.timespec(&timespec);
        }
        let (want, flags) = match timeout {
            Some(Duration::ZERO) => (0, EnterFlags::GETEVENTS),
            _ => (1, EnterFlags::GETEVENTS | EnterFlags::EXT_ARG | self.enter_flags),
        };
        self.call(want, flags, &args);
        if self.queued() == 0 {
            self.gather.clear();
        }
    }

    /// Submits all that is queued.
    fn flush(&mut self) {
        while self.queued() > 0 {
            self.call(0, EnterFlags::empty(), &SubmitArgs::new());
        }
        self.gather.clear();
    }

    fn call(&mut self, want: u32, flags: EnterFlags, args: &SubmitArgs<'_, '_>) {
        self.enters += 1;
        let queued = self.queued() as u32;
        let arg = flags.contains(EnterFlags::EXT_ARG).then_some(args);
        // SAFETY: `args` and what it points to live until the call returns, and
        // memory of queued operations is valid by the contract of those calls.
        let result = unsafe { self.submitter.enter(queued, want, flags.bits(), arg) };
        if let Err(error) = result {
            match error.raw_os_error() {
                // The timeout passed; a signal came; the completion queue is to be
                // drained first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY) => {}
                // The kernel is short of memory for the moment.
                Some(libc::EAGAIN | libc::ENOMEM) => std::thread::yield_now(),
                _ => panic!("io_uring_enter: {error}"),
            }
        }
    }

    /// The next completion that is here.
    pub fn next(&mut self) -> Option<Completion> {
        // SAFETY: no other completion queue handle of this ring exists: they live
        // within this function only.
        let entry = unsafe { self.io().completion_shared() }.next()?;
        let completion = Completion {
            token: Token::decode(entry.user_data()),
            result: usize::try_from(entry.result()).map_err(|_| -entry.result()),
            more: cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()),
        };
        if !completion.more && !matches!(completion.token.kind, Kind::Ignored | Kind::Mail) {
            self.outstanding -= 1;
        }
        Some(completion)
    }

    /// Accepts connections on `listener` until it is cancelled or fails.
    pub fn accept(&mut self, token: Token, listener: RawFd) {
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.push(token, entry);
    }

    /// Receives into a buffer of `group`.
    pub fn receive_provided(&mut self, token: Token, socket: RawFd, group: u16, len: usize) {
        let entry = opcode::Recv::new(Fd(socket), std::ptr::null_mut(), len as u32)
            .buf_group(group)
            .build()
            .flags(Flags::BUFFER_SELECT);
        self.push(token, entry);
    }

    /// Receives up to `len` bytes to `memory`.
    ///
    /// # Safety
    /// `len` bytes at `memory` are valid for writing and nothing else touches
    /// them until the completion.
    pub unsafe fn receive(&mut self, token: Token, socket: RawFd, memory: *mut u8, len: usize) {
        let len = u32::try_from(len).expect("a page is smaller than 4 GiB");
        self.push(token, opcode::Recv::new(Fd(socket), memory, len).build());
    }

    /// Sends the part of `rope` behind `cursor`, or the beginning of it.
    ///
    /// # Safety
    /// The rope's pages are held until the completion.
    pub unsafe fn send(&mut self, token: Token, socket: RawFd, rope: &Rope, cursor: Cursor) {
        let mut parts = cursor.parts(rope);
        if parts.len() == 1
            && let Some(part) = parts.next()
        {
            let entry = opcode::Send::new(Fd(socket), part.as_ptr(), part.len() as u32);
            self.push(token, entry.flags(SEND_FLAGS).build());
        } else {
            self.make_room();
            let vectors = self.gather.vectors(rope, cursor, VECTORS_PER_SEND);
            let header = self.gather.header(vectors);
            let entry = opcode::SendMsg::new(Fd(socket), header).flags(SEND_FLAGS as u32);
            self.push(token, entry.build());
        }
    }

    /// Writes the part of `rope` behind `cursor`, or the beginning of it. The
    /// rope's first byte belongs at `position` of the file.
    ///
    /// # Safety
    /// The rope's pages are held until the completion.
    pub unsafe fn write(
        &mut self,
        token: Token,
        file: RawFd,
        position: u64,
        rope: &Rope,
        cursor: Cursor,
    ) {
        let position = position + cursor.done() as u64;
        let mut parts = cursor.parts(rope);
        if parts.len() == 1
            && let Some(part) = parts.next()
        {
            let entry = opcode::Write::new(Fd(file), part.as_ptr(), part.len() as u32);
            self.push(token, entry.offset(position).build());
        } else {
            self.make_room();
            let (vectors, count) = self.gather.vectors(rope, cursor, VECTORS_PER_OPERATION);
            let entry = opcode::Writev::new(Fd(file), vectors, count as u32);
            self.push(token, entry.offset(position).build());
        }
    }

    /// Reads up to `len` bytes at `position` to `memory`.
    ///
    /// # Safety
    /// `len` bytes at `memory` are valid for writing and nothing else touches
    /// them until the completion.
    pub unsafe fn read(
        &mut self,
        token: Token,
        file: RawFd,
        position: u64,
        memory: *mut u8,
        len: usize,
    ) {
        let len = u32::try_from(len).expect("a page is smaller than 4 GiB");
        self.push(token, opcode::Read::new(Fd(file), memory, len).offset(position).build());
    }

    /// fdatasync.
    pub fn sync(&mut self, token: Token, file: RawFd) {
        self.push(token, opcode::Fsync::new(Fd(file)).flags(FsyncFlags::DATASYNC).build());
    }

    /// fallocate, mode 0.
    pub fn allocate(&mut self, token: Token, file: RawFd, position: u64, len: u64) {
        self.push(token, opcode::Fallocate::new(Fd(file), len).offset(position).build());
    }

    /// Asks for the early end of everything on `fd`.
    pub fn cancel_fd(&mut self, fd: RawFd) {
        self.cancel(CancelBuilder::fd(Fd(fd)).all());
    }

    /// Asks for the early end of the operation called `token`.
    pub fn cancel_token(&mut self, token: Token) {
        self.cancel(CancelBuilder::user_data(token.encode()));
    }

    /// Asks for the early end of everything.
    fn cancel_all(&mut self) {
        self.cancel(CancelBuilder::any());
    }

    /// Cancels everything and waits until nothing is in flight: operations own
    /// memory until they complete. What they still bring goes to `discard`.
    pub fn quiesce(&mut self, mut discard: impl FnMut(Completion)) {
        while self.outstanding() > 0 {
            self.cancel_all();
            self.enter(Some(Duration::from_millis(100)));
            while let Some(completion) = self.next() {
                discard(completion);
            }
        }
    }

    fn cancel(&mut self, which: CancelBuilder) {
        self.push_unanswered(opcode::AsyncCancel2::new(which).build());
    }

    /// Makes the ring with descriptor `ring` return from [`Ring::enter`].
    pub fn wake(&mut self, ring: RawFd) {
        let message = Token::new(Kind::Mail, 0).encode();
        self.push_unanswered(opcode::MsgRingData::new(Fd(ring), 0, message, None).build());
    }

    fn push(&mut self, token: Token, entry: squeue::Entry) {
        self.outstanding += 1;
        self.push_entry(&entry.user_data(token.encode()));
    }

    /// For operations whose success is not reported and whose failure has no meaning.
    fn push_unanswered(&mut self, entry: squeue::Entry) {
        let token = Token::new(Kind::Ignored, 0);
        self.push_entry(&entry.flags(Flags::SKIP_SUCCESS).user_data(token.encode()));
    }

    fn push_entry(&mut self, entry: &squeue::Entry) {
        // SAFETY: no other submission queue handle of this ring exists, and the
        // entry's memory is valid by the contract of the calling function.
        while unsafe { self.io().submission_shared().push(entry) }.is_err() {
            self.flush();
        }
    }

    /// Makes sure that the next operation's vectors find room and that queueing
    /// it will not submit, and so forget, them.
    fn make_room(&mut self) {
        if self.queued() == ENTRIES as usize || !self.gather.has_room() {
            self.flush();
        }
    }

    fn queued(&self) -> usize {
        // SAFETY: no other submission queue handle of this ring exists: they live
        // within functions of this file that do not call each other meanwhile.
        unsafe { self.io().submission_shared() }.len()
    }

    fn io(&self) -> &IoUring {
        // SAFETY: freed by `drop` alone.
        unsafe { self.ring.as_ref() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.registered {
            // A registered ring would live until its thread ends.
            if let Err(error) = self.submitter.unregister_ring_fd() {
                tracing::warn!("a ring's descriptor could not be unregistered: {error}");
            }
        }
        // SAFETY: leaked by `new`, and the submitter that refers to it is not used again.
        drop(unsafe { Box::from_raw(self.ring.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let kinds = [Kind::Ignored, Kind::Mail, Kind::Accept, Kind::Receive];
        for kind in kinds.into_iter().chain([Kind::Send, Kind::Disk, Kind::Worker, Kind::Control]) {
            let token = Token::new(kind, u32::MAX - 7);
            assert_eq!(Token::decode(token.encode()), token);
        }
    }

    #[test]
    fn waiting_ends_with_the_timeout_or_a_message() {
        let mut ring = Ring::new().expect("this kernel has io_uring");
        ring.enter(Some(Duration::from_millis(1)));
        assert!(ring.next().is_none());
        let target = ring.fd();
        let sender = std::thread::spawn(move || {
            let mut ring = Ring::new().expect("this kernel has io_uring");
            ring.wake(target);
            ring.enter(Some(Duration::ZERO));
            assert!(ring.next().is_none(), "success is not reported");
        });
        let message = loop {
            ring.enter(None);
            if let Some(completion) = ring.next() {
                break completion;
            }
        };
        assert_eq!(message.token.kind, Kind::Mail);
        sender.join().expect("the sender does not panic");
    }
}
