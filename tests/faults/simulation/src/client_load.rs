//! The load of simulated clients: submissions, resubmissions, cancellations and reads.

use serde_json::{Value, json};
use triarch_check::record::Op;

use crate::context::{Client, RequestOutcome, RequestSpec, SimContext};
use crate::heal;
use crate::history::{Cancelled, Leading, Read, Submission, Submitted};
use crate::http::Answer;
use crate::random::Random;
use crate::record;
use crate::world::{Host, MS, SECOND, Weakened};

/// Submits jobs until the run closes. A submission with an unknown outcome is repeated under the same key.
pub async fn submit(context: SimContext, host: Host) {
    context.busy.set(context.busy.get() + 1);
    let mut client = context.client(host);
    let mut number = 0;
    while !context.closing.get() {
        number += 1;
        let body = job(&mut client.random, host, number);
        submit_one(&mut client, body).await;
        // Sometimes repeats a submission on purpose.
        if client.random.percent(10) {
            let earlier = client.context.history().submissions.len() as u64;
            let which = client.random.between(0, earlier) as usize;
            let body = client.context.history().submissions[which].body.clone();
            submit_again(&mut client, which, body).await;
        }
        let pause = client.random.between(50 * MS, 800 * MS);
        context.sim.sleep(pause).await;
    }
    context.busy.set(context.busy.get() - 1);
}

/// Submits a job. Returns `None` if no answer in time confirmed it.
pub async fn submit_one(client: &mut Client, body: Value) -> Option<Submitted> {
    let key = body["idempotency_key"]
        .as_str()
        .unwrap_or_default()
        .to_string();
    let invoked = client.context.sim.now();
    let which = {
        let mut history = client.context.history();
        history.submissions.push(Submission {
            key,
            invoked,
            body: body.clone(),
            answers: Vec::new(),
        });
        history.submissions.len() - 1
    };
    submit_again(client, which, body).await
}

async fn submit_again(client: &mut Client, which: usize, body: Value) -> Option<Submitted> {
    client.another_master();
    let tries = if client.random.percent(80) { 20 } else { 1 };
    let outcome = client
        .send(RequestSpec {
            method: "POST",
            path: "/v1/jobs",
            request_id: None,
            body: Some(&body),
            timeout: 3 * SECOND,
            tries,
            ops: vec![("", record::submit(&body))],
        })
        .await;
    let now = client.context.sim.now();
    match outcome {
        RequestOutcome::Done(response) => {
            let reply = response.json();
            let submitted = Submitted {
                at: now,
                index: response.index().unwrap_or(0),
                job: reply["id"].as_str().unwrap_or_default().to_string(),
                tasks: words(&reply["tasks"]),
                duplicate: reply["duplicate"] == json!(true),
            };
            let mut world = client.context.sim.world();
            world.stats.operation("submission acknowledged");
            world.stats.acknowledged += 1;
            drop(world);
            client.context.history().submissions[which]
                .answers
                .push(submitted.clone());
            Some(submitted)
        }
        RequestOutcome::Refused(response) => {
            // A unique key in use is the only reason for a refusal here.
            let reply = response.json();
            if reply["code"] != json!("conflict") || !reply["task"].is_string() {
                let what = format!("{body} was refused: {reply}");
                client
                    .context
                    .sim
                    .world()
                    .violated("what is valid is taken", what);
            }
            client
                .context
                .sim
                .world()
                .stats
                .operation("submission refused");
            None
        }
        RequestOutcome::Unknown => {
            client
                .context
                .sim
                .world()
                .stats
                .operation("submission unknown");
            None
        }
    }
}

pub fn words(list: &Value) -> Vec<String> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter()
        .filter_map(|word| word.as_str().map(str::to_string))
        .collect()
}

fn job(random: &mut Random, host: Host, number: u64) -> Value {
    let count = random.between(1, 5);
    let chained = count > 1 && random.percent(40);
    let tasks: Vec<Value> = (0..count)
        .map(|nth| {
            let mut task = json!({
                "kind": "sim",
                "payload": {"ms": random.between(1, 300), "fails": random.percent(8)},
                "queue": *random.one_of(&["default", "default", "other"]),
                "priority": random.between(0, 10),
                "max_losses": 1000,
                "max_attempts": 3,
                "backoff": {"initial_ms": 50, "factor": 2.0, "max_ms": 400, "jitter": 0.1},
            });
            if chained {
                task["key"] = json!(format!("k{nth}"));
                if nth > 0 {
                    task["after"] = json!([format!("k{}", random.between(0, nth))]);
                }
            }
            if random.percent(10) {
                task["delay_ms"] = json!(random.between(1, 1500));
            }
            // At most one per job, because two with the same key are refused.
            if nth == 0 && random.percent(10) {
                task["unique_key"] = json!(format!("u{}", random.between(0, 3)));
            }
            if random.percent(5) {
                task["timeout_ms"] = json!(random.between(200, 2000));
            }
            task
        })
        .collect();
    json!({"name": format!("c{host}"), "idempotency_key": format!("c{host}-{number}"), "tasks": tasks})
}

/// Cancels a task from time to time.
pub async fn cancel(context: SimContext, host: Host) {
    context.busy.set(context.busy.get() + 1);
    let mut client = context.client(host);
    while !context.closing.get() {
        let pause = client.random.between(300 * MS, 1500 * MS);
        context.sim.sleep(pause).await;
        let Some(task) = pick(&mut client) else {
            continue;
        };
        if context.history().is_of(&task, heal::FRESH) {
            continue;
        }
        client.another_master();
        let invoked = context.sim.now();
        let outcome = client
            .send(RequestSpec {
                method: "POST",
                path: &format!("/v1/tasks/{task}/cancel"),
                request_id: Some(&format!("cancel-{task}-{invoked}")),
                body: None,
                timeout: 3 * SECOND,
                tries: 10,
                ops: vec![("", Op::CancelTask { task: task.clone() })],
            })
            .await;
        if let RequestOutcome::Done(_) = outcome {
            let returned = context.sim.now();
            context
                .sim
                .world()
                .stats
                .operation("cancellation acknowledged");
            context.history().cancelled.push(Cancelled {
                task,
                invoked,
                returned,
            });
        }
    }
    context.busy.set(context.busy.get() - 1);
}

/// Returns a task that is known to exist, preferably one of the latest.
fn pick(client: &mut Client) -> Option<String> {
    let all: Vec<String> = client
        .context
        .history()
        .acknowledged()
        .map(|(task, _)| task.to_string())
        .collect();
    if all.is_empty() {
        return None;
    }
    let from = if client.random.percent(70) {
        all.len().saturating_sub(20)
    } else {
        0
    };
    Some(client.random.one_of(&all[from..]).clone())
}

/// Reads tasks that are known to exist, through any master.
pub async fn read(context: SimContext, host: Host) {
    context.busy.set(context.busy.get() + 1);
    let mut client = context.client(host);
    while !context.closing.get() {
        let pause = client.random.between(30 * MS, 300 * MS);
        context.sim.sleep(pause).await;
        let Some(task) = pick(&mut client) else {
            continue;
        };
        client.another_master();
        let stale = client.random.percent(15);
        let weakened = context.sim.world().settings.weakened == Some(Weakened::Reads);
        let query = if stale || weakened {
            "?consistency=stale"
        } else {
            ""
        };
        let path = format!("/v1/tasks/{task}{query}");
        let invoked = context.sim.now();
        let spec = RequestSpec {
            method: "GET",
            path: &path,
            request_id: None,
            body: None,
            timeout: 3 * SECOND,
            tries: 1,
            ops: vec![("", record::read(&task, stale))],
        };
        let node = client.master;
        let Answer::Received(response) = client.once(&spec).await else {
            continue;
        };
        if !response.ok() && response.status != 404 {
            continue;
        }
        let reply = response.json();
        let returned = context.sim.now();
        context
            .sim
            .world()
            .stats
            .operation(if stale { "stale read" } else { "read" });
        context.history().reads.push(Read {
            task,
            node,
            invoked,
            returned,
            index: response.index().unwrap_or(0),
            stale,
            status: response.status,
            state: reply["state"].as_str().unwrap_or_default().to_string(),
            attempt: reply["attempt"].as_u64().unwrap_or(0),
            result: reply["result"].clone(),
        });
    }
    context.busy.set(context.busy.get() - 1);
}

/// Records the leader, as each master sees it.
pub async fn observe(context: SimContext, host: Host) {
    let mut client = context.client(host);
    let mut last = 0;
    while !context.over.get() {
        let masters = context.masters.borrow().clone();
        for node in masters {
            let reply = client
                .read_from(node, "/v1/cluster?consistency=stale")
                .await;
            let Some(reply) = reply else { continue };
            if reply["agreement"]["mismatches"].as_u64().unwrap_or(0) > 0 {
                context.sim.world().violated(
                    "the masters' tables are the same",
                    format!("node {node} tells: {reply}"),
                );
            }
            if let (Some(term), Some(leader)) = (reply["term"].as_u64(), reply["leader"].as_u64()) {
                if term > last {
                    last = term;
                    context.sim.world().stats.leaders_seen += 1;
                }
                let at = context.sim.now();
                context.history().leading.push(Leading {
                    at,
                    node,
                    term,
                    leader,
                });
            }
        }
        let pause = client.random.between(100 * MS, 400 * MS);
        context.sim.sleep(pause).await;
    }
}
