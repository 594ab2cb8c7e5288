//! Live output: progress, notes and output of running attempts, read by any client, over the death of leaders.

use std::time::Duration;

use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeWorker, eventually, fake_worker, until};

use crate::job_helpers::{WAIT_TIMEOUT, shell, submit_task, wait_state};

/// Number of lines that the followed command writes to each stream.
const LINES: usize = 100;

async fn logs(api: &Api, task: &str, query: &str) -> Value {
    let path = format!("/v1/tasks/{task}/logs?{query}");
    api.get(&path).await.expect(200)
}

/// Returns the text of a stream in an answer.
fn text(logs: &Value, stream: &str) -> String {
    let chunks = logs["chunks"].as_array().expect("chunks");
    let of_stream = chunks.iter().filter(|chunk| chunk["stream"] == stream);
    of_stream
        .map(|chunk| chunk["text"].as_str().expect("text"))
        .collect()
}

#[tokio::test]
async fn output_followed_at_a_follower_is_complete_and_in_order_while_the_leader_dies() {
    let mut cluster = Cluster::start(3).await;
    cluster.worker(&["--slots", "2"]);
    cluster.wait_workers(1).await;
    let leader = cluster.leader().await;
    let go_on = cluster.root().join("go-on");
    // Half of the lines before the death of the leader, the rest under the next leader.
    let script = format!(
        "line() {{ echo out $1; echo err $1 >&2; sleep 0.01; }}; \
         i=1; while [ $i -le {half} ]; do line $i; i=$((i+1)); done; \
         while [ ! -e {go_on} ]; do sleep 0.02; done; \
         while [ $i -le {LINES} ]; do line $i; i=$((i+1)); done; exit 3",
        half = LINES / 2,
        go_on = go_on.display(),
    );
    let mut job = shell(&script);
    job["tasks"][0]["max_attempts"] = json!(1);
    let task = submit_task(&cluster.api(leader), &job).await;
    let following = tokio::spawn({
        let (cli, task) = (cluster.cli(), task.clone());
        async move { cli.run(&["task", "logs", "-f", &task]).await }
    });
    let follower = cluster.follower().await;
    let half = format!("out {}\n", LINES / 2);
    let api = cluster.api(follower);
    eventually(WAIT_TIMEOUT, "half of it is to be read", async || {
        let read = logs(&api, &task, "").await;
        text(&read, "stdout").ends_with(&half).then_some(())
    })
    .await;
    cluster.kill9(leader);
    let next = cluster.leader_other_than(leader).await;
    // A new reader gets the output from its beginning, because the worker has sent it again.
    let api = cluster.api(next);
    eventually(WAIT_TIMEOUT, "the next leader has it, too", async || {
        let read = logs(&api, &task, "").await;
        (text(&read, "stdout").ends_with(&half) && read["truncated"] == false).then_some(())
    })
    .await;
    std::fs::write(&go_on, "").expect("a file");
    let ran = following.await.expect("does not panic").expect(1);
    let wanted = |word: &str| -> String {
        let lines = (1..=LINES).map(|nth| format!("{word} {nth}\n"));
        lines.collect()
    };
    assert_eq!(ran.stdout, wanted("out"));
    // The output on stderr is followed by the cause of the failure.
    let stderr = ran.stderr.strip_prefix(wanted("err").as_str());
    assert!(
        stderr.is_some_and(|rest| rest.contains("code 3")),
        "{ran:?}"
    );
    // A reader after the end gets the same output.
    let read = logs(&api, &task, "").await;
    assert_eq!(
        (text(&read, "stdout"), text(&read, "stderr")),
        (wanted("out"), wanted("err"))
    );
    assert_eq!(
        (&read["done"], &read["truncated"], &read["state"]),
        (&json!(true), &json!(false), &json!("failed"))
    );
}

#[tokio::test]
async fn the_output_of_ended_attempts_of_any_kind_outlives_leaders_restarts_and_snapshots() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let mut job = fake_worker::job(json!("prints"));
    job["tasks"][0]["backoff"] = json!({"initial_ms": 1});
    let task = submit_task(&cluster.api(leader), &job).await;
    let long = "0123456789abcdef".repeat(8_000);
    let write = async |lease: &triarch_harness::Lease, text: &str| {
        let mut offset = 0;
        for piece in text.as_bytes().chunks(50_000) {
            let piece = std::str::from_utf8(piece).expect("ASCII");
            let chunks = ["stdout", "stderr"].map(|stream| {
                json!({"task": lease.task, "token": lease.token, "stream": stream, "offset": offset, "text": piece})
            });
            let sent = worker
                .worker_call("output", &json!({"chunks": chunks}))
                .await;
            let ends = &sent.expect(200)["attempts"][0];
            offset += piece.len();
            assert_eq!(ends["stdout"], offset, "{ends}");
        }
    };
    let first = worker.take(&[]).await;
    write(&first, "one\ntwo\n").await;
    worker.report(first.failed(true)).await;
    let second = worker.take(&[]).await;
    write(&second, &long).await;
    worker.report(second.succeeded(json!("done"))).await;

    let check = async |api: &Api| {
        let read = logs(api, &task, "attempt=1").await;
        for stream in ["stdout", "stderr"] {
            assert_eq!(text(&read, stream), "one\ntwo\n", "{read}");
        }
        assert_eq!(read["truncated"], false);
        let read = logs(api, &task, "").await;
        assert_eq!(
            (&read["truncated"], &read["done"]),
            (&json!(true), &json!(true))
        );
        let chunks = read["chunks"].as_array().expect("chunks");
        let of_stdout = chunks.iter().filter(|chunk| chunk["stream"] == "stdout");
        let kept: Vec<(u64, &str)> = of_stdout
            .map(|chunk| {
                (
                    chunk["offset"].as_u64().expect("an offset"),
                    chunk["text"].as_str().expect("text"),
                )
            })
            .collect();
        let [(0, head), (at, tail)] = kept[..] else {
            panic!("{read}");
        };
        assert_eq!(
            (head, tail),
            (&long[..16 << 10], &long[long.len() - (48 << 10)..])
        );
        assert_eq!(at as usize + tail.len(), long.len());
    };
    cluster.kill9(leader);
    let next = cluster.leader_other_than(leader).await;
    check(&cluster.api(next)).await;
    let shown = cluster
        .cli()
        .run(&["task", "logs", "--attempt", "1", &task])
        .await
        .expect(0);
    assert_eq!(shown.stdout, "one\ntwo\n");
    // It is part of snapshots, and the same everywhere.
    cluster.restart(leader);
    cluster.wait_caught_up(leader).await;
    cluster
        .api(next)
        .post("/v1/cluster/snapshot", &json!({}))
        .await
        .expect(200);
    for node in cluster.ids() {
        cluster.kill9(node);
    }
    for node in cluster.ids() {
        cluster.restart(node);
    }
    let leader = cluster.wait_ready().await;
    check(&cluster.api(leader)).await;
    let digest = triarch_harness::equal_digests(WAIT_TIMEOUT, &cluster.apis()).await;
    drop(digest);
}

#[tokio::test]
async fn following_output_continues_into_the_next_attempt() {
    let mut cluster = Cluster::start(1).await;
    cluster.worker(&["--slots", "2"]);
    let api = cluster.api(1);
    let mut job = shell("echo attempt $TRIARCH_ATTEMPT; [ $TRIARCH_ATTEMPT = 3 ]");
    job["tasks"][0]["backoff"] = json!({"initial_ms": 300, "factor": 1.0});
    let task = submit_task(&api, &job).await;
    let cli = cluster.cli();
    let args = ["task", "logs", "--follow", "--attempt", "1", &task];
    let ran = cli.run(&args).await.expect(0);
    assert_eq!(ran.stdout, "attempt 1\nattempt 2\nattempt 3\n");
    let ran = cli.run(&["task", "logs", &task]).await.expect(0);
    assert_eq!(ran.stdout, "attempt 3\n");
    cli.run(&["task", "logs", "-f", "t999999-0"])
        .await
        .expect(1);
}

#[tokio::test]
async fn endless_output_is_bounded_and_disturbs_no_other_task() {
    let mut cluster = Cluster::start(1).await;
    cluster.worker(&["--slots", "2"]);
    let api = cluster.api(1);
    let endless = submit_task(&api, &shell("yes")).await;
    let read = eventually(WAIT_TIMEOUT, "some was dropped", async || {
        let read = logs(&api, &endless, "").await;
        (read["truncated"] == true).then_some(read)
    })
    .await;
    let kept = text(&read, "stdout");
    assert!(kept.len() <= 256 << 10, "{}", kept.len());
    assert!(kept.contains("y\ny\ny\n"));
    // Other tasks run, and the task can be cancelled like any other.
    let other = submit_task(&api, &shell("echo fine")).await;
    let other = wait_state(&api, &other, "succeeded").await;
    assert_eq!(other["result"]["stdout"], "fine\n");
    let path = format!("/v1/tasks/{endless}/cancel");
    api.post(&path, &json!({})).await.expect(200);
    wait_state(&api, &endless, "cancelled").await;
}

#[tokio::test]
async fn output_sent_under_another_lease_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let (owner, other) = (
        FakeWorker::register(&cluster, "owner", 1).await,
        FakeWorker::register(&cluster, "other", 1).await,
    );
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let task = submit_task(&api, &fake_worker::job(json!(1))).await;
    let lease = owner.take(&[]).await;
    let piece = |token: u64, offset: u64, text: &str| json!({"chunks": [{"task": task, "token": token, "stream": "stdout", "offset": offset, "text": text}]});
    let ends = json!([{"task": task, "token": lease.token, "stdout": 6, "stderr": 0}]);

    for (worker, message) in [
        (&other, piece(lease.token, 0, "stolen")),
        (&owner, piece(lease.token + 1, 0, "wrong")),
    ] {
        let answer = worker.worker_call("output", &message).await.expect(200);
        assert_eq!(answer["attempts"], json!([]), "{message}");
    }
    // A chunk with a gap is not accepted, and a repeated chunk is stored once.
    let answer = owner
        .worker_call("output", &piece(lease.token, 6, "late"))
        .await;
    assert_eq!(answer.expect(200)["attempts"][0]["stdout"], 0);
    for _ in 0..2 {
        let message = piece(lease.token, 0, "right\n");
        let answer = owner.worker_call("output", &message).await.expect(200);
        assert_eq!(answer["attempts"], ends);
    }
    let follower = cluster.follower().await;
    let read = logs(&cluster.api(follower), &task, "stdout_from=2").await;
    assert_eq!(text(&read, "stdout"), "ght\n");
    assert_eq!(
        read["next"],
        json!({"attempt": 1, "stdout_from": 6, "stderr_from": 0})
    );

    // A held request is answered by new output, and by the end of the attempt.
    let following = |from: u64| {
        let (api, task) = (cluster.api(follower), task.clone());
        tokio::spawn(async move {
            let query = format!("attempt=1&stdout_from={from}&follow_ms=30000");
            logs(&api, &task, &query).await
        })
    };
    let held = following(6);
    let more = piece(lease.token, 6, "more\n");
    owner.worker_call("output", &more).await.expect(200);
    let read = held.await.expect("does not panic");
    assert_eq!(text(&read, "stdout"), "more\n");
    let held = following(11);
    owner
        .report(lease.succeeded(json!({"stdout": "not output"})))
        .await;
    let read = held.await.expect("does not panic");
    assert_eq!((&read["chunks"], &read["done"]), (&json!([]), &json!(true)));
    // Output for an ended lease is refused.
    let message = piece(lease.token, 11, "too late");
    let answer = owner.worker_call("output", &message).await.expect(200);
    assert_eq!(answer["attempts"], json!([]));
}

#[tokio::test]
async fn progress_and_notes_are_visible_while_a_task_runs() {
    let mut cluster = Cluster::start(3).await;
    let worker = FakeWorker::register(&cluster, "w", 1).await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let task = submit_task(&api, &fake_worker::job(json!(1))).await;
    let lease = worker.take(&[]).await;
    let running = |progress: Value, note: Value| json!({"running": [{"task": lease.task, "token": lease.token, "progress": progress, "note": note}]});
    let shown = async || {
        let shown = api.get(&format!("/v1/tasks/{task}")).await.expect(200);
        (shown["progress"].clone(), shown["note"].clone())
    };
    assert_eq!(shown().await, (Value::Null, Value::Null));
    let message = running(json!(0.25), json!("a quarter"));
    worker.worker_call("heartbeat", &message).await.expect(200);
    assert_eq!(shown().await, (json!(0.25), json!("a quarter")));
    // A wrong part is dropped or cut, and named. The rest of the heartbeat counts.
    let long = "x".repeat(1_001);
    for (wrong, part, expected) in [
        (
            running(json!(1.5), json!("too far")),
            "progress",
            (Value::Null, json!("too far")),
        ),
        (
            running(json!(0.5), json!(long)),
            "note",
            (json!(0.5), json!(long[..1_000])),
        ),
    ] {
        let answer = worker.worker_call("heartbeat", &wrong).await.expect(200);
        assert_eq!(
            answer["problems"][0]["field"],
            format!("running[0].{part}"),
            "{answer}"
        );
        assert_eq!(shown().await, expected);
    }
    // A new leader receives the progress and the note with the next heartbeat.
    let leader = cluster.leader().await;
    cluster.kill9(leader);
    cluster.leader_other_than(leader).await;
    until(WAIT_TIMEOUT, "the new leader shows it", async || {
        worker.worker_call("heartbeat", &message).await.expect(200);
        let path = format!("/v1/tasks/{task}");
        let call = api.call(reqwest::Method::GET, &path);
        let reply = call.timeout(Duration::from_secs(5)).send().await;
        reply.is_ok_and(|reply| reply.status == 200 && reply.json()["note"] == "a quarter")
    })
    .await;
    worker.report(lease.succeeded(json!(null))).await;
    assert_eq!(shown().await, (Value::Null, Value::Null));
    // It had one attempt.
    let path = format!("/v1/tasks/{task}/logs?attempt=2");
    let refused = api.get(&path).await.expect(400);
    assert_eq!(refused["field"], "attempt");
}
