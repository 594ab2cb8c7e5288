//! Faults of disks: lost or damaged disks, and the replacement of masters.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::context::{Client, RequestOutcome, RequestSpec};
use crate::faults::boot;
use crate::machine::address;
use crate::world::{Host, MS, SECOND};

/// A master dies and loses its disk. Its id must not return on an empty disk, so another master replaces it.
pub async fn lose(client: &mut Client, next_host: &mut Host) -> anyhow::Result<()> {
    if !all_well(client).await {
        return Ok(());
    }
    let members = client.context.masters.borrow().clone();
    let host = *client.random.one_of(&members);
    let sim = client.context.sim.clone();
    sim.world().kill(host)?;
    let disk = disk_of(client, host);
    std::fs::remove_dir_all(&disk)?;
    std::fs::create_dir_all(&disk)?;
    sim.world().stats.fault("disk lost");
    let returns = client.random.percent(50);
    if returns {
        if let Some(machine) = sim.world().machines.get_mut(&host) {
            machine.may_end = Some("its disk is empty");
        }
        boot(client, host)?;
        let span = client.random.between(500 * MS, 3 * SECOND);
        sim.sleep(span).await;
        sim.world().kill(host)?;
    }
    replace(client, host, next_host).await
}

/// Damages a disk by flipped bits or torn sectors while its master is down. The master must detect the damage, or not
/// need the data.
pub async fn damage(client: &mut Client, next_host: &mut Host) -> anyhow::Result<()> {
    if !all_well(client).await {
        return Ok(());
    }
    let members = client.context.masters.borrow().clone();
    let host = *client.random.one_of(&members);
    let sim = client.context.sim.clone();
    sim.world().kill(host)?;
    let disk = disk_of(client, host);
    let mut files = Vec::new();
    collect(&disk, &mut files)?;
    files.sort();
    files.retain(|file| std::fs::metadata(file).is_ok_and(|meta| meta.len() > 0));
    if files.is_empty() {
        return boot(client, host);
    }
    let file = client.random.one_of(&files).clone();
    let mut bytes = std::fs::read(&file)?;
    // The damage hits bytes with content, because most of a file may be preallocated space.
    let written = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(1, |last| last + 1) as u64;
    let at = client.random.between(0, written) as usize;
    if client.random.percent(50) {
        bytes[at] ^= 1 << client.random.between(0, 8);
        sim.world().stats.fault("bit flipped on a disk");
    } else {
        let sector = at / 512 * 512;
        let end = (sector + 512).min(bytes.len());
        bytes[sector..end].fill(0);
        sim.world().stats.fault("sector lost on a disk");
    }
    std::fs::write(&file, bytes)?;
    let now = sim.now();
    sim.world()
        .trace
        .line(now, || format!("damaged {} at {at}", file.display()));
    if let Some(machine) = sim.world().machines.get_mut(&host) {
        machine.may_end = Some("its disk is damaged");
    }
    boot(client, host)?;
    let until = sim.now() + 10 * SECOND;
    while sim.now() < until
        && sim
            .world()
            .machines
            .get(&host)
            .is_some_and(|machine| machine.runs())
    {
        sim.sleep(100 * MS).await;
        if all_well(client).await {
            break;
        }
    }
    if sim
        .world()
        .machines
        .get(&host)
        .is_some_and(|machine| machine.runs())
    {
        sim.world()
            .stats
            .operation("damage that was not in the way");
    } else {
        sim.world().stats.operation("damage noticed");
        replace(client, host, next_host).await?;
    }
    // Damage without an effect so far may still have one later.
    Ok(())
}

/// Adds one master and removes one.
pub async fn grow_and_shrink(client: &mut Client, next_host: &mut Host) -> anyhow::Result<()> {
    if !all_well(client).await {
        return Ok(());
    }
    add(client, next_host).await?;
    client.context.sim.world().stats.fault("member added");
    let members = client.context.masters.borrow().clone();
    let host = *client.random.one_of(&members);
    if remove(client, host).await? {
        client.context.sim.world().stats.fault("member removed");
    }
    Ok(())
}

/// Replaces a master that is lost for good.
pub async fn replace(client: &mut Client, host: Host, next_host: &mut Host) -> anyhow::Result<()> {
    // Clients no longer know it, whatever the state of the cluster.
    client
        .context
        .masters
        .borrow_mut()
        .retain(|other| *other != host);
    add(client, next_host).await?;
    client.context.masters.borrow_mut().push(host);
    if remove(client, host).await? {
        client.context.sim.world().stats.fault("master replaced");
    }
    Ok(())
}

/// Adds a new master, and waits until it is a voter.
async fn add(client: &mut Client, next_host: &mut Host) -> anyhow::Result<()> {
    let host = *next_host;
    *next_host += 1;
    let outcome = client.context.masters.borrow().clone();
    let join: Vec<String> = outcome
        .iter()
        .map(|host| format!("http://{}", address(*host)))
        .collect();
    let sim = client.context.sim.clone();
    sim.world()
        .install(host, vec!["--join".into(), join.join(",")])?;
    boot(client, host)?;
    let body = json!({"id": host, "addr": address(host)});
    let until = sim.now() + 60 * SECOND;
    while sim.now() < until {
        let spec = RequestSpec {
            method: "POST",
            path: "/v1/cluster/nodes?wait_ms=1000",
            request_id: None,
            body: Some(&body),
            timeout: 4 * SECOND,
            tries: 1,
            ops: Vec::new(),
        };
        client.another_master();
        if let RequestOutcome::Done(response) = client.send(spec).await
            && response.status == 201
        {
            client.context.masters.borrow_mut().push(host);
            return Ok(());
        }
        sim.sleep(200 * MS).await;
    }
    sim.world().violated(
        "a new master comes in",
        format!("node {host} is no voter after 60 s"),
    );
    client.context.masters.borrow_mut().push(host);
    Ok(())
}

/// Removes a master, and then ends its process, as an operator would.
async fn remove(client: &mut Client, host: Host) -> anyhow::Result<bool> {
    let sim = client.context.sim.clone();
    if let Some(machine) = sim.world().machines.get_mut(&host) {
        machine.may_end = Some("it is no member any more");
    }
    client
        .context
        .masters
        .borrow_mut()
        .retain(|other| *other != host);
    let until = sim.now() + 60 * SECOND;
    let mut last = Value::Null;
    while sim.now() < until {
        client.another_master();
        let outcome = client
            .send(RequestSpec {
                method: "DELETE",
                path: &format!("/v1/cluster/nodes/{host}"),
                request_id: None,
                body: None,
                timeout: 4 * SECOND,
                tries: 1,
                ops: Vec::new(),
            })
            .await;
        match outcome {
            RequestOutcome::Done(_) => {
                sim.world().kill(host)?;
                return Ok(true);
            }
            RequestOutcome::Refused(response) => last = response.json(),
            RequestOutcome::Unknown => {}
        }
        sim.sleep(300 * MS).await;
    }
    sim.world().violated(
        "a master can be taken out",
        format!("node {host} is in after 60 s: {last}"),
    );
    Ok(false)
}

/// Returns whether every member answers, follows the same leader, and has all committed entries.
pub async fn all_well(client: &mut Client) -> bool {
    let members = client.context.masters.borrow().clone();
    let mut seen = Vec::new();
    for host in &members {
        let Some(reply) = client
            .read_from(*host, "/v1/cluster?consistency=stale")
            .await
        else {
            return false;
        };
        let voters = reply["nodes"].as_array().map_or(0, |nodes| {
            nodes
                .iter()
                .filter(|node| node["role"] == json!("voter"))
                .count()
        });
        let all_there = reply["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.len() == members.len());
        if reply["leader"].is_null() || voters != members.len() || !all_there {
            return false;
        }
        seen.push((reply["term"].as_u64(), reply["leader"].as_u64()));
        if client.read_from(*host, "/readyz").await.is_none() {
            return false;
        }
    }
    seen.windows(2).all(|two| two[0] == two[1])
}

fn disk_of(client: &Client, host: Host) -> PathBuf {
    let world = client.context.sim.world();
    world
        .machines
        .get(&host)
        .map(|machine| machine.disk.clone())
        .unwrap_or_default()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
