//! Fault: every sync of one master's disk takes long. strace delays the system call.

use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt;
use triarch_harness::strace::Tracer;

use crate::faults::Fault;
use crate::testbed::{Syncs, Testbed};

/// Additional time of each sync, in ms. A sync of a fast disk takes less than 1 ms.
const SLOW_MS: std::ops::RangeInclusive<u64> = 30..=300;

/// A slow disk.
pub struct SlowDisk {
    master: u64,
    slow_ms: u64,
    before: Syncs,
    tracer: Option<Tracer>,
}

impl SlowDisk {
    /// Creates the fault for this master.
    pub fn new(master: u64) -> Self {
        Self {
            master,
            slow_ms: 0,
            before: Syncs::default(),
            tracer: None,
        }
    }
}

#[async_trait(?Send)]
impl Fault for SlowDisk {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        self.slow_ms = testbed.drill.random.random_range(SLOW_MS);
        let inject = format!("inject=fdatasync,fsync:delay_exit={}000", self.slow_ms);
        let options = ["-e", "trace=fdatasync,fsync", "-e", &inject];
        self.tracer = Some(Tracer::attach(&testbed.drill.cluster, self.master, &options).await);
        self.before = testbed.syncs(self.master).await.unwrap_or_default();
        Ok(())
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let Some(now) = testbed.syncs(self.master).await else {
            return Ok(None);
        };
        let count = now.count - self.before.count;
        let mean_ms = (now.seconds - self.before.seconds) * 1_000.0 / count;
        // The first slow sync may have begun before the injection.
        let shown = count >= 2.0 && mean_ms >= self.slow_ms as f64 / 2.0;
        let (master, slow_ms) = (self.master, self.slow_ms);
        Ok(shown.then(|| {
            format!(
                "master {master}: syncs held for {slow_ms} ms; it measured {mean_ms:.0} ms over {count}"
            )
        }))
    }

    async fn heal(&mut self, _: &mut Testbed) -> anyhow::Result<()> {
        if let Some(tracer) = self.tracer.take() {
            tracer.finish().await;
        }
        Ok(())
    }
}
