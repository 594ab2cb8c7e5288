//! What a leader does besides obeying the log: it decides, and proposes what it decided.
//!
//! One [`Lead`] stands for one term of leadership of this node. It owns the [`Desk`](desk::Desk) and four loops
//! (dispatch, expiry, time, schedules), which end with the term. Their commands are proposed for that term only and are never
//! forwarded, so a leader that was stopped and wakes up in another's term decides nothing.

pub mod clock;
pub mod leader_state;
pub mod live_output;
mod loops;
mod schedules;
pub mod worker_calls;

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use triarch_raft::{Leadership, Node, Priority, ProposeError, ProposeOptions};
use triarch_table::{Command, Reply};

use crate::leader::leader_state::{Desk, LeaseTiming};
use crate::leader::live_output::LiveOutput;
use crate::state_machine::{SharedTable, TableMachine, encode};
use clock::SteadyClock;

/// Consensus over the table.
pub type TableNode = Node<TableMachine>;

/// One term of leadership of this node.
pub struct Lead {
    /// The Raft term; commands of the loops are fenced by it.
    pub term: u64,
    /// What is kept in memory for this term.
    pub desk: Mutex<Desk>,
    /// What running attempts write, for those who watch.
    output: Mutex<LiveOutput>,
    /// How long silence may last.
    pub timing: LeaseTiming,
    node: TableNode,
    table: Arc<SharedTable>,
    clock: Arc<SteadyClock>,
    runtime: tokio::runtime::Handle,
    over: CancellationToken,
}

impl Lead {
    /// Ends when the term does.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// The cluster's time, in Unix ms: this node's steady clock, or the table's where that is ahead.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms().max(self.table.read().now_ms())
    }

    /// Proposes one of the leader's own decisions.
    async fn decide(&self, command: &Command) -> Result<Reply, ProposeError> {
        let options = ProposeOptions {
            priority: Priority::High,
            term: Some(self.term),
            ..ProposeOptions::default()
        };
        self.node
            .propose(encode(command), options)
            .await
            .map(|committed| committed.reply)
    }
}

/// Follows this node's leadership for as long as the process lives; the receiver holds the present [`Lead`], if any.
pub fn follow(
    node: TableNode,
    table: Arc<SharedTable>,
    clock: Arc<SteadyClock>,
    timing: LeaseTiming,
) -> watch::Receiver<Option<Arc<Lead>>> {
    let (publish, lead) = watch::channel::<Option<Arc<Lead>>>(None);
    let present = lead.clone();
    node.set_piggyback_dispatcher(Box::new(move |term| {
        let lead = present.borrow().clone();
        lead.filter(|lead| lead.term == term)?.rider()
    }));
    tokio::spawn(async move {
        let mut leadership = node.leadership();
        loop {
            let now = leadership.borrow_and_update().clone();
            let present: Option<Arc<Lead>> = publish.borrow().clone();
            match (now, present) {
                (Leadership::Leading { term, .. }, Some(lead)) if lead.term == term => {}
                (Leadership::Leading { term, since }, present) => {
                    if let Some(lead) = present {
                        lead.over.cancel();
                    }
                    table.tally.set_leading(true);
                    publish.send_replace(Some(begin(term, since, &node, &table, &clock, timing)));
                }
                (Leadership::Following { .. } | Leadership::Unknown { .. }, present) => {
                    table.tally.set_leading(false);
                    if let Some(lead) = present {
                        lead.over.cancel();
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
            lead.over.cancel();
        }
    });
    lead
}

fn begin(
    term: u64,
    since: Instant,
    node: &TableNode,
    table: &Arc<SharedTable>,
    clock: &Arc<SteadyClock>,
    timing: LeaseTiming,
) -> Arc<Lead> {
    clock.begin_term(table.read().now_ms());
    let lead = Arc::new(Lead {
        term,
        desk: Mutex::new(Desk::new(since)),
        output: Mutex::default(),
        timing,
        node: node.clone(),
        table: Arc::clone(table),
        clock: Arc::clone(clock),
        runtime: tokio::runtime::Handle::current(),
        over: CancellationToken::new(),
    });
    loops::start(&lead);
    lead
}
