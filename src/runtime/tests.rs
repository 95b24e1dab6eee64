//! The runtime against the real kernel: loopback sockets and a temporary directory.

mod net;
