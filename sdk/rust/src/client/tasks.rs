//! Tasks.

use std::time::Duration;

use tokio::time::Instant;

use super::call::Call;
use super::cluster::BULK_TIMEOUT;
use super::handle::Client;
use super::jobs::{WAIT_HOLD, long_poll};
use crate::error::Error;
use crate::wire::{Explanation, Logs, LogsQuery, Swept, Task, TaskList, TaskSelection, TasksQuery};

impl Client {
    /// A task as it is.
    pub async fn task(&self, id: &str) -> Result<Task, Error> {
        self.call(Call::get(&["v1", "tasks", id])).await
    }

    /// A task as soon as it is terminal, or as it is after `wait`, whichever comes first. One question; see
    /// [`Client::wait_task`].
    pub async fn task_within(&self, id: &str, wait: Duration) -> Result<Task, Error> {
        self.call(long_poll(Call::get(&["v1", "tasks", id]), wait)?)
            .await
    }

    /// Waits until a task is terminal, asking anew as often as it takes, over failovers. After `limit` the task is
    /// returned as it is.
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

    /// What one attempt of a task wrote, from where the query says; held for as long as it says while there is nothing.
    /// The answer's `next` is where the next question goes on.
    pub async fn task_logs(&self, id: &str, query: &LogsQuery) -> Result<Logs, Error> {
        let hold = Duration::from_millis(query.follow_ms.unwrap_or(0));
        let call = Call::get(&["v1", "tasks", id, "logs"]).query(query)?;
        self.call(call.with_hold(hold).patient()).await
    }

    /// One page of tasks.
    pub async fn tasks(&self, query: &TasksQuery) -> Result<TaskList, Error> {
        self.call(Call::get(&["v1", "tasks"]).query(query)?).await
    }

    /// Cancels a task, whatever its unfinished state.
    pub async fn cancel_task(&self, id: &str) -> Result<Task, Error> {
        self.call(Call::post(&["v1", "tasks", id, "cancel"]).with_request_id())
            .await
    }

    /// Puts a terminal task back to its queue with a fresh budget of attempts.
    pub async fn retry_task(&self, id: &str) -> Result<Task, Error> {
        self.call(Call::post(&["v1", "tasks", id, "retry"]).with_request_id())
            .await
    }

    /// Why a task does not run yet.
    pub async fn explain_task(&self, id: &str) -> Result<Explanation, Error> {
        self.call(Call::get(&["v1", "tasks", id, "explain"])).await
    }

    /// Cancels every unfinished task that is selected.
    pub async fn cancel_tasks(&self, selection: &TaskSelection) -> Result<Swept, Error> {
        self.bulk("cancel", selection).await
    }

    /// Retries every finished task that is selected; dead letters, unless a state is told.
    pub async fn retry_tasks(&self, selection: &TaskSelection) -> Result<Swept, Error> {
        self.bulk("retry", selection).await
    }

    /// Forgets every finished job with a selected task; with dead letters, unless a state is told.
    pub async fn forget_tasks(&self, selection: &TaskSelection) -> Result<Swept, Error> {
        self.bulk("forget", selection).await
    }

    async fn bulk(&self, what: &str, selection: &TaskSelection) -> Result<Swept, Error> {
        let call = Call::post(&["v1", "tasks", what]).json(selection)?;
        self.call(call.with_hold(BULK_TIMEOUT)).await
    }
}
