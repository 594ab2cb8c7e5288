//! Changes of a queue's settings. They hold for every start from this entry on.

use std::sync::Arc;

use crate::command::QueueChange;
use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::command::validate::invalid;
use crate::table::Table;

impl Table {
    pub(super) fn change_queue(
        &mut self,
        name: &str,
        change: QueueChange,
        events: &mut Vec<Event>,
    ) -> ApplyResult {
        self.limits.check_queue_name(name)?;
        check(&change)?;
        let known = self.queues.get_key_value(name);
        let name = known.map_or_else(|| Arc::from(name), |(name, _)| name.clone());
        self.check_queue_count(std::iter::once(&name))?;
        self.open_queue(&name);
        let now_ns = crate::types::queue_options::ns(self.now_ms);
        let queue = self.queues.get_mut(&name).expect("it was opened");
        let QueueChange {
            paused,
            max_running,
            rate,
            max_depth,
            weight,
            placement,
            retain_ms,
            retain_jobs,
        } = change;
        let settings = &mut queue.settings;
        set(&mut settings.paused, paused);
        set(&mut settings.max_running, max_running);
        set(&mut settings.max_depth, max_depth);
        set(&mut settings.weight, weight);
        set(&mut settings.placement, placement);
        set(&mut settings.retain_ms, retain_ms);
        set(&mut settings.retain_jobs, retain_jobs);
        if let Some(rate) = rate
            && rate != settings.rate
        {
            // A new rate begins with a full bucket, and owes nothing for starts under the old one.
            settings.rate = rate;
            queue.theoretical_arrival_ns = now_ns;
        }
        self.index.set_queue(queue);
        self.drop_idle_queue(&name);
        events.push(Event::QueueChanged { queue: name });
        Ok(Reply::Done { tasks: 0 })
    }

    /// Checks that there is room for those of these queues that are new.
    pub(super) fn check_queue_count<'a>(
        &self,
        names: impl Iterator<Item = &'a Arc<str>>,
    ) -> Result<(), Refusal> {
        let mut new: Vec<&Arc<str>> = names
            .filter(|name| !self.queues.contains_key(*name))
            .collect();
        new.sort_unstable();
        new.dedup();
        let bound = self.limits.queues_max;
        if !new.is_empty() && (self.queues.len() + new.len()) as u64 > bound {
            return Err(Refusal::TableFull {
                what: "queues".to_owned(),
                bound,
            });
        }
        Ok(())
    }
}

fn set<T>(setting: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *setting = new;
    }
}

fn check(change: &QueueChange) -> Result<(), Refusal> {
    let positive = |field: &str, holds: bool| match holds {
        true => Ok(()),
        false => Err(invalid(field, "must be at least 1")),
    };
    positive("weight", change.weight.is_none_or(|weight| weight > 0))?;
    let rate = change.rate.flatten();
    positive("rate_per_s", rate.is_none_or(|rate| rate.per_s_milli > 0))?;
    positive("burst", rate.is_none_or(|rate| rate.burst > 0))
}
