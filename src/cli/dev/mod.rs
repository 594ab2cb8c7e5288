//! Development cluster: `triarch dev` runs masters and workers on this machine, for trying things out.
//!
//! Masters and workers are separate processes of this binary, so that users can kill one and observe the effect. A dead
//! process is reported and *not* restarted; the command that restarts it is printed.
//!
//! Only counts, ports and a directory can be configured. A permanent cluster is started with `triarch server` and
//! `triarch worker`.
//!
//! # Invariants
//!
//! - No child outlives this process, however it ends, even by `kill -9`.

mod banner;
mod child;
mod layout;
mod options;
mod readiness;
mod role;
mod supervisor;

pub use options::DevOptions;
pub use supervisor::run;
