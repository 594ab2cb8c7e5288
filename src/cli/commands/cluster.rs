//! `triarch cluster`: the masters.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::Cell;
use triarch_sdk::Error;
use triarch_sdk::wire::{AddNode, ClusterStatus, Consistency, NodeDisk, NodeRole, ReadQuery};

use super::backup::{self, BackupArgs, RestoreArgs};
use crate::cli::Failure;
use crate::cli::commands::cluster_members;
use crate::cli::context::Session;
use crate::cli::output;
use crate::cli::output::Column;
use crate::cli::watch::watch;

/// Look after the masters
#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// The masters, who leads, and how far each has come
    Status {
        /// Show it again every second, until Ctrl-C
        #[arg(long, short)]
        watch: bool,
    },
    /// Bring a new master in, which was started with --join
    Add {
        /// Its id, never used before, and where the others reach it
        #[arg(value_name = "ID=HOST:PORT", value_parser = node)]
        node: AddNode,
    },
    /// Take a master out for good; its id is not used again
    Remove {
        /// The master to take out
        #[arg(value_name = "NODE", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
    },
    /// Write everything the cluster knows into a file, while it works on
    Backup(BackupArgs),
    /// Make a new, empty cluster what a backup holds
    Restore(RestoreArgs),
    /// Put a new master, started with --join, in the place of one that is dead
    Replace {
        /// The master that is gone
        #[arg(value_name = "OLD", value_parser = clap::value_parser!(u64).range(1..))]
        old: u64,
        /// The new one's id, never used before, and where the others reach it
        #[arg(value_name = "NEW=HOST:PORT", value_parser = node)]
        new: AddNode,
        /// Also when the old one answers
        #[arg(long)]
        force: bool,
    },
    /// Make another master the leader
    TransferLeader {
        /// The master to lead [default: the one that is furthest]
        #[arg(value_name = "NODE", value_parser = clap::value_parser!(u64).range(1..))]
        to: Option<u64>,
    },
    /// Have the leader write a snapshot now and give up the log before it
    Snapshot,
}

/// How long a leader is given to answer before the others are asked what they know.
const LEADER_PATIENCE: Duration = Duration::from_secs(3);
/// How long a snapshot may take to be written.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(120);

impl ClusterArgs {
    /// Does what was asked.
    pub async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        match self.command {
            ClusterCommand::Status { watch: true } => {
                watch(session, async || status(session).await, for_people).await
            }
            ClusterCommand::Status { watch: false } => {
                let status = status(session).await?;
                output::answer(session.format, &status, for_people)?;
                if status.leader.is_some() {
                    Ok(ExitCode::SUCCESS)
                } else {
                    Err(Failure::Failed(
                        "the cluster has no leader: most masters must be up and reach each other"
                            .into(),
                    ))
                }
            }
            ClusterCommand::Add { node } => cluster_members::add(session, &node).await,
            ClusterCommand::Remove { id } => cluster_members::remove(session, id).await,
            ClusterCommand::Replace { old, new, force } => {
                cluster_members::replace(session, old, &new, force).await
            }
            ClusterCommand::Snapshot => {
                let written = session.client.write_snapshot(SNAPSHOT_PATIENCE).await?;
                let (Some(index), Some(bytes)) = (written.index, written.bytes) else {
                    return Err(Failure::Failed(format!(
                        "node {} is still writing it after {} s; ask again to go on waiting",
                        written.node,
                        SNAPSHOT_PATIENCE.as_secs()
                    )));
                };
                output::answer(session.format, &written, |written| {
                    let node = written.node;
                    format!("node {node} wrote a snapshot up to entry {index}: {bytes} bytes")
                })?;
                Ok(ExitCode::SUCCESS)
            }
            ClusterCommand::Backup(args) => backup::backup(session, args).await,
            ClusterCommand::Restore(args) => backup::restore(session, args).await,
            ClusterCommand::TransferLeader { to } => {
                session.client.transfer_leader(to).await?;
                let status = status(session).await?;
                output::answer(session.format, &status, for_people)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn node(text: &str) -> Result<AddNode, String> {
    let parsed = text.split_once('=').and_then(|(id, addr)| {
        let id = id.parse().ok().filter(|id| *id > 0)?;
        let (host, port) = addr.rsplit_once(':')?;
        (!host.is_empty() && port.parse::<u16>().is_ok()).then(|| AddNode {
            id,
            addr: addr.to_string(),
        })
    });
    parsed.ok_or_else(|| "must be an id of at least 1 and an address, as in 4=10.0.0.4:7101".into())
}

/// What the leader says; without one, what any master believes.
async fn status(session: &Session) -> Result<ClusterStatus, Failure> {
    let query = ReadQuery::default();
    match tokio::time::timeout(LEADER_PATIENCE, session.client.cluster(&query)).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(error @ Error::NoCluster { .. })) => Err(error.into()),
        Ok(Err(_)) | Err(_) => {
            let query = ReadQuery {
                consistency: Some(Consistency::Stale),
            };
            Ok(session.client.cluster(&query).await?)
        }
    }
}

fn disk(disk: NodeDisk) -> String {
    let free_mib = disk.free_bytes >> 20;
    let free = match free_mib {
        0..10_240 => format!("{free_mib} MiB free"),
        10_240.. => format!("{} GiB free", free_mib >> 10),
    };
    if disk.low {
        format!("LOW, {free}")
    } else {
        free
    }
}

/// The masters as a person reads them.
pub(crate) fn for_people(status: &ClusterStatus) -> String {
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
    // The leader's own log is the longest there is.
    let last = status
        .leader
        .and_then(|leader| status.nodes.iter().find(|node| node.id == leader)?.matched);
    let rows = status.nodes.iter().map(|node| {
        vec![
            Cell::new(node.id),
            Cell::new(&node.addr),
            // Only a leader hears from all of them.
            match status.leader {
                Some(_) => output::state(node.state.as_str()),
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
            Cell::new(node.disk.map_or_else(|| "-".to_owned(), disk)),
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
