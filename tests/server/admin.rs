//! Admin HTTP: what it says of a broker that is well, of one that is not, and
//! what it does with bad input.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::{Value, json};

use crate::harness::{Broker, PATIENCE, Start, corelane, temp_dir};

const ANY_PORT: &str = "corelane.admin.listener=127.0.0.1:0";

/// Sends bytes, and returns all that comes until the end.
fn say(broker: &Broker, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(broker.admin()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(bytes).expect("it takes them");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers and closes");
    String::from_utf8(answer).expect("text")
}

/// The status and the body of an answer to GET.
fn get(broker: &Broker, path: &str) -> (u16, String) {
    let answer = say(broker, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    let len = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    assert_eq!(len.map(str::parse), Some(Ok(body.len())), "{head}");
    (status, body.to_owned())
}

/// The sum of a metric over all cores.
fn sum(metrics: &str, name: &str) -> f64 {
    let rows = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    rows.map(|line| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number"))
        .sum()
}

#[test]
fn health_and_metrics_of_a_broker_that_works() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).set(ANY_PORT).broker();
    let (status, body) = get(&broker, "/health");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &body["status"], &body["reasons"]), (200, &json!("ok"), &json!([])));

    let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
    let words = ["produce", "t", "--bootstrap", broker.address()];
    assert_eq!(corelane(&words, &lines).status.code(), Some(0));
    let words = ["consume", "t", "--from-beginning", "--max", "100", "--bootstrap"];
    let consumed = corelane(&[&words[..], &[broker.address()]].concat(), "");
    assert_eq!(consumed.stdout, lines);

    let (status, metrics) = get(&broker, "/metrics?all");
    assert_eq!(status, 200);
    for (name, least) in [
        ("corelane_appended_batches_total", 1.0),
        ("corelane_appended_bytes_total", 300.0),
        ("corelane_fetches_total", 1.0),
        ("corelane_fetched_bytes_total", 300.0),
        ("corelane_partitions", 1.0),
        ("corelane_logs_open", 1.0),
        ("corelane_connections_accepted_total", 2.0),
        ("corelane_received_bytes_total", 300.0),
        ("corelane_sent_bytes_total", 300.0),
        ("corelane_disk_write_duration_seconds_count", 1.0),
        ("corelane_disk_sync_duration_seconds_count", 1.0),
        ("corelane_step_duration_seconds_count", 10.0),
        ("corelane_busy_seconds_total", 0.000_01),
        ("corelane_memory_budget_bytes", 400e6),
        ("process_resident_memory_bytes", 1e6),
        ("corelane_build_info", 1.0),
    ] {
        assert!(sum(&metrics, name) >= least, "{name} is less than {least} in\n{metrics}");
    }
    for name in ["corelane_log_directory_failed", "corelane_logs_offline", "corelane_cores_silent"]
    {
        assert!(sum(&metrics, name) == 0.0, "{name} in\n{metrics}");
    }
    for api in ["Produce", "Fetch", "Metadata", "ApiVersions", "ListOffsets"] {
        let count = metrics.lines().any(|line| {
            line.starts_with("corelane_request_duration_seconds_count")
                && line.contains(&format!("api=\"{api}\""))
        });
        assert!(count, "no {api} in\n{metrics}");
    }
    // Every line is a comment, or a name, its labels and a number.
    for line in metrics.lines().filter(|line| !line.starts_with("# ")) {
        let (name, value) = line.rsplit_once(' ').expect(line);
        assert!(value.parse::<f64>().is_ok() && name.is_ascii() && !name.contains(' '), "{line}");
    }
    broker.stop();
}

#[test]
fn bad_input_is_refused_and_hurts_nobody() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).set(ANY_PORT).broker();
    // Two connections that say nothing, and one that says half of it.
    let silent: Vec<TcpStream> =
        (0..3).map(|_| TcpStream::connect(broker.admin()).expect("it listens")).collect();
    (&silent[0]).write_all(b"GET /hea").expect("it takes them");
    let status = |bytes: &[u8]| {
        let answer = say(&broker, bytes);
        answer.split(' ').nth(1).map(str::to_owned).expect("a status")
    };
    assert_eq!(status(b"GET /health HTTP/1.0\r\n\r\n"), "200");
    assert_eq!(status(b"GET /nothing HTTP/1.1\r\n\r\n"), "404");
    assert_eq!(status(b"POST /health HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"), "405");
    assert_eq!(status(b"\x16\x03\x01\x00\xff"), "400");
    assert_eq!(status(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(9_000)).as_bytes()), "431");
    let head = say(&broker, b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let stream = TcpStream::connect(broker.admin()).expect("it listens");
    stream.shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(get(&broker, "/health").0, 200);
    drop(silent);
    broker.stop();
}

#[test]
fn a_used_admin_address_is_a_clear_line() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).set(ANY_PORT).broker();
    let other = temp_dir();
    let same = format!("corelane.admin.listener={}", broker.admin());
    let ended = Start::on(other.path()).set(&same).attempt().expect_err("the address is used");
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    let expected = format!("{} is in use", broker.admin());
    assert!(ended.stderr.contains(&expected), "{ended:?}");
    assert!(ended.stderr.contains("set corelane.admin.listener to another address"), "{ended:?}");
    broker.stop();
    for (value, what) in [("9190", "must be host:port"), ("a:b", "must be host:port")] {
        let set = format!("corelane.admin.listener={value}");
        let ended = Start::on(other.path()).set(&set).attempt().expect_err("no address");
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert!(ended.stderr.contains(what), "{ended:?}");
    }
}
