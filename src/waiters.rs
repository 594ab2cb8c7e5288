//! Requests that wait for a job or a task to finish, or for news of a task. Woken one by one by apply, on whichever node they wait;
//! bounded, and every wait has a deadline of its own at its caller.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use triarch_table::{JobId, TaskId};

/// At most this many requests wait on one node.
const WAITERS_MAX: usize = 100_000;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Awaited {
    Job(JobId),
    Task(TaskId),
    News(TaskId),
}

/// One waiting request's number, and how it is woken.
type Waiting = (u64, oneshot::Sender<()>);

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

    /// Waits for any news of a task: a change of its state, or output; as [`Waiters::job`].
    pub fn news(&self, task: TaskId) -> Result<Wait<'_>, TooManyWaiters> {
        self.register(Awaited::News(task))
    }

    /// How many requests wait.
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
        for (_, senders) in self.waiting.lock().drain() {
            for (_, sender) in senders {
                let _ = sender.send(());
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
            .push((id, sender));
        Ok(Wait {
            waiters: self,
            awaited,
            id,
            receiver,
        })
    }

    fn wake(&self, awaited: Awaited) {
        let senders = self.waiting.lock().remove(&awaited);
        for (_, sender) in senders.into_iter().flatten() {
            // A receiver that is gone has given up by itself.
            let _ = sender.send(());
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
        let mut waiting = self.waiters.waiting.lock();
        if let Some(senders) = waiting.get_mut(&self.awaited) {
            senders.retain(|(id, _)| *id != self.id);
            if senders.is_empty() {
                waiting.remove(&self.awaited);
            }
        }
    }
}
