//! Traces of a process's system calls, and injected failures of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cluster::Cluster;
use crate::processes::process::Process;
use crate::wait::until;

/// Maximum time for strace to attach to every thread of a process.
const ATTACHED: Duration = Duration::from_secs(20);

/// An strace that is attached to a running process. Dropping it detaches from the process.
#[derive(Debug)]
pub struct Tracer {
    strace: Process,
    output: PathBuf,
}

/// One system call that has returned.
#[derive(Debug, Clone)]
pub struct Call {
    /// Name of the system call.
    pub name: String,
    /// File of the call, if it has one.
    pub path: Option<PathBuf>,
    /// Time of the entry, in Unix seconds.
    pub entered: f64,
    /// Time of the return, in Unix seconds.
    pub returned: f64,
    /// Whether it returned no error.
    pub succeeded: bool,
}

/// Returns the current time on the clock that strace uses.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is past 1970").as_secs_f64()
}

impl Tracer {
    /// Attaches to a master with these strace options (what to trace, what to inject).
    pub async fn attach(cluster: &Cluster, node: u64, options: &[&str]) -> Self {
        let output = cluster
            .root()
            .join("logs")
            .join(format!("strace-{node}.txt"));
        let mut command: Command = cluster.marked("strace");
        // -f: all threads; -ttt: times in Unix seconds; -y: paths next to descriptors.
        command
            .args(["-f", "-ttt", "-y", "-o"])
            .arg(&output)
            .args(options);
        command.args(["-p", &cluster.pid(node).to_string()]);
        let mut strace = cluster.spawn(&format!("strace-{node}"), command);
        until(
            ATTACHED,
            format!("strace is attached to master {node}"),
            async || {
                // strace ends with the process, which may meet its first failure at once.
                let ended = strace.ended().is_some();
                let attached = strace.log().contains("attached");
                assert!(attached || !ended, "{}", strace.last_words());
                attached
            },
        )
        .await;
        Self { strace, output }
    }

    /// Detaches from the process, and returns the system calls since the start.
    pub async fn finish(mut self) -> Vec<Call> {
        self.strace.terminate();
        self.strace.wait(ATTACHED).await;
        let text = std::fs::read_to_string(&self.output).expect("strace wrote what it saw");
        parse(&text)
    }
}

/// Parses the output of strace, in the order of the returns.
fn parse(text: &str) -> Vec<Call> {
    let mut entered: HashMap<&str, (f64, String)> = HashMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        // The number of the thread is padded to a fixed width.
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((time, rest)) = rest.trim_start().split_once(' ') else {
            continue;
        };
        let Ok(time) = time.parse::<f64>() else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            entered.insert(thread, (time, begun.to_owned()));
        } else if rest.starts_with("<... ") {
            let end = rest.split_once("resumed>").map_or("", |(_, end)| end);
            if let Some((begun, start)) = entered.remove(thread) {
                calls.extend(call(&format!("{start}{end}"), begun, time));
            }
        } else {
            calls.extend(call(rest, time, time));
        }
    }
    calls
}

/// Parses a line such as `fdatasync(9</data/log/db>) = 0`.
fn call(text: &str, entered: f64, returned: f64) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(") = ")?;
    let first = arguments.split(',').next().unwrap_or_default().trim_end();
    let path = first
        .split_once('<')
        .and_then(|(_, path)| path.strip_suffix('>'));
    Some(Call {
        name: name.to_owned(),
        path: path.map(|path| Path::new(path).to_owned()),
        entered,
        returned,
        succeeded: !result.starts_with('-'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_and_interrupted_calls() {
        let text = "\
11    1700000000.100000 pwrite64(9</d/log/db>, \"a, b) = \"..., 512, 0) = 512
12 1700000000.200000 fdatasync(9</d/log/db> <unfinished ...>
11 1700000000.250000 pwrite64(9</d/log/db>, \"\", 0, 0) = 0
12 1700000000.300000 <... fdatasync resumed>) = 0
12 1700000000.400000 fdatasync(9</d/log/db>) = -1 EIO (Input/output error) (INJECTED)
12 1700000000.500000 +++ exited with 1 +++
";
        let calls = parse(text);
        let names: Vec<(&str, bool)> = calls
            .iter()
            .map(|call| (call.name.as_str(), call.succeeded))
            .collect();
        assert_eq!(
            names,
            [
                ("pwrite64", true),
                ("pwrite64", true),
                ("fdatasync", true),
                ("fdatasync", false)
            ]
        );
        assert!(
            calls
                .iter()
                .all(|call| call.path.as_deref() == Some(Path::new("/d/log/db")))
        );
        assert!(calls[2].entered < calls[1].returned && calls[1].returned < calls[2].returned);
    }
}
