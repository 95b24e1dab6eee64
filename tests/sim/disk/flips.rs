//! Flipped bits: damage of what was synced, that nobody sees before it is read. They
//! are flipped while the broker is down, one in a file at most.

use std::path::{Path, PathBuf};

use corelane::base::rng::Rng;
use corelane::log::closed_logs;
use corelane::log::journal::{file_name, parse_file_name};
use corelane::log::recovery_points::{self, RecoveryPoints};
use corelane::raft::frame;

use super::{Dir, Disk, Node, ROOT};
use crate::damage;
use crate::file::{File, pick};

/// Where the metadata is.
pub const METADATA: &str = "__cluster_metadata";

/// Of the segments with a flipped bit, most have it in their batches, for there is
/// much space behind them in the last one.
const BEHIND_BATCHES: u64 = 8;

/// A flipped bit of a log.
#[derive(Clone, Debug)]
pub struct Flip {
    pub dir: String,
    pub file: String,
    /// Base offset of the batch that has it, if a whole one of a segment has.
    pub batch: Option<i64>,
}

/// A flipped bit of the metadata or a journal, which can be put back.
#[derive(Debug)]
pub struct Damaged {
    pub path: PathBuf,
    whole: Vec<u8>,
    damaged: Vec<u8>,
}

impl Disk {
    /// Flips a bit of what is durable in one of these directories: of a segment, an
    /// index, or a small file.
    pub fn flip(&mut self, dirs: &[String]) -> Option<Flip> {
        let dir = pick(&mut self.rng, dirs).clone();
        let files = self.files_of(&dir).filter(|files| !files.is_empty())?;
        let last = files.iter().rev().map(|(name, _)| name).find(|name| name.ends_with(".log"));
        let last = last.cloned();
        // Segments are what there is most of.
        let kind = match self.rng.below(4) {
            0 => |name: &str, last: bool| name.ends_with(".log") && !last,
            1 => |_: &str, last: bool| last,
            _ => |name: &str, _: bool| !name.ends_with(".log"),
        };
        let of_kind = |(name, _): &&(String, usize)| kind(name, Some(name) == last.as_ref());
        let some: Vec<(String, usize)> = files.iter().filter(of_kind).cloned().collect();
        let (file, node) =
            pick(&mut self.rng, if some.is_empty() { &files } else { &some }).clone();
        let segment = file.ends_with(".log");
        let before = self.file(node).now().to_vec();
        let behind = !segment || self.rng.chance(1, BEHIND_BATCHES);
        let end = if behind { before.len() } else { damage::end_of_batches(&before) };
        let position = self.flip_file(&dir, &file, node, end)?;
        let extension = file.rsplit_once('.').map(|(_, extension)| extension);
        let count = match extension {
            _ if dir.starts_with("__") => &mut self.counters.flipped_groups,
            Some("log") if Some(&file) == last.as_ref() => &mut self.counters.flipped_last,
            Some("log") => &mut self.counters.flipped_segments,
            Some("index" | "timeindex") => &mut self.counters.flipped_indexes,
            _ => &mut self.counters.flipped_small,
        };
        *count += 1;
        let batch = segment.then(|| damage::batch_at(&before, position)).flatten();
        Some(Flip { dir, file, batch })
    }

    /// Whether a stop has left a file of small logs.
    pub fn has_closed_logs(&self) -> bool {
        self.dir(ROOT).now.keys().any(|name| closed_logs::is_file_name(name))
    }

    /// Flips a bit of what cores keep of all their logs: recovery points, or what a stop
    /// has left of small logs. Returns the file.
    pub fn flip_of_cores(&mut self) -> Option<String> {
        let files = self.files_of("")?;
        let closed = self.rng.chance(1, 2) && self.has_closed_logs();
        let is_ours =
            if closed { closed_logs::is_file_name } else { recovery_points::is_file_name };
        let ours: Vec<(String, usize)> =
            files.into_iter().filter(|(name, _)| is_ours(name)).collect();
        if ours.is_empty() {
            return None;
        }
        let (file, node) = pick(&mut self.rng, &ours).clone();
        self.flip_file("", &file, node, usize::MAX)?;
        match closed_logs::is_file_name(&file) {
            true => self.counters.flipped_closed += 1,
            false => self.counters.flipped_points += 1,
        }
        Some(file)
    }

    /// Flips a bit of the metadata, but for the last write of its log.
    pub fn flip_metadata(&mut self) -> Option<Damaged> {
        let files = self.files_of(METADATA)?;
        if files.is_empty() {
            return None;
        }
        let (file, node) = pick(&mut self.rng, &files).clone();
        let whole = self.file(node).now().to_vec();
        let end = match file.starts_with("log-") {
            true => damage::begin_of_write(&whole, frame::scan(&whole).ok()?.write),
            false => whole.len(),
        };
        let mut rng = Rng::new(self.rng.next_u64());
        damage::flip(self.file_mut(node), end, &mut rng)?;
        self.counters.flipped_metadata += 1;
        let damaged = self.file(node).now().to_vec();
        Some(Damaged { path: Path::new(METADATA).join(file), whole, damaged })
    }

    /// Flips a bit of a journal, but for the newest record of a core: damage there cannot be
    /// told from a write that the power has torn.
    pub fn flip_journal(&mut self) -> Option<Damaged> {
        let files = self.files_of("")?;
        let cores = files.iter().filter_map(|(name, _)| parse_file_name(name));
        let (core, _) = *pick(&mut self.rng, &cores.collect::<Vec<_>>()[..]);
        let both = [0, 1].map(|which| PathBuf::from(file_name(core, which)));
        let records = both.each_ref().map(|path| damage::records(&self.bytes_of(path)));
        let epochs = records.each_ref().map(|records| records.first().map(|record| record.epoch));
        let which = self.rng.below(2) as usize;
        let newest = epochs[which] > epochs[1 - which];
        let mut safe = &records[which][..];
        // The one that begins a file lies in one sector.
        if newest && safe.len() > 1 {
            safe = &safe[..safe.len() - 1];
        }
        if safe.is_empty() {
            return None;
        }
        let within = pick(&mut self.rng, safe).range.clone();
        let node = self.find(&both[which])?;
        let whole = self.file(node).now().to_vec();
        let mut rng = Rng::new(self.rng.next_u64());
        damage::flip_within(self.file_mut(node), within, &mut rng);
        self.counters.flipped_journals += 1;
        let damaged = self.file(node).now().to_vec();
        Some(Damaged { path: both[which].clone(), whole, damaged })
    }

    /// Whether there is a journal.
    pub fn has_journals(&self) -> bool {
        self.dir(ROOT).now.keys().any(|name| parse_file_name(name).is_some())
    }

    /// Puts the bit back, if the file is as it was left. False if it is not.
    pub fn mend(&mut self, what: &Damaged) -> bool {
        let Some(node) = self.find(&what.path) else { return false };
        let same = self.file(node).now().to_vec() == what.damaged;
        if same {
            *self.file_mut(node) = File::durable(&what.whole);
        }
        same
    }

    /// Whether no file of recovery points is damaged.
    pub fn points_are_whole(&self) -> bool {
        self.points().1
    }

    /// Up to where the log of a directory is known to be durable.
    pub fn recovery_point(&self, dir: &str) -> i64 {
        let Some((_, partition)) = dir.rsplit_once('-') else { return 0 };
        let text = self.bytes_of(&Path::new(dir).join("partition.metadata"));
        let text = String::from_utf8_lossy(&text).into_owned();
        let known = self.points().0;
        let found = known.iter().find(|(log, _)| {
            let id = format!("topic_id: {}", log.topic);
            log.partition.to_string() == partition && text.lines().any(|line| line == id)
        });
        found.map_or(0, |(_, offset)| *offset)
    }

    /// Whether the flipped bit is in the last segment of its log, in a batch, and still
    /// there.
    pub fn is_open(&self, flip: &Flip) -> Option<i64> {
        let segments = self.segments_of(&flip.dir);
        let (last, node) = segments.last()?;
        let open =
            *last == flip.file && !damage::is_whole(&self.file(*node).now().to_vec(), flip.batch?);
        flip.batch.filter(|_| open)
    }

    /// The offsets that groups have committed by a log of `__consumer_offsets` below
    /// offset `end`.
    pub fn commits(&self, dir: &str, end: i64) -> Vec<u64> {
        let files = self.files_of(dir).unwrap_or_default();
        let segments = files
            .iter()
            .filter(|(name, _)| name.ends_with(".log") || name.ends_with(".swap"))
            .map(|(_, node)| self.file(*node).now().to_vec());
        segments.flat_map(|segment| damage::commits(&segment, end)).collect()
    }

    /// Directories whose name begins so, but for those that are on their way out.
    pub fn dirs(&self, begin: &str) -> Vec<String> {
        let names = self
            .dir(ROOT)
            .now
            .iter()
            .filter(|(_, node)| matches!(self.nodes[**node], Node::Dir(_)));
        let names = names.map(|(name, _)| name);
        names.filter(|name| name.starts_with(begin) && !name.contains('.')).cloned().collect()
    }

    fn flip_file(&mut self, dir: &str, file: &str, node: usize, end: usize) -> Option<usize> {
        let mut rng = Rng::new(self.rng.next_u64());
        // Two bits of one file may hide each other where its format tells by what is
        // there twice, and are more than is promised.
        if !self.flipped.insert((dir.to_owned(), file.to_owned())) {
            return None;
        }
        damage::flip(self.file_mut(node), end, &mut rng)
    }

    fn points(&self) -> (RecoveryPoints, bool) {
        let (mut known, mut whole) = (RecoveryPoints::new(), true);
        for (name, node) in self.files_of("").unwrap_or_default() {
            if recovery_points::is_file_name(&name) {
                let bytes = self.file(node).now().to_vec();
                whole &= recovery_points::decode_into(&bytes, &mut known);
            }
        }
        (known, whole)
    }

    fn segments_of(&self, dir: &str) -> Vec<(String, usize)> {
        let mut files = self.files_of(dir).unwrap_or_default();
        files.retain(|(name, _)| name.ends_with(".log"));
        files
    }

    fn bytes_of(&self, path: &Path) -> Vec<u8> {
        self.find(path).map_or(vec![], |node| self.file(node).now().to_vec())
    }

    /// Names and nodes of a directory's files, in order.
    fn files_of(&self, dir: &str) -> Option<Vec<(String, usize)>> {
        let Node::Dir(Dir { now, .. }) = &self.nodes[self.find(Path::new(dir))?] else {
            return None;
        };
        let files = now.iter().filter(|(_, node)| matches!(self.nodes[**node], Node::File(_)));
        Some(files.map(|(name, node)| (name.clone(), *node)).collect())
    }
}
