//! Schedules: what users see, and exactly one job per tick under every fault.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::schedule_ticks::EverySecond;
use triarch_harness::{Api, Cluster, Options, Program, eventually, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, wait_job};

async fn put(api: &Api, name: &str, body: &Value) -> triarch_harness::Reply {
    let path = format!("/v1/schedules/{name}");
    api.call(Method::PUT, &path).json(body).answer().await
}

/// Returns a schedule that ticks every second with the same job.
fn every_second() -> Value {
    json!({"cron": "* * * * * *", "job": fake_worker::job(json!("tick"))})
}

#[tokio::test]
async fn every_tick_makes_one_job_over_leader_deaths_and_a_full_restart() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let apis = cluster.apis();
    let job = fake_worker::job(json!("tick"));
    let schedule = EverySecond::start(&cluster.api(leader), "beat", &job).await;
    let wait_fired = async |more: u64| {
        let wanted = schedule.fired(&apis).await + more;
        until(
            WAIT_TIMEOUT,
            format!("{wanted} ticks have fired"),
            async || schedule.fired(&apis).await >= wanted,
        )
        .await;
    };
    for _ in 0..2 {
        wait_fired(2).await;
        let leader = cluster.leader().await;
        cluster.kill9(leader);
        wait_fired(2).await;
        cluster.restart(leader);
        cluster.wait_caught_up(leader).await;
    }
    for node in cluster.ids() {
        cluster.kill9(node);
    }
    for node in cluster.ids() {
        cluster.restart(node);
    }
    wait_fired(2).await;
    let ticks = schedule.end(&apis).await;
    ticks.assert_good();
}

#[tokio::test]
async fn every_tick_of_an_interval_makes_one_job_over_a_leader_death_and_a_follower() {
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let apis = cluster.apis();
    let job = fake_worker::job(json!("tick"));
    let schedule = EverySecond::start_interval(&cluster.api(follower), "beat", &job).await;
    let fired = async |wanted: u64| {
        let what = format!("{wanted} ticks have fired");
        let enough = async || schedule.fired(&apis).await >= wanted;
        until(WAIT_TIMEOUT, what, enough).await;
    };
    fired(1).await;
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    fired(3).await;
    let ticks = schedule.end(&apis).await;
    ticks.assert_good();
}

#[tokio::test]
async fn a_schedule_with_an_interval_keeps_its_phase_when_it_is_put_again_unchanged() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(1);
    let job = fake_worker::job(json!("tick"));
    let body = |every_ms: u64| json!({"every_ms": every_ms, "job": job});
    let made = put(&api, "s", &body(90_000)).await.expect(201);
    assert_eq!(
        (&made["cron"], &made["every_ms"], &made["timezone"]),
        (&json!(null), &json!(90_000), &json!("UTC"))
    );
    let at = |value: &Value| triarch_harness::fake_workers::time(value).expect("a time");
    let runs = made["next_runs"].as_array().expect("a list");
    assert_eq!((runs.len(), &runs[0]["at"]), (5, &made["next_tick_at"]));
    for pair in runs.windows(2) {
        let apart = at(&pair[1]["at"]) - at(&pair[0]["at"]);
        assert_eq!(apart.num_milliseconds(), 90_000);
    }
    assert_eq!(at(&runs[0]["at"]).timestamp_subsec_millis(), 0);
    let same = put(&api, "s", &body(90_000)).await.expect(200);
    assert_eq!(same["next_tick_at"], made["next_tick_at"]);
    let other = put(&api, "s", &body(3_600_000)).await.expect(200);
    assert!(at(&other["next_tick_at"]) > at(&made["next_tick_at"]));
    let cron = put(&api, "s", &json!({"cron": "0 0 1 1 *", "job": job}))
        .await
        .expect(200);
    assert_eq!(cron["every_ms"], json!(null));
    put(&api, "s", &body(3_600_000)).await.expect(200);
    let paused = api
        .post("/v1/schedules/s/pause", &json!({}))
        .await
        .expect(200);
    assert_eq!(paused["next_tick_at"], json!(null));
    let resumed = api
        .post("/v1/schedules/s/resume", &json!({}))
        .await
        .expect(200);
    assert!(at(&resumed["next_tick_at"]) > chrono::Utc::now() + chrono::TimeDelta::minutes(50));
}

#[tokio::test]
async fn a_cluster_of_level_1_refuses_intervals_and_says_what_to_do() {
    let cluster = Cluster::with(Options {
        nodes: 1,
        programs: BTreeMap::from([(1, Program::of_level(1))]),
        ..Options::default()
    })
    .await;
    let api = cluster.api(1);
    let body = json!({"every_ms": 90_000, "job": fake_worker::job(json!("tick"))});
    let refused = put(&api, "s", &body).await.refused(409, "node_too_old");
    assert_eq!(
        (&refused["field"], &refused["level"], &refused["needed"]),
        (&json!("every_ms"), &json!(1), &json!(2))
    );
    let detail = refused["detail"].as_str().expect("a text");
    assert!(detail.contains("triarch cluster upgrade"), "{detail}");
    put(&api, "s", &every_second()).await.expect(201);
}

#[tokio::test]
async fn a_schedule_is_put_shown_paused_triggered_and_deleted_at_any_node() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let follower = cluster.follower().await;
    let (at_leader, at_follower) = (cluster.api(leader), cluster.api(follower));
    let job = json!({"name": "backup", "tasks": [{"kind": "exec", "payload": {"argv": ["true"]}}]});
    let body = json!({
        "cron": "30 2 * * MON-FRI", "timezone": "Europe/Paris", "overlap": "forbid", "catch_up": "none", "job": job
    });
    let made = put(&at_follower, "nightly", &body).await.expect(201);
    let same = put(&at_leader, "nightly", &body).await.expect(200);
    assert_eq!(same["next_tick_at"], made["next_tick_at"]);
    assert_eq!(same["created_at"], made["created_at"]);

    let shown = at_leader.get("/v1/schedules/nightly").await.expect(200);
    for field in ["cron", "timezone", "overlap", "catch_up", "job"] {
        assert_eq!(shown[field], body[field], "{field}");
    }
    assert_eq!(
        (&shown["fired"], &shown["last_job"], &shown["paused"]),
        (&json!(0), &json!(null), &json!(false))
    );
    let runs = shown["next_runs"].as_array().expect("a list");
    assert_eq!(runs.len(), 5);
    assert_eq!(runs[0]["at"], shown["next_tick_at"]);
    for run in runs {
        let local = run["local"].as_str().expect("a time");
        assert!(local.contains("T02:30:00+0"), "{local}");
    }

    let paused = at_follower
        .post("/v1/schedules/nightly/pause", &json!({}))
        .await
        .expect(200);
    assert_eq!(
        (
            &paused["paused"],
            &paused["next_tick_at"],
            &paused["next_runs"]
        ),
        (&json!(true), &json!(null), &json!([]))
    );
    let worker = cluster.worker(&["--slots", "1"]);
    let triggered = at_follower
        .call(Method::POST, "/v1/schedules/nightly/trigger")
        .answer()
        .await
        .expect(201);
    let id = triggered["id"].as_str().expect("an id");
    let done = wait_job(&at_leader, id).await;
    assert_eq!(
        (&done["state"], &done["name"], &done["idempotency_key"]),
        (&json!("succeeded"), &json!("backup"), &json!(null))
    );
    cluster.worker_process(worker).kill9();
    let resumed = at_follower
        .call(Method::POST, "/v1/schedules/nightly/resume")
        .answer()
        .await
        .expect(200);
    assert_eq!(resumed["next_tick_at"], made["next_tick_at"]);

    for name in ["a", "b c", "z"] {
        let path = name.replace(' ', "%20");
        put(&at_leader, &path, &every_second()).await.expect(201);
    }
    let page = at_follower.get("/v1/schedules?limit=2").await.expect(200);
    assert_eq!(names(&page), ["a", "b c"]);
    assert_eq!(page["next"], "b c");
    let rest = at_follower
        .get("/v1/schedules?after=b%20c")
        .await
        .expect(200);
    assert_eq!(names(&rest), ["nightly", "z"]);
    assert_eq!(rest["next"], json!(null));

    let deleted = at_follower
        .delete("/v1/schedules/nightly")
        .await
        .expect(200);
    assert_eq!(deleted["name"], "nightly");
    for (method, path) in [
        (Method::GET, "/v1/schedules/nightly"),
        (Method::DELETE, "/v1/schedules/nightly"),
        (Method::POST, "/v1/schedules/nightly/pause"),
        (Method::POST, "/v1/schedules/nightly/resume"),
        (Method::POST, "/v1/schedules/nightly/trigger"),
    ] {
        let reply = at_follower.call(method, path).answer().await;
        reply.refused(404, "not_found");
    }
}

fn names(page: &Value) -> Vec<&str> {
    let schedules = page["schedules"].as_array().expect("a list");
    schedules
        .iter()
        .map(|schedule| schedule["name"].as_str().expect("a name"))
        .collect()
}

#[tokio::test]
async fn an_invalid_schedule_is_refused_with_its_field() {
    let cluster = Cluster::start(1).await;
    let api = cluster.api(1);
    let with = |field: &str, value: Value| {
        let mut body = every_second();
        body[field] = value;
        body
    };
    let job = |task: Value| json!({"tasks": [task]});
    let interval =
        |every_ms: Value| json!({"every_ms": every_ms, "job": fake_worker::job(json!("tick"))});
    for (field, body) in [
        ("cron", with("cron", json!("* 25 * * *"))),
        ("cron", with("cron", json!("* * * *"))),
        ("cron", with("cron", json!("0 0 31 4 *"))),
        ("cron", with("cron", json!("@every 90s"))),
        ("cron", with("cron", json!("@every 90000ms"))),
        ("cron", with("cron", json!(null))),
        ("every_ms", with("every_ms", json!(90_000))),
        ("every_ms", interval(json!(0))),
        ("every_ms", interval(json!(999))),
        ("every_ms", interval(json!(1_500))),
        ("every_ms", interval(json!(31_622_401_000_u64))),
        ("every_ms", interval(json!(-1_000))),
        ("every_ms", interval(json!("90s"))),
        (
            "timezone",
            json!({"every_ms": 1_000, "timezone": "UTC", "job": fake_worker::job(json!("tick"))}),
        ),
        ("timezone", with("timezone", json!("Mars/Olympus"))),
        ("overlap", with("overlap", json!("perhaps"))),
        ("catch_up", with("catch_up", json!(true))),
        ("when", with("when", json!("now"))),
        ("job.tasks", with("job", json!({"tasks": []}))),
        ("job.tasks[0].kind", with("job", job(json!({"kind": ""})))),
        (
            "job.tasks[0].priority",
            with("job", job(json!({"kind": "exec", "priority": 10}))),
        ),
        (
            "job.tasks[0].colour",
            with("job", job(json!({"kind": "exec", "colour": "red"}))),
        ),
        (
            "job.idempotency_key",
            with(
                "job",
                json!({"tasks": [{"kind": "exec"}], "idempotency_key": "k"}),
            ),
        ),
    ] {
        let problem = put(&api, "s", &body).await.refused(400, "invalid_request");
        assert_eq!(problem["field"], field, "{body}");
    }
    let long = "s".repeat(171);
    let problem = put(&api, &long, &every_second())
        .await
        .refused(400, "invalid_request");
    assert_eq!(problem["field"], "name");
    let none = api.get("/v1/schedules").await.expect(200);
    assert_eq!(names(&none), [""; 0]);
}

#[tokio::test]
async fn a_non_overlapping_tick_is_skipped_until_the_previous_job_ends() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let mut body = every_second();
    body["overlap"] = "forbid".into();
    put(&cluster.api(leader), "one", &body).await.expect(201);
    let skipped = async |api: &Api, least: u64| {
        let what = format!("{least} ticks are skipped");
        eventually(WAIT_TIMEOUT, what, async || {
            let reply = api
                .call(Method::GET, "/v1/schedules/one")
                .send()
                .await
                .ok()?;
            let shown = (reply.status == 200).then(|| reply.json())?;
            (shown["skipped"].as_u64()? >= least).then_some(shown)
        })
        .await
    };
    let before = skipped(&cluster.api(leader), 2).await;
    assert_eq!(before["fired"], 1);
    // The next leader knows the unfinished job too.
    cluster.kill9(leader);
    let next = cluster.leader_other_than(leader).await;
    let api = cluster.api(next);
    let least = before["skipped"].as_u64().expect("a number") + 2;
    let after = skipped(&api, least).await;
    assert_eq!(
        (&after["fired"], &after["last_job"]),
        (&json!(1), &before["last_job"])
    );
    let job = after["last_job"].as_str().expect("an id");
    let path = format!("/v1/jobs/{job}/cancel");
    api.post(&path, &json!({})).await.expect(200);
    eventually(WAIT_TIMEOUT, "another tick fires", async || {
        let shown = api.get("/v1/schedules/one").await.expect(200);
        (shown["fired"] == 2).then_some(())
    })
    .await;
}
