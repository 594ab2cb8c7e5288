//! Waiter registry: requests that wait for a job, a task or any of many tasks to finish, or for an update of a task.
//!
//! Apply wakes them one by one, on whichever node they wait.
//!
//! # Invariants
//!
//! - The number of waiters on a node is bounded.
//! - A wait has no deadline here. Its caller bounds it in time, and reads the table when it is woken.
//! - A caller registers first, then reads the table, and waits last, so that no change is missed in between.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use triarch_table::{JobId, TaskId};

/// Maximum waiters on one node. A request that waits for any of many tasks counts once for each task.
pub const WAITERS_MAX: usize = 100_000;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum WaitKey {
    JobEnd(JobId),
    TaskEnd(TaskId),
    TaskUpdate(TaskId),
}

/// Handle that wakes a waiting request.
enum WakeHandle {
    One(oneshot::Sender<()>),
    /// For a request that waits for several things; the first of them wakes it.
    Any(Arc<Notify>),
}

impl WakeHandle {
    fn wake(self) {
        match self {
            // If the receiver is gone, the request has given up by itself.
            WakeHandle::One(sender) => drop(sender.send(())),
            WakeHandle::Any(notify) => notify.notify_one(),
        }
    }
}

/// Id of a waiting request, with its wake handle.
type WaiterEntry = (u64, WakeHandle);

/// Waiting requests of this node.
#[derive(Default)]
pub struct Waiters {
    waiting: Mutex<HashMap<WaitKey, Vec<WaiterEntry>>>,
    count: Arc<AtomicUsize>,
    /// Number of waiters for updates. It is mostly 0, and then an update costs nothing.
    update_count: AtomicUsize,
    next_id: std::sync::atomic::AtomicU64,
}

/// Error: the node's bound of waiters is reached.
#[derive(Debug)]
pub struct TooManyWaiters;

impl Waiters {
    /// Registers a waiter for the end of a job.
    pub fn job(&self, job: JobId) -> Result<Wait<'_>, TooManyWaiters> {
        self.register(WaitKey::JobEnd(job))
    }

    /// Registers a waiter for the end of a task.
    pub fn task(&self, task: TaskId) -> Result<Wait<'_>, TooManyWaiters> {
        self.register(WaitKey::TaskEnd(task))
    }

    /// Registers a waiter for the end of any of these tasks.
    pub fn any_task(&self, tasks: Vec<TaskId>) -> Result<WaitAny<'_>, TooManyWaiters> {
        if self.count.fetch_add(tasks.len(), Ordering::Relaxed) + tasks.len() > WAITERS_MAX {
            self.count.fetch_sub(tasks.len(), Ordering::Relaxed);
            return Err(TooManyWaiters);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let notify = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock();
        for &task in &tasks {
            let handle = WakeHandle::Any(Arc::clone(&notify));
            waiting
                .entry(WaitKey::TaskEnd(task))
                .or_default()
                .push((id, handle));
        }
        drop(waiting);
        Ok(WaitAny {
            waiters: self,
            tasks,
            id,
            notify,
        })
    }

    /// Registers a waiter for any update of a task: a change of its state, or output.
    pub fn task_update(&self, task: TaskId) -> Result<Wait<'_>, TooManyWaiters> {
        self.register(WaitKey::TaskUpdate(task))
    }

    /// Returns the number of waiters.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Wakes the waiters for updates of the task.
    pub fn task_updated(&self, task: TaskId) {
        // A waiter registers before it reads the table, so it is counted before the table changes under its lock.
        if self.update_count.load(Ordering::Relaxed) > 0 {
            self.wake(WaitKey::TaskUpdate(task));
        }
    }

    /// Wakes the waiters for the end of the job.
    pub fn job_finished(&self, job: JobId) {
        self.wake(WaitKey::JobEnd(job));
    }

    /// Wakes the waiters for the end of the task.
    pub fn task_finished(&self, task: TaskId) {
        self.wake(WaitKey::TaskEnd(task));
    }

    /// Wakes all waiters, because the whole table was replaced.
    pub fn wake_all(&self) {
        for (_, entries) in self.waiting.lock().drain() {
            for (_, handle) in entries {
                handle.wake();
            }
        }
    }

    fn register(&self, key: WaitKey) -> Result<Wait<'_>, TooManyWaiters> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= WAITERS_MAX {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return Err(TooManyWaiters);
        }
        if matches!(key, WaitKey::TaskUpdate(_)) {
            self.update_count.fetch_add(1, Ordering::Relaxed);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiting
            .lock()
            .entry(key)
            .or_default()
            .push((id, WakeHandle::One(sender)));
        Ok(Wait {
            waiters: self,
            key,
            id,
            receiver,
        })
    }

    fn wake(&self, key: WaitKey) {
        let entries = self.waiting.lock().remove(&key);
        for (_, handle) in entries.into_iter().flatten() {
            handle.wake();
        }
    }

    fn deregister(waiting: &mut HashMap<WaitKey, Vec<WaiterEntry>>, key: WaitKey, id: u64) {
        if let Some(entries) = waiting.get_mut(&key) {
            entries.retain(|(other, _)| *other != id);
            if entries.is_empty() {
                waiting.remove(&key);
            }
        }
    }
}

/// Registered waiter. Dropping it deregisters it.
pub struct Wait<'a> {
    waiters: &'a Waiters,
    key: WaitKey,
    id: u64,
    receiver: oneshot::Receiver<()>,
}

impl Wait<'_> {
    /// Waits until woken. The caller bounds the wait in time and reads the table afterwards.
    pub async fn woken(&mut self) {
        let _ = (&mut self.receiver).await;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.waiters.count.fetch_sub(1, Ordering::Relaxed);
        if matches!(self.key, WaitKey::TaskUpdate(_)) {
            self.waiters.update_count.fetch_sub(1, Ordering::Relaxed);
        }
        Waiters::deregister(&mut self.waiters.waiting.lock(), self.key, self.id);
    }
}

/// Registered waiter for any of many tasks. Dropping it deregisters it.
pub struct WaitAny<'a> {
    waiters: &'a Waiters,
    tasks: Vec<TaskId>,
    id: u64,
    notify: Arc<Notify>,
}

impl WaitAny<'_> {
    /// Waits until the first of the tasks has ended. The caller bounds the wait in time and reads the table afterwards.
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
            Waiters::deregister(&mut waiting, WaitKey::TaskEnd(task), self.id);
        }
    }
}
