//! Interface of the replicated state machine.

use std::io::{Read, Write};

use bytes::Bytes;

/// One committed entry: all commands that travelled together, with one stamp.
#[derive(Debug, Clone, Copy)]
pub struct EntryView<'a> {
    /// Log index; every entry is applied exactly once, in order. Entries of consensus itself leave gaps.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Clock of the proposing leader, in Unix ms. May go backwards between leaders; the machine must cope.
    pub now_ms: u64,
    /// Commands of the entry. At least one.
    pub commands: &'a [Bytes],
}

/// Deterministic state machine: the same entries give the same state and replies on every node.
pub trait StateMachine: Send + 'static {
    /// Reply to one command. Delivered only on the node where it was proposed.
    type Reply: Send + 'static;
    /// Frozen view for a snapshot.
    type Frozen: Frozen;

    /// Applies one entry and returns one reply per command.
    ///
    /// # Errors
    ///
    /// An error means that this node cannot understand or execute a committed entry. The node stops before it diverges.
    fn apply(&mut self, entry: EntryView<'_>) -> std::io::Result<Vec<Self::Reply>>;

    /// Returns a view of the present state that later applies do not change. Must be cheap, because applies wait for
    /// it.
    fn freeze(&mut self) -> Self::Frozen;

    /// Replaces the state by the output of [`Frozen::write`], from this or another node. On an error the old state
    /// stays. `last_index` is the index of the last entry that the snapshot contains.
    fn restore(&mut self, snapshot: &mut dyn Read, last_index: u64) -> std::io::Result<()>;
}

/// Frozen view of the state. See [`StateMachine::freeze`].
pub trait Frozen: Send + 'static {
    /// Writes the state as a stream. Runs concurrently with later applies, on a blocking thread.
    fn write(self, out: &mut dyn Write) -> std::io::Result<()>;
}
