//! Permitted dependencies between crates.

use std::path::Path;

use crate::checkout::{CRATES, root};

/// Folder of each crate, and the crates of this project that it may use. Each stands below those that it uses.
pub const MAY_USE: [(&str, &[&str]); 11] = [
    ("table", &[]),
    ("storage", &[]),
    ("raft", &["triarch-storage"]),
    ("sdk/rust", &[]),
    ("tests/support/history_checker", &[]),
    ("src/process", &["triarch-raft"]),
    ("src/areas", &["triarch-table", "triarch-raft"]),
    (
        "src/node",
        &[
            "triarch-table",
            "triarch-raft",
            "triarch-sdk",
            "triarch-process",
            "triarch-areas",
        ],
    ),
    ("src/worker", &["triarch-sdk", "triarch-process"]),
    (
        "src/cli",
        &[
            "triarch-table",
            "triarch-raft",
            "triarch-sdk",
            "triarch-process",
            "triarch-areas",
            "triarch-worker",
        ],
    ),
    (
        ".",
        &[
            "triarch-raft",
            "triarch-process",
            "triarch-node",
            "triarch-worker",
            "triarch-cli",
        ],
    ),
];

/// The crate of deliberate bugs for the mutation gate. Every crate of the product may use it, if it is built only with
/// the feature `mutations`.
const MUTATIONS: &str = "triarch-mutation";

/// Libraries that only one crate may use, so that another library can replace them.
const ONLY_IN: [(&str, &str); 2] = [("sled", "storage"), ("openraft", "raft")];

/// Returns the names in a manifest's `[dependencies]`, or also those in its table for tests.
fn dependencies(manifest: &Path, with_tests: bool) -> Vec<String> {
    let text = std::fs::read_to_string(manifest).expect("a manifest");
    let mut names = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]" || (with_tests && line == "[dev-dependencies]");
        } else if inside && let Some((name, _)) = line.split_once(['.', ' ', '=']) {
            names.push(name.to_string());
        }
    }
    names
}

#[test]
fn crates_depend_only_on_the_crates_they_may() {
    for (folder, allowed) in MAY_USE {
        let named = dependencies(&root().join(folder).join("Cargo.toml"), false);
        assert!(!named.is_empty(), "{folder}: no dependencies were read");
        let ours = |name: &&String| name.starts_with("triarch-") && *name != MUTATIONS;
        for name in named.iter().filter(ours) {
            assert!(
                allowed.contains(&name.as_str()),
                "{folder}/Cargo.toml uses {name}; it may use {allowed:?} of this project"
            );
        }
    }
}

#[test]
fn every_crate_of_the_product_has_a_rule_and_has_its_imports_read() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let (_, members) = manifest.split_once("members = [").expect("members");
    let (members, _) = members.split_once(']').expect("the end of the list");
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(
        members.len() > 10,
        "hardly any member was read: {members:?}"
    );
    for member in members
        .iter()
        .filter(|member| !member.starts_with("tests/"))
    {
        let has_rule = MAY_USE.iter().any(|(folder, _)| folder == member);
        assert!(has_rule, "{member} has no rule for what it may use");
        let sources = [member.to_string(), format!("{member}/src")];
        let is_read = CRATES
            .iter()
            .any(|(folder, _)| sources.contains(&folder.to_string()));
        assert!(
            is_read,
            "{member} is not in the list of crates whose imports are read"
        );
    }
}

#[test]
fn deliberate_bugs_are_not_in_the_product() {
    let optional = format!("{MUTATIONS} = {{ workspace = true, optional = true }}");
    for (folder, _) in MAY_USE {
        let path = root().join(folder).join("Cargo.toml");
        let text = std::fs::read_to_string(&path).expect("a manifest");
        let is_package = |line: &&str| line.starts_with(MUTATIONS) && !line.contains("path =");
        for line in text.lines().filter(is_package) {
            assert_eq!(line, optional, "{}", path.display());
        }
        assert!(
            !text.lines().any(|line| line.starts_with("default =")),
            "{}: features that are on by themselves could bring deliberate bugs with them",
            path.display()
        );
    }
}

#[test]
fn each_engine_is_a_dependency_of_one_crate() {
    for (library, home) in ONLY_IN {
        for (folder, _) in MAY_USE.iter().filter(|(folder, _)| *folder != home) {
            let named = dependencies(&root().join(folder).join("Cargo.toml"), true);
            assert!(
                !named.iter().any(|name| name == library),
                "{folder}/Cargo.toml uses {library}, which belongs to {home}/"
            );
        }
    }
}
