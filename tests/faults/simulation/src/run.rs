//! One run of one seed: the cluster, the load, the faults, the recovery, and the checks.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use serde_json::json;
use triarch_check::{History, Recorder};

use crate::Args;
use crate::actors::Sim;
use crate::client_load;
use crate::context::{RequestOutcome, RequestSpec, SimContext};
use crate::faults;
use crate::heal;
use crate::invariants;
use crate::kernel;
use crate::machine::address;
use crate::random::Random;
use crate::run_stats::RunStats;
use crate::trace::Trace;
use crate::worker;
use crate::world::{CLIENTS_FROM, Host, MS, SECOND, Settings, World};

/// Result of a run.
pub struct RunResult {
    seed: u64,
    digest: u64,
    simulated_ms: u64,
    real_ms: u128,
    stats: RunStats,
    violations: Vec<String>,
    kept_in: Option<PathBuf>,
}

impl RunResult {
    pub fn kept(&self) -> bool {
        self.violations.is_empty()
    }
}

/// Returns the name of this program, for the command that replays a run.
pub fn replay() -> String {
    std::env::args()
        .next()
        .unwrap_or_else(|| "triarch-sim".into())
}

impl fmt::Display for RunResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.kept() { "kept" } else { "BROKEN" };
        let faults: u64 = self.stats.faults.values().sum();
        writeln!(
            f,
            "seed {} {word} trace {:016x} simulated_ms {} real_ms {} faults {faults} acknowledged {} unknown {} leaders {}",
            self.seed,
            self.digest,
            self.simulated_ms,
            self.real_ms,
            self.stats.acknowledged,
            self.stats.unknown,
            self.stats.leaders_seen,
        )?;
        for (kind, count) in &self.stats.faults {
            writeln!(f, "  fault {count} {kind}")?;
        }
        for (kind, count) in &self.stats.operations {
            writeln!(f, "  operation {count} {kind}")?;
        }
        for violation in &self.violations {
            writeln!(f, "  broken: {violation}")?;
        }
        if let Some(dir) = &self.kept_in {
            writeln!(f, "  disks and logs: {}", dir.display())?;
        }
        if !self.kept() {
            write!(
                f,
                "  replay: {} --seed {} --keep --trace trace.txt",
                replay(),
                self.seed
            )?;
        }
        Ok(())
    }
}

/// Returns the directory of the disks: in memory, with a path of fixed length, so that the length does not affect the
/// run.
fn disks_dir() -> anyhow::Result<PathBuf> {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() {
        memory.to_path_buf()
    } else {
        std::env::temp_dir()
    };
    let dir = base.join(format!("triarch-sim-{:010}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    Ok(dir)
}

/// Runs one seed.
pub fn run(args: &Args) -> anyhow::Result<RunResult> {
    let (program, seed, keep) = (&args.program, args.seed, args.keep);
    anyhow::ensure!(
        program.is_file(),
        "{} is not there: build it (cargo build --release), or name another with --program",
        program.display()
    );
    let begun = Instant::now();
    let dir = disks_dir()?;
    let mut random = Random::new(seed ^ 0x5EED);
    let settings = Settings {
        program: program.clone(),
        kernel: kernel::library()?,
        dir: dir.clone(),
        seed,
        preemption_per_mille: *random.one_of(&[0, 0, 5, 50]),
        server_args: faults::server_args(&mut random),
        weakened: args.weakened,
    };
    let lines = args.trace.as_ref().map(File::create).transpose()?;
    let sim = Sim::new(World::new(settings, Trace::new(lines)));
    let context = SimContext::new(sim.clone());
    let result = sim.run(run_guarded(context.clone(), random));
    let cleared = if keep {
        Ok(())
    } else {
        std::fs::remove_dir_all(&dir)
    };
    result?;
    cleared?;
    for (rule, what) in invariants::broken(&context.history()) {
        sim.world().violated(rule, what);
    }
    let history = context.recorder.history();
    if keep {
        write(&history, &dir.join("history.jsonl"))?;
    }
    judge(&context, &history);
    let mut world = sim.world();
    let mut violations = std::mem::take(&mut world.violations);
    let stats = std::mem::take(&mut world.stats);
    if stats.faults.values().sum::<u64>() == 0 {
        violations.push("the run made no fault, so it proves nothing".into());
    }
    if stats.acknowledged == 0 {
        violations.push("nothing was acknowledged, so the run proves nothing".into());
    }
    Ok(RunResult {
        seed,
        digest: world.trace.value(),
        simulated_ms: world.now / MS,
        real_ms: begun.elapsed().as_millis(),
        stats,
        violations,
        kept_in: keep.then_some(dir),
    })
}

/// Writes the history to a file, which `triarch-check` can check again.
fn write(history: &History, path: &Path) -> anyhow::Result<()> {
    let file = Recorder::to_file(path).with_context(|| format!("{}", path.display()))?;
    for record in &history.records {
        file.append(record.clone());
    }
    file.flush().with_context(|| format!("{}", path.display()))
}

/// Checks the recorded history.
fn judge(context: &SimContext, history: &History) {
    let verdict = triarch_check::check(history);
    for finding in &verdict.findings {
        let word = format!("{:?} (triarch-check)", finding.judgement).to_lowercase();
        let what = format!("{}: {}", finding.rule, finding.what);
        context.sim.world().violated(&word, what);
    }
}

async fn run_guarded(context: SimContext, mut random: Random) {
    if let Err(error) = run_phases(&context, &mut random).await {
        context
            .sim
            .world()
            .violated("the simulation can go on", format!("{error:#}"));
    }
}

async fn run_phases(context: &SimContext, random: &mut Random) -> anyhow::Result<()> {
    let cluster: Vec<String> = (1..=3)
        .map(|host: Host| format!("{host}={}", address(host)))
        .collect();
    // Half of the clusters begin with masters of the version before among the others.
    let mixed = random.percent(50);
    for host in 1..=3 {
        let old = mixed && random.percent(50);
        let mut world = context.sim.world();
        world.install(host, vec!["--cluster".into(), cluster.join(",")])?;
        if let Some(machine) = world.machines.get_mut(&host) {
            machine.set_old(old);
        }
        world.boot(host)?;
    }
    let (submitters, workers) = (random.between(1, 4) as Host, random.between(1, 4) as Host);
    for nth in 0..submitters {
        context
            .sim
            .spawn(client_load::submit(context.clone(), CLIENTS_FROM + 1 + nth));
    }
    for nth in 0..workers {
        context
            .sim
            .spawn(worker::work(context.clone(), CLIENTS_FROM + 11 + nth));
    }
    context
        .sim
        .spawn(client_load::read(context.clone(), CLIENTS_FROM + 21));
    context
        .sim
        .spawn(client_load::cancel(context.clone(), CLIENTS_FROM + 22));
    context
        .sim
        .spawn(client_load::observe(context.clone(), CLIENTS_FROM + 23));
    context
        .sim
        .spawn(schedule(context.clone(), CLIENTS_FROM + 24));
    // Usually long enough for a first leader.
    let calm = random.between(200 * MS, 2 * SECOND);
    context.sim.sleep(calm).await;
    let span = random.between(5, 15) * SECOND;
    faults::make(context.clone(), CLIENTS_FROM + 31, context.sim.now() + span).await?;
    faults::end_all(context)?;
    heal::heal(context, CLIENTS_FROM + 32).await;
    Ok(())
}

/// Creates a schedule that ticks every second, once.
async fn schedule(context: SimContext, host: Host) {
    let mut client = context.client(host);
    let body = json!({"cron": "* * * * * *", "catch_up": "none",
        "job": {"name": "tick", "tasks": [{"kind": "sim", "payload": {"ms": 5, "tick": true}, "max_losses": 1000}]}});
    let spec = RequestSpec {
        method: "PUT",
        path: "/v1/schedules/ticks",
        request_id: Some("put-ticks"),
        body: Some(&body),
        timeout: 3 * SECOND,
        tries: 50,
        ops: Vec::new(),
    };
    if let RequestOutcome::Refused(response) = client.send(spec).await {
        let what = format!("the schedule was refused: {}", response.json());
        context.sim.world().violated("what is valid is taken", what);
    }
}
