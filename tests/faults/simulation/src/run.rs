//! One run of one seed: the cluster, the work, the faults, the healing, the verdict.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use serde_json::json;
use triarch_check::{History, Recorder};

use crate::Args;
use crate::actors::Sim;
use crate::faults;
use crate::heal;
use crate::invariants;
use crate::kernel;
use crate::machine::address;
use crate::random::Random;
use crate::scene::{Ask, Known, Scene};
use crate::tally::Tally;
use crate::trace::Trace;
use crate::traffic;
use crate::worker;
use crate::world::{CLIENTS_FROM, Host, MS, SECOND, Settings, World};

/// What came of a run.
pub struct Verdict {
    seed: u64,
    digest: u64,
    simulated_ms: u64,
    real_ms: u128,
    tally: Tally,
    violations: Vec<String>,
    kept_in: Option<PathBuf>,
}

impl Verdict {
    pub fn kept(&self) -> bool {
        self.violations.is_empty()
    }
}

/// How this program is called.
pub fn replay() -> String {
    std::env::args()
        .next()
        .unwrap_or_else(|| "triarch-sim".into())
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.kept() { "kept" } else { "BROKEN" };
        let faults: u64 = self.tally.faults.values().sum();
        writeln!(
            f,
            "seed {} {word} trace {:016x} simulated_ms {} real_ms {} faults {faults} acknowledged {} unknown {} leaders {}",
            self.seed,
            self.digest,
            self.simulated_ms,
            self.real_ms,
            self.tally.acknowledged,
            self.tally.unknown,
            self.tally.leaders_seen,
        )?;
        for (kind, count) in &self.tally.faults {
            writeln!(f, "  fault {count} {kind}")?;
        }
        for (kind, count) in &self.tally.operations {
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

/// Where the disks are: in memory, under a name of one length, so that nothing depends on it.
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
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
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
    let scene = Scene::new(sim.clone());
    let result = sim.run(whole(scene.clone(), random));
    let cleared = if keep {
        Ok(())
    } else {
        std::fs::remove_dir_all(&dir)
    };
    result?;
    cleared?;
    for (rule, what) in invariants::broken(&scene.history()) {
        sim.world().violated(rule, what);
    }
    let history = scene.recorder.history();
    if keep {
        write(&history, &dir.join("history.jsonl"))?;
    }
    judge(&scene, &history);
    let mut world = sim.world();
    let mut violations = std::mem::take(&mut world.violations);
    let tally = std::mem::take(&mut world.tally);
    if tally.faults.values().sum::<u64>() == 0 {
        violations.push("the run made no fault, so it proves nothing".into());
    }
    if tally.acknowledged == 0 {
        violations.push("nothing was acknowledged, so the run proves nothing".into());
    }
    Ok(Verdict {
        seed,
        digest: world.trace.value(),
        simulated_ms: world.now / MS,
        real_ms: begun.elapsed().as_millis(),
        tally,
        violations,
        kept_in: keep.then_some(dir),
    })
}

/// Leaves the history to be read, and judged again by `triarch-check`.
fn write(history: &History, path: &Path) -> anyhow::Result<()> {
    let file = Recorder::to_file(path).with_context(|| format!("{}", path.display()))?;
    for record in &history.records {
        file.append(record.clone());
    }
    file.flush().with_context(|| format!("{}", path.display()))
}

/// Has the recorded history judged.
fn judge(scene: &Scene, history: &History) {
    let verdict = triarch_check::check(history);
    for finding in &verdict.findings {
        let word = format!("{:?} (triarch-check)", finding.judgement).to_lowercase();
        let what = format!("{}: {}", finding.rule, finding.what);
        scene.sim.world().violated(&word, what);
    }
}

async fn whole(scene: Scene, mut random: Random) {
    if let Err(error) = acts(&scene, &mut random).await {
        scene
            .sim
            .world()
            .violated("the simulation can go on", format!("{error:#}"));
    }
}

async fn acts(scene: &Scene, random: &mut Random) -> anyhow::Result<()> {
    let cluster: Vec<String> = (1..=3)
        .map(|host: Host| format!("{host}={}", address(host)))
        .collect();
    for host in 1..=3 {
        let mut world = scene.sim.world();
        world.install(host, vec!["--cluster".into(), cluster.join(",")])?;
        world.boot(host)?;
    }
    let (submitters, workers) = (random.between(1, 4) as Host, random.between(1, 4) as Host);
    for nth in 0..submitters {
        scene
            .sim
            .spawn(traffic::submit(scene.clone(), CLIENTS_FROM + 1 + nth));
    }
    for nth in 0..workers {
        scene
            .sim
            .spawn(worker::work(scene.clone(), CLIENTS_FROM + 11 + nth));
    }
    scene
        .sim
        .spawn(traffic::read(scene.clone(), CLIENTS_FROM + 21));
    scene
        .sim
        .spawn(traffic::cancel(scene.clone(), CLIENTS_FROM + 22));
    scene
        .sim
        .spawn(traffic::observe(scene.clone(), CLIENTS_FROM + 23));
    scene.sim.spawn(schedule(scene.clone(), CLIENTS_FROM + 24));
    // Long enough for a first leader; sometimes not.
    let calm = random.between(200 * MS, 2 * SECOND);
    scene.sim.sleep(calm).await;
    let span = random.between(5, 15) * SECOND;
    faults::make(scene.clone(), CLIENTS_FROM + 31, scene.sim.now() + span).await?;
    faults::end_all(scene)?;
    heal::heal(scene, CLIENTS_FROM + 32).await;
    Ok(())
}

/// A schedule that ticks every second, put there once.
async fn schedule(scene: Scene, host: Host) {
    let mut client = scene.client(host);
    let body = json!({"cron": "* * * * * *", "catch_up": "none",
        "job": {"name": "tick", "tasks": [{"kind": "sim", "payload": {"ms": 5, "tick": true}, "max_losses": 1000}]}});
    let ask = Ask {
        method: "PUT",
        path: "/v1/schedules/ticks",
        request_id: Some("put-ticks"),
        body: Some(&body),
        timeout: 3 * SECOND,
        tries: 50,
        ops: Vec::new(),
    };
    if let Known::Refused(response) = client.ask(ask).await {
        let what = format!("the schedule was refused: {}", response.json());
        scene.sim.world().violated("what is valid is taken", what);
    }
}
