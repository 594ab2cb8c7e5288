//! Printing: tables for users or JSON for programs to stdout, notes and errors to stderr.
//!
//! Nothing here panics when the reader of a pipe goes away. That is an [`io::Error`] like any other, which the entry
//! point of the command line treats as success.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    // Plain comments, because documented values would make every help page twice as long.
    // Tables, for users.
    Table,
    // JSON, for programs.
    Json,
}

/// Prints a value in this format.
pub fn print<T: Serialize>(
    format: Format,
    value: &T,
    render: impl FnOnce(&T) -> String,
) -> io::Result<()> {
    match format {
        Format::Table => print_line(&render(value)),
        Format::Json => print_line(&serde_json::to_string_pretty(value).map_err(io::Error::other)?),
    }
}

/// Prints text and a newline to stdout. Prints nothing for an empty text.
pub fn print_line(text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints a note for the user to stderr.
pub fn print_note(text: &str) {
    // If nobody reads stderr, that cannot be reported either.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints an error of this program to stderr.
pub fn print_error(message: &str) {
    print_note(&format!("triarch: {message}"));
}

/// One column of a [`table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Text, aligned left.
    Text(&'static str),
    /// Numbers, aligned right.
    Number(&'static str),
}

/// Formats rows under headers, aligned, without lines around them.
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
    render(table)
}

/// Formats rows without headers, aligned.
pub fn rows(rows: impl IntoIterator<Item = Vec<Cell>>) -> String {
    let mut table = plain_table();
    table.add_rows(rows);
    render(table)
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

fn render(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    // Padding at the end of a line would only be copied along.
    table
        .to_string()
        .lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Formats names and values below each other, for one thing shown in detail. Fields without a value are left out.
pub fn details<'a>(fields: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    rows(fields.into_iter().filter_map(|(name, value)| {
        value.map(|value| {
            vec![
                Cell::new(name).add_attribute(Attribute::Dim),
                Cell::new(value),
            ]
        })
    }))
}

/// Returns a cell with the name of a state in its colour. Colours only show on a terminal.
pub fn state_cell(word: &str) -> Cell {
    let cell = Cell::new(word);
    match word {
        "succeeded" | "live" | "leader" => cell.fg(Color::Green),
        "failed" | "expired" | "lost" | "unreachable" => cell.fg(Color::Red),
        "running" => cell.fg(Color::Cyan),
        "cancelled" | "draining" | "delayed" => cell.fg(Color::Yellow),
        _ => cell,
    }
}

/// Returns whether stderr is a terminal, on which progress may be drawn.
pub fn is_interactive() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_borders() {
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
    fn details_leave_out_fields_without_a_value() {
        let text = details([
            ("job", Some("j1-0".to_owned())),
            ("name", None),
            ("tasks", Some("5".to_owned())),
        ]);
        assert_eq!(text, "job    j1-0\ntasks  5");
    }
}
