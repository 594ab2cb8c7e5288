//! Context of a client command: the client, the output format, and the command line that reaches the same cluster
//! again.

use std::time::Duration;

use triarch_sdk::{Client, ClientOptions, parse_masters};

use super::args::{DEFAULT_MASTERS, GlobalArgs};
use super::error::CommandError;
use super::output::{self, Format};
use super::shell;

/// Context of a client command.
pub struct CommandContext {
    /// Client of the cluster.
    pub client: Client,
    /// Output format.
    pub format: Format,
    /// Option that reaches the same masters again; empty if none is needed.
    masters_option: String,
}

impl CommandContext {
    /// Checks the addresses of the masters. Does not connect yet.
    pub fn new(global: &GlobalArgs) -> Result<Self, CommandError> {
        let mut masters_text = global.masters.join(",");
        if masters_text.is_empty() {
            // An empty environment variable counts as not set.
            masters_text = DEFAULT_MASTERS.to_owned();
        }
        let client = parse_masters(&masters_text)
            .and_then(|masters| Client::with_options(&masters, client_options()))
            .map_err(|error| CommandError::Usage(format!("--masters: {error}")))?;
        let is_default = masters_text == DEFAULT_MASTERS
            || std::env::var("TRIARCH_MASTERS").is_ok_and(|set| set == masters_text);
        let masters_option = if is_default {
            String::new()
        } else {
            format!(" --masters {masters_text}")
        };
        Ok(Self {
            client,
            format: global.output,
            masters_option,
        })
    }

    /// Returns a command line of this program for the same cluster, to be shown to the user.
    pub fn command(&self, words: &str) -> String {
        format!("{} {words}{}", shell::program_name(), self.masters_option)
    }

    /// Prints the command that gets the next page of a list. Programs find the cursor in the list itself.
    pub fn print_next_page_hint(&self, next: Option<&str>) {
        if let (Format::Table, Some(next)) = (self.format, next) {
            output::print_note(&format!(
                "\nThere are more items: add --after {next} for the next page, or a higher --limit."
            ));
        }
    }
}

/// Returns options with a short deadline, because a mistyped address should be reported soon.
fn client_options() -> ClientOptions {
    ClientOptions {
        unreachable_deadline: Duration::from_secs(2),
        ..ClientOptions::default()
    }
}
