//! Runner of one attempt, from its lease to its outcome. Enforces the time limit and catches panics of the executor.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;

use super::executor::{Executor, Outcome, StopReason, TaskContext};
use crate::wire::LeasedTask;

/// Maximum time for which an outcome waits for its attempt's output to be sent. Users then see the output first.
const OUTPUT_DELIVERY_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs the attempt. After its time limit, or after a request to stop, the executor has `abandon_after` to return. Then
/// it is dropped.
pub(super) async fn run<E: Executor>(
    executor: &E,
    task: LeasedTask,
    context: TaskContext,
    on_time_limit: impl Fn() + Send,
    abandon_after: Duration,
) -> Outcome {
    let id = task.id.clone();
    let limit = task.timeout_ms.map(Duration::from_millis);
    let run = AssertUnwindSafe(executor.run(task, context.clone())).catch_unwind();
    tokio::pin!(run);
    let abandoned = async {
        tokio::select! {
            () = time_limit(limit) => on_time_limit(),
            _ = context.stopped() => {}
        }
        tokio::time::sleep(abandon_after).await;
    };
    let outcome = tokio::select! {
        biased;
        done = &mut run => done.unwrap_or_else(|panic| {
            let message = panic_message(panic.as_ref());
            tracing::error!(task = id, message, "an executor panicked");
            Outcome::failed("panic", &message)
        }),
        () = abandoned => {
            tracing::error!(task = id, "an executor did not stop when asked to and was dropped");
            Outcome::Stopped
        }
    };
    let output_is_unwanted = match context.stop_reason() {
        None | Some(StopReason::TimedOut) => false,
        Some(StopReason::Cancelled | StopReason::Lost | StopReason::ShuttingDown) => true,
    };
    if !output_is_unwanted {
        context.output_delivered(OUTPUT_DELIVERY_TIMEOUT).await;
    }
    outcome
}

async fn time_limit(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the executor panicked".to_owned())
}
