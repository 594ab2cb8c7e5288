//! Masters that do not hear each other, in five shapes.

use std::time::Duration;

use async_trait::async_trait;
use rand::Rng;

use crate::faults::Fault;
use crate::ground::Ground;
use crate::net::{Link, Severed};
use crate::plan::{Roles, Shape};

/// A flapping network holds and lets go for so long each.
const FLAP_MS: std::ops::Range<u64> = 50..400;

/// See the module.
pub struct Cut {
    shape: Shape,
    roles: Roles,
    /// What was held back in earlier cuts of a flapping network.
    before: u64,
    flapped: u32,
}

impl Cut {
    /// Between these, by who they are now.
    pub fn new(shape: Shape, roles: &Roles) -> Self {
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
            Shape::LeaderAlone | Shape::Flapping => {
                let followers = self.roles.followers.iter();
                followers.flat_map(|to| both(leader, *to)).collect()
            }
            Shape::LeaderWithOne => {
                let outside = self.roles.followers[0];
                let inside = [leader, self.roles.followers[1]];
                inside.iter().flat_map(|to| both(outside, *to)).collect()
            }
            Shape::OneWay => from_leader(Severed::Everything),
            Shape::ResponsesOnly => from_leader(Severed::Responses),
        }
    }
}

#[async_trait(?Send)]
impl Fault for Cut {
    async fn inject(&mut self, ground: &mut Ground, hold: Duration) -> anyhow::Result<()> {
        let links = self.links();
        ground.net.sever(&links).await?;
        if self.shape == Shape::Flapping {
            let end = tokio::time::Instant::now() + hold;
            while tokio::time::Instant::now() < end {
                let ms = ground.drill.random.random_range(FLAP_MS);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                self.before += ground.net.held_back().await?;
                ground.net.heal().await?;
                self.flapped += 1;
                let ms = ground.drill.random.random_range(FLAP_MS);
                tokio::time::sleep(Duration::from_millis(ms)).await;
                ground.net.sever(&links).await?;
            }
        }
        Ok(())
    }

    async fn proof(&mut self, ground: &mut Ground) -> anyhow::Result<Option<String>> {
        let held = self.before + ground.net.held_back().await?;
        let unit = ground.net.unit();
        let flapped = match self.flapped {
            0 => String::new(),
            times => format!(", healed and cut again {times} times"),
        };
        let told = format!("master {}: {held} {unit}{flapped}", self.roles.leader);
        Ok((held > 0).then_some(told))
    }

    async fn heal(&mut self, ground: &mut Ground) -> anyhow::Result<()> {
        ground.net.heal().await
    }
}
