//! How a node is put together: its directory is opened, consensus begins, and everything that works beside it is given what
//! it needs and started.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use crate::apply::applier::{Applier, Raft};
use crate::config::NodeConfig;
use crate::error::StartError;
use crate::fatal::FatalErrorSignal;
use crate::leadership::change_reason::LeaderChangeReasons;
use crate::leadership::role::{LeaderContact, LeadershipTransfer, RaftRole};
use crate::membership::bootstrap::Bootstrapper;
use crate::membership::changes::MembershipChanger;
use crate::metrics::ConsensusMetrics;
use crate::network::peer_client::NetworkFactory;
use crate::network::transport::Transport;
use crate::node::handle::{Inner, Node};
use crate::node::peer_server::PeerService;
use crate::openraft_config::raft_config;
use crate::proposals::batcher::{Clock, proposals};
use crate::proposals::entry_writer::EntryWriter;
use crate::proposals::piggyback::PiggybackSource;
use crate::proposals::read_index;
use crate::protocol::identity::Identity;
use crate::state_machine::StateMachine;
use crate::status::Leadership;
use crate::storage::disk_space::ClusterDiskSpace;
use crate::storage::log_store::RaftLog;
use crate::storage::open;
use crate::tasks::automatic_snapshot::snapshot_when_due;
use crate::tasks::clock_sync::ClockSync;
use crate::tasks::disk_pressure::DiskPressureController;
use crate::tasks::divergence_check::{DigestComparer, DigestHistory};
use crate::tasks::fatal_error_monitor::fail_with_raft;
use crate::tasks::leader_failure_detector::FailureDetector;
use crate::tasks::leadership_observer::{LeadershipObserver, TransitionLog};
use crate::tasks::membership_reconciler::MembershipReconciler;

/// How long a membership change or transfer may take before its outcome is told as unknown, in election timeouts.
const CHANGE_TIMEOUT_ELECTIONS: u32 = 30;
/// For so many leases what a peer said of itself counts as news.
const PEER_HEALTH_MAX_AGE_LEASES: u32 = 4;

impl<S: StateMachine> Node<S> {
    /// Opens the data directory, brings the state machine to where it was, and begins to take part: forms a cluster, waits
    /// to be added to one, or takes up its place in the one it belongs to. Everything runs on the runtime this is called
    /// on. [`Node::routes`] must be served at the configured address for anything to come of it.
    ///
    /// `clock` gives Unix milliseconds; it stamps the entries that this node proposes.
    pub async fn start(config: NodeConfig, machine: S, clock: Clock) -> Result<Self, StartError> {
        config.validate()?;
        let (path, node_id) = (config.data_dir.clone(), config.node_id);
        let low_bytes = config.disk_low_bytes;
        let disk = tokio::task::spawn_blocking(move || open::open(&path, node_id, low_bytes))
            .await
            .map_err(|panic| {
                StartError::Config(format!("opening the data directory failed: {panic}"))
            })??;

        let metrics = Arc::new(ConsensusMetrics::new(disk.log_metrics));
        let fatal_error = FatalErrorSignal::new();
        let identity = Arc::new(Identity::new(
            config.node_id,
            config.addr.clone(),
            disk.directory.incarnation,
            disk.cluster,
        ));
        let transport = Arc::new(Transport::new(
            Arc::clone(&identity),
            config.timing.clone(),
        )?);
        let disk_space = Arc::new(ClusterDiskSpace::new(
            disk.space.clone(),
            config.node_id,
            config.timing.lease() * PEER_HEALTH_MAX_AGE_LEASES,
        ));
        let snapshot_due = Arc::new(Notify::new());
        let applier = Applier::new(
            machine,
            disk.snapshots.clone(),
            fatal_error.clone(),
            config.snapshot.clone(),
            config.node_id,
            Arc::clone(&snapshot_due),
            Arc::clone(&metrics),
        );
        let applied = applier.applied();
        let used_ids = applier.used_ids();
        let log = RaftLog::new(
            Arc::clone(&disk.log),
            fatal_error.clone(),
            config.limits.append_bytes_max,
            config.node_id,
            Arc::clone(&metrics),
        );
        let leader_contact = Arc::new(LeaderContact::new());
        let change_reasons = Arc::new(LeaderChangeReasons::new(Arc::clone(&leader_contact)));
        let network = NetworkFactory {
            transport: Arc::clone(&transport),
            change_reasons: Arc::clone(&change_reasons),
            disk_space: Arc::clone(&disk_space),
        };
        let has_voted = disk.log.vote().is_some();
        let raft_config = Arc::new(raft_config(&config)?);
        let raft = Raft::<S>::new(config.node_id, raft_config, network, log, applier)
            .await
            .map_err(|e| StartError::Recovery(e.to_string()))?;

        // A leader may count for a lease on whoever has heard it, but how long ago that was is not on disk: after a restart
        // this node neither votes nor campaigns for that long. Alone, it has promised nothing to anybody.
        let alone = raft.voter_ids().eq([config.node_id]);
        let elections_from = if has_voted && !alone {
            raft.runtime_config().elect(false);
            Instant::now() + config.timing.lease()
        } else {
            Instant::now()
        };

        let (stopping, stop) = watch::channel(false);
        let (role_tx, role) = watch::channel(RaftRole::Unknown { term: 0 });
        let (leadership_tx, leadership) = watch::channel(Leadership::Unknown { term: 0 });
        let leadership_transfer = Arc::new(LeadershipTransfer::default());
        let lease = config.timing.lease();
        let bootstrapper = Arc::new(Bootstrapper {
            identity: Arc::clone(&identity),
            transport: Arc::clone(&transport),
            directory: Arc::clone(&disk.directory),
            raft: raft.clone(),
            mode: config.bootstrap.clone(),
            fatal_error: fatal_error.clone(),
            cluster_id_lock: tokio::sync::Mutex::new(()),
        });
        if let Err(e) = bootstrapper.check_not_foreign().await {
            // Nothing was promised to anybody yet; only the files must be let go.
            let _ = raft.shutdown().await;
            let _ = tokio::task::spawn_blocking(move || {
                let _ = disk.log.close();
                disk.directory.release();
            })
            .await;
            return Err(e);
        }

        let piggyback = Arc::new(PiggybackSource::default());
        let (proposer, batcher) = proposals(
            EntryWriter {
                raft: raft.clone(),
                role: role.clone(),
                fatal_error: fatal_error.clone(),
                lease,
            },
            stop.clone(),
            clock,
            &config.limits,
            Arc::clone(&metrics),
            Arc::clone(&disk_space),
            Arc::clone(&piggyback),
        );
        let (read_barrier, rounds) = read_index::read_barrier(
            raft.clone(),
            applied.clone(),
            role.clone(),
            fatal_error.clone(),
            lease,
            Duration::from_millis(config.limits.read_timeout_ms),
            config.limits.queue_reads_max,
        );
        let observer = LeadershipObserver {
            raft: raft.clone(),
            identity: Arc::clone(&identity),
            applied: applied.clone(),
            leader_contact: Arc::clone(&leader_contact),
            leadership_transfer: Arc::clone(&leadership_transfer),
            change_reasons: Arc::clone(&change_reasons),
            metrics: Arc::clone(&metrics),
            lease,
            tick: Duration::from_millis(config.timing.heartbeat_ms / 2 + 1),
            role: role_tx,
            leadership: leadership_tx,
            transitions: TransitionLog::new(),
        };
        let failure_detector = FailureDetector {
            raft: raft.clone(),
            transport: Arc::clone(&transport),
            leader_contact: Arc::clone(&leader_contact),
            elections_from,
            disk_space: Arc::clone(&disk_space),
            stopping: stop.clone(),
        };
        let digest_history = Arc::new(DigestHistory::new());
        let digest_comparer = DigestComparer {
            raft: raft.clone(),
            transport: Arc::clone(&transport),
            digest_history: Arc::clone(&digest_history),
            directory: Arc::clone(&disk.directory),
            fatal_error: fatal_error.clone(),
        };
        let clock_sync = ClockSync {
            raft: raft.clone(),
            transport: Arc::clone(&transport),
            clocks: Arc::clone(&config.peer_clocks),
        };
        let changer = MembershipChanger {
            raft: raft.clone(),
            transport,
            used_ids,
            role: role.clone(),
            leadership_transfer: Arc::clone(&leadership_transfer),
            change_reasons: Arc::clone(&change_reasons),
            disk_space: Arc::clone(&disk_space),
            timeout: lease * CHANGE_TIMEOUT_ELECTIONS,
            change_lock: Arc::default(),
        };
        let reconciler = MembershipReconciler {
            changer: changer.clone(),
            interval: Duration::from_millis(config.timing.heartbeat_ms),
        };
        let snapshots = disk.snapshots.clone();
        let disk_pressure = DiskPressureController {
            disk_space: Arc::clone(&disk_space),
            changer: changer.clone(),
            lease,
            elections_from,
        };
        let service = Arc::new(PeerService {
            identity: Arc::clone(&identity),
            raft: raft.clone(),
            bootstrapper: Arc::clone(&bootstrapper),
            leader_contact,
            change_reasons,
            disk_space: Arc::clone(&disk_space),
            snapshots: disk.snapshots,
            digest_history: Arc::clone(&digest_history),
            elections_from,
            incoming: tokio::sync::Mutex::new(None),
            stopping: stop.clone(),
        });
        let tasks = vec![
            tokio::spawn(until(stop.clone(), async move { bootstrapper.run().await })),
            tokio::spawn(until(stop.clone(), observer.run())),
            tokio::spawn(until(stop.clone(), digest_comparer.run())),
            tokio::spawn(until(stop.clone(), clock_sync.run())),
            tokio::spawn(failure_detector.run()),
            tokio::spawn(until(stop.clone(), reconciler.run())),
            tokio::spawn(batcher.run()),
            tokio::spawn(rounds.run(stop.clone())),
            tokio::spawn(until(stop.clone(), disk_pressure.run())),
            tokio::spawn(until(
                stop.clone(),
                snapshot_when_due(raft.clone(), snapshot_due),
            )),
            tokio::spawn(until(
                stop,
                fail_with_raft(raft.clone(), fatal_error.clone()),
            )),
        ];
        Ok(Node {
            inner: Arc::new(Inner {
                config,
                runtime: Handle::current(),
                identity,
                raft,
                log: disk.log,
                directory: disk.directory,
                applied,
                role,
                leadership_transfer,
                leadership,
                fatal_error,
                metrics,
                proposer,
                piggyback,
                read_barrier,
                changer,
                digest_history,
                snapshots,
                disk_space,
                service,
                stopping,
                tasks: Mutex::new(tasks),
            }),
        })
    }
}

async fn until(mut stop: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
