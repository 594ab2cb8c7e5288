//! The faults, one kind a file. Each is injected, shown to have taken effect, and healed.
//!
//! What shows it is read off the kernel, the network or the master itself, and never off the fact that it was asked for. A
//! fault that could not be shown does not count as survived.

use std::time::Duration;

use async_trait::async_trait;

use crate::testbed::Testbed;

pub mod clock_jump;
pub mod cut;
pub mod delay;
pub mod failing_sync;
pub mod full_disk;
pub mod hand_over;
pub mod kill;
pub mod loss;
pub mod membership;
pub mod pause;
pub mod power_cut;
pub mod restart;
pub mod slow_disk;

/// One fault. Injected once, healed once.
#[async_trait(?Send)]
pub trait Fault {
    /// Lets it happen. `hold` is how long it is going to last.
    async fn inject(&mut self, testbed: &mut Testbed, hold: Duration) -> anyhow::Result<()>;

    /// What shows that it takes effect, once something does. Asked again and again from its injection on.
    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>>;

    /// Undoes it. Whether the cluster is well again is for others to find out.
    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()>;
}
