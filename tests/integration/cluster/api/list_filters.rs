//! Filters of the lists of tasks and jobs, which combine, their order and counts, and bulk changes that only count.

use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeWorker, fake_worker};

async fn list(api: &Api, query: &str) -> Vec<String> {
    let page = api.get(&format!("/v1/tasks?{query}")).await.expect(200);
    ids(&page)
}

fn ids(page: &Value) -> Vec<String> {
    let tasks = page["tasks"].as_array().expect("a list").iter();
    tasks
        .map(|task| task["id"].as_str().expect("an id").to_owned())
        .collect()
}

async fn submit(api: &Api, name: &str, fields: Value) -> String {
    let mut task = json!({"kind": fake_worker::KIND, "max_attempts": 1});
    for (field, value) in fields.as_object().expect("an object") {
        task[field] = value.clone();
    }
    let submitted = api.submit(&json!({"name": name, "tasks": [task]})).await;
    submitted["tasks"][0].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn filters_of_the_list_of_tasks_combine_in_both_orders() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    let worker = FakeWorker::register(&cluster, "w", 2).await;
    let failing = submit(&api, "nightly", json!({"tags": ["red", "blue"]})).await;
    let failed_too = submit(&api, "hourly", json!({"tags": ["blue"]})).await;
    for kind in ["ValueError", "exit"] {
        let lease = worker.take(&[]).await;
        let mut report = lease.failed(false);
        report["error"] = json!({"type": kind, "message": "why"});
        worker.report_all(&[report]).await;
    }
    let waiting = submit(&api, "nightly", json!({"queue": "mail", "tags": ["blue"]})).await;
    let delayed = submit(&api, "nightly", json!({"delay_ms": 3_600_000})).await;
    let all = [&failing, &failed_too, &waiting, &delayed];

    assert_eq!(list(&api, "").await, all.map(String::as_str));
    let mut newest_first = all.map(String::as_str);
    newest_first.reverse();
    assert_eq!(list(&api, "order=desc").await, newest_first);
    for (query, expected) in [
        ("tag=blue", &all[..3]),
        ("tag=red", &all[..1]),
        ("tag=bl", &[]),
        ("name=nightly", &[&failing, &waiting, &delayed]),
        ("name=nightly&tag=blue", &[&failing, &waiting]),
        ("name=nightly&tag=blue&queue=mail", &[&waiting]),
        ("state=failed", &[&failing, &failed_too]),
        ("state=queued,delayed", &[&waiting, &delayed]),
        ("error_type=exit", &[&failed_too]),
        ("error_type=ValueError&state=failed", &[&failing]),
        ("error_type=ValueError&state=queued", &[]),
        ("submitted_after=2020-01-01T00:00:00Z", &all),
        ("submitted_before=2020-01-01T00:00:00Z", &[]),
        ("ended_after=2020-01-01T00:00:00Z", &[&failing, &failed_too]),
        ("ended_before=2020-01-01T00:00:00Z", &[]),
    ] {
        let expected: Vec<&str> = expected.iter().map(|id| id.as_str()).collect();
        assert_eq!(list(&api, query).await, expected, "{query}");
    }
    // The moment of a task belongs to what is after it, and not to what is before it.
    let shown = api.get(&format!("/v1/tasks/{waiting}")).await.expect(200);
    let at = shown["created_at"].as_str().expect("a time");
    let tag = "queue=mail&tag=blue";
    assert_eq!(
        list(&api, &format!("{tag}&submitted_after={at}")).await,
        [waiting.as_str()]
    );
    assert_eq!(
        list(&api, &format!("{tag}&submitted_before={at}")).await,
        [""; 0]
    );

    // A count is that of all pages, and is there on request only.
    for (query, expected) in [
        ("limit=2", 4),
        ("state=failed", 2),
        ("state=failed,queued&queue=default", 2),
        ("queue=mail", 1),
        ("queue=unheard-of", 0),
        ("name=nightly", 3),
        ("tag=blue&error_type=exit", 1),
        ("tag=green", 0),
    ] {
        let path = format!("/v1/tasks?{query}&count=true");
        let page = api.get(&path).await.expect(200);
        assert_eq!(page["count"], expected, "{query}: {page}");
    }
    let page = api.get("/v1/tasks?count=false").await.expect(200);
    assert_eq!(page.get("count"), None, "{page}");

    // Pages go on in their order.
    let mut pages = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/tasks?order=desc&name=nightly&limit=1{after}");
        let page = api.get(&path).await.expect(200);
        pages.extend(ids(&page));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(pages, [&delayed, &waiting, &failing].map(String::as_str));

    for (query, field) in [
        ("order=newest", "order"),
        ("state=queued,done", "state"),
        ("submitted_after=yesterday", "submitted_after"),
        ("ended_before=7", "ended_before"),
        ("colour=blue", "colour"),
        ("count=yes", "count"),
    ] {
        let refused = api.get(&format!("/v1/tasks?{query}")).await;
        let problem = refused.refused(400, "invalid_request");
        assert_eq!(problem["field"], field, "{problem}");
    }
}

#[tokio::test]
async fn filters_of_the_list_of_jobs_combine_and_count() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    let job_of = async |task: String| {
        let shown = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
        shown["job"].as_str().expect("an id").to_owned()
    };
    let first = job_of(submit(&api, "one", json!({"tags": ["blue"]})).await).await;
    let second =
        job_of(submit(&api, "two", json!({"tags": ["blue"], "queue": "mail"})).await).await;
    let third = job_of(submit(&api, "two", json!({"kind": "other"})).await).await;
    let cancelled = api
        .post(&format!("/v1/jobs/{third}/cancel"), &json!({}))
        .await;
    cancelled.expect(200);
    // A user's job with a key like that of a tick, of a schedule whose name begins with the other's.
    let mut ticked = json!({"name": "tick", "tasks": [{"kind": "other"}]});
    ticked["idempotency_key"] = json!("schedule:hourly:2026-11-23T10:00:00Z");
    let tick = api.submit(&ticked).await["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    ticked["idempotency_key"] = json!("schedule:hourly:eu:2026-11-23T10:00:00Z");
    let tick_eu = api.submit(&ticked).await["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    for (query, expected) in [
        ("", vec![&tick_eu, &tick, &third, &second, &first]),
        ("order=asc", vec![&first, &second, &third, &tick, &tick_eu]),
        ("name=two", vec![&third, &second]),
        ("name=two&tag=blue", vec![&second]),
        ("tag=blue", vec![&second, &first]),
        ("queue=mail", vec![&second]),
        ("kind=other", vec![&tick_eu, &tick, &third]),
        ("kind=other&state=running", vec![&tick_eu, &tick]),
        ("state=cancelled,failed", vec![&third]),
        ("ended_after=2020-01-01T00:00:00Z", vec![&third]),
        ("submitted_before=2020-01-01T00:00:00Z", vec![]),
        ("schedule=hourly", vec![&tick]),
        ("schedule=hourly:eu", vec![&tick_eu]),
        ("schedule=hour", vec![]),
    ] {
        let page = api
            .get(&format!("/v1/jobs?count=true&{query}"))
            .await
            .expect(200);
        let jobs = page["jobs"].as_array().expect("a list").iter();
        let found: Vec<&str> = jobs.filter_map(|job| job["id"].as_str()).collect();
        assert_eq!(found, expected, "{query}");
        assert_eq!(page["count"], expected.len(), "{query}");
    }
    assert_eq!(list(&api, "schedule=hourly").await.len(), 1);
    let pages = api.get("/v1/jobs?order=asc&limit=2").await.expect(200);
    let next = pages["next"].as_str().expect("more");
    let rest = api
        .get(&format!("/v1/jobs?order=asc&after={next}"))
        .await
        .expect(200);
    assert_eq!(rest["jobs"].as_array().map(Vec::len), Some(3), "{rest}");
    let refused = api.get("/v1/jobs?state=queued").await;
    assert_eq!(refused.refused(400, "invalid_request")["field"], "state");
}

#[tokio::test]
async fn a_bulk_change_with_dry_run_counts_the_same_tasks_and_changes_none() {
    let mut cluster = Cluster::start(3).await;
    let (_, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(follower);
    for tag in ["blue", "blue", "red"] {
        submit(&api, "job", json!({"tags": [tag]})).await;
    }
    let selection = |tag: &str, dry_run: bool| json!({"tag": tag, "dry_run": dry_run});
    for (verb, tag, count) in [
        ("cancel", "blue", 2),
        ("retry", "blue", 0),
        ("forget", "red", 0),
    ] {
        let path = format!("/v1/tasks/{verb}");
        let counted = api.post(&path, &selection(tag, true)).await.expect(200);
        assert_eq!(counted, json!({"count": count}), "{verb}");
    }
    let purge = json!({"dry_run": true});
    let counted = api
        .post("/v1/queues/default/purge", &purge)
        .await
        .expect(200);
    assert_eq!(counted["cancelled"], 3, "{counted}");
    assert_eq!(list(&api, "state=queued").await.len(), 3);

    let cancelled = api
        .post("/v1/tasks/cancel", &selection("blue", false))
        .await;
    assert_eq!(cancelled.expect(200)["count"], 2);
    assert_eq!(list(&api, "state=queued&tag=red").await.len(), 1);
    let state = json!({"tag": "blue", "state": "cancelled", "dry_run": true});
    for (verb, count) in [("retry", 2), ("forget", 2), ("cancel", 0)] {
        let counted = api.post(&format!("/v1/tasks/{verb}"), &state).await;
        assert_eq!(counted.expect(200)["count"], count, "{verb}");
    }
    assert_eq!(list(&api, "state=cancelled").await.len(), 2);
    // The filters of lists select here too, and all of them count.
    let past = "2020-01-01T00:00:00Z";
    for (filter, count) in [
        (json!({"name": "job"}), 3),
        (json!({"name": "job", "tag": "red"}), 1),
        (json!({"name": "other"}), 0),
        (json!({"submitted_before": past}), 0),
        (json!({"submitted_after": past, "tag": "blue"}), 2),
        (json!({"ended_before": past, "tag": "blue"}), 0),
        (json!({"error_type": "exit"}), 0),
        (json!({"schedule": "nightly"}), 0),
    ] {
        let mut selection = filter.clone();
        selection["dry_run"] = json!(true);
        let mut counted = 0;
        for (state, verb) in [("queued", "cancel"), ("cancelled", "retry")] {
            selection["state"] = json!(state);
            let answer = api.post(&format!("/v1/tasks/{verb}"), &selection).await;
            counted += answer.expect(200)["count"].as_u64().expect("a number");
        }
        assert_eq!(counted, count, "{filter}");
    }
    let nothing = api
        .post("/v1/tasks/cancel", &json!({"dry_run": true}))
        .await;
    nothing.refused(400, "invalid_request");
}
