//! Model of multipart job submissions.

use std::collections::BTreeMap;

use triarch_table::command::reply::Refusal;
use triarch_table::command::{NewTask, OnFailure, StagePart, SubmitJob};
use triarch_table::{Command, Reply};

use super::{ApplyResult, Model, invalid};

#[derive(Debug)]
pub(super) struct ModelStaged {
    /// Properties that all parts share: number of parts, name, failure policy.
    job: (u32, String, OnFailure),
    received: BTreeMap<u32, ([u8; 32], Vec<NewTask>)>,
    pub touched_ms: u64,
}

impl Model {
    pub(super) fn stage(&mut self, stage: &StagePart) -> ApplyResult {
        let StagePart {
            key, part, parts, ..
        } = stage;
        if let Some(((_, digests), job, tasks)) = self.known_by(key) {
            let same = digests.len() == *parts as usize
                && (1..=*parts).contains(part)
                && digests[*part as usize - 1] == stage.digest;
            let answer = Reply::Submitted {
                job,
                tasks,
                duplicate: true,
            };
            return if same {
                Ok(answer)
            } else {
                Err(Refusal::KeyConflict { job })
            };
        }
        let wrong = [
            ("idempotency_key", key.is_empty()),
            (
                "parts",
                !(1..=self.limits.parts_per_job_max).contains(parts),
            ),
            ("part", !(1..=*parts).contains(part)),
        ];
        if let Some((field, _)) = wrong.iter().find(|(_, wrong)| *wrong) {
            return Err(invalid(*field));
        }
        self.validate_tasks(&stage.tasks)?;
        let known = self.staged.get(key);
        let before = known.and_then(|staged| staged.received.get(part));
        if before.is_none_or(|(digest, _)| *digest != stage.digest) {
            self.check_staging(stage)?;
        }
        let job = (*parts, stage.name.clone(), stage.on_failure);
        let other = known.is_some_and(|staged| staged.job != job);
        if other || before.is_some_and(|(digest, _)| *digest != stage.digest) {
            return Err(Refusal::PartConflict { key: key.clone() });
        }
        let staged = self
            .staged
            .entry(key.clone())
            .or_insert_with(|| ModelStaged {
                job,
                received: BTreeMap::new(),
                touched_ms: 0,
            });
        let came = (stage.digest, stage.tasks.clone());
        staged.received.entry(*part).or_insert(came);
        staged.touched_ms = self.now_ms;
        let received: Vec<u32> = staged.received.keys().copied().collect();
        if received.len() < *parts as usize {
            let parts = *parts;
            return Ok(Reply::Staged { received, parts });
        }
        let whole = SubmitJob {
            request_id: None,
            idempotency_key: Some(key.clone()),
            // No other submission has this digest, and no reply shows it.
            body_digest: [255; 32],
            after_jobs: Vec::new(),
            part_digests: staged
                .received
                .values()
                .map(|(digest, _)| *digest)
                .collect(),
            name: stage.name.clone(),
            on_failure: stage.on_failure,
            tasks: staged
                .received
                .values()
                .flat_map(|(_, tasks)| tasks.clone())
                .collect(),
        };
        let result = self.apply_one(&Command::SubmitJob(whole));
        let full = matches!(
            result,
            Err(Refusal::QueueFull { .. } | Refusal::TableFull { .. })
        );
        if !full {
            self.staged.remove(key);
        }
        result
    }

    fn check_staging(&self, stage: &StagePart) -> Result<(), Refusal> {
        let bound = u64::from(self.limits.staged_jobs_max);
        if !self.staged.contains_key(&stage.key) && self.staged.len() as u64 >= bound {
            let what = "jobs of which parts are missing".into();
            return Err(Refusal::TableFull { what, bound });
        }
        let parts = |staged: &ModelStaged| staged.received.values().cloned().collect::<Vec<_>>();
        let all = self
            .staged
            .values()
            .flat_map(parts)
            .flat_map(|(_, tasks)| tasks);
        let all = all.chain(stage.tasks.clone());
        let bound = self.limits.staged_bytes_max;
        if all.map(|task| task.payload.len() as u64).sum::<u64>() > bound {
            let what = "bytes of jobs of which parts are missing".into();
            return Err(Refusal::TableFull { what, bound });
        }
        let own = self.staged.get(&stage.key).map(parts).unwrap_or_default();
        let own: usize = own.iter().map(|(_, tasks)| tasks.len()).sum();
        if own + stage.tasks.len() > self.limits.tasks_per_job_max as usize {
            return Err(invalid("tasks"));
        }
        Ok(())
    }
}
