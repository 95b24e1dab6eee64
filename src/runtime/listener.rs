//! Binding: one listening socket per core on the same address.
//!
//! SO_REUSEPORT lets each core have a listener of its own, but would also let a
//! second broker of the same user bind the same port in silence. So the first
//! socket is bound and listens without it, which the kernel grants once; only
//! then it is given SO_REUSEPORT, so that the others can join it.
//!
//! The address of a broker that was just killed stays in use until the kernel
//! has torn its rings down, shortly after the process is gone: binding is tried
//! again for [`PATIENCE`].

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// How long an address may stay in use by what is being torn down.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Connections that may wait to be accepted, per core (the kernel caps it at
/// net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("{0} is in use: another process, perhaps another broker, listens there")]
    InUse(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Failed {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Listens on `address` with one socket per core, in blocking mode. With port
/// zero all get the same free port. May take two seconds.
///
/// # Errors
/// See [`BindError`].
pub fn bind(address: SocketAddr, cores: usize) -> Result<Vec<TcpListener>, BindError> {
    bind_within(address, cores, PATIENCE)
}

fn bind_within(
    address: SocketAddr,
    cores: usize,
    patience: Duration,
) -> Result<Vec<TcpListener>, BindError> {
    let failed = |source| BindError::Failed { address, source };
    let give_up = Instant::now() + patience;
    let first = loop {
        match listen(address, false) {
            Ok(socket) => break socket,
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(failed(error)),
            Err(_) if Instant::now() >= give_up => return Err(BindError::InUse(address)),
            Err(_) => std::thread::sleep(PAUSE),
        }
    };
    let mut listeners = Vec::with_capacity(cores);
    if cores > 1 {
        first.set_reuse_port(true).map_err(failed)?;
    }
    let first = TcpListener::from(first);
    let bound = first.local_addr().map_err(failed)?;
    listeners.push(first);
    for _ in 1..cores {
        listeners.push(TcpListener::from(listen(bound, true).map_err(failed)?));
    }
    Ok(listeners)
}

fn listen(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier broker that are still closing do not count.
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    const LOOPBACK: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn a_second_broker_is_told() {
        for cores in [1, 3] {
            let listeners = bind(LOOPBACK, cores).expect("a free port");
            let address = listeners[0].local_addr().expect("bound");
            for others in [1, 3] {
                let refused = bind_within(address, others, Duration::from_millis(50));
                assert!(matches!(refused, Err(BindError::InUse(a)) if a == address));
            }
            drop(listeners);
            bind(address, cores).expect("free again");
        }
    }

    #[test]
    fn every_core_gets_connections() {
        let listeners = bind(LOOPBACK, 3).expect("a free port");
        let address = listeners[0].local_addr().expect("bound");
        let clients: Vec<TcpStream> =
            (0..90).map(|_| TcpStream::connect(address).expect("listening")).collect();
        let mut accepted = [0; 3];
        for listener in &listeners {
            listener.set_nonblocking(true).expect("a socket has modes");
        }
        // A client may be through before its last packet is.
        while accepted.iter().sum::<usize>() < clients.len() {
            for (listener, accepted) in listeners.iter().zip(&mut accepted) {
                *accepted += std::iter::from_fn(|| listener.accept().ok()).count();
            }
        }
        assert!(!accepted.contains(&0), "the kernel spreads connections: {accepted:?}");
    }

    #[test]
    fn foreign_addresses_are_refused_at_once() {
        let foreign = "192.0.2.1:9092".parse().expect("an address");
        let refused = bind(foreign, 1).expect_err("not an address of this machine");
        assert!(refused.to_string().starts_with("cannot listen on 192.0.2.1:9092: "), "{refused}");
    }
}
