//! A follower executes what the leader would execute: the same route, the same status, the same code.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use triarch_harness::{Cluster, RawReply, RawRequest, raw_http};

/// Environment variable that replays a run of random paths.
const SEED_ENV: &str = "TRIARCH_SEED";
/// Random paths in one run.
const PATHS: usize = 250;
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"];
/// Segments of random paths. Without those by which a path could name a stream, a backup or a living master.
const SEGMENTS: [&str; 34] = [
    "v1",
    "jobs",
    "tasks",
    "queues",
    "schedules",
    "workers",
    "cluster",
    "nodes",
    "cancel",
    "retry",
    "pause",
    "resume",
    "explain",
    "wait",
    "poll",
    "x",
    "j1-0",
    "t1-0",
    "w1-0",
    "77",
    "",
    ".",
    "..",
    "%2e",
    "%2E%2e",
    ".%2e",
    "a%2Fb",
    "a%2F..%2Fcancel",
    "x\\..\\..\\jobs",
    "%5c..%5cjobs",
    "x;y=1",
    "%ff",
    "%00",
    "caf%C3%A9",
];

/// Two nodes to compare, and where the leader is.
struct Pair {
    leader: String,
    follower: String,
}

impl Pair {
    async fn of(cluster: &mut Cluster) -> Self {
        let (leader, follower) = cluster.leader_and_follower().await;
        Self {
            leader: cluster.addr(leader),
            follower: cluster.addr(follower),
        }
    }

    /// Sends the request to the leader and to the follower, and checks that both did the same.
    async fn same(&self, request: RawRequest<'_>) -> RawReply {
        let at_leader = raw_http::send(&self.leader, request).await;
        let at_follower = raw_http::send(&self.follower, request).await;
        if at_follower.status == 307 {
            // A worker's own call: the same target, at the leader.
            let there = format!("http://{}{}", self.leader, request.target);
            assert_eq!(at_follower.header("location"), Some(there.as_str()));
            assert_ne!(at_leader.code(), "method_not_allowed", "{request:?}");
            return at_leader;
        }
        let done = |reply: &RawReply| match reply.status {
            200..=299 => (200, String::new()),
            // Whole: the words name what was looked for.
            400..=499 => (reply.status, reply.text.clone()),
            status => (status, reply.code()),
        };
        assert_eq!(
            done(&at_leader),
            done(&at_follower),
            "{request:?}: {at_leader:?}, {at_follower:?}"
        );
        assert_eq!(
            at_leader.header("allow"),
            at_follower.header("allow"),
            "{request:?}"
        );
        at_leader
    }
}

fn get(target: &str) -> RawRequest<'_> {
    RawRequest {
        method: "GET",
        target,
        ..RawRequest::default()
    }
}

async fn node_ids(cluster: &Cluster) -> Vec<u64> {
    let status = cluster.api(1).get("/v1/cluster").await.expect(200);
    let nodes = status["nodes"].as_array().expect("nodes").iter();
    nodes.filter_map(|node| node["id"].as_u64()).collect()
}

#[tokio::test]
async fn a_path_that_clients_resolve_executes_no_other_route_at_a_follower() {
    let mut cluster = Cluster::start(3).await;
    let pair = Pair::of(&mut cluster).await;
    let api = cluster.api(1);
    let job = api.submit(&json!({"tasks": [{"kind": "none"}]})).await;
    let bulk = r#"{"queue":"default"}"#;
    for (method, target, body, code) in [
        ("POST", "/v1/tasks/%2e/cancel", bulk, "invalid_request"),
        ("POST", "/v1/tasks/./cancel", bulk, "invalid_request"),
        ("POST", "/v1/jobs/..%2ftasks/cancel", "", "not_found"),
        ("POST", "/v1/x/%2E%2e/tasks/cancel", bulk, "invalid_request"),
        (
            "DELETE",
            "/v1/schedules/x\\..\\..\\cluster\\nodes\\1",
            "",
            "not_found",
        ),
        (
            "DELETE",
            "/v1/schedules/%2e%2e/cluster/nodes/1",
            "",
            "invalid_request",
        ),
        (
            "DELETE",
            "/v1/schedules/x%2F..%2F..%2Fcluster%2Fnodes%2F1",
            "",
            "not_found",
        ),
        (
            "DELETE",
            "/v1/schedules/x;/../../cluster/nodes/1",
            "",
            "invalid_request",
        ),
    ] {
        let request = RawRequest {
            method,
            target,
            body,
            ..RawRequest::default()
        };
        let reply = pair.same(request).await;
        assert_eq!(reply.code(), code, "{method} {target}: {reply:?}");
    }
    let path = format!("/v1/tasks/{}", job["tasks"][0].as_str().expect("an id"));
    assert_eq!(api.get(&path).await.expect(200)["state"], "queued");
    assert_eq!(node_ids(&cluster).await, [1, 2, 3]);

    // Names that such paths would need do not exist, and others with special characters work at every node.
    let job = json!({"tasks": [{"kind": "none", "queue": ".."}]});
    let problem = api
        .post("/v1/jobs", &job)
        .await
        .refused(400, "invalid_request");
    assert_eq!(problem["field"], "tasks[0].queue");
    for name in ["a%2Fb", "a\\b", "...", "x;y", "%252e"] {
        let pause = format!("/v1/queues/{name}/pause");
        let request = RawRequest {
            method: "POST",
            target: &pause,
            ..RawRequest::default()
        };
        assert_eq!(pair.same(request).await.status, 200, "{name}");
        assert_eq!(
            pair.same(get(&format!("/v1/queues/{name}"))).await.status,
            200
        );
    }
}

#[tokio::test]
async fn random_paths_match_the_same_route_at_a_follower_and_at_the_leader() {
    let seed = std::env::var(SEED_ENV)
        .ok()
        .and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| rand::rng().random());
    println!("{SEED_ENV}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3).await;
    let pair = Pair::of(&mut cluster).await;
    let mut found = 0;
    for _ in 0..PATHS {
        let length = random.random_range(1..6);
        let mut target = if random.random_bool(0.8) { "/v1" } else { "" }.to_owned();
        for _ in 0..length {
            target.push('/');
            target.push_str(SEGMENTS.choose(&mut random).expect("some"));
        }
        let request = RawRequest {
            method: METHODS.choose(&mut random).expect("some"),
            target: &target,
            ..RawRequest::default()
        };
        found += usize::from(pair.same(request).await.status < 400);
    }
    println!("{found} of {PATHS} requests were done");
    assert_eq!(node_ids(&cluster).await, [1, 2, 3]);
}

#[tokio::test]
async fn every_documented_route_answers_the_same_at_a_follower_and_at_the_leader() {
    let mut cluster = Cluster::start(3).await;
    let pair = Pair::of(&mut cluster).await;
    let document = cluster.api(1).get("/openapi.json").await.expect(200);
    let mut count = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("operations").keys() {
            let method = method.to_uppercase();
            for name in ["none", "%2e", "a%2Fb", "%ff", "-"] {
                let target: String = path
                    .split('/')
                    .map(|segment| {
                        if segment.starts_with('{') {
                            name
                        } else {
                            segment
                        }
                    })
                    .collect::<Vec<_>>()
                    .join("/");
                // Nothing is changed by it, because no route takes it.
                let target = format!("{target}?none=1");
                let request = RawRequest {
                    method: &method,
                    target: &target,
                    body: if method == "GET" { "" } else { "[]" },
                    ..RawRequest::default()
                };
                pair.same(request).await;
                count += 1;
            }
        }
    }
    assert!(count > 200, "{count}");
}

#[tokio::test]
async fn head_gives_the_length_of_the_answer_at_every_node() {
    let mut cluster = Cluster::start(3).await;
    let pair = Pair::of(&mut cluster).await;
    cluster
        .api(1)
        .submit(&json!({"tasks": [{"kind": "none"}]}))
        .await;
    for target in [
        "/v1/jobs",
        "/v1/jobs?consistency=stale",
        "/v1/queues",
        "/v1/tasks/none",
    ] {
        for addr in [&pair.leader, &pair.follower] {
            let whole = raw_http::send(addr, get(target)).await;
            let head = RawRequest {
                method: "HEAD",
                ..get(target)
            };
            let head = raw_http::send(addr, head).await;
            assert_eq!(head.status, whole.status);
            let length = head.header("content-length").expect("a length");
            let near = length.parse::<usize>().expect("a number");
            // Ages in the answer may have grown by a digit.
            assert!(
                near.abs_diff(whole.text.len()) < 4,
                "{target} at {addr}: {length}"
            );
            assert!(near > 0 && head.text.is_empty(), "{head:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_ends_its_input_gets_its_answer() {
    let mut cluster = Cluster::start(3).await;
    let pair = Pair::of(&mut cluster).await;
    let body = json!({"tasks": vec![json!({"kind": "none"}); 2_000]}).to_string();
    for addr in [&pair.leader, &pair.follower] {
        for (method, target, body, status) in [
            ("POST", "/v1/jobs", body.as_str(), 201),
            ("GET", "/v1/tasks?limit=1000", "", 200),
            ("GET", "/healthz", "", 200),
        ] {
            let request = RawRequest {
                method,
                target,
                body,
                half_close: true,
                ..RawRequest::default()
            };
            let reply = raw_http::send(addr, request).await;
            assert_eq!(reply.status, status, "{target}: {reply:?}");
            let whole: Result<Value, _> = serde_json::from_str(&reply.text);
            assert!(whole.is_ok(), "{target}: {} bytes", reply.text.len());
        }
    }
}

#[tokio::test]
async fn an_ambiguous_or_compressed_request_is_refused_at_every_node() {
    let mut cluster = Cluster::start(3).await;
    let pair = Pair::of(&mut cluster).await;
    let submit = |headers| RawRequest {
        method: "POST",
        target: "/v1/jobs",
        headers,
        body: r#"{"tasks":[{"kind":"none"}]}"#,
        half_close: false,
    };
    let two_ids = [("triarch-request-id", "a"), ("triarch-request-id", "b")];
    let reply = pair.same(submit(&two_ids)).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (400, "invalid_request")
    );
    let reply = pair.same(submit(&[("content-encoding", "gzip")])).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (415, "unsupported_media_type")
    );
    let jobs = cluster.api(1).get("/v1/jobs").await.expect(200);
    assert_eq!(jobs["jobs"], json!([]));
}

#[tokio::test]
async fn streams_ask_reverse_proxies_not_to_hold_them_back() {
    let mut cluster = Cluster::start(3).await;
    let pair = Pair::of(&mut cluster).await;
    for target in ["/v1/events", "/v1/cluster/backup"] {
        let mut stream = TcpStream::connect(&pair.follower)
            .await
            .expect("it listens");
        let ask = format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", pair.follower);
        stream.write_all(ask.as_bytes()).await.expect("written");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("x-accel-buffering: no\r\n"), "{head}");
    }
}
