//! Browser guard: requests that a web page of another site makes a browser send are refused on every route, at every
//! node.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, Reply, equal_digests};

const DEADLINE: Duration = Duration::from_secs(30);
const JOB: &str = r#"{"tasks":[{"kind":"exec","payload":{"argv":["true"]}}]}"#;
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Every operation of the OpenAPI document, with its path parameters filled in.
async fn operations(api: &Api) -> Vec<(Method, String)> {
    let document = api.get("/openapi.json").await.expect(200);
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let path = path.replace(['{', '}'], "x");
        for method in item.as_object().expect("operations").keys() {
            let method = method.to_uppercase().parse().expect("a method");
            found.push((method, path.clone()));
        }
    }
    assert!(found.len() > 40, "{found:?}");
    found
}

fn assert_refused(reply: &Reply, status: u16, code: &str) {
    let body: Value = serde_json::from_str(&reply.text).unwrap_or_default();
    assert_eq!(
        (reply.status, body["code"].as_str()),
        (status, Some(code)),
        "{reply:?}"
    );
    assert_hardened(reply);
}

fn assert_hardened(reply: &Reply) {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
        ("content-security-policy", "frame-ancestors 'none'"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{reply:?}");
    }
    for name in reply.headers.keys() {
        assert!(
            !name.as_str().starts_with("access-control-"),
            "{reply:?} shares its answer with other origins"
        );
    }
}

#[tokio::test]
async fn pages_of_other_sites_are_refused_on_every_route_of_every_node() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let follower = cluster.follower().await;
    let apis: Vec<Api> = cluster.ids().map(|id| cluster.api(id)).collect();
    let before = equal_digests(DEADLINE, &apis).await;
    for node in [leader, follower] {
        let api = cluster.api(node);
        for (method, path) in operations(&api).await {
            let call = || {
                let call = api.call(method.clone(), &path);
                match method {
                    Method::GET => call,
                    _ => call.raw(JOB),
                }
            };
            for (name, value) in [
                ("origin", "https://evil.example"),
                ("origin", "null"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-site", "same-site"),
            ] {
                let reply = call().header(name, value).answer().await;
                assert_refused(&reply, 403, "forbidden");
            }
            if !PROBES.contains(&path.as_str()) {
                let reply = call().header("host", "evil.example:7101").answer().await;
                assert_refused(&reply, 421, "misdirected_request");
            }
        }
        // Unknown routes, and routes for messages between nodes.
        let nowhere = api.call(Method::GET, "/nowhere");
        let reply = nowhere.header("origin", "null").answer().await;
        assert_refused(&reply, 403, "forbidden");
        for path in ["/raft/vote", "/raft/append", "/raft/snapshot/chunk"] {
            let message = api.call(Method::POST, path).raw("x");
            let reply = message.header("sec-fetch-mode", "no-cors").answer().await;
            assert_refused(&reply, 403, "forbidden");
        }
    }
    let after = equal_digests(DEADLINE, &apis).await;
    assert_eq!(
        before.value, after.value,
        "a refused request changed something"
    );
}

#[tokio::test]
async fn a_post_that_needs_no_preflight_is_taken_from_programs_only() {
    let mut cluster = Cluster::start(3).await;
    cluster.wait_ready().await;
    let follower = cluster.follower().await;
    let api = cluster.api(follower);
    let own = api.base().to_owned();
    let submit = |kind: &str| api.call(Method::POST, "/v1/jobs").body(kind, JOB);

    for kind in ["text/plain", "application/x-www-form-urlencoded"] {
        let reply = submit(kind).header("origin", &own).answer().await;
        assert_refused(&reply, 415, "unsupported_media_type");
    }
    // A POST without a body needs no preflight request either.
    let pause = || api.call(Method::POST, "/v1/queues/default/pause");
    let reply = pause().header("origin", &own).answer().await;
    assert_refused(&reply, 415, "unsupported_media_type");
    assert_eq!(
        api.get("/v1/queues/default").await.expect(200)["paused"],
        false
    );

    // Requests of the node's own page, and of `curl -d`, are accepted.
    let page = submit("application/json").header("origin", &own);
    page.header("sec-fetch-site", "same-origin")
        .answer()
        .await
        .expect(201);
    let paused = pause()
        .header("origin", &own)
        .header("triarch-request-id", "page-1");
    paused.answer().await.expect(200);
    let curl = submit("application/x-www-form-urlencoded").answer().await;
    assert_hardened(&curl);
    curl.expect(201);
}

#[tokio::test]
async fn probes_answer_under_any_name_and_clients_under_localhost() {
    let mut cluster = Cluster::start(3).await;
    cluster.wait_ready().await;
    for id in cluster.ids() {
        let api = cluster.api(id);
        for path in PROBES {
            let probe = api.call(Method::GET, path).header("host", "pod.internal");
            probe.answer().await.expect(200);
        }
        let named = api
            .call(Method::POST, "/v1/jobs")
            .json(&json!({"tasks": [{"kind": "none"}]}));
        named
            .header("host", "localhost:9")
            .answer()
            .await
            .expect(201);
    }
}
