//! SIGKILL of masters and workers; healed by a start with the same command.

use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use async_trait::async_trait;
use rand::seq::SliceRandom;

use crate::faults::Fault;
use crate::ground::Ground;
use crate::plan::{Roles, Victims};

/// See the module.
pub struct Kill {
    victims: Victims,
    leader: u64,
    masters: Vec<u64>,
    workers: Vec<usize>,
}

impl Kill {
    /// Of these, by who they are now.
    pub fn new(victims: Victims, roles: &Roles) -> Self {
        let masters = match victims {
            Victims::Leader => vec![roles.leader],
            Victims::Follower => vec![roles.followers[0]],
            Victims::TwoMasters | Victims::AllMasters | Victims::Everything => roles.all(),
            Victims::Workers => Vec::new(),
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
    async fn inject(&mut self, ground: &mut Ground, _: Duration) -> anyhow::Result<()> {
        if self.victims == Victims::TwoMasters {
            self.masters.shuffle(&mut ground.drill.random);
            self.masters.truncate(2);
        }
        if matches!(self.victims, Victims::Workers | Victims::Everything) {
            self.workers = (0..ground.drill.cluster.worker_count()).collect();
        }
        for master in &self.masters {
            ground.drill.cluster.kill9(*master);
        }
        for worker in &self.workers {
            ground.drill.cluster.worker_process(*worker).kill9();
        }
        Ok(())
    }

    async fn proof(&mut self, ground: &mut Ground) -> anyhow::Result<Option<String>> {
        let cluster = &mut ground.drill.cluster;
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
        let mut told = Vec::new();
        if !self.masters.is_empty() {
            let masters = &self.masters;
            told.push(format!(
                "masters {masters:?} ended by signal 9 and refuse connections"
            ));
        }
        if !self.workers.is_empty() {
            told.push(format!("{} workers ended by signal 9", self.workers.len()));
        }
        if self.victims == Victims::Leader
            && let Some((term, leader)) = cluster.look().await
            && leader != self.leader
        {
            told.push(format!("master {leader} leads in term {term}"));
        }
        Ok(Some(told.join("; ")))
    }

    async fn heal(&mut self, ground: &mut Ground) -> anyhow::Result<()> {
        for master in &self.masters {
            ground.drill.cluster.restart(*master);
        }
        for worker in &self.workers {
            ground.drill.cluster.restart_worker(*worker);
        }
        Ok(())
    }
}
