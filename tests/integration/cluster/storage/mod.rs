//! Storage: durability, disks that fail or are full, crash points, backups, formats of other versions, equal replicas.

mod backup;
mod crash_points;
mod divergence_check;
mod durability;
mod full_disks;
mod hanging_disk;
mod versions;
