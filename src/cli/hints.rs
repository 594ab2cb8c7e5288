//! Hints for command lines that this program does not accept, although it shows what was meant.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{ids, shell};

/// Maximum commands that a hint lists.
const COMMANDS_MAX: usize = 3;
/// Words that other programs use, and the command here.
const SYNONYMS: [(&str, &str); 8] = [
    ("run", "submit --wait -- …"),
    ("exec", "submit --wait -- …"),
    ("ps", "task list --state running"),
    ("jobs", "job list"),
    ("tasks", "task list"),
    ("workers", "worker list"),
    ("queues", "queue list"),
    ("start", "server, or dev for a cluster on this machine"),
];

/// Returns a hint for arguments (without the name of the program) that were refused with this error.
pub fn hint(command: &clap::Command, arguments: &[String], error: &clap::Error) -> Option<String> {
    match error.kind() {
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument if id_hint(error).is_some() => {
            id_hint(error)
        }
        ErrorKind::InvalidSubcommand => subcommand_hint(command, arguments, error),
        ErrorKind::UnknownArgument | ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            argv_hint(command, arguments, error)
        }
        _ => None,
    }
    .map(|commands| format!("hint: {commands}"))
}

/// Returns the command that shows the thing with this id, for an id in the place of a command.
fn id_hint(error: &clap::Error) -> Option<String> {
    let word = text(error, ContextKind::InvalidSubcommand);
    let word = word.or_else(|| text(error, ContextKind::InvalidArg))?;
    let kind = ids::kind_of(&word)?;
    let program = shell::program_name();
    Some(format!("try {program} {} show {word}", kind.name()))
}

/// Returns the commands of this name that are below another, such as `cluster status` for `status`.
fn subcommand_hint(
    command: &clap::Command,
    arguments: &[String],
    error: &clap::Error,
) -> Option<String> {
    let word = text(error, ContextKind::InvalidSubcommand)?;
    let at = arguments.iter().position(|argument| *argument == word)?;
    let program = shell::program_name();
    // Only in the place of a command of the first level.
    if arguments[..at]
        .iter()
        .any(|before| command.find_subcommand(before).is_some())
    {
        return None;
    }
    if let Some((_, meant)) = SYNONYMS.iter().find(|(other, _)| *other == word) {
        return Some(format!("try {program} {meant}"));
    }
    let below = command.get_subcommands().filter_map(|noun| {
        let verb = noun.find_subcommand(&word)?;
        Some(format!("{program} {} {}", noun.get_name(), verb.get_name()))
    });
    let below: Vec<String> = below.take(COMMANDS_MAX).collect();
    (!below.is_empty()).then(|| format!("try {}", below.join(", ")))
}

/// Returns the command line with the `--` that is missing in front of the command to run.
fn argv_hint(command: &clap::Command, arguments: &[String], error: &clap::Error) -> Option<String> {
    if arguments.iter().any(|word| word == "--") {
        return None;
    }
    // An invalid value of an option is another mistake.
    if text(error, ContextKind::InvalidArg).is_some_and(|argument| argument.starts_with("--")) {
        return None;
    }
    let begins = arguments.iter().position(|word| word == "submit")?;
    let submit = command.find_subcommand("submit")?;
    let at = begins + 1 + first_positional(submit, &arguments[begins + 1..])?;
    let quoted = |words: &[String]| {
        words
            .iter()
            .map(|word| shell::quote(word))
            .collect::<Vec<_>>()
            .join(" ")
    };
    Some(format!(
        "the command to run follows `--`: {} {} -- {}",
        shell::program_name(),
        quoted(&arguments[..at]),
        quoted(&arguments[at..])
    ))
}

/// Returns the place of the first argument that is neither an option nor the value of one.
fn first_positional(command: &clap::Command, arguments: &[String]) -> Option<usize> {
    let takes_value = |word: &str| {
        let is_it = |arg: &&clap::Arg| match word.strip_prefix("--") {
            Some(long) => arg
                .get_long_and_visible_aliases()
                .is_some_and(|names| names.contains(&long)),
            None => word.chars().nth(1) == arg.get_short() && word.chars().count() == 2,
        };
        let arg = command.get_arguments().find(is_it);
        arg.is_some_and(|arg| arg.get_action().takes_values())
    };
    let mut at = 0;
    while let Some(word) = arguments.get(at) {
        if !word.starts_with('-') {
            return Some(at);
        }
        at += if takes_value(word) { 2 } else { 1 };
    }
    None
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        _ => None,
    }
}
