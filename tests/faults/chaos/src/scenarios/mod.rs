//! Scenarios: each puts a load on a cluster, injects its faults, and ends with a verdict.

pub mod backup_restore;
pub mod clock_jumps;
pub mod full_disk;
pub mod full_load;
pub mod grow_shrink;
pub mod hand_over;
pub mod hostile_clients;
pub mod kill_all;
pub mod kill_leader;
pub mod pause_leader;
pub mod power_cut;
pub mod random;
pub mod repeat;
pub mod replace_node;
pub mod rolling_restart;
pub mod schedule_ticks;
pub mod upgrade;
