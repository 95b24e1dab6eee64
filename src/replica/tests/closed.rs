//! What a stop leaves of logs that are closed together, and what a start makes of it.

use super::*;
use crate::base::limits::{LOADING_MAX, SYNCS_ALONE_MAX};

const MANY: u8 = SYNCS_ALONE_MAX as u8 + 4;

fn reads_a_directory(kind: &DiskOpKind) -> bool {
    matches!(kind, DiskOpKind::ReadDir { .. })
}

/// The `sequence`th batch of an idempotent producer.
fn sent(sequence: i32) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None).producer(9, 0, sequence);
    builder.push(1, None, Some(b"value"), &[]);
    builder.finish()
}

impl Core {
    /// With so many partitions that took these batches each.
    fn with_logs(count: u8, batches: std::ops::Range<i32>) -> Self {
        let mut core = Self::new();
        (1..=count).for_each(|topic| core.add(topic));
        core.take(count, batches);
        core
    }

    /// Appends these batches to each partition; each gets its number as offset.
    fn take(&mut self, count: u8, batches: std::ops::Range<i32>) {
        for sequence in batches {
            let asked: Vec<Origin> =
                (1..=count).map(|topic| self.produce(topic, &sent(sequence))).collect();
            self.run();
            for origin in asked {
                assert_eq!(self.produced(origin), Some((E::None, sequence.into())));
            }
        }
    }

    fn stopped_and_started(mut self, count: u8, clean: bool) -> Self {
        if clean {
            assert_eq!(self.close(), Some(true));
            assert_eq!(self.disk.open_files(), 0);
        }
        let mut again = self.restart(clean);
        (1..=count).for_each(|topic| again.add(topic));
        again.replicas.all_added();
        again
    }

    fn side_files(&self) -> usize {
        let side = |path: &&PathBuf| {
            let extension = path.extension().and_then(|name| name.to_str());
            extension.is_some_and(|name| ["index", "timeindex", "snapshot"].contains(&name))
        };
        self.disk.files.keys().filter(side).count()
    }
}

#[test]
fn many_small_logs_are_closed_and_opened_without_a_file_of_their_own() {
    let core = Core::with_logs(MANY, 0..7);
    let bytes = |core: &Core| -> Vec<Vec<u8>> {
        let logs = core.disk.files.iter().filter(|(path, _)| path.ends_with(SEGMENT));
        logs.map(|(_, bytes)| bytes.clone()).collect()
    };
    let mut core = core.stopped_and_started(MANY, true);
    assert_eq!(core.side_files(), 0);
    let exact = sent(0).len() * 7;
    assert!(bytes(&core).iter().all(|log| log.len() == exact), "cut to their length");
    core.disk.fail = Some((reads_a_directory, DiskError::Io(5)));
    // Known duplicates are, and what follows follows.
    core.take(MANY, 3..9);
    // Nothing but reads: there is nothing to cut, and what was kept is kept again.
    let mut core = core.stopped_and_started(MANY, true);
    let closed = bytes(&core);
    core.disk.fail = Some((reads_a_directory, DiskError::Io(5)));
    assert_eq!((core.end(1), core.end(2)), (9, 9));
    let mut core = core.stopped_and_started(MANY, true);
    assert_eq!(bytes(&core), closed);
    core.take(MANY, 8..10);
}

#[test]
fn what_was_kept_means_nothing_after_an_unclean_stop() {
    let core = Core::with_logs(MANY, 0..3);
    let mut core = core.stopped_and_started(MANY, true);
    core.take(MANY, 3..5);
    let mut core = core.stopped_and_started(MANY, false);
    core.take(MANY, 3..7);
    let mut core = core.stopped_and_started(MANY, true);
    core.take(MANY, 6..8);
}

#[test]
fn logs_that_were_asked_for_before_their_turn_do_not_keep_others_from_theirs() {
    const COUNT: u8 = 2 * LOADING_MAX as u8 + 40;
    let core = Core::with_logs(COUNT, 0..1);
    let mut core = core.stopped_and_started(COUNT, false);
    core.take(COUNT - 20, 1..2);
    assert_eq!((core.replicas.recovering(), core.close()), (0, Some(true)));
}

#[test]
fn few_logs_have_all_their_files_again() {
    let core = Core::with_logs(MANY, 0..3);
    let core = core.stopped_and_started(MANY, true);
    // The others stay closed, and what was kept of them stays.
    let mut core = core.stopped_and_started(MANY, true);
    core.take(2, 2..6);
    let mut core = core.stopped_and_started(MANY, true);
    assert_eq!(core.side_files(), 6);
    core.disk.fail = Some((reads_a_directory, DiskError::Io(5)));
    assert_eq!(core.end(3), 3);
    core.disk.fail = None;
    core.take(2, 4..7);
    assert_eq!((core.end(1), core.end(3)), (7, 3));
}

#[test]
fn without_what_was_kept_logs_are_read_from_their_directories() {
    let damages: [fn(&mut Vec<u8>); 3] = [
        |file| file.clear(),
        |file| *file.last_mut().expect("not empty") ^= 1,
        |file| *file = b"corelane-closed-logs 1 7 ".to_vec(),
    ];
    for damage in damages {
        let mut core = Core::with_logs(MANY, 0..3);
        assert_eq!(core.close(), Some(true));
        damage(core.disk.files.get_mut(Path::new("closed-logs.0")).expect("it was written"));
        let mut core = core.restart(true);
        (1..=MANY).for_each(|topic| core.add(topic));
        core.take(MANY, 2..5);
    }
}

#[test]
fn what_an_older_stop_has_kept_is_not_taken_for_the_newest() {
    let mut core = Core::with_logs(MANY, 0..3);
    assert_eq!(core.close(), Some(true));
    let old = core.disk.files[Path::new("closed-logs.0")].clone();
    let mut core = core.restart(true);
    (1..=MANY).for_each(|topic| core.add(topic));
    // As if another core had written it, of a broker that had more of them.
    core.disk.files.insert("closed-logs.1".into(), old);
    core.run();
    let mut core = core.stopped_and_started(MANY, true);
    core.take(MANY, 3..6);
    let mut core = core.stopped_and_started(MANY, true);
    core.take(MANY, 5..7);
}

/// The newest file is damaged, and an older one tells of a log that has lost its only
/// segment since, with the same end.
#[test]
fn what_an_older_stop_has_kept_does_not_stand_in_for_what_is_damaged() {
    let mut core = Core::with_logs(MANY, 0..3);
    assert_eq!(core.close(), Some(true));
    let old = core.disk.files[Path::new("closed-logs.0")].clone();
    let mut core = core.restart(true);
    (1..=MANY).for_each(|topic| core.add(topic));
    core.submit(Work::DeleteRecords(DeleteRecordsWork {
        deadline: core.now.instant + Duration::from_secs(1),
        items: vec![DeleteRecordsItem {
            topic_partition: id(1),
            place: 0,
            offset: 3,
            outcome: DeleteRecordsOutcome::error(E::None),
        }],
    }));
    core.run();
    assert_eq!(core.close(), Some(true));
    core.disk.files.insert("closed-logs.1".into(), old);
    let newest = core.disk.files.get_mut(Path::new("closed-logs.0")).expect("it was written");
    *newest.last_mut().expect("not empty") ^= 1;
    let mut core = core.restart(true);
    (1..=MANY).for_each(|topic| core.add(topic));
    let earliest = core.list(1, -2);
    core.run();
    let Some(Work::ListOffsets(work)) = core.result(earliest) else { panic!("not finished") };
    let outcome = &work.items[0].outcome;
    assert_eq!((outcome.error, outcome.offset), (E::None, 3));
    core.take(MANY, 3..4);
}

#[test]
fn damaged_files_of_cores_that_are_no_more_cost_one_start() {
    let mut core = Core::with_logs(MANY, 0..3);
    core.replicas.set_cores(1);
    assert_eq!(core.close(), Some(true));
    for name in ["closed-logs.1", "recovery-points.1", "recovery-points.x"] {
        core.disk.files.insert(name.into(), b"damaged".to_vec());
    }
    let mut core = core.restart(true);
    core.replicas.set_cores(1);
    (1..=MANY).for_each(|topic| core.add(topic));
    core.replicas.all_added();
    core.take(MANY, 2..4);
    assert_eq!(core.close(), Some(true));
    let left: Vec<&str> = core.disk.files.keys().filter_map(|path| path.to_str()).collect();
    assert!(!left.contains(&"closed-logs.1") && !left.contains(&"recovery-points.1"), "{left:?}");
    assert!(left.contains(&"recovery-points.x"), "not a core's file: {left:?}");
    let mut core = core.stopped_and_started(MANY, true);
    core.disk.fail = Some((reads_a_directory, DiskError::Io(5)));
    core.take(MANY, 3..5);
}

#[test]
fn what_cannot_be_kept_makes_the_stop_unclean() {
    let mut core = Core::with_logs(MANY, 0..3);
    core.disk.fail = Some((
        |kind| matches!(kind, DiskOpKind::Replace { path, .. } if path.starts_with("closed-logs.0")),
        DiskError::NoSpace,
    ));
    assert_eq!(core.close(), Some(false));
    let mut core = core.stopped_and_started(MANY, false);
    core.take(MANY, 2..5);
}

#[test]
fn damage_behind_a_kept_record_is_seen() {
    let damages: [fn(&mut Vec<u8>); 3] = [
        |log| *log.last_mut().expect("not empty") ^= 1,
        |log| log.push(0),
        |log| log.truncate(log.len() - 1),
    ];
    for damage in damages {
        let mut core = Core::with_logs(MANY, 0..3);
        assert_eq!(core.close(), Some(true));
        let path = Path::new("t1-0").join(SEGMENT);
        damage(core.disk.files.get_mut(&path).expect("it has a segment"));
        let mut core = core.restart(true);
        (1..=MANY).for_each(|topic| core.add(topic));
        let hurt = core.produce(1, &sent(3));
        let whole = core.produce(2, &sent(3));
        core.run();
        assert_eq!(core.produced(hurt).map(|(error, _)| error), Some(E::KafkaStorageError));
        assert_eq!(core.produced(whole), Some((E::None, 3)));
    }
}
