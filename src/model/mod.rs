//! Kafka's nouns: ids, offsets, epochs, the record batch, error codes.

pub mod batch;
pub mod error_code;
pub mod ids;
