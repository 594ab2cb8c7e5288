//! Generator of random commands that are often valid. They refer to jobs, tasks, workers and leases that exist,
//! existed, or never did.

mod parts;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use triarch_table::command::{
    AfterJob, CatchUp, DependencyCondition, EndLease, EndReason, Grant, NewTask, NextTick,
    OnFailure, Overlap, PutSchedule, RegisterWorker, ReportedOutcome, SetTimeBack, SubmitJob,
    TaskReport, TickAction, TickSchedule, WorkerDemand,
};
use triarch_table::plan::Demand;
use triarch_table::types::state::TaskState;
use triarch_table::{Command, JobId, Reply, Table, TaskFilter, TaskId, Token, Worker, WorkerId};

use crate::rng::Rng;
use parts::{add_dependencies, change_queue, new_task, spoil, stage_part};

const QUEUES: [&str; 3] = ["default", "mail", "gpu"];
const KINDS: [&str; 3] = ["exec", "sum", "map"];
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const SCHEDULES: [&str; 4] = ["s0", "s1", "s2", "s3"];
const ZONES: [&str; 2] = ["eu", "us"];

/// The generator, with the ids, leases and requests seen so far.
pub struct Generator {
    jobs: Vec<JobId>,
    tasks: Vec<TaskId>,
    workers: Vec<WorkerId>,
    leases: Vec<(TaskId, Token, WorkerId)>,
    requests: Vec<Command>,
    requests_made: u64,
    /// Whether every fourth worker fails nearly all its tasks, and the others nearly none.
    pub some_broken: bool,
}

impl Generator {
    pub fn new(rng: &mut Rng) -> Self {
        Self {
            some_broken: rng.one_in(2),
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
                | Reply::SchedulePut { .. }
                | Reply::Restoring { .. }
                | Reply::Restored { .. } => {}
            }
        }
    }

    pub fn command(&mut self, rng: &mut Rng, table: &Table) -> Command {
        let command = self.any_command(rng, table);
        match command {
            // Broken and healthy workers must live for a while, or their results cannot be distinguished.
            Command::LeaveWorker { .. }
            | Command::DrainWorker { .. }
            | Command::LoseWorkers { .. }
            | Command::PauseWorker { .. }
            | Command::CancelJob { .. }
            | Command::CancelTasks { .. }
            | Command::SetTimeBack(_)
                if self.some_broken && !rng.one_in(6) =>
            {
                self.report(rng, table)
            }
            other => other,
        }
    }

    fn any_command(&mut self, rng: &mut Rng, table: &Table) -> Command {
        if self.some_broken && rng.one_in(4) {
            return self.report(rng, table);
        }
        match rng.below(130) {
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
            49..52 => Command::Grant {
                grants: self.grants(rng, table),
            },
            52..54 => Command::GrantNext {
                demands: self.demand_list(rng, table),
            },
            54..60 => Command::EndLeases {
                leases: self.ended(rng, table),
            },
            60..85 => self.report(rng, table),
            85..90 => change_queue(rng),
            90..93 => Command::PauseWorker {
                worker: recent(rng, &self.workers),
            },
            93..97 => Command::ResumeWorker {
                worker: recent(rng, &self.workers),
            },
            97..99 => Command::CancelTasks {
                tasks: self.some_tasks(rng),
                include_running: rng.one_in(2),
            },
            99..102 => Command::RetryTasks {
                tasks: self.some_tasks(rng),
            },
            102..104 => Command::ForgetJobs {
                jobs: (0..4).map(|_| rng.pick(&self.jobs)).collect(),
            },
            104..115 => self.schedule(rng, table),
            115..120 => stage_part(rng),
            120 => set_time_back(rng, table),
            _ => Command::AdvanceTime,
        }
    }

    /// Returns a demand for each worker; most of them want tasks.
    pub fn demands(&mut self, rng: &mut Rng, table: &Table) -> BTreeMap<WorkerId, Demand> {
        let demand = |worker: &Worker| {
            let wanted = match rng.below(10) {
                0 | 1 => 0,
                2 => u32::MAX,
                _ => rng.below(5) as u32,
            };
            let overloaded = rng.one_in(5);
            (worker.id, Demand { wanted, overloaded })
        };
        table.workers().map(demand).collect()
    }

    fn some_tasks(&mut self, rng: &mut Rng) -> Vec<TaskId> {
        (0..1 + rng.below(8))
            .map(|_| recent(rng, &self.tasks))
            .collect()
    }

    /// Returns a command on a schedule, in most cases a tick.
    fn schedule(&mut self, rng: &mut Rng, table: &Table) -> Command {
        let name = rng.pick(&SCHEDULES).to_owned();
        let known = table.schedule(&name);
        let now_ms = table.now_ms();
        let next_tick_ms = (!rng.one_in(10)).then(|| now_ms + rng.below(200));
        let generation = known.map_or(0, |schedule| schedule.generation);
        let generation = generation - u64::from(generation > 0 && rng.one_in(12));
        match rng.below(20) {
            0..4 => Command::PutSchedule(self.put_schedule(rng, name, next_tick_ms)),
            4 => Command::DeleteSchedule { name },
            5 => Command::PauseSchedule { name },
            6..8 => Command::ResumeSchedule {
                name,
                generation,
                next_tick_ms,
            },
            8..10 => Command::TriggerSchedule {
                name,
                request_id: self.request_id(rng),
            },
            _ => {
                let due = |at_ms: u64| at_ms <= now_ms + 30;
                let due = table
                    .ticks()
                    .find(|(at_ms, _)| due(*at_ms) || rng.one_in(5));
                let (tick_ms, name, generation) = match due {
                    Some((at_ms, due)) => (at_ms, due.name.to_string(), due.generation),
                    None => (now_ms, name, generation),
                };
                let ticks = 1 + rng.below(3);
                let next_tick_ms = match rng.below(10) {
                    0 => None,
                    1 => Some(tick_ms),
                    _ => Some(tick_ms + 1 + rng.below(400)),
                };
                Command::TickSchedule(TickSchedule {
                    name,
                    generation,
                    tick_ms,
                    next_tick_ms,
                    action: if rng.one_in(6) {
                        TickAction::Miss { ticks }
                    } else {
                        TickAction::Fire
                    },
                })
            }
        }
    }

    fn put_schedule(
        &mut self,
        rng: &mut Rng,
        name: String,
        next_tick_ms: Option<u64>,
    ) -> PutSchedule {
        let mut put = PutSchedule {
            name,
            cron: rng.pick(&["* * * * *", "@hourly"]).to_owned(),
            timezone: rng.pick(&["UTC", "UTC", "Europe/Berlin"]).to_owned(),
            job: SubmitJob {
                after_jobs: Vec::new(),
                ..self.submit(rng)
            },
            job_text: Bytes::from(rng.pick(&["{}", "{\"tasks\":[]}"])),
            overlap: rng.pick(&[Overlap::Allow, Overlap::Forbid]),
            catch_up: CatchUp::One,
            paused: rng.one_in(6),
            next_tick_ms,
        };
        match rng.below(30) {
            0 => put.name = "n".repeat(171),
            1 => put.cron.clear(),
            2 => put.timezone.clear(),
            _ => {}
        }
        put
    }

    fn request_id(&mut self, rng: &mut Rng) -> Option<String> {
        self.requests_made += 1;
        (!rng.one_in(3)).then(|| format!("r{}", self.requests_made))
    }

    /// Repeats an earlier request, unchanged or with another content.
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
            add_dependencies(rng, &mut tasks);
        }
        if rng.one_in(25) {
            spoil(rng, &mut tasks);
        }
        SubmitJob {
            request_id: self.request_id(rng),
            idempotency_key: rng.one_in(3).then(|| format!("key{}", rng.below(12))),
            body_digest: [rng.below(2) as u8; 32],
            part_digests: Vec::new(),
            after_jobs: self.after_jobs(rng),
            name: rng.pick(&["", "nightly", "report"]).to_owned(),
            on_failure: if rng.one_in(3) {
                OnFailure::FailFast
            } else {
                OnFailure::Continue
            },
            tasks,
        }
    }

    /// Returns jobs that a job comes after, seldom.
    fn after_jobs(&self, rng: &mut Rng) -> Vec<AfterJob> {
        // Jobs that wait keep workers from failing often enough for a quarantine.
        if self.some_broken || !rng.one_in(6) {
            return Vec::new();
        }
        let jobs: BTreeSet<JobId> = (0..1 + rng.below(2))
            .map(|_| recent(rng, &self.jobs))
            .collect();
        let after = |job| AfterJob {
            job,
            when: rng.pick(&DependencyCondition::ALL),
        };
        jobs.into_iter().map(after).collect()
    }

    pub fn register(&mut self, rng: &mut Rng) -> RegisterWorker {
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
        // Half of the workers take tasks of every queue and kind.
        let (queues, kinds, resources) = if rng.one_in(2) {
            let all = |of: &[&str]| of.iter().map(|it| it.to_string()).collect();
            (all(&QUEUES), all(&KINDS), [("mem".into(), 9)].into())
        } else {
            (rng.subset(&QUEUES), rng.subset(&KINDS), resources)
        };
        let mut register = RegisterWorker {
            request_id: self.request_id(rng),
            name: rng.pick(&NAMES).to_owned(),
            queues,
            kinds,
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

    /// Returns grants mostly of queued tasks to one worker, which cannot take them all.
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

    /// Returns the demands of the workers, sometimes with an unknown worker or one worker twice.
    fn demand_list(&mut self, rng: &mut Rng, table: &Table) -> Vec<WorkerDemand> {
        let demands = self.demands(rng, table);
        let mut list: Vec<WorkerDemand> = demands
            .iter()
            .map(|(&worker, demand)| WorkerDemand {
                worker,
                wanted: demand.wanted,
                overloaded: demand.overloaded,
            })
            .collect();
        if rng.one_in(4) {
            list.push(WorkerDemand {
                worker: recent(rng, &self.workers),
                wanted: rng.below(3) as u32,
                overloaded: false,
            });
        }
        list
    }

    /// Returns a lease, in most cases a current one.
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
        for _ in 0..1 + rng.below(if self.some_broken { 12 } else { 4 }) {
            let Some((task, mut token, worker)) = self.lease(rng, table) else {
                continue;
            };
            if !rng.one_in(10) {
                reporter = worker;
            }
            if rng.one_in(15) {
                token.0 += rng.below(3);
            }
            let broken = worker.index() % 4 == 0;
            let roll = match self.some_broken && !rng.one_in(20) {
                true if broken => 5,
                true => 0,
                false => rng.below(10),
            };
            let outcome = match roll {
                0..5 => ReportedOutcome::Succeeded {
                    result: Bytes::from(rng.pick(&["1", "[2,3]", "null", "\"long enough\""])),
                },
                5..9 if rng.one_in(4) => ReportedOutcome::FailedRetryAfter {
                    error: Bytes::from(rng.pick(&["{}", "[4]"])),
                    retry_after_ms: rng.pick(&[0, 1, 40, 700]),
                },
                5..9 => ReportedOutcome::Failed {
                    error: Bytes::from(rng.pick(&["{}", "[4]"])),
                    retryable: !rng.one_in(4),
                },
                _ => ReportedOutcome::Returned,
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

/// Picks one of the values seen, more often one of the latest.
fn recent<T: Copy>(rng: &mut Rng, seen: &[T]) -> T {
    let last = seen.len().saturating_sub(12);
    if rng.one_in(4) {
        rng.pick(seen)
    } else {
        rng.pick(&seen[last..])
    }
}

/// Returns a command that sets the time back by up to a minute, in most cases with right ticks.
fn set_time_back(rng: &mut Rng, table: &Table) -> Command {
    let back_ms = rng.pick(&[0, 1, 300, 20_000, 60_000]);
    let to_ms = table.now_ms().saturating_sub(back_ms);
    let mut ticks = Vec::new();
    for schedule in table.schedules(None, usize::MAX).items {
        if !schedule.paused || rng.one_in(5) {
            ticks.push(NextTick {
                schedule: schedule.name.to_string(),
                generation: schedule.generation,
                next_tick_ms: (!rng.one_in(10)).then(|| to_ms + 1 + rng.below(200)),
            });
        }
    }
    if let Some(tick) = ticks.first_mut()
        && rng.one_in(6)
    {
        match rng.below(3) {
            0 => tick.generation += 1,
            1 => tick.next_tick_ms = Some(to_ms),
            _ => tick.schedule.push('x'),
        }
    }
    Command::SetTimeBack(SetTimeBack { to_ms, ticks })
}
