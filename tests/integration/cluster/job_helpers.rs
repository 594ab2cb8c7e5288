//! Jobs of these tests, and the states of their tasks.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, eventually, until};

/// Maximum time for a task to reach the expected state.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns a job with one command.
pub fn exec(argv: &[&str]) -> Value {
    json!({"tasks": [{"kind": "exec", "payload": {"argv": argv}}]})
}

/// Returns a job with one shell script.
pub fn shell(script: &str) -> Value {
    exec(&["sh", "-c", script])
}

/// Returns the id of the first task in the answer to a submission.
pub fn first_task(submitted: &Value) -> String {
    submitted["tasks"][0]
        .as_str()
        .expect("a task's id")
        .to_owned()
}

/// Submits one task at this node and returns its id.
pub async fn submit_task(api: &Api, job: &Value) -> String {
    first_task(&api.submit(job).await)
}

/// Waits until the task is in this state, and returns the task.
pub async fn wait_state(api: &Api, task: &str, state: &str) -> Value {
    eventually(
        WAIT_TIMEOUT,
        format!("task {task} is {state}"),
        async || {
            let reply = api
                .call(reqwest::Method::GET, &format!("/v1/tasks/{task}"))
                .send()
                .await
                .ok()?;
            let task = (reply.status == 200).then(|| reply.json())?;
            (task["state"] == state).then_some(task)
        },
    )
    .await
}

/// Waits until the job is terminal, and returns it.
pub async fn wait_job(api: &Api, job: &str) -> Value {
    eventually(WAIT_TIMEOUT, format!("job {job} finishes"), async || {
        let path = format!("/v1/jobs/{job}?wait_ms=5000");
        let reply = api.call(reqwest::Method::GET, &path).send().await.ok()?;
        let job = (reply.status == 200).then(|| reply.json())?;
        (job["state"] != "running").then_some(job)
    })
    .await
}

/// Returns every task of a job, with all its fields.
pub async fn shown(api: &Api, submitted: &Value) -> Vec<Value> {
    let mut tasks = Vec::new();
    for id in submitted["tasks"].as_array().expect("ids") {
        let path = format!("/v1/tasks/{}", id.as_str().expect("an id"));
        tasks.push(api.get(&path).await.expect(200));
    }
    tasks
}

/// Waits until this many tasks of a job have succeeded.
pub async fn wait_succeeded(api: &Api, submitted: &Value, count: u64) {
    let path = format!("/v1/jobs/{}", submitted["id"].as_str().expect("an id"));
    until(
        WAIT_TIMEOUT,
        format!("{count} tasks have succeeded"),
        async || {
            let reply = api.call(Method::GET, &path).send().await;
            let job = reply.ok().filter(|reply| reply.status == 200);
            job.is_some_and(|job| job.json()["counts"]["succeeded"].as_u64() >= Some(count))
        },
    )
    .await;
}

/// Returns the outcomes of a task's attempts, in order.
pub fn outcomes(task: &Value) -> Vec<String> {
    let attempts = task["attempts"].as_array().cloned().unwrap_or_default();
    attempts
        .iter()
        .map(|attempt| attempt["outcome"].as_str().unwrap_or("running").to_owned())
        .collect()
}

/// Returns the attempts of a task that count. An attempt that was returned does not: its worker fetched it too late,
/// which any lease does on a machine that is busy enough. For the same reason no test asks for the number of an attempt.
pub fn counted_attempts(task: &Value) -> Vec<&Value> {
    let attempts = task["attempts"].as_array().into_iter().flatten();
    attempts
        .filter(|attempt| attempt["outcome"] != "returned")
        .collect()
}

/// Returns the outcomes of a task's counted attempts, in order.
pub fn counted_outcomes(task: &Value) -> Vec<String> {
    let attempts = counted_attempts(task).into_iter().cloned();
    outcomes(&json!({ "attempts": attempts.collect::<Vec<_>>() }))
}

/// Checks that one attempt succeeded, and that all others were returned by a slow worker.
pub fn succeeded_once(task: &Value) -> bool {
    counted_outcomes(task) == ["succeeded"]
}

/// Checks that the cluster accepts a job, runs it and shows its result, whatever happened before.
pub async fn assert_works(cluster: &mut Cluster) {
    let worker = triarch_harness::FakeWorker::register(cluster, "still-works", 1).await;
    for node in cluster.running() {
        let api = cluster.api(node);
        let task = submit_task(&api, &triarch_harness::fake_worker::job(json!(node))).await;
        let lease = worker.take(&[]).await;
        assert_eq!((&lease.task, &lease.payload), (&task, &json!(node)));
        let acknowledgement = worker.report(lease.succeeded(json!("done"))).await;
        assert_eq!(acknowledgement["accepted"], true, "{acknowledgement}");
        let shown = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
        assert_eq!(
            (&shown["state"], &shown["result"]),
            (&json!("succeeded"), &json!("done"))
        );
    }
    worker.leave().await;
}
