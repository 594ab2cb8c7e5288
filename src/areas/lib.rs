//! Areas of replicated state: what commands, snapshots and backups are made of, from level 2 on.
//!
//! Each area is a state machine with formats of its own. The table of tasks and workers is the first. Commands name
//! their area, and snapshots and backups have one section per area; that of an empty area other than the table is left
//! out. A program that does not know an area refuses it by its number, instead of taking its bytes for something else.
//!
//! At level 1 there is only the table, and its bytes are written without a frame, as before there were levels.

pub mod area;
pub mod backup_format;
pub mod envelope;
pub mod sections;
pub mod state;
pub mod task_output;
#[cfg(test)]
mod test_commands;
mod worker_entries;
pub mod worker_secrets;
pub mod worker_silence;
