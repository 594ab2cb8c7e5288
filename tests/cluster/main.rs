//! A cluster of real processes, and what users rely on whatever happens to it.
//!
//! One file per concern. Each test has a cluster of its own; nothing is timed, everything is waited for with a deadline.

mod agreement;
mod backup;
mod bad_input;
mod basics;
mod cancel;
mod clients;
mod concurrency_keys;
mod crash_points;
mod dead_letters;
mod disk;
mod ends;
mod events;
mod explain;
mod failover;
mod full_disks;
mod identity;
mod leadership_lines;
mod lists;
mod logs;
mod membership;
mod metrics;
mod openapi;
mod overload;
mod parts;
mod poison;
mod queue_limits;
mod redirects;
mod restart;
mod retention;
mod schedules;
mod stopped_leader;
mod tasks;
mod timers;
mod unique;
mod verdicts;
mod versions;
mod workers;
mod workers_health;
mod workflows;
