//! How it is told.

use crate::battery::{Caught, Outcome};

/// Tests named in a line of the table; the others are counted.
const NAMED_MAX: usize = 3;

/// One mutation on one line.
pub fn line(outcome: &Outcome) -> String {
    let verdict = match outcome.caught.is_empty() {
        true => "SURVIVED".to_owned(),
        false => format!("caught by {}", names(&outcome.caught)),
    };
    let unsteady = match outcome.unsteady.is_empty() {
        true => String::new(),
        false => format!("; not steadily by {}", names(&outcome.unsteady)),
    };
    format!(
        "{:32} {:>4} s  {verdict}{unsteady}",
        outcome.mutation.name(),
        outcome.took.as_secs()
    )
}

/// All of them, as a table in Markdown.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from("| mutation | what it breaks | caught by |\n|---|---|---|\n");
    for outcome in outcomes {
        let by = match outcome.caught.is_empty() {
            true => "**nobody**".to_owned(),
            false => names(&outcome.caught),
        };
        text.push_str(&format!(
            "| `{}` | {} | {by} |\n",
            outcome.mutation.name(),
            outcome.mutation.breaks(),
        ));
    }
    text
}

/// One test of each program, then how many more there are.
fn names(caught: &[Caught]) -> String {
    let mut shown: Vec<&Caught> = Vec::new();
    for one in caught {
        if shown.iter().all(|other| other.check != one.check) && shown.len() < NAMED_MAX {
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
