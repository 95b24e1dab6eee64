//! Every number that is told, one row each.

/// One number: what it is called and what it means.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name in Prometheus: the unit last, `_total` for what only grows.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What it is, in one line.
    pub help: &'static str,
}

/// How a number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from zero at the start of the broker.
    Counter,
    /// It is what it is at the moment.
    Gauge,
    /// Times, counted by how long they were.
    Histogram,
}

macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal $help:literal;)*) => {
        $(#[doc = $help] pub static $id: Metric =
            Metric { name: $name, kind: Kind::$kind, help: $help };)*
        /// Every row, in the order they are shown.
        pub static ALL: &[&Metric] = &[$(&$id),*];
    };
}

metrics! {
    REQUEST_SECONDS Histogram "corelane_request_duration_seconds"
        "From the turn that took a request up to the turn that answered it, by API.";
    REQUESTS_REFUSED Counter "corelane_requests_refused_total"
        "Connections closed because of what they sent, or for want of memory.";
    REQUESTS_IN_FLIGHT Gauge "corelane_requests_in_flight"
        "Requests of this core's clients that wait for partitions or the controller.";
    PIECES_WAITING Gauge "corelane_pieces_waiting"
        "Parts of requests that wait at this core's partitions: produces for the commit, fetches for records.";
    CONNECTIONS Gauge "corelane_connections"
        "Connections of clients.";
    CONNECTIONS_ACCEPTED Counter "corelane_connections_accepted_total"
        "Connections accepted.";
    CONNECTIONS_REFUSED Counter "corelane_connections_refused_total"
        "Connections closed at once, beyond the limit or during the stop.";
    RECEIVED_BYTES Counter "corelane_received_bytes_total"
        "Bytes received from clients.";
    SENT_BYTES Counter "corelane_sent_bytes_total"
        "Bytes sent to clients.";
    APPENDED_BATCHES Counter "corelane_appended_batches_total"
        "Record batches appended to logs.";
    APPENDED_BYTES Counter "corelane_appended_bytes_total"
        "Bytes of the appended batches.";
    FETCHES Counter "corelane_fetches_total"
        "Parts of fetch requests answered by this core's partitions.";
    FETCHED_BYTES Counter "corelane_fetched_bytes_total"
        "Bytes of records given to fetches.";
    JOURNAL_WRITES Counter "corelane_journal_writes_total"
        "Writes of the journal that small batches of many partitions share.";
    JOURNAL_GROUPS Counter "corelane_journal_groups_total"
        "Groups in those writes, each of one partition.";
    JOURNAL_BYTES Counter "corelane_journal_bytes_total"
        "Bytes of those writes.";
    PARTITIONS Gauge "corelane_partitions"
        "Partitions of this core.";
    LOGS_OPEN Gauge "corelane_logs_open"
        "Logs that are open or loading.";
    LOGS_RECOVERING Gauge "corelane_logs_recovering"
        "Logs that load, or have to after an unclean stop.";
    LOGS_OFFLINE Gauge "corelane_logs_offline"
        "Logs that serve nothing until a restart.";
    RETENTION_SEGMENTS Counter "corelane_retention_deleted_segments_total"
        "Segments that were deleted for their age or the size of their log.";
    CLEANER_RUNS Counter "corelane_cleaner_runs_total"
        "Compactions of a log that have ended.";
    CLEANER_MAPPED_BYTES Counter "corelane_cleaner_mapped_bytes_total"
        "Bytes of batches that compaction has read for their keys.";
    CLEANER_READ_BYTES Counter "corelane_cleaner_read_bytes_total"
        "Bytes of batches that compaction has looked through to copy what stays.";
    CLEANER_KEPT_BYTES Counter "corelane_cleaner_kept_bytes_total"
        "Bytes of batches that compaction has kept.";
    CLEANER_READ_RECORDS Counter "corelane_cleaner_read_records_total"
        "Records that compaction has looked through to copy what stays.";
    CLEANER_KEPT_RECORDS Counter "corelane_cleaner_kept_records_total"
        "Records that compaction has kept.";
    CLEANER_DIRTY_PERCENT Gauge "corelane_cleaner_max_dirty_percent"
        "The largest part of a log that was not compacted, when all were looked at last.";
    CLEANER_LAST_RUN_SECONDS Gauge "corelane_cleaner_last_run_seconds"
        "How long the last compaction of a log took.";
    CLEANER_LAST_END_SECONDS Gauge "corelane_cleaner_last_run_end_timestamp_seconds"
        "When it ended, in Unix time; 0 if there was none.";
    CLEANER_UNCLEANABLE Gauge "corelane_cleaner_uncleanable_partitions"
        "Logs that are not compacted until a restart, for something in them is damaged.";
    DIRECTORY_FAILED Gauge "corelane_log_directory_failed"
        "1 if the log directory has failed: nothing is acknowledged any more.";
    DISK_WRITE_SECONDS Histogram "corelane_disk_write_duration_seconds"
        "Writes of logs.";
    DISK_SYNC_SECONDS Histogram "corelane_disk_sync_duration_seconds"
        "Syncs of logs (fdatasync).";
    DISK_READ_SECONDS Histogram "corelane_disk_read_duration_seconds"
        "Reads of logs.";
    DISK_WRITTEN_BYTES Counter "corelane_disk_written_bytes_total"
        "Bytes written to logs, in whole blocks.";
    DISK_READ_BYTES Counter "corelane_disk_read_bytes_total"
        "Bytes read from logs, in whole blocks.";
    DISK_ERRORS Counter "corelane_disk_errors_total"
        "Reads, writes, syncs and preallocations that failed.";
    DISK_IN_FLIGHT Gauge "corelane_disk_operations_in_flight"
        "Reads, writes, syncs and preallocations under way.";
    FILE_JOBS Counter "corelane_file_jobs_total"
        "Rare file operations (open, rename, remove, replace, list).";
    MEMORY_BYTES Gauge "corelane_memory_bytes"
        "Memory in use of the share of each kind.";
    MEMORY_BUDGET_BYTES Gauge "corelane_memory_budget_bytes"
        "Memory that each kind may use.";
    MAIL_SENT Counter "corelane_mail_sent_total"
        "Messages to other cores.";
    MAIL_RECEIVED Counter "corelane_mail_received_total"
        "Messages from other cores.";
    STEP_SECONDS Histogram "corelane_step_duration_seconds"
        "Time that one event took the core.";
    STALLS Counter "corelane_stalls_total"
        "Events that took more than 500 microseconds.";
    TURNS Counter "corelane_turns_total"
        "Turns of the core's loop.";
    PARKED Counter "corelane_parked_total"
        "Turns that had to wait for something to happen.";
    SYSTEM_CALLS Counter "corelane_ring_enters_total"
        "System calls of the core's loop (io_uring_enter).";
    BUSY_SECONDS Counter "corelane_busy_seconds_total"
        "Time the core was at work; its rate is the core's utilisation.";
    WAITED_SECONDS Counter "corelane_waited_seconds_total"
        "Time the core waited for something to happen.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_once_and_end_in_their_unit() {
        for (at, metric) in ALL.iter().enumerate() {
            let name = metric.name;
            assert!(ALL[..at].iter().all(|other| other.name != name), "{name} twice");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert!(metric.kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains(['\n', '\\']), "{name}");
        }
    }
}
