//! Takes in one part of a job that is too large for one request. The last one to come makes the job, or is refused like any
//! submission; with a refusal that another try would meet again, the parts are forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Entry, Ruling};
use crate::command::event::Event;
use crate::command::reply::{Refusal, Reply};
use crate::command::validate::invalid;
use crate::command::{StagePart, SubmitJob};
use crate::records::job::Idempotency;
use crate::records::staged_job::{Part, Staged};
use crate::table::Table;

impl Table {
    pub(super) fn stage_part(
        &mut self,
        entry: &mut Entry,
        stage: StagePart,
        events: &mut Vec<Event>,
    ) -> Ruling {
        if let Some(ruling) = self.made_of(&stage) {
            return ruling;
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
        let came = Part {
            digest,
            tasks: Arc::new(tasks),
        };
        let known = self.staged.get(&*key);
        let known = known.and_then(|staged| staged.received.get(&part));
        if known.is_none_or(|known| known.digest != digest) {
            self.check_staging(&key, &came)?;
        }
        let key: Arc<str> = Arc::from(key);
        let staged = self.staged.entry(key.clone()).or_insert_with(|| Staged {
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
                staged.received.insert(part, came);
            }
        }
        staged.touched_ms = self.now_ms;
        let received: Vec<u32> = staged.received.keys().copied().collect();
        if received.len() < parts as usize {
            return Ok(Reply::Staged { received, parts });
        }
        let whole = whole(staged);
        let made = self.submit_job(entry, whole, events);
        match &made {
            Err(Refusal::QueueFull { .. } | Refusal::TableFull { .. }) => {}
            Ok(_) | Err(_) => {
                self.staged.remove(&key);
            }
        }
        made
    }

    /// The answer to a part of a job that is there already.
    fn made_of(&self, stage: &StagePart) -> Option<Ruling> {
        let (idempotency, roll) = self.roll_of(&stage.key)?;
        let same = idempotency.part_digests.len() == stage.parts as usize
            && stage
                .part
                .checked_sub(1)
                .and_then(|at| idempotency.part_digests.get(at as usize))
                == Some(&stage.digest);
        Some(if same {
            Ok(Reply::Submitted {
                job: roll.job,
                tasks: roll.task_ids(),
                duplicate: true,
            })
        } else {
            Err(Refusal::KeyConflict { job: roll.job })
        })
    }

    fn check_staging(&self, key: &str, part: &Part) -> Result<(), Refusal> {
        let limits = &self.limits;
        let bound = u64::from(limits.staged_jobs_max);
        if !self.staged.contains_key(key) && self.staged.len() as u64 >= bound {
            let what = "jobs of which parts are missing".to_owned();
            return Err(Refusal::TableFull { what, bound });
        }
        let bound = limits.staged_bytes_max;
        let bytes: u64 = self.staged.values().map(Staged::bytes).sum();
        if bytes + part.bytes() > bound {
            let what = "bytes of jobs of which parts are missing".to_owned();
            return Err(Refusal::TableFull { what, bound });
        }
        let tasks = self.staged.get(key).map_or(0, Staged::tasks) + part.tasks.len() as u64;
        let most = u64::from(limits.tasks_per_job_max);
        if tasks > most {
            let problem = format!("all parts together have {tasks}, a job has at most {most}");
            return Err(invalid("tasks", problem));
        }
        Ok(())
    }
}

/// The job that all parts make.
fn whole(staged: &Staged) -> SubmitJob {
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
        name: staged.name.to_string(),
        on_failure: staged.on_failure,
        tasks: tasks.flat_map(|part| part.tasks.iter().cloned()).collect(),
    }
}

impl Idempotency {
    /// A key and what it came with.
    pub(super) fn of(submit: &SubmitJob) -> Option<Arc<Self>> {
        let key = submit.idempotency_key.as_deref()?;
        Some(Arc::new(Self {
            key: Arc::from(key),
            body_digest: submit.body_digest,
            part_digests: submit.part_digests.clone(),
        }))
    }
}
