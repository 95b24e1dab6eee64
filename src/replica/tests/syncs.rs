//! Who shares a sync, and what it vouches for.

use super::*;
use std::time::Duration;

use crate::base::limits::{
    SYNC_ALL_PAUSE_MS, SYNC_ALL_SLOW_EACH_MS, SYNC_ALL_SLOW_MS, SYNCS_ALONE_MAX,
};

const MANY: u8 = 20;

fn is_sync_of_all(kind: &DiskOpKind) -> bool {
    matches!(kind, DiskOpKind::SyncAll)
}

fn is_any_sync(kind: &DiskOpKind) -> bool {
    is_sync(kind) || is_sync_of_all(kind)
}

impl Core {
    /// With so many partitions that hold a batch each.
    fn with_partitions(count: u8) -> Self {
        let mut core = Self::new();
        (1..=count).for_each(|topic| core.add(topic));
        core.produce_to_all(1..=count);
        core.run();
        core.finished.clear();
        core
    }

    fn produce_to_all(&mut self, topics: std::ops::RangeInclusive<u8>) -> Vec<Origin> {
        topics.map(|topic| self.produce(topic, &batch(1, 10))).collect()
    }

    fn acknowledged(&mut self, origins: &[Origin]) -> usize {
        let results = origins.iter().filter_map(|origin| self.produced(*origin));
        results.filter(|(error, _)| *error == E::None).count()
    }
}

#[test]
fn new_partitions_share_the_sync_of_their_names() {
    let mut core = Core::new();
    (1..=MANY).for_each(|topic| core.add(topic));
    core.disk.hold = Some(is_sync_of_all);
    let origins = core.produce_to_all(1..=MANY);
    core.run();
    // The first asks for the first, and all others for the next one.
    assert_eq!((core.disk.held(), core.acknowledged(&origins)), (1, 0));
    let mut logs = core.disk.files.iter().filter(|(path, _)| path.ends_with(SEGMENT));
    assert!(logs.all(|(_, bytes)| bytes.is_empty()), "no write before the names are durable");
    core.release();
    assert_eq!(core.acknowledged(&origins), usize::from(MANY));
}

#[test]
fn a_new_partition_syncs_what_it_made_and_nothing_else() {
    let mut core = Core::new();
    core.add(1);
    core.disk.hold = Some(|kind| matches!(kind, DiskOpKind::SyncNew { .. } | DiskOpKind::SyncAll));
    let origins = core.produce_to_all(1..=1);
    core.run();
    assert_eq!((core.disk.held(), core.acknowledged(&origins)), (1, 0));
    let held = core.disk.release();
    assert!(
        core.disk.files.iter().all(|(path, bytes)| !path.ends_with(SEGMENT) || bytes.is_empty())
    );
    for done in held {
        core.replicas.on_disk(core.now, done, &mut core.ops);
    }
    core.disk.hold = Some(is_sync_of_all);
    core.run();
    assert_eq!((core.disk.held(), core.acknowledged(&origins)), (0, 1));
}

#[test]
fn after_a_slow_sync_of_all_everybody_is_synced_alone_for_a_while() {
    let mut core = Core::with_partitions(MANY);
    let pause = SYNC_ALL_PAUSE_MS;
    for (later, held) in [(0, 1), (1, usize::from(MANY)), (pause - 2, MANY.into()), (1, 1)] {
        core.now.instant = core.now.instant + Duration::from_millis(later);
        core.disk.hold = Some(is_any_sync);
        let origins = core.produce_to_all(1..=MANY);
        core.run();
        assert_eq!((core.disk.held(), core.acknowledged(&origins)), (held, 0), "{later} ms later");
        // It takes so long only the first time.
        if later == 0 {
            let slow = SYNC_ALL_SLOW_MS + SYNC_ALL_SLOW_EACH_MS * u64::from(MANY) + 1;
            core.now.instant = core.now.instant + Duration::from_millis(slow);
        }
        core.release();
        assert_eq!(core.acknowledged(&origins), usize::from(MANY));
    }
}

#[test]
fn a_few_are_synced_alone_and_many_together() {
    let most = SYNCS_ALONE_MAX as u8;
    for (count, kind) in [(most, is_sync as fn(&DiskOpKind) -> bool), (most + 1, is_sync_of_all)] {
        let mut core = Core::with_partitions(count);
        core.disk.hold = Some(is_any_sync);
        let origins = core.produce_to_all(1..=count);
        core.run();
        let alone = if count == most { SYNCS_ALONE_MAX } else { 1 };
        assert_eq!((core.disk.held(), core.acknowledged(&origins)), (alone, 0));
        core.disk.fail = Some((kind, DiskError::Io(5)));
        core.release();
        assert_eq!(core.acknowledged(&origins), 0);
        assert_eq!(core.replicas.directory_failure(), Some(DiskError::Io(5)), "{count}");
    }
}

#[test]
fn what_is_written_during_a_shared_sync_waits_for_the_next() {
    let mut core = Core::with_partitions(MANY);
    core.disk.hold = Some(is_any_sync);
    let first = core.produce_to_all(1..=18);
    core.run();
    let second = core.produce_to_all(5..=MANY);
    core.run();
    assert_eq!(core.disk.held(), 1, "one at a time");
    let shared = core.disk.release();
    core.disk.hold = Some(is_any_sync);
    for done in shared {
        core.replicas.on_disk(core.now, done, &mut core.ops);
    }
    core.run();
    assert_eq!((core.acknowledged(&first), core.acknowledged(&second)), (18, 0));
    core.release();
    assert_eq!(core.acknowledged(&second), usize::from(MANY) - 4);
}

#[test]
fn after_an_unclean_stop_everything_is_synced_before_a_log_is_opened() {
    let core = Core::with_partitions(1);
    let mut core = core.restart(false);
    core.disk.hold = Some(is_sync_of_all);
    core.add(1);
    let read = core.fetch(1 << 20, &[(1, 0)]);
    core.run();
    assert_eq!((core.disk.held(), core.disk.open_files(), core.fetched(read)), (1, 0, None));
    core.disk.fail = Some((is_sync_of_all, DiskError::Io(5)));
    core.release();
    assert_eq!(core.fetched(read), Some(vec![(E::KafkaStorageError, vec![])]));
    assert_eq!(core.replicas.directory_failure(), Some(DiskError::Io(5)));
}
