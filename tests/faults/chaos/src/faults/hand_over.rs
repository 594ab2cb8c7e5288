//! Fault: the leader gets the request to transfer leadership to a follower. Needs no healing.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde_json::json;

use crate::faults::Fault;
use crate::plan::Roles;
use crate::testbed::Testbed;

/// A transfer of leadership.
pub struct HandOver {
    from: u64,
    to: u64,
    answer: u16,
}

impl HandOver {
    /// Creates the transfer from the current leader to another master.
    pub fn new(roles: &Roles) -> Self {
        Self {
            from: roles.leader,
            to: roles.followers[0],
            answer: 0,
        }
    }
}

#[async_trait(?Send)]
impl Fault for HandOver {
    async fn inject(&mut self, testbed: &mut Testbed, _: Duration) -> anyhow::Result<()> {
        let api = testbed.drill.cluster.api(self.from);
        let call = api.call(Method::POST, "/v1/cluster/transfer-leader");
        let answer = call.json(&json!({"to": self.to})).send().await;
        let answer = answer.map_err(anyhow::Error::msg)?;
        self.answer = answer.status;
        if answer.status != 200 {
            println!(
                "asked to hand over to {}, master {} answered {}",
                self.to, self.from, answer.text
            );
        }
        Ok(())
    }

    async fn proof(&mut self, testbed: &mut Testbed) -> anyhow::Result<Option<String>> {
        let seen = testbed.drill.cluster.observed_leader().await;
        Ok(seen
            .filter(|(_, leader)| *leader == self.to)
            .map(|(term, leader)| {
                let Self { from, answer, .. } = self;
                format!(
                    "asked master {from}, answered {answer}: master {leader} leads in term {term}"
                )
            }))
    }

    async fn heal(&mut self, _: &mut Testbed) -> anyhow::Result<()> {
        Ok(())
    }
}
