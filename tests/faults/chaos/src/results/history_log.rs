//! The history of a drill: everything that was asked, answered and done to the cluster, in a file, and the checker's verdict on it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use triarch_check::{History, Recorder, check, summarize};
use triarch_harness::{Api, CheckResult, Cluster, HistoryWriter, Workload, history};

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
pub struct HistoryLog {
    history_writer: Arc<HistoryWriter>,
    path: PathBuf,
    workload: Option<Workload>,
}

impl HistoryLog {
    /// Everything that this cluster is asked is written down from now on: to this file, or beside the cluster's logs. A
    /// drill that needs several clusters writes a file for each, numbered from the second on.
    pub fn open(cluster: &mut Cluster, file: Option<&Path>) -> Self {
        let beside = || cluster.root().join("history.jsonl");
        let path = file.map_or_else(beside, numbered);
        let recorder = Recorder::to_file(&path)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        let history_writer = Arc::new(HistoryWriter::new(recorder));
        cluster.observe(Arc::clone(&history_writer));
        Self {
            history_writer,
            path,
            workload: None,
        }
    }

    /// Where it is written.
    pub fn recorder(&self) -> &Recorder {
        self.history_writer.recorder()
    }

    /// Starts the mixed workload that fills the history.
    pub fn start(&mut self, masters: &[Api], seed: u64) {
        self.workload = Some(Workload::start(masters, seed));
    }

    /// Ends the workload.
    pub async fn stop(&mut self) {
        if let Some(workload) = &mut self.workload {
            workload.stop().await;
        }
    }

    /// From now on everything is read at its end; waits for the acknowledged tasks of the workload.
    pub async fn settle(&mut self, masters: &[Api], deadline: Duration) {
        self.recorder().settled();
        if let Some(workload) = self.workload.take() {
            workload.settle(masters, deadline).await;
        }
    }

    /// Adds what the history shows to a verdict.
    pub fn judge(self, check_result: &mut CheckResult, sink: &Path) {
        history::effects(self.recorder(), sink);
        let flushed = self.recorder().flush();
        flushed.unwrap_or_else(|error| panic!("{} is not whole: {error}", self.path.display()));
        let history = History::read(std::slice::from_ref(&self.path))
            .unwrap_or_else(|error| panic!("the history cannot be read back: {error}"));
        let judged = check(&history);
        let mut text = summarize(&judged, &history);
        if !judged.is_kept() {
            text.push_str(&format!("\nsee {}", self.path.display()));
        }
        check_result.history = Some((judged, text));
    }
}
