//! The checker: of everything that was acknowledged, is it there, did it finish, and was exactly one result accepted?

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::history::{self, Read};
use crate::http::{Api, Reply};
use crate::load::Acked;

/// Jobs that are looked at at once.
const AT_ONCE: usize = 16;
/// How long one look holds for a job to finish.
const HOLD_MS: u64 = 10_000;
/// Of each kind of trouble, so many cases are told in full.
const TOLD_MAX: usize = 10;

/// What the checker found.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Jobs that were acknowledged.
    pub jobs: usize,
    /// Their tasks.
    pub tasks: usize,
    /// Acknowledged jobs or tasks that are not there, or came to another end than success.
    pub lost: Vec<String>,
    /// Tasks with more than one accepted result.
    pub twice: Vec<String>,
    /// Jobs that did not finish by the deadline.
    pub unfinished: Vec<String>,
    /// The ids of those that did.
    finished: BTreeSet<String>,
    /// Tasks whose side effects show a token after a higher one.
    pub backwards: Vec<String>,
    /// Attempts that ended otherwise than by an accepted result, by outcome.
    pub other_ends: BTreeMap<String, usize>,
    /// Runs seen by side effects beyond one for each task: work that a failure made double.
    pub extra_runs: usize,
    /// What the checker of histories says of everything that was asked and answered, and in words.
    pub history: Option<(triarch_check::Verdict, String)>,
}

impl Verdict {
    /// Whether every promise was kept.
    pub fn is_good(&self) -> bool {
        [&self.lost, &self.twice, &self.unfinished, &self.backwards]
            .iter()
            .all(|cases| cases.is_empty())
            && self
                .history
                .as_ref()
                .is_none_or(|(verdict, _)| verdict.is_kept())
    }

    /// One line per finding.
    pub fn tell(&self) -> String {
        let mut lines = vec![format!(
            "jobs acknowledged {}, tasks {}, lost {}, accepted twice {}, unfinished {}, tokens that went back {}, \
             runs beyond the first {}",
            self.jobs,
            self.tasks,
            self.lost.len(),
            self.twice.len(),
            self.unfinished.len(),
            self.backwards.len(),
            self.extra_runs,
        )];
        if !self.other_ends.is_empty() {
            let ends: Vec<String> = self
                .other_ends
                .iter()
                .map(|(end, count)| format!("{count} {end}"))
                .collect();
            lines.push(format!(
                "attempts that ended otherwise: {}",
                ends.join(", ")
            ));
        }
        for (what, cases) in [
            ("LOST", &self.lost),
            ("TWICE", &self.twice),
            ("UNFINISHED", &self.unfinished),
            ("BACKWARDS", &self.backwards),
        ] {
            lines.extend(
                cases
                    .iter()
                    .take(TOLD_MAX)
                    .map(|case| format!("{what} {case}")),
            );
        }
        if let Some((_, told)) = &self.history {
            lines.extend(told.lines().map(|line| format!("history: {line}")));
        }
        lines.join("\n")
    }

    /// Panics unless every promise was kept.
    #[track_caller]
    pub fn assert_good(&self) {
        assert!(self.is_good(), "{}", self.tell());
    }

    fn add(&mut self, other: Verdict) {
        self.jobs += other.jobs;
        self.tasks += other.tasks;
        self.lost.extend(other.lost);
        self.twice.extend(other.twice);
        self.unfinished.extend(other.unfinished);
        self.finished.extend(other.finished);
        for (end, count) in other.other_ends {
            *self.other_ends.entry(end).or_default() += count;
        }
    }
}

/// Waits for every acknowledged job to finish and judges it. The answers are linearizable reads at any master.
pub async fn check(masters: &[Api], acked: &[Acked], deadline: Duration) -> Verdict {
    let until = Instant::now() + deadline;
    let mut verdict = Verdict::default();
    let mut looks = tokio::task::JoinSet::new();
    for (nth, one) in acked.iter().enumerate() {
        if looks.len() == AT_ONCE {
            let done: Verdict = looks
                .join_next()
                .await
                .expect("not empty")
                .expect("a look does not panic");
            verdict.add(done);
        }
        let mut masters = masters.to_vec();
        let first = nth % masters.len();
        masters.rotate_left(first);
        looks.spawn(judge(masters, one.clone(), until));
    }
    while let Some(done) = looks.join_next().await {
        verdict.add(done.expect("a look does not panic"));
    }
    verdict
}

async fn judge(masters: Vec<Api>, acked: Acked, until: Instant) -> Verdict {
    let mut verdict = Verdict {
        jobs: 1,
        tasks: acked.tasks.len(),
        ..Verdict::default()
    };
    let named = format!("job {} (key {})", acked.job, acked.key);
    loop {
        let Some(reply) = ask(&masters, Look::Job(&acked.job), until).await else {
            verdict
                .unfinished
                .push(format!("{named}: no master answers"));
            return verdict;
        };
        match (reply.status, reply.json()["state"].as_str()) {
            (200, Some("succeeded")) => {
                verdict.finished.insert(acked.job.clone());
                break;
            }
            (200, Some("running")) if Instant::now() < until => {}
            (200, Some("running")) => {
                verdict.unfinished.push(format!("{named}: {}", reply.text));
                return verdict;
            }
            (_, _) => {
                verdict.lost.push(format!("{named}: {}", reply.text));
                return verdict;
            }
        }
    }
    for id in &acked.tasks {
        let Some(reply) = ask(&masters, Look::Task(id), until).await else {
            verdict
                .unfinished
                .push(format!("{named}: no master answers for task {id}"));
            return verdict;
        };
        let task = reply.json();
        if reply.status != 200 || task["state"] != "succeeded" || task["job"] != acked.job.as_str()
        {
            verdict
                .lost
                .push(format!("task {id} of {named}: {}", reply.text));
            continue;
        }
        let ends: Vec<&str> = task["attempts"]
            .as_array()
            .map(|attempts| {
                attempts
                    .iter()
                    .filter_map(|attempt| attempt["outcome"].as_str())
                    .collect()
            })
            .unwrap_or_default();
        match ends.iter().filter(|end| **end == "succeeded").count() {
            1 => {}
            0 => verdict.lost.push(format!(
                "task {id} of {named}: no accepted attempt: {}",
                reply.text
            )),
            _ => verdict
                .twice
                .push(format!("task {id} of {named}: {}", reply.text)),
        }
        for end in ends.iter().filter(|end| **end != "succeeded") {
            *verdict.other_ends.entry((*end).to_owned()).or_default() += 1;
        }
    }
    verdict
}

/// What is looked at; a job until it has ended.
#[derive(Clone, Copy)]
enum Look<'a> {
    Job(&'a str),
    Task(&'a str),
}

async fn ask(masters: &[Api], look: Look<'_>, until: Instant) -> Option<Reply> {
    let mut nth = 0;
    while Instant::now() < until + Duration::from_secs(5) {
        let api = &masters[nth % masters.len()];
        let reply = match look {
            Look::Job(id) => history::read_job("judge", api, id, &Read::held(HOLD_MS)).await,
            Look::Task(id) => history::read_task("judge", api, id, &Read::default()).await,
        };
        if let Ok(reply) = reply
            && !matches!(reply.status, 429 | 503 | 504 | 507)
        {
            return Some(reply);
        }
        nth += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// A shell command for tasks whose side effect can be checked: one line to `sink` with the task and its token.
pub fn sink_script(sink: &Path) -> String {
    format!(
        "echo \"$TRIARCH_TASK $TRIARCH_TOKEN\" >> '{}'",
        sink.display()
    )
}

/// Reads the side effects back: every task of the jobs that finished left at least one line, and no task's token went
/// back.
pub fn check_sink(verdict: &mut Verdict, sink: &Path, acked: &[Acked]) {
    let text = std::fs::read_to_string(sink).unwrap_or_default();
    let mut latest: BTreeMap<&str, u64> = BTreeMap::new();
    let mut lines = 0;
    for line in text.lines() {
        let Some((task, token)) = line.split_once(' ') else {
            verdict
                .backwards
                .push(format!("a line that no task wrote: {line:?}"));
            continue;
        };
        let token: u64 = token.parse().unwrap_or(0);
        lines += 1;
        if let Some(before) = latest.insert(task, token)
            && token < before
        {
            verdict
                .backwards
                .push(format!("task {task}: token {token} after {before}"));
        }
    }
    verdict.extra_runs += lines - latest.len();
    for one in acked
        .iter()
        .filter(|one| verdict.finished.contains(&one.job))
    {
        for task in &one.tasks {
            if !latest.contains_key(task.as_str()) {
                verdict.lost.push(format!(
                    "task {task} of job {} left no side effect",
                    one.job
                ));
            }
        }
    }
}
