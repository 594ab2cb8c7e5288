//! Requests of workers with one wrong part: leases are kept and results are taken, and the answer names the part.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::fake_worker::Lease;
use triarch_harness::{Api, Cluster, FakeWorker, Reply, fake_worker};

use crate::job_helpers::submit_task;

/// A leader, a worker with two leases, and the way to send it raw JSON.
struct Scene {
    cluster: Cluster,
    api: Api,
    worker: FakeWorker,
    leases: Vec<Lease>,
}

impl Scene {
    async fn start() -> Self {
        let mut cluster = Cluster::start(1).await;
        let leader = cluster.wait_ready().await;
        let api = cluster.api(leader);
        let worker = FakeWorker::register(&cluster, "odd", 2).await;
        for nth in 0..2 {
            submit_task(&api, &fake_worker::job(json!(nth))).await;
        }
        let leases = worker.take_many(2).await;
        Self {
            cluster,
            api,
            worker,
            leases,
        }
    }

    /// Sends text that need not be JSON.
    async fn send(&self, verb: &str, body: String) -> Reply {
        let path = format!("/v1/workers/{}/{verb}", self.worker.id);
        let call = self.api.call(Method::POST, &path);
        call.body("application/json", body.into_bytes())
            .answer()
            .await
    }

    fn running(&self, nth: usize, more: &str) -> String {
        let lease = &self.leases[nth];
        format!(
            r#"{{"task":"{}","token":{}{more}}}"#,
            lease.task, lease.token
        )
    }

    async fn state(&self, nth: usize) -> Value {
        let path = format!("/v1/tasks/{}", self.leases[nth].task);
        self.api.get(&path).await.expect(200)
    }
}

fn named(answer: &Value) -> Vec<&str> {
    let problems = answer["problems"].as_array();
    let fields = problems.into_iter().flatten();
    fields
        .filter_map(|problem| problem["field"].as_str())
        .collect()
}

#[tokio::test]
async fn heartbeats_with_an_odd_note_keep_every_lease_alive() {
    let scene = Scene::start().await;
    let until = Duration::from_millis(scene.worker.lease_ms * 3 / 2);
    let begun = std::time::Instant::now();
    let notes = [
        format!(",\"note\":\"{}\"", "中".repeat(400)),
        ",\"note\":\"reading \\ud800.csv\"".to_owned(),
        ",\"progress\":NaN".to_owned(),
        ",\"surprise\":1".to_owned(),
    ];
    let mut sent = notes.iter().cycle();
    while begun.elapsed() < until {
        let odd = sent.next().expect("they repeat");
        let both = [scene.running(0, odd), scene.running(1, "")].join(",");
        let answer = scene
            .send("heartbeat", format!("{{\"running\":[{both}]}}"))
            .await;
        let answer = answer.expect(200);
        assert_eq!(answer["lost"], json!([]), "{answer}");
        assert_eq!(named(&answer).len(), 1, "{answer}");
        tokio::time::sleep(Duration::from_millis(scene.worker.heartbeat_ms)).await;
    }
    for nth in 0..2 {
        assert_eq!(
            scene.state(nth).await["attempt"],
            scene.leases[nth].attempt,
            "never granted again"
        );
    }
    let note = scene.state(0).await["note"].as_str().map(str::to_owned);
    assert!(note.is_some_and(|note| note.contains('中') || note.contains('\u{fffd}')));
}

#[tokio::test]
async fn a_poll_with_an_odd_note_takes_the_results_of_other_tasks() {
    let scene = Scene::start().await;
    let odd = scene.running(0, ",\"progress\":2,\"note\":\"\\udfff\"");
    let finished = scene.leases[1].succeeded(json!({"rows": 7}));
    let body = format!("{{\"max\":0,\"running\":[{odd}],\"results\":[{finished}]}}");
    let answer = scene.send("poll", body).await.expect(200);
    assert_eq!(answer["results"][0]["accepted"], true, "{answer}");
    assert_eq!(answer["lost"], json!([]), "{answer}");
    assert_eq!(
        named(&answer),
        ["running[0].note", "running[0].progress"],
        "{answer}"
    );
    let done = scene.state(1).await;
    assert_eq!(
        (&done["state"], &done["result"]["rows"]),
        (&json!("succeeded"), &json!(7))
    );
    assert_eq!(scene.state(0).await["state"], "running");
}

#[tokio::test]
async fn a_wrong_result_is_refused_precisely_and_its_neighbour_is_accepted() {
    let scene = Scene::start().await;
    let deep = format!("{}{}", "[".repeat(80), "]".repeat(80));
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    let mut known = scene.leases[1].clone();
    for (members, code, field) in [
        (
            r#""status":"succeeded","result":NaN"#.to_owned(),
            "invalid_request",
            "results[0].result",
        ),
        (
            format!(r#""status":"succeeded","result":{deep}"#),
            "invalid_request",
            "results[0]",
        ),
        (
            r#""status":"finished""#.to_owned(),
            "invalid_request",
            "results[0].status",
        ),
        (
            r#""status":"succeeded","reslt":3"#.to_owned(),
            "invalid_request",
            "results[0].reslt",
        ),
        (
            format!(r#""status":"succeeded","result":{long}"#),
            "payload_too_large",
            "results[0].result",
        ),
    ] {
        let wrong = scene.running(0, &format!(",{members}"));
        let right = known.succeeded(json!(1));
        let verb = if field.ends_with("status") {
            "poll"
        } else {
            "report"
        };
        let answer = scene
            .send(verb, format!("{{\"results\":[{wrong},{right}]}}"))
            .await;
        let answer = answer.expect(200);
        let refused = &answer["results"][0];
        assert_eq!(
            (&refused["accepted"], &refused["code"]),
            (&json!(false), &json!(code)),
            "{answer}"
        );
        assert_eq!(refused["field"], field, "{answer}");
        assert_eq!(refused["task"], scene.leases[0].task.as_str(), "{answer}");
        assert!(
            refused["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty()),
            "{answer}"
        );
        assert_eq!(answer["results"][1]["accepted"], true, "{answer}");
        // The lease of the refused result is still held, and takes another result at the end.
        assert_eq!(scene.state(0).await["state"], "running", "{members:.60}");
        submit_task(&scene.api, &fake_worker::job(json!("next"))).await;
        known = scene.worker.take(&scene.leases[..1]).await;
    }
    let verdict = scene.worker.report(scene.leases[0].failed(false)).await;
    assert_eq!(verdict["accepted"], true);
    drop(scene.cluster);
}

#[tokio::test]
async fn a_failure_with_an_unreadable_or_long_error_still_fails_its_attempt() {
    let scene = Scene::start().await;
    let long = "x".repeat(2 << 20);
    let failed = |nth, error: &str| {
        scene.running(
            nth,
            &format!(r#","status":"failed","retryable":false,"error":{error}"#),
        )
    };
    let odd = failed(
        0,
        r#"{"type":"ValueError","message":"cannot parse \udc80","value":NaN}"#,
    );
    let huge = failed(
        1,
        &format!(r#"{{"type":"E","message":"why","traceback":"{long}"}}"#),
    );
    let answer = scene
        .send("report", format!("{{\"results\":[{odd},{huge}]}}"))
        .await;
    let answer = answer.expect(200);
    assert_eq!(
        named(&answer),
        ["results[0].error", "results[1].error"],
        "{answer}"
    );
    for (nth, kind, message) in [(0, "ValueError", "cannot parse \u{fffd}"), (1, "E", "why")] {
        assert_eq!(answer["results"][nth]["accepted"], true, "{answer}");
        let task = scene.state(nth).await;
        assert_eq!(task["state"], "failed");
        assert_eq!(
            (&task["error"]["type"], &task["error"]["message"]),
            (&json!(kind), &json!(message))
        );
    }
}

#[tokio::test]
async fn a_returned_lease_counts_as_no_failure_and_its_task_is_granted_again() {
    let scene = Scene::start().await;
    let lease = &scene.leases[0];
    let returned = json!({"task": lease.task, "token": lease.token, "status": "returned"});
    assert_eq!(scene.worker.report(returned).await["accepted"], true);
    let again = scene.worker.take(&scene.leases[1..]).await;
    assert_eq!(again.task, lease.task);
    assert!(again.attempt > lease.attempt, "{again:?} after {lease:?}");
    let task = scene.state(0).await;
    assert_eq!(
        (&task["failures"], &task["losses"]),
        (&json!(0), &json!(0)),
        "{task}"
    );
    assert_eq!(task["attempts"][0]["outcome"], "returned", "{task}");
}
