//! Fault: every sync of the disk of one master, or of a majority, takes long. strace delays the system call.

use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt;
use triarch_harness::strace::Tracer;

use crate::faults::Fault;
use crate::testbed::{Syncs, Testbed};

/// Additional time of each sync on one slow disk, in ms. A sync of a fast disk takes less than 1 ms.
const SLOW_MS: RangeInclusive<u64> = 30..=300;
/// Additional time of each sync if the disks of a majority are slow, in ms.
const VERY_SLOW_MS: RangeInclusive<u64> = 400..=1_500;

/// A slow disk.
pub struct SlowDisk {
    slow: Vec<Slow>,
    range_ms: RangeInclusive<u64>,
}

/// One slow disk.
struct Slow {
    master: u64,
    slow_ms: u64,
    before: Syncs,
    tracer: Option<Tracer>,
}

impl SlowDisk {
    /// Creates the fault for this master.
    pub fn new(master: u64) -> Self {
        Self::of(&[master], SLOW_MS)
    }

    /// Of these, which are a majority.
    pub fn of_majority(masters: &[u64]) -> Self {
        Self::of(masters, VERY_SLOW_MS)
    }

    fn of(masters: &[u64], range_ms: RangeInclusive<u64>) -> Self {
        let slow = masters.iter().map(|master| Slow {
            master: *master,
            slow_ms: 0,
            before: Syncs::default(),
            tracer: None,
        });
        Self {
            slow: slow.collect(),
            range_ms,
        }
    }
}

#[async_trait(?Send)]
impl Fault for SlowDisk {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        for slow in &mut self.slow {
            slow.slow_ms = testbed.drill.random.random_range(self.range_ms.clone());
            let inject = format!("inject=fdatasync,fsync:delay_exit={}000", slow.slow_ms);
            let options = ["-e", "trace=fdatasync,fsync", "-e", &inject];
            let cluster = &testbed.drill.cluster;
            slow.tracer = Some(Tracer::attach(cluster, slow.master, &options).await);
            slow.before = testbed.syncs(slow.master).await.unwrap_or_default();
        }
        Ok(())
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let mut proofs = Vec::new();
        for slow in &self.slow {
            let Some(now) = testbed.syncs(slow.master).await else {
                return Ok(None);
            };
            let count = now.count - slow.before.count;
            let mean_ms = (now.seconds - slow.before.seconds) * 1_000.0 / count;
            let (master, slow_ms) = (slow.master, slow.slow_ms);
            // The first slow sync may have begun before the injection.
            if count < 2.0 || mean_ms < slow_ms as f64 / 2.0 {
                return Ok(None);
            }
            proofs.push(format!(
                "master {master}: syncs held for {slow_ms} ms; it measured {mean_ms:.0} ms over {count}"
            ));
        }
        Ok(Some(proofs.join("; ")))
    }

    async fn heal(&mut self, _: &mut Testbed) -> anyhow::Result<()> {
        for slow in &mut self.slow {
            if let Some(tracer) = slow.tracer.take() {
                tracer.finish().await;
            }
        }
        Ok(())
    }
}
