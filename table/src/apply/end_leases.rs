//! Ends leases that the leader names by their tokens. One that is no longer current is skipped: between the leader's
//! look and this entry the attempt ended another way.

use crate::command::event::Event;
use crate::command::reply::Reply;
use crate::command::{EndLease, EndReason};
use crate::rules::attempt::End;
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
            let end = match ended.reason {
                EndReason::Expired => End::LeaseExpired,
                EndReason::Returned => End::Returned,
                EndReason::TimedOut => End::TimedOut,
            };
            self.end_attempt(ended.task, end, events);
            tasks += 1;
        }
        Reply::Done { tasks }
    }
}
