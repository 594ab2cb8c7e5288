//! The faults, one kind per file. Each is injected, verified and healed.
//!
//! Evidence of a fault comes from the kernel, the network or the master itself. The request to inject the fault is no
//! evidence. A fault without evidence does not count as survived.

use std::time::Duration;

use async_trait::async_trait;

use crate::testbed::Testbed;

pub mod clock_jump;
pub mod cut;
pub mod delay;
pub mod descriptors;
pub mod failing_sync;
pub mod full_disk;
pub mod hand_over;
pub mod kill;
pub mod loss;
pub mod membership;
pub mod partial_network;
pub mod pause;
pub mod power_cut;
pub mod restart;
pub mod slow_disk;

/// One fault. It is injected once and healed once.
#[async_trait(?Send)]
pub trait Fault {
    /// Injects the fault. `hold` is the time for which it will last.
    async fn inject(&mut self, testbed: &mut Testbed, hold: Duration) -> anyhow::Result<()>;

    /// Returns evidence that the fault takes effect, once there is any. Polled from the injection on.
    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>>;

    /// Heals the fault. The caller waits until the cluster has recovered.
    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()>;
}
