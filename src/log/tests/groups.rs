//! What a log does with small groups while there is a journal: what is acknowledged,
//! what reaches the segment, and what a crash leaves to be replayed.

use super::*;
use crate::base::pages::BLOCK;
use crate::log::journal::{Record, beginning, scan};

impl Bench {
    /// Appends a batch and offers it; returns a journal that has it.
    fn group(&mut self, value: usize) -> Option<Vec<u8>> {
        let batch = batch(value);
        let header = BatchHeader::decode(&batch).expect("a whole batch");
        let epoch = LeaderEpoch(0);
        self.io(|log, io| log.append(UnixMillis(0), &header, &batch, epoch, io)).expect("it fits");
        self.offer()
    }

    fn offer(&mut self) -> Option<Vec<u8>> {
        let mut record = Record::default();
        record.clear();
        loop {
            let mut offered = vec![];
            self.with_journal(&mut offered, |log, io| log.flush(io));
            self.settle_with_journal(&mut offered);
            if offered.is_empty() {
                return None;
            }
            if self.log.journal_group(&mut record) {
                let mut file = beginning(1, 0).to_vec();
                file.resize(BLOCK, 0);
                file.extend_from_slice(record.finish(1, 1));
                return Some(file);
            }
            self.with_journal(&mut vec![], |log, io| log.write_straight(io));
        }
    }

    fn with_journal(
        &mut self,
        offered: &mut Vec<LogSlot>,
        call: impl FnOnce(&mut Log, &mut LogIo<'_>),
    ) {
        let mut syncs = vec![];
        let mut io = LogIo {
            disk: &mut self.ops,
            syncs: &mut syncs,
            pages: &mut self.pages,
            files: &mut self.files,
            room: self.room,
            may_read: true,
            groups: Some(offered),
        };
        call(&mut self.log, &mut io);
        self.ops.extend(syncs.into_iter().map(WantedSync::alone));
    }

    fn settle_with_journal(&mut self, offered: &mut Vec<LogSlot>) {
        while !self.ops.is_empty() {
            for op in std::mem::take(&mut self.ops) {
                let (_, what) = untag(op.tag);
                let result = self.disk.perform(op.kind);
                self.with_journal(offered, |log, io| log.on_disk(what, result, io));
            }
        }
    }

    /// The journal's write is synced.
    fn journaled(&mut self) {
        self.with_journal(&mut vec![], |log, io| {
            log.on_disk(super::super::io::LogOp::Journal, Ok(DiskOutput::Done), io);
        });
        self.settle_straight();
    }

    /// Performs what there is, without a journal for what is offered.
    fn settle_straight(&mut self) {
        loop {
            let mut offered = vec![];
            self.settle_with_journal(&mut offered);
            if offered.is_empty() {
                return;
            }
            self.with_journal(&mut vec![], |log, io| log.write_straight(io));
        }
    }

    /// Bytes of batches that the segment at 0 holds, as recovery would find them.
    fn on_disk(&mut self) -> usize {
        let content = self.disk.segment(0);
        let mut end = 0;
        while let Some(header) = BatchHeader::decode(&content[end..])
            && header.magic == 2
            && let Some(len) = header.total_len()
        {
            end += len;
        }
        end
    }
}

/// What a start does with a journal.
fn replay(disk: &mut Disk, records: &[Vec<u8>]) {
    for record in records {
        for piece in scan([record, &[]]).expect("whole") {
            let segment = disk.segment(piece.segment);
            let (at, len) = (piece.position as usize, piece.bytes.len());
            segment.resize(segment.len().max(at + len), 0);
            segment[at..at + len].copy_from_slice(piece.bytes);
        }
    }
}

#[test]
fn a_group_is_acknowledged_by_the_journal_and_written_later() {
    let mut bench = Bench::new();
    bench.fill(1);
    let len = batch(8_000).len();
    let mut records = vec![];
    for n in 1..5 {
        records.push(bench.group(8_000).expect("it goes to the journal"));
        assert_eq!(bench.log.committed().offset, n, "not before it is synced there");
        bench.journaled();
        assert_eq!(bench.log.committed().offset, n + 1);
        assert_eq!((bench.on_disk(), bench.count()), (len, n as usize + 1));
    }
    // The process dies: what the segment lacks comes back, and nothing else.
    let mut disk = Disk { files: bench.disk.files.clone(), ..Disk::default() };
    replay(&mut disk, &records);
    let mut again = Bench::open(disk, 0, false);
    assert_eq!((again.log.log_end_offset(), again.count()), (5, 5));
    // In time it is written in one piece.
    let mut end = 0;
    bench.with_journal(&mut vec![], |log, io| end = log.write_out(io));
    bench.settle_straight();
    assert_eq!((end, bench.log.durable_end(), bench.on_disk()), (5, 5, 5 * len));
}

#[test]
fn large_groups_go_straight_and_take_what_rested_with_them() {
    let mut bench = Bench::new();
    bench.fill(1);
    let small = bench.group(1_000).expect("it goes to the journal");
    bench.journaled();
    assert_eq!(bench.group(100_000), None, "it went straight");
    assert_eq!((bench.log.committed().offset, bench.log.durable_end()), (3, 3));
    let after = bench.group(1_000).expect("it goes to the journal");
    bench.journaled();
    assert_eq!((bench.log.committed().offset, bench.log.durable_end()), (4, 3));
    let mut disk = bench.crash();
    replay(&mut disk, &[small, after]);
    assert_eq!(Bench::open(disk, 0, false).log.log_end_offset(), 4);
}

#[test]
fn a_log_that_has_rested_enough_is_written() {
    let mut bench = Bench::new();
    bench.fill(1);
    let mut straight = 0;
    for _ in 0..40 {
        match bench.group(20_000) {
            Some(_) => bench.journaled(),
            None => straight += 1,
        }
        assert_eq!(bench.log.committed().offset, bench.log.log_end_offset());
    }
    assert!((2..=6).contains(&straight), "{straight} groups went straight");
}

#[test]
fn a_roll_and_a_close_leave_nothing_in_the_journal() {
    let mut bench = Bench::new();
    bench.fill(1);
    // Rolls at 1 MiB, whatever rests there then, and what is in flight.
    for n in 0..300 {
        if bench.group(8_000).is_some() {
            if n % 7 == 0 {
                bench.append(&batch(8_000)).expect("it fits");
                bench.append(&batch(8_000)).expect("it fits");
            }
            bench.journaled();
        }
        bench.settle_straight();
    }
    assert!(bench.disk.segments().count() > 2);
    let end = bench.log.log_end_offset();
    bench.offer();
    bench.journaled_if_busy();
    assert_eq!((bench.log.committed().offset, bench.count() as i64), (end, end));
    bench.io(|log, io| log.close(io));
    bench.settle();
    assert!(bench.log.is_closed() && bench.log.recovery_point() == end);
    assert_eq!(bench.disk.log_bytes(), end as usize * batch(8_000).len());
}

impl Bench {
    fn journaled_if_busy(&mut self) {
        if !self.log.is_quiet() {
            self.journaled();
        }
    }
}

#[test]
fn a_full_disk_takes_back_nothing_that_the_journal_has() {
    let mut bench = Bench::new();
    bench.fill(1);
    bench.group(1_000).expect("it goes to the journal");
    bench.journaled();
    let record = bench.group(1_000).expect("it goes to the journal");
    bench.disk.fail =
        Some(|kind| matches!(kind, DiskOpKind::Allocate { .. }).then_some(DiskError::NoSpace));
    // More than is preallocated: it cannot be written, and is forgotten.
    let before = bench.log.log_end_offset();
    for _ in 0..2 {
        let large = batch(700_000);
        let header = BatchHeader::decode(&large).expect("a whole batch");
        let epoch = LeaderEpoch(0);
        bench.io(|log, io| log.append(UnixMillis(0), &header, &large, epoch, io)).ok();
    }
    assert_eq!(bench.offer(), None);
    bench.journaled_if_busy();
    bench.settle_straight();
    assert!(bench.log.log_end_offset() >= before && bench.log.offline().is_none());
    assert_eq!(bench.log.committed().offset, bench.log.log_end_offset());
    bench.disk.fail = None;
    bench.log.retry_space();
    let end = bench.log.log_end_offset();
    bench.group(500).expect("it goes to the journal");
    bench.journaled();
    assert_eq!(bench.log.committed().offset, end + 1);
    // What is written behind the end of the log does not parse as a batch of it.
    bench.with_journal(&mut vec![], |log, io| {
        log.write_out(io);
    });
    bench.settle_straight();
    let mut disk = bench.crash();
    replay(&mut disk, &[record]);
    assert_eq!(Bench::open(disk, 0, false).log.log_end_offset(), end + 1);
}

#[test]
fn a_failed_journal_takes_the_log_offline() {
    let mut bench = Bench::new();
    bench.fill(1);
    bench.group(1_000).expect("it goes to the journal");
    bench.with_journal(&mut vec![], |log, io| {
        log.on_disk(super::super::io::LogOp::Journal, Err(DiskError::Io(5)), io);
    });
    assert_eq!(bench.log.offline(), Some(&Offline::Directory(DiskError::Io(5))));
    assert_eq!(bench.log.committed().offset, 1);
}
