//! The runtime of a worker: registers it, leases tasks, runs them through an [`Executor`], reports what came of them.
//!
//! What it guarantees to the code it runs: an attempt whose lease may have passed to another is stopped, be it because
//! the cluster says so or because the cluster has been silent for a whole lease. What it guarantees to the cluster:
//! a result is reported until it is accepted or refused, and only under the token of its own lease.
//!
//! What it deliberately does not do: it keeps nothing on disk. A worker that dies is lost, and its attempts are run by
//! others; execution is at least once, and exactly one result is accepted.

mod attempt_registry;
mod attempt_runner;
mod executor;
mod host_load;
mod session;
mod shutdown;
mod spool;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::Client;
use crate::error::Error;
use crate::wire::{Problem, ProblemCode, Register, Registered};
use session::{End, Session};

pub use executor::{Executor, Outcome, StopReason, TaskContext, TaskHandle};
pub use shutdown::Shutdown;
pub use spool::OutputWriter;

/// Pause between two tries to register.
const REGISTER_PAUSE: Duration = Duration::from_millis(500);

/// How a worker is to be.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// What it tells of itself.
    pub register: Register,
    /// How long running attempts may take to finish once the worker was told to stop.
    pub grace: Duration,
    /// How long a question for work is held; the worker asks anew at the end.
    pub poll_wait: Duration,
    /// How long to try while another live worker has the name: a predecessor that died is only lost after its lease.
    pub name_patience: Duration,
    /// An executor that does not return this long after it was told to stop is dropped.
    pub abandon_after: Duration,
    /// How long to try to tell the last results, and then to say goodbye.
    pub leave_patience: Duration,
}

impl WorkerConfig {
    /// A worker of this kind with the usual patience.
    pub fn new(register: Register) -> Self {
        Self {
            register,
            grace: Duration::from_secs(30),
            poll_wait: Duration::from_secs(50),
            name_patience: Duration::from_secs(60),
            abandon_after: Duration::from_secs(15),
            leave_patience: Duration::from_secs(3),
        }
    }
}

/// Why a worker could not go on. That no master can be reached is never a reason: it keeps trying.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Another live worker has the name.
    #[error("the name {name} is taken: {problem}")]
    NameTaken {
        /// The name.
        name: String,
        /// The cluster's words.
        problem: Box<Problem>,
    },
    /// The cluster does not want it as it is.
    #[error("the cluster refused to register this worker: {0}")]
    Refused(Box<Problem>),
    /// What answers is no cluster, or the caller made a mistake.
    #[error(transparent)]
    Client(Error),
}

/// Runs a worker until it was asked to go and has left.
pub async fn run<E: Executor>(
    client: Client,
    config: WorkerConfig,
    executor: E,
    shutdown: Shutdown,
) -> Result<(), WorkerError> {
    let executor = Arc::new(executor);
    loop {
        let asked_at = Instant::now();
        let registered = tokio::select! {
            registered = register(&client, &config) => registered?,
            () = shutdown.asked() => return Ok(()),
        };
        tracing::info!(
            worker = registered.id,
            name = config.register.name,
            slots = config.register.slots,
            "registered"
        );
        let session = Session::new(
            client.clone(),
            config.clone(),
            executor.clone(),
            shutdown.clone(),
            &registered,
            asked_at,
        );
        match session.run().await {
            End::Leaving => return Ok(()),
            End::Unknown if shutdown.is_asked() => return Ok(()),
            End::Unknown => tracing::info!("registering again"),
        }
    }
}

/// Registers, however long it takes to reach a cluster.
async fn register(client: &Client, config: &WorkerConfig) -> Result<Registered, WorkerError> {
    let begun = Instant::now();
    // The same id until there is an answer: a registration whose answer was lost would take its own name.
    let mut request_id = Client::new_request_id();
    loop {
        let error = match client.register_as(&request_id, &config.register).await {
            Ok(registered) => return Ok(registered),
            Err(error) => error,
        };
        match error {
            Error::Api(problem) if problem.is(ProblemCode::Conflict) => {
                if begun.elapsed() >= config.name_patience {
                    let name = config.register.name.clone();
                    return Err(WorkerError::NameTaken { name, problem });
                }
                tracing::warn!(%problem, "the name is taken, waiting for it");
                // A refusal is remembered under its id, too.
                request_id = Client::new_request_id();
            }
            Error::Api(problem) if problem.status < 429 => {
                return Err(WorkerError::Refused(problem));
            }
            Error::Api(_)
            | Error::NoCluster { .. }
            | Error::Timeout { .. }
            | Error::Protocol { .. } => {
                tracing::warn!(%error, "not registered yet");
            }
            Error::Usage(_) => return Err(WorkerError::Client(error)),
        }
        tokio::time::sleep(REGISTER_PAUSE).await;
    }
}
