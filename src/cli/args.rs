//! Arguments shared by several commands, and their value parsers.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
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

/// Returns the parser of an enum value of the wire interface, such as a state, by its name there. Completions and errors
/// list the names.
pub fn one_of<T>(names: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|word| {
        let deserializer = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(&word);
        T::deserialize(deserializer)
    })
}

/// Parses `key=value`.
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("'{text}' is not KEY=VALUE, such as zone=eu")),
    }
}

/// Parses `key=n`.
pub fn resource(text: &str) -> Result<(String, u64), String> {
    let wrong = || format!("'{text}' is not KEY=N, such as mem_mb=4096");
    let (key, amount) = label(text).map_err(|_| wrong())?;
    Ok((key, amount.parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use triarch_sdk::wire::JobState;

    use super::one_of;

    #[test]
    fn states_are_parsed_by_their_names_on_the_wire() {
        let command = clap::Command::new("list").arg(
            clap::Arg::new("state")
                .value_parser(one_of::<JobState>(JobState::ALL.map(JobState::as_str))),
        );
        for state in JobState::ALL {
            let parsed = command
                .clone()
                .try_get_matches_from(["list", state.as_str()]);
            assert_eq!(
                parsed.expect("a state").get_one::<JobState>("state"),
                Some(&state)
            );
        }
        let refused = command.try_get_matches_from(["list", "done"]);
        let said = refused.expect_err("no state").to_string();
        assert!(said.contains("succeeded"), "{said}");
    }
}
