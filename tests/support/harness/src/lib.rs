//! Real clusters for tests and fault drills: real processes, real disks, real sockets.
//!
//! Everything here uses only the program's public interface: its command line and its HTTP interface. It uses no crate
//! of the product, so it notices every change of the interface that a user would notice.
//!
//! Invariants:
//! - Nothing outlives its owner. Every process is killed when its handle is dropped, and by the kernel when the thread
//!   that started it ends; what those processes started in turn is found by a mark in its environment.
//! - Nothing waits for a fixed time. Every wait is for a condition, with a deadline that says what did not happen.
//! - Evidence stays after a failure: on a panic the directories are kept, and the end of every log is printed.
//!
//! A condition that is not met by its deadline is a panic, because this is a crate for tests.

mod checks;
pub mod cluster;
mod faults;
pub mod history;
pub mod http;
mod load;
mod processes;
pub mod raw_http;
pub mod wait;
mod workers;

pub use checks::acknowledged_jobs::CheckResult;
pub use checks::digests::equal_digests;
pub use checks::exposition::Exposition;
pub use checks::{acknowledged_jobs, schedule_ticks};
pub use cluster::{Cluster, Options};
pub use faults::fake_clock::FakeClocks;
pub use faults::small_disk::SmallDisk;
pub use faults::strace;
pub use history::HistoryWriter;
pub use http::{Api, Reply};
pub use load::mixed_workload::Workload;
pub use load::submissions::{Acked, Load, LoadOptions, submit_until};
pub use processes::command::{Cli, Ran};
pub use processes::process::Process;
pub use processes::program::Program;
pub use processes::{addresses, addresses::NodeAddress, binary, process};
pub use raw_http::{RawReply, RawRequest};
pub use wait::{eventually, until};
pub use workers::fake_worker::{FakeWorker, Lease};
pub use workers::fake_workers::FakeWorkers;
pub use workers::{fake_worker, fake_workers};
