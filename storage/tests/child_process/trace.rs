//! System call traces of a child process, by strace.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

/// Prints a marker in one write of its own, so that a trace shows its time. The test harness prints without a line end
/// before the first line, hence the leading one.
pub fn print_marker(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{line}\n").as_bytes())
        .and_then(|()| out.flush())
        .expect("the parent listens");
}

/// One completed system call of a trace: its name, arguments and result, and the lines where it began and ended.
pub struct Call {
    pub name: String,
    pub arguments: String,
    pub result: String,
    pub begun: usize,
    pub ended: usize,
}

/// Reads the output of `strace -f -y`, and joins calls that others interrupted.
pub fn calls(trace: &Path) -> Vec<Call> {
    let trace = std::fs::read_to_string(trace).expect("a trace");
    let mut calls = Vec::new();
    let mut begun: HashMap<&str, (usize, String)> = HashMap::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, (number, start.to_string()));
            continue;
        }
        let (first, text) = if rest.starts_with("<... ") {
            let (Some((first, start)), Some((_, end))) =
                (begun.remove(thread), rest.split_once(" resumed>"))
            else {
                continue;
            };
            (first, start + end)
        } else {
            (number, rest.to_string())
        };
        let (Some((name, _)), Some((call, result))) =
            (text.split_once('('), text.rsplit_once(" = "))
        else {
            continue;
        };
        calls.push(Call {
            name: name.to_string(),
            arguments: call[name.len()..].to_string(),
            result: result.to_string(),
            begun: first,
            ended: number,
        });
    }
    calls
}

/// Returns the line of a marker.
pub fn find_marker(calls: &[Call], what: &str) -> usize {
    let needle = format!("@{what}\\n");
    let call = calls
        .iter()
        .find(|call| call.name == "write" && call.arguments.contains(&needle));
    call.unwrap_or_else(|| panic!("the trace does not show {what}"))
        .begun
}
