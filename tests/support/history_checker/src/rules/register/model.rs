//! A task as a register: what each operation on it can find, and what it leaves.
//!
//! Not everything that happens to a task is an operation of somebody who writes the history: it is leased to workers
//! that write none, leases end, times come, the end of one task ends another. So a state here stands for all that the
//! task may have come to by itself since the last operation, and an operation is possible if the task can have come to
//! what it found. That is decided from what the documentation of tasks says of their life, and always in favour of the
//! product where it says nothing.

use std::cell::Cell;

use porcupine_rs::Model;

use crate::record::{Status, TaskState};

/// Places where a task rests, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Places(u8);

impl Places {
    /// Waiting, delayed or queued.
    pub const PENDING: Self = Self(1);
    /// An end.
    pub const SUCCEEDED: Self = Self(2);
    /// An end.
    pub const FAILED: Self = Self(4);
    /// An end.
    pub const CANCELLED: Self = Self(8);
    /// An end.
    pub const EXPIRED: Self = Self(16);
    /// Any end.
    pub const ENDED: Self = Self(2 | 4 | 8 | 16);
    /// Nowhere.
    pub const NONE: Self = Self(0);

    /// All that is in both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// All that is in one of them.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set, if it is so.
    fn only_if(self, so: bool) -> Self {
        if so { self } else { Self::NONE }
    }

    /// Whether they have something in common.
    pub fn meets(self, other: Self) -> bool {
        self.and(other) != Self::NONE
    }
}

/// What may happen to a task by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Nature {
    /// All its workers write the history.
    pub observed: bool,
    /// Another task's end may cancel it.
    pub ends_with_others: bool,
    /// It comes after others, so its inputs may be too large.
    pub has_inputs: bool,
    /// It may expire.
    pub expires: bool,
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Unmade,
    Running,
    At(Places),
}

/// All that a task may be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    place: Place,
    nature: Nature,
    /// The number of the latest attempt that is known of.
    attempt: u64,
    /// There was no later one.
    exact: bool,
    /// The highest token that is known of, 0 before the first.
    token: u64,
    /// Its result, if it is known.
    result: Option<u32>,
    /// A task that it comes after was retried by hand: a cancelled one may wait again.
    revived: bool,
    /// Accepted reports.
    accepted: Vec<(u64, Status)>,
}

/// What was found or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// It is made.
    Make(Nature),
    /// A read: there is no such task.
    Missing,
    /// A read.
    Read {
        /// The state.
        state: TaskState,
        /// The latest attempt.
        attempt: u64,
        /// Its token, if it was shown.
        token: Option<u64>,
        /// The result, by number.
        result: Option<u32>,
    },
    /// Its job was seen at an end that leaves the task at one of these.
    Ended(Places),
    /// A lease was handed out.
    Lease {
        /// The attempt.
        attempt: u64,
        /// The token.
        token: u64,
    },
    /// A report was accepted, or may have been.
    Accepted {
        /// The attempt.
        attempt: u64,
        /// The token.
        token: u64,
        /// What was reported.
        status: Status,
        /// The result, by number.
        result: Option<u32>,
    },
    /// A report was refused.
    Refused {
        /// The attempt.
        attempt: u64,
        /// The token.
        token: u64,
        /// What was reported.
        status: Status,
        /// Because there is no such task.
        missing: bool,
    },
    /// It was cancelled.
    Cancel,
    /// Cancelling was refused: it had ended.
    CancelRefused,
    /// Its job was cancelled.
    CancelJob,
    /// It was retried by hand.
    Retry,
    /// One that it comes after was.
    RetryOfAnother,
}

impl Act {
    /// Whether it changes nothing to do it again, whatever happens between.
    pub fn is_done_once(&self) -> bool {
        match self {
            Self::Make(_) | Self::Accepted { .. } => true,
            Self::Missing
            | Self::Read { .. }
            | Self::Ended(_)
            | Self::Lease { .. }
            | Self::Refused { .. }
            | Self::Cancel
            | Self::CancelRefused
            | Self::CancelJob
            | Self::Retry
            | Self::RetryOfAnother => false,
        }
    }
}

/// An act, and whether it is known to have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub act: Act,
    /// It may have happened or not, at any time from when it was asked.
    pub unknown: bool,
}

thread_local! {
    static STEPS_LEFT: Cell<u64> = const { Cell::new(0) };
}

/// From now on the searches of this thread may take so many steps. Past them nothing is possible any more, so that the
/// search ends.
pub fn allow(steps: u64) {
    STEPS_LEFT.set(steps);
}

/// How many of them are left. None: the bound was hit, and "not possible" means nothing.
pub fn left() -> u64 {
    STEPS_LEFT.get()
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Task;

impl Model for Task {
    type State = State;
    type Op = Step;
    type Metadata = ();

    fn init() -> State {
        State {
            place: Place::Unmade,
            nature: Nature::default(),
            attempt: 0,
            exact: true,
            token: 0,
            result: None,
            revived: false,
            accepted: Vec::new(),
        }
    }

    fn step(state: &State, step: &Step) -> (bool, State) {
        let left = STEPS_LEFT.get().saturating_sub(1);
        STEPS_LEFT.set(left);
        if left == 0 {
            return (false, state.clone());
        }
        match state.after(&step.act) {
            Some(next) => (true, next),
            // It did not happen, or is yet to.
            None => (step.unknown, state.clone()),
        }
    }
}

impl State {
    /// What an act leaves; `None` if it is not possible.
    fn after(&self, act: &Act) -> Option<Self> {
        match act {
            Act::Make(nature) => Some(self.made(*nature)),
            Act::Missing => (self.place == Place::Unmade).then(|| self.clone()),
            _ if self.place == Place::Unmade => None,
            Act::Read {
                state,
                attempt,
                token,
                result,
            } => self.read(*state, *attempt, *token, *result),
            Act::Ended(places) => self.ended(*places),
            Act::Lease { attempt, token } => self.leased(*attempt, *token),
            Act::Accepted {
                attempt,
                token,
                status,
                result,
            } => self.accepted(*attempt, *token, *status, *result),
            Act::Refused {
                attempt,
                token,
                status,
                missing,
            } => self.refused(*attempt, *token, *status, *missing),
            Act::Cancel => self
                .may_be_unfinished()
                .then(|| self.rests(Places::CANCELLED)),
            Act::CancelRefused => {
                let ends = Places::SUCCEEDED.or(Places::FAILED).or(Places::EXPIRED);
                self.ended(ends)
            }
            Act::CancelJob => Some(self.job_cancelled()),
            Act::Retry => {
                let mut next = self.rests(Places::PENDING);
                next.result = None;
                Some(next)
            }
            Act::RetryOfAnother => {
                let mut next = self.clone();
                next.revived = true;
                Some(next)
            }
        }
    }

    fn made(&self, nature: Nature) -> Self {
        if self.place != Place::Unmade {
            return self.clone();
        }
        Self {
            place: Place::At(Places::PENDING),
            nature,
            ..self.clone()
        }
    }

    /// Whether it may not have ended.
    fn may_be_unfinished(&self) -> bool {
        match self.place {
            Place::Unmade => false,
            Place::Running => true,
            Place::At(places) => {
                places.meets(Places::PENDING.or(Places::CANCELLED)) || self.revived
            }
        }
    }

    /// Whether it can get another lease.
    fn may_go_on(&self) -> bool {
        match self.place {
            Place::Unmade => false,
            Place::Running => true,
            Place::At(places) => places.meets(Places::PENDING) || self.revived,
        }
    }

    /// The ends that it can come to by itself from where it may be.
    fn comes_to(&self) -> Places {
        let nature = self.nature;
        let unfinished = Places::SUCCEEDED
            .only_if(!nature.observed)
            .or(Places::FAILED)
            .or(Places::CANCELLED.only_if(nature.ends_with_others))
            .or(Places::EXPIRED.only_if(nature.expires));
        match self.place {
            Place::Unmade => Places::NONE,
            Place::Running => unfinished,
            Place::At(places) => places
                .and(Places::ENDED)
                .or(unfinished.only_if(self.may_go_on())),
        }
    }

    /// At rest, after who knows how many attempts more.
    fn rests(&self, places: Places) -> Self {
        Self {
            place: Place::At(places),
            exact: false,
            ..self.clone()
        }
    }

    fn job_cancelled(&self) -> Self {
        match self.place {
            Place::At(places) if !places.meets(Places::PENDING) && !self.revived => self.clone(),
            Place::Unmade | Place::Running | Place::At(_) => {
                self.rests(self.comes_to().or(Places::CANCELLED))
            }
        }
    }

    fn ended(&self, places: Places) -> Option<Self> {
        let found = self.comes_to().and(places);
        if found == Places::NONE {
            return None;
        }
        let stays = matches!(self.place, Place::At(before) if !before.meets(Places::PENDING));
        Some(Self {
            place: Place::At(found),
            exact: self.exact && stays && !self.revived,
            ..self.clone()
        })
    }

    fn read(
        &self,
        state: TaskState,
        attempt: u64,
        token: Option<u64>,
        result: Option<u32>,
    ) -> Option<Self> {
        let place = match state {
            TaskState::Waiting | TaskState::Delayed | TaskState::Queued => {
                Place::At(Places::PENDING)
            }
            TaskState::Running => Place::Running,
            TaskState::Succeeded => Place::At(Places::SUCCEEDED),
            TaskState::Failed => Place::At(Places::FAILED),
            TaskState::Cancelled => Place::At(Places::CANCELLED),
            TaskState::Expired => Place::At(Places::EXPIRED),
        };
        let possible = match place {
            Place::Unmade => false,
            Place::Running => self.can_run(attempt, token),
            Place::At(places) if places == Places::PENDING => {
                attempt >= self.attempt && self.may_go_on()
            }
            Place::At(places) => self.can_have_ended(places, attempt, result),
        };
        let known = token.unwrap_or(0);
        // An attempt that was known has the token that was known.
        let same = attempt != self.attempt || self.token == 0 || known == 0 || known == self.token;
        (possible && same).then(|| Self {
            place,
            attempt,
            exact: true,
            token: self.token.max(known),
            result,
            revived: self.revived,
            nature: self.nature,
            accepted: self.accepted.clone(),
        })
    }

    fn can_run(&self, attempt: u64, token: Option<u64>) -> bool {
        let next = attempt > self.attempt && token.is_none_or(|token| token > self.token);
        match self.place {
            Place::Unmade => false,
            Place::Running => attempt == self.attempt || next,
            Place::At(_) => next && self.may_go_on(),
        }
    }

    fn can_have_ended(&self, place: Places, attempt: u64, result: Option<u32>) -> bool {
        let stayed = match self.place {
            Place::At(places) => {
                places.meets(place)
                    && (attempt == self.attempt || (!self.exact && attempt > self.attempt))
                    && (self.result.is_none() || self.result == result)
            }
            Place::Unmade | Place::Running => false,
        };
        if stayed {
            return true;
        }
        if !self.may_go_on() || !self.comes_to().meets(place) {
            return false;
        }
        if place == Places::CANCELLED || place == Places::EXPIRED {
            return attempt >= self.attempt;
        }
        // A result, or a failure, ends an attempt; but inputs that are too large end a task that waits.
        match self.place {
            Place::Unmade => false,
            Place::Running => attempt >= self.attempt,
            Place::At(_) => {
                attempt > self.attempt
                    || (attempt == self.attempt
                        && (!self.exact || (place == Places::FAILED && self.nature.has_inputs)))
            }
        }
    }

    fn leased(&self, attempt: u64, token: u64) -> Option<Self> {
        if attempt == self.attempt && token == self.token {
            // Handed out again, or late: the lease is known already.
            return Some(self.clone());
        }
        if attempt < self.attempt && token < self.token {
            return Some(self.clone());
        }
        let knows_no_token =
            self.place == Place::Running && attempt == self.attempt && self.token == 0;
        let new = attempt > self.attempt && token > self.token && self.may_go_on();
        (new || knows_no_token).then(|| Self {
            place: Place::Running,
            attempt,
            exact: true,
            token,
            ..self.clone()
        })
    }

    fn accepted(
        &self,
        attempt: u64,
        token: u64,
        status: Status,
        result: Option<u32>,
    ) -> Option<Self> {
        if self.accepted.contains(&(token, status)) {
            return Some(self.clone());
        }
        let current = self.place == Place::Running
            && attempt == self.attempt
            && (self.token == 0 || token == self.token);
        let next = attempt > self.attempt && token > self.token && self.may_go_on();
        if !current && !next {
            return None;
        }
        let places = match status {
            Status::Succeeded => Places::SUCCEEDED,
            Status::Failed => Places::PENDING.or(Places::FAILED),
            Status::HandedBack => Places::PENDING,
        };
        let mut accepted = self.accepted.clone();
        accepted.push((token, status));
        Some(Self {
            place: Place::At(places),
            attempt,
            exact: true,
            token,
            result: if status == Status::Succeeded {
                result
            } else {
                None
            },
            accepted,
            ..self.clone()
        })
    }

    fn refused(&self, attempt: u64, token: u64, status: Status, missing: bool) -> Option<Self> {
        if missing {
            return None;
        }
        let is_current = self.place == Place::Running && attempt == self.attempt;
        if is_current {
            // The lease ended by itself before.
            let ends = Places::FAILED.or(Places::CANCELLED.only_if(self.nature.ends_with_others));
            return Some(self.rests(Places::PENDING.or(ends)));
        }
        // What was accepted and is the end is accepted again.
        let is_end = matches!(self.place, Place::At(places) if !places.meets(Places::PENDING))
            && self.exact
            && self.token == token;
        (!(is_end && self.accepted.contains(&(token, status)))).then(|| self.clone())
    }
}
