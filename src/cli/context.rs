//! One client command's view of the cluster: how to reach it, who reads the answer, and how its user would call this
//! program again.

use std::time::Duration;

use triarch_sdk::{Client, ClientOptions, parse_masters};

use super::output::{self, Format};
use super::{DEFAULT_MASTERS, Failure, GlobalArgs};

/// Everything a client command needs.
pub struct Session {
    /// Talks to the masters.
    pub client: Client,
    /// Who reads the output.
    pub format: Format,
    /// What has to be typed to reach the same masters again; empty if nothing has.
    masters_option: String,
}

impl Session {
    /// Checks the masters' addresses; talks to nobody yet.
    pub fn new(global: &GlobalArgs) -> Result<Self, Failure> {
        let mut typed = global.masters.join(",");
        if typed.is_empty() {
            // An environment variable that is set to nothing is as good as not set.
            typed = DEFAULT_MASTERS.to_owned();
        }
        let client = parse_masters(&typed)
            .and_then(|masters| Client::with_options(&masters, patience()))
            .map_err(|error| Failure::Usage(format!("--masters: {error}")))?;
        let found_anyway = typed == DEFAULT_MASTERS
            || std::env::var("TRIARCH_MASTERS").is_ok_and(|set| set == typed);
        let masters_option = if found_anyway {
            String::new()
        } else {
            format!(" --masters {typed}")
        };
        Ok(Self {
            client,
            format: global.output,
            masters_option,
        })
    }

    /// A command line of this program for the same cluster, to be shown to its user.
    pub fn command(&self, words: &str) -> String {
        format!("{} {words}{}", super::called_as(), self.masters_option)
    }

    /// Tells a person that a list goes on; programs see it in the list.
    pub fn tell_of_more(&self, next: Option<&str>) {
        if let (Format::Table, Some(next)) = (self.format, next) {
            output::note(&format!(
                "\nThere are more: add --after {next} for the next page, or --limit for a longer one."
            ));
        }
    }
}

/// A person who mistyped an address should not have to wait long to be told.
fn patience() -> ClientOptions {
    ClientOptions {
        unreachable_deadline: Duration::from_secs(2),
        ..ClientOptions::default()
    }
}
