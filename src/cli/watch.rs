//! `--watch`: repeats a query every second and prints each answer.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::context::CommandContext;
use super::error::CommandError;
use super::output::{self, Format, ScreenPart};

/// Interval between two queries.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// Moves the cursor to the top left corner. Drawing over the previous text does not flicker.
const TOP_LEFT: &str = "\x1b[H";
/// Clears the rest of a line that was longer before.
const CLEAR_LINE: &str = "\x1b[K";
/// Clears the rest of a screen that was longer before.
const CLEAR_BELOW: &str = "\x1b[J";
/// Cuts lines at the edge of the screen, and wraps them again.
const WRAP_OFF: &str = "\x1b[?7l";
const WRAP_ON: &str = "\x1b[?7h";
/// Clears the whole screen, once.
const CLEAR_ALL: &str = "\x1b[2J";

/// Prints the answer every second until Ctrl-C:
///
/// - On a terminal, answers replace each other in the same place, as many lines as fit.
/// - Elsewhere, answers follow each other with an empty line between them.
/// - As JSON, there is one document per line.
///
/// An unreachable cluster is reported and waited out. A refusal is too, unless it is the first answer. A terminal keeps
/// the last answer on the screen.
pub async fn watch<T: Serialize>(
    context: &CommandContext,
    ask: impl AsyncFn() -> Result<T, CommandError>,
    render: impl Fn(&T) -> String,
) -> Result<ExitCode, CommandError> {
    let screen = io::stdout().is_terminal() && matches!(context.format, Format::Table);
    let watched = async {
        let mut last: Option<(String, Instant)> = None;
        let mut clear = CLEAR_ALL;
        loop {
            let answer = ask().await;
            let error = match (answer, context.format) {
                (Ok(answer), Format::Table) => {
                    let text = render(&answer);
                    if !screen {
                        let before = if last.is_some() { "\n" } else { "" };
                        output::print_text(&format!("{before}{text}"))?;
                    }
                    last = Some((text, Instant::now()));
                    None
                }
                (Ok(answer), Format::Json) => {
                    output::print_json_line(&answer)?;
                    last = Some((String::new(), Instant::now()));
                    None
                }
                (Err(failure @ CommandError::Failed(_)), _) if last.is_none() => {
                    return Err(failure);
                }
                (Err(CommandError::Unreachable(message) | CommandError::Failed(message)), _) => {
                    Some(message)
                }
                (Err(failure @ (CommandError::Usage(_) | CommandError::Io(_))), _) => {
                    return Err(failure);
                }
            };
            match error {
                error if screen => {
                    let lines = fitting(screen_lines(&last, error.as_deref()), screen_rows());
                    output::draw(
                        [ScreenPart::Control(clear)]
                            .into_iter()
                            .chain(screen_parts(&lines)),
                    )?;
                    clear = "";
                }
                Some(error) => output::print_error(&error),
                None => {}
            }
            tokio::time::sleep(REFRESH_INTERVAL).await;
        }
    };
    // Ctrl-C also takes effect while an answer is awaited.
    tokio::select! {
        watched = watched => watched,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::SUCCESS),
    }
}

/// Returns the lines of the whole screen.
fn screen_lines(last: &Option<(String, Instant)>, error: Option<&str>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let now = chrono::Local::now().format("%H:%M:%S");
    match (error, last) {
        (None, _) => lines.push(format!("{now}, every second until Ctrl-C")),
        (Some(error), None) => lines.push(format!("{now}  {}", output::lines(error))),
        (Some(error), Some((_, at))) => {
            lines.push(format!("{now}  {}", output::lines(error)));
            lines.push(format!(
                "The output below is {} s old.",
                at.elapsed().as_secs()
            ));
        }
    }
    lines.push(String::new());
    if let Some((text, _)) = last {
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}

/// Returns the parts that draw these lines over the previous ones.
fn screen_parts(lines: &[String]) -> impl Iterator<Item = ScreenPart<'_>> {
    let drawn = lines.iter().flat_map(|line| {
        [
            ScreenPart::Text(line),
            ScreenPart::Control(CLEAR_LINE),
            ScreenPart::Control("\n"),
        ]
    });
    [ScreenPart::Control(TOP_LEFT), ScreenPart::Control(WRAP_OFF)]
        .into_iter()
        .chain(drawn)
        .chain([
            ScreenPart::Control(WRAP_ON),
            ScreenPart::Control(CLEAR_BELOW),
        ])
}

/// Returns the number of rows of the terminal on stdout.
fn screen_rows() -> Option<usize> {
    // SAFETY: the structure is valid when zeroed, and outlives the call, which writes only that.
    let rows = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        let asked = libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size);
        if asked == 0 { size.ws_row } else { 0 }
    };
    Some(usize::from(rows)).filter(|rows| *rows > 0)
}

/// Returns the lines that fit on a screen of this many rows, the last of which stays empty for the cursor.
fn fitting(mut lines: Vec<String>, rows: Option<usize>) -> Vec<String> {
    if let Some(most) = rows.map(|rows| rows.saturating_sub(1).max(1))
        && lines.len() > most
    {
        let hidden = lines.len() - (most - 1);
        lines.truncate(most - 1);
        lines.push(format!("… {hidden} more lines"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_drawn_over_and_keeps_the_last_answer_when_the_next_fails() {
        let last = Some(("a\nb".to_owned(), Instant::now()));
        let lines = screen_lines(&last, None);
        let parts: Vec<_> = screen_parts(&lines).collect();
        assert_eq!(parts.first(), Some(&ScreenPart::Control(TOP_LEFT)));
        assert_eq!(parts.get(1), Some(&ScreenPart::Control(WRAP_OFF)));
        assert_eq!(parts.last(), Some(&ScreenPart::Control(CLEAR_BELOW)));
        let (clear, end) = (ScreenPart::Control(CLEAR_LINE), ScreenPart::Control("\n"));
        let shown = [
            ScreenPart::Text("a"),
            clear,
            end,
            ScreenPart::Text("b"),
            clear,
            end,
        ];
        assert!(parts.windows(6).any(|part| part == shown), "{parts:?}");
        let lines = screen_lines(&last, Some("nobody answers"));
        let has = |text: &str| lines.iter().any(|line| line.contains(text));
        assert!(has("nobody answers") && has("0 s old"), "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("b"));
    }

    #[test]
    fn no_more_lines_are_drawn_than_fit() {
        let lines = |count: usize| (1..=count).map(|nth| nth.to_string()).collect::<Vec<_>>();
        assert_eq!(fitting(lines(9), Some(10)), lines(9));
        let cut = fitting(lines(100), Some(10));
        assert_eq!(cut.len(), 9);
        assert_eq!(cut[..8], lines(8));
        assert_eq!(cut[8], "… 92 more lines");
        assert_eq!(fitting(lines(100), None).len(), 100);
        assert_eq!(fitting(lines(5), Some(1)).len(), 1);
    }
}
