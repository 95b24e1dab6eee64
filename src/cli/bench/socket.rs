//! One connection to a broker, without blocking.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Bytes that are asked of the kernel at once.
const READ_BYTES: usize = 256 << 10;
/// Longer answers are not Kafka's.
const ANSWER_MAX: usize = 512 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection: what is to be sent, and what has come of the next answer.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// Bytes to be sent; those before `sent` have been.
    pub out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Socket {
    /// Connects to `HOST:PORT`.
    pub fn connect(address: &str) -> io::Result<Self> {
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    return Ok(Self {
                        stream,
                        out: vec![],
                        sent: 0,
                        input: vec![0; READ_BYTES],
                        start: 0,
                        filled: 0,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whether the socket did not take everything yet.
    pub fn is_sending(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Sends what the socket takes.
    pub fn send(&mut self) -> io::Result<()> {
        while self.is_sending() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Takes in what has come, once; returns whether there was anything.
    pub fn receive(&mut self) -> io::Result<bool> {
        if self.start == self.filled {
            (self.start, self.filled) = (0, 0);
        }
        // The rest of the answer fits behind what is there, or is moved to the front.
        let wanted = self.wanted().max(READ_BYTES / 2);
        if wanted > ANSWER_MAX {
            return Err(io::Error::new(ErrorKind::InvalidData, "an answer longer than 512 MiB"));
        }
        if self.input.len() - self.filled < wanted {
            self.input.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
            if self.input.len() - self.filled < wanted {
                self.input.resize(self.filled + wanted, 0);
            }
        }
        loop {
            match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed by the broker"));
                }
                Ok(count) => {
                    self.filled += count;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes that the answer under way still lacks, as far as is known.
    fn wanted(&self) -> usize {
        let have = &self.input[self.start..self.filled];
        have.first_chunk::<4>()
            .map_or(0, |len| (u32::from_be_bytes(*len) as usize + 4).saturating_sub(have.len()))
    }

    /// The next whole answer, without its length.
    pub fn answer(&mut self) -> Option<&[u8]> {
        let have = &self.input[self.start..self.filled];
        let len = u32::from_be_bytes(*have.first_chunk::<4>()?) as usize;
        if have.len() < 4 + len {
            return None;
        }
        let begin = self.start + 4;
        self.start = begin + len;
        Some(&self.input[begin..begin + len])
    }
}

/// Waits until one of `sockets` has something to read or room to write, at most
/// for `time`; returns the ready ones in `ready`.
pub fn wait(sockets: &[Socket], time: Duration, ready: &mut VecDeque<usize>) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = sockets
        .iter()
        .map(|socket| {
            let out = if socket.is_sending() { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::from_borrowed_fd(socket.stream.as_fd(), PollFlags::IN | out)
        })
        .collect();
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    match poll(&mut fds, Some(&time)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Interrupted => {}
        Err(error) => return Err(error.into()),
    }
    ready.clear();
    ready.extend((0..fds.len()).filter(|at| !fds[*at].revents().is_empty()));
    Ok(())
}
