//! Failover: a leader that is killed, stopped or paused, and all masters at once.

mod full_restart;
mod leader_loss;
mod leadership_log;
mod lost_majority;
mod paused_leader;
mod restored_disk;
mod worker_silence;
