//! File descriptors of logs that rest are given back.
//!
//! A core has a limit of open files. When it is passed, logs are asked in turn to
//! close theirs ([`Log::release_files`]): one that was used since it was last
//! asked is let off once (the clock algorithm, which comes close to the least
//! recently used). Whoever needs a file again opens it, and finds it open: a log that
//! is opening one is not at rest, and what compaction reads next stays open.

use super::Log;
use super::State;
use super::io::LogIo;
use super::segment::SegmentFile;

impl Log {
    /// Takes note that the log's files are in use.
    pub(super) fn touch(&mut self) {
        self.used = true;
    }

    /// Closes the files of a log that has nothing to do, unless it was used since
    /// the last time. Returns how many were closed.
    pub fn release_files(&mut self, io: &mut LogIo<'_>) -> usize {
        let rests = matches!(self.state, State::Ready)
            && self.is_quiet()
            && self.chores.is_empty()
            && self.flush.durable == self.end;
        if !rests || std::mem::take(&mut self.used) {
            return 0;
        }
        let kept = self.compaction_source();
        let mut closed = 0;
        for segment in &mut self.segments {
            if let SegmentFile::Open(file) = segment.file
                && kept != Some(segment.base_offset)
            {
                segment.file = SegmentFile::Closed;
                io.close(self.slot, file);
                closed += 1;
            }
        }
        closed
    }
}
