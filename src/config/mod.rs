//! Settings: Kafka's names, in a `server.properties` file or one by one.
//!
//! Every setting that has an effect is one row of [`table`]. A key that Kafka
//! knows and corelane does not act on is a warning that names it; a key that
//! nobody knows is an error that names the nearest known one. Every error is
//! one line with the key, the value and what is allowed. Nothing here reads
//! files or asks the machine: both come as arguments.

pub mod describe;
pub mod groups;
pub mod known;
pub mod properties;
pub mod settings;
pub mod table;
pub mod topic;
mod value;

use thiserror::Error;

pub use groups::{Assignor, ConsumerSettings, GroupSettings, Migration};
pub use properties::Assignment;
pub use settings::{Endpoint, Machine, Settings};
pub use topic::{TimestampType, TopicConfig, validate_dynamic_config, validate_topic_config};

/// Why the settings cannot be used: one line for people.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Changes of single characters that turn `a` into `b` (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The one of `names` nearest to `name`; ties go to the earliest.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> &'a str {
    names.min_by_key(|known| edit_distance(name, known)).expect("there are known names")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances() {
        let cases = [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("ab", "ba", 2)];
        for (a, b, distance) in cases {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }
}
