//! Standard input of `triarch submit`: forwarded to the task, or split into tasks, one for each line.

use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::CommandError;
use crate::output;

/// Time within which something must come from a pipe that nobody said is the input of the task.
const FIRST_BYTE_TIMEOUT_MS: u8 = 200;
/// Marker of an argument that is replaced by the line.
const PLACEHOLDER: &str = "{}";

/// Whether standard input goes to the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    /// If something was redirected to it.
    IfRedirected,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Reads standard input for the task. `None` if there is none for it.
pub fn read(forward: Forward) -> Result<Option<String>, CommandError> {
    let wanted = match forward {
        Forward::Never => false,
        Forward::Always => true,
        Forward::IfRedirected => is_redirected()?,
    };
    if !wanted {
        return Ok(None);
    }
    let text = read_text()?;
    if forward == Forward::IfRedirected && !text.is_empty() {
        output::print_note(&format!(
            "Standard input ({} bytes) goes to the task; with --no-stdin it does not.",
            text.len()
        ));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Reads the lines of standard input, without blank ones.
pub fn read_lines() -> Result<Vec<String>, CommandError> {
    let text = read_text()?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    if lines.is_empty() {
        return Err(CommandError::Usage(
            "--each-line: standard input has no lines, so there is nothing to submit".to_owned(),
        ));
    }
    Ok(lines)
}

/// Puts a line in the place of each `{}` in the arguments, or behind them if there is none.
pub fn with_line(argv: &[String], line: &str) -> Vec<String> {
    let mut placed: Vec<String> = argv
        .iter()
        .map(|word| word.replace(PLACEHOLDER, line))
        .collect();
    if !argv.iter().any(|word| word.contains(PLACEHOLDER)) {
        placed.push(line.to_owned());
    }
    placed
}

fn read_text() -> Result<String, CommandError> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| {
        CommandError::Usage(
            "standard input is not UTF-8, and the input of a task is text: encode it, for example with base64, and decode \
             it in the task"
                .to_owned(),
        )
    })
}

/// Returns whether a file or a pipe with something in it is standard input. A pipe that stays silent, as many programs
/// give to what they start, is none.
fn is_redirected() -> Result<bool, CommandError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Ok(false);
    }
    let Ok(copy) = stdin.as_fd().try_clone_to_owned() else {
        // It is closed.
        return Ok(false);
    };
    let kind = std::fs::File::from(copy).metadata()?.file_type();
    if kind.is_file() {
        return Ok(true);
    }
    if !kind.is_fifo() && !kind.is_socket() {
        return Ok(false);
    }
    let mut readable = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let ready =
        poll(&mut readable, PollTimeout::from(FIRST_BYTE_TIMEOUT_MS)).map_err(io::Error::from)?;
    if ready == 0 {
        output::print_note(
            "Nothing has come from standard input yet, so the task gets none; with --stdin it waits for all of it.",
        );
    }
    Ok(ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_replaces_the_placeholders_or_comes_last() {
        let argv = |words: &[&str]| -> Vec<String> {
            words.iter().map(|word| (*word).to_owned()).collect()
        };
        let placed = |words: &[&str]| with_line(&argv(words), "a b");
        assert_eq!(placed(&["echo"]), ["echo", "a b"]);
        assert_eq!(
            placed(&["cp", "{}", "/tmp/{}.bak"]),
            ["cp", "a b", "/tmp/a b.bak"]
        );
        assert_eq!(
            placed(&["sh", "-c", "echo $1", "-"]),
            ["sh", "-c", "echo $1", "-", "a b"]
        );
    }
}
