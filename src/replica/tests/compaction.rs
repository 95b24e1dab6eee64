//! Compaction of one core's logs beside everything else.

use super::*;
use crate::log::compaction::CompactionConfig;
use crate::replica::Cleaning;

const ALL: CompactionConfig = CompactionConfig {
    dirty_ratio_ppm: 0,
    min_lag_ms: 0,
    max_lag_ms: i64::MAX as u64,
    delete_retention_ms: 1_000,
};

fn compacted() -> PartitionConfig {
    let log = LogConfig { segment_bytes: 100_000, ..LogConfig::default() };
    PartitionConfig { log, compaction: Some(ALL), ..config() }
}

/// A batch with one record of each of these keys.
fn keyed(keys: &[u8], bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    for key in keys {
        builder.push(1, Some(&[*key]), Some(&vec![*key; bytes]), &[]);
    }
    builder.finish()
}

impl Core {
    fn add_compacted(&mut self, topic: u8) {
        let name = format!("t{topic}");
        self.replicas.add(id(topic), &name.as_str().into(), LeaderEpoch(0), compacted());
    }

    /// Turns until nothing is left to do at once.
    fn rest(&mut self) {
        self.run();
        while self.replicas.has_work() {
            self.run();
        }
    }

    fn bytes(&self, topic: u8) -> usize {
        let dir = format!("t{topic}-0");
        let logs = self.disk.files.iter().filter(|(path, _)| {
            path.starts_with(&dir) && path.extension().is_some_and(|kind| kind == "log")
        });
        logs.map(|(_, content)| content.iter().filter(|byte| **byte != 0).count()).sum()
    }

    fn records(&mut self, topic: u8, from: i64) -> usize {
        let origin = self.fetch(64 << 20, &[(topic, from)]);
        self.rest();
        self.wait(1_000);
        let rows = self.fetched(origin).expect("finished");
        assert_eq!(rows[0].0, E::None);
        rows[0].1.len()
    }
}

#[test]
fn logs_are_compacted_one_after_the_other() {
    let mut core = Core::new();
    for topic in [1, 2] {
        core.add_compacted(topic);
        for _ in 0..100 {
            core.produce(topic, &keyed(&[1, 2, 3], 3_000));
            core.run();
        }
    }
    core.add(3);
    let before = core.bytes(1);
    assert!(before > 800_000);
    core.wait(15_000);
    core.rest();
    for topic in [1, 2] {
        assert!(core.bytes(topic) < before / 5, "{} bytes", core.bytes(topic));
        assert_eq!(core.end(topic), 300);
        assert!(core.records(topic, 0) > 0 && core.records(topic, 150) > 0);
    }
    // Nothing is dirty any more; the look comes again all the same.
    assert!(!core.replicas.has_work());
    assert_eq!(core.close(), Some(true));
    let mut again = core.restart(true);
    again.add_compacted(1);
    assert_eq!(again.end(1), 300);
}

#[test]
fn compaction_keeps_to_its_rate_and_counts_what_it_does() {
    for (rate, least) in [(None, 0), (Some(100_000), 6_000), (Some(0), 0)] {
        let mut core = Core::new();
        core.replicas.limit_compaction(rate, 8 << 10);
        core.add_compacted(1);
        for _ in 0..100 {
            core.produce(1, &keyed(&[1, 2, 3], 3_000));
            core.run();
        }
        let start = core.now.instant;
        core.wait(15_000);
        core.rest();
        let mut waited = 0;
        while rate != Some(0) && core.replicas.cleaning().runs == 0 {
            core.wait(10);
            core.rest();
            waited += 10;
            assert!(waited < 60_000, "it ends");
        }
        let cleaning = core.replicas.cleaning();
        if rate == Some(0) {
            assert_eq!(cleaning, Cleaning::default());
            continue;
        }
        let counts = cleaning.counts;
        let took = cleaning.last_run.as_millis();
        assert!(took >= least, "{took} ms");
        assert!(core.now.instant.since(start) >= cleaning.last_run);
        assert_eq!(counts.mapped_bytes, counts.read_bytes);
        // The log that is appended to is not looked at: a few batches.
        assert!(counts.read_records > 250 && counts.read_bytes > 800_000);
        assert!(counts.kept_records >= 3 && counts.kept_bytes < counts.read_bytes / 5);
        assert_eq!((cleaning.max_dirty_ppm, cleaning.uncleanable), (1_000_000, 0));
    }
}

#[test]
fn a_topic_that_is_deleted_while_it_is_compacted() {
    let mut core = Core::new();
    core.add_compacted(1);
    core.add_compacted(2);
    for topic in [1, 2] {
        for _ in 0..100 {
            core.produce(topic, &keyed(&[1, 2, 3], 3_000));
            core.run();
        }
    }
    core.disk.hold = Some(is_read);
    core.wait(15_000);
    core.rest();
    assert!(core.disk.held() > 0);
    core.remove(1);
    core.run();
    core.release();
    core.rest();
    assert!(!core.disk.dirs.iter().any(|dir| dir.starts_with("t1-0")));
    assert!(core.bytes(2) < 200_000, "the other one is next");
}

#[test]
fn a_compacted_topic_takes_no_records_without_a_key() {
    let mut core = Core::new();
    core.add_compacted(1);
    let bad = core.produce(1, &batch(2, 10));
    let good = core.produce(1, &keyed(&[1], 10));
    core.run();
    let Some(Work::Produce(work)) = core.result(bad) else { panic!("not finished") };
    let outcome = &work.items[0].outcome;
    assert_eq!((outcome.error, outcome.record_errors.len()), (E::InvalidRecord, 2));
    let message = "Compacted topic cannot accept message without key in topic partition t1-0.";
    assert_eq!(outcome.record_errors[0].message, message);
    assert_eq!(core.produced(good), Some((E::None, 0)));
}
