//! Background tasks: every loop that runs for as long as its node, other than the batcher's and the read barrier's.
//!
//! Each is a struct or a function with a `run`, started by the node and ended when it stops.

pub(crate) mod acknowledgement_recorder;
pub(crate) mod append_probe;
pub(crate) mod automatic_snapshot;
pub(crate) mod clock_sync;
pub(crate) mod commit_monitor;
pub(crate) mod disk_pressure;
pub(crate) mod divergence_check;
pub(crate) mod fatal_error_monitor;
pub(crate) mod founding_level;
pub(crate) mod leader_failure_detector;
pub(crate) mod leadership_observer;
pub(crate) mod membership_reconciler;
pub(crate) mod readiness_monitor;
