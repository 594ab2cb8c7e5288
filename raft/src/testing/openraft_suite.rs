//! Conformance suite of openraft over this crate's adapters, on both log engines. The suite tests neither fsync nor
//! crashes: those tests are in the storage crate.

use std::io::{Read, Write};
use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tokio::sync::Notify;
use triarch_storage::testing::MemoryLog;
use triarch_storage::{DataDir, FreeSpace, LogStore, SledLogOptions};

use crate::apply::applier::{Applier, Context};
use crate::apply::snapshot_policy::SnapshotTrigger;
use crate::config::SnapshotPolicy;
use crate::fatal::FatalErrorSignal;
use crate::level::Level;
use crate::metrics::ConsensusMetrics;
use crate::protocol::acknowledged::{Acknowledged, Facts};
use crate::protocol::history::History;
use crate::protocol::levels::Levels;
use crate::removal::RemovalSignal;
use crate::state_machine::{EntryView, Frozen, StateMachine};
use crate::storage::log_store::RaftLog;
use crate::storage::snapshot_store::Snapshots;
use crate::types::Config;

/// State machine without state, because the suite's entries carry no commands.
struct Nothing;

impl StateMachine for Nothing {
    type Reply = ();
    type Frozen = Nothing;
    type Loaded = ();

    fn check_command(_: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    fn apply(&mut self, entry: EntryView<'_>) -> std::io::Result<Vec<()>> {
        Ok(vec![(); entry.commands.len()])
    }

    fn freeze(&mut self) -> Nothing {
        Nothing
    }

    fn set_level(&mut self, _level: Level) {}

    fn load(snapshot: &mut dyn Read) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        snapshot.read_to_end(&mut bytes)?;
        assert_eq!(bytes, b"nothing");
        Ok(())
    }

    fn restore(&mut self, (): (), _last_index: u64, _level: Level) {}
}

impl Frozen for Nothing {
    fn write(self, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(b"nothing")
    }
}

struct Engines {
    durable: bool,
}

impl StoreBuilder<Config, RaftLog, Applier<Nothing>, (tempfile::TempDir, DataDir)> for Engines {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, DataDir), RaftLog, Applier<Nothing>), StorageError<Config>>
    {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::open(root.path(), 1).expect("a fresh data directory");
        let log: Arc<dyn LogStore> = if self.durable {
            Arc::new(
                dir.open_log(SledLogOptions::default())
                    .expect("a fresh log"),
            )
        } else {
            Arc::new(MemoryLog::default())
        };
        let snapshots = Snapshots::new(
            dir.snapshots().expect("fresh snapshots"),
            FreeSpace::of(root.path()).expect("a disk"),
        );
        let fatal_error = FatalErrorSignal::new();
        let metrics = Arc::new(ConsensusMetrics::new(Arc::default()));
        let history = Arc::new(History::default());
        let acknowledged = Acknowledged::new(1, Arc::clone(&history), Facts::default());
        let log = RaftLog::new(
            log,
            fatal_error.clone(),
            1 << 20,
            1,
            Arc::clone(&metrics),
            Arc::clone(&history),
        );
        let applier = Applier::new(
            Nothing,
            snapshots,
            SnapshotTrigger::new(SnapshotPolicy::default(), 1),
            Context {
                fatal_error,
                removal: RemovalSignal::new(1),
                snapshot_due: Arc::new(Notify::new()),
                metrics,
                levels: Arc::new(Levels::new("test", Level::HIGHEST).expect("an announcement")),
                history,
                acknowledged: Arc::new(acknowledged),
            },
        );
        Ok(((root, dir), log, applier))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_over_the_log_in_memory() {
    Suite::test_all(Engines { durable: false }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_over_the_log_on_disk() {
    Suite::test_all(Engines { durable: true }).await.unwrap();
}
