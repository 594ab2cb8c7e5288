//! `triarch cluster add`, `remove` and `replace`: membership changes, with their progress.
//!
//! The cluster makes the change, and continues with it if no client waits. These commands request a change and poll its
//! progress. They are idempotent, and can be repeated at any time.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use triarch_sdk::Error;
use triarch_sdk::wire::{
    AddNode, ClusterNode, ClusterStatus, NodeRole, NodeState, ReadQuery, SnapshotTransfer,
};

use super::cluster_status;
use crate::context::CommandContext;
use crate::error::CommandError;
use crate::output;
use crate::wait;

/// Interval between two checks of a new master's progress.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Minimum interval between two progress lines without a terminal.
const PROGRESS_LINE_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum wait for a master that neither answers nor makes progress.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Outcome of the wait for a new master.
enum JoinOutcome {
    Voter(Box<ClusterStatus>),
    Interrupted,
}

/// Adds a master and waits until it is a voter.
pub async fn add(context: &CommandContext, node: &AddNode) -> Result<ExitCode, CommandError> {
    match join(context, node, "cluster add").await? {
        JoinOutcome::Voter(status) => print_status(context, &status),
        JoinOutcome::Interrupted => Ok(wait::interrupted_exit_code()),
    }
}

/// Removes a master.
pub async fn remove(context: &CommandContext, id: u64) -> Result<ExitCode, CommandError> {
    let status = context.client.remove_node(id).await?;
    note_removed(id, &status);
    print_status(context, &status)
}

/// Replaces a master: adds the new one, waits, and removes the old one.
pub async fn replace(
    context: &CommandContext,
    old: u64,
    new: &AddNode,
    force: bool,
) -> Result<ExitCode, CommandError> {
    if old == new.id {
        return Err(CommandError::Usage(format!(
            "node {old} cannot replace itself: the new master needs an id that was never used"
        )));
    }
    let status = context.client.cluster(&ReadQuery::default()).await?;
    match find(&status, old) {
        None => {
            return if find(&status, new.id).is_some_and(|node| node.role == NodeRole::Voter) {
                output::print_note(&format!(
                    "node {} is a voter and node {old} is already removed: nothing is left to do",
                    new.id
                ));
                print_status(context, &status)
            } else {
                Err(CommandError::Failed(format!(
                    "node {old} is not in the cluster; to add a master, use `{}`",
                    context.command(&format!("cluster add {}={}", new.id, new.addr))
                )))
            };
        }
        Some(node) => match node.state {
            NodeState::Unreachable => {}
            NodeState::Leader | NodeState::Follower if force => {}
            NodeState::Leader | NodeState::Follower => {
                return Err(CommandError::Failed(format!(
                    "node {old} still answers the leader; add --force to replace it by node {} anyway",
                    new.id
                )));
            }
        },
    }
    let words = format!(
        "cluster replace {}{old}",
        if force { "--force " } else { "" }
    );
    match join(context, new, &words).await? {
        JoinOutcome::Voter(_) => {}
        JoinOutcome::Interrupted => return Ok(wait::interrupted_exit_code()),
    }
    let status = context.client.remove_node(old).await?;
    note_removed(old, &status);
    print_status(context, &status)
}

fn print_status(
    context: &CommandContext,
    status: &ClusterStatus,
) -> Result<ExitCode, CommandError> {
    output::print(context.format, status, cluster_status::render)?;
    Ok(ExitCode::SUCCESS)
}

fn note_removed(id: u64, status: &ClusterStatus) {
    output::print_note(&format!(
        "node {id} is removed, and its id cannot be used again; stop its process if it still runs"
    ));
    let voters = status
        .nodes
        .iter()
        .filter(|node| node.role == NodeRole::Voter)
        .count();
    if voters < 3 {
        output::print_note(
            "fewer than three voters are left: the cluster becomes unavailable if one of them fails",
        );
    }
}

fn find(status: &ClusterStatus, id: u64) -> Option<&ClusterNode> {
    status.nodes.iter().find(|node| node.id == id)
}

/// Requests the node and waits for its promotion. `words` is the command that resumes the wait.
async fn join(
    context: &CommandContext,
    node: &AddNode,
    words: &str,
) -> Result<JoinOutcome, CommandError> {
    let progress = JoinProgress::new();
    let outcome = tokio::select! {
        joined = await_promotion(context, node, &progress) => joined.map(|status| JoinOutcome::Voter(Box::new(status))),
        _ = tokio::signal::ctrl_c() => Ok(JoinOutcome::Interrupted),
    };
    progress.clear();
    if matches!(outcome, Ok(JoinOutcome::Interrupted)) {
        let again = context.command(&format!("{words} {}={}", node.id, node.addr));
        output::print_note(&format!(
            "\nNode {} continues to join, if it has begun. To watch it again, run\n  {again}",
            node.id
        ));
    }
    outcome
}

async fn await_promotion(
    context: &CommandContext,
    node: &AddNode,
    progress: &JoinProgress,
) -> Result<ClusterStatus, CommandError> {
    let (id, addr) = (node.id, &node.addr);
    let mut status = context.client.add_node(node, Duration::ZERO).await?;
    if find(&status, id).is_some_and(|node| node.role == NodeRole::Learner) {
        progress.event(&format!("node {id} at {addr} joins as a learner"));
    }
    let mut further = Instant::now();
    let mut printed = None;
    let mut seen = None;
    loop {
        let Some(node) = find(&status, id) else {
            return Err(CommandError::Failed(format!(
                "node {id} was removed from the cluster again by another command"
            )));
        };
        if node.role == NodeRole::Voter {
            progress.event(&format!("node {id} is a voter"));
            return Ok(status);
        }
        let now = (node.matched, node.snapshot);
        // A node that has received a snapshot may be silent while it reads it.
        if seen != Some(now) {
            (seen, further) = (Some(now), Instant::now());
        } else if further.elapsed() > STALL_TIMEOUT {
            return Err(CommandError::Failed(format!(
                "node {id} made no progress for {} s ({}). It is promoted once it has caught up; repeat the command to \
                 continue waiting, or remove the node with `{}`",
                STALL_TIMEOUT.as_secs(),
                join_progress(&status, node),
                context.command(&format!("cluster remove {id}"))
            )));
        }
        progress.state(
            &format!("node {id}: {}", join_progress(&status, node)),
            &mut printed,
        );
        tokio::time::sleep(POLL_INTERVAL).await;
        status = match context.client.cluster(&ReadQuery::default()).await {
            Ok(status) => status,
            // Without a leader for a moment, the next one continues the change.
            Err(Error::NoCluster { .. } | Error::Timeout { .. })
                if further.elapsed() < STALL_TIMEOUT =>
            {
                progress.state("no leader answers; waiting for the next one", &mut printed);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
    }
}

fn join_progress(status: &ClusterStatus, node: &ClusterNode) -> String {
    if node.state == NodeState::Unreachable && node.snapshot.is_none() {
        return "does not answer".to_owned();
    }
    match node.snapshot {
        Some(SnapshotTransfer { bytes, sent_bytes }) if sent_bytes < bytes => {
            format!("snapshot, {} of {} MiB", mib(sent_bytes), mib(bytes))
        }
        Some(SnapshotTransfer { bytes, .. }) => {
            format!("loading the snapshot of {} MiB", mib(bytes))
        }
        None => {
            let behind = status
                .commit_index
                .saturating_sub(node.matched.unwrap_or(0));
            format!("{behind} entries behind")
        }
    }
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// Progress of a new master on stderr: one changing line on a terminal, elsewhere a new line now and then.
struct JoinProgress {
    line: Option<ProgressBar>,
}

impl JoinProgress {
    fn new() -> Self {
        let line = output::is_interactive().then(|| {
            let line = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
                line.set_style(style);
            }
            line.enable_steady_tick(Duration::from_millis(100));
            line
        });
        Self { line }
    }

    /// Prints a milestone.
    fn event(&self, text: &str) {
        match &self.line {
            Some(line) => line.println(output::lines(text)),
            None => output::print_note(text),
        }
    }

    /// Shows the current state.
    fn state(&self, text: &str, printed: &mut Option<(Instant, String)>) {
        match &self.line {
            Some(line) => line.set_message(output::one_line(text).into_owned()),
            None => {
                let is_due = printed.as_ref().is_none_or(|(at, before)| {
                    at.elapsed() >= PROGRESS_LINE_INTERVAL && before != text
                });
                if is_due {
                    output::print_note(text);
                    *printed = Some((Instant::now(), text.to_owned()));
                }
            }
        }
    }

    fn clear(&self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_of_a_new_master_names_what_it_still_lacks() {
        let node = |state, snapshot| ClusterNode {
            id: 4,
            addr: "d:1".to_owned(),
            role: NodeRole::Learner,
            state,
            matched: Some(100),
            applied: None,
            snapshot,
            disk: None,
            version: None,
            level: None,
        };
        let status = ClusterStatus {
            forming: None,
            table_ahead_ms: 0,
            cluster_id: None,
            leader: Some(1),
            term: 1,
            commit_index: 1_300,
            answered_by: None,
            nodes: Vec::new(),
            clock_ahead_ms: None,
            excluded: None,
            digest: None,
            agreement: None,
            level: None,
        };
        let sent = |sent_bytes| {
            Some(SnapshotTransfer {
                bytes: 310 << 20,
                sent_bytes,
            })
        };
        for (state, snapshot, said) in [
            (NodeState::Follower, None, "1200 entries behind"),
            (NodeState::Unreachable, None, "does not answer"),
            (
                NodeState::Follower,
                sent(12 << 20),
                "snapshot, 12 of 310 MiB",
            ),
            (
                NodeState::Unreachable,
                sent(310 << 20),
                "loading the snapshot of 310 MiB",
            ),
        ] {
            assert_eq!(join_progress(&status, &node(state, snapshot)), said);
        }
    }
}
