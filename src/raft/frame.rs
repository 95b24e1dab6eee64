//! The metadata log on disk: frames in a segment file.
//!
//! A frame is, in little-endian numbers:
//!
//! ```text
//! magic u32 | crc u32 | len u32 | kind u8 | last u8 | 0 u16 |
//! write u64 | index u64 | term u64 | data (len bytes) | zeros to 8 bytes
//! ```
//!
//! The CRC-32 covers the frame's position in the file and all that follows the
//! CRC itself. Frames that are written and synced together carry one number
//! (`write`, counting from 1 in each segment), and the last of them says so: a
//! write happened as a whole or not at all. Since the next write is handed out
//! after the sync of the one before, only the last write of a segment can be
//! torn. So [`scan`] drops a write that is not whole at the end, and calls the
//! file corrupt when anything of a still later write stands behind it.

use super::{Ballot, Entry};
use crate::base::limits::METADATA_BATCH_MAX;
use crate::metadata::codec::Reader;

const MAGIC: u32 = u32::from_le_bytes(*b"CLRF");
const HEADER: usize = 40;
const ALIGN: usize = 8;

const KIND_BALLOT: u8 = 1;
const KIND_ENTRY: u8 = 2;

/// What a frame holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The newest ballot.
    Ballot(Ballot),
    /// The next entry, or one that replaces those from its index on.
    Entry(Entry),
}

/// What a segment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The frames of all whole writes.
    pub frames: Vec<Frame>,
    /// Where they end, in bytes: a multiple of eight.
    pub end: u64,
    /// Number of the last whole write, zero if there is none.
    pub write: u64,
    /// Whether anything but zeros follows: a write that was never synced.
    pub torn: bool,
}

/// Frames are damaged that had been synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the metadata log is corrupt: the frame at byte {position} is damaged, but write {later} at \
     byte {later_position} was made after it had been synced"
)]
pub struct Corrupt {
    /// Where the damage starts, in bytes.
    pub position: u64,
    /// The write that proves it.
    pub later: u64,
    /// Where that one is, in bytes.
    pub later_position: u64,
}

/// Adds one write: `ballot`, if it is to be kept, then `entries`. `position` is
/// the file's end, where `out` goes, and `write` its number, one more than the
/// last one's.
///
/// # Panics
/// If there is nothing to write, or an entry is longer than the limits allow.
pub fn encode_write(
    out: &mut Vec<u8>,
    position: u64,
    write: u64,
    ballot: Option<Ballot>,
    entries: &[Entry],
) {
    assert!(ballot.is_some() || !entries.is_empty(), "a write has at least one frame");
    let start = out.len();
    let place = |out: &Vec<u8>| position + (out.len() - start) as u64;
    if let Some(ballot) = ballot {
        let head = Head {
            kind: KIND_BALLOT,
            last: entries.is_empty(),
            write,
            index: ballot.commit,
            term: ballot.term,
        };
        head.put(out, place(out), &ballot.vote.to_le_bytes());
    }
    for (at, entry) in entries.iter().enumerate() {
        assert!(entry.data.len() <= METADATA_BATCH_MAX, "an entry is within its limit");
        let head = Head {
            kind: KIND_ENTRY,
            last: at + 1 == entries.len(),
            write,
            index: entry.index,
            term: entry.term,
        };
        head.put(out, place(out), &entry.data);
    }
}

/// Reads a whole segment, whatever its bytes are.
pub fn scan(bytes: &[u8]) -> Result<Scan, Corrupt> {
    let mut found = Scan::default();
    let mut whole = 0;
    let mut at = 0;
    while let Some((head, data)) = read(bytes, at).filter(|(head, _)| head.write == found.write + 1)
    {
        let Some(frame) = decode(&head, data) else { break };
        found.frames.push(frame);
        at += frame_len(data.len());
        if head.last {
            found.write = head.write;
            found.end = at as u64;
            whole = found.frames.len();
        }
    }
    found.frames.truncate(whole);
    let rest = found.end as usize;
    // Space is reserved behind the frames: zeros by the megabyte, taken by the block.
    let is_zero = |block: &[u8]| block.iter().fold(0, |all, byte| all | byte) == 0;
    found.torn = !bytes[rest.min(bytes.len())..].chunks(1024).all(is_zero);
    if found.torn {
        // The write after the last whole one may be torn; a later one proves
        // that it had been whole.
        for later_position in (rest..bytes.len()).step_by(ALIGN) {
            if let Some((head, _)) = read(bytes, later_position)
                && head.write > found.write + 1
            {
                return Err(Corrupt {
                    position: at as u64,
                    later: head.write,
                    later_position: later_position as u64,
                });
            }
        }
    }
    Ok(found)
}

struct Head {
    kind: u8,
    last: bool,
    write: u64,
    index: u64,
    term: u64,
}

impl Head {
    fn put(&self, out: &mut Vec<u8>, position: u64, data: &[u8]) {
        let start = out.len();
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(data.len() as u32).to_le_bytes());
        out.extend_from_slice(&[self.kind, u8::from(self.last), 0, 0]);
        for number in [self.write, self.index, self.term] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(data);
        let crc = checksum(position, &out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + frame_len(data.len()), 0);
    }
}

/// Bytes that a frame with `len` bytes of data takes.
fn frame_len(len: usize) -> usize {
    (HEADER + len).next_multiple_of(ALIGN)
}

fn checksum(position: u64, covered: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&position.to_le_bytes());
    crc.update(covered);
    crc.finalize()
}

/// The frame that starts at byte `at`, if there is a whole one.
fn read(bytes: &[u8], at: usize) -> Option<(Head, &[u8])> {
    let frame = bytes.get(at..)?;
    let mut from = Reader::new(frame);
    if from.u32("magic").ok()? != MAGIC {
        return None;
    }
    let crc = from.u32("crc").ok()?;
    let len = from.u32("length").ok()? as usize;
    if len > METADATA_BATCH_MAX {
        return None;
    }
    let (kind, last) = (from.u8("kind").ok()?, from.u8("last").ok()?);
    from.u16("zeros").ok()?;
    let mut number = || from.u64("number").ok();
    let head = Head { kind, last: last == 1, write: number()?, index: number()?, term: number()? };
    let data = from.take(len, "data").ok()?;
    (checksum(at as u64, &frame[8..HEADER + len]) == crc).then_some((head, data))
}

fn decode(head: &Head, data: &[u8]) -> Option<Frame> {
    let (index, term) = (head.index, head.term);
    match head.kind {
        KIND_BALLOT => {
            let vote = u64::from_le_bytes(data.try_into().ok()?);
            Some(Frame::Ballot(Ballot { term, vote, commit: index }))
        }
        KIND_ENTRY => Some(Frame::Entry(Entry { index, term, data: data.to_vec() })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn ballot() -> Ballot {
        Ballot { term: 3, vote: 11, commit: 4 }
    }

    fn entry(index: u64, len: usize) -> Entry {
        Entry { index, term: 3, data: vec![index as u8; len] }
    }

    /// A segment of `writes` writes, and where each of them ends.
    fn segment(writes: u64) -> (Vec<u8>, Vec<usize>, Vec<Frame>) {
        let (mut bytes, mut ends, mut frames) = (Vec::new(), Vec::new(), Vec::new());
        for write in 1..=writes {
            let entries = [entry(2 * write, 700), entry(2 * write + 1, 5)];
            let position = bytes.len() as u64;
            encode_write(&mut bytes, position, write, Some(ballot()), &entries);
            ends.push(bytes.len());
            frames.push(Frame::Ballot(ballot()));
            frames.extend(entries.map(Frame::Entry));
        }
        bytes.resize(bytes.len() + 4096, 0);
        (bytes, ends, frames)
    }

    #[test]
    fn what_was_written_is_read_up_to_the_zeros() {
        let (bytes, ends, frames) = segment(3);
        let expected = Scan { frames, end: ends[2] as u64, write: 3, torn: false };
        assert_eq!(scan(&bytes), Ok(expected));
        assert_eq!(scan(&[0; 9000]), Ok(Scan::default()));
        assert_eq!(scan(&[]), Ok(Scan::default()));
    }

    #[test]
    fn a_torn_last_write_never_happened() {
        let (bytes, ends, frames) = segment(3);
        for damaged in ends[1]..ends[2] {
            let mut torn = bytes.clone();
            torn[damaged] ^= 0x55;
            let found = scan(&torn).unwrap();
            // The padding of a frame is not covered, and harms nobody.
            if found.write == 3 {
                assert_eq!(found.frames, frames);
                continue;
            }
            assert_eq!((found.write, found.end, found.torn), (2, ends[1] as u64, true));
            assert_eq!(found.frames, frames[..6]);
        }
        for cut in ends[1]..ends[2] {
            let found = scan(&bytes[..cut]).unwrap();
            assert!(
                found.write == 2 || (found.write == 3 && cut + ALIGN > ends[2]),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn damage_before_a_later_write_is_corruption() {
        let (bytes, ends, _) = segment(4);
        for (damaged, later) in [(0, 3), (ends[0] - 60, 3), (ends[0] + 10, 3), (ends[1] + 5, 4)] {
            let mut corrupt = bytes.clone();
            corrupt[damaged] ^= 1;
            // Writes 3 and 4 were made after writes 1 and 2 had been synced.
            let error = scan(&corrupt).expect_err("corrupt");
            assert!(error.later >= later - 1 && error.position <= damaged as u64, "{error}");
        }
    }

    #[test]
    fn stale_frames_of_another_place_do_not_count() {
        let (bytes, ends, frames) = segment(2);
        let mut moved = bytes[..ends[1]].to_vec();
        moved.extend_from_slice(&bytes[ends[0]..ends[1]]);
        let found = scan(&moved).unwrap();
        assert_eq!((found.frames, found.torn), (frames, true));
    }

    #[test]
    fn hostile_bytes_never_panic() {
        let (bytes, ..) = segment(3);
        let mut rng = Rng::stream(2, "hostile frames");
        for _ in 0..3_000 {
            let mut hostile = bytes.clone();
            for _ in 0..rng.between(1, 40) {
                let at = rng.below(hostile.len() as u64) as usize;
                hostile[at] = rng.next_u64() as u8;
            }
            hostile.truncate(rng.between(0, bytes.len() as u64) as usize);
            if let Ok(found) = scan(&hostile) {
                assert!(found.end as usize <= hostile.len() + ALIGN);
            }
        }
    }
}
