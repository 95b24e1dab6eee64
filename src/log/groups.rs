//! Small groups of a log in its core's journal.
//!
//! While a journal is used, what was appended and is less than `JOURNAL_GROUP_MAX`
//! bytes is offered to it ([`LogIo::groups`]) and not written: it waits in the tail.
//! When the journal's write is synced it is *journaled*, which is as good as durable for
//! whoever waits. It is submitted to the segment later, with what came after, when one of
//! these asks for it: [`Log::write_out`], a large group, a roll, a close, a start that
//! moves, `flush.ms`, a roll of an empty segment. Everything else goes by what the
//! segment has.
//!
//! Nothing is missing before what is journaled: a group is offered only if all before it
//! is durable or journaled, and its bytes lie within the segment's preallocated space, so
//! that a full disk does not keep them from it.
//!
//! Not here: the journal (`journal.rs`, `replica/journal.rs`).

use super::io::LogIo;
use super::journal::Record;
use super::segment::SegmentFile;
use super::{Log, Mark, Offline, State};
use crate::base::limits::{JOURNAL_GROUP_MAX, JOURNAL_REST_MAX};
use crate::base::pages::align_up;
use crate::effect::disk::{DiskError, DiskOutput};

/// How far a log has come in the journal.
#[derive(Debug)]
pub(super) struct Journaled {
    /// Durable there.
    synced: Mark,
    /// Handed to it.
    writing: Option<Mark>,
    /// The log said that it has a group for it.
    offered: bool,
    /// What lies before has to become durable in the segment.
    leave: i64,
}

impl Journaled {
    pub fn new(at: Mark) -> Self {
        Self { synced: at, writing: None, offered: false, leave: 0 }
    }

    /// Everything up to `at` is durable in the segment.
    pub fn restart(&mut self, at: Mark) {
        assert!(self.writing.is_none(), "a log with a group in the journal is not quiet");
        self.synced = at;
    }

    pub fn is_busy(&self) -> bool {
        self.writing.is_some()
    }

    /// The end of what it has or is about to.
    pub fn end(&self) -> Mark {
        self.writing.unwrap_or(self.synced)
    }
}

impl Log {
    /// The end of what survives the power.
    pub(super) fn safe(&self) -> Mark {
        self.flush.durable.max(self.flush.journal.synced)
    }

    /// Whether what the segment lacks may stay in the journal and the tail.
    fn may_rest(&self) -> bool {
        self.has_time() && self.flush.submitted.offset <= self.safe().offset
    }

    /// Whether nobody wants the segment to have what there is.
    fn has_time(&self) -> bool {
        let flush = &self.flush;
        matches!(self.state, State::Ready)
            && self.config.flush_messages <= 1
            && self.roll_at.is_none()
            && !flush.sync_wanted
            && !self.start_wants_sync()
            && flush.journal.leave <= flush.submitted.offset
            && flush.submitted.segment == self.end.segment
            && (flush.pending_bytes as u64) < JOURNAL_REST_MAX
    }

    /// Whether nothing has to be written now: all there is, is in the journal, or
    /// waits until what is on its way there has arrived.
    pub(super) fn rests_in_journal(&self, io: &LogIo<'_>) -> bool {
        let journal = &self.flush.journal;
        let (end, pending) = (journal.end(), self.end.offset);
        // Large groups do not wait, nor small ones if the journal is not used any more.
        let waits =
            journal.is_busy() && io.groups.is_some() && self.group_len() < JOURNAL_GROUP_MAX;
        self.may_rest() && (end.offset.max(self.flush.durable.offset) == pending || waits)
    }

    /// Bytes behind what is durable or on its way to the journal.
    fn group_len(&self) -> u64 {
        let from = self.flush.durable.max(self.flush.journal.end());
        if from.segment == self.end.segment { self.end.position - from.position } else { u64::MAX }
    }

    /// Offers what is to be written to the journal, if it may go there. True if it is
    /// offered or waits for that.
    pub(super) fn offers_group(&mut self, io: &mut LogIo<'_>) -> bool {
        let Some(groups) = &mut io.groups else { return false };
        let flush = &self.flush;
        if self.group_len() >= JOURNAL_GROUP_MAX {
            return false;
        }
        if !self.may_rest() {
            // Behind a group that went straight it waits for that one's sync.
            return self.has_time();
        }
        if flush.journal.is_busy() {
            return true;
        }
        if !flush.journal.offered {
            groups.push(self.slot);
            self.flush.journal.offered = true;
        }
        true
    }

    /// Adds the group that was offered to `record`, if it may still go there: then the
    /// log is told of the end by [`LogOp::Journal`]. Otherwise [`Log::write_straight`]
    /// has to follow.
    ///
    /// [`LogOp::Journal`]: super::io::LogOp::Journal
    pub fn journal_group(&mut self, record: &mut Record) -> bool {
        self.flush.journal.offered = false;
        let len = self.group_len();
        let open = self.segment(self.end.segment).is_some_and(|segment| {
            matches!(segment.file, SegmentFile::Open(_))
                && segment.allocated >= align_up(segment.size)
        });
        let takes = open
            && len > 0
            && len < JOURNAL_GROUP_MAX
            && self.may_rest()
            && !self.flush.journal.is_busy();
        if !takes {
            return false;
        }
        let from = self.safe();
        let mut rope = self.take_rope();
        let resident = self.tail.read(from.segment, from.position..self.end.position, &mut rope);
        assert!(resident && rope.len() as u64 == len, "what no write has taken is resident");
        let parts = rope.parts().iter().map(|part| &**part);
        record.push(self.topic_partition, from.segment, from.position, len as u32, parts);
        rope.clear();
        self.flush.spare_rope = Some(rope);
        self.flush.journal.writing = Some(self.end);
        true
    }

    /// The group that was offered is not journaled: writes it.
    pub fn write_straight(&mut self, io: &mut LogIo<'_>) {
        self.flush.journal.offered = false;
        let groups = io.groups.take();
        self.flush(io);
        io.groups = groups;
    }

    /// The group that was taken was not sent, and is offered again.
    pub fn keep_group(&mut self) {
        self.flush.journal.writing = None;
        self.flush.journal.offered = true;
    }

    /// The group that was taken was not sent: writes it.
    pub fn take_back_group(&mut self, io: &mut LogIo<'_>) {
        self.flush.journal.writing = None;
        self.write_straight(io);
    }

    pub(super) fn on_journaled(&mut self, result: Result<DiskOutput, DiskError>) {
        let mark = self.flush.journal.writing.take().expect("a group ends once");
        match result {
            Ok(_) if !matches!(self.state, State::Offline(_)) => self.flush.journal.synced = mark,
            Ok(_) => {}
            Err(error) => self.fail(Offline::Directory(error)),
        }
    }

    /// Has all that is in the journal written to the segment and synced there. Returns
    /// the offset where it ends: done when [`Log::durable_end`] has reached it.
    pub fn write_out(&mut self, io: &mut LogIo<'_>) -> i64 {
        self.flush.journal.leave = self.flush.journal.end().offset;
        let leave = self.flush.journal.leave;
        self.flush(io);
        leave
    }

    /// The end of what is durable in the segments.
    pub fn durable_end(&self) -> i64 {
        self.flush.durable.offset
    }
}
