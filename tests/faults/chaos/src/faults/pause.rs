//! SIGSTOP of a master or a worker; healed by SIGCONT.

use std::time::Duration;

use async_trait::async_trait;
use rand::Rng;

use crate::faults::Fault;
use crate::ground::Ground;
use crate::plan::{Roles, Sleeper};

/// See the module.
pub struct Pause {
    master: Option<u64>,
    worker: usize,
}

impl Pause {
    /// Of this one, by who it is now.
    pub fn new(sleeper: Sleeper, roles: &Roles) -> Self {
        let master = match sleeper {
            Sleeper::Leader => Some(roles.leader),
            Sleeper::Follower => Some(roles.followers[0]),
            Sleeper::Worker => None,
        };
        Self { master, worker: 0 }
    }
}

#[async_trait(?Send)]
impl Fault for Pause {
    async fn inject(&mut self, ground: &mut Ground, _: Duration) -> anyhow::Result<()> {
        match self.master {
            Some(master) => ground.drill.cluster.stop(master),
            None => {
                let count = ground.drill.cluster.worker_count();
                self.worker = ground.drill.random.random_range(0..count);
                ground.drill.cluster.worker_process(self.worker).stop();
            }
        }
        Ok(())
    }

    async fn proof(&mut self, ground: &mut Ground) -> anyhow::Result<Option<String>> {
        let cluster = &mut ground.drill.cluster;
        let process = match self.master {
            Some(master) => cluster.node(master),
            None => cluster.worker_process(self.worker),
        };
        let told = format!("{} is stopped: process state T", process.name);
        Ok((process.kernel_state() == Some('T')).then_some(told))
    }

    async fn heal(&mut self, ground: &mut Ground) -> anyhow::Result<()> {
        match self.master {
            Some(master) => ground.drill.cluster.cont(master),
            None => ground.drill.cluster.worker_process(self.worker).cont(),
        }
        Ok(())
    }
}
