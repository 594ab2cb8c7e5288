//! Options of a proposal: its priority, its fencing by term, and whether its entry may take a piggybacked command
//! along.

/// Queue in which a proposal waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// After all proposals of high priority, except for a share of each entry that is left to normal ones.
    #[default]
    Normal,
    /// Before all that wait with normal priority.
    High,
}

/// Options of a proposal. Default: normal priority, no piggybacked command, any term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProposeOptions {
    /// Priority of the proposal.
    pub priority: Priority,
    /// Whether its entry may end with a piggybacked command. See
    /// [`Node::set_piggyback_dispatcher`](crate::Node::set_piggyback_dispatcher).
    pub allow_piggyback: bool,
    /// Term in which this node must lead when the entry is written; otherwise the proposal is refused. For decisions of
    /// the leader itself.
    pub term: Option<u64>,
}
