//! Life cycle of one server process: starts the node, serves connections, shuts down in order.
//!
//! There are two runtimes: `consensus` for everything that elections and commits wait for, `requests` for clients and
//! workers.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::stat::{Mode, umask};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use triarch_areas::state::FrozenState;
use triarch_process::log_writer;
use triarch_process::panic_exit;
use triarch_process::signals::{Signals, refuse_oversized_writes};
use triarch_raft::{BootstrapMode, Checkpoint, Leadership, NodeConfig, Removal, TransferReason};

use super::app::{
    App, AppState, CLIENT_EVENT_STREAMS_MAX, CLIENT_WAITERS_MAX, EVENT_STREAMS_MAX, RequestLimits,
};
use super::http::admission::AdmissionControl;
use super::http::answer_budget::AnswerBudget;
use super::http::browser_guard::HostNames;
use super::http::connection_bounds::{self, ConnectionBounds};
use super::http::connection_registry::ConnectionRegistry;
use super::http::forward_client::ForwardClient;
use super::http::request_metrics::RequestMetrics;
use super::http::shared_pool::SharedPool;
use super::http::{listen_address, listener};
use super::options::{ServerOptions, Timing};
use super::router;
use crate::leader::clock::ClusterClock;
use crate::leader::lease_tracker::LeaseTiming;
use crate::leader::{self, TableNode};
use crate::state_machine::{SharedTable, TableStateMachine};
use crate::waiters::WAITERS_MAX;

/// Nice value of the request threads. With too few processors for both runtimes, requests may wait; a Raft heartbeat
/// that waits costs an election.
const REQUEST_THREADS_NICE: libc::c_int = 5;
/// Maximum time for leadership to move to another node before the process ends anyway.
const LEADERSHIP_TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for which a removed node says so before it ends.
const REMOVAL_NOTICE_TIME: Duration = Duration::from_secs(10);
/// Maximum time for requests in progress to finish before the process ends anyway.
const REQUEST_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs one node until a signal stops it or consensus fails. Builds its own runtimes.
///
/// # Errors
///
/// Fails if the node cannot be started.
pub fn run(options: ServerOptions) -> anyhow::Result<ExitCode> {
    panic_exit::install(
        "triarch server",
        triarch_raft::contained_panic::is_contained,
    );
    // Files of the data directory that a library creates are for their owner alone too.
    umask(Mode::from_bits_truncate(0o077));
    refuse_oversized_writes().context("cannot set up signals")?;
    let consensus = build_runtime("consensus", 2, None)?;
    let requests = build_runtime(
        "requests",
        std::thread::available_parallelism()
            .map_or(2, usize::from)
            .max(2),
        Some(REQUEST_THREADS_NICE),
    )?;
    let exit_code = requests.block_on(serve(options, consensus.handle().clone()));
    // Nothing more has to be waited for, because all acknowledged changes are on disk.
    requests.shutdown_timeout(Duration::from_millis(100));
    consensus.shutdown_timeout(Duration::from_millis(500));
    exit_code
}

fn build_runtime(
    name: &'static str,
    threads: usize,
    nice: Option<libc::c_int>,
) -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .on_thread_start(move || {
            let Some(nice) = nice else { return };
            // SAFETY: the call takes no pointers. On Linux it sets the priority of this thread alone. A failure costs
            // fairness, nothing else.
            let _ = unsafe {
                libc::setpriority(libc::PRIO_PROCESS, libc::gettid().cast_unsigned(), nice)
            };
        })
        .enable_all()
        .build()
        .with_context(|| format!("cannot start the threads for {name}"))
}

async fn serve(options: ServerOptions, consensus: Handle) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen().context("cannot set up signals")?;
    let bounds = connection_bounds::detect(options.limits.connections_max);
    let (listener, replica) = tokio::select! {
        started = start(&options, &consensus) => started?,
        name = signals.stop() => {
            tracing::info!(signal = name, "stopped before this master was up");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let node = replica.node.clone();
    let shutdown = CancellationToken::new();
    let app = build_app(&options, replica, bounds, shutdown.clone());
    let clients = serve_connections(listener, app, bounds, &consensus)?;
    tracing::info!(node = options.id, listen = %options.listen, data_dir = %options.data_dir.display(), "this master is up");

    tokio::select! {
        name = signals.stop() => {
            tracing::info!(signal = name, "stopping: handing over leadership, then finishing open requests");
        }
        removal = removed(&node) => {
            return Ok(end_after_removal(options.id, &removal, &mut signals).await);
        }
        why = consensus_failure(&node) => {
            tracing::error!("this master cannot go on and stops: {why}");
            log_writer::write_line(&format!(
                "triarch server: node {} cannot go on and stops: {why}",
                options.id
            ));
            return Ok(ExitCode::FAILURE);
        }
    }
    tokio::select! {
        () = shut_down(&node, &shutdown, clients) => {}
        name = signals.stop() => {
            tracing::warn!(signal = name, "stopping at once: a second signal came; everything acknowledged is on disk");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Listens before anything else: of two processes for one address, the second opens nothing.
async fn start(
    options: &ServerOptions,
    consensus: &Handle,
) -> anyhow::Result<(TcpListener, Replica)> {
    let listener = bind(&options.listen, consensus).await?;
    let replica = start_replica(options, consensus).await?;
    Ok((listener, replica))
}

async fn bind(listen: &str, consensus: &Handle) -> anyhow::Result<TcpListener> {
    let address = listen.to_owned();
    consensus
        .spawn(async move { listen_address::bind(&address).await })
        .await?
        .with_context(|| {
            format!("cannot listen on {listen}: another process may use this address; stop it, or choose another with --listen")
        })
}

/// Replica of the table on this node: consensus, the table it drives, and the clock that stamps its commands.
struct Replica {
    node: TableNode,
    table: Arc<SharedTable>,
    clock: Arc<ClusterClock>,
}

/// Starts consensus over an empty table. Snapshot and log bring it up to date.
async fn start_replica(options: &ServerOptions, consensus: &Handle) -> anyhow::Result<Replica> {
    let table = SharedTable::new(options.event_history);
    let config = node_config(options);
    let clock = Arc::new(ClusterClock::new(Arc::clone(&config.peer_clocks)));
    let table_ms = {
        let table = Arc::clone(&table);
        move || table.read().now_ms()
    };
    tokio::spawn(leader::clock::warn_of_wrong_clocks(
        Arc::clone(&clock),
        table_ms,
    ));
    let (machine, checkpoints) =
        TableStateMachine::new(Arc::clone(&table), options.digest_interval);
    let node = {
        let clock = Arc::clone(&clock);
        consensus
            .spawn(async move {
                TableNode::start(config, machine, Arc::new(move || clock.now_ms())).await
            })
            .await??
    };
    tokio::spawn(compute_digests(node.clone(), checkpoints));
    Ok(Replica { node, table, clock })
}

fn node_config(options: &ServerOptions) -> NodeConfig {
    let addr = options
        .advertise
        .clone()
        .or_else(|| options.cluster.get(&options.id).cloned())
        .unwrap_or_else(|| options.listen.clone());
    let peers = if options.join.is_empty() {
        BootstrapMode::Static(options.cluster.clone())
    } else {
        BootstrapMode::Join(options.join.clone())
    };
    let mut config = NodeConfig::new(options.id, addr, options.data_dir.clone(), peers);
    if options.timing.heartbeat_ms >= Timing::WAN.heartbeat_ms {
        // Heartbeats this far apart need longer other deadlines too.
        config.timing = triarch_raft::Timing::wide_area();
    }
    config.snapshot.entries = options.snapshot_entries;
    // A follower that was away for a moment needs no snapshot, because these entries are kept.
    config.snapshot.keep_entries = options.snapshot_entries / 4;
    config.limits.queue_bytes_max = options.limits.proposal_queue_bytes_max();
    config.disk_low_bytes = options.min_free_disk_bytes;
    config.program_version = env!("CARGO_PKG_VERSION").to_owned();
    config.level_max = options.level_max;
    config.timing.heartbeat_ms = options.timing.heartbeat_ms;
    config.timing.election_min_ms = options.timing.election_min_ms;
    config.timing.election_max_ms = options.timing.election_max_ms;
    config
}

/// Computes digests concurrently with applies, for consensus to compare.
async fn compute_digests(node: TableNode, mut checkpoints: mpsc::Receiver<FrozenState>) {
    while let Some(frozen) = checkpoints.recv().await {
        let compute = move || (frozen.last_index(), frozen.digest());
        let computed = triarch_raft::low_priority::run("digest", compute).await;
        if let Ok((index, digest)) = computed {
            node.record_digest(Checkpoint {
                index,
                format: digest.format,
                digest: digest.value,
            });
        }
    }
}

/// Builds the application state, and starts following this node's leadership.
fn build_app(
    options: &ServerOptions,
    replica: Replica,
    bounds: ConnectionBounds,
    shutdown: CancellationToken,
) -> App {
    let client_max = options.limits.client_connections_max;
    // One address alone cannot take all connections.
    let client_max = client_max.unwrap_or(bounds.clients.div_ceil(4) * 3);
    let connections = ConnectionRegistry::new(bounds.clients, client_max, shutdown.clone());
    let Replica { node, table, clock } = replica;
    let lease_timing = LeaseTiming {
        heartbeat_ms: (options.lease_ms / 5).max(10),
        lease_ms: options.lease_ms,
    };
    App::new(AppState {
        node_id: options.id,
        lead: leader::track_leadership(
            node.clone(),
            Arc::clone(&table),
            Arc::clone(&clock),
            lease_timing,
        ),
        node,
        table,
        clock,
        forward_client: ForwardClient::new(),
        forward_permits: Arc::new(Semaphore::new(bounds.forwards)),
        lease_timing,
        limits: RequestLimits::default(),
        event_places: SharedPool::new(EVENT_STREAMS_MAX, CLIENT_EVENT_STREAMS_MAX),
        wait_places: SharedPool::new(WAITERS_MAX, CLIENT_WAITERS_MAX),
        table_memory_bytes_max: options.limits.table_memory_bytes_max,
        answer_budget: AnswerBudget::new(options.limits.answer_memory_bytes_max),
        connections,
        digest_permit: Arc::new(Semaphore::new(1)),
        count_permit: Arc::new(Semaphore::new(1)),
        backup_permit: Arc::new(Semaphore::new(1)),
        disk_usage_permit: Arc::new(Semaphore::new(1)),
        host_names: host_names(options),
        admission: Arc::new(AdmissionControl::new(&options.limits)),
        request_metrics: Arc::new(RequestMetrics::default()),
        data_dir: options.data_dir.clone().into(),
        shutdown,
    })
}

fn host_names(options: &ServerOptions) -> HostNames {
    let own = std::iter::once(&options.listen).chain(&options.advertise);
    let addresses = own.chain(options.cluster.values());
    HostNames::new(
        options.allowed_hosts.iter().map(String::as_str),
        addresses.map(String::as_str),
    )
}

/// Accepts connections on the consensus runtime, and serves those of clients and workers on this one.
fn serve_connections(
    listener: TcpListener,
    app: App,
    bounds: ConnectionBounds,
    consensus: &Handle,
) -> anyhow::Result<JoinHandle<()>> {
    let registry = app.connections.clone();
    let (hand_off, streams) = mpsc::channel(listener::HANDOFF_QUEUE_LEN);
    let request_metrics = Arc::clone(&app.request_metrics);
    let shutdown = app.shutdown.clone();
    consensus.spawn(listener::accept(
        listener,
        app.node.routes(),
        hand_off,
        bounds,
        registry.clone(),
        Arc::clone(&request_metrics),
        CancellationToken::new(),
    ));
    Ok(tokio::spawn(listener::serve_clients(
        streams,
        router::build(app)?,
        request_metrics,
        registry,
        shutdown,
    )))
}

/// Waits until this node learns that it was removed from the cluster.
async fn removed(node: &TableNode) -> Removal {
    let mut removal = node.removal();
    let known = removal.wait_for(Option::is_some).await;
    match known.ok().and_then(|removal| removal.clone()) {
        Some(removal) => removal,
        None => std::future::pending().await,
    }
}

/// Keeps a removed node up for a moment, so that probes and operators see why it is not ready, and ends it.
async fn end_after_removal(id: u64, removal: &Removal, signals: &mut Signals) -> ExitCode {
    log_writer::write_line(&format!(
        "triarch server: node {id} stops in {} s: {removal}",
        REMOVAL_NOTICE_TIME.as_secs()
    ));
    tokio::select! {
        _ = signals.stop() => {}
        () = tokio::time::sleep(REMOVAL_NOTICE_TIME) => {}
    }
    ExitCode::FAILURE
}

/// Waits until consensus has stopped for good, and returns the cause.
async fn consensus_failure(node: &TableNode) -> String {
    let mut failure = node.fatal_error();
    let why = failure
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|why| why.clone());
    why.unwrap_or_else(|| "consensus ended without a reason".into())
}

/// Hands leadership over, lets requests in progress finish, then stops consensus.
async fn shut_down(node: &TableNode, shutdown: &CancellationToken, clients: JoinHandle<()>) {
    hand_leadership_over(node).await;
    shutdown.cancel();
    if tokio::time::timeout(REQUEST_DRAIN_TIMEOUT, clients)
        .await
        .is_err()
    {
        tracing::warn!("some requests did not finish in time and are aborted");
    }
    node.shutdown().await;
    tracing::info!("stopped");
}

async fn hand_leadership_over(node: &TableNode) {
    if !matches!(&*node.leadership().borrow(), Leadership::Leading { .. })
        || node.status().nodes.len() < 2
    {
        return;
    }
    let begun = Instant::now();
    match tokio::time::timeout(
        LEADERSHIP_TRANSFER_TIMEOUT,
        node.transfer_leader(None, TransferReason::Shutdown),
    )
    .await
    {
        Ok(Ok(())) => tracing::info!(
            took_ms = begun.elapsed().as_millis(),
            "leadership was handed over"
        ),
        Ok(Err(error)) => {
            tracing::warn!(%error, "leadership could not be handed over; the other nodes elect a leader once this one has stopped");
        }
        // The others are stopping too, or out of reach. Neither is a reason to keep running.
        Err(_) => tracing::warn!("leadership was not taken over in time"),
    }
}
