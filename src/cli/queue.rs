//! `triarch queue`: the named streams of tasks.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::Cell;
use triarch_sdk::wire::{QueueList, ReadQuery};

use super::output::{self, Column};
use super::session::Session;
use super::{Failure, when};

/// Look after queues
#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// All queues, with what waits and runs in them
    #[command(visible_alias = "ls")]
    List,
}

impl QueueArgs {
    /// Does what was asked.
    pub async fn run(self, session: &Session) -> Result<ExitCode, Failure> {
        match self.command {
            QueueCommand::List => {
                let list = session.client.queues(&ReadQuery::default()).await?;
                output::answer(session.format, &list, for_people)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn for_people(list: &QueueList) -> String {
    let columns = [
        Column::Text("QUEUE"),
        Column::Number("QUEUED"),
        Column::Number("RUNNING"),
        Column::Number("DELAYED"),
        Column::Number("OLDEST"),
    ];
    let rows = list.queues.iter().map(|queue| {
        vec![
            Cell::new(&queue.name),
            Cell::new(queue.depth),
            Cell::new(queue.running),
            Cell::new(queue.delayed),
            Cell::new(
                queue
                    .oldest_ms
                    .map_or_else(|| "-".to_owned(), when::span_ms),
            ),
        ]
    });
    output::table(&columns, rows)
}
