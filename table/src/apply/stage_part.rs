//! Arrival of one part of a multipart job submission. The last part creates the job, or is refused like any submission.
//! After a refusal that a repeated request would get again, the parts are forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::id_allocator::IdAllocator;
use crate::command::event::Event;
use crate::command::reply::{ApplyResult, Refusal, Reply};
use crate::command::validate::invalid;
use crate::command::{StagePart, SubmitJob};
use crate::records::job::Idempotency;
use crate::records::staged_job::{StagedJob, StagedPart};
use crate::table::Table;

impl Table {
    pub(super) fn stage_part(
        &mut self,
        ids: &mut IdAllocator,
        stage: StagePart,
        events: &mut Vec<Event>,
    ) -> ApplyResult {
        if let Some(result) = self.reply_if_submitted(&stage) {
            return result;
        }
        self.limits.check_part(&stage)?;
        let StagePart {
            key,
            part,
            parts,
            digest,
            name,
            on_failure,
            tasks,
        } = stage;
        let received = StagedPart {
            digest,
            tasks: Arc::new(tasks),
        };
        let known = self.staged_jobs.get(&*key);
        let known = known.and_then(|staged| staged.received.get(&part));
        if known.is_none_or(|known| known.digest != digest) {
            self.check_staging(&key, &received)?;
        }
        let key: Arc<str> = Arc::from(key);
        let staged = self
            .staged_jobs
            .entry(key.clone())
            .or_insert_with(|| StagedJob {
                key: key.clone(),
                parts,
                name: Arc::from(&*name),
                on_failure,
                touched_ms: 0,
                received: BTreeMap::new(),
            });
        if staged.parts != parts || *staged.name != *name || staged.on_failure != on_failure {
            return Err(Refusal::PartConflict {
                key: key.to_string(),
            });
        }
        match staged.received.get(&part) {
            Some(known) if known.digest != digest => {
                return Err(Refusal::PartConflict {
                    key: key.to_string(),
                });
            }
            Some(_) => {}
            None => {
                staged.received.insert(part, received);
            }
        }
        staged.touched_ms = self.now_ms;
        let numbers: Vec<u32> = staged.received.keys().copied().collect();
        if numbers.len() < parts as usize {
            return Ok(Reply::Staged {
                received: numbers,
                parts,
            });
        }
        let whole = whole(staged);
        let made = self.submit_job(ids, whole, events);
        match &made {
            Err(Refusal::QueueFull { .. } | Refusal::TableFull { .. }) => {}
            Ok(_) | Err(_) => {
                self.staged_jobs.remove(&key);
            }
        }
        made
    }

    /// Returns the reply to a part whose job was created already.
    fn reply_if_submitted(&self, stage: &StagePart) -> Option<ApplyResult> {
        let (idempotency, receipt) = self.receipt_of(&stage.key)?;
        let same = idempotency.part_digests.len() == stage.parts as usize
            && stage
                .part
                .checked_sub(1)
                .and_then(|at| idempotency.part_digests.get(at as usize))
                == Some(&stage.digest);
        Some(if same {
            Ok(Reply::Submitted {
                job: receipt.job,
                tasks: receipt.task_ids(),
                duplicate: true,
            })
        } else {
            Err(Refusal::KeyConflict { job: receipt.job })
        })
    }

    fn check_staging(&self, key: &str, part: &StagedPart) -> Result<(), Refusal> {
        let limits = &self.limits;
        let bound = u64::from(limits.staged_jobs_max);
        if !self.staged_jobs.contains_key(key) && self.staged_jobs.len() as u64 >= bound {
            let what = "jobs of which parts are missing".to_owned();
            return Err(Refusal::TableFull { what, bound });
        }
        let bound = limits.staged_bytes_max;
        let bytes: u64 = self.staged_jobs.values().map(StagedJob::bytes).sum();
        if bytes + part.bytes() > bound {
            let what = "bytes of jobs of which parts are missing".to_owned();
            return Err(Refusal::TableFull { what, bound });
        }
        let tasks = self.staged_jobs.get(key).map_or(0, StagedJob::tasks) + part.tasks.len() as u64;
        let most = u64::from(limits.tasks_per_job_max);
        if tasks > most {
            let problem = format!("all parts together have {tasks}, a job has at most {most}");
            return Err(invalid("tasks", problem));
        }
        Ok(())
    }
}

/// Assembles the job from all of its parts.
fn whole(staged: &StagedJob) -> SubmitJob {
    let part_digests: Vec<[u8; 32]> = staged.received.values().map(|part| part.digest).collect();
    let mut body = Sha256::new();
    for digest in &part_digests {
        body.update(digest);
    }
    let tasks = staged.received.values();
    SubmitJob {
        request_id: None,
        idempotency_key: Some(staged.key.to_string()),
        body_digest: body.finalize().into(),
        part_digests,
        after_jobs: Vec::new(),
        name: staged.name.to_string(),
        on_failure: staged.on_failure,
        tasks: tasks.flat_map(|part| part.tasks.iter().cloned()).collect(),
    }
}

impl Idempotency {
    /// Returns the idempotency key of a submission with its digests.
    pub(super) fn of(submit: &SubmitJob) -> Option<Arc<Self>> {
        let key = submit.idempotency_key.as_deref()?;
        Some(Arc::new(Self {
            key: Arc::from(key),
            body_digest: submit.body_digest,
            part_digests: submit.part_digests.clone(),
        }))
    }
}
