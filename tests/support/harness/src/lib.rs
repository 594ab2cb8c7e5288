//! Real clusters for tests and fault drills: real processes, real disks, real sockets.
//!
//! Everything here goes through the program's public interface (its command line and its HTTP interface) and names no
//! crate of the product, so a change of either that users would notice is noticed here too.
//!
//! Invariants:
//! - Nothing outlives its owner. Every process is killed when its handle is dropped, and by the kernel when the thread
//!   that started it ends; what those processes started in turn is found by a mark in its environment.
//! - Nothing waits for a fixed time. Every wait is for a condition, with a deadline that says what did not happen.
//! - What went wrong can be read afterwards: on a panic the directories stay, and the end of every log is printed.
//!
//! A condition that does not come about is a panic: this is a crate for tests.

mod checks;
pub mod cluster;
mod faults;
pub mod history;
pub mod http;
mod load;
mod processes;
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
pub use processes::{addresses, addresses::NodeAddress, binary, process};
pub use wait::{eventually, until};
pub use workers::fake_worker::{FakeWorker, Lease};
pub use workers::fake_workers::FakeWorkers;
pub use workers::{fake_worker, fake_workers};
