//! The executor, which runs tasks, and the context of each attempt.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::spool::{OutputSignal, OutputWriter, Spool};
use crate::wire::{LeasedTask, OutputStream};

/// Runs tasks. One executor serves all slots of a worker at once.
///
/// When the context says stop, the executor must end what it runs and return; when it does not within the worker's
/// `abandon_after`, its future is dropped, so dropping must end it, too.
pub trait Executor: Send + Sync + 'static {
    /// Runs one attempt to its end. A panic counts as a failed attempt.
    fn run(&self, task: LeasedTask, context: TaskContext) -> impl Future<Output = Outcome> + Send;
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It did what it should; `None` is told as `null`.
    Succeeded(Option<Box<RawValue>>),
    /// It did not.
    Failed {
        /// An object, by custom with `type`, `message` and `traceback`.
        error: Box<RawValue>,
        /// Whether another attempt may fare better.
        retryable: bool,
    },
    /// It was stopped as the context demanded and has nothing to tell.
    Stopped,
}

impl Outcome {
    /// Succeeded with anything that can be written as JSON; what cannot is a failure of its own.
    pub fn succeeded<T: Serialize + ?Sized>(result: &T) -> Self {
        match serde_json::value::to_raw_value(result) {
            Ok(raw) => Outcome::Succeeded(Some(raw)),
            Err(error) => Outcome::failed(
                "result",
                &format!("the result cannot be written as JSON: {error}"),
            ),
        }
    }

    /// Failed, worth another attempt.
    pub fn failed(kind: &str, message: &str) -> Self {
        Outcome::Failed {
            error: error_object(kind, message),
            retryable: true,
        }
    }

    /// Failed, and would again.
    pub fn failed_for_good(kind: &str, message: &str) -> Self {
        Outcome::Failed {
            error: error_object(kind, message),
            retryable: false,
        }
    }
}

/// `{"type": …, "message": …}`.
pub(super) fn error_object(kind: &str, message: &str) -> Box<RawValue> {
    #[derive(Serialize)]
    struct ErrorObject<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        message: &'a str,
    }
    serde_json::value::to_raw_value(&ErrorObject { kind, message })
        .expect("two strings always serialize")
}

/// Why an attempt must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A user cancelled the task.
    Cancelled,
    /// The lease is no longer this worker's; another may be running the task already.
    Lost,
    /// The attempt reached its time limit.
    TimedOut,
    /// The worker goes; the task will be run by another.
    ShuttingDown,
}

/// So much of an attempt's output is kept, unless its worker has less room for each.
const OUTPUT_BYTES_MAX: usize = 256 << 10;

/// An attempt's connection to the worker it runs in.
#[derive(Debug, Clone)]
pub struct TaskContext {
    stop: watch::Receiver<Option<StopReason>>,
    progress: Arc<Mutex<Progress>>,
    spool: Arc<Spool>,
}

/// The latest progress an attempt has reported.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) share: Option<f64>,
    pub(super) note: Option<String>,
}

/// The other end of a [`TaskContext`].
#[derive(Debug)]
pub struct TaskHandle {
    stop: watch::Sender<Option<StopReason>>,
    progress: Arc<Mutex<Progress>>,
    spool: Arc<Spool>,
}

impl TaskContext {
    /// A context, and the handle that stops it. Nobody reads its output.
    pub fn new() -> (TaskHandle, TaskContext) {
        Self::with_output_limit(OUTPUT_BYTES_MAX, Arc::new(OutputSignal::default()))
    }

    /// A context whose output is announced by this output_signal, and kept up to so many bytes.
    pub(super) fn with_output_limit(
        output_bytes_max: usize,
        output_signal: Arc<OutputSignal>,
    ) -> (TaskHandle, TaskContext) {
        let (sender, receiver) = watch::channel(None);
        let progress = Arc::new(Mutex::new(Progress::default()));
        let output_bytes_max = output_bytes_max.min(OUTPUT_BYTES_MAX);
        let spool = Arc::new(Spool::new(output_bytes_max, output_signal));
        let handle = TaskHandle {
            stop: sender,
            progress: progress.clone(),
            spool: spool.clone(),
        };
        (
            handle,
            TaskContext {
                stop: receiver,
                progress,
                spool,
            },
        )
    }

    /// Waits until the attempt must end; may be asked by many, again and again.
    pub async fn stopped(&self) -> StopReason {
        let mut stop = self.stop.clone();
        match stop.wait_for(Option::is_some).await {
            Ok(reason) => (*reason).unwrap_or(StopReason::ShuttingDown),
            // Nobody is left to stop it: the worker is gone.
            Err(_) => StopReason::ShuttingDown,
        }
    }

    /// Why the attempt must end, if it must.
    pub fn stop_reason(&self) -> Option<StopReason> {
        *self.stop.borrow()
    }

    /// Tells how far it is, 0 to 1, and what it is doing; the next heartbeat carries it.
    pub fn set_progress(&self, share: f64, note: Option<String>) {
        let share = share.is_finite().then(|| share.clamp(0.0, 1.0));
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Progress { share, note };
    }
}

impl TaskContext {
    /// Writes to one of the attempt's streams, for those who watch it run. Never waits: what the cluster cannot take as
    /// fast as it is written is dropped, the oldest first.
    pub fn write(&self, stream: OutputStream, text: &str) {
        self.spool.write(stream, text);
    }

    /// As [`TaskContext::write`], for bytes as they come.
    pub fn writer(&self, stream: OutputStream) -> OutputWriter {
        OutputWriter::new(self.spool.clone(), stream)
    }

    /// The outcome tells all that was written: what has not been sent yet need not be.
    pub fn output_is_told(&self) {
        self.spool.abandon();
    }

    /// Waits until what was written is sent, no longer than this.
    pub(super) async fn output_delivered(&self, limit: Duration) {
        self.spool.delivered(limit).await;
    }
}

impl TaskHandle {
    pub(super) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Demands that the attempt ends. The first reason stays.
    pub fn stop(&self, reason: StopReason) {
        self.stop.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }

    /// Why it was demanded to end.
    pub fn stop_reason(&self) -> Option<StopReason> {
        *self.stop.borrow()
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
