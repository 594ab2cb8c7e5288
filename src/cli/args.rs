//! Arguments shared by several commands, and their value parsers.

use clap::Args;
use serde::de::DeserializeOwned;
use triarch_sdk::wire::PageQuery;

use super::output::Format;

/// Default masters: the ports of `triarch dev`.
pub const DEFAULT_MASTERS: &str =
    "http://127.0.0.1:7101,http://127.0.0.1:7102,http://127.0.0.1:7103";

/// Global options, accepted anywhere on the command line.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// URLs of the masters; one reachable master is enough
    #[arg(
        long,
        global = true,
        value_name = "URL,URL",
        value_delimiter = ',',
        env = "TRIARCH_MASTERS",
        default_value = DEFAULT_MASTERS,
        hide_default_value = true,
        help_heading = "Cluster"
    )]
    pub masters: Vec<String>,
    /// Output format: tables for reading, or JSON for programs
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t = Format::Table,
        hide_default_value = true,
        help_heading = "Cluster"
    )]
    pub output: Format,
}

/// Paging options of a list.
#[derive(Debug, Args)]
pub struct PageArgs {
    /// Maximum number of items to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Cursor of the next page, as printed at the end of the page before
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<String>,
    /// Repeats the output every second until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

impl PageArgs {
    /// Returns the query for this page.
    pub fn query(self) -> PageQuery {
        PageQuery {
            limit: Some(self.limit),
            after: self.after,
            consistency: None,
        }
    }
}

/// Parses an enum value of the wire interface, such as a state, by its name there.
pub fn parse_word<T: DeserializeOwned>(word: &str) -> Result<T, String> {
    let deserializer = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(word);
    T::deserialize(deserializer).map_err(|error| error.to_string())
}
