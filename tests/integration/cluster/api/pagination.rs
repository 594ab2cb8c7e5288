//! Pagination: a list that is read page by page, while the table changes and leaders die, shows every unchanged item
//! once.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use triarch_harness::{Cluster, fake_worker};

/// Number of unchanged tasks, and the size of a page.
const TASKS: usize = 300;
const PAGE: usize = 40;

fn ids(page: &Value) -> Vec<String> {
    let rows = page["tasks"].as_array().expect("rows").iter();
    rows.map(|row| row["id"].as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn a_list_paged_over_a_failover_contains_every_item_once() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.wait_ready().await;
    let mut job = fake_worker::job(json!(1));
    let task = job["tasks"][0].clone();
    job["tasks"] = json!(vec![task; TASKS]);
    let submitted = cluster.api(leader).submit(&job).await;
    let expected: BTreeSet<String> = submitted["tasks"]
        .as_array()
        .expect("ids")
        .iter()
        .map(|id| id.as_str().expect("an id").to_owned())
        .collect();
    let mut answering = leader;
    let mut listed: Vec<String> = Vec::new();
    let mut after = String::new();
    for turn in 0.. {
        // Between two pages, new tasks are submitted and listed ones change. At the third page the leader is killed.
        if turn == 3 {
            cluster.kill9(leader);
            answering = cluster.leader_other_than(leader).await;
        }
        let api = cluster.api(answering);
        api.submit(&fake_worker::job(json!(turn))).await;
        if let Some(first) = listed.first() {
            let cancel = format!("/v1/tasks/{first}/cancel");
            api.post(&cancel, &json!({})).await.expect(200);
        }
        let path = format!("/v1/tasks?kind=hand&limit={PAGE}{after}");
        let page = api.get(&path).await.expect(200);
        listed.extend(ids(&page));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let once: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(once.len(), listed.len(), "something was told twice");
    assert!(expected.is_subset(&once), "something was left out");
}
