//! Every limit has its home here; relations between limits are checked when
//! the crate is compiled.

use super::pages::BLOCK;

/// Largest number of cores (shards) in one broker.
pub const CORES_MAX: usize = 256;

/// Connections one core accepts; further ones are closed at once.
pub const CONNECTIONS_PER_CORE_MAX: usize = 16_384;

/// Requests of one connection that may be answered at the same time; beyond it
/// the socket is not read.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 256;

/// Largest request off the hot path. Decoders of such requests may need many
/// times the frame's size.
pub const SMALL_FRAME_MAX: usize = 1 << 20;

/// Partitions that one produce or fetch request may name, counted as often as
/// they are named: what its answer needs follows from it.
pub const REQUEST_PARTITIONS_MAX: usize = 100_000;

/// Memory of one core's fetch sessions; beyond it sessions are not granted.
pub const FETCH_SESSIONS_BYTES_MAX: usize = 32 << 20;

/// First page a connection gets for a frame that does not fit the shared
/// receive buffers; it doubles as bytes arrive, so an announced size alone
/// costs nothing.
pub const RECEIVE_PAGE_MIN: usize = 256 << 10;

/// A connection that waits so long for memory for its frame gets that of another,
/// whose frame has gone longest without getting on and which is closed.
pub const FRAME_PATIENCE_MS: u64 = 1_000;

/// Bytes of a connection's answers that may wait for its socket; beyond it the
/// socket is not read.
pub const SEND_QUEUE_MAX: usize = 32 << 20;

/// How long a stopping broker waits for clients to take their last answers.
pub const STOP_PATIENCE_MS: u64 = 5_000;

/// Most bytes one fetch answer carries, whatever the client asks for.
pub const FETCH_BYTES_MAX: usize = 16 << 20;

/// How long a fetch waits for a log to load when its own wait is over: opening
/// takes no time that a client would notice, recovery may.
pub const LOAD_PATIENCE_MS: u64 = 1_000;

/// Requests one core may have open at another: the room for their answers is
/// reserved before they are mailed, so two full mailboxes never wait for each
/// other.
pub const MAIL_OPEN_MAX: usize = 1024;

/// Places in the mailbox between two cores: requests, their cancellations, the
/// answers to the other side, bad news and a farewell.
pub const MAILBOX_LEN: usize = 3 * MAIL_OPEN_MAX + 2;

/// Places in the queue between the controller and a shard.
pub const CONTROL_QUEUE_LEN: usize = 1024;

/// Largest record batch that a topic may be set to accept.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Bytes a log may hold that are not yet handed to the disk; beyond it produce
/// requests wait.
pub const LOG_PENDING_MAX: usize = 16 << 20;

/// With flush.messages=1, the most bytes behind a log's durable end that the
/// disk can hold after a power loss: a write in flight and one whose sync is.
pub const LOG_UNSYNCED_MAX: usize = 2 * LOG_PENDING_MAX;

/// Pages of a log's tail: the smallest and the largest.
pub const TAIL_PAGE_MIN: usize = BLOCK;
/// See [`TAIL_PAGE_MIN`].
pub const TAIL_PAGE_MAX: usize = 1 << 20;

/// Preallocation ahead of a log's tail starts here and doubles ...
pub const PREALLOCATE_MIN: u64 = 1 << 20;
/// ... up to here.
pub const PREALLOCATE_MAX: u64 = 32 << 20;

/// Space of the disk that is kept for what has to go on when it is full
/// (checkpoints, deletions, a restart): one part in so many of the whole ...
pub const DISK_RESERVE_PART: u64 = 20;
/// ... but not more than this.
pub const DISK_RESERVE_MAX: u64 = 1 << 30;

/// Space that each core holds in a file of its own, to be let go when others
/// have taken the reserve.
pub const BALLAST_BYTES: u64 = 1 << 20;

/// The free space of the disk is measured at least so often while it is taken.
pub const SPACE_INTERVAL_MS: u64 = 1_000;

/// A disk that was full is looked at again after this.
pub const SPACE_RETRY_MS: u64 = 100;

/// Bytes of log between two entries of its offset index.
pub const INDEX_INTERVAL_BYTES: u64 = 32 << 10;

/// Bytes that a batch may unfold to where the broker opens it. They are unfolded
/// piece by piece: this bounds the work, not the memory.
pub const UNFOLDED_BATCH_MAX: usize = 1 << 30;

/// Bytes unfolded by one slice of such work (about 200 us with zstd).
pub const UNFOLD_SLICE_BYTES: usize = 256 << 10;

/// Bytes that one block of a snappy stream may unfold to.
pub const SNAPPY_BLOCK_MAX: usize = 32 << 20;

/// Batch headers looked at by one slice of a search.
pub const SEARCH_SLICE_BATCHES: usize = 2_000;

/// Bytes of a produced batch that are unfolded to check its timestamps.
pub const TIMESTAMP_CHECK_BYTES: usize = 1 << 20;

/// Bytes of a batch that are unfolded to see whether its records have keys.
pub const KEY_CHECK_BYTES: usize = 32 << 20;

/// Bad records of one batch that are named to its producer.
pub const RECORD_ERRORS_MAX: usize = 100;

/// Index entries of a segment's files for each one that stays in memory when it
/// is sealed: with `index.interval.bytes` at 32 KiB, one for 256 KiB of log. Finer
/// ones would save little: a cold read takes 1 MiB.
pub const INDEX_THINNING: u64 = 8;

/// What one turn has appended to a log goes to the journal of the core only if it is
/// less than so many bytes.
pub const JOURNAL_GROUP_MAX: u64 = 64 << 10;

/// One of the two files of a core's journal, at most: it is read whole.
pub const JOURNAL_BYTES_MAX: u64 = SMALL_FILE_MAX as u64;

/// Bytes of a log that wait in memory because the journal has them, about at most.
pub const JOURNAL_REST_MAX: u64 = 256 << 10;

/// One write of a journal, at most.
pub const JOURNAL_WRITE_MAX: usize = 1 << 20;

/// Logs that are written out at the same time, so that a file of the journal can be
/// used again.
pub const JOURNAL_OUT_MAX: usize = 32;

/// How long a journal is looked at before it is said to be of no use, milliseconds.
pub const JOURNAL_WINDOW_MS: u64 = 1_000;

/// One direct read of a cold log.
pub const COLD_READ_BYTES: usize = 1 << 20;

/// Bytes of log between two checkpoints of it: recovery scans about so much.
pub const CHECKPOINT_BYTES: u64 = 64 << 20;

/// A log that is appended to looks so often, at the most, for idempotent producers
/// to forget (Kafka's default of `producer.id.expiration.check.interval.ms`).
pub const PRODUCER_CHECK_MS: i64 = 600_000;

/// Logs that are asked in one turn to delete what need not be kept.
pub const RETENTION_LOOKS: u32 = 64;

/// The table of keys of the compaction that runs on a core, at most; a smaller part
/// of a small memory.
pub const COMPACTION_MAP_BYTES: usize = 16 << 20;

/// Bytes of records that one slice of compaction goes over, if a batch is no
/// larger.
pub const COMPACTION_SLICE_BYTES: usize = 64 << 10;

/// One read or write of compaction, at most, if a batch is no longer.
pub const COMPACTION_CHUNK_MAX: usize = 1 << 20;

/// Bytes that a batch may unfold to in compaction; a larger one stays as it is.
pub const COMPACTION_UNFOLD_MAX: usize = 64 << 20;

/// Files of logs that one core keeps open while nothing needs them.
pub const OPEN_FILES_MAX: usize = 16_384;

/// Syncs of single files that all cores together have in flight, each an even part;
/// where more logs of a core wait, one sync of the whole file system serves them all.
pub const SYNCS_ALONE_MAX: usize = 16;

/// The part of a core is no smaller, however many cores there are.
pub const SYNCS_ALONE_PER_CORE_MIN: usize = 4;

/// How long a sync of the whole file system may take, and how much longer for each
/// log that shares it, milliseconds. Slower ones wait for what others have written
/// there, and for [`SYNC_ALL_PAUSE_MS`] no more are sent for logs so few that the last
/// one would have been too slow for them.
pub const SYNC_ALL_SLOW_MS: u64 = 50;
/// See [`SYNC_ALL_SLOW_MS`].
pub const SYNC_ALL_SLOW_EACH_MS: u64 = 1;
/// See [`SYNC_ALL_SLOW_MS`].
pub const SYNC_ALL_PAUSE_MS: u64 = 10_000;

/// Logs that are told in one turn that such a sync has ended.
pub const SYNCS_TOLD_MAX: usize = 128;

/// A log whose only segment is no longer has no files of its own written by a clean
/// stop that closes many: after an unclean one it is read whole.
pub const CLOSED_SEGMENT_MAX: u64 = 1 << 20;

/// What is kept of such a log, at most.
pub const CLOSED_RECORD_MAX: usize = 1024;

/// Small files that are read together with the list of their directory: so many ...
pub const DIR_FILES_MAX: usize = 16;
/// ... of so many bytes at most.
pub const DIR_FILE_MAX: u64 = 4096;

/// Logs of one core that load in the background at the same time.
pub const LOADING_MAX: usize = 64;

/// Partitions of `__consumer_offsets` that one core reads at the same time.
pub const GROUPS_LOADING_MAX: usize = 4;

/// Longest that one event should take a core, microseconds; what takes longer is
/// counted as a stall.
pub const STEP_SLICE_US: u64 = 500;

/// Requests that the admin listener serves at the same time; others wait.
pub const ADMIN_CONNECTIONS_MAX: usize = 4;

/// Longest head of a request to the admin listener.
pub const ADMIN_HEAD_MAX: usize = 8 << 10;

/// How long a request to the admin listener may take, first byte to last.
pub const ADMIN_PATIENCE_MS: u64 = 5_000;

/// How long the cores may take to tell their numbers.
pub const MEASURE_PATIENCE_MS: u64 = 2_000;

/// Bytes examined by one slice of a recovery scan (about 200 us of CRC).
pub const RECOVERY_SLICE_BYTES: usize = 1 << 20;

/// The first slice of such a scan; they double up to [`RECOVERY_SLICE_BYTES`].
pub const RECOVERY_SLICE_FIRST: usize = BLOCK;

/// Largest small file (checkpoint, index) that is read whole.
pub const SMALL_FILE_MAX: usize = 64 << 20;

/// Partitions one topic may have.
pub const PARTITIONS_PER_TOPIC_MAX: i32 = 10_000;

/// Deleted partitions of which a controller knows the core, two bytes each and a
/// name for each topic. One whose directory is still being removed is among them
/// unless so many more were deleted meanwhile.
pub const FORMER_PARTITIONS_MAX: usize = 100_000;

/// Partitions all topics together may have, replicas not counted.
pub const PARTITIONS_MAX: usize = 1_000_000;

/// One batch of metadata records as it is written to the metadata log. A topic
/// of the most partitions fits, with up to six replicas.
pub const METADATA_BATCH_MAX: usize = 1 << 20;

/// All metadata as it is written to a snapshot: what would grow beyond this is
/// refused.
pub const METADATA_IMAGE_MAX: usize = 48 << 20;

/// Proposed and not yet committed metadata; beyond it commands are refused.
pub const METADATA_PENDING_MAX: usize = 4 << 20;

/// The metadata log starts anew behind a snapshot when it is longer than this.
pub const METADATA_LOG_MAX: u64 = 20 << 20;

/// Space a metadata log segment has reserved behind the length at which a
/// snapshot is made, for what is written while the disk has no room for it.
pub const METADATA_LOG_RESERVE: u64 = 8 << 20;

/// Length of a topic setting's value.
pub const CONFIG_VALUE_MAX: usize = 4096;

/// Longest regular expression that a consumer subscribes by.
pub const REGEX_BYTES_MAX: usize = 4096;
/// What such an expression may take when it is compiled, and its matcher again.
pub const REGEX_COMPILED_MAX: usize = 1 << 20;
/// How deep its groups may be nested.
pub const REGEX_NESTING_MAX: u32 = 64;

/// Different regular expressions in one group.
pub const REGEXES_PER_GROUP_MAX: usize = 100;

/// Bytes of records that one batch of a group takes up before it goes out; those of
/// one request stay together.
pub const GROUP_BATCH_BYTES: usize = 256 << 10;

/// Records of a group in one batch before it goes out, in the same way.
pub const GROUP_BATCH_RECORDS: usize = 250;

/// Work of a group of the consumer protocol in one slice, in units of about 100 ns.
pub const GROUP_SLICE_UNITS: usize = 1_500;

/// Groups that the coordinators of one core keep; beyond it there are no new ones.
pub const GROUPS_PER_CORE_MAX: usize = 1_000_000;

/// About what one DescribeConfigs answer may take in memory; resources beyond it
/// are refused.
pub const DESCRIBE_BYTES_MAX: usize = 32 << 20;

/// Commands the controller has accepted and not answered; beyond it they are
/// refused.
pub const COMMANDS_OPEN_MAX: usize = 512;

/// Metadata publications a core has been sent and has not applied; beyond it
/// the core waits and then gets all it missed as one.
pub const PUBLICATIONS_OPEN_MAX: usize = 256;

const _: () = {
    assert!(MAILBOX_LEN >= 3 * MAIL_OPEN_MAX + 2);
    assert!(TAIL_PAGE_MIN.is_multiple_of(BLOCK) && TAIL_PAGE_MAX <= LOG_PENDING_MAX);
    assert!(CONTROL_QUEUE_LEN > COMMANDS_OPEN_MAX + PUBLICATIONS_OPEN_MAX);
    assert!(METADATA_BATCH_MAX <= METADATA_PENDING_MAX);
    assert!(METADATA_LOG_RESERVE >= 2 * METADATA_PENDING_MAX as u64);
    assert!(METADATA_LOG_MAX + METADATA_LOG_RESERVE <= SMALL_FILE_MAX as u64);
    assert!(METADATA_IMAGE_MAX < SMALL_FILE_MAX);
    assert!(PREALLOCATE_MIN <= PREALLOCATE_MAX);
    assert!(SPACE_RETRY_MS <= SPACE_INTERVAL_MS);
    assert!(JOURNAL_GROUP_MAX < JOURNAL_REST_MAX && JOURNAL_REST_MAX < LOG_PENDING_MAX as u64);
    assert!(2 * JOURNAL_GROUP_MAX < JOURNAL_WRITE_MAX as u64);
    assert!(SMALL_FRAME_MAX < FETCH_BYTES_MAX);
    assert!(MESSAGE_BYTES_MAX <= FETCH_BYTES_MAX && MESSAGE_BYTES_MAX <= LOG_PENDING_MAX);
};
