//! Metrics of the masters: well-formed, documented, and true for the node that reports them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use reqwest::Method;
use serde_json::json;
use triarch_harness::cluster::WAIT_TIMEOUT;
use triarch_harness::{Cluster, Exposition, FakeWorker, Options, eventually, fake_worker, until};

/// Returns the metrics of a master.
pub async fn scrape(cluster: &Cluster, node: u64) -> Exposition {
    let api = cluster.api(node);
    let reply = api.call(Method::GET, "/metrics").answer().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let kind = reply.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    Exposition::read(&reply.text).unwrap_or_else(|why| panic!("{why}"))
}

/// Returns the number of requests of this kind that a master holds: `wait`, `events`, or, if it leads, `poll`.
pub async fn held(cluster: &Cluster, node: u64, kind: &str) -> f64 {
    let metrics = scrape(cluster, node).await;
    metrics.value("triarch_http_held", &[("kind", kind)])
}

/// Waits until these masters together hold at least this many requests of this kind.
pub async fn wait_held(cluster: &Cluster, nodes: &[u64], kind: &str, count: usize) {
    let what = format!("the masters {nodes:?} hold {count} requests of the kind {kind}");
    until(WAIT_TIMEOUT, what, async || {
        let mut sum = 0.0;
        for node in nodes {
            sum += held(cluster, *node, kind).await;
        }
        sum >= count as f64
    })
    .await;
}

async fn scrape_all(cluster: &mut Cluster) -> BTreeMap<u64, Exposition> {
    let mut all = BTreeMap::new();
    for node in cluster.running() {
        all.insert(node, scrape(cluster, node).await);
    }
    all
}

fn sum(all: &BTreeMap<u64, Exposition>, name: &str, labels: &[(&str, &str)]) -> f64 {
    all.values()
        .map(|one| one.sum(name, labels).unwrap_or(0.0))
        .sum()
}

#[tokio::test]
async fn metrics_follow_the_work() {
    const TASKS: usize = 7;
    let mut cluster = Cluster::with(Options {
        // The worker must be lost at the end, and not earlier on a slow machine.
        lease_ms: 4_000,
        ..Options::default()
    })
    .await;
    let (leader, follower) = cluster.leader_and_follower().await;

    // Tasks that are completed, submitted at a follower.
    let worker = FakeWorker::register(&cluster, "diligent", 20).await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| json!({"kind": fake_worker::KIND, "payload": n}))
        .collect();
    let api = cluster.api(follower);
    api.submit(&json!({"tasks": tasks})).await;
    let leases = worker.take_many(TASKS).await;
    let one = scrape(&cluster, leader).await;
    assert_eq!(
        one.value(
            "triarch_queue_tasks",
            &[("queue", "default"), ("state", "running")]
        ),
        TASKS as f64
    );
    let results: Vec<_> = leases
        .iter()
        .map(|lease| lease.succeeded(json!(1)))
        .collect();
    worker.report_all(&results).await;
    // Refused, because the token belongs to another lease.
    api.submit(&fake_worker::job(json!("late"))).await;
    let mut late = worker.take(&[]).await;
    late.token += 1_000_000;
    assert_eq!(
        worker.report(late.succeeded(json!(2))).await["code"],
        "stale_token"
    );
    // Lost: the worker holds a lease and sends nothing any more.
    until(WAIT_TIMEOUT, "the worker is lost", async || {
        let all = scrape(&cluster, leader).await;
        all.value("triarch_workers_lost_total", &[]) >= 1.0
    })
    .await;
    let all = scrape_all(&mut cluster).await;
    let done = |all: &_| sum(all, "triarch_task_changes_total", &[("to", "succeeded")]);
    assert_eq!(done(&all), TASKS as f64);
    assert_eq!(sum(&all, "triarch_jobs_submitted_total", &[]), 2.0);
    // A lease that its worker fetched too late went back, and was granted again.
    let unclaimed = [("reason", "unclaimed")];
    let unclaimed = sum(&all, "triarch_leases_expired_total", &unclaimed);
    assert_eq!(
        sum(&all, "triarch_leases_granted_total", &[]),
        TASKS as f64 + 1.0 + unclaimed
    );
    assert_eq!(
        sum(&all, "triarch_results_total", &[("verdict", "accepted")]),
        TASKS as f64
    );
    assert_eq!(
        sum(&all, "triarch_results_total", &[("verdict", "stale_token")]),
        1.0
    );
    assert_eq!(
        sum(
            &all,
            "triarch_leases_expired_total",
            &[("reason", "worker_lost")]
        ),
        1.0
    );
    assert_eq!(sum(&all, "triarch_workers_registered_total", &[]), 1.0);
    let one = &all[&leader];
    assert_eq!(one.value("triarch_workers", &[("state", "lost")]), 1.0);
    assert_eq!(
        one.value("triarch_tasks", &[("state", "succeeded")]),
        TASKS as f64
    );
    assert!(one.value("triarch_log_sync_seconds_count", &[]) > 0.0);
    assert!(one.value("triarch_log_append_seconds_count", &[]) > 0.0);
    assert!(one.value("triarch_entry_commands_sum", &[]) >= 4.0);
    for name in [
        "triarch_log_bytes",
        "triarch_disk_free_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        assert!(one.value(name, &[]) > 0.0, "{name}");
    }

    // Each master reports its own metrics.
    for (node, one) in &all {
        let leads = f64::from(u8::from(*node == leader));
        assert_eq!(one.value("triarch_is_leader", &[]), leads, "node {node}");
        assert_eq!(
            one.value("triarch_leader_id", &[]),
            leader as f64,
            "node {node}"
        );
        assert_eq!(
            one.value("triarch_build_info", &[("node", &node.to_string())]),
            1.0
        );
        assert_eq!(one.value("triarch_members", &[("role", "voter")]), 3.0);
        let lags = one.sum("triarch_peer_lag_entries", &[]).is_some();
        assert_eq!(lags, *node == leader, "node {node}");
    }
    let posts = [("route", "/v1/jobs"), ("method", "POST"), ("status", "2xx")];
    for node in [leader, follower] {
        assert_eq!(all[&node].value("triarch_http_requests_total", &posts), 2.0);
        assert_eq!(
            all[&node].value("triarch_http_request_seconds_count", &posts),
            2.0
        );
    }
    let asked = cluster.api(follower);
    asked
        .get("/v1/jobs/j999999-0")
        .await
        .refused(404, "not_found");
    asked.get("/nowhere").await.refused(404, "not_found");
    let one = scrape(&cluster, follower).await;
    let nowhere = [("route", "none"), ("status", "4xx")];
    assert_eq!(one.value("triarch_http_requests_total", &nowhere), 1.0);
    assert_eq!(
        one.value("triarch_http_refusals_total", &[("code", "not_found")]),
        1.0
    );

    // A leader is killed.
    let before = scrape_all(&mut cluster).await;
    cluster.kill9(leader);
    let next = cluster.leader_other_than(leader).await;
    let all = eventually(WAIT_TIMEOUT, "both tell of the new leader", async || {
        let all = scrape_all(&mut cluster).await;
        all.values()
            .all(|one| one.value("triarch_leader_id", &[]) == next as f64)
            .then_some(all)
    })
    .await;
    let changes = [("cause", "connections_refused")];
    for (node, one) in &all {
        let was = &before[node];
        assert!(
            one.value("triarch_term", &[]) > was.value("triarch_term", &[]),
            "node {node}"
        );
        let name = "triarch_leader_changes_total";
        assert!(
            one.value(name, &changes) > was.value(name, &changes),
            "node {node}"
        );
        let name = "triarch_leaderless_seconds_total";
        assert!(one.value(name, &[]) > was.value(name, &[]), "node {node}");
    }
    let was = sum(&before, "triarch_campaigns_total", &[])
        - before[&leader].value("triarch_campaigns_total", &[]);
    assert!(sum(&all, "triarch_campaigns_total", &[]) > was);
    let gone = [("peer", leader.to_string())];
    let gone: Vec<(&str, &str)> = gone.iter().map(|(name, id)| (*name, id.as_str())).collect();
    until(
        WAIT_TIMEOUT,
        "the new leader tells that the old one does not answer",
        async || {
            let one = scrape(&cluster, next).await;
            one.sum("triarch_peer_reachable", &gone) == Some(0.0)
        },
    )
    .await;

    // The other text format too.
    let open = cluster
        .api(next)
        .call(Method::GET, "/metrics")
        .header("accept", "application/openmetrics-text; version=1.0.0")
        .answer()
        .await;
    let kind = open.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(open.text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_metrics_of_a_master_without_a_leader_say_so() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let last = cluster
        .running()
        .into_iter()
        .find(|id| *id != leader)
        .expect("another");
    for id in cluster.running() {
        if id != last {
            cluster.kill9(id);
        }
    }
    let first = eventually(WAIT_TIMEOUT, "no leader is known", async || {
        let one = scrape(&cluster, last).await;
        (one.value("triarch_leader_id", &[]) == 0.0).then_some(one)
    })
    .await;
    let name = "triarch_leaderless_seconds_total";
    until(
        WAIT_TIMEOUT,
        "the time without a leader grows",
        async || scrape(&cluster, last).await.value(name, &[]) > first.value(name, &[]),
    )
    .await;
}

#[tokio::test]
async fn exported_metrics_are_exactly_the_documented_ones() {
    let mut cluster = Cluster::start(1).await;
    let node = cluster.leader().await;
    // Some work, so that metrics that need work exist too.
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    cluster.api(node).submit(&fake_worker::job(json!(1))).await;
    worker.take(&[]).await;
    let metrics = scrape(&cluster, node).await;

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operate/metrics.md");
    let page = std::fs::read_to_string(page).expect("it is there");
    let mut documented: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[3]
            .split(',')
            .map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let name = cells[1].trim_matches('`').to_owned();
        assert!(
            documented
                .insert(name, (cells[2].to_owned(), labels))
                .is_none(),
            "twice: {row}"
        );
    }
    let known: BTreeMap<&String, &String> = documented
        .iter()
        .map(|(name, (kind, _))| (name, kind))
        .collect();
    assert_eq!(metrics.families.iter().collect::<BTreeMap<_, _>>(), known);
    for (name, (_, labels)) in &documented {
        let has = metrics.labels(name);
        if !has.is_empty() {
            assert_eq!(has, *labels, "{name}");
        }
    }
    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/alerts.yml");
    let alerts = std::fs::read_to_string(alerts).expect("it is there");
    let words = alerts.split(|one: char| !(one.is_ascii_alphanumeric() || one == '_'));
    let named: BTreeSet<&str> = words
        .filter(|word| word.starts_with("triarch_") || word.starts_with("process_"))
        .collect();
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        assert!(
            documented.contains_key(family),
            "deploy/prometheus/alerts.yml names {name}"
        );
    }
}
