//! Replicated state machine: the table as consensus drives it, and the signals that its changes raise on this node.
//!
//! # Invariants
//!
//! - Apply writes under the lock and raises signals after it. Readers take the lock shared, for a bounded piece of
//!   work.
//! - Signals are raised on every node, whether it leads or not; only the loops of a leader listen.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::mpsc;
use triarch_raft::{EntryView, StateMachine};
use triarch_table::command::codec;
use triarch_table::types::state::TaskState;
use triarch_table::{Command, Event, Frozen, Limits, Reply, Stamp, Table};

use crate::feed::{self, Feed};
use crate::leader_counters::LeaderCounters;
use crate::waiters::Waiters;

/// Table of this node. Consensus writes it, all others read it.
pub struct SharedTable {
    table: RwLock<Table>,
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
    checkpoints: mpsc::Sender<Frozen>,
}

impl TableStateMachine {
    /// Creates the state machine. Also returns a receiver of the views whose digests are to be taken. They are at the
    /// same entries on every node with the same `digest_interval`.
    pub fn new(table: Arc<SharedTable>, digest_interval: u64) -> (Self, mpsc::Receiver<Frozen>) {
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
    type Frozen = FrozenTable;
    type Loaded = Table;

    fn check_command(command: &[u8]) -> std::io::Result<()> {
        match codec::decode_command(command) {
            Ok(_) => Ok(()),
            Err(error) => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, error)),
        }
    }

    fn apply(&mut self, entry: EntryView<'_>) -> std::io::Result<Vec<Reply>> {
        let commands = entry
            .commands
            .iter()
            .map(|bytes| codec::decode_command(bytes))
            .collect::<Result<Vec<Command>, _>>()
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
        let replies = table.apply(stamp, commands, &mut events);
        if before / self.digest_interval < entry.index / self.digest_interval
            && let Ok(permit) = self.checkpoints.try_reserve()
        {
            permit.send(table.freeze());
        }
        let at_ms = table.now_ms();
        let records = feed::records_of(&RwLockWriteGuard::downgrade(table), &events);
        // The feed comes before the waiters: a waiter that is woken by an end finds it in the history.
        self.table.feed.append(entry.index, at_ms, records);
        self.table.counters.count_applied(&events);
        self.table.raise(&events);
        Ok(replies)
    }

    fn freeze(&mut self) -> FrozenTable {
        FrozenTable(self.table.table.read().freeze())
    }

    fn load(snapshot: &mut dyn Read) -> std::io::Result<Table> {
        Table::read(snapshot)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    }

    fn restore(&mut self, loaded: Table, last_index: u64) {
        *self.table.table.write() = loaded;
        self.table.feed.restart(last_index);
        // Everything may have changed at once, so all waiters read the table again.
        self.table.waiters.wake_all();
        self.table.ready.notify_one();
        self.table.timers.notify_one();
        self.table.schedules.notify_one();
    }
}

/// Frozen view of the table, to be written into a snapshot.
pub struct FrozenTable(Frozen);

impl triarch_raft::Frozen for FrozenTable {
    fn write(self, out: &mut dyn Write) -> std::io::Result<()> {
        self.0.write(out)
    }
}

/// Encodes a command in the form that the log carries.
pub fn encode(command: &Command) -> Bytes {
    Bytes::from(codec::encode_command(command))
}
