//! The client handle: connections and the list of masters, shared by its clones.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use url::Url;

use super::masters::Masters;
use super::options::ClientOptions;
use crate::error::Error;

/// A handle to a cluster. Cheap to clone; clones share connections and the known leader.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) http: reqwest::Client,
    pub(super) masters: Masters,
    pub(super) options: ClientOptions,
    /// Number of failed attempts that were followed by another.
    pub(super) retries: AtomicU64,
    /// Secrets of the workers that were registered by this client, by their ids.
    pub(super) worker_secrets: WorkerSecrets,
}

/// Secrets of workers. Never printed.
#[derive(Default)]
pub(super) struct WorkerSecrets(Mutex<BTreeMap<String, String>>);

impl WorkerSecrets {
    pub(super) fn insert(&self, worker: &str, secret: &str) {
        self.lock().insert(worker.to_owned(), secret.to_owned());
    }

    pub(super) fn get(&self, worker: &str) -> Option<String> {
        self.lock().get(worker).cloned()
    }

    pub(super) fn remove(&self, worker: &str) {
        self.lock().remove(worker);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        // No code that holds the lock can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for WorkerSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkerSecrets(…)")
    }
}

impl Client {
    /// Creates a client of the cluster of these masters. One that can be reached is enough; with more of them it
    /// survives more failures.
    pub fn new(masters: &[Url]) -> Result<Self, Error> {
        Self::with_options(masters, ClientOptions::default())
    }

    /// Creates a client with these limits. See [`Client::new`].
    pub fn with_options(masters: &[Url], options: ClientOptions) -> Result<Self, Error> {
        let masters = Masters::new(masters)?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("triarch-sdk/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(options.connect_timeout)
            // A restarted master has lost its connections, so idle ones are not kept for long.
            .pool_idle_timeout(Duration::from_secs(15))
            .build()
            .map_err(|error| Error::Usage(format!("the HTTP client cannot be created: {error}")))?;
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                masters,
                options,
                retries: AtomicU64::new(0),
                worker_secrets: WorkerSecrets::default(),
            }),
        })
    }

    /// Returns its limits.
    pub fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    /// Returns the masters it knows: those it was given, and those it learned of.
    pub fn masters(&self) -> Vec<Url> {
        self.inner.masters.all()
    }

    /// Returns the master that answered last and is asked first. `None` when it has failed since.
    pub fn leader(&self) -> Option<Url> {
        self.inner.masters.preferred()
    }

    /// Returns how often calls were repeated, over all clones, because a master was down, silent, or not the leader.
    pub fn retries(&self) -> u64 {
        self.inner.retries.load(Ordering::Relaxed)
    }

    /// Returns a fresh request id, for calls that take one.
    pub fn new_request_id() -> String {
        uuid::Uuid::new_v4().to_string()
    }
}
