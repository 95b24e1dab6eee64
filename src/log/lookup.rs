//! Looking offsets up by timestamp (`UnifiedLog.fetchOffsetByTimestamp`,
//! `LogSegment.findOffsetByTimestamp`), and ends of leader epochs.
//!
//! The indexes lead to the batches that come into question; their headers are
//! walked over, and the batch that has the record is opened to find it. A
//! [`TimeSearch`] remembers how far it came: it is given back after each slice
//! of work, and whenever it has to wait for the disk or for memory.
//!
//! Nothing that is not committed is found.

use crc_fast::{CrcAlgorithm, Digest};

use super::Log;
use super::io::LogIo;
use super::read::Read;
use crate::base::limits::{SEARCH_SLICE_BATCHES, UNFOLD_SLICE_BYTES};
use crate::base::rope::Rope;
use crate::model::batch::{BatchHeader, CRC_START, HEADER_LEN};
use crate::model::ids::LeaderEpoch;
use crate::model::record_times::{Next, RecordTimes};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeTarget {
    /// The first record that is not before this, milliseconds since the epoch.
    From(i64),
    /// The first of the latest records.
    Latest,
}

/// A search by timestamp, and how far it came.
#[derive(Debug)]
pub struct TimeSearch {
    target: TimeTarget,
    /// Of [`TimeTarget::Latest`]: the largest timestamp as of the begin, and the
    /// last offset of the batch that has it.
    latest: Option<(i64, i64)>,
    /// The next batch to look at.
    at: Option<Place>,
    /// What the place goes by: see [`Log`].
    swaps: u64,
    /// The batch before, being looked into, and its leader epoch.
    open: Option<(RecordTimes, LeaderEpoch)>,
}

/// Where a batch starts.
#[derive(Clone, Copy, Debug)]
struct Place {
    segment: i64,
    position: u64,
}

/// A record that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOffset {
    /// Its timestamp, milliseconds since the epoch.
    pub timestamp: i64,
    /// Its offset.
    pub offset: i64,
    /// Leader epoch of its batch.
    pub epoch: LeaderEpoch,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// The record.
    Found(TimeOffset),
    /// There is no such record.
    Nothing,
    /// Try again after the log's next completion.
    Wait,
    /// There is more to do: try again in the next turn.
    Pause,
    /// There is no page for so many bytes: try again when there is.
    NoPages(usize),
    /// The log cannot be read.
    Unavailable,
    /// A batch that was looked into is damaged, or unfolds to too much.
    Damaged,
}

impl TimeSearch {
    /// A search that has not begun.
    pub fn new(target: TimeTarget) -> Self {
        Self { target, latest: None, at: None, swaps: 0, open: None }
    }

    fn restart(&mut self) {
        *self = Self::new(self.target);
    }
}

impl Log {
    /// Goes on with `search`.
    pub fn search(&mut self, search: &mut TimeSearch, io: &mut LogIo<'_>) -> Search {
        if !self.is_ready() {
            return Search::Unavailable;
        }
        if search.swaps != self.swaps {
            search.restart();
            search.swaps = self.swaps;
        }
        for _ in 0..SEARCH_SLICE_BATCHES {
            if search.open.is_some() {
                match self.look_inside(search) {
                    Some(result) => return result,
                    None => continue,
                }
            }
            let place = match search.at {
                // The segment may be gone, or cut, since the last slice.
                Some(place) if self.segment(place.segment).is_none() => {
                    search.restart();
                    search.swaps = self.swaps;
                    continue;
                }
                Some(place) => place,
                None => match self.begin(search) {
                    Ok(place) => place,
                    Err(result) => return result,
                },
            };
            if let Some(result) = self.look_at(search, place, io) {
                return result;
            }
        }
        Search::Pause
    }

    /// Where a search begins.
    fn begin(&self, search: &mut TimeSearch) -> Result<Place, Search> {
        match search.target {
            TimeTarget::From(timestamp) => self.late_place(timestamp, i64::MIN),
            TimeTarget::Latest => self.latest_place(search),
        }
    }

    /// The first place from which on to look for something from `timestamp` on,
    /// in segments behind the one with base offset `behind`.
    fn late_place(&self, timestamp: i64, behind: i64) -> Result<Place, Search> {
        let from = self.segments.partition_point(|segment| segment.base_offset <= behind);
        let late = self
            .segments
            .range(from.max(self.first_segment())..)
            .find(|segment| segment.time_index.max().is_some_and(|max| max.timestamp >= timestamp));
        let segment = late.ok_or(Search::Nothing)?;
        let start = segment.lookup(self.log_start_offset.max(segment.base_offset));
        let position = segment.lookup_time(timestamp).max(start);
        Ok(Place { segment: segment.base_offset, position })
    }

    /// The place from which on to look for the batch with the largest timestamp.
    fn latest_place(&self, search: &mut TimeSearch) -> Result<Place, Search> {
        let (_, offset) = match search.latest {
            Some(latest) => latest,
            None => *search.latest.insert(self.latest().ok_or(Search::Nothing)?),
        };
        if offset >= self.end.offset {
            // It was rolled back while the search waited.
            search.restart();
            return Err(Search::Pause);
        }
        if offset >= self.committed().offset {
            return Err(Search::Wait);
        }
        let at = self.segments.partition_point(|segment| segment.base_offset <= offset);
        let segment = at.checked_sub(1).map(|at| &self.segments[at]).ok_or(Search::Nothing)?;
        Ok(Place { segment: segment.base_offset, position: segment.lookup(offset) })
    }

    /// The place in the list of the segment that holds the log's start.
    fn first_segment(&self) -> usize {
        let start = self.log_start_offset;
        self.segments.partition_point(|segment| segment.base_offset <= start).saturating_sub(1)
    }

    /// The largest timestamp, and the last offset of the first batch that has it.
    fn latest(&self) -> Option<(i64, i64)> {
        let mut latest: Option<(i64, i64)> = None;
        for segment in self.segments.range(self.first_segment()..) {
            if let Some(max) = segment.time_index.max()
                && latest.is_none_or(|(timestamp, _)| timestamp < max.timestamp)
            {
                latest = Some((max.timestamp, segment.base_offset + i64::from(max.offset)));
            }
        }
        latest
    }

    /// Looks at the batch at `place`: opens it, or passes over it.
    fn look_at(
        &mut self,
        search: &mut TimeSearch,
        place: Place,
        io: &mut LogIo<'_>,
    ) -> Option<Search> {
        let segment = self.segment(place.segment).expect("the caller looked");
        if place.position >= segment.size {
            let TimeTarget::From(timestamp) = search.target else { return Some(Search::Nothing) };
            return match self.late_place(timestamp, place.segment) {
                Ok(next) => {
                    search.at = Some(next);
                    None
                }
                Err(result) => Some(result),
            };
        }
        search.at = Some(place);
        let header = match self.header_at(place.segment, place.position, io) {
            Ok(header) => header,
            Err(read) => return Some(waiting(read)),
        };
        let sane = self.lies_in(place.segment, &header);
        let Some(len) = header.total_len().filter(|_| sane) else {
            tracing::error!(
                "log {}: no batch at position {} of segment {}",
                self.dir.display(),
                place.position,
                place.segment
            );
            return Some(Search::Damaged);
        };
        if header.base_offset >= self.committed().offset {
            return Some(Search::Nothing);
        }
        let comes_into_question = match (search.target, search.latest) {
            (TimeTarget::From(timestamp), _) => {
                header.max_timestamp >= timestamp && header.next_offset() > self.log_start_offset
            }
            (TimeTarget::Latest, latest) => {
                latest.is_some_and(|(timestamp, _)| header.max_timestamp == timestamp)
            }
        };
        let next = Place { position: place.position + len as u64, ..place };
        if !comes_into_question || header.record_count == 0 {
            search.at = Some(next);
            return None;
        }
        // One record, or one timestamp for all: no need to open it.
        if header.record_count == 1 || header.is_log_append_time() {
            let first = if header.record_count == 1 {
                header.next_offset() - 1
            } else {
                header.base_offset.max(self.log_start_offset)
            };
            return Some(Search::Found(TimeOffset {
                timestamp: header.max_timestamp,
                offset: first,
                epoch: header.leader_epoch,
            }));
        }
        let mut batch = Rope::default();
        match self.whole_batch(place, len, &mut batch, io) {
            Read::Done => {}
            read => return Some(waiting(read)),
        }
        if crc(&batch) != header.crc {
            tracing::error!(
                "log {}: the batch at offset {} is damaged",
                self.dir.display(),
                header.base_offset
            );
            return Some(Search::Damaged);
        }
        match RecordTimes::open(header, batch) {
            Ok(times) => {
                search.open = Some((times, header.leader_epoch));
                search.at = Some(next);
                None
            }
            Err(error) => Some(self.not_decoded(&error)),
        }
    }

    /// Walks over a slice of the open batch's records. `None` if the record is
    /// not among them.
    fn look_inside(&self, search: &mut TimeSearch) -> Option<Search> {
        let (times, epoch) = search.open.as_mut().expect("the caller looked");
        let epoch = *epoch;
        let mut budget = UNFOLD_SLICE_BYTES;
        loop {
            let (offset, timestamp) = match times.next(&mut budget) {
                Ok(Next::Record { offset, timestamp, .. }) => (offset, timestamp),
                Ok(Next::Pause) => return Some(Search::Pause),
                Ok(Next::End) => {
                    search.open = None;
                    return None;
                }
                Err(error) => return Some(self.not_decoded(&error)),
            };
            let wanted = match (search.target, search.latest) {
                (TimeTarget::From(from), _) => timestamp >= from && offset >= self.log_start_offset,
                (TimeTarget::Latest, latest) => {
                    latest.is_some_and(|(latest, _)| timestamp == latest)
                }
            };
            if wanted {
                return Some(Search::Found(TimeOffset { timestamp, offset, epoch }));
            }
        }
    }

    fn not_decoded(&self, error: &dyn std::fmt::Display) -> Search {
        tracing::warn!("log {}: a batch cannot be opened: {error}", self.dir.display());
        Search::Damaged
    }

    /// All bytes of the batch at `place`, which is written.
    fn whole_batch(
        &mut self,
        place: Place,
        len: usize,
        rope: &mut Rope,
        io: &mut LogIo<'_>,
    ) -> Read {
        let Place { segment, position, .. } = place;
        self.tail.read(segment, position..position + len as u64, rope);
        if rope.len() == len {
            return Read::Done;
        }
        rope.clear();
        match self.cold_bytes(segment, position).filter(|bytes| bytes.len() >= len) {
            Some(mut bytes) => {
                bytes.narrow(0..len);
                rope.push(bytes);
                Read::Done
            }
            None => self.ask(segment, position, len, io),
        }
    }

    /// Where the leader epoch `requested` ends: the epoch that is meant, and the
    /// first offset behind it, or `None` if it is not known
    /// (`LeaderEpochFileCache.endOffsetFor`, KIP-101, KIP-279). `current` is the
    /// epoch of the leader, which begins at the log's end if it has no batch yet.
    pub fn end_of_epoch(
        &self,
        requested: LeaderEpoch,
        current: LeaderEpoch,
    ) -> Option<(LeaderEpoch, i64)> {
        self.epochs.end_of(requested, current, self.end.offset)
    }

    /// The leader epoch at the log's start, if it is known.
    pub fn earliest_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.at(self.log_start_offset)
    }

    /// The header of the batch at `position`, or what has to happen first.
    fn header_at(
        &mut self,
        segment: i64,
        position: u64,
        io: &mut LogIo<'_>,
    ) -> Result<BatchHeader, Read> {
        let known = self.tail.header(segment, position).or_else(|| {
            let bytes = self.cold_bytes(segment, position)?;
            BatchHeader::decode(&bytes)
        });
        known.ok_or_else(|| self.ask(segment, position, HEADER_LEN, io))
    }
}

fn waiting(read: Read) -> Search {
    match read {
        Read::NoPages(len) => Search::NoPages(len),
        Read::Wait => Search::Wait,
        Read::Done | Read::OutOfRange | Read::Unavailable => Search::Unavailable,
    }
}

/// The checksum as the header of the batch should have it.
fn crc(batch: &Rope) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut skip = CRC_START;
    for part in batch.parts() {
        let from = skip.min(part.len());
        skip -= from;
        digest.update(&part[from..]);
    }
    digest.finalize() as u32
}
