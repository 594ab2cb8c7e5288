//! Model of a task as a register: the states that each operation may find, and the states that it leaves.
//!
//! Not every change of a task is an operation in the history. Workers that do not record lease it, leases end, times
//! pass, and the end of one task ends another. A state of the model therefore stands for all states that the task may
//! have reached by itself since the last operation. An operation is possible if the task can have reached the state
//! that the operation found. The model follows the documentation of tasks. Where that is silent, the model decides in
//! favour of the product.

use std::cell::Cell;

use porcupine_rs::Model;

use crate::record::{Status, TaskState};

/// A set of states without a running attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RestingStates(u8);

impl RestingStates {
    /// Waiting, delayed or queued.
    pub const PENDING: Self = Self(1);
    /// An end.
    pub const SUCCEEDED: Self = Self(2);
    /// Terminal.
    pub const FAILED: Self = Self(4);
    /// Terminal.
    pub const CANCELLED: Self = Self(8);
    /// Terminal.
    pub const EXPIRED: Self = Self(16);
    /// All terminal states.
    pub const ENDED: Self = Self(2 | 4 | 8 | 16);
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Returns the intersection.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the union.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns this set if the condition holds, else the empty set.
    fn only_if(self, so: bool) -> Self {
        if so { self } else { Self::NONE }
    }

    /// Returns whether the sets overlap.
    pub fn meets(self, other: Self) -> bool {
        self.and(other) != Self::NONE
    }
}

/// Changes of a task that are possible without an operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TaskTraits {
    /// Whether all of its workers record to the history.
    pub observed: bool,
    /// Whether the end of another task may cancel it.
    pub ends_with_others: bool,
    /// Whether it depends on other tasks, so that its inputs may be too large.
    pub has_inputs: bool,
    /// Whether it may expire.
    pub expires: bool,
}

/// Current state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Position {
    Unmade,
    Running,
    At(RestingStates),
}

/// All possible states of a task after some operations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    position: Position,
    traits: TaskTraits,
    /// Number of the latest known attempt.
    attempt: u64,
    /// Whether there was certainly no later attempt.
    exact: bool,
    /// Highest known token; 0 before the first.
    token: u64,
    /// Its result, if known.
    result: Option<u32>,
    /// Whether a task that it depends on was retried on request: a cancelled task may then wait again.
    revived: bool,
    /// Accepted reports.
    accepted: Vec<(u64, Status)>,
}

/// An act on a task, or an observation of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Creation of the task.
    Make(TaskTraits),
    /// A read that the task does not exist.
    Missing,
    /// A read of the task.
    Read {
        /// State of the task.
        state: TaskState,
        /// Number of the latest attempt.
        attempt: u64,
        /// Token of that attempt, if the answer contains it.
        token: Option<u64>,
        /// Number of the result.
        result: Option<u32>,
    },
    /// A read of its job in a terminal state, which leaves the task in one of these states.
    Ended(RestingStates),
    /// A lease was granted.
    Lease {
        /// Number of the attempt.
        attempt: u64,
        /// The token.
        token: u64,
    },
    /// A report was accepted, or may have been.
    Accepted {
        /// Number of the attempt.
        attempt: u64,
        /// The token.
        token: u64,
        /// Reported outcome.
        status: Status,
        /// Number of the result.
        result: Option<u32>,
    },
    /// A report was refused.
    Refused {
        /// Number of the attempt.
        attempt: u64,
        /// The token.
        token: u64,
        /// Reported outcome.
        status: Status,
        /// Whether the reason is that the task does not exist.
        missing: bool,
    },
    /// The task was cancelled.
    Cancel,
    /// The cancellation was refused, because the task had ended.
    CancelRefused,
    /// The job of the task was cancelled.
    CancelJob,
    /// The task was retried on request.
    Retry,
    /// A task that it depends on was retried on request.
    RetryOfAnother,
}

impl Action {
    /// Returns whether a repetition changes nothing, whatever happens in between.
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

/// An act, and whether it certainly happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The act.
    pub action: Action,
    /// Whether it may have happened or not, at any time after the request.
    pub unknown: bool,
}

thread_local! {
    static STEPS_LEFT: Cell<u64> = const { Cell::new(0) };
}

/// Sets the number of steps for the following searches of this thread. After these steps no operation is possible any
/// more, so that the search ends.
pub fn set_step_budget(steps: u64) {
    STEPS_LEFT.set(steps);
}

/// Returns the number of steps left. At 0 the bound was reached, and "not possible" has no meaning.
pub fn steps_left() -> u64 {
    STEPS_LEFT.get()
}

/// The model for porcupine. See the module.
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
            // The act did not happen, or happens later.
            None => (step.unknown, state.clone()),
        }
    }
}

impl State {
    /// Returns the state after an act, or `None` if the act is not possible.
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

    /// Returns whether the task may be unfinished.
    fn may_be_unfinished(&self) -> bool {
        match self.position {
            Position::Unmade => false,
            Position::Running => true,
            Position::At(places) => {
                places.meets(RestingStates::PENDING.or(RestingStates::CANCELLED)) || self.revived
            }
        }
    }

    /// Returns whether the task can get another lease.
    fn may_go_on(&self) -> bool {
        match self.position {
            Position::Unmade => false,
            Position::Running => true,
            Position::At(places) => places.meets(RestingStates::PENDING) || self.revived,
        }
    }

    /// Returns the terminal states that the task can reach by itself.
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

    /// Moves the task to states without a running attempt, after an unknown number of further attempts.
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
        // A known attempt has the known token.
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
        // A result or a failure ends an attempt. Inputs that are too large end a waiting task.
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
            // The lease was delivered again, or late: it is known already.
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
            // The lease had ended by itself before.
            let ends = RestingStates::FAILED
                .or(RestingStates::CANCELLED.only_if(self.traits.ends_with_others));
            return Some(self.rests(RestingStates::PENDING.or(ends)));
        }
        // A repeated report of the accepted result is accepted again.
        let is_end = matches!(self.position, Position::At(places) if !places.meets(RestingStates::PENDING))
            && self.exact
            && self.token == token;
        (!(is_end && self.accepted.contains(&(token, status)))).then(|| self.clone())
    }
}
