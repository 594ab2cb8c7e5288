//! Report of the results, as text and as a table in Markdown.

use crate::battery::{Caught, MutationResult};

/// Maximum number of tests named in a line of the table. The others are counted.
const MAX_NAMES: usize = 3;

/// Returns the line of one mutation.
pub fn line(result: &MutationResult) -> String {
    let verdict = match result.caught.is_empty() {
        true => "SURVIVED".to_owned(),
        false => format!("caught by {}", names(&result.caught)),
    };
    let unsteady = match result.unsteady.is_empty() {
        true => String::new(),
        false => format!("; not steadily by {}", names(&result.unsteady)),
    };
    format!(
        "{:32} {:>4} s  {verdict}{unsteady}",
        result.mutation.name(),
        result.took.as_secs()
    )
}

/// Returns the results of all mutations, as a table in Markdown.
pub fn table(outcomes: &[MutationResult]) -> String {
    let mut text = String::from("| mutation | what it breaks | caught by |\n|---|---|---|\n");
    for result in outcomes {
        let by = match result.caught.is_empty() {
            true => "**nobody**".to_owned(),
            false => names(&result.caught),
        };
        text.push_str(&format!(
            "| `{}` | {} | {by} |\n",
            result.mutation.name(),
            result.mutation.breaks(),
        ));
    }
    text
}

/// Returns one test of each program, and the number of the others.
fn names(caught: &[Caught]) -> String {
    let mut shown: Vec<&Caught> = Vec::new();
    for one in caught {
        if shown.iter().all(|other| other.check != one.check) && shown.len() < MAX_NAMES {
            shown.push(one);
        }
    }
    let mut names: Vec<String> = shown
        .iter()
        .map(|one| format!("{}: `{}`", one.check, one.test))
        .collect();
    let more = caught.len() - shown.len();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}
