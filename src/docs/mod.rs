//! Documentation for developers, compiled so that its links to items are checked.
//!
//! The pages are written to be read in the repository, where their links to
//! files and to each other lead somewhere; `tests/tidy.rs` checks those.
#![doc = include_str!("index.md")]

/// What the parts are and how they hang together.
pub mod architecture {
    #![doc = include_str!("architecture.md")]
}

/// A produce request, from the socket to the disk and back.
pub mod way_of_produce {
    #![doc = include_str!("way-of-produce.md")]
}

/// A fetch request, from the socket to the log and back.
pub mod way_of_fetch {
    #![doc = include_str!("way-of-fetch.md")]
}

/// Consumer groups: states, records, replay.
pub mod groups {
    #![doc = include_str!("groups.md")]
}

/// What lies in the log directory, and what recovery makes of it.
pub mod disk_format {
    #![doc = include_str!("disk-format.md")]
}

/// How whole brokers are run on a seeded network, disk and clock.
pub mod simulator {
    #![doc = include_str!("simulator.md")]
}

/// One word, one meaning.
pub mod glossary {
    #![doc = include_str!("glossary.md")]
}

/// Decisions: what was decided, on which numbers, and what would change it.
pub mod adr {
    /// What an acknowledgement promises.
    pub mod what_acknowledged_means {
        #![doc = include_str!("adr/0001-what-acknowledged-means.md")]
    }

    /// How appends become durable.
    pub mod sync_per_file {
        #![doc = include_str!("adr/0002-sync-per-file.md")]
    }

    /// The core is stepped, not awaited.
    pub mod no_async_in_the_core {
        #![doc = include_str!("adr/0003-no-async-in-the-core.md")]
    }

    /// Batches pass through unopened.
    pub mod opaque_batches {
        #![doc = include_str!("adr/0004-opaque-batches.md")]
    }

    /// Why neither plane runs on glommio.
    pub mod glommios_place {
        #![doc = include_str!("adr/0005-glommios-place.md")]
    }

    /// Messages off the hot path are generated from Kafka's schemas.
    pub mod kafka_wire {
        #![doc = include_str!("adr/0006-kafka-wire.md")]
    }

    /// Recovery truncates; it does not write zeros.
    pub mod truncate_at_recovery {
        #![doc = include_str!("adr/0007-truncate-at-recovery.md")]
    }

    /// Where many logs wait for a sync, one of the file system serves them all.
    pub mod one_sync_for_many_files {
        #![doc = include_str!("adr/0008-one-sync-for-many-files.md")]
    }

    /// Sealed segments keep one index entry in 8 in memory.
    pub mod thinned_indexes {
        #![doc = include_str!("adr/0009-thinned-indexes.md")]
    }

    /// Many small logs are closed with one file.
    pub mod one_file_for_closed_logs {
        #![doc = include_str!("adr/0010-one-file-for-closed-logs.md")]
    }

    /// Small groups of many logs share a journal.
    pub mod journal {
        #![doc = include_str!("adr/0011-a-journal-for-small-groups.md")]
    }

    /// What was measured for speed and is not in the broker.
    pub mod what_was_tried_and_left {
        #![doc = include_str!("adr/0012-what-was-tried-and-left.md")]
    }
}
