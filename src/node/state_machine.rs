//! Replicated state machine: the table as consensus drives it, and the signals that its changes raise on this node.
//!
//! # Invariants
//!
//! - Apply writes under the lock and raises signals after it. Readers take the lock shared, for a bounded piece of
//!   work.
//! - Signals are raised on every node, whether it leads or not; only the loops of a leader listen.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::mpsc;
use triarch_areas::envelope::{self, AreaCommand};
use triarch_areas::state::{self, FrozenState, LoadedState};
use triarch_areas::task_output::{KeptOutput, TaskOutputs};
use triarch_areas::worker_secrets::{SecretVerdict, WorkerSecrets};
use triarch_areas::worker_silence::{Silence, WorkerSilences};
use triarch_raft::{EntryView, Level, StateMachine};
use triarch_table::types::state::TaskState;
use triarch_table::{Command, Event, Limits, Reply, Stamp, Table, Token, WorkerId};

use crate::feed::{self, Feed};
use crate::leader_counters::LeaderCounters;
use crate::waiters::Waiters;

/// Table of this node. Consensus writes it, all others read it.
pub struct SharedTable {
    table: RwLock<Table>,
    /// Hashes of the secrets of workers. Changed under the write lock of the table.
    worker_secrets: RwLock<WorkerSecrets>,
    /// Output of ended attempts. Changed under the write lock of the table.
    task_outputs: RwLock<TaskOutputs>,
    /// Silence of workers. Changed under the write lock of the table.
    worker_silences: RwLock<WorkerSilences>,
    /// Level of the cluster. Changed under the write lock of the table, so a reader of both sees them together.
    level: AtomicU32,
    /// Raised after an apply that may have made a grant possible.
    pub ready: tokio::sync::Notify,
    /// Raised after an apply that may have changed the time of the next timer.
    pub timers: tokio::sync::Notify,
    /// Raised after an apply that may have changed the time of a schedule's next tick.
    pub schedules: tokio::sync::Notify,
    /// Requests that wait for a job or task.
    pub waiters: Waiters,
    /// Change feed: the latest part of the history.
    pub feed: Feed,
    /// Counters of what this node applied while it led.
    pub counters: LeaderCounters,
}

impl SharedTable {
    /// Creates an empty table with a change feed of the last `event_history` events.
    pub fn new(event_history: usize) -> Arc<Self> {
        Arc::new(Self {
            table: RwLock::new(Table::new(Limits::default())),
            worker_secrets: RwLock::default(),
            task_outputs: RwLock::default(),
            worker_silences: RwLock::default(),
            level: AtomicU32::new(Level::ONE.number()),
            ready: tokio::sync::Notify::new(),
            timers: tokio::sync::Notify::new(),
            schedules: tokio::sync::Notify::new(),
            waiters: Waiters::default(),
            feed: Feed::new(event_history),
            counters: LeaderCounters::default(),
        })
    }

    /// Locks the table for reading, as applied so far. Hold the guard briefly, because applies wait for it.
    pub fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read()
    }

    /// Returns the level of the cluster, as applied so far.
    pub fn level(&self) -> Level {
        Level::new(self.level.load(Ordering::Acquire)).unwrap_or(Level::ONE)
    }

    /// Encodes a command in the form that the log carries at the level of the cluster. A rise in between does no harm,
    /// because a command of a lower level stays readable.
    pub fn encode(&self, command: &Command) -> Bytes {
        envelope::encode(command, self.level())
    }

    /// Returns a frozen view of the table and the level, and what `look` sees of the table at that moment.
    pub fn freeze<T>(&self, look: impl FnOnce(&Table) -> T) -> (FrozenState, T) {
        let table = self.table.read();
        let seen = look(&table);
        (self.frozen(&table), seen)
    }

    /// Freezes the table, which the caller has locked.
    fn frozen(&self, table: &Table) -> FrozenState {
        FrozenState {
            level: self.level(),
            table: table.freeze(),
            worker_secrets: self.worker_secrets.read().clone(),
            task_outputs: self.task_outputs.read().clone(),
            worker_silences: self.worker_silences.read().clone(),
        }
    }

    /// Judges a call in the name of a worker by the secret that it carries.
    pub fn judge_worker_secret(&self, worker: WorkerId, secret: Option<&[u8]>) -> SecretVerdict {
        self.worker_secrets.read().judge(worker, secret)
    }

    /// Returns what is kept of the output of an ended attempt.
    pub fn kept_output(&self, token: Token) -> Option<KeptOutput> {
        self.task_outputs.read().get(token).cloned()
    }

    /// Returns the recorded silence of workers, as applied so far.
    pub fn worker_silences(&self) -> WorkerSilences {
        self.worker_silences.read().clone()
    }

    /// Returns the recorded silence of one worker, as applied so far.
    pub fn worker_silence(&self, worker: WorkerId) -> Silence {
        self.worker_silences.read().of(worker)
    }

    /// Applies what an entry changes in the areas other than the table, after what it changes there. Puts the replies in
    /// their places.
    fn apply_to_areas(
        &self,
        commands: Vec<(usize, AreaCommand)>,
        table: &Table,
        events: &[Event],
        replies: &mut Vec<Reply>,
    ) {
        let gone = |event: &Event| matches!(event, Event::WorkerGone { .. } | Event::Restored);
        if commands.is_empty() && !events.iter().any(gone) {
            return;
        }
        let mut secrets = self.worker_secrets.write();
        let mut outputs = self.task_outputs.write();
        let mut silences = self.worker_silences.write();
        secrets.forget_gone(events);
        outputs.forget_restored(events);
        silences.forget_gone(events);
        for (position, command) in commands {
            let done = match command {
                AreaCommand::WorkerSecrets(command) => secrets.apply(command, table),
                AreaCommand::TaskOutput(output) => outputs.apply(*output, table),
                AreaCommand::WorkerSilence(command) => silences.apply(command, table),
                AreaCommand::Table(_) => continue,
            };
            let tasks = u64::from(done);
            replies.insert(position, Reply::Done { tasks });
        }
    }

    fn raise(&self, events: &[Event]) {
        let (mut ready, mut timers, mut schedules) = (false, false, false);
        for event in events {
            match event {
                Event::TaskChanged { task, to, .. } => {
                    self.waiters.task_updated(*task);
                    match to {
                        TaskState::Queued => ready = true,
                        TaskState::Delayed => timers = true,
                        TaskState::Waiting | TaskState::Running => {}
                        TaskState::Succeeded
                        | TaskState::Failed
                        | TaskState::Cancelled
                        | TaskState::Expired => {
                            // Other tasks with its concurrency key may have waited for it.
                            ready = true;
                            self.waiters.task_finished(*task);
                        }
                    }
                }
                Event::JobFinished { job, .. } => {
                    timers = true;
                    self.waiters.job_finished(*job);
                }
                Event::LeaseEnded { .. } | Event::WorkerRegistered { .. } => ready = true,
                Event::QueueChanged { .. } | Event::WorkerChanged { .. } => {
                    ready = true;
                    timers = true;
                }
                Event::JobSubmitted { .. } => timers = true,
                Event::LeaseGranted { .. }
                | Event::WorkerDraining { .. }
                | Event::WorkerGone { .. } => {}
                Event::Restored => {
                    (ready, timers, schedules) = (true, true, true);
                    self.waiters.wake_all();
                }
                Event::TimeSetBack { from_ms, to_ms } => {
                    (ready, timers, schedules) = (true, true, true);
                    tracing::warn!(
                        back_s = (from_ms - to_ms) / 1_000,
                        "the time of the table was set back by `triarch cluster set-time-back`: delays, schedules and retention go by \
                         the masters' clocks again"
                    );
                }
                Event::ScheduleChanged { .. } | Event::ScheduleTicked { .. } => schedules = true,
            }
        }
        // One loop listens to each signal. A permit is stored while the loop is busy, so no signal is lost.
        if ready {
            self.ready.notify_one();
        }
        if timers {
            self.timers.notify_one();
        }
        if schedules {
            self.schedules.notify_one();
        }
    }
}

/// State machine of consensus, over a [`SharedTable`].
pub struct TableStateMachine {
    table: Arc<SharedTable>,
    /// Number of entries between two digests; the same on all nodes.
    digest_interval: u64,
    /// Receives the views whose digest is to be taken.
    checkpoints: mpsc::Sender<FrozenState>,
}

impl TableStateMachine {
    /// Creates the state machine. Also returns a receiver of the views whose digests are to be taken. They are at the
    /// same entries on every node with the same `digest_interval`.
    pub fn new(
        table: Arc<SharedTable>,
        digest_interval: u64,
    ) -> (Self, mpsc::Receiver<FrozenState>) {
        // A view that comes while another waits is dropped, because a node that starts applies in seconds what took
        // days.
        let (checkpoints, views) = mpsc::channel(1);
        let machine = Self {
            table,
            digest_interval,
            checkpoints,
        };
        (machine, views)
    }
}

impl StateMachine for TableStateMachine {
    type Reply = Reply;
    type Frozen = FrozenState;
    type Loaded = LoadedState;

    fn check_command(command: &[u8]) -> std::io::Result<()> {
        match envelope::decode(command) {
            Ok(_) => Ok(()),
            Err(error) => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, error)),
        }
    }

    fn apply(&mut self, entry: EntryView<'_>) -> std::io::Result<Vec<Reply>> {
        let commands = entry
            .commands
            .iter()
            .map(|bytes| envelope::decode(bytes))
            .collect::<Result<Vec<AreaCommand>, _>>()
            .map_err(|error| {
                std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    format!(
                        "log entry {} contains a command that this version does not understand ({error}); \
                         run the version that the rest of the cluster runs",
                        entry.index
                    ),
                )
            })?;
        let mut events = Vec::new();
        let mut other_commands = Vec::new();
        let mut table_commands = Vec::with_capacity(commands.len());
        for (position, command) in commands.into_iter().enumerate() {
            match command {
                AreaCommand::Table(command) => table_commands.push(*command),
                other @ (AreaCommand::WorkerSecrets(_)
                | AreaCommand::TaskOutput(_)
                | AreaCommand::WorkerSilence(_)) => {
                    other_commands.push((position, other));
                }
            }
        }
        let commands = table_commands;
        let stamp = Stamp {
            index: entry.index,
            now_ms: entry.now_ms,
        };
        let mut table = self.table.table.write();
        #[cfg(feature = "mutations")]
        let commands = match mutated!(CancelLostOnFailover) && !self.table.counters.leads() {
            true => crate::mutated::without_cancels(commands),
            false => commands,
        };
        let before = table.last_index();
        let mut replies = table.apply(stamp, commands, &mut events);
        self.table
            .apply_to_areas(other_commands, &table, &events, &mut replies);
        if before / self.digest_interval < entry.index / self.digest_interval
            && let Ok(permit) = self.checkpoints.try_reserve()
        {
            permit.send(self.table.frozen(&table));
        }
        let at_ms = table.now_ms();
        let records = feed::records_of(&RwLockWriteGuard::downgrade(table), &events);
        // The feed comes before the waiters: a waiter that is woken by an end finds it in the history.
        self.table.feed.append(entry.index, at_ms, records);
        self.table.counters.count_applied(&events);
        self.table.raise(&events);
        Ok(replies)
    }

    fn freeze(&mut self) -> FrozenState {
        self.table.freeze(|_| ()).0
    }

    fn load(snapshot: &mut dyn Read) -> std::io::Result<LoadedState> {
        state::read(snapshot)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    }

    fn restore(&mut self, loaded: LoadedState, last_index: u64, level: Level) {
        {
            let mut table = self.table.table.write();
            *table = loaded.table;
            *self.table.worker_secrets.write() = loaded.worker_secrets;
            *self.table.task_outputs.write() = loaded.task_outputs;
            *self.table.worker_silences.write() = loaded.worker_silences;
            self.table.level.store(level.number(), Ordering::Release);
        }
        self.table.feed.restart(last_index);
        // Everything may have changed at once, so all waiters read the table again.
        self.table.waiters.wake_all();
        self.table.ready.notify_one();
        self.table.timers.notify_one();
        self.table.schedules.notify_one();
    }

    fn set_level(&mut self, level: Level) {
        let _table = self.table.table.write();
        self.table.level.store(level.number(), Ordering::Release);
    }
}
