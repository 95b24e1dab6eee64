//! Admin HTTP: `/health` and `/metrics`.
//!
//! A few threads of their own accept, read one request, answer it and close; so
//! it is told how the broker is even when the controller hangs. They decide
//! nothing. A request has a bounded head and a bounded time, so a hostile peer
//! holds a thread for [`ADMIN_PATIENCE_MS`] at most; what comes meanwhile waits
//! in the listener's queue. A body is not read. The threads end with the process.
//!
//! `/health` is 200 if the log directory and the metadata log are well and every
//! core answers, else 503; its body says why. `/metrics` is Prometheus' text.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::ControlState;
use super::meter::{Measured, Meters};
use crate::base::limits::{
    ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_MAX, ADMIN_PATIENCE_MS, MEASURE_PATIENCE_MS,
};
use crate::metrics::prometheus;
use crate::metrics::table::Kind;

/// Headers that a request may have.
const HEADERS_MAX: usize = 64;
/// Between two tries to accept when descriptors have run out.
const ACCEPT_REST: Duration = Duration::from_millis(100);
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// What the answers are made of.
struct Admin {
    meters: Mutex<Meters>,
    control: ControlState,
    started: Instant,
}

/// Serves on `listener`, which is in blocking mode, until the process ends.
///
/// # Errors
/// If a thread cannot be started.
pub fn serve_admin(listener: TcpListener, meters: Meters, control: ControlState) -> io::Result<()> {
    let admin = Admin { meters: Mutex::new(meters), control, started: Instant::now() };
    let both = Arc::new((listener, admin));
    for n in 0..ADMIN_CONNECTIONS_MAX {
        let both = both.clone();
        let run = move || {
            let (listener, admin) = &*both;
            loop {
                match listener.accept() {
                    // A peer that goes away, or is too slow, has itself to blame.
                    Ok((stream, _)) => drop(admin.converse(stream)),
                    Err(error) => {
                        tracing::warn!(%error, "the admin listener cannot accept");
                        std::thread::sleep(ACCEPT_REST);
                    }
                }
            }
        };
        std::thread::Builder::new().name(format!("admin-{n}")).spawn(run)?;
    }
    Ok(())
}

/// An answer.
struct Response {
    status: &'static str,
    kind: &'static str,
    body: String,
    /// More header lines.
    more: &'static str,
}

impl Response {
    fn new(status: &'static str, kind: &'static str, body: String) -> Self {
        Self { status, kind, body, more: "" }
    }

    fn says(status: &'static str, text: &str) -> Self {
        Self::new(status, TEXT, format!("{text}\n"))
    }
}

impl Admin {
    /// One request and its answer.
    fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_millis(ADMIN_PATIENCE_MS);
        let (response, has_body) = match read_head(&mut stream, deadline)? {
            Ok(head) => (self.respond(&head), !head.is_head),
            Err(refusal) => (refusal, true),
        };
        let Response { status, kind, body, more } = response;
        let len = body.len();
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\
             Connection: close\r\n{more}\r\n"
        );
        if has_body {
            bytes.push_str(&body);
        }
        let mut rest = bytes.as_bytes();
        while !rest.is_empty() {
            stream.set_write_timeout(Some(left(deadline)?))?;
            let written = stream.write(rest)?;
            rest = &rest[written..];
        }
        stream.shutdown(Shutdown::Write)?;
        // Closing with bytes unread would take the answer back from the peer.
        let mut waste = [0; 4096];
        let mut wasted = 0;
        while wasted < ADMIN_HEAD_MAX {
            stream.set_read_timeout(Some(left(deadline)?))?;
            match stream.read(&mut waste)? {
                0 => break,
                len => wasted += len,
            }
        }
        Ok(())
    }

    fn respond(&self, head: &Head) -> Response {
        if !head.is_get && !head.is_head {
            let refusal = Response::says("405 Method Not Allowed", "only GET and HEAD");
            return Response { more: "Allow: GET, HEAD\r\n", ..refusal };
        }
        match head.path.as_str() {
            "/health" => self.health(),
            "/metrics" => self.metrics(),
            "/" => Response::says("200 OK", "corelane: see /health and /metrics"),
            _ => Response::says("404 Not Found", "there are /health and /metrics"),
        }
    }

    fn ask(&self) -> Measured {
        // A panic of another thread leaves the meters as they were between two steps.
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters.ask(Duration::from_millis(MEASURE_PATIENCE_MS))
    }

    fn health(&self) -> Response {
        let measured = self.ask();
        let mut reasons = BTreeSet::new();
        reasons.extend(measured.silent.iter().map(|core| format!("core {core} does not answer")));
        reasons.extend(measured.snapshots.iter().flat_map(|snapshot| snapshot.unwell.clone()));
        if self.control.is_failed() {
            reasons.insert("the metadata log has failed: nothing can be created or changed".into());
        }
        if self.control.is_stopping() {
            reasons.insert("the broker is stopping".to_owned());
        }
        let offline: usize = measured.snapshots.iter().map(|snapshot| snapshot.offline_logs).sum();
        let (status, word) = match reasons.is_empty() {
            true => ("200 OK", "ok"),
            false => ("503 Service Unavailable", "failed"),
        };
        let body = json!({ "status": word, "reasons": reasons, "offline_logs": offline });
        Response::new(status, JSON, format!("{body}\n"))
    }

    fn metrics(&self) -> Response {
        let measured = self.ask();
        let mut body = prometheus::text(&measured.snapshots);
        let uptime = self.started.elapsed().as_secs_f64();
        for (name, kind, help, value) in [
            ("corelane_uptime_seconds", Kind::Gauge, "Time since the start.", Some(uptime)),
            (
                "corelane_metadata_failed",
                Kind::Gauge,
                "1 if the metadata log has failed: nothing can be created or changed.",
                Some(f64::from(u8::from(self.control.is_failed()))),
            ),
            (
                "corelane_cores_silent",
                Kind::Gauge,
                "Cores that did not tell their numbers in time.",
                Some(measured.silent.len() as f64),
            ),
            (
                "process_resident_memory_bytes",
                Kind::Gauge,
                "Resident memory of the process.",
                resident_memory(),
            ),
            (
                "process_open_fds",
                Kind::Gauge,
                "Open file descriptors.",
                fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64),
            ),
        ] {
            if let Some(value) = value {
                prometheus::head_of(&mut body, name, kind, help);
                body.push_str(&format!("{name} {value}\n"));
            }
        }
        let help = "The version that runs, as a label.";
        prometheus::head_of(&mut body, "corelane_build_info", Kind::Gauge, help);
        let version = env!("CARGO_PKG_VERSION");
        body.push_str(&format!("corelane_build_info{{version=\"{version}\"}} 1\n"));
        Response::new("200 OK", prometheus::CONTENT_TYPE, body)
    }
}

fn resident_memory() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}

/// What matters of a request.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    is_get: bool,
    is_head: bool,
    /// Without a query.
    path: String,
}

/// Reads up to the end of the request's head.
fn read_head(stream: &mut TcpStream, deadline: Instant) -> io::Result<Result<Head, Response>> {
    let mut bytes = [0; ADMIN_HEAD_MAX];
    let mut len = 0;
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut bytes[len..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => len += read,
        }
        match parse_head(&bytes[..len]) {
            Ok(Some(head)) => return Ok(Ok(head)),
            Ok(None) if len < bytes.len() => {}
            Ok(None) => {
                let status = "431 Request Header Fields Too Large";
                return Ok(Err(Response::says(status, "too long")));
            }
            Err(error) => {
                return Ok(Err(Response::says("400 Bad Request", &error.to_string())));
            }
        }
    }
}

/// The head, if all of it is here.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(bytes)?.is_partial() {
        return Ok(None);
    }
    let target = request.path.unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let method = request.method.unwrap_or_default();
    Ok(Some(Head { is_get: method == "GET", is_head: method == "HEAD", path }))
}

/// What is left of the time of a request; an error if nothing is.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_whole_cut_and_wrong() {
        let get = b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = Head { is_get: true, is_head: false, path: "/metrics".to_owned() };
        assert_eq!(parse_head(get), Ok(Some(head)));
        for cut in 0..get.len() {
            assert_eq!(parse_head(&get[..cut]), Ok(None), "{cut}");
        }
        let post = parse_head(b"POST / HTTP/1.0\r\n\r\n").expect("a head").expect("whole");
        assert!(!post.is_get && !post.is_head);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        for wrong in [&b"\x16\x03\x01\x02"[..], b"GET / FTP/1\r\n\r\n", many.as_bytes()] {
            assert!(parse_head(wrong).is_err(), "{wrong:?}");
        }
    }
}
