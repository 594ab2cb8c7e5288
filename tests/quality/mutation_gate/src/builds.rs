//! The test programs that cargo has built, in the order in which they run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use triarch_mutation::Home;

/// Cost of a check. A cheap one runs to its end, a costly one only until it detects the mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// All tests together take seconds.
    Cheap,
    /// All tests together take longer.
    Costly,
}

/// A test program, or a drill.
#[derive(Debug, Clone)]
pub struct Check {
    /// Its name in reports.
    pub name: String,
    /// Its cost.
    pub cost: Cost,
    /// Path of the executable.
    pub program: PathBuf,
    /// Directory in which it runs.
    pub folder: PathBuf,
    /// Maximum duration. A mutation may make tests wait for ever, which counts as detected.
    pub patience: Duration,
    homes: &'static [Home],
}

impl Check {
    /// Returns whether it contains code of this crate.
    pub fn has_code_of(&self, home: Home) -> bool {
        self.homes.contains(&home)
    }
}

/// Package, target, contained crates, cost, and maximum seconds.
type Known = (&'static str, &'static str, &'static [Home], Cost, u64);

const TABLE: &[Home] = &[Home::Table];
const STORAGE: &[Home] = &[Home::Storage];
const RAFT: &[Home] = &[Home::Storage, Home::Raft];
const ALL: &[Home] = &[Home::Table, Home::Storage, Home::Raft, Home::Program];

/// All checks, in the order in which they run.
const KNOWN: &[Known] = &[
    ("triarch-table", "triarch_table", TABLE, Cost::Cheap, 120),
    ("triarch-table", "scripts", TABLE, Cost::Cheap, 60),
    ("triarch-table", "lifecycle", TABLE, Cost::Cheap, 60),
    ("triarch-table", "codec", TABLE, Cost::Cheap, 60),
    ("triarch-table", "lists_and_bounds", TABLE, Cost::Cheap, 60),
    ("triarch-table", "purity", TABLE, Cost::Cheap, 60),
    ("triarch-table", "random", TABLE, Cost::Cheap, 180),
    (
        "triarch-storage",
        "triarch_storage",
        STORAGE,
        Cost::Cheap,
        120,
    ),
    ("triarch-storage", "conformance", STORAGE, Cost::Cheap, 120),
    ("triarch-storage", "durability", STORAGE, Cost::Cheap, 120),
    (
        "triarch-storage",
        "snapshot_order",
        STORAGE,
        Cost::Cheap,
        60,
    ),
    ("triarch-storage", "full_disk", STORAGE, Cost::Cheap, 120),
    ("triarch-storage", "damage", STORAGE, Cost::Costly, 300),
    (
        "triarch-storage",
        "crash_points",
        STORAGE,
        Cost::Costly,
        600,
    ),
    ("triarch-node", "triarch_node", ALL, Cost::Cheap, 120),
    ("triarch-raft", "triarch_raft", RAFT, Cost::Costly, 180),
    ("triarch-raft", "cluster", RAFT, Cost::Costly, 300),
    ("triarch", "cluster", ALL, Cost::Costly, 1_200),
];

/// Returns the checks in cargo's list of built programs (`--message-format=json`), in the order in which they run.
///
/// A known check that was not built is an error.
pub fn checks(messages: &str) -> Result<Vec<Check>, String> {
    let built: Vec<Built> = messages.lines().filter_map(Built::read).collect();
    KNOWN
        .iter()
        .map(|&(package, target, homes, cost, patience_s)| {
            let found = built
                .iter()
                .find(|one| one.package == package && one.target == target);
            let found = found.ok_or_else(|| {
                format!("cargo has built no tests {target} of {package}; scripts/mutation.sh builds them")
            })?;
            Ok(Check {
                name: format!("{package} {target}").replace("triarch-", ""),
                cost,
                program: found.program.clone(),
                folder: found.folder.clone(),
                patience: Duration::from_secs(patience_s),
                homes,
            })
        })
        .collect()
}

struct Built {
    package: String,
    target: String,
    program: PathBuf,
    folder: PathBuf,
}

impl Built {
    /// Returns a test program, or `None` for any other message of cargo.
    fn read(line: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(line).ok()?;
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            return None;
        }
        // The tests of a program itself are about its command line, which has no mutations.
        if message["target"]["kind"][0] == "bin" {
            return None;
        }
        let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
        let name = std::fs::read_to_string(folder.join("Cargo.toml")).ok()?;
        let name = name.lines().find_map(|line| line.strip_prefix("name = "))?;
        Some(Built {
            package: name.trim_matches('"').to_owned(),
            target: message["target"]["name"].as_str()?.to_owned(),
            program: PathBuf::from(message["executable"].as_str()?),
            folder: folder.to_path_buf(),
        })
    }
}
