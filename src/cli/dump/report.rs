//! What a dump prints, as lines for people or as JSON objects.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

/// Why no more is printed of a file.
#[derive(Debug)]
pub(super) enum Stop {
    /// It was said what is wrong with it.
    Damaged,
    /// It cannot be read.
    Unreadable(io::Error),
    /// The output cannot be written.
    Output(io::Error),
}

/// Where a dump goes.
pub(super) struct Report<W> {
    pub out: W,
    json: bool,
    /// Whether batches are opened.
    pub records: bool,
    /// Files looked at.
    pub files: usize,
    /// Those that are torn or corrupt.
    pub bad_files: usize,
    file: String,
    bad: bool,
}

impl<W: Write> Report<W> {
    pub fn new(out: W, json: bool, records: bool) -> Self {
        Self { out, json, records, files: 0, bad_files: 0, file: String::new(), bad: false }
    }

    /// What follows is of this file.
    pub fn begin(&mut self, path: &Path) {
        self.files += 1;
        self.bad = false;
        self.file = path.display().to_string();
        if !self.json {
            // Whatever goes wrong with the output shows with the next row.
            let _ = writeln!(self.out, "{}", self.file);
        }
    }

    /// No more of this file.
    pub fn end(&mut self) {
        self.bad_files += usize::from(self.bad);
    }

    /// One thing that the file holds.
    pub fn row(
        &mut self,
        kind: &str,
        fields: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), Stop> {
        let written = if self.json {
            let mut object = Map::new();
            object.insert("file".to_owned(), self.file.as_str().into());
            object.insert("type".to_owned(), kind.into());
            if let Value::Object(fields) = fields() {
                object.extend(fields);
            }
            writeln!(self.out, "{}", Value::from(object))
        } else {
            writeln!(self.out, "  {}", text())
        };
        written.map_err(Stop::Output)
    }

    /// A remark.
    pub fn note(&mut self, text: String) -> Result<(), Stop> {
        self.row("note", || json!({ "text": text }), || text.clone())
    }

    /// Says that an unfinished write is in the way of reading on.
    pub fn torn(&mut self, position: Option<u64>, what: String) -> Result<Stop, Stop> {
        self.problem("torn", position, &what)
    }

    /// Says that the file is not what was written. To be returned where that
    /// ends the reading.
    pub fn corrupt(&mut self, position: Option<u64>, what: String) -> Result<Stop, Stop> {
        self.problem("corrupt", position, &what)
    }

    fn problem(&mut self, kind: &str, position: Option<u64>, what: &str) -> Result<Stop, Stop> {
        self.bad = true;
        self.row(
            kind,
            || json!({ "position": position, "what": what }),
            || {
                let kind = kind.to_uppercase();
                let at = position.map(|at| format!(" at byte {at}")).unwrap_or_default();
                format!("{kind}{at}: {what}")
            },
        )?;
        Ok(Stop::Damaged)
    }
}
