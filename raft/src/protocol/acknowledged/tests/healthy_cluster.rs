//! Model of clusters that lose nothing: elections, appends that arrive late and twice, restarts, kills, snapshots.
//!
//! Whatever the order, nothing may stop a node, no loss may be reported, no append of a leader may be refused, and some
//! node of each majority must stay electable.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::protocol::history::{Anchor, Mark};

type Log = Vec<(u64, Vec<u8>)>;

struct ModelNode {
    id: u64,
    /// Everything since the first entry, whatever a snapshot covers.
    log: Log,
    /// Entries that are synced. The rest is lost in a kill.
    synced: usize,
    term: u64,
    committed: usize,
    snapshot: Option<(LogId, Option<Anchor>)>,
    known: Acknowledged,
    file: Facts,
    up: bool,
}

#[derive(Clone)]
struct Append {
    leader: u64,
    term: u64,
    /// The log of the leader up to the last entry of the append.
    log: Log,
    first: usize,
    committed: usize,
    header: HeaderMap,
    mark: Option<Mark>,
}

struct Answer {
    from: u64,
    to: u64,
    acknowledged: Option<LogId>,
    headers: HeaderMap,
    /// Time at which the asked process was started: a restarted one hears no answer to its last life.
    life: usize,
}

struct Model {
    rng: StdRng,
    nodes: Vec<ModelNode>,
    lives: Vec<usize>,
    leader: Option<(usize, u64)>,
    matched: Vec<usize>,
    appends: Vec<(usize, Append)>,
    answers: Vec<Answer>,
    values: u64,
    anchors: bool,
}

fn id_at(log: &Log, index: usize) -> LogId {
    log_id(log[index].0, index as u64)
}

fn last(log: &Log) -> LogId {
    id_at(log, log.len() - 1)
}

impl ModelNode {
    fn new(id: u64) -> Self {
        let history = History::default();
        let log = vec![(0, vec![2, 9])];
        history.append(id_at(&log, 0), &log[0].1);
        ModelNode {
            id,
            log,
            synced: 1,
            term: 0,
            committed: 0,
            snapshot: None,
            known: Acknowledged::new(id, Arc::new(history), Facts::default()),
            file: Facts::default(),
            up: true,
        }
    }

    fn append(&mut self, entry: (u64, Vec<u8>)) {
        self.log.push(entry);
        let at = self.log.len() - 1;
        self.known
            .history
            .append(id_at(&self.log, at), &self.log[at].1);
    }

    fn truncate(&mut self, length: usize) {
        assert!(length >= self.committed, "a committed entry is replaced");
        self.known.history.truncate_from(length as u64);
        self.log.truncate(length);
        self.synced = self.synced.min(length);
        self.save();
    }

    fn apply(&mut self, committed: usize) {
        while self.committed < committed.min(self.log.len()) {
            self.known.record_applied(id_at(&self.log, self.committed));
            self.committed += 1;
        }
    }

    fn save(&mut self) {
        if let Some(unsaved) = self.known.take_unsaved() {
            self.file = Facts::from_text(&unsaved.text).unwrap().0;
        }
    }

    /// Starts the process again, as `storage::open` does.
    fn start(&mut self) {
        let history = History::default();
        let mut next = 0;
        self.committed = 0;
        if let Some((id, anchor)) = &self.snapshot {
            history.begin_after(*id, anchor.clone());
            next = id.index as usize + 1;
            self.committed = next;
        }
        for at in next..self.log.len() {
            history.append(id_at(&self.log, at), &self.log[at].1);
        }
        self.known = Acknowledged::new(self.id, Arc::new(history), self.file.clone());
        if let Some((id, _)) = &self.snapshot {
            self.known.record_applied(*id);
        }
        self.up = true;
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let count = *[3, 3, 5].choose(&mut rng).unwrap();
        Model {
            nodes: (1..=count).map(ModelNode::new).collect(),
            lives: vec![0; count as usize],
            leader: None,
            matched: vec![0; count as usize],
            appends: Vec::new(),
            answers: Vec::new(),
            values: 0,
            anchors: rng.random_bool(0.5),
            rng,
        }
    }

    fn any(&mut self) -> usize {
        self.rng.random_range(0..self.nodes.len())
    }

    fn majority(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0 => self.elect(),
            1..3 => self.end_process(),
            3..10 => self.start_process(),
            10..30 => self.propose(),
            30..60 => self.send(),
            60..80 => self.deliver(),
            80..84 => self.take_snapshot(),
            84..86 => self.install_snapshot(),
            86..89 => {
                let at = self.any();
                self.nodes[at].save();
            }
            _ => self.ask(),
        }
        self.check();
    }

    /// Lets a node campaign among the nodes that are up.
    fn elect(&mut self) {
        let candidate = self.any();
        if !self.nodes[candidate].up {
            return;
        }
        let term = self.nodes[candidate].term + 1;
        let id = last(&self.nodes[candidate].log);
        if self.nodes[candidate].known.refuses_campaign().is_some() {
            return;
        }
        let mut granted = Vec::new();
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            if at != candidate && (!node.up || self.rng.random_bool(0.2)) {
                continue;
            }
            if node.term < term && last(&node.log) <= id && !node.known.refuses_vote(term, Some(id))
            {
                node.term = term;
                granted.push(at);
            }
        }
        if granted.len() >= self.majority() {
            self.leader = Some((candidate, term));
            self.matched = vec![0; self.nodes.len()];
            self.nodes[candidate].append((term, vec![0]));
        }
    }

    /// Ends a process: stopped, or killed without what is not synced or saved.
    fn end_process(&mut self) {
        let at = self.any();
        let kill = self.rng.random_bool(0.5);
        let node = &mut self.nodes[at];
        if !node.up {
            return;
        }
        node.up = false;
        if kill {
            node.log.truncate(node.synced);
        } else {
            node.synced = node.log.len();
            node.save();
        }
        self.lives[at] += 1;
        if self.leader.is_some_and(|(leader, _)| leader == at) {
            self.leader = None;
        }
    }

    fn start_process(&mut self) {
        let at = self.any();
        if !self.nodes[at].up {
            self.nodes[at].start();
        }
    }

    fn leader(&self) -> Option<(usize, u64)> {
        // A leader that is deposed but does not know it goes on.
        self.leader.filter(|(at, _)| self.nodes[*at].up)
    }

    fn propose(&mut self) {
        let Some((at, term)) = self.leader() else {
            return;
        };
        if self.nodes[at].term != term {
            return;
        }
        self.values += 1;
        let payload = match self.rng.random_range(0..10) {
            0 => vec![2, self.values as u8],
            _ => format!("value {}", self.values).into_bytes(),
        };
        self.nodes[at].append((term, payload));
    }

    /// Sends an append, or one that was sent before once more.
    fn send(&mut self) {
        let Some((at, term)) = self.leader() else {
            return;
        };
        let to = self.any();
        if to == at || self.nodes[at].term != term {
            let leader = &mut self.nodes[at];
            // The leader's own disk.
            leader.synced = leader.log.len();
            self.matched[at] = leader.log.len();
            return self.commit(at, term);
        }
        let length = self.nodes[at].log.len();
        let first = self.rng.random_range(1..=length);
        let end = self.rng.random_range(first..=length);
        let leader = &self.nodes[at];
        let history = leader
            .known
            .history
            .header(Some(id_at(&leader.log, first - 1)));
        let acknowledged = leader
            .known
            .header()
            .map(|value| (ACKNOWLEDGED_HEADER, value));
        let headers = history.map(|value| (history::HISTORY_HEADER, value));
        let header = HeaderMap::from_iter(acknowledged.into_iter().chain(headers));
        let append = Append {
            leader: leader.id,
            term,
            log: leader.log[..end].to_vec(),
            first,
            committed: leader.committed,
            mark: history::mark_in(&header, id_at(&leader.log, first - 1)),
            header,
        };
        self.appends.push((to, append));
    }

    fn deliver(&mut self) {
        if self.appends.is_empty() {
            return;
        }
        let chosen = self.rng.random_range(0..self.appends.len());
        let (to, append) = match self.rng.random_bool(0.2) {
            true => self.appends[chosen].clone(),
            false => self.appends.swap_remove(chosen),
        };
        if self.nodes[to].up && self.nodes[to].term <= append.term {
            self.take_append(to, &append);
        }
        if !self.answers.is_empty() && self.rng.random_bool(0.5) {
            let chosen = self.rng.random_range(0..self.answers.len());
            let answer = self.answers.swap_remove(chosen);
            let to = answer.to as usize - 1;
            if self.nodes[to].up && self.lives[to] == answer.life {
                let known = &self.nodes[to].known;
                known.record_answer(answer.from, answer.acknowledged, &answer.headers);
            }
        }
    }

    fn take_append(&mut self, to: usize, append: &Append) {
        let node = &mut self.nodes[to];
        let known = &node.known;
        let committed = known.committed_index();
        assert_eq!(known.contradicted_by(&append.header), None);
        let previous = id_at(&append.log, append.first - 1);
        assert_eq!(
            known.history.compare(previous, append.mark, committed),
            None
        );
        for at in append.first..append.log.len() {
            let id = id_at(&append.log, at);
            let mark = Mark {
                entry: history::entry_checksum(id, &append.log[at].1),
                chain: None,
            };
            assert_eq!(known.history.compare(id, Some(mark), committed), None);
        }
        node.term = append.term;
        if node.log.len() < append.first {
            return;
        }
        if id_at(&node.log, append.first - 1) != previous {
            return node.truncate(append.first - 1);
        }
        for at in append.first..append.log.len() {
            if at < node.log.len() && node.log[at].0 != append.log[at].0 {
                node.truncate(at);
            }
            if at >= node.log.len() {
                node.append(append.log[at].clone());
            }
        }
        node.synced = node.log.len();
        node.apply(append.committed.min(append.log.len()));
        node.known.record_leader(&append.header);
        let leader = append.leader as usize - 1;
        if self.leader == Some((leader, append.term)) && self.nodes[leader].up {
            self.matched[to] = self.matched[to].max(append.log.len());
            self.commit(leader, append.term);
        }
    }

    /// Lets the leader take up what the others have acknowledged.
    fn commit(&mut self, at: usize, term: u64) {
        let leader = &mut self.nodes[at];
        let acknowledged: Vec<(u64, LogId)> = (1..)
            .zip(&self.matched)
            .filter(|(_, length)| **length > 0)
            .map(|(id, length)| (id, id_at(&leader.log, length - 1)))
            .collect();
        leader.known.record_members(acknowledged.into_iter());
        let mut lengths = self.matched.clone();
        lengths.sort_unstable();
        let committed = lengths[lengths.len() / 2];
        if committed > 0 && leader.log[committed - 1].0 == term {
            leader.apply(committed);
        }
    }

    fn take_snapshot(&mut self) {
        let at = self.any();
        let anchors = self.anchors;
        let node = &mut self.nodes[at];
        if !node.up || node.committed == 0 {
            return;
        }
        let id = id_at(&node.log, node.committed - 1);
        let anchor = node.known.history.anchor_at(id).filter(|_| anchors);
        node.snapshot = Some((id, anchor));
        node.known.history.purge(id);
        node.synced = node.synced.max(node.committed);
    }

    fn install_snapshot(&mut self) {
        let (from, to) = (self.any(), self.any());
        let Some((id, anchor)) = self.nodes[from].snapshot.clone() else {
            return;
        };
        let covered = id.index as usize + 1;
        if !self.nodes[to].up || self.nodes[to].committed >= covered {
            return;
        }
        let log: Log = self.nodes[from].log[..covered].to_vec();
        let term = self.nodes[from].term;
        let anchor_first = self.rng.random_bool(0.5);
        let node = &mut self.nodes[to];
        node.term = node.term.max(term);
        let conflicts = node.log.len() >= covered && id_at(&node.log, covered - 1) != id;
        if conflicts {
            node.truncate(node.committed.max(1));
        }
        let rest = node.log.split_off(covered.min(node.log.len()));
        node.log = log;
        node.log.extend(rest);
        let history = Arc::clone(&node.known.history);
        let set_anchor = || {
            if let Some(anchor) = anchor.clone() {
                history.set_anchor(id, anchor);
            }
        };
        if anchor_first {
            set_anchor();
            history.purge(id);
        } else {
            history.purge(id);
            set_anchor();
        }
        node.known.record_applied(id);
        node.committed = covered;
        node.synced = node.log.len();
        node.snapshot = Some((id, anchor));
    }

    fn ask(&mut self) {
        let (from, to) = (self.any(), self.any());
        if from == to || !self.nodes[from].up || !self.nodes[to].up {
            return;
        }
        let (asked, asking) = (&self.nodes[from].known, &self.nodes[to].known);
        self.answers.push(Answer {
            from: self.nodes[from].id,
            to: self.nodes[to].id,
            acknowledged: asking.acknowledged_by(self.nodes[from].id),
            headers: answer_headers(asked, asking),
            life: self.lives[to],
        });
    }

    fn check(&mut self) {
        for node in self.nodes.iter().filter(|node| node.up) {
            assert_eq!(contradiction(&node.known), None);
            let state = node.known.state.lock();
            assert!(
                !state.lost,
                "node {} has lost nothing: {:?}",
                node.id, state
            );
            assert_eq!(state.reported, BTreeSet::new(), "node {}", node.id);
        }
        let up: Vec<&ModelNode> = self.nodes.iter().filter(|node| node.up).collect();
        if up.len() < self.majority() {
            return;
        }
        let best = up.iter().max_by_key(|node| last(&node.log)).unwrap();
        assert_eq!(best.known.refuses_campaign(), None);
        let term = 1 + up.iter().map(|node| node.term).max().unwrap();
        for voter in &up {
            let refused = voter.known.refuses_vote(term, Some(last(&best.log)));
            assert!(!refused, "node {} refuses node {}", voter.id, best.id);
        }
    }
}

#[test]
fn a_cluster_that_loses_nothing_stops_no_node_reports_no_loss_and_stays_electable() {
    let (mut elected, mut committed) = (0, 0);
    for seed in 0..300 {
        let mut model = Model::new(seed);
        for _ in 0..1_500 {
            model.step();
        }
        elected += model.nodes.iter().map(|node| node.term).max().unwrap();
        committed += model.nodes.iter().map(|node| node.committed).max().unwrap();
    }
    // The model does what it is meant to do.
    assert!(
        elected > 1_000 && committed > 5_000,
        "{elected} {committed}"
    );
}
