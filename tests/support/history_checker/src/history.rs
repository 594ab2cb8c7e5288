//! A history in memory, read from one or several files.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use crate::record::{Header, Record, VERSION};

/// Records in the order of their file, or of their files one after the other.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The records.
    pub records: Vec<Record>,
    /// The files of the records, with the number of records before each file.
    files: Vec<(PathBuf, usize)>,
}

/// Reason why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        error: std::io::Error,
    },
    /// A line does not have the format of a record.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// The defect.
        what: String,
    },
    /// The history has more records than the bound.
    #[error("more than {max} records; check it in parts, or allow more with --records-max")]
    TooLong {
        /// The bound.
        max: usize,
    },
}

impl History {
    /// Creates a history with these records.
    pub fn of(records: Vec<Record>) -> Self {
        Self {
            records,
            files: Vec::new(),
        }
    }

    /// Reads these files, which were recorded by one clock.
    pub fn read(paths: &[PathBuf]) -> Result<Self, ReadError> {
        Self::read_bounded(paths, usize::MAX)
    }

    /// As above, with a bound on the number of records.
    pub fn read_bounded(paths: &[PathBuf], max: usize) -> Result<Self, ReadError> {
        let mut history = Self::default();
        for path in paths {
            history.files.push((path.clone(), history.records.len()));
            history.read_one(path, max)?;
        }
        Ok(history)
    }

    fn read_one(&mut self, path: &PathBuf, max: usize) -> Result<(), ReadError> {
        let failed = |error| ReadError::File {
            path: path.clone(),
            error,
        };
        let wrong = |number: usize, what: String| ReadError::Line {
            path: path.clone(),
            line: number,
            what,
        };
        let file = BufReader::new(File::open(path).map_err(failed)?);
        let mut lines = (1..).zip(file.lines());
        let Some((_, first)) = lines.next() else {
            return Err(wrong(1, "the file is empty".to_owned()));
        };
        let header: Header = serde_json::from_str(&first.map_err(failed)?)
            .map_err(|error| wrong(1, format!("the first line is no header: {error}")))?;
        if header.history != VERSION {
            let what = format!(
                "version {} of the format; this program knows version {VERSION}",
                header.history
            );
            return Err(wrong(1, what));
        }
        for (number, line) in lines {
            let line = line.map_err(failed)?;
            if self.records.len() == max {
                return Err(ReadError::TooLong { max });
            }
            let record: Record =
                serde_json::from_str(&line).map_err(|error| wrong(number, error.to_string()))?;
            if record.return_ns < record.invoke_ns {
                return Err(wrong(number, "it ends before it begins".to_owned()));
            }
            self.records.push(record);
        }
        Ok(())
    }

    /// Returns the file and line of a record, for messages.
    pub fn place(&self, record: usize) -> String {
        let within = |(_, first): &&(PathBuf, usize)| *first <= record;
        match self.files.iter().rev().find(within) {
            // One for the header line, and one because lines count from 1.
            Some((path, first)) if self.files.len() > 1 => {
                format!("{}:{}", path.display(), record - first + 2)
            }
            Some((_, first)) => format!("line {}", record - first + 2),
            None => format!("record {record}"),
        }
    }
}
