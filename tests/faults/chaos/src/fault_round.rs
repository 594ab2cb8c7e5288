//! A fault round: injects some faults at once, verifies and heals each of them, and waits until the cluster has
//! recovered.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;
use tokio::time::{Instant, sleep_until};

use crate::faults::Fault;
use crate::plan::{Claim, Plan, Roles};
use crate::results::outage::OutageWitness;
use crate::results::report::Report;
use crate::testbed::Testbed;

/// Maximum time for a fault to take effect. A fault without effect by then counts as not exercised.
const PROOF_TIMEOUT: Duration = Duration::from_secs(15);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum time between two faults of one round.
const MAX_STAGGER_MS: u64 = 200;

struct Injected {
    plan: Plan,
    fault: Box<dyn Fault>,
    until: Instant,
    proof: Option<String>,
}

impl Injected {
    /// The fault has lasted for its time and took effect, or was abandoned.
    fn is_over(&self, now: Instant) -> bool {
        now >= self.until && (self.proof.is_some() || now >= self.until + PROOF_TIMEOUT)
    }
}

/// Injects these faults, each for a time within `hold_ms`, and waits until the cluster has recovered.
pub async fn run_fault_round(
    testbed: &mut Testbed,
    plans: &[Plan],
    roles: &Roles,
    hold_ms: RangeInclusive<u64>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut witness = match plans {
        [plan] if plan.is_partial() => Some((*plan, OutageWitness::begin(testbed))),
        _ => None,
    };
    let mut injected = Vec::new();
    for plan in plans {
        let hold = Duration::from_millis(testbed.drill.random.random_range(hold_ms.clone()));
        let mut fault = plan.make(roles);
        let until = Instant::now() + hold;
        fault.inject(testbed, hold).await?;
        injected.push(Injected {
            plan: *plan,
            fault,
            until,
            proof: None,
        });
        let apart = testbed.drill.random.random_range(0..=MAX_STAGGER_MS);
        if plans.len() > 1 {
            tokio::time::sleep(Duration::from_millis(apart)).await;
        }
    }
    injected.sort_by_key(|one| one.until);
    while !injected.is_empty() {
        for one in &mut injected {
            if one.proof.is_none() {
                one.proof = one.fault.proof(testbed).await?;
            }
        }
        if let Some((_, witness)) = &mut witness {
            witness.observe(testbed).await;
        }
        let now = Instant::now();
        // All faults are checked at once: a leader that is cut off writes nothing, so its fsync fails only after the
        // cut is healed.
        let Some(next) = injected.iter().position(|one| one.is_over(now)) else {
            let next = injected
                .iter()
                .map(|one| one.until)
                .find(|until| *until > now);
            sleep_until(next.unwrap_or(now + POLL_INTERVAL).min(now + POLL_INTERVAL)).await;
            continue;
        };
        let mut done = injected.remove(next);
        // For evidence that grows during the fault, the latest value is reported.
        if let Some(latest) = done.fault.proof(testbed).await? {
            done.proof = Some(latest);
        }
        done.fault.heal(testbed).await?;
        let (kind, target) = (done.plan.kind(), done.plan.target());
        let recorder = testbed.drill.recorder();
        recorder.fault(kind, target, done.proof.as_deref());
        report.fault(done.plan, done.proof);
    }
    let healed = Instant::now().into_std();
    testbed.settle().await?;
    let settled = Instant::now().into_std();
    testbed.drill.wait_acknowledged_since(settled).await;
    if let Some((plan, witness)) = witness {
        witness.end(testbed, plan, healed, report);
    }
    if let [plan] = plans {
        let gap = testbed.drill.longest_gap_since(begun.into_std());
        report.stalled(*plan, gap);
    }
    report.survived();
    Ok(())
}

/// Draws all plans that are possible here in random order, again and again, so that each is used equally often.
pub struct ShuffledPlans {
    possible: Vec<Plan>,
    left: Vec<Plan>,
}

impl ShuffledPlans {
    /// Creates a deck of these plans.
    pub fn new(possible: Vec<Plan>) -> Self {
        Self {
            possible,
            left: Vec::new(),
        }
    }

    /// Returns at least one plan and at most this many that can be injected together.
    pub fn draw(&mut self, testbed: &mut Testbed, roles: &Roles, count: usize) -> Vec<Plan> {
        let mut claimed: BTreeSet<Claim> = BTreeSet::new();
        let mut drawn = Vec::new();
        if self.left.len() < count {
            let mut more = self.possible.clone();
            more.shuffle(&mut testbed.drill.random);
            // Plans that are left from the last round come first.
            more.append(&mut self.left);
            self.left = more;
        }
        for at in (0..self.left.len()).rev() {
            if drawn.len() == count {
                break;
            }
            let plan = self.left[at];
            if plan == Plan::Membership && !testbed.has_spare() {
                continue;
            }
            let claims = plan.claims(roles);
            if claims.is_disjoint(&claimed) {
                claimed.extend(claims);
                drawn.push(plan);
                self.left.remove(at);
            }
        }
        drawn
    }
}
