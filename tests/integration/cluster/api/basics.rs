//! Basic operations: submissions and reads, at any node.

use reqwest::Method;
use serde_json::json;
use triarch_harness::{Cluster, equal_digests, fake_worker};

use crate::job_helpers::{WAIT_TIMEOUT, exec, shell, submit_task, succeeded_once, wait_job};

#[tokio::test]
async fn a_job_submitted_to_a_follower_is_visible_on_every_node() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    // Without following redirects, like `curl -X POST`.
    let submitted = cluster.api(follower).submit(&exec(&["true"])).await;
    assert_eq!(submitted["duplicate"], false);
    let job = submitted["id"].as_str().expect("an id");
    for api in cluster.apis() {
        let shown = api.get(&format!("/v1/jobs/{job}")).await.expect(200);
        assert_eq!(shown["id"], job);
        assert_eq!(shown["state"], "running");
        assert_eq!(shown["counts"]["queued"], 1);
        let tasks = api.get(&format!("/v1/jobs/{job}/tasks")).await.expect(200);
        assert_eq!(tasks["tasks"][0]["id"], submitted["tasks"][0]);
        assert_eq!(tasks["next"], json!(null));
        let listed = api.get("/v1/jobs").await.expect(200);
        assert_eq!(listed["jobs"][0]["id"], job);
    }
}

#[tokio::test]
async fn a_read_with_a_min_index_sees_that_write_on_any_node() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for round in 0..20 {
        let reply = cluster
            .api(leader)
            .post("/v1/jobs", &fake_worker::job(json!(round)))
            .await;
        let index = reply.index();
        let job = reply.expect(201)["id"].as_str().expect("an id").to_owned();
        for api in cluster.apis() {
            let path = format!("/v1/jobs/{job}?consistency=stale");
            let read = api
                .call(Method::GET, &path)
                .header("triarch-min-index", index)
                .answer()
                .await;
            assert_eq!(read.expect(200)["id"], job.as_str());
            assert!(read.index() >= index, "{} < {index}", read.index());
        }
    }
}

#[tokio::test]
async fn submitting_an_idempotency_key_again_returns_the_first_job() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let leader = cluster.leader().await;
    let mut job = exec(&["true"]);
    job["idempotency_key"] = "nightly".into();
    let first = cluster.api(follower).submit(&job).await;
    for node in [leader, follower] {
        let again = cluster.api(node).post("/v1/jobs", &job).await.expect(200);
        assert_eq!(again["duplicate"], true);
        assert_eq!(
            (&again["id"], &again["tasks"]),
            (&first["id"], &first["tasks"])
        );
    }
    job["tasks"][0]["priority"] = 5.into();
    let refused = cluster.api(follower).post("/v1/jobs", &job).await;
    refused.refused(409, "conflict");
    // None of these requests created anything.
    let listed = cluster.api(leader).get("/v1/jobs").await.expect(200);
    assert_eq!(
        listed["jobs"].as_array().expect("jobs").len(),
        1,
        "{listed}"
    );
}

#[tokio::test]
async fn a_request_id_repeated_at_another_node_is_executed_once() {
    let mut cluster = Cluster::start(3).await;
    let job = exec(&["true"]);
    let mut ids = Vec::new();
    for api in cluster.apis() {
        let call = api
            .call(Method::POST, "/v1/jobs")
            .header("triarch-request-id", "one-change");
        let reply = call.json(&job).answer().await;
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        ids.push(reply.json()["id"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    // The same holds after a leader change.
    let leader = cluster.leader().await;
    cluster.kill9(leader);
    let next = cluster.leader_other_than(leader).await;
    let call = cluster
        .api(next)
        .call(Method::POST, "/v1/jobs")
        .header("triarch-request-id", "one-change");
    let reply = call.json(&job).answer().await;
    assert_eq!(reply.json()["id"], ids[0], "{reply:?}");
}

#[tokio::test]
async fn a_worker_that_knows_one_follower_gets_tasks_and_its_output_is_shown() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let only = cluster.url(follower);
    cluster.worker_of(&only, &["--slots", "2"]);
    let api = cluster.api(follower);
    let submitted = api
        .submit(&shell("echo out; echo err >&2; cat; echo $TRIARCH_ATTEMPT"))
        .await;
    let job = wait_job(&api, submitted["id"].as_str().expect("an id")).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["counts"]["succeeded"], 1);
    let task = submitted["tasks"][0].as_str().expect("an id");
    let task = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
    assert_eq!(task["result"]["exit_code"], 0);
    let attempt = task["attempt"].as_u64().expect("a number");
    assert_eq!(task["result"]["stdout"], format!("out\n{attempt}\n"));
    assert_eq!(task["result"]["stderr"], "err\n");
    assert_eq!(task["result"]["truncated"], false);
    assert!(succeeded_once(&task), "{task}");
}

#[tokio::test]
async fn the_pages_of_a_list_together_contain_every_item_once() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let tasks: Vec<_> = (0..25)
        .map(|nth| json!({"kind": "hand", "payload": nth, "queue": "pages"}))
        .collect();
    let submitted = api.submit(&json!({"name": "many", "tasks": tasks})).await;
    let job = submitted["id"].as_str().expect("an id");
    for path in [
        format!("/v1/jobs/{job}/tasks?limit=10"),
        "/v1/tasks?queue=pages&limit=10".to_owned(),
    ] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = api.get(&format!("{path}{after}")).await.expect(200);
            seen.extend(
                page["tasks"]
                    .as_array()
                    .expect("tasks")
                    .iter()
                    .map(|task| task["id"].clone()),
            );
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(json!(seen), submitted["tasks"], "{path}");
    }
    // The pages of the first job contain no task of another job.
    submit_task(&api, &fake_worker::job(json!(null))).await;
    let named = api.get("/v1/jobs?name=many").await.expect(200);
    assert_eq!(named["jobs"].as_array().expect("jobs").len(), 1);
}

#[tokio::test]
async fn nodes_with_the_same_table_have_the_same_digest() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let empty = equal_digests(WAIT_TIMEOUT, &cluster.apis()).await;
    assert_eq!(empty.value.len(), 16, "{empty:?}");
    let submitted = api.post("/v1/jobs", &fake_worker::job(json!(1))).await;
    let full = equal_digests(WAIT_TIMEOUT, &cluster.apis()).await;
    assert!(full.index >= submitted.index(), "{full:?}");
    assert_ne!(full.value, empty.value);
    let plain = api.get("/v1/cluster").await.expect(200);
    assert!(
        plain.get("digest").is_none(),
        "only when asked for: {plain}"
    );
}
