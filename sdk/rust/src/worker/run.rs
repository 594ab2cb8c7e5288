//! The life cycle of a worker: registration, sessions, and new registrations.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::config::WorkerConfig;
use super::executor::Executor;
use super::session::{Session, SessionEnd};
use super::shutdown::Shutdown;
use crate::client::Client;
use crate::error::Error;
use crate::wire::{Problem, ProblemCode, Registered};

/// Delay between two attempts to register.
const REGISTER_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Interval of the warnings that the name is in use.
const NAME_WARNING_INTERVAL: Duration = Duration::from_secs(30);

/// The reason why a worker could not continue. An unreachable cluster is none: the worker keeps trying.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Another live worker has the name.
    #[error("the name {name} is taken: {problem}")]
    NameTaken {
        /// The name.
        name: String,
        /// The cluster's refusal.
        problem: Box<Problem>,
    },
    /// The cluster refuses the registration.
    #[error("the cluster refused to register this worker: {0}")]
    Refused(Box<Problem>),
    /// The other side is no cluster, or the caller made a mistake.
    #[error(transparent)]
    Client(Error),
}

/// Runs a worker until it has been asked to leave and has left.
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
            SessionEnd::Leaving => return Ok(()),
            SessionEnd::Unknown if shutdown.is_asked() => return Ok(()),
            SessionEnd::Unknown => tracing::info!("registering again"),
        }
    }
}

/// Registers, and keeps trying until a cluster is reached.
async fn register(client: &Client, config: &WorkerConfig) -> Result<Registered, WorkerError> {
    let begun = Instant::now();
    // The id stays the same until there is an answer: otherwise a registration whose answer was lost would take its own
    // name.
    let mut request_id = Client::new_request_id();
    let mut warned: Option<Instant> = None;
    loop {
        let error = match client.register_as(&request_id, &config.register).await {
            Ok(registered) => return Ok(registered),
            Err(error) => error,
        };
        match error {
            Error::Api(problem) if problem.is(ProblemCode::Conflict) => {
                let silent = is_holder_silent(&problem);
                if begun.elapsed() >= config.name_patience && !silent {
                    let name = config.register.name.clone();
                    return Err(WorkerError::NameTaken { name, problem });
                }
                if warned.is_none_or(|at| at.elapsed() >= NAME_WARNING_INTERVAL) {
                    warned = Some(Instant::now());
                    let wait_max_s = config.name_patience.as_secs();
                    match silent {
                        true => tracing::warn!(
                            %problem,
                            "the name still belongs to a worker that is silent; waiting until its lease ends"
                        ),
                        false => tracing::warn!(
                            %problem,
                            wait_max_s,
                            "the name is in use by another worker; waiting until it is free"
                        ),
                    }
                }
                // The cluster remembers a refusal under its id, too.
                request_id = Client::new_request_id();
            }
            Error::Api(problem) if problem.status < 429 => {
                return Err(WorkerError::Refused(problem));
            }
            Error::Api(_)
            | Error::NoCluster { .. }
            | Error::Timeout { .. }
            | Error::Protocol { .. } => {
                tracing::warn!(%error, "registration failed, retrying");
            }
            Error::Usage(_) => return Err(WorkerError::Client(error)),
        }
        tokio::time::sleep(REGISTER_RETRY_DELAY).await;
    }
}

/// Returns whether the worker that has the name was silent for more than half of its lease: it is probably dead, and loses
/// the name at the end of its lease. Older masters do not say.
fn is_holder_silent(problem: &Problem) -> bool {
    let number = |name: &str| problem.extra.get(name).and_then(serde_json::Value::as_u64);
    match (number("silent_for_ms"), number("lease_ms")) {
        (Some(silent_ms), Some(lease_ms)) => silent_ms > lease_ms / 2,
        _ => false,
    }
}
