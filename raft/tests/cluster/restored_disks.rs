//! Disks that are put back to an earlier state, as by the restoration of a machine's backup. Their nodes have forgotten
//! what they acknowledged.

use std::fs;
use std::path::Path;

use triarch_raft::NodeConfig;

use crate::harness::{Cluster, eventually};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Cluster {
    /// Copies the directory of a node that is stopped.
    fn back_up(&self, id: u64) {
        copy(
            &self.dir(id),
            &self.root.path().join(format!("backup-{id}")),
        );
    }

    /// Puts the copy in the place of the directory of a node that is stopped.
    fn put_back(&self, id: u64) {
        fs::remove_dir_all(self.dir(id)).unwrap();
        copy(
            &self.root.path().join(format!("backup-{id}")),
            &self.dir(id),
        );
    }

    /// Proposes commands of this name and the numbers from 0 on. Returns the index of the last.
    fn propose_all(&self, name: &str, count: usize) -> u64 {
        let mut index = 0;
        for number in 0..count {
            index = self.propose(&format!("{name} {number}")).index;
        }
        index
    }

    fn stop_all(&mut self) {
        for id in self.running.keys().copied().collect::<Vec<_>>() {
            self.stop(id);
        }
    }

    fn start_all(&mut self, ids: &[u64]) {
        for id in ids {
            self.start(*id);
        }
    }

    /// Waits until a node has on its disk that `member` acknowledged an entry at `index` or later.
    fn wait_until_known(&self, on: u64, member: u64, index: u64) {
        let prefix = format!("{member}=");
        eventually("the acknowledgement is on disk", || {
            let text = fs::read_to_string(self.dir(on).join("acknowledged")).ok()?;
            let said = text
                .split_whitespace()
                .find_map(|part| part.strip_prefix(&prefix))?;
            let known: u64 = said.split_once('.')?.1.parse().ok()?;
            (known >= index).then_some(())
        });
    }

    /// Waits until a node has failed, and returns why.
    fn failure(&self, id: u64) -> String {
        eventually("the node has failed", || {
            self.node(id).fatal_error().borrow().clone()
        })
    }
}

/// Node 3 is away while nodes 1 and 2 acknowledge five commands, after these many elections of their own. Then the disk
/// of node 1 is put back, and it writes others together with node 3. At the end node 2 is not running.
fn two_histories(
    adjust: fn(&mut NodeConfig),
    elections: usize,
    others: usize,
    kill: bool,
) -> Cluster {
    let mut cluster = Cluster::with(3, adjust);
    let before = cluster.propose("before");
    cluster.settle(before.index);
    cluster.stop_all();
    cluster.back_up(1);
    for _ in 0..elections {
        cluster.start_all(&[1, 2]);
        cluster.leader();
        cluster.stop_all();
    }
    cluster.start_all(&[1, 2]);
    let index = cluster.propose_all("acknowledged", 5);
    cluster.settle(index);
    cluster.wait_until_known(2, 1, index);
    for id in [1, 2] {
        if kill {
            cluster.kill(id);
        } else {
            cluster.stop(id);
        }
    }
    cluster.put_back(1);
    cluster.start_all(&[1, 3]);
    let index = cluster.propose_all("other", others);
    cluster.settle(index);
    cluster
}

fn texts(cluster: &Cluster, id: u64) -> String {
    let commands = cluster.running[&id].commands();
    let texts = commands
        .iter()
        .map(|command| String::from_utf8_lossy(command));
    texts.collect::<Vec<_>>().join(", ")
}

/// Returns whether a failure names the disk of this node as the older one. Two histories can happen to have reached the same
/// term, and then nobody knows whose it is.
fn names_disk_of(why: &str, node: &str) -> bool {
    why.contains(&format!("The disk of {node} (it acknowledged entry"))
        || why.contains("The disk of a node that acknowledged both")
}

/// Starts node 2, and checks that neither history is overruled.
fn check_that_both_stop(cluster: &mut Cluster) {
    cluster.start(2);
    let why = cluster.failure(2);
    assert!(why.contains("contradicts"), "{why}");
    assert!(names_disk_of(&why, "node 1"), "{why}");
    let why = cluster.failure(1);
    assert!(names_disk_of(&why, "this node"), "{why}");
    let kept = texts(cluster, 2);
    assert!(
        kept.contains("acknowledged 4") && !kept.contains("other"),
        "{kept}"
    );
    let kept = texts(cluster, 1);
    assert!(
        kept.contains("other") && !kept.contains("acknowledged"),
        "{kept}"
    );
}

#[test]
fn two_acknowledged_histories_stop_their_nodes() {
    let mut cluster = two_histories(|_| {}, 0, 2, false);
    check_that_both_stop(&mut cluster);
}

#[test]
fn two_acknowledged_histories_of_different_terms_stop_their_nodes() {
    let mut cluster = two_histories(|_| {}, 2, 2, false);
    check_that_both_stop(&mut cluster);
}

#[test]
fn two_acknowledged_histories_are_noticed_after_kills_in_another_order_of_starts() {
    let mut cluster = two_histories(|_| {}, 0, 9, true);
    let last = cluster.node(3).status().last_log_index;
    cluster.wait_until_known(3, 1, last);
    for id in [1, 3] {
        cluster.kill(id);
    }
    cluster.start_all(&[2, 3]);
    cluster.start(1);
    let why = cluster.failure(2);
    assert!(names_disk_of(&why, "node 1"), "{why}");
    cluster.failure(1);
    let kept = texts(&cluster, 2);
    assert!(
        kept.contains("acknowledged 4") && !kept.contains("other"),
        "{kept}"
    );
}

#[test]
fn two_acknowledged_histories_are_noticed_behind_a_snapshot() {
    let often = |config: &mut NodeConfig| {
        config.snapshot.entries = 20;
        config.snapshot.keep_entries = 5;
    };
    let mut cluster = two_histories(often, 3, 70, false);
    for id in [1, 3] {
        eventually("the log is cut past the other history", || {
            (cluster.node(id).status().purged_index > 40).then_some(())
        });
        cluster.stop(id);
    }
    cluster.start_all(&[1, 3]);
    cluster.leader();
    check_that_both_stop(&mut cluster);
}

/// Node 2 campaigns later than the others.
fn late(config: &mut NodeConfig) {
    if config.node_id == 2 {
        config.timing.election_min_ms *= 4;
        config.timing.election_max_ms *= 4;
    }
}

#[test]
fn a_disk_that_was_put_back_elects_nobody_who_lacks_what_it_acknowledged() {
    let mut cluster = Cluster::with(3, late);
    let before = cluster.propose("before");
    cluster.settle(before.index);
    cluster.stop_all();
    cluster.back_up(1);
    cluster.start_all(&[1, 2]);
    let last = cluster.propose("acknowledged");
    cluster.settle(last.index);
    cluster.wait_until_known(2, 1, last.index);
    cluster.stop_all();
    cluster.put_back(1);
    cluster.start_all(&[2, 1, 3]);
    assert_eq!(cluster.leader(), 2);
    let end = cluster.propose("end");
    cluster.settle(end.index);
    for id in 1..=3 {
        assert_eq!(texts(&cluster, id), "before, acknowledged, end");
        assert_eq!(*cluster.node(id).fatal_error().borrow(), None);
    }
    // It counts like the others again.
    cluster.stop(3);
    let last = cluster.propose("with node 1");
    cluster.settle(last.index);
}

#[test]
fn two_disks_that_were_put_back_get_everything_from_the_third() {
    let mut cluster = Cluster::with(3, late);
    let before = cluster.propose("before");
    cluster.settle(before.index);
    cluster.stop_all();
    cluster.back_up(1);
    cluster.back_up(3);
    cluster.start_all(&[1, 2, 3]);
    let last = cluster.propose("acknowledged");
    cluster.settle(last.index);
    cluster.wait_until_known(2, 1, last.index);
    cluster.stop_all();
    cluster.put_back(1);
    cluster.put_back(3);
    cluster.start_all(&[2, 1, 3]);
    let end = cluster.propose("end");
    cluster.settle(end.index);
    for id in 1..=3 {
        assert_eq!(texts(&cluster, id), "before, acknowledged, end");
    }
}

#[test]
fn a_follower_that_was_put_back_under_its_leader_catches_up() {
    let mut cluster = Cluster::of(3);
    let before = cluster.propose("before");
    cluster.settle(before.index);
    let (leader, follower) = (cluster.leader(), cluster.followers()[0]);
    cluster.stop(follower);
    cluster.back_up(follower);
    cluster.start(follower);
    for number in 0..20 {
        let last = cluster.propose(&number.to_string());
        cluster.settle(last.index);
    }
    cluster.stop(follower);
    cluster.put_back(follower);
    cluster.start(follower);
    let last = cluster.propose("last");
    cluster.settle(last.index);
    assert_eq!(texts(&cluster, follower), texts(&cluster, leader));
    assert_eq!(cluster.leader(), leader);
    assert_eq!(*cluster.node(follower).fatal_error().borrow(), None);
}
