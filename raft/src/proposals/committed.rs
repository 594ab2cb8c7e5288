//! Outcome of a proposal that was committed: its log index and the reply of the state machine.

/// A committed and applied command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed<R> {
    /// Log index of the entry that carried it.
    pub index: u64,
    /// Reply of the state machine.
    pub reply: R,
}
