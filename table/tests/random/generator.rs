//! Makes commands that make sense often enough: about jobs, tasks, workers and leases that exist, existed, or never did.

use std::collections::BTreeMap;

use bytes::Bytes;
use triarch_table::command::{
    Backoff, Concurrency, EndLease, EndReason, Grant, NewTask, OnDuplicate, OnFailure, Outcome,
    QueueChange, RegisterWorker, Requires, SubmitJob, TaskReport, Unique,
};
use triarch_table::model::TaskState;
use triarch_table::plan::Asking;
use triarch_table::queue::{Placement, Rate};
use triarch_table::{Command, JobId, Reply, Table, TaskFilter, TaskId, Token, Worker, WorkerId};

use crate::rng::Rng;

const QUEUES: [&str; 3] = ["default", "mail", "gpu"];
const KINDS: [&str; 3] = ["exec", "sum", "map"];
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const ZONES: [&str; 2] = ["eu", "us"];

/// What was seen so far.
pub struct Generator {
    jobs: Vec<JobId>,
    tasks: Vec<TaskId>,
    workers: Vec<WorkerId>,
    leases: Vec<(TaskId, Token, WorkerId)>,
    requests: Vec<Command>,
    requests_made: u64,
}

impl Generator {
    pub fn new() -> Self {
        Self {
            jobs: vec![JobId::at(7, 7)],
            tasks: vec![TaskId::at(7, 7)],
            workers: vec![WorkerId::at(7, 7)],
            leases: Vec::new(),
            requests: Vec::new(),
            requests_made: 0,
        }
    }

    pub fn learn(&mut self, commands: &[Command], replies: &[Reply]) {
        for (command, reply) in commands.iter().zip(replies) {
            match reply {
                Reply::Submitted {
                    job,
                    tasks,
                    duplicate: false,
                } => {
                    self.jobs.push(*job);
                    self.tasks.extend(tasks);
                    self.requests.push(command.clone());
                }
                Reply::Registered { worker } => {
                    self.workers.push(*worker);
                    self.requests.push(command.clone());
                }
                Reply::Granted { leases } => {
                    self.leases.extend(
                        leases
                            .iter()
                            .map(|lease| (lease.task, lease.token, lease.worker)),
                    );
                }
                Reply::Staged { .. } | Reply::Done { .. } => {
                    if matches!(command, Command::RetryTask { .. }) {
                        self.requests.push(command.clone());
                    }
                }
                Reply::Submitted { .. }
                | Reply::Reported { .. }
                | Reply::Refused(_)
                | Reply::SchedulePut { .. } => {}
            }
        }
    }

    pub fn command(&mut self, rng: &mut Rng, table: &Table) -> Command {
        match rng.below(100) {
            0..18 => Command::SubmitJob(self.submit(rng)),
            18..22 => self.repeated(rng),
            22..24 => Command::CancelJob {
                job: recent(rng, &self.jobs),
            },
            24..29 => Command::CancelTask {
                task: recent(rng, &self.tasks),
            },
            29..35 => Command::RetryTask {
                task: recent(rng, &self.tasks),
                request_id: self.request_id(rng),
            },
            35..42 => Command::RegisterWorker(self.register(rng)),
            42..44 => Command::LeaveWorker {
                worker: recent(rng, &self.workers),
            },
            44..46 => Command::DrainWorker {
                worker: recent(rng, &self.workers),
            },
            46..49 => Command::LoseWorkers {
                workers: (0..1 + rng.below(2))
                    .map(|_| recent(rng, &self.workers))
                    .collect(),
            },
            49..54 => Command::Grant {
                grants: self.grants(rng, table),
            },
            54..60 => Command::EndLeases {
                leases: self.ended(rng, table),
            },
            60..85 => self.report(rng, table),
            85..90 => change_queue(rng),
            _ => Command::AdvanceTime,
        }
    }

    /// What each worker asks for; most ask for something.
    pub fn demands(&mut self, rng: &mut Rng, table: &Table) -> BTreeMap<WorkerId, Asking> {
        let demand = |worker: &Worker| {
            let wanted = match rng.below(10) {
                0 | 1 => 0,
                2 => u32::MAX,
                _ => rng.below(5) as u32,
            };
            let overloaded = rng.one_in(5);
            (worker.id, Asking { wanted, overloaded })
        };
        table.workers().map(demand).collect()
    }

    fn request_id(&mut self, rng: &mut Rng) -> Option<String> {
        self.requests_made += 1;
        (!rng.one_in(3)).then(|| format!("r{}", self.requests_made))
    }

    /// A request made before, as it was or with something else in it.
    fn repeated(&mut self, rng: &mut Rng) -> Command {
        let Some(mut command) = rng.pick_some(&self.requests) else {
            return Command::AdvanceTime;
        };
        match &mut command {
            Command::SubmitJob(submit) => {
                if rng.one_in(4) {
                    submit.body_digest[0] ^= 1;
                }
                if rng.one_in(3) {
                    submit.request_id = None;
                }
            }
            Command::RegisterWorker(register) if rng.one_in(4) => {
                register.name = rng.pick(&NAMES).to_string()
            }
            Command::RetryTask { task, .. } if rng.one_in(4) => *task = rng.pick(&self.tasks),
            _ => {}
        }
        command
    }

    fn submit(&mut self, rng: &mut Rng) -> SubmitJob {
        let count = rng.pick(&[1, 1, 1, 2, 3, 8, 12]);
        let mut tasks: Vec<NewTask> = Vec::new();
        for _ in 0..count {
            let alike = tasks.last().filter(|_| rng.one_in(2)).cloned();
            let task = alike.unwrap_or_else(|| new_task(rng));
            tasks.push(task);
        }
        for (at, task) in tasks.iter_mut().enumerate() {
            task.key = rng.one_in(2).then(|| format!("k{at}"));
        }
        if count > 1 && rng.one_in(2) {
            hang_together(rng, &mut tasks);
        }
        if rng.one_in(25) {
            spoil(rng, &mut tasks);
        }
        SubmitJob {
            request_id: self.request_id(rng),
            idempotency_key: rng.one_in(3).then(|| format!("key{}", rng.below(12))),
            body_digest: [rng.below(2) as u8; 32],
            part_digests: Vec::new(),
            name: rng.pick(&["", "nightly", "report"]).to_owned(),
            on_failure: if rng.one_in(3) {
                OnFailure::FailFast
            } else {
                OnFailure::Continue
            },
            tasks,
        }
    }

    fn register(&mut self, rng: &mut Rng) -> RegisterWorker {
        let labels = if rng.one_in(2) {
            BTreeMap::new()
        } else {
            [("zone".into(), rng.pick(&ZONES).into())].into()
        };
        let resources = if rng.one_in(3) {
            BTreeMap::new()
        } else {
            [("mem".into(), rng.below(5))].into()
        };
        let mut register = RegisterWorker {
            request_id: self.request_id(rng),
            name: rng.pick(&NAMES).to_owned(),
            queues: rng.subset(&QUEUES),
            kinds: rng.subset(&KINDS),
            slots: rng.pick(&[1, 2, 4, 8]),
            labels,
            resources,
        };
        if rng.one_in(20) {
            match rng.below(3) {
                0 => register.slots = 0,
                1 => register.kinds.clear(),
                _ => register.name = "n".repeat(201),
            }
        }
        register
    }

    /// Mostly of queued tasks, all to one worker: it cannot take them all.
    fn grants(&mut self, rng: &mut Rng, table: &Table) -> Vec<Grant> {
        let known: Vec<WorkerId> = table.workers().map(|worker| worker.id).collect();
        let filter = TaskFilter {
            state: Some(TaskState::Queued),
            ..TaskFilter::default()
        };
        let queued: Vec<TaskId> = table
            .tasks(&filter, None, 100)
            .items
            .iter()
            .map(|task| task.id)
            .collect();
        let worker = rng.pick_some(&known).unwrap_or(self.workers[0]);
        let grant = |_| Grant {
            task: rng
                .pick_some(&queued)
                .filter(|_| !rng.one_in(4))
                .unwrap_or_else(|| recent(rng, &self.tasks)),
            worker: rng
                .pick_some(&known)
                .filter(|_| rng.one_in(6))
                .unwrap_or(worker),
        };
        (0..8).map(grant).collect()
    }

    /// A lease, mostly one that is held.
    fn lease(&mut self, rng: &mut Rng, table: &Table) -> Option<(TaskId, Token, WorkerId)> {
        if rng.one_in(5) {
            return rng.pick_some(&self.leases);
        }
        let held: Vec<_> = table
            .leases()
            .map(|lease| (lease.task, lease.token, lease.worker))
            .collect();
        rng.pick_some(&held)
    }

    fn ended(&mut self, rng: &mut Rng, table: &Table) -> Vec<EndLease> {
        let count = 1 + rng.below(3);
        let leases =
            (0..count).filter_map(|_| self.lease(rng, table).map(|lease| (lease, rng.below(3))));
        let leases = leases.map(|((task, token, _), reason)| {
            let reason =
                [EndReason::Expired, EndReason::Returned, EndReason::TimedOut][reason as usize];
            EndLease {
                task,
                token,
                reason,
            }
        });
        leases.collect()
    }

    fn report(&mut self, rng: &mut Rng, table: &Table) -> Command {
        let mut reporter = recent(rng, &self.workers);
        let mut results = Vec::new();
        for _ in 0..1 + rng.below(4) {
            let Some((task, mut token, worker)) = self.lease(rng, table) else {
                continue;
            };
            if !rng.one_in(10) {
                reporter = worker;
            }
            if rng.one_in(15) {
                token.0 += rng.below(3);
            }
            let outcome = match rng.below(10) {
                0..5 => Outcome::Succeeded {
                    result: Bytes::from(rng.pick(&["1", "[2,3]", "null", "\"long enough\""])),
                },
                5..9 => Outcome::Failed {
                    error: Bytes::from(rng.pick(&["{}", "[4]"])),
                    retryable: !rng.one_in(4),
                },
                _ => Outcome::Returned,
            };
            let task = if rng.one_in(30) {
                rng.pick(&self.tasks)
            } else {
                task
            };
            results.push(TaskReport {
                task,
                token,
                outcome,
            });
        }
        Command::Report {
            worker: reporter,
            results,
        }
    }
}

/// One of those seen, more often of the last ones.
fn recent<T: Copy>(rng: &mut Rng, seen: &[T]) -> T {
    let last = seen.len().saturating_sub(12);
    if rng.one_in(4) {
        rng.pick(seen)
    } else {
        rng.pick(&seen[last..])
    }
}

fn new_task(rng: &mut Rng) -> NewTask {
    let labels = if rng.one_in(4) {
        [("zone".into(), rng.pick(&ZONES).into())].into()
    } else {
        BTreeMap::new()
    };
    let resources = if rng.one_in(3) {
        [("mem".into(), rng.below(4))].into()
    } else {
        BTreeMap::new()
    };
    NewTask {
        key: None,
        kind: rng.pick(&KINDS).to_owned(),
        payload: Bytes::from(rng.pick(&["{}", "[1,2,3]", ""])),
        queue: rng.pick(&QUEUES).to_owned(),
        priority: rng.pick(&[0, 0, 0, 5, 9]),
        not_before_ms: rng.one_in(8).then(|| 1_000_000 + rng.below(20_000)),
        delay_ms: if rng.one_in(4) {
            rng.pick(&[10, 300, 800])
        } else {
            0
        },
        expires_ms: rng.one_in(4).then(|| rng.pick(&[0, 10, 300, 1_500])),
        timeout_ms: rng.one_in(3).then(|| 1 + rng.below(500)),
        max_attempts: 1 + rng.below(3) as u32,
        max_losses: 1 + rng.below(3) as u32,
        backoff: Backoff {
            initial_ms: rng.pick(&[0, 10, 300]),
            factor_milli: rng.pick(&[1_000, 1_500, 2_000]),
            max_ms: rng.pick(&[5, 1_000]),
            jitter_permille: 0,
        },
        requires: Requires { labels, resources },
        tags: if rng.one_in(4) {
            vec!["x".to_owned()]
        } else {
            Vec::new()
        },
        after: Vec::new(),
        unique: rng.one_in(8).then(|| Unique {
            key: format!("u{}", rng.below(6)),
            on_duplicate: rng.pick(&[OnDuplicate::Refuse, OnDuplicate::Return]),
        }),
        concurrency: rng.one_in(5).then(|| Concurrency {
            key: rng.pick(&["c0", "c1", "c2"]).into(),
            limit: 1 + rng.below(3) as u32,
        }),
    }
}

/// Lets tasks come after others: mostly after earlier ones, in no order when it may go wrong.
fn hang_together(rng: &mut Rng, tasks: &mut [NewTask]) {
    for (at, task) in tasks.iter_mut().enumerate() {
        task.key = Some(format!("k{at}"));
    }
    let may_go_wrong = rng.one_in(12);
    for at in 0..tasks.len() {
        let most = rng.pick(&[0, 1, 1, 2, 4]);
        let before = if may_go_wrong { tasks.len() } else { at };
        let mut after: Vec<String> = (0..most.min(before))
            .map(|_| format!("k{}", rng.below(before as u64)))
            .collect();
        if !may_go_wrong {
            after.sort();
            after.dedup();
        } else if rng.one_in(10) {
            after.push("nobody".to_owned());
        }
        tasks[at].after = after;
    }
    // In whatever order they are written down.
    if rng.one_in(3) {
        tasks.reverse();
    }
}

fn change_queue(rng: &mut Rng) -> Command {
    let mut change = QueueChange::default();
    for _ in 0..1 + rng.below(2) {
        match rng.below(9) {
            // More often let on than stopped, so that things go on.
            0 | 1 => change.paused = Some(rng.one_in(3)),
            2 => change.max_running = Some(rng.pick(&[None, None, Some(0), Some(1), Some(3)])),
            3 => {
                let per_s_milli = rng.pick(&[333, 2_000, 10_000, 700_000]);
                let burst = rng.pick(&[1, 1, 2, 5]);
                let rate = Rate { per_s_milli, burst };
                change.rate = Some((!rng.one_in(3)).then_some(rate));
            }
            4 => change.max_depth = Some(rng.pick(&[None, None, Some(5), Some(20)])),
            5 => change.weight = Some(rng.pick(&[1, 2, 3, 10])),
            6 => change.placement = Some(rng.pick(&[Placement::Spread, Placement::Pack])),
            7 => change.retain_ms = Some(rng.pick(&[None, Some(0), Some(400), Some(3_000)])),
            _ => change.retain_jobs = Some(rng.pick(&[None, Some(0), Some(2)])),
        }
    }
    let mut queue = rng.pick(&QUEUES).to_owned();
    match rng.below(40) {
        0 => queue.clear(),
        1 => change.weight = Some(0),
        2 => {
            change.rate = Some(Some(Rate {
                per_s_milli: 0,
                burst: 1,
            }))
        }
        3 => {
            change.rate = Some(Some(Rate {
                per_s_milli: 1_000,
                burst: 0,
            }))
        }
        4..8 => queue = rng.pick(&["spare0", "spare1", "spare2"]).to_owned(),
        _ => {}
    }
    Command::ChangeQueue { queue, change }
}

/// Breaks a rule of shape.
fn spoil(rng: &mut Rng, tasks: &mut Vec<NewTask>) {
    let at = rng.below(tasks.len() as u64) as usize;
    let task = &mut tasks[at];
    match rng.below(13) {
        0 => task.priority = 10,
        1 => task.kind.clear(),
        2 => task.queue = "q".repeat(201),
        3 => task.max_attempts = 0,
        4 => task.max_losses = 0,
        5 => task.backoff.factor_milli = 999,
        6 => task.backoff.jitter_permille = 1_001,
        7 => tasks.clear(),
        8 => task.timeout_ms = Some(0),
        9 => task.after = vec![String::new()],
        10 => {
            task.unique = Some(Unique {
                key: String::new(),
                on_duplicate: OnDuplicate::Return,
            });
        }
        11 => {
            task.concurrency = Some(Concurrency {
                key: "c0".into(),
                limit: 0,
            });
        }
        _ => {
            let mut twin = tasks[at].clone();
            twin.key = Some("same".to_owned());
            tasks[at].key = Some("same".to_owned());
            tasks.push(twin);
        }
    }
}
