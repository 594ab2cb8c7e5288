//! Calls about schedules.

use reqwest::Method;

use super::call::Call;
use super::handle::Client;
use crate::error::Error;
use crate::wire::{DeletedSchedule, PageQuery, PutSchedule, Schedule, ScheduleList, Submitted};

impl Client {
    /// Creates a schedule, or replaces the one of this name.
    pub async fn put_schedule(&self, name: &str, put: &PutSchedule) -> Result<Schedule, Error> {
        let call = Call::new(Method::PUT, &["v1", "schedules", name]).json(put)?;
        self.call(call.with_request_id()).await
    }

    /// Returns one page of schedules, by name.
    pub async fn schedules(&self, page: &PageQuery) -> Result<ScheduleList, Error> {
        self.call(Call::get(&["v1", "schedules"]).query(page)?)
            .await
    }

    /// Returns a schedule, with its job and its next ticks.
    pub async fn schedule(&self, name: &str) -> Result<Schedule, Error> {
        self.call(Call::get(&["v1", "schedules", name])).await
    }

    /// Deletes a schedule. Its jobs stay.
    pub async fn delete_schedule(&self, name: &str) -> Result<DeletedSchedule, Error> {
        let call = Call::new(Method::DELETE, &["v1", "schedules", name]);
        self.call(call.with_request_id()).await
    }

    /// Pauses a schedule: its ticks pass without a job until it is resumed.
    pub async fn pause_schedule(&self, name: &str) -> Result<Schedule, Error> {
        self.call(Call::post(&["v1", "schedules", name, "pause"]).with_request_id())
            .await
    }

    /// Resumes a paused schedule from its next tick on.
    pub async fn resume_schedule(&self, name: &str) -> Result<Schedule, Error> {
        self.call(Call::post(&["v1", "schedules", name, "resume"]).with_request_id())
            .await
    }

    /// Submits one job of a schedule now, in addition to its ticks.
    pub async fn trigger_schedule(&self, name: &str) -> Result<Submitted, Error> {
        self.call(Call::post(&["v1", "schedules", name, "trigger"]).with_request_id())
            .await
    }
}
