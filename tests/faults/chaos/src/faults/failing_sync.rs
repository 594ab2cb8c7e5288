//! Fault: a sync of one master's disk fails with EIO, injected by strace. The master must exit, and is started again.

use std::time::Duration;

use async_trait::async_trait;
use triarch_harness::strace::Tracer;

use crate::faults::Fault;
use crate::testbed::Testbed;

/// Maximum time for the master, under load, to meet the failing sync and to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A failing sync.
pub struct FailingSync {
    master: u64,
    tracer: Option<Tracer>,
}

impl FailingSync {
    /// Creates the fault for this master.
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
        // A master that continues after a failed sync violates a guarantee. The end of its log is shown.
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
