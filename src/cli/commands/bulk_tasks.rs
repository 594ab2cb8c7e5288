//! Changes of many tasks at once: their selection, the question before it, and the report.

use std::process::ExitCode;

use clap::Args;
use triarch_sdk::wire::{Swept, TaskSelection, TaskState};

use crate::args::one_of;
use crate::confirmation::Confirmation;
use crate::context::CommandContext;
use crate::error::{CommandError, EXIT_FAILED};
use crate::output;

/// Selection of one task by its id, or of many by filters.
#[derive(Debug, Args)]
pub struct Which {
    /// Id of one task; not together with options that select tasks
    #[arg(value_name = "TASK", conflicts_with = "Selected")]
    pub id: Option<String>,
    #[command(flatten)]
    pub selected: Option<Selected>,
}

/// Filters. A task is selected if it matches all of them.
#[derive(Debug, Args)]
#[group(required = false, multiple = true)]
pub struct Selected {
    /// Only tasks of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only tasks in this state
    #[arg(long, value_parser = one_of::<TaskState>(TaskState::ALL.map(TaskState::as_str)))]
    state: Option<TaskState>,
    /// Only tasks of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only tasks that run on this worker, or ran there last
    #[arg(long)]
    worker: Option<String>,
    /// Only tasks of this job
    #[arg(long)]
    job: Option<String>,
    /// Only tasks with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Only tasks of jobs with this name
    #[arg(long)]
    name: Option<String>,
    /// Only tasks of jobs that ticks of this schedule submitted
    #[arg(long)]
    schedule: Option<String>,
    /// Only tasks whose error has this type, such as exit or timeout
    #[arg(long, value_name = "TYPE")]
    error_type: Option<String>,
}

/// Builds the selection, which must not be empty.
pub fn selection(selected: Option<Selected>) -> Result<TaskSelection, CommandError> {
    let Some(selected) = selected else {
        return Err(CommandError::Usage(
            "no tasks are selected: name one by its id, or use a filter such as --queue, --state or --tag"
                .to_owned(),
        ));
    };
    Ok(TaskSelection {
        queue: selected.queue,
        state: selected.state,
        kind: selected.kind,
        worker: selected.worker,
        job: selected.job,
        tag: selected.tag,
        name: selected.name,
        schedule: selected.schedule,
        error_type: selected.error_type,
        ..TaskSelection::default()
    })
}

/// A bulk operation, as its question and its report name it.
pub struct Bulk {
    /// What it does to the things, as a verb.
    pub verb: &'static str,
    /// What it has done, for the report.
    pub done: &'static str,
    /// What it would have done, for a dry run.
    pub would: &'static str,
    /// One of the things that it changes.
    pub thing: &'static str,
}

impl Bulk {
    /// Runs the operation on a selection, after the question that it may need.
    pub async fn run(
        self,
        context: &CommandContext,
        mut selection: TaskSelection,
        confirmation: &Confirmation,
        change: impl AsyncFn(&TaskSelection) -> Result<Swept, triarch_sdk::Error>,
    ) -> Result<ExitCode, CommandError> {
        if confirmation.needs_count() {
            selection.dry_run = true;
            let counted = change(&selection).await?;
            selection.dry_run = false;
            if confirmation.dry_run {
                return self.print(context, &counted, self.would);
            }
            let count = things(counted.count, self.thing);
            if !confirmation.asks(&format!("This {} {count}.", self.verb))? {
                return Ok(ExitCode::from(EXIT_FAILED));
            }
        }
        let swept = change(&selection).await?;
        self.print(context, &swept, self.done)
    }

    fn print(
        &self,
        context: &CommandContext,
        swept: &Swept,
        what: &str,
    ) -> Result<ExitCode, CommandError> {
        output::print(context.format, swept, |swept| {
            format!("{what} {}", things(swept.count, self.thing))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn things(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}
