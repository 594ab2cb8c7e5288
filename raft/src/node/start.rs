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
use crate::fatal::Failure;
use crate::leadership::change_reason::Causes;
use crate::leadership::role::{HandOver, Heard, Standing};
use crate::membership::bootstrap::Former;
use crate::membership::changes::Changer;
use crate::metrics::Measures;
use crate::network::peer_client::Network;
use crate::network::transport::Transport;
use crate::node::handle::{Inner, Node};
use crate::node::peer_server::Desk;
use crate::openraft_config::raft_config;
use crate::proposals::batcher::{Clock, proposals};
use crate::proposals::entry_writer::EntryWriter;
use crate::proposals::piggyback::Riders;
use crate::proposals::read_index;
use crate::protocol::identity::Identity;
use crate::state_machine::StateMachine;
use crate::status::Leadership;
use crate::storage::disk_space::Rooms;
use crate::storage::log_store::RaftLog;
use crate::storage::open;
use crate::tasks::automatic_snapshot::snapshot_when_due;
use crate::tasks::clock_sync::ClockAsker;
use crate::tasks::disk_pressure::Keeper;
use crate::tasks::divergence_check::{Agreement, Comparer};
use crate::tasks::fatal_error_monitor::fail_with_raft;
use crate::tasks::leader_failure_detector::Watcher;
use crate::tasks::leadership_observer::{Observer, Story};
use crate::tasks::membership_reconciler::Finisher;

/// How long a membership change or transfer may take before its outcome is told as unknown, in election timeouts.
const CHANGE_TIMEOUT_ELECTIONS: u32 = 30;
/// For so many leases what a peer said of itself counts as news.
const NOTE_LEASES: u32 = 4;

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

        let measures = Arc::new(Measures::new(disk.measures));
        let failure = Failure::new();
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
        let rooms = Arc::new(Rooms::new(
            disk.space.clone(),
            config.node_id,
            config.timing.lease() * NOTE_LEASES,
        ));
        let snapshot_due = Arc::new(Notify::new());
        let applier = Applier::new(
            machine,
            disk.snapshots.clone(),
            failure.clone(),
            config.snapshot.clone(),
            config.node_id,
            Arc::clone(&snapshot_due),
            Arc::clone(&measures),
        );
        let applied = applier.applied();
        let used_ids = applier.used_ids();
        let log = RaftLog::new(
            Arc::clone(&disk.log),
            failure.clone(),
            config.limits.append_bytes_max,
            config.node_id,
            Arc::clone(&measures),
        );
        let heard = Arc::new(Heard::new());
        let causes = Arc::new(Causes::new(Arc::clone(&heard)));
        let network = Network {
            transport: Arc::clone(&transport),
            causes: Arc::clone(&causes),
            rooms: Arc::clone(&rooms),
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
        let (standing_tx, standing) = watch::channel(Standing::Unknown { term: 0 });
        let (leadership_tx, leadership) = watch::channel(Leadership::Unknown { term: 0 });
        let hand_over = Arc::new(HandOver::default());
        let lease = config.timing.lease();
        let former = Arc::new(Former {
            identity: Arc::clone(&identity),
            transport: Arc::clone(&transport),
            directory: Arc::clone(&disk.directory),
            raft: raft.clone(),
            formation: config.peers.clone(),
            failure: failure.clone(),
            deciding: tokio::sync::Mutex::new(()),
        });
        if let Err(e) = former.check_not_foreign().await {
            // Nothing was promised to anybody yet; only the files must be let go.
            let _ = raft.shutdown().await;
            let _ = tokio::task::spawn_blocking(move || {
                let _ = disk.log.close();
                disk.directory.release();
            })
            .await;
            return Err(e);
        }

        let riders = Arc::new(Riders::default());
        let (proposer, batcher) = proposals(
            EntryWriter {
                raft: raft.clone(),
                standing: standing.clone(),
                failure: failure.clone(),
                lease,
            },
            stop.clone(),
            clock,
            &config.limits,
            Arc::clone(&measures),
            Arc::clone(&rooms),
            Arc::clone(&riders),
        );
        let (barrier, rounds) = read_index::barrier(
            raft.clone(),
            applied.clone(),
            standing.clone(),
            failure.clone(),
            lease,
            Duration::from_millis(config.limits.read_timeout_ms),
            config.limits.queue_reads_max,
        );
        let observer = Observer {
            raft: raft.clone(),
            identity: Arc::clone(&identity),
            applied: applied.clone(),
            heard: Arc::clone(&heard),
            hand_over: Arc::clone(&hand_over),
            causes: Arc::clone(&causes),
            measures: Arc::clone(&measures),
            lease,
            tick: Duration::from_millis(config.timing.heartbeat_ms / 2 + 1),
            standing: standing_tx,
            leadership: leadership_tx,
            story: Story::new(),
        };
        let watcher = Watcher {
            raft: raft.clone(),
            transport: Arc::clone(&transport),
            heard: Arc::clone(&heard),
            elections_from,
            rooms: Arc::clone(&rooms),
            stopping: stop.clone(),
        };
        let agreement = Arc::new(Agreement::new());
        let comparer = Comparer {
            raft: raft.clone(),
            transport: Arc::clone(&transport),
            agreement: Arc::clone(&agreement),
            directory: Arc::clone(&disk.directory),
            failure: failure.clone(),
        };
        let clock_asker = ClockAsker {
            raft: raft.clone(),
            transport: Arc::clone(&transport),
            clocks: Arc::clone(&config.peer_clocks),
        };
        let changer = Changer {
            raft: raft.clone(),
            transport,
            used_ids,
            standing: standing.clone(),
            hand_over: Arc::clone(&hand_over),
            causes: Arc::clone(&causes),
            rooms: Arc::clone(&rooms),
            timeout: lease * CHANGE_TIMEOUT_ELECTIONS,
            turn: Arc::default(),
        };
        let finisher = Finisher {
            changer: changer.clone(),
            pause: Duration::from_millis(config.timing.heartbeat_ms),
        };
        let snapshots = disk.snapshots.clone();
        let keeper = Keeper {
            rooms: Arc::clone(&rooms),
            changer: changer.clone(),
            lease,
            elections_from,
        };
        let desk = Arc::new(Desk {
            identity: Arc::clone(&identity),
            raft: raft.clone(),
            former: Arc::clone(&former),
            heard,
            causes,
            rooms: Arc::clone(&rooms),
            snapshots: disk.snapshots,
            agreement: Arc::clone(&agreement),
            elections_from,
            incoming: tokio::sync::Mutex::new(None),
            stopping: stop.clone(),
        });
        let tasks = vec![
            tokio::spawn(until(stop.clone(), async move { former.run().await })),
            tokio::spawn(until(stop.clone(), observer.run())),
            tokio::spawn(until(stop.clone(), comparer.run())),
            tokio::spawn(until(stop.clone(), clock_asker.run())),
            tokio::spawn(watcher.run()),
            tokio::spawn(until(stop.clone(), finisher.run())),
            tokio::spawn(batcher.run()),
            tokio::spawn(rounds.run(stop.clone())),
            tokio::spawn(until(stop.clone(), keeper.run())),
            tokio::spawn(until(
                stop.clone(),
                snapshot_when_due(raft.clone(), snapshot_due),
            )),
            tokio::spawn(until(stop, fail_with_raft(raft.clone(), failure.clone()))),
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
                standing,
                hand_over,
                leadership,
                failure,
                measures,
                proposer,
                riders,
                barrier,
                changer,
                agreement,
                snapshots,
                rooms,
                desk,
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
