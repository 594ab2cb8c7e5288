//! Simulated workers: they register, poll, run tasks for a while, report, fall silent for too long, and resume.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::client_load::words;
use crate::context::{Client, RequestOutcome, RequestSpec, SimContext};
use crate::history::{Grant, Report};
use crate::process::Ns;
use crate::record;
use crate::world::{Host, MS, SECOND};

const SLOTS: usize = 4;

struct Running {
    token: u64,
    attempt: u64,
    of_tick: bool,
    ends: Ns,
    result: Value,
}

/// Runs a worker until the end of the run.
pub async fn work(context: SimContext, host: Host) {
    let mut client = context.client(host);
    let mut life = 0;
    while !context.over.get() {
        life += 1;
        let name = format!("w{host}-{life}");
        if let Some(id) = register(&mut client, &name).await {
            context.sim.world().stats.operation("worker registered");
            serve(&mut client, &id).await;
        }
    }
}

async fn register(client: &mut Client, name: &str) -> Option<String> {
    let body = json!({"name": name, "queues": ["default", "other", "fresh"], "slots": SLOTS, "labels": {}, "resources": {},
        "kinds": ["sim"]});
    let outcome = client
        .send(RequestSpec {
            method: "POST",
            path: "/v1/workers",
            request_id: Some(&format!("register-{name}")),
            body: Some(&body),
            timeout: 2 * SECOND,
            tries: 50,
            ops: Vec::new(),
        })
        .await;
    match outcome {
        RequestOutcome::Done(response) => response.json()["id"].as_str().map(str::to_string),
        RequestOutcome::Refused(_) | RequestOutcome::Unknown => None,
    }
}

/// Runs until the cluster no longer knows the worker, or the worker dies.
async fn serve(client: &mut Client, id: &str) {
    let context = client.context.clone();
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    while !context.over.get() {
        if client.random.percent(1) {
            // The worker is silent for longer than any lease, and resumes with its attempts.
            context.sim.world().stats.operation("worker fell silent");
            let span = client.random.between(SECOND, 5 * SECOND);
            context.sim.sleep(span).await;
        } else if client.random.percent(1) {
            context.sim.world().stats.operation("worker died");
            let span = client.random.between(100 * MS, SECOND);
            context.sim.sleep(span).await;
            return;
        }
        let now = context.sim.now();
        let done: Vec<Report> = running
            .iter()
            .filter(|(_, run)| run.ends <= now)
            .map(|(task, run)| Report {
                at: now,
                worker: id.to_string(),
                task: task.clone(),
                token: run.token,
                attempt: run.attempt,
                of_tick: run.of_tick,
                succeeded: run.result["fails"] != json!(true),
                result: run.result.clone(),
                accepted: None,
            })
            .collect();
        let first_report = context.history().reports.len();
        context.history().reports.extend(done.iter().cloned());
        let Some(reply) = poll(client, id, &running, &done).await else {
            return;
        };
        take_answers(client, &reply, &done, first_report, &mut running);
        take_tasks(client, id, &reply, &mut running);
        // Not more often than a real worker.
        let pause = client.random.between(2 * MS, 20 * MS);
        context.sim.sleep(pause).await;
    }
}

/// Sends one poll with all results and attempts. Returns `None` if the cluster no longer knows the worker.
async fn poll(
    client: &mut Client,
    id: &str,
    running: &BTreeMap<String, Running>,
    done: &[Report],
) -> Option<Value> {
    let now = client.context.sim.now();
    let next_end = running
        .values()
        .map(|run| run.ends)
        .filter(|ends| *ends > now)
        .min();
    let wait_ms = next_end
        .map_or(1000, |ends| (ends - now) / MS + 1)
        .min(1000);
    let named: Vec<Value> = running
        .iter()
        .filter(|(_, run)| run.ends > now)
        .map(|(task, run)| json!({"task": task, "token": run.token}))
        .collect();
    let results: Vec<Value> = done
        .iter()
        .map(|report| {
            if report.succeeded {
                json!({"task": report.task, "token": report.token, "status": "succeeded", "result": report.result})
            } else {
                json!({"task": report.task, "token": report.token, "status": "failed",
                    "error": {"type": "Sim", "message": "as asked", "traceback": ""}, "retryable": true})
            }
        })
        .collect();
    let free = SLOTS.saturating_sub(named.len());
    let max = if client.context.over.get() { 0 } else { free };
    let body = json!({"max": max, "wait_ms": if free == 0 { wait_ms.min(300) } else { wait_ms },
        "results": results, "running": named});
    let outcome = client
        .send(RequestSpec {
            method: "POST",
            path: &format!("/v1/workers/{id}/poll"),
            request_id: None,
            body: Some(&body),
            timeout: wait_ms * MS + SECOND,
            tries: 30,
            ops: record::poll(id, done),
        })
        .await;
    match outcome {
        RequestOutcome::Done(response) => Some(response.json()),
        RequestOutcome::Refused(response) => {
            if response.json()["code"] != json!("unknown_worker") {
                let what = format!("a poll was refused: {}", response.json());
                client
                    .context
                    .sim
                    .world()
                    .violated("what is valid is taken", what);
            }
            None
        }
        RequestOutcome::Unknown => Some(Value::Null),
    }
}

fn take_answers(
    client: &mut Client,
    reply: &Value,
    done: &[Report],
    first_report: usize,
    running: &mut BTreeMap<String, Running>,
) {
    let now = client.context.sim.now();
    if let Some(results) = reply["results"].as_array() {
        for (nth, (report, result)) in done.iter().zip(results).enumerate() {
            let accepted = result["accepted"] == json!(true);
            {
                let mut history = client.context.history();
                let noted = &mut history.reports[first_report + nth];
                noted.accepted = Some(accepted);
                noted.at = now;
            }
            let word = if accepted {
                "report accepted"
            } else {
                "report refused"
            };
            client.context.sim.world().stats.operation(word);
            running.remove(&report.task);
        }
    }
    for list in ["lost", "cancel"] {
        for task in words(&reply[list]) {
            running.remove(&task);
        }
    }
}

fn take_tasks(
    client: &mut Client,
    id: &str,
    reply: &Value,
    running: &mut BTreeMap<String, Running>,
) {
    let now = client.context.sim.now();
    let tasks = reply["tasks"].as_array().cloned().unwrap_or_default();
    for task in tasks {
        let (Some(name), Some(token)) = (task["id"].as_str(), task["token"].as_u64()) else {
            client.context.sim.world().violated(
                "a master answers as documented",
                format!("a lease without a token: {task}"),
            );
            continue;
        };
        if running.get(name).is_some_and(|run| run.token == token) {
            continue;
        }
        client.context.sim.world().stats.operation("lease granted");
        client.context.history().grants.push(Grant {
            at: now,
            worker: id.to_string(),
            task: name.to_string(),
            attempt: task["attempt"].as_u64().unwrap_or(0),
            token,
            inputs: task["inputs"].clone(),
        });
        let takes = task["payload"]["ms"].as_u64().unwrap_or(10) * MS;
        let fails = task["payload"]["fails"] == json!(true);
        running.insert(
            name.to_string(),
            Running {
                token,
                attempt: task["attempt"].as_u64().unwrap_or(0),
                of_tick: record::is_tick(&task["payload"]),
                ends: now + takes,
                result: json!({"by": token, "fails": fails}),
            },
        );
    }
}
