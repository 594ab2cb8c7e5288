//! Rendering of the cluster's status, shared by several commands.

use comfy_table::Cell;
use triarch_sdk::wire::{ClusterStatus, NodeDisk, NodeRole};

use crate::cli::output::{self, Column};

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

/// Formats the status of the cluster as a table of its nodes.
pub fn render(status: &ClusterStatus) -> String {
    let columns = [
        Column::Text("NODE"),
        Column::Text("ADDRESS"),
        Column::Text("STATE"),
        Column::Text("ROLE"),
        Column::Number("ON DISK"),
        Column::Number("BEHIND"),
        Column::Text("DISK"),
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
    ]);
    format!("{header}\n\n{}", output::table(&columns, rows))
}
