//! Files: every operation against a real directory, with direct I/O.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::base::pages::{BLOCK, PagePool};
use crate::base::rng::Rng;
use crate::base::rope::Rope;
use crate::effect::disk::{
    DirEntry, DiskError, DiskOp, DiskOpKind as Op, DiskOutput, DiskTag, FileId,
};
use crate::runtime::{Mailboxes, Reactor, ReactorConfig};
use crate::shard::event::{Event, Wake};

const FILE: FileId = FileId(3);

/// A core with a directory of its own.
struct Disk {
    reactor: Reactor,
    pool: PagePool,
    dir: TempDir,
}

impl Disk {
    fn new(unsafe_skip_sync: bool) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let mailboxes = Mailboxes::mesh(1).remove(0);
        let mut config = ReactorConfig::new(mailboxes, dir.path().to_path_buf());
        config.unsafe_skip_sync = unsafe_skip_sync;
        let reactor = Reactor::new(config).expect("this kernel has io_uring");
        Self { reactor, pool: PagePool::new(256 << 20), dir }
    }

    /// Asks for `ops` in one turn; their results in the same order.
    fn perform(&mut self, ops: Vec<Op>) -> Vec<Result<DiskOutput, DiskError>> {
        let mut results: Vec<_> = ops.iter().map(|_| None).collect();
        let mut left = ops.len();
        let mut ops: Vec<_> =
            (0..).zip(ops).map(|(n, kind)| DiskOp { tag: DiskTag(n), kind }).collect();
        self.reactor.turn(Wake::Now, |_, event, effects| {
            if matches!(event, Event::Turn) {
                effects.disk.append(&mut ops);
            }
        });
        while left > 0 {
            self.reactor.turn(Wake::OnEvent, |_, event, _| match event {
                Event::Disk(completion) => {
                    let earlier = results[completion.tag.0 as usize].replace(completion.result);
                    assert!(earlier.is_none(), "one completion for {:?}", completion.tag);
                    left -= 1;
                }
                Event::Turn => {}
                other => panic!("{other:?}"),
            });
        }
        results.into_iter().map(|result| result.expect("all have completed")).collect()
    }

    fn one(&mut self, op: Op) -> Result<DiskOutput, DiskError> {
        self.perform(vec![op]).remove(0)
    }

    fn done(&mut self, op: Op) {
        let output = self.one(op);
        assert!(matches!(output, Ok(DiskOutput::Done)), "{output:?}");
    }

    fn open(&mut self, path: &str, create: bool) -> Result<u64, DiskError> {
        match self.one(Op::Open { file: FILE, path: path.into(), create })? {
            DiskOutput::Opened { len } => Ok(len),
            other => panic!("{other:?}"),
        }
    }

    /// A rope of `parts` blocks, the n-th full of bytes `first + n`.
    fn blocks(&mut self, parts: usize, first: u8) -> Rope {
        let mut rope = Rope::default();
        for n in 0..parts {
            let mut page = self.pool.allocate(BLOCK).expect("within budget");
            page.put(&[first.wrapping_add(n as u8); BLOCK]);
            rope.push(page.slice(0..BLOCK));
        }
        rope
    }

    fn read(&mut self, position: u64, len: usize) -> Vec<u8> {
        let into = self.pool.allocate(len).expect("within budget");
        match self.one(Op::Read { file: FILE, position, len, into }) {
            Ok(DiskOutput::Read { page }) => page.filled().to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn list(&mut self, path: &str) -> Vec<(String, bool, u64)> {
        match self.one(Op::ListDir { path: path.into() }) {
            Ok(DiskOutput::Entries(entries)) => {
                let row = |DirEntry { name, is_dir, len }| (name, is_dir, len);
                entries.into_iter().map(row).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_written_is_read_again() {
    let mut disk = Disk::new(false);
    assert_eq!(disk.open("log", false), Err(DiskError::NotFound));
    assert_eq!(disk.open("log", true), Ok(0));
    disk.done(Op::Allocate { file: FILE, position: 0, len: 1 << 20 });
    // Two writes at once, in several parts and in one.
    let (head, tail) = (disk.blocks(3, 10), disk.blocks(1, 20));
    let position = 3 * BLOCK as u64;
    let written = disk.perform(vec![
        Op::Write { file: FILE, position: 0, bytes: head },
        Op::Write { file: FILE, position, bytes: tail },
    ]);
    for (result, len) in written.into_iter().zip([3 * BLOCK, BLOCK]) {
        assert!(matches!(result, Ok(DiskOutput::Written { bytes }) if bytes.len() == len));
    }
    disk.done(Op::Sync { file: FILE });
    let expected = [[10; BLOCK], [11; BLOCK], [12; BLOCK], [20; BLOCK], [0; BLOCK]].concat();
    assert!(disk.read(0, 5 * BLOCK) == expected);
    // The space ahead counts as length; what lies behind it does not.
    assert_eq!(disk.read((1 << 20) - BLOCK as u64, 4 * BLOCK), [0; BLOCK]);
    assert!(disk.read(1 << 20, BLOCK).is_empty());
    // Cut inside a block.
    disk.done(Op::Truncate { file: FILE, len: 5000 });
    assert!(disk.read(0, 4 * BLOCK) == expected[..5000]);
    disk.done(Op::Close { file: FILE });
    assert_eq!(disk.open("log", true), Ok(5000));
    disk.done(Op::Close { file: FILE });
    let counters = disk.reactor.counters().files;
    assert_eq!((counters.writes, counters.written_bytes), (2, 4 * BLOCK as u64));
    assert_eq!((counters.reads, counters.syncs), (4, 1));
    assert_eq!(disk.pool.in_use(), 0);
}

#[test]
fn ropes_longer_than_one_kernel_operation() {
    let mut disk = Disk::new(false);
    disk.open("log", true).expect("created");
    let bytes = disk.blocks(2500, 0);
    let expected = bytes.to_vec();
    let result = disk.one(Op::Write { file: FILE, position: 4096, bytes });
    assert!(matches!(result, Ok(DiskOutput::Written { bytes }) if bytes.len() == expected.len()));
    assert!(disk.read(4096, expected.len() + BLOCK) == expected);
}

#[test]
fn more_operations_in_one_turn_than_the_ring_has_places() {
    let mut disk = Disk::new(false);
    disk.open("log", true).expect("created");
    let mut rng = Rng::new(1);
    let mut expected = Vec::new();
    let mut writes = Vec::new();
    for n in 0..700 {
        let bytes = disk.blocks(rng.between(1, 9) as usize, n as u8);
        let position = expected.len() as u64;
        expected.extend(bytes.to_vec());
        writes.push(Op::Write { file: FILE, position, bytes });
    }
    for (n, result) in disk.perform(writes).into_iter().enumerate() {
        assert!(matches!(result, Ok(DiskOutput::Written { .. })), "write {n}");
    }
    assert!(disk.read(0, expected.len()) == expected);
}

#[test]
fn names_and_small_files() {
    let mut disk = Disk::new(false);
    assert_eq!(disk.list(""), []);
    assert!(matches!(disk.one(Op::ListDir { path: "t-0".into() }), Err(DiskError::NotFound)));
    for _ in 0..2 {
        disk.done(Op::CreateDir { path: "t-0".into() });
    }
    let checkpoint = PathBuf::from("t-0/checkpoint");
    assert!(matches!(
        disk.one(Op::ReadFile { path: checkpoint.clone() }),
        Err(DiskError::NotFound)
    ));
    let long = "long ".repeat(700_001);
    for content in ["first", &long, "a second, longer one"] {
        let bytes = content.as_bytes().to_vec();
        disk.done(Op::Replace { path: checkpoint.clone(), bytes });
        let read = disk.one(Op::ReadFile { path: checkpoint.clone() });
        assert!(matches!(read, Ok(DiskOutput::Content(bytes)) if bytes == content.as_bytes()));
    }
    disk.open("t-0/0.log", true).expect("created");
    disk.done(Op::SyncDir { path: "t-0".into() });
    let files = [("0.log".to_owned(), false, 0), ("checkpoint".to_owned(), false, 20)];
    assert_eq!(disk.list("t-0"), files);
    disk.done(Op::Rename { from: "t-0".into(), to: "t-0-delete".into() });
    assert_eq!(disk.list(""), [("t-0-delete".to_owned(), true, 0)]);
    // An open file outlives its name.
    for _ in 0..2 {
        disk.done(Op::Remove { path: "t-0-delete".into() });
    }
    let bytes = disk.blocks(2, 7);
    assert!(disk.one(Op::Write { file: FILE, position: 0, bytes }).is_ok());
    disk.done(Op::Close { file: FILE });
    assert_eq!(disk.list(""), []);
    let failed = disk.one(Op::Replace { path: "no/such/file".into(), bytes: vec![1] });
    assert!(matches!(failed, Err(DiskError::NotFound)));
}

#[test]
fn a_handle_can_be_given_again_at_once() {
    let mut disk = Disk::new(false);
    disk.open("a", true).expect("created");
    let results = disk.perform(vec![
        Op::Close { file: FILE },
        Op::Open { file: FILE, path: "b".into(), create: true },
    ]);
    assert!(results.iter().all(Result::is_ok));
    let bytes = disk.blocks(1, 1);
    assert!(disk.one(Op::Write { file: FILE, position: 0, bytes }).is_ok());
    let file = |name: &str, len| (name.to_owned(), false, len);
    assert_eq!(disk.list(""), [file("a", 0), file("b", 4096)]);
}

#[test]
fn errors_of_the_disk_are_values() {
    let mut disk = Disk::new(false);
    std::fs::create_dir(disk.dir.path().join("dir")).expect("an empty place");
    assert_eq!(disk.open("dir", false), Err(DiskError::Io(libc::EISDIR)));
    disk.open("log", true).expect("created");
    // Beyond what any file can hold.
    let bytes = disk.blocks(1, 1);
    let position = (i64::MAX as u64 - 10_000).next_multiple_of(BLOCK as u64) - BLOCK as u64;
    let failed = disk.one(Op::Write { file: FILE, position, bytes });
    assert!(matches!(failed, Err(DiskError::Io(libc::EFBIG))), "{failed:?}");
    assert!(disk.one(Op::Truncate { file: FILE, len: u64::MAX >> 1 }).is_err());
}

#[test]
fn the_power_pull_test_can_skip_syncs() {
    let mut disk = Disk::new(true);
    disk.open("log", true).expect("created");
    disk.done(Op::Sync { file: FILE });
    // Were it carried out, this would fail.
    disk.done(Op::SyncDir { path: "missing".into() });
    assert_eq!(disk.reactor.counters().files.syncs, 0);
}

#[test]
#[should_panic(expected = "leads out of the log directory")]
fn paths_stay_inside() {
    let _ = Disk::new(false).one(Op::Remove { path: "a/../../b".into() });
}

#[test]
#[should_panic(expected = "leads out of the log directory")]
fn paths_are_relative() {
    let _ = Disk::new(false).one(Op::ReadFile { path: "/etc/hostname".into() });
}

#[test]
#[should_panic(expected = "stays as it is")]
fn the_log_directory_is_not_removed() {
    let _ = Disk::new(false).one(Op::Remove { path: PathBuf::new() });
}

#[test]
#[should_panic(expected = "nothing of a closed file is in flight")]
fn closing_waits_for_what_is_in_flight() {
    let mut disk = Disk::new(false);
    disk.open("log", true).expect("created");
    disk.perform(vec![Op::Sync { file: FILE }, Op::Close { file: FILE }]);
}
