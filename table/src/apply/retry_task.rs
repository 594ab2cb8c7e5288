//! Puts a terminal task back into its queue, with a fresh budget of attempts. Its history stays and its attempts are
//! counted on; its job runs again.

use super::Ruling;
use crate::command::{Refusal, Reply, RequestId};
use crate::dedup::Answer;
use crate::event::Event;
use crate::ids::TaskId;
use crate::shape::request_id_reused;
use crate::table::Table;
use crate::task::Life;

impl Table {
    pub(super) fn retry_task(
        &mut self,
        id: TaskId,
        request_id: Option<RequestId>,
        events: &mut Vec<Event>,
    ) -> Ruling {
        if let Some(answered) = request_id
            .as_deref()
            .and_then(|request| self.answers.get(request))
        {
            return match &answered.answer {
                Answer::Retried { task } if *task == id => Ok(Reply::Done { tasks: 1 }),
                Answer::Retried { .. } | Answer::Submitted { .. } | Answer::Registered { .. } => {
                    Err(request_id_reused())
                }
            };
        }
        let task = self.tasks.get(id).ok_or(Refusal::TaskNotFound(id))?;
        if !task.state().is_terminal() {
            return Err(Refusal::WrongState {
                task: id,
                state: task.state().as_str().to_owned(),
            });
        }
        self.limits.check_request_id(request_id.as_deref())?;
        let class = task.spec.class.clone();
        self.check_depth(&class.queue, 1)?;
        self.check_classes(&class.queue, [&*class])?;
        let place = self.new_place();
        self.change_task(id, events, |task| {
            task.life = Life::Queued { place };
            task.failures = 0;
            task.losses = 0;
            task.expires_at_ms = None;
        });
        self.remember(request_id, Answer::Retried { task: id });
        Ok(Reply::Done { tasks: 1 })
    }
}
