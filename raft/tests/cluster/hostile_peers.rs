//! Messages of strangers, and absurd messages of members: refused, and nothing of them is kept.

use std::collections::BTreeMap;

use tokio::runtime::Runtime;
use triarch_raft::ProposeError;
use uuid::Uuid;

use crate::harness::{Cluster, eventually, start_behind};

/// Sender of messages that are written byte by byte.
struct Sender {
    runtime: Runtime,
    cluster: Uuid,
    id: u64,
    incarnation: Uuid,
}

/// Identity of a node, as it shows to everyone who asks.
struct NodeIdentity {
    incarnation: Uuid,
    cluster: Option<Uuid>,
}

type Vote = (u64, u64, bool);
type LogId = (u64, u64);
type Reply = (u64, Uuid, Option<Uuid>, BTreeMap<u64, (String, Uuid)>);

impl Sender {
    fn new(cluster: Uuid, id: u64, incarnation: Uuid) -> Sender {
        Sender {
            runtime: Runtime::new().unwrap(),
            cluster,
            id,
            incarnation,
        }
    }

    /// Sender that no node knows.
    fn stranger(cluster: &Cluster) -> Sender {
        let id = cluster.node(1).status().cluster_id.unwrap();
        Sender::new(id.parse().unwrap(), 66, Uuid::from_u128(66))
    }

    /// Sender that speaks as a member, as one with a bug would.
    fn member(cluster: &Cluster, id: u64) -> Sender {
        let mut sender = Sender::stranger(cluster);
        sender.incarnation = sender.ask(cluster, id).incarnation;
        sender.id = id;
        sender
    }

    fn ask(&self, cluster: &Cluster, id: u64) -> NodeIdentity {
        let (status, answer) = self.post(&cluster.founding[&id], id, "hello", b"\x03x:1");
        assert_eq!(status, 200);
        let (reply, _) = postcard::take_from_bytes::<Reply>(&answer).unwrap();
        NodeIdentity {
            incarnation: reply.1,
            cluster: reply.2,
        }
    }

    /// Posts a message. Returns the status and the body of the answer.
    fn post(&self, addr: &str, to: u64, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.post_with(addr, to, path, body, &[])
    }

    /// Posts a message with these headers.
    fn post_with(
        &self,
        addr: &str,
        to: u64,
        path: &str,
        body: &[u8],
        headers: &[(&str, String)],
    ) -> (u16, Vec<u8>) {
        let envelope = (self.cluster, self.id, self.incarnation, to, Uuid::nil());
        let mut message = vec![1];
        message.extend(postcard::to_stdvec(&envelope).unwrap());
        message.extend(body);
        let mut sent = reqwest::Client::new()
            .post(format!("http://{addr}/raft/{path}"))
            .header("triarch-version", "0; level=2")
            .body(message);
        for (name, value) in headers {
            sent = sent.header(*name, value);
        }
        self.runtime.block_on(async {
            let answer = sent.send().await.unwrap();
            let status = answer.status().as_u16();
            (status, answer.bytes().await.unwrap().to_vec())
        })
    }

    /// Posts a message to every running node. Each must refuse it.
    fn refused_by_all(&self, cluster: &Cluster, path: &str, body: &[u8]) {
        for id in cluster.running.keys() {
            let (status, answer) = self.post(&cluster.founding[id], *id, path, body);
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert_eq!(status, 409, "{path} to node {id}: {answer}");
        }
    }
}

fn vote_request(vote: Vote, last: Option<LogId>, transfer: bool) -> Vec<u8> {
    // The last byte is the reason, which only operators read.
    postcard::to_stdvec(&(vote, last, transfer, 0_u8)).unwrap()
}

fn append(vote: Vote, prev: Option<LogId>, entries: &[(LogId, Vec<u8>)]) -> Vec<u8> {
    let heads: Vec<(LogId, u32)> = entries
        .iter()
        .map(|(id, payload)| (*id, payload.len() as u32))
        .collect();
    let mut out = postcard::to_stdvec(&(vote, prev, None::<LogId>, heads)).unwrap();
    for (_, payload) in entries {
        out.extend(payload);
    }
    out
}

fn commands(now_ms: u64, commands: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![1];
    out.extend(now_ms.to_le_bytes());
    out.extend((commands.len() as u32).to_le_bytes());
    for command in commands {
        out.extend((command.len() as u32).to_le_bytes());
        out.extend(*command);
    }
    out
}

/// Term and last log index of every running node.
fn state(cluster: &Cluster) -> Vec<(u64, u64)> {
    let nodes = cluster.running.values();
    nodes
        .map(|running| {
            let status = running.node.status();
            (status.term, status.last_log_index)
        })
        .collect()
}

/// Returns the terms of a state. Positions may differ: a new cluster raises its level by itself.
fn terms(state: &[(u64, u64)]) -> Vec<u64> {
    state.iter().map(|(term, _)| *term).collect()
}

#[test]
fn votes_and_appends_of_a_node_that_no_member_knows_are_refused() {
    let cluster = Cluster::of(3);
    let last = cluster.propose("before");
    cluster.settle(last.index);
    let before = state(&cluster);
    let (term, index) = before[0];
    let stranger = Sender::stranger(&cluster);
    let vote = (term + 1, 66, false);
    let long_log = Some((term, index + 1_000));
    for path in ["vote", "pre-vote"] {
        stranger.refused_by_all(&cluster, path, &vote_request(vote, long_log, true));
    }
    let leads = (term + 1, 66, true);
    stranger.refused_by_all(&cluster, "heartbeat", &append(leads, None, &[]));
    let entry = ((term + 1, index + 1), commands(1, &[b"forged"]));
    let body = append(leads, Some((term, index)), &[entry]);
    stranger.refused_by_all(&cluster, "append", &body);
    for path in ["clock", "digest", "watch", "transfer", "snapshot/announce"] {
        stranger.refused_by_all(&cluster, path, &[0; 64]);
    }
    assert_eq!(terms(&state(&cluster)), terms(&before));
    let last = cluster.propose("after");
    cluster.settle(last.index);
    assert_eq!(cluster.running[&1].commands(), ["before", "after"]);
}

#[test]
fn a_term_far_ahead_is_refused_in_every_message() {
    let cluster = Cluster::of(3);
    let last = cluster.propose("before");
    cluster.settle(last.index);
    let leader = cluster.leader();
    let before = state(&cluster);
    let term = before[0].0;
    for far in [u64::MAX, term + (1 << 20) + 1] {
        for id in [1, 2, 3] {
            let sender = Sender::member(&cluster, id);
            let others = |path: &str, body: &[u8]| {
                for to in [1, 2, 3].into_iter().filter(|to| *to != id) {
                    let (status, _) = sender.post(&cluster.founding[&to], to, path, body);
                    assert_eq!(status, 409, "{path} from {id} to {to}");
                }
            };
            let campaign = vote_request((far, id, false), Some((far, 1 << 32)), true);
            others("vote", &campaign);
            others("pre-vote", &campaign);
            others("heartbeat", &append((far, id, true), None, &[]));
            let transfer = postcard::to_stdvec(&((far, id, true), 2_u64, None::<LogId>, 0_u8));
            others("transfer", &transfer.unwrap());
            let members = BTreeMap::from([(id, ("h:1".to_owned(), Uuid::nil()))]);
            let membership = (vec![vec![id]], members);
            let meta = (Some((1_u64, 1_u64)), Some((1_u64, 1_u64)), membership);
            let snapshot = postcard::to_stdvec(&((far, id, true), meta, 9_u64, 1_u64)).unwrap();
            others("snapshot/announce", &snapshot);
            others("snapshot/install", &snapshot);
        }
    }
    assert_eq!(terms(&state(&cluster)), terms(&before));
    assert_eq!(cluster.leader(), leader);
    cluster.propose("after");
}

#[test]
fn a_message_in_the_name_of_another_node_is_refused() {
    let cluster = Cluster::of(3);
    cluster.propose("before");
    let term = cluster.node(1).status().term;
    let sender = Sender::member(&cluster, 1);
    let body = vote_request((term + 1, 2, false), Some((term, 1 << 20)), true);
    let (status, _) = sender.post(&cluster.founding[&3], 3, "vote", &body);
    assert_eq!(status, 409);
    let body = append((term + 1, 2, true), None, &[]);
    let (status, _) = sender.post(&cluster.founding[&3], 3, "heartbeat", &body);
    assert_eq!(status, 409);
    // A node takes no messages of another process of its own id.
    let (status, _) = sender.post(&cluster.founding[&1], 1, "clock", &[]);
    assert_eq!(status, 409);
    assert_eq!(cluster.node(3).status().term, term);
}

#[test]
fn an_entry_that_a_node_could_not_apply_is_refused_before_it_is_written() {
    let mut cluster = Cluster::of(3);
    let last = cluster.propose("before");
    cluster.settle(last.index);
    let leader = cluster.leader();
    let follower = cluster.followers()[0];
    let status = cluster.node(follower).status();
    let (term, index) = (status.term, status.last_log_index);
    let sender = Sender::member(&cluster, leader);
    let no_voters = b"\x02\x01\x00\x01\x01\x03h:1\x10".iter().copied();
    let no_voters: Vec<u8> = no_voters.chain([0; 16]).collect();
    let refused = [
        ("an unknown command", commands(1, &[b"good", b"\xff"])),
        ("no commands", commands(1, &[])),
        ("a year after 9999", commands(u64::MAX, &[b"good"])),
        ("half a command", commands(1, &[b"good"])[..15].to_vec()),
        ("an unknown kind", vec![9]),
        ("an empty membership", b"\x02\x00\x00".to_vec()),
        ("a membership without voters", no_voters),
    ];
    let prev = Some((term, index));
    for (what, payload) in refused {
        let body = append((term, leader, true), prev, &[((term, index + 1), payload)]);
        let addr = &cluster.founding[&follower];
        let (status, answer) = sender.post(addr, follower, "append", &body);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(status, 409, "{what}: {answer}");
        assert!(answer.contains("cannot decode"), "{what}: {answer}");
    }
    let later = append(
        (term, leader, true),
        prev,
        &[((term + 1, index + 1), vec![0])],
    );
    let (status, _) = sender.post(&cluster.founding[&follower], follower, "append", &later);
    assert_eq!(status, 409, "an entry of a later term than its leader's");
    assert_eq!(cluster.node(follower).status().last_log_index, index);

    // The same for a proposal of this node's own.
    let proposed = cluster.try_propose(leader, &b"\xff"[..]);
    assert!(
        matches!(proposed, Err(ProposeError::Malformed(_))),
        "{proposed:?}"
    );
    for id in [1, 2, 3] {
        cluster.kill(id);
        cluster.start(id);
    }
    cluster.leader();
    let last = cluster.propose("after");
    cluster.settle(last.index);
    assert_eq!(cluster.running[&follower].commands(), ["before", "after"]);
}

#[test]
fn only_the_first_of_the_list_founds_a_cluster() {
    let mut cluster = Cluster::prepare(3, |_| {});
    cluster.start(2);
    cluster.start(3);
    let mut sender = Sender::new(Uuid::nil(), 1, Uuid::from_u128(66));
    let members: BTreeMap<u64, (String, Uuid)> = cluster
        .founding
        .iter()
        .map(|(id, addr)| {
            let incarnation = match id {
                1 => sender.incarnation,
                id => sender.ask(&cluster, *id).incarnation,
            };
            (*id, (addr.clone(), incarnation))
        })
        .collect();
    let foreign = Uuid::from_u128(7);
    let form = postcard::to_stdvec(&(foreign, members)).unwrap();
    // In the name of the first of the list, which is not up yet, and of another one.
    for id in [1, 2, 66] {
        sender.id = id;
        let (status, _) = sender.post(&cluster.founding[&3], 3, "form", &form);
        assert_eq!(status, 409, "from {id}");
    }
    assert_eq!(sender.ask(&cluster, 3).cluster, None);
    cluster.start(1);
    cluster.leader();
    cluster.propose("formed");
    assert_ne!(sender.ask(&cluster, 3).cluster, Some(foreign));
}

#[test]
fn a_node_that_waits_to_join_is_adopted_by_its_cluster_only() {
    let mut cluster = Cluster::of(3);
    let addr = cluster.start_to_join(4);
    let sender = Sender::stranger(&cluster);
    let foreign = postcard::to_stdvec(&Uuid::from_u128(7)).unwrap();
    let (status, answer) = sender.post(&addr, 4, "adopt", &foreign);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert_eq!(status, 409, "{answer}");
    assert!(
        answer.contains("started to join the cluster of"),
        "{answer}"
    );
    assert_eq!(cluster.node(4).status().cluster_id, None);
    let leader = eventually("a leader", || {
        let mut running = cluster.running.iter();
        running.find(|(_, r)| r.node.leads_now()).map(|(id, _)| *id)
    });
    let node = cluster.node(leader).clone();
    cluster
        .block_on(leader, node.add(4, addr.parse().unwrap()))
        .unwrap();
    let last = cluster.propose("four");
    cluster.settle(last.index);
}

#[test]
fn a_process_on_a_copied_data_directory_is_refused_and_says_so() {
    let mut cluster = Cluster::of(3);
    cluster.propose("before");
    let original = cluster.followers()[0];
    cluster.stop(original);
    let copied = cluster.root.path().join("copied");
    copy(&cluster.dir(original), &copied);
    cluster.start(original);
    cluster.leader();
    let mut config = cluster.config(original);
    config.data_dir = copied;
    let elsewhere = std::net::SocketAddr::from(([127, 0, 0, 1], crate::harness::free_port()));
    let copy = start_behind(config, Some(elsewhere)).unwrap();
    let why = eventually("the copy knows that it is refused", || {
        assert!(!copy.node.leads_now());
        copy.node.exclusion()
    });
    assert!(why.contains("on a copy of this data directory"), "{why}");
    eventually("another node counts its messages", || {
        let others = cluster.running.values();
        others
            .map(|running| running.node.duplicate_messages())
            .any(|count| count > 0)
            .then_some(())
    });
    assert_eq!(cluster.node(original).exclusion(), None);
    // The original may restart at any time.
    cluster.kill(original);
    cluster.start(original);
    let last = cluster.propose("after");
    cluster.settle(last.index);
    assert_eq!(cluster.running[&original].commands(), ["before", "after"]);
    assert!(!copy.commands().contains(&"after".into()));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn messages_in_the_name_of_a_member_that_contradict_the_history_stop_no_node_and_no_election() {
    let mut cluster = Cluster::of(3);
    let last = cluster.propose("before");
    cluster.settle(last.index);
    let leader = cluster.leader();
    let (term, index) = state(&cluster)[0];
    let ids: Vec<u64> = cluster.running.keys().copied().collect();
    for from in &ids {
        let sender = Sender::member(&cluster, *from);
        for to in ids.iter().filter(|to| *to != from) {
            let addr = &cluster.founding[to];
            let said = format!(
                "c={}.1 l={term}.1 1={}.9 2={term}.900000 3={term}.900000",
                term + 1,
                term + 9
            );
            let headers = [
                ("triarch-acknowledged", said),
                ("triarch-history", format!("{index}-1-1")),
            ];
            let forged = append((term, *from, true), Some((term, index)), &[]);
            let (status, answer) = sender.post_with(addr, *to, "heartbeat", &forged, &headers);
            let answer = String::from_utf8_lossy(&answer);
            assert_eq!(status, 409, "{answer}");
            assert!(
                answer.contains("contradicts this node's history"),
                "{answer}"
            );
            let other = append(
                (term, *from, true),
                Some((term, index - 1)),
                &[((term, index), commands(1, &[b"another"]))],
            );
            let (status, _) = sender.post_with(addr, *to, "append", &other, &[]);
            assert_eq!(status, 409);
            let (status, _) = sender.post_with(addr, *to, "clock", b"", &headers);
            assert_eq!(status, 200);
        }
    }
    let last = cluster.propose("after");
    cluster.settle(last.index);
    cluster.kill(leader);
    cluster.propose("after the election");
    cluster.start(leader);
    let last = cluster.propose("end");
    cluster.settle(last.index);
    for id in ids {
        assert_eq!(*cluster.node(id).fatal_error().borrow(), None);
    }
}
