//! The simulated world: one clock, one queue of events, the machines with their processes, and the network between
//! them. All events are drawn from one seed, and are processed in one order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::machine::Machine;
use crate::network::{Connection, Endpoint, Links, Packet, Side};
use crate::process::{Ns, Outcome, ProcessInput, ProcessOutput};
use crate::random::Random;
use crate::run_stats::RunStats;
use crate::trace::Trace;

pub const MS: Ns = 1_000_000;
pub const SECOND: Ns = 1_000_000_000;
pub const NEVER: Ns = u64::MAX;

/// Number of a machine or a client: the last part of its address, 10.0.0.N.
pub type Host = u16;
/// Id of an actor in the simulator itself: a client, a worker, or the injector of faults.
pub type Actor = usize;

/// First address of the clients.
pub const CLIENTS_FROM: Host = 1_000;

#[derive(Debug)]
pub enum Event {
    Deliver {
        connection: u64,
        from: Side,
        packet: Packet,
    },
    /// Delivers messages that a cut held back.
    Flush {
        connection: u64,
        from: Side,
    },
    /// Breaks a connection whose peer is silent for good.
    KeepAlive {
        connection: u64,
    },
    Timer {
        actor: Actor,
    },
}

struct Queued {
    at: Ns,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Guarantee that does not hold in a run that must fail, to show that the checks detect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakened {
    /// Disks report syncs that they have not done.
    Syncs,
    /// Reads are stale, and are recorded as linearizable.
    Reads,
}

/// Constants of the whole run.
pub struct Settings {
    pub program: PathBuf,
    pub kernel: PathBuf,
    pub dir: PathBuf,
    pub seed: u64,
    pub preemption_per_mille: u64,
    pub server_args: Vec<String>,
    pub weakened: Option<Weakened>,
}

pub struct World {
    pub now: Ns,
    /// The current time, shared with the recorder of the history.
    pub clock: Arc<AtomicU64>,
    pub settings: Settings,
    pub random: Random,
    pub machines: BTreeMap<Host, Machine>,
    pub connections: BTreeMap<u64, Connection>,
    pub endpoints: BTreeMap<u64, Endpoint>,
    pub links: Links,
    pub trace: Trace,
    pub stats: RunStats,
    /// Violations, as text.
    pub violations: Vec<String>,
    pub runnable: VecDeque<Actor>,
    /// The actor that is being polled.
    pub current: Actor,
    pub client_connections: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
}

impl World {
    pub fn new(settings: Settings, trace: Trace) -> Self {
        let random = Random::new(settings.seed);
        World {
            now: 0,
            clock: Arc::default(),
            random,
            settings,
            machines: BTreeMap::new(),
            connections: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            links: Links::default(),
            trace,
            stats: RunStats::default(),
            violations: Vec::new(),
            runnable: VecDeque::new(),
            current: 0,
            client_connections: 0,
            queue: BinaryHeap::new(),
            queued: 0,
        }
    }

    pub fn at(&mut self, at: Ns, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse(Queued {
            at: at.max(self.now),
            number: self.queued,
            event,
        }));
    }

    /// Adds a violation.
    pub fn violated(&mut self, rule: &str, what: String) {
        let at_ms = self.now / MS;
        self.trace
            .line(self.now, || format!("VIOLATED {rule}: {what}"));
        if self.violations.len() < 50 {
            self.violations
                .push(format!("{rule}, at {at_ms} ms: {what}"));
        }
    }

    fn next_event(&self) -> Ns {
        self.queue.peek().map_or(NEVER, |Reverse(next)| next.at)
    }

    /// Processes the next event. Returns false if there is none.
    pub fn step(&mut self) -> anyhow::Result<bool> {
        let machine = self
            .machines
            .iter()
            .filter(|(_, machine)| machine.runs() && !machine.paused)
            .map(|(host, machine)| (machine.wake_at, *host))
            .min();
        let (wake_at, host) = machine.unwrap_or((NEVER, 0));
        let event_at = self.next_event();
        if event_at == NEVER && wake_at == NEVER {
            return Ok(false);
        }
        if event_at <= wake_at {
            let Some(Reverse(queued)) = self.queue.pop() else {
                return Ok(false);
            };
            self.pass_to(queued.at);
            self.happen(queued.event);
        } else {
            self.pass_to(wake_at);
            self.turn(host)?;
        }
        Ok(true)
    }

    fn pass_to(&mut self, at: Ns) {
        self.now = self.now.max(at);
        self.clock.store(self.now, Ordering::Relaxed);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver {
                connection,
                from,
                packet,
            } => self.deliver(connection, from, packet),
            Event::Flush { connection, from } => self.flush(connection, from),
            Event::KeepAlive { connection } => self.keep_alive(connection),
            Event::Timer { actor } => self.runnable.push_back(actor),
        }
    }

    /// Returns the time until which this machine may run alone, because no other event comes earlier.
    fn horizon(&self, host: Host) -> Ns {
        self.machines
            .iter()
            .filter(|(other, machine)| **other != host && machine.runs() && !machine.paused)
            .map(|(_, machine)| machine.wake_at)
            .min()
            .unwrap_or(NEVER)
            .min(self.next_event())
    }

    fn turn(&mut self, host: Host) -> anyhow::Result<()> {
        let horizon = self.horizon(host);
        let now = self.now;
        let Some(machine) = self.machines.get_mut(&host) else {
            return Ok(());
        };
        let Some(process) = machine.process.as_mut() else {
            return Ok(());
        };
        let inputs = std::mem::take(&mut machine.inbox);
        self.stats.turns += 1;
        let cut = inputs
            .iter()
            .any(|input| matches!(input, ProcessInput::Cut { .. }));
        let outcome = process
            .turn(now, horizon, &inputs)
            .map_err(|error| error.context(format!("node {host}, at {} ms", now / MS)))?;
        match outcome {
            Outcome::Waits(turn) => {
                machine.wake_at = turn.next.max(turn.now);
                self.trace.digest(u64::from(host), turn.digest);
                self.trace.line(now, || {
                    format!(
                        "node {host} runs to {} next {} said {}",
                        turn.now,
                        turn.next,
                        brief(&turn.output)
                    )
                });
                for (at, output) in turn.output {
                    self.take(host, at, output)?;
                }
            }
            Outcome::Gone { code } => self.ended(host, if cut { 69 } else { code }),
        }
        Ok(())
    }

    fn take(&mut self, host: Host, at: Ns, output: ProcessOutput) -> anyhow::Result<()> {
        match output {
            ProcessOutput::Listen { port } => {
                if let Some(machine) = self.machines.get_mut(&host) {
                    machine.listens.insert(port);
                }
            }
            ProcessOutput::Unlisten { port } => {
                if let Some(machine) = self.machines.get_mut(&host) {
                    machine.listens.remove(&port);
                }
            }
            ProcessOutput::Connect {
                connection,
                host: to,
                port,
                own_port,
            } => {
                self.connect(connection, host, (to & 0xFFFF) as Host, port, own_port, at);
            }
            ProcessOutput::Data { connection, bytes } => {
                if let Some(side) = self.side_of(connection, host) {
                    self.send(connection, side, at, Packet::Data(bytes));
                }
            }
            ProcessOutput::Fin { connection } => {
                if let Some(side) = self.side_of(connection, host) {
                    self.send_fin(connection, side, at);
                }
            }
            ProcessOutput::Close { connection } => {
                if let Some(side) = self.side_of(connection, host) {
                    self.close(connection, side, at);
                }
            }
            ProcessOutput::Exited { code } => {
                let code_there = match self
                    .machines
                    .get_mut(&host)
                    .and_then(|m| m.process.as_mut())
                {
                    Some(process) => process.kill()?,
                    None => 0,
                };
                let _ = code_there;
                self.ended(host, code as i32);
            }
        }
        Ok(())
    }
}

fn brief(output: &[(Ns, ProcessOutput)]) -> String {
    let words: Vec<String> = output
        .iter()
        .map(|(_, output)| match output {
            ProcessOutput::Data { connection, bytes } => {
                format!("data {connection:x} {} bytes", bytes.len())
            }
            other => format!("{other:x?}"),
        })
        .collect();
    words.join(", ")
}
