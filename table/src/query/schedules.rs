//! Queries over schedules: by name, and by the time of the next tick.

use std::sync::Arc;

use crate::query::list::ListPage;
use crate::records::schedule::Schedule;
use crate::table::Table;

impl Table {
    /// Returns a schedule by its name.
    pub fn schedule(&self, name: &str) -> Option<&Schedule> {
        self.schedules.get(name).map(|schedule| &**schedule)
    }

    /// Returns the number of schedules.
    pub fn schedules_len(&self) -> usize {
        self.schedules.len()
    }

    /// Returns schedules by name, from the first after `after`.
    pub fn schedules(&self, after: Option<&str>, limit: usize) -> ListPage<'_, Schedule, Arc<str>> {
        let all = &self.schedules.by_name;
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut rest = all.range::<str, _>((from, std::ops::Bound::Unbounded));
        let items: Vec<&Schedule> = rest
            .by_ref()
            .take(limit)
            .map(|(_, schedule)| &**schedule)
            .collect();
        let last = items.last().map(|schedule| schedule.name.clone());
        ListPage {
            next: rest.next().and(last),
            items,
        }
    }

    /// Returns the next tick of every schedule, the earliest first.
    pub fn ticks(&self) -> impl Iterator<Item = (u64, &Arc<Schedule>)> {
        let due = self.schedules.due.iter();
        due.filter_map(|(at_ms, name)| Some((*at_ms, self.schedules.get(name)?)))
    }
}
