//! Schedules: jobs that are submitted again and again.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::job::SubmitJob;
use super::time::Timestamp;

/// Body of `PUT /v1/schedules/{name}`. Takes the place of the schedule of this name, if there is one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PutSchedule {
    /// When: five fields (minute, hour, day of the month, month, day of the week), or six with seconds first.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub cron: String,
    /// The clock on the wall that `cron` speaks of, by its IANA name; `UTC` unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// What each tick submits: a job as for `POST /v1/jobs`, without `idempotency_key`.
    pub job: SubmitJob,
    /// [`Overlap::Allow`] unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    /// [`CatchUp::One`] unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUp>,
    /// Whether ticks pass by unheeded until it is resumed; no unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// What a tick does that finds the job of an earlier one unfinished.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It makes its job all the same.
    #[default]
    Allow,
    /// It makes none, and is counted as skipped.
    Forbid,
}

impl Overlap {
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Overlap::Allow => "allow",
            Overlap::Forbid => "forbid",
        }
    }
}

/// What becomes of ticks whose time passed while no cluster was there to act on them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They make no jobs.
    None,
    /// The last of them makes one.
    #[default]
    One,
    /// Each makes its own, in order.
    All,
}

impl CatchUp {
    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            CatchUp::None => "none",
            CatchUp::One => "one",
            CatchUp::All => "all",
        }
    }
}

/// A schedule as shown and listed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// As put.
    pub cron: String,
    /// As put.
    pub timezone: String,
    /// As put.
    pub overlap: Overlap,
    /// As put.
    pub catch_up: CatchUp,
    /// Whether ticks pass by unheeded.
    pub paused: bool,
    /// The next tick; `null` while paused.
    #[serde(default)]
    pub next_tick_at: Option<Timestamp>,
    /// The last tick that was acted on, whether or not it made a job.
    #[serde(default)]
    pub last_tick_at: Option<Timestamp>,
    /// The last job that a tick made; it may be forgotten by now.
    #[serde(default)]
    pub last_job: Option<String>,
    /// Why the last tick was refused its job, if it was.
    #[serde(default)]
    pub last_error: Option<String>,
    /// Ticks that made a job.
    pub fired: u64,
    /// Ticks that made none because the job of an earlier one was unfinished, or all of their tasks were there already.
    pub skipped: u64,
    /// Ticks that made none because they were too late, or because their job was refused.
    pub missed: u64,
    /// When it was first put.
    pub created_at: Timestamp,
    /// What each tick submits; only where one schedule is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub job: Option<Box<RawValue>>,
    /// The next few ticks; only where one schedule is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_runs: Option<Vec<ScheduledRun>>,
}

/// A tick to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduledRun {
    /// When.
    pub at: Timestamp,
    /// The same moment by the clocks of the schedule's time zone, with their distance from UTC.
    pub local: String,
}

/// One page of schedules, by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduleList {
    /// The page.
    pub schedules: Vec<Schedule>,
    /// Where the next page starts; `null` on the last.
    #[serde(default)]
    pub next: Option<String>,
}

/// Answer to `DELETE /v1/schedules/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeletedSchedule {
    /// The schedule that is no more.
    pub name: String,
}
