//! The session of one registration, from the cluster's answer until the worker leaves or is no longer known.
//!
//! Its parts run concurrently: the exchange (polls and reports), the heartbeats, the fence, and the sender of live
//! output. None of them waits for ever: every request has a deadline and is repeated. When a heartbeat finds a new
//! leader, or is answered again after a lapse, the session abandons a poll sent before that.

mod backoff;
mod exchange;
mod heartbeat;
mod lifecycle;
mod output_sender;
mod poll_pacing;
mod state;

pub(super) use state::{Session, SessionEnd};
