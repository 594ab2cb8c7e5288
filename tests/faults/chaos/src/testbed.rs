//! The testbed of a drill: a cluster under load whose network, disks and clocks can be made to fail.

pub mod disk_image;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use rand::seq::SliceRandom;
use reqwest::Method;
use triarch_harness::{Exposition, FakeClocks, Options, until};

use crate::LoadArgs;
use crate::drill::Drill;
use crate::net::{Net, NetworkKind, namespaces};
use crate::plan::{Plan, Roles};
use disk_image::DiskImage;

/// Number of masters that may join, in addition to the three.
const SPARE_MASTERS: u64 = 8;
/// Maximum time for a corrected wall clock to be measured as right.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Options of the cluster that receives the faults.
#[derive(Debug, Clone, Args)]
pub struct TestbedArgs {
    /// Network between the masters [default: namespaces where possible]
    #[arg(long, value_enum, value_name = "KIND")]
    pub network: Option<NetworkKind>,
    /// Time without a heartbeat after which a worker is lost
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(500..=600_000))]
    pub lease_ms: u64,
}

/// Requirements of a scenario on the testbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requirement {
    /// Network links that can be cut.
    Cuts,
    /// Network links that can delay messages.
    Proxies,
    /// Network links that can lose packets.
    Namespaces,
    /// A separate disk for each master.
    Disks,
    /// A separate wall clock for each master.
    FakeClocks,
    /// The program strace.
    Strace,
}

/// A cluster under load, with the means to inject faults. Fields are dropped in the order in which they are declared.
pub struct Testbed {
    /// The cluster and its load.
    pub drill: Drill,
    /// The network between the masters.
    pub net: Net,
    disks: Vec<DiskImage>,
    fake_clocks: Option<FakeClocks>,
    spare: u64,
    _dir: tempfile::TempDir,
}

/// Number of syncs of a log and their total time, as the master measured them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Syncs {
    pub count: f64,
    pub seconds: f64,
}

impl Plan {
    /// Returns the requirements of a fault.
    pub fn needs(self) -> Option<Requirement> {
        match self {
            Plan::Cut(_) => Some(Requirement::Cuts),
            Plan::Delay(_) | Plan::PartialNetwork(_) => Some(Requirement::Proxies),
            Plan::Loss(_) => Some(Requirement::Namespaces),
            Plan::FullDisk(_) | Plan::PowerCut(_) => Some(Requirement::Disks),
            Plan::ClockJump(_) => Some(Requirement::FakeClocks),
            Plan::SlowDisk(_) | Plan::SlowMajority | Plan::FailingSync(_) => {
                Some(Requirement::Strace)
            }
            Plan::Kill(_)
            | Plan::Pause(_)
            | Plan::Restart(_)
            | Plan::Descriptors(_)
            | Plan::Membership
            | Plan::HandOver => None,
        }
    }
}

/// Returns the reason why this machine does not meet the requirements, if it does not.
pub fn obstacle(need: Requirement, network: NetworkKind) -> Option<String> {
    match need {
        Requirement::Cuts => {
            (network == NetworkKind::Plain).then(|| "a plain network cannot be cut".to_owned())
        }
        Requirement::Proxies => {
            (network != NetworkKind::Proxies).then(|| "it needs --network wires".to_owned())
        }
        Requirement::Namespaces if network != NetworkKind::Namespaces => {
            Some("losses need --network namespaces, which needs root and iptables".to_owned())
        }
        Requirement::Namespaces => namespaces::obstacle(),
        Requirement::Disks => disk_image::obstacle(),
        Requirement::FakeClocks => {
            let missing = FakeClocks::within(Path::new("/nonexistent")).is_none();
            missing.then(|| "libfaketime is not installed (Debian package faketime)".to_owned())
        }
        Requirement::Strace => {
            let found = std::process::Command::new("strace").arg("-V").output();
            found
                .is_err()
                .then(|| "strace is not installed (Debian package strace)".to_owned())
        }
    }
}

impl TestbedArgs {
    /// Returns the network to use if the options name none.
    pub fn network(&self, needs: &BTreeSet<Requirement>) -> NetworkKind {
        if let Some(kind) = self.network {
            return kind;
        }
        let proxies = needs.contains(&Requirement::Proxies);
        let cut = needs.contains(&Requirement::Cuts) || needs.contains(&Requirement::Namespaces);
        match (proxies, cut) {
            (false, false) => NetworkKind::Plain,
            (true, _) => NetworkKind::Proxies,
            (false, true) if namespaces::obstacle().is_none() => NetworkKind::Namespaces,
            (false, true) => NetworkKind::Proxies,
        }
    }
}

impl Testbed {
    /// Starts a cluster under load that meets the requirements.
    pub async fn make(
        args: &TestbedArgs,
        load: &LoadArgs,
        network: NetworkKind,
        needs: &BTreeSet<Requirement>,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("triarch-testbed-")
            .tempdir()?;
        let disks = if needs.contains(&Requirement::Disks) {
            let make = |id| DiskImage::make(dir.path(), &format!("disk-{id}"));
            (1..=3).map(make).collect::<anyhow::Result<Vec<_>>>()?
        } else {
            Vec::new()
        };
        let fake_clocks = if needs.contains(&Requirement::FakeClocks) {
            Some(FakeClocks::within(dir.path()).context("libfaketime is not installed")?)
        } else {
            None
        };
        let net = Net::make(network, 3 + SPARE_MASTERS).await?;
        let options = Options {
            data_dirs: disks.iter().map(DiskImage::data_dir).collect(),
            fake_clocks: fake_clocks.clone(),
            addresses: net.addresses(),
            lease_ms: args.lease_ms,
            ..Options::default()
        };
        println!("masters meet by a network of kind: {}", net.name());
        let drill = Drill::begin_with(load, options, 3).await;
        Ok(Self {
            drill,
            net,
            disks,
            fake_clocks,
            spare: SPARE_MASTERS,
            _dir: dir,
        })
    }

    /// Returns the roles of the first three masters, which must all be ready.
    pub async fn roles(&mut self) -> Roles {
        let leader = self.drill.cluster.wait_ready().await;
        let mut followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        followers.shuffle(&mut self.drill.random);
        Roles { leader, followers }
    }

    /// Returns the disk of a master.
    pub fn disk(&mut self, master: u64) -> anyhow::Result<&mut DiskImage> {
        let disk = self.disks.get_mut(master as usize - 1);
        disk.with_context(|| format!("master {master} has no disk of its own"))
    }

    /// Returns the wall clocks of the masters.
    pub fn fake_clocks(&self) -> anyhow::Result<&FakeClocks> {
        self.fake_clocks
            .as_ref()
            .context("the masters go by the machine's clock")
    }

    /// Returns the syncs that a master has measured so far, or `None` if it does not answer.
    pub async fn syncs(&self, master: u64) -> Option<Syncs> {
        let api = self.drill.cluster.api(master);
        let call = api
            .call(Method::GET, "/metrics")
            .timeout(Duration::from_secs(2));
        let exposition = Exposition::read(&call.send().await.ok()?.text).ok()?;
        Some(Syncs {
            count: exposition.sum("triarch_log_sync_seconds_count", &[])?,
            seconds: exposition.sum("triarch_log_sync_seconds_sum", &[])?,
        })
    }

    /// Returns whether one more master may join.
    pub fn has_spare(&self) -> bool {
        self.spare > 0
    }

    /// Adds one more master.
    pub fn take_spare(&mut self) -> anyhow::Result<()> {
        ensure!(self.spare > 0, "no place is left for another master");
        self.spare -= 1;
        Ok(())
    }

    /// Waits until the cluster has recovered: the three masters run, agree on a leader, have the whole log, and measure
    /// that their clocks are right.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        for master in 1..=3 {
            if let Some(status) = self.drill.cluster.node(master).ended() {
                bail!(
                    "master {master} ended by itself: {status}\n{}",
                    self.drill.cluster.last_words()
                );
            }
        }
        self.drill.cluster.wait_ready().await;
        for master in 1..=3 {
            self.drill.cluster.wait_caught_up(master).await;
        }
        if self.fake_clocks.is_some() {
            for master in 1..=3 {
                self.wait_clock_right(master).await;
            }
        }
        Ok(())
    }

    async fn wait_clock_right(&self, master: u64) {
        let api = self.drill.cluster.api(master);
        let what = format!("master {master} finds its clock right");
        until(WAIT_TIMEOUT, what, async || {
            let status = api
                .call(Method::GET, "/v1/cluster?consistency=stale")
                .send();
            let Ok(status) = status.await else {
                return false;
            };
            let found_ms = status.json()["clock_ahead_ms"].as_i64();
            found_ms.is_some_and(|found_ms| found_ms.abs() <= 1_500)
        })
        .await;
    }
}
