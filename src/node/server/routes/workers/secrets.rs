//! Secrets of workers: made at registration, and demanded of a worker that has once sent its own.

use axum::extract::FromRequestParts;
use axum::http::HeaderValue;
use axum::http::request::Parts;
use triarch_areas::envelope;
use triarch_areas::worker_secrets::{SecretCommand, SecretHash, SecretVerdict};
use triarch_raft::{Level, Priority, ProposeOptions};
use triarch_table::WorkerId;
use triarch_table::command::reply::Reply;
use uuid::Uuid;

use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::headers::WORKER_SECRET;
use crate::server::protocol::problem::{Code, Problem};

const OPTIONS: ProposeOptions = ProposeOptions {
    priority: Priority::High,
    allow_piggyback: false,
    term: None,
};

/// Extractor of the secret in the header of a worker's own call.
pub struct WorkerSecret(Option<HeaderValue>);

impl FromRequestParts<App> for WorkerSecret {
    type Rejection = HandlerError;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, HandlerError> {
        Ok(Self(parts.headers.get(WORKER_SECRET).cloned()))
    }
}

impl WorkerSecret {
    /// Checks that the call may act in the name of the worker. A worker that sends its secret for the first time is held to
    /// it before the call goes on.
    ///
    /// # Errors
    ///
    /// `403 forbidden` without the secret of a held worker, and with another one.
    pub async fn check(&self, app: &App, worker: WorkerId) -> Result<(), HandlerError> {
        if mutated!(WorkerSecretIgnored) {
            return Ok(());
        }
        if app.table.level() == Level::ONE {
            return Ok(());
        }
        // Only a leader has applied every hold that may count.
        app.leader_term()?;
        let secret = self.0.as_ref().map(HeaderValue::as_bytes);
        match app.table.judge_worker_secret(worker, secret) {
            SecretVerdict::Allowed => Ok(()),
            SecretVerdict::FirstUse(hash) => {
                propose(app, SecretCommand::Hold { worker, hash }).await?;
                Ok(())
            }
            SecretVerdict::Missing => Err(refusal(&format!(
                "worker {worker} is held to the secret of its registration, and this call does not carry it in the \
                 {WORKER_SECRET} header"
            ))),
            SecretVerdict::Wrong => Err(refusal(&format!(
                "the secret in the {WORKER_SECRET} header is not that of worker {worker}"
            ))),
        }
    }
}

fn refusal(why: &str) -> HandlerError {
    let detail = format!(
        "{why}: nothing was done. Only the process that registered the worker may act in its name"
    );
    Problem::new(Code::Forbidden, detail).into()
}

/// Makes a secret for a worker that has just registered. `None` where the cluster has none to give: at level 1, and if its
/// hash could not be recorded. The worker goes on without.
pub async fn issue(app: &App, worker: WorkerId) -> Option<String> {
    if app.table.level() == Level::ONE {
        return None;
    }
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let hash = SecretHash::of(secret.as_bytes());
    match propose(app, SecretCommand::Issue { worker, hash }).await {
        Ok(issued) => issued.then_some(secret),
        Err(error) => {
            tracing::warn!(%worker, ?error, "no secret was made for a worker: readers of the cluster can act in its name");
            None
        }
    }
}

async fn propose(app: &App, command: SecretCommand) -> Result<bool, HandlerError> {
    let committed = app
        .node
        .propose(envelope::encode_secret(command), OPTIONS)
        .await?;
    match committed.reply {
        Reply::Done { tasks } => Ok(tasks > 0),
        other => Err(app.unexpected_reply(&other)),
    }
}
