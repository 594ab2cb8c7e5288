//! Injector of faults: one fault after another, some overlapping, all drawn from the seed. It never injects more at
//! once than the product is guaranteed to survive: a disk is lost or damaged only while all others are intact.

pub mod versions;

use std::collections::BTreeSet;

use anyhow::Context;
use serde_json::json;
use strum::VariantArray;

use crate::context::{Client, RequestSpec, SimContext};
use crate::disks;
use crate::network::Links;
use crate::process::{Ns, ProcessInput};
use crate::random::Random;
use crate::world::{Host, MS, SECOND};

#[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray)]
enum Fault {
    KillLeader,
    KillOne,
    KillAll,
    CutPower,
    CutPowerOfAll,
    CutPowerAtStep,
    Pause,
    Isolate,
    CutOneWay,
    CutAnswers,
    CutLarge,
    SlowLinks,
    LossyLinks,
    SlowDisk,
    FailedSync,
    FullDisk,
    JumpClock,
    TransferLeader,
    Snapshot,
    LoseDisk,
    DamageDisk,
    GrowAndShrink,
    UpgradeOne,
    DowngradeOne,
    RaiseLevel,
}

/// Injects faults until the time `until`.
pub async fn make(context: SimContext, host: Host, until: Ns) -> anyhow::Result<()> {
    let mut client = context.client(host);
    // Each run uses a few kinds of faults. Over many runs all kinds are combined.
    let count = client.random.between(2, 7);
    let chosen: Vec<Fault> = (0..count)
        .map(|_| *client.random.one_of(Fault::VARIANTS))
        .collect();
    let mut next_host = 4;
    while context.sim.now() < until {
        let calm = client.random.between(100 * MS, 2 * SECOND);
        context.sim.sleep(calm).await;
        let fault = *client.random.one_of(&chosen);
        let now = context.sim.now();
        context
            .sim
            .world()
            .trace
            .line(now, || format!("FAULT {fault:?}"));
        one(&mut client, fault, &mut next_host).await?;
    }
    Ok(())
}

/// Returns the masters that run now.
fn running(context: &SimContext) -> Vec<Host> {
    let members = context.masters.borrow().clone();
    let world = context.sim.world();
    let runs = |host: &Host| {
        world
            .machines
            .get(host)
            .is_some_and(|machine| machine.runs())
    };
    members.into_iter().filter(runs).collect()
}

fn some_running(client: &mut Client) -> Option<Host> {
    let running = running(&client.context);
    (!running.is_empty()).then(|| *client.random.one_of(&running))
}

/// Returns the leader, as far as a client can find it.
pub async fn leader(client: &mut Client) -> Option<Host> {
    for host in running(&client.context) {
        if let Some(reply) = client
            .read_from(host, "/v1/cluster?consistency=stale")
            .await
            && let Some(leader) = reply["leader"].as_u64()
        {
            return Some(leader as Host);
        }
    }
    None
}

async fn one(client: &mut Client, fault: Fault, next_host: &mut Host) -> anyhow::Result<()> {
    match fault {
        Fault::KillLeader => {
            let Some(host) = leader(client).await else {
                return Ok(());
            };
            kill(client, &[host], "kill of the leader").await
        }
        Fault::KillOne => match some_running(client) {
            Some(host) => kill(client, &[host], "kill of one").await,
            None => Ok(()),
        },
        Fault::KillAll => {
            let all = running(&client.context);
            kill(client, &all, "kill of all").await
        }
        Fault::CutPower => match some_running(client) {
            Some(host) => cut_power(client, &[host], "power cut of one").await,
            None => Ok(()),
        },
        Fault::CutPowerOfAll => {
            let all = running(&client.context);
            cut_power(client, &all, "power cut of all").await
        }
        Fault::CutPowerAtStep => cut_power_at_step(client).await,
        Fault::Pause => pause(client).await,
        Fault::Isolate | Fault::CutOneWay | Fault::CutAnswers | Fault::CutLarge => {
            cut_links(client, fault).await
        }
        Fault::SlowLinks | Fault::LossyLinks => worse_links(client, fault).await,
        Fault::SlowDisk => slow_disk(client).await,
        Fault::FailedSync => failed_sync(client).await,
        Fault::FullDisk => full_disk(client).await,
        Fault::JumpClock => {
            jump_clock(client);
            Ok(())
        }
        Fault::TransferLeader => {
            ask_cluster(
                client,
                "/v1/cluster/transfer-leader",
                "transfer of leadership",
            )
            .await;
            Ok(())
        }
        Fault::Snapshot => {
            ask_cluster(client, "/v1/cluster/snapshot", "snapshot forced").await;
            Ok(())
        }
        Fault::UpgradeOne => versions::upgrade_one(client).await,
        Fault::DowngradeOne => versions::downgrade_one(client).await,
        Fault::RaiseLevel => {
            versions::raise_level(client).await;
            Ok(())
        }
        Fault::LoseDisk | Fault::DamageDisk | Fault::GrowAndShrink => {
            // Only while all other disks are intact. The replaced disk counts as intact afterwards.
            match fault {
                Fault::LoseDisk => disks::lose(client, next_host).await,
                Fault::DamageDisk => disks::damage(client, next_host).await,
                _ => disks::grow_and_shrink(client, next_host).await,
            }
        }
    }
}

fn note(client: &Client, kind: &'static str) {
    client.context.sim.world().stats.fault(kind);
}

async fn down_time(client: &mut Client) {
    let span = if client.random.percent(50) {
        client.random.between(10 * MS, 300 * MS)
    } else {
        client.random.between(300 * MS, 3 * SECOND)
    };
    client.context.sim.sleep(span).await;
}

pub fn boot(client: &Client, host: Host) -> anyhow::Result<()> {
    client.context.sim.world().boot(host)
}

async fn kill(client: &mut Client, hosts: &[Host], kind: &'static str) -> anyhow::Result<()> {
    for host in hosts {
        if client.context.sim.world().kill(*host)? {
            note(client, kind);
        }
    }
    for host in hosts {
        down_time(client).await;
        boot(client, *host)?;
    }
    Ok(())
}

async fn cut_power(client: &mut Client, hosts: &[Host], kind: &'static str) -> anyhow::Result<()> {
    for host in hosts {
        if client.context.sim.world().cut_power(*host)? {
            note(client, kind);
        }
    }
    for host in hosts {
        down_time(client).await;
        boot(client, *host)?;
    }
    Ok(())
}

/// Cuts the power in the middle of a disk operation.
async fn cut_power_at_step(client: &mut Client) -> anyhow::Result<()> {
    let Some(host) = some_running(client) else {
        return Ok(());
    };
    let steps = client.random.between(1, 40);
    let loses_unsynced = client.random.percent(80);
    client.context.sim.world().send_input(
        host,
        ProcessInput::EndAfter {
            steps,
            loses_unsynced,
        },
    );
    let until = client.context.sim.now() + 3 * SECOND;
    while client.context.sim.now() < until {
        client.context.sim.sleep(50 * MS).await;
        if !running(&client.context).contains(&host) {
            note(client, "power cut between two steps of the disk");
            break;
        }
    }
    client.context.sim.world().send_input(
        host,
        ProcessInput::EndAfter {
            steps: 0,
            loses_unsynced,
        },
    );
    down_time(client).await;
    boot(client, host)
}

/// Pauses a process by SIGSTOP, and resumes it by SIGCONT.
async fn pause(client: &mut Client) -> anyhow::Result<()> {
    let Some(host) = some_running(client) else {
        return Ok(());
    };
    let set = |paused: bool| {
        let mut world = client.context.sim.world();
        if let Some(machine) = world.machines.get_mut(&host) {
            machine.paused = paused;
        }
    };
    set(true);
    note(client, "process stopped and woken");
    let span = client.random.between(100 * MS, 5 * SECOND);
    client.context.sim.sleep(span).await;
    let mut world = client.context.sim.world();
    let now = world.now;
    if let Some(machine) = world.machines.get_mut(&host) {
        machine.paused = false;
        machine.wake_at = machine.wake_at.max(now);
    }
    Ok(())
}

async fn cut_links(client: &mut Client, fault: Fault) -> anyhow::Result<()> {
    let members = client.context.masters.borrow().clone();
    let one = match leader(client).await {
        Some(leader) if client.random.percent(60) => leader,
        _ => *client.random.one_of(&members),
    };
    let others: Vec<Host> = members.into_iter().filter(|host| *host != one).collect();
    // Mostly from all other masters, sometimes from one.
    let sources: Vec<Host> = if client.random.percent(70) || others.is_empty() {
        others
    } else {
        vec![*client.random.one_of(&others)]
    };
    let outwards = client.random.percent(50);
    let flaps = if client.random.percent(20) { 4 } else { 1 };
    note(
        client,
        match fault {
            Fault::CutOneWay => "network cut one way",
            Fault::CutAnswers => "network cut for answers only",
            Fault::CutLarge => "network cut for large messages only",
            _ => "network cut both ways",
        },
    );
    for _ in 0..flaps {
        {
            let mut world = client.context.sim.world();
            for other in &sources {
                let pairs = [(one, *other), (*other, one)];
                match fault {
                    Fault::CutOneWay => {
                        world.links.cut.insert(pairs[usize::from(outwards)]);
                    }
                    Fault::CutAnswers => world
                        .links
                        .answers_cut
                        .extend([pairs[usize::from(outwards)]]),
                    Fault::CutLarge => world.links.large_cut.extend([pairs[0]]),
                    _ => world.links.cut.extend(pairs),
                }
            }
        }
        let span = client.random.between(50 * MS, 5 * SECOND / flaps);
        client.context.sim.sleep(span).await;
        mend_cuts(client);
        if flaps > 1 {
            let span = client.random.between(50 * MS, SECOND);
            client.context.sim.sleep(span).await;
        }
    }
    Ok(())
}

fn mend_cuts(client: &Client) {
    let mut world = client.context.sim.world();
    world.links.cut = BTreeSet::new();
    world.links.answers_cut = BTreeSet::new();
    world.links.large_cut = BTreeSet::new();
    world.retransmit();
}

async fn worse_links(client: &mut Client, fault: Fault) -> anyhow::Result<()> {
    let members = client.context.masters.borrow().clone();
    let (one, other) = (
        *client.random.one_of(&members),
        *client.random.one_of(&members),
    );
    let (most, loss) = (
        client.random.between(MS, 60 * MS),
        client.random.between(1, 15),
    );
    note(
        client,
        if fault == Fault::SlowLinks {
            "slow and uneven links"
        } else {
            "lossy links"
        },
    );
    {
        let mut world = client.context.sim.world();
        if fault == Fault::SlowLinks {
            world.links.latency_ns.1 = most;
            world.links.slower.insert((one, other), most);
        } else {
            world.links.loss_percent = loss;
        }
    }
    let span = client.random.between(500 * MS, 5 * SECOND);
    client.context.sim.sleep(span).await;
    let mut world = client.context.sim.world();
    let links = Links::default();
    world.links.latency_ns = links.latency_ns;
    world.links.slower = links.slower;
    world.links.loss_percent = links.loss_percent;
    Ok(())
}

fn set_sync_time(client: &Client, host: Host, min_ns: Ns, max_ns: Ns) {
    let mut world = client.context.sim.world();
    if let Some(machine) = world.machines.get_mut(&host) {
        machine.sync_time = (min_ns, max_ns);
    }
    world.send_input(host, ProcessInput::SyncTime { min_ns, max_ns });
}

async fn slow_disk(client: &mut Client) -> anyhow::Result<()> {
    let Some(host) = some_running(client) else {
        return Ok(());
    };
    let most = client.random.between(5 * MS, 200 * MS);
    set_sync_time(client, host, most / 4, most);
    note(client, "slow disk");
    let span = client.random.between(500 * MS, 5 * SECOND);
    client.context.sim.sleep(span).await;
    set_sync_time(client, host, 60_000, MS);
    Ok(())
}

/// A sync fails. The process must exit, and starts again with what is on the disk.
async fn failed_sync(client: &mut Client) -> anyhow::Result<()> {
    let Some(host) = some_running(client) else {
        return Ok(());
    };
    let may_end = |why: Option<&'static str>| {
        if let Some(machine) = client.context.sim.world().machines.get_mut(&host) {
            machine.may_end = why;
        }
    };
    may_end(Some("a sync failed"));
    client
        .context
        .sim
        .world()
        .send_input(host, ProcessInput::FailSyncs { count: 1 });
    let until = client.context.sim.now() + 5 * SECOND;
    while client.context.sim.now() < until && running(&client.context).contains(&host) {
        client.context.sim.sleep(50 * MS).await;
    }
    if !running(&client.context).contains(&host) {
        client.context.sim.world().stats.fault("sync failed");
    } else {
        client
            .context
            .sim
            .world()
            .send_input(host, ProcessInput::FailSyncs { count: 0 });
    }
    may_end(None);
    down_time(client).await;
    boot(client, host)
}

async fn full_disk(client: &mut Client) -> anyhow::Result<()> {
    let Some(host) = some_running(client) else {
        return Ok(());
    };
    let left = client.random.between(0, 4 << 20);
    client
        .context
        .sim
        .world()
        .send_input(host, ProcessInput::Space { free_bytes: left });
    note(client, "disk nearly full");
    let span = client.random.between(500 * MS, 5 * SECOND);
    client.context.sim.sleep(span).await;
    client.context.sim.world().send_input(
        host,
        ProcessInput::Space {
            free_bytes: 5 << 30,
        },
    );
    Ok(())
}

/// Only one master's clock is ever wrong: the cluster uses the median, and guarantees nothing when most clocks are
/// wrong.
fn jump_clock(client: &mut Client) {
    let wrong = {
        let world = client.context.sim.world();
        let mut machines = world.machines.iter();
        machines.find_map(|(host, machine)| (machine.clock_offset_ns != 0).then_some(*host))
    };
    let Some(host) = some_running(client) else {
        return;
    };
    if wrong.is_some_and(|wrong| wrong != host) {
        return;
    }
    let sizes = [SECOND, 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND];
    let size = client.random.one_of(&sizes).cast_signed();
    let offset_ns = if client.random.percent(50) {
        size
    } else {
        -size
    };
    note(client, "wall clock jumped");
    let mut world = client.context.sim.world();
    if let Some(machine) = world.machines.get_mut(&host) {
        machine.clock_offset_ns = offset_ns;
    }
    world.send_input(host, ProcessInput::Clock { offset_ns });
}

async fn ask_cluster(client: &mut Client, path: &str, kind: &'static str) {
    client.another_master();
    let body = json!({});
    let body = path.ends_with("leader").then_some(&body);
    let spec = RequestSpec {
        method: "POST",
        path,
        request_id: None,
        body,
        timeout: 5 * SECOND,
        tries: 3,
        ops: Vec::new(),
    };
    if let crate::context::RequestOutcome::Done(_) = client.send(spec).await {
        note(client, kind);
    }
}

/// Ends every fault that is in effect.
pub fn end_all(context: &SimContext) -> anyhow::Result<()> {
    let hosts: Vec<Host> = context.masters.borrow().clone();
    let mut world = context.sim.world();
    world.links = Links::default();
    world.retransmit();
    let now = world.now;
    for host in &hosts {
        let old = world.machines.get(host).is_some_and(|one| one.is_old());
        if old {
            world.kill(*host)?;
        }
        let machine = world
            .machines
            .get_mut(host)
            .context("a member without a machine")?;
        machine.paused = false;
        machine.wake_at = machine.wake_at.max(now);
        machine.clock_offset_ns = 0;
        machine.sync_time = (60_000, MS);
        machine.may_end = None;
        machine.set_old(false);
        world.send_input(*host, ProcessInput::Clock { offset_ns: 0 });
        world.send_input(
            *host,
            ProcessInput::SyncTime {
                min_ns: 60_000,
                max_ns: MS,
            },
        );
        world.send_input(
            *host,
            ProcessInput::Space {
                free_bytes: 5 << 30,
            },
        );
        world.send_input(*host, ProcessInput::FailSyncs { count: 0 });
        world.send_input(
            *host,
            ProcessInput::EndAfter {
                steps: 0,
                loses_unsynced: false,
            },
        );
        world.boot(*host)?;
    }
    Ok(())
}

/// Returns random values for the options of a run's masters.
pub fn server_args(random: &mut Random) -> Vec<String> {
    let entries = *random.one_of(&["8", "20", "60", "200", "20000"]);
    let check = *random.one_of(&["8", "32", "128"]);
    [
        "--lease-ms",
        "2000",
        "--snapshot-entries",
        entries,
        "--check-every",
        check,
        "--events-kept",
        "1000",
    ]
    .map(str::to_string)
    .to_vec()
}
