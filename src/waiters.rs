//! Requests that wait for a job, a task or any of many tasks to finish, or for news of a task. Woken one by one by apply, on
//! whichever node they wait; bounded, and every wait has a deadline of its own at its caller.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use triarch_table::{JobId, TaskId};

/// At most so much is waited for on one node: a request that waits for any of many tasks counts once for each.
const WAITERS_MAX: usize = 100_000;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Awaited {
    Job(JobId),
    Task(TaskId),
    News(TaskId),
}

/// How a waiting request is woken.
enum Bell {
    One(oneshot::Sender<()>),
    /// Of a request that waits for several things: whichever is first.
    Any(Arc<Notify>),
}

impl Bell {
    fn ring(self) {
        match self {
            // A receiver that is gone has given up by itself.
            Bell::One(sender) => drop(sender.send(())),
            Bell::Any(notify) => notify.notify_one(),
        }
    }
}

/// One waiting request's number, and how it is woken.
type Waiting = (u64, Bell);

/// The waiting requests of this node.
#[derive(Default)]
pub struct Waiters {
    waiting: Mutex<HashMap<Awaited, Vec<Waiting>>>,
    count: Arc<AtomicUsize>,
    /// How many of them wait for news: mostly none, and then news costs nothing.
    news_count: AtomicUsize,
    next_id: std::sync::atomic::AtomicU64,
}

/// The node's bound of waiting requests is reached.
#[derive(Debug)]
pub struct TooManyWaiters;

impl Waiters {
    /// Waits for the end of a job. Register first, then look at the table, then wait: no end can slip between.
    pub fn job(&self, job: JobId) -> Result<Wait<'_>, TooManyWaiters> {
        self.register(Awaited::Job(job))
    }

    /// Waits for the end of a task; as [`Waiters::job`].
    pub fn task(&self, task: TaskId) -> Result<Wait<'_>, TooManyWaiters> {
        self.register(Awaited::Task(task))
    }

    /// Waits for the end of any of these tasks; as [`Waiters::job`].
    pub fn any_task(&self, tasks: Vec<TaskId>) -> Result<WaitAny<'_>, TooManyWaiters> {
        if self.count.fetch_add(tasks.len(), Ordering::Relaxed) + tasks.len() > WAITERS_MAX {
            self.count.fetch_sub(tasks.len(), Ordering::Relaxed);
            return Err(TooManyWaiters);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let notify = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock();
        for &task in &tasks {
            let bell = Bell::Any(Arc::clone(&notify));
            waiting
                .entry(Awaited::Task(task))
                .or_default()
                .push((id, bell));
        }
        drop(waiting);
        Ok(WaitAny {
            waiters: self,
            tasks,
            id,
            notify,
        })
    }

    /// Waits for any news of a task: a change of its state, or output; as [`Waiters::job`].
    pub fn news(&self, task: TaskId) -> Result<Wait<'_>, TooManyWaiters> {
        self.register(Awaited::News(task))
    }

    /// How much is waited for.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// There is news of the task.
    pub fn task_news(&self, task: TaskId) {
        // Who registered before looking at the table is counted before the table changes under its lock.
        if self.news_count.load(Ordering::Relaxed) > 0 {
            self.wake(Awaited::News(task));
        }
    }

    /// The job is terminal.
    pub fn job_finished(&self, job: JobId) {
        self.wake(Awaited::Job(job));
    }

    /// The task is terminal.
    pub fn task_finished(&self, task: TaskId) {
        self.wake(Awaited::Task(task));
    }

    /// Everyone looks again: the whole table was replaced.
    pub fn wake_all(&self) {
        for (_, bells) in self.waiting.lock().drain() {
            for (_, bell) in bells {
                bell.ring();
            }
        }
    }

    fn register(&self, awaited: Awaited) -> Result<Wait<'_>, TooManyWaiters> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= WAITERS_MAX {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(TooManyWaiters);
        }
        if matches!(awaited, Awaited::News(_)) {
            self.news_count.fetch_add(1, Ordering::Relaxed);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting
            .lock()
            .entry(awaited)
            .or_default()
            .push((id, Bell::One(sender)));
        Ok(Wait {
            waiters: self,
            awaited,
            id,
            receiver,
        })
    }

    fn wake(&self, awaited: Awaited) {
        let bells = self.waiting.lock().remove(&awaited);
        for (_, bell) in bells.into_iter().flatten() {
            bell.ring();
        }
    }

    fn give_up(waiting: &mut HashMap<Awaited, Vec<Waiting>>, awaited: Awaited, id: u64) {
        if let Some(bells) = waiting.get_mut(&awaited) {
            bells.retain(|(one, _)| *one != id);
            if bells.is_empty() {
                waiting.remove(&awaited);
            }
        }
    }
}

/// One waiting request; dropping it gives up its place.
pub struct Wait<'a> {
    waiters: &'a Waiters,
    awaited: Awaited,
    id: u64,
    receiver: oneshot::Receiver<()>,
}

impl Wait<'_> {
    /// Returns when woken. The caller bounds it in time and looks at the table afterwards.
    pub async fn woken(&mut self) {
        let _ = (&mut self.receiver).await;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.waiters.count.fetch_sub(1, Ordering::Relaxed);
        if matches!(self.awaited, Awaited::News(_)) {
            self.waiters.news_count.fetch_sub(1, Ordering::Relaxed);
        }
        Waiters::give_up(&mut self.waiters.waiting.lock(), self.awaited, self.id);
    }
}

/// One request that waits for any of many tasks; dropping it gives up its place.
pub struct WaitAny<'a> {
    waiters: &'a Waiters,
    tasks: Vec<TaskId>,
    id: u64,
    notify: Arc<Notify>,
}

impl WaitAny<'_> {
    /// Returns when the first of them has ended. The caller bounds it in time and looks at the table afterwards.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for WaitAny<'_> {
    fn drop(&mut self) {
        let count = self.tasks.len();
        self.waiters.count.fetch_sub(count, Ordering::Relaxed);
        let mut waiting = self.waiters.waiting.lock();
        for &task in &self.tasks {
            Waiters::give_up(&mut waiting, Awaited::Task(task), self.id);
        }
    }
}
