//! `triarch dev`: a whole cluster on this machine, for trying things out.
//!
//! Masters and workers are separate processes, started from this very binary, because what there is to try out is
//! what happens when one of them dies. So a dead one is reported and *not* started again: the command to do that is
//! printed. Whatever happens to this process, even `kill -9`, none of its children outlives it.
//!
//! It deliberately does not configure anything beyond counts, ports and a directory: a cluster that is meant to stay
//! is started with `triarch server` and `triarch worker`.

mod banner;
mod child;
mod layout;
mod readiness;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use self::child::{Child, Role};
use self::layout::Layout;
use crate::cli;
use crate::cli::dev::banner::Introduction;
use crate::cli::output::{self, Format};

/// What `triarch dev` was asked for.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// How many masters.
    pub nodes: u16,
    /// How many workers.
    pub workers: u16,
    /// Master `n` listens on this port plus `n`.
    pub port: u16,
    /// Where everything is kept; a temporary directory if none is given.
    pub data_dir: Option<PathBuf>,
    /// Who reads what it prints.
    pub format: Format,
}

/// How long the masters may take to agree on a leader, and the workers to register.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long workers let their attempts finish when they are stopped.
const WORKERS_DRAIN: Duration = Duration::from_secs(1);
/// How long workers are given to end their attempts before they are killed.
const WORKERS_STOP_GRACE: Duration = Duration::from_secs(5);
/// How long masters are given to hand over and close their files before they are killed.
const MASTERS_STOP_GRACE: Duration = Duration::from_secs(5);
/// How soon a death is noticed.
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
    let mut stop = Stop::listen()?;
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
        Some(error) => cli::complain(&format!("{error:#}")),
        None => output::note(
            "\nStopping the workers, then the masters; Ctrl-C again to stop them at once.",
        ),
    }
    let all_were_well =
        failed.is_none() && cluster.children.iter().all(|child| child.ended.is_none());
    cluster.stop(&mut stop).await;
    layout.leave(all_were_well);
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
        stop: &mut Stop,
    ) -> anyhow::Result<()> {
        for role in layout.roles() {
            self.children.push(Child::start(layout, role)?);
        }
        tokio::select! {
            () = stop.asked() => return Ok(()),
            ready = self.wait_until_ready(layout) => ready?,
        }
        self.introduce(options, layout).await?;
        self.watch(layout, stop).await;
        Ok(())
    }

    /// Returns when there is a leader, every master follows it, and every worker is registered.
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
                        child.last_words()
                    );
                }
            }
            let missing = crate::cli::dev::readiness::missing(layout).await;
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

    /// Says what runs where and what to do with it.
    async fn introduce(&self, options: &DevOptions, layout: &Layout) -> anyhow::Result<()> {
        let leader = crate::cli::dev::readiness::leader(layout).await;
        let introduction = Introduction::new(layout, &self.children, leader);
        output::answer(options.format, &introduction, |introduction| {
            introduction.for_people(layout)
        })?;
        Ok(())
    }

    /// Reports deaths until asked to stop.
    async fn watch(&mut self, layout: &Layout, stop: &mut Stop) {
        let mut interval = tokio::time::interval(WATCH_INTERVAL);
        loop {
            tokio::select! {
                () = stop.asked() => return,
                _ = interval.tick() => {}
            }
            let mut master_died = false;
            for child in &mut self.children {
                if let Some(ended) = child.poll() {
                    master_died |= matches!(child.role, Role::Master(_));
                    output::note(&format!(
                        "\n{} (pid {}) {ended}. {}\nStart it again, in another shell, with:\n  {}",
                        child.role,
                        child.pid,
                        child.last_words(),
                        layout.command_line(child.role)
                    ));
                }
            }
            if master_died {
                tokio::select! {
                    () = stop.asked() => return,
                    news = crate::cli::dev::readiness::leader_news(layout) => output::note(&news),
                }
            }
        }
    }

    /// Stops workers, then masters: workers can hand back what they hold only while there is a master.
    async fn stop(&mut self, stop: &mut Stop) {
        let workers = |role: Role| matches!(role, Role::Worker(_));
        let masters = |role: Role| matches!(role, Role::Master(_));
        self.terminate(workers, WORKERS_STOP_GRACE, stop).await;
        self.terminate(masters, MASTERS_STOP_GRACE, stop).await;
    }

    async fn terminate(&mut self, which: fn(Role) -> bool, grace: Duration, stop: &mut Stop) {
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
                () = stop.asked() => break,
                () = tokio::time::sleep_until(deadline) => break,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        for child in &mut chosen {
            child.kill();
        }
    }
}

/// Ctrl-C and SIGTERM.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Returns once for each time this process is asked to stop.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
