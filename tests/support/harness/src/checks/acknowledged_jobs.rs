//! Checks acknowledged jobs against the cluster: each exists, has finished, and has exactly one accepted result.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::history::{self, Read};
use crate::http::{Api, Reply};
use crate::load::submissions::Acked;

/// Number of jobs that are read concurrently.
const MAX_CONCURRENT_READS: usize = 16;
/// Maximum time for which one read waits for a job to finish.
const LONG_POLL_MS: u64 = 10_000;
/// Number of findings of each kind that are reported in full.
const MAX_CASES_SHOWN: usize = 10;
/// Time for reading each acknowledged job, in addition to the time in which all must finish.
const READ_TIME_PER_JOB: Duration = Duration::from_millis(10);
/// Time for which a read goes on that no master answers, beyond the time for reading.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Findings of the check.
#[derive(Debug, Clone, Default)]
pub struct CheckResult {
    /// Number of acknowledged jobs.
    pub jobs: usize,
    /// Number of their tasks.
    pub tasks: usize,
    /// Acknowledged jobs or tasks that do not exist, or did not end with success.
    pub lost: Vec<String>,
    /// Tasks with more than one accepted result.
    pub duplicate_results: Vec<String>,
    /// Jobs that did not finish by the deadline, or of which no master gave an answer.
    pub unfinished: Vec<String>,
    /// Jobs that were not read, because the time for reading was over before their turn. Nothing is known of them.
    pub unread: Vec<String>,
    /// Ids of the jobs that finished.
    finished: BTreeSet<String>,
    /// Tasks whose side effects show a token after a higher one.
    pub token_regressions: Vec<String>,
    /// Number of attempts that did not end by an accepted result, by outcome.
    pub other_outcomes: BTreeMap<String, usize>,
    /// Number of additional runs that side effects show, beyond one for each task: work that a failure repeated.
    pub extra_runs: usize,
    /// Verdict of the history checker on all requests and answers, and its text.
    pub history: Option<(triarch_check::Verdict, String)>,
}

impl CheckResult {
    /// Returns whether all guarantees were kept.
    pub fn is_good(&self) -> bool {
        [
            &self.lost,
            &self.duplicate_results,
            &self.unfinished,
            &self.unread,
            &self.token_regressions,
        ]
        .iter()
        .all(|cases| cases.is_empty())
            && self
                .history
                .as_ref()
                .is_none_or(|(check_result, _)| check_result.is_kept())
    }

    /// Returns one line per finding.
    pub fn summary(&self) -> String {
        let mut lines = vec![format!(
            "jobs acknowledged {}, tasks {}, lost {}, accepted twice {}, unfinished {}, tokens that went back {}, \
             runs beyond the first {}",
            self.jobs,
            self.tasks,
            self.lost.len(),
            self.duplicate_results.len(),
            self.unfinished.len(),
            self.token_regressions.len(),
            self.extra_runs,
        )];
        if !self.other_outcomes.is_empty() {
            let outcomes: Vec<String> = self
                .other_outcomes
                .iter()
                .map(|(outcome, count)| format!("{count} {outcome}"))
                .collect();
            lines.push(format!(
                "attempts that ended otherwise: {}",
                outcomes.join(", ")
            ));
        }
        for (what, cases) in [
            ("LOST", &self.lost),
            ("TWICE", &self.duplicate_results),
            ("UNFINISHED", &self.unfinished),
            ("UNREAD", &self.unread),
            ("BACKWARDS", &self.token_regressions),
        ] {
            lines.extend(
                cases
                    .iter()
                    .take(MAX_CASES_SHOWN)
                    .map(|case| format!("{what} {case}")),
            );
        }
        if let Some((_, text)) = &self.history {
            lines.extend(text.lines().map(|line| format!("history: {line}")));
        }
        lines.join("\n")
    }

    /// Panics if a guarantee was violated.
    #[track_caller]
    pub fn assert_good(&self) {
        assert!(self.is_good(), "{}", self.summary());
    }

    fn add(&mut self, other: CheckResult) {
        self.jobs += other.jobs;
        self.tasks += other.tasks;
        self.lost.extend(other.lost);
        self.duplicate_results.extend(other.duplicate_results);
        self.unfinished.extend(other.unfinished);
        self.unread.extend(other.unread);
        self.finished.extend(other.finished);
        for (outcome, count) in other.other_outcomes {
            *self.other_outcomes.entry(outcome).or_default() += count;
        }
    }
}

/// Ends of the time in which jobs must finish, and of the time in which they are read.
#[derive(Debug, Clone, Copy)]
struct Deadlines {
    finish: Instant,
    read: Instant,
}

/// Waits for every acknowledged job to finish and checks it. The answers are linearizable reads at any master. Many
/// jobs take longer to read than the deadline, and have all finished before.
pub async fn check(masters: &[Api], acked: &[Acked], deadline: Duration) -> CheckResult {
    let finish = Instant::now() + deadline;
    let jobs = u32::try_from(acked.len()).expect("fewer jobs than that");
    let deadlines = Deadlines {
        finish,
        read: finish + READ_TIME_PER_JOB * jobs,
    };
    let mut check_result = CheckResult::default();
    let mut reads = tokio::task::JoinSet::new();
    for (nth, one) in acked.iter().enumerate() {
        if reads.len() == MAX_CONCURRENT_READS {
            let done: CheckResult = reads
                .join_next()
                .await
                .expect("not empty")
                .expect("a read does not panic");
            check_result.add(done);
        }
        let mut masters = masters.to_vec();
        let first = nth % masters.len();
        masters.rotate_left(first);
        reads.spawn(check_job(masters, one.clone(), deadlines));
    }
    while let Some(done) = reads.join_next().await {
        check_result.add(done.expect("a read does not panic"));
    }
    check_result
}

async fn check_job(masters: Vec<Api>, acked: Acked, deadlines: Deadlines) -> CheckResult {
    let mut check_result = CheckResult {
        jobs: 1,
        tasks: acked.tasks.len(),
        ..CheckResult::default()
    };
    let named = format!("job {} (key {})", acked.job, acked.key);
    loop {
        let reply = match ask(&masters, Target::Job(&acked.job), deadlines.read).await {
            Ok(reply) => reply,
            Err(why) => {
                why.add_to(&mut check_result, &named);
                return check_result;
            }
        };
        match (reply.status, reply.json()["state"].as_str()) {
            (200, Some("succeeded")) => {
                check_result.finished.insert(acked.job.clone());
                break;
            }
            (200, Some("running")) if Instant::now() < deadlines.finish => {}
            (200, Some("running")) => {
                check_result
                    .unfinished
                    .push(format!("{named}: {}", reply.text));
                return check_result;
            }
            (_, _) => {
                check_result.lost.push(format!("{named}: {}", reply.text));
                return check_result;
            }
        }
    }
    for id in &acked.tasks {
        let reply = match ask(&masters, Target::Task(id), deadlines.read).await {
            Ok(reply) => reply,
            Err(why) => {
                why.add_to(&mut check_result, &format!("task {id} of {named}"));
                return check_result;
            }
        };
        let task = reply.json();
        if reply.status != 200 || task["state"] != "succeeded" || task["job"] != acked.job.as_str()
        {
            check_result
                .lost
                .push(format!("task {id} of {named}: {}", reply.text));
            continue;
        }
        let outcomes: Vec<&str> = task["attempts"]
            .as_array()
            .map(|attempts| {
                attempts
                    .iter()
                    .filter_map(|attempt| attempt["outcome"].as_str())
                    .collect()
            })
            .unwrap_or_default();
        match outcomes
            .iter()
            .filter(|outcome| **outcome == "succeeded")
            .count()
        {
            1 => {}
            0 => check_result.lost.push(format!(
                "task {id} of {named}: no accepted attempt: {}",
                reply.text
            )),
            _ => check_result
                .duplicate_results
                .push(format!("task {id} of {named}: {}", reply.text)),
        }
        for outcome in outcomes.iter().filter(|outcome| **outcome != "succeeded") {
            *check_result
                .other_outcomes
                .entry((*outcome).to_owned())
                .or_default() += 1;
        }
    }
    check_result
}

/// A job that is being read, until it has ended.
#[derive(Clone, Copy)]
enum Target<'a> {
    Job(&'a str),
    Task(&'a str),
}

/// Reason for which a read has no answer.
#[derive(Debug)]
enum NoReply {
    /// The time for reading was over before the first try.
    NotAsked,
    /// Every master was asked in vain. The last answer or error.
    NoMaster(String),
}

impl NoReply {
    fn add_to(self, check_result: &mut CheckResult, named: &str) {
        match self {
            NoReply::NotAsked => {
                let text = format!("{named}: the time for reading was over before its turn");
                check_result.unread.push(text);
            }
            NoReply::NoMaster(last) => {
                let text = format!("{named}: no master answers: {last}");
                check_result.unfinished.push(text);
            }
        }
    }
}

async fn ask(masters: &[Api], target: Target<'_>, read_until: Instant) -> Result<Reply, NoReply> {
    let mut nth = 0;
    let mut last = NoReply::NotAsked;
    // A read that has been tried goes on, so that a late one is tried at more than one master.
    while Instant::now() < read_until || (nth > 0 && Instant::now() < read_until + ANSWER_PATIENCE)
    {
        let api = &masters[nth % masters.len()];
        let reply = match target {
            Target::Job(id) => history::read_job("judge", api, id, &Read::held(LONG_POLL_MS)).await,
            Target::Task(id) => history::read_task("judge", api, id, &Read::default()).await,
        };
        last = match reply {
            Ok(reply) if !matches!(reply.status, 429 | 503 | 504 | 507) => return Ok(reply),
            Ok(reply) => NoReply::NoMaster(format!("{}: {}", reply.status, reply.text)),
            Err(error) => NoReply::NoMaster(error),
        };
        nth += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(last)
}

/// Returns a shell command for tasks whose side effect can be checked. It appends one line with the task and its token
/// to `sink`.
pub fn sink_script(sink: &Path) -> String {
    format!(
        "echo \"$TRIARCH_TASK $TRIARCH_TOKEN\" >> '{}'",
        sink.display()
    )
}

/// Checks the side effects: every task of the finished jobs wrote at least one line, and the tokens of each task
/// ascend.
pub fn check_sink(check_result: &mut CheckResult, sink: &Path, acked: &[Acked]) {
    let text = std::fs::read_to_string(sink).unwrap_or_default();
    let mut latest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut lines = 0;
    for line in text.lines() {
        let Some((task, token)) = line.split_once(' ') else {
            check_result
                .token_regressions
                .push(format!("a line that no task wrote: {line:?}"));
            continue;
        };
        let token: u64 = token.parse().unwrap_or(0);
        lines += 1;
        if let Some(before) = latest.insert(task, token)
            && token < before
        {
            check_result
                .token_regressions
                .push(format!("task {task}: token {token} after {before}"));
        }
    }
    check_result.extra_runs += lines - latest.len();
    for one in acked
        .iter()
        .filter(|one| check_result.finished.contains(&one.job))
    {
        for task in &one.tasks {
            if !latest.contains_key(task.as_str()) {
                check_result.lost.push(format!(
                    "task {task} of job {} left no side effect",
                    one.job
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked() -> Acked {
        Acked {
            key: "k".to_owned(),
            body: serde_json::Value::Null,
            job: "j1-0".to_owned(),
            tasks: vec!["t1-0".to_owned()],
            sent: Instant::now(),
            acked: Instant::now(),
        }
    }

    #[tokio::test]
    async fn a_job_whose_turn_comes_after_the_time_for_reading_is_unread_and_not_unfinished() {
        // Nothing listens there.
        let masters = vec![Api::new(crate::http::client(), "http://127.0.0.1:1")];
        let now = Instant::now();
        let over = Deadlines {
            finish: now,
            read: now,
        };
        let found = check_job(masters.clone(), acked(), over).await;
        assert_eq!((found.unread.len(), found.unfinished.len()), (1, 0));
        assert!(found.summary().contains("before its turn"), "{found:?}");
        assert!(!found.is_good());

        let asked = ask(
            &masters,
            Target::Job("j1-0"),
            now + Duration::from_millis(500),
        );
        let Err(NoReply::NoMaster(last)) = asked.await else {
            panic!("nothing listens there");
        };
        assert!(last.contains("127.0.0.1:1"), "{last}");
    }
}
