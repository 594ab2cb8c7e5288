//! Admission control for client requests: bounds concurrent requests and body memory; excess requests get 429.
//!
//! # Invariants
//!
//! - A request is admitted or rejected at once; nothing queues here, and a rejected request has done nothing.
//! - Worker calls have a memory budget of their own and need no permit, so no flood of submissions expires a lease.
//! - Long polls need no permit either, because their number is bounded where they wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::server::protocol::problem::{Code, Problem};

/// Maximum memory for the bodies of worker calls, in bytes.
const WORKER_BODY_MEMORY_BYTES_MAX: usize = 64 << 20;
/// Unit in which body memory is counted, in bytes.
const BUDGET_UNIT_BYTES: usize = 4 << 10;

/// Bounds that an operator may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Maximum open connections of clients and workers.
    pub connections_max: usize,
    /// Maximum open connections of one client address. `None`: three quarters of the bound above.
    pub client_connections_max: Option<usize>,
    /// Maximum concurrent client requests, long polls not counted.
    pub requests_max: usize,
    /// Maximum memory for the bodies of client requests that arrive or are in progress, in bytes.
    pub body_memory_bytes_max: usize,
    /// Maximum memory for answers that are being written, in bytes.
    pub answer_memory_bytes_max: usize,
    /// Maximum memory of the table, in bytes. Beyond it the leader accepts no more tasks.
    pub table_memory_bytes_max: u64,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            client_connections_max: None,
            requests_max: 4_096,
            body_memory_bytes_max: 256 << 20,
            answer_memory_bytes_max: 256 << 20,
            table_memory_bytes_max: 4 << 30,
        }
    }
}

impl ServerLimits {
    /// Returns the maximum size in bytes of the commands that wait to be proposed: those of all bodies, and the
    /// leader's own decisions.
    pub fn proposal_queue_bytes_max(&self) -> usize {
        self.body_memory_bytes_max
            .saturating_add(WORKER_BODY_MEMORY_BYTES_MAX)
            .saturating_add(64 << 20)
    }
}

/// Reason for load shedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedReason {
    /// All request permits are taken.
    Requests,
    /// The memory budget for client bodies is used up.
    Bodies,
    /// The memory budget for worker bodies is used up.
    WorkerBodies,
}

impl ShedReason {
    /// All reasons.
    pub const ALL: [ShedReason; 3] = [
        ShedReason::Requests,
        ShedReason::Bodies,
        ShedReason::WorkerBodies,
    ];

    /// Returns the metric label of the reason.
    pub fn as_str(self) -> &'static str {
        match self {
            ShedReason::Requests => "requests",
            ShedReason::Bodies => "bodies",
            ShedReason::WorkerBodies => "worker_bodies",
        }
    }
}

/// Admission control of one node.
#[derive(Debug)]
pub struct AdmissionControl {
    requests: Arc<Semaphore>,
    client_bodies: MemoryBudget,
    worker_bodies: MemoryBudget,
    shed: [AtomicU64; ShedReason::ALL.len()],
}

/// Bound on the memory of bodies.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    units: Arc<Semaphore>,
    reason: ShedReason,
}

/// Permit of an admitted request. Released on drop.
#[derive(Debug)]
pub struct RequestPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

/// Memory reserved from a budget. Released on drop.
#[derive(Debug)]
pub struct MemoryReservation {
    budget: MemoryBudget,
    bytes: usize,
    permits: Option<OwnedSemaphorePermit>,
}

impl AdmissionControl {
    /// Creates admission control with all permits free.
    pub fn new(bounds: &ServerLimits) -> Self {
        let budget = |bytes: usize, reason| MemoryBudget {
            units: Arc::new(Semaphore::new((bytes / BUDGET_UNIT_BYTES).max(1))),
            reason,
        };
        Self {
            requests: Arc::new(Semaphore::new(bounds.requests_max)),
            client_bodies: budget(bounds.body_memory_bytes_max, ShedReason::Bodies),
            worker_bodies: budget(WORKER_BODY_MEMORY_BYTES_MAX, ShedReason::WorkerBodies),
            shed: Default::default(),
        }
    }

    /// Admits a client request. A long poll needs no permit.
    pub fn admit(&self, long_poll: bool) -> Result<RequestPermit, ShedReason> {
        let permit = match long_poll {
            true => None,
            false => match Arc::clone(&self.requests).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return Err(ShedReason::Requests),
            },
        };
        Ok(RequestPermit { _permit: permit })
    }

    /// Returns the memory budget for client bodies.
    pub fn client_bodies(&self) -> &MemoryBudget {
        &self.client_bodies
    }

    /// Returns the memory budget for worker bodies.
    pub fn worker_bodies(&self) -> &MemoryBudget {
        &self.worker_bodies
    }

    /// Counts a rejected request, and returns the problem for its client.
    pub fn reject(&self, reason: ShedReason) -> Problem {
        self.shed[reason as usize].fetch_add(1, Ordering::Relaxed);
        let detail = match reason {
            ShedReason::Requests => "this node has reached its limit of concurrent requests",
            ShedReason::Bodies | ShedReason::WorkerBodies => {
                "this node has reached its limit of memory for request bodies"
            }
        };
        Problem::new(
            Code::RateLimited,
            format!("{detail}; nothing was done, retry later"),
        )
    }

    /// Returns the number of requests rejected for this reason.
    pub fn shed_count(&self, reason: ShedReason) -> u64 {
        self.shed[reason as usize].load(Ordering::Relaxed)
    }
}

impl MemoryBudget {
    /// Returns an empty reservation, which grows as bytes arrive. Bytes that are only announced take no memory from
    /// others.
    pub fn reserve(&self) -> MemoryReservation {
        MemoryReservation {
            budget: self.clone(),
            bytes: 0,
            permits: None,
        }
    }
}

impl MemoryReservation {
    /// Grows the reservation to `bytes` in total. On failure it keeps its previous size.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), ShedReason> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let units = (bytes - self.bytes).div_ceil(BUDGET_UNIT_BYTES);
        let more = u32::try_from(units)
            .ok()
            .and_then(|units| {
                Arc::clone(&self.budget.units)
                    .try_acquire_many_owned(units)
                    .ok()
            })
            .ok_or(self.budget.reason)?;
        match &mut self.permits {
            Some(permits) => permits.merge(more),
            None => self.permits = Some(more),
        }
        self.bytes += units * BUDGET_UNIT_BYTES;
        Ok(())
    }

    /// Releases the whole reservation.
    pub fn release(&mut self) {
        self.permits = None;
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_permits_and_reservations_free_their_share_of_the_bounds() {
        let admission = AdmissionControl::new(&ServerLimits {
            requests_max: 1,
            body_memory_bytes_max: 16 << 10,
            ..ServerLimits::default()
        });
        let permit = admission.admit(false).expect("the only one");
        assert_eq!(admission.admit(false).err(), Some(ShedReason::Requests));
        assert!(admission.admit(true).is_ok());
        drop(permit);
        assert!(admission.admit(false).is_ok());

        let (mut one, mut other) = (
            admission.client_bodies().reserve(),
            admission.client_bodies().reserve(),
        );
        assert_eq!(one.grow_to(1), Ok(()));
        assert_eq!(one.grow_to(12 << 10), Ok(()));
        assert_eq!(other.grow_to(5 << 10), Err(ShedReason::Bodies));
        assert_eq!(other.grow_to(4 << 10), Ok(()));
        assert!(admission.worker_bodies().reserve().grow_to(1 << 20).is_ok());
        drop(one);
        assert_eq!(other.grow_to(16 << 10), Ok(()));
        other.release();
        assert_eq!(
            admission.client_bodies().reserve().grow_to(16 << 10),
            Ok(())
        );
    }
}
