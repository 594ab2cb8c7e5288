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

/// The states in which a task rests, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RestingStates(u8);

impl RestingStates {
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
pub struct TaskTraits {
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
enum Position {
    Unmade,
    Running,
    At(RestingStates),
}

/// All that a task may be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    position: Position,
    traits: TaskTraits,
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
pub enum Action {
    /// It is made.
    Make(TaskTraits),
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
    Ended(RestingStates),
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

impl Action {
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
    pub action: Action,
    /// It may have happened or not, at any time from when it was asked.
    pub unknown: bool,
}

thread_local! {
    static STEPS_LEFT: Cell<u64> = const { Cell::new(0) };
}

/// From now on the searches of this thread may take so many steps. Past them nothing is possible any more, so that the
/// search ends.
pub fn set_step_budget(steps: u64) {
    STEPS_LEFT.set(steps);
}

/// How many of them are left. None: the bound was hit, and "not possible" means nothing.
pub fn steps_left() -> u64 {
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
            position: Position::Unmade,
            traits: TaskTraits::default(),
            attempt: 0,
            exact: true,
            token: 0,
            result: None,
            revived: false,
            accepted: Vec::new(),
        }
    }

    fn step(state: &State, step: &Step) -> (bool, State) {
        let steps_left = STEPS_LEFT.get().saturating_sub(1);
        STEPS_LEFT.set(steps_left);
        if steps_left == 0 {
            return (false, state.clone());
        }
        match state.after(&step.action) {
            Some(next) => (true, next),
            // It did not happen, or is yet to.
            None => (step.unknown, state.clone()),
        }
    }
}

impl State {
    /// What an act leaves; `None` if it is not possible.
    fn after(&self, action: &Action) -> Option<Self> {
        match action {
            Action::Make(traits) => Some(self.made(*traits)),
            Action::Missing => (self.position == Position::Unmade).then(|| self.clone()),
            _ if self.position == Position::Unmade => None,
            Action::Read {
                state,
                attempt,
                token,
                result,
            } => self.read(*state, *attempt, *token, *result),
            Action::Ended(places) => self.ended(*places),
            Action::Lease { attempt, token } => self.leased(*attempt, *token),
            Action::Accepted {
                attempt,
                token,
                status,
                result,
            } => self.accepted(*attempt, *token, *status, *result),
            Action::Refused {
                attempt,
                token,
                status,
                missing,
            } => self.refused(*attempt, *token, *status, *missing),
            Action::Cancel => self
                .may_be_unfinished()
                .then(|| self.rests(RestingStates::CANCELLED)),
            Action::CancelRefused => {
                let ends = RestingStates::SUCCEEDED
                    .or(RestingStates::FAILED)
                    .or(RestingStates::EXPIRED);
                self.ended(ends)
            }
            Action::CancelJob => Some(self.job_cancelled()),
            Action::Retry => {
                let mut next = self.rests(RestingStates::PENDING);
                next.result = None;
                Some(next)
            }
            Action::RetryOfAnother => {
                let mut next = self.clone();
                next.revived = true;
                Some(next)
            }
        }
    }

    fn made(&self, traits: TaskTraits) -> Self {
        if self.position != Position::Unmade {
            return self.clone();
        }
        Self {
            position: Position::At(RestingStates::PENDING),
            traits,
            ..self.clone()
        }
    }

    /// Whether it may not have ended.
    fn may_be_unfinished(&self) -> bool {
        match self.position {
            Position::Unmade => false,
            Position::Running => true,
            Position::At(places) => {
                places.meets(RestingStates::PENDING.or(RestingStates::CANCELLED)) || self.revived
            }
        }
    }

    /// Whether it can get another lease.
    fn may_go_on(&self) -> bool {
        match self.position {
            Position::Unmade => false,
            Position::Running => true,
            Position::At(places) => places.meets(RestingStates::PENDING) || self.revived,
        }
    }

    /// The ends that it can come to by itself from where it may be.
    fn comes_to(&self) -> RestingStates {
        let traits = self.traits;
        let unfinished = RestingStates::SUCCEEDED
            .only_if(!traits.observed)
            .or(RestingStates::FAILED)
            .or(RestingStates::CANCELLED.only_if(traits.ends_with_others))
            .or(RestingStates::EXPIRED.only_if(traits.expires));
        match self.position {
            Position::Unmade => RestingStates::NONE,
            Position::Running => unfinished,
            Position::At(places) => places
                .and(RestingStates::ENDED)
                .or(unfinished.only_if(self.may_go_on())),
        }
    }

    /// At rest, after who knows how many attempts more.
    fn rests(&self, places: RestingStates) -> Self {
        Self {
            position: Position::At(places),
            exact: false,
            ..self.clone()
        }
    }

    fn job_cancelled(&self) -> Self {
        match self.position {
            Position::At(places) if !places.meets(RestingStates::PENDING) && !self.revived => {
                self.clone()
            }
            Position::Unmade | Position::Running | Position::At(_) => {
                self.rests(self.comes_to().or(RestingStates::CANCELLED))
            }
        }
    }

    fn ended(&self, places: RestingStates) -> Option<Self> {
        let found = self.comes_to().and(places);
        if found == RestingStates::NONE {
            return None;
        }
        let stays =
            matches!(self.position, Position::At(before) if !before.meets(RestingStates::PENDING));
        Some(Self {
            position: Position::At(found),
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
        let position = match state {
            TaskState::Waiting | TaskState::Delayed | TaskState::Queued => {
                Position::At(RestingStates::PENDING)
            }
            TaskState::Running => Position::Running,
            TaskState::Succeeded => Position::At(RestingStates::SUCCEEDED),
            TaskState::Failed => Position::At(RestingStates::FAILED),
            TaskState::Cancelled => Position::At(RestingStates::CANCELLED),
            TaskState::Expired => Position::At(RestingStates::EXPIRED),
        };
        let possible = match position {
            Position::Unmade => false,
            Position::Running => self.can_run(attempt, token),
            Position::At(places) if places == RestingStates::PENDING => {
                attempt >= self.attempt && self.may_go_on()
            }
            Position::At(places) => self.can_have_ended(places, attempt, result),
        };
        let known = token.unwrap_or(0);
        // An attempt that was known has the token that was known.
        let same = attempt != self.attempt || self.token == 0 || known == 0 || known == self.token;
        (possible && same).then(|| Self {
            position,
            attempt,
            exact: true,
            token: self.token.max(known),
            result,
            revived: self.revived,
            traits: self.traits,
            accepted: self.accepted.clone(),
        })
    }

    fn can_run(&self, attempt: u64, token: Option<u64>) -> bool {
        let next = attempt > self.attempt && token.is_none_or(|token| token > self.token);
        match self.position {
            Position::Unmade => false,
            Position::Running => attempt == self.attempt || next,
            Position::At(_) => next && self.may_go_on(),
        }
    }

    fn can_have_ended(&self, position: RestingStates, attempt: u64, result: Option<u32>) -> bool {
        let stayed = match self.position {
            Position::At(places) => {
                places.meets(position)
                    && (attempt == self.attempt || (!self.exact && attempt > self.attempt))
                    && (self.result.is_none() || self.result == result)
            }
            Position::Unmade | Position::Running => false,
        };
        if stayed {
            return true;
        }
        if !self.may_go_on() || !self.comes_to().meets(position) {
            return false;
        }
        if position == RestingStates::CANCELLED || position == RestingStates::EXPIRED {
            return attempt >= self.attempt;
        }
        // A result, or a failure, ends an attempt; but inputs that are too large end a task that waits.
        match self.position {
            Position::Unmade => false,
            Position::Running => attempt >= self.attempt,
            Position::At(_) => {
                attempt > self.attempt
                    || (attempt == self.attempt
                        && (!self.exact
                            || (position == RestingStates::FAILED && self.traits.has_inputs)))
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
            self.position == Position::Running && attempt == self.attempt && self.token == 0;
        let new = attempt > self.attempt && token > self.token && self.may_go_on();
        (new || knows_no_token).then(|| Self {
            position: Position::Running,
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
        let current = self.position == Position::Running
            && attempt == self.attempt
            && (self.token == 0 || token == self.token);
        let next = attempt > self.attempt && token > self.token && self.may_go_on();
        if !current && !next {
            return None;
        }
        let places = match status {
            Status::Succeeded => RestingStates::SUCCEEDED,
            Status::Failed => RestingStates::PENDING.or(RestingStates::FAILED),
            Status::HandedBack => RestingStates::PENDING,
        };
        let mut accepted = self.accepted.clone();
        accepted.push((token, status));
        Some(Self {
            position: Position::At(places),
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
        let is_current = self.position == Position::Running && attempt == self.attempt;
        if is_current {
            // The lease ended by itself before.
            let ends = RestingStates::FAILED
                .or(RestingStates::CANCELLED.only_if(self.traits.ends_with_others));
            return Some(self.rests(RestingStates::PENDING.or(ends)));
        }
        // What was accepted and is the end is accepted again.
        let is_end = matches!(self.position, Position::At(places) if !places.meets(RestingStates::PENDING))
            && self.exact
            && self.token == token;
        (!(is_end && self.accepted.contains(&(token, status)))).then(|| self.clone())
    }
}
