//! A journal of many partitions: when it is made and used, what is acknowledged by it,
//! and what a stop and a start make of it.

use super::*;
use crate::base::limits::{JOURNAL_WINDOW_MS, SYNCS_ALONE_MAX};
use crate::base::pages::BLOCK;
use crate::log::journal::scan;

const MANY: u8 = SYNCS_ALONE_MAX as u8 + 4;
const FILES: [&str; 2] = ["journal.0.0", "journal.0.1"];

impl Core {
    /// With so many partitions that hold a batch each, and a journal that is used.
    fn with_journal(bytes: u64) -> Self {
        let mut core = Self::new();
        core.replicas.allow_journal(bytes);
        (1..=MANY).for_each(|topic| core.add(topic));
        core.fill_all();
        assert!(core.disk.files.contains_key(Path::new(FILES[1])), "it is made");
        core
    }

    /// A batch to each, acknowledged.
    fn fill_all(&mut self) {
        let origins: Vec<Origin> =
            (1..=MANY).map(|topic| self.produce(topic, &batch(1, 10))).collect();
        self.run();
        for origin in origins {
            assert_eq!(self.produced(origin).map(|(error, _)| error), Some(E::None));
        }
    }

    fn logs(&self) -> Vec<Vec<u8>> {
        let logs = self.disk.files.iter().filter(|(path, _)| path.ends_with(SEGMENT));
        logs.map(|(_, bytes)| bytes.clone()).collect()
    }

    fn pieces(&self) -> usize {
        let files = FILES.map(|name| &self.disk.files[Path::new(name)][..]);
        scan(files).expect("whole").len()
    }
}

fn is_log_write(kind: &DiskOpKind) -> bool {
    matches!(kind, DiskOpKind::Write { .. })
}

#[test]
fn one_write_and_one_sync_serve_all() {
    let mut core = Core::with_journal(1 << 20);
    let (logs, before) = (core.logs(), core.pieces());
    core.disk.hold = Some(is_log_write);
    let origins: Vec<Origin> = (1..=MANY).map(|topic| core.produce(topic, &batch(1, 10))).collect();
    core.run();
    assert_eq!(core.disk.held(), 1, "one write");
    assert!(origins.iter().all(|origin| core.produced(*origin).is_none()));
    for done in core.disk.release() {
        core.replicas.on_disk(core.now, done, &mut core.ops);
    }
    core.disk.hold = Some(is_sync);
    core.run();
    assert_eq!(core.disk.held(), 1, "one sync");
    assert!(origins.iter().all(|origin| core.produced(*origin).is_none()));
    core.release();
    assert!(origins.iter().all(|origin| core.produced(*origin).is_some()));
    assert_eq!((core.logs(), core.pieces()), (logs, before + usize::from(MANY)));
}

#[test]
fn a_full_file_is_begun_again_when_its_logs_are_written() {
    let mut core = Core::with_journal(16 << 10);
    let len = batch(1, 10).len();
    for n in 0..60_usize {
        core.fill_all();
        let lens = core.logs();
        // A record is a block, a file four of them.
        let old = n.saturating_sub(10) * len;
        let short = lens.iter().filter(|log| log[old..].iter().all(|byte| *byte == 0));
        assert_eq!(short.count(), 0, "nothing rests for so long");
    }
    assert_eq!(core.close(), Some(true));
    assert!(!core.disk.files.keys().any(|path| path.starts_with(FILES[0])));
    assert!(core.logs().iter().all(|log| log.len() == 61 * len), "all of it, exactly");
}

#[test]
fn without_use_it_rests_and_is_used_again() {
    let mut core = Core::with_journal(1 << 20);
    core.fill_all();
    core.wait(JOURNAL_WINDOW_MS + 1);
    for _ in 0..3 {
        core.produce(1, &batch(1, 10));
        core.wait(JOURNAL_WINDOW_MS + 1);
    }
    let (used, len) = (core.pieces(), batch(1, 10).len());
    assert!(core.logs().iter().all(|log| log[len] != 0 || log[len + 11] != 0), "all is written");
    core.produce(1, &batch(1, 10));
    core.run();
    assert_eq!(core.pieces(), used, "one log needs no journal");
    core.fill_all();
    core.fill_all();
    assert!(core.pieces() > used, "many do");
}

#[test]
fn a_deleted_partition_is_not_waited_for() {
    let mut core = Core::with_journal(16 << 10);
    core.fill_all();
    core.remove(1);
    core.run();
    assert_eq!(core.close(), Some(true));
    assert!(!core.disk.files.contains_key(Path::new(FILES[0])));
}

#[test]
fn a_file_is_begun_by_a_write_of_its_own() {
    let mut core = Core::with_journal(1 << 20);
    core.disk.hold = Some(is_sync);
    let origins: Vec<Origin> = (1..=MANY).map(|topic| core.produce(topic, &batch(1, 10))).collect();
    core.run();
    let begun = core.disk.files[Path::new(FILES[0])].clone();
    assert!(begun[..BLOCK].iter().any(|byte| *byte != 0), "its first record is written");
    assert!(begun[BLOCK..].iter().all(|byte| *byte == 0), "and nothing else before its sync");
    assert!(origins.iter().all(|origin| core.produced(*origin).is_none()));
    core.release();
    assert!(origins.iter().all(|origin| core.produced(*origin).is_some()));
    assert_eq!(core.pieces(), usize::from(MANY));
}

#[test]
fn a_failed_write_of_the_journal_takes_everything_offline() {
    let is_any_sync =
        |kind: &DiskOpKind| matches!(kind, DiskOpKind::Sync { .. } | DiskOpKind::SyncAll);
    for fails in [is_log_write, is_any_sync] {
        let mut core = Core::with_journal(1 << 20);
        core.disk.fail = Some((fails, DiskError::Io(5)));
        let origins: Vec<Origin> =
            (1..=MANY).map(|topic| core.produce(topic, &batch(1, 10))).collect();
        core.run();
        for origin in origins {
            assert_eq!(core.produced(origin), Some((E::KafkaStorageError, -1)));
        }
        assert_eq!(core.replicas.directory_failure(), Some(DiskError::Io(5)));
        core.disk.fail = None;
        assert_eq!(core.close(), Some(false));
        assert!(core.disk.files.contains_key(Path::new(FILES[0])), "it is needed");
    }
}
