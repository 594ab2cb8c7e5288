//! `--watch`: repeats a query every second and prints each answer.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::context::CommandContext;
use super::error::CommandError;
use super::output::{self, Format};

/// Interval between two queries.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// Moves the cursor to the top left corner. Drawing over the previous text does not flicker.
const TOP_LEFT: &str = "\x1b[H";
/// Clears the rest of a line that was longer before.
const CLEAR_LINE: &str = "\x1b[K";
/// Clears the rest of a screen that was longer before.
const CLEAR_BELOW: &str = "\x1b[J";
/// Clears the whole screen, once.
const CLEAR_ALL: &str = "\x1b[2J";

/// Prints the answer every second until Ctrl-C:
///
/// - On a terminal, answers replace each other in the same place.
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
                        output::print_line(&format!("{before}{text}"))?;
                    }
                    last = Some((text, Instant::now()));
                    None
                }
                (Ok(answer), Format::Json) => {
                    let text = serde_json::to_string(&answer).map_err(io::Error::other)?;
                    output::print_line(&text)?;
                    last = Some((text, Instant::now()));
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
                    output::print_line(&format!(
                        "{clear}{}",
                        render_screen(&last, error.as_deref())
                    ))?;
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

/// Formats the whole screen of a terminal.
fn render_screen(last: &Option<(String, Instant)>, error: Option<&str>) -> String {
    let mut lines: Vec<String> = Vec::new();
    let now = chrono::Local::now().format("%H:%M:%S");
    match (error, last) {
        (None, _) => lines.push(format!("{now}, every second until Ctrl-C")),
        (Some(error), None) => lines.push(format!("{now}  {error}")),
        (Some(error), Some((_, at))) => {
            lines.push(format!("{now}  {error}"));
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
    let mut shown = TOP_LEFT.to_owned();
    for line in lines {
        shown.push_str(&line);
        shown.push_str(CLEAR_LINE);
        shown.push('\n');
    }
    shown.push_str(CLEAR_BELOW);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_drawn_over_and_keeps_the_last_answer_when_the_next_fails() {
        let last = Some(("a\nb".to_owned(), Instant::now()));
        let shown = render_screen(&last, None);
        assert!(
            shown.starts_with(TOP_LEFT) && shown.ends_with(CLEAR_BELOW),
            "{shown:?}"
        );
        assert!(shown.contains("a\x1b[K\nb\x1b[K\n"), "{shown:?}");
        let shown = render_screen(&last, Some("nobody answers"));
        assert!(
            shown.contains("nobody answers") && shown.contains("0 s old"),
            "{shown:?}"
        );
        assert!(shown.contains("a\x1b[K\n"), "{shown:?}");
    }
}
