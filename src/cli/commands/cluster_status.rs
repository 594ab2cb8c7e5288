//! Rendering of the cluster's status, shared by several commands.

use triarch_sdk::wire::{ClusterNode, ClusterStatus, Forming, NodeDisk, NodeRole};

use crate::output::{self, Cell, Column};
use crate::time_format;

/// Age of an unfinished sync from which on a disk is shown as hanging, in ms.
const HANGING_SYNC_MS: u64 = 1_000;

fn free_space(disk: NodeDisk) -> String {
    let free_mib = disk.free_bytes >> 20;
    let free = match free_mib {
        0..10_240 => format!("{free_mib} MiB free"),
        10_240.. => format!("{} GiB free", free_mib >> 10),
    };
    let hangs = disk
        .unfinished_sync_ms
        .filter(|unfinished_ms| *unfinished_ms >= HANGING_SYNC_MS);
    match hangs {
        Some(unfinished_ms) => format!("HANGS for {} s, {free}", unfinished_ms / 1_000),
        None if disk.low => format!("LOW, {free}"),
        None => free,
    }
}

/// Lead of the table's time over the clocks from which it is shown.
const TABLE_AHEAD_SHOWN_MS: u64 = 10_000;

/// Formats the version of a node: `older` for a node that announces none.
fn version(node: &ClusterNode) -> String {
    match (&node.version, node.level) {
        (Some(version), _) => version.clone(),
        (None, Some(_)) => "older".to_owned(),
        (None, None) => "-".to_owned(),
    }
}

/// Formats the level of the cluster, with the command that raises it if all masters understand a higher one.
fn level(status: &ClusterStatus) -> Option<String> {
    let level = status.level?;
    let common = status.nodes.iter().map(|node| node.level).min()??;
    Some(if common > level {
        format!("{level}; all masters understand {common}: triarch cluster upgrade")
    } else {
        level.to_string()
    })
}

/// Formats the status of the cluster as a table of its nodes; while it forms, of those that it is to have.
pub fn render(status: &ClusterStatus) -> String {
    match &status.forming {
        Some(forming) => render_forming(forming),
        None => render_formed(status),
    }
}

fn render_forming(forming: &Forming) -> String {
    let columns = [
        Column::Text("NODE"),
        Column::Text("ADDRESS"),
        Column::Text("ANSWERS"),
    ];
    let rows = forming.members.iter().map(|member| {
        vec![
            Cell::new(member.id),
            Cell::new(&member.addr),
            match member.answers {
                true => Cell::new("yes"),
                false => output::state_cell("unreachable"),
            },
        ]
    });
    let header = output::details([
        ("cluster", Some("forming".to_owned())),
        ("waiting for", Some(forming.waiting_for.clone())),
    ]);
    format!("{header}\n\n{}", output::table(&columns, rows))
}

fn render_formed(status: &ClusterStatus) -> String {
    let columns = [
        Column::Text("NODE"),
        Column::Text("ADDRESS"),
        Column::Text("STATE"),
        Column::Text("ROLE"),
        Column::Number("ON DISK"),
        Column::Number("BEHIND"),
        Column::Text("DISK"),
        Column::Text("VERSION"),
    ];
    let or_dash =
        |index: Option<u64>| index.map_or_else(|| "-".to_owned(), |index| index.to_string());
    // The leader's own log is the longest one.
    let last = status
        .leader
        .and_then(|leader| status.nodes.iter().find(|node| node.id == leader)?.matched);
    let rows = status.nodes.iter().map(|node| {
        vec![
            Cell::new(node.id),
            Cell::new(&node.addr),
            // Only a leader has contact with all nodes.
            match status.leader {
                Some(_) => output::state_cell(node.state.as_str()),
                None => Cell::new("-"),
            },
            match node.role {
                NodeRole::Voter => Cell::new("voter"),
                NodeRole::Learner => Cell::new("learner"),
            },
            Cell::new(or_dash(node.matched)),
            Cell::new(or_dash(
                last.zip(node.matched)
                    .map(|(last, matched)| last.saturating_sub(matched)),
            )),
            Cell::new(node.disk.map_or_else(|| "-".to_owned(), free_space)),
            Cell::new(version(node)),
        ]
    });
    let leader = match status.leader {
        Some(id) => format!("node {id}"),
        None => "none".to_owned(),
    };
    let header = output::details([
        ("cluster", status.cluster_id.clone()),
        ("leader", Some(leader)),
        ("term", Some(status.term.to_string())),
        ("committed", Some(status.commit_index.to_string())),
        ("clock", table_ahead(status.table_ahead_ms)),
        ("level", level(status)),
    ]);
    format!("{header}\n\n{}", output::table(&columns, rows))
}

/// Describes a table whose time is ahead of the masters' clocks; `None` if it is not, or not by much.
fn table_ahead(ahead_ms: u64) -> Option<String> {
    (ahead_ms >= TABLE_AHEAD_SHOWN_MS).then(|| {
        format!(
            "WRONG: the time of the table is {} ahead of the masters' clocks; set the clocks right, then: \
             triarch cluster set-time-back",
            time_format::span_ms(ahead_ms)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(json: &str) -> ClusterStatus {
        serde_json::from_str(json).expect("valid")
    }

    #[test]
    fn a_cluster_that_forms_is_shown_with_those_that_are_missing() {
        let text = render(&status(
            r#"{"term":0,"commit_index":0,"nodes":[],"forming":{"waiting_for":"node 2 at b:1","members":[
                {"id":1,"addr":"a:1","answers":true},{"id":2,"addr":"b:1","answers":false}]}}"#,
        ));
        assert_eq!(
            text,
            "cluster      forming\n\
             waiting for  node 2 at b:1\n\n\
             NODE  ADDRESS  ANSWERS\n\
             1     a:1      yes\n\
             2     b:1      unreachable"
        );
    }

    #[test]
    fn a_table_whose_time_is_ahead_of_the_clocks_is_named() {
        let of = |ahead_ms: u64| {
            let json = r#"{"term":1,"commit_index":2,"nodes":[],"table_ahead_ms":"#;
            render(&status(&format!("{json}{ahead_ms}}}")))
        };
        assert!(
            of(864_000_000).contains("is 10d ahead")
                && of(864_000_000).contains("then: triarch cluster set-time-back"),
            "{}",
            of(864_000_000)
        );
        assert!(!of(500).contains("ahead"));
    }
}
