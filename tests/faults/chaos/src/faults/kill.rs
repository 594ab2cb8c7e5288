//! Fault: SIGKILL of masters and workers. Healed by a start with the same command.

use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use async_trait::async_trait;
use rand::seq::SliceRandom;

use crate::faults::Fault;
use crate::plan::{KillTarget, Roles};
use crate::testbed::Testbed;

/// A kill of processes.
pub struct Kill {
    victims: KillTarget,
    leader: u64,
    masters: Vec<u64>,
    workers: Vec<usize>,
}

impl Kill {
    /// Creates the fault for these processes, chosen by their current roles.
    pub fn new(victims: KillTarget, roles: &Roles) -> Self {
        let masters = match victims {
            KillTarget::Leader => vec![roles.leader],
            KillTarget::Follower => vec![roles.followers[0]],
            KillTarget::TwoMasters | KillTarget::AllMasters | KillTarget::Everything => roles.all(),
            KillTarget::Workers => Vec::new(),
        };
        Self {
            victims,
            leader: roles.leader,
            masters,
            workers: Vec::new(),
        }
    }
}

#[async_trait(?Send)]
impl Fault for Kill {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        if self.victims == KillTarget::TwoMasters {
            self.masters.shuffle(&mut testbed.drill.random);
            self.masters.truncate(2);
        }
        if matches!(self.victims, KillTarget::Workers | KillTarget::Everything) {
            self.workers = (0..testbed.drill.cluster.worker_count()).collect();
        }
        for master in &self.masters {
            testbed.drill.cluster.kill9(*master);
        }
        for worker in &self.workers {
            testbed.drill.cluster.worker_process(*worker).kill9();
        }
        Ok(())
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let cluster = &mut testbed.drill.cluster;
        for master in &self.masters {
            let ended = cluster.node(*master).ended();
            if ended.and_then(|status| status.signal()) != Some(libc::SIGKILL) {
                return Ok(None);
            }
            let connected = tokio::net::TcpStream::connect(cluster.addr(*master)).await;
            if !connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
                return Ok(None);
            }
        }
        for worker in &self.workers {
            let ended = cluster.worker_process(*worker).ended();
            if ended.and_then(|status| status.signal()) != Some(libc::SIGKILL) {
                return Ok(None);
            }
        }
        let mut proof = Vec::new();
        if !self.masters.is_empty() {
            let masters = &self.masters;
            proof.push(format!(
                "masters {masters:?} ended by signal 9 and refuse connections"
            ));
        }
        if !self.workers.is_empty() {
            proof.push(format!("{} workers ended by signal 9", self.workers.len()));
        }
        if self.victims == KillTarget::Leader
            && let Some((term, leader)) = cluster.observed_leader().await
            && leader != self.leader
        {
            proof.push(format!("master {leader} leads in term {term}"));
        }
        Ok(Some(proof.join("; ")))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        for master in &self.masters {
            testbed.drill.cluster.restart(*master);
        }
        for worker in &self.workers {
            testbed.drill.cluster.restart_worker(*worker);
        }
        Ok(())
    }
}
