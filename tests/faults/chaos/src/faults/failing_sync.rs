//! A sync of one master's disk fails with EIO, by strace; the master must end, and is started again.

use std::time::Duration;

use async_trait::async_trait;
use triarch_harness::strace::Tracer;

use crate::faults::Fault;
use crate::ground::Ground;

/// For the master to meet the failing sync, under load, and to end.
const ENDS: Duration = Duration::from_secs(30);

/// See the module.
pub struct FailingSync {
    master: u64,
    tracer: Option<Tracer>,
}

impl FailingSync {
    /// Of this master.
    pub fn new(master: u64) -> Self {
        Self {
            master,
            tracer: None,
        }
    }
}

#[async_trait(?Send)]
impl Fault for FailingSync {
    async fn inject(&mut self, ground: &mut Ground, _: Duration) -> anyhow::Result<()> {
        let options = [
            "-e",
            "trace=fdatasync,fsync",
            "-e",
            "inject=fdatasync,fsync:error=EIO:when=3+",
        ];
        self.tracer = Some(Tracer::attach(&ground.drill.cluster, self.master, &options).await);
        Ok(())
    }

    async fn proof(&mut self, ground: &mut Ground) -> anyhow::Result<Option<String>> {
        let process = ground.drill.cluster.node(self.master);
        let Some(status) = process.ended() else {
            return Ok(None);
        };
        let said = process.log().contains("cannot go on");
        let shown = said && status.code().is_some_and(|code| code != 0);
        let told = format!("master {} met EIO and ended: {status}", self.master);
        Ok(shown.then_some(told))
    }

    async fn heal(&mut self, ground: &mut Ground) -> anyhow::Result<()> {
        // One that goes on after a failed sync is a finding, and its last words are shown.
        ground.drill.cluster.node(self.master).wait(ENDS).await;
        drop(self.tracer.take());
        ground.drill.cluster.restart(self.master);
        Ok(())
    }
}
