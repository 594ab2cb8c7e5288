//! Backups: one streamed out of a cluster, and one restored into a new one, part by part.

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
use crate::wire::{ReadQuery, RestoreProgress, RestoreQuery};

/// Maximum time until a master begins. It may itself wait ten seconds to catch up.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// A master that sends nothing for this long is considered dead.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before all masters are tried again.
const ROUND_DELAY: Duration = Duration::from_millis(200);
/// Maximum time for one part: with the last one the cluster reads the whole table.
const RESTORE_PART_TIMEOUT: Duration = Duration::from_secs(300);

/// A backup that is being downloaded.
#[derive(Debug)]
pub struct BackupDownload {
    master: Url,
    response: reqwest::Response,
}

impl BackupDownload {
    /// Returns the next bytes, or `None` at the end. The bytes themselves show whether the backup is complete.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let broken = |message: String| Error::Protocol {
            master: self.master.clone(),
            message: format!("the backup was interrupted: {message}"),
        };
        match timeout(READ_TIMEOUT, self.response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(broken(root_cause(&error))),
            Err(_) => Err(broken(format!("no data arrived for {READ_TIMEOUT:?}"))),
        }
    }
}

impl Client {
    /// Begins a backup at the first master that starts one.
    pub async fn backup(&self) -> Result<BackupDownload, Error> {
        self.backup_with(&ReadQuery::default()).await
    }

    /// Begins a backup at the first master that starts one. A stale one needs no majority, and holds what that master has.
    pub async fn backup_with(&self, query: &ReadQuery) -> Result<BackupDownload, Error> {
        let options = &self.inner.options;
        let policy = StreamPolicy {
            deadline: options.deadline,
            unreachable_deadline: options.unreachable_deadline,
            open_timeout: OPEN_TIMEOUT,
            round_delay: ROUND_DELAY,
            round_delay_max: ROUND_DELAY,
        };
        let request = |master: &Url| {
            let call = Call::get(&["v1", "cluster", "backup"]).query(query)?;
            let url = call.url(master)?;
            Ok(self.inner.http.get(url))
        };
        let first = self.inner.masters.first();
        let (master, response) = self.open_stream(first, policy, request, |_| ()).await?;
        Ok(BackupDownload { master, response })
    }

    /// Sends a new, empty cluster one part of the table from a backup. Repeating it is safe.
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
