//! Control loops of a leader: dispatch, expiry and time. The schedule loop is in `schedules`.
//!
//! - Dispatch grants tasks when events wake it.
//! - Expiry ends leases after too long a silence, measured by the monotonic clock, and records the silence of workers for
//!   the next leader.
//! - Time fires the timers of the table.
//!
//! Each loop reads the table, decides, proposes, and starts over. None holds a lock over an await.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use triarch_areas::worker_silence::SilenceCommand;
use triarch_raft::{Committed, Level, PiggybackedCommand, ProposeError};
use triarch_table::command::EndReason;
use triarch_table::plan::{self, Plan};
use triarch_table::{Command, Reply};

use super::poll_registry::PollReservation;
use super::term::LeaderTerm;
use super::{retry, schedules};
use crate::leader_counters::LeaseExpiry;

/// Maximum grants in one decision. The rest follow in the next.
const GRANT_BATCH_MAX: usize = 1_024;
/// Maximum workers whose demand is considered for the new tasks of one entry.
const PIGGYBACK_DEMAND_MAX: usize = 64;
/// Longest interval between two checks of the table's timers.
const TIMER_POLL_INTERVAL: Duration = Duration::from_secs(30);

/// Starts the loops of a term. They end with it.
pub fn start(lead: &Arc<LeaderTerm>) {
    let loops = [
        tokio::spawn(dispatch(Arc::clone(lead))),
        tokio::spawn(expire(Arc::clone(lead))),
        tokio::spawn(advance_time(Arc::clone(lead))),
        tokio::spawn(schedules::fire_ticks(Arc::clone(lead))),
    ];
    for task in loops {
        let lead = Arc::clone(lead);
        tokio::spawn(async move {
            lead.ended().await;
            task.abort();
        });
    }
}

/// Grants queued tasks to waiting polls as soon as there are both.
async fn dispatch(lead: Arc<LeaderTerm>) {
    loop {
        let (plan, reserved) = plan_grants(&lead);
        if plan.grants.is_empty() {
            let ready = lead.table.ready.notified();
            match plan.next_start_ms {
                None => ready.await,
                Some(at_ms) => {
                    let wait_ms = at_ms.saturating_sub(lead.clock.now_ms()).max(1);
                    // The signal and the timeout both wake the loop.
                    let _ = tokio::time::timeout(Duration::from_millis(wait_ms), ready).await;
                }
            }
            continue;
        }
        let grants = plan.grants;
        let decided = lead.propose(&Command::Grant { grants }).await;
        if let Err(error) = settle_grants(&lead, decided, reserved) {
            retry::delay_after(&lead, "grants", error).await;
        }
    }
}

fn plan_grants(lead: &LeaderTerm) -> (Plan, PollReservation) {
    let table = lead.table.read();
    let mut state = lead.state.lock();
    if state.polls.is_empty() {
        return (Plan::default(), PollReservation::default());
    }
    let demand = |worker| state.demand_of(worker);
    let plan = plan::propose_with(&table, &demand, lead.clock.now_ms(), GRANT_BATCH_MAX);
    let workers = plan.grants.iter().map(|grant| grant.worker);
    let reserved = state.polls.reserve(workers);
    (plan, reserved)
}

/// Delivers the leases of a decision to the polls that wait for it, and releases the polls that got none.
fn settle_grants(
    lead: &LeaderTerm,
    decided: Result<Reply, ProposeError>,
    reserved: PollReservation,
) -> Result<(), ProposeError> {
    let mut state = lead.state.lock();
    let settled = match decided {
        Ok(Reply::Granted { leases }) => {
            state.deliver(&leases, Instant::now());
            Ok(())
        }
        Ok(other) => {
            tracing::error!(?other, "unexpected reply to a grant");
            Ok(())
        }
        Err(error) => Err(error),
    };
    state.polls.release(reserved);
    settled
}

/// Piggybacks a grant on an entry that may bring new tasks: waiting demand is served in the same entry instead of one
/// commit later. Returns `None` if no worker waits, or if the check would block.
pub fn piggyback_grants(lead: &Arc<LeaderTerm>) -> Option<PiggybackedCommand<Reply>> {
    let mut state = lead.state.try_lock()?;
    let demands = state.open_demand(PIGGYBACK_DEMAND_MAX);
    if demands.is_empty() {
        return None;
    }
    let reserved = state
        .polls
        .reserve(demands.iter().map(|demand| demand.worker));
    drop(state);
    let (outcome, received) = oneshot::channel::<Result<Committed<Reply>, ProposeError>>();
    let settling = Arc::clone(lead);
    lead.runtime.spawn(async move {
        let decided = match received.await {
            Ok(decided) => decided.map(|committed| committed.reply),
            Err(_) => Err(ProposeError::ShuttingDown),
        };
        if let Err(error) = settle_grants(&settling, decided, reserved) {
            tracing::debug!(term = settling.term, %error, "piggybacked grants: outcome unknown");
        }
        // Tasks that were not granted, and workers that got none, are matched in the next plan.
        settling.table.ready.notify_one();
    });
    Some(PiggybackedCommand {
        command: lead.table.encode(&Command::GrantNext { demands }),
        outcome,
    })
}

/// Ends leases and declares workers lost after too long a silence.
async fn expire(lead: Arc<LeaderTerm>) {
    let period = Duration::from_millis((lead.timing.heartbeat_ms / 2).clamp(20, 500));
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut checked = Instant::now();
    loop {
        ticks.tick().await;
        // After a pause of this process, the paused time counts as nobody's silence. The node may have lost its
        // leadership. If it has not, the heartbeats of that time are still on their way in.
        let pause = checked.elapsed().saturating_sub(period * 2);
        checked = Instant::now();
        let pause = match mutated!(SleeperJudges) {
            true => Duration::ZERO,
            false => pause,
        };
        if pause > Duration::ZERO {
            let mut state = lead.state.lock();
            state.leases.extend_deadlines(pause + period * 2, checked);
        }
        if pause > Duration::ZERO || !lead.node.leads_now() {
            continue;
        }
        // A node that refuses writes can decide nothing. Overdue workers and leases are found again once it accepts
        // writes.
        if lead.node.write_refusal().is_some() {
            continue;
        }
        let (mut overdue, silences, undelivered) = {
            let table = lead.table.read();
            let mut state = lead.state.lock();
            let now = Instant::now();
            let recorded = lead.table.worker_silences();
            let leases = &mut state.leases;
            let overdue = leases.overdue(&table, &recorded, lead.timing, now);
            let mut silences = match lead.table.level() {
                Level::ONE => Vec::new(),
                _ => leases.silences_to_record(&recorded, lead.timing, now),
            };
            silences.retain(|(worker, _)| !overdue.workers.contains(worker));
            (overdue, silences, state.expire_undelivered(now))
        };
        if !silences.is_empty()
            && let Err(error) = lead
                .propose_silence(&SilenceCommand::Record(silences))
                .await
        {
            retry::delay_after(&lead, "silent workers", error).await;
        }
        if !overdue.workers.is_empty() {
            for worker in &overdue.workers {
                lead.state.lock().polls.close(*worker);
                tracing::warn!(%worker, lease_ms = lead.timing.lease_ms, "worker lost: no heartbeat for its whole lease");
            }
            let workers = overdue.workers;
            match lead.propose(&Command::LoseWorkers { workers }).await {
                Ok(Reply::Done { tasks }) => {
                    lead.table
                        .counters
                        .count_expired_leases(LeaseExpiry::WorkerLost, tasks);
                }
                Ok(other) => {
                    tracing::error!(?other, "unexpected reply to the loss of workers");
                }
                Err(error) => retry::delay_after(&lead, "lost workers", error).await,
            }
        }
        if !overdue.leases.is_empty() {
            tracing::info!(
                leases = overdue.leases.len(),
                "leases ended: not confirmed by a heartbeat, or over their time limit"
            );
        }
        overdue.leases.extend(undelivered);
        if !overdue.leases.is_empty() {
            let leases = overdue.leases;
            let reasons: Vec<LeaseExpiry> = leases
                .iter()
                .map(|lease| lease_expiry(lease.reason))
                .collect();
            match lead.propose(&Command::EndLeases { leases }).await {
                // The leases that ended another way in between are few, and are counted here all the same.
                Ok(_) => reasons
                    .into_iter()
                    .for_each(|reason| lead.table.counters.count_expired_leases(reason, 1)),
                Err(error) => retry::delay_after(&lead, "ended leases", error).await,
            }
        }
    }
}

fn lease_expiry(reason: EndReason) -> LeaseExpiry {
    match reason {
        EndReason::Expired => LeaseExpiry::Unconfirmed,
        EndReason::TimedOut => LeaseExpiry::TimedOut,
        EndReason::Returned => LeaseExpiry::Unclaimed,
    }
}

/// Advances the table's time whenever one of its timers is due.
async fn advance_time(lead: Arc<LeaderTerm>) {
    loop {
        // The table's own time may be ahead of the clock. Timers up to that time are due already.
        let (next_ms, table_ms) = {
            let table = lead.table.read();
            (table.next_timer_ms(), table.now_ms())
        };
        let now_ms = lead.clock.now_ms().max(table_ms);
        match next_ms {
            None => {
                // Deduplication keys that age send no signal of their own; none of them is urgent.
                let _ =
                    tokio::time::timeout(TIMER_POLL_INTERVAL, lead.table.timers.notified()).await;
            }
            Some(next_ms) if next_ms > now_ms => {
                // Any change of the table may bring an earlier time.
                let left = Duration::from_millis(next_ms - now_ms).min(TIMER_POLL_INTERVAL);
                let _ = tokio::time::timeout(left, lead.table.timers.notified()).await;
            }
            Some(_) => {
                if let Err(error) = lead.propose(&Command::AdvanceTime).await {
                    retry::delay_after(&lead, "time", error).await;
                }
            }
        }
    }
}
