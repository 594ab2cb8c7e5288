//! The disk of a master is put back to an earlier state, while the master that has everything is away.

use std::path::Path;

use serde_json::{Value, json};
use triarch_harness::{Cluster, eventually};

use crate::job_helpers::WAIT_TIMEOUT;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for entry in std::fs::read_dir(from).expect("it can be read") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("it is known").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("it can be copied")),
        }
    }
}

/// Submits a job of this name to any running master, until it is accepted.
async fn submit(cluster: &mut Cluster, name: &str) {
    let body = json!({"name": name, "tasks": [{"kind": "none"}]});
    let apis: Vec<_> = cluster
        .running()
        .into_iter()
        .map(|id| cluster.api(id))
        .collect();
    eventually(WAIT_TIMEOUT, "a job is accepted", async || {
        for api in &apis {
            let call = api.call(reqwest::Method::POST, "/v1/jobs").json(&body);
            if call.send().await.is_ok_and(|reply| reply.status == 201) {
                return Some(());
            }
        }
        None
    })
    .await;
}

/// Waits until the file of a master says that `member` acknowledged as much as any other.
async fn wait_until_known(cluster: &Cluster, on: u64, member: u64) {
    let path = cluster.data_dir(on).join("acknowledged");
    eventually(WAIT_TIMEOUT, "the acknowledgement is on disk", async || {
        let text = std::fs::read_to_string(&path).ok()?;
        let of = |name: String| text.split_whitespace().find_map(|p| p.strip_prefix(&name));
        let committed = of("c=".to_owned())?;
        (of(format!("{member}="))? == committed).then_some(())
    })
    .await;
}

async fn names(cluster: &Cluster, node: u64) -> Option<Vec<Value>> {
    let path = "/v1/jobs?consistency=stale";
    let call = cluster.api(node).call(reqwest::Method::GET, path);
    let reply = call.send().await.ok()?.json();
    let jobs = reply["jobs"].as_array()?;
    Some(jobs.iter().map(|job| job["name"].clone()).collect())
}

#[tokio::test]
async fn acknowledged_jobs_are_not_overruled_by_a_disk_that_was_put_back() {
    let mut cluster = Cluster::start(3).await;
    submit(&mut cluster, "before").await;
    for node in [3, 1] {
        cluster.wait_caught_up(node).await;
        cluster.terminate(node).await;
    }
    let backup = cluster.root().join("backup");
    copy(&cluster.data_dir(1), &backup);
    cluster.restart(1);
    for number in 0..3 {
        submit(&mut cluster, &format!("acknowledged {number}")).await;
    }
    wait_until_known(&cluster, 2, 1).await;
    for node in [1, 2] {
        cluster.terminate(node).await;
    }
    std::fs::remove_dir_all(cluster.data_dir(1)).expect("it can be removed");
    copy(&backup, &cluster.data_dir(1));
    for node in [1, 3] {
        cluster.restart(node);
    }
    submit(&mut cluster, "other").await;

    // The master with the acknowledged jobs comes back, and contradicts the others.
    cluster.restart(2);
    for node in [1, 2] {
        let ended = cluster.node(node).wait(WAIT_TIMEOUT).await;
        assert_eq!(ended.code(), Some(1), "{}", cluster.log_line_of(node));
    }
    let log = cluster.log_line_of(2);
    assert!(log.contains("contradicts this node's history"), "{log}");
    assert!(
        log.contains("The disk of node 1 (it acknowledged entry"),
        "{log}"
    );

    // Alone, it has all of its history.
    cluster.terminate(3).await;
    cluster.restart(2);
    let kept = eventually(WAIT_TIMEOUT, "it answers", async || {
        names(&cluster, 2).await
    })
    .await;
    assert_eq!(kept.len(), 4, "{kept:?}");
    assert!(!kept.contains(&json!("other")), "{kept:?}");
}
