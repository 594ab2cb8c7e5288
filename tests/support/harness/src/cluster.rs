//! A cluster of masters and workers. Each master is a process with a directory of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::checks::founding_level;
use crate::faults::fake_clock::FakeClocks;
use crate::history::HistoryWriter;
use crate::http::{self, Api, Call, Reply};
use crate::processes::addresses::{self, NodeAddress, PORT_BASE};
use crate::processes::binary::triarch;
use crate::processes::cluster_permit::ClusterPermit;
use crate::processes::command::Cli;
use crate::processes::process::{self, MARKER_ENV, Process};
use crate::processes::program::Program;
use crate::wait::{eventually, until};

/// Maximum time for a cluster to form, elect or catch up, also on a slow and busy machine.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of log entries between two comparisons of the masters' tables.
const DIGEST_INTERVAL: &str = "32";
/// Environment variable that keeps the logs and the data of every cluster, also after success.
const KEEP_FILES_ENV: &str = "TRIARCH_TEST_KEEP";

/// Settings of a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of masters.
    pub nodes: u64,
    /// Time without a heartbeat after which a worker is lost.
    pub lease_ms: u64,
    /// A directory for each master. If empty, they are created in a temporary directory.
    pub data_dirs: Vec<PathBuf>,
    /// Additional arguments of every master.
    pub more: Vec<String>,
    /// Wall clocks of the masters, if not that of the machine.
    pub fake_clocks: Option<FakeClocks>,
    /// Programs of some masters, by id.
    pub programs: BTreeMap<u64, Program>,
    /// Address of each master. If empty, all run on a loopback address that only this cluster uses.
    pub addresses: Vec<NodeAddress>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            lease_ms: 10_000,
            data_dirs: Vec::new(),
            more: Vec::new(),
            fake_clocks: None,
            programs: BTreeMap::new(),
            addresses: Vec::new(),
        }
    }
}

/// A worker process, and the arguments it was started with.
#[derive(Debug)]
struct Worker {
    process: Process,
    masters: String,
    more: Vec<String>,
}

/// A cluster. Dropping it kills all its processes and removes its directories, or keeps them after a failure.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    address: IpAddr,
    root: Option<tempfile::TempDir>,
    mark: String,
    client: reqwest::Client,
    nodes: Vec<Process>,
    workers: Vec<Worker>,
    history_writer: Option<Arc<HistoryWriter>>,
    keep: bool,
    _permit: ClusterPermit,
}

impl Cluster {
    /// Starts this many masters with all settings at their defaults, and waits until they are ready.
    pub async fn start(nodes: u64) -> Self {
        Self::with(Options {
            nodes,
            ..Options::default()
        })
        .await
    }

    /// Starts masters with these settings, and waits until they are ready.
    pub async fn with(options: Options) -> Self {
        let mut cluster = Self::prepare(options).await;
        for id in 1..=cluster.options.nodes {
            let process = cluster.spawn_node(id);
            cluster.nodes.push(process);
        }
        cluster.wait_ready().await;
        founding_level::wait(&cluster.apis()).await;
        cluster
    }

    /// Prepares masters without starting any. The test starts them itself by [`Cluster::server_command`].
    pub async fn unstarted(options: Options) -> Self {
        Self::prepare(options).await
    }

    async fn prepare(options: Options) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let permit = ClusterPermit::acquire().await;
        let root = tempfile::Builder::new()
            .prefix("triarch-test-")
            .tempdir()
            .expect("a temporary directory can be made");
        std::fs::create_dir(root.path().join("logs")).expect("a directory can be made");
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            options,
            address: addresses::own_address(),
            mark: format!("{}-{nth}", std::process::id()),
            root: Some(root),
            client: http::client(),
            nodes: Vec::new(),
            workers: Vec::new(),
            history_writer: None,
            keep: std::env::var_os(KEEP_FILES_ENV).is_some(),
            _permit: permit,
        }
    }

    /// Returns the directory of the logs and, by default, of the data.
    pub fn root(&self) -> &Path {
        self.root.as_ref().expect("there until dropped").path()
    }

    /// Returns the data directory of a master.
    pub fn data_dir(&self, node: u64) -> PathBuf {
        let given = self.options.data_dirs.get(node as usize - 1).cloned();
        given.unwrap_or_else(|| self.root().join(format!("master-{node}")))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.root().join("logs").join(format!("{name}.log"))
    }

    fn node_address(&self, node: u64) -> Option<&NodeAddress> {
        self.options.addresses.get(node as usize - 1)
    }

    /// Returns `host:port` of a master, for clients in this process.
    pub fn addr(&self, node: u64) -> String {
        match self.node_address(node) {
            Some(address) => address.listen.to_string(),
            None => format!("{}:{}", self.address, u64::from(PORT_BASE) + node),
        }
    }

    /// Returns `host:port` of a master, for the other masters and for workers that are redirected to it.
    pub fn advertised(&self, node: u64) -> String {
        match self.node_address(node) {
            Some(address) => address.advertised.to_string(),
            None => self.addr(node),
        }
    }

    /// Returns the base URL of a master.
    pub fn url(&self, node: u64) -> String {
        format!("http://{}", self.addr(node))
    }

    /// Returns the base URLs of all masters, in the format of `--masters`.
    pub fn masters(&self) -> String {
        let urls: Vec<String> = self.ids().map(|id| self.url(id)).collect();
        urls.join(",")
    }

    /// Returns the ids of the masters, those of added and removed masters included.
    pub fn ids(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.options.nodes.max(self.nodes.len() as u64)
    }

    /// Returns the value of `--cluster`: the founding masters.
    pub fn members(&self) -> String {
        let members: Vec<String> = (1..=self.options.nodes)
            .map(|id| format!("{id}={}", self.advertised(id)))
            .collect();
        members.join(",")
    }

    /// Returns the command line of a master. A repeated option does not override the first one, so a test replaces
    /// arguments itself.
    pub fn server_command(&self, node: u64, data_dir: &Path) -> Command {
        let program = self.options.programs.get(&node).cloned();
        let program = program.unwrap_or_default();
        let mut command = self.marked(program.binary.unwrap_or_else(triarch));
        command
            .arg("server")
            .args(["--id", &node.to_string()])
            .args(["--listen", &self.addr(node)])
            .arg("--data-dir")
            .arg(data_dir)
            .args(if node <= self.options.nodes {
                ["--cluster".to_owned(), self.members()]
            } else {
                ["--join".to_owned(), self.masters()]
            })
            .args(["--lease-ms", &self.options.lease_ms.to_string()])
            // Frequent comparisons: a master whose table differs stops, and its test fails.
            .args(["--check-every", DIGEST_INTERVAL])
            .args(&self.options.more)
            .args(&program.more);
        if let Some(fake_clocks) = &self.options.fake_clocks {
            fake_clocks.apply(&mut command, node);
        }
        if let Some(namespace) = self
            .node_address(node)
            .and_then(|address| address.namespace.as_deref())
        {
            process::enter_namespace(&mut command, namespace);
        }
        command
    }

    /// Returns a command whose process, and all processes that it starts, end with this cluster.
    pub fn marked(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(MARKER_ENV, &self.mark).current_dir(self.root());
        // One line about a panic is enough in a log. A whole backtrace would hide everything else.
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// Returns the log of a master, over all of its starts.
    pub fn log_line_of(&self, node: u64) -> String {
        let log = self.log(&format!("master-{node}"));
        std::fs::read_to_string(log).unwrap_or_default()
    }

    fn spawn_node(&self, node: u64) -> Process {
        let name = format!("master-{node}");
        let command = self.server_command(node, &self.data_dir(node));
        Process::spawn(&name, command, &self.log(&name))
    }

    /// Starts one more master with `--join`, and returns its id.
    pub async fn start_waiting(&mut self) -> u64 {
        let node = self.nodes.len() as u64 + 1;
        let process = self.spawn_node(node);
        self.nodes.push(process);
        let api = self.api(node);
        until(WAIT_TIMEOUT, format!("master {node} listens"), async || {
            let reply = api.call(reqwest::Method::GET, "/healthz").send().await;
            reply.is_ok_and(|reply| reply.status == 200)
        })
        .await;
        node
    }

    /// Returns a master in the format of `triarch cluster add`.
    pub fn named(&self, node: u64) -> String {
        format!("{node}={}", self.advertised(node))
    }

    /// Starts another process of this cluster. The caller owns it.
    pub fn spawn(&self, name: &str, command: Command) -> Process {
        Process::spawn(name, command, &self.log(name))
    }

    /// Returns the process of a master.
    pub fn node(&mut self, node: u64) -> &mut Process {
        &mut self.nodes[node as usize - 1]
    }

    /// Returns the process id of a master.
    pub fn pid(&self, node: u64) -> u32 {
        self.nodes[node as usize - 1].pid()
    }

    /// Kills a master by SIGKILL.
    pub fn kill9(&mut self, node: u64) {
        self.node(node).kill9();
    }

    /// Sends these requests, and kills a master by SIGKILL `after` that time. Returns the answers, with `None` for each
    /// request without an answer.
    pub async fn kill9_amid(
        &mut self,
        node: u64,
        after: Duration,
        calls: Vec<Call>,
    ) -> Vec<Option<Reply>> {
        let sent: Vec<_> = calls
            .into_iter()
            .map(|call| tokio::spawn(call.send()))
            .collect();
        // The exact time is the purpose: the kill falls somewhere within the processing of the requests.
        tokio::time::sleep(after).await;
        self.kill9(node);
        let mut replies = Vec::new();
        for one in sent {
            replies.push(one.await.expect("a request does not panic").ok());
        }
        replies
    }

    /// Pauses a master by SIGSTOP.
    pub fn stop(&mut self, node: u64) {
        self.node(node).stop();
    }

    /// Resumes a master by SIGCONT.
    pub fn cont(&mut self, node: u64) {
        self.node(node).cont();
    }

    /// Stops a master by SIGTERM, and returns its exit status.
    pub async fn terminate(&mut self, node: u64) -> ExitStatus {
        self.node(node).terminate();
        self.node(node).wait(WAIT_TIMEOUT).await
    }

    /// Starts a master that has ended again, with the same command.
    pub fn restart(&mut self, node: u64) {
        assert!(
            self.node(node).ended().is_some(),
            "master {node} still runs"
        );
        let process = self.spawn_node(node);
        *self.node(node) = process;
    }

    /// Makes a master run this program from its next start on.
    pub fn set_program(&mut self, node: u64, program: Program) {
        self.options.programs.insert(node, program);
    }

    /// Ends a master, and starts it again with this program.
    pub async fn replace_program(&mut self, node: u64, program: Program) {
        self.terminate(node).await;
        self.set_program(node, program);
        self.restart(node);
    }

    /// Returns the masters that run and are not paused.
    pub fn running(&mut self) -> Vec<u64> {
        self.ids()
            .filter(|id| self.nodes[*id as usize - 1].is_running())
            .collect()
    }

    /// Records requests from now on: those that are sent through [`Cluster::api`] by the functions of
    /// [`crate::history`].
    pub fn observe(&mut self, history_writer: Arc<HistoryWriter>) {
        self.history_writer = Some(history_writer);
    }

    /// Returns the HTTP interface of a master.
    pub fn api(&self, node: u64) -> Api {
        Api::new(self.client.clone(), self.url(node)).of_node(node, self.history_writer.clone())
    }

    /// Returns the HTTP interfaces of all masters, by id.
    pub fn apis(&self) -> Vec<Api> {
        self.ids().map(|id| self.api(id)).collect()
    }

    /// Returns the command line program, with all masters as its cluster.
    pub fn cli(&self) -> Cli {
        Cli::new(&self.mark).masters(&self.masters())
    }

    /// Waits until every running master is ready and they agree on the leader.
    pub async fn wait_ready(&mut self) -> u64 {
        let running = self.running();
        let apis = self.apis();
        let what = format!("masters {running:?} are ready and agree on a leader");
        eventually(WAIT_TIMEOUT, what, async || {
            self.none_has_ended(&running);
            let mut leaders = Vec::new();
            for id in &running {
                leaders.push(apis[*id as usize - 1].believed_leader().await?.1);
            }
            leaders.dedup();
            (leaders.len() == 1 && running.contains(&leaders[0])).then(|| leaders[0])
        })
        .await
    }

    fn none_has_ended(&mut self, nodes: &[u64]) {
        for id in nodes {
            let node = self.node(*id);
            if let Some(status) = node.ended() {
                panic!("{} ended: {}", node.name, process::describe_exit(status));
            }
        }
    }

    /// Returns the master that reports itself as leader. It runs and is not paused.
    pub async fn leader(&mut self) -> u64 {
        let running = self.running();
        let apis = self.apis();
        eventually(
            WAIT_TIMEOUT,
            format!("one of the masters {running:?} leads"),
            async || {
                let mut latest: Option<(u64, u64)> = None;
                for id in &running {
                    if let Some((term, leader)) = apis[*id as usize - 1].believed_leader().await
                        && leader == *id
                    {
                        latest = latest.max(Some((term, leader)));
                    }
                }
                latest.map(|(_, leader)| leader)
            },
        )
        .await
    }

    /// Returns the latest term and its leader, as the running masters report them now. Does not wait.
    pub async fn observed_leader(&mut self) -> Option<(u64, u64)> {
        let mut latest = None;
        for id in self.running() {
            latest = latest.max(self.api(id).believed_leader().await);
        }
        latest
    }

    /// Waits for a leader other than `old`, and returns it.
    pub async fn leader_other_than(&mut self, old: u64) -> u64 {
        let running: Vec<u64> = self.running().into_iter().filter(|id| *id != old).collect();
        let apis = self.apis();
        eventually(
            WAIT_TIMEOUT,
            format!("one of the masters {running:?} leads instead of {old}"),
            async || {
                for id in &running {
                    if let Some((_, leader)) = apis[*id as usize - 1].believed_leader().await
                        && leader == *id
                    {
                        return Some(leader);
                    }
                }
                None
            },
        )
        .await
    }

    /// Returns the leader, and a master that runs and follows it.
    pub async fn leader_and_follower(&mut self) -> (u64, u64) {
        let leader = self.wait_ready().await;
        let other = self.running().into_iter().find(|id| *id != leader);
        (leader, other.expect("a second master runs"))
    }

    /// Returns a master that runs and does not lead.
    pub async fn follower(&mut self) -> u64 {
        self.leader_and_follower().await.1
    }

    /// Waits until `node` has everything on its disk that is committed now, as the leader reports it.
    pub async fn wait_caught_up(&mut self, node: u64) {
        let leader = self.wait_ready().await;
        let api = self.api(leader);
        let committed = api.get("/v1/cluster").await.expect(200)["commit_index"].as_u64();
        until(
            WAIT_TIMEOUT,
            format!("master {node} has caught up to {committed:?}"),
            async || {
                let Ok(reply) = api.call(reqwest::Method::GET, "/v1/cluster").send().await else {
                    return false;
                };
                let status = reply.json();
                let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
                nodes
                    .iter()
                    .any(|one| one["id"] == node && one["matched"].as_u64() >= committed)
            },
        )
        .await;
    }

    /// Starts a worker process that knows these masters. Returns its index among this cluster's workers.
    pub fn worker_of(&mut self, masters: &str, more: &[&str]) -> usize {
        let number = self.workers.len();
        let more: Vec<String> = more.iter().map(|one| (*one).to_owned()).collect();
        let process = self.spawn_worker(number, masters, &more);
        self.workers.push(Worker {
            process,
            masters: masters.to_owned(),
            more,
        });
        number
    }

    fn spawn_worker(&self, number: usize, masters: &str, more: &[String]) -> Process {
        let name = format!("worker-{}", number + 1);
        let mut command = self.marked(triarch());
        command
            .args(["worker", "--masters", masters, "--name", &name])
            .args(more);
        self.spawn(&name, command)
    }

    /// Starts a worker that has ended again, with the same command.
    pub fn restart_worker(&mut self, number: usize) {
        assert!(
            self.worker_process(number).ended().is_some(),
            "worker {} still runs",
            number + 1
        );
        let worker = &self.workers[number];
        let process = self.spawn_worker(number, &worker.masters, &worker.more);
        self.workers[number].process = process;
    }

    /// Returns the number of workers that were started.
    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// Starts a worker process that knows all masters.
    pub fn worker(&mut self, more: &[&str]) -> usize {
        let masters = self.masters();
        self.worker_of(&masters, more)
    }

    /// Returns the process of a worker.
    pub fn worker_process(&mut self, number: usize) -> &mut Process {
        &mut self.workers[number].process
    }

    /// Waits until this many workers are live, and returns them.
    pub async fn wait_workers(&mut self, count: usize) -> Vec<Value> {
        let leader = self.leader().await;
        let api = self.api(leader);
        eventually(
            WAIT_TIMEOUT,
            format!("{count} workers are live"),
            async || {
                let reply = api
                    .call(reqwest::Method::GET, "/v1/workers?state=live")
                    .send()
                    .await
                    .ok()?;
                let workers = reply.json()["workers"].as_array()?.clone();
                (workers.len() == count).then_some(workers)
            },
        )
        .await
    }

    /// Returns the pids of all living processes that belong to this cluster.
    pub fn survivors(&self) -> Vec<u32> {
        process::marked(&self.mark)
    }

    /// Keeps the logs and data for inspection, and returns their directory.
    pub fn keep(&mut self) -> &Path {
        self.keep = true;
        self.root()
    }

    /// Returns the end of every log.
    pub fn last_words(&self) -> String {
        let workers = self.workers.iter().map(|worker| &worker.process);
        let all = self.nodes.iter().chain(workers);
        all.map(Process::last_words).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
        }
        let workers = self.workers.iter_mut().map(|worker| &mut worker.process);
        for process in workers.chain(&mut self.nodes) {
            process.kill9();
        }
        process::kill_marked(&self.mark);
        if (self.keep || std::thread::panicking())
            && let Some(root) = self.root.take()
        {
            eprintln!("--- logs and data are kept in {}", root.keep().display());
        }
    }
}
