//! Scheduling of tasks: queues and their limits, workers and their leases, retries, timers, schedules and dependencies.

mod after_jobs;
mod concurrency_keys;
mod conditions;
mod dead_letters;
mod exec_workers;
mod poison_tasks;
mod queue_limits;
mod result_acknowledgements;
mod retention;
mod retry_after;
mod schedules;
mod task_lifecycle;
mod timers;
mod worker_health;
mod workers;
mod workflows;
