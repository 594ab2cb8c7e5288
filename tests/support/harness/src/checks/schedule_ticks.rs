//! A schedule that ticks every second, and the check that each tick made exactly one job.
//!
//! The expected ticks are computed from the first tick, which the cluster reports when the schedule is created, and
//! from the clock of this process. The counters of the cluster are not used.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use triarch_check::record::Op;

use crate::http::Api;
use crate::wait::eventually;

/// Maximum time for any node to answer, and for the schedule to catch up.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// Tolerance between two reads of the machine's clock.
const MAX_CLOCK_LEAD: Duration = Duration::from_secs(1);
/// Number of findings of each kind that are reported in full.
const MAX_CASES_SHOWN: usize = 10;

/// A schedule under observation.
#[derive(Debug)]
pub struct EverySecond {
    name: String,
    first: DateTime<Utc>,
}

/// Result of the check.
#[derive(Debug, Clone, Default)]
pub struct Ticks {
    /// Number of expected ticks.
    pub expected: usize,
    /// Number of jobs.
    pub jobs: usize,
    /// Ticks without a job.
    pub missing: Vec<String>,
    /// Ticks with more than one job, and jobs without a tick.
    pub doubled: Vec<String>,
    /// Longest time between a tick and the creation of its job, by the cluster's time.
    pub latest: Duration,
    /// Time by which the last tick was ahead of this process's clock. The cluster's time must not run ahead.
    pub ahead: Duration,
}

impl EverySecond {
    /// Creates the schedule by a cron expression. Each tick submits this job.
    pub async fn start(api: &Api, name: &str, job: &Value) -> Self {
        let put = json!({"cron": "* * * * * *", "catch_up": "all", "job": job});
        Self::put(api, name, &put).await
    }

    /// Creates the schedule by an interval. Each tick submits this job.
    pub async fn start_interval(api: &Api, name: &str, job: &Value) -> Self {
        let put = json!({"every_ms": 1_000, "catch_up": "all", "job": job});
        Self::put(api, name, &put).await
    }

    async fn put(api: &Api, name: &str, put: &Value) -> Self {
        let path = format!("/v1/schedules/{name}");
        let made = api.call(Method::PUT, &path).json(put).answer().await;
        Self {
            name: name.to_owned(),
            first: time(&made.expect(201)["next_tick_at"]).expect("a first tick"),
        }
    }

    /// Returns the number of ticks that have made a job, as the first node that answers reports it.
    pub async fn fired(&self, apis: &[Api]) -> u64 {
        let shown = ask(apis, &format!("/v1/schedules/{}", self.name)).await;
        shown["fired"].as_u64().expect("a number")
    }

    /// Waits until all ticks up to this moment are over, pauses the schedule, and checks every job.
    pub async fn end(self, apis: &[Api]) -> Ticks {
        let path = format!("/v1/schedules/{}", self.name);
        let now = Utc::now();
        let what = format!("the ticks of {} are dealt with up to {now}", self.name);
        eventually(WAIT_TIMEOUT, what, async || {
            let shown = ask(apis, &path).await;
            time(&shown["last_tick_at"]).filter(|last| *last >= now - TimeDelta::seconds(1))
        })
        .await;
        let pause = format!("{path}/pause");
        let paused = eventually(WAIT_TIMEOUT, "the schedule is paused", async || {
            for api in apis {
                match api.call(Method::POST, &pause).send().await {
                    Ok(reply) if reply.status == 200 => return Some(reply.json()),
                    Ok(_) | Err(_) => {}
                }
            }
            None
        })
        .await;
        let last = time(&paused["last_tick_at"]).expect("it has ticked");
        let mut ticks = Ticks {
            ahead: (last - Utc::now()).to_std().unwrap_or_default(),
            ..Ticks::default()
        };
        let mut made = self.jobs(apis, &mut ticks).await;
        let recorder = apis[0]
            .history_writer()
            .map(|history_writer| history_writer.recorder());
        let mut tick = self.first;
        while tick <= last {
            ticks.expected += 1;
            let shown = rfc3339(tick);
            if let Some(recorder) = recorder {
                let (schedule, at) = (self.name.clone(), shown.clone());
                recorder.note("ticks", Op::Due { schedule, at });
            }
            match made.remove(&shown) {
                Some(1) => {}
                Some(count) => ticks.doubled.push(format!("{shown}: {count} jobs")),
                None => ticks.missing.push(shown),
            }
            tick += TimeDelta::seconds(1);
        }
        let others = made.into_keys();
        let others = others.map(|tick| format!("{tick}: there is no such tick"));
        ticks.doubled.extend(others);
        ticks
    }

    /// Returns the number of jobs for each tick, by the keys of all jobs.
    async fn jobs(&self, apis: &[Api], ticks: &mut Ticks) -> BTreeMap<String, usize> {
        let mut made: BTreeMap<String, usize> = BTreeMap::new();
        let mut after = String::new();
        let prefix = format!("schedule:{}:", self.name);
        loop {
            let page = ask(apis, &format!("/v1/jobs?limit=1000{after}")).await;
            for job in page["jobs"].as_array().expect("a list") {
                let key = job["idempotency_key"].as_str().unwrap_or_default();
                let Some(tick) = key.strip_prefix(&prefix) else {
                    continue;
                };
                ticks.jobs += 1;
                if let Some(history_writer) = apis[0].history_writer() {
                    let op = Op::Tick {
                        schedule: self.name.clone(),
                        at: tick.to_owned(),
                        job: job["id"].as_str().unwrap_or_default().to_owned(),
                    };
                    history_writer.recorder().note("ticks", op);
                }
                *made.entry(tick.to_owned()).or_default() += 1;
                let due = tick.parse::<DateTime<Utc>>().ok();
                let late = time(&job["created_at"])
                    .zip(due)
                    .map(|(made, due)| made - due);
                let late = late.and_then(|late| late.to_std().ok()).unwrap_or_default();
                ticks.latest = ticks.latest.max(late);
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return made,
            }
        }
    }
}

impl Ticks {
    /// Returns whether there is exactly one job for each tick, and no tick was early.
    pub fn is_good(&self) -> bool {
        self.missing.is_empty()
            && self.doubled.is_empty()
            && self.jobs == self.expected
            && self.ahead <= MAX_CLOCK_LEAD
    }

    /// Returns one line per finding.
    pub fn summary(&self) -> String {
        let mut lines = vec![
            format!(
                "ticks expected {}, jobs made {}, missing {}, doubled {}",
                self.expected,
                self.jobs,
                self.missing.len(),
                self.doubled.len()
            ),
            format!(
                "the latest job was made {} ms after its tick; the last tick was {} ms ahead of time",
                self.latest.as_millis(),
                self.ahead.as_millis()
            ),
        ];
        for (what, cases) in [("MISSING", &self.missing), ("DOUBLED", &self.doubled)] {
            let shown = cases.iter().take(MAX_CASES_SHOWN);
            lines.extend(shown.map(|case| format!("{what} {case}")));
        }
        lines.join("\n")
    }

    /// Panics unless there is exactly one job for each tick.
    #[track_caller]
    pub fn assert_good(&self) {
        assert!(self.is_good(), "{}", self.summary());
    }
}

/// Returns the answer of the first node that answers this request.
async fn ask(apis: &[Api], path: &str) -> Value {
    eventually(
        WAIT_TIMEOUT,
        format!("a master answers {path}"),
        async || {
            for api in apis {
                match api.call(Method::GET, path).send().await {
                    Ok(reply) if reply.status == 200 => return Some(reply.json()),
                    Ok(_) | Err(_) => {}
                }
            }
            None
        },
    )
    .await
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str()?.parse().ok()
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
