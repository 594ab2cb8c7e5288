//! Benchmark of consensus with three nodes, each a process of its own.
//!
//! ```text
//! cargo run --release -p triarch-raft --example consensus -- failover 60        kills the leader, 60 times
//! cargo run --release -p triarch-raft --example consensus -- writes 64 512 10   64 clients, 512 bytes, 10 seconds
//! ```
//!
//! `failover` prints, for each `kill -9`, the time from the kill to the first newly acknowledged write, while other
//! writes go on. At the end it prints the percentiles, and the number of elections that no kill caused. `writes` prints
//! acknowledged writes per second, latencies, entries used, and elections.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use bytes::Bytes;
use triarch_raft::{
    BootstrapMode, EntryView, Frozen, Level, Node, NodeConfig, ProposeOptions, StateMachine,
};

const PORT: u16 = 27_100;

struct Count(u64);

impl StateMachine for Count {
    type Reply = ();
    type Frozen = Count;
    type Loaded = u64;

    fn check_command(_: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    fn apply(&mut self, entry: EntryView<'_>) -> std::io::Result<Vec<()>> {
        self.0 += entry.commands.len() as u64;
        Ok(vec![(); entry.commands.len()])
    }

    fn freeze(&mut self) -> Count {
        Count(self.0)
    }

    fn set_level(&mut self, _level: Level) {}

    fn load(snapshot: &mut dyn Read) -> std::io::Result<u64> {
        let mut bytes = [0; 8];
        snapshot.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn restore(&mut self, loaded: u64, _: u64, _: Level) {
        self.0 = loaded;
    }
}

impl Frozen for Count {
    fn write(self, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }
}

fn addr(id: u64) -> String {
    format!("127.0.0.1:{}", PORT + id as u16)
}

fn env_ms(name: &str, value: &mut u64) {
    if let Some(given) = std::env::var(name).ok().and_then(|text| text.parse().ok()) {
        *value = given;
    }
}

async fn node(id: u64, dir: String) {
    let founding: BTreeMap<u64, String> = (1..=3).map(|id| (id, addr(id))).collect();
    let mut config = NodeConfig::new(id, addr(id), dir, BootstrapMode::Static(founding));
    env_ms("HEARTBEAT_MS", &mut config.timing.heartbeat_ms);
    env_ms("ELECTION_MIN_MS", &mut config.timing.election_min_ms);
    env_ms("ELECTION_MAX_MS", &mut config.timing.election_max_ms);
    env_ms("WATCH_TURN_MS", &mut config.timing.campaign_interval_ms);
    let mut in_flight = config.limits.entries_in_flight_max as u64;
    env_ms("ENTRIES_IN_FLIGHT", &mut in_flight);
    config.limits.entries_in_flight_max = in_flight as usize;
    config.limits.propose_timeout_ms = 3_000;
    let clock = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64)
    };
    let node = Node::start(config, Count(0), Arc::new(clock))
        .await
        .expect("start");
    let routes = node.routes().merge(
        Router::new()
            .route("/write", post(write))
            .route("/term", get(term))
            .with_state(node.clone()),
    );
    let listener = tokio::net::TcpListener::bind(addr(id)).await.expect("bind");
    let listener = listener.tap_io(|socket| drop(socket.set_nodelay(true)));
    axum::serve(listener, routes).await.expect("serve");
}

async fn write(State(node): State<Node<Count>>, body: Bytes) -> (StatusCode, String) {
    match node.propose(body, ProposeOptions::default()).await {
        Ok(committed) => (StatusCode::OK, committed.index.to_string()),
        Err(e) => (StatusCode::SERVICE_UNAVAILABLE, e.to_string()),
    }
}

async fn term(State(node): State<Node<Count>>) -> String {
    let status = node.status();
    let leads = node.leads_now();
    format!(
        "{} {} {} {}",
        status.term,
        leads,
        status.last_log_index,
        status.nodes.len()
    )
}

struct Cluster {
    dir: std::path::PathBuf,
    nodes: BTreeMap<u64, Child>,
    client: reqwest::Client,
}

impl Cluster {
    async fn start() -> Cluster {
        let dir = std::env::temp_dir().join(format!("raft-consensus-{}", std::process::id()));
        let client = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_millis(100))
            .build();
        let mut cluster = Cluster {
            dir,
            nodes: BTreeMap::new(),
            client: client.expect("client"),
        };
        for id in 1..=3 {
            cluster.spawn(id);
        }
        cluster.leader().await;
        cluster
    }

    fn spawn(&mut self, id: u64) {
        let dir = self.dir.join(id.to_string());
        let child = Command::new(std::env::current_exe().expect("own path"))
            .args(["node", &id.to_string(), &dir.display().to_string()])
            .stdin(Stdio::null())
            .spawn()
            .expect("spawn");
        self.nodes.insert(id, child);
    }

    /// Returns the node's term, whether it leads, and its last log index.
    async fn ask(&self, id: u64) -> Option<(u64, bool, u64)> {
        let url = format!("http://{}/term", addr(id));
        let answer = self
            .client
            .get(url)
            .timeout(Duration::from_millis(500))
            .send()
            .await
            .ok()?;
        let text = answer.text().await.ok()?;
        let mut words = text.split(' ');
        Some((
            words.next()?.parse().ok()?,
            words.next()? == "true",
            words.next()?.parse().ok()?,
        ))
    }

    /// Returns leader, term and last log index, once all nodes are up and caught up.
    async fn leader(&self) -> (u64, u64, u64) {
        loop {
            let mut all = Vec::new();
            for id in 1..=3 {
                all.push(self.ask(id).await);
            }
            if let [Some(a), Some(b), Some(c)] = all[..]
                && a.0 == b.0
                && b.0 == c.0
                && a.2.abs_diff(b.2).max(b.2.abs_diff(c.2)) < 50
                && let Some(leader) = [a, b, c].iter().position(|n| n.1)
            {
                return (leader as u64 + 1, a.0, a.2.max(b.2).max(c.2));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn percentile(sorted: &[f64], p: f64) -> f64 {
    sorted[((sorted.len() as f64 * p) as usize).min(sorted.len() - 1)]
}

async fn failover(kills: usize) {
    let mut cluster = Cluster::start().await;
    let mut took_ms = Vec::new();
    let mut unasked = 0;
    let (_, mut last_term, _) = cluster.leader().await;
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(600 + 37 * (kill as u64 % 11))).await;
        let (leader, term, _) = cluster.leader().await;
        unasked += term - last_term;
        let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
        let mut child = cluster.nodes.remove(&leader).expect("it runs");
        let killed = Instant::now();
        child.kill().expect("kill");
        let client = cluster.client.clone();
        'acknowledged: loop {
            for id in &others {
                let url = format!("http://{}/write", addr(*id));
                let sent = client
                    .post(url)
                    .timeout(Duration::from_secs(2))
                    .body("x")
                    .send()
                    .await;
                if sent.is_ok_and(|answer| answer.status().is_success()) {
                    break 'acknowledged;
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let ms = killed.elapsed().as_secs_f64() * 1e3;
        child.wait().expect("wait");
        println!(
            "kill {:>3}: node {leader} led term {term}; acknowledged again after {ms:.0} ms",
            kill + 1
        );
        took_ms.push(ms);
        cluster.spawn(leader);
        let (_, term, _) = cluster.leader().await;
        last_term = term;
    }
    took_ms.sort_by(f64::total_cmp);
    println!(
        "p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, max {:.0} ms; terms that no kill caused: {unasked}",
        percentile(&took_ms, 0.5),
        percentile(&took_ms, 0.9),
        percentile(&took_ms, 0.99),
        percentile(&took_ms, 1.0)
    );
}

async fn writes(clients: usize, bytes: usize, seconds: u64) {
    let cluster = Cluster::start().await;
    let (leader, term, first_index) = cluster.leader().await;
    let stop = Arc::new(AtomicBool::new(false));
    let failed = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (stop, failed, client) = (
                Arc::clone(&stop),
                Arc::clone(&failed),
                cluster.client.clone(),
            );
            let body = Bytes::from(vec![b'x'; bytes]);
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let sent = Instant::now();
                    let url = format!("http://{}/write", addr(leader));
                    let answer = client.post(url).body(body.clone()).send().await;
                    if answer.is_ok_and(|answer| answer.status().is_success()) {
                        latencies.push(sent.elapsed().as_secs_f64() * 1e3);
                    } else {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
                latencies
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("client"));
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let (_, term_after, last_index) = cluster.leader().await;
    latencies.sort_by(f64::total_cmp);
    println!(
        "{clients} clients, {bytes} bytes: {:.0} writes/s in {:.0} entries/s; p50 {:.2} ms, p99 {:.2} ms; failed {}; \
         elections {}",
        latencies.len() as f64 / elapsed,
        (last_index - first_index) as f64 / elapsed,
        percentile(&latencies, 0.5),
        percentile(&latencies, 0.99),
        failed.load(Ordering::Relaxed),
        term_after - term
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| {
        args.get(at)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    match args.first().map(String::as_str) {
        Some("node") => node(number(1, 1) as u64, args[2].clone()).await,
        Some("failover") => failover(number(1, 20)).await,
        Some("writes") => writes(number(1, 64), number(2, 512), number(3, 5) as u64).await,
        Some(_) | None => eprintln!("failover [kills] | writes [clients] [bytes] [seconds]"),
    }
}
