//! The client commands: what they print, and their exit status.

use serde_json::{Value, json};

use crate::harness::{Ended, Start, corelane, temp_dir};

/// What a command printed that has to end well.
fn good(ended: Ended) -> String {
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    ended.stdout
}

fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn topics_and_records_by_command() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    let run = |line: &str, stdin: &str| {
        let words: Vec<&str> = line.split(' ').chain(["--bootstrap", broker.address()]).collect();
        corelane(&words, stdin)
    };
    assert_eq!(good(run("topic list", "")), "");
    assert_eq!(parsed(&good(run("topic list --json", ""))), [json!([])]);
    let created = good(run("topic create orders --partitions 3", ""));
    assert!(created.starts_with("created topic orders (id "), "{created}");
    assert!(created.contains("3 partitions"), "{created}");
    let created = parsed(&good(run("topic create other --json", "")));
    assert_eq!((&created[0]["name"], &created[0]["partitions"]), (&json!("other"), &json!(1)));
    assert_eq!(good(run("topic list", "")), "orders\nother\n");
    let described = parsed(&good(run("topic describe orders --json", "")));
    assert_eq!(described[0][0]["partitions"].as_array().map(Vec::len), Some(3));
    assert_eq!(good(run("topic describe orders", "")).lines().count(), 4);

    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let line = format!("produce orders --partition 1 --compression {codec} --json");
        let report = parsed(&good(run(&line, "one\ntwo\n\nlast")));
        assert_eq!(report[0]["records"], json!(4), "{codec}");
    }
    let read = good(run("consume orders --partition 1 --from-beginning --max 20", ""));
    assert_eq!(read, "one\ntwo\n\nlast\n".repeat(5));
    let read = parsed(&good(run("consume orders --partition 1 --offset 6 --max 2 --json", "")));
    assert_eq!((&read[0]["offset"], &read[0]["value"]), (&json!(6), &json!("")));
    assert_eq!((&read[1]["offset"], &read[1]["value"]), (&json!(7), &json!("last")));
    let line = "produce other --key-separator : --acks 1 --header h=1 --header i= --rate 1000";
    good(run(line, "k:v\nl:w\n"));
    let read = parsed(&good(run("consume other --from-beginning --max 2 --json", "")));
    for (at, key, value) in [(0, "k", "v"), (1, "l", "w")] {
        assert_eq!((&read[at]["key"], &read[at]["value"]), (&json!(key), &json!(value)));
        let headers = json!([{ "key": "h", "value": "1" }, { "key": "i", "value": "" }]);
        assert_eq!((&read[at]["offset"], &read[at]["headers"]), (&json!(at), &headers));
        assert!(read[at]["timestamp"].as_i64().is_some_and(|ms| ms > 1_600_000_000_000));
    }
    // Nobody has to have it, and it comes all the same.
    good(run("produce other --acks 0 --key-separator =>", "k=>fire\n"));
    let read = good(run("consume other --offset 2 --max 1", ""));
    assert_eq!(read, "fire\n");
    // Without a partition all are read.
    let read = parsed(&good(run("consume orders --from-beginning --max 20 --json", "")));
    assert!(read.iter().all(|record| record["partition"] == json!(1)));
    good(run("produce orders --partition 2", "elsewhere\n"));
    let read = good(run("consume orders --from-beginning --max 21", ""));
    assert!(read.contains("elsewhere\n") && read.contains("last\n"), "{read}");

    let line = "topic alter orders --config flush.ms=70 --config max.message.bytes=9000";
    assert_eq!(good(run(line, "")), "altered topic orders\n");
    let line = "topic alter orders --delete-config flush.ms --partitions 5 --json";
    assert_eq!(parsed(&good(run(line, "")))[0]["name"], json!("orders"));
    let line = "topic alter orders --partitions 9 --dry-run";
    assert_eq!(good(run(line, "")), "topic orders could be altered so\n");
    let described = parsed(&good(run("topic describe orders --json", "")));
    assert_eq!(described[0][0]["partitions"].as_array().map(Vec::len), Some(5));
    let own = json!([
        { "name": "max.message.bytes", "value": "9000", "source": "DYNAMIC_TOPIC_CONFIG" }
    ]);
    assert_eq!(described[0][0]["configs"], own);
    let all = good(run("topic describe orders --all-configs", ""));
    for line in [
        "  config max.message.bytes=9000  DYNAMIC_TOPIC_CONFIG",
        "  config flush.messages=1  DEFAULT_CONFIG",
    ] {
        assert!(all.lines().any(|found| found == line), "{all}");
    }

    assert_eq!(good(run("topic delete other", "")), "deleted topic other\n");
    assert_eq!(good(run("topic list", "")), "orders\n");
    broker.stop();
}

#[test]
fn failures_are_one_line_and_a_status() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    let at = |address: &str, line: &str| {
        let words: Vec<&str> = line.split(' ').chain(["--bootstrap", address]).collect();
        corelane(&words, "x\n")
    };
    good(at(broker.address(), "topic create t"));
    for (line, status, what) in [
        ("topic create t", 1, "TOPIC_ALREADY_EXISTS"),
        ("topic create no/name", 1, "INVALID_TOPIC_EXCEPTION"),
        ("topic create u --config no.such.setting=1", 1, "INVALID_CONFIG"),
        ("topic create u --replication-factor 2", 1, "INVALID_REPLICATION_FACTOR"),
        ("topic alter t --partitions 1", 1, "INVALID_PARTITIONS"),
        ("topic alter t --config flush.ms=x", 1, "flush.ms=x: must be a whole number"),
        ("topic alter t --config num.partitions=2", 1, "INVALID_CONFIG"),
        ("topic alter absent --partitions 2", 1, "topic absent does not exist"),
        ("topic delete absent", 1, "topic absent does not exist"),
        ("topic describe absent", 1, "topic absent does not exist"),
        ("consume absent --from-beginning", 1, "topic absent does not exist"),
        (
            "consume t --offset 5 --max 1",
            1,
            "it is empty, and the next one is 0: OFFSET_OUT_OF_RANGE",
        ),
        ("produce t --key-separator =", 1, "line 1 has no key separator"),
        ("consume t --partition 3", 2, "numbered from 0"),
        ("produce t --partition 3", 2, "numbered from 0"),
    ] {
        let ended = at(broker.address(), line);
        assert_eq!(ended.status.code(), Some(status), "{line}: {ended:?}");
        assert!(ended.stderr.contains(what), "{line}: {ended:?}");
        assert_eq!(ended.stderr.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{line}");
    }
    // Wrong usage is told before anybody is asked.
    for line in [
        "produce t --rate 0",
        "produce t --header x",
        "consume t --offset x",
        "topic",
        "topic create",
        "produce t --acks 7",
        "consume t --max 0",
        "nonsense",
    ] {
        let ended = at(broker.address(), line);
        assert_eq!(ended.status.code(), Some(2), "{line}: {ended:?}");
    }
    let address = broker.address().to_owned();
    broker.stop();
    let ended = at(&address, "topic list");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("is the broker running?"), "{ended:?}");
}

#[test]
fn a_log_directory_is_dumped_and_its_damage_told() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    let run = |line: &str, stdin: &str| {
        let words: Vec<&str> = line.split(' ').chain(["--bootstrap", broker.address()]).collect();
        good(corelane(&words, stdin))
    };
    run("topic create orders", "");
    run("produce orders --key-separator : --header h=1", "k:one\nk:two\n");
    run("produce orders --compression zstd", "three\n");
    broker.stop();
    let path = dir.path().to_str().expect("text");
    let dump = |arguments: &[&str]| corelane(&[&["log", "dump"], arguments].concat(), "");
    let rows = parsed(&good(dump(&[path, "--records", "--json"])));
    let of = |kind: &str| rows.iter().filter(|row| row["type"] == kind).collect::<Vec<_>>();
    let values: Vec<&Value> = of("record").iter().map(|record| &record["value"]).collect();
    assert_eq!(values, ["one", "two", "three"]);
    assert_eq!(of("batch").last().expect("batches")["codec"], "zstd");
    for kind in ["segment", "epoch", "recovery_point", "snapshot", "metadata", "properties"] {
        assert!(!of(kind).is_empty(), "no {kind} in {rows:?}");
    }
    assert!(of("note").iter().all(|row| row["text"] != "not a file that is known here"));
    let text = good(dump(&[path]));
    assert!(text.contains("3 records, offsets 0 to 2, "), "{text}");

    let segment = dir.path().join("orders-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).expect("the segment");
    bytes[70] ^= 1;
    std::fs::write(&segment, &bytes).expect("written");
    let ended = dump(&[segment.to_str().expect("text")]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stdout.contains("CORRUPT at byte 0: the batch's CRC is "), "{ended:?}");
    assert_eq!(ended.stderr, "error: 1 of 1 file is torn or corrupt\n");
    for (arguments, status, what) in [
        (&["/nonexistent"][..], 1, "cannot read /nonexistent"),
        (&[], 2, "FILE|DIR"),
        (&[path, "--deep"], 2, "--deep"),
    ] {
        let ended = dump(arguments);
        assert_eq!(ended.status.code(), Some(status), "{ended:?}");
        assert!(ended.stderr.contains(what), "{ended:?}");
    }
}

#[test]
fn the_doctor_finds_that_this_machine_will_do() {
    let dir = temp_dir();
    let broker = Start::on(dir.path()).broker();
    let set = format!("log.dirs={}", dir.path().display());
    let ended = corelane(&["doctor", "--json", "--set", &set, "--set", "corelane.cores=2"], "");
    let found = parsed(&good(ended));
    let checks = found[0]["checks"].as_array().expect("checks");
    for name in [
        "kernel",
        "open files",
        "clock source",
        "CPU governor",
        "cores",
        "memory",
        "io_uring",
        "memlock",
        "direct I/O",
        "log directory",
        "file system",
        "write cache",
        "sync",
    ] {
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.unwrap_or_else(|| panic!("nothing of {name} in {found:?}"));
        let (level, advice) = (&check["level"], &check["advice"]);
        assert!(level == "ok" || level == "warn" && advice.is_string(), "{check:?}");
    }
    broker.stop();
    let left = std::fs::read_dir(dir.path()).expect("the directory").filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".tmp"))
    });
    assert_eq!(left.count(), 0, "nothing is left behind");

    let text = good(corelane(&["doctor", "--set", &set], ""));
    assert!(
        text.lines().any(|line| line.starts_with("ok    sync") || line.starts_with("warn  sync"))
    );
    let ended = corelane(&["doctor", "--set", "log.dirs=/proc"], "");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stdout.contains("fail  io_uring"), "{ended:?}");
    assert!(ended.stderr.contains("1 thing in the way of a broker"), "{ended:?}");
    let ended = corelane(&["doctor", "--set", "log.dirs"], "");
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
}
