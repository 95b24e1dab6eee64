//! Kafka's nouns: ids, offsets, epochs, the record batch and its records, error codes.

pub mod batch;
pub mod error_code;
pub mod ids;
pub mod rebatch;
pub mod record;
pub mod record_times;
