//! What a shard counts about requests, and its part of a snapshot.

use super::{Life, Shard};
use crate::base::time::Instant;
use crate::metrics::{Latency, Snapshot, table};
use crate::wire::apis::Api;

/// Numbers about the requests of this core's clients.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// The moment of the event that is being taken in.
    pub now: Instant,
    /// By the API's number; made when the first of its requests is answered.
    latencies: Vec<Option<Latency>>,
    refused: u64,
}

impl Tally {
    /// A request is answered; it was taken up at the given moment.
    pub fn answered(&mut self, (api, since): (i16, Instant)) {
        let at = usize::try_from(api).expect("only served requests are answered");
        if self.latencies.len() <= at {
            self.latencies.resize_with(at + 1, || None);
        }
        self.latencies[at].get_or_insert_default().record(self.now.since(since));
    }

    /// A connection is closed for what it sent, or for want of memory.
    pub fn refused(&mut self) {
        self.refused += 1;
    }
}

impl Shard {
    /// Adds this core's numbers to `snapshot`.
    pub fn measure(&mut self, snapshot: &mut Snapshot) {
        for (api, latency) in (0..).zip(&self.tally.latencies) {
            if let (Some(api), Some(latency)) = (Api::find(api), latency) {
                let label = Some(("api", api.name));
                snapshot.latency(&table::REQUEST_SECONDS, label, latency);
            }
        }
        let (counters, census) = (self.counters(), self.replicas.census());
        let failure = self.replicas.directory_failure();
        for (metric, value) in [
            (&table::REQUESTS_REFUSED, self.tally.refused),
            (&table::REQUESTS_IN_FLIGHT, counters.requests_in_flight as u64),
            (&table::PIECES_WAITING, self.replicas.waiting_count() as u64),
            (&table::CONNECTIONS, counters.connections as u64),
            (&table::APPENDED_BATCHES, counters.replicas.appended_batches),
            (&table::APPENDED_BYTES, counters.replicas.appended_bytes),
            (&table::FETCHES, counters.replicas.fetches),
            (&table::FETCHED_BYTES, counters.replicas.fetched_bytes),
            (&table::JOURNAL_WRITES, counters.replicas.journal_writes),
            (&table::JOURNAL_GROUPS, counters.replicas.journal_groups),
            (&table::JOURNAL_BYTES, counters.replicas.journal_bytes),
            (&table::PARTITIONS, census.partitions as u64),
            (&table::LOGS_OPEN, census.open as u64),
            (&table::LOGS_RECOVERING, self.replicas.recovering() as u64),
            (&table::LOGS_OFFLINE, census.offline as u64),
            (&table::DIRECTORY_FAILED, u64::from(failure.is_some())),
        ] {
            snapshot.whole(metric, value);
        }
        self.measure_cleaning(snapshot);
        for (kind, used, budget) in [
            ("receive", counters.receive_bytes, self.receive_memory.budget()),
            ("answers", counters.answer_bytes, self.answer_pages.budget()),
            ("logs", counters.log_bytes, self.replicas.memory_budget()),
        ] {
            snapshot.labelled(&table::MEMORY_BYTES, ("kind", kind), used as u64);
            snapshot.labelled(&table::MEMORY_BUDGET_BYTES, ("kind", kind), budget as u64);
        }
        snapshot.offline_logs += census.offline;
        if let Some(error) = failure {
            snapshot.unwell.push(format!("the log directory has failed: {error}"));
        }
        if self.replicas.is_unreadable() {
            snapshot.unwell.push("the log directory cannot be read".to_owned());
        }
        if !matches!(self.life, Life::Starting | Life::Running) {
            snapshot.unwell.push("the broker is stopping".to_owned());
        }
    }

    /// Retention and compaction, after Kafka's `LogCleaner` and `LogCleanerManager`.
    fn measure_cleaning(&self, snapshot: &mut Snapshot) {
        let cleaning = self.replicas.cleaning();
        for (metric, value) in [
            (&table::RETENTION_SEGMENTS, cleaning.counts.deleted_segments),
            (&table::CLEANER_RUNS, cleaning.runs),
            (&table::CLEANER_MAPPED_BYTES, cleaning.counts.mapped_bytes),
            (&table::CLEANER_READ_BYTES, cleaning.counts.read_bytes),
            (&table::CLEANER_KEPT_BYTES, cleaning.counts.kept_bytes),
            (&table::CLEANER_READ_RECORDS, cleaning.counts.read_records),
            (&table::CLEANER_KEPT_RECORDS, cleaning.counts.kept_records),
            (&table::CLEANER_DIRTY_PERCENT, u64::from(cleaning.max_dirty_ppm / 10_000)),
            (&table::CLEANER_UNCLEANABLE, cleaning.uncleanable as u64),
        ] {
            snapshot.whole(metric, value);
        }
        let nanos = |millis: u128| u64::try_from(millis * 1_000_000).unwrap_or(u64::MAX);
        let end = u128::try_from(cleaning.last_end.0).unwrap_or(0);
        snapshot.nanos(&table::CLEANER_LAST_RUN_SECONDS, cleaning.last_run.as_nanos() as u64);
        snapshot.nanos(&table::CLEANER_LAST_END_SECONDS, nanos(end));
    }
}
