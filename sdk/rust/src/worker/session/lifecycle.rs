//! The life cycle of a session: its concurrent parts, and how it ends.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::state::{Session, SessionEnd};
use crate::error::Error;
use crate::wire::ProblemCode;
use crate::worker::executor::{Executor, StopReason};

impl<E: Executor> Session<E> {
    /// Runs until the session is over. No attempt runs any more when it returns.
    pub(in crate::worker) async fn run(self: &Arc<Self>) -> SessionEnd {
        let mut running = JoinSet::new();
        let end = tokio::select! {
            end = self.exchange(&mut running) => end,
            () = self.heartbeats() => SessionEnd::Unknown,
            () = self.fence() => SessionEnd::Unknown,
            () = self.learn_masters() => SessionEnd::Unknown,
            () = self.send_output() => SessionEnd::Unknown,
        };
        match end {
            SessionEnd::Unknown => {
                self.attempts.disown_all();
                self.wind_down(&mut running).await;
            }
            SessionEnd::Leaving => {
                self.hand_back(&mut running).await;
            }
        }
        end
    }

    /// Stops what still runs without counting it as a failure, reports the results, and leaves, which returns the rest.
    async fn hand_back(self: &Arc<Self>, running: &mut JoinSet<()>) {
        let stopped = self.attempts.stop_running(StopReason::ShuttingDown);
        if stopped > 0 {
            tracing::info!(stopped, "handing back unfinished attempts");
        }
        self.wind_down(running).await;
        let last_reports = async {
            // There may be more results than one report carries. The worker leaves whatever the answer is.
            while self.attempts.has_results() && self.reported(self.report().await).is_ok() {}
        };
        let _ = tokio::time::timeout(self.config.leave_patience, last_reports).await;
        match self
            .client
            .leave(&self.id, self.config.leave_patience)
            .await
        {
            Ok(answer) => tracing::info!(worker = self.id, returned = answer.returned, "left"),
            Err(Error::Api(problem)) if problem.is(ProblemCode::UnknownWorker) => {}
            Err(error) => {
                tracing::warn!(worker = self.id, %error, "could not leave the cluster in order; its leases expire")
            }
        }
    }

    /// Waits for attempts that were asked to stop. They return, or are dropped after `abandon_after`. When the worker
    /// is to leave at once, they are dropped at once.
    async fn wind_down(&self, running: &mut JoinSet<()>) {
        let all_ended = async { while running.join_next().await.is_some() {} };
        let heartbeats_go_on = async {
            // The leases are still this worker's while it winds down in order.
            self.heartbeats().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = all_ended => return,
            () = heartbeats_go_on => {}
            () = self.send_output() => {}
            () = self.shutdown.asked_now() => {}
        }
        running.shutdown().await;
    }
}
