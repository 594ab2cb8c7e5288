//! Random commands against a simple model. The table keeps indexes and pages; the model keeps lists and searches them.
//!
//! After every entry the two must agree on every reply and every task, job and worker. The events must lead to the same
//! state, and the table's own invariants must hold. A second replica applies the log, too. At random points it is
//! replaced by one that is read from a snapshot. At the end the whole log is replayed.
//!
//! A failure prints the command that replays it. `TRIARCH_TABLE_CASES` and `TRIARCH_TABLE_COMMANDS` make a longer run,
//! `TRIARCH_TABLE_SEED` another one, or with one case exactly that one.

mod coverage;
mod event_checker;
mod generator;
mod model;
mod rng;

use std::collections::VecDeque;
use std::fmt::Debug;

use bytes::Bytes;

use triarch_table::command::codec::{decode_command, encode_command};
use triarch_table::command::reply::Refusal;
use triarch_table::command::{RegisterWorker, RestorePart};
use triarch_table::plan::propose_with;
use triarch_table::types::state::TaskState;
use triarch_table::{Command, Event, Frozen, Limits, Reply, Stamp, Table, TaskFilter, TaskId};

use coverage::Coverage;
use event_checker::EventChecker;
use generator::Generator;
use model::Model;
use rng::Rng;

const SEED: u64 = 0x7472_6961_7263_6801;
const CASES: u64 = 40;
const COMMANDS: u64 = 400;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => default,
    }
}

#[test]
fn random_commands_agree_with_the_model() {
    let commands = setting("TRIARCH_TABLE_COMMANDS", COMMANDS);
    let first = setting("TRIARCH_TABLE_SEED", SEED);
    let cases = setting("TRIARCH_TABLE_CASES", CASES);
    let mut coverage = Coverage::default();
    for seed in first..first + cases {
        let mut case = Case::new(seed, commands);
        case.run();
        coverage.add(&case.coverage);
    }
    let counts = coverage.counts();
    for (what, count) in &counts {
        println!("met {count} {what}");
    }
    if cases >= CASES && commands >= COMMANDS {
        let missed: Vec<_> = counts.iter().filter(|(_, count)| **count == 0).collect();
        assert!(missed.is_empty(), "the run never met {missed:?}");
    }
}

/// Returns bounds small enough to be reached in a run.
fn limits(rng: &mut Rng) -> Limits {
    Limits {
        tasks_per_job_max: 12,
        dependencies_per_job_max: rng.pick(&[6, 100]),
        inputs_bytes_max: rng.pick(&[8, 10_000]),
        schedules_max: rng.pick(&[2, 100]),
        schedules_bytes_max: rng.pick(&[3_000, 100_000]),
        staged_jobs_max: rng.pick(&[1, 100]),
        staged_bytes_max: rng.pick(&[20, 100_000]),
        staged_age_ms: rng.pick(&[500, 100_000]),
        queues_max: rng.pick(&[3, 100]),
        tasks_max: rng.pick(&[40, 150, 400]),
        bytes_max: rng.pick(&[300, 100_000]),
        queue_depth_max: rng.pick(&[8, 30, 1_000]),
        classes_per_queue_max: rng.pick(&[3, 100]),
        workers_max: rng.pick(&[3, 20]),
        attempts_kept_max: rng.pick(&[1, 3, 16]),
        advance_steps_max: rng.pick(&[1, 7, 4_096]),
        requests_max: rng.pick(&[4, 1_000]),
        requests_age_ms: rng.pick(&[500, 100_000]),
        keys_max: rng.pick(&[2, 1_000]),
        keys_age_ms: rng.pick(&[1_000, 100_000]),
        finished_jobs_max: rng.pick(&[3, 20, 1_000]),
        finished_tasks_max: rng.pick(&[10, 1_000]),
        finished_bytes_max: rng.pick(&[100, 100_000]),
        finished_age_ms: rng.pick(&[2_000, 1_000_000]),
        gone_workers_max: rng.pick(&[1, 3, 100]),
        gone_workers_age_ms: rng.pick(&[500, 1_000_000]),
        ..Limits::default()
    }
}

/// One run: a table, the model it is compared with, and the log that led to it.
struct Case {
    seed: u64,
    commands: u64,
    rng: Rng,
    limits: Limits,
    table: Table,
    model: Model,
    event_checker: EventChecker,
    generator: Generator,
    stamp: Stamp,
    log: Vec<(Stamp, Vec<Vec<u8>>)>,
    outputs: Vec<(Vec<Reply>, Vec<Event>)>,
    /// Another replica, which applies the log.
    twin: Table,
    frozen: Option<(Frozen, Vec<u8>)>,
    recent: VecDeque<String>,
    coverage: Coverage,
}

impl Case {
    fn new(seed: u64, commands: u64) -> Self {
        let mut rng = Rng::new(seed);
        let limits = limits(&mut rng);
        Self {
            seed,
            commands,
            table: Table::new(limits.clone()),
            model: Model::new(limits.clone()),
            event_checker: EventChecker::default(),
            generator: Generator::new(&mut rng),
            stamp: Stamp {
                index: 0,
                now_ms: 1_000_000,
            },
            log: Vec::new(),
            outputs: Vec::new(),
            twin: Table::new(limits.clone()),
            frozen: None,
            recent: VecDeque::new(),
            coverage: Coverage::default(),
            rng,
            limits,
        }
    }

    fn run(&mut self) {
        let mut left = self.commands;
        while left > 0 {
            let size = 1 + self.rng.below(4).min(left - 1);
            left -= size;
            let commands = self.next_commands(size as usize);
            self.apply(commands);
            self.plan();
            if self.rng.one_in(20) {
                self.freeze();
            }
            if self.rng.one_in(40) {
                self.twin = self.written_and_read();
                self.coverage.met("replica read from a snapshot");
            }
            if self.stamp.index.is_multiple_of(80) {
                self.restore_elsewhere();
                self.coverage.met("backup restored elsewhere");
            }
        }
        self.freeze();
        self.replay();
    }

    fn next_commands(&mut self, size: usize) -> Vec<Command> {
        (0..size)
            .map(|_| self.generator.command(&mut self.rng, &self.table))
            .collect()
    }

    /// Advances the stamp: mostly by a little, sometimes backwards, sometimes to the next timer.
    fn next_stamp(&mut self) -> Stamp {
        self.stamp.index += 1 + self.rng.below(3);
        let now_ms = self.stamp.now_ms;
        self.stamp.now_ms = match self.rng.below(10) {
            0 => now_ms.saturating_sub(self.rng.below(200)),
            1 => self
                .table
                .next_timer_ms()
                .unwrap_or(0)
                .max(now_ms)
                .min(now_ms + 200_000),
            2 => now_ms + self.rng.below(1_500),
            3 if self.rng.one_in(6) => now_ms + 30_000,
            _ => now_ms + self.rng.below(50),
        };
        self.stamp
    }

    fn apply(&mut self, commands: Vec<Command>) -> Vec<Reply> {
        let stamp = self.next_stamp();
        let line = format!("{stamp:?} {commands:?}");
        self.recent.push_back(line);
        if self.recent.len() > 8 {
            self.recent.pop_front();
        }
        let retries = commands.iter().any(|command| {
            matches!(
                command,
                Command::RetryTask { .. } | Command::RetryTasks { .. }
            )
        });
        let mut events = Vec::new();
        let kept_before = (self.table.jobs_len(), self.table.workers().count());
        let replies = self.table.apply(stamp, commands.clone(), &mut events);
        self.table.check_invariants();
        let expected = self.model.apply(stamp, &commands);
        let plain = commands.iter().zip(&replies).zip(&expected);
        let plain = plain.map(|((command, reply), expected)| self.plain(command, reply, expected));
        self.agree("replies", &plain.collect(), &expected);
        self.model.agrees_with(&self.table);
        self.event_checker.check(&events, &self.table, retries);
        if let Some(task) = self.rng.pick_some(&self.model.task_ids()) {
            self.model.explains_as(&self.table, task);
        }
        self.generator.learn(&commands, &replies);
        self.note(&commands, &replies, &events, kept_before);
        let encoded: Vec<Vec<u8>> = commands.iter().map(encode_command).collect();
        let mut twin_events = Vec::new();
        let twin_replies = self.twin.apply(stamp, decoded(&encoded), &mut twin_events);
        assert_eq!(
            (&twin_replies, &twin_events),
            (&replies, &events),
            "another replica goes another way"
        );
        assert_eq!(self.twin.digest(), self.table.digest());
        if events
            .iter()
            .any(|event| matches!(event, Event::TimeSetBack { .. }))
        {
            // The leader's clock went back before.
            self.stamp.now_ms = self.table.now_ms();
        }
        self.log.push((stamp, encoded));
        self.outputs.push((replies.clone(), events));
        replies
    }

    /// Returns a reply reduced to the part that the model predicts. A refusal keeps its field and loses its wording. It
    /// may name any task of a cycle. If a retry needs several unique keys of other tasks, it may name any of them.
    fn plain(&self, command: &Command, reply: &Reply, expected: &Reply) -> Reply {
        match (command, reply) {
            (_, Reply::Refused(Refusal::Invalid { field, problem })) => {
                let circle = problem.contains("in a circle");
                let job = match command {
                    Command::SubmitJob(submit) => Some(submit),
                    Command::PutSchedule(put) => Some(&put.job),
                    _ => None,
                };
                if circle && let Some(submit) = job {
                    let at = field.trim_matches(|c: char| !c.is_ascii_digit()).parse();
                    let at = at.unwrap_or_else(|error| panic!("{field}: {error}"));
                    assert!(model::is_in_a_cycle(&submit.tasks, at), "{reply:?}");
                }
                Reply::Refused(Refusal::Invalid {
                    field: if circle { model::IN_A_CYCLE } else { field }.to_owned(),
                    problem: String::new(),
                })
            }
            (Command::RetryTask { .. }, Reply::Refused(Refusal::UniqueKeyTaken { key, task }))
                if self.model.holder_of(key) == Some(*task) =>
            {
                match expected {
                    Reply::Refused(Refusal::UniqueKeyTaken { .. }) => expected.clone(),
                    _ => reply.clone(),
                }
            }
            // There may be several such tasks.
            (
                Command::RetryTask { .. },
                Reply::Refused(Refusal::HandlerUnfinished { task, handler, .. }),
            ) if self.follows(*handler, *task) => match expected {
                Reply::Refused(Refusal::HandlerUnfinished { .. }) => expected.clone(),
                _ => reply.clone(),
            },
            _ => reply.clone(),
        }
    }

    /// Returns whether a task has started, unfinished, after another one.
    fn follows(&self, handler: TaskId, task: TaskId) -> bool {
        self.table.task(handler).is_some_and(|handler| {
            let state = handler.state();
            handler.after().contains(&task) && !state.is_terminal() && state != TaskState::Waiting
        })
    }

    /// Counts the cases that were met, for the check of the run's coverage.
    fn note(
        &mut self,
        commands: &[Command],
        replies: &[Reply],
        events: &[Event],
        (jobs, workers): (usize, usize),
    ) {
        for (command, reply) in commands.iter().zip(replies) {
            self.coverage.command(command, reply);
        }
        for event in events {
            self.coverage.event(event, &self.table);
        }
        if self.table.jobs_len() < jobs {
            self.coverage.met("forgotten job");
        }
        if self.table.workers().count() < workers {
            self.coverage.met("forgotten worker");
        }
    }

    /// Proposes grants and applies them. Each must hold, and the model must have chosen the same.
    fn plan(&mut self) {
        if !self.generator.some_broken && !self.rng.one_in(2) {
            return;
        }
        let demands = self.generator.demands(&mut self.rng, &self.table);
        let grants_max = self.rng.pick(&[1, 3, 100]);
        let now_ms = self.table.now_ms();
        let demand = |worker| demands.get(&worker).copied().unwrap_or_default();
        let plan = propose_with(&self.table, &demand, now_ms, grants_max);
        let expected = self.model.propose(&demand, now_ms, grants_max);
        self.agree("plans", &plan, &expected);
        let grants = plan.grants;
        if grants.is_empty() {
            return;
        }
        let replies = self.apply(vec![Command::Grant {
            grants: grants.clone(),
        }]);
        let [Reply::Granted { leases }] = &replies[..] else {
            panic!("{replies:?}")
        };
        let held: Vec<_> = leases
            .iter()
            .map(|lease| (lease.task, lease.worker))
            .collect();
        let proposed: Vec<_> = grants
            .iter()
            .map(|grant| (grant.task, grant.worker))
            .collect();
        self.agree("leases", &held, &proposed);
    }

    /// Checks that the last frozen view did not change, and freezes another.
    fn freeze(&mut self) {
        if let Some((frozen, bytes)) = self.frozen.take() {
            assert!(written(frozen) == bytes, "a frozen view changed");
        }
        self.frozen = Some((self.table.freeze(), written(self.table.freeze())));
    }

    fn written_and_read(&self) -> Table {
        let bytes = written(self.table.freeze());
        let read = Table::read(&mut &bytes[..]).expect("what was written reads");
        read.check_invariants();
        assert_eq!(read.digest(), self.table.digest());
        assert_eq!(
            (read.now_ms(), read.last_index()),
            (self.table.now_ms(), self.table.last_index())
        );
        assert_eq!(read.next_timer_ms(), self.table.next_timer_ms());
        assert!(
            written(read.freeze()) == bytes,
            "equal tables give equal snapshots"
        );
        read
    }

    /// Restores a backup of this table in another cluster, whose log is shorter. The restored table must hold the same
    /// records and no leases, and must never assign an id again that was assigned before.
    fn restore_elsewhere(&self) {
        // It has a random generator of its own, so that the main history does not depend on it.
        let mut rng = Rng::new(self.seed ^ self.stamp.index);
        let bytes = written(self.table.freeze());
        let size = 1 + rng.below(bytes.len() as u64) as usize;
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        let mut other = Table::new(self.limits.clone());
        let mut replica = Table::new(self.limits.clone());
        let (mut index, parts) = (0, pieces.len() as u32);
        for at in rng.shuffled(pieces.len()) {
            index += 1;
            let command = Command::RestorePartOfLevel2(RestorePart {
                backup: "b".to_owned(),
                part: at as u32 + 1,
                parts,
                bytes: Bytes::copy_from_slice(pieces[at]),
            });
            let (now_ms, mut events) = (self.stamp.now_ms, Vec::new());
            let stamp = Stamp { index, now_ms };
            let replies = other.apply(stamp, vec![command.clone()], &mut events);
            let mut twin_events = Vec::new();
            let twin = replica.apply(stamp, vec![command], &mut twin_events);
            assert_eq!((&replies, &events), (&twin, &twin_events));
            let part_of_all = Reply::Restoring {
                received: index as u32,
                parts,
            };
            let (jobs, tasks) = (self.table.jobs_len() as u64, self.table.counts().total());
            let all = Reply::Restored { jobs, tasks };
            let expected = if index < u64::from(parts) {
                part_of_all
            } else {
                all
            };
            assert_eq!(replies, [expected]);
            if rng.one_in(3) {
                let snapshot = written(replica.freeze());
                replica = Table::read(&mut &snapshot[..]).expect("what was written reads");
            }
        }
        other.check_invariants();
        assert_eq!(other.digest(), replica.digest());
        assert_eq!(other.leases().count(), 0, "nobody works there");
        let mut known = 0;
        let (every, most) = (TaskFilter::default(), 1 << 20);
        let here = self.table.tasks(&every, None, most);
        let there = other.tasks(&every, None, most);
        for (task, there) in here.items.iter().zip(there.items) {
            known += 1;
            assert_eq!(task.id, there.id);
            if task.lease().is_none() {
                assert_eq!(task.life, there.life, "{}", task.id);
            } else {
                assert_ne!(there.state(), TaskState::Running, "{}", task.id);
            }
        }
        assert_eq!(known, self.table.counts().total());
        // The request id is left out, because the restored table returns stored replies for known ones.
        let register = Command::RegisterWorker(RegisterWorker {
            request_id: None,
            ..Generator::new(&mut rng).register(&mut rng)
        });
        let stamp = Stamp {
            index: index + 1,
            now_ms: self.stamp.now_ms,
        };
        match &other.apply(stamp, vec![register], &mut Vec::new())[..] {
            [Reply::Registered { worker }] => {
                assert!(worker.index() > self.stamp.index + (1 << 32), "{worker}")
            }
            refused => assert!(matches!(refused, [Reply::Refused(_)]), "{refused:?}"),
        }
        other.check_invariants();
    }

    /// Replays the log, which alone must give the same table with the same replies and events.
    fn replay(&self) {
        let mut table = Table::new(self.limits.clone());
        for ((stamp, commands), output) in self.log.iter().zip(&self.outputs) {
            let mut events = Vec::new();
            let replies = table.apply(*stamp, decoded(commands), &mut events);
            assert_eq!((&replies, &events), (&output.0, &output.1), "at {stamp:?}");
        }
        assert_eq!(table.digest(), self.table.digest());
        assert!(written(table.freeze()) == written(self.table.freeze()));
    }

    fn agree<T: PartialEq + Debug>(&self, what: &str, table: &T, model: &T) {
        assert!(
            table == model,
            "{what} differ\n table: {table:?}\n model: {model:?}"
        );
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in &self.recent {
                eprintln!("  {line}");
            }
            eprintln!(
                "replay with: TRIARCH_TABLE_SEED={} TRIARCH_TABLE_CASES=1 TRIARCH_TABLE_COMMANDS={} \
                 cargo test -p triarch-table --test random",
                self.seed, self.commands
            );
        }
    }
}

fn decoded(commands: &[Vec<u8>]) -> Vec<Command> {
    let commands = commands.iter();
    commands
        .map(|bytes| decode_command(bytes).expect("it was encoded"))
        .collect()
}

fn written(frozen: Frozen) -> Vec<u8> {
    let mut bytes = Vec::new();
    frozen.write(&mut bytes).expect("memory takes all");
    bytes
}
