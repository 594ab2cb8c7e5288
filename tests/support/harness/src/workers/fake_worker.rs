//! A fake worker: the test itself registers, polls, heartbeats and reports over HTTP, so that it can do each of them late,
//! twice or wrongly.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::cluster::{Cluster, WAIT_TIMEOUT};
use crate::http::{Api, Reply};
use crate::wait::Polling;

/// The kind of task that only fake workers take. Tasks of this kind are in the golden directories.
pub const KIND: &str = "hand";

/// See the module.
#[derive(Debug, Clone)]
pub struct FakeWorker {
    masters: Vec<Api>,
    /// Its registration.
    pub id: String,
    /// As the master told it.
    pub lease_ms: u64,
    /// As the master told it.
    pub heartbeat_ms: u64,
}

/// One attempt it was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// The task.
    pub task: String,
    /// The fencing token.
    pub token: u64,
    /// The attempt's number.
    pub attempt: u64,
    /// As submitted.
    pub payload: Value,
    /// Results of the tasks it comes after, by their keys.
    pub inputs: Value,
}

impl Lease {
    /// One of the tasks that a poll is answered with.
    pub fn read(task: &Value) -> Self {
        let number = |name: &str| {
            task[name]
                .as_u64()
                .unwrap_or_else(|| panic!("no {name}: {task}"))
        };
        Self {
            task: task["id"].as_str().expect("a task has an id").to_owned(),
            token: number("token"),
            attempt: number("attempt"),
            payload: task["payload"].clone(),
            inputs: task["inputs"].clone(),
        }
    }

    fn running(leases: &[Lease]) -> Value {
        leases
            .iter()
            .map(|lease| json!({"task": lease.task, "token": lease.token}))
            .collect()
    }

    /// A report of success.
    pub fn succeeded(&self, result: Value) -> Value {
        json!({"task": self.task, "token": self.token, "status": "succeeded", "result": result})
    }

    /// A report of failure.
    pub fn failed(&self, retryable: bool) -> Value {
        let error = json!({"type": "test", "message": "failed by the test"});
        json!({"task": self.task, "token": self.token, "status": "failed", "error": error, "retryable": retryable})
    }
}

/// A job of one task that only fake workers take.
pub fn job(payload: Value) -> Value {
    json!({"tasks": [{"kind": KIND, "payload": payload}]})
}

impl FakeWorker {
    /// Registers under this name, with so many slots, for [`KIND`].
    pub async fn register(cluster: &Cluster, name: &str, slots: u32) -> Self {
        Self::register_as(
            cluster,
            &json!({"name": name, "slots": slots, "kinds": [KIND]}),
        )
        .await
    }

    /// Registers with this body.
    pub async fn register_as(cluster: &Cluster, body: &Value) -> Self {
        let mut fake_worker = Self {
            masters: cluster.apis(),
            id: String::new(),
            lease_ms: 0,
            heartbeat_ms: 0,
        };
        let registered = fake_worker
            .call(Method::POST, "/v1/workers", body)
            .await
            .expect(201);
        fake_worker.id = registered["id"].as_str().expect("an id").to_owned();
        fake_worker.lease_ms = registered["lease_ms"].as_u64().expect("lease_ms");
        fake_worker.heartbeat_ms = registered["heartbeat_ms"].as_u64().expect("heartbeat_ms");
        fake_worker
    }

    /// The same worker, asking only these masters: one that is stopped would keep it waiting.
    pub fn with_masters(&self, masters: Vec<Api>) -> Self {
        Self {
            masters,
            ..self.clone()
        }
    }

    /// Asks whichever master leads, as a worker does: follows redirects, and tries the others while nobody leads.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> Reply {
        let mut polling = Polling::new(WAIT_TIMEOUT, format!("a leader answers {method} {path}"));
        let mut api = self.masters[0].clone();
        let mut others = self.masters.iter().cycle().skip(1);
        loop {
            match api.call(method.clone(), path).json(body).send().await {
                Ok(reply) if reply.status == 307 => {
                    let location = reply.header("location").expect("a redirect says where to");
                    let base = location
                        .strip_suffix(path)
                        .expect("a redirect keeps the path");
                    api = api.at(base);
                }
                Ok(reply) if reply.status != 503 => return reply,
                Ok(_) | Err(_) => api = others.next().expect("there is a master").clone(),
            }
            polling.pause().await;
        }
    }

    fn path(&self, verb: &str) -> String {
        format!("/v1/workers/{}/{verb}", self.id)
    }

    /// One visit, whatever it carries.
    pub async fn worker_call(&self, verb: &str, body: &Value) -> Reply {
        self.call(Method::POST, &self.path(verb), body).await
    }

    /// Asks for work; `running` is all it has.
    pub async fn poll(&self, max: u32, wait_ms: u64, running: &[Lease]) -> Vec<Lease> {
        let body = json!({"max": max, "wait_ms": wait_ms, "running": Lease::running(running)});
        let answer = self.worker_call("poll", &body).await.expect(200);
        let tasks = answer["tasks"].as_array().expect("tasks");
        tasks.iter().map(Lease::read).collect()
    }

    /// Asks until it is given exactly one task.
    pub async fn take(&self, running: &[Lease]) -> Lease {
        let mut polling = Polling::new(WAIT_TIMEOUT, "a task is given to the worker");
        loop {
            let leases = self.poll(1, 1_000, running).await;
            assert!(leases.len() <= 1, "asked for one: {leases:?}");
            if let Some(lease) = leases.into_iter().next() {
                return lease;
            }
            polling.pause().await;
        }
    }

    /// Asks until it has been given exactly so many tasks and gives them.
    pub async fn take_many(&self, count: usize) -> Vec<Lease> {
        let mut polling = Polling::new(
            WAIT_TIMEOUT,
            format!("{count} tasks are given to the worker"),
        );
        let mut leases: Vec<Lease> = Vec::new();
        loop {
            let missing = u32::try_from(count - leases.len()).expect("few tasks");
            leases.extend(self.poll(missing, 1_000, &leases).await);
            assert!(leases.len() <= count, "asked for {count}: {leases:?}");
            if leases.len() == count {
                return leases;
            }
            polling.pause().await;
        }
    }

    /// Asks for a moment, and must be given nothing.
    pub async fn take_nothing(&self, running: &[Lease]) {
        let leases = self.poll(1, 500, running).await;
        assert!(leases.is_empty(), "not to be given out: {leases:?}");
    }

    /// Says what it runs, and gives the answer.
    pub async fn heartbeat(&self, running: &[Lease]) -> Value {
        let body = json!({"running": Lease::running(running)});
        self.worker_call("heartbeat", &body).await.expect(200)
    }

    /// Reports one result, and gives the verdict.
    pub async fn report(&self, result: Value) -> Value {
        let answer = self
            .worker_call("report", &json!({"results": [result]}))
            .await
            .expect(200);
        answer["results"][0].clone()
    }

    /// Reports these results, which must all be accepted.
    pub async fn report_all(&self, results: &[Value]) {
        let body = json!({ "results": results });
        let answer = self.worker_call("report", &body).await.expect(200);
        let acknowledgements = answer["results"].as_array().expect("verdicts");
        assert_eq!(acknowledgements.len(), results.len(), "{answer}");
        let refused = acknowledgements
            .iter()
            .find(|acknowledgement| acknowledgement["accepted"] != true);
        assert_eq!(refused, None, "{answer}");
    }

    /// Leaves.
    pub async fn leave(&self) -> Value {
        let path = format!("/v1/workers/{}", self.id);
        self.call(Method::DELETE, &path, &Value::Null)
            .await
            .expect(200)
    }

    /// Heartbeats in the background, confirming these leases, until the handle is dropped.
    pub fn keep_alive(&self, running: &[Lease]) -> KeptAlive {
        let (fake_worker, running) = (self.clone(), running.to_vec());
        KeptAlive(tokio::spawn(async move {
            loop {
                fake_worker.heartbeat(&running).await;
                tokio::time::sleep(Duration::from_millis(fake_worker.heartbeat_ms)).await;
            }
        }))
    }
}

/// Heartbeats for as long as it lives.
#[derive(Debug)]
pub struct KeptAlive(tokio::task::JoinHandle<()>);

impl Drop for KeptAlive {
    fn drop(&mut self) {
        self.0.abort();
    }
}
