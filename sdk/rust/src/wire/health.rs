//! Health and readiness of one node, as the node itself reports them.

use serde::{Deserialize, Serialize};

use super::NodeDisk;

/// Response of `GET /healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Health {
    /// Always `ok`.
    pub status: String,
    /// Id of the responding node.
    pub node: u64,
}

/// Response of `GET /readyz` if the node is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ready {
    /// Always `ready`.
    pub status: String,
    /// Id of the responding node.
    pub node: u64,
    /// Id of the leader.
    pub leader: u64,
    /// Term of the leader.
    pub term: u64,
    /// Disk of the responding node.
    #[serde(default)]
    pub disk: Option<NodeDisk>,
}
