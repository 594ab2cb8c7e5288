//! The loops of a leader: dispatch (grants, on events), expiry (silence, on the monotonic clock), time (what the table
//! waits for until a stamp), and in a file of its own the ticks of schedules. Each looks, decides, proposes, and looks again; none holds a lock over an await.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use triarch_raft::{Committed, PiggybackedCommand, ProposeError};
use triarch_table::command::EndReason;
use triarch_table::plan::{self, Plan};
use triarch_table::{Command, Reply};

use super::{Lead, schedules};
use crate::leader::leader_state::Taken;
use crate::leader_counters::Expiry;
use crate::state_machine::encode;

/// Leases in one decision; the rest follow in the next.
const GRANTS_AT_ONCE_MAX: usize = 1_024;
/// Waiting polls that are looked at for one entry's new work.
const ASKS_MAX: usize = 64;
/// The table's timers are looked at no less often than this.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Wait before a decision is proposed again after consensus could not take it.
const AGAIN: Duration = Duration::from_millis(20);

pub(super) fn start(lead: &Arc<Lead>) {
    let loops = [
        tokio::spawn(dispatch(Arc::clone(lead))),
        tokio::spawn(expire(Arc::clone(lead))),
        tokio::spawn(time(Arc::clone(lead))),
        tokio::spawn(schedules::tick(Arc::clone(lead))),
    ];
    for work in loops {
        let over = lead.over.clone();
        tokio::spawn(async move {
            over.cancelled().await;
            work.abort();
        });
    }
}

/// Grants queued tasks to waiting polls as soon as one meets the other.
async fn dispatch(lead: Arc<Lead>) {
    loop {
        let (plan, taken) = propose_grants(&lead);
        if plan.grants.is_empty() {
            let ready = lead.table.ready.notified();
            match plan.next_start_ms {
                None => ready.await,
                Some(at_ms) => {
                    let wait_ms = at_ms.saturating_sub(lead.clock.now_ms()).max(1);
                    // Either has it look again.
                    let _ = tokio::time::timeout(Duration::from_millis(wait_ms), ready).await;
                }
            }
            continue;
        }
        let grants = plan.grants;
        let decided = lead.decide(&Command::Grant { grants }).await;
        if let Err(error) = lead.granted(decided, taken) {
            again(&lead, "grants", error).await;
        }
    }
}

fn propose_grants(lead: &Lead) -> (Plan, Taken) {
    let table = lead.table.read();
    let mut desk = lead.desk.lock();
    if desk.nobody_waits() {
        return (Plan::default(), Taken::default());
    }
    let asking = |worker| desk.asking(worker);
    let plan = plan::propose_with(&table, &asking, lead.clock.now_ms(), GRANTS_AT_ONCE_MAX);
    let taken = desk.take(plan.grants.iter().map(|grant| grant.worker));
    (plan, taken)
}

impl Lead {
    /// Tells the polls what came of a decision about them.
    fn granted(
        &self,
        decided: Result<Reply, ProposeError>,
        taken: Taken,
    ) -> Result<(), ProposeError> {
        let mut desk = self.desk.lock();
        let told = match decided {
            Ok(Reply::Granted { leases }) => {
                desk.deliver(&leases, Instant::now());
                Ok(())
            }
            Ok(other) => {
                tracing::error!(?other, "a grant was answered by something else");
                Ok(())
            }
            Err(error) => Err(error),
        };
        desk.give_back(taken);
        told
    }

    /// The decision that rides along with an entry that may bring work: if somebody waits for some, it is theirs in the same
    /// entry, and not a commit later. Nobody is asked to wait for it.
    pub(super) fn rider(self: &Arc<Self>) -> Option<PiggybackedCommand<Reply>> {
        let mut desk = self.desk.try_lock()?;
        let asks = desk.asks(ASKS_MAX);
        if asks.is_empty() {
            return None;
        }
        let taken = desk.take(asks.iter().map(|ask| ask.worker));
        drop(desk);
        let (outcome, told) = oneshot::channel::<Result<Committed<Reply>, ProposeError>>();
        let lead = Arc::clone(self);
        self.runtime.spawn(async move {
            let decided = match told.await {
                Ok(decided) => decided.map(|committed| committed.reply),
                Err(_) => Err(ProposeError::ShuttingDown),
            };
            if let Err(error) = lead.granted(decided, taken) {
                tracing::debug!(term = lead.term, %error, "grants that rode along: not decided");
            }
            // What it left over, and who was left without, meet in the next plan.
            lead.table.ready.notify_one();
        });
        Some(PiggybackedCommand {
            command: encode(&Command::GrantNext { demands: asks }),
            outcome,
        })
    }
}

/// Ends what was silent for too long.
async fn expire(lead: Arc<Lead>) {
    let period = Duration::from_millis((lead.timing.heartbeat_ms / 2).clamp(20, 500));
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looked = Instant::now();
    loop {
        ticks.tick().await;
        // A process that was stopped judges nobody by the time it slept through: it may have lost its leadership, and
        // if it has not, the heartbeats of that time are still on their way in.
        let slept = looked.elapsed().saturating_sub(period * 2);
        looked = Instant::now();
        let slept = match mutated!(SleeperJudges) {
            true => Duration::ZERO,
            false => slept,
        };
        if slept > Duration::ZERO {
            lead.desk.lock().forgive(slept + period * 2, looked);
        }
        if slept > Duration::ZERO || !lead.node.leads_now() {
            continue;
        }
        // What cannot be written cannot be decided. Whoever is overdue is found again once there is room.
        if lead.node.write_refusal().is_some() {
            continue;
        }
        let (mut overdue, unclaimed) = {
            let table = lead.table.read();
            let mut desk = lead.desk.lock();
            let now = Instant::now();
            (desk.overdue(&table, lead.timing, now), desk.unclaimed(now))
        };
        if !overdue.workers.is_empty() {
            for worker in &overdue.workers {
                lead.desk.lock().dismiss(*worker);
                tracing::warn!(%worker, lease_ms = lead.timing.lease_ms, "worker lost: not heard of for its whole lease");
            }
            let workers = overdue.workers;
            match lead.decide(&Command::LoseWorkers { workers }).await {
                Ok(Reply::Done { tasks }) => lead.table.tally.expired(Expiry::WorkerLost, tasks),
                Ok(other) => {
                    tracing::error!(?other, "the loss of workers was answered by something else");
                }
                Err(error) => again(&lead, "lost workers", error).await,
            }
        }
        if !overdue.leases.is_empty() {
            tracing::info!(
                leases = overdue.leases.len(),
                "leases ended: not confirmed, or past their timeout"
            );
        }
        overdue.leases.extend(unclaimed);
        if !overdue.leases.is_empty() {
            let leases = overdue.leases;
            let reasons: Vec<Expiry> = leases.iter().map(|lease| expiry(lease.reason)).collect();
            match lead.decide(&Command::EndLeases { leases }).await {
                // Those that ended another way in between are few, and count here all the same.
                Ok(_) => reasons
                    .into_iter()
                    .for_each(|why| lead.table.tally.expired(why, 1)),
                Err(error) => again(&lead, "ended leases", error).await,
            }
        }
    }
}

fn expiry(reason: EndReason) -> Expiry {
    match reason {
        EndReason::Expired => Expiry::Unconfirmed,
        EndReason::TimedOut => Expiry::TimedOut,
        EndReason::Returned => Expiry::Unclaimed,
    }
}

/// Lets the table's time pass whenever it waits for it.
async fn time(lead: Arc<Lead>) {
    loop {
        // The table's own time may be ahead of the clock: then what it waits for is due already.
        let (next_ms, table_ms) = {
            let table = lead.table.read();
            (table.next_timer_ms(), table.now_ms())
        };
        let now_ms = lead.clock.now_ms().max(table_ms);
        match next_ms {
            None => {
                // Memories that age raise no signal of their own; none of them is in a hurry.
                let _ = tokio::time::timeout(LOOK_AGAIN, lead.table.timers.notified()).await;
            }
            Some(next_ms) if next_ms > now_ms => {
                // Any change of the table may bring an earlier time.
                let left = Duration::from_millis(next_ms - now_ms).min(LOOK_AGAIN);
                let _ = tokio::time::timeout(left, lead.table.timers.notified()).await;
            }
            Some(_) => {
                if let Err(error) = lead.decide(&Command::AdvanceTime).await {
                    again(&lead, "time", error).await;
                }
            }
        }
    }
}

pub(super) async fn again(lead: &Lead, what: &str, error: ProposeError) {
    tracing::debug!(term = lead.term, %error, "{what}: not decided, looking again");
    tokio::time::sleep(AGAIN).await;
}
