//! Plans: the kinds of faults and their targets, and the roles of the masters when a target is chosen.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::faults::{
    Fault, clock_jump, cut, delay, descriptors, failing_sync, full_disk, hand_over, kill, loss,
    membership, partial_network, pause, power_cut, restart, slow_disk,
};

/// One kind of fault at one kind of target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plan {
    /// SIGKILL, and a start with the same command.
    Kill(KillTarget),
    /// SIGSTOP, and SIGCONT.
    Pause(PauseTarget),
    /// Messages between masters are dropped or held back.
    Cut(CutShape),
    /// Messages between one master and the others arrive late.
    Delay(Role),
    /// Packets between one master and the others are lost at random.
    Loss(Role),
    /// Between the masters some things pass and others do not.
    PartialNetwork(PartialShape),
    /// One master may open no more descriptors.
    Descriptors(Role),
    /// Every sync of one master's disk takes long.
    SlowDisk(Role),
    /// Every sync of the disks of a majority takes very long.
    SlowMajority,
    /// The disk of one master is full.
    FullDisk(Role),
    /// A sync of one master's disk fails.
    FailingSync(Role),
    /// One master's wall clock is wrong.
    ClockJump(Role),
    /// The power of one master's disk is cut, so that unsynced data is lost.
    PowerCut(Role),
    /// SIGTERM, and a start with the same command.
    Restart(Role),
    /// A fourth master joins and is removed again.
    Membership,
    /// The leader transfers leadership to another master.
    HandOver,
}

/// Processes to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KillTarget {
    Leader,
    Follower,
    TwoMasters,
    AllMasters,
    Workers,
    Everything,
}

/// Process to pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PauseTarget {
    Leader,
    Follower,
    Worker,
}

/// Shape of a cut in the network between the masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CutShape {
    /// The leader is cut off from both other masters.
    LeaderAlone,
    /// The leader and one follower are cut off from the other follower.
    LeaderWithOne,
    /// Messages from the leader are dropped. Messages to it arrive.
    OneWay,
    /// Requests of the leader arrive, and their answers are dropped.
    ResponsesOnly,
    /// The leader is cut off from both other masters and reconnected several times a second.
    Flapping,
}

/// Kind of a network that passes only a part of the messages between masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartialShape {
    /// Large messages of the leader do not arrive.
    LargeFromLeader,
    /// No large message arrives.
    LargeEverywhere,
    /// New connections are refused, old ones live.
    NewRefused,
    /// New connections hang, old ones live.
    NewHang,
    /// Old connections pass nothing any more, and nobody is notified; new ones work.
    OldHeld,
}

/// Role of the master that is the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Leader,
    Follower,
}

/// The roles of the masters at the time when a fault is chosen.
#[derive(Debug, Clone)]
pub struct Roles {
    /// The leader.
    pub leader: u64,
    /// The followers, in random order.
    pub followers: Vec<u64>,
}

impl Roles {
    /// Returns the master in this role.
    pub fn master(&self, role: Role) -> u64 {
        match role {
            Role::Leader => self.leader,
            Role::Follower => self.followers[0],
        }
    }

    /// Returns the ids of all masters.
    pub fn all(&self) -> Vec<u64> {
        let mut all = self.followers.clone();
        all.push(self.leader);
        all.sort_unstable();
        all
    }
}

/// Resources that a fault claims while it lasts. Two faults with the same claim are not injected together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// A master, with its process, disk and clock.
    Master(u64),
    /// The processes of the workers.
    Workers,
    /// The network between the masters.
    Network,
    /// Membership and leadership.
    Membership,
}

impl Plan {
    /// All plans.
    pub const ALL: [Plan; 39] = [
        Plan::Kill(KillTarget::Leader),
        Plan::Kill(KillTarget::Follower),
        Plan::Kill(KillTarget::TwoMasters),
        Plan::Kill(KillTarget::AllMasters),
        Plan::Kill(KillTarget::Workers),
        Plan::Kill(KillTarget::Everything),
        Plan::Pause(PauseTarget::Leader),
        Plan::Pause(PauseTarget::Follower),
        Plan::Pause(PauseTarget::Worker),
        Plan::Cut(CutShape::LeaderAlone),
        Plan::Cut(CutShape::LeaderWithOne),
        Plan::Cut(CutShape::OneWay),
        Plan::Cut(CutShape::ResponsesOnly),
        Plan::Cut(CutShape::Flapping),
        Plan::Delay(Role::Leader),
        Plan::Delay(Role::Follower),
        Plan::Loss(Role::Leader),
        Plan::Loss(Role::Follower),
        Plan::PartialNetwork(PartialShape::LargeFromLeader),
        Plan::PartialNetwork(PartialShape::LargeEverywhere),
        Plan::PartialNetwork(PartialShape::NewRefused),
        Plan::PartialNetwork(PartialShape::NewHang),
        Plan::PartialNetwork(PartialShape::OldHeld),
        Plan::Descriptors(Role::Leader),
        Plan::Descriptors(Role::Follower),
        Plan::SlowDisk(Role::Leader),
        Plan::SlowDisk(Role::Follower),
        Plan::SlowMajority,
        Plan::FullDisk(Role::Leader),
        Plan::FullDisk(Role::Follower),
        Plan::FailingSync(Role::Leader),
        Plan::FailingSync(Role::Follower),
        Plan::ClockJump(Role::Leader),
        Plan::ClockJump(Role::Follower),
        Plan::PowerCut(Role::Leader),
        Plan::PowerCut(Role::Follower),
        Plan::Restart(Role::Leader),
        Plan::Restart(Role::Follower),
        Plan::Membership,
    ];

    /// Returns the kind of the fault.
    pub fn kind(self) -> &'static str {
        match self {
            Plan::Kill(_) => "kill",
            Plan::Pause(_) => "pause",
            Plan::Cut(_) => "cut",
            Plan::Delay(_) => "delay",
            Plan::Loss(_) => "loss",
            Plan::PartialNetwork(PartialShape::LargeFromLeader | PartialShape::LargeEverywhere) => {
                "large-messages"
            }
            Plan::PartialNetwork(PartialShape::NewRefused | PartialShape::NewHang) => {
                "new-connections"
            }
            Plan::PartialNetwork(PartialShape::OldHeld) => "old-connections",
            Plan::Descriptors(_) => "descriptors",
            Plan::SlowDisk(_) | Plan::SlowMajority => "slow-disk",
            Plan::FullDisk(_) => "full-disk",
            Plan::FailingSync(_) => "failing-fsync",
            Plan::ClockJump(_) => "clock-jump",
            Plan::PowerCut(_) => "power-cut",
            Plan::Restart(_) => "restart",
            Plan::Membership => "membership",
            Plan::HandOver => "hand-over",
        }
    }

    /// Returns the target of the fault.
    pub fn target(self) -> &'static str {
        match self {
            Plan::Kill(KillTarget::Leader)
            | Plan::Pause(PauseTarget::Leader)
            | Plan::HandOver
            | Plan::Delay(Role::Leader)
            | Plan::Loss(Role::Leader)
            | Plan::PartialNetwork(PartialShape::LargeFromLeader)
            | Plan::Descriptors(Role::Leader)
            | Plan::SlowDisk(Role::Leader)
            | Plan::FullDisk(Role::Leader)
            | Plan::FailingSync(Role::Leader)
            | Plan::ClockJump(Role::Leader)
            | Plan::PowerCut(Role::Leader)
            | Plan::Restart(Role::Leader) => "leader",
            Plan::Kill(KillTarget::Follower)
            | Plan::Pause(PauseTarget::Follower)
            | Plan::Delay(Role::Follower)
            | Plan::Loss(Role::Follower)
            | Plan::Descriptors(Role::Follower)
            | Plan::SlowDisk(Role::Follower)
            | Plan::FullDisk(Role::Follower)
            | Plan::FailingSync(Role::Follower)
            | Plan::ClockJump(Role::Follower)
            | Plan::PowerCut(Role::Follower)
            | Plan::Restart(Role::Follower) => "follower",
            Plan::Kill(KillTarget::TwoMasters) => "two-masters",
            Plan::Kill(KillTarget::AllMasters) => "all-masters",
            Plan::Kill(KillTarget::Workers) => "workers",
            Plan::Kill(KillTarget::Everything) => "everything",
            Plan::Pause(PauseTarget::Worker) => "worker",
            Plan::Cut(CutShape::LeaderAlone) => "leader-alone",
            Plan::Cut(CutShape::LeaderWithOne) => "leader-with-one",
            Plan::Cut(CutShape::OneWay) => "one-way",
            Plan::Cut(CutShape::ResponsesOnly) => "responses-only",
            Plan::Cut(CutShape::Flapping) => "flapping",
            Plan::PartialNetwork(PartialShape::LargeEverywhere | PartialShape::OldHeld) => {
                "everywhere"
            }
            Plan::PartialNetwork(PartialShape::NewRefused) => "refused",
            Plan::PartialNetwork(PartialShape::NewHang) => "hang",
            Plan::SlowMajority => "majority",
            Plan::Membership => "fourth-master",
        }
    }

    /// Whether the masters stay up and reach each other in part, so that they have to say what is wrong themselves.
    pub fn is_partial(self) -> bool {
        match self {
            Plan::PartialNetwork(_) | Plan::Descriptors(_) | Plan::SlowMajority => true,
            Plan::Kill(_)
            | Plan::Pause(_)
            | Plan::Cut(_)
            | Plan::Delay(_)
            | Plan::Loss(_)
            | Plan::SlowDisk(_)
            | Plan::FullDisk(_)
            | Plan::FailingSync(_)
            | Plan::ClockJump(_)
            | Plan::PowerCut(_)
            | Plan::Restart(_)
            | Plan::Membership
            | Plan::HandOver => false,
        }
    }

    /// Returns the claims of the fault.
    pub fn claims(self, roles: &Roles) -> BTreeSet<Claim> {
        let masters = |ids: &[u64]| ids.iter().map(|id| Claim::Master(*id)).collect();
        match self {
            Plan::Kill(KillTarget::Leader) | Plan::Pause(PauseTarget::Leader) => {
                masters(&[roles.leader])
            }
            Plan::Kill(KillTarget::Follower) | Plan::Pause(PauseTarget::Follower) => {
                masters(&roles.followers[..1])
            }
            // Two of the three masters are chosen only at the injection. A cut without running masters would have no
            // evidence.
            Plan::Kill(KillTarget::TwoMasters | KillTarget::AllMasters) => {
                let mut all: BTreeSet<Claim> = masters(&roles.all());
                all.insert(Claim::Network);
                all
            }
            Plan::Kill(KillTarget::Workers) | Plan::Pause(PauseTarget::Worker) => {
                BTreeSet::from([Claim::Workers])
            }
            Plan::Kill(KillTarget::Everything) => {
                let mut all: BTreeSet<Claim> = masters(&roles.all());
                all.extend([Claim::Workers, Claim::Network]);
                all
            }
            // A dead leader sends nothing that could be held back.
            Plan::Cut(CutShape::OneWay | CutShape::ResponsesOnly) => {
                BTreeSet::from([Claim::Network, Claim::Master(roles.leader)])
            }
            Plan::Cut(CutShape::LeaderAlone | CutShape::LeaderWithOne | CutShape::Flapping)
            | Plan::Delay(_)
            | Plan::Loss(_) => BTreeSet::from([Claim::Network]),
            // The evidence is a message of the leader, and a sync of each master.
            Plan::PartialNetwork(_) | Plan::SlowMajority => {
                let mut all: BTreeSet<Claim> = masters(&roles.all());
                all.insert(Claim::Network);
                all
            }
            Plan::Descriptors(role)
            | Plan::SlowDisk(role)
            | Plan::FullDisk(role)
            | Plan::FailingSync(role)
            | Plan::ClockJump(role)
            | Plan::PowerCut(role)
            | Plan::Restart(role) => masters(&[roles.master(role)]),
            // These faults need a stable leader, and a majority that agrees with it.
            Plan::Membership | Plan::HandOver => {
                let mut all: BTreeSet<Claim> = masters(&roles.all());
                all.extend([Claim::Membership, Claim::Network]);
                all
            }
        }
    }

    /// The fault, ready to be injected.
    pub fn make(self, roles: &Roles) -> Box<dyn Fault> {
        match self {
            Plan::Kill(victims) => Box::new(kill::Kill::new(victims, roles)),
            Plan::Pause(sleeper) => Box::new(pause::Pause::new(sleeper, roles)),
            Plan::Cut(shape) => Box::new(cut::Cut::new(shape, roles)),
            Plan::Delay(role) => Box::new(delay::Delay::new(roles.master(role), roles)),
            Plan::Loss(role) => Box::new(loss::Loss::new(roles.master(role), roles)),
            Plan::PartialNetwork(shape) => {
                Box::new(partial_network::PartialNetwork::new(shape, roles))
            }
            Plan::Descriptors(role) => Box::new(descriptors::Descriptors::new(roles.master(role))),
            Plan::SlowDisk(role) => Box::new(slow_disk::SlowDisk::new(roles.master(role))),
            Plan::SlowMajority => {
                let majority = [roles.leader, roles.followers[0]];
                // With a good disk on the leader in every other case, by who follows it first.
                let majority = match roles.followers[0] < roles.followers[1] {
                    true => majority,
                    false => [roles.followers[0], roles.followers[1]],
                };
                Box::new(slow_disk::SlowDisk::of_majority(&majority))
            }
            Plan::FullDisk(role) => Box::new(full_disk::FullDisk::new(roles.master(role))),
            Plan::FailingSync(role) => Box::new(failing_sync::FailingSync::new(roles.master(role))),
            Plan::ClockJump(role) => Box::new(clock_jump::ClockJump::new(roles.master(role))),
            Plan::PowerCut(role) => Box::new(power_cut::PowerCut::new(roles.master(role))),
            Plan::Restart(role) => Box::new(restart::Restart::new(roles.master(role))),
            Plan::Membership => Box::new(membership::FourthMaster::default()),
            Plan::HandOver => Box::new(hand_over::HandOver::new(roles)),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.target())
    }
}

impl FromStr for Plan {
    type Err = String;

    /// Display form, such as `kill:leader`.
    fn from_str(text: &str) -> Result<Self, String> {
        let all = Self::ALL.into_iter().chain([Plan::HandOver]);
        all.clone()
            .find(|plan| plan.to_string() == text)
            .ok_or_else(|| {
                let known: Vec<String> = all.map(|plan| plan.to_string()).collect();
                format!("it is none of {}", known.join(", "))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_has_a_name_of_its_own_that_is_read_back() {
        let names: BTreeSet<String> = Plan::ALL.iter().map(Plan::to_string).collect();
        assert_eq!(names.len(), Plan::ALL.len());
        for plan in Plan::ALL {
            assert_eq!(plan.to_string().parse(), Ok(plan));
        }
        assert!("kill:nobody".parse::<Plan>().is_err());
    }
}
