//! Supervisor of a development cluster: starts the processes, watches them, and stops them in order.

use std::fs::File;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use triarch_process::signals::{Request, Signals};

use super::banner::Banner;
use super::child::Child;
use super::layout::{self, Layout};
use super::options::DevOptions;
use super::readiness;
use super::role::Role;
use crate::output;

/// Maximum wait for a leader and for all workers to register.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Time that workers have to stop before they are killed.
const WORKERS_STOP_GRACE: Duration = Duration::from_secs(5);
/// Time that masters have to stop before they are killed.
const MASTERS_STOP_GRACE: Duration = Duration::from_secs(5);
/// Interval between two checks of the children.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Runs a cluster until Ctrl-C or SIGTERM.
///
/// Everything happens on the calling thread, which must be the process's first: the kernel kills the children when
/// the *thread* that started them ends.
pub fn run(options: DevOptions) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(supervise(options))
}

async fn supervise(options: DevOptions) -> anyhow::Result<ExitCode> {
    let mut stop = StopSignals::listen()?;
    let taken = layout::taken_ports(&options);
    if !taken.is_empty() {
        anyhow::bail!(
            "{} already in use on 127.0.0.1: {}. Nothing was started; stop what runs there (another `triarch dev`?) or \
             choose other ports with --port",
            if taken.len() == 1 {
                "a port is"
            } else {
                "ports are"
            },
            taken
                .iter()
                .map(u16::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    let layout = Layout::prepare(&options)?;
    let mut cluster = Cluster {
        children: Vec::new(),
    };
    let failed = cluster.run(&options, &layout, &mut stop).await.err();
    match &failed {
        Some(error) => output::print_error(&format!("{error:#}")),
        None => output::print_note(
            "\nStopping the workers, then the masters; Ctrl-C again to stop them at once.",
        ),
    }
    let all_were_well =
        failed.is_none() && cluster.children.iter().all(|child| child.ended.is_none());
    cluster.stop(&mut stop).await;
    layout.clean_up(all_were_well);
    Ok(if failed.is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Cluster {
    children: Vec<Child>,
}

impl Cluster {
    async fn run(
        &mut self,
        options: &DevOptions,
        layout: &Layout,
        stop: &mut StopSignals,
    ) -> anyhow::Result<()> {
        for role in layout.roles() {
            self.children.push(Child::start(layout, role)?);
        }
        tokio::select! {
            () = stop.received() => return Ok(()),
            ready = self.wait_until_ready(layout) => ready?,
        }
        self.print_banner(options, layout).await?;
        self.watch(layout, stop).await;
        Ok(())
    }

    /// Waits until there is a leader, every master follows it, and every worker is registered.
    async fn wait_until_ready(&mut self, layout: &Layout) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + START_DEADLINE;
        let mut interval = tokio::time::interval(WATCH_INTERVAL);
        loop {
            interval.tick().await;
            for child in &mut self.children {
                if let Some(ended) = child.poll() {
                    anyhow::bail!(
                        "{} {ended} while the cluster was starting. {}",
                        child.role,
                        child.log_tail()
                    );
                }
            }
            let missing = readiness::not_ready(layout).await;
            if missing.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                anyhow::bail!(
                    "the cluster was not ready after {} s:\n  {}\nThe logs are in {}",
                    START_DEADLINE.as_secs(),
                    missing.join("\n  "),
                    layout.logs().display()
                );
            }
        }
    }

    /// Prints the processes with their addresses, and commands to try.
    async fn print_banner(&self, options: &DevOptions, layout: &Layout) -> anyhow::Result<()> {
        let leader = readiness::leader(layout).await;
        let banner = Banner::new(layout, &self.children, leader);
        output::print(options.format, &banner, |banner| banner.render(layout))?;
        Ok(())
    }

    /// Reports deaths of children until a stop signal arrives.
    async fn watch(&mut self, layout: &Layout, stop: &mut StopSignals) {
        let mut interval = tokio::time::interval(WATCH_INTERVAL);
        loop {
            tokio::select! {
                () = stop.received() => return,
                _ = interval.tick() => {}
            }
            let mut master_died = false;
            for child in &mut self.children {
                if let Some(ended) = child.poll() {
                    master_died |= matches!(child.role, Role::Master(_));
                    output::print_note(&format!(
                        "\n{} (pid {}) {ended}. {}\nStart it again, in another shell, with:\n  {}",
                        child.role,
                        child.pid,
                        child.log_tail(),
                        layout.command_line(child.role)
                    ));
                }
            }
            if master_died {
                tokio::select! {
                    () = stop.received() => return,
                    outcome = readiness::await_new_leader(layout) => output::print_note(&outcome),
                }
            }
        }
    }

    /// Stops workers, then masters, because workers can return their leases only while there is a master.
    async fn stop(&mut self, stop: &mut StopSignals) {
        let workers = |role: Role| matches!(role, Role::Worker(_));
        let masters = |role: Role| matches!(role, Role::Master(_));
        self.terminate(workers, WORKERS_STOP_GRACE, stop).await;
        self.terminate(masters, MASTERS_STOP_GRACE, stop).await;
    }

    async fn terminate(
        &mut self,
        which: fn(Role) -> bool,
        grace: Duration,
        stop: &mut StopSignals,
    ) {
        let mut chosen: Vec<&mut Child> = self
            .children
            .iter_mut()
            .filter(|child| which(child.role))
            .collect();
        for child in &mut chosen {
            child.terminate();
        }
        let deadline = tokio::time::Instant::now() + grace;
        while chosen.iter_mut().any(|child| child.is_alive()) {
            tokio::select! {
                () = stop.received() => break,
                () = tokio::time::sleep_until(deadline) => break,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        for child in &mut chosen {
            child.kill();
        }
    }
}

/// Signals that stop the cluster: Ctrl-C and SIGTERM, and the end of its terminal.
struct StopSignals {
    signals: Signals,
    has_terminal: bool,
}

impl StopSignals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            signals: Signals::listen().context("cannot set up signals")?,
            has_terminal: has_terminal(),
        })
    }

    /// Waits for the next stop signal. A hangup is one only if the terminal is gone: then nobody can press Ctrl-C any more.
    async fn received(&mut self) {
        loop {
            match self.signals.next().await {
                Request::Stop(_) => return,
                Request::Hangup if self.has_terminal && !has_terminal() => return,
                Request::Hangup => output::print_note(
                    "SIGHUP has no effect: each process logs to its own file, which is appended to; Ctrl-C stops the cluster.",
                ),
            }
        }
    }
}

/// Returns whether this process has a controlling terminal.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}
