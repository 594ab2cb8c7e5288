//! A machine: a disk, a clock, and the process that runs on them, over all of its restarts.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::PathBuf;

use anyhow::Context;

use crate::process::{Ns, Process, ProcessInput, Start};
use crate::world::{Host, MS, NEVER, Weakened, World};

/// Port on which masters listen.
pub const PORT: u16 = 7100;

/// Reason why a process ended, and whether this was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub at: Ns,
    pub code: i32,
}

pub struct Machine {
    pub process: Option<Process>,
    pub args: Vec<String>,
    pub life: u64,
    pub wake_at: Ns,
    pub paused: bool,
    /// Without power: no message arrives, and no process answers.
    pub off: bool,
    pub listens: BTreeSet<u16>,
    pub inbox: Vec<ProcessInput>,
    pub disk: PathBuf,
    pub log: PathBuf,
    pub clock_offset_ns: i64,
    pub sync_time: (Ns, Ns),
    /// Reason for which the process may exit by itself.
    pub may_end: Option<&'static str>,
    pub ends: Vec<End>,
}

/// Arguments with which a master behaves as the version before levels.
const OLD: [&str; 2] = ["--announce-level", "1"];

impl Machine {
    /// Whether its next process behaves as the version before levels.
    pub fn is_old(&self) -> bool {
        self.args.ends_with(&OLD.map(str::to_owned))
    }

    pub fn set_old(&mut self, old: bool) {
        match (self.is_old(), old) {
            (false, true) => self.args.extend(OLD.map(str::to_owned)),
            (true, false) => self.args.truncate(self.args.len() - OLD.len()),
            (true, true) | (false, false) => {}
        }
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }
}

/// Returns the address of a machine.
pub fn address(host: Host) -> String {
    format!("10.0.0.{host}:{PORT}")
}

impl World {
    /// Creates a machine with an empty disk. `membership` contains the arguments that name its cluster.
    pub fn install(&mut self, host: Host, membership: Vec<String>) -> anyhow::Result<()> {
        let disk = self.settings.dir.join(format!("node-{host}"));
        std::fs::create_dir_all(&disk)?;
        let log = self.settings.dir.join(format!("node-{host}.log"));
        let mut args = vec!["server".to_string(), "--id".into(), host.to_string()];
        args.extend(["--listen".into(), address(host)]);
        args.extend(["--data-dir".into(), disk.join("data").display().to_string()]);
        args.extend(membership);
        args.extend(self.settings.server_args.iter().cloned());
        let sync_time = (60_000, self.random.between(200_000, 2 * MS));
        self.machines.insert(
            host,
            Machine {
                process: None,
                args,
                life: 0,
                wake_at: NEVER,
                paused: false,
                off: false,
                listens: BTreeSet::new(),
                inbox: Vec::new(),
                disk,
                log,
                clock_offset_ns: 0,
                sync_time,
                may_end: None,
                ends: Vec::new(),
            },
        );
        Ok(())
    }

    /// Starts the process, or starts it again.
    pub fn boot(&mut self, host: Host) -> anyhow::Result<()> {
        let seed = self.random.next();
        let takes = self.random.between(2 * MS, 30 * MS);
        let now = self.now;
        let machine = self.machines.get_mut(&host).context("no such machine")?;
        if machine.runs() {
            return Ok(());
        }
        machine.life += 1;
        machine.off = false;
        machine.paused = false;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&machine.log)?;
        machine.process = Some(Process::start(Start {
            program: &self.settings.program,
            kernel: &self.settings.kernel,
            args: &machine.args,
            node: machine.life << 16 | u64::from(host),
            seed,
            preemption_per_mille: self.settings.preemption_per_mille,
            disk: &machine.disk,
            lying_disk: self.settings.weakened == Some(Weakened::Syncs),
            log,
        })?);
        machine.wake_at = now + takes;
        let (min_ns, max_ns) = machine.sync_time;
        machine.inbox = vec![
            ProcessInput::Clock {
                offset_ns: machine.clock_offset_ns,
            },
            ProcessInput::SyncTime { min_ns, max_ns },
        ];
        self.trace.line(now, || format!("node {host} boots"));
        self.stats.boots += 1;
        self.retransmit();
        Ok(())
    }

    /// Queues an event for the next turn of the process, which is now.
    pub fn send_input(&mut self, host: Host, input: ProcessInput) {
        let now = self.now;
        if let Some(machine) = self
            .machines
            .get_mut(&host)
            .filter(|machine| machine.runs())
        {
            machine.inbox.push(input);
            machine.wake_at = machine.wake_at.min(now);
        }
    }

    /// Ends the process like `kill -9`.
    pub fn kill(&mut self, host: Host) -> anyhow::Result<bool> {
        let Some(machine) = self.machines.get_mut(&host) else {
            return Ok(false);
        };
        let Some(mut process) = machine.process.take() else {
            return Ok(false);
        };
        process.kill()?;
        machine.over();
        self.trace
            .line(self.now, || format!("node {host} is killed"));
        self.hang_up(host, false);
        Ok(true)
    }

    /// Cuts the power: some or all of the unsynced data is lost.
    pub fn cut_power(&mut self, host: Host) -> anyhow::Result<bool> {
        let (seed, loses_all) = (self.random.next(), self.random.percent(50));
        let now = self.now;
        let Some(machine) = self.machines.get_mut(&host) else {
            return Ok(false);
        };
        let Some(mut process) = machine.process.take() else {
            return Ok(false);
        };
        process.turn(now, now, &[ProcessInput::Cut { seed, loses_all }])?;
        machine.over();
        machine.off = true;
        self.trace.line(now, || format!("node {host} loses power"));
        self.hang_up(host, true);
        Ok(true)
    }

    /// Handles the exit of the process by itself.
    pub fn ended(&mut self, host: Host, code: i32) {
        let now = self.now;
        self.trace
            .line(now, || format!("node {host} ended by itself: {code}"));
        let Some(machine) = self.machines.get_mut(&host) else {
            return;
        };
        machine.process = None;
        machine.over();
        machine.ends.push(End { at: now, code });
        // 69: the kernel library exited on request.
        let unexpected = code != 69 && machine.may_end.is_none();
        let log = machine.log.clone();
        let armed = code == 69;
        if armed {
            machine.off = true;
        }
        self.hang_up(host, armed);
        if unexpected {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(4).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            self.violated(
                "a master ends only when it must",
                format!("node {host} ended with {code}: {}", last.join(" | ")),
            );
        }
    }
}

impl Machine {
    fn over(&mut self) {
        self.listens.clear();
        self.inbox.clear();
        self.wake_at = NEVER;
        self.paused = false;
    }
}
