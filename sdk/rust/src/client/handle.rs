//! The client handle: connections and the list of masters, shared by its clones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use url::Url;

use super::masters::Masters;
use super::options::ClientOptions;
use crate::error::Error;

/// Talks to a cluster. Cheap to clone; clones share connections and the memory of who leads.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) http: reqwest::Client,
    pub(super) masters: Masters,
    pub(super) options: ClientOptions,
    /// Attempts that failed and were followed by another.
    pub(super) retries: AtomicU64,
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
