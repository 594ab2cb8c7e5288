//! Level of a new cluster: it rises by itself, and with it the format of digests and backups changes.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;

use crate::cluster::WAIT_TIMEOUT;
use crate::http::Api;
use crate::wait::until;

/// Time after which a new cluster no longer raises its level by itself: more than twenty leases.
const FOUNDING_TIME_MAX: Duration = Duration::from_secs(10);

/// Waits until these masters, which are all of a new cluster, are at the highest level that all of them understand, or
/// the level rises no more by itself.
pub async fn wait(apis: &[Api]) {
    let begun = Instant::now();
    until(WAIT_TIMEOUT, "the new cluster has its level", async || {
        for api in apis {
            let call = api.call(Method::GET, "/v1/cluster?consistency=stale");
            let Ok(reply) = call.send().await else {
                return false;
            };
            if !is_at_common_level(&reply.json()) && begun.elapsed() < FOUNDING_TIME_MAX {
                return false;
            }
        }
        true
    })
    .await;
}

/// Returns whether the cluster is at the level that all of its masters understand. A master from before levels reports
/// none.
fn is_at_common_level(status: &Value) -> bool {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    // `None` for a master that has not answered yet comes first.
    let common = nodes.map(|node| node["level"].as_u64()).min().flatten();
    status.get("level").is_none() || status["level"].as_u64() == common
}
