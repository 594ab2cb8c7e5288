//! Runner of the golden scripts `src/**/scripts/*.txt`: commands and queries on a table, with the output they must
//! give.
//!
//! A script is a list of blocks with a blank line between them. A block is comments (`#`), input lines, a line `---`,
//! and the output. The input lines are described in [`parse`]. Consecutive commands travel in one log entry, which
//! takes the next index from 1. `UPDATE=1 cargo test -p triarch-table --test scripts` rewrites the output; read the
//! difference before committing it.

mod parse;
mod parse_schedule;
mod print;
mod set_back;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use triarch_table::plan::propose;
use triarch_table::{Command, Limits, Stamp, Table};

use parse::{Query, Statement, parse};

#[test]
fn scripts_come_out_as_written() {
    let mut scripts = Vec::new();
    find_scripts(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut scripts,
    );
    scripts.sort();
    assert!(scripts.len() >= 12, "only found {scripts:?}");
    let update = std::env::var_os("UPDATE").is_some();
    let mut different = Vec::new();
    for path in scripts {
        let name = path.display().to_string();
        let script = fs::read_to_string(&path).expect("a script is readable");
        let outcome = run(&name, &script);
        if outcome == script {
            continue;
        }
        if update {
            fs::write(&path, outcome).expect("a script is writable");
        } else {
            let line = script
                .lines()
                .zip(outcome.lines())
                .position(|(was, is)| was != is);
            let line = line.unwrap_or_else(|| script.lines().count().min(outcome.lines().count()));
            let at = |text: &str| text.lines().nth(line).unwrap_or("(the end)").to_owned();
            different.push(format!(
                "{name}:{}\n  written: {}\n  came:    {}",
                line + 1,
                at(&script),
                at(&outcome)
            ));
        }
    }
    assert!(
        different.is_empty(),
        "scripts came out differently:\n{}",
        different.join("\n")
    );
}

fn find_scripts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder is readable") {
        let path = entry.expect("a folder is readable").path();
        if path.is_dir() {
            find_scripts(&path, found);
        } else if path.extension().is_some_and(|end| end == "txt") {
            found.push(path);
        }
    }
}

/// Runs a script; returns it with its current output.
fn run(name: &str, script: &str) -> String {
    let mut run = Run::new(Limits::default());
    let mut number = 0;
    let mut blocks = Vec::new();
    for block in script.trim_end().split("\n\n") {
        let input: Vec<&str> = block.lines().take_while(|line| *line != "---").collect();
        let mut lines = Vec::new();
        for (at, text) in input
            .iter()
            .enumerate()
            .filter(|(_, text)| !text.starts_with('#'))
        {
            let line = parse(text)
                .unwrap_or_else(|problem| panic!("{name}:{}: {problem}", number + at + 1));
            lines.push(line);
        }
        number += block.lines().count() + 1;
        let mut text = input.join("\n");
        if !lines.is_empty() {
            let _ = write!(text, "\n---\n{}", run.block(lines).trim_end());
        }
        blocks.push(text);
    }
    run.replay();
    format!("{}\n", blocks.join("\n\n"))
}

/// A table with the log that led to it.
struct Run {
    limits: Limits,
    table: Table,
    stamp: Stamp,
    log: Vec<(Stamp, Vec<Command>)>,
}

impl Run {
    fn new(limits: Limits) -> Self {
        let table = Table::new(limits.clone());
        Self {
            limits,
            table,
            stamp: Stamp {
                index: 0,
                now_ms: 0,
            },
            log: Vec::new(),
        }
    }

    /// Executes the lines of a block; returns their output.
    fn block(&mut self, lines: Vec<Statement>) -> String {
        let mut out = String::new();
        let mut commands = Vec::new();
        for line in lines {
            if let Statement::Command(command) = line {
                commands.push(*command);
                continue;
            }
            self.enter(&mut commands, &mut out);
            match line {
                Statement::Command(_) => {}
                Statement::Limits(changes) => {
                    assert!(self.log.is_empty(), "limits stand before the first command");
                    changes.iter().for_each(|change| change(&mut self.limits));
                    self.table = Table::new(self.limits.clone());
                }
                Statement::At(now_ms) => self.stamp.now_ms = now_ms,
                Statement::After(ms) => self.stamp.now_ms += ms,
                Statement::Query(query) => self.answer(&query, &mut out),
            }
        }
        self.enter(&mut commands, &mut out);
        out
    }

    /// Applies commands as one entry.
    fn enter(&mut self, commands: &mut Vec<Command>, out: &mut String) {
        if commands.is_empty() {
            return;
        }
        self.stamp.index += 1;
        let mut events = Vec::new();
        let commands = std::mem::take(commands);
        self.log.push((self.stamp, commands.clone()));
        for reply in self.table.apply(self.stamp, commands, &mut events) {
            let _ = writeln!(out, "{}", print::reply(&reply));
        }
        for event in &events {
            let _ = writeln!(out, "  {}", print::event(event));
        }
        self.table.check_invariants();
    }

    fn answer(&mut self, query: &Query, out: &mut String) {
        match query {
            Query::Plan {
                demands,
                grants_max,
            } => {
                let plan = propose(&self.table, demands, self.stamp.now_ms, *grants_max);
                let again = plan
                    .next_start_ms
                    .map_or_else(String::new, |at_ms| format!(" (again at {at_ms})"));
                let grants: Vec<String> = plan.grants.iter().map(print::grant).collect();
                let _ = writeln!(out, "plan: {}{again}", print::list(&grants));
            }
            Query::Restart => {
                let mut bytes = Vec::new();
                self.table
                    .freeze()
                    .write(&mut bytes)
                    .expect("memory takes all");
                let read = Table::read(&mut &bytes[..]).expect("what was written reads");
                read.check_invariants();
                assert_eq!(read.digest(), self.table.digest());
                self.table = read;
                let _ = writeln!(out, "restarted from a snapshot");
            }
            Query::Show(what) => {
                let _ = writeln!(out, "{}", print::shown(&self.table, what));
            }
        }
    }

    /// Replays the log, which must give the same table.
    fn replay(&self) {
        let mut table = Table::new(self.limits.clone());
        for (stamp, commands) in &self.log {
            table.apply(*stamp, commands.clone(), &mut Vec::new());
        }
        assert_eq!(table.digest(), self.table.digest());
    }
}
