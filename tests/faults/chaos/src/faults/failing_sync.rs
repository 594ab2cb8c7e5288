//! A sync of one master's disk fails with EIO, by strace; the master must end, and is started again.

use std::time::Duration;

use async_trait::async_trait;
use triarch_harness::strace::Tracer;

use crate::faults::Fault;
use crate::testbed::Testbed;

/// For the master to meet the failing sync, under load, and to end.
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

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
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        let options = [
            "-e",
            "trace=fdatasync,fsync",
            "-e",
            "inject=fdatasync,fsync:error=EIO:when=3+",
        ];
        self.tracer = Some(Tracer::attach(&testbed.drill.cluster, self.master, &options).await);
        Ok(())
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let process = testbed.drill.cluster.node(self.master);
        let Some(status) = process.ended() else {
            return Ok(None);
        };
        let said = process.log().contains("cannot go on");
        let shown = said && status.code().is_some_and(|code| code != 0);
        let proof = format!("master {} met EIO and ended: {status}", self.master);
        Ok(shown.then_some(proof))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        // One that goes on after a failed sync is a finding, and its last words are shown.
        testbed
            .drill
            .cluster
            .node(self.master)
            .wait(EXIT_TIMEOUT)
            .await;
        drop(self.tracer.take());
        testbed.drill.cluster.restart(self.master);
        Ok(())
    }
}
