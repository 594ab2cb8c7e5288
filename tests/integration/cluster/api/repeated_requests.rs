//! A request that is sent twice is done once, on every route but those of a documented list.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use triarch_harness::{Api, Cluster, FakeWorker, Options, Reply, equal_digests, until};

use crate::job_helpers::WAIT_TIMEOUT;

/// Effect of a repeated request.
enum Repeat {
    /// It only reads.
    Read,
    /// A worker's poll: each may lease more.
    Poll,
    /// No master repeats it: docs/http-api.md lists it.
    Never,
    /// Done once. The second answer is a success, or the refusal with this code: the thing is done or gone already.
    Once(Setup, Option<&'static str>),
}

/// How a path is filled in, and the body.
struct Setup {
    path: String,
    body: Value,
}

/// Objects that the requests are about, each for one request only.
struct Fixture {
    jobs: BTreeMap<&'static str, Value>,
    workers: BTreeMap<&'static str, FakeWorker>,
}

const KIND: &str = "nobody-runs-this";

impl Fixture {
    async fn make(cluster: &Cluster, api: &Api) -> Self {
        let mut jobs = BTreeMap::new();
        for name in [
            "cancel-job",
            "cancel-task",
            "retry-task",
            "bulk-cancel",
            "purge",
        ] {
            let job = json!({"name": name, "tasks": [{"kind": KIND, "queue": name}]});
            jobs.insert(name, api.submit(&job).await);
        }
        for name in ["forget"] {
            let job = json!({"name": name, "tasks": [{"kind": KIND, "queue": name}]});
            let submitted = api.submit(&job).await;
            let path = format!(
                "/v1/jobs/{}/cancel",
                submitted["id"].as_str().expect("an id")
            );
            api.post(&path, &json!({})).await.expect(200);
            jobs.insert(name, submitted);
        }
        let retry = Self::task(&jobs, "retry-task");
        api.post(&format!("/v1/tasks/{retry}/cancel"), &json!({}))
            .await
            .expect(200);
        for name in ["delete", "pause", "resume", "trigger"] {
            let schedule = json!({"cron": "0 0 1 1 *", "job": {"tasks": [{"kind": KIND}]},
                "paused": name == "resume"});
            api.put(&format!("/v1/schedules/{name}"), &schedule)
                .await
                .expect(201);
        }
        let mut workers = BTreeMap::new();
        for name in [
            "heartbeat",
            "report",
            "output",
            "leave",
            "drain",
            "pause",
            "resume",
        ] {
            workers.insert(name, FakeWorker::register(cluster, name, 1).await);
        }
        Self { jobs, workers }
    }

    fn task(jobs: &BTreeMap<&'static str, Value>, name: &str) -> String {
        jobs[name]["tasks"][0].as_str().expect("an id").to_owned()
    }

    fn worker(&self, name: &str, verb: &str) -> String {
        format!("/v1/workers/{}{verb}", self.workers[name].id)
    }

    /// The case of one operation. A new route has no case, and the test fails until it gets one.
    fn case(&self, method: &str, path: &str) -> Repeat {
        if method == "GET" {
            return Repeat::Read;
        }
        let id_of = |name: &str| self.jobs[name]["id"].as_str().expect("an id").to_owned();
        let task = |name: &str| Self::task(&self.jobs, name);
        let once = |path: &str, body: Value| {
            let path = path.to_owned();
            Repeat::Once(Setup { path, body }, None)
        };
        let gone = |path: &str, code| {
            let (path, body) = (path.to_owned(), json!({}));
            Repeat::Once(Setup { path, body }, Some(code))
        };
        match (method, path) {
            ("POST", "/v1/workers/{id}/poll") => Repeat::Poll,
            ("POST", "/v1/cluster/transfer-leader" | "/v1/tasks/retry") => Repeat::Never,
            ("POST", "/v1/jobs") => once(path, json!({"tasks": [{"kind": KIND}]})),
            ("POST", "/v1/jobs/{id}/cancel") => gone(
                &format!("/v1/jobs/{}/cancel", id_of("cancel-job")),
                "already_finished",
            ),
            ("POST", "/v1/tasks/{id}/cancel") => gone(
                &format!("/v1/tasks/{}/cancel", task("cancel-task")),
                "already_finished",
            ),
            ("POST", "/v1/tasks/{id}/retry") => once(
                &format!("/v1/tasks/{}/retry", task("retry-task")),
                json!({}),
            ),
            ("POST", "/v1/tasks/cancel") => once(path, json!({"queue": "bulk-cancel"})),
            ("POST", "/v1/tasks/forget") => {
                once(path, json!({"queue": "forget", "state": "cancelled"}))
            }
            ("POST", "/v1/tasks/wait") => once(path, json!({"tasks": [task("purge")]})),
            ("PUT", "/v1/queues/{queue}") => once("/v1/queues/set", json!({"weight": 3})),
            ("POST", "/v1/queues/{queue}/pause") => once("/v1/queues/set/pause", json!({})),
            ("POST", "/v1/queues/{queue}/resume") => once("/v1/queues/set/resume", json!({})),
            ("POST", "/v1/queues/{queue}/purge") => once("/v1/queues/purge/purge", json!({})),
            ("PUT", "/v1/schedules/{name}") => once(
                "/v1/schedules/put",
                json!({"cron": "0 0 1 1 *", "job": {"tasks": [{"kind": KIND}]}}),
            ),
            ("DELETE", "/v1/schedules/{name}") => gone("/v1/schedules/delete", "not_found"),
            ("POST", "/v1/schedules/{name}/pause") => once("/v1/schedules/pause/pause", json!({})),
            ("POST", "/v1/schedules/{name}/resume") => {
                once("/v1/schedules/resume/resume", json!({}))
            }
            ("POST", "/v1/schedules/{name}/trigger") => {
                once("/v1/schedules/trigger/trigger", json!({}))
            }
            // Refused both times: the test has three masters, and no fourth.
            ("POST", "/v1/cluster/nodes") => {
                let body = json!({"id": 9, "addr": "127.0.0.1:9"});
                let path = path.to_owned();
                Repeat::Once(Setup { path, body }, Some("conflict"))
            }
            ("DELETE", "/v1/cluster/nodes/{id}") => gone("/v1/cluster/nodes/9", "not_found"),
            // Refused both times: the time of the table is right.
            ("POST", "/v1/cluster/set-time-back") => gone(path, "conflict"),
            ("POST", "/v1/cluster/upgrade") => once(path, json!({})),
            ("POST", "/v1/cluster/snapshot") => once("/v1/cluster/snapshot", json!({})),
            ("POST", "/v1/cluster/restore") => {
                gone("/v1/cluster/restore?backup=b&part=1&parts=2", "conflict")
            }
            ("POST", "/v1/workers") => once(
                path,
                json!({"name": "twice", "queues": ["default"], "kinds": [KIND], "slots": 1}),
            ),
            ("POST", "/v1/workers/{id}/heartbeat") => once(
                &self.worker("heartbeat", "/heartbeat"),
                json!({"running": []}),
            ),
            ("POST", "/v1/workers/{id}/report") => {
                let result =
                    json!({"task": "t1-0", "token": 1, "status": "succeeded", "result": 1});
                once(
                    &self.worker("report", "/report"),
                    json!({"results": [result]}),
                )
            }
            ("POST", "/v1/workers/{id}/output") => {
                once(&self.worker("output", "/output"), json!({"chunks": []}))
            }
            ("POST", "/v1/workers/{id}/drain") => once(&self.worker("drain", "/drain"), json!({})),
            ("POST", "/v1/workers/{id}/pause") => once(&self.worker("pause", "/pause"), json!({})),
            ("POST", "/v1/workers/{id}/resume") => {
                once(&self.worker("resume", "/resume"), json!({}))
            }
            ("DELETE", "/v1/workers/{id}") => gone(&self.worker("leave", ""), "unknown_worker"),
            _ => panic!(
                "{method} {path}: is it done once when it is sent twice? Add a case, and the route to once_routes() if not"
            ),
        }
    }
}

/// Everything that clients can see, without ages and loads.
async fn observed(api: &Api) -> Value {
    const VOLATILE: [&str; 6] = [
        "silent_ms",
        "oldest_ms",
        "load",
        "started_per_s",
        "finished_per_s",
        "rates",
    ];
    let mut seen = json!({});
    for (path, rows) in [
        ("/v1/jobs", "jobs"),
        ("/v1/tasks", "tasks"),
        ("/v1/schedules", "schedules"),
        ("/v1/workers", "workers"),
    ] {
        seen[rows] = api.all(path, rows).await.into();
    }
    seen["queues"] = api.get("/v1/queues").await.expect(200)["queues"].clone();
    for rows in seen.as_object_mut().expect("an object").values_mut() {
        for row in rows.as_array_mut().expect("rows") {
            let row = row.as_object_mut().expect("a row");
            row.retain(|name, _| !VOLATILE.contains(&name.as_str()));
        }
    }
    let cluster = api.get("/v1/cluster").await.expect(200);
    for field in ["term", "leader"] {
        seen[field] = cluster[field].clone();
    }
    seen["members"] = cluster["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| json!([node["id"], node["role"]]))
        .collect();
    seen
}

#[tokio::test]
async fn a_change_that_is_sent_twice_is_done_once_on_every_documented_route() {
    let mut cluster = Cluster::with(Options {
        // The workers here are silent.
        lease_ms: 3_600_000,
        // No election by chance: the term is among what is compared.
        more: vec!["--timing".into(), "wan".into()],
        ..Options::default()
    })
    .await;
    let (leader, follower) = cluster.leader_and_follower().await;
    let api = cluster.api(leader);
    let fixture = Fixture::make(&cluster, &api).await;
    let document = api.get("/openapi.json").await.expect(200);
    let mut tested = 0;
    let mut never = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("operations").keys() {
            let method = method.to_uppercase();
            let (setup, code) = match fixture.case(&method, path) {
                Repeat::Read | Repeat::Poll => continue,
                Repeat::Never => {
                    never.push(format!("`{method} {path}`"));
                    continue;
                }
                Repeat::Once(setup, code) => (setup, code),
            };
            // Where a master forwards and repeats; a worker repeats its calls at the leader.
            let node = if path.starts_with("/v1/workers") {
                leader
            } else {
                follower
            };
            let id = format!("twice-{tested}");
            let send = async || -> Reply {
                let verb: Method = method.parse().expect("a method");
                let call = cluster.api(node).call(verb, &setup.path);
                let call = call.header("triarch-request-id", &id);
                call.json(&setup.body).answer().await
            };
            let first = send().await;
            assert!(
                first.status < 300 || code == Some(first.code().as_str()),
                "{method} {path}: {first:?}"
            );
            let after_first = observed(&api).await;
            let second = send().await;
            assert!(
                second.status < 300 || code == Some(second.code().as_str()),
                "{method} {path}, again: {second:?}"
            );
            let after_second = observed(&api).await;
            assert_eq!(after_first, after_second, "{method} {path} was done twice");
            tested += 1;
        }
    }
    assert!(tested > 20, "{tested}");
    // The list that users read.
    let page = include_str!("../../../../docs/http-api.md");
    let (_, list) = page
        .split_once("is never repeated")
        .expect("a list of them");
    let (list, _) = list.split_once("\n\n").expect("it ends");
    for route in never {
        assert!(
            list.contains(&route),
            "docs/http-api.md does not list {route}"
        );
    }
    equal_digests(WAIT_TIMEOUT, &cluster.apis()).await;
}

#[tokio::test]
async fn a_transfer_that_a_bystander_forwards_moves_leadership_once() {
    const ROUNDS: usize = 4;
    let mut cluster = Cluster::with(Options {
        // No election but those that are asked for.
        more: vec!["--timing".into(), "wan".into()],
        ..Options::default()
    })
    .await;
    for round in 0..ROUNDS {
        let leader = cluster.wait_ready().await;
        let (term, _) = cluster.observed_leader().await.expect("a leader");
        let others: Vec<u64> = cluster.ids().filter(|id| *id != leader).collect();
        let (target, bystander) = (others[round % 2], others[(round + 1) % 2]);
        // Without a target, the most up-to-date master takes over: perhaps the one that forwards.
        let body = match round < ROUNDS / 2 {
            true => json!({"to": target}),
            false => json!({}),
        };
        let api = cluster.api(bystander);
        let reply = api.post("/v1/cluster/transfer-leader", &body).await;
        reply.expect(200);
        until(WAIT_TIMEOUT, "another master leads", async || {
            let now = cluster.observed_leader().await;
            now.is_some_and(|(_, now)| now != leader)
        })
        .await;
        let now = cluster.wait_ready().await;
        if let Some(to) = body["to"].as_u64() {
            assert_eq!(now, to);
        }
        let (after, _) = cluster.observed_leader().await.expect("a leader");
        assert_eq!(after, term + 1, "{body}: leadership moved more than once");
    }
}
