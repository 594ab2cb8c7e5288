//! Printing: tables for users or JSON for programs to stdout, notes and errors to stderr.
//!
//! # Invariants
//!
//! - Texts of users reach the terminal escaped ([`triarch_process::terminal_text`]): in a [`Cell`], in everything printed as a table,
//!   and in every note. JSON stays exact, and so does the output of a task unless it goes to a terminal.
//!
//! Nothing here panics when the reader of a pipe goes away. That is an [`io::Error`] like any other, which the entry
//! point of the command line treats as success.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Attribute, CellAlignment, Color, ContentArrangement, Table, presets};
use serde::Serialize;
use triarch_process::terminal_text::{Keep, escape};

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
        Format::Table => print_text(&render(value)),
        Format::Json => write_line(&serde_json::to_string_pretty(value).map_err(io::Error::other)?),
    }
}

/// Prints the number of items that match a query. Masters of an earlier version do not count.
pub fn print_count(format: Format, count: Option<u64>) -> io::Result<()> {
    let counted = serde_json::json!({ "count": count });
    print(format, &counted, |_| {
        count.map_or_else(|| "unknown".to_owned(), |count| count.to_string())
    })
}

/// Prints a value as one line of JSON.
pub fn print_json_line<T: Serialize>(value: &T) -> io::Result<()> {
    write_line(&serde_json::to_string(value).map_err(io::Error::other)?)
}

/// Prints text of this program and a newline to stdout: a table, or lines like one. Prints nothing for an empty text.
pub fn print_text(text: &str) -> io::Result<()> {
    // Only styles of our own are left: users' texts were escaped in their cells or by `one_line`.
    write_line(&escape(text, Keep::StyledLines))
}

/// Draws a whole screen: texts with the control sequences of this program around them.
pub fn draw<'a>(parts: impl IntoIterator<Item = ScreenPart<'a>>) -> io::Result<()> {
    let mut screen = String::new();
    for part in parts {
        match part {
            ScreenPart::Control(sequence) => screen.push_str(sequence),
            ScreenPart::Text(text) => screen.push_str(&escape(text, Keep::StyledLines)),
        }
    }
    write_line(&screen)
}

/// A part of a screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScreenPart<'a> {
    /// A control sequence.
    Control(&'static str),
    /// Text without control characters but styles and newlines.
    Text(&'a str),
}

/// Writes output of a task to stdout: exactly, or without control sequences other than styles if that is a terminal.
pub fn write_task_stdout(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(task_output(text, out.is_terminal()).as_bytes())?;
    out.flush()
}

/// Writes output of a task to stderr, as [`write_task_stdout`] does.
pub fn write_task_stderr(text: &str) -> io::Result<()> {
    let mut out = io::stderr().lock();
    out.write_all(task_output(text, out.is_terminal()).as_bytes())
}

fn task_output(text: &str, on_terminal: bool) -> Cow<'_, str> {
    match on_terminal {
        true => escape(text, Keep::TaskOutput),
        false => Cow::Borrowed(text),
    }
}

fn write_line(text: &str) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Returns a text of a user as a part of one line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, Keep::Nothing)
}

/// Returns a text of a user of several lines.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, Keep::Lines)
}

/// Prints a note for the user to stderr.
pub fn print_note(text: &str) {
    // If nobody reads stderr, that cannot be reported either.
    let _ = writeln!(io::stderr().lock(), "{}", lines(text));
}

/// Writes bytes of a task to stdout as they are. For users who ask for exactly that.
pub fn write_raw_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Writes bytes of a task to stderr as they are.
pub fn write_raw_stderr(bytes: &[u8]) -> io::Result<()> {
    io::stderr().lock().write_all(bytes)
}

/// Prints a question to stderr, without a new line.
pub fn print_question(text: &str) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{} ", lines(text))?;
    stderr.flush()
}

/// Prints an error of this program to stderr.
pub fn print_error(message: &str) {
    print_note(&format!("triarch: {message}"));
}

/// One field of a table, with the texts of users escaped.
#[derive(Debug, Clone)]
pub struct Cell(comfy_table::Cell);

impl Cell {
    /// Creates a cell. A text of several lines keeps them.
    pub fn new(content: impl ToString) -> Self {
        Self(comfy_table::Cell::new(lines(&content.to_string())))
    }
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
        Column::Text(name) | Column::Number(name) => {
            comfy_table::Cell::new(name).add_attribute(Attribute::Bold)
        }
    }));
    table.add_rows(rows.into_iter().map(row));
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
    table.add_rows(rows.into_iter().map(row));
    render(table)
}

fn row(cells: Vec<Cell>) -> Vec<comfy_table::Cell> {
    cells.into_iter().map(|Cell(cell)| cell).collect()
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
                Cell(comfy_table::Cell::new(name).add_attribute(Attribute::Dim)),
                Cell::new(value),
            ]
        })
    }))
}

/// Returns a cell with the name of a state in its colour. Colours only show on a terminal.
pub fn state_cell(word: &str) -> Cell {
    let Cell(cell) = Cell::new(word);
    Cell(match word {
        "succeeded" | "live" | "leader" => cell.fg(Color::Green),
        "failed" | "expired" | "lost" | "unreachable" => cell.fg(Color::Red),
        "running" => cell.fg(Color::Cyan),
        "cancelled" | "draining" | "delayed" => cell.fg(Color::Yellow),
        _ => cell,
    })
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
    fn texts_of_users_are_escaped_in_cells() {
        let text = details([("name", Some("\x1b[2Ja\u{202e}b\nc".to_owned()))]);
        assert_eq!(text, "name  \\u{1b}[2Ja\\u{202e}b\n      c");
    }

    #[test]
    fn output_of_a_task_is_exact_unless_it_goes_to_a_terminal() {
        let text = "\x1b[31mred\x1b]0;title\x07\n";
        assert_eq!(task_output(text, false), text);
        assert_eq!(
            task_output(text, true),
            "\x1b[31mred\\u{1b}]0;title\\u{7}\n"
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
