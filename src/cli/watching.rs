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

/// Shows the answer again and again until Ctrl-C: on a terminal in the same place, as JSON one document per line. That
/// the cluster cannot be reached is told and waited out.
pub async fn watch<T: Serialize>(
    session: &Session,
    ask: impl AsyncFn() -> Result<T, Failure>,
    for_people: impl Fn(&T) -> String,
) -> Result<ExitCode, Failure> {
    // Clears the screen and goes to its top left corner.
    let again = if io::stdout().is_terminal() && session.format == Format::Table {
        "\x1b[2J\x1b[H"
    } else {
        ""
    };
    loop {
        let shown = match ask().await {
            Ok(answer) => match session.format {
                Format::Table => for_people(&answer),
                Format::Json => serde_json::to_string(&answer).map_err(io::Error::other)?,
            },
            Err(Failure::Unreachable(message) | Failure::Failed(message)) => {
                super::complain(&message);
                String::new()
            }
            Err(failure @ (Failure::Usage(_) | Failure::Io(_))) => return Err(failure),
        };
        if !shown.is_empty() {
            output::line(&format!("{again}{shown}"))?;
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
