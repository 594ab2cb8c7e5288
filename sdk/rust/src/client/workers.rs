//! Calls about workers, and the calls that a worker makes.

use std::time::Duration;

use reqwest::Method;

use super::call::Call;
use super::handle::Client;
use crate::error::Error;
use crate::wire::{
    Heartbeat, HeartbeatAnswer, LeaveAnswer, Poll, PollAnswer, ProblemCode, Register, Registered,
    Report, ReportAnswer, SendOutput, SendOutputAnswer, Worker, WorkerList, WorkersQuery,
};

impl Client {
    /// Returns one page of workers.
    pub async fn workers(&self, query: &WorkersQuery) -> Result<WorkerList, Error> {
        self.call(Call::get(&["v1", "workers"]).query(query)?).await
    }

    /// Returns a worker in its current state.
    pub async fn worker(&self, id: &str) -> Result<Worker, Error> {
        self.call(Call::get(&["v1", "workers", id])).await
    }

    /// Drains a worker: it takes no new tasks, finishes its running attempts, and then leaves the cluster.
    pub async fn drain_worker(&self, id: &str) -> Result<Worker, Error> {
        self.call(Call::post(&["v1", "workers", id, "drain"]).with_request_id())
            .await
    }

    /// Pauses a worker: it gets no more tasks and keeps those it runs, until it is resumed.
    pub async fn pause_worker(&self, id: &str) -> Result<Worker, Error> {
        self.call(Call::post(&["v1", "workers", id, "pause"])).await
    }

    /// Ends a worker's pause or quarantine.
    pub async fn resume_worker(&self, id: &str) -> Result<Worker, Error> {
        self.call(Call::post(&["v1", "workers", id, "resume"]))
            .await
    }

    /// Registers a worker.
    pub async fn register(&self, worker: &Register) -> Result<Registered, Error> {
        self.register_as(&Self::new_request_id(), worker).await
    }

    /// Registers a worker under a request id of the caller. The same id again is the same registration.
    pub async fn register_as(
        &self,
        request_id: &str,
        worker: &Register,
    ) -> Result<Registered, Error> {
        let call = Call::post(&["v1", "workers"])
            .json(worker)?
            .with_given_request_id(request_id);
        let registered: Registered = self.call(call).await?;
        if let Some(secret) = &registered.secret {
            self.inner.worker_secrets.insert(&registered.id, secret);
        }
        Ok(registered)
    }

    /// Returns a call in the name of a worker, with the secret of its registration if this client has made it.
    fn own_call(&self, call: Call, id: &str) -> Call {
        call.with_worker_secret(self.inner.worker_secrets.get(id))
    }

    /// Forgets the secret of a worker that is not registered any more, and returns the answer to its call.
    fn forget_if_unknown<T>(&self, id: &str, answer: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Api(problem)) = &answer
            && problem.is(ProblemCode::UnknownWorker)
        {
            self.inner.worker_secrets.remove(id);
        }
        answer
    }

    /// Polls for work as a worker. Gives up `patience` after the hold that the poll asks for. After a lost answer the
    /// caller polls again itself, because it knows by then which leases it holds.
    pub async fn poll(
        &self,
        id: &str,
        poll: &Poll,
        timeout: Duration,
    ) -> Result<PollAnswer, Error> {
        let hold = Duration::from_millis(poll.wait_ms);
        let call = Call::post(&["v1", "workers", id, "poll"])
            .json(poll)?
            .with_hold(hold);
        let call = self.own_call(call, id).with_deadline(timeout).patient();
        let answer = self.call_with(call, PollAnswer::read).await;
        self.forget_if_unknown(id, answer)
    }

    /// Confirms the leases of a worker.
    pub async fn heartbeat(
        &self,
        id: &str,
        heartbeat: &Heartbeat,
        deadline: Duration,
    ) -> Result<HeartbeatAnswer, Error> {
        let call = Call::post(&["v1", "workers", id, "heartbeat"]).json(heartbeat)?;
        let call = self.own_call(call, id);
        let answer = self.call(call.with_deadline(deadline).patient()).await;
        self.forget_if_unknown(id, answer)
    }

    /// Reports how attempts of a worker ended. Repeating it is safe: results are fenced by their tokens.
    pub async fn report(
        &self,
        id: &str,
        report: &Report,
        deadline: Duration,
    ) -> Result<ReportAnswer, Error> {
        let call = Call::post(&["v1", "workers", id, "report"]).json(report)?;
        let call = self.own_call(call, id);
        let answer = self.call(call.with_deadline(deadline).patient()).await;
        self.forget_if_unknown(id, answer)
    }

    /// Sends the output of a worker's attempts. Repeating it is safe: each piece has its offset.
    pub async fn send_output(
        &self,
        id: &str,
        output: &SendOutput,
        deadline: Duration,
    ) -> Result<SendOutputAnswer, Error> {
        let call = Call::post(&["v1", "workers", id, "output"]).json(output)?;
        let call = self.own_call(call, id);
        let answer = self.call(call.with_deadline(deadline).patient()).await;
        self.forget_if_unknown(id, answer)
    }

    /// Removes a worker. Its leases return to the queues at once.
    pub async fn leave(&self, id: &str, deadline: Duration) -> Result<LeaveAnswer, Error> {
        let call = Call::new(Method::DELETE, &["v1", "workers", id]).with_request_id();
        let call = self.own_call(call, id).with_deadline(deadline);
        let left = self.forget_if_unknown(id, self.call(call).await)?;
        self.inner.worker_secrets.remove(id);
        Ok(left)
    }
}
