//! `corelane consume --group`: reads as a member of a consumer group.
//!
//! What is printed is committed every second, when the group rebalances and at
//! the end; where nothing is committed a partition is read from its end, or with
//! `--from-beginning` from its start. A member that is killed prints at most the
//! last second's records once more when it is back; one that leaves by Ctrl-C or
//! `--max` none. Output that is blocked for longer than the session timeout costs
//! the membership, and what was not committed comes again.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::client::{Client, ClientError, Retry};
use super::super::consume::{ConsumeArgs, Consumer, print};
use super::super::progress::Progress;
use super::super::{CliError, plural};
use super::member::Member;

const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// How long a member without partitions rests between two looks.
const REST: Duration = Duration::from_millis(100);

/// Why a step was not done.
enum Failure {
    /// It may be done at another try.
    Passing(CliError),
    /// It was told to stop.
    Stopped,
    Final(CliError),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Stopped(_) => Self::Stopped,
            error if error.may_pass() => Self::Passing(error.into()),
            error => Self::Final(error.into()),
        }
    }
}

/// A member and what it reads.
struct Session<'a> {
    args: &'a ConsumeArgs,
    consumer: Consumer<'a>,
    member: Member,
    /// Has an assignment.
    inside: bool,
    /// What is committed of the assigned partitions.
    committed: BTreeMap<i32, i64>,
    commit_due: Instant,
    /// Records that may still be printed.
    left: u64,
    seen: usize,
}

/// Prints records until it is stopped.
pub fn run(
    args: &ConsumeArgs,
    group: &str,
    client: Client,
    stop: &AtomicBool,
) -> Result<(), CliError> {
    let mut session = Session {
        args,
        consumer: Consumer::without_positions(args, client)?,
        member: Member::new(group, args.topic()),
        inside: false,
        committed: BTreeMap::new(),
        commit_due: Instant::now() + COMMIT_INTERVAL,
        left: args.max(),
        seen: 0,
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = session.follow(&mut out, stop);
    // Where printing failed nobody knows what was read: it comes again.
    let result = result.and_then(|()| session.commit_all());
    let left = session.member.leave(session.consumer.client());
    match (result, left) {
        (Ok(()), Err(error)) => Err(error.into()),
        (result, _) => result,
    }
}

impl Session<'_> {
    fn follow(&mut self, out: &mut impl Write, stop: &AtomicBool) -> Result<(), CliError> {
        let mut progress = Progress::start(!io::stdout().is_terminal());
        let mut retry = Retry::start();
        while self.left > 0 && !stop.load(Ordering::Relaxed) {
            let done = if self.inside { self.read(out) } else { self.enter(stop) };
            progress.show(|| plural(self.seen, "record"));
            match done {
                Ok(()) => retry = Retry::start(),
                Err(Failure::Stopped) => return Ok(()),
                Err(Failure::Passing(error)) if !retry.wait() => return Err(error),
                Err(Failure::Passing(_)) => {}
                Err(Failure::Final(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Joins, and goes on where the group is.
    fn enter(&mut self, stop: &AtomicBool) -> Result<(), Failure> {
        let partitions = self.member.join(self.consumer.client(), stop)?;
        let committed = self.member.committed(self.consumer.client(), &partitions)?;
        let fresh: Vec<i32> =
            partitions.iter().copied().filter(|n| !committed.contains_key(n)).collect();
        // The topic may have got partitions since it was looked at.
        self.consumer.find_leaders()?;
        let mut positions = self.consumer.starts(&fresh)?;
        positions.extend(&committed);
        self.consumer.assign(positions);
        self.committed = committed;
        self.inside = true;
        let numbers: Vec<String> = partitions.iter().map(i32::to_string).collect();
        match numbers.len() {
            0 => eprintln!("in the group, with no partition to read"),
            1 => eprintln!("in the group, reading partition {}", numbers[0]),
            _ => eprintln!("in the group, reading partitions {}", numbers.join(", ")),
        }
        Ok(())
    }

    /// Reads once; commits and tells that it is there, as far as that is due.
    fn read(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        let Self { args, consumer, left, seen, .. } = self;
        let polled = consumer.poll(|partition, record| {
            if *left == 0 {
                return Ok(false);
            }
            print(out, args, partition, record)?;
            *left -= 1;
            *seen += 1;
            Ok(true)
        });
        // What is committed has to be with whoever reads it.
        out.flush().map_err(|error| Failure::Final(error.into()))?;
        polled.map_err(|error| match error {
            CliError::Failed(_) if self.consumer.lost_leader() => Failure::Passing(error),
            error => Failure::Final(error),
        })?;
        if self.consumer.positions().is_empty() {
            std::thread::sleep(REST);
        }
        if Instant::now() >= self.commit_due {
            self.inside = self.commit()?;
        }
        if self.inside && !self.member.heartbeat(self.consumer.client())? {
            // What this member has read is its own until it joins again.
            self.commit()?;
            self.inside = false;
        }
        Ok(())
    }

    /// Commits what has changed. False if the member has to join again.
    fn commit(&mut self) -> Result<bool, ClientError> {
        let positions = self.consumer.positions().clone();
        let changed: BTreeMap<i32, i64> = positions
            .iter()
            .filter(|(partition, offset)| self.committed.get(partition) != Some(offset))
            .map(|(partition, offset)| (*partition, *offset))
            .collect();
        if !changed.is_empty() && !self.member.commit(self.consumer.client(), &changed)? {
            return Ok(false);
        }
        self.committed = positions;
        self.commit_due = Instant::now() + COMMIT_INTERVAL;
        Ok(true)
    }

    /// Commits at the end, with some patience.
    fn commit_all(&mut self) -> Result<(), CliError> {
        let mut retry = Retry::start();
        while self.inside {
            match self.commit() {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    return Err(CliError::Failed(
                        "the group went on without this member; its last records come again"
                            .to_owned(),
                    ));
                }
                Err(error) if error.may_pass() && retry.wait() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
