//! How a node is, by its own word.

use serde::{Deserialize, Serialize};

use super::NodeDisk;

/// Answer to `GET /healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The node that answered.
    pub node: u64,
}

/// Answer to `GET /readyz`, if it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ready {
    /// `ready`.
    pub status: String,
    /// The node that answered.
    pub node: u64,
    /// The node that leads.
    pub leader: u64,
    /// The term it was elected in.
    pub term: u64,
    /// The disk of the node that answered.
    #[serde(default)]
    pub disk: Option<NodeDisk>,
}
