//! Sockets: a shard that echoes, and what it is told.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::base::pages::PagePool;
use crate::base::rng::Rng;
use crate::base::rope::Rope;
use crate::base::time::{self, Now};
use crate::effect::net::{ConnectionId, NetEvent, NetOp, ReceiveInto, Received};
use crate::runtime::{Mailboxes, Reactor, ReactorConfig, bind};
use crate::shard::event::{Effects, Event, Wake};

/// A reactor with one listener on loopback.
fn listening(connections_max: usize) -> (Reactor, SocketAddr) {
    let listeners = bind("127.0.0.1:0".parse().expect("an address"), 1).expect("a free port");
    let address = listeners[0].local_addr().expect("bound");
    let mailboxes = Mailboxes::mesh(1).remove(0);
    // Its worker makes a file at the start, and nothing is in the directory after that.
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let mut config = ReactorConfig::new(mailboxes, dir.path().to_owned());
    config.listeners = listeners;
    config.connections_max = connections_max;
    (Reactor::new(config).expect("this kernel has io_uring"), address)
}

/// Sends back what it receives, in pieces, and counts what it is told.
struct Echo {
    pool: PagePool,
    rng: Rng,
    /// Where to receive.
    pages: bool,
    open: usize,
    ended: usize,
    received: usize,
    /// By connection: bytes not yet sent, and whether a send is in flight.
    waiting: Vec<(VecDeque<u8>, bool)>,
}

impl Echo {
    fn new(pages: bool) -> Self {
        let (pool, rng) = (PagePool::new(64 << 20), Rng::new(7));
        Self { pool, rng, pages, open: 0, ended: 0, received: 0, waiting: Vec::new() }
    }

    fn into(&mut self) -> ReceiveInto {
        if !self.pages {
            return ReceiveInto::Shared;
        }
        let mut page = self.pool.allocate(1).expect("within budget");
        // An odd start: only the spare part may be written to.
        page.put(b"head");
        ReceiveInto::Page(page)
    }

    /// A rope of many parts, cut anywhere.
    fn rope(&mut self, bytes: &mut VecDeque<u8>) -> Rope {
        let mut rope = Rope::default();
        while !bytes.is_empty() {
            let mut page = self.pool.allocate(1).expect("within budget");
            let len = bytes.len().min(page.capacity());
            bytes.drain(..len).for_each(|byte| page.put(&[byte]));
            let mut start = 0;
            while start < len {
                let end = len.min(start + self.rng.between(1, 40) as usize);
                rope.push(page.slice(start..end));
                start = end;
            }
        }
        rope
    }

    fn step(&mut self, event: Event<'_>, effects: &mut Effects) {
        let Event::Net(event) = event else { return };
        match event {
            NetEvent::Accepted { connection, peer } => {
                assert!(peer.ip().is_loopback());
                self.open += 1;
                let index = connection.0 as usize;
                self.waiting.resize_with(self.waiting.len().max(index + 1), Default::default);
                effects.net.push(NetOp::Receive { connection, into: self.into() });
            }
            NetEvent::Received { connection, received } => {
                let bytes = match &received {
                    Received::Lent(bytes) => *bytes,
                    Received::Page(page) => {
                        assert!(page.filled().starts_with(b"head"));
                        &page.filled()[4..]
                    }
                    Received::End | Received::Failed(_) => {
                        self.ended += 1;
                        effects.net.push(NetOp::Close { connection });
                        return;
                    }
                };
                assert!(!bytes.is_empty());
                self.received += bytes.len();
                self.waiting[connection.0 as usize].0.extend(bytes);
                self.send(connection, effects);
                effects.net.push(NetOp::Receive { connection, into: self.into() });
            }
            NetEvent::Sent { connection, result, .. } => {
                result.expect("the client reads");
                self.waiting[connection.0 as usize].1 = false;
                self.send(connection, effects);
            }
            NetEvent::Closed { .. } => self.open -= 1,
        }
    }

    fn send(&mut self, connection: ConnectionId, effects: &mut Effects) {
        let (mut bytes, sending) = std::mem::take(&mut self.waiting[connection.0 as usize]);
        if !sending && !bytes.is_empty() {
            let rope = self.rope(&mut bytes);
            effects.net.push(NetOp::Send { connection, bytes: rope });
            self.waiting[connection.0 as usize] = (bytes, true);
        } else {
            self.waiting[connection.0 as usize] = (bytes, sending);
        }
    }
}

fn echo_round(pages: bool, clients: usize, bytes: usize) {
    let (mut reactor, address) = listening(1000);
    let threads: Vec<_> = (0..clients)
        .map(|client| {
            std::thread::spawn(move || {
                let mut rng = Rng::new(client as u64);
                let sent: Vec<u8> = (0..bytes).map(|_| rng.next_u64() as u8).collect();
                let mut stream = TcpStream::connect(address).expect("listening");
                let mut writer = stream.try_clone().expect("a descriptor");
                let to_send = sent.clone();
                let writing = std::thread::spawn(move || {
                    let mut rest = &to_send[..];
                    while !rest.is_empty() {
                        let len = rest.len().min(rng.between(1, 30_000) as usize);
                        writer.write_all(&rest[..len]).expect("the server reads");
                        rest = &rest[len..];
                    }
                });
                let mut echoed = vec![0; bytes];
                stream.read_exact(&mut echoed).expect("the server answers");
                writing.join().expect("the writer does not panic");
                assert!(echoed == sent, "the echo of client {client} differs");
            })
        })
        .collect();
    let mut echo = Echo::new(pages);
    while echo.ended < clients || echo.open > 0 {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
    for thread in threads {
        thread.join().expect("the client does not panic");
    }
    let counters = reactor.counters().sockets;
    assert_eq!((counters.received_bytes, counters.sent_bytes).0, (clients * bytes) as u64);
    assert_eq!(counters.received_bytes, counters.sent_bytes);
    assert_eq!((counters.accepted, echo.received), (clients as u64, clients * bytes));
}

#[test]
fn echo_through_shared_buffers() {
    echo_round(false, 4, 1_000_000);
}

#[test]
fn echo_through_pages() {
    echo_round(true, 4, 300_000);
}

#[test]
fn more_clients_than_shared_buffers() {
    // All of them speak before the reactor's first turn, so receives find no buffer.
    let (mut reactor, address) = listening(1000);
    let mut clients: Vec<_> = (0..200)
        .map(|_| {
            let mut client = TcpStream::connect(address).expect("listening");
            client.write_all(b"hello").expect("the socket has room");
            client
        })
        .collect();
    let mut echo = Echo::new(false);
    while echo.received < 200 * 5 {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
    reactor.turn(Wake::Now, |_, event, effects| echo.step(event, effects));
    for client in &mut clients {
        let mut answer = [0; 5];
        client.read_exact(&mut answer).expect("the server answers");
        assert_eq!(&answer, b"hello");
    }
    drop(clients);
    while echo.open > 0 {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
}

/// What a connection was told, in order.
#[derive(Debug, PartialEq)]
enum Told {
    Accepted,
    Received,
    Sent,
    Closed,
}

#[test]
fn closing_ends_what_is_in_flight_once_and_then_the_connection() {
    for pages in [false, true] {
        let (mut reactor, address) = listening(1000);
        let mut stuck = TcpStream::connect(address).expect("listening");
        let mut pool = PagePool::new(64 << 20);
        let mut told = Vec::new();
        let mut turns_left = None;
        while told.last() != Some(&Told::Closed) {
            let wake = if turns_left.is_some() { Wake::Now } else { Wake::OnEvent };
            reactor.turn(wake, |_, event, effects| match event {
                Event::Net(NetEvent::Accepted { connection, .. }) => {
                    told.push(Told::Accepted);
                    // Far more than both socket buffers take, to one who does not read.
                    let mut bytes = Rope::default();
                    for _ in 0..32 {
                        let mut page = pool.allocate(1 << 20).expect("within budget");
                        page.advance(1 << 20);
                        bytes.push(page.slice(0..1 << 20));
                    }
                    let into = match pages {
                        true => ReceiveInto::Page(pool.allocate(1).expect("within budget")),
                        false => ReceiveInto::Shared,
                    };
                    effects.net.push(NetOp::Receive { connection, into });
                    effects.net.push(NetOp::Send { connection, bytes });
                    turns_left = Some(10);
                }
                Event::Net(NetEvent::Received { received, .. }) => {
                    assert!(matches!(received, Received::End | Received::Failed(_)));
                    told.push(Told::Received);
                }
                Event::Net(NetEvent::Sent { bytes, result, .. }) => {
                    assert!(result.is_err() && bytes.len() == 32 << 20);
                    told.push(Told::Sent);
                }
                Event::Net(NetEvent::Closed { .. }) => told.push(Told::Closed),
                Event::Turn => {
                    turns_left = turns_left.map(|turns| turns - 1);
                    if turns_left == Some(0) {
                        turns_left = None;
                        effects.net.push(NetOp::Close { connection: ConnectionId(0) });
                    }
                }
                other => panic!("{other:?}"),
            });
        }
        assert_eq!((&told[0], told.len()), (&Told::Accepted, 4));
        assert!(told.contains(&Told::Received) && told.contains(&Told::Sent));
        assert_eq!(pool.in_use(), 0, "all pages came back");
        // The client sees the end, whatever it reads before.
        let mut rest = Vec::new();
        let _ = stuck.read_to_end(&mut rest);
        assert!(rest.len() < 32 << 20);
    }
}

/// Descriptors of this process that hold the server's side of a connection.
fn held_sockets(address: SocketAddr) -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("Linux has /proc");
    let held = descriptors.filter(|entry| {
        let name = entry.as_ref().expect("the directory can be read").file_name();
        let fd = name.to_string_lossy().parse().expect("a descriptor is a number");
        // SAFETY: only asked for its addresses; one that another test has closed
        // meanwhile, or that is no socket, has none.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let socket = socket2::SockRef::from(&fd);
        let local = socket.local_addr().ok().and_then(|local| local.as_socket());
        local == Some(address) && socket.is_listener().is_ok_and(|listens| !listens)
    });
    held.count()
}

#[test]
fn two_thousand_connections_leave_nothing_behind() {
    let (mut reactor, address) = listening(1000);
    let mut echo = Echo::new(false);
    for round in 0..20 {
        let clients: Vec<_> =
            (0..100).map(|_| TcpStream::connect(address).expect("listening")).collect();
        while reactor.counters().sockets.accepted < 100 * (round + 1) {
            reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
        }
        assert_eq!(held_sockets(address), 100);
        // Most end with a reset, some politely.
        for client in clients.iter().filter(|client| client.as_raw_fd() % 10 != 0) {
            let linger = Some(Duration::ZERO);
            socket2::SockRef::from(client).set_linger(linger).expect("a socket");
        }
        drop(clients);
        assert_eq!(held_sockets(address), 100, "those that were reset count, too");
        while echo.open > 0 {
            reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
        }
        assert_eq!(held_sockets(address), 0);
    }
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once() {
    let (mut reactor, address) = listening(2);
    let mut echo = Echo::new(false);
    let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(address).expect("listening")).collect();
    while reactor.counters().sockets.refused < 3 {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
    assert_eq!(echo.open, 2);
    drop(clients);
    while echo.open > 0 {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
    let mut late = TcpStream::connect(address).expect("listening");
    late.write_all(b"there is room again").expect("the socket has room");
    while echo.received == 0 {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
}

#[test]
fn accepting_stops_and_open_connections_go_on() {
    let (mut reactor, address) = listening(100);
    let mut echo = Echo::new(false);
    let mut client = TcpStream::connect(address).expect("listening");
    while echo.open == 0 {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
    reactor.turn(Wake::Now, |_, event, effects| {
        if matches!(event, Event::Turn) {
            effects.net.push(NetOp::StopAccepting);
        }
    });
    while TcpStream::connect(address).is_ok() {
        reactor.turn(Wake::Now, |_, event, effects| echo.step(event, effects));
    }
    client.write_all(b"still here").expect("the server reads");
    while echo.received < 10 {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
    client.shutdown(Shutdown::Write).expect("connected");
    while echo.open > 0 {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("the server answers");
    assert_eq!(answer, b"still here");
}

#[test]
fn an_empty_send_is_sent() {
    let (mut reactor, address) = listening(100);
    let _client = TcpStream::connect(address).expect("listening");
    let mut sent = false;
    while !sent {
        reactor.turn(Wake::OnEvent, |_, event, effects| match event {
            Event::Net(NetEvent::Accepted { connection, .. }) => {
                effects.net.push(NetOp::Send { connection, bytes: Rope::default() });
            }
            Event::Net(NetEvent::Sent { result, .. }) => sent = result == Ok(()),
            _ => {}
        });
    }
}

#[test]
fn a_deadline_ends_the_wait_and_not_before() {
    let (mut reactor, _) = listening(100);
    let mut first = None;
    reactor.turn(Wake::Now, |now, _, _| first = Some(now));
    let first: Now = first.expect("every turn tells a turn");
    let deadline = first.instant + Duration::from_millis(30);
    let mut now = first;
    while now.instant < deadline {
        reactor.turn(Wake::At(deadline), |at, event, _| {
            assert!(matches!(event, Event::Turn));
            now = at;
        });
    }
    let late = now.instant.since(deadline);
    assert!(late < Duration::from_secs(1), "{late:?}");
    assert!(reactor.counters().turns < 5, "it waited");
    assert!(reactor.counters().parked >= 1);
}

#[test]
#[ignore = "uses up all descriptors of its process; started by the test below"]
fn out_of_descriptors() {
    let (mut reactor, address) = listening(100);
    let mut echo = Echo::new(false);
    let mut clients: Vec<_> =
        (0..3).map(|_| TcpStream::connect(address).expect("listening")).collect();
    let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
    // SAFETY: `limit` is valid for reading for the length of the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let all: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert!(!all.is_empty());
    let (start, used) = (Instant::now(), cpu());
    while start.elapsed() < Duration::from_millis(350) {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
    assert_eq!(echo.open, 0);
    assert!(reactor.counters().turns < 10, "{:?}", reactor.counters());
    assert!(cpu() - used < Duration::from_millis(50));
    drop(all);
    while echo.open < 3 {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
    clients[2].write_all(b"at last").expect("the server reads");
    while echo.received == 0 {
        reactor.turn(Wake::OnEvent, |_, event, effects| echo.step(event, effects));
    }
}

#[test]
fn without_descriptors_accepting_rests_and_goes_on_later() {
    let output = super::in_a_process_of_its_own("net::out_of_descriptors");
    assert!(output.status.success(), "{output:?}");
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing for the length of the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
#[ignore = "measures for a second"]
fn an_idle_reactor_uses_no_cpu() {
    let (mut reactor, address) = listening(100);
    let _client = TcpStream::connect(address).expect("listening");
    let mut echo = Echo::new(false);
    let (start, used) = (Instant::now(), cpu());
    let mut now = None;
    reactor.turn(Wake::Now, |at, _, _| now = Some(at));
    let end: time::Instant = now.expect("a turn").instant + Duration::from_secs(1);
    while start.elapsed() < Duration::from_secs(1) {
        reactor.turn(Wake::At(end), |_, event, effects| echo.step(event, effects));
    }
    let used = cpu() - used;
    println!("{} turns, {used:?} of CPU", reactor.counters().turns);
    assert!(used < Duration::from_millis(5), "{used:?}");
}
