//! Change feed: the latest part of the cluster's history, as records of the events of the last applied entries.
//!
//! Apply appends to it on every node, so every node has the same history. A reader that lost its connection to one node
//! continues at another. The feed is in memory only: it begins with the process, or with the last installed snapshot.
//!
//! # Invariants
//!
//! - Between the oldest position that is kept and the entry appended last there is no gap.
//! - A reader that asks for an older position gets [`PositionGone`], and never a silent gap.
//! - The number of records is bounded; the oldest are dropped first.

mod buffer;
mod position;
mod record;

pub use buffer::{Feed, Page, PositionGone};
pub use position::Position;
pub use record::{EventRecord, LeaseOutcome, LeaseRef, TaskRef, records_of};
