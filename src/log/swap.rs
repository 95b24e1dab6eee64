//! A compacted segment takes the place of those that it was made of, in a way
//! that survives a stop at any moment.
//!
//! It is written as `<base>-<end>.cleaned`: the range of offsets that it stands
//! for. When that is synced:
//!
//! 1. the checkpoint says that offsets may be missing before `<end>`;
//! 2. the file is renamed to `<base>-<end>.swap`. From here on it counts;
//! 3. the old segments in its range are removed, and their indexes, for good;
//! 4. it is renamed to `<base>.log`, and its indexes are written.
//!
//! A start that finds `.cleaned` removes it; one that finds `.swap` ignores the old
//! segments in its range and goes on with step 3. Readers find the old segments in
//! memory or wait, from step 1 to step 4.
//!
//! The checkpoint `cleaner-offset-checkpoint` in the partition's directory holds
//! what the run before has compacted, and up to where offsets may be missing:
//! `corelane-cleaned 1 <CRC-32 of the rest>`, then the two offsets.

use super::compaction::{Phase, Run};
use super::segment::SegmentFile;
use super::{Chore, Log, Then, load};
use crate::effect::disk::{DirEntry, DiskOpKind};

/// The checkpoint's name.
pub(super) const FILE_NAME: &str = "cleaner-offset-checkpoint";

const FILES: [&str; 4] = ["log", "index", "timeindex", "txnindex"];

fn name(first: i64, end: i64, extension: &str) -> String {
    format!("{first:020}-{end:020}.{extension}")
}

impl Log {
    pub(super) fn cleaned_path(&self, run: &Run) -> std::path::PathBuf {
        self.dir.join(name(run.first, run.end, "cleaned"))
    }

    /// Has the checkpoint say that everything before `cleaned` is compacted and
    /// that offsets may be missing before `gaps`.
    pub(super) fn push_checkpoint(&mut self, cleaned: i64, gaps: i64, then: Then) {
        let path = self.dir.join(FILE_NAME);
        let kind = DiskOpKind::Replace { path, bytes: encode(cleaned, gaps) };
        self.chores.push_back(Chore { kind, then });
    }

    /// The steps above.
    pub(super) fn push_swap(&mut self, run: &Run) {
        let then = Then::Next("writing the cleaner's checkpoint");
        let gaps = self.cleaner.gaps.max(run.end);
        self.push_checkpoint(self.cleaner.cleaned, gaps, then);
        let swap = self.dir.join(name(run.first, run.end, "swap"));
        let kind = DiskOpKind::Rename { from: self.cleaned_path(run), to: swap.clone() };
        self.chores.push_back(Chore { kind, then: Then::Next("renaming a compacted segment") });
        let old = self.segments.iter().map(|segment| segment.base_offset);
        let old: Vec<i64> = old.filter(|base| (run.first..run.end).contains(base)).collect();
        for base in old {
            for kind in FILES {
                let kind = DiskOpKind::Remove { path: self.path(base, kind) };
                let then = Then::Next("removing a segment that was compacted");
                self.chores.push_back(Chore { kind, then });
            }
        }
        let kind = DiskOpKind::SyncDir { path: self.dir.clone() };
        self.chores.push_back(Chore { kind, then: Then::Next("syncing a directory") });
        let kind = DiskOpKind::Rename { from: swap, to: self.path(run.first, "log") };
        self.chores.push_back(Chore { kind, then: Then::Next("renaming a compacted segment") });
        let kind = DiskOpKind::Replace {
            path: self.path(run.first, "timeindex"),
            bytes: run.segment.time_index.encode_sealed(),
        };
        self.chores.push_back(Chore { kind, then: Then::Next("writing a time index") });
        let kind = DiskOpKind::Replace {
            path: self.path(run.first, "index"),
            bytes: run.segment.index.encode(run.segment.size),
        };
        self.chores.push_back(Chore { kind, then: Then::Swapped });
    }

    /// The files are swapped: so are the segments.
    pub(super) fn swapped(&mut self) {
        let Some(run) = &mut self.cleaner.run else { return };
        let (first, end) = (run.first, run.end);
        let interval = self.config.index_interval_bytes;
        run.phase = Phase::Choosing;
        let mut new = std::mem::replace(&mut run.segment, super::Segment::new(0));
        new.file = SegmentFile::Closed;
        new.allocated = new.size;
        new.sealed = true;
        new.time_index.keep();
        new.thin_indexes(interval);
        self.cleaner.gaps = self.cleaner.gaps.max(end);
        self.tail.forget_before(end);
        let old = self.segments.iter().map(|segment| segment.base_offset);
        for base in old.filter(|base| (first..end).contains(base)) {
            self.cold.forget(base);
        }
        self.segments.retain(|segment| !(first..end).contains(&segment.base_offset));
        let at = self.segments.partition_point(|segment| segment.base_offset < first);
        self.segments.insert(at, new);
        self.swaps += 1;
        if !self.is_ready() {
            self.cleaner.run = None;
        }
    }

    pub(super) fn compacted(&mut self, cleaned: i64) {
        self.cleaner.cleaned = cleaned;
        self.cleaner.run = None;
    }

    /// Loading: goes on with a swap that was begun, drops what was written for one
    /// that was not, and reads the checkpoint. `bases` are the segments found, with
    /// the lengths of their files.
    pub(super) fn finish_swap(&mut self, entries: &[DirEntry], bases: &mut Vec<(i64, u64)>) {
        let step = |kind, step| Chore { kind, then: Then::Load(step) };
        for entry in entries {
            let Some((stem, extension)) = entry.name.rsplit_once('.') else { continue };
            let path = self.dir.join(&entry.name);
            if extension == "cleaned" {
                self.chores.push_back(step(DiskOpKind::Remove { path }, load::Step::Swapped));
                continue;
            }
            let range = stem.split_once('-').filter(|_| extension == "swap");
            let Some((Ok(first), Ok(end))) =
                range.map(|(first, end)| (first.parse::<i64>(), end.parse::<i64>()))
            else {
                continue;
            };
            bases.retain(|(base, _)| !(first..end).contains(base));
            let at = bases.partition_point(|(base, _)| *base < first);
            bases.insert(at, (first, entry.len));
            for old in entries {
                let base = old.name.rsplit_once('.').filter(|(_, kind)| FILES.contains(kind));
                let base = base.and_then(|(base, _)| base.parse::<i64>().ok());
                if base.is_some_and(|base| (first..end).contains(&base)) {
                    let kind = DiskOpKind::Remove { path: self.dir.join(&old.name) };
                    self.chores.push_back(step(kind, load::Step::Swapped));
                }
            }
            let kind = DiskOpKind::SyncDir { path: self.dir.clone() };
            self.chores.push_back(step(kind, load::Step::Swapped));
            let kind = DiskOpKind::Rename { from: path, to: self.path(first, "log") };
            self.chores.push_back(step(kind, load::Step::Swapped));
        }
        if entries.iter().any(|entry| entry.name == FILE_NAME) {
            let kind = DiskOpKind::ReadFile { path: self.dir.join(FILE_NAME) };
            self.chores.push_back(step(kind, load::Step::CleanerRead));
        }
    }
}

fn encode(cleaned: i64, gaps: i64) -> Vec<u8> {
    let rest = format!("{cleaned} {gaps}\n");
    let crc = crc32fast::hash(rest.as_bytes());
    format!("corelane-cleaned 1 {crc:08x}\n{rest}").into_bytes()
}

/// Reads the checkpoint, or `None` if it is damaged.
pub(super) fn decode(bytes: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, rest) = text.split_once('\n')?;
    let crc = u32::from_str_radix(head.strip_prefix("corelane-cleaned 1 ")?, 16).ok()?;
    if crc32fast::hash(rest.as_bytes()) != crc {
        return None;
    }
    let (cleaned, gaps) = rest.strip_suffix('\n')?.split_once(' ')?;
    Some((cleaned.parse().ok()?, gaps.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_checkpoint_is_none() {
        let good = encode(12, 345);
        assert_eq!(decode(&good), Some((12, 345)));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // The case of a hex digit is nothing to go by.
            assert!(matches!(decode(&bad), None | Some((12, 345))), "bit {bit}");
        }
    }
}
