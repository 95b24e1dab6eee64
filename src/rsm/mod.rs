//! Replicated state machines: the state of a coordinator as what the records of
//! one partition add up to.
//!
//! A [`StateMachine`] changes what it promised to keep by [`apply`] alone, with
//! the same records live and when they are read again after a restart. A
//! [`Host`] keeps one with its partition. States: *loading*, from the first
//! offset to the end of what is committed; *active*; *failed*, when the
//! partition cannot be read. Records that the machine decides on are appended as
//! one batch, and applied when that is committed as acks=all is: what anybody
//! reads from the state survives. Kafka applies at once and takes back what was
//! not committed (`CoordinatorRuntime.java`); here nothing is ever taken back.
//!
//! The host has no partition: it says what to read and gives out batches, and
//! hears how that went. Batches of one host must be appended in the order they
//! were given out. Loading goes on in slices of [`SLICE_BYTES`].
//!
//! [`apply`]: StateMachine::apply

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::time::UnixMillis;
use crate::model::batch::BatchHeader;
use crate::model::error_code::ErrorCode;
use crate::model::record::{BatchBuilder, Codec, decode_records};

/// Bytes of batches that one slice of loading opens; at least one batch.
pub const SLICE_BYTES: usize = 32 << 10;

/// Bytes that are asked for at a time while loading.
pub const READ_BYTES: usize = 256 << 10;

/// What a batch may unfold to while loading.
const UNFOLDED_MAX: usize = 64 << 20;

/// A state that follows from records.
pub trait StateMachine {
    /// One change of the state.
    type Record;
    /// What is to be done when a batch of records is committed, or is not.
    type Then;

    /// The bytes of a record.
    fn encode(record: &Self::Record) -> KeyValue;

    /// Reads a record.
    ///
    /// # Errors
    /// Why it cannot be read, for people; it is passed over.
    fn decode(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Self::Record, String>;

    /// Makes the change. `live` is false while loading.
    fn apply(&mut self, record: Self::Record, live: bool);
}

/// Key and value of a record; no value is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Option<Vec<u8>>,
}

/// A state machine and the partition it lives on.
#[derive(Debug)]
pub struct Host<M: StateMachine> {
    /// The state.
    machine: M,
    life: Life,
    /// Batches that are neither committed nor refused, by number.
    writes: BTreeMap<u64, Write<M>>,
}

/// Records on their way, and what comes after.
struct Write<M: StateMachine> {
    records: Vec<M::Record>,
    then: M::Then,
}

impl<M: StateMachine> std::fmt::Debug for Write<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Write").field("records", &self.records.len()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Life {
    Loading(Loader),
    Active,
    Failed,
}

/// How far loading has come.
#[derive(Debug, Default)]
struct Loader {
    /// The next offset wanted.
    offset: i64,
    /// What was read and is not applied, whole batches first.
    bytes: Bytes,
    /// Records that could not be read.
    skipped: u64,
}

/// What became of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadResult {
    /// The outcome on the wire's terms.
    pub error: ErrorCode,
    /// First offset of the log, -1 if unknown.
    pub log_start_offset: i64,
    /// End of what is committed, -1 if unknown.
    pub high_watermark: i64,
    /// Batches from the one that holds the offset on; the last may be cut short.
    pub bytes: Bytes,
}

/// What loading wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A read from this offset.
    Read(i64),
    /// Another slice.
    Slice,
    /// Nothing: all is loaded. Said once.
    Loaded,
    /// Nothing: the partition cannot be read. Said once.
    Failed,
}

impl<M: StateMachine> Host<M> {
    /// A machine whose records are to be read. The first thing wanted is a read
    /// from offset 0.
    pub fn new(machine: M) -> Self {
        Self { machine, life: Life::Loading(Loader::default()), writes: BTreeMap::new() }
    }

    /// The machine, once it is loaded.
    ///
    /// # Errors
    /// COORDINATOR_LOAD_IN_PROGRESS while it loads, NOT_COORDINATOR if it cannot.
    pub fn machine(&mut self) -> Result<&mut M, ErrorCode> {
        match self.life {
            Life::Loading(_) => Err(ErrorCode::CoordinatorLoadInProgress),
            Life::Active => Ok(&mut self.machine),
            Life::Failed => Err(ErrorCode::NotCoordinator),
        }
    }

    /// Whether the machine is still being loaded.
    pub fn is_loading(&self) -> bool {
        matches!(self.life, Life::Loading(_))
    }

    /// Takes in what was read.
    pub fn read(&mut self, result: ReadResult) -> Progress {
        let Life::Loading(loader) = &mut self.life else { return Progress::Failed };
        match result.error {
            ErrorCode::None => {}
            // The log begins later than was thought.
            ErrorCode::OffsetOutOfRange if result.log_start_offset > loader.offset => {
                loader.offset = result.log_start_offset;
                return Progress::Read(loader.offset);
            }
            _ => {
                self.life = Life::Failed;
                return Progress::Failed;
            }
        }
        if result.bytes.is_empty() {
            // Nothing is left below the high watermark.
            return if result.high_watermark > loader.offset {
                Progress::Read(loader.offset)
            } else {
                if loader.skipped > 0 {
                    tracing::error!("{} records of a coordinator were skipped", loader.skipped);
                }
                self.life = Life::Active;
                Progress::Loaded
            };
        }
        loader.bytes = result.bytes;
        Progress::Slice
    }

    /// Applies some of what was read.
    pub fn slice(&mut self) -> Progress {
        let Life::Loading(loader) = &mut self.life else { return Progress::Failed };
        let mut done = 0;
        while done < SLICE_BYTES {
            let header = BatchHeader::decode(&loader.bytes);
            let Some((header, len)) = header
                .and_then(|header| Some((header, header.total_len()?)))
                .filter(|(_, len)| *len <= loader.bytes.len())
            else {
                return Progress::Read(loader.offset);
            };
            let batch = loader.bytes.split_to(len);
            done += len;
            let first = loader.offset;
            // The log has only batches that follow each other.
            loader.offset = header.next_offset().max(first + 1);
            if header.is_control() {
                continue;
            }
            let records = match decode_records(&batch, UNFOLDED_MAX) {
                Ok(records) => records,
                Err(error) => {
                    loader.skipped += header.record_count.max(1) as u64;
                    let offset = header.base_offset;
                    tracing::error!(
                        "skipping a batch of a coordinator at offset {offset}: {error}"
                    );
                    continue;
                }
            };
            for record in records.into_iter().filter(|record| record.offset >= first) {
                match M::decode(record.key.as_deref(), record.value.as_deref()) {
                    Ok(change) => self.machine.apply(change, false),
                    Err(reason) => {
                        loader.skipped += 1;
                        let offset = record.offset;
                        tracing::error!(
                            "skipping a record of a coordinator at offset {offset}: {reason}"
                        );
                    }
                }
            }
        }
        Progress::Slice
    }

    /// Takes records that were decided on as write `number`, which is given out
    /// once, and returns the batch to append; none if there are no records, for
    /// which nothing has to wait.
    ///
    /// # Panics
    /// If the machine is not active.
    pub fn write(
        &mut self,
        now: UnixMillis,
        number: u64,
        records: Vec<M::Record>,
        then: M::Then,
    ) -> Vec<u8> {
        assert!(matches!(self.life, Life::Active), "only who is loaded decides");
        assert!(!records.is_empty(), "a decision without records waits for nothing");
        let mut batch = BatchBuilder::new(Codec::None);
        for record in &records {
            let KeyValue { key, value } = M::encode(record);
            batch.push(now.0, Some(&key), value.as_deref(), &[]);
        }
        self.writes.insert(number, Write { records, then });
        batch.finish()
    }

    /// Write `number` is committed, or was refused: applies its records in the
    /// first case. Returns what is to be done now.
    pub fn written(&mut self, number: u64, committed: bool) -> Option<M::Then> {
        let write = self.writes.remove(&number)?;
        if committed {
            for record in write.records {
                self.machine.apply(record, true);
            }
        }
        Some(write.then)
    }

    /// Gives up what is on its way, which will not be heard of: what is to be done
    /// instead, in order.
    pub fn abandon(&mut self) -> Vec<M::Then> {
        std::mem::take(&mut self.writes).into_values().map(|write| write.then).collect()
    }

    /// Batches that are neither committed nor refused.
    pub fn writes_open(&self) -> usize {
        self.writes.len()
    }
}
