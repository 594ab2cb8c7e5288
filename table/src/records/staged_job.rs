//! Multipart job submissions: parts are staged here until the last one has arrived.
//!
//! The parts of a job share its idempotency key. Nothing of it can be seen or run before it is complete; then all of it is
//! created in one entry, as any job is. A submission that stays incomplete for too long is forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{NewTask, OnFailure};

/// A job of which not all parts have come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StagedJob {
    /// The job's idempotency key.
    pub key: Arc<str>,
    /// How many parts it has.
    pub parts: u32,
    /// As every part says.
    pub name: Arc<str>,
    /// As every part says.
    pub on_failure: OnFailure,
    /// When the last part so far came, in Unix ms.
    pub touched_ms: u64,
    /// Those that have come, by their numbers from 1.
    pub received: BTreeMap<u32, StagedPart>,
}

/// Some of a job's tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StagedPart {
    /// Of the request body it came with.
    pub digest: [u8; 32],
    pub tasks: Arc<Vec<NewTask>>,
}

impl StagedJob {
    /// Bytes of its payloads.
    pub fn bytes(&self) -> u64 {
        let parts = self.received.values();
        parts.map(StagedPart::bytes).sum()
    }

    /// How many tasks have come.
    pub fn tasks(&self) -> u64 {
        let parts = self.received.values();
        parts.map(|part| part.tasks.len() as u64).sum()
    }
}

impl StagedPart {
    /// Bytes of its payloads.
    pub fn bytes(&self) -> u64 {
        let tasks = self.tasks.iter();
        tasks.map(|task| task.payload.len() as u64).sum()
    }
}
