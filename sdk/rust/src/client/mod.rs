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
mod jobs;
mod masters;
mod schedules;
mod stream;
mod tasks;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use url::Url;

use crate::error::Error;
use masters::Masters;

pub use backup::BackupDownload;
pub use events::EventStream;
pub use masters::parse_masters;

/// How patient a [`Client`] is.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// How long one call may take with all its tries.
    pub deadline: Duration,
    /// How long to go on while no master even accepts a connection. Shorter than `deadline`, so that a wrong address
    /// is told soon.
    pub unreachable_deadline: Duration,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long the first try waits for its answer (beyond what the cluster was asked to hold it); each further try
    /// after a silent one waits twice as long, so that a slow cluster is not made slower by repetition.
    pub answer_timeout: Duration,
    /// Longest answer that is read.
    pub answer_bytes_max: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            unreachable_deadline: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(3),
            answer_bytes_max: 256 << 20,
        }
    }
}

/// Talks to a cluster. Cheap to clone; clones share connections and the memory of who leads.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    masters: Masters,
    options: ClientOptions,
    /// Tries that came to nothing and were followed by another.
    retries: AtomicU64,
}

impl Client {
    /// A client of the cluster these masters belong to. One that can be reached is enough; more of them outlive more.
    pub fn new(masters: &[Url]) -> Result<Self, Error> {
        Self::with_options(masters, ClientOptions::default())
    }

    /// As [`Client::new`], with its own patience.
    pub fn with_options(masters: &[Url], options: ClientOptions) -> Result<Self, Error> {
        let masters = Masters::new(masters)?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("triarch-sdk/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(options.connect_timeout)
            // A master that restarts forgets its connections; those that idle are not worth the risk.
            .pool_idle_timeout(Duration::from_secs(15))
            .build()
            .map_err(|error| Error::Usage(format!("the HTTP client cannot be set up: {error}")))?;
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                masters,
                options,
                retries: AtomicU64::new(0),
            }),
        })
    }

    /// How patient it is.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// The masters it knows: those it was given, and those it learned of.
    pub fn masters(&self) -> Vec<Url> {
        self.inner.masters.all()
    }

    /// The master that answered last and is asked first; `None` when it has failed since.
    pub fn leader(&self) -> Option<Url> {
        self.inner.masters.preferred()
    }

    /// How often a call was tried again so far, over all clones: because a master was gone, or silent, or did not lead.
    pub fn retries(&self) -> u64 {
        self.inner.retries.load(Ordering::Relaxed)
    }

    /// A fresh request id, for calls that take one.
    pub fn new_request_id() -> String {
        uuid::Uuid::new_v4().to_string()
    }
}
