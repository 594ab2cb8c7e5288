//! Leadership tracking: begins a [`LeaderTerm`] when this node is elected, and ends it when the node steps down.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use triarch_raft::Leadership;

use super::clock::ClusterClock;
use super::lease_tracker::LeaseTiming;
use super::loops;
use super::term::{LeaderTerm, TableNode};
use crate::state_machine::SharedTable;

/// Tracks this node's leadership for as long as the process lives. The receiver holds the current [`LeaderTerm`], if any.
pub fn track_leadership(
    node: TableNode,
    table: Arc<SharedTable>,
    clock: Arc<ClusterClock>,
    timing: LeaseTiming,
) -> watch::Receiver<Option<Arc<LeaderTerm>>> {
    let (publish, lead) = watch::channel::<Option<Arc<LeaderTerm>>>(None);
    let current = lead.clone();
    node.set_piggyback_dispatcher(Box::new(move |term| {
        let lead = current.borrow().clone();
        loops::piggyback_grants(&lead.filter(|lead| lead.term == term)?)
    }));
    tokio::spawn(async move {
        let mut leadership = node.leadership();
        loop {
            let now = leadership.borrow_and_update().clone();
            let current: Option<Arc<LeaderTerm>> = publish.borrow().clone();
            match (now, current) {
                (Leadership::Leading { term, .. }, Some(lead)) if lead.term == term => {}
                (Leadership::Leading { term, since }, current) => {
                    if let Some(lead) = current {
                        lead.finish();
                    }
                    table.counters.set_leading(true);
                    publish.send_replace(Some(begin(term, since, &node, &table, &clock, timing)));
                }
                (Leadership::Following { .. } | Leadership::Unknown { .. }, current) => {
                    table.counters.set_leading(false);
                    if let Some(lead) = current {
                        lead.finish();
                        clock.end_term();
                        publish.send_replace(None);
                    }
                }
            }
            if leadership.changed().await.is_err() {
                break;
            }
        }
        if let Some(lead) = publish.borrow().as_ref() {
            lead.finish();
        }
    });
    lead
}

fn begin(
    term: u64,
    since: Instant,
    node: &TableNode,
    table: &Arc<SharedTable>,
    clock: &Arc<ClusterClock>,
    timing: LeaseTiming,
) -> Arc<LeaderTerm> {
    clock.begin_term(table.read().now_ms());
    let lead = Arc::new(LeaderTerm::new(term, since, node, table, clock, timing));
    loops::start(&lead);
    lead
}
