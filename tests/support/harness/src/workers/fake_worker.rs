//! A fake worker: the test itself registers, polls, sends heartbeats and reports over HTTP, so that it can do each of
//! these late, twice or wrongly.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::cluster::{Cluster, WAIT_TIMEOUT};
use crate::http::{Api, Reply};
use crate::wait::Polling;

/// The kind of task that only fake workers take. Tasks of this kind are in the golden directories.
pub const KIND: &str = "hand";

/// A registered fake worker.
#[derive(Debug, Clone)]
pub struct FakeWorker {
    masters: Vec<Api>,
    /// Id of its registration.
    pub id: String,
    /// Heartbeat interval, from the registration's answer.
    pub lease_ms: u64,
    /// Lease time, from the registration's answer.
    pub heartbeat_ms: u64,
}

/// One attempt that was leased to the worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Id of the task.
    pub task: String,
    /// The fencing token.
    pub token: u64,
    /// Number of the attempt.
    pub attempt: u64,
    /// Payload as submitted.
    pub payload: Value,
    /// Results of the tasks that it depends on, by their keys.
    pub inputs: Value,
}

impl Lease {
    /// Parses one of the tasks in a poll's answer.
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

    /// Returns a report of success.
    pub fn succeeded(&self, result: Value) -> Value {
        json!({"task": self.task, "token": self.token, "status": "succeeded", "result": result})
    }

    /// Returns a report of failure.
    pub fn failed(&self, retryable: bool) -> Value {
        let error = json!({"type": "test", "message": "failed by the test"});
        json!({"task": self.task, "token": self.token, "status": "failed", "error": error, "retryable": retryable})
    }
}

/// Returns a job with one task that only fake workers take.
pub fn job(payload: Value) -> Value {
    json!({"tasks": [{"kind": KIND, "payload": payload}]})
}

impl FakeWorker {
    /// Registers with this name and number of slots, for [`KIND`].
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

    /// Returns the same worker, which calls only these masters. A paused master would delay it.
    pub fn with_masters(&self, masters: Vec<Api>) -> Self {
        Self {
            masters,
            ..self.clone()
        }
    }

    /// Sends a request to the leader like a worker: follows redirects, and tries the other masters while none leads.
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

    /// Sends one poll with this body.
    pub async fn worker_call(&self, verb: &str, body: &Value) -> Reply {
        self.call(Method::POST, &self.path(verb), body).await
    }

    /// Polls for tasks. `running` lists all attempts that the worker holds.
    pub async fn poll(&self, max: u32, wait_ms: u64, running: &[Lease]) -> Vec<Lease> {
        let body = json!({"max": max, "wait_ms": wait_ms, "running": Lease::running(running)});
        let answer = self.worker_call("poll", &body).await.expect(200);
        let tasks = answer["tasks"].as_array().expect("tasks");
        tasks.iter().map(Lease::read).collect()
    }

    /// Polls until it gets exactly one task.
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

    /// Polls until it has got exactly this many tasks, and returns them.
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

    /// Polls for a short time. Panics if it gets a task.
    pub async fn take_nothing(&self, running: &[Lease]) {
        let leases = self.poll(1, 500, running).await;
        assert!(leases.is_empty(), "not to be given out: {leases:?}");
    }

    /// Sends a heartbeat with these attempts, and returns the answer.
    pub async fn heartbeat(&self, running: &[Lease]) -> Value {
        let body = json!({"running": Lease::running(running)});
        self.worker_call("heartbeat", &body).await.expect(200)
    }

    /// Reports one result, and returns the verdict.
    pub async fn report(&self, result: Value) -> Value {
        let answer = self
            .worker_call("report", &json!({"results": [result]}))
            .await
            .expect(200);
        answer["results"][0].clone()
    }

    /// Reports these results. Panics unless all are accepted.
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

    /// Leaves the cluster.
    pub async fn leave(&self) -> Value {
        let path = format!("/v1/workers/{}", self.id);
        self.call(Method::DELETE, &path, &Value::Null)
            .await
            .expect(200)
    }

    /// Sends heartbeats in the background, which confirm these leases, until the handle is dropped.
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

/// Sends heartbeats until it is dropped.
#[derive(Debug)]
pub struct KeptAlive(tokio::task::JoinHandle<()>);

impl Drop for KeptAlive {
    fn drop(&mut self) {
        self.0.abort();
    }
}
