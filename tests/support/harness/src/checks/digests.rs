//! Digests of the masters' tables, compared at equal log indexes.
//!
//! Two masters may have applied different entries when they are read one after the other: a follower may lag for a
//! moment, and a master writes entries by itself. Only digests at the same log index can be compared.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;

use crate::http::Api;
use crate::wait::Polling;

/// Digest of a table, and the log index at which it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDigest {
    /// Index of the last entry that was applied to the table.
    pub index: u64,
    /// Value of the digest: equal for equal tables.
    pub value: String,
}

/// Returns the digest of this master's own table after it has applied the entry `min_index`, or `None` if the master
/// gives none now. The index of the digest may be lower, because some entries do not change the table.
pub async fn digest_of(api: &Api, min_index: u64) -> Option<TableDigest> {
    let call = api.call(Method::GET, "/v1/cluster?digest=true&consistency=stale");
    let call = call.header("triarch-min-index", min_index);
    let reply = call.send().await.ok()?;
    let digest = (reply.status == 200).then(|| reply.json()["digest"].clone())?;
    let index = digest["index"].as_u64().expect("an index");
    let value = digest["value"].as_str().expect("a digest").to_owned();
    Some(TableDigest { index, value })
}

/// Waits until all these masters have applied what is committed now and have given a digest at one log index. Returns
/// that digest. Panics if two of them differ at any index, or at the deadline.
pub async fn equal_digests(deadline: Duration, apis: &[Api]) -> TableDigest {
    let what = format!(
        "the masters {:?} give digests at one log index",
        apis.iter().map(Api::base).collect::<Vec<_>>()
    );
    let mut polling = Polling::new(deadline, what);
    let mut compared = Compared::new(apis.len());
    let mut floor = None;
    loop {
        if floor.is_none() {
            floor = committed(apis).await;
        }
        if let Some(min_index) = floor {
            for (place, api) in apis.iter().enumerate() {
                if let Some(digest) = digest_of(api, min_index).await {
                    compared.add(place, digest);
                }
            }
            if let Some(common) = compared.common() {
                return common;
            }
        }
        polling.pause().await;
    }
}

/// Returns the commit index, by a linearizable read at the first of these masters that answers.
async fn committed(apis: &[Api]) -> Option<u64> {
    for api in apis {
        let reply = api.call(Method::GET, "/v1/cluster").send().await;
        if let Ok(reply) = reply
            && reply.status == 200
        {
            return reply.json()["commit_index"].as_u64();
        }
    }
    None
}

/// Digests seen so far, by index. They are kept over all rounds, so that two masters that pass the same index at
/// different times are compared too.
#[derive(Debug)]
struct Compared {
    masters: usize,
    seen: BTreeMap<u64, BTreeMap<usize, String>>,
}

impl Compared {
    fn new(masters: usize) -> Self {
        Self {
            masters,
            seen: BTreeMap::new(),
        }
    }

    /// Adds a digest. Panics if it differs from another one at the same index.
    fn add(&mut self, place: usize, digest: TableDigest) {
        let here = self.seen.entry(digest.index).or_default();
        let before = here.insert(place, digest.value.clone());
        let same = |other: &String| *other == digest.value;
        assert!(
            before.iter().all(same) && here.values().all(same),
            "tables differ at index {}: {here:?}, before {before:?}",
            digest.index
        );
    }

    /// Returns the digest at the last index for which every master has given one.
    fn common(&self) -> Option<TableDigest> {
        let mut complete = self.seen.iter().rev();
        let (index, digests) = complete.find(|(_, digests)| digests.len() == self.masters)?;
        Some(TableDigest {
            index: *index,
            value: digests[&0].clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(index: u64, value: &str) -> TableDigest {
        TableDigest {
            index,
            value: value.to_owned(),
        }
    }

    #[test]
    fn masters_that_pass_an_index_at_different_times_are_compared_there() {
        let mut compared = Compared::new(2);
        compared.add(0, digest(5, "five"));
        compared.add(1, digest(4, "four"));
        assert_eq!(compared.common(), None);
        compared.add(0, digest(7, "seven"));
        compared.add(1, digest(5, "five"));
        assert_eq!(compared.common(), Some(digest(5, "five")));
    }

    #[test]
    fn digests_at_different_indexes_are_never_compared() {
        let mut compared = Compared::new(2);
        compared.add(0, digest(5, "five"));
        compared.add(1, digest(6, "six"));
        assert_eq!(compared.common(), None);
    }

    #[test]
    #[should_panic(expected = "tables differ at index 5")]
    fn two_digests_that_differ_at_one_index_panic() {
        let mut compared = Compared::new(3);
        compared.add(0, digest(5, "five"));
        compared.add(2, digest(5, "other"));
    }

    #[test]
    #[should_panic(expected = "tables differ at index 5")]
    fn a_master_that_changes_its_digest_at_one_index_panics() {
        let mut compared = Compared::new(1);
        compared.add(0, digest(5, "five"));
        compared.add(0, digest(5, "other"));
    }
}
