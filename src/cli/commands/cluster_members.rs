//! `triarch cluster add`, `remove` and `replace`: masters in and out, with what a person sees while it lasts.
//!
//! The cluster does the work, and goes on with it when nobody waits: these commands ask for a change, look how far it is,
//! and can be typed again at any time. What was done already is not done twice.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use triarch_sdk::Error;
use triarch_sdk::wire::{
    AddNode, ClusterNode, ClusterStatus, NodeRole, NodeState, ReadQuery, SnapshotTransfer,
};

use crate::cli::Failure;
use crate::cli::context::Session;
use crate::cli::output;
use crate::cli::wait;

/// How often to look how far a new master is.
const LOOK: Duration = Duration::from_millis(200);
/// How often that is told where no terminal shows it.
const TELL: Duration = Duration::from_secs(2);
/// A master that neither answers nor gets further for so long is not waited for any more.
const STALLED: Duration = Duration::from_secs(60);

/// What waiting for a master came to.
enum Joined {
    Voter(ClusterStatus),
    Interrupted,
}

/// Brings a master in and waits until it is a voter.
pub async fn add(session: &Session, node: &AddNode) -> Result<ExitCode, Failure> {
    match join(session, node, "cluster add").await? {
        Joined::Voter(status) => shown(session, &status),
        Joined::Interrupted => Ok(wait::interrupted()),
    }
}

/// Takes a master out.
pub async fn remove(session: &Session, id: u64) -> Result<ExitCode, Failure> {
    let status = session.client.remove_node(id).await?;
    tell_removed(id, &status);
    shown(session, &status)
}

/// Puts a master in another's place: adds the one, waits, removes the other.
pub async fn replace(
    session: &Session,
    old: u64,
    new: &AddNode,
    force: bool,
) -> Result<ExitCode, Failure> {
    if old == new.id {
        return Err(Failure::Usage(format!(
            "node {old} cannot replace itself: the new master has an id that was never used"
        )));
    }
    let status = session.client.cluster(&ReadQuery::default()).await?;
    match find(&status, old) {
        None => {
            return if find(&status, new.id).is_some_and(|node| node.role == NodeRole::Voter) {
                output::note(&format!(
                    "node {} is there, and node {old} is not: nothing is left to do",
                    new.id
                ));
                shown(session, &status)
            } else {
                Err(Failure::Failed(format!(
                    "node {old} is not in the cluster; to add a master, use `{}`",
                    session.command(&format!("cluster add {}={}", new.id, new.addr))
                )))
            };
        }
        Some(node) => match node.state {
            NodeState::Unreachable => {}
            NodeState::Leader | NodeState::Follower if force => {}
            NodeState::Leader | NodeState::Follower => {
                return Err(Failure::Failed(format!(
                    "node {old} answers the leader, so it need not be replaced; add --force to have node {} in its place all \
                     the same",
                    new.id
                )));
            }
        },
    }
    let words = format!(
        "cluster replace {}{old}",
        if force { "--force " } else { "" }
    );
    match join(session, new, &words).await? {
        Joined::Voter(_) => {}
        Joined::Interrupted => return Ok(wait::interrupted()),
    }
    let status = session.client.remove_node(old).await?;
    tell_removed(old, &status);
    shown(session, &status)
}

fn shown(session: &Session, status: &ClusterStatus) -> Result<ExitCode, Failure> {
    output::answer(session.format, status, super::cluster::for_people)?;
    Ok(ExitCode::SUCCESS)
}

fn tell_removed(id: u64, status: &ClusterStatus) {
    output::note(&format!(
        "node {id} is out, and its id is not used again; stop its process if it still runs"
    ));
    let voters = status
        .nodes
        .iter()
        .filter(|node| node.role == NodeRole::Voter)
        .count();
    if voters < 3 {
        output::note(
            "fewer than three voters are left: the cluster stands still when one of them fails",
        );
    }
}

fn find(status: &ClusterStatus, id: u64) -> Option<&ClusterNode> {
    status.nodes.iter().find(|node| node.id == id)
}

/// Asks for it and waits; `words` is how to go on waiting.
async fn join(session: &Session, node: &AddNode, words: &str) -> Result<Joined, Failure> {
    let progress = Progress::new();
    let outcome = tokio::select! {
        joined = joined(session, node, &progress) => joined.map(Joined::Voter),
        _ = tokio::signal::ctrl_c() => Ok(Joined::Interrupted),
    };
    progress.clear();
    if matches!(outcome, Ok(Joined::Interrupted)) {
        let again = session.command(&format!("{words} {}={}", node.id, node.addr));
        output::note(&format!(
            "\nNode {} goes on joining, if it has begun. Go on with\n  {again}",
            node.id
        ));
    }
    outcome
}

async fn joined(
    session: &Session,
    node: &AddNode,
    progress: &Progress,
) -> Result<ClusterStatus, Failure> {
    let (id, addr) = (node.id, &node.addr);
    let mut status = session.client.add_node(node, Duration::ZERO).await?;
    if find(&status, id).is_some_and(|node| node.role == NodeRole::Learner) {
        progress.event(&format!("node {id} at {addr} joins as a learner"));
    }
    let mut further = Instant::now();
    let mut told = None;
    let mut seen = None;
    loop {
        let Some(node) = find(&status, id) else {
            return Err(Failure::Failed(format!(
                "node {id} was taken out of the cluster again by somebody else"
            )));
        };
        if node.role == NodeRole::Voter {
            progress.event(&format!("node {id} is a voter"));
            return Ok(status);
        }
        let now = (node.matched, node.snapshot);
        // Behind a snapshot it has received, it may be silent while it reads it.
        if seen != Some(now) {
            (seen, further) = (Some(now), Instant::now());
        } else if further.elapsed() > STALLED {
            return Err(Failure::Failed(format!(
                "node {id} has got no further for {} s ({}). It is promoted when it gets there; ask again to go on waiting, or \
                 take it out by `{}`",
                STALLED.as_secs(),
                how_far(&status, node),
                session.command(&format!("cluster remove {id}"))
            )));
        }
        progress.state(&format!("node {id}: {}", how_far(&status, node)), &mut told);
        tokio::time::sleep(LOOK).await;
        status = match session.client.cluster(&ReadQuery::default()).await {
            Ok(status) => status,
            // No leader for a moment: whoever comes next goes on with it.
            Err(Error::NoCluster { .. } | Error::Timeout { .. }) if further.elapsed() < STALLED => {
                progress.state("no leader answers; waiting for the next", &mut told);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
    }
}

fn how_far(status: &ClusterStatus, node: &ClusterNode) -> String {
    if node.state == NodeState::Unreachable && node.snapshot.is_none() {
        return "does not answer".to_owned();
    }
    match node.snapshot {
        Some(SnapshotTransfer { bytes, sent_bytes }) if sent_bytes < bytes => {
            format!("snapshot, {} of {} MiB", mib(sent_bytes), mib(bytes))
        }
        Some(SnapshotTransfer { bytes, .. }) => {
            format!("has the snapshot of {} MiB and reads it", mib(bytes))
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

/// A line that changes on a person's terminal; elsewhere, lines now and then. All of it to stderr.
struct Progress {
    line: Option<ProgressBar>,
}

impl Progress {
    fn new() -> Self {
        let line = output::person_watches().then(|| {
            let line = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
                line.set_style(style);
            }
            line.enable_steady_tick(Duration::from_millis(100));
            line
        });
        Self { line }
    }

    /// Something that stays said.
    fn event(&self, text: &str) {
        match &self.line {
            Some(line) => line.println(text),
            None => output::note(text),
        }
    }

    /// How it is just now.
    fn state(&self, text: &str, told: &mut Option<(Instant, String)>) {
        match &self.line {
            Some(line) => line.set_message(text.to_owned()),
            None => {
                let news = told
                    .as_ref()
                    .is_none_or(|(at, before)| at.elapsed() >= TELL && before != text);
                if news {
                    output::note(text);
                    *told = Some((Instant::now(), text.to_owned()));
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
    fn a_person_is_told_what_a_new_master_still_lacks() {
        let node = |state, snapshot| ClusterNode {
            id: 4,
            addr: "d:1".to_owned(),
            role: NodeRole::Learner,
            state,
            matched: Some(100),
            applied: None,
            snapshot,
            disk: None,
        };
        let status = ClusterStatus {
            cluster_id: None,
            leader: Some(1),
            term: 1,
            commit_index: 1_300,
            answered_by: None,
            nodes: Vec::new(),
            clock_ahead_ms: None,
            digest: None,
            agreement: None,
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
                "has the snapshot of 310 MiB and reads it",
            ),
        ] {
            assert_eq!(how_far(&status, &node(state, snapshot)), said);
        }
    }
}
