//! Schedules, which submit jobs at the times of a cron expression, or at intervals.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::job::SubmitJob;
use super::time::Timestamp;

/// Body of `PUT /v1/schedules/{name}`. It replaces the schedule with this name, if there is one. Exactly one of `cron` and
/// `every_ms` is required.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PutSchedule {
    /// Cron expression of five fields (minute, hour, day of month, month, day of week), or of six with seconds first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 200))]
    pub cron: Option<String>,
    /// Interval between two ticks in ms, in whole seconds. The first tick is one interval after the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "openapi",
        schema(minimum = 1000, maximum = 31622400000_u64, multiple_of = 1000)
    )]
    pub every_ms: Option<u64>,
    /// IANA name of the time zone of `cron`. Default: `UTC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Job that each tick submits, as for `POST /v1/jobs` without `idempotency_key`.
    pub job: SubmitJob,
    /// Policy for a tick while the job of an earlier one is unfinished. Default: `allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    /// Policy for ticks that were missed while no cluster was up. Default: `one`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUp>,
    /// Whether the schedule is paused, so that its ticks submit nothing. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// Policy for a tick while the job of an earlier one is unfinished: `allow` submits its job, `forbid` skips the tick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The tick submits its job.
    #[default]
    Allow,
    /// The tick submits no job, and is counted as skipped.
    Forbid,
}

impl Overlap {
    /// All values.
    pub const ALL: [Overlap; 2] = [Overlap::Allow, Overlap::Forbid];

    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Overlap::Allow => "allow",
            Overlap::Forbid => "forbid",
        }
    }
}

/// Policy for ticks that were missed while no cluster was up: `none` submits nothing, `one` the job of the last of
/// them, `all` the job of each, in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Missed ticks submit no jobs.
    None,
    /// The last of the missed ticks submits its job.
    #[default]
    One,
    /// Each missed tick submits its job, in order.
    All,
}

impl CatchUp {
    /// All values.
    pub const ALL: [CatchUp; 3] = [CatchUp::None, CatchUp::One, CatchUp::All];

    /// The word used on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            CatchUp::None => "none",
            CatchUp::One => "one",
            CatchUp::All => "all",
        }
    }
}

/// One schedule.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Schedule {
    /// Name of the schedule.
    pub name: String,
    /// Cron expression; `null` if the schedule has an interval.
    #[serde(default)]
    pub cron: Option<String>,
    /// Interval between two ticks in ms; `null` if the schedule has a cron expression.
    #[serde(default)]
    pub every_ms: Option<u64>,
    /// IANA name of the time zone.
    pub timezone: String,
    /// Policy for a tick while the job of an earlier one is unfinished.
    pub overlap: Overlap,
    /// Policy for missed ticks.
    pub catch_up: CatchUp,
    /// Whether the schedule is paused, so that its ticks submit nothing.
    pub paused: bool,
    /// Time of the next tick; `null` while paused.
    #[serde(default)]
    pub next_tick_at: Option<Timestamp>,
    /// Time of the last tick that was processed, whether or not it submitted a job.
    #[serde(default)]
    pub last_tick_at: Option<Timestamp>,
    /// Id of the last job that a tick submitted; the job may have been deleted since.
    #[serde(default)]
    pub last_job: Option<String>,
    /// Reason why the job of the last tick was refused, if it was.
    #[serde(default)]
    pub last_error: Option<String>,
    /// Number of ticks that submitted a job.
    pub fired: u64,
    /// Number of ticks that submitted none because the job of an earlier tick was unfinished, or because all of their
    /// tasks existed already.
    pub skipped: u64,
    /// Number of ticks that submitted none because they were too late, or because their job was refused.
    pub missed: u64,
    /// Time at which the schedule was first created.
    pub created_at: Timestamp,
    /// Job that each tick submits; present only in responses about a single schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<SubmitJob>))]
    pub job: Option<Box<RawValue>>,
    /// Next few ticks; present only in responses about a single schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_runs: Option<Vec<ScheduledRun>>,
}

/// One future tick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduledRun {
    /// Time of the tick.
    pub at: Timestamp,
    /// The same time in the schedule's time zone, with its offset from UTC.
    pub local: String,
}

/// One page of schedules, ordered by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduleList {
    /// Schedules of the page.
    pub schedules: Vec<Schedule>,
    /// Cursor of the next page; `null` on the last one.
    #[serde(default)]
    pub next: Option<String>,
}

/// Response of `DELETE /v1/schedules/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeletedSchedule {
    /// Name of the deleted schedule.
    pub name: String,
}
