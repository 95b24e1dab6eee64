//! Reading: from the resident tail, or from disk through a few cold pages.
//!
//! A read that misses memory asks the disk and says [`Read::Wait`]; the caller
//! tries again after the log's next completion, and finds the page. Cold pages
//! are few, per log; the caller decides what makes room for them
//! ([`Read::NoPages`]). What comes from the disk is served only after its
//! checksum was seen to be right, and in whole batches.

use std::collections::VecDeque;

use super::io::{LogIo, LogOp};
use super::segment::SegmentFile;
use super::{Chore, Log, Mark, Offline, Then};
use crate::base::limits::COLD_READ_BYTES;
use crate::base::pages::{PageSlice, align_down, align_up};
use crate::base::rope::Rope;
use crate::effect::disk::{DiskError, DiskOpKind, DiskOutput};
use crate::model::batch::{BatchHeader, HEADER_LEN, MAGIC, batch_crc};

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The rope has what there is: nothing, if the offset is the end.
    Done,
    /// The disk was asked: try again after the log's next completion.
    Wait,
    /// There is no page for so many bytes: try again when there is.
    NoPages(usize),
    /// The offset is before the log's start or behind its end.
    OutOfRange,
    /// The log cannot be read, or what was read is damaged.
    Unavailable,
}

/// Cold reads in flight per log.
const COLD_READS: usize = 8;

/// Cold pages kept per log.
const COLD_PAGES: usize = 8;

/// Pages read from disk.
#[derive(Debug, Default)]
pub(super) struct ColdReads {
    in_flight: [Option<ColdRead>; COLD_READS],
    pages: VecDeque<ColdPage>,
}

#[derive(Clone, Copy, Debug)]
struct ColdRead {
    segment: i64,
    position: u64,
    len: usize,
    /// Bytes from `position` that were written when it was asked for: what lies
    /// behind will be something else later, so it is not kept.
    written: usize,
}

#[derive(Debug)]
struct ColdPage {
    segment: i64,
    position: u64,
    bytes: PageSlice,
}

impl ColdReads {
    pub fn is_quiet(&self) -> bool {
        self.in_flight.iter().all(Option::is_none)
    }

    /// Whether a read of `segment` is in flight.
    pub fn reads(&self, segment: i64) -> bool {
        self.in_flight.iter().flatten().any(|read| read.segment == segment)
    }

    /// Lets go of what is known of `segment`.
    pub fn forget(&mut self, segment: i64) {
        self.pages.retain(|page| page.segment != segment);
    }

    /// Lets go of all pages but the `keep` newest; returns how many bytes.
    pub fn evict(&mut self, keep: usize) -> usize {
        let old = self.pages.len().saturating_sub(keep);
        self.pages.drain(..old).map(|page| page.bytes.len()).sum()
    }

    /// What is known of `segment` from `position` on.
    fn bytes_at(&self, segment: i64, position: u64) -> Option<PageSlice> {
        let holds = |page: &&ColdPage| {
            page.segment == segment
                && page.position <= position
                && position < page.position + page.bytes.len() as u64
        };
        let page = self.pages.iter().rev().find(holds)?;
        Some(page.bytes.slice((position - page.position) as usize..page.bytes.len()))
    }
}

/// Where an offset was found.
enum Located {
    At {
        segment: i64,
        position: u64,
        header: BatchHeader,
    },
    /// Not now, or not at all.
    Not(Read),
}

impl Log {
    /// Adds to `rope` whole bytes of log from the batch that holds `offset` on, up
    /// to `max_bytes` or `end`, within one segment. The last batch may be cut
    /// short, as Kafka does; with `whole_first`, the first one never is, even
    /// if it is larger than `max_bytes` (KIP-74).
    pub fn read(
        &mut self,
        offset: i64,
        max_bytes: usize,
        whole_first: bool,
        end: Mark,
        rope: &mut Rope,
        io: &mut LogIo<'_>,
    ) -> Read {
        if !self.is_ready() {
            return Read::Unavailable;
        }
        if offset < self.log_start_offset || offset > self.end.offset {
            return Read::OutOfRange;
        }
        if offset >= end.offset || (max_bytes == 0 && !whole_first) {
            return Read::Done;
        }
        let (segment, position, header) = match self.locate(offset, io) {
            Located::At { segment, position, header } => (segment, position, header),
            Located::Not(read) => return read,
        };
        let first = header.total_len().unwrap_or(HEADER_LEN);
        let readable = self.readable_end(segment, end).saturating_sub(position);
        if first as u64 > readable {
            return self.damaged(segment, position, io);
        }
        let wanted = if whole_first { max_bytes.max(first) } else { max_bytes };
        let wanted = (wanted as u64).min(readable) as usize;
        if self.tail.read(segment, position..position + wanted as u64, rope) {
            return Read::Done;
        }
        let Some(mut bytes) = self.cold.bytes_at(segment, position) else {
            return self.ask(segment, position, wanted, io);
        };
        if first > wanted {
            return Read::Done;
        }
        if bytes.len() < first {
            return self.ask(segment, position, wanted, io);
        }
        // What comes from the disk is served batch by batch, as it checks out.
        let follows = |header: &BatchHeader, expected| self.follows(segment, header, expected);
        let good = checked_len(&bytes[..wanted.min(bytes.len())], header.base_offset, follows);
        if good == 0 {
            return self.damaged(segment, position, io);
        }
        bytes.narrow(0..good);
        rope.push(bytes);
        Read::Done
    }

    /// There is no batch at `position`, where one was expected. If an index led
    /// there, it is to blame at first, and the segment is searched without;
    /// otherwise the log is damaged.
    fn damaged(&mut self, base: i64, position: u64, io: &mut LogIo<'_>) -> Read {
        let path = self.path(base, "index");
        let segment = self.segment_mut(base).expect("it was located");
        if segment.index.lookup(u32::MAX) == 0 || segment.index_doubted {
            let what = format!("no whole batch at position {position} of segment {base}");
            self.fail(Offline::Corrupt(what));
            return Read::Unavailable;
        }
        segment.index_doubted = true;
        segment.index.truncate(0);
        let sealed = segment.sealed;
        tracing::warn!(
            "log {}: the index of segment {base} is damaged or its batches are; it is built again",
            self.dir.display()
        );
        self.cold.forget(base);
        if sealed {
            // The next start finds none and writes a new one.
            let then = Then::Next("removing a damaged index");
            self.chores.push_back(Chore { kind: DiskOpKind::Remove { path }, then });
            self.next_chore(io);
        }
        self.ask(base, 0, HEADER_LEN, io)
    }

    /// End of what may be read of `segment`.
    fn readable_end(&self, segment: i64, end: Mark) -> u64 {
        if end.segment == segment {
            end.position
        } else {
            self.segment(segment).map_or(0, |segment| segment.size)
        }
    }

    /// Finds the batch that holds `offset`, which the log has.
    fn locate(&mut self, offset: i64, io: &mut LogIo<'_>) -> Located {
        let at = self.segments.partition_point(|segment| segment.base_offset <= offset);
        let segment = &self.segments[at - 1];
        let (base, size) = (segment.base_offset, segment.size);
        let mut position = segment.lookup(offset);
        // The offset that the next batch has to begin with, if it is known, and the
        // last one of the batch that the index led to.
        let mut expected = (position == 0).then_some(base);
        let mut last = segment.index.offset_at(position).map(|last| base + i64::from(last));
        let interval = self.config.index_interval_bytes;
        while position < size {
            let header = self.tail.header(base, position).or_else(|| {
                let bytes = self.cold.bytes_at(base, position)?;
                BatchHeader::decode(&bytes)
            });
            let Some(header) = header else {
                return Located::Not(self.ask(base, position, HEADER_LEN, io));
            };
            // The walk must not be led astray by a damaged header. Only what was
            // compacted has no batch for every offset.
            let sane = self.lies_in(base, &header)
                && (header.base_offset <= offset || header.next_offset() <= self.cleaner.gaps)
                && self.follows(base, &header, expected.unwrap_or(header.base_offset))
                && last.take().is_none_or(|last| last == header.next_offset() - 1);
            let Some(len) = header.total_len().filter(|_| sane) else {
                return Located::Not(self.damaged(base, position, io));
            };
            let segment = self.segment_mut(base).expect("it holds the offset");
            if segment.index_doubted {
                segment.index_batch(&header, position, interval);
            }
            if header.next_offset() > offset {
                return Located::At { segment: base, position, header };
            }
            position += len as u64;
            expected = Some(header.next_offset());
        }
        Located::Not(self.damaged(base, position, io))
    }

    /// Whether this can be the header of a batch of segment `base`.
    pub(super) fn lies_in(&self, base: i64, header: &BatchHeader) -> bool {
        header.magic == MAGIC
            && header.last_offset_delta >= 0
            && header.base_offset >= base
            && header.next_offset() <= self.segment_behind(base)
    }

    /// Whether a batch of segment `base` is where one that begins with `expected` has
    /// to be. No checksum covers its offset. In what was compacted, others may have
    /// gone that were between.
    fn follows(&self, base: i64, header: &BatchHeader, expected: i64) -> bool {
        header.base_offset == expected
            || (header.base_offset > expected
                && header.next_offset() <= self.cleaner.gaps.min(self.segment_behind(base)))
    }

    /// What was read from disk of `segment` from `position` on.
    pub(super) fn cold_bytes(&self, segment: i64, position: u64) -> Option<PageSlice> {
        self.cold.bytes_at(segment, position)
    }

    /// Asks the disk for at least `len` bytes at `position`.
    pub(super) fn ask(
        &mut self,
        segment: i64,
        position: u64,
        len: usize,
        io: &mut LogIo<'_>,
    ) -> Read {
        self.touch();
        if self.cleaner.replaces(segment) {
            return Read::Wait;
        }
        let known = self.segment(segment).expect("the caller located it");
        let file = match known.file {
            SegmentFile::Open(file) => file,
            SegmentFile::Opening(_) => return Read::Wait,
            SegmentFile::Closed => {
                self.open_segment(segment, io);
                self.next_chore(io);
                return Read::Wait;
            }
            SegmentFile::Absent => return Read::Unavailable,
        };
        let written = self.flush.written;
        let known_end = if written.segment == segment { written.position } else { known.size };
        let start = align_down(position);
        let end = align_up(position + len as u64).max(start + COLD_READ_BYTES as u64);
        let len = (end.min(align_up(known_end)) - start) as usize;
        let written = (known_end - start).min(len as u64) as usize;
        let covers =
            |read: &ColdRead| read.segment == segment && read.position == start && read.len >= len;
        if self.cold.in_flight.iter().flatten().any(covers) {
            return Read::Wait;
        }
        // Without a place the read waits for what is in flight.
        let Some(place) = self.cold.in_flight.iter().position(Option::is_none) else {
            return Read::Wait;
        };
        let page = if io.may_read { io.pages.allocate(len) } else { None };
        let Some(into) = page else { return Read::NoPages(len) };
        self.cold.in_flight[place] = Some(ColdRead { segment, position: start, len, written });
        let kind = DiskOpKind::Read { file, position: start, len, into };
        io.push(self.slot, LogOp::Cold(place as u8), kind);
        Read::Wait
    }

    pub(super) fn on_cold_read(&mut self, place: u8, result: Result<DiskOutput, DiskError>) {
        let read = self.cold.in_flight[usize::from(place)].take().expect("a read ends once");
        match result {
            // Nothing is read of it any more.
            Ok(_) if self.offline().is_some() => {}
            Ok(DiskOutput::Read { page }) if page.len() >= read.written => {
                if self.cold.pages.len() == COLD_PAGES {
                    self.cold.pages.pop_front();
                }
                self.cold.pages.push_back(ColdPage {
                    segment: read.segment,
                    position: read.position,
                    bytes: page.slice(0..read.written),
                });
            }
            Ok(_) => self.fail(Offline::Corrupt(format!(
                "segment {} ends before position {}",
                read.segment, read.position
            ))),
            Err(error) => self.fail(Offline::Disk { what: "reading a segment", error }),
        }
    }
}

/// Length of the whole batches that `bytes` begin with, whose checksums are right,
/// and each of which follows the one before; the first begins with `expected`.
fn checked_len(
    bytes: &[u8],
    mut expected: i64,
    follows: impl Fn(&BatchHeader, i64) -> bool,
) -> usize {
    let mut good = 0;
    while let Some(header) = BatchHeader::decode(&bytes[good..])
        && let Some(batch) = header.total_len().and_then(|len| bytes[good..].get(..len))
        && header.magic == MAGIC
        && batch_crc(batch) == header.crc
        && follows(&header, expected)
    {
        expected = header.next_offset();
        good += batch.len();
    }
    good
}
