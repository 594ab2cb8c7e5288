//! Settings of queues hold over all workers and leaders: pauses, bounds, rates and weights.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::fake_workers::{most_at_once, spans};
use triarch_harness::{Api, Cluster, FakeWorker, FakeWorkers, Options, fake_worker};

use crate::job_helpers::{shown, submit_task, wait_job, wait_state, wait_succeeded};

fn job(queue: &str, tasks: usize) -> Value {
    let task = |nth| json!({"kind": fake_worker::KIND, "queue": queue, "payload": nth});
    json!({"tasks": (0..tasks).map(task).collect::<Vec<_>>()})
}

async fn set(api: &Api, queue: &str, settings: &Value) -> Value {
    let path = format!("/v1/queues/{queue}");
    api.put(&path, settings).await.expect(200)
}

async fn show(api: &Api, queue: &str) -> Value {
    api.get(&format!("/v1/queues/{queue}")).await.expect(200)
}

async fn worker(cluster: &Cluster, slots: u32, queues: &[&str]) -> FakeWorker {
    let body = json!({"name": "w", "slots": slots, "kinds": [fake_worker::KIND], "queues": queues});
    FakeWorker::register_as(cluster, &body).await
}

#[tokio::test]
async fn a_paused_queue_stays_paused_under_the_next_leader() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let worker = worker(&cluster, 4, &["quiet", "loud"]).await;
    let api = cluster.api(follower);
    // The leader is killed during the pause itself.
    let pause = api.call(Method::POST, "/v1/queues/quiet/pause");
    let replies = cluster
        .kill9_amid(leader, Duration::from_millis(3), vec![pause])
        .await;
    let paused = replies[0].as_ref().expect("the follower answers");
    assert_eq!(paused.expect(200)["paused"], true);
    let quiet = submit_task(&api, &job("quiet", 1)).await;
    let loud = submit_task(&api, &job("loud", 1)).await;
    let lease = worker.take(&[]).await;
    assert_eq!(lease.task, loud);
    worker.take_nothing(std::slice::from_ref(&lease)).await;
    let queue = show(&api, "quiet").await;
    assert_eq!(
        (&queue["paused"], &queue["depth"]),
        (&json!(true), &json!(1))
    );

    api.post("/v1/queues/quiet/resume", &json!({}))
        .await
        .expect(200);
    assert_eq!(worker.take(&[lease]).await.task, quiet);
}

#[tokio::test]
async fn running_tasks_never_exceed_max_running_under_any_leader() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    set(&api, "narrow", &json!({"max_running": 3})).await;
    // Fewer results than tasks in either queue, so that both have tasks left when the leader is killed.
    let fake_workers = FakeWorkers::start_limited(45, &cluster, 3, 4, &["narrow", "wide"]).await;
    let narrow = api.submit(&job("narrow", 60)).await;
    let wide = api.submit(&job("wide", 60)).await;
    fake_workers.wait_spent().await;
    fake_workers.release();
    cluster.kill9(leader);
    for submitted in [&narrow, &wide] {
        wait_job(&api, submitted["id"].as_str().expect("an id")).await;
    }
    fake_workers.finish().await;
    assert_eq!(most_at_once(&spans(&shown(&api, &narrow).await)), 3);
    // There were free slots for more.
    let both = [shown(&api, &narrow).await, shown(&api, &wide).await].concat();
    assert!(most_at_once(&spans(&both)) > 3);
}

#[tokio::test]
async fn a_rate_limit_holds_across_workers_and_leader_changes() {
    const PER_S: u32 = 40;
    const BURST: u32 = 10;
    const TASKS: u32 = 160;
    const TASKS_AFTER: u32 = 40;
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    set(&api, "slow", &json!({"rate_per_s": PER_S, "burst": BURST})).await;
    let fake_workers = FakeWorkers::start(&cluster, 3, 100, &["slow"]).await;
    let begun = Instant::now();
    let submitted = api.submit(&job("slow", TASKS as usize)).await;
    wait_succeeded(&api, &submitted, 40).await;
    cluster.kill9(leader);
    // However slow this machine is, the next leader has tasks to start.
    let after = api.submit(&job("slow", TASKS_AFTER as usize)).await;
    for submitted in [&submitted, &after] {
        let id = submitted["id"].as_str().expect("an id");
        assert_eq!(wait_job(&api, id).await["state"], "succeeded");
    }
    let took = begun.elapsed();
    fake_workers.finish().await;

    let all = [shown(&api, &submitted).await, shown(&api, &after).await].concat();
    let mut starts: Vec<_> = spans(&all).iter().map(|span| span.from).collect();
    starts.sort_unstable();
    // An attempt that was returned, because its worker fetched it too late, counts as started too.
    assert!(starts.len() >= (TASKS + TASKS_AFTER) as usize);
    for (nth, from) in starts.iter().enumerate() {
        for (count, to) in (1..).zip(&starts[nth..]) {
            let within_s = (*to - *from).num_milliseconds() as f64 / 1_000.0;
            // Times have a resolution of one millisecond, hence the 1.
            let allowed = within_s * f64::from(PER_S) + f64::from(BURST) + 1.0;
            assert!(
                f64::from(count) <= allowed,
                "{count} starts from {from} to {to}, {allowed} at most"
            );
        }
    }
    // The same by the clock of this process: the cluster's time runs at most a tenth faster, and does not jump.
    let least =
        Duration::from_secs_f64(f64::from(TASKS + TASKS_AFTER - BURST) / f64::from(PER_S) / 1.1);
    assert!(
        took + Duration::from_millis(50) >= least,
        "{took:?}, {least:?} at least"
    );
}

#[tokio::test]
async fn a_full_queue_refuses_submissions_until_a_task_starts() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    set(&api, "short", &json!({"max_depth": 3})).await;
    api.submit(&job("short", 2)).await;
    // A job is accepted as a whole or not at all. Delayed tasks and those with dependencies count too.
    let refused = api.post("/v1/jobs", &job("short", 2)).await;
    let problem = refused.refused(429, "queue_full");
    assert_eq!(
        (&problem["queue"], &problem["depth"], &problem["max_depth"]),
        (&json!("short"), &json!(2), &json!(3))
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    let mut delayed = job("short", 1);
    delayed["tasks"][0]["delay_ms"] = json!(3_600_000);
    api.submit(&delayed).await;

    cluster.kill9(leader);
    let full = api.post("/v1/jobs", &job("short", 1)).await;
    full.refused(429, "queue_full");
    api.submit(&job("other", 1)).await;
    let worker = worker(&cluster, 1, &["short"]).await;
    worker.take(&[]).await;
    api.submit(&job("short", 1)).await;
    let full = api.post("/v1/jobs", &job("short", 1)).await;
    full.refused(429, "queue_full");
    set(&api, "short", &json!({"max_depth": null})).await;
    api.submit(&job("short", 10)).await;
}

#[tokio::test]
async fn queues_share_a_worker_by_weight_under_any_leader() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    set(&api, "heavy", &json!({"weight": 3})).await;
    let worker = worker(&cluster, 1, &["heavy", "light"]).await;
    // As many tasks as turns, so that neither queue runs empty.
    api.submit(&job("light", 40)).await;
    api.submit(&job("heavy", 40)).await;
    let mut turns = Vec::new();
    for turn in 0..40 {
        if turn == 20 {
            cluster.kill9(leader);
            cluster.leader_other_than(leader).await;
        }
        let lease = worker.take(&[]).await;
        let path = format!("/v1/tasks/{}", lease.task);
        let task = api.get(&path).await.expect(200);
        turns.push(task["queue"] == "heavy");
        worker.report_all(&[lease.succeeded(json!(1))]).await;
    }
    // Three of any four tasks, wherever the count begins. The first turns determine the order.
    for eight in turns[4..].windows(8) {
        let heavy = eight.iter().filter(|heavy| **heavy).count();
        assert!((5..=7).contains(&heavy), "{turns:?}");
    }
    let heavy = turns.iter().filter(|heavy| **heavy).count();
    assert!((29..=31).contains(&heavy), "{heavy} of 40: {turns:?}");
}

#[tokio::test]
async fn purging_a_queue_removes_waiting_tasks_and_keeps_running_ones() {
    let mut cluster = Cluster::with(Options {
        lease_ms: 60_000,
        ..Options::default()
    })
    .await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    let worker = worker(&cluster, 2, &["old"]).await;
    let running = api.submit(&job("old", 2)).await;
    let leases = worker.take_many(2).await;
    let waiting = api.submit(&job("old", 50)).await;
    let mut later = job("old", 2);
    later["tasks"][0]["delay_ms"] = json!(3_600_000);
    later["tasks"][0]["key"] = "first".into();
    later["tasks"][1]["after"] = json!(["first"]);
    let later = api.submit(&later).await;
    let other = submit_task(&api, &job("new", 1)).await;

    let purge = api.call(Method::POST, "/v1/queues/old/purge");
    let replies = cluster
        .kill9_amid(leader, Duration::from_millis(3), vec![purge])
        .await;
    replies[0]
        .as_ref()
        .expect("the follower answers")
        .expect(200);
    let again = api.post("/v1/queues/old/purge", &json!({})).await;
    assert_eq!(
        again.expect(200),
        json!({"cancelled": 0, "forgotten_jobs": 0})
    );
    for submitted in [&waiting, &later] {
        let id = submitted["id"].as_str().expect("an id");
        assert_eq!(wait_job(&api, id).await["state"], "cancelled");
    }
    let queue = show(&api, "old").await;
    let counts = ["depth", "delayed", "waiting", "running"].map(|what| queue[what].clone());
    assert_eq!(counts, [0, 0, 0, 2].map(Value::from), "{queue}");
    worker
        .report_all(&[leases[0].succeeded(json!(1)), leases[1].succeeded(json!(2))])
        .await;
    let id = running["id"].as_str().expect("an id");
    assert_eq!(wait_job(&api, id).await["state"], "succeeded");
    wait_state(&api, &other, "queued").await;
}

#[tokio::test]
async fn queue_settings_survive_a_restart_of_all_masters() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let given = json!({
        "paused": true, "max_running": 7, "rate_per_s": 0.5, "burst": 2, "max_depth": 9, "weight": 4,
        "placement": "pack", "retain_ms": 60_000, "retain_jobs": 11,
    });
    set(&cluster.api(leader), "set", &given).await;
    // Omitted settings stay, and `null` removes a setting.
    let partly = json!({"max_running": null, "weight": 5});
    let answer = set(&cluster.api(leader), "set", &partly).await;
    let mut expected = given.clone();
    expected["max_running"] = Value::Null;
    expected["weight"] = 5.into();
    for node in cluster.ids() {
        cluster.kill9(node);
    }
    for node in cluster.ids() {
        cluster.restart(node);
    }
    cluster.wait_ready().await;
    for node in cluster.ids() {
        let queue = show(&cluster.api(node), "set").await;
        assert_eq!(queue, answer);
        for (setting, value) in expected.as_object().expect("settings") {
            assert_eq!(&queue[setting], value, "{setting}");
        }
    }
    for (field, body) in [
        ("weight", json!({"weight": 0})),
        ("rate_per_s", json!({"rate_per_s": 0})),
        ("burst", json!({"burst": 0})),
        ("speed", json!({"speed": 1})),
    ] {
        let refused = cluster.api(1).put("/v1/queues/set", &body).await;
        assert_eq!(refused.refused(400, "invalid_request")["field"], field);
    }
    // A queue without settings and without tasks does not exist.
    let nothing = cluster.api(1).get("/v1/queues/never").await;
    nothing.refused(404, "not_found");
}
