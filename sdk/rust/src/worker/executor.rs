//! The executor, which runs tasks, and the context of each attempt.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::spool::{OutputSignal, OutputWriter, Spool};
use crate::json_text::{beginning, without_lone_surrogates};
use crate::wire::{LeasedTask, NOTE_BYTES_MAX, OutputStream};

/// Runs tasks. One executor serves all slots of a worker at once.
///
/// When the context asks for a stop, the executor must end what it runs and return. If it does not within the worker's
/// `abandon_after`, its future is dropped, so dropping must end it, too.
pub trait Executor: Send + Sync + 'static {
    /// Runs one attempt to its end. A panic counts as a failed attempt.
    fn run(&self, task: LeasedTask, context: TaskContext) -> impl Future<Output = Outcome> + Send;
}

/// The outcome of an attempt.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The attempt succeeded, with this result. `None` is reported as `null`.
    Succeeded(Option<Box<RawValue>>),
    /// The attempt failed.
    Failed {
        /// A JSON object, by custom with `type`, `message` and `traceback`.
        error: Box<RawValue>,
        /// Whether another attempt may succeed.
        retryable: bool,
    },
    /// The attempt failed, and the next one is to begin after this delay instead of the task's back-off. It counts as a
    /// failure: a task that has used up its attempts is not tried again.
    RetryAfter {
        /// A JSON object, by custom with `type`, `message` and `traceback`.
        error: Box<RawValue>,
        /// Delay before the next attempt.
        delay: Duration,
    },
    /// The attempt was stopped because the context asked for it. Nothing is reported.
    Stopped,
    /// The attempt could not begin for a want of this worker, such as memory or file descriptors. Its lease is returned,
    /// which counts as no failure, and the worker takes no tasks for a moment.
    Returned {
        /// What was missing, for the log.
        reason: String,
    },
}

impl Outcome {
    /// Returns a success with a result that is serialized to JSON. A result that cannot be serialized is a failure.
    ///
    /// ```
    /// use triarch_sdk::Outcome;
    ///
    /// let Outcome::Succeeded(Some(result)) = Outcome::succeeded(&[1, 4, 9]) else {
    ///     panic!("three numbers always serialize");
    /// };
    /// assert_eq!(result.get(), "[1,4,9]");
    /// ```
    pub fn succeeded<T: Serialize + ?Sized>(result: &T) -> Self {
        match serde_json::value::to_raw_value(result) {
            Ok(raw) => Outcome::Succeeded(Some(raw)),
            Err(error) => Outcome::failed(
                "result",
                &format!("the result cannot be written as JSON: {error}"),
            ),
        }
    }

    /// Returns a failure that is worth another attempt.
    pub fn failed(kind: &str, message: &str) -> Self {
        Outcome::Failed {
            error: error_object(kind, message),
            retryable: true,
        }
    }

    /// Returns a failure after which the next attempt begins after this delay, instead of the task's back-off.
    pub fn retry_after(kind: &str, message: &str, delay: Duration) -> Self {
        Outcome::RetryAfter {
            error: error_object(kind, message),
            delay,
        }
    }

    /// Returns a failure that another attempt would repeat.
    pub fn failed_for_good(kind: &str, message: &str) -> Self {
        Outcome::Failed {
            error: error_object(kind, message),
            retryable: false,
        }
    }
}

/// Returns `{"type": …, "message": …}`.
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

/// Returns the type and the beginning of the message of an error, for the log.
pub(super) fn error_summary(error: &RawValue) -> String {
    /// The usual fields of an error.
    #[derive(Deserialize)]
    struct ErrorFields {
        #[serde(rename = "type")]
        kind: String,
        message: String,
    }
    let text = without_lone_surrogates(error.get());
    match serde_json::from_str::<ErrorFields>(&text) {
        Ok(fields) => {
            let message = beginning(&fields.message, SUMMARY_BYTES_MAX);
            format!("{}: {message}", fields.kind)
        }
        Err(_) => beginning(&text, SUMMARY_BYTES_MAX).to_owned(),
    }
}

/// The reason why an attempt must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A user cancelled the task.
    Cancelled,
    /// The lease is no longer this worker's, and another may already run the task.
    Lost,
    /// The attempt reached its time limit.
    TimedOut,
    /// The worker leaves, and another will run the task.
    ShuttingDown,
}

/// Maximum length of a message in the log, in bytes.
const SUMMARY_BYTES_MAX: usize = 300;
/// Maximum bytes of an attempt's output that are kept, unless its worker has less room for each.
const OUTPUT_BYTES_MAX: usize = 256 << 10;

/// An attempt's connection to the worker it runs in.
#[derive(Debug, Clone)]
pub struct TaskContext {
    stop: watch::Receiver<Option<StopReason>>,
    progress: Arc<Mutex<Progress>>,
    spool: Arc<Spool>,
}

/// The latest progress reported by an attempt.
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
    /// Creates a context and the handle that stops it. Its output is never read.
    pub fn new() -> (TaskHandle, TaskContext) {
        Self::with_output_limit(OUTPUT_BYTES_MAX, Arc::new(OutputSignal::default()))
    }

    /// Creates a context that announces its output by this signal, and keeps at most `output_bytes_max` bytes of it.
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

    /// Waits until the attempt must end. May be awaited by many callers, and repeatedly.
    pub async fn stopped(&self) -> StopReason {
        let mut stop = self.stop.clone();
        match stop.wait_for(Option::is_some).await {
            Ok(reason) => (*reason).unwrap_or(StopReason::ShuttingDown),
            // The worker is gone, so nothing else can stop it.
            Err(_) => StopReason::ShuttingDown,
        }
    }

    /// Returns why the attempt must end, if it must.
    pub fn stop_reason(&self) -> Option<StopReason> {
        *self.stop.borrow()
    }

    /// Reports the progress, from 0 to 1, and the current activity. The next heartbeat carries both. A note of more than
    /// [`NOTE_BYTES_MAX`] bytes is cut.
    pub fn set_progress(&self, share: f64, note: Option<String>) {
        let share = share.is_finite().then(|| share.clamp(0.0, 1.0));
        let note = note.map(|mut note| {
            note.truncate(beginning(&note, NOTE_BYTES_MAX).len());
            note
        });
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Progress { share, note };
    }
}

impl TaskContext {
    /// Writes to one of the attempt's streams, for users who watch it run. Never waits: output beyond the cluster's
    /// pace is dropped, the oldest first.
    pub fn write(&self, stream: OutputStream, text: &str) {
        self.spool.write(stream, text);
    }

    /// Returns a writer of bytes as they arrive. See [`TaskContext::write`].
    pub fn writer(&self, stream: OutputStream) -> OutputWriter {
        OutputWriter::new(self.spool.clone(), stream)
    }

    /// Declares that the outcome contains all of the output, so that unsent output need not be sent.
    pub fn output_is_in_outcome(&self) {
        self.spool.abandon();
    }

    /// Waits until the output is sent, at most `limit`.
    pub(super) async fn output_delivered(&self, limit: Duration) {
        self.spool.delivered(limit).await;
    }
}

impl TaskHandle {
    pub(super) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Asks the attempt to end. The first reason stays.
    pub fn stop(&self, reason: StopReason) {
        self.stop.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }

    /// Returns why it was asked to end.
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
