//! `triarch cluster`: status, membership, backups and leadership of the masters.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use triarch_raft::{NodeAddress, NodeAddressError};
use triarch_sdk::Error;
use triarch_sdk::wire::{AddNode, ClusterStatus, Consistency, ProblemCode, ReadQuery};

use super::backup::{self, BackupArgs, RestoreArgs};
use super::{cluster_members, cluster_status};
use crate::confirmation::Confirmation;
use crate::context::CommandContext;
use crate::error::CommandError;
use crate::output;
use crate::time_format;
use crate::watch::watch;

#[derive(Debug, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Shows the masters, the leader, and the log position and free disk space of each master
    Status {
        /// Repeats the output every second until Ctrl-C
        #[arg(long, short)]
        watch: bool,
    },
    /// Adds a new master, which was started with --join
    Add {
        /// Id of the new master, never used before, and the address at which others reach it
        #[arg(value_name = "ID=HOST:PORT", value_parser = node)]
        node: AddNode,
    },
    /// Removes a master permanently; its id cannot be used again
    Remove {
        /// Id of the master to remove
        #[arg(value_name = "NODE", value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
    },
    /// Writes a backup of the whole table to a file, without interrupting the cluster
    Backup(BackupArgs),
    /// Loads a backup into a new, empty cluster
    Restore(RestoreArgs),
    /// Replaces a failed master by a new one, which was started with --join
    Replace {
        /// Id of the master to replace
        #[arg(value_name = "OLD", value_parser = clap::value_parser!(u64).range(1..))]
        old: u64,
        /// Id of the new master, never used before, and the address at which others reach it
        #[arg(value_name = "NEW=HOST:PORT", value_parser = node)]
        new: AddNode,
        /// Replaces the old master even if it still answers the leader
        #[arg(long)]
        force: bool,
    },
    /// Transfers leadership to another master
    TransferLeader {
        /// Id of the new leader [default: the follower with the most up-to-date log]
        #[arg(value_name = "NODE", value_parser = clap::value_parser!(u64).range(1..))]
        to: Option<u64>,
    },
    /// Raises the cluster to the formats of this version, once every master runs it; there is no way back to an older one
    Upgrade,
    /// Sets the time of the table back to the masters' clocks, after most of them were ahead once
    SetTimeBack {
        /// Sets the time back without the question that a terminal gets
        #[arg(long, short)]
        yes: bool,
    },
    /// Makes the leader write a snapshot of the table now and delete the log that it replaces
    Snapshot,
}

/// Maximum wait for the leader's answer. After that any node is asked.
const LEADER_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum wait for a snapshot to be written.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(120);

impl ClusterArgs {
    /// Runs the command.
    pub async fn run(self, context: &CommandContext) -> Result<ExitCode, CommandError> {
        match self.command {
            ClusterCommand::Status { watch: true } => {
                watch(
                    context,
                    async || status(context).await,
                    cluster_status::render,
                )
                .await
            }
            ClusterCommand::Status { watch: false } => {
                let status = status(context).await?;
                output::print(context.format, &status, cluster_status::render)?;
                if let Some(why) = &status.excluded {
                    return Err(CommandError::Failed(why.clone()));
                }
                match (status.leader, &status.forming) {
                    (Some(_), _) => Ok(ExitCode::SUCCESS),
                    (None, Some(forming)) => Err(CommandError::Failed(format!(
                        "the cluster has not formed yet: it waits for {}; start what is missing",
                        forming.waiting_for
                    ))),
                    (None, None) => Err(CommandError::Failed(
                        "the cluster has no leader: a majority of the masters must be up and reach each other"
                            .into(),
                    )),
                }
            }
            ClusterCommand::Add { node } => cluster_members::add(context, &node).await,
            ClusterCommand::Remove { id } => cluster_members::remove(context, id).await,
            ClusterCommand::Replace { old, new, force } => {
                cluster_members::replace(context, old, &new, force).await
            }
            ClusterCommand::Snapshot => {
                let written = context.client.write_snapshot(SNAPSHOT_TIMEOUT).await?;
                let (Some(index), Some(bytes)) = (written.index, written.bytes) else {
                    return Err(CommandError::Failed(format!(
                        "node {} is still writing the snapshot after {} s; repeat the command to continue waiting",
                        written.node,
                        SNAPSHOT_TIMEOUT.as_secs()
                    )));
                };
                output::print(context.format, &written, |written| {
                    let node = written.node;
                    format!("node {node} wrote a snapshot up to log entry {index}: {bytes} bytes")
                })?;
                Ok(ExitCode::SUCCESS)
            }
            ClusterCommand::Upgrade => {
                let status = upgrade(context).await?;
                output::print(context.format, &status, cluster_status::render)?;
                Ok(ExitCode::SUCCESS)
            }
            ClusterCommand::SetTimeBack { yes } => set_time_back(context, yes).await,
            ClusterCommand::Backup(args) => backup::backup(context, args).await,
            ClusterCommand::Restore(args) => backup::restore(context, args).await,
            ClusterCommand::TransferLeader { to } => {
                context.client.transfer_leader(to).await?;
                let status = status(context).await?;
                output::print(context.format, &status, cluster_status::render)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn node(text: &str) -> Result<AddNode, String> {
    let wrong = || "must be an id of at least 1 and an address, as in 4=10.0.0.4:7101".to_owned();
    let (id, addr) = text.split_once('=').ok_or_else(wrong)?;
    let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(wrong)?;
    let addr: NodeAddress = addr
        .parse()
        .map_err(|error: NodeAddressError| error.to_string())?;
    Ok(AddNode {
        id,
        addr: addr.to_string(),
    })
}

/// Raises the level of the cluster. A leader from before levels does not know the request.
async fn upgrade(context: &CommandContext) -> Result<ClusterStatus, CommandError> {
    let older_leader = |error: &Error| {
        let problem = error.problem();
        problem.is_some_and(|problem| problem.is(ProblemCode::NotFound))
    };
    match context.client.upgrade_cluster(None).await {
        Err(error) if older_leader(&error) => Err(CommandError::Failed(
            "the leader runs a version from before levels: upgrade all masters first, then run this again"
                .to_owned(),
        )),
        other => Ok(other?),
    }
}

async fn set_time_back(context: &CommandContext, yes: bool) -> Result<ExitCode, CommandError> {
    let ahead_ms = status(context).await?.table_ahead_ms;
    let question = format!(
        "The time of the table is {} ahead of the masters' clocks. It will be set back to them: delays, schedules and \
         retention follow, and tasks go on.",
        time_format::span_ms(ahead_ms)
    );
    // Without a question about nothing: the cluster refuses it and says why.
    if ahead_ms > 0 && !Confirmation::of(yes).asks(&question)? {
        return Ok(ExitCode::FAILURE);
    }
    let set_back = context.client.set_time_back().await?;
    output::print(context.format, &set_back, |set_back| {
        format!(
            "the time of the table was set back by {}, from {} to {}",
            time_format::span_ms(set_back.back_ms),
            set_back.from,
            set_back.to
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the status as the leader knows it; without a leader, as any master knows it.
async fn status(context: &CommandContext) -> Result<ClusterStatus, CommandError> {
    let query = ReadQuery::default();
    match tokio::time::timeout(LEADER_ANSWER_TIMEOUT, context.client.cluster(&query)).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(error @ Error::NoCluster { .. })) => Err(error.into()),
        Ok(Err(_)) | Err(_) => {
            let query = ReadQuery {
                consistency: Some(Consistency::Stale),
            };
            Ok(context.client.cluster(&query).await?)
        }
    }
}
