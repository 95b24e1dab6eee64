//! Consumer groups by command and by hand: what the commands print, members that
//! share, and what lies on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use corelane::model::batch::BatchHeader;
use corelane::wire::client::encode_request;
use corelane::wire::groups::{
    ListGroupsRequest, OffsetCommitRequest, OffsetFetchRequest, offset_commit_request,
};
use corelane::wire::small::{FindCoordinatorRequest, StrBytes};
use serde_json::{Value, json};

use crate::harness::wire::Wire;
use crate::harness::{Broker, Ended, PATIENCE, Process, Start, corelane, running, temp_dir};

/// Versions that name one group and topics by name.
const FIND: i16 = 3;
const COMMIT: i16 = 8;
const FETCH: i16 = 7;
const LIST: i16 = 3;

/// What the coordinator of a whole group may take beside what the broker does.
const MEMORY: (&str, u64) = ("corelane.memory=128m", (128 + 96) << 20);

fn start(dir: &Path) -> Start {
    let start = Start::on(dir).set("group.initial.rebalance.delay.ms=100");
    start.set("offsets.topic.num.partitions=5")
}

fn words<'a>(broker: &'a Broker, line: &'a str) -> Vec<&'a str> {
    line.split(' ').chain(["--bootstrap", broker.address()]).collect()
}

fn run(broker: &Broker, line: &str, stdin: &str) -> Ended {
    corelane(&words(broker, line), stdin)
}

/// What a command printed that has to end well.
fn good(broker: &Broker, line: &str, stdin: &str) -> String {
    let ended = run(broker, line, stdin);
    assert_eq!(ended.status.code(), Some(0), "{line}: {ended:?}");
    ended.stdout
}

fn json(broker: &Broker, line: &str) -> Value {
    let text = good(broker, &format!("{line} --json"), "");
    serde_json::from_str(&text).expect("one line of JSON")
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| format!("{n}\n")).collect()
}

#[test]
fn a_group_by_command() {
    let dir = temp_dir();
    let broker = start(dir.path()).broker();
    good(&broker, "topic create t", "");
    good(&broker, "produce t", &lines(0..10));
    assert_eq!(json(&broker, "group list"), json!([]));

    // Each goes on where the one before has left.
    let read = |line: &str| good(&broker, &format!("consume t --group team {line}"), "");
    assert_eq!(read("--from-beginning --max 5"), lines(0..5));
    assert_eq!(read("--max 3"), lines(5..8));
    assert_eq!(good(&broker, "group list", ""), "team\n");
    let group = &json(&broker, "group describe team")[0];
    assert_eq!((&group["state"], &group["members"]), (&json!("Empty"), &json!([])));
    let row = &group["partitions"][0];
    assert_eq!(
        (&row["topic"], &row["offset"], &row["end"], &row["lag"]),
        (&json!("t"), &json!(8), &json!(10), &json!(2))
    );
    let text = good(&broker, "group describe", "");
    assert!(text.contains("  t      0          8       10   2    -\n"), "{text}");

    let at = || json(&broker, "group describe team")[0]["partitions"][0]["offset"].clone();
    let reset = |line: &str| json(&broker, &format!("group reset-offsets team {line}"));
    for (line, to) in [
        ("--topic t --to-earliest", 0),
        ("--topic t:0 --to-latest", 10),
        ("--all-topics --to-offset 3", 3),
        ("--topic t --to-offset 99", 10),
        ("--topic t --shift-by -6", 2),
        ("--topic t --shift-by 1", 9),
        ("--topic t --shift-by -100", 0),
        ("--topic t --to-time 2001-01-01T00:00", 0),
        ("--topic t --to-time 2100-01-01", 10),
    ] {
        let planned = reset(line);
        let rows = json!([{ "topic": "t", "partition": 0, "from": 8, "to": to }]);
        assert_eq!(
            (&planned["executed"], &planned["partitions"]),
            (&json!(false), &rows),
            "{line}"
        );
        assert_eq!(at(), json!(8), "only shown: {line}");
    }
    let ended = run(&broker, "group reset-offsets team --topic t --shift-by -7", "");
    assert!(ended.stdout.contains("  t      0          8     1\n"), "{ended:?}");
    assert!(ended.stderr.contains("nothing is changed"), "{ended:?}");
    assert_eq!(reset("--topic t --shift-by -7 --execute")["executed"], json!(true));
    assert_eq!((at(), read("--max 2")), (json!(1), lines(1..3)));

    // A group can be begun so.
    reset("--topic t --to-offset 4 --execute");
    good(&broker, "group reset-offsets other --topic t --to-offset 4 --execute", "");
    assert_eq!(good(&broker, "group list", ""), "other\nteam\n");

    for (line, status, what) in [
        ("group describe absent", 1, "group absent does not exist"),
        ("group delete absent", 1, "group absent does not exist"),
        ("group reset-offsets g --topic absent --to-latest", 1, "topic absent does not exist"),
        ("group reset-offsets g --topic t:1 --to-latest", 2, "numbered from 0"),
        ("group reset-offsets g --topic t --shift-by 1", 1, "has committed no offset of t-0"),
        ("group reset-offsets g --all-topics --to-latest", 1, "has committed no offsets"),
        ("consume absent --group g --max 1", 1, "topic absent does not exist"),
    ] {
        let ended = run(&broker, line, "");
        assert_eq!(ended.status.code(), Some(status), "{line}: {ended:?}");
        assert!(ended.stderr.contains(what), "{line}: {ended:?}");
    }
    assert_eq!(
        good(&broker, "group delete team other", ""),
        "deleted group team\ndeleted group other\n"
    );
    assert_eq!(good(&broker, "group list", ""), "");
    // Without an offset it begins at the end, and that is kept.
    let member = running(&words(&broker, "consume t --group late"));
    until(&broker, "late", |group| group["partitions"][0]["offset"] == json!(10));
    let refused = run(&broker, "group reset-offsets late --topic t --to-earliest", "");
    assert!(refused.stderr.contains("is Stable with 1 member; stop them first"), "{refused:?}");
    let refused = run(&broker, "group delete late", "");
    assert!(refused.stderr.contains("NON_EMPTY_GROUP"), "{refused:?}");
    assert_eq!(member.interrupt().status.code(), Some(0));
    good(&broker, "produce t", "later\n");
    assert_eq!(good(&broker, "consume t --group late --max 1", ""), "later\n");
    broker.stop();
}

/// Asks for a group until it is as wanted; returns it.
fn until(broker: &Broker, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let line = format!("group describe {name} --json");
        let ended = run(broker, &line, "");
        let group: Option<Value> = serde_json::from_str(&ended.stdout).ok();
        if let Some(group) = group.map(|rows| rows[0].clone()).filter(&wanted) {
            return group;
        }
        assert!(Instant::now() < deadline, "group {name} does not come so far: {ended:?}");
    }
}

/// How many partitions each of `members` has, all of them Stable.
fn shares(group: &Value) -> Option<Vec<usize>> {
    let members = group["members"].as_array().filter(|_| group["state"] == json!("Stable"))?;
    let share = |member: &Value| member["assignment"]["t"].as_array().map_or(0, Vec::len);
    Some(members.iter().map(share).collect())
}

#[test]
fn members_by_command_share_and_hand_over() {
    let dir = temp_dir();
    let broker = start(dir.path()).broker();
    good(&broker, "topic create t --partitions 4", "");
    let member = || running(&words(&broker, "consume t --group team --from-beginning --json"));
    let mut sent = 0;
    let mut send = || {
        for partition in 0..4 {
            let line = format!("produce t --partition {partition}");
            good(&broker, &line, &lines(sent..sent + 10));
            sent += 10;
        }
    };
    let (mut seen, mut per_partition) = (BTreeSet::new(), BTreeMap::new());
    let mut take = |member: &Process, count: usize| {
        let mut partitions = BTreeSet::new();
        for _ in 0..count {
            let row: Value = serde_json::from_str(&member.line()).expect("JSON");
            let value = row["value"].as_str().expect("text").to_owned();
            assert!(seen.insert(value.clone()), "{value} came twice");
            let next = per_partition.entry(row["partition"].to_string()).or_insert(0);
            assert_eq!(row["offset"], json!(*next), "in order, none missing");
            *next += 1;
            partitions.insert(row["partition"].to_string());
        }
        partitions
    };
    let one = member();
    until(&broker, "team", |group| shares(group) == Some(vec![4]));
    send();
    assert_eq!(take(&one, 40).len(), 4);
    let two = member();
    until(&broker, "team", |group| shares(group) == Some(vec![2, 2]));
    send();
    let (mine, yours) = (take(&one, 20), take(&two, 20));
    assert!(mine.len() == 2 && yours.len() == 2 && mine.is_disjoint(&yours), "{mine:?} {yours:?}");
    // One that leaves is not waited for.
    assert_eq!(one.interrupt().status.code(), Some(0));
    until(&broker, "team", |group| shares(group) == Some(vec![4]));
    send();
    take(&two, 40);
    let ended = two.interrupt();
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(0), ""), "{ended:?}");
    let group = until(&broker, "team", |group| group["state"] == json!("Empty"));
    let rows = group["partitions"].as_array().expect("rows");
    assert_eq!(rows.len(), 4);
    assert!(
        rows.iter().all(|row| row["offset"] == json!(30) && row["lag"] == json!(0)),
        "{rows:?}"
    );
    assert_eq!(seen.len(), sent);
    broker.stop();
}

#[test]
fn a_member_by_command_outlives_the_broker() {
    let dir = temp_dir();
    let broker = start(dir.path()).broker();
    let address = format!("listeners=PLAINTEXT://{}", broker.address());
    good(&broker, "topic create t --partitions 2", "");
    let member = running(&words(&broker, "consume t --group team --from-beginning"));
    good(&broker, "produce t --partition 0", "before\n");
    assert_eq!(member.line(), "before");
    until(&broker, "team", |group| {
        let rows = group["partitions"].as_array();
        rows.is_some_and(|rows| rows.iter().any(|row| row["offset"] == json!(1)))
    });
    broker.kill();
    let broker = start(dir.path()).set(&address).broker();
    good(&broker, "produce t --partition 1", "after\n");
    assert_eq!(member.line(), "after");
    let ended = member.interrupt();
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(0), ""), "{ended:?}");
    broker.stop();
}

/// Has `__consumer_offsets` made.
fn coordinated(broker: &Broker) -> Wire {
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    let mut request = FindCoordinatorRequest::default();
    request.key = StrBytes::from("g");
    let deadline = Instant::now() + PATIENCE;
    while wire.call(FIND, &request).expect("answered").error_code != 0 {
        assert!(Instant::now() < deadline, "there is no coordinator");
    }
    wire
}

fn commit(group: &str, offset: i64) -> OffsetCommitRequest {
    let mut row = offset_commit_request::OffsetCommitRequestPartition::default();
    row.committed_offset = offset;
    row.committed_metadata = Some(StrBytes::from(""));
    let mut topic = offset_commit_request::OffsetCommitRequestTopic::default();
    topic.name = StrBytes::from("t");
    topic.partitions = vec![row];
    let mut request = OffsetCommitRequest::default();
    request.group_id = StrBytes::from(group);
    request.generation_id_or_member_epoch = -1;
    request.topics = vec![topic];
    request
}

/// Commits, again while the coordinator is loading.
fn commit_now(wire: &mut Wire, group: &str, offset: i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = wire.call(COMMIT, &commit(group, offset)).expect("answered");
        match answer.topics[0].partitions[0].error_code {
            0 => return,
            14 => assert!(Instant::now() < deadline, "the coordinator does not load"),
            code => panic!("error {code}"),
        }
    }
}

/// The offset of partition 0 of `t`, or -1.
fn committed(wire: &mut Wire, group: &str) -> i64 {
    let mut request = OffsetFetchRequest::default();
    request.group_id = StrBytes::from(group);
    request.topics = None;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = wire.call(FETCH, &request).expect("answered");
        match answer.error_code {
            0 => {
                let mut rows = answer.topics.iter().flat_map(|topic| &topic.partitions);
                return rows.next().map_or(-1, |row| row.committed_offset);
            }
            14 => assert!(Instant::now() < deadline, "the coordinator does not load"),
            code => panic!("error {code}"),
        }
    }
}

fn names(wire: &mut Wire) -> BTreeSet<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = wire.call(LIST, &ListGroupsRequest::default()).expect("answered");
        match answer.error_code {
            0 => return answer.groups.iter().map(|row| row.group_id.to_string()).collect(),
            14 => assert!(Instant::now() < deadline, "the coordinators do not load"),
            code => panic!("error {code}"),
        }
    }
}

#[test]
fn ten_thousand_groups_survive_a_kill_in_bounded_memory() {
    const GROUPS: usize = 10_000;
    /// Commits that are under way at a time.
    const WINDOW: usize = 200;
    let dir = temp_dir();
    let settings = || start(dir.path()).set(MEMORY.0);
    let broker = settings().broker();
    let mut wire = coordinated(&broker);
    assert_eq!(wire.create_topic("t", 1, &[]).expect("answered"), 0);
    commit_now(&mut wire, "group-0", 0);
    let mut ids = std::collections::VecDeque::new();
    for at in 0..GROUPS + WINDOW {
        if at < GROUPS {
            let request = commit(&format!("group-{at}"), at as i64);
            ids.push_back(wire.send(COMMIT, &request).expect("sent"));
        }
        if at >= WINDOW {
            let id = ids.pop_front().expect("sent before");
            let answer = wire.answer::<OffsetCommitRequest>(COMMIT, id).expect("answered");
            assert_eq!(answer.topics[0].partitions[0].error_code, 0);
        }
    }
    let expected: BTreeSet<String> = (0..GROUPS).map(|at| format!("group-{at}")).collect();
    assert!(names(&mut wire) == expected, "all groups are listed");
    let peak = broker.peak_memory();
    assert!(peak < MEMORY.1, "{} MiB at the most", peak >> 20);
    broker.kill();

    let broker = settings().broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    assert!(names(&mut wire) == expected, "all groups are loaded");
    for at in (0..GROUPS).step_by(97) {
        assert_eq!(committed(&mut wire, &format!("group-{at}")), at as i64);
    }
    let peak = broker.peak_memory();
    assert!(peak < MEMORY.1, "{} MiB at the most", peak >> 20);
    broker.stop();
}

#[test]
fn offsets_outlast_the_compaction_of_their_topic() {
    /// More than two segments of commits, in one partition.
    const COMMITS: i64 = 18_000;
    const WINDOW: i64 = 200;
    let dir = temp_dir();
    let settings = || {
        let start = Start::on(dir.path()).set("offsets.topic.num.partitions=1");
        start.set("offsets.topic.segment.bytes=1048576").set("log.cleaner.backoff.ms=100")
    };
    let broker = settings().broker();
    let mut wire = coordinated(&broker);
    assert_eq!(wire.create_topic("t", 1, &[]).expect("answered"), 0);
    commit_now(&mut wire, "rests", 7);
    let mut ids = std::collections::VecDeque::new();
    for at in 0..COMMITS + WINDOW {
        if at < COMMITS {
            ids.push_back(wire.send(COMMIT, &commit("goes-on", at)).expect("sent"));
        }
        if at >= WINDOW {
            let id = ids.pop_front().expect("sent before");
            let answer = wire.answer::<OffsetCommitRequest>(COMMIT, id).expect("answered");
            assert_eq!(answer.topics[0].partitions[0].error_code, 0);
        }
    }
    let first = dir.path().join("__consumer_offsets-0/00000000000000000000.log");
    let deadline = Instant::now() + PATIENCE;
    while std::fs::metadata(&first).expect("the first segment").len() > 100_000 {
        assert!(Instant::now() < deadline, "the topic is not compacted");
        assert_eq!(committed(&mut wire, "rests"), 7);
    }
    assert_eq!(committed(&mut wire, "goes-on"), COMMITS - 1);
    broker.kill();
    let broker = settings().broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    assert_eq!(committed(&mut wire, "rests"), 7);
    assert_eq!(committed(&mut wire, "goes-on"), COMMITS - 1);
    broker.stop();
}

/// Makes the last record of `__consumer_offsets` that has `key` in it one of a
/// kind that nobody knows, with a CRC that says it is meant.
fn estrange(dir: &Path, key: &[u8]) {
    let mut changed = 0;
    for entry in std::fs::read_dir(dir).expect("the log directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if !name.starts_with("__consumer_offsets-") {
            continue;
        }
        let segment = path.join("00000000000000000000.log");
        let Ok(mut bytes) = std::fs::read(&segment) else { continue };
        let mut at = 0;
        while let Some(len) = BatchHeader::decode(&bytes[at..]).and_then(|head| head.total_len()) {
            let batch = &mut bytes[at..at + len];
            // The kind of a key is the two bytes before its first string.
            if let Some(found) = batch.windows(key.len()).position(|window| window == key) {
                batch[found - 1] = 99;
                let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[21..]);
                batch[17..21].copy_from_slice(&(crc as u32).to_be_bytes());
                changed += 1;
            }
            at += len;
        }
        std::fs::write(&segment, &bytes).expect("written");
    }
    assert_eq!(changed, 1, "one record was looked for");
}

#[test]
fn a_record_that_nobody_knows_is_passed_over_and_told() {
    let dir = temp_dir();
    let broker = start(dir.path()).broker();
    let mut wire = coordinated(&broker);
    assert_eq!(wire.create_topic("t", 1, &[]).expect("answered"), 0);
    for group in ["first", "strange", "last"] {
        commit_now(&mut wire, group, 7);
    }
    drop(wire);
    broker.stop();
    estrange(dir.path(), b"\0\x07strange");

    let broker = start(dir.path()).broker();
    let mut wire = Wire::connect(broker.address()).expect("it listens");
    assert_eq!(committed(&mut wire, "first"), 7);
    assert_eq!(committed(&mut wire, "strange"), -1);
    assert_eq!(committed(&mut wire, "last"), 7);
    commit_now(&mut wire, "strange", 8);
    assert_eq!(committed(&mut wire, "strange"), 8);
    drop(wire);
    let ended = broker.stop();
    assert!(ended.stderr.contains("skipping a record of a coordinator"), "{ended:?}");
}

#[test]
fn hostile_requests_about_groups_hurt_nobody() {
    let dir = temp_dir();
    let broker = start(dir.path()).broker();
    let mut wire = coordinated(&broker);
    assert_eq!(wire.create_topic("t", 1, &[]).expect("answered"), 0);
    commit_now(&mut wire, "g", 5);
    let whole = encode_request(&commit("g", 6), COMMIT, 9, "bad").expect("representable");
    for cut in (14..whole.len()).step_by(3) {
        let mut other = Wire::connect(broker.address()).expect("it listens");
        let mut frame = whole[..cut].to_vec();
        frame[..4].copy_from_slice(&(cut as i32 - 4).to_be_bytes());
        std::io::Write::write_all(&mut other.stream, &frame).expect("sent");
        // Closed, as what it is cannot be told.
        assert!(other.receive().is_err(), "cut at {cut}");
    }
    assert_eq!(committed(&mut wire, "g"), 5);
    let ended = broker.stop();
    assert!(!ended.stderr.contains("panic"), "{ended:?}");
}
