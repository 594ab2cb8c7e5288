//! Roles of the processes of a development cluster.

use std::fmt;

/// Role of a process, and its number within the role, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Master(u16),
    Worker(u16),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Master(id) => write!(f, "master {id}"),
            Role::Worker(number) => write!(f, "worker {number}"),
        }
    }
}
