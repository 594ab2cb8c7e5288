//! Catch-up of a follower: whether this node has applied everything that its leader had committed.
//!
//! A follower learns the commit index from its leader's messages. After an interruption (a start, a pause of the
//! process or a cut of the network) it has missed some of them, and its own commit index does not show that. It
//! therefore asks the leader once after each interruption, and is caught up once it has applied the commit index in the
//! answer.
//!
//! # Invariants
//!
//! - Each interruption begins a session. The answer to a question counts only in the session of the question.
//! - A pause of the process is detected whichever of its tasks runs first afterwards.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Maximum time for applying what was committed at one moment, in leases. A follower that takes longer lags.
const LAG_LEASES: u32 = 2;

/// Record of the entries that this node has to apply. See the [module](self).
#[derive(Debug)]
pub(crate) struct CatchUp {
    lease: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Number of interruptions so far.
    session: u64,
    proof: Proof,
    /// Commit index at an earlier moment, and that moment.
    checkpoint: (u64, Instant),
    /// Last time at which the process was seen running.
    ticked_at: Instant,
}

/// State of the question that follows an interruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// The leader has to be asked for its commit index.
    Wanted,
    /// The leader's commit index, which has to be applied here.
    Index(u64),
    /// It is applied.
    Reached,
}

impl CatchUp {
    pub(crate) fn new(lease: Duration, now: Instant) -> Self {
        CatchUp {
            lease,
            state: Mutex::new(State {
                session: 0,
                proof: Proof::Wanted,
                checkpoint: (0, now),
                ticked_at: now,
            }),
        }
    }

    /// Begins another session: contact with the leader was lost, or another node leads.
    pub(crate) fn interrupt(&self) {
        self.state.lock().interrupt();
    }

    /// Records that the process runs, and how far it has come. Returns the session in which the leader has to be asked
    /// for its commit index, if it has to be.
    pub(crate) fn tick(&self, applied: u64, committed: u64, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if now.saturating_duration_since(state.ticked_at) > self.lease {
            state.interrupt();
        }
        state.ticked_at = now;
        if matches!(state.proof, Proof::Index(index) if applied >= index) {
            state.proof = Proof::Reached;
            state.checkpoint = (committed, now);
        }
        if applied >= state.checkpoint.0 {
            state.checkpoint = (committed, now);
        }
        (state.proof == Proof::Wanted).then_some(state.session)
    }

    /// Records the commit index with which the leader has answered the question of `session`.
    pub(crate) fn answer(&self, session: u64, commit_index: u64) {
        let mut state = self.state.lock();
        if state.session == session && state.proof == Proof::Wanted {
            state.proof = Proof::Index(commit_index);
        }
    }

    /// Returns the number of committed entries that this node still has to apply. `None` if it is caught up, and
    /// `Some(None)` while the number is unknown, because the leader has not answered since the last interruption.
    pub(crate) fn behind(&self, applied: u64, committed: u64, now: Instant) -> Option<Option<u64>> {
        let state = self.state.lock();
        if now.saturating_duration_since(state.ticked_at) > self.lease {
            return Some(None);
        }
        let lag = |index: u64| Some(Some(index.saturating_sub(applied)));
        let (checkpoint, at) = state.checkpoint;
        match state.proof {
            Proof::Wanted => Some(None),
            Proof::Index(index) if applied < index => lag(index.max(committed)),
            Proof::Index(_) => None,
            Proof::Reached => {
                let late = now.saturating_duration_since(at) > self.lease * LAG_LEASES;
                if late && applied < checkpoint {
                    lag(committed.max(checkpoint))
                } else {
                    None
                }
            }
        }
    }
}

impl State {
    fn interrupt(&mut self) {
        self.session += 1;
        self.proof = if mutated!(ReadyWithoutReadIndex) {
            Proof::Reached
        } else {
            Proof::Wanted
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(350);
    const TICK: Duration = Duration::from_millis(40);

    /// Returns a record that was caught up at `now`.
    fn caught_up(now: Instant) -> CatchUp {
        let catch_up = CatchUp::new(LEASE, now);
        let session = catch_up.tick(5, 5, now).expect("a start has to be proved");
        catch_up.answer(session, 5);
        assert_eq!(catch_up.tick(5, 5, now), None);
        assert_eq!(catch_up.behind(5, 5, now), None);
        catch_up
    }

    #[test]
    fn a_node_is_caught_up_after_a_start_once_the_leaders_answer_is_applied() {
        let now = Instant::now();
        let catch_up = CatchUp::new(LEASE, now);
        // It knows of no committed entry that it has not applied.
        let session = catch_up.tick(5, 5, now).unwrap();
        assert_eq!(catch_up.behind(5, 5, now), Some(None));
        catch_up.answer(session, 90);
        assert_eq!(catch_up.behind(5, 5, now), Some(Some(85)));
        assert_eq!(catch_up.tick(90, 90, now), None);
        assert_eq!(catch_up.behind(90, 90, now), None);
    }

    #[test]
    fn an_answer_from_before_an_interruption_proves_nothing() {
        let now = Instant::now();
        let catch_up = caught_up(now);
        catch_up.interrupt();
        let session = catch_up.tick(5, 5, now).unwrap();
        catch_up.interrupt();
        catch_up.answer(session, 5);
        assert_eq!(catch_up.behind(5, 5, now), Some(None));
    }

    #[test]
    fn a_process_that_stood_still_is_behind_before_and_after_its_next_tick() {
        let now = Instant::now();
        let catch_up = caught_up(now);
        let later = now + LEASE * 9;
        assert_eq!(catch_up.behind(5, 5, later), Some(None));
        assert!(catch_up.tick(5, 5, later).is_some());
        assert_eq!(catch_up.behind(5, 5, later), Some(None));
    }

    #[test]
    fn a_short_lag_under_load_is_none_and_a_long_one_is() {
        let mut now = Instant::now();
        let catch_up = caught_up(now);
        for applied in 6..60 {
            now += TICK;
            catch_up.tick(applied, applied + 3, now);
            assert_eq!(catch_up.behind(applied, applied + 3, now), None);
        }
        // From here on it applies nothing.
        for _ in 0..30 {
            now += TICK;
            catch_up.tick(59, 90, now);
        }
        assert_eq!(catch_up.behind(59, 90, now), Some(Some(31)));
    }
}
