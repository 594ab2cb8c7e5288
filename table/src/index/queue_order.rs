//! Index of queues in scheduling order: those of which something could start, the least served first.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::index::ready_queue::QueueIndex;

/// See the module. Derived from the queues.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct QueueOrder {
    /// Those without a rate, by how much they were served.
    pub unlimited: BTreeSet<(u64, Arc<str>)>,
    /// Those with a rate, by when it next allows a start, in Unix ns.
    pub rate_limited: BTreeSet<(u64, Arc<str>)>,
    /// Those with finished jobs to forget by their own settings, by when.
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
    /// Where it belongs.
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
    /// Moves a queue from where it stood.
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
