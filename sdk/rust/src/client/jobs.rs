//! Jobs.

use std::time::Duration;

use tokio::time::Instant;

use super::Client;
use super::call::Call;
use crate::error::Error;
use crate::wire::{Job, JobList, JobsQuery, PageQuery, SubmitJob, Submitted, TaskList, WaitQuery};

/// How long one question of a wait is held before it is asked anew.
pub(super) const HOLD: Duration = Duration::from_secs(10);

impl Client {
    /// Submits a job, once.
    pub async fn submit(&self, job: &SubmitJob) -> Result<Submitted, Error> {
        self.submit_as(&Self::new_request_id(), job).await
    }

    /// Submits a job under a request id of the caller's: the same id again, for instance after an
    /// [`Error::Timeout`], never makes a second job.
    pub async fn submit_as(&self, request_id: &str, job: &SubmitJob) -> Result<Submitted, Error> {
        self.call(Call::post(&["v1", "jobs"]).json(job)?.keyed(request_id))
            .await
    }

    /// A job as it is.
    pub async fn job(&self, id: &str) -> Result<Job, Error> {
        self.call(Call::get(&["v1", "jobs", id])).await
    }

    /// A job as soon as it is terminal, or as it is after `wait`, whichever comes first. One question; see
    /// [`Client::wait_job`].
    pub async fn job_within(&self, id: &str, wait: Duration) -> Result<Job, Error> {
        self.call(waiting(Call::get(&["v1", "jobs", id]), wait)?)
            .await
    }

    /// Waits until a job is terminal, asking anew as often as it takes, over failovers. After `limit` the job is
    /// returned as it is.
    pub async fn wait_job(&self, id: &str, limit: Option<Duration>) -> Result<Job, Error> {
        let begun = Instant::now();
        loop {
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            let job = self
                .job_within(id, left.map_or(HOLD, |left| left.min(HOLD)))
                .await?;
            if job.state.is_terminal() || left.is_some_and(|left| left <= HOLD) {
                return Ok(job);
            }
        }
    }

    /// One page of a job's tasks, in submission order.
    pub async fn job_tasks(&self, id: &str, page: &PageQuery) -> Result<TaskList, Error> {
        self.call(Call::get(&["v1", "jobs", id, "tasks"]).query(page)?)
            .await
    }

    /// One page of jobs.
    pub async fn jobs(&self, query: &JobsQuery) -> Result<JobList, Error> {
        self.call(Call::get(&["v1", "jobs"]).query(query)?).await
    }

    /// Cancels every unfinished task of a job.
    pub async fn cancel_job(&self, id: &str) -> Result<Job, Error> {
        self.call(Call::post(&["v1", "jobs", id, "cancel"]).once())
            .await
    }
}

/// A question whose answer may be held.
pub(super) fn waiting(call: Call, wait: Duration) -> Result<Call, Error> {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let query = WaitQuery {
        wait_ms: Some(wait_ms),
        ..WaitQuery::default()
    };
    Ok(call.query(&query)?.held(wait).patient())
}
