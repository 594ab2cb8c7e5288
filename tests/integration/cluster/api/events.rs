//! Events: every node streams the same events, and a client can follow them over failovers.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Cluster, FakeWorker, Options, eventually, fake_worker};

use crate::job_helpers::{WAIT_TIMEOUT, submit_task};
use crate::operations::metrics::wait_held;

/// A message of an event stream.
#[derive(Debug, Clone, Default, PartialEq)]
struct Message {
    id: String,
    name: String,
    data: Value,
}

/// A client of `/v1/events` at one master, like a browser.
struct Reader {
    response: reqwest::Response,
    text: String,
}

impl Reader {
    /// Opens the stream; `last` is the id of the last event seen.
    async fn begin(cluster: &Cluster, node: u64, query: &str, last: Option<&str>) -> Self {
        let url = format!("{}/v1/events?{query}", cluster.url(node));
        let mut request = reqwest::Client::new().get(url);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.expect("it answers");
        assert_eq!(response.status(), 200, "{response:?}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            text: String::new(),
        }
    }

    /// Opens the stream at the next event, and waits until it has begun.
    async fn now(cluster: &Cluster, node: u64, query: &str) -> Self {
        let mut reader = Self::begin(cluster, node, query, None).await;
        let hello = reader.message().await.expect("a first message");
        assert_eq!(hello.data, Value::Null);
        assert!(!hello.id.is_empty(), "it says where it begins: {hello:?}");
        reader
    }

    /// Returns the next message, position messages included; `None` at the end of the stream.
    async fn message(&mut self) -> Option<Message> {
        loop {
            if let Some((whole, rest)) = self.text.split_once("\n\n") {
                let mut message = Message::default();
                for line in whole.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => message.id = id.to_owned(),
                        Some(("event", name)) => message.name = name.to_owned(),
                        Some(("data", data)) => {
                            message.data = serde_json::from_str(data).expect("JSON");
                        }
                        Some(_) | None => {}
                    }
                }
                self.text = rest.to_owned();
                return Some(message);
            }
            let chunk = tokio::time::timeout(WAIT_TIMEOUT, self.response.chunk())
                .await
                .expect("something comes in time");
            match chunk {
                Ok(Some(bytes)) => self
                    .text
                    .push_str(std::str::from_utf8(&bytes).expect("UTF-8")),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Returns the next event. Panics if none arrives.
    async fn event(&mut self) -> Message {
        loop {
            let message = self.message().await.expect("it goes on");
            if message.data != Value::Null {
                assert_eq!(message.data["id"], message.id, "{message:?}");
                assert_eq!(message.data["type"], message.name, "{message:?}");
                return message;
            }
        }
    }

    /// Returns all events up to the end of this job.
    async fn until_finished(&mut self, job: &str) -> Vec<Message> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await;
            let last = event.name == "job_finished" && event.data["job"] == job;
            events.push(event);
            if last {
                return events;
            }
        }
    }
}

fn ids(events: &[Message]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

async fn submit(cluster: &Cluster, node: u64) -> String {
    let job = cluster.api(node).submit(&fake_worker::job(json!(1))).await;
    job["id"].as_str().expect("an id").to_owned()
}

async fn run_one(worker: &FakeWorker) {
    let lease = worker.take(&[]).await;
    let acknowledgement = worker.report(lease.succeeded(json!(2))).await;
    assert_eq!(acknowledgement["accepted"], true);
}

#[tokio::test]
async fn the_events_of_a_job_arrive_in_order() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let mut reader = Reader::now(&cluster, follower, "").await;
    let worker = FakeWorker::register(&cluster, "told", 1).await;
    let job = submit(&cluster, follower).await;
    let lease = worker.take(&[]).await;
    worker.report(lease.failed(false)).await;
    worker.leave().await;
    let events = reader.until_finished(&job).await;
    let left = reader.event().await;
    let short: Vec<(&str, &Value)> = events
        .iter()
        .map(|event| (event.name.as_str(), &event.data["state"]))
        .collect();
    assert_eq!(
        short,
        [
            ("worker_registered", &Value::Null),
            ("job_submitted", &Value::Null),
            ("task_changed", &json!("queued")),
            ("lease_granted", &Value::Null),
            ("task_changed", &json!("running")),
            ("lease_ended", &Value::Null),
            ("task_changed", &json!("failed")),
            ("job_finished", &json!("failed")),
        ]
    );
    let (granted, ended) = (&events[3].data, &events[5].data);
    for about in [granted, ended, &events[6].data] {
        assert_eq!(about["task"], lease.task.as_str(), "{about}");
        assert_eq!(about["job"], job.as_str(), "{about}");
        assert_eq!(about["queue"], "default", "{about}");
        assert_eq!(about["kind"], fake_worker::KIND, "{about}");
        assert_eq!(about["worker"], worker.id.as_str(), "{about}");
        assert_eq!(about["attempt"], 1, "{about}");
        assert!(about["at"].as_str().is_some_and(|at| at.ends_with('Z')));
    }
    assert_eq!(granted["token"], lease.token);
    assert_eq!(ended["outcome"], "failed");
    assert_eq!(
        (left.name.as_str(), &left.data["name"]),
        ("worker_left", &json!("told"))
    );
}

#[tokio::test]
async fn a_reader_whose_master_is_killed_resumes_at_another_without_gap_or_duplicate() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let bystander = cluster.follower().await;
    let third = 6 - leader - bystander;
    let mut whole = Reader::now(&cluster, bystander, "").await;
    let mut reader = Reader::now(&cluster, leader, "").await;
    let worker = FakeWorker::register(&cluster, "goes-on", 1).await;
    let _alive = worker.keep_alive(&[]);
    let mut seen = Vec::new();
    for _ in 0..5 {
        let job = submit(&cluster, third).await;
        run_one(&worker).await;
        seen.extend(reader.until_finished(&job).await);
    }
    // The last messages are lost with the master, in the middle of the events of one entry.
    seen.truncate(seen.len() - 2);
    cluster.kill9(leader);
    let last = seen.last().expect("events").id.clone();
    let mut reader = Reader::begin(&cluster, third, "", Some(&last)).await;
    let survivors = [cluster.api(bystander), cluster.api(third)];
    let worker = worker.with_masters(survivors.into());
    drop(_alive);
    let mut job = String::new();
    for _ in 0..5 {
        job = submit(&cluster, bystander).await;
        run_one(&worker).await;
    }
    seen.extend(reader.until_finished(&job).await);
    let expected = whole.until_finished(&job).await;
    assert_eq!(ids(&seen), ids(&expected));
    assert_eq!(seen, expected, "and they say the same");

    // The killed master streams the same events again after its restart, from its log.
    cluster.restart(leader);
    cluster.wait_caught_up(leader).await;
    let first = expected[0].id.clone();
    let mut back = Reader::begin(&cluster, leader, "", Some(&first)).await;
    assert_eq!(back.until_finished(&job).await, expected[1..]);
}

#[tokio::test]
async fn an_evicted_position_is_gone_and_a_future_one_is_waited_for() {
    let mut cluster = Cluster::with(Options {
        more: vec!["--events-kept".into(), "50".into()],
        ..Options::default()
    })
    .await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let mut slow = Reader::begin(&cluster, leader, "after=0", None).await;
    for _ in 0..4 {
        api.submit(&json!({"tasks": vec![json!({"kind": "hand"}); 30]}))
            .await;
    }
    let gone = api.get("/v1/events?after=0").await;
    let gone = gone.refused(410, "position_gone");
    let oldest = gone["oldest"].as_str().expect("oldest").to_owned();
    let mut reader = Reader::begin(&cluster, leader, "", Some(&oldest)).await;
    let mut kept = 0;
    let last = api.submit(&fake_worker::job(json!(1))).await;
    while reader.event().await.data["job"] != last["id"] {
        kept += 1;
    }
    assert!((25..=50).contains(&kept), "{kept} were kept");

    // Nobody can have seen a position after the end of the log.
    let ahead = api.get("/v1/events?after=99999999").await;
    let why = ahead.refused(400, "invalid_request");
    assert_eq!(why["field"], "after", "{why}");
    assert!(why["end"].as_u64() < Some(99_999_999), "{why}");
    let ran = cluster
        .cli()
        .run(&["events", "--after", "99999999", "--limit", "1"])
        .await;
    ran.expect(1).says("after the end of this cluster's log");
    let answer = api.post("/v1/jobs", &fake_worker::job(json!(1))).await;
    let after = format!("after={}", answer.index());
    let follower = cluster.follower().await;
    let mut reader = Reader::begin(&cluster, follower, &after, None).await;
    let job = api.submit(&fake_worker::job(json!(1))).await;
    assert_eq!(
        reader.event().await.data["job"],
        job["id"],
        "nothing before it"
    );

    // A reader that falls behind the kept history gets a `gone` message, and its stream ends.
    for _ in 0..200 {
        api.submit(&json!({"tasks": vec![json!({"kind": "hand"}); 1_000]}))
            .await;
        if slow_is_behind(&mut slow).await {
            return;
        }
    }
    panic!("a reader that was too slow was never told");
}

/// Reads the arrived messages. Returns whether the stream has ended with a `gone` message.
async fn slow_is_behind(reader: &mut Reader) -> bool {
    let mut last = Message::default();
    loop {
        match tokio::time::timeout(Duration::from_millis(1), reader.message()).await {
            Ok(Some(message)) => last = message,
            Ok(None) => {
                assert_eq!(last.name, "gone", "{last:?}");
                assert_eq!(last.data["code"], "position_gone", "{last:?}");
                assert!(last.data["oldest"].is_string(), "{last:?}");
                return true;
            }
            Err(_) => return false,
        }
    }
}

#[tokio::test]
async fn an_event_filter_passes_only_matching_events() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let begin = api.get("/v1/cluster").await.index();
    let mail = json!({"name": "mail", "tasks": [{"kind": "hand", "queue": "mail"}]});
    let mail = api.submit(&mail).await;
    let other = submit_task(&api, &fake_worker::job(json!(1))).await;
    api.post(&format!("/v1/tasks/{other}/cancel"), &json!({}))
        .await
        .expect(200);
    let end = api
        .submit(&json!({"tasks": [{"kind": "hand", "queue": "mail", "delay_ms": 60_000}]}))
        .await;
    let (mail, end) = (
        mail["id"].as_str().expect("id"),
        end["id"].as_str().expect("id"),
    );
    for (query, expected) in [
        (
            "queue=mail",
            vec![("task_changed", "queued"), ("task_changed", "delayed")],
        ),
        (
            "queue=mail&state=delayed,running",
            vec![("task_changed", "delayed")],
        ),
        (
            &format!("job={mail},{end}&type=job_submitted"),
            vec![("job_submitted", ""), ("job_submitted", "")],
        ),
        (
            &format!("task={other}"),
            vec![("task_changed", "queued"), ("task_changed", "cancelled")],
        ),
        (
            "state=cancelled",
            vec![("task_changed", "cancelled"), ("job_finished", "cancelled")],
        ),
    ] {
        let query = format!("{query}&after={begin}");
        let mut reader = Reader::begin(&cluster, leader, &query, None).await;
        let mut events = Vec::new();
        for _ in &expected {
            events.push(reader.event().await);
        }
        let short: Vec<(&str, &str)> = events
            .iter()
            .map(|event| {
                (
                    event.name.as_str(),
                    event.data["state"].as_str().unwrap_or(""),
                )
            })
            .collect();
        assert_eq!(short, expected, "{query}");
        if query.starts_with("queue=mail&after") {
            // Only position messages follow, beyond all events so far.
            let beat = reader.message().await.expect("a sign of life");
            assert_eq!(beat.data, Value::Null, "{beat:?}");
            let come: u64 = beat.id.parse().expect("a log index");
            let submitted = end.trim_start_matches('j').split('-').next();
            assert!(
                submitted.and_then(|index| index.parse().ok()) <= Some(come),
                "{come} is before {end}"
            );
        }
    }
    for (query, field) in [
        ("jobs=j1-0", "jobs"),
        ("job=1", "job"),
        ("task=j1-0", "task"),
        ("state=asleep", "state"),
        ("type=", "type"),
        ("after=x", "after"),
        ("after=1.", "after"),
        ("consistency=stale", "consistency"),
    ] {
        let refused = api.get(&format!("/v1/events?{query}")).await;
        assert_eq!(
            refused.refused(400, "invalid_request")["field"],
            field,
            "{query}"
        );
    }
    let refused = api
        .call(Method::GET, "/v1/events?after=1")
        .header("last-event-id", "yesterday")
        .answer()
        .await;
    assert_eq!(
        refused.refused(400, "invalid_request")["field"],
        "last-event-id"
    );
}

#[tokio::test]
async fn open_event_streams_end_with_their_master_and_do_not_delay_its_exit() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let mut readers = Vec::new();
    for _ in 0..10 {
        readers.push(Reader::now(&cluster, leader, "").await);
    }
    let begun = std::time::Instant::now();
    let status = cluster.terminate(leader).await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begun.elapsed() < WAIT_TIMEOUT);
    for reader in &mut readers {
        while reader.message().await.is_some() {}
    }
}

#[tokio::test]
async fn the_events_command_resumes_after_a_killed_leader() {
    let mut cluster = Cluster::start(3).await;
    cluster.worker(&["--slots", "2"]);
    cluster.wait_workers(1).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = cluster.ids().filter(|id| *id != leader).collect();
    let begin = cluster.api(leader).get("/v1/cluster").await.index();
    // The stream begins at the leader.
    let masters = format!("{},{}", cluster.url(leader), cluster.url(others[0]));
    let cli = cluster.cli().masters(&masters);
    let after = begin.to_string();
    let following = tokio::spawn(async move {
        let args = [
            "events",
            "--type",
            "job_finished",
            "--after",
            &after,
            "--limit",
            "20",
            "-o",
            "json",
        ];
        cli.run(&args).await
    });
    wait_held(&cluster, &[leader], "events", 1).await;
    let mut jobs = Vec::new();
    for number in 0..20 {
        if number == 10 {
            cluster.kill9(leader);
        }
        let api = cluster.api(others[number % 2]);
        let task = json!({"kind": "exec", "payload": {"argv": ["true"]}});
        let submitted = eventually(WAIT_TIMEOUT, "a job is taken", async || {
            let key = format!("job-{number}");
            let job = json!({"idempotency_key": key, "tasks": [task]});
            let reply = api
                .call(Method::POST, "/v1/jobs")
                .json(&job)
                .send()
                .await
                .ok()?;
            (reply.status < 300).then(|| reply.json())
        })
        .await;
        jobs.push(submitted["id"].clone());
    }
    let ran = following.await.expect("it runs").expect(0);
    let mut events: Vec<Value> = ran
        .stdout
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("one object per line")["job"].clone()
        })
        .collect();
    events.sort_by_key(Value::to_string);
    jobs.sort_by_key(Value::to_string);
    assert_eq!(events, jobs);

    let people = cluster
        .cli()
        .run(&["events", "--after", &begin.to_string(), "--limit", "3"])
        .await;
    people
        .expect(0)
        .shows("job_submitted")
        .shows("task_changed");
}
