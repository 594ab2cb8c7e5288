//! How much is worked on at once, so that more than a master can take costs those who ask and not those who are served.
//!
//! Clients' requests share a number of places and a budget of bytes for their bodies; who finds none is refused at once,
//! before anything is done. Workers' own calls have a budget of their own and need no place, so that no flood of
//! submissions makes a lease expire. Requests that ask to be held need no place either: how many of them there may be is
//! bounded where they wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::server::protocol::problem::{Code, Problem};

/// Bytes of the bodies of workers' calls, at once.
const WORKER_BODIES_BYTES_MAX: usize = 64 << 20;
/// Bodies are counted in steps of this.
const STEP_BYTES: usize = 4 << 10;

/// What an operator may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Connections of clients and workers.
    pub connections_max: usize,
    /// Requests of clients that are worked on, held ones aside.
    pub requests_max: usize,
    /// Bytes of the bodies of clients' requests that arrive or are worked on.
    pub bodies_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            requests_max: 4_096,
            bodies_bytes_max: 256 << 20,
        }
    }
}

impl Bounds {
    /// Bytes of commands that can be waiting to be proposed: those of all bodies, and what the leader itself decides.
    pub fn proposals_bytes(&self) -> usize {
        self.bodies_bytes_max
            .saturating_add(WORKER_BODIES_BYTES_MAX)
            .saturating_add(64 << 20)
    }
}

/// Why a request is not even looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// All places are taken.
    Requests,
    /// The budget for bodies of clients' requests is used up.
    Bodies,
    /// The budget for bodies of workers' calls is used up.
    WorkerBodies,
}

impl Shed {
    /// All of them.
    pub const ALL: [Shed; 3] = [Shed::Requests, Shed::Bodies, Shed::WorkerBodies];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Shed::Requests => "requests",
            Shed::Bodies => "bodies",
            Shed::WorkerBodies => "worker_bodies",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Room {
    requests: Arc<Semaphore>,
    bodies: Budget,
    worker_bodies: Budget,
    shed: [AtomicU64; Shed::ALL.len()],
}

/// Bytes that may be in memory at once.
#[derive(Debug, Clone)]
pub struct Budget {
    steps: Arc<Semaphore>,
    shed: Shed,
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    _place: Option<OwnedSemaphorePermit>,
}

/// Bytes taken out of a budget, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    bytes: usize,
    taken: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Empty, within these bounds.
    pub fn new(bounds: &Bounds) -> Self {
        let budget = |bytes: usize, shed| Budget {
            steps: Arc::new(Semaphore::new((bytes / STEP_BYTES).max(1))),
            shed,
        };
        Self {
            requests: Arc::new(Semaphore::new(bounds.requests_max)),
            bodies: budget(bounds.bodies_bytes_max, Shed::Bodies),
            worker_bodies: budget(WORKER_BODIES_BYTES_MAX, Shed::WorkerBodies),
            shed: Default::default(),
        }
    }

    /// A place for a client's request; one that asks to be held needs none.
    pub fn place(&self, held: bool) -> Result<Place, Shed> {
        let place = match held {
            true => None,
            false => match Arc::clone(&self.requests).try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => return Err(Shed::Requests),
            },
        };
        Ok(Place { _place: place })
    }

    /// What bodies of clients' requests may take.
    pub fn bodies(&self) -> &Budget {
        &self.bodies
    }

    /// What bodies of workers' calls may take.
    pub fn worker_bodies(&self) -> &Budget {
        &self.worker_bodies
    }

    /// Counts a request that is not looked at, and says so.
    pub fn shed(&self, why: Shed) -> Problem {
        self.shed[why as usize].fetch_add(1, Ordering::Relaxed);
        let detail = match why {
            Shed::Requests => "this node works on as many requests as it takes at once",
            Shed::Bodies | Shed::WorkerBodies => {
                "the bodies of requests that this node is working on fill the room there is for them"
            }
        };
        Problem::new(
            Code::RateLimited,
            format!("{detail}; nothing was done, retry after a moment"),
        )
    }

    /// How many were not looked at, for this reason.
    pub fn shed_count(&self, why: Shed) -> u64 {
        self.shed[why as usize].load(Ordering::Relaxed)
    }
}

impl Budget {
    /// Nothing of it, to be grown as bytes arrive: what is only announced takes nothing from others.
    pub fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            bytes: 0,
            taken: None,
        }
    }
}

impl Share {
    /// Takes as much as is needed for so many bytes in all. What was taken stays taken when there is no more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Shed> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let steps = (bytes - self.bytes).div_ceil(STEP_BYTES);
        let more = u32::try_from(steps)
            .ok()
            .and_then(|steps| {
                Arc::clone(&self.budget.steps)
                    .try_acquire_many_owned(steps)
                    .ok()
            })
            .ok_or(self.budget.shed)?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        self.bytes += steps * STEP_BYTES;
        Ok(())
    }

    /// Gives all of it back.
    pub fn give_back(&mut self) {
        self.taken = None;
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let room = Room::new(&Bounds {
            connections_max: 1,
            requests_max: 1,
            bodies_bytes_max: 16 << 10,
        });
        let place = room.place(false).expect("the only one");
        assert_eq!(room.place(false).err(), Some(Shed::Requests));
        assert!(room.place(true).is_ok());
        drop(place);
        assert!(room.place(false).is_ok());

        let (mut one, mut other) = (room.bodies().share(), room.bodies().share());
        assert_eq!(one.grow(1), Ok(()));
        assert_eq!(one.grow(12 << 10), Ok(()));
        assert_eq!(other.grow(5 << 10), Err(Shed::Bodies));
        assert_eq!(other.grow(4 << 10), Ok(()));
        assert!(room.worker_bodies().share().grow(1 << 20).is_ok());
        drop(one);
        assert_eq!(other.grow(16 << 10), Ok(()));
        other.give_back();
        assert_eq!(room.bodies().share().grow(16 << 10), Ok(()));
    }
}
