//! Descriptors and memory: what clients hold is bounded, and a lack of either is a refusal or a wait, never an end.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use triarch_harness::cluster::WAIT_TIMEOUT;
use triarch_harness::{
    Api, Cluster, FakeWorker, Options, RawRequest, eventually, fake_worker, raw_http, until,
};

use crate::operations::metrics::{scrape, wait_held};

/// Descriptors of a master that is short of them.
const FILES: usize = 256;

fn single(more: &[&str]) -> Options {
    Options {
        nodes: 1,
        more: more.iter().map(|word| (*word).to_owned()).collect(),
        ..Options::default()
    }
}

fn descriptors(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
    open.expect("it runs").count()
}

async fn ready(api: &Api) {
    until(WAIT_TIMEOUT, "the master is ready", async || {
        let reply = api.call(reqwest::Method::GET, "/readyz").send().await;
        reply.is_ok_and(|reply| reply.status == 200)
    })
    .await;
}

#[tokio::test]
async fn silent_and_idle_connections_cost_no_client_its_place_and_no_master_its_life() {
    let cluster = Cluster::unstarted(single(&[])).await;
    let server = cluster.server_command(1, &cluster.data_dir(1));
    let mut command = cluster.marked("prlimit");
    command
        .arg(format!("--nofile={FILES}:{FILES}"))
        .arg(server.get_program())
        .args(server.get_args());
    let mut master = cluster.spawn("master-1", command);
    let api = cluster.api(1);
    ready(&api).await;
    let addr = cluster.addr(1);

    // More than there are descriptors, and none says anything.
    let mut silent = Vec::new();
    for _ in 0..FILES * 2 {
        let connected = tokio::time::timeout(WAIT_TIMEOUT, TcpStream::connect(&addr)).await;
        silent.push(connected.expect("in time").expect("it listens"));
    }
    api.submit(&fake_worker::job(json!("among silent ones")))
        .await;
    api.post("/v1/cluster/snapshot", &json!({}))
        .await
        .expect(200);
    assert!(descriptors(master.pid()) < FILES, "none is left");
    drop(silent);

    // More than one client may have, and all are idle: the oldest are closed for new ones.
    let ask = format!("GET /healthz HTTP/1.1\r\nhost: {addr}\r\n\r\n");
    let mut idle: Vec<TcpStream> = Vec::new();
    while idle.len() < FILES {
        let mut stream = TcpStream::connect(&addr).await.expect("it listens");
        stream.write_all(ask.as_bytes()).await.expect("written");
        let mut answer = [0; 15];
        let read = tokio::time::timeout(WAIT_TIMEOUT, stream.read_exact(&mut answer)).await;
        match read.expect("in time") {
            Ok(_) if answer.starts_with(b"HTTP/1.1 200") => idle.push(stream),
            // All were used a moment ago.
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    // A connection counts as idle after a second; until then the answer is to come back later.
    until(
        WAIT_TIMEOUT,
        "a job is accepted among idle ones",
        async || {
            let job = fake_worker::job(json!("among idle ones"));
            let reply = api.post("/v1/jobs", &job).await;
            assert!([201, 503].contains(&reply.status), "{reply:?}");
            reply.status == 201
        },
    )
    .await;
    api.post("/v1/cluster/snapshot", &json!({}))
        .await
        .expect(200);
    let evicted = scrape(&cluster, 1)
        .await
        .value("triarch_connections_evicted_total", &[]);
    assert!(evicted > 0.0, "none was closed");
    assert!(master.is_running());
    master.kill9();
}

/// Sets the soft limit of descriptors of a process, and gives the one before.
fn limit_descriptors(pid: u32, files: u64) -> u64 {
    let mut before = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let pid = libc::pid_t::try_from(pid).expect("a pid");
    // SAFETY: both pointers are null or to a structure that lives until the call returns.
    let read = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &mut before) };
    let wanted = libc::rlimit {
        rlim_cur: files,
        ..before
    };
    // SAFETY: as above.
    let set = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &wanted, std::ptr::null_mut()) };
    assert_eq!((read, set), (0, 0), "{}", std::io::Error::last_os_error());
    before.rlim_cur
}

#[tokio::test]
async fn a_snapshot_without_descriptors_is_postponed_and_the_master_goes_on() {
    let mut cluster = Cluster::with(single(&[])).await;
    let node = cluster.leader().await;
    let pid = cluster.pid(node);
    // One connection for all of it, because the master can accept no other.
    let kept = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client");
    let api = Api::new(kept, cluster.url(node));
    api.submit(&fake_worker::job(json!("before"))).await;
    // Every number from here on is refused, and those below are taken.
    let before = limit_descriptors(pid, 3);
    let postponed = api
        .post("/v1/cluster/snapshot?wait_ms=300", &json!({}))
        .await;
    assert_eq!(postponed.status, 202, "{postponed:?}");
    api.submit(&fake_worker::job(json!("meanwhile"))).await;
    let _unaccepted = TcpStream::connect(cluster.addr(node))
        .await
        .expect("the kernel takes it");
    until(WAIT_TIMEOUT, "the failed accept is counted", async || {
        let metrics = api.get("/metrics").await.text;
        let sample = metrics
            .lines()
            .find_map(|line| line.strip_prefix("triarch_accept_errors_total "));
        sample.expect("the metric").parse::<f64>().expect("a count") > 0.0
    })
    .await;
    limit_descriptors(pid, before);
    until(WAIT_TIMEOUT, "the snapshot is written", async || {
        let reply = api
            .post("/v1/cluster/snapshot?wait_ms=2000", &json!({}))
            .await;
        reply.status == 200
    })
    .await;
    let metrics = scrape(&cluster, node).await;
    assert!(metrics.value("triarch_snapshots_postponed_total", &[]) >= 1.0);
    assert!(cluster.log_line_of(node).contains("retried later"));
    assert!(cluster.node(node).is_running());
}

/// Submits `count` tasks, each of which succeeds with a result of 1 MB. Returns their ids.
async fn large_results(cluster: &Cluster, api: &Api, count: usize) -> Vec<String> {
    let task = json!({"kind": fake_worker::KIND, "payload": "p".repeat(1_000)});
    let submitted = api.submit(&json!({"tasks": vec![task; count]})).await;
    let worker = FakeWorker::register(cluster, "large", count as u32).await;
    for lease in worker.take_many(count).await {
        worker
            .report(lease.succeeded(json!("x".repeat(1_000_000))))
            .await;
    }
    let ids = submitted["tasks"].as_array().expect("ids").iter();
    ids.map(|id| id.as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn rows_have_no_bodies_unless_asked_for_and_pages_are_bounded_in_bytes() {
    const TASKS: usize = 10;
    const PAGE_BYTES_MAX: usize = 4 << 20;
    let mut cluster = Cluster::start(3).await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(leader);
    let ids = large_results(&cluster, &api, TASKS).await;
    let task = api.get(&format!("/v1/tasks/{}", ids[0])).await.expect(200);
    let job = task["job"].as_str().expect("an id").to_owned();
    assert_eq!(task["result"].as_str().map(str::len), Some(1_000_000));
    for node in [leader, follower] {
        let api = cluster.api(node);
        for list in ["/v1/tasks".to_owned(), format!("/v1/jobs/{job}/tasks")] {
            let reply = api.get(&format!("{list}?limit=1000")).await;
            assert!(reply.text.len() < 20_000, "{} bytes", reply.text.len());
            for row in reply.expect(200)["tasks"].as_array().expect("rows") {
                for left_out in ["payload", "result", "attempts", "after"] {
                    assert_eq!(row.get(left_out), None, "{row}");
                }
                assert_eq!(row["error"], Value::Null);
            }
            for fields in ["all", "result"] {
                let mut after = String::new();
                let mut seen = Vec::new();
                loop {
                    let path = format!("{list}?limit=1000&fields={fields}{after}");
                    let reply = api.get(&path).await;
                    assert!(
                        reply.text.len() <= PAGE_BYTES_MAX + 100,
                        "{}",
                        reply.text.len()
                    );
                    let page = reply.expect(200);
                    for row in page["tasks"].as_array().expect("rows") {
                        assert_eq!(row["result"].as_str().map(str::len), Some(1_000_000));
                        assert_eq!(row.get("payload").is_some(), fields == "all");
                        seen.push(row["id"].as_str().expect("an id").to_owned());
                    }
                    match page["next"].as_str() {
                        Some(next) => after = format!("&after={next}"),
                        None => break,
                    }
                }
                assert_eq!(seen, ids, "{list}, {fields}");
            }
        }
        let problem = api.get("/v1/tasks?fields=resul").await;
        assert_eq!(problem.refused(400, "invalid_request")["field"], "fields");
    }
}

#[tokio::test]
async fn a_task_with_many_large_errors_is_shown_within_a_bound_and_says_so() {
    const ATTEMPTS: usize = 8;
    let mut cluster = Cluster::with(single(&[])).await;
    let node = cluster.leader().await;
    let api = cluster.api(node);
    let task = json!({"kind": fake_worker::KIND, "max_attempts": ATTEMPTS,
        "backoff": {"initial_ms": 0, "max_ms": 0}});
    let submitted = api.submit(&json!({"tasks": [task]})).await;
    let worker = FakeWorker::register(&cluster, "failing", 1).await;
    for _ in 0..ATTEMPTS {
        let lease = worker.take(&[]).await;
        let mut failed = lease.failed(true);
        failed["error"] = json!({"type": "large", "message": "m".repeat(900_000)});
        worker.report(failed).await;
    }
    let path = format!(
        "/v1/tasks/{}",
        submitted["tasks"][0].as_str().expect("an id")
    );
    let reply = api.get(&path).await;
    assert!(reply.text.len() < 8 << 20, "{} bytes", reply.text.len());
    let task = reply.expect(200);
    assert_eq!(task["more"], true);
    let attempts = task["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), ATTEMPTS);
    let length = |attempt: &Value| attempt["error"]["message"].as_str().map(str::len);
    assert_eq!(length(&attempts[0]), Some(200));
    assert_eq!(length(&attempts[ATTEMPTS - 1]), Some(900_000));
    let rows = api.get("/v1/tasks").await.expect(200);
    let error = json!({"type": "large", "message": "m".repeat(200)});
    assert_eq!(rows["tasks"][0]["error"], error);
}

/// Connects with a small buffer for what is received, from this loopback address, and sends a request.
async fn ask_and_read_nothing(from: &str, addr: &str, request: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("small");
    let from = format!("{from}:0").parse().expect("an address");
    socket.bind(from).expect("a loopback address");
    let addr = addr.parse().expect("an address");
    let mut stream = socket.connect(addr).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("written");
    stream
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_bounded_memory() {
    const BUDGET_BYTES: f64 = (16 << 20) as f64;
    let mut cluster = Cluster::with(single(&["--max-answer-memory-mib", "16"])).await;
    let node = cluster.leader().await;
    let (api, addr) = (cluster.api(node), cluster.addr(node));
    large_results(&cluster, &api, 4).await;
    let request = format!("GET /v1/tasks?fields=all HTTP/1.1\r\nhost: {addr}\r\n\r\n");
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.push(ask_and_read_nothing("127.0.0.7", &addr, &request).await);
    }
    let one_share = eventually(WAIT_TIMEOUT, "the other answers are refused", async || {
        let metrics = scrape(&cluster, node).await;
        let shed = metrics.value("triarch_http_shed_total", &[("reason", "answers")]);
        let held = metrics.value("triarch_http_answer_bytes", &[]);
        (shed >= 1.0 && held > 1e6).then_some(held)
    })
    .await;
    assert!(one_share <= BUDGET_BYTES / 4.0, "{one_share}");
    // That address has had its share; small answers and others are served.
    let refused = raw_http::send_from(
        "127.0.0.7",
        &addr,
        RawRequest {
            method: "GET",
            target: "/v1/tasks?fields=all",
            ..RawRequest::default()
        },
    )
    .await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "rate_limited")
    );
    assert!(refused.text.contains("your address"), "{refused:?}");
    api.get("/v1/tasks").await.expect(200);
    api.get("/v1/tasks?fields=all").await.expect(200);
    drop(unread);
    until(WAIT_TIMEOUT, "the memory is free again", async || {
        scrape(&cluster, node)
            .await
            .value("triarch_http_answer_bytes", &[])
            == 0.0
    })
    .await;
}

#[tokio::test]
async fn one_address_takes_no_more_than_its_share_of_waits_and_event_streams() {
    const TASKS: usize = 10_000;
    const STREAMS: usize = 250;
    let mut cluster = Cluster::with(single(&[])).await;
    let node = cluster.leader().await;
    let (api, addr) = (cluster.api(node), cluster.addr(node));
    let submitted = api
        .submit(&json!({"tasks": vec![json!({"kind": "none"}); TASKS]}))
        .await;
    let body = json!({"tasks": submitted["tasks"]}).to_string();
    let target = "/v1/tasks/wait?wait_ms=60000";
    let request = format!(
        "POST {target} HTTP/1.1\r\nhost: {addr}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut waiting = Vec::new();
    for _ in 0..2 {
        waiting.push(ask_and_read_nothing("127.0.0.7", &addr, &request).await);
    }
    wait_held(&cluster, &[node], "wait", 2 * TASKS).await;
    let third = RawRequest {
        method: "POST",
        target,
        body: &body,
        ..RawRequest::default()
    };
    let refused = raw_http::send_from("127.0.0.7", &addr, third).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "rate_limited")
    );
    assert!(refused.text.contains("your address"), "{refused:?}");
    waiting.push(ask_and_read_nothing("127.0.0.8", &addr, &request).await);
    wait_held(&cluster, &[node], "wait", 3 * TASKS).await;
    drop(waiting);

    let request = format!("GET /v1/events HTTP/1.1\r\nhost: {addr}\r\n\r\n");
    let mut readers = Vec::new();
    for _ in 0..STREAMS {
        readers.push(ask_and_read_nothing("127.0.0.7", &addr, &request).await);
    }
    wait_held(&cluster, &[node], "events", STREAMS).await;
    let one_more = RawRequest {
        method: "GET",
        target: "/v1/events",
        ..RawRequest::default()
    };
    let refused = raw_http::send_from("127.0.0.7", &addr, one_more).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "rate_limited")
    );
    readers.push(ask_and_read_nothing("127.0.0.8", &addr, &request).await);
    wait_held(&cluster, &[node], "events", STREAMS + 1).await;
}

#[tokio::test]
async fn a_table_that_fills_its_memory_refuses_more_tasks_until_some_are_forgotten() {
    // Three eighths of it are for the table.
    let mut cluster = Cluster::with(single(&["--max-memory-mib", "64"])).await;
    let node = cluster.leader().await;
    let api = cluster.api(node);
    let payload = "x".repeat(1_000_000);
    let job = json!({"tasks": [{"kind": "none", "queue": "large", "payload": payload}]});
    let mut accepted = 0;
    let problem = loop {
        let reply = api.post("/v1/jobs", &job).await;
        match reply.status {
            201 => accepted += 1,
            _ => break reply.refused(429, "queue_full"),
        }
        assert!(accepted < 30, "more is taken than there is memory for");
    };
    assert!(accepted > 15, "{accepted}: {problem}");
    assert_eq!(problem["bound"], "memory");
    // All else goes on.
    FakeWorker::register(&cluster, "alive", 1)
        .await
        .heartbeat(&[])
        .await;
    let metrics = scrape(&cluster, node).await;
    let (used, bound) = (
        metrics.value("triarch_table_memory_bytes", &[]),
        metrics.value("triarch_table_memory_max_bytes", &[]),
    );
    assert!(
        used <= bound && bound == f64::from(24 << 20),
        "{used} of {bound}"
    );
    api.post("/v1/queues/large/purge", &json!({}))
        .await
        .expect(200);
    let selection = json!({"queue": "large", "state": "cancelled"});
    api.post("/v1/tasks/forget", &selection).await.expect(200);
    api.submit(&job).await;
}
