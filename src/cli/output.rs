//! What goes to stdout: quiet tables for people, JSON for programs.
//!
//! Nothing here panics when the reader of a pipe goes away: writing to it is an [`io::Error`] like any other, which
//! the command line's top level takes for "nobody is reading any more".

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;

/// Who reads the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    // Plain comments: documented values would make every help page twice as long.
    // People.
    Table,
    // Programs.
    Json,
}

/// Writes one answer in the format that was asked for.
pub fn answer<T: Serialize>(
    format: Format,
    value: &T,
    people: impl FnOnce(&T) -> String,
) -> io::Result<()> {
    match format {
        Format::Table => line(&people(value)),
        Format::Json => line(&serde_json::to_string_pretty(value).map_err(io::Error::other)?),
    }
}

/// Writes a line, or several that end without a newline, to stdout. An empty text writes nothing.
pub fn line(text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes a line for the user beside the output: to stderr.
pub fn note(text: &str) {
    // When nobody reads stderr there is nobody to tell that nobody reads stderr.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// One column of a [`table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Words: aligned left.
    Text(&'static str),
    /// Numbers: aligned right.
    Number(&'static str),
}

/// Rows under headers, aligned, without lines around them.
pub fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let mut table = plain_table();
    table.set_header(columns.iter().map(|column| match column {
        Column::Text(name) | Column::Number(name) => Cell::new(name).add_attribute(Attribute::Bold),
    }));
    table.add_rows(rows);
    for (column, kind) in table.column_iter_mut().zip(columns) {
        match kind {
            Column::Text(_) => {}
            Column::Number(_) => column.set_cell_alignment(CellAlignment::Right),
        }
    }
    rendered(table)
}

/// Rows without headers, aligned.
pub fn columns(rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let mut table = plain_table();
    table.add_rows(rows);
    rendered(table)
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.style_text_only();
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        table.force_no_tty();
    }
    table
}

fn rendered(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    // Padding at the end of a line only gets in the way of whoever copies it.
    table
        .to_string()
        .lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Names and values below each other, for one thing shown in detail. Fields without a value are left out.
pub fn details<'a>(fields: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    columns(fields.into_iter().filter_map(|(name, value)| {
        value.map(|value| {
            vec![
                Cell::new(name).add_attribute(Attribute::Dim),
                Cell::new(value),
            ]
        })
    }))
}

/// A state's word in the colour of its news; colours only show on a terminal.
pub fn state(word: &str) -> Cell {
    let cell = Cell::new(word);
    match word {
        "succeeded" | "live" | "leader" => cell.fg(Color::Green),
        "failed" | "expired" | "lost" | "unreachable" => cell.fg(Color::Red),
        "running" => cell.fg(Color::Cyan),
        "cancelled" | "draining" | "delayed" => cell.fg(Color::Yellow),
        _ => cell,
    }
}

/// Whether progress and the like may be drawn for a person.
pub fn person_watches() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_have_no_lines() {
        let rows = [("j1-0", 5), ("j1234-0", 12_345)]
            .map(|(id, n)| vec![Cell::new(id), Cell::new(n), Cell::new("x")]);
        let text = table(
            &[
                Column::Text("JOB"),
                Column::Number("TASKS"),
                Column::Text("NAME"),
            ],
            rows,
        );
        assert_eq!(
            text,
            "JOB      TASKS  NAME\n\
             j1-0         5  x\n\
             j1234-0  12345  x"
        );
    }

    #[test]
    fn details_leave_out_what_is_not_there() {
        let text = details([
            ("job", Some("j1-0".to_owned())),
            ("name", None),
            ("tasks", Some("5".to_owned())),
        ]);
        assert_eq!(text, "job    j1-0\ntasks  5");
    }
}
