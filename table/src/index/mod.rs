//! Secondary indexes derived from the records. Never persisted; rebuilt on restore.
//!
//! # Invariants
//!
//! - Nothing here is state of its own: it is in neither snapshots nor digests.
//! - Rebuilding the indexes from the records gives the same indexes; the invariant check does exactly that.
//! - Records change only between `drop_*` and `add_*`.

mod secondary_indexes;

pub(crate) mod concurrency_keys;
pub(crate) mod queue_order;
pub(crate) mod ready_queue;
pub(crate) mod worker_groups;

pub(crate) use secondary_indexes::SecondaryIndexes;
