//! Banner of `triarch dev`: the processes with their addresses, and commands to try.

use serde::Serialize;

use super::child::Child;
use super::layout::Layout;
use super::role::Role;
use crate::output::{self, Cell, Column};
use crate::shell;

/// Description of the cluster as it is printed for the user.
#[derive(Debug, Serialize)]
pub struct Banner {
    masters: Vec<String>,
    data_dir: String,
    processes: Vec<Process>,
}

#[derive(Debug, Serialize)]
struct Process {
    role: &'static str,
    id: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    pid: u32,
    leader: bool,
    log: String,
    command: Vec<String>,
}

impl Banner {
    /// Describes the running children.
    pub fn new(layout: &Layout, children: &[Child], leader: Option<u64>) -> Self {
        let processes = children
            .iter()
            .map(|child| Process::new(layout, child, leader))
            .collect();
        Self {
            masters: layout.masters_urls(),
            data_dir: layout.root().display().to_string(),
            processes,
        }
    }

    /// Formats the banner as text.
    pub fn render(&self, layout: &Layout) -> String {
        let rows = self.processes.iter().map(|process| {
            vec![
                Cell::new(format!("{} {}", process.role, process.id)),
                Cell::new(process.url.as_deref().unwrap_or("-")),
                Cell::new(process.pid),
                if process.leader {
                    output::state_cell("leader")
                } else {
                    Cell::new("")
                },
                Cell::new(&process.log),
            ]
        });
        let columns = [
            Column::Text("PROCESS"),
            Column::Text("ADDRESS"),
            Column::Number("PID"),
            Column::Text(""),
            Column::Text("LOG"),
        ];
        let triarch = shell::program_name();
        let masters = match layout.ports_are_default() {
            true => String::new(),
            false => format!(" --masters {}", self.masters.join(",")),
        };
        let mut tries = vec![
            (
                format!("{triarch} submit{masters} --wait -- sh -c 'echo hello'"),
                "run something",
            ),
            (
                format!("{triarch} cluster status{masters}"),
                "see the masters",
            ),
            (format!("{triarch} job list{masters}"), "see what ran"),
        ];
        if let Some(leader) = self.processes.iter().find(|process| process.leader)
            && self.masters.len() > 2
        {
            tries.push((
                format!("kill -9 {}", leader.pid),
                "kill the leader; another takes over",
            ));
        }
        let tries = tries.into_iter().map(|(command, what)| {
            vec![
                Cell::new(format!("  {command}")),
                Cell::new(format!("# {what}")),
            ]
        });
        format!(
            "{}\n\nIn another shell:\n\n{}\n\nData is in {}{}. Ctrl-C stops everything.",
            output::table(&columns, rows),
            output::rows(tries),
            self.data_dir,
            if layout.is_temporary() {
                ", until it stops"
            } else {
                ""
            },
        )
    }
}

impl Process {
    fn new(layout: &Layout, child: &Child, leader: Option<u64>) -> Self {
        let (role, id, url) = match child.role {
            Role::Master(id) => ("master", id, Some(layout.url(id))),
            Role::Worker(number) => ("worker", number, None),
        };
        let program = layout.binary().display().to_string();
        Self {
            role,
            id,
            leader: url.is_some() && leader == Some(u64::from(id)),
            url,
            pid: child.pid,
            log: child.log.display().to_string(),
            command: std::iter::once(program)
                .chain(layout.arguments(child.role))
                .collect(),
        }
    }
}
