//! The history of a drill: everything that was asked, answered and done to the cluster, and the checker's verdict on it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use triarch_check::{History, Recorder, check, tell};
use triarch_harness::{Api, Cluster, Mix, Verdict, Witness, history};

/// The file, or another one if this program writes one of that name already.
fn numbered(file: &Path) -> PathBuf {
    static OPENED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut path = file.to_owned();
    for nth in 2.. {
        if opened.insert(path.clone()) {
            break;
        }
        path = file.with_extension(format!("{nth}.jsonl"));
    }
    path
}

/// See the module.
pub struct Ledger {
    witness: Arc<Witness>,
    path: PathBuf,
    mix: Option<Mix>,
}

impl Ledger {
    /// Everything that this cluster is asked is written down from now on: to this file, or beside the cluster's logs. A
    /// drill that needs several clusters writes a file for each, numbered from the second on.
    pub fn open(cluster: &mut Cluster, file: Option<&Path>) -> Self {
        let beside = || cluster.root().join("history.jsonl");
        let path = file.map_or_else(beside, numbered);
        let recorder = Recorder::to_file(&path)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        let witness = Arc::new(Witness::new(recorder));
        cluster.observe(Arc::clone(&witness));
        Self {
            witness,
            path,
            mix: None,
        }
    }

    /// Where it is written.
    pub fn recorder(&self) -> &Recorder {
        self.witness.recorder()
    }

    /// Starts traffic of all kinds, for the history's sake.
    pub fn start(&mut self, masters: &[Api], seed: u64) {
        self.mix = Some(Mix::start(masters, seed));
    }

    /// Ends the traffic.
    pub async fn stop(&mut self) {
        if let Some(mix) = &mut self.mix {
            mix.stop().await;
        }
    }

    /// From now on everything is read at its end; waits for what the traffic was acknowledged.
    pub async fn settle(&mut self, masters: &[Api], deadline: Duration) {
        self.recorder().settled();
        if let Some(mix) = self.mix.take() {
            mix.settle(masters, deadline).await;
        }
    }

    /// Adds what the history shows to a verdict.
    pub fn judge(self, verdict: &mut Verdict, sink: &Path) {
        history::effects(self.recorder(), sink);
        let flushed = self.recorder().flush();
        flushed.unwrap_or_else(|error| panic!("{} is not whole: {error}", self.path.display()));
        let history = History::read(std::slice::from_ref(&self.path))
            .unwrap_or_else(|error| panic!("the history cannot be read back: {error}"));
        let judged = check(&history);
        let mut told = tell(&judged, &history);
        if !judged.is_kept() {
            told.push_str(&format!("\nsee {}", self.path.display()));
        }
        verdict.history = Some((judged, told));
    }
}
