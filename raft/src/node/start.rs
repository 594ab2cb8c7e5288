//! Assembly of a node: storage is opened, consensus recovers, services are built, and background tasks are spawned.
//!
//! The steps are in the order of [`Node::start`]. Nothing of a step runs before the step is reached, and the last one
//! spawns everything that runs in the background.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::apply::applier::{Applied, Applier, Context, Raft, membership};
use crate::apply::snapshot_policy::SnapshotTrigger;
use crate::apply::used_node_ids::UsedNodeIds;
use crate::config::NodeConfig;
use crate::error::StartError;
use crate::leadership::role::RaftRole;
use crate::membership::bootstrap::Bootstrapper;
use crate::membership::changes::MembershipChanger;
use crate::membership::senders::SenderLookup;
use crate::network::peer_client::NetworkFactory;
use crate::node::handle::{Inner, Node};
use crate::node::peer_admission::PeerAdmission;
use crate::node::peer_budget::PeerBudgets;
use crate::node::peer_server::PeerService;
use crate::node::shared::Shared;
use crate::node::signals::{Publishers, Signals, signals};
use crate::openraft_config::raft_config;
use crate::proposals::batcher::{Batcher, Clock, Proposer, proposals};
use crate::proposals::entry_writer::EntryWriter;
use crate::proposals::piggyback::PiggybackSource;
use crate::proposals::read_index;
use crate::proposals::read_index::{ReadBarrier, ReadIndexRounds};
use crate::state_machine::StateMachine;
use crate::status::Leadership;
use crate::storage::log_store::RaftLog;
use crate::storage::open;
use crate::storage::open::OpenedStorage;
use crate::tasks::acknowledgement_recorder::AcknowledgementRecorder;
use crate::tasks::append_probe::AppendProber;
use crate::tasks::automatic_snapshot::snapshot_when_due;
use crate::tasks::clock_sync::ClockSync;
use crate::tasks::commit_monitor::CommitMonitor;
use crate::tasks::disk_pressure::DiskPressureController;
use crate::tasks::divergence_check::{DigestComparer, DigestHistory};
use crate::tasks::fatal_error_monitor::{fail_with_log, fail_with_raft};
use crate::tasks::founding_level::FoundingLevel;
use crate::tasks::leader_failure_detector::FailureDetector;
use crate::tasks::leadership_observer::{LeadershipObserver, TransitionLog};
use crate::tasks::membership_reconciler::MembershipReconciler;
use crate::tasks::readiness_monitor::ReadinessMonitor;

/// Maximum duration of a membership change or transfer before its outcome is unknown, in election timeouts.
const CHANGE_TIMEOUT_ELECTIONS: u32 = 30;

impl<S: StateMachine> Node<S> {
    /// Opens the data directory, recovers the state machine, and begins to take part.
    ///
    /// The node forms a cluster, waits to be added to one, or resumes in the one it belongs to. Everything runs on the
    /// runtime of the caller. The node makes no progress unless [`Node::routes`] is served at the configured address.
    ///
    /// `clock` returns Unix milliseconds; it stamps the entries that this node proposes.
    pub async fn start(config: NodeConfig, machine: S, clock: Clock) -> Result<Self, StartError> {
        config.validate()?;
        let storage = open_storage(&config).await?;
        let shared = Shared::new(&config, &storage)?;
        let consensus = start_consensus(&config, machine, &storage, &shared).await?;
        let (signals, publishers) = signals();
        let assembly = Assembly {
            config,
            storage,
            shared,
            consensus,
            signals,
        };
        let bootstrapper = assembly.bootstrapper();
        let checked = bootstrapper.check_not_foreign().await;
        let removed = assembly.shared.removal.get();
        let removed = removed.map(|removal| StartError::Foreign(removal.to_string()));
        if let Some(e) = removed.or(checked.err()) {
            assembly.abandon().await;
            return Err(e);
        }
        let (services, loops) = assembly.build_services(&bootstrapper, clock);
        let tasks = assembly.spawn_tasks(bootstrapper, &services, loops, publishers);
        Ok(assembly.into_node(services, tasks))
    }
}

async fn open_storage(config: &NodeConfig) -> Result<OpenedStorage, StartError> {
    let (path, node_id) = (config.data_dir.clone(), config.node_id);
    let low_bytes = config.disk_low_bytes;
    let storage = tokio::task::spawn_blocking(move || open::open(&path, node_id, low_bytes))
        .await
        .map_err(|panic| {
            StartError::Config(format!("opening the data directory failed: {panic}"))
        })??;
    Ok(storage)
}

/// openraft, recovered from the snapshot and the log.
struct Consensus<S: StateMachine> {
    raft: Raft<S>,
    applied: watch::Receiver<Applied>,
    used_ids: UsedNodeIds,
    snapshot_due: Arc<Notify>,
    /// Earliest time at which this node may vote and campaign.
    elections_from: Instant,
}

async fn start_consensus<S: StateMachine>(
    config: &NodeConfig,
    machine: S,
    storage: &OpenedStorage,
    shared: &Shared,
) -> Result<Consensus<S>, StartError> {
    let snapshot_due = Arc::new(Notify::new());
    let applier = Applier::new(
        machine,
        storage.snapshots.clone(),
        SnapshotTrigger::new(config.snapshot.clone(), config.node_id),
        Context {
            fatal_error: shared.fatal_error.clone(),
            removal: shared.removal.clone(),
            snapshot_due: Arc::clone(&snapshot_due),
            metrics: Arc::clone(&shared.metrics),
            levels: Arc::clone(&shared.levels),
            history: Arc::clone(&storage.history),
            acknowledged: Arc::clone(&shared.acknowledged),
        },
    );
    let (applied, used_ids) = (applier.applied(), applier.used_ids());
    let log = RaftLog::new(
        Arc::clone(&storage.log),
        shared.fatal_error.clone(),
        config.limits.append_bytes_max,
        config.node_id,
        Arc::clone(&shared.metrics),
        Arc::clone(&storage.history),
    );
    let network = NetworkFactory {
        transport: Arc::clone(&shared.transport),
        change_reasons: Arc::clone(&shared.change_reasons),
        disk_space: Arc::clone(&shared.disk_space),
        append_reach: Arc::clone(&shared.append_reach),
        history: Arc::clone(&storage.history),
    };
    let has_voted = storage.log.vote().is_some();
    let raft_config = Arc::new(raft_config(config)?);
    let raft = Raft::<S>::new(config.node_id, raft_config, network, log, applier)
        .await
        .map_err(|e| StartError::Recovery(e.to_string()))?;
    // The first message of a peer is already checked against these members.
    let members = membership(&raft);
    let members = members.nodes().map(|(id, member)| (*id, member.clone()));
    shared.identity.set_members(members.collect());
    let elections_from = first_election(config, &raft, has_voted);
    Ok(Consensus {
        raft,
        applied,
        used_ids,
        snapshot_due,
        elections_from,
    })
}

/// Returns the earliest time at which this node may vote and campaign.
///
/// A leader may count for a lease on every node that has heard it, but the time of the last contact is not on disk.
/// After a restart this node therefore neither votes nor campaigns for the length of a lease. The only voter of a
/// cluster has promised nothing to any other node, so it need not wait.
fn first_election<S: StateMachine>(
    config: &NodeConfig,
    raft: &Raft<S>,
    has_voted: bool,
) -> Instant {
    let alone = raft.voter_ids().eq([config.node_id]);
    if has_voted && !alone {
        raft.runtime_config().elect(false);
        Instant::now() + config.timing.lease()
    } else {
        Instant::now()
    }
}

/// Parts from which services and tasks are built.
struct Assembly<S: StateMachine> {
    config: NodeConfig,
    storage: OpenedStorage,
    shared: Shared,
    consensus: Consensus<S>,
    signals: Signals,
}

/// Services for callers and peers, kept by the node.
struct Services<S: StateMachine> {
    proposer: Proposer<S::Reply>,
    piggyback: Arc<PiggybackSource<S::Reply>>,
    read_barrier: Arc<ReadBarrier>,
    changer: MembershipChanger<S>,
    digest_history: Arc<DigestHistory>,
    peer_service: Arc<PeerService<S>>,
}

/// Loops behind proposals and reads.
struct ServiceLoops<S: StateMachine> {
    batcher: Batcher<S>,
    rounds: ReadIndexRounds<S>,
}

impl<S: StateMachine> Assembly<S> {
    fn lease(&self) -> Duration {
        self.config.timing.lease()
    }

    fn bootstrapper(&self) -> Arc<Bootstrapper<S>> {
        Arc::new(Bootstrapper {
            identity: Arc::clone(&self.shared.identity),
            transport: Arc::clone(&self.shared.transport),
            directory: Arc::clone(&self.storage.directory),
            raft: self.consensus.raft.clone(),
            mode: self.config.bootstrap.clone(),
            fatal_error: self.shared.fatal_error.clone(),
            cluster_id_lock: tokio::sync::Mutex::new(()),
        })
    }

    /// Abandons a start. Nothing was promised to any node yet; only the files must be released.
    async fn abandon(self) {
        let _ = self.consensus.raft.shutdown().await;
        let storage = self.storage;
        let _ = tokio::task::spawn_blocking(move || {
            let _ = storage.log.close();
            storage.directory.release();
        })
        .await;
    }

    fn build_services(
        &self,
        bootstrapper: &Arc<Bootstrapper<S>>,
        clock: Clock,
    ) -> (Services<S>, ServiceLoops<S>) {
        let piggyback = Arc::new(PiggybackSource::default());
        let (proposer, batcher) = proposals(
            EntryWriter {
                raft: self.consensus.raft.clone(),
                role: self.signals.role.clone(),
                fatal_error: self.shared.fatal_error.clone(),
                lease: self.lease(),
            },
            self.signals.stop.clone(),
            clock,
            &self.config.limits,
            Arc::clone(&self.shared.metrics),
            Arc::clone(&self.shared.disk_space),
            Arc::clone(&piggyback),
        );
        let (read_barrier, rounds) = read_index::read_barrier(
            self.consensus.raft.clone(),
            self.consensus.applied.clone(),
            self.signals.role.clone(),
            self.shared.fatal_error.clone(),
            self.lease(),
            Duration::from_millis(self.config.limits.read_timeout_ms),
            self.config.limits.queue_reads_max,
        );
        let read_barrier = Arc::new(read_barrier);
        let digest_history = Arc::new(DigestHistory::new());
        let services = Services {
            proposer,
            piggyback,
            changer: self.membership_changer(),
            peer_service: self.peer_service(bootstrapper, &digest_history, &read_barrier),
            read_barrier,
            digest_history,
        };
        (services, ServiceLoops { batcher, rounds })
    }

    fn membership_changer(&self) -> MembershipChanger<S> {
        MembershipChanger {
            raft: self.consensus.raft.clone(),
            transport: Arc::clone(&self.shared.transport),
            used_ids: self.consensus.used_ids.clone(),
            role: self.signals.role.clone(),
            leadership_transfer: Arc::clone(&self.shared.leadership_transfer),
            change_reasons: Arc::clone(&self.shared.change_reasons),
            disk_space: Arc::clone(&self.shared.disk_space),
            timeout: self.lease() * CHANGE_TIMEOUT_ELECTIONS,
            change_lock: Arc::default(),
        }
    }

    fn peer_service(
        &self,
        bootstrapper: &Arc<Bootstrapper<S>>,
        digest_history: &Arc<DigestHistory>,
        read_barrier: &Arc<ReadBarrier>,
    ) -> Arc<PeerService<S>> {
        Arc::new(PeerService {
            admission: self.peer_admission(),
            levels: Arc::clone(&self.shared.levels),
            contradictions: Arc::clone(&self.shared.contradictions),
            raft: self.consensus.raft.clone(),
            bootstrapper: Arc::clone(bootstrapper),
            leader_contact: Arc::clone(&self.shared.leader_contact),
            change_reasons: Arc::clone(&self.shared.change_reasons),
            disk_space: Arc::clone(&self.shared.disk_space),
            snapshots: self.storage.snapshots.clone(),
            digest_history: Arc::clone(digest_history),
            read_barrier: Arc::clone(read_barrier),
            prober: self.append_prober(),
            acknowledged: Mutex::new(None),
            heartbeat_patience: Duration::from_millis(self.config.timing.heartbeat_ms / 8),
            elections_from: self.consensus.elections_from,
            incoming: tokio::sync::Mutex::new(None),
            stopping: self.signals.stop.clone(),
        })
    }

    /// Interval of tasks that watch the leader and its heartbeats.
    fn tick(&self) -> Duration {
        Duration::from_millis(self.config.timing.heartbeat_ms / 2 + 1)
    }

    fn append_prober(&self) -> AppendProber<S> {
        AppendProber {
            raft: self.consensus.raft.clone(),
            transport: Arc::clone(&self.shared.transport),
            append_reach: Arc::clone(&self.shared.append_reach),
            disk_space: Arc::clone(&self.shared.disk_space),
        }
    }

    fn acknowledgement_recorder(&self) -> AcknowledgementRecorder<S> {
        AcknowledgementRecorder {
            raft: self.consensus.raft.clone(),
            acknowledged: Arc::clone(&self.shared.acknowledged),
            directory: Arc::clone(&self.storage.directory),
            fatal_error: self.shared.fatal_error.clone(),
            tick: self.tick(),
            stopping: self.signals.stop.clone(),
        }
    }

    fn commit_monitor(&self, changer: &MembershipChanger<S>) -> CommitMonitor<S> {
        CommitMonitor {
            changer: changer.clone(),
            prober: self.append_prober(),
            append_reach: Arc::clone(&self.shared.append_reach),
            metrics: Arc::clone(&self.shared.metrics),
            lease: self.lease(),
            tick: self.tick(),
        }
    }

    fn readiness_monitor(
        &self,
        out_of_touch: watch::Sender<Option<Instant>>,
    ) -> ReadinessMonitor<S> {
        ReadinessMonitor {
            raft: self.consensus.raft.clone(),
            transport: Arc::clone(&self.shared.transport),
            leader_contact: Arc::clone(&self.shared.leader_contact),
            catch_up: Arc::clone(&self.shared.catch_up),
            applied: self.consensus.applied.clone(),
            role: self.signals.role.clone(),
            out_of_touch,
            tick: self.tick(),
        }
    }

    fn peer_admission(&self) -> Arc<PeerAdmission<S>> {
        let timing = &self.config.timing;
        let message_bytes_max = self.config.limits.peer_body_bytes_max();
        Arc::new(PeerAdmission {
            identity: Arc::clone(&self.shared.identity),
            raft: self.consensus.raft.clone(),
            transport: Arc::clone(&self.shared.transport),
            contradictions: Arc::clone(&self.shared.contradictions),
            used_ids: self.consensus.used_ids.clone(),
            senders: SenderLookup {
                raft: self.consensus.raft.clone(),
                transport: Arc::clone(&self.shared.transport),
                mode: self.config.bootstrap.clone(),
                last: Arc::default(),
            },
            budgets: PeerBudgets::new(message_bytes_max),
            message_bytes_max,
            message_timeout: Duration::from_millis(timing.append_ms.max(timing.snapshot_chunk_ms)),
            asking_session: tokio::sync::Mutex::new(()),
        })
    }

    fn leadership_observer(
        &self,
        role: watch::Sender<RaftRole>,
        leadership: watch::Sender<Leadership>,
    ) -> LeadershipObserver<S> {
        LeadershipObserver {
            raft: self.consensus.raft.clone(),
            identity: Arc::clone(&self.shared.identity),
            applied: self.consensus.applied.clone(),
            leader_contact: Arc::clone(&self.shared.leader_contact),
            leadership_transfer: Arc::clone(&self.shared.leadership_transfer),
            change_reasons: Arc::clone(&self.shared.change_reasons),
            metrics: Arc::clone(&self.shared.metrics),
            lease: self.lease(),
            tick: self.tick(),
            role,
            leadership,
            transitions: TransitionLog::new(),
        }
    }

    fn failure_detector(&self) -> FailureDetector<S> {
        FailureDetector {
            raft: self.consensus.raft.clone(),
            transport: Arc::clone(&self.shared.transport),
            leader_contact: Arc::clone(&self.shared.leader_contact),
            elections_from: self.consensus.elections_from,
            disk_space: Arc::clone(&self.shared.disk_space),
            stopping: self.signals.stop.clone(),
        }
    }

    fn digest_comparer(&self, digest_history: &Arc<DigestHistory>) -> DigestComparer<S> {
        DigestComparer {
            raft: self.consensus.raft.clone(),
            transport: Arc::clone(&self.shared.transport),
            digest_history: Arc::clone(digest_history),
            directory: Arc::clone(&self.storage.directory),
            fatal_error: self.shared.fatal_error.clone(),
        }
    }

    fn clock_sync(&self) -> ClockSync<S> {
        ClockSync {
            raft: self.consensus.raft.clone(),
            transport: Arc::clone(&self.shared.transport),
            clocks: Arc::clone(&self.config.peer_clocks),
        }
    }

    fn spawn_tasks(
        &self,
        bootstrapper: Arc<Bootstrapper<S>>,
        services: &Services<S>,
        loops: ServiceLoops<S>,
        publishers: Publishers,
    ) -> Vec<JoinHandle<()>> {
        let stop = || self.signals.stop.clone();
        let raft = || self.consensus.raft.clone();
        let reconciler = MembershipReconciler {
            changer: services.changer.clone(),
            interval: Duration::from_millis(self.config.timing.heartbeat_ms),
        };
        let commit_monitor = self.commit_monitor(&services.changer);
        let prober = self.append_prober();
        let founding_level = FoundingLevel {
            changer: services.changer.clone(),
            lease: self.lease(),
            retry_delay: Duration::from_millis(self.config.timing.heartbeat_ms),
        };
        let disk_pressure = DiskPressureController {
            disk_space: Arc::clone(&self.shared.disk_space),
            append_reach: Arc::clone(&self.shared.append_reach),
            metrics: Arc::clone(&self.shared.metrics),
            changer: services.changer.clone(),
            lease: self.lease(),
            elections_from: self.consensus.elections_from,
        };
        let observer = self.leadership_observer(publishers.role, publishers.leadership);
        let readiness = self.readiness_monitor(publishers.out_of_touch);
        let digest_comparer = self.digest_comparer(&services.digest_history);
        let snapshots = snapshot_when_due(raft(), Arc::clone(&self.consensus.snapshot_due));
        let fatal_errors = fail_with_raft(raft(), self.shared.fatal_error.clone());
        let log_failure = fail_with_log(
            Arc::clone(&self.storage.log),
            self.shared.fatal_error.clone(),
        );
        vec![
            tokio::spawn(until(stop(), async move { bootstrapper.run().await })),
            tokio::spawn(until(stop(), observer.run())),
            tokio::spawn(until(stop(), readiness.run())),
            tokio::spawn(until(stop(), prober.run())),
            tokio::spawn(self.acknowledgement_recorder().run()),
            tokio::spawn(until(stop(), commit_monitor.run())),
            tokio::spawn(until(stop(), digest_comparer.run())),
            tokio::spawn(until(stop(), self.clock_sync().run())),
            tokio::spawn(self.failure_detector().run()),
            tokio::spawn(until(stop(), reconciler.run())),
            tokio::spawn(until(stop(), founding_level.run())),
            tokio::spawn(loops.batcher.run()),
            tokio::spawn(loops.rounds.run(stop())),
            tokio::spawn(until(stop(), disk_pressure.run())),
            tokio::spawn(until(stop(), snapshots)),
            tokio::spawn(until(stop(), fatal_errors)),
            tokio::spawn(until(stop(), log_failure)),
        ]
    }

    fn into_node(self, services: Services<S>, tasks: Vec<JoinHandle<()>>) -> Node<S> {
        let Assembly {
            config,
            storage,
            shared,
            consensus,
            signals,
        } = self;
        Node {
            inner: Arc::new(Inner {
                config,
                runtime: Handle::current(),
                identity: shared.identity,
                levels: shared.levels,
                raft: consensus.raft,
                log: storage.log,
                directory: storage.directory,
                applied: consensus.applied,
                role: signals.role,
                leadership_transfer: shared.leadership_transfer,
                leadership: signals.leadership,
                out_of_touch: signals.out_of_touch,
                leader_contact: shared.leader_contact,
                catch_up: shared.catch_up,
                fatal_error: shared.fatal_error,
                removal: shared.removal,
                metrics: shared.metrics,
                proposer: services.proposer,
                piggyback: services.piggyback,
                read_barrier: services.read_barrier,
                changer: services.changer,
                digest_history: services.digest_history,
                snapshots: storage.snapshots,
                disk_space: shared.disk_space,
                peer_service: services.peer_service,
                stopping: signals.stopping,
                tasks: Mutex::new(tasks),
            }),
        }
    }
}

async fn until(mut stop: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}
