//! Golden bytes: requests as real clients sent them, recorded between the client
//! and a broker, and answers derived by hand from Kafka's message schemas.
//!
//! Recorded from kcat with librdkafka 2.0.2, librdkafka 2.16.1 and kafka-python
//! 3.0.12, which wrote and read one record of topic `golden`.

mod answers;
mod requests;

/// Bytes from hexadecimal; spaces are for people.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|digit| (digit as char).to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
