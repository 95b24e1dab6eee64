//! The bytes of one simulated file: what a read returns now, what a loss of
//! power certainly leaves, and the changes in between.

use std::collections::BTreeMap;
use std::rc::Rc;

use corelane::base::pages::BLOCK;
use corelane::base::rng::Rng;

/// What a drive overwrites whole or not at all.
pub const SECTOR: usize = 512;

/// Bytes by block; a block that is not there reads as zeros.
#[derive(Clone, Debug, Default)]
pub struct Content {
    len: u64,
    /// Shared between what is durable and what is read now.
    blocks: BTreeMap<u64, Rc<[u8; BLOCK]>>,
}

impl Content {
    pub fn of(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.write(0, bytes);
        content
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn read(&self, position: u64, into: &mut [u8]) -> usize {
        let len = (self.len.saturating_sub(position) as usize).min(into.len());
        let into = &mut into[..len];
        into.fill(0);
        let end = position + len as u64;
        let first = position / BLOCK as u64;
        for (block, bytes) in self.blocks.range(first..end.div_ceil(BLOCK as u64)) {
            let start = block * BLOCK as u64;
            let (from, to) = (start.max(position), (start + BLOCK as u64).min(end));
            into[(from - position) as usize..(to - position) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        len
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        self.read(0, &mut bytes);
        bytes
    }

    pub fn write(&mut self, position: u64, bytes: &[u8]) {
        self.len = self.len.max(position + bytes.len() as u64);
        let mut done = 0;
        while done < bytes.len() {
            let at = position + done as u64;
            let (block, local) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let now = (BLOCK - local).min(bytes.len() - done);
            let page = self.blocks.entry(block).or_insert_with(|| Rc::new([0; BLOCK]));
            Rc::make_mut(page)[local..local + now].copy_from_slice(&bytes[done..done + now]);
            done += now;
        }
    }

    /// Sets the length; `lies` leaves the bytes behind it where they are.
    fn set_len(&mut self, len: u64, lies: bool) {
        self.len = len;
        if lies {
            return;
        }
        let (block, local) = (len / BLOCK as u64, (len % BLOCK as u64) as usize);
        self.blocks.split_off(&(block + u64::from(local > 0)));
        if local > 0
            && let Some(bytes) = self.blocks.get_mut(&block)
        {
            Rc::make_mut(bytes)[local..].fill(0);
        }
    }
}

/// A change of a file.
#[derive(Clone, Debug)]
pub enum Change {
    Write { position: u64, bytes: Vec<u8> },
    Truncate { len: u64 },
    Extend { len: u64 },
}

#[derive(Debug)]
struct Unsynced {
    /// Names the operation that made it.
    operation: u64,
    /// The operation has been told complete.
    complete: bool,
    change: Change,
}

/// One file.
#[derive(Debug, Default)]
pub struct File {
    now: Content,
    durable: Content,
    unsynced: Vec<Unsynced>,
}

impl File {
    /// A file that is durable as it is.
    pub fn durable(bytes: &[u8]) -> Self {
        let content = Content::of(bytes);
        Self { now: content.clone(), durable: content, unsynced: vec![] }
    }

    pub fn now(&self) -> &Content {
        &self.now
    }

    /// Makes `change` visible.
    pub fn change(&mut self, operation: u64, change: Change, truncate_lies: bool) {
        apply(&mut self.now, &change, truncate_lies);
        self.unsynced.push(Unsynced { operation, complete: false, change });
    }

    /// The operation is told complete: a sync asked for from now on covers it.
    pub fn complete(&mut self, operation: u64) {
        for change in self.unsynced.iter_mut().filter(|change| change.operation == operation) {
            change.complete = true;
        }
    }

    /// The process died: what took effect has happened, told or not.
    pub fn complete_all(&mut self) {
        for change in &mut self.unsynced {
            change.complete = true;
        }
    }

    /// The operations that a sync asked for now covers.
    pub fn syncable(&self) -> Vec<u64> {
        let complete = self.unsynced.iter().filter(|change| change.complete);
        complete.map(|change| change.operation).collect()
    }

    /// Makes those operations durable.
    pub fn sync(&mut self, operations: &[u64], truncate_lies: bool) {
        let durable = &mut self.durable;
        self.unsynced.retain(|unsynced| {
            let synced = operations.contains(&unsynced.operation);
            if synced {
                apply(durable, &unsynced.change, truncate_lies);
            }
            !synced
        });
    }

    /// A sync failed: any of what it covered is lost, and reads show it, since
    /// there is no cache between direct I/O and the drive. The rest stays
    /// unsynced.
    pub fn fail_sync(&mut self, operations: &[u64], rng: &mut Rng) {
        let odds = *pick(rng, &[0, 1, 2]);
        self.unsynced
            .retain(|unsynced| !operations.contains(&unsynced.operation) || rng.chance(odds, 2));
        self.now = self.durable.clone();
        for unsynced in &self.unsynced {
            apply(&mut self.now, &unsynced.change, false);
        }
    }

    /// The power goes: of what is not durable, any sectors stay, and lengths as
    /// they were up to some change.
    pub fn lose_power(&mut self, rng: &mut Rng, truncate_lies: bool) {
        if self.unsynced.is_empty() {
            self.now = self.durable.clone();
            return;
        }
        let is_length = |unsynced: &&Unsynced| !matches!(unsynced.change, Change::Write { .. });
        let lengths = self.unsynced.iter().filter(is_length).count() as u64;
        let mut lengths_kept = rng.between(0, lengths);
        let mut after = std::mem::take(&mut self.durable);
        for unsynced in self.unsynced.drain(..) {
            match unsynced.change {
                Change::Write { position, bytes } => {
                    // Often all or nothing, which plain chance would seldom give.
                    let odds = *pick(rng, &[0, 1, 4, 7, 8]);
                    for (at, sector) in (0..).zip(bytes.chunks(SECTOR)) {
                        if rng.chance(odds, 8) {
                            after.write(position + at * SECTOR as u64, sector);
                        }
                    }
                }
                change if lengths_kept > 0 => {
                    lengths_kept -= 1;
                    apply(&mut after, &change, truncate_lies);
                }
                _ => {}
            }
        }
        self.now = after.clone();
        self.durable = after;
    }
}

fn apply(content: &mut Content, change: &Change, truncate_lies: bool) {
    match change {
        Change::Write { position, bytes } => content.write(*position, bytes),
        Change::Truncate { len } => content.set_len(*len, truncate_lies),
        Change::Extend { len } => content.len = content.len.max(*len),
    }
}

/// One of `items`.
pub fn pick<'a, T>(rng: &mut Rng, items: &'a [T]) -> &'a T {
    &items[rng.below(items.len() as u64) as usize]
}
