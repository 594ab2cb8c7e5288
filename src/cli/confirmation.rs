//! Confirmation of operations on many things: the count first, and a question on a terminal.

use std::io::{self, BufRead, IsTerminal};

use clap::Args;

use super::error::CommandError;
use super::output;

/// Options of an operation on many things.
#[derive(Debug, Clone, Copy, Args)]
pub struct Confirmation {
    /// Changes nothing, and prints how many it would change
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Changes without the question that a terminal gets
    #[arg(long, short)]
    yes: bool,
}

impl Confirmation {
    /// Returns the confirmation of an operation that cannot be tried without effect.
    pub fn of(yes: bool) -> Self {
        Confirmation {
            dry_run: false,
            yes,
        }
    }

    /// Returns whether the operation has to be counted before it is done.
    pub fn needs_count(&self) -> bool {
        self.dry_run || self.is_interactive()
    }

    fn is_interactive(&self) -> bool {
        !self.yes && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks the user to confirm what is about to happen. Without a terminal, nobody is asked.
    pub fn asks(&self, what: &str) -> Result<bool, CommandError> {
        if !self.is_interactive() {
            return Ok(true);
        }
        output::print_question(&format!("{what} Continue? [y/N]"))?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        let agreed = is_yes(&answer);
        if !agreed {
            output::print_note("Nothing was changed.");
        }
        Ok(agreed)
    }

    /// Refuses options that an operation on one thing does not have.
    pub fn refuse_for_one(&self) -> Result<(), CommandError> {
        match self.dry_run {
            true => Err(CommandError::Usage(
                "--dry-run counts what options select; it is of no use with the id of one task"
                    .to_owned(),
            )),
            false => Ok(()),
        }
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::is_yes;

    #[test]
    fn only_a_yes_is_one() {
        assert!(
            ["y", "Y", "yes", " YES \n"]
                .iter()
                .all(|answer| is_yes(answer))
        );
        assert!(
            !["", "n", "no", "ye", "\n", "yes please"]
                .iter()
                .any(|answer| is_yes(answer))
        );
    }
}
