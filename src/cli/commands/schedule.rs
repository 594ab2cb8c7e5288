//! `triarch schedule`: jobs submitted at the times of cron expressions, or at intervals.

use std::process::ExitCode;
use std::time::Duration;

use chrono::Utc;
use clap::{Args, Subcommand};
use triarch_sdk::wire::{CatchUp, Overlap, PutSchedule, Schedule, ScheduleList};

use super::submit::WorkArgs;
use crate::args::{PageArgs, one_of};
use crate::context::CommandContext;
use crate::duration;
use crate::error::CommandError;
use crate::output::{self, Cell, Column};
use crate::time_format;
use crate::watch::watch;

#[derive(Debug, Args)]
pub struct ScheduleArgs {
    #[command(subcommand)]
    command: ScheduleCommand,
}

#[derive(Debug, Subcommand)]
enum ScheduleCommand {
    /// Lists schedules by name, with the next tick of each
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// Shows one schedule in detail, with its next ticks
    Show {
        /// Name of the schedule
        #[arg(value_name = "NAME")]
        name: String,
    },
    Set(Box<SetArgs>),
    /// Deletes a schedule; jobs that it submitted stay
    #[command(visible_alias = "rm")]
    Delete {
        /// Name of the schedule
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Pauses a schedule: its ticks submit nothing until it is resumed
    Pause {
        /// Name of the schedule
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Resumes a paused schedule from its next tick on
    Resume {
        /// Name of the schedule
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Submits one job of a schedule now, in addition to those of its ticks
    Trigger {
        /// Name of the schedule
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Creates a schedule, or replaces the one with this name
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("work").args(["argv", "file", "stdin_job"]).required(true)),
    group(clap::ArgGroup::new("times").args(["cron", "every"]).required(true)),
    override_usage = "triarch schedule set NAME --cron CRON [OPTIONS] -- ARGV...\n       \
                      triarch schedule set NAME --every DURATION [OPTIONS] -- ARGV...\n       \
                      triarch schedule set NAME --cron CRON [OPTIONS] --file JOB.json\n       \
                      triarch schedule set NAME --cron CRON [OPTIONS] -",
    after_help = "\
Examples:
  triarch schedule set backup --cron '30 2 * * *' --timezone Europe/Paris -- /usr/local/bin/backup
  triarch schedule set probe --cron '*/10 * * * * *' --overlap forbid --catch-up none -- ./probe
  triarch schedule set sync --every 90s --overlap forbid -- ./sync
  triarch schedule set report --cron '0 9 * * MON-FRI' --file job.json

The five fields of CRON are minute, hour, day of month, month and day of week. Of six fields, the first is seconds."
)]
struct SetArgs {
    /// Name of the schedule
    #[arg(value_name = "NAME")]
    name: String,
    /// Cron expression of the ticks, such as `*/5 * * * *`
    #[arg(long, value_name = "CRON")]
    cron: Option<String>,
    /// Interval between two ticks, in whole seconds, such as 90s or 6h
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    every: Option<Duration>,
    /// Time zone of the cron expression, such as Europe/Paris [default: UTC]
    #[arg(long, value_name = "ZONE", conflicts_with = "every")]
    timezone: Option<String>,
    /// Policy for a tick while the job of an earlier one is unfinished: allow or forbid [default: allow]
    #[arg(long, value_name = "POLICY", value_parser = one_of::<Overlap>(Overlap::ALL.map(Overlap::as_str)))]
    overlap: Option<Overlap>,
    /// Ticks missed while the cluster was down that still submit a job: none, one (the last) or all [default: one]
    #[arg(long, value_name = "POLICY", value_parser = one_of::<CatchUp>(CatchUp::ALL.map(CatchUp::as_str)))]
    catch_up: Option<CatchUp>,
    /// Creates the schedule paused
    #[arg(long)]
    paused: bool,
    /// Display name of the jobs [default: the name of the schedule]
    #[arg(long, value_name = "NAME")]
    job_name: Option<String>,
    #[command(flatten)]
    work: WorkArgs,
}

impl ScheduleArgs {
    /// Runs the command.
    pub async fn run(self, context: &CommandContext) -> Result<ExitCode, CommandError> {
        let client = &context.client;
        match self.command {
            ScheduleCommand::List { page } => {
                let watched = page.watch;
                let query = page.query();
                if watched {
                    let ask = async || Ok(client.schedules(&query).await?);
                    return watch(context, ask, render_list).await;
                }
                let list = client.schedules(&query).await?;
                output::print(context.format, &list, render_list)?;
                context.print_next_page_hint(list.next.as_deref());
            }
            ScheduleCommand::Show { name } => show(context, &client.schedule(&name).await?)?,
            ScheduleCommand::Set(args) => {
                let (name, put) = args.put()?;
                show(context, &client.put_schedule(&name, &put).await?)?;
            }
            ScheduleCommand::Delete { name } => {
                let deleted = client.delete_schedule(&name).await?;
                output::print(context.format, &deleted, |deleted| {
                    format!("{} is deleted", deleted.name)
                })?;
            }
            ScheduleCommand::Pause { name } => show(context, &client.pause_schedule(&name).await?)?,
            ScheduleCommand::Resume { name } => {
                show(context, &client.resume_schedule(&name).await?)?;
            }
            ScheduleCommand::Trigger { name } => {
                let submitted = client.trigger_schedule(&name).await?;
                output::print(context.format, &submitted, |submitted| submitted.id.clone())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl SetArgs {
    fn put(self) -> Result<(String, PutSchedule), CommandError> {
        let mut job = self.work.job_of_schedule(&self.name)?;
        if job.idempotency_key.is_some() {
            return Err(CommandError::Usage(
                "the job has an idempotency_key: remove it, because the job of each tick gets its own"
                    .to_owned(),
            ));
        }
        job.name = self
            .job_name
            .or(job.name)
            .or_else(|| Some(self.name.clone()));
        let put = PutSchedule {
            cron: self.cron,
            every_ms: self.every.map(duration::as_ms),
            timezone: self.timezone,
            job,
            overlap: self.overlap,
            catch_up: self.catch_up,
            paused: self.paused.then_some(true),
        };
        Ok((self.name, put))
    }
}

fn show(context: &CommandContext, schedule: &Schedule) -> Result<(), CommandError> {
    Ok(output::print(context.format, schedule, render)?)
}

fn render_list(list: &ScheduleList) -> String {
    let columns = [
        Column::Text("SCHEDULE"),
        Column::Text("CRON"),
        Column::Text("TIMEZONE"),
        Column::Text("NEXT"),
        Column::Text("LAST"),
        Column::Number("FIRED"),
        Column::Number("SKIPPED"),
        Column::Number("MISSED"),
    ];
    let now = Utc::now();
    let rows = list.schedules.iter().map(|schedule| {
        let next = match schedule.next_tick_at {
            Some(at) => Cell::new(time_format::relative(at.0, now)),
            None if schedule.paused => Cell::new("paused"),
            None => Cell::new("-"),
        };
        let last = schedule.last_tick_at;
        vec![
            Cell::new(&schedule.name),
            Cell::new(time_format::schedule_times(
                schedule.cron.as_deref(),
                schedule.every_ms,
            )),
            Cell::new(&schedule.timezone),
            next,
            Cell::new(last.map_or_else(|| "-".to_owned(), |at| time_format::relative(at.0, now))),
            Cell::new(schedule.fired),
            Cell::new(schedule.skipped),
            Cell::new(schedule.missed),
        ]
    });
    output::table(&columns, rows)
}

fn render(schedule: &Schedule) -> String {
    let now = Utc::now();
    let counts = format!(
        "{} fired, {} skipped, {} missed",
        schedule.fired, schedule.skipped, schedule.missed
    );
    let first = [
        ("schedule", Some(schedule.name.clone())),
        ("cron", schedule.cron.clone()),
        ("every", schedule.every_ms.map(duration::exact)),
        ("timezone", Some(schedule.timezone.clone())),
        ("overlap", Some(schedule.overlap.as_str().to_owned())),
        ("catch up", Some(schedule.catch_up.as_str().to_owned())),
        ("paused", schedule.paused.then(|| "yes".to_owned())),
        (
            "created",
            Some(time_format::relative(schedule.created_at.0, now)),
        ),
        (
            "last tick",
            schedule
                .last_tick_at
                .map(|at| time_format::relative(at.0, now)),
        ),
        ("last job", schedule.last_job.clone()),
        ("last error", schedule.last_error.clone()),
        ("ticks", Some(counts)),
    ];
    let runs = schedule.next_runs.iter().flatten().enumerate();
    let runs = runs.map(|(nth, run)| {
        let name = if nth == 0 { "next runs" } else { "" };
        let relative = time_format::relative(run.at.0, now);
        (name, Some(format!("{}  {relative}", run.local)))
    });
    output::details(first.into_iter().chain(runs))
}
