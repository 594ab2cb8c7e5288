//! The client library for a Triarch cluster:
//!
//! - the types of its HTTP interface ([`wire`]);
//! - a [`Client`] that finds the leader and retries safely;
//! - the runtime on which a worker is built ([`worker`]).
//!
//! # Submit a job and wait for it
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use triarch_sdk::wire::{SubmitJob, TaskSpec};
//! use triarch_sdk::{Client, parse_masters};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // One reachable master is enough; with all of them the client survives the death of any.
//! let client = Client::new(&parse_masters("127.0.0.1:7101,127.0.0.1:7102,127.0.0.1:7103")?)?;
//! let job = SubmitJob::new([TaskSpec::exec(["echo", "hello"])]);
//! let submitted = client.submit(&job).await?;
//! let finished = client.wait_job(&submitted.id, Some(Duration::from_secs(60))).await?;
//! println!("{}: {:?}", finished.id, finished.state);
//! # Ok(())
//! # }
//! ```
//!
//! # Run tasks of your own kind
//!
//! ```no_run
//! use triarch_sdk::wire::{LeasedTask, Register};
//! use triarch_sdk::worker::{self, Executor, Outcome, Shutdown, TaskContext, WorkerConfig};
//! use triarch_sdk::{Client, parse_masters};
//!
//! struct Square;
//!
//! impl Executor for Square {
//!     async fn run(&self, task: LeasedTask, _context: TaskContext) -> Outcome {
//!         let payload = task.payload.as_ref().map_or("null", |payload| payload.get());
//!         match payload.parse::<i64>() {
//!             Ok(number) => Outcome::succeeded(&(number * number)),
//!             Err(error) => Outcome::failed_for_good("payload", &error.to_string()),
//!         }
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(&parse_masters("127.0.0.1:7101")?)?;
//! let config = WorkerConfig::new(Register {
//!     name: "squares-1".to_owned(),
//!     queues: vec!["default".to_owned()],
//!     kinds: vec!["square".to_owned()],
//!     slots: 4,
//!     labels: Default::default(),
//!     resources: Default::default(),
//! });
//! let shutdown = Shutdown::new();
//! worker::run(client, config, Square, shutdown).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The server uses the same types, so the two cannot diverge. This crate knows nothing of consensus, of the log or of
//! the table; the log has types of its own.

#![forbid(unsafe_code)]

pub mod client;
pub mod error;
pub mod json_text;
pub mod output_tail;
pub mod wire;
pub mod worker;

pub use client::{BackupDownload, Client, ClientOptions, EventStream, parse_masters};
pub use error::{Error, Tried};
pub use worker::{Executor, Outcome, Shutdown, StopReason, TaskContext, WorkerConfig, WorkerError};
