//! Index of queues in scheduling order: queues with a startable task, the least served first.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::index::ready_queue::QueueIndex;

/// Queues in scheduling order. Derived from the queues.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct QueueOrder {
    /// Queues without a rate, by service received.
    pub unlimited: BTreeSet<(u64, Arc<str>)>,
    /// Queues with a rate, by when it next allows a start, in Unix ns.
    pub rate_limited: BTreeSet<(u64, Arc<str>)>,
    /// Queues whose own settings limit the retention of finished jobs, by when the next one is due, in Unix ms.
    pub retention_due: BTreeSet<(u64, Arc<str>)>,
}

/// Keys under which a queue is in [`QueueOrder`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct QueueOrderKey {
    unlimited: Option<u64>,
    rate_limited: Option<u64>,
    retention_due_ms: Option<u64>,
}

impl QueueOrderKey {
    /// Computes the keys of a queue.
    pub fn of(queue: &QueueIndex) -> Self {
        let settings = &queue.record.settings;
        let starts = !settings.paused && !queue.heads.is_empty() && queue.remaining_capacity() > 0;
        Self {
            unlimited: (starts && settings.rate.is_none()).then_some(queue.record.served),
            rate_limited: (starts && settings.rate.is_some()).then(|| queue.record.next_start_ns()),
            retention_due_ms: queue.retention_due_ms(),
        }
    }
}

impl QueueOrder {
    /// Moves a queue from its old keys to its new ones.
    pub fn change(&mut self, name: &Arc<str>, from: QueueOrderKey, to: QueueOrderKey) {
        replace(&mut self.unlimited, name, from.unlimited, to.unlimited);
        replace(
            &mut self.rate_limited,
            name,
            from.rate_limited,
            to.rate_limited,
        );
        replace(
            &mut self.retention_due,
            name,
            from.retention_due_ms,
            to.retention_due_ms,
        );
    }
}

fn replace(
    set: &mut BTreeSet<(u64, Arc<str>)>,
    name: &Arc<str>,
    from: Option<u64>,
    to: Option<u64>,
) {
    if from == to {
        return;
    }
    if let Some(from) = from {
        set.remove(&(from, name.clone()));
    }
    if let Some(to) = to {
        set.insert((to, name.clone()));
    }
}
