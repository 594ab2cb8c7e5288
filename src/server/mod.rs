//! One master: the replicated log, the table it drives, and the HTTP interface over them.
//!
//! Two runtimes: `consensus` for everything that elections and commits wait for, `requests` for clients and workers.

mod http;
mod leader_proxy;
mod options;
pub(crate) mod protocol;
mod routes;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn_with_state, map_response};
use axum::{Extension, Router};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use triarch_raft::{Checkpoint, Committed, Formation, HandOverReason, Leadership, NodeConfig};
use triarch_table::snapshot::DIGEST_FORMAT;
use triarch_table::{Command, Frozen, Reply};
use utoipa_axum::router::OpenApiRouter;

use crate::leader::clock::SteadyClock;
use crate::leader::leader_state::LeaseTiming;
use crate::leader::{self, Lead, TableNode};
use crate::server::http::admission::Room;
use crate::server::http::request_metrics::Traffic;
use crate::server::protocol::problem::{Code, Failure, Problem};
use crate::state_machine::{SharedTable, TableMachine, encode};
pub use options::{Bounds, ServerOptions, Timing};

/// Longest time a request may ask to wait.
pub const WAIT_MS_MAX: u64 = 120_000;
/// How much the threads for requests give way to those of consensus where there are too few processors for both: requests
/// may wait, a heartbeat between masters that does costs an election.
const REQUESTS_NICE: libc::c_int = 5;
/// How long leadership may take to move away, and requests to finish, before the process ends anyway.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
const FINISH_MAX: Duration = Duration::from_secs(5);

/// Bounds on what one request may bring.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A whole body.
    pub body_bytes_max: usize,
    /// Time for a body to arrive.
    pub body_timeout: Duration,
    /// One task's payload, or one result or error.
    pub payload_bytes_max: usize,
    /// Tasks in one request.
    pub tasks_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 16 << 20,
            body_timeout: Duration::from_secs(60),
            payload_bytes_max: 1 << 20,
            tasks_max: 10_000,
        }
    }
}

/// What every handler may use. Each layer of each request holds one, so a clone is one count and no more.
#[derive(Clone)]
pub struct App(Arc<Shared>);

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// See [`App`].
pub struct Shared {
    id: u64,
    node: TableNode,
    table: Arc<SharedTable>,
    lead: watch::Receiver<Option<Arc<Lead>>>,
    clock: Arc<SteadyClock>,
    http: reqwest::Client,
    timing: LeaseTiming,
    limits: Limits,
    /// Room for those who follow events.
    readers: Arc<Semaphore>,
    /// The turn of whoever reads the whole table.
    digesting: Arc<Semaphore>,
    /// The turn of whoever is given a backup.
    backing_up: Arc<Semaphore>,
    /// How much is worked on at once.
    room: Arc<Room>,
    /// What goes through this interface.
    traffic: Arc<Traffic>,
    data_dir: Arc<Path>,
    /// The turn of whoever looks at how full the disk is.
    looking_at_disk: Arc<Semaphore>,
    stopping: CancellationToken,
}

impl App {
    /// Proposes a change and answers the table's reply with the index it applied at.
    async fn change(&self, command: &Command) -> Result<(u64, Reply), Failure> {
        self.answered(self.node.propose(encode(command)).await?)
    }

    /// As [`App::change`], for what may bring work to those who wait for it.
    async fn change_inviting(&self, command: &Command) -> Result<(u64, Reply), Failure> {
        self.answered(self.node.propose_inviting(encode(command)).await?)
    }

    /// As [`App::change`], for what a worker says of its leases and itself: it goes before what clients ask.
    async fn change_first(&self, command: &Command) -> Result<(u64, Reply), Failure> {
        self.answered(self.node.propose_first(encode(command)).await?)
    }

    /// As [`App::change_first`], for what may bring work to those who wait for it.
    async fn change_first_inviting(&self, command: &Command) -> Result<(u64, Reply), Failure> {
        self.answered(self.node.propose_first_inviting(encode(command)).await?)
    }

    fn answered(&self, committed: Committed<Reply>) -> Result<(u64, Reply), Failure> {
        match committed.reply {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply @ (Reply::Submitted { .. }
            | Reply::Staged { .. }
            | Reply::Registered { .. }
            | Reply::Granted { .. }
            | Reply::Reported { .. }
            | Reply::Done { .. }
            | Reply::SchedulePut { .. }
            | Reply::Restoring { .. }
            | Reply::Restored { .. }) => Ok((committed.index, reply)),
        }
    }

    /// The table answered a command by a reply that belongs to another: a bug, told as an unknown outcome.
    fn unexpected(&self, reply: &Reply) -> Failure {
        tracing::error!(?reply, "a command was answered by another command's reply");
        Failure::Unknown("the answer could not be understood".into())
    }

    /// Waits for `event`, at most `wait`, and not beyond the moment this node begins to stop.
    async fn until(&self, wait: Duration, event: impl Future<Output = ()>) {
        tokio::select! {
            () = event => {}
            () = tokio::time::sleep(wait) => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

/// Runs one master until it is told to stop or cannot go on. Builds its own runtimes.
pub fn run(options: ServerOptions) -> anyhow::Result<ExitCode> {
    let consensus = runtime("consensus", 2, None)?;
    let requests = runtime(
        "requests",
        std::thread::available_parallelism()
            .map_or(2, usize::from)
            .max(2),
        Some(REQUESTS_NICE),
    )?;
    let outcome = requests.block_on(serve(options, consensus.handle().clone()));
    // Nothing more can be waited for: what is acknowledged is on disk.
    requests.shutdown_timeout(Duration::from_millis(100));
    consensus.shutdown_timeout(Duration::from_millis(500));
    outcome
}

fn runtime(
    name: &'static str,
    threads: usize,
    nice: Option<libc::c_int>,
) -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .on_thread_start(move || {
            let Some(nice) = nice else { return };
            // SAFETY: the call takes no pointers. On Linux it sets the priority of this thread alone; one that stays as
            // it is costs fairness, nothing else.
            let _ = unsafe {
                libc::setpriority(libc::PRIO_PROCESS, libc::gettid().cast_unsigned(), nice)
            };
        })
        .enable_all()
        .build()
        .with_context(|| format!("cannot start the threads for {name}"))
}

async fn serve(
    options: ServerOptions,
    consensus: tokio::runtime::Handle,
) -> anyhow::Result<ExitCode> {
    let listen = options.listen.clone();
    let listener = consensus
        .spawn(async move { crate::server::http::listener::bind(&listen).await })
        .await?
        .with_context(|| {
            format!("cannot listen on {}: is another process using that address? (choose another with --listen)", options.listen)
        })?;
    let table = SharedTable::new(options.events_kept);
    let config = node_config(&options);
    let clock = Arc::new(SteadyClock::new(Arc::clone(&config.peer_clocks)));
    tokio::spawn(leader::clock::warn(Arc::clone(&clock)));
    let (machine, views) = TableMachine::new(Arc::clone(&table), options.check_every);
    let node = {
        let clock = Arc::clone(&clock);
        consensus
            .spawn(async move {
                TableNode::start(config, machine, Arc::new(move || clock.now_ms())).await
            })
            .await??
    };
    tokio::spawn(take_digests(node.clone(), views));
    let timing = LeaseTiming {
        heartbeat_ms: (options.lease_ms / 5).max(10),
        lease_ms: options.lease_ms,
    };
    let connections_max =
        crate::server::http::listener::connections_possible(options.bounds.connections_max);
    let stopping = CancellationToken::new();
    let traffic = Arc::new(Traffic::default());
    let app = App(Arc::new(Shared {
        id: options.id,
        node: node.clone(),
        table: Arc::clone(&table),
        lead: leader::follow(node.clone(), table, Arc::clone(&clock), timing),
        clock,
        http: reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(1))
            .pool_idle_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .context("cannot make the HTTP client that forwards requests")?,
        timing,
        limits: Limits::default(),
        readers: Arc::new(Semaphore::new(crate::server::routes::events::READERS_MAX)),
        digesting: Arc::new(Semaphore::new(1)),
        backing_up: Arc::new(Semaphore::new(1)),
        room: Arc::new(Room::new(&options.bounds)),
        traffic: Arc::clone(&traffic),
        data_dir: options.data_dir.clone().into(),
        looking_at_disk: Arc::new(Semaphore::new(1)),
        stopping: stopping.clone(),
    }));
    let (hand_over, streams) = mpsc::channel(crate::server::http::listener::HANDOVER_MAX);
    consensus.spawn(crate::server::http::listener::accept(
        listener,
        node.routes(),
        hand_over,
        Arc::clone(&traffic),
        CancellationToken::new(),
    ));
    let clients = tokio::spawn(crate::server::http::listener::serve_clients(
        streams,
        routes(app.clone())?,
        traffic,
        connections_max,
        stopping.clone(),
    ));
    tracing::info!(node = options.id, listen = %options.listen, data_dir = %options.data_dir.display(), "this master is up");

    let failed = tokio::select! {
        name = told_to_stop() => {
            tracing::info!(signal = name, "stopping: handing leadership over, then finishing what is in the middle");
            None
        }
        why = cannot_go_on(&node) => Some(why),
    };
    if let Some(why) = failed {
        tracing::error!("this master cannot go on and stops: {why}");
        eprintln!(
            "triarch server: node {} cannot go on and stops: {why}",
            options.id
        );
        return Ok(ExitCode::FAILURE);
    }
    hand_leadership_over(&node).await;
    stopping.cancel();
    if tokio::time::timeout(FINISH_MAX, clients).await.is_err() {
        tracing::warn!("some requests did not finish in time and are cut off");
    }
    node.shutdown().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn node_config(options: &ServerOptions) -> NodeConfig {
    let addr = options
        .advertise
        .clone()
        .or_else(|| options.cluster.get(&options.id).cloned())
        .unwrap_or_else(|| options.listen.clone());
    let peers = if options.join.is_empty() {
        Formation::Static(options.cluster.clone())
    } else {
        Formation::Join(options.join.clone())
    };
    let mut config = NodeConfig::new(options.id, addr, options.data_dir.clone(), peers);
    if options.timing.heartbeat_ms >= Timing::WAN.heartbeat_ms {
        // Who gives heartbeats this long needs the other deadlines longer too.
        config.timing = triarch_raft::Timing::wide_area();
    }
    config.snapshot.entries = options.snapshot_entries;
    // A follower that was away for a moment needs no snapshot.
    config.snapshot.keep_entries = options.snapshot_entries / 4;
    config.limits.queue_bytes_max = options.bounds.proposals_bytes();
    config.disk_low_bytes = options.disk_low_bytes;
    config.timing.heartbeat_ms = options.timing.heartbeat_ms;
    config.timing.election_min_ms = options.timing.election_min_ms;
    config.timing.election_max_ms = options.timing.election_max_ms;
    config
}

/// What clients ask; a follower forwards it.
fn for_clients() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(crate::server::routes::jobs::routes())
        .merge(crate::server::routes::tasks::routes())
        .merge(crate::server::routes::bulk_tasks::routes())
        .merge(crate::server::routes::task_wait::routes())
        .merge(crate::server::routes::task_explain::routes())
        .merge(crate::server::routes::task_logs::client_routes())
        .merge(crate::server::routes::queues::routes())
        .merge(crate::server::routes::schedules::routes())
        .merge(crate::server::routes::cluster::routes())
        .merge(crate::server::routes::backup::client_routes())
        .merge(crate::server::routes::workers::client_routes())
}

/// What workers ask for themselves; a follower redirects them.
fn for_workers() -> OpenApiRouter<App> {
    crate::server::routes::workers::worker_routes()
        .merge(crate::server::routes::task_logs::worker_routes())
}

/// What every node answers for itself.
fn for_anyone() -> OpenApiRouter<App> {
    crate::server::routes::openapi::routes()
        .merge(crate::server::routes::events::routes())
        .merge(crate::server::routes::backup::own_routes())
        .merge(crate::server::routes::health::routes())
        .merge(crate::server::routes::metrics::routes())
}

async fn no_route(uri: Uri) -> Problem {
    Problem::new(
        Code::NotFound,
        format!("there is no route {}; the API lives under /v1", uri.path()),
    )
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        format!("{} does not take {method}", uri.path()),
    )
}

fn routes(app: App) -> anyhow::Result<Router> {
    let for_clients = for_clients().route_layer(from_fn_with_state(
        app.clone(),
        crate::server::leader_proxy::client,
    ));
    let for_workers = for_workers().route_layer(from_fn_with_state(
        app.clone(),
        crate::server::leader_proxy::worker,
    ));
    let bodiless = from_fn_with_state(app.clone(), crate::server::leader_proxy::bodiless);
    let (routes, gathered) = for_anyone()
        .route_layer(bodiless.clone())
        .merge(for_clients)
        .merge(for_workers)
        .split_for_parts();
    let document = crate::server::routes::openapi::written(
        &crate::server::routes::openapi::complete(gathered),
    )
    .context("the interface cannot be described")?;
    Ok(routes
        .layer(Extension(document))
        .fallback(no_route.layer(bodiless.clone()))
        .method_not_allowed_fallback(no_method.layer(bodiless))
        // The gate has bounded every body already, by its own bound and with its own words.
        .layer(DefaultBodyLimit::disable())
        .layer(map_response(crate::server::protocol::problem::in_our_words))
        .layer(from_fn_with_state(
            Arc::clone(&app.traffic),
            crate::server::http::request_metrics::count,
        ))
        .with_state(app))
}

/// Takes digests beside applies, for consensus to compare.
async fn take_digests(node: TableNode, mut views: mpsc::Receiver<Frozen>) {
    while let Some(view) = views.recv().await {
        let take = move || (view.last_index(), view.digest());
        let taken = triarch_raft::low_priority::run("digest", take).await;
        if let Ok((index, digest)) = taken {
            node.note_digest(Checkpoint {
                index,
                format: DIGEST_FORMAT,
                digest,
            });
        }
    }
}

async fn told_to_stop() -> &'static str {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Waits until consensus has stopped for good, and says why.
async fn cannot_go_on(node: &TableNode) -> String {
    let mut failure = node.failure();
    let why = failure
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|why| why.clone());
    why.unwrap_or_else(|| "consensus ended without saying why".into())
}

async fn hand_leadership_over(node: &TableNode) {
    if !matches!(&*node.leadership().borrow(), Leadership::Leading { .. })
        || node.status().nodes.len() < 2
    {
        return;
    }
    let begun = Instant::now();
    match tokio::time::timeout(
        HAND_OVER_MAX,
        node.transfer_leader(None, HandOverReason::Shutdown),
    )
    .await
    {
        Ok(Ok(())) => tracing::info!(
            took_ms = begun.elapsed().as_millis(),
            "leadership is handed over"
        ),
        Ok(Err(error)) => {
            tracing::warn!(%error, "leadership could not be handed over; the others elect a leader when this one is gone");
        }
        // The others are stopping too, or out of reach: no reason to stay.
        Err(_) => tracing::warn!("leadership was not taken over in time"),
    }
}
