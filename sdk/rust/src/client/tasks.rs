//! Calls about tasks.

use std::time::Duration;

use tokio::time::Instant;

use super::call::Call;
use super::cluster::BULK_TIMEOUT;
use super::handle::Client;
use super::jobs::{WAIT_HOLD, long_poll};
use crate::error::Error;
use crate::wire::{Explanation, Logs, LogsQuery, Swept, Task, TaskList, TaskSelection, TasksQuery};

impl Client {
    /// Returns a task in its current state.
    pub async fn task(&self, id: &str) -> Result<Task, Error> {
        self.call(Call::get(&["v1", "tasks", id])).await
    }

    /// Returns a task as soon as it is terminal, or after `wait`, whichever comes first. One long poll; see
    /// [`Client::wait_task`].
    pub async fn task_within(&self, id: &str, wait: Duration) -> Result<Task, Error> {
        self.call(long_poll(Call::get(&["v1", "tasks", id]), wait)?)
            .await
    }

    /// Waits until a task is terminal, with as many long polls as it takes, over failovers. After `limit` it returns
    /// the task in its current state.
    pub async fn wait_task(&self, id: &str, limit: Option<Duration>) -> Result<Task, Error> {
        let begun = Instant::now();
        loop {
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            let task = self
                .task_within(id, left.map_or(WAIT_HOLD, |left| left.min(WAIT_HOLD)))
                .await?;
            if task.state.is_terminal() || left.is_some_and(|left| left <= WAIT_HOLD) {
                return Ok(task);
            }
        }
    }

    /// Returns the output of one attempt of a task, from the position in the query. While there is none, the answer is
    /// held for the time in the query. The answer's `next` is the position for the next call.
    pub async fn task_logs(&self, id: &str, query: &LogsQuery) -> Result<Logs, Error> {
        let hold = Duration::from_millis(query.follow_ms.unwrap_or(0));
        let call = Call::get(&["v1", "tasks", id, "logs"]).query(query)?;
        self.call(call.with_hold(hold).patient()).await
    }

    /// Returns one page of tasks.
    pub async fn tasks(&self, query: &TasksQuery) -> Result<TaskList, Error> {
        self.call(Call::get(&["v1", "tasks"]).query(query)?).await
    }

    /// Cancels a task in any unfinished state.
    pub async fn cancel_task(&self, id: &str) -> Result<Task, Error> {
        self.call(Call::post(&["v1", "tasks", id, "cancel"]).with_request_id())
            .await
    }

    /// Returns a terminal task to its queue with a fresh budget of attempts.
    pub async fn retry_task(&self, id: &str) -> Result<Task, Error> {
        self.call(Call::post(&["v1", "tasks", id, "retry"]).with_request_id())
            .await
    }

    /// Explains why a task does not run yet.
    pub async fn explain_task(&self, id: &str) -> Result<Explanation, Error> {
        self.call(Call::get(&["v1", "tasks", id, "explain"])).await
    }

    /// Cancels every selected unfinished task.
    pub async fn cancel_tasks(&self, selection: &TaskSelection) -> Result<Swept, Error> {
        self.call(bulk("cancel", selection)?).await
    }

    /// Retries every selected finished task. Default: dead letters only. The call is not repeated after an unknown
    /// outcome, because a task that has failed again in between would be retried again.
    pub async fn retry_tasks(&self, selection: &TaskSelection) -> Result<Swept, Error> {
        self.call(bulk("retry", selection)?.once()).await
    }

    /// Forgets every finished job with a selected task. Default: with dead letters only.
    pub async fn forget_tasks(&self, selection: &TaskSelection) -> Result<Swept, Error> {
        self.call(bulk("forget", selection)?).await
    }
}

fn bulk(what: &str, selection: &TaskSelection) -> Result<Call, Error> {
    let call = Call::post(&["v1", "tasks", what]).json(selection)?;
    Ok(call.with_hold(BULK_TIMEOUT))
}
