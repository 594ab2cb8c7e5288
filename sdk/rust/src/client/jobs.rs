//! Calls about jobs.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::call::Call;
use super::handle::Client;
use crate::error::Error;
use crate::wire::{
    Job, JobList, JobTasksQuery, JobsQuery, PageQuery, SubmitJob, Submitted, TaskList, TaskSpec,
    WaitQuery,
};

/// Maximum number of tasks, and of bytes of payloads, in one part of a large job. Both are well below the bounds of one
/// request.
const TASKS_PER_PART: usize = 5_000;
const PAYLOAD_BYTES_PER_PART: usize = 8 << 20;

/// Splits tasks into parts that each fit into one request.
fn split_into_parts(tasks: Vec<TaskSpec>) -> Vec<Vec<TaskSpec>> {
    let mut parts: Vec<Vec<TaskSpec>> = Vec::new();
    let mut bytes = 0;
    for task in tasks {
        let size = task.payload.as_ref().map_or(0, |text| text.get().len());
        let full = |part: &Vec<TaskSpec>| part.len() >= TASKS_PER_PART;
        if bytes + size > PAYLOAD_BYTES_PER_PART || parts.last().is_none_or(full) {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(part) = parts.last_mut() {
            part.push(task);
        }
    }
    parts
}

/// Maximum time for which one long poll of a wait is held before it is repeated.
pub(super) const WAIT_HOLD: Duration = Duration::from_secs(10);

impl Client {
    /// Submits a job, exactly once.
    pub async fn submit(&self, job: &SubmitJob) -> Result<Submitted, Error> {
        self.submit_as(&Self::new_request_id(), job).await
    }

    /// Submits a job under a request id of the caller. The same id again, for instance after an [`Error::Timeout`],
    /// never makes a second job.
    pub async fn submit_as(&self, request_id: &str, job: &SubmitJob) -> Result<Submitted, Error> {
        self.call(
            Call::post(&["v1", "jobs"])
                .json(job)?
                .with_given_request_id(request_id),
        )
        .await
    }

    /// Submits a job of any size. One with more tasks than one request takes is sent in parts, and is created as a
    /// whole with the last of them. If it has no idempotency key, it gets one.
    pub async fn submit_large(&self, mut job: SubmitJob) -> Result<Submitted, Error> {
        let mut parts = split_into_parts(std::mem::take(&mut job.tasks));
        if parts.len() <= 1 {
            job.tasks = parts.pop().unwrap_or_default();
            return self.submit(&job).await;
        }
        job.idempotency_key.get_or_insert_with(Self::new_request_id);
        job.parts = u32::try_from(parts.len()).ok();
        for (tasks, number) in parts.into_iter().zip(1..) {
            (job.tasks, job.part) = (tasks, Some(number));
            let call = Call::post(&["v1", "jobs"]).json(&job)?;
            let call = call.with_given_request_id(Self::new_request_id());
            let answer: serde_json::Value = self.call(call).await?;
            if let Ok(submitted) = Submitted::deserialize(answer) {
                return Ok(submitted);
            }
        }
        // Parts wait for each other only for a bounded time.
        Err(Error::Usage(
            "the first parts of the job expired before the last one arrived: submit it again"
                .to_owned(),
        ))
    }

    /// Returns a job in its current state.
    pub async fn job(&self, id: &str) -> Result<Job, Error> {
        self.call(Call::get(&["v1", "jobs", id])).await
    }

    /// Returns a job as soon as it is terminal, or after `wait`, whichever comes first. One long poll; see
    /// [`Client::wait_job`].
    pub async fn job_within(&self, id: &str, wait: Duration) -> Result<Job, Error> {
        self.call(long_poll(Call::get(&["v1", "jobs", id]), wait)?)
            .await
    }

    /// Waits until a job is terminal, with as many long polls as it takes, over failovers. After `limit` it returns the
    /// job in its current state.
    pub async fn wait_job(&self, id: &str, limit: Option<Duration>) -> Result<Job, Error> {
        let begun = Instant::now();
        loop {
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            let job = self
                .job_within(id, left.map_or(WAIT_HOLD, |left| left.min(WAIT_HOLD)))
                .await?;
            if job.state.is_terminal() || left.is_some_and(|left| left <= WAIT_HOLD) {
                return Ok(job);
            }
        }
    }

    /// Returns one page of a job's tasks, in submission order, without payloads and results.
    pub async fn job_tasks(&self, id: &str, page: &PageQuery) -> Result<TaskList, Error> {
        let query = JobTasksQuery {
            limit: page.limit,
            after: page.after.clone(),
            fields: None,
            consistency: page.consistency,
        };
        self.job_tasks_with(id, &query).await
    }

    /// Returns one page of a job's tasks, in submission order, with the fields that the query names.
    pub async fn job_tasks_with(&self, id: &str, query: &JobTasksQuery) -> Result<TaskList, Error> {
        self.call(Call::get(&["v1", "jobs", id, "tasks"]).query(query)?)
            .await
    }

    /// Returns one page of jobs.
    pub async fn jobs(&self, query: &JobsQuery) -> Result<JobList, Error> {
        self.call(Call::get(&["v1", "jobs"]).query(query)?).await
    }

    /// Cancels every unfinished task of a job.
    pub async fn cancel_job(&self, id: &str) -> Result<Job, Error> {
        self.call(Call::post(&["v1", "jobs", id, "cancel"]).with_request_id())
            .await
    }
}

/// Makes a call a long poll, whose answer may be held.
pub(super) fn long_poll(call: Call, wait: Duration) -> Result<Call, Error> {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let query = WaitQuery {
        wait_ms: Some(wait_ms),
        ..WaitQuery::default()
    };
    Ok(call.query(&query)?.with_hold(wait).patient())
}
