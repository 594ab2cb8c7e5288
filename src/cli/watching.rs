//! `--watch`: the same question again every second, for people who look and programs that read along.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::Failure;
use super::output::{self, Format};
use super::session::Session;

/// How often it is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its top left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows the answer again and again until Ctrl-C: on a terminal in the same place, elsewhere one after the other with an
/// empty line between them, as JSON one document per line. That the cluster cannot be reached is told and waited out; so
/// is a refusal, unless it is the first answer.
pub async fn watch<T: Serialize>(
    session: &Session,
    ask: impl AsyncFn() -> Result<T, Failure>,
    for_people: impl Fn(&T) -> String,
) -> Result<ExitCode, Failure> {
    let watched = async {
        let mut before = if io::stdout().is_terminal() {
            CLEAR
        } else {
            ""
        };
        let mut shown = false;
        loop {
            match (ask().await, session.format) {
                (Ok(answer), Format::Table) => {
                    output::line(&format!("{before}{}", for_people(&answer)))?;
                    if before.is_empty() {
                        before = "\n";
                    }
                    shown = true;
                }
                (Ok(answer), Format::Json) => {
                    output::line(&serde_json::to_string(&answer).map_err(io::Error::other)?)?;
                    shown = true;
                }
                (Err(failure @ Failure::Failed(_)), _) if !shown => return Err(failure),
                (Err(Failure::Unreachable(message) | Failure::Failed(message)), _) => {
                    super::complain(&message);
                }
                (Err(failure @ (Failure::Usage(_) | Failure::Io(_))), _) => return Err(failure),
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
