//! Interface of the replicated state machine.

use std::io::{Read, Write};

use bytes::Bytes;

use crate::level::Level;

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
///
/// # Invariants
///
/// - Nothing enters a log that [`StateMachine::check_command`] refuses: neither a proposal nor an entry of a peer.
/// - No snapshot of a peer takes the place of the log before [`StateMachine::load`] has read all of it.
pub trait StateMachine: Send + 'static {
    /// Reply to one command. Delivered only on the node where it was proposed.
    type Reply: Send + 'static;
    /// Frozen view for a snapshot.
    type Frozen: Frozen;
    /// State read from a snapshot, for [`StateMachine::restore`].
    type Loaded: Send + 'static;

    /// Checks that [`StateMachine::apply`] can decode a command.
    ///
    /// # Errors
    ///
    /// The error states why not. The command is then refused, and written nowhere.
    fn check_command(command: &[u8]) -> std::io::Result<()>;

    /// Applies one entry and returns one reply per command.
    ///
    /// # Errors
    ///
    /// An error means that this node cannot understand or execute a committed entry. The node stops before it diverges.
    fn apply(&mut self, entry: EntryView<'_>) -> std::io::Result<Vec<Self::Reply>>;

    /// Returns a view of the present state that later applies do not change. Must be cheap, because applies wait for
    /// it.
    fn freeze(&mut self) -> Self::Frozen;

    /// Reads the output of [`Frozen::write`], from this or another node.
    ///
    /// # Errors
    ///
    /// An error means that this node cannot understand the snapshot. Nothing has changed.
    fn load(snapshot: &mut dyn Read) -> std::io::Result<Self::Loaded>;

    /// Replaces the state. `last_index` is the index of the last entry that the snapshot contains, and `level` the
    /// cluster's level at it.
    fn restore(&mut self, loaded: Self::Loaded, last_index: u64, level: Level);

    /// Raises the level of the cluster, between two entries. From now on the machine may write in the formats of
    /// `level`. A machine begins at [`Level::ONE`].
    fn set_level(&mut self, level: Level);
}

/// Frozen view of the state. See [`StateMachine::freeze`].
pub trait Frozen: Send + 'static {
    /// Writes the state as a stream. Runs concurrently with later applies, on a blocking thread.
    fn write(self, out: &mut dyn Write) -> std::io::Result<()>;
}
