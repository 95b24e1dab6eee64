//! Sweeps: every log is asked, also those that nobody has opened.

use super::*;

const HOUR_MS: u64 = 3_600_000;

impl Core {
    fn keep(&mut self, topic: u8, retention: Retention) {
        let config = PartitionConfig { retention, ..config() };
        assert!(self.replicas.configure(self.now, id(topic), config, &mut self.ops));
    }

    /// Lets both clocks go on.
    fn pass(&mut self, ms: u64) {
        self.now.unix.0 += ms as i64;
        self.wait(ms);
    }

    fn starts(&mut self, topics: &[u8]) -> Vec<i64> {
        let starts = topics.iter().map(|topic| {
            let origin = self.list(*topic, -2);
            self.run();
            let Some(Work::ListOffsets(work)) = self.result(origin) else { panic!("not finished") };
            work.items[0].outcome.offset
        });
        starts.collect()
    }
}

#[test]
fn sweeps_delete_what_need_not_be_kept_and_open_what_nobody_asked_for() {
    let hour = Retention { ms: Some(HOUR_MS), bytes: None };
    let mut core = Core::new();
    for topic in 1..=9 {
        core.add(topic);
        core.produce(topic, &batch(2, 10));
    }
    core.pass(1);
    (1..9).for_each(|topic| core.keep(topic, hour));
    let parked = core.fetch(1 << 20, &[(1, 2)]);
    core.pass(HOUR_MS);
    assert_eq!(core.starts(&[1, 8, 9]), [0, 0, 0], "as old as that, not older");
    core.pass(1);
    core.pass(300_000);
    assert_eq!(core.starts(&[1, 8, 9]), [2, 2, 0]);
    assert!(core.fetched(parked).is_some());

    // After a restart nobody asks for any of them.
    assert_eq!(core.close(), Some(true));
    let mut again = core.restart(true);
    again.now = core.now;
    again.replicas.sweep_every(Duration::from_secs(60));
    for topic in 1..=9 {
        again.add(topic);
    }
    (1..=9).for_each(|topic| again.keep(topic, hour));
    again.pass(0);
    assert_eq!(again.replicas.census().open, 0);
    again.pass(30_000);
    assert_eq!(again.replicas.census().open, 9);
    again.pass(60_000);
    assert_eq!(again.starts(&[1, 9]), [2, 2]);
    let segments = again.disk.files.keys().filter(|path| path.ends_with(SEGMENT));
    assert_eq!(segments.count(), 0);
}

#[test]
fn many_partitions_are_asked_over_several_turns() {
    let mut core = Core::new();
    core.replicas.sweep_every(Duration::from_millis(10));
    let topics = 1..=200;
    for topic in topics.clone() {
        core.add(topic);
        core.produce(topic, &batch(1, 10));
    }
    core.pass(1);
    for topic in topics.clone() {
        core.keep(topic, Retention { ms: None, bytes: Some(0) });
    }
    core.now.instant = core.now.instant + Duration::from_millis(10);
    core.replicas.turn(core.now, &mut core.ops);
    assert!(core.replicas.has_work());
    while core.replicas.has_work() {
        core.run();
    }
    let topics: Vec<u8> = topics.collect();
    assert_eq!(core.starts(&topics), vec![1; topics.len()]);
}
