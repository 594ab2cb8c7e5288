//! Clusters of real nodes on real ports, each on a runtime of its own. A node can be killed like a process: its tasks
//! are cut off wherever they are, and its sockets close without its doing.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::serve::ListenerExt;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::runtime::Runtime;

use crate::links::Link;
use triarch_raft::{
    BootstrapMode, Committed, EntryView, Frozen, Leadership, Level, Node, NodeConfig, ProposeError,
    ProposeOptions, StartError, StateMachine,
};
use triarch_storage::StorageError;

/// State machine that keeps every command, in order, with the index of its entry.
#[derive(Clone)]
pub struct Toy {
    pub state: Arc<Mutex<Vec<(u64, Bytes)>>>,
    pub level: Arc<Mutex<Level>>,
    held: Arc<(Mutex<bool>, Condvar)>,
}

impl Default for Toy {
    fn default() -> Self {
        Toy {
            state: Arc::default(),
            level: Arc::new(Mutex::new(Level::ONE)),
            held: Arc::default(),
        }
    }
}

impl Toy {
    /// Blocks apply until [`Toy::release`].
    pub fn hold(&self) {
        *self.held.0.lock() = true;
    }

    pub fn release(&self) {
        *self.held.0.lock() = false;
        self.held.1.notify_all();
    }

    fn wait_while_held(&self) {
        let (held, released) = &*self.held;
        released.wait_while(&mut held.lock(), |held| *held);
    }
}

pub struct FrozenToy(Vec<(u64, Bytes)>);

impl StateMachine for Toy {
    /// Number of commands before this one.
    type Reply = usize;
    type Frozen = FrozenToy;
    type Loaded = Vec<(u64, Bytes)>;

    /// Commands are readable text. Anything else stands for a command of another version.
    fn check_command(command: &[u8]) -> std::io::Result<()> {
        match std::str::from_utf8(command) {
            Ok(_) => Ok(()),
            Err(e) => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, e)),
        }
    }

    fn apply(&mut self, entry: EntryView<'_>) -> std::io::Result<Vec<usize>> {
        assert!(entry.now_ms > 0 && !entry.commands.is_empty());
        // The node's other tasks continue during the wait.
        tokio::task::block_in_place(|| self.wait_while_held());
        let mut state = self.state.lock();
        if entry
            .commands
            .iter()
            .any(|command| &command[..] == b"poison")
        {
            return Err(std::io::Error::other("this command cannot be applied"));
        }
        let replies = entry.commands.iter().map(|command| {
            state.push((entry.index, command.clone()));
            state.len() - 1
        });
        Ok(replies.collect())
    }

    fn freeze(&mut self) -> FrozenToy {
        FrozenToy(self.state.lock().clone())
    }

    fn set_level(&mut self, level: Level) {
        *self.level.lock() = level;
    }

    fn load(snapshot: &mut dyn Read) -> std::io::Result<Vec<(u64, Bytes)>> {
        let mut bytes = Vec::new();
        snapshot.read_to_end(&mut bytes)?;
        postcard::from_bytes(&bytes).map_err(std::io::Error::other)
    }

    fn restore(&mut self, loaded: Vec<(u64, Bytes)>, last_index: u64, level: Level) {
        assert!(loaded.iter().all(|(index, _)| *index <= last_index));
        *self.state.lock() = loaded;
        *self.level.lock() = level;
    }
}

impl Frozen for FrozenToy {
    fn write(self, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(&postcard::to_stdvec(&self.0).map_err(std::io::Error::other)?)
    }
}

pub fn clock() -> Arc<dyn Fn() -> u64 + Send + Sync> {
    Arc::new(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_millis() as u64
    })
}

/// Returns a port below the kernel's range of outgoing ports, so that a killed node's port stays free for it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let _ = NEXT.compare_exchange(
        0,
        12_000 + (std::process::id() % 180) as u16 * 100,
        Ordering::SeqCst,
        Ordering::SeqCst,
    );
    loop {
        let port = NEXT.fetch_add(1, Ordering::SeqCst);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Node that runs on a runtime of its own, as in a process.
pub struct Running {
    pub node: Node<Toy>,
    pub toy: Toy,
    runtime: Option<Runtime>,
}

impl Running {
    /// Kills the node, as `kill -9` would.
    pub fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    pub fn stop(mut self) {
        let runtime = self.runtime.take().unwrap();
        runtime.block_on(self.node.shutdown());
        runtime.shutdown_background();
    }

    pub fn commands(&self) -> Vec<Bytes> {
        self.toy
            .state
            .lock()
            .iter()
            .map(|(_, command)| command.clone())
            .collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts a node. Waits for the lock of a killed node, whose tasks may take a moment to be dropped; a process's lock
/// dies with it.
pub fn start(config: NodeConfig) -> Result<Running, StartError> {
    start_behind(config, None)
}

pub fn start_behind(config: NodeConfig, behind: Option<SocketAddr>) -> Result<Running, StartError> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match start_once(config.clone(), behind) {
            Err(StartError::Storage(StorageError::Locked { .. })) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn start_once(config: NodeConfig, behind: Option<SocketAddr>) -> Result<Running, StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let toy = Toy::default();
    let addr = behind.unwrap_or_else(|| config.addr.parse().unwrap());
    let machine = toy.clone();
    let node = runtime.block_on(async move {
        let node = Node::start(config, machine, clock()).await?;
        let deadline = Instant::now() + Duration::from_secs(10);
        let listener = loop {
            match tokio::net::TcpListener::bind(addr).await {
                Ok(listener) => break listener,
                Err(e) if Instant::now() > deadline => panic!("cannot listen on {addr}: {e}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
        let routes = node.routes();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok::<_, StartError>(node)
    });
    match node {
        Ok(node) => Ok(Running {
            node,
            toy,
            runtime: Some(runtime),
        }),
        Err(e) => {
            runtime.shutdown_background();
            Err(e)
        }
    }
}

/// Directories and addresses of a cluster, and its running nodes.
pub struct Cluster {
    pub links: BTreeMap<u64, Link>,
    pub root: tempfile::TempDir,
    pub founding: BTreeMap<u64, String>,
    pub running: BTreeMap<u64, Running>,
    pub adjust: fn(&mut NodeConfig),
}

impl Cluster {
    /// Prepares a cluster without running nodes.
    pub fn prepare(size: u64, adjust: fn(&mut NodeConfig)) -> Cluster {
        let founding = (1..=size)
            .map(|id| (id, format!("127.0.0.1:{}", free_port())))
            .collect();
        Cluster {
            links: BTreeMap::new(),
            root: tempfile::tempdir().unwrap(),
            founding,
            running: BTreeMap::new(),
            adjust,
        }
    }

    /// Forms a cluster with a link before every node that can be cut.
    pub fn with_links(size: u64) -> Cluster {
        Cluster::with_links_and(size, |_| {})
    }

    pub fn with_links_and(size: u64, adjust: fn(&mut NodeConfig)) -> Cluster {
        let mut cluster = Cluster::prepare(size, adjust);
        for (id, addr) in &cluster.founding {
            let addr = addr.parse().unwrap();
            let behind = SocketAddr::from(([127, 0, 0, 1], free_port()));
            cluster.links.insert(*id, Link::listen(addr, behind));
        }
        for id in 1..=size {
            cluster.start(id);
        }
        cluster.leader();
        cluster
    }

    pub fn of(size: u64) -> Cluster {
        Cluster::with(size, |_| {})
    }

    /// Forms a cluster.
    pub fn with(size: u64, adjust: fn(&mut NodeConfig)) -> Cluster {
        let mut cluster = Cluster::prepare(size, adjust);
        for id in 1..=size {
            cluster.start(id);
        }
        cluster.leader();
        cluster
    }

    pub fn dir(&self, id: u64) -> PathBuf {
        self.root.path().join(format!("node-{id}"))
    }

    pub fn config(&self, id: u64) -> NodeConfig {
        let peers = BootstrapMode::Static(self.founding.clone());
        let mut config = NodeConfig::new(id, self.founding[&id].clone(), self.dir(id), peers);
        (self.adjust)(&mut config);
        config
    }

    pub fn start(&mut self, id: u64) {
        let behind = self.links.get(&id).map(|link| link.behind);
        let running = start_behind(self.config(id), behind).unwrap();
        self.running.insert(id, running);
    }

    /// Starts a new node that waits, empty, behind a link of its own until it is added. Returns its address.
    pub fn start_to_join(&mut self, id: u64) -> String {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let behind = SocketAddr::from(([127, 0, 0, 1], free_port()));
        self.links.insert(id, Link::listen(addr, behind));
        let peers = BootstrapMode::Join(self.founding.values().cloned().collect());
        let mut config = NodeConfig::new(id, addr.to_string(), self.dir(id), peers);
        (self.adjust)(&mut config);
        let running = start_behind(config, Some(behind)).unwrap();
        self.running.insert(id, running);
        addr.to_string()
    }

    pub fn kill(&mut self, id: u64) {
        self.running.remove(&id).unwrap().kill();
    }

    pub fn stop(&mut self, id: u64) {
        self.running.remove(&id).unwrap().stop();
    }

    pub fn node(&self, id: u64) -> &Node<Toy> {
        &self.running[&id].node
    }

    /// Waits for a leader that all other running nodes follow, and returns it.
    pub fn leader(&self) -> u64 {
        eventually("one leader that all follow", || {
            let leaders: Vec<u64> = self
                .running
                .iter()
                .filter(|(_, r)| r.node.leads_now())
                .map(|(id, _)| *id)
                .collect();
            let [leader] = leaders[..] else { return None };
            self.running
                .values()
                .all(|r| r.node.status().leader == Some(leader))
                .then_some(leader)
        })
    }

    pub fn followers(&self) -> Vec<u64> {
        let leader = self.leader();
        self.running
            .keys()
            .copied()
            .filter(|id| *id != leader)
            .collect()
    }

    pub fn block_on<T>(&self, id: u64, work: impl Future<Output = T>) -> T {
        self.running[&id].runtime.as_ref().unwrap().block_on(work)
    }

    /// Runs work on the node's own runtime, without waiting for it.
    pub fn spawn(&self, id: u64, work: impl Future<Output = ()> + Send + 'static) {
        self.running[&id].runtime.as_ref().unwrap().spawn(work);
    }

    pub fn try_propose(
        &self,
        id: u64,
        command: impl Into<Bytes>,
    ) -> Result<Committed<usize>, ProposeError> {
        self.block_on(
            id,
            self.node(id)
                .propose(command.into(), ProposeOptions::default()),
        )
    }

    /// Proposes on the current leader until the proposal is acknowledged.
    pub fn propose(&self, command: &str) -> Committed<usize> {
        let command = Bytes::from(command.to_owned());
        eventually("a proposal is acknowledged", || {
            let leads =
                |r: &&Running| matches!(*r.node.leadership().borrow(), Leadership::Leading { .. });
            let leader = self.running.values().find(leads)?;
            leader
                .runtime
                .as_ref()
                .unwrap()
                .block_on(
                    leader
                        .node
                        .propose(command.clone(), ProposeOptions::default()),
                )
                .ok()
        })
    }

    /// Waits until every running node has applied `index`.
    pub fn settle(&self, index: u64) {
        eventually("everyone has applied it", || {
            self.running
                .values()
                .all(|r| r.node.applied_index() >= index)
                .then_some(())
        });
    }
}

/// Calls `ask` until it returns an answer. Panics after 30 s without one.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
