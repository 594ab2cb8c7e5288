//! Backups: one streamed out of a cluster, and one taken in by a new one, part by part.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use tokio::time::timeout;
use url::Url;

use super::call::Call;
use super::handle::Client;
use super::retry::StreamPolicy;
use super::text::root_cause;
use crate::error::Error;
use crate::wire::{RestoreProgress, RestoreQuery};

/// How long a master may take to begin; it may wait ten seconds itself, to catch up.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// A master that sends nothing for so long is taken for dead.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before all masters are tried again.
const ROUND_DELAY: Duration = Duration::from_millis(200);
/// How long a cluster may take with one part; with the last it reads the whole table.
const RESTORE_PART_TIMEOUT: Duration = Duration::from_secs(300);

/// A backup on its way here.
#[derive(Debug)]
pub struct BackupDownload {
    master: Url,
    response: reqwest::Response,
}

impl BackupDownload {
    /// The next bytes, or `None` when there are no more; whether they make a whole backup is seen in them.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let broken = |message: String| Error::Protocol {
            master: self.master.clone(),
            message: format!("the backup broke off: {message}"),
        };
        match timeout(READ_TIMEOUT, self.response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(broken(root_cause(&error))),
            Err(_) => Err(broken(format!("nothing came for {READ_TIMEOUT:?}"))),
        }
    }
}

impl Client {
    /// Begins a backup at the first master that gives one.
    pub async fn backup(&self) -> Result<BackupDownload, Error> {
        let options = &self.inner.options;
        let policy = StreamPolicy {
            deadline: options.deadline,
            unreachable_deadline: options.unreachable_deadline,
            open_timeout: OPEN_TIMEOUT,
            round_delay: ROUND_DELAY,
            round_delay_max: ROUND_DELAY,
        };
        let request = |master: &Url| {
            let url = Call::get(&["v1", "cluster", "backup"]).url(master)?;
            Ok(self.inner.http.get(url))
        };
        let first = self.inner.masters.first();
        let (master, response) = self.open_stream(first, policy, request, |_| ()).await?;
        Ok(BackupDownload { master, response })
    }

    /// Hands a new, empty cluster one part of the table that a backup holds. It may be handed in again.
    pub async fn restore_part(
        &self,
        part: &RestoreQuery,
        bytes: Bytes,
    ) -> Result<RestoreProgress, Error> {
        let call = Call::new(Method::POST, &["v1", "cluster", "restore"]).query(part)?;
        self.call(call.bytes(bytes).with_hold(RESTORE_PART_TIMEOUT))
            .await
    }
}
