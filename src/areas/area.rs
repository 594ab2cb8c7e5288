//! Areas and their numbers in formats.

/// Area of replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// Tasks, jobs, workers, queues and schedules.
    Table,
    /// Hashes of the secrets of workers.
    WorkerSecrets,
    /// Beginnings and ends of the output of ended attempts.
    TaskOutput,
    /// Silence of workers, over changes of the leader.
    WorkerSilence,
}

/// Number of an area that this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("area {0} is not known to this version: upgrade this program to the version that wrote it")]
pub struct UnknownArea(pub u8);

impl Area {
    /// Returns its number in formats. A number is never used again.
    pub fn number(self) -> u8 {
        match self {
            Area::Table => 0,
            Area::WorkerSecrets => 1,
            Area::TaskOutput => 2,
            Area::WorkerSilence => 3,
        }
    }

    /// Returns the area of this number.
    ///
    /// # Errors
    ///
    /// Fails if a later version added it.
    pub fn from_number(number: u8) -> Result<Area, UnknownArea> {
        match number {
            0 => Ok(Area::Table),
            1 => Ok(Area::WorkerSecrets),
            2 => Ok(Area::TaskOutput),
            3 => Ok(Area::WorkerSilence),
            _ => Err(UnknownArea(number)),
        }
    }

    /// Returns its name, as users read it.
    pub fn name(self) -> &'static str {
        match self {
            Area::Table => "table",
            Area::WorkerSecrets => "worker secrets",
            Area::TaskOutput => "task output",
            Area::WorkerSilence => "worker silence",
        }
    }
}
