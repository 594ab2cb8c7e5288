//! Benchmark: `triarch bench` measures a running cluster from end to end.
//!
//! Every run has a queue and a task kind of its own, so that it touches no other work and no other worker touches it.
//! It verifies its own work: a run whose results are not exactly its tasks fails, however fast it was. It also cleans
//! up when it is interrupted: its workers leave, and its jobs are forgotten.
//!
//! It starts no cluster and compares with no other product; `scripts/bench.sh` does.

mod args;
mod arrivals;
mod bench_run;
mod cleanup;
mod command;
mod exec;
mod idle;
mod latency;
mod lifecycle;
mod mixed;
mod mode;
mod noop_workers;
mod recorder;
mod report;
mod round_trip;
mod server_metrics;
mod settings;
mod submission;

pub use args::BenchArgs;
