//! The real control thread on a real directory, with threads for shards.

use std::os::fd::AsFd;
use std::path::Path;
use std::thread::{self, JoinHandle};

use super::*;
use crate::controller::decide::Policy;
use crate::controller::files::LogLimits;
use crate::metadata::command::{Answer, Command, NewTopic};
use crate::metadata::image::{Image, Node};
use crate::metadata::link::ToShard;
use crate::model::error_code::ErrorCode;
use crate::model::ids::NodeId;

const CORES: u16 = 2;

fn options(data: &Path) -> ControlOptions {
    let node = Node { id: NodeId(1), host: "localhost".into(), port: 9092, cores: CORES };
    ControlOptions {
        data: data.to_owned(),
        controller: ControllerOptions {
            node,
            cluster_id: "cluster".into(),
            directory_id: [3; 16],
            policy: Policy {
                num_partitions: 1,
                default_replication_factor: 1,
                validate_config: |_, _| Ok(()),
                topics: crate::config::TopicConfig::default(),
                consumer: crate::config::ConsumerSettings::default(),
            },
            log: LogLimits { snapshot_at: 32 << 10, reserve: 1 << 20 },
            seed: 1,
        },
    }
}

/// A shard that asks for topics, one after the other, and stops when it is told
/// to. Returns the answers' codes and its last image.
struct TestShard {
    endpoint: ShardEndpoint,
    ask: VecDeque<String>,
    codes: Vec<ErrorCode>,
    image: Option<Arc<Image>>,
    asked: Sender<()>,
}

impl TestShard {
    fn ask(&mut self) {
        let Some(name) = self.ask.pop_front() else {
            // The test waits for this, and may be gone at the second time.
            self.asked.send(()).ok();
            return;
        };
        let topic = NewTopic {
            name,
            partitions: 5,
            replication_factor: 1,
            assignments: vec![],
            configs: vec![],
        };
        let command = Command::CreateTopics { topics: vec![topic], validate_only: false };
        let core = self.endpoint.core();
        self.endpoint.send(ToController::Command { core, id: 7, command }).expect("room");
    }

    fn run(mut self) -> (Vec<ErrorCode>, Option<Arc<Image>>) {
        let core = self.endpoint.core();
        self.ask();
        loop {
            let mut counter = [0; 8];
            rustix::io::read(self.endpoint.eventfd().as_fd(), &mut counter).expect("an eventfd");
            while let Some(message) = self.endpoint.receive() {
                match message {
                    ToShard::Publish { image, .. } => {
                        let applied = ToController::Applied { core, offset: image.offset };
                        self.image = Some(image);
                        self.endpoint.send(applied).expect("room");
                    }
                    ToShard::Answer { id: 7, answer: Answer::CreateTopics(rows) } => {
                        let code =
                            rows[0].result.as_ref().map_or_else(|r| r.code, |_| ErrorCode::None);
                        if code == ErrorCode::None {
                            let image = self.image.as_ref().expect("published before");
                            assert!(image.topic(&rows[0].name).is_some(), "known when answered");
                        }
                        self.codes.push(code);
                        self.ask();
                    }
                    ToShard::Answer { id, answer } => panic!("answer {id}: {answer:?}"),
                    ToShard::Stop => {
                        let stopped = ToController::Stopped { core, clean: true };
                        self.endpoint.send(stopped).expect("room");
                        return (self.codes, self.image);
                    }
                }
            }
        }
    }
}

type Shards = Vec<JoinHandle<(Vec<ErrorCode>, Option<Arc<Image>>)>>;

/// Runs shards that ask for `names` each, and waits until all are answered.
fn shards(endpoints: Vec<ShardEndpoint>, names: &[&[String]]) -> Shards {
    let (asked, all) = channel();
    let shards: Shards = endpoints
        .into_iter()
        .zip(names)
        .map(|(endpoint, names)| {
            let ask = names.iter().cloned().collect();
            let asked = asked.clone();
            let shard = TestShard { endpoint, ask, codes: vec![], image: None, asked };
            thread::spawn(move || shard.run())
        })
        .collect();
    for _ in &shards {
        all.recv().expect("a shard got its answers");
    }
    shards
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}-{n}")).collect()
}

#[test]
fn topics_are_there_after_a_stop_and_a_start() {
    let data = tempfile::tempdir().unwrap();
    // Enough to make snapshots on the way.
    let (a, b) = (names("a", 120), names("b", 120));
    let mut before = None;
    for life in 0..3 {
        let (links, endpoints) = links(CORES).unwrap();
        let control = spawn(options(data.path()), links).unwrap();
        let shards = shards(endpoints, &[&a, &b]);
        assert!(!control.state().is_failed());
        assert!(control.stop(), "all shards stopped cleanly");
        for shard in shards {
            let (codes, image) = shard.join().unwrap();
            let expected = if life == 0 { ErrorCode::None } else { ErrorCode::TopicAlreadyExists };
            assert_eq!(codes, vec![expected; 120]);
            let image = image.expect("published");
            assert_eq!(image.topic_count(), 240);
            assert_eq!(before.get_or_insert_with(|| image.clone()), &image);
        }
    }
    let files = std::fs::read_dir(data.path().join("__cluster_metadata")).unwrap();
    assert_eq!(files.count(), 2, "a snapshot and a segment");
}

#[test]
fn damaged_metadata_is_said_and_left_as_it_is() {
    let data = tempfile::tempdir().unwrap();
    let (links, endpoints) = links(CORES).unwrap();
    let control = spawn(options(data.path()), links).unwrap();
    let running = shards(endpoints, &[&names("a", 5), &[]]);
    assert!(control.stop());
    running.into_iter().for_each(|shard| drop(shard.join().unwrap()));

    let log = data.path().join("__cluster_metadata/log-00000000000000000002");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let (links, endpoints) = self::links(CORES).unwrap();
    let error = spawn(options(data.path()), links).err().expect("refused");
    assert!(error.to_string().contains("is corrupt"), "{error}");
    assert!(endpoints.iter().all(ShardEndpoint::is_closed));
    assert_eq!(std::fs::read(&log).unwrap(), bytes);
}

#[test]
fn a_shard_that_is_gone_does_not_hold_up_the_stop() {
    let data = tempfile::tempdir().unwrap();
    let (links, mut endpoints) = links(CORES).unwrap();
    let control = spawn(options(data.path()), links).unwrap();
    drop(endpoints.pop());
    let running = shards(endpoints, &[&names("a", 3)]);
    assert!(!control.stop(), "one did not stop cleanly");
    for shard in running {
        assert_eq!(shard.join().unwrap().0, [ErrorCode::None; 3]);
    }
}
