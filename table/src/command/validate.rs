//! Validation of commands. The edge checks the same before it proposes, and its messages can say more. The table checks
//! again, because an accepted command is in the table of every replica for good.

use std::collections::{BTreeMap, BTreeSet};

use crate::command::reply::Refusal;
use crate::command::{NewTask, RegisterWorker, Requires, StagePart, SubmitJob};
use crate::types::limits::Limits;

type Checked = Result<(), Refusal>;

pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Refusal {
    Refusal::Invalid {
        field: field.into(),
        problem: problem.into(),
    }
}

/// Returns the refusal of a request id that an earlier, different request used.
pub(crate) fn request_id_reused() -> Refusal {
    invalid("request_id", "was used before for another request")
}

impl Limits {
    pub(crate) fn check_request_id(&self, request_id: Option<&str>) -> Checked {
        request_id.map_or(Ok(()), |request_id| {
            self.check_name("request_id", request_id)
        })
    }

    pub(crate) fn check_submission(&self, submit: &SubmitJob) -> Checked {
        self.check_request_id(submit.request_id.as_deref())?;
        if let Some(key) = &submit.idempotency_key {
            self.check_name("idempotency_key", key)?;
        }
        self.check_length("name", &submit.name)?;
        self.check_count("after_jobs", submit.after_jobs.len(), 0, self.words_max)?;
        let mut jobs = BTreeSet::new();
        for (after, at) in submit.after_jobs.iter().zip(0..) {
            if !jobs.insert(after.job) {
                let field = format!("after_jobs[{at}].job");
                return Err(invalid(field, format!("{} is named twice", after.job)));
            }
        }
        self.check_tasks(&submit.tasks)
    }

    pub(crate) fn check_part(&self, stage: &StagePart) -> Checked {
        self.check_name("idempotency_key", &stage.key)?;
        self.check_length("name", &stage.name)?;
        let most = self.parts_per_job_max;
        self.check_count("parts", stage.parts as usize, 1, most)?;
        self.check_count("part", stage.part as usize, 1, stage.parts)?;
        self.check_tasks(&stage.tasks)
    }

    fn check_tasks(&self, tasks: &[NewTask]) -> Checked {
        self.check_count("tasks", tasks.len(), 1, self.tasks_per_job_max)?;
        let mut keys = BTreeSet::new();
        for (at, task) in tasks.iter().enumerate() {
            self.check_task(task)
                .map_err(|(field, problem)| invalid(format!("tasks[{at}].{field}"), problem))?;
            if let Some(key) = &task.key
                && !keys.insert(key)
            {
                return Err(invalid(
                    format!("tasks[{at}].key"),
                    format!("{key:?} is the key of an earlier task"),
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn check_queue_name(&self, name: &str) -> Checked {
        self.check_name("queue", name)
    }

    pub(crate) fn check_registration(&self, register: &RegisterWorker) -> Checked {
        self.check_request_id(register.request_id.as_deref())?;
        self.check_name("name", &register.name)?;
        self.check_count("queues", register.queues.len(), 1, self.subscriptions_max)?;
        for queue in &register.queues {
            self.check_name("queues", queue)?;
        }
        self.check_count("kinds", register.kinds.len(), 1, self.subscriptions_max)?;
        for kind in &register.kinds {
            self.check_name("kinds", kind)?;
        }
        if register.slots == 0 {
            return Err(invalid("slots", "must be at least 1"));
        }
        self.check_labels(&register.labels)
            .map_err(|problem| invalid("labels", problem))?;
        self.check_resources(&register.resources)
            .map_err(|problem| invalid("resources", problem))
    }

    fn check_task(&self, task: &NewTask) -> Result<(), (&'static str, String)> {
        let at_least = |field, number: u32, least: u32| match number >= least {
            true => Ok(()),
            false => Err((field, format!("must be at least {least}, not {number}"))),
        };
        let at_most = |field, number: u64, most: u64| match number <= most {
            true => Ok(()),
            false => Err((field, format!("must be at most {most}, not {number}"))),
        };
        let name = |field, name: &str| {
            self.name_problem(name)
                .map_or(Ok(()), |problem| Err((field, problem)))
        };
        name("kind", &task.kind)?;
        name("queue", &task.queue)?;
        task.key.as_deref().map_or(Ok(()), |key| name("key", key))?;
        at_most(
            "payload",
            task.payload.len() as u64,
            u64::from(self.payload_bytes_max),
        )
        .map_err(|_| {
            (
                "payload",
                format!(
                    "must be at most {} bytes, not {}",
                    self.payload_bytes_max,
                    task.payload.len()
                ),
            )
        })?;
        at_most("priority", u64::from(task.priority), 9)?;
        at_least("max_attempts", task.max_attempts, 1)?;
        at_least("max_losses", task.max_losses, 1)?;
        at_least("backoff.factor", task.backoff.factor_milli, 1_000)?;
        at_most(
            "backoff.jitter",
            u64::from(task.backoff.jitter_permille),
            1_000,
        )?;
        if task.timeout_ms == Some(0) {
            return Err(("timeout_ms", "must be at least 1".to_owned()));
        }
        at_most("tags", task.tags.len() as u64, u64::from(self.words_max))?;
        task.tags.iter().try_for_each(|tag| name("tags", tag))?;
        task.after
            .iter()
            .try_for_each(|dependency| name("after", &dependency.key))?;
        if let Some(unique) = &task.unique {
            name("unique_key", &unique.key)?;
        }
        if let Some(concurrency) = &task.concurrency {
            name("concurrency_key", &concurrency.key)?;
            at_least("concurrency_limit", concurrency.limit, 1)?;
        }
        let Requires { labels, resources } = &task.requires;
        self.check_labels(labels)
            .map_err(|problem| ("requires.labels", problem))?;
        self.check_resources(resources)
            .map_err(|problem| ("requires.resources", problem))
    }

    fn check_labels(&self, labels: &BTreeMap<String, String>) -> Result<(), String> {
        if labels.len() > self.words_max as usize {
            return Err(format!(
                "must be at most {}, not {}",
                self.words_max,
                labels.len()
            ));
        }
        let problem = labels.iter().find_map(|(name, value)| {
            self.name_problem(name)
                .or_else(|| self.length_problem(value))
        });
        problem.map_or(Ok(()), Err)
    }

    fn check_resources(&self, resources: &BTreeMap<String, u64>) -> Result<(), String> {
        if resources.len() > self.words_max as usize {
            return Err(format!(
                "must be at most {}, not {}",
                self.words_max,
                resources.len()
            ));
        }
        resources
            .keys()
            .find_map(|name| self.name_problem(name))
            .map_or(Ok(()), Err)
    }

    fn check_count(&self, field: &str, count: usize, least: usize, most: u32) -> Checked {
        match (least..=most as usize).contains(&count) {
            true => Ok(()),
            false => Err(invalid(
                field,
                format!("must be {least} to {most}, not {count}"),
            )),
        }
    }

    fn check_name(&self, field: &str, name: &str) -> Checked {
        self.name_problem(name)
            .map_or(Ok(()), |problem| Err(invalid(field, problem)))
    }

    fn check_length(&self, field: &str, text: &str) -> Checked {
        self.length_problem(text)
            .map_or(Ok(()), |problem| Err(invalid(field, problem)))
    }

    fn name_problem(&self, name: &str) -> Option<String> {
        if name.is_empty() {
            Some("must not be empty".to_owned())
        } else {
            self.length_problem(name)
        }
    }

    fn length_problem(&self, text: &str) -> Option<String> {
        let most = self.name_bytes_max;
        (text.len() > most as usize)
            .then(|| format!("must be at most {most} bytes, not {}", text.len()))
    }
}
