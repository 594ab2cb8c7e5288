//! Ends of leases that the leader names by their tokens. A lease that is no longer current is skipped, because the
//! attempt ended another way between the leader's decision and this entry.

use crate::command::event::Event;
use crate::command::reply::Reply;
use crate::command::{EndLease, EndReason};
use crate::rules::attempt::AttemptOutcome;
use crate::table::Table;

impl Table {
    pub(super) fn end_leases(&mut self, leases: &[EndLease], events: &mut Vec<Event>) -> Reply {
        let mut tasks = 0;
        for ended in leases {
            if self
                .lease(ended.task)
                .is_none_or(|lease| lease.token != ended.token)
            {
                continue;
            }
            let outcome = match ended.reason {
                EndReason::Expired => AttemptOutcome::LeaseExpired,
                EndReason::Returned => AttemptOutcome::Returned,
                EndReason::TimedOut => AttemptOutcome::TimedOut,
            };
            self.end_attempt(ended.task, outcome, events);
            tasks += 1;
        }
        Reply::Done { tasks }
    }
}
