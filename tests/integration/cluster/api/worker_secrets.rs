//! Secrets of workers: nobody who only reads can act in a worker's name.

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, Reply, eventually};

use crate::job_helpers::WAIT_TIMEOUT;

const HEADER: &str = "triarch-worker-secret";

async fn register(api: &Api, name: &str) -> (String, String) {
    let worker = json!({"name": name, "queues": ["q"], "kinds": ["k"], "slots": 1, "labels": {}, "resources": {}});
    let registered = api.post("/v1/workers", &worker).await.expect(201);
    let text = |field: &str| registered[field].as_str().expect("it is there").to_owned();
    (text("id"), text("secret"))
}

/// Makes a call in the name of a worker.
async fn own_call(api: &Api, worker: &str, call: &str, secret: Option<&str>) -> Reply {
    let (method, path) = match call {
        "" => (Method::DELETE, format!("/v1/workers/{worker}")),
        call => (Method::POST, format!("/v1/workers/{worker}/{call}")),
    };
    let body = match call {
        "report" => {
            json!({"results": [{"task": "t1-0", "token": 1, "status": "succeeded", "result": 1}]})
        }
        "output" => json!({"chunks": []}),
        "poll" => json!({"max": 0, "wait_ms": 0}),
        _ => Value::Null,
    };
    let mut call = api.call(method, &path);
    if !body.is_null() {
        call = call.json(&body);
    }
    if let Some(secret) = secret {
        call = call.header(HEADER, secret);
    }
    call.answer().await
}

#[tokio::test]
async fn a_worker_that_has_sent_its_secret_is_held_to_it_over_leader_changes_and_restarts() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let (worker, secret) = register(&api, "careful").await;
    let (plain, _) = register(&api, "of-before").await;
    assert_eq!(secret.len(), 64);

    // Until it has sent the secret, it is like a worker of before.
    own_call(&api, &worker, "heartbeat", None).await.expect(200);
    own_call(&api, &worker, "heartbeat", Some("wrong"))
        .await
        .expect(200);
    own_call(&api, &worker, "heartbeat", Some(&secret))
        .await
        .expect(200);
    for call in ["poll", "heartbeat", "report", "output", ""] {
        for wrong in [None, Some("wrong"), Some("")] {
            let refused = own_call(&api, &worker, call, wrong)
                .await
                .refused(403, "forbidden");
            let detail = refused["detail"].as_str().expect("a text");
            assert!(
                detail.contains(HEADER) && detail.contains("nothing was done"),
                "{detail}"
            );
        }
    }
    for call in ["poll", "heartbeat", "report", "output"] {
        own_call(&api, &worker, call, Some(&secret))
            .await
            .expect(200);
        own_call(&api, &plain, call, None).await.expect(200);
    }
    // Nothing shows it.
    for path in ["/v1/workers".to_owned(), format!("/v1/workers/{worker}")] {
        assert!(
            !api.get(&path)
                .await
                .expect(200)
                .to_string()
                .contains(&secret),
            "{path}"
        );
    }
    let backup = cluster.root().join("backup");
    let path = backup.display().to_string();
    cluster
        .cli()
        .run(&["cluster", "backup", &path])
        .await
        .expect(0);
    let bytes = std::fs::read(&backup).expect("a backup");
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    assert!(holds(b"careful") && !holds(secret.as_bytes()));

    for node in 1..=3 {
        cluster.terminate(node).await;
    }
    for node in 1..=3 {
        cluster.restart(node);
    }
    let leader = cluster.wait_ready().await;
    let api = cluster.api(leader);
    own_call(&api, &worker, "heartbeat", None)
        .await
        .refused(403, "forbidden");
    own_call(&api, &worker, "heartbeat", Some(&secret))
        .await
        .expect(200);
    own_call(&api, &worker, "", Some(&secret)).await.expect(200);
}

/// A reader of a task learns the worker and the token of its lease, which is all that a report needs.
#[tokio::test]
async fn a_reader_cannot_end_a_task_of_a_worker_process_or_make_the_worker_leave() {
    let mut cluster = Cluster::start(3).await;
    cluster.worker(&[]);
    let worker = cluster.wait_workers(1).await.remove(0);
    let worker = worker["id"].as_str().expect("an id").to_owned();
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let gate = cluster.root().join("gate");
    let script = format!(
        "until [ -e {} ]; do sleep 0.05; done; echo genuine",
        gate.display()
    );
    let job = json!({"tasks": [{"kind": "exec", "payload": {"argv": ["sh", "-c", script]}}]});
    let submitted = api.post("/v1/jobs", &job).await.expect(201);
    let task = submitted["tasks"][0].as_str().expect("an id").to_owned();
    let path = format!("/v1/tasks/{task}");
    let token = eventually(WAIT_TIMEOUT, "the task runs", async || {
        let shown = api.get(&path).await.expect(200);
        shown["attempts"][0]["token"].as_u64()
    })
    .await;
    let forged = json!({"results": [{"task": task, "token": token, "status": "succeeded", "result": "forged"}]});
    for call in ["report", "poll"] {
        let path = format!("/v1/workers/{worker}/{call}");
        api.post(&path, &forged).await.refused(403, "forbidden");
    }
    own_call(&api, &worker, "", None)
        .await
        .refused(403, "forbidden");
    std::fs::write(&gate, "").expect("it can be written");
    let ended = api.get(&format!("{path}?wait_ms=20000")).await.expect(200);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["result"]["stdout"], "genuine\n", "{ended}");
    // A process that is started again has lost its secret. It registers under another id.
    cluster.worker_process(0).terminate();
    cluster.worker_process(0).wait(WAIT_TIMEOUT).await;
    cluster.restart_worker(0);
    let again = cluster.wait_workers(1).await.remove(0);
    assert_ne!(again["id"], worker.as_str());
    let job = json!({"tasks": [{"kind": "exec", "payload": {"argv": ["true"]}}]});
    let submitted = api.post("/v1/jobs", &job).await.expect(201);
    let path = format!(
        "/v1/jobs/{}?wait_ms=20000",
        submitted["id"].as_str().expect("an id")
    );
    assert_eq!(api.get(&path).await.expect(200)["state"], "succeeded");
}
