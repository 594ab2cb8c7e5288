//! Worker protocol: register, poll, heartbeat, report and leave. The leader answers; a follower redirects.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use bytes::Bytes;
use triarch_raft::{Priority, ProposeOptions};
use triarch_sdk::wire;
use triarch_table::command::RegisterWorker;
use triarch_table::command::reply::{Lease, Refusal, Reply};
use triarch_table::{Command, Token, WorkerId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::envelope::{self, PartProblems, ReportedResult};
use super::name_taken;
use super::results::record_results;
use super::secrets::{self, WorkerSecret};
use crate::leader::LeaderTerm;
use crate::leader::worker_calls::{RunningAttempt, WorkerCallError};
use crate::server::app::App;
use crate::server::protocol::handler_error::HandlerError;
use crate::server::protocol::json;
use crate::server::protocol::problem::{Code, Problem};
use crate::server::protocol::query::WAIT_MS_MAX;
use crate::server::protocol::response::ApiResponse;
use crate::server::protocol::validate;
use crate::server::routes::extractors::{NoQuery, RequestId};
use crate::server::routes::present;

/// Bounds on one registration and one poll.
const SLOTS_MAX: u32 = 10_000;
const SUBSCRIPTIONS_MAX: usize = 10_000;
/// Maximum time that a poll delays the acknowledgements of its results to wait for new leases.
const ACKNOWLEDGEMENT_DELAY_MAX: Duration = Duration::from_millis(50);
/// Options for worker reports on leases and on the worker itself.
const HIGH_PRIORITY: ProposeOptions = ProposeOptions {
    priority: Priority::High,
    allow_piggyback: false,
    term: None,
};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(leave))
        .routes(routes!(poll))
        .routes(routes!(heartbeat))
        .routes(routes!(report))
}

/// Registers a worker. Worker protocol: a follower redirects to the leader.
#[utoipa::path(
    post,
    path = "/v1/workers",
    tag = "workers",
    request_body = wire::Register,
    responses((status = 201, description = "Worker registered; it may now poll for tasks.", body = wire::Registered))
)]
async fn register(
    State(app): State<App>,
    _: NoQuery,
    RequestId(request_id): RequestId,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let worker: wire::Register = json::parse(&body)?;
    validate::name("name", &worker.name)?;
    type Check = fn(&str, &str) -> Result<(), Problem>;
    let subscriptions: [(_, _, Check); 2] = [
        ("queues", &worker.queues, validate::path_name),
        ("kinds", &worker.kinds, validate::name),
    ];
    for (field, names, check) in subscriptions {
        if names.is_empty() || names.len() > SUBSCRIPTIONS_MAX {
            return Err(Problem::invalid(
                field,
                format!("must name 1 to {SUBSCRIPTIONS_MAX} {field}"),
            )
            .into());
        }
        for (name, position) in names.iter().zip(0..) {
            check(&format!("{field}[{position}]"), name)?;
        }
    }
    if worker.slots == 0 || worker.slots > SLOTS_MAX {
        return Err(Problem::invalid("slots", format!("must be from 1 to {SLOTS_MAX}")).into());
    }
    for (name, value) in &worker.labels {
        validate::name("labels", name)?;
        validate::bounded_text(&format!("labels.{name}"), value)?;
    }
    for name in worker.resources.keys() {
        validate::name("resources", name)?;
    }
    let register = Command::RegisterWorker(RegisterWorker {
        request_id,
        name: worker.name,
        queues: worker.queues,
        kinds: worker.kinds,
        slots: worker.slots,
        labels: worker.labels,
        resources: worker.resources,
    });
    let register = app.table.encode(&register);
    let committed = app.node.propose(register, HIGH_PRIORITY).await?;
    let lead = app.leader_term();
    let (index, worker) = match committed.reply {
        Reply::Registered { worker } => (committed.index, worker),
        Reply::Refused(Refusal::WorkerNameTaken { worker }) => {
            let lead = lead.ok();
            return Err(name_taken::refuse(lead.as_deref(), app.lease_timing, worker).into());
        }
        Reply::Refused(refusal) => return Err(refusal.into()),
        reply => return Err(app.unexpected_reply(&reply)),
    };
    if let Ok(lead) = lead {
        lead.state
            .lock()
            .leases
            .record_contact(worker, Instant::now());
    }
    ApiResponse::created(
        index,
        &wire::Registered {
            id: worker.to_string(),
            heartbeat_ms: app.lease_timing.heartbeat_ms,
            lease_ms: app.lease_timing.lease_ms,
            secret: secrets::issue(&app, worker).await,
        },
    )
}

/// Leases tasks to a worker, and receives its results. Worker protocol: a follower redirects to the leader.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/poll",
    tag = "workers",
    params(
        ("id" = String, Path, description = "Id of the worker."),
        ("triarch-worker-secret" = Option<String>, Header, description = "Secret from the registration. A worker that has once sent it must send it with each of its calls.")
    ),
    request_body = Option<wire::Poll>,
    responses((status = 200, description = "Leased tasks, if any, verdicts on the results, and directives for the worker.", body = wire::PollAnswer))
)]
async fn poll(
    State(app): State<App>,
    Path(id): Path<String>,
    _: NoQuery,
    secret: WorkerSecret,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let id = worker_id(&id)?;
    secret.check(&app, id).await?;
    let poll = envelope::poll(&body)?;
    let lead = app.leader_term()?;
    let (problems, mut running) = (poll.problems, poll.running);
    let ended: Vec<RunningAttempt> = poll
        .results
        .iter()
        .filter_map(ReportedResult::attempt)
        .collect();
    let acknowledgements = match poll.results.is_empty() {
        true => Vec::new(),
        false => {
            match record_results_before_lease(&app, &lead, id, poll.results, &problems, poll.max)
                .await
            {
                Ok(acknowledgements) => acknowledgements,
                Err(refused) => {
                    // The worker is alive whatever happens to its results, and so are the attempts it will report again.
                    // The error must show that the fate of the results is unknown, even if the worker is unknown by now.
                    let alive: Vec<RunningAttempt> =
                        running.into_iter().flatten().chain(ended).collect();
                    let _ = lead.heartbeat(id, &alive, None).await;
                    return Err(refused);
                }
            }
        }
    };
    if let Some(running) = &mut running {
        // A reported result is acknowledged. Its attempt is neither running nor lost, even if the worker also names it
        // as running.
        let ended_keys: HashSet<(&str, Token)> = ended.iter().map(RunningAttempt::key).collect();
        running.retain(|attempt| !ended_keys.contains(&attempt.key()));
    }
    let request = PollRequest {
        worker: id,
        max: poll.max.min(SLOTS_MAX),
        wait: Duration::from_millis(poll.wait_ms),
        brings_results: !acknowledgements.is_empty(),
        running,
        ended,
    };
    let mut answer = match request.run(&app, &lead).await {
        Ok(answer) => answer,
        // The results count, whatever happened to the rest of the poll. A worker that is lost, or whose leader changed,
        // learns that from its next request.
        Err(_) if !acknowledgements.is_empty() => wire::PollAnswer::default(),
        Err(error) => return Err(error),
    };
    answer.results = acknowledgements;
    answer.problems = problems.into_list();
    ApiResponse::ok(app.node.applied_index(), &answer)
}

/// Proposes results of a worker that asks for more work. If there is any, it is leased in the same log entry.
async fn record_results_before_lease(
    app: &App,
    lead: &LeaderTerm,
    worker: WorkerId,
    results: Vec<ReportedResult>,
    problems: &PartProblems,
    wanted: u32,
) -> Result<Vec<wire::ResultAcknowledgement>, HandlerError> {
    let refill = lead.request_refill(worker, wanted.min(SLOTS_MAX));
    let (_, acknowledgements) = record_results(app, worker, results, problems).await?;
    drop(refill);
    Ok(acknowledgements)
}

/// Poll whose results, if it brought any, are acknowledged.
struct PollRequest {
    worker: WorkerId,
    max: u32,
    wait: Duration,
    brings_results: bool,
    /// Attempts that the worker reports as running, if it reports any.
    running: Option<Vec<RunningAttempt>>,
    /// Attempts whose results it brought.
    ended: Vec<RunningAttempt>,
}

impl PollRequest {
    /// Long poll: confirms the attempts that the worker runs, and waits for leases.
    async fn run(mut self, app: &App, lead: &LeaderTerm) -> Result<wire::PollAnswer, HandlerError> {
        let id = self.worker;
        let directives = lead
            .heartbeat(id, self.running.as_deref().unwrap_or_default(), None)
            .await
            .map_err(|error| worker_call_error(error, id))?;
        if let Some(running) = &mut self.running {
            // The worker knows of these leases. One whose result was refused is therefore not delivered to it again.
            running.extend(self.ended);
        }
        // A worker with something to stop must be answered at once. One that brings results is answered soon: the delay
        // is just long enough for a grant.
        let urgent =
            !directives.cancel.is_empty() || !directives.lost.is_empty() || directives.drain;
        let wait_max = match (urgent, self.brings_results) {
            (true, _) => Duration::ZERO,
            (false, true) => ACKNOWLEDGEMENT_DELAY_MAX,
            (false, false) => Duration::from_millis(WAIT_MS_MAX),
        };
        let wait = self.wait.min(wait_max);
        let leases = tokio::select! {
            leases = lead.poll(id, self.max, wait, self.running.as_deref()) => leases.map_err(|error| worker_call_error(error, id))?,
            () = app.shutdown.cancelled() => return Err(HandlerError::NotLeader),
            // No grant is committed here for as long as that lasts. The worker finds another leader, if there is one.
            () = app.majority_lost() => return Err(HandlerError::NotLeader),
        };
        Ok(wire::PollAnswer {
            tasks: leases
                .into_iter()
                .filter_map(|lease| leased_task(app, lease))
                .collect(),
            cancel: directives.cancel,
            lost: directives.lost,
            drain: directives.drain,
            ..wire::PollAnswer::default()
        })
    }
}

/// Confirms the leases of a worker's running attempts. Worker protocol: a follower redirects to the leader.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/heartbeat",
    tag = "workers",
    params(
        ("id" = String, Path, description = "Id of the worker."),
        ("triarch-worker-secret" = Option<String>, Header, description = "Secret from the registration. A worker that has once sent it must send it with each of its calls.")
    ),
    request_body = Option<wire::Heartbeat>,
    responses((status = 200, description = "Directives for the worker: attempts to stop, and whether to drain.", body = wire::HeartbeatAnswer))
)]
async fn heartbeat(
    State(app): State<App>,
    Path(id): Path<String>,
    _: NoQuery,
    secret: WorkerSecret,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let id = worker_id(&id)?;
    secret.check(&app, id).await?;
    let heartbeat = envelope::heartbeat(&body)?;
    let directives = app
        .leader_term()?
        .heartbeat(id, &heartbeat.running, heartbeat.load)
        .await
        .map_err(|error| worker_call_error(error, id))?;
    ApiResponse::ok(
        app.node.applied_index(),
        &wire::HeartbeatAnswer {
            cancel: directives.cancel,
            lost: directives.lost,
            drain: directives.drain,
            heartbeat_ms: Some(directives.heartbeat_ms),
            problems: heartbeat.problems.into_list(),
        },
    )
}

/// Receives results of a worker's attempts. Worker protocol: a follower redirects to the leader.
#[utoipa::path(
    post,
    path = "/v1/workers/{id}/report",
    tag = "workers",
    params(
        ("id" = String, Path, description = "Id of the worker."),
        ("triarch-worker-secret" = Option<String>, Header, description = "Secret from the registration. A worker that has once sent it must send it with each of its calls.")
    ),
    request_body = wire::Report,
    responses((status = 200, description = "One verdict for each result.", body = wire::ReportAnswer))
)]
async fn report(
    State(app): State<App>,
    Path(id): Path<String>,
    _: NoQuery,
    secret: WorkerSecret,
    body: Bytes,
) -> Result<ApiResponse, HandlerError> {
    let id = worker_id(&id)?;
    secret.check(&app, id).await?;
    let report = envelope::report(&body)?;
    let (index, results) = record_results(&app, id, report.results, &report.problems).await?;
    let problems = report.problems.into_list();
    ApiResponse::ok(index, &wire::ReportAnswer { results, problems })
}

/// Removes a leaving worker and returns its leases at once. Worker protocol: a follower redirects to the leader.
#[utoipa::path(
    delete,
    path = "/v1/workers/{id}",
    tag = "workers",
    params(
        ("id" = String, Path, description = "Id of the worker."),
        ("triarch-worker-secret" = Option<String>, Header, description = "Secret from the registration. A worker that has once sent it must send it with each of its calls.")
    ),
    responses((status = 200, description = "The worker has left.", body = wire::LeaveAnswer))
)]
async fn leave(
    State(app): State<App>,
    Path(id): Path<String>,
    _: NoQuery,
    secret: WorkerSecret,
) -> Result<ApiResponse, HandlerError> {
    let id = worker_id(&id)?;
    secret.check(&app, id).await?;
    let leave = Command::LeaveWorker { worker: id };
    let (index, reply) = app.propose_with(&leave, HIGH_PRIORITY).await?;
    let Reply::Done { tasks } = reply else {
        return Err(app.unexpected_reply(&reply));
    };
    if let Ok(lead) = app.leader_term() {
        lead.state.lock().polls.close(id);
    }
    ApiResponse::ok(
        index,
        &wire::LeaveAnswer {
            id: id.to_string(),
            returned: tasks,
        },
    )
}

pub fn worker_id(text: &str) -> Result<WorkerId, Problem> {
    validate::parse_id("worker", text).map_err(|_| {
        Problem::new(
            Code::UnknownWorker,
            "the path contains no valid worker id: register, and use the id in the response",
        )
    })
}

impl RunningAttempt {
    fn key(&self) -> (&str, Token) {
        (&self.spelled, self.token)
    }
}

/// Converts the error of a worker call that the leader refused.
pub fn worker_call_error(error: WorkerCallError, id: WorkerId) -> HandlerError {
    match error {
        WorkerCallError::UnknownWorker => Problem::new(
            Code::UnknownWorker,
            format!(
                "worker {id} is not registered, or was lost: stop all attempts and register again"
            ),
        )
        .into(),
        WorkerCallError::TermOver => HandlerError::NotLeader,
        WorkerCallError::NotCommitted(error) => error.into(),
    }
}

/// Converts a lease to its wire type. `None` if it has ended since.
fn leased_task(app: &App, lease: Lease) -> Option<wire::LeasedTask> {
    let table = app.table.read();
    let task = table
        .task(lease.task)
        .filter(|task| task.lease().is_some_and(|held| held.token == lease.token))?;
    Some(wire::LeasedTask {
        id: task.id.to_string(),
        job: task.job.to_string(),
        kind: task.kind().to_string(),
        payload: present::raw_json(task.payload()),
        inputs: task
            .dependencies()
            .filter_map(|(first, when)| {
                let first = table.task(first)?;
                Some((first.key()?.to_string(), present::input_of(first, when)?))
            })
            .collect(),
        attempt: lease.attempt,
        token: lease.token.0,
        lease_ms: app.lease_timing.lease_ms,
        timeout_ms: task.spec.policy.timeout_ms,
    })
}
