//! Requests that are recorded in a history, with their times and results.
//!
//! Without a [`HistoryWriter`] the same requests are sent and not recorded.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use triarch_check::record::{
    Consistency, JobState, Lease, Op, Reported, SeenAttempt, SeenTask, Status, Submitted, TaskState,
};
use triarch_check::{Call, Recorder, digest};

use crate::http::{Api, NOT_SENT, Reply};
use crate::load::submissions::Acked;

/// The kind of task that only misbehaving workers take, which record everything they do.
pub const WORKLOAD_KIND: &str = "played";
/// Number of the latest acknowledged tasks that are remembered, so that readers can read them.
const MAX_RECENT: usize = 512;
/// Timeout of an answer that is not held.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Records requests, and remembers the latest acknowledged tasks.
#[derive(Debug)]
pub struct HistoryWriter {
    recorder: Recorder,
    recent: Mutex<VecDeque<Recent>>,
}

/// An acknowledged task.
#[derive(Debug, Clone)]
pub struct Recent {
    /// Id of its job.
    pub job: String,
    /// Id of the task.
    pub task: String,
    /// Log index at which the task existed.
    pub index: Option<u64>,
    /// Whether the task is alone in its job and run by fake workers. A manual retry then affects no other task.
    pub alone: bool,
}

/// Options of a read.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Whether to read the state of the responding node, which may be old.
    pub stale: bool,
    /// Log index that the responding node must have applied.
    pub min_index: Option<u64>,
    /// Maximum time to wait for the end of the task or job.
    pub wait_ms: u64,
}

impl Read {
    /// Returns a read that waits for the end of the task or job, at most this long.
    pub fn held(wait_ms: u64) -> Self {
        Self {
            wait_ms,
            ..Self::default()
        }
    }

    fn consistency(&self) -> Consistency {
        if self.stale {
            Consistency::Stale
        } else {
            Consistency::Linearizable
        }
    }

    async fn ask(&self, api: &Api, path: &str) -> Result<Reply, String> {
        let mut path = format!("{path}?wait_ms={}", self.wait_ms);
        if self.stale {
            path.push_str("&consistency=stale");
        }
        let mut call = api
            .call(Method::GET, &path)
            .timeout(REQUEST_TIMEOUT + Duration::from_millis(self.wait_ms));
        if let Some(index) = self.min_index {
            call = call.header("triarch-min-index", index);
        }
        call.send().await
    }
}

impl HistoryWriter {
    /// Creates a writer to this recorder.
    pub fn new(recorder: Recorder) -> Self {
        Self {
            recorder,
            recent: Mutex::new(VecDeque::new()),
        }
    }

    /// Returns the recorder.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Returns an acknowledged task: the `nth` from the latest, among those that are remembered.
    pub fn recent(&self, nth: usize) -> Option<Recent> {
        let recent = self.lock_recent();
        let position = recent.len().checked_sub(1 + nth % recent.len().max(1))?;
        recent.get(position).cloned()
    }

    fn lock_recent(&self) -> MutexGuard<'_, VecDeque<Recent>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, new: Recent) {
        let mut recent = self.lock_recent();
        if recent.len() == MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back(new);
    }
}

fn begin(api: &Api, client: &str, op: Op) -> Option<Call> {
    let history_writer = api.history_writer()?;
    Some(history_writer.recorder.invoke(client, api.node(), op))
}

/// Ends the record of a request that changes something. `answer` adds the content of the answer.
pub(crate) fn end(
    call: Option<Call>,
    reply: &Result<Reply, String>,
    answer: impl FnOnce(&mut Op, &Value),
) {
    let Some(mut call) = call else { return };
    match reply {
        Ok(reply) if reply.status / 100 == 2 => {
            answer(call.op(), &reply.json());
            call.ok(index(reply));
        }
        // The request was refused with a code, before it changed anything.
        Ok(reply) if matches!(reply.status, 400 | 404 | 409 | 413 | 429) => {
            call.fail(&reply.code())
        }
        Ok(reply) if reply.status == 307 => call.forget(),
        Ok(reply) => call.unknown(&format!("{} {}", reply.status, reply.code())),
        Err(error) if error.starts_with(NOT_SENT) => call.fail("not_sent"),
        Err(error) => call.unknown(error),
    }
}

fn index(reply: &Reply) -> Option<u64> {
    reply.header("triarch-index")?.parse().ok()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Submits a job, with one try.
pub async fn submit(
    client: &str,
    api: &Api,
    body: &Value,
    request_timeout: Duration,
) -> Result<Reply, String> {
    let call = begin(api, client, submission(body));
    let post = api.call(Method::POST, "/v1/jobs").timeout(request_timeout);
    let reply = post.json(body).send().await;
    if let (Ok(reply), Some(history_writer)) = (&reply, api.history_writer())
        && reply.status == 201
    {
        let answer = reply.json();
        let asked = body["tasks"].as_array();
        let alone =
            asked.is_some_and(|tasks| tasks.len() == 1 && tasks[0]["kind"] == WORKLOAD_KIND);
        for id in answer["tasks"].as_array().into_iter().flatten() {
            history_writer.remember(Recent {
                job: text(&answer["id"]).unwrap_or_default(),
                task: text(id).unwrap_or_default(),
                index: index(reply),
                alone,
            });
        }
    }
    end(call, &reply, |op, answer| {
        if let Op::Submit {
            job,
            tasks,
            duplicate,
            ..
        } = op
        {
            *job = text(&answer["id"]);
            *duplicate = answer["duplicate"] == true;
            let ids = answer["tasks"].as_array().into_iter().flatten();
            for (task, id) in tasks.iter_mut().zip(ids) {
                task.id = text(id);
            }
        }
    });
    reply
}

fn submission(body: &Value) -> Op {
    let tasks = body["tasks"].as_array().into_iter().flatten();
    let tasks = tasks.map(|task| Submitted {
        id: None,
        kind: text(&task["kind"]).unwrap_or_default(),
        observed: task["kind"] == WORKLOAD_KIND,
        payload: Some(digest(&task["payload"])),
        key: text(&task["key"]),
        after: task["after"]
            .as_array()
            .map(|keys| keys.iter().filter_map(text).collect())
            .unwrap_or_default(),
        unique_key: text(&task["unique_key"]),
        expires: !task["expires_ms"].is_null(),
    });
    Op::Submit {
        key: text(&body["idempotency_key"]),
        tasks: tasks.collect(),
        job: None,
        duplicate: false,
        fail_fast: body["on_failure"] == "fail_fast",
    }
}

/// Reads a task, with one try.
pub async fn read_task(client: &str, api: &Api, id: &str, read: &Read) -> Result<Reply, String> {
    let op = Op::ReadTask {
        task: id.to_owned(),
        consistency: read.consistency(),
        min_index: read.min_index,
        seen: None,
    };
    let call = begin(api, client, op);
    let reply = read.ask(api, &format!("/v1/tasks/{id}")).await;
    end_read(call, &reply, |op, answer| {
        if let Op::ReadTask { seen, .. } = op {
            *seen = seen_task(answer);
        }
        matches!(op, Op::ReadTask { seen: Some(_), .. })
    });
    reply
}

/// Reads a job, with one try.
pub async fn read_job(client: &str, api: &Api, id: &str, read: &Read) -> Result<Reply, String> {
    let op = Op::ReadJob {
        job: id.to_owned(),
        consistency: read.consistency(),
        min_index: read.min_index,
        seen: None,
    };
    let call = begin(api, client, op);
    let reply = read.ask(api, &format!("/v1/jobs/{id}")).await;
    end_read(call, &reply, |op, answer| {
        if let Op::ReadJob { seen, .. } = op {
            *seen = serde_json::from_value::<JobState>(answer["state"].clone()).ok();
        }
        matches!(op, Op::ReadJob { seen: Some(_), .. })
    });
    reply
}

/// Ends the record of a read. `not_found` counts as an answer. A read without an answer proves nothing and needs no
/// explanation.
fn end_read(
    call: Option<Call>,
    reply: &Result<Reply, String>,
    answer: impl FnOnce(&mut Op, &Value) -> bool,
) {
    let Some(mut call) = call else { return };
    match reply {
        Ok(reply) if reply.status == 200 => {
            assert!(
                answer(call.op(), &reply.json()),
                "not understood: {reply:?}"
            );
            call.ok(index(reply));
        }
        Ok(reply) if reply.status == 404 && reply.code() == "not_found" => call.ok(index(reply)),
        Ok(reply) => call.unknown(&format!("{} {}", reply.status, reply.code())),
        Err(error) if error.starts_with(NOT_SENT) => call.fail("not_sent"),
        Err(error) => call.unknown(error),
    }
}

fn seen_task(answer: &Value) -> Option<SeenTask> {
    let attempts = answer["attempts"].as_array().into_iter().flatten();
    let attempts = attempts.map(|attempt| {
        Some(SeenAttempt {
            attempt: attempt["attempt"].as_u64()?,
            token: attempt["token"].as_u64()?,
            outcome: text(&attempt["outcome"]),
        })
    });
    let state: TaskState = serde_json::from_value(answer["state"].clone()).ok()?;
    Some(SeenTask {
        state,
        attempt: answer["attempt"].as_u64()?,
        result: (state == TaskState::Succeeded).then(|| digest(&answer["result"])),
        attempts: attempts.collect::<Option<_>>()?,
    })
}

/// Sends the change of a task or job that `op` names, with one try.
pub async fn change(client: &str, api: &Api, op: Op) -> Result<Reply, String> {
    let path = match &op {
        Op::CancelTask { task } => format!("/v1/tasks/{task}/cancel"),
        Op::CancelJob { job } => format!("/v1/jobs/{job}/cancel"),
        Op::RetryTask { task } => format!("/v1/tasks/{task}/retry"),
        other => panic!("{} is no change of a task or job", other.name()),
    };
    let call = begin(api, client, op);
    let post = api.call(Method::POST, &path).timeout(REQUEST_TIMEOUT);
    let reply = post.send().await;
    end(call, &reply, |_, _| {});
    reply
}

/// Sends a worker's poll, with one try, held for at most this time.
pub async fn poll(
    client: &str,
    api: &Api,
    worker: &str,
    body: &Value,
    request_timeout: Duration,
) -> Result<Reply, String> {
    let op = Op::Poll {
        worker: worker.to_owned(),
        leases: Vec::new(),
    };
    let call = begin(api, client, op);
    let path = format!("/v1/workers/{worker}/poll");
    let post = api.call(Method::POST, &path).timeout(request_timeout);
    let reply = post.json(body).send().await;
    let nothing = reply
        .as_ref()
        .is_ok_and(|reply| reply.status == 200 && reply.json()["tasks"] == serde_json::json!([]));
    if nothing {
        if let Some(call) = call {
            call.forget();
        }
        return reply;
    }
    end(call, &reply, |op, answer| {
        if let Op::Poll { leases, .. } = op {
            let tasks = answer["tasks"].as_array().into_iter().flatten();
            *leases = tasks.map(lease).collect();
        }
    });
    reply
}

fn lease(task: &Value) -> Lease {
    let inputs = task["inputs"].as_object().into_iter().flatten();
    Lease {
        task: text(&task["id"]).unwrap_or_default(),
        token: task["token"].as_u64().unwrap_or_default(),
        attempt: task["attempt"].as_u64().unwrap_or_default(),
        payload: Some(digest(&task["payload"])),
        inputs: inputs
            .map(|(key, value)| (key.clone(), digest(value)))
            .collect(),
    }
}

/// Sends a worker's report, with one try. `attempts` are the numbers of the attempts, as leased.
pub async fn report(
    client: &str,
    api: &Api,
    worker: &str,
    results: &[Value],
    attempts: &[u64],
) -> Result<Reply, String> {
    let reported = results.iter().zip(attempts);
    let reported = reported.map(|(result, attempt)| Reported {
        task: text(&result["task"]).unwrap_or_default(),
        token: result["token"].as_u64().unwrap_or_default(),
        attempt: *attempt,
        status: if result["status"] == "succeeded" {
            Status::Succeeded
        } else {
            Status::Failed
        },
        result: (result["status"] == "succeeded").then(|| digest(&result["result"])),
        accepted: None,
        code: None,
    });
    let op = Op::Report {
        worker: worker.to_owned(),
        results: reported.collect(),
    };
    let call = begin(api, client, op);
    let path = format!("/v1/workers/{worker}/report");
    let post = api.call(Method::POST, &path).timeout(REQUEST_TIMEOUT);
    let body = serde_json::json!({ "results": results });
    let reply = post.json(&body).send().await;
    end(call, &reply, |op, answer| {
        if let Op::Report { results, .. } = op {
            let acknowledgements = answer["results"].as_array().into_iter().flatten();
            for (one, acknowledgement) in results.iter_mut().zip(acknowledgements) {
                one.accepted = acknowledgement["accepted"].as_bool();
                one.code = text(&acknowledgement["code"]);
            }
        }
    });
    reply
}

/// Records jobs that were acknowledged earlier outside of this history. All later reads must find them.
pub fn acknowledged(recorder: &Recorder, jobs: &[Acked]) {
    for acked in jobs {
        let mut call = recorder.invoke("before", 0, submission(&acked.body));
        if let Op::Submit { job, tasks, .. } = call.op() {
            *job = Some(acked.job.clone());
            for (task, id) in tasks.iter_mut().zip(&acked.tasks) {
                task.id = Some(id.clone());
            }
        }
        call.ok(None);
    }
}

/// Records jobs that may or may not exist, because no client got an acknowledgement.
pub fn not_promised<'a>(recorder: &Recorder, jobs: impl Iterator<Item = &'a Acked>) {
    for acked in jobs {
        let call = recorder.invoke("before", 0, submission(&acked.body));
        call.unknown("not promised to this cluster");
    }
}

/// Records the side effects in a sink, in its order: lines with a task and a token.
pub fn effects(recorder: &Recorder, sink: &Path) {
    let text = std::fs::read_to_string(sink).unwrap_or_default();
    for line in text.lines() {
        let Some((task, token)) = line.split_once(' ') else {
            continue;
        };
        let effect = Op::Effect {
            sink: "file".to_owned(),
            task: task.to_owned(),
            token: token.parse().unwrap_or_default(),
        };
        recorder.note("sink", effect);
    }
}
