//! Ids of the cluster, as users mix them up.

use super::context::CommandContext;
use super::error::CommandError;

/// A kind of thing that has ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    name: &'static str,
    prefix: char,
}

/// Jobs, such as `j5`.
pub const JOB: Kind = Kind {
    name: "job",
    prefix: 'j',
};
/// Tasks, such as `t5-0`.
pub const TASK: Kind = Kind {
    name: "task",
    prefix: 't',
};
/// Workers, such as `w5-0`.
pub const WORKER: Kind = Kind {
    name: "worker",
    prefix: 'w',
};

/// Refuses the id of another kind of thing, with the command that is for it.
pub fn expect(context: &CommandContext, wanted: Kind, id: &str) -> Result<(), CommandError> {
    match kind_of(id) {
        Some(kind) if kind != wanted => {
            let command = context.command(&format!("{} show {id}", kind.name));
            Err(CommandError::Failed(format!(
                "{id} is the id of a {}, not of a {}: try {command}",
                kind.name, wanted.name
            )))
        }
        Some(_) | None => Ok(()),
    }
}

impl Kind {
    /// Returns its name, which is that of its command, too.
    pub fn name(self) -> &'static str {
        self.name
    }
}

/// Returns the kind of thing that has ids like this one.
pub fn kind_of(id: &str) -> Option<Kind> {
    let kind = [JOB, TASK, WORKER]
        .into_iter()
        .find(|kind| id.starts_with(kind.prefix))?;
    let (index, position) = id[1..].split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(index) && digits(position)).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_show_what_they_are_of() {
        assert_eq!(kind_of("j5-0"), Some(JOB));
        assert_eq!(kind_of("t17-3"), Some(TASK));
        assert_eq!(kind_of("w1-0"), Some(WORKER));
        for other in [
            "", "t", "t5", "t5-", "t-0", "x5-0", "t5-0-1", "tä-0", "nightly",
        ] {
            assert_eq!(kind_of(other), None, "{other}");
        }
    }
}
