//! Workers that are late, faulty, paused or dead: their tasks end correctly, and exactly one result counts.

use serde_json::{Value, json};
use triarch_harness::{Cluster, FakeWorker, Options, fake_worker, until};

use crate::job_helpers::{
    WAIT_TIMEOUT, assert_works, counted_outcomes, shell, submit_task, succeeded_once, wait_state,
};
use crate::operations::metrics::scrape;

/// Length of a lease: short enough for a test to wait for its end, and long enough for a busy machine.
const SHORT_LEASE_MS: u64 = 1_500;

async fn with_short_leases() -> Cluster {
    Cluster::with(Options {
        lease_ms: SHORT_LEASE_MS,
        ..Options::default()
    })
    .await
}

fn accepted(acknowledgement: &Value) -> bool {
    acknowledgement["accepted"] == true
}

#[tokio::test]
async fn a_result_is_accepted_once_and_only_under_its_lease() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let (owner, other) = (
        FakeWorker::register(&cluster, "owner", 4).await,
        FakeWorker::register(&cluster, "other", 4).await,
    );
    let task = submit_task(&api, &fake_worker::job(json!(1))).await;
    let lease = owner.take(&[]).await;
    assert_eq!(lease.task, task);

    // The report of another worker, even with the right token.
    let acknowledgement = other.report(lease.succeeded(json!("stolen"))).await;
    assert_eq!(
        (accepted(&acknowledgement), &acknowledgement["code"]),
        (false, &json!("stale_token")),
        "{acknowledgement}"
    );
    // A token that was never issued.
    for token in [0, lease.token - 1, lease.token + 1, u64::MAX] {
        let mut wrong = lease.succeeded(json!("wrong"));
        wrong["token"] = token.into();
        let acknowledgement = owner.report(wrong).await;
        assert_eq!(
            (accepted(&acknowledgement), &acknowledgement["code"]),
            (false, &json!("stale_token")),
            "{token}: {acknowledgement}"
        );
    }
    // A task that does not exist.
    for task in ["t999999-0", "nonsense", ""] {
        let mut wrong = lease.succeeded(json!("wrong"));
        wrong["task"] = task.into();
        let acknowledgement = owner.report(wrong).await;
        assert_eq!(
            (accepted(&acknowledgement), &acknowledgement["code"]),
            (false, &json!("not_found")),
            "{task}: {acknowledgement}"
        );
    }
    assert_eq!(
        api.get(&format!("/v1/tasks/{task}")).await.expect(200)["state"],
        "running"
    );

    assert!(accepted(
        &owner.report(lease.succeeded(json!("right"))).await
    ));
    // The answer was lost: the same report is accepted again.
    assert!(accepted(
        &owner.report(lease.succeeded(json!("right"))).await
    ));
    // A different report is not accepted.
    let acknowledgement = owner.report(lease.failed(true)).await;
    assert_eq!(
        (accepted(&acknowledgement), &acknowledgement["code"]),
        (false, &json!("already_finished")),
        "{acknowledgement}"
    );
    let acknowledgement = other.report(lease.succeeded(json!("late"))).await;
    assert!(!accepted(&acknowledgement), "{acknowledgement}");
    let shown = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
    assert_eq!(
        (&shown["state"], &shown["result"]),
        (&json!("succeeded"), &json!("right"))
    );
    assert!(succeeded_once(&shown), "{shown}");
}

#[tokio::test]
async fn one_invalid_result_among_many_is_refused_alone() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let worker = FakeWorker::register(&cluster, "w", 8).await;
    for nth in 0..3 {
        submit_task(&api, &fake_worker::job(json!(nth))).await;
    }
    let mut leases = Vec::new();
    while leases.len() < 3 {
        leases.extend(worker.poll(8, 1_000, &leases.clone()).await);
    }
    let mut stale = leases[1].succeeded(json!(1));
    stale["token"] = 1.into();
    let huge = leases[2].succeeded(json!("x".repeat(1 << 20)));
    let results = [leases[0].succeeded(json!(0)), stale, huge];
    let answer = worker
        .worker_call("report", &json!({"results": results}))
        .await
        .expect(200);
    let acknowledgements = answer["results"].as_array().expect("verdicts");
    assert!(accepted(&acknowledgements[0]), "{answer}");
    assert_eq!(acknowledgements[1]["code"], "stale_token");
    assert_eq!(acknowledgements[2]["code"], "payload_too_large");
    // Both can still be reported correctly.
    assert!(accepted(
        &worker.report(leases[1].succeeded(json!(1))).await
    ));
    assert!(accepted(
        &worker.report(leases[2].succeeded(json!(2))).await
    ));
}

#[tokio::test]
async fn results_sent_with_a_poll_are_neither_lost_nor_leased_again() {
    let cluster = Cluster::start(3).await;
    let worker = FakeWorker::register(&cluster, "w", 4).await;
    let api = cluster.api(1);
    for nth in 0..2 {
        submit_task(&api, &fake_worker::job(json!(nth))).await;
    }
    let mut leases = Vec::new();
    while leases.len() < 2 {
        leases.extend(worker.poll(4, 1_000, &leases.clone()).await);
    }
    // The worker also lists them as running, as if it builds its list only once.
    let running: Value = leases
        .iter()
        .map(|lease| json!({"task": lease.task, "token": lease.token}))
        .collect();
    let huge = leases[1].succeeded(json!("x".repeat(1 << 20)));
    let results = [leases[0].succeeded(json!(0)), huge];
    let poll = json!({"max": 4, "wait_ms": 10, "results": results, "running": running});
    let answer = worker.worker_call("poll", &poll).await.expect(200);
    assert!(accepted(&answer["results"][0]), "{answer}");
    assert_eq!(answer["results"][1]["code"], "payload_too_large");
    assert_eq!(answer["lost"], json!([]), "{answer}");
    // The lease whose result was refused is not listed as running, and the worker can still report it.
    let poll = json!({"max": 4, "wait_ms": 10, "results": [results[1]], "running": []});
    let answer = worker.worker_call("poll", &poll).await.expect(200);
    assert_eq!(answer["tasks"], json!([]), "{answer}");
    assert!(accepted(
        &worker.report(leases[1].succeeded(json!(1))).await
    ));
}

#[tokio::test]
async fn a_worker_name_is_refused_while_a_live_worker_has_it() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let first = FakeWorker::register(&cluster, "same", 1).await;
    let again = cluster
        .api(leader)
        .post("/v1/workers", &json!({"name": "same"}))
        .await;
    assert_eq!(again.refused(409, "conflict")["field"], "name");
    first.leave().await;
    let second = FakeWorker::register(&cluster, "same", 1).await;
    assert_ne!(first.id, second.id);
    // The worker that left is no longer known.
    first
        .worker_call("poll", &json!({"max": 1}))
        .await
        .refused(404, "unknown_worker");
}

#[tokio::test]
async fn a_deregistered_worker_returns_its_leases_at_once() {
    let mut cluster = Cluster::with(Options {
        lease_ms: 600_000,
        ..Options::default()
    })
    .await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let (first, second) = (
        FakeWorker::register(&cluster, "first", 1).await,
        FakeWorker::register(&cluster, "second", 1).await,
    );
    let task = submit_task(&api, &fake_worker::job(json!(1))).await;
    let lease = first.take(&[]).await;
    let left = first.leave().await;
    assert_eq!(left["returned"], 1, "{left}");
    let next = second.take(&[]).await;
    assert_eq!(next.task, task);
    assert!(next.token > lease.token, "{next:?} after {lease:?}");
    assert!(next.attempt > lease.attempt, "{next:?} after {lease:?}");
    let acknowledgement = first.report(lease.succeeded(json!("late"))).await;
    assert_eq!(
        (accepted(&acknowledgement), &acknowledgement["code"]),
        (false, &json!("stale_token"))
    );
    assert!(accepted(
        &second.report(next.succeeded(json!("right"))).await
    ));
}

#[tokio::test]
async fn a_lease_whose_response_was_lost_is_granted_again() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let worker = FakeWorker::register(&cluster, "w", 2).await;
    submit_task(&api, &fake_worker::job(json!(1))).await;
    let lost = worker.take(&[]).await;
    // The worker did not receive that answer, so it does not list the lease.
    let again = worker.take(&[]).await;
    assert_eq!(lost, again, "the very same lease");
    // The worker holds the lease now, so nothing more is delivered.
    assert_eq!(worker.poll(1, 0, std::slice::from_ref(&again)).await, []);
    // The same over a leader change.
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    assert_eq!(worker.take(&[]).await, lost);
    assert!(accepted(
        &worker.report(lost.succeeded(json!("right"))).await
    ));
}

#[tokio::test]
async fn a_silent_worker_loses_its_lease_and_its_late_report_is_refused() {
    let mut cluster = with_short_leases().await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let silent = FakeWorker::register(&cluster, "silent", 1).await;
    let task = submit_task(&api, &fake_worker::job(json!(1))).await;
    let old = silent.take(&[]).await;
    wait_state(&api, &task, "queued").await;
    let heir = FakeWorker::register(&cluster, "heir", 1).await;
    let new = heir.take(&[]).await;
    assert_eq!(new.task, task);
    assert!(new.attempt > old.attempt && new.token > old.token);

    let acknowledgement = silent.report(old.succeeded(json!("late"))).await;
    assert_eq!(
        (accepted(&acknowledgement), &acknowledgement["code"]),
        (false, &json!("stale_token")),
        "{acknowledgement}"
    );
    assert!(accepted(&heir.report(new.succeeded(json!("right"))).await));
    let acknowledgement = silent.report(old.succeeded(json!("late"))).await;
    assert!(!accepted(&acknowledgement), "{acknowledgement}");
    let shown = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
    assert_eq!(
        (&shown["result"], counted_outcomes(&shown)),
        (
            &json!("right"),
            vec!["lost".to_owned(), "succeeded".to_owned()]
        )
    );
    // The loss does not count as a failure of the task.
    assert_eq!(
        (&shown["failures"], &shown["losses"]),
        (&json!(0), &json!(1)),
        "{shown}"
    );
}

#[tokio::test]
async fn a_lease_named_in_heartbeats_is_kept_and_an_unnamed_one_expires() {
    let mut cluster = with_short_leases().await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let worker = FakeWorker::register(&cluster, "w", 2).await;
    let (kept, dropped) = (
        submit_task(&api, &fake_worker::job(json!(1))).await,
        submit_task(&api, &fake_worker::job(json!(2))).await,
    );
    let first = worker.take(&[]).await;
    let second = worker.take(std::slice::from_ref(&first)).await;
    assert_eq!((&first.task, &second.task), (&kept, &dropped));
    let alive = worker.keep_alive(std::slice::from_ref(&first));
    // Three times the length of a lease passes by the leader's monotonic clock. The other lease ends, and its next one
    // too.
    wait_state(&api, &dropped, "queued").await;
    drop(alive);
    let answer = worker.heartbeat(&[first.clone(), second.clone()]).await;
    assert_eq!(answer["lost"], json!([dropped]), "{answer}");
    assert!(accepted(
        &worker.report(first.succeeded(json!("right"))).await
    ));
}

#[tokio::test]
async fn the_task_of_a_killed_worker_runs_on_another() {
    let mut cluster = with_short_leases().await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let began = cluster.root().join("began");
    let script = format!(
        "if [ -e '{0}' ]; then echo second; else touch '{0}'; sleep 600; fi",
        began.display()
    );
    let doomed = cluster.worker(&["--slots", "1"]);
    let task = submit_task(&api, &shell(&script)).await;
    until(WAIT_TIMEOUT, "the first attempt runs", async || {
        began.exists()
    })
    .await;
    cluster.worker(&["--slots", "1"]);
    cluster.worker_process(doomed).kill9();
    let shown = wait_state(&api, &task, "succeeded").await;
    assert_eq!(shown["result"]["stdout"], "second\n");
    assert_eq!(counted_outcomes(&shown), ["lost", "succeeded"]);
}

#[tokio::test]
async fn a_worker_paused_past_its_lease_changes_nothing_when_it_resumes() {
    let mut cluster = with_short_leases().await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let (began, go) = (cluster.root().join("began"), cluster.root().join("go"));
    let script = format!(
        "touch '{}'; while [ ! -e '{}' ]; do sleep 0.05; done; echo \"attempt $TRIARCH_ATTEMPT\"",
        began.display(),
        go.display()
    );
    let sleeper = cluster.worker(&["--slots", "1"]);
    let task = submit_task(&api, &shell(&script)).await;
    until(WAIT_TIMEOUT, "the first attempt runs", async || {
        began.exists()
    })
    .await;
    cluster.worker_process(sleeper).stop();
    // The child process continues and ends during the pause: a result waits to be reported when the worker resumes.
    std::fs::write(&go, "").expect("a file can be written");
    wait_state(&api, &task, "queued").await;
    cluster.worker(&["--slots", "1"]);
    let before = wait_state(&api, &task, "succeeded").await;
    let attempt = before["attempt"].as_u64().expect("a number");
    let stdout = format!("attempt {attempt}\n");
    assert_eq!(before["result"]["stdout"], stdout, "{before}");

    cluster.worker_process(sleeper).cont();
    // After the pause the worker must register again before it gets a task.
    cluster.wait_workers(2).await;
    let after = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
    assert_eq!(before, after, "the accepted result stays");
    assert_eq!(counted_outcomes(&after), ["lost", "succeeded"]);
    // The worker works again.
    let jobs: Vec<Value> = (0..4)
        .map(|_| json!({"kind": "exec", "payload": {"argv": ["true"]}}))
        .collect();
    let job = api.submit(&json!({"tasks": jobs})).await;
    let done = crate::job_helpers::wait_job(&api, job["id"].as_str().expect("an id")).await;
    assert_eq!(done["state"], "succeeded");
}

#[tokio::test]
async fn a_terminated_worker_finishes_its_tasks_and_deregisters() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let (began, go) = (cluster.root().join("began"), cluster.root().join("go"));
    let script = format!(
        "touch '{}'; while [ ! -e '{}' ]; do sleep 0.05; done; echo done",
        began.display(),
        go.display()
    );
    let worker = cluster.worker(&["--slots", "1"]);
    let task = submit_task(&api, &shell(&script)).await;
    until(WAIT_TIMEOUT, "the attempt runs", async || began.exists()).await;
    let waiting = submit_task(&api, &shell("echo later")).await;
    let worker = cluster.worker_process(worker);
    worker.terminate();
    until(WAIT_TIMEOUT, "the worker says that it stops", async || {
        worker.log().contains("taking no more")
    })
    .await;
    std::fs::write(&go, "").expect("a file can be written");
    let status = worker.wait(WAIT_TIMEOUT).await;
    assert!(status.success(), "{status}");
    let shown = wait_state(&api, &task, "succeeded").await;
    assert_eq!(
        (&shown["result"]["stdout"], counted_outcomes(&shown)),
        (&json!("done\n"), vec!["succeeded".to_owned()])
    );
    assert_eq!(
        api.get("/v1/workers").await.expect(200)["workers"][0]["state"],
        "left"
    );
    assert_eq!(
        api.get(&format!("/v1/tasks/{waiting}")).await.expect(200)["state"],
        "queued"
    );
    assert_works(&mut cluster).await;
}

/// Returns the log index of the entry that granted a lease.
fn granted_at(token: u64) -> u64 {
    const POSITION_BITS: u32 = 12;
    token >> POSITION_BITS
}

#[tokio::test]
async fn a_submission_and_its_lease_to_a_waiting_poll_are_one_log_entry() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let waiting = FakeWorker::register(&cluster, "waiting", 4).await;
    // A task that is submitted while the leader computes a plan is leased one entry later.
    until(
        WAIT_TIMEOUT,
        "a job is leased in its own entry",
        async || {
            let submitted = async {
                until(WAIT_TIMEOUT, "the poll waits", async || {
                    let metrics = scrape(&cluster, leader).await;
                    metrics.value("triarch_http_held", &[("kind", "poll")]) > 0.0
                })
                .await;
                let reply = api.post("/v1/jobs", &fake_worker::job(json!(1))).await;
                let index = reply.header("triarch-index").expect("an index");
                index.parse::<u64>().expect("a number")
            };
            let (leases, submitted) = tokio::join!(waiting.poll(1, 10_000, &[]), submitted);
            let [lease] = &leases[..] else {
                panic!("one job, one lease: {leases:?}");
            };
            let granted = granted_at(lease.token);
            assert!(granted >= submitted, "{granted} {submitted}");
            assert!(accepted(&waiting.report(lease.succeeded(json!(1))).await));
            granted == submitted
        },
    )
    .await;
}
