//! Invalid requests: each is answered by a problem that names the defect, and has no effect.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use triarch_harness::{Api, Cluster, FakeWorker, Reply};

use crate::job_helpers::{assert_works, exec, submit_task};

const MIB: usize = 1 << 20;

/// A request that must be refused.
struct Case {
    name: String,
    method: Method,
    path: String,
    body: Vec<u8>,
    status: u16,
    code: &'static str,
    /// Required value of `field`, if any.
    field: Option<String>,
}

impl Case {
    fn new(name: &str, method: Method, path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.to_owned(),
            method,
            path: path.to_owned(),
            body: body.into(),
            status: 400,
            code: "invalid_request",
            field: None,
        }
    }

    fn get(path: &str) -> Self {
        Self::new("", Method::GET, path, "")
    }

    fn post(name: &str, path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new(name, Method::POST, path, body)
    }

    /// Returns a job whose only task has this field in addition to its kind.
    fn task(field: &str, value: &str) -> Self {
        let body = format!(r#"{{"tasks": [{{"kind": "exec", "{field}": {value}}}]}}"#);
        let name = format!("{field}: {}", &value[..value.len().min(60)]);
        Self::post(&name, "/v1/jobs", body).at(&format!("tasks[0].{field}"))
    }

    fn at(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }

    fn is(mut self, status: u16, code: &'static str) -> Self {
        (self.status, self.code) = (status, code);
        self
    }

    async fn send(&self, api: &Api) -> Reply {
        let call = api.call(self.method.clone(), &self.path);
        let call = if self.body.is_empty() {
            call
        } else {
            call.raw(self.body.clone())
        };
        call.answer().await
    }

    async fn check(&self, api: &Api) {
        let reply = self.send(api).await;
        let context = || {
            let body = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]);
            format!(
                "{} {} {} at {}, body {body:?}: {reply:?}",
                self.name,
                self.method,
                self.path,
                api.base()
            )
        };
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (self.status, self.code),
            "{}",
            context()
        );
        let problem = reply.problem();
        if let Some(field) = &self.field {
            assert_eq!(problem["field"], field.as_str(), "{}", context());
        }
        // The answer shows no internals: no Rust type, no source file, no backtrace.
        for inside in ["panicked", ".rs:", "::", "<html"] {
            assert!(!reply.text.contains(inside), "{inside:?}: {}", context());
        }
    }
}

fn bodies() -> Vec<Case> {
    let job = |name: &str, body: &str| Case::post(name, "/v1/jobs", body);
    let deep = format!(
        r#"{{"tasks": [{{"kind": "exec", "payload": {}{}}}]}}"#,
        "[".repeat(70),
        "]".repeat(70)
    );
    let very_deep = "[".repeat(200_000);
    let many = json!({"tasks": vec![json!({"kind": "exec"}); 10_001]}).to_string();
    let long_payload = format!(
        r#"{{"tasks": [{{"kind": "exec", "payload": "{}"}}]}}"#,
        "x".repeat(MIB)
    );
    let long_name = format!(
        r#"{{"name": "{}", "tasks": [{{"kind": "exec"}}]}}"#,
        "n".repeat(201)
    );
    let long_key = format!(
        r#"{{"idempotency_key": "{}", "tasks": [{{"kind": "exec"}}]}}"#,
        "k".repeat(201)
    );
    vec![
        job("no body", ""),
        job("white space", "  \n"),
        job("not JSON", "kind=exec"),
        job("half of it", r#"{"tasks": [{"kind": "ex"#),
        job("two of it", r#"{"tasks": [{"kind": "exec"}]} {}"#),
        Case::post(
            "not UTF-8",
            "/v1/jobs",
            b"{\"tasks\": [{\"kind\": \"\xff\xfe\"}]}".to_vec(),
        ),
        job("an array", "[]"),
        job(
            "an array of what a job has",
            r#"["name", null, [{"kind": "exec"}], null]"#,
        ),
        job("a number", "17"),
        job("null", "null"),
        job(
            "unknown field",
            r#"{"taks": [], "tasks": [{"kind": "exec"}]}"#,
        )
        .at("taks"),
        job(
            "unknown field of a task",
            r#"{"tasks": [{"kind": "exec"}, {"kind": "exec", "prio": 3}]}"#,
        )
        .at("tasks[1].prio"),
        job(
            "a field twice",
            r#"{"tasks": [{"kind": "exec"}], "tasks": [{"kind": "exec"}]}"#,
        ),
        job("no tasks", r#"{"tasks": []}"#).at("tasks"),
        job("tasks missing", "{}"),
        job("tasks of a wrong type", r#"{"tasks": "all"}"#).at("tasks"),
        job("kind missing", r#"{"tasks": [{"payload": 1}]}"#),
        job(
            "an empty key",
            r#"{"idempotency_key": "", "tasks": [{"kind": "exec"}]}"#,
        )
        .at("idempotency_key"),
        job("a long name", &long_name).at("name"),
        job("a long key", &long_key).at("idempotency_key"),
        job(
            "a wrong policy",
            r#"{"on_failure": "explode", "tasks": [{"kind": "exec"}]}"#,
        )
        .at("on_failure"),
        job("too deep", &deep),
        job("far too deep", &very_deep),
        job("too many tasks", &many)
            .is(413, "payload_too_large")
            .at("tasks"),
        job("a long payload", &long_payload)
            .is(413, "payload_too_large")
            .at("tasks[0].payload"),
        Case::post("a huge body", "/v1/jobs", vec![b' '; 16 * MIB + 1])
            .is(413, "payload_too_large"),
    ]
}

fn tasks() -> Vec<Case> {
    let long = format!("\"{}\"", "k".repeat(201));
    vec![
        Case::task("priority", "10"),
        Case::task("priority", "-1"),
        Case::task("priority", "300"),
        Case::task("priority", "1.5"),
        Case::task("priority", "\"high\""),
        Case::task("delay_ms", "-5"),
        Case::task("delay_ms", "1e300"),
        Case::task("delay_ms", "18446744073709551616"),
        Case::task("delay_ms", "18446744073709551615"),
        Case::task("expires_ms", "0"),
        Case::task("timeout_ms", "0"),
        Case::task("timeout_ms", "18446744073709551615"),
        Case::task("max_attempts", "0"),
        Case::task("max_attempts", "4294967295"),
        Case::task("max_losses", "-1"),
        Case::task("run_at", "\"tomorrow\""),
        Case::task("run_at", "17"),
        Case::task("run_at", "\"9999-12-31T23:59:59-00:01\""),
        Case::task("run_at", "\"9999-12-31T23:59:60Z\""),
        Case::task("queue", "\"\""),
        Case::task("queue", &long),
        Case::task("queue", r#""a\u0000b""#),
        Case::task("key", &long),
        Case::task("backoff", r#"{"factor": 0.5}"#).at("tasks[0].backoff.factor"),
        Case::task("backoff", r#"{"factor": 1e308}"#).at("tasks[0].backoff.factor"),
        Case::task("backoff", r#"{"jitter": 2}"#).at("tasks[0].backoff.jitter"),
        Case::task("backoff", r#"{"initial_ms": -1}"#).at("tasks[0].backoff.initial_ms"),
        Case::task("backoff", r#"{"speed": 1}"#).at("tasks[0].backoff.speed"),
        Case::task("requires", r#"{"labels": {"zone": 3}}"#).at("tasks[0].requires.labels.zone"),
        Case::task("requires", r#"{"resources": {"mem_mb": -3}}"#)
            .at("tasks[0].requires.resources.mem_mb"),
        Case::task("tags", "\"one\""),
        Case::post("an empty kind", "/v1/jobs", r#"{"tasks": [{"kind": ""}]}"#).at("tasks[0].kind"),
    ]
}

fn path_and_query_cases() -> Vec<Case> {
    let post = |path: &str, body: &str| Case::post("", path, body);
    let long = "j".repeat(5_000);
    vec![
        Case::get("/v1/jobs/nope").is(404, "not_found"),
        Case::get("/v1/jobs/j999999-0").is(404, "not_found"),
        Case::get("/v1/jobs/j99999999999999999999999-0").is(404, "not_found"),
        Case::get("/v1/jobs/j999999-0?wait_ms=1000").is(404, "not_found"),
        Case::get("/v1/jobs/j999999-0/tasks").is(404, "not_found"),
        Case::get("/v1/jobs/%00").is(404, "not_found"),
        Case::get(&format!("/v1/jobs/{long}")).is(404, "not_found"),
        Case::get("/v1/tasks/t999999-0").is(404, "not_found"),
        Case::get("/v1/workers/w999999-0").is(404, "unknown_worker"),
        post("/v1/jobs/j999999-0/cancel", "").is(404, "not_found"),
        post("/v1/tasks/t999999-0/cancel", "{}").is(404, "not_found"),
        post("/v1/tasks/t999999-0/retry", "").is(404, "not_found"),
        post("/v1/tasks/t999999-0/cancel", r#"{"why": "x"}"#).at("why"),
        post("/v1/workers/w999999-0/drain", "").is(404, "unknown_worker"),
        Case::get("/v1/nope").is(404, "not_found"),
        Case::get("/nope").is(404, "not_found"),
        Case::get("/v2/jobs").is(404, "not_found"),
        Case::get("/v1/jobs/").is(404, "not_found"),
        Case::new("", Method::PUT, "/v1/jobs", "{}").is(405, "method_not_allowed"),
        Case::new("", Method::DELETE, "/v1/tasks/t1-0", "").is(405, "method_not_allowed"),
        Case::new("", Method::PATCH, "/v1/cluster", "").is(405, "method_not_allowed"),
        Case::get("/v1/jobs?stat=running").at("stat"),
        Case::get("/v1/jobs?state=done").at("state"),
        Case::get("/v1/jobs?limit=0").at("limit"),
        Case::get("/v1/jobs?limit=many").at("limit"),
        Case::get("/v1/jobs?limit=1&limit=2").at("limit"),
        Case::get("/v1/jobs?after=nothing").at("after"),
        Case::get("/v1/jobs?consistency=eventual").at("consistency"),
        Case::get("/v1/tasks?state=sleeping").at("state"),
        Case::get("/v1/tasks?worker=me").at("worker"),
        Case::get("/v1/tasks/t999999-0/logs?follow_ms=1000").is(404, "not_found"),
        Case::get("/v1/tasks/t1-0/logs?stdout_from=-1").at("stdout_from"),
        Case::get("/v1/tasks/t1-0/logs?attempt=first").at("attempt"),
        Case::get("/v1/tasks/t1-0/logs?follow=1").at("follow"),
        Case::get("/v1/cluster?all=yes").at("all"),
        Case::get("/v1/queues?x").at("x"),
        Case::get("/v1/jobs/j1-0?wait_ms=soon").at("wait_ms"),
        Case::get("/v1/jobs/j1-0?wait_ms=-1").at("wait_ms"),
        post("/v1/jobs?wait_ms=3", r#"{"tasks": [{"kind": "exec"}]}"#).at("wait_ms"),
    ]
}

fn worker_cases(worker: &str) -> Vec<Case> {
    let register = |name: &str, body: &str| Case::post(name, "/v1/workers", body);
    let poll = |body: &str| Case::post("poll", &format!("/v1/workers/{worker}/poll"), body);
    let beat = |body: &str| {
        Case::post(
            "heartbeat",
            &format!("/v1/workers/{worker}/heartbeat"),
            body,
        )
    };
    let output = |body: &str| Case::post("output", &format!("/v1/workers/{worker}/output"), body);
    let report = |body: &str| Case::post("report", &format!("/v1/workers/{worker}/report"), body);
    vec![
        register("no name", "{}"),
        register("an empty name", r#"{"name": ""}"#).at("name"),
        register("no slots", r#"{"name": "a", "slots": 0}"#).at("slots"),
        register("absurd slots", r#"{"name": "a", "slots": 4294967296}"#).at("slots"),
        register("no queues", r#"{"name": "a", "queues": []}"#).at("queues"),
        register("no kinds", r#"{"name": "a", "kinds": []}"#).at("kinds"),
        register("a queue of dots", r#"{"name": "a", "queues": [".."]}"#).at("queues[0]"),
        register(
            "queues of a wrong type",
            r#"{"name": "a", "queues": "default"}"#,
        )
        .at("queues"),
        register("unknown field", r#"{"name": "a", "slotz": 3}"#).at("slotz"),
        poll(r#"{"max": -1}"#).at("max"),
        poll(r#"{"max": 1, "wait": 5}"#).at("wait"),
        poll(r#"{"max": "all"}"#).at("max"),
        poll(r#"{"running": {"task": "t1-0"}}"#).at("running"),
        beat(r#"{"running": 7}"#).at("running"),
        beat(r#"{"beat": 7}"#).at("beat"),
        output("{}"),
        output(r#"{"chunks": 7}"#).at("chunks"),
        report("{}"),
        report(r#"{"results": []}"#).at("results"),
        Case::post("", "/v1/workers/nobody/poll", r#"{"max": 1}"#).is(404, "unknown_worker"),
        Case::post("", "/v1/workers/w999999-0/poll", r#"{"max": 1}"#).is(404, "unknown_worker"),
        Case::post("", "/v1/workers/w999999-0/heartbeat", "{}").is(404, "unknown_worker"),
        Case::new("", Method::DELETE, "/v1/workers/w999999-0", "").is(404, "unknown_worker"),
    ]
}

#[tokio::test]
async fn leader_and_followers_refuse_every_malformed_request_with_its_problem_code() {
    let mut cluster = Cluster::start(3).await;
    let worker = FakeWorker::register(&cluster, "bystander", 1).await;
    let _alive = worker.keep_alive(&[]);
    let leader = cluster.wait_ready().await;
    let follower = cluster.follower().await;
    for node in [leader, follower] {
        let api = cluster.api(node);
        for case in bodies()
            .into_iter()
            .chain(tasks())
            .chain(path_and_query_cases())
        {
            case.check(&api).await;
        }
    }
    // A follower only redirects the calls of workers, so these cases go to the leader.
    let api = cluster.api(leader);
    for case in worker_cases(&worker.id) {
        case.check(&api).await;
    }
    let jobs = api.get("/v1/jobs").await.expect(200);
    assert_eq!(jobs["jobs"], json!([]), "nothing of all that was done");
    drop(_alive);
    assert_works(&mut cluster).await;
}

#[tokio::test]
async fn an_endless_request_body_is_refused_before_it_ends() {
    let mut cluster = Cluster::start(3).await;
    for node in cluster.ids() {
        // Without a declared length, the body is refused when it exceeds the bound.
        let mut stream = tokio::net::TcpStream::connect(cluster.addr(node))
            .await
            .expect("it listens");
        let head =
            b"POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.expect("it reads");
        for _ in 0..17 {
            stream.write_all(b"100000\r\n").await.expect("it reads");
            stream.write_all(&[b' '; MIB]).await.expect("it reads");
            stream.write_all(b"\r\n").await.expect("it reads");
        }
        stream.write_all(b"0\r\n\r\n").await.expect("it reads");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("it answers");
        assert_eq!(&answer, b"HTTP/1.1 413");
        // The client waits for `100 Continue` before it sends the body, and the server never requests the body.
        let mut stream = tokio::net::TcpStream::connect(cluster.addr(node))
            .await
            .expect("it listens");
        let head = b"POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20000000\r\nexpect: 100-continue\r\n\r\n";
        stream.write_all(head).await.expect("it reads");
        stream.read_exact(&mut answer).await.expect("it answers");
        assert_eq!(&answer, b"HTTP/1.1 413");
    }
    assert_works(&mut cluster).await;
}

#[tokio::test]
async fn malformed_request_headers_are_refused() {
    let mut cluster = Cluster::start(3).await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    for (name, value) in [
        ("triarch-min-index", "soon".to_owned()),
        ("triarch-min-index", "-1".to_owned()),
        ("triarch-request-id", String::new()),
        ("triarch-request-id", "a b".to_owned()),
        ("triarch-request-id", "r".repeat(201)),
    ] {
        let (method, body) = match name {
            "triarch-request-id" => (Method::POST, exec(&["true"])),
            _ => (Method::GET, Value::Null),
        };
        let reply = api
            .call(method, "/v1/jobs")
            .header(name, &value)
            .json(&body)
            .answer()
            .await;
        assert_eq!(
            reply.refused(400, "invalid_request")["field"],
            name,
            "{value:?}: {reply:?}"
        );
    }
    // The request waits for a future index, and then fails because the index was not reached.
    let path = "/v1/jobs?consistency=stale";
    let reply = api
        .call(Method::GET, path)
        .header("triarch-min-index", u64::MAX)
        .answer()
        .await;
    reply.refused(504, "timeout");
    assert_works(&mut cluster).await;
}

#[tokio::test]
async fn a_batch_with_one_invalid_task_creates_nothing() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let mut tasks = vec![json!({"kind": "hand"}); 50];
    tasks.push(json!({"kind": "hand", "priority": 99}));
    let refused = api.post("/v1/jobs", &json!({"tasks": tasks})).await;
    assert_eq!(
        refused.refused(400, "invalid_request")["field"],
        "tasks[50].priority"
    );
    assert_eq!(api.get("/v1/tasks").await.expect(200)["tasks"], json!([]));
    // A value equal to the bound is accepted.
    let most = api
        .submit(&json!({"tasks": vec![json!({"kind": "hand"}); 10_000]}))
        .await;
    assert_eq!(most["tasks"].as_array().expect("tasks").len(), 10_000);
    assert_eq!(
        api.get("/v1/queues").await.expect(200)["queues"][0]["depth"],
        10_000
    );
}

#[tokio::test]
async fn an_impossible_task_action_is_refused_with_the_state_of_the_task() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let api = cluster.api(leader);
    let task = submit_task(&api, &exec(&["true"])).await;
    api.post(&format!("/v1/tasks/{task}/retry"), &json!({}))
        .await
        .refused(409, "conflict");
    api.post(&format!("/v1/tasks/{task}/cancel"), &json!({}))
        .await
        .expect(200);
    let late = api
        .post(&format!("/v1/tasks/{task}/cancel"), &json!({}))
        .await;
    assert!(matches!(late.status, 200 | 409), "{late:?}");
    assert_eq!(
        api.get(&format!("/v1/tasks/{task}")).await.expect(200)["state"],
        "cancelled"
    );
}

#[tokio::test]
async fn bytes_that_are_not_http_harm_no_other_client() {
    let mut cluster = Cluster::start(3).await;
    for node in cluster.ids() {
        for noise in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            b"hello\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /v1/jobs HTTP/9.9\r\n\r\n",
            b"POST /v1/jobs HTTP/1.1\r\ncontent-length: many\r\n\r\n",
            b"POST /v1/jobs HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
            b"POST /raft/append HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\n\xff\xff\xff\xff",
            b"POST /raft/vote HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n",
            &[0; 100_000],
        ] {
            let mut stream = tokio::net::TcpStream::connect(cluster.addr(node))
                .await
                .expect("it listens");
            let _ = stream.write_all(noise).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            // Every answer ends, whatever the request was.
            let _ = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1."),
                "{noise:?}: {answer}"
            );
            assert!(!answer.starts_with("HTTP/1.1 2"), "{noise:?}: {answer}");
        }
    }
    cluster.wait_ready().await;
    assert_works(&mut cluster).await;
}

#[tokio::test]
async fn an_unread_request_body_leaves_the_connection_usable() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let body = "x".repeat(100_000);
    for refused in [
        "TRACE /v1/jobs",
        "PUT /nope",
        "GET /healthz",
        "GET /v1/events?after=x",
        "GET /v1/jobs",
    ] {
        let mut stream = tokio::net::TcpStream::connect(cluster.addr(leader))
            .await
            .expect("it listens");
        let length = body.len();
        let first = format!(
            "{refused} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(first.as_bytes()).await.expect("it reads");
        let next = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let sent = stream.write_all(next.as_bytes()).await;
        sent.unwrap_or_else(|error| panic!("{refused}: {error}"));
        let mut answers = String::new();
        let read = stream.read_to_string(&mut answers).await;
        read.unwrap_or_else(|error| panic!("{refused}: {error}"));
        let count = answers.matches("HTTP/1.1 ").count();
        assert_eq!(count, 2, "{refused}: {answers}");
    }
}
