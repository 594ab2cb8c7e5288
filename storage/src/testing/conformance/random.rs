//! Random writes and crashes, compared with a model.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::harness::{Acks, Harness, position, record};
use crate::testing::seeded_random::SeededRandom;
use crate::{LogPosition, LogRecord, LogStore};

/// The expected content of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    purged: Option<LogPosition>,
    entries: BTreeMap<u64, LogRecord>,
    vote: Option<Bytes>,
}

impl Model {
    fn of(log: &dyn LogStore) -> Self {
        let held = log.read(0..u64::MAX, usize::MAX).expect("readable");
        let model = Model {
            purged: log.state().purged,
            entries: held
                .into_iter()
                .map(|record| (record.position.index, record))
                .collect(),
            vote: log.vote(),
        };
        assert_eq!(log.state().last, model.last());
        model
    }

    fn last(&self) -> Option<LogPosition> {
        let last = self.entries.last_key_value();
        last.map(|(_, record)| record.position).or(self.purged)
    }

    fn end(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }
}

/// Makes random writes, waits for some of them, crashes, and compares the remaining log with every state it may be in.
/// These are the state after the last acknowledged write, and those after any later step, entry by entry.
pub(crate) fn writes_and_crashes(harness: &mut dyn Harness, seed: u64) {
    let mut random = SeededRandom::new(seed);
    let mut model = Model::default();
    let mut term = 1;
    for _ in 0..6 {
        let mut acks = Acks::new();
        // The states that the log passes through, and which of them holds for each number of acknowledged writes.
        let mut states = vec![model.clone()];
        let mut state_when_acked = vec![0];
        let log = harness.log();
        for _ in 0..random.below(30) {
            write_randomly(&*log, &mut random, &mut term, &mut states, &mut acks);
            state_when_acked.push(states.len() - 1);
            if random.below(5) == 0 {
                acks.wait();
            }
            assert_eq!(Model::of(&*log), states[states.len() - 1]);
        }
        let acked = acks.poll();
        drop(log);
        harness.crash();
        let left = Model::of(&*harness.log());
        let allowed = &states[state_when_acked[acked]..];
        assert!(
            allowed.contains(&left),
            "after a crash with {acked} writes acknowledged the log holds {left:?}, which is none of {allowed:?}"
        );
        model = left;
    }
}

fn write_randomly(
    log: &dyn LogStore,
    random: &mut SeededRandom,
    term: &mut u64,
    states: &mut Vec<Model>,
    acks: &mut Acks,
) {
    let mut model = states[states.len() - 1].clone();
    match random.below(10) {
        0 => {
            let vote = Bytes::from(random.next_u64().to_le_bytes().to_vec());
            model.vote = Some(vote.clone());
            states.push(model);
            log.save_vote(vote, acks.completion()).expect("running");
        }
        1 if !model.entries.is_empty() => {
            let kept = random.below(model.entries.len() as u64 + 1) as usize;
            let after = match kept.checked_sub(1) {
                Some(kept) => model.entries.values().nth(kept).map(|kept| kept.position),
                None => model.purged,
            };
            while model.entries.len() > kept {
                model.entries.pop_last();
                states.push(model.clone());
            }
            *term += 1;
            log.truncate_after(after, acks.completion())
                .expect("running");
        }
        2 if !model.entries.is_empty() => {
            let nth = random.below(model.entries.len() as u64) as usize;
            let held = model
                .entries
                .values()
                .nth(nth)
                .map(|record| record.position);
            let upto = held.expect("chosen among them");
            model.entries = model.entries.split_off(&(upto.index + 1));
            model.purged = Some(upto);
            states.push(model);
            log.purge(upto, acks.completion()).expect("running");
        }
        3 if random.below(4) == 0 => {
            *term += 1;
            let upto = position(*term, model.end() + random.below(50));
            model.entries.clear();
            model.purged = Some(upto);
            states.push(model);
            log.purge(upto, acks.completion()).expect("running");
        }
        _ => {
            let count = random.below(8);
            let mut batch = Vec::new();
            for _ in 0..count {
                let bytes = [0, 10, 500, 5_000, 20_000][random.below(5) as usize];
                let appended = record(*term, model.end(), bytes);
                batch.push(appended.clone());
                model.entries.insert(appended.position.index, appended);
                states.push(model.clone());
            }
            if count == 0 {
                states.push(model);
            }
            log.append(batch, acks.completion()).expect("running");
        }
    }
}
