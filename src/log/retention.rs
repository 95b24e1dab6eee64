//! Retention: the oldest segments go when they are too old, or too much
//! (`UnifiedLog.deleteOldSegments`).
//!
//! Segments are judged whole and from the oldest on; the first one that may stay
//! ends the search. A segment is as old as its largest timestamp; one without
//! timestamps is as old as its last append, and a restart makes it young again.
//! Nothing at or beyond the committed end goes.
//!
//! What goes lies below the new start of the log at once; `start.rs` makes that
//! durable and removes the files. If all of the log goes, the segment that is
//! appended to is sealed and an empty one takes its place, as soon as nothing is
//! in flight; an append that comes first keeps the segment.

use super::io::LogIo;
use super::segment::{Segment, SegmentFile};
use super::{Log, Mark, State};
use crate::base::time::UnixMillis;

/// What a log keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// `retention.ms`: a segment whose newest record is older goes; `None` for
    /// never.
    pub ms: Option<u64>,
    /// `retention.bytes`: the oldest segment goes if the others are at least so
    /// much; `None` for never.
    pub bytes: Option<u64>,
}

impl Retention {
    /// Whether nothing goes.
    pub fn keeps_all(&self) -> bool {
        self.ms.is_none() && self.bytes.is_none()
    }
}

impl Log {
    /// Deletes what need not be kept when the broker's clock says `now`. True if
    /// the start of the log has moved.
    pub fn retain(&mut self, now: UnixMillis, retention: Retention, io: &mut LogIo<'_>) -> bool {
        if !self.is_ready() {
            return false;
        }
        let start = self.log_start_offset;
        if let Some(bytes) = retention.bytes {
            let size: u64 = self.live_segments().map(|segment| segment.size).sum();
            let mut excess = size.saturating_sub(bytes);
            let upto = self.end_of_oldest(|segment| {
                let goes = segment.size <= excess;
                excess = excess.saturating_sub(segment.size);
                goes
            });
            self.drop_below(upto, "size", io);
        }
        if let Some(ms) = retention.ms {
            for segment in &mut self.segments {
                segment.last_append.get_or_insert(now);
            }
            let upto = self.end_of_oldest(|segment| segment.age(now) > i128::from(ms));
            self.drop_below(upto, "time", io);
        }
        // Files of earlier removals that wait go on, too.
        self.flush(io);
        self.next_chore(io);
        self.log_start_offset > start
    }

    /// Segments that are not wholly below the start.
    fn live_segments(&self) -> impl Iterator<Item = &Segment> {
        let start = self.log_start_offset;
        let gone = self.segments.partition_point(|segment| segment.base_offset <= start);
        self.segments.range(gone.saturating_sub(1)..)
    }

    /// The end of the oldest segments that `goes` says of, if there are any.
    fn end_of_oldest(&self, mut goes: impl FnMut(&Segment) -> bool) -> Option<i64> {
        let committed = self.committed().offset;
        let mut live = self.live_segments().peekable();
        let mut upto = None;
        while let Some(segment) = live.next() {
            let end = live.peek().map_or(self.end.offset, |next| next.base_offset);
            if segment.size == 0 || end > committed || !goes(segment) {
                break;
            }
            upto = Some(end);
        }
        upto
    }

    fn drop_below(&mut self, upto: Option<i64>, why: &str, io: &mut LogIo<'_>) {
        let Some(upto) = upto else { return };
        if upto > self.log_start_offset {
            tracing::info!(
                "log {}: deleting what lies before offset {upto} for its {why}",
                self.dir.display()
            );
        }
        let ends = self.segments.iter().skip(1).map(|segment| segment.base_offset);
        let (start, ends) = (self.log_start_offset, ends.chain([self.end.offset]));
        let gone = ends.filter(|end| (start + 1..=upto).contains(end)).count();
        self.counts.deleted_segments += gone as u64;
        self.advance_start(upto, io).expect("it is not behind the committed end");
        if upto == self.end.offset {
            self.roll_at = Some(upto);
        }
    }

    /// Puts an empty segment in the place of one of which nothing is kept, if it
    /// still ends where that was decided and nothing is in flight.
    pub(super) fn roll_empty(&mut self, io: &mut LogIo<'_>) {
        let Some(at) = self.roll_at else { return };
        let active = self.segments.back().expect("a ready log has a segment");
        let (base, size) = (active.base_offset, active.size);
        if at != self.end.offset || size == 0 || !matches!(self.state, State::Ready) {
            self.roll_at = None;
            return;
        }
        let quiet = self.flush.is_quiet() && self.flush.durable == self.end;
        if !quiet || !self.chores.is_empty() || self.chore_in_flight.is_some() {
            return;
        }
        match active.file {
            SegmentFile::Open(_) => {
                self.roll_at = None;
                let sealed_end = self.end;
                self.segments.push_back(Segment::new(at));
                self.end = Mark { offset: at, segment: at, position: 0 };
                self.next_segment(sealed_end, io);
            }
            // It has to be cut.
            SegmentFile::Closed => self.open_segment(base, io),
            SegmentFile::Opening(_) => {}
            SegmentFile::Absent => unreachable!("a durable segment has a file"),
        }
    }
}

impl Segment {
    /// Milliseconds since its newest record; negative if that is of the future.
    fn age(&self, now: UnixMillis) -> i128 {
        let last_append = self.last_append.unwrap_or(now).0;
        let newest = self.time_index.max().map_or(last_append, |max| max.timestamp);
        i128::from(now.0) - i128::from(newest)
    }
}
