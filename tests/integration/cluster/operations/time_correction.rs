//! Correction of a table whose time is ahead, after the clocks of all masters were.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use triarch_harness::{
    Api, Cluster, FakeClocks, FakeWorker, Options, Program, equal_digests, fake_worker, until,
};

use crate::job_helpers::{WAIT_TIMEOUT, submit_task, wait_state};
use crate::operations::metrics::scrape;

const TEN_YEARS_S: i64 = 315_360_000;
const ROUTE: &str = "/v1/cluster/set-time-back";

/// Clocks of this many masters, all ten years ahead.
fn clocks_ahead(dir: &std::path::Path, nodes: u64) -> Option<FakeClocks> {
    let Some(clocks) = FakeClocks::within(dir) else {
        eprintln!("skipped: libfaketime is not installed (Debian package faketime)");
        return None;
    };
    (1..=nodes).for_each(|node| clocks.set(node, TEN_YEARS_S));
    Some(clocks)
}

/// The year of a time in an answer.
fn year(time: &Value) -> String {
    time.as_str().unwrap_or_default()[..4].to_owned()
}

fn this_year() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let days = now.expect("after 1970").as_secs() / 86_400;
    // Right except near the turn of a year, where one of two is.
    (1970 + (days * 400 / 146_097)).to_string()
}

/// Submits jobs until the task is aborted. Returns it with the ids of the jobs that were acknowledged.
fn submit_until_aborted(api: Api) -> (JoinHandle<()>, Arc<Mutex<Vec<String>>>) {
    let jobs = Arc::new(Mutex::new(Vec::new()));
    let acknowledged = Arc::clone(&jobs);
    let submitting = tokio::spawn(async move {
        loop {
            let call = api.call(Method::POST, "/v1/jobs");
            let job = json!({"tasks": [{"kind": "none"}]});
            if let Ok(reply) = call.json(&job).send().await
                && reply.status == 201
            {
                let id = reply.json()["id"].as_str().expect("an id").to_owned();
                acknowledged.lock().expect("no panic").push(id);
            }
        }
    });
    (submitting, jobs)
}

async fn refused(api: &Api) -> Value {
    api.post(ROUTE, &json!({})).await.refused(409, "conflict")
}

#[tokio::test]
async fn a_table_ten_years_ahead_is_set_back_and_everything_goes_on_in_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(clocks) = clocks_ahead(dir.path(), 3) else {
        return;
    };
    let mut cluster = Cluster::with(Options {
        fake_clocks: Some(clocks.clone()),
        ..Options::default()
    })
    .await;
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    let why = refused(&api).await;
    assert!(
        why["ahead_ms"].as_u64().expect("a number") < 10_000,
        "{why}"
    );

    // Tasks, schedules and a lease of the wrong years.
    let worker = FakeWorker::register(&cluster, "w", 8).await;
    let running = submit_task(&api, &fake_worker::job(json!("running"))).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, running);
    let _alive = worker.keep_alive(std::slice::from_ref(&lease));
    let far = json!({"tasks": [{"kind": "none", "delay_ms": 600_000}]});
    let far = submit_task(&api, &far).await;
    for (name, cron) in [("beat", "* * * * * *"), ("daily", "0 3 * * *")] {
        let body = json!({"cron": cron, "job": {"name": name, "tasks": [{"kind": "none"}]}});
        let made = api
            .put(&format!("/v1/schedules/{name}"), &body)
            .await
            .expect(201);
        assert_ne!(year(&made["next_tick_at"]), this_year());
    }
    until(WAIT_TIMEOUT, "ticks fired in the wrong years", async || {
        api.get("/v1/schedules/beat").await.expect(200)["fired"].as_u64() >= Some(1)
    })
    .await;

    // One clock is set, and the others are not: no time to go by.
    clocks.set(leader, 0);
    until(WAIT_TIMEOUT, "the leader's clock is right", async || {
        let why = api.post(ROUTE, &json!({})).await;
        why.status == 409 && why.json()["apart_ms"].is_u64()
    })
    .await;
    cluster.ids().for_each(|node| clocks.set(node, 0));
    let mut near = fake_worker::job(json!("near"));
    near["tasks"][0]["delay_ms"] = json!(4_000);
    let near = submit_task(&api, &near).await;
    until(WAIT_TIMEOUT, "the table is known to be ahead", async || {
        let status = api.get("/v1/cluster").await.expect(200);
        status["table_ahead_ms"].as_i64() > Some((TEN_YEARS_S - 3_600) * 1_000)
            && api.post(ROUTE, &json!({"x": 1})).await.status == 400
    })
    .await;
    // Entries are in flight all the while, with stamps of before.
    let submissions: Vec<_> = cluster
        .apis()
        .into_iter()
        .map(submit_until_aborted)
        .collect();
    until(WAIT_TIMEOUT, "the time is set back", async || {
        let ran = cluster
            .cli()
            .run(&["cluster", "set-time-back", "--yes"])
            .await;
        match ran.code {
            Some(0) => {
                ran.shows("the time of the table was set back by 3649d");
                true
            }
            // The samples of the other clocks are some seconds old, or no master leads for a moment.
            _ => false,
        }
    })
    .await;
    let mut acknowledged = Vec::new();
    for (submitting, jobs) in submissions {
        submitting.abort();
        acknowledged.append(&mut jobs.lock().expect("no panic"));
    }
    assert!(!acknowledged.is_empty());
    let status = api.get("/v1/cluster").await.expect(200);
    assert!(status["table_ahead_ms"].as_u64() < Some(2_000), "{status}");
    for node in cluster.ids() {
        until(WAIT_TIMEOUT, "every master has the time", async || {
            let ahead_s = scrape(&cluster, node)
                .await
                .value("triarch_table_ahead_seconds", &[]);
            ahead_s < 2.0
        })
        .await;
        assert!(
            cluster
                .log_line_of(node)
                .contains("the time of the table was set back")
        );
    }
    refused(&api).await;

    // The delayed task of the wrong years starts in time, and the lease is still good.
    let lease_near = worker.take(std::slice::from_ref(&lease)).await;
    assert_eq!(lease_near.task, near);
    for lease in [&lease, &lease_near] {
        let report = worker.report(lease.succeeded(json!("done"))).await;
        assert_eq!(report["accepted"], true, "{report}");
    }
    let why = api
        .get(&format!("/v1/tasks/{far}/explain"))
        .await
        .expect(200);
    assert!(
        why.to_string().contains(&format!("until {}", this_year())),
        "{why}"
    );
    let shown = api.get(&format!("/v1/tasks/{running}")).await.expect(200);
    for time in ["created_at", "started_at", "finished_at"] {
        assert_eq!(year(&shown[time]), this_year(), "{shown}");
    }

    // Schedules go on at the right times, and no tick has two jobs.
    let daily = api.get("/v1/schedules/daily").await.expect(200);
    assert!(
        year(&daily["next_tick_at"])
            <= (this_year().parse::<u64>().expect("a year") + 1).to_string()
    );
    let ticks = async || {
        let jobs = api.all("/v1/jobs?name=beat", "jobs").await;
        let keys: Vec<String> = jobs
            .iter()
            .map(|job| job["idempotency_key"].as_str().expect("a key").to_owned())
            .collect();
        let different: BTreeSet<&String> = keys.iter().collect();
        assert_eq!(different.len(), keys.len(), "{keys:?}");
        let right = format!("schedule:beat:{}", this_year());
        keys.iter().filter(|key| key.starts_with(&right)).count()
    };
    until(WAIT_TIMEOUT, "ticks fire in the right year", async || {
        ticks().await >= 2
    })
    .await;

    let follower = cluster.follower().await;
    let event = [
        "events",
        "--after",
        "0",
        "--type",
        "time_set_back",
        "--limit",
        "1",
    ];
    let masters = cluster.url(follower);
    let event = cluster.cli().masters(&masters).run(&event).await.expect(0);
    event.shows("time_set_back");

    // The correction is part of the state: after snapshots and restarts nothing is different.
    api.post("/v1/schedules/beat/pause", &json!({}))
        .await
        .expect(200);
    api.post("/v1/cluster/snapshot", &json!({}))
        .await
        .expect(200);
    equal_digests(WAIT_TIMEOUT, &cluster.apis()).await;
    for node in cluster.ids() {
        cluster.kill9(node);
    }
    for node in cluster.ids() {
        cluster.restart(node);
    }
    let leader = cluster.wait_ready().await;
    equal_digests(WAIT_TIMEOUT, &cluster.apis()).await;
    let api = cluster.api(leader);
    let status = api.get("/v1/cluster").await.expect(200);
    assert!(status["table_ahead_ms"].as_u64() < Some(2_000), "{status}");
    wait_state(&api, &far, "delayed").await;
    let jobs = api.all("/v1/jobs", "jobs").await;
    let known: BTreeSet<&str> = jobs.iter().filter_map(|job| job["id"].as_str()).collect();
    let lost = acknowledged
        .iter()
        .find(|job| !known.contains(job.as_str()));
    assert_eq!(lost, None);
}

#[tokio::test]
async fn a_cluster_of_level_1_must_be_upgraded_before_its_time_is_set_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(clocks) = clocks_ahead(dir.path(), 1) else {
        return;
    };
    let mut cluster = Cluster::with(Options {
        nodes: 1,
        fake_clocks: Some(clocks.clone()),
        programs: [(1, Program::of_level(1))].into(),
        ..Options::default()
    })
    .await;
    cluster.api(1).submit(&fake_worker::job(json!(1))).await;
    clocks.set(1, 0);
    let api = cluster.api(1);
    let why = refused(&api).await;
    assert_eq!(
        (&why["level"], &why["needed"]),
        (&json!(1), &json!(2)),
        "{why}"
    );
    let ran = cluster
        .cli()
        .run(&["cluster", "set-time-back", "--yes"])
        .await;
    ran.expect(1).says("triarch cluster upgrade");
    // With the level, it is done.
    cluster.replace_program(1, Program::default()).await;
    cluster.wait_ready().await;
    cluster.cli().run(&["cluster", "upgrade"]).await.expect(0);
    let api = cluster.api(1);
    until(Duration::from_secs(20), "the clock is read", async || {
        let ran = cluster
            .cli()
            .run(&["cluster", "set-time-back", "--yes"])
            .await;
        ran.code == Some(0)
    })
    .await;
    let status = api.get("/v1/cluster").await.expect(200);
    assert!(status["table_ahead_ms"].as_u64() < Some(2_000), "{status}");
}
