//! A network between the masters on which small messages pass and large ones do not, old connections live and new ones do
//! not, or the other way round.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::faults::Fault;
use crate::net::proxies::Partial;
use crate::plan::{PartialShape, Roles};
use crate::testbed::Testbed;

/// See the module.
pub struct PartialNetwork {
    shape: PartialShape,
    roles: Roles,
}

impl PartialNetwork {
    /// Between these.
    pub fn new(shape: PartialShape, roles: &Roles) -> Self {
        Self {
            shape,
            roles: roles.clone(),
        }
    }
}

#[async_trait(?Send)]
impl Fault for PartialNetwork {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        let all = self.roles.all();
        let leader = [self.roles.leader];
        let (askers, partial) = match self.shape {
            PartialShape::LargeFromLeader => (&leader[..], Partial::LargeHeld),
            PartialShape::LargeEverywhere => (&all[..], Partial::LargeHeld),
            PartialShape::NewRefused => (&all[..], Partial::NewRefused),
            PartialShape::NewHang => (&all[..], Partial::NewHang),
            PartialShape::OldHeld => (&all[..], Partial::OldHeld(Instant::now())),
        };
        testbed.net.let_pass_in_part(askers, &all, partial)
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let held = testbed.net.held_back().await?;
        let what = match self.shape {
            PartialShape::LargeFromLeader | PartialShape::LargeEverywhere => "large requests held",
            PartialShape::NewRefused => "new connections reset",
            PartialShape::NewHang => "new connections left hanging",
            PartialShape::OldHeld => "pieces held of connections from before",
        };
        Ok((held > 0).then(|| format!("master {} led: {held} {what}", self.roles.leader)))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        testbed.net.heal().await
    }
}
