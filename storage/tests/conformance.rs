//! Runs the conformance suite on both engines.

use std::sync::Arc;

use tempfile::TempDir;
use triarch_storage::testing::conformance::{Harness, check};
use triarch_storage::testing::{MemoryLog, Unsynced};
use triarch_storage::{LogStore, SledLog, SledLogOptions};

struct Memory {
    log: MemoryLog,
    /// Seed of the prefix of unsynced writes that a crash keeps, counted up.
    seed: Option<u64>,
}

impl Harness for Memory {
    fn log(&self) -> Arc<dyn LogStore> {
        Arc::new(self.log.clone())
    }

    fn reopen(&mut self) {
        self.log.close().expect("a healthy log closes");
        self.log = self.log.reopen();
    }

    fn crash(&mut self) {
        let unsynced = match &mut self.seed {
            None => Unsynced::Dropped,
            Some(seed) => {
                *seed += 1;
                Unsynced::Prefix { seed: *seed }
            }
        };
        self.log = self.log.crash(unsynced);
    }
}

struct Sled {
    root: TempDir,
    options: SledLogOptions,
    log: Option<Arc<SledLog>>,
}

impl Sled {
    fn new(recent_bytes_max: usize) -> Self {
        let mut sled = Sled {
            root: tempfile::tempdir().expect("a temporary directory"),
            options: SledLogOptions {
                node_id: 1,
                recent_bytes_max,
                reserve_bytes: 0,
                ..SledLogOptions::default()
            },
            log: None,
        };
        sled.open();
        sled
    }

    fn open(&mut self) {
        let log = SledLog::open(self.root.path(), &self.options).expect("an intact log opens");
        self.options.expect_existing = true;
        self.log = Some(Arc::new(log));
    }

    fn drop_log(&mut self) {
        let log = self.log.take().expect("the log is open");
        assert!(Arc::into_inner(log).is_some(), "nobody else holds the log");
    }
}

impl Harness for Sled {
    fn log(&self) -> Arc<dyn LogStore> {
        self.log.clone().expect("the log is open")
    }

    fn reopen(&mut self) {
        self.log().close().expect("a healthy log closes");
        self.drop_log();
        self.open();
    }

    fn crash(&mut self) {
        self.drop_log();
        self.open();
    }
}

#[test]
fn the_memory_log_conforms_when_crashes_drop_unsynced_writes() {
    check(|| {
        Box::new(Memory {
            log: MemoryLog::new(),
            seed: None,
        })
    });
}

#[test]
fn the_memory_log_conforms_when_crashes_keep_a_prefix_of_unsynced_writes() {
    check(|| {
        Box::new(Memory {
            log: MemoryLog::new(),
            seed: Some(0),
        })
    });
}

#[test]
fn the_sled_log_conforms_with_all_recent_entries_in_memory() {
    check(|| Box::new(Sled::new(64 << 20)));
}

#[test]
fn the_sled_log_conforms_with_almost_no_entries_in_memory() {
    check(|| Box::new(Sled::new(1)));
}
