//! After the faults: the cluster must work again, nothing is lost, and all masters have equal tables.

use serde_json::{Value, json};
use triarch_check::Record;
use triarch_check::record::{Op, Outcome};

use crate::client_load::submit_one;
use crate::context::{Client, RequestOutcome, RequestSpec, SimContext};
use crate::disks::all_well;
use crate::faults::versions;
use crate::http::Response;
use crate::process::Ns;
use crate::record;
use crate::world::{Host, MS, SECOND};

/// Waits until the cluster has recovered and all work is done, then records the final state.
pub async fn heal(context: &SimContext, host: Host) {
    let mut client = context.client(host);
    if !wait(&mut client, 60, async |client| all_well(client).await).await {
        let seen = views(&mut client).await;
        violated(
            context,
            "after the faults there is one leader, and all follow",
            seen,
        );
        return;
    }
    if !versions::raised(&mut client, 20).await {
        let seen = views(&mut client).await;
        violated(
            context,
            "the level can be raised once every master understands it",
            seen,
        );
    }
    fresh_work(&mut client).await;
    context.closing.set(true);
    let all_done = wait(&mut client, 120, async |client| {
        client.context.busy.get() == 0
    })
    .await;
    if !all_done {
        violated(
            context,
            "everybody gets an answer",
            "a client still asks after 120 s".into(),
        );
    }
    end_schedule(&mut client).await;
    let jobs: Vec<String> = {
        let history = context.history();
        let answers = history.submissions.iter().filter_map(|s| s.answers.first());
        answers
            .map(|answer| answer.job.clone())
            .filter(|job| !job.is_empty())
            .collect()
    };
    context.recorder.settled();
    for job in jobs {
        finish_job(&mut client, &job).await;
    }
    context.over.set(true);
    digests(&mut client).await;
}

fn violated(context: &SimContext, rule: &str, what: String) {
    context.sim.world().violated(rule, what);
}

async fn wait(
    client: &mut Client,
    seconds: u64,
    mut so: impl AsyncFnMut(&mut Client) -> bool,
) -> bool {
    let until = client.context.sim.now() + seconds * SECOND;
    while client.context.sim.now() < until {
        if so(client).await {
            return true;
        }
        client.context.sim.sleep(200 * MS).await;
    }
    false
}

async fn views(client: &mut Client) -> String {
    let members = client.context.masters.borrow().clone();
    let mut seen = Vec::new();
    for host in members {
        let reply = client
            .read_from(host, "/v1/cluster?consistency=stale")
            .await;
        let ready = client.read_from(host, "/readyz").await;
        seen.push(format!(
            "node {host} (ready: {}): {}",
            ready.is_some(),
            reply.unwrap_or(Value::Null)
        ));
    }
    seen.join("\n    ")
}

async fn get(client: &mut Client, path: &str) -> Option<Value> {
    answered(client, path).await.map(|response| response.json())
}

async fn answered(client: &mut Client, path: &str) -> Option<Response> {
    let outcome = client
        .send(RequestSpec {
            method: "GET",
            path,
            request_id: None,
            body: None,
            timeout: 4 * SECOND,
            tries: 10,
            ops: Vec::new(),
        })
        .await;
    match outcome {
        RequestOutcome::Done(response) => Some(response),
        RequestOutcome::Refused(_) | RequestOutcome::Unknown => None,
    }
}

/// Key of the job that shows that the healed cluster does new work. No client cancels it.
pub const FRESH: &str = "fresh";

async fn fresh_work(client: &mut Client) {
    let body = json!({"name": "fresh", "idempotency_key": FRESH,
        "tasks": [{"kind": "sim", "payload": {"ms": 5}, "queue": "fresh", "max_losses": 1000}]});
    let begun = client.context.sim.now();
    let Some(submitted) = submit_one(client, body).await else {
        return violated(
            &client.context,
            "fresh work is taken",
            "a submission was not acknowledged".into(),
        );
    };
    let path = format!("/v1/jobs/{}", submitted.job);
    let done = wait(client, 30, async |client| {
        get(client, &path)
            .await
            .is_some_and(|job| job["state"] == json!("succeeded"))
    })
    .await;
    let took_ms = (client.context.sim.now() - begun) / MS;
    if !done {
        let job = get(client, &path).await;
        violated(
            &client.context,
            "fresh work is done",
            format!("not within {took_ms} ms: {job:?}"),
        );
    }
}

async fn finish_job(client: &mut Client, job: &str) {
    let path = format!("/v1/jobs/{job}");
    let terminal = |job: &Value| {
        ["succeeded", "failed", "cancelled"]
            .iter()
            .any(|state| job["state"] == json!(state))
    };
    let ended = wait(client, 60, async |client| {
        get(client, &path).await.is_some_and(|job| terminal(&job))
    })
    .await;
    let last = get(client, &path).await;
    if !ended {
        let tasks = get(client, &format!("{path}/tasks")).await;
        violated(
            &client.context,
            "everything acknowledged comes to an end",
            format!("{job}: {last:?}, {tasks:?}"),
        );
    }
    if let Some(last) = last {
        client.context.history().jobs.insert(job.to_string(), last);
    }
    let invoke_ns = client.context.sim.now();
    if let Some(response) = answered(client, &format!("{path}/tasks?limit=100&fields=all")).await {
        let reply = response.json();
        for task in reply["tasks"].as_array().into_iter().flatten() {
            note_read(client, invoke_ns, &response, task);
        }
        let mut history = client.context.history();
        for task in reply["tasks"].as_array().into_iter().flatten() {
            let id = task["id"].as_str().unwrap_or_default().to_string();
            history.tasks.insert(id, task.clone());
        }
    }
    // If a unique key was in use, the task belongs to another job.
    let outcome: Vec<String> = {
        let history = client.context.history();
        let all = history.submissions.iter().flat_map(|s| s.answers.iter());
        let of_job = all
            .filter(|answer| answer.job == job)
            .flat_map(|answer| answer.tasks.clone());
        of_job
            .filter(|task| !history.tasks.contains_key(task))
            .collect()
    };
    for task in outcome {
        if let Some(reply) = get(client, &format!("/v1/tasks/{task}")).await {
            client.context.history().tasks.insert(task, reply);
        }
    }
}

/// A task in a list counts as a read of the task.
fn note_read(client: &Client, invoke_ns: Ns, response: &Response, task: &Value) {
    let mut op = record::read(task["id"].as_str().unwrap_or_default(), false);
    if let Op::ReadTask { seen, .. } = &mut op {
        *seen = record::seen(task);
    }
    client.context.recorder.append(Record {
        client: format!("client-{}-lists", client.host),
        node: Some(u64::from(client.master)),
        invoke_ns,
        return_ns: client.context.sim.now(),
        outcome: Outcome::Ok,
        index: response.index(),
        why: None,
        op,
    });
}

async fn end_schedule(client: &mut Client) {
    let outcome = client
        .send(RequestSpec {
            method: "POST",
            path: "/v1/schedules/ticks/pause",
            request_id: Some("pause-ticks"),
            body: None,
            timeout: 3 * SECOND,
            tries: 20,
            ops: Vec::new(),
        })
        .await;
    let RequestOutcome::Done(response) = outcome else {
        return;
    };
    let mut jobs = Vec::new();
    let mut after = String::new();
    while let Some(reply) = get(client, &format!("/v1/jobs?name=tick&limit=500{after}")).await {
        jobs.extend(reply["jobs"].as_array().cloned().unwrap_or_default());
        match reply["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    client.context.history().schedule = json!({"schedule": response.json(), "jobs": jobs});
}

async fn digests(client: &mut Client) {
    let members = client.context.masters.borrow().clone();
    let same = wait(client, 30, async |client| {
        let mut seen = Vec::new();
        for host in &members {
            let reply = client
                .read_from(*host, "/v1/cluster?consistency=stale&digest=true")
                .await;
            let Some(reply) = reply else { return false };
            let index = reply["digest"]["index"].as_u64().unwrap_or(0);
            let value = reply["digest"]["value"]
                .as_str()
                .unwrap_or_default()
                .to_string();
            seen.push((*host, index, value));
        }
        let level = seen.windows(2).all(|two| two[0].1 == two[1].1);
        client.context.history().digests = seen;
        level
    })
    .await;
    if !same {
        let what = format!("{:?}", client.context.history().digests);
        violated(
            &client.context,
            "after the faults all masters come to the same index",
            what,
        );
    }
}
