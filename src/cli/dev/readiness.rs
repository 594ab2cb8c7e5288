//! Readiness checks of a development cluster, over the HTTP interface.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use triarch_sdk::wire::{ClusterStatus, WorkerList, WorkerState};

use super::layout::Layout;

/// Maximum wait for one answer, on loopback.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum wait for a new leader after a master's death.
const NEW_LEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between two checks for a new leader.
const LEADER_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Describes what is not ready yet. Empty once every process is ready.
pub async fn not_ready(layout: &Layout) -> Vec<String> {
    let http = http();
    let mut missing = Vec::new();
    for url in layout.masters_urls() {
        let answer = http.get(format!("{url}/readyz")).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => {}
            Ok(answer) => missing.push(format!(
                "the master at {url} is up but not ready ({})",
                answer.status()
            )),
            Err(_) => missing.push(format!("the master at {url} does not answer")),
        }
    }
    if !missing.is_empty() {
        return missing;
    }
    let live: BTreeSet<String> = match ask::<WorkerList>(&http, layout, "/v1/workers").await {
        Some(list) => list
            .workers
            .into_iter()
            .filter(|w| w.state == WorkerState::Live)
            .map(|w| w.name)
            .collect(),
        None => return vec!["no master could list the workers".to_owned()],
    };
    let absent = layout
        .worker_names()
        .into_iter()
        .filter(|name| !live.contains(name));
    absent
        .map(|name| format!("{name} has not registered"))
        .collect()
}

/// Returns the leader, if there is one.
pub async fn leader(layout: &Layout) -> Option<u64> {
    ask::<ClusterStatus>(&http(), layout, "/v1/cluster")
        .await?
        .leader
}

/// Waits for a leader after a master's death, and describes the outcome.
pub async fn await_new_leader(layout: &Layout) -> String {
    let started = Instant::now();
    let http = http();
    while started.elapsed() < NEW_LEADER_TIMEOUT {
        if let Some(ClusterStatus {
            leader: Some(leader),
            term,
            ..
        }) = ask(&http, layout, "/v1/cluster").await
        {
            return format!("Master {leader} leads (term {term}), and the cluster is available.");
        }
        tokio::time::sleep(LEADER_POLL_INTERVAL).await;
    }
    "No master leads, because a majority of them must be up. Nothing that was acknowledged is lost; the cluster continues \
     as soon as enough masters are restarted."
        .to_owned()
}

/// Returns the first answer that any master gives.
async fn ask<T: DeserializeOwned>(
    http: &reqwest::Client,
    layout: &Layout,
    path: &str,
) -> Option<T> {
    for url in layout.masters_urls() {
        let Ok(answer) = http.get(format!("{url}{path}")).send().await else {
            continue;
        };
        if !answer.status().is_success() {
            continue;
        }
        if let Ok(parsed) = answer.json().await {
            return Some(parsed);
        }
    }
    None
}

fn http() -> reqwest::Client {
    // Proxies are disabled because these are this machine's own ports, whatever the environment says.
    let built = reqwest::Client::builder()
        .timeout(ANSWER_TIMEOUT)
        .no_proxy()
        .build();
    built.unwrap_or_default()
}
