//! The snapshot file: all metadata up to one entry of the log, and what a
//! member must know to go on from there without anything older.
//!
//! ```text
//! magic u32 | crc u32 | version u8 | index u64 | term u64 | offset u64 |
//! ballot (term u64, vote u64, commit u64) | voters | cluster id | records
//! ```
//!
//! The CRC-32 covers all that follows it. The file is only ever replaced as a
//! whole.

use super::Ballot;
use crate::metadata::codec::{CodecError, Reader, put_count, put_str};

const MAGIC: u32 = u32::from_le_bytes(*b"CLRS");
const VERSION: u8 = 1;
const BODY: usize = 8;

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry it stands for.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The last entry up to there that has records: the image's position.
    pub offset: u64,
    /// The member's ballot when it was made.
    pub ballot: Ballot,
    /// Raft ids of the voters.
    pub voters: Vec<u64>,
    /// The cluster.
    pub cluster_id: String,
    /// A batch of records that builds the image.
    pub records: Vec<u8>,
}

/// Why a snapshot file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It is not what was written.
    #[error("the metadata snapshot is corrupt: its checksum does not fit")]
    Checksum,
    /// It is, but cannot be understood.
    #[error("the metadata snapshot cannot be read: {0}")]
    Codec(#[from] CodecError),
}

impl Snapshot {
    /// The index of the snapshot that a cluster is born from.
    pub const BIRTH: u64 = 1;

    /// The snapshot of a new cluster whose only voter is `voter`.
    pub fn birth(cluster_id: &str, voter: u64, records: Vec<u8>) -> Self {
        Self {
            index: Self::BIRTH,
            term: 1,
            offset: Self::BIRTH,
            ballot: Ballot { term: 1, vote: 0, commit: Self::BIRTH },
            voters: vec![voter],
            cluster_id: cluster_id.to_owned(),
            records,
        }
    }

    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.records.len() + 128);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.push(VERSION);
        let Ballot { term, vote, commit } = self.ballot;
        for number in [self.index, self.term, self.offset, term, vote, commit] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_count(&mut out, self.voters.len());
        for voter in &self.voters {
            out.extend_from_slice(&voter.to_le_bytes());
        }
        put_str(&mut out, &self.cluster_id);
        put_count(&mut out, self.records.len());
        out.extend_from_slice(&self.records);
        let crc = crc32fast::hash(&out[BODY..]);
        out[4..BODY].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a file's bytes, whatever they are.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut from = Reader::new(bytes);
        if from.u32("a snapshot's magic")? != MAGIC {
            return Err(CodecError::Malformed("a snapshot's magic").into());
        }
        let crc = from.u32("a snapshot's checksum")?;
        if crc32fast::hash(&bytes[BODY..]) != crc {
            return Err(SnapshotError::Checksum);
        }
        let version = from.u8("a snapshot's version")?;
        if version != VERSION {
            let what = "the metadata snapshot";
            return Err(CodecError::Version { what, version, newest: VERSION }.into());
        }
        let mut number = || from.u64("a snapshot's head");
        let (index, term, offset) = (number()?, number()?, number()?);
        let ballot = Ballot { term: number()?, vote: number()?, commit: number()? };
        let voters = from.count(8, "a snapshot's voters")?;
        let voters = (0..voters).map(|_| from.u64("a voter")).collect::<Result<_, _>>()?;
        let cluster_id = from.str("a snapshot's cluster id")?.to_owned();
        let len = from.count(1, "a snapshot's records")?;
        let records = from.take(len, "a snapshot's records")?.to_vec();
        from.end("a snapshot's end")?;
        Ok(Self { index, term, offset, ballot, voters, cluster_id, records })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_comes_back_and_any_damage_is_noticed() {
        let mut snapshot = Snapshot::birth("cluster", 7, vec![1, 2, 3]);
        snapshot.voters.push(9);
        let bytes = snapshot.encode();
        assert_eq!(Snapshot::decode(&bytes), Ok(snapshot));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(Snapshot::decode(&damaged).is_err(), "byte {at}");
            assert!(Snapshot::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
