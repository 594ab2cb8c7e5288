//! Options of a proposal: its priority, its fencing by term, and whether its entry may take a piggybacked command along.

/// Which of two queues a proposal waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// After all proposals of high priority, except for a share of each entry that is left to normal ones.
    #[default]
    Normal,
    /// Before all that wait with normal priority.
    High,
}

/// How a command is proposed. The default: normal priority, no piggybacked command, whatever the term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProposeOptions {
    /// Which proposals it goes before.
    pub priority: Priority,
    /// Whether its entry may end with a piggybacked command. See
    /// [`Node::set_piggyback_dispatcher`](crate::Node::set_piggyback_dispatcher).
    pub allow_piggyback: bool,
    /// Refused unless this node leads in exactly this term when the entry is written: for decisions of the leader itself.
    pub term: Option<u64>,
}
