//! Masters of two versions: some understand level 1 only, are upgraded, go back for a while, and the level rises.
//!
//! The version before is the same program with `--announce-level 1`. Before the level rises, both versions work together.
//! After it, the older one must end by itself at its start, and take no harm.

use serde_json::json;

use super::{boot, down_time, note, running};
use crate::context::{Client, RequestOutcome, RequestSpec};
use crate::world::{Host, SECOND};

/// Old and running masters, or new ones.
fn some_of(client: &mut Client, old: bool) -> Option<Host> {
    let of_version: Vec<Host> = {
        let running = running(&client.context);
        let world = client.context.sim.world();
        let is_old = |host: &Host| world.machines.get(host).is_some_and(|one| one.is_old());
        running
            .into_iter()
            .filter(|host| is_old(host) == old)
            .collect()
    };
    (!of_version.is_empty()).then(|| *client.random.one_of(&of_version))
}

fn set_old(client: &Client, host: Host, old: bool) {
    let mut world = client.context.sim.world();
    if let Some(machine) = world.machines.get_mut(&host) {
        machine.set_old(old);
        machine.may_end = old.then_some("it runs the version before");
    }
}

/// An old master becomes a new one.
pub async fn upgrade_one(client: &mut Client) -> anyhow::Result<()> {
    let Some(host) = some_of(client, true) else {
        return Ok(());
    };
    client.context.sim.world().kill(host)?;
    note(client, "master upgraded");
    down_time(client).await;
    set_old(client, host, false);
    boot(client, host)
}

/// A new master runs the version before for a while.
pub async fn downgrade_one(client: &mut Client) -> anyhow::Result<()> {
    let Some(host) = some_of(client, false) else {
        return Ok(());
    };
    client.context.sim.world().kill(host)?;
    set_old(client, host, true);
    boot(client, host)?;
    down_time(client).await;
    down_time(client).await;
    let refused = !client.context.sim.world().kill(host)?;
    note(
        client,
        match refused {
            true => "older master refused to start",
            false => "master downgraded and upgraded again",
        },
    );
    set_old(client, host, false);
    boot(client, host)
}

/// The level is to rise. It must not while a member is old.
pub async fn raise_level(client: &mut Client) {
    let members = client.context.masters.borrow().clone();
    let old: Vec<Host> = {
        let world = client.context.sim.world();
        let is_old = |host: &Host| world.machines.get(host).is_some_and(|one| one.is_old());
        members.into_iter().filter(is_old).collect()
    };
    if !raised(client, 3).await {
        return;
    }
    note(client, "level raised");
    if !old.is_empty() {
        client.context.sim.world().violated(
            "the level rises only when every member understands it",
            format!("the masters {old:?} are old, and the cluster is at level 2"),
        );
    }
}

/// Asks for the rise, and returns whether the cluster is at level 2 then.
pub async fn raised(client: &mut Client, tries: u32) -> bool {
    client.another_master();
    let body = json!({});
    let spec = RequestSpec {
        method: "POST",
        path: "/v1/cluster/upgrade",
        request_id: None,
        body: Some(&body),
        timeout: 5 * SECOND,
        tries,
        ops: Vec::new(),
    };
    match client.send(spec).await {
        RequestOutcome::Done(response) => response.json()["level"] == json!(2),
        RequestOutcome::Refused(_) | RequestOutcome::Unknown => false,
    }
}
