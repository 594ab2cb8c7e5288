//! A scripted cluster of one master, and a worker that does what the payloads of its tasks request.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::http::Method;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::Notify;
use triarch_sdk::wire::{LeasedTask, Problem, ProblemCode, Register};
use triarch_sdk::worker::{self, StopReason, TaskContext};
use triarch_sdk::{Client, ClientOptions, Executor, Outcome, Shutdown, WorkerConfig, WorkerError};
use url::Url;

use crate::scripted::{DEADLINE, Scripted, Seen, json, problem, redirect, refuse};

pub const HEARTBEAT_MS: u64 = 30;
/// Long enough to outlast a test, on a busy machine or while a panic prints its stack.
const LEASE_MS: u64 = 60_000;

/// The behaviour of the master, which a test may change while it runs.
#[derive(Default)]
pub struct Script {
    pub registered: usize,
    pub known: HashSet<String>,
    pub refuse_registration: Option<ProblemCode>,
    /// Refusals of a registration say that the worker with the name has been silent for this long.
    pub holder_silent_ms: Option<u64>,
    pub ready: VecDeque<Value>,
    pub cancel: Vec<String>,
    pub lost: Vec<String>,
    pub drain: bool,
    pub silent: bool,
    /// Polls with results are neither read nor answered.
    pub hang_on_results: bool,
    /// Polls with results take effect, but this number of their answers get lost.
    pub lost_acknowledgements: usize,
    pub redirect_to: Option<Url>,
    /// The lease of workers that register from now on, if not the usual one.
    pub lease_ms: Option<u64>,
    pub refuse_reports: VecDeque<ProblemCode>,
    pub acknowledgements: HashMap<u64, &'static str>,
    pub results: Vec<Value>,
    pub left: usize,
}

#[derive(Clone, Default)]
pub struct Cluster {
    script: Arc<Mutex<Script>>,
    changed: Arc<Notify>,
}

impl Cluster {
    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no panic under it")
    }

    pub fn offer(&self, task: &str, token: u64, payload: &str, timeout_ms: Option<u64>) {
        let mut script = self.script();
        let lease_ms = script.lease_ms.unwrap_or(LEASE_MS);
        script.ready.push_back(json!({
            "id": task, "job": "j1-0", "kind": "test", "payload": payload, "attempt": 1,
            "token": token, "lease_ms": lease_ms, "timeout_ms": timeout_ms,
        }));
        drop(script);
        self.changed.notify_waiters();
    }

    pub async fn master(&self) -> Scripted {
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
            let Some(silent_ms) = script.holder_silent_ms else {
                return refuse(code);
            };
            let refusal = Problem::new(code, "by the script")
                .with_extra("silent_for_ms", silent_ms)
                .with_extra("lease_ms", LEASE_MS);
            return problem(&refusal);
        }
        script.registered += 1;
        let id = format!("w{}-0", script.registered);
        script.known.insert(id.clone());
        let lease_ms = script.lease_ms.unwrap_or(LEASE_MS);
        json(
            201,
            &json!({"id": id, "heartbeat_ms": HEARTBEAT_MS, "lease_ms": lease_ms}),
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
        let acknowledgement = |result: &Value| {
            let code = script
                .acknowledgements
                .get(&result["token"].as_u64().expect("a token"));
            match code {
                Some(code) => json!({"task": result["task"], "accepted": false, "code": code}),
                None => json!({"task": result["task"], "accepted": true}),
            }
        };
        let acknowledgements = results.iter().map(acknowledgement).collect();
        script.results.extend(results);
        acknowledgements
    }

    async fn poll(&self, body: &Value) -> Response {
        for result in body["results"].as_array().into_iter().flatten() {
            let running = body["running"].as_array().expect("told");
            let both = running.iter().any(|one| one["token"] == result["token"]);
            assert!(!both, "ended and still running: {body}");
        }
        let brings_results = body["results"]
            .as_array()
            .is_some_and(|results| !results.is_empty());
        if brings_results && self.script().hang_on_results {
            std::future::pending::<()>().await;
        }
        let acknowledgements = self.settle(body);
        if brings_results && self.script().lost_acknowledgements > 0 {
            self.script().lost_acknowledgements -= 1;
            return refuse(ProblemCode::Internal);
        }
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
        json(200, &json!({"tasks": tasks, "results": acknowledgements}))
    }
}

/// An executor that does what the payload requests, and records how attempts were stopped.
#[derive(Clone, Default)]
pub struct Tester {
    pub begun: Arc<Mutex<Vec<(String, u64)>>>,
    pub stopped: Arc<Mutex<Vec<(String, StopReason)>>>,
    pub release: Arc<Notify>,
}

impl Tester {
    pub fn has_begun(&self, token: u64) -> bool {
        let begun = self.begun.lock().expect("no panic under it");
        begun.iter().any(|(_, one)| *one == token)
    }

    pub fn was_stopped(&self, task: &str, reason: StopReason) -> bool {
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

pub struct Worker {
    pub tester: Tester,
    pub shutdown: Shutdown,
    pub running: tokio::task::JoinHandle<Result<(), WorkerError>>,
}

impl Worker {
    pub fn start(master: &Scripted) -> Self {
        Self::start_as(master, |_| {})
    }

    pub fn start_as(master: &Scripted, adapt: impl FnOnce(&mut WorkerConfig)) -> Self {
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

    pub async fn ended(self) -> Result<(), WorkerError> {
        let ended = tokio::time::timeout(DEADLINE, self.running).await;
        ended.expect("ends in time").expect("does not panic")
    }
}

/// Returns the results reported under this token.
pub fn with(results: &[Value], token: u64) -> Vec<Value> {
    results
        .iter()
        .filter(|one| one["token"] == token)
        .cloned()
        .collect()
}
