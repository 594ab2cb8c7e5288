//! Backups: one streamed out of a cluster, and one taken in by a new one, part by part.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use tokio::time::{Instant, timeout};
use url::Url;

use super::Client;
use super::call::{Call, jittered, words};
use crate::client::stream::{Refused, begin};
use crate::error::{Error, Tried};
use crate::wire::{RestoreProgress, RestoreQuery};

/// How long a master may take to begin; it may wait ten seconds itself, to catch up.
const BEGIN_MAX: Duration = Duration::from_secs(15);
/// A master that sends nothing for so long is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Pause before all masters are tried again.
const ROUND_WAIT: Duration = Duration::from_millis(200);
/// How long a cluster may take with one part; with the last it reads the whole table.
const PART_PATIENCE: Duration = Duration::from_secs(300);

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
        match timeout(SILENCE_MAX, self.response.chunk()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(broken(words(&error))),
            Err(_) => Err(broken(format!("nothing came for {SILENCE_MAX:?}"))),
        }
    }
}

impl Client {
    /// Begins a backup at the first master that gives one.
    pub async fn backup(&self) -> Result<BackupDownload, Error> {
        let begun = Instant::now();
        let options = &self.inner.options;
        let masters = &self.inner.masters;
        let (mut tried, mut reached): (Vec<Tried>, bool) = (Vec::new(), false);
        let mut master = masters.first();
        loop {
            for _ in 0..masters.count() {
                let message = match timeout(BEGIN_MAX, self.begin_backup(&master)).await {
                    Ok(Ok(response)) => return Ok(BackupDownload { master, response }),
                    Ok(Err(Refused::ForGood(error))) => return Err(error),
                    Ok(Err(Refused::NotNow(message))) => {
                        reached = true;
                        message
                    }
                    Ok(Err(Refused::Unreachable(message))) => message,
                    Err(_) => {
                        reached = true;
                        format!("no answer within {} ms", BEGIN_MAX.as_millis())
                    }
                };
                tried.retain(|one| one.master != master);
                tried.push(Tried {
                    master: master.clone(),
                    message,
                });
                master = masters.after(&master);
            }
            let limit = if reached {
                options.deadline
            } else {
                options.unreachable_deadline
            };
            if begun.elapsed() >= limit {
                return Err(Error::NoCluster { tried });
            }
            tokio::time::sleep(jittered(ROUND_WAIT)).await;
        }
    }

    async fn begin_backup(&self, master: &Url) -> Result<reqwest::Response, Refused> {
        let url = Call::get(&["v1", "cluster", "backup"]).url(master);
        let url = url.map_err(Refused::ForGood)?;
        begin(self.inner.http.get(url)).await
    }

    /// Hands a new, empty cluster one part of the table that a backup holds. It may be handed in again.
    pub async fn restore_part(
        &self,
        part: &RestoreQuery,
        bytes: Bytes,
    ) -> Result<RestoreProgress, Error> {
        let call = Call::new(Method::POST, &["v1", "cluster", "restore"]).query(part)?;
        self.call(call.bytes(bytes).held(PART_PATIENCE)).await
    }
}
