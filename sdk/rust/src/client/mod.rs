//! A client that survives its masters.
//!
//! It remembers who leads and asks there first, follows redirects, goes on to the next master when one is down, and
//! asks again inside a deadline when the cluster is electing, busy, or silent. Every change carries a request id that
//! stays the same over all tries, so asking again never makes it happen twice.
//!
//! What it deliberately does not do: it never tells an unknown outcome as a failure ([`Error::Timeout`] carries the id
//! to ask again by), and it does not hide refusals ([`Error::Api`]).

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
