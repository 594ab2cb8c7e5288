//! Fault: SIGSTOP of a master or a worker. Healed by SIGCONT.

use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt;

use crate::faults::Fault;
use crate::plan::{PauseTarget, Roles};
use crate::testbed::Testbed;

/// A paused process.
pub struct Pause {
    master: Option<u64>,
    worker: usize,
}

impl Pause {
    /// Creates the fault for this process, chosen by its current role.
    pub fn new(sleeper: PauseTarget, roles: &Roles) -> Self {
        let master = match sleeper {
            PauseTarget::Leader => Some(roles.leader),
            PauseTarget::Follower => Some(roles.followers[0]),
            PauseTarget::Worker => None,
        };
        Self { master, worker: 0 }
    }
}

#[async_trait(?Send)]
impl Fault for Pause {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        match self.master {
            Some(master) => testbed.drill.cluster.stop(master),
            None => {
                let count = testbed.drill.cluster.worker_count();
                self.worker = testbed.drill.random.random_range(0..count);
                testbed.drill.cluster.worker_process(self.worker).stop();
            }
        }
        Ok(())
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let cluster = &mut testbed.drill.cluster;
        let process = match self.master {
            Some(master) => cluster.node(master),
            None => cluster.worker_process(self.worker),
        };
        let proof = format!("{} is stopped: process state T", process.name);
        Ok((process.kernel_state() == Some('T')).then_some(proof))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        match self.master {
            Some(master) => testbed.drill.cluster.cont(master),
            None => testbed.drill.cluster.worker_process(self.worker).cont(),
        }
        Ok(())
    }
}
