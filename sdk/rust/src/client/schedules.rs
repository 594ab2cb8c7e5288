//! Schedules.

use reqwest::Method;

use super::call::Call;
use super::handle::Client;
use crate::error::Error;
use crate::wire::{DeletedSchedule, PageQuery, PutSchedule, Schedule, ScheduleList, Submitted};

impl Client {
    /// Makes a schedule, or takes the place of the one of this name.
    pub async fn put_schedule(&self, name: &str, put: &PutSchedule) -> Result<Schedule, Error> {
        let call = Call::new(Method::PUT, &["v1", "schedules", name]).json(put)?;
        self.call(call.with_request_id()).await
    }

    /// One page of schedules, by name.
    pub async fn schedules(&self, page: &PageQuery) -> Result<ScheduleList, Error> {
        self.call(Call::get(&["v1", "schedules"]).query(page)?)
            .await
    }

    /// A schedule, with its job and its next runs.
    pub async fn schedule(&self, name: &str) -> Result<Schedule, Error> {
        self.call(Call::get(&["v1", "schedules", name])).await
    }

    /// Deletes a schedule. The jobs it made stay.
    pub async fn delete_schedule(&self, name: &str) -> Result<DeletedSchedule, Error> {
        let call = Call::new(Method::DELETE, &["v1", "schedules", name]);
        self.call(call.with_request_id()).await
    }

    /// Lets the ticks of a schedule pass by until it is resumed.
    pub async fn pause_schedule(&self, name: &str) -> Result<Schedule, Error> {
        self.call(Call::post(&["v1", "schedules", name, "pause"]).with_request_id())
            .await
    }

    /// Lets a paused schedule tick again, from its next tick on.
    pub async fn resume_schedule(&self, name: &str) -> Result<Schedule, Error> {
        self.call(Call::post(&["v1", "schedules", name, "resume"]).with_request_id())
            .await
    }

    /// Makes one job of a schedule now, outside of its ticks.
    pub async fn trigger_schedule(&self, name: &str) -> Result<Submitted, Error> {
        self.call(Call::post(&["v1", "schedules", name, "trigger"]).with_request_id())
            .await
    }
}
