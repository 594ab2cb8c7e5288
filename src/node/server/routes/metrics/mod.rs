//! `GET /metrics`: counters, gauges and histograms of this node, in the formats of Prometheus.
//!
//! # Invariants
//!
//! - Metrics are always those of the node that is asked. Nothing is forwarded and no other node is waited for, so the
//!   route also works without a leader.
//! - A scrape reads counters that are maintained anyway. It walks over no tasks, holds the table's lock only to copy
//!   some numbers of each queue, and measures the disk on a thread of its own.
//!
//! Every metric is described in `docs/operate/metrics.md`; a test compares the page with the exposition.

mod consensus;
mod families;
mod handler;
mod http;
mod process;
mod table;

pub use handler::routes;
