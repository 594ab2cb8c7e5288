//! `triarch dev`: a whole cluster on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::dev::{self, DevOptions};
use crate::error::usage_error;
use crate::output::Format;

/// Runs a whole cluster on this machine, for experiments
#[derive(Debug, Args)]
#[command(
    after_help = "Masters and workers are separate processes, so that you can kill one and observe the failover. A \
                  process that dies is not restarted; the command that restarts it is printed."
)]
pub struct DevArgs {
    /// Number of masters; should be odd: 3 tolerate the loss of one
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Number of workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=64))]
    workers: u16,
    /// Base port: master N listens on this port plus N
    #[arg(long, default_value_t = 7100, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Directory for data and logs [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl DevArgs {
    /// Runs the cluster until it is stopped.
    pub fn run(self, format: Format) -> anyhow::Result<ExitCode> {
        if self.port.checked_add(self.nodes).is_none() {
            return Ok(usage_error(&format!(
                "--port {} is too high for {} masters: the port plus the highest node id must not exceed 65535",
                self.port, self.nodes
            )));
        }
        dev::run(DevOptions {
            nodes: self.nodes,
            workers: self.workers,
            port: self.port,
            data_dir: self.data_dir,
            format,
        })
    }
}
