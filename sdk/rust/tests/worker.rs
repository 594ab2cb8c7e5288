//! The worker's runtime against masters that forget it, lose its leases, redirect it, go silent.

mod scripted;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::http::Method;
use axum::response::Response;
use scripted::{DEADLINE, Scripted, Seen, eventually, json, redirect, refuse};
use serde_json::{Value, json};
use tokio::sync::Notify;
use triarch_sdk::wire::{LeasedTask, ProblemCode, Register};
use triarch_sdk::worker::{self, StopReason, TaskContext};
use triarch_sdk::{Client, ClientOptions, Executor, Outcome, Shutdown, WorkerConfig, WorkerError};
use url::Url;

const HEARTBEAT_MS: u64 = 30;
const LEASE_MS: u64 = 400;

/// What the master does, to be changed while it runs.
#[derive(Default)]
struct Script {
    registered: usize,
    known: HashSet<String>,
    refuse_registration: Option<ProblemCode>,
    ready: VecDeque<Value>,
    cancel: Vec<String>,
    lost: Vec<String>,
    drain: bool,
    silent: bool,
    redirect_to: Option<Url>,
    refuse_reports: VecDeque<ProblemCode>,
    verdicts: HashMap<u64, &'static str>,
    results: Vec<Value>,
    left: usize,
}

#[derive(Clone, Default)]
struct Cluster {
    script: Arc<Mutex<Script>>,
    changed: Arc<Notify>,
}

impl Cluster {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no panic under it")
    }

    fn offer(&self, task: &str, token: u64, payload: &str, timeout_ms: Option<u64>) {
        self.script().ready.push_back(json!({
            "id": task, "job": "j1-0", "kind": "test", "payload": payload, "attempt": 1,
            "token": token, "lease_ms": LEASE_MS, "timeout_ms": timeout_ms,
        }));
        self.changed.notify_waiters();
    }

    async fn master(&self) -> Scripted {
        let cluster = self.clone();
        Scripted::start(move |seen| {
            let cluster = cluster.clone();
            async move { cluster.answer(seen).await }
        })
        .await
    }

    async fn answer(&self, seen: Seen) -> Response {
        if self.script().silent {
            std::future::pending::<()>().await;
        }
        if let Some(to) = self.script().redirect_to.clone() {
            return redirect(&to, &seen);
        }
        if seen.is(&Method::GET, "/cluster") {
            return json(200, &json!({"term": 1, "commit_index": 1, "nodes": []}));
        }
        if seen.is(&Method::POST, "/workers") {
            return self.register();
        }
        let id = seen.path.split('/').nth(3).unwrap_or_default().to_owned();
        if !self.script().known.contains(&id) {
            return refuse(ProblemCode::UnknownWorker);
        }
        if seen.method == Method::DELETE {
            self.script().left += 1;
            return json(200, &json!({"id": id, "returned": 0}));
        }
        match seen.path.rsplit('/').next() {
            Some("heartbeat") => self.heartbeat(),
            Some("report") => self.report(&seen.body),
            Some("poll") => self.poll(&seen.body).await,
            other => panic!("not a worker's call: {other:?}"),
        }
    }

    fn register(&self) -> Response {
        let mut script = self.script();
        if let Some(code) = script.refuse_registration {
            return refuse(code);
        }
        script.registered += 1;
        let id = format!("w{}-0", script.registered);
        script.known.insert(id.clone());
        json(
            201,
            &json!({"id": id, "heartbeat_ms": HEARTBEAT_MS, "lease_ms": LEASE_MS}),
        )
    }

    fn heartbeat(&self) -> Response {
        let script = self.script();
        json(
            200,
            &json!({"cancel": script.cancel, "lost": script.lost, "drain": script.drain}),
        )
    }

    fn report(&self, body: &Value) -> Response {
        if let Some(code) = self.script().refuse_reports.pop_front() {
            return refuse(code);
        }
        json(200, &json!({"results": self.settle(body)}))
    }

    fn settle(&self, body: &Value) -> Vec<Value> {
        let mut script = self.script();
        let results = body["results"].as_array().cloned().unwrap_or_default();
        let verdict = |result: &Value| {
            let code = script
                .verdicts
                .get(&result["token"].as_u64().expect("a token"));
            match code {
                Some(code) => json!({"task": result["task"], "accepted": false, "code": code}),
                None => json!({"task": result["task"], "accepted": true}),
            }
        };
        let verdicts = results.iter().map(verdict).collect();
        script.results.extend(results);
        verdicts
    }

    async fn poll(&self, body: &Value) -> Response {
        for result in body["results"].as_array().into_iter().flatten() {
            let running = body["running"].as_array().expect("told");
            let both = running.iter().any(|one| one["token"] == result["token"]);
            assert!(!both, "ended and still running: {body}");
        }
        let verdicts = self.settle(body);
        let max = usize::try_from(body["max"].as_u64().expect("max")).expect("small");
        let wait = Duration::from_millis(body["wait_ms"].as_u64().expect("wait_ms"));
        let leased = async {
            loop {
                let changed = self.changed.notified();
                {
                    let mut script = self.script();
                    if !script.ready.is_empty() {
                        let many = script.ready.len().min(max);
                        return script.ready.drain(..many).collect::<Vec<_>>();
                    }
                }
                changed.await;
            }
        };
        let tasks = tokio::time::timeout(wait, leased).await.unwrap_or_default();
        json(200, &json!({"tasks": tasks, "results": verdicts}))
    }
}

/// Does what the payload says, and remembers how attempts were stopped.
#[derive(Clone, Default)]
struct Tester {
    begun: Arc<Mutex<Vec<(String, u64)>>>,
    stopped: Arc<Mutex<Vec<(String, StopReason)>>>,
    release: Arc<Notify>,
}

impl Tester {
    fn has_begun(&self, token: u64) -> bool {
        let begun = self.begun.lock().expect("no panic under it");
        begun.iter().any(|(_, one)| *one == token)
    }

    fn was_stopped(&self, task: &str, reason: StopReason) -> bool {
        let stopped = self.stopped.lock().expect("no panic under it");
        stopped.iter().any(|one| *one == (task.to_owned(), reason))
    }
}

impl Executor for Tester {
    async fn run(&self, task: LeasedTask, context: TaskContext) -> Outcome {
        let begun = (task.id.clone(), task.token);
        self.begun.lock().expect("no panic under it").push(begun);
        let payload = task
            .payload
            .as_ref()
            .map_or("", |raw| raw.get())
            .trim_matches('"')
            .to_owned();
        match payload.as_str() {
            "finish" => Outcome::succeeded("done"),
            "panic" => panic!("on purpose"),
            "hang" => std::future::pending().await,
            "finish when stopped" => {
                context.stopped().await;
                Outcome::succeeded("done")
            }
            "wait" => {
                tokio::select! {
                    () = self.release.notified() => Outcome::succeeded("released"),
                    reason = context.stopped() => {
                        self.stopped.lock().expect("no panic under it").push((task.id, reason));
                        Outcome::Stopped
                    }
                }
            }
            other => panic!("not a payload of these tests: {other}"),
        }
    }
}

struct Worker {
    tester: Tester,
    shutdown: Shutdown,
    running: tokio::task::JoinHandle<Result<(), WorkerError>>,
}

impl Worker {
    fn start(master: &Scripted) -> Self {
        Self::start_as(master, |_| {})
    }

    fn start_as(master: &Scripted, adapt: impl FnOnce(&mut WorkerConfig)) -> Self {
        let options = ClientOptions {
            answer_timeout: Duration::from_millis(200),
            ..ClientOptions::default()
        };
        let client =
            Client::with_options(std::slice::from_ref(&master.url), options).expect("valid");
        let mut config = WorkerConfig::new(Register {
            name: "tester".to_owned(),
            slots: 4,
            kinds: vec!["test".to_owned()],
            ..Register::default()
        });
        adapt(&mut config);
        let (tester, shutdown) = (Tester::default(), Shutdown::new());
        let running = tokio::spawn(worker::run(
            client,
            config,
            tester.clone(),
            shutdown.clone(),
        ));
        Self {
            tester,
            shutdown,
            running,
        }
    }

    async fn ended(self) -> Result<(), WorkerError> {
        let ended = tokio::time::timeout(DEADLINE, self.running).await;
        ended.expect("ends in time").expect("does not panic")
    }
}

fn with(results: &[Value], token: u64) -> Vec<Value> {
    results
        .iter()
        .filter(|one| one["token"] == token)
        .cloned()
        .collect()
}

#[tokio::test]
async fn a_worker_pointed_at_a_follower_works_for_the_leader() {
    let cluster = Cluster::default();
    let leader = cluster.master().await;
    let to = leader.url.clone();
    let follower = Scripted::start(move |seen| {
        let to = to.clone();
        async move { redirect(&to, &seen) }
    })
    .await;
    let worker = Worker::start(&follower);
    for token in 1..=20 {
        cluster.offer(&format!("t{token}-0"), token, "finish", None);
    }
    eventually("all are reported", || cluster.script().results.len() == 20).await;
    let result = with(&cluster.script().results, 7)[0].clone();
    assert_eq!(
        (&result["task"], &result["status"]),
        (&json!("t7-0"), &json!("succeeded"))
    );
    assert_eq!(result["result"], "done");
    worker.shutdown.finish();
    worker.ended().await.expect("left");
    assert_eq!(cluster.script().left, 1);
    let asked = follower.seen();
    assert!(
        asked.len() <= 3,
        "the leader is remembered: {} requests",
        asked.len()
    );
}

#[tokio::test]
async fn an_unknown_worker_drops_everything_and_registers_anew() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    cluster.script().known.clear();
    eventually("it registers anew", || cluster.script().registered == 2).await;
    assert!(worker.tester.was_stopped("t1-0", StopReason::Lost));
    cluster.offer("t1-0", 2, "finish", None);
    eventually("it works again", || {
        !with(&cluster.script().results, 2).is_empty()
    })
    .await;
    assert!(with(&cluster.script().results, 1).is_empty());
}

#[tokio::test]
async fn cancelled_and_lost_attempts_are_stopped_and_only_those() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    for token in 1..=3 {
        cluster.offer(&format!("t{token}-0"), token, "wait", None);
    }
    eventually("they run", || {
        (1..=3).all(|token| worker.tester.has_begun(token))
    })
    .await;
    cluster.script().cancel = vec!["t1-0".to_owned()];
    cluster.script().lost = vec!["t2-0".to_owned(), "t99-0".to_owned()];
    eventually("the cancelled one is stopped", || {
        worker.tester.was_stopped("t1-0", StopReason::Cancelled)
    })
    .await;
    eventually("the lost one is stopped", || {
        worker.tester.was_stopped("t2-0", StopReason::Lost)
    })
    .await;
    worker.tester.release.notify_one();
    eventually("the third goes on to its end", || {
        !with(&cluster.script().results, 3).is_empty()
    })
    .await;
    assert_eq!(
        cluster.script().results.len(),
        1,
        "nothing is told of the others"
    );
}

#[tokio::test]
async fn a_silent_cluster_ends_what_its_leases_no_longer_cover() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    cluster.script().silent = true;
    eventually("it is stopped", || {
        worker.tester.was_stopped("t1-0", StopReason::Lost)
    })
    .await;
    cluster.script().silent = false;
    let heartbeats = master.count(&Method::POST, "/heartbeat");
    eventually("it is heard of again", || {
        master.count(&Method::POST, "/heartbeat") > heartbeats + 1
    })
    .await;
    cluster.offer("t1-0", 2, "finish", None);
    eventually("it works again", || {
        !with(&cluster.script().results, 2).is_empty()
    })
    .await;
    assert!(with(&cluster.script().results, 1).is_empty());
}

#[tokio::test]
async fn a_poll_that_hangs_on_the_old_leader_is_asked_of_the_new() {
    let (before, after) = (Cluster::default(), Cluster::default());
    let old = before.master().await;
    let new = after.master().await;
    let worker = Worker::start_as(&old, |config| config.poll_wait = Duration::from_secs(600));
    eventually("a poll waits", || old.count(&Method::POST, "/poll") > 0).await;
    after.script().known.insert("w1-0".to_owned());
    after.offer("t1-0", 1, "finish", None);
    // From now on the old leader redirects, but the poll that waits there is never answered.
    before.script().redirect_to = Some(new.url.clone());
    eventually("the new leader's task is done", || {
        !with(&after.script().results, 1).is_empty()
    })
    .await;
    drop(worker);
}

#[tokio::test]
async fn a_refused_result_is_dropped_and_not_repeated() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    cluster.script().verdicts.insert(1, "stale_token");
    cluster.offer("t1-0", 1, "finish", None);
    eventually("it is reported", || {
        !with(&cluster.script().results, 1).is_empty()
    })
    .await;
    cluster.offer("t2-0", 2, "finish", None);
    eventually("the next is reported", || {
        !with(&cluster.script().results, 2).is_empty()
    })
    .await;
    worker.shutdown.finish();
    worker.ended().await.expect("left");
    assert_eq!(with(&cluster.script().results, 1).len(), 1);
}

#[tokio::test]
async fn a_report_is_repeated_until_there_is_a_verdict() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| config.register.slots = 2);
    let refusals = [
        ProblemCode::NoLeader,
        ProblemCode::StorageFailed,
        ProblemCode::Internal,
    ];
    cluster.script().refuse_reports = refusals.into();
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    eventually("a poll waits for more", || {
        master.count(&Method::POST, "/poll") >= 2
    })
    .await;
    worker.tester.release.notify_one();
    eventually("it is accepted", || {
        !with(&cluster.script().results, 1).is_empty()
    })
    .await;
    assert!(cluster.script().refuse_reports.is_empty());
    assert_eq!(with(&cluster.script().results, 1).len(), 1);
}

#[tokio::test]
async fn a_result_the_cluster_cannot_take_is_told_as_a_failure() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| config.register.slots = 2);
    cluster.script().refuse_reports = [ProblemCode::PayloadTooLarge].into();
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    eventually("a poll waits for more", || {
        master.count(&Method::POST, "/poll") >= 2
    })
    .await;
    worker.tester.release.notify_one();
    eventually("it is settled", || {
        !with(&cluster.script().results, 1).is_empty()
    })
    .await;
    let result = with(&cluster.script().results, 1)[0].clone();
    assert_eq!(
        (&result["status"], &result["retryable"]),
        (&json!("failed"), &json!(false))
    );
    assert_eq!(result["error"]["type"], "result_refused");
}

#[tokio::test]
async fn a_name_that_is_taken_is_waited_for_and_then_given_up() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    cluster.script().refuse_registration = Some(ProblemCode::Conflict);
    let worker = Worker::start(&master);
    eventually("it tries again", || {
        master.count(&Method::POST, "/workers") >= 2
    })
    .await;
    cluster.script().refuse_registration = None;
    eventually("it registers", || cluster.script().registered == 1).await;
    drop(worker);

    cluster.script().refuse_registration = Some(ProblemCode::Conflict);
    let worker = Worker::start_as(&master, |config| config.name_patience = Duration::ZERO);
    assert!(matches!(
        worker.ended().await,
        Err(WorkerError::NameTaken { .. })
    ));
}

#[tokio::test]
async fn a_registration_that_is_refused_is_an_error() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    cluster.script().refuse_registration = Some(ProblemCode::InvalidRequest);
    let worker = Worker::start(&master);
    assert!(matches!(worker.ended().await, Err(WorkerError::Refused(_))));
}

#[tokio::test]
async fn told_to_go_it_finishes_what_runs() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    worker.shutdown.finish();
    let heartbeats = master.count(&Method::POST, "/heartbeat");
    eventually("its leases are confirmed meanwhile", || {
        master.count(&Method::POST, "/heartbeat") > heartbeats + 1
    })
    .await;
    cluster.offer("t2-0", 2, "finish", None);
    worker.tester.release.notify_one();
    let tester = worker.tester.clone();
    worker.ended().await.expect("left");
    assert_eq!(with(&cluster.script().results, 1)[0]["result"], "released");
    assert!(!tester.has_begun(2), "no more is taken");
    assert_eq!(cluster.script().left, 1);
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_handed_back() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| config.grace = Duration::from_millis(50));
    cluster.offer("t1-0", 1, "wait", None);
    cluster.offer("t2-0", 2, "finish when stopped", None);
    eventually("they run", || {
        worker.tester.has_begun(1) && worker.tester.has_begun(2)
    })
    .await;
    let tester = worker.tester.clone();
    worker.shutdown.finish();
    worker.ended().await.expect("left");
    assert!(tester.was_stopped("t1-0", StopReason::ShuttingDown));
    let script = cluster.script();
    assert!(
        with(&script.results, 1).is_empty(),
        "handed back, not failed"
    );
    assert_eq!(with(&script.results, 2).len(), 1, "what ended well is told");
    assert_eq!(script.left, 1);
}

#[tokio::test]
async fn told_to_go_at_once_it_waits_for_nothing() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| {
        config.grace = Duration::from_secs(600);
        config.abandon_after = Duration::from_secs(600);
    });
    cluster.offer("t1-0", 1, "hang", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    worker.shutdown.finish();
    worker.shutdown.now();
    worker.ended().await.expect("left");
    assert_eq!(cluster.script().left, 1);
}

#[tokio::test]
async fn a_drained_worker_finishes_and_leaves() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start(&master);
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    cluster.script().drain = true;
    let heartbeats = master.count(&Method::POST, "/heartbeat");
    eventually("it is told", || {
        master.count(&Method::POST, "/heartbeat") > heartbeats + 1
    })
    .await;
    worker.tester.release.notify_one();
    worker.ended().await.expect("left");
    assert_eq!(with(&cluster.script().results, 1).len(), 1);
}

#[tokio::test]
async fn time_limits_and_panics_are_failures() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| {
        config.abandon_after = Duration::from_millis(50);
    });
    cluster.offer("t1-0", 1, "wait", Some(50));
    cluster.offer("t2-0", 2, "hang", Some(50));
    cluster.offer("t3-0", 3, "panic", None);
    eventually("all are reported", || cluster.script().results.len() == 3).await;
    assert!(worker.tester.was_stopped("t1-0", StopReason::TimedOut));
    let script = cluster.script();
    let kinds = [1, 2, 3].map(|token| with(&script.results, token)[0]["error"]["type"].clone());
    assert_eq!(kinds, ["timeout", "timeout", "panic"].map(Value::from));
}

#[tokio::test]
async fn a_result_does_not_wait_for_work_to_come() {
    let cluster = Cluster::default();
    let master = cluster.master().await;
    let worker = Worker::start_as(&master, |config| {
        config.poll_wait = Duration::from_secs(600)
    });
    cluster.offer("t1-0", 1, "wait", None);
    eventually("it runs", || worker.tester.has_begun(1)).await;
    eventually("a poll waits for more", || {
        master.count(&Method::POST, "/poll") >= 2
    })
    .await;
    worker.tester.release.notify_one();
    eventually("it is reported", || {
        !with(&cluster.script().results, 1).is_empty()
    })
    .await;
}
