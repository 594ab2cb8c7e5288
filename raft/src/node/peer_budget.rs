//! Budgets of peers: how many messages and bytes of each member are worked on at once, and how many watches it holds.
//!
//! A member needs few of each. One that sends more has a fault, or is no member, and must not use up what the others and
//! this node's own work need.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Maximum number of messages of one member at once.
const MESSAGES_MAX: usize = 64;
/// Maximum number of watches that one member holds. One more ends the oldest, whose connection may be dead.
const WATCHES_MAX: usize = 4;
/// Maximum bytes of one member's messages at once, in messages of the largest size.
const LARGEST_MESSAGES_MAX: usize = 2;

/// Budgets of all members.
#[derive(Debug)]
pub(crate) struct PeerBudgets {
    bytes_max: usize,
    members: Mutex<BTreeMap<u64, Usage>>,
}

#[derive(Debug, Default)]
struct Usage {
    messages: usize,
    bytes: usize,
    watches: VecDeque<oneshot::Sender<()>>,
}

impl PeerBudgets {
    pub(crate) fn new(message_bytes_max: usize) -> Arc<Self> {
        Arc::new(PeerBudgets {
            bytes_max: message_bytes_max.saturating_mul(LARGEST_MESSAGES_MAX),
            members: Mutex::default(),
        })
    }

    /// Takes a place for a message of member `id`. `None` if all of its places are taken.
    pub(crate) fn admit(self: &Arc<Self>, id: u64) -> Option<MessagePlace> {
        let mut members = self.members.lock();
        let usage = members.entry(id).or_default();
        if usage.messages >= MESSAGES_MAX {
            return None;
        }
        usage.messages += 1;
        Some(MessagePlace {
            budgets: Arc::clone(self),
            id,
            bytes: 0,
        })
    }

    /// Registers a watch of member `id`. The receiver completes when the watch has to end.
    pub(crate) fn watch(&self, id: u64) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        let mut members = self.members.lock();
        let watches = &mut members.entry(id).or_default().watches;
        watches.retain(|watch| !watch.is_closed());
        if watches.len() >= WATCHES_MAX
            && let Some(oldest) = watches.pop_front()
        {
            let _ = oldest.send(());
        }
        watches.push_back(end);
        ended
    }
}

/// Place of one message, and the bytes that it holds. Released on drop.
#[derive(Debug)]
pub(crate) struct MessagePlace {
    budgets: Arc<PeerBudgets>,
    id: u64,
    bytes: usize,
}

impl MessagePlace {
    /// Reserves `bytes` more for the message. Returns false if the member has no more.
    pub(crate) fn reserve(&mut self, bytes: usize) -> bool {
        let mut members = self.budgets.members.lock();
        let usage = members.entry(self.id).or_default();
        let total = usage.bytes.saturating_add(bytes);
        if total > self.budgets.bytes_max {
            return false;
        }
        usage.bytes = total;
        self.bytes += bytes;
        true
    }
}

impl Drop for MessagePlace {
    fn drop(&mut self) {
        let mut members = self.budgets.members.lock();
        if let Some(usage) = members.get_mut(&self.id) {
            usage.messages -= 1;
            usage.bytes -= self.bytes;
            if usage.messages == 0 && usage.watches.iter().all(oneshot::Sender::is_closed) {
                members.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_places_and_bytes_of_its_own() {
        let budgets = PeerBudgets::new(10);
        let mut places: Vec<MessagePlace> = (0..MESSAGES_MAX)
            .map(|_| budgets.admit(1).unwrap())
            .collect();
        assert!(budgets.admit(1).is_none());
        assert!(places[0].reserve(15) && places[1].reserve(5));
        assert!(!places[1].reserve(1));
        let mut other = budgets.admit(2).unwrap();
        assert!(other.reserve(20));
        places.remove(0);
        assert!(places[0].reserve(15));
        assert!(budgets.admit(1).is_some());
        drop((places, other));
        assert!(budgets.members.lock().is_empty());
    }

    #[test]
    fn one_watch_too_many_ends_the_oldest_of_its_member() {
        let budgets = PeerBudgets::new(10);
        let mut of_2 = budgets.watch(2);
        let mut watches: Vec<_> = (0..=WATCHES_MAX).map(|_| budgets.watch(1)).collect();
        assert!(watches[0].try_recv().is_ok());
        assert!(
            watches
                .iter_mut()
                .skip(1)
                .all(|watch| watch.try_recv().is_err())
        );
        assert!(of_2.try_recv().is_err());
        drop(watches);
        let mut alone = budgets.watch(1);
        for _ in 1..WATCHES_MAX {
            drop(budgets.watch(1));
        }
        drop(budgets.watch(1));
        assert!(alone.try_recv().is_err());
    }
}
