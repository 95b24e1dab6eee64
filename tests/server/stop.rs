//! How a broker ends, and how it refuses to start.

use std::fs;
use std::net::TcpListener;

use corelane::base::rng::Rng;
use rustix::process::Signal;

use crate::harness::wire::Wire;
use crate::harness::{Ended, Start, temp_dir};
use crate::load::{Account, ROLLING, SYNCED};

const CLEAN: &str = ".kafka_cleanshutdown";

#[test]
fn a_signal_under_load_ends_it_in_order() {
    let dir = temp_dir();
    let start = Start::on(dir.path());
    let mut rng = Rng::stream(1, "signals");
    let mut broker = start.broker();
    let mut account = Account::open(&broker, &[SYNCED, ROLLING]);
    for signal in [Signal::TERM, Signal::INT, Signal::TERM, Signal::INT] {
        let mut load = account.load(&broker, &mut rng, false);
        load.wait(rng.between(50, 1_000) as usize, &mut rng);
        broker.signal(signal);
        let ended = broker.wait();
        assert_eq!(ended.status.code(), Some(0), "{signal:?}: {ended:?}");
        assert!(ended.stderr.contains("all logs closed"), "{signal:?}: {ended:?}");
        assert!(dir.path().join(CLEAN).exists(), "{signal:?}");
        account.settle(load);
        assert_eq!(account.refused, [0; 0], "{signal:?}: answered or closed, not refused");
        broker = start.broker();
        assert!(broker.was_clean() && !dir.path().join(CLEAN).exists(), "{signal:?}");
        account.verify(&broker).expect_sound(&format!("{signal:?}"));
    }
    broker.stop();
}

/// The start has to fail as wrong usage, with one line that says `what`.
fn expect_refusal(start: &Start, what: &str) {
    let ended = start.attempt().err().unwrap_or_else(|| panic!("it started, in spite of {what}"));
    expect_one_line(&ended, 2, what);
}

fn expect_one_line(ended: &Ended, status: i32, what: &str) {
    assert_eq!(ended.status.code(), Some(status), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.starts_with("error: ") && ended.stderr.contains(what), "{ended:?}");
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_second_broker_is_refused_and_the_first_unhurt() {
    let (dir, other) = (temp_dir(), temp_dir());
    let broker = Start::on(dir.path()).broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    assert_eq!(wire.create_topic("t", 1, &[]).expect("answered"), 0);
    expect_refusal(&Start::on(dir.path()), "is in use by another broker");
    let same_port = format!("listeners=PLAINTEXT://{}", broker.address());
    expect_refusal(&Start::on(other.path()).set(&same_port), broker.address());
    // Whoever else has the port.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let listeners = format!("listeners=PLAINTEXT://{address}");
    expect_refusal(&Start::on(other.path()).set(&listeners), &address);
    assert_eq!(wire.topic_error("t").expect("undisturbed"), 0);
    broker.stop();
}

#[test]
fn wrong_settings_are_refused_in_one_line() {
    let dir = temp_dir();
    for (setting, what) in [
        ("num.partitions", "must be key=value"),
        ("num.partitions=many", "must be a whole number"),
        ("num.partitions=0", "num.partitions=0"),
        ("num.partition=3", "the nearest known one is num.partitions"),
        ("node.id=-1", "node.id=-1"),
        ("listeners=127.0.0.1:9092", "must be a list of NAME://host:port"),
        ("listeners=SSL://127.0.0.1:0", "only PLAINTEXT"),
        ("listeners=PLAINTEXT://no.such.host.invalid:0", "no such host"),
        ("advertised.listeners=PLAINTEXT://0.0.0.0:9092", "clients cannot connect to 0.0.0.0"),
        ("log.dirs=", "must name a directory"),
        ("log.dirs=/a,/b", "more than one directory"),
        ("auto.create.topics.enable=perhaps", "auto.create.topics.enable=perhaps"),
        ("corelane.cores=0", "corelane.cores=0"),
        ("corelane.memory=1k", "corelane.memory=1k"),
        ("controller.quorum.voters=1@a:1,2@b:2", "a quorum of more than one node"),
    ] {
        expect_refusal(&Start::on(dir.path()).set(setting), what);
    }
    assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0, "nothing was made");
}

#[test]
fn directories_that_are_not_its_own_are_refused() {
    let dir = temp_dir();
    let path = dir.path().join("data");
    Start::on(&path).broker().stop();
    expect_refusal(&Start::on(&path).set("node.id=2"), "belongs to node.id=1");
    fs::write(path.join("meta.properties"), "version=9\n").expect("written");
    expect_refusal(&Start::on(&path), "meta.properties");
    fs::remove_file(path.join("meta.properties")).expect("it is there");
    expect_refusal(&Start::on(&path), "no log directory of corelane");
    let file = dir.path().join("file");
    fs::write(&file, "precious").expect("written");
    expect_refusal(&Start::on(&file), "file");
    assert_eq!(fs::read_to_string(&file).expect("there"), "precious");
}
