//! Whose turn it is: the queues of which something could start, the least served first.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::index::ready_queue::QueueIndex;

/// See the module. Derived from the queues.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Turns {
    /// Those without a rate, by how much they were served.
    pub free: BTreeSet<(u64, Arc<str>)>,
    /// Those with a rate, by when it next allows a start, in Unix ns.
    pub rated: BTreeSet<(u64, Arc<str>)>,
    /// Those with finished jobs to forget by their own settings, by when.
    pub forgetful: BTreeSet<(u64, Arc<str>)>,
}

/// Where a queue stands in [`Turns`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Turn {
    free: Option<u64>,
    rated: Option<u64>,
    forgets_ms: Option<u64>,
}

impl Turn {
    /// Where it belongs.
    pub fn of(queue: &QueueIndex) -> Self {
        let settings = &queue.record.settings;
        let starts = !settings.paused && !queue.heads.is_empty() && queue.room() > 0;
        Self {
            free: (starts && settings.rate.is_none()).then_some(queue.record.served),
            rated: (starts && settings.rate.is_some()).then(|| queue.record.next_start_ns()),
            forgets_ms: queue.forgets_ms(),
        }
    }
}

impl Turns {
    /// Moves a queue from where it stood.
    pub fn change(&mut self, name: &Arc<str>, from: Turn, to: Turn) {
        replace(&mut self.free, name, from.free, to.free);
        replace(&mut self.rated, name, from.rated, to.rated);
        replace(&mut self.forgetful, name, from.forgets_ms, to.forgets_ms);
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
