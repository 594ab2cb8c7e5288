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

pub mod addresses;
pub mod binary;
pub mod check;
pub mod cluster;
pub mod command;
pub mod digests;
pub mod exposition;
pub mod fake_clock;
pub mod fake_worker;
pub mod fake_workers;
pub mod history;
pub mod http;
pub mod load;
pub mod misbehaving_worker;
pub mod process;
pub mod small_disk;
pub mod strace;
pub mod ticks;
pub mod wait;
pub mod workload;

pub use addresses::NodeAddress;
pub use check::CheckResult;
pub use cluster::{Cluster, Options};
pub use command::{Cli, Ran};
pub use digests::equal_digests;
pub use exposition::Exposition;
pub use fake_clock::FakeClocks;
pub use fake_worker::{FakeWorker, Lease};
pub use fake_workers::FakeWorkers;
pub use history::HistoryWriter;
pub use http::{Api, Reply};
pub use load::{Acked, Load, LoadOptions};
pub use process::Process;
pub use small_disk::SmallDisk;
pub use wait::{eventually, until};
pub use workload::Workload;
