//! Worker requests with many parts: each part is judged alone.
//!
//! # Invariants
//!
//! - A wrong part never costs another part: leases are confirmed and results are taken whatever else is wrong.
//! - Nothing is dropped in silence. The answer names each wrong part, and each result gets a verdict.
//! - A valid request is parsed once. Only one that fails is split into its parts, see
//!   [`json_parts`](crate::server::protocol::json_parts).

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use triarch_sdk::json_text::{beginning, without_lone_surrogates};
use triarch_sdk::wire::{self, NOTE_BYTES_MAX, PartProblem};
use triarch_table::Token;

use crate::leader::lease_tracker::{AttemptProgress, WorkerLoad};
use crate::leader::worker_calls::RunningAttempt;
use crate::server::protocol::json::{self, JSON_DEPTH_MAX};
use crate::server::protocol::json_parts;
use crate::server::protocol::problem::{Code, Problem};

/// Maximum number of results in one request, and of attempts reported as running.
pub const RESULTS_MAX: usize = 10_000;

/// Maximum number of wrong parts that an answer names.
const PROBLEMS_MAX: usize = 100;
/// Depth of the body around an item of a list.
const ITEM_DEPTH: usize = 2;
/// Maximum length of the parts of an error that is shortened, in bytes.
const ERROR_TYPE_BYTES_MAX: usize = 200;
const ERROR_MESSAGE_BYTES_MAX: usize = 16 << 10;

/// Names of the wrong parts of one request.
#[derive(Debug, Default)]
pub struct PartProblems(Mutex<Vec<PartProblem>>);

impl PartProblems {
    /// Records a wrong part, with what was done about it.
    pub fn add(&self, field: String, detail: String) {
        let mut problems = self.0.lock();
        if problems.len() < PROBLEMS_MAX {
            problems.push(PartProblem { field, detail });
        }
    }

    /// Returns the problems for the answer.
    pub fn into_list(self) -> Vec<PartProblem> {
        self.0.into_inner()
    }
}

/// One reported result.
#[derive(Debug)]
pub enum ReportedResult {
    /// A result within the format.
    Valid(wire::TaskResult),
    /// A result that cannot be taken. Its worker keeps the lease.
    Refused {
        /// The task's id; empty if it cannot be read.
        task: String,
        /// The lease, if it can be read.
        token: Option<u64>,
        /// What is wrong.
        problem: Problem,
    },
}

impl ReportedResult {
    /// Returns the attempt that the result belongs to, as far as it is known.
    pub fn attempt(&self) -> Option<RunningAttempt> {
        let (task, token) = match self {
            ReportedResult::Valid(result) => (&result.task, result.token),
            ReportedResult::Refused { task, token, .. } => (task, (*token)?),
        };
        Some(RunningAttempt {
            task: task.parse().ok(),
            spelled: task.clone(),
            token: Token(token),
            progress: None,
        })
    }
}

/// A poll whose parts were judged.
#[derive(Debug, Default)]
pub struct ParsedPoll {
    pub max: u32,
    pub wait_ms: u64,
    pub results: Vec<ReportedResult>,
    pub running: Option<Vec<RunningAttempt>>,
    pub problems: PartProblems,
}

/// A heartbeat whose parts were judged.
#[derive(Debug, Default)]
pub struct ParsedHeartbeat {
    pub running: Vec<RunningAttempt>,
    pub load: Option<WorkerLoad>,
    pub problems: PartProblems,
}

/// A report whose parts were judged.
#[derive(Debug, Default)]
pub struct ParsedReport {
    pub results: Vec<ReportedResult>,
    pub problems: PartProblems,
}

/// Parses a poll.
pub fn poll(body: &Bytes) -> Result<ParsedPoll, Problem> {
    let problems = PartProblems::default();
    let (poll, results, running) = match json::parse_or_default::<wire::Poll>(body) {
        Ok(mut poll) => {
            let results = valid(std::mem::take(&mut poll.results));
            let running = poll
                .running
                .take()
                .map(|running| attempts(running, &problems));
            (poll, results, running)
        }
        Err(problem) => {
            let parts = Parts::split(body).ok_or(problem)?;
            let head: wire::Poll = parts.head(&["results", "running"], b"")?;
            let results = parts.results(&problems)?.unwrap_or_default();
            let running = match parts.get("running")? {
                None | Some(b"null") => None,
                Some(list) => Some(running(list, &problems)?),
            };
            (head, results, running)
        }
    };
    bounded("running", running.as_ref().map_or(0, Vec::len))?;
    Ok(ParsedPoll {
        max: poll.max,
        wait_ms: poll.wait_ms,
        results,
        running,
        problems,
    })
}

/// Parses a heartbeat.
pub fn heartbeat(body: &Bytes) -> Result<ParsedHeartbeat, Problem> {
    let problems = PartProblems::default();
    let (running, load) = match json::parse_or_default::<wire::Heartbeat>(body) {
        Ok(heartbeat) => (attempts(heartbeat.running, &problems), heartbeat.load),
        Err(problem) => {
            let parts = Parts::split(body).ok_or(problem)?;
            let wire::Heartbeat { .. } = parts.head(&["running", "load"], b"")?;
            let running = match parts.get("running")? {
                None => Vec::new(),
                Some(list) => running(list, &problems)?,
            };
            let load = parts.get("load")?.and_then(|load| {
                json::parse_within::<Option<wire::Load>>(load, JSON_DEPTH_MAX).unwrap_or_else(
                    |problem| {
                        dropped(&problems, "load", &problem);
                        None
                    },
                )
            });
            (running, load)
        }
    };
    bounded("running", running.len())?;
    let in_range = |cpu: &f64| (0.0..=1.0).contains(cpu);
    let load = load.map(|load| {
        if load.cpu.is_some_and(|cpu| !in_range(&cpu)) {
            problems.add(
                "load.cpu".to_owned(),
                "must be from 0 to 1; it was dropped".to_owned(),
            );
        }
        WorkerLoad {
            cpu: load.cpu.filter(in_range),
            mem_mb: load.mem_mb,
        }
    });
    Ok(ParsedHeartbeat {
        running,
        load,
        problems,
    })
}

/// Parses a report.
pub fn report(body: &Bytes) -> Result<ParsedReport, Problem> {
    let problems = PartProblems::default();
    let results = match json::parse::<wire::Report>(body) {
        Ok(report) => valid(report.results),
        Err(problem) => {
            let parts = Parts::split(body).ok_or_else(|| problem.clone())?;
            let wire::Report { .. } = parts.head(&["results"], br#""results":[]"#)?;
            parts.results(&problems)?.ok_or(problem)?
        }
    };
    if results.is_empty() {
        return Err(Problem::invalid("results", "must hold at least one result"));
    }
    Ok(ParsedReport { results, problems })
}

/// Parses live output of attempts. A wrong chunk costs only itself.
pub fn output(body: &Bytes) -> Result<(wire::SendOutput, PartProblems), Problem> {
    let problems = PartProblems::default();
    let problem = match json::parse::<wire::SendOutput>(body) {
        Ok(output) => return Ok((output, problems)),
        Err(problem) => problem,
    };
    let parts = Parts::split(body).ok_or_else(|| problem.clone())?;
    let wire::SendOutput { .. } = parts.head(&["chunks"], br#""chunks":[]"#)?;
    let list = parts.get("chunks")?.ok_or(problem)?;
    let items = list_items("chunks", list)?;
    let chunks = items.into_iter().zip(0..).filter_map(|(item, position)| {
        let field = format!("chunks[{position}]");
        let repaired = || {
            let text = String::from_utf8_lossy(item);
            json::parse_within(without_lone_surrogates(&text).as_bytes(), JSON_DEPTH_MAX).ok()
        };
        match json::parse_within(item, JSON_DEPTH_MAX) {
            Ok(chunk) => Some(chunk),
            Err(problem) => match repaired() {
                Some(chunk) => {
                    problems.add(
                        field,
                        "holds characters that are no text; they were replaced".to_owned(),
                    );
                    Some(chunk)
                }
                None => {
                    dropped(&problems, &field, &problem);
                    None
                }
            },
        }
    });
    let chunks = chunks.collect();
    Ok((wire::SendOutput { chunks }, problems))
}

/// Raw texts of a body's members.
struct Parts<'a>(Vec<(String, &'a [u8])>);

impl<'a> Parts<'a> {
    /// Splits a body; `None` if it is not even an object.
    fn split(body: &'a [u8]) -> Option<Self> {
        json_parts::members(body).map(Self)
    }

    /// Returns a member.
    ///
    /// # Errors
    ///
    /// The member occurs twice.
    fn get(&self, name: &str) -> Result<Option<&'a [u8]>, Problem> {
        let mut found = self.0.iter().filter(|(member, _)| member == name);
        let first = found.next().map(|(_, value)| *value);
        match found.next() {
            Some(_) => Err(Problem::invalid(name, format!("duplicate field `{name}`"))),
            None => Ok(first),
        }
    }

    /// Parses the members that concern the request as a whole, strictly: all but `parts`, for which `instead` stands.
    fn head<T: DeserializeOwned>(&self, parts: &[&str], instead: &[u8]) -> Result<T, Problem> {
        let mut head = vec![b'{'];
        head.extend_from_slice(instead);
        for (name, value) in &self.0 {
            if parts.contains(&name.as_str()) {
                continue;
            }
            if head.len() > 1 {
                head.push(b',');
            }
            head.extend(serde_json::to_vec(name).unwrap_or_default());
            head.push(b':');
            head.extend_from_slice(value);
        }
        head.push(b'}');
        json::parse_within(&head, JSON_DEPTH_MAX)
    }

    fn results(&self, problems: &PartProblems) -> Result<Option<Vec<ReportedResult>>, Problem> {
        let Some(list) = self.get("results")? else {
            return Ok(None);
        };
        let results = list_items("results", list)?.into_iter().zip(0..);
        let result = |(item, position)| reported(item, &format!("results[{position}]"), problems);
        Ok(Some(results.map(result).collect()))
    }
}

fn list_items<'a>(field: &str, list: &'a [u8]) -> Result<Vec<&'a [u8]>, Problem> {
    json_parts::items(list).ok_or_else(|| Problem::invalid(field, "is not a list"))
}

fn bounded(field: &str, count: usize) -> Result<(), Problem> {
    if count > RESULTS_MAX {
        let detail = format!("lists {count} attempts; the limit is {RESULTS_MAX}");
        return Err(Problem::invalid(field, detail));
    }
    Ok(())
}

fn dropped(problems: &PartProblems, field: &str, problem: &Problem) {
    let problem = problem.clone().within(field);
    problems.add(
        problem.field().to_owned(),
        format!("{}; it was dropped", problem.detail()),
    );
}

fn valid(results: Vec<wire::TaskResult>) -> Vec<ReportedResult> {
    results.into_iter().map(ReportedResult::Valid).collect()
}

/// Judges attempts that were parsed: their progress and notes may still be out of bounds.
fn attempts(running: Vec<wire::RunningTask>, problems: &PartProblems) -> Vec<RunningAttempt> {
    let running = running.into_iter().zip(0..);
    running
        .map(|(attempt, position)| running_attempt(attempt, position, problems))
        .collect()
}

fn running_attempt(
    attempt: wire::RunningTask,
    position: usize,
    problems: &PartProblems,
) -> RunningAttempt {
    let at = |field: &str| format!("running[{position}].{field}");
    let in_range = |progress: &f64| (0.0..=1.0).contains(progress);
    if attempt
        .progress
        .is_some_and(|progress| !in_range(&progress))
    {
        problems.add(
            at("progress"),
            "must be from 0 to 1; it was dropped".to_owned(),
        );
    }
    let progress = attempt.progress.filter(in_range);
    let mut note = attempt.note;
    if let Some(note) = &mut note
        && note.len() > NOTE_BYTES_MAX
    {
        let detail = format!(
            "is {} bytes long; it was cut to {NOTE_BYTES_MAX}",
            note.len()
        );
        problems.add(at("note"), detail);
        note.truncate(beginning(note, NOTE_BYTES_MAX).len());
    }
    let has_progress = progress.is_some() || note.is_some();
    RunningAttempt {
        task: attempt.task.parse().ok(),
        spelled: attempt.task,
        token: Token(attempt.token),
        progress: has_progress.then_some(AttemptProgress { progress, note }),
    }
}

/// Reads a list of running attempts item by item. An attempt whose task and token can be read is confirmed, whatever
/// else is wrong with it.
fn running(list: &[u8], problems: &PartProblems) -> Result<Vec<RunningAttempt>, Problem> {
    let items = list_items("running", list)?.into_iter().zip(0..);
    let read = |(item, position)| {
        let attempt = json::parse_within(item, JSON_DEPTH_MAX)
            .or_else(|problem| repaired_attempt(item, position, &problem, problems));
        Some(running_attempt(attempt.ok()?, position, problems))
    };
    Ok(items.filter_map(read).collect())
}

/// Reads what can be read of an attempt.
fn repaired_attempt(
    item: &[u8],
    position: usize,
    problem: &Problem,
    problems: &PartProblems,
) -> Result<wire::RunningTask, ()> {
    let at = |field: &str| format!("running[{position}].{field}");
    let members = json_parts::members(item).unwrap_or_default();
    let (mut task, mut token, mut progress, mut note) = (None, None, None, None);
    for (name, value) in members {
        let understood = match name.as_str() {
            "task" => set(&mut task, serde_json::from_slice::<String>(value).ok()),
            "token" => set(&mut token, serde_json::from_slice::<u64>(value).ok()),
            "progress" => set(
                &mut progress,
                serde_json::from_slice::<Option<f64>>(value).ok(),
            ),
            "note" => {
                let read = repaired_text(value);
                if read.is_some() && serde_json::from_slice::<Option<String>>(value).is_err() {
                    let detail = "holds characters that are no text; they were replaced";
                    problems.add(at("note"), detail.to_owned());
                }
                set(&mut note, read)
            }
            _ => {
                problems.add(at(&name), format!("unknown field `{name}`; it was dropped"));
                continue;
            }
        };
        if !understood {
            let detail = format!("{}; it was dropped", reason(value));
            problems.add(at(&name), detail);
        }
    }
    let (Some(task), Some(token)) = (task, token) else {
        // The lease is unknown, so it cannot be confirmed.
        dropped(problems, &format!("running[{position}]"), problem);
        return Err(());
    };
    Ok(wire::RunningTask {
        task,
        token,
        progress: progress.flatten(),
        note: note.flatten(),
    })
}

/// Sets a field that is not set yet. Returns whether there was a value for it, and only one.
fn set<T>(field: &mut Option<T>, value: Option<T>) -> bool {
    if field.is_some() || value.is_none() {
        return false;
    }
    *field = value;
    true
}

/// Returns why a value is refused.
fn reason(value: &[u8]) -> String {
    match serde_json::from_slice::<&RawValue>(value) {
        Ok(_) => "has a wrong type or value, or occurs twice".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Reads a text or `null`, and replaces what is no text in it.
fn repaired_text(value: &[u8]) -> Option<Option<String>> {
    let text = String::from_utf8_lossy(value);
    serde_json::from_str(&without_lone_surrogates(&text)).ok()
}

/// Reads one result. A failure counts as one even if its error cannot be read.
fn reported(item: &[u8], field: &str, problems: &PartProblems) -> ReportedResult {
    let depth_max = JSON_DEPTH_MAX - ITEM_DEPTH;
    let problem = match json::parse_within(item, depth_max) {
        Ok(result) => return ReportedResult::Valid(result),
        Err(problem) => problem,
    };
    let members = json_parts::members(item).unwrap_or_default();
    if let Some(failure) = failure_with_other_error(&members) {
        let at = problem.clone().within(field);
        let detail = format!(
            "{}; the failure counts, with a shortened error",
            at.detail()
        );
        problems.add(format!("{field}.error"), detail);
        return ReportedResult::Valid(failure);
    }
    let member = |wanted: &str| members.iter().find(|(name, _)| name == wanted);
    let problem = match member("result") {
        Some((_, value))
            if problem.field().is_empty()
                && serde_json::from_slice::<&RawValue>(value).is_err() =>
        {
            Problem::invalid("result", reason(value))
        }
        _ => problem,
    };
    ReportedResult::Refused {
        task: member("task")
            .and_then(|(_, value)| serde_json::from_slice(value).ok())
            .unwrap_or_default(),
        token: member("token").and_then(|(_, value)| serde_json::from_slice(value).ok()),
        problem: problem.within(field),
    }
}

/// Reads a failed result in which only the error is wrong, and replaces that.
fn failure_with_other_error(members: &[(String, &[u8])]) -> Option<wire::TaskResult> {
    let mut rest = vec![b'{'];
    let mut error = None;
    for (name, value) in members {
        if name == "error" {
            if error.replace(*value).is_some() {
                return None;
            }
            continue;
        }
        if rest.len() > 1 {
            rest.push(b',');
        }
        rest.extend(serde_json::to_vec(name).ok()?);
        rest.push(b':');
        rest.extend_from_slice(value);
    }
    rest.push(b'}');
    let mut failure: wire::TaskResult =
        json::parse_within(&rest, JSON_DEPTH_MAX - ITEM_DEPTH).ok()?;
    if failure.status != wire::ReportStatus::Failed {
        return None;
    }
    failure.error = Some(shortened_error(error?));
    Some(failure)
}

/// Returns `{"type", "message", "shortened": true}` of an error, as far as these can be read.
pub fn shortened_error(error: &[u8]) -> Box<RawValue> {
    /// Fields of an error that are kept.
    #[derive(Debug, Default, Deserialize)]
    struct Readable {
        #[serde(rename = "type", default)]
        kind: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    let text = String::from_utf8_lossy(error);
    let repaired = without_lone_surrogates(&text);
    let readable = serde_json::from_str::<Readable>(&repaired).unwrap_or_else(|_| {
        let members = json_parts::members(repaired.as_bytes()).unwrap_or_default();
        let text = |wanted: &str| {
            let (_, value) = members.iter().find(|(name, _)| name == wanted)?;
            repaired_text(value).flatten()
        };
        Readable {
            kind: text("type"),
            message: text("message"),
        }
    });
    let cut = |text: String, most: usize| match beginning(&text, most) {
        all if all.len() == text.len() => text,
        beginning => format!("{beginning}…"),
    };
    let short = serde_json::json!({
        "type": cut(readable.kind.unwrap_or_else(|| "unreadable_error".to_owned()), ERROR_TYPE_BYTES_MAX),
        "message": cut(
            readable.message.unwrap_or_else(|| "the worker reported a failure whose error could not be read".to_owned()),
            ERROR_MESSAGE_BYTES_MAX,
        ),
        "shortened": true,
    });
    serde_json::value::to_raw_value(&short).expect("a value always serializes")
}

/// Returns the problem of a result over the size bound.
pub fn too_large(field: &str, bytes: usize, bytes_max: usize) -> Problem {
    Problem::new(
        Code::PayloadTooLarge,
        format!(
            "the result is {bytes} bytes long; the limit is {bytes_max}: store the data where others can reach it and \
             return its address"
        ),
    )
    .with("field", field.to_owned())
}

impl PartProblems {
    /// Records that the error of a failure was shortened because it is over the size bound.
    pub fn error_shortened(&self, field: String, bytes: usize, bytes_max: usize) {
        let detail = format!(
            "is {bytes} bytes long; the limit is {bytes_max}: the failure counts, with a shortened error"
        );
        self.add(field, detail);
    }
}

#[cfg(test)]
mod tests;
