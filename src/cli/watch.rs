//! `--watch`: the same question again every second, for people who look and programs that read along.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Failure;
use super::output::{self, Format};
use crate::cli::context::Session;

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// What is written to a terminal: from its top left corner over what is there, so that nothing flickers.
const TOP_LEFT: &str = "\x1b[H";
/// Clears what is left of a line that was longer before.
const CLEAR_LINE: &str = "\x1b[K";
/// Clears what is left of a screen that was longer before.
const CLEAR_BELOW: &str = "\x1b[J";
/// Clears everything, once.
const CLEAR_ALL: &str = "\x1b[2J";

/// Shows the answer again and again until Ctrl-C: on a terminal in the same place, elsewhere one after the other with an
/// empty line between them, as JSON one document per line. That the cluster cannot be reached is told and waited out; so
/// is a refusal, unless it is the first answer. A terminal goes on showing what was known last.
pub async fn watch<T: Serialize>(
    session: &Session,
    ask: impl AsyncFn() -> Result<T, Failure>,
    for_people: impl Fn(&T) -> String,
) -> Result<ExitCode, Failure> {
    let screen = io::stdout().is_terminal() && matches!(session.format, Format::Table);
    let watched = async {
        let mut last: Option<(String, Instant)> = None;
        let mut clear = CLEAR_ALL;
        loop {
            let answer = ask().await;
            let complaint = match (answer, session.format) {
                (Ok(answer), Format::Table) => {
                    let text = for_people(&answer);
                    if !screen {
                        let before = if last.is_some() { "\n" } else { "" };
                        output::line(&format!("{before}{text}"))?;
                    }
                    last = Some((text, Instant::now()));
                    None
                }
                (Ok(answer), Format::Json) => {
                    let text = serde_json::to_string(&answer).map_err(io::Error::other)?;
                    output::line(&text)?;
                    last = Some((text, Instant::now()));
                    None
                }
                (Err(failure @ Failure::Failed(_)), _) if last.is_none() => return Err(failure),
                (Err(Failure::Unreachable(message) | Failure::Failed(message)), _) => Some(message),
                (Err(failure @ (Failure::Usage(_) | Failure::Io(_))), _) => return Err(failure),
            };
            match complaint {
                complaint if screen => {
                    output::line(&format!(
                        "{clear}{}",
                        on_screen(&last, complaint.as_deref())
                    ))?;
                    clear = "";
                }
                Some(complaint) => super::complain(&complaint),
                None => {}
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    // One that is pressed while an answer is waited for counts, too.
    tokio::select! {
        watched = watched => watched,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::SUCCESS),
    }
}

/// All that a terminal shows at one moment.
fn on_screen(last: &Option<(String, Instant)>, complaint: Option<&str>) -> String {
    let mut lines: Vec<String> = Vec::new();
    let now = chrono::Local::now().format("%H:%M:%S");
    match (complaint, last) {
        (None, _) => lines.push(format!("{now}, every second until Ctrl-C")),
        (Some(complaint), None) => lines.push(format!("{now}  {complaint}")),
        (Some(complaint), Some((_, at))) => {
            lines.push(format!("{now}  {complaint}"));
            lines.push(format!("What follows is {} s old.", at.elapsed().as_secs()));
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
    fn a_screen_is_drawn_over_and_keeps_what_was_known_last() {
        let last = Some(("a\nb".to_owned(), Instant::now()));
        let shown = on_screen(&last, None);
        assert!(
            shown.starts_with(TOP_LEFT) && shown.ends_with(CLEAR_BELOW),
            "{shown:?}"
        );
        assert!(shown.contains("a\x1b[K\nb\x1b[K\n"), "{shown:?}");
        let shown = on_screen(&last, Some("nobody answers"));
        assert!(
            shown.contains("nobody answers") && shown.contains("0 s old"),
            "{shown:?}"
        );
        assert!(shown.contains("a\x1b[K\n"), "{shown:?}");
    }
}
