//! Layout of a development cluster: ports, directories, and the command line of every process.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use triarch_process::private_files;

use super::options::DevOptions;
use super::role::Role;
use crate::args::DEFAULT_MASTERS;
use crate::{output, shell};

/// Time that running attempts get when the cluster stops.
const WORKER_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Addresses and paths of a development cluster. The directory holds `master-N/`, `logs/` and `cluster.json`.
#[derive(Debug)]
pub struct Layout {
    shape: Shape,
    workers: u16,
    root: PathBuf,
    /// Temporary directory, removed at the end if no process failed.
    temporary: Option<tempfile::TempDir>,
    binary: PathBuf,
}

/// Parameters that a directory cannot change once its cluster exists, because the masters know each other by these
/// addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    nodes: u16,
    port: u16,
}

/// Returns the ports of these options that are already in use.
pub fn taken_ports(options: &DevOptions) -> Vec<u16> {
    let shape = Shape {
        nodes: options.nodes,
        port: options.port,
    };
    shape
        .ports()
        .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err())
        .collect()
}

impl Shape {
    fn ports(self) -> impl Iterator<Item = u16> {
        (1..=self.nodes).map(move |id| self.port_of(id))
    }

    fn port_of(self, id: u16) -> u16 {
        // The command line has checked that the sum is a port.
        self.port + id
    }

    fn address(self, id: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port_of(id)))
    }
}

impl Layout {
    /// Creates the directories and checks that they fit the options.
    pub fn prepare(options: &DevOptions) -> anyhow::Result<Self> {
        let shape = Shape {
            nodes: options.nodes,
            port: options.port,
        };
        let (root, temporary) = match &options.data_dir {
            Some(dir) => {
                private_files::create_directory(dir)
                    .with_context(|| format!("cannot create the directory {}", dir.display()))?;
                let dir = dir
                    .canonicalize()
                    .with_context(|| format!("cannot open {}", dir.display()))?;
                (dir, None)
            }
            None => {
                let dir = tempfile::Builder::new()
                    .prefix("triarch-dev-")
                    .tempdir()
                    .context("cannot create a temporary directory; choose one with --data-dir")?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        let binary = std::env::current_exe().context("cannot find the path of this program")?;
        let layout = Self {
            shape,
            workers: options.workers,
            root,
            temporary,
            binary,
        };
        layout.check_shape()?;
        private_files::create_directory(&layout.logs())
            .with_context(|| format!("cannot create the directory {}", layout.logs().display()))?;
        if let Err(error) = private_files::make_private(&layout.logs()) {
            output::print_note(&format!(
                "other users may read {} ({error}): make it private with chmod -R go= by its owner",
                layout.logs().display()
            ));
        }
        Ok(layout)
    }

    /// Writes the shape of a new directory, and refuses another shape for an existing one.
    fn check_shape(&self) -> anyhow::Result<()> {
        let path = self.root.join("cluster.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                let known: Shape = serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} is damaged", path.display()))?;
                anyhow::ensure!(
                    known == self.shape,
                    "{} contains a cluster of {} masters at port {}, whose members know each other by these addresses: \
                     start it with --nodes {} --port {}, or use another --data-dir",
                    self.root.display(),
                    known.nodes,
                    known.port,
                    known.nodes,
                    known.port
                );
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let bytes = serde_json::to_vec(&self.shape)?;
                private_files::create(&path)
                    .and_then(|mut file| file.write_all(&bytes))
                    .with_context(|| format!("cannot write {}", path.display()))
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Returns every process, masters first.
    pub fn roles(&self) -> impl Iterator<Item = Role> + use<> {
        let masters = (1..=self.shape.nodes).map(Role::Master);
        masters.chain((1..=self.workers).map(Role::Worker))
    }

    /// Returns the names with which the workers register.
    pub fn worker_names(&self) -> Vec<String> {
        (1..=self.workers).map(worker_name).collect()
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub fn log(&self, role: Role) -> PathBuf {
        self.logs().join(match role {
            Role::Master(id) => format!("master-{id}.log"),
            Role::Worker(number) => format!("worker-{number}.log"),
        })
    }

    /// Returns whether the data is removed at the end.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Returns whether clients find this cluster without the option `--masters`.
    pub fn ports_are_default(&self) -> bool {
        DEFAULT_MASTERS
            .split(',')
            .any(|url| self.masters_urls().iter().any(|own| own == url))
    }

    /// Returns the base URLs of all masters.
    pub fn masters_urls(&self) -> Vec<String> {
        (1..=self.shape.nodes).map(|id| self.url(id)).collect()
    }

    pub fn url(&self, id: u16) -> String {
        format!("http://{}", self.shape.address(id))
    }

    /// Returns the arguments that only a child needs, in addition to [`Layout::arguments`].
    pub fn child_arguments(&self, role: Role) -> Vec<String> {
        match role {
            Role::Master(_) => Vec::new(),
            Role::Worker(number) => {
                let timeout = format!("{}ms", WORKER_SHUTDOWN_TIMEOUT.as_millis());
                vec![
                    "--name".into(),
                    worker_name(number),
                    "--shutdown-timeout".into(),
                    timeout,
                ]
            }
        }
    }

    /// Returns the arguments of the process with this role.
    pub fn arguments(&self, role: Role) -> Vec<String> {
        match role {
            Role::Master(id) => {
                let members: Vec<String> = (1..=self.shape.nodes)
                    .map(|id| format!("{id}={}", self.shape.address(id)))
                    .collect();
                vec![
                    "server".into(),
                    "--id".into(),
                    id.to_string(),
                    "--listen".into(),
                    self.shape.address(id).to_string(),
                    "--data-dir".into(),
                    self.root.join(format!("master-{id}")).display().to_string(),
                    "--cluster".into(),
                    members.join(","),
                ]
            }
            Role::Worker(_) => vec![
                "worker".into(),
                "--masters".into(),
                self.masters_urls().join(","),
            ],
        }
    }

    /// Returns the same arguments as a command line to paste into a shell.
    pub fn command_line(&self, role: Role) -> String {
        let binary = self.binary.display().to_string();
        let words: Vec<String> = std::iter::once(binary)
            .chain(self.arguments(role))
            .map(|word| shell::quote(&word))
            .collect();
        words.join(" ")
    }

    /// Removes a temporary directory if no process failed; otherwise it is kept for diagnosis.
    pub fn clean_up(self, all_were_well: bool) {
        let Some(dir) = self.temporary else { return };
        if all_were_well {
            // A failure to remove a temporary directory is not worth an error at the very end.
            let _ = dir.close();
        } else {
            output::print_note(&format!(
                "The logs and data are kept in {}",
                dir.keep().display()
            ));
        }
    }
}

/// Returns a worker's name, different for each cluster, because the workers of a killed cluster count as alive for a
/// while.
fn worker_name(number: u16) -> String {
    format!("dev-{}-worker-{number}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn options(data_dir: &Path, nodes: u16, port: u16) -> DevOptions {
        DevOptions {
            nodes,
            workers: 2,
            port,
            data_dir: Some(data_dir.to_owned()),
            format: Format::Table,
        }
    }

    #[test]
    fn a_directory_refuses_another_shape_than_its_first() {
        let dir = tempfile::tempdir().unwrap();
        Layout::prepare(&options(dir.path(), 3, 7100)).unwrap();
        Layout::prepare(&options(dir.path(), 3, 7100)).unwrap();
        for (nodes, port) in [(1, 7100), (3, 7200)] {
            let said = Layout::prepare(&options(dir.path(), nodes, port))
                .unwrap_err()
                .to_string();
            assert!(said.contains("--nodes 3 --port 7100"), "{said}");
        }
    }

    #[test]
    fn a_port_in_use_is_reported() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        assert!(taken_ports(&options(dir.path(), 1, port - 1)).contains(&port));
    }
}
