//! Scenario: the power of all masters' disks is cut at once under load. Unsynced data is lost, as in a real power cut.
//!
//! SIGKILL cannot reveal a missing sync, because the kernel survives and writes everything to disk in time. Here each
//! master's directory is on an ext4 file system of its own, in a file. All three file systems are shut down under the
//! running masters without a flush, the masters are killed, and the file systems are mounted again from what had
//! reached the "disk". A canary file that was written and not synced must be gone. Otherwise the cut had no effect, and
//! the drill proves nothing.

use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use rand::RngExt;

use crate::drill::Drill;
use crate::results::latency::Latencies;
use crate::testbed::disk_image::{self, DiskImage};
use crate::{LoadArgs, Outcome};

/// Cut the power of all disks at once, so that unsynced data is lost (needs root and loop devices)
#[derive(Debug, Args)]
pub struct PowerCutArgs {
    /// Number of cuts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    cuts: u32,
    #[command(flatten)]
    load: LoadArgs,
}

/// Number of submissions between two cuts.
const JOBS_BETWEEN_ROUNDS: usize = 100;
const MAX_PAUSE_MS: u64 = 1_000;

impl PowerCutArgs {
    /// Runs the drill.
    pub async fn run(self) -> anyhow::Result<Outcome> {
        if let Some(obstacle) = disk_image::obstacle() {
            eprintln!("skipped: a power cut cannot be simulated here: {obstacle}");
            return Ok(Outcome::Skipped);
        }
        // Fields are dropped in this order: the drill's processes, the mounts, the directory.
        let dir = tempfile::Builder::new()
            .prefix("triarch-disks-")
            .tempdir()?;
        let mut images = Vec::new();
        for id in 1..=3 {
            match DiskImage::make(dir.path(), &format!("disk-{id}")) {
                Ok(image) => images.push(image),
                Err(error) if images.is_empty() => {
                    eprintln!("skipped: a power cut cannot be simulated here: {error:#}");
                    return Ok(Outcome::Skipped);
                }
                Err(error) => return Err(error),
            }
        }
        let data_dirs = images.iter().map(DiskImage::data_dir).collect();
        let mut drill = Drill::begin(&self.load, data_dirs).await;
        let mut times = Latencies::default();
        for nth in 1..=self.cuts {
            drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
            let calm = Duration::from_millis(drill.random.random_range(0..=MAX_PAUSE_MS));
            tokio::time::sleep(calm).await;
            for image in &mut images {
                image.write_canary()?;
            }
            for image in &images {
                image.cut()?;
            }
            for node in drill.cluster.ids() {
                drill.cluster.kill9(node);
            }
            for image in &mut images {
                image.unmount()?;
                image.mount()?;
                ensure!(
                    image.canary_is_gone(),
                    "what was never synced survived on {}: the power was not really cut, so nothing is proved",
                    image.path().display()
                );
            }
            let started = Instant::now();
            for node in drill.cluster.ids() {
                drill.cluster.restart(node);
            }
            drill.cluster.wait_ready().await;
            times.add(started.elapsed());
            println!(
                "cut {nth:>3}/{}: ready again after {} ms",
                self.cuts,
                started.elapsed().as_millis()
            );
        }
        drill.wait_acknowledged(JOBS_BETWEEN_ROUNDS).await;
        let ready = format!("from their start until all are ready: {}", times.summary());
        Ok(drill
            .end(&format!("power cut {} times", self.cuts), &[ready])
            .await)
    }
}
