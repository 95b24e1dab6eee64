//! The format of a core's journal: what was appended to many logs, in one write.
//!
//! A write of the journal is one record at a multiple of the block, padded with zeros;
//! [`Record`] makes it, [`scan`] reads the two files of a core:
//!
//! ```text
//! magic "CLJW" | crc u32 | len u32 | count u32 | epoch u64 | number u64 | frames
//! frame: topic id (16) | partition i32 | length u32 | segment i64 | position u64 | bytes
//! ```
//!
//! All numbers are little-endian. The CRC-32 covers everything behind it. Each time
//! a file is begun again it has the next epoch of the core; the writes of an epoch are
//! numbered from 0. One write is in flight at a time, so what is torn is the last one
//! of the newest epoch, and everything else that does not check out is damage.
//!
//! When it is written and read: `replica/journal.rs`, `controller/replay.rs`, and
//! `docs/adr/0011-a-journal-for-small-groups.md`.

use crate::base::limits::JOURNAL_GROUP_MAX;
use crate::base::pages::{BLOCK, align_up};
use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};

const MAGIC: [u8; 4] = *b"CLJW";

/// Bytes of a record before its frames.
pub const RECORD_HEAD: usize = 32;

/// Bytes of a frame before those of the log.
pub const FRAME_HEAD: usize = 40;

const NAME: &str = "journal.";

/// The name of a core's file `which` (0 or 1).
pub fn file_name(core: u16, which: usize) -> String {
    format!("{NAME}{core}.{which}")
}

/// Whose file this is and which one, if it is one.
pub fn parse_file_name(name: &str) -> Option<(u16, usize)> {
    let (core, which) = name.strip_prefix(NAME)?.split_once('.')?;
    let which = match which {
        "0" => 0,
        "1" => 1,
        _ => return None,
    };
    let core = core.parse().ok()?;
    (file_name(core, which) == name).then_some((core, which))
}

/// A record that is put together.
#[derive(Debug, Default)]
pub struct Record {
    bytes: Vec<u8>,
    count: u32,
}

impl Record {
    /// Nothing yet; keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.resize(RECORD_HEAD, 0);
        self.count = 0;
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Frames so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds what the segment `segment` of a log has from `position` on: `parts`, of
    /// `len` bytes together.
    pub fn push<'a>(
        &mut self,
        log: TopicPartition,
        segment: i64,
        position: u64,
        len: u32,
        parts: impl Iterator<Item = &'a [u8]>,
    ) {
        let end = self.bytes.len() + FRAME_HEAD + len as usize;
        self.bytes.extend_from_slice(&log.topic.0);
        self.bytes.extend_from_slice(&log.partition.0.to_le_bytes());
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(&segment.to_le_bytes());
        self.bytes.extend_from_slice(&position.to_le_bytes());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        assert_eq!(self.bytes.len(), end, "a frame has the bytes that it says");
        self.count += 1;
    }

    /// The finished record, write `number` of `epoch`. Not padded.
    pub fn finish(&mut self, epoch: u64, number: u64) -> &[u8] {
        let len = self.bytes.len() as u32;
        let head = &mut self.bytes[..RECORD_HEAD];
        head[..4].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&len.to_le_bytes());
        head[12..16].copy_from_slice(&self.count.to_le_bytes());
        head[16..24].copy_from_slice(&epoch.to_le_bytes());
        head[24..32].copy_from_slice(&number.to_le_bytes());
        let crc = crc32fast::hash(&self.bytes[8..]);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        &self.bytes
    }
}

/// What a journal has of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The log.
    pub log: TopicPartition,
    /// Base offset of the segment.
    pub segment: i64,
    /// Where in that segment.
    pub position: u64,
    /// What is there.
    pub bytes: &'a [u8],
}

/// A record that was written whole is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a damaged record at byte {position}, with whole ones behind it")]
pub struct Damaged {
    /// Which of the two files.
    pub which: usize,
    /// Byte position.
    pub position: usize,
}

/// What is in the two files of a core, oldest first. An empty slice is a file that is
/// not there.
///
/// # Errors
/// If a record is damaged that had been synced.
pub fn scan(files: [&[u8]; 2]) -> Result<Vec<Piece<'_>>, Damaged> {
    let scans = files.map(scan_file);
    let epochs = scans.each_ref().map(|scan| scan.epoch);
    for (which, scan) in scans.iter().enumerate() {
        let damaged = match (scan.epoch, scan.behind) {
            // A file that is begun again has what is two epochs old behind its end.
            (0, Some(behind)) => behind > epochs[1 - which],
            (epoch, Some(behind)) => behind == epoch,
            (_, None) => false,
        };
        if damaged {
            return Err(Damaged { which, position: scan.end });
        }
    }
    let [mut first, mut second] = scans;
    if first.epoch > second.epoch {
        std::mem::swap(&mut first, &mut second);
    }
    first.pieces.append(&mut second.pieces);
    Ok(first.pieces)
}

struct FileScan<'a> {
    /// Of its records, 0 if there are none.
    epoch: u64,
    pieces: Vec<Piece<'a>>,
    /// Where they end.
    end: usize,
    /// The newest epoch of the records behind, this one's only if they are later.
    behind: Option<u64>,
}

fn scan_file(bytes: &[u8]) -> FileScan<'_> {
    let mut scan = FileScan { epoch: 0, pieces: vec![], end: 0, behind: None };
    let mut number = 0;
    while let Some(head) = bytes.get(scan.end..).and_then(decode_head)
        && head.number == number
        && (number == 0 || head.epoch == scan.epoch)
        && let Some(mut pieces) = decode_frames(&head)
    {
        scan.epoch = head.epoch;
        scan.pieces.append(&mut pieces);
        scan.end += align_up(head.bytes.len() as u64) as usize;
        number += 1;
    }
    let mut at = scan.end;
    while at < bytes.len() {
        if let Some(head) = decode_head(&bytes[at..])
            && (head.epoch != scan.epoch || head.number > number)
        {
            scan.behind = scan.behind.max(Some(head.epoch));
        }
        at += BLOCK;
    }
    scan
}

struct Head<'a> {
    epoch: u64,
    number: u64,
    count: u32,
    /// The whole record.
    bytes: &'a [u8],
}

/// The record that `bytes` begin with, if it is whole.
fn decode_head(bytes: &[u8]) -> Option<Head<'_>> {
    let head = bytes.get(..RECORD_HEAD)?;
    if head[..4] != MAGIC {
        return None;
    }
    let record = bytes.get(..u32_at(head, 8)? as usize)?;
    if record.len() < RECORD_HEAD || crc32fast::hash(&record[8..]) != u32_at(head, 4)? {
        return None;
    }
    let (count, epoch, number) = (u32_at(head, 12)?, u64_at(head, 16)?, u64_at(head, 24)?);
    (epoch > 0).then_some(Head { epoch, number, count, bytes: record })
}

fn decode_frames<'a>(head: &Head<'a>) -> Option<Vec<Piece<'a>>> {
    let mut rest = &head.bytes[RECORD_HEAD..];
    let mut pieces = vec![];
    for _ in 0..head.count {
        let (frame, behind) = rest.split_at_checked(FRAME_HEAD)?;
        let (topic, _) = frame.split_first_chunk()?;
        let (bytes, behind) = behind.split_at_checked(u32_at(frame, 20)? as usize)?;
        let partition = PartitionIndex(u32_at(frame, 16)? as i32);
        let log = TopicPartition { topic: TopicId(*topic), partition };
        let (segment, position) = (u64_at(frame, 24)? as i64, u64_at(frame, 32)?);
        if bytes.len() as u64 > JOURNAL_GROUP_MAX || position > i64::MAX as u64 / 2 {
            return None;
        }
        pieces.push(Piece { log, segment, position, bytes });
        rest = behind;
    }
    rest.is_empty().then_some(pieces)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(n: u8) -> TopicPartition {
        TopicPartition { topic: TopicId([n; 16]), partition: PartitionIndex(i32::from(n)) }
    }

    /// Puts a record of two frames that say `text` behind `file`.
    fn write(file: &mut Vec<u8>, epoch: u64, number: u64, text: &[u8]) {
        let mut record = Record::default();
        record.clear();
        record.push(log(1), 0, 7, text.len() as u32, [text].into_iter());
        record.push(log(2), 5, 9, text.len() as u32, text.chunks(2));
        file.extend_from_slice(record.finish(epoch, number));
        file.resize(file.len().next_multiple_of(BLOCK), 0);
    }

    fn texts(files: [&[u8]; 2]) -> Result<Vec<String>, Damaged> {
        let pieces = scan(files)?;
        assert!(pieces.iter().step_by(2).all(|piece| piece.log == log(1) && piece.position == 7));
        let text = |piece: &Piece<'_>| String::from_utf8_lossy(piece.bytes).into_owned();
        Ok(pieces.iter().skip(1).step_by(2).map(text).collect())
    }

    #[test]
    fn names() {
        assert_eq!(parse_file_name(&file_name(12, 1)), Some((12, 1)));
        for name in ["journal.1", "journal.1.2", "journal.01.0", "journal..0", "journal.1.0.tmp"] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn what_was_written_is_read_oldest_first_until_it_is_torn() {
        let (mut one, mut two) = (vec![], vec![]);
        for n in 0..3 {
            write(&mut one, 4, n, format!("new{n}").as_bytes());
            write(&mut two, 3, n, format!("old{n}").as_bytes());
        }
        let all = ["old0", "old1", "old2", "new0", "new1", "new2"];
        assert_eq!(texts([&one, &two]).expect("whole"), all);
        assert_eq!(texts([&two, &one]).expect("whole"), all);
        for bit in 0..8 * (RECORD_HEAD + 2 * (FRAME_HEAD + 4)) {
            let mut torn = one.clone();
            torn[2 * BLOCK + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(texts([&torn, &two]).expect("torn"), all[..5], "bit {bit}");
            let mut bad = one.clone();
            bad[BLOCK + bit / 8] ^= 1 << (bit % 8);
            let damaged = Damaged { which: 0, position: BLOCK };
            assert_eq!(texts([&bad, &two]), Err(damaged), "bit {bit}");
            let mut bad = two.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // Of the older file's first record nobody can tell; but it is not of a file
            // that is being begun again, which would be older still.
            let begun = texts([&one, &bad]).expect("looks begun again");
            assert_eq!(begun, all[3..], "bit {bit}");
        }
    }

    #[test]
    fn a_file_that_is_begun_again_forgets_what_it_had() {
        let (mut one, mut two) = (vec![], vec![]);
        for n in 0..4 {
            write(&mut one, 1, n, b"gone");
            write(&mut two, 2, n, b"kept");
        }
        let mut begun = vec![];
        write(&mut begun, 3, 0, b"new!");
        one[..BLOCK].copy_from_slice(&begun);
        let kept = ["kept"; 4];
        assert_eq!(texts([&one, &two]).expect("whole"), [&kept[..], &["new!"]].concat());
        // Its first write is torn.
        one[RECORD_HEAD] ^= 1;
        assert_eq!(texts([&one, &two]).expect("torn"), kept);
        // The only file, and its first record is damaged.
        let mut only = vec![];
        write(&mut only, 1, 0, b"lost");
        write(&mut only, 1, 1, b"more");
        only[40] ^= 1;
        assert_eq!(texts([&only, &[]]), Err(Damaged { which: 0, position: 0 }));
        assert_eq!(texts([&[0; 3 * BLOCK], &[]]), Ok(vec![]));
    }

    #[test]
    fn nonsense_is_no_record() {
        let mut file = vec![];
        write(&mut file, 1, 0, b"text");
        for len in 0..RECORD_HEAD + 2 * (FRAME_HEAD + 4) {
            assert_eq!(texts([&file[..len], &[]]), Ok(vec![]), "{len} bytes");
        }
        // Frames that do not fill the record, with a good checksum.
        for (at, value) in [(12, 3), (12, 1), (RECORD_HEAD + 20, 200)] {
            let mut bad = file.clone();
            bad[at] = value;
            let len = RECORD_HEAD + 2 * (FRAME_HEAD + 4);
            let crc = crc32fast::hash(&bad[8..len]);
            bad[4..8].copy_from_slice(&crc.to_le_bytes());
            let damaged = Damaged { which: 0, position: 0 };
            assert_eq!(texts([&bad, &[]]), Err(damaged), "byte {at}");
        }
    }
}
