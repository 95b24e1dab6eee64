//! The format of a core's journal: what was appended to many logs, in one write.
//!
//! A write of the journal is one record at a multiple of the block, padded with zeros;
//! [`beginning`] and [`Record`] make them, [`scan`] reads the two files of a core:
//!
//! ```text
//! magic "CLJW" | crc u32 | len u32 | count u32 | epoch u64 | number u64 | body
//! body: frames; of number 0: records u64
//! frame: topic id (16) | partition i32 | length u32 | segment i64 | position u64 | bytes
//! ```
//!
//! All numbers are little-endian. The CRC-32 covers everything behind it. Each time
//! a file is begun it has the next epoch of the core, and its first record says how
//! many records the epoch before has, in the other file. That record is synced before
//! the next one is written, and lies in one sector: so it is whole, the one before it is
//! still there, or nothing was ever written. One write is in flight at a time, so what
//! is torn is the last record of the newest epoch, and everything else that does not
//! check out is damage.
//!
//! When it is written and read: `replica/journal.rs`, `controller/replay.rs`, and
//! `docs/adr/0011-a-journal-for-small-groups.md`.

use crate::base::limits::JOURNAL_GROUP_MAX;
use crate::base::pages::{BLOCK, align_up};
use crate::model::ids::{PartitionIndex, TopicId, TopicPartition};

const MAGIC: [u8; 4] = *b"CLJW";

/// Bytes of a record before its frames.
pub const RECORD_HEAD: usize = 32;

/// Bytes of the first record of a file.
const BEGINNING: usize = RECORD_HEAD + 8;

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

/// The first record of a file that is begun as `epoch`, after an epoch that has so many
/// `records`. Not padded.
pub fn beginning(epoch: u64, records: u64) -> [u8; BEGINNING] {
    let mut bytes = [0; BEGINNING];
    bytes[RECORD_HEAD..].copy_from_slice(&records.to_le_bytes());
    put_head(&mut bytes, 0, epoch, 0);
    bytes
}

/// Fills in the head of a record.
fn put_head(record: &mut [u8], count: u32, epoch: u64, number: u64) {
    let len = record.len() as u32;
    record[..4].copy_from_slice(&MAGIC);
    record[8..12].copy_from_slice(&len.to_le_bytes());
    record[12..16].copy_from_slice(&count.to_le_bytes());
    record[16..24].copy_from_slice(&epoch.to_le_bytes());
    record[24..32].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// A record of frames that is put together.
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

    /// The finished record, `number` of `epoch`, from 1 on. Not padded.
    pub fn finish(&mut self, epoch: u64, number: u64) -> &[u8] {
        put_head(&mut self.bytes, self.count, epoch, number);
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

/// A record that was synced is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a damaged record at byte {position}, with later ones behind it or in the other file")]
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
    let newest = usize::from(scans[1].epoch > scans[0].epoch);
    let older = &scans[1 - newest];
    // What was synced of the older one is known by the newer one. If one of them is not
    // there, it has been replayed and removed.
    let both = files.iter().all(|file| !file.is_empty());
    let (epoch, records) = (scans[newest].epoch.saturating_sub(1), scans[newest].before);
    let complete = !both || (older.epoch, older.records) == (epoch, records);
    for (which, scan) in scans.iter().enumerate() {
        if scan.damaged || (which != newest && !complete) {
            return Err(Damaged { which, position: scan.end });
        }
    }
    let mut scans = scans;
    let newer = std::mem::take(&mut scans[newest].pieces);
    let mut pieces = std::mem::take(&mut scans[1 - newest].pieces);
    pieces.extend(newer);
    Ok(pieces)
}

#[derive(Default)]
struct FileScan<'a> {
    /// Of its records, 0 if there are none.
    epoch: u64,
    /// Records that the epoch before has.
    before: u64,
    /// Records, the first one included.
    records: u64,
    pieces: Vec<Piece<'a>>,
    /// Where they end.
    end: usize,
    /// What is there is no torn write.
    damaged: bool,
}

fn scan_file(bytes: &[u8]) -> FileScan<'_> {
    let mut scan = FileScan::default();
    let first = decode_head(bytes).filter(|head| head.number == 0);
    let before = first.as_ref().and_then(|head| u64_at(head.bytes, RECORD_HEAD));
    let (Some(head), Some(before)) = (first, before) else {
        scan.damaged = bytes.iter().take(BLOCK).any(|byte| *byte != 0);
        return scan;
    };
    (scan.epoch, scan.before, scan.records, scan.end) = (head.epoch, before, 1, BLOCK);
    while let Some(head) = bytes.get(scan.end..).and_then(decode_head)
        && (head.epoch, head.number) == (scan.epoch, scan.records)
        && let Some(mut pieces) = decode_frames(&head)
    {
        scan.pieces.append(&mut pieces);
        scan.end += align_up(head.bytes.len() as u64) as usize;
        scan.records += 1;
    }
    let mut behind = (scan.end..bytes.len()).step_by(BLOCK).filter_map(|at| {
        let head = decode_head(&bytes[at..])?;
        Some((head.epoch, head.number))
    });
    scan.damaged = behind.any(|(epoch, number)| epoch == scan.epoch && number > scan.records);
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

    fn pad(file: &mut Vec<u8>) {
        file.resize(file.len().next_multiple_of(BLOCK), 0);
    }

    /// Puts a record of two frames that say `text` behind `file`.
    fn write(file: &mut Vec<u8>, epoch: u64, number: u64, text: &[u8]) {
        let mut record = Record::default();
        record.clear();
        record.push(log(1), 0, 7, text.len() as u32, [text].into_iter());
        record.push(log(2), 5, 9, text.len() as u32, text.chunks(2));
        file.extend_from_slice(record.finish(epoch, number));
        pad(file);
    }

    /// A file of an epoch after one of `before` records, with so many texts.
    fn file(epoch: u64, before: u64, texts: &[&str]) -> Vec<u8> {
        let mut file = beginning(epoch, before).to_vec();
        pad(&mut file);
        for (text, number) in texts.iter().zip(1..) {
            write(&mut file, epoch, number, text.as_bytes());
        }
        file
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
    fn what_was_written_is_read_oldest_first_and_any_damage_is_seen() {
        let one = file(4, 4, &["new0", "new1"]);
        let two = file(3, 9, &["old0", "old1", "old2"]);
        let all = ["old0", "old1", "old2", "new0", "new1"];
        assert_eq!(texts([&one, &two]).expect("whole"), all);
        assert_eq!(texts([&two, &one]).expect("whole"), all);
        for (which, record, damaged) in
            [(0, 0, true), (0, 1, true), (0, 2, false), (1, 0, true), (1, 1, true), (1, 3, true)]
        {
            let len = if record == 0 { BEGINNING } else { RECORD_HEAD + 2 * (FRAME_HEAD + 4) };
            for bit in 0..8 * len {
                let mut files = [one.clone(), two.clone()];
                files[which][record * BLOCK + bit / 8] ^= 1 << (bit % 8);
                let expected = match damaged {
                    true => Err(Damaged { which, position: record * BLOCK }),
                    // A torn write looks the same.
                    false => Ok(all[..4].iter().map(|text| (*text).to_owned()).collect()),
                };
                assert_eq!(texts([&files[0], &files[1]]), expected, "{which} {record} {bit}");
            }
        }
    }

    #[test]
    fn a_file_that_is_begun_again_forgets_what_it_had() {
        let old = file(1, 0, &["gone"; 4]);
        let two = file(2, 5, &["kept"; 4]);
        let kept = ["kept"; 4];
        let gone = ["gone"; 4];
        // The beginning has not reached the disk, has, and so has a record.
        assert_eq!(texts([&old, &two]).expect("whole"), [gone, kept].concat());
        let mut one = old.clone();
        one[..BEGINNING].copy_from_slice(&beginning(3, 5));
        assert_eq!(texts([&one, &two]).expect("whole"), kept);
        let mut record = vec![];
        write(&mut record, 3, 1, &[b'n'; BLOCK]);
        let len = record.len();
        one[BLOCK..][..len].copy_from_slice(&record);
        assert_eq!(texts([&one, &two]).expect("whole").len(), 5);
        // Of which any part is torn.
        for torn in 1..len / BLOCK + 1 {
            let mut one = one.clone();
            one[torn * BLOCK..][..BLOCK].copy_from_slice(&old[..BLOCK]);
            assert_eq!(texts([&one, &two]).expect("torn"), kept);
        }
    }

    #[test]
    fn files_that_were_never_begun_or_are_removed() {
        let (one, two) = (file(1, 0, &["text"]), file(2, 2, &["more"]));
        let zeros = [0; 3 * BLOCK];
        assert_eq!(texts([&zeros, &zeros]), Ok(vec![]));
        assert_eq!(texts([&one, &zeros]).expect("whole"), ["text"]);
        assert_eq!(texts([&[], &two]).expect("whole"), ["more"]);
        assert_eq!(texts([&one, &[]]).expect("whole"), ["text"]);
        let damaged = Damaged { which: 0, position: 0 };
        assert_eq!(texts([&zeros, &two]), Err(damaged), "the first one is gone");
    }

    #[test]
    fn nonsense_is_no_record() {
        let whole = file(1, 0, &["text"]);
        for len in 0..RECORD_HEAD + 2 * (FRAME_HEAD + 4) {
            assert_eq!(texts([&whole[..BLOCK + len], &[]]), Ok(vec![]), "{len} bytes");
        }
        // Frames that do not fill the record, with a good checksum.
        for (at, value) in [(12, 3), (12, 1), (RECORD_HEAD + 20, 200)] {
            let mut bad = whole.clone();
            bad[BLOCK + at] = value;
            let len = RECORD_HEAD + 2 * (FRAME_HEAD + 4);
            let crc = crc32fast::hash(&bad[BLOCK + 8..][..len - 8]);
            bad[BLOCK + 4..][..4].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(texts([&bad, &[]]), Ok(vec![]), "byte {at}: as a torn one");
            write(&mut bad, 1, 2, b"more");
            let damaged = Damaged { which: 0, position: BLOCK };
            assert_eq!(texts([&bad, &[]]), Err(damaged), "byte {at}");
        }
    }
}
