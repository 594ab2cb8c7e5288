//! Records of the format, and their encoding.

use std::borrow::Cow;
use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::dependency::PlacedCondition;
use crate::command::{DependencyCondition, RestorePart};
use crate::records::dedup::{AnsweredRequest, RetiredKey};
use crate::records::job::{Job, JobDependency};
use crate::records::queue::Queue;
use crate::records::schedule::Schedule;
use crate::records::staged_job::StagedJob;
use crate::records::task::{Attempt, Class, Life, Policy, Task, TaskConstraints};
use crate::records::worker::Worker;
use crate::types::ids::{JobId, TaskId};
use crate::types::limits::Limits;

/// First bytes of every snapshot.
pub const MAGIC: &[u8; 8] = b"TRITABLE";

/// The version this code writes.
pub const VERSION: u8 = 1;

/// Maximum number of bytes of one record. No record comes near it, so a length beyond it is damage.
pub(super) const RECORD_BYTES_MAX: u32 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Record<'a> {
    Head {
        limits: Cow<'a, Limits>,
        last_position: u64,
        virtual_time: u64,
        id_offset: u64,
        restored: Option<Cow<'a, str>>,
    },
    Clock {
        now_ms: u64,
        last_index: u64,
    },
    Queue(Cow<'a, Queue>),
    Staged(Cow<'a, StagedJob>),
    RestorePart {
        part: Cow<'a, RestorePart>,
        touched_ms: u64,
    },
    Worker(Cow<'a, Worker>),
    AnsweredRequest(Cow<'a, AnsweredRequest>),
    RetiredKey(Cow<'a, RetiredKey>),
    Schedule(Cow<'a, Schedule>),
    /// A scheduling class. Classes are numbered from 0 in order of appearance, which is before the first task that
    /// refers to them.
    Class(Cow<'a, Class>),
    /// A policy, numbered as classes are.
    Policy(Cow<'a, Policy>),
    /// A job. Its tasks follow in order.
    Job(Cow<'a, Job>),
    Task(TaskRecord<'a>),
    End {
        digest: u64,
    },
    /// Conditions of the dependencies of the task before it. Tables of level 1 have none.
    Conditions(Cow<'a, [DependencyCondition]>),
    /// Conditions of dependencies in the submission before it: in this part of a staged job, or in the job of a schedule.
    /// Tables of level 1 have none.
    SubmittedConditions {
        part: u32,
        conditions: Vec<PlacedCondition>,
    },
    /// The jobs that the job before it comes after. Tables of level 1 have none.
    AfterJobs(Cow<'a, [JobDependency]>),
}

/// Part of a job in a schedule, which has no parts.
pub(super) const WHOLE: u32 = 0;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TaskRecord<'a> {
    pub(super) id: TaskId,
    pub(super) job: JobId,
    pub(super) created_ms: u64,
    pub(super) class: u32,
    pub(super) policy: u32,
    pub(super) key: Option<Cow<'a, str>>,
    pub(super) payload: Cow<'a, Bytes>,
    pub(super) constraints: Option<Cow<'a, TaskConstraints>>,
    pub(super) life: Cow<'a, Life>,
    pub(super) expires_at_ms: Option<u64>,
    pub(super) attempt: u32,
    pub(super) failures: u32,
    pub(super) losses: u32,
    pub(super) history: Cow<'a, [Attempt]>,
}

impl<'a> TaskRecord<'a> {
    pub(super) fn of(task: &'a Task, class: u32, policy: u32) -> Self {
        Self {
            id: task.id,
            job: task.job,
            created_ms: task.created_ms,
            class,
            policy,
            key: task.key().map(Cow::Borrowed),
            payload: Cow::Borrowed(&task.spec.payload),
            constraints: task.spec.constraints.as_deref().map(Cow::Borrowed),
            life: Cow::Borrowed(&task.life),
            expires_at_ms: task.expires_at_ms,
            attempt: task.attempt,
            failures: task.failures,
            losses: task.losses,
            history: Cow::Borrowed(&task.history),
        }
    }
}

pub(super) fn encoded(record: &Record<'_>, buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    postcard::to_extend(record, buffer).map_err(io::Error::other)
}
