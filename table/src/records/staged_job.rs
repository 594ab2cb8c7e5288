//! Multipart job submissions: parts are staged here until the last one has arrived.
//!
//! The parts of a job share its idempotency key. No part of the job is visible or runs before it is complete. Then all
//! of it is created in one entry, as any job is. A submission that stays incomplete for too long is forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{NewTask, OnFailure};

/// A job of which not all parts have arrived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StagedJob {
    /// The job's idempotency key.
    pub key: Arc<str>,
    /// The number of its parts.
    pub parts: u32,
    /// The job's name, the same in every part.
    pub name: Arc<str>,
    /// The failure policy, the same in every part.
    pub on_failure: OnFailure,
    /// Time at which the latest part arrived, in Unix ms.
    pub touched_ms: u64,
    /// The parts that have arrived, by their numbers from 1.
    pub received: BTreeMap<u32, StagedPart>,
}

/// One part: some of a job's tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StagedPart {
    /// Digest of the request body of this part.
    pub digest: [u8; 32],
    pub tasks: Arc<Vec<NewTask>>,
}

impl StagedJob {
    /// Returns the bytes of its payloads.
    pub fn bytes(&self) -> u64 {
        let parts = self.received.values();
        parts.map(StagedPart::bytes).sum()
    }

    /// Returns the number of tasks that have arrived.
    pub fn tasks(&self) -> u64 {
        let parts = self.received.values();
        parts.map(|part| part.tasks.len() as u64).sum()
    }
}

impl StagedPart {
    /// Returns the bytes of its payloads.
    pub fn bytes(&self) -> u64 {
        let tasks = self.tasks.iter();
        tasks.map(|task| task.payload.len() as u64).sum()
    }
}
