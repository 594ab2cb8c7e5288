//! A client that survives failures of masters.
//!
//! It remembers the leader and asks it first. It follows redirects, and tries the next master when one is down. It
//! repeats a call within a deadline when the cluster is electing, busy, or silent. Every change carries a request id
//! that stays the same over all attempts, so repeating a call never applies its change twice.
//!
//! It never reports an unknown outcome as a failure: [`Error::Timeout`] carries the request id for repeating the call.
//! It does not hide refusals ([`Error::Api`]).
//!
//! [`Error::Timeout`]: crate::Error::Timeout
//! [`Error::Api`]: crate::Error::Api

mod backup;
mod call;
mod cluster;
mod events;
mod handle;
mod jobs;
mod masters;
mod options;
mod retry;
mod schedules;
mod stream;
mod tasks;
mod text;
mod workers;

pub use backup::BackupDownload;
pub use events::EventStream;
pub use handle::Client;
pub use masters::parse_masters;
pub use options::ClientOptions;
