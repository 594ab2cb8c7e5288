//! Fault: masters that do not receive each other's messages, in five variants.

use std::time::Duration;

use async_trait::async_trait;
use rand::RngExt;

use crate::faults::Fault;
use crate::net::{Link, Severed};
use crate::plan::{CutShape, Roles};
use crate::testbed::Testbed;

/// Duration of each cut and of each break between cuts in a flapping network.
const FLAP_MS: std::ops::Range<u64> = 50..400;

/// A cut network.
pub struct Cut {
    shape: CutShape,
    roles: Roles,
    /// Messages held back in earlier cuts of a flapping network.
    before: u64,
    flapped: u32,
}

impl Cut {
    /// Creates the fault between these masters, chosen by their current roles.
    pub fn new(shape: CutShape, roles: &Roles) -> Self {
        Self {
            shape,
            roles: roles.clone(),
            before: 0,
            flapped: 0,
        }
    }

    fn links(&self) -> Vec<Link> {
        let leader = self.roles.leader;
        let both = |a: u64, b: u64| {
            [(a, b), (b, a)].map(|(from, to)| Link {
                from,
                to,
                severed: Severed::Everything,
            })
        };
        let from_leader = |severed: Severed| {
            let link = move |to: &u64| Link {
                from: leader,
                to: *to,
                severed,
            };
            self.roles.followers.iter().map(link).collect()
        };
        match self.shape {
            CutShape::LeaderAlone | CutShape::Flapping => {
                let followers = self.roles.followers.iter();
                followers.flat_map(|to| both(leader, *to)).collect()
            }
            CutShape::LeaderWithOne => {
                let outside = self.roles.followers[0];
                let inside = [leader, self.roles.followers[1]];
                inside.iter().flat_map(|to| both(outside, *to)).collect()
            }
            CutShape::OneWay => from_leader(Severed::Everything),
            CutShape::ResponsesOnly => from_leader(Severed::Responses),
        }
    }
}

#[async_trait(?Send)]
impl Fault for Cut {
    async fn inject(&mut self, testbed: &mut Testbed, hold: Duration) -> anyhow::Result<()> {
        let links = self.links();
        testbed.net.sever(&links).await?;
        if self.shape == CutShape::Flapping {
            let end = tokio::time::Instant::now() + hold;
            while tokio::time::Instant::now() < end {
                let ms = testbed.drill.random.random_range(FLAP_MS);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                self.before += testbed.net.held_back().await?;
                testbed.net.heal().await?;
                self.flapped += 1;
                let ms = testbed.drill.random.random_range(FLAP_MS);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                testbed.net.sever(&links).await?;
            }
        }
        Ok(())
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let held = self.before + testbed.net.held_back().await?;
        let unit = testbed.net.unit();
        let flapped = match self.flapped {
            0 => String::new(),
            times => format!(", healed and cut again {times} times"),
        };
        let proof = format!("master {}: {held} {unit}{flapped}", self.roles.leader);
        Ok((held > 0).then_some(proof))
    }

    async fn heal(&mut self, testbed: &mut Testbed) -> anyhow::Result<()> {
        testbed.net.heal().await
    }
}
