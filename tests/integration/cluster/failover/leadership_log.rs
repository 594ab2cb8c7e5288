//! Log lines about leader changes: one line on each running master, with the true reason.

use serde_json::{Value, json};
use triarch_harness::cluster::WAIT_TIMEOUT;
use triarch_harness::{Cluster, Options, eventually};

/// A leader change, as one master logged it.
#[derive(Debug, Clone, PartialEq)]
struct LeadershipChange {
    term: u64,
    new_leader: u64,
    old_leader: Option<u64>,
    leaderless_ms: u64,
    cause: String,
    words: String,
}

const MESSAGE_PREFIX: &str = "leadership changed: ";

fn read_text(line: &str) -> Option<LeadershipChange> {
    let (_, rest) = line.split_once(MESSAGE_PREFIX)?;
    let field = |name: &str| {
        let (_, rest) = rest.split_once(&format!(" {name}="))?;
        rest.split_whitespace()
            .next()
            .map(|text| text.trim_matches('"').to_owned())
    };
    let number = |name: &str| field(name).and_then(|text| text.parse().ok());
    Some(LeadershipChange {
        term: number("term")?,
        new_leader: number("new_leader")?,
        old_leader: number("old_leader"),
        leaderless_ms: number("leaderless_ms")?,
        cause: field("cause")?,
        words: rest.split(" term=").next()?.to_owned(),
    })
}

fn read_json(line: &str) -> Option<LeadershipChange> {
    let object: Value = serde_json::from_str(line).ok()?;
    let fields = &object["fields"];
    let words = fields["message"].as_str()?.strip_prefix(MESSAGE_PREFIX)?;
    Some(LeadershipChange {
        term: fields["term"].as_u64()?,
        new_leader: fields["new_leader"].as_u64()?,
        old_leader: fields["old_leader"].as_u64(),
        leaderless_ms: fields["leaderless_ms"].as_u64()?,
        cause: fields["cause"].as_str()?.to_owned(),
        words: words.to_owned(),
    })
}

struct LoggedCluster {
    cluster: Cluster,
    read: fn(&str) -> Option<LeadershipChange>,
}

impl LoggedCluster {
    fn logged(&self, node: u64) -> Vec<LeadershipChange> {
        self.cluster
            .log_line_of(node)
            .lines()
            .filter_map(self.read)
            .collect()
    }

    /// Returns the first change that a master logs beyond the known ones. Panics if a master logs a change twice.
    async fn next(&self, node: u64, before: usize) -> LeadershipChange {
        let logged = eventually(
            WAIT_TIMEOUT,
            format!("master {node} tells of the change"),
            async || self.logged(node).get(before).cloned(),
        )
        .await;
        let all = self.logged(node);
        for pair in all.windows(2) {
            // A restarted master does not know what it logged before.
            let restarted = pair[1].old_leader.is_none();
            assert!(
                restarted || pair[0].term < pair[1].term,
                "master {node} tells a change twice: {pair:?}"
            );
        }
        logged
    }

    fn counts(&self) -> Vec<usize> {
        self.cluster
            .ids()
            .map(|node| self.logged(node).len())
            .collect()
    }

    /// Checks that each of these masters logs in one line that `old` no longer leads, and the reason.
    async fn all_log(&self, nodes: &[u64], before: &[usize], old: u64, cause: &str, words: &str) {
        for node in nodes {
            let logged = self.next(*node, before[*node as usize - 1]).await;
            assert_eq!(
                (logged.old_leader, logged.cause.as_str()),
                (Some(old), cause),
                "master {node}: {logged:?}"
            );
            assert_ne!(logged.new_leader, old, "master {node}: {logged:?}");
            assert!(logged.words.contains(words), "master {node}: {logged:?}");
            assert!(logged.leaderless_ms < 60_000, "master {node}: {logged:?}");
        }
    }
}

#[tokio::test]
async fn each_leadership_change_is_one_text_log_line_with_its_reason() {
    changes_are_logged_with_their_reasons("text", read_text).await;
}

#[tokio::test]
async fn each_leadership_change_is_one_json_log_line_with_its_reason() {
    changes_are_logged_with_their_reasons("json", read_json).await;
}

async fn changes_are_logged_with_their_reasons(
    format: &str,
    read: fn(&str) -> Option<LeadershipChange>,
) {
    let cluster = Cluster::with(Options {
        more: vec!["--log-format".into(), format.into()],
        ..Options::default()
    })
    .await;
    let mut watched = LoggedCluster { cluster, read };
    let all: Vec<u64> = watched.cluster.ids().collect();
    for node in &all {
        let first = watched.next(*node, 0).await;
        // A master that started later has not logged the change.
        let fits = ["no_leader_known", "found_leading"].contains(&first.cause.as_str());
        assert!(fits && first.old_leader.is_none(), "{first:?}");
    }

    // Transfer by an operator.
    let leader = watched.cluster.wait_ready().await;
    let next = all
        .iter()
        .find(|id| **id != leader)
        .copied()
        .expect("another");
    let before = watched.counts();
    let asked = watched.cluster.api(leader);
    asked
        .post("/v1/cluster/transfer-leader", &json!({"to": next}))
        .await
        .expect(200);
    watched
        .all_log(
            &all,
            &before,
            leader,
            "transferred_by_operator",
            "handed leadership over as it was asked to",
        )
        .await;

    // SIGTERM.
    let leader = watched.cluster.wait_ready().await;
    let others: Vec<u64> = all.iter().copied().filter(|id| *id != leader).collect();
    let before = watched.counts();
    watched.cluster.terminate(leader).await;
    watched
        .all_log(
            &others,
            &before,
            leader,
            "transferred_at_shutdown",
            "because it stops",
        )
        .await;
    watched.cluster.restart(leader);
    watched.cluster.wait_ready().await;

    // SIGKILL.
    let leader = watched.cluster.wait_ready().await;
    let others: Vec<u64> = all.iter().copied().filter(|id| *id != leader).collect();
    let before = watched.counts();
    watched.cluster.kill9(leader);
    watched
        .all_log(
            &others,
            &before,
            leader,
            "connections_refused",
            &format!("connections to node {leader} were refused"),
        )
        .await;
    watched.cluster.node(leader).wait(WAIT_TIMEOUT).await;
    let killed = watched.counts()[leader as usize - 1];
    watched.cluster.restart(leader);
    let found = watched.next(leader, killed).await;
    assert_eq!(
        (found.cause.as_str(), found.old_leader),
        ("found_leading", None),
        "{found:?}"
    );

    // SIGSTOP until another master leads.
    let leader = watched.cluster.wait_ready().await;
    let others: Vec<u64> = all.iter().copied().filter(|id| *id != leader).collect();
    let before = watched.counts();
    watched.cluster.stop(leader);
    watched
        .all_log(
            &others,
            &before,
            leader,
            "leader_silent",
            &format!("node {leader} had not been heard for"),
        )
        .await;
    watched.cluster.cont(leader);
    watched
        .all_log(
            &[leader],
            &before,
            leader,
            "majority_lost",
            "had not reached a majority",
        )
        .await;
}
