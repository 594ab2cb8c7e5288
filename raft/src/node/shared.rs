//! State that consensus, services and background tasks of a node have in common.

use std::sync::Arc;
use std::time::Instant;

use crate::config::NodeConfig;
use crate::error::StartError;
use crate::fatal::FatalErrorSignal;
use crate::leadership::append_reach::AppendReach;
use crate::leadership::catch_up::CatchUp;
use crate::leadership::change_reason::LeaderChangeReasons;
use crate::leadership::role::{LeaderContact, LeadershipTransfer};
use crate::metrics::ConsensusMetrics;
use crate::network::transport::Transport;
use crate::node::contradiction_check::ContradictionCheck;
use crate::protocol::acknowledged::Acknowledged;
use crate::protocol::identity::Identity;
use crate::protocol::levels::Levels;
use crate::removal::RemovalSignal;
use crate::storage::disk_space::ClusterDiskSpace;
use crate::storage::open::OpenedStorage;

/// Maximum age of the health that a peer reports of itself, in leases.
const PEER_HEALTH_MAX_AGE_LEASES: u32 = 4;

/// State that consensus, services and tasks have in common.
pub(super) struct Shared {
    pub(super) identity: Arc<Identity>,
    pub(super) levels: Arc<Levels>,
    pub(super) acknowledged: Arc<Acknowledged>,
    pub(super) transport: Arc<Transport>,
    pub(super) contradictions: Arc<ContradictionCheck>,
    pub(super) fatal_error: FatalErrorSignal,
    pub(super) removal: RemovalSignal,
    pub(super) metrics: Arc<ConsensusMetrics>,
    pub(super) disk_space: Arc<ClusterDiskSpace>,
    pub(super) leader_contact: Arc<LeaderContact>,
    pub(super) catch_up: Arc<CatchUp>,
    pub(super) append_reach: Arc<AppendReach>,
    pub(super) change_reasons: Arc<LeaderChangeReasons>,
    pub(super) leadership_transfer: Arc<LeadershipTransfer>,
}

impl Shared {
    pub(super) fn new(config: &NodeConfig, storage: &OpenedStorage) -> Result<Self, StartError> {
        let metrics = Arc::new(ConsensusMetrics::new(Arc::clone(&storage.log_metrics)));
        let identity = Arc::new(Identity::new(
            config.node_id,
            config.addr.clone(),
            storage.directory.incarnation,
            storage.cluster,
        ));
        let removal = RemovalSignal::new(config.node_id);
        let levels = Arc::new(Levels::new(&config.program_version, config.level_max)?);
        let acknowledged = Arc::new(Acknowledged::new(
            config.node_id,
            Arc::clone(&storage.history),
            storage.acknowledged.clone(),
        ));
        let transport = Arc::new(Transport::new(
            Arc::clone(&identity),
            Arc::clone(&levels),
            Arc::clone(&acknowledged),
            config.timing.clone(),
            removal.clone(),
        )?);
        let contradictions = Arc::new(ContradictionCheck::new(
            Arc::clone(&storage.history),
            Arc::clone(&transport),
        ));
        let disk_space = Arc::new(ClusterDiskSpace::new(
            storage.space.clone(),
            Arc::clone(&storage.log_metrics),
            config.node_id,
            config.timing.lease() * PEER_HEALTH_MAX_AGE_LEASES,
        ));
        let leader_contact = Arc::new(LeaderContact::new());
        let change_reasons = Arc::new(LeaderChangeReasons::new(Arc::clone(&leader_contact)));
        Ok(Shared {
            identity,
            levels,
            acknowledged,
            transport,
            contradictions,
            fatal_error: FatalErrorSignal::new(),
            removal,
            metrics,
            disk_space,
            leader_contact,
            catch_up: Arc::new(CatchUp::new(config.timing.lease(), Instant::now())),
            append_reach: Arc::default(),
            change_reasons,
            leadership_transfer: Arc::default(),
        })
    }
}
