//! One master may open no more descriptors, by prlimit on the running process.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use reqwest::Method;

use crate::faults::Fault;
use crate::testbed::Testbed;

/// A master that can take a connection answers within this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// See the module.
pub struct Descriptors {
    master: u64,
    before: Option<libc::rlimit>,
    /// The lowest number that no descriptor had when the limit was set, and so the limit.
    open: u64,
    /// Failed attempts to accept a connection before the fault.
    errors_before: f64,
}

impl Descriptors {
    /// Of this master.
    pub fn new(master: u64) -> Self {
        Self {
            master,
            before: None,
            open: 0,
            errors_before: 0.0,
        }
    }

    /// Allows the master no descriptor beyond those it has. A new descriptor takes the lowest number that is free.
    fn tighten(&mut self, pid: u32) -> anyhow::Result<libc::rlimit> {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let numbers: BTreeSet<u64> = open
            .context("the master runs")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        let free = (0..).find(|number| !numbers.contains(number));
        self.open = free.unwrap_or(0);
        let now = Self::prlimit(pid, None)?;
        let limit = libc::rlimit {
            rlim_cur: self.open.min(now.rlim_max),
            ..now
        };
        Self::prlimit(pid, Some(limit))
    }

    /// Reads how often the master could not accept a connection for want of a descriptor.
    async fn accept_errors(&self, testbed: &Testbed) -> Option<f64> {
        let api = testbed.drill.cluster.api(self.master);
        let call = api.call(Method::GET, "/metrics").timeout(ANSWER_TIMEOUT);
        let metrics = call.send().await.ok()?.text;
        let sample = metrics
            .lines()
            .find_map(|line| line.strip_prefix("triarch_accept_errors_total "));
        sample?.parse().ok()
    }

    /// Sets the limit of a process, or leaves it as it is, and returns the one from before.
    fn prlimit(pid: u32, limit: Option<libc::rlimit>) -> anyhow::Result<libc::rlimit> {
        let mut before = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        let new = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the first pointer is null or to a limit that is read, the second to one that is written.
        let result = unsafe {
            libc::prlimit(
                pid as libc::pid_t,
                libc::RLIMIT_NOFILE,
                new,
                &raw mut before,
            )
        };
        let error = std::io::Error::last_os_error();
        ensure!(result == 0, "prlimit of process {pid}: {error}");
        Ok(before)
    }
}

#[async_trait(?Send)]
impl Fault for Descriptors {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        self.errors_before = self.accept_errors(testbed).await.unwrap_or(0.0);
        let pid = testbed.drill.cluster.pid(self.master);
        self.before = Some(self.tighten(pid)?);
        Ok(())
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        // Connections that have ended since made room for as many.
        self.tighten(testbed.drill.cluster.pid(self.master))?;
        let api = testbed.drill.cluster.api(self.master);
        let mut refused = 0;
        for _ in 0..3 {
            let call = api.call(Method::GET, "/healthz").timeout(ANSWER_TIMEOUT);
            refused += u32::from(call.send().await.is_err());
        }
        let (master, open) = (self.master, self.open);
        if refused > 0 {
            return Ok(Some(format!(
                "master {master}: no descriptor from number {open} on; {refused} of 3 connections went unanswered"
            )));
        }
        // The master closes idle connections for new ones, so it may answer all the same.
        let errors = self.accept_errors(testbed).await.unwrap_or(0.0);
        Ok((errors > self.errors_before).then(|| {
            let errors = errors - self.errors_before;
            format!("master {master}: no descriptor from number {open} on; {errors} attempts to accept a connection failed")
        }))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        if let Some(before) = self.before.take() {
            Self::prlimit(testbed.drill.cluster.pid(self.master), Some(before))?;
        }
        Ok(())
    }
}
