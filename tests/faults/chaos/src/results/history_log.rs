//! History of a drill: a file with all requests, answers and faults, and the history checker's verdict on it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use triarch_check::{History, Recorder, check, summarize};
use triarch_harness::{Api, CheckResult, Cluster, HistoryWriter, Workload, history};

/// Returns the path, or a numbered one if this program already writes a file of that name.
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

/// The history of one drill.
pub struct HistoryLog {
    history_writer: Arc<HistoryWriter>,
    path: PathBuf,
    workload: Option<Workload>,
}

impl HistoryLog {
    /// Starts to record all requests to this cluster, to this file or next to the cluster's logs. A drill with several
    /// clusters writes a file for each, numbered from the second on.
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

    /// Returns the recorder of the history.
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

    /// Records that all later reads show final states, and waits for the acknowledged tasks of the workload.
    pub async fn settle(&mut self, masters: &[Api], deadline: Duration) {
        self.recorder().settled();
        if let Some(workload) = self.workload.take() {
            workload.settle(masters, deadline).await;
        }
    }

    /// Adds the checker's findings to a verdict.
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
